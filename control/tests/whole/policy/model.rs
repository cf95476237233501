//! What policies mean, read straight from the API's documentation and from raw objects, one question at a time. It shares no code with
//! what it is held against, is slow, and forgets everything between two questions but a list of pods.
//!
//! Of malformed parts it says what `control/README.md` says: an item that can't be read matches nothing; a requirement of the selector that says
//! whom a policy is about holds for every pod; a cluster policy's rule that denies or passes denies all where a peer has no known field.

use std::net::IpAddr;

use serde_json::{Map, Value};

/// A pod of the pod network.
#[derive(Debug)]
struct Pod {
    namespace: String,
    node: String,
    labels: Map<String, Value>,
    addresses: Vec<IpAddr>,
    /// Name, protocol, port.
    ports: Vec<(String, String, u64)>,
}

/// What one direction's rules say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    pub allow: bool,
    /// None: nobody had to.
    pub by: Vec<String>,
    pub rule: Option<usize>,
}

/// The objects, and the node whose pods are looked after.
pub struct Model {
    objects: Vec<Value>,
    pods: Vec<Pod>,
    node: String,
}

/// A rule of some policy that is about the flow's end and its peer.
struct Matching<'a> {
    order: (u8, u64, String),
    name: String,
    at: usize,
    action: &'static str,
    /// `None`: all protocols and ports.
    ports: Option<Vec<Meant<'a>>>,
}

/// One item of ports.
struct Meant<'a> {
    protocol: Option<&'a str>,
    which: Which<'a>,
}

enum Which<'a> {
    From(u64, u64),
    Named(&'a str),
}

fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

