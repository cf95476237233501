//! Translates an ICMP error about a translated flow: its own addresses, and the packet that it quotes.
//!
//! As Linux does (`nf_nat_icmp_reply_translation`): who receives the error must recognise the packet that it once sent, so the
//! quoted tuple is turned back; and the error comes from the address that the flow's packets come from, also when a
//! router on the way sent it. The quoted TTL, length and payload stay as they are (they are evidence), the quoted checksums are
//! mended where they lie within the quote, and so is the error's own.

use millrace_wire::{Delta, Protocol, U16, View, crc32c, icmp, icmpv6, ipv4, ipv6};

use super::nat::{Edit, echo_id, ports};
use crate::exit::Exit;
use crate::flow::Tuple;
use crate::packet::{Headers, Network, Quote, view_mut};

/// Where an echo message has its identifier.
const ECHO_ID: u16 = 4;

/// Translates the error; `new` is what a packet of the flow in the error's direction leaves with.
pub(super) fn translate(
    bytes: &mut [u8],
    headers: &Headers,
    quote: &Quote,
    new: &Tuple,
) -> Result<(), Exit> {
    let old = &headers.tuple;
    let outer = outer(bytes, headers, new)?;
    // Nothing behind the IP packet is part of the quote.
    let end = bytes.len().min(headers.end as usize);
    let bytes = bytes.get_mut(..end).unwrap_or_default();
    let inner = inner(bytes, headers.network, quote, &old.reversed(), &new.reversed())?;
    match headers.network {
        Network::Ipv4 => {
            let message = view_mut::<icmp::Header>(bytes, headers.l4)?;
            message.checksum = U16::new(inner.apply(message.checksum.get()));
        }
        Network::Ipv6 | Network::Arp => {
            // The pseudo-header counts the outer addresses (RFC 4443 section 2.3).
            let message = view_mut::<icmpv6::Header>(bytes, headers.l4)?;
            message.checksum = U16::new(inner.and(outer).apply(message.checksum.get()));
        }
    }
    Ok(())
}

/// The error's own addresses: whichever end of the flow has another address is shown with that one.
fn outer(bytes: &mut [u8], headers: &Headers, new: &Tuple) -> Result<Delta, Exit> {
    let old = &headers.tuple;
    let (src_changes, dst_changes) = (old.src != new.src, old.dst != new.dst);
    match headers.network {
        Network::Ipv4 => {
            let ip = view_mut::<ipv4::Header>(bytes, headers.l3)?;
            let before = [ip.src, ip.dst];
            if let Some(src) = new.src.v4().filter(|_| src_changes) {
                ip.src = src;
            }
            if let Some(dst) = new.dst.v4().filter(|_| dst_changes) {
                ip.dst = dst;
            }
            let edit = Delta::of(before.as_flattened(), [ip.src, ip.dst].as_flattened());
            ip.checksum = U16::new(edit.apply(ip.checksum.get()));
            Ok(edit)
        }
        Network::Ipv6 | Network::Arp => {
            let ip = view_mut::<ipv6::Header>(bytes, headers.l3)?;
            let before = [ip.src.0, ip.dst.0];
            if src_changes {
                ip.src = new.src.into();
            }
            if dst_changes {
                ip.dst = new.dst.into();
            }
            Ok(Delta::of(before.as_flattened(), [ip.src.0, ip.dst.0].as_flattened()))
        }
    }
}

/// The quoted packet, from `old` to `new`. Returns what that does to a sum over the quote.
fn inner(
    bytes: &mut [u8],
    network: Network,
    quote: &Quote,
    old: &Tuple,
    new: &Tuple,
) -> Result<Delta, Exit> {
    let edit = Edit::between(network, old, new);
    let mut sum = edit.all();
    let mut l4_len = 0;
    match network {
        Network::Ipv4 => {
            let ip = view_mut::<ipv4::Header>(bytes, quote.l3)?;
            if let (Some(src), Some(dst)) = (new.src.v4(), new.dst.v4()) {
                (ip.src, ip.dst) = (src, dst);
            }
            l4_len = ip.payload_len();
            sum = sum.and(mend(&mut ip.checksum, |check| edit.addresses.apply(check)));
        }
        Network::Ipv6 | Network::Arp => {
            let ip = view_mut::<ipv6::Header>(bytes, quote.l3)?;
            (ip.src, ip.dst) = (new.src.into(), new.dst.into());
            let before_l4 =
                usize::from(quote.l4.saturating_sub(quote.l3)).saturating_sub(ipv6::Header::LEN);
            l4_len += ip.payload_len().saturating_sub(before_l4);
        }
    }
    // The ports are there (`parse` read them), the checksum perhaps. Half a field can't be mended.
    let field = quote.l4 + quote.protocol.checksum_offset().unwrap_or_default() as u16;
    let mended = match quote.protocol {
        Protocol::TCP => {
            view_mut::<U16>(bytes, field).map(|field| mend(field, |check| edit.all().apply(check)))
        }
        Protocol::UDP => view_mut::<U16>(bytes, field)
            .map(|field| mend(field, |check| edit.all().apply_udp(check))),
        Protocol::ICMP | Protocol::ICMPV6 => {
            let edit = if network == Network::Ipv4 { edit.ports } else { edit.all() };
            view_mut::<U16>(bytes, field).map(|field| mend(field, |check| edit.apply(check)))
        }
        _ => view_mut::<[u8; 4]>(bytes, field).map(|field| {
            // SCTP: the CRC is over the whole packet, whatever of it is quoted.
            let before = *field;
            let (old, new) = (ports(old), ports(new));
            let after = l4_len.saturating_sub(old.len());
            *field = crc32c::update(u32::from_le_bytes(before), &old, &new, after).to_le_bytes();
            Delta::of(&before, field)
        }),
    };
    if matches!(quote.protocol, Protocol::ICMP | Protocol::ICMPV6) {
        // Where ports would be are the type and the checksum.
        *view_mut::<U16>(bytes, quote.l4 + ECHO_ID)? = U16::new(echo_id(new));
    } else {
        let ports = view_mut::<[U16; 2]>(bytes, quote.l4)?;
        *ports = [U16::new(new.sport), U16::new(new.dport)];
    }
    Ok(sum.and(mended.unwrap_or(Delta::NONE)))
}

/// Changes a checksum field; what that does to a sum over the field.
fn mend(field: &mut U16, edit: impl FnOnce(u16) -> u16) -> Delta {
    let before = field.get();
    let after = edit(before);
    field.set(after);
    Delta::of_word(before, after)
}
