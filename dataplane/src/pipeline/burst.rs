//! Bursts: what the worker calls each turn. The line that each packet takes is in `pipeline.rs`.

use std::sync::Arc;

use arrayvec::ArrayVec;
use millrace_tables::{InterfaceId, Snapshot};

use super::rx::AHEAD;
use super::{Context, forward, neighbor, rx, tx};
use crate::clock::Nanos;
use crate::driver::{BURST, Burst, Queue};
use crate::exit::Exit;
use crate::packet::{Headers, Packet};
use crate::state::State;
use crate::trace::{Observer, Step};
use crate::verdict::DropReason;

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
    if received > 0 {
        run(from, &mut frames, queues, tables, state, now, observer);
        tx::flush(queues, state);
    }
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
        && let Some((from, mut frames)) = neighbor::release(state, now)
    {
        released += frames.len();
        run(from, &mut frames, queues, tables, state, now, observer);
    }
    released += neighbor::give_up(queues, tables, state, now, observer);
    tx::flush_all(queues, state);
    released
}

/// Two passes, so that the memory that a packet needs is on its way while others are worked on: (1) parse, hash and
/// prefetch for all, (2) the line for each.
fn run<Q: Queue, O: Observer>(
    from: InterfaceId,
    frames: &mut Burst,
    queues: &mut [Q],
    tables: Snapshot<'_>,
    state: &mut State,
    now: Nanos,
    observer: &mut O,
) {
    let umem = Arc::clone(state.local.pool.umem());
    let interfaces = Arc::clone(&state.local.interfaces);
    let interface = interfaces.get(from);
    let mut parsed = ArrayVec::<Headers, BURST>::new();
    let mut exits = ArrayVec::<Option<Exit>, BURST>::new();
    for frame in frames.iter_mut() {
        parsed.push(Headers::BLANK);
        let looked = match (interface, parsed.last_mut()) {
            (Some(interface), Some(headers)) => {
                rx::look(&Packet::new(&umem, frame), interface, state, headers)
            }
            _ => Err(DropReason::NoInterface.into()),
        };
        exits.push(looked.err());
    }
    for at in 0..AHEAD {
        rx::look_ahead(&mut parsed, at, state);
    }
    for (at, mut frame) in frames.drain(..).enumerate() {
        rx::look_ahead(&mut parsed, at + AHEAD, state);
        let packet = Packet::new(&umem, &mut frame);
        let mut context =
            Context { tables, state, from, interfaces: &interfaces, now, observer, again: false };
        let exit = match (parsed.get(at), exits.get(at)) {
            (Some(headers), Some(None)) => {
                context.observer.see(|| Step::Parsed {
                    tuple: headers.tuple,
                    related: headers.quote.is_some(),
                });
                forward(packet.parsed(headers), &mut context)
            }
            (_, Some(Some(exit))) => *exit,
            _ => DropReason::Inconsistent.into(),
        };
        context.see_exit(exit);
        tx::stage(from, queues, frame, exit, state, now);
        if state.conntrack.take_changed() {
            rx::look_again(&mut parsed, at + 1);
        }
    }
    tx::book(from, state);
}
