//! A subject: the rules that apply to some pods in one direction, in order, and what they say of each class of peers.
//!
//! What a class of peers may do depends on which of the peers that these rules name it is in: [`Subject::map_of`] remembers the answer
//! by those, so that most of what 5,000 classes ask is answered by a look.

use std::collections::HashMap;

use millrace_tables::{ByPolicies, DecisionId, DecisionSpec, PolicyId, PortMapSpec};

use super::{
    intern::Interned,
    paint::{Painted, Says, Stage, Stroke, paint, side_by_side},
};
use crate::desired::{
    NamedPort,
    policy::{Action, Port, Ports, Rule, Tier},
};
use millrace_wire::Protocol;

/// What makes subjects equal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct SubjectKey {
    /// Whether it is about what the pods send.
    pub(super) egress: bool,
    /// Numbers and versions of the policies, in the order in which they are asked.
    pub(super) policies: Box<[(u32, u32)]>,
    /// Of what comes to a pod: the ports of its own that these policies name.
    pub(super) ports: Box<[NamedPort]>,
}

/// What makes classes of peers equal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct ClassKey {
    /// Peers that it is in, sorted.
    pub(super) peers: Box<[u32]>,
    /// The ports of a pod that rules about what is sent to it name.
    pub(super) ports: Box<[NamedPort]>,
    /// An address of this node itself: NetworkPolicies say nothing about it.
    pub(super) own: bool,
    /// A pod: it is in every peer that has all pods.
    pub(super) pod: bool,
}

/// A policy's rules in one direction, with their peers by number.
#[derive(Clone, Debug)]
pub(super) struct Part<'a> {
    pub(super) policy: u32,
    pub(super) tier: Tier,
    pub(super) shadow: bool,
    /// With the peers of each; `None`: everyone.
    pub(super) rules: Vec<(&'a Rule, Option<&'a [u32]>)>,
}

/// One of its rules.
#[derive(Debug)]
struct Entry {
    policy: u32,
    at: u16,
    stage: Stage,
    action: Action,
    ports: Ports,
    shadow: bool,
}

/// Those that isolate the pod, in force and in shadow mode.
#[derive(Debug, Default)]
struct Isolating {
    enforced: Vec<u32>,
    shadow: Vec<u32>,
}

/// What an answer depends on: of a class's peers those that the rules name, its ports, and who it is.
type Question = (Box<[u32]>, Box<[NamedPort]>, Who);

/// The other end, as far as it matters beside its class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Who {
    /// Anybody.
    Other,
    /// This node: NetworkPolicies say nothing about it.
    Node,
    /// The pod itself, by way of a service: a NetworkPolicy can't keep it from itself, so that where one is about the pod, nobody else is asked behind it.
    Itself,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Subject {
    entries: Vec<Entry>,
    by_peer: HashMap<u32, Vec<u32>>,
    everyone: Vec<u32>,
    isolating: Isolating,
    has_shadow: bool,
    /// Some rule of what is sent names a port of the other end.
    named: bool,
    /// Some policy of the cluster is among them.
    cluster: bool,
    /// Some policy of the cluster is about what is sent, also to this node itself.
    fenced: bool,
    /// Those of its peers that have every pod, sorted.
    of_every_pod: Box<[u32]>,
    /// The map of a pod's class that is in none of the other peers.
    pub(super) default: u32,
    memo: HashMap<Question, u32>,
}

/// Port maps and decisions, equal ones once.
#[derive(Debug, Default)]
pub(super) struct Maps {
    pub(super) maps: Interned<PortMapSpec, ()>,
    pub(super) decisions: Interned<DecisionSpec, ()>,
    /// Since they were last asked for.
    pub(super) new_maps: Vec<u32>,
    pub(super) new_decisions: Vec<u32>,
}

