//! Policies, pods, namespaces and nodes → endpoints with classes and subjects, port maps and decisions.
//!
//! ```text
//! pod     → sets it is in as a subject → policies → subject (ingress, egress): those policies' rules in order
//!         → peers it is in             ┐
//! address → blocks that cover it       ┴→ class: peers that rules in force name
//! subject × class → port map → decisions
//! ```
//! Only policies that select a pod of this node are in force here, and only what their rules name makes classes; every pod of the cluster
//! has one. Everything that is worked out is a function of the objects: an update marks what may have changed (pods, addresses) and
//! works that out anew, so that no order of events can leave anything behind. `tests/whole/policy` holds it to a model
//! that shares none of this code.
//!
//! # Costs
//!
//! What rules say of all pods is a subject's default, so that a rule for every pod costs no cell for each: what is no pod has cells then, which are
//! few classes. A pod's new labels cost the sets in its buckets (`sets.rs`), its policies' names, and a look for each subject whose rules name one of its
//! peers. A policy costs a look at the pods that it may select, and one at all pods for each peer that no policy named before.
//! Memory: in the tables at most 160 bytes a pod, its name included, and 640 a rule with a peer and a port of its own
//! (`tests/whole/policy/memory.rs` asserts both); in this process what `millrace-perf policies` says.

mod intern;
mod names;
mod paint;
mod peers;
mod pods;
mod rows;
mod sets;
mod subject;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;
use millrace_tables::{ClassId, Endpoint, EndpointSpec, PolicyChanges, SubjectId};
use millrace_wire::Addr;

use crate::{
    desired::{
        NamedPort, Policy,
        policy::{Peer, Peers as RulePeers, Port, Ports, Rule, Tier},
        selector::Labels,
    },
    object::{Key, Kind},
    store::Store,
    world::World,
};
use intern::Interned;
use names::Names;
use peers::{Peers, edges};
use pods::{At, Pods};
pub use rows::PolicyRow;
use subject::{ClassKey, Maps, Part, Subject, SubjectKey};

/// What of the world policies depend on.
#[derive(Clone, Debug, Default, PartialEq)]
struct View {
    /// Pods are this node's own by it. Without a name all are.
    node: String,
    /// Addresses of this node itself.
    own: BTreeSet<Addr>,
    /// Where this node's pods have their addresses from.
    pod_ranges: Vec<IpNet>,
    /// Whether an address of these that is no pod's is closed.
    closes: bool,
    /// What established flows do when policies change.
    changes: PolicyChanges,
}

impl View {
    fn of(store: &Store, world: &World) -> View {
        let name = &world.node.name;
        let node = store.node(name);
        let own = world.routes.iter().filter(|(net, route)| {
            matches!(route, millrace_tables::RouteSpec::Local)
                && net.prefix_len() == net.max_prefix_len()
        });
        let own = own.map(|(net, _)| Addr::from(net.addr()));
        View {
            node: name.clone(),
            own: own.chain(node.into_iter().flat_map(|node| node.addresses())).collect(),
            pod_ranges: node.map(|node| node.pod_cidrs.clone()).unwrap_or_default(),
            closes: !world.policies.unknown_pods_open,
            changes: world.policies.changes,
        }
    }
}

/// A policy object.
#[derive(Debug, Default)]
struct State {
    key: Option<Key>,
    row: Option<Arc<Policy>>,
    /// Of the row: subjects are of versions.
    version: u32,
    /// Its subject among the sets of subjects.
    set: u32,
    /// What its rules name, while it is in force here.
    parts: Option<Parts>,
}

/// Peers of a policy's rules by number; `None` where a rule is about everyone.
#[derive(Debug, Default)]
struct Parts {
    ingress: Vec<Option<Box<[u32]>>>,
    egress: Vec<Option<Box<[u32]>>>,
}

/// A set of pods that policies are about.
#[derive(Debug, Default)]
struct SubjectSet {
    policies: Vec<u32>,
    /// Pods of this node in it.
    members: u32,
}

