//! Services of more than 256 backends, in pieces: a change copies the pieces that it touches and shares the others.
//!
//! ```text
//! records   directory of words: records Ref | names Ref << 32, for each 32 numbers
//! table     directory of u32: Ref of a line of 32 slots, 16 bits each
//! ```
//! A backend keeps its number for as long as it is there, and a new one takes the lowest that is free, so that neither records nor
//! slots of the others change. Which numbers backends have depends on history; which backend a slot leads to doesn't.
//!
//! Cost: two lines of directories more than a small service has, for a new flow. A changed endpoint of 5,000 writes
//! about 25 KB: the slots that moved (about 220 of 65,537, each in a line of its own), the directories (8.8 KB), a piece of records and one of names.
//! Memory: 4 bytes of directory for each 64 of the table, and 8 for each 1,024 of records.

use super::{RECORD_WORDS, backends::record_words};
use crate::{
    arena::{Arena, Table},
    cold,
    error::Error,
    layout::{high, low, pack},
    maglev,
    row::BackendSet,
    spec::BackendSpec,
    words::{Ref, Words},
};
use std::collections::BTreeSet;

/// Most backends of a service that isn't large.
pub(super) const LIMIT: usize = 256;
/// Records in a piece: 1 KiB.
pub(super) const RECORDS: usize = 32;
/// Slots in a piece of a table: 64 bytes.
const SLOTS: usize = 32;
/// Words of that.
const SLOT_WORDS: usize = SLOTS / 4;

/// Where record `index` is: the block, and its first word there.
#[inline]
pub(super) fn record(words: Words<'_>, directory: Ref, index: u16) -> (Ref, usize) {
    let index = usize::from(index);
    (low(words.at(directory, index / RECORDS)), index % RECORDS * RECORD_WORDS)
}

/// The names of the piece that record `index` is in (cold).
pub(super) fn names(words: Words<'_>, directory: Ref, index: u16) -> cold::Strings<'_> {
    let piece = words.at(directory, usize::from(index) / RECORDS);
    cold::read(words, Ref::from_raw(high(piece)))
}

/// As [`maglev::pick`].
#[inline]
pub(super) fn pick(
    words: Words<'_>,
    directory: Ref,
    total: usize,
    slots: usize,
    hash: u64,
) -> usize {
    let slot = maglev::slot(hash, slots);
    let line = Ref::from_raw(words.u32_at(directory, slot / SLOTS));
    maglev::within(words.u16_at(line, slot % SLOTS).into(), total)
}

/// Which number each backend has.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Numbering {
    /// By place in the sorted list.
    pub(super) numbers: Vec<u16>,
    /// One more than the highest.
    pub(super) total: u16,
    /// Pieces that differ from those before; `None`: all.
    changed: Option<BTreeSet<usize>>,
}

impl Numbering {
    /// Numbers for `count` backends that nothing is known of.
    pub(super) fn first(count: usize) -> Self {
        let total = u16::try_from(count).unwrap_or(u16::MAX);
        Self { numbers: (0..total).collect(), total, changed: None }
    }

    /// Numbers for the backends `new`, those among the `old` keeping theirs. Both are sorted by address and port; of the numbers
    /// before, `total` is one more than the highest.
    pub(super) fn after(
        old: &[&BackendSpec],
        numbers: &[u16],
        total: u16,
        new: &[&BackendSpec],
    ) -> Self {
        if new.len() < usize::from(total) / 2 || old.len() != numbers.len() {
            return Self::first(new.len());
        }
        let key = |backend: &BackendSpec| (backend.addr, backend.port);
        let mut changed = BTreeSet::new();
        let mut free = vec![true; usize::from(total)];
        let mut kept: Vec<Option<u16>> = Vec::with_capacity(new.len());
        let mut before = old.iter().zip(numbers).peekable();
        for backend in new {
            while let Some((_, number)) = before.next_if(|(old, _)| key(old) < key(backend)) {
                changed.insert(usize::from(*number) / RECORDS);
            }
            let same = before.next_if(|(old, _)| key(old) == key(backend));
            kept.push(same.map(|(old, &number)| {
                free[usize::from(number)] = false;
                if old != backend {
                    changed.insert(usize::from(number) / RECORDS);
                }
                number
            }));
        }
        changed.extend(before.map(|(_, number)| usize::from(*number) / RECORDS));
        let holes = (0..total).filter(|&number| free[usize::from(number)]);
        let mut lowest = holes.chain(total..u16::MAX);
        let numbers: Vec<u16> = kept
            .into_iter()
            .map(|kept| {
                kept.or_else(|| {
                    let number = lowest.next()?;
                    changed.insert(usize::from(number) / RECORDS);
                    Some(number)
                })
                .unwrap_or(u16::MAX)
            })
            .collect();
        let total = numbers.iter().max().map_or(0, |highest| highest.saturating_add(1));
        Self { numbers, total, changed: Some(changed) }
    }

    fn is_changed(&self, piece: usize) -> bool {
        self.changed.as_ref().is_none_or(|changed| changed.contains(&piece))
    }
}

fn pieces(total: u16) -> usize {
    usize::from(total).div_ceil(RECORDS)
}

