//! Echo replies (RFC 1122 section 3.2.2.6, RFC 4443 section 4.2): the request itself, turned round in its frame, so that any size that
//! came in can go out.

use millrace_wire::{Delta, Mac, Protocol, Sum, U16, checksum, ethernet, icmp, icmpv6, ipv4, ipv6};

use super::TTL;
use crate::exit::Exit;
use crate::packet::{Network, Packet, Parsed, view_mut};
use crate::pipeline::Context;
use crate::trace::Observer;
use crate::verdict::{DropReason, ReplyKind};

/// Answers an echo request, if its checksum is right.
pub fn echo<O: Observer>(
    packet: &mut Packet<'_, Parsed<'_>>,
    context: &mut Context<'_, O>,
) -> Exit {
    let mac = match context.receiving() {
        Ok(interface) => interface.mac,
        Err(verdict) => return verdict,
    };
    match turn(packet, mac, context) {
        Ok(()) => ReplyKind::Echo.into(),
        Err(verdict) => verdict,
    }
}

fn turn<O: Observer>(
    packet: &mut Packet<'_, Parsed<'_>>,
    mac: Mac,
    context: &mut Context<'_, O>,
) -> Result<(), Exit> {
    let headers = packet.headers();
    let pseudo = match headers.network {
        Network::Ipv4 => Sum::new(),
        Network::Ipv6 | Network::Arp => packet.ipv6()?.pseudo(Protocol::ICMPV6, headers.l4_len()),
    };
    let mut sum = pseudo;
    packet.for_each(usize::from(headers.l4), headers.end as usize, |bytes| {
        sum = sum.add_bytes(bytes)
    });
    if sum.finish() != 0 {
        return Err(DropReason::BadChecksum.into());
    }
    packet.trim(&mut context.state.local.pool);
    let bytes = packet.bytes_mut();
    let link = view_mut::<ethernet::Header>(bytes, 0)?;
    link.dst = link.src;
    link.src = mac;
    match headers.network {
        Network::Ipv4 => {
            turn_v4(bytes, headers.l3)?;
            let message = view_mut::<icmp::Header>(bytes, headers.l4)?;
            message.kind = icmp::Type::ECHO_REPLY;
            let edit = Delta::of(&[icmp::Type::ECHO_REQUEST.0, 0], &[icmp::Type::ECHO_REPLY.0, 0]);
            message.checksum = U16::new(edit.apply(message.checksum.get()));
        }
        Network::Ipv6 | Network::Arp => {
            let ip = view_mut::<ipv6::Header>(bytes, headers.l3)?;
            std::mem::swap(&mut ip.src, &mut ip.dst);
            ip.hop_limit = TTL;
            let message = view_mut::<icmpv6::Header>(bytes, headers.l4)?;
            message.kind = icmpv6::Type::ECHO_REPLY;
            let edit =
                Delta::of(&[icmpv6::Type::ECHO_REQUEST.0, 0], &[icmpv6::Type::ECHO_REPLY.0, 0]);
            message.checksum = U16::new(edit.apply(message.checksum.get()));
        }
    }
    Ok(())
}

/// Swaps the addresses, sets the TTL. Options of the request are not ours to send: no-ops take their place.
fn turn_v4(bytes: &mut [u8], l3: u16) -> Result<(), Exit> {
    let ip = view_mut::<ipv4::Header>(bytes, l3)?;
    let old = [ip.ttl, ip.protocol.0];
    ip.ttl = TTL;
    let mut check = checksum::update(ip.checksum.get(), &old, &[TTL, ip.protocol.0]);
    std::mem::swap(&mut ip.src, &mut ip.dst);
    let options = usize::from(l3) + 20..usize::from(l3) + ip.header_len();
    if let Some(options) = bytes.get_mut(options) {
        const NO_OPS: [u8; 40] = [ipv4::OptionKind::NO_OP.0; 40];
        let fill = NO_OPS.get(..options.len()).ok_or(DropReason::BadHeader)?;
        check = checksum::update(check, options, fill);
        options.copy_from_slice(fill);
    }
    view_mut::<ipv4::Header>(bytes, l3)?.checksum = U16::new(check);
    Ok(())
}
