//! Frames of any bytes through the engine's whole line, over queues in memory and small fixed tables.
//!
//! An input is a list of frames: a byte that says where and when (bit 0 the interface, bits 4 to 6 how much later than the frame
//! before), the length in 16 bits (little end first), the bytes. One worker sees them one after the other, so an input can be a
//! whole conversation.

use millrace_dataplane::clock::{MILLISECOND, Nanos, SECOND};
use millrace_dataplane::counters::Ledger;
use millrace_dataplane::driver::memory::MemoryQueue;
use millrace_dataplane::interface::{Interface, Interfaces};
use millrace_dataplane::pipeline::{self, Local, Settings};
use millrace_dataplane::state::State;
use millrace_dataplane::trace::{Recorder, Step};
use millrace_dataplane::verdict::Verdict;
use millrace_tables::{
    BackendSpec, FrontendKind, FrontendSpec, InterfaceId, InterfaceKind, NextHop, RouteSpec,
    SegmentConfig, ServiceSpec, SetChoice, Tables, Writer,
};
use millrace_wire::{Addr, Mac, View, ethernet, ipv4, vlan};
use millrace_xsk::{Pool, Umem, UmemConfig};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

const MACS: [Mac; 2] = [Mac([2, 0, 0, 0, 0, 0x10]), Mac([2, 0, 0, 0, 0, 0x20])];
const FRAMES: u32 = 64;
/// Most frames that are taken from an input.
const LONGEST: usize = 64;
/// How much later than the one before a frame may come.
const LATER: [Nanos; 8] =
    [0, 1, MILLISECOND, 500 * MILLISECOND, SECOND, 4 * SECOND, 61 * SECOND, 20_000 * SECOND];

/// The name of a verdict's kind, for tests that ask what was reached.
fn name(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Transmit { .. } => "transmit",
        Verdict::Reply(kind) => kind.name(),
        Verdict::Hold { .. } => "hold",
        Verdict::Punt(reason) => reason.name(),
        Verdict::Drop(reason) => reason.name(),
    }
}

/// Sends the input's frames and checks that each gets one verdict, that the books balance, that no frame is lost and that what
/// leaves is sound. Answers the verdicts' names.
pub fn check(data: &[u8]) -> BTreeSet<&'static str> {
    static TABLES: OnceLock<Arc<Tables>> = OnceLock::new();
    let tables = TABLES.get_or_init(tables);
    let mut worker = Worker::new();
    let (mut rest, mut now) = (data, 100 * SECOND);
    let mut reached = BTreeSet::new();
    for _ in 0..LONGEST {
        let Some((&[how, low, high], tail)) = rest.split_first_chunk::<3>() else { break };
        let (bytes, tail) =
            tail.split_at(usize::from(u16::from_le_bytes([low, high])).min(tail.len()));
        rest = tail;
        now += LATER[usize::from(how >> 4 & 7)];
        reached.extend(worker.frame(usize::from(how & 1), bytes, tables, now).map(name));
    }
    reached
}

struct Worker {
    state: State,
    queues: Vec<MemoryQueue>,
}

impl Worker {
    fn new() -> Self {
        let interface = |id: u16, name, mtu, addresses: [&str; 2]| {
            let addresses =
                addresses.iter().map(|text| text.parse().expect("an address")).collect();
            let mac = MACS[usize::from(id)];
            Interface::new(
                InterfaceId(id),
                name,
                mac,
                mtu,
                InterfaceKind::UPLINK,
                addresses,
                id == 1,
            )
        };
        let interfaces = Interfaces::new(vec![
            interface(0, "up0", 1500, ["10.0.1.1/24", "2001:db8:1::1/64"]),
            interface(1, "down0", 1400, ["10.0.2.1/24", "2001:db8:2::1/64"]),
        ])
        .expect("two interfaces");
        let config = UmemConfig { frames: FRAMES, ..UmemConfig::default() };
        let (umem, frames) = Umem::new(&config).expect("a UMEM");
        let queues = (0..2).map(|_| MemoryQueue::new(Arc::clone(&umem), 32)).collect();
        let local = Local::new(Pool::new(&umem, frames), Arc::new(interfaces), Settings::default());
        let state = State::alone(local).expect("a state");
        let known = [
            (0, "10.0.1.2", 0x12),
            (0, "2001:db8:1::2", 0x12),
            (1, "10.0.2.10", 0x22),
            (1, "2001:db8:2::10", 0x22),
        ]
        .map(|(interface, text, mac)| {
            (InterfaceId(interface), addr(text), Mac([2, 0, 0, 0, 1, mac]))
        });
        state.neighbors.sync_static(known.into_iter(), 0);
        Self { state, queues }
    }

