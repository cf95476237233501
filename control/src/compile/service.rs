//! A Service and its EndpointSlices → one row per port and family, as kube-proxy would serve them.
//!
//! Reference: Kubernetes 1.36, `pkg/proxy/{serviceport,topology,endpointslicecache}.go`. Each function is one of its
//! decisions.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use millrace_tables::{
    BackendSpec, Frontend, FrontendKind, FrontendSpec, ServiceSpec, SetChoice, WhenEmpty,
    spec::{MAX_BACKENDS, MAX_RANGES},
};
use millrace_wire::Addr;

use super::{Part, masquerade};
use crate::{
    desired::{Endpoint, EndpointSlice, Service, ServicePort},
    store::ServiceName,
    world::NodeView,
};

/// All rows of a Service. Empty for one without frontends (headless, ExternalName, another proxy's).
pub fn compile<'a>(
    name: &ServiceName,
    service: &Service,
    slices: impl Iterator<Item = &'a EndpointSlice>,
    node: &NodeView,
    zone: &str,
) -> Vec<Part> {
    let slices: Vec<&EndpointSlice> = slices.collect();
    let mut parts = Vec::new();
    for port in &service.ports {
        let shown = shown_name(name, port);
        for (v4, key) in [(true, shown.clone()), (false, format!("{shown}/v6"))] {
            if !(if v4 { service.families.v4 } else { service.families.v6 }) {
                continue;
            }
            let mut candidates = candidates(&slices, port, v4, node);
            prefer(&mut candidates, node, zone);
            let any = candidates.values().any(|candidate| candidate.grade > Grade::Serving);
            let spec = ServiceSpec {
                name: shown.clone(),
                frontends: frontends(service, port, v4, node),
                backends: backends(service, candidates),
                source_ranges: source_ranges(service, v4, node),
                affinity_seconds: service.affinity_seconds,
                when_cluster_empty: WhenEmpty::Reject,
                // Endpoints elsewhere that the policy forbids: silence, so that a load balancer looks for another node.
                when_local_empty: if any { WhenEmpty::Drop } else { WhenEmpty::Reject },
                ..ServiceSpec::default()
            };
            parts.push(Part { key, spec: spec.into(), created: service.created });
        }
    }
    parts
}

/// Distinct addresses of ready endpoints on the node, IPv4 and IPv6 (`EndpointsMap.LocalReadyEndpoints`): what a
/// healthCheckNodePort counts. Terminating ones don't: a load balancer should turn away before they are gone.
pub fn local_ready<'a>(
    slices: impl Iterator<Item = &'a EndpointSlice>,
    node: &str,
) -> (usize, usize) {
    let here = |endpoint: &&Endpoint| endpoint.ready && !node.is_empty() && *endpoint.node == *node;
    let endpoints =
        slices.filter(|slice| !slice.ports.is_empty()).flat_map(|slice| &slice.endpoints);
    let addresses: BTreeSet<Addr> = endpoints.filter(here).map(|endpoint| endpoint.addr).collect();
    let v4 = addresses.iter().filter(|addr| addr.is_v4()).count();
    (v4, addresses.len() - v4)
}

/// kube-proxy's `ServicePortName.String`.
fn shown_name(name: &ServiceName, port: &ServicePort) -> String {
    let ServiceName { namespace, name } = name;
    if port.name.is_empty() {
        format!("{namespace}/{name}")
    } else {
        format!("{namespace}/{name}:{}", port.name)
    }
}

