//! The way of packets through the impairing forwarder, without rings: what goes out, when, in which order. Generic over the
//! packet, so that it is tested on numbers.

use super::plan::{Capacity, Fate, Plan};
use super::truth::Truth;
use std::collections::VecDeque;

/// How long a packet waits for another one to change places with, in nanoseconds.
const PATIENCE: u64 = 10_000_000;

/// Packets on their way.
#[derive(Debug)]
pub struct Line<P> {
    plan: Plan,
    capacity: Option<Capacity>,
    /// Nanoseconds that each waits.
    delay: u64,
    /// Nanoseconds by chance beyond that, at most.
    jitter: u64,
    /// By the time they go out.
    waiting: VecDeque<(u64, Fate, P)>,
    /// To go after the next, and since when.
    held: Option<(u64, P)>,
    /// What was done so far.
    pub truth: Truth,
}

/// What to do with a packet that leaves the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// Send it once.
    Once,
    /// Send it and a copy of it.
    Twice,
}

impl<P> Line<P> {
    /// An empty one.
    pub fn new(plan: Plan, capacity: Option<Capacity>, delay: u64, jitter: u64) -> Self {
        let (waiting, truth) = (VecDeque::new(), Truth::default());
        Self { plan, capacity, delay, jitter, waiting, held: None, truth }
    }

