//! A flow's name: its [`Tuple`], the direction of a packet in it, and the seeded hash of both tables.
//!
//! Decides nothing; `parse` makes tuples, `conntrack` looks them up, the Maglev and ECMP choices use
//! the hash.
//!
//! Cost: a hash is three 64×64→128 bit multiplications over 40 bytes, about 3 ns, no memory beyond the
//! five words of [`Seed`]. Attackers choose tuples, so the seed of a live engine is random and secret
//! (one per boot, kept in the state segment); replays (`driver = "pcap"`) and `explain` use
//! [`Seed::FIXED`], which makes every choice repeatable.

use millrace_wire::{Addr, Protocol};
use std::fmt;

/// The five-tuple of a packet. Ports are in host order.
///
/// An ICMP or ICMPv6 echo request has its identifier as source port and 0 as destination port, the answer the other way round, so that
/// [`Tuple::reversed`] is the tuple of the answer, and who asks the other way begins another flow. Protocols without ports have 0 in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tuple {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
    /// The L4 protocol (after IPv6 extension headers).
    pub protocol: Protocol,
}

impl Tuple {
    /// The tuple of a packet that answers this one.
    #[inline]
    #[must_use]
    pub fn reversed(&self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            sport: self.dport,
            dport: self.sport,
            protocol: self.protocol,
        }
    }

    /// Ports and protocol in one word: source port in bits 0–15, destination port in bits 16–31,
    /// protocol in bits 32–39.
    #[inline]
    pub(crate) fn ports_word(&self) -> u64 {
        u64::from(self.sport) | u64::from(self.dport) << 16 | u64::from(self.protocol.0) << 32
    }
}

impl fmt::Display for Tuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { src, dst, sport, dport, protocol } = self;
        write!(f, "{src}:{sport} → {dst}:{dport} protocol {}", protocol.0)
    }
}

/// Which way a packet of a tracked flow goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// As the flow's first packet went.
    Original,
    /// Back.
    Reply,
}

impl Direction {
    /// The other way.
    #[inline]
    #[must_use]
    pub fn reversed(self) -> Self {
        match self {
            Self::Original => Self::Reply,
            Self::Reply => Self::Original,
        }
    }

    /// 0 for original, 1 for reply: the index of per-direction fields.
    #[inline]
    pub(crate) fn index(self) -> usize {
        match self {
            Self::Original => 0,
            Self::Reply => 1,
        }
    }

    #[inline]
    pub(crate) fn from_bit(reply: bool) -> Self {
        if reply { Self::Reply } else { Self::Original }
    }
}

/// The secret that keys every hash of tuples and neighbors.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Seed {
    keys: [u64; 5],
}

impl fmt::Debug for Seed {
    /// Says nothing: who reads a log must not learn how to collide buckets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed(secret)")
    }
}

/// Multiplies to 128 bits and folds the halves: each input bit reaches each output bit.
#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ (product >> 64) as u64
}

impl Seed {
    /// The seed of replays and explanations: the same choices every run.
    pub const FIXED: Self = Self::from_words([0, 0]);

