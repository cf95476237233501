//! Masquerade as kube-proxy does it, through `millrace explain`: who gets an address of the node, and who keeps its own.
//!
//! The rows are those of kube-proxy's `TestExternalTrafficPolicyCluster`, `TestExternalTrafficPolicyLocal` and
//! `TestMasqueradeAll` (features D7, D17, E3, E8).

mod common;

use common::{Folder, flow, with};
use serde_json::{Value, json};

const POD: &str = "10.0.1.5";
const OTHER_POD: &str = "10.0.2.4";
const NODE: &str = "192.168.0.2";
const CLIENT: &str = "203.0.113.2";

/// A load balancer Service of `policy` with an endpoint here and one on node-b.
fn service(policy: &str) -> Value {
    json!({"objects": [{
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "lb", "namespace": "default"},
        "spec": {
            "type": "LoadBalancer", "clusterIP": "172.30.0.50", "clusterIPs": ["172.30.0.50"], "externalTrafficPolicy": policy,
            "externalIPs": ["192.0.2.1"], "ports": [{"port": 80, "nodePort": 30081, "protocol": "TCP"}],
        },
        "status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.1"}]}},
    }, {
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "lb-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "lb"}},
        "ports": [{"port": 8080, "protocol": "TCP"}],
        "endpoints": [
            {"addresses": ["10.0.1.7"], "conditions": {"ready": true}, "nodeName": "node-a"},
            {"addresses": ["10.0.2.9"], "conditions": {"ready": true}, "nodeName": "node-b"},
        ],
    }]})
}

const VIPS: [(&str, u16); 4] =
    [("172.30.0.50", 80), ("192.0.2.1", 80), ("198.51.100.1", 80), (NODE, 30081)];

/// Asks for 64 flows of each source to each frontend: which backends were there, and which `snat`.
fn ask(name: &str, policy: &str, options: &[&str]) -> Vec<(String, Vec<String>, Option<String>)> {
    let folder = Folder::new(name);
    let mut lines = vec![service(policy)];
    let mut asked = Vec::new();
    for (who, src, from) in [
        ("pod", POD, "pod:default/web-0"),
        ("other-pod", OTHER_POD, "uplink"),
        ("node", NODE, "host"),
        ("client", CLIENT, "uplink"),
    ] {
        for (vip, port) in VIPS {
            let id = format!("{who} to {vip}");
            let ask = flow(&id, src, (vip, port), "TCP");
            lines.push(json!({"flow": with(ask, json!({"from": from, "count": 64}))}));
            asked.push(id);
        }
    }
    let (answers, good) = folder.script_with(&lines, options);
    assert!(good, "{answers:#?}");
    assert_eq!(answers.len(), asked.len());
    let seen = |(answer, id): (&Value, String)| {
        let outcomes = answer["outcomes"].as_array().unwrap();
        let mut backends: Vec<String> =
            outcomes.iter().map(|it| it["backend"].as_str().unwrap_or("none").to_owned()).collect();
        backends.sort();
        let snat = outcomes[0]["snat"].as_str().map(str::to_owned);
        for outcome in outcomes {
            assert_eq!(outcome["verdict"], "transmit", "{id}: {outcome}");
            assert_eq!(outcome["snat"].as_str().map(str::to_owned), snat, "{id}");
            let src = outcome["src"].as_str().unwrap();
            let kept = answer["steps"][0]["said"].as_str().unwrap().split(' ').nth(1).unwrap();
            let kept = kept.rsplit_once(':').unwrap().0;
            assert_eq!(src.rsplit_once(':').unwrap().0, snat.as_deref().unwrap_or(kept), "{id}");
        }
        (id, backends, snat)
    };
    answers.iter().zip(asked).map(seen).collect()
}

const BOTH: [&str; 2] = ["10.0.1.7:8080", "10.0.2.9:8080"];
const HERE: [&str; 1] = ["10.0.1.7:8080"];

/// Checks every answer against `rule`: backends and whether it is masqueraded, by who asks and whether the frontend is internal.
fn check(
    answers: Vec<(String, Vec<String>, Option<String>)>,
    rule: impl Fn(&str, bool) -> (&'static [&'static str], bool),
) {
    for (id, backends, snat) in answers {
        let (who, to) = id.split_once(" to ").unwrap();
        let (expected, masqueraded) = rule(who, to == "172.30.0.50");
        assert_eq!(backends, expected, "{id}");
        assert_eq!(snat.as_deref(), masqueraded.then_some(NODE), "{id}");
    }
}

#[test]
fn cluster_policy_masquerades_whatever_is_external() {
    check(ask("cluster", "Cluster", &[]), |_, internal| (&BOTH, !internal));
}

#[test]
fn who_is_no_pod_is_masqueraded_to_a_cluster_ip_where_pods_are_known() {
    let options = ["--cluster-cidr", "10.0.0.0/16"];
    check(ask("known", "Cluster", &options), |who, internal| {
        (&BOTH, !internal || who == "node" || who == "client")
    });
}

#[test]
fn of_the_nodes_own_ranges_other_nodes_pods_are_none() {
    let options = ["--detect-local-mode", "NodeCIDR"];
    check(ask("node-cidr", "Cluster", &options), |who, internal| {
        (&BOTH, !internal || who != "pod")
    });
}

