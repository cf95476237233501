//! Writing the backends of a service: records, Maglev tables, and the row that leads to them.
//!
//! Cost: a service of up to 256 backends is written anew with every change of its backends (10 backends: 1.9 KB), a larger one in the
//! pieces that the change touches. Either way the tables are built anew, which is nearly all of the time.

use super::{RECORD_WORDS, ROW_WORDS, Ranges, large, read};
use crate::{
    arena::{Arena, Table},
    error::Error,
    layout::pack,
    maglev,
    row::{Backend, BackendSet, Service, ServiceId, WhenEmpty},
    spec::{BackendSpec, ServiceSpec},
    words::{Ref, Words},
};

/// What of a service hangs on its backends: kept when only the rest changes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Backends {
    cluster: BackendSet,
    local: BackendSet,
}

/// A service's backends before a change of them.
#[derive(Clone, Copy, Debug)]
pub struct Before<'a> {
    /// As they are in the segment.
    pub written: Backends,
    /// By address and port.
    pub sorted: &'a [&'a BackendSpec],
    /// The number of each, where the service is large.
    pub numbers: &'a [u16],
}

/// The words of a record.
pub(super) fn record_words(backend: &BackendSpec) -> [u64; RECORD_WORDS] {
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
    [high, low, word, u64::from(backend.weight)]
}

fn table_words(set: &BackendSet) -> usize {
    maglev::words_for(usize::from(set.total), set.slots as usize)
}

/// Who has which slot: places in `sorted` of the members of a set.
fn members(sorted: &[&BackendSpec], wanted: impl Fn(&BackendSpec) -> bool) -> Vec<u16> {
    let places = 0..u16::try_from(sorted.len()).unwrap_or(u16::MAX);
    let belongs = |backend: &BackendSpec| backend.weight > 0 && wanted(backend);
    places.filter(|&place| belongs(sorted[usize::from(place)])).collect()
}

/// The Maglev table of these members of `sorted`: a place in `sorted` for each slot.
fn slots(sorted: &[&BackendSpec], members: &[u16]) -> Vec<u16> {
    let entry = |&place: &u16| {
        let BackendSpec { addr, port, weight, .. } = sorted[usize::from(place)];
        (maglev::identity(addr, *port, 0), *weight)
    };
    let entries: Vec<(u64, u16)> = members.iter().map(entry).collect();
    let mut slots = maglev::build(&entries, maglev::size(members.len()));
    for slot in &mut slots {
        *slot = members[usize::from(*slot)];
    }
    slots
}

impl Backends {
    /// Those of the row at `at`.
    pub fn of(words: Words<'_>, at: Ref) -> Self {
        let Service { cluster, local, .. } = read(words, at);
        Self { cluster, local }
    }

    /// Bytes that [`Backends::write`] may allocate.
    pub fn worst(sorted: &[&BackendSpec]) -> u64 {
        if sorted.len() > large::LIMIT {
            return large::worst(sorted);
        }
        let table = maglev::words_for(sorted.len(), maglev::size(sorted.len()));
        Arena::bytes_of(sorted.len() * RECORD_WORDS) + 2 * Arena::bytes_of(table)
    }

    /// Writes records and tables of the backends `sorted` by address and port in place of those before. Answers the number of
    /// each, where the service is large.
    pub fn write(
        arena: &mut Arena,
        spec: &ServiceSpec,
        sorted: &[&BackendSpec],
        before: Before<'_>,
    ) -> Result<(Self, Vec<u16>), Error> {
        let in_cluster = members(sorted, |backend| backend.in_cluster);
        let in_local = members(sorted, |backend| backend.in_local && spec.uses_local());
        if sorted.len() > large::LIMIT {
            return Self::write_large(arena, sorted, before, &in_cluster, &in_local);
        }
        before.written.free(arena);
        let total = u16::try_from(sorted.len()).unwrap_or(u16::MAX);
        let mut records = Ref::NULL;
        if total > 0 {
            records = arena.alloc(Table::Backends, sorted.len() * RECORD_WORDS)?;
        }
        let words = sorted.iter().flat_map(|backend| record_words(backend));
        words.enumerate().for_each(|(offset, word)| arena.store(records, offset, word));
        let mut set = |members: &[u16], local| {
            let slots = slots(sorted, members);
            let mut table = Ref::NULL;
            if !slots.is_empty() {
                let packed = maglev::pack(&slots, sorted.len());
                table = arena.alloc(Table::Backends, packed.len())?;
                for (offset, word) in packed.into_iter().enumerate() {
                    arena.store(table, offset, word);
                }
            }
            Ok(Self::set(members, &slots, local, (table, records, total)))
        };
        let cluster = set(&in_cluster, false)?;
        let local = if in_local == in_cluster {
            BackendSet { local: true, ..cluster }
        } else {
            set(&in_local, true)?
        };
        Ok((Self { cluster, local }, Vec::new()))
    }

