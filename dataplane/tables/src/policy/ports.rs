//! Port maps: protocol and destination port → decision.
//!
//! ```text
//! row       0: form (8) | intervals of TCP (8), UDP (8), SCTP (8) | decision of every other protocol + 1 << 32
//!   inline  1…7: the intervals
//!   list    1: Ref of the intervals | how many << 32
//!   radix   1: entry of TCP | entry of UDP << 32   2: entry of SCTP
//! interval  first port (16) | decision + 1 (23, at 16) | what it says: TCP's by port, then UDP's, then SCTP's
//!   says    (of inline ones, where the decision is *plain*) allowed (1, at 39) | rule + 1 (7, at 40) | policy (16, at 47) | 1 << 63
//! entry     decision + 1, or 1 << 31 | Ref of 256 entries: of the port's upper byte, below these of its lower
//! ```
//! Cost: two loads to the row, then a search of 3 steps in its own line (inline), of up to 6 in 512 bytes (list), or 2 loads (radix).
//! A decision is plain if one policy makes it, by none or one of its first 126 rules, and policies in shadow mode say nothing else: most are. Then its row,
//! a line that few others need, is not read. The writer keeps what intervals say as the decisions say it.

use crate::{
    arena::{Arena, Table},
    error::Error,
    layout::{high, low, pack},
    policy::{ALLOW, DECISION_WORDS, DENY, DecisionId, Intervals, PortMapSpec},
    rows,
    words::{Ref, Words},
};

/// Words of a row.
pub(crate) const WORDS: usize = 8;
/// Intervals that a row has room for.
pub(crate) const INLINE: usize = WORDS - 1;
/// Intervals of the longest list.
pub(crate) const LIST: usize = 48;

const INLINE_FORM: u64 = 1;
const LIST_FORM: u64 = 2;
const RADIX_FORM: u64 = 3;

/// An entry with this bit leads to a page.
const PAGE: u32 = 1 << 31;
const PAGE_ENTRIES: usize = 256;
const PAGE_WORDS: usize = PAGE_ENTRIES / 2;
/// Bytes of a page.
pub(crate) const PAGE_BYTES: u64 = PAGE_WORDS as u64 * 8;

/// In an interval: what the decision says is in it.
const PLAIN: u64 = 1 << 63;
/// Bits of an interval before those.
const SAYS: u32 = 39;
/// The greatest rule + 1 that is plain.
const MOST_RULE: u64 = 0x7f;
const _: () = assert!(ALLOW + 1 == DENY);

/// What a map says of a protocol and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said(u64);

impl Said {
    /// Nothing: there is no map.
    pub const NOTHING: Self = Self(0);

    const fn of(decision: u32) -> Self {
        Self((decision as u64) << 16)
    }

    /// The number of the decision + 1, 0 where there is none.
    #[inline]
    pub const fn decision(self) -> u32 {
        (self.0 >> 16) as u32 & 0x7f_ffff
    }

    /// The first word of the decision's row, if it is plain.
    #[inline]
    pub const fn plainly(self) -> Option<u64> {
        if self.0 & PLAIN == 0 {
            return None;
        }
        let (rule, policy) = (self.0 >> 40 & MOST_RULE, self.0 >> 47 & 0xffff);
        // Allowed is one less than denied.
        let verdict = DENY - (self.0 >> SAYS & 1);
        Some(verdict | rule << 8 | (policy + 1) << 32)
    }
}

/// What intervals say of the decision that has this row; 0 where it is not plain.
pub(crate) fn says(row: &[u64; DECISION_WORDS]) -> u64 {
    let [head, shadow, lists, _] = *row;
    let (rule, policy) = (head >> 8 & 0x1_ffff, u64::from(high(head)));
    let plain = shadow == 0
        && lists == 0
        && matches!(head & 0xff, ALLOW | DENY)
        && rule <= MOST_RULE
        && (1..=1 << 16).contains(&policy);
    if !plain {
        return 0;
    }
    PLAIN | u64::from(head & 0xff == ALLOW) << SAYS | rule << 40 | (policy - 1) << 47
}

