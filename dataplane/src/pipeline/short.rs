//! The short line: what nearly every packet needs, in one go, for plain packets whose way is known.
//!
//! Needs a packet that took the short way through `parse`: whole, TCP or UDP, no tags, no options, no fault. Decides nothing that
//! the line would not decide the same: whatever is out of the ordinary, it leaves the packet untouched and the line takes it. So
//! it holds no rule of its own, only fewer questions. Whatever `tests/path` sends goes down both.
//!
//! 1. A known IPv4 flow that the packet does not change, decided under these tables: the entry's line, nothing of control's.
//! 2. A packet of no flow, to no service's address and about which no policy has anything to say, that keeps its source and is forwarded to a neighbor that this worker knows.
//!
//! Who looks on ([`Observer::LOOKS`]) sees every packet on the line.

use millrace_tables::{Destination, Route};

use super::neighbor::Adjacency;
use super::{Context, leave, policy, rewrite};
use crate::exit::Exit;
use crate::packet::{Headers, Network, Packet, Parsed};
use crate::state::conntrack::{CachedHop, tick};
use crate::trace::Observer;

/// Sends the packet on, if that takes no thought. `None`: nothing was done.
#[inline(always)]
pub(super) fn forward<O: Observer>(
    packet: &mut Packet<'_, Parsed<'_>>,
    context: &mut Context<'_, O>,
) -> Option<Exit> {
    let headers = packet.headers();
    if O::LOOKS || !headers.plain || headers.ttl <= 1 {
        return None;
    }
    if headers.hint.is_absent() { routed(packet, context) } else { known(packet, context) }
}

/// (1)
#[inline(always)]
fn known<O: Observer>(
    packet: &mut Packet<'_, Parsed<'_>>,
    context: &mut Context<'_, O>,
) -> Option<Exit> {
    let headers = packet.headers();
    if headers.network != Network::Ipv4 {
        return None;
    }
    let table = context.state.conntrack.table();
    let known = table.known(headers.hint, &headers.tuple, headers.tcp, tick(context.now))?;
    let hop = known.decision.hop(context.tables.generation())?;
    let adjacency = Adjacency::again(hop, context, packet)?;
    fits(headers, &adjacency)?;
    rewrite::plain::translated(packet, &known, &adjacency, context)
}

/// (2)
#[inline(always)]
fn routed<O: Observer>(
    packet: &mut Packet<'_, Parsed<'_>>,
    context: &mut Context<'_, O>,
) -> Option<Exit> {
    let headers = packet.headers();
    let leaf = headers.destination?;
    if leaf.has_frontends() || context.state.conntrack.has_made(headers.hash) {
        return None;
    }
    // What the kernel sends may have to go back to it: see `trunk`.
    if context.interfaces.trunk().is_some_and(|trunk| trunk.id == context.from) {
        return None;
    }
    if context.tables.asks_of_routed() && is_asked_about(headers, context) {
        return None;
    }
    let round = context.state.local.recent.round();
    let kept = context.state.local.ways.get(context.tables.generation(), leaf, round);
    let adjacency = match kept {
        Some(adjacency) => adjacency,
        None => way(packet, leaf, context)?,
    };
    fits(headers, &adjacency)?;
    rewrite::plain::routed(packet, &adjacency, context)
}

/// Whether a policy, a masquerade or its source's own routes may have something to say about a packet of no flow.
fn is_asked_about<O: Observer>(headers: &Headers, context: &Context<'_, O>) -> bool {
    let tables = &context.tables;
    (tables.has_policies() && policy::concerns(headers, context))
        || leave::concerns(tables, &headers.tuple)
        || tables.routes_by_source()
}

/// The adjacency of a neighbor that this worker knows. The next packet finds it at once, if it is the same for all addresses of the
/// route.
#[inline(never)]
fn way<O: Observer>(
    packet: &Packet<'_, Parsed<'_>>,
    leaf: Destination,
    context: &mut Context<'_, O>,
) -> Option<Adjacency> {
    let headers = packet.headers();
    let Some(Route::Forward(group)) = leaf.route() else { return None };
    let next = context.tables.next_hop(group, headers.hash)?;
    let (interface, addr) = (next.interface, next.gateway.unwrap_or(headers.tuple.dst));
    // One that was met was no broadcast address and nothing else that `fib` refuses.
    let neighbor = context.state.local.met.get(interface, &addr)?;
    // A neighbor is not used for a packet that is too big for the way to it.
    if headers.ip_len() > context.interfaces.get(interface)?.mtu {
        return None;
    }
    let adjacency = Adjacency::again(CachedHop { interface, neighbor }, context, packet)?;
    if context.tables.only_gateway(group).is_some() {
        let generation = context.tables.generation();
        let round = context.state.local.recent.round();
        context.state.local.ways.put(generation, leaf, round, adjacency);
    }
    Some(adjacency)
}

#[inline(always)]
fn fits(headers: &Headers, adjacency: &Adjacency) -> Option<()> {
    (headers.ip_len() <= adjacency.mtu).then_some(())
}
