//! Service rows and backend sets in the segment: how they are read and written.
//!
//! ```text
//! service, one 64-byte line                     backend record, 32 bytes
//!   0  id | affinity seconds << 32                0,1  address
//!   1  flags | records << 16 | names Ref << 32      2  port | flags << 16 | id << 32
//!   2  cluster set: count | when empty << 16        3  weight
//!      | table slots << 32
//!   3  cluster table Ref | records Ref << 32     Maglev table: record numbers, packed as
//!   4  local set, as 2                           `maglev` does it (4, 8 or 16 bits each)
//!   5  local table Ref
//!   6,7  0, for source ranges
//! ```
//! Both sets' tables number the same records; a local set that equals the cluster set shares its table, and one that
//! no frontend uses isn't made.
//!
//! Cost of `service` and `pick`: the row's line, one line of the table, one of the records. Memory with 10 backends: 64 + 1,024 + 320
//! bytes here, plus names, frontends and index.

use crate::{
    arena::{Arena, Table},
    error::Error,
    layout::{high, low, pack},
    maglev,
    row::{Backend, BackendSet, Service, ServiceId, WhenEmpty},
    spec::{BackendSpec, ServiceSpec},
    words::{Ref, Words},
};
use millrace_wire::Addr;

/// Words of a service row.
pub const ROW_WORDS: usize = 8;
/// Words of a backend record.
pub const RECORD_WORDS: usize = 4;

const _: () = assert!(ROW_WORDS * 8 == 64 && RECORD_WORDS * 8 == 32);

fn read_set(word: u64, table: u64, records: Ref, total: u16, local: bool) -> BackendSet {
    BackendSet {
        count: word as u16,
        when_empty: if word >> 16 & 0xff == 0 { WhenEmpty::Reject } else { WhenEmpty::Drop },
        slots: high(word),
        local,
        table: low(table),
        records,
        total,
    }
}

/// Reads the row at `at`.
#[inline]
pub fn read(words: Words<'_>, at: Ref) -> Service {
    let [head, flags, cluster, cluster_refs, local, local_refs] =
        std::array::from_fn(|i| words.at(at, i));
    let records = Ref::from_raw(high(cluster_refs));
    let total = (flags >> 16) as u16;
    Service {
        id: ServiceId(head as u32),
        affinity_seconds: high(head),
        flags: flags as u16,
        names: Ref::from_raw(high(flags)),
        cluster: read_set(cluster, cluster_refs, records, total, false),
        local: read_set(local, local_refs, records, total, true),
    }
}

/// Reads record `index` of a set's service.
#[inline]
pub fn backend(words: Words<'_>, set: &BackendSet, index: u16) -> Option<Backend> {
    if index >= set.total {
        return None;
    }
    let base = usize::from(index) * RECORD_WORDS;
    let [high, low, word] = std::array::from_fn(|i| words.at(set.records, base + i));
    Some(Backend {
        addr: Addr::from_words([high, low]),
        port: word as u16,
        flags: (word >> 16) as u8,
        id: (word >> 32) as u32,
    })
}

/// The backend that `hash` falls to.
#[inline]
pub fn pick(words: Words<'_>, set: &BackendSet, hash: u64) -> Option<Backend> {
    if set.slots == 0 {
        return None;
    }
    let index = maglev::pick(words, set.table, usize::from(set.total), set.slots as usize, hash);
    backend(words, set, index as u16)
}

/// All backends of a set.
pub fn backends<'a>(words: Words<'a>, set: &BackendSet) -> impl Iterator<Item = Backend> + use<'a> {
    let set = *set;
    let member = if set.local { Backend::IN_LOCAL } else { Backend::IN_CLUSTER };
    (0..set.total)
        .filter_map(move |index| backend(words, &set, index))
        .filter(move |b| b.flags & member != 0)
}

fn table_words(total: u16, slots: u32) -> usize {
    maglev::words_for(usize::from(total), slots as usize)
}

/// What of a service hangs on its backends: kept when only the rest changes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Backends {
    cluster: BackendSet,
    local: BackendSet,
}

impl Backends {
    /// Those of the row at `at`.
    pub fn of(words: Words<'_>, at: Ref) -> Self {
        let Service { cluster, local, .. } = read(words, at);
        Self { cluster, local }
    }

    /// Bytes that [`Backends::write`] may allocate.
    pub fn worst(backends: usize) -> u64 {
        let table = maglev::words_for(backends, maglev::size(backends));
        Arena::bytes_of(backends * RECORD_WORDS) + 2 * Arena::bytes_of(table)
    }

