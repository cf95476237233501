//! Takes a burst off the rx ring, and fetches ahead what the line will need.
//!
//! Beside `tx` the only stop that touches rings. Leaves to `parse` what is in the frames.

use millrace_tables::InterfaceId;

use super::{fragment, parse};
use crate::counters::{Counter, Place};
use crate::driver::{Burst, Queue};
use crate::exit::Exit;
use crate::interface::Interface;
use crate::packet::{Headers, Packet, Part, Raw};
use crate::state::State;

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

/// The first pass over a packet: parses it into `headers`, and asks for its conntrack bucket.
#[inline(always)]
pub(super) fn look(
    packet: &Packet<'_, Raw>,
    interface: &Interface,
    state: &State,
    headers: &mut Headers,
) -> Result<(), Exit> {
    parse::parse(packet, interface, &state.seed, headers)?;
    if headers.trackable {
        state.conntrack.table().prefetch(headers.hash);
    } else if headers.part != Part::Whole {
        return Err(fragment::MARK.into());
    }
    Ok(())
}
