//! Rows by number, at two loads whatever the number: next hops' groups, and the rows of the policy tables.
//!
//! ```text
//! root   Ref of the top | numbers that it covers << 32
//! top    u32: Ref of the chunk of each 16 numbers, 0: none
//! chunk  16 rows of W words; a free one is zeros
//! ```
//! Cost of a row: one slot of the top (2 KiB at 8,000 rows) and the row's own words; rows of 8 words are a cache line, smaller ones never
//! straddle two. Copy-on-write: a change copies the top and one chunk. Memory: 8 W bytes a row, and a quarter byte of the top.

use crate::{
    arena::{Arena, Table},
    error::Error,
    layout::{high, low, pack},
    words::{Ref, Words},
};

/// Rows of a chunk.
const CHUNK: u32 = 16;
/// Most rows: numbers are below it.
pub const MAX_ROWS: u32 = 1 << 28;

/// Words of a chunk of rows of `W` words.
const fn chunk_words<const W: usize>() -> usize {
    // A row is whole grains, of which references are.
    assert!(W.is_multiple_of(crate::words::GRAIN_WORDS));
    CHUNK as usize * W
}

/// The place of row `number`. Its words are zeros when it is free.
#[inline]
pub fn find<const W: usize>(words: Words<'_>, root: u64, number: u32) -> Option<Ref> {
    if number >= high(root) {
        return None;
    }
    let chunk = words.u32_at(low(root), (number / CHUNK) as usize);
    let row = number % CHUNK * (W / crate::words::GRAIN_WORDS) as u32;
    (chunk != 0).then(|| Ref::from_raw(chunk.wrapping_add(row)))
}

/// Whether there is anything in a row.
fn is_used<const W: usize>(words: Words<'_>, row: Ref) -> bool {
    (0..W).any(|word| words.at(row, word) != 0)
}

/// The rows in use under `root`, lowest number first (cold). Ends on any memory.
pub fn iter<const W: usize>(words: Words<'_>, root: u64) -> impl Iterator<Item = (u32, Ref)> + '_ {
    // Honest tops and rows are distinct places: no more of them than the segment has room for.
    let slots = (high(root) / CHUNK).min(u32::try_from(words.0.len() * 2).unwrap_or(u32::MAX));
    (0..slots)
        .filter(move |slot| words.u32_at(low(root), *slot as usize) != 0)
        .flat_map(|slot| (slot * CHUNK)..(slot * CHUNK).saturating_add(CHUNK))
        .filter_map(move |number| Some((number, find::<W>(words, root, number)?)))
        .filter(move |(_, row)| is_used::<W>(words, *row))
        .take(words.0.len() / W)
}

/// The writer's side.
#[derive(Debug)]
pub struct Rows<const W: usize> {
    table: Table,
    top: Ref,
    /// Chunks that the top has room for: a power of two, or 0.
    room: u32,
    /// Rows in use.
    len: usize,
}

impl<const W: usize> Rows<W> {
    /// No rows; their bytes are accounted to `table`.
    pub fn new(table: Table) -> Self {
        Self { table, top: Ref::NULL, room: 0, len: 0 }
    }

    /// What readers start from.
    pub fn root(&self) -> u64 {
        pack(self.top, self.room * CHUNK)
    }

    /// Rows in use.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn top_words(&self) -> usize {
        (self.room as usize).div_ceil(2)
    }

    /// Bytes that setting row `number` may allocate at most.
    pub fn worst_change(&self, number: u32) -> u64 {
        let room = (number / CHUNK + 1).next_power_of_two().max(self.room);
        let top = (room as usize).div_ceil(2);
        Arena::bytes_of(top) + Arena::bytes_of(chunk_words::<W>()) + self.top_words() as u64 * 8
    }

    /// The row of `number`, if it is in use.
    pub fn get(&self, arena: &Arena, number: u32) -> Option<[u64; W]> {
        let at = find::<W>(arena.words(), self.root(), number)?;
        let row = std::array::from_fn(|word| arena.load(at, word));
        (row != [0; W]).then_some(row)
    }

    /// Sets the row of `number`, which is not zeros, in place of the one it has. On an error every row is what it was.
    pub fn set(&mut self, arena: &mut Arena, number: u32, row: [u64; W]) -> Result<(), Error> {
        debug_assert!(number < MAX_ROWS && row != [0; W]);
        let is_new = self.get(arena, number).is_none();
        self.cover(arena, number / CHUNK)?;
        self.change(arena, number, row)?;
        self.len += usize::from(is_new);
        Ok(())
    }

    /// Frees the row of `number`, if it is in use. On an error every row is what it was.
    pub fn clear(&mut self, arena: &mut Arena, number: u32) -> Result<(), Error> {
        if self.get(arena, number).is_none() {
            return Ok(());
        }
        self.change(arena, number, [0; W])?;
        self.len -= 1;
        if self.len == 0 {
            arena.free(self.table, self.top, self.top_words());
            (self.top, self.room) = (Ref::NULL, 0);
        }
        Ok(())
    }

    /// Makes room for `chunk` in the top.
    fn cover(&mut self, arena: &mut Arena, chunk: u32) -> Result<(), Error> {
        if chunk < self.room {
            return Ok(());
        }
        let room = (chunk + 1).next_power_of_two();
        let top = arena.alloc_zeroed(self.table, (room as usize).div_ceil(2))?;
        if self.room > 0 {
            arena.copy(self.top, top, self.top_words());
            arena.free(self.table, self.top, self.top_words());
        }
        (self.top, self.room) = (top, room);
        Ok(())
    }

    fn change(&mut self, arena: &mut Arena, number: u32, row: [u64; W]) -> Result<(), Error> {
        self.top = arena.own(self.table, self.top, self.top_words())?;
        let slot = (number / CHUNK) as usize;
        let old = Ref::from_raw(arena.words().u32_at(self.top, slot));
        let mut chunk = if old.is_null() {
            arena.alloc_zeroed(self.table, chunk_words::<W>())?
        } else {
            arena.own(self.table, old, chunk_words::<W>())?
        };
        let first = (number % CHUNK) as usize * W;
        for (word, value) in row.into_iter().enumerate() {
            arena.store(chunk, first + word, value);
        }
        if (0..chunk_words::<W>()).all(|word| arena.load(chunk, word) == 0) {
            arena.free(self.table, chunk, chunk_words::<W>());
            chunk = Ref::NULL;
        }
        let shift = slot % 2 * 32;
        let pair = arena.load(self.top, slot / 2) & !(u64::from(u32::MAX) << shift);
        arena.store(self.top, slot / 2, pair | u64::from(chunk.raw()) << shift);
        Ok(())
    }
}
