//! Index tree: a small number → the place of its record.
//!
//! Nodes of 64 references; as many levels as the highest index needs, kept with the root:
//! `ref | height << 32`. Height 1 is one node. Copy-on-write: a change copies one node a level.
//!
//! Cost: log64(highest index) slots and the record's own cache line. Memory: 256 bytes for each 64 records,
//! about 4 bytes a record when numbers are dense (the writer hands out the lowest free one).

use crate::{
    arena::{Arena, Table},
    error::Error,
    layout::{high, low, pack},
    words::{Ref, Words},
};

const BITS: u32 = 6;
const FANOUT: usize = 1 << BITS;
const NODE_WORDS: usize = FANOUT / 2;
/// Levels for 32-bit indices.
const MOST_LEVELS: u32 = 6;

#[inline]
fn slot_of(index: u32, level: u32) -> usize {
    (index >> (level * BITS)) as usize % FANOUT
}

fn covers(height: u32, index: u32) -> bool {
    height > 0 && (height >= MOST_LEVELS || u64::from(index) >> (height * BITS) == 0)
}

/// The place of record `index`, or [`Ref::NULL`].
#[inline]
pub fn find(words: Words<'_>, root: u64, index: u32) -> Ref {
    let height = high(root).min(MOST_LEVELS);
    if !covers(height, index) {
        return Ref::NULL;
    }
    let mut at = low(root);
    for level in (0..height).rev() {
        if at.is_null() {
            return Ref::NULL;
        }
        at = Ref::from_raw(words.u32_at(at, slot_of(index, level)));
    }
    at
}

/// All records, by index. Ends on any memory.
#[derive(Clone, Debug)]
pub struct Iter<'a> {
    words: Words<'a>,
    height: u32,
    stack: Vec<(Ref, usize)>,
    budget: usize,
}

/// Iterates over the records under `root`, lowest index first.
pub fn iter(words: Words<'_>, root: u64) -> Iter<'_> {
    let height = high(root).min(MOST_LEVELS);
    let stack = if height == 0 || low(root).is_null() { Vec::new() } else { vec![(low(root), 0)] };
    // Honest nodes are distinct, 64 slots each: no more slots than twice the words of the segment.
    Iter { words, height, stack, budget: words.0.len().saturating_mul(4) }
}

impl Iterator for Iter<'_> {
    type Item = (u32, Ref);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            self.budget = self.budget.checked_sub(1)?;
            let (node, slot) = self.stack.last_mut()?;
            if *slot == FANOUT {
                self.stack.pop();
                continue;
            }
            let child = Ref::from_raw(self.words.u32_at(*node, *slot));
            *slot += 1;
            if child.is_null() {
                continue;
            }
            if self.stack.len() == self.height as usize {
                let index = self
                    .stack
                    .iter()
                    .fold(0u64, |index, (_, next)| index << BITS | (*next as u64 - 1));
                return Some((index as u32, child));
            }
            self.stack.push((child, 0));
        }
    }
}

/// The writer's side.
#[derive(Debug)]
pub struct Index {
    table: Table,
    root: Ref,
    height: u32,
    len: usize,
}

impl Index {
    /// Bytes that one change may allocate at most.
    pub const WORST_CHANGE: u64 = 2 * MOST_LEVELS as u64 * NODE_WORDS as u64 * 8;

    /// An empty tree whose bytes are accounted to `table`.
    pub fn new(table: Table) -> Self {
        Self { table, root: Ref::NULL, height: 0, len: 0 }
    }

    /// The word for the root record.
    pub fn root(&self) -> u64 {
        pack(self.root, self.height)
    }

    /// Records in it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The place of record `index`, or [`Ref::NULL`].
    pub fn get(&self, arena: &Arena, index: u32) -> Ref {
        find(arena.words(), self.root(), index)
    }

    /// Sets the place of record `index` ([`Ref::NULL`] removes it); returns the one before.
    ///
    /// The records themselves are the caller's to allocate and free. On an error the tree holds what it held.
    pub fn set(&mut self, arena: &mut Arena, index: u32, record: Ref) -> Result<Ref, Error> {
        let old = self.get(arena, index);
        if old.is_null() && record.is_null() {
            return Ok(old);
        }
        while !covers(self.height, index) {
            // An empty tree has nothing to hang below a new node.
            if !self.root.is_null() {
                let node = arena.alloc_zeroed(self.table, NODE_WORDS)?;
                arena.store(node, 0, u64::from(self.root.raw()));
                self.root = node;
            }
            self.height += 1;
        }
        let result;
        (self.root, result) = self.change(arena, self.root, self.height - 1, index, record);
        if self.root.is_null() {
            self.height = 0;
        }
        result?;
        self.len = self.len + usize::from(old.is_null()) - usize::from(record.is_null());
        Ok(old)
    }

    /// The node that takes the place of `node`, and whether it has the record: without room for it, it has what it had.
    fn change(
        &self,
        arena: &mut Arena,
        node: Ref,
        level: u32,
        index: u32,
        record: Ref,
    ) -> (Ref, Result<(), Error>) {
        let slot = slot_of(index, level);
        let own = if node.is_null() {
            arena.alloc_zeroed(self.table, NODE_WORDS)
        } else {
            arena.own(self.table, node, NODE_WORDS)
        };
        let node = match own {
            Ok(own) => own,
            Err(error) => return (node, Err(error)),
        };
        let (child, result) = if level == 0 {
            (record, Ok(()))
        } else {
            let child = Ref::from_raw(arena.words().u32_at(node, slot));
            self.change(arena, child, level - 1, index, record)
        };
        let shift = slot % 2 * 32;
        let word = arena.load(node, slot / 2) & !(0xffff_ffff << shift);
        arena.store(node, slot / 2, word | u64::from(child.raw()) << shift);
        if child.is_null() && (0..NODE_WORDS).all(|offset| arena.load(node, offset) == 0) {
            arena.free(self.table, node, NODE_WORDS);
            return (Ref::NULL, result);
        }
        (node, result)
    }
}

#[cfg(test)]
mod tests;
