//! A node's block taken apart and put together: for the writer, and for reading routes back.
//!
//! A FIB of pushed-down leaves forgets its prefixes; what comes after a node's entries keeps them. A prefix of `len` bits below the
//! node's start has the position `1 << len | bits`, so that shorter ones come first. A route's leaf is the entry of a slot where none is
//! longer; only when there is no such slot is the leaf written out (*hidden*). Lookups never touch this part.
//!
//! ```text
//! list      word: 1 | routes << 1 (3 bits) | hidden << 4 (4 bits); a position in each of the other 7 bytes    hidden leaves
//! bitmap    bit p: the prefix at position p is a route (bit 0: 0; bit 1: there are hidden leaves)             number, hidden leaves
//! wide      bit p, as above; bit 1 is the default route (its leaf is in the header)                           hidden leaves
//! ```
//! A narrow node has a list up to 7 routes, otherwise a bitmap of 2 words.
//!
//! Cost: about 150 ns for a narrow node, 1.5 µs for a wide one. Any words can be read: no count is taken further than a node can have.

use super::{
    FULL_ENTRIES, Family, HALF, HALF_ENTRIES, NODE, PATH, PATH_WORDS, WIDE_ENTRIES, path_bits,
    target,
};
use crate::words::{Ref, Words};

/// Most slots a node has.
const MAX_SLOTS: usize = 1024;
/// Routes a list holds.
const LISTED: usize = 7;

/// A block as it lies in the segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block<'a> {
    words: Words<'a>,
    entry: u32,
    /// Address bits of a wide node; of a narrow one 0.
    wide: u32,
    /// The root's has the default route.
    is_root: bool,
}

impl<'a> Block<'a> {
    /// The block that `entry` leads to, after `depth` bits.
    pub(super) fn at(words: Words<'a>, family: Family, entry: u32, depth: u32) -> Self {
        let wide = if family.is_wide(depth) { family.width(depth) } else { 0 };
        Self { words, entry, wide, is_root: depth == 0 }
    }

    pub(super) fn is_path(&self) -> bool {
        self.wide == 0 && self.entry & PATH != 0
    }

    fn place(&self) -> Ref {
        target(self.entry)
    }

    fn load(&self, offset: usize) -> u64 {
        self.words.at(self.place(), offset)
    }

    fn runs(&self) -> usize {
        ends_of(self.load(0)).count_ones() as usize + 1
    }

    /// Words up to where the routes are.
    fn entry_words(&self) -> usize {
        entry_words(self.wide, self.entry & HALF != 0, if self.wide > 0 { 0 } else { self.runs() })
    }

    /// Words of the bitmap of routes; 0 when they are a list.
    fn bitmap_words(&self, first: usize) -> usize {
        match self.wide {
            0 if self.load(first) & 1 != 0 => 0,
            0 => 2,
            bits => (2 << bits) / 64,
        }
    }

    /// The hidden leaves: index of the first, counted in u32, and how many there are.
    fn hidden(&self) -> (usize, usize) {
        let first = self.entry_words();
        let (word, routes) = (self.load(first), self.bitmap_words(first));
        let end = 2 * (first + routes);
        match (self.wide, routes) {
            (0, 0) => (end + 2, (word >> 4) as usize & 0xf),
            (0, _) if word & 2 == 0 => (end, 0),
            (0, _) => (end + 1, self.words.u32_at(self.place(), end) as usize & 0x7f),
            _ => (end, self.load(1) as usize % (2 * MAX_SLOTS)),
        }
    }

    /// Words of the whole block, as it was allocated.
    pub(super) fn words(&self) -> usize {
        if self.is_path() {
            return PATH_WORDS;
        }
        let (first, count) = self.hidden();
        (first + count).div_ceil(2)
    }

    /// Index of the entry of `slot`, counted in u32; not in a half node.
    pub(super) fn index(&self, slot: usize) -> usize {
        match self.wide {
            0 => FULL_ENTRIES + super::run_of(self.load(0), slot),
            _ => WIDE_ENTRIES + slot,
        }
    }

    /// The entry of `slot`, in a node that leads further.
    pub(super) fn entry(&self, slot: usize) -> u32 {
        self.words.u32_at(self.place(), self.index(slot))
    }

    /// The entry of a run of a narrow node.
    fn of_run(&self, run: usize) -> u32 {
        if self.entry & HALF != 0 {
            self.words.u16_at(self.place(), HALF_ENTRIES + run).into()
        } else {
            self.words.u32_at(self.place(), FULL_ENTRIES + run)
        }
    }

