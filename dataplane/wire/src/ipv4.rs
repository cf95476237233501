//! IPv4 headers with options (RFC 791, RFC 2474 for the DS field, RFC 3168 for ECN).
//!
//! [`Header::parse`] gives header, options and payload, or says what is wrong; it leaves the checksum to
//! [`Header::checksum_ok`], because a NIC may have checked it, and addresses to the parse stop.

use crate::checksum::{Delta, Sum};
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

/// What a hop does to the checksum: the word of TTL and protocol is less by 0x0100, whatever it was.
pub const HOP: Delta = Delta::of_word(0x0100, 0);

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

    /// Whether the checksum of a header without options is right.
    #[inline]
    pub fn checksum_ok_bare(&self) -> bool {
        let [a, b, c, d, e]: [u32; 5] = zerocopy::transmute!(*self);
        let wide = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        // Eight bytes at a time; each carry goes round (RFC 1071 §2 C).
        let (sum, carry) = wide(a, b).overflowing_add(wide(c, d));
        let (sum, again) = sum.overflowing_add(u64::from(e) + u64::from(carry));
        let sum = sum + u64::from(again);
        // Both halves in the upper one, with the carry into it.
        let sum = (sum.wrapping_add(sum.rotate_left(32)) >> 32) as u32;
        let sum = sum.wrapping_add(sum.rotate_left(16)) >> 16;
        sum == 0xffff
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
        self.ttl -= 1;
        self.checksum = U16::new(HOP.apply(self.checksum.get()));
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    /// `ping -R` of Linux: record-route option, the first 4 bytes of the ICMP message (the total length says so), and 2 of padding.
    const PACKET: [u8; 66] = [
        0x4f, 0x00, 0x00, 0x40, 0x3c, 0x65, 0x40, 0x00, 0x40, 0x01, 0x86, 0x43, 0xc0, 0x00, 0x02,
        0x01, 0xc0, 0x00, 0x02, 0x02, 0x01, 0x07, 0x27, 0x08, 0xc0, 0x00, 0x02, 0x01, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x08, 0x00, 0xb9, 0x65, 0x00, 0x00,
    ];

    #[test]
    fn deconstruct() {
        let (header, options, payload) = Header::parse(&PACKET).unwrap();
        assert_eq!((header.version(), header.header_len(), header.has_options()), (4, 60, true));
        assert_eq!((header.dscp(), header.ecn()), (0, 0));
        assert_eq!((header.total_len(), header.payload_len()), (64, 4));
        assert_eq!(header.id.get(), 0x3c65);
        assert!(header.dont_fragment() && !header.more_fragments() && !header.is_fragment());
        assert_eq!(header.fragment_offset(), 0);
        assert_eq!((header.ttl, header.protocol), (64, Protocol::ICMP));
        assert_eq!(header.checksum.get(), 0x8643);
        assert_eq!((header.src, header.dst), ([192, 0, 2, 1], [192, 0, 2, 2]));
        assert_eq!(header.src_addr(), Addr::from_v4([192, 0, 2, 1]));
        assert_eq!(header.dst_addr(), Addr::from_v4([192, 0, 2, 2]));
        assert_eq!(options, &PACKET[20..60]);
        assert_eq!(payload, [0x08, 0x00, 0xb9, 0x65]);
        assert!(header.checksum_ok(options));
    }

    #[test]
    fn construct() {
        let mut bytes = [0xa5; 66];
        let (header, rest) = Header::view_mut(&mut bytes).unwrap();
        rest.copy_from_slice(&PACKET[20..]);
        header.version_ihl = 0x4f;
        header.tos = 0;
        header.total_len = U16::new(64);
        header.id = U16::new(0x3c65);
        header.flags_offset = U16::new(DONT_FRAGMENT);
        header.ttl = 64;
        header.protocol = Protocol::ICMP;
        header.src = [192, 0, 2, 1];
        header.dst = [192, 0, 2, 2];
        header.fill_checksum(&PACKET[20..60]);
        assert_eq!(bytes, PACKET);
    }

    #[test]
    fn new_makes_a_whole_valid_header() {
        let header = Header::new([192, 0, 2, 1], [192, 0, 2, 2], Protocol::UDP, 64, 3);
        let mut bytes = [0xa5; 23];
        header.put(&mut bytes).unwrap();
        let (parsed, options, payload) = Header::parse(&bytes).unwrap();
        assert!(parsed.checksum_ok(options) && options.is_empty() && parsed.dont_fragment());
        assert_eq!(payload, [0xa5; 3]);
    }

    #[test]
    fn refuse_truncated() {
        for len in 0..64 {
            assert_eq!(Header::parse(&PACKET[..len]).err(), Some(Error::Truncated), "{len} bytes");
        }
        assert!(Header::parse(&PACKET[..64]).is_ok());
    }

    #[test]
    fn refuse_lengths_that_contradict() {
        let parse = |version_ihl: u8, total_len: u8| {
            let mut bytes = PACKET;
            (bytes[0], bytes[3]) = (version_ihl, total_len);
            Header::parse(&bytes).err()
        };
        assert_eq!(parse(0x4f, 64), None);
        assert_eq!(parse(0x4f, 60), None);
        assert_eq!(parse(0x6f, 64), Some(Error::Version));
        assert_eq!(parse(0x44, 64), Some(Error::HeaderLength));
        assert_eq!(parse(0x40, 64), Some(Error::HeaderLength));
        assert_eq!(parse(0x4f, 59), Some(Error::Length));
        assert_eq!(parse(0x45, 19), Some(Error::Length));
        assert_eq!(parse(0x4f, 67), Some(Error::Truncated));
        let (header, _) = Header::view(&PACKET[..20]).unwrap();
        assert_eq!((header.validate(63), header.validate(64)), (Err(Error::Truncated), Ok(())));
    }

    #[test]
    fn know_fragments() {
        let fragment = |flags_offset: u16| {
            let mut header = Header::new([0; 4], [0; 4], Protocol::UDP, 1, 0);
            header.flags_offset = U16::new(flags_offset);
            (
                header.is_fragment(),
                header.more_fragments(),
                header.fragment_offset(),
                header.dont_fragment(),
            )
        };
        assert_eq!(fragment(0x0000), (false, false, 0, false));
        assert_eq!(fragment(0x8000), (false, false, 0, false));
        assert_eq!(fragment(0x4000), (false, false, 0, true));
        assert_eq!(fragment(0x2000), (true, true, 0, false));
        assert_eq!(fragment(0x2001), (true, true, 8, false));
        assert_eq!(fragment(0x1fff), (true, false, 65528, false));
    }

    #[test]
    fn a_hop_keeps_the_checksum_right() {
        let (mut header, options, _) = Header::parse(&PACKET).map(|(h, o, p)| (*h, o, p)).unwrap();
        for ttl in (1..64).rev() {
            assert!(header.decrement_ttl());
            assert_eq!(header.ttl, ttl);
            let mended = header.checksum;
            header.fill_checksum(options);
            assert_eq!(mended, header.checksum, "TTL {ttl}");
        }
        let last = header;
        assert!(!header.decrement_ttl());
        header.ttl = 0;
        assert!(!header.decrement_ttl());
        assert_eq!(header, Header { ttl: 0, ..last });
    }

    #[test]
    fn a_hop_keeps_a_wrong_checksum_wrong() {
        for id in 0..=u16::MAX {
            let mut header = Header::new([192, 0, 2, 1], [192, 0, 2, 2], Protocol::UDP, 64, 0);
            header.id = U16::new(id);
            assert_eq!(header.checksum_ok(&[]), id == 0 || id == 0xffff, "id {id}");
            let before = header.checksum_ok(&[]);
            assert!(header.decrement_ttl());
            assert_eq!(header.checksum_ok(&[]), before, "id {id}");
        }
    }

    #[test]
    fn options_come_in_order_without_padding() {
        let bytes = [1, 131, 7, 4, 10, 0, 0, 1, 148, 4, 0, 0, 68, 2, 0, 7];
        let found: Vec<_> = Options::new(&bytes).map(Result::unwrap).collect();
        let expected: [(OptionKind, &[u8]); 3] = [
            (OptionKind::LOOSE_SOURCE_ROUTE, &[4, 10, 0, 0, 1]),
            (OptionKind::ROUTER_ALERT, &[0, 0]),
            (OptionKind::TIMESTAMP, &[]),
        ];
        assert_eq!(found, expected);
        assert!(found[0].0.is_source_route() && !found[1].0.is_source_route());
        assert!(OptionKind::STRICT_SOURCE_ROUTE.is_source_route());
    }

    #[test]
    fn options_end_at_a_bad_length() {
        for bytes in [&[7][..], &[7, 0], &[7, 1], &[7, 3], &[7, 255, 0, 0]] {
            let found: Vec<_> = Options::new(bytes).collect();
            assert_eq!(found, [Err(Error::Option)], "{bytes:?}");
        }
    }
}