    /// One frame, and the turn that goes with it.
    fn frame(
        &mut self,
        from: usize,
        bytes: &[u8],
        tables: &Tables,
        now: Nanos,
    ) -> impl Iterator<Item = Verdict> + use<> {
        let Self { state, queues } = self;
        let offered = queues[from].offer(&mut state.local.pool, bytes);
        let (id, snapshot) = (InterfaceId(from as u16), tables.snapshot());
        let mut seen = Recorder::default();
        let received = pipeline::burst(id, queues, snapshot, state, now, &mut seen);
        assert_eq!(received, usize::from(offered));
        let verdicts =
            |steps: &[Step]| steps.iter().filter(|step| matches!(step, Step::Verdict(_))).count();
        assert_eq!(verdicts(&seen.steps), received, "one verdict a frame");
        pipeline::tick(queues, snapshot, state, now, &mut seen);
        state.quiesce();
        self.check_sent();
        self.check_books();
        seen.steps.into_iter().filter_map(|step| match step {
            Step::Verdict(verdict) => Some(verdict),
            _ => None,
        })
    }

    fn check_sent(&mut self) {
        for (mac, queue) in MACS.iter().zip(&mut self.queues) {
            for sent in queue.sent(&mut self.state.local.pool) {
                let (header, rest) =
                    ethernet::Header::view(&sent.bytes).expect("an Ethernet header");
                assert_eq!(header.src, *mac, "sent from our own MAC");
                let tags = vlan::walk(header.ether_type, rest);
                let Ok(tags) = tags else { continue };
                if tags.ether_type == ethernet::EtherType::IPV4
                    && let Ok((header, options, _)) = ipv4::Header::parse(&rest[tags.len..])
                {
                    assert!(header.checksum_ok(options), "{:02x?}", sent.bytes);
                    assert!(header.ttl > 0, "{:02x?}", sent.bytes);
                }
            }
        }
    }

    fn check_books(&self) {
        for interface in 0..2 {
            let block = self.state.counters.interface(InterfaceId(interface));
            let ledger = Ledger::read(|place| block.get(place));
            assert_eq!(ledger.imbalance(), 0, "interface {interface}: {ledger:?}");
        }
        let in_flight: usize = self.queues.iter().map(MemoryQueue::in_flight).sum();
        let held = self.state.local.held();
        assert!(self.state.local.pool.len() + in_flight + held <= FRAMES as usize);
        if held == 0 {
            assert_eq!(
                self.state.local.pool.len() + in_flight,
                FRAMES as usize,
                "a frame was lost"
            );
        }
    }
}

fn addr(text: &str) -> Addr {
    text.parse::<IpAddr>().expect("an address").into()
}

/// As those of `dataplane/tests/path/world.rs`: two networks, services in both families, a router behind the client.
fn tables() -> Arc<Tables> {
    let config = SegmentConfig { bytes: 64 << 20, seed: Some(1), ..SegmentConfig::default() };
    let mut writer = Writer::create(&config).expect("a segment");
    let hop = |interface, gateway: Option<&str>| {
        let gateway = gateway.map(addr);
        RouteSpec::Forward(vec![(NextHop { interface: InterfaceId(interface), gateway }, 1)])
    };
    for (prefix, route) in [
        ("10.0.1.0/24", hop(0, None)),
        ("10.0.2.0/24", hop(1, None)),
        ("10.0.1.1/32", RouteSpec::Local),
        ("10.0.2.1/32", RouteSpec::Local),
        ("2001:db8:1::/64", hop(0, None)),
        ("2001:db8:2::/64", hop(1, None)),
        ("2001:db8:1::1/128", RouteSpec::Local),
        ("2001:db8:2::1/128", RouteSpec::Local),
        ("198.51.100.0/24", hop(0, Some("10.0.1.2"))),
        ("2001:db8:100::/48", hop(0, Some("2001:db8:1::2"))),
        ("203.0.113.0/24", RouteSpec::Blackhole),
        ("192.0.2.0/24", RouteSpec::Unreachable),
    ] {
        writer.set_route(prefix.parse().expect("a prefix"), &route).expect("a route");
    }
    for (key, vip, backends) in [
        ("default/web", "172.30.0.41", Some("10.0.2.10")),
        ("default/web/v6", "fd00:30::41", Some("2001:db8:2::10")),
        ("default/empty", "172.30.0.42", None),
    ] {
        let frontend = |port, protocol| FrontendSpec {
            addr: addr(vip),
            port,
            protocol,
            kind: FrontendKind::CLUSTER_IP,
            set: SetChoice::Cluster,
            flags: 0,
        };
        let backend = |text: &str| BackendSpec {
            addr: addr(text),
            port: 8080,
            name: text.to_owned(),
            weight: 1,
            local: false,
            terminating: false,
            in_cluster: true,
            in_local: false,
        };
        let spec = ServiceSpec {
            name: key.to_owned(),
            frontends: vec![frontend(80, 6), frontend(53, 17), frontend(9, 132)],
            backends: backends.map(backend).into_iter().collect(),
            ..ServiceSpec::default()
        };
        writer.set_service(key, &spec).expect("a service");
    }
    writer.publish().expect("tables");
    writer.tables()
}
