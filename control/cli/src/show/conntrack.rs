//! Tracked flows: as the first packet came, and what was translated.

use std::cmp::Reverse;

use millrace_dataplane::clock;
use millrace_dataplane::state::conntrack::Flow;
use millrace_wire::{Addr, Protocol};
use serde_json::{Value, json};

use super::{NONE, Part, View, endpoint, or_none, seconds};
use crate::live::Engine;

/// Sets of source ports that are listed, the fullest first.
const FULLEST: usize = 10;

/// A flow for programs: `src`, `dst` and `backend` as address:port, `backend` null without DNAT, `snat` null
/// without SNAT, otherwise the source's new address, or address:port if only the port is new.
pub fn row(flow: &Flow) -> Value {
    json!({
        "protocol": protocol(flow.original.protocol),
        "src": endpoint(flow.original.src, flow.original.sport),
        "dst": endpoint(flow.original.dst, flow.original.dport),
        "backend": flow.backend_endpoint().map(|(addr, port)| endpoint(addr, port)),
        "snat": flow.snat().map(|new| snat(flow, new)),
        "state": state(flow),
        "age": seconds(flow.age),
        "expires": seconds(flow.expires),
    })
}

fn protocol(protocol: Protocol) -> String {
    protocol.name().map_or_else(|| protocol.0.to_string(), str::to_owned)
}

fn snat(flow: &Flow, (addr, port): (Addr, u16)) -> String {
    if !flow.masqueraded && addr == flow.original.src {
        endpoint(addr, port)
    } else {
        addr.to_string()
    }
}

/// TCP's state by Linux's name; other protocols know only whether the other end has answered.
fn state(flow: &Flow) -> &'static str {
    match flow.tcp {
        Some(state) => state.name(),
        None if flow.replied => "ESTABLISHED",
        None => "NEW",
    }
}

