//! Subjects: for each class of peers a port map.
//!
//! ```text
//! row    0: default map + 1 | Ref of the top << 32   1: slots of the top | cells << 32
//! top    u32 for each 64 classes: 0 (the default for all), 1 << 31 | map + 1 (that map for all), or Ref of a node
//! node   word 0: bit i: class i has another map than class i + 1   1…: a u32 for each run of equal maps, the last run's first:
//!        map + 1, 0: the default
//! ```
//! Most classes of a subject are as its default, and those that are not come in runs (`fib.rs` has such nodes too). So few bytes
//! hold many cells, and those of 5,000 subjects still lie on pages that stay near.
//!
//! Cost: two loads to the row, a slot of the top, two words of the node, mostly of one line. A change copies the top and writes the node
//! anew, once for all cells of a node that are set together.

use crate::{
    arena::{Arena, Table},
    error::Error,
    layout::{high, pack},
    policy::{ClassId, PortMapId},
    rows,
    words::{Ref, Words},
};

/// Words of a row.
pub(crate) const WORDS: usize = 2;
/// Classes of a node.
const CLASSES: usize = 64;
/// Words of the biggest node.
const MOST_WORDS: usize = node_words(CLASSES);
/// Slots that a top grows by: a cache line of them.
const GROWTH: u32 = 16;
/// In a slot of the top: the same map for all its classes.
const UNIFORM: u32 = 1 << 31;

/// Words of a node of so many runs.
const fn node_words(runs: usize) -> usize {
    1 + runs.div_ceil(2)
}

/// The map + 1 for peers of `class`, 0 when there is no such subject.
#[inline]
pub fn find(words: Words<'_>, root: u64, subject: u32, class: u32) -> u32 {
    let Some(row) = row(words, root, subject) else { return 0 };
    let Way { default, top } = way(words, row, class);
    let map = if top.is_null() { 0 } else { cell(words, slot(words, top, class), class) };
    if map != 0 { map } else { default }
}

/// The row of a subject.
#[inline]
pub fn row(words: Words<'_>, root: u64, subject: u32) -> Option<Ref> {
    rows::find::<WORDS>(words, root, subject)
}

/// What a row says of a class.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// The map + 1 of classes that have none of their own.
    pub default: u32,
    /// Where the slot of the class is; [`Ref::NULL`] where it has none.
    pub top: Ref,
}

/// Reads the row.
#[inline]
pub fn way(words: Words<'_>, row: Ref, class: u32) -> Way {
    let [head, covered] = [words.at(row, 0), words.at(row, 1)];
    let covers = class / (CLASSES as u32) < covered as u32;
    Way { default: head as u32, top: if covers { Ref::from_raw(high(head)) } else { Ref::NULL } }
}

/// The slot of a class that the top covers.
#[inline]
pub fn slot(words: Words<'_>, top: Ref, class: u32) -> u32 {
    words.u32_at(top, class as usize / CLASSES)
}

/// Starts loading that slot.
#[inline]
pub fn fetch_slot(words: Words<'_>, top: Ref, class: u32) {
    words.prefetch(top, class as usize / CLASSES / 2);
}

/// The map + 1 behind a slot, 0: the default.
#[inline]
pub fn cell(words: Words<'_>, slot: u32, class: u32) -> u32 {
    if slot & UNIFORM != 0 {
        slot & !UNIFORM
    } else if slot != 0 {
        let node = Ref::from_raw(slot);
        let run = run_of(words.at(node, 0), class as usize % CLASSES);
        words.u32_at(node, 2 + run)
    } else {
        0
    }
}

/// Starts loading the node behind a slot, if there is one; of a big one its first line.
#[inline]
pub fn fetch_node(words: Words<'_>, slot: u32) {
    if slot != 0 && slot & UNIFORM == 0 {
        words.prefetch(Ref::from_raw(slot), 0);
    }
}

/// Which run class `place` of a node is in.
#[inline]
const fn run_of(bitmap: u64, place: usize) -> usize {
    (bitmap >> (place & 63)).count_ones() as usize
}

/// The maps + 1 of a node's classes.
type Maps = [u32; CLASSES];

fn read(words: Words<'_>, slot: u32) -> Maps {
    std::array::from_fn(|place| cell(words, slot, place as u32))
}

/// Frees what a slot leads to.
fn free_node(arena: &mut Arena, slot: u32) {
    if slot != 0 && slot & UNIFORM == 0 {
        let node = Ref::from_raw(slot);
        let runs = 1 + arena.load(node, 0).count_ones() as usize;
        arena.free(Table::Policy, node, node_words(runs));
    }
}

