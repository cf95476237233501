//! Rows and world → what the tables should hold, and the difference to what they held.
//!
//! Pure: the result depends on the store and the world alone, not on the order in which they came to be (a property test
//! in `tests/` holds incremental and full compilation together). A change costs what it touches. Nothing here knows
//! shared memory or sockets; [`crate::apply`] stages the changes.

mod configured;
pub mod interfaces;
pub mod kernel;
pub mod masquerade;
pub mod node;
pub mod host_port;
pub mod policy;
pub mod service;
mod claims;
mod elsewhere;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ipnet::IpNet;
use millrace_tables::{
    FrontendSpec, GuardSpec, InterfaceId, InterfaceSpec, NodeSpec, RouteSpec, ServiceSpec,
};
use millrace_wire::{Addr, Mac};

use crate::{
    object::Key,
    store::{Changed, ServiceName, Store},
    world::{NodeView, World},
};
use claims::Claims;
use elsewhere::Elsewhere;

pub use claims::Conflict;
use policy::Policies;
pub use policy::PolicyRow;

/// One row to set, or to remove where there is no value. To be staged in the order given: a frontend is given up before
/// another service takes it.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// A service port of one family, by its key.
    Service(String, Option<Arc<ServiceSpec>>),
    /// An interface.
    Interface(InterfaceId, Option<InterfaceSpec>),
    /// A route.
    Route(IpNet, Option<RouteSpec>),
    /// A configured neighbor.
    Neighbor(InterfaceId, Addr, Option<Mac>),
    /// The node's own row.
    Node(NodeSpec),
    /// Who may send from an interface.
    Guard(InterfaceId, Option<GuardSpec>),
    /// A row of the policy tables.
    Policy(PolicyRow),
}

/// Remembers what it compiled, so that the next time only differences come out.
#[derive(Debug, Default)]
pub struct Compiler {
    services: BTreeMap<String, Arc<ServiceSpec>>,
    world: Arc<World>,
    /// Of this node, which decides what topology hints mean here.
    zone: String,
    parts: BTreeMap<ServiceName, Vec<Part>>,
    /// Where to find a part by its key.
    owners: BTreeMap<String, ServiceName>,
    claims: Claims,
    elsewhere: Elsewhere,
    policies: Policies,
    /// The tables couldn't take all rows of policies: all are staged again.
    short: bool,
}

/// One service port of one family with all frontends it asks for, before claims are settled.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// Its name, `namespace/name:port`, with `/v6` behind it in IPv6.
    pub key: String,
    /// As asked for.
    pub spec: Arc<ServiceSpec>,
    /// See [`crate::desired::Service::created`].
    pub created: Option<i64>,
}

impl Compiler {
    /// Of nothing.
    pub fn new() -> Compiler {
        Compiler::default()
    }

    /// Compiles what has changed in `store` since the last call, and `world`. Answers the difference. The same world again (the
    /// same allocation) costs nothing.
    pub fn update(&mut self, store: &mut Store, world: &Arc<World>) -> Vec<Change> {
        let Changed { services: mut touched, policy: objects, .. } = store.take_changed();
        let same_world = Arc::ptr_eq(&self.world, world);
        if !same_world && self.world.node != world.node {
            touched.extend(store.service_names());
            touched.extend(store.host_ports());
            touched.extend(self.parts.keys().cloned());
        }
        let zone = store.node(&world.node.name).map_or("", |node| node.zone.as_str());
        if self.zone != zone {
            self.zone = zone.into();
            touched.extend(store.service_names());
        }
        let mut affected = BTreeSet::new();
        for name in touched {
            self.recompile(name, store, &world.node, &mut affected);
        }
        let mut changes = self.settle(affected);
        let nodes_changed = objects.iter().any(|key| key.kind == crate::Kind::Node);
        let of = (!same_world || nodes_changed).then_some(&**world);
        let mut rows = self.policies.update(store, &objects, of);
        if std::mem::take(&mut self.short) {
            // What was removed first: a number may be another's by now.
            rows.retain(|row| row.removes());
            rows.extend(self.policies.all());
        }
        changes.extend(rows.into_iter().map(Change::Policy));
        if same_world {
            changes.extend(self.elsewhere.update(world, false));
            return changes;
        }
        changes.extend(
            differences(&self.world.interfaces, &world.interfaces)
                .map(|(id, new)| Change::Interface(id, new)),
        );
        changes.extend(
            differences(&self.world.routes, &world.routes)
                .map(|(prefix, new)| Change::Route(prefix, new)),
        );
        changes.extend(
            differences(&self.world.neighbors, &world.neighbors)
                .map(|((id, addr), new)| Change::Neighbor(id, addr, new)),
        );
        changes.extend(
            differences(&self.world.guards, &world.guards).map(|(id, new)| Change::Guard(id, new)),
        );
        if self.world.row != world.row {
            changes.push(Change::Node(world.row.clone()));
        }
        let anew = self.world.routes != world.routes || self.world.interfaces != world.interfaces;
        changes.extend(self.elsewhere.update(world, anew));
        self.world = Arc::clone(world);
        changes
    }

