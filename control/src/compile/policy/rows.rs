//! Cells of subjects and classes, what nobody uses any more, and the rows that are staged for the tables.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ipnet::IpNet;
use millrace_tables::{
    ClassId, DecisionId, DecisionSpec, EndpointSpec, PolicyChanges, PolicyId, PolicySpec,
    PortMapId, PortMapSpec, SubjectId,
};

use super::{
    Part, Policies, Subject, SubjectKey,
    classify::endpoint,
    subject::{ClassKey, release_all},
};

/// One row of the policy tables to set, or to remove where there is no value.
#[derive(Clone, Debug, PartialEq)]
pub enum PolicyRow {
    /// What is known of a prefix.
    Endpoint(IpNet, Option<EndpointSpec>),
    /// A subject, with the map of classes that have no cell. Set, it has no cells yet.
    Subject(SubjectId, Option<PortMapId>),
    /// Cells of a subject; without a map they are as its default.
    Cells(SubjectId, Vec<(ClassId, Option<PortMapId>)>),
    /// A port map.
    PortMap(PortMapId, Option<Arc<PortMapSpec>>),
    /// A decision.
    Decision(DecisionId, Option<Arc<DecisionSpec>>),
    /// A policy's name.
    Name(PolicyId, Option<PolicySpec>),
    /// What established flows do when policies change.
    Changes(PolicyChanges),
}

impl PolicyRow {
    /// Whether it takes something away.
    pub(in crate::compile) fn removes(&self) -> bool {
        match self {
            PolicyRow::Endpoint(_, spec) => spec.is_none(),
            PolicyRow::Subject(_, default) => default.is_none(),
            PolicyRow::PortMap(_, spec) => spec.is_none(),
            PolicyRow::Decision(_, spec) => spec.is_none(),
            PolicyRow::Name(_, spec) => spec.is_none(),
            PolicyRow::Cells(..) | PolicyRow::Changes(_) => false,
        }
    }
}

/// Rows since they were last taken.
#[derive(Debug, Default)]
pub(super) struct Shown {
    set: Vec<PolicyRow>,
    /// After those that are set: nothing may point at what is gone.
    removed: Vec<PolicyRow>,
    /// As the tables have them.
    names: BTreeMap<u32, PolicySpec>,
}

impl Shown {
    pub(super) fn say(&mut self, row: PolicyRow) {
        self.set.push(row);
    }

    pub(super) fn take(&mut self) -> Vec<PolicyRow> {
        let mut rows = std::mem::take(&mut self.set);
        rows.append(&mut self.removed);
        rows
    }

    pub(super) fn policy(&mut self, number: u32, spec: Option<PolicySpec>) {
        let old = match &spec {
            Some(spec) => self.names.insert(number, spec.clone()),
            None => self.names.remove(&number),
        };
        if old != spec {
            self.set.push(PolicyRow::Name(PolicyId(number), spec));
        }
    }

    pub(super) fn endpoint(&mut self, net: IpNet, spec: Option<EndpointSpec>) {
        let list = if spec.is_some() { &mut self.set } else { &mut self.removed };
        list.push(PolicyRow::Endpoint(net, spec));
    }
}

impl Policies {
    /// Maps of new subjects for all classes, and of all subjects for new classes.
    pub(super) fn fill(&mut self) {
        let mut cells: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
        for class in std::mem::take(&mut self.todo.new_classes) {
            let Some(key) = self.classes.key(class) else { continue };
            for peer in key.peers.iter().filter(|peer| !self.peers.is_everyone(**peer)) {
                self.peer_classes.entry(*peer).or_default().insert(class);
            }
            if !key.pod {
                self.bare_classes.insert(class);
            }
            if !key.ports.is_empty() {
                self.classes_with_ports.insert(class);
            }
            if key.own {
                self.own_classes.insert(class);
            }
            for subject in self.asked_by(key) {
                cells.entry(subject).or_default().insert(class);
            }
        }
        for number in std::mem::take(&mut self.todo.new_subjects) {
            self.make_subject(number);
            let Some(subject) = self.subjects.value(number) else { continue };
            self.classes_of(subject, cells.entry(number).or_default());
        }
        for (subject, classes) in cells {
            if let Some(row) = self.cells(subject, classes.into_iter()) {
                self.rows.say(row);
            }
        }
    }

