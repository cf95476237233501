//! The state segment: one memfd, where what is, who may do what with it, and how an engine takes it over.
//!
//! ```text
//! epochs        the tables' part: a header and a line per reader of tables (millrace_tables::epoch)
//! directory     one line: boot seed and sizes, from which every place below follows
//! workers       a line per worker
//! counters      per worker and interface COUNTERS words, rounded up to lines
//! policies      per worker counters of policies, and their labels
//! neighbors     head, index, rows
//! affinity      places of clients: a quarter as many as connections
//! conntrack     pool, entries, what else IPv6 entries need
//! ```
//!
//! Conntrack's index is not in it: it follows from the entries, whoever takes the segment over makes it anew, and nobody else needs
//! it. In the engine's private memory it lies in huge pages (`shm::Scratch`), so that a packet's bucket is fetched without a page walk.
//!
//! Memory: the file is sparse; pages cost from their first store on. At full use conntrack takes 64 bytes an
//! IPv4 flow and 112 an IPv6 one here and 16 in the index, affinity a line a client, neighbors 72, a counter 8.
//!
//! The layout hash in the epochs' header covers the sizes of all structures and the names of all
//! counters, so that a command or an engine of another build is refused ([`Error::Layout`]) and never misreads.

use super::affinity::{self, Affinity};
use super::conntrack::{self, Conntrack, Limits, Table, Timeouts};
use super::counters::{CounterBlock, Counters, WORKER_WORDS, WorkerInfo, WorkerLine};
use super::neighbor::{self, Neighbor, Neighbors, Occupancy};
use super::policy::{self, PolicyBook, PolicyCounters};
use super::word::{Memory, Region, Word};
use crate::clock::Nanos;
use crate::counters::{COUNTERS, describe};
use crate::flow::Seed;
use millrace_tables::InterfaceId;
use millrace_tables::epoch::{self, Epochs, Slots};
use millrace_tables::shm::{self, Seals};
use std::ops::Range;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

/// Words in a cache line.
const LINE: usize = 8;
/// Readers of tables beside the workers: housekeeping, and observers inside the engine.
pub const OTHER_READERS: usize = 8;
/// Most workers.
pub const MAX_WORKERS: usize = 256;
/// Most interfaces.
pub const MAX_INTERFACES: usize = 4095;

/// Why a segment can't be made, taken over or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The memory itself.
    #[error("state segment: {0}")]
    Memory(#[from] millrace_tables::Error),
    /// A size out of bounds.
    #[error("state segment: {what} = {value} is not between {least} and {most}")]
    Size {
        /// Which.
        what: &'static str,
        /// What was asked for.
        value: u64,
        /// The least.
        least: u64,
        /// The most.
        most: u64,
    },
    /// Made by another build.
    #[error(
        "state segment has layout {found:#018x}, this build has {ours:#018x}: use the command (or engine) of the same version"
    )]
    Layout {
        /// The segment's.
        found: u64,
        /// Ours.
        ours: u64,
    },
    /// Another engine configuration made it.
    #[error(
        "state segment was made for {found:?}, wanted is {wanted:?}: its contents can't be taken over"
    )]
    OtherSizes {
        /// The segment's.
        found: Sizes,
        /// Ours.
        wanted: Sizes,
    },
    /// There is no such worker.
    #[error("no worker {worker}: the state segment was made for {workers}")]
    NoWorker {
        /// The one asked for.
        worker: usize,
        /// How many there are.
        workers: usize,
    },
    /// The directory contradicts the file.
    #[error(
        "state segment of {words} words is too short for what its directory says ({wanted} words)"
    )]
    Short {
        /// What it has.
        words: usize,
        /// What it should have.
        wanted: usize,
    },
}

/// What a segment is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Worker threads, at most [`MAX_WORKERS`].
    pub workers: usize,
    /// Interfaces, at most [`MAX_INTERFACES`].
    pub interfaces: usize,
    /// Flows, within [`conntrack::CAPACITY`].
    pub conntrack_entries: u32,
    /// Neighbors, within [`neighbor::CAPACITY`].
    pub neighbor_entries: u32,
}

impl Sizes {
    fn check(&self) -> Result<(), Error> {
        let bounds = [
            ("workers", self.workers as u64, 1, MAX_WORKERS as u64),
            ("interfaces", self.interfaces as u64, 0, MAX_INTERFACES as u64),
            (
                "conntrack entries",
                u64::from(self.conntrack_entries),
                u64::from(*conntrack::CAPACITY.start()),
                u64::from(*conntrack::CAPACITY.end()),
            ),
            (
                "neighbor entries",
                u64::from(self.neighbor_entries),
                u64::from(*neighbor::CAPACITY.start()),
                u64::from(*neighbor::CAPACITY.end()),
            ),
        ];
        match bounds.into_iter().find(|(_, value, least, most)| !(least..=most).contains(&value)) {
            Some((what, value, least, most)) => Err(Error::Size { what, value, least, most }),
            None => Ok(()),
        }
    }
}

