//! The interfaces as the engine itself knows them: what it was configured with, fixed while it runs.
//!
//! Routes and service addresses come from the tables and change all the time; a MAC, an MTU and the addresses that
//! ARP and ND answer for belong to the interface and are needed before any control process is there.

use ipnet::IpNet;
use millrace_tables::{InterfaceId, InterfaceKind};
use millrace_wire::{Addr, Mac};

use crate::kernel::ONWARD_MAC;

/// One interface.
#[derive(Clone, Debug)]
pub struct Interface {
    /// Its number, which is its place in [`Interfaces`] and in a worker's list of queues.
    pub id: InterfaceId,
    /// The netdev's name.
    pub name: String,
    /// Our MAC on it.
    pub mac: Mac,
    /// The biggest IP packet that fits, in bytes.
    pub mtu: u32,
    /// What is on the other side.
    pub kind: InterfaceKind,
    /// Addresses that are ours here, each with the length of its network's prefix.
    pub addresses: Vec<IpNet>,
    /// Whether frames may arrive with a checksum that holds the pseudo-header sum only (veth, tap: the peer's kernel
    /// left the rest to hardware that is not there).
    pub partial_checksums: bool,
    /// Whether the link-local address made of the MAC is ours too (RFC 4291 section 2.5.6).
    link_local: Addr,
    /// `mac` as a number.
    mac_bits: u64,
    /// The broadcast addresses of its networks.
    broadcasts: Vec<Addr>,
    /// The MAC at the other end, where that is known from the start.
    peer_mac: Option<Mac>,
}

/// The trunk: the interface behind which the node's own stack is, which routes whatever the engine has no better way for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trunk {
    /// The interface.
    pub id: InterfaceId,
    /// The kernel's IPv4 address there.
    pub peer4: Option<Addr>,
    /// The kernel's IPv6 address there.
    pub peer6: Option<Addr>,
    /// The kernel's MAC there, if it is known.
    pub mac: Option<Mac>,
    /// The engine's own addresses there. As neighbors they stand for the kernel too: see [`Trunk::onward`].
    pub own4: Option<Addr>,
    /// IPv6.
    pub own6: Option<Addr>,
}

impl Trunk {
    /// Whom to send packets to: all of a family to one.
    pub fn peer(&self, v4: bool) -> Option<Addr> {
        if v4 { self.peer4 } else { self.peer6 }
    }

    /// Whom to send packets to that the kernel is only to send on, past its conntrack: they come from
    /// [`ONWARD_MAC`](crate::kernel::ONWARD_MAC).
    pub fn onward(&self, v4: bool) -> Option<Addr> {
        if v4 { self.own4 } else { self.own6 }
    }
}

impl Interface {
    /// An interface with these addresses, and with its IPv6 link-local address.
    pub fn new(
        id: InterfaceId,
        name: &str,
        mac: Mac,
        mtu: u32,
        kind: InterfaceKind,
        addresses: Vec<IpNet>,
        partial_checksums: bool,
    ) -> Interface {
        let link_local = link_local(mac);
        let broadcasts = addresses.iter().filter_map(broadcast).collect();
        Interface {
            id,
            name: name.to_owned(),
            mac,
            mtu,
            kind,
            addresses,
            partial_checksums,
            link_local,
            mac_bits: mac.to_u64(),
            broadcasts,
            peer_mac: None,
        }
    }

    /// With the one station at the other end.
    pub fn with_peer(mut self, mac: Mac) -> Interface {
        self.peer_mac = Some(mac);
        self
    }

    /// As a trunk: it leads to the node's stack, and has an address that a peer goes with.
    fn trunk(&self) -> Option<Trunk> {
        if self.kind != InterfaceKind::HOST {
            return None;
        }
        let ends = |v4: bool| {
            let mut own = self.addresses.iter().filter(move |net| net.addr().is_ipv4() == v4);
            own.find_map(|net| Some((millrace_tables::trunk::peer(net)?, Addr::from(net.addr()))))
        };
        let (ends4, ends6) = (ends(true), ends(false));
        let is_one = ends4.is_some() || ends6.is_some();
        is_one.then_some(Trunk {
            id: self.id,
            peer4: ends4.map(|ends| ends.0),
            peer6: ends6.map(|ends| ends.0),
            mac: self.peer_mac,
            own4: ends4.map(|ends| ends.1),
            own6: ends6.map(|ends| ends.1),
        })
    }

    /// Our MAC on it, as a number ([`Mac::to_u64`]).
    #[inline]
    pub fn mac_bits(&self) -> u64 {
        self.mac_bits
    }

    /// Whether `mac` is ours here.
    #[inline]
    pub fn is_for(&self, mac: &Mac) -> bool {
        mac.to_u64() == self.mac_bits
    }

    /// Whether `addr` is ours on this interface.
    pub fn owns(&self, addr: &Addr) -> bool {
        *addr == self.link_local || self.addresses.iter().any(|net| Addr::from(net.addr()) == *addr)
    }

    /// Whether `addr` lies in a network that this interface is on, so that its station may be a neighbor here.
    pub fn is_on_link(&self, addr: &Addr) -> bool {
        let ip = addr.to_ip();
        (addr.is_link_local() && !addr.is_v4())
            || self.addresses.iter().any(|net| net.contains(&ip))
    }

    /// Whether `addr` is the broadcast address of a network that this interface is on (RFC 919; none in a /31 or /32).
    #[inline]
    pub fn is_broadcast(&self, addr: &Addr) -> bool {
        self.broadcasts.contains(addr)
    }

