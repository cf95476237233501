//! The backend of a new flow, found for many packets at once: each step reads what the one before has asked for, so that the
//! misses of the packets overlap instead of following each other.
//!
//! Answers what [`Snapshot::frontend`], [`Snapshot::service`] and [`Snapshot::pick`] answer one after the other. A service of more
//! than 256 backends is left to them: there are few of these, and their tables stay near.
//!
//! Cost: four lines, none waited for if a handful of packets lies between two steps: the frontend's, the service's, one of
//! the Maglev table, the backend's.

use millrace_wire::Addr;

use crate::{
    index,
    layout::root,
    maglev,
    row::{Backend, BackendSet, Frontend},
    service,
    tables::{Snapshot, frontend_key, frontend_of},
    trie,
    words::Ref,
};

/// A search under way.
#[derive(Clone, Copy, Debug)]
pub struct Search {
    key: [u64; 3],
    /// The key's.
    hash: u64,
    /// What chooses the backend.
    choice: u64,
    row: Ref,
    record: u16,
    /// The frontend, if the address, port and protocol have one. Known from [`Snapshot::search_service`] on.
    pub frontend: Option<Frontend>,
    /// The set of backends that it picks from. Known from [`Snapshot::search_slot`] on.
    set: Option<BackendSet>,
    /// The backend. Known from [`Snapshot::search_end`] on.
    pub backend: Option<Backend>,
}

impl<'a> Snapshot<'a> {
    /// Begins a search for the frontend on this address, port and protocol, and for the backend that `choice` falls to.
    #[inline]
    pub fn search(&self, addr: &Addr, port: u16, protocol: u8, choice: u64) -> Search {
        let key = frontend_key(addr, port, protocol);
        let hash = trie::hash(self.seed(), &key);
        trie::prefetch::<4>(self.view(), self.slot(root::FRONTENDS), hash);
        let (row, record) = (Ref::NULL, 0);
        Search { key, hash, choice, row, record, frontend: None, set: None, backend: None }
    }

    /// Finds the frontend.
    #[inline]
    pub fn search_service(&self, search: &mut Search) {
        let Search { key, hash, .. } = search;
        let found: Option<[u64; 1]> =
            trie::find(self.view(), self.slot(root::FRONTENDS), *hash, key);
        if let Some([word]) = found {
            let frontend = frontend_of(word);
            search.frontend = Some(frontend);
            search.row = index::find(self.view(), self.slot(root::SERVICES), frontend.service.0);
            self.view().prefetch(search.row, 0);
        }
    }

    /// Finds the service.
    #[inline]
    pub fn search_slot(&self, search: &mut Search) {
        if let Some(frontend) = search.frontend
            && !search.row.is_null()
        {
            let set = service::read_set_of(self.view(), search.row, frontend.set);
            search.set = Some(set);
            if set.slots != 0 && !set.large {
                let word = maglev::word(usize::from(set.total), set.slots as usize, search.choice);
                self.view().prefetch(set.table, word);
            }
        }
    }

    /// Finds the backend's number.
    #[inline]
    pub fn search_backend(&self, search: &mut Search) {
        if let Some(set) = &search.set
            && set.slots != 0
            && !set.large
        {
            let (total, slots) = (usize::from(set.total), set.slots as usize);
            let record = maglev::pick(self.view(), set.table, total, slots, search.choice) as u16;
            search.record = record;
            self.view().prefetch(set.records, usize::from(record) * service::RECORD_WORDS);
        }
    }

    /// Finds the backend.
    #[inline]
    pub fn search_end(&self, search: &mut Search) {
        if let Some(set) = &search.set
            && set.slots != 0
            && !set.large
        {
            search.backend = service::backend(self.view(), set, search.record);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        BackendSpec, FrontendKind, FrontendSpec, SegmentConfig, ServiceSpec, SetChoice, Writer,
    };

    fn addr(a: u8, b: u8, c: u8, d: u8) -> Addr {
        Addr::from_v4([a, b, c, d])
    }

    /// Services with 0 to 12 backends, and a large one.
    fn writer() -> Writer {
        let config = SegmentConfig { bytes: 64 << 20, ..SegmentConfig::default() };
        let mut writer = Writer::create(&config).unwrap();
        for number in 0..40u8 {
            let count = if number == 39 { 300 } else { u16::from(number % 13) };
            let backend = |k: u16| BackendSpec {
                addr: addr(10, number, (k >> 8) as u8, k as u8),
                port: 8080,
                name: format!("pod-{k}"),
                weight: 1,
                local: k.is_multiple_of(2),
                terminating: false,
                in_cluster: true,
                in_local: k.is_multiple_of(2),
            };
            let frontend = |port, set| FrontendSpec {
                addr: addr(172, 30, 0, number),
                port,
                protocol: 6,
                kind: FrontendKind::CLUSTER_IP,
                set,
                flags: 0,
            };
            let spec = ServiceSpec {
                name: format!("default/s{number}"),
                frontends: vec![frontend(80, SetChoice::Cluster), frontend(81, SetChoice::Local)],
                backends: (0..count).map(backend).collect(),
                ..ServiceSpec::default()
            };
            writer.set_service(&format!("s{number}"), &spec).unwrap();
        }
        writer.publish().unwrap();
        writer
    }

    #[test]
    fn a_search_finds_what_the_lookups_find() {
        let writer = writer();
        let tables = writer.tables();
        let snapshot = tables.snapshot();
        let mut found = 0;
        for number in 0..42u8 {
            for port in 79..83u16 {
                for choice in (0..64u64).map(|i| i << 58 | i) {
                    let vip = addr(172, 30, 0, number);
                    let mut search = snapshot.search(&vip, port, 6, choice);
                    snapshot.search_service(&mut search);
                    snapshot.search_slot(&mut search);
                    snapshot.search_backend(&mut search);
                    snapshot.search_end(&mut search);
                    let frontend = snapshot.frontend(&vip, port, 6);
                    assert_eq!(search.frontend, frontend);
                    let Some(frontend) = frontend else { continue };
                    let set = *snapshot.service(frontend.service).unwrap().set(frontend.set);
                    let picked = snapshot.pick(&set, choice);
                    assert_eq!(search.backend, if set.large { None } else { picked });
                    found += usize::from(search.backend.is_some());
                }
            }
        }
        assert!(found > 4000, "{found}");
    }
}