/// How the structures behave; may differ from one engine to its successor.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Idle timeouts of flows.
    pub timeouts: Timeouts,
    /// Bounds within conntrack.
    pub limits: Limits,
    /// Most neighbors that are waited for at once.
    pub incomplete_neighbors: u32,
}

impl Settings {
    /// The defaults for these sizes: a quarter of conntrack for unfinished handshakes, a quarter of the
    /// neighbors for those not known yet.
    pub fn of(sizes: &Sizes) -> Self {
        Self {
            timeouts: Timeouts::default(),
            limits: Limits { half_open: sizes.conntrack_entries / 4 },
            incomplete_neighbors: sizes.neighbor_entries / 4,
        }
    }
}

/// Where everything is, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Plan {
    directory: Range<usize>,
    workers: Range<usize>,
    counters: Range<usize>,
    policies: Range<usize>,
    labels: Range<usize>,
    neighbor_head: Range<usize>,
    neighbor_index: Range<usize>,
    neighbor_rows: Range<usize>,
    affinity: Range<usize>,
    conntrack_pool: Range<usize>,
    conntrack_rows: Range<usize>,
    conntrack_sides: Range<usize>,
}

/// Words of a counter block.
const BLOCK: usize = COUNTERS.next_multiple_of(LINE);

impl Plan {
    fn of(sizes: &Sizes) -> Self {
        let neighbors = neighbor::Layout::of(sizes.neighbor_entries);
        let conntrack = conntrack::Layout::of(sizes.conntrack_entries, handles(sizes));
        let mut end = epoch::bytes(readers(sizes)) / shm::WORD;
        let mut next = |words: usize| {
            let start = end.next_multiple_of(LINE);
            end = start + words;
            start..end
        };
        Self {
            directory: next(LINE),
            workers: next(sizes.workers * WORKER_WORDS),
            counters: next(sizes.workers * sizes.interfaces * BLOCK),
            policies: next(sizes.workers * policy::BLOCK),
            labels: next(policy::LABELS),
            neighbor_head: next(neighbors.head),
            neighbor_index: next(neighbors.index),
            neighbor_rows: next(neighbors.rows),
            affinity: next(affinity::words_for(sizes.conntrack_entries / 4)),
            conntrack_pool: next(conntrack.pool),
            conntrack_rows: next(conntrack.rows),
            conntrack_sides: next(conntrack.sides),
        }
    }

    fn words(&self) -> usize {
        self.conntrack_sides.end
    }
}

/// Lines among the epochs: workers first, then the others.
fn readers(sizes: &Sizes) -> usize {
    sizes.workers + OTHER_READERS
}

/// Handles on conntrack: workers first, then housekeeping.
fn handles(sizes: &Sizes) -> usize {
    sizes.workers + 1
}

/// FNV-1a over everything that two builds must agree on.
fn layout_hash() -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut feed = |byte: u8| hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    // The number goes up when the meaning of a word changes and no size does.
    let one = Sizes { workers: 1, interfaces: 1, conntrack_entries: 1 << 10, neighbor_entries: 16 };
    for number in [5, Plan::of(&one).words(), OTHER_READERS, COUNTERS, WORKER_WORDS] {
        number.to_le_bytes().into_iter().for_each(&mut feed);
    }
    for name in (0..COUNTERS).filter_map(describe).map(|counter| counter.name) {
        name.bytes().chain([0]).for_each(&mut feed);
    }
    hash
}

/// What anybody may see of a state segment, the engine's own or one mapped read-only.
#[derive(Clone, Debug)]
pub struct View {
    memory: Arc<shm::Segment>,
    sizes: Sizes,
    plan: Plan,
    seed: Seed,
    /// Of conntrack: the engine's own, or empty.
    index: Region,
}

impl View {
    /// Maps the state of a running engine for reading.
    pub fn open(fd: OwnedFd) -> Result<Self, Error> {
        Self::of(Arc::new(shm::Segment::open(fd)?))
    }

