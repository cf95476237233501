//! What comes in: Kubernetes objects as JSON values, and what is said about those that are refused.
//!
//! Decides which kinds are known, what an object's identity is (even when the rest of it is malformed), and how a
//! refusal reads. Needs a JSON value (files, `explain --script` and the API server give one). Leaves the
//! meaning of the fields to [`crate::desired`].

mod policy;
mod typed;

use std::fmt;

use k8s_openapi::api::{
    core::v1::{Namespace, Node, Pod, Service},
    discovery::v1::EndpointSlice,
    networking::v1::ServiceCIDR,
};
pub use policy::Meaning;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The kinds that tables are made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `v1/Service`
    Service,
    /// `discovery.k8s.io/v1/EndpointSlice`
    EndpointSlice,
    /// `v1/Node`
    Node,
    /// `v1/Namespace`
    Namespace,
    /// `v1/Pod`
    Pod,
    /// `networking.k8s.io/v1/ServiceCIDR`
    ServiceCidr,
    /// `networking.k8s.io/v1/NetworkPolicy`
    NetworkPolicy,
    /// `policy.networking.k8s.io/v1alpha2/ClusterNetworkPolicy`
    ClusterNetworkPolicy,
    /// `policy.networking.k8s.io/v1alpha1/AdminNetworkPolicy`
    AdminNetworkPolicy,
    /// `policy.networking.k8s.io/v1alpha1/BaselineAdminNetworkPolicy`
    BaselineAdminNetworkPolicy,
}

/// All of them.
pub(crate) const KINDS: [Kind; 10] = [
    Kind::Service,
    Kind::EndpointSlice,
    Kind::Node,
    Kind::Namespace,
    Kind::Pod,
    Kind::ServiceCidr,
    Kind::NetworkPolicy,
    Kind::ClusterNetworkPolicy,
    Kind::AdminNetworkPolicy,
    Kind::BaselineAdminNetworkPolicy,
];

impl Kind {
    /// The kind of that name, whatever its API group: for `delete` lines, which carry no `apiVersion`.
    pub fn parse(name: &str) -> Option<Kind> {
        KINDS.into_iter().find(|kind| kind.name() == name)
    }

    /// As in the object's `kind`.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Service => "Service",
            Kind::EndpointSlice => "EndpointSlice",
            Kind::Node => "Node",
            Kind::Namespace => "Namespace",
            Kind::Pod => "Pod",
            Kind::ServiceCidr => "ServiceCIDR",
            Kind::NetworkPolicy => "NetworkPolicy",
            Kind::ClusterNetworkPolicy => "ClusterNetworkPolicy",
            Kind::AdminNetworkPolicy => "AdminNetworkPolicy",
            Kind::BaselineAdminNetworkPolicy => "BaselineAdminNetworkPolicy",
        }
    }

    /// As in the object's `apiVersion`.
    pub fn api_version(self) -> &'static str {
        match self {
            Kind::EndpointSlice => "discovery.k8s.io/v1",
            Kind::ServiceCidr | Kind::NetworkPolicy => "networking.k8s.io/v1",
            Kind::ClusterNetworkPolicy => "policy.networking.k8s.io/v1alpha2",
            Kind::AdminNetworkPolicy | Kind::BaselineAdminNetworkPolicy => {
                "policy.networking.k8s.io/v1alpha1"
            }
            _ => "v1",
        }
    }

    /// Nodes, namespaces, ranges of Service addresses and policies of the cluster live in no namespace.
    pub fn is_namespaced(self) -> bool {
        match self {
            Kind::Node | Kind::Namespace | Kind::ServiceCidr => false,
            Kind::NetworkPolicy => true,
            kind => !kind.is_policy(),
        }
    }

    /// Says who may reach whom.
    pub fn is_policy(self) -> bool {
        matches!(
            self,
            Kind::NetworkPolicy
                | Kind::ClusterNetworkPolicy
                | Kind::AdminNetworkPolicy
                | Kind::BaselineAdminNetworkPolicy
        )
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An object's identity. `namespace` is empty for kinds without one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// What it is.
    pub kind: Kind,
    /// Where it is.
    pub namespace: String,
    /// What it is called.
    pub name: String,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.as_str() {
            "" => write!(f, "{} {}", self.kind, self.name),
            namespace => write!(f, "{} {namespace}/{}", self.kind, self.name),
        }
    }
}

