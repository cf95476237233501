//! IPv6 headers (RFC 8200 §3).
//!
//! [`Header::parse`] gives header and payload, or says what is wrong. Extension headers are walked by
//! [`crate::ipv6_ext`]; jumbograms (RFC 2675) are not known, their payload length of 0 is taken as 0.

use crate::checksum::Sum;
use crate::{Addr, Error, Octets, Protocol, View};
use zerocopy::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Smallest MTU of a link, and the longest ICMPv6 error (RFC 8200 §5, RFC 4443 §2.4).
pub const MIN_MTU: usize = 1280;

/// The 40 bytes that every header has.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Header {
    /// Version (4 bits), traffic class (8), flow label (20).
    pub version_class_flow: U32,
    /// Bytes after this header, extension headers included.
    pub payload_len: U16,
    /// What the payload begins with.
    pub next_header: Protocol,
    /// Hops left.
    pub hop_limit: u8,
    /// Source address. [`Addr::is_v4`] holds for a v4-mapped one, which may not be on the wire.
    pub src: Octets,
    /// Destination address; see `src`.
    pub dst: Octets,
}

const _: () = assert!(size_of::<Header>() == 40);

impl Header {
    /// A header of traffic class 0 and flow label 0. `payload_len` in bytes.
    pub const fn new(
        src: Addr,
        dst: Addr,
        next_header: Protocol,
        hop_limit: u8,
        payload_len: u16,
    ) -> Self {
        Self {
            version_class_flow: U32::new(6 << 28),
            payload_len: U16::new(payload_len),
            next_header,
            hop_limit,
            src: Octets(src.octets()),
            dst: Octets(dst.octets()),
        }
    }

    /// The source address.
    #[inline]
    pub const fn src_addr(&self) -> Addr {
        self.src.get()
    }

    /// The destination address.
    #[inline]
    pub const fn dst_addr(&self) -> Addr {
        self.dst.get()
    }

