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

mod classify;
mod heard;
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
use millrace_tables::PolicyChanges;
use millrace_wire::Addr;

use crate::{
    desired::{
        Policy,
        policy::{Peer, Peers as RulePeers, Rule},
        selector::Labels,
    },
    object::{Key, Kind},
    store::Store,
    world::World,
};
use classify::{is_local, port_names};
use heard::within;
use intern::Interned;
use names::Names;
use peers::{Peers, edges};
use pods::Pods;
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
    /// Maps of what it sends to itself by way of a service, as what comes to it and as what it sends. Held by its subjects.
    itself: [Option<u32>; 2],
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
    /// Endpoints that policies of the cluster are about, whose rows are to be set.
    itself: Vec<IpNet>,
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
            for key in changed.iter().filter(|key| key.kind.is_policy()) {
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
        self.reach_themselves();
        self.sweep();
        self.rows.take()
    }

    /// Whether it knows something of an object, so that its end has to be heard.
    pub(super) fn knows(&self, key: &Key) -> bool {
        match key.kind {
            kind if kind.is_policy() => self.policies.number(key).is_some(),
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
}
