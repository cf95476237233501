//! One kind, for as long as the process lives: list, watch, and from the beginning when the watch can't be taken up again.
//!
//! ```text
//!   streamed list (KEP-3157) ──► watch ──► broken: taken up after the last version heard
//!        │ not known here          ▲ │
//!        ▼                         │ └──► 410, versions that went back, or an hour has passed: a new list
//!   list by pages ─────────────────┘
//! ```
//! A list goes out as one batch when it is complete, never in parts: the store then changes at once, by what differs.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use ::kube::client::Body;
use http_body_util::BodyExt;
use serde_json::Value;
use tokio::time::timeout;

use super::{
    Batch, Health, Item, Options, Resource,
    api::{self, Api, Fault},
    backoff::{failures_after, jittered, wait_after},
    entrance::Entrance,
    known::Known,
    lines::Lines,
    report::Reporter,
};
use crate::{
    desired::Row,
    inbox::{Event, Outbox},
    object::{Decoded, Key, Refusal, decode},
};

/// A kind that is not there is asked for so often as what fails is; after that it is waited for.
const SOON: u32 = 5;

/// Runs until nobody takes batches any more.
pub(super) async fn follow(
    resource: Resource,
    options: Options,
    entrance: Arc<Entrance>,
    outbox: Outbox,
    health: Arc<Health>,
    reporter: Option<Reporter>,
) {
    let mut follower = Follower {
        resource,
        options,
        entrance,
        outbox,
        health,
        reporter,
        known: Known::default(),
        version: String::new(),
        due: Instant::now(),
        streams: true,
        opened: None,
        news: false,
        listed: false,
    };
    let (mut failures, mut since): (u32, Option<Instant>) = (0, None);
    let (mut gone, mut turned) = (false, false);
    loop {
        let began = Instant::now();
        (follower.opened, follower.news) = (None, false);
        let welcome = follower.health.is_welcome();
        let fault = match follower.session(&mut since).await {
            Ok(End::Closed) | Err(End::Closed) => return,
            Ok(End::Again) | Err(End::Again) => continue,
            Ok(End::Over) | Err(End::Over) => None,
            Ok(End::Fault(fault)) | Err(End::Fault(fault)) => Some(fault),
        };
        // Before it is said that the server is without it, the other place is looked at.
        turned = matches!(fault, Some(Fault::Absent(_))) && !turned && follower.resource.turn();
        if turned {
            follower.version.clear();
            continue;
        }
        let lived = follower.opened.map(|opened| opened.elapsed());
        failures = failures_after(failures, lived, follower.news, fault.as_ref());
        // A server that is back after an outage knows no versions from before it. That is no further failure, the first time.
        let first_gone = !gone && matches!(fault, Some(Fault::Gone(_)));
        gone = matches!(fault, Some(Fault::Gone(_)));
        let wait = match failures {
            0 => jittered(follower.options.first_wait / 5),
            _ if first_gone => jittered(follower.options.first_wait),
            failures => wait_after(failures, &follower.options),
        };
        match fault {
            None => tokio::time::sleep(wait).await,
            Some(fault) if follower.is_without(&fault, welcome) => {
                if failures <= 1 || !follower.listed {
                    let (kind, why) = (follower.resource.kind, fault.why());
                    tracing::info!("{kind} objects: {why}: going on without");
                }
                // What was listed before stays in force.
                if !follower.listed {
                    if follower.send(true, Vec::new(), Instant::now()).is_err() {
                        return;
                    }
                    follower.listed = true;
                }
                // It may come at any time: with a CustomResourceDefinition, an upgrade or a role. It is asked for soon at first; then
                // that costs the server a request from every node each time.
                let rarely = jittered(follower.options.absent);
                let wait = if failures > SOON { rarely } else { wait };
                follower.wait_or_answer(&fault, wait).await;
            }
            Some(fault @ (Fault::Gone(_) | Fault::Unsupported(_))) => {
                let (kind, why) = (follower.resource.kind, fault.why());
                tracing::info!("{kind} objects: {why}: listing again");
                follower.health.count(kind, |health| &health.faults, 1);
                follower.version.clear();
                tokio::time::sleep(wait).await;
            }
            Some(fault) => {
                let lasted = since.get_or_insert(began).elapsed().as_secs();
                let (kind, why) = (follower.resource.kind, fault.why());
                // Said at once, and then ever more rarely.
                if failures.is_power_of_two() || failures == 0 {
                    tracing::warn!(
                        "{kind} objects: {why}: trying again, what was heard stays in force ({lasted} s so far)"
                    );
                } else {
                    tracing::debug!("{kind} objects: {why} ({lasted} s so far)");
                }
                follower.health.count(kind, |health| &health.faults, 1);
                follower.wait_or_answer(&fault, wait).await;
            }
        }
    }
}

