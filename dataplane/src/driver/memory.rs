//! The driver for tests: two queues in process memory.
//!
//! Frames are put into a wire by [`MemoryQueue::offer`] and what the pipeline sends is taken out by
//! [`MemoryQueue::sent`]. Nothing is copied but on those two calls.

use std::collections::VecDeque;
use std::sync::Arc;

use millrace_xsk::{Frame, Pool, TxOffload, Umem};

use super::{Burst, Queue, QueueStatistics};

/// One queue whose two ends are lists in memory.
pub struct MemoryQueue {
    umem: Arc<Umem>,
    incoming: VecDeque<Frame>,
    outgoing: VecDeque<(Frame, TxOffload)>,
    capacity: usize,
    checksum_offload: bool,
}

/// A frame that was sent: its bytes, all segments in one, and what was left to do to its checksum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// From the first byte of the Ethernet header.
    pub bytes: Vec<u8>,
    /// As the pipeline asked for it.
    pub offload: TxOffload,
}

impl MemoryQueue {
    /// A queue that takes up to `capacity` frames before `transmit` says full.
    pub fn new(umem: Arc<Umem>, capacity: usize) -> MemoryQueue {
        MemoryQueue {
            umem,
            incoming: VecDeque::with_capacity(capacity),
            outgoing: VecDeque::with_capacity(capacity),
            capacity,
            checksum_offload: false,
        }
    }

    /// The same queue, claiming that it completes checksums (it hands the request on to who takes the frames out).
    #[must_use]
    pub fn with_checksum_offload(mut self) -> MemoryQueue {
        self.checksum_offload = true;
        self
    }

    /// Copies `bytes` into frames of `pool` and queues it for receiving. A packet longer than a chunk becomes a chain. False when the pool has not the
    /// chunks.
    pub fn offer(&mut self, pool: &mut Pool, bytes: &[u8]) -> bool {
        let Some(frame) = self.umem.store(bytes, pool) else { return false };
        self.incoming.push_back(frame);
        true
    }

    /// Queues a frame for receiving as it is.
    pub fn offer_frame(&mut self, frame: Frame) {
        self.incoming.push_back(frame);
    }

    /// Takes what the pipeline has sent, oldest first, and gives the frames back to `pool`.
    pub fn sent(&mut self, pool: &mut Pool) -> Vec<Sent> {
        let umem = &self.umem;
        self.outgoing
            .drain(..)
            .map(|(frame, offload)| {
                let mut bytes = Vec::with_capacity(frame.total_len());
                umem.for_each_segment(&frame, |segment| bytes.extend_from_slice(segment));
                pool.put(frame);
                Sent { bytes, offload }
            })
            .collect()
    }

    /// Takes one frame that the pipeline has sent, as it is.
    pub fn take_frame(&mut self) -> Option<(Frame, TxOffload)> {
        self.outgoing.pop_front()
    }

    /// How many frames lie in the two lists.
    pub fn in_flight(&self) -> usize {
        self.incoming.len() + self.outgoing.len()
    }
}

impl Drop for MemoryQueue {
    /// Frames still in the lists end here, knowingly.
    fn drop(&mut self) {
        let outgoing = self.outgoing.drain(..).map(|(frame, _)| frame);
        drop(Pool::new(&self.umem, self.incoming.drain(..).chain(outgoing).collect()));
    }
}

impl Queue for MemoryQueue {
    fn receive(&mut self, _pool: &mut Pool, burst: &mut Burst) {
        while !burst.is_full() {
            match self.incoming.pop_front() {
                Some(frame) => burst.push(frame),
                None => break,
            }
        }
    }

    fn transmit(&mut self, frame: Frame, offload: TxOffload) -> Result<(), Frame> {
        if self.outgoing.len() >= self.capacity {
            return Err(frame);
        }
        self.outgoing.push_back((frame, offload));
        Ok(())
    }

    fn flush(&mut self, _pool: &mut Pool) {}

    fn supports_checksum_offload(&self) -> bool {
        self.checksum_offload
    }

    fn statistics(&self) -> QueueStatistics {
        QueueStatistics::default()
    }
}