fn items<'a>(value: &'a Value, path: &str) -> &'a [Value] {
    value.pointer(path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn addresses(pod: &Value) -> Vec<IpAddr> {
    let listed = items(pod, "/status/podIPs").iter().map(|ip| text(ip, "/ip"));
    listed.filter_map(|ip| ip.parse().ok()).collect()
}

impl Model {
    pub fn new(objects: &[Value], node: &str) -> Model {
        let mut pods = Vec::new();
        for object in objects.iter().filter(|object| object["kind"] == "Pod") {
            let ended = ["Succeeded", "Failed"].contains(&text(object, "/status/phase"));
            if object["spec"]["hostNetwork"] == true || ended {
                continue;
            }
            let ports = items(object, "/spec/containers").iter().flat_map(|c| items(c, "/ports"));
            let ports = ports.map(|port| {
                let protocol = port["protocol"].as_str().unwrap_or("TCP");
                let number = port["containerPort"].as_u64().unwrap();
                (text(port, "/name").to_owned(), protocol.to_owned(), number)
            });
            pods.push(Pod {
                namespace: text(object, "/metadata/namespace").into(),
                node: text(object, "/spec/nodeName").into(),
                labels: object["metadata"]["labels"].as_object().cloned().unwrap_or_default(),
                addresses: addresses(object),
                ports: ports.collect(),
            });
        }
        Model { objects: objects.to_vec(), pods, node: node.into() }
    }

    fn of(&self, kind: &str) -> impl Iterator<Item = &Value> {
        self.objects.iter().filter(move |object| object["kind"] == kind)
    }

    fn pod(&self, ip: IpAddr) -> Option<&Pod> {
        self.pods.iter().find(|pod| pod.addresses.contains(&ip))
    }

    fn namespace_labels(&self, name: &str) -> Map<String, Value> {
        let object = self.of("Namespace").find(|object| object["metadata"]["name"] == name);
        let mut labels = object
            .and_then(|object| object["metadata"]["labels"].as_object().cloned())
            .unwrap_or_default();
        labels.insert("kubernetes.io/metadata.name".into(), name.into());
        labels
    }

    fn own(&self, ip: IpAddr) -> bool {
        let mut nodes = self.of("Node").filter(|node| text(node, "/metadata/name") == self.node);
        nodes.any(|node| {
            items(node, "/status/addresses").iter().any(|a| text(a, "/address").parse() == Ok(ip))
        })
    }

    fn is_shadow(policy: &Value) -> bool {
        policy["metadata"]["annotations"]["millrace.dev/mode"] == "shadow"
    }

    /// Of this node's range of pod addresses, and nobody's.
    fn closed(&self, ip: IpAddr) -> bool {
        let enforced = |kind| self.of(kind).any(|policy| !Self::is_shadow(policy));
        let mut nodes = self.of("Node").filter(|node| text(node, "/metadata/name") == self.node);
        (enforced("NetworkPolicy") || enforced("ClusterNetworkPolicy"))
            && nodes.any(|node| {
                items(node, "/spec/podCIDRs").iter().any(|net| in_cidr(net.as_str().unwrap(), ip))
            })
            && self.pod(ip).is_none()
    }

    /// Whether a flow may begin, and what is said at its two ends where pods of this node are.
    pub fn judge(
        &self,
        from: IpAddr,
        to: IpAddr,
        flows: &[(&str, u64)],
    ) -> Vec<(bool, Option<Said>, Option<Said>)> {
        if self.own(from) {
            return vec![(true, None, None); flows.len()];
        }
        // To itself: by way of a service, other packets of that kind don't leave a pod.
        let closed = from != to && (self.closed(from) || self.closed(to)) && !self.own(to);
        let egress = self.direction(from, to, "egress");
        let ingress = self.direction(to, from, "ingress");
        let target = self.pod(to);
        let each = flows.iter().map(|(protocol, port)| {
            let answer = |rules: &Option<(Vec<Matching<'_>>, Vec<String>)>| {
                let (rules, isolating) = rules.as_ref()?;
                Some(decide(rules, isolating, protocol, *port, target))
            };
            let (egress, ingress) = (answer(&egress), answer(&ingress));
            let allowed = [&egress, &ingress].into_iter().flatten().all(|said| said.allow);
            (allowed && !closed, egress, ingress)
        });
        each.collect()
    }

    /// Rules that are about this pod and this peer, and the NetworkPolicies that isolate it. `None` when no policy is about it, or it is
    /// no pod of this node.
    fn direction(
        &self,
        at: IpAddr,
        peer: IpAddr,
        direction: &str,
    ) -> Option<(Vec<Matching<'_>>, Vec<String>)> {
        let pod = self.pod(at).filter(|pod| pod.node == self.node)?;
        let list = if direction == "ingress" { "from" } else { "to" };
        let (mut rules, mut isolating, mut concerned) = (Vec::new(), Vec::new(), false);
        // What a pod sends to its own node is no NetworkPolicy's.
        let own = self.own(peer);
        // A pod can't be kept from itself by a NetworkPolicy, which has the last word all the same.
        let mut permits = false;
        let network = self.of("NetworkPolicy").filter(|policy| !own && !Self::is_shadow(policy));
        for policy in network {
            let namespace = text(policy, "/metadata/namespace");
            let spec = &policy["spec"];
            let selects = may_select(&spec["podSelector"], &pod.labels);
            if namespace != pod.namespace || !selects || !types(spec).contains(&direction) {
                continue;
            }
            if at == peer {
                permits = true;
                continue;
            }
            let name = format!("NetworkPolicy {namespace}/{}", text(policy, "/metadata/name"));
            isolating.push(name.clone());
            concerned = true;
            for (at, rule) in items(spec, &format!("/{direction}")).iter().enumerate() {
                if !only(rule, &[list, "ports"])
                    || !is_list(&rule[list])
                    || !is_list(&rule["ports"])
                {
                    continue;
                }
                let peers = items(rule, &format!("/{list}"));
                if peers.is_empty() || peers.iter().any(|item| self.np_peer(item, namespace, peer))
                {
                    let ports = items(rule, "/ports");
                    let ports =
                        (!ports.is_empty()).then(|| ports.iter().filter_map(np_port).collect());
                    let order = (1, 0, name.clone());
                    rules.push(Matching { order, name: name.clone(), at, action: "Accept", ports });
                }
            }
        }
        for policy in self.of("ClusterNetworkPolicy").filter(|policy| !Self::is_shadow(policy)) {
            let spec = &policy["spec"];
            let all = items(spec, &format!("/{direction}"));
            if !self.subject(&spec["subject"], pod) {
                continue;
            }
            let name = format!("ClusterNetworkPolicy {}", text(policy, "/metadata/name"));
            let priority = spec["priority"].as_u64().filter(|number| *number <= 1000);
            let tier = match text(spec, "/tier") {
                "Admin" => Some(0),
                "Baseline" => Some(2),
                _ => None,
            };
            let trusted =
                priority.is_some() && tier.is_some() && well_formed_subject(&spec["subject"]);
            let order = (tier.unwrap_or(0), priority.unwrap_or(0), name.clone());
            for (at, rule) in all.iter().enumerate() {
                let Some(of) = cnp_rule(rule, list) else { continue };
                let (action, all_peers, ports) = of;
                if !trusted && action != "Deny" {
                    continue;
                }
                concerned = true;
                let peers = items(rule, &format!("/{list}"));
                if all_peers || peers.iter().any(|item| self.cnp_peer(item, peer)) {
                    rules.push(Matching {
                        order: order.clone(),
                        name: name.clone(),
                        at,
                        action,
                        ports,
                    });
                }
            }
        }
        rules.retain(|rule| !permits || rule.order.0 == 0);
        rules.sort_by(|a, b| (&a.order, a.at).cmp(&(&b.order, b.at)));
        isolating.sort();
        concerned.then_some((rules, isolating))
    }

    fn np_peer(&self, item: &Value, namespace: &str, peer: IpAddr) -> bool {
        if !only(item, &["podSelector", "namespaceSelector", "ipBlock"]) {
            return false;
        }
        let (pods, spaces, block) =
            (&item["podSelector"], &item["namespaceSelector"], &item["ipBlock"]);
        if !block.is_null() {
            return pods.is_null() && spaces.is_null() && in_block(block, peer);
        }
        let Some(pod) = self.pod(peer) else { return false };
        let here = match spaces {
            Value::Null => !pods.is_null() && pod.namespace == namespace,
            selector => matches(selector, &self.namespace_labels(&pod.namespace)),
        };
        here && (pods.is_null() || matches(pods, &pod.labels))
    }

    fn subject(&self, subject: &Value, pod: &Pod) -> bool {
        let of = self.namespace_labels(&pod.namespace);
        if !only(subject, &["namespaces", "pods"]) {
            return true;
        }
        match (&subject["namespaces"], &subject["pods"]) {
            (Value::Null, pods) if only(pods, &["namespaceSelector", "podSelector"]) => {
                may_select(&pods["namespaceSelector"], &of)
                    && may_select(&pods["podSelector"], &pod.labels)
            }
            (spaces, Value::Null) if !spaces.is_null() => may_select(spaces, &of),
            _ => true,
        }
    }

    fn cnp_peer(&self, item: &Value, peer: IpAddr) -> bool {
        let fields = item.as_object().into_iter().flat_map(Map::values);
        if fields.filter(|value| !value.is_null()).count() != 1 {
            return false;
        }
        if let Some(selector) = item.get("nodes") {
            return is_selector(selector)
                && self.of("Node").any(|node| {
                    let empty = Map::new();
                    let labels = node["metadata"]["labels"].as_object().unwrap_or(&empty);
                    matches(selector, labels)
                        && items(node, "/status/addresses")
                            .iter()
                            .any(|a| text(a, "/address").parse() == Ok(peer))
                });
        }
        let nets = items(item, "/networks").iter().filter_map(Value::as_str);
        if nets.into_iter().any(|net| is_cidr(net) && in_cidr(net, peer)) {
            return true;
        }
        let Some(pod) = self.pod(peer) else { return false };
        let of = self.namespace_labels(&pod.namespace);
        match (item.get("namespaces"), item.get("pods")) {
            (Some(selector), _) => !selector.is_null() && matches(selector, &of),
            (_, Some(pods)) => {
                let parts = [&pods["namespaceSelector"], &pods["podSelector"]];
                only(pods, &["namespaceSelector", "podSelector"])
                    && !parts[1].is_null()
                    && matches(parts[0], &of)
                    && matches(parts[1], &pod.labels)
            }
            _ => false,
        }
    }
}

/// Tier by tier.
fn decide(
    rules: &[Matching<'_>],
    isolating: &[String],
    protocol: &str,
    port: u64,
    target: Option<&Pod>,
) -> Said {
    for tier in 0..=2 {
        for rule in rules.iter().filter(|rule| rule.order.0 == tier) {
            let hits = |meant: &Meant<'_>| match meant.which {
                Which::From(first, last) => {
                    meant.protocol == Some(protocol) && (first..=last).contains(&port)
                }
                Which::Named(name) => target.is_some_and(|pod| {
                    pod.ports.iter().any(|(named, of, number)| {
                        named == name
                            && of == protocol
                            && *number == port
                            && meant.protocol.is_none_or(|wanted| wanted == protocol)
                    })
                }),
            };
            if !rule.ports.as_ref().is_none_or(|ports| ports.iter().any(hits)) {
                continue;
            }
            if rule.action == "Pass" {
                break;
            }
            let (by, rule_at) = (vec![rule.name.clone()], Some(rule.at + 1));
            return Said { allow: rule.action == "Accept", by, rule: rule_at };
        }
        if tier == 1 && !isolating.is_empty() {
            return Said { allow: false, by: isolating.to_vec(), rule: None };
        }
    }
    Said { allow: true, by: Vec::new(), rule: None }
}

fn types(spec: &Value) -> Vec<&'static str> {
    let default =
        if spec["egress"].as_array().is_some_and(Vec::is_empty) || spec["egress"].is_null() {
            vec!["ingress"]
        } else {
            vec!["ingress", "egress"]
        };
    let given = items(spec, "/policyTypes");
    if given.is_empty() {
        return default;
    }
    let mut types = Vec::new();
    for item in given {
        match item.as_str() {
            Some("Ingress") => types.push("ingress"),
            Some("Egress") => types.push("egress"),
            _ => types.extend(&default),
        }
    }
    types
}

