//! One engine in memory: two interfaces, the tables, one or two workers, and every counter watched.
//!
//! Beside it runs a twin on which nobody looks, so that it takes the short line where it can: whatever a test sends, both must
//! send on the same bytes, count the same and remember the same.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use millrace_dataplane::clock::{Nanos, SECOND};
use millrace_dataplane::counters::{COUNTERS, Kind, Ledger, describe};
use millrace_dataplane::driver::memory::MemoryQueue;
use millrace_dataplane::interface::{Interface, Interfaces};
use millrace_dataplane::pipeline::{self, Local, Settings};
use millrace_dataplane::state::State;
use millrace_dataplane::trace::{Observer, Recorder, Silent, Step};
use millrace_dataplane::verdict::Verdict;
use millrace_tables::{
    BackendSpec, FrontendKind, FrontendSpec, InterfaceId, InterfaceKind, NextHop, RouteSpec,
    SegmentConfig, ServiceSpec, SetChoice, Tables, WhenEmpty, Writer,
};
use millrace_wire::{Addr, Mac};
use millrace_xsk::{Pool, TxOffload, Umem, UmemConfig};

use crate::packets::Link;

pub const UP: u16 = 0;
pub const DOWN: u16 = 1;
pub const UP_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x10];
pub const DOWN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x20];
/// 10.0.1.2, 2001:db8:1::2: a client, and the router to all that is behind.
pub const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 1, 2];
/// 10.0.2.10, 2001:db8:2::10.
pub const BACKEND_MAC: [u8; 6] = [2, 0, 0, 0, 2, 10];

pub const VIP: &str = "172.30.0.41";
pub const VIP6: &str = "fd00:30::41";
pub const FRAMES: u32 = 512;

/// What one call sent: interface, bytes, what is left to the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    pub interface: u16,
    pub bytes: Vec<u8>,
    pub offload: TxOffload,
}

pub struct Worker {
    pub state: State,
    pub queues: Vec<MemoryQueue>,
    frames: usize,
    steps: Vec<Step>,
}

impl Worker {
    /// Packets come in on one interface; what leaves, by interface.
    pub fn burst(
        &mut self,
        interface: u16,
        packets: &[Vec<u8>],
        tables: &Tables,
        now: Nanos,
    ) -> Vec<Sent> {
        let mut recorder = Recorder::default();
        let sent = self.run(interface, packets, tables, now, &mut recorder);
        self.steps = recorder.steps;
        sent
    }

    fn run<O: Observer>(
        &mut self,
        interface: u16,
        packets: &[Vec<u8>],
        tables: &Tables,
        now: Nanos,
        observer: &mut O,
    ) -> Vec<Sent> {
        let queue = &mut self.queues[usize::from(interface)];
        for bytes in packets {
            assert!(
                queue.offer(&mut self.state.local.pool, bytes),
                "no frame for {} bytes",
                bytes.len()
            );
        }
        let id = InterfaceId(interface);
        let (queues, state) = (&mut self.queues, &mut self.state);
        while pipeline::burst(id, queues, tables.snapshot(), state, now, observer) != 0 {
            state.quiesce();
        }
        self.sent()
    }

    /// Time passes; held frames are looked after.
    fn tick<O: Observer>(&mut self, tables: &Tables, now: Nanos, observer: &mut O) -> Vec<Sent> {
        pipeline::tick(&mut self.queues, tables.snapshot(), &mut self.state, now, observer);
        self.sent()
    }

    fn sent(&mut self) -> Vec<Sent> {
        let mut sent = Vec::new();
        for interface in [UP, DOWN] {
            let pool = &mut self.state.local.pool;
            let frames = self.queues[usize::from(interface)].sent(pool);
            sent.extend(frames.into_iter().map(|it| Sent {
                interface,
                bytes: it.bytes,
                offload: it.offload,
            }));
        }
        sent
    }

