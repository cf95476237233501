//! The network that the frames are of: who is where, and what their packets look like.
//!
//! ```text
//! clients 100.64.0.0/10 ── 10.0.1.2 ── [0: 10.0.1.1  engine  10.0.2.1 :1] ── 10.0.2.10 … .73 ── 64 nodes of 10.64.0.0/16
//!         2001:db8:c::/64                                                     2001:db8:2::10 …     and the rest of the world
//! ```
//! Service `s` is 172.20.0.0 + s, UDP port 80; its four backends are pods on four nodes, port 8080.

use millrace_tables::{InterfaceId, NextHop};
use millrace_wire::{Addr, Mac, Protocol, Sum};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Towards clients.
pub const UP: InterfaceId = InterfaceId(0);
/// Towards nodes and the world.
pub const DOWN: InterfaceId = InterfaceId(1);
/// Our MACs on the two.
pub const OURS: [Mac; 2] = [Mac([2, 0, 0, 0, 0, 0x10]), Mac([2, 0, 0, 0, 0, 0x20])];
/// The router that clients are behind.
pub const CLIENT_ROUTER: (Ipv4Addr, Mac) = (Ipv4Addr::new(10, 0, 1, 2), Mac([2, 0, 0, 0, 1, 2]));
/// Nodes, each a next hop.
pub const NODES: usize = 64;
/// Backends of a service.
pub const BACKENDS: usize = 4;
/// What a frame's TTL is when it comes.
pub const TTL: u8 = 64;
/// Bytes of an Ethernet, an IPv4 and an UDP header.
const ETHERNET: usize = 14;
const UDP: usize = 8;

/// Address and port of flow `index`'s client.
pub fn client(index: usize) -> SocketAddr {
    // Sixteen flows a client.
    let address = u32::from(Ipv4Addr::new(100, 64, 0, 0)) + (index as u32 >> 4);
    SocketAddr::new(Ipv4Addr::from(address).into(), 1024 + (index & 15) as u16)
}

/// The same, over IPv6.
pub fn client6(index: usize) -> SocketAddr {
    let base = Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, 0).to_bits();
    SocketAddr::new(
        Ipv6Addr::from_bits(base + (index as u128 >> 4)).into(),
        1024 + (index & 15) as u16,
    )
}

/// Where service `service` answers.
pub fn vip(service: usize) -> SocketAddr {
    let address = u32::from(Ipv4Addr::new(172, 20, 0, 0)) + service as u32;
    SocketAddr::new(Ipv4Addr::from(address).into(), 80)
}

/// Backend `k` of a service.
pub fn backend(service: usize, k: usize) -> SocketAddr {
    let number = service * BACKENDS + k;
    let address =
        u32::from(Ipv4Addr::new(10, 64, 0, 1)) + ((number % NODES) * 1024 + number / NODES) as u32;
    SocketAddr::new(Ipv4Addr::from(address).into(), 8080)
}

/// The node that has this backend's address.
pub fn node_of(backend: Ipv4Addr) -> usize {
    (u32::from(backend) >> 10) as usize % NODES
}

/// The pods of a node.
pub fn pods(node: usize) -> ipnet::IpNet {
    let first = u32::from(Ipv4Addr::new(10, 64, 0, 0)) + (node * 1024) as u32;
    ipnet::Ipv4Net::new_assert(first.into(), 22).into()
}

/// A node's MAC.
pub fn node_mac(node: usize) -> Mac {
    Mac([2, 0, 0, 0, 2, 10 + node as u8])
}

/// A node's address, of either family.
pub fn node_addr(node: usize, v6: bool) -> Addr {
    let last = 10 + node as u8;
    if v6 {
        Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, u16::from(last)).into()
    } else {
        Ipv4Addr::new(10, 0, 2, last).into()
    }
}

/// The way to a node.
pub fn to_node(node: usize, v6: bool) -> NextHop {
    NextHop { interface: DOWN, gateway: Some(node_addr(node, v6)) }
}

/// A UDP packet in Ethernet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Source and destination MAC.
    pub macs: (Mac, Mac),
    /// Source.
    pub src: SocketAddr,
    /// Destination, of the same family.
    pub dst: SocketAddr,
    /// TTL or hop limit.
    pub ttl: u8,
}

