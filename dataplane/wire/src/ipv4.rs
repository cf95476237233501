//! IPv4 headers with options (RFC 791, RFC 2474 for the DS field, RFC 3168 for ECN).
//!
//! [`Header::parse`] gives header, options and payload, or says what is wrong; it leaves the checksum to
//! [`Header::checksum_ok`], because a NIC may have checked it, and addresses to the parse stop.

use crate::checksum::{self, Sum};
use crate::{Addr, Error, Protocol, View};
use zerocopy::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Longest header with its options.
pub const MAX_HEADER: usize = 60;

/// The 20 bytes that every header has.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Header {
    /// Version (4 bits) and header length in 4-byte words (4 bits).
    pub version_ihl: u8,
    /// DSCP (6 bits) and ECN (2 bits).
    pub tos: u8,
    /// Bytes of header and payload.
    pub total_len: U16,
    /// Identifies the datagram that a fragment belongs to.
    pub id: U16,
    /// Reserved, don't fragment, more fragments (3 bits), offset in 8-byte units (13 bits).
    pub flags_offset: U16,
    /// Hops left.
    pub ttl: u8,
    /// What the payload is.
    pub protocol: Protocol,
    /// Internet checksum over header and options.
    pub checksum: U16,
    /// Source address.
    pub src: [u8; 4],
    /// Destination address.
    pub dst: [u8; 4],
}

const _: () = assert!(size_of::<Header>() == 20);

/// "Don't fragment" in [`Header::flags_offset`].
pub const DONT_FRAGMENT: u16 = 0x4000;
/// "More fragments" in [`Header::flags_offset`].
pub const MORE_FRAGMENTS: u16 = 0x2000;

impl Header {
    /// A header without options and with a right checksum: not a fragment, DF set, id 0 (RFC 6864 §4.1 allows it then).
    /// `payload_len` is in bytes, at most 65,515 (more wraps).
    pub fn new(src: [u8; 4], dst: [u8; 4], protocol: Protocol, ttl: u8, payload_len: u16) -> Self {
        let mut header = Self {
            version_ihl: 0x45,
            tos: 0,
            total_len: U16::new(payload_len.wrapping_add(20)),
            id: U16::ZERO,
            flags_offset: U16::new(DONT_FRAGMENT),
            ttl,
            protocol,
            checksum: U16::ZERO,
            src,
            dst,
        };
        header.checksum = U16::new(Sum::of(header.as_bytes()).finish());
        header
    }

