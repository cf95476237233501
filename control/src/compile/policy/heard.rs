//! What objects say that has changed: what depends on it is marked, to be looked at again.

use std::{collections::BTreeMap, sync::Arc};

use ipnet::IpNet;
use millrace_wire::Addr;

use super::{Policies, PolicyRow, State, View, classify::is_local, host};
use crate::{desired::Policy, object::Key, store::Store};

impl Policies {
    pub(super) fn set_view(&mut self, view: View, store: &Store) {
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

    pub(super) fn set_pod(&mut self, key: &Key, store: &Store) {
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

    pub(super) fn count(&mut self, set: u32, joins: bool) {
        let Some(row) = self.subject_sets.value_mut(set) else { return };
        row.members = if joins { row.members + 1 } else { row.members - 1 };
        self.todo.policies.extend(&row.policies);
    }

    pub(super) fn set_policy(&mut self, key: &Key, row: Option<&Arc<Policy>>) {
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
    pub(super) fn mark_all(&mut self) {
        self.todo.nets.extend(self.pods.addresses().map(host));
        self.todo.nets.extend(&self.view.pod_ranges);
        self.todo.nets.extend(self.view.own.iter().map(|addr| host(*addr)));
        self.todo.nets.extend(self.endpoints.keys().map(|addr| host(*addr)));
        self.todo.nets.extend(self.known.keys());
    }

    pub(super) fn set_node(&mut self, key: &Key, store: &Store) {
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

    pub(super) fn set_slice(&mut self, key: &Key, store: &Store) {
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
}

/// Prefixes inside of one.
pub(super) fn within<'a, V>(
    map: &'a BTreeMap<IpNet, V>,
    net: &IpNet,
) -> impl Iterator<Item = &'a IpNet> {
    let net = *net;
    let first = IpNet::new(net.network(), 0).unwrap_or(net);
    let last = IpNet::new(net.broadcast(), net.max_prefix_len()).unwrap_or(net);
    map.range(first..=last).map(|(inside, _)| inside).filter(move |inside| net.contains(*inside))
}
