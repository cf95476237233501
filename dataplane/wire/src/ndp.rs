//! Neighbor discovery for IPv6 (RFC 4861): the messages with their ICMPv6 header, and their options.
//!
//! `parse` checks what RFC 4861 §6.1 and §7.1 ask of the message itself: type, code, target, option lengths. Hop limit 255,
//! the checksum and what depends on the packet's addresses are left to the neighbor stop.

use crate::{Addr, Error, Mac, Octets, View, icmpv6};
use zerocopy::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Hop limit of every valid message, which proves that it has not been forwarded.
pub const HOP_LIMIT: u8 = 255;

/// The solicited-node group of `addr` (RFC 4291 §2.7.1): `ff02::1:ff` and its last 24 bits.
#[inline]
pub const fn solicited_node(addr: &Addr) -> Addr {
    Addr::from_bits(0xff02_0000_0000_0000_0000_0001_ff00_0000 | addr.bits() & 0xff_ffff)
}

/// Where a solicitation for `addr` is sent.
#[inline]
pub const fn solicited_node_mac(addr: &Addr) -> Mac {
    Mac::multicast_for_v6(&solicited_node(addr))
}

/// "Who has `target`?", 24 bytes and options.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct NeighborSolicitation {
    /// Type 135, code 0; `rest` is reserved.
    pub icmp: icmpv6::Header,
    /// The address asked for.
    pub target: Octets,
}

/// "`target` is here", 24 bytes and options.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct NeighborAdvertisement {
    /// Type 136, code 0; `rest` has the flags.
    pub icmp: icmpv6::Header,
    /// The address told about.
    pub target: Octets,
}

/// "Which routers are here?", 8 bytes and options.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct RouterSolicitation {
    /// Type 133, code 0; `rest` is reserved.
    pub icmp: icmpv6::Header,
}

/// "I am a router", 16 bytes and options.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct RouterAdvertisement {
    /// Type 134, code 0.
    pub kind: icmpv6::Type,
    /// 0.
    pub code: u8,
    /// Internet checksum over pseudo-header and message.
    pub checksum: U16,
    /// Hop limit that hosts should use; 0: not said.
    pub hop_limit: u8,
    /// Managed, other configuration (RFC 4861 §4.2).
    pub flags: u8,
    /// Seconds that this is a default router; 0: it is none.
    pub lifetime: U16,
    /// Milliseconds a neighbor counts as reachable; 0: not said.
    pub reachable: U32,
    /// Milliseconds between solicitations; 0: not said.
    pub retransmit: U32,
}

const _: () = {
    assert!(size_of::<NeighborSolicitation>() == 24);
    assert!(size_of::<NeighborAdvertisement>() == 24);
    assert!(size_of::<RouterSolicitation>() == 8);
    assert!(size_of::<RouterAdvertisement>() == 16);
};

impl NeighborSolicitation {
    /// A solicitation whose checksum is still 0.
    pub const fn new(target: Addr) -> Self {
        Self {
            icmp: icmpv6::Header::new(icmpv6::Type::NEIGHBOR_SOLICITATION, 0, 0),
            target: Octets(target.octets()),
        }
    }

    /// The message in `message` (the ICMPv6 part of a packet, padding cut off) and its options, all of good length.
    pub fn parse(message: &[u8]) -> Result<(&Self, Options<'_>), Error> {
        let (this, options) = Self::view(message)?;
        check(&this.icmp, icmpv6::Type::NEIGHBOR_SOLICITATION, &this.target.get())?;
        Ok((this, Options::checked(options)?))
    }
}

impl NeighborAdvertisement {
    /// The sender is a router.
    pub const ROUTER: u32 = 1 << 31;
    /// An answer to a solicitation.
    pub const SOLICITED: u32 = 1 << 30;
    /// Replaces a known link-layer address.
    pub const OVERRIDE: u32 = 1 << 29;

    /// An advertisement whose checksum is still 0. `flags` is an or of the constants.
    pub const fn new(target: Addr, flags: u32) -> Self {
        Self {
            icmp: icmpv6::Header::new(icmpv6::Type::NEIGHBOR_ADVERTISEMENT, 0, flags),
            target: Octets(target.octets()),
        }
    }

