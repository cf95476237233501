//! The writer's side of the FIB: one route set or removed.
//!
//! The segment is all there is: a node's block says which routes it holds (`fib/node.rs`), so there is no second copy of the table on
//! the heap. A change walks down to the node of its prefix, makes that block anew, and on the way back up copies each
//! block above with one entry patched. Blocks made earlier in the same transaction are edited in place; old ones are dropped, and readers of
//! older generations go on using them. A prefix shorter than its node's bits also makes anew the nodes below that showed another leaf.
//!
//! The shape depends on the routes alone, not on their history: one way through several levels is a path, and through one
//! level a node. So what was set and removed again has left nothing behind.
//!
//! Cost of a change at full size, published by itself: IPv4 copies the root (4.3 KiB, near) and a direct node of 1.1 KiB, IPv6 three direct
//! nodes of 4.3 KiB, and a block of a cache line or two is taken apart and put together: 1.8 µs (IPv4) and 2.2 µs (IPv6), a good part of it cache
//! misses. Many changes in one transaction share the copies: 1.2 and 1.7 µs each to load the whole table.
//! A change is made whole or not at all: what could be refused (there is no room) comes before what readers or this writer could see.

mod paint;
mod write;

use super::{
    Family, HALF, MAX_LEAF, NARROW_BITS, NODE, PATH, Prefix,
    node::{Block, Node, Packed, Path},
    slot_of, target, top_bits,
};
use crate::{
    arena::{Arena, Table},
    error::Error,
    words::{Ref, Words},
};
use ipnet::IpNet;

/// The routes of one family.
#[derive(Debug)]
pub struct Fib {
    family: Family,
    /// Whose bytes its blocks are.
    table: Table,
    root: u32,
    len: usize,
    /// Blocks made by the change under way, to be dropped if it fails …
    made: Vec<(Ref, usize)>,
    /// … and those that it replaces, to be dropped if it doesn't.
    gone: Vec<(Ref, usize)>,
    /// Nodes to work with, kept for their memory.
    spare: Vec<Node>,
    packed: Packed,
}

impl Fib {
    /// No routes.
    pub fn new(family: Family) -> Self {
        let table = match family {
            Family::V4 => Table::Routes4,
            Family::V6 => Table::Routes6,
        };
        Self::of(family, table)
    }

    /// No prefixes, of something else than routes: their bytes are accounted to `table`.
    pub fn of(family: Family, table: Table) -> Self {
        Self {
            family,
            table,
            root: 0,
            len: 0,
            made: Vec::new(),
            gone: Vec::new(),
            spare: Vec::new(),
            packed: Packed::default(),
        }
    }

    /// Routes it has.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What readers look up in, as it is now: 0 when there are no routes.
    pub fn root(&self) -> u32 {
        self.root
    }

    /// Whose bytes its blocks are.
    pub fn table(&self) -> Table {
        self.table
    }

    /// Sets the leaf (1 … [`MAX_LEAF`]) of `prefix` (host bits are ignored) and returns the one it had.
    ///
    /// Readers see it under the new [`Fib::root`]. On an error nothing has changed.
    pub fn insert(
        &mut self,
        arena: &mut Arena,
        prefix: &IpNet,
        leaf: u32,
    ) -> Result<Option<u32>, Error> {
        debug_assert!((1..=MAX_LEAF).contains(&leaf));
        self.change(arena, prefix, leaf)
    }

    /// Takes the route of `prefix` away and returns its leaf. On an error nothing has changed.
    pub fn remove(&mut self, arena: &mut Arena, prefix: &IpNet) -> Result<Option<u32>, Error> {
        self.change(arena, prefix, 0)
    }

    fn change(
        &mut self,
        arena: &mut Arena,
        prefix: &IpNet,
        leaf: u32,
    ) -> Result<Option<u32>, Error> {
        let Prefix { bits, len } = Prefix::of(prefix);
        let table = self.table();
        let mut change = Change { fib: self, arena, bits, len: len.into(), leaf, old: None };
        let result = change.run();
        let old = change.old;
        if result.is_err() {
            std::mem::swap(&mut self.made, &mut self.gone);
        }
        self.made.clear();
        for (at, words) in self.gone.drain(..) {
            arena.free(table, at, words);
        }
        result.map(|()| old)
    }
}

/// What a node has become.
enum Shape {
    /// What it was, as its parent sees it.
    Same,
    /// No route is left.
    Empty,
    /// A block, with this entry.
    Block(u32),
    /// Nothing but the way to a block, not written yet.
    Way(Path),
}