/// Whether it is a mapping with these fields alone.
fn only(value: &Value, fields: &[&str]) -> bool {
    value.as_object().is_some_and(|map| {
        map.iter().all(|(name, value)| value.is_null() || fields.contains(&name.as_str()))
    })
}

fn is_list(value: &Value) -> bool {
    value.is_null() || value.is_array()
}

fn well_formed_subject(subject: &Value) -> bool {
    if !only(subject, &["namespaces", "pods"]) {
        return false;
    }
    match (&subject["namespaces"], &subject["pods"]) {
        (spaces, Value::Null) if !spaces.is_null() => is_selector(spaces),
        (Value::Null, pods) if !pods.is_null() => {
            only(pods, &["namespaceSelector", "podSelector"])
                && !pods["podSelector"].is_null()
                && is_selector(&pods["podSelector"])
                && is_selector(&pods["namespaceSelector"])
        }
        _ => false,
    }
}

type Rule<'a> = (&'static str, bool, Option<Vec<Meant<'a>>>);

/// The action of a cluster policy's rule, whether it is about all peers, and its ports. `None`: it matches nothing.
fn cnp_rule<'a>(rule: &'a Value, list: &str) -> Option<Rule<'a>> {
    let deny_all = Some(("Deny", true, None));
    let action = match text(rule, "/action") {
        "Accept" => "Accept",
        "Pass" => "Pass",
        "Deny" => "Deny",
        _ => return deny_all,
    };
    let kinds: &[&str] = match list {
        "from" => &["namespaces", "pods"],
        _ => &["namespaces", "pods", "nodes", "networks", "domainNames"],
    };
    let peers = items(rule, &format!("/{list}"));
    let known = |item: &Value| kinds.iter().any(|kind| !item[kind].is_null());
    let understood = only(rule, &["name", "action", list, "protocols"])
        && !peers.is_empty()
        && peers.iter().all(known);
    let given = items(rule, "/protocols");
    let protocols: Vec<Option<Meant<'_>>> = given.iter().map(cnp_port).collect();
    let names = |item: &Value| only(item, &["domainNames"]) && list == "to";
    match (action, understood, peers.iter().any(names)) {
        ("Accept", false, _) => None,
        ("Accept", ..) | (_, true, false) => {
            let all = given.is_empty() && is_list(&rule["protocols"]);
            let ports = (!all).then(|| protocols.into_iter().flatten().collect());
            Some((action, false, ports))
        }
        _ => deny_all,
    }
}

