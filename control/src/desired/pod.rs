//! Pod → where it runs and under which addresses.

use k8s_openapi::api::core::v1::Pod as Object;
use millrace_wire::Addr;

use super::check::{Checker, Use};

/// A pod, as far as packets to it go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Node it is bound to; empty before that.
    pub node: String,
    /// Each address once; empty for a pod that has none yet or has ended.
    pub addresses: Vec<Addr>,
    /// It shares the node's stack and addresses: no interface of its own.
    pub host_network: bool,
}

pub(super) fn judge(object: &Object, check: &mut Checker<'_>) -> Pod {
    let mut row = Pod::default();
    if let Some(spec) = &object.spec {
        row.node = spec.node_name.clone().unwrap_or_default();
        row.host_network = spec.host_network.unwrap_or(false);
    }
    let Some(status) = &object.status else { return row };
    // An ended pod keeps its addresses in its status while another may already have them.
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return row;
    }
    let listed: Vec<(String, &str)> = match status.pod_ips.as_deref().unwrap_or_default() {
        [] => status.pod_ip.iter().map(|ip| ("status.podIP".to_owned(), ip.as_str())).collect(),
        listed => listed
            .iter()
            .enumerate()
            .map(|(at, pod_ip)| (format!("status.podIPs[{at}].ip"), pod_ip.ip.as_str()))
            .collect(),
    };
    for (field, text) in listed.into_iter().filter(|(_, text)| !text.is_empty()) {
        let addr = check.address(|| field.clone(), text, Use::Unicast);
        row.addresses.extend(addr.filter(|addr| !row.addresses.contains(addr)));
    }
    row
}
