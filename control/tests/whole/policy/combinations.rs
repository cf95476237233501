//! Every combination of whom a NetworkPolicy selects, which peers and ports it names, and what is there beside it: the cases that the generator of
//! cyclonus makes (network-policy-api, `policy-assistant generate`), in our own words, and some that it leaves out. Nine pods (x, y, z with a, b, c in
//! each) ask one another, and an address outside, about two ports of three protocols; the tables say what the model says.

use serde_json::{Value, json};

use super::{
    model::Model,
    worlds::{Control, compare_all},
};

const SPACES: [&str; 3] = ["x", "y", "z"];
const PODS: [&str; 3] = ["a", "b", "c"];
const FLOWS: [(&str, u64); 9] = [
    ("TCP", 80),
    ("TCP", 81),
    ("UDP", 80),
    ("UDP", 81),
    ("SCTP", 80),
    ("SCTP", 81),
    ("TCP", 79),
    ("TCP", 53),
    ("ICMP", 0),
];

fn namespace(name: &str, labels: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
}

fn ip(space: usize, pod: usize) -> String {
    format!("10.0.{}.{}", 16 * space, 2 + 16 * pod)
}

fn pod(space: &str, name: &str, ip: String, labels: Value) -> Value {
    let ports = |number: u16| {
        ["TCP", "UDP", "SCTP"].map(|protocol| {
            json!({"name": format!("serve-{number}-{}", protocol.to_lowercase()), "containerPort": number, "protocol": protocol})
        })
    };
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": space, "name": name, "labels": labels},
        "spec": {"nodeName": "node-0", "containers": [{"name": "c80", "ports": ports(80)}, {"name": "c81", "ports": ports(81)}]},
        "status": {"phase": "Running", "podIPs": [{"ip": ip}, {"ip": ip.replace("10.0.", "fd00:0::").replace('.', ":")}]}})
}

fn base() -> Vec<Value> {
    let mut objects = vec![
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-0"}, "spec": {"podCIDRs": ["10.0.0.0/16"]},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.168.0.1"}]}}),
    ];
    for (s, space) in SPACES.iter().enumerate() {
        objects.push(namespace(space, json!({"ns": space})));
        for (p, name) in PODS.iter().enumerate() {
            objects.push(pod(space, name, ip(s, p), json!({"pod": name})));
        }
    }
    objects
}

fn policy(space: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"namespace": space, "name": name}, "spec": spec})
}

/// x/a may be reached at port 80 from, and reach, pods b and c of y and z, at port 80 by its name or number.
fn usual() -> Value {
    let peer = json!({"namespaceSelector": {"matchExpressions": [{"key": "ns", "operator": "In", "values": ["y", "z"]}]},
        "podSelector": {"matchExpressions": [{"key": "pod", "operator": "In", "values": ["b", "c"]}]}});
    json!({"podSelector": {"matchLabels": {"pod": "a"}}, "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": [peer], "ports": [{"protocol": "TCP", "port": 80}]}],
        "egress": [{"to": [peer], "ports": [{"protocol": "TCP", "port": 80}]}, {"ports": [{"protocol": "UDP", "port": 53}]}]})
}

/// The usual policy with this in the rule of a direction.
fn with(ingress: bool, field: &str, items: &[Value]) -> Value {
    let mut spec = usual();
    let (direction, list) = if ingress { ("ingress", "from") } else { ("egress", "to") };
    let field = if field == "peers" { list } else { field };
    spec[direction][0][field] = items.into();
    spec
}

fn peers() -> Vec<Value> {
    let pods = json!({"matchLabels": {"pod": "c"}});
    let space = json!({"matchLabels": {"ns": "x"}});
    let (empty, none) = (json!({}), json!(null));
    let mut all = Vec::new();
    for spaces in [&none, &empty, &space] {
        for pods in [&none, &empty, &pods] {
            let mut peer = json!({});
            for (field, selector) in [("namespaceSelector", spaces), ("podSelector", pods)] {
                if !selector.is_null() {
                    peer[field] = selector.clone();
                }
            }
            // Neither is no peer.
            if peer != json!({}) {
                all.push(peer);
            }
        }
    }
    all.push(json!({"ipBlock": {"cidr": "10.0.0.0/24"}}));
    all.push(json!({"ipBlock": {"cidr": "10.0.0.0/24", "except": ["10.0.0.0/28"]}}));
    // What the generator leaves out: bits behind the prefix, exceptions in exceptions, names of namespaces, the other operators.
    all.push(json!({"ipBlock": {"cidr": "10.0.16.77/20", "except": ["10.0.16.0/24", "10.0.16.18/32", "10.0.16.0/24"]}}));
    all.push(json!({"ipBlock": {"cidr": "fd00::/16", "except": ["fd00:0::16:0:0/96"]}}));
    all.push(json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "z"}}}));
    all.push(json!({"namespaceSelector": {"matchExpressions": [{"key": "ns", "operator": "NotIn", "values": ["x"]}]},
        "podSelector": {"matchExpressions": [{"key": "pod", "operator": "Exists"}, {"key": "gone", "operator": "DoesNotExist"}]}}));
    all
}