    /// The row of a subject's cells for these classes; those like the default are left out.
    fn cells(&mut self, number: u32, classes: impl Iterator<Item = u32>) -> Option<PolicyRow> {
        if !self.subjects.is_held(number) {
            return None;
        }
        let key = Arc::clone(self.subjects.key(number)?);
        let subject = self.subjects.value_mut(number)?;
        let mut row = Vec::new();
        for class in classes.filter(|class| self.classes.is_held(*class)) {
            let Some(of) = self.classes.key(class) else { continue };
            // Nobody asks it about the node.
            if of.own && !subject.is_fenced() {
                continue;
            }
            let map = subject.map_of(&key, of, &mut self.maps);
            if map != subject.default {
                row.push((ClassId(class), Some(PortMapId(map))));
            }
        }
        (!row.is_empty()).then_some(PolicyRow::Cells(SubjectId(number), row))
    }

    /// Classes that a subject may treat as no other.
    fn classes_of(&self, subject: &Subject, classes: &mut BTreeSet<u32>) {
        for peer in subject.peers() {
            classes.extend(self.peer_classes.get(&peer).into_iter().flatten());
        }
        if subject.asks_ports_of_everyone() {
            classes.extend(&self.classes_with_ports);
        }
        if subject.is_fenced() {
            classes.extend(&self.own_classes);
        }
        if subject.names_every_pod() {
            classes.extend(&self.bare_classes);
        }
    }

    /// Subjects whose rules may treat this class as no other.
    fn asked_by(&self, class: &ClassKey) -> BTreeSet<u32> {
        if class.own {
            return self.fenced.clone();
        }
        let peers = class.peers.iter().filter_map(|peer| self.peer_subjects.get(peer));
        let mut subjects: BTreeSet<u32> = peers.flatten().copied().collect();
        if !class.ports.is_empty() {
            subjects.extend(&self.asking);
        }
        if !class.pod {
            subjects.extend(&self.naming_every_pod);
        }
        subjects
    }

    fn make_subject(&mut self, number: u32) {
        let Some(key) = self.subjects.key(number).cloned() else { return };
        if !self.subjects.is_held(number) {
            return;
        }
        let parts = key.policies.iter().filter_map(|(policy, version)| {
            let state = self.policies.value(*policy)?;
            debug_assert_eq!(state.version, *version);
            let (row, parts) = (state.row.as_ref()?, state.parts.as_ref()?);
            let (rules, peers) = if key.egress {
                (&row.egress, &parts.egress)
            } else {
                (&row.ingress, &parts.ingress)
            };
            let rules = rules.iter().flatten().zip(peers);
            let rules = rules.map(|(rule, peers)| (rule, peers.as_deref())).collect();
            Some(Part { policy: *policy, tier: row.tier, shadow: row.shadow, rules })
        });
        let peers = &self.peers;
        let subject = Subject::new(&key, parts, |peer| peers.is_everyone(peer), &mut self.maps);
        for peer in subject.peers() {
            self.peer_subjects.entry(peer).or_default().insert(number);
        }
        if subject.asks_ports_of_everyone() {
            self.asking.insert(number);
        }
        if subject.is_fenced() {
            self.fenced.insert(number);
        }
        if subject.names_every_pod() {
            self.naming_every_pod.insert(number);
        }
        self.rows.say(PolicyRow::Subject(SubjectId(number), Some(PortMapId(subject.default))));
        if let Some(value) = self.subjects.value_mut(number) {
            *value = subject;
        }
    }

