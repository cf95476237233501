//! The one writer of a tables segment: stages changes, publishes them as one generation, frees what nobody reads.
//!
//! A change is checked whole before anything is touched; one that is refused leaves everything as it was. Nothing staged is
//! visible before [`Writer::publish`], and then all of it at once. Every change costs what it changes: a path of
//! copied nodes in each table it touches, and each node at most once per publication.

mod interfaces;
mod policies;
mod routes;
mod services;
#[cfg(test)]
mod tests;

use crate::{
    arena::{Arena, Table, Usage},
    epoch::{self, Epochs},
    error::Error,
    guard,
    index::Index,
    layout::{self, HEADER_BYTES, ROOT_WORDS, header, root},
    route::Routes,
    rows::Rows,
    shm::{Seals, Segment, WORD},
    sync::Ordering,
    tables::{Snapshot, Tables},
    trie::{self, Trie},
    words::Ref,
};
use millrace_wire::Addr;
use policies::Policies;
use services::{Held, Ids};
use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher, RandomState},
    os::fd::BorrowedFd,
    sync::Arc,
};

/// How a segment is made.
#[derive(Clone, Debug)]
pub struct SegmentConfig {
    /// Bytes of address space; memory is used page by page as tables grow. 2 MiB to 8 GiB.
    pub bytes: usize,
    /// Generation of the empty tables it starts with, at least 1. It has to be larger than any that the engine's
    /// workers still use: a successor's comes from the engine's welcome.
    pub generation: u64,
    /// Seed of the hash tries: secret, so that nobody can choose keys that collide. `None`: random.
    pub seed: Option<u64>,
}

impl Default for SegmentConfig {
    fn default() -> Self {
        Self { bytes: 1 << 30, generation: 1, seed: None }
    }
}

/// Smallest segment: the header, a slab of each size class, and something to work with.
pub const MIN_BYTES: usize = 2 << 20;

/// Who reads the segment: decides when dropped blocks are used again.
#[derive(Debug, Default)]
pub enum Readers {
    /// Not known: nothing is freed.
    #[default]
    Unknown,
    /// Nobody has it mapped, but perhaps this thread between publications: all is freed at once.
    Nobody,
    /// Those who say so in these slots.
    Epochs(Epochs),
}

/// The writer.
#[derive(Debug)]
pub struct Writer {
    arena: Arena,
    tables: Arc<Tables>,
    readers: Readers,
    generation: u64,
    dirty: bool,
    root: Ref,
    /// Kept back so that removals and publications work when the segment is full for insertions.
    margin: u64,

    services: Index,
    held: HashMap<String, Held>,
    ids: Ids,
    frontends: Trie<3, 1>,
    /// Frontends on each address.
    vips: HashMap<Addr, u32>,

    routes: Routes,
    /// Addresses that have a host route of their own, which wins over a VIP's.
    host_routes: HashSet<Addr>,

    interfaces: Index,
    neighbors: Trie<3, 1>,
    node: Ref,
    guards: Rows<{ guard::WORDS }>,

    policies: Policies,
}

impl Writer {
    /// Makes a segment with empty tables, published as generation `config.generation`.
    pub fn create(config: &SegmentConfig) -> Result<Self, Error> {
        let bytes = config.bytes.next_multiple_of(4096);
        if bytes < MIN_BYTES || bytes as u64 > trie::MAX_BYTES || config.generation == 0 {
            return Err(Error::Config {
                why: format!(
                    "a tables segment has {MIN_BYTES} to {} bytes and starts at generation 1 or later (asked: {bytes} bytes, generation {})",
                    trie::MAX_BYTES,
                    config.generation
                ),
            });
        }
        let segment = Arc::new(Segment::create("millrace-tables", bytes, Seals::OneWriter)?);
        let seed = config.seed.unwrap_or_else(|| RandomState::new().hash_one(std::process::id()));
        for (word, value) in [
            (header::ABI, layout::ABI),
            (header::LAYOUT, layout::HASH),
            (header::BYTES, bytes as u64),
            (header::SEED, seed),
            (header::MAGIC, layout::MAGIC),
        ] {
            segment.words()[word].store(value, Ordering::Relaxed);
        }
        let mut writer = Self {
            arena: Arena::new(Arc::clone(&segment), HEADER_BYTES),
            tables: Arc::new(Tables::over(segment)?),
            readers: Readers::Unknown,
            generation: config.generation - 1,
            dirty: true,
            root: Ref::NULL,
            margin: (bytes as u64 / 16).min(1 << 20),
            services: Index::new(Table::Services),
            held: HashMap::new(),
            ids: Ids::default(),
            frontends: Trie::new(Table::Frontends, seed),
            vips: HashMap::new(),
            routes: Routes::new(),
            host_routes: HashSet::new(),
            interfaces: Index::new(Table::Interfaces),
            neighbors: Trie::new(Table::Neighbors, seed),
            node: Ref::NULL,
            guards: Rows::new(Table::Interfaces),
            policies: Policies::new(),
        };
        writer.publish()?;
        Ok(writer)
    }

