//! Beside a kernel: what goes to it, and whose answers would not come back.
//!
//! Not a stop of its own; `fib`, `neighbor`, `conntrack` and `local` ask here about packets whose way is not decided yet. Without a trunk
//! ([`Interfaces::trunk`](crate::interface::Interfaces::trunk)) each question has the answer that it has in a router.
//!
//! 1. [`bend`]: all that leaves by the trunk is for the kernel's MAC there. A flow of a pod to what is no pod goes by the trunk too, since
//!    only the node's own rules know whether pods' addresses mean anything there; so does one whose source is the trunk's address. What leaves
//!    with a source for which the kernel has routes of its own (`ip rule from …`) is the kernel's to send on. Packets of pods that are led here
//!    from and to anywhere ([`Snapshot::is_led`](millrace_tables::Snapshot::is_led)) go back to it, tracked or not: [`of_led_pod`].
//! 2. [`instead`]: a neighbor that control has not told of is the kernel's to find: it gets the packet, and control will hear of the answer.
//!    The engine is through with such a packet, so the kernel is only to send it on: it comes from a MAC of its own ([`onward`]), and
//!    the kernel's conntrack, which has not seen the rest of the flow and would have rules of others change its source, passes it by.
//! 3. [`must_masquerade`]: whose answers the kernel would deliver or switch past us.
//! 4. [`hand_on`]: what is the kernel's goes to it as it came, from a MAC that tells it so.

use millrace_tables::{NextHop, Route as Row};
use millrace_wire::{Addr, Mac, ethernet};

use super::Context;
use super::conntrack::{Flow, Known};
use super::fib::Route;
use super::neighbor::Adjacency;
use super::rewrite::partial;
use crate::exit::Exit;
use crate::flow::{Direction, Tuple};
use crate::kernel::{HANDED_ON_MAC, ONWARD_MAC};
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
    if context.tables.has_policies()
        && let Some(neighbor) = of_led_pod(&route, flow, &leaves, packet, context)
    {
        return Route { interface: trunk.id, neighbor };
    }
    let by_trunk = route.interface == trunk.id || {
        let node = context.tables.node();
        let leaves_pods = context.from == trunk.id
            && node.is_pod(&leaves.src)
            && !node.is_pod(&leaves.dst)
            && packet.headers().quote.is_none();
        leaves_pods || context.interfaces.get(trunk.id).is_some_and(|own| own.owns(&leaves.src))
    };
    let v4 = leaves.dst.is_v4();
    match trunk.peer(v4) {
        Some(neighbor) if by_trunk => return Route { interface: trunk.id, neighbor },
        _ => {}
    }
    if !context.tables.routes_by_source() {
        return route;
    }
    match trunk.onward(v4) {
        Some(neighbor) if has_own_routes(flow, &leaves.src, packet, context) => {
            Route { interface: trunk.id, neighbor }
        }
        _ => route,
    }
}

/// As whom the kernel gets a packet of a pod whose packets are all led here, if it gets it.
///
/// Between such a pod and the engine the kernel tracks nothing (`kernel/pods.rs`), what goes to services excepted. So it has to track what goes on from
/// here to others, and what comes from others to the pod has been tracked already if it came by the kernel, by which it came if the kernel
/// had to translate it. Only what goes between pods by the uplinks never needs it: it is tracked nowhere.
#[inline(never)]
fn of_led_pod<O: Observer>(
    route: &Route,
    flow: &Flow,
    leaves: &Tuple,
    packet: &Packet<'_, Parsed<'_>>,
    context: &Context<'_, O>,
) -> Option<Addr> {
    let trunk = context.interfaces.trunk()?;
    let (tables, quotes) = (&context.tables, packet.headers().quote.is_some());
    let (src, dst) = if quotes {
        (packet.source().ok()?, packet.destination().ok()?)
    } else {
        (leaves.src, leaves.dst)
    };
    let is_led = |addr: &Addr| tables.is_led(&tables.policy_endpoint(addr));
    let (tracked, untracked) = (trunk.peer(dst.is_v4()), trunk.onward(dst.is_v4()));
    let (service, direction) = match flow.known {
        Known::New { service, .. } => (service, Direction::Original),
        Known::Found(hit) => {
            (context.state.conntrack.table().entry(hit).and_then(|it| it.service), hit.direction())
        }
        Known::Untracked => (None, Direction::Original),
    };
    if route.interface == trunk.id && is_led(&dst) {
        // What gets the engine's own address as source gets another one from the kernel.
        let masqueraded = match flow.known {
            Known::New { service, translated, masquerade } => {
                masquerade || service.is_some() && must_masquerade(&translated, route, context)
            }
            Known::Found(_) | Known::Untracked => is_its_own(&src, context),
        };
        if masqueraded {
            return tracked;
        }
        let passed = match service {
            Some(_) => direction == Direction::Original,
            None => context.from == trunk.id || goes_by_uplink(&src, context),
        };
        return if passed || quotes { untracked } else { tracked };
    }
    let leaves_pods = context.from == trunk.id && service.is_none() && !tables.node().is_pod(&dst);
    if route.interface != trunk.id && leaves_pods && is_led(&src) { tracked } else { None }
}

