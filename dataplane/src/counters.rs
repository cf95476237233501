//! What is counted, and the ledger that must balance.
//!
//! Each worker has one block of counters for each interface, so that the ledger holds per queue. A packet is booked on the
//! interface that it came in on, whatever becomes of it: `rx = tx + replies + punts + held + Σ drops`. What leaves by
//! an interface is counted beside the ledger (`out_…`), and so are the requests that we originate.
//!
//! The memory belongs to `state` (one writer, plain loads and stores); the places in it are decided here.

use crate::verdict::{DropReason, PuntReason, ReplyKind, Verdict};

crate::verdict::list! {
    /// The counters that no list of verdicts makes.
    Counter {
        Rx = "rx_packets": "Frames received.";
        RxBytes = "rx_bytes": "Bytes received, from the Ethernet header to the end of the frame.";
        Tx = "tx_packets": "Frames received here and sent on, out of whichever interface.";
        Held = "held_packets": "Frames received here that wait for a neighbor, or for the first fragment of their packet, right now.";
        Originated = "originated_packets": "ARP requests and neighbor solicitations sent out of here.";
        Out = "out_packets": "Frames sent out of here: forwarded, answered or originated.";
        OutBytes = "out_bytes": "Bytes sent out of here.";
    }
}

pub(crate) const REPLIES: usize = Counter::ALL.len();
pub(crate) const PUNTS: usize = REPLIES + ReplyKind::ALL.len();
pub(crate) const DROPS: usize = PUNTS + PuntReason::ALL.len();

/// Words of one worker's block for one interface.
pub const COUNTERS: usize = DROPS + DropReason::ALL.len();

/// Where each counter stands in a block.
pub trait Place: Copy {
    /// Below [`COUNTERS`].
    fn place(self) -> usize;
}

impl Place for Counter {
    #[inline]
    fn place(self) -> usize {
        self.index()
    }
}

impl Place for ReplyKind {
    #[inline]
    fn place(self) -> usize {
        REPLIES + self.index()
    }
}

impl Place for PuntReason {
    #[inline]
    fn place(self) -> usize {
        PUNTS + self.index()
    }
}

impl Place for DropReason {
    #[inline]
    fn place(self) -> usize {
        DROPS + self.index()
    }
}

/// Where a verdict is booked.
#[inline]
pub fn place_of(verdict: &Verdict) -> usize {
    match verdict {
        Verdict::Transmit { .. } => Counter::Tx.place(),
        Verdict::Reply(kind) => kind.place(),
        Verdict::Hold { .. } => Counter::Held.place(),
        Verdict::Punt(reason) => reason.place(),
        Verdict::Drop(reason) => reason.place(),
    }
}

/// Name and help of the counter at a place, for who prints a block: `("drop", DropReason name, help)`.
pub fn describe(place: usize) -> Option<Description> {
    let row = |kind, name, help| Some(Description { kind, name, help });
    if let Some(counter) = Counter::ALL.get(place) {
        row(Kind::Counter, counter.name(), counter.help())
    } else if let Some(reply) =
        place.checked_sub(REPLIES).and_then(|index| ReplyKind::ALL.get(index))
    {
        row(Kind::Reply, reply.name(), reply.help())
    } else if let Some(punt) = place.checked_sub(PUNTS).and_then(|index| PuntReason::ALL.get(index))
    {
        row(Kind::Punt, punt.name(), punt.help())
    } else {
        let reason = DropReason::ALL.get(place.checked_sub(DROPS)?)?;
        row(Kind::Drop, reason.name(), reason.help())
    }
}

/// Which list a counter is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// [`Counter`].
    Counter,
    /// [`ReplyKind`].
    Reply,
    /// [`PuntReason`].
    Punt,
    /// [`DropReason`].
    Drop,
}

/// What a counter is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Description {
    /// Which list it is from.
    pub kind: Kind,
    /// Its name there.
    pub name: &'static str,
    /// One sentence.
    pub help: &'static str,
}

/// The sums of one block, or of several added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Frames received.
    pub rx: u64,
    /// Of those, sent on.
    pub tx: u64,
    /// Of those, turned into an answer.
    pub replies: u64,
    /// Of those, left to the kernel or used up.
    pub punts: u64,
    /// Of those, waiting.
    pub held: u64,
    /// Of those, dropped for any reason.
    pub drops: u64,
}

impl Ledger {
    /// Adds up one block, read by place.
    pub fn read(get: impl Fn(usize) -> u64) -> Ledger {
        let sum = |from: usize, to: usize| (from..to).map(&get).fold(0, u64::wrapping_add);
        Ledger {
            rx: get(Counter::Rx.place()),
            tx: get(Counter::Tx.place()),
            replies: sum(REPLIES, PUNTS),
            punts: sum(PUNTS, DROPS),
            held: get(Counter::Held.place()),
            drops: sum(DROPS, COUNTERS),
        }
    }

    /// The sum with another block's.
    #[must_use]
    pub fn and(self, other: Ledger) -> Ledger {
        Ledger {
            rx: self.rx.wrapping_add(other.rx),
            tx: self.tx.wrapping_add(other.tx),
            replies: self.replies.wrapping_add(other.replies),
            punts: self.punts.wrapping_add(other.punts),
            held: self.held.wrapping_add(other.held),
            drops: self.drops.wrapping_add(other.drops),
        }
    }

    /// Received frames that nothing accounts for; negative when more are accounted for than were received. 0 between bursts.
    pub fn imbalance(&self) -> i64 {
        let accounted = [self.tx, self.replies, self.punts, self.held, self.drops]
            .into_iter()
            .fold(0, u64::wrapping_add);
        self.rx.wrapping_sub(accounted) as i64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_is_described_and_none_is_shared() {
        let mut seen = std::collections::HashSet::new();
        let all = Counter::ALL
            .iter()
            .map(|c| (c.place(), c.name()))
            .chain(ReplyKind::ALL.iter().map(|c| (c.place(), c.name())))
            .chain(PuntReason::ALL.iter().map(|c| (c.place(), c.name())))
            .chain(DropReason::ALL.iter().map(|c| (c.place(), c.name())));
        for (place, name) in all {
            assert!(seen.insert(place), "{name} shares its place");
            assert_eq!(describe(place).map(|row| row.name), Some(name));
        }
        assert_eq!(seen.len(), COUNTERS);
        assert_eq!(describe(COUNTERS), None);
    }

    #[test]
    fn the_ledger_balances_when_each_frame_is_booked_once() {
        let mut block = [0u64; COUNTERS];
        for (n, place) in [
            Counter::Tx.place(),
            Counter::Held.place(),
            ReplyKind::Echo.place(),
            PuntReason::Multicast.place(),
            DropReason::Truncated.place(),
            DropReason::Inconsistent.place(),
        ]
        .into_iter()
        .enumerate()
        {
            block[place] = n as u64 + 1;
            block[Counter::Rx.place()] += n as u64 + 1;
        }
        let ledger = Ledger::read(|place| block[place]);
        assert_eq!(
            (ledger.tx, ledger.held, ledger.replies, ledger.punts, ledger.drops),
            (1, 2, 3, 4, 11)
        );
        assert_eq!(ledger.imbalance(), 0);
        block[Counter::Rx.place()] += 1;
        assert_eq!(Ledger::read(|place| block[place]).and(ledger).imbalance(), 1);
    }
}
