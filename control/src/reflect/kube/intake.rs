//! Batches → the store, on the main thread.
//!
//! Decides which version of an object is in force: the last good one. A complete list replaces what there was at once, and only
//! what differs is touched. Says what is refused once, and once more when it is mended.

use std::collections::{BTreeMap, BTreeSet};

use super::{Batch, Item};
use crate::{
    object::{Key, Kind, Refusal},
    store::Store,
};

/// Nameless refusals that are remembered, so that each is said once.
const MOST_NAMELESS: usize = 1000;

/// Takes batches.
#[derive(Debug)]
pub struct Intake {
    /// Kinds of which no complete list has come yet.
    awaited: BTreeSet<Kind>,
    /// What is refused now, by object.
    refused: BTreeMap<Key, BTreeSet<Refusal>>,
    nameless: BTreeSet<Refusal>,
    notices: BTreeSet<String>,
}

/// What a batch brought, to be said.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Refusals that were not there before.
    pub new: Vec<Refusal>,
    /// Those that are gone.
    pub mended: Vec<Refusal>,
    /// Sentences about parts without effect.
    pub notices: Vec<String>,
    /// Objects whose version is now in the store, or that are gone from it.
    pub heard: Vec<Key>,
}

impl Intake {
    pub(super) fn new(kinds: impl Iterator<Item = Kind>) -> Intake {
        Intake {
            awaited: kinds.collect(),
            refused: BTreeMap::new(),
            nameless: BTreeSet::new(),
            notices: BTreeSet::new(),
        }
    }

    /// Whether a complete list of every kind has come: before that nothing may be published.
    pub fn is_complete(&self) -> bool {
        self.awaited.is_empty()
    }

    /// Refusals in force.
    pub fn refused(&self) -> usize {
        self.refused.values().map(BTreeSet::len).sum()
    }

    /// Puts a batch into the store.
    pub fn take(&mut self, batch: Batch, store: &mut Store) -> Taken {
        let mut taken = Taken::default();
        let mut listed = BTreeSet::new();
        let mut unknown = false;
        for item in batch.items {
            match item {
                Item::Set(row) => {
                    let key = row.key.clone();
                    for notice in
                        row.notices.iter().filter(|notice| !self.notices.contains(*notice))
                    {
                        taken.notices.push(notice.clone());
                    }
                    self.notices.extend(row.notices.iter().cloned());
                    self.refuse(&key, row.refusals.iter().cloned().collect(), &mut taken);
                    if !store.is_better_than(&row) {
                        store.set(row);
                        taken.heard.push(key.clone());
                    }
                    listed.insert(key);
                }
                Item::Gone(key) => {
                    self.refuse(&key, BTreeSet::new(), &mut taken);
                    store.delete(&key);
                    taken.heard.push(key);
                }
                Item::Malformed(Some(key), refusal) => {
                    self.refuse(&key, BTreeSet::from([refusal]), &mut taken);
                    listed.insert(key);
                }
                Item::Malformed(None, refusal) => {
                    unknown = true;
                    if self.nameless.len() < MOST_NAMELESS && self.nameless.insert(refusal.clone())
                    {
                        taken.new.push(refusal);
                    }
                }
            }
        }
        if batch.whole {
            self.awaited.remove(&batch.kind);
            // Which of those that are missing the nameless one was can't be told: none of them goes.
            if !unknown {
                self.remove_unlisted(batch.kind, &listed, store, &mut taken);
            }
        }
        taken
    }

    fn remove_unlisted(
        &mut self,
        kind: Kind,
        listed: &BTreeSet<Key>,
        store: &mut Store,
        taken: &mut Taken,
    ) {
        let mut gone: BTreeSet<Key> = store
            .rows()
            .map(|row| &row.key)
            .filter(|key| key.kind == kind && !listed.contains(*key))
            .cloned()
            .collect();
        let refused = self.refused.keys().filter(|key| key.kind == kind && !listed.contains(*key));
        gone.extend(refused.cloned());
        for key in gone {
            self.refuse(&key, BTreeSet::new(), taken);
            store.delete(&key);
            taken.heard.push(key);
        }
    }

