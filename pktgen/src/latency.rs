//! Distributions of times: HDR histograms, and what the report says of them.

use crate::report::Percentiles;
use hdrhistogram::Histogram;

/// Longest time that is told apart: a minute.
const LONGEST: u64 = 60_000_000_000;

/// A histogram of nanoseconds. Recording costs some nanoseconds and never allocates.
#[derive(Clone, Debug)]
pub struct Times(Histogram<u64>);

impl Times {
    /// With so many significant digits, 1 to 5; 3 take 220 kB, 2 take 28 kB.
    pub fn new(digits: u8) -> Self {
        let histogram = Histogram::new_with_bounds(1, LONGEST, digits.clamp(1, 5));
        // The bounds are right for 1 to 5 digits.
        Self(histogram.unwrap_or_else(|_| unreachable!("bounds of a histogram")))
    }

    /// Notes one time.
    #[inline]
    pub fn note(&mut self, nanoseconds: u64) {
        self.0.saturating_record(nanoseconds);
    }

    /// Adds what another has noted.
    pub fn add(&mut self, other: &Self) {
        // Both have the same bounds, so nothing is out of them.
        let _within = self.0.add(&other.0);
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.0.reset();
    }

    /// Whether nothing was noted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What the report says; none when it is empty.
    pub fn percentiles(&self) -> Option<Percentiles> {
        let h = &self.0;
        if h.is_empty() {
            return None;
        }
        Some(Percentiles {
            count: h.len(),
            min_ns: h.min(),
            mean_ns: h.mean(),
            p50_ns: h.value_at_quantile(0.5),
            p90_ns: h.value_at_quantile(0.9),
            p99_ns: h.value_at_quantile(0.99),
            p99_9_ns: h.value_at_quantile(0.999),
            p99_99_ns: h.value_at_quantile(0.9999),
            max_ns: h.max(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_within_a_thousandth() {
        let mut times = Times::new(3);
        assert_eq!(times.percentiles(), None);
        let mut half = Times::new(3);
        for ns in 1..=100_000u64 {
            if ns % 2 == 0 { times.note(ns * 1000) } else { half.note(ns * 1000) }
        }
        times.add(&half);
        let p = times.percentiles().unwrap();
        let near = |value: u64, right: u64| value.abs_diff(right) <= right / 1000;
        assert_eq!(p.count, 100_000);
        assert!(
            near(p.p50_ns, 50_000_000) && near(p.p90_ns, 90_000_000) && near(p.p99_ns, 99_000_000)
        );
        assert!(
            near(p.p99_9_ns, 99_900_000)
                && near(p.p99_99_ns, 99_990_000)
                && near(p.max_ns, 100_000_000)
        );
        times.note(u64::MAX);
        assert!(times.percentiles().unwrap().max_ns >= LONGEST);
    }
}
