//! An IP address of either family as one value, so that tables and tuples need one key type.
//!
//! IPv4 is held as `::ffff:a.b.c.d` (RFC 4291 §2.5.5.2). An IPv6 *packet* with such an address would be taken for IPv4:
//! the parse stop drops it, which is what makes this form unambiguous.

use core::fmt;
use core::net::{AddrParseError, IpAddr, Ipv4Addr, Ipv6Addr};
use core::str::FromStr;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// An IPv4 or IPv6 address: 16 bytes in network order, IPv4 as `::ffff:a.b.c.d`.
///
/// Two words that hold those bytes as memory does, so that it is copied and compared as words; in a header it stands as
/// [`Octets`], which need no alignment. Ordered as bytes, so that IPv4 addresses sort among themselves as usual.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Addr([u64; 2]);

/// An address as it stands in a header.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(transparent)]
pub struct Octets(pub [u8; 16]);

impl Octets {
    /// The address.
    #[inline]
    pub const fn get(&self) -> Addr {
        Addr::from_v6(self.0)
    }
}

impl From<Addr> for Octets {
    #[inline]
    fn from(addr: Addr) -> Self {
        Self(addr.octets())
    }
}

impl fmt::Debug for Octets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.get(), f)
    }
}

impl Ord for Addr {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        self.bits().cmp(&other.bits())
    }
}

impl PartialOrd for Addr {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

const V4_PREFIX: u128 = 0xffff_0000_0000;
/// The second word of an IPv4 address, but for its last four bytes.
const V4_WORD: u64 = u64::from_ne_bytes([0, 0, 0xff, 0xff, 0, 0, 0, 0]);
/// Those four bytes.
const V4_MASK: u64 = u64::from_ne_bytes([0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
const V4_SHIFT: u32 = V4_MASK.trailing_zeros();

impl Addr {
    /// `0.0.0.0`.
    pub const UNSPECIFIED_V4: Self = Self::from_v4([0; 4]);
    /// `::`.
    pub const UNSPECIFIED_V6: Self = Self([0; 2]);
    /// `255.255.255.255`.
    pub const BROADCAST: Self = Self::from_v4([255; 4]);
    /// `ff02::1`, all nodes of the link.
    pub const ALL_NODES: Self = Self::from_bits(0xff02 << 112 | 1);
    /// `ff02::2`, all routers of the link.
    pub const ALL_ROUTERS: Self = Self::from_bits(0xff02 << 112 | 2);

    /// From the four bytes of an IPv4 header.
    #[inline]
    pub const fn from_v4(octets: [u8; 4]) -> Self {
        Self::from_v4_bits(u32::from_ne_bytes(octets))
    }

    /// From four bytes of an IPv4 header that were read as one number, in whatever order the machine has them.
    #[inline]
    pub const fn from_v4_bits(bits: u32) -> Self {
        Self([0, V4_WORD | (bits as u64) << V4_SHIFT])
    }

    /// Undoes [`Self::from_v4_bits`]; the last four bytes of an IPv6 address.
    #[inline]
    pub const fn to_v4_bits(&self) -> u32 {
        ((self.0[1] & V4_MASK) >> V4_SHIFT) as u32
    }

    /// From the sixteen bytes of an IPv6 header.
    #[inline]
    pub const fn from_v6(octets: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = octets;
        Self([
            u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
            u64::from_ne_bytes([i, j, k, l, m, n, o, p]),
        ])
    }

    /// From the address as a number, most significant bit first.
    #[inline]
    pub const fn from_bits(bits: u128) -> Self {
        Self::from_v6(bits.to_be_bytes())
    }

    /// The address as a number, most significant bit first.
    #[inline]
    pub const fn bits(&self) -> u128 {
        (u64::from_be(self.0[0]) as u128) << 64 | u64::from_be(self.0[1]) as u128
    }

    /// Whether this is an IPv4 address.
    #[inline]
    pub const fn is_v4(&self) -> bool {
        self.0[0] == 0 && self.0[1] & !V4_MASK == V4_WORD
    }

    /// The four bytes for an IPv4 header; `None` for an IPv6 address.
    #[inline]
    pub const fn v4(&self) -> Option<[u8; 4]> {
        if self.is_v4() { Some(self.to_v4_bits().to_ne_bytes()) } else { None }
    }

    /// All sixteen bytes, in network order.
    #[inline]
    pub const fn octets(&self) -> [u8; 16] {
        let [a, b, c, d, e, f, g, h] = self.0[0].to_ne_bytes();
        let [i, j, k, l, m, n, o, p] = self.0[1].to_ne_bytes();
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
    }

    /// Two words whose bytes in memory are those of the address, for shared memory made of words.
    #[inline]
    pub const fn to_words(&self) -> [u64; 2] {
        self.0
    }

    /// Undoes [`Self::to_words`].
    #[inline]
    pub const fn from_words(words: [u64; 2]) -> Self {
        Self(words)
    }

    /// `224.0.0.0/4` or `ff00::/8`.
    #[inline]
    pub const fn is_multicast(&self) -> bool {
        if self.is_v4() { self.bits() as u32 >> 28 == 0xe } else { self.bits() >> 120 == 0xff }
    }

    /// `255.255.255.255`. A subnet's broadcast address is known only with the prefix.
    #[inline]
    pub const fn is_broadcast(&self) -> bool {
        self.bits() == Self::BROADCAST.bits()
    }

    /// `169.254.0.0/16` or `fe80::/10`.
    #[inline]
    pub const fn is_link_local(&self) -> bool {
        if self.is_v4() {
            self.bits() as u32 >> 16 == 0xa9fe
        } else {
            self.bits() >> 118 == 0xfe80 >> 6
        }
    }

    /// `0.0.0.0` or `::`.
    #[inline]
    pub const fn is_unspecified(&self) -> bool {
        self.bits() == 0 || self.bits() == V4_PREFIX
    }

    /// `127.0.0.0/8` or `::1`.
    #[inline]
    pub const fn is_loopback(&self) -> bool {
        if self.is_v4() { self.bits() as u32 >> 24 == 127 } else { self.bits() == 1 }
    }

    /// The standard library's form.
    pub const fn to_ip(&self) -> IpAddr {
        match self.v4() {
            Some([a, b, c, d]) => IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
            None => IpAddr::V6(Ipv6Addr::from_bits(self.bits())),
        }
    }
}

impl From<Ipv4Addr> for Addr {
    fn from(ip: Ipv4Addr) -> Self {
        Self::from_v4(ip.octets())
    }
}

/// A v4-mapped address becomes the IPv4 address that it names.
impl From<Ipv6Addr> for Addr {
    fn from(ip: Ipv6Addr) -> Self {
        Self::from_v6(ip.octets())
    }
}

impl From<IpAddr> for Addr {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => ip.into(),
            IpAddr::V6(ip) => ip.into(),
        }
    }
}

impl From<Addr> for IpAddr {
    fn from(addr: Addr) -> Self {
        addr.to_ip()
    }
}

impl FromStr for Addr {
    type Err = AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse::<IpAddr>().map(Self::from)
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.to_ip(), f)
    }
}

