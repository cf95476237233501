//! What a worker sends, and when: streams by the pacer's schedule.

use crate::craft::{Crafter, Slot};
use crate::pacer::Pacer;

/// A sequence of packets with their times. The packets that are given up are skipped, not sent late.
pub trait Source: Send {
    /// When the next packet is due in nanoseconds from the start, `now` if at once; `None` after the last one.
    fn due(&mut self, now: u64) -> Option<u64>;

    /// Whose packet is next, and how long it is.
    fn slot(&self) -> Slot;

    /// Writes the next packet and goes on; answers its length. `stamp` is the time that it carries.
    fn craft(&mut self, stamp: u64, out: &mut [u8]) -> usize;

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
    /// Packets that are left, if they are counted.
    left: Option<u64>,
    /// When the last one may be due, if that is given.
    until: Option<u64>,
}

impl Streams {
    /// `left` packets, or those due before `until`, or without end.
    pub fn new(mut crafter: Crafter, pacer: Pacer, left: Option<u64>, until: Option<u64>) -> Self {
        let slot = crafter.slot();
        Self { crafter, pacer, slot, left, until }
    }

    #[inline]
    fn advance(&mut self) {
        self.pacer.advance(self.slot.len.into());
        self.slot = self.crafter.slot();
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(1);
        }
    }
}

impl Source for Streams {
    #[inline]
    fn due(&mut self, now: u64) -> Option<u64> {
        if self.left == Some(0) {
            return None;
        }
        let due = if self.pacer.is_paced() { self.pacer.due() } else { now };
        if self.until.is_some_and(|until| due >= until) { None } else { Some(due) }
    }

    #[inline]
    fn slot(&self) -> Slot {
        self.slot
    }

    #[inline]
    fn craft(&mut self, stamp: u64, out: &mut [u8]) -> usize {
        let len = self.crafter.craft(self.slot, stamp, out);
        self.advance();
        len
    }

    fn skip(&mut self) {
        self.advance();
    }

    fn is_paced(&self) -> bool {
        self.pacer.is_paced()
    }
}
