//! Fetches ahead what the line will need, for a burst at a time: while one packet's memory is on its way, the others' is asked for.
//!
//! Between `parse`, which asks for each packet's conntrack bucket, and the line, which takes one packet after the other. Decides
//! nothing: what it notes down, the line would find out itself.
//!
//! 1. The bucket names the flow's entry, which is asked for, or says that there is none.
//! 2. Packets of no known flow need the FIB: by steps, each for all of them, if it is too big to be near anyway.
//!
//! Cost: (1) 50 to 70 instructions a packet, (2) 20 to 110 where it is needed. No miss is waited for but those that the step before
//! has asked for.

use millrace_tables::{Snapshot, Step};

use crate::driver::BURST;
use crate::packet::{Headers, Network};
use crate::state::State;

/// Packets by their place in the burst, one bit each.
type Places = u64;
const _: () = assert!(BURST <= Places::BITS as usize);

/// Fetches for the packets of a burst.
#[inline(always)]
pub(super) fn fetch(parsed: &mut [Headers], tables: Snapshot<'_>, state: &State) {
    let table = state.conntrack.table();
    let mut strangers: Places = 0;
    for (at, headers) in parsed.iter_mut().enumerate() {
        // One that could not be parsed is harmless to look for.
        if headers.trackable {
            headers.hint = table.probe(headers.hash, headers.network == Network::Ipv6);
            strangers |= Places::from(headers.hint.is_absent()) << at;
        }
    }
    if strangers != 0 {
        routes(parsed, strangers, tables);
    }
}

/// (2)
#[inline(always)]
fn routes(parsed: &mut [Headers], strangers: Places, tables: Snapshot<'_>) {
    if tables.routes_are_far() {
        for step in [Step::Far, Step::Near, Step::Last] {
            for_each(strangers, |at| {
                if let Some(headers) = parsed.get(at) {
                    tables.prefetch_route(&headers.tuple.dst, step);
                }
            });
        }
    }
    for_each(strangers, |at| {
        if let Some(headers) = parsed.get_mut(at) {
            headers.destination = Some(tables.destination(&headers.tuple.dst));
        }
    });
}

#[inline(always)]
fn for_each(mut places: Places, mut visit: impl FnMut(usize)) {
    while places != 0 {
        visit(places.trailing_zeros() as usize);
        places &= places - 1;
    }
}
