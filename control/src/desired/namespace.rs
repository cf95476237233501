//! Namespace → its labels.

use k8s_openapi::api::core::v1::Namespace as Object;

use super::selector::Labels;

/// A namespace, as policies select it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespace {
    /// With `kubernetes.io/metadata.name`, which the API server sets on each.
    pub labels: Labels,
}

/// Set by the API server on every Namespace (KEP-2161); in files it may be missing.
const NAME: &str = "kubernetes.io/metadata.name";

impl Namespace {
    /// Of a name and the labels that its object has, if there is one.
    pub fn of(name: &str, object: Option<&Object>) -> Namespace {
        let mut labels =
            object.and_then(|object| object.metadata.labels.clone()).unwrap_or_default();
        labels.insert(NAME.into(), name.into());
        Namespace { labels: Labels::of(Some(&labels)) }
    }
}
