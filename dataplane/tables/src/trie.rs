//! Hash trie: fixed-size entries found by key; the one structure behind frontends, VIPs and neighbors.
//!
//! A slot (u32) is nothing (0), a leaf, or a node of 64 slots for the next 6 bits of the hash. A leaf is an array of *pairs*:
//! bits of the hash say which pair an entry is in. With entries of 32 bytes a pair is a cache line, so a lookup reads one line of
//! entries, whatever the leaf's size. Of 2, 4, 8 and 16 pairs a leaf has the fewest that leave none with a third entry, trying four
//! choices of hash bits for each; entries that fit in none of them (about 20 in a slot) make a node. A leaf of one entry is half a line.
//!
//! ```text
//! slot   ref 29 bits | tag 3 bits: 0 node, t leaf of 2^(t−1) places; from t = 2 on the reference's two lowest bits are the choice
//! place  key, value; the top bit of the key's last word: taken
//! ```
//!
//! Cost of a lookup: the hash, a slot in each node on the way, one line, of which one or two keys are compared. 10,000 services with
//! an address each are 20,000 entries: two nodes on the way, out of 16 KiB that stay in the L1 and L2 caches, and the line.
//! Copy-on-write: a change copies one node a level and one leaf of 1 KiB at most. Memory: 39 to 66 bytes an entry of 32, by
//! how full the last level happens to be. `trie/tests.rs` counts lines and bytes.

mod writer;

use crate::words::{Ref, Words};

pub use writer::Trie;

/// Bits of hash a level consumes.
const BITS: u32 = 6;
/// Slots of a node.
const FANOUT: usize = 1 << BITS;
/// Words of a node: 64 slots of 32 bits.
const NODE_WORDS: usize = FANOUT / 2;
/// Levels that a 64-bit hash has whole indices for.
const LEVELS: u32 = 10;
/// Places of a pair.
const PAIR: usize = 2;
/// Bits of a slot that are a reference.
const REF_BITS: u32 = 29;
/// Choices of hash bits for the pairs of a leaf. Leaves of more than one entry start on a cache line, which leaves two bits of their
/// reference for it.
const CHOICES: u32 = 4;
/// Bits of hash from one choice to the next.
const APART: u32 = 13;
/// In the last word of a key: there is an entry in this place.
const TAKEN: u64 = 1 << 63;

/// Largest segment that a slot can point into: 2^29 grains.
pub const MAX_BYTES: u64 = (1 << REF_BITS) * 16;

/// Mixes `key` into a hash that an outsider who doesn't know `seed` can't steer.
#[inline]
pub fn hash<const K: usize>(seed: u64, key: &[u64; K]) -> u64 {
    const ODD: [u64; 4] = [
        0x9e37_79b9_7f4a_7c15,
        0xbf58_476d_1ce4_e5b9,
        0x94d0_49bb_1331_11eb,
        0xd6e8_feb8_6659_fd93,
    ];
    let mut state = seed ^ ODD[3];
    for (index, word) in key.iter().enumerate() {
        state = fold(state ^ word, ODD[index % 4] ^ seed.rotate_left(32));
    }
    fold(state, ODD[0])
}

#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

/// A slot: tag and reference in 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slot(u32);

impl Slot {
    const EMPTY: Self = Self(0);

    /// The largest leaf that is made: 32 places. (A reader takes tag 7 for one of 64.)
    const LARGEST: u32 = 6;

    fn leaf(at: Ref, shape: Shape) -> Self {
        let Shape { tag, bits } = shape;
        debug_assert!(at.raw() >> REF_BITS == 0 && (1..=Self::LARGEST).contains(&tag));
        debug_assert!(bits < CHOICES && (tag == 1 || at.raw().is_multiple_of(CHOICES)));
        Self(at.raw() | bits | tag << REF_BITS)
    }

    fn node(at: Ref) -> Self {
        debug_assert!(at.raw() >> REF_BITS == 0);
        Self(at.raw())
    }

    #[inline]
    fn at(self) -> Ref {
        let raw = self.0 & ((1 << REF_BITS) - 1);
        Ref::from_raw(if self.tag() > 1 { raw & !(CHOICES - 1) } else { raw })
    }

    #[inline]
    fn tag(self) -> u32 {
        self.0 >> REF_BITS
    }

    #[inline]
    fn shape(self) -> Shape {
        let tag = self.tag();
        Shape { tag, bits: if tag > 1 { self.0 % CHOICES } else { 0 } }
    }

    /// Places of a leaf, or 0 for a node.
    #[inline]
    fn places(self) -> usize {
        places(self.tag())
    }

    #[inline]
    fn is_empty(self) -> bool {
        self.at().is_null()
    }
}

#[inline]
const fn places(tag: u32) -> usize {
    (1 << tag) >> 1
}

/// How large a leaf is, and which bits of the hash choose a pair in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    tag: u32,
    bits: u32,
}

