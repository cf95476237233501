//! Hash trie: fixed-size entries found by key; the one structure behind frontends, VIPs and neighbors.
//!
//! A slot (u32) is nothing (0), a leaf of 1 to 7 entries, or a node of 64 slots for the next 6 bits of
//! the hash. A leaf that would grow past 4 entries becomes a node, so that a lookup reads one slot per level
//! and then at most two cache lines of entries (of 32 bytes). Copy-on-write: a change copies one node a level and one leaf.
//!
//! Cost: log64(n / 4) slots (the first two levels stay in the L1 and L2 caches) and one leaf. 10,000 entries: 2 nodes
//! and a leaf. Memory: an entry with its share of leaf rounding and nodes takes at most about twice its size.

use crate::{
    arena::{Arena, Table},
    error::Error,
    words::{Ref, Words},
};

/// Bits of hash a level consumes.
const BITS: u32 = 6;
/// Slots of a node.
const FANOUT: usize = 1 << BITS;
/// Words of a node: 64 slots of 32 bits.
const NODE_WORDS: usize = FANOUT / 2;
/// Levels that a 64-bit hash has bits for.
const LEVELS: u32 = 10;
/// Entries of a leaf before it becomes a node.
const SPLIT: usize = 4;
/// Entries that a slot can count: for the last level, where nothing can be split.
const MOST: usize = 7;
/// Bits of a slot that are a reference.
const REF_BITS: u32 = 29;

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

/// A slot: count and reference in 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slot(u32);

impl Slot {
    const EMPTY: Self = Self(0);

    fn leaf(at: Ref, count: usize) -> Self {
        debug_assert!(at.raw() >> REF_BITS == 0 && (1..=MOST).contains(&count));
        Self(at.raw() | (count as u32) << REF_BITS)
    }

    fn node(at: Ref) -> Self {
        debug_assert!(at.raw() >> REF_BITS == 0);
        Self(at.raw())
    }

    #[inline]
    fn at(self) -> Ref {
        Ref::from_raw(self.0 & ((1 << REF_BITS) - 1))
    }

    /// Entries, or 0 for a node.
    #[inline]
    fn count(self) -> usize {
        (self.0 >> REF_BITS) as usize
    }

    #[inline]
    fn is_empty(self) -> bool {
        self.at().is_null()
    }
}

#[inline]
fn index_at(hash: u64, level: u32) -> usize {
    (hash >> (level * BITS)) as usize % FANOUT
}

/// The words of an entry: `K` of key, then `V` of value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<const K: usize, const V: usize> {
    /// What it is found by.
    pub key: [u64; K],
    /// What is known of it.
    pub value: [u64; V],
}

impl<const K: usize, const V: usize> Entry<K, V> {
    fn read(words: Words<'_>, leaf: Ref, index: usize) -> Self {
        let base = index * (K + V);
        Self {
            key: std::array::from_fn(|i| words.at(leaf, base + i)),
            value: std::array::from_fn(|i| words.at(leaf, base + K + i)),
        }
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
        if slot.count() > 0 {
            let leaf = slot.at();
            return (0..slot.count())
                .map(|index| index * (K + V))
                .find(|base| (0..K).all(|i| words.at(leaf, base + i) == key[i]))
                .map(|base| std::array::from_fn(|i| words.at(leaf, base + K + i)));
        }
        slot = Slot(words.u32_at(slot.at(), index_at(hash, level)));
    }
    None
}