    /// The positions of the routes, leaves still to be found.
    fn positions(&self, found: &mut Vec<(u16, u32)>) {
        let first = self.entry_words();
        let bitmap = self.bitmap_words(first);
        if bitmap == 0 {
            let list = self.load(first);
            let count = (list >> 1) as usize & LISTED;
            let bytes = list.to_le_bytes();
            let listed = bytes[1..].iter().take(count).map(|byte| u16::from(byte & 0x7f));
            found.extend(listed.filter(|position| *position > 1).map(|position| (position, 0)));
        }
        for word in 0..bitmap {
            let mut bits = self.load(first + word);
            if word == 0 {
                bits &= if self.is_root { !1 } else { !3 };
            }
            while bits != 0 {
                found.push((word as u16 * 64 + bits.trailing_zeros() as u16, 0));
                bits &= bits - 1;
            }
        }
    }
}

/// The slots of a narrow node that the next one differs from. The last has no next one.
const fn ends_of(bitmap: u64) -> u64 {
    bitmap & u64::MAX >> 1
}

/// Words of a node before its routes.
fn entry_words(wide: u32, half: bool, runs: usize) -> usize {
    match (wide, half) {
        (0, false) => (FULL_ENTRIES + runs).div_ceil(2),
        (0, true) => (HALF_ENTRIES + runs).div_ceil(4),
        (bits, _) => (WIDE_ENTRIES + (1 << bits)) / 2,
    }
}

/// A path: `bits` (left-aligned) of whole levels lead to `target`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Path {
    pub bits: u128,
    pub len: u32,
    pub target: u32,
}

impl Path {
    /// The path at `entry`, and the leaf beside it.
    pub(super) fn read(words: Words<'_>, entry: u32) -> (Self, u32) {
        let at = target(entry);
        let (first, (len, bits)) = (words.at(at, 0), path_bits(words, at));
        (Self { bits, len, target: first as u32 }, (first >> 32) as u32)
    }

    /// What [`Path::read`] reads.
    pub(super) fn to_words(self, beside: u32) -> [u64; PATH_WORDS] {
        let first = u64::from(self.target) | u64::from(beside) << 32;
        [first, self.len.into(), (self.bits >> 64) as u64, self.bits as u64]
    }
}

/// A node taken apart.
#[derive(Debug, Default)]
pub(super) struct Node {
    /// Address bits.
    pub width: u32,
    /// The entry of each slot.
    pub slots: Vec<u32>,
    /// 1 + the index of the longest route of each slot, or 0. Not of the default route.
    pub owners: Vec<u16>,
    /// (position, leaf), shorter ones first.
    pub routes: Vec<(u16, u32)>,
}

impl Node {
    /// Becomes a node of `width` bits without routes, whose slots all say `leaf`.
    pub(super) fn clear(&mut self, width: u32, leaf: u32) {
        self.width = width;
        self.slots.clear();
        self.slots.resize(1 << width, leaf);
        self.owners.clear();
        self.owners.resize(1 << width, 0);
        self.routes.clear();
    }

    /// Becomes what `block` holds.
    pub(super) fn read(&mut self, block: &Block<'_>, width: u32) {
        self.width = width;
        self.slots.clear();
        if block.wide > 0 {
            let pairs = (0..1 << (width - 1)).map(|pair| block.load(WIDE_ENTRIES / 2 + pair));
            self.slots.extend(pairs.flat_map(|pair| [pair as u32, (pair >> 32) as u32]));
        } else {
            let mut ends = ends_of(block.load(0));
            for run in (1..block.runs()).rev() {
                self.slots.resize(ends.trailing_zeros() as usize + 1, block.of_run(run));
                ends &= ends - 1;
            }
            self.slots.resize(1 << width, block.of_run(0));
        }
        self.routes.clear();
        block.positions(&mut self.routes);
        self.paint();
        for (&entry, &owner) in self.slots.iter().zip(&self.owners) {
            if let (Some(owner), 0) = (owner.checked_sub(1), entry & NODE) {
                self.routes[usize::from(owner)].1 = entry;
            }
        }
        let (mut next, count) = block.hidden();
        let end = next + count;
        for route in self.routes.iter_mut().filter(|route| route.1 == 0) {
            if route.0 == 1 {
                route.1 = block.load(0) as u32;
            } else if next < end {
                route.1 = block.words.u32_at(block.place(), next);
                next += 1;
            }
        }
    }

    /// The first slot of the prefix at `position`, and how many it has.
    pub(super) fn range(&self, position: u16) -> (usize, usize) {
        let len = position.checked_ilog2().unwrap_or(0);
        let below = self.width - len.min(self.width);
        ((usize::from(position) - (1 << len)) << below, 1 << below)
    }

    /// Brings the owners up to date with the routes.
    pub(super) fn paint(&mut self) {
        self.owners.clear();
        self.owners.resize(1 << self.width, 0);
        for index in 0..self.routes.len() {
            let position = self.routes[index].0;
            // The default route is not pushed down (it would be in every node): readers find it in the root's header.
            if position > 1 {
                let (first, count) = self.range(position);
                self.owners[first..first + count].fill(index as u16 + 1);
            }
        }
    }

    /// The leaf of the longest route of `slot`.
    pub(super) fn painted(&self, slot: usize) -> Option<u32> {
        let owner = usize::from(self.owners[slot]).checked_sub(1)?;
        Some(self.routes[owner].1)
    }

