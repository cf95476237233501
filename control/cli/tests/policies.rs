//! Whole flows through `millrace explain --node` with policies: services, both ends, replies, changes, and who decided.

mod common;

use common::{Folder, flow, with};
use serde_json::{Value, json};

fn network_policy(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"namespace": "default", "name": name}, "spec": spec})
}

/// Answers to flows in the world with these objects.
fn answers(name: &str, objects: &[Value], flows: &[Value]) -> Vec<Value> {
    let folder = Folder::new(name);
    let lines: Vec<Value> = std::iter::once(json!({"objects": objects}))
        .chain(flows.iter().map(|f| json!({"flow": f})))
        .collect();
    let (answers, _) = folder.script(&lines);
    answers
}

fn outcome(answer: &Value) -> &Value {
    assert_eq!(answer["outcomes"].as_array().map(Vec::len), Some(1), "{answer}");
    &answer["outcomes"][0]
}

fn denied_by(answer: &Value) -> &str {
    let outcome = outcome(answer);
    assert_eq!(
        (&outcome["verdict"], &outcome["reason"]),
        (&json!("drop"), &json!("policy")),
        "{answer}"
    );
    outcome["by"].as_str().unwrap_or_default()
}

#[test]
fn a_denial_names_the_policy_and_what_passes_names_its_rule() {
    let deny = network_policy("deny-all", json!({"podSelector": {"matchLabels": {"app": "web"}}}));
    let flows = [
        flow("direct", "10.0.1.5", ("10.0.1.7", 8080), "TCP"),
        with(flow("outside", "203.0.113.2", ("10.0.1.7", 8080), "TCP"), json!({"from": "uplink"})),
        flow("other", "10.0.1.7", ("10.0.1.5", 80), "UDP"),
        with(flow("node", "192.168.0.2", ("10.0.1.7", 8080), "TCP"), json!({"from": "host"})),
    ];
    let all = answers("policy-deny", &[deny], &flows);
    assert_eq!(denied_by(&all[0]), "NetworkPolicy default/deny-all (ingress)");
    assert_eq!(denied_by(&all[1]), "NetworkPolicy default/deny-all (ingress)");
    assert_eq!(outcome(&all[2])["verdict"], "transmit");
    assert_eq!(outcome(&all[3])["verdict"], "transmit", "the node reaches its own pods");
    assert_eq!(all[0]["policies"], json!(["NetworkPolicy default/deny-all"]));
}

#[test]
fn a_service_is_judged_at_its_backend_with_the_clients_address() {
    let policy = network_policy(
        "web",
        json!({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [{"from": [{"ipBlock": {"cidr": "203.0.113.2/32"}}], "ports": [{"port": 8080}]}]}),
    );
    let many = json!({"from": "uplink", "count": 64});
    let flows = [
        with(flow("good", "203.0.113.2", ("172.30.0.41", 80), "TCP"), many.clone()),
        with(flow("bad", "203.0.113.3", ("172.30.0.41", 80), "TCP"), many),
    ];
    let all = answers("policy-service", &[policy], &flows);
    // Of the two backends one is on this node, and a subject of the policy.
    let verdicts = |answer: &Value| -> Vec<(String, String)> {
        let outcomes = answer["outcomes"].as_array().unwrap().iter();
        let mut all: Vec<(String, String)> = outcomes
            .map(|o| {
                (
                    o["backend"].as_str().unwrap_or_default().into(),
                    o["verdict"].as_str().unwrap().into(),
                )
            })
            .collect();
        all.sort();
        all
    };
    let pair = |backend: &str, verdict: &str| (backend.to_owned(), verdict.to_owned());
    assert_eq!(
        verdicts(&all[0]),
        [pair("10.0.1.7:8080", "transmit"), pair("10.0.2.9:8080", "transmit")]
    );
    assert!(verdicts(&all[1]).contains(&pair("10.0.2.9:8080", "transmit")));
    assert!(verdicts(&all[1]).iter().any(|(_, verdict)| verdict == "drop"));
}

#[test]
fn replies_pass_and_a_policy_that_comes_ends_what_it_forbids() {
    let folder = Folder::new("policy-strict");
    let ask = flow("a", "10.0.1.5", ("10.0.1.7", 9), "UDP");
    let deny_out = network_policy(
        "no-way-out",
        json!({"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Egress"]}),
    );
    let deny_in =
        network_policy("no-way-in", json!({"podSelector": {"matchLabels": {"app": "web"}}}));
    let (all, _) = folder.script(&[
        json!({"objects": [deny_out]}),
        json!({"flow": ask}),
        json!({"flow": {"id": "a", "reverse": true}}),
        json!({"objects": [deny_in]}),
        json!({"flow": with(ask.clone(), json!({"id": "again"}))}),
        json!({"delete": [{"kind": "NetworkPolicy", "namespace": "default", "name": "no-way-in"}]}),
        json!({"flow": with(ask.clone(), json!({"id": "free"}))}),
    ]);
    assert_eq!(all.len(), 4, "{all:?}");
    assert_eq!(outcome(&all[0])["verdict"], "transmit");
    assert_eq!(outcome(&all[1])["verdict"], "transmit", "an answer");
    assert_eq!(denied_by(&all[2]), "NetworkPolicy default/no-way-in (ingress)");
    assert_eq!(outcome(&all[3])["verdict"], "transmit");
}

