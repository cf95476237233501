//! The conformance cases of ClusterNetworkPolicy, through `millrace explain`: with all pods on one node, the one in the node's network
//! included, and with clients and servers on two nodes, where both have to let a connection pass. Then with the same policies as AdminNetworkPolicies and
//! BaselineAdminNetworkPolicies.

mod common;

use std::collections::BTreeMap;

use common::Folder;
use serde_json::{Value, json};

const COLOURS: [&str; 4] = ["red", "green", "blue", "gold"];

/// Which node a pod is on.
type Place = fn(&str) -> usize;

fn one_node(_: &str) -> usize {
    0
}

fn two_nodes(colour: &str) -> usize {
    usize::from(!["red", "green"].contains(&colour))
}

fn node_name(number: usize) -> &'static str {
    ["node-a", "node-b"][number]
}

/// `red-1`.
fn address(pod: &str, place: Place) -> String {
    let (colour, number) = pod.split_once('-').unwrap();
    let node = place(colour) + 1;
    match COLOURS.iter().position(|it| *it == colour) {
        Some(at) => format!("10.0.{node}.1{at}{number}"),
        None => format!("192.168.0.{}", node + 1),
    }
}

/// `house:red`, `name:red`, `os:linux`.
fn labels(text: &str) -> Value {
    let (key, value) = text.split_once(':').unwrap();
    let key = match key {
        "name" => "kubernetes.io/metadata.name",
        "os" => "kubernetes.io/os",
        key => key,
    };
    json!({"matchLabels": {key: value}})
}

fn peers(text: &str, place: Place) -> Vec<Value> {
    let one = |text: &str| {
        let (kind, rest) = text.split_once(' ').unwrap();
        match kind {
            "namespaces" => json!({"namespaces": labels(rest)}),
            "pods" => {
                json!({"pods": {"namespaceSelector": labels(rest), "podSelector": labels(rest)}})
            }
            "nodes" => json!({"nodes": labels(rest)}),
            "networks" => {
                let nets = rest.split(' ').map(|net| match net.contains('/') {
                    true => net.to_owned(),
                    false => format!("{}/32", address(net, place)),
                });
                json!({"networks": nets.collect::<Vec<String>>()})
            }
            kind => panic!("{kind}"),
        }
    };
    text.split(" + ").map(one).collect()
}

fn protocols(text: &str) -> Value {
    let one = |text: &str| {
        let (protocol, port) = text.split_once(':').unwrap();
        let number = |text: &str| text.parse::<u16>().unwrap();
        let port = match port.split_once('-') {
            Some((start, end)) => json!({"range": {"start": number(start), "end": number(end)}}),
            None => json!({"number": number(port)}),
        };
        json!({protocol: {"destinationPort": port}})
    };
    text.split(' ').map(one).collect::<Vec<Value>>().into()
}

/// How a policy is written.
type Form = fn(&Value) -> Value;

fn as_it_is(policy: &Value) -> Value {
    policy.clone()
}

/// A ClusterNetworkPolicy in the words of v1alpha1.
fn in_older_words(policy: &Value) -> Value {
    let mut policy = policy.clone();
    if policy["kind"] != "ClusterNetworkPolicy" {
        return policy;
    }
    policy["apiVersion"] = "policy.networking.k8s.io/v1alpha1".into();
    let spec = policy["spec"].as_object_mut().unwrap();
    let kind = match spec.remove("tier").unwrap().as_str().unwrap() {
        "Admin" => "AdminNetworkPolicy",
        _ => {
            spec.remove("priority");
            "BaselineAdminNetworkPolicy"
        }
    };
    for rule in ["ingress", "egress"]
        .into_iter()
        .flat_map(|list| spec.get(list).cloned().map(|rules| (list, rules)))
        .collect::<Vec<_>>()
    {
        let (list, mut rules) = rule;
        for rule in rules.as_array_mut().unwrap().iter_mut().map(|it| it.as_object_mut().unwrap()) {
            if rule["action"] == "Accept" {
                rule["action"] = "Allow".into();
            }
            if let Some(protocols) = rule.remove("protocols") {
                let ports = protocols.as_array().unwrap().iter().map(older_port);
                rule.insert("ports".into(), ports.collect::<Vec<Value>>().into());
            }
        }
        spec[list] = rules;
    }
    policy["kind"] = kind.into();
    if kind == "BaselineAdminNetworkPolicy" {
        policy["metadata"]["name"] = "default".into();
    }
    policy
}

