//! Counters of policies, in the state segment: for each policy number and worker how many flows it allowed, denied, or would deny.
//!
//! Each worker has words of its own, as with all counters. Numbers are control's, and used again: the *label* of a number says whose it is now, and
//! what its counters stood at when it became so. Only housekeeping writes labels.
//!
//! ```text
//! counters  per worker: allowed of each policy; denied of each; shadow of each
//! label     per policy: fingerprint | 1 << 63, and what is to be taken off: allowed, denied, shadow
//! ```
//! Cost: a load, an addition and a store for each policy that decided about a flow that began; one kind of all policies lies together, since
//! nearly all that is counted is of one. Memory: 24 bytes a policy and worker, and 32; pages that no policy uses take none.

use super::word::{Memory, Region, Word};
use millrace_tables::{PolicyId, policy::spec::MAX_POLICIES};

/// Kinds of counters.
const KINDS: usize = 3;
/// Words of the counters of one worker.
pub(super) const BLOCK: usize = MAX_POLICIES as usize * KINDS;
/// Words of a label.
const LABEL: usize = 4;
/// Words of all labels.
pub(super) const LABELS: usize = MAX_POLICIES as usize * LABEL;
const LABELLED: u64 = 1 << 63;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// Flows that began because of it.
    Allowed,
    /// Packets that may begin no flow, or go on with none, because of it.
    Denied,
    /// Flows that began though a policy in shadow mode would have denied them.
    Shadow,
}

/// All that is counted of a policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PolicyCounts {
    /// [`Count::Allowed`].
    pub allowed: u64,
    /// [`Count::Denied`].
    pub denied: u64,
    /// [`Count::Shadow`].
    pub shadow: u64,
}

/// One worker's counters.
#[derive(Clone, Debug)]
pub struct PolicyCounters {
    words: Region,
}

impl PolicyCounters {
    pub(super) fn new(words: Region) -> Self {
        Self { words }
    }

    /// Counts one.
    #[inline]
    pub fn add(&self, policy: PolicyId, what: Count) {
        if let Some(word) = place(policy, what).and_then(|at| self.words.words().get(at)) {
            word.set(word.get().wrapping_add(1));
        }
    }

    /// Starts loading what counting a flow that is allowed takes.
    #[inline]
    pub fn prefetch(&self, policy: PolicyId) {
        if let Some(at) = place(policy, Count::Allowed) {
            self.words.prefetch(at);
        }
    }

    /// Allowed, denied and shadow, of whichever policies had the number.
    pub fn get(&self, policy: PolicyId) -> [u64; 3] {
        [Count::Allowed, Count::Denied, Count::Shadow].map(|what| {
            let word = place(policy, what).and_then(|at| self.words.words().get(at));
            word.map_or(0, Word::get)
        })
    }
}

/// Which word counts what of a policy.
#[inline]
fn place(policy: PolicyId, what: Count) -> Option<usize> {
    (policy.0 < MAX_POLICIES).then(|| what as usize * MAX_POLICIES as usize + policy.0 as usize)
}

/// The counters of all workers, and whose they are.
#[derive(Clone, Debug)]
pub struct PolicyBook {
    pub(super) workers: Vec<PolicyCounters>,
    pub(super) labels: Region,
}

impl PolicyBook {
    fn sum(&self, policy: PolicyId) -> [u64; 3] {
        self.workers.iter().map(|worker| worker.get(policy)).fold([0; 3], |sum, one| {
            std::array::from_fn(|index| sum[index].wrapping_add(one[index]))
        })
    }

    /// The counts of the policy that has this number and whose name has this fingerprint; zeros if they are another's still.
    pub fn counts(&self, policy: PolicyId, fingerprint: u32) -> PolicyCounts {
        let at = policy.0 as usize * LABEL;
        let Some([label, before @ ..]) = self.labels.words().get(at..at + LABEL) else {
            return PolicyCounts::default();
        };
        if label.get() != u64::from(fingerprint) | LABELLED {
            return PolicyCounts::default();
        }
        let sum = self.sum(policy);
        let [allowed, denied, shadow] =
            std::array::from_fn(|index| sum[index].wrapping_sub(before[index].get()));
        PolicyCounts { allowed, denied, shadow }
    }

    /// Notes whose the numbers are. Housekeeping alone calls it, on the segment that it may write, after each change of the tables.
    pub fn label(&self, policies: impl Iterator<Item = (PolicyId, u32)>) {
        for (policy, fingerprint) in policies {
            let at = policy.0 as usize * LABEL;
            let Some([label, before @ ..]) = self.labels.words().get(at..at + LABEL) else {
                continue;
            };
            let wanted = u64::from(fingerprint) | LABELLED;
            if label.get() != wanted {
                let sum = self.sum(policy);
                before.iter().zip(sum).for_each(|(word, value)| word.set(value));
                label.set(wanted);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::segment::{Segment, Sizes};

    #[test]
    fn counts_are_summed_over_workers_and_begin_anew_with_another_policy() {
        let sizes =
            Sizes { workers: 2, interfaces: 1, conntrack_entries: 1 << 10, neighbor_entries: 16 };
        let segment = Segment::create(&sizes, [0, 0]).unwrap();
        let workers = [0, 1].map(|worker| segment.counters(worker).unwrap().policies);
        let book = segment.view().policies().unwrap();
        let (first, last) = (PolicyId(0), PolicyId(MAX_POLICIES - 1));
        book.label([(first, 7), (last, 8)].into_iter());
        for worker in &workers {
            worker.add(first, Count::Allowed);
            worker.add(last, Count::Denied);
            worker.add(last, Count::Shadow);
            worker.add(PolicyId(MAX_POLICIES), Count::Denied);
        }
        assert_eq!(book.counts(first, 7), PolicyCounts { allowed: 2, denied: 0, shadow: 0 });
        assert_eq!(book.counts(last, 8), PolicyCounts { allowed: 0, denied: 2, shadow: 2 });
        assert_eq!(book.counts(last, 9), PolicyCounts::default(), "another's number still");
        book.label([(first, 7), (last, 9)].into_iter());
        workers[1].add(last, Count::Denied);
        assert_eq!(book.counts(first, 7).allowed, 2, "the same policy goes on");
        assert_eq!(book.counts(last, 9), PolicyCounts { allowed: 0, denied: 1, shadow: 0 });
    }
}