/// Bytes that [`write_records`] and two of [`write_table`] may allocate. Of the numbers half are used at least.
pub(super) fn worst(sorted: &[&BackendSpec]) -> u64 {
    let pieces = (2 * sorted.len()).div_ceil(RECORDS);
    let names: usize = sorted.iter().map(|backend| backend.name.len() + 8).sum();
    let lines = maglev::size(sorted.len()).div_ceil(SLOTS);
    let table = lines as u64 * Arena::bytes_of(SLOT_WORDS) + Arena::bytes_of(lines.div_ceil(2));
    pieces as u64 * (Arena::bytes_of(RECORDS * RECORD_WORDS) + 128)
        + (names + names / 4) as u64
        + Arena::bytes_of(pieces)
        + 2 * table
}

/// Writes the records and names of the `sorted` backends in place of those of `old`. Answers the directory.
pub(super) fn write_records(
    arena: &mut Arena,
    old: Option<BackendSet>,
    new: &Numbering,
    sorted: &[&BackendSpec],
) -> Result<Ref, Error> {
    let count = pieces(new.total);
    let before: Vec<u64> = old.iter().flat_map(|old| directory(arena, old)).collect();
    let mut by_number: Vec<Option<&BackendSpec>> = vec![None; count * RECORDS];
    for (number, backend) in new.numbers.iter().zip(sorted) {
        by_number[usize::from(*number)] = Some(backend);
    }
    let mut words = Vec::with_capacity(count);
    for (piece, backends) in by_number.chunks(RECORDS).enumerate() {
        words.push(match before.get(piece) {
            Some(word) if !new.is_changed(piece) => *word,
            _ => write_piece(arena, backends)?,
        });
    }
    if let Some(old) = old {
        if words == before {
            return Ok(old.records);
        }
        let gone = |(piece, word): (usize, &u64)| (words.get(piece) != Some(word)).then_some(*word);
        for word in before.iter().enumerate().filter_map(gone) {
            free_piece(arena, word);
        }
        arena.free(Table::Backends, old.records, before.len());
    }
    let directory = arena.alloc(Table::Backends, count)?;
    for (piece, word) in words.into_iter().enumerate() {
        arena.store(directory, piece, word);
    }
    Ok(directory)
}

fn directory(arena: &Arena, set: &BackendSet) -> Vec<u64> {
    (0..pieces(set.total)).map(|piece| arena.load(set.records, piece)).collect()
}

fn write_piece(arena: &mut Arena, backends: &[Option<&BackendSpec>]) -> Result<u64, Error> {
    let records = arena.alloc(Table::Backends, RECORDS * RECORD_WORDS)?;
    let words = backends.iter().flat_map(|backend| backend.map_or([0; RECORD_WORDS], record_words));
    words.enumerate().for_each(|(offset, word)| arena.store(records, offset, word));
    let names = backends.iter().map(|backend| backend.map_or("", |backend| backend.name.as_str()));
    Ok(pack(records, cold::write(arena, names)?.raw()))
}

fn free_piece(arena: &mut Arena, word: u64) {
    arena.free(Table::Backends, low(word), RECORDS * RECORD_WORDS);
    let names = Ref::from_raw(high(word));
    let words = cold::words_of(arena.words(), names);
    arena.free(Table::Names, names, words);
}

/// Drops records and names.
pub(super) fn free_records(arena: &mut Arena, set: &BackendSet) {
    for word in directory(arena, set) {
        free_piece(arena, word);
    }
    arena.free(Table::Backends, set.records, pieces(set.total));
}

/// Writes a table of these `numbers`, one for each slot, in place of that of `old`. Answers the directory.
pub(super) fn write_table(
    arena: &mut Arena,
    old: Option<BackendSet>,
    numbers: &[u16],
) -> Result<Ref, Error> {
    let packed = maglev::pack(numbers, LIMIT + 1);
    let old = match old {
        Some(old) if old.slots as usize != numbers.len() => {
            free_table(arena, &old);
            None
        }
        old => old,
    };
    let mut lines = Vec::with_capacity(packed.len().div_ceil(SLOT_WORDS));
    let mut same = old.is_some();
    for (index, words) in packed.chunks(SLOT_WORDS).enumerate() {
        let before = old.map(|old| line(arena, &old, index));
        if let Some(before) = before
            && words.iter().enumerate().all(|(i, &word)| arena.load(before, i) == word)
        {
            lines.push(before);
            continue;
        }
        same = false;
        let new = arena.alloc(Table::Backends, SLOT_WORDS)?;
        for offset in 0..SLOT_WORDS {
            arena.store(new, offset, words.get(offset).copied().unwrap_or(0));
        }
        arena.free(Table::Backends, before.unwrap_or_default(), SLOT_WORDS);
        lines.push(new);
    }
    let before = old.map_or(Ref::NULL, |old| old.table);
    if same {
        return Ok(before);
    }
    arena.free(Table::Backends, before, lines.len().div_ceil(2));
    if lines.is_empty() {
        return Ok(Ref::NULL);
    }
    let directory = arena.alloc(Table::Backends, lines.len().div_ceil(2))?;
    for (offset, pair) in lines.chunks(2).enumerate() {
        let high = pair.get(1).map_or(0, |line| line.raw());
        arena.store(directory, offset, pack(pair[0], high));
    }
    Ok(directory)
}

fn line(arena: &Arena, set: &BackendSet, index: usize) -> Ref {
    Ref::from_raw(arena.words().u32_at(set.table, index))
}

/// Drops a table.
pub(super) fn free_table(arena: &mut Arena, set: &BackendSet) {
    let lines = (set.slots as usize).div_ceil(SLOTS);
    for index in 0..lines {
        let line = line(arena, set, index);
        arena.free(Table::Backends, line, SLOT_WORDS);
    }
    arena.free(Table::Backends, set.table, lines.div_ceil(2));
}

#[cfg(test)]
mod tests;
