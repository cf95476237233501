//! Beside a kernel: what goes to it, and whose answers would not come back.
//!
//! Not a stop of its own; `fib`, `neighbor`, `conntrack` and `local` ask here about packets whose way is not decided yet. Without a trunk
//! ([`Interfaces::trunk`](crate::interface::Interfaces::trunk)) each question has the answer that it has in a router.
//!
//! 1. [`bend`]: all that leaves by the trunk is for the kernel's MAC there. A flow of a pod to what is no pod goes by the trunk too, since
//!    only the node's own rules know whether pods' addresses mean anything there; so does one whose source is the trunk's address.
//! 2. [`instead`]: a neighbor that control has not told of is the kernel's to find: it gets the packet, and control will hear of the answer.
//! 3. [`must_masquerade`]: whose answers the kernel would deliver or switch past us.
//! 4. [`hand_on`]: what is the kernel's goes to it as it came, from a MAC that tells it so.

use millrace_tables::Route as Row;
use millrace_wire::{Addr, ethernet};

use super::Context;
use super::conntrack::Flow;
use super::fib::Route;
use super::neighbor::Adjacency;
use super::rewrite::partial;
use crate::exit::Exit;
use crate::flow::Tuple;
use crate::kernel::HANDED_ON_MAC;
use crate::packet::{Packet, Parsed, view_mut};
use crate::state::conntrack::CachedHop;
use crate::trace::Observer;
use crate::verdict::PuntReason;

/// The way of a packet whose route is known, given the trunk.
#[inline]
pub(super) fn bend<O: Observer>(
    route: Route,
    flow: &Flow,
    packet: &Packet<'_, Parsed<'_>>,
    context: &Context<'_, O>,
) -> Route {
    let Some(trunk) = context.interfaces.trunk() else { return route };
    let leaves = flow.translation(context.state).unwrap_or(packet.headers().tuple);
    let by_trunk = route.interface == trunk.id || {
        let node = context.tables.node();
        let leaves_pods = context.from == trunk.id
            && node.is_pod(&leaves.src)
            && !node.is_pod(&leaves.dst)
            && packet.headers().quote.is_none();
        leaves_pods || context.interfaces.get(trunk.id).is_some_and(|own| own.owns(&leaves.src))
    };
    match trunk.peer(leaves.dst.is_v4()) {
        Some(neighbor) if by_trunk => Route { interface: trunk.id, neighbor },
        _ => route,
    }
}

/// The way by the trunk, in place of one to a neighbor that is not known.
pub(super) fn instead<O: Observer>(
    route: &Route,
    context: &mut Context<'_, O>,
    packet: &Packet<'_, Parsed<'_>>,
) -> Option<Adjacency> {
    let trunk = *context.interfaces.trunk()?;
    if route.interface == trunk.id {
        return None;
    }
    let peer = trunk.peer(route.neighbor.is_v4())?;
    let neighbor = context.state.neighbors.find(trunk.id, &peer)?;
    Adjacency::again(CachedHop { interface: trunk.id, neighbor }, context, packet)
}

/// Whether a new flow needs an address of ours, whatever its service says: one of this node's own, whose answers the kernel would deliver,
/// and one between two that are on one link behind the trunk.
#[cold]
pub(super) fn must_masquerade<O: Observer>(
    leaves: &Tuple,
    route: &Route,
    context: &Context<'_, O>,
) -> bool {
    let Some(trunk) = context.interfaces.trunk() else { return false };
    if context.from != trunk.id {
        return false;
    }
    if is_own(&leaves.src, context) {
        return true;
    }
    let on_link = |addr: &Addr| match context.tables.route(addr) {
        Some(Row::Forward(group)) => context
            .tables
            .next_hop(group, 0)
            .is_some_and(|hop| hop.interface == trunk.id && hop.gateway.is_none()),
        _ => false,
    };
    route.interface == trunk.id && on_link(&leaves.src) && on_link(&leaves.dst)
}

/// Whether it is an address of this node.
pub(super) fn is_own<O: Observer>(addr: &Addr, context: &Context<'_, O>) -> bool {
    context.tables.route(addr) == Some(Row::Local) || context.interfaces.owns(addr)
}

/// Whether the packet came from the kernel.
pub(super) fn is_from_kernel<O: Observer>(context: &Context<'_, O>) -> bool {
    context.interfaces.trunk().is_some_and(|trunk| trunk.id == context.from)
}

/// Whether it came from elsewhere than the kernel and says that it is from this node. The kernel, which would refuse it on the interface
/// that it came in on, takes such sources from the trunk.
pub(super) fn is_forged<O: Observer>(source: &Addr, context: &Context<'_, O>) -> bool {
    let Some(trunk) = context.interfaces.trunk() else { return false };
    let own = || context.interfaces.get(trunk.id).map_or(&[][..], |own| &own.addresses);
    trunk.id != context.from
        && (is_own(source, context) || own().iter().any(|net| net.contains(&source.to_ip())))
}

/// Gives a packet to the kernel as it came. What came from there is not given back: it would come again.
pub(super) fn hand_on<O: Observer>(
    packet: &mut Packet<'_, Parsed<'_>>,
    reason: PuntReason,
    context: &mut Context<'_, O>,
) -> Exit {
    let Some(trunk) = context.interfaces.trunk() else { return reason.into() };
    let Some(mac) = trunk.mac.filter(|_| trunk.id != context.from) else { return reason.into() };
    let partial =
        context.receiving().is_ok_and(|from| from.partial_checksums) && partial::is_partial(packet);
    if partial {
        packet.trim(&mut context.state.local.pool);
    }
    let offload =
        if partial { partial::complete(packet) } else { Ok(millrace_xsk::TxOffload::None) };
    let offload = match offload {
        Ok(offload) => offload,
        Err(exit) => return exit,
    };
    match view_mut::<ethernet::Header>(packet.bytes_mut(), 0) {
        Ok(link) => link.set_addresses(mac.to_u64(), HANDED_ON_MAC.to_u64()),
        Err(exit) => return exit,
    }
    Exit::hand_on(reason, trunk.id, offload)
}