fn is_name(name: &str) -> bool {
    name.len() <= 15
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && name.bytes().any(|b| b.is_ascii_lowercase())
        && !name.starts_with('-')
        && !name.ends_with('-')
        && !name.contains("--")
}

fn port_number(value: &Value) -> Option<u64> {
    value.as_u64().filter(|port| (1..=65535).contains(port))
}

fn np_port(item: &Value) -> Option<Meant<'_>> {
    if !only(item, &["protocol", "port", "endPort"]) {
        return None;
    }
    let protocol = match &item["protocol"] {
        Value::Null => "TCP",
        Value::String(text) if ["TCP", "UDP", "SCTP"].contains(&text.as_str()) => text,
        _ => return None,
    };
    let which = match (&item["port"], &item["endPort"]) {
        (Value::Null, Value::Null) => Which::From(0, 65535),
        (Value::String(name), Value::Null) if is_name(name) => Which::Named(name),
        (port @ Value::Number(_), end) => {
            let first = port_number(port)?;
            let last = if end.is_null() { first } else { port_number(end)? };
            if last < first {
                return None;
            }
            Which::From(first, last)
        }
        _ => return None,
    };
    Some(Meant { protocol: Some(protocol), which })
}

fn cnp_port(item: &Value) -> Option<Meant<'_>> {
    let map = item.as_object()?;
    let mut fields = map.iter().filter(|(_, value)| !value.is_null());
    let (name, value) = fields.next()?;
    if fields.next().is_some() {
        return None;
    }
    let protocol = match name.as_str() {
        "tcp" => "TCP",
        "udp" => "UDP",
        "sctp" => "SCTP",
        "destinationNamedPort" => {
            let name = value.as_str().filter(|name| is_name(name))?;
            return Some(Meant { protocol: None, which: Which::Named(name) });
        }
        _ => return None,
    };
    let port = &value["destinationPort"];
    if only(value, &["destinationPort"]) && port.is_null() {
        return Some(Meant { protocol: Some(protocol), which: Which::From(0, 65535) });
    }
    if !only(value, &["destinationPort"]) || !only(port, &["number", "range"]) {
        return None;
    }
    let which = match (&port["number"], &port["range"]) {
        (number, Value::Null) => {
            let number = port_number(number)?;
            Which::From(number, number)
        }
        (Value::Null, range) if only(range, &["start", "end"]) => {
            let (first, last) = (port_number(&range["start"])?, port_number(&range["end"])?);
            if first >= last {
                return None;
            }
            Which::From(first, last)
        }
        _ => return None,
    };
    Some(Meant { protocol: Some(protocol), which })
}

