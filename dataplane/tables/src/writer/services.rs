//! Staging services: rows, backends, frontends and the VIPs' own host routes.

use super::Writer;
use crate::{
    arena::{Arena, Table},
    cold,
    error::Error,
    index::Index,
    row::{Frontend, ServiceId},
    service::{self, Backends, Before, ROW_WORDS, ranges},
    spec::{BackendSpec, FrontendSpec, ServiceSpec},
    tables::{frontend_key, frontend_value},
    trie::Trie,
    words::Ref,
};
use millrace_wire::Addr;
use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::Arc,
};

/// A service as it was last set.
#[derive(Debug)]
pub(super) struct Held {
    id: ServiceId,
    spec: Arc<ServiceSpec>,
    /// The number of each backend, by address and port, where the service is large.
    numbers: Vec<u16>,
}

/// Freed numbers rest here before they are used again, so that a connection's number doesn't come to mean another
/// service while the connection lives.
const RESTING: usize = 4096;

/// Numbers for services: dense, so that the index stays small.
#[derive(Debug, Default)]
pub(super) struct Ids {
    next: u32,
    resting: VecDeque<u32>,
    /// Numbers that the writer before us used, by key.
    kept: HashMap<String, u32>,
}

impl Ids {
    pub(super) fn following(before: impl Iterator<Item = (String, ServiceId)>) -> Self {
        let kept: HashMap<String, u32> = before.map(|(key, id)| (key, id.0)).collect();
        let next = kept.values().max().map_or(0, |highest| highest.saturating_add(1));
        Self { next, resting: VecDeque::new(), kept }
    }

    fn take(&mut self, key: &str) -> ServiceId {
        if let Some(id) = self.kept.remove(key) {
            return ServiceId(id);
        }
        if self.resting.len() > RESTING
            && let Some(id) = self.resting.pop_front()
        {
            return ServiceId(id);
        }
        self.next += 1;
        ServiceId(self.next - 1)
    }

    fn give(&mut self, id: ServiceId) {
        self.resting.push_back(id.0);
    }
}

/// Frontends of a change, and how many more or fewer each address has.
struct Change<'a> {
    removed: Vec<&'a FrontendSpec>,
    set: Vec<&'a FrontendSpec>,
    addresses: BTreeMap<Addr, i64>,
}

impl<'a> Change<'a> {
    fn between(old: &'a [FrontendSpec], new: &'a [FrontendSpec]) -> Self {
        let key = |f: &FrontendSpec| (f.addr, f.port, f.protocol);
        let (before, after): (HashSet<_>, HashSet<_>) =
            (old.iter().map(key).collect(), new.iter().map(key).collect());
        let unchanged: HashSet<&FrontendSpec> = old.iter().collect();
        let mut addresses = BTreeMap::new();
        for (list, others, step) in [(old, &after, -1), (new, &before, 1)] {
            for frontend in list.iter().filter(|frontend| !others.contains(&key(frontend))) {
                *addresses.entry(frontend.addr).or_default() += step;
            }
        }
        Self {
            removed: old.iter().filter(|frontend| !after.contains(&key(frontend))).collect(),
            set: new.iter().filter(|frontend| !unchanged.contains(frontend)).collect(),
            addresses,
        }
    }
}

/// Backends in the order of their records.
fn sorted(spec: &ServiceSpec) -> Vec<&BackendSpec> {
    let mut backends: Vec<&BackendSpec> = spec.backends.iter().collect();
    backends.sort_by_key(|backend| (backend.addr, backend.port));
    backends
}

impl Writer {
    /// Sets the service `key`: makes it, or replaces all of it.
    ///
    /// Refused, with nothing changed: a spec that [`ServiceSpec::check`] refuses, a frontend that another service has, a
    /// full segment.
    pub fn set_service(&mut self, key: &str, spec: &ServiceSpec) -> Result<(), Error> {
        self.set_shared_service(key, &Arc::new(spec.clone()))
    }

    /// As [`Writer::set_service`], without a copy of the spec.
    pub fn set_shared_service(&mut self, key: &str, spec: &Arc<ServiceSpec>) -> Result<(), Error> {
        spec.check(key)?;
        let held = self.held.get(key);
        if held.is_some_and(|held| held.spec == *spec) {
            return Ok(());
        }
        let (id, is_new) = (held.map(|held| held.id), held.is_none());
        // Shared, so that the rows can change while it is looked at.
        let old = held.map(|held| Arc::clone(&held.spec)).unwrap_or_default();
        for frontend in &spec.frontends {
            self.check_owner(key, id, frontend)?;
        }
        let change = Change::between(&old.frontends, &spec.frontends);
        let backends = sorted(spec);
        let touched = (change.removed.len() + change.set.len() + change.addresses.len()) as u64;
        self.room(
            Backends::worst(&backends)
                + cold::bytes_of(Backends::names(key, spec, &backends))
                + Index::WORST_CHANGE
                + Arena::bytes_of(ROW_WORDS)
                + ranges::bytes_of(&spec.source_ranges)
                + touched * Trie::<3, 1>::WORST_CHANGE,
        )?;

        let keep_backends =
            !is_new && old.backends == spec.backends && old.uses_local() == spec.uses_local();
        let keep_names = keep_backends && old.name == spec.name;
        let (appeared, vanished) = Self::vip_changes(&self.vips, &change);
        self.add_vip_routes(&appeared)?;

        let id = id.unwrap_or_else(|| self.ids.take(key));
        let row = self.services.get(&self.arena, id.0);
        let words = self.arena.words();
        let (old_backends, old_names) = if row.is_null() {
            (Backends::default(), Ref::NULL)
        } else {
            (Backends::of(words, row), service::read(words, row).names)
        };
        let numbers = self.held.get_mut(key).map(|held| std::mem::take(&mut held.numbers));
        let mut numbers = numbers.unwrap_or_default();
        let mut new_backends = old_backends;
        if !keep_backends {
            let before = Before { written: old_backends, sorted: &sorted(&old), numbers: &numbers };
            (new_backends, numbers) = Backends::write(&mut self.arena, spec, &backends, before)?;
        }
        let new_names = if keep_names {
            old_names
        } else {
            self.free_names(old_names);
            cold::write(&mut self.arena, Backends::names(key, spec, &backends))?
        };
        if !row.is_null() {
            let old = service::read(self.arena.words(), row).ranges;
            ranges::free(&mut self.arena, old);
        }
        self.arena.free(Table::Services, row, ROW_WORDS);
        let ranges = ranges::write(&mut self.arena, &spec.source_ranges)?;
        let row = new_backends.write_row(&mut self.arena, id, spec, new_names, ranges)?;
        self.services.set(&mut self.arena, id.0, row)?;
        self.apply_frontends(id, &change)?;
        self.drop_vip_routes(&vanished)?;
        self.held.insert(key.to_owned(), Held { id, spec: Arc::clone(spec), numbers });
        self.dirty = true;
        Ok(())
    }

