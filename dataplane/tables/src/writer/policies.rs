//! Staging policies: endpoints by prefix, subjects with their cells, port maps, decisions and the policies' names.
//!
//! Rows may name rows that are not there yet, in any order within a transaction; what is missing when it is published denies.
//! Each call is made whole or not at all.

use super::Writer;
use crate::{
    arena::{Arena, Table},
    cold,
    error::Error,
    fib::{Family, Fib},
    layout::{low, pack},
    policy::{
        ByPolicies, ClassId, DECISION_WORDS, DecisionId, DecisionSpec, ENDPOINT_WORDS, Endpoint,
        EndpointSpec, IN_FORCE, KEEPS_FLOWS, POLICY_WORDS, PolicyChanges, PolicyId, PolicySpec,
        PortMapId, PortMapSpec, RECORD_WORDS, SHADOW, SubjectId, USED,
        cells::{self, Subject},
        decision_words,
        ports::{self, Planned},
        spec::{MAX_NUMBER, MAX_POLICIES, check_number},
    },
    route::is_v4_mapped,
    rows::{self, Rows},
    words::Ref,
};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};

/// The policy tables as they are staged.
#[derive(Debug)]
pub(super) struct Policies {
    v4: Fib,
    v6: Fib,
    endpoints: Rows<ENDPOINT_WORDS>,
    /// Numbers of endpoint rows that are free, below `numbers`.
    free: BTreeSet<u32>,
    numbers: u32,
    /// Endpoints of which any flow is judged or remembered.
    asked: usize,
    subjects: Rows<{ cells::WORDS }>,
    port_maps: Rows<{ ports::WORDS }>,
    decisions: Rows<DECISION_WORDS>,
    /// How many intervals of port maps say what a decision says.
    told: BTreeMap<u32, u32>,
    policies: Rows<POLICY_WORDS>,
    changes: PolicyChanges,
    /// Generation of the last change of `policies`, and whether one is staged.
    named: u64,
    renamed: bool,
    /// The published record.
    record: Ref,
    dirty: bool,
}

impl Policies {
    pub(super) fn new() -> Self {
        Self {
            v4: Fib::of(Family::V4, Table::Policy),
            v6: Fib::of(Family::V6, Table::Policy),
            endpoints: Rows::new(Table::Policy),
            free: BTreeSet::new(),
            numbers: 0,
            asked: 0,
            subjects: Rows::new(Table::Policy),
            port_maps: Rows::new(Table::Policy),
            decisions: Rows::new(Table::Policy),
            told: BTreeMap::new(),
            policies: Rows::new(Table::Policy),
            changes: PolicyChanges::Strict,
            named: 0,
            renamed: false,
            record: Ref::NULL,
            dirty: false,
        }
    }

    fn fib(&mut self, family: Family) -> &mut Fib {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }

    fn is_empty(&self) -> bool {
        self.endpoints.is_empty()
            && self.subjects.is_empty()
            && self.port_maps.is_empty()
            && self.decisions.is_empty()
            && self.policies.is_empty()
            && self.changes == PolicyChanges::Strict
    }

    /// The word for the root record, with what is staged.
    pub(super) fn publish(&mut self, arena: &mut Arena, generation: u64) -> Result<u64, Error> {
        if self.dirty {
            if std::mem::take(&mut self.renamed) {
                self.named = generation;
            }
            let record = if self.is_empty() {
                Ref::NULL
            } else {
                let record = arena.alloc(Table::Policy, RECORD_WORDS)?;
                let flags = if self.changes == PolicyChanges::Keep { KEEPS_FLOWS } else { 0 };
                let words = [
                    u64::from(self.v4.root()) | u64::from(self.v6.root()) << 32,
                    self.endpoints.root(),
                    self.subjects.root(),
                    self.port_maps.root(),
                    self.decisions.root(),
                    self.policies.root(),
                    flags | self.named << 8,
                    0,
                ];
                arena.write(record, &words);
                record
            };
            arena.free(Table::Policy, self.record, RECORD_WORDS);
            (self.record, self.dirty) = (record, false);
        }
        Ok(pack(self.record, if self.asked > 0 { IN_FORCE } else { 0 }))
    }
}

