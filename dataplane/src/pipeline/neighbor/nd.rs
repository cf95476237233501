//! Neighbor discovery (RFC 4861): solicitations answered, advertisements learned. Router discovery is not the engine's.
//!
//! Drops what section 7.1 tells to: a hop limit other than 255 (it was forwarded by somebody), a bad checksum, code, target or
//! option. Answers for addresses that this interface owns and for service addresses, duplicate address detection
//! included (RFC 4862 section 5.4.3).

use millrace_wire::{Addr, Protocol, Sum, icmpv6, ndp};

use super::super::Context;
use crate::exit::Exit;
use crate::packet::{Headers, Packet, Parsed, Part};
use crate::reply;
use crate::state::neighbor::Learn;
use crate::trace::Observer;
use crate::verdict::{DropReason, PuntReason, ReplyKind};

/// Whether the packet is a neighbor discovery message (types 133 to 137).
#[inline]
pub fn concerns(packet: &Packet<'_, Parsed<'_>>) -> bool {
    let headers = packet.headers();
    headers.protocol == Protocol::ICMPV6
        && headers.part == Part::Whole
        && packet.l4::<icmpv6::Header>().is_ok_and(|message| message.kind.is_ndp())
}

/// What becomes of it. `None`: it is addressed to another node, and travels on like any packet (its hop limit will tell).
pub fn receive<O: Observer>(
    packet: &mut Packet<'_, Parsed<'_>>,
    context: &mut Context<'_, O>,
) -> Option<Exit> {
    let interface = match context.receiving() {
        Ok(interface) => interface,
        Err(verdict) => return Some(verdict),
    };
    let destination = packet.headers().tuple.dst;
    if !destination.is_multicast()
        && !interface.owns(&destination)
        && !context.tables.is_vip(&destination)
    {
        return None;
    }
    Some(judge(packet, context).unwrap_or_else(|verdict| verdict))
}

fn judge<O: Observer>(
    packet: &mut Packet<'_, Parsed<'_>>,
    context: &mut Context<'_, O>,
) -> Result<Exit, Exit> {
    let headers = packet.headers();
    if headers.ttl != ndp::HOP_LIMIT {
        return Err(DropReason::NdHopLimit.into());
    }
    let message = packet
        .bytes()
        .get(usize::from(headers.l4)..headers.end as usize)
        .ok_or(DropReason::Truncated)?;
    let ip = packet.ipv6()?;
    let sum = Sum::pseudo(&ip.src_addr(), &ip.dst_addr(), Protocol::ICMPV6, headers.l4_len());
    if sum.add_bytes(message).finish() != 0 {
        return Err(DropReason::BadChecksum.into());
    }
    match packet.l4::<icmpv6::Header>()?.kind {
        icmpv6::Type::NEIGHBOR_SOLICITATION => solicitation(packet, context),
        icmpv6::Type::NEIGHBOR_ADVERTISEMENT => advertisement(packet, context),
        _ => Ok(PuntReason::Control.into()),
    }
}

fn solicitation<O: Observer>(
    packet: &mut Packet<'_, Parsed<'_>>,
    context: &mut Context<'_, O>,
) -> Result<Exit, Exit> {
    let Headers { tuple, l4, end, .. } = *packet.headers();
    let interface = context.interfaces.get(context.from).ok_or(DropReason::NoInterface)?;
    let message = packet.bytes().get(usize::from(l4)..end as usize).ok_or(DropReason::Truncated)?;
    let (solicitation, options) =
        ndp::NeighborSolicitation::parse(message).map_err(|_| DropReason::MalformedNd)?;
    let target = solicitation.target.get();
    let source_mac = options.link_layer(ndp::OptionKind::SOURCE_LINK_LAYER);
    let is_probe = tuple.src.is_unspecified();
    // Section 7.1.1: a probe goes to the solicited-node group and tells no link-layer address.
    if is_probe && (source_mac.is_some() || tuple.dst != ndp::solicited_node(&target)) {
        return Err(DropReason::MalformedNd.into());
    }
    if source_mac.is_some_and(|mac| !mac.is_unicast()) || target.is_v4() {
        return Err(DropReason::MalformedNd.into());
    }
    if !interface.owns(&target) && !context.tables.is_vip(&target) {
        return Ok(PuntReason::NotOwned.into());
    }
    if ours(&tuple.src, context) {
        return Err(DropReason::AddressConflict.into());
    }
    if let Some(mac) = source_mac
        && interface.is_on_link(&tuple.src)
    {
        context.state.neighbors.learn(context.from, &tuple.src, mac, Learn::Request, context.now);
    }
    let answer = reply::nd::answer(packet, interface.mac, &target, source_mac)?;
    Ok(reply::replace(packet, &answer, ReplyKind::NeighborAdvertisement, context))
}

fn advertisement<O: Observer>(
    packet: &mut Packet<'_, Parsed<'_>>,
    context: &mut Context<'_, O>,
) -> Result<Exit, Exit> {
    let Headers { tuple, l4, end, .. } = *packet.headers();
    let message = packet.bytes().get(usize::from(l4)..end as usize).ok_or(DropReason::Truncated)?;
    let (advertisement, options) =
        ndp::NeighborAdvertisement::parse(message).map_err(|_| DropReason::MalformedNd)?;
    let (target, solicited, overrides) =
        (advertisement.target.get(), advertisement.is_solicited(), advertisement.is_override());
    let mac = options.link_layer(ndp::OptionKind::TARGET_LINK_LAYER);
    // Section 7.1.2: an advertisement to a group answers nobody.
    if (solicited && tuple.dst.is_multicast())
        || mac.is_some_and(|mac| !mac.is_unicast())
        || target.is_v4()
    {
        return Err(DropReason::MalformedNd.into());
    }
    if ours(&target, context) {
        return Err(DropReason::AddressConflict.into());
    }
    let neighbors = &mut context.state.neighbors;
    match mac {
        Some(mac) => {
            neighbors.learn(
                context.from,
                &target,
                mac,
                Learn::Advertisement { solicited, overrides },
                context.now,
            );
        }
        None => {
            neighbors.confirm(context.from, &target, solicited, context.now);
        }
    }
    Ok(PuntReason::Consumed.into())
}

/// Whether an address is ours on this link.
fn ours<O: Observer>(addr: &Addr, context: &Context<'_, O>) -> bool {
    context.interfaces.get(context.from).is_some_and(|interface| interface.owns(addr))
        || context.tables.is_vip(addr)
}
