//! What became of each object: the version that was compiled, the generation it went into, and when every worker had it.
//!
//! Decides nothing; keeps account. Needs to be told of each step ([`Receipts::heard`], [`Receipts::compiled`],
//! [`Receipts::acknowledged`]). Leaves showing it to [`crate::serve`].
//!
//! Cost: a map entry an object (about 150 bytes), and each step what it touches.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant, SystemTime},
};

use serde_json::{Value, json};

use crate::{
    object::{Key, Kind},
    store::Store,
};

/// Samples that quantiles are taken of.
const RECENT: usize = 1024;
/// Upper bounds of the histogram's buckets in microseconds: 100 µs to 100 s, four in each factor of ten.
const BUCKETS: [u64; 25] = [
    100,
    180,
    320,
    560,
    1_000,
    1_800,
    3_200,
    5_600,
    10_000,
    18_000,
    32_000,
    56_000,
    100_000,
    180_000,
    320_000,
    560_000,
    1_000_000,
    1_800_000,
    3_200_000,
    5_600_000,
    10_000_000,
    18_000_000,
    32_000_000,
    56_000_000,
    100_000_000,
];

/// One object's.
#[derive(Clone, Debug, PartialEq)]
pub struct Receipt {
    /// `metadata.resourceVersion` of what is compiled; empty for an object from a file.
    pub version: Box<str>,
    /// The generation that has it.
    pub generation: u64,
    /// The tables had no room for all of its rows; it is tried again.
    pub refused: bool,
    /// When every worker used that generation, and how long after the object was heard of.
    pub applied: Option<(SystemTime, Duration)>,
}

/// All of them.
#[derive(Debug)]
pub struct Receipts {
    /// Changes before this are none that this process could have been quick about.
    began: SystemTime,
    objects: BTreeMap<Key, Receipt>,
    /// Heard of and not compiled, with the time of the first word.
    pending: BTreeMap<Key, Instant>,
    /// Compiled, and not yet used by every worker.
    awaited: VecDeque<Awaited>,
    propagation: Latency,
    programming: Latency,
}

#[derive(Debug)]
struct Awaited {
    generation: u64,
    objects: Vec<(Key, Instant)>,
    /// When the controller saw the change behind each slice.
    triggers: Vec<SystemTime>,
}

impl Default for Receipts {
    fn default() -> Receipts {
        Receipts::new(SystemTime::now())
    }
}

impl Receipts {
    /// None yet, of a process that began then.
    pub fn new(began: SystemTime) -> Receipts {
        Receipts {
            began,
            objects: BTreeMap::new(),
            pending: BTreeMap::new(),
            awaited: VecDeque::new(),
            propagation: Latency::default(),
            programming: Latency::default(),
        }
    }

    /// An object's new version has arrived, or its end: then it is not `there` any more. What came and went before it could be compiled
    /// is forgotten, so that this holds no more than there is while no engine is connected.
    pub fn heard(&mut self, key: Key, at: Instant, there: bool) {
        if there || self.objects.contains_key(&key) {
            self.pending.entry(key).or_insert(at);
        } else {
            self.pending.remove(&key);
        }
    }

    /// What has been heard is in `generation`. `refused`: objects of which the tables wouldn't take all rows. A version that has its
    /// receipt already, as all of them do when they are listed again, keeps it, and is no sample of how fast we are.
    pub fn compiled(&mut self, generation: u64, store: &Store, refused: impl Fn(&Key) -> bool) {
        let (mut objects, mut triggers) = (Vec::new(), Vec::new());
        for (key, heard) in std::mem::take(&mut self.pending) {
            let Some(row) = store.row(&key) else {
                self.objects.remove(&key);
                objects.push((key, heard));
                continue;
            };
            let (version, refused) = (&row.origin.version, refused(&key));
            let known = |old: &Receipt| old.version == *version && old.refused == refused;
            // Objects from files have no version: each may be another one.
            if !version.is_empty() && self.objects.get(&key).is_some_and(known) {
                continue;
            }
            triggers.extend(row.origin.triggered.filter(|trigger| *trigger > self.began));
            let receipt = Receipt { version: version.clone(), generation, refused, applied: None };
            self.objects.insert(key.clone(), receipt);
            objects.push((key, heard));
        }
        if objects.is_empty() {
            return;
        }
        self.awaited.push_back(Awaited { generation, objects, triggers });
    }

    /// Another engine: it has nothing yet, and gets everything as `generation`.
    pub fn restarted(&mut self, generation: u64) {
        let now = Instant::now();
        self.awaited.clear();
        for receipt in self.objects.values_mut() {
            (receipt.generation, receipt.applied) = (generation, None);
        }
        let objects = self.objects.keys().map(|key| (key.clone(), now)).collect();
        self.awaited.push_back(Awaited { generation, objects, triggers: Vec::new() });
    }

