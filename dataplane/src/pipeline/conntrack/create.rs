//! Putting a new flow into the table, and giving it the source that it leaves with.
//!
//! A flow keeps its source port where answers could still be told apart; a masqueraded one gets an address of the way out and
//! a port by chance. The table itself is the allocator: a port is free when the reply tuple that it makes can be inserted,
//! and two workers can't insert the same one, so nothing has to be kept in step.
//!
//! Cost: an insert; for each port that is taken a lookup more. The first tries are spread by chance, which finds a
//! port of a set that is nine tenths full in ten; the last free ones are searched for one after the other, within
//! [`Budget`](crate::snat::Budget), and for 100 ms not again in a set that had none.

use millrace_tables::{InterfaceKind, Route as Row, ServiceId};
use millrace_wire::{Addr, Protocol};

use super::Context;
use crate::clock::Nanos;
use crate::exit::Exit;
use crate::flow::Tuple;
use crate::packet::Headers;
use crate::pipeline::fib::Route;
use crate::pipeline::trunk;
use crate::snat::Ports;
use crate::state::State;
use crate::state::conntrack::{CreateError, Hit, NewFlow};
use crate::trace::{Observer, Step};
use crate::verdict::DropReason;

/// Ports that are tried by chance before a flow that is not masqueraded is given up.
const TRIES: u32 = 128;
/// Ports that are tried by chance before all are gone through.
const CHANCES: u32 = 48;
/// First of the ports for a flow that keeps its address.
const FIRST_PORT: u64 = 1024;

/// A flow to be stored.
#[derive(Clone, Copy, Debug)]
pub(super) struct New {
    pub(super) service: Option<ServiceId>,
    /// With the backend in place of the frontend.
    pub(super) translated: Tuple,
    pub(super) masquerade: bool,
}

/// Stores the flow. `None`: it is there already.
#[inline(never)]
pub(super) fn create<O: Observer>(
    headers: &Headers,
    new: New,
    route: &Route,
    context: &mut Context<'_, O>,
) -> Result<Option<Hit>, Exit> {
    let mut flow = NewFlow {
        original: headers.tuple,
        reply: new.translated.reversed(),
        service: new.service,
        tcp: (headers.protocol == Protocol::TCP).then_some(headers.tcp),
        masqueraded: false,
    };
    if (new.masquerade
        || new.service.is_some() && trunk::must_masquerade(&new.translated, route, context))
        && let Some(source) = source(&new.translated, route, context)?
    {
        flow.masqueraded = true;
        flow.reply.dst = source;
    }
    let mut again = false;
    let created = if flow.masqueraded {
        let ports = ports(&flow.reply.dst, context);
        match masquerade(&mut flow, &ports, headers.hash, context.state, context.now) {
            Err(exit) if exit == DropReason::SnatExhausted.into() => {
                again = true;
                overflow(&mut flow, exit, headers.hash, context)
            }
            created => created,
        }
    } else {
        keep_source(&mut flow, headers.hash, context.state, context.now)
    }?;
    if created.is_some() {
        context.observer.see(|| Step::Created {
            translated: flow.reply.reversed(),
            masqueraded: flow.masqueraded,
        });
    }
    Ok(created.filter(|_| !again))
}

/// The ports that a flow may get that is masqueraded to this address.
fn ports<O: Observer>(source: &Addr, context: &Context<'_, O>) -> Set {
    let settings = &context.state.local.settings;
    if trunk::is_its_own(source, context) {
        Set { ports: settings.trunk_ports, shared: false }
    } else {
        Set { ports: settings.snat_ports, shared: true }
    }
}

