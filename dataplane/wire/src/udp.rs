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