    /// Header and payload of the packet at the start of `bytes`. What follows the payload length (Ethernet padding) is cut off.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<(&Self, &[u8]), Error> {
        let (header, rest) = Self::view(bytes)?;
        header.validate(bytes.len())?;
        let payload = rest.get(..header.payload_len()).ok_or(Error::Truncated)?;
        Ok((header, payload))
    }

    /// Whether version and payload length fit into `available` bytes, counted from the header's start over all UMEM chunks of the packet.
    #[inline]
    pub fn validate(&self, available: usize) -> Result<(), Error> {
        if self.version() != 6 {
            Err(Error::Version)
        } else if self.total_len() > available {
            Err(Error::Truncated)
        } else {
            Ok(())
        }
    }

    /// The version nibble: 6.
    #[inline]
    pub const fn version(&self) -> u8 {
        (self.version_class_flow.get() >> 28) as u8
    }

    /// DSCP and ECN.
    #[inline]
    pub const fn traffic_class(&self) -> u8 {
        (self.version_class_flow.get() >> 20) as u8
    }

    /// The flow label, 20 bits.
    #[inline]
    pub const fn flow_label(&self) -> u32 {
        self.version_class_flow.get() & 0xf_ffff
    }

    /// Bytes after the header.
    #[inline]
    pub const fn payload_len(&self) -> usize {
        self.payload_len.get() as usize
    }

    /// Bytes of header and payload.
    #[inline]
    pub const fn total_len(&self) -> usize {
        Self::LEN + self.payload_len()
    }

    /// One hop less (there is no checksum). `false`, and nothing is written, when the packet may not travel on: hop limit 0 or 1.
    #[inline]
    pub fn decrement_hop_limit(&mut self) -> bool {
        let on = self.hop_limit > 1;
        if on {
            self.hop_limit -= 1;
        }
        on
    }

    /// The sum that L4 checksums over this packet begin with. `protocol` is the last of the chain, `len` in bytes of L4.
    ///
    /// With a routing header whose segments are left, the final destination counts instead (RFC 8200 §8.1).
    #[inline]
    pub fn pseudo(&self, protocol: Protocol, len: u32) -> Sum {
        Sum::pseudo_v6(&self.src.0, &self.dst.0, protocol, len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A UDP datagram of Linux: the IPv6 header, its 16 bytes of payload, and 2 of padding.
    const PACKET: [u8; 58] = [
        0x60, 0x0b, 0x2d, 0x29, 0x00, 0x10, 0x11, 0x40, 0x20, 0x01, 0x0d, 0xb8, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x20, 0x01, 0x0d, 0xb8, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0x9c, 0x40, 0x27, 0x0f, 0x00,
        0x10, 0x31, 0x6d, 0x6d, 0x69, 0x6c, 0x6c, 0x72, 0x61, 0x63, 0x65, 0x00, 0x00,
    ];

    fn addr(text: &str) -> Addr {
        text.parse().unwrap()
    }

    #[test]
    fn deconstruct() {
        let (header, payload) = Header::parse(&PACKET).unwrap();
        assert_eq!(
            (header.version(), header.traffic_class(), header.flow_label()),
            (6, 0, 0xb2d29)
        );
        assert_eq!((header.payload_len(), header.total_len()), (16, 56));
        assert_eq!((header.next_header, header.hop_limit), (Protocol::UDP, 64));
        let addrs = (header.src_addr(), header.dst_addr());
        assert_eq!(addrs, (addr("2001:db8::1"), addr("2001:db8::2")));
        assert_eq!(payload, &PACKET[40..56]);
        assert_eq!(header.pseudo(Protocol::UDP, 16).add_bytes(payload).fold(), 0xffff);
    }

    #[test]
    fn construct() {
        let mut bytes = [0xa5; 58];
        let (header, rest) = Header::view_mut(&mut bytes).unwrap();
        rest.copy_from_slice(&PACKET[40..]);
        header.version_class_flow = U32::new(6 << 28 | 0xb2d29);
        header.payload_len = U16::new(16);
        header.next_header = Protocol::UDP;
        header.hop_limit = 64;
        header.src = addr("2001:db8::1").into();
        header.dst = addr("2001:db8::2").into();
        assert_eq!(bytes, PACKET);
        let mut new = Header::new(addr("2001:db8::1"), addr("2001:db8::2"), Protocol::UDP, 64, 16);
        new.version_class_flow |= U32::new(0xb2d29);
        assert_eq!(new.as_bytes(), &PACKET[..40]);
    }

    #[test]
    fn refuse_truncated() {
        for len in 0..56 {
            assert_eq!(Header::parse(&PACKET[..len]).err(), Some(Error::Truncated), "{len} bytes");
        }
        assert!(Header::parse(&PACKET[..56]).is_ok());
    }

    #[test]
    fn refuse_other_versions() {
        for version in (0..16).filter(|version| *version != 6) {
            let mut bytes = PACKET;
            bytes[0] = version << 4;
            assert_eq!(Header::parse(&bytes).err(), Some(Error::Version), "version {version}");
        }
    }

    #[test]
    fn class_and_label_keep_to_their_bits() {
        let mut header = Header::new(addr("::"), addr("::"), Protocol::NONE, 0, 0);
        header.version_class_flow = U32::new(0x6abf_ffff);
        assert_eq!(
            (header.version(), header.traffic_class(), header.flow_label()),
            (6, 0xab, 0xf_ffff)
        );
    }

    #[test]
    fn a_hop_stops_before_zero() {
        let mut header = Header::new(addr("::"), addr("::"), Protocol::NONE, 2, 0);
        assert!(header.decrement_hop_limit());
        assert!(!header.decrement_hop_limit());
        assert_eq!(header.hop_limit, 1);
        header.hop_limit = 0;
        assert!(!header.decrement_hop_limit());
        assert_eq!(header.hop_limit, 0);
    }
}
