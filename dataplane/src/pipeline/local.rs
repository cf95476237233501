//! Packets addressed to us: to an address that an interface owns, or to a service address where no frontend matched.
//!
//! There is no host stack behind the engine in `router` mode, so it answers as a host would that runs nothing: echo replies, RST
//! (RFC 9293), port and protocol unreachable (RFC 1122 section 3.2.2.1). Where the kernel has a stack behind a host
//! interface, what is sent to the node's own addresses is the kernel's.

use millrace_tables::InterfaceKind;
use millrace_wire::{Protocol, icmp, icmpv6};

use super::{Context, trunk};
use crate::exit::Exit;
use crate::packet::{Network, Packet, Parsed, Part};
use crate::reply::{self, Problem};
use crate::trace::Observer;
use crate::verdict::{DropReason, PuntReason};

/// Which kind of address of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// An interface's.
    Owned,
    /// A service's.
    Vip,
}

/// Answers, or says why not.
pub fn deliver<O: Observer>(
    packet: &mut Packet<'_, Parsed<'_>>,
    to: To,
    context: &mut Context<'_, O>,
) -> Exit {
    match packet.source() {
        Ok(source) if trunk::is_forged(&source, context) => return DropReason::Martian.into(),
        Ok(_) => {}
        Err(verdict) => return verdict,
    }
    let headers = packet.headers();
    let stack = context.interfaces.of_kind(InterfaceKind::HOST).is_some();
    // The trunk's own address is the engine's alone.
    let is_own = trunk::is_from_kernel(context) && trunk::is_of_trunk(&headers.tuple.dst, context);
    if to == To::Owned && stack && !is_own {
        return trunk::hand_on(packet, PuntReason::Local, context);
    }
    if headers.part != Part::Whole {
        return DropReason::FragmentUnsupported.into();
    }
    // Whoever claims to be us would be answered with our own address (a "land" packet); the node's own stack is us.
    let from_stack = matches!(context.receiving(), Ok(it) if it.kind == InterfaceKind::HOST);
    match packet.source() {
        Ok(source)
            if source == headers.tuple.dst || (context.interfaces.owns(&source) && !from_stack) =>
        {
            return DropReason::Martian.into();
        }
        Ok(_) => {}
        Err(verdict) => return verdict,
    }
    if headers.routed_on {
        return reply::error(packet, Problem::RoutingHeader, DropReason::RoutingHeader, context);
    }
    if let Some(fault) = headers.fault {
        return fault.into();
    }
    let nothing_there = match to {
        To::Owned => DropReason::NotListening,
        To::Vip => DropReason::NoFrontend,
    };
    match (headers.protocol, headers.network) {
        // Beside a kernel a service address is no host: it refuses all that it does not serve (kube-proxy's `cluster-ips-check`).
        (Protocol::ICMP | Protocol::ICMPV6, _) if to == To::Vip && stack && asks(packet) => {
            reply::refuse(packet, nothing_there, context)
        }
        (Protocol::ICMP, Network::Ipv4) => match packet.l4::<icmp::Header>() {
            Ok(message) if message.kind == icmp::Type::ECHO_REQUEST => reply::echo(packet, context),
            Ok(message) if message.kind.is_error() => stray_error(to),
            Ok(_) => PuntReason::Local.into(),
            Err(verdict) => verdict,
        },
        (Protocol::ICMPV6, Network::Ipv6) => match packet.l4::<icmpv6::Header>() {
            Ok(message) if message.kind == icmpv6::Type::ECHO_REQUEST => {
                reply::echo(packet, context)
            }
            Ok(message) if message.kind.is_error() => stray_error(to),
            Ok(_) => PuntReason::Local.into(),
            Err(verdict) => verdict,
        },
        (Protocol::TCP | Protocol::UDP, _) => reply::refuse(packet, nothing_there, context),
        // A service address speaks SCTP on its frontends; the router itself does not.
        (Protocol::SCTP, _) if to == To::Vip => reply::refuse(packet, nothing_there, context),
        // "No next header": nothing follows, and nothing is to be said (RFC 8200 section 4.7).
        (Protocol::NONE, Network::Ipv6) => nothing_there.into(),
        _ => reply::error(packet, Problem::ProtocolUnreachable, nothing_there, context),
    }
}

/// Whether it is an echo request.
pub(super) fn asks(packet: &Packet<'_, Parsed<'_>>) -> bool {
    match packet.headers().network {
        Network::Ipv4 => packet
            .l4::<icmp::Header>()
            .is_ok_and(|message| message.kind == icmp::Type::ECHO_REQUEST),
        Network::Ipv6 => packet
            .l4::<icmpv6::Header>()
            .is_ok_and(|message| message.kind == icmpv6::Type::ECHO_REQUEST),
        Network::Arp => false,
    }
}

/// An ICMP error about a flow that is not in the table: for a service nobody is to be told, for us there is nothing to do.
fn stray_error(to: To) -> Exit {
    match to {
        To::Owned => PuntReason::Local.into(),
        To::Vip => DropReason::ConntrackInvalid.into(),
    }
}
