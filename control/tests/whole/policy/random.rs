//! Random objects: few names, labels, addresses and ports, so that they meet; some of their parts malformed.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// The same numbers from the same seed (xorshift64*).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 33) % limit
    }

    pub fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize].clone()
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn list<T>(&mut self, most: u64, mut make: impl FnMut(&mut Random) -> T) -> Vec<T> {
        (0..self.below(most + 1)).map(|_| make(self)).collect()
    }
}

/// Kind, namespace and name.
pub fn name(object: &Value) -> (String, String, String) {
    let of = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    (object["kind"].as_str().unwrap().to_owned(), of("namespace"), of("name"))
}

/// One object of a name counts: the last.
pub fn last_of_each_name(objects: Vec<Value>) -> Vec<Value> {
    let named: BTreeMap<_, _> = objects.into_iter().map(|it| (name(&it), it)).collect();
    named.into_values().collect()
}

/// How often a part is malformed, of 100.
#[derive(Clone, Copy)]
pub struct Odds(pub u64);

const NAMESPACES: [&str; 3] = ["default", "shop", "dev"];

pub fn pod_name(number: u64) -> (String, String) {
    (NAMESPACES[(number % 3) as usize].into(), format!("p{number}"))
}

fn labels(random: &mut Random) -> Value {
    let mut labels = Map::new();
    for (key, values) in
        [("app", ["web", "db", "api"]), ("tier", ["a", "b", ""]), ("x.io/on", ["1", "2", "3"])]
    {
        if random.chance(60) {
            labels.insert(key.into(), random.one(&values).into());
        }
    }
    labels.into()
}

pub fn namespace(random: &mut Random) -> Value {
    let name = random.one(&NAMESPACES);
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels(random)}})
}

/// Two nodes; of the first the pods are looked after.
pub fn node(number: u64, random: &mut Random) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": format!("node-{number}"), "labels": labels(random)},
        "spec": {"podCIDRs": [format!("10.0.{number}.0/24"), format!("fd00:{number}::/64")]},
        "status": {"addresses": [{"type": "InternalIP", "address": format!("192.168.0.{}", number + 1)}]}})
}

/// Pod `number`, with the addresses that belong to it on the node where it is.
pub fn pod(number: u64, random: &mut Random) -> Value {
    let (namespace, name) = pod_name(number);
    let node = random.below(2);
    let mut ips = vec![json!({"ip": format!("10.0.{node}.{}", number + 1)})];
    if random.chance(40) {
        ips.push(json!({"ip": format!("fd00:{node}::{:x}", number + 1)}));
    }
    if random.chance(4) {
        ips.clear();
    }
    let ports = random.list(3, |random| {
        let (name, protocol, port) = random.one(&[
            ("http", "TCP", 80),
            ("http", "TCP", 8080),
            ("dns", "UDP", 53),
            ("dns", "TCP", 53),
            ("web", "SCTP", 80),
        ]);
        json!({"name": name, "protocol": protocol, "containerPort": port})
    });
    let mut spec =
        json!({"nodeName": format!("node-{node}"), "containers": [{"name": "c", "ports": ports}]});
    if random.chance(5) {
        spec["hostNetwork"] = true.into();
        ips = vec![json!({"ip": format!("192.168.0.{}", node + 1)})];
    }
    let phase = if random.chance(4) { "Succeeded" } else { "Running" };
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": namespace, "name": name, "labels": labels(random)},
        "spec": spec, "status": {"phase": phase, "podIPs": ips}})
}

