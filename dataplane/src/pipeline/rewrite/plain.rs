//! Writes the headers of plain packets: Ethernet, IPv4 or IPv6 without more, TCP or UDP, at fixed places.
//!
//! The same bytes as [`super::apply`] writes, with fewer questions. What is not so simple is left alone: a checksum that may be partial.
//!
//! Cost: some 25 instructions for a routed packet, 70 for a translated one, all in the frame's first line.

use millrace_wire::{Delta, Protocol, U16, View, ethernet, ipv4, ipv6, tcp, udp};

use super::partial;
use crate::exit::Exit;
use crate::packet::{Network, Packet, Parsed};
use crate::pipeline::Context;
use crate::pipeline::neighbor::Adjacency;
use crate::state::conntrack::Known;
use crate::trace::Observer;

/// Bytes of the shortest plain frame: no frame on a wire is shorter.
const SHORTEST: usize = ethernet::Header::LEN + ipv6::Header::LEN;

/// Whether the packet's checksum may have been left to us.
#[inline(always)]
fn may_be_partial<O: Observer>(
    packet: &Packet<'_, Parsed<'_>>,
    context: &Context<'_, O>,
) -> Option<bool> {
    Some(context.interfaces.get(context.from)?.partial_checksums && partial::is_partial(packet))
}

/// One hop on. `None`: nothing was written.
#[inline(always)]
pub(in crate::pipeline) fn routed<O: Observer>(
    packet: &mut Packet<'_, Parsed<'_>>,
    adjacency: &Adjacency,
    context: &mut Context<'_, O>,
) -> Option<Exit> {
    if may_be_partial(packet, context)? {
        return None;
    }
    let network = packet.headers().network;
    let frame = packet.bytes_mut().first_chunk_mut::<SHORTEST>()?;
    let (link, rest) = ethernet::Header::view_mut(frame).ok()?;
    match network {
        Network::Ipv4 => hop(ipv4::Header::view_mut(rest).ok()?.0),
        Network::Ipv6 => {
            let (ip, _) = ipv6::Header::view_mut(rest).ok()?;
            ip.hop_limit = ip.hop_limit.wrapping_sub(1);
        }
        Network::Arp => return None,
    }
    link.set_addresses(adjacency.dst, adjacency.src);
    Some(packet.reborrow().rewritten(adjacency.interface, millrace_xsk::TxOffload::None).transmit())
}

/// One hop on, with the addresses and ports of `known`. `None`: nothing was written.
#[inline(always)]
pub(in crate::pipeline) fn translated<O: Observer>(
    packet: &mut Packet<'_, Parsed<'_>>,
    known: &Known,
    adjacency: &Adjacency,
    context: &mut Context<'_, O>,
) -> Option<Exit> {
    if may_be_partial(packet, context)? {
        return None;
    }
    let tuple = &packet.headers().tuple;
    let old = [tuple.src.to_v4_bits(), tuple.dst.to_v4_bits()];
    let addresses = Delta::of_eight(joined(old), joined(known.addrs));
    let old_ports = u32::from(tuple.sport.to_be()) | u32::from(tuple.dport.to_be()) << 16;
    let both = addresses.and(Delta::of_four(old_ports, known.ports));
    let protocol = tuple.protocol;
    let frame = packet.bytes_mut().first_chunk_mut::<SHORTEST>()?;
    let (link, rest) = ethernet::Header::view_mut(frame).ok()?;
    let (ip, rest) = ipv4::Header::view_mut(rest).ok()?;
    match protocol {
        Protocol::TCP => {
            let (segment, _) = tcp::Header::view_mut(rest).ok()?;
            segment.checksum = U16::new(both.apply(segment.checksum.get()));
        }
        Protocol::UDP => {
            let (datagram, _) = udp::Header::view_mut(rest).ok()?;
            datagram.checksum = U16::new(both.apply_udp(datagram.checksum.get()));
        }
        _ => return None,
    }
    // Both ports: they stand first in either header.
    *rest.first_chunk_mut()? = known.ports.to_ne_bytes();
    ip.ttl = ip.ttl.wrapping_sub(1);
    ip.checksum = U16::new(addresses.and(ipv4::HOP).apply(ip.checksum.get()));
    [ip.src, ip.dst] = known.addrs.map(u32::to_ne_bytes);
    link.set_addresses(adjacency.dst, adjacency.src);
    Some(packet.reborrow().rewritten(adjacency.interface, millrace_xsk::TxOffload::None).transmit())
}

/// One hop less; `short` has seen that there is one.
#[inline(always)]
fn hop(ip: &mut ipv4::Header) {
    ip.ttl = ip.ttl.wrapping_sub(1);
    ip.checksum = U16::new(ipv4::HOP.apply(ip.checksum.get()));
}

#[inline(always)]
fn joined([low, high]: [u32; 2]) -> u64 {
    u64::from(low) | u64::from(high) << 32
}
