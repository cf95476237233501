//! What a worker counts, and has to say at its end.

use crate::latency::Times;
use crate::receive::{Detector, Tally};
use crate::ring::Statistics;
use std::io;
use std::time::Duration;

/// Packets of a stream that a worker sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sent {
    /// Due.
    pub asked: u64,
    /// Handed to the ring.
    pub queued: u64,
    /// Given back by the kernel.
    pub completed: u64,
    /// Bytes queued, with FCS.
    pub bytes: u64,
}

impl Sent {
    /// Adds another's counts.
    pub fn add(&mut self, other: &Self) {
        self.asked += other.asked;
        self.queued += other.queued;
        self.completed += other.completed;
        self.bytes += other.bytes;
    }

    /// What came since `before`.
    pub fn since(&self, before: &Self) -> Self {
        Self {
            asked: self.asked - before.asked,
            queued: self.queued - before.queued,
            completed: self.completed - before.completed,
            bytes: self.bytes - before.bytes,
        }
    }
}

/// Packets of one stream in a row: counted in registers, and added to its counts at the row's end.
#[derive(Clone, Copy, Default)]
pub struct Row {
    /// Whose they are.
    pub stream: u32,
    /// How many.
    pub packets: u64,
    /// Their bytes, without FCS.
    pub bytes: u64,
}

impl Row {
    /// None of `stream`'s yet.
    #[inline]
    pub fn of(stream: u32) -> Self {
        Self { stream, packets: 0, bytes: 0 }
    }
}

/// What isn't of the run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Extra {
    /// Frames received, of the run or not.
    pub frames: u64,
    /// Their bytes, with FCS.
    pub bytes: u64,
    /// Not of the run, and not answered.
    pub foreign: u64,
    /// Sent back.
    pub reflected: u64,
    /// ARP requests answered.
    pub arp: u64,
    /// Neighbor solicitations answered.
    pub nd: u64,
    /// Echo requests answered.
    pub echo: u64,
    /// Answers that found no free frame.
    pub unanswered: u64,
}

/// What happened in one second at one worker.
#[derive(Clone, Debug)]
pub struct Partial {
    /// Which second, from 0.
    pub second: u64,
    /// Sent in it.
    pub sent: Sent,
    /// Received in it.
    pub tally: Tally,
    /// Latencies in it.
    pub times: Option<Times>,
}

/// Everything that a worker has to say at its end.
pub struct Outcome {
    /// By stream.
    pub sent: Vec<Sent>,
    /// How late packets were handed over; empty where they had no time.
    pub lag: Times,
    /// Bursts that found no free frame.
    pub full: u64,
    /// System calls to send.
    pub kicks: u64,
    /// Frames that the kernel still has.
    pub in_flight: usize,
    /// What wasn't of the run.
    pub extra: Extra,
    /// What the kernel counted.
    pub statistics: Statistics,
    /// What was received of the run.
    pub detector: Option<Box<Detector>>,
    /// When the last packet was sent.
    pub last_sent: u64,
    /// How long it worked.
    pub worked: Duration,
    /// Whether it could be pinned to its CPU.
    pub pinned: bool,
    /// What ended it before its time; its counts are those until then.
    pub error: Option<io::Error>,
}
