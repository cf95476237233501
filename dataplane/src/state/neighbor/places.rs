//! Which rows hold a neighbor: finding, making, evicting.
//!
//! Finding takes no lock: a row says by its version, read before and after its key, that it was one
//! neighbor's all the time; a row that changed hands meanwhile isn't found. Making and evicting, a
//! few a second on a sane network, are done one at a time, under a lock that nobody waits for longer than some
//! microseconds: who doesn't get it (its holder was preempted, or died) does without, and the
//! packet's successor tries again. Nothing that an established flow does needs it.
//!
//! When all rows are taken, the next neighbor takes the row of one that failed, or that nobody has
//! used for [`super::REACHABLE`], the longest unused among 64 looked at; those in use and permanent ones
//! never lose theirs. Incomplete ones have a bound of their own, so a scan of a subnet can't fill
//! the table: beyond it the oldest incomplete one goes.

use super::row::{
    ASKED, Asked, CONFIRMED, INTERFACE, LINK, Link, NEXT, NeighborId, NeighborState, ROW, Row,
    USED, address, is_about,
};
use super::{REACHABLE, REQUESTS, RETRANSMIT};
use crate::clock::{MILLISECOND, Nanos};
use crate::flow::Seed;
use crate::state::index::{self, Index};
use crate::state::word::{Memory, Word};
use millrace_tables::InterfaceId;
use millrace_wire::{Addr, Mac};

/// Words of the table's head.
pub(super) const HEAD: usize = 16;

const LOCK: usize = 0;
const FRESH: usize = 1;
const FREE: usize = 2;
const LIVE: usize = 3;
const INCOMPLETE: usize = 4;
const HAND: usize = 5;
const EVICTED: usize = 8;
const REFUSED: usize = 9;

/// Rows looked at to find one to evict.
const LOOKS: u32 = 64;
/// Tries to get the lock: some microseconds.
const SPINS: usize = 1000;

/// Words of a table of `capacity` neighbors: head, index, rows.
pub(super) fn words_for(capacity: u32) -> (usize, usize, usize) {
    (HEAD, index::words_for(capacity as usize), capacity as usize * ROW)
}

/// The rows, their index and their head.
#[derive(Clone, Debug)]
pub(super) struct Places<M> {
    pub(super) head: M,
    pub(super) index: M,
    pub(super) rows: M,
    pub(super) capacity: u32,
    /// Most incomplete neighbors.
    pub(super) incomplete: u32,
    pub(super) seed: Seed,
}

/// The lock, held.
struct Guard<'a, W: Word>(&'a W);

impl<W: Word> Drop for Guard<'_, W> {
    fn drop(&mut self) {
        self.0.set_release(0);
    }
}

/// How full a table is, and how often it had to choose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Occupancy {
    /// Rows in use.
    pub live: u64,
    /// Of these, incomplete ones.
    pub incomplete: u64,
    /// Neighbors that lost their row to another.
    pub evicted: u64,
    /// Neighbors that got no row.
    pub refused: u64,
}

impl<M: Memory> Places<M> {
    #[inline]
    pub(super) fn row(&self, slot: u32) -> Option<&Row<M::Word>> {
        let start = slot as usize * ROW;
        self.rows.words().get(start..start + ROW)?.first_chunk()
    }

    /// The row of `id`, and its link, if it is still that neighbor's.
    #[inline]
    pub(super) fn at(&self, id: NeighborId) -> Option<(&Row<M::Word>, Link)> {
        let row = self.row(u32::from(id.slot))?;
        let link = Link(row[LINK].get());
        (link.version() == id.version && link.state() != NeighborState::Free).then_some((row, link))
    }

    /// The neighbor's row.
    #[inline]
    pub(super) fn find(&self, interface: InterfaceId, addr: &Addr) -> Option<NeighborId> {
        let words = addr.to_words();
        let hash = self.seed.hash_neighbor(interface.0, addr);
        Index::new(self.index.words()).find(hash, |candidate| {
            M::Word::fence_acquire();
            let row = self.row(candidate.row)?;
            let link = Link(row[LINK].get());
            M::Word::fence_acquire();
            if link.state() == NeighborState::Free || !is_about(row, interface, words) {
                return None;
            }
            M::Word::fence_acquire();
            let version = Link(row[LINK].get()).version();
            (version == link.version())
                .then_some(NeighborId { slot: candidate.row as u16, version })
        })
    }