    /// Lets go of what nobody uses, and says what is new of what is left.
    pub(super) fn sweep(&mut self) {
        let mut removed = std::mem::take(&mut self.rows.removed);
        for (number, key, subject) in self.subjects.sweep() {
            self.forget_subject(number, &key, &subject);
            removed.push(PolicyRow::Subject(SubjectId(number), None));
        }
        for (class, key, ()) in self.classes.sweep() {
            for peer in &key.peers {
                if let Some(classes) = self.peer_classes.get_mut(peer) {
                    classes.remove(&class);
                    if classes.is_empty() {
                        self.peer_classes.remove(peer);
                    }
                }
            }
            self.classes_with_ports.remove(&class);
            self.own_classes.remove(&class);
            self.bare_classes.remove(&class);
            // Another class may get the number: it must find no cells.
            for subject in self.asked_by(&key) {
                removed.push(PolicyRow::Cells(SubjectId(subject), vec![(ClassId(class), None)]));
            }
        }
        self.policies.sweep();
        let maps = &mut self.maps;
        for (map, spec, ()) in maps.maps.sweep() {
            release_all(&mut maps.decisions, &spec);
            removed.push(PolicyRow::PortMap(PortMapId(map), None));
        }
        for (decision, _, ()) in maps.decisions.sweep() {
            removed.push(PolicyRow::Decision(DecisionId(decision), None));
        }
        // Decisions first: the rows of maps say what they say.
        for decision in std::mem::take(&mut maps.new_decisions) {
            if let Some(spec) = maps.decisions.key(decision) {
                let id = DecisionId(decision);
                self.rows.set.push(PolicyRow::Decision(id, Some(Arc::clone(spec))));
            }
        }
        for map in std::mem::take(&mut maps.new_maps) {
            if let Some(spec) = maps.maps.key(map) {
                self.rows.set.push(PolicyRow::PortMap(PortMapId(map), Some(Arc::clone(spec))));
            }
        }
        self.rows.removed = removed;
    }

    fn forget_subject(&mut self, number: u32, key: &SubjectKey, subject: &Subject) {
        debug_assert!(!key.policies.is_empty());
        for peer in subject.peers() {
            if let Some(subjects) = self.peer_subjects.get_mut(&peer) {
                subjects.remove(&number);
                if subjects.is_empty() {
                    self.peer_subjects.remove(&peer);
                }
            }
        }
        self.asking.remove(&number);
        self.fenced.remove(&number);
        self.naming_every_pod.remove(&number);
        subject.release(&mut self.maps);
    }

    /// Everything, for a writer that holds nothing yet, or one that couldn't take all of it.
    pub(in crate::compile) fn all(&mut self) -> Vec<PolicyRow> {
        let mut rows = vec![PolicyRow::Changes(self.view.changes)];
        let names = self.rows.names.iter();
        rows.extend(names.map(|(id, spec)| PolicyRow::Name(PolicyId(*id), Some(spec.clone()))));
        let decisions = self.maps.decisions.iter();
        rows.extend(
            decisions
                .map(|(id, spec, ())| PolicyRow::Decision(DecisionId(id), Some(Arc::clone(spec)))),
        );
        let maps = self.maps.maps.iter();
        rows.extend(
            maps.map(|(id, spec, ())| PolicyRow::PortMap(PortMapId(id), Some(Arc::clone(spec)))),
        );
        let subjects: Vec<(u32, u32)> =
            self.subjects.iter().map(|(id, _, subject)| (id, subject.default)).collect();
        for (id, default) in subjects {
            rows.push(PolicyRow::Subject(SubjectId(id), Some(PortMapId(default))));
            let Some(subject) = self.subjects.value(id) else { continue };
            let mut classes = BTreeSet::new();
            self.classes_of(subject, &mut classes);
            rows.extend(self.cells(id, classes.into_iter()));
        }
        let known = self.known.iter();
        rows.extend(known.map(|(net, known)| PolicyRow::Endpoint(*net, Some(endpoint(known)))));
        rows
    }

    /// Numbers of what is held, for tests and metrics: classes, subjects, port maps, decisions, peers, questions remembered.
    pub(in crate::compile) fn counts(&self) -> [usize; 6] {
        [
            self.classes.len(),
            self.subjects.len(),
            self.maps.maps.len(),
            self.maps.decisions.len(),
            self.peers.len(),
            self.subjects.iter().map(|(_, _, subject)| subject.remembered()).sum(),
        ]
    }
}
