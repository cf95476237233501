//! NetworkPolicy, `networking.k8s.io/v1`.

use ipnet::IpNet;
use serde_json::{Map, Value};

use super::{
    Action, Block, Namespaces, Peer, Peers, PodSet, Policy, Rule, Shown, Tier, cidr, list, mapping,
    place, ports, shadow, whole,
};
use crate::desired::{
    check::{Checker, known},
    selector::{self, Selector},
};
use crate::object::Meaning;

const SPEC: [&str; 4] = ["podSelector", "policyTypes", "ingress", "egress"];

/// Judges the object of that namespace.
pub(crate) fn judge(
    check: &mut Checker<'_>,
    namespace: &str,
    object: &Value,
    meaning: Meaning,
) -> Policy {
    let empty = Map::new();
    // An absent spec selects all pods and allows nothing, as the API's own types read it.
    let spec = match object.get("spec") {
        None | Some(Value::Null) => &empty,
        Some(Value::Object(spec)) => spec,
        Some(_) => {
            check.refuse("spec", "must be a mapping: all pods of the namespace are isolated");
            &empty
        }
    };
    known(check, "spec", spec, &SPEC);
    let selector = spec.get("podSelector").unwrap_or(&Value::Null);
    // Requirements that can't be read hold for every pod: see the module's comment.
    let pods = selector::read(check, "spec.podSelector", selector).selector;
    let (is_ingress, is_egress) = types(check, spec);
    let shadow = shadow(check, object);
    let mut direction = |name: &str, peers: &str| {
        let listed = list(check, "spec", spec, name).unwrap_or_default();
        let rules = listed.iter().enumerate().filter_map(|(at, item)| {
            rule(check, &format!("spec.{name}[{at}]"), namespace, item, peers, at)
        });
        let mut rules = rules.collect::<Vec<Rule>>();
        if meaning != Meaning::Whole {
            rules.clear();
        }
        rules
    };
    let ingress = direction("ingress", "from");
    let egress = direction("egress", "to");
    let namespaces = match meaning {
        Meaning::Everywhere => Namespaces::Labelled(Selector::default()),
        Meaning::Whole | Meaning::Isolation => Namespaces::Named(namespace.into()),
    };
    Policy {
        tier: Tier::Network,
        subject: PodSet { namespaces, pods },
        ingress: is_ingress.then_some(ingress),
        egress: is_egress.then_some(egress),
        shadow,
    }
}

/// Which directions the policy is about. Absent or empty: ingress, and egress when there are rules for it. One that can't be read
/// may be either: those of the default are isolated too.
fn types(check: &mut Checker<'_>, spec: &Map<String, Value>) -> (bool, bool) {
    let has_egress = match spec.get("egress") {
        None | Some(Value::Null) => false,
        Some(Value::Array(rules)) => !rules.is_empty(),
        Some(_) => true,
    };
    let default = (true, has_egress);
    let Some(listed) = list(check, "spec", spec, "policyTypes") else { return default };
    if listed.is_empty() {
        return default;
    }
    let mut types = (false, false);
    for (at, item) in listed.iter().enumerate() {
        match item.as_str() {
            Some("Ingress") => types.0 = true,
            Some("Egress") => types.1 = true,
            _ => {
                check.refuse(
                    format!("spec.policyTypes[{at}]"),
                    format!("{} is neither Ingress nor Egress", Shown(item)),
                );
                types = (true, types.1 | has_egress);
            }
        }
    }
    types
}

/// A rule that can't be read is left out: it allows nothing.
fn rule(
    check: &mut Checker<'_>,
    field: &str,
    namespace: &str,
    item: &Value,
    peers: &str,
    at: usize,
) -> Option<Rule> {
    let map = mapping(check, field, item, &[peers, "ports"])?;
    let from = match list(check, field, map, peers) {
        Some([]) => Peers::Everyone,
        listed => Peers::Of(
            listed
                .into_iter()
                .flatten()
                .enumerate()
                .filter_map(|(at, item)| {
                    peer(check, &format!("{field}.{peers}[{at}]"), namespace, item)
                })
                .collect(),
        ),
    };
    let ports = ports::network(check, field, map);
    Some(Rule { at: place(at), action: Action::Accept, peers: from, ports })
}

fn peer(check: &mut Checker<'_>, field: &str, namespace: &str, item: &Value) -> Option<Peer> {
    let map = mapping(check, field, item, &["podSelector", "namespaceSelector", "ipBlock"])?;
    let given = |name: &str| map.get(name).filter(|value| !value.is_null());
    let (pods, namespaces) = (given("podSelector"), given("namespaceSelector"));
    if let Some(value) = given("ipBlock") {
        if pods.is_some() || namespaces.is_some() {
            check.refuse(field, "has an ipBlock together with a selector: it can have one of them");
            return None;
        }
        return block(check, &format!("{field}.ipBlock"), value).map(Peer::Block);
    }
    if pods.is_none() && namespaces.is_none() {
        check.refuse(field, "is empty: it must have podSelector, namespaceSelector or ipBlock");
        return None;
    }
    // Both are read, so that faults of both are said.
    let pods = match pods {
        Some(value) => whole(check, &format!("{field}.podSelector"), value),
        None => Some(Selector::default()),
    };
    let namespaces = match namespaces {
        Some(value) => {
            whole(check, &format!("{field}.namespaceSelector"), value).map(Namespaces::Labelled)
        }
        None => Some(Namespaces::Named(namespace.into())),
    };
    Some(Peer::Pods(PodSet { namespaces: namespaces?, pods: pods? }))
}

/// A block with an exception that can't be read, or lies outside, matches nothing: who was meant to be left out can't be told.
fn block(check: &mut Checker<'_>, field: &str, value: &Value) -> Option<Block> {
    let map = mapping(check, field, value, &["cidr", "except"])?;
    let net = cidr(check, &format!("{field}.cidr"), map.get("cidr").unwrap_or(&Value::Null));
    let listed = list(check, field, map, "except")?;
    let mut whole = true;
    let mut except: Vec<IpNet> = Vec::new();
    for (at, item) in listed.iter().enumerate() {
        let field = format!("{field}.except[{at}]");
        let Some(out) = cidr(check, &field, item) else {
            whole = false;
            continue;
        };
        let Some(net) = net else { continue };
        if net.contains(&out) && net != out {
            except.push(out);
        } else {
            check.refuse(field, format!("{out} is not inside of {net}"));
            whole = false;
        }
    }
    except.sort_unstable();
    except.dedup();
    Some(Block { cidr: net.filter(|_| whole)?, except: except.into() })
}
