//! Service → its frontends' parameters, one row for all ports.
//!
//! Defaults are applied as the API server would, because files have passed none: protocol TCP, traffic policies
//! Cluster, affinity 10,800 s. Which Services have no frontends at all is decided as kube-proxy does
//! (`pkg/proxy/util.ShouldSkipService` and the label selector of `cmd/kube-proxy/app.Run`).

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Service as Object, ServiceSpec};
use millrace_tables::spec::MAX_RANGES;
use millrace_wire::Addr;

use super::{
    check::{Checker, Protocol, Use},
    endpoint_slice::NOT_OURS,
};

/// Kubernetes' default for `sessionAffinityConfig.clientIP.timeoutSeconds`, in seconds.
const DEFAULT_AFFINITY: u32 = 10_800;
/// The most that the API allows (one day), in seconds.
const LONGEST_AFFINITY: u32 = 86_400;

/// Far more of each than the API server's limit on an object's size leaves room for in practice; the checks for
/// duplicates compare all with all.
const MOST_PORTS: usize = 1_000;
const MOST_ADDRESSES: usize = 1_000;

/// What a Service asks for. Address lists hold each address once, both families, in the object's order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Ports with at least a usable number and protocol.
    pub ports: Vec<ServicePort>,
    /// Address families it is served in. None for headless, ExternalName and foreign Services: they have no frontend of any
    /// kind. A family counts by its cluster IP, as in kube-proxy, even when that one address is refused.
    pub families: Families,
    /// At most one of each family.
    pub cluster_ips: Vec<Addr>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<Addr>,
    /// Ingress addresses of `status.loadBalancer` whose ipMode is VIP.
    pub load_balancer_ips: Vec<Addr>,
    /// `spec.loadBalancerSourceRanges`.
    pub source_ranges: Vec<IpNet>,
    /// Families in which there are any, usable or not.
    pub restricted: Families,
    /// Traffic policies.
    pub local: LocalPolicy,
    /// ClientIP affinity in seconds; 0 for none.
    pub affinity_seconds: u32,
    /// Where load balancers ask whether this node has local endpoints; 0 for nowhere.
    pub health_check_node_port: u16,
    /// When the API server made it, in seconds of Unix time; absent in files. Settles who owns a frontend that two claim.
    pub created: Option<i64>,
}

/// Address families of a Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Families {
    /// IPv4.
    pub v4: bool,
    /// IPv6.
    pub v6: bool,
}

impl Families {
    /// Whether that address is of one of them.
    pub fn have(self, addr: &Addr) -> bool {
        if addr.is_v4() { self.v4 } else { self.v6 }
    }
}

/// Which frontends use only this node's endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LocalPolicy {
    /// `internalTrafficPolicy: Local`: ClusterIPs.
    pub internal: bool,
    /// `externalTrafficPolicy: Local`: node ports, external and load balancer addresses.
    pub external: bool,
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Empty when it is the only one and has no name.
    pub name: String,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// On the VIPs.
    pub port: u16,
    /// On the node's addresses; 0 for none.
    pub node_port: u16,
}

