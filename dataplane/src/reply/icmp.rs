//! ICMP and ICMPv6 errors (RFC 792, RFC 1812 section 4.3, RFC 4443).
//!
//! The quote is the packet as it came in: everything that fits into 576 bytes for IPv4 (RFC 1812 section 4.3.2.3), 1280 for IPv6.

use millrace_wire::{Addr, Protocol, U16, View, icmp, icmpv6, ipv4, ipv6, ipv6_ext};
use zerocopy::IntoBytes;

use super::{Bytes, TTL, link, may_complain, push, replace};
use crate::exit::Exit;
use crate::packet::{Network, Packet, Parsed};
use crate::pipeline::Context;
use crate::trace::Observer;
use crate::verdict::{DropReason, ReplyKind};

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// No route.
    NetUnreachable,
    /// The next hop does not answer.
    HostUnreachable,
    /// Nothing listens on the port.
    PortUnreachable,
    /// Nobody takes the protocol.
    ProtocolUnreachable,
    /// A link-local source would leave its link.
    BeyondScope,
    /// TTL or hop limit ran out.
    TimeExceeded,
    /// Bigger than the way out.
    TooBig {
        /// What fits, in bytes.
        mtu: u32,
    },
    /// A routing header that asks us to forward on.
    RoutingHeader,
}

/// Biggest ICMP error for IPv4.
const MAX_V4: usize = 576;
/// Precedence "internetwork control" (RFC 1812 section 4.3.2.5).
const TOS: u8 = 0xc0;

impl Problem {
    /// How the answer is counted.
    const fn kind(self) -> ReplyKind {
        match self {
            Problem::NetUnreachable => ReplyKind::NetUnreachable,
            Problem::HostUnreachable => ReplyKind::HostUnreachable,
            Problem::PortUnreachable => ReplyKind::PortUnreachable,
            Problem::ProtocolUnreachable => ReplyKind::ProtocolUnreachable,
            Problem::BeyondScope => ReplyKind::BeyondScope,
            Problem::TimeExceeded => ReplyKind::TimeExceeded,
            Problem::TooBig { .. } => ReplyKind::TooBig,
            Problem::RoutingHeader => ReplyKind::RoutingHeader,
        }
    }

    /// Whether the addressed host speaks, and not a router on the way (RFC 1122 section 3.2.2: then from the address that
    /// the packet was sent to).
    const fn is_the_hosts(self) -> bool {
        matches!(
            self,
            Problem::PortUnreachable | Problem::ProtocolUnreachable | Problem::RoutingHeader
        )
    }
}

/// Turns the packet into an error about itself, out of the interface that it came in on. When none is due, or too many
/// were sent lately, the packet is dropped for `otherwise`.
pub fn error<O: Observer>(
    packet: &mut Packet<'_, Parsed<'_>>,
    problem: Problem,
    otherwise: DropReason,
    context: &mut Context<'_, O>,
) -> Exit {
    if !may_complain(packet) {
        return otherwise.into();
    }
    if !context.state.local.limiter.take(context.now) {
        return otherwise.into();
    }
    match build(packet, problem, context) {
        Ok(Some(answer)) => replace(packet, &answer, problem.kind(), context),
        Ok(None) => otherwise.into(),
        Err(verdict) => verdict,
    }
}

/// The error, or `None` when there is no address of ours to speak from.
fn build<O: Observer>(
    packet: &Packet<'_, Parsed<'_>>,
    problem: Problem,
    context: &Context<'_, O>,
) -> Result<Option<Bytes>, Exit> {
    let headers = packet.headers();
    let peer = packet.source()?;
    let source = if problem.is_the_hosts() {
        Some(packet.destination()?)
    } else {
        context.interfaces.source_for(context.from, &peer)
    };
    let Some(source) = source else { return Ok(None) };
    let bytes = packet.bytes();
    let quote = bytes
        .get(usize::from(headers.l3)..bytes.len().min(headers.end as usize))
        .ok_or(DropReason::Truncated)?;
    let link = link(packet, context.receiving()?.mac)?;
    Ok(match headers.network {
        Network::Ipv4 => v4(link, &source, &peer, problem, quote),
        Network::Ipv6 | Network::Arp => v6(link, &source, &peer, problem, quote),
    })
}

