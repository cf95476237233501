//! Ethernet addresses.

use crate::Addr;
use core::fmt;
use core::str::FromStr;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// A 48-bit Ethernet address, in the order of transmission.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    FromBytes,
    IntoBytes,
    KnownLayout,
    Immutable,
    Unaligned,
)]
#[repr(transparent)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// `ff:ff:ff:ff:ff:ff`.
    pub const BROADCAST: Self = Self([0xff; 6]);
    /// `00:00:00:00:00:00`, "not known" in an ARP request.
    pub const ZERO: Self = Self([0; 6]);

    /// The group bit (IEEE 802: the lowest bit of the first byte); broadcast is multicast too.
    #[inline]
    pub const fn is_multicast(self) -> bool {
        let [first, ..] = self.0;
        first & 1 != 0
    }

    /// All ones.
    #[inline]
    pub const fn is_broadcast(self) -> bool {
        self.to_u64() == Self::BROADCAST.to_u64()
    }

    /// One interface's address: neither multicast nor all zero. Only such a one may be learned as a neighbor's.
    #[inline]
    pub const fn is_unicast(self) -> bool {
        !self.is_multicast() && self.to_u64() != 0
    }

    /// Where a packet to the IPv6 multicast address `group` is sent: `33:33` and its last four bytes (RFC 2464 §7).
    #[inline]
    pub const fn multicast_for_v6(group: &Addr) -> Self {
        let [a, b, c, d] = (group.bits() as u32).to_be_bytes();
        Self([0x33, 0x33, a, b, c, d])
    }

    /// Where a packet to the IPv4 multicast address `group` is sent: `01:00:5e` and its last 23 bits (RFC 1112 §6.4).
    #[inline]
    pub const fn multicast_for_v4(group: &Addr) -> Self {
        let [_, b, c, d] = (group.bits() as u32).to_be_bytes();
        Self([0x01, 0x00, 0x5e, b & 0x7f, c, d])
    }

    /// The address as a number: the first byte sent is bits 47–40; bits 63–48 are zero.
    #[inline]
    pub const fn to_u64(self) -> u64 {
        let [a, b, c, d, e, f] = self.0;
        u64::from_be_bytes([0, 0, a, b, c, d, e, f])
    }

    /// Undoes [`Self::to_u64`]; bits 63–48 are ignored.
    #[inline]
    pub const fn from_u64(bits: u64) -> Self {
        let [_, _, a, b, c, d, e, f] = bits.to_be_bytes();
        Self([a, b, c, d, e, f])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(out, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not six two-digit hexadecimal bytes with `:` or `-` between.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ParseMacError;

impl fmt::Display for ParseMacError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an Ethernet address: six two-digit hexadecimal bytes with ':' between, as in 02:00:00:00:00:01")
    }
}

impl core::error::Error for ParseMacError {}

impl FromStr for Mac {
    type Err = ParseMacError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let separator = if text.contains('-') { '-' } else { ':' };
        let mut parts = text.split(separator);
        let mut bytes = [0; 6];
        for byte in &mut bytes {
            let part = parts.next().ok_or(ParseMacError)?;
            if part.len() != 2 || !part.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(ParseMacError);
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| ParseMacError)?;
        }
        if parts.next().is_some() { Err(ParseMacError) } else { Ok(Self(bytes)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::string::ToString;

    #[test]
    fn parses_both_separators() {
        let mac = Mac([0x02, 0, 0, 0xab, 0xcd, 0xef]);
        assert_eq!("02:00:00:ab:CD:ef".parse(), Ok(mac));
        assert_eq!("02-00-00-AB-cd-EF".parse(), Ok(mac));
        assert_eq!(mac.to_string(), "02:00:00:ab:cd:ef");
    }

    #[test]
    fn refuses_other_texts() {
        let bad = [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:00:00",
            "2:0:0:0:0:1",
            "02:00:00:00:00:0g",
            "+2:00:00:00:00:01",
            "02:00-00:00:00:01",
            "020000000001",
        ];
        for text in bad {
            assert_eq!(text.parse::<Mac>(), Err(ParseMacError), "{text:?}");
        }
    }

    #[test]
    fn knows_groups() {
        assert!(
            Mac::BROADCAST.is_broadcast()
                && Mac::BROADCAST.is_multicast()
                && !Mac::BROADCAST.is_unicast()
        );
        assert!(!Mac::ZERO.is_multicast() && !Mac::ZERO.is_unicast());
        let mac: Mac = "02:00:00:00:00:01".parse().unwrap();
        assert!(mac.is_unicast() && !mac.is_broadcast());
    }

    #[test]
    fn maps_multicast_addresses() {
        assert_eq!(
            Mac::multicast_for_v6(&"ff02::1:ff28:9c5a".parse().unwrap()).to_string(),
            "33:33:ff:28:9c:5a"
        );
        assert_eq!(
            Mac::multicast_for_v4(&"239.255.0.1".parse().unwrap()).to_string(),
            "01:00:5e:7f:00:01"
        );
    }

    proptest! {
        #[test]
        fn numbers_and_texts_go_both_ways(bytes: [u8; 6], junk: u16) {
            let mac = Mac(bytes);
            prop_assert_eq!(Mac::from_u64(mac.to_u64() | u64::from(junk) << 48), mac);
            prop_assert_eq!(mac.to_string().parse(), Ok(mac));
        }
    }
}