fn ports() -> Vec<Value> {
    let mut all = Vec::new();
    for protocol in [None, Some("TCP"), Some("UDP"), Some("SCTP")] {
        for port in [None, Some(80), Some(81)] {
            let mut item = json!({});
            if let Some(protocol) = protocol {
                item["protocol"] = protocol.into();
            }
            if let Some(port) = port {
                item["port"] = port.into();
            }
            all.push(item);
        }
    }
    for protocol in ["TCP", "UDP", "SCTP"] {
        for number in [80, 81] {
            let name = format!("serve-{number}-{}", protocol.to_lowercase());
            all.push(json!({"protocol": protocol, "port": name}));
        }
        for last in [80, 84] {
            all.push(json!({"protocol": protocol, "port": 53, "endPort": last}));
        }
    }
    // A name of another protocol's port, one that no pod has, a number that nobody serves, all ports, one as a range.
    all.push(json!({"protocol": "TCP", "port": "serve-81-udp"}));
    all.push(json!({"protocol": "TCP", "port": "serve-7981-udp"}));
    all.push(json!({"protocol": "TCP", "port": 7981}));
    all.push(json!({"port": 1, "endPort": 65535}));
    all.push(json!({"port": 81, "endPort": 81}));
    all
}

fn conflicts() -> Vec<Vec<Value>> {
    let source = |name: &str, rules: Value| {
        policy(
            "x",
            name,
            json!({"podSelector": {"matchLabels": {"pod": "b"}}, "policyTypes": ["Egress"], "egress": rules}),
        )
    };
    let destination = |name: &str, rules: Value| {
        policy(
            "y",
            name,
            json!({"podSelector": {"matchLabels": {"pod": "c"}}, "policyTypes": ["Ingress"], "ingress": rules}),
        )
    };
    let rule = |list: &str, peer: Value| json!([{list: [peer]}]);
    let (nothing, anything) = (json!([]), json!([{}]));
    let all_pods = json!({"namespaceSelector": {}});
    let all_addresses = json!({"ipBlock": {"cidr": "0.0.0.0/0"}});
    let no_address = json!({"ipBlock": {"cidr": "0.0.0.0/31"}});
    let no_pod = json!({"namespaceSelector": {"matchLabels": {"never": "there"}}});
    let mut cases = vec![
        vec![source("deny", nothing.clone()), destination("allow", anything.clone())],
        vec![source("allow", anything.clone()), destination("deny", nothing.clone())],
        vec![source("deny", json!(null)), destination("deny", json!(null))],
    ];
    for (one, other) in [
        (&nothing, &anything),
        (&json!(null), &anything),
        (&nothing, &rule("to", all_pods.clone())),
        (&nothing, &rule("to", all_addresses.clone())),
        (&rule("to", no_address.clone()), &rule("to", all_pods.clone())),
        (&rule("to", no_pod.clone()), &rule("to", all_addresses.clone())),
        (&rule("to", no_address.clone()), &nothing),
        (&rule("to", no_pod.clone()), &nothing),
    ] {
        let turned = |rules: &Value| {
            let text = rules.to_string().replace("\"to\"", "\"from\"");
            serde_json::from_str::<Value>(&text).unwrap()
        };
        cases.push(vec![source("one", one.clone()), source("other", other.clone())]);
        cases.push(vec![destination("one", turned(one)), destination("other", turned(other))]);
    }
    cases
}

/// Asks about everything after each step; a step is objects that come, and keys of those that go.
struct Asked {
    cases: usize,
    verdicts: u64,
    denied: u64,
}