    /// Removes the service `key`; false when there is none.
    pub fn remove_service(&mut self, key: &str) -> Result<bool, Error> {
        let Some(Held { id, spec, .. }) = self.held.remove(key) else {
            return Ok(false);
        };
        let change = Change::between(&spec.frontends, &[]);
        let (_, vanished) = Self::vip_changes(&self.vips, &change);
        self.apply_frontends(id, &change)?;
        self.drop_vip_routes(&vanished)?;
        let row = self.services.set(&mut self.arena, id.0, Ref::NULL)?;
        let words = self.arena.words();
        let backends = Backends::of(words, row);
        let crate::Service { names, ranges, .. } = service::read(words, row);
        service::ranges::free(&mut self.arena, ranges);
        backends.free(&mut self.arena);
        self.free_names(names);
        self.arena.free(Table::Services, row, ROW_WORDS);
        self.ids.give(id);
        self.dirty = true;
        Ok(true)
    }

    /// The keys of all services set.
    pub fn service_keys(&self) -> impl Iterator<Item = &str> {
        self.held.keys().map(String::as_str)
    }

    /// The number of the service `key`.
    pub fn service_id(&self, key: &str) -> Option<ServiceId> {
        self.held.get(key).map(|held| held.id)
    }

    fn check_owner(
        &self,
        key: &str,
        id: Option<ServiceId>,
        frontend: &FrontendSpec,
    ) -> Result<(), Error> {
        let FrontendSpec { addr, port, protocol, .. } = *frontend;
        let Some([word]) = self.frontends.get(&self.arena, &frontend_key(&addr, port, protocol))
        else {
            return Ok(());
        };
        let owner = ServiceId(word as u32);
        if Some(owner) == id {
            return Ok(());
        }
        let row = self.services.get(&self.arena, owner.0);
        let names = service::read(self.arena.words(), row).names;
        let owner = cold::read(self.arena.words(), names).next().unwrap_or_default();
        Err(Error::FrontendTaken { service: key.to_owned(), addr, port, protocol, owner })
    }

    fn free_names(&mut self, names: Ref) {
        let words = cold::words_of(self.arena.words(), names);
        self.arena.free(Table::Names, names, words);
    }

    fn apply_frontends(&mut self, id: ServiceId, change: &Change<'_>) -> Result<(), Error> {
        for FrontendSpec { addr, port, protocol, .. } in &change.removed {
            self.frontends.remove(&mut self.arena, &frontend_key(addr, *port, *protocol))?;
        }
        for FrontendSpec { addr, port, protocol, kind, set, flags } in &change.set {
            let value =
                frontend_value(&Frontend { service: id, kind: *kind, set: *set, flags: *flags });
            let key = frontend_key(addr, *port, *protocol);
            self.frontends.insert(&mut self.arena, key, [value])?;
        }
        for (addr, step) in &change.addresses {
            let before = self.vips.get(addr).copied().unwrap_or(0);
            let after = u32::try_from(i64::from(before) + step).unwrap_or(0);
            match (before, after) {
                (_, 0) => {
                    self.vips.remove(addr);
                    self.frontends.remove(&mut self.arena, &frontend_key(addr, 0, 0))?;
                }
                (0, _) => {
                    self.vips.insert(*addr, after);
                    self.frontends.insert(&mut self.arena, frontend_key(addr, 0, 0), [1])?;
                }
                _ => {
                    self.vips.insert(*addr, after);
                }
            }
        }
        Ok(())
    }

    /// Addresses that get their first frontend, and those that lose their last.
    fn vip_changes(vips: &HashMap<Addr, u32>, change: &Change<'_>) -> (Vec<Addr>, Vec<Addr>) {
        let (mut appeared, mut vanished) = (Vec::new(), Vec::new());
        for (addr, step) in &change.addresses {
            let before = i64::from(vips.get(addr).copied().unwrap_or(0));
            match (before, before + step) {
                (0, 1..) => appeared.push(*addr),
                (1.., ..=0) => vanished.push(*addr),
                _ => {}
            }
        }
        (appeared, vanished)
    }
}