fn bits(ip: IpAddr) -> (u128, u32) {
    match ip {
        IpAddr::V4(v4) => (u128::from(u32::from(v4)), 32),
        IpAddr::V6(v6) => (u128::from(v6), 128),
    }
}

/// Address and length, if it is a prefix in its plain form.
fn cidr(text: &str) -> Option<(IpAddr, u32)> {
    let (ip, length) = text.split_once('/')?;
    let ip: IpAddr = ip.parse().ok()?;
    let plain =
        length.bytes().all(|b| b.is_ascii_digit()) && (length == "0" || !length.starts_with('0'));
    let length: u32 = length.parse().ok().filter(|_| plain)?;
    (length <= bits(ip).1).then_some((ip, length))
}

fn is_cidr(text: &str) -> bool {
    cidr(text).is_some()
}

fn in_cidr(net: &str, ip: IpAddr) -> bool {
    let Some((of, length)) = cidr(net) else { return false };
    let ((a, width), (b, other)) = (bits(of), bits(ip));
    width == other && (length == 0 || a >> (width - length) == b >> (width - length))
}

fn in_block(block: &Value, ip: IpAddr) -> bool {
    let Some(net) = block["cidr"].as_str().filter(|net| is_cidr(net)) else { return false };
    if !only(block, &["cidr", "except"]) || !is_list(&block["except"]) {
        return false;
    }
    let length = cidr(net).unwrap().1;
    let except = items(block, "/except");
    let good = except.iter().all(|out| {
        out.as_str().and_then(cidr).is_some_and(|(of, longer)| longer > length && in_cidr(net, of))
    });
    good && in_cidr(net, ip) && !except.iter().any(|out| in_cidr(out.as_str().unwrap(), ip))
}

