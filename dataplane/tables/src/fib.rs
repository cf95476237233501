//! The FIB: longest-prefix match for IPv4 and IPv6 in the segment's words.
//!
//! Decides: address → leaf (a number below 2^31; 0 is "no route"). Needs a root from [`Fib::root`]. Leaves to `route`
//! what a leaf means.
//!
//! A compressed multibit trie, after poptrie (Asai & Ohara, SIGCOMM 2015). The first bits are direct: 10 + 8 for IPv4, 10 + 10 + 10 for
//! IPv6. Then 6 bits a level: a node's 64 slots hold *runs* of equal entries, so it stores one entry a run, the last run's first, and a bitmap of where
//! runs end; the entry of a slot is found by a population count. An IPv4 node that leads no further has entries of 16 bits, so that nearly
//! always a node is one cache line. Prefixes are pushed down to the leaves, so a lookup never goes back up. A stretch of levels with one
//! way through is one *path* block that compares its bits at once: what keeps lonely host routes short.
//!
//! ```text
//! entry (32 bits)   0: nothing   leaf: 1 … 2^31 - 1   block: 1 << 31 | path << 30 | half << 29 | Ref (29 bits)
//! wide node         word 0: default leaf | routes below << 32 (both of the root alone)   1: hidden leaves   2…: entries   routes
//! full node         word 0: bit i: slot i differs from slot i+1   1…: an entry for each run, last first    routes
//! half node         the same, all entries leaves, of 16 bits
//! path              word 0: entry behind it | leaf otherwise << 32   1: bits compared   2, 3: what they have to be
//! routes            which of the node's prefixes are routes, and the leaves that no entry shows: see `fib/node.rs`
//! ```
//!
//! # Costs
//!
//! With 1 M IPv4 or 200 k IPv6 prefixes (`synthetic`): lines and memory are asserted in `fib/tests/full.rs`, instructions were counted as
//! `benches/fib` says.
//!
//! | | cache lines of a lookup | instructions, bulk | memory |
//! |---|---|---|---|
//! | IPv4 | 3.0: the root's (near), one of 1 MiB of direct entries, one of nodes | 66 | 6.4 B a route |
//! | IPv6 | 5.3: two direct (near), one of 0.5 MiB of direct entries, then 2.3 of nodes | 141 | 20.3 B a route |
//!
//! [`lookup_many`] overlaps the misses. What a change costs is in `fib/update.rs`.
//!
//! Any bytes give an answer: each index is checked or masked, no loop is longer than the address.

mod bulk;
mod cold;
mod node;
mod update;

pub use bulk::lookup_many;
pub use cold::{Routes, best, routes};
pub use update::Fib;

use crate::words::{Ref, Words};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{Ipv4Addr, Ipv6Addr};

/// Largest leaf.
pub const MAX_LEAF: u32 = NODE - 1;

/// An entry with this bit leads to a block.
const NODE: u32 = 1 << 31;
/// … and with this one too, to a path.
const PATH: u32 = 1 << 30;
/// … and with this one too, to a node of 16-bit entries.
const HALF: u32 = 1 << 29;
/// Bits of an entry that are a [`Ref`] (the segment's own limit: `trie::MAX_BYTES`).
const REF: u32 = (1 << 29) - 1;

/// Address bits of a level below the direct ones.
const NARROW_BITS: u32 = 6;
/// Index, counted in u32, of the first entry of a wide node.
const WIDE_ENTRIES: usize = 4;
/// Index, counted in u32, of the first entry of a full node.
const FULL_ENTRIES: usize = 2;
/// Index, counted in u16, of the first entry of a half node.
const HALF_ENTRIES: usize = 4;
/// Words of a path.
const PATH_WORDS: usize = 4;

/// Where an entry leads.
#[inline]
const fn target(entry: u32) -> Ref {
    Ref::from_raw(entry & REF)
}

/// An address being looked up: `u32` for IPv4, `u128` for IPv6, first bit of the address on top.
pub trait Key: Copy {
    /// Its family.
    const FAMILY: Family;
    /// Levels of 6 bits that the address has after the direct ones.
    const NARROW_LEVELS: usize;
    /// The first 64 bits; zeros after a shorter address.
    fn first(self) -> u64;
    /// All bits, left-aligned.
    fn bits(self) -> u128;
    /// The slot in the node of direct level `level`.
    fn slot(self, level: usize) -> usize;
    /// The top `n` bits.
    fn top(self, n: u32) -> usize;
    /// What is left after the top `n` bits.
    fn after(self, n: u32) -> Self;
    /// Whether the top `n` bits are those of `bits`, left-aligned.
    fn starts_with(self, bits: u128, n: u32) -> bool;
}

