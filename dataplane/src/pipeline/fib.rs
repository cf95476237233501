//! destination → [`Route`]: the interface and the neighbor that the packet leaves by.
//!
//! Needs the flow, for the translated destination and for a stable choice among equal ways. Answers what has no way
//! (ICMP net unreachable, time exceeded, too big; RFC 1812 sections 4.3.3 and 5.3.1), and hands what is addressed to us to
//! `local`, if `policy` lets it. Leaves to `policy` whether the packet may go on, and to `neighbor` which MAC that is.

pub(super) mod ways;

use millrace_tables::{InterfaceId, InterfaceKind, NextHop};
use millrace_wire::Addr;

use super::conntrack::Flow;
use super::{Context, local, policy, trunk};
use crate::boot;
use crate::exit::Exit;
use crate::flow::Tuple;
use crate::packet::{Packet, Parsed, Part};
use crate::reply::{self, Problem};
use crate::trace::{Observer, Step};
use crate::verdict::{DropReason, PuntReason};

/// The way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// By this interface.
    pub interface: InterfaceId,
    /// To this neighbor: the gateway, or the destination itself.
    pub neighbor: Addr,
}

/// Finds the way out, and checks that the packet can take it.
#[inline]
pub fn lookup<O: Observer>(
    packet: &mut Packet<'_, Parsed<'_>>,
    flow: &Flow,
    context: &mut Context<'_, O>,
) -> Result<Route, Exit> {
    let destination = flow.destination(packet, context.state)?;
    if destination.is_link_local() && !destination.is_v4() {
        return Err(link_local(packet, &destination, context));
    }
    let route = match flow.destination {
        Some(known) => known.route(),
        None => context.tables.route(&destination),
    };
    context.observer.see(|| Step::Route { destination, route });
    use millrace_tables::Route as Row;
    let hop = match route {
        None => match trunk::without_route(packet, context) {
            Some(hop) => hop,
            None => return Err(no_route(packet, context)),
        },
        Some(Row::Blackhole) => return Err(DropReason::Blackhole.into()),
        Some(Row::Unreachable) => {
            return Err(reply::error(
                packet,
                Problem::NetUnreachable,
                DropReason::Unreachable,
                context,
            ));
        }
        Some(Row::Local) if is_translated(packet, flow, context) => to_host(destination, context)?,
        Some(Row::Local) if let Some(hop) = trunk::of_fenced_pod(packet, &destination, context) => {
            hop
        }
        Some(Row::Local) => {
            policy::check_own(packet, flow, context)?;
            return Err(local::deliver(packet, local::To::Owned, context));
        }
        Some(Row::Vip) => return Err(local::deliver(packet, local::To::Vip, context)),
        Some(Row::Forward(group)) => context
            .tables
            .next_hop(group, path_hash(packet, context))
            .ok_or(DropReason::Inconsistent)?,
    };
    let route = Route { interface: hop.interface, neighbor: hop.gateway.unwrap_or(destination) };
    let route = trunk::bend(route, flow, packet, context);
    let out = context.interfaces.get(route.interface).ok_or(DropReason::NoInterface)?;
    context.observer.see(|| Step::NextHop { interface: route.interface, neighbor: route.neighbor });
    // Before anything is answered: a broadcast is not to be complained about (RFC 1122 section 3.2.2).
    if out.is_broadcast(&route.neighbor) {
        return Err(DropReason::DirectedBroadcast.into());
    }
    let source = packet.source()?;
    if source.is_link_local() && !source.is_v4() && route.interface != context.from {
        return Err(reply::error(packet, Problem::BeyondScope, DropReason::BeyondScope, context));
    }
    check_transit(packet, out.mtu, context)?;
    Ok(route)
}

/// Nobody is told before the first tables are there: what comes then was led here by a predecessor's rules.
#[cold]
fn no_route<O: Observer>(
    packet: &mut Packet<'_, Parsed<'_>>,
    context: &mut Context<'_, O>,
) -> Exit {
    if context.tables.generation() <= boot::GENERATION && trunk::is_from_kernel(context) {
        return DropReason::NoRoute.into();
    }
    reply::error(packet, Problem::NetUnreachable, DropReason::NoRoute, context)
}

/// Whether the packet leaves with another tuple than it has.
fn is_translated<O: Observer>(
    packet: &Packet<'_, Parsed<'_>>,
    flow: &Flow,
    context: &Context<'_, O>,
) -> bool {
    flow.translation(context.state).is_some_and(|leaving| leaving != packet.headers().tuple)
}

/// Whether the packet may travel one hop on, and fits, or may be cut up: `rewrite` sees to that.
#[inline]
pub fn check_transit<O: Observer>(
    packet: &mut Packet<'_, Parsed<'_>>,
    mtu: u32,
    context: &mut Context<'_, O>,
) -> Result<(), Exit> {
    let headers = packet.headers();
    if headers.ttl <= 1 {
        return Err(reply::error(packet, Problem::TimeExceeded, DropReason::TtlExceeded, context));
    }
    if headers.ip_len() > mtu && headers.dont_fragment {
        return Err(reply::error(
            packet,
            Problem::TooBig { mtu },
            DropReason::FragmentNeeded,
            context,
        ));
    }
    Ok(())
}

/// Flows keep their way while the group is unchanged. All fragments of a packet take the same, so their ports don't count.
fn path_hash<O: Observer>(packet: &Packet<'_, Parsed<'_>>, context: &Context<'_, O>) -> u64 {
    let headers = packet.headers();
    match headers.part {
        Part::Whole => headers.hash,
        Part::First | Part::Later => {
            context.state.seed.hash(&Tuple { sport: 0, dport: 0, ..headers.tuple })
        }
    }
}

/// A link-local address is ours on this link, or it is nobody that we forward to (RFC 4291 section 2.5.6).
fn link_local<O: Observer>(
    packet: &mut Packet<'_, Parsed<'_>>,
    destination: &Addr,
    context: &mut Context<'_, O>,
) -> Exit {
    match context.receiving() {
        Ok(interface) if interface.owns(destination) => {
            local::deliver(packet, local::To::Owned, context)
        }
        Ok(_) => DropReason::BeyondScope.into(),
        Err(verdict) => verdict,
    }
}

/// A backend that runs on this node's own address: its packets go to the host's stack where there is a way to it.
fn to_host<O: Observer>(destination: Addr, context: &Context<'_, O>) -> Result<NextHop, Exit> {
    match context.interfaces.of_kind(InterfaceKind::HOST) {
        Some(host) => Ok(NextHop { interface: host.id, gateway: Some(destination) }),
        None => Err(PuntReason::Local.into()),
    }
}
