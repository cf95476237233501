//! The writer's side of the FIB: the routes on the heap, and how a change gets into the segment.
//!
//! The RIB is a trie of the same strides as the FIB's: a node holds the routes whose last bits are its own, and its
//! children. A change marks the way to its node; [`Fib::commit`] makes the blocks of marked nodes anew, lowest first,
//! and drops the old ones, which readers of older generations go on using. Nothing else is copied.
//!
//! Cost of a change: a walk of the heap trie (one node a level), then one block a level: the two
//! direct ones of 2 KiB each, and usually one of a cache line or two. A prefix shorter than a node's bits also remakes
//! the nodes below it that showed its leaf. Many changes in one transaction share these blocks.
//! Memory in the segment: about 4 bytes a run, 4 bytes a route (cold), 12 + 16 bytes a node.
//! On the heap: 8 bytes a route, 112 bytes a node.

use super::{
    MAX_LEAF, NARROW_ENTRIES, NODE, PATH, PATH_WORDS, Prefix, REF, WIDE_LEVELS, WIDE_WORDS,
    bitmap_words, bits_of, narrow_words,
};
use crate::{
    arena::{Arena, Table},
    error::Error,
    words::Ref,
};
use ipnet::IpNet;

/// Slots of a wide node, the most a node has.
const MAX_SLOTS: usize = 512;

/// The routes of one family, and the trie made of them.
#[derive(Debug)]
pub struct Fib {
    top: Child,
    table: Table,
    len: usize,
    /// Blocks of nodes that are gone.
    dead: Vec<(Ref, usize)>,
    /// About what the marked nodes will need.
    pending: u64,
}

/// A node, as its parent keeps it: what a parent has to know when it is made anew is here, so that its
/// other children's memory isn't touched.
#[derive(Debug)]
struct Child {
    slot: u16,
    /// The node, or one below it, has changed since its block was made.
    marked: bool,
    /// What its slot in the parent said when its block was made.
    inherited: u32,
    /// The entry its block is found by, 0 when its parent is a path that includes it.
    entry: u32,
    node: Box<Node>,
}

#[derive(Debug, Default)]
struct Node {
    /// `1 << len | bits` → leaf, for each prefix of `len` bits below the node's start; sorted, so shorter ones come first.
    routes: Vec<(u16, u32)>,
    /// By slot.
    children: Vec<Child>,
    /// The routes differ from those in the cold block.
    reroute: bool,
    block: Ref,
    block_words: usize,
    cold: Ref,
    cold_words: usize,
    /// What the parent has to include when it is a path.
    path: Path,
}

/// Levels with one way through: `bits` (left-aligned) lead to `target`.
#[derive(Clone, Copy, Debug, Default)]
struct Path {
    bits: u128,
    len: u32,
    target: u32,
}

impl Fib {
    /// No routes; blocks will be accounted to `table`.
    pub fn new(table: Table) -> Self {
        let top = Child { slot: 0, marked: false, inherited: 0, entry: 0, node: Box::default() };
        Self { top, table, len: 0, dead: Vec::new(), pending: 0 }
    }

    /// Routes it has.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// About how many bytes [`Fib::commit`] will ask of the arena, for [`Arena::reserve`].
    pub fn pending(&self) -> u64 {
        self.pending
    }

    /// Sets the leaf (1 … [`MAX_LEAF`]) of `prefix` (host bits are ignored) and returns the one it had.
    ///
    /// Readers see it after [`Fib::commit`] and a new root.
    pub fn insert(&mut self, prefix: &IpNet, leaf: u32) -> Option<u32> {
        debug_assert!((1..=MAX_LEAF).contains(&leaf));
        let Prefix { mut bits, len } = Prefix::of(prefix);
        let mut len = u32::from(len);
        let mut level = 0;
        let mut child = &mut self.top;
        loop {
            if !child.marked {
                child.marked = true;
                self.pending += child.node.estimate(level);
            }
            let width = bits_of(level);
            if len <= width {
                // An entry more, in the node and in its cold block, and what rounding adds.
                self.pending += 32;
                let old = child.node.set_route(position(bits, len), leaf);
                self.len += usize::from(old.is_none());
                return old;
            }
            child = child.node.child_mut((bits >> (128 - width)) as u16);
            bits <<= width;
            len -= width;
            level += 1;
        }
    }

    /// Takes the route of `prefix` away and returns its leaf.
    pub fn remove(&mut self, prefix: &IpNet) -> Option<u32> {
        self.get(prefix)?;
        let Prefix { bits, len } = Prefix::of(prefix);
        let old = remove(&mut self.top, 0, bits, len.into(), &mut self.pending, &mut self.dead);
        self.len -= usize::from(old.is_some());
        old
    }

    /// The leaf of exactly `prefix`.
    pub fn get(&self, prefix: &IpNet) -> Option<u32> {
        let Prefix { mut bits, len } = Prefix::of(prefix);
        let mut len = u32::from(len);
        let mut node = &self.top.node;
        for level in 0.. {
            let width = bits_of(level);
            if len <= width {
                break;
            }
            let slot = (bits >> (128 - width)) as u16;
            let found = node.children.binary_search_by_key(&slot, |child| child.slot).ok()?;
            node = &node.children[found].node;
            bits <<= width;
            len -= width;
        }
        let position = position(bits, len);
        let found = node.routes.binary_search_by_key(&position, |route| route.0).ok()?;
        Some(node.routes[found].1)
    }

