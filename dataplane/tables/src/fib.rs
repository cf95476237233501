//! The FIB: longest-prefix match for IPv4 and IPv6 in the segment's words.
//!
//! Decides: address → leaf (a number below 2^31; 0 is "no route"). Needs a root from [`Fib::commit`]. Leaves to `route`
//! what a leaf means.
//!
//! A compressed multibit trie, after poptrie (Asai & Ohara, SIGCOMM 2015). The first 18 bits are direct: two levels of
//! 512 entries. Then 6 bits a level: a node's 64 slots hold *runs* of equal entries, so it stores one entry a
//! run and a bitmap of where runs begin; the entry of a slot is found by a population count. Prefixes are pushed down
//! to the leaves, so a lookup never goes back up. A stretch of levels with one way through is one *path*
//! block that compares its bits at once: what keeps sparse IPv6 short.
//!
//! ```text
//! entry (32 bits)   0: nothing   leaf: 1 … 2^31 - 1   block: 1 << 31 | path << 30 | Ref (29 bits)
//! wide node         word 0: default leaf | routes below << 32 (of the root) 512 entries            routes
//! narrow node       word 0: bit i: slot i differs from slot i-1        an entry for each run       routes
//! path              word 0: entry behind it | leaf otherwise << 32   1: bits compared   2, 3: what they have to be
//! routes            bitmap: bit (1 << len | bits): that prefix of the node's bits is a route   leaves no entry shows
//! ```
//! The routes are kept as they were set, for `show`: a route's leaf is the entry of a slot where none is longer; only when
//! there is no such slot is the leaf written out. Lookups never touch them.
//!
//! Cost of an IPv4 lookup: the root (L1), an entry of 512 × 2 KiB, and for prefixes up to /24 one node of
//! mostly one cache line. [`lookup_many`] overlaps the misses of 32 addresses. IPv6: the same, then about one
//! line for each 6 bits that are populated. Memory and update costs are in `fib/rib.rs`; measured numbers come from
//! `cargo bench -p millrace-tables --bench fib`.
//!
//! Any bytes give an answer: each index is checked or masked, no loop is longer than the address.

mod cold;
mod rib;

pub use cold::{Routes, best, routes};
pub use rib::Fib;

use crate::words::{Ref, Words};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{Ipv4Addr, Ipv6Addr};

/// Largest leaf.
pub const MAX_LEAF: u32 = NODE - 1;

/// An entry with this bit leads to a block.
const NODE: u32 = 1 << 31;
/// … and with this one too, to a path.
const PATH: u32 = 1 << 30;
/// Bits of an entry that are a [`Ref`] (the segment's own limit: `trie::MAX_BYTES`).
const REF: u32 = (1 << 29) - 1;

/// Levels of 512 direct entries.
const WIDE_LEVELS: usize = 2;
/// Address bits of a direct level.
const WIDE_BITS: u32 = 9;
/// Address bits of the other levels.
const NARROW_BITS: u32 = 6;
/// Index, counted in u32, of the first entry of a wide node.
const WIDE_ENTRIES: usize = 2;
/// Index, counted in u32, of the first entry of a narrow node.
const NARROW_ENTRIES: usize = 2;
/// Words of a path.
const PATH_WORDS: usize = 4;

/// Address bits of `level`.
const fn bits_of(level: usize) -> u32 {
    if level < WIDE_LEVELS { WIDE_BITS } else { NARROW_BITS }
}

/// Words of a narrow node of `runs` runs, with `hidden` leaves of routes written out.
const fn narrow_words(runs: usize, hidden: usize) -> usize {
    (NARROW_ENTRIES + runs).div_ceil(2) + bitmap_words(WIDE_LEVELS) + hidden.div_ceil(2)
}

/// Words of a wide node, with `hidden` leaves of routes written out.
const fn wide_words(level: usize, hidden: usize) -> usize {
    (WIDE_ENTRIES + (1 << WIDE_BITS)) / 2 + bitmap_words(level) + hidden.div_ceil(2)
}

/// Words of the bitmap of the routes of a node at `level`.
const fn bitmap_words(level: usize) -> usize {
    (2 << bits_of(level)) / 64
}

