//! ICMPv6 (RFC 4443): the eight bytes that every message begins with.
//!
//! The checksum covers the IPv6 pseudo-header. Neighbor discovery messages are in [`crate::ndp`].

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
    /// Destination unreachable; see [`mod@unreachable`].
    pub const DEST_UNREACHABLE: Self = Self(1);
    /// Packet too big for the next link; the MTU is in the header.
    pub const PACKET_TOO_BIG: Self = Self(2);
    /// Time exceeded; see [`time_exceeded`].
    pub const TIME_EXCEEDED: Self = Self(3);
    /// Parameter problem; see [`parameter_problem`].
    pub const PARAMETER_PROBLEM: Self = Self(4);
    /// Echo request ("ping").
    pub const ECHO_REQUEST: Self = Self(128);
    /// Answer to an echo request.
    pub const ECHO_REPLY: Self = Self(129);
    /// Multicast listener query.
    pub const LISTENER_QUERY: Self = Self(130);
    /// Multicast listener report, version 1.
    pub const LISTENER_REPORT: Self = Self(131);
    /// Multicast listener done.
    pub const LISTENER_DONE: Self = Self(132);
    /// Router solicitation (RFC 4861 §4.1).
    pub const ROUTER_SOLICITATION: Self = Self(133);
    /// Router advertisement (RFC 4861 §4.2).
    pub const ROUTER_ADVERTISEMENT: Self = Self(134);
    /// Neighbor solicitation (RFC 4861 §4.3).
    pub const NEIGHBOR_SOLICITATION: Self = Self(135);
    /// Neighbor advertisement (RFC 4861 §4.4).
    pub const NEIGHBOR_ADVERTISEMENT: Self = Self(136);
    /// Redirect (RFC 4861 §4.5).
    pub const REDIRECT: Self = Self(137);
    /// Multicast listener report, version 2.
    pub const LISTENER_REPORT_V2: Self = Self(143);

    /// Whether the message quotes a packet (types below 128); no error is ever sent about such a one (RFC 4443 §2.4 e).
    #[inline]
    pub const fn is_error(self) -> bool {
        self.0 < 128
    }

    /// Whether it is one of neighbor discovery's five, which never leave the link.
    #[inline]
    pub const fn is_ndp(self) -> bool {
        matches!(self.0, 133..=137)
    }
}

impl fmt::Debug for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::DEST_UNREACHABLE => f.write_str("destination-unreachable"),
            Self::PACKET_TOO_BIG => f.write_str("packet-too-big"),
            Self::TIME_EXCEEDED => f.write_str("time-exceeded"),
            Self::PARAMETER_PROBLEM => f.write_str("parameter-problem"),
            Self::ECHO_REQUEST => f.write_str("echo-request"),
            Self::ECHO_REPLY => f.write_str("echo-reply"),
            Self::LISTENER_QUERY => f.write_str("listener-query"),
            Self::LISTENER_REPORT => f.write_str("listener-report"),
            Self::LISTENER_DONE => f.write_str("listener-done"),
            Self::ROUTER_SOLICITATION => f.write_str("router-solicitation"),
            Self::ROUTER_ADVERTISEMENT => f.write_str("router-advertisement"),
            Self::NEIGHBOR_SOLICITATION => f.write_str("neighbor-solicitation"),
            Self::NEIGHBOR_ADVERTISEMENT => f.write_str("neighbor-advertisement"),
            Self::REDIRECT => f.write_str("redirect"),
            Self::LISTENER_REPORT_V2 => f.write_str("listener-report-v2"),
            Self(other) => write!(f, "type {other}"),
        }
    }
}

/// Codes of [`Type::DEST_UNREACHABLE`] (RFC 4443 §3.1).
pub mod unreachable {
    /// No route.
    pub const NO_ROUTE: u8 = 0;
    /// Forbidden by an administrator.
    pub const ADMIN_PROHIBITED: u8 = 1;
    /// Beyond the scope of the source address.
    pub const BEYOND_SCOPE: u8 = 2;
    /// The last router can't reach the address.
    pub const ADDRESS: u8 = 3;
    /// Nothing listens on the port.
    pub const PORT: u8 = 4;
}