impl Subject {
    /// Of these parts, which come in order.
    pub(super) fn new<'a>(
        key: &SubjectKey,
        parts: impl Iterator<Item = Part<'a>>,
        is_everyone: impl Fn(u32) -> bool,
        maps: &mut Maps,
    ) -> Subject {
        let mut subject = Subject::default();
        for part in parts {
            subject.has_shadow |= part.shadow;
            let stage = match part.tier {
                Tier::Admin(_) => Stage::Admin,
                Tier::Network => Stage::Network,
                Tier::Baseline(_) => Stage::Baseline,
            };
            subject.cluster |= stage != Stage::Network;
            subject.fenced |= key.egress && stage != Stage::Network;
            if stage == Stage::Network {
                let list = &mut subject.isolating;
                if part.shadow { &mut list.shadow } else { &mut list.enforced }.push(part.policy);
            }
            for (rule, peers) in part.rules {
                let number = subject.entries.len() as u32;
                subject.named |= key.egress && names_ports(&rule.ports);
                subject.entries.push(Entry {
                    policy: part.policy,
                    at: rule.at,
                    stage,
                    action: rule.action,
                    ports: rule.ports.clone(),
                    shadow: part.shadow,
                });
                let Some(peers) = peers else {
                    subject.everyone.push(number);
                    continue;
                };
                for peer in peers {
                    let entries = subject.by_peer.entry(*peer).or_default();
                    if entries.last() != Some(&number) {
                        entries.push(number);
                    }
                }
            }
        }
        let everyone = subject.by_peer.keys().copied().filter(|peer| is_everyone(*peer));
        let mut everyone: Vec<u32> = everyone.collect();
        everyone.sort_unstable();
        subject.of_every_pod = everyone.clone().into();
        let pod = ClassKey { peers: everyone.into(), pod: true, ..ClassKey::default() };
        subject.default = subject.map_of(key, &pod, maps);
        subject
    }

    /// Peers that its rules name, but for those that have every pod: its default is what they say.
    pub(super) fn peers(&self) -> impl Iterator<Item = u32> + '_ {
        let others = |peer: &u32| self.of_every_pod.binary_search(peer).is_err();
        self.by_peer.keys().copied().filter(others)
    }

    /// Whether its rules name all pods, so that whatever is no pod may be treated as no pod is.
    pub(super) fn names_every_pod(&self) -> bool {
        !self.of_every_pod.is_empty()
    }

    /// Whether it has a say about what is sent to this node itself.
    pub(super) fn is_fenced(&self) -> bool {
        self.fenced
    }

    /// Whether its rules ask for ports of the other end by name, of anyone or of every pod.
    pub(super) fn asks_ports_of_everyone(&self) -> bool {
        let of_pods = self.of_every_pod.iter().filter_map(|peer| self.by_peer.get(peer)).flatten();
        let mut rules = self.everyone.iter().chain(of_pods);
        self.named && rules.any(|at| names_ports(&self.entries[*at as usize].ports))
    }

    /// The number of the port map for peers of this class.
    pub(super) fn map_of(&mut self, key: &SubjectKey, class: &ClassKey, maps: &mut Maps) -> u32 {
        let who = if class.own { Who::Node } else { Who::Other };
        self.map_for(key, class, who, maps)
    }

    /// The number of the port map for what a pod of this class sends to itself by way of a service; `None` where no policy of the cluster is
    /// about that.
    pub(super) fn map_of_itself(
        &mut self,
        key: &SubjectKey,
        class: &ClassKey,
        maps: &mut Maps,
    ) -> Option<u32> {
        self.cluster.then(|| self.map_for(key, class, Who::Itself, maps))
    }

    fn map_for(&mut self, key: &SubjectKey, class: &ClassKey, who: Who, maps: &mut Maps) -> u32 {
        let known: Box<[u32]> =
            class.peers.iter().filter(|peer| self.by_peer.contains_key(peer)).copied().collect();
        let ports = if self.named { class.ports.clone() } else { Box::default() };
        let question = (known, ports, who);
        if let Some(map) = self.memo.get(&question) {
            return *map;
        }
        let mut matching: Vec<u32> = self.everyone.clone();
        for peer in &question.0 {
            matching.extend(self.by_peer.get(peer).into_iter().flatten());
        }
        matching.sort_unstable();
        matching.dedup();
        let named = if key.egress { &question.1 } else { &key.ports };
        let map = self.paint(&matching, named, who, maps);
        self.memo.insert(question, map);
        map
    }

    fn paint(&self, matching: &[u32], named: &[NamedPort], who: Who, maps: &mut Maps) -> u32 {
        let painted = self.painted(matching, named, who, false);
        let with_shadow = match self.has_shadow {
            true => self.painted(matching, named, who, true),
            false => painted.clone(),
        };
        let mut strips = [const { Vec::new() }; 4];
        for (strip, (one, other)) in strips.iter_mut().zip(painted.iter().zip(&with_shadow)) {
            let mut last = None;
            side_by_side(one, other, |first, says, also| {
                let decision = self.decision(says, also);
                if last.as_ref() != Some(&decision) {
                    let (number, new) = maps.decisions.hold(decision.clone());
                    if new {
                        maps.new_decisions.push(number);
                    }
                    strip.push((first, DecisionId(number)));
                    last = Some(decision);
                }
            });
        }
        let [tcp, udp, sctp, other] = strips;
        let other = other.first().map_or(DecisionId(0), |(_, decision)| *decision);
        let spec = PortMapSpec { tcp, udp, sctp, other };
        let (number, new) = maps.maps.hold(spec);
        if new {
            maps.new_maps.push(number);
        } else {
            // The map that is there holds its decisions once.
            maps.release_decisions(number);
        }
        number
    }

    /// What the rules say together, those of policies in shadow mode among them or not.
    fn painted(&self, matching: &[u32], named: &[NamedPort], who: Who, shadow: bool) -> Painted {
        let Isolating { enforced, shadow: shadows } = &self.isolating;
        let isolated = !enforced.is_empty() || (shadow && !shadows.is_empty());
        let asked = |stage: Stage| match who {
            Who::Other => true,
            Who::Node => stage != Stage::Network,
            Who::Itself => stage == Stage::Admin || (stage == Stage::Baseline && !isolated),
        };
        let entries = matching.iter().map(|at| &self.entries[*at as usize]);
        let entries = entries.filter(|entry| (shadow || !entry.shadow) && asked(entry.stage));
        let strokes: Vec<Stroke> = entries
            .map(|entry| {
                let ports = numbers(&entry.ports, named);
                let Entry { policy, at, stage, action, .. } = *entry;
                Stroke { stage, action, policy, at, ports }
            })
            .collect();
        paint(&strokes, isolated && who == Who::Other)
    }

    fn decision(&self, says: Says, with_shadow: Says) -> DecisionSpec {
        let shadow = (allows(says) && !allows(with_shadow)).then(|| self.by(with_shadow, true));
        DecisionSpec { allow: allows(says), by: self.by(says, false), shadow }
    }

    fn by(&self, says: Says, shadow: bool) -> ByPolicies {
        match says {
            Says::Nobody => ByPolicies::default(),
            Says::Rule { policy, at, .. } => {
                ByPolicies { policies: vec![PolicyId(policy)], rule: Some(at.saturating_add(1)) }
            }
            Says::Isolated => {
                let Isolating { enforced, shadow: shadows } = &self.isolating;
                let list = if shadow && !shadows.is_empty() { shadows } else { enforced };
                let most = millrace_tables::policy::spec::MAX_DECIDERS;
                let policies = list.iter().take(most).map(|policy| PolicyId(*policy)).collect();
                ByPolicies { policies, rule: None }
            }
        }
    }

    /// Lets go of its maps.
    pub(super) fn release(&self, maps: &mut Maps) {
        self.memo.values().for_each(|map| maps.maps.release(*map));
    }

    /// Questions that are remembered.
    pub(super) fn remembered(&self) -> usize {
        self.memo.len()
    }
}