pub(super) fn judge(
    object: &Object,
    check: &mut Checker<'_>,
    notices: &mut Vec<String>,
) -> Service {
    let mut row = Service {
        created: object.metadata.creation_timestamp.as_ref().map(|time| time.0.as_second()),
        ..Service::default()
    };
    let Some(spec) = &object.spec else {
        check.refuse("spec", "is missing");
        return row;
    };
    if object.metadata.labels.iter().flatten().any(|(label, _)| NOT_OURS.contains(&label.as_str()))
    {
        return row;
    }
    let kind = spec.type_.as_deref().unwrap_or("ClusterIP");
    if !["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"].contains(&kind) {
        check.refuse(
            "spec.type",
            format!("{kind:?} is not ClusterIP, NodePort, LoadBalancer or ExternalName"),
        );
    }
    if kind == "ExternalName" || is_headless(spec) {
        return row;
    }
    row.families = families(spec);
    row.cluster_ips = cluster_ips(spec, check);
    check_families(spec, check, &mut row);
    row.external_ips = external_ips(spec, row.families, check);
    row.load_balancer_ips = load_balancer_ips(object, row.families, check);
    row.ports = ports(spec, check);
    row.local = LocalPolicy {
        internal: is_local(
            "spec.internalTrafficPolicy",
            spec.internal_traffic_policy.as_deref(),
            check,
        ),
        external: is_local(
            "spec.externalTrafficPolicy",
            spec.external_traffic_policy.as_deref(),
            check,
        ) && is_external(kind, spec),
    };
    // `pkg/api/v1/service.NeedsHealthCheck`; elsewhere the field has no meaning.
    if kind == "LoadBalancer" && row.local.external {
        let number = spec.health_check_node_port.filter(|number| *number != 0);
        row.health_check_node_port = number
            .and_then(|number| check.port(|| "spec.healthCheckNodePort".into(), number))
            .unwrap_or(0);
    }
    // Only the EndpointSlice controller acts on it; proxies read the hints that it makes of it.
    if let Some(other) = spec.traffic_distribution.as_deref().filter(|text| !text.is_empty())
        && !["PreferClose", "PreferSameZone", "PreferSameNode"].contains(&other)
    {
        let why = format!("{other:?} is not PreferClose, PreferSameZone or PreferSameNode");
        check.refuse("spec.trafficDistribution", why);
    }
    row.affinity_seconds = affinity(spec, check);
    (row.source_ranges, row.restricted) = source_ranges(spec, check);
    for (v4, restricted) in [(true, row.restricted.v4), (false, row.restricted.v6)] {
        if restricted && !row.source_ranges.iter().any(|range| range.addr().is_ipv4() == v4) {
            let family = if v4 { "IPv4" } else { "IPv6" };
            notices.push(format!(
                "spec.loadBalancerSourceRanges has no usable {family} range: its load balancer addresses of that family are closed to all"
            ));
        }
    }
    row
}

/// Whether the external policy has anything to decide (`pkg/api/v1/service.ExternallyAccessible`).
fn is_external(kind: &str, spec: &ServiceSpec) -> bool {
    kind != "ClusterIP" || spec.external_ips.iter().flatten().next().is_some()
}

