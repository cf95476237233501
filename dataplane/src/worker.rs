//! One pinned thread: reads the clock once a turn, takes the newest tables, moves a burst from each of its
//! queues, and sleeps when nothing comes.
//!
//! Cost of an empty turn: one clock read, one fence and three stores of the epoch line, and a look at each
//! rx ring. After [`SPIN`] without a packet an adaptive worker sleeps in `poll` until the kernel has
//! one, so an idle engine costs the wake-ups of its timers alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use millrace_tables::{InterfaceId, ReaderEpoch};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tracing::{debug, warn};

use crate::clock::{self, MILLISECOND, Nanos};
use crate::config::Idle;
use crate::driver::Queue;
use crate::live;
use crate::pipeline;
use crate::state::State;
use crate::trace::Silent;

/// How long an adaptive worker spins before it sleeps.
const SPIN: Nanos = 50_000;
/// The longest sleep: stop requests and timers are looked at this often.
const SLEEP: Nanos = 100 * MILLISECOND;
/// The longest sleep while frames wait for a neighbor.
const SLEEP_HOLDING: Nanos = 10 * MILLISECOND;

/// What one worker thread owns.
pub struct Worker<Q> {
    /// Its number, from 0; it drives the queue of that number on each interface.
    pub index: usize,
    /// The CPU that it is pinned to, if it is.
    pub cpu: Option<usize>,
    /// Its queue on each interface, by interface id.
    pub queues: Vec<Q>,
    /// Tables in use.
    pub tables: live::Handle,
    /// Its line among the epochs.
    pub epoch: ReaderEpoch,
    /// Conntrack, neighbors, counters, held frames.
    pub state: State,
    /// Whether it sleeps.
    pub idle: Idle,
    /// Set to end it.
    pub stop: Arc<AtomicBool>,
}

impl<Q: Queue> Worker<Q> {
    /// Runs until asked to stop.
    pub fn run(mut self) {
        self.pin();
        let thread = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
        self.state.counters.worker().started(self.cpu, u64::from(thread), clock::now());
        let mut last_packet = clock::now();
        while !self.stop.load(Ordering::Relaxed) {
            let now = clock::now();
            if self.turn(now) > 0 {
                last_packet = now;
            } else if self.idle == Idle::Adaptive && now.saturating_sub(last_packet) > SPIN {
                self.sleep();
            }
        }
        self.epoch.idle();
        self.state.idle();
    }

    /// Moves one burst from each queue. Returns how many packets came in.
    pub fn turn(&mut self, now: Nanos) -> usize {
        let tables = self.epoch.enter(self.tables.tables());
        let mut received = 0;
        for index in 0..self.queues.len() {
            let from = InterfaceId(index as u16);
            received +=
                pipeline::burst(from, &mut self.queues, tables, &mut self.state, now, &mut Silent);
        }
        pipeline::tick(&mut self.queues, tables, &mut self.state, now, &mut Silent);
        self.state.quiesce();
        self.epoch.count_burst();
        self.state.counters.worker().turn(received, now);
        received
    }

    fn pin(&self) {
        let Some(cpu) = self.cpu else { return };
        if !core_affinity::set_for_current(core_affinity::CoreId { id: cpu }) {
            warn!(
                worker = self.index,
                cpu, "can't be pinned: is the CPU there, and allowed to this process?"
            );
        }
        debug!(worker = self.index, cpu, "started");
    }

    /// Sleeps until a packet comes or a timer may be due. While it sleeps it uses no tables, so control
    /// can free what it would otherwise still hold.
    fn sleep(&mut self) {
        let longest = if self.state.holds_frames() { SLEEP_HOLDING } else { SLEEP };
        let timeout = Timespec { tv_sec: 0, tv_nsec: longest as i64 };
        self.epoch.idle();
        self.state.idle();
        self.state.counters.worker().slept();
        let mut fds: arrayvec::ArrayVec<PollFd<'_>, 64> = self
            .queues
            .iter()
            .filter_map(|queue| queue.poll_fd())
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .take(64)
            .collect();
        // An error (a signal) is one more early wake-up.
        let _ = poll(&mut fds, Some(&timeout));
        drop(fds);
        self.state.quiesce();
    }
}
