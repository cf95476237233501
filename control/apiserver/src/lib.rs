//! As much of a Kubernetes API server as control asks for, over HTTP on loopback, plain or with TLS and authentication: lists by pages, watches with bookmarks,
//! streamed lists, label and field selectors, single objects. And faults on demand ([`Faults`]).
//!
//! Keeps the API's promises where no fault is asked for: one resource version for all kinds, every change after a version exactly
//! once and in order, 410 for versions that are compacted. For tests and measurements; nothing is checked that comes in.

#![forbid(unsafe_code)]

mod faults;
mod http;
mod objects;
mod security;
mod serve;
mod store;

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use serde_json::Value;

pub use faults::Faults;
pub use security::{Authority, Identity};
pub use store::Backup;
use store::Shared;

/// How a server answers a request for a streamed list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Streams {
    /// With the objects and the bookmark that closes the list.
    #[default]
    Yes,
    /// With 422, as with the feature switched off.
    Refused,
    /// Not at all: as a plain watch, in servers that have never heard of it.
    Unknown,
}

/// A server on a port of its own, gone when dropped.
#[derive(Debug)]
pub struct ApiServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    accepting: Option<JoinHandle<()>>,
}

/// What it has been asked for.
#[derive(Debug, Default)]
pub struct Counts {
    /// Pages of lists.
    pub pages: AtomicU64,
    /// Watches, those with a streamed list apart.
    pub watches: AtomicU64,
    /// Watches that began with a streamed list.
    pub streamed: AtomicU64,
    /// Faults committed.
    pub faults: AtomicU64,
}

impl ApiServer {
    /// Starts on any free port of 127.0.0.1.
    pub fn start() -> io::Result<ApiServer> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let accepting = std::thread::Builder::new().name("apiserver".into()).spawn(move || {
            for stream in listener.incoming() {
                if theirs.stopped.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                if theirs.is_down() {
                    continue;
                }
                let shared = Arc::clone(&theirs);
                let spawned = std::thread::Builder::new()
                    .name("apiserver".into())
                    .spawn(move || serve::connection(&shared, stream));
                drop(spawned);
            }
        })?;
        Ok(ApiServer { shared, address, accepting: Some(accepting) })
    }

    /// A kubeconfig that leads here.
    pub fn kubeconfig(&self) -> String {
        format!(
            "apiVersion: v1\nkind: Config\nclusters: [{{name: c, cluster: {{server: 'http://{}'}}}}]\n\
             users: [{{name: u, user: {{}}}}]\ncontexts: [{{name: x, context: {{cluster: c, user: u}}}}]\ncurrent-context: x\n",
            self.address
        )
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From the next connection on with TLS, by a new certificate of this authority for these names and addresses. Requests are
    /// let in with a client certificate of that authority, or with a token.
    pub fn secure(&self, authority: &Authority, hosts: &[&str]) -> io::Result<()> {
        self.shared.door.secure(authority, hosts)
    }

    /// Lets in requests with one of these bearer tokens, and with no other.
    pub fn set_tokens(&self, tokens: &[&str]) {
        self.shared.door.set_tokens(tokens);
    }

    /// Requests that were answered with 401.
    pub fn turned_away(&self) -> u64 {
        self.shared.door.turned_away()
    }

    /// Creates or replaces an object, which gets the next resource version. Answers that.
    pub fn apply(&self, object: Value) -> u64 {
        self.shared.change(|store| store.apply(object))
    }

    /// Deletes an object. Of one that is not there: nothing.
    pub fn delete(&self, kind: &str, namespace: &str, name: &str) {
        self.shared.change(|store| store.delete(kind, namespace, name));
    }

    /// Objects of a kind, as they are now.
    pub fn objects(&self, kind: &str) -> Vec<Value> {
        self.shared.change(|store| store.objects(kind))
    }

    /// The resource version of the last change.
    pub fn version(&self) -> u64 {
        self.shared.change(|store| store.version())
    }

    /// Forgets all changes so far: watches that would begin with one of them get 410.
    pub fn compact(&self) {
        self.shared.change(|store| store.compact());
    }

    /// Everything there is, to be restored later.
    pub fn back_up(&self) -> Backup {
        self.shared.lock().back_up()
    }

    /// Everything as it was then, resource versions too, as with etcd's snapshots.
    pub fn restore(&self, backup: &Backup) {
        self.shared.change(|store| store.restore(backup));
    }

    /// Commits these faults from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.shared.change(|store| store.faults = faults);
    }

    /// How streamed lists are answered.
    pub fn set_streams(&self, streams: Streams) {
        self.shared.change(|store| store.streams = streams);
    }

    /// A bookmark is sent on a watch after so long without a change.
    pub fn set_bookmarks(&self, every: Duration) {
        self.shared.change(|store| store.bookmarks = every);
    }

    /// Ends all connections, and takes no new ones until it is up again.
    pub fn set_up(&self, up: bool) {
        self.shared.down.store(!up, Ordering::Relaxed);
        self.shared.changed.notify_all();
    }

    /// Answers every request about a kind, or about what begins with a path (`/apis/GROUP/VERSION/`), with this status, 404 or 503 as the case may be, until `None` lets it in again.
    pub fn set_answer(&self, kind: &str, code: Option<u16>) {
        self.shared.change(|store| match code {
            Some(code) => _ = store.answers.insert(kind.to_owned(), code),
            None => _ = store.answers.remove(kind),
        });
    }

    /// Ends all watches, as a server that is restarted.
    pub fn end_watches(&self) {
        self.shared.epoch.fetch_add(1, Ordering::Relaxed);
        self.shared.changed.notify_all();
    }

    /// When the latest change was put on a watch's wire.
    pub fn sent(&self) -> Option<Instant> {
        *self.shared.sent()
    }

    /// What has been asked for so far.
    pub fn counts(&self) -> &Counts {
        &self.shared.counts
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        self.shared.changed.notify_all();
        // Wakes the accepting thread.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.accepting.take() {
            let _ = thread.join();
        }
    }
}

/// Something that only says yes or no.
type Flag = AtomicBool;
