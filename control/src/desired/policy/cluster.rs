//! ClusterNetworkPolicy, `policy.networking.k8s.io/v1alpha2`; and what came before it, AdminNetworkPolicy and BaselineAdminNetworkPolicy of `v1alpha1`, which
//! say the same in other words: a kind for each tier, `Allow` for `Accept`, `ports` for `protocols`.
//!
//! An item that can't be read matches nothing, the others of its rule work. A peer with no known field fails closed as the API says: a rule that
//! accepts matches nothing, one that denies or passes denies all.
//! A field that names the wrong tier, priority or pods can't be told from the right one: of such a policy only what denies is in force.

use serde_json::{Map, Value};

use super::{
    Action, Block, Namespaces, Peer, Peers, PodSet, Policy, Rule, Shown, Tier, cidr, list, mapping,
    place,
    ports::{self, Ports},
    set, shadow, whole,
};
use crate::desired::{
    check::{Checker, known},
    selector::{self, Selector},
};
use crate::object::{Kind, Meaning};

/// How a kind says it.
struct Form {
    kind: Kind,
    spec: &'static [&'static str],
    accept: &'static str,
    /// What else there is.
    actions: &'static [(&'static str, Action)],
    ports: &'static str,
}

const CLUSTER: Form = Form {
    kind: Kind::ClusterNetworkPolicy,
    spec: &["tier", "priority", "subject", "ingress", "egress"],
    accept: "Accept",
    actions: &[("Deny", Action::Deny), ("Pass", Action::Pass)],
    ports: "protocols",
};
const ADMIN: Form = Form {
    kind: Kind::AdminNetworkPolicy,
    spec: &["priority", "subject", "ingress", "egress"],
    accept: "Allow",
    actions: &[("Deny", Action::Deny), ("Pass", Action::Pass)],
    ports: "ports",
};
/// One of a cluster, asked behind all others of its tier.
const BASELINE: Form = Form {
    kind: Kind::BaselineAdminNetworkPolicy,
    spec: &["subject", "ingress", "egress"],
    accept: "Allow",
    actions: &[("Deny", Action::Deny)],
    ports: "ports",
};

impl Form {
    fn of(kind: Kind) -> &'static Form {
        match kind {
            Kind::AdminNetworkPolicy => &ADMIN,
            Kind::BaselineAdminNetworkPolicy => &BASELINE,
            _ => &CLUSTER,
        }
    }

    fn action(&self, map: &Map<String, Value>) -> Option<Action> {
        let said = map.get("action").and_then(Value::as_str)?;
        let all =
            std::iter::once((self.accept, Action::Accept)).chain(self.actions.iter().copied());
        all.into_iter().find(|(name, _)| *name == said).map(|(_, action)| action)
    }

    /// Its words for them, as they are listed.
    fn all_actions(&self) -> String {
        match self.actions {
            [(one, _)] => format!("{} or {one}", self.accept),
            _ => format!("{}, Deny or Pass", self.accept),
        }
    }
}

const MOST_PRIORITY: i64 = 1000;
const LONGEST_NAME: usize = 100;

/// Peers of a direction, by field.
#[derive(Clone, Copy)]
struct Direction {
    rules: &'static str,
    peers: &'static str,
    kinds: &'static [&'static str],
}

const INGRESS: Direction =
    Direction { rules: "ingress", peers: "from", kinds: &["namespaces", "pods"] };
const EGRESS: Direction = Direction {
    rules: "egress",
    peers: "to",
    kinds: &["namespaces", "pods", "nodes", "networks", "domainNames"],
};

/// Judges the object.
pub(crate) fn judge(
    check: &mut Checker<'_>,
    kind: Kind,
    object: &Value,
    meaning: Meaning,
) -> Policy {
    let form = Form::of(kind);
    let empty = Map::new();
    let spec = match object.get("spec") {
        Some(Value::Object(spec)) => spec,
        _ => {
            check.refuse("spec", "is missing or no mapping");
            &empty
        }
    };
    known(check, "spec", spec, form.spec);
    let before = check.refusals.len();
    let tier = tier(check, form, object, spec);
    let subject = subject(check, spec);
    let trusted = check.refusals.len() == before && meaning == Meaning::Whole;
    let mut direction = |of: Direction| {
        let listed = list(check, "spec", spec, of.rules).unwrap_or_default();
        let mut rules: Vec<Rule> = listed
            .iter()
            .enumerate()
            .filter_map(|(at, item)| rule(check, form, of, at, item))
            .collect();
        rules.retain(|rule| trusted || rule.action == Action::Deny);
        (!rules.is_empty()).then_some(rules)
    };
    let (ingress, egress) = (direction(INGRESS), direction(EGRESS));
    Policy { tier, subject, ingress, egress, shadow: shadow(check, object) }
}