/// Bytes of the list of policies that decide together.
fn list_words(by: &ByPolicies) -> usize {
    if by.policies.len() > 1 { (1 + by.policies.len()).div_ceil(2) } else { 0 }
}

fn write_list(arena: &mut Arena, by: &ByPolicies) -> Result<Ref, Error> {
    let words = list_words(by);
    if words == 0 {
        return Ok(Ref::NULL);
    }
    let at = arena.alloc(Table::Policy, words)?;
    let numbers: Vec<u32> = std::iter::once(by.policies.len() as u32)
        .chain(by.policies.iter().map(|policy| policy.0))
        .collect();
    for (offset, pair) in numbers.chunks(2).enumerate() {
        let upper = pair.get(1).copied().unwrap_or(0);
        arena.store(at, offset, u64::from(pair[0]) | u64::from(upper) << 32);
    }
    Ok(at)
}

fn free_list(arena: &mut Arena, list: u32) {
    let at = Ref::from_raw(list);
    if !at.is_null() {
        let count = arena.words().u32_at(at, 0) as usize;
        arena.free(Table::Policy, at, (1 + count).div_ceil(2));
    }
}

pub(super) fn free_names(arena: &mut Arena, word: u64) {
    let names = low(word);
    if !names.is_null() {
        let words = cold::words_of(arena.words(), names);
        arena.free(Table::Names, names, words);
    }
}

fn names(arena: &mut Arena, name: &str) -> Result<Ref, Error> {
    if name.is_empty() { Ok(Ref::NULL) } else { cold::write(arena, std::iter::once(name)) }
}

/// Whether flows of an endpoint row are judged, or remembered.
fn is_asked(row: &[u64; ENDPOINT_WORDS]) -> bool {
    row[1] != 0 || (row[0] >> 32) as u32 & (Endpoint::CLOSED | Endpoint::LOCAL) != 0
}

impl Writer {
    /// Says what established flows do from now on when policies change; [`PolicyChanges::Strict`] until it is said.
    pub fn set_policy_changes(&mut self, changes: PolicyChanges) {
        if self.policies.changes != changes {
            self.policies.changes = changes;
            self.note_policies();
        }
    }

    fn note_policies(&mut self) {
        self.policies.dirty = true;
        self.dirty = true;
    }