fn older_port(item: &Value) -> Value {
    let (name, value) = item.as_object().unwrap().iter().next().unwrap();
    if name == "destinationNamedPort" {
        return json!({"namedPort": value});
    }
    let (protocol, port) = (name.to_uppercase(), &value["destinationPort"]);
    match &port["range"] {
        Value::Null if protocol == "TCP" => json!({"portNumber": {"port": port["number"]}}),
        Value::Null => json!({"portNumber": {"protocol": protocol, "port": port["number"]}}),
        range => {
            json!({"portRange": {"protocol": protocol, "start": range["start"], "end": range["end"]}})
        }
    }
}

/// The objects of one test, as they stand.
struct World {
    policies: BTreeMap<String, Value>,
    place: Place,
    form: Form,
    lines: Vec<Value>,
    /// By number: what was asked, which pods, and whether it passes.
    asked: Vec<(String, [String; 2], bool)>,
}

impl World {
    fn new(place: Place, form: Form) -> World {
        let mut objects: Vec<Value> = (0..2)
            .map(|number| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node_name(number), "labels": {"kubernetes.io/os": "linux"}},
                "spec": {"podCIDRs": [format!("10.0.{}.0/24", number + 1)]},
                "status": {"addresses": [{"type": "InternalIP", "address": format!("192.168.0.{}", number + 2)}]}}))
            .collect();
        for colour in COLOURS.into_iter().chain(["bare"]) {
            objects.push(Self::namespace(colour, &format!("house:{colour}")));
            for number in 0..2 {
                let pod = format!("{colour}-{number}");
                let ip = address(&pod, place);
                objects.push(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": colour, "name": pod, "labels": {"house": colour}},
                    "spec": {"nodeName": node_name(place(colour)), "hostNetwork": colour == "bare", "containers": [{"name": "c", "ports": [
                        {"name": "web", "containerPort": 80}, {"name": "dns", "containerPort": 53, "protocol": "UDP"}]}]},
                    "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]}}));
            }
        }
        let lines = vec![json!({"objects": objects})];
        World { policies: BTreeMap::new(), place, form, lines, asked: Vec::new() }
    }

    fn namespace(name: &str, label: &str) -> Value {
        let labels = labels(label)["matchLabels"].clone();
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    }

    fn policy(&mut self, words: &str) {
        let words: Vec<&str> = words.splitn(5, ' ').collect();
        let policy = match words[..] {
            [name, "NetworkPolicy", namespace] => {
                json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"namespace": namespace, "name": name},
                    "spec": {"podSelector": null, "policyTypes": ["Ingress", "Egress"]}})
            }
            [name, tier, priority, "of", subject] => {
                let subject = peers(subject, self.place).remove(0);
                let priority: u64 = priority.parse().unwrap();
                json!({"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy", "metadata": {"name": name},
                    "spec": {"tier": tier, "priority": priority, "subject": subject}})
            }
            _ => panic!("{words:?}"),
        };
        self.policies.insert(words[0].to_owned(), policy);
    }

    fn rule(&self, words: &str, network: bool) -> (&'static str, Value) {
        let (direction, rest) = words.split_once(' ').unwrap();
        let (action, rest) = rest.split_once(' ').unwrap();
        let (of, ports) =
            rest.split_once(" at ").map_or((rest, None), |(of, ports)| (of, Some(ports)));
        let (field, list) = if direction == "in" { ("ingress", "from") } else { ("egress", "to") };
        let mut rule = json!({list: peers(of, self.place)});
        if network {
            for peer in rule[list].as_array_mut().unwrap() {
                *peer = json!({"namespaceSelector": peer["namespaces"]});
            }
        } else {
            rule["action"] = format!("{}{}", action[..1].to_uppercase(), &action[1..]).into();
        }
        if let Some(ports) = ports {
            rule["protocols"] = protocols(ports);
        }
        (field, rule)
    }

    fn rules(&mut self, policy: &str, direction: &str) -> &mut Vec<Value> {
        let field = if direction == "in" { "ingress" } else { "egress" };
        let spec = &mut self.policies.get_mut(policy).unwrap()["spec"];
        if spec[field].is_null() {
            spec[field] = json!([]);
        }
        spec[field].as_array_mut().unwrap()
    }

    /// Has the objects that are changed read.
    fn apply(&mut self, name: &str) {
        self.lines.push(json!({"objects": [(self.form)(&self.policies[name])]}));
    }

    fn step(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let index = |text: &str| text.parse::<usize>().unwrap();
        match words[..] {
            ["swap", policy, direction, a, b] => {
                self.rules(policy, direction).swap(index(a), index(b));
                self.apply(policy);
            }
            ["name", policy, direction, at, port] => {
                self.rules(policy, direction)[index(at)]["protocols"] =
                    json!([{"destinationNamedPort": port}]);
                self.apply(policy);
            }
            ["action", policy, direction, at, "pass"] => {
                self.rules(policy, direction)[index(at)]["action"] = "Pass".into();
                self.apply(policy);
            }
            ["first", policy, direction, ..] => {
                let (_, rule) = self.rule(&words[2..].join(" "), false);
                self.rules(policy, direction).insert(0, rule);
                self.apply(policy);
            }
            ["priority", policy, number] => {
                self.policies.get_mut(policy).unwrap()["spec"]["priority"] = index(number).into();
                self.apply(policy);
            }
            ["label", namespace, label] => {
                self.lines.push(json!({"objects": [Self::namespace(namespace, label)]}));
            }
            ["delete", "network"] => self.lines.push(
                json!({"delete": [{"kind": "NetworkPolicy", "namespace": "red", "name": "network"}]}),
            ),
            [client, ">", server, protocol, port, ref verdict @ ..] => {
                let number = self.asked.len();
                let flow = json!({"id": number, "src": address(client, self.place), "sport": 20_000 + number,
                    "dst": address(server, self.place), "dport": index(port), "protocol": protocol.to_uppercase()});
                self.lines.push(json!({"flow": flow}));
                self.asked.push((line.into(), [client.into(), server.into()], verdict == ["passes"]));
            }
            _ => panic!("{line}"),
        }
    }

    /// Asks the nodes that the pods are on.
    fn check(&self, folder: &Folder, test: &str) -> usize {
        let file = folder.write("script.jsonl", &self.lines);
        let mut denied = vec![false; self.asked.len()];
        for node in 0..=self.asked.iter().map(|(_, pods, _)| self.nodes(pods)[1]).max().unwrap() {
            let (answers, good) = folder.explain_on(node_name(node), "--script", &file, &[]);
            assert!(good, "{test}: {answers:?}");
            let answers: Vec<&Value> = answers.iter().collect();
            assert_eq!(answers.len(), self.asked.len(), "{test}: nothing is refused");
            for (answer, (at, (_, pods, _))) in answers.iter().zip(self.asked.iter().enumerate()) {
                if !self.nodes(pods).contains(&node) {
                    continue;
                }
                let outcome = &answer["outcomes"][0];
                match outcome["verdict"].as_str().unwrap() {
                    "transmit" | "punt" => {}
                    "drop" => {
                        assert_eq!(outcome["reason"], "policy", "{test}: {answer}");
                        assert!(
                            outcome["by"].as_str().unwrap().contains("NetworkPolicy "),
                            "{test}: {answer}"
                        );
                        denied[at] = true;
                    }
                    verdict => panic!("{test}: {verdict}: {answer}"),
                }
            }
        }
        for ((asked, _, passes), denied) in self.asked.iter().zip(&denied) {
            assert_eq!(*passes, !denied, "{test}: {asked}");
        }
        self.asked.len()
    }

    /// The nodes of two pods, in order.
    fn nodes(&self, pods: &[String; 2]) -> [usize; 2] {
        let mut nodes = [0, 1].map(|at| (self.place)(pods[at].split_once('-').unwrap().0));
        nodes.sort_unstable();
        nodes
    }
}