impl Asked {
    fn case(&mut self, steps: &[(Vec<Value>, Vec<Value>)]) {
        self.cases += 1;
        let mut control = Control::new();
        let mut objects = base();
        objects.iter().for_each(|object| control.set(object));
        for (come, go) in steps {
            let key = |object: &Value| {
                let of =
                    |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
                (object["kind"].as_str().unwrap().to_owned(), of("namespace"), of("name"))
            };
            for object in come {
                objects.retain(|other| key(other) != key(object));
                objects.push(object.clone());
                let refused = control.store.apply_json(object.clone());
                assert!(refused.is_empty(), "{refused:?}");
            }
            for object in go {
                let (kind, namespace, name) = key(object);
                objects.retain(|other| key(other) != key(object));
                assert!(control.store.delete_named(&kind, &namespace, &name));
            }
            control.publish();
            let model = Model::new(&objects, "node-0");
            let tables = control.writer.tables();
            let (verdicts, denied) =
                compare_all(tables.snapshot(), &objects, &model, &FLOWS, self.cases as u64);
            self.verdicts += verdicts;
            self.denied += denied;
        }
    }

    fn policy(&mut self, policies: &[Value]) {
        self.case(&[(policies.to_vec(), Vec::new())]);
    }
}

#[test]
fn every_combination_is_judged_as_the_model_judges_it() {
    let mut asked = Asked { cases: 0, verdicts: 0, denied: 0 };
    let a = json!({"matchLabels": {"pod": "a"}});
    let ab = json!({"matchExpressions": [{"key": "pod", "operator": "In", "values": ["a", "b"]}]});
    // Whom it selects.
    for space in SPACES {
        asked.policy(&[policy(space, "p", usual())]);
    }
    for selector in [json!({}), json!(null), a.clone(), ab] {
        let mut spec = usual();
        spec["podSelector"] = selector;
        asked.policy(&[policy("x", "p", spec)]);
    }
    // Types that are given, and that follow from the rules.
    for types in [
        json!(null),
        json!([]),
        json!(["Ingress"]),
        json!(["Egress"]),
        json!(["Egress", "Ingress"]),
    ] {
        for rules in [
            json!({}),
            json!({"ingress": []}),
            json!({"egress": []}),
            json!({"ingress": [{}]}),
            json!({"egress": [{}]}),
            json!({"ingress": null, "egress": [{}]}),
            json!({"ingress": [{}], "egress": [{}]}),
            json!({"ingress": [{"from": [], "ports": []}], "egress": [{"to": null, "ports": null}]}),
        ] {
            let mut spec = json!({"podSelector": a.clone(), "policyTypes": types.clone()});
            for (field, value) in rules.as_object().unwrap() {
                spec[field] = value.clone();
            }
            asked.policy(&[policy("x", "p", spec)]);
        }
    }
    for ingress in [true, false] {
        let with = |field: &str, items: &[Value]| policy("x", "p", with(ingress, field, items));
        let (peers, ports) = (peers(), ports());
        asked.policy(&[with("peers", &[])]);
        asked.policy(&[with("ports", &[])]);
        for (at, one) in peers.iter().enumerate() {
            asked.policy(&[with("peers", std::slice::from_ref(one))]);
            for other in &peers[at + 1..] {
                asked.policy(&[with("peers", &[one.clone(), other.clone()])]);
            }
        }
        for port in &ports {
            asked.policy(&[with("ports", std::slice::from_ref(port))]);
        }
        for pair in [
            [json!({}), json!({"port": 80})],
            [json!({}), json!({"port": "serve-80-tcp"})],
            [json!({}), json!({"protocol": "UDP"})],
            [json!({"port": 80}), json!({"port": 81})],
            [json!({"port": 80}), json!({"port": "serve-81-tcp"})],
            [json!({"port": 80}), json!({"protocol": "UDP", "port": "serve-81-udp"})],
            [
                json!({"protocol": "UDP", "port": 80}),
                json!({"protocol": "UDP", "port": "serve-81-udp"}),
            ],
        ] {
            asked.policy(&[with("ports", &pair)]);
        }
    }
    for policies in conflicts() {
        asked.policy(&policies);
    }
    histories(&mut asked);
    println!("{} cases, {} verdicts, {} denials", asked.cases, asked.verdicts, asked.denied);
    assert!(asked.cases > 350 && asked.verdicts > 300_000, "{} {}", asked.cases, asked.verdicts);
    assert!(asked.denied > asked.verdicts / 50);
}

