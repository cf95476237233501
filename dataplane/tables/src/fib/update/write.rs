//! Blocks written, patched and dropped, and what a node has become.

use super::{Change, Node, Path, Shape, behind};
use crate::{
    arena::Arena,
    error::Error,
    fib::{NARROW_BITS, NODE, PATH, PATH_WORDS, REF, slot_of, target},
    words::Ref,
};

impl Change<'_> {
    /// The entry that leads to a shape.
    pub(super) fn entry(&mut self, shape: Shape, depth: u32, leaf: u32) -> Result<u32, Error> {
        match shape {
            Shape::Block(entry) => Ok(entry),
            Shape::Way(path) => self.way(path, depth, leaf),
            Shape::Same | Shape::Empty => Ok(leaf),
        }
    }

    /// Writes a way: no block, a node, or a path.
    pub(super) fn way(&mut self, path: Path, depth: u32, beside: u32) -> Result<u32, Error> {
        match path.len {
            0 => Ok(path.target),
            NARROW_BITS => {
                let mut node = self.clear(depth, beside);
                node.slots[slot_of(path.bits, 0, NARROW_BITS)] = path.target;
                let shape = self.write(node, 0, depth)?;
                self.entry(shape, depth, beside)
            }
            _ => {
                let at = self.alloc(PATH_WORDS)?;
                self.arena.write(at, &path.to_words(beside));
                Ok(NODE | PATH | at.raw())
            }
        }
    }

    /// What has become of the node at `entry`, given its routes and entries.
    pub(super) fn put(&mut self, node: Node, entry: u32, depth: u32) -> Result<Shape, Error> {
        if node.routes.is_empty()
            && !self.fib.family.is_wide(depth)
            && let Some((slot, below)) = node.only_way()
        {
            self.drop_block(entry, depth);
            self.fib.spare.push(node);
            let way = self.as_way(below, depth + NARROW_BITS);
            return Ok(Shape::Way(behind(slot, way)));
        }
        if node.routes.is_empty() && node.blocks().next().is_none() {
            self.drop_block(entry, depth);
            self.fib.spare.push(node);
            return Ok(Shape::Empty);
        }
        self.write(node, entry, depth)
    }

    /// A block as the way it may be: it is dropped then.
    pub(super) fn as_way(&mut self, entry: u32, depth: u32) -> Path {
        if entry & PATH != 0 {
            self.drop_block(entry, depth);
            return Path::read(self.arena.words(), entry).0;
        }
        let node = self.read(entry, depth);
        let way = match node.only_way() {
            Some((slot, target)) => {
                self.drop_block(entry, depth);
                behind(slot, Path { bits: 0, len: 0, target })
            }
            None => Path { bits: 0, len: 0, target: entry },
        };
        self.fib.spare.push(node);
        way
    }

    /// Writes a node, in place of the block at `entry` (0: of none).
    pub(super) fn write(&mut self, node: Node, entry: u32, depth: u32) -> Result<Shape, Error> {
        let family = self.fib.family;
        let mut packed = std::mem::take(&mut self.fib.packed);
        let kind = node.pack(family.is_wide(depth), family.has_halves(), &mut packed);
        self.fib.spare.push(node);
        let result = self.write_packed(kind, &packed.words, entry, depth);
        self.fib.packed = packed;
        result
    }

    pub(super) fn write_packed(
        &mut self,
        kind: u32,
        words: &[u64],
        entry: u32,
        depth: u32,
    ) -> Result<Shape, Error> {
        let old = target(entry);
        if entry != 0 && self.arena.is_fresh(old) {
            let had = self.block(entry, depth).words();
            if Arena::bytes_of(had) == Arena::bytes_of(words.len()) {
                self.arena.write(old, words);
                let new = kind | old.raw();
                return Ok(if new == entry { Shape::Same } else { Shape::Block(new) });
            }
        }
        let at = self.alloc(words.len())?;
        self.arena.write(at, words);
        if entry != 0 {
            self.drop_block(entry, depth);
        }
        Ok(Shape::Block(kind | at.raw()))
    }

    /// The same node with one entry changed from a block to another.
    pub(super) fn patch(
        &mut self,
        entry: u32,
        depth: u32,
        slot: usize,
        new: u32,
    ) -> Result<Shape, Error> {
        let block = self.block(entry, depth);
        let (index, words, old) = (block.index(slot), block.words(), target(entry));
        let fresh = self.arena.is_fresh(old);
        let at = if fresh { old } else { self.alloc(words)? };
        if !fresh {
            self.arena.copy(old, at, words);
            self.drop_block(entry, depth);
        }
        let shift = index % 2 * 32;
        let pair = self.arena.load(at, index / 2) & !(u64::from(u32::MAX) << shift);
        self.arena.store(at, index / 2, pair | u64::from(new) << shift);
        Ok(if fresh { Shape::Same } else { Shape::Block(entry & !REF | at.raw()) })
    }

    pub(super) fn alloc(&mut self, words: usize) -> Result<Ref, Error> {
        let at = self.arena.alloc(self.fib.table(), words)?;
        debug_assert!(at.raw() & !REF == 0);
        self.fib.made.push((at, words));
        Ok(at)
    }

    pub(super) fn drop_block(&mut self, entry: u32, depth: u32) {
        let words = self.block(entry, depth).words();
        self.fib.gone.push((target(entry), words));
    }
}
