//! The API server → batches of judged rows, in the inbox that every source uses.
//!
//! One thread with one task a kind ([`follow`]); nothing of it is known further on. Decides when what a kind's objects say is
//! complete, and therefore what is gone. An outage changes nothing: what was heard stays in force for as long as it lasts.
//! Leaves to [`Intake`] which version of an object is in force, to [`crate::run`] what is compiled and when.

mod api;
mod backoff;
mod entrance;
mod follow;
mod intake;
mod known;
mod lines;
mod report;

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::task::JoinSet;

use crate::{
    desired::Row,
    inbox::{Event, Outbox},
    object::{Key, Kind, Refusal},
};

use entrance::Entrance;
pub use intake::{Intake, Taken};

/// How to find the API server and to be let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// As a pod: `KUBERNETES_SERVICE_HOST` and the service account's files.
    InCluster,
    /// As the file's current context says.
    Kubeconfig(PathBuf),
}

impl Access {
    /// Whether the files are there and can be read; for a start, where a fault is better said at once.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Access::InCluster => entrance::in_cluster().map(drop),
            Access::Kubeconfig(path) => entrance::kubeconfig(path).map(drop),
        }
    }
}

/// What to follow, and how patiently.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where.
    pub access: Access,
    /// This node, for what it says of itself.
    pub node: Option<String>,
    /// First wait after a failure; it doubles up to `longest_wait`. Both are shortened at random by up to a half.
    pub first_wait: Duration,
    /// See `first_wait`.
    pub longest_wait: Duration,
    /// A watch on which nothing is heard for so long, no bookmark either, is made anew.
    pub silence: Duration,
    /// How long to wait for the next object or the closing bookmark of a streamed list before lists are asked for by pages.
    pub list_silence: Duration,
    /// Everything is listed again this often, somewhat earlier at random: what no watch said shows then.
    pub relist: Duration,
    /// How long to wait before a kind that the server doesn't have is asked for again, shortened at random by up to a half.
    pub absent: Duration,
    /// Objects asked for in one page.
    pub page: u32,
    /// How long a credential plugin may take.
    pub plugin: Duration,
    /// Whether refusals become Kubernetes Events.
    pub events: bool,
}

impl Options {
    /// With the waits that suit a cluster.
    pub fn new(access: Access, node: Option<String>) -> Options {
        Options {
            access,
            node,
            first_wait: Duration::from_millis(500),
            longest_wait: Duration::from_secs(15),
            silence: Duration::from_secs(120),
            list_silence: Duration::from_secs(3),
            relist: Duration::from_secs(3600),
            absent: Duration::from_secs(30),
            page: 250,
            plugin: Duration::from_secs(30),
            events: true,
        }
    }
}

/// What was heard of one kind, in order.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Of which kind.
    pub kind: Kind,
    /// These are all of the kind: others are gone.
    pub whole: bool,
    /// Each.
    pub items: Vec<Item>,
    /// When the last byte of it came.
    pub received: Instant,
}

/// One object of a [`Batch`].
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// Created or changed.
    Set(Row),
    /// Deleted.
    Gone(Key),
    /// There, and malformed: its last good version stays. The key is absent when not even the identity can be read.
    Malformed(Option<Key>, Refusal),
}

/// A kind as the API server serves it.
#[derive(Clone, Copy, Debug)]
struct Resource {
    kind: Kind,
    path: &'static str,
    /// Where the server may have it instead: the same fields under another version.
    instead: Option<&'static str>,
    /// Label selector: other proxies' objects and headless Services' slices stay with the API server, as with kube-proxy.
    labels: &'static str,
    /// Tables are good without it, and older servers don't have it: that must be heard before anything is published.
    optional: bool,
}

impl Resource {
    /// From now on where it may be instead; false where there is no such place.
    fn turn(&mut self) -> bool {
        let Some(other) = self.instead else { return false };
        self.instead = Some(std::mem::replace(&mut self.path, other));
        true
    }
}

const OURS: &str = "!service.kubernetes.io/service-proxy-name,!service.kubernetes.io/headless";

const RESOURCES: [Resource; 10] = [
    Resource {
        kind: Kind::Node,
        path: "/api/v1/nodes",
        instead: None,
        labels: "",
        optional: false,
    },
    Resource {
        kind: Kind::Service,
        path: "/api/v1/services",
        instead: None,
        labels: OURS,
        optional: false,
    },
    Resource {
        kind: Kind::EndpointSlice,
        path: "/apis/discovery.k8s.io/v1/endpointslices",
        instead: None,
        labels: OURS,
        optional: false,
    },
    Resource {
        kind: Kind::ServiceCidr,
        path: "/apis/networking.k8s.io/v1/servicecidrs",
        instead: None,
        labels: "",
        optional: true,
    },
    Resource { kind: Kind::Pod, path: "/api/v1/pods", instead: None, labels: "", optional: false },
    Resource {
        kind: Kind::Namespace,
        path: "/api/v1/namespaces",
        instead: None,
        labels: "",
        optional: false,
    },
    Resource {
        kind: Kind::NetworkPolicy,
        path: "/apis/networking.k8s.io/v1/networkpolicies",
        instead: None,
        labels: "",
        optional: false,
    },
    Resource {
        kind: Kind::ClusterNetworkPolicy,
        path: "/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies",
        instead: Some("/apis/policy.networking.k8s.io/v1beta1/clusternetworkpolicies"),
        labels: "",
        optional: true,
    },
    Resource {
        kind: Kind::AdminNetworkPolicy,
        path: "/apis/policy.networking.k8s.io/v1alpha1/adminnetworkpolicies",
        instead: None,
        labels: "",
        optional: true,
    },
    Resource {
        kind: Kind::BaselineAdminNetworkPolicy,
        path: "/apis/policy.networking.k8s.io/v1alpha1/baselineadminnetworkpolicies",
        instead: None,
        labels: "",
        optional: true,
    },
];