/// What is known of a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    class: u32,
    ingress: Option<u32>,
    egress: Option<u32>,
    flags: u32,
    name: Box<str>,
}

/// Remembers what it compiled, so that the next time only differences come out.
#[derive(Debug)]
pub(super) struct Policies {
    view: View,
    pods: Pods,
    /// Policies by number; the number is the tables' too.
    policies: Interned<Key, State>,
    versions: u32,
    count: usize,
    /// Those that are not in shadow mode.
    enforced: usize,
    subject_sets: Interned<crate::desired::policy::PodSet, SubjectSet>,
    subject_buckets: sets::Buckets,
    peers: Peers,
    names: Names,
    nodes: HashMap<Key, (Labels, Vec<Addr>)>,
    /// Nodes by their addresses.
    node_addresses: HashMap<Addr, Key>,
    /// Local endpoints that are no pods by slice, and how many slices name each address: a pod's address is its object's to open.
    slices: HashMap<Key, Vec<Addr>>,
    endpoints: HashMap<Addr, usize>,
    known: BTreeMap<IpNet, Known>,
    classes: Interned<ClassKey, ()>,
    peer_classes: HashMap<u32, BTreeSet<u32>>,
    classes_with_ports: BTreeSet<u32>,
    /// Classes of this node's own addresses.
    own_classes: BTreeSet<u32>,
    /// Classes of what is no pod.
    bare_classes: BTreeSet<u32>,
    subjects: Interned<SubjectKey, Subject>,
    peer_subjects: HashMap<u32, BTreeSet<u32>>,
    /// Subjects that ask for ports of everyone by name.
    asking: BTreeSet<u32>,
    /// Subjects that have a say about what is sent to this node itself.
    fenced: BTreeSet<u32>,
    /// Subjects whose rules name all pods.
    naming_every_pod: BTreeSet<u32>,
    /// Addresses that several pods say they have, and are closed, with their names.
    contested: BTreeMap<Addr, Box<str>>,
    maps: Maps,
    rows: rows::Shown,
    todo: Todo,
}

/// What has to be looked at again before an update is done.
#[derive(Debug, Default)]
struct Todo {
    /// Pods whose labels, namespace, ports or policies may have changed.
    pods: BTreeSet<u32>,
    nets: BTreeSet<IpNet>,
    /// Policies whose row, or whose set's members, changed.
    policies: BTreeSet<u32>,
    new_classes: Vec<u32>,
    new_subjects: Vec<u32>,
}

impl Default for Policies {
    fn default() -> Self {
        let mut classes = Interned::default();
        // What no prefix covers is of class 0 in the tables.
        classes.hold(ClassKey::default());
        Policies {
            view: View::default(),
            pods: Pods::default(),
            policies: Interned::default(),
            versions: 0,
            count: 0,
            enforced: 0,
            subject_sets: Interned::default(),
            subject_buckets: sets::Buckets::default(),
            peers: Peers::default(),
            names: Names::default(),
            nodes: HashMap::new(),
            node_addresses: HashMap::new(),
            slices: HashMap::new(),
            endpoints: HashMap::new(),
            known: BTreeMap::new(),
            classes,
            peer_classes: HashMap::new(),
            classes_with_ports: BTreeSet::new(),
            own_classes: BTreeSet::new(),
            // Class 0 is of what no prefix covers.
            bare_classes: BTreeSet::from([0]),
            subjects: Interned::default(),
            peer_subjects: HashMap::new(),
            asking: BTreeSet::new(),
            fenced: BTreeSet::new(),
            naming_every_pod: BTreeSet::new(),
            contested: BTreeMap::new(),
            maps: Maps::default(),
            rows: rows::Shown::default(),
            todo: Todo::default(),
        }
    }
}

/// The prefix of one address.
fn host(addr: Addr) -> IpNet {
    IpNet::from(IpAddr::from(addr))
}

