//! Node → its addresses, the ranges of its pods, its zone and its labels.

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node as Object;
use millrace_wire::Addr;

use super::{
    check::{Checker, Use},
    selector::Labels,
};

/// A machine of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// `InternalIP`s in order: how other nodes reach it.
    pub internal: Vec<Addr>,
    /// `ExternalIP`s in order.
    pub external: Vec<Addr>,
    /// Where its pods' addresses come from.
    pub pod_cidrs: Vec<IpNet>,
    /// Its label `topology.kubernetes.io/zone`; empty when it has none.
    pub zone: String,
    /// It is being deleted, or about to be: load balancers should look for another.
    pub leaving: bool,
    /// Its labels.
    pub labels: Labels,
}

/// As kube-proxy reads it (`healthcheck.ProxyHealthServer.SyncNode`).
const LEAVING: &str = "ToBeDeletedByClusterAutoscaler";

const ZONE: &str = "topology.kubernetes.io/zone";

impl Node {
    /// All addresses of the node itself.
    pub fn addresses(&self) -> impl Iterator<Item = Addr> + '_ {
        self.internal.iter().chain(&self.external).copied()
    }

    /// The first of each family, internal before external: kube-proxy's `primary` (`pkg/util/node.GetNodeHostIPs`).
    pub fn primary(&self) -> impl Iterator<Item = Addr> + '_ {
        let first = |v4: bool| self.addresses().find(move |addr| addr.is_v4() == v4);
        first(true).into_iter().chain(first(false))
    }
}

pub(super) fn judge(object: &Object, check: &mut Checker<'_>) -> Node {
    let zone = object.metadata.labels.as_ref().and_then(|labels| labels.get(ZONE));
    let mut row = Node {
        zone: zone.cloned().unwrap_or_default(),
        labels: Labels::of(object.metadata.labels.as_ref()),
        ..Node::default()
    };
    let addresses = object.status.as_ref().and_then(|status| status.addresses.as_deref());
    for (at, address) in addresses.unwrap_or_default().iter().enumerate() {
        let list = match address.type_.as_str() {
            "InternalIP" => &mut row.internal,
            "ExternalIP" => &mut row.external,
            _ => continue,
        };
        // A Node may name one address under both types or twice: once is enough and no fault.
        let addr = check.address(
            || format!("status.addresses[{at}].address"),
            &address.address,
            Use::Unicast,
        );
        list.extend(addr.filter(|addr| !list.contains(addr)));
    }
    row.external.retain(|addr| !row.internal.contains(addr));
    row.leaving = object.metadata.deletion_timestamp.is_some();
    let Some(spec) = &object.spec else { return row };
    row.leaving |= spec.taints.iter().flatten().any(|taint| taint.key == LEAVING);
    match spec.pod_cidrs.as_deref().unwrap_or_default() {
        [] => row.pod_cidrs.extend(
            spec.pod_cidr
                .as_deref()
                .filter(|text| !text.is_empty())
                .and_then(|text| check.prefix(|| "spec.podCIDR".into(), text)),
        ),
        listed => {
            for (at, text) in listed.iter().enumerate() {
                row.pod_cidrs.extend(check.prefix(|| format!("spec.podCIDRs[{at}]"), text));
            }
        }
    }
    row
}
