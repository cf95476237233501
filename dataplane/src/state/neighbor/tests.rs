//! The table row by row of its rules, at its bounds, under a scan, and from many threads.

use super::*;
use crate::state::word::Region;
use millrace_tables::shm::{Seals, Segment, WORD};
use std::sync::Arc;

pub(super) const ETH: InterfaceId = InterfaceId(1);

pub(super) fn memory(capacity: u32, incomplete: u32) -> (Arc<Segment>, Neighbors) {
    let layout = Layout::of(capacity);
    let words = layout.head + layout.index + layout.rows;
    let segment = Arc::new(Segment::create("neighbor-test", words * WORD, Seals::Shared).unwrap());
    let region = |start, len| Region::new(&segment, start..start + len).unwrap();
    let head = region(0, layout.head);
    let index = region(layout.head, layout.index);
    let rows = region(layout.head + layout.index, layout.rows);
    let neighbors = Neighbors::new(head, index, rows, capacity, incomplete, Seed::FIXED).unwrap();
    (segment, neighbors)
}

pub(super) fn table(capacity: u32, incomplete: u32) -> Neighbors {
    memory(capacity, incomplete).1
}

pub(super) fn host(number: u32) -> Addr {
    Addr::from_v4((0x0a00_0000 + number).to_be_bytes())
}

pub(super) fn mac(number: u32) -> Mac {
    Mac::from_u64(0x0200_0000_0000 + u64::from(number))
}

fn shown(neighbors: &Neighbors, addr: Addr, now: Nanos) -> Option<(NeighborState, Option<Mac>)> {
    neighbors.neighbors(now).find(|row| row.addr == addr).map(|row| (row.state, row.mac))
}

/// A table in which host 1 is in `state`, since time 0.
fn with(state: NeighborState) -> Neighbors {
    let neighbors = table(64, 16);
    let (eth, one) = (ETH, host(1));
    let resolve = |now| neighbors.resolve(eth, &one, now);
    match state {
        NeighborState::Free => {}
        NeighborState::Incomplete => assert!(matches!(resolve(0), Answer::Request { .. })),
        NeighborState::Reachable => {
            assert!(matches!(resolve(0), Answer::Request { .. }));
            assert_eq!(neighbors.learn(eth, &one, mac(1), Learn::Reply, 0), Learned::Completed);
        }
        NeighborState::Stale => {
            assert_eq!(neighbors.learn(eth, &one, mac(1), Learn::Request, 0), Learned::Created);
        }
        NeighborState::Delay | NeighborState::Probe => {
            assert_eq!(neighbors.learn(eth, &one, mac(1), Learn::Request, 0), Learned::Created);
            assert!(matches!(resolve(0), Answer::Complete { probe: false, .. }));
            if state == NeighborState::Probe {
                assert!(matches!(resolve(5 * SECOND), Answer::Complete { probe: true, .. }));
            }
        }
        NeighborState::Failed => {
            for second in 0..3 {
                assert!(matches!(resolve(second * SECOND), Answer::Request { .. }));
            }
            assert_eq!(resolve(3 * SECOND), Answer::Failed);
        }
        NeighborState::Permanent => {
            assert_eq!(neighbors.sync_static([(eth, one, mac(1))].into_iter(), 0), 0);
        }
    }
    assert_eq!(
        shown(&neighbors, one, 0).map_or(NeighborState::Free, |(state, _)| state),
        state,
        "the start"
    );
    neighbors
}

pub(super) const fn na(solicited: bool, overrides: bool) -> Learn {
    Learn::Advertisement { solicited, overrides }
}