/// One change under way.
struct Change<'a> {
    fib: &'a mut Fib,
    arena: &'a mut Arena,
    /// The prefix.
    bits: u128,
    len: u32,
    /// Its new leaf, 0 to remove it.
    leaf: u32,
    /// Its old one.
    old: Option<u32>,
}

impl Change<'_> {
    fn run(&mut self) -> Result<(), Error> {
        let root = self.fib.root;
        self.fib.root = match self.at(root, 0)? {
            Shape::Same => root,
            Shape::Block(entry) => entry,
            // Direct nodes are never ways.
            Shape::Empty | Shape::Way(_) => 0,
        };
        let (before, after) = (usize::from(self.old.is_some()), usize::from(self.leaf != 0));
        self.fib.len = self.fib.len + after - before;
        // Not when nothing was there to be removed, or what is set was set already.
        if self.fib.root != 0 && self.old.unwrap_or(0) != self.leaf {
            let at = target(self.fib.root);
            let default = self.arena.load(at, 0) & u64::from(u32::MAX);
            self.arena.store(at, 0, default | (self.fib.len as u64) << 32);
        }
        Ok(())
    }

    fn slot(&self, depth: u32) -> usize {
        slot_of(self.bits, depth, self.fib.family.width(depth))
    }

    fn block(&self, entry: u32, depth: u32) -> Block<'_> {
        Block::at(self.arena.words(), self.fib.family, entry, depth)
    }

    /// A node to work with, taken apart.
    fn read(&mut self, entry: u32, depth: u32) -> Node {
        let mut node = self.fib.spare.pop().unwrap_or_default();
        node.read(&self.block(entry, depth), self.fib.family.width(depth));
        node
    }

    /// A node without routes.
    fn clear(&mut self, depth: u32, leaf: u32) -> Node {
        let mut node = self.fib.spare.pop().unwrap_or_default();
        node.clear(self.fib.family.width(depth), leaf);
        node
    }

    /// Makes the change below `entry`, whose node is after `depth` bits.
    fn at(&mut self, entry: u32, depth: u32) -> Result<Shape, Error> {
        let width = self.fib.family.width(depth);
        if entry & NODE == 0 {
            return if self.leaf == 0 { Ok(Shape::Same) } else { self.grow(entry, depth) };
        }
        if self.block(entry, depth).is_path() {
            return self.at_path(entry, depth);
        }
        if self.len <= depth + width {
            let mut node = self.read(entry, depth);
            return if self.set_route(&mut node, depth)? {
                self.put(node, entry, depth)
            } else {
                self.fib.spare.push(node);
                Ok(Shape::Same)
            };
        }
        let slot = self.slot(depth);
        if !self.fib.family.is_wide(depth) && entry & HALF != 0 {
            return self.below_leaf(entry, depth, slot);
        }
        let below = self.block(entry, depth).entry(slot);
        if below & NODE == 0 {
            return self.below_leaf(entry, depth, slot);
        }
        match self.at(below, depth + width)? {
            Shape::Same => Ok(Shape::Same),
            Shape::Block(new) => self.patch(entry, depth, slot, new),
            shape => {
                let mut node = self.read(entry, depth);
                let leaf = match node.painted(slot).or_else(|| node.inherited()) {
                    Some(leaf) => leaf,
                    None => self.covering(depth),
                };
                node.slots[slot] = leaf;
                if let Shape::Way(path) = shape {
                    let is_way = node.routes.is_empty() && node.blocks().next().is_none();
                    if is_way && !self.fib.family.is_wide(depth) {
                        self.drop_block(entry, depth);
                        self.fib.spare.push(node);
                        return Ok(Shape::Way(behind(slot, path)));
                    }
                    node.slots[slot] = self.way(path, depth + width, leaf)?;
                }
                self.put(node, entry, depth)
            }
        }
    }

    /// [`Change::at`], where `slot` of the node at `entry` is a leaf.
    fn below_leaf(&mut self, entry: u32, depth: u32, slot: usize) -> Result<Shape, Error> {
        if self.leaf == 0 {
            return Ok(Shape::Same);
        }
        let mut node = self.read(entry, depth);
        let leaf = node.slots[slot];
        let below = depth + node.width;
        let shape = self.grow(leaf, below)?;
        node.slots[slot] = self.entry(shape, below, leaf)?;
        self.put(node, entry, depth)
    }

    /// [`Change::at`], where there was no block but `leaf`.
    fn grow(&mut self, leaf: u32, depth: u32) -> Result<Shape, Error> {
        let family = self.fib.family;
        if family.is_wide(depth) && self.len > depth + family.width(depth) {
            let below = depth + family.width(depth);
            let shape = self.grow(leaf, below)?;
            let mut node = self.clear(depth, leaf);
            let slot = self.slot(depth);
            node.slots[slot] = self.entry(shape, below, leaf)?;
            return self.write(node, 0, depth);
        }
        let mut last = depth;
        while self.len > last + family.width(last) {
            last += NARROW_BITS;
        }
        let mut node = self.clear(last, leaf);
        self.set_route(&mut node, last)?;
        match self.write(node, 0, last)? {
            Shape::Block(target) if last > depth => {
                let len = last - depth;
                Ok(Shape::Way(Path { bits: top_bits(self.bits << depth, len), len, target }))
            }
            shape => Ok(shape),
        }
    }

    /// [`Change::at`] a path.
    fn at_path(&mut self, entry: u32, depth: u32) -> Result<Shape, Error> {
        let (path, beside) = Path::read(self.arena.words(), entry);
        // Levels that the prefix goes through as the path does.
        let mut passed = 0;
        while passed < path.len
            && self.len > depth + passed + NARROW_BITS
            && self.slot(depth + passed) == slot_of(path.bits, passed, NARROW_BITS)
        {
            passed += NARROW_BITS;
        }
        if passed == path.len {
            let shape = match self.at(path.target, depth + path.len)? {
                Shape::Same => return Ok(Shape::Same),
                Shape::Empty => Shape::Empty,
                Shape::Block(target) => {
                    let words = Path { target, ..path }.to_words(beside);
                    return self.write_packed(NODE | PATH, &words, entry, depth);
                }
                Shape::Way(on) => Shape::Way(joined(path, on)),
            };
            self.drop_block(entry, depth);
            return Ok(shape);
        }
        if self.leaf == 0 {
            return Ok(Shape::Same);
        }
        // A node at the level where they part; what is left of the path hangs below it.
        let (parting, on) = (depth + passed, passed + NARROW_BITS);
        let rest = Path { bits: path.bits << on, len: path.len - on, target: path.target };
        let mut node = self.clear(parting, beside);
        node.slots[slot_of(path.bits, passed, NARROW_BITS)] =
            self.way(rest, parting + NARROW_BITS, beside)?;
        if self.len <= parting + NARROW_BITS {
            self.set_route(&mut node, parting)?;
        } else {
            let shape = self.grow(beside, parting + NARROW_BITS)?;
            let slot = self.slot(parting);
            node.slots[slot] = self.entry(shape, parting + NARROW_BITS, beside)?;
        }
        let shape = self.write(node, 0, parting)?;
        self.drop_block(entry, depth);
        match shape {
            Shape::Block(target) if passed > 0 => {
                let bits = top_bits(path.bits, passed);
                Ok(Shape::Way(Path { bits, len: passed, target }))
            }
            shape => Ok(shape),
        }
    }
}

