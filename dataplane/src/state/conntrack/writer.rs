//! Putting entries in and taking them out; the protocol at the top of `conntrack.rs`.

use super::entry::{ACTIVITY, Activity, Contents, Key, LIFE, Life, Phase, tuple};
use super::reserve::Reserve;
use super::table::{Table, count, is_expired};
use super::{CreateError, Entry, grace};
use crate::flow::{Direction, Seed, Tuple};
use crate::state::index::Index;
use crate::state::word::{Memory, Word};

/// How often an insert meets a rival before it gives up.
const ATTEMPTS: usize = 8;

/// What a thread needs to change the table.
#[derive(Debug)]
pub(super) struct Writer {
    seed: Seed,
    handle: usize,
    reserve: Reserve,
    pub(super) made: Made,
}

/// The tuples of entries that this thread has made since its burst began: a Bloom filter of one hash, which says "perhaps" to one in
/// ten others when every packet of a burst has begun a flow.
#[derive(Debug, Default)]
pub(super) struct Made {
    bits: [u64; Made::WORDS],
    any: bool,
}

impl Made {
    const WORDS: usize = 16;

    /// Word and bit of a hash.
    #[inline]
    fn place(hash: u64) -> (usize, u64) {
        ((hash >> 6) as usize % Self::WORDS, 1 << (hash & 63))
    }

    fn note(&mut self, hash: u64) {
        let (word, bit) = Self::place(hash);
        self.bits[word] |= bit;
        self.any = true;
    }

    #[inline]
    pub(super) fn may_have(&self, hash: u64) -> bool {
        let (word, bit) = Self::place(hash);
        self.any && self.bits[word] & bit != 0
    }

    #[inline]
    pub(super) fn clear(&mut self) {
        if self.any {
            *self = Self::default();
        }
    }
}

/// What stands in the way of an insert.
enum Obstacle {
    Fatal(CreateError),
    /// Not decided yet: the rival we made way for, or none if one killed ours.
    Pending(Option<Rival>),
}

/// One use of an entry's memory, pending.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Rival {
    row: u32,
    life: u64,
}

/// An insert's two keys and their hashes, original first.
struct Pair {
    keys: [Key; 2],
    hashes: [u64; 2],
}

impl Pair {
    fn of(contents: &Contents, seed: &Seed) -> Self {
        let Contents { original, hash, reply, .. } = contents;
        debug_assert_eq!(*hash, seed.hash(original));
        Self { keys: [Key::of(original), Key::of(reply)], hashes: [*hash, seed.hash(reply)] }
    }

    /// The reply's key and hash alone.
    fn reply(&self) -> (&Key, u64) {
        (&self.keys[1], self.hashes[1])
    }
}

impl Writer {
    pub(super) fn new(capacity: u32, handle: usize, seed: Seed) -> Self {
        Self { seed, handle, reserve: Reserve::new(capacity), made: Made::default() }
    }

    /// A tuple's hash.
    pub(super) fn hash(&self, tuple: &Tuple) -> u64 {
        self.seed.hash(tuple)
    }

    /// Counts one in this handle's line: a load and a store, since nobody else writes it.
    #[inline]
    pub(super) fn count<M: Memory>(&self, table: &Table<M>, what: usize) {
        if let Some(line) = grace::line(table.pool.words(), self.handle) {
            line[what].set(line[what].get().wrapping_add(1));
        }
    }

    #[inline]
    pub(super) fn reclaim<M: Memory>(&mut self, table: &Table<M>) {
        self.reserve.reclaim(&table.rows, &table.pool);
    }

    fn take<M: Memory>(&mut self, table: &Table<M>) -> Option<u32> {
        self.reserve.take(&table.rows, &table.pool).or_else(|| {
            // Perhaps what we took out ourselves is free by now.
            self.reclaim(table);
            self.reserve.take(&table.rows, &table.pool)
        })
    }

    pub(super) fn create<M: Memory>(
        &mut self,
        table: &Table<M>,
        contents: &Contents,
    ) -> Result<Entry, CreateError> {
        let pair = Pair::of(contents, &self.seed);
        let mut stuck = None;
        for _ in 0..ATTEMPTS {
            // Before anything is written: most refusals end here, at no cost to others. The original tuple is new, or was a
            // moment ago.
            let outcome = match self.rival(table, pair.reply(), true, None, contents.tick, None) {
                Ok(()) => self.insert(table, contents, &pair, stuck),
                // Of this very flow, perhaps: another thread was quicker.
                Err(taken) => {
                    Err(self.rivals(table, &pair, None, contents.tick, None).err().unwrap_or(taken))
                }
            };
            match outcome {
                Ok(entry) => {
                    pair.hashes.iter().for_each(|hash| self.made.note(*hash));
                    self.count(table, count::CREATED);
                    if contents.progress.is_half_open() {
                        self.count(table, count::HALF_OPENED);
                    }
                    return Ok(entry);
                }
                Err(Obstacle::Fatal(error)) => {
                    if error == CreateError::Full {
                        self.count(table, count::FULL);
                    }
                    return Err(error);
                }
                Err(Obstacle::Pending(rival)) => {
                    stuck = rival;
                    self.count(table, count::RACED);
                }
            }
        }
        self.count(table, count::FULL);
        Err(CreateError::Full)
    }

