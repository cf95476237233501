//! One conntrack entry: 16 words, two cache lines, both directions of a flow.
//!
//! | word | holds | written |
//! |---|---|---|
//! | 0–1, 2–3 | source and destination of the original direction | once |
//! | 4–5, 6–7 | source and destination of the reply direction | once |
//! | 8 | ports: original source, destination, reply source, destination (16 bits each, low first) | once |
//! | 9 | protocol (8 bits), flags (8), service id (high 32) | once |
//! | 10, 11 | the [`Decision`] of the original and of the reply direction | when the line was walked again |
//! | 12 | tick of the last packet (low 32), tick of creation (high 32) | every eighth of a second |
//! | 13 | [`Progress`]: TCP state, what was seen, idle timeout | a few times in a flow's life |
//! | 14 | backend id (low 32) | once |
//! | 15 | life: phase (2 bits), version (30), link (high 32) | see `conntrack.rs` |
//!
//! The reply tuple is the original one reversed, with the backend in place of the VIP (DNAT) and our
//! address in place of the client (SNAT). So the translated form of a packet is the reverse of the
//! other direction's tuple, and nothing else need be stored about NAT.
//!
//! Words that are "written once" are written before the entry can be found and stay until no worker
//! can be looking at it. A reader outside the engine checks the life word before and after.

use super::progress::Progress;
use crate::flow::{Direction, Tuple};
use crate::state::neighbor::NeighborId;
use crate::state::word::Word;
use millrace_tables::{InterfaceId, ServiceId};
use millrace_wire::{Addr, Protocol};

/// Words in an entry.
pub(super) const ROW: usize = 16;
/// An entry's words.
pub(super) type Row<W> = [W; ROW];

const _: () = assert!(ROW * size_of::<u64>() == 128);

pub(super) const PORTS: usize = 8;
pub(super) const KIND: usize = 9;
pub(super) const DECISION: [usize; 2] = [10, 11];
pub(super) const TIMES: usize = 12;
pub(super) const PROGRESS: usize = 13;
pub(super) const BACKEND: usize = 14;
pub(super) const LIFE: usize = 15;

const HAS_SERVICE: u64 = 1 << 8;

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
/// Zero is "none yet".
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

/// What is written once, in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Keys {
    pub(super) words: [u64; 8],
    pub(super) ports: u64,
    pub(super) protocol: Protocol,
}

/// One direction's key, as the words that an entry is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    words: [u64; 4],
    ports: u32,
    protocol: u8,
}

impl Key {
    #[inline]
    pub(super) fn of(tuple: &Tuple) -> Self {
        let ([a, b], [c, d]) = (tuple.src.to_words(), tuple.dst.to_words());
        let ports = u32::from(tuple.sport) | u32::from(tuple.dport) << 16;
        Self { words: [a, b, c, d], ports, protocol: tuple.protocol.0 }
    }

    /// Whether the entry's tuple of that direction is this one.
    #[inline]
    pub(super) fn matches<W: Word>(&self, row: &Row<W>, direction: Direction) -> bool {
        let first = direction.index() * 4;
        let ports = (row[PORTS].get() >> (direction.index() * 32)) as u32;
        // All of it before one branch: the tag has said yes already.
        let differences = (row[first].get() ^ self.words[0])
            | (row[first + 1].get() ^ self.words[1])
            | (row[first + 2].get() ^ self.words[2])
            | (row[first + 3].get() ^ self.words[3])
            | u64::from(ports ^ self.ports)
            | u64::from(row[KIND].get() as u8 ^ self.protocol);
        differences == 0
    }
}

impl Keys {
    pub(super) fn of(original: &Tuple, reply: &Tuple) -> Self {
        let mut words = [0; 8];
        for (pair, addr) in
            words.chunks_exact_mut(2).zip([original.src, original.dst, reply.src, reply.dst])
        {
            pair.copy_from_slice(&addr.to_words());
        }
        let ports = u64::from(original.sport)
            | u64::from(original.dport) << 16
            | u64::from(reply.sport) << 32
            | u64::from(reply.dport) << 48;
        Self { words, ports, protocol: original.protocol }
    }

    #[inline]
    pub(super) fn read<W: Word>(row: &Row<W>) -> Self {
        Self {
            words: std::array::from_fn(|index| row[index].get()),
            ports: row[PORTS].get(),
            protocol: Protocol(row[KIND].get() as u8),
        }
    }

    #[inline]
    pub(super) fn tuple(&self, direction: Direction) -> Tuple {
        let [o0, o1, o2, o3, r0, r1, r2, r3] = self.words;
        let ([a, b, c, d], ports) = match direction {
            Direction::Original => ([o0, o1, o2, o3], self.ports as u32),
            Direction::Reply => ([r0, r1, r2, r3], (self.ports >> 32) as u32),
        };
        Tuple {
            src: Addr::from_words([a, b]),
            dst: Addr::from_words([c, d]),
            sport: ports as u16,
            dport: (ports >> 16) as u16,
            protocol: self.protocol,
        }
    }
}

/// What an entry is made of.
pub(super) struct Contents {
    pub(super) keys: Keys,
    pub(super) service: Option<ServiceId>,
    pub(super) backend: u32,
    pub(super) progress: Progress,
    pub(super) tick: u32,
}

impl Contents {
    /// Fills an entry that nobody can find yet; all but its life.
    pub(super) fn write<W: Word>(&self, row: &Row<W>) {
        for (word, value) in row.iter().zip(self.keys.words) {
            word.set(value);
        }
        row[PORTS].set(self.keys.ports);
        let service = self.service.map_or(0, |ServiceId(id)| HAS_SERVICE | u64::from(id) << 32);
        row[KIND].set(u64::from(self.keys.protocol.0) | service);
        row[DECISION[0]].set(Decision::NONE.0);
        row[DECISION[1]].set(Decision::NONE.0);
        row[TIMES].set(u64::from(self.tick) | u64::from(self.tick) << 32);
        row[PROGRESS].set(self.progress.0);
        row[BACKEND].set(u64::from(self.backend));
    }
}

/// The service in word [`KIND`].
#[inline]
pub(super) fn service(kind: u64) -> Option<ServiceId> {
    (kind & HAS_SERVICE != 0).then_some(ServiceId((kind >> 32) as u32))
}