    /// Says what is known of the addresses of `prefix`, in place of what was said before; a longer prefix says more.
    pub fn set_policy_endpoint(&mut self, prefix: IpNet, spec: &EndpointSpec) -> Result<(), Error> {
        spec.check(&prefix)?;
        if prefix.trunc() != prefix || is_v4_mapped(&prefix) {
            return Err(Error::Row {
                row: format!("policy endpoint {prefix} ({})", spec.name),
                why: "bits are set after the prefix, or it is of ::ffff:0:0/96, which stands for IPv4".into(),
            });
        }
        let family = Family::of(&prefix);
        let words = self.arena.words();
        let leaf = self.policies.fib(family).get(words, &prefix);
        let number = match leaf {
            Some(leaf) => leaf - 1,
            None => self.policies.free.first().copied().unwrap_or(self.policies.numbers),
        };
        let subject = |subject: Option<SubjectId>| subject.map_or(0, |id| u64::from(id.0) + 1);
        let head = u64::from(spec.class.0) | u64::from(spec.flags) << 32;
        let subjects = subject(spec.ingress) | subject(spec.egress) << 32;
        let old = leaf.and_then(|_| self.policies.endpoints.get(&self.arena, number));
        let named =
            old.map(|row| cold::read(self.arena.words(), low(row[2])).next().unwrap_or_default());
        let keeps_name = named.as_ref() == Some(&spec.name);
        let itself = spec.itself.map(|map| map.map_or(0, |id| u64::from(id.0) + 1));
        let itself = itself[0] | itself[1] << 32;
        if keeps_name && old.is_some_and(|row| [row[0], row[1], row[3]] == [head, subjects, itself])
        {
            return Ok(());
        }
        self.room(
            self.policies.endpoints.worst_change(number)
                + cold::bytes_of(std::iter::once(spec.name.as_str())),
        )?;
        let names = match old {
            Some(row) if keeps_name => low(row[2]),
            _ => names(&mut self.arena, &spec.name)?,
        };
        let row = [head, subjects, u64::from(names.raw()) | USED, itself];
        self.policies.endpoints.set(&mut self.arena, number, row)?;
        if leaf.is_none()
            && let Err(error) =
                self.policies.fib(family).insert(&mut self.arena, &prefix, number + 1)
        {
            self.policies.endpoints.clear(&mut self.arena, number)?;
            free_names(&mut self.arena, row[2]);
            return Err(error);
        }
        match old {
            Some(old) => {
                if !keeps_name {
                    free_names(&mut self.arena, old[2]);
                }
                self.policies.asked -= usize::from(is_asked(&old));
            }
            None => {
                self.policies.free.remove(&number);
                self.policies.numbers = self.policies.numbers.max(number + 1);
            }
        }
        self.policies.asked += usize::from(is_asked(&row));
        self.note_policies();
        Ok(())
    }

    /// Removes what was said of exactly `prefix`; false when nothing was.
    pub fn remove_policy_endpoint(&mut self, prefix: &IpNet) -> Result<bool, Error> {
        if prefix.trunc() != *prefix {
            return Ok(false);
        }
        let family = Family::of(prefix);
        let words = self.arena.words();
        let Some(leaf) = self.policies.fib(family).get(words, prefix) else { return Ok(false) };
        let number = leaf - 1;
        let Some(row) = self.policies.endpoints.get(&self.arena, number) else { return Ok(false) };
        self.policies.endpoints.clear(&mut self.arena, number)?;
        if let Err(error) = self.policies.fib(family).remove(&mut self.arena, prefix) {
            self.policies.endpoints.set(&mut self.arena, number, row)?;
            return Err(error);
        }
        free_names(&mut self.arena, row[2]);
        self.policies.asked -= usize::from(is_asked(&row));
        self.policies.free.insert(number);
        self.note_policies();
        Ok(true)
    }

    /// Sets the map that `subject` has for classes without a cell of their own. Its cells stay.
    pub fn set_subject(&mut self, subject: SubjectId, default: PortMapId) -> Result<(), Error> {
        check_number("subject", subject.0, MAX_NUMBER)?;
        check_number("port map", default.0, MAX_NUMBER)?;
        let old = self.policies.subjects.get(&self.arena, subject.0);
        let row = match old {
            Some(row) => Subject::of_row(&row).with_default(default),
            None => Subject::new(default),
        };
        if old == Some(row.row()) {
            return Ok(());
        }
        self.room(self.policies.subjects.worst_change(subject.0))?;
        self.policies.subjects.set(&mut self.arena, subject.0, row.row())?;
        self.note_policies();
        Ok(())
    }

    /// Removes a subject with its cells; false when there is none.
    pub fn remove_subject(&mut self, subject: SubjectId) -> Result<bool, Error> {
        let Some(row) = self.policies.subjects.get(&self.arena, subject.0) else {
            return Ok(false);
        };
        self.policies.subjects.clear(&mut self.arena, subject.0)?;
        Subject::of_row(&row).free(&mut self.arena);
        self.note_policies();
        Ok(true)
    }