    fn refuse(&mut self, key: &Key, now: BTreeSet<Refusal>, taken: &mut Taken) {
        let before = self.refused.remove(key).unwrap_or_default();
        taken.new.extend(now.difference(&before).cloned());
        taken.mended.extend(before.difference(&now).cloned());
        if !now.is_empty() {
            self.refused.insert(key.clone(), now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        desired::Row,
        object::{Decoded, decode},
    };
    use serde_json::json;
    use std::time::Instant;

    fn service(name: &str, port: i64) -> Item {
        let value = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"clusterIP": "172.30.0.1", "ports": [{"port": port}]}});
        match decode(value).pop() {
            Some(Decoded::Object(key, object)) => Item::Set(Row::judge(key, &object)),
            other => panic!("{other:?}"),
        }
    }

    fn key(name: &str) -> Key {
        Key { kind: Kind::Service, namespace: "default".into(), name: name.into() }
    }

    fn batch(whole: bool, items: Vec<Item>) -> Batch {
        Batch { kind: Kind::Service, whole, items, received: Instant::now() }
    }

    fn malformed(name: Option<&str>) -> Item {
        let refusal = Refusal {
            kind: "Service".into(),
            namespace: String::new(),
            name: name.unwrap_or_default().into(),
            field: "spec".into(),
            why: "is wrong".into(),
        };
        Item::Malformed(name.map(key), refusal)
    }

    fn names(store: &Store) -> Vec<String> {
        store.service_names().map(|name| name.name).collect()
    }

    #[test]
    fn a_list_replaces_by_what_differs() {
        let (mut store, mut intake) = (Store::new(), Intake::new([Kind::Service].into_iter()));
        assert!(!intake.is_complete());
        intake.take(batch(true, vec![service("a", 80), service("b", 80)]), &mut store);
        assert!(intake.is_complete());
        store.take_changed();
        intake.take(batch(true, vec![service("b", 80), service("c", 80)]), &mut store);
        assert_eq!(names(&store), ["b", "c"]);
        let touched: Vec<_> =
            store.take_changed().services.into_iter().map(|name| name.name).collect();
        assert_eq!(touched, ["a", "c"]);
    }

    #[test]
    fn a_malformed_version_keeps_the_good_one_also_in_a_list() {
        let (mut store, mut intake) = (Store::new(), Intake::new([Kind::Service].into_iter()));
        intake.take(batch(true, vec![service("a", 80), service("b", 80)]), &mut store);
        let taken = intake.take(batch(true, vec![malformed(Some("a"))]), &mut store);
        assert_eq!((names(&store), taken.new.len()), (vec!["a".to_owned()], 1));
        assert_eq!(
            intake.take(batch(false, vec![malformed(Some("a"))]), &mut store),
            Taken::default()
        );
        let taken = intake.take(batch(false, vec![service("a", 81)]), &mut store);
        assert_eq!((taken.mended.len(), intake.refused()), (1, 0));
    }

    #[test]
    fn one_without_a_name_keeps_all_that_are_missing() {
        let (mut store, mut intake) = (Store::new(), Intake::new([Kind::Service].into_iter()));
        intake.take(batch(true, vec![service("a", 80), service("b", 80)]), &mut store);
        let taken = intake.take(batch(true, vec![service("b", 80), malformed(None)]), &mut store);
        assert_eq!((names(&store).len(), taken.new.len()), (2, 1));
        intake.take(batch(false, vec![Item::Gone(key("a"))]), &mut store);
        assert_eq!(names(&store), ["b"]);
    }

    #[test]
    fn what_is_refused_and_then_gone_is_mended() {
        let (mut store, mut intake) = (Store::new(), Intake::new([Kind::Service].into_iter()));
        let taken =
            intake.take(batch(true, vec![service("a", 0), malformed(Some("b"))]), &mut store);
        assert_eq!(taken.new.len(), 2);
        let taken = intake.take(batch(true, vec![]), &mut store);
        assert_eq!((taken.mended.len(), intake.refused(), names(&store).len()), (2, 0, 0));
    }
}
