//! Policies that name themselves badly. None of them is refused as a whole: its pods would be open then.
//!
//! Decides which objects are meant as policies, what they are called, and how much of them is meant ([`Meaning`]). A policy without a name that can be
//! one gets one made of what it says, so that it is the same policy each time it is read.

use serde_json::Value;

use super::{Decoded, KINDS, Key, Kind, Object, Typed, check_name, text};

/// How much of a policy is in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Meaning {
    /// All that can be read.
    #[default]
    Whole,
    /// What its rules mean can't be told, since it is of another version: it isolates, and allows nothing.
    Isolation,
    /// Nor where its pods are: those that it selects are isolated in every namespace.
    Everywhere,
}

/// The version in which NetworkPolicies were first served, with the fields that they have now.
const OLD: &str = "extensions/v1beta1";

/// What ClusterNetworkPolicy is called where it is called beta, with the fields that it has.
const BETA: &str = "policy.networking.k8s.io/v1beta1";

/// The kind of policy that an object is meant as: its API group says so, or it says nothing of that.
pub(super) fn kind_of(value: &Value) -> Option<Kind> {
    let name = text(value, &["kind"])?;
    let policies = KINDS.into_iter().filter(|kind| kind.is_policy());
    let kind = policies.into_iter().find(|kind| kind.name().eq_ignore_ascii_case(name))?;
    let Some(version) = value.get("apiVersion").and_then(Value::as_str) else { return Some(kind) };
    let group = |version: &str| version.split_once('/').map_or("", |(group, _)| group).to_owned();
    let is_its = group(version) == group(kind.api_version())
        || (kind == Kind::NetworkPolicy && group(version) == group(OLD));
    is_its.then_some(kind)
}

/// Reads who it is.
pub(super) fn decode(kind: Kind, value: Value) -> Decoded {
    let mut refused: Vec<(String, String)> = Vec::new();
    let mut meaning = Meaning::Whole;
    let mut refuse = |field: &str, why: String| refused.push((field.to_owned(), why));
    if value["kind"] != kind.name() {
        refuse("kind", format!("must be {}", kind.name()));
    }
    let wanted = kind.api_version();
    match value.get("apiVersion").and_then(Value::as_str) {
        Some(version) if version == wanted => {}
        Some(BETA) if kind == Kind::ClusterNetworkPolicy => {}
        Some(OLD) => refuse(
            "apiVersion",
            format!("{OLD} is no longer served: write {wanted}; it is read as that"),
        ),
        other => {
            let said = other.map_or("is missing or not a string".into(), |other| {
                format!("{other:?} is not read")
            });
            refuse(
                "apiVersion",
                format!("{said}: write {wanted}; the policy isolates, and its rules allow nothing"),
            );
            meaning = Meaning::Isolation;
        }
    }
    let name = match value.pointer("/metadata/name") {
        Some(Value::String(name)) => match check_name(name, 253) {
            Ok(()) => name.clone(),
            Err(why) => {
                refuse("metadata.name", why);
                made_up(&value)
            }
        },
        Some(scalar @ (Value::Number(_) | Value::Bool(_))) => {
            refuse("metadata.name", format!("{scalar} is not a string: write it in quotes"));
            Some(scalar.to_string())
                .filter(|name| check_name(name, 253).is_ok())
                .unwrap_or_else(|| made_up(&value))
        }
        _ => {
            refuse("metadata.name", "is missing or not a string".into());
            made_up(&value)
        }
    };
    let namespace = match value.pointer("/metadata/namespace") {
        _ if !kind.is_namespaced() => String::new(),
        None | Some(Value::Null) => "default".into(),
        Some(Value::String(text)) if text.is_empty() => "default".into(),
        Some(Value::String(text)) => {
            // No pod is in a namespace of such a name.
            if let Err(why) = check_name(text, 63) {
                refuse("metadata.namespace", why);
            }
            text.chars()
                .take(63)
                .map(|letter| if letter.is_control() { '?' } else { letter })
                .collect()
        }
        Some(scalar @ (Value::Number(_) | Value::Bool(_))) => {
            refuse("metadata.namespace", format!("{scalar} is not a string: write it in quotes"));
            scalar.to_string()
        }
        Some(_) => {
            refuse(
                "metadata.namespace",
                "is not a string: the pods that the policy selects are isolated in all namespaces"
                    .into(),
            );
            meaning = Meaning::Everywhere;
            "default".into()
        }
    };
    let value = Box::new(value);
    let object = match kind {
        Kind::NetworkPolicy => Object::NetworkPolicy(value, meaning),
        _ => Object::ClusterNetworkPolicy(value, meaning),
    };
    Decoded::Object(Key { kind, namespace, name }, Typed { object, refused })
}

