//! The writer's side of the FIB: the routes on the heap, and how a change gets into the segment.
//!
//! The RIB is a trie of the same strides as the FIB's: a node holds the routes whose last bits are its own, and its
//! children. A change marks the way to its node; [`Fib::commit`] makes the blocks of marked nodes anew, lowest first,
//! and drops the old ones, which readers of older generations go on using. Nothing else is copied.
//!
//! Cost of a change: a walk of the heap trie (one node a level), a copy of the two direct nodes of 2 KiB with one
//! entry patched, and usually one block of a cache line or two. A prefix shorter than a node's bits also remakes the nodes
//! below it that showed its leaf. Many changes in one transaction share these blocks.
//! Memory in the segment: 24 bytes a node, 4 bytes a run, 3 KiB a direct node. On the heap: 8 bytes a route, about 150 a node.

use super::{
    MAX_LEAF, NARROW_ENTRIES, NODE, PATH, PATH_WORDS, Prefix, REF, WIDE_ENTRIES, WIDE_LEVELS,
    bitmap_words, bits_of, narrow_words, wide_words,
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
    /// The routes, or which children there are, have changed since the block was made.
    repaint: bool,
    /// Slots of the marked children.
    changed: Vec<u16>,
    block: Ref,
    block_words: usize,
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
            let slot = (bits >> (128 - width)) as u16;
            let node = &mut *child.node;
            let place = node.child(slot);
            child = &mut node.children[place];
            if !child.marked {
                node.changed.push(slot);
            }
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
            let (at, words) = top.take_block();
            arena.free(self.table, at, words);
            (self.top.marked, self.top.entry) = (false, 0);
        } else {
            Build { arena, table: self.table, count: self.len as u32 }.child(
                &mut self.top,
                0,
                0,
                false,
            )?;
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
        node.repaint = true;
        return Some(node.routes.remove(found).1);
    }
    let slot = (bits >> (128 - width)) as u16;
    let found = node.children.binary_search_by_key(&slot, |child| child.slot).ok()?;
    let below = &mut node.children[found];
    if !below.marked {
        node.changed.push(slot);
    }
    let old = remove(below, level + 1, bits << width, len - width, pending, dead);
    if below.node.routes.is_empty() && below.node.children.is_empty() {
        dead.push(below.node.take_block());
        node.children.remove(found);
        node.repaint = true;
    }
    old
}

impl Node {
    fn set_route(&mut self, position: u16, leaf: u32) -> Option<u32> {
        self.repaint = true;
        match self.routes.binary_search_by_key(&position, |route| route.0) {
            Ok(found) => Some(std::mem::replace(&mut self.routes[found].1, leaf)),
            Err(place) => {
                self.routes.insert(place, (position, leaf));
                None
            }
        }
    }

    /// Where the child of `slot` is; made if there is none.
    fn child(&mut self, slot: u16) -> usize {
        self.children.binary_search_by_key(&slot, |child| child.slot).unwrap_or_else(|place| {
            let node = Box::default();
            let child = Child { slot, marked: false, inherited: 0, entry: 0, node };
            self.children.insert(place, child);
            self.repaint = true;
            place
        })
    }

    /// About the bytes of its block.
    fn estimate(&self, level: usize) -> u64 {
        Arena::bytes_of(if level < WIDE_LEVELS {
            wide_words(level, self.routes.len())
        } else {
            narrow_words((2 * (self.routes.len() + self.children.len()) + 3).min(64), 0)
        })
    }

    fn take_block(&mut self) -> (Ref, usize) {
        (std::mem::take(&mut self.block), self.block_words)
    }

    /// Whether it is nothing but the way to its one child.
    fn is_way(&self, level: usize) -> bool {
        level >= WIDE_LEVELS && self.routes.is_empty() && self.children.len() == 1
    }

    /// For each slot, 1 + the index of its longest route, or 0. The default route is not pushed down (it would be in
    /// every node): readers find it in the root's header.
    fn paint(&self, width: u32, owners: &mut [u16]) {
        for (index, &(position, _)) in
            self.routes.iter().enumerate().filter(|(_, route)| route.0 > 1)
        {
            let len = position.ilog2();
            let first = usize::from(position - (1 << len)) << (width - len);
            owners[first..first + (1 << (width - len))].fill(index as u16 + 1);
        }
    }
}