/// The slots up to and including `slot`.
#[inline]
const fn up_to(slot: usize) -> u64 {
    u64::MAX >> (63 - (slot & 63))
}

/// Where an entry leads.
#[inline]
const fn target(entry: u32) -> Ref {
    Ref::from_raw(entry & REF)
}

/// An address being looked up: `u32` for IPv4, `u128` for IPv6, first bit of the address on top.
pub trait Key: Copy {
    /// Levels of 6 bits that the address has after the direct ones.
    const NARROW_LEVELS: usize;
    /// The top `n` bits.
    fn top(self, n: u32) -> usize;
    /// What is left after the top `n` bits.
    fn after(self, n: u32) -> Self;
    /// Whether the top `n` bits are those of `bits`, left-aligned.
    fn starts_with(self, bits: u128, n: u32) -> bool;
}

impl Key for u32 {
    const NARROW_LEVELS: usize = 3;
    #[inline]
    fn top(self, n: u32) -> usize {
        (self >> (32 - n)) as usize
    }
    #[inline]
    fn after(self, n: u32) -> Self {
        self.checked_shl(n).unwrap_or(0)
    }
    #[inline]
    fn starts_with(self, bits: u128, n: u32) -> bool {
        (self ^ (bits >> 96) as u32).checked_shr(32u32.saturating_sub(n)).unwrap_or(0) == 0
    }
}

impl Key for u128 {
    const NARROW_LEVELS: usize = 19;
    #[inline]
    fn top(self, n: u32) -> usize {
        (self >> (128 - n)) as usize
    }
    #[inline]
    fn after(self, n: u32) -> Self {
        self.checked_shl(n).unwrap_or(0)
    }
    #[inline]
    fn starts_with(self, bits: u128, n: u32) -> bool {
        (self ^ bits).checked_shr(128u32.saturating_sub(n)).unwrap_or(0) == 0
    }
}

/// The leaf of the longest prefix that covers `key`, 0 when none does. `root` is what [`Fib::commit`] returned.
#[inline]
pub fn lookup<K: Key>(words: Words<'_>, root: u32, mut key: K) -> u32 {
    let mut entry = root;
    for _ in 0..WIDE_LEVELS {
        if entry & NODE == 0 {
            return finish(words, root, entry);
        }
        entry = words.u32_at(target(entry), WIDE_ENTRIES + key.top(WIDE_BITS));
        key = key.after(WIDE_BITS);
    }
    for _ in 0..K::NARROW_LEVELS {
        if entry & NODE == 0 {
            break;
        }
        (entry, key) = step(words, entry, key);
    }
    finish(words, root, entry)
}

/// One block below the direct levels: the entry that `key` finds there, and what is left of it.
#[inline]
fn step<K: Key>(words: Words<'_>, entry: u32, key: K) -> (u32, K) {
    let at = target(entry);
    let first = words.at(at, 0);
    if entry & PATH == 0 {
        let run = (first & up_to(key.top(NARROW_BITS))).count_ones() as usize;
        return (words.u32_at(at, NARROW_ENTRIES + run), key.after(NARROW_BITS));
    }
    let (length, bits) = path_bits(words, at);
    if key.starts_with(bits, length) {
        (first as u32, key.after(length))
    } else {
        ((first >> 32) as u32 & MAX_LEAF, key)
    }
}

/// How many bits the path at `at` compares, and with what.
#[inline]
fn path_bits(words: Words<'_>, at: Ref) -> (u32, u128) {
    let bits = u128::from(words.at(at, 2)) << 64 | u128::from(words.at(at, 3));
    (words.at(at, 1) as u32 & 0x7f, bits)
}

/// The answer once the way ends at `entry`.
#[inline]
fn finish(words: Words<'_>, root: u32, entry: u32) -> u32 {
    match entry {
        0 if root & NODE != 0 => words.at(target(root), 0) as u32 & MAX_LEAF,
        // A way longer than the address: the words are corrupt.
        _ if entry & NODE != 0 => 0,
        _ => entry,
    }
}

/// Addresses that [`lookup_many`] has under way at once: enough to hide a miss to memory, few enough
/// for the first-level cache.
const BATCH: usize = 32;