#[test]
fn local_policy_keeps_the_client_and_sends_pods_and_the_node_anywhere() {
    let options = ["--cluster-cidr", "10.0.0.0/16"];
    check(ask("local", "Local", &options), |who, internal| match (who, internal) {
        ("pod" | "other-pod", _) => (&BOTH, false),
        ("node", _) => (&BOTH, true),
        ("client", true) => (&BOTH, true),
        _ => (&HERE, false),
    });
}

#[test]
fn local_policy_without_known_pods_treats_them_as_anybody() {
    check(ask("local-unknown", "Local", &[]), |who, internal| match (who, internal) {
        (_, true) => (&BOTH, false),
        ("node", _) => (&BOTH, true),
        _ => (&HERE, false),
    });
}

#[test]
fn masquerade_all_is_about_cluster_ips_and_leaves_what_local_policy_keeps() {
    let options = ["--masquerade-all", "--cluster-cidr", "10.0.0.0/16"];
    check(ask("all", "Local", &options), |who, internal| match (who, internal) {
        (_, true) => (&BOTH, true),
        ("pod" | "other-pod", _) => (&BOTH, false),
        ("node", _) => (&BOTH, true),
        _ => (&HERE, false),
    });
}

#[test]
fn a_pod_that_is_sent_to_itself_sees_the_nodes_address() {
    let folder = Folder::new("hairpin");
    let ask = flow("self", "10.0.1.7", ("172.30.0.41", 80), "TCP");
    let (answers, _) = folder.flows(&[with(ask, json!({"count": 100}))]);
    let outcomes = answers[0]["outcomes"].as_array().unwrap();
    assert_eq!(outcomes.len(), 2, "{outcomes:?}");
    for outcome in outcomes {
        let (snat, out) = match outcome["backend"].as_str() {
            Some("10.0.1.7:8080") => (json!(NODE), "pod:default/web-1"),
            _ => (Value::Null, "uplink"),
        };
        assert_eq!((&outcome["snat"], &outcome["out"]), (&snat, &json!(out)), "{outcome}");
    }
}

#[test]
fn answers_to_a_masqueraded_flow_find_back_and_conntrack_shows_it() {
    let folder = Folder::new("answers");
    let ask = with(flow("a", CLIENT, (NODE, 30080), "TCP"), json!({"from": "uplink"}));
    let (answers, good) = folder.script(&[
        json!({"flow": ask}),
        json!({"flow": {"id": "a", "reverse": true}}),
        json!({"flow": with(ask.clone(), json!({"flags": "ACK"}))}),
        json!({"show": "conntrack"}),
    ]);
    assert!(good, "{answers:#?}");
    let (new, back, known) =
        (&answers[0]["outcomes"][0], &answers[1]["outcomes"][0], &answers[2]["outcomes"][0]);
    assert_eq!(new["snat"], NODE);
    assert!(new["src"].as_str().unwrap().starts_with("192.168.0.2:"), "{new}");
    assert_eq!(
        (&back["src"], &back["dst"]),
        (&json!("192.168.0.2:30080"), &json!("203.0.113.2:40000"))
    );
    assert_eq!((&back["out"], &back["snat"]), (&json!("uplink"), &Value::Null));
    assert_eq!(
        (&known["snat"], &known["src"], &known["backend"]),
        (&new["snat"], &new["src"], &new["backend"])
    );
    let shown = &answers[3]["conntrack"][0];
    assert_eq!((&shown["snat"], &shown["src"]), (&json!(NODE), &json!("203.0.113.2:40000")));
    assert_eq!(shown["backend"], new["backend"]);
}

#[test]
fn every_port_of_the_set_is_used_before_a_flow_is_refused() {
    let folder = Folder::new("exhaustion");
    let mut one = service("Cluster");
    one["objects"][1]["endpoints"].as_array_mut().unwrap().truncate(1);
    let ask = flow("many", CLIENT, (NODE, 30081), "TCP");
    let (answers, good) = folder.script(&[
        one,
        json!({"flow": with(ask, json!({"from": "uplink", "count": 61_750, "sport": 1}))}),
    ]);
    assert!(good);
    let outcomes = answers[0]["outcomes"].as_array().unwrap();
    assert_eq!((&outcomes[0]["count"], &outcomes[0]["snat"]), (&json!(61_744), &json!(NODE)));
    assert_eq!(
        (&outcomes[1]["count"], &outcomes[1]["reason"]),
        (&json!(6), &json!("snat_exhausted"))
    );
}

#[test]
fn what_the_nodes_own_stack_serves_sees_the_client() {
    // As with a kernel: a packet that does not go out is not masqueraded.
    let folder = Folder::new("stack");
    let mut own = service("Cluster");
    own["objects"][1]["endpoints"] =
        json!([{"addresses": [NODE], "conditions": {"ready": true}, "nodeName": "node-a"}]);
    let outside = with(flow("a", CLIENT, (NODE, 30081), "TCP"), json!({"from": "uplink"}));
    let itself = with(flow("b", NODE, ("172.30.0.50", 80), "TCP"), json!({"from": "host"}));
    let (answers, good) = folder.script(&[own, json!({"flow": outside}), json!({"flow": itself})]);
    assert!(good);
    let (outside, itself) = (&answers[0]["outcomes"][0], &answers[1]["outcomes"][0]);
    assert_eq!((&outside["out"], &outside["snat"]), (&json!("host"), &Value::Null));
    assert_eq!(outside["src"], "203.0.113.2:40000");
    assert_eq!((&itself["out"], &itself["snat"]), (&json!("host"), &json!(NODE)));
}