    /// What slots without a route say, if one does.
    pub(super) fn inherited(&self) -> Option<u32> {
        let free = |(entry, owner): &(&u32, &u16)| **owner == 0 && **entry & NODE == 0;
        self.slots.iter().zip(&self.owners).find(free).map(|(entry, _)| *entry)
    }

    /// The one block that its slots lead to, if there is just one and no route.
    pub(super) fn only_way(&self) -> Option<(usize, u32)> {
        let mut blocks = self.blocks();
        let first = blocks.next()?;
        (self.routes.is_empty() && blocks.next().is_none()).then_some(first)
    }

    /// The slots that lead to blocks, with their entries.
    pub(super) fn blocks(&self) -> impl Iterator<Item = (usize, u32)> {
        self.slots.iter().copied().enumerate().filter(|(_, entry)| entry & NODE != 0)
    }

    /// Whether its entries fit 16 bits.
    fn is_half(&self) -> bool {
        self.slots.iter().all(|&entry| entry < 1 << 16)
    }

    /// The leaves that no slot shows, in order of their routes.
    fn hidden(&self) -> impl Iterator<Item = u32> {
        let mut shown = [0u64; 2 * MAX_SLOTS / 64];
        for (&entry, &owner) in self.slots.iter().zip(&self.owners) {
            if let (Some(owner), 0) = (owner.checked_sub(1), entry & NODE) {
                shown[usize::from(owner) / 64] |= 1 << (owner % 64);
            }
        }
        let is_hidden = move |(index, route): (usize, &(u16, u32))| {
            (route.0 > 1 && shown[index / 64] >> (index % 64) & 1 == 0).then_some(route.1)
        };
        self.routes.iter().enumerate().filter_map(is_hidden)
    }

    /// Its block: the words, and the bits of the entry that leads to it besides the place. `wide` of a direct node.
    pub(super) fn pack(&self, wide: bool, has_halves: bool, block: &mut Packed) -> u32 {
        block.clear();
        if wide {
            let default =
                self.routes.first().filter(|route| route.0 == 1).map_or(0, |route| route.1);
            let hidden = self.hidden().count();
            block.words.extend([u64::from(default), hidden as u64]);
            block.words.extend(self.slots.chunks_exact(2).map(pair));
            self.pack_bitmap(block);
            block.pairs(self.hidden());
            return NODE;
        }
        let half = has_halves && self.is_half();
        block.words.push(0);
        let mut bitmap = 0;
        let mut next = self.slots[self.slots.len() - 1];
        if half {
            block.half(next);
        } else {
            block.full(next);
        }
        for (slot, &entry) in self.slots.iter().enumerate().rev().skip(1) {
            if entry != next {
                bitmap |= 1 << slot;
                next = entry;
                if half {
                    block.half(entry);
                } else {
                    block.full(entry);
                }
            }
        }
        block.words[0] = bitmap;
        block.align();
        if self.routes.len() <= LISTED {
            let mut list =
                1 | (self.routes.len() as u64) << 1 | (self.hidden().count() as u64) << 4;
            for (byte, route) in (1..).zip(&self.routes) {
                list |= u64::from(route.0) << (8 * byte);
            }
            block.words.push(list);
            block.pairs(self.hidden());
        } else {
            let at = block.words.len();
            self.pack_bitmap(block);
            let hidden = self.hidden().count() as u32;
            if hidden > 0 {
                block.words[at] |= 2;
                block.pairs(std::iter::once(hidden).chain(self.hidden()));
            }
        }
        if half { NODE | HALF } else { NODE }
    }

    fn pack_bitmap(&self, block: &mut Packed) {
        let at = block.words.len();
        block.words.resize(at + (2 << self.width) / 64, 0);
        for &(position, _) in &self.routes {
            block.words[at + usize::from(position) / 64] |= 1 << (position % 64);
        }
    }
}

fn pair(entries: &[u32]) -> u64 {
    u64::from(entries[0]) | u64::from(entries[1]) << 32
}

/// The words of a block to be.
#[derive(Debug, Default)]
pub(super) struct Packed {
    pub words: Vec<u64>,
    /// Bits used of the last word; 0: all.
    used: u32,
}

impl Packed {
    fn clear(&mut self) {
        self.words.clear();
        self.used = 0;
    }

    fn align(&mut self) {
        self.used = 0;
    }

    fn push(&mut self, value: u64, bits: u32) {
        match self.words.last_mut() {
            Some(last) if self.used > 0 => *last |= value << self.used,
            _ => self.words.push(value),
        }
        self.used = (self.used + bits) % 64;
    }

    fn half(&mut self, entry: u32) {
        self.push(entry.into(), 16);
    }

    fn full(&mut self, entry: u32) {
        self.push(entry.into(), 32);
    }

    fn pairs(&mut self, entries: impl Iterator<Item = u32>) {
        for entry in entries {
            self.full(entry);
        }
        self.align();
    }
}
