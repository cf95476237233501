//! One connection: lists, watches, single objects, with the faults that are asked for.

use std::{
    io::{self, BufReader, BufWriter, Write},
    net::TcpStream,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    Faults, Streams,
    faults::Luck,
    http::{self, Request},
    objects::{self, Target},
    store::{Change, Shared, Stored},
};

/// Bytes of a watch's chunk.
const CHUNK: usize = 64 << 10;

pub(crate) fn connection(shared: &Shared, stream: TcpStream) {
    // Either end may hang up at any time.
    let _ = serve(shared, stream);
}

fn serve(shared: &Shared, stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let stream = shared.door.enter(stream)?;
    let mut from = BufReader::new(stream.try_clone()?);
    let mut to = BufWriter::new(stream.try_clone()?);
    let number = {
        let mut store = shared.lock();
        store.connections += 1;
        store.connections
    };
    let mut luck = Luck(number);
    while let Some(request) = http::request(&mut from)? {
        if shared.is_down() {
            return Ok(());
        }
        if !shared.door.lets_in(&stream, &request.authorization) {
            status(&mut to, 401, "Unauthorized", "Unauthorized")?;
            continue;
        }
        let faults = shared.lock().faults;
        if luck.strikes(faults.failed) {
            shared.counts.faults.fetch_add(1, Ordering::Relaxed);
            match luck.next() % 4 {
                0 => status(&mut to, 500, "InternalError", "etcdserver: leader changed")?,
                1 => status(&mut to, 503, "ServiceUnavailable", "not ready")?,
                2 => status(&mut to, 429, "TooManyRequests", "too many requests")?,
                _ => return Ok(()),
            }
            continue;
        }
        let target = Target::of(&request.path);
        let refused = target.as_ref().and_then(|target| {
            let store = shared.lock();
            let by_path = |(begins, _): &(&String, _)| {
                begins.starts_with('/') && request.path.starts_with(*begins)
            };
            let of_kind = store.answers.get(target.kind);
            of_kind.or_else(|| store.answers.iter().find(by_path).map(|(_, code)| code)).copied()
        });
        if let Some(code) = refused {
            let reason = match code {
                403 => "Forbidden",
                404 => "NotFound",
                _ => "ServiceUnavailable",
            };
            status(&mut to, code, reason, "as the test says")?;
            continue;
        }
        match (request.method.as_str(), &target) {
            ("GET", Some(Target { kind, name: None, .. }))
                if request.query.get("watch").is_some_and(|value| value == "true") =>
            {
                return watch(shared, &mut to, &request, kind, &mut luck);
            }
            ("GET", Some(Target { kind, name: None, namespace })) => {
                list(shared, &mut to, &request, kind, namespace.as_deref())?;
            }
            (_, Some(target)) => objects::answer(shared, &mut to, &request, target)?,
            _ => status(
                &mut to,
                404,
                "NotFound",
                "the server could not find the requested resource",
            )?,
        }
    }
    Ok(())
}

pub(crate) fn api_version(kind: &str) -> &'static str {
    match kind {
        "EndpointSlice" => "discovery.k8s.io/v1",
        "ServiceCIDR" => "networking.k8s.io/v1",
        _ => "v1",
    }
}

pub(crate) fn status(
    to: &mut impl Write,
    code: u16,
    reason: &str,
    message: &str,
) -> io::Result<()> {
    http::answer(to, &format!("{code} {reason}"), &status_object(code, reason, message).to_string())
}

fn status_object(code: u16, reason: &str, message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code})
}

/// Label and field selectors, in the forms that control uses.
struct Selector<'a> {
    labels: Vec<(&'a str, Option<&'a str>, bool)>,
    name: Option<&'a str>,
}

