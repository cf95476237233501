//! Whether the checksums of a received frame are right: IPv4 header, TCP, UDP, ICMP, SCTP; in VXLAN, the inner frame's too.
//!
//! What isn't known, or is a fragment, is not found wrong. A TCP or UDP checksum that is the pseudo-header's alone is not either: that is what a
//! virtual interface hands over when its driver would have completed it (`CHECKSUM_PARTIAL`).

use millrace_wire::crc32c::Crc32c;
use millrace_wire::{Protocol, Sum};

/// EtherTypes of VLAN tags.
const TAGS: [u16; 2] = [0x8100, 0x88a8];
const VXLAN: u16 = 4789;

/// The EtherType of what a frame carries, and where that begins; up to two VLAN tags are gone past.
#[inline]
pub fn payload(frame: &[u8]) -> Option<(u16, usize)> {
    let mut at = 12;
    for _ in 0..3 {
        let kind = word(frame, at)?;
        if !TAGS.contains(&kind) {
            return Some((kind, at + 2));
        }
        at += 4;
    }
    None
}

/// The 16-bit word at `at`.
#[inline]
pub fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// Whether every checksum of the frame is right.
#[inline]
pub fn checksums_hold(frame: &[u8]) -> bool {
    frame_holds(frame, 0).unwrap_or(true)
}

/// `None`: there is nothing that could be wrong.
fn frame_holds(frame: &[u8], depth: u8) -> Option<bool> {
    let (kind, at) = payload(frame)?;
    let packet = frame.get(at..)?;
    match kind {
        0x0800 => {
            let header = usize::from(packet.first()? & 0xf) * 4;
            let total = usize::from(word(packet, 2)?);
            let whole = packet.get(..header).is_some_and(|h| Sum::of(h).fold() == 0xffff);
            if header < 20 || !whole {
                return Some(false);
            }
            // Cut short, or a fragment.
            let l4 = packet.get(header..total)?;
            if word(packet, 6)? & 0x3fff != 0 {
                return None;
            }
            let protocol = Protocol(*packet.get(9)?);
            let (src, dst) =
                (packet.get(12..16)?.try_into().ok()?, packet.get(16..20)?.try_into().ok()?);
            let pseudo = Sum::pseudo_v4(src, dst, protocol, l4.len() as u16);
            transport_holds(protocol, pseudo, l4, true, depth)
        }
        0x86dd => {
            let len = usize::from(word(packet, 4)?);
            let l4 = packet.get(40..40 + len)?;
            let protocol = Protocol(*packet.get(6)?);
            let (src, dst) =
                (packet.get(8..24)?.try_into().ok()?, packet.get(24..40)?.try_into().ok()?);
            let pseudo = Sum::pseudo_v6(src, dst, protocol, l4.len() as u32);
            transport_holds(protocol, pseudo, l4, false, depth)
        }
        _ => None,
    }
}

fn transport_holds(
    protocol: Protocol,
    pseudo: Sum,
    l4: &[u8],
    v4: bool,
    depth: u8,
) -> Option<bool> {
    let whole = |field: u16| field == pseudo.fold() || pseudo.add_bytes(l4).fold() == 0xffff;
    match protocol {
        Protocol::UDP => {
            let field = word(l4, 6)?;
            let holds = if field == 0 { v4 || word(l4, 2)? == VXLAN } else { whole(field) };
            if holds && depth == 0 && word(l4, 2)? == VXLAN {
                return frame_holds(l4.get(16..)?, 1);
            }
            Some(holds)
        }
        Protocol::TCP => Some(whole(word(l4, 16)?)),
        Protocol::ICMP if v4 => Some(Sum::of(l4).fold() == 0xffff),
        Protocol::ICMPV6 if !v4 => Some(pseudo.add_bytes(l4).fold() == 0xffff),
        Protocol::SCTP => {
            let crc =
                Crc32c::new().add_bytes(l4.get(..8)?).add_bytes(&[0; 4]).add_bytes(l4.get(12..)?);
            Some(l4.get(8..12)? == crc.finish().to_le_bytes())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Load;
    use crate::craft::Crafter;
    use crate::field::Share;
    use crate::profile::Plan;
    use crate::template::Macs;
    use millrace_wire::Mac;
    use proptest::prelude::*;

    fn frame(protocol: &str, v6: bool, vxlan: bool) -> Vec<u8> {
        let (src, dst) = if v6 { ("fd00::1", "fd00::2") } else { ("10.0.0.1", "10.0.0.2") };
        let outer = if vxlan {
            "[stream.vxlan]\nvni = 1\nsrc = \"192.0.2.1\"\ndst = \"192.0.2.2\""
        } else {
            ""
        };
        let text = format!(
            "[[stream]]\nprotocol = \"{protocol}\"\nsrc = \"{src}\"\ndst = \"{dst}\"\nsize = 200\nvlan = 5\npayload = \"random\"\n{outer}"
        );
        let plan = Plan::build(Plan::parse(&text).unwrap(), &Load::default()).unwrap();
        let macs = [Macs { src: Mac::ZERO, dst: Mac::ZERO }];
        let mut crafter = Crafter::new(&plan, &macs, Share::ALL, 1).unwrap();
        let mut frame = vec![0; 300];
        let slot = crafter.slot();
        let len = crafter.craft(slot, 0, 0, &mut frame);
        frame.truncate(len);
        frame
    }

    proptest! {
        #[test]
        fn a_changed_payload_or_address_is_found(
            protocol in prop::sample::select(vec!["udp", "tcp", "sctp", "icmp"]), v6: bool, vxlan: bool,
            at in 60usize..196, by in 1u8..
        ) {
            let mut frame = frame(protocol, v6, vxlan);
            prop_assert!(checksums_hold(&frame));
            // The last 60 bytes are payload in every case.
            let at = at.max(frame.len() - 60).min(frame.len() - 1);
            frame[at] ^= by;
            prop_assert!(!checksums_hold(&frame));
        }

        #[test]
        fn any_bytes_are_looked_at_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            checksums_hold(&bytes);
            for kind in [[8, 0], [0x86, 0xdd]] {
                let mut frame = vec![0; 12];
                frame.extend(kind);
                frame.extend(&bytes);
                checksums_hold(&frame);
            }
        }
    }
}
