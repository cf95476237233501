//! The routes as they were set, read back from the trie: for `show`, `explain` and tests.
//!
//! Cost: taking every block apart (`fib/node.rs`). On corrupt words the walk reads no more than the segment has and yields no more
//! than the root counts.

use super::{
    Family, Key, MAX_LEAF, NODE, Prefix,
    node::{Block, Node, Path},
    slot_of, target, top_bits,
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
    node: Node,
    /// Routes it may still yield, and blocks and words it may still read.
    routes: u64,
    blocks: u64,
    budget: usize,
}

/// At least the levels that an IPv6 address has.
const LEVELS: u64 = 24;

/// All routes below `root` (see [`super::Fib::root`]).
pub fn routes(words: Words<'_>, root: u32, family: Family) -> Routes<'_> {
    let top = Place { entry: root, bits: 0, depth: 0 };
    let to_visit = if root & NODE == 0 { Vec::new() } else { vec![top] };
    // A block leads to a route, in no more levels than an address has: what more there is, corruption made.
    let routes = words.at(target(root), 0) >> 32;
    let (blocks, budget) = ((routes + 1) * LEVELS, words.0.len());
    let (found, node) = (Vec::new(), Node::default());
    Routes { words, family, to_visit, found, node, routes, blocks, budget }
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
        let block = Block::at(self.words, self.family, place.entry, place.depth);
        let Some(left) = self.budget.checked_sub(block.words()) else {
            // More to read than a sound segment has.
            self.to_visit.clear();
            return;
        };
        self.budget = left;
        if block.is_path() {
            self.to_visit.extend(place.behind_path(self.words));
            return;
        }
        self.node.read(&block, self.family.width(place.depth));
        let routes = self.node.routes.iter().rev();
        self.found.extend(routes.filter_map(|route| place.route(*route, self.family)));
        let below =
            self.node.blocks().map(|(slot, entry)| place.below(slot, entry, self.node.width));
        self.to_visit.extend(below);
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
    /// A route of this node, if the family has such a prefix.
    fn route(self, (position, leaf): (u16, u32), family: Family) -> Option<(IpNet, u32)> {
        let len = position.checked_ilog2()?;
        let depth = self.depth + len;
        if depth > family.bits().into() {
            return None;
        }
        let own = u128::from(position - (1 << len)).checked_shl(128 - depth).unwrap_or(0);
        Some((Prefix { bits: self.bits | own, len: depth as u8 }.to_net(family), leaf & MAX_LEAF))
    }

    /// One level on, behind `slot`.
    fn below(self, slot: usize, entry: u32, width: u32) -> Self {
        let depth = self.depth + width;
        let own = (slot as u128).checked_shl(128u32.saturating_sub(depth)).unwrap_or(0);
        Self { entry, bits: self.bits | own, depth }
    }

    /// The block that a path leads to. One of no bits would lead in circles.
    fn behind_path(self, words: Words<'_>) -> Option<Self> {
        let (path, _) = Path::read(words, self.entry);
        let bits = self.bits | path.bits.checked_shr(self.depth).unwrap_or(0);
        let depth = self.depth + path.len;
        (path.len > 0 && path.target & NODE != 0).then_some(Self {
            entry: path.target,
            bits,
            depth,
        })
    }
}

/// The longest route that covers `key`, with its leaf: what [`super::lookup`] finds, but named.
pub fn best<K: Key>(words: Words<'_>, root: u32, key: K) -> Option<(IpNet, u32)> {
    let (family, bits) = (K::FAMILY, key.bits());
    let mut place = Place { entry: root, bits: 0, depth: 0 };
    let mut node = Node::default();
    let mut best = None;
    while place.entry & NODE != 0 && place.depth < family.bits().into() {
        let block = Block::at(words, family, place.entry, place.depth);
        if block.is_path() {
            match place.behind_path(words) {
                Some(behind) if top_bits(bits ^ behind.bits, behind.depth.min(128)) == 0 => {
                    place = behind
                }
                // A leaf beside a path is an outer route's, which has been seen.
                _ => break,
            }
            continue;
        }
        node.read(&block, family.width(place.depth));
        let slot = slot_of(bits, place.depth, node.width);
        let owner = usize::from(node.owners[slot]).checked_sub(1);
        let default = node.routes.first().filter(|route| route.0 == 1);
        let longest = owner.map(|owner| &node.routes[owner]).or(default);
        best = longest.and_then(|route| place.route(*route, family)).or(best);
        place = place.below(slot, node.slots[slot], node.width);
    }
    best
}
