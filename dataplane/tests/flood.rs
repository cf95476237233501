//! A flood of SYNs with forged sources against established connections (feature E5): the flood fills its own part of conntrack and no
//! more, and not one packet of an established connection is lost.
//!
//! 300,000 SYNs by default. The full run of ten million, at a million a second of the engine's time:
//! `MILLRACE_SYNS=10000000 cargo test --release -p millrace-dataplane --test flood -- --nocapture`

use std::sync::Arc;

use millrace_dataplane::clock::{Nanos, SECOND};
use millrace_dataplane::driver::memory::MemoryQueue;
use millrace_dataplane::interface::{Interface, Interfaces};
use millrace_dataplane::pipeline::{self, Local, Settings};
use millrace_dataplane::state::State;
use millrace_dataplane::state::segment::{Segment, Settings as StateSettings, Sizes};
use millrace_dataplane::trace::Silent;
use millrace_tables::{
    BackendSpec, FrontendKind, FrontendSpec, InterfaceId, InterfaceKind, NextHop, RouteSpec,
    SegmentConfig, ServiceSpec, SetChoice, Tables, Writer,
};
use millrace_wire::{Addr, Mac};
use millrace_xsk::{Pool, Umem, UmemConfig};

const UP: InterfaceId = InterfaceId(0);
const DOWN: InterfaceId = InterfaceId(1);
const OURS: [Mac; 2] = [Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2])];
const THEIRS: Mac = Mac([2, 0, 0, 0, 9, 9]);
const VIP: [u8; 4] = [172, 30, 0, 1];
const ESTABLISHED: u16 = 1000;
const ENTRIES: u32 = 1 << 16;
const SYN: u8 = 2;
const ACK: u8 = 0x10;

/// An Ethernet frame with an IPv4 TCP segment without payload.
fn frame(to: Mac, src: ([u8; 4], u16), dst: ([u8; 4], u16), flags: u8) -> [u8; 60] {
    let mut frame = [0; 60];
    frame[..6].copy_from_slice(&to.0);
    frame[6..12].copy_from_slice(&THEIRS.0);
    frame[12..24].copy_from_slice(&[8, 0, 0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6]);
    frame[26..30].copy_from_slice(&src.0);
    frame[30..34].copy_from_slice(&dst.0);
    frame[34..36].copy_from_slice(&src.1.to_be_bytes());
    frame[36..38].copy_from_slice(&dst.1.to_be_bytes());
    frame[46..48].copy_from_slice(&[0x50, flags]);
    let words = frame[14..34].chunks(2).map(|it| u32::from(u16::from_be_bytes([it[0], it[1]])));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let check = !((folded & 0xffff) + (folded >> 16)) as u16;
    frame[24..26].copy_from_slice(&check.to_be_bytes());
    frame
}

struct World {
    tables: Arc<Tables>,
    _writer: Writer,
    state: State,
    queues: Vec<MemoryQueue>,
    now: Nanos,
}

impl World {
    fn new() -> World {
        let interface = |id: InterfaceId, address: &str| {
            let addresses = vec![address.parse().unwrap()];
            let (name, mac) = (format!("if{}", id.0), OURS[usize::from(id.0)]);
            Interface::new(id, &name, mac, 1500, InterfaceKind::UPLINK, addresses, false)
        };
        let list = vec![interface(UP, "10.0.1.1/24"), interface(DOWN, "10.0.2.1/24")];
        let interfaces = Arc::new(Interfaces::new(list).unwrap());
        let (umem, frames) =
            Umem::new(&UmemConfig { frames: 512, ..UmemConfig::default() }).unwrap();
        let sizes =
            Sizes { workers: 1, interfaces: 2, conntrack_entries: ENTRIES, neighbor_entries: 256 };
        let segment = Segment::create(&sizes, [3, 4]).unwrap();
        let local =
            Local::new(Pool::new(&umem, frames), Arc::clone(&interfaces), Settings::default());
        let state = State::new(&segment, 0, &StateSettings::of(&sizes), local).unwrap();
        let queues = (0..2).map(|_| MemoryQueue::new(Arc::clone(&umem), 256)).collect();
        let mut writer = Writer::create(&SegmentConfig::default()).unwrap();
        let via = |interface, gateway: Addr| {
            RouteSpec::Forward(vec![(NextHop { interface, gateway: Some(gateway) }, 1)])
        };
        let (client, node) = (Addr::from_v4([10, 0, 1, 2]), Addr::from_v4([10, 0, 2, 2]));
        writer.set_route("0.0.0.0/0".parse().unwrap(), &via(UP, client)).unwrap();
        writer.set_route("10.64.0.0/16".parse().unwrap(), &via(DOWN, node)).unwrap();
        writer.set_neighbor(UP, client, THEIRS).unwrap();
        writer.set_neighbor(DOWN, node, THEIRS).unwrap();
        writer.set_service("default/web", &service()).unwrap();
        writer.publish().unwrap();
        let tables = writer.tables();
        let now = 1000 * SECOND;
        let rows = tables.snapshot();
        let wanted = rows.static_neighbors().map(|row| (row.interface, row.addr, row.mac));
        assert_eq!(state.neighbors.sync_static(wanted, now), 0);
        World { tables, _writer: writer, state, queues, now }
    }