/// The items that are looked at; the rest is refused as one.
fn first<'a, T>(
    items: &'a [T],
    most: usize,
    field: &str,
    check: &mut Checker<'_>,
) -> impl Iterator<Item = (usize, &'a T)> + use<'a, T> {
    if items.len() > most {
        check.refuse(field, format!("has {} items, the first {most} are used", items.len()));
    }
    items.iter().take(most).enumerate()
}

fn is_headless(spec: &ServiceSpec) -> bool {
    let first = spec
        .cluster_ip
        .as_deref()
        .or_else(|| spec.cluster_ips.iter().flatten().next().map(String::as_str));
    matches!(first, None | Some("" | "None"))
}

/// `clusterIPs` where it is given, else `clusterIP`: an API server keeps them in step, files may give either.
fn cluster_ips(spec: &ServiceSpec, check: &mut Checker<'_>) -> Vec<Addr> {
    let listed = spec.cluster_ips.as_deref().unwrap_or_default();
    let single = spec.cluster_ip.as_deref().unwrap_or_default();
    if listed.is_empty() {
        return check
            .address(|| "spec.clusterIP".into(), single, Use::Unicast)
            .into_iter()
            .collect();
    }
    if !single.is_empty() && single != listed[0] {
        check.refuse(
            "spec.clusterIP",
            format!("{single:?} differs from clusterIPs[0] {:?}, which is used", listed[0]),
        );
    }
    let mut row: Vec<Addr> = Vec::new();
    for (at, text) in first(listed, MOST_ADDRESSES, "spec.clusterIPs", check) {
        let field = || format!("spec.clusterIPs[{at}]");
        let Some(addr) = check.address(field, text, Use::Unicast) else { continue };
        match row.iter().any(|other| other.is_v4() == addr.is_v4()) {
            true => check.refuse(
                field(),
                format!("{addr} is a second address of its family: at most one of each"),
            ),
            false => row.push(addr),
        }
    }
    row
}

fn families(spec: &ServiceSpec) -> Families {
    let mut families = Families::default();
    for text in spec
        .cluster_ip
        .iter()
        .chain(spec.cluster_ips.iter().flatten())
        .filter(|text| !text.is_empty())
    {
        *(if text.contains(':') { &mut families.v6 } else { &mut families.v4 }) = true;
    }
    families
}

/// `ipFamilies` names the families of the cluster IPs, in their order. Where it says otherwise, the address is not what was meant.
fn check_families(spec: &ServiceSpec, check: &mut Checker<'_>, row: &mut Service) {
    let listed = spec.ip_families.as_deref().unwrap_or_default();
    let mut named = Families::default();
    for (at, text) in listed.iter().enumerate() {
        let family = match text.as_str() {
            "IPv4" => &mut named.v4,
            "IPv6" => &mut named.v6,
            other => {
                let why = format!("{other:?} is not IPv4 or IPv6");
                check.refuse(format!("spec.ipFamilies[{at}]"), why);
                continue;
            }
        };
        if std::mem::replace(family, true) {
            check.refuse(format!("spec.ipFamilies[{at}]"), format!("{text} is listed twice"));
        }
    }
    if named == Families::default() {
        return;
    }
    row.cluster_ips.retain(|addr| {
        let fits = named.have(addr);
        if !fits {
            let at = spec.cluster_ips.iter().flatten().position(|text| *text == addr.to_string());
            let field = at.map_or("spec.clusterIP".into(), |at| format!("spec.clusterIPs[{at}]"));
            let family = if addr.is_v4() { "IPv4" } else { "IPv6" };
            check.refuse(field, format!("{addr}: {family} is not in spec.ipFamilies"));
        }
        fits
    });
    row.families.v4 &= named.v4;
    row.families.v6 &= named.v6;
}

fn external_ips(spec: &ServiceSpec, families: Families, check: &mut Checker<'_>) -> Vec<Addr> {
    let mut row = Vec::new();
    let listed = spec.external_ips.as_deref().unwrap_or_default();
    for (at, text) in first(listed, MOST_ADDRESSES, "spec.externalIPs", check) {
        let field = || format!("spec.externalIPs[{at}]");
        let addr = check.address(field, text, Use::Global);
        row.extend(addr.filter(|addr| is_usable(addr, &row, families, &field(), check)));
    }
    row
}

fn is_usable(
    addr: &Addr,
    others: &[Addr],
    families: Families,
    field: &str,
    check: &mut Checker<'_>,
) -> bool {
    if others.contains(addr) {
        check.refuse(field, format!("{addr} is listed twice"));
        return false;
    }
    if !families.have(addr) {
        check
            .refuse(field, format!("{addr} is of a family in which the Service has no cluster IP"));
        return false;
    }
    true
}

/// KEP-1860: only mode VIP (or unset) is ours to answer; in mode Proxy the packet must reach the load balancer.
fn load_balancer_ips(object: &Object, families: Families, check: &mut Checker<'_>) -> Vec<Addr> {
    let mut row = Vec::new();
    let ingress = object
        .status
        .as_ref()
        .and_then(|status| status.load_balancer.as_ref())
        .and_then(|status| status.ingress.as_deref());
    let listed = ingress.unwrap_or_default();
    for (at, ingress) in first(listed, MOST_ADDRESSES, "status.loadBalancer.ingress", check) {
        let field = |name: &str| format!("status.loadBalancer.ingress[{at}].{name}");
        let Some(text) = ingress.ip.as_deref().filter(|text| !text.is_empty()) else { continue };
        match ingress.ip_mode.as_deref() {
            None | Some("VIP") => {}
            Some("Proxy") => continue,
            Some(other) => {
                check.refuse(field("ipMode"), format!("{other:?} is not VIP or Proxy"));
                continue;
            }
        }
        let addr = check.address(|| field("ip"), text, Use::Unicast);
        row.extend(addr.filter(|addr| is_usable(addr, &row, families, &field("ip"), check)));
    }
    row
}

/// White space around a range is tolerated, and bits beyond its length are, as in kube-proxy. A range that can't be read leaves
/// the others in force, and does not open what it was to close.
fn source_ranges(spec: &ServiceSpec, check: &mut Checker<'_>) -> (Vec<IpNet>, Families) {
    let (mut row, mut restricted) = (Vec::new(), Families::default());
    for (at, text) in spec.load_balancer_source_ranges.iter().flatten().enumerate() {
        let field = || format!("spec.loadBalancerSourceRanges[{at}]");
        let text = text.trim();
        *(if text.contains(':') { &mut restricted.v6 } else { &mut restricted.v4 }) = true;
        let range = check.range(field, text);
        row.extend(range.filter(|range| !row.contains(range)));
    }
    if row.len() > MAX_RANGES {
        check.refuse(
            "spec.loadBalancerSourceRanges",
            format!("has {} ranges: the first {MAX_RANGES} are used", row.len()),
        );
        row.truncate(MAX_RANGES);
    }
    (row, restricted)
}

fn ports(spec: &ServiceSpec, check: &mut Checker<'_>) -> Vec<ServicePort> {
    let mut row: Vec<ServicePort> = Vec::new();
    let listed = spec.ports.as_deref().unwrap_or_default();
    for (at, port) in first(listed, MOST_PORTS, "spec.ports", check) {
        let field = |name: &str| format!("spec.ports[{at}].{name}");
        // Each part is looked at, so that one run names every fault of the port.
        let name = check.port_name(|| field("name"), port.name.as_deref());
        let protocol = check.protocol(|| field("protocol"), port.protocol.as_deref());
        let number = check.port(|| field("port"), port.port);
        let node_port = match port.node_port {
            None | Some(0) => Some(0),
            // A bad node port takes nothing else along: the port still works on its other addresses.
            Some(number) => Some(check.port(|| field("nodePort"), number).unwrap_or(0)),
        };
        let (Some(name), Some(protocol), Some(port), Some(node_port)) =
            (name, protocol, number, node_port)
        else {
            continue;
        };
        if row.iter().any(|other| other.name == name) {
            let what = if name.is_empty() {
                "no name: every port of several needs one".into()
            } else {
                format!("the name {name:?} again")
            };
            check.refuse(field("name"), format!("has {what}"));
        } else if row.iter().any(|other| (other.port, other.protocol) == (port, protocol)) {
            check.refuse(field("port"), format!("{port} is listed twice for one protocol"));
        } else {
            row.push(ServicePort { name, protocol, port, node_port });
        }
    }
    row
}

fn is_local(field: &str, policy: Option<&str>, check: &mut Checker<'_>) -> bool {
    match policy {
        None | Some("" | "Cluster") => false,
        Some("Local") => true,
        Some(other) => {
            check.refuse(field, format!("{other:?} is not Cluster or Local: Cluster is used"));
            false
        }
    }
}

fn affinity(spec: &ServiceSpec, check: &mut Checker<'_>) -> u32 {
    match spec.session_affinity.as_deref() {
        None | Some("" | "None") => return 0,
        Some("ClientIP") => {}
        Some(other) => {
            check.refuse(
                "spec.sessionAffinity",
                format!("{other:?} is not None or ClientIP: None is used"),
            );
            return 0;
        }
    }
    let timeout = spec
        .session_affinity_config
        .as_ref()
        .and_then(|config| config.client_ip.as_ref())
        .and_then(|client| client.timeout_seconds);
    match timeout.map(u32::try_from) {
        None => DEFAULT_AFFINITY,
        Some(Ok(seconds)) if (1..=LONGEST_AFFINITY).contains(&seconds) => seconds,
        Some(_) => {
            let field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
            check.refuse(
                field,
                format!(
                    "{} is not in 1 to {LONGEST_AFFINITY}: {DEFAULT_AFFINITY} is used",
                    timeout.unwrap_or_default()
                ),
            );
            DEFAULT_AFFINITY
        }
    }
}
