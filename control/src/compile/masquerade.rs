//! Where a flow's source becomes an address of this node: what the frontends are told, and the node's row.
//!
//! Reference: Kubernetes 1.36, `pkg/proxy/nftables/proxier.go` (the chains of a service) and `pkg/proxy/util/localdetector.go`. A node
//! masquerades what comes in from outside under `externalTrafficPolicy: Cluster`, since it may go on to another node; what goes to a
//! cluster IP only if told to (`--masquerade-all`), or if the source is no pod, as far as that is known. Hairpin is the
//! engine's to see: it knows the backend.

use ipnet::IpNet;
use millrace_tables::{
    Frontend, FrontendKind, InterfaceId, InterfaceKind, InterfaceSpec, NodeSpec, node,
};

use super::node::DetectLocalMode;
use crate::{
    desired::{Families, LocalPolicy, Node},
    world::NodeView,
};

/// The ranges of what counts as a pod. Empty: nothing is known, and nothing hangs on it (kube-proxy's no-op detector).
pub fn pod_ranges(
    mode: DetectLocalMode,
    cluster_cidr: &[IpNet],
    node: Option<&Node>,
) -> Vec<IpNet> {
    let ranges = match mode {
        DetectLocalMode::ClusterCidr => cluster_cidr,
        DetectLocalMode::NodeCidr => node.map(|node| node.pod_cidrs.as_slice()).unwrap_or_default(),
    };
    let mut ranges: Vec<IpNet> = ranges.iter().map(IpNet::trunc).collect();
    ranges.sort();
    ranges.dedup();
    // More than any cluster has; a row with more would be refused whole.
    ranges.truncate(node::MAX_RANGES);
    ranges
}

/// Families in which pods can be told from others.
pub fn families(ranges: &[IpNet]) -> Families {
    let any = |v4: bool| ranges.iter().any(|range| range.addr().is_ipv4() == v4);
    Families { v4: any(true), v6: any(false) }
}

/// Where addresses are that are on no interface of the engine.
const NO_INTERFACE: InterfaceId = InterfaceId(u16::MAX);

/// The node's row: with the addresses of these interfaces to masquerade to, those of uplinks first, and then those `elsewhere`, for
/// uplinks that have none.
pub fn row<'a>(
    pods: Vec<IpNet>,
    elsewhere: &[IpNet],
    interfaces: impl Iterator<Item = &'a InterfaceSpec> + Clone,
) -> NodeSpec {
    // The trunk's own addresses may be link-local: nobody but this node's kernel sees them.
    let usable = |net: &IpNet, on_trunk: bool| {
        let addr = millrace_wire::Addr::from(net.addr());
        (!addr.is_link_local() || on_trunk) && !addr.is_loopback()
    };
    let of = |uplinks: bool| {
        let chosen =
            interfaces.clone().filter(move |it| (it.kind == InterfaceKind::UPLINK) == uplinks);
        chosen.flat_map(move |it| {
            let on_trunk = it.kind == InterfaceKind::HOST;
            let nets = it.addresses.iter().filter(move |net| usable(net, on_trunk));
            nets.map(|net| (it.id, *net))
        })
    };
    let sources = of(true)
        .chain(elsewhere.iter().map(|net| (NO_INTERFACE, *net)))
        .chain(of(false))
        .take(node::MAX_SOURCES)
        .collect();
    NodeSpec { pods, sources, ..NodeSpec::default() }
}

/// [`Frontend::flags`] of a frontend of this kind.
pub fn flags(kind: FrontendKind, local: LocalPolicy, v4: bool, node: &NodeView) -> u8 {
    let pods_known = if v4 { node.pods_known.v4 } else { node.pods_known.v6 };
    match kind {
        FrontendKind::CLUSTER_IP if node.masquerade_all => Frontend::MASQUERADE,
        FrontendKind::CLUSTER_IP if pods_known => Frontend::MASQUERADE_FOREIGN,
        FrontendKind::CLUSTER_IP => 0,
        // Without known ranges no pod is one, but this node's own traffic still is.
        _ if local.external => Frontend::SHORT_CIRCUIT,
        _ => Frontend::MASQUERADE,
    }
}