/// Policies, pods, namespaces and labels that come, change and go.
fn histories(asked: &mut Asked) {
    let p = |spec: Value| policy("x", "p", spec);
    let first = (vec![p(usual())], Vec::new());
    asked.case(&[first.clone(), (Vec::new(), vec![p(usual())])]);
    let udp = with(true, "ports", &[json!({"protocol": "UDP", "port": "serve-81-udp"})]);
    asked.case(&[first.clone(), (vec![p(udp)], Vec::new())]);
    let other_space = [
        namespace("y-2", json!({"ns": "y"})),
        pod("y-2", "a", "10.0.64.2".into(), json!({"pod": "a"})),
        pod("y-2", "b", "10.0.64.18".into(), json!({"pod": "b"})),
    ];
    asked.case(&[
        first.clone(),
        (other_space.to_vec(), Vec::new()),
        (Vec::new(), other_space.to_vec()),
    ]);
    let by_label =
        with(true, "peers", &[json!({"namespaceSelector": {"matchLabels": {"new": "qrs"}}})]);
    asked.case(&[
        (vec![p(by_label)], Vec::new()),
        (vec![namespace("y", json!({"ns": "y", "new": "qrs"}))], Vec::new()),
        (vec![namespace("y", json!({"ns": "y"}))], Vec::new()),
    ]);
    let d = pod("x", "d", "10.0.0.200".into(), json!({"pod": "d"}));
    asked.case(&[first.clone(), (vec![d.clone()], Vec::new()), (Vec::new(), vec![d])]);
    let yz = json!({"matchExpressions": [{"key": "ns", "operator": "In", "values": ["y", "z"]}]});
    let by_pod = with(
        true,
        "peers",
        &[json!({"namespaceSelector": yz, "podSelector": {"matchLabels": {"new": "abc"}}})],
    );
    asked.case(&[
        (vec![p(by_pod)], Vec::new()),
        (vec![pod("y", "b", ip(1, 1), json!({"pod": "b", "new": "abc"}))], Vec::new()),
        (vec![pod("y", "b", ip(1, 1), json!({"pod": "b"}))], Vec::new()),
    ]);
    // A pod that comes to be selected, and one that gets the address of another.
    let target = json!({"podSelector": {"matchLabels": {"target": "isolated"}}});
    asked.case(&[
        (vec![p(target)], Vec::new()),
        (vec![pod("x", "a", ip(0, 0), json!({"target": "isolated"}))], Vec::new()),
        (
            vec![pod("x", "new", ip(2, 2), json!({"target": "isolated"}))],
            vec![pod("z", "c", ip(2, 2), json!({}))],
        ),
    ]);
    // One policy after the other, both about the same pod.
    let of_y = |port: u16| json!({"podSelector": {"matchLabels": {"pod": "a"}}, "ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"ns": "y"}}}], "ports": [{"port": port}]}]});
    asked.case(&[
        (vec![policy("x", "eighty-one", of_y(81))], Vec::new()),
        (vec![policy("x", "eighty", of_y(80))], Vec::new()),
        (Vec::new(), vec![policy("x", "eighty-one", json!({}))]),
        (Vec::new(), vec![policy("x", "eighty", json!({}))]),
    ]);
    let open =
        |rules: Value| json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": rules});
    asked.case(&[(vec![p(open(json!([{}])))], Vec::new()), (vec![p(open(json!([])))], Vec::new())]);
    // The client is kept from what the server would allow.
    let pair = |list: &str, space: &str| json!([{list: [{"namespaceSelector": {"matchLabels": {"ns": space}}, "podSelector": {"matchLabels": {"pod": "a"}}}]}]);
    let server = |name: &str, pod: &str| {
        policy(
            "y",
            name,
            json!({"podSelector": {"matchLabels": {"pod": pod}}, "ingress": pair("from", "x")}),
        )
    };
    let client = policy(
        "x",
        "out",
        json!({"podSelector": {"matchLabels": {"pod": "a"}}, "policyTypes": ["Egress"], "egress": pair("to", "y")}),
    );
    asked.policy(&[client, server("to-a", "a"), server("to-b", "b")]);
}
