//! Requests to the API server, and what their failures mean.
//!
//! `kube` brings the connection, TLS and all ways of being let in; lists and watches are read here as bytes, so that a malformed
//! object spoils only itself.

use std::time::Duration;

use ::kube::{Client, client::Body};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use serde::Deserialize;
use serde_json::{Value, value::RawValue};
use tokio::time::timeout;

use super::{Options, Resource, backoff::jittered, entrance::Doubt};

/// For an answer to begin, and for a page to be complete.
const ANSWER: Duration = Duration::from_secs(30);
const PAGE: Duration = Duration::from_secs(60);
/// After so long the API server ends a watch by itself; it is then taken up where it ended.
const WATCH: Duration = Duration::from_secs(600);
/// A page of the largest objects that an API server stores.
const LARGEST_PAGE: usize = 512 << 20;

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// What was asked for is too old (410), or newer than the server: a list is needed.
    Gone(String),
    /// The server doesn't know how to do that.
    Unsupported(String),
    /// The server doesn't have the kind (404).
    Absent(String),
    /// It doesn't let us see it (403): for want of a role, or because it has only just begun and knows no roles yet.
    Forbidden(String),
    /// Anything else. Some servers say when to try again.
    Failed(String, Option<Duration>),
}

impl Fault {
    pub(super) fn failed(why: impl ToString) -> Fault {
        Fault::Failed(why.to_string(), None)
    }

    /// In words.
    pub(super) fn why(&self) -> &str {
        match self {
            Fault::Gone(why) | Fault::Unsupported(why) | Fault::Absent(why) => why,
            Fault::Forbidden(why) | Fault::Failed(why, _) => why,
        }
    }
}

/// A connection.
#[derive(Clone)]
pub(super) struct Api {
    client: Client,
    server: String,
    doubt: Doubt,
}

/// A page of a list: what is said about it, and each object as text.
#[derive(Deserialize)]
struct Page<'a> {
    #[serde(default)]
    metadata: PageMetadata,
    #[serde(borrow, default)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PageMetadata {
    resource_version: Option<String>,
    #[serde(rename = "continue")]
    next: Option<String>,
}

/// What [`Api::page`] brings besides objects.
pub(super) struct PageEnd {
    pub(super) version: String,
    /// Empty after the last page.
    pub(super) next: String,
}

impl Api {
    pub(super) fn new(client: Client, server: String) -> Api {
        Api { client, server, doubt: Doubt::default() }
    }

