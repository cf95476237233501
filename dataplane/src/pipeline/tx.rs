//! Puts verdicts into effect: frames go to a tx ring, into the waiting room or back to the pool, and are booked.
//!
//! Beside `rx` the only stop that touches rings. Nothing leaves before `flush`: one kick a burst and interface.

use std::sync::Arc;

use millrace_tables::InterfaceId;
use millrace_xsk::{Frame, TxOffload};

use super::pieces;
use super::rewrite::partial;
use crate::clock::Nanos;
use crate::counters::{Counter, Place};
use crate::driver::Queue;
use crate::exit::Exit;
use crate::state::State;
use crate::verdict::{DropReason, Verdict};

/// Does with a frame what its exit says. When the tx ring or the waiting room is full, or the checksum can't be completed, what
/// is booked is the drop.
#[inline(always)]
pub(super) fn stage<Q: Queue>(
    from: InterfaceId,
    queues: &mut [Q],
    frame: Frame,
    exit: Exit,
    state: &mut State,
    now: Nanos,
) {
    let refused = match exit.ready() {
        Some(interface) => send(interface, queues, frame, TxOffload::None, state).err(),
        None => end(from, queues, frame, exit, state, now).err(),
    };
    let place = match refused {
        None => exit.place(),
        Some((frame, exit)) => {
            state.local.pool.put(frame);
            exit.place()
        }
    };
    if state.local.unbooked.0 != place {
        book(from, state);
        state.local.unbooked.0 = place;
    }
    state.local.unbooked.1 += 1;
}

/// Does with a frame that isn't just sent on what its exit says.
fn end<Q: Queue>(
    from: InterfaceId,
    queues: &mut [Q],
    frame: Frame,
    exit: Exit,
    state: &mut State,
    now: Nanos,
) -> Result<(), (Frame, Exit)> {
    if let Some((interface, l3)) = exit.in_pieces() {
        return send_pieces(interface, l3, queues, frame, state);
    }
    if let Some((trunk, offload)) = exit.handed_on() {
        return send(trunk, queues, frame, offload, state);
    }
    match exit.verdict(|neighbor| state.neighbors.addr(neighbor)) {
        Verdict::Transmit { interface, offload } => send(interface, queues, frame, offload, state),
        Verdict::Reply(_) => send(from, queues, frame, TxOffload::None, state),
        Verdict::Hold { interface, neighbor } => {
            let pushed = state.local.hold.push(interface, neighbor, from, frame, now);
            pushed.map_err(|frame| (frame, DropReason::Unresolved.into()))
        }
        Verdict::Punt(_) | Verdict::Drop(_) => {
            state.local.pool.put(frame);
            Ok(())
        }
    }
}

/// Stages the fragments of a frame that is too big for the interface. Where not all can be sent, what is booked is the drop.
#[cold]
fn send_pieces<Q: Queue>(
    interface: InterfaceId,
    l3: u16,
    queues: &mut [Q],
    frame: Frame,
    state: &mut State,
) -> Result<(), (Frame, Exit)> {
    let mtu = state.local.interfaces.get(interface).map_or(0, |it| it.mtu);
    let pieces = match pieces::cut(&frame, l3, mtu, &mut state.local.pool) {
        Ok(pieces) => pieces,
        Err(exit) => return Err((frame, exit)),
    };
    let mut refused = None;
    for piece in pieces {
        let sent = match refused {
            None => send(interface, queues, piece, TxOffload::None, state),
            // Without one of them the rest is of no use.
            Some(exit) => Err((piece, exit)),
        };
        if let Err((piece, exit)) = sent {
            state.local.pool.put(piece);
            refused = Some(exit);
        }
    }
    match refused {
        None => {
            state.local.pool.put(frame);
            Ok(())
        }
        Some(exit) => Err((frame, exit)),
    }
}

/// Books the verdicts that have been counted up: shared memory is written once for a run of equal ones. To be called when the
/// burst is through.
pub(super) fn book(from: InterfaceId, state: &mut State) {
    let (place, count) = state.local.unbooked;
    if count > 0 {
        state.counters.interface(from).add(place, count);
        state.local.unbooked.1 = 0;
    }
}

/// Stages a frame on an interface's queue.
#[inline(always)]
fn send<Q: Queue>(
    interface: InterfaceId,
    queues: &mut [Q],
    mut frame: Frame,
    offload: TxOffload,
    state: &mut State,
) -> Result<(), (Frame, Exit)> {
    let at = usize::from(interface.0);
    let (Some(queue), Some(staged)) = (queues.get_mut(at), state.local.staged.get_mut(at)) else {
        return Err((frame, DropReason::NoInterface.into()));
    };
    staged.kick = true;
    let offload = match offload {
        TxOffload::Checksum { start, offset }
            if !(queue.supports_checksum_offload() && is_for_the_kernel(offset)) =>
        {
            let umem = Arc::clone(state.local.pool.umem());
            if let Err(exit) = partial::finish(&umem, &mut frame, start, offset) {
                return Err((frame, exit));
            }
            TxOffload::None
        }
        offload => offload,
    };
    let bytes = frame.total_len() as u64;
    match queue.transmit(frame, offload) {
        Ok(()) => {
            staged.packets += 1;
            staged.bytes += bytes;
            Ok(())
        }
        Err(frame) => Err((frame, DropReason::TxFull.into())),
    }
}

/// The kernel completes sums; a CRC32c it does not know (`XDP_TXMD_FLAGS_CHECKSUM`).
fn is_for_the_kernel(offset: u16) -> bool {
    millrace_wire::Protocol::SCTP.checksum_offset() != Some(usize::from(offset))
}

/// Sends the requests that the line has asked for.
fn send_requests<Q: Queue>(queues: &mut [Q], state: &mut State) {
    while let Some((interface, frame)) = state.local.requests.pop() {
        match send(interface, queues, frame, TxOffload::None, state) {
            Ok(()) => state.counters.interface(interface).add(Counter::Originated.place(), 1),
            // Not sent, so not counted; the neighbor is asked for again a second later.
            Err((frame, _)) => state.local.pool.put(frame),
        }
    }
}

/// Sends what was staged and takes back what has left: of the queues that something was staged on, one kick each.
pub(super) fn flush<Q: Queue>(queues: &mut [Q], state: &mut State) {
    send_requests(queues, state);
    for (at, queue) in queues.iter_mut().enumerate() {
        if count_out(at, state) {
            queue.flush(&mut state.local.pool);
        }
    }
}

/// The same for all queues: a kick that the kernel cut short goes on, and frames that have left since are taken back.
pub(super) fn flush_all<Q: Queue>(queues: &mut [Q], state: &mut State) {
    send_requests(queues, state);
    for (at, queue) in queues.iter_mut().enumerate() {
        count_out(at, state);
        queue.flush(&mut state.local.pool);
    }
}

/// Counts what was staged on a queue, once a burst. Whether the queue needs a kick.
fn count_out(at: usize, state: &mut State) -> bool {
    let Some(staged) = state.local.staged.get_mut(at).map(std::mem::take) else { return false };
    if staged.packets > 0 {
        let counters = state.counters.interface(InterfaceId(at as u16));
        counters.add(Counter::Out.place(), staged.packets);
        counters.add(Counter::OutBytes.place(), staged.bytes);
    }
    staged.kick
}