fn v4(
    mut bytes: Bytes,
    source: &Addr,
    peer: &Addr,
    problem: Problem,
    packet: &[u8],
) -> Option<Bytes> {
    use icmp::unreachable;
    let unreachable = icmp::Type::DEST_UNREACHABLE;
    let (kind, code, rest) = match problem {
        Problem::NetUnreachable | Problem::BeyondScope => (unreachable, unreachable::NET, 0),
        Problem::HostUnreachable => (unreachable, unreachable::HOST, 0),
        Problem::ProtocolUnreachable | Problem::RoutingHeader => {
            (unreachable, unreachable::PROTOCOL, 0)
        }
        Problem::PortUnreachable => (unreachable, unreachable::PORT, 0),
        Problem::TooBig { mtu } => {
            (unreachable, unreachable::FRAGMENTATION_NEEDED, mtu.min(0xffff))
        }
        Problem::TimeExceeded => (icmp::Type::TIME_EXCEEDED, icmp::time_exceeded::TTL, 0),
    };
    let quote = packet.get(..packet.len().min(MAX_V4 - ipv4::Header::LEN - icmp::Header::LEN))?;
    let mut message = icmp::Header::new(kind, code, rest);
    message.checksum =
        U16::new(millrace_wire::Sum::of(message.as_bytes()).add_bytes(quote).finish());
    let len = icmp::Header::LEN + quote.len();
    let mut ip = ipv4::Header::new(source.v4()?, peer.v4()?, Protocol::ICMP, TTL, len as u16);
    ip.tos = TOS;
    ip.fill_checksum(&[]);
    push(&mut bytes, &ip)?;
    push(&mut bytes, &message)?;
    bytes.try_extend_from_slice(quote).ok()?;
    Some(bytes)
}

fn v6(
    mut bytes: Bytes,
    source: &Addr,
    peer: &Addr,
    problem: Problem,
    packet: &[u8],
) -> Option<Bytes> {
    use icmpv6::{Type, parameter_problem, unreachable};
    let (kind, code, rest) = match problem {
        Problem::NetUnreachable => (Type::DEST_UNREACHABLE, unreachable::NO_ROUTE, 0),
        Problem::HostUnreachable => (Type::DEST_UNREACHABLE, unreachable::ADDRESS, 0),
        Problem::PortUnreachable => (Type::DEST_UNREACHABLE, unreachable::PORT, 0),
        Problem::BeyondScope => (Type::DEST_UNREACHABLE, unreachable::BEYOND_SCOPE, 0),
        Problem::TooBig { mtu } => (Type::PACKET_TOO_BIG, 0, mtu),
        Problem::TimeExceeded => (Type::TIME_EXCEEDED, icmpv6::time_exceeded::HOP_LIMIT, 0),
        Problem::ProtocolUnreachable => (
            Type::PARAMETER_PROBLEM,
            parameter_problem::NEXT_HEADER,
            next_header_field(packet)?.last,
        ),
        // RFC 5095 section 3: points at the routing type, two bytes into its header.
        Problem::RoutingHeader => (
            Type::PARAMETER_PROBLEM,
            parameter_problem::FIELD,
            next_header_field(packet)?.routing? + 2,
        ),
    };
    let quote =
        packet.get(..packet.len().min(ipv6::MIN_MTU - ipv6::Header::LEN - icmpv6::Header::LEN))?;
    let len = icmpv6::Header::LEN + quote.len();
    let ip = ipv6::Header::new(*source, *peer, Protocol::ICMPV6, TTL, len as u16);
    let mut message = icmpv6::Header::new(kind, code, rest);
    let sum =
        ip.pseudo(Protocol::ICMPV6, len as u32).add_bytes(message.as_bytes()).add_bytes(quote);
    message.checksum = U16::new(sum.finish());
    push(&mut bytes, &ip)?;
    push(&mut bytes, &message)?;
    bytes.try_extend_from_slice(quote).ok()?;
    Some(bytes)
}

/// Offsets in an IPv6 packet that a parameter problem points at.
struct Fields {
    /// Of the next-header field that names the last header of the chain.
    last: u32,
    /// Of the routing header.
    routing: Option<u32>,
}

/// Finds them. `parse` has walked the chain before, so it is sound; `None` otherwise.
fn next_header_field(packet: &[u8]) -> Option<Fields> {
    let (ip, payload) = ipv6::Header::view(packet).ok()?;
    let end = ipv6_ext::walk(ip.next_header, payload).ok()?.offset;
    // The next-header field of the fixed header.
    let mut fields = Fields { last: 6, routing: None };
    let (mut protocol, mut at) = (ip.next_header, 0);
    while at < end {
        let &[next, len, ..] = payload.get(at..)? else { return None };
        let place = (ipv6::Header::LEN + at) as u32;
        if protocol == Protocol::ROUTING {
            fields.routing = Some(place);
        }
        fields.last = place;
        at += match protocol {
            Protocol::FRAGMENT => 8,
            Protocol::AH => (usize::from(len) + 2) * 4,
            _ => (usize::from(len) + 1) * 8,
        };
        protocol = Protocol(next);
    }
    Some(fields)
}