enum End {
    /// Nobody listens any more.
    Closed,
    /// At once, another way.
    Again,
    /// To be taken up again.
    Over,
    Fault(Fault),
}

impl From<Fault> for End {
    fn from(fault: Fault) -> End {
        End::Fault(fault)
    }
}

struct Follower {
    resource: Resource,
    options: Options,
    entrance: Arc<Entrance>,
    outbox: Outbox,
    health: Arc<Health>,
    reporter: Option<Reporter>,
    known: Known,
    /// After which the next watch begins; empty when a list is needed.
    version: String,
    /// When the next list is.
    due: Instant,
    /// The server streams lists, as far as is known.
    streams: bool,
    /// When this session's watch was.
    opened: Option<Instant>,
    /// It said something that was not in its initial list.
    news: bool,
    /// What there is of the kind is known, or that the server has none of it.
    listed: bool,
}

/// What a line said.
enum Word {
    Set(Key, String, Item),
    Gone(Key, String),
    /// A malformed object without identity, or a line that is no JSON.
    Nameless(Refusal),
    Bookmark {
        version: String,
        closes_list: bool,
    },
    Fault(Fault),
    Nothing,
}

/// A list so far, by object: a streamed one may say that an object is gone again.
#[derive(Default)]
struct Gathered {
    items: BTreeMap<Key, (String, Item)>,
    nameless: Vec<Refusal>,
}

impl Follower {
    /// Whether the answer means that there is nothing of the kind to follow, and tables are good without it. A server that has only
    /// just begun forbids everything: before it has let us see anything at all, that says nothing.
    fn is_without(&self, fault: &Fault, welcome: bool) -> bool {
        let meant = match fault {
            Fault::Absent(_) => true,
            Fault::Forbidden(_) => welcome,
            _ => false,
        };
        self.resource.optional && meant
    }

    /// Waits; no longer than until another kind has found that the server answers again, unless the server said when to come back.
    async fn wait_or_answer(&self, fault: &Fault, wait: Duration) {
        if let Fault::Failed(_, Some(again)) = fault {
            tokio::time::sleep(wait.max(*again)).await;
        } else if timeout(wait, self.entrance.until_answered()).await.is_ok() {
            tokio::time::sleep(jittered(self.options.first_wait)).await;
        }
    }

    /// One connection's worth: a list when one is needed, then a watch until it ends.
    async fn session(&mut self, since: &mut Option<Instant>) -> Result<End, End> {
        let api = self.entrance.open().await?;
        if Instant::now() >= self.due {
            self.version.clear();
        }
        let mut gathered = None;
        let body = if !self.version.is_empty() {
            if since.is_some() {
                api.has_reached(&self.resource, &self.version).await?;
            }
            api.watch(&self.resource, Some(&self.version)).await?
        } else if self.streams {
            match api.watch(&self.resource, None).await {
                Ok(body) => {
                    gathered = Some(Gathered::default());
                    body
                }
                Err(Fault::Unsupported(why)) => {
                    tracing::debug!("{} objects: {why}: listing by pages", self.resource.kind);
                    self.streams = false;
                    return Ok(End::Again);
                }
                Err(fault) => return Err(fault.into()),
            }
        } else {
            self.list(&api).await?;
            api.watch(&self.resource, Some(&self.version)).await?
        };
        self.opened = Some(Instant::now());
        self.health.count(self.resource.kind, |health| &health.watches, 1);
        self.health.heard(self.resource.kind);
        if let Some(since) = since.take() {
            self.entrance.answered();
            let lasted = since.elapsed().as_secs();
            tracing::info!(
                "{} objects: the API server answers again, after {lasted} s",
                self.resource.kind
            );
        }
        self.watch(body, gathered).await
    }