    /// Sets the maps of some classes for a subject that there is; `None`: its default. Those of other classes stay.
    pub fn set_cells(
        &mut self,
        subject: SubjectId,
        cells: &[(ClassId, Option<PortMapId>)],
    ) -> Result<(), Error> {
        let Some(row) = self.policies.subjects.get(&self.arena, subject.0) else {
            let row = format!("subject {}", subject.0);
            return Err(Error::Row { row, why: "is not set: no cells can be".into() });
        };
        for (class, map) in cells {
            check_number("class", class.0, MAX_NUMBER)?;
            check_number("port map", map.map_or(0, |map| map.0), MAX_NUMBER)?;
        }
        let mut staged = Subject::of_row(&row);
        self.room(staged.worst(cells) + self.policies.subjects.worst_change(subject.0))?;
        staged.set(&mut self.arena, cells)?;
        if staged.row() != row {
            self.policies.subjects.set(&mut self.arena, subject.0, staged.row())?;
            self.note_policies();
        }
        Ok(())
    }

    /// Sets a port map, in place of the one it was.
    pub fn set_port_map(&mut self, id: PortMapId, spec: &PortMapSpec) -> Result<(), Error> {
        spec.check(id)?;
        let planned = Planned::new(spec);
        self.room(planned.worst() + self.policies.port_maps.worst_change(id.0))?;
        let old = self.policies.port_maps.get(&self.arena, id.0);
        let mut row = planned.write(&mut self.arena)?;
        self.tell(&mut row);
        self.policies.port_maps.set(&mut self.arena, id.0, row)?;
        self.count_told(old.as_ref(), Some(&row));
        if let Some(old) = old {
            ports::free(&mut self.arena, &old);
        }
        self.note_policies();
        Ok(())
    }

    /// Removes a port map; false when there is none. Cells that name it deny from then on.
    pub fn remove_port_map(&mut self, id: PortMapId) -> Result<bool, Error> {
        let Some(row) = self.policies.port_maps.get(&self.arena, id.0) else { return Ok(false) };
        self.policies.port_maps.clear(&mut self.arena, id.0)?;
        self.count_told(Some(&row), None);
        ports::free(&mut self.arena, &row);
        self.note_policies();
        Ok(true)
    }

    /// Has a port map's row say what its decisions say now.
    fn tell(&self, row: &mut [u64; ports::WORDS]) {
        let decisions = &self.policies.decisions;
        ports::tell(row, |id| {
            decisions.get(&self.arena, id).map_or(0, |decision| ports::says(&decision))
        });
    }

    /// Counts which decisions a port map's row says no longer, and which it does.
    fn count_told(&mut self, old: Option<&[u64; ports::WORDS]>, new: Option<&[u64; ports::WORDS]>) {
        let told = &mut self.policies.told;
        for id in new.into_iter().flat_map(ports::told) {
            *told.entry(id).or_default() += 1;
        }
        for id in old.into_iter().flat_map(ports::told) {
            if let Some(count) = told.get_mut(&id) {
                *count -= 1;
                if *count == 0 {
                    told.remove(&id);
                }
            }
        }
    }

    /// Port maps that say what the decision said that is to change. None where the decisions of maps are set before these, and outlive them: it is a
    /// look at every map.
    fn telling(&self, id: DecisionId) -> Vec<u32> {
        if !self.policies.told.contains_key(&id.0) {
            return Vec::new();
        }
        let maps = &self.policies.port_maps;
        let rows = rows::iter::<{ ports::WORDS }>(self.arena.words(), maps.root());
        let says = |number: &u32| {
            let row = maps.get(&self.arena, *number);
            row.is_some_and(|row| ports::told(&row).any(|told| told == id.0))
        };
        rows.map(|(number, _)| number).filter(says).collect()
    }

    /// Bytes that [`Writer::tell_again`] may allocate.
    fn worst_telling(&self, maps: &[u32]) -> u64 {
        maps.iter().map(|number| self.policies.port_maps.worst_change(*number)).sum()
    }

