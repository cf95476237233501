//! Questions → answers, without sockets. Forms are kube-proxy's (`pkg/proxy/healthcheck`), for load balancers and probes that know them.

use std::{
    fmt,
    net::IpAddr,
    time::{Duration, SystemTime},
};

use http_body_util::Full;
use hyper::{Method, Response, StatusCode, body::Bytes, header};
use k8s_openapi::jiff::Timestamp;
use serde_json::json;

use super::{Board, Status, metrics};

/// A main thread that wasn't seen for so long hangs; it turns once a second at least.
const HANGS: Duration = Duration::from_secs(10);
/// Workers that are behind and have taken up nothing newer for so long are not well.
const STALE: Duration = Duration::from_secs(10);

/// Who may be asking, by where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surface {
    /// The socket.
    Control,
    /// `/metrics`.
    Metrics,
    /// `/healthz`, `/livez`.
    Health,
    /// This healthCheckNodePort.
    Service(u16),
}

impl fmt::Display for Surface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Surface::Control => f.write_str("control"),
            Surface::Metrics => f.write_str("metrics"),
            Surface::Health => f.write_str("healthz"),
            Surface::Service(_) => f.write_str("healthCheckNodePort"),
        }
    }
}

impl Status {
    /// Whether the process does its work. Whoever kills it when not must not kill it for what others do: no engine, no API server, a node
    /// that is leaving.
    pub fn is_alive(&self) -> bool {
        self.beat.elapsed() < HANGS
    }

    /// Whether packets are handled as the objects say, as far as is known.
    pub fn is_healthy(&self) -> bool {
        let settled = self.behind_since.is_none_or(|since| since.elapsed() < STALE);
        self.is_alive() && self.complete && self.connected && settled
    }
}

/// Answers a request. `own` is the address that was asked.
pub fn answer(
    board: &Board,
    surface: Surface,
    own: Option<IpAddr>,
    method: &Method,
    path: &str,
) -> Response<Full<Bytes>> {
    if ![Method::GET, Method::HEAD].contains(method) {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are answered\n");
    }
    match (surface, path) {
        (Surface::Service(port), _) => service(&board.status(), port, own),
        (Surface::Control | Surface::Health, "/healthz") => health(&board.status(), true),
        (Surface::Control | Surface::Health, "/livez") => health(&board.status(), false),
        (Surface::Control | Surface::Metrics, "/metrics") => {
            let text = metrics::text(&board.status(), &board.receipts(), board.health.as_deref());
            let mut answer = plain(StatusCode::OK, &text);
            typed(&mut answer, "text/plain; version=0.0.4; charset=utf-8");
            answer
        }
        (Surface::Control, "/receipts") => {
            let text = board.receipts().json().to_string();
            json_answer(StatusCode::OK, text)
        }
        _ => plain(StatusCode::NOT_FOUND, "not found\n"),
    }
}

/// `/healthz` tells whether new connections should come to this node, `/livez` whether a new process would do better (KEP-3836). kube-proxy's
/// are apart by the node alone; here packets are another process's business, which a restart of this one does not mend.
fn health(status: &Status, readiness: bool) -> Response<Full<Bytes>> {
    let healthy = if readiness { status.is_healthy() } else { status.is_alive() };
    let text = |time: SystemTime| Timestamp::try_from(time).unwrap_or_default().to_string();
    let mut body = json!({
        "lastUpdated": text(status.updated), "currentTime": text(SystemTime::now()), "healthy": healthy,
    });
    if readiness {
        body["nodeEligible"] = status.node_eligible.into();
    }
    let good = healthy && (status.node_eligible || !readiness);
    json_answer(code(good), body.to_string())
}