/// All entries under a root slot. Ends on any memory: after `budget` slots at the latest.
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
        // Honest nodes and leaves are distinct places, so there are no more of them than grains,
        // each seen through one slot; empty slots are at most 64 a node of 16 grains.
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
        if slot.count() > 0 {
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
            if self.next < self.leaf.count() {
                self.next += 1;
                return Some(Entry::read(self.words, self.leaf.at(), self.next - 1));
            }
            self.budget = self.budget.checked_sub(1)?;
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

/// The writer's side: the root slot, and the changes.
#[derive(Debug)]
pub struct Trie<const K: usize, const V: usize> {
    table: Table,
    seed: u64,
    root: Slot,
    len: usize,
}

impl<const K: usize, const V: usize> Trie<K, V> {
    /// Bytes that one change may allocate at most: for [`Arena::reserve`].
    pub const WORST_CHANGE: u64 =
        (LEVELS as u64) * (NODE_WORDS as u64 * 8 + (MOST * (K + V) * 8) as u64 * 2);

    /// An empty trie whose bytes are accounted to `table`.
    pub fn new(table: Table, seed: u64) -> Self {
        Self { table, seed, root: Slot::EMPTY, len: 0 }
    }

    /// The word for the root record.
    pub fn root(&self) -> u64 {
        u64::from(self.root.0)
    }

    /// Entries in it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The value of `key`.
    pub fn get(&self, arena: &Arena, key: &[u64; K]) -> Option<[u64; V]> {
        find(arena.words(), self.root(), hash(self.seed, key), key)
    }

    fn leaf_words(count: usize) -> usize {
        count * (K + V)
    }

    /// Writes a new leaf.
    fn leaf(&self, arena: &mut Arena, entries: &[Entry<K, V>]) -> Result<Slot, Error> {
        if entries.is_empty() {
            return Ok(Slot::EMPTY);
        }
        let at = arena.alloc(self.table, Self::leaf_words(entries.len()))?;
        for (index, entry) in entries.iter().enumerate() {
            for (offset, word) in entry.key.iter().chain(&entry.value).enumerate() {
                arena.store(at, index * (K + V) + offset, *word);
            }
        }
        Ok(Slot::leaf(at, entries.len()))
    }

    /// Writes a node over `entries`, whose hashes agree in all levels before `level`.
    fn build(&self, arena: &mut Arena, entries: &[Entry<K, V>], level: u32) -> Result<Slot, Error> {
        if entries.len() <= SPLIT || (level == LEVELS && entries.len() <= MOST) {
            return self.leaf(arena, entries);
        }
        if level == LEVELS {
            return Err(Error::HashCollision);
        }
        let node = arena.alloc_zeroed(self.table, NODE_WORDS)?;
        let index = |entry: &Entry<K, V>| index_at(hash(self.seed, &entry.key), level);
        let mut sorted = entries.to_vec();
        sorted.sort_by_key(index);
        for group in sorted.chunk_by(|a, b| index(a) == index(b)) {
            let slot = self.build(arena, group, level + 1)?;
            Self::set_slot(arena, node, index(&group[0]), slot);
        }
        Ok(Slot::node(node))
    }

    fn set_slot(arena: &mut Arena, node: Ref, index: usize, slot: Slot) {
        let shift = index % 2 * 32;
        let word = arena.load(node, index / 2) & !(0xffff_ffff << shift);
        arena.store(node, index / 2, word | u64::from(slot.0) << shift);
    }

    /// Sets the value of `key`; returns the one it had.
    pub fn insert(
        &mut self,
        arena: &mut Arena,
        key: [u64; K],
        value: [u64; V],
    ) -> Result<Option<[u64; V]>, Error> {
        let (root, old) =
            self.change(arena, self.root, 0, hash(self.seed, &key), &key, Some(value))?;
        self.root = root;
        self.len += usize::from(old.is_none());
        Ok(old)
    }

    /// Removes `key`; returns the value it had.
    pub fn remove(&mut self, arena: &mut Arena, key: &[u64; K]) -> Result<Option<[u64; V]>, Error> {
        if self.get(arena, key).is_none() {
            return Ok(None);
        }
        let (root, old) = self.change(arena, self.root, 0, hash(self.seed, key), key, None)?;
        self.root = root;
        self.len -= usize::from(old.is_some());
        Ok(old)
    }

    fn change(
        &self,
        arena: &mut Arena,
        slot: Slot,
        level: u32,
        hash: u64,
        key: &[u64; K],
        value: Option<[u64; V]>,
    ) -> Result<(Slot, Option<[u64; V]>), Error> {
        if slot.is_empty() || slot.count() > 0 {
            let mut entries: Vec<Entry<K, V>> = (0..slot.count())
                .map(|index| Entry::read(arena.words(), slot.at(), index))
                .collect();
            let found = entries.iter().position(|entry| entry.key == *key);
            let old = found.map(|index| entries[index].value);
            match (found, value) {
                (Some(index), Some(value)) => entries[index].value = value,
                (Some(index), None) => {
                    entries.swap_remove(index);
                }
                (None, Some(value)) => entries.push(Entry { key: *key, value }),
                (None, None) => return Ok((slot, None)),
            }
            let new = self.build(arena, &entries, level)?;
            if slot.count() > 0 {
                arena.free(self.table, slot.at(), Self::leaf_words(slot.count()));
            }
            return Ok((new, old));
        }
        let index = index_at(hash, level);
        let child = Slot(arena.words().u32_at(slot.at(), index));
        let (new, old) = self.change(arena, child, level + 1, hash, key, value)?;
        let node = arena.own(self.table, slot.at(), NODE_WORDS)?;
        Self::set_slot(arena, node, index, new);
        if value.is_none()
            && let Some(smaller) = self.collapse(arena, node)?
        {
            return Ok((smaller, old));
        }
        Ok((Slot::node(node), old))
    }

    /// A node whose entries fit into half a leaf becomes a leaf again (half, so that an entry that comes
    /// and goes doesn't make and drop a node each time).
    fn collapse(&self, arena: &mut Arena, node: Ref) -> Result<Option<Slot>, Error> {
        let mut entries: Vec<Entry<K, V>> = Vec::new();
        for index in 0..FANOUT {
            let slot = Slot(arena.words().u32_at(node, index));
            if slot.is_empty() {
                continue;
            }
            if slot.count() == 0 || entries.len() + slot.count() > SPLIT / 2 {
                return Ok(None);
            }
            entries.extend(
                (0..slot.count()).map(|i| Entry::<K, V>::read(arena.words(), slot.at(), i)),
            );
        }
        for index in 0..FANOUT {
            let slot = Slot(arena.words().u32_at(node, index));
            if slot.count() > 0 {
                arena.free(self.table, slot.at(), Self::leaf_words(slot.count()));
            }
        }
        arena.free(self.table, node, NODE_WORDS);
        self.leaf(arena, &entries).map(Some)
    }
}

#[cfg(test)]
mod tests;
