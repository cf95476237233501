//! tuple → [`Entry`] or [`Flow`]: which flow a packet is of, how it is translated, and whether the way is already decided.
//!
//! Needs the packet's tuple and the shared table (`state`). One table serves all workers and both directions, since the two
//! directions of a translated flow may arrive on different queues. Drops fragments and faulty L4 headers of known flows: they
//! could only leave untranslated. Leaves to `service` the choice of a backend for flows it does not know; [`commit`] comes back
//! to store that choice once route, policy and neighbor have agreed, so that refused packets leave no trace in the table.
//!
//! Only flows that are translated are tracked. Routed ones have no entry: they cost no memory, and nothing about them need be
//! remembered until a policy asks.

use millrace_tables::{Destination, ServiceId};
use millrace_wire::{Addr, Protocol, tcp};

use super::Context;
use super::neighbor::Adjacency;
use crate::exit::Exit;
use crate::flow::Tuple;
use crate::packet::{Headers, Packet, Parsed, Part};
use crate::state::conntrack::{CachedHop, CreateError, Entry, NewFlow, Touch};
use crate::trace::{Observer, Step};
use crate::verdict::DropReason;

/// What is known about the flow of a packet whose way is not decided yet.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    /// The packet's tuple.
    pub tuple: Tuple,
    /// The tuple that it must have when it leaves.
    pub translated: Tuple,
    /// Where that comes from.
    pub known: Known,
    /// What `service` has learned of the packet's own destination, so that `fib` need not ask again.
    pub destination: Option<Destination>,
}

/// Where a flow stands.
#[derive(Clone, Copy, Debug)]
pub enum Known {
    /// Not in the table, and not to be.
    Untracked,
    /// In the table.
    Found(Entry),
    /// To be put into the table.
    New {
        /// The service that it goes to.
        service: ServiceId,
    },
}

impl Flow {
    /// Of a packet, with what [`find`] has found.
    pub fn of(packet: &Packet<'_, Parsed<'_>>, entry: Option<Entry>) -> Flow {
        let tuple = packet.headers().tuple;
        let (translated, known) = match entry {
            Some(entry) => (entry.translated, Known::Found(entry)),
            None => (tuple, Known::Untracked),
        };
        Flow { tuple, translated, known, destination: None }
    }

    /// Whether the packet leaves with another tuple than it has.
    pub fn is_translated(&self) -> bool {
        !matches!(self.known, Known::Untracked)
    }

    /// The tuple that the packet must have when it leaves, if it is another.
    pub fn translation(&self) -> Option<&Tuple> {
        self.is_translated().then_some(&self.translated)
    }

    /// Where the packet goes, translated. `packet` is the flow's, or an ICMP error about it.
    pub fn destination(&self, packet: &Packet<'_, Parsed<'_>>) -> Result<Addr, Exit> {
        if self.tuple.dst == self.translated.dst {
            packet.destination()
        } else {
            Ok(self.translated.dst)
        }
    }
}

/// Looks the packet's flow up.
#[inline(always)]
pub fn find<O: Observer>(
    packet: &Packet<'_, Parsed<'_>>,
    context: &mut Context<'_, O>,
) -> Result<Option<Entry>, Exit> {
    let headers = packet.headers();
    if !headers.is_trackable() {
        return Ok(None);
    }
    let conntrack = &mut context.state.conntrack;
    let table = conntrack.table();
    let found = table.find_at(headers.hint, &headers.tuple, headers.hash, context.now);
    let Some(entry) = found else {
        context.observer.see(|| Step::Untracked);
        return Ok(None);
    };
    if headers.part != Part::Whole {
        return Err(DropReason::FragmentUnsupported.into());
    }
    if let Some(fault) = headers.fault {
        return Err(fault.into());
    }
    // An ICMP error says nothing about whether the flow still lives.
    if headers.quote.is_none() {
        let flags = (headers.protocol == Protocol::TCP).then_some(headers.tcp);
        if let Touch::Reopened = conntrack.touch(&entry, flags, context.now) {
            conntrack.remove(&entry);
            context.observer.see(|| Step::Untracked);
            return Ok(None);
        }
    }
    Ok(Some(entry))
}