impl Policies {
    /// Compiles what has changed. Answers the rows that differ.
    pub(super) fn update(
        &mut self,
        store: &Store,
        changed: &BTreeSet<Key>,
        world: Option<&World>,
    ) -> Vec<PolicyRow> {
        if let Some(world) = world {
            self.set_view(View::of(store, world), store);
        }
        let before = (self.count, self.enforced);
        if !changed.is_empty() {
            // Policies first: each looks at the pods that are there, and those that are to come look at the policies.
            let of = |kind: Kind| changed.iter().filter(move |key| key.kind == kind);
            for key in of(Kind::NetworkPolicy).chain(of(Kind::ClusterNetworkPolicy)) {
                self.set_policy(key, store.policy(key));
            }
            of(Kind::Node).for_each(|key| self.set_node(key, store));
            of(Kind::EndpointSlice).for_each(|key| self.set_slice(key, store));
            for key in of(Kind::Namespace) {
                let pods = &mut self.todo.pods;
                self.pods.set_namespace(&key.name, store.namespace(key), pods);
            }
            of(Kind::Pod).for_each(|key| self.set_pod(key, store));
        }
        if (before.0 > 0, before.1 > 0) != (self.count > 0, self.enforced > 0) {
            self.mark_all();
        }
        self.select();
        self.match_peers();
        self.classify();
        self.fill();
        self.sweep();
        self.rows.take()
    }

    /// Whether it knows something of an object, so that its end has to be heard.
    pub(super) fn knows(&self, key: &Key) -> bool {
        match key.kind {
            Kind::NetworkPolicy | Kind::ClusterNetworkPolicy => self.policies.number(key).is_some(),
            Kind::Node => self.nodes.contains_key(key),
            Kind::EndpointSlice => self.slices.contains_key(key),
            Kind::Pod => self.pods.number(key).is_some(),
            Kind::Namespace => true,
            _ => false,
        }
    }

    /// Addresses that several pods say they have, with their names.
    pub(super) fn contested(&self) -> impl Iterator<Item = (Addr, &str)> {
        self.contested.iter().map(|(addr, names)| (*addr, &**names))
    }

    fn set_view(&mut self, view: View, store: &Store) {
        if self.view == view {
            return;
        }
        let nets = |view: &View| {
            let own = view.own.iter().map(|addr| host(*addr));
            own.chain(view.pod_ranges.iter().copied()).collect::<Vec<IpNet>>()
        };
        self.todo.nets.extend(nets(&self.view));
        self.todo.nets.extend(nets(&view));
        for range in self.view.pod_ranges.iter().chain(&view.pod_ranges) {
            self.todo.nets.extend(within(&self.known, range));
        }
        if self.view.changes != view.changes {
            self.rows.say(PolicyRow::Changes(view.changes));
        }
        if self.view.closes != view.closes {
            self.todo.nets.extend(self.known.keys());
        }
        let renamed = self.view.node != view.node;
        self.view = view;
        if renamed {
            self.todo.pods.extend(self.pods.numbers());
            let slices = store.all_slices().map(|(key, _)| key.clone()).collect::<Vec<Key>>();
            slices.iter().for_each(|key| self.set_slice(key, store));
        }
    }

    fn set_pod(&mut self, key: &Key, store: &Store) {
        // Pods in the node's own network are that node, to the API: nothing selects them.
        let row = store.pod(key).filter(|row| !row.host_network);
        let old = self.pods.set(key, row, &mut self.todo.pods);
        if let Some(gone) = old {
            self.todo.nets.extend(gone.addresses.into_iter().map(host));
            for set in gone.subjects.iter() {
                self.count(*set, false);
            }
        }
    }

    fn count(&mut self, set: u32, joins: bool) {
        let Some(row) = self.subject_sets.value_mut(set) else { return };
        row.members = if joins { row.members + 1 } else { row.members - 1 };
        self.todo.policies.extend(&row.policies);
    }

