//! TCP headers (RFC 9293 §3.1).
//!
//! The fixed part, flags and the split into options and payload. Connection state is left to conntrack.

use crate::{Error, View};
use core::fmt;
use core::ops::BitOr;
use zerocopy::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The control bits; any byte is a set of them.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    Default,
    FromBytes,
    IntoBytes,
    KnownLayout,
    Immutable,
    Unaligned,
)]
#[repr(transparent)]
pub struct Flags(pub u8);

impl Flags {
    /// No more data from the sender.
    pub const FIN: Self = Self(0x01);
    /// Synchronize sequence numbers.
    pub const SYN: Self = Self(0x02);
    /// Reset.
    pub const RST: Self = Self(0x04);
    /// Push.
    pub const PSH: Self = Self(0x08);
    /// The acknowledgment field counts.
    pub const ACK: Self = Self(0x10);
    /// The urgent pointer counts.
    pub const URG: Self = Self(0x20);
    /// ECN echo.
    pub const ECE: Self = Self(0x40);
    /// Congestion window reduced.
    pub const CWR: Self = Self(0x80);

    const NAMES: [(Self, &'static str); 8] = [
        (Self::FIN, "FIN"),
        (Self::SYN, "SYN"),
        (Self::RST, "RST"),
        (Self::PSH, "PSH"),
        (Self::ACK, "ACK"),
        (Self::URG, "URG"),
        (Self::ECE, "ECE"),
        (Self::CWR, "CWR"),
    ];

    /// Whether all of `flags` are set.
    #[inline]
    pub const fn contains(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }

    /// Whether any of `flags` is set.
    #[inline]
    pub const fn intersects(self, flags: Self) -> bool {
        self.0 & flags.0 != 0
    }

    /// Whether this opens a connection: SYN without ACK, FIN and RST.
    #[inline]
    pub const fn opens(self) -> bool {
        self.0 & (Self::SYN.0 | Self::ACK.0 | Self::FIN.0 | Self::RST.0) == Self::SYN.0
    }
}

impl BitOr for Flags {
    type Output = Self;

    #[inline]
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// `SYN|ACK`; `none` when empty.
impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (flag, name) in Self::NAMES {
            if self.contains(flag) {
                write!(f, "{separator}{name}")?;
                separator = "|";
            }
        }
        if separator.is_empty() { f.write_str("none") } else { Ok(()) }
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The 20 bytes that every header has.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Header {
    /// Source port.
    pub src_port: U16,
    /// Destination port.
    pub dst_port: U16,
    /// Number of the first byte sent (of the SYN, if set).
    pub sequence: U32,
    /// Number of the next byte awaited, with ACK.
    pub acknowledgment: U32,
    /// Header length in 4-byte words (4 bits), reserved (4 bits).
    pub data_offset: u8,
    /// Control bits.
    pub flags: Flags,
    /// Receive window.
    pub window: U16,
    /// Internet checksum over pseudo-header, header and payload.
    pub checksum: U16,
    /// End of urgent data, with URG.
    pub urgent: U16,
}

const _: () = assert!(size_of::<Header>() == 20);

impl Header {
    /// A header without options and whose checksum is still 0.
    pub const fn new(
        src_port: u16,
        dst_port: u16,
        sequence: u32,
        acknowledgment: u32,
        flags: Flags,
        window: u16,
    ) -> Self {
        Self {
            src_port: U16::new(src_port),
            dst_port: U16::new(dst_port),
            sequence: U32::new(sequence),
            acknowledgment: U32::new(acknowledgment),
            data_offset: 5 << 4,
            flags,
            window: U16::new(window),
            checksum: U16::ZERO,
            urgent: U16::ZERO,
        }
    }

    /// Header, options (0 to 40 bytes) and payload of the segment `bytes`.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<(&Self, &[u8], &[u8]), Error> {
        let (header, _) = Self::view(bytes)?;
        let (head, payload) =
            bytes.split_at_checked(header.header_len()).ok_or(Error::Truncated)?;
        let options = head.get(Self::LEN..).ok_or(Error::HeaderLength)?;
        Ok((header, options, payload))
    }

