//! Making, reading and taking over a segment; and what is refused.

use super::*;
use crate::clock::SECOND;
use crate::flow::Tuple;
use crate::state::conntrack::NewFlow;
use crate::state::neighbor::Learn;
use millrace_wire::{Addr, Mac, Protocol};

const SIZES: Sizes =
    Sizes { workers: 2, interfaces: 3, conntrack_entries: 1 << 10, neighbor_entries: 64 };

fn flow(number: u16) -> NewFlow {
    let original = Tuple {
        src: Addr::from_v4([192, 0, 2, 1]),
        dst: Addr::from_v4([198, 51, 100, 1]),
        sport: number,
        dport: 80,
        protocol: Protocol::UDP,
    };
    NewFlow { original, reply: original.reversed(), service: None, tcp: None, masqueraded: false }
}

fn duplicate(segment: &Segment) -> OwnedFd {
    segment.fd().try_clone_to_owned().unwrap()
}

#[test]
fn observers_see_what_workers_do() {
    let segment = Segment::create(&SIZES, [1, 2]).unwrap();
    let settings = Settings::of(&SIZES);
    let mut conntrack = segment.conntrack(1, &settings).unwrap();
    conntrack.create(&flow(5), 0).unwrap();
    let neighbors = segment.neighbors(&settings).unwrap();
    let (addr, mac) = (Addr::from_v4([192, 0, 2, 7]), Mac([2, 0, 0, 0, 0, 7]));
    neighbors.learn(InterfaceId(2), &addr, mac, Learn::Request, 0);
    let counters = segment.counters(1).unwrap();
    counters.interface(InterfaceId(2)).add(0, 5);
    counters.interface(InterfaceId(2)).add(COUNTERS - 1, 7);
    counters.interface(InterfaceId(2)).add(COUNTERS - 1, u64::MAX);
    counters.worker().started(Some(3), 4242, SECOND);
    counters.worker().turn(0, 2 * SECOND);
    counters.worker().turn(64, 3 * SECOND);
    counters.worker().slept();

    let view = View::open(duplicate(&segment)).unwrap();
    assert_eq!(view.sizes(), SIZES);
    let table = view.conntrack().unwrap();
    assert_eq!(table.flows(0).map(|flow| flow.original).collect::<Vec<_>>(), [flow(5).original]);
    let (rows, occupancy) = view.neighbors(0).unwrap();
    assert_eq!((rows[0].addr, rows[0].mac, occupancy.live), (addr, Some(mac), 1));
    let counter = |worker, interface, place| view.counter(worker, InterfaceId(interface), place);
    assert_eq!((counter(1, 2, 0), counter(1, 2, COUNTERS - 1)), (5, 6));
    assert_eq!((counter(0, 2, 0), counter(1, 1, 0)), (0, 0));
    assert_eq!((counter(9, 2, 0), counter(1, 9, 0), counter(1, 2, COUNTERS)), (0, 0, 0));
    let expected = WorkerInfo {
        worker: 1,
        cpu: Some(3),
        thread: 4242,
        turns: 2,
        idle_turns: 1,
        packets: 64,
        sleeps: 1,
        started: SECOND,
        last_packets: 3 * SECOND,
    };
    assert_eq!(view.workers()[1], expected);
    assert_eq!(view.workers()[0].cpu, None);
}

#[test]
fn counters_of_an_unknown_interface_go_nowhere() {
    let segment = Segment::create(&SIZES, [0, 0]).unwrap();
    let counters = segment.counters(0).unwrap();
    counters.interface(InterfaceId(3)).add(0, 1);
    counters.interface(InterfaceId(0)).add(COUNTERS, 1);
    assert_eq!(counters.interface(InterfaceId(3)).get(0), 0);
    for interface in 0..3 {
        assert_eq!(counters.interface(InterfaceId(interface)).get(0), 0);
    }
}

#[test]
fn a_successor_takes_over_flows_neighbors_and_counters() {
    let secret = [0x1234, 0x5678];
    let segment = Segment::create(&SIZES, secret).unwrap();
    let settings = Settings::of(&SIZES);
    let mut conntrack = segment.conntrack(0, &settings).unwrap();
    for number in 0..100 {
        conntrack.create(&flow(number), 0).unwrap();
    }
    let neighbors = segment.neighbors(&settings).unwrap();
    let addr = Addr::from_v4([192, 0, 2, 7]);
    neighbors.learn(InterfaceId(2), &addr, Mac([2, 0, 0, 0, 0, 7]), Learn::Request, 0);
    segment.counters(0).unwrap().interface(InterfaceId(0)).add(1, 11);
    let fd = duplicate(&segment);
    // Its threads are gone without a word.
    std::mem::forget(conntrack);
    drop(segment);

    let successor = Segment::adopt(fd, &SIZES).unwrap();
    let table = successor.view().conntrack().unwrap();
    for number in 0..100 {
        let tuple = flow(number).original;
        assert!(table.find(&tuple, successor.seed().hash(&tuple), 0).is_some());
    }
    assert_eq!(table.totals().live, 100);
    let neighbors = successor.neighbors(&settings).unwrap();
    assert!(neighbors.find(InterfaceId(2), &addr).is_some());
    assert_eq!(successor.view().counter(0, InterfaceId(0), 1), 11);
    assert!(successor.conntrack(0, &settings).unwrap().create(&flow(200), 0).is_ok());
}