    fn set_policy(&mut self, key: &Key, row: Option<&Arc<Policy>>) {
        let before = self.policies.number(key);
        if let Some(number) = before {
            self.retire(number);
        }
        let Some(row) = row else {
            if let Some(number) = before {
                self.policies.release(number);
            }
            return;
        };
        let number = match before {
            // Let go and held again: a policy that is replaced keeps its number.
            Some(number) => number,
            None => self.policies.hold(key.clone()).0,
        };
        let (set, new) = self.subject_sets.hold(row.subject.clone());
        if new {
            self.subject_buckets.insert(set, &row.subject);
        }
        self.versions = self.versions.wrapping_add(1);
        self.enforced += usize::from(!row.shadow);
        self.count += 1;
        if let Some(state) = self.policies.value_mut(number) {
            *state = State {
                key: Some(key.clone()),
                row: Some(Arc::clone(row)),
                version: self.versions,
                set,
                parts: None,
            };
        }
        if let Some(of) = self.subject_sets.value_mut(set) {
            of.policies.push(number);
        }
        self.todo.policies.insert(number);
        let view = &self.view;
        self.pods.in_set(&row.subject, |pod| is_local(view, pod), &mut self.todo.pods);
    }

    /// Takes a policy's row away; its number stays.
    fn retire(&mut self, number: u32) {
        let Some(state) = self.policies.value_mut(number).map(std::mem::take) else { return };
        let (Some(row), set) = (state.row, state.set) else { return };
        if let Some(parts) = state.parts {
            self.release_parts(&row, parts);
        }
        if let Some(of) = self.subject_sets.value_mut(set) {
            of.policies.retain(|policy| *policy != number);
        }
        self.subject_sets.release(set);
        self.enforced -= usize::from(!row.shadow);
        self.count -= 1;
        self.todo.policies.insert(number);
        self.todo.pods.extend(self.pods.with_subject(set));
    }

    /// Whether addresses are closed, or whether any are known at all, has changed.
    fn mark_all(&mut self) {
        self.todo.nets.extend(self.pods.addresses().map(host));
        self.todo.nets.extend(&self.view.pod_ranges);
        self.todo.nets.extend(self.view.own.iter().map(|addr| host(*addr)));
        self.todo.nets.extend(self.endpoints.keys().map(|addr| host(*addr)));
        self.todo.nets.extend(self.known.keys());
    }

    fn set_node(&mut self, key: &Key, store: &Store) {
        let node = store.node(&key.name);
        if let Some((_, addresses)) = self.nodes.remove(key) {
            for addr in addresses {
                if self.node_addresses.get(&addr) == Some(key) {
                    self.node_addresses.remove(&addr);
                }
                self.todo.nets.insert(host(addr));
            }
        }
        if let Some(node) = node {
            let addresses: Vec<Addr> = node.addresses().collect();
            for addr in &addresses {
                self.node_addresses.insert(*addr, key.clone());
                self.todo.nets.insert(host(*addr));
            }
            self.nodes.insert(key.clone(), (node.labels.clone(), addresses));
        }
    }