/// An object with all its fields of the right type, nothing else checked.
#[derive(Clone, Debug)]
pub enum Object {
    /// A Service.
    Service(Box<Service>),
    /// An EndpointSlice.
    EndpointSlice(Box<EndpointSlice>),
    /// A Node.
    Node(Box<Node>),
    /// A Namespace.
    Namespace(Box<Namespace>),
    /// A Pod.
    Pod(Box<Pod>),
    /// A ServiceCIDR.
    ServiceCidr(Box<ServiceCIDR>),
    /// A NetworkPolicy, as it came: what of it can be read is for [`crate::desired::policy`] to say.
    NetworkPolicy(Box<Value>, Meaning),
    /// A policy of the cluster, as it came.
    ClusterNetworkPolicy(Box<Value>, Meaning),
}

/// A part of an object, or all of it, that is not put into force. The rest of the object works.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Refusal {
    /// As the object says, also when it is no known kind.
    pub kind: String,
    /// Empty when it has none.
    pub namespace: String,
    /// Empty when it has none.
    pub name: String,
    /// Path of the field, such as `spec.ports[0].port`; empty when the whole object is meant.
    pub field: String,
    /// What is wrong and what is expected.
    pub why: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.kind.is_empty() { "object" } else { &self.kind };
        match (self.namespace.as_str(), self.name.as_str()) {
            ("", "") => write!(f, "{kind}")?,
            ("", name) => write!(f, "{kind} {name}")?,
            (namespace, name) => write!(f, "{kind} {namespace}/{name}")?,
        }
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        write!(f, ": {}", self.why)
    }
}

/// An object as far as it is of the right types.
#[derive(Clone, Debug)]
pub struct Typed {
    /// Items of the wrong type are empty in it.
    pub object: Object,
    /// Those items: field, and why.
    pub refused: Vec<(String, String)>,
}

impl Typed {
    /// Has it said that the object may not mean what was read; of a policy whose rules can be read in two ways (`twice`) none allows anything then.
    /// False for other objects, which are not to be taken so.
    pub(crate) fn doubt(&mut self, why: &str, twice: bool) -> bool {
        let (Object::NetworkPolicy(_, meaning) | Object::ClusterNetworkPolicy(_, meaning)) =
            &mut self.object
        else {
            return false;
        };
        if twice && *meaning == Meaning::Whole {
            *meaning = Meaning::Isolation;
        }
        self.refused.push((String::new(), why.to_owned()));
        true
    }
}

/// What became of one value.
#[derive(Debug)]
pub enum Decoded {
    /// A known kind, well-formed but for items of its lists.
    Object(Key, Typed),
    /// A kind that no table is made from. `notice` is a sentence for the log.
    Ignored {
        /// Names the object and says why it has no effect.
        notice: String,
    },
    /// Malformed. The key is there when the identity could still be read.
    Refused(Option<Key>, Refusal),
}

/// Reads one value; a List becomes one answer for each item, in order.
pub fn decode(value: Value) -> Vec<Decoded> {
    let kind = text(&value, &["kind"]).unwrap_or_default();
    let Some(items_kind) = kind.strip_suffix("List").map(str::to_owned) else {
        return vec![decode_one(value)];
    };
    let version = text(&value, &["apiVersion"]).unwrap_or_default().to_owned();
    let Value::Object(mut list) = value else { return Vec::new() };
    match list.remove("items") {
        Some(Value::Array(items)) => items
            .into_iter()
            .map(|mut item| {
                // Items of a typed list (ServiceList) leave out what the list says.
                if let (Value::Object(item), false) = (&mut item, items_kind.is_empty()) {
                    item.entry("kind").or_insert_with(|| items_kind.clone().into());
                    item.entry("apiVersion").or_insert_with(|| version.clone().into());
                }
                decode_one(item)
            })
            .collect(),
        None | Some(Value::Null) => Vec::new(),
        Some(_) => {
            let kind = format!("{items_kind}List");
            let (namespace, name) = (String::new(), String::new());
            vec![Decoded::Refused(
                None,
                Refusal {
                    kind,
                    namespace,
                    name,
                    field: "items".into(),
                    why: "must be a list".into(),
                },
            )]
        }
    }
}

