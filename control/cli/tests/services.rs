//! What services ask of the data path beside a backend, through `millrace explain` histories with virtual time: session affinity (feature D13),
//! source ranges (D6), UDP flows that follow the endpoints (E2).

mod common;

use std::collections::BTreeSet;

use common::{Folder, flow, with};
use serde_json::{Value, json};

const VIP: &str = "172.30.0.60";
const CLIENT: &str = "203.0.113.2";

fn service(spec: Value) -> Value {
    let base = json!({
        "type": "NodePort", "clusterIP": VIP, "clusterIPs": [VIP],
        "ports": [{"name": "p", "port": 53, "nodePort": 30053, "protocol": "UDP"}, {"name": "t", "port": 80, "nodePort": 30082, "protocol": "TCP"}],
    });
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "namespace": "default"}, "spec": with(base, spec)})
}

/// Endpoints with their conditions.
fn slice(endpoints: &[(&str, Value)]) -> Value {
    slice_at(8053, endpoints)
}

fn slice_at(port: u16, endpoints: &[(&str, Value)]) -> Value {
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|(address, conditions)| json!({"addresses": [address], "conditions": conditions, "nodeName": "node-b"}))
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "s-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "s"}},
        "ports": [{"name": "p", "port": port, "protocol": "UDP"}, {"name": "t", "port": 8080, "protocol": "TCP"}],
        "endpoints": endpoints,
    })
}

fn ready() -> Value {
    json!({"ready": true})
}

fn objects(list: &[Value]) -> Value {
    json!({ "objects": list })
}

fn ask(id: &str, protocol: &str, dst: &str, sport: u16) -> Value {
    let dport = if protocol == "UDP" { 53 } else { 80 };
    let more = json!({"from": "uplink", "sport": sport});
    json!({"flow": with(flow(id, CLIENT, (dst, dport), protocol), more)})
}

fn backend(answer: &Value) -> &str {
    answer["outcomes"][0]["backend"].as_str().unwrap_or_else(|| panic!("no backend: {answer:#}"))
}

const THREE: [&str; 3] = ["10.0.2.11", "10.0.2.12", "10.0.2.13"];

fn three() -> Value {
    slice(&THREE.map(|address| (address, ready())))
}

#[test]
fn a_client_keeps_its_backend_across_frontends_and_other_clients_are_spread() {
    let folder = Folder::new("affinity");
    let mut lines = vec![objects(&[service(json!({"sessionAffinity": "ClientIP"})), three()])];
    for port in 1000..1020 {
        lines.push(ask("vip", "TCP", VIP, port));
        let more = json!({"from": "uplink", "sport": port, "dport": 30082});
        lines.push(json!({"flow": with(flow("np", CLIENT, ("192.168.0.2", 30082), "TCP"), more)}));
    }
    for client in 1..40 {
        let src = format!("198.51.100.{client}");
        lines.push(
            json!({"flow": with(flow("other", &src, (VIP, 80), "TCP"), json!({"from": "uplink"}))}),
        );
    }
    let (answers, good) = folder.script(&lines);
    assert!(good, "{answers:#?}");
    let of = |id: &str| -> BTreeSet<&str> {
        answers.iter().filter(|it| it["id"] == id).map(backend).collect()
    };
    assert_eq!(of("vip").len(), 1);
    assert_eq!(of("vip"), of("np"));
    assert_eq!(of("other").len(), 3);
}

/// Clients that an endpoint which comes takes over, were there no affinity: asked before and after it came, and after the timeout.
#[test]
fn affinity_outlasts_new_endpoints_until_it_is_over_and_each_flow_begins_it_anew() {
    let folder = Folder::new("affinity-timeout");
    let config = json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 100}}});
    let all = |id: &'static str, port: u16| {
        (1..60).map(move |client| {
            let src = format!("198.51.100.{client}");
            let more = json!({"from": "uplink", "sport": port});
            json!({"flow": with(flow(id, &src, (VIP, 80), "TCP"), more)})
        })
    };
    let two = slice(&[THREE[0], THREE[1]].map(|address| (address, ready())));
    let mut lines = vec![objects(&[service(config), two])];
    lines.extend(all("before", 1000));
    lines.push(objects(&[three()]));
    lines.push(json!({"advance": "99s"}));
    lines.extend(all("kept", 1001));
    lines.push(json!({"advance": "99s"}));
    lines.extend(all("refreshed", 1002));
    lines.push(json!({"advance": "100s"}));
    lines.extend(all("over", 1003));
    let (answers, good) = folder.script(&lines);
    assert!(good);
    let of = |id: &str| -> Vec<&str> {
        answers.iter().filter(|it| it["id"] == id).map(backend).collect()
    };
    assert_eq!(of("kept"), of("before"));
    assert_eq!(of("refreshed"), of("before"));
    let moved = of("over").iter().filter(|it| **it == "10.0.2.13:8080").count();
    assert!((8..32).contains(&moved), "{moved} of 59 went to the third");
    assert!(!of("before").contains(&"10.0.2.13:8080"));
}