fn tier(check: &mut Checker<'_>, form: &Form, object: &Value, spec: &Map<String, Value>) -> Tier {
    match form.kind {
        Kind::AdminNetworkPolicy => return Tier::Admin(priority(check, spec)),
        Kind::BaselineAdminNetworkPolicy => {
            if object.pointer("/metadata/name").is_none_or(|name| name != "default") {
                check.refuse("metadata.name", "must be default: a cluster has one of them");
            }
            return Tier::Baseline(u16::MAX);
        }
        _ => {}
    }
    let priority = priority(check, spec);
    match spec.get("tier").and_then(Value::as_str) {
        Some("Baseline") => Tier::Baseline(priority),
        Some("Admin") => Tier::Admin(priority),
        _ => {
            check.refuse("spec.tier", "must be Admin or Baseline");
            Tier::Admin(priority)
        }
    }
}

fn priority(check: &mut Checker<'_>, spec: &Map<String, Value>) -> u16 {
    let value = spec.get("priority").unwrap_or(&Value::Null);
    match value.as_i64().filter(|number| (0..=MOST_PRIORITY).contains(number)) {
        Some(number) => place(number as usize),
        None => {
            check.refuse(
                "spec.priority",
                format!("{} is not a number from 0 to 1000", Shown(value)),
            );
            0
        }
    }
}

/// Requirements that can't be read hold for every pod.
fn subject(check: &mut Checker<'_>, spec: &Map<String, Value>) -> PodSet {
    let everyone =
        PodSet { namespaces: Namespaces::Labelled(Selector::default()), pods: Selector::default() };
    let value = spec.get("subject").unwrap_or(&Value::Null);
    let field = "spec.subject";
    let Some(map) = mapping(check, field, value, &["namespaces", "pods"]) else { return everyone };
    let mut given = set(map);
    let namespaces = |selector| Namespaces::Labelled(selector);
    match (given.next(), given.next()) {
        (Some(("namespaces", value)), None) => {
            let read = selector::read(check, "spec.subject.namespaces", value);
            PodSet { namespaces: namespaces(read.selector), pods: Selector::default() }
        }
        (Some((_, value)), None) => {
            let field = "spec.subject.pods";
            let Some(map) = mapping(check, field, value, &["namespaceSelector", "podSelector"])
            else {
                return everyone;
            };
            let mut part = |name: &str| {
                let field = format!("{field}.{name}");
                match map.get(name) {
                    None | Some(Value::Null) => {
                        absent(check, field, name);
                        Selector::default()
                    }
                    Some(value) => selector::read(check, &field, value).selector,
                }
            };
            let (of, pods) = (part("namespaceSelector"), part("podSelector"));
            PodSet { namespaces: namespaces(of), pods }
        }
        _ => {
            check.refuse(field, "must have exactly one of namespaces, pods");
            everyone
        }
    }
}

/// What an absent selector of pods means: of namespaces all of them; that of pods has to be there, and is refused. Whether it may be.
fn absent(check: &mut Checker<'_>, field: String, name: &str) -> bool {
    let optional = name == "namespaceSelector";
    if !optional {
        check.refuse(field, "is missing");
    }
    optional
}