/// The way out that the flow's entry holds, if the tables in force decided it and the neighbor is still known.
#[inline]
pub fn decided<O: Observer>(
    packet: &Packet<'_, Parsed<'_>>,
    entry: &Entry,
    context: &mut Context<'_, O>,
) -> Option<Adjacency> {
    let adjacency = entry
        .decision
        .hop(context.tables.generation())
        .and_then(|hop| Adjacency::again(hop, context, packet));
    context.observer.see(|| Step::Tracked {
        direction: entry.direction,
        translated: entry.translated,
        service: entry.service,
        decided: adjacency.is_some(),
    });
    adjacency
}

/// Whether a TCP segment may start a flow: a SYN, or a segment of a connection that began before us (Linux'
/// `nf_conntrack_tcp_loose`, on by default; Maglev finds the backend that it had). RST and FIN end what we don't know.
pub fn may_begin(flags: tcp::Flags) -> bool {
    let ends = flags.intersects(tcp::Flags::RST) || flags.intersects(tcp::Flags::FIN);
    let syn = flags.contains(tcp::Flags::SYN);
    !ends && syn != flags.contains(tcp::Flags::ACK)
}

/// Source ports that are tried before a flow is given up.
const PORT_TRIES: u64 = 128;
/// First of the ports to choose from.
const FIRST_PORT: u64 = 1024;

/// Stores a new flow, and the way out that was found for this direction of a known one. False when the line must be taken again.
pub fn commit<O: Observer>(
    packet: &Packet<'_, Parsed<'_>>,
    flow: &mut Flow,
    adjacency: &Adjacency,
    context: &mut Context<'_, O>,
) -> Result<bool, Exit> {
    let headers = packet.headers();
    let entry = match flow.known {
        Known::Untracked => return Ok(true),
        Known::Found(entry) => entry,
        Known::New { service } => {
            let original = Choice { tuple: flow.tuple, hash: headers.hash, service, headers };
            let Some(entry) = create(&original, &mut flow.translated, context)? else {
                return Ok(false);
            };
            let translated = flow.translated;
            context.observer.see(|| Step::Created { translated });
            flow.known = Known::Found(entry);
            entry
        }
    };
    let hop = CachedHop { interface: adjacency.interface, neighbor: adjacency.neighbor };
    context.state.conntrack.confirm(&entry, context.tables.generation(), hop);
    Ok(true)
}

struct Choice<'a> {
    tuple: Tuple,
    hash: u64,
    service: ServiceId,
    headers: &'a Headers,
}

/// Inserts both tuples. When the reply's is another flow's already, the source port is changed until it is not
/// (Linux' `nf_nat_l4proto_unique_tuple`), so that answers can be told apart. `None`: the flow is there already.
fn create<O: Observer>(
    choice: &Choice<'_>,
    translated: &mut Tuple,
    context: &mut Context<'_, O>,
) -> Result<Option<Entry>, Exit> {
    let mut random = choice.hash | 1;
    for _ in 0..PORT_TRIES {
        let reply = translated.reversed();
        let new = NewFlow {
            original: choice.tuple,
            reply,
            service: Some(choice.service),
            tcp: (choice.headers.protocol == Protocol::TCP).then_some(choice.headers.tcp),
        };
        match context.state.conntrack.create(&new, context.now) {
            Ok(entry) => return Ok(Some(entry)),
            Err(CreateError::Exists(_)) => return Ok(None),
            Err(CreateError::Full | CreateError::HalfOpenFull) => {
                return Err(DropReason::ConntrackFull.into());
            }
            Err(CreateError::ReplyTaken) => {
                // Knuth's MMIX generator; its upper bits choose, so that the tries of one flow are spread over all ports.
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                translated.sport = (FIRST_PORT + (random >> 32) % (65_536 - FIRST_PORT)) as u16;
            }
        }
    }
    Err(DropReason::NoFreePort.into())
}
