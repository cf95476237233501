//! SCTP common header and chunks (RFC 9260 §3).
//!
//! The checksum is CRC32c over the whole packet with the field zero, sent least significant byte first (RFC 9260 appendix A);
//! there is no pseudo-header, so only a port change touches it.

use crate::{Crc32c, Error, View};
use zerocopy::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, little_endian};

/// The 12 bytes of the common header.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Header {
    /// Source port.
    pub src_port: U16,
    /// Destination port.
    pub dst_port: U16,
    /// Proves that the sender belongs to the association; 0 in INIT.
    pub verification_tag: U32,
    /// CRC32c; the only little-endian field of the crate.
    pub checksum: little_endian::U32,
}

const _: () = assert!(size_of::<Header>() == 12);

impl Header {
    /// A header whose checksum is still 0.
    pub const fn new(src_port: u16, dst_port: u16, verification_tag: u32) -> Self {
        Self {
            src_port: U16::new(src_port),
            dst_port: U16::new(dst_port),
            verification_tag: U32::new(verification_tag),
            checksum: little_endian::U32::ZERO,
        }
    }

    /// Header and chunks of the packet `bytes`.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<(&Self, Chunks<'_>), Error> {
        let (header, rest) = Self::view(bytes)?;
        Ok((header, Chunks(rest)))
    }

    /// The checksum's start: this header with the field as zero. Add all that follows it and take [`Crc32c::finish`].
    #[inline]
    pub fn crc(&self) -> Crc32c {
        let zeroed = Self { checksum: little_endian::U32::ZERO, ..*self };
        Crc32c::new().add_bytes(zeroed.as_bytes())
    }
}

/// Kind of chunk; any byte is one.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(transparent)]
pub struct ChunkType(pub u8);

impl ChunkType {
    /// Payload data.
    pub const DATA: Self = Self(0);
    /// Opens an association; alone in its packet.
    pub const INIT: Self = Self(1);
    /// Answers INIT.
    pub const INIT_ACK: Self = Self(2);
    /// Selective acknowledgment.
    pub const SACK: Self = Self(3);
    /// Heartbeat.
    pub const HEARTBEAT: Self = Self(4);
    /// Answers a heartbeat.
    pub const HEARTBEAT_ACK: Self = Self(5);
    /// Ends the association at once.
    pub const ABORT: Self = Self(6);
    /// Begins an orderly end.
    pub const SHUTDOWN: Self = Self(7);
    /// Answers SHUTDOWN.
    pub const SHUTDOWN_ACK: Self = Self(8);
    /// Operation error.
    pub const ERROR: Self = Self(9);
    /// Third packet of the handshake.
    pub const COOKIE_ECHO: Self = Self(10);
    /// Fourth packet of the handshake.
    pub const COOKIE_ACK: Self = Self(11);
    /// Ends an orderly end.
    pub const SHUTDOWN_COMPLETE: Self = Self(14);
}

/// The 4 bytes that every chunk begins with.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct ChunkHeader {
    /// What the chunk is.
    pub kind: ChunkType,
    /// Depends on the type.
    pub flags: u8,
    /// Bytes of this header and the data, without padding to 4.
    pub len: U16,
}

const _: () = assert!(size_of::<ChunkHeader>() == 4);

/// The chunks of a packet in order; ends with one `Err` at a bad length.
#[derive(Clone, Debug)]
pub struct Chunks<'a>(&'a [u8]);

impl<'a> Chunks<'a> {
    /// Over the bytes behind the common header.
    #[inline]
    pub const fn new(chunks: &'a [u8]) -> Self {
        Self(chunks)
    }

    /// Kind of the first chunk, which tells what the packet does to the association; `None` when there is no whole chunk header.
    #[inline]
    pub fn first(&self) -> Option<ChunkType> {
        ChunkHeader::view(self.0).ok().map(|(chunk, _)| chunk.kind)
    }
}