    /// The ledger balances on every queue, and no frame is lost.
    fn check_books(&self) {
        for interface in [UP, DOWN] {
            let block = self.state.counters.interface(InterfaceId(interface));
            let ledger = Ledger::read(|place| block.get(place));
            assert_eq!(ledger.imbalance(), 0, "interface {interface}: {ledger:?}");
        }
        let in_flight: usize = self.queues.iter().map(MemoryQueue::in_flight).sum();
        let accounted = self.state.local.pool.len() + in_flight + self.state.local.held();
        assert_eq!(accounted, self.frames, "a frame was lost");
    }
}

pub struct World {
    pub writer: Writer,
    pub workers: Vec<Worker>,
    /// On which nobody looks; none if a test interferes with the workers themselves.
    pub twins: Vec<Worker>,
    pub now: Nanos,
    pub steps: Vec<Step>,
}

pub fn addr(text: &str) -> Addr {
    text.parse::<IpAddr>().unwrap().into()
}

/// From the client to us, and back.
pub fn client_link() -> Link {
    Link::new(CLIENT_MAC, UP_MAC)
}

pub fn to_client() -> Link {
    Link::new(UP_MAC, CLIENT_MAC)
}

/// From the backend to us, and back.
pub fn backend_link() -> Link {
    Link::new(BACKEND_MAC, DOWN_MAC)
}

pub fn to_backend() -> Link {
    Link::new(DOWN_MAC, BACKEND_MAC)
}

fn glean(interface: u16) -> RouteSpec {
    RouteSpec::Forward(vec![(NextHop { interface: InterfaceId(interface), gateway: None }, 1)])
}

fn via(interface: u16, gateway: &str) -> RouteSpec {
    RouteSpec::Forward(vec![(
        NextHop { interface: InterfaceId(interface), gateway: Some(addr(gateway)) },
        1,
    )])
}

pub fn frontend(vip: &str, port: u16, protocol: u8) -> FrontendSpec {
    FrontendSpec {
        addr: addr(vip),
        port,
        protocol,
        kind: FrontendKind::CLUSTER_IP,
        set: SetChoice::Cluster,
        flags: 0,
    }
}

pub fn service(name: &str, frontends: &[FrontendSpec], backends: &[(&str, u16)]) -> ServiceSpec {
    let backend = |(ip, port): &(&str, u16)| BackendSpec {
        addr: addr(ip),
        port: *port,
        name: format!("{ip}:{port}"),
        weight: 1,
        local: false,
        terminating: false,
        in_cluster: true,
        in_local: false,
    };
    ServiceSpec {
        name: name.to_owned(),
        frontends: frontends.to_vec(),
        backends: backends.iter().map(backend).collect(),
        ..ServiceSpec::default()
    }
}

impl World {
    /// Both neighbors known, one worker, checksums complete.
    pub fn new() -> World {
        let mut world = World::unresolved(1, false, Settings::default());
        world.learn();
        world
    }

    /// As [`World::new`] with two workers over the same shared state.
    pub fn two_workers() -> World {
        let mut world = World::unresolved(2, false, Settings::default());
        world.learn();
        world
    }

    /// As [`World::new`], the interfaces being veths.
    pub fn virtual_interfaces() -> World {
        let mut world = World::unresolved(1, true, Settings::default());
        world.learn();
        world
    }

    /// Nobody is known.
    pub fn unresolved(workers: usize, partial_checksums: bool, settings: Settings) -> World {
        let interfaces = Interfaces::new(vec![
            interface(
                UP,
                "up0",
                UP_MAC,
                1500,
                &["10.0.1.1/24", "2001:db8:1::1/64"],
                partial_checksums,
            ),
            interface(
                DOWN,
                "down0",
                DOWN_MAC,
                1400,
                &["10.0.2.1/24", "2001:db8:2::1/64"],
                partial_checksums,
            ),
        ]);
        World::of(workers, interfaces.unwrap(), settings)
    }

    /// `down0` is the trunk to a kernel with this MAC, and `up0` the kernel's uplink, on which the client is known.
    pub fn beside_a_kernel(kernel: [u8; 6], partial_checksums: bool) -> World {
        World::beside_a_kernel_with(kernel, partial_checksums, Settings::default())
    }

