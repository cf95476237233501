//! Conntrack: one table of flows for all workers, both directions of a flow in one entry.
//!
//! # Cost
//!
//! A hit reads one bucket line of its hash and one line of its entry ([`Table::prefetch`], [`Table::probe`] hide them), two
//! more for IPv6. It writes one word, by compare-and-exchange, if the last packet was in another second or the packet
//! changes the state: no lock, no wait. A new flow costs nine atomic read-modify-writes on lines of its own and one full
//! fence. Memory is 64 bytes an entry and 16 bytes of index, for IPv6 48 more; pages that were never used take
//! none. Changing the table needs a handle ([`Conntrack`]) per thread; whoever only looks needs the [`Table`].
//!
//! # Protocol
//!
//! *Insert*: take an entry, write it in phase `Pending`, put its two tuples into the index, full fence, look for other
//! entries with these tuples, and go `Pending → Live` by compare-and-exchange. Of two inserts of one
//! tuple at least one looks after the other's tuple is in the index (the fences), and finds it. A live rival wins. Of two
//! pending ones the lower entry puts the higher to death (`Pending → Dead`, on which the other's
//! last step fails); the higher makes way and tries again, and if it then meets the same rival, still pending, it
//! kills it, so that nobody waits for a thread that was preempted. So at most one entry per tuple is ever `Live`, and only
//! live ones count for readers.
//!
//! *Remove*: `Live → Dead` by compare-and-exchange; who succeeds takes the tuples out of the index. The
//! memory is used again after a grace period (`grace.rs`), so an [`Entry`] stays good until its burst ends.
//!
//! The model tests run inserts, lookups, removals and reuse under loom.
//!
//! # Bounds
//!
//! TCP handshakes that aren't done are counted apart and bounded apart ([`Limits::half_open`]), so that a
//! flood of SYNs can't take the whole table. A full table refuses new flows and keeps the old.

mod adopt;
mod entry;
mod grace;
mod known;
mod progress;
mod reserve;
mod snat;
mod table;
mod tcp;
mod writer;

#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod property_tests;
#[cfg(test)]
mod tests;

pub use entry::{CachedHop, Decision};
pub use known::Known;
use progress::ticks_since;
pub use progress::{Progress, TICK, Timeouts, tick};
pub use snat::{SnatSet, SnatUse};
pub use table::{CAPACITY, Entry, EntryId, Flow, Hint, Hit, Layout, Status, Table, Totals};
pub use tcp::TcpState;

use std::ops::Range;

use crate::clock::Nanos;
use crate::flow::{Direction, Seed, Tuple};
use crate::state::word::{Memory, Region, Word};
use entry::{ACTIVITY, Activity, Contents, DECISION, KIND, LIFE, Life, Phase, service, tuple};
use grace::Seat;
use millrace_tables::ServiceId;
use millrace_wire::Protocol;
use millrace_wire::tcp::Flags;
use reserve::row;
use table::{count, is_expired};
use writer::Writer;

/// A flow to be tracked.
#[derive(Clone, Copy, Debug)]
pub struct NewFlow {
    /// The first packet's tuple, as it came.
    pub original: Tuple,
    /// The tuple that answers will come with.
    pub reply: Tuple,
    /// The service, if the destination is a frontend.
    pub service: Option<ServiceId>,
    /// The first packet's flags, if it is TCP.
    pub tcp: Option<Flags>,
    /// Whether its source is changed to an address of ours.
    pub masqueraded: bool,
}

/// Why a flow isn't tracked by a new entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreateError {
    /// It is tracked already: another worker was quicker, or the tuple is another flow's reply tuple.
    Exists(Entry),
    /// The reply tuple belongs to another flow: take another port.
    ReplyTaken,
    /// No entry is free, or no place in the index.
    Full,
    /// Too many unfinished TCP handshakes.
    HalfOpenFull,
}

/// What a packet means to the flow it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Touch {
    /// It goes on.
    Continues,
    /// A SYN on a connection that is over: remove the entry, the packet begins a new flow.
    Reopened,
}