impl Key for u32 {
    const FAMILY: Family = Family::V4;
    const NARROW_LEVELS: usize = 3;
    #[inline]
    fn first(self) -> u64 {
        u64::from(self) << 32
    }
    fn bits(self) -> u128 {
        u128::from(self) << 96
    }
    #[inline]
    fn slot(self, level: usize) -> usize {
        match level {
            0 => (self >> 22) as usize,
            _ => (self >> 14) as usize & 0xff,
        }
    }
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
    const FAMILY: Family = Family::V6;
    const NARROW_LEVELS: usize = 17;
    #[inline]
    fn first(self) -> u64 {
        (self >> 64) as u64
    }
    fn bits(self) -> u128 {
        self
    }
    #[inline]
    fn slot(self, level: usize) -> usize {
        match level {
            0 => (self >> 118) as usize,
            1 => (self >> 108) as usize & 0x3ff,
            _ => (self >> 98) as usize & 0x3ff,
        }
    }
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

/// The leaf of the longest prefix that covers `key`, 0 when none does. `root` is what [`Fib::root`] said.
#[inline]
pub fn lookup<K: Key>(words: Words<'_>, root: u32, key: K) -> u32 {
    arrive(words, root, key, Near(direct(words, root, key, K::FAMILY.wide_levels())))
}

/// The way through the first `levels` direct levels: a leaf, or what leads on.
#[inline(always)]
fn direct<K: Key>(words: Words<'_>, root: u32, key: K, levels: usize) -> u32 {
    let mut entry = root;
    for level in 0..levels {
        if entry & NODE == 0 {
            break;
        }
        entry = wide(words, entry, key.slot(level));
    }
    entry
}

/// The entry of a wide node.
#[inline]
fn wide(words: Words<'_>, entry: u32, slot: usize) -> u32 {
    half_of(words.at(target(entry), wide_word(slot)), slot)
}

/// Which word of a wide node has the entry of `slot`.
#[inline]
const fn wide_word(slot: usize) -> usize {
    WIDE_ENTRIES / 2 + slot / 2
}

/// Entry `index` of those that lie two in a word, given its word.
#[inline]
const fn half_of(word: u64, index: usize) -> u32 {
    (word >> (index % 2 * 32)) as u32
}

/// The way on below the direct levels, to a leaf in at most `levels`.
#[inline]
fn descend<K: Key>(words: Words<'_>, mut entry: u32, mut key: K, levels: usize) -> u32 {
    for _ in 0..levels {
        if entry & NODE == 0 {
            break;
        }
        if entry & HALF != 0 {
            return half(words, entry, key.top(NARROW_BITS));
        }
        if entry & PATH == 0 {
            entry = full(words, entry, key.top(NARROW_BITS));
            key = key.after(NARROW_BITS);
        } else {
            (entry, key) = path(words, entry, key);
        }
    }
    entry
}

/// Which run of a narrow node `slot` is in.
#[inline]
const fn run_of(bitmap: u64, slot: usize) -> usize {
    (bitmap >> (slot & 63)).count_ones() as usize
}

/// The entry of a full node.
#[inline]
fn full(words: Words<'_>, entry: u32, slot: usize) -> u32 {
    let at = target(entry);
    let run = run_of(words.at(at, 0), slot);
    half_of(words.at(at, FULL_ENTRIES / 2 + run / 2), run)
}

/// The entry of a half node: a leaf.
#[inline]
fn half(words: Words<'_>, entry: u32, slot: usize) -> u32 {
    let at = target(entry);
    let run = run_of(words.at(at, 0), slot);
    let word = words.at(at, HALF_ENTRIES / 4 + run / 4);
    (word >> (run % 4 * 16)) as u32 & 0xffff
}

/// The entry behind a path, or the leaf beside it, and what is left of the address.
#[inline]
fn path<K: Key>(words: Words<'_>, entry: u32, key: K) -> (u32, K) {
    let at = target(entry);
    let first = words.at(at, 0);
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
        0 => default(words, root),
        // A way longer than the address: the words are corrupt.
        _ if entry & NODE != 0 => 0,
        _ => entry,
    }
}

/// The leaf of the default route.
#[inline]
fn default(words: Words<'_>, root: u32) -> u32 {
    if root & NODE != 0 { words.at(target(root), 0) as u32 & MAX_LEAF } else { 0 }
}

/// How many routes there are: for who wants to know how big the trie is.
#[inline]
pub fn count(words: Words<'_>, root: u32) -> u32 {
    if root & NODE != 0 { (words.at(target(root), 0) >> 32) as u32 } else { 0 }
}

/// A lookup whose last direct line is on its way: see [`begin`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Begun(u32);

/// A lookup whose first line below the direct levels is on its way: see [`near`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Near(u32);

/// Begins a lookup that goes by steps, each worth taking some other lookups after the one before: starts loading the line of the
/// last direct level. Reads the levels above it, which are near.
///
/// For IPv4 the steps fetch all lines of 99.8 % of the lookups, for IPv6, whose ways are longer, of 41 % (both at full size).
#[inline]
pub fn begin<K: Key>(words: Words<'_>, root: u32, key: K) -> Begun {
    let levels = K::FAMILY.wide_levels();
    let entry = direct(words, root, key, levels - 1);
    // A leaf leads to some line or other: cheaper than asking.
    words.prefetch(target(entry), wide_word(key.slot(levels - 1)));
    Begun(entry)
}

