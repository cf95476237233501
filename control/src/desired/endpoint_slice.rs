//! EndpointSlice → endpoints and ports, ready to be joined with the Service's ports by name.
//!
//! Read as kube-proxy does (`pkg/proxy/endpointslicecache.go`): only the first address of an endpoint counts, an unset
//! `ready` is true, so is an unset `serving` (the API says so of both, whatever the other says), a port without number has no
//! effect. Unlike there, every part left out is said.

use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{Endpoint as EndpointObject, EndpointSlice as Object};
use millrace_wire::Addr;

use super::check::{Checker, Protocol, Use};
use crate::object::check_name;

/// Objects with one of these labels are another proxy's business (`cmd/kube-proxy/app.Run`).
pub(super) const NOT_OURS: [&str; 2] =
    ["service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless"];
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The API's own limit is 1,000 endpoints and 100 ports a slice; this leaves room for hand-written files.
const MOST_ENDPOINTS: usize = 20_000;
const MOST_PORTS: usize = 1_000;
/// The API's own limit is 8 zones and 8 nodes.
const MOST_HINTS: usize = 64;

/// A part of a Service's endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Name of the Service in the same namespace; empty when it belongs to none.
    pub service: String,
    /// Ports that every endpoint of the slice serves on.
    pub ports: Vec<EndpointPort>,
    /// One address each, all of one family.
    pub endpoints: Vec<Endpoint>,
}

/// A target port under the name of the Service's port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointPort {
    /// Empty for a Service with one port without name.
    pub name: String,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// On the endpoint.
    pub port: u16,
}

/// Somewhere to send packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where.
    pub addr: Addr,
    /// May be given new flows.
    pub ready: bool,
    /// Answers; with `terminating` it is the last resort, without it keeps the flows that it has.
    pub serving: bool,
    /// On its way out.
    pub terminating: bool,
    /// Its node; empty when not said.
    pub node: Arc<str>,
    /// The pod as `namespace/name`; empty when it is none.
    pub pod: Arc<str>,
    /// Who should prefer it. Shared by the slice's endpoints that have the same ones.
    pub hints: Option<Arc<Hints>>,
}

/// Whom an endpoint is meant for (KEP-2433, KEP-3015): set by the EndpointSlice controller from the Service's
/// `trafficDistribution`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// `forZones`.
    pub zones: Vec<String>,
    /// `forNodes`.
    pub nodes: Vec<String>,
}

pub(super) fn judge(object: &Object, check: &mut Checker<'_>) -> EndpointSlice {
    let labels = object.metadata.labels.as_ref();
    if labels.into_iter().flatten().any(|(label, _)| NOT_OURS.contains(&label.as_str())) {
        return EndpointSlice::default();
    }
    let service =
        labels.and_then(|labels| labels.get(SERVICE_NAME)).filter(|name| !name.is_empty());
    let Some(service) = service else {
        check.refuse(
            "metadata.labels",
            format!("has no label {SERVICE_NAME}: the slice belongs to no Service"),
        );
        return EndpointSlice::default();
    };
    let v4 = match object.address_type.as_str() {
        "IPv4" => true,
        "IPv6" => false,
        other => {
            check.refuse("addressType", format!("{other:?} is not IPv4 or IPv6"));
            return EndpointSlice { service: service.clone(), ..EndpointSlice::default() };
        }
    };
    EndpointSlice {
        service: service.clone(),
        ports: ports(object, check),
        endpoints: endpoints(object, v4, check),
    }
}

fn ports(object: &Object, check: &mut Checker<'_>) -> Vec<EndpointPort> {
    let listed = object.ports.as_deref().unwrap_or_default();
    if listed.len() > MOST_PORTS {
        check.refuse(
            "ports",
            format!("has {} items, the first {MOST_PORTS} are used", listed.len()),
        );
    }
    let mut row: Vec<EndpointPort> = Vec::new();
    for (at, port) in listed.iter().take(MOST_PORTS).enumerate() {
        let field = |name: &str| format!("ports[{at}].{name}");
        let name = check.port_name(|| field("name"), port.name.as_deref());
        let protocol = check.protocol(|| field("protocol"), port.protocol.as_deref());
        let number = match port.port {
            Some(number) => check.port(|| field("port"), number),
            None => {
                check.refuse(field("port"), "is null: a port without number has no effect");
                None
            }
        };
        let (Some(name), Some(protocol), Some(port)) = (name, protocol, number) else { continue };
        let port = EndpointPort { name, protocol, port };
        // The same name twice is legal: named target ports may differ from pod to pod, then the slices do; here it is a slip.
        match row.contains(&port) {
            true => check.refuse(field("name"), "is listed twice"),
            false => row.push(port),
        }
    }
    row
}

