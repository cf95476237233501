//! The object store: every row in force, by identity, whatever source it came from.
//!
//! Decides which Services a change touches ([`Changed`]), so that a compile step costs what changed. Needs judged rows
//! ([`crate::desired::Row`]). Leaves to sources which version of an object is the good one, to `compile` what rows mean.
//! One writer, one direction: nothing here reads back from the tables.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ipnet::IpNet;
use serde_json::Value;

use crate::{
    desired::{Desired, EndpointSlice, Namespace, Node, Pod, Policy, Row, Service},
    object::{Decoded, Key, Kind, Refusal, decode},
};

/// A Service's identity: namespace and name, in the order that tables and reports are sorted by. A pod whose host ports lead to it is
/// one here too, under a name that no Service can have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// Changed Services that are kept before those that are gone are looked for.
const MANY: usize = 1024;

/// What has changed since the last compile step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Services whose own row or one of whose slices changed.
    pub services: BTreeSet<ServiceName>,
    /// A Node or Pod changed, or a slice did: what [`crate::compile::node`] looks at.
    pub world: bool,
    /// A ServiceCIDR changed.
    pub ranges: bool,
    /// Policies, and what they are about: Pods, Namespaces, Nodes and EndpointSlices.
    pub policy: BTreeSet<Key>,
}

/// All rows in force.
#[derive(Debug, Default)]
pub struct Store {
    rows: BTreeMap<Key, Row>,
    slices: BTreeMap<ServiceName, BTreeSet<String>>,
    counts: BTreeMap<Kind, usize>,
    changed: Changed,
    /// So many changed Services are reason to look for those that are gone.
    look_at: usize,
}

impl Store {
    /// An empty one.
    pub fn new() -> Store {
        Store::default()
    }

    /// Creates or replaces an object. True when that changed anything that is compiled.
    pub fn set(&mut self, row: Row) -> bool {
        if let Some(old) = self.rows.get_mut(&row.key)
            && old.desired == row.desired
        {
            *old = row;
            return false;
        }
        let old = self.rows.insert(row.key.clone(), row.clone());
        if old.is_none() {
            *self.counts.entry(row.key.kind).or_default() += 1;
        }
        self.note(&row.key, old.as_ref().map(|old| &old.desired), Some(&row.desired));
        true
    }

    /// Whether the version that is there should stay in force: `row` lacks items whose types are wrong, and it doesn't.
    pub fn is_better_than(&self, row: &Row) -> bool {
        row.partial && self.rows.get(&row.key).is_some_and(|old| !old.partial)
    }

    /// Removes an object. Of one that is not there: nothing, and false.
    pub fn delete(&mut self, key: &Key) -> bool {
        let Some(old) = self.rows.remove(key) else { return false };
        if let Some(count) = self.counts.get_mut(&key.kind) {
            *count -= 1;
        }
        self.note(key, Some(&old.desired), None);
        true
    }

    /// Creates or replaces what `value` holds: an object or a List of them. A malformed object leaves its last good version in
    /// force. Answers what was refused.
    pub fn apply_json(&mut self, value: Value) -> Vec<Refusal> {
        let mut refusals = Vec::new();
        for decoded in decode(value) {
            match decoded {
                Decoded::Object(key, object) => {
                    let row = Row::judge(key, &object);
                    refusals.extend(row.refusals.iter().cloned());
                    if !self.is_better_than(&row) {
                        self.set(row);
                    }
                }
                Decoded::Refused(_, refusal) => refusals.push(refusal),
                Decoded::Ignored { notice } => tracing::info!("{notice}"),
            }
        }
        refusals
    }

    /// Removes by the words of a `delete` line. Of an unknown object or kind: nothing, and false.
    pub fn delete_named(&mut self, kind: &str, namespace: &str, name: &str) -> bool {
        let Some(kind) = Kind::parse(kind) else { return false };
        let namespace = match (kind.is_namespaced(), namespace) {
            (false, _) => "",
            (true, "") => "default",
            (true, namespace) => namespace,
        };
        self.delete(&Key { kind, namespace: namespace.into(), name: name.into() })
    }

