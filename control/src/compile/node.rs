//! The world of one Kubernetes node, from objects alone: what `millrace explain --node NAME` runs packets through.
//!
//! One uplink, one host trunk, one interface for each pod on the node; other nodes are next hops on the uplink. Needs the
//! Node's object. Leaves MAC resolution to the static neighbors given here; hosts that no object names (a client outside)
//! are on-link on the uplink, and whoever runs the world has to answer for them.

use std::collections::BTreeMap;

use ipnet::IpNet;
use millrace_tables::{GuardSpec, InterfaceId, InterfaceKind, InterfaceSpec, NextHop, RouteSpec};
use millrace_wire::{Addr, Mac};

use super::masquerade;
use crate::{
    desired::Node,
    store::Store,
    world::{NodeView, Place, World},
};

/// Number of the uplink; its name is `uplink`.
pub const UPLINK: InterfaceId = InterfaceId(0);
/// Number of the trunk to the node's own stack; its name is `host`.
pub const HOST: InterfaceId = InterfaceId(1);
const MTU: u32 = 1500;

/// What the control process is told on its command line about the cluster. Names and meanings are kube-proxy's.
#[derive(Clone, Debug, Default, PartialEq, clap::Args)]
pub struct NodeOptions {
    /// Ranges that Service addresses come from; packets to an address in them that no Service has are dropped.
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub service_cidr: Vec<IpNet>,
    /// Ranges that pod addresses of the whole cluster come from: what comes to a cluster IP from elsewhere is masqueraded.
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub cluster_cidr: Vec<IpNet>,
    /// Which of the node's addresses node ports answer on: ranges, or `primary` for the node's main address of each family.
    /// Default: `primary` with --node, all addresses of the engine's interfaces otherwise.
    #[arg(long, value_name = "CIDR|primary", value_delimiter = ',')]
    pub nodeport_addresses: Vec<NodePortAddresses>,
    /// Masquerade all traffic to cluster IPs.
    #[arg(
        long,
        value_name = "true|false",
        num_args = 0..=1,
        require_equals = true,
        default_value_t = false,
        default_missing_value = "true",
        action = clap::ArgAction::Set
    )]
    pub masquerade_all: bool,
    /// How pods' traffic is told from others': by the ranges of --cluster-cidr (ClusterCIDR, the default), or by the node's
    /// podCIDRs (NodeCIDR).
    #[arg(long, value_name = "MODE")]
    pub detect_local_mode: Option<DetectLocalMode>,
}

/// One item of `--nodeport-addresses`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// The main address of each family.
    Primary,
    /// All addresses in this range.
    In(IpNet),
}

impl NodePortAddresses {
    /// Whether these items choose `addr`. Ranges of one family alone say nothing about the other, all of whose addresses are
    /// chosen then (`pkg/proxy/util.NewNodePortAddresses`).
    pub fn choose(items: &[NodePortAddresses], addr: &Addr, is_primary: bool) -> bool {
        let speaks = |item: &NodePortAddresses| match item {
            NodePortAddresses::Primary => true,
            NodePortAddresses::In(range) => range.addr().is_ipv4() == addr.is_v4(),
        };
        let has = |item: &NodePortAddresses| match item {
            NodePortAddresses::Primary => is_primary,
            NodePortAddresses::In(range) => range.contains(&std::net::IpAddr::from(*addr)),
        };
        !items.iter().any(speaks) || items.iter().any(has)
    }
}

/// kube-proxy's `--detect-local-mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Deserialize)]
pub enum DetectLocalMode {
    /// Addresses in `--cluster-cidr` are pods.
    #[default]
    #[value(name = "ClusterCIDR")]
    #[serde(rename = "ClusterCIDR")]
    ClusterCidr,
    /// Addresses in the node's podCIDRs are its pods.
    #[value(name = "NodeCIDR")]
    #[serde(rename = "NodeCIDR")]
    NodeCidr,
}

impl std::str::FromStr for NodePortAddresses {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim() {
            "primary" => Ok(NodePortAddresses::Primary),
            text => text.parse().map(NodePortAddresses::In).map_err(|_| {
                format!("{text:?} is neither a prefix such as 192.168.0.0/16 nor `primary`")
            }),
        }
    }
}

/// The node is not among the objects.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no Node {name:?}: give --node one of {known:?}")]
pub struct UnknownNode {
    name: String,
    known: Vec<String>,
}