    async fn list(&mut self, api: &Api) -> Result<(), End> {
        let mut gathered = Gathered::default();
        let mut next = String::new();
        loop {
            let (resource, reporter) = (self.resource, self.reporter.clone());
            let each = |text: &str| {
                let word = match serde_json::from_str(text) {
                    Ok(value) => heard(&resource, value, reporter.as_ref()),
                    Err(error) => Word::Nameless(nameless(&resource, error.to_string())),
                };
                gathered.take(word);
            };
            let end = api.page(&self.resource, &self.options, &next, each).await?;
            self.health.heard(self.resource.kind);
            if end.next.is_empty() {
                return self.complete(gathered, end.version);
            }
            // A server that sends us round in a circle would fill the memory.
            if end.next == next {
                return Err(Fault::failed("the list's continue token leads to itself").into());
            }
            next = end.next;
        }
    }

    async fn watch(&mut self, mut body: Body, mut gathered: Option<Gathered>) -> Result<End, End> {
        let mut lines = Lines::default();
        loop {
            let silence = match gathered {
                Some(_) => self.options.list_silence,
                None => {
                    self.options.silence.min(self.due.saturating_duration_since(Instant::now()))
                }
            };
            let frame = match timeout(silence, body.frame()).await {
                Ok(Some(Ok(frame))) => frame,
                Ok(None) => return Ok(End::Over),
                Ok(Some(Err(error))) => {
                    return Err(Fault::failed(format!("the watch broke: {error}")).into());
                }
                Err(_) if gathered.is_some() => return Ok(self.list_by_pages()),
                Err(_) => return Ok(End::Over),
            };
            let Some(bytes) = frame.data_ref() else { continue };
            let received = Instant::now();
            self.health.heard(self.resource.kind);
            let (resource, reporter) = (self.resource, self.reporter.clone());
            let mut words = Vec::new();
            let taken =
                lines.take(bytes, |line| words.push(said(&resource, line, reporter.as_ref())));
            let mut items = Vec::new();
            for word in words {
                match (&mut gathered, word) {
                    (_, Word::Fault(fault)) => {
                        self.send(false, std::mem::take(&mut items), received)?;
                        return Err(fault.into());
                    }
                    (Some(_), Word::Bookmark { version, closes_list: true }) => {
                        self.complete(gathered.take().unwrap_or_default(), version)?;
                    }
                    // A list is closed by the first bookmark that comes.
                    (Some(_), Word::Bookmark { .. }) => return Ok(self.list_by_pages()),
                    (Some(gathered), word) => gathered.take(word),
                    (None, word) => {
                        let item = self.item(word);
                        self.news |= matches!(item, Some(Item::Set(_) | Item::Gone(_)));
                        items.extend(item);
                    }
                }
            }
            self.send(false, items, received)?;
            if taken.is_err() {
                return Err(Fault::failed("an object without end").into());
            }
            if gathered.is_none() && Instant::now() >= self.due {
                return Ok(End::Over);
            }
        }
    }

    /// The server takes the words for a plain watch, and would never close the list.
    fn list_by_pages(&mut self) -> End {
        let kind = self.resource.kind;
        tracing::info!("{kind} objects: the API server doesn't stream lists: listing by pages");
        self.streams = false;
        End::Again
    }

    /// What a word of a watch changes.
    fn item(&mut self, word: Word) -> Option<Item> {
        let (news, item, version) = match word {
            Word::Set(key, version, item) => (self.known.set(&key, &version), item, version),
            Word::Gone(key, version) => {
                (self.known.delete(&key, &version), Item::Gone(key), version)
            }
            Word::Nameless(refusal) => return Some(Item::Malformed(None, refusal)),
            Word::Bookmark { version, .. } => {
                if !version.is_empty() {
                    self.version = version;
                }
                return None;
            }
            Word::Fault(_) | Word::Nothing => return None,
        };
        // What was heard last, even when it was late: the server then says again what came between.
        if !version.is_empty() {
            self.version = version;
        }
        if !news {
            self.health.count(self.resource.kind, |health| &health.stale, 1);
        }
        news.then_some(item)
    }

    fn complete(&mut self, gathered: Gathered, version: String) -> Result<(), End> {
        let versions = gathered.items.iter().map(|(key, (version, _))| (key, version.as_str()));
        self.known.listed(&version, versions);
        self.version = version;
        self.due = Instant::now() + jittered(self.options.relist);
        let nameless = gathered.nameless.into_iter().map(|refusal| Item::Malformed(None, refusal));
        let items = gathered.items.into_values().map(|(_, item)| item).chain(nameless).collect();
        self.send(true, items, Instant::now())?;
        self.listed = true;
        let kind = self.resource.kind;
        self.health.count(kind, |health| &health.lists, 1);
        Ok(())
    }