impl Datagram {
    /// The frame, `len` bytes long (64 or more), checksums summed up from scratch.
    pub fn frame(&self, len: usize) -> Vec<u8> {
        let mut frame = Vec::with_capacity(len);
        frame.extend_from_slice(&self.macs.1.0);
        frame.extend_from_slice(&self.macs.0.0);
        let v4 = self.src.is_ipv4();
        frame.extend_from_slice(if v4 { &[0x08, 0x00] } else { &[0x86, 0xdd] });
        let ip = len - ETHERNET;
        let udp = ip - if v4 { 20 } else { 40 };
        match (self.src.ip(), self.dst.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                frame.extend_from_slice(&[0x45, 0]);
                frame.extend_from_slice(&(ip as u16).to_be_bytes());
                frame.extend_from_slice(&[0, 0, 0x40, 0, self.ttl, Protocol::UDP.0, 0, 0]);
                frame.extend_from_slice(&src.octets());
                frame.extend_from_slice(&dst.octets());
                let check = Sum::of(&frame[ETHERNET..]).finish();
                frame[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&check.to_be_bytes());
            }
            (src, dst) => {
                frame.extend_from_slice(&[0x60, 0, 0, 0]);
                frame.extend_from_slice(&(udp as u16).to_be_bytes());
                frame.extend_from_slice(&[Protocol::UDP.0, self.ttl]);
                for address in [src, dst] {
                    let IpAddr::V6(address) = address else { continue };
                    frame.extend_from_slice(&address.octets());
                }
            }
        }
        let l4 = frame.len();
        frame.extend_from_slice(&self.src.port().to_be_bytes());
        frame.extend_from_slice(&self.dst.port().to_be_bytes());
        frame.extend_from_slice(&(udp as u16).to_be_bytes());
        frame.extend_from_slice(&[0, 0]);
        frame.extend((0..udp - UDP).map(|byte| (byte * 7) as u8));
        let sum =
            Sum::pseudo(&self.src.ip().into(), &self.dst.ip().into(), Protocol::UDP, udp as u32);
        let check = sum.add_bytes(&frame[l4..]).finish_udp();
        frame[l4 + 6..l4 + 8].copy_from_slice(&check.to_be_bytes());
        frame
    }

    /// What a frame made by [`Datagram::frame`], or one that went through the engine since, says in its headers. `None` if
    /// it is another kind of frame.
    pub fn read(frame: &[u8]) -> Option<Datagram> {
        let mac = |at: usize| Some(Mac(frame.get(at..at + 6)?.try_into().ok()?));
        let (src, dst, ttl, l4) = match frame.get(12..15)? {
            [0x08, 0x00, 0x45] => {
                let address = |at: usize| {
                    let octets: [u8; 4] = frame.get(at..at + 4)?.try_into().ok()?;
                    Some(IpAddr::from(octets))
                };
                (address(26)?, address(30)?, *frame.get(22)?, 34)
            }
            [0x86, 0xdd, 0x60] => {
                let address = |at: usize| {
                    let octets: [u8; 16] = frame.get(at..at + 16)?.try_into().ok()?;
                    Some(IpAddr::from(octets))
                };
                (address(22)?, address(38)?, *frame.get(21)?, 54)
            }
            _ => return None,
        };
        let port = |at: usize| Some(u16::from_be_bytes(frame.get(at..at + 2)?.try_into().ok()?));
        Some(Datagram {
            macs: (mac(6)?, mac(0)?),
            src: SocketAddr::new(src, port(l4)?),
            dst: SocketAddr::new(dst, port(l4 + 2)?),
            ttl,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_as_they_were_made_and_their_checksums_hold() {
        for (src, dst) in [(client(77), vip(9)), (client6(5), client6(1 << 20))] {
            let datagram = Datagram { macs: (node_mac(3), OURS[0]), src, dst, ttl: 9 };
            for len in [64, 65, 590, 1514] {
                let frame = datagram.frame(len);
                assert_eq!(frame.len(), len);
                assert_eq!(Datagram::read(&frame), Some(datagram));
                let l4 = if src.is_ipv4() { 34 } else { 54 };
                let (src, dst) = (Addr::from(src.ip()), Addr::from(dst.ip()));
                let sum = Sum::pseudo(&src, &dst, Protocol::UDP, (len - l4) as u32);
                assert_eq!(sum.add_bytes(&frame[l4..]).finish(), 0);
            }
        }
        assert_eq!(Datagram::read(&[0; 64]), None);
    }

    #[test]
    fn a_backend_lives_on_the_node_whose_pods_have_its_address() {
        for number in [0, 1, 4_321, 9_999] {
            for k in 0..BACKENDS {
                let IpAddr::V4(address) = backend(number, k).ip() else { unreachable!() };
                assert!(pods(node_of(address)).contains(&IpAddr::V4(address)));
            }
        }
    }
}
