//! How the pipeline meets the rings: one [`Queue`] of one interface, driven by one worker.
//!
//! Four drivers stand behind the trait: `xsk` (AF_XDP), `memory` (rings in process memory, for tests), `looped` (frames in
//! memory over and over, for benchmarks) and `pcap` (files in, files out). The pipeline is generic over it, so that no packet pays for a virtual call.

use std::os::fd::BorrowedFd;

use arrayvec::ArrayVec;
use millrace_xsk::{Frame, Pool, TxOffload};

pub mod looped;
pub mod memory;
pub mod pcap;
pub mod xsk;

/// The most frames that one receive call hands over.
pub const BURST: usize = 64;

/// Frames in packet order, as they came off one queue.
pub type Burst = ArrayVec<Frame, BURST>;

/// One queue of one interface.
pub trait Queue {
    /// Takes up to the room that is left in `burst` off the rx ring, and refills the fill ring from `pool`.
    fn receive(&mut self, pool: &mut Pool, burst: &mut Burst);

    /// Stages a frame for sending; nothing leaves before [`Queue::flush`].
    ///
    /// # Errors
    /// Gives the frame back when the tx ring is full.
    fn transmit(&mut self, frame: Frame, offload: TxOffload) -> Result<(), Frame>;

    /// Sends what was staged (one kick), and gives the frames that have left back to `pool`.
    fn flush(&mut self, pool: &mut Pool);

    /// Whether [`TxOffload::Checksum`] is carried out; if not, the pipeline completes checksums itself.
    fn supports_checksum_offload(&self) -> bool {
        false
    }

    /// What the driver counts below the pipeline.
    fn statistics(&self) -> QueueStatistics {
        QueueStatistics::default()
    }

    /// What to sleep on while idle.
    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Whether no frame will come any more: a file that was read to its end.
    fn finished(&self) -> bool {
        false
    }
}

/// What a driver or its kernel threw away before the pipeline saw it, or after. Frames, since the queue was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueStatistics {
    /// Received by the driver and refused: a descriptor out of bounds, a frame too big.
    pub rx_invalid: u64,
    /// Dropped by the kernel for another reason than the two below (`XDP_STATISTICS` `rx_dropped`).
    pub rx_dropped: u64,
    /// Dropped because the rx ring was full.
    pub rx_ring_full: u64,
    /// Times the kernel found no frame in the fill ring.
    pub fill_ring_empty: u64,
    /// Descriptors that the kernel refused to send.
    pub tx_invalid: u64,
    /// Times the kernel found nothing to send.
    pub tx_ring_empty: u64,
}