/// Has the intervals of a row say what `says` answers of their decisions.
pub(crate) fn tell(row: &mut [u64; WORDS], says: impl Fn(u32) -> u64) {
    if row[0] & 0xff == INLINE_FORM {
        for word in &mut row[1..] {
            let bare = *word & ((1 << SAYS) - 1);
            *word = bare | Said(bare).decision().checked_sub(1).map_or(0, &says);
        }
    }
}

/// Decisions of which the intervals of a row say what they say.
pub(crate) fn told(row: &[u64; WORDS]) -> impl Iterator<Item = u32> + use<'_> {
    let inline = row[0] & 0xff == INLINE_FORM;
    let words = row[1..].iter().filter(move |word| inline && **word & PLAIN != 0);
    words.filter_map(|word| Said(*word).decision().checked_sub(1))
}

/// The place of a protocol among those that have ports.
#[inline]
const fn place(protocol: u8) -> Option<u32> {
    match protocol {
        6 => Some(0),
        17 => Some(1),
        132 => Some(2),
        _ => None,
    }
}

/// What map `map` says.
#[inline]
pub fn find(words: Words<'_>, root: u64, map: u32, protocol: u8, port: u16) -> Said {
    row(words, root, map).map_or(Said::NOTHING, |row| of(words, row, protocol, port))
}

/// The row of a map.
#[inline]
pub fn row(words: Words<'_>, root: u64, map: u32) -> Option<Ref> {
    rows::find::<WORDS>(words, root, map)
}

/// What the map that has this row says.
#[inline]
pub fn of(words: Words<'_>, row: Ref, protocol: u8, port: u16) -> Said {
    let head = words.at(row, 0);
    let Some(place) = place(protocol) else { return Said::of(high(head)) };
    if head & 0xff == RADIX_FORM {
        return Said::of(radix(words, words.u32_at(row, 2 + place as usize), port));
    }
    let count = |place: u32| (head >> (8 + 8 * place) & 0xff) as usize;
    let first: usize = (0..place).map(count).sum();
    let (at, first) =
        if head & 0xff == LIST_FORM { (low(words.at(row, 1)), first) } else { (row, 1 + first) };
    search(words, at, first, count(place), port)
}

/// The last of `count` intervals that begins at or before the port.
#[inline]
fn search(words: Words<'_>, at: Ref, mut first: usize, mut count: usize, port: u16) -> Said {
    if count == 0 {
        return Said::NOTHING;
    }
    while count > 1 {
        let half = count / 2;
        if words.at(at, first + half) as u16 <= port {
            first += half;
        }
        count -= half;
    }
    Said(words.at(at, first))
}

#[inline]
fn radix(words: Words<'_>, mut entry: u32, port: u16) -> u32 {
    for half in [port >> 8, port & 0xff] {
        if entry & PAGE == 0 {
            break;
        }
        entry = words.u32_at(Ref::from_raw(entry & !PAGE), usize::from(half));
    }
    if entry & PAGE == 0 { entry } else { 0 }
}

/// The intervals without those that decide what the one before does.
fn merged(intervals: &Intervals) -> Vec<(u16, DecisionId)> {
    let mut kept: Vec<(u16, DecisionId)> = Vec::with_capacity(intervals.len());
    for (first, decision) in intervals {
        if kept.last().is_none_or(|(_, before)| before != decision) {
            kept.push((*first, *decision));
        }
    }
    kept
}

fn interval(&(first, decision): &(u16, DecisionId)) -> u64 {
    u64::from(first) | (u64::from(decision.0) + 1) << 16
}

/// A checked map, as it will be written.
pub(crate) struct Planned {
    protocols: [Vec<(u16, DecisionId)>; 3],
    other: DecisionId,
}

impl Planned {
    pub fn new(spec: &PortMapSpec) -> Self {
        Self { protocols: [&spec.tcp, &spec.udp, &spec.sctp].map(merged), other: spec.other }
    }

    fn len(&self) -> usize {
        self.protocols.iter().map(Vec::len).sum()
    }

