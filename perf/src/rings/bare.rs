//! `l2`: a forwarder on the same loops of frames, which swaps the MACs and does nothing else.
//!
//! What it costs is the rings: the copy in, the pool, the staging. The rest of a scenario's figure is the engine.

use arrayvec::ArrayVec;
use millrace_dataplane::driver::looped::LoopQueue;
use millrace_dataplane::driver::{Burst, Queue};
use millrace_xsk::{Pool, TxOffload};

/// A worker that forwards from the first queue to the second and back.
pub struct Forwarder {
    /// Free frames.
    pub pool: Pool,
    /// Towards clients, towards nodes.
    pub queues: [LoopQueue; 2],
}

impl Forwarder {
    /// Carries all that is on offer. Returns the number of packets.
    #[inline(never)]
    pub fn carry(&mut self) -> usize {
        let [up, down] = &mut self.queues;
        let mut received = 0;
        while up.left() > 0 || down.left() > 0 {
            let packets = turn(&mut self.pool, up, down) + turn(&mut self.pool, down, up);
            if packets == 0 {
                break;
            }
            received += packets;
        }
        received
    }
}

#[inline]
fn turn(pool: &mut Pool, from: &mut LoopQueue, to: &mut LoopQueue) -> usize {
    let mut burst: Burst = ArrayVec::new();
    from.receive(pool, &mut burst);
    let received = burst.len();
    if received == 0 {
        return 0;
    }
    for mut frame in burst.drain(..) {
        if let Some(macs) = pool.umem().bytes_mut(&mut frame).first_chunk_mut() {
            swap(macs);
        }
        if let Err(frame) = to.transmit(frame, TxOffload::None) {
            pool.put(frame);
        }
    }
    to.flush(pool);
    received
}

#[inline]
fn swap(macs: &mut [u8; 12]) {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = *macs;
    *macs = [g, h, i, j, k, l, a, b, c, d, e, f];
}

/// What a frame looks like that went through.
pub fn swapped(frame: &[u8]) -> Vec<u8> {
    let mut bytes = frame.to_vec();
    let (to, from) = (bytes[..6].to_vec(), bytes[6..12].to_vec());
    bytes[..6].copy_from_slice(&from);
    bytes[6..12].copy_from_slice(&to);
    bytes
}
