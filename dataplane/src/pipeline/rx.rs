//! Takes a burst off the rx ring, and fetches ahead what the line will need.
//!
//! Beside `tx` the only stop that touches rings. Leaves to `parse` what is in the frames.

use millrace_tables::InterfaceId;

use super::parse;
use crate::counters::{Counter, Place};
use crate::driver::{Burst, Queue};
use crate::interface::Interfaces;
use crate::packet::{Headers, Packet, Raw};
use crate::state::State;
use crate::verdict::{DropReason, Verdict};

/// Packets between a prefetch and its use: enough work to cover a miss to memory (about 100 ns), few enough that the line
/// is still there.
const AHEAD: usize = 4;

/// Receives from the queue of interface `from` and books what came.
pub fn receive<Q: Queue>(
    from: InterfaceId,
    queues: &mut [Q],
    state: &mut State,
    burst: &mut Burst,
) {
    let Some(queue) = queues.get_mut(usize::from(from.0)) else { return };
    queue.receive(&mut state.local.pool, burst);
    if burst.is_empty() {
        return;
    }
    let umem = state.local.pool.umem();
    let mut bytes = 0;
    for frame in burst.iter() {
        umem.prefetch(frame);
        bytes += frame.total_len() as u64;
    }
    let counters = state.counters.interface(from);
    counters.add(Counter::Rx.place(), burst.len() as u64);
    counters.add(Counter::RxBytes.place(), bytes);
}

/// The first pass over a packet: parses it and asks for its conntrack bucket.
pub(super) fn look(
    packet: Packet<'_, Raw>,
    from: InterfaceId,
    interfaces: &Interfaces,
    state: &State,
) -> Result<Headers, Verdict> {
    let interface = interfaces.get(from).ok_or(DropReason::NoInterface)?;
    let packet = parse::parse(packet, interface, &state.seed)?;
    let headers = *packet.headers();
    if headers.is_trackable() {
        state.conntrack.prefetch(headers.hash);
    }
    Ok(headers)
}

/// Before the line takes the packet at `at`: asks for the conntrack entry of one a few places on.
#[inline]
pub(super) fn look_ahead(parsed: &[Result<Headers, Verdict>], at: usize, state: &State) {
    if let Some(Ok(headers)) = parsed.get(at + AHEAD)
        && headers.is_trackable()
    {
        state.conntrack.prefetch_entry(headers.hash);
    }
}