    /// The address of ours to speak to `peer` from: one in the peer's network, else the first of its family.
    pub fn source_for(&self, peer: &Addr) -> Option<Addr> {
        if peer.is_link_local() && !peer.is_v4() {
            return Some(self.link_local);
        }
        let ip = peer.to_ip();
        let of_family = || self.addresses.iter().filter(|net| net.addr().is_ipv4() == peer.is_v4());
        of_family()
            .find(|net| net.contains(&ip))
            .or_else(|| of_family().next())
            .map(|net| Addr::from(net.addr()))
    }

    /// The link-local address made of the MAC.
    pub fn link_local(&self) -> Addr {
        self.link_local
    }
}

/// The broadcast address of a network that has one.
fn broadcast(net: &IpNet) -> Option<Addr> {
    match net {
        IpNet::V4(net) if net.prefix_len() < 31 => Some(Addr::from(net.broadcast())),
        IpNet::V4(_) | IpNet::V6(_) => None,
    }
}

/// All interfaces of an engine; `InterfaceId(i)` is the `i`th.
#[derive(Clone, Debug, Default)]
pub struct Interfaces(Vec<Interface>, Option<Trunk>);

impl Interfaces {
    /// From a list in which each interface stands at the place that its id names.
    ///
    /// # Errors
    /// The id of the first interface that stands elsewhere.
    pub fn new(list: Vec<Interface>) -> Result<Interfaces, InterfaceId> {
        match list
            .iter()
            .enumerate()
            .find(|(index, interface)| usize::from(interface.id.0) != *index)
        {
            Some((_, interface)) => Err(interface.id),
            None => {
                let trunk = list.iter().find_map(Interface::trunk);
                Ok(Interfaces(list, trunk))
            }
        }
    }

    /// The interface of that id.
    #[inline]
    pub fn get(&self, id: InterfaceId) -> Option<&Interface> {
        self.0.get(usize::from(id.0))
    }

    /// The trunk, where the engine works beside a kernel.
    #[inline]
    pub fn trunk(&self) -> Option<&Trunk> {
        self.1.as_ref()
    }

    /// All of them, by id.
    pub fn iter(&self) -> std::slice::Iter<'_, Interface> {
        self.0.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `addr` is ours on any interface.
    pub fn owns(&self, addr: &Addr) -> bool {
        self.0.iter().any(|interface| interface.owns(addr))
    }

    /// The address to answer `peer` from: of the interface that its packet came in on (RFC 1812 section 4.3.2.4), or of
    /// the first that has one of that family.
    pub fn source_for(&self, received: InterfaceId, peer: &Addr) -> Option<Addr> {
        self.get(received)
            .and_then(|interface| interface.source_for(peer))
            .or_else(|| self.0.iter().find_map(|interface| interface.source_for(peer)))
    }

    /// The kernel as neighbor on the trunk: by its addresses, and for what it is only to send on.
    pub fn kernel_neighbors(&self) -> Vec<(InterfaceId, Addr, Mac)> {
        let Some(trunk) = self.trunk() else { return Vec::new() };
        let each = |addrs: [Option<Addr>; 2], mac: Option<Mac>| {
            addrs.into_iter().flatten().filter_map(move |addr| Some((trunk.id, addr, mac?)))
        };
        each([trunk.peer4, trunk.peer6], trunk.mac)
            .chain(each([trunk.own4, trunk.own6], Some(ONWARD_MAC)))
            .collect()
    }

    /// The first interface of that kind.
    pub fn of_kind(&self, kind: InterfaceKind) -> Option<&Interface> {
        self.0.iter().find(|interface| interface.kind == kind)
    }
}

/// fe80::/64 with the modified EUI-64 of `mac` (RFC 4291 appendix A).
fn link_local(mac: Mac) -> Addr {
    let Mac([a, b, c, d, e, f]) = mac;
    Addr::from_v6([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 0x02, b, c, 0xff, 0xfe, d, e, f])
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn addr(text: &str) -> Addr {
        text.parse::<IpAddr>().unwrap().into()
    }

    fn interface() -> Interface {
        let addresses = vec![
            "10.0.1.1/24".parse().unwrap(),
            "10.9.0.0/31".parse().unwrap(),
            "2001:db8:1::1/64".parse().unwrap(),
        ];
        let mac = Mac([0x02, 0, 0, 0, 0, 0x0a]);
        Interface::new(InterfaceId(0), "up0", mac, 1500, InterfaceKind::UPLINK, addresses, true)
    }

    #[test]
    fn owned_are_the_addresses_and_the_link_local_one() {
        let it = interface();
        assert!(
            it.owns(&addr("10.0.1.1"))
                && it.owns(&addr("2001:db8:1::1"))
                && it.owns(&addr("fe80::ff:fe00:a"))
        );
        assert!(!it.owns(&addr("10.0.1.2")) && !it.owns(&addr("fe80::1")));
    }

    #[test]
    fn the_source_is_of_the_peers_network_where_there_is_one() {
        let it = interface();
        assert_eq!(it.source_for(&addr("10.9.0.1")), Some(addr("10.9.0.0")));
        assert_eq!(it.source_for(&addr("198.51.100.1")), Some(addr("10.0.1.1")));
        assert_eq!(it.source_for(&addr("fe80::9")), Some(addr("fe80::ff:fe00:a")));
        assert_eq!(it.source_for(&addr("2001:db8:9::9")), Some(addr("2001:db8:1::1")));
    }

    #[test]
    fn broadcast_is_the_last_address_of_a_network_that_has_one() {
        let it = interface();
        assert!(it.is_broadcast(&addr("10.0.1.255")));
        assert!(!it.is_broadcast(&addr("10.9.0.1")) && !it.is_broadcast(&addr("10.0.1.254")));
    }

    #[test]
    fn ids_are_places() {
        let mut it = interface();
        it.id = InterfaceId(3);
        assert_eq!(Interfaces::new(vec![it]).unwrap_err(), InterfaceId(3));
    }
}