/// The slot of a node with these maps.
fn write(arena: &mut Arena, maps: &Maps) -> Result<u32, Error> {
    let ends = |place: &usize| maps[*place] != maps[place + 1];
    let bitmap = (0..CLASSES - 1).filter(ends).fold(0u64, |bits, place| bits | 1 << place);
    let runs = 1 + bitmap.count_ones() as usize;
    if runs == 1 {
        return Ok(if maps[0] == 0 { 0 } else { UNIFORM | maps[0] });
    }
    let node = arena.alloc(Table::Policy, node_words(runs))?;
    arena.store(node, 0, bitmap);
    let mut entries = [0; CLASSES];
    for (place, map) in maps.iter().enumerate() {
        entries[run_of(bitmap, place)] = *map;
    }
    for (word, pair) in entries[..runs.next_multiple_of(2)].chunks_exact(2).enumerate() {
        arena.store(node, 1 + word, u64::from(pair[0]) | u64::from(pair[1]) << 32);
    }
    Ok(node.raw())
}

/// A subject, for the writer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject {
    pub default: PortMapId,
    top: Ref,
    /// Slots of the top.
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
        ]
    }

    fn top_words(room: u32) -> usize {
        (room as usize).div_ceil(2)
    }

    /// Slots of a top that covers `slot`.
    fn room_for(slot: u32) -> u32 {
        (slot + 1).next_multiple_of(GROWTH)
    }

    /// Bytes that setting these cells may allocate at most.
    pub fn worst(&self, cells: &[(ClassId, Option<PortMapId>)]) -> u64 {
        let highest = cells.iter().map(|(class, _)| class.0).max().unwrap_or(0);
        let room = Self::room_for(highest / CLASSES as u32).max(self.room);
        let tops =
            Arena::bytes_of(Self::top_words(room)) + Arena::bytes_of(Self::top_words(self.room));
        tops + Arena::bytes_of(MOST_WORDS) * cells.chunk_by(are_near).count() as u64
    }

    /// Sets the cells of these classes; `None`: the default.
    pub fn set(
        &mut self,
        arena: &mut Arena,
        cells: &[(ClassId, Option<PortMapId>)],
    ) -> Result<(), Error> {
        cells.chunk_by(are_near).try_for_each(|cells| self.set_near(arena, cells))
    }

    /// Sets cells of one node.
    fn set_near(
        &mut self,
        arena: &mut Arena,
        cells: &[(ClassId, Option<PortMapId>)],
    ) -> Result<(), Error> {
        let Some((class, _)) = cells.first() else { return Ok(()) };
        let at = class.0 / CLASSES as u32;
        if at >= self.room {
            if cells.iter().all(|(_, map)| map.is_none()) {
                return Ok(());
            }
            self.grow(arena, Self::room_for(at))?;
        }
        let old = arena.words().u32_at(self.top, at as usize);
        let before = read(arena.words(), old);
        let mut maps = before;
        for (class, map) in cells {
            maps[class.0 as usize % CLASSES] = map.map_or(0, |map| map.0 + 1);
        }
        if maps == before {
            return Ok(());
        }
        let slot = write(arena, &maps)?;
        free_node(arena, old);
        self.top = arena.own(Table::Policy, self.top, Self::top_words(self.room))?;
        let shift = at % 2 * 32;
        let pair = arena.load(self.top, at as usize / 2) & !(u64::from(u32::MAX) << shift);
        arena.store(self.top, at as usize / 2, pair | u64::from(slot) << shift);
        let count = |maps: &Maps| maps.iter().filter(|map| **map != 0).count() as u32;
        self.cells = self.cells + count(&maps) - count(&before);
        if self.cells == 0 {
            arena.free(Table::Policy, self.top, Self::top_words(self.room));
            (self.top, self.room) = (Ref::NULL, 0);
        }
        Ok(())
    }

    fn grow(&mut self, arena: &mut Arena, room: u32) -> Result<(), Error> {
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
        for at in 0..self.room as usize {
            let slot = arena.words().u32_at(self.top, at);
            free_node(arena, slot);
        }
        arena.free(Table::Policy, self.top, Self::top_words(self.room));
    }
}

/// Whether two classes are of one node.
fn are_near((a, _): &(ClassId, Option<PortMapId>), (b, _): &(ClassId, Option<PortMapId>)) -> bool {
    a.0 as usize / CLASSES == b.0 as usize / CLASSES
}
