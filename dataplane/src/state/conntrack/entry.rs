//! One conntrack entry, both directions of a flow: a row of 8 words, one cache line, and for IPv6 a side row of 6 more.
//!
//! | word | holds | written |
//! |---|---|---|
//! | 0, 1 | IPv4: original source and destination, reply source and destination, 32 bits each, low first; else: reply destination | once |
//! | 2 | ports: original source, destination, reply source, destination (16 bits each, low first) | once |
//! | 3 | protocol (8 bits), where the addresses are (1), whether it is masqueraded (1), service id plus one (22, from bit 10), tick of creation (high 32) | once |
//! | 4, 5 | the [`Decision`] of the original and of the reply direction | when the line was walked again |
//! | 6 | [`Activity`]: tick of the last packet, [`Progress`] | once a second, and a few times in a flow's life |
//! | 7 | life: phase (2 bits), version (30), link (high 32) | see `conntrack.rs` |
//! | side 0–1, 2–3, 4–5 | unless all is IPv4: original source, original destination, reply source | once |
//!
//! The reply tuple is the original one reversed, with the backend in place of the VIP (DNAT) and our
//! address in place of the client (SNAT). So the translated form of a packet is the reverse of the
//! other direction's tuple, and nothing else need be stored about NAT.
//!
//! Words that are "written once" are written before the entry can be found and stay until no worker
//! can be looking at it. A reader outside the engine checks the life word before and after.

use super::progress::Progress;
use crate::clock::{MILLISECOND, Nanos};
use crate::flow::{Direction, Tuple};
use crate::state::neighbor::NeighborId;
use crate::state::word::Word;
use millrace_tables::{InterfaceId, ServiceId};
use millrace_wire::{Addr, Protocol};

/// Words in an entry's row.
pub(super) const ROW: usize = 8;
/// An entry's row.
pub(super) type Row<W> = [W; ROW];
/// Words in an entry's side row.
pub(super) const SIDE: usize = 6;

const _: () = assert!(ROW * size_of::<u64>() == 64);

const ADDRS: usize = 0;
const PORTS: usize = 2;
pub(super) const KIND: usize = 3;
pub(super) const DECISION: [usize; 2] = [4, 5];
pub(super) const ACTIVITY: usize = 6;
pub(super) const LIFE: usize = 7;

/// The addresses are in the side row.
const WIDE: u64 = 1 << 8;
/// The source is an address of ours for this flow.
const MASQUERADED: u64 = 1 << 9;
/// Where the service's number plus one begins, and the largest that fits.
const SERVICE: u32 = 10;
const MOST_SERVICES: u64 = (1 << 22) - 1;

/// An entry's words, all of them.
#[derive(Debug)]
pub(super) struct Place<'a, W> {
    pub(super) row: &'a Row<W>,
    /// All side rows, and where this entry's begins: it is only looked at if the entry is wide.
    sides: &'a [W],
    side: usize,
}

impl<W> Clone for Place<'_, W> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<W> Copy for Place<'_, W> {}

impl<'a, W: Word> Place<'a, W> {
    #[inline]
    pub(super) fn new(row: &'a Row<W>, sides: &'a [W], id: u32) -> Self {
        Self { row, sides, side: id as usize * SIDE }
    }

    /// The side row; words that are not there read 0.
    #[inline]
    fn side(&self) -> [u64; SIDE] {
        let words = self.sides.get(self.side..self.side + SIDE).unwrap_or_default();
        std::array::from_fn(|index| words.get(index).map_or(0, Word::get))
    }
}

/// A phase in the life of an entry's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    /// In a free list, or never used.
    Free = 0,
    /// Being inserted: findable, but not yet known to be the only one of its tuples.
    Pending = 1,
    /// In force.
    Live = 2,
    /// Taken out; the memory waits until no worker can be looking at it.
    Dead = 3,
}

/// The life word. The version tells two uses of the same memory apart, the link chains memory that is
/// free or waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Life(pub u64);

impl Life {
    pub(super) fn new(phase: Phase, version: u32, link: Option<u32>) -> Self {
        let link = link.map_or(0, |row| row + 1);
        Self(phase as u64 | u64::from(version & 0x3fff_ffff) << 2 | u64::from(link) << 32)
    }

    #[inline]
    pub(super) fn phase(self) -> Phase {
        match self.0 & 3 {
            0 => Phase::Free,
            1 => Phase::Pending,
            2 => Phase::Live,
            _ => Phase::Dead,
        }
    }

    #[inline]
    pub(super) fn version(self) -> u32 {
        self.0 as u32 >> 2
    }

