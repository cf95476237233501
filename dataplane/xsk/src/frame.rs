//! The owned token of a packet: who holds it may touch the packet's bytes, nobody else.
//!
//! Decides: ownership. A `Frame` is neither `Copy` nor `Clone`, only this crate makes one, and giving it to a ring
//! consumes it, so two owners of one chunk can not be written down. It has no bytes of its own:
//! [`Umem::bytes`](crate::Umem::bytes) has.

/// Most chunks one packet may take: the kernel sends no more (`MAX_SKB_FRAGS` + 1 = 18), and
/// 18 chunks of 4 KiB hold any IP packet.
pub const MAX_SEGMENTS: usize = 18;

/// One packet in the UMEM: the chunk it starts in, where, how long, and how much follows in further chunks.
///
/// 16 bytes. Dropping one loses its chunks for good, which is a bug: debug builds panic and name the chunk. Give it
/// to a [`Pool`](crate::Pool), a ring, or another thread instead.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a dropped frame is a lost chunk: put it into a Pool or a ring"]
pub struct Frame {
    /// Which UMEM; numbers are never used twice in a process.
    pub(crate) umem: u32,
    /// Chunk index, below the UMEM's frame count.
    pub(crate) chunk: u32,
    /// Bytes from the chunk's start to the packet's; `start + len` is at most the chunk size.
    pub(crate) start: u16,
    /// Bytes of the packet in this chunk.
    pub(crate) len: u16,
    /// Bytes in the following chunks (upper 24 bits) and their number (lower 8); 0 for most packets.
    pub(crate) tail: u32,
}

const _: () = assert!(size_of::<Frame>() == 16);

impl Frame {
    /// Bytes of the packet in its first chunk.
    #[inline]
    pub fn len(&self) -> usize {
        usize::from(self.len)
    }

    /// Whether the first chunk holds no byte of a packet, as in a frame fresh from a pool.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of the whole packet, over all its chunks.
    #[inline]
    pub fn total_len(&self) -> usize {
        self.len() + (self.tail >> 8) as usize
    }

    /// Number of chunks, 1 for any packet that fits one.
    #[inline]
    pub fn segments(&self) -> usize {
        1 + (self.tail & 0xff) as usize
    }

    /// Number of the first chunk, for logs and tests.
    #[inline]
    pub fn chunk(&self) -> u32 {
        self.chunk
    }

    /// Ends the token without the complaint: its chunks are accounted for elsewhere.
    #[inline]
    pub(crate) fn into_custody(self) {
        std::mem::forget(self);
    }
}

#[cfg(debug_assertions)]
impl Drop for Frame {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!(
                "frame of chunk {} lost: put it into a Pool or a ring instead of dropping it",
                self.chunk
            );
        }
    }
}
