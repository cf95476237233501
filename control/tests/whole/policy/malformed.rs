//! Malformed policies, one kind each: what is bad is named and matches nothing, what is good works, the selected pods stay isolated,
//! other policies are as they were.

use serde_json::{Value, json};

use super::{said, worlds::Control};

fn pod(name: &str, last: u8, app: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "default", "name": name, "labels": {"app": app}},
        "spec": {"nodeName": "node-0", "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]},
        "status": {"phase": "Running", "podIPs": [{"ip": format!("10.0.0.{last}")}]}})
}

fn world() -> Control {
    let mut control = Control::new();
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-0"},
        "spec": {"podCIDRs": ["10.0.0.0/24"]}, "status": {"addresses": [{"type": "InternalIP", "address": "192.168.0.1"}]}});
    let other = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"namespace": "default", "name": "other"},
        "spec": {"podSelector": {"matchLabels": {"app": "other"}}, "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "web"}}}]}]}});
    for object in [node, pod("web", 2, "web"), pod("db", 3, "db"), pod("other", 4, "other"), other]
    {
        control.set(&object);
    }
    control
}

/// `default/db` is selected; 203.0.113.9 may reach it at port 7 by the good item of every list.
fn good_peer() -> Value {
    json!({"ipBlock": {"cidr": "203.0.113.9/32"}})
}

fn ask(control: &Control, from: &str, to: u8, port: u16) -> String {
    let from: std::net::IpAddr = from.parse().unwrap();
    let to: std::net::IpAddr = [10, 0, 0, to].into();
    said(control.writer.tables().snapshot(), from.into(), to.into(), 6, port)
}

/// Applies a policy of that spec. `fields` are refused, in order.
fn apply(control: &mut Control, what: &str, spec: Value, fields: &[&str]) {
    let policy = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": "default", "name": "bad"}, "spec": spec});
    let refusals = control.store.apply_json(policy);
    let named: Vec<&str> = refusals.iter().map(|refusal| refusal.field.as_str()).collect();
    assert_eq!(named, fields, "{what}: {refusals:?}");
    for refusal in &refusals {
        assert_eq!((refusal.kind.as_str(), refusal.name.as_str()), ("NetworkPolicy", "bad"));
        assert!(!refusal.why.is_empty());
    }
    control.publish();
    // Others are as they were.
    assert_eq!(
        ask(control, "10.0.0.2", 4, 80),
        "allow by NetworkPolicy default/other (ingress) rule 1",
        "{what}"
    );
    let denied = ask(control, "10.0.0.3", 4, 80);
    assert!(
        denied.starts_with("deny") && denied.ends_with("by NetworkPolicy default/other (ingress)"),
        "{what}: {denied}"
    );
}

const BY_BAD: &str = "deny by NetworkPolicy default/bad (ingress)";