/// The way through `slot`, then `path`.
fn behind(slot: usize, path: Path) -> Path {
    let bits = (slot as u128) << (128 - NARROW_BITS) | path.bits >> NARROW_BITS;
    Path { bits, len: path.len + NARROW_BITS, ..path }
}

/// One way after another.
fn joined(path: Path, on: Path) -> Path {
    Path { bits: path.bits | on.bits >> path.len, len: path.len + on.len, ..on }
}

impl Fib {
    /// The leaf of exactly `prefix`.
    pub fn get(&self, words: Words<'_>, prefix: &IpNet) -> Option<u32> {
        let Prefix { bits, len } = Prefix::of(prefix);
        let len = u32::from(len);
        let (mut entry, mut depth) = (self.root, 0);
        while entry & NODE != 0 {
            let block = Block::at(words, self.family, entry, depth);
            let width = self.family.width(depth);
            if block.is_path() {
                let (path, _) = Path::read(words, entry);
                if top_bits(bits << depth, path.len) != path.bits {
                    return None;
                }
                (entry, depth) = (path.target, depth + path.len);
            } else if len > depth + width {
                if !self.family.is_wide(depth) && entry & HALF != 0 {
                    return None;
                }
                (entry, depth) = (block.entry(slot_of(bits, depth, width)), depth + width);
            } else {
                let mut node = Node::default();
                node.read(&block, width);
                let below = len.checked_sub(depth)?;
                let position =
                    if below == 0 { 1 } else { 1 << below | slot_of(bits, depth, below) as u16 };
                let found = node.routes.binary_search_by_key(&position, |route| route.0).ok()?;
                return Some(node.routes[found].1);
            }
        }
        None
    }
}
