//! What changes cost the traffic: packets lost while tables change, as the time that the device was blocked.
//!
//! At a rate r a device that stands still for t loses r·t packets (what its queues can't hold): lost / r is the time that it was
//! blocked, as CSIT's reconf tests count it. What is lost without any change at the same rate is measured before and taken off.

use crate::units::show_time;
use serde::{Deserialize, Serialize};

/// Changes under load, and what they cost.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Reconf {
    /// Packets a second.
    pub rate: f64,
    /// Changes made.
    pub changes: u64,
    /// Whether the device was asked and had the last of them; else the programs that made them succeeded.
    pub confirmed: bool,
    /// Seconds from the first to the last.
    pub seconds: f64,
    /// Packets sent in the trial with changes.
    pub sent: u64,
    /// Lost in it.
    pub lost: u64,
    /// Share lost in a trial of the same length without changes, just before.
    pub loss_ratio_without: f64,
    /// (lost − what would have been lost anyway) / rate, in nanoseconds; not below 0.
    pub blocked_ns: f64,
    /// The same by changes.
    pub blocked_ns_per_change: f64,
}

impl Reconf {
    /// Of two trials, one without changes and one with them.
    pub fn of(
        rate: f64,
        (changes, confirmed, seconds): (u64, bool, f64),
        without: (u64, u64),
        with: (u64, u64),
    ) -> Self {
        let share = |(sent, lost): (u64, u64)| lost as f64 / (sent as f64).max(1.0);
        let anyway = share(without) * with.0 as f64;
        let blocked_ns = (with.1 as f64 - anyway).max(0.0) / rate * 1e9;
        Self {
            rate,
            changes,
            confirmed,
            seconds,
            sent: with.0,
            lost: with.1,
            loss_ratio_without: share(without),
            blocked_ns,
            blocked_ns_per_change: blocked_ns / changes.max(1) as f64,
        }
    }
}

impl Reconf {
    /// How long it was blocked, for people. A single packet is the least that shows.
    pub fn in_words(&self) -> String {
        match self.blocked_ns == 0.0 {
            true => format!(
                "blocked less than {} in all, the time of one packet",
                show_time(1e9 / self.rate)
            ),
            false => format!(
                "blocked {} in all, {} a change",
                show_time(self.blocked_ns),
                show_time(self.blocked_ns_per_change)
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_over_rate_is_the_time_blocked_less_what_is_lost_anyway() {
        // 1 Mpps, 10,000 changes that block 2 µs each: 20,000 packets in 10 s.
        let reconf = Reconf::of(1e6, (10_000, true, 10.0), (10_000_000, 0), (10_000_000, 20_000));
        assert_eq!((reconf.blocked_ns, reconf.blocked_ns_per_change), (20e6, 2_000.0));
        let noisy = Reconf::of(1e6, (5_000, true, 10.0), (10_000_000, 5_000), (10_000_000, 20_000));
        assert_eq!((noisy.blocked_ns, noisy.blocked_ns_per_change), (15e6, 3_000.0));
        let better = Reconf::of(1e6, (0, false, 1.0), (100, 5), (100, 1));
        assert_eq!((better.blocked_ns, better.blocked_ns_per_change), (0.0, 0.0));
        assert!(
            better.in_words().starts_with("blocked less than 1.00 µs"),
            "{}",
            better.in_words()
        );
    }
}
