//! The routes as they were set, read back from the trie: for `show`, `explain` and tests.
//!
//! A FIB of pushed-down leaves forgets its prefixes; each node's cold block keeps them. Cost: reading every block.
//! On corrupt words the walk visits no more bytes than the segment has, and yields whatever they say.

use super::{
    Family, Key, NARROW_BITS, NARROW_COLD, NARROW_ENTRIES, NODE, PATH, Prefix, WIDE_BITS,
    WIDE_ENTRIES, bitmap_words, path_bits, step, target, up_to,
};
use crate::words::{Ref, Words};
use ipnet::IpNet;

/// Iterates over the routes below a root, in no particular order.
#[derive(Debug)]
pub struct Routes<'a> {
    words: Words<'a>,
    family: Family,
    to_visit: Vec<Place>,
    found: Vec<(IpNet, u32)>,
    /// Words it may still read.
    budget: usize,
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
            _ => 2,
        }
    }

    fn width(self) -> u32 {
        if self.level() < 2 { WIDE_BITS } else { NARROW_BITS }
    }

    /// One level on, behind `slot`.
    fn below(self, entry: u32, slot: usize) -> Self {
        let depth = self.depth + self.width();
        let bits =
            self.bits | (slot as u128).checked_shl(128u32.saturating_sub(depth)).unwrap_or(0);
        Self { entry, bits, depth }
    }

    /// Where its routes are; [`Ref::NULL`] when it has none.
    fn cold(self, words: Words<'_>) -> Ref {
        let index = if self.level() < 2 { 0 } else { NARROW_COLD };
        Ref::from_raw(words.u32_at(target(self.entry), index))
    }
}

/// All routes below `root` (see [`super::Fib::commit`]).
pub fn routes(words: Words<'_>, root: u32, family: Family) -> Routes<'_> {
    let top = Place { entry: root, bits: 0, depth: 0 };
    let to_visit = if root & NODE == 0 { Vec::new() } else { vec![top] };
    Routes { words, family, to_visit, found: Vec::new(), budget: words.0.len() }
}

impl Iterator for Routes<'_> {
    type Item = (IpNet, u32);

    fn next(&mut self) -> Option<Self::Item> {
        while self.found.is_empty() {
            let place = self.to_visit.pop()?;
            self.visit(place);
        }
        self.found.pop()
    }
}

impl Routes<'_> {
    /// Reads one block; false when there was more to read than a sound segment has.
    fn spend(&mut self, words: usize) -> bool {
        let enough = self.budget >= words;
        self.budget = self.budget.saturating_sub(words);
        if !enough {
            self.to_visit.clear();
        }
        enough
    }

    fn visit(&mut self, place: Place) {
        if place.depth >= self.family.bits().into() || !self.spend(2) {
            return;
        }
        let at = target(place.entry);
        if place.entry & PATH != 0 {
            let (len, bits) = path_bits(self.words, at);
            let next = Place {
                entry: self.words.at(at, 0) as u32,
                bits: place.bits | bits.checked_shr(place.depth).unwrap_or(0),
                depth: place.depth + len,
            };
            // A path of no bits would lead in circles.
            if len > 0 && next.entry & NODE != 0 {
                self.to_visit.push(next);
            }
            return;
        }
        let cold = place.cold(self.words);
        if !cold.is_null() {
            self.read_cold(place, cold);
        }
        if place.level() < 2 {
            if !self.spend(1 << (WIDE_BITS - 1)) {
                return;
            }
            for slot in (0..1 << WIDE_BITS).rev() {
                let entry = self.words.u32_at(at, WIDE_ENTRIES + slot);
                if entry & NODE != 0 {
                    self.to_visit.push(place.below(entry, slot));
                }
            }
            return;
        }
        let bitmap = self.words.at(at, 0);
        for slot in (0..1 << NARROW_BITS).rev() {
            if slot == 0 || bitmap >> slot & 1 != 0 {
                let run = (bitmap & up_to(slot)).count_ones() as usize;
                let entry = self.words.u32_at(at, NARROW_ENTRIES + run);
                if entry & NODE != 0 {
                    self.to_visit.push(place.below(entry, slot));
                }
            }
        }
    }

    fn read_cold(&mut self, place: Place, cold: Ref) {
        let bitmap = bitmap_words(place.level());
        let before = self.found.len();
        let mut index = 2 * bitmap;
        for word in 0..bitmap {
            let mut bits = self.words.at(cold, word);
            if !self.spend(1 + bits.count_ones() as usize / 2) {
                return;
            }
            while bits != 0 {
                let position = (word as u32 * 64 + bits.trailing_zeros()).max(1);
                bits &= bits - 1;
                let leaf = self.words.u32_at(cold, index);
                index += 1;
                let Some(prefix) = place.prefix(position, self.family) else { continue };
                self.found.push((prefix, leaf));
            }
        }
        self.found[before..].reverse();
    }
}

impl Place {
    /// The prefix at `position` (`1 << len | bits`) of this node, if the family has it.
    fn prefix(self, position: u32, family: Family) -> Option<IpNet> {
        let len = position.ilog2();
        let depth = self.depth + len;
        if depth > family.bits().into() {
            return None;
        }
        let own = u128::from(position - (1 << len)).checked_shl(128 - depth).unwrap_or(0);
        Some(Prefix { bits: self.bits | own, len: depth as u8 }.to_net(family))
    }
}

/// The longest route that covers `key`, with its leaf: what [`super::lookup`] finds, but named.
pub fn best<K: Key>(words: Words<'_>, root: u32, key: K, family: Family) -> Option<(IpNet, u32)> {
    let mut place = Place { entry: root, bits: 0, depth: 0 };
    let mut rest = key;
    let mut best = None;
    while place.entry & NODE != 0 && place.depth < family.bits().into() {
        if place.entry & PATH != 0 {
            let (len, bits) = path_bits(words, target(place.entry));
            let (entry, after) = step(words, place.entry, rest);
            // A leaf behind a path is an outer route's, which has been seen.
            if entry & NODE == 0 || len == 0 {
                break;
            }
            let bits = place.bits | bits.checked_shr(place.depth).unwrap_or(0);
            (place, rest) = (Place { entry, bits, depth: place.depth + len }, after);
            continue;
        }
        let width = place.width();
        let slot = rest.top(width);
        let cold = place.cold(words);
        if !cold.is_null() {
            let longest = (0..=width)
                .rev()
                .map(|len| 1 << len | slot >> (width - len))
                .find(|position| words.at(cold, position / 64) >> (position % 64) & 1 != 0);
            if let Some(position) = longest {
                let before: u32 = (0..=position / 64)
                    .map(|word| {
                        let bits = words.at(cold, word);
                        let all = word < position / 64;
                        (if all { bits } else { bits & up_to(position % 64) }).count_ones()
                    })
                    .sum();
                let index = 2 * bitmap_words(place.level()) + before as usize - 1;
                let leaf = words.u32_at(cold, index);
                if let Some(prefix) = place.prefix(position as u32, family) {
                    best = Some((prefix, leaf));
                }
            }
        }
        let entry = if place.level() < 2 {
            words.u32_at(target(place.entry), WIDE_ENTRIES + slot)
        } else {
            step(words, place.entry, rest).0
        };
        place = place.below(entry, slot);
        rest = rest.after(width);
    }
    best
}
