//! The desired state: typed, validated rows, one per object, each with its status.
//!
//! Decides which parts of an object are usable and names those that are not ([`Refusal`]); a bad part never takes
//! the rest of its object along. Needs well-typed objects ([`crate::object`]). Leaves to [`crate::compile`] what
//! rows mean together. Rows hold what a compile step reads and nothing else: 100,000 endpoints stay small.

mod check;
mod endpoint_slice;
mod node;
mod pod;
mod service;

use std::sync::Arc;

pub use check::Protocol;
pub use endpoint_slice::{Endpoint, EndpointPort, EndpointSlice, Hints};
pub use node::Node;
pub use pod::Pod;
pub use service::{Families, LocalPolicy, Service, ServicePort};

use crate::object::{Key, Object, Refusal};
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
    /// Sentences for the log: parts that are understood and have no effect yet.
    pub notices: Arc<[String]>,
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
    /// A Namespace: known by name; policies will read its labels.
    Namespace,
    /// A Pod.
    Pod(Arc<Pod>),
}

impl Row {
    /// Judges an object. Never fails as a whole: what can't be used is refused by field.
    pub fn judge(key: Key, object: &Object) -> Row {
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
            Object::Namespace(_) => Desired::Namespace,
            Object::Pod(object) => Desired::Pod(Arc::new(pod::judge(object, &mut check))),
        };
        let refusals = check.refusals.into();
        let notices = notices.into_iter().map(|notice| format!("{key}: {notice}")).collect();
        Row { key, desired, refusals, notices }
    }
}
