//! ICMP for IPv4 (RFC 792, RFC 1191 for the MTU, RFC 1812 for the codes).
//!
//! The eight bytes that every message begins with. Quoted packets in errors are parsed like any other, except that they are
//! cut: use [`View::view`](crate::View::view) on them, not `parse`.

use core::fmt;
use zerocopy::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Kind of message; any byte is one.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(transparent)]
pub struct Type(pub u8);

impl Type {
    /// Answer to an echo request.
    pub const ECHO_REPLY: Self = Self(0);
    /// Destination unreachable; see [`mod@unreachable`].
    pub const DEST_UNREACHABLE: Self = Self(3);
    /// Source quench (deprecated, RFC 6633).
    pub const SOURCE_QUENCH: Self = Self(4);
    /// Redirect.
    pub const REDIRECT: Self = Self(5);
    /// Echo request ("ping").
    pub const ECHO_REQUEST: Self = Self(8);
    /// Router advertisement.
    pub const ROUTER_ADVERTISEMENT: Self = Self(9);
    /// Router solicitation.
    pub const ROUTER_SOLICITATION: Self = Self(10);
    /// Time exceeded; see [`time_exceeded`].
    pub const TIME_EXCEEDED: Self = Self(11);
    /// Parameter problem.
    pub const PARAMETER_PROBLEM: Self = Self(12);
    /// Timestamp request.
    pub const TIMESTAMP: Self = Self(13);
    /// Timestamp reply.
    pub const TIMESTAMP_REPLY: Self = Self(14);

    /// Whether the message quotes a packet; no error is ever sent about such a one (RFC 1122 §3.2.2).
    #[inline]
    pub const fn is_error(self) -> bool {
        matches!(
            self,
            Self::DEST_UNREACHABLE
                | Self::SOURCE_QUENCH
                | Self::REDIRECT
                | Self::TIME_EXCEEDED
                | Self::PARAMETER_PROBLEM
        )
    }
}

impl fmt::Debug for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ECHO_REPLY => f.write_str("echo-reply"),
            Self::DEST_UNREACHABLE => f.write_str("destination-unreachable"),
            Self::SOURCE_QUENCH => f.write_str("source-quench"),
            Self::REDIRECT => f.write_str("redirect"),
            Self::ECHO_REQUEST => f.write_str("echo-request"),
            Self::ROUTER_ADVERTISEMENT => f.write_str("router-advertisement"),
            Self::ROUTER_SOLICITATION => f.write_str("router-solicitation"),
            Self::TIME_EXCEEDED => f.write_str("time-exceeded"),
            Self::PARAMETER_PROBLEM => f.write_str("parameter-problem"),
            Self::TIMESTAMP => f.write_str("timestamp-request"),
            Self::TIMESTAMP_REPLY => f.write_str("timestamp-reply"),
            Self(other) => write!(f, "type {other}"),
        }
    }
}

/// Codes of [`Type::DEST_UNREACHABLE`] (RFC 792, RFC 1812 §5.2.7.1).
pub mod unreachable {
    /// No route.
    pub const NET: u8 = 0;
    /// The last router can't reach the host.
    pub const HOST: u8 = 1;
    /// The host doesn't speak the protocol.
    pub const PROTOCOL: u8 = 2;
    /// Nothing listens on the port.
    pub const PORT: u8 = 3;
    /// Too big for the next link and DF set; the MTU is in the header.
    pub const FRAGMENTATION_NEEDED: u8 = 4;
    /// Source route failed.
    pub const SOURCE_ROUTE_FAILED: u8 = 5;
    /// Forbidden by an administrator.
    pub const ADMIN_PROHIBITED: u8 = 13;
}

/// Codes of [`Type::TIME_EXCEEDED`].
pub mod time_exceeded {
    /// TTL ran out on the way.
    pub const TTL: u8 = 0;
    /// Fragments were missing at the destination.
    pub const REASSEMBLY: u8 = 1;
}

/// The 8 bytes that every message begins with.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Header {
    /// Type.
    pub kind: Type,
    /// Code, whose meaning depends on the type.
    pub code: u8,
    /// Internet checksum over the message, without a pseudo-header.
    pub checksum: U16,
    /// Depends on the type: identifier and sequence, MTU, gateway, pointer.
    pub rest: U32,
}