    /// The message in `message` (the ICMPv6 part of a packet, padding cut off) and its options, all of good length.
    pub fn parse(message: &[u8]) -> Result<(&Self, Options<'_>), Error> {
        let (this, options) = Self::view(message)?;
        check(&this.icmp, icmpv6::Type::NEIGHBOR_ADVERTISEMENT, &this.target.get())?;
        Ok((this, Options::checked(options)?))
    }

    /// Whether the sender is a router.
    #[inline]
    pub const fn is_router(&self) -> bool {
        self.icmp.rest.get() & Self::ROUTER != 0
    }

    /// Whether it answers a solicitation.
    #[inline]
    pub const fn is_solicited(&self) -> bool {
        self.icmp.rest.get() & Self::SOLICITED != 0
    }

    /// Whether it replaces a known link-layer address.
    #[inline]
    pub const fn is_override(&self) -> bool {
        self.icmp.rest.get() & Self::OVERRIDE != 0
    }
}

impl RouterSolicitation {
    /// A solicitation whose checksum is still 0.
    pub const fn new() -> Self {
        Self { icmp: icmpv6::Header::new(icmpv6::Type::ROUTER_SOLICITATION, 0, 0) }
    }

    /// The message in `message` (the ICMPv6 part of a packet, padding cut off) and its options, all of good length.
    pub fn parse(message: &[u8]) -> Result<(&Self, Options<'_>), Error> {
        let (this, options) = Self::view(message)?;
        if this.icmp.kind != icmpv6::Type::ROUTER_SOLICITATION || this.icmp.code != 0 {
            return Err(Error::Field);
        }
        Ok((this, Options::checked(options)?))
    }
}

impl Default for RouterSolicitation {
    fn default() -> Self {
        Self::new()
    }
}

impl RouterAdvertisement {
    /// The message in `message` (the ICMPv6 part of a packet, padding cut off) and its options, all of good length.
    pub fn parse(message: &[u8]) -> Result<(&Self, Options<'_>), Error> {
        let (this, options) = Self::view(message)?;
        if this.kind != icmpv6::Type::ROUTER_ADVERTISEMENT || this.code != 0 {
            return Err(Error::Field);
        }
        Ok((this, Options::checked(options)?))
    }
}

fn check(icmp: &icmpv6::Header, kind: icmpv6::Type, target: &Addr) -> Result<(), Error> {
    if icmp.kind == kind && icmp.code == 0 && !target.is_multicast() {
        Ok(())
    } else {
        Err(Error::Field)
    }
}

/// What an option is; any byte is one (RFC 4861 §4.6).
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(transparent)]
pub struct OptionKind(pub u8);

impl OptionKind {
    /// The sender's MAC.
    pub const SOURCE_LINK_LAYER: Self = Self(1);
    /// The target's MAC.
    pub const TARGET_LINK_LAYER: Self = Self(2);
    /// A prefix of the link.
    pub const PREFIX: Self = Self(3);
    /// The packet that caused a redirect.
    pub const REDIRECTED: Self = Self(4);
    /// The link's MTU.
    pub const MTU: Self = Self(5);
    /// Random number that tells one's own probes from another's (RFC 3971 §5.3.2, RFC 7527).
    pub const NONCE: Self = Self(14);
}

/// A link-layer address option for Ethernet, 8 bytes.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct LinkLayer {
    /// [`OptionKind::SOURCE_LINK_LAYER`] or [`OptionKind::TARGET_LINK_LAYER`].
    pub kind: OptionKind,
    /// 1, in units of 8 bytes.
    pub len: u8,
    /// The MAC.
    pub mac: Mac,
}

const _: () = assert!(size_of::<LinkLayer>() == 8);

impl LinkLayer {
    /// The option for `mac`.
    pub const fn new(kind: OptionKind, mac: Mac) -> Self {
        Self { kind, len: 1, mac }
    }
}

