//! Refusals → Kubernetes Events on the objects they are about.
//!
//! Every node refuses the same, so the Event's name is made of the object, its version's faults and nothing of the node: the first
//! one creates it, the others find it there. Rate-limited as client-go's recorder is (25 at once, then one in 5 minutes an
//! object there; here one in 2 s in all). What the limit or the API server turns down is only logged.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hasher},
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{Options, api::Fault, backoff::wait_after, entrance::Entrance};
use crate::object::{Key, Refusal};

/// At once.
const BURST: f64 = 25.0;
/// And then.
const PER_SECOND: f64 = 0.5;
/// The API's limit on `message` (`core/v1` Event validation) is 1,024 bytes.
const LONGEST_MESSAGE: usize = 1024;
/// Events waiting to be sent, and objects remembered.
const MOST_WAITING: usize = 256;
/// An Event that can't be sent is tried again so often; then it is in the log alone.
const TRIES: u32 = 5;
const MOST_REMEMBERED: usize = 10_000;

/// Where refusals are brought. Never waits.
#[derive(Clone, Debug)]
pub(super) struct Reporter(mpsc::Sender<Report>);

#[derive(Debug)]
struct Report {
    key: Key,
    uid: String,
    version: String,
    refusals: Vec<Refusal>,
}

impl Reporter {
    /// Reports an object with all its refusals; none says that it is good now.
    pub(super) fn say(&self, key: &Key, uid: &str, version: &str, refusals: Vec<Refusal>) {
        if !refusals.is_empty() {
            let report =
                Report { key: key.clone(), uid: uid.into(), version: version.into(), refusals };
            // Full: said in the log alone.
            let _ = self.0.try_send(report);
        }
    }
}

/// Starts the task that sends. `None` when Events are not wanted.
pub(super) fn start(options: &Options, entrance: Arc<Entrance>) -> Option<Reporter> {
    if !options.events {
        return None;
    }
    let (sender, receiver) = mpsc::channel(MOST_WAITING);
    tokio::spawn(send(options.clone(), entrance, receiver));
    Some(Reporter(sender))
}

async fn send(options: Options, entrance: Arc<Entrance>, mut reports: mpsc::Receiver<Report>) {
    let mut said = Said::default();
    let mut bucket = Bucket { tokens: BURST, filled: Instant::now() };
    let host = options.node.clone().unwrap_or_default();
    while let Some(report) = reports.recv().await {
        if !said.is_news(&report) || !bucket.take(Instant::now()) {
            continue;
        }
        let (path, event) = event(&report, &host);
        for attempt in 1..=TRIES {
            let sent = match entrance.open().await {
                Ok(api) => api.create(&path, &event).await,
                Err(fault) => Err(fault),
            };
            let Err(fault) = sent else { break };
            tracing::debug!("Event about {}: {fault:?}", report.key);
            // Turned down is turned down.
            if attempt == TRIES || !matches!(fault, Fault::Failed(..)) {
                said.forget(&report);
                break;
            }
            tokio::time::sleep(wait_after(attempt, &options)).await;
        }
    }
}

/// What has been sent about each object.
#[derive(Debug, Default)]
struct Said(HashMap<Key, u64>);

impl Said {
    fn is_news(&mut self, report: &Report) -> bool {
        if self.0.len() >= MOST_REMEMBERED {
            self.0.clear();
        }
        let now = fingerprint(report);
        self.0.insert(report.key.clone(), now) != Some(now)
    }

    fn forget(&mut self, report: &Report) {
        self.0.remove(&report.key);
    }
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.filled).max(Duration::ZERO);
        self.tokens = (self.tokens + passed.as_secs_f64() * PER_SECOND).min(BURST);
        self.filled = now;
        let there = self.tokens >= 1.0;
        if there {
            self.tokens -= 1.0;
        }
        there
    }
}

/// The same on every node and in every process.
fn fingerprint(report: &Report) -> u64 {
    // FNV-1a: std's hashers make no promise across releases.
    struct Fnv(u64);
    impl Hasher for Fnv {
        fn finish(&self) -> u64 {
            self.0
        }
        fn write(&mut self, bytes: &[u8]) {
            for byte in bytes {
                self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
            }
        }
    }
    struct Build;
    impl BuildHasher for Build {
        type Hasher = Fnv;
        fn build_hasher(&self) -> Fnv {
            Fnv(0xcbf2_9ce4_8422_2325)
        }
    }
    let faults: Vec<String> = report.refusals.iter().map(ToString::to_string).collect();
    Build.hash_one((&report.uid, faults))
}