    /// One attempt. `stuck`: the rival that the last one made way for; it is not made way for again.
    fn insert<M: Memory>(
        &mut self,
        table: &Table<M>,
        contents: &Contents,
        pair: &Pair,
        stuck: Option<Rival>,
    ) -> Result<Entry, Obstacle> {
        const FULL: Obstacle = Obstacle::Fatal(CreateError::Full);
        let id = self.take(table).ok_or(FULL)?;
        let place = table.place(id).ok_or(FULL)?;
        let row = place.row;
        let index = Index::new(table.index.words());
        let [original, reply] = pair.hashes;
        let pending = Life(row[LIFE].get());
        let live = pending.to(Phase::Live);
        contents.write(&place);
        if !index.publish(original, id, false) {
            self.reserve.untake(&table.rows, id);
            return Err(FULL);
        }
        let outcome = if index.publish(reply, id, true) {
            M::Word::fence_full();
            self.rivals(table, pair, Some(id), contents.tick, stuck)
        } else {
            Err(FULL)
        };
        let outcome = outcome.and_then(|()| match row[LIFE].exchange(pending.0, live.0) {
            Ok(_) => Ok(table.read(id, Direction::Original, live, &place)),
            Err(_) => Err(Obstacle::Pending(None)),
        });
        if outcome.is_err() {
            // A rival may have done this already: it is dead either way, and ours to clear away.
            let _ = row[LIFE].exchange(pending.0, pending.to(Phase::Dead).0);
            index.withdraw(original, id, false);
            index.withdraw(reply, id, true);
            self.reserve.retire(&table.rows, id);
        }
        outcome
    }

    /// Looks for other entries with one of these tuples, and removes those that are only leftovers.
    fn rivals<M: Memory>(
        &mut self,
        table: &Table<M>,
        pair: &Pair,
        own: Option<u32>,
        now: u32,
        stuck: Option<Rival>,
    ) -> Result<(), Obstacle> {
        self.rival(table, (&pair.keys[0], pair.hashes[0]), false, own, now, stuck)?;
        self.rival(table, pair.reply(), true, own, now, stuck)
    }

    /// The same for one tuple.
    fn rival<M: Memory>(
        &mut self,
        table: &Table<M>,
        (key, hash): (&Key, u64),
        is_reply: bool,
        own: Option<u32>,
        now: u32,
        stuck: Option<Rival>,
    ) -> Result<(), Obstacle> {
        // Nearly always no other key has even the tag. Whoever is about to put one in looks after us (the fences).
        if Index::new(table.index.words()).alike(hash) == Some(u32::from(own.is_some())) {
            return Ok(());
        }
        let obstacle = table.matching_but(own, key, hash, |id, direction, place| {
            let row = place.row;
            let mut life = Life(row[LIFE].get());
            if let (Phase::Pending, Some(own)) = (life.phase(), own) {
                let rival = Some(Rival { row: id, life: life.0 });
                if id < own && rival != stuck {
                    return Some(Obstacle::Pending(rival));
                }
                match row[LIFE].exchange(life.0, life.to(Phase::Dead).0) {
                    Ok(_) => return None,
                    Err(now) => life = Life(now),
                }
            }
            if life.phase() != Phase::Live {
                return None;
            }
            if is_expired(row, now) {
                self.expire(table, id, life);
                return None;
            }
            Some(Obstacle::Fatal(if is_reply {
                CreateError::ReplyTaken
            } else {
                CreateError::Exists(table.read(id, direction, life, &place))
            }))
        });
        obstacle.map_or(Ok(()), Err)
    }

    /// [`Writer::take_out`] of an entry that was idle for too long.
    pub(super) fn expire<M: Memory>(&mut self, table: &Table<M>, id: u32, life: Life) -> bool {
        let expired = self.take_out(table, id, life);
        if expired {
            self.count(table, count::EXPIRED);
        }
        expired
    }

    /// `Live → Dead`, and out of the index. `false`: someone else did, or it is another use of the memory.
    pub(super) fn take_out<M: Memory>(&mut self, table: &Table<M>, id: u32, life: Life) -> bool {
        let Some(place) = table.place(id) else { return false };
        let row = place.row;
        if row[LIFE].exchange(life.0, life.to(Phase::Dead).0).is_err() {
            return false;
        }
        // From here on no packet moves its state, so it is counted out of its class exactly once.
        if Activity(row[ACTIVITY].replace(0)).progress().is_half_open() {
            self.count(table, count::HALF_CLOSED);
        }
        let index = Index::new(table.index.words());
        let [original, reply] = [Direction::Original, Direction::Reply]
            .map(|direction| self.seed.hash(&tuple(&place, direction)));
        index.withdraw(original, id, false);
        index.withdraw(reply, id, true);
        self.reserve.retire(&table.rows, id);
        self.count(table, count::REMOVED);
        true
    }
}
