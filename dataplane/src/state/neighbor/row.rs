//! One neighbor: eight words, one cache line.
//!
//! | word | holds |
//! |---|---|
//! | 0–1 | address |
//! | 2 | interface |
//! | 3 | [`Link`]: MAC, state and version in one word, so that no reader sees a MAC of one and the state of another |
//! | 4 | last use, in milliseconds, stored at most every 128 ms |
//! | 5 | when it was last confirmed (or made), in nanoseconds |
//! | 6 | [`Asked`]: when it was last asked for, and how often in a row |
//! | 7 | free: the next free row plus one; permanent: the round of `sync_static` that named it |

use crate::clock::{MILLISECOND, Nanos};
use crate::state::word::Word;
use millrace_tables::InterfaceId;
use millrace_wire::{Addr, Mac};

/// Words in a row.
pub(super) const ROW: usize = 8;
/// A neighbor's words.
pub(super) type Row<W> = [W; ROW];

const _: () = assert!(ROW * size_of::<u64>() == 64);

pub(super) const INTERFACE: usize = 2;
pub(super) const LINK: usize = 3;
pub(super) const USED: usize = 4;
pub(super) const CONFIRMED: usize = 5;
pub(super) const ASKED: usize = 6;
pub(super) const NEXT: usize = 7;

/// What is known about a neighbor (RFC 4861 §7.3.2, for ARP too).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum NeighborState {
    /// No neighbor; the row is free.
    Free = 0,
    /// Asked for, no answer yet.
    Incomplete = 1,
    /// Answered less than [`super::REACHABLE`] ago.
    Reachable = 2,
    /// Not confirmed for a while, or learned from what it said unasked; used as it is.
    Stale = 3,
    /// Stale and in use, for less than [`super::DELAY`]: it may yet speak up by itself.
    Delay = 4,
    /// Being asked whether it is still there.
    Probe = 5,
    /// Asked [`super::REQUESTS`] times in vain.
    Failed = 6,
    /// Set by control.
    Permanent = 7,
}

impl NeighborState {
    fn from_bits(bits: u64) -> Self {
        match bits & 0xf {
            1 => Self::Incomplete,
            2 => Self::Reachable,
            3 => Self::Stale,
            4 => Self::Delay,
            5 => Self::Probe,
            6 => Self::Failed,
            7 => Self::Permanent,
            _ => Self::Free,
        }
    }

    /// Whether packets can be sent to it.
    #[inline]
    pub fn is_complete(self) -> bool {
        matches!(self, Self::Reachable | Self::Stale | Self::Delay | Self::Probe | Self::Permanent)
    }

    /// As `ip neigh` prints it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Free => "NONE",
            Self::Incomplete => "INCOMPLETE",
            Self::Reachable => "REACHABLE",
            Self::Stale => "STALE",
            Self::Delay => "DELAY",
            Self::Probe => "PROBE",
            Self::Failed => "FAILED",
            Self::Permanent => "PERMANENT",
        }
    }
}

/// MAC in bits 0–47, state in 48–51, version in 52–63.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link(pub u64);

impl Link {
    #[inline]
    pub(super) fn new(state: NeighborState, mac: Mac, version: u16) -> Self {
        Self(mac.to_u64() | (state as u64) << 48 | u64::from(version) << 52)
    }

    #[inline]
    pub(super) fn mac(self) -> Mac {
        Mac::from_u64(self.0 & 0xffff_ffff_ffff)
    }

    #[inline]
    pub(super) fn state(self) -> NeighborState {
        NeighborState::from_bits(self.0 >> 48)
    }

    #[inline]
    pub(super) fn version(self) -> u16 {
        (self.0 >> 52) as u16
    }

    #[inline]
    pub(super) fn with(self, state: NeighborState) -> Self {
        Self::new(state, self.mac(), self.version())
    }
}

/// The last request: milliseconds (plus one, so that 0 is "never") in bits 8–63, requests in a row in 0–7.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked(pub u64);

impl Asked {
    pub(super) const NEVER: Self = Self(0);

    pub(super) fn times(self) -> u8 {
        self.0 as u8
    }

    /// Whether the next request may be sent: `interval` has passed since the last.
    pub(super) fn is_due(self, now: Nanos, interval: Nanos) -> bool {
        match (self.0 >> 8).checked_sub(1) {
            None => true,
            Some(last) => (now / MILLISECOND).saturating_sub(last) >= interval / MILLISECOND,
        }
    }

    /// Asked once more, or for the first time.
    pub(super) fn again(times: u8, now: Nanos) -> Self {
        Self((now / MILLISECOND + 1) << 8 | u64::from(times))
    }
}

/// A slot of the table and which neighbor of those that had it.
///
/// 28 bits: slot in 0–15, version in 16–27. A conntrack entry keeps it for the packets to come;
/// when the slot has gone to another neighbor, the version no longer fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NeighborId {
    pub(super) slot: u16,
    pub(super) version: u16,
}

impl NeighborId {
    /// As a number below 2²⁸.
    #[inline]
    pub fn to_bits(self) -> u32 {
        u32::from(self.slot) | u32::from(self.version) << 16
    }

    /// From [`NeighborId::to_bits`]; upper bits are ignored.
    #[inline]
    pub const fn from_bits(bits: u32) -> Self {
        Self { slot: bits as u16, version: (bits >> 16) as u16 & 0xfff }
    }
}

/// Whether the row is about that neighbor.
#[inline]
pub(super) fn is_about<W: Word>(row: &Row<W>, interface: InterfaceId, words: [u64; 2]) -> bool {
    let differences = (row[0].get() ^ words[0])
        | (row[1].get() ^ words[1])
        | (row[INTERFACE].get() ^ u64::from(interface.0));
    differences == 0
}

pub(super) fn address<W: Word>(row: &Row<W>) -> (InterfaceId, Addr) {
    let addr = Addr::from_words([row[0].get(), row[1].get()]);
    (InterfaceId(row[INTERFACE].get() as u16), addr)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SECOND;

    #[test]
    fn a_link_says_what_it_was_made_of() {
        let mac = Mac([0x02, 0xfe, 1, 2, 3, 0xff]);
        for bits in 0..=7 {
            let state = NeighborState::from_bits(bits);
            let link = Link::new(state, mac, 0xabc);
            assert_eq!((link.state() as u64, link.mac(), link.version()), (bits, mac, 0xabc));
        }
        assert_eq!(Link(u64::MAX).state(), NeighborState::Free);
    }

    #[test]
    fn an_id_fits_28_bits_and_comes_back() {
        let id = NeighborId { slot: 0xfffe, version: 0xfff };
        assert!(id.to_bits() < 1 << 28);
        assert_eq!(NeighborId::from_bits(id.to_bits()), id);
    }

    #[test]
    fn requests_are_due_when_the_interval_has_passed() {
        assert!(Asked::NEVER.is_due(0, SECOND));
        let asked = Asked::again(2, 5 * SECOND);
        assert_eq!(asked.times(), 2);
        assert!(!asked.is_due(5 * SECOND, SECOND));
        assert!(!asked.is_due(6 * SECOND - MILLISECOND, SECOND));
        assert!(asked.is_due(6 * SECOND, SECOND));
        // Another worker's clock reading was a little behind.
        assert!(!asked.is_due(4 * SECOND, SECOND));
    }
}