#[test]
fn affinity_to_an_endpoint_that_goes_ends_at_once_and_does_not_come_back() {
    for gone in [
        slice(&[(THREE[1], ready()), (THREE[2], ready())]),
        slice(&[(THREE[0], json!({"ready": false})), (THREE[1], ready()), (THREE[2], ready())]),
        slice(&[
            (THREE[0], json!({"ready": false, "serving": true, "terminating": true})),
            (THREE[1], ready()),
            (THREE[2], ready()),
        ]),
    ] {
        let folder = Folder::new("affinity-gone");
        let mut lines = vec![objects(&[
            service(json!({"sessionAffinity": "ClientIP"})),
            slice(&[(THREE[0], ready())]),
        ])];
        lines.push(ask("first", "TCP", VIP, 1000));
        lines.push(objects(&[gone]));
        lines.push(ask("moved", "TCP", VIP, 1001));
        lines.push(ask("again", "TCP", VIP, 1002));
        lines.push(objects(&[three()]));
        lines.push(ask("back", "TCP", VIP, 1003));
        let (answers, good) = folder.script(&lines);
        assert!(good, "{answers:#?}");
        let [first, moved, again, back] = [0, 1, 2, 3].map(|at| backend(&answers[at]));
        assert_eq!(first, "10.0.2.11:8080");
        assert_ne!(moved, first);
        assert_eq!((again, back), (moved, moved));
    }
}

/// The rows of kube-proxy's `TestLoadBalancer`.
#[test]
fn source_ranges_close_load_balancer_addresses_and_nothing_else() {
    let folder = Folder::new("ranges");
    let (lb1, lb2, node) = ("198.51.100.1", "198.51.100.2", "192.168.0.2");
    let (allowed, blocked) = ("203.0.113.2", "203.0.113.130");
    let spec = json!({
        "type": "LoadBalancer", "clusterIP": VIP, "clusterIPs": [VIP], "externalIPs": ["192.0.2.1"],
        "loadBalancerSourceRanges": ["192.168.0.0/24", " 203.0.113.0/25 "],
        "ports": [{"name": "t", "port": 80, "nodePort": 30082, "protocol": "TCP"}],
    });
    let mut balancer = service(spec);
    balancer["status"] = json!({"loadBalancer": {"ingress": [{"ip": lb1}, {"ip": lb2}]}});
    let rows = [
        ("10.0.1.5", "pod:default/web-0", VIP, 80, true),
        ("10.0.1.5", "pod:default/web-0", lb1, 80, false),
        (allowed, "uplink", node, 30082, true),
        (blocked, "uplink", node, 30082, true),
        (blocked, "uplink", "192.0.2.1", 80, true),
        (allowed, "uplink", lb1, 80, true),
        (blocked, "uplink", lb1, 80, false),
        (allowed, "uplink", lb2, 80, true),
        (blocked, "uplink", lb2, 80, false),
        (lb1, "host", lb1, 80, true),
        (lb2, "host", lb2, 80, true),
        (lb2, "host", lb1, 80, true),
        (node, "host", lb1, 80, true),
        ("192.168.0.3", "uplink", lb1, 80, true),
    ];
    let mut lines = vec![objects(&[balancer.clone(), three()])];
    lines.extend(rows.iter().enumerate().map(|(at, (src, from, dst, port, _))| {
        let more = json!({"from": from, "sport": 2000 + at});
        json!({"flow": with(flow(&format!("{src} to {dst}:{port}"), src, (dst, *port), "TCP"), more)})
    }));
    // Without the node's range the load balancer's own addresses are as any other.
    balancer["spec"]["loadBalancerSourceRanges"] = json!(["203.0.113.0/25"]);
    lines.push(objects(&[balancer]));
    lines.push(json!({"flow": with(flow("own", lb1, (lb1, 80), "TCP"), json!({"from": "host"}))}));
    let established = json!({"from": "uplink", "sport": 2013, "flags": "ACK"});
    lines.push(
        json!({"flow": with(flow("established", "192.168.0.3", (lb1, 80), "TCP"), established)}),
    );
    let (answers, good) = folder.script(&lines);
    assert!(good, "{answers:#?}");
    for ((_, _, _, _, passes), answer) in rows.iter().zip(&answers) {
        let outcome = &answer["outcomes"][0];
        let expected = if *passes { "transmit" } else { "drop" };
        assert_eq!(outcome["verdict"], expected, "{}: {outcome}", answer["id"]);
        if !*passes {
            assert_eq!(outcome["reason"], "source_range");
            assert_eq!(outcome["by"], "Service default/s (loadBalancerSourceRanges)");
        }
    }
    let [own, established] = [&answers[rows.len()], &answers[rows.len() + 1]];
    assert_eq!(own["outcomes"][0]["reason"], "source_range");
    assert_eq!(established["outcomes"][0]["verdict"], "transmit", "{established:#}");
}

