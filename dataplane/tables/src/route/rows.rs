//! The rows of the groups: a number → its row.
//!
//! ```text
//! root   Ref of the top | numbers that it covers << 32
//! top    u32: Ref of the chunk of each 16 numbers, 0: none
//! chunk  16 rows of 4 words; a free one is zeros
//! ```
//! Cost of a row: one slot of the top (2 KiB at 8,000 groups) and the row's half line. Copy-on-write: a change copies the top and one chunk
//! of 512 bytes. Memory: 32 bytes a row, and a quarter byte of the top.

use crate::{
    arena::{Arena, Table},
    error::Error,
    layout::{high, low, pack},
    words::{Ref, Words},
};

/// Words of a row.
const ROW_WORDS: usize = 4;
/// Rows of a chunk.
const CHUNK: u32 = 16;
/// Words of a chunk.
const CHUNK_WORDS: usize = CHUNK as usize * ROW_WORDS;

/// A row; zeros where there is none.
pub(super) type Row = [u64; ROW_WORDS];

/// The place of row `number`. Its words are zeros when it is free.
#[inline]
pub(super) fn find(words: Words<'_>, root: u64, number: u32) -> Option<Ref> {
    if number >= high(root) {
        return None;
    }
    let chunk = words.u32_at(low(root), (number / CHUNK) as usize);
    let row = number % CHUNK * (ROW_WORDS / crate::words::GRAIN_WORDS) as u32;
    (chunk != 0).then(|| Ref::from_raw(chunk.wrapping_add(row)))
}

/// The writer's side.
#[derive(Debug, Default)]
pub(super) struct Rows {
    top: Ref,
    /// Chunks that the top has room for: a power of two, or 0.
    room: u32,
    /// Rows in use.
    len: usize,
}

impl Rows {
    /// What readers start from.
    pub(super) fn root(&self) -> u64 {
        pack(self.top, self.room * CHUNK)
    }

    fn top_words(&self) -> usize {
        (self.room as usize).div_ceil(2)
    }

    /// Sets the row of a number that is free. On an error every row is what it was.
    pub(super) fn set(&mut self, arena: &mut Arena, number: u32, row: Row) -> Result<(), Error> {
        self.cover(arena, number / CHUNK)?;
        self.change(arena, number, row)?;
        self.len += 1;
        Ok(())
    }

    /// Frees the row of `number`. On an error every row is what it was.
    pub(super) fn clear(&mut self, arena: &mut Arena, number: u32) -> Result<(), Error> {
        self.change(arena, number, Row::default())?;
        self.len -= 1;
        if self.len == 0 {
            arena.free(Table::Groups, self.top, self.top_words());
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
        let top = arena.alloc_zeroed(Table::Groups, (room as usize).div_ceil(2))?;
        if self.room > 0 {
            arena.copy(self.top, top, self.top_words());
            arena.free(Table::Groups, self.top, self.top_words());
        }
        (self.top, self.room) = (top, room);
        Ok(())
    }

    fn change(&mut self, arena: &mut Arena, number: u32, row: Row) -> Result<(), Error> {
        self.top = arena.own(Table::Groups, self.top, self.top_words())?;
        let slot = (number / CHUNK) as usize;
        let old = Ref::from_raw(arena.words().u32_at(self.top, slot));
        let mut chunk = if old.is_null() {
            arena.alloc_zeroed(Table::Groups, CHUNK_WORDS)?
        } else {
            arena.own(Table::Groups, old, CHUNK_WORDS)?
        };
        let first = (number % CHUNK) as usize * ROW_WORDS;
        for (word, value) in row.into_iter().enumerate() {
            arena.store(chunk, first + word, value);
        }
        if (0..CHUNK_WORDS).all(|word| arena.load(chunk, word) == 0) {
            arena.free(Table::Groups, chunk, CHUNK_WORDS);
            chunk = Ref::NULL;
        }
        let shift = slot % 2 * 32;
        let pair = arena.load(self.top, slot / 2) & !(u64::from(u32::MAX) << shift);
        arena.store(self.top, slot / 2, pair | u64::from(chunk.raw()) << shift);
        Ok(())
    }
}