impl<'a> Selector<'a> {
    fn of(request: &'a Request) -> Selector<'a> {
        let labels = request.query.get("labelSelector").map_or("", String::as_str);
        let labels = labels.split(',').filter(|part| !part.is_empty()).map(|part| {
            match (part.strip_prefix('!'), part.split_once('=')) {
                (Some(label), _) => (label, None, false),
                (None, Some((label, value))) => (label, Some(value), true),
                (None, None) => (part, None, true),
            }
        });
        let fields = request.query.get("fieldSelector");
        let name = fields.and_then(|fields| fields.strip_prefix("metadata.name="));
        Selector { labels: labels.collect(), name }
    }

    fn takes(&self, object: &Stored) -> bool {
        let label = |(label, value, wanted): &(&str, Option<&str>, bool)| {
            let there = object.labels.get(*label);
            let matches = there.is_some_and(|there| value.is_none_or(|value| there == value));
            matches == *wanted
        };
        self.name.is_none_or(|name| name == object.name) && self.labels.iter().all(label)
    }
}

fn list(
    shared: &Shared,
    to: &mut impl Write,
    request: &Request,
    kind: &str,
    namespace: Option<&str>,
) -> io::Result<()> {
    shared.counts.pages.fetch_add(1, Ordering::Relaxed);
    let selector = Selector::of(request);
    let number = |name: &str| request.query.get(name).and_then(|text| text.parse::<usize>().ok());
    let limit = number("limit").filter(|limit| *limit > 0).unwrap_or(usize::MAX);
    // A token says which version the list is of and where it goes on; pages of an older one are gone.
    let next = request.query.get("continue").and_then(|token| {
        let (version, at) = token.split_once('@')?;
        Some((version.parse::<u64>().ok()?, at.parse::<usize>().ok()?))
    });
    // A server that was restored from a backup has not got there yet.
    let least = number("resourceVersion").unwrap_or(0) as u64;
    let current = shared.lock().version();
    if least > current {
        let why = format!("Timeout: Too large resource version: {least}, current: {current}");
        return status(to, 504, "Timeout", &why);
    }
    let (objects, version) = {
        let store = shared.lock();
        let here =
            |object: &&Arc<Stored>| namespace.is_none_or(|namespace| namespace == object.namespace);
        let objects = store.of(kind).filter(here).filter(|object| selector.takes(object));
        (objects.cloned().collect::<Vec<_>>(), store.version())
    };
    if next.is_some_and(|(of, _)| of != version) {
        return status(to, 410, "Expired", "The provided continue parameter is too old");
    }
    let from = next.map_or(0, |(_, at)| at);
    let mut items = String::new();
    for object in objects.iter().skip(from).take(limit) {
        if !items.is_empty() {
            items.push(',');
        }
        items += &object.text;
    }
    let end = from.saturating_add(limit);
    let token = if end < objects.len() { format!("{version}@{end}") } else { String::new() };
    let body = format!(
        r#"{{"kind":"{kind}List","apiVersion":"{}","metadata":{{"resourceVersion":"{version}","continue":"{token}"}},"items":[{items}]}}"#,
        api_version(kind)
    );
    http::answer(to, "200 OK", &body)
}

/// A line of a watch.
fn line(word: &str, object: &str) -> String {
    format!("{{\"type\":\"{word}\",\"object\":{object}}}\n")
}

/// What a change means to this watch: objects come and go also by their labels.
fn word(change: &Change, selector: &Selector<'_>) -> Option<(&'static str, Arc<Stored>)> {
    let takes = |object: &Option<Arc<Stored>>| {
        object.as_ref().filter(|object| selector.takes(object)).cloned()
    };
    match (takes(&change.old), takes(&change.new)) {
        (Some(_), Some(new)) => Some(("MODIFIED", new)),
        (None, Some(new)) => Some(("ADDED", new)),
        // It left by its labels: the new version is what is sent; or it was deleted.
        (Some(old), None) => {
            Some(("DELETED", change.gone.clone().or(change.new.clone()).unwrap_or(old)))
        }
        (None, None) => None,
    }
}

fn bookmark(kind: &str, version: u64, closes_list: bool) -> String {
    let annotations =
        if closes_list { r#","annotations":{"k8s.io/initial-events-end":"true"}"# } else { "" };
    let version_of = api_version(kind);
    line(
        "BOOKMARK",
        &format!(
            r#"{{"kind":"{kind}","apiVersion":"{version_of}","metadata":{{"resourceVersion":"{version}"{annotations}}}}}"#
        ),
    )
}

fn gone() -> String {
    line("ERROR", &status_object(410, "Expired", "too old resource version").to_string())
}

fn watch(
    shared: &Shared,
    to: &mut impl Write,
    request: &Request,
    kind: &str,
    luck: &mut Luck,
) -> io::Result<()> {
    shared.counts.watches.fetch_add(1, Ordering::Relaxed);
    let selector = Selector::of(request);
    let epoch = shared.epoch.load(Ordering::Relaxed);
    let seconds =
        request.query.get("timeoutSeconds").and_then(|text| text.parse().ok()).unwrap_or(3600);
    let until = Instant::now() + Duration::from_secs(seconds);
    let streamed = request.query.get("sendInitialEvents").is_some_and(|value| value == "true");
    let asked: u64 =
        request.query.get("resourceVersion").and_then(|text| text.parse().ok()).unwrap_or(0);
    let (initial, mut version, compacted, streams) = {
        let store = shared.lock();
        let all =
            || store.of(kind).filter(|object| selector.takes(object)).cloned().collect::<Vec<_>>();
        let initial = if asked == 0 { all() } else { Vec::new() };
        let version = if asked == 0 { store.version() } else { asked };
        (initial, version, store.compacted(), store.streams)
    };
    if streamed && streams == Streams::Refused {
        let why =
            "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled";
        return status(to, 422, "Invalid", why);
    }
    if version < compacted {
        // Servers do it in both ways.
        if luck.next().is_multiple_of(2) {
            return status(to, 410, "Expired", "too old resource version");
        }
        http::chunked(to)?;
        return http::chunk(to, gone().as_bytes());
    }
    http::chunked(to)?;
    let mut sender = Sender {
        shared,
        to,
        luck,
        bytes: Vec::new(),
        held: None,
        again: Vec::new(),
        lost: 0,
        failed: 0,
    };
    for object in initial {
        sender.bytes.extend_from_slice(line("ADDED", &object.text).as_bytes());
        sender.flush_if_large()?;
    }
    if streamed && streams == Streams::Yes {
        shared.counts.streamed.fetch_add(1, Ordering::Relaxed);
        sender.bytes.extend_from_slice(bookmark(kind, version, true).as_bytes());
    }
    sender.flush()?;
    loop {
        let missed;
        let (changes, faults, now) = {
            let mut store = shared.lock();
            let mut found = store.changes_after(version, kind);
            let pause = store.bookmarks;
            // Another kind's changes wake us too: only their version is news.
            if found.0.is_empty() {
                let waited = shared.changed.wait_timeout(store, pause);
                store = waited
                    .map(|(store, _)| store)
                    .unwrap_or_else(|poisoned| poisoned.into_inner().0);
                found = store.changes_after(version, kind);
            }
            missed = version + 1 < store.compacted();
            (found.0, store.faults, found.1)
        };
        if shared.is_down()
            || shared.epoch.load(Ordering::Relaxed) != epoch
            || Instant::now() >= until
        {
            return sender.end(!shared.is_down());
        }
        if missed {
            sender.bytes.extend_from_slice(gone().as_bytes());
            return sender.end(true);
        }
        let idle = changes.is_empty();
        for change in changes {
            let Some((word, object)) = word(&change, &selector) else { continue };
            let text = line(word, &object.text);
            debug_assert!(object.version > version);
            if !sender.send(text, &faults)? {
                shared.counts.faults.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
        }
        shared.counts.faults.fetch_add(std::mem::take(&mut sender.failed), Ordering::Relaxed);
        let ahead = version > now;
        version = version.max(now);
        if idle {
            sender.release();
            // A watch that begins after a version that is still to come is silent until then.
            if ahead {
                continue;
            }
            // While something is kept back nobody may learn that there is nothing more to come.
            if sender.lost == 0 {
                sender.bytes.extend_from_slice(bookmark(kind, version, false).as_bytes());
            } else {
                sender.bytes.extend_from_slice(gone().as_bytes());
                sender.flush()?;
                return sender.end(true);
            }
        } else if !sender.bytes.is_empty() {
            *shared.sent() = Some(Instant::now());
        }
        sender.flush()?;
    }
}

/// Lines on their way out, and what goes wrong with them.
struct Sender<'a, W: Write> {
    shared: &'a Shared,
    to: &'a mut W,
    luck: &'a mut Luck,
    bytes: Vec<u8>,
    /// Comes after the next one.
    held: Option<String>,
    /// Come once more.
    again: Vec<String>,
    /// Changes since one was kept back.
    lost: u32,
    failed: u64,
}

/// However a watch ends on which something was kept back: taking it up later must not hide that.
impl<W: Write> Drop for Sender<'_, W> {
    fn drop(&mut self) {
        if self.lost > 0 {
            self.shared.change(|store| store.compact());
        }
    }
}

impl<W: Write> Sender<'_, W> {
    /// False when the watch is over.
    fn send(&mut self, text: String, faults: &Faults) -> io::Result<bool> {
        let luck = &mut *self.luck;
        if self.lost > 0 {
            self.lost += 1;
        }
        if luck.strikes(faults.gone) || self.lost > 5 {
            self.bytes.extend_from_slice(gone().as_bytes());
            self.flush()?;
            http::chunk(self.to, b"")?;
            return Ok(false);
        }
        if luck.strikes(faults.cut) {
            let half = text.len() / 2;
            self.bytes.extend_from_slice(text.as_bytes().get(..half).unwrap_or_default());
            self.flush()?;
            return Ok(false);
        }
        if luck.strikes(faults.lost) {
            (self.lost, self.failed) = (self.lost.max(1), self.failed + 1);
            return Ok(true);
        }
        if luck.strikes(faults.silent) {
            self.failed += 1;
            return Ok(true);
        }
        if luck.strikes(faults.garbage) {
            self.failed += 1;
            self.bytes.extend_from_slice(b"{\"type\":\"MODIFIED\",\"object\":\x07\n");
        }
        if luck.strikes(faults.twice) {
            self.failed += 1;
            self.again.push(text.clone());
        }
        if self.held.is_none() && luck.strikes(faults.late) {
            self.failed += 1;
            self.held = Some(text);
            return Ok(true);
        }
        let again = !self.again.is_empty() && luck.next().is_multiple_of(4);
        self.bytes.extend_from_slice(text.as_bytes());
        if let Some(held) = self.held.take() {
            self.bytes.extend_from_slice(held.as_bytes());
        }
        if again {
            self.bytes.extend(self.again.drain(..).flat_map(String::into_bytes));
        }
        self.flush_if_large()?;
        Ok(true)
    }

    fn release(&mut self) {
        let late = self.held.take().into_iter().chain(self.again.drain(..));
        let late: Vec<u8> = late.flat_map(String::into_bytes).collect();
        self.bytes.extend(late);
    }

    fn flush_if_large(&mut self) -> io::Result<()> {
        if self.bytes.len() >= CHUNK { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.bytes.is_empty() {
            http::chunk(self.to, &self.bytes)?;
            self.bytes.clear();
        }
        Ok(())
    }

    fn end(&mut self, properly: bool) -> io::Result<()> {
        self.flush()?;
        if properly { http::chunk(self.to, b"") } else { Ok(()) }
    }
}
