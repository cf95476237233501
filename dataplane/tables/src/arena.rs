//! The writer's allocator and transaction over the segment's words.
//!
//! Copy-on-write needs three answers of it: *is this block new in this transaction* (then it may be
//! edited in place, no reader has seen it), *where is room*, and *when may a block that readers could
//! still see be used again* (when every worker's epoch is at or past the generation that dropped it).
//! All bookkeeping is in the writer's own memory, so nothing a reader could see can mislead it.
//!
//! Cost: an allocation is a search of one ordered set (about 50 ns); `own` of a block that is new is one
//! bit test; a commit is O(blocks made and dropped in it).

mod runs;
mod slabs;

use crate::{
    error::Error,
    shm::Segment,
    sync::Ordering,
    words::{GRAIN_WORDS, Ref, Words},
};
use runs::Runs;
use slabs::{CLASSES, Freed, SLAB_GRAINS, Slabs, class_of};
use std::{collections::VecDeque, sync::Arc};

/// Grains in one block of the run allocator (1 KiB).
const BLOCK_GRAINS: u32 = 64;

/// Whose bytes a block is, for the accounting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Table {
    /// Root records.
    Root,
    /// Service rows and their index.
    Services,
    /// Frontends: (address, port, protocol) → service, and the addresses that have any.
    Frontends,
    /// Backend records and Maglev tables.
    Backends,
    /// Names of services and backends (cold).
    Names,
    /// Interfaces with their addresses.
    Interfaces,
    /// Static neighbors.
    Neighbors,
    /// IPv4 FIB.
    Routes4,
    /// IPv6 FIB.
    Routes6,
    /// Next hops and ECMP groups.
    Groups,
    /// Policies, but for their names: endpoints, subjects, port maps, decisions.
    Policy,
}

impl Table {
    /// All tables, in the order of their numbers.
    pub const ALL: [Self; 11] = [
        Self::Root,
        Self::Services,
        Self::Frontends,
        Self::Backends,
        Self::Names,
        Self::Interfaces,
        Self::Neighbors,
        Self::Routes4,
        Self::Routes6,
        Self::Groups,
        Self::Policy,
    ];
}

/// Bytes in use, exact (blocks with their rounding).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes reachable from the newest generation (or staged), by [`Table`].
    pub tables: [u64; Table::ALL.len()],
    /// Bytes dropped, which a reader of an older generation may still use.
    pub retired: u64,
    /// Bytes of the segment.
    pub segment: u64,
}

impl Usage {
    /// Bytes of one table.
    pub fn of(&self, table: Table) -> u64 {
        self.tables[table as usize]
    }

    /// Bytes of all tables, without the retired.
    pub fn live(&self) -> u64 {
        self.tables.iter().sum()
    }
}

#[derive(Clone, Copy, Debug)]
struct Dropped {
    at: Ref,
    grains: u32,
}

/// The allocator and the transaction in progress.
#[derive(Debug)]
pub struct Arena {
    segment: Arc<Segment>,
    runs: Runs,
    slabs: Slabs,
    /// One bit a grain: a block made in this transaction starts there.
    fresh: Vec<u64>,
    fresh_list: Vec<Ref>,
    /// Dropped in this transaction; readers may see them until it is published and acknowledged.
    dropped: Vec<Dropped>,
    /// Dropped by the transaction that became this generation.
    retired: VecDeque<(u64, Vec<Dropped>)>,
    usage: Usage,
    written: u64,
}

impl Arena {
    /// An arena over `segment`, leaving its first `header` bytes alone.
    pub fn new(segment: Arc<Segment>, header: usize) -> Self {
        let bytes = segment.words().len() * crate::shm::WORD;
        let block = BLOCK_GRAINS as usize * GRAIN_WORDS * crate::shm::WORD;
        let last = u32::try_from(bytes / block).unwrap_or(u32::MAX).min(u32::MAX / BLOCK_GRAINS);
        // The last one stays unused, for readers that look at a whole block's words at once ([`Words::window`]).
        let last = if cfg!(loom) { last } else { last.saturating_sub(1) };
        let first = u32::try_from(header.div_ceil(block)).unwrap_or(u32::MAX).max(1);
        Self {
            segment,
            runs: Runs::new(first, last),
            slabs: Slabs::default(),
            fresh: Vec::new(),
            fresh_list: Vec::new(),
            dropped: Vec::new(),
            retired: VecDeque::new(),
            usage: Usage { segment: bytes as u64, ..Usage::default() },
            written: 0,
        }
    }

