//! ARP packets of ours (RFC 826).

use millrace_wire::{EtherType, Mac, arp};

use super::{Bytes, fresh_link, link_to, push};
use crate::exit::Exit;
use crate::packet::{Packet, Parsed};
use crate::verdict::DropReason;

/// The reply to a request: `mac` has the target address. To the sender alone, by the MAC that its request names.
pub(crate) fn answer(
    packet: &Packet<'_, Parsed<'_>>,
    mac: Mac,
    request: &arp::Packet,
) -> Result<Bytes, Exit> {
    let mut bytes = link_to(packet, mac, request.sender_mac)?;
    let sender = (mac, request.target_addr);
    let target = (request.sender_mac, request.sender_addr);
    push(&mut bytes, &arp::Packet::new(arp::Op::REPLY, sender, target))
        .ok_or(DropReason::NoRoom)?;
    Ok(bytes)
}

/// A request for `target`: broadcast, or to `known` alone (RFC 1122 section 2.3.2.1).
pub(super) fn request(
    mac: Mac,
    source: [u8; 4],
    target: [u8; 4],
    known: Option<Mac>,
    tags: &[u8],
) -> Option<Bytes> {
    let mut bytes = fresh_link(mac, known.unwrap_or(Mac::BROADCAST), tags)?;
    set_ether_type(&mut bytes, EtherType::ARP)?;
    push(&mut bytes, &arp::Packet::new(arp::Op::REQUEST, (mac, source), (Mac::ZERO, target)))?;
    Some(bytes)
}

/// The last two bytes of a link header.
pub(super) fn set_ether_type(bytes: &mut Bytes, ether_type: EtherType) -> Option<()> {
    let at = bytes.len().checked_sub(2)?;
    bytes.get_mut(at..)?.copy_from_slice(&ether_type.get().to_be_bytes());
    Some(())
}
