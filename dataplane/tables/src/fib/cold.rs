//! The routes as they were set, read back from the trie: for `show`, `explain` and tests.
//!
//! A FIB of pushed-down leaves forgets its prefixes; the bitmap at the end of each node keeps them. Cost: reading every
//! block. On corrupt words the walk reads no more than the segment has and yields no more than the root counts.

use super::{
    Family, Key, NARROW_BITS, NARROW_ENTRIES, NODE, PATH, Prefix, WIDE_BITS, WIDE_ENTRIES,
    WIDE_LEVELS, bitmap_words, narrow_words, path_bits, step, target, up_to, wide_words,
};
use crate::words::Words;
use ipnet::IpNet;

/// Iterates over the routes below a root, in no particular order.
#[derive(Debug)]
pub struct Routes<'a> {
    words: Words<'a>,
    family: Family,
    to_visit: Vec<Place>,
    found: Vec<(IpNet, u32)>,
    /// Routes it may still yield, and blocks and words it may still read.
    routes: u64,
    blocks: u64,
    budget: usize,
}

/// At least the levels that an IPv6 address has.
const LEVELS: u64 = 24;

/// All routes below `root` (see [`super::Fib::commit`]).
pub fn routes(words: Words<'_>, root: u32, family: Family) -> Routes<'_> {
    let top = Place { entry: root, bits: 0, depth: 0 };
    let to_visit = if root & NODE == 0 { Vec::new() } else { vec![top] };
    // A block leads to a route, in no more levels than an address has: what more there is, corruption made.
    let routes = words.at(target(root), 0) >> 32;
    let (blocks, budget) = ((routes + 1) * LEVELS, words.0.len());
    Routes { words, family, to_visit, found: Vec::new(), routes, blocks, budget }
}

impl Iterator for Routes<'_> {
    type Item = (IpNet, u32);

    fn next(&mut self) -> Option<Self::Item> {
        self.routes = self.routes.checked_sub(1)?;
        while self.found.is_empty() {
            self.blocks = self.blocks.checked_sub(1)?;
            let place = self.to_visit.pop()?;
            self.visit(place);
        }
        self.found.pop()
    }
}

impl Routes<'_> {
    fn visit(&mut self, place: Place) {
        if place.depth >= self.family.bits().into() {
            return;
        }
        let Some(left) = self.budget.checked_sub(place.words(self.words)) else {
            // More to read than a sound segment has.
            self.to_visit.clear();
            return;
        };
        self.budget = left;
        if place.entry & PATH != 0 {
            self.to_visit.extend(place.behind_path(self.words));
            return;
        }
        let slots = place.slots(self.words);
        let positions = place.positions(self.words);
        let leaves = place.leaves(self.words, &slots, &positions);
        for (&position, leaf) in positions.iter().zip(leaves).rev() {
            self.found.extend(place.prefix(position, self.family).map(|prefix| (prefix, leaf)));
        }
        for (slot, &entry) in slots.iter().enumerate().rev() {
            if entry & NODE != 0 {
                self.to_visit.push(place.below(entry, slot));
            }
        }
    }
}

/// A block, and the address bits that lead to it.
#[derive(Clone, Copy, Debug)]
struct Place {
    entry: u32,
    bits: u128,
    depth: u32,
}

impl Place {
    fn level(self) -> usize {
        match self.depth {
            0 => 0,
            WIDE_BITS => 1,
            _ => WIDE_LEVELS,
        }
    }

    fn is_wide(self) -> bool {
        self.level() < WIDE_LEVELS
    }

    fn width(self) -> u32 {
        if self.is_wide() { WIDE_BITS } else { NARROW_BITS }
    }

    /// Words of the block, hidden leaves left out: never none.
    fn words(self, words: Words<'_>) -> usize {
        if self.entry & PATH != 0 {
            super::PATH_WORDS
        } else if self.is_wide() {
            wide_words(self.level(), 0)
        } else {
            narrow_words(self.runs(words), 0)
        }
    }

    /// Runs of a narrow node.
    fn runs(self, words: Words<'_>) -> usize {
        (words.at(target(self.entry), 0) & !1).count_ones() as usize + 1
    }

    /// The entries of all slots.
    fn slots(self, words: Words<'_>) -> Vec<u32> {
        let at = target(self.entry);
        let bitmap = words.at(at, 0);
        let index = |slot| match self.is_wide() {
            true => WIDE_ENTRIES + slot,
            false => NARROW_ENTRIES + (bitmap & up_to(slot)).count_ones() as usize,
        };
        (0..1 << self.width()).map(|slot| words.u32_at(at, index(slot))).collect()
    }

