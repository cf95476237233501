//! tuple → [`Hit`] or [`Flow`]: which flow a packet is of, how it is translated, and whether the way is already decided.
//!
//! Needs the packet's tuple and the shared table (`state`). One table serves all workers and both directions, since the two
//! directions of a translated flow may arrive on different queues. Drops faulty L4 headers of known flows, and fragments that
//! `fragment` could give no ports: they could only leave untranslated. Leaves to `service` the choice of a backend for flows it does not know; [`commit`] comes back
//! to store that choice once route, policy and neighbor have agreed, so that refused packets leave no trace in the table.
//!
//! Flows that are translated are tracked, and those that a policy is about, or may come to be about (`policy` says so). Others have no entry: they
//! cost no memory, and nothing about them need be remembered.

mod create;

use millrace_tables::{Destination, ServiceId};
use millrace_wire::{Addr, Protocol, tcp};

use super::Context;
use super::fib::Route;
use super::fragment;
use super::local;
use super::neighbor::Adjacency;
use crate::exit::Exit;
use crate::flow::{Direction, Tuple};
use crate::packet::{Headers, Packet, Parsed, Part};
use crate::state::State;
use crate::state::conntrack::{CachedHop, Hint, Hit, Table, Touch};
use crate::trace::{Observer, Step};
use crate::verdict::DropReason;

/// What is known about the flow of a packet whose way is not decided yet.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    /// Where it stands.
    pub known: Known,
    /// What `service` has learned of the packet's own destination, so that `fib` need not ask again.
    pub destination: Option<Destination>,
    /// Whether its backend is gone and it is to begin anew soon: nothing about its way is remembered.
    pub leaving: bool,
    /// Whether it begins, and policies have decided about it.
    pub judged: bool,
    /// Whether it goes its way also when there is no room to remember it.
    pub optional: bool,
}

/// Where a flow stands.
#[derive(Clone, Copy, Debug)]
pub enum Known {
    /// Not in the table, and not to be.
    Untracked,
    /// In the table.
    Found(Hit),
    /// To be put into the table.
    New {
        /// The service that it goes to, if it is translated.
        service: Option<ServiceId>,
        /// The tuple that the packet must have when it leaves, but for a source that [`commit`] changes.
        translated: Tuple,
        /// Whether its source is to become an address of the way out.
        masquerade: bool,
    },
}

impl Flow {
    /// With what [`find`] has found.
    #[inline]
    pub fn of(hit: Option<Hit>) -> Flow {
        let known = hit.map_or(Known::Untracked, Known::Found);
        Flow { known, destination: None, leaving: false, judged: false, optional: false }
    }

    /// Whether it is in the table, or is to be: only such flows leave with another tuple than they came with.
    #[inline]
    pub fn is_tracked(&self) -> bool {
        !matches!(self.known, Known::Untracked)
    }

    /// The tuple that the packet must have when it leaves, if it is another.
    #[inline]
    pub fn translation(&self, state: &State) -> Option<Tuple> {
        match &self.known {
            Known::Untracked => None,
            Known::Found(hit) => state.conntrack.table().translated(*hit),
            Known::New { translated, .. } => Some(*translated),
        }
    }

    /// Where the packet goes, translated. `packet` is the flow's, or an ICMP error about it.
    #[inline]
    pub fn destination(
        &self,
        packet: &Packet<'_, Parsed<'_>>,
        state: &State,
    ) -> Result<Addr, Exit> {
        if self.is_tracked()
            && let Some(Tuple { dst, .. }) = self.translation(state)
            && dst != packet.headers().tuple.dst
        {
            return Ok(dst);
        }
        packet.destination()
    }
}

