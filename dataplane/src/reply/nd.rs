//! Neighbor discovery messages of ours (RFC 4861).

use millrace_wire::{Addr, EtherType, Mac, Protocol, U16, View, ipv6, ndp};
use zerocopy::IntoBytes;

use super::{Bytes, fresh_link, link_to, push};
use crate::exit::Exit;
use crate::interface::Interface;
use crate::packet::{Packet, Parsed};
use crate::verdict::DropReason;

/// A message of 24 bytes and one link-layer option.
const LEN: usize = ndp::NeighborSolicitation::LEN + ndp::LinkLayer::LEN;

/// The advertisement that answers a solicitation for `target`: to who asked, or to all nodes when a new station asks before it
/// takes the address (section 7.2.4). We are a router, `mac` is ours and to be used from now on.
pub(crate) fn answer(
    packet: &Packet<'_, Parsed<'_>>,
    mac: Mac,
    target: &Addr,
    asker: Option<Mac>,
) -> Result<Bytes, Exit> {
    use ndp::NeighborAdvertisement as Advertisement;
    let source = packet.headers().tuple.src;
    let is_probe = source.is_unspecified();
    let dst = if is_probe { Addr::ALL_NODES } else { source };
    let dst_mac = if is_probe {
        Mac::multicast_for_v6(&dst)
    } else {
        asker.map_or_else(|| packet.ethernet().map(|link| link.src), Ok)?
    };
    let solicited = if is_probe { 0 } else { Advertisement::SOLICITED };
    let flags = Advertisement::ROUTER | Advertisement::OVERRIDE | solicited;
    let option = ndp::LinkLayer::new(ndp::OptionKind::TARGET_LINK_LAYER, mac);
    let mut bytes = link_to(packet, mac, dst_mac)?;
    finish(&mut bytes, target, &dst, &Advertisement::new(*target, flags), &option)
        .ok_or(DropReason::NoRoom)?;
    Ok(bytes)
}

/// A solicitation for `target`: to its solicited-node group, or to `known` alone (section 7.2.2 and 7.3.3).
pub(super) fn request(
    out: &Interface,
    target: &Addr,
    known: Option<Mac>,
    tags: &[u8],
) -> Option<Bytes> {
    let source = out.source_for(target).unwrap_or(out.link_local());
    let dst = if known.is_some() { *target } else { ndp::solicited_node(target) };
    let dst_mac = known.unwrap_or(ndp::solicited_node_mac(target));
    let mut bytes = fresh_link(out.mac, dst_mac, tags)?;
    super::arp::set_ether_type(&mut bytes, EtherType::IPV6)?;
    let option = ndp::LinkLayer::new(ndp::OptionKind::SOURCE_LINK_LAYER, out.mac);
    finish(&mut bytes, &source, &dst, &ndp::NeighborSolicitation::new(*target), &option)?;
    Some(bytes)
}

fn finish<T: View>(
    bytes: &mut Bytes,
    src: &Addr,
    dst: &Addr,
    message: &T,
    option: &ndp::LinkLayer,
) -> Option<()> {
    let ip = ipv6::Header::new(*src, *dst, Protocol::ICMPV6, ndp::HOP_LIMIT, LEN as u16);
    let sum = ip
        .pseudo(Protocol::ICMPV6, LEN as u32)
        .add_bytes(message.as_bytes())
        .add_bytes(option.as_bytes());
    push(bytes, &ip)?;
    let at = bytes.len() + 2;
    push(bytes, message)?;
    push(bytes, option)?;
    U16::new(sum.finish()).put(bytes.get_mut(at..)?).ok()?;
    Some(())
}