/// The options of a message in order; stops at the first bad length, which the messages' `parse` has ruled out.
#[derive(Clone, Debug)]
pub struct Options<'a>(&'a [u8]);

impl<'a> Options<'a> {
    /// Over the bytes behind a message.
    #[inline]
    pub const fn new(options: &'a [u8]) -> Self {
        Self(options)
    }

    /// [`Self::new`], unless an option's length is 0 or beyond the end (RFC 4861 §7.1.1: then all is to be dropped).
    pub fn checked(options: &'a [u8]) -> Result<Self, Error> {
        let mut rest = Self(options);
        while rest.next().is_some() {}
        if rest.0.is_empty() { Ok(Self(options)) } else { Err(Error::Option) }
    }

    /// The MAC in the first link-layer option of this kind.
    pub fn link_layer(&self, kind: OptionKind) -> Option<Mac> {
        let (_, data) = self.clone().find(|(found, _)| *found == kind)?;
        Mac::view(data).ok().map(|(mac, _)| *mac)
    }
}

impl<'a> Iterator for Options<'a> {
    /// Kind, and the option's data without kind and length.
    type Item = (OptionKind, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let &[kind, len, ..] = self.0 else { return None };
        let (option, rest) = self.0.split_at_checked(usize::from(len) * 8)?;
        let data = option.get(2..)?;
        self.0 = rest;
        Some((OptionKind(kind), data))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Protocol, Sum};
    use std::string::ToString;
    use std::vec::Vec;

    /// The advertisement that Linux answers with: 2001:db8::2 is at 02:00:00:00:00:02.
    const PACKET: [u8; 32] = [
        0x88, 0x00, 0x8a, 0x71, 0x60, 0x00, 0x00, 0x00, 0x20, 0x01, 0x0d, 0xb8, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0x02, 0x01, 0x02, 0x00, 0x00, 0x00,
        0x00, 0x02,
    ];

    /// A router advertisement with source link-layer address, MTU and prefix 2001:db8::/64.
    const ROUTER: [u8; 64] = [
        0x86, 0x00, 0x3c, 0x7a, 0x40, 0x08, 0x07, 0x08, 0x00, 0x00, 0x75, 0x30, 0x00, 0x00, 0x03,
        0xe8, 0x01, 0x01, 0x02, 0x00, 0x00, 0x00, 0x00, 0x01, 0x05, 0x01, 0x00, 0x00, 0x00, 0x00,
        0x05, 0xdc, 0x03, 0x04, 0x40, 0xc0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00,
        0x00, 0x00, 0x00, 0x20, 0x01, 0x0d, 0xb8, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x00,
    ];

    const MAC: Mac = Mac([0x02, 0, 0, 0, 0, 0x02]);

    fn addr(text: &str) -> Addr {
        text.parse().unwrap()
    }

    #[test]
    fn deconstruct() {
        let (message, options) = NeighborAdvertisement::parse(&PACKET).unwrap();
        assert_eq!(
            (message.icmp.kind, message.icmp.code),
            (icmpv6::Type::NEIGHBOR_ADVERTISEMENT, 0)
        );
        assert_eq!(message.icmp.checksum.get(), 0x8a71);
        assert!(!message.is_router() && message.is_solicited() && message.is_override());
        assert_eq!(message.target.get(), addr("2001:db8::2"));
        assert_eq!(options.link_layer(OptionKind::TARGET_LINK_LAYER), Some(MAC));
        assert_eq!(options.link_layer(OptionKind::SOURCE_LINK_LAYER), None);
    }

    #[test]
    fn construct() {
        let mut bytes = [0xa5; 32];
        let flags = NeighborAdvertisement::SOLICITED | NeighborAdvertisement::OVERRIDE;
        let rest = NeighborAdvertisement::new(addr("2001:db8::2"), flags).put(&mut bytes).unwrap();
        LinkLayer::new(OptionKind::TARGET_LINK_LAYER, MAC).put(rest).unwrap();
        let sum = Sum::pseudo(&addr("2001:db8::2"), &addr("2001:db8::1"), Protocol::ICMPV6, 32)
            .add_bytes(&bytes);
        let (header, _) = icmpv6::Header::view_mut(&mut bytes).unwrap();
        header.checksum = U16::new(sum.finish());
        assert_eq!(bytes, PACKET);
    }