fn decode_one(value: Value) -> Decoded {
    let refusal = |field: &str, why: &str| Refusal {
        kind: text(&value, &["kind"]).unwrap_or_default().into(),
        namespace: text(&value, &["metadata", "namespace"]).unwrap_or_default().into(),
        name: text(&value, &["metadata", "name"]).unwrap_or_default().into(),
        field: field.into(),
        why: why.into(),
    };
    if !value.is_object() {
        return Decoded::Refused(
            None,
            refusal(
                "",
                "is not a Kubernetes object: it must be a mapping with apiVersion, kind and metadata",
            ),
        );
    }
    if let Some(kind) = policy::kind_of(&value) {
        return policy::decode(kind, value);
    }
    let Some(kind_text) = text(&value, &["kind"]) else {
        return Decoded::Refused(None, refusal("kind", "is missing or not a string"));
    };
    let Some(version) = text(&value, &["apiVersion"]) else {
        return Decoded::Refused(None, refusal("apiVersion", "is missing or not a string"));
    };
    let Some(kind) = Kind::parse(kind_text).filter(|kind| kind.api_version() == version) else {
        let object = refusal("", "");
        let effect = match () {
            () if Kind::parse(kind_text).is_some() => "is of an API version that is not read",
            () => "is of a kind that no table is made from",
        };
        return Decoded::Ignored {
            notice: format!("{version} {kind_text} {}/{} {effect}", object.namespace, object.name),
        };
    };
    let key = match identity(kind, &value) {
        Ok(key) => key,
        Err((field, why)) => return Decoded::Refused(None, refusal(field, &why)),
    };
    let refused = |(field, why): (String, String)| {
        let Key { kind, namespace, name } = key.clone();
        let refusal = Refusal { kind: kind.name().into(), namespace, name, field, why };
        Decoded::Refused(Some(key.clone()), refusal)
    };
    fn read<T: for<'de> serde::Deserialize<'de>>(
        kind: Kind,
        value: Value,
        wrap: fn(Box<T>) -> Object,
    ) -> Result<Typed, (String, String)> {
        let (object, refused) = typed::typed(kind, value)?;
        Ok(Typed { object: wrap(Box::new(object)), refused })
    }
    let object = match kind {
        Kind::Service => read(kind, value, Object::Service),
        Kind::EndpointSlice => read(kind, value, Object::EndpointSlice),
        Kind::Node => read(kind, value, Object::Node),
        Kind::Namespace => read(kind, value, Object::Namespace),
        Kind::Pod => read(kind, value, Object::Pod),
        Kind::ServiceCidr => read(kind, value, Object::ServiceCidr),
        Kind::NetworkPolicy
        | Kind::ClusterNetworkPolicy
        | Kind::AdminNetworkPolicy
        | Kind::BaselineAdminNetworkPolicy => return policy::decode(kind, value),
    };
    match object {
        Ok(object) => Decoded::Object(key, object),
        Err(error) => refused(error),
    }
}

fn identity(kind: Kind, value: &Value) -> Result<Key, (&'static str, String)> {
    let name = text(value, &["metadata", "name"])
        .ok_or(("metadata.name", "is missing or not a string".to_owned()))?;
    check_name(name, 253).map_err(|why| ("metadata.name", why))?;
    let namespace = match value.pointer("/metadata/namespace") {
        _ if !kind.is_namespaced() => "",
        None | Some(Value::Null) => "default",
        Some(Value::String(text)) if text.is_empty() => "default",
        Some(Value::String(text)) => text,
        Some(_) => return Err(("metadata.namespace", "is not a string".into())),
    };
    check_name(namespace, 63)
        .map_err(|why| ("metadata.namespace", why))
        .or_else(|error| if kind.is_namespaced() { Err(error) } else { Ok(()) })?;
    Ok(Key { kind, namespace: namespace.into(), name: name.into() })
}