    /// Makes the blocks of what has changed and returns the root that readers look up in: 0 when
    /// there are no routes.
    ///
    /// When the segment is full, what readers can see is untouched, and a later commit goes on from there.
    pub fn commit(&mut self, arena: &mut Arena) -> Result<u32, Error> {
        for (at, words) in self.dead.drain(..) {
            arena.free(self.table, at, words);
        }
        if self.len == 0 {
            let top = &mut *self.top.node;
            for (at, words) in top.take_blocks() {
                arena.free(self.table, at, words);
            }
            (self.top.marked, self.top.entry) = (false, 0);
        } else {
            Build { arena, table: self.table }.child(&mut self.top, 0, 0, false)?;
        }
        self.pending = 0;
        Ok(self.top.entry)
    }
}

/// Where a prefix of `len` bits (the top ones of `bits`) is in its node: shorter ones first.
fn position(bits: u128, len: u32) -> u16 {
    1 << len | bits.checked_shr(128 - len).unwrap_or(0) as u16
}

fn remove(
    child: &mut Child,
    level: usize,
    bits: u128,
    len: u32,
    pending: &mut u64,
    dead: &mut Vec<(Ref, usize)>,
) -> Option<u32> {
    let width = bits_of(level);
    let node = &mut *child.node;
    if !child.marked {
        child.marked = true;
        *pending += node.estimate(level);
    }
    if len <= width {
        let position = position(bits, len);
        let found = node.routes.binary_search_by_key(&position, |route| route.0).ok()?;
        node.reroute = true;
        return Some(node.routes.remove(found).1);
    }
    let slot = (bits >> (128 - width)) as u16;
    let found = node.children.binary_search_by_key(&slot, |child| child.slot).ok()?;
    let below = &mut node.children[found];
    let old = remove(below, level + 1, bits << width, len - width, pending, dead);
    if below.node.routes.is_empty() && below.node.children.is_empty() {
        dead.extend(below.node.take_blocks());
        node.children.remove(found);
    }
    old
}

impl Node {
    fn set_route(&mut self, position: u16, leaf: u32) -> Option<u32> {
        self.reroute = true;
        match self.routes.binary_search_by_key(&position, |route| route.0) {
            Ok(found) => Some(std::mem::replace(&mut self.routes[found].1, leaf)),
            Err(place) => {
                self.routes.insert(place, (position, leaf));
                None
            }
        }
    }

    fn child_mut(&mut self, slot: u16) -> &mut Child {
        let place = match self.children.binary_search_by_key(&slot, |child| child.slot) {
            Ok(found) => found,
            Err(place) => {
                let child =
                    Child { slot, marked: false, inherited: 0, entry: 0, node: Box::default() };
                self.children.insert(place, child);
                place
            }
        };
        &mut self.children[place]
    }

    /// About the bytes of its blocks.
    fn estimate(&self, level: usize) -> u64 {
        let cold = bitmap_words(level) + self.routes.len() / 2 + 1;
        let block = if level < WIDE_LEVELS {
            WIDE_WORDS
        } else {
            narrow_words((2 * (self.routes.len() + self.children.len()) + 3).min(64))
        };
        Arena::bytes_of(cold) + Arena::bytes_of(block)
    }

    fn take_blocks(&mut self) -> [(Ref, usize); 2] {
        let blocks = [(self.block, self.block_words), (self.cold, self.cold_words)];
        (self.block, self.cold) = (Ref::NULL, Ref::NULL);
        blocks
    }

    /// Whether it is nothing but the way to its one child.
    fn is_way(&self, level: usize) -> bool {
        level >= WIDE_LEVELS && self.routes.is_empty() && self.children.len() == 1
    }

    /// Gives each slot the leaf of its longest route, or `inherited`. The default route is not pushed
    /// down (it would be in every node): readers find it in the root's header.
    fn paint(&self, width: u32, inherited: u32, slots: &mut [u32]) {
        slots.fill(inherited);
        for &(position, leaf) in self.routes.iter().filter(|route| route.0 > 1) {
            let len = position.ilog2();
            let first = usize::from(position - (1 << len)) << (width - len);
            slots[first..first + (1 << (width - len))].fill(leaf);
        }
    }
}

/// One commit.
struct Build<'a> {
    arena: &'a mut Arena,
    table: Table,
}