/// Looks the packet's flow up.
#[inline(always)]
pub fn find<O: Observer>(
    packet: &Packet<'_, Parsed<'_>>,
    context: &mut Context<'_, O>,
) -> Result<Option<Hit>, Exit> {
    let headers = packet.headers();
    if !headers.trackable {
        return Ok(None);
    }
    let conntrack = &mut context.state.conntrack;
    let over = headers.hint.is_absent() && conntrack.has_made(headers.hash);
    let hint = if context.again || over { Hint::UNKNOWN } else { headers.hint };
    let found = conntrack.table().find_at(hint, &headers.tuple, headers.hash, context.now);
    let Some(hit) = found else {
        context.observer.see(|| Step::Untracked);
        return Ok(None);
    };
    if headers.fault.is_some() || headers.part != Part::Whole {
        untranslatable(headers, hit, conntrack.table())?;
    }
    // An ICMP error says nothing about whether the flow still lives.
    if headers.quote.is_none() {
        let unnamed = headers.tuple.sport | headers.tuple.dport == 0;
        if unnamed && hit.direction() == Direction::Reply && local::asks(packet) {
            // Echo identifier 0: who asks has the tuple of who answers, but is another flow.
            context.observer.see(|| Step::Untracked);
            return Ok(None);
        }
        let is_sound = headers.part != Part::Later && headers.fault.is_none();
        let has_flags = headers.protocol == Protocol::TCP && is_sound;
        let flags = has_flags.then_some(headers.tcp);
        if let Touch::Reopened = conntrack.touch(hit, headers.protocol, flags, context.now) {
            conntrack.remove(hit);
            context.observer.see(|| Step::Untracked);
            return Ok(None);
        }
    }
    Ok(Some(hit))
}

/// What is faulty, or a fragment that can't be translated, goes on only if it leaves as it came.
#[cold]
fn untranslatable(headers: &Headers, hit: Hit, table: &Table) -> Result<(), Exit> {
    if table.translated(hit) == Some(headers.tuple) {
        return Ok(());
    }
    if !fragment::is_translatable(headers) {
        return Err(DropReason::FragmentUnsupported.into());
    }
    headers.fault.map_or(Ok(()), |fault| Err(fault.into()))
}

/// The way out that the flow's entry holds, if the tables in force decided it and the neighbor is still known.
#[inline(always)]
pub fn decided<O: Observer>(
    packet: &Packet<'_, Parsed<'_>>,
    hit: Hit,
    context: &mut Context<'_, O>,
) -> Option<Adjacency> {
    let decision = context.state.conntrack.table().decision(hit);
    let hop = decision.hop(context.tables.generation());
    let adjacency = hop.and_then(|hop| Adjacency::again(hop, context, packet));
    let table = context.state.conntrack.table();
    context.observer.see(|| Step::Tracked {
        direction: hit.direction(),
        translated: table.translated(hit).unwrap_or(packet.headers().tuple),
        service: table.entry(hit).and_then(|entry| entry.service),
        masqueraded: table.entry(hit).is_some_and(|entry| entry.masqueraded),
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

/// Stores a flow to this node itself, whose packets leave by no route. False when another worker has just stored it.
pub(super) fn commit_own<O: Observer>(
    packet: &Packet<'_, Parsed<'_>>,
    flow: &Flow,
    context: &mut Context<'_, O>,
) -> Result<bool, Exit> {
    let Known::New { service, translated, masquerade: false } = flow.known else { return Ok(true) };
    let new = create::New { service, translated, masquerade: false };
    let route = Route { interface: context.from, neighbor: translated.dst };
    match create::create(packet.headers(), new, &route, context) {
        Ok(hit) => Ok(hit.is_some()),
        Err(_) if flow.optional => Ok(true),
        Err(exit) => Err(exit),
    }
}

/// Stores a new flow, and the way out that was found for this direction of a known one. False when the line must be taken again.
#[inline]
pub fn commit<O: Observer>(
    packet: &Packet<'_, Parsed<'_>>,
    flow: &mut Flow,
    route: &Route,
    adjacency: &Adjacency,
    context: &mut Context<'_, O>,
) -> Result<bool, Exit> {
    let hit = match flow.known {
        Known::Untracked => return Ok(true),
        Known::Found(_) if flow.leaving => return Ok(true),
        Known::Found(hit) => hit,
        Known::New { service, translated, masquerade } => {
            let new = create::New { service, translated, masquerade };
            match create::create(packet.headers(), new, route, context) {
                Ok(Some(hit)) => {
                    flow.known = Known::Found(hit);
                    hit
                }
                Ok(None) => return Ok(false),
                Err(_) if flow.optional => {
                    flow.known = Known::Untracked;
                    return Ok(true);
                }
                Err(exit) => return Err(exit),
            }
        }
    };
    let hop = CachedHop { interface: adjacency.interface, neighbor: adjacency.neighbor };
    context.state.conntrack.confirm(hit, context.tables.generation(), hop);
    Ok(true)
}
