//! The shared part of conntrack: what every worker, control and `millrace` see of it.
//!
//! Here is all that only reads: finding an entry, the flows for `show conntrack`, the totals.

use super::entry::{
    ACTIVITY, Activity, DECISION, Decision, KIND, Key, LIFE, Life, Phase, Place, ROW, Row, SIDE,
    created, masqueraded, service, tuple as tuple_of,
};
use super::grace;
use super::progress::{TICK, tick, ticks_since};
use super::reserve::{row, used};
use super::tcp::TcpState;
use crate::clock::Nanos;
use crate::flow::{Direction, Tuple};
use crate::state::index::{self, Candidate, Index};
use crate::state::word::{Memory, Region, Word};
use millrace_tables::ServiceId;
use millrace_wire::Addr;
use std::num::NonZeroU64;

/// Smallest and largest number of entries.
pub const CAPACITY: std::ops::RangeInclusive<u32> = 1 << 10..=1 << 24;

/// Words that a table takes, part by part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The index: 8 bytes a key, two keys an entry.
    pub index: usize,
    /// The entries: 64 bytes each.
    pub rows: usize,
    /// What else IPv6 entries need: 48 bytes each.
    pub sides: usize,
    /// Free lists, epochs, and a line per handle.
    pub pool: usize,
}

impl Layout {
    /// Of a table of `capacity` entries that `handles` threads may change.
    pub fn of(capacity: u32, handles: usize) -> Self {
        Self {
            index: index::words_for(2 * capacity as usize),
            rows: capacity as usize * ROW,
            sides: capacity as usize * SIDE,
            pool: grace::pool_words(handles),
        }
    }
}

/// What a packet finds: an entry, and which way the packet goes. One word; what it says is read from the table when needed.
/// Good until the end of the burst it was found in: so long the entry is left as it was.
///
/// Row in bits 0–23, reply direction in 24, always 1 in 31, version in 32–61.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hit(NonZeroU64);

impl Hit {
    #[inline]
    fn new(row: u32, direction: Direction, version: u32) -> Self {
        let low = row & 0xff_ffff | (direction.index() as u32) << 24;
        let some = 1 << 31;
        Self(
            NonZeroU64::new(some | u64::from(low) | u64::from(version) << 32)
                .unwrap_or(NonZeroU64::MIN),
        )
    }

    /// The entry's row.
    #[inline]
    pub(super) fn row(self) -> u32 {
        self.0.get() as u32 & 0xff_ffff
    }

    /// Which use of the row.
    #[inline]
    pub(super) fn version(self) -> u32 {
        (self.0.get() >> 32) as u32
    }

    /// Which way the packet goes.
    #[inline]
    pub fn direction(self) -> Direction {
        Direction::from_bit(self.0.get() >> 24 & 1 != 0)
    }
}

/// An entry as one of its packets finds it, read out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Names the entry.
    pub id: EntryId,
    /// Which way the packet goes.
    pub direction: Direction,
    /// How the packet has to look after NAT; its own tuple when there is none.
    pub translated: Tuple,
    /// New, until a packet of the other direction was seen.
    pub status: Status,
    /// The service whose frontend the flow came to.
    pub service: Option<ServiceId>,
    /// Whether its source was changed to an address of ours.
    pub masqueraded: bool,
    /// Where packets of this direction leave.
    pub decision: Decision,
}

/// Where a packet's entry probably is, or that it is nowhere: as far as the thread that asked has not made it since
/// (`Conntrack::has_made`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hint(u32);

impl Entry {
    /// As it was found.
    pub fn hit(&self) -> Hit {
        Hit::new(self.id.row, self.direction, self.id.version)
    }
}

impl Hint {
    /// Not looked for yet.
    pub const UNKNOWN: Self = Self(u32::MAX);
    /// Not in the table.
    const ABSENT: Self = Self(u32::MAX - 1);
    /// This bit: the packet goes in the reply direction. Below it the row.
    const REPLY: u32 = 1 << 24;

    fn of(candidate: Candidate) -> Self {
        Self(candidate.row | if candidate.second { Self::REPLY } else { 0 })
    }

    /// The entry that it names.
    #[inline]
    pub(super) fn named(self) -> Option<Candidate> {
        (self.0 < Self::ABSENT.0).then(|| self.candidate())
    }