    /// Header, options (0 to 40 bytes) and payload of the packet at the start of `bytes`. What follows the total length
    /// (Ethernet padding) is cut off.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<(&Self, &[u8], &[u8]), Error> {
        let (header, _) = Self::view(bytes)?;
        header.validate(bytes.len())?;
        let packet = bytes.get(..header.total_len()).ok_or(Error::Truncated)?;
        let (head, payload) =
            packet.split_at_checked(header.header_len()).ok_or(Error::Truncated)?;
        let options = head.get(Self::LEN..).ok_or(Error::Truncated)?;
        Ok((header, options, payload))
    }

    /// Whether version, header length and total length fit together and into `available` bytes, counted from the header's start.
    ///
    /// A packet whose frames were split over several UMEM chunks is whole only over all of them: give their sum.
    #[inline]
    pub fn validate(&self, available: usize) -> Result<(), Error> {
        if self.version() != 4 {
            Err(Error::Version)
        } else if self.header_len() < Self::LEN {
            Err(Error::HeaderLength)
        } else if self.total_len() < self.header_len() {
            Err(Error::Length)
        } else if self.total_len() > available {
            Err(Error::Truncated)
        } else {
            Ok(())
        }
    }

    /// The version nibble: 4.
    #[inline]
    pub const fn version(&self) -> u8 {
        self.version_ihl >> 4
    }

    /// Bytes of header and options: 20 to 60 in a valid header.
    #[inline]
    pub const fn header_len(&self) -> usize {
        (self.version_ihl & 0x0f) as usize * 4
    }

    /// Whether options follow the 20 bytes.
    #[inline]
    pub const fn has_options(&self) -> bool {
        self.header_len() > Self::LEN
    }

    /// Bytes of header, options and payload.
    #[inline]
    pub const fn total_len(&self) -> usize {
        self.total_len.get() as usize
    }

    /// Bytes of the payload; 0 when the lengths contradict each other.
    #[inline]
    pub const fn payload_len(&self) -> usize {
        self.total_len().saturating_sub(self.header_len())
    }

    /// DSCP, 0 to 63.
    #[inline]
    pub const fn dscp(&self) -> u8 {
        self.tos >> 2
    }

    /// ECN, 0 to 3.
    #[inline]
    pub const fn ecn(&self) -> u8 {
        self.tos & 3
    }

    /// Whether routers may not split it.
    #[inline]
    pub const fn dont_fragment(&self) -> bool {
        self.flags_offset.get() & DONT_FRAGMENT != 0
    }

    /// Whether fragments with higher offsets follow.
    #[inline]
    pub const fn more_fragments(&self) -> bool {
        self.flags_offset.get() & MORE_FRAGMENTS != 0
    }

    /// Where in the datagram's payload this fragment belongs, in bytes.
    #[inline]
    pub const fn fragment_offset(&self) -> usize {
        (self.flags_offset.get() & 0x1fff) as usize * 8
    }

    /// Whether this is a part of a datagram: more follow, or the offset isn't 0. Only with offset 0 is the L4 header in it.
    #[inline]
    pub const fn is_fragment(&self) -> bool {
        self.flags_offset.get() & 0x3fff != 0
    }

    /// The source as an [`Addr`].
    #[inline]
    pub const fn src_addr(&self) -> Addr {
        Addr::from_v4(self.src)
    }

    /// The destination as an [`Addr`].
    #[inline]
    pub const fn dst_addr(&self) -> Addr {
        Addr::from_v4(self.dst)
    }

    /// Whether the checksum is right. `options` are the bytes between header and payload.
    #[inline]
    pub fn checksum_ok(&self, options: &[u8]) -> bool {
        Sum::of(self.as_bytes()).add_bytes(options).fold() == 0xffff
    }

    /// Writes the checksum anew. `options` are the bytes between header and payload.
    pub fn fill_checksum(&mut self, options: &[u8]) {
        self.checksum = U16::ZERO;
        self.checksum = U16::new(Sum::of(self.as_bytes()).add_bytes(options).finish());
    }

    /// One hop less, checksum mended (RFC 1624). `false`, and nothing is written, when the packet may not travel on: TTL 0 or 1.
    #[inline]
    pub fn decrement_ttl(&mut self) -> bool {
        if self.ttl <= 1 {
            return false;
        }
        let old = [self.ttl, self.protocol.0];
        self.ttl -= 1;
        let new = [self.ttl, self.protocol.0];
        self.checksum = U16::new(checksum::update(self.checksum.get(), &old, &new));
        true
    }

    /// The sum that TCP, UDP and SCTP-less checksums over this packet's payload begin with; `len` in bytes of L4.
    #[inline]
    pub fn pseudo(&self, len: u16) -> Sum {
        Sum::pseudo_v4(self.src, self.dst, self.protocol, len)
    }
}

/// What an option is; any byte is one (RFC 791 §3.1: copied flag, class, number).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct OptionKind(pub u8);

impl OptionKind {
    /// End of the list.
    pub const END: Self = Self(0);
    /// One byte of padding.
    pub const NO_OP: Self = Self(1);
    /// Record route.
    pub const RECORD_ROUTE: Self = Self(7);
    /// Timestamp.
    pub const TIMESTAMP: Self = Self(68);
    /// Loose source and record route.
    pub const LOOSE_SOURCE_ROUTE: Self = Self(131);
    /// Strict source and record route.
    pub const STRICT_SOURCE_ROUTE: Self = Self(137);
    /// Router alert (RFC 2113).
    pub const ROUTER_ALERT: Self = Self(148);

    /// Whether the option names the route itself; such packets are refused by default (RFC 7126 §4.3).
    #[inline]
    pub const fn is_source_route(self) -> bool {
        matches!(self, Self::LOOSE_SOURCE_ROUTE | Self::STRICT_SOURCE_ROUTE)
    }
}

/// The options of a header in order, without padding; ends at [`OptionKind::END`], or with one `Err` at a bad length.
#[derive(Clone, Debug)]
pub struct Options<'a>(&'a [u8]);

impl<'a> Options<'a> {
    /// Over the bytes between header and payload.
    #[inline]
    pub const fn new(options: &'a [u8]) -> Self {
        Self(options)
    }
}

impl<'a> Iterator for Options<'a> {
    /// Kind, and the option's data without kind and length.
    type Item = Result<(OptionKind, &'a [u8]), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (&kind, rest) = core::mem::take(&mut self.0).split_first()?;
            match OptionKind(kind) {
                OptionKind::END => return None,
                OptionKind::NO_OP => self.0 = rest,
                kind => {
                    let split = rest.split_first().and_then(|(&len, rest)| {
                        rest.split_at_checked(usize::from(len).checked_sub(2)?)
                    });
                    let Some((data, rest)) = split else { return Some(Err(Error::Option)) };
                    self.0 = rest;
                    return Some(Ok((kind, data)));
                }
            }
        }
    }
}
