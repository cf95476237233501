//! What the configuration adds to a world, whoever made the rest of it: routes, neighbors, ranges of services, node ports' addresses.
//!
//! Says which entries can't be used on these interfaces; the others are in force.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use millrace_tables::{NextHop, RouteSpec};
use millrace_wire::Addr;

use super::{masquerade, node::NodePortAddresses};
use crate::{
    config::{Action, Config, Hop, Problem},
    desired::Node,
    store::Store,
    world::{NodeView, World},
};

/// Puts the configured routes and neighbors in; before what is there, as it has been typed.
pub(super) fn entries(world: &mut World, config: &Config) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut configured = BTreeMap::new();
    for route in &config.routes {
        match resolve(&route.action, world) {
            Ok(spec) => _ = configured.insert(route.prefix, spec),
            Err((field, why)) => problems.push(Problem::misfit(route.at.clone(), field, why)),
        }
    }
    world.routes.extend(configured);
    for neighbor in &config.neighbors {
        match world.interface(&neighbor.interface).map(|spec| spec.id) {
            Some(id) => _ = world.neighbors.insert((id, neighbor.address), neighbor.mac),
            None => problems.push(Problem::misfit(
                neighbor.at.clone(),
                "interface",
                no_interface(&neighbor.interface, world),
            )),
        }
    }
    problems
}

/// Service addresses that no Service has lead nowhere, unless a route says otherwise.
pub(super) fn service_ranges(world: &mut World, config: &Config, store: &Store) {
    for range in config.service_cidr.iter().copied().chain(store.service_ranges()) {
        world.routes.entry(range.trunc()).or_insert(RouteSpec::Blackhole);
    }
}

/// What services depend on, where these addresses are the node's. Link-local ones don't tell which link they are meant on. Those
/// `elsewhere` are on no interface of the engine.
pub(super) fn view(
    world: &mut World,
    config: &Config,
    node: Option<&Node>,
    own: &[Addr],
    elsewhere: &[IpNet],
) {
    let own: Vec<Addr> = own.iter().copied().filter(|addr| !addr.is_link_local()).collect();
    let first = |v4: bool| own.iter().copied().find(|addr| addr.is_v4() == v4);
    let primary: Vec<Addr> = match node {
        Some(node) => node.primary().collect(),
        None => [true, false].into_iter().filter_map(first).collect(),
    };
    let pods = masquerade::pod_ranges(config.detect_local_mode, &config.cluster_cidr, node);
    world.node = NodeView {
        name: config.node.clone().unwrap_or_default(),
        node_port_addresses: node_port_addresses(&own, &primary, &config.nodeport_addresses),
        host_port_addresses: own.clone(),
        primary,
        pods_known: masquerade::families(&pods),
        masquerade_all: config.masquerade_all,
    };
    world.policies = config.policies;
    world.row = masquerade::row(pods, elsewhere, world.interfaces.values());
    world.row.leaving = config.masquerade.sources.iter().map(IpNet::trunc).collect();
    world.row.staying = config.masquerade.except.iter().map(IpNet::trunc).collect();
}

/// All addresses, or as `nodeport_addresses` says; the main ones first, whether or not they are among ours (as kube-proxy).
fn node_port_addresses(own: &[Addr], primary: &[Addr], chosen: &[NodePortAddresses]) -> Vec<Addr> {
    let mut addresses: Vec<Addr> = Vec::new();
    if chosen.contains(&NodePortAddresses::Primary) {
        addresses.extend(primary);
    }
    for addr in own.iter().filter(|addr| NodePortAddresses::choose(chosen, addr, false)) {
        if !addresses.contains(addr) {
            addresses.push(*addr);
        }
    }
    addresses
}

/// The host route of an address.
pub(super) fn host(addr: Addr) -> IpNet {
    IpNet::from(IpAddr::from(addr))
}

fn resolve(action: &Action, world: &World) -> Result<RouteSpec, (&'static str, String)> {
    let hops = match action {
        Action::Blackhole => return Ok(RouteSpec::Blackhole),
        Action::Unreachable => return Ok(RouteSpec::Unreachable),
        Action::Forward(hops) => hops,
    };
    let hops = hops.iter().map(|hop| Ok((next_hop(hop, world)?, hop.weight)));
    Ok(RouteSpec::Forward(hops.collect::<Result<_, _>>()?))
}

fn next_hop(hop: &Hop, world: &World) -> Result<NextHop, (&'static str, String)> {
    let dev = match &hop.dev {
        None => None,
        Some(name) => {
            Some(world.interface(name).ok_or_else(|| ("dev", no_interface(name, world)))?.id)
        }
    };
    let Some(via) = hop.via else {
        let interface = dev.ok_or(("via", "is missing, and so is dev".to_owned()))?;
        return Ok(NextHop { interface, gateway: None });
    };
    let ip = IpAddr::from(via);
    if world.interfaces.values().flat_map(|spec| &spec.addresses).any(|net| net.addr() == ip) {
        return Err(("via", format!("{via} is an address of ours")));
    }
    let connected =
        world.interfaces.values().find(|spec| spec.addresses.iter().any(|net| net.contains(&ip)));
    // With a device given the next hop is taken to be on-link there (`ip route … onlink`).
    match dev.or(connected.map(|spec| spec.id)) {
        Some(interface) => Ok(NextHop { interface, gateway: Some(via) }),
        None => Err((
            "via",
            format!("{via} is in the network of no interface: add dev, or mend the address"),
        )),
    }
}

pub(super) fn no_interface(name: &str, world: &World) -> String {
    let known: Vec<&str> = world.interfaces.values().map(|spec| spec.name.as_str()).collect();
    format!("the engine has no interface {name:?}; it has {}", known.join(", "))
}