    pub fn beside_a_kernel_with(
        kernel: [u8; 6],
        partial_checksums: bool,
        settings: Settings,
    ) -> World {
        let up = interface(UP, "up0", UP_MAC, 1500, &[], partial_checksums);
        let own = ["169.254.77.1/30", "fd4d:696c:6c72::1/126"].map(|it| it.parse().unwrap());
        let (id, mac, kind) = (InterfaceId(DOWN), Mac(DOWN_MAC), InterfaceKind::HOST);
        let down = Interface::new(id, "down0", mac, 1500, kind, own.into(), partial_checksums);
        let interfaces = Interfaces::new(vec![up, down.with_peer(Mac(kernel))]).unwrap();
        World::of(1, interfaces, settings)
    }

    fn of(workers: usize, interfaces: Interfaces, settings: Settings) -> World {
        let interfaces = Arc::new(interfaces);
        let [workers, twins] = [0, 1].map(|_| engine(workers, &interfaces, settings));
        World { writer: tables(), workers, twins, now: 100 * SECOND, steps: Vec::new() }
    }

    /// The client and the backend ask for us, and then answer as if we had asked: they are known, and reachable.
    pub fn learn(&mut self) {
        use crate::packets::{arp, nd, on};
        for (interface, mac, ours_mac, ours, v4, v6, node) in [
            (UP, CLIENT_MAC, UP_MAC, "10.0.1.1", "10.0.1.2", "2001:db8:1::2", "2001:db8:1::1"),
            (
                DOWN,
                BACKEND_MAC,
                DOWN_MAC,
                "10.0.2.1",
                "10.0.2.10",
                "2001:db8:2::10",
                "2001:db8:2::1",
            ),
        ] {
            let (everyone, link) = (Link::new(mac, [0xff; 6]), Link::new(mac, ours_mac));
            self.send(interface, &arp(&everyone, 1, (mac, v4), ([0; 6], ours)));
            self.send(interface, &arp(&link, 2, (mac, v4), (ours_mac, ours)));
            let group = Link::new(mac, [0x33, 0x33, 0xff, 0, 0, 1]);
            self.send(
                interface,
                &on(&group, nd(v6, "ff02::1:ff00:1", 135, 0, node, Some((1, mac)))),
            );
            self.send(interface, &on(&link, nd(v6, node, 136, 3 << 29, v6, Some((2, mac)))));
        }
    }

    /// One packet through worker 0.
    pub fn send(&mut self, interface: u16, bytes: &[u8]) -> Vec<Sent> {
        self.send_all(0, interface, &[bytes.to_vec()])
    }

    /// A burst through one worker.
    pub fn send_all(&mut self, worker: usize, interface: u16, packets: &[Vec<u8>]) -> Vec<Sent> {
        let (tables, now) = (self.writer.tables(), self.now);
        let sent = self.workers[worker].burst(interface, packets, &tables, now);
        self.steps = std::mem::take(&mut self.workers[worker].steps);
        self.workers[worker].check_books();
        if let Some(twin) = self.twins.get_mut(worker) {
            let twins = twin.run(interface, packets, &tables, now, &mut Silent);
            self.check_twin(worker, &sent, &twins);
        }
        sent
    }

    #[track_caller]
    fn check_twin(&self, worker: usize, sent: &[Sent], twins: &[Sent]) {
        let (twin, one) = (&self.twins[worker], &self.workers[worker]);
        twin.check_books();
        assert_eq!(
            counters(&[twin]),
            counters(&[one]),
            "counted by the short line, and by the line"
        );
        assert_eq!(twins.len(), sent.len(), "sent by the short line, and by the line");
        for (twin, one) in twins.iter().zip(sent) {
            let told = |it: &Sent| (it.offload, hex(&[(it.interface, it.bytes.clone())]));
            assert_eq!(told(twin), told(one), "sent by the short line, and by the line");
        }
        let flows =
            |of: &Worker| -> Vec<_> { of.state.conntrack.table().flows(self.now).collect() };
        assert_eq!(flows(twin), flows(one), "remembered by the short line, and by the line");
    }