/// `hcHandler.ServeHTTP`: endpoints that are ready on this node, and whether traffic gets to them.
fn service(status: &Status, port: u16, own: Option<IpAddr>) -> Response<Full<Bytes>> {
    let asked_elsewhere =
        |own: &IpAddr| !status.addresses.is_empty() && !status.addresses.contains(own);
    if own.as_ref().is_some_and(asked_elsewhere) {
        return plain(StatusCode::NOT_FOUND, "node ports don't answer on this address\n");
    }
    let Some(service) = status.services.get(&port) else {
        return plain(
            StatusCode::NOT_FOUND,
            "no Service has this health check node port any more\n",
        );
    };
    let (v4, v6) = service.local;
    let count = match own {
        Some(IpAddr::V4(_)) if v4 > 0 => v4,
        Some(IpAddr::V6(_)) if v6 > 0 => v6,
        _ => v4.max(v6),
    };
    let healthy = status.is_healthy();
    let (namespace, name) = (&service.namespace, &service.name);
    let body = format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": {namespace:?},\n\t\t\"name\": {name:?}\n\t}},\n\t\"localEndpoints\": {count},\n\t\"serviceProxyHealthy\": {healthy}\n}}"
    );
    let mut answer = json_answer(code(count > 0 && healthy), body);
    answer.headers_mut().insert("x-load-balancing-endpoint-weight", count.into());
    answer
}

fn code(good: bool) -> StatusCode {
    if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

fn plain(code: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::from(text.to_owned()));
    *answer.status_mut() = code;
    typed(&mut answer, "text/plain; charset=utf-8");
    answer
}

fn json_answer(code: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut answer = plain(code, &text);
    typed(&mut answer, "application/json");
    let nosniff = header::HeaderValue::from_static("nosniff");
    answer.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    answer
}

