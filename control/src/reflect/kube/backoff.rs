//! How long to wait before the API server is asked again.
//!
//! Decides what counts as a failure. A whole cluster's nodes ask one server: what fails on all of them at once must not bring them
//! all back at once.

use std::{collections::hash_map::RandomState, hash::BuildHasher, time::Duration};

use super::{Options, api::Fault};

/// A watch that lasted so long was no failure, unless a list is needed after it.
pub(super) const LIVED: Duration = Duration::from_secs(5);

/// Failures in a row after a session. `lived`: for how long its watch was open, where one was opened; `news`: it said something that
/// was not in the initial list; `fault`: what ended it.
pub(super) fn failures_after(
    before: u32,
    lived: Option<Duration>,
    news: bool,
    fault: Option<&Fault>,
) -> u32 {
    let long = lived.is_some_and(|lived| lived >= LIVED);
    let good = match fault {
        Some(Fault::Gone(_)) => false,
        Some(_) => long,
        None => long || news,
    };
    if good { 0 } else { before.saturating_add(1) }
}

/// The wait after `failures` in a row: doubling, and different on every node.
pub(super) fn wait_after(failures: u32, options: &Options) -> Duration {
    let doubled = options.first_wait.saturating_mul(1 << failures.saturating_sub(1).min(16));
    jittered(doubled.min(options.longest_wait))
}

/// Shortened by up to a half, at random.
pub(super) fn jittered(duration: Duration) -> Duration {
    let random = RandomState::new().hash_one(0u8) as u32;
    duration.mul_f64(1.0 - 0.5 * f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reflect::kube::Access;

    #[test]
    fn waits_double_up_to_the_longest_and_differ() {
        let options = Options::new(Access::InCluster, None);
        for (failures, most) in [(1, 500), (2, 1000), (3, 2000), (7, 15_000), (4_000_000, 15_000)] {
            for _ in 0..50 {
                let wait = wait_after(failures, &options).as_millis();
                assert!((most / 2..=most).contains(&wait), "{failures}: {wait} ms");
            }
        }
        let waits: std::collections::BTreeSet<Duration> =
            (0..20).map(|_| wait_after(9, &options)).collect();
        assert!(waits.len() > 10, "{waits:?}");
    }

    #[test]
    fn only_a_watch_that_lived_or_said_something_new_ends_a_row_of_failures() {
        let long = Some(LIVED);
        let short = Some(LIVED / 2);
        let after =
            |lived, news, fault: Option<Fault>| failures_after(3, lived, news, fault.as_ref());
        let failed = || Some(Fault::failed("broke"));
        let gone = || Some(Fault::Gone("expired".into()));
        assert_eq!((after(long, false, None), after(short, true, None)), (0, 0));
        assert_eq!(after(long, false, failed()), 0, "it worked for a while");
        // A server that takes the watch and lets it go at once, or after its initial list.
        assert_eq!(after(short, false, None), 4);
        for fault in [failed, gone] {
            assert_eq!(after(short, true, fault()), 4);
            assert_eq!(after(None, false, fault()), 4, "no watch, however long that took");
        }
        assert_eq!(after(long, true, gone()), 4, "a list costs the server more than a watch");
        assert_eq!(failures_after(u32::MAX, None, false, None), u32::MAX);
    }
}
