//! Does a frame come from whom it says? At a pod's interface its MAC and addresses are known; what comes with others is forged, and ends here.
//!
//! Needs a parsed frame and the receiving interface's guard, which control sets; interfaces without one carry anything. Not a stop of the line: the first pass asks
//! here, so that nothing is learned or answered because of a forged packet. ARP and neighbor discovery have senders of their own, which are looked at too. IPv6
//! link-local sources, and the unspecified one of duplicate address detection, are for neighbor discovery and group membership alone: from
//! these nothing is forwarded.
//!
//! Cost: one look a burst for the guard; a packet of a guarded interface some 20 instructions.

use millrace_tables::Guard;
use millrace_wire::{Addr, Mac, Protocol, arp, icmpv6, ipv4, ipv6, ndp};

use crate::packet::{Headers, Network, Packet, Part, Raw, view};

/// Multicast listener messages (RFC 3810, RFC 2710).
const MEMBERSHIP: [icmpv6::Type; 4] =
    [icmpv6::Type(130), icmpv6::Type(131), icmpv6::Type(132), icmpv6::Type(143)];

/// Whether the frame's senders are whom the guard names.
#[inline(never)]
pub(super) fn admits(packet: &Packet<'_, Raw>, headers: &Headers, guard: &Guard<'_>) -> bool {
    if packet.ethernet().map(|link| link.src) != Ok(guard.mac) {
        return false;
    }
    let bytes = packet.bytes();
    match headers.network {
        Network::Arp => sender(bytes, headers, guard).unwrap_or(false),
        Network::Ipv4 => {
            let source = match headers.quote {
                None => Ok(headers.tuple.src),
                Some(_) => view::<ipv4::Header>(bytes, headers.l3).map(|ip| ip.src_addr()),
            };
            source.is_ok_and(|source| guard.has(&source))
        }
        Network::Ipv6 => {
            let source = match headers.quote {
                None => Ok(headers.tuple.src),
                Some(_) => view::<ipv6::Header>(bytes, headers.l3).map(|ip| ip.src_addr()),
            };
            source.is_ok_and(|source| v6(bytes, headers, &source, guard))
        }
    }
}

/// ARP: the sender's MAC and address, or none yet (a probe, RFC 5227).
fn sender(bytes: &[u8], headers: &Headers, guard: &Guard<'_>) -> Option<bool> {
    let packet = arp::Packet::parse(bytes.get(usize::from(headers.l3)..)?).ok()?;
    let addr = Addr::from_v4(packet.sender_addr);
    Some(packet.sender_mac == guard.mac && (addr.is_unspecified() || guard.has(&addr)))
}

fn v6(bytes: &[u8], headers: &Headers, source: &Addr, guard: &Guard<'_>) -> bool {
    let is_own = guard.has(source);
    let is_local = source.is_link_local() || source.is_unspecified();
    if !is_own && !is_local {
        return false;
    }
    if headers.protocol != Protocol::ICMPV6 || headers.part != Part::Whole {
        return is_own;
    }
    let Ok(message) = view::<icmpv6::Header>(bytes, headers.l4) else { return is_own };
    if message.kind.is_ndp() {
        return discovery(bytes, headers, message.kind, guard).unwrap_or(false);
    }
    is_own || MEMBERSHIP.contains(&message.kind)
}

/// Neighbor discovery: who it speaks of. Routers' messages are no pod's.
fn discovery(
    bytes: &[u8],
    headers: &Headers,
    kind: icmpv6::Type,
    guard: &Guard<'_>,
) -> Option<bool> {
    let message = bytes.get(usize::from(headers.l4)..headers.end as usize)?;
    let is_own = |mac: Option<Mac>| mac.is_none_or(|mac| mac == guard.mac);
    match kind {
        icmpv6::Type::NEIGHBOR_SOLICITATION => {
            let (_, options) = ndp::NeighborSolicitation::parse(message).ok()?;
            Some(is_own(options.link_layer(ndp::OptionKind::SOURCE_LINK_LAYER)))
        }
        icmpv6::Type::NEIGHBOR_ADVERTISEMENT => {
            let (advertisement, options) = ndp::NeighborAdvertisement::parse(message).ok()?;
            let target = advertisement.target.get();
            let mac = options.link_layer(ndp::OptionKind::TARGET_LINK_LAYER);
            Some((guard.has(&target) || target.is_link_local()) && is_own(mac))
        }
        icmpv6::Type::ROUTER_SOLICITATION => {
            let (_, options) = ndp::RouterSolicitation::parse(message).ok()?;
            Some(is_own(options.link_layer(ndp::OptionKind::SOURCE_LINK_LAYER)))
        }
        _ => Some(false),
    }
}