    /// Time passes; held frames are looked after.
    pub fn tick(&mut self, passed: Nanos) -> Vec<Sent> {
        self.now += passed;
        let tables = self.writer.tables();
        let mut recorder = Recorder::default();
        let sent = self.workers[0].tick(&tables, self.now, &mut recorder);
        self.workers[0].check_books();
        self.steps = recorder.steps;
        if let Some(twin) = self.twins.first_mut() {
            let twins = twin.tick(&tables, self.now, &mut Silent);
            self.check_twin(0, &sent, &twins);
        }
        sent
    }

    /// The verdicts of the last call, in order.
    pub fn verdicts(&self) -> Vec<Verdict> {
        self.steps
            .iter()
            .filter_map(
                |step| if let Step::Verdict(verdict) = step { Some(*verdict) } else { None },
            )
            .collect()
    }

    /// All counters of all workers that are not zero, bytes aside: `"up0 rx_packets" → 3`.
    pub fn counters(&self) -> BTreeMap<String, u64> {
        counters(&self.workers.iter().collect::<Vec<_>>())
    }

    /// Sends one packet and asserts all that it did: the verdict, the bytes that left, and every counter. Each name in
    /// `moved` stands for one step up; counters that are not named must not have moved.
    #[track_caller]
    pub fn expect(
        &mut self,
        interface: u16,
        bytes: &[u8],
        verdict: Verdict,
        leaves: &[(u16, Vec<u8>)],
        moved: &[&str],
    ) {
        let mut before = self.counters();
        let sent = self.send(interface, bytes);
        assert_eq!(self.verdicts(), [verdict], "{:#?}", self.steps);
        let sent: Vec<_> = sent.into_iter().map(|it| (it.interface, it.bytes)).collect();
        assert_eq!(hex(&sent), hex(leaves));
        for name in moved {
            *before.entry((*name).to_owned()).or_default() += 1;
        }
        assert_eq!(self.counters(), before, "counters");
    }
}

fn counters(workers: &[&Worker]) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for one in workers {
        for (interface, name) in [(UP, "up0"), (DOWN, "down0")] {
            let block = one.state.counters.interface(InterfaceId(interface));
            for place in 0..COUNTERS {
                let row = describe(place).unwrap();
                if block.get(place) != 0
                    && !(row.kind == Kind::Counter && row.name.ends_with("bytes"))
                {
                    *all.entry(format!("{name} {}", row.name)).or_default() += block.get(place);
                }
            }
        }
    }
    all
}

/// The workers of one engine.
fn engine(workers: usize, interfaces: &Arc<Interfaces>, settings: Settings) -> Vec<Worker> {
    let config = UmemConfig { frames: FRAMES * workers as u32, ..UmemConfig::default() };
    let (umem, frames) = Umem::new(&config).unwrap();
    let mut all = Pool::new(&umem, frames);
    let locals = (0..workers)
        .map(|_| Local::new(all.split(FRAMES as usize), Arc::clone(interfaces), settings))
        .collect();
    crate::states::build(interfaces, locals)
        .into_iter()
        .map(|state| Worker {
            state,
            queues: (0..2).map(|_| MemoryQueue::new(Arc::clone(&umem), 256)).collect(),
            frames: FRAMES as usize,
            steps: Vec::new(),
        })
        .collect()
}

/// Frames as a reader of a failed test wants them.
fn hex(frames: &[(u16, Vec<u8>)]) -> Vec<String> {
    let line = |(interface, bytes): &(u16, Vec<u8>)| {
        let bytes: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{interface}: {}", bytes.join(" "))
    };
    frames.iter().map(line).collect()
}

fn interface(
    id: u16,
    name: &str,
    mac: [u8; 6],
    mtu: u32,
    addresses: &[&str],
    partial: bool,
) -> Interface {
    let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
    Interface::new(InterfaceId(id), name, Mac(mac), mtu, InterfaceKind::UPLINK, addresses, partial)
}

