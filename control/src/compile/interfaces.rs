//! The world of a router: an engine's own interfaces, and the routes and neighbors of the configuration.
//!
//! Each address gives a connected route and an address of ours; configured routes come on top. Needs the interface list (the
//! engine's `Welcome`, or its configuration file for an image made offline). Says which configured entries can't be used on these
//! interfaces; the others are in force. An interface that is a pod's alone gets its pod's routes, its MAC and a guard.

use std::collections::BTreeSet;

use millrace_tables::{
    GuardSpec, InterfaceId, InterfaceKind, InterfaceSpec, NextHop, RouteSpec, guard::MAX_ADDRESSES,
};
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
    let mut problems = configured::entries(&mut world, config);
    let pods = pods(&mut world, config, store, &mut problems);
    configured::service_ranges(&mut world, config, store);
    // Our own addresses last: no configuration may route them away.
    let nets = world.interfaces.values().flat_map(|spec| &spec.addresses);
    let local: Vec<Addr> = nets.map(|net| Addr::from(net.addr())).collect();
    world.routes.extend(local.into_iter().map(|addr| (configured::host(addr), RouteSpec::Local)));
    let answering = world.interfaces.values();
    let answering = answering.filter(|it| it.kind != InterfaceKind::POD && !pods.contains(&it.id));
    let answering: Vec<Addr> = answering
        .flat_map(|spec| spec.addresses.iter().map(|net| Addr::from(net.addr())))
        .collect();
    configured::view(&mut world, config, node, &answering, &[]);
    (world, problems)
}

/// Puts pods' own interfaces in, and answers which these are. What their packets may come from is known before any may come.
fn pods(
    world: &mut World,
    config: &Config,
    store: &Store,
    problems: &mut Vec<Problem>,
) -> BTreeSet<InterfaceId> {
    let own = world.interfaces.values().flat_map(|spec| &spec.addresses);
    let own: BTreeSet<Addr> = own.map(|net| Addr::from(net.addr())).collect();
    let mut known = BTreeSet::new();
    for entry in &config.pods {
        let Some(id) = world.interface(&entry.interface).map(|spec| spec.id) else {
            let why = configured::no_interface(&entry.interface, world);
            problems.push(Problem::misfit(entry.at.clone(), "interface", why));
            continue;
        };
        known.insert(id);
        let pod = entry.pod.as_ref().and_then(|key| store.pod(key));
        let of_object = || {
            // A pod of another node is behind none of our interfaces.
            let here = |node: &str| config.node.as_deref().is_none_or(|name| name == node);
            let pod = pod.filter(|pod| !pod.host_network && here(&pod.node));
            pod.map(|pod| pod.addresses.clone()).unwrap_or_default()
        };
        let mut addresses = entry.addresses.clone().unwrap_or_else(of_object);
        addresses.retain(|addr| {
            let is_own = own.contains(addr);
            if is_own {
                let why = format!("{addr} is an address of ours: the pod is refused it");
                problems.push(Problem::misfit(entry.at.clone(), "addresses", why));
            }
            !is_own
        });
        addresses.truncate(MAX_ADDRESSES);
        for addr in &addresses {
            world.routes.entry(configured::host(*addr)).or_insert_with(|| on_link(id));
            world.neighbors.insert((id, *addr), entry.mac);
        }
        let name = entry.pod.as_ref().map_or("nobody".to_owned(), |key| key.to_string());
        world.guards.insert(id, GuardSpec { name, mac: entry.mac, addresses });
    }
    known
}

fn on_link(interface: InterfaceId) -> RouteSpec {
    RouteSpec::Forward(vec![(NextHop { interface, gateway: None }, 1)])
}

#[cfg(test)]
mod tests;
