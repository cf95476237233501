//! Where a worker's new entries come from, and where taken-out ones wait.
//!
//! Each handle (a worker's or housekeeping's) has its own small chain of free entries. It is filled by
//! batches, from the shared stack of freed batches or from the part of the table that was never used
//! (so an empty table of 16 Mi entries takes no memory). Entries that a handle took out wait in two
//! chains: one collects, one waits for its grace period. Chains run through the entries' own life
//! words, so the lists need no memory and no allocation.
//!
//! Cost: taking an entry touches only that entry; one compare-and-exchange on the shared stack per
//! batch of 64. Up to a batch per handle can lie idle while another handle finds the table full.

use super::entry::{DECISION, LIFE, Life, Phase, ROW, Row};
use super::grace;
use crate::state::word::{Memory, Word};

/// The pool's word: entries from here on were never used.
const FRESH: usize = 0;
/// The pool's word: the stack of free batches, low half its first entry plus one, high half a count of changes.
const STACK: usize = 8;

/// A free batch's link to the next one is kept in its first entry's word that no reader of a free
/// entry looks at.
const BATCH_LINK: usize = DECISION[0];

/// The entry `id` of a table.
#[inline]
pub(super) fn row<W: Word>(rows: &[W], id: u32) -> Option<&Row<W>> {
    let start = id as usize * ROW;
    rows.get(start..start + ROW)?.first_chunk()
}

/// Entries linked through their life words.
#[derive(Clone, Copy, Debug, Default)]
struct Chain {
    head: Option<u32>,
    len: u32,
}

impl Chain {
    fn push<W: Word>(&mut self, rows: &[W], id: u32, phase: Phase) {
        if let Some(row) = row(rows, id) {
            let life = Life(row[LIFE].get());
            row[LIFE].set(Life::new(phase, life.version(), self.head).0);
            self.head = Some(id);
            self.len += 1;
        }
    }

    fn pop<W: Word>(&mut self, rows: &[W]) -> Option<u32> {
        let id = self.head?;
        self.head = row(rows, id).and_then(|row| Life(row[LIFE].get()).link());
        self.len = if self.head.is_some() { self.len.saturating_sub(1) } else { 0 };
        Some(id)
    }
}

/// Entries moved at once between a handle and the shared stack: 64, fewer in a small table.
fn batch_size(capacity: u32) -> u32 {
    (capacity / 64).clamp(1, 64)
}

/// One handle's free entries, and those it has taken out.
#[derive(Debug)]
pub(super) struct Reserve {
    capacity: u32,
    batch: u32,
    fresh: std::ops::Range<u32>,
    free: Chain,
    collecting: Chain,
    waiting: Chain,
    /// The epoch that `waiting` waits for.
    epoch: u64,
}

impl Reserve {
    pub(super) fn new(capacity: u32) -> Self {
        Self {
            capacity,
            batch: batch_size(capacity),
            fresh: 0..0,
            free: Chain::default(),
            collecting: Chain::default(),
            waiting: Chain::default(),
            epoch: 0,
        }
    }

    /// An entry that nobody else knows of, in phase `Pending` with a version of its own.
    pub(super) fn take<M: Memory>(&mut self, rows: &M, pool: &M) -> Option<u32> {
        let rows = rows.words();
        let id = match self.next(rows) {
            Some(id) => id,
            None => {
                self.refill(rows, pool.words());
                self.next(rows)?
            }
        };
        let row = row(rows, id)?;
        let version = Life(row[LIFE].get()).version().wrapping_add(1);
        row[LIFE].set(Life::new(Phase::Pending, version, None).0);
        Some(id)
    }

    fn next<W: Word>(&mut self, rows: &[W]) -> Option<u32> {
        self.free.pop(rows).or_else(|| self.fresh.next())
    }

    fn refill<W: Word>(&mut self, rows: &[W], pool: &[W]) {
        if let Some(first) = pop_batch(rows, &pool[STACK]) {
            self.free = Chain { head: Some(first), len: self.batch };
            return;
        }
        if pool[FRESH].get() < u64::from(self.capacity) {
            let start = pool[FRESH].bump(u64::from(self.batch));
            let start = start.min(u64::from(self.capacity)) as u32;
            self.fresh = start..self.capacity.min(start + self.batch);
        }
    }