/// [`lookup`] for many: `leaves[i]` becomes the leaf of `keys[i]`. Each level's cache misses overlap.
///
/// Works on as many as the shorter slice has.
pub fn lookup_many<K: Key>(words: Words<'_>, root: u32, keys: &[K], leaves: &mut [u32]) {
    for (keys, leaves) in keys.chunks(BATCH).zip(leaves.chunks_mut(BATCH)) {
        let count = keys.len().min(leaves.len());
        lookup_batch(words, root, &keys[..count], &mut leaves[..count]);
    }
}

fn lookup_batch<K: Key>(words: Words<'_>, root: u32, keys: &[K], entries: &mut [u32]) {
    entries.fill(root);
    if root & NODE == 0 {
        return;
    }
    for (entry, key) in entries.iter_mut().zip(keys) {
        *entry = words.u32_at(target(root), WIDE_ENTRIES + key.top(WIDE_BITS));
        if *entry & NODE != 0 {
            let slot = key.after(WIDE_BITS).top(WIDE_BITS);
            words.prefetch(target(*entry), (WIDE_ENTRIES + slot) / 2);
        }
    }
    for (entry, key) in entries.iter_mut().zip(keys) {
        if *entry & NODE != 0 {
            let slot = key.after(WIDE_BITS).top(WIDE_BITS);
            *entry = words.u32_at(target(*entry), WIDE_ENTRIES + slot);
            words.prefetch(target(*entry), 0);
        }
    }
    // Those still on their way after the first narrow level: which, and what is left of the address.
    let Some(any) = keys.first() else { return };
    let mut open = [(0, *any); BATCH];
    let mut opened = 0;
    for (index, (entry, key)) in entries.iter_mut().zip(keys).enumerate() {
        if *entry & NODE != 0 {
            let rest = key.after(2 * WIDE_BITS);
            (*entry, open[opened].1) = step(words, *entry, rest);
            open[opened].0 = index;
            opened += usize::from(*entry & NODE != 0);
        }
    }
    for _ in 1..K::NARROW_LEVELS {
        if opened == 0 {
            break;
        }
        for &(index, _) in &open[..opened] {
            words.prefetch(target(entries[index]), 0);
        }
        let mut still = 0;
        for turn in 0..opened {
            let (index, rest) = open[turn];
            let (entry, rest) = step(words, entries[index], rest);
            entries[index] = entry;
            open[still] = (index, rest);
            still += usize::from(entry & NODE != 0);
        }
        opened = still;
    }
    for entry in entries {
        *entry = finish(words, root, *entry);
    }
}

/// [`lookup`] of an IPv4 address as a number.
#[inline]
pub fn lookup4(words: Words<'_>, root: u32, addr: u32) -> u32 {
    lookup(words, root, addr)
}

/// [`lookup`] of an IPv6 address as two numbers, the first half first.
#[inline]
pub fn lookup6(words: Words<'_>, root: u32, addr: [u64; 2]) -> u32 {
    lookup(words, root, u128::from(addr[0]) << 64 | u128::from(addr[1]))
}

/// Which of the two tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of a prefix.
    pub fn of(prefix: &IpNet) -> Self {
        match prefix {
            IpNet::V4(_) => Self::V4,
            IpNet::V6(_) => Self::V6,
        }
    }

    /// Address bits.
    pub const fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }
}

/// A prefix of either family: its bits left-aligned in 128, the rest zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Prefix {
    bits: u128,
    len: u8,
}

impl Prefix {
    /// The prefix, host bits cleared.
    fn of(net: &IpNet) -> Self {
        let bits = match net {
            IpNet::V4(net) => u128::from(net.network().to_bits()) << 96,
            IpNet::V6(net) => net.network().to_bits(),
        };
        Self { bits, len: net.prefix_len() }
    }

    /// Back; host bits and lengths that the family doesn't have are cut off.
    fn to_net(self, family: Family) -> IpNet {
        let len = self.len.min(family.bits());
        match family {
            Family::V4 => {
                IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::from_bits((self.bits >> 96) as u32), len))
            }
            Family::V6 => IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::from_bits(self.bits), len)),
        }
        .trunc()
    }
}

#[cfg(test)]
mod tests;
