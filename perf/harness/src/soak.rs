//! A long trial at one rate, and what it proves of the loss ratio.
//!
//! Two bounds are given, both one-sided at [`CONFIDENCE`] and exact for independent events (Clopper and Pearson's idea in Poisson's
//! form). By packets: as if each loss were an event of its own. By intervals: losses come in bursts, so intervals with loss are
//! counted, each weighted by the greatest loss that one interval had. The verdict takes the bound that is less favorable.
//! With no loss at all, a ratio of 1e-7 needs 3.0e7 packets (ln 20 / 1e-7).

use crate::statistics::{poisson_lower, poisson_upper};
use serde::{Deserialize, Serialize};

/// Of each bound.
pub const CONFIDENCE: f64 = 0.95;

/// Packets of one interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interval {
    /// Sent in it.
    pub sent: u64,
    /// Of those, lost.
    pub lost: u64,
}

/// What a soak showed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Soak {
    /// Packets a second.
    pub rate: f64,
    /// Seconds.
    pub seconds: f64,
    /// Packets sent.
    pub sent: u64,
    /// Packets lost.
    pub lost: u64,
    /// Intervals, and those with loss.
    pub intervals: u64,
    /// Those of them that lost something.
    pub intervals_with_loss: u64,
    /// lost / sent.
    pub loss_ratio: f64,
    /// The ratio is not below this.
    pub lower: f64,
    /// And not above this.
    pub upper: f64,
    /// Confidence of each of the two.
    pub confidence: f64,
    /// The ratio that was asked about.
    pub target: f64,
    /// The answer.
    pub verdict: Verdict,
}

/// Whether the loss ratio meets its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum Verdict {
    /// It is not above the target.
    Met,
    /// It is.
    Missed,
    /// More packets decide.
    Undecided,
}

impl Soak {
    /// Of these intervals.
    pub fn of(rate: f64, seconds: f64, intervals: &[Interval], target: f64) -> Self {
        let sent: u64 = intervals.iter().map(|i| i.sent).sum();
        let lost: u64 = intervals.iter().map(|i| i.lost).sum();
        let hit = intervals.iter().filter(|i| i.lost > 0).count() as u64;
        let share = |count: f64| if sent == 0 { 1.0 } else { (count / sent as f64).min(1.0) };
        let worst = intervals.iter().map(|i| i.lost).max().unwrap_or(0).max(1) as f64;
        let mean = if hit == 0 { 1.0 } else { lost as f64 / hit as f64 };
        let by_packets = poisson_upper(lost, CONFIDENCE);
        let by_intervals = if hit == 0 { 0.0 } else { poisson_upper(hit, CONFIDENCE) * worst };
        let upper = share(by_packets.max(by_intervals));
        // Bursts are few events: fewer are less proof of a high ratio.
        let lower =
            share(poisson_lower(lost, CONFIDENCE).min(poisson_lower(hit, CONFIDENCE) * mean));
        let verdict = match () {
            () if sent == 0 => Verdict::Undecided,
            () if upper <= target => Verdict::Met,
            () if lower > target => Verdict::Missed,
            () => Verdict::Undecided,
        };
        Self {
            rate,
            seconds,
            sent,
            lost,
            intervals: intervals.len() as u64,
            intervals_with_loss: hit,
            loss_ratio: share(lost as f64),
            lower,
            upper,
            confidence: CONFIDENCE,
            target,
            verdict,
        }
    }

    /// Packets that would show the target met, if none of them were lost.
    pub fn needed(target: f64) -> u64 {
        (poisson_upper(0, CONFIDENCE) / target).ceil() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    const TARGET: f64 = 1e-7;

    #[test]
    fn without_loss_thirty_million_packets_show_it_and_fewer_do_not() {
        let second = Interval { sent: 1_000_000, lost: 0 };
        let soak = |seconds: usize| Soak::of(1e6, 1.0, &vec![second; seconds], TARGET).verdict;
        assert_eq!((soak(29), soak(30)), (Verdict::Undecided, Verdict::Met));
        assert_eq!(Soak::needed(TARGET), 29_957_323);
    }

    #[test]
    fn one_burst_is_no_proof_and_many_are() {
        let clean = Interval { sent: 1_000_000, lost: 0 };
        let burst = Interval { sent: 1_000_000, lost: 100 };
        let one = Soak::of(1e6, 100.0, &[vec![clean; 99], vec![burst]].concat(), TARGET);
        assert_eq!(one.verdict, Verdict::Undecided);
        assert!(one.lower <= one.loss_ratio && one.loss_ratio <= one.upper);
        let many = Soak::of(1e6, 100.0, &[vec![clean; 50], vec![burst; 50]].concat(), TARGET);
        assert_eq!(many.verdict, Verdict::Missed);
        assert_eq!((many.intervals, many.intervals_with_loss), (100, 50));
    }

    #[test]
    fn nothing_sent_decides_nothing() {
        assert_eq!(Soak::of(1e6, 1.0, &[], TARGET).verdict, Verdict::Undecided);
        let none = Interval::default();
        assert_eq!(Soak::of(1e6, 1.0, &[none], 1.0).verdict, Verdict::Undecided);
    }

    /// A device of a known ratio, with single losses and with bursts: the bounds enclose it as often as they say.
    #[test]
    fn the_bounds_hold_as_often_as_they_say() {
        let mut random = Random::new(11);
        for burst in [1_u64, 20] {
            let (mut below, mut above, cases) = (0, 0, 400);
            for _ in 0..cases {
                // 200 intervals of 10,000 packets, a burst in each with a chance of 5 %.
                let intervals: Vec<Interval> = (0..200)
                    .map(|_| Interval {
                        sent: 10_000,
                        lost: u64::from(random.share() < 0.05) * burst,
                    })
                    .collect();
                let truth = 0.05 * burst as f64 / 10_000.0;
                let soak = Soak::of(1e4, 200.0, &intervals, TARGET);
                above += usize::from(soak.upper < truth);
                below += usize::from(soak.lower > truth);
            }
            assert!(
                above * 100 <= cases * 7 && below * 100 <= cases * 7,
                "{burst}: {above} {below}"
            );
        }
    }
}