fn run(place: Place, form: Form, name: &str) {
    let folder = Folder::new(name);
    let text = include_str!("conformance.txt");
    let (mut cases, mut connections) = (0, 0);
    for test in text.split("\ntest ").skip(1) {
        let (title, body) = test.split_once('\n').unwrap();
        let mut world = World::new(place, form);
        let mut policy = String::new();
        let mut begun = false;
        for line in body.lines() {
            let line = line.trim();
            if line == "case" {
                cases += 1;
                if !begun {
                    let all: Vec<Value> = world.policies.values().map(form).collect();
                    world.lines.push(json!({"objects": all}));
                    begun = true;
                }
            } else if let Some(words) = line.strip_prefix("policy ") {
                world.policy(words);
                policy = words.split(' ').next().unwrap().into();
            } else if begun {
                world.step(line);
            } else {
                let (field, rule) = world.rule(line, policy == "network");
                let direction = if field == "ingress" { "in" } else { "out" };
                world.rules(&policy, direction).push(rule);
            }
        }
        connections += world.check(&folder, title);
    }
    assert_eq!((cases, connections), (92, 301));
}

#[test]
fn with_all_pods_on_one_node() {
    run(one_node, as_it_is, "conformance-one");
}

#[test]
fn with_pods_on_two_nodes() {
    run(two_nodes, as_it_is, "conformance-two");
}

#[test]
fn as_admin_network_policies() {
    run(one_node, in_older_words, "conformance-older");
}