    /// Gives back an entry that was never findable.
    pub(super) fn untake<M: Memory>(&mut self, rows: &M, id: u32) {
        self.free.push(rows.words(), id, Phase::Free);
    }

    /// Takes an entry that has just been made unfindable; the caller is the one who did that.
    pub(super) fn retire<M: Memory>(&mut self, rows: &M, id: u32) {
        self.collecting.push(rows.words(), id, Phase::Dead);
    }

    /// Frees what no worker can be looking at any more. Two compares when there is nothing to do.
    #[inline]
    pub(super) fn reclaim<M: Memory>(&mut self, rows: &M, pool: &M) {
        if self.waiting.len > 0 && grace::passed(pool.words(), self.epoch) {
            self.release(rows.words(), pool.words());
        }
        if self.waiting.len == 0 && self.collecting.len > 0 {
            self.waiting = std::mem::take(&mut self.collecting);
            self.epoch = grace::advance(pool.words());
        }
    }

    fn release<W: Word>(&mut self, rows: &[W], pool: &[W]) {
        let mut batch = Chain::default();
        while let Some(id) = self.waiting.pop(rows) {
            if self.free.len < self.batch {
                self.free.push(rows, id, Phase::Free);
                continue;
            }
            batch.push(rows, id, Phase::Free);
            if batch.len == self.batch {
                push_batch(rows, &pool[STACK], std::mem::take(&mut batch));
            }
        }
        // What doesn't fill a batch stays here.
        while let Some(id) = batch.pop(rows) {
            self.free.push(rows, id, Phase::Free);
        }
        self.waiting = Chain::default();
    }
}

/// Adds a batch to the shared stack (Treiber's; the count of changes keeps a stale head from fitting again).
fn push_batch<W: Word>(rows: &[W], stack: &W, batch: Chain) {
    let Some((head, first)) = batch.head.and_then(|head| Some((head, row(rows, head)?))) else {
        return;
    };
    let mut top = stack.get();
    loop {
        first[BATCH_LINK].set(top & 0xffff_ffff);
        let new = top.wrapping_add(1 << 32) & !0xffff_ffff | u64::from(head + 1);
        match stack.exchange(top, new) {
            Ok(_) => return,
            Err(now) => top = now,
        }
    }
}

/// Takes a batch off the stack: its first entry.
fn pop_batch<W: Word>(rows: &[W], stack: &W) -> Option<u32> {
    let mut top = stack.get();
    loop {
        let head = (top as u32).checked_sub(1)?;
        W::fence_acquire();
        // Another may take this batch and use its memory before we are done: then the exchange fails.
        let next = row(rows, head)?[BATCH_LINK].get() & 0xffff_ffff;
        match stack.exchange(top, top.wrapping_add(1 << 32) & !0xffff_ffff | next) {
            Ok(_) => return Some(head),
            Err(now) => top = now,
        }
    }
}

/// How many entries, from the first on, were ever handed out.
pub(super) fn used<W: Word>(pool: &[W], capacity: u32) -> u32 {
    pool.get(FRESH).map_or(0, |fresh| fresh.get().min(u64::from(capacity)) as u32)
}

/// Makes the free lists anew from the entries' phases, after their last owner died: all that is neither
/// live nor never used is free. Nobody else may use the table meanwhile.
pub(super) fn rebuild<W: Word>(rows: &[W], pool: &[W], capacity: u32) {
    pool[STACK].set(0);
    let mut batch = Chain::default();
    for id in 0..used(pool, capacity) {
        let Some(row) = row(rows, id) else { break };
        if Life(row[LIFE].get()).phase() != Phase::Live {
            batch.push(rows, id, Phase::Free);
            if batch.len == batch_size(capacity) {
                push_batch(rows, &pool[STACK], std::mem::take(&mut batch));
            }
        }
    }
    push_batch(rows, &pool[STACK], batch);
}