/// Whether it is another node's pod, to which packets leave without the kernel.
fn goes_by_uplink<O: Observer>(addr: &Addr, context: &Context<'_, O>) -> bool {
    let trunk = context.interfaces.trunk().map(|trunk| trunk.id);
    context.tables.node().is_pod(addr)
        && match context.tables.route(addr) {
            Some(Row::Forward(group)) => {
                context.tables.next_hop(group, 0).is_some_and(|hop| Some(hop.interface) != trunk)
            }
            _ => false,
        }
}

/// The way of a packet for which no route of the engine's is: what the kernel has led here for its pod's sake it has one for itself.
#[cold]
pub(super) fn without_route<O: Observer>(
    packet: &Packet<'_, Parsed<'_>>,
    context: &Context<'_, O>,
) -> Option<NextHop> {
    let trunk = context.interfaces.trunk().filter(|trunk| trunk.id == context.from)?;
    let (source, tables) = (packet.source().ok()?, &context.tables);
    let is_led = tables.has_policies() && tables.is_led(&tables.policy_endpoint(&source));
    let gateway = trunk.peer(source.is_v4());
    (is_led && gateway.is_some()).then_some(NextHop { interface: trunk.id, gateway })
}

/// The way of what a fenced pod sends to this node itself, which the kernel has led here before it delivers it.
#[inline(never)]
pub(super) fn of_fenced_pod<O: Observer>(
    packet: &Packet<'_, Parsed<'_>>,
    destination: &Addr,
    context: &Context<'_, O>,
) -> Option<NextHop> {
    let trunk = context.interfaces.trunk().filter(|trunk| trunk.id == context.from)?;
    let (source, tables) = (packet.source().ok()?, &context.tables);
    let is_fenced = tables.has_policies() && tables.policy_endpoint(&source).is_fenced();
    let gateway = trunk.peer(source.is_v4());
    let is_back = is_fenced && gateway.is_some() && !is_of_trunk(destination, context);
    is_back.then_some(NextHop { interface: trunk.id, gateway })
}

/// Whether the kernel has routes of their own for what leaves with this source. Not so for what is masqueraded: its source is of
/// the way that it takes.
#[inline(never)]
fn has_own_routes<O: Observer>(
    flow: &Flow,
    source: &Addr,
    packet: &Packet<'_, Parsed<'_>>,
    context: &Context<'_, O>,
) -> bool {
    let masqueraded = match flow.known {
        Known::New { service, masquerade, .. } => {
            masquerade || service.is_some() && is_from_kernel(context) && is_own(source, context)
        }
        Known::Found(hit) => {
            hit.direction() == Direction::Original
                && packet.headers().quote.is_none()
                && context.state.conntrack.table().entry(hit).is_some_and(|it| it.masqueraded)
        }
        Known::Untracked => false,
    };
    !masqueraded && context.tables.node().routes_by_source(source)
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
    let v4 = route.neighbor.is_v4();
    let find = |addr: Option<Addr>| context.state.neighbors.find(trunk.id, &addr?);
    let neighbor = find(trunk.onward(v4)).or_else(|| find(trunk.peer(v4)))?;
    Adjacency::again(CachedHop { interface: trunk.id, neighbor }, context, packet)
}

/// The MACs, source and destination, of what the kernel is only to send on: its neighbor on the trunk has the source's.
pub(super) fn onward<O: Observer>(
    hop: CachedHop,
    mac: Mac,
    context: &Context<'_, O>,
) -> Option<(u64, u64)> {
    let trunk = context.interfaces.trunk()?;
    let kernel = trunk.mac.filter(|_| trunk.id == hop.interface && mac == ONWARD_MAC)?;
    Some((ONWARD_MAC.to_u64(), kernel.to_u64()))
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
    route.interface == trunk.id
        && is_on_link(&leaves.src, context)
        && is_on_link(&leaves.dst, context)
}

/// Whether it is on a network of a device of the kernel's, such as a bridge with pods.
fn is_on_link<O: Observer>(addr: &Addr, context: &Context<'_, O>) -> bool {
    let trunk = context.interfaces.trunk().map(|trunk| trunk.id);
    match context.tables.route(addr) {
        Some(Row::Forward(group)) => context
            .tables
            .next_hop(group, 0)
            .is_some_and(|hop| Some(hop.interface) == trunk && hop.gateway.is_none()),
        _ => false,
    }
}

/// Whether it is an address of this node.
pub(super) fn is_own<O: Observer>(addr: &Addr, context: &Context<'_, O>) -> bool {
    context.tables.route(addr) == Some(Row::Local) || context.interfaces.owns(addr)
}

/// Whether it is an address of the engine's on the trunk.
pub(super) fn is_its_own<O: Observer>(addr: &Addr, context: &Context<'_, O>) -> bool {
    context.interfaces.trunk().is_some_and(|trunk| trunk.onward(addr.is_v4()) == Some(*addr))
}

/// Whether it is ours on the trunk. In `explain` uplinks have addresses too, which are the kernel's.
pub(super) fn is_of_trunk<O: Observer>(addr: &Addr, context: &Context<'_, O>) -> bool {
    let own = context.interfaces.trunk().and_then(|trunk| context.interfaces.get(trunk.id));
    own.is_some_and(|own| own.owns(addr))
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