fn typed(answer: &mut Response<Full<Bytes>>, of: &'static str) {
    let of = header::HeaderValue::from_static(of);
    answer.headers_mut().insert(header::CONTENT_TYPE, of);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::ServiceHealth;
    use http_body_util::BodyExt;
    use std::{sync::Arc, time::Instant};

    fn board(change: impl FnOnce(&mut Status)) -> Arc<Board> {
        let board = Board::new(None);
        board.write(|status| {
            (status.complete, status.connected) = (true, true);
            change(status);
        });
        board
    }

    fn ask(
        board: &Board,
        surface: Surface,
        own: Option<&str>,
        path: &str,
    ) -> (u16, String, String) {
        let own = own.map(|own| own.parse().unwrap());
        let answer = answer(board, surface, own, &Method::GET, path);
        let weight = answer.headers().get("x-load-balancing-endpoint-weight");
        let weight = weight.map(|weight| weight.to_str().unwrap().to_owned()).unwrap_or_default();
        let code = answer.status().as_u16();
        let body = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let body = body.block_on(answer.into_body().collect()).unwrap().to_bytes();
        (code, weight, String::from_utf8(body.to_vec()).unwrap())
    }

    fn service(local: (usize, usize)) -> impl FnOnce(&mut Status) {
        move |status| {
            let health = ServiceHealth { namespace: "shop".into(), name: "web".into(), local };
            status.services.insert(30999, health);
        }
    }

    #[test]
    fn a_health_check_node_port_says_what_kube_proxys_would() {
        let board = board(service((2, 0)));
        let (code, weight, body) = ask(&board, Surface::Service(30999), None, "/anything");
        assert_eq!((code, weight.as_str()), (200, "2"));
        let expected = "{\n\t\"service\": {\n\t\t\"namespace\": \"shop\",\n\t\t\"name\": \"web\"\n\t},\n\t\"localEndpoints\": 2,\n\t\"serviceProxyHealthy\": true\n}";
        assert_eq!(body, expected);
        // None here, or nobody who would bring packets to them.
        board.write(service((0, 0)));
        let (code, weight, _) = ask(&board, Surface::Service(30999), None, "/");
        assert_eq!((code, weight.as_str()), (503, "0"));
        board.write(service((2, 0)));
        board.write(|status| status.connected = false);
        let (code, weight, body) = ask(&board, Surface::Service(30999), None, "/");
        assert_eq!((code, weight.as_str()), (503, "2"));
        assert!(body.contains("\"serviceProxyHealthy\": false"), "{body}");
        assert_eq!(ask(&board, Surface::Service(1), None, "/").0, 404);
    }

    #[test]
    fn it_counts_the_family_that_is_asked_and_keeps_to_node_port_addresses() {
        let board = board(service((3, 2)));
        let weight = |own| ask(&board, Surface::Service(30999), Some(own), "/").1;
        assert_eq!((weight("192.0.2.1"), weight("2001:db8::1")), ("3".into(), "2".into()));
        board.write(|status| status.addresses = vec!["192.0.2.1".parse().unwrap()]);
        assert_eq!(ask(&board, Surface::Service(30999), Some("192.0.2.1"), "/").0, 200);
        assert_eq!(ask(&board, Surface::Service(30999), Some("192.0.2.2"), "/").0, 404);
    }

    #[test]
    fn a_node_that_is_leaving_is_alive_and_not_ready() {
        let board = board(|status| status.node_eligible = false);
        let (code, _, body) = ask(&board, Surface::Health, None, "/healthz");
        assert_eq!(code, 503);
        assert!(
            body.contains("\"nodeEligible\":false") && body.contains("\"healthy\":true"),
            "{body}"
        );
        assert_eq!(ask(&board, Surface::Health, None, "/livez").0, 200);
    }

    #[test]
    fn what_does_not_work_is_not_healthy() {
        type Change = fn(&mut Status);
        let long_ago = |seconds| Instant::now().checked_sub(Duration::from_secs(seconds)).unwrap();
        assert!(long_ago(1).elapsed() >= Duration::from_secs(1));
        let changes: [Change; 4] = [
            |status| status.complete = false,
            |status| status.connected = false,
            |status| status.beat = Instant::now().checked_sub(Duration::from_secs(11)).unwrap(),
            |status| {
                let then = Instant::now().checked_sub(Duration::from_secs(11)).unwrap();
                status.note_generations((7, then), 6, then);
            },
        ];
        for change in changes {
            let board = board(change);
            assert_eq!(ask(&board, Surface::Health, None, "/healthz").0, 503);
            let hangs = board.status().beat.elapsed() > HANGS;
            let (code, _, body) = ask(&board, Surface::Health, None, "/livez");
            assert_eq!(code, if hangs { 503 } else { 200 }, "a restart mends what hangs, no more");
            assert!(body.contains(&format!("\"healthy\":{}", !hangs)), "{body}");
        }
        let now = Instant::now();
        let board = board(|status| status.note_generations((7, now), 6, now));
        assert_eq!(ask(&board, Surface::Health, None, "/healthz").0, 200, "on its way");
    }

    #[test]
    fn workers_that_hang_are_seen_however_much_is_published_and_those_that_follow_are_well() {
        let ago = |seconds| Instant::now().checked_sub(Duration::from_secs(seconds)).unwrap();
        let mut status = Status { complete: true, connected: true, ..Status::default() };
        // A generation a second, which nobody takes up.
        for second in 0..12 {
            let then = ago(11 - second);
            status.note_generations((7 + second, then), 6, then);
        }
        assert!(!status.is_healthy());
        status.note_generations((18, ago(0)), 18, ago(0));
        assert!(status.is_healthy() && status.behind_since.is_none());
        // One a second, which is taken up when the next one is there.
        for second in 0..20 {
            let then = ago(19 - second);
            status.note_generations((20 + second, then), 19 + second, then);
        }
        assert!(status.is_healthy());
    }

    #[test]
    fn each_place_answers_its_own_questions_only() {
        let board = board(|_| {});
        for (surface, path, code) in [
            (Surface::Health, "/metrics", 404),
            (Surface::Health, "/receipts", 404),
            (Surface::Metrics, "/metrics", 200),
            (Surface::Metrics, "/receipts", 404),
            (Surface::Control, "/receipts", 200),
            (Surface::Control, "/metrics", 200),
            (Surface::Control, "/", 404),
        ] {
            assert_eq!(ask(&board, surface, None, path).0, code, "{surface:?} {path}");
        }
        let post = answer(&board, Surface::Control, None, &Method::POST, "/receipts");
        assert_eq!(post.status().as_u16(), 405);
    }
}