    pub(super) fn link(self) -> Option<u32> {
        ((self.0 >> 32) as u32).checked_sub(1)
    }

    /// The same use of the memory, in another phase, unlinked.
    #[inline]
    pub(super) fn to(self, phase: Phase) -> Self {
        Self::new(phase, self.version(), None)
    }
}

/// The finished route of one direction: everything an established packet needs beyond its tuple.
///
/// One word, so that it can't be read half old and half new: the tables' generation (its low 24 bits)
/// in bits 40–63, the neighbor's version in 28–39 and slot in 12–27, the interface plus one in 0–11.
/// Zero is "none yet". Without an interface the upper 52 bits are a time, in milliseconds plus one: since then the flow's backend is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decision(pub(super) u64);

/// Where a direction's packets leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CachedHop {
    /// Out of this interface.
    pub interface: InterfaceId,
    /// To this neighbor (checked again at each use: its memory may have been given to another).
    pub neighbor: NeighborId,
}

impl Decision {
    /// No decision: the packet goes down the line.
    pub const NONE: Self = Self(0);

    /// What the tables of `generation` decided. Interfaces from 4,095 on can't be named in the word: their
    /// packets go down the line each time.
    pub fn new(generation: u64, hop: CachedHop) -> Self {
        let interface = u64::from(hop.interface.0) + 1;
        if interface > 0xfff {
            return Self::NONE;
        }
        Self(generation << 40 | u64::from(hop.neighbor.to_bits()) << 12 | interface)
    }

    /// No decision, since the backend was found gone at `now`.
    pub fn gone(now: Nanos) -> Self {
        Self((now / MILLISECOND + 1) << 12)
    }

    /// When the backend was found gone, to a millisecond, if it was.
    pub fn gone_since(self) -> Option<Nanos> {
        let is_time = self.0 & 0xfff == 0;
        is_time.then_some(self.0 >> 12)?.checked_sub(1).map(|since| since * MILLISECOND)
    }

    /// The hop, if it was decided under `generation` (or one that is a multiple of 2²⁴ away).
    #[inline]
    pub fn hop(self, generation: u64) -> Option<CachedHop> {
        let interface = (self.0 as u16 & 0xfff).checked_sub(1)?;
        if self.0 >> 40 != generation & 0xff_ffff {
            return None;
        }
        let neighbor = NeighborId::from_bits((self.0 >> 12) as u32 & 0x0fff_ffff);
        Some(CachedHop { interface: InterfaceId(interface), neighbor })
    }
}

/// The two halves of a word.
#[inline]
fn halves(word: u64) -> [u32; 2] {
    [word as u32, (word >> 32) as u32]
}

#[inline]
fn joined(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

#[inline]
fn ports_of(tuple: &Tuple) -> u32 {
    u32::from(tuple.sport) | u32::from(tuple.dport) << 16
}

/// One direction's key, as it is compared with an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    src: Addr,
    dst: Addr,
    ports: u32,
    protocol: u8,
}

impl Key {
    #[inline]
    pub(super) fn of(tuple: &Tuple) -> Self {
        let Tuple { src, dst, protocol, .. } = *tuple;
        Self { src, dst, ports: ports_of(tuple), protocol: protocol.0 }
    }

    /// Whether the entry's tuple of that direction is this one.
    #[inline]
    pub(super) fn matches<W: Word>(&self, place: &Place<'_, W>, direction: Direction) -> bool {
        let kind = place.row[KIND].get();
        if kind & WIDE == 0 {
            let narrow = self.src.is_v4() && self.dst.is_v4();
            return narrow && self.matches_narrow(place, direction).is_some();
        }
        let ports = halves(place.row[PORTS].get())[direction.index()];
        let [src, dst] = wide_addrs(place, direction);
        ports == self.ports
            && kind as u8 == self.protocol
            && src == self.src.to_words()
            && dst == self.dst.to_words()
    }

    /// [`Key::matches`] for a key that is IPv4, with addresses and ports of the other direction, as they are stored, if it
    /// does. An entry that isn't narrow doesn't match.
    #[inline]
    pub(super) fn matches_narrow<W: Word>(
        &self,
        place: &Place<'_, W>,
        direction: Direction,
    ) -> Option<[u64; 2]> {
        let there = direction.index();
        let (back, ports) = (direction.reversed().index(), place.row[PORTS].get());
        let kind = place.row[KIND].get();
        let addrs = joined(self.src.to_v4_bits(), self.dst.to_v4_bits());
        // All of it before one branch: the tag has said yes already.
        let differences = u64::from(halves(ports)[there] ^ self.ports)
            | (kind & (WIDE | 0xff) ^ u64::from(self.protocol))
            | (place.row[ADDRS + there].get() ^ addrs);
        (differences == 0).then(|| [place.row[ADDRS + back].get(), u64::from(halves(ports)[back])])
    }
}