fn endpoints(object: &Object, v4: bool, check: &mut Checker<'_>) -> Vec<Endpoint> {
    let listed = object.endpoints.as_deref().unwrap_or_default();
    if listed.len() > MOST_ENDPOINTS {
        check.refuse(
            "endpoints",
            format!("has {} items, the first {MOST_ENDPOINTS} are used", listed.len()),
        );
    }
    let mut row = Vec::with_capacity(listed.len().min(MOST_ENDPOINTS));
    for (at, endpoint) in listed.iter().take(MOST_ENDPOINTS).enumerate() {
        let namespace = object.metadata.namespace.as_deref().unwrap_or("default");
        let Some(mut endpoint) = judge_endpoint(at, endpoint, namespace, v4, check) else {
            continue;
        };
        // Neighbors mostly have the same zone.
        if let Some(Endpoint { hints, .. }) = row.last()
            && *hints == endpoint.hints
        {
            endpoint.hints.clone_from(hints);
        }
        row.push(endpoint);
    }
    row
}

fn judge_endpoint(
    at: usize,
    endpoint: &EndpointObject,
    namespace: &str,
    v4: bool,
    check: &mut Checker<'_>,
) -> Option<Endpoint> {
    let field = || format!("endpoints[{at}].addresses[0]");
    let Some(text) = endpoint.addresses.first() else {
        check.refuse(format!("endpoints[{at}].addresses"), "is empty");
        return None;
    };
    let addr = check.address(field, text, Use::Global)?;
    if addr.is_v4() != v4 {
        let family = if v4 { "IPv4" } else { "IPv6" };
        check.refuse(field(), format!("{addr} is not of the slice's addressType {family}"));
        return None;
    }
    let condition =
        |read: fn(&k8s_openapi::api::discovery::v1::EndpointConditions) -> Option<bool>| {
            endpoint.conditions.as_ref().and_then(read)
        };
    let pod = pod_name(at, endpoint, namespace, check);
    let ready = condition(|conditions| conditions.ready).unwrap_or(true);
    let terminating = condition(|conditions| conditions.terminating).unwrap_or(false);
    Some(Endpoint {
        addr,
        ready,
        serving: condition(|conditions| conditions.serving).unwrap_or(true),
        terminating,
        node: endpoint.node_name.as_deref().unwrap_or_default().into(),
        pod: pod.as_deref().unwrap_or_default().into(),
        hints: hints(at, endpoint, check).map(Arc::new),
    })
}

/// `None` when there is no usable one: such an endpoint counts as unhinted.
fn hints(at: usize, endpoint: &EndpointObject, check: &mut Checker<'_>) -> Option<Hints> {
    let object = endpoint.hints.as_ref()?;
    let zones = object.for_zones.iter().flatten().map(|zone| zone.name.as_str()).collect();
    let nodes = object.for_nodes.iter().flatten().map(|node| node.name.as_str()).collect();
    let mut names = |list: &str, names: Vec<&str>| {
        let mut kept: Vec<String> = Vec::new();
        if names.len() > MOST_HINTS {
            let why = format!("has {} items, the first {MOST_HINTS} are used", names.len());
            check.refuse(format!("endpoints[{at}].hints.{list}"), why);
        }
        for (item, name) in names.into_iter().take(MOST_HINTS).enumerate() {
            let field = || format!("endpoints[{at}].hints.{list}[{item}].name");
            match name {
                "" => check.refuse(field(), "is empty"),
                name if kept.iter().any(|other| other == name) => {
                    check.refuse(field(), format!("{name:?} is listed twice"));
                }
                name => kept.push(name.into()),
            }
        }
        kept
    };
    let hints = Hints { zones: names("forZones", zones), nodes: names("forNodes", nodes) };
    (hints != Hints::default()).then_some(hints)
}

/// The pod behind an endpoint, for people: an impossible name is left out, the endpoint works.
fn pod_name(
    at: usize,
    endpoint: &EndpointObject,
    namespace: &str,
    check: &mut Checker<'_>,
) -> Option<String> {
    let target =
        endpoint.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"))?;
    let (namespace, name) =
        (target.namespace.as_deref().unwrap_or(namespace), target.name.as_deref()?);
    match check_name(namespace, 63).and_then(|()| check_name(name, 253)) {
        Ok(()) => Some(format!("{namespace}/{name}")),
        Err(why) => {
            check.refuse(format!("endpoints[{at}].targetRef"), why);
            None
        }
    }
}
