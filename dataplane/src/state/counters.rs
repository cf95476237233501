//! Counters in the state segment: blocks of words that one worker writes and anybody may read.
//!
//! Cost: counting is a load, an addition and a store in a line that no other worker writes; no lock, no
//! read-modify-write. A block begins and ends at a cache line. What is counted at which place is
//! decided in `counters.rs` of the crate; a value may be a gauge, which goes down by adding a negative number's
//! two's complement.

use super::policy::PolicyCounters;
use super::word::{Memory, Region, Word};
use crate::clock::Nanos;
use millrace_tables::InterfaceId;

/// Words of a worker's line.
pub const WORKER_WORDS: usize = 8;

/// A block of counters that the caller's thread alone writes.
#[derive(Clone, Debug)]
pub struct CounterBlock {
    words: Region,
}

impl CounterBlock {
    pub(super) fn new(words: Region) -> Self {
        Self { words }
    }

    /// Adds `n` to the counter at `place`, wrapping; nothing if there is no such place.
    #[inline]
    pub fn add(&self, place: usize, n: u64) {
        if let Some(word) = self.words.words().get(place) {
            word.set(word.get().wrapping_add(n));
        }
    }

    /// The counter at `place`; 0 if there is none.
    #[inline]
    pub fn get(&self, place: usize) -> u64 {
        self.words.words().get(place).map_or(0, Word::get)
    }
}

/// One worker's counters.
#[derive(Clone, Debug)]
pub struct Counters {
    pub(super) interfaces: Box<[CounterBlock]>,
    pub(super) nowhere: CounterBlock,
    pub(super) worker: WorkerLine,
    /// Flows that policies allowed and denied.
    pub policies: PolicyCounters,
}

impl Counters {
    /// The block of an interface. Of one that doesn't exist: a block without places.
    #[inline]
    pub fn interface(&self, interface: InterfaceId) -> &CounterBlock {
        self.interfaces.get(usize::from(interface.0)).unwrap_or(&self.nowhere)
    }

    /// What the worker says about itself.
    pub fn worker(&self) -> &WorkerLine {
        &self.worker
    }
}

/// A worker's line: how it runs, for `millrace show workers`.
#[derive(Clone, Debug)]
pub struct WorkerLine {
    words: Region,
}

const CPU: usize = 0;
const THREAD: usize = 1;
const TURNS: usize = 2;
const IDLE_TURNS: usize = 3;
const PACKETS: usize = 4;
const SLEEPS: usize = 5;
const STARTED: usize = 6;
const LAST: usize = 7;

/// A worker as it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerInfo {
    /// Its number.
    pub worker: usize,
    /// The CPU it is pinned to.
    pub cpu: Option<usize>,
    /// Its thread id.
    pub thread: u64,
    /// Turns of its loop.
    pub turns: u64,
    /// Of these, turns without a packet.
    pub idle_turns: u64,
    /// Packets received.
    pub packets: u64,
    /// How often it slept.
    pub sleeps: u64,
    /// When it started ([`Nanos`] of the engine's clock); 0: it hasn't.
    pub started: Nanos,
    /// When its last turn with packets began.
    pub last_packets: Nanos,
}

impl WorkerLine {
    pub(super) fn new(words: Region) -> Self {
        Self { words }
    }

    fn set(&self, place: usize, value: u64) {
        if let Some(word) = self.words.words().get(place) {
            word.set(value);
        }
    }

    fn add(&self, place: usize, n: u64) {
        if let Some(word) = self.words.words().get(place) {
            word.set(word.get().wrapping_add(n));
        }
    }

    /// The worker begins, as `thread`.
    pub fn started(&self, cpu: Option<usize>, thread: u64, now: Nanos) {
        self.set(CPU, cpu.map_or(0, |cpu| cpu as u64 + 1));
        self.set(THREAD, thread);
        self.set(STARTED, now);
    }

    /// A turn that received `packets` is over; it began at `now`.
    #[inline]
    pub fn turn(&self, packets: usize, now: Nanos) {
        self.add(TURNS, 1);
        if packets == 0 {
            self.add(IDLE_TURNS, 1);
        } else {
            self.add(PACKETS, packets as u64);
            self.set(LAST, now);
        }
    }

    /// The worker goes to sleep.
    pub fn slept(&self) {
        self.add(SLEEPS, 1);
    }

    pub(super) fn read(&self, worker: usize) -> WorkerInfo {
        let get = |place: usize| self.words.words().get(place).map_or(0, Word::get);
        WorkerInfo {
            worker,
            cpu: usize::try_from(get(CPU)).unwrap_or(0).checked_sub(1),
            thread: get(THREAD),
            turns: get(TURNS),
            idle_turns: get(IDLE_TURNS),
            packets: get(PACKETS),
            sleeps: get(SLEEPS),
            started: get(STARTED),
            last_packets: get(LAST),
        }
    }
}