#[test]
fn a_cluster_policy_comes_before_and_behind() {
    let admin = json!({"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy", "metadata": {"name": "fence"},
        "spec": {"tier": "Admin", "priority": 5, "subject": {"namespaces": {}}, "egress": [{"action": "Deny", "to": [{"networks": ["203.0.113.0/24"]}]}]}});
    let open = network_policy(
        "open",
        json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{}]}),
    );
    let flows = [
        flow("fenced", "10.0.1.5", ("203.0.113.2", 443), "TCP"),
        flow("open", "10.0.1.5", ("198.51.100.2", 443), "TCP"),
    ];
    let all = answers("policy-cluster", &[admin, open], &flows);
    assert_eq!(denied_by(&all[0]), "ClusterNetworkPolicy fence (egress) rule 1");
    assert_eq!(outcome(&all[1])["verdict"], "transmit");
    assert_eq!(all[1]["policies"], json!(["NetworkPolicy default/open"]));
}

#[test]
fn of_a_malformed_policy_the_rest_is_in_force_and_the_fault_is_said() {
    let bad = network_policy(
        "bad",
        json!({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [{"from": [{}, {"ipBlock": {"cidr": "203.0.113.2/32"}}]}]}),
    );
    let flows = [
        with(flow("good", "203.0.113.2", ("10.0.1.7", 80), "TCP"), json!({"from": "uplink"})),
        flow("closed", "10.0.1.5", ("10.0.1.7", 80), "TCP"),
    ];
    let all = answers("policy-malformed", &[bad], &flows);
    let refused =
        &all.iter().find(|answer| answer.get("refused").is_some()).expect("a refusal")["refused"];
    assert_eq!(
        (&refused["kind"], &refused["field"]),
        (&json!("NetworkPolicy"), &json!("spec.ingress[0].from[0]"))
    );
    let of = |id: &str| all.iter().find(|answer| answer["id"] == id).unwrap();
    assert_eq!(outcome(of("good"))["verdict"], "transmit");
    assert_eq!(denied_by(of("closed")), "NetworkPolicy default/bad (ingress)");
}

#[test]
fn a_pod_sends_from_its_own_addresses_alone() {
    let flows = [
        with(
            flow("forged", "10.0.1.7", ("10.0.2.9", 80), "UDP"),
            json!({"from": "pod:default/web-0"}),
        ),
        with(
            flow("own", "10.0.1.5", ("10.0.2.9", 80), "UDP"),
            json!({"from": "pod:default/web-0"}),
        ),
    ];
    let all = answers("policy-forged", &[], &flows);
    let forged = outcome(&all[0]);
    assert_eq!((&forged["verdict"], &forged["by"]), (&json!("drop"), &json!("Pod default/web-0")));
    assert_eq!(outcome(&all[1])["verdict"], "transmit");
}

#[test]
fn what_the_node_s_own_stack_sends_is_the_node_s_whatever_its_address() {
    let deny =
        network_policy("deny", json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}));
    let from_host = |id: &str, src: &str| {
        with(flow(id, src, ("10.0.1.7", 8080), "TCP"), json!({"from": "host"}))
    };
    let folder = Folder::new("policy-bridge");
    // A kubelet probe, from the node's address and from a bridge's in the pods' range; and what claims to be another pod's.
    let lines = [
        json!({"objects": [deny]}),
        json!({"flow": from_host("node", "192.168.0.2")}),
        json!({"flow": from_host("bridge", "10.0.1.1")}),
        json!({"flow": {"id": "bridge", "reverse": true}}),
        json!({"flow": flow("back", "10.0.1.7", ("10.0.1.1", 10250), "TCP")}),
        json!({"flow": from_host("pod", "10.0.1.5")}),
    ];
    let (all, _) = folder.script(&lines);
    let verdicts: Vec<&Value> = all.iter().map(|answer| &outcome(answer)["verdict"]).collect();
    assert_eq!(verdicts[..4], ["transmit", "transmit", "punt", "punt"], "{all:?}");
    assert_eq!(outcome(&all[4])["verdict"], "drop", "{}", all[4]);
    // As flows that don't depend on one another, too.
    folder.write("manifests/deny.yaml", &[network_policy("deny", json!({"podSelector": {}}))]);
    let (all, good) =
        folder.flows(&[from_host("bridge", "10.0.1.1"), from_host("node", "192.168.0.2")]);
    assert!(good);
    all.iter().for_each(|answer| assert_eq!(outcome(answer)["verdict"], "transmit", "{answer}"));
}

#[test]
fn a_pod_s_name_may_be_as_long_as_names_may_be() {
    let name = "n".repeat(253);
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "a".repeat(63), "name": name},
        "spec": {"nodeName": "node-a"}, "status": {"phase": "Running", "podIP": "10.0.1.77"}});
    let all = answers(
        "policy-long",
        &[pod],
        &[
            flow("a", "10.0.1.5", ("10.0.1.77", 80), "TCP"),
            flow("b", "10.0.1.77", ("10.0.1.5", 80), "TCP"),
        ],
    );
    let out = outcome(&all[0])["out"].as_str().unwrap();
    assert!(out.starts_with("pod:aaa") && out.ends_with(&name), "{out}");
    assert_eq!(outcome(&all[1])["verdict"], "transmit");
}