    /// Whether the server could not be reached this way, or has turned us away.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.doubt.is_raised()
    }

    /// One page of a list. `each` gets every object's text.
    pub(super) async fn page(
        &self,
        resource: &Resource,
        options: &Options,
        next: &str,
        mut each: impl FnMut(&str),
    ) -> Result<PageEnd, Fault> {
        let mut query = Query::of(resource);
        query.add("limit", &options.page.to_string());
        if !next.is_empty() {
            query.add("continue", next);
        }
        let answer = self.ask(Method::GET, &query.0, Vec::new()).await?;
        let body =
            timeout(PAGE, http_body_util::Limited::new(answer.into_body(), LARGEST_PAGE).collect())
                .await
                .map_err(|_| {
                    Fault::failed(format!(
                        "{}: a page takes over {} s",
                        self.server,
                        PAGE.as_secs()
                    ))
                })?
                .map_err(|error| Fault::failed(format!("{}: {error}", self.server)))?
                .to_bytes();
        let page: Page<'_> = serde_json::from_slice(&body)
            .map_err(|error| Fault::failed(format!("{}{}: {error}", self.server, resource.path)))?;
        page.items.unwrap_or_default().into_iter().for_each(|item| each(item.get()));
        Ok(PageEnd {
            version: page.metadata.resource_version.unwrap_or_default(),
            next: page.metadata.next.unwrap_or_default(),
        })
    }

    /// Whether a watch may go on after `version`: not when the server has not got so far. One that was restored from a backup takes such
    /// a watch, and says nothing on it until its versions have passed that one. Servers that don't know the question are taken at their word.
    pub(super) async fn has_reached(
        &self,
        resource: &Resource,
        version: &str,
    ) -> Result<(), Fault> {
        let mut query = Query::of(resource);
        query.add("limit", "1");
        query.add("resourceVersion", version);
        query.add("resourceVersionMatch", "NotOlderThan");
        match self.ask(Method::GET, &query.0, Vec::new()).await {
            Ok(_) | Err(Fault::Unsupported(_)) => Ok(()),
            Err(fault) => Err(fault),
        }
    }

    /// Begins a watch after `version`; with `None` it begins with everything there is, and a bookmark that says so.
    pub(super) async fn watch(
        &self,
        resource: &Resource,
        version: Option<&str>,
    ) -> Result<Body, Fault> {
        let mut query = Query::of(resource);
        query.add("watch", "true");
        query.add("allowWatchBookmarks", "true");
        query.add("timeoutSeconds", &jittered(WATCH).as_secs().to_string());
        match version {
            Some(version) => query.add("resourceVersion", version),
            None => {
                query.add("sendInitialEvents", "true");
                query.add("resourceVersionMatch", "NotOlderThan");
            }
        }
        Ok(self.ask(Method::GET, &query.0, Vec::new()).await?.into_body())
    }

    /// Creates an object. False when there is one of that name.
    pub(super) async fn create(&self, path: &str, object: &Value) -> Result<bool, Fault> {
        let body = object.to_string().into_bytes();
        match self.send(Method::POST, path, body).await? {
            answer if answer.status() == StatusCode::CONFLICT => Ok(false),
            answer => self.check(answer).await.map(|_| true),
        }
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<Response<Body>, Fault> {
        let answer = self.send(method, path, body).await?;
        self.check(answer).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<Response<Body>, Fault> {
        let mut request = Request::builder().method(method).uri(path);
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request = request
            .header(header::ACCEPT, "application/json")
            // Streams compressed one member an event are not what decoders expect.
            .header(header::ACCEPT_ENCODING, "identity")
            .header(header::USER_AGENT, concat!("millrace-control/", env!("CARGO_PKG_VERSION")))
            .body(Body::from(body))
            .map_err(|error| Fault::failed(format!("{path}: {error}")))?;
        match timeout(ANSWER, self.client.send(request)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                self.doubt.raise();
                Err(Fault::failed(format!("{}: {}", self.server, chain(&error))))
            }
            Err(_) => {
                self.doubt.raise();
                let seconds = ANSWER.as_secs();
                Err(Fault::failed(format!("{}: no answer in {seconds} s", self.server)))
            }
        }
    }

    async fn check(&self, answer: Response<Body>) -> Result<Response<Body>, Fault> {
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        if status == StatusCode::UNAUTHORIZED {
            self.doubt.raise();
        }
        let again = answer
            .headers()
            .get(header::RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .map(|seconds: u64| Duration::from_secs(seconds.min(600)));
        let body =
            timeout(ANSWER, http_body_util::Limited::new(answer.into_body(), 1 << 20).collect());
        let body =
            body.await.ok().and_then(Result::ok).map(|body| body.to_bytes()).unwrap_or_default();
        let (reason, message) = said(&serde_json::from_slice(&body).unwrap_or_default());
        let message = if message.is_empty() { status.to_string() } else { message };
        Err(fault(status.as_u16(), &reason, format!("{}: {message}", self.server), again))
    }
}

/// What a failed request, or an ERROR in a watch, means.
pub(super) fn fault(code: u16, reason: &str, why: String, again: Option<Duration>) -> Fault {
    match (code, reason) {
        (410, _) | (_, "Expired" | "Gone") => Fault::Gone(why),
        // A server restored from a backup has never heard of the version.
        (504, _) if why.contains("Too large resource version") => Fault::Gone(why),
        (403, _) => Fault::Forbidden(why),
        (404, _) => Fault::Absent(why),
        (400 | 422, _) => Fault::Unsupported(why),
        _ => Fault::Failed(why, again),
    }
}

/// Reason and message of a `Status`.
pub(super) fn said(status: &Value) -> (String, String) {
    let text = |name| status.get(name).and_then(Value::as_str).unwrap_or_default();
    let message: String = text("message").chars().take(500).collect();
    (text("reason").into(), message)
}

/// An error with its causes: what the outermost says is rarely what went wrong.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let why = error.to_string();
        if !text.contains(&why) {
            text = format!("{text}: {why}");
        }
        cause = error.source();
    }
    text
}

struct Query(String);

impl Query {
    fn of(resource: &Resource) -> Query {
        let mut query = Query(format!("{}?", resource.path));
        if !resource.labels.is_empty() {
            query.add("labelSelector", resource.labels);
        }
        query
    }

    fn add(&mut self, name: &str, value: &str) {
        if !self.0.ends_with('?') {
            self.0.push('&');
        }
        self.0 += name;
        self.0.push('=');
        for byte in value.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    self.0.push(byte.into())
                }
                _ => self.0 += &format!("%{byte:02X}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reflect::kube::RESOURCES;

    #[test]
    fn queries_are_encoded() {
        let mut query = Query::of(&RESOURCES[0]);
        query.add("continue", "a&b=c");
        query.add("watch", "true");
        assert_eq!(query.0, "/api/v1/nodes?continue=a%26b%3Dc&watch=true");
        let query = Query::of(&RESOURCES[1]);
        assert!(query.0.starts_with("/api/v1/services?labelSelector=%21service.kubernetes.io%2F"));
    }

    #[test]
    fn faults_are_told_apart() {
        let kind = |code, reason, why: &str| fault(code, reason, why.into(), None);
        assert!(matches!(kind(410, "", ""), Fault::Gone(_)));
        assert!(matches!(kind(500, "Expired", ""), Fault::Gone(_)));
        assert!(matches!(kind(504, "Timeout", "Too large resource version: 9"), Fault::Gone(_)));
        assert!(matches!(kind(422, "Invalid", ""), Fault::Unsupported(_)));
        assert!(matches!(kind(401, "Unauthorized", ""), Fault::Failed(..)));
        assert!(matches!(kind(403, "Forbidden", ""), Fault::Forbidden(_)));
        assert!(matches!(kind(404, "NotFound", ""), Fault::Absent(_)));
    }
}
