//! A pod's `hostPort`s → one row a port and family, where the engine is what connects this node's pods.
//!
//! What a CNI's portmap plugin does elsewhere: a port of the node's addresses, or of the one that `hostIP` names, leads to the pod, and
//! the pod sees who asks. Two pods of one node may have the same port on different addresses or protocols; where they ask for the same, and
//! where a Service has it already, the claims decide and the other is reported.

use millrace_tables::{BackendSpec, FrontendKind, FrontendSpec, ServiceSpec, SetChoice, WhenEmpty};
use millrace_wire::Addr;

use super::Part;
use crate::{
    desired::{HostIp, HostPort, Pod},
    store::ServiceName,
    world::NodeView,
};

/// All rows of a pod. Empty for one of another node, one without an address, and one that shares the node's: its ports are the node's.
pub fn compile(name: &ServiceName, pod: &Pod, node: &NodeView) -> Vec<Part> {
    if pod.host_network || node.name.is_empty() || pod.node != node.name {
        return Vec::new();
    }
    let mut parts = Vec::new();
    for port in &pod.host_ports {
        let shown = format!("{}/{}:{}", name.namespace, name.name, port.number);
        for (v4, family) in [(true, ""), (false, "/v6")] {
            let Some(addr) = pod.addresses.iter().find(|addr| addr.is_v4() == v4) else { continue };
            let frontends: Vec<FrontendSpec> = addresses(port, v4, node)
                .map(|on| FrontendSpec {
                    addr: on,
                    port: port.number,
                    protocol: port.protocol.0,
                    kind: FrontendKind::HOST_PORT,
                    set: SetChoice::Cluster,
                    flags: 0,
                })
                .collect();
            if frontends.is_empty() {
                continue;
            }
            let backend = BackendSpec {
                addr: *addr,
                port: port.container,
                name: format!("{}/{}", name.namespace, name.name.trim_start_matches("pod/")),
                weight: 1,
                local: true,
                terminating: false,
                in_cluster: true,
                in_local: false,
            };
            let spec = ServiceSpec {
                name: shown.clone(),
                frontends,
                backends: vec![backend],
                when_cluster_empty: WhenEmpty::Reject,
                when_local_empty: WhenEmpty::Reject,
                ..ServiceSpec::default()
            };
            let protocol = port.protocol.name().unwrap_or_default();
            let key = format!("{shown}/{protocol}{family}");
            parts.push(Part { key, spec: spec.into(), created: None });
        }
    }
    parts
}

/// Where the port answers: on an address that isn't the node's, nowhere.
fn addresses(port: &HostPort, v4: bool, node: &NodeView) -> impl Iterator<Item = Addr> {
    let wanted = move |addr: &Addr| match port.ip {
        HostIp::Any => true,
        HostIp::AnyV4 => addr.is_v4(),
        HostIp::AnyV6 => !addr.is_v4(),
        HostIp::One(ip) => *addr == ip,
    };
    let own = node.host_port_addresses.iter().copied();
    own.filter(move |addr| addr.is_v4() == v4).filter(wanted)
}