    /// Spreads 128 secret bits over the keys (splitmix64, Steele et al. 2014, figure 17).
    pub const fn from_words(words: [u64; 2]) -> Self {
        let mut keys = [0; 5];
        let mut state = words[0];
        let mut index = 0;
        while index < keys.len() {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut key = state;
            key = (key ^ (key >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            key = (key ^ (key >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            keys[index] = key ^ (key >> 31);
            // The second secret word enters after the first key, so that each pair of keys that one
            // multiplication uses depends on both.
            if index == 0 {
                state ^= words[1];
            }
            index += 1;
        }
        Self { keys }
    }

    /// A tuple's hash. Not symmetric: a tuple and its reverse hash apart.
    #[inline(always)]
    pub fn hash(&self, tuple: &Tuple) -> u64 {
        let [s0, s1] = tuple.src.to_words();
        let [d0, d1] = tuple.dst.to_words();
        let [k0, k1, k2, k3, k4] = self.keys;
        // Two independent products, then one that mixes them: the first two run in parallel. The
        // rotation keeps src and dst from cancelling each other.
        let mixed = fold(s0 ^ k0, s1 ^ k1).rotate_left(32) ^ fold(d0 ^ k2, d1 ^ k3);
        fold(mixed ^ k4, tuple.ports_word().wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ k1)
    }

    /// The hash of a neighbor's key.
    #[inline]
    pub(crate) fn hash_neighbor(&self, interface: u16, addr: &Addr) -> u64 {
        let [a0, a1] = addr.to_words();
        let [k0, k1, k2, k3, _] = self.keys;
        fold(
            fold(a0 ^ k2, a1 ^ k3) ^ k0,
            (u64::from(interface) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ k1,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tuple(src: u32, dst: u32, sport: u16, dport: u16) -> Tuple {
        Tuple {
            src: Addr::from_v4(src.to_be_bytes()),
            dst: Addr::from_v4(dst.to_be_bytes()),
            sport,
            dport,
            protocol: Protocol::TCP,
        }
    }

    #[test]
    fn a_reversed_tuple_is_the_answers() {
        let there = tuple(0x0a00_0001, 0x0a00_0002, 40_000, 80);
        let back = there.reversed();
        assert_eq!((back.src, back.sport), (there.dst, there.dport));
        assert_eq!((back.dst, back.dport), (there.src, there.sport));
        assert_eq!(back.reversed(), there);
    }

    #[test]
    fn the_fixed_seed_hashes_the_same_on_every_machine() {
        let hash = Seed::FIXED.hash(&tuple(0x0a00_0001, 0x0a00_0002, 40_000, 80));
        assert_eq!(hash, GOLDEN, "recorded captures depend on this value");
    }
    const GOLDEN: u64 = 12_957_811_050_787_067_660;

    #[test]
    fn seeds_hash_apart() {
        let flow = tuple(1, 2, 3, 4);
        let seeds = [Seed::FIXED, Seed::from_words([1, 0]), Seed::from_words([0, 1])];
        for (i, a) in seeds.iter().enumerate() {
            for b in &seeds[..i] {
                assert_ne!(a.hash(&flow), b.hash(&flow));
            }
        }
    }

    #[test]
    fn debug_of_a_seed_tells_nothing() {
        assert_eq!(format!("{:?}", Seed::from_words([42, 43])), "Seed(secret)");
    }

    /// Flows that differ as real ones do (counting ports, counting hosts) spread over every 8 bits of
    /// the hash as a random function would: χ² of 255 degrees of freedom stays under 400 (p ≈ 10⁻⁸).
    #[test]
    fn sequential_flows_spread_over_all_bits() {
        for seed in [Seed::FIXED, Seed::from_words([7, 9])] {
            for shift in (0..64).step_by(8) {
                let mut bins = [0u32; 256];
                let mut flows = 0;
                for host in 0..256 {
                    for port in 0..256 {
                        let hash =
                            seed.hash(&tuple(0x0a01_0000 + host, 0xac1e_0029, 32_768 + port, 80));
                        bins[(hash >> shift) as usize & 0xff] += 1;
                        flows += 1;
                    }
                }
                let expected = f64::from(flows) / 256.0;
                let chi: f64 =
                    bins.iter().map(|&n| (f64::from(n) - expected).powi(2) / expected).sum();
                assert!(chi < 400.0, "χ² {chi} at bit {shift}");
            }
        }
    }

    proptest! {
        /// One flipped input bit flips about half the output bits (never fewer than 8 of 64).
        #[test]
        fn one_bit_changes_many(words in any::<[u64; 4]>(), ports in any::<(u16, u16)>(), bit in 0usize..288) {
            let make = |words: [u64; 4], ports: (u16, u16)| Tuple {
                src: Addr::from_words([words[0], words[1]]),
                dst: Addr::from_words([words[2], words[3]]),
                sport: ports.0,
                dport: ports.1,
                protocol: Protocol::UDP,
            };
            let (mut other, mut other_ports) = (words, ports);
            match bit {
                0..256 => other[bit / 64] ^= 1 << (bit % 64),
                256..272 => other_ports.0 ^= 1 << (bit - 256),
                _ => other_ports.1 ^= 1 << (bit - 272),
            }
            let a = Seed::FIXED.hash(&make(words, ports));
            let b = Seed::FIXED.hash(&make(other, other_ports));
            prop_assert!((a ^ b).count_ones() >= 8, "{a:x} {b:x}");
        }

        #[test]
        fn reversing_twice_changes_nothing(words in any::<[u64; 4]>(), ports in any::<(u16, u16)>()) {
            let tuple = Tuple {
                src: Addr::from_words([words[0], words[1]]),
                dst: Addr::from_words([words[2], words[3]]),
                sport: ports.0,
                dport: ports.1,
                protocol: Protocol::UDP,
            };
            prop_assert_eq!(tuple.reversed().reversed(), tuple);
        }
    }
}