#[test]
fn a_bad_peer_matches_nothing_and_the_good_one_beside_it_works() {
    let expression = |of: Value| json!({"podSelector": {"matchExpressions": [of]}});
    let cases: Vec<(&str, Value, &str)> = vec![
        ("an empty peer", json!({}), ""),
        ("a null peer", json!(null), ""),
        ("a peer of text", json!("pods"), ""),
        ("nothing but nulls", json!({"podSelector": null}), ""),
        (
            "a block with a selector",
            json!({"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/24"}}),
            "",
        ),
        ("an unknown field", json!({"podSelector": {}, "serviceSelector": {}}), ".serviceSelector"),
        ("a field misspelt", json!({"podselector": {}}), ".podselector"),
        ("a selector of text", json!({"podSelector": "app=web"}), ".podSelector"),
        (
            "matchLabels as a list",
            json!({"podSelector": {"matchLabels": ["app"]}}),
            ".podSelector.matchLabels",
        ),
        (
            "a label that is a number",
            json!({"podSelector": {"matchLabels": {"app": 1}}}),
            ".podSelector.matchLabels[\"app\"]",
        ),
        (
            "a label value that is none",
            json!({"podSelector": {"matchLabels": {"app": "a b"}}}),
            ".podSelector.matchLabels[\"app\"]",
        ),
        (
            "an unknown operator",
            expression(json!({"key": "app", "operator": "Equals", "values": ["web"]})),
            ".podSelector.matchExpressions[0].operator",
        ),
        (
            "an operator in lower case",
            expression(json!({"key": "app", "operator": "exists"})),
            ".podSelector.matchExpressions[0].operator",
        ),
        (
            "no operator",
            expression(json!({"key": "app"})),
            ".podSelector.matchExpressions[0].operator",
        ),
        (
            "values with Exists",
            expression(json!({"key": "app", "operator": "Exists", "values": ["web"]})),
            ".podSelector.matchExpressions[0].values",
        ),
        (
            "In without values",
            expression(json!({"key": "app", "operator": "In"})),
            ".podSelector.matchExpressions[0].values",
        ),
        (
            "NotIn without values",
            expression(json!({"key": "app", "operator": "NotIn", "values": []})),
            ".podSelector.matchExpressions[0].values",
        ),
        (
            "no key",
            expression(json!({"operator": "Exists"})),
            ".podSelector.matchExpressions[0].key",
        ),
        (
            "a key that is none",
            expression(json!({"key": "a b", "operator": "DoesNotExist"})),
            ".podSelector.matchExpressions[0].key",
        ),
        (
            "a bad namespaceSelector",
            json!({"podSelector": {}, "namespaceSelector": {"matchLabels": []}}),
            ".namespaceSelector.matchLabels",
        ),
        ("a block without cidr", json!({"ipBlock": {}}), ".ipBlock.cidr"),
        ("a block of text", json!({"ipBlock": "10.0.0.0/24"}), ".ipBlock"),
        ("an address without length", json!({"ipBlock": {"cidr": "10.0.0.2"}}), ".ipBlock.cidr"),
        ("a length too long", json!({"ipBlock": {"cidr": "10.0.0.0/33"}}), ".ipBlock.cidr"),
        ("a negative length", json!({"ipBlock": {"cidr": "10.0.0.0/-1"}}), ".ipBlock.cidr"),
        ("leading zeros", json!({"ipBlock": {"cidr": "010.0.0.0/24"}}), ".ipBlock.cidr"),
        ("white space", json!({"ipBlock": {"cidr": "10.0.0.0/24 "}}), ".ipBlock.cidr"),
        ("a number", json!({"ipBlock": {"cidr": 10}}), ".ipBlock.cidr"),
        ("IPv4 in IPv6", json!({"ipBlock": {"cidr": "::ffff:10.0.0.0/120"}}), ".ipBlock.cidr"),
        (
            "an exception outside",
            json!({"ipBlock": {"cidr": "10.0.0.0/24", "except": ["10.0.1.0/28"]}}),
            ".ipBlock.except[0]",
        ),
        (
            "an exception as wide",
            json!({"ipBlock": {"cidr": "10.0.0.0/24", "except": ["10.0.0.0/24"]}}),
            ".ipBlock.except[0]",
        ),
        (
            "an exception of the other family",
            json!({"ipBlock": {"cidr": "10.0.0.0/24", "except": ["fd00::/64"]}}),
            ".ipBlock.except[0]",
        ),
        (
            "an exception that is none",
            json!({"ipBlock": {"cidr": "10.0.0.0/24", "except": ["10.0.0.x/28"]}}),
            ".ipBlock.except[0]",
        ),
        (
            "exceptions of text",
            json!({"ipBlock": {"cidr": "10.0.0.0/24", "except": "10.0.0.0/28"}}),
            ".ipBlock.except",
        ),
    ];
    let mut control = world();
    for (what, peer, field) in cases {
        let field = format!("spec.ingress[0].from[0]{field}");
        let spec = json!({"podSelector": {"matchLabels": {"app": "db"}}, "ingress": [{"from": [peer, good_peer()]}]});
        apply(&mut control, what, spec, &[&field]);
        assert_eq!(ask(&control, "10.0.0.2", 3, 7), BY_BAD, "{what}");
        assert_eq!(
            ask(&control, "203.0.113.9", 3, 7),
            "allow by NetworkPolicy default/bad (ingress) rule 1",
            "{what}"
        );
        assert_eq!(
            ask(&control, "203.0.113.9", 2, 7),
            "allow",
            "{what}: only selected pods are isolated"
        );
        // Alone it leaves the pods closed: a list with nothing readable in it is no empty list.
    }
    let spec = json!({"podSelector": {"matchLabels": {"app": "db"}}, "ingress": [{"from": [{}]}]});
    apply(&mut control, "alone", spec, &["spec.ingress[0].from[0]"]);
    assert_eq!(ask(&control, "203.0.113.9", 3, 7), BY_BAD);
}

