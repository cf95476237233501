//! NetworkPolicy and ClusterNetworkPolicy → one form: whom it is about, and rules in order.
//!
//! Decides, item by item, what of a policy can be used. Policies are read from JSON by hand and not by a type: a field of the wrong type
//! is a fault of its item, and neither the policy nor its other items go with it. What a bad item means is fail closed throughout:
//!
//! * a peer, port or rule that allows and can't be read matches nothing;
//! * of the selector that says whom the policy is about, a requirement that can't be read holds for every pod: the policy isolates
//!   the pods that were meant, or more;
//! * a field that is not known is a fault of its item: what it narrows can't be told.
//!
//! Leaves to [`crate::compile::policy`] which pods and addresses that is.

pub mod cluster;
pub mod network;
pub mod ports;

use std::fmt;

use ipnet::IpNet;
use serde_json::{Map, Value};

use super::{
    check::{Checker, known},
    selector::{self, Labels, Selector},
};
pub use ports::{Port, Ports};

/// A policy in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// When it is asked.
    pub tier: Tier,
    /// Whose traffic it is about.
    pub subject: PodSet,
    /// Rules for what comes to these pods; absent when it doesn't say anything about that.
    pub ingress: Option<Vec<Rule>>,
    /// Rules for what these pods send.
    pub egress: Option<Vec<Rule>>,
    /// `millrace.dev/mode: shadow`: what it would deny is counted, and not denied.
    pub shadow: bool,
}

/// Tiers in the order in which they are asked; policies of a cluster tier by priority, low first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// ClusterNetworkPolicies before all others.
    Admin(u16),
    /// NetworkPolicies: they isolate the pods they select, and add up.
    Network,
    /// ClusterNetworkPolicies for pods that no NetworkPolicy selects.
    Baseline(u16),
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its place in the object, from 0.
    pub at: u16,
    /// What becomes of what it matches.
    pub action: Action,
    /// The other end.
    pub peers: Peers,
    /// Protocols and destination ports.
    pub ports: Ports,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Lets it through: the last word in its direction.
    Accept,
    /// Drops it: the last word.
    Deny,
    /// Goes on with the next tier.
    Pass,
}

/// The other ends that a rule is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peers {
    /// All of them.
    Everyone,
    /// Those that any of these names.
    Of(Vec<Peer>),
}

/// Some other ends.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    /// Pods of the pod network.
    Pods(PodSet),
    /// Addresses.
    Block(Block),
    /// Nodes' own addresses.
    Nodes(Selector),
}

/// Addresses in a range and in none of others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Block {
    /// Inside of this.
    pub cidr: IpNet,
    /// And outside of these. Sorted, each once, all of them inside of `cidr`.
    pub except: Box<[IpNet]>,
}

/// Pods by their namespace and labels.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodSet {
    /// Where.
    pub namespaces: Namespaces,
    /// Which.
    pub pods: Selector,
}

/// Namespaces.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Namespaces {
    /// That one.
    Named(Box<str>),
    /// Those with these labels.
    Labelled(Selector),
}

impl PodSet {
    /// Whether every pod is in it.
    pub fn is_everyone(&self) -> bool {
        let everywhere = Namespaces::Labelled(Selector::default());
        self.namespaces == everywhere && self.pods == Selector::default()
    }

    /// Whether a pod with `labels`, in a namespace with that name and those labels, is in it.
    pub fn contains(&self, namespace: &str, its_labels: &Labels, labels: &Labels) -> bool {
        let there = match &self.namespaces {
            Namespaces::Named(name) => **name == *namespace,
            Namespaces::Labelled(selector) => selector.matches(its_labels),
        };
        there && self.pods.matches(labels)
    }
}

/// Says that a policy counts, and doesn't enforce.
const MODE: &str = "millrace.dev/mode";

/// What the annotation says. A word that is not known leaves the policy in force.
fn shadow(check: &mut Checker<'_>, object: &Value) -> bool {
    match object.pointer("/metadata/annotations").and_then(|all| all.get(MODE)) {
        None => false,
        Some(Value::String(mode)) if mode == "shadow" => true,
        Some(Value::String(mode)) if mode == "enforce" => false,
        Some(other) => {
            check.refuse(
                format!("metadata.annotations[{MODE}]"),
                format!("{} is neither shadow nor enforce: the policy is enforced", Shown(other)),
            );
            false
        }
    }
}

/// The items of a list that may be absent. `None` when it is no list; said.
fn list<'a>(
    check: &mut Checker<'_>,
    field: &str,
    map: &'a Map<String, Value>,
    name: &str,
) -> Option<&'a [Value]> {
    match map.get(name) {
        None | Some(Value::Null) => Some(&[]),
        Some(Value::Array(items)) => Some(items),
        Some(_) => {
            check.refuse(format!("{field}.{name}"), "must be a list");
            None
        }
    }
}

/// An item that must be a mapping with these fields alone.
fn mapping<'a>(
    check: &mut Checker<'_>,
    field: &str,
    value: &'a Value,
    fields: &[&str],
) -> Option<&'a Map<String, Value>> {
    let Value::Object(map) = value else {
        check.refuse(field, format!("must be a mapping with {}", fields.join(", ")));
        return None;
    };
    known(check, field, map, fields).then_some(map)
}

/// A selector that all of must be readable.
fn whole(check: &mut Checker<'_>, field: &str, value: &Value) -> Option<Selector> {
    let read = selector::read(check, field, value);
    read.whole.then_some(read.selector)
}

/// A prefix of a peer; bits beyond its length are cut off, as the reference does.
fn cidr(check: &mut Checker<'_>, field: &str, value: &Value) -> Option<IpNet> {
    let Value::String(text) = value else {
        check.refuse(field, "is not a string");
        return None;
    };
    let net = check.range(|| field.to_owned(), text)?;
    if let IpNet::V6(v6) = net
        && v6.prefix_len() >= 96
        && v6.addr().to_ipv4_mapped().is_some()
    {
        check.refuse(field, format!("{text} is IPv4 written as IPv6: write it as IPv4"));
        return None;
    }
    Some(net)
}

/// Fields of a mapping that are there and not null.
fn set(map: &Map<String, Value>) -> impl Iterator<Item = (&str, &Value)> {
    map.iter().filter(|(_, value)| !value.is_null()).map(|(name, value)| (name.as_str(), value))
}

/// A value in a message, cut short.
struct Shown<'a>(&'a Value);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string();
        f.write_str(&text.chars().take(80).collect::<String>())
    }
}

/// The place of a rule in its list. Beyond what a number holds all are the last one's.
fn place(at: usize) -> u16 {
    u16::try_from(at).unwrap_or(u16::MAX)
}