/// Builds the world of the node `name`. Interfaces that `previous` has too keep their numbers.
pub fn world(
    store: &Store,
    name: &str,
    options: &NodeOptions,
    previous: Option<&World>,
) -> Result<World, UnknownNode> {
    let Some(node) = store.node(name) else {
        let known = store.nodes().map(|(name, _)| name.to_owned()).collect();
        return Err(UnknownNode { name: name.into(), known });
    };
    let mut builder = Builder {
        world: World::default(),
        numbers: BTreeMap::new(),
        next: Some(HOST.0 + 1),
        made: BTreeMap::new(),
    };
    if let Some(previous) = previous {
        builder.numbers =
            previous.interfaces.values().map(|spec| (spec.name.clone(), spec.id)).collect();
        builder.next =
            builder.numbers.values().map(|id| id.0).max().unwrap_or(HOST.0).checked_add(1);
    }
    builder.interface(
        UPLINK,
        InterfaceKind::UPLINK,
        "uplink",
        node.addresses().map(IpNet::from_addr).collect(),
    );
    builder.interface(HOST, InterfaceKind::HOST, "host", Vec::new());
    builder.world.places = places(store, name, previous);
    for (v4, default) in [(true, "0.0.0.0/0"), (false, "::/0")] {
        // A family that neither the node nor its pods nor any endpoint has leads nowhere.
        let is_used = node.addresses().any(|addr| addr.is_v4() == v4)
            || node.pod_cidrs.iter().any(|range| range.addr().is_ipv4() == v4)
            || builder.world.places.keys().any(|addr| addr.is_v4() == v4);
        if is_used {
            builder.route(parsed(default), on_link(UPLINK));
        }
    }
    for range in options.service_cidr.iter().copied().chain(store.service_ranges()) {
        builder.route(range.trunc(), RouteSpec::Blackhole);
    }
    // Addresses of the node's own range that no pod has: there is nobody to ask.
    for range in &node.pod_cidrs {
        builder.route(*range, RouteSpec::Unreachable);
    }
    builder.other_nodes(store, name);
    builder.pods(store, name);
    builder.endpoints(store, node);
    for addr in node.addresses() {
        builder.route(IpNet::from_addr(addr), RouteSpec::Local);
    }
    let mode = options.detect_local_mode.unwrap_or_default();
    let pods = masquerade::pod_ranges(mode, &options.cluster_cidr, Some(node));
    builder.world.node = NodeView {
        name: name.into(),
        node_port_addresses: node_port_addresses(node, options),
        host_port_addresses: node.addresses().collect(),
        primary: node.primary().collect(),
        pods_known: masquerade::families(&pods),
        masquerade_all: options.masquerade_all,
    };
    builder.world.row = masquerade::row(pods, &[], builder.world.interfaces.values());
    Ok(builder.world)
}

fn node_port_addresses(node: &Node, options: &NodeOptions) -> Vec<Addr> {
    let chosen = match options.nodeport_addresses.as_slice() {
        [] => &[NodePortAddresses::Primary],
        chosen => chosen,
    };
    let mut addresses: Vec<Addr> = Vec::new();
    for addr in node.addresses() {
        let is_primary = node.primary().any(|primary| primary == addr);
        if !addresses.contains(&addr) && NodePortAddresses::choose(chosen, &addr, is_primary) {
            addresses.push(addr);
        }
    }
    addresses
}

struct Builder {
    world: World,
    /// Numbers of an earlier world.
    numbers: BTreeMap<String, InterfaceId>,
    next: Option<u16>,
    /// Pods' interfaces so far.
    made: BTreeMap<String, InterfaceId>,
}

impl Builder {
    fn interface(
        &mut self,
        id: InterfaceId,
        kind: InterfaceKind,
        name: &str,
        addresses: Vec<IpNet>,
    ) {
        let spec =
            InterfaceSpec { id, kind, mac: own_mac(id), mtu: MTU, name: name.into(), addresses };
        self.world.interfaces.insert(id, spec);
    }

    fn route(&mut self, prefix: IpNet, route: RouteSpec) {
        self.world.routes.insert(prefix, route);
    }

    /// The interface of a pod given as `namespace/name`, made on first sight. `None` when all 65,536 numbers are used up,
    /// which is far beyond what a kubelet runs: such a pod has no interface.
    fn pod(&mut self, pod: &str) -> Option<InterfaceId> {
        let name = format!("pod:{pod}");
        if let Some(id) = self.made.get(&name) {
            return Some(*id);
        }
        let id = match self.numbers.get(&name) {
            Some(id) => *id,
            None => {
                let id = InterfaceId(self.next?);
                self.next = id.0.checked_add(1);
                id
            }
        };
        self.interface(id, InterfaceKind::POD, &name, Vec::new());
        self.made.insert(name, id);
        Some(id)
    }

    /// Pods of this node that have an object.
    fn pods(&mut self, store: &Store, name: &str) {
        for (key, pod) in store.pods().filter(|(_, pod)| pod.node == name && !pod.host_network) {
            let Some(id) = self.pod(&format!("{}/{}", key.namespace, key.name)) else { continue };
            for addr in &pod.addresses {
                self.reach(*addr, id);
            }
        }
    }