    /// The segment this arena is over.
    pub fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// A reader's view of the staged words.
    #[inline]
    pub fn words(&self) -> Words<'_> {
        Words(self.segment.words())
    }

    fn grains(words: usize) -> u32 {
        u32::try_from(words.max(1).div_ceil(GRAIN_WORDS)).unwrap_or(u32::MAX)
    }

    /// Grains that a block of `grains` really takes.
    fn footprint(grains: u32) -> u32 {
        class_of(grains).map_or_else(
            || grains.checked_next_multiple_of(BLOCK_GRAINS).unwrap_or(u32::MAX),
            |class| u32::from(CLASSES[class]),
        )
    }

    /// Bytes that a block of `words` words really takes.
    pub fn bytes_of(words: usize) -> u64 {
        u64::from(Self::footprint(Self::grains(words))) * (GRAIN_WORDS * crate::shm::WORD) as u64
    }

    /// A block of at least `words` words for `table`. Its contents are whatever was there before:
    /// write every word a reader will look at.
    ///
    /// Blocks of 64 bytes and more start on a cache line; smaller ones never straddle two.
    pub fn alloc(&mut self, table: Table, words: usize) -> Result<Ref, Error> {
        let grains = Self::grains(words);
        let found = match class_of(grains) {
            Some(class) => self.slabs.take(class).or_else(|| {
                let start = self.runs.take(SLAB_GRAINS / BLOCK_GRAINS)? * BLOCK_GRAINS;
                self.slabs.add(class, start);
                self.slabs.take(class)
            }),
            None => self.runs.take(grains.div_ceil(BLOCK_GRAINS)).map(|block| block * BLOCK_GRAINS),
        };
        let Some(grain) = found else {
            return Err(self.full(u64::from(grains) * 16));
        };
        let at = Ref::from_raw(grain);
        let (word, bit) = Self::fresh_bit(at);
        if self.fresh.len() <= word {
            self.fresh.resize((word + 1).next_power_of_two(), 0);
        }
        self.fresh[word] |= bit;
        self.fresh_list.push(at);
        self.usage.tables[table as usize] += u64::from(Self::footprint(grains)) * 16;
        Ok(at)
    }

    /// As [`Arena::alloc`], every word zero.
    pub fn alloc_zeroed(&mut self, table: Table, words: usize) -> Result<Ref, Error> {
        let at = self.alloc(table, words)?;
        for offset in 0..words {
            self.store(at, offset, 0);
        }
        Ok(at)
    }

    /// Fails unless `bytes` could be allocated in blocks of any sizes: asked before a change of
    /// several steps, so that it is made whole or not at all.
    pub fn reserve(&self, bytes: u64) -> Result<(), Error> {
        let free = u64::from(self.runs.largest()) * u64::from(BLOCK_GRAINS) * 16;
        // Each class could want a slab of its own on top.
        let slabs = (CLASSES.len() as u64) * u64::from(SLAB_GRAINS) * 16;
        if free < bytes.saturating_mul(2).saturating_add(slabs) {
            Err(self.full(bytes))
        } else {
            Ok(())
        }
    }

    fn full(&self, wanted: u64) -> Error {
        let free = u64::from(self.runs.largest()) * u64::from(BLOCK_GRAINS) * 16;
        Error::Full { wanted, free, bytes: self.usage.segment }
    }

    fn fresh_bit(at: Ref) -> (usize, u64) {
        ((at.raw() / 64) as usize, 1 << (at.raw() % 64))
    }

    /// Whether the block was made in this transaction: no reader has seen it.
    #[inline]
    pub fn is_fresh(&self, at: Ref) -> bool {
        let (word, bit) = Self::fresh_bit(at);
        self.fresh.get(word).is_some_and(|bits| bits & bit != 0)
    }

    /// Drops the block of `words` words (as it was allocated) of `table`.
    ///
    /// One made in this transaction is free at once; another when every reader has passed the
    /// generation that this transaction becomes. [`Ref::NULL`] is ignored.
    pub fn free(&mut self, table: Table, at: Ref, words: usize) {
        if at.is_null() {
            return;
        }
        let grains = Self::grains(words);
        let bytes = u64::from(Self::footprint(grains)) * 16;
        let live = &mut self.usage.tables[table as usize];
        debug_assert!(*live >= bytes, "{table:?} frees more than it has");
        *live = live.saturating_sub(bytes);
        let dropped = Dropped { at, grains };
        if self.is_fresh(at) {
            let (word, bit) = Self::fresh_bit(at);
            self.fresh[word] &= !bit;
            self.release(dropped);
        } else {
            self.usage.retired += bytes;
            self.dropped.push(dropped);
        }
    }

    fn release(&mut self, block: Dropped) {
        let known = match class_of(block.grains) {
            Some(class) => match self.slabs.give(class, block.at.raw()) {
                Freed::Unknown => false,
                Freed::Kept => true,
                Freed::Slab(start) => {
                    self.runs.give(start / BLOCK_GRAINS, SLAB_GRAINS / BLOCK_GRAINS);
                    true
                }
            },
            None => {
                self.runs.give(block.at.raw() / BLOCK_GRAINS, block.grains.div_ceil(BLOCK_GRAINS));
                true
            }
        };
        debug_assert!(known, "{:?} freed twice, or with another size", block.at);
    }

    /// The copy-on-write step: the same block when it is new in this transaction, otherwise a copy
    /// of its `words` words, with the old one dropped. The result may be stored to.
    pub fn own(&mut self, table: Table, at: Ref, words: usize) -> Result<Ref, Error> {
        if self.is_fresh(at) {
            return Ok(at);
        }
        let copy = self.alloc(table, words)?;
        self.copy(at, copy, words);
        self.free(table, at, words);
        Ok(copy)
    }

    /// Word `offset` of the block at `at`.
    #[inline]
    pub fn load(&self, at: Ref, offset: usize) -> u64 {
        self.words().at(at, offset)
    }

    /// Writes word `offset` of a block made in this transaction (anything else is a bug that debug
    /// builds stop at: a reader could see half of it).
    #[inline]
    pub fn store(&mut self, at: Ref, offset: usize, value: u64) {
        debug_assert!(self.is_fresh(at), "store to {at:?}, which readers may see");
        if let Some(word) = self.segment.words().get(at.word() + offset) {
            word.store(value, Ordering::Relaxed);
            self.written += crate::shm::WORD as u64;
        }
    }

    /// Writes the first words of a block made in this transaction.
    pub fn write(&mut self, at: Ref, values: &[u64]) {
        debug_assert!(self.is_fresh(at), "write to {at:?}, which readers may see");
        let start = at.word();
        if let Some(words) = self.segment.words().get(start..start + values.len()) {
            for (word, value) in words.iter().zip(values) {
                word.store(*value, Ordering::Relaxed);
            }
            self.written += std::mem::size_of_val(values) as u64;
        }
    }

    /// Copies the first `words` words of a block to one made in this transaction.
    pub fn copy(&mut self, from: Ref, to: Ref, words: usize) {
        debug_assert!(self.is_fresh(to), "copy to {to:?}, which readers may see");
        let all = self.segment.words();
        let (from, to) = (from.word(), to.word());
        if let (Some(from), Some(to)) = (all.get(from..from + words), all.get(to..to + words)) {
            for (to, from) in to.iter().zip(from) {
                to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
            }
            self.written += (words * crate::shm::WORD) as u64;
        }
    }

    /// Ends the transaction: what it dropped is retired as of `generation`. The caller then makes the
    /// new root visible with one release store.
    pub fn commit(&mut self, generation: u64) {
        for at in std::mem::take(&mut self.fresh_list) {
            let (word, bit) = Self::fresh_bit(at);
            self.fresh[word] &= !bit;
        }
        if !self.dropped.is_empty() {
            self.retired.push_back((generation, std::mem::take(&mut self.dropped)));
        }
    }

    /// Frees what was retired at `acknowledged` or before: the generation that every reader has
    /// reached.
    pub fn reclaim(&mut self, acknowledged: u64) {
        while self.retired.front().is_some_and(|&(generation, _)| generation <= acknowledged) {
            for block in self.retired.pop_front().map(|(_, blocks)| blocks).unwrap_or_default() {
                self.usage.retired -= u64::from(Self::footprint(block.grains)) * 16;
                self.release(block);
            }
        }
    }

    /// Bytes in use.
    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// Bytes stored since the arena was made: the cost of changes, for tests and benches.
    pub fn written(&self) -> u64 {
        self.written
    }
}