/// Bounds within the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most TCP handshakes that aren't done. Counted now and then, so it may be passed by a few tens.
    pub half_open: u32,
}

/// New half-open flows between two looks at the total.
const UNCHECKED: u32 = 16;

/// A thread's handle: the table, its own free entries, and its place in the grace periods.
#[derive(Debug)]
pub struct Conntrack<M: Memory = Region> {
    table: Table<M>,
    writer: Writer,
    seat: Seat,
    timeouts: Timeouts,
    limits: Limits,
    /// The sweep goes on here.
    cursor: u32,
    /// Half-open flows that may still be made before the total is looked at.
    unchecked: u32,
}

impl<M: Memory> Conntrack<M> {
    /// The handle number `handle` of `table`: each number for one thread at a time. Its first burst begins.
    pub fn new(
        table: Table<M>,
        handle: usize,
        seed: Seed,
        timeouts: Timeouts,
        limits: Limits,
    ) -> Self {
        let writer = Writer::new(table.capacity, handle, seed);
        let mut seat = Seat::new(handle);
        seat.quiesce(table.pool.words());
        Self { table, writer, seat, timeouts, limits, cursor: 0, unchecked: 0 }
    }

    /// The shared part.
    pub fn table(&self) -> &Table<M> {
        &self.table
    }

    /// Passes a burst boundary: entries found before are not used any more, and what all have let go is freed.
    #[inline]
    pub fn quiesce(&mut self) {
        self.seat.quiesce(self.table.pool.words());
        self.writer.made.clear();
        self.writer.reclaim(&self.table);
    }

    /// Before the thread sleeps: nobody waits for it until its next [`Conntrack::quiesce`].
    pub fn idle(&mut self) {
        self.seat.idle(self.table.pool.words());
    }

    /// Notes a packet of the flow: that it was seen now, and what its TCP flags do to the connection.
    #[inline(always)]
    pub fn touch(&self, hit: Hit, protocol: Protocol, flags: Option<Flags>, now: Nanos) -> Touch {
        let direction = hit.direction();
        let Some(row) = row(self.table.rows.words(), hit.row()) else {
            return Touch::Continues;
        };
        let mut word = row[ACTIVITY].get();
        if let (Some(state), Some(flags)) = (Activity(word).progress().tcp(), flags)
            && state.is_reopened_by(direction, flags)
        {
            return Touch::Reopened;
        }
        // Zero: removed meanwhile.
        while word != 0 {
            let old = Activity(word).progress();
            let new = old.after(protocol, direction, flags, &self.timeouts);
            let next = Activity::new(tick(now), new).0;
            if next == word {
                break;
            }
            match row[ACTIVITY].exchange(word, next) {
                Ok(_) => {
                    if old.is_half_open() && !new.is_half_open() {
                        self.writer.count(&self.table, count::HALF_CLOSED);
                    }
                    break;
                }
                Err(now) => word = now,
            }
        }
        Touch::Continues
    }

    /// Stores where packets of the entry's direction leave, as decided under `generation`.
    #[inline]
    pub fn confirm(&self, hit: Hit, generation: u64, hop: CachedHop) {
        if let Some(row) = row(self.table.rows.words(), hit.row()) {
            row[DECISION[hit.direction().index()]].set(Decision::new(generation, hop).0);
        }
    }

    /// Notes that the backend of a flow was found gone at `now`, and forgets the way out: see [`Decision::gone_since`].
    pub fn mark_gone(&self, hit: Hit, now: Nanos) {
        if let Some(row) = row(self.table.rows.words(), hit.row()) {
            row[DECISION[hit.direction().index()]].set(Decision::gone(now).0);
        }
    }

    /// Tracks a new flow. Whatever else happens, no two entries are in force for one tuple.
    pub fn create(&mut self, new: &NewFlow, now: Nanos) -> Result<Entry, CreateError> {
        self.create_hashed(new, self.writer.hash(&new.original), now)
    }

