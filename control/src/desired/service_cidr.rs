//! ServiceCIDR → ranges that Service addresses come from.

use ipnet::IpNet;
use k8s_openapi::api::networking::v1::ServiceCIDR as Object;

use super::check::Checker;

/// One of each family at most, in the API; all that are given here.
const MOST: usize = 64;

/// Ranges of addresses. What no Service has of them is nobody's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceCidr {
    /// In the object's order.
    pub ranges: Vec<IpNet>,
}

pub(super) fn judge(object: &Object, check: &mut Checker<'_>) -> ServiceCidr {
    let listed = object.spec.as_ref().and_then(|spec| spec.cidrs.as_deref()).unwrap_or_default();
    if listed.len() > MOST {
        check
            .refuse("spec.cidrs", format!("has {} items, the first {MOST} are used", listed.len()));
    }
    let mut row = ServiceCidr::default();
    for (at, text) in listed.iter().take(MOST).enumerate() {
        row.ranges.extend(check.prefix(|| format!("spec.cidrs[{at}]"), text));
    }
    row
}