/// One rule; `None` when nothing is left of it.
fn rule(
    check: &mut Checker<'_>,
    form: &Form,
    of: Direction,
    at: usize,
    item: &Value,
) -> Option<Rule> {
    let field = format!("spec.{}[{at}]", of.rules);
    let closed =
        Rule { at: place(at), action: Action::Deny, peers: Peers::Everyone, ports: Ports::All };
    let Value::Object(map) = item else {
        check.refuse(field, "must be a mapping with action and peers");
        return Some(closed);
    };
    let Some(action) = form.action(map) else {
        check.refuse(format!("{field}.action"), format!("must be {}", form.all_actions()));
        return Some(closed);
    };
    let mut usable = known(check, &field, map, &["name", "action", of.peers, form.ports]);
    match map.get("name") {
        None | Some(Value::Null) => {}
        Some(Value::String(name)) if name.chars().count() <= LONGEST_NAME => {}
        // A name decides nothing: said, and no fault of the rule.
        Some(_) => {
            check.refuse(format!("{field}.name"), "is not a string of at most 100 characters")
        }
    }
    let read = peers(check, of, &field, map);
    usable &= read.understood;
    let ports = match form.kind {
        Kind::ClusterNetworkPolicy => ports::cluster(check, &field, map),
        _ => ports::admin(check, &field, map),
    };
    match action {
        Action::Accept if !usable => None,
        Action::Deny | Action::Pass if !(usable && read.supported) => Some(closed),
        _ => Some(Rule { at: place(at), action, peers: Peers::Of(read.peers), ports }),
    }
}

/// Peers of a rule.
struct Read {
    /// Those that can be read.
    peers: Vec<Peer>,
    /// There is none that a later version of the API may have brought: each has a known field.
    understood: bool,
    /// There is none of names.
    supported: bool,
}

fn peers(check: &mut Checker<'_>, of: Direction, field: &str, map: &Map<String, Value>) -> Read {
    let field = format!("{field}.{}", of.peers);
    let listed = match map.get(of.peers) {
        Some(Value::Array(listed)) if !listed.is_empty() => listed,
        _ => {
            check.refuse(field, "must be a list with at least one item");
            return Read { peers: Vec::new(), understood: false, supported: true };
        }
    };
    let mut read = Read { peers: Vec::new(), understood: true, supported: true };
    for (at, item) in listed.iter().enumerate() {
        let field = format!("{field}[{at}]");
        let known = |map| set(map).any(|(name, _)| of.kinds.contains(&name));
        read.understood &= item.as_object().is_some_and(known);
        let Some(map) = mapping(check, &field, item, of.kinds) else { continue };
        let mut given = set(map);
        match (given.next(), given.next()) {
            (Some((kind, value)), None) => {
                read.supported &= kind != "domainNames";
                peer(check, &format!("{field}.{kind}"), kind, value, &mut read.peers)
            }
            _ => check.refuse(field, format!("must have exactly one of {}", of.kinds.join(", "))),
        }
    }
    read
}

fn peer(check: &mut Checker<'_>, field: &str, kind: &str, value: &Value, peers: &mut Vec<Peer>) {
    match kind {
        "namespaces" => peers.extend(whole(check, field, value).map(|selector| {
            Peer::Pods(PodSet {
                namespaces: Namespaces::Labelled(selector),
                pods: Selector::default(),
            })
        })),
        "pods" => peers.extend(pods(check, field, value)),
        "nodes" => peers.extend(whole(check, field, value).map(Peer::Nodes)),
        "networks" => {
            let Value::Array(listed) = value else { return check.refuse(field, "must be a list") };
            if listed.is_empty() {
                check.refuse(field, "must have at least one item");
            }
            for (at, item) in listed.iter().enumerate() {
                let net = cidr(check, &format!("{field}[{at}]"), item);
                peers.extend(net.map(|cidr| Peer::Block(Block { cidr, except: Box::default() })));
            }
        }
        _ => check.refuse(field, "names are not supported here: give networks"),
    }
}

fn pods(check: &mut Checker<'_>, field: &str, value: &Value) -> Option<Peer> {
    let map = mapping(check, field, value, &["namespaceSelector", "podSelector"])?;
    let mut part = |name: &str| {
        let field = format!("{field}.{name}");
        match map.get(name) {
            None | Some(Value::Null) => absent(check, field, name).then(Selector::default),
            Some(value) => whole(check, &field, value),
        }
    };
    let (namespaces, pods) = (part("namespaceSelector"), part("podSelector"));
    Some(Peer::Pods(PodSet { namespaces: Namespaces::Labelled(namespaces?), pods: pods? }))
}
