//! Routes as the Internet has them, the destinations to look up in them, and the next hop that each must get.

use super::net::NODES;
use ipnet::{IpNet, Ipv4Net};
use millrace_tables::fib::Family;
use millrace_tables::synthetic::{self, Route};
pub use millrace_tables::synthetic::{Random, shuffle};
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

/// Prefixes, each with the number of the node it leads to.
#[derive(Debug)]
pub struct Routes {
    family: Family,
    list: Vec<Route>,
}

/// What is nobody's to announce, or used by the rest of this network.
const RESERVED: [&str; 6] = [
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "172.16.0.0/12",
    "203.0.113.0/24",
    "2001:db8::/32",
];

impl Routes {
    /// None.
    pub fn none() -> Routes {
        Routes { family: Family::V4, list: Vec::new() }
    }

    /// One prefix alone, which leads to the first node.
    pub fn one(prefix: Ipv4Net) -> Routes {
        let bits = u128::from(u32::from(prefix.network())) << 96;
        Routes { family: Family::V4, list: vec![Route { bits, len: prefix.prefix_len(), leaf: 1 }] }
    }

    /// `count` routes of the Internet's; the same in every run.
    pub fn internet(count: usize, family: Family) -> Routes {
        let reserved: Vec<IpNet> = RESERVED.iter().filter_map(|net| net.parse().ok()).collect();
        // Some more than wanted, as some are reserved.
        let mut list = synthetic::routes(family, count + count / 20 + 64, 1);
        list.retain(|route| {
            let net = route.net(family);
            !reserved.iter().any(|taken| taken.contains(&net) || net.contains(taken))
        });
        list.truncate(count);
        Routes { family, list }
    }

    /// The prefixes and the nodes that they lead to.
    pub fn iter(&self) -> impl Iterator<Item = (IpNet, usize)> + '_ {
        self.list.iter().map(|route| (route.net(self.family), node(route.leaf)))
    }

    /// `count` random addresses inside random prefixes, each with the node that the longest of all prefixes around it leads to:
    /// found by trying every length, which has nothing in common with how the FIB does it.
    pub fn destinations(&self, count: usize) -> Vec<(IpAddr, usize)> {
        let by_prefix: HashMap<(u128, u8), u32> =
            self.list.iter().map(|route| ((route.bits, route.len), route.leaf)).collect();
        let lengths: BTreeSet<u8> = self.list.iter().map(|route| route.len).collect();
        let longest = |address: u128| {
            lengths.iter().rev().find_map(|&len| {
                let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
                by_prefix.get(&(address & mask, len)).copied()
            })
        };
        synthetic::destinations(&self.list, count, 2)
            .into_iter()
            .filter_map(|bits| {
                Some((synthetic::addr(self.family, bits).to_ip(), node(longest(bits)?)))
            })
            .collect()
    }
}

/// A leaf is 1 … 64.
fn node(leaf: u32) -> usize {
    (leaf as usize - 1) % NODES
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn as_many_as_asked_for_and_none_of_ours() {
        for family in [Family::V4, Family::V6] {
            let routes = Routes::internet(20_000, family);
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
        let list = vec![
            Route { bits: bits("1.0.0.0"), len: 8, leaf: 3 },
            Route { bits: bits("1.2.0.0"), len: 16, leaf: 4 },
        ];
        let routes = Routes { family: Family::V4, list };
        for (address, node) in routes.destinations(500) {
            let IpAddr::V4(v4) = address else { unreachable!() };
            assert_eq!(node, if v4.octets()[1] == 2 { 3 } else { 2 }, "{address}");
        }
    }
}