    fn set_slice(&mut self, key: &Key, store: &Store) {
        for addr in self.slices.remove(key).unwrap_or_default() {
            let count = self.endpoints.entry(addr).or_default();
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.endpoints.remove(&addr);
            }
            self.todo.nets.insert(host(addr));
        }
        let Some(slice) = store.slice(key) else { return };
        let local = slice
            .endpoints
            .iter()
            .filter(|endpoint| *endpoint.node == *self.view.node && endpoint.pod.is_empty());
        let addresses: Vec<Addr> = local.map(|endpoint| endpoint.addr).collect();
        for addr in &addresses {
            *self.endpoints.entry(*addr).or_default() += 1;
            self.todo.nets.insert(host(*addr));
        }
        if !addresses.is_empty() {
            self.slices.insert(key.clone(), addresses);
        }
    }

    /// Which policies are about which pods of this node; those that are about any come into force, with what their rules name.
    fn select(&mut self) {
        let pods: Vec<u32> = self.todo.pods.iter().copied().collect();
        for pod in pods {
            let Some(state) = self.pods.get(pod) else { continue };
            let new: Box<[u32]> = if is_local(&self.view, &state.row) {
                let (namespace, its_labels) = self.pods.namespace_of(state);
                let sets = &self.subject_sets;
                self.subject_buckets.of_pod(namespace, its_labels, &state.row.labels, |set| {
                    let value = sets.value(set).is_some_and(|of| !of.policies.is_empty());
                    value
                        && sets
                            .key(set)
                            .is_some_and(|of| of.contains(namespace, its_labels, &state.row.labels))
                })
            } else {
                Box::default()
            };
            let old = self.pods.set_subjects(pod, new.clone());
            for set in old.iter().filter(|set| new.binary_search(set).is_err()) {
                self.count(*set, false);
            }
            for set in new.iter().filter(|set| old.binary_search(set).is_err()) {
                self.count(*set, true);
            }
        }
        for (set, key, _) in self.subject_sets.sweep() {
            self.subject_buckets.remove(set, &key);
        }
        let mut new_peers = Vec::new();
        for number in std::mem::take(&mut self.todo.policies) {
            self.enforce(number, &mut new_peers);
        }
        let gone = self.peers.sweep();
        self.look_at_peers(&gone, &new_peers);
        for name in self.names.changed() {
            let pods = self.pods.with_port(&name);
            self.todo.nets.extend(pods.map(host));
        }
    }

    /// Brings a policy into force, or out of it, by whether it selects any pod here; and shows its name.
    fn enforce(&mut self, number: u32, new_peers: &mut Vec<u32>) {
        let Some(state) = self.policies.value_mut(number) else { return };
        let (Some(name), Some(row)) = (state.key.as_ref().map(Key::to_string), state.row.clone())
        else {
            return self.rows.policy(number, None);
        };
        let members = self.subject_sets.value(state.set).map_or(0, |set| set.members);
        let spec = (members > 0).then(|| millrace_tables::PolicySpec {
            name,
            pods: members,
            shadow: row.shadow,
        });
        self.rows.policy(number, spec);
        match (members > 0, state.parts.is_some()) {
            (true, false) => {
                let peers = &mut self.peers;
                let mut numbered = |rules: &Option<Vec<Rule>>| {
                    let rules = rules.iter().flatten();
                    let each = rules.map(|rule| match &rule.peers {
                        RulePeers::Everyone => None,
                        RulePeers::Of(list) => Some(
                            list.iter()
                                .map(|peer| {
                                    let (number, new) = peers.hold(peer);
                                    new_peers.extend(new.then_some(number));
                                    number
                                })
                                .collect::<Box<[u32]>>(),
                        ),
                    });
                    each.collect::<Vec<_>>()
                };
                let ingress = numbered(&row.ingress);
                let egress = numbered(&row.egress);
                state.parts = Some(Parts { ingress, egress });
                port_names(&row.egress).for_each(|name| self.names.hold(name));
            }
            (false, true) => {
                if let Some(parts) = state.parts.take() {
                    self.release_parts(&row, parts);
                }
            }
            _ => {}
        }
    }

    fn release_parts(&mut self, row: &Policy, parts: Parts) {
        let peers = parts.ingress.iter().chain(&parts.egress).flatten().flatten();
        peers.for_each(|peer| self.peers.release(*peer));
        port_names(&row.egress).for_each(|name| self.names.release(name));
    }

    /// Marks what is in peers that have come or gone.
    fn look_at_peers(&mut self, gone: &[(u32, Arc<Peer>)], new: &[u32]) {
        let new: Vec<Arc<Peer>> = new.iter().filter_map(|peer| self.peers.get(*peer)).collect();
        for peer in gone.iter().map(|(_, peer)| peer).chain(&new) {
            match &**peer {
                Peer::Pods(set) => self.pods.in_set(set, |_| true, &mut self.todo.pods),
                Peer::Nodes(_) => {
                    self.todo.nets.extend(self.node_addresses.keys().map(|a| host(*a)))
                }
                Peer::Block(block) => {
                    self.todo.nets.extend(edges(block));
                    self.todo.nets.extend(within(&self.known, &block.cidr));
                }
            }
        }
    }

    fn match_peers(&mut self) {
        for pod in std::mem::take(&mut self.todo.pods) {
            let Some(state) = self.pods.get(pod) else { continue };
            let (namespace, its_labels) = self.pods.namespace_of(state);
            let peers = self.peers.of_pod(namespace, its_labels, &state.row.labels);
            self.todo.nets.extend(state.row.addresses.iter().map(|addr| host(*addr)));
            self.pods.set_peers(pod, peers);
        }
    }

    fn classify(&mut self) {
        for net in std::mem::take(&mut self.todo.nets) {
            let wanted = self.wanted(&net);
            match wanted.as_ref().filter(|wanted| wanted.contested) {
                Some(wanted) => {
                    _ = self.contested.insert(Addr::from(net.addr()), wanted.name.clone());
                }
                None if self.contested.is_empty() => {}
                None => _ = self.contested.remove(&Addr::from(net.addr())),
            }
            let new = wanted.map(|wanted| {
                let (class, new) = self.classes.hold(wanted.class);
                if new {
                    self.todo.new_classes.push(class);
                }
                let mut subject = |key: Option<SubjectKey>| {
                    let (subject, new) = self.subjects.hold(key?);
                    if new {
                        self.todo.new_subjects.push(subject);
                    }
                    Some(subject)
                };
                let (ingress, egress) = (subject(wanted.ingress), subject(wanted.egress));
                Known { class, ingress, egress, flags: wanted.flags, name: wanted.name }
            });
            let old = self.known.get(&net);
            if old == new.as_ref() {
                if let Some(known) = new {
                    self.release(&known);
                }
                continue;
            }
            self.rows.endpoint(net, new.as_ref().map(endpoint));
            let old = match new {
                Some(known) => self.known.insert(net, known),
                None => self.known.remove(&net),
            };
            if let Some(known) = old {
                self.release(&known);
            }
        }
    }

    fn release(&mut self, known: &Known) {
        self.classes.release(known.class);
        let subjects = [known.ingress, known.egress];
        subjects.into_iter().flatten().for_each(|subject| self.subjects.release(subject));
    }

    /// What should be known of a prefix.
    fn wanted(&self, net: &IpNet) -> Option<Wanted> {
        let addr = (net.prefix_len() == net.max_prefix_len()).then(|| Addr::from(net.addr()));
        let own = addr.is_some_and(|addr| self.view.own.contains(&addr));
        let at = match addr {
            Some(addr) if !own => self.pods.at(&addr),
            _ => At::Nobody,
        };
        let mut wanted = Wanted::default();
        if let At::One(pod) = &at
            && is_local(&self.view, &pod.row)
        {
            wanted.flags = Endpoint::LOCAL;
            wanted.name = pod.name();
        }
        if self.count == 0 {
            return (wanted.flags != 0).then_some(wanted);
        }
        let mut peers: Vec<u32> = self.peers.covering(net).collect();
        let node = addr.and_then(|addr| self.node_addresses.get(&addr));
        let nodes = node.filter(|_| self.peers.name_nodes()).and_then(|key| self.nodes.get(key));
        if let Some((labels, _)) = nodes {
            peers.extend(self.peers.of_node(labels));
        }
        let endpoint = addr.is_some_and(|addr| self.endpoints.contains_key(&addr));
        let closes = self.view.closes && self.enforced > 0;
        let in_range = || closes && self.view.pod_ranges.iter().any(|range| range.contains(net));
        let mut needed = nodes.is_some() || self.peers.has_edge(net);
        if own {
            wanted.flags = Endpoint::NODE;
            wanted.class.own = true;
            needed = true;
        } else if let At::Contested(names) = at {
            // Whose rules it has can't be told.
            wanted.flags = if self.enforced > 0 { Endpoint::CLOSED } else { 0 };
            wanted.name = names;
            wanted.contested = true;
            needed = true;
        } else if let At::One(pod) = at {
            wanted.class.pod = true;
            peers.extend(&pod.peers);
            wanted.class.ports = self.names.among(&pod.row.ports);
            wanted.name = pod.name();
            if !pod.subjects.is_empty() {
                (wanted.ingress, wanted.egress) = self.subject_keys(&pod.subjects, &pod.row.ports);
                let fences = |(policy, _): &(u32, u32)| {
                    let row = self.policies.value(*policy).and_then(|state| state.row.as_ref());
                    row.is_some_and(|row| row.tier != Tier::Network)
                };
                if wanted.egress.as_ref().is_some_and(|key| key.policies.iter().any(fences)) {
                    wanted.flags |= Endpoint::FENCED;
                }
            }
            needed = true;
        } else if endpoint {
            needed |= in_range();
        } else if in_range() {
            wanted.flags = Endpoint::CLOSED;
            needed |= self.view.pod_ranges.contains(net);
        }
        peers.sort_unstable();
        wanted.class.peers = peers.into();
        needed.then_some(wanted)
    }

    /// The subjects of a pod in these sets.
    fn subject_keys(
        &self,
        sets: &[u32],
        ports: &[NamedPort],
    ) -> (Option<SubjectKey>, Option<SubjectKey>) {
        let policies = sets.iter().filter_map(|set| self.subject_sets.value(*set));
        let numbers = policies.flat_map(|set| &set.policies);
        let mut all: Vec<(u32, &State, &Arc<Policy>)> = numbers
            .filter_map(|number| {
                let state = self.policies.value(*number)?;
                Some((*number, state, state.row.as_ref()?))
            })
            .collect();
        all.sort_by(|(_, one, a), (_, other, b)| (a.tier, &one.key).cmp(&(b.tier, &other.key)));
        let of = |egress: bool| {
            let rules = |row: &Arc<Policy>| {
                if egress { row.egress.is_some() } else { row.ingress.is_some() }
            };
            let policies: Box<[(u32, u32)]> = all
                .iter()
                .filter(|(_, _, row)| rules(row))
                .map(|(number, state, _)| (*number, state.version))
                .collect();
            let mut named: Vec<NamedPort> = Vec::new();
            if !egress {
                for (_, _, row) in &all {
                    for name in port_names(&row.ingress) {
                        named.extend(ports.iter().filter(|port| port.name == *name).cloned());
                    }
                }
                named.sort_unstable();
                named.dedup();
            }
            (!policies.is_empty()).then(|| SubjectKey { egress, policies, ports: named.into() })
        };
        (of(false), of(true))
    }
}

