//! IPv6 headers (RFC 8200 §3).
//!
//! [`Header::parse`] gives header and payload, or says what is wrong. Extension headers are walked by
//! [`crate::ipv6_ext`]; jumbograms (RFC 2675) are not known, their payload length of 0 is taken as 0.

use crate::checksum::Sum;
use crate::{Addr, Error, Protocol, View};
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
    pub src: Addr,
    /// Destination address; see `src`.
    pub dst: Addr,
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
            src,
            dst,
        }
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
        Sum::pseudo_v6(&self.src.octets(), &self.dst.octets(), protocol, len)
    }
}
