//! When may an entry's memory be used again? When no worker can be looking at it any more.
//!
//! A worker finds entries inside a burst and keeps none across bursts. So each handle has a line that
//! says which *epoch* its current burst began in, or that it is idle.
//!
//! - Who takes entries out of the index then moves the epoch from `e-1` to `e` ([`advance`]), and may use
//!   their memory when every line says `e` or later, or idle ([`passed`]).
//! - A worker at a burst boundary loads the epoch, and stores it in its line if it is another one
//!   ([`Seat::quiesce`]). If it loads `e`, the acquire fence lets it see that the entries are gone. Its loads of earlier
//!   bursts come before the release store of `e`, so they can't see what a new owner writes. Until that
//!   store is seen, the line says less than `e`, which holds back. No full fence is needed.
//! - A worker that wakes stores [`WAKING`], which holds back everything, fences, and goes on as above. That fence and
//!   the one in [`advance`] are in one order: either the worker sees the index without the entries, or
//!   the other sees `WAKING`.
//!
//! Cost: a load a burst, and a store when somebody has taken entries out; a full fence after idling and per
//! batch of entries taken out. The same protocol guards the tables (`millrace_tables::epoch`), with
//! generations in place of epochs.

use crate::state::word::Word;

/// Words of a handle's line.
pub(super) const LINE: usize = 8;
/// Handles' lines begin here in the pool.
pub(super) const LINES: usize = 24;
/// The epoch's word in the pool.
const EPOCH: usize = 16;
/// The word of a line that says where its handle is.
const SEEN: usize = 0;

/// The handle holds no entries.
const IDLE: u64 = u64::MAX;
/// The handle is about to look: holds back everything.
const WAKING: u64 = 0;

/// Words of a pool for `handles` handles.
pub(super) const fn pool_words(handles: usize) -> usize {
    LINES + handles * LINE
}

/// The line of handle `handle`.
#[inline]
pub(super) fn line<W: Word>(pool: &[W], handle: usize) -> Option<&[W; LINE]> {
    let start = LINES + handle * LINE;
    pool.get(start..start + LINE)?.first_chunk()
}

/// All handles' lines.
pub(super) fn lines<W: Word>(pool: &[W]) -> &[[W; LINE]] {
    pool.get(LINES..).unwrap_or_default().as_chunks().0
}

/// Marks all lines idle and starts the epochs; nobody may use the table meanwhile.
pub(super) fn reset<W: Word>(pool: &[W]) {
    pool[EPOCH].set(1);
    for line in lines(pool) {
        line[SEEN].set(IDLE);
    }
}

/// Begins a new epoch, which entries made unfindable before wait for.
pub(super) fn advance<W: Word>(pool: &[W]) -> u64 {
    let epoch = pool[EPOCH].bump(1) + 1;
    W::fence_full();
    epoch
}

/// Whether every handle is idle or in a burst that began in `epoch` or later.
pub(super) fn passed<W: Word>(pool: &[W], epoch: u64) -> bool {
    let passed = lines(pool).iter().all(|line| line[SEEN].get() >= epoch);
    // What the others did with the memory comes before what its next owner does.
    W::fence_acquire();
    passed
}

/// A handle's place among those that are waited for.
#[derive(Debug)]
pub(super) struct Seat {
    handle: usize,
    seen: u64,
}

impl Seat {
    pub(super) fn new(handle: usize) -> Self {
        Self { handle, seen: IDLE }
    }

    /// Passes a burst boundary: what was found before is not looked at again.
    #[inline]
    pub(super) fn quiesce<W: Word>(&mut self, pool: &[W]) {
        let Some(line) = line(pool, self.handle) else { return };
        if self.seen == IDLE {
            line[SEEN].set(WAKING);
            W::fence_full();
        }
        let epoch = pool[EPOCH].get();
        W::fence_acquire();
        if epoch != self.seen {
            line[SEEN].set_release(epoch);
            self.seen = epoch;
        }
    }

    /// Holds nothing until the next [`Seat::quiesce`].
    pub(super) fn idle<W: Word>(&mut self, pool: &[W]) {
        if let Some(line) = line(pool, self.handle) {
            line[SEEN].set_release(IDLE);
        }
        self.seen = IDLE;
    }
}
