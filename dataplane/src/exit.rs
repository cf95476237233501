//! [`Exit`]: how a packet leaves the line, in one word.
//!
//! Every stop returns `Result<_, Exit>`, and `?` hands it on. A [`Verdict`] says the same for people, but is as big as an
//! address: handing results of that size from stop to stop through memory cost a third of the line's time, because their parts
//! are written narrow and read wide, which a processor can't forward from its store buffer. One word stays in a register.
//!
//! ```text
//! bits 0–15   the place of the counter that it is booked under, which tells the kind and the reason
//! 16–31       interface (transmit, hold; of a punt that is handed on, one more)
//! 32–63       transmit, punt: start and offset of the checksum to complete, or 0   hold: the neighbor's id
//!             transmit in pieces: where the IP header begins, and `PIECES`
//! ```

use millrace_tables::InterfaceId;
use millrace_wire::Addr;
use millrace_xsk::TxOffload;

use crate::counters::{COUNTERS, Counter, DROPS, PUNTS, Place, REPLIES};
use crate::state::neighbor::NeighborId;
use crate::verdict::{DropReason, PuntReason, ReplyKind, Verdict};

/// How a packet leaves the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit(u64);

const TRANSMIT: u64 = Counter::Tx as u64;
/// In place of a checksum's offset: the packet leaves in fragments.
const PIECES: u16 = u16::MAX;
const HOLD: u64 = Counter::Held as u64;
const _: () = assert!(COUNTERS <= 1 << 16);

impl Exit {
    /// Out of `interface`, rewritten.
    #[inline]
    pub(crate) fn transmit(interface: InterfaceId, offload: TxOffload) -> Exit {
        let todo = match offload {
            TxOffload::None => 0,
            TxOffload::Checksum { start, offset } => u64::from(start) | u64::from(offset) << 16,
        };
        Exit(TRANSMIT | u64::from(interface.0) << 16 | todo << 32)
    }

    /// Out of `interface` in fragments: rewritten, its checksum complete, and longer than the interface takes. `l3` is where its IP header begins.
    pub(crate) fn transmit_in_pieces(interface: InterfaceId, l3: u16) -> Exit {
        let todo = u64::from(l3) | u64::from(PIECES) << 16;
        Exit(TRANSMIT | u64::from(interface.0) << 16 | todo << 32)
    }

    /// Where the packet leaves in fragments, and where its IP header begins.
    pub(crate) fn in_pieces(self) -> Option<(InterfaceId, u16)> {
        let is = self.0 & 0xffff == TRANSMIT && (self.0 >> 48) as u16 == PIECES;
        is.then(|| (self.interface(), (self.0 >> 32) as u16))
    }

    /// To the node's stack, by the trunk `interface`.
    pub(crate) fn hand_on(reason: PuntReason, interface: InterfaceId, offload: TxOffload) -> Exit {
        let place = reason.place() as u64;
        let way = u64::from(interface.0.saturating_add(1));
        Exit(place | way << 16 | (Exit::transmit(interface, offload).0 >> 32) << 32)
    }

    /// The trunk by which a punt is handed on, and what is left to do to its checksum.
    #[inline]
    pub(crate) fn handed_on(self) -> Option<(InterfaceId, TxOffload)> {
        let way = self.interface().0.checked_sub(1)?;
        let is_punt = (PUNTS..PUNTS + PuntReason::ALL.len()).contains(&self.place());
        is_punt.then(|| (InterfaceId(way), self.offload()))
    }

    /// Waits for a neighbor.
    pub(crate) fn hold(interface: InterfaceId, neighbor: NeighborId) -> Exit {
        Exit(HOLD | u64::from(interface.0) << 16 | u64::from(neighbor.to_bits()) << 32)
    }

    /// The counter that it is booked under.
    #[inline]
    pub fn place(self) -> usize {
        usize::from(self.0 as u16)
    }

    #[inline]
    fn interface(self) -> InterfaceId {
        InterfaceId((self.0 >> 16) as u16)
    }

    /// Where the packet leaves rewritten, and what is left to do to its checksum; `None` if it doesn't.
    #[inline]
    pub(crate) fn transmitted(self) -> Option<(InterfaceId, TxOffload)> {
        if self.0 & 0xffff != TRANSMIT {
            return None;
        }
        Some((self.interface(), self.offload()))
    }

    #[inline]
    fn offload(self) -> TxOffload {
        // No header has its checksum at its beginning.
        match ((self.0 >> 32) as u16, (self.0 >> 48) as u16) {
            (_, 0 | PIECES) => TxOffload::None,
            (start, offset) => TxOffload::Checksum { start, offset },
        }
    }