    /// Endpoints that no object tells the way to.
    fn endpoints(&mut self, store: &Store, node: &Node) {
        for (addr, place) in self.world.places.clone() {
            let known = self.world.routes.contains_key(&IpNet::from_addr(addr));
            // What serves on the node's own address is reached through its stack.
            if known || node.addresses().any(|own| own == addr) {
                continue;
            }
            match place {
                Place::Pod(pod) => {
                    if let Some(id) = self.pod(&pod) {
                        self.reach(addr, id);
                    }
                }
                Place::Node(other) => {
                    let ip = std::net::IpAddr::from(addr);
                    let has = |node: &Node| node.pod_cidrs.iter().any(|range| range.contains(&ip));
                    let other = store.node(&other);
                    if other.is_some_and(|it| has(it) || it.addresses().any(|own| own == addr)) {
                        continue;
                    }
                    match other.and_then(|other| by_way_of(other, addr.is_v4())) {
                        Some(way) => self.route(IpNet::from_addr(addr), way),
                        // Somewhere out there, though its address is of this node's range.
                        None if has(node) => self.route(IpNet::from_addr(addr), on_link(UPLINK)),
                        None => {}
                    }
                }
            }
        }
    }

    fn reach(&mut self, addr: Addr, pod: InterfaceId) {
        self.route(IpNet::from_addr(addr), on_link(pod));
        self.world.neighbors.insert((pod, addr), peer_mac(&addr));
        let name = self.world.interfaces.get(&pod).map(|spec| spec.name.as_str());
        let name = name.and_then(|name| name.strip_prefix("pod:")).unwrap_or_default();
        let guard = self.world.guards.entry(pod).or_insert_with(|| GuardSpec {
            name: format!("Pod {name}"),
            mac: peer_mac(&addr),
            addresses: Vec::new(),
        });
        guard.addresses.push(addr);
    }

    /// Pod ranges of other nodes by way of those nodes; also single pods outside of their node's range.
    fn other_nodes(&mut self, store: &Store, name: &str) {
        for (_, node) in store.nodes().filter(|(other, _)| *other != name) {
            for addr in node.addresses() {
                self.world.neighbors.insert((UPLINK, addr), peer_mac(&addr));
            }
            for range in &node.pod_cidrs {
                // A node that says no address of its own is somewhere on the link.
                let route = by_way_of(node, range.addr().is_ipv4()).unwrap_or(on_link(UPLINK));
                self.route(*range, route);
            }
        }
        let pods = store
            .pods()
            .flat_map(|(_, pod)| pod.addresses.iter().map(|addr| (pod.node.as_str(), *addr)));
        for (node_name, addr) in pods.filter(|(node_name, _)| *node_name != name) {
            let Some(node) = store.node(node_name) else { continue };
            let in_range =
                node.pod_cidrs.iter().any(|range| range.contains(&std::net::IpAddr::from(addr)));
            if in_range || node.addresses().any(|own| own == addr) {
                continue;
            }
            if let Some(route) = by_way_of(node, addr.is_v4()) {
                self.route(IpNet::from_addr(addr), route);
            }
        }
    }
}

/// Where the slices say that endpoints are, and where those were that they said so of before.
fn places(store: &Store, name: &str, previous: Option<&World>) -> BTreeMap<Addr, Place> {
    let mut places = BTreeMap::new();
    for (key, slice) in store.all_slices() {
        for endpoint in &slice.endpoints {
            if &*endpoint.node != name {
                places
                    .entry(endpoint.addr)
                    .or_insert_with(|| Place::Node(endpoint.node.to_string()));
                continue;
            }
            let pod = match &*endpoint.pod {
                "" => format!("{}/{}", key.namespace, endpoint.addr),
                pod => pod.to_owned(),
            };
            let place = places.entry(endpoint.addr).or_insert_with(|| Place::Pod(pod.clone()));
            if matches!(place, Place::Node(_)) {
                *place = Place::Pod(pod);
            }
        }
    }
    for (addr, place) in previous.into_iter().flat_map(|previous| &previous.places) {
        places.entry(*addr).or_insert_with(|| place.clone());
    }
    places
}

fn by_way_of(node: &Node, v4: bool) -> Option<RouteSpec> {
    let gateway = node.primary().find(|addr| addr.is_v4() == v4)?;
    Some(RouteSpec::Forward(vec![(NextHop { interface: UPLINK, gateway: Some(gateway) }, 1)]))
}

fn on_link(interface: InterfaceId) -> RouteSpec {
    RouteSpec::Forward(vec![(NextHop { interface, gateway: None }, 1)])
}

fn parsed(prefix: &str) -> IpNet {
    prefix.parse().unwrap_or_default()
}

/// The host prefix of an address.
trait HostPrefix {
    fn from_addr(addr: Addr) -> IpNet;
}

impl HostPrefix for IpNet {
    fn from_addr(addr: Addr) -> IpNet {
        IpNet::from(std::net::IpAddr::from(addr))
    }
}

/// Locally administered, from the number: the same world gives the same bytes.
fn own_mac(id: InterfaceId) -> Mac {
    let [high, low] = id.0.to_be_bytes();
    Mac([0x02, 0x4d, 0x52, 0x00, high, low])
}

/// Locally administered, from the address: its last 32 bits are what tells neighbors of one world apart.
fn peer_mac(addr: &Addr) -> Mac {
    let [.., a, b, c, d] = addr.octets();
    Mac([0x06, if addr.is_v4() { 4 } else { 6 }, a, b, c, d])
}
