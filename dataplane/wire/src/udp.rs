//! UDP headers (RFC 768, RFC 8200 §8.1 over IPv6).
//!
//! A checksum of 0 means "none"; a computed 0 is sent as 0xFFFF ([`crate::Sum::finish_udp`], [`crate::checksum::update_udp`]).

use crate::{Error, View};
use zerocopy::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The 8 bytes of a header.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Header {
    /// Source port.
    pub src_port: U16,
    /// Destination port.
    pub dst_port: U16,
    /// Bytes of header and payload.
    pub len: U16,
    /// Internet checksum over pseudo-header, header and payload; 0: none (IPv4 only).
    pub checksum: U16,
}

const _: () = assert!(size_of::<Header>() == 8);

impl Header {
    /// A header without a checksum. `payload_len` in bytes, at most 65,527 (more wraps).
    pub const fn new(src_port: u16, dst_port: u16, payload_len: u16) -> Self {
        Self {
            src_port: U16::new(src_port),
            dst_port: U16::new(dst_port),
            len: U16::new(payload_len.wrapping_add(8)),
            checksum: U16::ZERO,
        }
    }

    /// Header and payload of the datagram at the start of `bytes`. What follows its length is cut off.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<(&Self, &[u8]), Error> {
        let (header, rest) = Self::view(bytes)?;
        let payload = usize::from(header.len.get()).checked_sub(Self::LEN).ok_or(Error::Length)?;
        Ok((header, rest.get(..payload).ok_or(Error::Truncated)?))
    }

    /// Whether the sender computed a checksum.
    #[inline]
    pub fn has_checksum(&self) -> bool {
        self.checksum != U16::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Protocol, Sum};

    /// A datagram of Linux from 192.0.2.1 to 192.0.2.2, and 2 bytes of padding.
    const PACKET: [u8; 18] = [
        0x9c, 0x40, 0x27, 0x0f, 0x00, 0x10, 0x08, 0xde, 0x6d, 0x69, 0x6c, 0x6c, 0x72, 0x61, 0x63,
        0x65, 0x00, 0x00,
    ];

    fn pseudo() -> Sum {
        Sum::pseudo_v4([192, 0, 2, 1], [192, 0, 2, 2], Protocol::UDP, 16)
    }

    #[test]
    fn deconstruct() {
        let (header, payload) = Header::parse(&PACKET).unwrap();
        assert_eq!((header.src_port.get(), header.dst_port.get()), (40000, 9999));
        assert_eq!((header.len.get(), header.checksum.get()), (16, 0x08de));
        assert_eq!(payload, b"millrace");
        assert!(header.has_checksum());
        assert_eq!(pseudo().add_bytes(header.as_bytes()).add_bytes(payload).fold(), 0xffff);
    }

    #[test]
    fn construct() {
        let mut bytes = [0xa5; 18];
        let payload = Header::new(40000, 9999, 8).put(&mut bytes).unwrap();
        payload.copy_from_slice(b"millrace\0\0");
        let sum = pseudo().add_bytes(&bytes[..16]);
        let (header, _) = Header::view_mut(&mut bytes).unwrap();
        assert!(!header.has_checksum());
        header.checksum = U16::new(sum.finish_udp());
        assert_eq!(bytes, PACKET);
    }

    #[test]
    fn refuse_truncated() {
        for len in 0..16 {
            assert_eq!(Header::parse(&PACKET[..len]).err(), Some(Error::Truncated), "{len} bytes");
        }
        assert!(Header::parse(&PACKET[..16]).is_ok());
    }

    #[test]
    fn refuse_a_length_below_the_header() {
        for len in 0..8 {
            let mut bytes = PACKET;
            bytes[5] = len;
            assert_eq!(Header::parse(&bytes).err(), Some(Error::Length), "length {len}");
        }
    }
}
