//! Service rows and backend sets in the segment: how they are read; [`backends`] writes them.
//!
//! ```text
//! service, one 64-byte line                     backend record, 32 bytes
//!   0  id | affinity seconds << 32                0,1  address
//!   1  flags | records << 16 | names Ref << 32      2  port | flags << 16 | id << 32
//!   2  cluster set: count | when empty << 16        3  weight
//!      | form << 24 | table slots << 32
//!   3  cluster table Ref | records Ref << 32     Maglev table: record numbers, packed as
//!   4  local set, as 2                           `maglev` does it (4, 8 or 16 bits each)
//!   5  local table Ref
//!   6  source ranges Ref | their number << 32
//!   7  0
//! ```
//! Both sets' tables number the same records; a local set that equals the cluster set shares its table, and one that
//! no frontend uses isn't made. A service of up to 256 backends (form 0) has its records in one block, in the order of their addresses,
//! and each table in one; a larger one (form 1) has both in pieces that a change shares: see [`large`].
//!
//! Cost of `service` and `pick`: the row's line, one line of the table, one of the records; two lines of directories more for a
//! large service. Memory with 10 backends: 64 + 1,536 + 320 bytes here, plus names, frontends and index.

mod backends;
mod large;
pub mod ranges;

use crate::{
    cold,
    layout::{high, low},
    maglev,
    row::{Backend, BackendSet, Service, ServiceId, SetChoice, WhenEmpty},
    words::{Ref, Words},
};
use millrace_wire::Addr;

pub use backends::{Backends, Before};
pub use ranges::Ranges;

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
        large: word >> 24 & 1 == 1,
        local,
        table: low(table),
        records,
        total,
    }
}

/// Reads the row at `at`.
#[inline]
pub fn read(words: Words<'_>, at: Ref) -> Service {
    let [head, flags, cluster, cluster_refs, local, local_refs, ranges] =
        std::array::from_fn(|i| words.at(at, i));
    let records = Ref::from_raw(high(cluster_refs));
    let total = (flags >> 16) as u16;
    Service {
        id: ServiceId(head as u32),
        affinity_seconds: high(head),
        flags: flags as u16,
        names: Ref::from_raw(high(flags)),
        ranges: Ranges { at: low(ranges), count: high(ranges) },
        cluster: read_set(cluster, cluster_refs, records, total, false),
        local: read_set(local, local_refs, records, total, true),
    }
}

/// Reads the set that a choice of the row at `at` picks from.
#[inline]
pub fn read_set_of(words: Words<'_>, at: Ref, choice: SetChoice) -> BackendSet {
    let (first, local) = match choice {
        SetChoice::Cluster => (2, false),
        SetChoice::Local => (4, true),
    };
    let records = Ref::from_raw(high(words.at(at, 3)));
    let total = (words.at(at, 1) >> 16) as u16;
    read_set(words.at(at, first), words.at(at, first + 1), records, total, local)
}

/// Reads record `index` of a set's service; `None` also for a number that no backend has.
#[inline]
pub fn backend(words: Words<'_>, set: &BackendSet, index: u16) -> Option<Backend> {
    if index >= set.total {
        return None;
    }
    let (at, base) = if set.large {
        large::record(words, set.records, index)
    } else {
        (set.records, usize::from(index) * RECORD_WORDS)
    };
    let [high, low, word] = std::array::from_fn(|i| words.at(at, base + i));
    (word as u16 != 0).then(|| Backend {
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
    let (total, slots) = (usize::from(set.total), set.slots as usize);
    let index = if set.large {
        large::pick(words, set.table, total, slots, hash)
    } else {
        maglev::pick(words, set.table, total, slots, hash)
    };
    backend(words, set, index as u16)
}

/// The backend of the service that `set` is of at this address and port, whichever set it is in. By halves for a service of up to 256
/// backends, one after the other in a larger one.
pub fn find(words: Words<'_>, set: &BackendSet, addr: &Addr, port: u16) -> Option<Backend> {
    if set.large {
        return (0..set.total)
            .filter_map(|index| backend(words, set, index))
            .find(|backend| (backend.addr, backend.port) == (*addr, port));
    }
    let (mut low, mut high) = (0, set.total);
    while low < high {
        let middle = low + (high - low) / 2;
        let here = backend(words, set, middle)?;
        match (here.addr, here.port).cmp(&(*addr, port)) {
            std::cmp::Ordering::Equal => return Some(here),
            std::cmp::Ordering::Less => low = middle + 1,
            std::cmp::Ordering::Greater => high = middle,
        }
    }
    None
}

/// All backends of a set.
pub fn backends<'a>(words: Words<'a>, set: &BackendSet) -> impl Iterator<Item = Backend> + use<'a> {
    let set = *set;
    let member = if set.local { Backend::IN_LOCAL } else { Backend::IN_CLUSTER };
    (0..set.total)
        .filter_map(move |index| backend(words, &set, index))
        .filter(move |b| b.flags & member != 0)
}

/// All backends of a service with their names (cold).
pub fn named_backends<'a>(
    words: Words<'a>,
    service: &Service,
) -> impl Iterator<Item = (Backend, String)> + use<'a> {
    let set = service.cluster;
    let mut names = cold::read(words, service.names);
    if !set.large {
        // The service's own come first.
        names.nth(1);
    }
    (0..set.total).filter_map(move |index| {
        if set.large && usize::from(index).is_multiple_of(large::RECORDS) {
            names = large::names(words, set.records, index);
        }
        let name = names.next();
        Some((backend(words, &set, index)?, name?))
    })
}
