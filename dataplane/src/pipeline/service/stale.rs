//! Is a known flow's backend gone? Then a UDP flow begins anew.
//!
//! UDP has no end that could be seen: a client that goes on from the same port would be sent for ever to a backend that is gone, and its entry would
//! never be idle (kubernetes/kubernetes#105657 and its kin). TCP is left as it is, as kube-proxy leaves it: the connection ends by itself, and
//! its client opens another. What counts is the endpoint, not the set it is in: one that is on its way out and still answers keeps its flows.
//!
//! Asked by the line when the tables have changed since the flow's way was decided: the client's first packet after a moment
//! of grace begins the flow anew. Housekeeping
//! asks for all entries after each change ([`Conntrack::review`]), so that idle ones go too; a flow in use is left to its next packet, since
//! an answer of the backend may be under way.
//!
//! [`Conntrack::review`]: crate::state::conntrack::Conntrack::review

use millrace_tables::{ServiceId, Snapshot};
use millrace_wire::Protocol;

use crate::flow::{Seed, Tuple};

/// Whether the tables no longer have the backend that a flow, which came as `original` and leaves as `translated`, goes to.
pub fn is_stale(
    tables: &Snapshot<'_>,
    service: ServiceId,
    original: &Tuple,
    translated: &Tuple,
) -> bool {
    if original.protocol != Protocol::UDP {
        return false;
    }
    let Some(service) = tables.service(service) else {
        // An engine that has just begun knows of no service yet: nothing is said about any. Control's tables are complete from the first.
        return tables.generation() > crate::boot::GENERATION;
    };
    let (addr, port) = (translated.dst, translated.dport);
    // Mostly it is still the one that the flow would get today.
    let hash = Seed::FIXED.hash(original);
    let is_todays = [&service.cluster, &service.local]
        .into_iter()
        .any(|set| tables.pick(set, hash).is_some_and(|it| (it.addr, it.port) == (addr, port)));
    !is_todays && tables.find_backend(&service, &addr, port).is_none()
}
