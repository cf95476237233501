//! What a worker sends, and when: streams by the pacer's schedule.

use crate::craft::{Crafter, Slot};
use crate::pacer::Pacer;

/// A sequence of packets with their times. The packets that are given up are skipped, not sent late.
pub trait Source: Send {
    /// When the next packet is due in nanoseconds from the start, `now` if at once; `None` after the last one.
    fn due(&mut self, now: u64) -> Option<u64>;

    /// Whose packet is next, and how long it is.
    fn slot(&self) -> Slot;

    /// Writes the next packet and goes on; answers its length. `stamp` is the time that it carries; of the packet of the
    /// same stream that was written into `out` before, `held` bytes are still there.
    fn craft(&mut self, stamp: u64, held: usize, out: &mut [u8]) -> usize;

    /// Goes on without the next packet.
    fn skip(&mut self);

    /// Whether packets have times at all, or are sent as fast as can be.
    fn is_paced(&self) -> bool;
}

/// Streams.
#[derive(Clone, Debug)]
pub struct Streams {
    crafter: Crafter,
    pacer: Pacer,
    slot: Slot,
    /// Packets that are left.
    left: u64,
    /// No packet is due then or later.
    until: u64,
}

impl Streams {
    /// `left` packets, or those due before `until`, or without end.
    pub fn new(mut crafter: Crafter, pacer: Pacer, left: Option<u64>, until: Option<u64>) -> Self {
        let slot = crafter.slot();
        // Nobody comes to the end of so many.
        let (left, until) = (left.unwrap_or(u64::MAX), until.unwrap_or(u64::MAX));
        Self { crafter, pacer, slot, left, until }
    }

    #[inline]
    fn advance(&mut self) {
        self.pacer.advance(self.slot.len.into());
        self.slot = self.crafter.slot();
        self.left = self.left.saturating_sub(1);
    }
}

impl Source for Streams {
    #[inline]
    fn due(&mut self, now: u64) -> Option<u64> {
        let due = if self.pacer.is_paced() { self.pacer.due() } else { now };
        (self.left > 0 && due < self.until).then_some(due)
    }

    #[inline]
    fn slot(&self) -> Slot {
        self.slot
    }

    #[inline]
    fn craft(&mut self, stamp: u64, held: usize, out: &mut [u8]) -> usize {
        let len = self.crafter.craft(self.slot, stamp, held, out);
        self.advance();
        len
    }

    fn skip(&mut self) {
        self.advance();
    }

    #[inline]
    fn is_paced(&self) -> bool {
        self.pacer.is_paced()
    }
}
