//! Which endpoints a node uses: topology hints, traffic policies and terminating endpoints together.
//!
//! The cases are those of kube-proxy's `topology_test.go` (`TestCategorizeEndpoints`) and of its
//! `TestTerminatingEndpointsTrafficPolicy{Local,Cluster}`, one line each, written anew in a small notation: an endpoint is
//! the last part of its address and words about it. `-` says that the Service doesn't use that set.

use std::collections::BTreeSet;

use millrace_control::{Compiler, Store, World, world::NodeView};
use millrace_tables::{SetChoice, WhenEmpty};
use serde_json::{Value, json};

/// What a Service is, zone of the node, endpoints, and what is expected of the Cluster and the Local set.
type Case = (&'static str, &'static str, &'static str, &'static str, &'static str, &'static str);

#[rustfmt::skip]
const CASES: &[Case] = &[
    // Hints for zones.
    ("zone hints: those of the own zone", "cluster", "a", "3 za; 4 zb; 5 zc; 6 za", "3 6", "-"),
    ("several hints for one endpoint", "cluster", "c", "3 za zb zc; 4 zb zc; 5 zb zd; 6 zc", "3 4 6", "-"),
    ("a node without a zone takes all", "cluster", "", "3 za; 4 zb", "3 4", "-"),
    ("no hint for this zone: all", "cluster", "b", "3 za", "3", "-"),
    ("one ready endpoint without a hint: all", "cluster", "a", "3 za; 4 zb; 5; 6 za", "3 4 5 6", "-"),
    ("no hints at all", "cluster", "a", "3; 4", "3 4", "-"),
    ("an endpoint that is not ready is left out", "cluster", "a", "3 za; 4 zb; 5 zc; 6 za unready", "3", "-"),
    ("one that is not ready needs no hint", "cluster", "a", "3 za; 4 zb; 5 unready", "3", "-"),
    ("only endpoints that are not ready in the own zone: all", "cluster", "a", "3 za unready; 4 zb; 5 zc; 6 za unready", "4 5", "-"),
    ("all terminating: hints don't matter", "cluster", "a", "3 za terminating; 4 zb terminating", "3 4", "-"),
    ("terminating ones in the own zone don't stand in for ready ones elsewhere", "cluster", "a", "3 za terminating; 4 zb", "4", "-"),
    ("terminating ones are not used beside ready ones", "cluster", "a", "3 za terminating; 4 zb; 5 za", "5", "-"),
    // Hints for nodes come first.
    ("node hints: those for this node", "cluster", "a", "3 nhere za; 4 nthere za; 5 nthere zb", "3", "-"),
    ("no hint for this node: its zone", "cluster", "a", "3 nthere za; 4 nelse za; 5 nthere zb", "3 4", "-"),
    ("one without a node hint: zones", "cluster", "a", "3 nhere za; 4 za; 5 nthere zb", "3 4", "-"),
    ("one without a node hint, one without a zone hint: all", "cluster", "a", "3 nhere za; 4 za; 5 nthere", "3 4 5", "-"),
    ("node hints alone, none for this node: all", "cluster", "a", "3 nthere; 4 nelse", "3 4", "-"),
    ("node hints alone", "cluster", "", "3 nhere; 4 nelse", "3", "-"),
    ("a hint for this node beats where the endpoint is", "cluster", "a", "3 nthere za local; 4 nhere zb", "4", "-"),
    ("several nodes in one hint", "cluster", "", "3 nelse nhere; 4 nelse; 5 nhere", "3 5", "-"),
    ("not ready on this node: the zone", "cluster", "a", "3 nhere za unready; 4 nthere za; 5 nelse zb", "4", "-"),
    ("terminating on this node: the zone", "cluster", "a", "3 nhere za terminating; 4 nthere za; 5 nelse zb", "4", "-"),
    // Local policies ignore hints; Cluster traffic of the same Service heeds them.
    ("external Local", "etp-local", "a", "3 za local; 4 zb local; 5 zc; 6 za", "3 6", "3 4"),
    ("internal Local", "itp-local nodeport", "a", "3 za local; 4 zb local; 5 zc; 6 za", "3 6", "3 4"),
    ("local and hinted away", "etp-local", "a", "0 za local; 1 zb local; 2 za; 3 zb", "0 2", "0 1"),
    ("node hints and Local", "etp-local", "a", "0 nthere za local; 1 nhere zb; 2 nthere za", "1", "0"),
    // No hints: policies.
    ("internal Local, nothing there", "itp-local", "", "", "-", "reject"),
    ("internal Local, all elsewhere", "itp-local", "", "0; 1", "-", "drop"),
    ("internal Local, all here", "itp-local", "", "0 local; 1 local", "-", "0 1"),
    ("internal Local, some here", "itp-local", "", "0 local; 1", "-", "0"),
    ("Cluster, none ready", "cluster", "", "0 unready; 1 unready", "reject", "-"),
    ("Cluster, some ready", "cluster", "", "0 unready; 1", "1", "-"),
    ("Cluster, all terminating", "cluster", "", "0 terminating local; 1 terminating", "0 1", "-"),
    ("internal Local, external Cluster", "itp-local nodeport", "", "0 local; 1", "0 1", "0"),
    ("internal Cluster, external Local", "etp-local", "", "0 local; 1", "0 1", "0"),
    ("both Local", "itp-local etp-local", "", "0 local; 1", "-", "0"),
    ("both Local, all elsewhere", "itp-local etp-local", "", "0; 1", "-", "drop"),
    ("both Local, all elsewhere and terminating", "itp-local etp-local", "", "0 terminating; 1 terminating", "-", "drop"),
    ("external Local, a mixture", "etp-local", "", "0; 1 unready local; 2 terminating local; 3 terminating", "0", "2"),
    ("an external policy without external access", "etp-ignored", "", "0; 1 local", "0 1", "-"),
    ("internal Local alone", "itp-local", "", "0; 1 local", "-", "1"),
    // Terminating endpoints, external Local (4).
    ("Local: ready here and elsewhere", "etp-local", "", "1 local; 2 local; 3 terminating local; 4 dead local; 5", "1 2 5", "1 2"),
    ("Local: only terminating here", "etp-local", "", "2 terminating local; 3 terminating local; 4 dead local; 5", "5", "2 3"),
    ("Local: terminating and dead here, nothing elsewhere", "etp-local", "", "2 terminating local; 3 dead local", "2", "2"),
    ("Local: dead here, ready elsewhere", "etp-local", "", "4 dead local; 5", "5", "drop"),
    // Terminating endpoints, Cluster (4).
    ("Cluster: ready beside terminating ones", "nodeport", "", "1 local; 2 local; 3 terminating local; 4 dead local; 5", "1 2 5", "-"),
    ("Cluster: only terminating ones", "nodeport", "", "2 terminating local; 3 terminating local; 4 dead local; 5 terminating", "2 3 5", "-"),
    ("Cluster: terminating here, ready elsewhere", "nodeport", "", "3 terminating local; 4 dead local; 5", "5", "-"),
    ("Cluster: none that serves", "nodeport", "", "4 dead local; 5 dead", "reject", "-"),
    // What is ready and terminating at once (publishNotReadyAddresses) is ready.
    ("ready while terminating", "etp-local", "", "1 leaving local; 2", "1 2", "1"),
];

