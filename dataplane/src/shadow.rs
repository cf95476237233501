//! What housekeeping does about policies: says whose their counters are, and logs what those in shadow mode would have denied.
//!
//! A log line is made from counters every ten seconds at most, never by a packet.

use std::collections::BTreeMap;

use millrace_tables::Snapshot;
use tracing::info;

use crate::clock::{Nanos, SECOND};
use crate::state::policy::PolicyBook;

/// How often it is said what policies in shadow mode would have denied, and of how many.
const OFTEN: Nanos = 10 * SECOND;
const MOST: usize = 16;

/// What is kept of policies.
#[derive(Debug)]
pub struct Keeper {
    book: PolicyBook,
    /// Generation since which policies have the names that their counters are labelled with.
    labelled: Option<u64>,
    /// What would have been denied, as far as it was said.
    said: BTreeMap<String, u64>,
    spoken: Nanos,
}

impl Keeper {
    /// Over the engine's counters.
    pub fn new(book: PolicyBook) -> Self {
        Self { book, labelled: None, said: BTreeMap::new(), spoken: 0 }
    }

    /// Does what is due.
    pub fn turn(&mut self, tables: &Snapshot<'_>, now: Nanos) {
        let named = tables.policies_named();
        if self.labelled != Some(named) {
            self.book.label(tables.policy_fingerprints());
            self.labelled = Some(named);
        }
        if now.saturating_sub(self.spoken) >= OFTEN {
            self.spoken = now;
            let shadows = tables.policies().filter(|row| row.shadow);
            let counted: Vec<(String, u64)> = shadows
                .map(|row| (self.book.counts(row.id, row.fingerprint).shadow, row.name))
                .map(|(count, name)| (name, count))
                .collect();
            let news = self.news(counted);
            for (policy, flows) in news.iter().take(MOST) {
                info!(%policy, flows, "in shadow mode: would have denied flows that began");
            }
            if news.len() > MOST {
                let policies = news.len() - MOST;
                info!(policies, "in shadow mode: more policies would have denied flows");
            }
        }
    }

    /// Of these policies and their counts, those that would have denied more than was said, with how many more.
    fn news(&mut self, counted: Vec<(String, u64)>) -> Vec<(String, u64)> {
        let before = std::mem::take(&mut self.said);
        let mut news = Vec::new();
        for (name, count) in counted {
            // A policy that was made anew counts from 0.
            let old = before.get(&name).copied().unwrap_or(0);
            let more = count.checked_sub(old).unwrap_or(count);
            if more > 0 {
                news.push((name.clone(), more));
            }
            self.said.insert(name, count);
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::policy::Count;
    use crate::state::segment::{Segment, Sizes};
    use millrace_tables::{PolicyId, PolicySpec, SegmentConfig, Writer};

    #[test]
    fn only_news_are_said_and_counters_belong_to_whom_the_tables_name() {
        let sizes =
            Sizes { workers: 1, interfaces: 1, conntrack_entries: 1 << 10, neighbor_entries: 16 };
        let segment = Segment::create(&sizes, [0, 0]).unwrap();
        let book = || segment.view().policies().unwrap();
        let counters = segment.counters(0).unwrap().policies;
        let mut keeper = Keeper::new(book());
        let mut writer =
            Writer::create(&SegmentConfig { bytes: 4 << 20, ..SegmentConfig::default() }).unwrap();
        let watch = |name: &str| PolicySpec { name: name.into(), pods: 1, shadow: true };
        let shadow = |writer: &Writer| {
            let tables = writer.tables();
            let row = tables.snapshot().policies().next().unwrap();
            book().counts(row.id, row.fingerprint).shadow
        };
        writer.set_policy(PolicyId(0), &watch("NetworkPolicy default/a")).unwrap();
        writer.publish().unwrap();
        keeper.turn(&writer.tables().snapshot(), 20 * SECOND);
        counters.add(PolicyId(0), Count::Shadow);
        assert_eq!(shadow(&writer), 1);
        keeper.turn(&writer.tables().snapshot(), 40 * SECOND);
        assert_eq!(keeper.said.get("NetworkPolicy default/a"), Some(&1));
        writer.set_policy(PolicyId(0), &watch("NetworkPolicy default/b")).unwrap();
        writer.publish().unwrap();
        assert_eq!(shadow(&writer), 0, "not its own");
        keeper.turn(&writer.tables().snapshot(), 41 * SECOND);
        counters.add(PolicyId(0), Count::Shadow);
        assert_eq!(shadow(&writer), 1);

        let of = |counts: [u64; 2]| (0..2).map(|n| (format!("p{n}"), counts[n])).collect();
        assert_eq!(keeper.news(of([0, 2])), [("p1".into(), 2)]);
        assert_eq!(keeper.news(of([0, 2])), []);
        assert_eq!(keeper.news(of([1, 1])), [("p0".into(), 1), ("p1".into(), 1)]);
    }
}
