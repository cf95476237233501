//! Bursts: what the worker calls each turn. The line that each packet takes is in `pipeline.rs`.

use std::sync::Arc;

use arrayvec::ArrayVec;
use millrace_tables::{Guard, InterfaceId, Snapshot};
use millrace_xsk::{Frame, Umem};

use super::{Context, ahead, forward, fragment, guard, neighbor, rx, short, tx};
use crate::clock::Nanos;
use crate::counters::{Counter, Place};
use crate::driver::{BURST, Burst, Queue};
use crate::exit::Exit;
use crate::packet::{Headers, Packet, Raw};
use crate::state::State;
use crate::trace::{Observer, Step};
use crate::verdict::{DropReason, Verdict};

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
    let seed = state.seed;
    while let Some((from, frame)) = state.local.fragments.give_up(&seed, now) {
        released += 1;
        neighbor::unbook(state, from, 1);
        let exit = DropReason::FragmentTimeout.into();
        observer.see(|| Step::Verdict(DropReason::FragmentTimeout.into()));
        tx::stage(from, queues, frame, exit, state, now);
        tx::book(from, state);
    }
    while let Some((from, mut frames)) = state.local.fragments.release(&seed, now) {
        released += frames.len();
        neighbor::unbook(state, from, frames.len());
        run(from, &mut frames, queues, tables, state, now, observer);
    }
    released += neighbor::give_up(queues, tables, state, now, observer);
    tx::flush_all(queues, state);
    released
}

/// Two passes, so that the memory that a packet needs is on its way while others are worked on: (1) parse, hash and
/// fetch ahead for all, (2) the line for each.
fn run<Q: Queue, O: Observer>(
    from: InterfaceId,
    frames: &mut Burst,
    queues: &mut [Q],
    tables: Snapshot<'_>,
    state: &mut State,
    now: Nanos,
    observer: &mut O,
) {
    // Handles of this worker's own: their counts are on no line that another writes.
    let memory = Arc::clone(&state.local.memory);
    let umem: &Umem = &memory.0;
    let interfaces = Arc::clone(&state.local.interfaces);
    let interface = interfaces.get(from);
    let own = tables.guard(from);
    state.local.recent.begin(now);
    // Taken for the burst, so that headers can be read while the state is written.
    let mut parsed = std::mem::take(&mut state.local.parsed);
    // Those that go no further, last first.
    let mut refused = ArrayVec::<(usize, Exit), BURST>::new();
    for (at, (frame, headers)) in frames.iter_mut().zip(&mut parsed).enumerate() {
        let looked = match interface {
            Some(interface) => rx::look(&Packet::new(umem, frame), interface, state, headers),
            None => Err(DropReason::NoInterface.into()),
        };
        let looked = match &own {
            Some(guard) => guarded(looked, &Packet::new(umem, frame), headers, guard),
            None => looked,
        };
        if let Err(exit) = looked {
            refused.push((at, exit));
        }
    }
    refused.reverse();
    let strangers = ahead::fetch(parsed.get_mut(..frames.len()).unwrap_or_default(), tables, state);
    if strangers != 0 && tables.has_policies() {
        ahead::judge(&mut parsed, strangers, tables, state);
    }
    let mut context =
        Context { tables, state, from, interfaces: &interfaces, now, observer, again: false };
    for (at, mut frame) in std::mem::take(frames).into_iter().enumerate() {
        let refusal = refused.last().filter(|(place, _)| *place == at).map(|(_, exit)| *exit);
        let packet = Packet::new(umem, &mut frame);
        let exit = match (refusal, parsed.get(at)) {
            (None, Some(headers)) => {
                context.observer.see(|| Step::Parsed {
                    tuple: headers.tuple,
                    related: headers.quote.is_some(),
                });
                let mut packet = packet.parsed(headers);
                match short::forward(&mut packet, &mut context) {
                    Some(exit) => exit,
                    None => {
                        context.again = false;
                        forward(packet, &mut context)
                    }
                }
            }
            (Some(exit), Some(headers)) if exit == Exit::from(fragment::MARK) => {
                refused.pop();
                let (next, name) = fragment::admit(packet.parsed(headers), &mut context);
                match next {
                    fragment::Next::End(exit) => exit,
                    fragment::Next::Line => {
                        if let (Some(name), Some(headers)) = (name, parsed.get_mut(at)) {
                            fragment::of_flow(headers, name, &context.state.seed);
                        }
                        whole_line(umem, &mut frame, &parsed, at, &mut context)
                    }
                    fragment::Next::Wait { ours } => {
                        match fragment::wait(headers, umem, frame, ours, &mut context) {
                            Ok(()) => {
                                let neighbor = headers.tuple.dst;
                                let verdict = Verdict::Hold { interface: from, neighbor };
                                context.observer.see(|| Step::Verdict(verdict));
                                let counters = context.state.counters.interface(from);
                                counters.add(Counter::Held.place(), 1);
                                continue;
                            }
                            Err(back) if ours => {
                                frame = back;
                                DropReason::FragmentFull.into()
                            }
                            Err(back) => {
                                frame = back;
                                whole_line(umem, &mut frame, &parsed, at, &mut context)
                            }
                        }
                    }
                }
            }
            (Some(exit), _) => {
                refused.pop();
                exit
            }
            (None, None) => DropReason::Inconsistent.into(),
        };
        context.see_exit(exit);
        tx::stage(from, queues, frame, exit, context.state, now);
    }
    tx::book(from, state);
    state.local.parsed = parsed;
}

/// What becomes of a frame from an interface that has a guard.
#[cold]
fn guarded(
    looked: Result<(), Exit>,
    packet: &Packet<'_, Raw>,
    headers: &Headers,
    own: &Guard<'_>,
) -> Result<(), Exit> {
    let goes_on = looked.is_ok() || looked == Err(fragment::MARK.into());
    if goes_on && !guard::admits(packet, headers, own) {
        return Err(DropReason::Spoofed.into());
    }
    looked
}

/// The line for a fragment whose flow is known by now.
#[cold]
fn whole_line<O: Observer>(
    umem: &Umem,
    frame: &mut Frame,
    parsed: &[Headers],
    at: usize,
    context: &mut Context<'_, O>,
) -> Exit {
    let Some(headers) = parsed.get(at) else { return DropReason::Inconsistent.into() };
    context
        .observer
        .see(|| Step::Parsed { tuple: headers.tuple, related: headers.quote.is_some() });
    context.again = false;
    forward(Packet::new(umem, frame).parsed(headers), context)
}