    fn send(&self, whole: bool, items: Vec<Item>, received: Instant) -> Result<(), End> {
        if items.is_empty() && !whole {
            return Ok(());
        }
        let kind = self.resource.kind;
        self.health.count(kind, |health| &health.objects, items.len() as u64);
        let batch = Batch { kind, whole, items, received };
        if self.outbox.send(Event::Objects(batch)) { Ok(()) } else { Err(End::Closed) }
    }
}

impl Gathered {
    fn take(&mut self, word: Word) {
        match word {
            Word::Set(key, version, item) => _ = self.items.insert(key, (version, item)),
            Word::Gone(key, _) => _ = self.items.remove(&key),
            Word::Nameless(refusal) => self.nameless.push(refusal),
            Word::Bookmark { .. } | Word::Fault(_) | Word::Nothing => {}
        }
    }
}

/// A line of a watch.
fn said(resource: &Resource, line: &[u8], reporter: Option<&Reporter>) -> Word {
    if line.iter().all(u8::is_ascii_whitespace) {
        return Word::Nothing;
    }
    let mut value: Value = match serde_json::from_slice(line) {
        Ok(value) => value,
        Err(error) => {
            return Word::Nameless(nameless(resource, format!("a line of the watch: {error}")));
        }
    };
    let object = value.get_mut("object").map(Value::take).unwrap_or_default();
    match value.get("type").and_then(Value::as_str).unwrap_or_default() {
        "ADDED" | "MODIFIED" => heard(resource, object, reporter),
        "DELETED" => {
            let version = text(&object, "/metadata/resourceVersion").to_owned();
            match heard(resource, object, None) {
                Word::Set(key, ..) => Word::Gone(key, version),
                other => other,
            }
        }
        "BOOKMARK" => Word::Bookmark {
            version: text(&object, "/metadata/resourceVersion").into(),
            closes_list: text(&object, "/metadata/annotations/k8s.io~1initial-events-end")
                == "true",
        },
        "ERROR" => {
            let code = object.get("code").and_then(Value::as_u64).unwrap_or_default();
            let (reason, message) = api::said(&object);
            let why = format!("the watch ended: {message}");
            match api::fault(code.try_into().unwrap_or_default(), &reason, why, None) {
                // Of a watch that had begun.
                Fault::Unsupported(why) => Word::Fault(Fault::Failed(why, None)),
                fault => Word::Fault(fault),
            }
        }
        other => Word::Nameless(nameless(resource, format!("a watch event of the type {other:?}"))),
    }
}

/// An object, judged.
fn heard(resource: &Resource, mut value: Value, reporter: Option<&Reporter>) -> Word {
    if let Value::Object(object) = &mut value {
        // Items of a list leave out what the list says.
        object.entry("kind").or_insert_with(|| resource.kind.name().into());
        object.entry("apiVersion").or_insert_with(|| resource.kind.api_version().into());
    }
    let version = text(&value, "/metadata/resourceVersion").to_owned();
    let uid = text(&value, "/metadata/uid").to_owned();
    let Some(decoded) = decode(value).pop() else { return Word::Nothing };
    let (key, item) = match decoded {
        Decoded::Object(key, object) if key.kind == resource.kind => {
            let row = Row::judge(key.clone(), &object);
            (key, Item::Set(row))
        }
        Decoded::Refused(Some(key), refusal) if key.kind == resource.kind => {
            (key.clone(), Item::Malformed(Some(key), refusal))
        }
        Decoded::Refused(_, refusal) => return Word::Nameless(refusal),
        Decoded::Object(key, _) => {
            return Word::Nameless(nameless(resource, format!("{key} among them")));
        }
        Decoded::Ignored { notice } => return Word::Nameless(nameless(resource, notice)),
    };
    if let Some(reporter) = reporter {
        let refusals = match &item {
            Item::Set(row) => row.refusals.iter().cloned().collect(),
            Item::Malformed(_, refusal) => vec![refusal.clone()],
            Item::Gone(_) => Vec::new(),
        };
        reporter.say(&key, &uid, &version, refusals);
    }
    Word::Set(key, version, item)
}

fn nameless(resource: &Resource, why: String) -> Refusal {
    Refusal {
        kind: resource.kind.name().into(),
        namespace: String::new(),
        name: String::new(),
        field: String::new(),
        why,
    }
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}
