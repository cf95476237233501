//! The trunk to the node's own stack: what the engine, which makes it, and control, which mirrors the kernel around it, agree on.
//!
//! In `service-proxy` mode the engine makes a veth pair. The kernel has one end (`millrace0`), the engine the other, as its one interface of
//! kind [`InterfaceKind::HOST`](crate::InterfaceKind::HOST): the interface's addresses are the engine's own on the trunk, one a family
//! at most; the kernel's index named with it is that of the kernel's end. The rules and routes below are the engine's to make and to
//! remove; whoever mirrors the kernel leaves them out.
//!
//! What the tables say of destinations that the kernel reaches by other devices than the engine's interfaces:
//! * a route to the trunk *by way of* [`peer`]: the kernel routes it on, and so it does the answers;
//! * a route to the trunk without a gateway: the kernel is on one link with it (a bridge that pods are ports of), where an answer may go
//!   straight to a neighbor that the engine has translated for.
//!
//! Both leave by the same frames: all that the trunk carries goes to the kernel's MAC.

use ipnet::IpNet;
use millrace_wire::Addr;

/// Routing protocol of the routes and rules that the engine makes (`ip route show proto 77`).
pub const PROTOCOL: u8 = 77;
/// Routing table that leads service addresses into the trunk.
pub const SERVICES: u32 = 7700;
/// Routing table that leads answers of marked connections into the trunk.
pub const ANSWERS: u32 = 7701;
/// Preference of the rule for [`SERVICES`]; that for [`ANSWERS`] comes before it.
pub const PREFERENCE: u32 = 77;

/// The kernel's address on a trunk where `net` is the engine's: the other host of a /30 or /126 (or /31, /127). `None`
/// if the network is another.
pub fn peer(net: &IpNet) -> Option<Addr> {
    let flip = match net.max_prefix_len() - net.prefix_len() {
        1 => 1,
        2 => 3,
        _ => return None,
    };
    Some(Addr::from(match net.addr() {
        std::net::IpAddr::V4(addr) => std::net::Ipv4Addr::from(u32::from(addr) ^ flip).into(),
        std::net::IpAddr::V6(addr) => {
            std::net::IpAddr::from(std::net::Ipv6Addr::from(u128::from(addr) ^ u128::from(flip)))
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peer_is_the_other_host() {
        let peer = |text: &str| peer(&text.parse().unwrap()).map(|addr| addr.to_string());
        assert_eq!(peer("169.254.77.1/30").as_deref(), Some("169.254.77.2"));
        assert_eq!(peer("169.254.77.2/30").as_deref(), Some("169.254.77.1"));
        assert_eq!(peer("10.0.0.6/31").as_deref(), Some("10.0.0.7"));
        assert_eq!(peer("fd4d:5252::1/126").as_deref(), Some("fd4d:5252::2"));
        assert_eq!((peer("10.0.0.1/24"), peer("10.0.0.1/32")), (None, None));
    }
}