/// The table at the top of `neighbor.rs`, cell by cell. The event says MAC 1 (the known one) or 2 (another).
#[test]
fn events_change_states_as_the_rules_say() {
    use NeighborState::{Delay, Failed, Free, Incomplete, Permanent, Probe, Reachable, Stale};
    let events = [
        Learn::Reply,
        Learn::Request,
        Learn::Gratuitous,
        na(true, true),
        na(true, false),
        na(false, true),
        na(false, false),
    ];
    let after = |state, event, says: u32| {
        let neighbors = with(state);
        neighbors.learn(ETH, &host(1), mac(says), event, SECOND);
        shown(&neighbors, host(1), SECOND)
    };
    let (one, two) = (Some(mac(1)), Some(mac(2)));
    for event in events {
        let created = (event == Learn::Request).then_some((Stale, two));
        assert_eq!(after(Free, event, 2), created, "{event:?} about nobody");
        let heard = if event.confirms() { Reachable } else { Stale };
        assert_eq!(after(Incomplete, event, 2), Some((heard, two)), "{event:?}");
        assert_eq!(after(Failed, event, 2), Some((heard, two)), "{event:?}");
        assert_eq!(after(Permanent, event, 2), Some((Permanent, one)), "{event:?}");
        for state in [Reachable, Stale, Delay, Probe] {
            let same = if event.confirms() { Reachable } else { state };
            assert_eq!(after(state, event, 1), Some((same, one)), "{event:?} in {state:?}");
            let other = match event {
                Learn::Advertisement { overrides: false, .. } if state == Reachable => (Stale, one),
                Learn::Advertisement { overrides: false, .. } => (state, one),
                _ => (heard, two),
            };
            assert_eq!(after(state, event, 2), Some(other), "{event:?}, other MAC, in {state:?}");
        }
    }
}

#[test]
fn the_caller_learns_what_became_of_it() {
    let neighbors = with(NeighborState::Incomplete);
    let learn = |number, how| neighbors.learn(ETH, &host(1), mac(number), how, SECOND);
    assert_eq!(learn(1, Learn::Reply), Learned::Completed);
    assert_eq!(learn(1, Learn::Reply), Learned::Unchanged);
    assert_eq!(learn(1, Learn::Gratuitous), Learned::Unchanged);
    assert_eq!(learn(2, Learn::Gratuitous), Learned::Updated);
    assert_eq!(neighbors.learn(ETH, &host(2), mac(2), Learn::Gratuitous, 0), Learned::Ignored);
}

#[test]
fn impossible_neighbors_are_not_learned() {
    let neighbors = table(64, 16);
    let learn = |addr, mac| neighbors.learn(ETH, &addr, mac, Learn::Request, 0);
    assert_eq!(learn(host(1), Mac::BROADCAST), Learned::Ignored);
    assert_eq!(learn(host(1), Mac::ZERO), Learned::Ignored);
    assert_eq!(learn(host(1), Mac([1, 0, 0x5e, 0, 0, 1])), Learned::Ignored);
    assert_eq!(learn(Addr::UNSPECIFIED_V4, mac(1)), Learned::Ignored);
    assert_eq!(learn(Addr::UNSPECIFIED_V6, mac(1)), Learned::Ignored);
    assert_eq!(learn(Addr::ALL_NODES, mac(1)), Learned::Ignored);
    assert_eq!(neighbors.neighbors(0).count(), 0);
}

#[test]
fn an_unanswered_neighbor_is_asked_once_a_second_and_fails_after_three() {
    let neighbors = table(64, 16);
    let mut requests = Vec::new();
    let mut failures = Vec::new();
    // A packet each 10 ms for 8 seconds.
    for now in (0..8 * SECOND).step_by(10 * MILLISECOND as usize) {
        match neighbors.resolve(ETH, &host(1), now) {
            Answer::Request { .. } => requests.push(now / MILLISECOND),
            Answer::Failed => failures.push(now / MILLISECOND),
            Answer::Waiting { .. } => {}
            answer => panic!("{answer:?}"),
        }
    }
    // It fails when the third second is over; the next packet asks anew.
    assert_eq!(requests, [0, 1000, 2000, 3010, 4010, 5010, 6020, 7020]);
    assert_eq!(failures, [3000, 6010]);
}

#[test]
fn the_same_address_on_two_interfaces_is_two_neighbors() {
    let neighbors = table(64, 16);
    neighbors.learn(InterfaceId(1), &host(1), mac(1), Learn::Request, 0);
    neighbors.learn(InterfaceId(2), &host(1), mac(2), Learn::Request, 0);
    let at = |interface| neighbors.mac(neighbors.find(InterfaceId(interface), &host(1)).unwrap());
    assert_eq!((at(1), at(2)), (Some(mac(1)), Some(mac(2))));
    assert_eq!(neighbors.find(InterfaceId(3), &host(1)), None);
}