    /// As [`Writer::create`], to follow the tables that an earlier writer left: generations go on after
    /// theirs, and services get the numbers they had there, so that the engine's connections keep their names.
    pub fn succeed(config: &SegmentConfig, before: Snapshot<'_>) -> Result<Self, Error> {
        let generation = config.generation.max(before.generation().saturating_add(1));
        let mut writer = Self::create(&SegmentConfig { generation, ..config.clone() })?;
        writer.ids = Ids::following(
            before.services().map(|service| (before.service_key(service.id), service.id)),
        );
        Ok(writer)
    }

    /// The segment's file, to hand to readers.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.arena.segment().fd()
    }

    /// A reader on the same memory.
    pub fn tables(&self) -> Arc<Tables> {
        Arc::clone(&self.tables)
    }

    /// Says who reads, from now on.
    pub fn set_readers(&mut self, readers: Readers) {
        self.readers = readers;
    }

    /// The published generation.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether anything is staged.
    pub fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// Makes everything staged visible as the next generation, and frees what can be freed. Without
    /// anything staged the generation stays.
    pub fn publish(&mut self) -> Result<u64, Error> {
        self.reclaim();
        if !self.dirty {
            return Ok(self.generation);
        }
        let routes = self.routes.roots();
        let policy = self.policies.publish(&mut self.arena, self.generation + 1)?;
        let slots = [
            (root::GENERATION, self.generation + 1),
            (root::SERVICES, self.services.root()),
            (root::FRONTENDS, self.frontends.root()),
            (root::ROUTES4, routes.v4.into()),
            (root::ROUTES6, routes.v6.into()),
            (root::POLICY, policy),
            (root::NEIGHBORS, self.neighbors.root()),
            (root::GROUPS, routes.groups),
            (root::INTERFACES, self.interfaces.root()),
            (root::NODE, crate::node::Node::new(self.arena.words(), self.node).word()),
            (root::GUARDS, self.guards.root()),
        ];
        let record = self.arena.alloc_zeroed(Table::Root, ROOT_WORDS)?;
        for (slot, value) in slots {
            self.arena.store(record, slot, value);
        }
        self.arena.free(Table::Root, self.root, ROOT_WORDS);
        self.root = record;
        self.generation += 1;
        self.dirty = false;
        self.arena.commit(self.generation);
        epoch::publish(self.arena.segment().words(), record);
        Ok(self.generation)
    }

    /// The generation that every reader has reached (0 when that isn't known).
    pub fn acknowledged(&self) -> u64 {
        match &self.readers {
            Readers::Unknown => 0,
            Readers::Nobody => self.generation,
            Readers::Epochs(epochs) => epochs.oldest().min(self.generation),
        }
    }

    /// Frees what every reader has passed. [`Writer::publish`] does it too.
    pub fn reclaim(&mut self) {
        self.arena.reclaim(self.acknowledged());
    }

    /// Bytes in use, by table.
    pub fn usage(&self) -> Usage {
        self.arena.usage()
    }

    /// Bytes stored into the segment so far: the cost of changes.
    pub fn written(&self) -> u64 {
        self.arena.written() + WORD as u64
    }

    /// Fails unless a change that allocates `bytes` can be made whole.
    fn room(&self, bytes: u64) -> Result<(), Error> {
        self.arena.reserve(bytes + self.margin)
    }
}