    fn lock(&self) -> Option<Guard<'_, M::Word>> {
        let word = self.head.words().get(LOCK)?;
        for _ in 0..SPINS {
            if word.get() == 0 && word.exchange(0, 1).is_ok() {
                return Some(Guard(word));
            }
            std::hint::spin_loop();
        }
        None
    }

    #[inline]
    fn head_word(&self, word: usize) -> Option<&M::Word> {
        self.head.words().get(word)
    }

    fn add(&self, word: usize, by: u64) {
        if let Some(word) = self.head_word(word) {
            word.bump(by);
        }
    }

    /// Changes the link by one compare-and-exchange, and keeps the count of incomplete rows.
    pub(super) fn change(&self, row: &Row<M::Word>, from: Link, to: Link) -> Result<(), Link> {
        row[LINK].exchange(from.0, to.0).map_err(Link)?;
        let was = from.state() == NeighborState::Incomplete;
        let is = to.state() == NeighborState::Incomplete;
        if was != is {
            self.add(INCOMPLETE, if is { 1 } else { 1u64.wrapping_neg() });
        }
        Ok(())
    }

    /// Makes a row for a neighbor that has none. `Ok(Err)`: it has one already. `None`: no row can be had.
    pub(super) fn make(
        &self,
        interface: InterfaceId,
        addr: &Addr,
        (state, mac): (NeighborState, Mac),
        now: Nanos,
    ) -> Option<Result<NeighborId, NeighborId>> {
        let made = self.try_make(interface, addr, (state, mac), now);
        if made.is_none() {
            self.add(REFUSED, 1);
        }
        made
    }

    fn try_make(
        &self,
        interface: InterfaceId,
        addr: &Addr,
        (state, mac): (NeighborState, Mac),
        now: Nanos,
    ) -> Option<Result<NeighborId, NeighborId>> {
        let _guard = self.lock()?;
        if let Some(id) = self.find(interface, addr) {
            return Some(Err(id));
        }
        let full = state == NeighborState::Incomplete
            && self.head_word(INCOMPLETE)?.get() >= u64::from(self.incomplete);
        let slot = match if full { None } else { self.free_slot() } {
            Some(slot) => slot,
            None => self.evict_one(full, now)?,
        };
        let row = self.row(slot)?;
        for (word, value) in row.iter().zip(addr.to_words()) {
            word.set(value);
        }
        row[INTERFACE].set(u64::from(interface.0));
        let asked = state == NeighborState::Incomplete;
        // Learned from what it said is not used yet: spoofed requests can't fill the table with what
        // must not be evicted.
        let used = if asked { now } else { now.saturating_sub(REACHABLE) };
        row[USED].set(used / MILLISECOND);
        row[CONFIRMED].set(now);
        row[ASKED].set(if asked { Asked::again(1, now).0 } else { Asked::NEVER.0 });
        row[NEXT].set(0);
        let version = Link(row[LINK].get()).version();
        let hash = self.seed.hash_neighbor(interface.0, addr);
        if !Index::new(self.index.words()).publish(hash, slot, false) {
            self.put_free(row, slot);
            return None;
        }
        // Now it can be found; until this store its state says that it is free.
        row[LINK].set_release(Link::new(state, mac, version).0);
        self.add(LIVE, 1);
        if asked {
            self.add(INCOMPLETE, 1);
        }
        Some(Ok(NeighborId { slot: slot as u16, version }))
    }

    fn free_slot(&self) -> Option<u32> {
        let (free, fresh) = (self.head_word(FREE)?, self.head_word(FRESH)?);
        if let Some(slot) = (free.get() as u32).checked_sub(1) {
            free.set(self.row(slot)?[NEXT].get());
            return Some(slot);
        }
        let slot = fresh.get();
        (slot < u64::from(self.capacity)).then(|| {
            fresh.set(slot + 1);
            slot as u32
        })
    }

    fn put_free(&self, row: &Row<M::Word>, slot: u32) {
        if let Some(free) = self.head_word(FREE) {
            row[NEXT].set(free.get());
            free.set(u64::from(slot) + 1);
        }
    }

    /// Empties the row if it is still what `link` says; the lock is held.
    fn clear(&self, slot: u32, link: Link) -> bool {
        let Some(row) = self.row(slot) else { return false };
        let (interface, addr) = address(row);
        let free =
            Link::new(NeighborState::Free, Mac::ZERO, link.version().wrapping_add(1) & 0xfff);
        if self.change(row, link, free).is_err() {
            return false;
        }
        // Whoever sees a word of the next owner sees that the row isn't the old one's any more.
        M::Word::fence_full();
        let hash = self.seed.hash_neighbor(interface.0, &addr);
        Index::new(self.index.words()).withdraw(hash, slot, false);
        self.add(LIVE, 1u64.wrapping_neg());
        true
    }

    /// Empties a row for another neighbor.
    fn evict_one(&self, incomplete_only: bool, now: Nanos) -> Option<u32> {
        let hand = self.head_word(HAND)?;
        let used = self.used();
        let mut best: Option<((u8, u64), u32, Link)> = None;
        for _ in 0..LOOKS.min(used) {
            let slot = hand.get() as u32 % used;
            hand.set(u64::from(slot) + 1);
            let Some(row) = self.row(slot) else { continue };
            let link = Link(row[LINK].get());
            let Some(rank) = rank(row, link.state(), now) else { continue };
            if incomplete_only && !matches!(link.state(), NeighborState::Incomplete) {
                continue;
            }
            if best.is_none_or(|(other, ..)| rank < other) {
                best = Some((rank, slot, link));
            }
        }
        let (_, slot, link) = best?;
        if !self.clear(slot, link) {
            return None;
        }
        self.add(EVICTED, 1);
        Some(slot)
    }

    /// Empties the neighbor's row, whatever its state; patient, for housekeeping.
    pub(super) fn remove(&self, slot: u32, link: Link) -> bool {
        let Some(_guard) = self.lock() else { return false };
        let cleared = self.clear(slot, link);
        if let (true, Some(row)) = (cleared, self.row(slot)) {
            self.put_free(row, slot);
        }
        cleared
    }

    /// How many rows, from the first on, were ever used.
    pub(super) fn used(&self) -> u32 {
        self.head_word(FRESH).map_or(0, |fresh| fresh.get().min(u64::from(self.capacity)) as u32)
    }

    pub(super) fn occupancy(&self) -> Occupancy {
        let load = |word| self.head_word(word).map_or(0, Word::get);
        Occupancy {
            live: load(LIVE),
            incomplete: load(INCOMPLETE),
            evicted: load(EVICTED),
            refused: load(REFUSED),
        }
    }

    /// Takes over a table whose users are all gone: complete neighbors stay, the rest is freed.
    pub(super) fn adopt(&self) {
        let head = self.head.words();
        let index = Index::new(self.index.words());
        index.clear();
        for word in [LOCK, FREE, LIVE, INCOMPLETE] {
            head[word].set(0);
        }
        for slot in 0..self.used() {
            let Some(row) = self.row(slot) else { break };
            let link = Link(row[LINK].get());
            let (interface, addr) = address(row);
            let hash = self.seed.hash_neighbor(interface.0, &addr);
            if link.state().is_complete() && index.publish(hash, slot, false) {
                self.add(LIVE, 1);
            } else {
                let version = link.version().wrapping_add(1) & 0xfff;
                row[LINK].set(Link::new(NeighborState::Free, Mac::ZERO, version).0);
                self.put_free(row, slot);
            }
        }
    }
}

/// The order in which neighbors lose their rows, smallest first; `None`: never.
fn rank<W: Word>(row: &Row<W>, state: NeighborState, now: Nanos) -> Option<(u8, u64)> {
    let used = row[USED].get();
    let unused = (now / MILLISECOND).saturating_sub(used) >= REACHABLE / MILLISECOND;
    match state {
        NeighborState::Free | NeighborState::Permanent => None,
        NeighborState::Failed => Some((0, used)),
        // Asked for the last time and not asked again: it has failed, nobody has looked yet.
        NeighborState::Incomplete => {
            let asked = Asked(row[ASKED].get());
            let over = asked.times() >= REQUESTS && asked.is_due(now, RETRANSMIT);
            Some((if over { 0 } else { 2 }, row[CONFIRMED].get() / MILLISECOND))
        }
        _ if unused => Some((1, used)),
        _ => None,
    }
}