    /// Writes the records (in the order given) and the tables.
    pub fn write(
        arena: &mut Arena,
        spec: &ServiceSpec,
        backends: &[&BackendSpec],
    ) -> Result<Self, Error> {
        let total = u16::try_from(backends.len()).unwrap_or(u16::MAX);
        let mut records = Ref::NULL;
        if total > 0 {
            records = arena.alloc(Table::Backends, backends.len() * RECORD_WORDS)?;
        }
        for (index, backend) in backends.iter().enumerate() {
            let [high, low] = backend.addr.to_words();
            let bits = [
                (backend.local, Backend::LOCAL),
                (backend.terminating, Backend::TERMINATING),
                (backend.in_cluster && backend.weight > 0, Backend::IN_CLUSTER),
                (backend.in_local && backend.weight > 0, Backend::IN_LOCAL),
            ];
            let flags: u8 = bits.iter().filter(|(set, _)| *set).map(|(_, bit)| bit).sum();
            let id = Backend::fingerprint(&backend.addr, backend.port);
            let word = u64::from(backend.port) | u64::from(flags) << 16 | u64::from(id) << 32;
            for (offset, value) in
                [high, low, word, u64::from(backend.weight)].into_iter().enumerate()
            {
                arena.store(records, index * RECORD_WORDS + offset, value);
            }
        }
        let members = |wanted: fn(&BackendSpec) -> bool| -> Vec<u16> {
            (0..total)
                .filter(|&i| {
                    wanted(backends[usize::from(i)]) && backends[usize::from(i)].weight > 0
                })
                .collect()
        };
        let in_cluster = members(|b| b.in_cluster);
        let in_local = if spec.uses_local() { members(|b| b.in_local) } else { Vec::new() };
        let cluster = Self::write_set(arena, backends, &in_cluster)?;
        let local = if in_local == in_cluster {
            cluster
        } else {
            Self::write_set(arena, backends, &in_local)?
        };
        let finish = |set: BackendSet, local| BackendSet { local, records, total, ..set };
        Ok(Self { cluster: finish(cluster, false), local: finish(local, true) })
    }

    fn write_set(
        arena: &mut Arena,
        backends: &[&BackendSpec],
        members: &[u16],
    ) -> Result<BackendSet, Error> {
        if members.is_empty() {
            return Ok(BackendSet::default());
        }
        let entries: Vec<(u64, u16)> = members
            .iter()
            .map(|&index| {
                let BackendSpec { addr, port, weight, .. } = backends[usize::from(index)];
                (maglev::identity(addr, *port, 0), *weight)
            })
            .collect();
        let slots = maglev::size(members.len());
        let chosen = maglev::build(&entries, slots);
        let numbers: Vec<u16> =
            chosen.iter().filter_map(|&entry| members.get(usize::from(entry)).copied()).collect();
        let packed = maglev::pack(&numbers, backends.len());
        let table = arena.alloc(Table::Backends, packed.len())?;
        for (offset, word) in packed.into_iter().enumerate() {
            arena.store(table, offset, word);
        }
        let count = u16::try_from(members.len()).unwrap_or(u16::MAX);
        Ok(BackendSet {
            count,
            slots: u32::try_from(slots).unwrap_or(0),
            table,
            ..BackendSet::default()
        })
    }

    /// Drops records and tables.
    pub fn free(&self, arena: &mut Arena) {
        let Self { cluster, local } = self;
        arena.free(Table::Backends, cluster.records, usize::from(cluster.total) * RECORD_WORDS);
        arena.free(Table::Backends, cluster.table, table_words(cluster.total, cluster.slots));
        if local.table != cluster.table {
            arena.free(Table::Backends, local.table, table_words(local.total, local.slots));
        }
    }

    /// Writes a service row that leads to them.
    pub fn write_row(
        &self,
        arena: &mut Arena,
        id: ServiceId,
        spec: &ServiceSpec,
        names: Ref,
    ) -> Result<Ref, Error> {
        let set = |set: &BackendSet, when_empty: WhenEmpty| {
            let empty = u64::from(when_empty == WhenEmpty::Drop);
            u64::from(set.count) | empty << 16 | u64::from(set.slots) << 32
        };
        let row = [
            u64::from(id.0) | u64::from(spec.affinity_seconds) << 32,
            u64::from(spec.flags)
                | u64::from(self.cluster.total) << 16
                | u64::from(names.raw()) << 32,
            set(&self.cluster, spec.when_cluster_empty),
            pack(self.cluster.table, self.cluster.records.raw()),
            set(&self.local, spec.when_local_empty),
            pack(self.local.table, 0),
            0,
            0,
        ];
        let at = arena.alloc(Table::Services, ROW_WORDS)?;
        for (offset, word) in row.into_iter().enumerate() {
            arena.store(at, offset, word);
        }
        Ok(at)
    }
}