    /// The routes of the node, as `1 << len | bits`, shorter ones first.
    fn positions(self, words: Words<'_>) -> Vec<u32> {
        let bitmap = bitmap_words(self.level());
        let first = self.words(words) - bitmap;
        (2..bitmap as u32 * 64)
            // 1, the default route, is one of the root's alone.
            .chain((self.depth == 0).then_some(1))
            .filter(|position| {
                let bits = words.at(target(self.entry), first + (position / 64) as usize);
                bits >> (position % 64) & 1 != 0
            })
            .collect()
    }

    /// The leaves of `positions`.
    fn leaves(self, words: Words<'_>, slots: &[u32], positions: &[u32]) -> Vec<u32> {
        let mut leaves = vec![None; positions.len()];
        // The longest route of each slot; longer ones come later.
        let mut owners = vec![None; slots.len()];
        for (index, position) in positions.iter().enumerate().filter(|(_, position)| **position > 1)
        {
            let len = position.ilog2();
            let first = ((position - (1 << len)) << (self.width() - len)) as usize;
            owners[first..first + (1 << (self.width() - len))].fill(Some(index));
        }
        for (&entry, owner) in slots.iter().zip(owners) {
            if let (0, Some(owner)) = (entry & NODE, owner) {
                leaves[owner] = Some(entry);
            }
        }
        let mut next = 2 * self.words(words);
        let mut hidden = || {
            next += 1;
            words.u32_at(target(self.entry), next - 1)
        };
        positions
            .iter()
            .zip(leaves)
            .map(|(position, leaf)| match position {
                1 => words.at(target(self.entry), 0) as u32,
                _ => leaf.unwrap_or_else(&mut hidden),
            })
            .collect()
    }

    /// The prefix at `position` of this node, if the family has it.
    fn prefix(self, position: u32, family: Family) -> Option<IpNet> {
        let len = position.ilog2();
        let depth = self.depth + len;
        if depth > family.bits().into() {
            return None;
        }
        let own = u128::from(position - (1 << len)).checked_shl(128 - depth).unwrap_or(0);
        Some(Prefix { bits: self.bits | own, len: depth as u8 }.to_net(family))
    }

    /// One level on, behind `slot`.
    fn below(self, entry: u32, slot: usize) -> Self {
        let depth = self.depth + self.width();
        let bits =
            self.bits | (slot as u128).checked_shl(128u32.saturating_sub(depth)).unwrap_or(0);
        Self { entry, bits, depth }
    }

    /// The block that a path leads to. One of no bits would lead in circles.
    fn behind_path(self, words: Words<'_>) -> Option<Self> {
        let at = target(self.entry);
        let (len, bits) = path_bits(words, at);
        let entry = words.at(at, 0) as u32;
        let bits = self.bits | bits.checked_shr(self.depth).unwrap_or(0);
        (len > 0 && entry & NODE != 0).then_some(Self { entry, bits, depth: self.depth + len })
    }
}

/// The longest route that covers `key`, with its leaf: what [`super::lookup`] finds, but named.
pub fn best<K: Key>(words: Words<'_>, root: u32, key: K, family: Family) -> Option<(IpNet, u32)> {
    let mut place = Place { entry: root, bits: 0, depth: 0 };
    let mut rest = key;
    let mut best = None;
    while place.entry & NODE != 0 && place.depth < family.bits().into() {
        if place.entry & PATH != 0 {
            let (entry, after) = step(words, place.entry, rest);
            // A leaf beside a path is an outer route's, which has been seen.
            match place.behind_path(words) {
                Some(behind) if entry & NODE != 0 => (place, rest) = (behind, after),
                _ => break,
            }
            continue;
        }
        let slot = rest.top(place.width());
        let covers = |position: u32| {
            let below = place.width() - position.ilog2();
            (1 << place.width() | slot as u32) >> below == position
        };
        let (slots, positions) = (place.slots(words), place.positions(words));
        let routes = positions.iter().zip(place.leaves(words, &slots, &positions));
        let longest =
            routes.filter(|(position, _)| covers(**position)).max_by_key(|route| *route.0);
        if let Some((&position, leaf)) = longest {
            best = place.prefix(position, family).map(|prefix| (prefix, leaf)).or(best);
        }
        rest = rest.after(place.width());
        place = place.below(slots[slot], slot);
    }
    best
}
