//! Routes and destinations like the Internet's, the same in every run: for benchmarks and tests, here and in other crates.
//!
//! Prefix lengths follow the global tables of 2025 as published on bgp.potaroo.net, rounded. Longer prefixes come as
//! they do there: networks announce runs of adjacent more-specifics, mostly inside a block of their own, some networks far
//! more than others, often but not always with the same next hop. The clustering is set so that 1 M IPv4 routes need about as
//! many 6-bit nodes below /18 a route as the tables measured for poptrie (41 k for 531 k routes).

use crate::fib::Family;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use millrace_wire::Addr;
use std::collections::HashSet;

/// (length, prefixes of 100,000).
const V4: [(u8, u32); 17] = [
    (8, 2),
    (9, 2),
    (10, 4),
    (11, 10),
    (12, 30),
    (13, 60),
    (14, 120),
    (15, 210),
    (16, 1380),
    (17, 850),
    (18, 1400),
    (19, 2500),
    (20, 4500),
    (21, 5200),
    (22, 11500),
    (23, 10300),
    (24, 61932),
];

/// (length, prefixes of 100,000).
const V6: [(u8, u32); 24] = [
    (20, 10),
    (24, 20),
    (28, 150),
    (29, 2700),
    (30, 260),
    (31, 140),
    (32, 12500),
    (33, 1900),
    (34, 1500),
    (35, 1100),
    (36, 5200),
    (37, 500),
    (38, 1200),
    (39, 700),
    (40, 9500),
    (41, 600),
    (42, 2200),
    (43, 900),
    (44, 10200),
    (45, 1300),
    (46, 3300),
    (47, 2900),
    (48, 41200),
    (64, 20),
];

/// SplitMix64 (Steele et al., 2014).
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next_u64()) * n as u128) >> 64) as usize
    }

    fn bits(&mut self) -> u128 {
        u128::from(self.next_u64()) << 64 | u128::from(self.next_u64())
    }
}

/// A route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The prefix's bits, left-aligned in 128.
    pub bits: u128,
    /// The prefix's length.
    pub len: u8,
    /// Which of 64 next hops it has: 1 … 64.
    pub leaf: u32,
}

impl Route {
    /// The prefix.
    pub fn net(&self, family: Family) -> IpNet {
        match family {
            Family::V4 => Ipv4Net::new_assert(((self.bits >> 96) as u32).into(), self.len).into(),
            Family::V6 => Ipv6Net::new_assert(self.bits.into(), self.len).into(),
        }
    }
}

/// The address with these bits, left-aligned in 128.
pub fn addr(family: Family, bits: u128) -> Addr {
    match family {
        Family::V4 => Addr::from_v4(((bits >> 96) as u32).to_be_bytes()),
        Family::V6 => Addr::from_v6(bits.to_be_bytes()),
    }
}

fn mask(len: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0)
}

/// `count` distinct routes in random order.
pub fn routes(family: Family, count: usize, seed: u64) -> Vec<Route> {
    let v6 = family == Family::V6;
    let random = &mut Random(seed);
    let lengths: &[(u8, u32)] = if v6 { &V6 } else { &V4 };
    // Blocks that networks hold: prefixes of these lengths.
    let blocks_until = if v6 { 36 } else { 20 };
    let mut seen = HashSet::new();
    let mut blocks: Vec<(u128, u8)> = Vec::new();
    let mut routes = Vec::with_capacity(count);
    for &(len, share) in lengths {
        let want = (count as u64 * u64::from(share) / 100_000).max(1);
        // Short lengths have few prefixes: the tries are bounded.
        let (mut made, mut tries) = (0, 0);
        while made < want && tries < want * 20 && routes.len() < count {
            tries += 1;
            let (mut bits, run) = if len > blocks_until && random.below(16) > 0 {
                // The square makes some blocks much busier than others.
                let chosen = random.below(blocks.len()) * random.below(blocks.len()) / blocks.len();
                let (base, base_len) = blocks[chosen];
                (base | random.bits() & !mask(base_len), 1 + random.below(16))
            } else {
                let bits = random.bits();
                (unicast(bits, v6, random), 1)
            };
            bits &= mask(len);
            let mut leaf = 1 + random.below(64) as u32;
            for _ in 0..run {
                if made == want || routes.len() == count {
                    break;
                }
                if seen.insert((bits, len)) {
                    routes.push(Route { bits, len, leaf });
                    made += 1;
                }
                bits = bits.wrapping_add(1 << (128 - u32::from(len)));
                if random.below(2) > 0 {
                    leaf = 1 + random.below(64) as u32;
                }
            }
        }
        if len <= blocks_until {
            blocks = routes.iter().map(|route| (route.bits, route.len)).collect();
            shuffle(&mut blocks, random);
        }
    }
    shuffle(&mut routes, random);
    routes
}

/// Brings the items into a random order.
pub fn shuffle<T>(items: &mut [T], random: &mut Random) {
    for index in (1..items.len()).rev() {
        items.swap(index, random.below(index + 1));
    }
}

/// Moves an address into 1.0.0.0 … 223.255.255.255, or into 2000::/4's populated /16s.
fn unicast(bits: u128, v6: bool, random: &mut Random) -> u128 {
    if v6 {
        let top: [u128; 8] = [0x2001, 0x2400, 0x2600, 0x2604, 0x2800, 0x2a00, 0x2a10, 0x2c0f];
        bits & mask(16) ^ bits | top[random.below(8)] << 112
    } else {
        let first = 1 + random.below(223) as u128;
        bits << 8 >> 8 | first << 120
    }
}

/// `count` random addresses, left-aligned in 128 bits, each inside a random route.
pub fn destinations(routes: &[Route], count: usize, seed: u64) -> Vec<u128> {
    let random = &mut Random(seed);
    (0..count)
        .map(|_| {
            let Route { bits, len, .. } = routes[random.below(routes.len())];
            bits | random.bits() & !mask(len)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_inside_prefixes() {
        for family in [Family::V4, Family::V6] {
            let routes = routes(family, 100, 1);
            for bits in destinations(&routes, 200, 2) {
                let address = addr(family, bits).to_ip();
                let inside = |route: &Route| route.net(family).contains(&address);
                assert!(routes.iter().any(inside), "{address}");
            }
        }
    }
}