/// RFC 1123 subdomain, as the API server demands (KEP and apimachinery `IsDNS1123Subdomain`): names go into table keys, where
/// `/` and `:` separate.
pub(crate) fn check_name(name: &str, longest: usize) -> Result<(), String> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    if name.len() > longest {
        return Err(format!("has {} bytes, at most {longest} are allowed", name.len()));
    }
    let bytes = name.as_bytes();
    let ends_plain = bytes.first().is_some_and(|&byte| plain(byte))
        && bytes.last().is_some_and(|&byte| plain(byte));
    if !ends_plain || !bytes.iter().all(|&byte| plain(byte) || byte == b'-' || byte == b'.') {
        let name: String = name.chars().take(80).collect();
        return Err(format!(
            "{name:?} is not a name: lower-case letters, digits, '-' and '.', with a letter or digit at both ends"
        ));
    }
    Ok(())
}

fn text<'a>(value: &'a Value, path: &[&str]) -> Option<&'a str> {
    path.iter().try_fold(value, |value, step| value.get(step))?.as_str()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn one(value: Value) -> Decoded {
        let mut all = decode(value);
        assert_eq!(all.len(), 1);
        all.remove(0)
    }

    fn refused(value: Value) -> (Option<Key>, String) {
        match one(value) {
            Decoded::Refused(key, refusal) => (key, refusal.to_string()),
            other => panic!("expected a refusal, got {other:?}"),
        }
    }

    #[test]
    fn a_namespaced_object_without_namespace_is_in_default() {
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}});
        assert!(
            matches!(one(service), Decoded::Object(key, _) if key.to_string() == "Service default/web")
        );
    }

    #[test]
    fn a_node_has_no_namespace_even_when_one_is_given() {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "namespace": "x"}});
        assert!(matches!(one(node), Decoded::Object(key, _) if key.to_string() == "Node n1"));
    }

    #[test]
    fn a_field_of_the_wrong_type_is_named_and_the_identity_kept() {
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {"clusterIP": 80}});
        let (key, said) = refused(service);
        assert_eq!(key.map(|key| key.name).as_deref(), Some("web"));
        assert!(said.starts_with("Service default/web: spec.clusterIP: "), "{said}");
    }

    #[test]
    fn null_lists_and_null_fields_are_absent_ones() {
        let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "s", "labels": null},
            "addressType": "IPv4", "endpoints": null, "ports": [{"port": null}]});
        assert!(matches!(one(slice), Decoded::Object(..)));
    }

    #[test]
    fn lists_are_taken_apart_and_typed_lists_name_their_items() {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": [
            {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}}, {"kind": "Service"}, 7]});
        let all = decode(list);
        assert!(
            matches!(all[..], [Decoded::Object(..), Decoded::Refused(..), Decoded::Refused(..)]),
            "{all:?}"
        );
        let typed = json!({"apiVersion": "v1", "kind": "ServiceList", "items": [{"metadata": {"name": "a"}}]});
        assert!(matches!(one(typed), Decoded::Object(..)));
        assert!(decode(json!({"apiVersion": "v1", "kind": "List"})).is_empty());
        assert_eq!(refused(json!({"kind": "List", "items": {}})).1, "List: items: must be a list");
    }

    #[test]
    fn other_kinds_and_other_groups_kinds_are_ignored() {
        let notice = |value| match one(value) {
            Decoded::Ignored { notice } => notice,
            other => panic!("{other:?}"),
        };
        let other = json!({"apiVersion": "projectcalico.org/v3", "kind": "NetworkPolicy", "metadata": {"name": "deny"}});
        assert!(notice(other).ends_with("is of an API version that is not read"));
        let knative = json!({"apiVersion": "serving.knative.dev/v1", "kind": "Service", "metadata": {"name": "web"}});
        assert!(notice(knative).ends_with("is of an API version that is not read"));
    }

    #[test]
    fn names_that_would_break_a_key_are_refused() {
        for name in ["", "a/b", "a:b", "A", "-a", "a.", "ü", &"a".repeat(254)] {
            let (key, said) =
                refused(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}}));
            assert!(key.is_none() && said.contains("metadata.name"), "{name}: {said}");
        }
        let (_, said) = refused(
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": 3}}),
        );
        assert_eq!(said, "Pod a: metadata.namespace: is not a string");
    }

    #[test]
    fn values_that_are_no_objects_are_refused() {
        for value in [
            json!(null),
            json!(3),
            json!([]),
            json!({}),
            json!({"kind": 3}),
            json!({"kind": "Service", "metadata": []}),
        ] {
            refused(value);
        }
    }
}