    /// Every worker uses `generation`.
    pub fn acknowledged(&mut self, generation: u64, now: Instant, clock: SystemTime) {
        while self.awaited.front().is_some_and(|awaited| awaited.generation <= generation) {
            let Some(awaited) = self.awaited.pop_front() else { return };
            for (key, heard) in awaited.objects {
                let after = now.saturating_duration_since(heard);
                self.propagation.observe(after);
                // A later version of it may be on its way already.
                if let Some(receipt) = self.objects.get_mut(&key)
                    && receipt.generation <= generation
                    && receipt.applied.is_none()
                {
                    receipt.applied = Some((clock, after));
                }
            }
            for trigger in awaited.triggers {
                self.programming.observe(clock.duration_since(trigger).unwrap_or_default());
            }
        }
    }

    /// An object's.
    pub fn get(&self, key: &Key) -> Option<&Receipt> {
        self.objects.get(key)
    }

    /// From the first word of an object to its use by every worker.
    pub fn propagation(&self) -> &Latency {
        &self.propagation
    }

    /// From the time that the controller noted on a slice (`endpoints.kubernetes.io/last-change-trigger-time`): kube-proxy's
    /// `network_programming_duration_seconds`.
    pub fn programming(&self) -> &Latency {
        &self.programming
    }

    /// What `millrace show services --receipts` prints: Services and EndpointSlices.
    pub fn json(&self) -> Value {
        let shown = |key: &&Key| matches!(key.kind, Kind::Service | Kind::EndpointSlice);
        let one = |(key, receipt): (&Key, &Receipt)| {
            let at =
                receipt.applied.and_then(|(at, _)| k8s_openapi::jiff::Timestamp::try_from(at).ok());
            json!({
                "kind": key.kind.name(), "namespace": key.namespace, "name": key.name,
                "resource_version": receipt.version, "generation": receipt.generation, "refused": receipt.refused,
                "applied": receipt.applied.is_some(), "applied_at": at.map(|at| at.to_string()),
                "applied_after_us": receipt.applied.map(|(_, after)| after.as_micros() as u64),
            })
        };
        self.objects.iter().filter(|(key, _)| shown(key)).map(one).collect()
    }
}

/// A histogram, and the latest samples.
#[derive(Debug, Default)]
pub struct Latency {
    buckets: [u64; BUCKETS.len()],
    count: u64,
    sum: Duration,
    recent: VecDeque<Duration>,
}

impl Latency {
    fn observe(&mut self, sample: Duration) {
        let micros = u64::try_from(sample.as_micros()).unwrap_or(u64::MAX);
        let at = BUCKETS.partition_point(|bound| *bound < micros);
        if let Some(bucket) = self.buckets.get_mut(at) {
            *bucket += 1;
        }
        self.count += 1;
        self.sum = self.sum.saturating_add(sample);
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(sample);
    }

    /// Samples so far, and their sum.
    pub fn total(&self) -> (u64, Duration) {
        (self.count, self.sum)
    }