    /// Whether it says that there is no entry.
    #[inline]
    pub fn is_absent(self) -> bool {
        self == Self::ABSENT
    }

    #[inline]
    fn candidate(self) -> Candidate {
        Candidate { row: self.0 & (Self::REPLY - 1), second: self.0 & Self::REPLY != 0 }
    }
}

/// An entry's place, and which use of that place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryId {
    pub(super) row: u32,
    pub(super) version: u32,
}

/// Whether both ends take part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Only the original direction has been seen.
    New,
    /// Both have.
    Established,
}

/// A tracked flow as it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// As the first packet came.
    pub original: Tuple,
    /// As answers come.
    pub reply: Tuple,
    /// The service whose frontend it came to.
    pub service: Option<ServiceId>,
    /// Whether its source was changed to an address of ours.
    pub masqueraded: bool,
    /// TCP's state.
    pub tcp: Option<TcpState>,
    /// Whether answers were seen.
    pub replied: bool,
    /// Since its first packet, to a second.
    pub age: Nanos,
    /// Since its last packet, to a second.
    pub idle: Nanos,
    /// What is left of its timeout if no packet comes.
    pub expires: Nanos,
}

impl Flow {
    /// The backend's address and port, when the destination was translated.
    pub fn backend_endpoint(&self) -> Option<(Addr, u16)> {
        let reply = (self.reply.src, self.reply.sport);
        (reply != (self.original.dst, self.original.dport)).then_some(reply)
    }

    /// Our address and port, when the source was translated.
    pub fn snat(&self) -> Option<(Addr, u16)> {
        let reply = (self.reply.dst, self.reply.dport);
        let differs = reply != (self.original.src, self.original.sport);
        (self.masqueraded || differs).then_some(reply)
    }
}

/// Totals of the table, summed over the handles (each of which counts for itself).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Entries in force.
    pub live: u64,
    /// Of these, TCP handshakes that aren't done.
    pub half_open: u64,
    /// Entries made since the engine started.
    pub created: u64,
    /// Entries removed because they were idle too long.
    pub expired: u64,
    /// New flows refused because there was no entry, or no place in the index.
    pub full: u64,
    /// Inserts taken back because another worker inserted the same tuple meanwhile.
    pub raced: u64,
}

/// The counted words of a handle's line ([`grace::LINE`] words; word 0 is the epoch).
pub(super) mod count {
    pub(in super::super) const CREATED: usize = 1;
    pub(in super::super) const REMOVED: usize = 2;
    pub(in super::super) const HALF_OPENED: usize = 3;
    pub(in super::super) const HALF_CLOSED: usize = 4;
    pub(in super::super) const EXPIRED: usize = 5;
    pub(in super::super) const FULL: usize = 6;
    pub(in super::super) const RACED: usize = 7;
}

/// The shared memory of a conntrack table.
#[derive(Clone, Debug)]
pub struct Table<M: Memory = Region> {
    pub(super) index: M,
    pub(super) rows: M,
    pub(super) sides: M,
    pub(super) pool: M,
    pub(super) capacity: u32,
}

/// Whether the entry has been idle for longer than it may. A timeout of 30 s is over after 31 s at the latest, and never
/// before.
#[inline]
pub(super) fn is_expired<W: Word>(row: &Row<W>, now: u32) -> bool {
    let activity = Activity(row[ACTIVITY].get());
    ticks_since(activity.tick(), now) > activity.progress().timeout()
}

impl<M: Memory> Table<M> {
    /// A table over memory laid out by [`Layout::of`]; `None` if it is too short for that.
    pub fn new(
        index: M,
        rows: M,
        sides: M,
        pool: M,
        capacity: u32,
        handles: usize,
    ) -> Option<Self> {
        let layout = Layout::of(capacity, handles);
        let fits = index.words().len() == layout.index
            && rows.words().len() == layout.rows
            && sides.words().len() == layout.sides
            && pool.words().len() == layout.pool
            && capacity > 0
            && capacity as usize <= index::MAX_ROWS;
        fits.then_some(Self { index, rows, sides, pool, capacity })
    }

    /// Makes the memory an empty table's. It must be all zero, and nobody else may use it yet.
    pub fn initialize(&self) {
        grace::reset(self.pool.words());
    }

