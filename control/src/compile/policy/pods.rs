//! All pods of the pod network, by number, namespace and address.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap},
    sync::Arc,
};

use millrace_wire::Addr;

use crate::{
    desired::{
        Namespace, Pod,
        policy::{Namespaces, PodSet},
        selector::Labels,
    },
    object::Key,
};

/// A pod, and what it is in.
#[derive(Debug)]
pub(super) struct State {
    pub(super) row: Arc<Pod>,
    namespace: Arc<str>,
    key: Key,
    /// Sets that policies are about, sorted; of pods of this node.
    pub(super) subjects: Box<[u32]>,
    /// Peers that rules name, sorted.
    pub(super) peers: Box<[u32]>,
}

impl State {
    pub(super) fn name(&self) -> Box<str> {
        format!("{}/{}", self.namespace, self.key.name).into()
    }
}

/// Who has an address.
#[derive(Debug)]
pub(super) enum At<'a> {
    Nobody,
    One(&'a State),
    /// Several, by their names, of which policies say different things.
    Contested(Box<str>),
}

/// What a pod that is gone, or was replaced, leaves to be looked at.
#[derive(Debug)]
pub(super) struct Gone {
    pub(super) addresses: Vec<Addr>,
    /// Empty when it was replaced.
    pub(super) subjects: Box<[u32]>,
}

#[derive(Debug, Default)]
struct Space {
    labels: Arc<Namespace>,
    has_object: bool,
    pods: BTreeSet<u32>,
}

#[derive(Debug, Default)]
pub(super) struct Pods {
    numbers: HashMap<Key, u32>,
    states: Vec<Option<State>>,
    free: BinaryHeap<Reverse<u32>>,
    spaces: BTreeMap<Arc<str>, Space>,
    at: HashMap<Addr, BTreeSet<Key>>,
    by_port: HashMap<Box<str>, BTreeSet<u32>>,
}

impl Pods {
    pub(super) fn number(&self, key: &Key) -> Option<u32> {
        self.numbers.get(key).copied()
    }

