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