/// Everything the port answers on. One place is listed once, under the kind that has the better right to it.
fn frontends(
    service: &Service,
    port: &ServicePort,
    v4: bool,
    node: &NodeView,
) -> Vec<FrontendSpec> {
    let internal = if service.local.internal { SetChoice::Local } else { SetChoice::Cluster };
    let external = if service.local.external { SetChoice::Local } else { SetChoice::Cluster };
    let node_port_addresses: &[Addr] =
        if port.node_port == 0 { &[] } else { &node.node_port_addresses };
    // Source ranges close a load balancer's address also where it is the node's and the port a node port.
    let sources: [(&[Addr], u16, FrontendKind, SetChoice); 4] = [
        (&service.cluster_ips, port.port, FrontendKind::CLUSTER_IP, internal),
        (&service.load_balancer_ips, port.port, FrontendKind::LOAD_BALANCER, external),
        (&service.external_ips, port.port, FrontendKind::EXTERNAL_IP, external),
        (node_port_addresses, port.node_port, FrontendKind::NODE_PORT, external),
    ];
    let bit = |is: bool, flag: u8| if is { flag } else { 0 };
    let restricted = if v4 { service.restricted.v4 } else { service.restricted.v6 };
    let mut frontends: Vec<FrontendSpec> = Vec::new();
    for (addrs, number, kind, set) in sources {
        for addr in addrs.iter().filter(|addr| addr.is_v4() == v4) {
            if !frontends.iter().any(|other| (other.addr, other.port) == (*addr, number)) {
                frontends.push(FrontendSpec {
                    addr: *addr,
                    port: number,
                    protocol: port.protocol.0,
                    kind,
                    set,
                    flags: masquerade::flags(kind, service.local, v4, node)
                        | bit(
                            kind == FrontendKind::LOAD_BALANCER && restricted,
                            Frontend::SOURCE_RANGES,
                        )
                        | bit(service.affinity_seconds != 0, Frontend::AFFINITY),
                });
            }
        }
    }
    frontends
}

/// Where flows to load balancer addresses may come from. When the node itself may, the load balancer's own addresses may too: a
/// node that has one of them may speak from it.
fn source_ranges(service: &Service, v4: bool, node: &NodeView) -> Vec<IpNet> {
    let ranges = service.source_ranges.iter().filter(|range| range.addr().is_ipv4() == v4);
    let mut ranges: Vec<IpNet> = ranges.copied().collect();
    let has = |addr: &Addr| ranges.iter().any(|range| range.contains(&IpAddr::from(*addr)));
    if node.primary.iter().any(has) {
        let own = service.load_balancer_ips.iter().filter(|addr| addr.is_v4() == v4);
        ranges.extend(own.map(|addr| IpNet::from(IpAddr::from(*addr))));
        ranges.truncate(MAX_RANGES);
    }
    ranges
}

/// How good an endpoint is for new flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Grade {
    /// Gone, as far as flows can tell.
    Unusable,
    /// Answers, and is given no new flows (`conntrack.CleanStaleEntries` looks at nothing but `serving`).
    Serving,
    /// On its way out and still answering: used when nothing is ready (KEP-1669).
    LastResort,
    Ready,
}

struct Candidate<'a> {
    grade: Grade,
    local: bool,
    /// Of those that are ready: not left to others by its hints. Decides about Cluster traffic only.
    near: bool,
    endpoint: &'a Endpoint,
}

/// Endpoints of the port by address and target port. One that is in several slices, because it is just moving from one to
/// the other or by mistake, counts once, by its best entry: in whatever order the slices change, it is never gone.
fn candidates<'a>(
    slices: &[&'a EndpointSlice],
    port: &ServicePort,
    v4: bool,
    node: &NodeView,
) -> BTreeMap<(Addr, u16), Candidate<'a>> {
    let mut candidates: BTreeMap<(Addr, u16), Candidate<'a>> = BTreeMap::new();
    for slice in slices {
        let matching = slice
            .ports
            .iter()
            .filter(|other| other.name == port.name && other.protocol == port.protocol);
        for target in matching {
            for endpoint in slice.endpoints.iter().filter(|endpoint| endpoint.addr.is_v4() == v4) {
                let local = !node.name.is_empty() && *endpoint.node == *node.name;
                let new = Candidate { grade: grade(endpoint), local, near: true, endpoint };
                match candidates.get_mut(&(endpoint.addr, target.port)) {
                    Some(old) if new.rank() > old.rank() => *old = new,
                    Some(_) => {}
                    None => _ = candidates.insert((endpoint.addr, target.port), new),
                }
            }
        }
    }
    candidates
}