#[test]
fn a_used_neighbor_is_probed_when_its_confirmation_is_old() {
    let neighbors = with(NeighborState::Reachable);
    let id = neighbors.find(ETH, &host(1)).unwrap();
    let used = |now| neighbors.use_at(id, now).unwrap();
    let quiet = Used { mac: mac(1), probe: false };
    assert_eq!(used(29 * SECOND), quiet);
    // Stale from the 30th second on; its first use then is the beginning of the delay.
    assert_eq!(used(32 * SECOND), quiet);
    assert_eq!(used(37 * SECOND - MILLISECOND), quiet);
    assert_eq!(used(37 * SECOND), Used { mac: mac(1), probe: true });
    assert_eq!(used(37 * SECOND), quiet);
    assert_eq!(used(38 * SECOND), Used { mac: mac(1), probe: true });
    // It answers, from another MAC: that one from now on, for another 30 s.
    neighbors.learn(ETH, &host(1), mac(2), Learn::Reply, 38 * SECOND);
    assert_eq!(used(68 * SECOND), Used { mac: mac(2), probe: false });
    assert_eq!(used(73 * SECOND), Used { mac: mac(2), probe: true });
}

#[test]
fn a_neighbor_that_answers_within_the_delay_is_not_probed() {
    let neighbors = with(NeighborState::Delay);
    neighbors.learn(ETH, &host(1), mac(1), Learn::Reply, 4 * SECOND);
    let id = neighbors.find(ETH, &host(1)).unwrap();
    for second in 5..34 {
        assert_eq!(neighbors.use_at(id, second * SECOND).map(|used| used.probe), Some(false));
    }
}

#[test]
fn a_neighbor_that_is_gone_is_asked_for_by_broadcast_after_three_probes() {
    let neighbors = with(NeighborState::Delay);
    let id = neighbors.find(ETH, &host(1)).unwrap();
    for second in 5..8 {
        assert_eq!(neighbors.use_at(id, second * SECOND), Some(Used { mac: mac(1), probe: true }));
    }
    assert_eq!(neighbors.use_at(id, 8 * SECOND), None);
    assert_eq!(neighbors.resolve(ETH, &host(1), 8 * SECOND), Answer::Request { id });
    assert_eq!(neighbors.resolve(ETH, &host(1), 8 * SECOND), Answer::Waiting { id });
    neighbors.learn(ETH, &host(1), mac(9), Learn::Reply, 8 * SECOND);
    assert_eq!(neighbors.mac(id), Some(mac(9)));
}

#[test]
fn an_advertisement_without_a_mac_confirms_only_what_was_asked() {
    let neighbors = with(NeighborState::Probe);
    let confirm = |solicited| neighbors.confirm(ETH, &host(1), solicited, SECOND);
    assert_eq!(confirm(false), Learned::Unchanged);
    assert_eq!(shown(&neighbors, host(1), SECOND).unwrap().0, NeighborState::Probe);
    assert_eq!(confirm(true), Learned::Unchanged);
    assert_eq!(shown(&neighbors, host(1), SECOND).unwrap().0, NeighborState::Reachable);
    let waiting = with(NeighborState::Incomplete);
    assert_eq!(waiting.confirm(ETH, &host(1), true, SECOND), Learned::Ignored);
}

#[test]
fn permanent_neighbors_are_exactly_those_of_control() {
    let neighbors = table(64, 16);
    neighbors.learn(ETH, &host(1), mac(9), Learn::Request, 0);
    neighbors.resolve(ETH, &host(2), 0);
    let sync = |wanted: &[u32]| {
        let wanted: Vec<_> = wanted.iter().map(|&n| (ETH, host(n), mac(n))).collect();
        neighbors.sync_static(wanted.into_iter(), 0)
    };
    assert_eq!(sync(&[1, 2, 3]), 0);
    let id = neighbors.find(ETH, &host(1)).unwrap();
    for number in [1, 2, 3] {
        let found = shown(&neighbors, host(number), 0);
        assert_eq!(found, Some((NeighborState::Permanent, Some(mac(number)))));
    }
    assert_eq!(neighbors.occupancy().incomplete, 0);
    assert_eq!(sync(&[2, 4]), 0);
    assert_eq!(neighbors.mac(id), None, "its row is another's now, or free");
    let mut left: Vec<_> = neighbors.neighbors(0).map(|row| row.addr).collect();
    left.sort();
    assert_eq!(left, [host(2), host(4)]);
    assert_eq!(sync(&[]), 0);
    assert_eq!(neighbors.occupancy().live, 0);
}

