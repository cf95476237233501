//! What `ip` says of a namespace, and what a mirror of it says, as the same lines of text.

use std::collections::BTreeSet;

use millrace_control::kernel::{Action, Hop, Kernel, Table};
use serde_json::Value;

use crate::netns::Namespace;

/// Lines that are told apart one by one.
pub type Lines = BTreeSet<String>;

/// The mirror's lines; without neighbors that are stale in the kernel, which come and go.
pub fn mirrored(kernel: &Kernel, stale: &Lines) -> Lines {
    let name = |index: u32| kernel.links.get(&index).map_or("?", |link| link.name.as_str());
    let links = kernel.links.values().map(|link| {
        let (mac, up) = (link.mac.map_or("none".into(), |mac| mac.to_string()), link.up);
        let bare = link.mac.is_none_or(|mac| mac.0 == [0; 6]);
        let mac = if bare { "none".into() } else { mac };
        format!("link {} {mac} mtu {} up {up} running {}", link.name, link.mtu, link.running)
    });
    let addresses = kernel
        .addresses
        .iter()
        .map(|it| format!("address {} dev {} usable {}", it.net, name(it.link), it.usable));
    let routes = kernel.routes.iter().map(|route| {
        let hops = |hops: &[Hop]| {
            let mut hops: Vec<String> = hops
                .iter()
                .map(|hop| {
                    let via = hop.gateway.map_or(String::new(), |via| format!(" via {via}"));
                    let dead = if hop.dead { " dead" } else { "" };
                    format!(" [{}{via} weight {}{dead}]", name(hop.link), hop.weight)
                })
                .collect();
            hops.sort();
            format!("forward{}", hops.concat())
        };
        let action = match &route.action {
            Action::Forward(ways) => hops(ways),
            Action::Local => "local".into(),
            Action::Broadcast => "broadcast".into(),
            Action::Blackhole => "blackhole".into(),
            Action::Unreachable => "unreachable".into(),
        };
        let table = if route.table == Table::Main { "main" } else { "local" };
        format!("route {table} {} metric {} {action}", route.prefix, route.metric)
    });
    let neighbors = kernel
        .neighbors
        .iter()
        .map(|((link, addr), mac)| format!("neighbor {addr} dev {} {mac}", name(*link)))
        .filter(|line| !stale.contains(line));
    links.chain(addresses).chain(routes).chain(neighbors).collect()
}

/// The kernel's lines, by `ip`; and apart from them the stale neighbors.
pub fn asked(namespace: &Namespace) -> (Lines, Lines) {
    let mut lines = Lines::new();
    for link in list(namespace, "-d link show") {
        let flags = texts(&link["flags"]);
        let has = |flag: &str| flags.iter().any(|it| it == flag);
        let mac =
            link["address"].as_str().filter(|_| link["link_type"] == "ether").unwrap_or("none");
        let up = has("UP");
        lines.insert(format!(
            "link {} {mac} mtu {} up {up} running {}",
            text(&link["ifname"]),
            link["mtu"],
            up && has("LOWER_UP")
        ));
    }
    for link in list(namespace, "addr show") {
        for address in link["addr_info"].as_array().into_iter().flatten() {
            let unusable = address["tentative"] == true || address["dadfailed"] == true;
            lines.insert(format!(
                "address {}/{} dev {} usable {}",
                text(&address["local"]),
                address["prefixlen"],
                text(&link["ifname"]),
                !unusable
            ));
        }
    }
    for family in ["-4", "-6"] {
        for table in ["main", "local"] {
            for route in list(namespace, &format!("{family} -d route show table {table}")) {
                lines.extend(line(&route, family, table));
            }
        }
    }
    let mut stale = Lines::new();
    for neighbor in list(namespace, "neigh show nud all") {
        let state = texts(&neighbor["state"]);
        let (addr, Some(mac)) = (text(&neighbor["dst"]), neighbor["lladdr"].as_str()) else {
            continue;
        };
        let multicast = addr.starts_with("ff") || addr.starts_with("224.");
        if multicast || state.iter().any(|it| it == "FAILED" || it == "INCOMPLETE") {
            continue;
        }
        let line = format!("neighbor {addr} dev {} {mac}", text(&neighbor["dev"]));
        if state.iter().any(|it| it == "STALE") { &mut stale } else { &mut lines }.insert(line);
    }
    (lines, stale)
}

fn line(route: &Value, family: &str, table: &str) -> Option<String> {
    let destination = match (text(&route["dst"]), family) {
        ("default", "-4") => "0.0.0.0/0".into(),
        ("default", _) => "::/0".into(),
        (host, "-4") if !host.contains('/') => format!("{host}/32"),
        (host, _) if !host.contains('/') => format!("{host}/128"),
        (net, _) => net.into(),
    };
    let hop = |hop: &Value| {
        let via = match (&hop["gateway"], &hop["via"]["host"]) {
            (Value::String(via), _) | (_, Value::String(via)) => format!(" via {via}"),
            _ => String::new(),
        };
        let flags = texts(&hop["flags"]);
        let dead = flags.iter().any(|flag| flag == "dead" || flag == "linkdown");
        let weight = hop["weight"].as_u64().unwrap_or(1);
        format!(" [{}{via} weight {weight}{}]", text(&hop["dev"]), if dead { " dead" } else { "" })
    };
    let action = match route["type"].as_str().unwrap_or("unicast") {
        "unicast" => {
            let mut hops: Vec<String> = match route["nexthops"].as_array() {
                Some(hops) => hops.iter().map(hop).collect(),
                None => vec![hop(route)],
            };
            hops.sort();
            format!("forward{}", hops.concat())
        }
        kind @ ("local" | "broadcast" | "blackhole") => kind.to_owned(),
        "unreachable" | "prohibit" | "throw" => "unreachable".into(),
        // Groups, and anycast addresses, which are no destinations for forwarding.
        _ => return None,
    };
    let metric = route["metric"].as_u64().unwrap_or(0);
    Some(format!("route {table} {destination} metric {metric} {action}"))
}

fn list(namespace: &Namespace, what: &str) -> Vec<Value> {
    let text = namespace.ip(&format!("-j {what}"));
    if text.trim().is_empty() {
        return Vec::new();
    }
    match serde_json::from_str(&text) {
        Ok(Value::Array(items)) => {
            items.into_iter().filter(|item| item != &serde_json::json!({})).collect()
        }
        other => panic!("ip -j {what}: {other:?}"),
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().map(|item| text(item).to_owned()).collect()
}