fn tables() -> Writer {
    let mut writer =
        Writer::create(&SegmentConfig { bytes: 64 << 20, ..SegmentConfig::default() }).unwrap();
    for (prefix, route) in [
        ("10.0.1.0/24", glean(UP)),
        ("10.0.2.0/24", glean(DOWN)),
        ("10.0.1.1/32", RouteSpec::Local),
        ("10.0.2.1/32", RouteSpec::Local),
        ("2001:db8:1::/64", glean(UP)),
        ("2001:db8:2::/64", glean(DOWN)),
        ("2001:db8:1::1/128", RouteSpec::Local),
        ("2001:db8:2::1/128", RouteSpec::Local),
        ("198.51.100.0/24", via(UP, "10.0.1.2")),
        ("2001:db8:100::/48", via(UP, "2001:db8:1::2")),
        ("203.0.113.0/24", RouteSpec::Blackhole),
        ("192.0.2.0/24", RouteSpec::Unreachable),
        ("2001:db8:dead::/48", RouteSpec::Unreachable),
    ] {
        writer.set_route(prefix.parse().unwrap(), &route).unwrap();
    }
    let all = |vip| [frontend(vip, 80, 6), frontend(vip, 53, 17), frontend(vip, 9, 132)];
    writer
        .set_service("default/web", &service("default/web:http", &all(VIP), &[("10.0.2.10", 8080)]))
        .unwrap();
    writer
        .set_service(
            "default/web/6",
            &service("default/web:http", &all(VIP6), &[("2001:db8:2::10", 8080)]),
        )
        .unwrap();
    let empty = |vip| [frontend(vip, 81, 6), frontend(vip, 81, 17), frontend(vip, 81, 132)];
    writer.set_service("default/empty", &service("default/empty:http", &empty(VIP), &[])).unwrap();
    writer
        .set_service("default/empty/6", &service("default/empty:http", &empty(VIP6), &[]))
        .unwrap();
    let mut silent = service("default/silent:http", &[frontend(VIP, 82, 6)], &[]);
    silent.when_cluster_empty = WhenEmpty::Drop;
    writer.set_service("default/silent", &silent).unwrap();
    writer.publish().unwrap();
    writer
}

impl World {
    /// From now on the queues complete checksums.
    pub fn offload_checksums(&mut self) {
        for worker in self.workers.iter_mut().chain(&mut self.twins) {
            for queue in &mut worker.queues {
                let umem = Arc::clone(worker.state.local.pool.umem());
                *queue = MemoryQueue::new(umem, 256).with_checksum_offload();
            }
        }
    }

    /// No interface has an address from now on.
    pub fn forget_addresses(&mut self) {
        for worker in self.workers.iter_mut().chain(&mut self.twins) {
            let mut all: Vec<Interface> = worker.state.local.interfaces.iter().cloned().collect();
            all.iter_mut().for_each(|interface| interface.addresses.clear());
            worker.state.local.interfaces = Arc::new(Interfaces::new(all).unwrap());
        }
    }

    /// From now on this interface leads to the node's own stack.
    pub fn make_trunk_of(&mut self, interface: u16) {
        for worker in self.workers.iter_mut().chain(&mut self.twins) {
            let mut all: Vec<Interface> = worker.state.local.interfaces.iter().cloned().collect();
            all[usize::from(interface)].kind = InterfaceKind::HOST;
            worker.state.local.interfaces = Arc::new(Interfaces::new(all).unwrap());
        }
    }

    /// Gives every interface this MTU.
    pub fn set_mtu(&mut self, mtu: u32) {
        for worker in self.workers.iter_mut().chain(&mut self.twins) {
            let mut all: Vec<Interface> = worker.state.local.interfaces.iter().cloned().collect();
            for interface in &mut all {
                interface.mtu = mtu;
            }
            worker.state.local.interfaces = Arc::new(Interfaces::new(all).unwrap());
        }
    }

    /// Somebody has taken `frames` frames out of worker 0's pool, which has no twin from now on.
    pub fn lend(&mut self, frames: usize) {
        self.twins.clear();
        self.workers[0].frames -= frames;
    }
}
