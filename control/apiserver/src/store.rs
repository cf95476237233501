//! Objects, and every change since the last compaction.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, atomic::AtomicU64, atomic::Ordering},
    time::{Duration, Instant},
};

use serde_json::{Map, Value, json};

use crate::{Counts, Faults, Flag, Streams, security::Door};

/// What all threads share.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    store: Mutex<Store>,
    /// Something changed that a watch should look at.
    pub(crate) changed: Condvar,
    pub(crate) stopped: Flag,
    pub(crate) down: Flag,
    /// Watches of an earlier epoch end.
    pub(crate) epoch: AtomicU64,
    pub(crate) counts: Counts,
    pub(crate) door: Door,
    /// When the latest change was put on a wire.
    sent: Mutex<Option<Instant>>,
}

impl Shared {
    /// When the latest change was put on a wire.
    pub(crate) fn sent(&self) -> MutexGuard<'_, Option<Instant>> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Store) -> T) -> T {
        let done = change(&mut self.lock());
        self.changed.notify_all();
        done
    }

    pub(crate) fn is_down(&self) -> bool {
        self.down.load(Ordering::Relaxed) || self.stopped.load(Ordering::Relaxed)
    }
}

/// An object at one version.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) kind: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) labels: Map<String, Value>,
    pub(crate) version: u64,
    /// As it is sent.
    pub(crate) text: String,
}

/// Old and new version of one object; one of them may be missing.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) old: Option<Arc<Stored>>,
    pub(crate) new: Option<Arc<Stored>>,
    /// The deleted object under the version of its deletion.
    pub(crate) gone: Option<Arc<Stored>>,
}

type Key = (String, String, String);

/// All objects at one version.
#[derive(Clone, Debug)]
pub struct Backup {
    objects: BTreeMap<Key, Arc<Stored>>,
    version: u64,
}

#[derive(Debug)]
pub(crate) struct Store {
    objects: BTreeMap<Key, Arc<Stored>>,
    changes: BTreeMap<u64, Change>,
    version: u64,
    compacted: u64,
    pub(crate) faults: Faults,
    pub(crate) streams: Streams,
    pub(crate) bookmarks: Duration,
    /// Kinds that are answered with this status alone.
    pub(crate) answers: BTreeMap<String, u16>,
    /// So that each connection has luck of its own.
    pub(crate) connections: u64,
    given: u64,
}

impl Default for Store {
    fn default() -> Self {
        Store {
            objects: BTreeMap::new(),
            changes: BTreeMap::new(),
            // Versions start high, so that a missing one shows.
            version: 1000,
            compacted: 0,
            faults: Faults::default(),
            streams: Streams::default(),
            bookmarks: Duration::from_secs(1),
            answers: BTreeMap::new(),
            connections: 0,
            given: 0,
        }
    }
}

impl Store {
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    pub(crate) fn compacted(&self) -> u64 {
        self.compacted
    }

    pub(crate) fn compact(&mut self) {
        // One past the last change: a watch that begins after it is too late, too.
        self.version += 1;
        self.compacted = self.version;
        self.changes.clear();
    }

    /// As they are now.
    pub(crate) fn back_up(&self) -> Backup {
        Backup { objects: self.objects.clone(), version: self.version }
    }

    /// As they were then: also the versions begin again from there.
    pub(crate) fn restore(&mut self, backup: &Backup) {
        self.objects = backup.objects.clone();
        self.version = backup.version;
        self.changes.clear();
        self.compacted = self.version;
    }

    pub(crate) fn apply(&mut self, mut object: Value) -> u64 {
        self.version += 1;
        let key = key(&object);
        let metadata = &mut object["metadata"];
        metadata["resourceVersion"] = json!(self.version.to_string());
        if metadata["uid"].is_null() {
            metadata["uid"] = json!(format!("{}/{}/{}", key.0, key.1, key.2));
        }
        let new = Arc::new(stored(&key, &object, self.version));
        let old = self.objects.insert(key, Arc::clone(&new));
        self.changes.insert(self.version, Change { old, new: Some(new), gone: None });
        self.version
    }

    pub(crate) fn delete(&mut self, kind: &str, namespace: &str, name: &str) {
        let key = (kind.to_owned(), namespace.to_owned(), name.to_owned());
        let Some(old) = self.objects.remove(&key) else { return };
        self.version += 1;
        let mut object: Value = serde_json::from_str(&old.text).unwrap_or_default();
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let gone = Arc::new(stored(&key, &object, self.version));
        self.changes.insert(self.version, Change { old: Some(old), new: None, gone: Some(gone) });
    }

    pub(crate) fn delete_namespace(&mut self, name: &str) {
        let inside: Vec<Key> = self.objects.keys().filter(|key| key.1 == name).cloned().collect();
        for (kind, namespace, name) in inside {
            self.delete(&kind, &namespace, &name);
        }
        self.delete("Namespace", "", name);
    }

    /// An object as it is sent.
    pub(crate) fn text(&self, kind: &str, namespace: &str, name: &str) -> Option<String> {
        let key = (kind.to_owned(), namespace.to_owned(), name.to_owned());
        self.objects.get(&key).map(|stored| stored.text.clone())
    }

    /// A number that nothing else has been given.
    pub(crate) fn next_number(&mut self) -> u64 {
        self.given += 1;
        self.given
    }

    pub(crate) fn objects(&self, kind: &str) -> Vec<Value> {
        self.of(kind).map(|stored| serde_json::from_str(&stored.text).unwrap_or_default()).collect()
    }

    pub(crate) fn of(&self, kind: &str) -> impl Iterator<Item = &Arc<Stored>> {
        let first = (kind.to_owned(), String::new(), String::new());
        let kind = kind.to_owned();
        self.objects
            .range(first..)
            .take_while(move |(key, _)| key.0 == kind)
            .map(|(_, stored)| stored)
    }

    /// Changes of a kind after `version`, and the version up to which these are all.
    pub(crate) fn changes_after(&self, version: u64, kind: &str) -> (Vec<Change>, u64) {
        let after = self.changes.range((Bound::Excluded(version), Bound::Unbounded));
        let of_kind = |change: &&Change| {
            change.new.as_ref().or(change.old.as_ref()).is_some_and(|stored| stored.kind == kind)
        };
        (after.map(|(_, change)| change).filter(of_kind).cloned().collect(), self.version)
    }
}

fn key(object: &Value) -> Key {
    let text =
        |pointer| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let kind = text("/kind");
    let namespace = match (kind.as_str(), text("/metadata/namespace")) {
        ("Node" | "Namespace" | "ServiceCIDR", _) => String::new(),
        (_, namespace) if namespace.is_empty() => "default".into(),
        (_, namespace) => namespace,
    };
    (kind, namespace, text("/metadata/name"))
}

fn stored(key: &Key, object: &Value, version: u64) -> Stored {
    let labels = object.pointer("/metadata/labels").and_then(Value::as_object);
    Stored {
        kind: key.0.clone(),
        namespace: key.1.clone(),
        name: key.2.clone(),
        labels: labels.cloned().unwrap_or_default(),
        version,
        text: object.to_string(),
    }
}