const _: () = assert!(size_of::<Header>() == 8);

impl Header {
    /// A header whose checksum is still 0.
    pub const fn new(kind: Type, code: u8, rest: u32) -> Self {
        Self { kind, code, checksum: U16::ZERO, rest: U32::new(rest) }
    }

    /// Identifier of an echo request or reply.
    #[inline]
    pub const fn echo_id(&self) -> u16 {
        (self.rest.get() >> 16) as u16
    }

    /// Sets the identifier of an echo request or reply.
    #[inline]
    pub const fn set_echo_id(&mut self, id: u16) {
        self.rest = U32::new((id as u32) << 16 | self.echo_sequence() as u32);
    }

    /// Sequence number of an echo request or reply.
    #[inline]
    pub const fn echo_sequence(&self) -> u16 {
        self.rest.get() as u16
    }

    /// MTU of the next hop, in "fragmentation needed"; 0 from routers older than RFC 1191.
    #[inline]
    pub const fn mtu(&self) -> u16 {
        self.rest.get() as u16
    }

    /// Byte of the quoted packet that is wrong, in "parameter problem".
    #[inline]
    pub const fn pointer(&self) -> u8 {
        (self.rest.get() >> 24) as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Error, Sum, View};
    use std::format;

    /// An echo request of `ping -s 16`.
    const PACKET: [u8; 24] = [
        0x08, 0x00, 0x9f, 0x62, 0x32, 0x88, 0x00, 0x01, 0xf2, 0x88, 0x01, 0x6b, 0x00, 0x00, 0x00,
        0x00, 0x2f, 0x20, 0x03, 0x00, 0x00, 0x00, 0x00, 0x00,
    ];

    #[test]
    fn deconstruct() {
        let (header, payload) = Header::view(&PACKET).unwrap();
        assert_eq!((header.kind, header.code), (Type::ECHO_REQUEST, 0));
        assert_eq!(header.checksum.get(), 0x9f62);
        assert_eq!((header.echo_id(), header.echo_sequence()), (0x3288, 1));
        assert_eq!(payload.len(), 16);
        assert_eq!(Sum::of(&PACKET).fold(), 0xffff);
    }

    #[test]
    fn construct() {
        let mut bytes = [0xa5; 24];
        let (header, payload) = Header::view_mut(&mut bytes).unwrap();
        header.kind = Type::ECHO_REQUEST;
        header.code = 0;
        header.checksum = U16::ZERO;
        header.rest = U32::new(1);
        header.set_echo_id(0x3288);
        payload.copy_from_slice(&PACKET[8..]);
        let checksum = Sum::of(header.as_bytes()).add_bytes(payload).finish();
        header.checksum = U16::new(checksum);
        assert_eq!(bytes, PACKET);
    }

    #[test]
    fn refuse_truncated() {
        for len in 0..Header::LEN {
            assert_eq!(Header::view(&PACKET[..len]).err(), Some(Error::Truncated), "{len} bytes");
        }
    }

    #[test]
    fn the_rest_depends_on_the_type() {
        let too_big = Header::new(Type::DEST_UNREACHABLE, unreachable::FRAGMENTATION_NEEDED, 1400);
        assert_eq!((too_big.mtu(), too_big.as_bytes()), (1400, &[3, 4, 0, 0, 0, 0, 5, 0x78][..]));
        let (problem, _) = Header::view(&[12, 0, 0, 0, 20, 0, 0, 0]).unwrap();
        assert_eq!((problem.kind, problem.pointer()), (Type::PARAMETER_PROBLEM, 20));
    }

    #[test]
    fn errors_are_those_that_quote() {
        for number in 0..=u8::MAX {
            assert_eq!(
                Type(number).is_error(),
                [3, 4, 5, 11, 12].contains(&number),
                "type {number}"
            );
        }
    }

    #[test]
    fn unknown_types_print_as_numbers() {
        assert_eq!(format!("{:?} {:?}", Type(77), Type::TIME_EXCEEDED), "type 77 time-exceeded");
    }
}