#[test]
fn a_segment_of_other_sizes_is_not_taken_over() {
    let segment = Segment::create(&SIZES, [0, 0]).unwrap();
    let wanted = Sizes { workers: 3, ..SIZES };
    let error = Segment::adopt(duplicate(&segment), &wanted).unwrap_err().to_string();
    assert!(error.contains("workers: 2") && error.contains("workers: 3"), "{error}");
}

#[test]
fn a_segment_of_another_build_is_refused() {
    let segment = Segment::create(&SIZES, [0, 0]).unwrap();
    segment.view.memory.words()[2].set(0xbad);
    let error = View::open(duplicate(&segment)).unwrap_err();
    assert!(matches!(error, Error::Layout { found: 0xbad, .. }), "{error}");
    segment.view.memory.words()[0].set(0);
    let error = View::open(duplicate(&segment)).unwrap_err();
    assert!(matches!(error, Error::Memory(_)), "{error}");
}

#[test]
fn a_directory_that_promises_too_much_is_refused() {
    let segment = Segment::create(&SIZES, [0, 0]).unwrap();
    let directory = segment.view.plan.directory.start;
    for (word, value) in
        [(2, 3), (2, u64::MAX), (3, 40), (4, 1 << 20), (4, 1 << 40), (5, 60_000), (5, 0)]
    {
        let word = &segment.view.memory.words()[directory + word];
        let before = word.get();
        word.set(value);
        let error = View::open(duplicate(&segment)).unwrap_err();
        assert!(matches!(error, Error::Short { .. } | Error::Size { .. }), "{error}");
        word.set(before);
    }
    assert!(View::open(duplicate(&segment)).is_ok());
}

#[test]
fn sizes_out_of_bounds_are_named() {
    for (sizes, what) in [
        (Sizes { workers: 0, ..SIZES }, "workers = 0 is not between 1 and 256"),
        (Sizes { interfaces: 5000, ..SIZES }, "interfaces = 5000 is not between 0 and 4095"),
        (Sizes { conntrack_entries: 1000, ..SIZES }, "conntrack entries = 1000"),
        (Sizes { neighbor_entries: 70_000, ..SIZES }, "neighbor entries = 70000"),
    ] {
        let error = Segment::create(&sizes, [0, 0]).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
}

#[test]
fn a_worker_that_does_not_exist_gets_nothing() {
    let segment = Segment::create(&SIZES, [0, 0]).unwrap();
    let settings = Settings::of(&SIZES);
    assert!(segment.counters(2).is_err());
    assert!(segment.conntrack(2, &settings).is_ok(), "housekeeping's");
    assert!(matches!(
        segment.conntrack(3, &settings),
        Err(Error::NoWorker { worker: 3, workers: 2 })
    ));
}

#[test]
fn parts_begin_at_cache_lines_and_do_not_overlap() {
    for sizes in
        [SIZES, Sizes { workers: 7, interfaces: 1, conntrack_entries: 1025, neighbor_entries: 17 }]
    {
        let plan = Plan::of(&sizes);
        let parts = [
            &plan.directory,
            &plan.workers,
            &plan.counters,
            &plan.neighbor_head,
            &plan.neighbor_index,
            &plan.neighbor_rows,
            &plan.conntrack_pool,
            &plan.conntrack_rows,
        ];
        assert!(plan.directory.start * shm::WORD >= epoch::bytes(readers(&sizes)));
        for pair in parts.windows(2) {
            assert!(pair[0].end <= pair[1].start);
        }
        assert!(parts.iter().all(|part| part.start % LINE == 0));
    }
}

#[test]
fn the_largest_table_takes_no_memory_until_it_is_used() {
    let sizes = Sizes { conntrack_entries: 1 << 24, ..SIZES };
    let segment = Segment::create(&sizes, [0, 0]).unwrap();
    let stat = rustix::fs::fstat(segment.fd()).unwrap();
    assert!(stat.st_size > 1 << 30, "{}", stat.st_size);
    assert!(stat.st_blocks * 512 < 1 << 20, "{} blocks", stat.st_blocks);
}