/// Starts loading the first line below the direct levels; nearly always IPv4's last.
#[inline]
pub fn near<K: Key>(words: Words<'_>, key: K, Begun(entry): Begun) -> Near {
    let slot = key.slot(K::FAMILY.wide_levels() - 1);
    let entry = if entry & NODE == 0 { entry } else { wide(words, entry, slot) };
    words.prefetch(target(entry), 0);
    Near(entry)
}

/// Starts loading the second line below the direct levels, which IPv6 mostly has.
#[inline]
pub fn nearer<K: Key>(words: Words<'_>, key: K, Near(entry): Near) {
    if entry & (NODE | PATH | HALF) == NODE {
        let slot = key.after(K::FAMILY.wide_bits()).top(NARROW_BITS);
        words.prefetch(target(full(words, entry, slot)), 0);
    }
}

/// Ends what [`begin`] began for the same root and key, as [`lookup`] would.
#[inline]
pub fn arrive<K: Key>(words: Words<'_>, root: u32, key: K, Near(entry): Near) -> u32 {
    if entry & (NODE | PATH | HALF) == NODE | HALF && K::FAMILY.has_halves() {
        let leaf = half(words, entry, key.after(K::FAMILY.wide_bits()).top(NARROW_BITS));
        return finish(words, root, leaf);
    }
    if entry & NODE == 0 {
        return finish(words, root, entry);
    }
    let rest = key.after(K::FAMILY.wide_bits());
    finish(words, root, descend(words, entry, rest, K::NARROW_LEVELS))
}

/// A lookup that goes node by node below the direct levels: for tries of host routes, whose ways are longer than [`nearer`] follows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Deep {
    entry: u32,
    /// Address bits that led to it.
    done: u16,
    /// Levels that may follow.
    left: u16,
}

/// Begins such a lookup: reads the direct levels and the first node below, which are near, and starts loading the next.
#[inline]
pub fn deep<K: Key>(words: Words<'_>, root: u32, key: K) -> Deep {
    let entry = direct(words, root, key, K::FAMILY.wide_levels());
    let (done, left) = (K::FAMILY.wide_bits() as u16, K::NARROW_LEVELS as u16);
    let mut deep = Deep { entry, done, left };
    deeper(words, key, &mut deep);
    deep
}

/// Reads one node, and starts loading the next.
#[inline]
pub fn deeper<K: Key>(words: Words<'_>, key: K, deep: &mut Deep) {
    let Deep { entry, done, left } = *deep;
    if entry & NODE == 0 || entry & HALF != 0 || left == 0 {
        return;
    }
    let rest = key.after(done.into());
    let (entry, bits) = if entry & PATH == 0 {
        (full(words, entry, rest.top(NARROW_BITS)), NARROW_BITS)
    } else {
        (path(words, entry, rest).0, path_bits(words, target(entry)).0)
    };
    *deep = Deep { entry, done: done + bits as u16, left: left - 1 };
    if deep.entry & NODE != 0 {
        words.prefetch(target(deep.entry), 0);
    }
}

/// Its end, as [`lookup`] would say.
#[inline]
pub fn bottom<K: Key>(words: Words<'_>, root: u32, key: K, deep: Deep) -> u32 {
    let Deep { entry, done, left } = deep;
    finish(words, root, descend(words, entry, key.after(done.into()), left.into()))
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

    /// Direct levels.
    const fn wide_levels(self) -> usize {
        match self {
            Self::V4 => 2,
            Self::V6 => 3,
        }
    }

    /// Address bits of the direct levels together.
    const fn wide_bits(self) -> u32 {
        match self {
            Self::V4 => 18,
            Self::V6 => 30,
        }
    }

    /// Whether the node after `depth` bits is direct.
    const fn is_wide(self, depth: u32) -> bool {
        depth < self.wide_bits()
    }

    /// Address bits of the node after `depth` bits.
    const fn width(self, depth: u32) -> u32 {
        match self {
            Self::V4 if depth == 0 => 10,
            Self::V4 if depth < 18 => 8,
            Self::V6 if depth < 30 => 10,
            _ => NARROW_BITS,
        }
    }

    /// Whether nodes that lead no further have 16-bit entries. IPv6 nodes are too small to gain by it.
    const fn has_halves(self) -> bool {
        matches!(self, Self::V4)
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

/// The `width` bits after the first `depth` of `bits`, as a number.
const fn slot_of(bits: u128, depth: u32, width: u32) -> usize {
    ((bits << depth) >> (128 - width)) as usize
}

/// The top `n` bits of `bits`.
const fn top_bits(bits: u128, n: u32) -> u128 {
    if n == 0 { 0 } else { bits & u128::MAX << (128 - n) }
}

const _: () = assert!(
    WIDE_ENTRIES.is_multiple_of(2)
        && FULL_ENTRIES.is_multiple_of(2)
        && HALF_ENTRIES.is_multiple_of(4),
    "entries begin with a word"
);

#[cfg(test)]
mod tests;