/// One commit.
struct Build<'a> {
    arena: &'a mut Arena,
    table: Table,
    /// Routes of the whole trie.
    count: u32,
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
        let same =
            child.inherited == inherited && (child.entry == 0) == (within && node.is_way(level));
        if !child.marked && same {
            return Ok(());
        }
        child.entry = if node.is_way(level) {
            self.path(node, level, inherited, within)?
        } else if level < WIDE_LEVELS && !node.repaint && same {
            self.patch(node, level)?
        } else {
            self.slots(node, level, inherited)?
        };
        node.changed.clear();
        node.repaint = false;
        (child.marked, child.inherited) = (false, inherited);
        Ok(())
    }

    /// A wide node of which nothing has changed but blocks of children.
    fn patch(&mut self, node: &mut Node, level: usize) -> Result<u32, Error> {
        node.block = self.arena.own(self.table, node.block, node.block_words)?;
        let default = self.arena.load(node.block, 0) & u64::from(u32::MAX);
        self.arena.store(node.block, 0, default | u64::from(self.count) << 32);
        for &slot in &node.changed {
            let Ok(found) = node.children.binary_search_by_key(&slot, |child| child.slot) else {
                continue;
            };
            let child = &mut node.children[found];
            self.child(child, level + 1, child.inherited, false)?;
            let index = WIDE_ENTRIES + usize::from(slot);
            let (shift, pair) = (index % 2 * 32, self.arena.load(node.block, index / 2));
            let pair = pair & !(u64::from(u32::MAX) << shift) | u64::from(child.entry) << shift;
            self.arena.store(node.block, index / 2, pair);
        }
        Ok(NODE | node.block.raw())
    }

    /// A node's block of entries.
    fn slots(&mut self, node: &mut Node, level: usize, inherited: u32) -> Result<u32, Error> {
        let width = bits_of(level);
        let mut owners = [0; MAX_SLOTS];
        let owners = &mut owners[..1 << width];
        node.paint(width, owners);
        let mut slots = [0; MAX_SLOTS];
        let slots = &mut slots[..1 << width];
        for (slot, &owner) in slots.iter_mut().zip(&*owners) {
            *slot = match owner {
                0 => inherited,
                _ => node.routes[usize::from(owner) - 1].1,
            };
        }
        for child in &mut node.children {
            let place = usize::from(child.slot);
            self.child(child, level + 1, slots[place], false)?;
            (slots[place], owners[place]) = (child.entry, 0);
        }
        let hidden = hidden(&node.routes, owners);
        if level < WIDE_LEVELS {
            let at = self.block(node, wide_words(level, hidden.len()))?;
            let default =
                node.routes.first().filter(|route| route.0 == 1).map_or(0, |route| route.1);
            self.arena.store(at, 0, u64::from(default) | u64::from(self.count) << 32);
            self.store_pairs(at, WIDE_ENTRIES / 2, slots);
            self.store_routes(at, wide_words(level, 0), level, node, &hidden);
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
        let at = self.block(node, narrow_words(runs, hidden.len()))?;
        self.arena.store(at, 0, bitmap);
        self.store_pairs(at, NARROW_ENTRIES / 2, &slots[..runs]);
        self.store_routes(at, narrow_words(runs, 0), level, node, &hidden);
        Ok(NODE | at.raw())
    }

    /// The routes as they were set, for `show`: the bitmap that ends before word `end`, and after it the `hidden` leaves.
    fn store_routes(&mut self, at: Ref, end: usize, level: usize, node: &Node, hidden: &[u32]) {
        let mut bitmap = [0u64; MAX_SLOTS * 2 / 64];
        let bitmap = &mut bitmap[..bitmap_words(level)];
        for &(position, _) in &node.routes {
            bitmap[usize::from(position / 64)] |= 1 << (position % 64);
        }
        for (word, &bits) in bitmap.iter().enumerate() {
            self.arena.store(at, end - bitmap.len() + word, bits);
        }
        self.store_pairs(at, end, hidden);
    }

    fn store_pairs(&mut self, at: Ref, first: usize, values: &[u32]) {
        for (word, pair) in values.chunks(2).enumerate() {
            let second = pair.get(1).copied().unwrap_or(0);
            self.arena.store(at, first + word, u64::from(pair[0]) | u64::from(second) << 32);
        }
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
            let (at, words) = node.take_block();
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

/// The leaves of the routes that no slot shows: `owners` are 1 + the indices of the routes that slots show. The default
/// route is in the header.
fn hidden(routes: &[(u16, u32)], owners: &[u16]) -> Vec<u32> {
    let mut shown = [0u64; MAX_SLOTS * 2 / 64];
    for &owner in owners.iter().filter(|&&owner| owner > 0) {
        shown[usize::from(owner - 1) / 64] |= 1 << ((owner - 1) % 64);
    }
    let is_shown = |index: usize| shown[index / 64] >> (index % 64) & 1 != 0;
    let of_route =
        |(index, route): (usize, &(u16, u32))| (route.0 > 1 && !is_shown(index)).then_some(route.1);
    routes.iter().enumerate().filter_map(of_route).collect()
}

const _: () = assert!(
    NARROW_ENTRIES.is_multiple_of(2) && WIDE_ENTRIES.is_multiple_of(2),
    "entries begin with a word"
);