#[test]
fn every_case_holds_in_any_order_of_endpoints_and_over_any_number_of_slices() {
    for (what, kind, zone, endpoints, cluster, local) in CASES {
        let listed: Vec<&str> =
            endpoints.split(';').map(str::trim).filter(|endpoint| !endpoint.is_empty()).collect();
        let reversed: Vec<&str> = listed.iter().rev().copied().collect();
        let one = compiled(kind, zone, &[&listed]);
        assert_eq!(one, expected(cluster, local), "{what}");
        assert_eq!(compiled(kind, zone, &[&reversed]), one, "{what}, the other way round");
        let apart: Vec<&[&str]> = listed.chunks(1).collect();
        assert_eq!(compiled(kind, zone, &apart), one, "{what}, a slice for each endpoint");
        let doubled = compiled(kind, zone, &[&listed, &reversed]);
        assert_eq!(doubled, one, "{what}, each endpoint in two slices");
    }
}

#[test]
fn a_stale_copy_without_hints_does_not_switch_them_off() {
    let here = compiled("cluster", "a", &[&["3 za", "4 zb"], &["3"]]);
    assert_eq!(here, expected("3", "-"));
}

#[test]
fn hints_count_from_the_moment_the_node_has_a_zone() {
    let (mut store, mut compiler) = (Store::new(), Compiler::new());
    let world = world();
    let sets = |store: &mut Store, compiler: &mut Compiler| {
        compiler.update(store, &world);
        expectation(compiler)
    };
    store.apply_json(service("cluster"));
    store.apply_json(slice(0, &["3 za", "4 zb"]));
    store.apply_json(slice(1, &[]));
    assert_eq!(sets(&mut store, &mut compiler), expected("3 4", "-"));
    store.apply_json(node("b"));
    assert_eq!(sets(&mut store, &mut compiler), expected("4", "-"));
    store.apply_json(node("a"));
    assert_eq!(sets(&mut store, &mut compiler), expected("3", "-"));
    store.delete_named("Node", "", "here");
    assert_eq!(sets(&mut store, &mut compiler), expected("3 4", "-"));
}