/// Source and destination of a direction of a wide entry, as words.
#[inline]
fn wide_addrs<W: Word>(place: &Place<'_, W>, direction: Direction) -> [[u64; 2]; 2] {
    let [a, b, c, d, e, f] = place.side();
    match direction {
        Direction::Original => [[a, b], [c, d]],
        Direction::Reply => [[e, f], [place.row[ADDRS].get(), place.row[ADDRS + 1].get()]],
    }
}

/// The tuple of one direction of an entry.
#[inline]
pub(super) fn tuple<W: Word>(place: &Place<'_, W>, direction: Direction) -> Tuple {
    let ports = halves(place.row[PORTS].get())[direction.index()];
    let kind = place.row[KIND].get();
    let (src, dst) = if kind & WIDE == 0 {
        let [src, dst] = halves(place.row[ADDRS + direction.index()].get());
        (Addr::from_v4_bits(src), Addr::from_v4_bits(dst))
    } else {
        let [src, dst] = wide_addrs(place, direction);
        (Addr::from_words(src), Addr::from_words(dst))
    };
    Tuple {
        src,
        dst,
        sport: ports as u16,
        dport: (ports >> 16) as u16,
        protocol: Protocol(kind as u8),
    }
}

/// The last packet's tick and the state, in one word, so that a packet changes both at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Activity(pub u64);

impl Activity {
    #[inline]
    pub(super) fn new(tick: u32, progress: Progress) -> Self {
        Self(joined(tick, progress.0))
    }

    #[inline]
    pub(super) fn tick(self) -> u32 {
        halves(self.0)[0]
    }

    #[inline]
    pub(super) fn progress(self) -> Progress {
        Progress(halves(self.0)[1])
    }
}

/// What an entry is made of.
pub(super) struct Contents {
    pub(super) original: Tuple,
    /// The original tuple's.
    pub(super) hash: u64,
    pub(super) reply: Tuple,
    pub(super) service: Option<ServiceId>,
    pub(super) masqueraded: bool,
    pub(super) progress: Progress,
    pub(super) tick: u32,
}

impl Contents {
    /// Fills an entry that nobody can find yet; all but its life.
    pub(super) fn write<W: Word>(&self, place: &Place<'_, W>) {
        let Place { row, sides, side } = *place;
        let Self { original, reply, .. } = self;
        let addrs = [original.src, original.dst, reply.src, reply.dst];
        let wide = !addrs.iter().all(Addr::is_v4);
        let [first, second] = if wide {
            let words = [original.src, original.dst, reply.src].map(|addr| addr.to_words());
            let side = sides.get(side..side + SIDE).unwrap_or_default();
            for (word, value) in side.iter().zip(words.as_flattened()) {
                word.set(*value);
            }
            reply.dst.to_words()
        } else {
            let [a, b, c, d] = addrs.map(|addr| addr.to_v4_bits());
            [joined(a, b), joined(c, d)]
        };
        row[ADDRS].set(first);
        row[ADDRS + 1].set(second);
        row[PORTS].set(joined(ports_of(original), ports_of(reply)));
        // A number that doesn't fit is only not shown.
        let service = self.service.map_or(0, |ServiceId(id)| u64::from(id) + 1);
        let service = if service > MOST_SERVICES { 0 } else { service };
        let kind = u64::from(original.protocol.0)
            | if wide { WIDE } else { 0 }
            | if self.masqueraded { MASQUERADED } else { 0 };
        row[KIND].set(kind | service << SERVICE | u64::from(self.tick) << 32);
        row[DECISION[0]].set(Decision::NONE.0);
        row[DECISION[1]].set(Decision::NONE.0);
        row[ACTIVITY].set(Activity::new(self.tick, self.progress).0);
    }
}

/// The service in word [`KIND`].
#[inline]
pub(super) fn service(kind: u64) -> Option<ServiceId> {
    let plus_one = (kind >> SERVICE & MOST_SERVICES) as u32;
    plus_one.checked_sub(1).map(ServiceId)
}

/// Whether word [`KIND`] says that the source is one of ours.
#[inline]
pub(super) fn masqueraded(kind: u64) -> bool {
    kind & MASQUERADED != 0
}

/// The tick of creation in word [`KIND`].
pub(super) fn created(kind: u64) -> u32 {
    (kind >> 32) as u32
}