/// Each requirement: whether it holds, `None` when it can't be read.
fn requirements(selector: &Value, labels: &Map<String, Value>) -> Vec<Option<bool>> {
    if selector.is_null() {
        return Vec::new();
    }
    let mut all = Vec::new();
    if !only(selector, &["matchLabels", "matchExpressions"]) {
        all.push(None);
    }
    match &selector["matchLabels"] {
        Value::Null => {}
        Value::Object(map) => {
            for (key, value) in map {
                let good = is_key(key) && value.as_str().is_some_and(is_value);
                all.push(good.then(|| labels.get(key) == Some(value)));
            }
        }
        _ => all.push(None),
    }
    match &selector["matchExpressions"] {
        Value::Null => {}
        Value::Array(list) => all.extend(list.iter().map(|item| expression(item, labels))),
        _ => all.push(None),
    }
    all
}

fn expression(item: &Value, labels: &Map<String, Value>) -> Option<bool> {
    if !only(item, &["key", "operator", "values"]) || !is_list(&item["values"]) {
        return None;
    }
    let key = item["key"].as_str().filter(|key| is_key(key))?;
    let values = items(item, "/values");
    if !values.iter().all(|value| value.as_str().is_some_and(is_value)) {
        return None;
    }
    let label = labels.get(key);
    let listed = label.is_some_and(|label| values.contains(label));
    match (item["operator"].as_str()?, values.is_empty()) {
        ("In", false) => Some(listed),
        ("NotIn", false) => Some(!listed),
        ("Exists", true) => Some(label.is_some()),
        ("DoesNotExist", true) => Some(label.is_none()),
        _ => None,
    }
}

fn is_selector(selector: &Value) -> bool {
    requirements(selector, &Map::new()).iter().all(Option::is_some)
}

fn matches(selector: &Value, labels: &Map<String, Value>) -> bool {
    requirements(selector, labels).iter().all(|holds| *holds == Some(true))
}

/// Of a selector that says whom a policy is about.
fn may_select(selector: &Value, labels: &Map<String, Value>) -> bool {
    requirements(selector, labels).iter().all(|holds| holds.unwrap_or(true))
}

fn is_value(value: &str) -> bool {
    value.is_empty() || is_word(value)
}

fn is_word(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let outer = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.len() <= 63
        && text.chars().all(inner)
        && outer(text.chars().next())
        && outer(text.chars().last())
}

fn is_key(key: &str) -> bool {
    match key.split_once('/') {
        Some((prefix, name)) => {
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-".contains(c);
            let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
            is_word(name)
                && prefix.chars().all(plain)
                && ends(prefix.chars().next())
                && ends(prefix.chars().last())
        }
        None => is_word(key),
    }
}