/// How the source fares, for metrics; kept up to date by its thread.
#[derive(Debug)]
pub struct Health {
    began: Instant,
    kinds: Vec<(Kind, KindHealth)>,
}

/// Of one kind.
#[derive(Debug, Default)]
pub struct KindHealth {
    /// Complete lists.
    pub lists: AtomicU64,
    /// Watches begun.
    pub watches: AtomicU64,
    /// Objects heard of.
    pub objects: AtomicU64,
    /// Objects that said something older than what was known, and were passed over.
    pub stale: AtomicU64,
    /// Requests that failed, and watches that broke.
    pub faults: AtomicU64,
    /// Milliseconds from the start to the last byte heard.
    heard: AtomicU64,
}

impl Health {
    /// Of a source that has heard nothing yet.
    pub fn new(kinds: impl Iterator<Item = Kind>) -> Health {
        let kinds = kinds.map(|kind| (kind, KindHealth::default())).collect();
        Health { began: Instant::now(), kinds }
    }

    /// Each kind that is followed.
    pub fn kinds(&self) -> impl Iterator<Item = (Kind, &KindHealth)> {
        self.kinds.iter().map(|(kind, health)| (*kind, health))
    }

    /// How long ago anything was heard about the kind.
    pub fn silence(&self, kind: &KindHealth) -> Duration {
        let heard = Duration::from_millis(kind.heard.load(Ordering::Relaxed));
        self.began.elapsed().saturating_sub(heard)
    }

    /// Whether the server has let us see anything yet.
    fn is_welcome(&self) -> bool {
        self.kinds.iter().any(|(_, kind)| kind.watches.load(Ordering::Relaxed) > 0)
    }

    fn of(&self, kind: Kind) -> Option<&KindHealth> {
        self.kinds.iter().find(|(other, _)| *other == kind).map(|(_, health)| health)
    }

    fn heard(&self, kind: Kind) {
        if let Some(health) = self.of(kind) {
            health.heard.store(self.began.elapsed().as_millis() as u64, Ordering::Relaxed);
        }
    }

    fn count(&self, kind: Kind, which: fn(&KindHealth) -> &AtomicU64, how_many: u64) {
        if let Some(health) = self.of(kind) {
            which(health).fetch_add(how_many, Ordering::Relaxed);
        }
    }
}

/// Follows the API server from a thread of its own, which ends when nobody takes its batches any more.
pub fn start(options: Options, outbox: Outbox) -> io::Result<(Intake, Arc<Health>)> {
    let resources = RESOURCES;
    if options.node.is_none() {
        tracing::warn!("no --node NAME: no endpoint is local, and no zone is known");
    }
    let health = Arc::new(Health::new(resources.iter().map(|resource| resource.kind)));
    let intake = Intake::new(resources.iter().map(|resource| resource.kind));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let theirs = Arc::clone(&health);
    thread::Builder::new().name("kube".into()).spawn(move || {
        runtime.block_on(async move {
            let broken = outbox.clone();
            let entrance = Entrance::new(&options);
            let reporter = report::start(&options, Arc::clone(&entrance));
            let mut tasks = JoinSet::new();
            for resource in resources {
                let (options, outbox) = (options.clone(), outbox.clone());
                let (health, reporter) = (Arc::clone(&theirs), reporter.clone());
                let entrance = Arc::clone(&entrance);
                tasks.spawn(follow::follow(resource, options, entrance, outbox, health, reporter));
            }
            watch_over(tasks, &broken).await;
        });
    })?;
    Ok((intake, health))
}

/// Waits until all have ended, as they do when nobody listens. One that panicked would leave its kind as it is for good, and unseen:
/// a new process does better.
async fn watch_over(mut tasks: JoinSet<()>, outbox: &Outbox) {
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            outbox.send(Event::Broken(format!("following the API server: {error}")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inbox::inbox;

    #[test]
    fn a_follower_that_panics_is_not_passed_over() {
        let (inbox, outbox) = inbox().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut tasks = JoinSet::new();
            tasks.spawn(async {});
            tasks.spawn(async { panic!("out of range") });
            watch_over(tasks, &outbox).await;
        });
        let (events, _) = inbox.wait(None, Duration::ZERO).unwrap();
        assert!(
            matches!(&events[..], [Event::Broken(why)] if why.contains("out of range")),
            "{events:?}"
        );
    }
}