    /// Packets in it.
    pub fn len(&self) -> usize {
        self.waiting.len() + usize::from(self.held.is_some())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes a packet; gives it back if it is to be dropped.
    pub fn enter(&mut self, packet: P, now: u64) -> Option<P> {
        let n = self.truth.received;
        self.truth.received += 1;
        let fate = self.plan.fate(n);
        if fate == Fate::Lose {
            self.truth.lost += 1;
            return Some(packet);
        }
        let mut due = now;
        if let Some(capacity) = &mut self.capacity {
            match capacity.admit(now) {
                Some(served) => due = served,
                None => {
                    self.truth.over_capacity += 1;
                    return Some(packet);
                }
            }
        }
        due += self.delay;
        if self.jitter > 0 {
            // Another row of chance than the fates'.
            let drawn = crate::random::at(!self.plan.seed, n);
            due += ((u128::from(drawn) * u128::from(self.jitter)) >> 64) as u64;
        }
        // Jitter changes nobody's place: a queue with a varying delay, as in a switch.
        due = due.max(self.waiting.back().map_or(0, |(before, ..)| *before));
        self.waiting.push_back((due, fate, packet));
        None
    }

    /// The packets that are due, in the order that they go out. `send` is told what to do with each.
    pub fn leave(&mut self, now: u64, mut send: impl FnMut(P, Leave)) {
        while self.waiting.front().is_some_and(|(due, ..)| *due <= now) {
            let Some((_, fate, packet)) = self.waiting.pop_front() else { break };
            if fate == Fate::Reorder && self.held.is_none() {
                self.held = Some((now, packet));
                continue;
            }
            let twice = fate == Fate::Duplicate;
            self.truth.duplicated += u64::from(twice);
            self.truth.sent += 1 + u64::from(twice);
            send(packet, if twice { Leave::Twice } else { Leave::Once });
            if let Some((_, overtaken)) = self.held.take() {
                self.truth.reordered += 1;
                self.truth.sent += 1;
                send(overtaken, Leave::Once);
            }
        }
        // Nobody came to change places with: it goes on in its own.
        if self.held.as_ref().is_some_and(|(since, _)| now - since > PATIENCE)
            && let Some((_, packet)) = self.held.take()
        {
            self.truth.sent += 1;
            send(packet, Leave::Once);
        }
    }

    /// All that is left, now.
    pub fn flush(&mut self, mut send: impl FnMut(P, Leave)) {
        self.leave(u64::MAX - 1, &mut send);
        if let Some((_, packet)) = self.held.take() {
            self.truth.sent += 1;
            send(packet, Leave::Once);
        }
    }

    /// A packet that `send` was given could not be sent, or its copy could not be made.
    pub fn failed(&mut self, copy: bool) {
        self.truth.sent -= 1;
        match copy {
            true => self.truth.duplicated -= 1,
            false => self.truth.no_room += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    const CLEAN: Plan = Plan { loss: 0.0, duplicate: 0.0, reorder: 0.0, seed: 1 };

    fn through(mut line: Line<u64>, packets: u64, gap: u64) -> (Vec<u64>, Truth) {
        let mut out = Vec::new();
        let mut send = |packet, leave| {
            out.push(packet);
            if leave == Leave::Twice {
                out.push(packet);
            }
        };
        for n in 0..packets {
            line.enter(n, n * gap);
            line.leave(n * gap, &mut send);
        }
        line.flush(&mut send);
        assert!(line.is_empty());
        (out, line.truth)
    }

    proptest! {
        /// An observer that sees only numbers counts what the line says it did.
        #[test]
        fn an_observer_counts_the_truth(
            loss in 0.0_f64..0.3, duplicate in 0.0_f64..0.3, reorder in 0.0_f64..0.3,
            seed in any::<u64>(), delay in 0_u64..5_000, capacity in prop::option::of(2e5_f64..5e6),
        ) {
            let plan = Plan { loss, duplicate, reorder, seed };
            let capacity = capacity.map(|rate| Capacity::new(rate, 10));
            let (out, truth) = through(Line::new(plan, capacity, delay, 0), 3_000, 1_000);
            prop_assert!(truth.balances(), "{:?}", truth);
            prop_assert_eq!(truth.sent, out.len() as u64);
            let mut seen = HashMap::new();
            let (mut highest, mut reordered, mut duplicates) = (None, 0, 0);
            for n in out {
                let times = seen.entry(n).or_insert(0_u64);
                *times += 1;
                if *times > 1 {
                    duplicates += 1;
                } else if highest.is_some_and(|highest| n < highest) {
                    reordered += 1;
                }
                highest = highest.max(Some(n));
            }
            prop_assert_eq!(duplicates, truth.duplicated);
            prop_assert_eq!(reordered, truth.reordered);
            prop_assert_eq!(3_000 - seen.len() as u64, truth.lost + truth.over_capacity);
        }
    }

    #[test]
    fn a_delay_holds_each_packet_that_long_and_no_longer() {
        let mut line = Line::new(CLEAN, None, 1_000, 0);
        assert_eq!(line.enter('a', 500), None);
        line.leave(1_499, |_, _| panic!("too early"));
        let mut out = Vec::new();
        line.leave(1_500, |packet, _| out.push(packet));
        assert_eq!(out, ['a']);
    }

    #[test]
    fn jitter_stays_below_its_bound_and_in_order() {
        let mut line = Line::new(CLEAN, None, 1_000, 500);
        let mut left = Vec::new();
        for now in 0..100_000_u64 {
            if now % 1_000 == 0 {
                line.enter(now, now);
            }
            line.leave(now, |packet, _| left.push((packet, now - packet)));
        }
        assert!(left.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert!(left.iter().all(|(_, waited)| (1_000..1_500).contains(waited)), "{left:?}");
        assert!(left.iter().any(|(_, waited)| *waited > 1_300));
    }

    #[test]
    fn the_last_packet_is_not_held_for_ever() {
        let plan = Plan { reorder: 1.0, ..CLEAN };
        let mut line = Line::new(plan, None, 0, 0);
        line.enter('a', 0);
        line.leave(0, |_, _| panic!("held for another one"));
        let mut out = Vec::new();
        line.leave(PATIENCE + 1, |packet, _| out.push(packet));
        assert_eq!((out, line.truth.reordered, line.truth.sent), (vec!['a'], 0, 1));
    }

    #[test]
    fn what_could_not_be_sent_is_taken_back_and_the_books_balance() {
        let mut line = Line::new(Plan { duplicate: 1.0, ..CLEAN }, None, 0, 0);
        line.enter('a', 0);
        line.enter('b', 0);
        line.leave(0, |_, _| {});
        line.failed(true);
        line.failed(false);
        assert_eq!((line.truth.duplicated, line.truth.sent, line.truth.no_room), (1, 2, 1));
        assert!(line.truth.balances());
    }
}
