//! Maglev tables: which backend a new flow of a service goes to.
//!
//! Decides: slot → backend, so that every node builds the same table from the same backends in any
//! order, each backend has its weight's share, and a backend that goes moves little but its own flows
//! (Eisenbud et al., *Maglev*, NSDI 2016, §3.4). Leaves to the caller: who the backends are, and where
//! the packed table is kept.
//!
//! Two things differ from the paper. A backend's preference list is a pseudo-random sequence keyed by its
//! identity, not `offset + k × skip`: with the latter, two backends whose skips are in a small ratio
//! trade a tenth of the table when a third one goes (measured; 7 % instead of 2.6 % for 5 backends in 1021
//! slots). And turns are taken in the order of (k + ½) / weight, so that weights give quotas rounded
//! to the nearest slot.
//!
//! Cost of a pick: one cache line of the table; a multiplication instead of a division by *m*.
//! Cost of a build: *m* turns, *m* ln *m* probes: 50 µs for *m* = 3067, 1.5 ms for 65537; with unequal weights a heap's step
//! more each turn.
//! Memory: 1.5 KiB up to 10 backends and 2 KiB up to 16 (4 bits a slot), 16 KiB up to 64, 40 KiB up to 256, 128 KiB above.
//!
//! Disruption: taking 1 of N backends moves at most its share + 2 % of the flows, with equal weights (1/N + 2 %) and others, as long
//! as [`size`] stays the same; crossing 10, 16, 64 or 256 backends changes *m* and spreads new flows anew (conntrack keeps the
//! established ones where they are). Between 1 and 2 backends nothing but the share moves. The excess falls with the root of *m*, so a
//! size that could be shared by both sides of a border, or be left gradually, would take more than the 2.5 KB that a service of
//! ten backends may have.

use crate::words::{Ref, Words};
use millrace_wire::Addr;
use std::{cmp::Reverse, collections::BinaryHeap};

/// A slot that no backend has taken yet, while a table is built.
const FREE: u16 = u16::MAX;

/// Slots of the table for `backends` backends (with a weight above zero): a prime, or 0 or 1.
///
/// Sizes are few and far apart because changing the size moves flows; they are what keeps the
/// disruption under 2 % up to the largest set that uses them.
pub const fn size(backends: usize) -> usize {
    match backends {
        0 => 0,
        1 => 1,
        2..=10 => 3067,
        11..=16 => 4093,
        17..=64 => 16381,
        65..=256 => 40949,
        _ => 65537,
    }
}

/// The number that stands for a backend on every node: a hash of its address, port and protocol.
///
/// `port` is the number as people write it; `protocol` the IP protocol number.
pub fn identity(addr: &Addr, port: u16, protocol: u8) -> u64 {
    let (high, low) = ((addr.bits() >> 64) as u64, addr.bits() as u64);
    mix(mix(mix(high) ^ low) ^ (u64::from(port) << 8 | u64::from(protocol)))
}

/// Builds a table of `m` slots; each holds the index of a backend in `backends`.
///
/// A backend is its [`identity`] and its weight; weight 0 gets no slot, and no weights at all make an empty
/// table. The assignment of identities to slots depends on nothing but the set: not on its order. Identities are
/// distinct; equal ones are both served, but which of the two has which slot then depends on the order.
/// At most 65535 backends are seen. With more backends than slots, or a share below half a
/// slot, a backend may get none.
pub fn build(backends: &[(u64, u16)], m: usize) -> Vec<u16> {
    let backends = &backends[..backends.len().min(usize::from(FREE))];
    let mut order: Vec<u16> =
        (0..backends.len() as u16).filter(|&i| backends[usize::from(i)].1 > 0).collect();
    order.sort_by_key(|&index| backends[usize::from(index)]);
    let Some(heaviest) = order.iter().map(|&index| backends[usize::from(index)].1).max() else {
        return Vec::new();
    };

    let weights: Vec<u16> = order.iter().map(|&index| backends[usize::from(index)].1).collect();
    let mut turns = Turns::of(&weights, heaviest);
    let mut lists: Vec<Preferences> =
        order.iter().map(|&index| Preferences::of(backends[usize::from(index)].0)).collect();

    let mut table = vec![FREE; m];
    for _ in 0..m {
        let Some(rank) = turns.next() else { break };
        let slot = lists[rank].first_free(&table);
        table[slot] = order[rank];
    }
    table
}

/// Whose turn it is, by rank: never ends.
enum Turns {
    /// All weights are equal: one after the other.
    Equal { next: usize, count: usize },
    /// The next turn of each backend, in units of 2^-32 turns of the heaviest. 2^17 turns fit with room.
    Weighted { heap: BinaryHeap<Reverse<(u64, usize)>>, intervals: Vec<u64> },
}