#[test]
fn a_bad_port_matches_nothing_and_the_good_one_beside_it_works() {
    let cases: Vec<(&str, Value, &str)> = vec![
        ("port 0", json!({"port": 0}), ".port"),
        ("a port too high", json!({"port": 65536}), ".port"),
        ("a negative port", json!({"port": -1}), ".port"),
        ("a fraction", json!({"port": 80.5}), ".port"),
        ("a number as text", json!({"port": "80"}), ".port"),
        ("a name that is none", json!({"port": "HTTP"}), ".port"),
        ("a name too long", json!({"port": "a-very-long-name"}), ".port"),
        ("a port that is true", json!({"port": true}), ".port"),
        ("an end below the port", json!({"port": 90, "endPort": 80}), ".endPort"),
        ("an end too high", json!({"port": 80, "endPort": 70000}), ".endPort"),
        ("an end of text", json!({"port": 80, "endPort": "90"}), ".endPort"),
        ("an end with a name", json!({"port": "http", "endPort": 9000}), ".endPort"),
        ("an end alone", json!({"endPort": 90}), ".endPort"),
        ("a protocol in lower case", json!({"protocol": "tcp", "port": 80}), ".protocol"),
        ("an unknown protocol", json!({"protocol": "ICMP"}), ".protocol"),
        ("a protocol's number", json!({"protocol": 6}), ".protocol"),
        ("an unknown field", json!({"port": 80, "endport": 90}), ".endport"),
        ("a number alone", json!(80), ""),
        ("null", json!(null), ""),
    ];
    let mut control = world();
    for (what, port, field) in cases {
        let field = format!("spec.ingress[0].ports[0]{field}");
        let spec = json!({"podSelector": {"matchLabels": {"app": "db"}}, "ingress": [{"ports": [port, {"port": 7}]}]});
        apply(&mut control, what, spec, &[&field]);
        for closed in [80, 90, 8080, 1] {
            assert_eq!(ask(&control, "10.0.0.2", 3, closed), BY_BAD, "{what}");
        }
        assert_eq!(
            ask(&control, "10.0.0.2", 3, 7),
            "allow by NetworkPolicy default/bad (ingress) rule 1",
            "{what}"
        );
    }
}

#[test]
fn a_bad_rule_allows_nothing_and_the_good_one_beside_it_works() {
    let mut control = world();
    for (what, rule, fields) in [
        ("null", json!(null), vec![""]),
        ("text", json!("all"), vec![""]),
        ("an unknown field", json!({"form": []}), vec![".form"]),
        ("peers that are no list", json!({"from": {"podSelector": {}}}), vec![".from"]),
        ("ports that are no list", json!({"ports": {"port": 80}}), vec![".ports"]),
        ("the other direction's peers", json!({"to": []}), vec![".to"]),
    ] {
        let fields: Vec<String> =
            fields.iter().map(|field| format!("spec.ingress[0]{field}")).collect();
        let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
        let spec = json!({"podSelector": {"matchLabels": {"app": "db"}}, "ingress": [rule, {"from": [good_peer()]}]});
        apply(&mut control, what, spec, &fields);
        assert_eq!(ask(&control, "10.0.0.2", 3, 80), BY_BAD, "{what}");
        assert_eq!(
            ask(&control, "203.0.113.9", 3, 80),
            "allow by NetworkPolicy default/bad (ingress) rule 2",
            "{what}"
        );
    }
}

#[test]
fn what_says_whom_a_policy_is_about_isolates_them_or_more() {
    let mut control = world();
    let ingress = json!([{"from": [good_peer()]}]);
    // The requirement that can be read holds.
    let selector = json!({"matchLabels": {"app": "db"}, "matchExpressions": [{"key": "app", "operator": "in", "values": ["db"]}]});
    let spec = json!({"podSelector": selector, "ingress": ingress});
    apply(
        &mut control,
        "a bad expression",
        spec,
        &["spec.podSelector.matchExpressions[0].operator"],
    );
    assert_eq!(ask(&control, "10.0.0.2", 3, 80), BY_BAD);
    assert_eq!(
        ask(&control, "203.0.113.9", 3, 80),
        "allow by NetworkPolicy default/bad (ingress) rule 1"
    );
    assert_eq!(ask(&control, "10.0.0.3", 2, 80), "allow");
    // Policies and other parts that are no lists or mappings.
    for (what, spec, field) in [
        (
            "types of text",
            json!({"podSelector": {"matchLabels": {"app": "db"}}, "policyTypes": "Ingress"}),
            "spec.policyTypes",
        ),
        (
            "an unknown type",
            json!({"podSelector": {"matchLabels": {"app": "db"}}, "policyTypes": ["Inbound"]}),
            "spec.policyTypes[0]",
        ),
        (
            "rules that are no list",
            json!({"podSelector": {"matchLabels": {"app": "db"}}, "ingress": {}}),
            "spec.ingress",
        ),
        (
            "an unknown field",
            json!({"podSelector": {"matchLabels": {"app": "db"}}, "ingres": [{}]}),
            "spec.ingres",
        ),
    ] {
        apply(&mut control, what, spec, &[field]);
        assert_eq!(ask(&control, "10.0.0.2", 3, 80), BY_BAD, "{what}");
        assert_eq!(ask(&control, "10.0.0.3", 2, 80), "allow", "{what}");
    }
    let out = json!({"podSelector": {"matchLabels": {"app": "db"}}, "egress": "none"});
    apply(&mut control, "egress that is no list", out, &["spec.egress"]);
    assert_eq!(ask(&control, "10.0.0.3", 2, 80), "deny by NetworkPolicy default/bad (egress)");
}

