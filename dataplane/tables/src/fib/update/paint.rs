//! A route set or removed in its own node, and what that changes below.

use super::{Change, NODE, Node, Path};
use crate::{error::Error, fib::slot_of};

impl Change<'_> {
    /// Sets or removes the route in its own node; false when that changes nothing.
    pub(super) fn set_route(&mut self, node: &mut Node, depth: u32) -> Result<bool, Error> {
        let len = self.len - depth;
        let position = if len == 0 { 1 } else { 1 << len | slot_of(self.bits, depth, len) as u16 };
        let found = node.routes.binary_search_by_key(&position, |route| route.0);
        self.old = found.ok().map(|index| node.routes[index].1);
        if self.old.unwrap_or(0) == self.leaf {
            return Ok(false);
        }
        let (first, count) = node.range(position);
        let slots = if position > 1 { first..first + count } else { 0..0 };
        let to = match (found, self.leaf) {
            (Ok(_), 0) => self.leaf_without(node, position, depth),
            (_, leaf) => leaf,
        };
        let below = depth + node.width;
        for slot in slots {
            let owner = usize::from(node.owners[slot]).checked_sub(1);
            let is_its_own = match (owner, found) {
                (Some(owner), Ok(index)) => owner == index,
                // A longer one keeps its slots.
                (Some(owner), Err(_)) => node.routes[owner].0 < position,
                (None, _) => true,
            };
            if !is_its_own {
                continue;
            }
            if node.slots[slot] & NODE == 0 {
                node.slots[slot] = to;
            } else {
                node.slots[slot] = self.repaint(node.slots[slot], below, to)?;
            }
        }
        match (found, self.leaf) {
            (Ok(index), 0) => _ = node.routes.remove(index),
            (Ok(index), leaf) => node.routes[index].1 = leaf,
            (Err(index), leaf) => node.routes.insert(index, (position, leaf)),
        }
        node.paint();
        Ok(true)
    }

    /// What the slots of the route at `position` say once it is gone.
    pub(super) fn leaf_without(&mut self, node: &Node, position: u16, depth: u32) -> u32 {
        let mut shorter = position >> 1;
        while shorter > 1 {
            if let Ok(found) = node.routes.binary_search_by_key(&shorter, |route| route.0) {
                return node.routes[found].1;
            }
            shorter >>= 1;
        }
        node.inherited().unwrap_or_else(|| self.covering(depth))
    }

    /// The leaf that the node after `depth` bits inherits: asked when none of its slots shows it.
    pub(super) fn covering(&mut self, depth: u32) -> u32 {
        let (mut entry, mut at, mut leaf) = (self.fib.root, 0, 0);
        while at < depth && entry & NODE != 0 {
            if self.block(entry, at).is_path() {
                let (path, _) = Path::read(self.arena.words(), entry);
                (entry, at) = (path.target, at + path.len);
            } else {
                let node = self.read(entry, at);
                let slot = self.slot(at);
                leaf = node.painted(slot).unwrap_or(leaf);
                (entry, at) = (node.slots[slot], at + node.width);
                self.fib.spare.push(node);
            }
        }
        leaf
    }

    /// Makes everything below `entry` that showed the leaf from above show `leaf`.
    pub(super) fn repaint(&mut self, entry: u32, depth: u32, leaf: u32) -> Result<u32, Error> {
        if self.block(entry, depth).is_path() {
            let (path, _) = Path::read(self.arena.words(), entry);
            let target = self.repaint(path.target, depth + path.len, leaf)?;
            self.drop_block(entry, depth);
            return self.way(Path { target, ..path }, depth, leaf);
        }
        let mut node = self.read(entry, depth);
        for slot in 0..node.slots.len() {
            if node.owners[slot] == 0 {
                let below = node.slots[slot];
                node.slots[slot] = if below & NODE == 0 {
                    leaf
                } else {
                    self.repaint(below, depth + node.width, leaf)?
                };
            }
        }
        self.drop_block(entry, depth);
        let shape = self.write(node, 0, depth)?;
        self.entry(shape, depth, leaf)
    }
}
