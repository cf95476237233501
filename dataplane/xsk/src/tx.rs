//! The tx ring: packets to the kernel.
//!
//! Decides: how a frame becomes descriptors, and that none is written which the kernel would refuse, for it never
//! gives a refused descriptor's chunk back (`xskq_cons_read_desc`). Leaves the kick to [`socket`](crate::socket).

use crate::{
    chain::Segment,
    custody::Custody,
    frame::Frame,
    if_xdp::{Descriptor, TxMetadata},
    ring::Producer,
    umem::Umem,
};

/// What the kernel is to do to a packet while sending it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TxOffload {
    /// Nothing.
    #[default]
    None,
    /// Complete the checksum: sum everything from `start`, and put the result at `start + offset`, where the folded
    /// pseudo-header sum stands now (`CHECKSUM_PARTIAL`).
    Checksum {
        /// Bytes from the packet's start to its TCP or UDP header.
        start: u16,
        /// Bytes from there to the checksum field: 16 in TCP, 6 in UDP.
        offset: u16,
    },
}

/// Our end of a tx ring.
#[derive(Debug)]
pub struct Tx {
    pub(crate) ring: Producer<Descriptor>,
    /// Whether a packet may take several descriptors.
    pub(crate) multi_buffer: bool,
    /// Whether a packet may ask for its checksum.
    pub(crate) checksum: bool,
}

impl Tx {
    /// Writes the packet's descriptors. Gives the frame back if the ring has no room, or if it can not be sent here:
    /// empty, a chain without multi-buffer, of another UMEM, or with a checksum request where there is no metadata.
    #[inline]
    pub(crate) fn push(
        &mut self,
        umem: &Umem,
        custody: &mut Custody,
        mut frame: Frame,
        offload: TxOffload,
    ) -> Result<(), Frame> {
        let segments = frame.segments() as u32;
        let sendable = umem.is_ours(&frame)
            && frame.len != 0
            && u32::from(frame.start) >= umem.metadata_len()
            && (segments == 1 || (self.multi_buffer && sendable_chain(umem, &frame)));
        if !sendable || self.ring.reserve(segments) < segments {
            return Err(frame);
        }
        let mut options = 0;
        if let TxOffload::Checksum { start, offset } = offload {
            // The kernel refuses a field beyond the first descriptor (`xsk_skb_metadata`).
            let field_end = usize::from(start) + usize::from(offset) + 2;
            let request = TxMetadata {
                flags: CHECKSUM,
                csum_start: start,
                csum_offset: offset,
                ..TxMetadata::default()
            };
            if !self.checksum
                || field_end > frame.len()
                || !umem.write_metadata(&mut frame, request)
            {
                return Err(frame);
            }
            options = libc::XDP_TX_METADATA;
        }
        let mut at = Segment { chunk: frame.chunk, start: frame.start, len: frame.len };
        frame.into_custody();
        for left in (0..segments).rev() {
            let more = if left > 0 { libc::XDP_PKT_CONTD } else { 0 };
            let addr = umem.address(at.chunk, at.start);
            custody.give(at.chunk);
            self.ring.write(Descriptor { addr, len: u32::from(at.len), options: options | more });
            options = 0;
            if left > 0 {
                at = umem.link(at.chunk);
            }
        }
        Ok(())
    }
}

const CHECKSUM: u64 = libc::XDP_TXMD_FLAGS_CHECKSUM as u64;

/// Whether the kernel takes every further chunk: not empty, and with the metadata's room before it.
fn sendable_chain(umem: &Umem, frame: &Frame) -> bool {
    let mut chunk = frame.chunk;
    (1..frame.segments()).all(|_| {
        let link = umem.link(chunk);
        chunk = link.chunk;
        link.len != 0 && u32::from(link.start) >= umem.metadata_len()
    })
}
