//! ARP and ND on the way in, the next hop's MAC on the way out.
//!
//! [`intercept`] takes the packets by which stations find each other off the line: it answers for our addresses and learns
//! from what it sees (`neighbor/arp.rs`, `neighbor/nd.rs`). It also punts what is sent to groups. [`resolve`] turns a route
//! into an [`Adjacency`]; a packet whose next hop is unknown waits in `neighbor/hold.rs`, unchanged, and takes the line from
//! its beginning once the answer is there. `neighbor/met.rs` spares the worker most searches. The table itself, its states and its ageing are `state`'s.

pub(super) mod arp;
pub(super) mod nd;
pub(super) mod hold;
pub(super) mod met;
pub(super) mod recent;

use std::sync::Arc;

use millrace_tables::{InterfaceId, Snapshot};
use millrace_wire::Mac;

use super::context::request;
use super::fib::Route;
use super::{Context, trunk, tx};
use crate::clock::Nanos;
use crate::counters::{Counter, Place};
use crate::driver::{Burst, Queue};
use crate::exit::Exit;
use crate::packet::{Headers, Network, Packet, Parsed, Raw};
use crate::reply::{self, Problem};
use crate::state::State;
use crate::state::conntrack::CachedHop;
use crate::state::neighbor::{Answer, NeighborId};
use crate::trace::{Observer, Step};
use crate::verdict::{DropReason, PuntReason};

/// All that the link layer needs to know to send a packet on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adjacency {
    /// The way out.
    pub interface: InterfaceId,
    /// Our MAC there, as a number.
    pub src: u64,
    /// The neighbor's.
    pub dst: u64,
    /// The biggest IP packet that fits.
    pub mtu: u32,
    /// The neighbor's row.
    pub neighbor: NeighborId,
}

impl Adjacency {
    /// Nowhere.
    pub(crate) const NOWHERE: Adjacency = Adjacency {
        interface: InterfaceId(u16::MAX),
        src: 0,
        dst: 0,
        mtu: 0,
        neighbor: NeighborId::from_bits(0),
    };

    /// The adjacency that an earlier packet's decision names. `None` when the neighbor has to be found anew.
    #[inline(always)]
    pub fn again<O: Observer>(
        hop: CachedHop,
        context: &mut Context<'_, O>,
        packet: &Packet<'_, Parsed<'_>>,
    ) -> Option<Adjacency> {
        let recent = context.state.local.recent.get(hop);
        if recent.is_some() {
            return recent;
        }
        Adjacency::look(hop, context, packet)
    }

    /// [`Adjacency::again`], for the first time in this burst.
    #[inline(never)]
    fn look<O: Observer>(
        hop: CachedHop,
        context: &mut Context<'_, O>,
        packet: &Packet<'_, Parsed<'_>>,
    ) -> Option<Adjacency> {
        let used = context.state.neighbors.use_at(hop.neighbor, context.now)?;
        let out = context.interfaces.get(hop.interface)?;
        let (src, dst) = trunk::onward(hop, used.mac, context)
            .unwrap_or_else(|| (out.mac_bits(), used.mac.to_u64()));
        let adjacency =
            Adjacency { interface: hop.interface, src, dst, mtu: out.mtu, neighbor: hop.neighbor };
        if used.probe {
            Adjacency::probe(hop, used.mac, context, packet);
        }
        context.state.local.recent.put(hop, adjacency);
        Some(adjacency)
    }

    /// Asks the neighbor alone whether it is still there.
    #[cold]
    fn probe<O: Observer>(
        hop: CachedHop,
        mac: Mac,
        context: &mut Context<'_, O>,
        packet: &Packet<'_, Parsed<'_>>,
    ) {
        if let Some(addr) = context.state.neighbors.addr(hop.neighbor) {
            context.request(hop.interface, &addr, Some(mac), packet);
        }
    }
}

/// Takes ARP and ND off the line, and what is sent to groups.
#[inline(always)]
pub fn intercept<O: Observer>(
    packet: &mut Packet<'_, Parsed<'_>>,
    context: &mut Context<'_, O>,
) -> Result<(), Exit> {
    match packet.headers().network {
        Network::Ipv4 => Ok(()),
        Network::Arp => {
            context.state.local.recent.forget();
            Err(arp::receive(packet, context))
        }
        Network::Ipv6 => {
            if nd::concerns(packet) {
                context.state.local.recent.forget();
                if let Some(verdict) = nd::receive(packet, context) {
                    return Err(verdict);
                }
            }
            let headers = packet.headers();
            if headers.to_group || headers.tuple.dst.is_multicast() {
                return Err(PuntReason::Multicast.into());
            }
            Ok(())
        }
    }
}

/// The MAC of the next hop; without one, the packet waits and somebody asks.
#[inline]
pub fn resolve<O: Observer>(
    packet: &mut Packet<'_, Parsed<'_>>,
    route: &Route,
    context: &mut Context<'_, O>,
) -> Result<Adjacency, Exit> {
    let Route { interface, neighbor } = *route;
    if let Some(id) = context.state.local.met.get(interface, &neighbor) {
        let hop = CachedHop { interface, neighbor: id };
        if let Some(adjacency) = Adjacency::again(hop, context, packet) {
            return Ok(adjacency);
        }
    }
    resolve_unmet(packet, route, context)
}