    /// Has these port maps say what their decisions say now.
    fn tell_again(&mut self, maps: &[u32]) -> Result<(), Error> {
        for number in maps {
            let Some(old) = self.policies.port_maps.get(&self.arena, *number) else { continue };
            let mut row = old;
            self.tell(&mut row);
            self.policies.port_maps.set(&mut self.arena, *number, row)?;
            self.count_told(Some(&old), Some(&row));
        }
        Ok(())
    }

    /// Sets a decision, in place of the one it was.
    pub fn set_decision(&mut self, id: DecisionId, spec: &DecisionSpec) -> Result<(), Error> {
        spec.check(id)?;
        let none = ByPolicies::default();
        let shadow = spec.shadow.as_ref().unwrap_or(&none);
        let lists = [&spec.by, shadow].map(|by| Arena::bytes_of(list_words(by)));
        let telling = self.telling(id);
        self.room(
            lists[0]
                + lists[1]
                + self.policies.decisions.worst_change(id.0)
                + self.worst_telling(&telling),
        )?;
        let old = self.policies.decisions.get(&self.arena, id.0);
        let [head, second] = decision_words(spec);
        let list = write_list(&mut self.arena, &spec.by)?;
        let shadows = write_list(&mut self.arena, shadow)?;
        let row = [head, second, pack(list, shadows.raw()), 0];
        self.policies.decisions.set(&mut self.arena, id.0, row)?;
        self.tell_again(&telling)?;
        self.free_lists(old);
        self.note_policies();
        Ok(())
    }

    fn free_lists(&mut self, row: Option<[u64; DECISION_WORDS]>) {
        if let Some(row) = row {
            free_list(&mut self.arena, row[2] as u32);
            free_list(&mut self.arena, (row[2] >> 32) as u32);
        }
    }

    /// Removes a decision; false when there is none. Port maps that name it deny from then on.
    pub fn remove_decision(&mut self, id: DecisionId) -> Result<bool, Error> {
        let Some(row) = self.policies.decisions.get(&self.arena, id.0) else { return Ok(false) };
        let telling = self.telling(id);
        if !telling.is_empty() {
            self.room(self.policies.decisions.worst_change(id.0) + self.worst_telling(&telling))?;
        }
        self.policies.decisions.clear(&mut self.arena, id.0)?;
        self.tell_again(&telling)?;
        self.free_lists(Some(row));
        self.note_policies();
        Ok(true)
    }

    /// Sets the name of a policy and what is shown of it.
    pub fn set_policy(&mut self, id: PolicyId, spec: &PolicySpec) -> Result<(), Error> {
        spec.check(id)?;
        let fingerprint = crate::layout::layout_hash(&spec.name) as u32;
        let tail = u64::from(fingerprint) | if spec.shadow { SHADOW } else { 0 } | USED;
        self.room(
            cold::bytes_of(std::iter::once(spec.name.as_str()))
                + self.policies.policies.worst_change(id.0),
        )?;
        let old = self.policies.policies.get(&self.arena, id.0);
        let named =
            old.map(|row| cold::read(self.arena.words(), low(row[0])).next().unwrap_or_default());
        let names = match old {
            Some(row) if named.as_ref() == Some(&spec.name) => low(row[0]),
            _ => {
                if let Some(row) = old {
                    free_names(&mut self.arena, row[0]);
                }
                names(&mut self.arena, &spec.name)?
            }
        };
        self.policies.policies.set(&mut self.arena, id.0, [pack(names, spec.pods), tail])?;
        self.policies.renamed = true;
        self.note_policies();
        Ok(())
    }

    /// Removes a policy's name; false when there is none.
    pub fn remove_policy(&mut self, id: PolicyId) -> Result<bool, Error> {
        check_number("policy", id.0, MAX_POLICIES)?;
        let Some(row) = self.policies.policies.get(&self.arena, id.0) else { return Ok(false) };
        self.policies.policies.clear(&mut self.arena, id.0)?;
        self.policies.renamed = true;
        free_names(&mut self.arena, row[0]);
        self.note_policies();
        Ok(true)
    }
}