    /// Whether the next update would leave a Service that has backends without any. When endpoints move from one slice to another
    /// and the first word of it is that they are gone, the next one is worth a moment's wait.
    pub fn would_empty(&self, store: &Store) -> bool {
        store.changed().services.iter().any(|name| {
            let served = |part: &Part| part.spec.backends.iter().any(|backend| backend.in_cluster);
            let usable = |slice: &crate::desired::EndpointSlice| {
                slice
                    .endpoints
                    .iter()
                    .any(|endpoint| endpoint.ready || (endpoint.serving && endpoint.terminating))
            };
            self.parts.get(name).is_some_and(|parts| parts.iter().any(served))
                && store.service(name).is_some()
                && !store.slices(name).any(usable)
        })
    }

    /// Whether a Service was compiled to anything.
    pub fn has_rows_of(&self, service: &ServiceName) -> bool {
        self.parts.contains_key(service)
    }

    /// The tables couldn't take all rows of policies: the next update stages all of them again.
    pub fn stage_policies_again(&mut self) {
        self.short = true;
    }

    /// Whether policies know something of an object.
    pub fn knows(&self, object: &Key) -> bool {
        self.policies.knows(object)
    }

    /// How much policies hold: classes, subjects, port maps, decisions, peers, questions remembered.
    pub fn policy_counts(&self) -> [usize; 6] {
        self.policies.counts()
    }

    /// Everything, for a writer that holds nothing yet.
    pub fn all(&mut self) -> Vec<Change> {
        self.short = false;
        let policies: Vec<Change> = self.policies.all().into_iter().map(Change::Policy).collect();
        let interfaces = self
            .world
            .interfaces
            .iter()
            .map(|(id, spec)| Change::Interface(*id, Some(spec.clone())));
        let routes = self
            .world
            .routes
            .iter()
            .map(|(prefix, spec)| Change::Route(*prefix, Some(spec.clone())));
        let neighbors = self
            .world
            .neighbors
            .iter()
            .map(|((id, addr), mac)| Change::Neighbor(*id, *addr, Some(*mac)));
        let services = self
            .services
            .iter()
            .map(|(key, spec)| Change::Service(key.clone(), Some(Arc::clone(spec))));
        let node = Some(Change::Node(self.world.row.clone()));
        let guards = self.world.guards.iter();
        let guards = guards.map(|(id, spec)| Change::Guard(*id, Some(spec.clone())));
        let rows =
            interfaces.chain(guards).chain(routes).chain(neighbors).chain(node).chain(services);
        // Policies before routes and services: where memory ends, what is refused is not what refuses.
        policies.into_iter().chain(rows).chain(self.elsewhere.all()).collect()
    }

    /// The service rows as they should be, by key.
    pub fn services(&self) -> &BTreeMap<String, Arc<ServiceSpec>> {
        &self.services
    }

