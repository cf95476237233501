//! Packets that we originate: answers, written into the frame of the packet that they answer, and requests for neighbors.
//!
//! One file per kind; this one holds what they share: who may be answered at all, and how often.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

pub mod arp;
pub mod nd;
mod echo;
mod icmp;
mod limiter;
mod reset;

use arrayvec::ArrayVec;
use millrace_wire::{Addr, Mac, Protocol, View, ethernet};

pub use echo::echo;
pub use icmp::{Problem, error};
pub use limiter::Limiter;

use crate::exit::Exit;
use crate::interface::{Interface, Interfaces};
use crate::packet::{Network, Packet, Parsed, Part};
use crate::pipeline::Context;
use crate::trace::Observer;
use crate::verdict::{DropReason, ReplyKind};

/// TTL of what we originate, as Linux sends it (RFC 1700 recommends 64).
pub(crate) const TTL: u8 = 64;

/// The biggest answer: two VLAN tags and an ICMPv6 error of the minimum MTU (RFC 4443 section 2.4 c).
const MAX_ANSWER: usize = 22 + millrace_wire::ipv6::MIN_MTU;

/// An answer in the making, from the Ethernet header on.
pub(crate) type Bytes = ArrayVec<u8, MAX_ANSWER>;

/// Refuses a flow as a host does on which nothing listens: RST for TCP, ICMP port unreachable for the rest. `otherwise` is
/// the reason to drop when no answer is due or allowed.
pub fn refuse<O: Observer>(
    packet: &mut Packet<'_, Parsed<'_>>,
    otherwise: DropReason,
    context: &mut Context<'_, O>,
) -> Exit {
    match packet.headers().protocol {
        Protocol::TCP => reset::reset(packet, otherwise, context),
        _ => error(packet, Problem::PortUnreachable, otherwise, context),
    }
}

/// A request for `neighbor`: to all stations, or to `known` alone. `None` without an address of ours to ask from.
pub(crate) fn request(
    interfaces: &Interfaces,
    out: &Interface,
    neighbor: &Addr,
    known: Option<Mac>,
    tags: &[u8],
) -> Option<Bytes> {
    match neighbor.v4() {
        // An interface without an address of its own asks from another's, as Linux does (`inet_select_addr`).
        Some(target) => {
            let source = interfaces.source_for(out.id, neighbor)?.v4()?;
            arp::request(out.mac, source, target, known, tags)
        }
        None => nd::request(out, neighbor, known, tags),
    }
}

/// Puts `answer` in place of the packet.
pub(crate) fn replace<O: Observer>(
    packet: &mut Packet<'_, Parsed<'_>>,
    answer: &Bytes,
    kind: ReplyKind,
    context: &mut Context<'_, O>,
) -> Exit {
    if packet.replace(answer, &mut context.state.local.pool) {
        kind.into()
    } else {
        DropReason::NoRoom.into()
    }
}

/// Whether an error may be sent about this packet: not about errors, groups or later fragments (RFC 1122 section 3.2.2,
/// RFC 4443 section 2.4 e). Sources that name no single host were dropped by `parse`.
fn may_complain(packet: &Packet<'_, Parsed<'_>>) -> bool {
    let headers = packet.headers();
    let icmp_type = || packet.bytes().get(usize::from(headers.l4)).copied();
    let errs = match (headers.protocol, headers.network) {
        (Protocol::ICMP, Network::Ipv4) => icmp_type().is_none_or(|kind| !is_query(kind)),
        // Types below 128 are errors; a redirect is answered by nothing either.
        (Protocol::ICMPV6, Network::Ipv6) => {
            icmp_type().is_none_or(|kind| kind < 128 || kind == 137)
        }
        _ => false,
    };
    !errs && !headers.to_group && headers.part != Part::Later
}

/// ICMP types that ask or answer (RFC 792, RFC 950); the rest are errors or unknown.
fn is_query(kind: u8) -> bool {
    matches!(kind, 0 | 8 | 9 | 10 | 13..=18)
}

/// The link header of an answer: back to who sent the packet, with its VLAN tags.
fn link(packet: &Packet<'_, Parsed<'_>>, src: Mac) -> Result<Bytes, Exit> {
    let dst = packet.ethernet()?.src;
    link_to(packet, src, dst)
}

/// The same, to another station.
fn link_to(packet: &Packet<'_, Parsed<'_>>, src: Mac, dst: Mac) -> Result<Bytes, Exit> {
    let tags =
        packet.bytes().get(12..usize::from(packet.headers().l3)).ok_or(DropReason::Truncated)?;
    fresh_link(src, dst, tags).ok_or(DropReason::Truncated.into())
}

/// A link header with these tags, which end in the EtherType.
fn fresh_link(src: Mac, dst: Mac, tags: &[u8]) -> Option<Bytes> {
    let mut bytes = Bytes::new();
    push(&mut bytes, &dst)?;
    push(&mut bytes, &src)?;
    bytes.try_extend_from_slice(tags).ok()?;
    (bytes.len() >= ethernet::Header::LEN).then_some(bytes)
}

/// Appends a header.
fn push<T: View>(bytes: &mut Bytes, header: &T) -> Option<()> {
    bytes.try_extend_from_slice(header.as_bytes()).ok()
}
