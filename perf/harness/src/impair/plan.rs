//! What befalls the nth packet: decided by the seed and n alone, so that the same seed does the same again.

use crate::random::{at, share};

/// What may befall a packet; at most one thing each, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is dropped.
    Lose,
    /// It is sent twice, one right after the other.
    Duplicate,
    /// It is sent after the next packet that goes out.
    Reorder,
    /// It goes on.
    Pass,
}

/// How often what happens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plan {
    /// Share of packets that are dropped.
    pub loss: f64,
    /// Share that are sent twice.
    pub duplicate: f64,
    /// Share that change places with the next.
    pub reorder: f64,
    /// Another seed, other packets.
    pub seed: u64,
}

impl Plan {
    /// Fails unless the shares are shares and fit together.
    pub fn check(&self) -> Result<(), String> {
        for (value, what) in
            [(self.loss, "loss"), (self.duplicate, "duplicate"), (self.reorder, "reorder")]
        {
            if !(0.0..=1.0).contains(&value) {
                return Err(format!("--{what} {value}: must be a share from 0 to 1"));
            }
        }
        let sum = self.loss + self.duplicate + self.reorder;
        if sum > 1.0 {
            return Err(format!(
                "loss, duplicate and reorder together are {sum}: one packet in how many can't be above 1"
            ));
        }
        Ok(())
    }

    /// Of the nth packet, counted from 0.
    pub fn fate(&self, n: u64) -> Fate {
        let drawn = share(at(self.seed, n));
        if drawn < self.loss {
            Fate::Lose
        } else if drawn < self.loss + self.duplicate {
            Fate::Duplicate
        } else if drawn < self.loss + self.duplicate + self.reorder {
            Fate::Reorder
        } else {
            Fate::Pass
        }
    }
}

/// A server that takes a fixed time for a packet, with room for some that wait.
#[derive(Clone, Copy, Debug)]
pub struct Capacity {
    /// Nanoseconds a packet.
    each: f64,
    /// How far the server may be behind, in nanoseconds.
    room: f64,
    /// When it is done with what it has.
    free: f64,
}

impl Capacity {
    /// Of `rate` packets a second and a queue of so many.
    pub fn new(rate: f64, queue: u32) -> Self {
        let each = 1e9 / rate;
        Self { each, room: each * f64::from(queue), free: 0.0 }
    }

    /// When a packet that comes now is served; None if the queue is full.
    pub fn admit(&mut self, now: u64) -> Option<u64> {
        let start = self.free.max(now as f64);
        if start - now as f64 >= self.room {
            return None;
        }
        self.free = start + self.each;
        Some(self.free as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_fates_in_the_asked_shares() {
        let plan = Plan { loss: 0.01, duplicate: 0.02, reorder: 0.03, seed: 42 };
        let fates: Vec<Fate> = (0..100_000).map(|n| plan.fate(n)).collect();
        assert!((0..100_000).all(|n| plan.fate(n) == fates[n as usize]));
        let share = |fate| fates.iter().filter(|f| **f == fate).count() as f64 / 1e5;
        assert!((share(Fate::Lose) - 0.01).abs() < 0.002);
        assert!((share(Fate::Duplicate) - 0.02).abs() < 0.002);
        assert!((share(Fate::Reorder) - 0.03).abs() < 0.003);
        let other = Plan { seed: 43, ..plan };
        assert!((0..1000).any(|n| other.fate(n) != fates[n as usize]));
    }

    #[test]
    fn shares_that_are_none_or_too_many_are_refused_by_name() {
        let plan = Plan { loss: 0.0, duplicate: 0.0, reorder: 0.0, seed: 0 };
        assert!(plan.check().is_ok());
        let refused = |plan: Plan| plan.check().unwrap_err();
        assert!(refused(Plan { loss: -0.1, ..plan }).contains("--loss"));
        assert!(refused(Plan { reorder: f64::NAN, ..plan }).contains("--reorder"));
        assert!(refused(Plan { loss: 0.6, duplicate: 0.6, ..plan }).contains("together"));
    }

    /// What a queue of Q and a rate C let through of a load R in T seconds: C·T + Q of them.
    #[test]
    fn what_is_over_the_capacity_is_lost_and_nothing_below() {
        let admitted = |load: f64, seconds: f64| {
            let mut capacity = Capacity::new(100_000.0, 100);
            let count = (load * seconds) as u64;
            (0..count).filter(|n| capacity.admit((*n as f64 * 1e9 / load) as u64).is_some()).count()
                as f64
        };
        assert_eq!(admitted(99_000.0, 1.0), 99_000.0);
        assert_eq!(admitted(100_000.0, 1.0), 100_000.0);
        let over = admitted(120_000.0, 1.0);
        assert!((over - 100_100.0).abs() <= 2.0, "{over}");
    }
}