    fn of(memory: Arc<shm::Segment>) -> Result<Self, Error> {
        let epochs = Epochs::open(Arc::clone(&memory))?;
        let ours = layout_hash();
        if epochs.layout() != ours {
            return Err(Error::Layout { found: epochs.layout(), ours });
        }
        // The directory follows the epochs, whose number their header tells.
        let start = (epoch::bytes(epochs.count()) / shm::WORD).next_multiple_of(LINE);
        let directory = Region::new(&memory, start..start + LINE);
        let short = |wanted| Error::Short { words: memory.words().len(), wanted };
        let directory = directory.ok_or_else(|| short(start + LINE))?;
        let word = |index: usize| directory.words().get(index).map_or(0, Word::get);
        let number = |index: usize| usize::try_from(word(index)).unwrap_or(usize::MAX);
        let small = |index: usize| u32::try_from(word(index)).unwrap_or(u32::MAX);
        let sizes = Sizes {
            workers: number(2),
            interfaces: number(3),
            conntrack_entries: small(4),
            neighbor_entries: small(5),
        };
        sizes.check()?;
        let plan = Plan::of(&sizes);
        if plan.directory.start != start || plan.words() > memory.words().len() {
            return Err(short(plan.words()));
        }
        let seed = Seed::from_words([word(0), word(1)]);
        let index = conntrack::Layout::of(sizes.conntrack_entries, handles(&sizes)).index;
        Ok(Self { memory, sizes, plan, seed, index: Region::private(index)? })
    }

    fn region(&self, range: &Range<usize>) -> Result<Region, Error> {
        let short = || Error::Short { words: self.memory.words().len(), wanted: range.end };
        Region::new(&self.memory, range.clone()).ok_or_else(short)
    }

    /// What it was made for.
    pub fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// Flows: for listing, and in the engine itself for finding.
    pub fn conntrack(&self) -> Result<Table, Error> {
        let index = self.index.clone();
        let rows = self.region(&self.plan.conntrack_rows)?;
        let sides = self.region(&self.plan.conntrack_sides)?;
        let pool = self.region(&self.plan.conntrack_pool)?;
        let capacity = self.sizes.conntrack_entries;
        Table::new(index, rows, sides, pool, capacity, handles(&self.sizes))
            .ok_or_else(|| self.mismatch())
    }

    fn neighbor_table(&self, incomplete: u32) -> Result<Neighbors, Error> {
        let head = self.region(&self.plan.neighbor_head)?;
        let index = self.region(&self.plan.neighbor_index)?;
        let rows = self.region(&self.plan.neighbor_rows)?;
        let capacity = self.sizes.neighbor_entries;
        Neighbors::new(head, index, rows, capacity, incomplete, self.seed)
            .ok_or_else(|| self.mismatch())
    }

    fn affinity(&self) -> Result<Affinity, Error> {
        let memory = self.region(&self.plan.affinity)?;
        Affinity::new(memory, self.seed).ok_or_else(|| self.mismatch())
    }

    fn mismatch(&self) -> Error {
        Error::Short { words: self.memory.words().len(), wanted: self.plan.words() }
    }

    /// The neighbors, and how full their table is.
    pub fn neighbors(&self, now: Nanos) -> Result<(Vec<Neighbor>, Occupancy), Error> {
        let table = self.neighbor_table(1)?;
        Ok((table.neighbors(now).collect(), table.occupancy()))
    }

    /// The counter at `place` of one worker and interface; 0 if there is none.
    pub fn counter(&self, worker: usize, interface: InterfaceId, place: usize) -> u64 {
        let block = self.block(worker, usize::from(interface.0));
        block.ok().and_then(|block| Some(block.words().get(place)?.get())).unwrap_or(0)
    }

    fn block(&self, worker: usize, interface: usize) -> Result<Region, Error> {
        if worker >= self.sizes.workers || interface >= self.sizes.interfaces {
            return Err(Error::NoWorker { worker, workers: self.sizes.workers });
        }
        let start = self.plan.counters.start + (worker * self.sizes.interfaces + interface) * BLOCK;
        self.region(&(start..start + COUNTERS))
    }

    fn worker_line(&self, worker: usize) -> Result<WorkerLine, Error> {
        if worker >= self.sizes.workers {
            return Err(Error::NoWorker { worker, workers: self.sizes.workers });
        }
        let start = self.plan.workers.start + worker * WORKER_WORDS;
        Ok(WorkerLine::new(self.region(&(start..start + WORKER_WORDS))?))
    }

    fn policy_counters(&self, worker: usize) -> Result<PolicyCounters, Error> {
        if worker >= self.sizes.workers {
            return Err(Error::NoWorker { worker, workers: self.sizes.workers });
        }
        let start = self.plan.policies.start + worker * policy::BLOCK;
        Ok(PolicyCounters::new(self.region(&(start..start + policy::BLOCK))?))
    }

