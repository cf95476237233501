//! Subjects: for each class of peers a port map.
//!
//! ```text
//! row    0: default map + 1 | Ref of the top << 32   1: chunks that the top covers | cells << 32   2: 1   3: 0
//! top    u32 for each 32 classes: 0 (the default for all), 1 << 31 | map + 1 (that map for all), or Ref of the chunk
//! chunk  u32 for each class: map + 1, 0: the default
//! ```
//! Cost: two loads to the row's half line, a slot of the top, a cell. A change copies the top and a chunk of 128 bytes, once per publication.

use crate::{
    arena::{Arena, Table},
    error::Error,
    layout::{high, pack},
    policy::{ClassId, PortMapId},
    rows,
    words::{Ref, Words},
};

/// Words of a row.
pub(crate) const WORDS: usize = 4;
/// Classes of a chunk.
const CHUNK: u32 = 32;
const CHUNK_WORDS: usize = CHUNK as usize / 2;
/// In a slot of the top: the same map for all classes of the chunk.
const UNIFORM: u32 = 1 << 31;

/// The map + 1 for peers of `class`, 0 when there is no such subject.
#[inline]
pub fn find(words: Words<'_>, root: u64, subject: u32, class: u32) -> u32 {
    let Some(row) = rows::find::<WORDS>(words, root, subject) else { return 0 };
    let [head, covered] = [words.at(row, 0), words.at(row, 1)];
    let chunk = class / CHUNK;
    let mut map = 0;
    if chunk < covered as u32 {
        let slot = words.u32_at(Ref::from_raw(high(head)), chunk as usize);
        map = if slot & UNIFORM != 0 {
            slot & !UNIFORM
        } else if slot != 0 {
            words.u32_at(Ref::from_raw(slot), (class % CHUNK) as usize)
        } else {
            0
        };
    }
    if map != 0 { map } else { head as u32 }
}

/// A subject, for the writer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject {
    pub default: PortMapId,
    top: Ref,
    /// Chunks that the top covers: a power of two, or 0.
    room: u32,
    cells: u32,
}

impl Subject {
    pub fn new(default: PortMapId) -> Self {
        Self { default, top: Ref::NULL, room: 0, cells: 0 }
    }

    pub fn of_row(row: &[u64; WORDS]) -> Self {
        Self {
            default: PortMapId((row[0] as u32).wrapping_sub(1)),
            top: Ref::from_raw(high(row[0])),
            room: row[1] as u32,
            cells: high(row[1]),
        }
    }

    /// The same cells, with another map for the other classes.
    pub fn with_default(self, default: PortMapId) -> Self {
        Self { default, ..self }
    }

    pub fn row(&self) -> [u64; WORDS] {
        [
            u64::from(self.default.0 + 1) | u64::from(self.top.raw()) << 32,
            pack(Ref::from_raw(self.room), self.cells),
            1,
            0,
        ]
    }

    fn top_words(room: u32) -> usize {
        (room as usize).div_ceil(2)
    }

    /// Bytes that setting these cells may allocate at most.
    pub fn worst(&self, cells: &[(ClassId, Option<PortMapId>)]) -> u64 {
        let highest = cells.iter().map(|(class, _)| class.0).max().unwrap_or(0);
        let room = (highest / CHUNK + 1).next_power_of_two().max(self.room);
        let tops =
            Arena::bytes_of(Self::top_words(room)) + Arena::bytes_of(Self::top_words(self.room));
        tops + Arena::bytes_of(CHUNK_WORDS) * (cells.len() as u64).min(room.into())
    }

    /// Sets the cell of `class`; `None`: the default.
    pub fn set(
        &mut self,
        arena: &mut Arena,
        class: ClassId,
        map: Option<PortMapId>,
    ) -> Result<(), Error> {
        let (chunk, cell) = ((class.0 / CHUNK) as usize, (class.0 % CHUNK) as usize);
        let value = map.map_or(0, |map| map.0 + 1);
        if chunk >= self.room as usize {
            if value == 0 {
                return Ok(());
            }
            self.grow(arena, chunk as u32)?;
        }
        let slot = arena.words().u32_at(self.top, chunk);
        let old = if slot & UNIFORM != 0 {
            slot & !UNIFORM
        } else if slot != 0 {
            arena.words().u32_at(Ref::from_raw(slot), cell)
        } else {
            0
        };
        if old == value {
            return Ok(());
        }
        let block = if slot == 0 || slot & UNIFORM != 0 {
            let block = arena.alloc(Table::Policy, CHUNK_WORDS)?;
            let all = u64::from(slot & !UNIFORM);
            (0..CHUNK_WORDS).for_each(|word| arena.store(block, word, all | all << 32));
            block
        } else {
            arena.own(Table::Policy, Ref::from_raw(slot), CHUNK_WORDS)?
        };
        put(arena, block, cell, value);
        let first = arena.load(block, 0);
        let is_uniform = first as u32 == high(first)
            && (1..CHUNK_WORDS).all(|word| arena.load(block, word) == first);
        let slot = if is_uniform {
            arena.free(Table::Policy, block, CHUNK_WORDS);
            if first == 0 { 0 } else { UNIFORM | first as u32 }
        } else {
            block.raw()
        };
        self.top = arena.own(Table::Policy, self.top, Self::top_words(self.room))?;
        put(arena, self.top, chunk, slot);
        self.cells = self.cells + u32::from(old == 0) - u32::from(value == 0);
        if self.cells == 0 {
            arena.free(Table::Policy, self.top, Self::top_words(self.room));
            (self.top, self.room) = (Ref::NULL, 0);
        }
        Ok(())
    }

    fn grow(&mut self, arena: &mut Arena, chunk: u32) -> Result<(), Error> {
        let room = (chunk + 1).next_power_of_two();
        let top = arena.alloc_zeroed(Table::Policy, Self::top_words(room))?;
        if self.room > 0 {
            arena.copy(self.top, top, Self::top_words(self.room));
            arena.free(Table::Policy, self.top, Self::top_words(self.room));
        }
        (self.top, self.room) = (top, room);
        Ok(())
    }

    /// Frees all cells.
    pub fn free(&self, arena: &mut Arena) {
        for chunk in 0..self.room as usize {
            let slot = arena.words().u32_at(self.top, chunk);
            if slot != 0 && slot & UNIFORM == 0 {
                arena.free(Table::Policy, Ref::from_raw(slot), CHUNK_WORDS);
            }
        }
        arena.free(Table::Policy, self.top, Self::top_words(self.room));
    }
}

/// Stores the `index`th u32 of a block that is new.
fn put(arena: &mut Arena, at: Ref, index: usize, value: u32) {
    let shift = index % 2 * 32;
    let word = arena.load(at, index / 2) & !(u64::from(u32::MAX) << shift);
    arena.store(at, index / 2, word | u64::from(value) << shift);
}
