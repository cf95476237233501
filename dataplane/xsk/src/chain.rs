//! Packets larger than a chunk: one token that owns a chain of chunks, like an mbuf chain.
//!
//! Decides: where the links are, beside the UMEM and not in the packets, so that a one-chunk packet pays nothing. Each
//! chunk's link says where the packet goes on: chunk, start, length.

use std::sync::atomic::Ordering::Relaxed;

use crate::{
    frame::{Frame, MAX_SEGMENTS},
    pool::Pool,
    umem::Umem,
};

/// The following chunk of a chain: where the packet goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) chunk: u32,
    pub(crate) start: u16,
    pub(crate) len: u16,
}

fn pack(segment: Segment) -> u64 {
    u64::from(segment.chunk) << 32 | u64::from(segment.start) << 16 | u64::from(segment.len)
}

fn unpack(link: u64) -> Segment {
    Segment { chunk: (link >> 32) as u32, start: (link >> 16) as u16, len: link as u16 }
}

impl Umem {
    /// Every chunk's bytes of the packet, in order.
    ///
    /// # Panics
    /// If the frame is of another UMEM.
    pub fn segments<'a>(&'a self, frame: &'a Frame) -> Segments<'a> {
        self.own(frame);
        let first = Segment { chunk: frame.chunk, start: frame.start, len: frame.len };
        Segments { umem: self, frame, next: first, left: frame.segments() }
    }

    /// Calls `each` with every chunk's bytes of the packet, in order.
    ///
    /// # Panics
    /// If the frame is of another UMEM.
    pub fn for_each_segment(&self, frame: &Frame, each: impl FnMut(&[u8])) {
        self.segments(frame).for_each(each);
    }

    /// Cuts the packet to its first `len` bytes; chunks that hold none of them any more go to the pool.
    ///
    /// False, and nothing changed, if the packet is shorter.
    #[must_use]
    pub fn truncate(&self, frame: &mut Frame, len: usize, pool: &mut Pool) -> bool {
        self.own(frame);
        if len > frame.total_len() {
            return false;
        }
        if frame.tail == 0 || len <= frame.len() {
            frame.len = len as u16;
            self.cut(frame, 0, 0, pool);
            return true;
        }
        let mut extra = 0;
        let mut left = len - frame.len();
        let mut at = frame.chunk;
        while left > 0 {
            let mut link = self.link(at);
            link.len = usize::from(link.len).min(left) as u16;
            left -= usize::from(link.len);
            self.set_link(at, link);
            at = link.chunk;
            extra += 1;
        }
        self.cut(frame, extra, (len - frame.len()) as u32, pool);
        true
    }

    /// Keeps `extra` chunks after the first, holding `rest` bytes; gives the others to the pool.
    fn cut(&self, frame: &mut Frame, extra: usize, rest: u32, pool: &mut Pool) {
        let chunks = frame.segments() - 1;
        let mut at = frame.chunk;
        for index in 0..chunks {
            let link = self.link(at);
            if index >= extra {
                pool.put(self.fresh(link.chunk));
            }
            at = link.chunk;
        }
        frame.tail = rest << 8 | extra as u32;
    }

    /// A new frame (a chain, if need be) with a copy of `packet`. None if the pool has not the chunks, or the packet
    /// is longer than [`MAX_SEGMENTS`] of them hold.
    pub fn store(&self, packet: &[u8], pool: &mut Pool) -> Option<Frame> {
        let needed = packet.len().div_ceil(self.frame_capacity()).max(1);
        if needed > MAX_SEGMENTS || needed > pool.len() {
            return None;
        }
        let (first, rest) = packet.split_at(packet.len().min(self.frame_capacity()));
        let mut chain = Chain::of(self.filled(first, pool)?);
        for part in rest.chunks(self.frame_capacity()) {
            let next = self.filled(part, pool)?;
            let _ = chain.append(self, next);
        }
        Some(chain.into_frame())
    }

    fn filled(&self, part: &[u8], pool: &mut Pool) -> Option<Frame> {
        let mut frame = pool.get()?;
        frame.len = part.len() as u16;
        self.bytes_mut(&mut frame).copy_from_slice(part);
        Some(frame)
    }

    #[inline]
    pub(crate) fn link(&self, chunk: u32) -> Segment {
        unpack(self.links[chunk as usize].load(Relaxed))
    }

