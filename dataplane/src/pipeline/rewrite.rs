//! Every header write of the program: MACs, TTL, addresses and ports, checksums.
//!
//! Needs the tuple to leave with, if it is another, and the adjacency. Writes nothing before all that it needs was seen to be there.
//! VLAN tags, IPv4 options, padding and payload stay as they came. Checksums are mended (RFC 1624), never made anew: one that
//! was wrong stays wrong, so that corruption shows at the receiver. The exception is a checksum that the sender's kernel left
//! partial (CHECKSUM_PARTIAL, on virtual interfaces): what it lacks is asked of the transmit queue, or summed by `tx`.
//!
//! * `rewrite/nat.rs` translates the packet's own headers, `rewrite/quote.rs` those quoted in an ICMP error,
//! * `rewrite/partial.rs` knows partial checksums,
//! * `rewrite/plain.rs` does the same to plain packets in fewer steps.

mod nat;
mod quote;
pub(super) mod partial;
pub(super) mod plain;

use millrace_wire::{ethernet, ipv4, ipv6};

use super::Context;
use super::neighbor::Adjacency;
use crate::exit::Exit;
use crate::flow::Tuple;
use crate::packet::{Network, Packet, Parsed, Rewritten, view_mut};
use crate::trace::{Observer, Step};
use crate::verdict::DropReason;

/// For a way out that is too narrow: what is left to do to the checksum is done now, over the whole packet.
#[cold]
fn in_pieces<'a>(
    mut packet: Packet<'a, Parsed<'a>>,
    adjacency: &Adjacency,
    offload: millrace_xsk::TxOffload,
) -> Result<Packet<'a, Rewritten>, Exit> {
    if let millrace_xsk::TxOffload::Checksum { start, offset } = offload {
        let (umem, frame) = packet.parts();
        partial::finish(umem, frame, start, offset)?;
    }
    Ok(packet.rewritten_in_pieces(adjacency.interface))
}

/// Makes the packet what the next hop shall receive. `fib::check_transit` has seen that it may travel on.
#[inline(always)]
pub fn apply<'a, O: Observer>(
    mut packet: Packet<'a, Parsed<'a>>,
    translation: Option<Tuple>,
    adjacency: &Adjacency,
    context: &mut Context<'_, O>,
) -> Result<Packet<'a, Rewritten>, Exit> {
    let headers = packet.headers();
    let partial = context.receiving()?.partial_checksums && partial::is_partial(&packet);
    if partial {
        packet.trim(&mut context.state.local.pool);
    }
    let bytes = packet.bytes_mut();
    if let Some(translated) = &translation {
        match &headers.quote {
            None => nat::translate(bytes, headers, translated, partial)?,
            // About a flow that is not translated, and may have no ports.
            Some(_) if *translated == headers.tuple => {}
            Some(quoted) => quote::translate(bytes, headers, quoted, translated)?,
        }
    }
    let may_travel = match headers.network {
        Network::Ipv4 => view_mut::<ipv4::Header>(bytes, headers.l3)?.decrement_ttl(),
        Network::Ipv6 | Network::Arp => {
            view_mut::<ipv6::Header>(bytes, headers.l3)?.decrement_hop_limit()
        }
    };
    if !may_travel {
        return Err(DropReason::TtlExceeded.into());
    }
    view_mut::<ethernet::Header>(bytes, 0)?.set_addresses(adjacency.dst, adjacency.src);
    let offload = if partial { partial::complete(&packet)? } else { millrace_xsk::TxOffload::None };
    context.observer.see(|| Step::Rewritten {
        translated: translation.unwrap_or(headers.tuple),
        interface: adjacency.interface,
    });
    if headers.ip_len() > adjacency.mtu {
        return in_pieces(packet, adjacency, offload);
    }
    Ok(packet.rewritten(adjacency.interface, offload))
}