impl Build<'_> {
    /// Makes what is below `child` up to date, given that its slot says `inherited`. When the parent is a
    /// path, `within` it, a child that is one too gets no block of its own.
    fn child(
        &mut self,
        child: &mut Child,
        level: usize,
        inherited: u32,
        within: bool,
    ) -> Result<(), Error> {
        let node = &mut *child.node;
        if !child.marked
            && child.inherited == inherited
            && (child.entry == 0) == (within && node.is_way(level))
        {
            return Ok(());
        }
        if node.reroute {
            self.cold(node, level)?;
        }
        child.entry = if node.is_way(level) {
            self.path(node, level, inherited, within)?
        } else {
            self.slots(node, level, inherited)?
        };
        (child.marked, child.inherited) = (false, inherited);
        Ok(())
    }

    /// A node's block of entries.
    fn slots(&mut self, node: &mut Node, level: usize, inherited: u32) -> Result<u32, Error> {
        let width = bits_of(level);
        let mut slots = [0; MAX_SLOTS];
        let slots = &mut slots[..1 << width];
        node.paint(width, inherited, slots);
        for child in &mut node.children {
            let slot = &mut slots[usize::from(child.slot)];
            self.child(child, level + 1, *slot, false)?;
            *slot = child.entry;
        }
        if level < WIDE_LEVELS {
            let default = match node.routes.first() {
                Some(&(1, leaf)) => leaf,
                _ => 0,
            };
            let at = self.block(node, WIDE_WORDS)?;
            self.arena.store(at, 0, u64::from(node.cold.raw()) | u64::from(default) << 32);
            for (word, pair) in slots.chunks_exact(2).enumerate() {
                self.arena.store(at, 1 + word, u64::from(pair[0]) | u64::from(pair[1]) << 32);
            }
            return Ok(NODE | at.raw());
        }
        // In place: `slots[..runs]` becomes the entries.
        let (mut bitmap, mut runs) = (0, 1);
        for slot in 1..slots.len() {
            if slots[slot] != slots[runs - 1] {
                slots[runs] = slots[slot];
                bitmap |= 1 << slot;
                runs += 1;
            }
        }
        let at = self.block(node, narrow_words(runs))?;
        self.arena.store(at, 0, bitmap);
        self.arena.store(at, 1, u64::from(node.cold.raw()) | u64::from(slots[0]) << 32);
        for (word, pair) in slots[1..runs].chunks(2).enumerate() {
            let second = pair.get(1).copied().unwrap_or(0);
            self.arena.store(at, 2 + word, u64::from(pair[0]) | u64::from(second) << 32);
        }
        Ok(NODE | at.raw())
    }

    /// A node that is nothing but a way: with its one child's, if that is one too.
    fn path(
        &mut self,
        node: &mut Node,
        level: usize,
        inherited: u32,
        within: bool,
    ) -> Result<u32, Error> {
        let width = bits_of(level);
        let [child] = &mut node.children[..] else { return self.slots(node, level, inherited) };
        self.child(child, level + 1, inherited, true)?;
        let below = if child.entry == 0 {
            child.node.path
        } else {
            Path { bits: 0, len: 0, target: child.entry }
        };
        node.path = Path {
            bits: u128::from(child.slot) << (128 - width) | below.bits >> width,
            len: width + below.len,
            target: below.target,
        };
        let path = node.path;
        if within {
            let [(at, words), _] = node.take_blocks();
            self.arena.free(self.table, at, words);
            return Ok(0);
        }
        let at = self.block(node, PATH_WORDS)?;
        self.arena.store(at, 0, u64::from(path.target) | u64::from(inherited) << 32);
        self.arena.store(at, 1, path.len.into());
        self.arena.store(at, 2, (path.bits >> 64) as u64);
        self.arena.store(at, 3, path.bits as u64);
        Ok(NODE | PATH | at.raw())
    }

    /// The routes as they were set, for `show`.
    fn cold(&mut self, node: &mut Node, level: usize) -> Result<(), Error> {
        let bitmap = bitmap_words(level);
        let words = bitmap + node.routes.len().div_ceil(2);
        let at = if node.routes.is_empty() {
            Ref::NULL
        } else {
            let at = self.arena.alloc(self.table, words)?;
            let mut bits = [0u64; MAX_SLOTS * 2 / 64];
            for &(position, _) in &node.routes {
                bits[usize::from(position / 64)] |= 1 << (position % 64);
            }
            for (word, &bits) in bits[..bitmap].iter().enumerate() {
                self.arena.store(at, word, bits);
            }
            for (word, pair) in node.routes.chunks(2).enumerate() {
                let second = pair.get(1).map_or(0, |route| route.1);
                self.arena.store(at, bitmap + word, u64::from(pair[0].1) | u64::from(second) << 32);
            }
            at
        };
        self.arena.free(self.table, node.cold, node.cold_words);
        (node.cold, node.cold_words, node.reroute) = (at, words, false);
        Ok(())
    }

    /// A block of `words` for `node` in the place of its old one.
    fn block(&mut self, node: &mut Node, words: usize) -> Result<Ref, Error> {
        if words == node.block_words && !node.block.is_null() && self.arena.is_fresh(node.block) {
            return Ok(node.block);
        }
        let at = self.arena.alloc(self.table, words)?;
        debug_assert!(at.raw() & !REF == 0);
        self.arena.free(self.table, node.block, node.block_words);
        (node.block, node.block_words) = (at, words);
        Ok(at)
    }
}

const _: () = assert!(NARROW_ENTRIES == 3, "`slots` writes the first entry beside the cold Ref");