/// Gives a flow that finds no port of ours on the node's address one of the trunk's, for which the kernel gives it one on the node's: of those
/// that it gives out itself, and knows whose they are. The packet then takes the line once more, by the trunk. Where the engine
/// is alone, `exhausted` stands.
#[cold]
fn overflow<O: Observer>(
    flow: &mut NewFlow,
    exhausted: Exit,
    hash: u64,
    context: &mut Context<'_, O>,
) -> Result<Option<Hit>, Exit> {
    let own = context.interfaces.trunk().and_then(|trunk| trunk.onward(flow.reply.dst.is_v4()));
    let ports = context.state.local.settings.overflow_ports;
    match (own, ports) {
        (Some(own), Some(ports)) if own != flow.reply.dst => {
            flow.reply.dst = own;
            let ports = Set { ports, shared: false };
            masquerade(flow, &ports, hash, context.state, context.now)
        }
        _ => Err(exhausted),
    }
}

/// A set of source ports.
struct Set {
    ports: Ports,
    /// Processes of this node have the same address.
    shared: bool,
}

impl Set {
    /// Whether a process of this node has the port of the flow's reply.
    fn is_taken(&self, flow: &NewFlow, state: &State) -> bool {
        self.shared && state.local.host_ports.contains(flow.reply.protocol, flow.reply.dport)
    }
}

/// The address that a masqueraded flow leaves with. `None`: its own, for what this node's own stack serves.
/// There a kernel would not masquerade either: the packet never goes out.
#[cold]
fn source<O: Observer>(
    translated: &Tuple,
    route: &Route,
    context: &Context<'_, O>,
) -> Result<Option<Addr>, Exit> {
    // The route's, though the packet may leave by the trunk while the neighbor is not known: it goes on from there.
    let (interface, peer) = (route.interface, route.neighbor);
    let out = context.interfaces.get(interface);
    let to_stack = out.is_some_and(|out| out.kind == InterfaceKind::HOST)
        && context.tables.route(&translated.dst) == Some(Row::Local);
    if to_stack && context.tables.route(&translated.src) != Some(Row::Local) {
        return Ok(None);
    }
    // The trunk's is known here alone.
    if let Some(out) =
        out.filter(|out| context.interfaces.trunk().is_some_and(|it| it.id == out.id))
    {
        return out.source_for(&peer).map(Some).ok_or(DropReason::NoSnatAddress.into());
    }
    let node = context.tables.node();
    if let Some(source) = node.source_on(interface, &peer) {
        return Ok(Some(source));
    }
    let source = node.source(&peer).or_else(|| context.interfaces.source_for(interface, &peer));
    source.map(Some).ok_or(DropReason::NoSnatAddress.into())
}

/// Tries to insert; `hash` is that of the original tuple. `Err(None)`: its reply tuple is another flow's.
fn try_this(
    flow: &NewFlow,
    hash: u64,
    state: &mut State,
    now: Nanos,
) -> Result<Option<Hit>, Option<Exit>> {
    match state.conntrack.create_hashed(flow, hash, now) {
        Ok(entry) => Ok(Some(entry.hit())),
        Err(CreateError::Exists(_)) => Ok(None),
        Err(CreateError::ReplyTaken) => Err(None),
        Err(CreateError::Full | CreateError::HalfOpenFull) => {
            Err(Some(DropReason::ConntrackFull.into()))
        }
    }
}

/// Inserts the flow with the source that it has. When its reply tuple is another flow's already, the source port is changed until
/// it is not (Linux' `nf_nat_l4proto_unique_tuple`), so that answers can be told apart.
fn keep_source(
    flow: &mut NewFlow,
    hash: u64,
    state: &mut State,
    now: Nanos,
) -> Result<Option<Hit>, Exit> {
    let mut random = Random(hash);
    for _ in 0..TRIES {
        match try_this(flow, hash, state, now) {
            Ok(created) => return Ok(created),
            Err(Some(exit)) => return Err(exit),
            Err(None) => {
                let port = FIRST_PORT + u64::from(random.next()) % (65_536 - FIRST_PORT);
                flow.reply.dport = port as u16;
            }
        }
    }
    Err(DropReason::NoFreePort.into())
}

