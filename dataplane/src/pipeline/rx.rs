//! Takes a burst off the rx ring, and fetches ahead what the line will need.
//!
//! Beside `tx` the only stop that touches rings. Leaves to `parse` what is in the frames.

use millrace_tables::InterfaceId;

use super::parse;
use crate::counters::{Counter, Place};
use crate::driver::{Burst, Queue};
use crate::exit::Exit;
use crate::interface::Interface;
use crate::packet::{Headers, Network, Packet, Raw};
use crate::state::State;
use crate::state::conntrack::Hint;

/// Packets between a prefetch and its use: enough work to cover a miss to memory (about 100 ns), few enough that the line
/// is still there.
pub(super) const AHEAD: usize = 4;

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
    }
    Ok(())
}

/// Looks into the conntrack bucket of the packet at `at`, and asks for the entry that it names. [`AHEAD`] places before the
/// line takes the packet.
#[inline(always)]
pub(super) fn look_ahead(parsed: &mut [Headers], at: usize, state: &State) {
    // One that could not be parsed is harmless to look for.
    if let Some(headers) = parsed.get_mut(at)
        && headers.trackable
    {
        let wide = headers.network == Network::Ipv6;
        headers.hint = state.conntrack.table().probe(headers.hash, wide);
    }
}

/// The packet before `at` began a flow: the next ones may be of it, though they were looked for before.
#[cold]
pub(super) fn look_again(parsed: &mut [Headers], at: usize) {
    let looked = parsed.get_mut(at..).unwrap_or_default();
    looked.iter_mut().take(AHEAD).for_each(|headers| headers.hint = Hint::UNKNOWN);
}
