//! Pod → where it runs, under which addresses, and what policies know of it: its labels and the names of its ports.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{ContainerPort, Pod as Object, PodSpec};
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
    /// It has been deleted, and is on its way out: its address may soon be another's.
    pub leaving: bool,
    /// It shares the node's stack and addresses: no interface of its own.
    pub host_network: bool,
    /// Its labels.
    pub labels: Labels,
    /// Its ports that have names, sorted.
    pub ports: Box<[NamedPort]>,
    /// Its ports that are the node's too, sorted, without those of a pod that shares the node's addresses anyway.
    pub host_ports: Box<[HostPort]>,
}

/// A port of the node's addresses that leads to the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    /// `hostPort`.
    pub number: u16,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// `hostIP`.
    pub ip: HostIp,
    /// `containerPort`.
    pub container: u16,
}

/// On which of the node's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostIp {
    /// All.
    Any,
    /// `0.0.0.0`.
    AnyV4,
    /// `::`.
    AnyV6,
    /// This one.
    One(Addr),
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
    let leaving = object.metadata.deletion_timestamp.is_some();
    let mut row = Pod { labels, leaving, ..Pod::default() };
    if let Some(spec) = &object.spec {
        row.node = spec.node_name.clone().unwrap_or_default();
        row.host_network = spec.host_network.unwrap_or(false);
        row.ports = named_ports(spec, check);
        if !row.host_network {
            row.host_ports = host_ports(spec, check);
        }
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

/// Ports of containers and of those that start before them and stay (KEP-753), each with the path of its field.
fn ports(spec: &PodSpec) -> impl Iterator<Item = (String, &ContainerPort)> {
    let stays = |restart: Option<&str>| restart == Some("Always");
    let init = spec.init_containers.iter().flatten().enumerate();
    let init = init.filter(move |(_, container)| stays(container.restart_policy.as_deref()));
    let all =
        spec.containers.iter().enumerate().map(|(at, container)| ("containers", at, container));
    let all = all.chain(init.map(|(at, container)| ("initContainers", at, container)));
    all.flat_map(|(list, at, container)| {
        let listed = container.ports.iter().flatten().enumerate();
        listed.map(move |(port_at, port)| (format!("spec.{list}[{at}].ports[{port_at}]"), port))
    })
}

fn named_ports(spec: &PodSpec, check: &mut Checker<'_>) -> Box<[NamedPort]> {
    let mut named = Vec::new();
    for (at, port) in ports(spec) {
        let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) else { continue };
        let field = |of: &str| format!("{at}.{of}");
        let name = check.port_name(|| field("name"), Some(name));
        let number = check.port(|| field("containerPort"), port.container_port);
        let protocol = check.protocol(|| field("protocol"), port.protocol.as_deref());
        if let (Some(name), Some(port), Some(protocol)) = (name, number, protocol) {
            named.push(NamedPort { name: name.into(), protocol, port });
        }
    }
    named.sort_unstable();
    named.dedup();
    named.into()
}

fn host_ports(spec: &PodSpec, check: &mut Checker<'_>) -> Box<[HostPort]> {
    let mut row = Vec::new();
    for (at, port) in ports(spec) {
        let Some(number) = port.host_port.filter(|number| *number != 0) else { continue };
        let field = |of: &str| format!("{at}.{of}");
        // What a port with a name is refused for has been said.
        let is_said = port.name.as_deref().is_some_and(|name| !name.is_empty());
        let said = check.refusals.len();
        let container = check.port(|| field("containerPort"), port.container_port);
        let protocol = check.protocol(|| field("protocol"), port.protocol.as_deref());
        if is_said {
            check.refusals.truncate(said);
        }
        let number = check.port(|| field("hostPort"), number);
        let ip = match port.host_ip.as_deref() {
            None | Some("") => Some(HostIp::Any),
            Some("0.0.0.0") => Some(HostIp::AnyV4),
            Some("::") => Some(HostIp::AnyV6),
            // The node's own processes reach it there, without us.
            Some(text) if text.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()) => continue,
            Some(text) => check.address(|| field("hostIP"), text, Use::Unicast).map(HostIp::One),
        };
        if let (Some(number), Some(protocol), Some(ip), Some(container)) =
            (number, protocol, ip, container)
        {
            row.push(HostPort { number, protocol, ip, container });
        }
    }
    row.sort_unstable();
    row.dedup();
    row.into()
}