#[derive(Debug, Default)]
struct Wanted {
    class: ClassKey,
    ingress: Option<SubjectKey>,
    egress: Option<SubjectKey>,
    flags: u32,
    name: Box<str>,
    /// Several pods say that they have it.
    contested: bool,
}

fn is_local(view: &View, pod: &crate::desired::Pod) -> bool {
    view.node.is_empty() || pod.node == view.node
}

fn endpoint(known: &Known) -> EndpointSpec {
    EndpointSpec {
        class: ClassId(known.class),
        ingress: known.ingress.map(SubjectId),
        egress: known.egress.map(SubjectId),
        flags: known.flags,
        name: known.name.to_string(),
    }
}

/// Names of ports that rules ask for.
fn port_names(rules: &Option<Vec<Rule>>) -> impl Iterator<Item = &Box<str>> {
    rules
        .iter()
        .flatten()
        .flat_map(|rule| match &rule.ports {
            Ports::All => &[][..],
            Ports::Of(list) => list.as_slice(),
        })
        .filter_map(|port| match port {
            Port::Named(_, name) => Some(name),
            Port::Range(..) => None,
        })
}

/// Prefixes inside of one.
fn within<'a, V>(map: &'a BTreeMap<IpNet, V>, net: &IpNet) -> impl Iterator<Item = &'a IpNet> {
    let net = *net;
    let first = IpNet::new(net.network(), 0).unwrap_or(net);
    let last = IpNet::new(net.broadcast(), net.max_prefix_len()).unwrap_or(net);
    map.range(first..=last).map(|(inside, _)| inside).filter(move |inside| net.contains(*inside))
}