#[test]
fn a_permanent_neighbor_is_never_probed_or_aged() {
    let neighbors = with(NeighborState::Permanent);
    let id = neighbors.find(ETH, &host(1)).unwrap();
    neighbors.age(10_000 * SECOND);
    let used = neighbors.use_at(id, 10_000 * SECOND);
    assert_eq!(used, Some(Used { mac: mac(1), probe: false }));
}

#[test]
fn what_nobody_uses_is_forgotten() {
    let state = |neighbors: &Neighbors, now| {
        neighbors.age(now);
        shown(neighbors, host(1), now).map(|(state, _)| state)
    };
    let reachable = with(NeighborState::Reachable);
    assert_eq!(state(&reachable, 29 * SECOND), Some(NeighborState::Reachable));
    assert_eq!(state(&reachable, 30 * SECOND), Some(NeighborState::Stale));
    assert_eq!(state(&reachable, 599 * SECOND), Some(NeighborState::Stale));
    assert_eq!(state(&reachable, 600 * SECOND), None);
    let asked = with(NeighborState::Incomplete);
    assert_eq!(state(&asked, 3 * SECOND), Some(NeighborState::Incomplete));
    assert_eq!(state(&asked, 4 * SECOND), Some(NeighborState::Failed));
    assert_eq!(asked.occupancy().incomplete, 0);
    assert_eq!(state(&asked, 59 * SECOND), Some(NeighborState::Failed));
    assert_eq!(state(&asked, 60 * SECOND), None);
    assert_eq!(asked.occupancy().live, 0);
}

/// Row A4: a scan of 10,000 addresses, while 100 neighbors are in use and one is being resolved.
#[test]
fn a_scan_evicts_nobody_in_use() {
    let neighbors = table(256, 64);
    let in_use: Vec<_> = (0..100)
        .map(|number| {
            neighbors.learn(ETH, &host(number), mac(number), Learn::Request, 0);
            neighbors.find(ETH, &host(number)).unwrap()
        })
        .collect();
    neighbors.sync_static((100..110).map(|number| (ETH, host(number), mac(number))), 0);
    for scanned in 0..10_000 {
        // One address a millisecond.
        let now = u64::from(scanned) * MILLISECOND;
        neighbors.resolve(ETH, &host(10_000 + scanned), now);
        if scanned % 100 == 0 {
            for id in &in_use {
                assert!(neighbors.use_at(*id, now).is_some());
                // They are heard of.
                neighbors.confirm(ETH, &neighbors.addr(*id).unwrap(), true, now);
            }
        }
        let occupancy = neighbors.occupancy();
        assert!(occupancy.live <= 256 && occupancy.incomplete <= 64, "{occupancy:?}");
    }
    for number in 0..110 {
        let id = neighbors.find(ETH, &host(number)).unwrap();
        assert_eq!(neighbors.mac(id), Some(mac(number)));
    }
    // And a neighbor that is really there can still be resolved.
    assert!(matches!(neighbors.resolve(ETH, &host(5000), 10 * SECOND), Answer::Request { .. }));
    let learned = neighbors.learn(ETH, &host(5000), mac(5000), Learn::Reply, 10 * SECOND);
    assert_eq!(learned, Learned::Completed);
}

#[test]
fn spoofed_requests_evict_only_what_nobody_uses() {
    let neighbors = table(64, 16);
    for number in 0..10_000 {
        neighbors.learn(ETH, &host(number), mac(number), Learn::Request, 40 * SECOND);
    }
    assert_eq!(neighbors.occupancy().live, 64);
    // Each is as new as the others and used by nobody: a real neighbor takes one's place.
    assert!(matches!(neighbors.resolve(ETH, &host(20_000), 40 * SECOND), Answer::Request { .. }));
}

#[test]
fn a_table_full_of_used_neighbors_refuses() {
    let neighbors = table(16, 16);
    neighbors.sync_static((0..16).map(|number| (ETH, host(number), mac(number))), 0);
    assert_eq!(neighbors.resolve(ETH, &host(100), 1000 * SECOND), Answer::Full);
    assert_eq!(neighbors.learn(ETH, &host(100), mac(1), Learn::Request, 0), Learned::Ignored);
    let missed = (0..17).map(|number| (ETH, host(number), mac(number)));
    assert_eq!(neighbors.sync_static(missed, 0), 1);
    assert_eq!(neighbors.occupancy().refused, 3);
}