/// All flows, or with `totals_only` how many there are: a full table takes a while to list.
pub(super) fn view(engine: &Engine, totals_only: bool) -> Result<View, String> {
    let table = engine.state.conntrack().map_err(|e| e.to_string())?;
    let snapshot = engine.tables.snapshot();
    let mut flows: Vec<_> = match totals_only {
        true => Vec::new(),
        false => table.flows(clock::now()).collect(),
    };
    flows.sort_by_key(|flow| {
        let tuple = &flow.original;
        (Reverse(flow.age), tuple.protocol, tuple.src, tuple.sport, tuple.dst, tuple.dport)
    });
    let totals = table.totals();
    let (mut rows, mut values) = (Vec::new(), Vec::new());
    for flow in &flows {
        let mut value = row(flow);
        let service =
            flow.service.map(|id| snapshot.service_name(id)).filter(|name| !name.is_empty());
        value["service"] = json!(service);
        value["snat_port"] = json!(flow.snat().map(|(_, port)| port));
        value["idle"] = json!(seconds(flow.idle));
        values.push(value);
        let changed_port = |(addr, port): (Addr, u16)| {
            if port == flow.original.sport { addr.to_string() } else { endpoint(addr, port) }
        };
        rows.push(vec![
            protocol(flow.original.protocol),
            state(flow).to_owned(),
            endpoint(flow.original.src, flow.original.sport),
            endpoint(flow.original.dst, flow.original.dport),
            flow.backend_endpoint()
                .map_or_else(|| NONE.to_owned(), |(addr, port)| endpoint(addr, port)),
            or_none(flow.snat().map(changed_port)),
            seconds(flow.age),
            seconds(flow.expires),
        ]);
    }
    let headers =
        &["PROTOCOL", "STATE", "SOURCE", "DESTINATION", "BACKEND", "SNAT", "AGE", "EXPIRES"];
    let note = format!(
        "{} of {} entries, {} half-open; {} created, {} expired and {} refused for want of room since the start",
        totals.live,
        table.capacity(),
        totals.half_open,
        totals.created,
        totals.expired,
        totals.full,
    );
    let sets: Vec<Value> = table
        .fullest_snat(FULLEST)
        .into_iter()
        .map(|(set, ports)| {
            json!({
                "source": set.source.to_string(), "backend": endpoint(set.backend, set.port),
                "protocol": protocol(Protocol(set.protocol)), "ports": ports,
            })
        })
        .collect();
    let mut json = json!({
        "totals": {
            "capacity": table.capacity(), "live": totals.live, "half_open": totals.half_open,
            "created": totals.created, "expired": totals.expired, "full": totals.full, "raced": totals.raced,
        },
    });
    if totals_only {
        return Ok(View { parts: vec![Part::Note(note)], json });
    }
    json["conntrack"] = values.into();
    json["snat"] = sets.into();
    let table = Part::Grid { headers, rows, prose: false };
    Ok(View { parts: vec![table, Part::Note(note)], json })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::show::fixture::{Fixture, addr};
    use millrace_dataplane::clock::SECOND;
    use millrace_dataplane::flow::Tuple;
    use millrace_dataplane::state::conntrack::{NewFlow, TcpState};
    use millrace_wire::tcp::Flags;

    fn tuple(protocol: Protocol, src: (&str, u16), dst: (&str, u16)) -> Tuple {
        Tuple { src: addr(src.0), dst: addr(dst.0), sport: src.1, dport: dst.1, protocol }
    }

    fn flow(original: Tuple, reply: Tuple) -> Flow {
        Flow {
            original,
            reply,
            service: None,
            masqueraded: false,
            tcp: None,
            replied: false,
            age: 90 * SECOND,
            idle: 0,
            expires: 30 * SECOND,
        }
    }

    #[test]
    fn a_balanced_flow_shows_where_it_was_sent() {
        let original = tuple(Protocol::UDP, ("203.0.113.2", 40000), ("172.30.0.41", 80));
        let reply = tuple(Protocol::UDP, ("10.0.1.7", 8080), ("203.0.113.2", 40000));
        let expected = json!({"protocol": "UDP", "src": "203.0.113.2:40000", "dst": "172.30.0.41:80",
            "backend": "10.0.1.7:8080", "snat": null, "state": "NEW", "age": "1m30s", "expires": "30s"});
        assert_eq!(row(&flow(original, reply)), expected);
    }

    #[test]
    fn a_flow_that_only_passes_has_neither_backend_nor_snat() {
        let original = tuple(Protocol::SCTP, ("fd00::2", 9), ("fd00::3", 10));
        let mut plain = flow(original, original.reversed());
        plain.replied = true;
        let shown = row(&plain);
        assert_eq!((&shown["backend"], &shown["snat"]), (&Value::Null, &Value::Null));
        assert_eq!(
            (&shown["src"], &shown["state"]),
            (&json!("[fd00::2]:9"), &json!("ESTABLISHED"))
        );
        plain.original.protocol = Protocol(253);
        assert_eq!(row(&plain)["protocol"], "253");
    }

    #[test]
    fn snat_is_the_address_unless_the_port_alone_is_new() {
        let original = tuple(Protocol::TCP, ("10.0.1.5", 40000), ("172.30.0.41", 80));
        let snat = |addr, port| {
            let mut flow = flow(original, tuple(Protocol::TCP, ("10.0.2.9", 8080), (addr, port)));
            flow.tcp = Some(TcpState::SynSent);
            row(&flow)["snat"].clone()
        };
        assert_eq!(snat("10.0.1.5", 40000), json!(null));
        assert_eq!(snat("192.168.0.2", 40000), json!("192.168.0.2"));
        assert_eq!(snat("192.168.0.2", 50000), json!("192.168.0.2"));
        assert_eq!(snat("10.0.1.5", 50000), json!("10.0.1.5:50000"));
    }

    #[test]
    fn the_table_of_an_engine_is_listed_oldest_first_with_its_totals() {
        let fixture = Fixture::new();
        let mut conntrack = fixture.segment.conntrack(0, &fixture.settings).unwrap();
        let now = clock::now();
        let web = fixture
            .engine
            .tables
            .snapshot()
            .services()
            .find(|service| service.affinity_seconds > 0)
            .unwrap();
        let mut create = |sport, age: u64, flags| {
            let original = tuple(Protocol::TCP, ("203.0.113.2", sport), ("172.30.0.41", 80));
            let reply = tuple(Protocol::TCP, ("10.0.2.9", 8080), ("192.168.0.2", sport + 1));
            let new = NewFlow {
                original,
                reply,
                service: Some(web.id),
                tcp: Some(Flags(flags)),
                masqueraded: true,
            };
            conntrack.create(&new, now.saturating_sub(age)).unwrap();
        };
        create(40_000, 5 * SECOND, Flags::SYN.0);
        create(50_000, 20 * SECOND, Flags::ACK.0);
        let totals = view(&fixture.engine, true).unwrap();
        assert_eq!(totals.json["totals"]["live"], totals.json["totals"]["created"]);
        assert!(
            totals.json["totals"]["live"].as_u64() > Some(0)
                && totals.json.get("conntrack").is_none()
        );
        assert_eq!(totals.parts.len(), 1);
        let view = view(&fixture.engine, false).unwrap();
        let rows = view.json["conntrack"].as_array().unwrap();
        assert_eq!(rows.len(), 2);
        assert_eq!(
            (&rows[0]["src"], &rows[0]["state"]),
            (&json!("203.0.113.2:50000"), &json!("ESTABLISHED"))
        );
        assert_eq!(
            (&rows[1]["src"], &rows[1]["state"]),
            (&json!("203.0.113.2:40000"), &json!("SYN_SENT"))
        );
        assert_eq!(
            (&rows[1]["service"], &rows[1]["snat_port"]),
            (&json!("default/web:http"), &json!(40001))
        );
        let sets = json!([{"source": "192.168.0.2", "backend": "10.0.2.9:8080", "protocol": "TCP", "ports": 2}]);
        assert_eq!(view.json["snat"], sets);
        assert_eq!(view.json["totals"]["live"], 2);
        assert_eq!(view.json["totals"]["half_open"], 1);
        let text = view.text();
        assert!(text.contains("192.168.0.2:50001"), "{text}");
        assert!(
            text.contains("2 of 4096 entries, 1 half-open; 2 created, 0 expired and 0 refused"),
            "{text}"
        );
    }
}