    /// Sends frames in on one interface; what left on the other.
    fn send(&mut self, from: InterfaceId, frames: &[[u8; 60]]) -> Vec<Vec<u8>> {
        let mut left = Vec::new();
        for burst in frames.chunks(64) {
            for frame in burst {
                let queue = &mut self.queues[usize::from(from.0)];
                assert!(queue.offer(&mut self.state.local.pool, frame));
            }
            let snapshot = self.tables.snapshot();
            pipeline::burst(
                from,
                &mut self.queues,
                snapshot,
                &mut self.state,
                self.now,
                &mut Silent,
            );
            self.state.quiesce();
            for queue in &mut self.queues {
                left.extend(queue.sent(&mut self.state.local.pool).into_iter().map(|it| it.bytes));
            }
        }
        left
    }
}

fn service() -> ServiceSpec {
    let backend = |n: u8| BackendSpec {
        addr: Addr::from_v4([10, 64, 0, n]),
        port: 8080,
        name: format!("web-{n}"),
        weight: 1,
        local: false,
        terminating: false,
        in_cluster: true,
        in_local: false,
    };
    ServiceSpec {
        name: "default/web".into(),
        frontends: vec![FrontendSpec {
            addr: Addr::from_v4(VIP),
            port: 80,
            protocol: 6,
            kind: FrontendKind::CLUSTER_IP,
            set: SetChoice::Cluster,
            flags: 0,
        }],
        backends: (1..=10).map(backend).collect(),
        ..ServiceSpec::default()
    }
}

#[test]
fn established_connections_lose_nothing_to_a_flood_of_syns() {
    let syns: u64 = std::env::var("MILLRACE_SYNS")
        .map_or(300_000, |text| text.parse().expect("MILLRACE_SYNS is a number"));
    let mut world = World::new();
    let client = [198, 51, 100, 7];
    // The handshakes, with each connection's backend.
    let there = |flags| move |n: u16| frame(OURS[0], (client, 2000 + n), (VIP, 80), flags);
    let all = |make: &dyn Fn(u16) -> [u8; 60]| (0..ESTABLISHED).map(make).collect::<Vec<_>>();
    let first = world.send(UP, &all(&there(SYN)));
    assert_eq!(first.len(), usize::from(ESTABLISHED));
    let backends: Vec<[u8; 4]> = first.iter().map(|it| [it[30], it[31], it[32], it[33]]).collect();
    let back = |flags| {
        let backends = backends.clone();
        move |n: u16| frame(OURS[1], (backends[usize::from(n)], 8080), (client, 2000 + n), flags)
    };
    assert_eq!(world.send(DOWN, &all(&back(SYN | ACK))).len(), usize::from(ESTABLISHED));
    assert_eq!(world.send(UP, &all(&there(ACK))).len(), usize::from(ESTABLISHED));

    let mut random = 7u64;
    let (mut sent, mut looked, mut passed) = (0, 0u64, 0u64);
    let started = std::time::Instant::now();
    while sent < syns {
        let flood: Vec<[u8; 60]> = (0..4096)
            .map(|_| {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                let [a, b, c, d, e, f, ..] = (random >> 8).to_be_bytes()[1..] else {
                    unreachable!()
                };
                // No martian, nor a pod.
                let src = [20 + a % 100, b, c, d];
                frame(OURS[0], (src, u16::from_be_bytes([e, f]) | 1), (VIP, 80), SYN)
            })
            .collect();
        passed += world.send(UP, &flood).len() as u64;
        sent += flood.len() as u64;
        // A million a second; housekeeping's sweep goes on meanwhile.
        world.now += flood.len() as u64 * 1000;
        world.state.conntrack.sweep(2048, world.now);
        if sent / 65_536 != looked {
            looked = sent / 65_536;
            assert_eq!(
                world.send(UP, &all(&there(ACK))).len(),
                usize::from(ESTABLISHED),
                "after {sent}"
            );
            let answers = world.send(DOWN, &all(&back(ACK)));
            assert_eq!(answers.len(), usize::from(ESTABLISHED), "after {sent}");
            assert!(answers.iter().all(|it| it[26..30] == VIP));
        }
    }
    let took = started.elapsed();
    let totals = world.state.conntrack.table().totals();
    let limit = u64::from(ENTRIES / 4);
    println!(
        "{sent} SYNs in {took:?}: {passed} passed, {} of {limit} half-open at the end; {ESTABLISHED} connections looked at {looked} \
         times, nothing lost",
        totals.half_open
    );
    assert!(totals.half_open <= limit + 64, "{totals:?}");
    assert_eq!(totals.live, totals.half_open + u64::from(ESTABLISHED));
    assert!(passed < sent, "the flood was bounded");
    // Whatever comes at the end finds the connections as they were.
    let last = world.send(UP, &all(&there(ACK)));
    let same = last.iter().zip(&backends).filter(|(it, backend)| it[30..34] == backend[..]).count();
    assert_eq!(same, usize::from(ESTABLISHED));
}
