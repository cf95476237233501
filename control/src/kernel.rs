//! What this node's kernel knows of the network: links, addresses, routes and neighbors of control's network namespace.
//!
//! Plain values, as `reflect/netlink` reads them and `compile/kernel` uses them. Each part is replaced whole, so that a route is never seen that
//! the kernel did not have; neighbors, which change all the time, come one by one. What does not bear on a packet (counters, timers,
//! a neighbor's state) is not here, so that its changes cost nothing.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use millrace_wire::{Addr, Mac};

/// All of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Kernel {
    /// Devices, by index.
    pub links: Arc<BTreeMap<u32, Link>>,
    /// Addresses of devices, in the kernel's order: the first of a device is preferred.
    pub addresses: Arc<Vec<Address>>,
    /// Routes of the tables main and local, in the kernel's order.
    pub routes: Arc<Vec<Route>>,
    /// Rules beside the three that every kernel has.
    pub rules: Arc<Vec<Rule>>,
    /// Neighbors that packets can be sent to, by device.
    pub neighbors: BTreeMap<(u32, Addr), Mac>,
}

/// A device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// Its MAC; none where it has no Ethernet.
    pub mac: Option<Mac>,
    /// Largest IP packet in bytes.
    pub mtu: u32,
    /// Switched on.
    pub up: bool,
    /// Switched on, and there is somebody at the other end.
    pub running: bool,
    /// The loopback device.
    pub loopback: bool,
    /// Stations on it find each other by ARP or ND.
    pub shared: bool,
    /// What it is where it is virtual: `veth`, `bridge`, `vxlan`…
    pub kind: String,
}

/// An address of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// On which.
    pub link: u32,
    /// With the length of its network.
    pub net: IpNet,
    /// The kernel answers on it: it is not being tested for duplicates, nor found to be one.
    pub usable: bool,
    /// Not to be chosen as a source where there is another: secondary, temporary or deprecated.
    pub lesser: bool,
}

/// The table that rules begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// The kernel's own addresses.
    Local,
    /// Everything else.
    Main,
}

/// What a route does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// To one of these.
    Forward(Vec<Hop>),
    /// To this machine.
    Local,
    /// To all stations of a network.
    Broadcast,
    /// Dropped.
    Blackhole,
    /// Dropped with an answer: unreachable, prohibited, or (thrown) not in this table, which ends in the same.
    Unreachable,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where it stands.
    pub table: Table,
    /// Destinations.
    pub prefix: IpNet,
    /// The lowest of a prefix wins.
    pub metric: u32,
    /// Router preference (RFC 4191): 1 high, 0 medium, −1 low; among equal metrics.
    pub preference: i8,
    /// What it does.
    pub action: Action,
}

/// A way on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Device; 0 where the route names none.
    pub link: u32,
    /// The neighbor; the destination itself where there is none.
    pub gateway: Option<IpAddr>,
    /// Its share, from 1.
    pub weight: u16,
    /// The kernel does not use it: its device is down.
    pub dead: bool,
    /// The kernel puts something around the packet (MPLS, segment routing…).
    pub encapsulated: bool,
}

/// A rule that sends packets of some sources to a table of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its place.
    pub priority: u32,
    /// Sources; all where absent.
    pub from: Option<IpNet>,
    /// The table that is looked in; 0 where it does something else.
    pub table: u32,
    /// It asks for more than the source (a mark, a device, a destination…).
    pub conditional: bool,
    /// Of IPv4.
    pub v4: bool,
}

/// One change.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// All devices.
    Links(Arc<BTreeMap<u32, Link>>),
    /// All addresses.
    Addresses(Arc<Vec<Address>>),
    /// All routes.
    Routes(Arc<Vec<Route>>),
    /// All rules.
    Rules(Arc<Vec<Rule>>),
    /// One neighbor.
    Neighbor((u32, Addr), Option<Mac>),
}

impl Kernel {
    /// Takes in a change. False when everything is as it was.
    pub fn take(&mut self, change: Change) -> bool {
        fn replace<T: PartialEq>(old: &mut Arc<T>, new: Arc<T>) -> bool {
            let differs = *old != new;
            *old = new;
            differs
        }
        match change {
            Change::Links(links) => replace(&mut self.links, links),
            Change::Addresses(addresses) => replace(&mut self.addresses, addresses),
            Change::Routes(routes) => replace(&mut self.routes, routes),
            Change::Rules(rules) => replace(&mut self.rules, rules),
            Change::Neighbor(key, Some(mac)) => self.neighbors.insert(key, mac) != Some(mac),
            Change::Neighbor(key, None) => self.neighbors.remove(&key).is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_again_is_no_change() {
        let mut kernel = Kernel::default();
        let links = || Change::Links(Arc::new([(1, Link::default())].into()));
        assert!(kernel.take(links()) && !kernel.take(links()));
        let key = (1, Addr::from(IpAddr::from([192, 0, 2, 1])));
        let neighbor = |last| Change::Neighbor(key, last);
        assert!(
            kernel.take(neighbor(Some(Mac([2; 6])))) && !kernel.take(neighbor(Some(Mac([2; 6]))))
        );
        assert!(kernel.take(neighbor(Some(Mac([4; 6])))) && kernel.take(neighbor(None)));
        assert!(!kernel.take(neighbor(None)) && kernel.neighbors.is_empty());
    }
}