impl<'a> Iterator for Chunks<'a> {
    /// Chunk header, and its data without padding.
    type Item = Result<(&'a ChunkHeader, &'a [u8]), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let bytes = core::mem::take(&mut self.0);
        if bytes.is_empty() {
            return None;
        }
        Some(ChunkHeader::view(bytes).and_then(|(chunk, rest)| {
            let len = usize::from(chunk.len.get());
            let data = rest
                .get(..len.checked_sub(ChunkHeader::LEN).ok_or(Error::Option)?)
                .ok_or(Error::Truncated)?;
            // The last chunk's padding may be missing.
            self.0 = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
            Ok((chunk, data))
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    /// A SACK and a DATA chunk of 5 bytes of user data, padded.
    const PACKET: [u8; 52] = [
        0x9c, 0x40, 0x0f, 0x1c, 0x11, 0x22, 0x33, 0x44, 0xee, 0x45, 0xf3, 0x31, 0x03, 0x00, 0x00,
        0x10, 0x00, 0x00, 0x00, 0x05, 0x00, 0x00, 0x03, 0xe8, 0x00, 0x00, 0x00, 0x00, 0x00, 0x03,
        0x00, 0x15, 0x00, 0x00, 0x00, 0x07, 0x00, 0x01, 0x00, 0x02, 0x00, 0x00, 0x00, 0x00, 0x6d,
        0x69, 0x6c, 0x6c, 0x72, 0x00, 0x00, 0x00,
    ];

    #[test]
    fn deconstruct() {
        let (header, chunks) = Header::parse(&PACKET).unwrap();
        assert_eq!((header.src_port.get(), header.dst_port.get()), (40000, 3868));
        assert_eq!(header.verification_tag.get(), 0x1122_3344);
        assert_eq!(header.checksum.get(), 0x31f3_45ee);
        assert_eq!(chunks.first(), Some(ChunkType::SACK));
        let found: Vec<_> = chunks
            .map(|chunk| chunk.map(|(header, data)| (header.kind, data.len())).unwrap())
            .collect();
        assert_eq!(found, [(ChunkType::SACK, 12), (ChunkType::DATA, 17)]);
        assert_eq!(header.crc().add_bytes(&PACKET[12..]).finish(), header.checksum.get());
    }

    #[test]
    fn construct() {
        let mut bytes = [0xa5; 52];
        let rest = Header::new(40000, 3868, 0x1122_3344).put(&mut bytes).unwrap();
        rest.copy_from_slice(&PACKET[12..]);
        let (header, rest) = Header::view_mut(&mut bytes).unwrap();
        header.checksum = little_endian::U32::new(header.crc().add_bytes(rest).finish());
        assert_eq!(bytes, PACKET);
    }

    #[test]
    fn refuse_truncated() {
        for len in 0..Header::LEN {
            assert_eq!(
                Header::parse(&PACKET[..len]).map(|_| ()),
                Err(Error::Truncated),
                "{len} bytes"
            );
        }
        for len in 13..49 {
            let (_, chunks) = Header::parse(&PACKET[..len]).unwrap();
            let whole = if len < 28 { 0 } else { 1 };
            let rest: &[_] = if len == 28 { &[] } else { &[Err(Error::Truncated)] };
            let found: Vec<_> = chunks.map(|chunk| chunk.map(|_| ())).collect();
            assert_eq!(
                (found.iter().filter(|c| c.is_ok()).count(), &found[whole..]),
                (whole, rest),
                "{len} bytes"
            );
        }
    }

    #[test]
    fn the_last_chunk_needs_no_padding() {
        assert_eq!(Header::parse(&PACKET[..49]).unwrap().1.filter(Result::is_ok).count(), 2);
    }

    #[test]
    fn chunks_end_at_a_bad_length() {
        for len in 0..4 {
            let bytes = [1, 0, 0, len, 0, 0, 0, 0];
            let found: Vec<_> = Chunks::new(&bytes).collect();
            assert_eq!(found, [Err(Error::Option)], "length {len}");
        }
        assert_eq!(Chunks::new(&[1, 0, 0]).first(), None);
        assert_eq!(Chunks::new(&[]).next(), None);
    }
}
