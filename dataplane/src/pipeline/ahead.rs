//! Fetches ahead what the line will need, for a burst at a time: while one packet's memory is on its way, the others' is asked for.
//!
//! Between `parse`, which asks for each packet's conntrack bucket, and the line, which takes one packet after the other. Decides
//! nothing: what it notes down, the line would find out itself.
//!
//! 1. The bucket names the flow's entry, which is asked for, or says that there is none.
//! 2. Packets of no known flow need the FIB: by steps, each for all of them, if it is too big to be near anyway.
//! 3. Those to a service's address begin a flow: frontend, service, backend, and the bucket of the answers, by steps.
//! 4. Where policies are in force, packets of no known flow are judged, behind (3) where that picked a backend, by steps; and the counter of
//!    the policy that decided is fetched, and the bucket of the answers.
//!
//! Cost: (1) 50 to 70 instructions a packet, (2) 20 to 110, (3) some 400 and (4) some 700 where it is needed, which the line is spared. No miss
//! is waited for but those that the step before has asked for. Where no packet begins anything, (2) to (4) are a branch a burst.

use millrace_tables::{Begun, Destination, Near, Snapshot};

use super::Local;
use crate::driver::BURST;
use crate::flow::{Seed, Tuple};
use crate::packet::{Headers, Network};
use crate::state::State;

/// Packets by their place in the burst, one bit each.
pub(super) type Places = u64;
const _: () = assert!(BURST <= Places::BITS as usize);

/// Fetches for the packets of a burst: (1) to (3). Answers which are of no known flow, for (4).
#[inline(always)]
pub(super) fn fetch(parsed: &mut [Headers], tables: Snapshot<'_>, state: &mut State) -> Places {
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
        let begin = routes(parsed, strangers, tables);
        if begin != 0 {
            services(parsed, begin, tables, state);
        }
    }
    strangers
}

/// (2). Answers which go to a service's address.
#[inline(always)]
fn routes(parsed: &mut [Headers], strangers: Places, tables: Snapshot<'_>) -> Places {
    let mut begin = 0;
    let mut note = |at: usize, headers: &mut Headers, destination: Destination| {
        headers.destination = Some(destination);
        begin |= Places::from(destination.has_frontends()) << at;
    };
    if !tables.routes_are_far() {
        for_each(strangers, |at| {
            if let Some(headers) = parsed.get_mut(at) {
                note(at, headers, tables.destination(&headers.tuple.dst));
            }
        });
        return begin;
    }
    let (mut begun, mut near) = ([Begun::default(); BURST], [Near::default(); BURST]);
    let mut wide = 0;
    for_each(strangers, |at| {
        if let (Some(headers), Some(begun)) = (parsed.get(at), begun.get_mut(at)) {
            *begun = tables.route_begin(&headers.tuple.dst);
            wide |= Places::from(headers.network == Network::Ipv6) << at;
        }
    });
    for_each(strangers, |at| {
        if let (Some(headers), Some(begun), Some(near)) =
            (parsed.get(at), begun.get(at), near.get_mut(at))
        {
            *near = tables.route_near(&headers.tuple.dst, *begun);
        }
    });
    for_each(wide, |at| {
        if let (Some(headers), Some(near)) = (parsed.get(at), near.get(at)) {
            tables.route_nearer(&headers.tuple.dst, *near);
        }
    });
    for_each(strangers, |at| {
        if let (Some(headers), Some(near)) = (parsed.get_mut(at), near.get(at)) {
            note(at, headers, tables.route_arrive(&headers.tuple.dst, *near));
        }
    });
    begin
}

/// (3)
#[inline(never)]
fn services(parsed: &mut [Headers], begin: Places, tables: Snapshot<'_>, state: &mut State) {
    let mut searches = std::mem::take(&mut state.local.searches);
    searches.clear();
    for_each(begin, |at| {
        if let Some(headers) = parsed.get_mut(at)
            && headers.quote.is_none()
        {
            let Tuple { dst, dport, protocol, .. } = &headers.tuple;
            let choice = Seed::FIXED.hash(&headers.tuple);
            headers.search = Some(searches.len() as u8);
            searches.push(tables.search(dst, *dport, protocol.0, choice));
        }
    });
    searches.iter_mut().for_each(|search| tables.search_service(search));
    searches.iter_mut().for_each(|search| tables.search_slot(search));
    searches.iter_mut().for_each(|search| tables.search_backend(search));
    searches.iter_mut().for_each(|search| tables.search_end(search));
    let table = state.conntrack.table();
    for_each(begin, |at| {
        if let Some(headers) = parsed.get(at)
            && let Some(search) = searches.get(headers.search.map_or(BURST, usize::from))
            && let Some(backend) = search.backend
        {
            // Unless its source is changed too; then the bucket is another, and waited for.
            let answer = Tuple {
                src: backend.addr,
                sport: backend.port,
                dst: headers.tuple.src,
                dport: headers.tuple.sport,
                protocol: headers.tuple.protocol,
            };
            table.prefetch(state.seed.hash(&answer));
        }
    });
    state.local.searches = searches;
}

/// (4)
#[inline(never)]
pub(super) fn judge(
    parsed: &mut [Headers],
    strangers: Places,
    tables: Snapshot<'_>,
    state: &mut State,
) {
    let State { local, counters, conntrack, seed, .. } = state;
    let Local { judgements, searches, .. } = local;
    judgements.clear();
    for_each(strangers, |at| {
        if let Some(headers) = parsed.get_mut(at)
            && headers.quote.is_none()
        {
            let Tuple { src, dst, dport, protocol, .. } = headers.tuple;
            let search = headers.search.and_then(|at| searches.get(usize::from(at)));
            let (dst, dport) = match search.and_then(|search| search.backend) {
                Some(backend) => (backend.addr, backend.port),
                None => (dst, dport),
            };
            headers.judged = judgements.ask([src, dst], protocol.0, dport).map(|at| at as u8);
        }
    });
    let policies = &counters.policies;
    tables.judge_all(judgements, |policy| policies.prefetch(policy));
    let table = conntrack.table();
    for_each(strangers, |at| {
        // (3) has asked for those of flows to services.
        if let Some(Headers { judged: Some(judged), search: None, tuple, .. }) = parsed.get(at)
            && let Some(judged) = judgements.get(usize::from(*judged))
            && judged.endpoints.iter().any(|end| end.is_isolated() || end.is_local())
        {
            table.prefetch(seed.hash(&tuple.reversed()));
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
