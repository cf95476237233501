//! IP protocol numbers, which are IPv6 next-header values too (IANA "Protocol Numbers").

use core::fmt;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// A protocol number; any byte is one.
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
pub struct Protocol(pub u8);

impl Protocol {
    /// IPv6 hop-by-hop options, only directly behind the IPv6 header (RFC 8200 §4.3).
    pub const HOP_BY_HOP: Self = Self(0);
    /// ICMP for IPv4 (RFC 792).
    pub const ICMP: Self = Self(1);
    /// IGMP.
    pub const IGMP: Self = Self(2);
    /// IPv4 in IP.
    pub const IPIP: Self = Self(4);
    /// TCP (RFC 9293).
    pub const TCP: Self = Self(6);
    /// UDP (RFC 768).
    pub const UDP: Self = Self(17);
    /// IPv6 in IP.
    pub const IPV6: Self = Self(41);
    /// IPv6 routing header.
    pub const ROUTING: Self = Self(43);
    /// IPv6 fragment header.
    pub const FRAGMENT: Self = Self(44);
    /// GRE.
    pub const GRE: Self = Self(47);
    /// IPsec ESP: what follows is encrypted.
    pub const ESP: Self = Self(50);
    /// IPsec authentication header.
    pub const AH: Self = Self(51);
    /// ICMPv6 (RFC 4443).
    pub const ICMPV6: Self = Self(58);
    /// IPv6 "no next header".
    pub const NONE: Self = Self(59);
    /// IPv6 destination options.
    pub const DEST_OPTS: Self = Self(60);
    /// SCTP (RFC 9260).
    pub const SCTP: Self = Self(132);
    /// UDP-Lite; its checksum covers only a part, so it is never translated.
    pub const UDP_LITE: Self = Self(136);

    /// Whether the first four bytes of the header are source and destination port: TCP, UDP and SCTP.
    #[inline]
    pub const fn has_ports(self) -> bool {
        matches!(self, Self::TCP | Self::UDP | Self::SCTP)
    }

    /// Bytes from the start of the L4 header to its checksum field. The field is 2 bytes, for SCTP 4.
    #[inline]
    pub const fn checksum_offset(self) -> Option<usize> {
        match self {
            Self::TCP => Some(16),
            Self::UDP => Some(6),
            Self::ICMP | Self::ICMPV6 => Some(2),
            Self::SCTP => Some(8),
            _ => None,
        }
    }

    /// The usual name, for those that have one here.
    pub const fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::HOP_BY_HOP => "hop-by-hop",
            Self::ICMP => "ICMP",
            Self::IGMP => "IGMP",
            Self::IPIP => "IPIP",
            Self::TCP => "TCP",
            Self::UDP => "UDP",
            Self::IPV6 => "IPv6",
            Self::ROUTING => "routing",
            Self::FRAGMENT => "fragment",
            Self::GRE => "GRE",
            Self::ESP => "ESP",
            Self::AH => "AH",
            Self::ICMPV6 => "ICMPv6",
            Self::NONE => "none",
            Self::DEST_OPTS => "destination-options",
            Self::SCTP => "SCTP",
            Self::UDP_LITE => "UDP-Lite",
            _ => return None,
        })
    }
}

/// The name, or `protocol 253`.
impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.pad(name),
            None => write!(f, "protocol {}", self.0),
        }
    }
}

impl fmt::Debug for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::IpNumber;
    use std::string::ToString;

    #[test]
    fn numbers_agree_with_etherparse() {
        let pairs = [
            (Protocol::HOP_BY_HOP, IpNumber::IPV6_HEADER_HOP_BY_HOP),
            (Protocol::ICMP, IpNumber::ICMP),
            (Protocol::IGMP, IpNumber::IGMP),
            (Protocol::IPIP, IpNumber::IPV4),
            (Protocol::TCP, IpNumber::TCP),
            (Protocol::UDP, IpNumber::UDP),
            (Protocol::IPV6, IpNumber::IPV6),
            (Protocol::ROUTING, IpNumber::IPV6_ROUTE_HEADER),
            (Protocol::FRAGMENT, IpNumber::IPV6_FRAGMENTATION_HEADER),
            (Protocol::GRE, IpNumber::GRE),
            (Protocol::ESP, IpNumber::ENCAPSULATING_SECURITY_PAYLOAD),
            (Protocol::AH, IpNumber::AUTHENTICATION_HEADER),
            (Protocol::ICMPV6, IpNumber::IPV6_ICMP),
            (Protocol::NONE, IpNumber::IPV6_NO_NEXT_HEADER),
            (Protocol::DEST_OPTS, IpNumber::IPV6_DESTINATION_OPTIONS),
            (Protocol::SCTP, IpNumber::SCTP),
            (Protocol::UDP_LITE, IpNumber::UDP_LITE),
        ];
        for (ours, theirs) in pairs {
            assert_eq!(ours.0, theirs.0, "{ours}");
        }
    }

    #[test]
    fn unknown_numbers_print_as_numbers() {
        assert_eq!(Protocol(253).to_string(), "protocol 253");
        assert_eq!(Protocol::SCTP.to_string(), "SCTP");
    }
}
