//! Routes as the Internet has them, the destinations to look up in them, and the next hop that each must get.

use super::net::NODES;
pub use bgp::Random;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The tables' own generator: prefix lengths as published on bgp.potaroo.net, clustered as they are there.
#[path = "../../../dataplane/tables/benches/fib/bgp.rs"]
mod bgp;

/// Prefixes, each with the number of the node it leads to.
#[derive(Debug, Default)]
pub struct Routes {
    v6: bool,
    list: Vec<bgp::Route>,
}

/// What is nobody's to announce, or used by the rest of this network.
const RESERVED: [&str; 5] =
    ["10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "172.16.0.0/12", "203.0.113.0/24"];
const RESERVED6: [&str; 1] = ["2001:db8::/32"];

impl Routes {
    /// One prefix alone.
    pub fn one(prefix: Ipv4Net) -> Routes {
        let bits = u128::from(u32::from(prefix.network())) << 96;
        Routes { v6: false, list: vec![(bits, prefix.prefix_len(), 1)] }
    }

    /// `count` routes of the Internet's; the same in every run.
    pub fn internet(count: usize, v6: bool) -> Routes {
        let reserved: &[&str] = if v6 { &RESERVED6 } else { &RESERVED };
        let reserved: Vec<IpNet> = reserved.iter().filter_map(|net| net.parse().ok()).collect();
        // Some more than wanted, as some are reserved.
        let mut list = bgp::routes(count + count / 20 + 64, v6, 1);
        list.retain(|route| {
            let net = prefix(v6, route);
            !reserved.iter().any(|taken| taken.contains(&net) || net.contains(taken))
        });
        list.truncate(count);
        Routes { v6, list }
    }

    /// The prefixes and the nodes that they lead to.
    pub fn iter(&self) -> impl Iterator<Item = (IpNet, usize)> + '_ {
        self.list.iter().map(|route| (prefix(self.v6, route), node(route.2)))
    }

    /// `count` random addresses inside random prefixes, each with the node that the longest of all prefixes around it leads to:
    /// found by trying every length, which has nothing in common with how the FIB does it.
    pub fn destinations(&self, count: usize) -> Vec<(IpAddr, usize)> {
        let by_prefix: HashMap<(u128, u8), u32> =
            self.list.iter().map(|&(bits, len, leaf)| ((bits, len), leaf)).collect();
        let lengths: BTreeSet<u8> = self.list.iter().map(|route| route.1).collect();
        let longest = |address: u128| {
            lengths.iter().rev().find_map(|&len| {
                let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
                by_prefix.get(&(address & mask, len)).copied()
            })
        };
        bgp::destinations(&self.list, count, 2)
            .into_iter()
            .filter_map(|bits| Some((address(self.v6, bits), node(longest(bits)?))))
            .collect()
    }
}

/// A leaf is 1 … 64.
fn node(leaf: u32) -> usize {
    (leaf as usize - 1) % NODES
}

fn address(v6: bool, bits: u128) -> IpAddr {
    if v6 { Ipv6Addr::from(bits).into() } else { Ipv4Addr::from((bits >> 96) as u32).into() }
}

fn prefix(v6: bool, &(bits, len, _): &bgp::Route) -> IpNet {
    match address(v6, bits) {
        IpAddr::V4(address) => Ipv4Net::new_assert(address, len).into(),
        IpAddr::V6(address) => Ipv6Net::new_assert(address, len).into(),
    }
}

/// Puts a list in random order.
pub fn shuffle<T>(items: &mut [T], random: &mut Random) {
    for index in (1..items.len()).rev() {
        items.swap(index, random.below(index + 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_as_asked_for_and_none_of_ours() {
        for v6 in [false, true] {
            let routes = Routes::internet(20_000, v6);
            assert_eq!(routes.iter().count(), 20_000);
            let inside = |prefix: &IpNet| match prefix {
                IpNet::V4(net) => net.network().octets()[0] == 10,
                IpNet::V6(net) => net.network().segments()[..2] == [0x2001, 0xdb8],
            };
            assert!(!routes.iter().any(|(prefix, _)| inside(&prefix)));
            assert_eq!(routes.destinations(1000).len(), 1000);
        }
    }

    #[test]
    fn the_longest_prefix_decides() {
        let bits = |text: &str| u128::from(u32::from(text.parse::<Ipv4Addr>().unwrap())) << 96;
        let list = vec![(bits("1.0.0.0"), 8, 3), (bits("1.2.0.0"), 16, 4)];
        let routes = Routes { v6: false, list };
        for (address, node) in routes.destinations(500) {
            let IpAddr::V4(v4) = address else { unreachable!() };
            assert_eq!(node, if v4.octets()[1] == 2 { 3 } else { 2 }, "{address}");
        }
    }
}