impl Shape {
    /// The pair, below `level` nodes, that an entry with `hash` is in.
    #[inline]
    fn pair(self, hash: u64, level: u32) -> usize {
        let pairs = (places(self.tag) / PAIR).max(1);
        hash.rotate_right(level * BITS + self.bits * APART) as usize & (pairs - 1)
    }
}

#[inline]
fn index_at(hash: u64, level: u32) -> usize {
    (hash >> (level * BITS)) as usize % FANOUT
}

/// The words of an entry: `K` of key, then `V` of value. The top bit of the key's last word is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<const K: usize, const V: usize> {
    /// What it is found by.
    pub key: [u64; K],
    /// What is known of it.
    pub value: [u64; V],
}

impl<const K: usize, const V: usize> Entry<K, V> {
    /// The entry in a place of the leaf, if there is one.
    fn read(words: Words<'_>, leaf: Ref, place: usize) -> Option<Self> {
        let base = place * (K + V);
        let mut key: [u64; K] = std::array::from_fn(|i| words.at(leaf, base + i));
        let last = key.last_mut()?;
        if *last & TAKEN == 0 {
            return None;
        }
        *last &= !TAKEN;
        Some(Self { key, value: std::array::from_fn(|i| words.at(leaf, base + K + i)) })
    }
}

/// Finds the value of `key` under the root slot `root`.
#[inline]
pub fn find<const K: usize, const V: usize>(
    words: Words<'_>,
    root: u64,
    hash: u64,
    key: &[u64; K],
) -> Option<[u64; V]> {
    let mut slot = Slot(root as u32);
    for level in 0..=LEVELS {
        if slot.is_empty() {
            return None;
        }
        if slot.tag() > 0 {
            let leaf = slot.at();
            let first = slot.shape().pair(hash, level) * PAIR;
            let stored = |i: usize| key[i] | if i + 1 == K { TAKEN } else { 0 };
            return (first..first + slot.places().min(PAIR))
                .map(|place| place * (K + V))
                .find(|base| (0..K).all(|i| words.at(leaf, base + i) == stored(i)))
                .map(|base| std::array::from_fn(|i| words.at(leaf, base + K + i)));
        }
        slot = Slot(words.u32_at(slot.at(), index_at(hash, level)));
    }
    None
}

/// Starts loading the line that [`find`] of a key with this hash compares. `PLACE`: words of key and value.
#[inline]
pub fn prefetch<const PLACE: usize>(words: Words<'_>, root: u64, hash: u64) {
    let mut slot = Slot(root as u32);
    for level in 0..=LEVELS {
        if slot.is_empty() {
            return;
        }
        if slot.tag() > 0 {
            let first = slot.shape().pair(hash, level) * PAIR;
            return words.prefetch(slot.at(), first * PLACE);
        }
        slot = Slot(words.u32_at(slot.at(), index_at(hash, level)));
    }
}

/// All entries under a root slot. Ends on any memory: after `budget` slots and places at the latest.
#[derive(Clone, Debug)]
pub struct Iter<'a, const K: usize, const V: usize> {
    words: Words<'a>,
    /// Nodes on the way down, each with the next slot to look at.
    stack: Vec<(Ref, usize)>,
    leaf: Slot,
    next: usize,
    budget: usize,
}

/// Iterates over the entries under `root`, in no useful order.
pub fn iter<const K: usize, const V: usize>(words: Words<'_>, root: u64) -> Iter<'_, K, V> {
    let mut iter = Iter {
        words,
        stack: Vec::new(),
        leaf: Slot::EMPTY,
        next: 0,
        // Honest nodes and leaves are distinct places: two slots a word of nodes, less than a place a word of leaves.
        budget: words.0.len().saturating_mul(4),
    };
    iter.enter(Slot(root as u32));
    iter
}

impl<const K: usize, const V: usize> Iter<'_, K, V> {
    fn enter(&mut self, slot: Slot) {
        if slot.is_empty() {
            return;
        }
        if slot.tag() > 0 {
            (self.leaf, self.next) = (slot, 0);
        } else if self.stack.len() < LEVELS as usize {
            self.stack.push((slot.at(), 0));
        }
    }
}

impl<const K: usize, const V: usize> Iterator for Iter<'_, K, V> {
    type Item = Entry<K, V>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            self.budget = self.budget.checked_sub(1)?;
            if self.next < self.leaf.places() {
                self.next += 1;
                if let Some(entry) = Entry::read(self.words, self.leaf.at(), self.next - 1) {
                    return Some(entry);
                }
                continue;
            }
            let (node, index) = self.stack.last_mut()?;
            if *index == FANOUT {
                self.stack.pop();
                continue;
            }
            let slot = Slot(self.words.u32_at(*node, *index));
            *index += 1;
            self.enter(slot);
        }
    }
}

#[cfg(test)]
mod tests;