    /// Each bucket's upper bound in seconds with how many samples don't exceed it.
    pub fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> + '_ {
        let bounds = BUCKETS.iter().map(|bound| *bound as f64 / 1e6);
        bounds.zip(self.buckets.iter().scan(0, |sum, count| {
            *sum += count;
            Some(*sum)
        }))
    }

    /// Of the latest samples, the smallest that `share` of them don't exceed.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let mut sorted: Vec<Duration> = self.recent.iter().copied().collect();
        sorted.sort_unstable();
        let rank = (sorted.len() as f64 * share).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key { kind: Kind::Service, namespace: "default".into(), name: name.into() }
    }

    fn store(version: &str) -> Store {
        let mut store = Store::new();
        let metadata = json!({"name": "web", "resourceVersion": version});
        store.apply_json(json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"clusterIP": "172.30.0.1"}}));
        store
    }

    #[test]
    fn an_object_is_applied_when_every_worker_uses_its_generation() {
        let (mut receipts, began) = (Receipts::default(), Instant::now());
        let clock = SystemTime::now();
        receipts.heard(key("web"), began, true);
        receipts.compiled(7, &store("41"), |_| false);
        receipts.acknowledged(6, began + Duration::from_millis(1), clock);
        assert_eq!(receipts.get(&key("web")).unwrap().applied, None);
        receipts.acknowledged(8, began + Duration::from_millis(2), clock);
        let receipt = receipts.get(&key("web")).unwrap();
        assert_eq!((&*receipt.version, receipt.generation), ("41", 7));
        assert_eq!(receipt.applied, Some((clock, Duration::from_millis(2))));
        assert_eq!(receipts.propagation().quantile(0.5), Some(Duration::from_millis(2)));
        assert_eq!(receipts.json()[0]["applied_after_us"], 2000);
    }

    #[test]
    fn a_version_on_its_way_is_not_taken_for_applied_with_the_one_before() {
        let (mut receipts, now) = (Receipts::default(), Instant::now());
        receipts.heard(key("web"), now, true);
        receipts.compiled(7, &store("41"), |_| false);
        receipts.heard(key("web"), now, true);
        receipts.compiled(8, &store("42"), |_| true);
        receipts.acknowledged(7, now, SystemTime::now());
        let receipt = receipts.get(&key("web")).unwrap();
        assert_eq!((&*receipt.version, receipt.refused, receipt.applied), ("42", true, None));
        receipts.acknowledged(8, now, SystemTime::now());
        assert!(receipts.get(&key("web")).unwrap().applied.is_some());
    }

    #[test]
    fn another_engine_has_nothing_until_it_says_so_and_what_is_gone_has_no_receipt() {
        let (mut receipts, now) = (Receipts::default(), Instant::now());
        receipts.heard(key("web"), now, true);
        receipts.compiled(7, &store("41"), |_| false);
        receipts.acknowledged(7, now, SystemTime::now());
        receipts.restarted(20);
        assert_eq!(receipts.get(&key("web")).unwrap().applied, None);
        receipts.acknowledged(20, now, SystemTime::now());
        assert!(receipts.get(&key("web")).unwrap().applied.is_some());
        receipts.heard(key("web"), now, true);
        receipts.compiled(21, &Store::new(), |_| false);
        assert_eq!(receipts.get(&key("web")), None);
    }

    #[test]
    fn what_is_listed_again_keeps_its_receipt_and_is_no_sample() {
        let (mut receipts, now) = (Receipts::default(), Instant::now());
        let clock = SystemTime::now();
        receipts.heard(key("web"), now, true);
        receipts.compiled(7, &store("41"), |_| false);
        receipts.acknowledged(7, now, clock);
        let before = receipts.get(&key("web")).cloned();
        receipts.heard(key("web"), now, true);
        receipts.compiled(8, &store("41"), |_| false);
        receipts.acknowledged(8, now + Duration::from_secs(3600), clock);
        assert_eq!(receipts.get(&key("web")).cloned(), before);
        assert_eq!(receipts.propagation().total().0, 1);
        // Of the same version, and refused now: that is news. So is any version of an object from a file.
        receipts.heard(key("web"), now, true);
        receipts.compiled(9, &store("41"), |_| true);
        assert!(receipts.get(&key("web")).is_some_and(|receipt| receipt.refused));
        for generation in [10, 11] {
            receipts.heard(key("web"), now, true);
            receipts.compiled(generation, &store(""), |_| true);
            assert_eq!(receipts.get(&key("web")).unwrap().generation, generation);
        }
    }

    #[test]
    fn a_change_before_the_start_says_nothing_about_how_fast_we_are() {
        let trigger: k8s_openapi::jiff::Timestamp = "2025-03-01T12:00:00Z".parse().unwrap();
        let trigger = SystemTime::from(trigger);
        let mut store = Store::new();
        store.apply_json(json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "web", "resourceVersion": "5", "annotations":
                {"endpoints.kubernetes.io/last-change-trigger-time": "2025-03-01T12:00:00Z"}}}));
        let key = Key { kind: Kind::EndpointSlice, ..key("web") };
        let second = Duration::from_secs(1);
        for (began, samples) in [(trigger + second, 0), (trigger - second, 1)] {
            let mut receipts = Receipts::new(began);
            receipts.heard(key.clone(), Instant::now(), true);
            receipts.compiled(7, &store, |_| false);
            receipts.acknowledged(7, Instant::now(), trigger + 2 * second);
            assert_eq!(receipts.programming().total().0, samples);
            assert_eq!(receipts.propagation().total().0, 1);
        }
    }

    #[test]
    fn what_comes_and_goes_before_it_is_compiled_is_forgotten() {
        let (mut receipts, now) = (Receipts::default(), Instant::now());
        for number in 0..100 {
            let name = format!("web-{number}");
            receipts.heard(key(&name), now, true);
            receipts.heard(key(&name), now, false);
        }
        assert!(receipts.pending.is_empty());
        // The end of one that has a receipt is an errand, too.
        receipts.heard(key("web"), now, true);
        receipts.compiled(7, &store("41"), |_| false);
        receipts.heard(key("web"), now, false);
        assert_eq!(receipts.pending.len(), 1);
        receipts.compiled(8, &Store::new(), |_| false);
        assert_eq!((receipts.get(&key("web")), receipts.pending.len()), (None, 0));
    }

    #[test]
    fn buckets_are_cumulative_and_hold_what_does_not_exceed_them() {
        let mut latency = Latency::default();
        for micros in [50, 100, 101, 1_000_000, 200_000_000] {
            latency.observe(Duration::from_micros(micros));
        }
        let counts: Vec<u64> = latency.cumulative().map(|(_, count)| count).collect();
        assert_eq!((counts[0], counts[1], counts[16], counts[24]), (2, 3, 4, 4));
        assert_eq!(latency.total().0, 5);
        assert_eq!(latency.quantile(1.0), Some(Duration::from_secs(200)));
        (0..RECENT).for_each(|_| latency.observe(Duration::from_micros(7)));
        assert_eq!(latency.quantile(0.99), Some(Duration::from_micros(7)));
    }
}