impl fmt::Debug for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::string::ToString;

    fn addr(text: &str) -> Addr {
        text.parse().unwrap()
    }

    #[test]
    fn v4_is_held_as_mapped() {
        let a = Addr::from_v4([192, 0, 2, 1]);
        assert_eq!(a.octets(), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1]);
        assert_eq!(a.v4(), Some([192, 0, 2, 1]));
        assert_eq!(a.to_string(), "192.0.2.1");
        assert_eq!(addr("::ffff:192.0.2.1"), a);
    }

    #[test]
    fn v6_has_no_v4_bytes() {
        for text in ["::", "::1", "::192.0.2.1", "2001:db8::1", "::1:ffff:0:0", "::ffff:0:0:0"] {
            assert!(!addr(text).is_v4(), "{text}");
            assert_eq!(addr(text).v4(), None, "{text}");
        }
    }

    #[test]
    fn words_hold_the_bytes_in_memory_order() {
        let a = addr("2001:db8::17");
        assert_eq!(a.to_words().as_bytes(), a.octets());
    }

    #[test]
    fn v4_sorts_numerically() {
        assert!(addr("9.0.0.0") < addr("10.0.0.0"));
        assert!(addr("10.0.0.255") < addr("10.0.1.0"));
    }

    proptest! {
        #[test]
        fn v4_agrees_with_the_standard_library(octets: [u8; 4], first in prop::sample::select(&[0u8, 10, 127, 169, 223, 224, 239, 240, 255][..])) {
            for octets in [octets, [first, octets[1], octets[2], octets[3]], [169, 254, octets[2], octets[3]]] {
                let ip = Ipv4Addr::from(octets);
                let a = Addr::from(ip);
                prop_assert!(a.is_v4());
                prop_assert_eq!(IpAddr::from(a), IpAddr::V4(ip));
                prop_assert_eq!(a.is_multicast(), ip.is_multicast());
                prop_assert_eq!(a.is_link_local(), ip.is_link_local());
                prop_assert_eq!(a.is_loopback(), ip.is_loopback());
                prop_assert_eq!(a.is_unspecified(), ip.is_unspecified());
                prop_assert_eq!(a.is_broadcast(), ip.is_broadcast());
            }
        }

        #[test]
        fn v6_agrees_with_the_standard_library(octets: [u8; 16], first in prop::sample::select(&[0u16, 0xfe80, 0xfebf, 0xfec0, 0xff02, 0x2001][..]), low: u8) {
            let mut near = octets;
            near[..2].copy_from_slice(&first.to_be_bytes());
            let mut small = [0; 16];
            small[15] = low;
            for octets in [octets, near, small] {
                let ip = Ipv6Addr::from(octets);
                let a = Addr::from(ip);
                prop_assert_eq!(a.is_v4(), ip.to_ipv4_mapped().is_some());
                if !a.is_v4() {
                    prop_assert_eq!(IpAddr::from(a), IpAddr::V6(ip));
                    prop_assert_eq!(a.is_multicast(), ip.is_multicast());
                    prop_assert_eq!(a.is_link_local(), ip.is_unicast_link_local());
                    prop_assert_eq!(a.is_loopback(), ip.is_loopback());
                    prop_assert_eq!(a.is_unspecified(), ip.is_unspecified());
                    prop_assert!(!a.is_broadcast());
                }
                prop_assert_eq!(Addr::from_words(a.to_words()), a);
                prop_assert_eq!(Addr::from_bits(a.bits()), a);
                prop_assert_eq!(a.to_string().parse::<Addr>().unwrap(), a);
            }
        }
    }
}
