//! How many errors may be sent: a token bucket per worker (RFC 1812 section 4.3.2.8, RFC 4443 section 2.4 f).

use crate::clock::{Nanos, SECOND};

/// A bucket that holds one second's worth.
#[derive(Clone, Copy, Debug)]
pub struct Limiter {
    per_second: u64,
    /// What is in it, in tokens × 10⁹, so that no rate is rounded away.
    level: u64,
    filled: Nanos,
}

impl Limiter {
    /// A full bucket. 0 lets nothing pass.
    pub fn new(per_second: u32) -> Limiter {
        let per_second = u64::from(per_second);
        Limiter { per_second, level: per_second * SECOND, filled: 0 }
    }

    /// Takes one token, if there is one.
    pub fn take(&mut self, now: Nanos) -> bool {
        // More than a second fills it anyway, and keeps the product below 2⁶⁴.
        let passed = now.saturating_sub(self.filled).min(SECOND);
        self.filled = self.filled.max(now);
        self.level = (self.level + passed * self.per_second).min(self.per_second * SECOND);
        match self.level.checked_sub(SECOND) {
            Some(rest) => {
                self.level = rest;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_of_one_second_and_then_the_rate() {
        let mut limiter = Limiter::new(10);
        let now = 1000 * SECOND;
        assert_eq!((0..100).filter(|_| limiter.take(now)).count(), 10);
        assert!(!limiter.take(now + SECOND / 10 - 1));
        assert!(limiter.take(now + SECOND / 10));
        assert_eq!((0..100).filter(|_| limiter.take(now + 3600 * SECOND)).count(), 10);
    }

    #[test]
    fn a_clock_that_stands_or_steps_back_gives_nothing() {
        let mut limiter = Limiter::new(1);
        assert!(limiter.take(5 * SECOND));
        assert!(!limiter.take(4 * SECOND) && !limiter.take(5 * SECOND));
        assert!(limiter.take(6 * SECOND));
    }

    #[test]
    fn none_a_second_is_none() {
        let mut limiter = Limiter::new(0);
        assert!(!limiter.take(0) && !limiter.take(u64::MAX));
    }
}
