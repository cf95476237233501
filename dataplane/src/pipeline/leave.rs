//! Does a pod's flow leave the cluster? Then it gets an address of this node, as the CNI's masquerade rules or an ip-masq-agent would give it.
//!
//! Needs a flow that policies allow, and its route. Only flows of no service, from and to the ranges that control has been told
//! ([`NodeSpec::leaving`](millrace_tables::NodeSpec::leaving)), by an uplink. What can't be translated (fragments of other protocols than TCP and UDP, protocols without
//! ports but echo, the middle of a connection that nobody saw beginning with RST or FIN) does not leave: outside nobody could answer it.
//!
//! Cost: without such ranges a comparison; with them, packets that are only routed are compared with each range.

use millrace_tables::{InterfaceKind, Snapshot};
use millrace_wire::Protocol;

use super::Context;
use super::conntrack::{Flow, Known, may_begin};
use super::fib::Route;
use super::fragment;
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
    let is_new = matches!(flow.known, Known::Untracked | Known::New { service: None, .. });
    let out = context.interfaces.get(route.interface);
    if !is_new || out.is_none_or(|out| out.kind != InterfaceKind::UPLINK) {
        return Ok(());
    }
    let headers = packet.headers();
    if !context.tables.node().leaves(&packet.source()?, &packet.destination()?) {
        return Ok(());
    }
    // An error about a flow that is not known: evidence of where it came from, and no more.
    if headers.quote.is_some() {
        return Ok(());
    }
    if !fragment::is_translatable(headers) {
        return Err(DropReason::FragmentUnsupported.into());
    }
    let begins = headers.protocol != Protocol::TCP || may_begin(headers.tcp);
    if !headers.trackable || !begins {
        return Err(DropReason::ConntrackInvalid.into());
    }
    if let Some(fault) = headers.fault {
        return Err(fault.into());
    }
    flow.known = Known::New { service: None, translated: headers.tuple, masquerade: true };
    Ok(())
}

/// Whether a packet of this tuple may be of a flow that leaves: the line is to decide.
#[inline(never)]
pub(super) fn concerns(tables: &Snapshot<'_>, tuple: &Tuple) -> bool {
    tables.has_leaving() && tables.node().leaves(&tuple.src, &tuple.dst)
}
