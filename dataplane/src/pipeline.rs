//! The path of a packet, in order. Each module is one stop; read down.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod context;
pub mod rx;
pub mod parse;
pub mod neighbor;
pub mod conntrack;
pub mod service;
pub mod fib;
pub mod local;
pub mod policy;
pub mod rewrite;
pub mod tx;

use std::sync::Arc;

use arrayvec::ArrayVec;
use millrace_tables::{InterfaceId, Snapshot};

pub use context::{Context, Local, Settings};

use crate::clock::Nanos;
use crate::driver::{BURST, Burst, Queue};
use crate::packet::{Headers, Packet};
use crate::state::State;
use crate::trace::{Observer, Step};
use crate::verdict::Verdict;

/// Moves one burst from the rx ring of interface `from` to wherever each packet belongs.
///
/// `queues` are the worker's, one for each interface: the one at place `i` is of `InterfaceId(i)`. Returns how many
/// packets came in, so that the worker can tell idle from busy.
pub fn burst<Q: Queue, O: Observer>(
    from: InterfaceId,
    queues: &mut [Q],
    tables: Snapshot<'_>,
    state: &mut State,
    now: Nanos,
    observer: &mut O,
) -> usize {
    let mut frames = Burst::new();
    rx::receive(from, queues, state, &mut frames);
    let received = frames.len();
    run(from, frames, queues, tables, state, now, observer);
    tx::flush(queues, state);
    received
}

/// Sends on what waited for a neighbor that is known now, asks again for those that are not, and gives up on those that never
/// answered. Looks after every transmit queue. To be called once
/// a turn; returns how many packets left the queue.
pub fn tick<Q: Queue, O: Observer>(
    queues: &mut [Q],
    tables: Snapshot<'_>,
    state: &mut State,
    now: Nanos,
    observer: &mut O,
) -> usize {
    let mut released = 0;
    // A released packet can come to wait for another neighbor; each is looked at once a turn.
    let held = state.local.held();
    while released < held
        && let Some((from, frames)) = neighbor::release(state, now)
    {
        released += frames.len();
        run(from, frames, queues, tables, state, now, observer);
    }
    released += neighbor::give_up(queues, tables, state, now, observer);
    tx::flush_all(queues, state);
    released
}

/// Two passes, so that the memory that a packet needs is on its way while others are worked on: (1) parse, hash and
/// prefetch for all, (2) the line for each.
fn run<Q: Queue, O: Observer>(
    from: InterfaceId,
    frames: Burst,
    queues: &mut [Q],
    tables: Snapshot<'_>,
    state: &mut State,
    now: Nanos,
    observer: &mut O,
) {
    let umem = Arc::clone(state.local.pool.umem());
    let interfaces = Arc::clone(&state.local.interfaces);
    let mut frames = frames;
    let mut parsed = ArrayVec::<Result<Headers, Verdict>, BURST>::new();
    for frame in &mut frames {
        parsed.push(rx::look(Packet::new(&umem, frame), from, &interfaces, state));
    }
    for (at, mut frame) in frames.into_iter().enumerate() {
        rx::look_ahead(&parsed, at, state);
        let packet = Packet::new(&umem, &mut frame);
        let mut context =
            Context { tables, state, from, interfaces: &interfaces, now, observer, again: false };
        let verdict = match parsed.get(at) {
            Some(Ok(headers)) => {
                context.observer.see(|| Step::Parsed { tuple: headers.tuple, related: headers.quote.is_some() });
                forward(packet.parsed(*headers), &mut context)
            }
            Some(Err(exit)) => *exit,
            None => crate::verdict::DropReason::Inconsistent.into(),
        };
        context.observer.see(|| Step::Verdict(verdict));
        tx::stage(from, queues, frame, verdict, state, now);
    }
}

/// Decides what becomes of one packet. Total: every packet gets a verdict.
pub fn forward<O: Observer>(packet: Packet<'_, Headers>, context: &mut Context<'_, O>) -> Verdict {
    path(packet, context).unwrap_or_else(|exit| exit)
}

/// The straight line. `?` is the only way to leave it early.
///
/// What it costs, in cache lines that are not already near (the frame's two were fetched by the first pass):
/// 1. A packet of a known flow whose decision is of the tables in force: the conntrack bucket and entry, both fetched ahead by
///    [`rx::look_ahead`], and the neighbor's line, which few neighbors share. No table of control is read.
/// 2. A packet of a known flow after the tables changed: (1), and fib (2 to 4 lines). Once per flow, direction and generation.
/// 3. A packet of no tracked flow: the conntrack bucket, one line for the frontend that is not there, fib, neighbor.
/// 4. A new flow to a service: (3), the service's line and its Maglev slot, and two conntrack inserts, the only
///    atomic read-modify-writes on the way.
///
/// (1) is nearly all of the traffic that is translated, (3) that which is only routed.
fn path<O: Observer>(
    packet: Packet<'_, Headers>,
    context: &mut Context<'_, O>,
) -> Result<Verdict, Verdict> {
    let mut packet = neighbor::intercept(packet, context)?;
    let mut flow = conntrack::find(&packet, context)?;
    if let Some(adjacency) = conntrack::decided(&packet, &flow, context) {
        fib::check_transit(&mut packet, adjacency.mtu, context)?;
        return Ok(rewrite::apply(packet, &flow, &adjacency, context)?.transmit());
    }
    service::choose(&mut packet, &mut flow, context)?;
    let route = fib::lookup(&mut packet, &flow, context)?;
    policy::check(&flow, &route, context)?;
    let adjacency = neighbor::resolve(&mut packet, &route, context)?;
    if !conntrack::commit(&packet, &mut flow, &adjacency, context)? {
        // Another worker made the same flow a moment ago: its choice holds, and is found the second time.
        context.start_again()?;
        return path(packet, context);
    }
    Ok(rewrite::apply(packet, &flow, &adjacency, context)?.transmit())
}