    /// Bytes that [`Planned::write`] allocates at most.
    pub fn worst(&self) -> u64 {
        match self.len() {
            0..=INLINE => 0,
            count if count <= LIST => Arena::bytes_of(count),
            _ => {
                // The top, and a page for each upper byte that has ports which begin something.
                let pages = |ports: &Vec<(u16, DecisionId)>| match ports.len() {
                    0 | 1 => 0,
                    _ => 1 + ports.chunk_by(|a, b| a.0 >> 8 == b.0 >> 8).count(),
                };
                self.protocols.iter().map(pages).sum::<usize>() as u64 * PAGE_BYTES
            }
        }
    }

    /// Writes what the row leads to, and answers the row.
    pub fn write(&self, arena: &mut Arena) -> Result<[u64; WORDS], Error> {
        let mut row = [0; WORDS];
        let intervals = || self.protocols.iter().flatten().map(interval);
        let mut form = INLINE_FORM;
        match self.len() {
            0..=INLINE => {
                for (word, interval) in row[1..].iter_mut().zip(intervals()) {
                    *word = interval;
                }
            }
            count if count <= LIST => {
                form = LIST_FORM;
                let at = arena.alloc(Table::Policy, count)?;
                for (offset, interval) in intervals().enumerate() {
                    arena.store(at, offset, interval);
                }
                row[1] = pack(at, count as u32);
            }
            _ => {
                form = RADIX_FORM;
                let mut entries = [0; 3];
                for (entry, ports) in entries.iter_mut().zip(&self.protocols) {
                    *entry = u64::from(pages(arena, ports)?);
                }
                row[1] = entries[0] | entries[1] << 32;
                row[2] = entries[2];
            }
        }
        row[0] = form | (u64::from(self.other.0) + 1) << 32;
        if form != RADIX_FORM {
            for (place, ports) in self.protocols.iter().enumerate() {
                row[0] |= (ports.len() as u64) << (8 + 8 * place);
            }
        }
        Ok(row)
    }
}

/// The entry of one protocol.
fn pages(arena: &mut Arena, ports: &[(u16, DecisionId)]) -> Result<u32, Error> {
    let entry = |decision: &DecisionId| decision.0 + 1;
    if let [(_, only)] = ports {
        return Ok(entry(only));
    }
    let top = arena.alloc(Table::Policy, PAGE_WORDS)?;
    let mut before = ports.first().map_or(0, |(_, decision)| entry(decision));
    let mut rest = ports;
    let mut entries = [0; PAGE_ENTRIES];
    for (upper, slot) in entries.iter_mut().enumerate() {
        let end = rest.partition_point(|(first, _)| usize::from(first >> 8) <= upper);
        let (inside, after) = rest.split_at(end);
        rest = after;
        *slot = match inside {
            [] => before,
            [(first, decision)] if first & 0xff == 0 => entry(decision),
            _ => {
                let mut lower = [before; PAGE_ENTRIES];
                for (first, decision) in inside {
                    lower[usize::from(first & 0xff)..].fill(entry(decision));
                }
                let page = arena.alloc(Table::Policy, PAGE_WORDS)?;
                write_page(arena, page, &lower);
                PAGE | page.raw()
            }
        };
        before = inside.last().map_or(before, |(_, decision)| entry(decision));
    }
    write_page(arena, top, &entries);
    Ok(PAGE | top.raw())
}

fn write_page(arena: &mut Arena, page: Ref, entries: &[u32; PAGE_ENTRIES]) {
    for (offset, pair) in entries.chunks(2).enumerate() {
        arena.store(page, offset, u64::from(pair[0]) | u64::from(pair[1]) << 32);
    }
}

/// Frees what a row leads to.
pub(crate) fn free(arena: &mut Arena, row: &[u64; WORDS]) {
    match row[0] & 0xff {
        LIST_FORM => arena.free(Table::Policy, low(row[1]), high(row[1]) as usize),
        RADIX_FORM => {
            for entry in [row[1] as u32, high(row[1]), row[2] as u32] {
                if entry & PAGE == 0 {
                    continue;
                }
                let top = Ref::from_raw(entry & !PAGE);
                for slot in 0..PAGE_ENTRIES {
                    let entry = arena.words().u32_at(top, slot);
                    if entry & PAGE != 0 {
                        arena.free(Table::Policy, Ref::from_raw(entry & !PAGE), PAGE_WORDS);
                    }
                }
                arena.free(Table::Policy, top, PAGE_WORDS);
            }
        }
        _ => {}
    }
}
