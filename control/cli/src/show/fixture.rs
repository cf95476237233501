//! An engine that doesn't run: its two segments, filled by hand, and an observer of them.

use std::net::IpAddr;
use std::os::unix::net::UnixStream;

use ipnet::IpNet;
use millrace_dataplane::state::segment::{Segment, Settings, Sizes};
use millrace_tables::session::{Interface, Session};
use millrace_tables::{
    BackendSpec, FrontendKind, FrontendSpec, GuardSpec, InterfaceId, InterfaceKind, InterfaceSpec,
    NextHop, PolicyId, PolicySpec, RouteSpec, SegmentConfig, ServiceSpec, SetChoice, WhenEmpty,
    Writer,
};
use millrace_wire::{Addr, Mac, Protocol};

use crate::live::Engine;

/// Two workers, interfaces `eth0` and `eth1`, three services, a few routes.
pub(super) struct Fixture {
    pub segment: Segment,
    pub settings: Settings,
    pub engine: Engine,
    writer: Writer,
    _peer: UnixStream,
}

pub(super) fn addr(text: &str) -> Addr {
    Addr::from(text.parse::<IpAddr>().unwrap())
}

pub(super) fn mac(last: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, last])
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

impl Fixture {
    pub fn new() -> Self {
        let sizes =
            Sizes { workers: 2, interfaces: 2, conntrack_entries: 4096, neighbor_entries: 64 };
        let segment = Segment::create(&sizes, [0, 0]).unwrap();
        let mut writer =
            Writer::create(&SegmentConfig { bytes: 64 << 20, ..SegmentConfig::default() }).unwrap();
        set_services(&mut writer);
        set_routes(&mut writer);
        for (id, name, pods, shadow) in [
            (0, "NetworkPolicy default/web", 3, false),
            (3, "ClusterNetworkPolicy watch", 40, true),
        ] {
            let spec = PolicySpec { name: name.into(), pods, shadow };
            writer.set_policy(PolicyId(id), &spec).unwrap();
        }
        let row = InterfaceSpec {
            id: InterfaceId(1),
            kind: InterfaceKind::UPLINK,
            mac: mac(0xf1),
            mtu: 9000,
            name: "eth1".into(),
            addresses: vec!["198.51.100.7/24".parse().unwrap()],
        };
        writer.set_interface(&row).unwrap();
        writer.publish().unwrap();

        let interfaces = vec![
            interface(1, "eth1", 9000, &["192.168.1.2/24"]),
            interface(0, "eth0", 1500, &["192.168.0.2/24", "fd00:192::2/64"]),
        ];
        let (socket, peer) = UnixStream::pair().unwrap();
        let session = Session::from_fd(socket.into());
        let state = segment.fd().try_clone_to_owned().unwrap();
        let engine = Engine::new(writer.tables(), state, interfaces, session).unwrap();
        Self { segment, settings: Settings::of(&sizes), engine, writer, _peer: peer }
    }

    /// Gives an interface to one pod alone.
    pub fn guard(&mut self, id: u16, name: &str) {
        let spec = GuardSpec { name: name.into(), mac: mac(7), addresses: vec![addr("10.0.0.7")] };
        self.writer.set_guard(InterfaceId(id), &spec).unwrap();
        self.writer.publish().unwrap();
    }
}

fn interface(id: u16, name: &str, mtu: u32, addresses: &[&str]) -> Interface {
    Interface {
        id,
        name: name.into(),
        mac: mac(0xf0 + id as u8),
        mtu,
        addresses: addresses.iter().map(|text| net(text)).collect(),
        kind: "uplink".into(),
        index: u32::from(id) + 7,
        mode: "copy".into(),
    }
}

fn frontend(
    address: &str,
    port: u16,
    protocol: Protocol,
    kind: FrontendKind,
    set: SetChoice,
) -> FrontendSpec {
    FrontendSpec { addr: addr(address), port, protocol: protocol.0, kind, set, flags: 0 }
}

fn backend(address: &str, port: u16, local: bool) -> BackendSpec {
    BackendSpec {
        addr: addr(address),
        port,
        name: format!("default/{address}"),
        weight: 1,
        local,
        terminating: false,
        in_cluster: true,
        in_local: local,
    }
}

fn set_services(writer: &mut Writer) {
    let (tcp, cluster) = (Protocol::TCP, SetChoice::Cluster);
    let web = ServiceSpec {
        name: "default/web:http".into(),
        frontends: vec![
            frontend("192.168.0.2", 30080, tcp, FrontendKind::NODE_PORT, SetChoice::Local),
            frontend("172.30.0.41", 80, tcp, FrontendKind::CLUSTER_IP, cluster),
        ],
        backends: vec![
            backend("10.0.2.9", 8080, false),
            backend("10.0.1.20", 8080, false),
            backend("10.0.1.7", 8080, true),
        ],
        affinity_seconds: 10_800,
        ..ServiceSpec::default()
    };
    let six = ServiceSpec {
        name: "default/six:".into(),
        frontends: vec![frontend(
            "fd00:30::41",
            80,
            Protocol::SCTP,
            FrontendKind::CLUSTER_IP,
            cluster,
        )],
        backends: vec![backend("fd00::1", 80, false)],
        ..ServiceSpec::default()
    };
    let empty = ServiceSpec {
        name: "default/empty:dns".into(),
        frontends: vec![frontend(
            "172.30.0.10",
            53,
            Protocol::UDP,
            FrontendKind::CLUSTER_IP,
            cluster,
        )],
        when_cluster_empty: WhenEmpty::Drop,
        ..ServiceSpec::default()
    };
    for spec in [web, six, empty] {
        writer.set_service(&spec.name, &spec).unwrap();
    }
}

fn set_routes(writer: &mut Writer) {
    let hop = |interface, gateway: Option<&str>| NextHop {
        interface: InterfaceId(interface),
        gateway: gateway.map(addr),
    };
    let ecmp = vec![(hop(0, Some("192.168.0.1")), 3), (hop(1, Some("192.168.1.1")), 1)];
    for (prefix, spec) in [
        ("0.0.0.0/0", RouteSpec::Forward(ecmp)),
        ("192.168.0.0/24", RouteSpec::Forward(vec![(hop(0, None), 1)])),
        ("192.168.0.2/32", RouteSpec::Local),
        ("198.51.100.0/24", RouteSpec::Blackhole),
        ("203.0.113.0/24", RouteSpec::Unreachable),
    ] {
        writer.set_route(net(prefix), &spec).unwrap();
    }
}
