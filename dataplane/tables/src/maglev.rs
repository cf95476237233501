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
//! Cost of a build: *m* turns, *m* ln *m* probes at worst: 5 ms for *m* = 65537 and 1000 backends.
//! Memory: 1.5 KiB up to 10 backends and 2 KiB up to 16 (4 bits a slot), 16 KiB up to 256, 128 KiB above.
//!
//! Disruption: taking 1 of N backends moves at most 1/N + 2 % of the flows, as long as [`size`] stays the same;
//! crossing 10, 16 or 256 backends changes *m* and spreads new flows anew (conntrack keeps the established
//! ones where they are). Between 1 and 2 backends nothing but the share moves.

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
        17..=256 => 16381,
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

    // The next turn of each backend, in units of 2^-32 turns of the heaviest. 2^17 turns fit with room.
    let interval =
        |rank: usize| (u64::from(heaviest) << 32) / u64::from(backends[usize::from(order[rank])].1);
    let mut turns: BinaryHeap<Reverse<(u64, usize)>> =
        (0..order.len()).map(|rank| Reverse((interval(rank) / 2, rank))).collect();
    let mut lists: Vec<Preferences> =
        order.iter().map(|&index| Preferences::of(backends[usize::from(index)].0)).collect();

    let mut table = vec![FREE; m];
    for _ in 0..m {
        let Some(Reverse((at, rank))) = turns.pop() else { break };
        turns.push(Reverse((at.saturating_add(interval(rank)), rank)));
        let slot = lists[rank].first_free(&table);
        table[slot] = order[rank];
    }
    table
}

/// Where a backend would like its slots to be, best first.
struct Preferences {
    identity: u64,
    next: u64,
}

impl Preferences {
    fn of(identity: u64) -> Self {
        Self { identity, next: 0 }
    }

    /// Its most wanted slot of those still free; `table` has one.
    fn first_free(&mut self, table: &[u16]) -> usize {
        let mut slot = 0;
        // The last free slot is met after m probes on average; 32 m without it happen once in e^32
        // tables, and then any free slot will do.
        for _ in 0..table.len() * 32 {
            self.next += 1;
            slot = scale(mix(self.identity ^ self.next.wrapping_mul(GOLDEN)), table.len());
            if table[slot] == FREE {
                return slot;
            }
        }
        while table[slot] != FREE {
            slot = (slot + 1) % table.len();
        }
        slot
    }
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

/// Packs a table for the segment: little end first, 4, 8 or 16 bits a slot as `backends` (the length of
/// the slice it was built from) needs.
pub fn pack(table: &[u16], backends: usize) -> Vec<u64> {
    let bits = slot_bits(backends);
    let mut words = vec![0; words_for(backends, table.len())];
    for (slot, &entry) in table.iter().enumerate() {
        words[slot * bits / 64] |= u64::from(entry) << (slot * bits % 64);
    }
    words
}

/// The backend for `hash` in the packed table at `at`: an index below `backends`, or 0.
///
/// `backends` and `m` are the numbers the table was made with. All 64 bits of `hash` should vary; the upper
/// ones choose. Any bytes at `at` give some answer.
#[inline]
pub fn pick(words: Words<'_>, at: Ref, backends: usize, m: usize, hash: u64) -> usize {
    let slot = scale(hash, m);
    let entry = match slot_bits(backends) {
        4 => words.u8_at(at, slot / 2) >> (slot % 2 * 4) & 0xf,
        8 => words.u8_at(at, slot),
        _ => return within(words.u16_at(at, slot).into(), backends),
    };
    within(entry.into(), backends)
}

#[inline]
fn within(entry: usize, backends: usize) -> usize {
    if entry < backends { entry } else { 0 }
}

/// `hash` spread over 0..`m`.
#[inline]
fn scale(hash: u64, m: usize) -> usize {
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