    /// The way out of a packet that leaves rewritten, with nothing left to do to it.
    #[inline]
    pub(crate) fn ready(self) -> Option<InterfaceId> {
        (self.0 & !0xffff_0000 == TRANSMIT).then(|| self.interface())
    }

    /// The same for people. `address` finds a neighbor's address; one that is gone meanwhile is not waited for.
    pub fn verdict(self, address: impl FnOnce(NeighborId) -> Option<Addr>) -> Verdict {
        if let Some((interface, offload)) = self.transmitted() {
            return Verdict::Transmit { interface, offload };
        }
        let place = self.place();
        if place == Counter::Held.place() {
            let neighbor = address(NeighborId::from_bits((self.0 >> 32) as u32));
            return match neighbor {
                Some(neighbor) => Verdict::Hold { interface: self.interface(), neighbor },
                None => DropReason::Unresolved.into(),
            };
        }
        fn row<T: Copy>(list: &[T], first: usize, place: usize) -> Option<T> {
            list.get(place.checked_sub(first)?).copied()
        }
        None.or_else(|| row(DropReason::ALL, DROPS, place).map(Verdict::Drop))
            .or_else(|| row(PuntReason::ALL, PUNTS, place).map(Verdict::Punt))
            .or_else(|| row(ReplyKind::ALL, REPLIES, place).map(Verdict::Reply))
            .unwrap_or(Verdict::Drop(DropReason::Inconsistent))
    }
}

impl From<DropReason> for Exit {
    #[inline]
    fn from(reason: DropReason) -> Exit {
        Exit(reason.place() as u64)
    }
}

impl From<PuntReason> for Exit {
    #[inline]
    fn from(reason: PuntReason) -> Exit {
        Exit(reason.place() as u64)
    }
}

impl From<ReplyKind> for Exit {
    #[inline]
    fn from(kind: ReplyKind) -> Exit {
        Exit(kind.place() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counters::place_of;

    fn verdict(exit: Exit) -> Verdict {
        exit.verdict(|_| Some(Addr::BROADCAST))
    }

    #[test]
    fn every_exit_is_a_verdict_and_is_booked_as_it() {
        let drops = DropReason::ALL.iter().map(|&it| (Exit::from(it), Verdict::from(it)));
        let punts = PuntReason::ALL.iter().map(|&it| (Exit::from(it), Verdict::from(it)));
        let replies = ReplyKind::ALL.iter().map(|&it| (Exit::from(it), Verdict::from(it)));
        for (exit, meant) in drops.chain(punts).chain(replies) {
            assert_eq!((verdict(exit), exit.place()), (meant, place_of(&meant)));
            assert_eq!(exit.transmitted(), None);
        }
    }

    #[test]
    fn interface_and_checksum_come_back() {
        let interface = InterfaceId(0xfedc);
        for offload in [TxOffload::None, TxOffload::Checksum { start: 0xabcd, offset: 16 }] {
            let exit = Exit::transmit(interface, offload);
            assert_eq!(exit.transmitted(), Some((interface, offload)));
            assert_eq!(verdict(exit), Verdict::Transmit { interface, offload });
            assert_eq!(exit.place(), place_of(&verdict(exit)));
        }
    }

    #[test]
    fn a_punt_that_is_handed_on_is_booked_as_one_that_ends_here() {
        let offload = TxOffload::Checksum { start: 34, offset: 16 };
        let exit = Exit::hand_on(PuntReason::Local, InterfaceId(0), offload);
        assert_eq!(exit.handed_on(), Some((InterfaceId(0), offload)));
        assert_eq!(exit.place(), Exit::from(PuntReason::Local).place());
        assert_eq!(verdict(exit), Verdict::Punt(PuntReason::Local));
        assert_eq!((exit.transmitted(), exit.ready()), (None, None));
        assert_eq!(Exit::from(PuntReason::Local).handed_on(), None);
        let sent = Exit::transmit(InterfaceId(1), TxOffload::None);
        assert_eq!(sent.handed_on(), None);
    }

    #[test]
    fn who_waits_for_a_neighbor_that_is_gone_is_dropped() {
        let exit = Exit::hold(InterfaceId(3), NeighborId::from_bits(0x0abc_1234));
        let held = Verdict::Hold { interface: InterfaceId(3), neighbor: Addr::BROADCAST };
        let found = exit.verdict(|id| {
            assert_eq!(id.to_bits(), 0x0abc_1234);
            Some(Addr::BROADCAST)
        });
        assert_eq!((found, exit.place()), (held, place_of(&held)));
        assert_eq!(exit.verdict(|_| None), Verdict::Drop(DropReason::Unresolved));
    }
}