    #[inline]
    pub(crate) fn set_link(&self, chunk: u32, segment: Segment) {
        self.links[chunk as usize].store(pack(segment), Relaxed);
    }
}

/// A packet being put together from chunks.
#[derive(Debug)]
pub(crate) struct Chain {
    head: Frame,
    last: u32,
}

impl Chain {
    #[inline]
    pub(crate) fn of(head: Frame) -> Chain {
        let last = head.chunk;
        Chain { head, last }
    }

    /// Adds a one-chunk frame at the end; gives it back if the chain is as long as a packet may be.
    #[inline]
    pub(crate) fn append(&mut self, umem: &Umem, next: Frame) -> Result<(), Frame> {
        if self.head.segments() >= MAX_SEGMENTS {
            return Err(next);
        }
        umem.set_link(self.last, Segment { chunk: next.chunk, start: next.start, len: next.len });
        self.last = next.chunk;
        self.head.tail += u32::from(next.len) << 8 | 1;
        next.into_custody();
        Ok(())
    }

    pub(crate) fn segments(&self) -> u32 {
        self.head.segments() as u32
    }

    #[inline]
    pub(crate) fn into_frame(self) -> Frame {
        self.head
    }
}

/// The chunks of one packet; see [`Umem::segments`].
#[derive(Debug)]
pub struct Segments<'a> {
    umem: &'a Umem,
    frame: &'a Frame,
    next: Segment,
    left: usize,
}

impl<'a> Iterator for Segments<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        self.left = self.left.checked_sub(1)?;
        let Segment { chunk, start, len } = self.next;
        if self.left > 0 {
            self.next = self.umem.link(chunk);
        }
        debug_assert!(self.umem.is_ours(self.frame));
        // SAFETY: the segment is the frame's first or was linked by `Chain::append` from a frame of this UMEM, so it
        // is in bounds; the chain's only token is borrowed for 'a.
        Some(unsafe { std::slice::from_raw_parts(self.umem.at(chunk, start), usize::from(len)) })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::umem::UmemConfig;

    fn pool(frames: u32) -> Pool {
        let config = UmemConfig { frames, chunk_size: 2048, ..UmemConfig::default() };
        let (umem, frames) = Umem::new(&config).unwrap();
        Pool::new(&umem, frames)
    }

    fn read(umem: &Umem, frame: &Frame) -> Vec<u8> {
        umem.segments(frame).flatten().copied().collect()
    }

    #[test]
    fn a_packet_longer_than_the_pool_or_the_longest_chain_is_not_stored() {
        let mut pool = pool(20);
        let umem = pool.umem().clone();
        let capacity = umem.frame_capacity();
        let longest = umem.store(&vec![7; MAX_SEGMENTS * capacity], &mut pool).unwrap();
        assert_eq!((longest.segments(), pool.len()), (MAX_SEGMENTS, 20 - MAX_SEGMENTS));
        assert_eq!(umem.store(&vec![7; 3 * capacity], &mut pool), None);
        pool.put(longest);
        assert_eq!(umem.store(&vec![7; MAX_SEGMENTS * capacity + 1], &mut pool), None);
        assert_eq!(pool.len(), 20);
    }

    proptest! {
        /// The model is the packet as one byte string.
        #[test]
        fn what_is_stored_is_read_back_and_cut_like_one_string(
            packet in prop::collection::vec(any::<u8>(), 0..10_000),
            cuts in prop::collection::vec(0..11_000_usize, 0..5),
        ) {
            let mut pool = pool(8);
            let umem = pool.umem().clone();
            let mut model = packet.clone();
            let mut frame = umem.store(&packet, &mut pool).unwrap();
            prop_assert_eq!(read(&umem, &frame), model.clone());
            for cut in cuts {
                let fits = cut <= model.len();
                prop_assert_eq!(umem.truncate(&mut frame, cut, &mut pool), fits);
                if fits {
                    model.truncate(cut);
                }
                prop_assert_eq!(read(&umem, &frame), model.clone());
                prop_assert_eq!(frame.total_len(), model.len());
                prop_assert_eq!(frame.segments(), model.len().div_ceil(umem.frame_capacity()).max(1));
                prop_assert_eq!(pool.len() + frame.segments(), 8);
            }
            pool.put(frame);
            prop_assert_eq!(pool.len(), 8);
        }
    }
}