    #[test]
    fn refuse_truncated() {
        for len in (0..24).chain(25..32) {
            let error = if len < 24 { Error::Truncated } else { Error::Option };
            assert_eq!(
                NeighborAdvertisement::parse(&PACKET[..len]).err(),
                Some(error),
                "{len} bytes"
            );
        }
        assert!(NeighborAdvertisement::parse(&PACKET[..24]).is_ok());
    }

    #[test]
    fn solicitations_and_advertisements_are_not_taken_for_each_other() {
        let mut bytes = [0; 24];
        NeighborSolicitation::new(addr("fe80::1")).put(&mut bytes).unwrap();
        assert_eq!(NeighborSolicitation::parse(&bytes).unwrap().0.target.get(), addr("fe80::1"));
        assert_eq!(NeighborAdvertisement::parse(&bytes).err(), Some(Error::Field));
        assert_eq!(RouterSolicitation::parse(&bytes).err(), Some(Error::Field));
        assert_eq!(RouterAdvertisement::parse(&bytes).err(), Some(Error::Field));
        assert_eq!(NeighborSolicitation::parse(&PACKET).err(), Some(Error::Field));
        bytes[1] = 1;
        assert_eq!(NeighborSolicitation::parse(&bytes).err(), Some(Error::Field));
    }

    #[test]
    fn multicast_targets_are_refused() {
        let solicitation = NeighborSolicitation::new(addr("ff02::1"));
        assert_eq!(NeighborSolicitation::parse(solicitation.as_bytes()).err(), Some(Error::Field));
        let advertisement = NeighborAdvertisement::new(addr("ff02::1"), 0);
        assert_eq!(
            NeighborAdvertisement::parse(advertisement.as_bytes()).err(),
            Some(Error::Field)
        );
    }

    #[test]
    fn router_advertisements_have_their_fields_and_options() {
        let (message, options) = RouterAdvertisement::parse(&ROUTER).unwrap();
        assert_eq!((message.hop_limit, message.flags, message.lifetime.get()), (64, 0x08, 1800));
        assert_eq!((message.reachable.get(), message.retransmit.get()), (30_000, 1000));
        let sizes: Vec<_> = options.clone().map(|(kind, data)| (kind.0, data.len())).collect();
        assert_eq!(sizes, [(1, 6), (5, 6), (3, 30)]);
        assert_eq!(
            options.link_layer(OptionKind::SOURCE_LINK_LAYER),
            Some(Mac([0x02, 0, 0, 0, 0, 0x01]))
        );
    }

    #[test]
    fn router_solicitations_may_have_no_options() {
        let solicitation = RouterSolicitation::new();
        assert_eq!(solicitation.as_bytes(), [0x85, 0, 0, 0, 0, 0, 0, 0]);
        let (_, mut options) = RouterSolicitation::parse(solicitation.as_bytes()).unwrap();
        assert_eq!(options.next(), None);
    }

    #[test]
    fn options_of_length_zero_or_beyond_the_end_are_refused() {
        for options in
            [&[1, 0, 0, 0, 0, 0, 0, 0][..], &[1, 2, 0, 0, 0, 0, 0, 0], &[1], &[1, 1, 0, 0, 0, 0, 0]]
        {
            assert_eq!(Options::checked(options).err(), Some(Error::Option), "{options:?}");
            assert_eq!(Options::new(options).count(), 0, "{options:?}");
        }
        assert_eq!(Options::checked(&[]).unwrap().count(), 0);
    }

    #[test]
    fn solicited_node_group_has_the_last_24_bits() {
        // The example of RFC 4291 §2.7.1.
        let group = solicited_node(&addr("4037::1:800:200e:8c6c"));
        assert_eq!(group, addr("ff02::1:ff0e:8c6c"));
        assert_eq!(
            solicited_node_mac(&addr("4037::1:800:200e:8c6c")).to_string(),
            "33:33:ff:0e:8c:6c"
        );
    }
}
