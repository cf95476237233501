//! What is to come to the engine beside a kernel that owns the interfaces, by the tables in force: at the uplinks and from this node.
//!
//! Pure. Service addresses that lie in a range whose other addresses are dropped (a ServiceCIDR) are led by the range, others each by
//! itself. A service address that is the node's own too (an external IP) is ours only where a frontend is.
//!
//! Cost: a walk over all frontends and routes. Housekeeping does it when the tables have changed, and not more than a tenth of the time.

use std::collections::BTreeSet;

use ipnet::IpNet;
use millrace_tables::{InterfaceId, Route, Snapshot};
use millrace_wire::{Addr, Protocol};

use super::PortSet;
use crate::interface::Interfaces;
use crate::kernel::follow;
use crate::snat::Ports;

/// What comes to the engine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// At the uplinks: destinations that are ours whatever the packet. Service addresses, and what lies behind the trunk.
    pub prefixes: BTreeSet<IpNet>,
    /// At the uplinks: addresses of the node's of which [`Self::ports`] are ours.
    pub addresses: BTreeSet<IpNet>,
    /// Node ports, and those of masqueraded flows.
    pub ports: PortSet,
    /// From this node.
    pub trunk: follow::Wanted,
}

/// By these tables. `snat` is what masqueraded flows get.
pub fn wanted(tables: &Snapshot<'_>, interfaces: &Interfaces, snat: &Ports) -> Wanted {
    let mut wanted = Wanted::default();
    let Some(trunk) = interfaces.trunk() else { return wanted };
    let mut ranges = BTreeSet::new();
    for (prefix, route) in tables.routes() {
        match route {
            Route::Blackhole if prefix.prefix_len() < prefix.max_prefix_len() => {
                ranges.insert(prefix);
            }
            Route::Forward(group) if prefix.prefix_len() > 0 && !is_link_local(&prefix) => {
                let mut hops = tables.next_hops(group).into_iter();
                if hops.any(|(hop, _)| hop.interface == trunk.id) {
                    wanted.prefixes.insert(prefix);
                }
            }
            _ => {}
        }
    }
    // Nothing is on the way back to the engine's own addresses.
    let own: BTreeSet<Addr> = interfaces.get(trunk.id).map_or_else(BTreeSet::new, |it| {
        it.addresses.iter().map(|net| Addr::from(net.addr())).collect()
    });
    wanted.prefixes.retain(|prefix| !own.iter().any(|addr| prefix.contains(&addr.to_ip())));
    let mut last = None;
    for row in tables.frontends() {
        if own.contains(&row.addr) {
            wanted.trunk.node_ports.insert((row.protocol, row.port));
            continue;
        }
        if tables.route(&row.addr) == Some(Route::Local) {
            wanted.addresses.insert(IpNet::from(row.addr.to_ip()));
            wanted.ports.insert(Protocol(row.protocol), row.port);
        } else if last.replace(row.addr) != Some(row.addr) {
            let host = IpNet::from(row.addr.to_ip());
            wanted.trunk.services.insert(range_of(&ranges, host).unwrap_or(host));
        }
    }
    wanted.prefixes.extend(wanted.trunk.services.iter().copied());
    let node = tables.node().spec();
    for (_, net) in node.sources.iter().filter(|(id, _)| *id != trunk.id) {
        wanted.addresses.insert(IpNet::from(net.addr()));
    }
    wanted.trunk.sources = sources(&node.sources, trunk.id);
    if !wanted.addresses.is_empty() {
        for port in (0..snat.count()).map(|n| snat.nth(n)) {
            for protocol in [Protocol::TCP, Protocol::UDP, Protocol::SCTP] {
                wanted.ports.insert(protocol, port);
            }
        }
    }
    wanted
}

/// The node's address of each family that its own processes speak to services from: the first that is not the trunk's.
fn sources(all: &[(InterfaceId, IpNet)], trunk: InterfaceId) -> Vec<std::net::IpAddr> {
    let of = |v4: bool| {
        let mut found =
            all.iter().filter(move |(id, net)| *id != trunk && net.addr().is_ipv4() == v4);
        found.next().map(|(_, net)| net.addr())
    };
    [true, false].into_iter().filter_map(of).collect()
}

/// The longest of the ranges that the host lies in.
fn range_of(ranges: &BTreeSet<IpNet>, host: IpNet) -> Option<IpNet> {
    ranges.iter().filter(|range| range.contains(&host)).max_by_key(|it| it.prefix_len()).copied()
}

fn is_link_local(prefix: &IpNet) -> bool {
    matches!(prefix, IpNet::V6(net) if net.addr().is_unicast_link_local())
}