impl Candidate<'_> {
    /// Which of two entries for one endpoint counts.
    fn rank(&self) -> (Grade, bool, bool) {
        (self.grade, self.local, self.endpoint.hints.is_some())
    }
}

/// Applies topology hints (`topologyModeFromHints`): to nodes when every ready endpoint has some and one is for this node; else
/// to zones when every ready endpoint has some and one is for this node's zone; else not at all.
fn prefer(candidates: &mut BTreeMap<(Addr, u16), Candidate<'_>>, node: &NodeView, zone: &str) {
    let mode = {
        let ready = || candidates.values().filter(|candidate| candidate.grade == Grade::Ready);
        let applies = |names: Names, own: &str| {
            !own.is_empty()
                && ready().all(|candidate| !names(candidate).is_empty())
                && ready().any(|candidate| names(candidate).iter().any(|name| name == own))
        };
        if applies(for_nodes, &node.name) {
            Some((for_nodes as Names, node.name.as_str()))
        } else if applies(for_zones, zone) {
            Some((for_zones as Names, zone))
        } else {
            None
        }
    };
    let Some((names, own)) = mode else { return };
    for candidate in candidates.values_mut() {
        candidate.near = names(candidate).iter().any(|name| name == own);
    }
}

/// One of an endpoint's two lists of hints.
type Names = for<'a> fn(&'a Candidate<'_>) -> &'a [String];

fn for_nodes<'a>(candidate: &'a Candidate<'_>) -> &'a [String] {
    candidate.endpoint.hints.as_ref().map_or(&[], |hints| &hints.nodes)
}

fn for_zones<'a>(candidate: &'a Candidate<'_>) -> &'a [String] {
    candidate.endpoint.hints.as_ref().map_or(&[], |hints| &hints.zones)
}

/// `ready` alone makes an endpoint usable: for Services that publish addresses that aren't ready, the EndpointSlice
/// controller sets it (kube-proxy doesn't look at `publishNotReadyAddresses` either).
fn grade(endpoint: &Endpoint) -> Grade {
    match endpoint {
        Endpoint { ready: true, .. } => Grade::Ready,
        Endpoint { serving: true, terminating: true, .. } => Grade::LastResort,
        Endpoint { serving: true, .. } => Grade::Serving,
        _ => Grade::Unusable,
    }
}

/// Members of the two sets (`CategorizeEndpoints`): in each, the ready ones, or the last resorts when there are none. Hints
/// thin out the ready ones of the Cluster set.
fn backends(
    service: &Service,
    candidates: BTreeMap<(Addr, u16), Candidate<'_>>,
) -> Vec<BackendSpec> {
    let best = |local: bool| {
        candidates
            .values()
            .filter(|candidate| candidate.local || !local)
            .map(|candidate| candidate.grade)
            .max()
    };
    let (cluster, local) = (best(false), best(true));
    let uses_local = service.local.internal || service.local.external;
    let member = |candidate: &Candidate<'_>, best: Option<Grade>| {
        candidate.grade > Grade::Serving && Some(candidate.grade) == best
    };
    candidates
        .into_iter()
        // Those in no set take no new flows, and keep those that they have.
        .filter(|(_, candidate)| candidate.grade > Grade::Unusable)
        .map(|((addr, port), candidate)| BackendSpec {
            addr,
            port,
            name: candidate.endpoint.pod.to_string(),
            weight: 1,
            local: candidate.local,
            terminating: candidate.endpoint.terminating,
            in_cluster: member(&candidate, cluster)
                && (candidate.near || candidate.grade != Grade::Ready),
            in_local: uses_local && candidate.local && member(&candidate, local),
        })
        // More than any cluster has; a row with more would be refused whole.
        .take(MAX_BACKENDS)
        .collect()
}
