//! Does a pod's flow leave the cluster? Then it gets an address of this node, as the CNI's masquerade rules or an ip-masq-agent would give it.
//!
//! Needs a flow that policies allow, and its route. Only flows of no service, from and to the ranges that control has been told
//! ([`NodeSpec::leaving`](millrace_tables::NodeSpec::leaving)), by an uplink. What can't be translated (fragments of other protocols than TCP and UDP, protocols without
//! ports but echo, the middle of a connection that nobody saw beginning with RST or FIN) does not leave: outside nobody could answer it. What
//! begins outside is tracked, and its answers keep the pod's address.
//!
//! Cost: without such ranges a comparison; with them, packets that are only routed are compared with each range.

use millrace_tables::{InterfaceKind, Snapshot};
use millrace_wire::Protocol;

use super::Context;
use super::conntrack::{Flow, Known, may_begin};
use super::fib::Route;
use super::{fragment, local};
use crate::exit::Exit;
use crate::flow::Tuple;
use crate::packet::{Packet, Parsed};
use crate::trace::Observer;
use crate::verdict::DropReason;

/// Has a flow of no service that leaves the cluster masqueraded.
#[inline]
pub(super) fn check<O: Observer>(
    packet: &Packet<'_, Parsed<'_>>,
    flow: &mut Flow,
    route: &Route,
    context: &Context<'_, O>,
) -> Result<(), Exit> {
    if context.tables.has_leaving() { leave(packet, flow, route, context) } else { Ok(()) }
}

#[inline(never)]
fn leave<O: Observer>(
    packet: &Packet<'_, Parsed<'_>>,
    flow: &mut Flow,
    route: &Route,
    context: &Context<'_, O>,
) -> Result<(), Exit> {
    if !matches!(flow.known, Known::Untracked | Known::New { service: None, .. }) {
        return Ok(());
    }
    let (headers, node) = (packet.headers(), context.tables.node());
    let (src, dst) = (packet.source()?, packet.destination()?);
    let out = context.interfaces.get(route.interface);
    let by_uplink = out.is_some_and(|out| out.kind == InterfaceKind::UPLINK);
    let leaves = by_uplink && node.leaves(&src, &dst);
    // An error about a flow that is not known: evidence of where it came from, and no more.
    if headers.quote.is_some() || !(leaves || node.leaves(&dst, &src)) {
        return Ok(());
    }
    let begins = match headers.protocol {
        Protocol::TCP => may_begin(headers.tcp),
        // An answer that nobody has asked for begins nothing.
        Protocol::ICMP | Protocol::ICMPV6 => local::asks(packet),
        _ => true,
    };
    let fits = fragment::is_translatable(headers) && headers.trackable && begins;
    match headers.fault {
        None if fits => {
            // What comes from outside is remembered, so that its answers leave as they are.
            flow.known =
                Known::New { service: None, translated: headers.tuple, masquerade: leaves };
            flow.optional = false;
            Ok(())
        }
        _ if !leaves => Ok(()),
        Some(fault) => Err(fault.into()),
        None if !fragment::is_translatable(headers) => Err(DropReason::FragmentUnsupported.into()),
        None => Err(DropReason::ConntrackInvalid.into()),
    }
}

/// Whether a packet of this tuple may be of a flow that leaves, or of one from outside: the line is to decide.
#[inline(never)]
pub(super) fn concerns(tables: &Snapshot<'_>, tuple: &Tuple) -> bool {
    let leaves = |from, to| tables.node().leaves(from, to);
    tables.has_leaving() && (leaves(&tuple.src, &tuple.dst) || leaves(&tuple.dst, &tuple.src))
}