    /// The same for who has the hash of the original tuple at hand.
    pub fn create_hashed(
        &mut self,
        new: &NewFlow,
        hash: u64,
        now: Nanos,
    ) -> Result<Entry, CreateError> {
        let progress = Progress::first(new.original.protocol, new.tcp, &self.timeouts);
        if progress.is_half_open() && !self.may_half_open() {
            return Err(CreateError::HalfOpenFull);
        }
        let contents = Contents {
            original: new.original,
            hash,
            reply: new.reply,
            service: new.service,
            masqueraded: new.masqueraded,
            progress,
            tick: tick(now),
        };
        self.writer.create(&self.table, &contents)
    }

    /// Whether this handle may have made an entry for the tuple of `hash` since the burst began: a [`Hint`] that there is none
    /// may be over.
    #[inline]
    pub fn has_made(&self, hash: u64) -> bool {
        self.writer.made.may_have(hash)
    }

    /// Removes the entry; `false` if it is gone already.
    pub fn remove(&mut self, hit: Hit) -> bool {
        let life = Life::new(Phase::Live, hit.version(), None);
        self.writer.take_out(&self.table, hit.row(), life)
    }

    /// Looks at the next `budget` entries and removes those that have been idle for too long; between bursts,
    /// from any handle. Returns how many it removed. A cache line an entry.
    pub fn sweep(&mut self, budget: u32, now: Nanos) -> u32 {
        self.quiesce();
        let Self { table, writer, .. } = self;
        let used = reserve::used(table.pool.words(), table.capacity);
        let now = tick(now);
        let mut removed = 0;
        for _ in 0..budget.min(used) {
            if self.cursor >= used {
                self.cursor = 0;
            }
            let id = self.cursor;
            self.cursor += 1;
            let Some(row) = row(table.rows.words(), id) else { continue };
            let life = Life(row[LIFE].get());
            if life.phase() == Phase::Live && is_expired(row, now) && writer.expire(table, id, life)
            {
                removed += 1;
            }
        }
        self.quiesce();
        removed
    }

    /// Shows `is_over` the UDP flows of services among the entries `range` that have been idle for `idle` seconds at `now`, each with its
    /// service and its two tuples, and removes those that are; between bursts, from any handle. Returns how many it removed.
    pub fn review(
        &mut self,
        range: Range<u32>,
        (now, idle): (Nanos, u32),
        mut is_over: impl FnMut(ServiceId, &Tuple, &Tuple) -> bool,
    ) -> u32 {
        self.quiesce();
        let Self { table, writer, .. } = self;
        let now = tick(now);
        let mut removed = 0;
        for id in range.start..range.end.min(table.used()) {
            let Some(place) = table.place(id) else { break };
            // First, so that what is read behind it is of this use of the row or of a later one, which is not removed.
            let life = Life(place.row[LIFE].get());
            M::Word::fence_acquire();
            let kind = place.row[KIND].get();
            let (true, Some(service)) = (Protocol(kind as u8) == Protocol::UDP, service(kind))
            else {
                continue;
            };
            let last = Activity(place.row[ACTIVITY].get()).tick();
            // A tick may have been nearly over when it was noted.
            let awake = idle > 0 && ticks_since(last, now) <= idle;
            if life.phase() != Phase::Live || awake {
                continue;
            }
            let [original, reply] =
                [Direction::Original, Direction::Reply].map(|direction| tuple(&place, direction));
            if is_over(service, &original, &reply.reversed()) && writer.take_out(table, id, life) {
                removed += 1;
            }
        }
        self.quiesce();
        removed
    }

    /// Whether one more unfinished handshake fits.
    fn may_half_open(&mut self) -> bool {
        if self.unchecked == 0 {
            let total = self.table.totals().half_open;
            let room = u64::from(self.limits.half_open).saturating_sub(total);
            self.unchecked = room.min(u64::from(UNCHECKED)) as u32;
        }
        let may = self.unchecked > 0;
        self.unchecked = self.unchecked.saturating_sub(1);
        may
    }
}

impl<M: Memory> Drop for Conntrack<M> {
    /// Nobody waits for it any more. Entries in its reserve are lost until the table is adopted.
    fn drop(&mut self) {
        self.idle();
    }
}
