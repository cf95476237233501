//! ARP (RFC 826, RFC 5227), as Linux' `arp_process` reads them.
//!
//! Answers requests for an address that this interface owns and for service addresses on any, probes included. Learns
//! a sender that asks us for an address or answers us; anything else only changes a row that is there. Never answers for others.

use millrace_wire::{Addr, Mac, arp};

use super::super::Context;
use crate::exit::Exit;
use crate::packet::{Packet, Parsed};
use crate::reply;
use crate::state::neighbor::Learn;
use crate::trace::Observer;
use crate::verdict::{DropReason, PuntReason, ReplyKind};

/// What becomes of an ARP packet.
pub fn receive<O: Observer>(
    packet: &mut Packet<'_, Parsed<'_>>,
    context: &mut Context<'_, O>,
) -> Exit {
    judge(packet, context).unwrap_or_else(|verdict| verdict)
}

fn judge<O: Observer>(
    packet: &mut Packet<'_, Parsed<'_>>,
    context: &mut Context<'_, O>,
) -> Result<Exit, Exit> {
    let l3 = usize::from(packet.headers().l3);
    let bytes = packet.bytes().get(l3..).ok_or(DropReason::Truncated)?;
    let arp = *arp::Packet::parse(bytes).map_err(|_| DropReason::MalformedArp)?;
    let interface = context.interfaces.get(context.from).ok_or(DropReason::NoInterface)?;
    if !matches!(arp.op, arp::Op::REQUEST | arp::Op::REPLY)
        || !arp.sender_mac.is_unicast()
        || arp.sender_mac == Mac::ZERO
    {
        return Err(DropReason::MalformedArp.into());
    }
    let sender = Addr::from_v4(arp.sender_addr);
    let target = Addr::from_v4(arp.target_addr);
    let is_probe = sender.is_unspecified();
    if sender.is_multicast()
        || sender.is_loopback()
        || sender.is_broadcast()
        || interface.is_broadcast(&sender)
    {
        return Err(DropReason::Martian.into());
    }
    if interface.owns(&sender) || (!is_probe && context.tables.is_vip(&sender)) {
        // Our own frame come back is no conflict, but is nothing to learn from either.
        return Err(if arp.sender_mac == interface.mac {
            DropReason::NotForUs.into()
        } else {
            DropReason::AddressConflict.into()
        });
    }
    let for_us = interface.owns(&target) || context.tables.is_vip(&target);
    let asked = for_us && arp.op == arp::Op::REQUEST;
    if !is_probe && interface.is_on_link(&sender) {
        let to_us = !packet.headers().to_group && for_us;
        let learn = match arp.op {
            arp::Op::REQUEST if asked => Learn::Request,
            arp::Op::REPLY if to_us => Learn::Reply,
            _ => Learn::Gratuitous,
        };
        context.state.neighbors.learn(context.from, &sender, arp.sender_mac, learn, context.now);
    }
    if asked {
        let answer = reply::arp::answer(packet, interface.mac, &arp)?;
        return Ok(reply::replace(packet, &answer, ReplyKind::Arp, context));
    }
    Ok(match arp.op {
        arp::Op::REQUEST if !arp.is_gratuitous() => PuntReason::NotOwned.into(),
        _ => PuntReason::Consumed.into(),
    })
}
