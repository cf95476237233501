//! The writer's side of a trie: the root slot, and the changes.

use super::{
    CHOICES, Entry, FANOUT, LEVELS, NODE_WORDS, PAIR, Shape, Slot, TAKEN, find, hash, index_at,
    places,
};
use crate::{
    arena::{Arena, Table},
    error::Error,
    words::Ref,
};

/// A node with no more entries than this becomes a leaf again: far fewer than made it a node, so that an entry that comes
/// and goes doesn't make and drop a node each time.
const COLLAPSE: usize = 4;
/// Places that a leaf may have for each entry: one with more is sparser than a node.
const SPARSEST: usize = 8;
/// Most entries of a leaf.
const MOST: usize = places(Slot::LARGEST);

/// The root slot, and the changes.
#[derive(Debug)]
pub struct Trie<const K: usize, const V: usize> {
    table: Table,
    seed: u64,
    root: Slot,
    len: usize,
}

/// An entry and the hash of its key.
type Hashed<const K: usize, const V: usize> = (u64, Entry<K, V>);

impl<const K: usize, const V: usize> Trie<K, V> {
    /// Bytes that one change may allocate at most, for [`Arena::reserve`]: a node a level, and leaves for the entries of
    /// one that is split.
    pub const WORST_CHANGE: u64 =
        (LEVELS as u64) * (NODE_WORDS as u64 * 8) + ((MOST + 1) * SPARSEST * (K + V) * 8) as u64;

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

    /// The smallest leaf for `entries` below `level` nodes; `None` when there has to be a node.
    fn shape(entries: &[Hashed<K, V>], level: u32) -> Option<Shape> {
        if entries.len() <= PAIR {
            return Some(Shape { tag: entries.len() as u32, bits: 0 });
        }
        (3..=Slot::LARGEST)
            .filter(|&tag| (entries.len()..=SPARSEST * entries.len()).contains(&places(tag)))
            .flat_map(|tag| (0..CHOICES).map(move |bits| Shape { tag, bits }))
            .find(|shape| {
                let mut pairs = [0; MOST / PAIR];
                entries.iter().all(|(hash, _)| {
                    let count = &mut pairs[shape.pair(*hash, level)];
                    *count += 1;
                    *count <= PAIR
                })
            })
    }

    /// Words of a leaf: a line at least where the slot counts on it (entries of 32 bytes fill one anyway).
    fn leaf_words(tag: u32) -> usize {
        (places(tag) * (K + V)).max(if tag > 1 { 8 } else { 0 })
    }

    /// Writes a new leaf.
    fn leaf(
        &self,
        arena: &mut Arena,
        entries: &[Hashed<K, V>],
        level: u32,
        shape: Shape,
    ) -> Result<Slot, Error> {
        if entries.is_empty() {
            return Ok(Slot::EMPTY);
        }
        let places = places(shape.tag);
        let at = arena.alloc(self.table, Self::leaf_words(shape.tag))?;
        for pair in 0..places.div_ceil(PAIR) {
            let mut inside = entries.iter().filter(|(hash, _)| shape.pair(*hash, level) == pair);
            for place in (0..PAIR).map(|place| pair * PAIR + place).take(places) {
                let entry = inside.next().map(|(_, entry)| entry);
                for word in 0..K + V {
                    let value = entry.map_or(0, |entry| match word {
                        word if word + 1 < K => entry.key[word],
                        word if word < K => entry.key[word] | TAKEN,
                        word => entry.value[word - K],
                    });
                    arena.store(at, place * (K + V) + word, value);
                }
            }
        }
        Ok(Slot::leaf(at, shape))
    }

    /// Writes a leaf or a node over `entries`, whose hashes agree in all levels before `level`.
    pub(super) fn build(
        &self,
        arena: &mut Arena,
        entries: &[Hashed<K, V>],
        level: u32,
    ) -> Result<Slot, Error> {
        if let Some(shape) = Self::shape(entries, level) {
            return self.leaf(arena, entries, level, shape);
        }
        if level == LEVELS {
            return Err(Error::HashCollision);
        }
        let node = arena.alloc_zeroed(self.table, NODE_WORDS)?;
        let index = |entry: &Hashed<K, V>| index_at(entry.0, level);
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
        debug_assert!(key.last().is_some_and(|word| word & TAKEN == 0));
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

    /// The entries of a leaf.
    fn entries<'a>(
        &self,
        arena: &'a Arena,
        leaf: Slot,
    ) -> impl Iterator<Item = Hashed<K, V>> + use<'a, K, V> {
        let (seed, words) = (self.seed, arena.words());
        (0..leaf.places())
            .filter_map(move |place| Entry::read(words, leaf.at(), place))
            .map(move |entry| (hash(seed, &entry.key), entry))
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
        if slot.is_empty() || slot.tag() > 0 {
            let mut entries: Vec<Hashed<K, V>> = self.entries(arena, slot).collect();
            let found = entries.iter().position(|(_, entry)| entry.key == *key);
            let old = found.map(|index| entries[index].1.value);
            match (found, value) {
                (Some(index), Some(value)) => entries[index].1.value = value,
                (Some(index), None) => {
                    entries.swap_remove(index);
                }
                (None, Some(value)) => entries.push((hash, Entry { key: *key, value })),
                (None, None) => return Ok((slot, None)),
            }
            let new = self.build(arena, &entries, level)?;
            self.free_leaf(arena, slot);
            return Ok((new, old));
        }
        let index = index_at(hash, level);
        let child = Slot(arena.words().u32_at(slot.at(), index));
        let (new, old) = self.change(arena, child, level + 1, hash, key, value)?;
        let node = arena.own(self.table, slot.at(), NODE_WORDS)?;
        Self::set_slot(arena, node, index, new);
        if value.is_none()
            && let Some(smaller) = self.collapse(arena, node, level)?
        {
            return Ok((smaller, old));
        }
        Ok((Slot::node(node), old))
    }

    fn free_leaf(&self, arena: &mut Arena, slot: Slot) {
        if slot.tag() > 0 {
            arena.free(self.table, slot.at(), Self::leaf_words(slot.tag()));
        }
    }

    /// A node with few entries becomes a leaf again.
    fn collapse(&self, arena: &mut Arena, node: Ref, level: u32) -> Result<Option<Slot>, Error> {
        let slots: Vec<Slot> = (0..FANOUT)
            .map(|index| Slot(arena.words().u32_at(node, index)))
            .filter(|slot| !slot.is_empty())
            .collect();
        if slots.len() > COLLAPSE || slots.iter().any(|slot| slot.tag() == 0) {
            return Ok(None);
        }
        let entries: Vec<Hashed<K, V>> =
            slots.iter().flat_map(|slot| self.entries(arena, *slot)).collect();
        let Some(shape) = Self::shape(&entries, level).filter(|_| entries.len() <= COLLAPSE) else {
            return Ok(None);
        };
        for slot in slots {
            self.free_leaf(arena, slot);
        }
        arena.free(self.table, node, NODE_WORDS);
        self.leaf(arena, &entries, level, shape).map(Some)
    }
}