#[test]
fn a_udp_flow_follows_the_endpoints_at_every_transition() {
    let folder = Folder::new("stale");
    let terminating = json!({"ready": false, "serving": true, "terminating": true});
    let (a, b) = (THREE[0], THREE[1]);
    let both = |conditions: Value| slice(&[(a, conditions), (b, ready())]);
    let lines = [
        objects(&[service(json!({})), slice(&[(a, ready())])]),
        ask("0: begins", "UDP", VIP, 1000),
        // Another comes: who has a backend keeps it.
        objects(&[both(ready())]),
        ask("1: kept", "UDP", VIP, 1000),
        // On its way out, still answering.
        objects(&[both(terminating.clone())]),
        ask("2: terminating", "UDP", VIP, 1000),
        // Not ready any more.
        objects(&[both(json!({"ready": false, "serving": false}))]),
        json!({"show": "conntrack"}),
        ask("4: unready", "UDP", VIP, 1000),
        // The one that it has now goes, and so do all.
        objects(&[slice(&[(a, ready())])]),
        ask("5: removed", "UDP", VIP, 1000),
        json!({"delete": [{"kind": "EndpointSlice", "namespace": "default", "name": "s-1"}]}),
        json!({"show": "conntrack"}),
        ask("7: to zero", "UDP", VIP, 1000),
        json!({"show": "conntrack"}),
        // And back.
        objects(&[slice(&[(b, ready())])]),
        ask("9: from zero", "UDP", VIP, 1000),
        // The same pod on another port.
        objects(&[slice_at(9053, &[(b, ready())])]),
        ask("10: port", "UDP", VIP, 1000),
    ];
    let (answers, good) = folder.script(&lines);
    assert!(good, "{answers:#?}");
    for (at, expected) in [
        (0, "10.0.2.11:8053"),
        (1, "10.0.2.11:8053"),
        (2, "10.0.2.11:8053"),
        (4, "10.0.2.12:8053"),
        (5, "10.0.2.11:8053"),
        (9, "10.0.2.12:8053"),
        (10, "10.0.2.12:9053"),
    ] {
        assert_eq!(backend(&answers[at]), expected, "{at}");
    }
    for at in [3, 6, 8] {
        assert_eq!(answers[at]["conntrack"], json!([]), "{at}");
    }
    assert_eq!(answers[7]["outcomes"][0]["reply"], "icmp-port-unreachable");
}

#[test]
fn what_is_not_about_the_endpoint_that_goes_stays() {
    let folder = Folder::new("unaffected");
    let web = |id: &str, sport: u16| json!({"flow": with(flow(id, CLIENT, (VIP, 53), "UDP"), json!({"from": "uplink", "sport": sport}))});
    let mut lines = vec![objects(&[service(json!({})), three()])];
    lines.extend((0..60).map(|n| web(&format!("u{n}"), 3000 + n)));
    lines.extend((0..20).map(|n| ask(&format!("t{n}"), "TCP", VIP, 4000 + n)));
    lines.push(objects(&[slice(&[(THREE[0], ready()), (THREE[2], ready())])]));
    lines.push(json!({"show": "conntrack"}));
    lines.extend((0..60).map(|n| web(&format!("u{n}"), 3000 + n)));
    lines.extend((0..20).map(|n| {
        let more = json!({"from": "uplink", "sport": 4000 + n, "flags": "ACK"});
        json!({"flow": with(flow(&format!("t{n}"), CLIENT, (VIP, 80), "TCP"), more)})
    }));
    let (answers, good) = folder.script(&lines);
    assert!(good);
    let gone = |it: &Value| backend(it).starts_with("10.0.2.12:");
    let stale = answers[..60].iter().filter(|it| gone(it)).count();
    assert!(stale > 5);
    let shown = answers[80]["conntrack"].as_array().unwrap();
    assert_eq!(shown.len(), 80 - stale);
    assert!(shown.iter().all(|it| it["protocol"] == "TCP" || it["backend"] != "10.0.2.12:8053"));
    for (before, after) in answers[..80].iter().zip(&answers[81..]) {
        let moved = gone(before) && before["id"].as_str().unwrap().starts_with('u');
        assert_eq!(backend(before) != backend(after), moved, "{}", before["id"]);
    }
}