#[test]
fn a_reused_row_does_not_answer_for_its_former_neighbor() {
    let neighbors = table(16, 16);
    let ids: Vec<_> = (0..16)
        .map(|number| {
            neighbors.learn(ETH, &host(number), mac(number), Learn::Request, 0);
            neighbors.find(ETH, &host(number)).unwrap()
        })
        .collect();
    for number in 100..116 {
        neighbors.learn(ETH, &host(number), mac(number), Learn::Request, 100 * SECOND);
    }
    for (number, id) in ids.into_iter().enumerate() {
        assert_eq!(
            (neighbors.mac(id), neighbors.use_at(id, 0), neighbors.addr(id)),
            (None, None, None)
        );
        assert_eq!(neighbors.find(ETH, &host(number as u32)), None);
    }
}

#[test]
fn a_successor_keeps_what_is_complete() {
    let neighbors = table(64, 16);
    for number in 0..40 {
        neighbors.learn(ETH, &host(number), mac(number), Learn::Request, 0);
    }
    for number in 40..50 {
        neighbors.resolve(ETH, &host(number), 0);
    }
    // Its predecessor died holding the lock.
    neighbors.places.head.words()[0].set(1);
    neighbors.adopt();
    for number in 0..40 {
        let id = neighbors.find(ETH, &host(number)).unwrap();
        assert_eq!(neighbors.mac(id), Some(mac(number)));
    }
    assert_eq!((neighbors.occupancy().live, neighbors.occupancy().incomplete), (40, 0));
    for number in 40..64 {
        assert!(!matches!(
            neighbors.learn(ETH, &host(number), mac(1), Learn::Request, 0),
            Learned::Ignored
        ));
    }
    assert_eq!(neighbors.occupancy().live, 64);
}

#[test]
fn a_lock_held_for_ever_stops_nobody() {
    let neighbors = with(NeighborState::Stale);
    neighbors.places.head.words()[0].set(1);
    assert_eq!(neighbors.resolve(ETH, &host(2), 0), Answer::Full);
    assert_eq!(neighbors.learn(ETH, &host(1), mac(7), Learn::Gratuitous, 0), Learned::Updated);
    assert!(matches!(neighbors.resolve(ETH, &host(1), 0), Answer::Complete { .. }));
}

/// Threads fight over a table much too small. A MAC found for an address is always that address's, and
/// one second has one request.
#[test]
fn threads_never_see_another_neighbors_mac() {
    const THREADS: u32 = 4;
    let neighbors = table(16, 8);
    let start = std::sync::Barrier::new(THREADS as usize);
    std::thread::scope(|scope| {
        for number in 0..THREADS {
            let (neighbors, start) = (&neighbors, &start);
            scope.spawn(move || {
                start.wait();
                let mut state = u64::from(number) + 1;
                for turn in 0..40_000u64 {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let asked = (state >> 33) as u32 % 40;
                    // Old enough each time that somebody may be evicted.
                    let now = turn * 10 * SECOND;
                    if let Some(id) = neighbors.find(ETH, &host(asked))
                        && let Some(found) = neighbors.mac(id)
                    {
                        assert_eq!(found, mac(asked));
                    }
                    if let Answer::Complete { mac: found, .. } =
                        neighbors.resolve(ETH, &host(asked), now)
                    {
                        assert_eq!(found, mac(asked));
                    }
                    let how = if state >> 63 == 0 { Learn::Request } else { Learn::Reply };
                    neighbors.learn(ETH, &host(asked), mac(asked), how, now);
                }
            });
        }
    });
    let rows: Vec<_> = neighbors.neighbors(0).collect();
    let occupancy = neighbors.occupancy();
    assert_eq!(occupancy.live as usize, rows.len());
    let incomplete = rows.iter().filter(|row| row.state == NeighborState::Incomplete).count();
    assert_eq!(occupancy.incomplete as usize, incomplete);
    let mut addresses: Vec<_> = rows.iter().map(|row| row.addr).collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), rows.len(), "an address has two rows");
}

#[test]
fn one_worker_of_many_sends_the_request() {
    let neighbors = table(64, 16);
    for second in 0..3 {
        let requests: usize = std::thread::scope(|scope| {
            let ask = || match neighbors.resolve(ETH, &host(1), second * SECOND) {
                Answer::Request { .. } => 1,
                Answer::Waiting { .. } => 0,
                answer => panic!("{answer:?}"),
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(requests, 1);
    }
}