/// Inserts the flow, whose source is ours already, with a port by chance (nftables' `masquerade fully-random`).
fn masquerade(
    flow: &mut NewFlow,
    set: &Set,
    hash: u64,
    state: &mut State,
    now: Nanos,
) -> Result<Option<Hit>, Exit> {
    let ports = &set.ports;
    // Who opens a connection again from the same port gets another one here: what the other end remembers is not met.
    let mut random = Random(hash ^ now);
    let mut over = Over::default();
    for chance in 0..CHANCES {
        flow.reply.dport = ports.nth(random.next());
        if set.is_taken(flow, state) || chance > 0 && over.is_taken(flow, state, now) {
            continue;
        }
        match try_this(flow, hash, state, now) {
            Ok(created) => return Ok(created),
            Err(Some(exit)) => return Err(exit),
            Err(None) => {}
        }
    }
    // A set that is full of connections that are over is not searched for the last free port.
    match over.give_way(flow, hash, state, now)? {
        Some(created) => Ok(created),
        None if state.local.snat_exhausted.knows(&flow.reply, now) => {
            Err(DropReason::SnatExhausted.into())
        }
        None => go_through(flow, set, hash, random.next(), state, now),
    }
}

/// Goes through all ports for one that is free. Where there is none, the connection that has been over for longest makes room.
#[cold]
fn go_through(
    flow: &mut NewFlow,
    set: &Set,
    hash: u64,
    start: u32,
    state: &mut State,
    now: Nanos,
) -> Result<Option<Hit>, Exit> {
    let ports = &set.ports;
    let count = ports.count();
    let budget = state.local.snat_budget.take(count.into(), now);
    let mut over = Over::default();
    for step in 0..budget as u32 {
        flow.reply.dport = ports.nth((start % count).wrapping_add(step));
        if set.is_taken(flow, state) || over.is_taken(flow, state, now) {
            continue;
        }
        match try_this(flow, hash, state, now) {
            Ok(created) => {
                state.local.snat_budget.give(budget - u64::from(step) - 1);
                return Ok(created);
            }
            Err(Some(exit)) => return Err(exit),
            Err(None) => {}
        }
    }
    if let Some(created) = over.give_way(flow, hash, state, now)? {
        return Ok(created);
    }
    if budget == u64::from(count) {
        state.local.snat_exhausted.note(&flow.reply, now);
    }
    Err(DropReason::SnatExhausted.into())
}

/// Of the connections that a search for a free port met, the one that has been over for longest: its seconds, its entry, its port.
#[derive(Default)]
struct Over(Option<(u32, Hit, u16)>);

impl Over {
    /// Whether the reply tuple of the flow is another's, which is noted if it is over.
    fn is_taken(&mut self, flow: &NewFlow, state: &State, now: Nanos) -> bool {
        let Some(hit) = taken(flow, state, now) else { return false };
        if let Some(closed) = state.conntrack.table().closed_for(hit, now)
            && self.0.is_none_or(|(before, _, _)| closed > before)
        {
            self.0 = Some((closed, hit, flow.reply.dport));
        }
        true
    }

    /// Gives the flow the port of the one that was noted. `None`: there was none, or another was quicker to take its place.
    fn give_way(
        self,
        flow: &mut NewFlow,
        hash: u64,
        state: &mut State,
        now: Nanos,
    ) -> Result<Option<Option<Hit>>, Exit> {
        let Some((_, hit, port)) = self.0 else { return Ok(None) };
        // Not if the entry has become another's meanwhile: the hit says which use of it was met.
        if !state.conntrack.remove(hit) {
            return Ok(None);
        }
        flow.reply.dport = port;
        match try_this(flow, hash, state, now) {
            Ok(created) => Ok(Some(created)),
            Err(Some(exit)) => Err(exit),
            Err(None) => Ok(None),
        }
    }
}

/// Who has the reply tuple of the flow.
fn taken(flow: &NewFlow, state: &State, now: Nanos) -> Option<Hit> {
    state.conntrack.table().find(&flow.reply, state.seed.hash(&flow.reply), now)
}

/// Knuth's MMIX generator; its upper bits are given out, so that the tries of one flow are spread over all ports. It begins with a
/// keyed hash, which nobody outside can know.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 32) as u32
    }
}