    /// The world as last compiled.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// Frontends that more than one service asks for, with the one that has it.
    pub fn conflicts(&self) -> impl Iterator<Item = Conflict> + '_ {
        self.claims.conflicts()
    }

    /// Addresses that several pods say they have, with their names: closed while policies are in force.
    pub fn contested_addresses(&self) -> impl Iterator<Item = (millrace_wire::Addr, &str)> {
        self.policies.contested()
    }

    fn recompile(
        &mut self,
        name: ServiceName,
        store: &Store,
        node: &NodeView,
        affected: &mut BTreeSet<String>,
    ) {
        let new = match store.service(&name) {
            Some(service) => {
                service::compile(&name, service, store.slices(&name), node, &self.zone)
            }
            None => match store.host_ports_of(&name) {
                Some(pod) => host_port::compile(&name, pod, node),
                None => Vec::new(),
            },
        };
        for part in self.parts.remove(&name).unwrap_or_default() {
            self.claims.release(&part, affected);
            self.owners.remove(&part.key);
            affected.insert(part.key);
        }
        for part in &new {
            self.claims.take(part, affected);
            self.owners.insert(part.key.clone(), name.clone());
            affected.insert(part.key.clone());
        }
        if !new.is_empty() {
            self.parts.insert(name, new);
        }
    }

    /// Rows of the affected keys with the frontends they really get.
    fn settle(&mut self, affected: BTreeSet<String>) -> Vec<Change> {
        let (mut removed, mut released, mut set) = (Vec::new(), Vec::new(), Vec::new());
        let mut gained: BTreeSet<Place> = BTreeSet::new();
        for key in affected {
            let part = self
                .owners
                .get(&key)
                .and_then(|name| self.parts.get(name)?.iter().find(|part| part.key == key));
            let new = part.map(|part| {
                let gets = |frontend: &FrontendSpec| self.claims.owner(frontend) == Some(&key);
                let mut spec = Arc::clone(&part.spec);
                if !spec.frontends.iter().all(gets) {
                    Arc::make_mut(&mut spec).frontends.retain(gets);
                }
                spec
            });
            let Some(new) = new else {
                if let Some(old) = self.services.remove(&key) {
                    self.elsewhere.note(Some(&old), None);
                    removed.push(Change::Service(key, None));
                }
                continue;
            };
            let old = self.services.get(&key).cloned().unwrap_or_default();
            if self.services.contains_key(&key) && old == new {
                continue;
            }
            self.elsewhere.note(Some(&old), Some(&new));
            let places =
                |spec: &ServiceSpec| spec.frontends.iter().map(place).collect::<BTreeSet<Place>>();
            let (before, after) = (places(&old), places(&new));
            gained.extend(after.difference(&before));
            let lost: Vec<Place> = before.difference(&after).copied().collect();
            if !lost.is_empty() {
                released.push((key.clone(), old, lost));
            }
            self.services.insert(key.clone(), Arc::clone(&new));
            set.push(Change::Service(key, Some(new)));
        }
        // Of the rows that lose frontends, those that lose one to another row let go of it first.
        let released = released
            .into_iter()
            .filter(|(_, _, lost)| lost.iter().any(|place| gained.contains(place)));
        let released = released.map(|(key, mut spec, lost)| {
            Arc::make_mut(&mut spec).frontends.retain(|frontend| !lost.contains(&place(frontend)));
            Change::Service(key, Some(spec))
        });
        removed.into_iter().chain(released).chain(set).collect()
    }
}

/// What makes a frontend unique: address, port (host order), IP protocol number.
type Place = (Addr, u16, u8);

fn place(frontend: &FrontendSpec) -> Place {
    (frontend.addr, frontend.port, frontend.protocol)
}

fn differences<'a, K: Ord + Copy, V: Clone + PartialEq>(
    old: &'a BTreeMap<K, V>,
    new: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (K, Option<V>)> + 'a {
    let removed = old.keys().filter(|key| !new.contains_key(key)).map(|key| (*key, None));
    let set = new
        .iter()
        .filter(|(key, value)| old.get(key) != Some(value))
        .map(|(key, value)| (*key, Some(value.clone())));
    removed.chain(set)
}