    pub(super) fn numbers(&self) -> impl Iterator<Item = u32> + '_ {
        self.numbers.values().copied()
    }

    /// Addresses of all of them.
    pub(super) fn addresses(&self) -> impl Iterator<Item = Addr> + '_ {
        self.at.keys().copied()
    }

    pub(super) fn get(&self, number: u32) -> Option<&State> {
        self.states.get(number as usize)?.as_ref()
    }

    /// The pod at an address. Of several that say they are, the one that isn't on its way out; where that doesn't tell them apart, the first by
    /// name, if policies say the same of all.
    pub(super) fn at(&self, addr: &Addr) -> At<'_> {
        let Some(keys) = self.at.get(addr) else { return At::Nobody };
        let all = || keys.iter().filter_map(|key| self.get(self.number(key)?));
        let staying = || all().filter(|state| !state.row.leaving);
        let mut first = staying().chain(all());
        let Some(one) = first.next() else { return At::Nobody };
        let alike = |other: &State| {
            other.subjects == one.subjects
                && other.peers == one.peers
                && other.row.ports == one.row.ports
                && other.row.node == one.row.node
        };
        let is_one = match staying().count() {
            0 => all().all(alike),
            1 => true,
            _ => staying().all(alike),
        };
        if is_one {
            return At::One(one);
        }
        let names: Vec<Box<str>> = all().map(State::name).collect();
        At::Contested(names.join(" and ").into())
    }

    /// Creates, replaces or, without a row, removes a pod. `marked`: to be looked at.
    pub(super) fn set(
        &mut self,
        key: &Key,
        row: Option<&Arc<Pod>>,
        marked: &mut BTreeSet<u32>,
    ) -> Option<Gone> {
        let old = self.number(key);
        let Some(row) = row else { return self.remove(key, marked) };
        let number = match old {
            Some(number) => number,
            None => match self.free.pop() {
                Some(Reverse(number)) => number,
                None => {
                    self.states.push(None);
                    self.states.len() as u32 - 1
                }
            },
        };
        marked.insert(number);
        if let Some(state) = self.states[number as usize].as_mut() {
            let before = std::mem::replace(&mut state.row, Arc::clone(row));
            self.unlink(key, number, &before);
            self.link(key, number, row);
            return Some(Gone { addresses: before.addresses.clone(), subjects: Box::default() });
        }
        let namespace = match self.spaces.get_key_value(key.namespace.as_str()) {
            Some((name, _)) => Arc::clone(name),
            None => {
                let name: Arc<str> = key.namespace.as_str().into();
                let labels = Arc::new(Namespace::of(&key.namespace, None));
                let space = Space { labels, ..Space::default() };
                self.spaces.insert(Arc::clone(&name), space);
                name
            }
        };
        if let Some(space) = self.spaces.get_mut(&namespace) {
            space.pods.insert(number);
        }
        self.states[number as usize] = Some(State {
            row: Arc::clone(row),
            namespace,
            key: key.clone(),
            subjects: Box::default(),
            peers: Box::default(),
        });
        self.numbers.insert(key.clone(), number);
        self.link(key, number, row);
        None
    }

    fn remove(&mut self, key: &Key, marked: &mut BTreeSet<u32>) -> Option<Gone> {
        let number = self.numbers.remove(key)?;
        marked.remove(&number);
        let state = self.states.get_mut(number as usize)?.take()?;
        self.free.push(Reverse(number));
        self.unlink(key, number, &state.row);
        if let Some(space) = self.spaces.get_mut(&state.namespace) {
            space.pods.remove(&number);
            if space.pods.is_empty() && !space.has_object {
                self.spaces.remove(&state.namespace);
            }
        }
        Some(Gone { addresses: state.row.addresses.clone(), subjects: state.subjects })
    }

    fn link(&mut self, key: &Key, number: u32, row: &Pod) {
        for addr in &row.addresses {
            self.at.entry(*addr).or_default().insert(key.clone());
        }
        for port in &row.ports {
            self.by_port.entry(port.name.clone()).or_default().insert(number);
        }
    }

    fn unlink(&mut self, key: &Key, number: u32, row: &Pod) {
        for addr in &row.addresses {
            if let Some(there) = self.at.get_mut(addr) {
                there.remove(key);
                if there.is_empty() {
                    self.at.remove(addr);
                }
            }
        }
        for port in &row.ports {
            if let Some(there) = self.by_port.get_mut(&port.name) {
                there.remove(&number);
                if there.is_empty() {
                    self.by_port.remove(&port.name);
                }
            }
        }
    }

    /// A Namespace object has come, changed or gone.
    pub(super) fn set_namespace(
        &mut self,
        name: &str,
        row: Option<&Arc<Namespace>>,
        marked: &mut BTreeSet<u32>,
    ) {
        let space = match self.spaces.get_mut(name) {
            Some(space) => space,
            None if row.is_none() => return,
            None => self.spaces.entry(name.into()).or_default(),
        };
        space.has_object = row.is_some();
        let labels = row.cloned().unwrap_or_else(|| Arc::new(Namespace::of(name, None)));
        if space.labels != labels {
            space.labels = labels;
            marked.extend(&space.pods);
        }
        if space.pods.is_empty() && !space.has_object {
            self.spaces.remove(name);
        }
    }

    /// The name and labels of a pod's namespace.
    pub(super) fn namespace_of<'a>(&'a self, state: &'a State) -> (&'a str, &'a Labels) {
        // A pod's namespace is there for as long as the pod is.
        let space = self.spaces.get(&state.namespace);
        (&state.namespace, space.map_or(&state.row.labels, |space| &space.labels.labels))
    }

    pub(super) fn set_subjects(&mut self, number: u32, subjects: Box<[u32]>) -> Box<[u32]> {
        match self.states.get_mut(number as usize) {
            Some(Some(state)) => std::mem::replace(&mut state.subjects, subjects),
            _ => Box::default(),
        }
    }

    pub(super) fn set_peers(&mut self, number: u32, peers: Box<[u32]>) {
        if let Some(Some(state)) = self.states.get_mut(number as usize) {
            state.peers = peers;
        }
    }

    /// Marks the pods in a set of which `which` holds.
    pub(super) fn in_set(
        &self,
        set: &PodSet,
        which: impl Fn(&Pod) -> bool,
        marked: &mut BTreeSet<u32>,
    ) {
        // All are marked already, as at the start.
        if marked.len() == self.numbers.len() {
            return;
        }
        let mut look = |space: &Space| {
            let pods = space.pods.iter().filter(|number| {
                self.get(**number)
                    .is_some_and(|state| which(&state.row) && set.pods.matches(&state.row.labels))
            });
            marked.extend(pods);
        };
        match &set.namespaces {
            Namespaces::Named(name) => self.spaces.get(&**name).into_iter().for_each(&mut look),
            Namespaces::Labelled(selector) => self
                .spaces
                .values()
                .filter(|space| selector.matches(&space.labels.labels))
                .for_each(&mut look),
        }
    }

    /// Pods that a set of subjects has.
    pub(super) fn with_subject(&self, set: u32) -> impl Iterator<Item = u32> + '_ {
        let has = move |state: &State| state.subjects.binary_search(&set).is_ok();
        self.states.iter().enumerate().filter_map(move |(number, state)| {
            state.as_ref().filter(|state| has(state)).map(|_| number as u32)
        })
    }

    /// Addresses of pods that have a port of that name.
    pub(super) fn with_port(&self, name: &str) -> impl Iterator<Item = Addr> + '_ {
        let numbers = self.by_port.get(name).into_iter().flatten();
        numbers
            .filter_map(|number| self.get(*number))
            .flat_map(|state| state.row.addresses.iter().copied())
    }
}
