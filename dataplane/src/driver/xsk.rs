//! The driver for real interfaces: one AF_XDP socket on one queue.
//!
//! A burst costs no system call while packets come (copy mode: one `sendto` to send what was staged).

use std::os::fd::{AsFd, BorrowedFd};

use millrace_xsk::{Frame, Holdings, Pool, Socket, TxOffload};

use super::{Burst, Queue, QueueStatistics};

/// One queue of a network device.
pub struct XskQueue {
    socket: Socket,
}

impl XskQueue {
    /// Drives `socket`, keeping `fill` frames of the pool in its fill ring from now on, so that no packet waits for the
    /// first turn.
    pub fn new(mut socket: Socket, fill: u32, pool: &mut Pool) -> XskQueue {
        socket.set_fill_level(fill);
        socket.refill(pool);
        XskQueue { socket }
    }

    /// Whether the driver hands frames over without a copy.
    pub fn is_zero_copy(&self) -> bool {
        self.socket.is_zero_copy()
    }

    /// Where its frames are.
    pub fn holdings(&self) -> Holdings {
        self.socket.holdings()
    }
}

impl AsFd for XskQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Queue for XskQueue {
    #[inline]
    fn receive(&mut self, pool: &mut Pool, burst: &mut Burst) {
        self.socket.receive(burst);
        // Also when nothing came: the pool may have been empty the last time, and without frames nothing ever comes.
        self.socket.refill(pool);
    }

    #[inline]
    fn transmit(&mut self, frame: Frame, offload: TxOffload) -> Result<(), Frame> {
        self.socket.transmit(frame, offload)
    }

    #[inline]
    fn flush(&mut self, pool: &mut Pool) {
        self.socket.flush();
        self.socket.reap(pool);
    }

    #[inline]
    fn supports_checksum_offload(&self) -> bool {
        self.socket.has_checksum_offload()
    }

    fn statistics(&self) -> QueueStatistics {
        let Ok(of) = self.socket.statistics() else { return QueueStatistics::default() };
        QueueStatistics {
            rx_invalid: of.rx_invalid_descriptors + of.refused,
            rx_dropped: of.rx_dropped,
            rx_ring_full: of.rx_ring_full,
            fill_ring_empty: of.rx_fill_ring_empty,
            tx_invalid: of.tx_invalid_descriptors,
            tx_ring_empty: of.tx_ring_empty,
        }
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }
}