    /// What policies allowed and denied.
    pub fn policies(&self) -> Result<PolicyBook, Error> {
        let workers = (0..self.sizes.workers).map(|worker| self.policy_counters(worker));
        Ok(PolicyBook {
            workers: workers.collect::<Result<_, _>>()?,
            labels: self.region(&self.plan.labels)?,
        })
    }

    /// The workers.
    pub fn workers(&self) -> Vec<WorkerInfo> {
        (0..self.sizes.workers)
            .filter_map(|worker| Some(self.worker_line(worker).ok()?.read(worker)))
            .collect()
    }
}

/// The segment as its engine holds it.
#[derive(Clone, Debug)]
pub struct Segment {
    view: View,
    slots: Slots,
}

impl Segment {
    /// Makes an empty segment. `seed` is secret and random in a live engine, zero where runs are repeated.
    pub fn create(sizes: &Sizes, seed: [u64; 2]) -> Result<Self, Error> {
        sizes.check()?;
        let plan = Plan::of(sizes);
        let memory =
            shm::Segment::create("millrace-state", plan.words() * shm::WORD, Seals::Shared)?;
        let memory = Arc::new(memory);
        let directory = [
            seed[0],
            seed[1],
            sizes.workers as u64,
            sizes.interfaces as u64,
            u64::from(sizes.conntrack_entries),
            u64::from(sizes.neighbor_entries),
        ];
        for (word, value) in memory.words()[plan.directory.clone()].iter().zip(directory) {
            word.set(value);
        }
        // Its header is what makes it a state segment, so it comes last.
        let slots = Slots::create(Arc::clone(&memory), readers(sizes), layout_hash())?;
        let view = View::of(memory)?;
        view.conntrack()?.initialize();
        Ok(Self { view, slots })
    }

    /// Takes over the segment of an engine that is gone, however it went. `sizes` are those wanted now;
    /// interfaces must be the same ones in the same order. Flows in force and complete neighbors stay.
    pub fn adopt(fd: OwnedFd, sizes: &Sizes) -> Result<Self, Error> {
        let memory = Arc::new(shm::Segment::open_writable(fd)?);
        let view = View::of(Arc::clone(&memory))?;
        if view.sizes != *sizes {
            return Err(Error::OtherSizes { found: view.sizes, wanted: *sizes });
        }
        let slots = Slots::create(memory, readers(sizes), layout_hash())?;
        view.conntrack()?.adopt(&view.seed);
        view.neighbor_table(1)?.adopt();
        view.affinity()?.adopt();
        Ok(Self { view, slots })
    }

    /// What anybody may see.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// The file, to hand to control and commands.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.view.memory.fd()
    }

    /// The readers of tables: workers by their numbers, then housekeeping.
    pub fn slots(&self) -> &Slots {
        &self.slots
    }

    /// The key of all hashes.
    pub fn seed(&self) -> Seed {
        self.view.seed
    }

    /// Worker `worker`'s handle on conntrack; housekeeping's is number `workers`.
    pub fn conntrack(&self, worker: usize, settings: &Settings) -> Result<Conntrack, Error> {
        if worker >= handles(&self.view.sizes) {
            return Err(Error::NoWorker { worker, workers: self.view.sizes.workers });
        }
        let table = self.view.conntrack()?;
        Ok(Conntrack::new(table, worker, self.view.seed, settings.timeouts, settings.limits))
    }

    /// Backends that clients keep.
    pub fn affinity(&self) -> Result<Affinity, Error> {
        self.view.affinity()
    }

    /// The neighbors.
    pub fn neighbors(&self, settings: &Settings) -> Result<Neighbors, Error> {
        self.view.neighbor_table(settings.incomplete_neighbors)
    }

    /// Worker `worker`'s counters.
    pub fn counters(&self, worker: usize) -> Result<Counters, Error> {
        let blocks: Result<Vec<_>, Error> = (0..self.view.sizes.interfaces)
            .map(|interface| Ok(CounterBlock::new(self.view.block(worker, interface)?)))
            .collect();
        let nowhere = self.view.plan.directory.start..self.view.plan.directory.start;
        Ok(Counters {
            interfaces: blocks?.into_boxed_slice(),
            nowhere: CounterBlock::new(self.view.region(&nowhere)?),
            worker: self.view.worker_line(worker)?,
            policies: self.view.policy_counters(worker)?,
        })
    }
}

#[cfg(test)]
mod tests;
