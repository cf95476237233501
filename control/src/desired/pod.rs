//! Pod → where it runs, under which addresses, and what policies know of it: its labels and the names of its ports.

use k8s_openapi::api::core::v1::{Pod as Object, PodSpec};
use millrace_wire::Addr;

use super::{
    check::{Checker, Protocol, Use},
    selector::Labels,
};

/// A pod, as far as packets to it go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Node it is bound to; empty before that.
    pub node: String,
    /// Each address once; empty for a pod that has none yet or has ended.
    pub addresses: Vec<Addr>,
    /// It shares the node's stack and addresses: no interface of its own.
    pub host_network: bool,
    /// Its labels.
    pub labels: Labels,
    /// Its ports that have names, sorted.
    pub ports: Box<[NamedPort]>,
}

/// A port of a container that has a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamedPort {
    /// The name.
    pub name: Box<str>,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// The number.
    pub port: u16,
}

pub(super) fn judge(object: &Object, check: &mut Checker<'_>) -> Pod {
    let labels = Labels::of(object.metadata.labels.as_ref());
    let mut row = Pod { labels, ..Pod::default() };
    if let Some(spec) = &object.spec {
        row.node = spec.node_name.clone().unwrap_or_default();
        row.host_network = spec.host_network.unwrap_or(false);
        row.ports = named_ports(spec, check);
    }
    let Some(status) = &object.status else { return row };
    // An ended pod keeps its addresses in its status while another may already have them.
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return row;
    }
    let listed: Vec<(String, &str)> = match status.pod_ips.as_deref().unwrap_or_default() {
        [] => status.pod_ip.iter().map(|ip| ("status.podIP".to_owned(), ip.as_str())).collect(),
        listed => listed
            .iter()
            .enumerate()
            .map(|(at, pod_ip)| (format!("status.podIPs[{at}].ip"), pod_ip.ip.as_str()))
            .collect(),
    };
    for (field, text) in listed.into_iter().filter(|(_, text)| !text.is_empty()) {
        let addr = check.address(|| field.clone(), text, Use::Unicast);
        row.addresses.extend(addr.filter(|addr| !row.addresses.contains(addr)));
    }
    row
}

/// Ports with names, of containers and of those that start before them and stay (KEP-753).
fn named_ports(spec: &PodSpec, check: &mut Checker<'_>) -> Box<[NamedPort]> {
    let stays = |restart: Option<&str>| restart == Some("Always");
    let init = spec.init_containers.iter().flatten().enumerate();
    let init = init.filter(|(_, container)| stays(container.restart_policy.as_deref()));
    let all =
        spec.containers.iter().enumerate().map(|(at, container)| ("containers", at, container));
    let all = all.chain(init.map(|(at, container)| ("initContainers", at, container)));
    let mut ports = Vec::new();
    for (list, at, container) in all {
        for (port_at, port) in container.ports.iter().flatten().enumerate() {
            let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) else { continue };
            let field = |of: &str| format!("spec.{list}[{at}].ports[{port_at}].{of}");
            let name = check.port_name(|| field("name"), Some(name));
            let number = check.port(|| field("containerPort"), port.container_port);
            let protocol = check.protocol(|| field("protocol"), port.protocol.as_deref());
            if let (Some(name), Some(port), Some(protocol)) = (name, number, protocol) {
                ports.push(NamedPort { name: name.into(), protocol, port });
            }
        }
    }
    ports.sort_unstable();
    ports.dedup();
    ports.into()
}