/// [`resolve`] of a neighbor that this worker has not sent to lately.
#[inline(never)]
fn resolve_unmet<O: Observer>(
    packet: &mut Packet<'_, Parsed<'_>>,
    route: &Route,
    context: &mut Context<'_, O>,
) -> Result<Adjacency, Exit> {
    let Route { interface, neighbor } = *route;
    if let Some(id) = context.state.neighbors.find(interface, &neighbor) {
        context.state.local.met.put(interface, &neighbor, id);
        let hop = CachedHop { interface, neighbor: id };
        if let Some(adjacency) = Adjacency::again(hop, context, packet) {
            return Ok(adjacency);
        }
    }
    resolve_unknown(packet, route, context)
}

/// [`resolve`] of a neighbor that has to be asked for, or that is not to be used any more.
#[cold]
fn resolve_unknown<O: Observer>(
    packet: &mut Packet<'_, Parsed<'_>>,
    route: &Route,
    context: &mut Context<'_, O>,
) -> Result<Adjacency, Exit> {
    let Route { interface, neighbor } = *route;
    if let Some(adjacency) = trunk::instead(route, context, packet) {
        return Ok(adjacency);
    }
    let out = context.interfaces.get(interface).ok_or(DropReason::NoInterface)?;
    match context.state.neighbors.resolve(interface, &neighbor, context.now) {
        Answer::Complete { id, mac, probe } => {
            if probe {
                context.request(interface, &neighbor, Some(mac), packet);
            }
            let (src, dst) = (out.mac_bits(), mac.to_u64());
            Ok(Adjacency { interface, src, dst, mtu: out.mtu, neighbor: id })
        }
        Answer::Request { id } => {
            context.request(interface, &neighbor, None, packet);
            Err(Exit::hold(interface, id))
        }
        Answer::Waiting { id } => Err(Exit::hold(interface, id)),
        Answer::Failed => {
            Err(reply::error(packet, Problem::HostUnreachable, DropReason::Unresolved, context))
        }
        Answer::Full => Err(DropReason::NeighborTableFull.into()),
    }
}

/// Takes the frames out of the waiting room whose neighbor is known now: up to a burst that came in on one interface, with
/// that interface. Asks again for the others when it is time.
pub(super) fn release(state: &mut State, now: Nanos) -> Option<(InterfaceId, Burst)> {
    if state.local.hold.is_empty() {
        return None;
    }
    let interfaces = Arc::clone(&state.local.interfaces);
    let umem = Arc::clone(state.local.pool.umem());
    for at in 0..state.local.hold.rooms() {
        let Some((interface, neighbor)) = state.local.hold.room(at) else { continue };
        match state.neighbors.resolve(interface, &neighbor, now) {
            Answer::Complete { .. } => {
                let (from, frames) = state.local.hold.take(at);
                unbook(state, from, frames.len());
                return Some((from, frames));
            }
            Answer::Request { .. } => {
                let tags = state.local.hold.first(at).map(|frame| hold::tags(umem.bytes(frame)));
                let tags = tags.unwrap_or_default();
                request(&interfaces, &mut state.local, interface, &neighbor, None, &tags);
            }
            Answer::Failed => state.local.hold.expire(at),
            Answer::Waiting { .. } | Answer::Full => {}
        }
    }
    None
}

/// Ends the wait of frames whose neighbor never answered: the first of each neighbor is answered with ICMP host unreachable
/// (RFC 1812 section 5.2.7.1, RFC 4443 section 3.1), the others are dropped. Returns how many there were.
pub(super) fn give_up<Q: Queue, O: Observer>(
    queues: &mut [Q],
    tables: Snapshot<'_>,
    state: &mut State,
    now: Nanos,
    observer: &mut O,
) -> usize {
    let mut ended = 0;
    let timeout = state.local.settings.hold_timeout;
    while let Some(mut frames) = state.local.hold.take_expired(now, timeout) {
        for (place, (from, mut frame)) in frames.drain(..).enumerate() {
            ended += 1;
            unbook(state, from, 1);
            let exit = if place == 0 {
                unreachable(from, &mut frame, tables, state, now, observer)
            } else {
                DropReason::Unresolved.into()
            };
            let neighbors = &state.neighbors;
            observer.see(|| Step::Verdict(exit.verdict(|neighbor| neighbors.addr(neighbor))));
            tx::stage(from, queues, frame, exit, state, now);
            tx::book(from, state);
        }
        state.local.hold.recycle(frames);
    }
    ended
}

fn unreachable<O: Observer>(
    from: InterfaceId,
    frame: &mut millrace_xsk::Frame,
    tables: Snapshot<'_>,
    state: &mut State,
    now: Nanos,
    observer: &mut O,
) -> Exit {
    let interfaces = Arc::clone(&state.local.interfaces);
    let umem = Arc::clone(state.local.pool.umem());
    let Some(interface) = interfaces.get(from) else { return DropReason::NoInterface.into() };
    let packet: Packet<'_, Raw> = Packet::new(&umem, frame);
    let mut headers = Headers::BLANK;
    match super::parse::parse(&packet, interface, &state.seed, &mut headers) {
        Ok(()) => {
            let mut context = Context {
                tables,
                state,
                from,
                interfaces: &interfaces,
                now,
                observer,
                again: false,
            };
            reply::error(
                &mut packet.parsed(&headers),
                Problem::HostUnreachable,
                DropReason::Unresolved,
                &mut context,
            )
        }
        Err(verdict) => verdict,
    }
}

/// Frames leave the waiting room: the gauge goes down, and their verdict is booked instead.
pub(super) fn unbook(state: &mut State, from: InterfaceId, frames: usize) {
    state.counters.interface(from).add(Counter::Held.place(), (frames as u64).wrapping_neg());
}
