//! What the workers remember: [`State`] is one worker's, over the shared state segment.
//!
//! | part | whose | file |
//! |---|---|---|
//! | conntrack | one table for all workers, a handle each | `state/conntrack.rs` |
//! | affinity | one table for all workers | `state/affinity.rs` |
//! | neighbors | one table for all workers | `state/neighbor.rs` |
//! | counters | each worker's own block per interface | `state/counters.rs` |
//! | policies' counters | each worker's own block | `state/policy.rs` |
//! | frames, held frames, limits | each worker's own, in no shared memory | `pipeline/context.rs` |
//!
//! The segment is a memfd that the engine writes and control and `millrace` map read-only
//! (`state/segment.rs`); a successor engine adopts it. Everything in it is atomic words, so this is all
//! safe code, and any bytes in it are survived.

pub mod affinity;
pub mod conntrack;
pub mod counters;
pub mod index;
pub mod neighbor;
pub mod policy;
pub mod segment;
pub mod word;

use crate::flow::Seed;
use crate::pipeline::Local;
use affinity::Affinity;
use conntrack::Conntrack;
use counters::Counters;
use neighbor::Neighbors;
use segment::{Error, Segment, Settings, Sizes};

/// What one worker owns, and its handles on what all share.
pub struct State {
    /// Flows.
    pub conntrack: Conntrack,
    /// Backends that clients keep.
    pub affinity: Affinity,
    /// MACs.
    pub neighbors: Neighbors,
    /// This worker's counters.
    pub counters: Counters,
    /// The key of all hashes.
    pub seed: Seed,
    /// What is in no shared memory.
    pub local: Local,
}

impl State {
    /// The state of worker `worker`, of which there is one at a time. It is in a burst from now on: call
    /// [`State::idle`] if it won't run soon.
    pub fn new(
        segment: &Segment,
        worker: usize,
        settings: &Settings,
        local: Local,
    ) -> Result<Self, Error> {
        Ok(Self {
            conntrack: segment.conntrack(worker, settings)?,
            affinity: segment.affinity()?,
            neighbors: segment.neighbors(settings)?,
            counters: segment.counters(worker)?,
            seed: segment.seed(),
            local,
        })
    }

    /// The state of a lone worker over memory of its own, with the fixed seed: for `explain` and tests.
    /// Needs no privilege. 4 Ki flows and 256 neighbors.
    pub fn alone(local: Local) -> Result<Self, Error> {
        let sizes = Sizes {
            workers: 1,
            interfaces: local.interfaces.len(),
            conntrack_entries: 1 << 12,
            neighbor_entries: 1 << 8,
        };
        let segment = Segment::create(&sizes, [0, 0])?;
        Self::new(&segment, 0, &Settings::of(&sizes), local)
    }

    /// Between two bursts: entries found before are used no more, and memory that all workers have let go
    /// is freed. One load when nothing is to be done.
    #[inline]
    pub fn quiesce(&mut self) {
        self.conntrack.quiesce();
    }

    /// Before the worker sleeps, so that nobody waits for it; [`State::quiesce`] before its next burst.
    pub fn idle(&mut self) {
        self.conntrack.idle();
    }

    /// Whether frames wait for a neighbor, so that the worker should look again soon.
    pub fn holds_frames(&self) -> bool {
        self.local.held() > 0
    }
}