    fn write_large(
        arena: &mut Arena,
        sorted: &[&BackendSpec],
        before: Before<'_>,
        in_cluster: &[u16],
        in_local: &[u16],
    ) -> Result<(Self, Vec<u16>), Error> {
        let Before { written, .. } = before;
        let new = if written.cluster.large {
            large::Numbering::after(before.sorted, before.numbers, written.cluster.total, sorted)
        } else {
            large::Numbering::first(sorted.len())
        };
        let old = |set: &BackendSet| (set.large).then_some(*set);
        let was_shared = written.local.table == written.cluster.table;
        let records = large::write_records(arena, old(&written.cluster), &new, sorted)?;
        let mut set = |members: &[u16], local, old: Option<BackendSet>| {
            let slots = slots(sorted, members);
            let numbers: Vec<u16> =
                slots.iter().map(|&place| new.numbers[usize::from(place)]).collect();
            let table = large::write_table(arena, old, &numbers)?;
            let set = Self::set(members, &slots, local, (table, records, new.total));
            Ok(BackendSet { large: true, ..set })
        };
        let cluster = set(in_cluster, false, old(&written.cluster))?;
        let old_local = old(&written.local).filter(|_| !was_shared);
        let local = if in_local == in_cluster {
            if let Some(old) = old_local {
                large::free_table(arena, &old);
            }
            BackendSet { local: true, ..cluster }
        } else {
            set(in_local, true, old_local)?
        };
        if !written.cluster.large {
            written.free(arena);
        }
        Ok((Self { cluster, local }, new.numbers))
    }

    fn set(
        members: &[u16],
        slots: &[u16],
        local: bool,
        (table, records, total): (Ref, Ref, u16),
    ) -> BackendSet {
        BackendSet {
            count: u16::try_from(members.len()).unwrap_or(u16::MAX),
            slots: u32::try_from(slots.len()).unwrap_or(0),
            local,
            table,
            records,
            total,
            ..BackendSet::default()
        }
    }

    /// Drops records and tables.
    pub fn free(&self, arena: &mut Arena) {
        let Self { cluster, local } = self;
        let shared = local.table == cluster.table;
        if cluster.large {
            large::free_records(arena, cluster);
            large::free_table(arena, cluster);
            if !shared {
                large::free_table(arena, local);
            }
            return;
        }
        arena.free(Table::Backends, cluster.records, usize::from(cluster.total) * RECORD_WORDS);
        arena.free(Table::Backends, cluster.table, table_words(cluster));
        if !shared {
            arena.free(Table::Backends, local.table, table_words(local));
        }
    }

    /// The strings of a service's names block: of a large service only its own, as its pieces have their backends'.
    pub fn names<'a>(
        key: &'a str,
        spec: &'a ServiceSpec,
        sorted: &'a [&'a BackendSpec],
    ) -> impl Iterator<Item = &'a str> + Clone {
        let backends = if sorted.len() > large::LIMIT { &[] } else { sorted };
        [key, spec.name.as_str()]
            .into_iter()
            .chain(backends.iter().map(|backend| backend.name.as_str()))
    }

    /// Writes a service row that leads to them.
    pub fn write_row(
        &self,
        arena: &mut Arena,
        id: ServiceId,
        spec: &ServiceSpec,
        names: Ref,
        ranges: Ranges,
    ) -> Result<Ref, Error> {
        let set = |set: &BackendSet, when_empty: WhenEmpty| {
            let empty = u64::from(when_empty == WhenEmpty::Drop);
            u64::from(set.count)
                | empty << 16
                | u64::from(set.large) << 24
                | u64::from(set.slots) << 32
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
            pack(ranges.at, ranges.count),
            0,
        ];
        let at = arena.alloc(Table::Services, ROW_WORDS)?;
        for (offset, word) in row.into_iter().enumerate() {
            arena.store(at, offset, word);
        }
        Ok(at)
    }
}
