//! Addresses → their class, and the subjects that they are.

use std::sync::Arc;

use ipnet::IpNet;
use millrace_tables::{ClassId, Endpoint, EndpointSpec, PortMapId, SubjectId};
use millrace_wire::Addr;

use super::{
    Known, Policies, State, View,
    pods::At,
    subject::{ClassKey, SubjectKey},
};
use crate::desired::{
    NamedPort, Policy,
    policy::{Port, Ports, Rule, Tier},
};

impl Policies {
    pub(super) fn classify(&mut self) {
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
                // What these maps are follows from the rest.
                let itself = self.known.get(&net).map(|old| old.itself).unwrap_or_default();
                (
                    Known {
                        class,
                        ingress,
                        egress,
                        flags: wanted.flags,
                        name: wanted.name,
                        itself,
                    },
                    wanted.cluster,
                )
            });
            let cluster = new.as_ref().is_some_and(|(_, cluster)| *cluster);
            let new = new.map(|(known, _)| known);
            let old = self.known.get(&net);
            if old == new.as_ref() {
                if let Some(known) = new {
                    self.release(&known);
                }
                continue;
            }
            let new = new.map(|known| Known { itself: [None; 2], ..known });
            if cluster {
                self.todo.itself.push(net);
            } else {
                self.rows.endpoint(net, new.as_ref().map(endpoint));
            }
            let old = match new {
                Some(known) => self.known.insert(net, known),
                None => self.known.remove(&net),
            };
            if let Some(known) = old {
                self.release(&known);
            }
        }
    }

    /// Sets the rows of endpoints that policies of the cluster are about, with the maps of what they send to themselves by way of a service.
    pub(super) fn reach_themselves(&mut self) {
        for net in std::mem::take(&mut self.todo.itself) {
            let Some(known) = self.known.get_mut(&net) else { continue };
            let Some(class) = self.classes.key(known.class) else { continue };
            known.itself = [known.ingress, known.egress].map(|number| {
                let key = Arc::clone(self.subjects.key(number?)?);
                self.subjects.value_mut(number?)?.map_of_itself(&key, class, &mut self.maps)
            });
            self.rows.endpoint(net, Some(endpoint(known)));
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
                let [ingress, egress] = [&wanted.ingress, &wanted.egress].map(|subject| {
                    subject.as_ref().is_some_and(|key| key.policies.iter().any(fences))
                });
                if egress {
                    wanted.flags |= Endpoint::FENCED;
                }
                wanted.cluster = ingress || egress;
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
    /// Policies of the cluster are about it.
    cluster: bool,
}

pub(super) fn is_local(view: &View, pod: &crate::desired::Pod) -> bool {
    view.node.is_empty() || pod.node == view.node
}

pub(super) fn endpoint(known: &Known) -> EndpointSpec {
    EndpointSpec {
        class: ClassId(known.class),
        ingress: known.ingress.map(SubjectId),
        egress: known.egress.map(SubjectId),
        flags: known.flags,
        name: known.name.to_string(),
        itself: known.itself.map(|map| map.map(PortMapId)),
    }
}

/// Names of ports that rules ask for.
pub(super) fn port_names(rules: &Option<Vec<Rule>>) -> impl Iterator<Item = &Box<str>> {
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
