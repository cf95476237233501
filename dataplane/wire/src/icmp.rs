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
    /// Destination unreachable; see [`unreachable`].
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