    /// The number of entries it has room for.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// The entry `id`.
    #[inline]
    pub(super) fn place(&self, id: u32) -> Option<Place<'_, M::Word>> {
        let row = row(self.rows.words(), id)?;
        Some(Place::new(row, self.sides.words(), id))
    }

    /// Shows `check` the entries that have a key, whatever their phase, until it takes one.
    #[inline]
    pub(super) fn matching<T>(
        &self,
        key: &Key,
        hash: u64,
        check: impl FnMut(u32, Direction, Place<'_, M::Word>) -> Option<T>,
    ) -> Option<T> {
        self.matching_but(None, key, hash, check)
    }

    /// The same, but for the entry `own`.
    #[inline]
    pub(super) fn matching_but<T>(
        &self,
        own: Option<u32>,
        key: &Key,
        hash: u64,
        mut check: impl FnMut(u32, Direction, Place<'_, M::Word>) -> Option<T>,
    ) -> Option<T> {
        Index::new(self.index.words()).find(hash, |candidate| {
            if own == Some(candidate.row) {
                return None;
            }
            let (id, direction, place) = self.confirmed(candidate, key)?;
            check(id, direction, place)
        })
    }

    /// The entry of a candidate, if it has the key.
    #[inline]
    fn confirmed(
        &self,
        candidate: Candidate,
        key: &Key,
    ) -> Option<(u32, Direction, Place<'_, M::Word>)> {
        M::Word::fence_acquire();
        let direction = Direction::from_bit(candidate.second);
        let place = self.place(candidate.row)?;
        key.matches(&place, direction).then_some((candidate.row, direction, place))
    }

    /// The entry of a packet, if its flow is known and hasn't been idle for too long.
    #[inline]
    pub fn find(&self, tuple: &Tuple, hash: u64, now: Nanos) -> Option<Hit> {
        let now = tick(now);
        self.matching(&Key::of(tuple), hash, |id, direction, place| {
            Self::in_force(id, direction, &place, now)
        })
    }

    /// [`Table::find`] for who has a hint from [`Table::probe`]: nearly always the hint is right, and the index need not be
    /// read again.
    #[inline(always)]
    pub fn find_at(&self, hint: Hint, tuple: &Tuple, hash: u64, now: Nanos) -> Option<Hit> {
        if hint == Hint::ABSENT {
            return None;
        }
        if hint != Hint::UNKNOWN
            && let Some((id, direction, place)) = self.confirmed(hint.candidate(), &Key::of(tuple))
            && let Some(hit) = Self::in_force(id, direction, &place, tick(now))
        {
            return Some(hit);
        }
        self.find(tuple, hash, now)
    }

    #[inline]
    fn in_force(
        id: u32,
        direction: Direction,
        place: &Place<'_, M::Word>,
        now: u32,
    ) -> Option<Hit> {
        let life = Life(place.row[LIFE].get());
        (life.phase() == Phase::Live && !is_expired(place.row, now))
            .then(|| Hit::new(id, direction, life.version()))
    }

    /// How the packet has to look after NAT; its own tuple when there is none.
    #[inline(always)]
    pub fn translated(&self, hit: Hit) -> Option<Tuple> {
        Some(tuple_of(&self.place(hit.row())?, hit.direction().reversed()).reversed())
    }

    /// Where packets of this direction leave.
    #[inline]
    pub fn decision(&self, hit: Hit) -> Decision {
        self.place(hit.row()).map_or(Decision::NONE, |place| {
            Decision(place.row[DECISION[hit.direction().index()]].get())
        })
    }

    /// The tuple that packets of one direction come with.
    pub fn tuple(&self, hit: Hit, direction: Direction) -> Option<Tuple> {
        Some(tuple_of(&self.place(hit.row())?, direction))
    }

    /// The flow's first tuple.
    pub fn original(&self, hit: Hit) -> Option<Tuple> {
        Some(tuple_of(&self.place(hit.row())?, Direction::Original))
    }

    /// Entries from here on were never used.
    pub fn used(&self) -> u32 {
        used(self.pool.words(), self.capacity)
    }

    /// For how many seconds a TCP connection that is over has been idle: its tuple may be given to another. `None` for all others.
    pub fn closed_for(&self, hit: Hit, now: Nanos) -> Option<u32> {
        let activity = Activity(self.place(hit.row())?.row[ACTIVITY].get());
        let over = matches!(activity.progress().tcp()?, TcpState::TimeWait | TcpState::Close);
        over.then(|| ticks_since(activity.tick(), tick(now)))
    }

    /// All that the table knows of it.
    pub fn entry(&self, hit: Hit) -> Option<Entry> {
        let life = Life::new(Phase::Live, hit.version(), None);
        Some(self.read(hit.row(), hit.direction(), life, &self.place(hit.row())?))
    }

    pub(super) fn read(
        &self,
        id: u32,
        direction: Direction,
        life: Life,
        place: &Place<'_, M::Word>,
    ) -> Entry {
        let row = place.row;
        let replied = Activity(row[ACTIVITY].get()).progress().is_replied();
        Entry {
            id: EntryId { row: id, version: life.version() },
            direction,
            translated: tuple_of(place, direction.reversed()).reversed(),
            status: if replied { Status::Established } else { Status::New },
            service: service(row[KIND].get()),
            masqueraded: masqueraded(row[KIND].get()),
            decision: Decision(row[DECISION[direction.index()]].get()),
        }
    }

    /// Starts loading the first bucket of `hash`.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        self.index.prefetch(index::place(self.index.words(), hash));
    }

    /// Reads the first bucket of `hash`, and starts loading the entry that it names: of an IPv6 flow, if `wide`, the side
    /// row too.
    #[inline(always)]
    pub fn probe(&self, hash: u64, wide: bool) -> Hint {
        match Index::new(self.index.words()).first_candidate(hash) {
            (Some(candidate), _) => {
                let row = candidate.row as usize;
                self.rows.prefetch(row * ROW);
                if wide {
                    self.sides.prefetch(row * SIDE);
                    self.sides.prefetch(row * SIDE + SIDE - 1);
                }
                Hint::of(candidate)
            }
            (None, true) => Hint::UNKNOWN,
            (None, false) => Hint::ABSENT,
        }
    }

    /// All flows in force and not expired, in the order of their memory. On a read-only mapping of a running engine's
    /// table, an entry that changes hands while it is read is left out; any bytes are survived.
    pub fn flows(&self, now: Nanos) -> impl Iterator<Item = Flow> + '_ {
        let now = tick(now);
        (0..used(self.pool.words(), self.capacity)).filter_map(move |id| {
            let place = self.place(id)?;
            let row = place.row;
            let life = row[LIFE].get();
            if Life(life).phase() != Phase::Live {
                return None;
            }
            M::Word::fence_acquire();
            let [original, reply] = [Direction::Original, Direction::Reply]
                .map(|direction| tuple_of(&place, direction));
            let activity = Activity(row[ACTIVITY].get());
            let kind = row[KIND].get();
            M::Word::fence_acquire();
            if row[LIFE].get() != life {
                return None;
            }
            let idle = ticks_since(activity.tick(), now);
            let progress = activity.progress();
            // Over, though not swept yet: for packets it isn't there.
            (idle <= progress.timeout()).then(|| Flow {
                original,
                reply,
                service: service(kind),
                masqueraded: masqueraded(kind),
                tcp: progress.tcp(),
                replied: progress.is_replied(),
                age: u64::from(ticks_since(created(kind), now)) * TICK,
                idle: u64::from(idle) * TICK,
                expires: u64::from(progress.timeout().saturating_sub(idle)) * TICK,
            })
        })
    }

    /// The totals. Taken while workers run, the parts are of slightly different moments.
    pub fn totals(&self) -> Totals {
        let sum = |word: usize| {
            grace::lines(self.pool.words())
                .iter()
                .fold(0u64, |sum, line| sum.wrapping_add(line[word].get()))
        };
        // A difference can be negative for a moment, when it was counted up here and down there.
        let difference =
            |up, down| u64::try_from(sum(up).wrapping_sub(sum(down)) as i64).unwrap_or(0);
        Totals {
            live: difference(count::CREATED, count::REMOVED),
            half_open: difference(count::HALF_OPENED, count::HALF_CLOSED),
            created: sum(count::CREATED),
            expired: sum(count::EXPIRED),
            full: sum(count::FULL),
            raced: sum(count::RACED),
        }
    }
}