    /// The row of an object.
    pub fn row(&self, key: &Key) -> Option<&Row> {
        self.rows.get(key)
    }

    /// All rows, by kind, namespace and name.
    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        self.rows.values()
    }

    /// A Service, if it is there.
    pub fn service(&self, of: &ServiceName) -> Option<&Arc<Service>> {
        match &self.rows.get(&key(Kind::Service, &of.namespace, &of.name))?.desired {
            Desired::Service(service) => Some(service),
            _ => None,
        }
    }

    /// The slices of a Service by name, whether or not there is such a Service.
    pub fn slices(&self, of: &ServiceName) -> impl Iterator<Item = &EndpointSlice> {
        let names = self.slices.get(of).into_iter().flatten();
        let namespace = of.namespace.clone();
        names.filter_map(move |name| {
            match &self.rows.get(&key(Kind::EndpointSlice, &namespace, name))?.desired {
                Desired::EndpointSlice(slice) => Some(&**slice),
                _ => None,
            }
        })
    }

    /// A slice.
    pub fn slice(&self, key: &Key) -> Option<&EndpointSlice> {
        match &self.rows.get(key)?.desired {
            Desired::EndpointSlice(slice) => Some(slice),
            _ => None,
        }
    }

    /// All slices.
    pub fn all_slices(&self) -> impl Iterator<Item = (&Key, &EndpointSlice)> {
        self.of_kind(Kind::EndpointSlice).filter_map(|row| match &row.desired {
            Desired::EndpointSlice(slice) => Some((&row.key, &**slice)),
            _ => None,
        })
    }

    /// The pod that a name of [`Store::host_ports`] means.
    pub fn host_ports_of(&self, name: &ServiceName) -> Option<&Pod> {
        self.pod(&pod_of(name)?).map(|pod| &**pod)
    }

    /// Names of the pods that have host ports.
    pub fn host_ports(&self) -> impl Iterator<Item = ServiceName> {
        let pods = self.pods().filter(|(_, pod)| !pod.host_ports.is_empty());
        pods.map(|(key, _)| of_pod(key))
    }

    /// All Services' names.
    pub fn service_names(&self) -> impl Iterator<Item = ServiceName> {
        self.of_kind(Kind::Service).map(|row| ServiceName {
            namespace: row.key.namespace.clone(),
            name: row.key.name.clone(),
        })
    }

    /// A Node.
    pub fn node(&self, name: &str) -> Option<&Node> {
        match &self.rows.get(&key(Kind::Node, "", name))?.desired {
            Desired::Node(node) => Some(node),
            _ => None,
        }
    }

    /// All Nodes by name.
    pub fn nodes(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.of_kind(Kind::Node).filter_map(|row| match &row.desired {
            Desired::Node(node) => Some((row.key.name.as_str(), &**node)),
            _ => None,
        })
    }

    /// All Pods by namespace and name.
    pub fn pods(&self) -> impl Iterator<Item = (&Key, &Pod)> {
        self.of_kind(Kind::Pod).filter_map(|row| match &row.desired {
            Desired::Pod(pod) => Some((&row.key, &**pod)),
            _ => None,
        })
    }

    /// A Pod.
    pub fn pod(&self, key: &Key) -> Option<&Arc<Pod>> {
        match &self.rows.get(key)?.desired {
            Desired::Pod(pod) => Some(pod),
            _ => None,
        }
    }

    /// A Namespace, if there is an object.
    pub fn namespace(&self, key: &Key) -> Option<&Arc<Namespace>> {
        match &self.rows.get(key)?.desired {
            Desired::Namespace(namespace) => Some(namespace),
            _ => None,
        }
    }

    /// A policy.
    pub fn policy(&self, key: &Key) -> Option<&Arc<Policy>> {
        match &self.rows.get(key)?.desired {
            Desired::Policy(policy) => Some(policy),
            _ => None,
        }
    }

    /// The ranges that Service addresses come from, by all ServiceCIDRs.
    pub fn service_ranges(&self) -> impl Iterator<Item = IpNet> {
        self.of_kind(Kind::ServiceCidr).flat_map(|row| match &row.desired {
            Desired::ServiceCidr(cidr) => cidr.ranges.clone(),
            _ => Vec::new(),
        })
    }

    /// How many objects of a kind there are.
    pub fn count(&self, kind: Kind) -> usize {
        self.counts.get(&kind).copied().unwrap_or(0)
    }

    /// Everything that is refused now.
    pub fn refusals(&self) -> impl Iterator<Item = &Refusal> {
        self.rows.values().flat_map(|row| row.refusals.iter())
    }

    /// What has changed since the last [`Store::take_changed`].
    pub fn changed(&self) -> &Changed {
        &self.changed
    }

    /// What has changed since the last call.
    pub fn take_changed(&mut self) -> Changed {
        std::mem::take(&mut self.changed)
    }

    /// Forgets changed Services of which nothing is there and nothing is `compiled`, and other objects that are gone and not `known`: while there is no compile step, what comes and goes
    /// would fill the memory. Looks only when there are twice as many as can be worth it, so that it costs little for each change.
    pub fn forget_gone(
        &mut self,
        compiled: impl Fn(&ServiceName) -> bool,
        known: impl Fn(&Key) -> bool,
    ) {
        let many = self.changed.services.len().max(self.changed.policy.len());
        if many < self.look_at.max(MANY) {
            return;
        }
        let (rows, slices) = (&self.rows, &self.slices);
        let there = |name: &ServiceName| {
            rows.contains_key(&key(Kind::Service, &name.namespace, &name.name))
                || slices.contains_key(name)
                || pod_of(name).is_some_and(|key| rows.contains_key(&key))
        };
        self.changed.services.retain(|name| there(name) || compiled(name));
        self.changed.policy.retain(|key| rows.contains_key(key) || known(key));
        self.look_at = self.changed.services.len().max(self.changed.policy.len()) * 2;
    }

    fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Row> {
        self.rows
            .range(key(kind, "", "")..)
            .map(|(_, row)| row)
            .take_while(move |row| row.key.kind == kind)
    }

    fn note(&mut self, key: &Key, old: Option<&Desired>, new: Option<&Desired>) {
        if !matches!(key.kind, Kind::Service | Kind::ServiceCidr) {
            self.changed.policy.insert(key.clone());
        }
        match key.kind {
            Kind::Service => {
                self.changed.services.insert(ServiceName {
                    namespace: key.namespace.clone(),
                    name: key.name.clone(),
                });
            }
            Kind::EndpointSlice => {
                let service = |desired: Option<&Desired>| match desired {
                    Some(Desired::EndpointSlice(slice)) if !slice.service.is_empty() => {
                        Some(ServiceName {
                            namespace: key.namespace.clone(),
                            name: slice.service.clone(),
                        })
                    }
                    _ => None,
                };
                if let Some(name) = service(old) {
                    let slices = self.slices.entry(name.clone()).or_default();
                    slices.remove(&key.name);
                    if slices.is_empty() {
                        self.slices.remove(&name);
                    }
                    self.changed.services.insert(name);
                }
                if let Some(name) = service(new) {
                    self.slices.entry(name.clone()).or_default().insert(key.name.clone());
                    self.changed.services.insert(name);
                }
                self.changed.world = true;
            }
            Kind::Pod => {
                self.changed.world = true;
                let has = |desired: Option<&Desired>| matches!(desired, Some(Desired::Pod(pod)) if !pod.host_ports.is_empty());
                if has(old) || has(new) {
                    self.changed.services.insert(of_pod(key));
                }
            }
            Kind::Node => self.changed.world = true,
            Kind::ServiceCidr => self.changed.ranges = true,
            Kind::Namespace => {}
            kind => debug_assert!(kind.is_policy()),
        }
    }
}

