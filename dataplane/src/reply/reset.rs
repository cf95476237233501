//! TCP resets, as RFC 9293 section 3.10.7.1 has a closed port answer.

use millrace_wire::{Addr, Protocol, Sum, U16, View, ipv4, ipv6, tcp};
use zerocopy::IntoBytes;

use super::{Bytes, TTL, link, may_complain, push, replace};
use crate::exit::Exit;
use crate::packet::{Network, Packet, Parsed};
use crate::pipeline::Context;
use crate::trace::Observer;
use crate::verdict::{DropReason, ReplyKind};

/// Resets the connection that the segment is of. A reset is answered by nothing; resets share the limit of ICMP errors.
pub(super) fn reset<O: Observer>(
    packet: &mut Packet<'_, Parsed<'_>>,
    otherwise: DropReason,
    context: &mut Context<'_, O>,
) -> Exit {
    let headers = packet.headers();
    if headers.tcp.contains(tcp::Flags::RST) || headers.fault.is_some() || !may_complain(packet) {
        return otherwise.into();
    }
    if !context.state.local.limiter.take(context.now) {
        return otherwise.into();
    }
    match build(packet, context) {
        Ok(Some(answer)) => replace(packet, &answer, ReplyKind::TcpReset, context),
        Ok(None) => otherwise.into(),
        Err(verdict) => verdict,
    }
}

fn build<O: Observer>(
    packet: &Packet<'_, Parsed<'_>>,
    context: &Context<'_, O>,
) -> Result<Option<Bytes>, Exit> {
    let headers = packet.headers();
    let segment = packet.l4::<tcp::Header>()?;
    let answer = answer(segment, headers.l4_len());
    let (source, peer) = (headers.tuple.dst, headers.tuple.src);
    let bytes = link(packet, context.receiving()?.mac)?;
    Ok(match headers.network {
        Network::Ipv4 => v4(bytes, &source, &peer, answer),
        Network::Ipv6 | Network::Arp => v6(bytes, &source, &peer, answer),
    })
}

/// The reset of a segment of `len` bytes, header included; its checksum is still 0.
fn answer(segment: &tcp::Header, len: u32) -> tcp::Header {
    let (sport, dport) = (segment.dst_port.get(), segment.src_port.get());
    if segment.flags.contains(tcp::Flags::ACK) {
        return tcp::Header::new(sport, dport, segment.acknowledgment.get(), 0, tcp::Flags::RST, 0);
    }
    let counts = |flag| u32::from(segment.flags.contains(flag));
    let data = len.saturating_sub(segment.header_len() as u32)
        + counts(tcp::Flags::SYN)
        + counts(tcp::Flags::FIN);
    let acknowledgment = segment.sequence.get().wrapping_add(data);
    tcp::Header::new(
        sport,
        dport,
        0,
        acknowledgment,
        tcp::Flags(tcp::Flags::RST.0 | tcp::Flags::ACK.0),
        0,
    )
}

fn v4(mut bytes: Bytes, source: &Addr, peer: &Addr, segment: tcp::Header) -> Option<Bytes> {
    push(
        &mut bytes,
        &ipv4::Header::new(source.v4()?, peer.v4()?, Protocol::TCP, TTL, tcp::Header::LEN as u16),
    )?;
    finish(bytes, source, peer, segment)
}

fn v6(mut bytes: Bytes, source: &Addr, peer: &Addr, segment: tcp::Header) -> Option<Bytes> {
    push(
        &mut bytes,
        &ipv6::Header::new(*source, *peer, Protocol::TCP, TTL, tcp::Header::LEN as u16),
    )?;
    finish(bytes, source, peer, segment)
}

fn finish(mut bytes: Bytes, source: &Addr, peer: &Addr, mut segment: tcp::Header) -> Option<Bytes> {
    let sum = Sum::pseudo(source, peer, Protocol::TCP, tcp::Header::LEN as u32)
        .add_bytes(segment.as_bytes());
    segment.checksum = U16::new(sum.finish());
    push(&mut bytes, &segment)?;
    Some(bytes)
}
