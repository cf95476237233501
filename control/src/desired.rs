//! The desired state: typed, validated rows, one per object, each with its status.
//!
//! Decides which parts of an object are usable and names those that are not ([`Refusal`]); a bad part never takes
//! the rest of its object along. Needs well-typed objects ([`crate::object`]). Leaves to [`crate::compile`] what
//! rows mean together. Rows hold what a compile step reads and nothing else: 100,000 endpoints stay small.

mod check;
mod endpoint_slice;
mod namespace;
mod node;
mod pod;
pub mod policy;
pub mod selector;
mod service;
mod service_cidr;

use std::{sync::Arc, time::SystemTime};

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::ObjectMeta, jiff::Timestamp};

pub use check::Protocol;
pub use endpoint_slice::{Endpoint, EndpointPort, EndpointSlice, Hints};
pub use namespace::Namespace;
pub use node::Node;
pub use pod::{HostIp, HostPort, NamedPort, Pod};
pub use policy::Policy;
pub use service::{Families, LocalPolicy, Service, ServicePort};
pub use service_cidr::ServiceCidr;

use crate::object::{Key, Object, Refusal, Typed};
use check::Checker;

/// A row as the store keeps it. Cheap to clone: readers of the same file share it.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Whose row.
    pub key: Key,
    /// What is in force of it.
    pub desired: Desired,
    /// What is not, and why. Empty for a good object.
    pub refusals: Arc<[Refusal]>,
    /// Whether items of its lists were of the wrong type: then an older version without such faults is better.
    pub partial: bool,
    /// Sentences for the log: parts that are understood and have no effect yet.
    pub notices: Arc<[String]>,
    /// Which version of the object it was made from.
    pub origin: Origin,
}

/// A version of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// `metadata.resourceVersion`; empty in files.
    pub version: Box<str>,
    /// When the controller saw the change that the slice tells of; absent on other kinds.
    pub triggered: Option<SystemTime>,
}

/// Set by the EndpointSlice controller, and read by kube-proxy for the same purpose.
const TRIGGERED: &str = "endpoints.kubernetes.io/last-change-trigger-time";

impl Origin {
    fn of(metadata: &ObjectMeta) -> Origin {
        let triggered = metadata.annotations.as_ref().and_then(|texts| texts.get(TRIGGERED));
        let triggered = triggered.and_then(|text| text.parse::<Timestamp>().ok());
        Origin {
            version: metadata.resource_version.as_deref().unwrap_or_default().into(),
            triggered: triggered.map(SystemTime::from),
        }
    }

    fn of_value(object: &serde_json::Value) -> Origin {
        let version = object.pointer("/metadata/resourceVersion").and_then(|text| text.as_str());
        Origin { version: version.unwrap_or_default().into(), triggered: None }
    }
}

/// The usable part of an object.
#[derive(Clone, Debug, PartialEq)]
pub enum Desired {
    /// A Service.
    Service(Arc<Service>),
    /// An EndpointSlice.
    EndpointSlice(Arc<EndpointSlice>),
    /// A Node.
    Node(Arc<Node>),
    /// A Namespace.
    Namespace(Arc<Namespace>),
    /// A Pod.
    Pod(Arc<Pod>),
    /// A ServiceCIDR.
    ServiceCidr(Arc<ServiceCidr>),
    /// A policy of any kind.
    Policy(Arc<Policy>),
}

impl Row {
    /// Judges an object. Never fails as a whole: what can't be used is refused by field.
    pub fn judge(key: Key, Typed { object, refused }: &Typed) -> Row {
        let mut check = Checker::new(&key);
        let mut notices = Vec::new();
        let desired = match object {
            Object::Service(object) => {
                Desired::Service(Arc::new(service::judge(object, &mut check, &mut notices)))
            }
            Object::EndpointSlice(object) => {
                Desired::EndpointSlice(Arc::new(endpoint_slice::judge(object, &mut check)))
            }
            Object::Node(object) => Desired::Node(Arc::new(node::judge(object, &mut check))),
            Object::Namespace(object) => {
                Desired::Namespace(Arc::new(Namespace::of(&key.name, Some(object))))
            }
            Object::Pod(object) => Desired::Pod(Arc::new(pod::judge(object, &mut check))),
            Object::ServiceCidr(object) => {
                Desired::ServiceCidr(Arc::new(service_cidr::judge(object, &mut check)))
            }
            Object::NetworkPolicy(object, meaning) => {
                let policy = policy::network::judge(&mut check, &key.namespace, object, *meaning);
                Desired::Policy(Arc::new(policy))
            }
            Object::ClusterNetworkPolicy(object, meaning) => {
                let policy = policy::cluster::judge(&mut check, key.kind, object, *meaning);
                Desired::Policy(Arc::new(policy))
            }
        };
        let metadata = match object {
            Object::Service(object) => Some(&object.metadata),
            Object::EndpointSlice(object) => Some(&object.metadata),
            Object::Node(object) => Some(&object.metadata),
            Object::Namespace(object) => Some(&object.metadata),
            Object::Pod(object) => Some(&object.metadata),
            Object::ServiceCidr(object) => Some(&object.metadata),
            Object::NetworkPolicy(..) | Object::ClusterNetworkPolicy(..) => None,
        };
        let origin = match (metadata, object) {
            (Some(metadata), _) => Origin::of(metadata),
            (None, Object::NetworkPolicy(object, _) | Object::ClusterNetworkPolicy(object, _)) => {
                Origin::of_value(object)
            }
            (None, _) => Origin::default(),
        };
        check.refused_before(refused);
        let refusals = check.refusals.into();
        let notices = notices.into_iter().map(|notice| format!("{key}: {notice}")).collect();
        // Of a policy the last version counts, as far as it can be read: an older one may leave open what this one closes.
        let partial = !refused.is_empty() && !matches!(desired, Desired::Policy(_));
        Row { key, desired, refusals, partial, notices, origin }
    }
}
