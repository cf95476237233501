//! The rx ring: packets from the kernel.
//!
//! Decides: whether a descriptor is good, in release builds too, and joins the descriptors of a large packet
//! (`XDP_PKT_CONTD`) into one frame. A packet with one bad descriptor is refused as a whole; its good chunks go back
//! to the fill ring. Leaves the bytes alone.

use crate::{
    chain::Chain, custody::Custody, frame::Frame, if_xdp::Descriptor, ring::Consumer, umem::Umem,
};

/// Our end of an rx ring.
#[derive(Debug)]
pub struct Rx {
    ring: Consumer<Descriptor>,
    /// A large packet of which the last descriptor has not come yet.
    open: Open,
}

/// Where in a packet the ring's next descriptor is.
#[derive(Debug)]
enum Open {
    /// At its start.
    No,
    /// In a good one.
    Good(Chain),
    /// In one that is refused.
    Refused,
}

impl Rx {
    pub(crate) fn new(ring: Consumer<Descriptor>) -> Rx {
        Rx { ring, open: Open::No }
    }

    /// Hands over at most `limit` packets. Chunks of refused ones go to `refuse`; a descriptor whose chunk the kernel
    /// had not got yields none. Returns the number of packets and of refused ones.
    #[inline]
    pub(crate) fn receive(
        &mut self,
        umem: &Umem,
        custody: &mut Custody,
        limit: usize,
        mut accept: impl FnMut(Frame),
        mut refuse: impl FnMut(Frame),
    ) -> (usize, u64) {
        let (mut packets, mut refused) = (0, 0);
        for _ in 0..self.ring.peek() {
            if packets == limit {
                break;
            }
            let descriptor = self.ring.read();
            let more = descriptor.options & libc::XDP_PKT_CONTD != 0;
            let segment = segment(umem, custody, descriptor, &mut refuse);
            if !more && matches!(self.open, Open::No) {
                match segment {
                    Some(frame) => {
                        accept(frame);
                        packets += 1;
                    }
                    None => refused += 1,
                }
                continue;
            }
            self.open =
                join(umem, std::mem::replace(&mut self.open, Open::No), segment, &mut refuse);
            if !more {
                match std::mem::replace(&mut self.open, Open::No) {
                    Open::Good(chain) => {
                        accept(chain.into_frame());
                        packets += 1;
                    }
                    Open::Refused | Open::No => refused += 1,
                }
            }
        }
        self.ring.release();
        (packets, refused)
    }

    /// Descriptors in the ring.
    pub(crate) fn occupied(&self) -> u32 {
        self.ring.occupied()
    }

    /// Chunks of a large packet that has not come to its end.
    pub(crate) fn held(&self) -> u32 {
        match &self.open {
            Open::Good(chain) => chain.segments(),
            Open::No | Open::Refused => 0,
        }
    }

    /// Gives up an unfinished packet; the rest of it will be refused.
    pub(crate) fn take_open(&mut self) -> Option<Frame> {
        match std::mem::replace(&mut self.open, Open::Refused) {
            Open::Good(chain) => Some(chain.into_frame()),
            Open::No | Open::Refused => None,
        }
    }
}

/// The frame of one descriptor, if it is good.
#[inline]
fn segment(
    umem: &Umem,
    custody: &mut Custody,
    descriptor: Descriptor,
    refuse: &mut impl FnMut(Frame),
) -> Option<Frame> {
    let (chunk, start) = umem.split(descriptor.addr);
    if !custody.take(chunk) {
        return None;
    }
    let frame = umem.frame_at(chunk as u32, start, descriptor.len);
    if frame.is_none() {
        refuse(umem.fresh(chunk as u32));
    }
    frame
}

/// Adds a descriptor to a large packet.
fn join(umem: &Umem, open: Open, segment: Option<Frame>, refuse: &mut impl FnMut(Frame)) -> Open {
    match (open, segment) {
        (Open::No, Some(frame)) => Open::Good(Chain::of(frame)),
        (Open::Good(mut chain), Some(frame)) => match chain.append(umem, frame) {
            Ok(()) => Open::Good(chain),
            Err(frame) => {
                refuse(frame);
                refuse(chain.into_frame());
                Open::Refused
            }
        },
        (Open::Good(chain), None) => {
            refuse(chain.into_frame());
            Open::Refused
        }
        (Open::Refused, Some(frame)) => {
            refuse(frame);
            Open::Refused
        }
        (Open::No | Open::Refused, None) => Open::Refused,
    }
}