#[test]
fn bad_hints_are_refused_by_field_and_count_as_none() {
    let mut store = Store::new();
    let mut bad = slice(0, &["3 za za", "4 zb"]);
    bad["endpoints"][1]["hints"] = json!({"forZones": [{"name": ""}], "forNodes": null});
    let refused: Vec<String> = store.apply_json(bad).iter().map(ToString::to_string).collect();
    assert_eq!(
        refused,
        [
            "EndpointSlice default/web-0: endpoints[0].hints.forZones[1].name: \"a\" is listed twice",
            "EndpointSlice default/web-0: endpoints[1].hints.forZones[0].name: is empty",
        ]
    );
    let mut compiler = Compiler::new();
    store.apply_json(service("cluster"));
    store.apply_json(node("a"));
    compiler.update(&mut store, &world());
    assert_eq!(expectation(&compiler), expected("3 4", "-"));
}

/// Members of both sets, or what happens without any; `-` where no frontend uses the set.
type Sets = (BTreeSet<String>, BTreeSet<String>);

fn expected(cluster: &str, local: &str) -> Sets {
    let words = |text: &str| text.split(' ').map(str::to_owned).collect();
    (words(cluster), words(local))
}

fn compiled(kind: &str, zone: &str, slices: &[&[&str]]) -> Sets {
    let mut store = Store::new();
    for (at, endpoints) in slices.iter().enumerate() {
        let refused = store.apply_json(slice(at, endpoints));
        assert!(refused.is_empty(), "{refused:?}");
    }
    assert_eq!(store.apply_json(service(kind)), []);
    assert_eq!(store.apply_json(node(zone)), []);
    let mut compiler = Compiler::new();
    compiler.update(&mut store, &world());
    expectation(&compiler)
}

fn expectation(compiler: &Compiler) -> Sets {
    let spec = &compiler.services()["default/web"];
    let used = |choice| spec.frontends.iter().any(|frontend| frontend.set == choice);
    let last = |addr: String| addr.rsplit('.').next().unwrap().to_owned();
    let set = |choice, empty: WhenEmpty, member: fn(&millrace_tables::BackendSpec) -> bool| {
        let members: BTreeSet<String> = spec
            .backends
            .iter()
            .filter(|backend| member(backend))
            .map(|backend| last(backend.addr.to_string()))
            .collect();
        match (used(choice), members.is_empty(), empty) {
            (false, ..) => BTreeSet::from(["-".to_owned()]),
            (true, false, _) => members,
            (true, true, WhenEmpty::Reject) => BTreeSet::from(["reject".to_owned()]),
            (true, true, WhenEmpty::Drop) => BTreeSet::from(["drop".to_owned()]),
        }
    };
    (
        set(SetChoice::Cluster, spec.when_cluster_empty, |backend| backend.in_cluster),
        set(SetChoice::Local, spec.when_local_empty, |backend| backend.in_local),
    )
}

fn world() -> std::sync::Arc<World> {
    let node_port_addresses = vec![std::net::IpAddr::from([192, 168, 0, 2]).into()];
    World {
        node: NodeView { name: "here".into(), node_port_addresses, ..NodeView::default() },
        ..World::default()
    }
    .into()
}

fn node(zone: &str) -> Value {
    let labels =
        if zone.is_empty() { json!({}) } else { json!({"topology.kubernetes.io/zone": zone}) };
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "here", "labels": labels}})
}

fn service(kind: &str) -> Value {
    let is = |word: &str| kind.split(' ').any(|item| item == word);
    let policy = |local: bool| if local { "Local" } else { "Cluster" };
    let node_port = is("nodeport") || is("etp-local");
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {
        "type": if node_port { "NodePort" } else { "ClusterIP" }, "clusterIP": "172.30.0.41",
        "internalTrafficPolicy": policy(is("itp-local")),
        "externalTrafficPolicy": policy(is("etp-local") || is("etp-ignored")),
        "ports": [{"port": 80, "nodePort": if node_port { 30080 } else { 0 }}]}})
}

fn slice(number: usize, endpoints: &[&str]) -> Value {
    let endpoint = |text: &&str| {
        let mut words = text.split(' ');
        let last = words.next().unwrap();
        let (mut zones, mut nodes, mut node) = (Vec::new(), Vec::new(), "there");
        let (mut ready, mut serving, mut terminating) = (true, true, false);
        for word in words {
            match word {
                "local" => node = "here",
                "unready" => (ready, serving) = (false, false),
                "terminating" => (ready, terminating) = (false, true),
                "leaving" => terminating = true,
                "dead" => (ready, serving, terminating) = (false, false, true),
                _ if word.starts_with('z') => zones.push(json!({"name": &word[1..]})),
                _ if word.starts_with('n') => nodes.push(json!({"name": &word[1..]})),
                _ => panic!("{word}?"),
            }
        }
        json!({"addresses": [format!("10.0.1.{last}")], "nodeName": node, "hints": {"forZones": zones, "forNodes": nodes},
            "conditions": {"ready": ready, "serving": serving, "terminating": terminating}})
    };
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "ports": [{"port": 8080}],
        "metadata": {"name": format!("web-{number}"), "labels": {"kubernetes.io/service-name": "web"}},
        "endpoints": endpoints.iter().map(endpoint).collect::<Vec<_>>()})
}