impl Turns {
    fn of(weights: &[u16], heaviest: u16) -> Self {
        if weights.iter().all(|&weight| weight == heaviest) {
            return Self::Equal { next: 0, count: weights.len() };
        }
        let intervals: Vec<u64> =
            weights.iter().map(|&weight| (u64::from(heaviest) << 32) / u64::from(weight)).collect();
        let heap = (0..weights.len()).map(|rank| Reverse((intervals[rank] / 2, rank))).collect();
        Self::Weighted { heap, intervals }
    }

    #[inline]
    fn next(&mut self) -> Option<usize> {
        match self {
            Self::Equal { next, count } => {
                let rank = *next;
                *next = if rank + 1 == *count { 0 } else { rank + 1 };
                Some(rank)
            }
            Self::Weighted { heap, intervals } => {
                let mut first = heap.peek_mut()?;
                let Reverse((at, rank)) = *first;
                // One sift down instead of a pop and a push.
                *first = Reverse((at.saturating_add(intervals[rank]), rank));
                Some(rank)
            }
        }
    }
}

/// Where a backend would like its slots to be, best first.
struct Preferences {
    next: u64,
}

impl Preferences {
    fn of(identity: u64) -> Self {
        Self { next: identity }
    }

    /// Its most wanted slot of those still free; `table` has one.
    #[inline]
    fn first_free(&mut self, table: &[u16]) -> usize {
        let m = table.len() as u64;
        // The last free slot is met after m probes on average; 32 m without it happen once in e^32
        // tables, and then any free slot will do.
        for _ in 0..table.len() * 32 {
            self.next = self.next.wrapping_add(STEP);
            let slot = (((fold(self.next) >> 32) * m) >> 32) as usize;
            if table[slot] == FREE {
                return slot;
            }
        }
        table.iter().position(|&slot| slot == FREE).unwrap_or(0)
    }
}

/// Odd, with about as many ones as zeros.
const STEP: u64 = 0xa076_1d64_78bd_642f;

/// A word from a counter by one multiplication: 40 % of the time of [`mix`], and as good for preferences (the disruption tests
/// see no difference).
#[inline]
const fn fold(x: u64) -> u64 {
    let product = x as u128 * (x ^ 0xe703_7ed1_a0b4_28db) as u128;
    product as u64 ^ (product >> 64) as u64
}

/// Bits of a slot in the packed table of `backends` backends.
const fn slot_bits(backends: usize) -> usize {
    match backends {
        0..=16 => 4,
        17..=256 => 8,
        _ => 16,
    }
}

/// Words of the packed table of `m` slots for `backends` backends.
pub const fn words_for(backends: usize, m: usize) -> usize {
    (m * slot_bits(backends)).div_ceil(64)
}

/// Packs a table for the segment: little end first, 4, 8 or 16 bits a slot as `backends` (the number of records that the
/// entries count) needs.
pub fn pack(table: &[u16], backends: usize) -> Vec<u64> {
    match slot_bits(backends) {
        4 => pack_bits::<4>(table),
        8 => pack_bits::<8>(table),
        _ => pack_bits::<16>(table),
    }
}

fn pack_bits<const BITS: usize>(table: &[u16]) -> Vec<u64> {
    let word =
        |slots: &[u16]| slots.iter().rev().fold(0, |word, &entry| word << BITS | u64::from(entry));
    table.chunks(64 / BITS).map(word).collect()
}

/// The backend for `hash` in the packed table at `at`: an index below `backends`, or 0.
///
/// `backends` and `m` are the numbers the table was made with. All 64 bits of `hash` should vary; the upper
/// ones choose. Any bytes at `at` give some answer.
#[inline]
pub fn pick(words: Words<'_>, at: Ref, backends: usize, m: usize, hash: u64) -> usize {
    let slot = slot(hash, m);
    let entry = match slot_bits(backends) {
        4 => words.u8_at(at, slot / 2) >> (slot % 2 * 4) & 0xf,
        8 => words.u8_at(at, slot),
        _ => return within(words.u16_at(at, slot).into(), backends),
    };
    within(entry.into(), backends)
}

/// The word of the table that [`pick`] reads.
#[inline]
pub fn word(backends: usize, m: usize, hash: u64) -> usize {
    slot(hash, m) * slot_bits(backends) / 64
}

/// `entry` if it is below `backends`, or 0.
#[inline]
pub(crate) fn within(entry: usize, backends: usize) -> usize {
    if entry < backends { entry } else { 0 }
}

/// The slot that `hash` falls to: its upper bits spread over 0..`m`.
#[inline]
pub(crate) fn slot(hash: u64, m: usize) -> usize {
    ((u128::from(hash) * m as u128) >> 64) as usize
}

/// 2^64 / φ.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The finalizer of SplitMix64 (Steele et al., 2014): a fixed bijection, the same on every node.
pub(crate) const fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(GOLDEN);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests;
