//! The world of a router: an engine's own interfaces, and the routes and neighbors of the configuration.
//!
//! Each address gives a connected route and an address of ours; configured routes come on top. Needs the interface list (the
//! engine's `Welcome`, or its configuration file for an image made offline). Says which configured entries can't be used on these
//! interfaces; the others are in force.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use millrace_tables::{InterfaceId, InterfaceKind, InterfaceSpec, NextHop, RouteSpec};
use millrace_wire::Addr;

use super::{masquerade, node::NodePortAddresses};
use crate::{
    config::{Action, Config, Hop, Problem},
    desired::Node,
    store::Store,
    world::{NodeView, World},
};

/// Builds the world of these interfaces. Of the store it takes this node's object and the ranges of service addresses. Entries of
/// `config` that name no interface, or reach none, are answered.
pub fn world(
    interfaces: Vec<InterfaceSpec>,
    config: &Config,
    store: &Store,
) -> (World, Vec<Problem>) {
    let node = config.node.as_deref().and_then(|name| store.node(name));
    let mut problems = Vec::new();
    let mut world = World::default();
    for spec in interfaces {
        for address in &spec.addresses {
            // Two interfaces in one network: the first has the connected route.
            world.routes.entry(address.trunc()).or_insert_with(|| on_link(spec.id));
        }
        world.interfaces.insert(spec.id, spec);
    }
    let mut configured = BTreeMap::new();
    for route in &config.routes {
        match resolve(&route.action, &world) {
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
                no_interface(&neighbor.interface, &world),
            )),
        }
    }
    for range in config.service_cidr.iter().copied().chain(store.service_ranges()) {
        world.routes.entry(range.trunc()).or_insert(RouteSpec::Blackhole);
    }
    // Our own addresses last: no configuration may route them away.
    let own: Vec<Addr> = world
        .interfaces
        .values()
        .flat_map(|spec| &spec.addresses)
        .map(|net| Addr::from(net.addr()))
        .collect();
    world
        .routes
        .extend(own.iter().map(|addr| (IpNet::from(IpAddr::from(*addr)), RouteSpec::Local)));
    let pods = masquerade::pod_ranges(config.detect_local_mode, &config.cluster_cidr, node);
    world.node = NodeView {
        name: config.node.clone().unwrap_or_default(),
        node_port_addresses: node_port_addresses(&world, config),
        primary: primary(&world, node),
        pods_known: masquerade::families(&pods),
        masquerade_all: config.masquerade_all,
    };
    world.row = masquerade::row(pods, world.interfaces.values());
    (world, problems)
}

/// All addresses, or as `nodeport_addresses` says. Link-local ones don't tell which link they are meant on.
fn node_port_addresses(world: &World, config: &Config) -> Vec<Addr> {
    let chosen = config.nodeport_addresses.as_slice();
    let mut addresses: Vec<Addr> = Vec::new();
    let own = world
        .interfaces
        .values()
        .filter(|spec| spec.kind != InterfaceKind::POD)
        .flat_map(|spec| &spec.addresses);
    for addr in own.map(|net| Addr::from(net.addr())).filter(|addr| !addr.is_link_local()) {
        let first_of_family = !addresses.iter().any(|other| other.is_v4() == addr.is_v4());
        let wanted = |item: &NodePortAddresses| match item {
            NodePortAddresses::Primary => first_of_family,
            NodePortAddresses::In(range) => range.contains(&IpAddr::from(addr)),
        };
        if (chosen.is_empty() || chosen.iter().any(wanted)) && !addresses.contains(&addr) {
            addresses.push(addr);
        }
    }
    addresses
}

/// The node's main address of each family: what its object says, else the first one that is ours.
fn primary(world: &World, node: Option<&Node>) -> Vec<Addr> {
    if let Some(node) = node {
        return node.primary().collect();
    }
    let own = || {
        let nets = world.interfaces.values().flat_map(|spec| &spec.addresses);
        nets.map(|net| Addr::from(net.addr())).filter(|addr| !addr.is_link_local())
    };
    [true, false].into_iter().filter_map(|v4| own().find(|addr| addr.is_v4() == v4)).collect()
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

fn on_link(interface: InterfaceId) -> RouteSpec {
    RouteSpec::Forward(vec![(NextHop { interface, gateway: None }, 1)])
}

fn no_interface(name: &str, world: &World) -> String {
    let known: Vec<&str> = world.interfaces.values().map(|spec| spec.name.as_str()).collect();
    format!("the engine has no interface {name:?}; it has {}", known.join(", "))
}

#[cfg(test)]
mod tests;
