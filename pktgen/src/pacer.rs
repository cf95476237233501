//! When each packet is due.
//!
//! A packet takes the time that its size takes at the rate; the next is due when it is over. Times are in nanoseconds from the start, as
//! floating point: 10^12 of them still have 10^-4 ns, so that a rate is exact over hours.

use crate::profile::Ramp;
use crate::units::{FCS, PREAMBLE_AND_GAP, Rate};
use std::time::Duration;

/// A schedule that goes on without end.
#[derive(Clone, Debug)]
pub struct Pacer {
    /// Nanoseconds of a packet at a rate of 1: of any, and of each byte.
    fixed: f64,
    per_byte: f64,
    from: f64,
    to: f64,
    /// 1 / `to`.
    inverse: f64,
    over: f64,
    next: f64,
    /// `next` in whole nanoseconds.
    due: u64,
    paced: bool,
}

impl Pacer {
    /// The schedule of one worker of `workers`, which starts its part of a packet's time after the worker before it.
    ///
    /// `None`: a share of a line rate that isn't known. At [`Rate::Max`] everything is due at once.
    pub fn new(
        rate: Rate,
        ramp: Option<Ramp>,
        line: Option<f64>,
        worker: usize,
        workers: usize,
    ) -> Option<Self> {
        let l1 = PREAMBLE_AND_GAP as f64;
        let (fixed, per_byte, to) = match rate {
            Rate::Max => (0.0, 0.0, 1.0),
            Rate::Packets(n) => (1e9, 0.0, n),
            Rate::Layer2(n) => (0.0, 8e9, n),
            Rate::Layer1(n) => (l1 * 8e9, 8e9, n),
            Rate::Line(n) => (l1 * 8e9, 8e9, n / 100.0 * line?),
        };
        let part = workers.max(1) as f64;
        let from = match ramp.map(|ramp| ramp.from) {
            Some(Rate::Packets(n) | Rate::Layer2(n) | Rate::Layer1(n)) => n,
            Some(Rate::Line(n)) => n / 100.0 * line?,
            _ => to,
        };
        let over = ramp.map_or(Duration::ZERO, |ramp| ramp.over).as_nanos() as f64;
        let (from, to) = (from / part, to / part);
        let (inverse, paced) = (1.0 / to, rate != Rate::Max);
        let mut pacer = Self { fixed, per_byte, from, to, inverse, over, next: 0.0, due: 0, paced };
        if paced {
            let one = pacer.fixed + pacer.per_byte * 64.0;
            pacer.next = one / pacer.rate() * worker as f64 / part;
            pacer.due = pacer.next as u64;
        }
        Some(pacer)
    }

    fn rate(&self) -> f64 {
        if self.next >= self.over {
            return self.to;
        }
        self.from + (self.to - self.from) * self.next / self.over
    }

    /// When the next packet is due.
    #[inline]
    pub fn due(&self) -> u64 {
        self.due
    }

    /// Whether packets are due at times at all.
    #[inline]
    pub fn is_paced(&self) -> bool {
        self.paced
    }

    /// Goes on to the packet after one of `len` bytes (without FCS).
    #[inline]
    pub fn advance(&mut self, len: usize) {
        if !self.paced {
            return;
        }
        let size = (len + FCS) as f64;
        let time = self.fixed + self.per_byte * size;
        // A division is for ramps alone.
        self.next += if self.next >= self.over { time * self.inverse } else { time / self.rate() };
        self.due = self.next as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due_in(pacer: &mut Pacer, ns: u64, len: usize) -> u64 {
        let mut n = 0;
        while pacer.due() < ns {
            pacer.advance(len);
            n += 1;
        }
        n
    }

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn each_unit_gives_its_packets_a_second() {
        let pacer = |rate| Pacer::new(rate, None, Some(1e9), 0, 1).unwrap();
        assert_eq!(due_in(&mut pacer(Rate::Packets(123_457.0)), 10 * SECOND, 60), 1_234_570);
        assert_eq!(due_in(&mut pacer(Rate::Layer2(1e9)), SECOND, 60), 1_953_125);
        assert_eq!(due_in(&mut pacer(Rate::Layer1(1e9)), SECOND, 60), 1_488_096);
        assert_eq!(due_in(&mut pacer(Rate::Line(50.0)), SECOND, 1514), 40_638);
        assert!(Pacer::new(Rate::Line(50.0), None, None, 0, 1).is_none());
        assert!(!pacer(Rate::Max).is_paced());
    }

    #[test]
    fn workers_together_keep_the_rate_and_take_turns() {
        let rate = Rate::Packets(1000.0);
        let mut workers: Vec<_> =
            (0..4).map(|w| Pacer::new(rate, None, None, w, 4).unwrap()).collect();
        assert_eq!(
            workers.iter().map(Pacer::due).collect::<Vec<_>>(),
            [0, 1_000_000, 2_000_000, 3_000_000]
        );
        let total: u64 = workers.iter_mut().map(|w| due_in(w, 10 * SECOND, 60)).sum();
        assert_eq!(total, 10_000);
    }

    #[test]
    fn a_ramp_sends_the_mean_of_its_ends() {
        let ramp = Ramp { from: Rate::Packets(1000.0), over: Duration::from_secs(10) };
        let mut pacer = Pacer::new(Rate::Packets(9000.0), Some(ramp), None, 0, 1).unwrap();
        let first = due_in(&mut pacer, 10 * SECOND, 60);
        assert!((49_900..=50_100).contains(&first), "{first}");
        let then = due_in(&mut pacer, 11 * SECOND, 60);
        assert!((8_999..=9_001).contains(&then), "{then}");
    }
}
