//! The driver for benchmarks: a loop of prebuilt frames in plain memory, copied into frames of the pool as a NIC would write them.
//!
//! What DPDK's `net_pcap` does with `infinite_rx`: per packet one frame off the pool, one copy of the packet into it, and one back
//! on the pool when it was sent. Whatever else a packet costs is the engine's. Nothing is allocated per packet, nothing is asked of
//! the kernel. [`Worker::carry`] stands here, beside its queue, so that the pipeline is compiled for it in this crate, as it
//! is for AF_XDP.
//!
//! Cost on a packet of 64 bytes: the copy, about ten instructions, and a pop and a push on each of two lists.

use std::sync::Arc;

use arrayvec::ArrayVec;
use millrace_xsk::{Frame, Pool, TxOffload, Umem};

use super::{BURST, Burst, Queue};
use crate::clock::{self, Nanos};
use crate::worker::Worker;

/// Bytes of a cache line.
const LINE: usize = 64;
/// Lines of a loop that stays in the cache: 256 KiB.
const NEAR: usize = 4096;
/// Frames that may be staged between two flushes.
const STAGED: usize = 4 * BURST;

/// A cache line of packet bytes.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Line([u8; LINE]);

/// Where a packet is: its first line, its bytes.
#[derive(Clone, Copy, Debug)]
struct Place {
    line: u32,
    len: u16,
}

/// Packets one after the other, each at the start of a cache line.
#[derive(Clone, Debug, Default)]
pub struct Frames {
    lines: Vec<Line>,
    places: Vec<Place>,
}

impl Frames {
    /// Appends a packet.
    pub fn push(&mut self, bytes: &[u8]) {
        self.places.push(Place { line: self.lines.len() as u32, len: bytes.len() as u16 });
        self.lines.extend(bytes.chunks(LINE).map(|chunk| {
            let mut line = [0; LINE];
            line[..chunk.len()].copy_from_slice(chunk);
            Line(line)
        }));
    }

    /// Number of packets.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// A copy of one packet (cold). Empty when there is no such packet.
    pub fn get(&self, index: usize) -> Vec<u8> {
        let Some(place) = self.places.get(index) else { return Vec::new() };
        let mut bytes = vec![0; usize::from(place.len)];
        self.copy(*place, &mut bytes);
        bytes
    }

    /// Removes all packets.
    pub fn clear(&mut self) {
        self.lines.clear();
        self.places.clear();
    }

    /// One line, as most packets are, or one after the other: no call of `memcpy`, whose instructions differ from machine to machine.
    #[inline]
    fn copy(&self, place: Place, to: &mut [u8]) {
        let lines = self.lines.get(place.line as usize..).unwrap_or_default();
        match (<&mut [u8; LINE]>::try_from(&mut *to), lines.first()) {
            (Ok(to), Some(line)) => *to = line.0,
            _ => copy_long(lines, to),
        }
    }
}

#[inline(never)]
fn copy_long(lines: &[Line], to: &mut [u8]) {
    for (to, line) in to.chunks_mut(LINE).zip(lines) {
        match <&mut [u8; LINE]>::try_from(&mut *to) {
            Ok(to) => *to = line.0,
            Err(_) => to.copy_from_slice(&line.0[..to.len()]),
        }
    }
}

/// One queue that receives the packets of a loop over and over, and ends those it sends.
pub struct LoopQueue {
    umem: Arc<Umem>,
    frames: Arc<Frames>,
    at: usize,
    left: usize,
    staged: ArrayVec<Frame, STAGED>,
    kept: Option<Frames>,
}

impl LoopQueue {
    /// A queue that receives nothing until [`LoopQueue::load`] and [`LoopQueue::offer`].
    pub fn new(umem: Arc<Umem>) -> LoopQueue {
        LoopQueue {
            umem,
            frames: Arc::new(Frames::default()),
            at: 0,
            left: 0,
            staged: ArrayVec::new(),
            kept: None,
        }
    }