/// Names of objects have no `/`.
const POD: &str = "pod/";

fn of_pod(key: &Key) -> ServiceName {
    ServiceName { namespace: key.namespace.clone(), name: format!("{POD}{}", key.name) }
}

fn pod_of(name: &ServiceName) -> Option<Key> {
    Some(key(Kind::Pod, &name.namespace, name.name.strip_prefix(POD)?))
}

fn key(kind: Kind, namespace: &str, name: &str) -> Key {
    Key { kind, namespace: namespace.into(), name: name.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn slice(name: &str, service: &str, addr: &str) -> Value {
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": name, "labels": {"kubernetes.io/service-name": service}},
            "addressType": "IPv4", "ports": [{"port": 80}], "endpoints": [{"addresses": [addr]}]})
    }

    fn touched(store: &mut Store) -> Vec<String> {
        store.take_changed().services.into_iter().map(|name| name.name).collect()
    }

    #[test]
    fn a_slice_touches_its_service_and_one_that_moves_touches_both() {
        let mut store = Store::new();
        assert!(store.apply_json(slice("s", "a", "10.0.0.1")).is_empty());
        assert_eq!(touched(&mut store), ["a"]);
        store.apply_json(slice("s", "b", "10.0.0.1"));
        assert_eq!(touched(&mut store), ["a", "b"]);
        let name = |name: &str| ServiceName { namespace: "default".into(), name: name.into() };
        assert_eq!((store.slices(&name("a")).count(), store.slices(&name("b")).count()), (0, 1));
    }

    #[test]
    fn the_same_object_again_touches_nothing() {
        let mut store = Store::new();
        store.apply_json(slice("s", "a", "10.0.0.1"));
        store.take_changed();
        store.apply_json(slice("s", "a", "10.0.0.1"));
        assert_eq!(store.take_changed(), Changed::default());
    }

    #[test]
    fn changes_that_nobody_compiles_hold_no_more_than_there_is() {
        let mut store = Store::new();
        let name = |name: &str| ServiceName { namespace: "default".into(), name: name.into() };
        store.apply_json(slice("kept", "served", "10.0.0.1"));
        store.apply_json(slice("gone", "compiled", "10.0.0.1"));
        store.delete_named("EndpointSlice", "", "gone");
        for number in 0..3 * MANY {
            store.apply_json(slice("s", &format!("a{number}"), "10.0.0.1"));
            store.forget_gone(|service| *service == name("compiled"), |_| false);
            assert!(store.changed().services.len() <= MANY);
            assert!(store.changed().policy.len() <= MANY);
        }
        store.delete_named("EndpointSlice", "", "s");
        let left = store.take_changed().services;
        assert!(left.contains(&name("served")) && left.contains(&name("compiled")));
    }

    #[test]
    fn deleting_what_is_not_there_is_nothing() {
        let mut store = Store::new();
        assert!(
            !store.delete_named("Service", "default", "web")
                && !store.delete_named("Teapot", "", "x")
        );
        store.apply_json(slice("s", "a", "10.0.0.1"));
        assert!(
            store.delete_named("EndpointSlice", "", "s")
                && !store.delete_named("EndpointSlice", "", "s")
        );
        assert!(store.slices.is_empty());
    }

    #[test]
    fn a_malformed_version_leaves_the_good_one_in_force() {
        let mut store = Store::new();
        store.apply_json(slice("s", "a", "10.0.0.1"));
        let mut bad = slice("s", "a", "10.0.0.2");
        bad["endpoints"] = json!("all of them");
        let refusals = store.apply_json(bad);
        assert_eq!((refusals.len(), refusals[0].field.as_str()), (1, "endpoints"));
        assert_eq!(store.all_slices().next().unwrap().1.endpoints[0].addr.to_string(), "10.0.0.1");
    }
}