/// Codes of [`Type::TIME_EXCEEDED`].
pub mod time_exceeded {
    /// Hop limit ran out on the way.
    pub const HOP_LIMIT: u8 = 0;
    /// Fragments were missing at the destination.
    pub const REASSEMBLY: u8 = 1;
}

/// Codes of [`Type::PARAMETER_PROBLEM`].
pub mod parameter_problem {
    /// A header field is wrong.
    pub const FIELD: u8 = 0;
    /// Next header not known.
    pub const NEXT_HEADER: u8 = 1;
    /// Option not known.
    pub const OPTION: u8 = 2;
    /// The first fragment lacks a part of the header chain (RFC 7112).
    pub const INCOMPLETE_CHAIN: u8 = 3;
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
    /// Internet checksum over pseudo-header and message.
    pub checksum: U16,
    /// Depends on the type: identifier and sequence, MTU, pointer, flags.
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

    /// MTU of the next hop, in "packet too big".
    #[inline]
    pub const fn mtu(&self) -> u32 {
        self.rest.get()
    }

    /// Byte of the quoted packet that is wrong, in "parameter problem".
    #[inline]
    pub const fn pointer(&self) -> u32 {
        self.rest.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Addr, Error, Protocol, Sum, View};
    use std::format;

    /// An echo request of `ping -s 16` from 2001:db8::1 to 2001:db8::2.
    const PACKET: [u8; 24] = [
        0x80, 0x00, 0x09, 0x80, 0x32, 0x8a, 0x00, 0x01, 0xf2, 0x88, 0x01, 0x6b, 0x00, 0x00, 0x00,
        0x00, 0xf1, 0x38, 0x03, 0x00, 0x00, 0x00, 0x00, 0x00,
    ];

    fn pseudo() -> Sum {
        let [src, dst]: [Addr; 2] =
            ["2001:db8::1", "2001:db8::2"].map(|text| text.parse().unwrap());
        Sum::pseudo(&src, &dst, Protocol::ICMPV6, 24)
    }

    #[test]
    fn deconstruct() {
        let (header, payload) = Header::view(&PACKET).unwrap();
        assert_eq!((header.kind, header.code), (Type::ECHO_REQUEST, 0));
        assert_eq!(header.checksum.get(), 0x0980);
        assert_eq!((header.echo_id(), header.echo_sequence()), (0x328a, 1));
        assert_eq!(payload.len(), 16);
        assert_eq!(pseudo().add_bytes(&PACKET).fold(), 0xffff);
    }

    #[test]
    fn construct() {
        let mut bytes = [0xa5; 24];
        let (header, payload) = Header::view_mut(&mut bytes).unwrap();
        header.kind = Type::ECHO_REQUEST;
        header.code = 0;
        header.checksum = U16::ZERO;
        header.rest = U32::new(1);
        header.set_echo_id(0x328a);
        payload.copy_from_slice(&PACKET[8..]);
        let checksum = pseudo().add_bytes(header.as_bytes()).add_bytes(payload).finish();
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
        let too_big = Header::new(Type::PACKET_TOO_BIG, 0, 0x1_0000);
        assert_eq!((too_big.mtu(), too_big.as_bytes()), (0x1_0000, &[2, 0, 0, 0, 0, 1, 0, 0][..]));
        assert_eq!(
            Header::new(Type::PARAMETER_PROBLEM, parameter_problem::NEXT_HEADER, 40).pointer(),
            40
        );
    }

    #[test]
    fn types_fall_into_errors_and_discovery() {
        for number in 0..=u8::MAX {
            assert_eq!(Type(number).is_error(), number < 128, "type {number}");
            assert_eq!(Type(number).is_ndp(), (133..138).contains(&number), "type {number}");
        }
    }

    #[test]
    fn unknown_types_print_as_numbers() {
        assert_eq!(format!("{:?} {:?}", Type(200), Type::REDIRECT), "type 200 redirect");
    }
}
