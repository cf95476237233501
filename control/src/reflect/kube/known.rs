//! Which version of each object was heard last: what is older than that comes late or twice, and is passed over.
//!
//! Resource versions of one kind are compared as numbers where both are numbers (KEP-5504); any other is taken as new.
//! Deleted objects are remembered too, so that a late word doesn't raise the dead; the oldest are forgotten.
//!
//! Cost: a hash map entry an object, and at most [`MOST_GRAVES`] deleted ones.

use std::collections::{BTreeMap, HashMap};

use crate::object::Key;

const MOST_GRAVES: usize = 8192;

/// Of one kind.
#[derive(Debug, Default)]
pub(super) struct Known {
    versions: HashMap<Key, u64>,
    graves: HashMap<Key, u64>,
    /// The graves by age.
    ages: BTreeMap<u64, Vec<Key>>,
}

impl Known {
    /// Whether a created or changed object is news. The same version again is: it costs nothing.
    pub(super) fn set(&mut self, key: &Key, version: &str) -> bool {
        let Ok(version) = version.parse::<u64>() else { return true };
        let buried = self.graves.get(key).is_some_and(|buried| version <= *buried);
        if buried || self.versions.get(key).is_some_and(|known| version < *known) {
            return false;
        }
        self.versions.insert(key.clone(), version);
        true
    }

    /// Whether a deletion is news: not when the object has been made anew since.
    pub(super) fn delete(&mut self, key: &Key, version: &str) -> bool {
        let Ok(version) = version.parse::<u64>() else {
            self.versions.remove(key);
            return true;
        };
        if self.versions.get(key).is_some_and(|known| version < *known) {
            return false;
        }
        self.versions.remove(key);
        if self.graves.insert(key.clone(), version).is_none_or(|buried| buried < version) {
            self.ages.entry(version).or_default().push(key.clone());
        }
        while self.graves.len() > MOST_GRAVES
            && let Some((oldest, keys)) = self.ages.pop_first()
        {
            for key in keys {
                if self.graves.get(&key).is_some_and(|buried| *buried <= oldest) {
                    self.graves.remove(&key);
                }
            }
        }
        true
    }

    /// A complete list: it is right about everything, also where it seems older (a cluster restored from a backup).
    pub(super) fn listed<'a>(
        &mut self,
        version: &str,
        objects: impl Iterator<Item = (&'a Key, &'a str)>,
    ) {
        self.versions.clear();
        for (key, version) in objects {
            if let Ok(version) = version.parse() {
                self.versions.insert(key.clone(), version);
            }
            self.graves.remove(key);
        }
        let list: u64 = version.parse().unwrap_or(0);
        self.graves.retain(|_, buried| *buried <= list);
        let graves = &self.graves;
        self.ages.retain(|_, keys| {
            keys.retain(|key| graves.contains_key(key));
            !keys.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Kind;

    fn key(name: &str) -> Key {
        Key { kind: Kind::Service, namespace: "default".into(), name: name.into() }
    }

    #[test]
    fn what_comes_late_is_passed_over_and_what_comes_twice_does_no_harm() {
        let mut known = Known::default();
        let a = key("a");
        assert!(known.set(&a, "5") && known.set(&a, "7"));
        assert!(!known.set(&a, "6"));
        assert!(known.set(&a, "7"));
        assert!(!known.delete(&a, "6"));
        assert!(known.delete(&a, "9"));
        assert!(!known.set(&a, "8") && !known.set(&a, "9"));
        assert!(known.set(&a, "10"));
        // Servers of old gave a deletion the object's own version.
        assert!(known.delete(&a, "10") && !known.set(&a, "10"));
    }

    #[test]
    fn versions_that_are_no_numbers_are_all_taken() {
        let mut known = Known::default();
        let a = key("a");
        assert!(known.set(&a, "z") && known.set(&a, "") && known.set(&a, "10"));
        assert!(known.delete(&a, "") && known.set(&a, "3"));
    }

    #[test]
    fn a_list_is_right_also_when_it_is_older() {
        let mut known = Known::default();
        let (a, b) = (key("a"), key("b"));
        known.set(&a, "100");
        known.delete(&b, "101");
        known.listed("50", [(&a, "40")].into_iter());
        assert!(known.set(&a, "41") && known.set(&b, "51"));
        let mut known = Known::default();
        known.delete(&b, "101");
        known.listed("200", std::iter::empty());
        assert!(!known.set(&b, "90") && known.set(&b, "201"));
    }

    #[test]
    fn the_dead_are_forgotten_one_day() {
        let mut known = Known::default();
        for at in 0..3 * MOST_GRAVES {
            known.delete(&key(&format!("s{at}")), &at.to_string());
        }
        assert!(known.graves.len() <= MOST_GRAVES && known.ages.len() <= MOST_GRAVES);
        let last = 3 * MOST_GRAVES - 1;
        assert!(!known.set(&key(&format!("s{last}")), "0"));
    }
}