#[test]
fn a_flow_that_began_before_any_policy_is_whose_it_was() {
    let folder = Folder::new("policy-before");
    let web = json!({"matchLabels": {"app": "web"}});
    let deny_in = network_policy("no-way-in", json!({"podSelector": web.clone()}));
    let deny_out =
        network_policy("no-way-out", json!({"podSelector": web, "policyTypes": ["Egress"]}));
    let outward = |id: &str| flow(id, "10.0.1.7", ("203.0.113.9", 9), "UDP");
    let inward = |id: &str| {
        with(flow(id, "203.0.113.9", ("10.0.1.7", 8080), "TCP"), json!({"from": "uplink"}))
    };
    let (all, _) = folder.script(&[
        json!({"flow": outward("out")}),
        json!({"flow": inward("in")}),
        json!({"flow": {"id": "in", "reverse": true}}),
        json!({"objects": [deny_in]}),
        json!({"flow": {"id": "out", "reverse": true}}),
        json!({"flow": outward("on")}),
        json!({"flow": {"id": "in", "reverse": true}}),
        json!({"delete": [{"kind": "NetworkPolicy", "namespace": "default", "name": "no-way-in"}]}),
        json!({"objects": [deny_out]}),
        json!({"flow": outward("ended")}),
        json!({"flow": {"id": "in", "reverse": true, "flags": "ACK"}}),
    ]);
    let verdicts: Vec<&str> =
        all.iter().map(|answer| outcome(answer)["verdict"].as_str().unwrap()).collect();
    assert_eq!(
        verdicts,
        ["transmit", "transmit", "transmit", "transmit", "transmit", "drop", "drop", "transmit"],
        "{all:?}"
    );
    assert_eq!(denied_by(&all[5]), "NetworkPolicy default/no-way-in (ingress)");
    assert_eq!(denied_by(&all[6]), "NetworkPolicy default/no-way-out (egress)");
}

#[test]
fn an_address_that_two_pods_claim_is_closed_and_both_are_named() {
    let pod = |name: &str| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "default", "name": name, "labels": {"app": name}},
        "spec": {"nodeName": "node-a"}, "status": {"phase": "Running", "podIP": "10.0.1.78"}})
    };
    let policy = network_policy("one", json!({"podSelector": {"matchLabels": {"app": "one"}}}));
    let ask = flow("a", "10.0.1.5", ("10.0.1.78", 80), "TCP");
    let all = answers("policy-twins", &[pod("one"), pod("two"), policy], &[ask]);
    let by = denied_by(&all[0]);
    assert!(by.contains("default/one and default/two"), "{by}");
}

/// What becomes of flows of the web pod of this node to its own service: with itself as the backend, and with the other one.
fn to_itself(answer: &Value) -> [&Value; 2] {
    let outcomes = answer["outcomes"].as_array().unwrap();
    assert_eq!(outcomes.len(), 2, "{answer}");
    let other = outcomes.iter().position(|it| {
        it["backend"] == "10.0.2.9:8080" || it["by"] == "NetworkPolicy default/closed (egress)"
    });
    let other = other.unwrap_or_else(|| panic!("{answer}"));
    [&outcomes[1 - other], &outcomes[other]]
}

#[test]
fn a_pod_that_reaches_itself_by_its_service_is_subject_to_cluster_policies_alone() {
    let own = flow("own", "10.0.1.7", ("10.0.1.7", 8080), "TCP");
    let by_service =
        with(flow("service", "10.0.1.7", ("172.30.0.41", 80), "TCP"), json!({"count": 64}));
    let cluster = json!({"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy", "metadata": {"name": "apart"},
        "spec": {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}},
            "ingress": [{"action": "Deny", "from": [{"pods": {"podSelector": {"matchLabels": {"app": "web"}}}}]}]}});
    let all = answers("policy-itself", &[cluster], &[own.clone(), by_service.clone()]);
    assert_eq!(outcome(&all[0])["verdict"], "transmit", "its own address is its own affair");
    let [itself, other] = to_itself(&all[1]);
    assert_eq!((&itself["verdict"], &itself["reason"]), (&json!("drop"), &json!("policy")));
    assert_eq!(itself["by"], "ClusterNetworkPolicy apart (ingress) rule 1");
    assert_eq!(other["verdict"], "transmit", "the other node judges that");
    let closed = network_policy(
        "closed",
        json!({"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress", "Egress"]}),
    );
    let all = answers("policy-itself-network", &[closed], &[own, by_service]);
    assert_eq!(outcome(&all[0])["verdict"], "transmit");
    let [itself, other] = to_itself(&all[1]);
    assert_eq!(itself["verdict"], "transmit", "a pod can't be kept from itself");
    assert_eq!(other["by"], "NetworkPolicy default/closed (egress)");
}
