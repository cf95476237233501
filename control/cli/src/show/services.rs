//! Frontends: the addresses that services answer on, and the backends that each picks from.

use std::net::IpAddr;

use millrace_tables::{SetChoice, Snapshot, WhenEmpty};
use millrace_wire::Protocol;
use serde_json::{Value, json};

use super::{Part, View, endpoint};
use crate::live::Engine;

/// One frontend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// `namespace/name:port`.
    pub service: String,
    /// `ClusterIP`, `NodePort`, …
    pub kind: &'static str,
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: &'static str,
    /// Endpoints that it picks from, sorted: those of its own traffic policy.
    pub backends: Vec<String>,
    /// Its traffic policy: `Cluster` or `Local`.
    pub traffic_policy: &'static str,
    /// What happens while it has no backends: `reject` or `drop`.
    pub when_empty: &'static str,
    /// Seconds for which a client keeps its backend; 0: no affinity.
    pub affinity_seconds: u32,
}

/// All frontends, by service, address, port and protocol.
pub fn rows(snapshot: Snapshot<'_>) -> Vec<Row> {
    let row = |row: millrace_tables::FrontendRow| {
        let service = snapshot.service(row.frontend.service)?;
        let set = service.set(row.frontend.set);
        let mut backends: Vec<_> =
            snapshot.backends(set).map(|backend| (backend.addr, backend.port)).collect();
        backends.sort_unstable();
        Some(Row {
            service: snapshot.service_name(service.id),
            kind: row.frontend.kind.name(),
            address: row.addr.to_ip(),
            port: row.port,
            protocol: Protocol(row.protocol).name().unwrap_or("unknown"),
            backends: backends.into_iter().map(|(addr, port)| endpoint(addr, port)).collect(),
            traffic_policy: match row.frontend.set {
                SetChoice::Cluster => "Cluster",
                SetChoice::Local => "Local",
            },
            when_empty: match set.when_empty {
                WhenEmpty::Reject => "reject",
                WhenEmpty::Drop => "drop",
            },
            affinity_seconds: service.affinity_seconds,
        })
    };
    let mut rows: Vec<Row> = snapshot.frontends().filter_map(row).collect();
    rows.sort_by(|a, b| {
        let key = |row: &Row| (row.address, row.port, row.protocol);
        a.service.cmp(&b.service).then_with(|| key(a).cmp(&key(b)))
    });
    rows
}

pub(super) fn view(engine: &Engine) -> View {
    let rows = rows(engine.tables.snapshot());
    let cells = |row: &Row| {
        let address = std::net::SocketAddr::new(row.address, row.port);
        let backends = match row.backends.as_slice() {
            [] => format!("none: {}", row.when_empty),
            some => some.join("\n"),
        };
        let affinity = match row.affinity_seconds {
            0 => super::NONE.to_owned(),
            seconds => format!("{seconds}s"),
        };
        let address = format!("{address}/{}", row.protocol);
        vec![
            row.service.clone(),
            row.kind.into(),
            address,
            row.traffic_policy.into(),
            affinity,
            backends,
        ]
    };
    let headers = &["SERVICE", "TYPE", "ADDRESS", "POLICY", "AFFINITY", "BACKENDS"];
    let table = Part::Grid { headers, rows: rows.iter().map(cells).collect(), prose: false };
    View { parts: vec![table], json: rows.iter().map(json_of).collect() }
}

fn json_of(row: &Row) -> Value {
    json!({
        "service": row.service, "type": row.kind, "address": row.address, "port": row.port,
        "protocol": row.protocol, "backends": row.backends, "traffic_policy": row.traffic_policy,
        "when_empty": row.when_empty, "affinity_seconds": row.affinity_seconds,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::show::fixture::Fixture;

    #[test]
    fn a_frontend_shows_the_backends_of_its_own_policy_sorted() {
        let fixture = Fixture::new();
        let rows = rows(fixture.engine.tables.snapshot());
        let short: Vec<_> = rows
            .iter()
            .map(|row| {
                (
                    row.service.as_str(),
                    row.kind,
                    row.address.to_string(),
                    row.port,
                    row.protocol,
                    row.backends.join(" "),
                )
            })
            .collect();
        assert_eq!(
            short,
            [
                ("default/empty:dns", "ClusterIP", "172.30.0.10".into(), 53, "UDP", String::new()),
                (
                    "default/six:",
                    "ClusterIP",
                    "fd00:30::41".into(),
                    80,
                    "SCTP",
                    "[fd00::1]:80".into()
                ),
                (
                    "default/web:http",
                    "ClusterIP",
                    "172.30.0.41".into(),
                    80,
                    "TCP",
                    "10.0.1.7:8080 10.0.1.20:8080 10.0.2.9:8080".into()
                ),
                (
                    "default/web:http",
                    "NodePort",
                    "192.168.0.2".into(),
                    30080,
                    "TCP",
                    "10.0.1.7:8080".into()
                ),
            ]
        );
    }

    #[test]
    fn people_and_programs_see_the_same_frontends() {
        let view = view(&Fixture::new().engine);
        let text = view.text();
        let lines: Vec<Vec<&str>> =
            text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0], ["SERVICE", "TYPE", "ADDRESS", "POLICY", "AFFINITY", "BACKENDS"]);
        assert_eq!(
            lines[1],
            [
                "default/empty:dns",
                "ClusterIP",
                "172.30.0.10:53/UDP",
                "Cluster",
                "-",
                "none:",
                "drop"
            ]
        );
        assert_eq!(
            lines[2],
            ["default/six:", "ClusterIP", "[fd00:30::41]:80/SCTP", "Cluster", "-", "[fd00::1]:80"]
        );
        assert_eq!(
            lines[3][..5],
            ["default/web:http", "ClusterIP", "172.30.0.41:80/TCP", "Cluster", "10800s"]
        );
        assert_eq!(lines[4..6], [["10.0.1.20:8080"], ["10.0.2.9:8080"]]);
        assert_eq!(
            lines[6],
            [
                "default/web:http",
                "NodePort",
                "192.168.0.2:30080/TCP",
                "Local",
                "10800s",
                "10.0.1.7:8080"
            ]
        );
        assert!(text.lines().all(|line| line.len() <= 100), "{text}");
        assert_eq!(
            view.json[0],
            json!({"service": "default/empty:dns", "type": "ClusterIP", "address": "172.30.0.10", "port": 53,
                "protocol": "UDP", "backends": [], "traffic_policy": "Cluster", "when_empty": "drop", "affinity_seconds": 0})
        );
        assert_eq!(view.json.as_array().map(Vec::len), Some(4));
    }
}
