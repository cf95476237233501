//! Ethernet II frames (IEEE 802.3 §3, DIX).
//!
//! Decides nothing; the frame check sequence is not part of a frame here. Tags behind the header are in [`crate::vlan`].

use crate::Mac;
use core::fmt;
use zerocopy::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Shortest frame without its check sequence; shorter ones are padded with zeros by the sender.
pub const MIN_FRAME: usize = 60;

/// What follows the header; any value is one. Values below 0x0600 are lengths (802.3 frames: LLC, STP).
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(transparent)]
pub struct EtherType([u8; 2]);

impl EtherType {
    /// IPv4.
    pub const IPV4: Self = Self::new(0x0800);
    /// ARP.
    pub const ARP: Self = Self::new(0x0806);
    /// 802.1Q tag (customer).
    pub const VLAN: Self = Self::new(0x8100);
    /// IPv6.
    pub const IPV6: Self = Self::new(0x86dd);
    /// 802.1ad tag (service, the outer one).
    pub const QINQ: Self = Self::new(0x88a8);
    /// LLDP.
    pub const LLDP: Self = Self::new(0x88cc);

    /// From a number in host order.
    #[inline]
    pub const fn new(value: u16) -> Self {
        Self(value.to_be_bytes())
    }

    /// The number in host order.
    #[inline]
    pub const fn get(self) -> u16 {
        u16::from_be_bytes(self.0)
    }

    /// Whether a [`crate::vlan::Tag`] follows.
    #[inline]
    pub const fn is_tag(self) -> bool {
        matches!(self, Self::VLAN | Self::QINQ)
    }
}

impl fmt::Display for EtherType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::IPV4 => f.pad("IPv4"),
            Self::ARP => f.pad("ARP"),
            Self::VLAN => f.pad("VLAN"),
            Self::IPV6 => f.pad("IPv6"),
            Self::QINQ => f.pad("QinQ"),
            Self::LLDP => f.pad("LLDP"),
            other => write!(f, "0x{:04x}", other.get()),
        }
    }
}

impl fmt::Debug for EtherType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<EtherType> for U16 {
    fn from(ether_type: EtherType) -> Self {
        Self::from_bytes(ether_type.0)
    }
}

/// The 14 bytes at the start of a frame.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Header {
    /// Destination.
    pub dst: Mac,
    /// Source.
    pub src: Mac,
    /// What follows.
    pub ether_type: EtherType,
}

const _: () = assert!(size_of::<Header>() == 14);

impl Header {
    /// Writes both addresses, as numbers ([`Mac::to_u64`]), with two stores.
    #[inline]
    pub fn set_addresses(&mut self, dst: u64, src: u64) {
        let (first, second) = (dst << 16 | (src >> 32 & 0xffff), src as u32);
        let (head, tail) = self.as_mut_bytes().split_at_mut(8);
        head.copy_from_slice(&first.to_be_bytes());
        if let Some(rest) = tail.first_chunk_mut() {
            *rest = second.to_be_bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Error, View};
    use std::string::ToString;

    /// An ARP request of Linux, up to its first field.
    const PACKET: [u8; 16] = [
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 0x00, 0x00, 0x00, 0x00, 0x01, 0x08, 0x06, 0x00,
        0x01,
    ];

    #[test]
    fn addresses_are_written_whole_and_nothing_else() {
        let (header, _) = Header::view(&PACKET).unwrap();
        let mut header = *header;
        let (dst, src) = (Mac([1, 2, 3, 4, 5, 6]), Mac([0xfa, 0xfb, 0xfc, 0xfd, 0xfe, 0xff]));
        header.set_addresses(dst.to_u64(), src.to_u64());
        assert_eq!((header.dst, header.src, header.ether_type), (dst, src, EtherType::ARP));
    }

    #[test]
    fn deconstruct() {
        let (header, payload) = Header::view(&PACKET).unwrap();
        assert_eq!(header.dst, Mac::BROADCAST);
        assert_eq!(header.src.to_string(), "02:00:00:00:00:01");
        assert_eq!(header.ether_type, EtherType::ARP);
        assert_eq!(payload, [0x00, 0x01]);
    }

    #[test]
    fn construct() {
        let mut bytes = [0xa5; 16];
        let (header, payload) = Header::view_mut(&mut bytes).unwrap();
        header.dst = Mac::BROADCAST;
        header.src = Mac([0x02, 0, 0, 0, 0, 1]);
        header.ether_type = EtherType::ARP;
        payload.copy_from_slice(&[0x00, 0x01]);
        assert_eq!(bytes, PACKET);
    }

    #[test]
    fn refuse_truncated() {
        for len in 0..Header::LEN {
            assert_eq!(Header::view(&PACKET[..len]).err(), Some(Error::Truncated), "{len} bytes");
        }
    }

    #[test]
    fn unknown_ether_types_print_as_numbers() {
        assert_eq!(EtherType::new(0x1234).to_string(), "0x1234");
        assert_eq!(EtherType::QINQ.to_string(), "QinQ");
        assert_eq!(U16::from(EtherType::IPV6).get(), 0x86dd);
    }

    #[test]
    fn only_tags_are_tags() {
        for value in 0..=u16::MAX {
            assert_eq!(
                EtherType::new(value).is_tag(),
                value == 0x8100 || value == 0x88a8,
                "{value:#x}"
            );
        }
    }
}