/// A name for what has none: FNV-1a of all it says.
fn made_up(value: &Value) -> String {
    let fold = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = value.to_string().as_bytes().iter().fold(0xcbf2_9ce4_8422_2325, fold);
    format!("nameless-{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::decode as decode_all;
    use serde_json::json;

    fn read(value: Value) -> (Key, Meaning, Vec<String>) {
        match decode_all(value).remove(0) {
            Decoded::Object(key, Typed { object, refused }) => {
                let (Object::NetworkPolicy(_, meaning) | Object::ClusterNetworkPolicy(_, meaning)) =
                    object
                else {
                    panic!("{object:?}")
                };
                (key, meaning, refused.into_iter().map(|(field, _)| field).collect())
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_policy_that_names_itself_badly_is_one_all_the_same() {
        let of = |version: Value, kind: &str, metadata: Value| json!({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": {}});
        let v1 = json!("networking.k8s.io/v1");
        let named = json!({"name": "a", "namespace": "b"});
        let (key, meaning, refused) = read(of(v1.clone(), "NetworkPolicy", named.clone()));
        assert_eq!(
            (key.to_string().as_str(), meaning, refused.len()),
            ("NetworkPolicy b/a", Meaning::Whole, 0)
        );
        for (value, place, meaning, fields) in [
            (
                of(json!(OLD), "NetworkPolicy", named.clone()),
                "b/a",
                Meaning::Whole,
                vec!["apiVersion"],
            ),
            (
                of(json!("networking.k8s.io/v2"), "NetworkPolicy", named.clone()),
                "b/a",
                Meaning::Isolation,
                vec!["apiVersion"],
            ),
            (
                of(json!(1), "NetworkPolicy", named.clone()),
                "b/a",
                Meaning::Isolation,
                vec!["apiVersion"],
            ),
            (of(v1.clone(), "networkpolicy", named.clone()), "b/a", Meaning::Whole, vec!["kind"]),
            (
                of(v1.clone(), "NetworkPolicy", json!({"name": 7, "namespace": true})),
                "true/7",
                Meaning::Whole,
                vec!["metadata.name", "metadata.namespace"],
            ),
            (
                of(v1.clone(), "NetworkPolicy", json!({"name": "a", "namespace": ["b"]})),
                "default/a",
                Meaning::Everywhere,
                vec!["metadata.namespace"],
            ),
            (
                of(v1.clone(), "NetworkPolicy", json!({"name": "a", "namespace": "B"})),
                "B/a",
                Meaning::Whole,
                vec!["metadata.namespace"],
            ),
        ] {
            let (key, found, refused) = read(value);
            assert_eq!(
                (key.to_string(), found, refused),
                (
                    format!("NetworkPolicy {place}"),
                    meaning,
                    fields.iter().map(|f| (*f).to_owned()).collect()
                )
            );
        }
    }

    #[test]
    fn a_policy_without_a_name_has_the_same_each_time() {
        for metadata in [
            json!({}),
            json!(null),
            json!("a"),
            json!({"name": null}),
            json!({"name": "A_b"}),
            json!({"name": {}}),
        ] {
            let value = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": {"podSelector": {}}});
            let (key, meaning, refused) = read(value.clone());
            assert!(
                key.name.starts_with("nameless-") && check_name(&key.name, 253).is_ok(),
                "{key}"
            );
            assert_eq!(
                (key.namespace.as_str(), meaning, refused),
                ("default", Meaning::Whole, vec!["metadata.name".to_owned()])
            );
            assert_eq!(read(value).0, key);
        }
    }
}
