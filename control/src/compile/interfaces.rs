//! The world of a router: an engine's own interfaces, and the routes and neighbors of the configuration.
//!
//! Each address gives a connected route and an address of ours; configured routes come on top. Needs the interface list (the
//! engine's `Welcome`, or its configuration file for an image made offline). Says which configured entries can't be used on these
//! interfaces; the others are in force.

use millrace_tables::{InterfaceId, InterfaceKind, InterfaceSpec, NextHop, RouteSpec};
use millrace_wire::Addr;

use super::configured;
use crate::{
    config::{Config, Problem},
    store::Store,
    world::World,
};

/// Builds the world of these interfaces. Of the store it takes this node's object and the ranges of service addresses. Entries of
/// `config` that name no interface, or reach none, are answered.
pub fn world(
    interfaces: Vec<InterfaceSpec>,
    config: &Config,
    store: &Store,
) -> (World, Vec<Problem>) {
    let node = config.node.as_deref().and_then(|name| store.node(name));
    let mut world = World::default();
    for spec in interfaces {
        for address in &spec.addresses {
            // Two interfaces in one network: the first has the connected route.
            world.routes.entry(address.trunc()).or_insert_with(|| on_link(spec.id));
        }
        world.interfaces.insert(spec.id, spec);
    }
    let problems = configured::entries(&mut world, config);
    configured::service_ranges(&mut world, config, store);
    // Our own addresses last: no configuration may route them away.
    let own = |wanted: fn(&InterfaceSpec) -> bool, world: &World| -> Vec<Addr> {
        let nets = world.interfaces.values().filter(|spec| wanted(spec));
        nets.flat_map(|spec| &spec.addresses).map(|net| Addr::from(net.addr())).collect()
    };
    let local = own(|_| true, &world).into_iter();
    world.routes.extend(local.map(|addr| (configured::host(addr), RouteSpec::Local)));
    let answering = own(|spec| spec.kind != InterfaceKind::POD, &world);
    configured::view(&mut world, config, node, &answering, &[]);
    (world, problems)
}

fn on_link(interface: InterfaceId) -> RouteSpec {
    RouteSpec::Forward(vec![(NextHop { interface, gateway: None }, 1)])
}

#[cfg(test)]
mod tests;