impl Maps {
    /// Lets go of the decisions of a map once.
    pub(super) fn release_decisions(&mut self, map: u32) {
        let Some(spec) = self.maps.key(map).cloned() else { return };
        release_all(&mut self.decisions, &spec);
    }
}

/// Lets go of all decisions of a port map.
pub(super) fn release_all(decisions: &mut Interned<DecisionSpec, ()>, spec: &PortMapSpec) {
    let strips = [&spec.tcp, &spec.udp, &spec.sctp];
    let all = strips.into_iter().flatten().map(|(_, decision)| decision.0);
    all.chain([spec.other.0]).for_each(|decision| decisions.release(decision));
}

fn allows(says: Says) -> bool {
    match says {
        Says::Nobody => true,
        Says::Rule { allow, .. } => allow,
        Says::Isolated => false,
    }
}

fn names_ports(ports: &Ports) -> bool {
    matches!(ports, Ports::Of(list) if list.iter().any(|port| matches!(port, Port::Named(..))))
}

/// A rule's ports as numbers, where `named` are the ports of the pod that the packet goes to.
fn numbers(ports: &Ports, named: &[NamedPort]) -> Option<Vec<(Protocol, u16, u16)>> {
    let Ports::Of(list) = ports else { return None };
    let mut numbers = Vec::with_capacity(list.len());
    for port in list {
        match port {
            Port::Range(protocol, first, last) => numbers.push((*protocol, *first, *last)),
            Port::Named(protocol, name) => numbers.extend(
                named
                    .iter()
                    .filter(|port| port.name == *name)
                    .filter(|port| protocol.is_none_or(|protocol| protocol == port.protocol))
                    .map(|port| (port.protocol, port.port, port.port)),
            ),
        }
    }
    Some(numbers)
}