    /// Puts a loop in place, to be received from its beginning. Nothing is on offer after it.
    pub fn load(&mut self, frames: Arc<Frames>) {
        self.frames = frames;
        (self.at, self.left) = (0, 0);
    }

    /// Lets `packets` more packets be received, going on where the last one was.
    pub fn offer(&mut self, packets: usize) {
        self.left += if self.frames.is_empty() { 0 } else { packets };
    }

    /// Packets that are still to be received.
    pub fn left(&self) -> usize {
        self.left
    }

    /// From now on copies of the packets sent are kept, or not.
    pub fn keep(&mut self, keep: bool) {
        self.kept = keep.then(Frames::default);
    }

    /// What was sent since [`LoopQueue::keep`] or the last call of this.
    pub fn take_kept(&mut self) -> Frames {
        self.kept.as_mut().map(std::mem::take).unwrap_or_default()
    }

    #[cold]
    fn keep_staged(&mut self) {
        let Some(kept) = &mut self.kept else { return };
        for frame in &self.staged {
            let mut bytes = Vec::with_capacity(frame.total_len());
            self.umem.for_each_segment(frame, |segment| bytes.extend_from_slice(segment));
            kept.push(&bytes);
        }
    }
}

impl Drop for LoopQueue {
    /// Frames that were staged and not flushed end here, knowingly.
    fn drop(&mut self) {
        drop(Pool::new(&self.umem, self.staged.drain(..).collect()));
    }
}

impl Queue for LoopQueue {
    #[inline]
    fn receive(&mut self, pool: &mut Pool, burst: &mut Burst) {
        let count = burst.remaining_capacity().min(self.left);
        let (mut taken, mut at) = (0, self.at);
        let frames: &Frames = &self.frames;
        let umem: &Umem = &self.umem;
        while taken < count
            && let Some(place) = frames.places.get(at)
            && let Some(mut frame) = pool.get()
        {
            taken += 1;
            at = if at + 1 == frames.places.len() { 0 } else { at + 1 };
            if umem.set_len(&mut frame, usize::from(place.len)) {
                frames.copy(*place, umem.bytes_mut(&mut frame));
                burst.push(frame);
            } else {
                // Longer than a chunk: not for this driver. The packet is left out.
                pool.put(frame);
            }
        }
        self.left -= taken;
        self.at = at;
        if frames.lines.len() > NEAR {
            // A NIC has written the next ones into the cache by the time that they are looked for.
            let next = frames.places.iter().skip(at).take(BURST);
            next.filter_map(|place| frames.lines.get(place.line as usize))
                .for_each(|line| millrace_xsk::prefetch(&line.0));
        }
    }

    #[inline]
    fn transmit(&mut self, frame: Frame, _offload: TxOffload) -> Result<(), Frame> {
        self.staged.try_push(frame).map_err(|full| full.element())
    }

    #[inline]
    fn flush(&mut self, pool: &mut Pool) {
        if self.kept.is_some() {
            self.keep_staged();
        }
        for frame in self.staged.drain(..) {
            pool.put(frame);
        }
    }
}

/// What time it is for a worker that carries a loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Time {
    /// The engine's clock, read once a turn.
    Real,
    /// Starts here and passes by so much a turn: every run does the same.
    Made {
        /// Now.
        now: Nanos,
        /// Between two turns.
        step: Nanos,
    },
}

impl Time {
    #[inline]
    fn next(&mut self) -> Nanos {
        match self {
            Time::Real => clock::now(),
            Time::Made { now, step } => {
                *now += *step;
                *now
            }
        }
    }
}

impl Worker<LoopQueue> {
    /// Turns, as [`Worker::run`] does, until all that is on offer has been received. Returns the number of packets.
    #[inline(never)]
    pub fn carry(&mut self, time: &mut Time) -> usize {
        self.state.quiesce();
        let mut received = 0;
        while self.queues.iter().any(|queue| queue.left > 0) {
            let now = time.next();
            match self.turn(now) {
                // No frame was free: more turns would not change that.
                0 => break,
                packets => received += packets,
            }
        }
        self.epoch.idle();
        self.state.idle();
        received
    }
}