fn selector(random: &mut Random, odds: Odds) -> Value {
    if random.chance(odds.0) {
        return random.one(&[
            json!("app=web"),
            json!({"matchlabels": {"app": "web"}}),
            json!({"matchLabels": {"app": 1}}),
            json!({"matchLabels": {"app": "not a value"}, "matchExpressions": [{"key": "tier", "operator": "Exists"}]}),
            json!({"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "tier", "operator": "exists"}]}),
            json!({"matchExpressions": [{"key": "tier", "operator": "Exists", "values": ["a"]}]}),
            json!({"matchExpressions": [{"key": "app", "operator": "In", "values": []}]}),
            json!({"matchExpressions": [{"key": "no key/", "operator": "Exists"}]}),
            json!({"matchExpressions": {"key": "app"}}),
        ]);
    }
    if random.chance(25) {
        return json!({});
    }
    let mut selector = json!({});
    if random.chance(50) {
        selector["matchLabels"] = labels(random);
    }
    selector["matchExpressions"] = random
        .list(2, |random| {
            let key = random.one(&["app", "tier", "x.io/on", "kubernetes.io/metadata.name"]);
            let values = ["web", "db", "a", "", "1", "shop"];
            match random.below(4) {
                0 => json!({"key": key, "operator": "Exists"}),
                1 => json!({"key": key, "operator": "DoesNotExist", "values": []}),
                which => json!({"key": key, "operator": if which == 2 { "In" } else { "NotIn" },
                    "values": [random.one(&values), random.one(&values)]}),
            }
        })
        .into();
    selector
}

const CIDRS: [&str; 9] = [
    "0.0.0.0/0",
    "10.0.0.0/16",
    "10.0.0.0/29",
    "10.0.1.4/30",
    "203.0.113.0/24",
    "203.0.113.7/32",
    "192.168.0.2/32",
    "::/0",
    "fd00:1::/64",
];

fn cidr(random: &mut Random, odds: Odds) -> Value {
    if random.chance(odds.0) {
        return random.one(&[
            json!("10.0.0.0/33"),
            json!("10.0.0.0"),
            json!("010.0.0.0/8"),
            json!(" 10.0.0.0/8"),
            json!(10),
            json!(""),
            json!("0.0.0.0/00"),
            json!(null),
        ]);
    }
    // Bits behind the prefix are cut off.
    if random.chance(10) { json!("10.0.0.9/29") } else { random.one(&CIDRS).into() }
}

fn np_port(random: &mut Random, odds: Odds) -> Value {
    if random.chance(odds.0) {
        return random.one(&[
            json!({"protocol": "tcp", "port": 80}),
            json!({"port": 0}),
            json!({"port": 65536}),
            json!({"port": "80"}),
            json!({"port": 90, "endPort": 80}),
            json!({"port": "http", "endPort": 90}),
            json!({"endPort": 90}),
            json!({"port": 80.5}),
            json!({"port": -1}),
            json!({"ports": 80}),
            json!({"port": "-http"}),
            json!({"protocol": 6}),
            json!({"port": true}),
            json!(80),
            json!(null),
        ]);
    }
    let mut port = json!({});
    if random.chance(60) {
        port["protocol"] = random.one(&["TCP", "UDP", "SCTP"]).into();
    }
    match random.below(6) {
        0 => {}
        1 => port["port"] = random.one(&["http", "dns", "web", "none"]).into(),
        2 => {
            port["port"] = random.one(&[1, 53, 79]).into();
            port["endPort"] = random.one(&[80, 443, 65535]).into();
        }
        _ => port["port"] = random.one(&[53, 80, 443, 8080]).into(),
    }
    port
}

fn np_peer(random: &mut Random, odds: Odds) -> Value {
    if random.chance(odds.0) {
        return random.one(&[
            json!({}),
            json!(null),
            json!("pods"),
            json!({"podSelector": null}),
            json!({"podSelector": {}, "ipBlock": {"cidr": "0.0.0.0/0"}}),
            json!({"podselector": {}}),
            json!({"ipBlock": {"cidr": "10.0.0.0/16", "except": ["10.1.0.0/24"]}}),
            json!({"ipBlock": {"cidr": "10.0.0.0/16", "except": ["10.0.0.0/16"]}}),
            json!({"ipBlock": {"cidr": "10.0.0.0/16", "except": ["10.0.0.0/33"]}}),
            json!({"ipBlock": {"cidr": "10.0.0.0/16", "except": "10.0.0.0/24"}}),
            json!({"ipBlock": {"cidrs": ["10.0.0.0/16"]}}),
            json!({"ipBlock": {}}),
            json!({"ipBlock": "10.0.0.0/16"}),
        ]);
    }
    match random.below(5) {
        0 => json!({"podSelector": selector(random, odds)}),
        1 => json!({"namespaceSelector": selector(random, odds)}),
        2 => {
            json!({"podSelector": selector(random, odds), "namespaceSelector": selector(random, odds)})
        }
        3 => json!({"ipBlock": {"cidr": cidr(random, odds)}}),
        _ => {
            let (net, outs) = random.one(&[
                ("0.0.0.0/0", ["10.0.0.0/8", "203.0.113.7/32"]),
                ("10.0.0.0/16", ["10.0.0.0/28", "10.0.1.0/30"]),
                ("fd00::/16", ["fd00:1::/64", "fd00:0::2/128"]),
            ]);
            let except = random.list(2, |random| random.one(&outs));
            json!({"ipBlock": {"cidr": net, "except": except}})
        }
    }
}

fn np_rule(random: &mut Random, odds: Odds, peers: &str) -> Value {
    if random.chance(odds.0) {
        return random.one(&[
            json!(null),
            json!("all"),
            json!({"form": []}),
            json!({"ports": "80"}),
            json!({"from": {}, "to": {}}),
        ]);
    }
    let mut rule = json!({});
    if random.chance(75) {
        rule[peers] = random.list(3, |random| np_peer(random, odds)).into();
    }
    if random.chance(65) {
        rule["ports"] = random.list(3, |random| np_port(random, odds)).into();
    }
    rule
}

pub fn network_policy(name: &str, random: &mut Random, odds: Odds) -> Value {
    let mut spec = json!({"podSelector": selector(random, odds)});
    if random.chance(70) {
        spec["ingress"] = random.list(3, |random| np_rule(random, odds, "from")).into();
    }
    if random.chance(60) {
        spec["egress"] = random.list(3, |random| np_rule(random, odds, "to")).into();
    }
    match random.below(6) {
        0 => spec["policyTypes"] = json!(["Ingress"]),
        1 => spec["policyTypes"] = json!(["Egress"]),
        2 => spec["policyTypes"] = json!(["Ingress", "Egress"]),
        3 => spec["policyTypes"] = json!([]),
        4 if random.chance(odds.0) => {
            spec["policyTypes"] = json!([random.one(&["ingress", "Egress"]), 7])
        }
        _ => {}
    }
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": random.one(&NAMESPACES), "name": name}, "spec": spec})
}

fn cnp_protocol(random: &mut Random, odds: Odds) -> Value {
    if random.chance(odds.0) {
        return random.one(&[
            json!({}),
            json!({"tcp": {}}),
            json!({"tcp": {"destinationPort": {"number": 0}}}),
            json!({"tcp": {"destinationPort": {"range": {"start": 90, "end": 80}}}}),
            json!({"tcp": {"destinationPort": {"number": 80}}, "udp": {"destinationPort": {"number": 80}}}),
            json!({"icmp": {}}),
            json!({"destinationNamedPort": ""}),
            json!("TCP"),
        ]);
    }
    let number = random.one(&[53, 80, 443, 8080]);
    let protocol = random.one(&["tcp", "udp", "sctp"]);
    match random.below(4) {
        0 => json!({"destinationNamedPort": random.one(&["http", "dns", "web"])}),
        1 => json!({protocol: {"destinationPort": {"range": {"start": 53, "end": number + 1}}}}),
        _ => json!({protocol: {"destinationPort": {"number": number}}}),
    }
}

fn cnp_peer(random: &mut Random, odds: Odds, egress: bool) -> Value {
    if random.chance(odds.0) {
        return random.one(&[
            json!({}),
            json!({"sameLabels": ["app"]}),
            json!({"namespaces": {}, "pods": {"namespaceSelector": {}, "podSelector": {}}}),
            json!({"pods": {"namespaceSelector": {}}}),
            json!({"networks": []}),
            json!({"networks": "10.0.0.0/8"}),
            json!({"domainNames": ["example.org"]}),
            json!({"nodes": 1}),
            json!(null),
        ]);
    }
    match random.below(if egress { 4 } else { 2 }) {
        0 => json!({"namespaces": selector(random, odds)}),
        1 if random.chance(20) => json!({"pods": {"podSelector": selector(random, odds)}}),
        1 => {
            json!({"pods": {"namespaceSelector": selector(random, odds), "podSelector": selector(random, odds)}})
        }
        2 => json!({"nodes": selector(random, odds)}),
        _ => json!({"networks": [cidr(random, odds), random.one(&CIDRS)]}),
    }
}

fn cnp_rule(random: &mut Random, odds: Odds, egress: bool) -> Value {
    let mut rule = json!({"name": "r", "action": random.one(&["Accept", "Deny", "Pass"])});
    if random.chance(odds.0) {
        rule["action"] = random.one(&[json!("Allow"), json!(null), json!(1)]);
    }
    let mut peers = random.list(2, |random| cnp_peer(random, odds, egress));
    if !random.chance(odds.0) {
        peers.push(cnp_peer(random, odds, egress));
    }
    rule[if egress { "to" } else { "from" }] = peers.into();
    if random.chance(60) {
        rule["protocols"] = vec![cnp_protocol(random, odds), cnp_protocol(random, odds)].into();
    }
    if random.chance(odds.0) {
        rule["protocol"] = json!("TCP");
    }
    rule
}

pub fn cluster_policy(name: &str, random: &mut Random, odds: Odds) -> Value {
    let mut spec = json!({"tier": random.one(&["Admin", "Baseline"]), "priority": random.below(4)});
    spec["subject"] = match random.below(2) {
        0 => json!({"namespaces": selector(random, odds)}),
        _ => {
            json!({"pods": {"namespaceSelector": selector(random, odds), "podSelector": selector(random, odds)}})
        }
    };
    if random.chance(odds.0) {
        let (field, value) = random.one(&[
            ("tier", json!("admin")),
            ("priority", json!(1001)),
            ("priority", json!("1")),
            ("subject", json!({})),
            ("subject", json!({"pods": {"namespaceSelector": {}}})),
        ]);
        spec[field] = value;
    }
    spec["ingress"] = random.list(3, |random| cnp_rule(random, odds, false)).into();
    spec["egress"] = random.list(3, |random| cnp_rule(random, odds, true)).into();
    json!({"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": {"name": name}, "spec": spec})
}