/// Applies a policy that names itself like this; its rules allow 203.0.113.9. The fields are refused.
fn named(control: &mut Control, version: Value, metadata: Value, fields: &[&str]) -> Vec<String> {
    let policy = json!({"apiVersion": version, "kind": "NetworkPolicy", "metadata": metadata,
        "spec": {"podSelector": {"matchLabels": {"app": "db"}}, "ingress": [{"from": [good_peer()]}]}});
    let refusals = control.store.apply_json(policy);
    let named: Vec<&str> = refusals.iter().map(|refusal| refusal.field.as_str()).collect();
    assert_eq!(named, fields, "{metadata}: {refusals:?}");
    control.publish();
    assert_eq!(
        ask(control, "10.0.0.2", 4, 80),
        "allow by NetworkPolicy default/other (ingress) rule 1",
        "{metadata}"
    );
    ["10.0.0.2", "203.0.113.9"].map(|from| ask(control, from, 3, 80)).into()
}

#[test]
fn a_policy_whose_identity_is_bad_isolates_whom_it_selects() {
    const V1: &str = "networking.k8s.io/v1";
    let good = json!({"namespace": "default", "name": "bad"});
    let is_allowed = |said: &str| said.starts_with("allow by NetworkPolicy default/");
    // Who it is can be guessed, and its rules are in force.
    for (version, metadata, fields) in [
        (json!("extensions/v1beta1"), good.clone(), vec!["apiVersion"]),
        (json!(V1), json!({"namespace": "default"}), vec!["metadata.name"]),
        (json!(V1), json!({"name": "Not_A_Name"}), vec!["metadata.name"]),
        (json!(V1), json!({"name": ["bad"]}), vec!["metadata.name"]),
        (json!(V1), json!({"name": 7}), vec!["metadata.name"]),
        (json!(V1), json!(null), vec!["metadata.name"]),
        (json!(V1), json!("bad"), vec!["metadata.name"]),
    ] {
        let said = named(&mut world(), version, metadata, &fields);
        assert!(said[0].starts_with("deny by NetworkPolicy default/"), "{said:?}");
        assert!(is_allowed(&said[1]), "{said:?}");
    }
    // What its rules mean can't be told.
    for version in [json!("networking.k8s.io/v2"), json!("extensions/v1"), json!(null), json!(1)] {
        let said = named(&mut world(), version, good.clone(), &["apiVersion"]);
        assert_eq!(said, [BY_BAD, BY_BAD]);
    }
    // Nor where its pods are.
    let somewhere = json!({"namespace": {"name": "default"}, "name": "bad"});
    let said = named(&mut world(), json!(V1), somewhere, &["metadata.namespace"]);
    assert_eq!(said, [BY_BAD, BY_BAD]);
    // No pod is in such a namespace.
    for namespace in [json!("No Name"), json!(5), json!(true)] {
        let metadata = json!({"namespace": namespace, "name": "bad"});
        let said = named(&mut world(), json!(V1), metadata, &["metadata.namespace"]);
        assert_eq!(said, ["allow", "allow"]);
    }
    // Its version is the last word: an older one may have left open what this one closes.
    let mut control = world();
    assert!(is_allowed(&named(&mut control, json!(V1), good.clone(), &[])[1]));
    let said = named(&mut control, json!("networking.k8s.io/v2"), good.clone(), &["apiVersion"]);
    assert_eq!(said, [BY_BAD, BY_BAD]);
    assert!(control.store.delete_named("NetworkPolicy", "default", "bad"));
    control.publish();
    assert_eq!(ask(&control, "10.0.0.2", 3, 80), "allow");
}

#[test]
fn of_a_cluster_policy_of_another_version_only_denials_are_in_force() {
    for (version, fields) in [
        ("policy.networking.k8s.io/v1alpha2", vec![]),
        ("policy.networking.k8s.io/v1", vec!["apiVersion"]),
    ] {
        let mut control = world();
        let to = |action: &str, port: u16| json!({"action": action, "from": [{"namespaces": {}}], "protocols": [{"tcp": {"destinationPort": {"number": port}}}]});
        let policy = json!({"apiVersion": version, "kind": "ClusterNetworkPolicy", "metadata": {"name": "bad"},
            "spec": {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}, "ingress": [to("Accept", 80), to("Deny", 81)]}});
        let refusals = control.store.apply_json(policy);
        assert_eq!(refusals.iter().map(|r| r.field.as_str()).collect::<Vec<&str>>(), fields);
        control.publish();
        let accepted =
            ask(&control, "10.0.0.3", 4, 80).starts_with("allow by ClusterNetworkPolicy bad");
        assert_eq!(accepted, fields.is_empty());
        assert!(
            ask(&control, "10.0.0.3", 4, 81)
                .starts_with("deny by ClusterNetworkPolicy bad (ingress) rule 2")
        );
    }
}