fn event(report: &Report, host: &str) -> (String, Value) {
    let Report { key, uid, version, refusals } = report;
    // Events about objects without a namespace are in `default` (`EventBroadcaster`).
    let namespace = if key.namespace.is_empty() { "default" } else { &key.namespace };
    let mut message = String::new();
    for refusal in refusals {
        if !message.is_empty() {
            message += "; ";
        }
        if !refusal.field.is_empty() {
            message = message + &refusal.field + ": ";
        }
        message += &refusal.why;
    }
    message += " (the rest of the object is in force)";
    let end = message.char_indices().map(|(at, char)| at + char.len_utf8());
    let end = end.take_while(|end| *end <= LONGEST_MESSAGE).last().unwrap_or(0);
    message.truncate(end);
    // A name may have 253 bytes; the object's has room for what follows it.
    let mut name: String = key.name.chars().take(200).collect();
    name += &format!(".{:016x}", fingerprint(report));
    let now = k8s_openapi::jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let field = refusals.first().map(|refusal| refusal.field.as_str()).unwrap_or_default();
    let event = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": name, "namespace": namespace},
        "involvedObject": {"kind": key.kind.name(), "apiVersion": key.kind.api_version(), "namespace": key.namespace, "name": key.name,
            "uid": uid, "resourceVersion": version, "fieldPath": field},
        "type": "Warning", "reason": "Refused", "message": message, "count": 1, "firstTimestamp": now, "lastTimestamp": now,
        "source": {"component": "millrace-control", "host": host},
        "reportingComponent": "millrace.dev/control", "reportingInstance": host,
    });
    (format!("/api/v1/namespaces/{namespace}/events"), event)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Kind;

    fn report(name: &str, why: &str) -> Report {
        let key = Key { kind: Kind::Service, namespace: "shop".into(), name: name.into() };
        let refusal = Refusal {
            kind: "Service".into(),
            namespace: "shop".into(),
            name: name.into(),
            field: "spec.ports[0].port".into(),
            why: why.into(),
        };
        Report { key, uid: "u1".into(), version: "7".into(), refusals: vec![refusal] }
    }

    #[test]
    fn an_event_names_object_and_field_and_is_the_same_from_every_node() {
        let (path, one) = event(&report("web", "0 is not a port"), "node-a");
        let (_, other) = event(&report("web", "0 is not a port"), "node-b");
        assert_eq!(path, "/api/v1/namespaces/shop/events");
        assert_eq!(
            one["message"],
            "spec.ports[0].port: 0 is not a port (the rest of the object is in force)"
        );
        assert_eq!(one["involvedObject"]["name"], "web");
        assert_eq!(one["metadata"], other["metadata"]);
        let (_, mended) = event(&report("web", "1 is not a port"), "node-a");
        assert_ne!(one["metadata"], mended["metadata"]);
    }

    #[test]
    fn messages_and_names_keep_to_the_apis_limits() {
        let (_, event) = event(&report(&"x".repeat(253), &"ü".repeat(2000)), "node-a");
        let message = event["message"].as_str().unwrap();
        assert!(message.len() <= 1024 && message.len() > 1020, "{}", message.len());
        assert!(event["metadata"]["name"].as_str().unwrap().len() <= 253);
    }

    #[test]
    fn the_same_is_said_once_and_no_flood_gets_through() {
        let mut said = Said::default();
        assert!(said.is_news(&report("a", "x")) && !said.is_news(&report("a", "x")));
        assert!(said.is_news(&report("a", "y")) && said.is_news(&report("a", "x")));
        let now = Instant::now();
        let mut bucket = Bucket { tokens: BURST, filled: now };
        let sent = (0..100).filter(|_| bucket.take(now)).count();
        assert_eq!(sent, 25);
        assert!(!bucket.take(now + Duration::from_secs(1)));
        assert!(bucket.take(now + Duration::from_secs(3)));
    }
}