    /// Bytes of header and options: 20 to 60 in a valid header.
    #[inline]
    pub const fn header_len(&self) -> usize {
        (self.data_offset >> 4) as usize * 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Protocol, Sum};
    use std::string::ToString;

    /// A SYN of Linux from 192.0.2.1 to 192.0.2.2, with its options.
    const PACKET: [u8; 40] = [
        0x9c, 0x41, 0x00, 0x50, 0x19, 0xc4, 0xb2, 0x40, 0x00, 0x00, 0x00, 0x00, 0xa0, 0x02, 0xfa,
        0xf0, 0xdf, 0x6a, 0x00, 0x00, 0x02, 0x04, 0x05, 0xb4, 0x04, 0x02, 0x08, 0x0a, 0x2e, 0xef,
        0x52, 0x18, 0x00, 0x00, 0x00, 0x00, 0x01, 0x03, 0x03, 0x0a,
    ];

    fn pseudo() -> Sum {
        Sum::pseudo_v4([192, 0, 2, 1], [192, 0, 2, 2], Protocol::TCP, 40)
    }

    #[test]
    fn deconstruct() {
        let (header, options, payload) = Header::parse(&PACKET).unwrap();
        assert_eq!((header.src_port.get(), header.dst_port.get()), (40001, 80));
        assert_eq!((header.sequence.get(), header.acknowledgment.get()), (432_321_088, 0));
        assert_eq!((header.header_len(), header.flags), (40, Flags::SYN));
        assert_eq!(
            (header.window.get(), header.checksum.get(), header.urgent.get()),
            (64240, 0xdf6a, 0)
        );
        assert_eq!((options, payload), (&PACKET[20..], &[][..]));
        assert_eq!(pseudo().add_bytes(&PACKET).fold(), 0xffff);
    }

    #[test]
    fn construct() {
        let mut bytes = [0xa5; 40];
        let options =
            Header::new(40001, 80, 432_321_088, 0, Flags::SYN, 64240).put(&mut bytes).unwrap();
        options.copy_from_slice(&PACKET[20..]);
        let (header, _) = Header::view_mut(&mut bytes).unwrap();
        header.data_offset = 10 << 4;
        let sum = pseudo().add_bytes(&bytes);
        let (header, _) = Header::view_mut(&mut bytes).unwrap();
        header.checksum = U16::new(sum.finish());
        assert_eq!(bytes, PACKET);
    }

    #[test]
    fn refuse_truncated() {
        for len in 0..40 {
            assert_eq!(Header::parse(&PACKET[..len]).err(), Some(Error::Truncated), "{len} bytes");
        }
    }

    #[test]
    fn refuse_a_short_header_length() {
        for words in 0..5 {
            let mut bytes = PACKET;
            bytes[12] = words << 4;
            assert_eq!(Header::parse(&bytes).err(), Some(Error::HeaderLength), "{words} words");
        }
        let mut bytes = PACKET;
        bytes[12] = 11 << 4;
        assert_eq!(Header::parse(&bytes).err(), Some(Error::Truncated));
        bytes[12] = 5 << 4;
        assert_eq!(
            Header::parse(&bytes).map(|(_, options, payload)| (options.len(), payload.len())),
            Ok((0, 20))
        );
    }

    #[test]
    fn flags_are_a_set() {
        let flags = Flags::SYN | Flags::ACK;
        assert!(flags.contains(Flags::SYN) && !flags.contains(Flags::SYN | Flags::RST));
        assert!(
            flags.intersects(Flags::SYN | Flags::RST) && !flags.intersects(Flags::RST | Flags::FIN)
        );
        assert_eq!(
            (flags.to_string().as_str(), Flags(0).to_string().as_str()),
            ("SYN|ACK", "none")
        );
        assert_eq!(Flags(0xff).to_string(), "FIN|SYN|RST|PSH|ACK|URG|ECE|CWR");
    }

    #[test]
    fn only_a_bare_syn_opens() {
        assert!(Flags::SYN.opens() && (Flags::SYN | Flags::ECE | Flags::CWR).opens());
        for flag in [Flags::ACK, Flags::RST, Flags::FIN] {
            assert!(!(Flags::SYN | flag).opens() && !flag.opens(), "{flag}");
        }
    }
}
