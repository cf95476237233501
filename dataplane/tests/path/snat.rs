//! Masquerade: the address of the way out and a port by chance, both ways, in every protocol (features D7, D17, E3, E10).

use std::collections::BTreeSet;

use etherparse::TcpHeader;
use millrace_dataplane::clock::SECOND;
use millrace_dataplane::pipeline::Settings;
use millrace_dataplane::snat::{NODE_PORTS, Ports};
use millrace_dataplane::verdict::{DropReason, Verdict};
use millrace_tables::{Frontend, FrontendSpec, InterfaceId, NodeSpec, SetChoice};

use crate::packets::{Ip, between, on};
use crate::world::*;

const OUTSIDE: &str = "172.30.0.50";
const OUTSIDE6: &str = "fd00:30::50";
/// Client, frontend, our address towards the backend, backend.
const FAMILIES: [(&str, &str, &str, &str); 2] = [
    ("198.51.100.7", OUTSIDE, "10.0.2.1", "10.0.2.10"),
    ("2001:db8:100::7", OUTSIDE6, "2001:db8:2::1", "2001:db8:2::10"),
];

type Maker = fn(&Ip, u16, u16) -> Vec<u8>;
const PROTOCOLS: [(u16, Maker); 3] = [
    (80, |ip, sport, dport| ip.tcp(sport, dport, ack, b"some data that is quoted")),
    (53, |ip, sport, dport| ip.udp(sport, dport, b"question")),
    (9, |ip, sport, dport| ip.sctp(sport, dport, &[1, 0, 0, 8, 1, 2, 3, 4])),
];

fn ack(header: &mut TcpHeader) {
    header.ack = true;
}

fn frontends(vip: &str, flags: u8) -> Vec<FrontendSpec> {
    [(80, 6), (53, 17), (9, 132)]
        .map(|(port, protocol)| FrontendSpec { flags, ..frontend(vip, port, protocol) })
        .to_vec()
}

fn masquerading(mut world: World) -> World {
    for (_, vip, _, backend) in FAMILIES {
        let all = frontends(vip, Frontend::MASQUERADE);
        world.writer.set_service(vip, &service(vip, &all, &[(backend, 8080)])).unwrap();
    }
    world.writer.publish().unwrap();
    world
}

fn world() -> World {
    masquerading(World::new())
}

/// An engine with these source ports and no others.
fn with_ports(ports: std::ops::RangeInclusive<u16>) -> World {
    let settings =
        Settings { snat_ports: Ports::new(&[ports], &[]).unwrap(), ..Settings::default() };
    let mut world = World::unresolved(1, false, settings);
    world.learn();
    masquerading(world)
}

/// Source port of a frame without tags and options.
fn sport(frame: &[u8]) -> u16 {
    let at = if frame[12..14] == [8, 0] { 34 } else { 54 };
    u16::from_be_bytes([frame[at], frame[at + 1]])
}

#[test]
fn a_masqueraded_flow_leaves_with_our_address_and_its_answers_find_back() {
    for (client, vip, ours, backend) in FAMILIES {
        for (port, make) in PROTOCOLS {
            let mut world = world();
            let packet = on(&client_link(), make(&between(client, vip), 4000, port));
            let chosen = sport(&world.send(UP, &packet)[0].bytes);
            for _ in 0..2 {
                let sent = world.send(UP, &packet);
                let out = make(&between(ours, backend).ttl(63), chosen, 8080);
                assert_eq!(sent[0].bytes, on(&to_backend(), out));
                let back = world
                    .send(DOWN, &on(&backend_link(), make(&between(backend, ours), 8080, chosen)));
                let out = make(&between(vip, client).ttl(63), port, 4000);
                assert_eq!(back[0].bytes, on(&to_client(), out));
            }
        }
    }
}

#[test]
fn ports_are_chosen_by_chance_and_never_a_node_port() {
    let mut world = world();
    let mut seen = BTreeSet::new();
    for port in 1000..3000 {
        let sent = world
            .send(UP, &on(&client_link(), between("198.51.100.7", OUTSIDE).udp(port, 53, b"q")));
        let chosen = sport(&sent[0].bytes);
        assert!(chosen >= 1024 && !NODE_PORTS.contains(&chosen), "{chosen}");
        assert!(seen.insert(chosen), "{chosen} twice to one backend");
    }
    let quarters: BTreeSet<u16> = seen.iter().map(|port| port / 16_384).collect();
    assert_eq!(quarters.len(), 4);
    let in_order = seen.range(1000..3000).count();
    assert!(in_order < 200, "{in_order} of 2000 in the range of the client's own");
}

#[test]
fn two_clients_with_one_port_are_told_apart() {
    let mut world = world();
    let clients = ["198.51.100.7", "198.51.100.8"];
    let chosen = clients.map(|client| {
        let sent =
            world.send(UP, &on(&client_link(), between(client, OUTSIDE).udp(4000, 53, b"q")));
        sport(&sent[0].bytes)
    });
    assert_ne!(chosen[0], chosen[1]);
    for (client, port) in clients.into_iter().zip(chosen) {
        let answer = between("10.0.2.10", "10.0.2.1").udp(8080, port, b"a");
        let back = world.send(DOWN, &on(&backend_link(), answer));
        let out = between(OUTSIDE, client).ttl(63).udp(53, 4000, b"a");
        assert_eq!(back[0].bytes, on(&to_client(), out));
    }
}

#[test]
fn errors_about_a_masqueraded_flow_are_turned_back_whole() {
    for ((client, vip, ours, backend), kinds) in FAMILIES.into_iter().zip([(3, 3), (1, 4)]) {
        for (port, make) in PROTOCOLS {
            let mut world = world();
            let packet = make(&between(client, vip), 4000, port);
            let sent = world.send(UP, &on(&client_link(), packet.clone()));
            let chosen = sport(&sent[0].bytes);
            // The backend refuses what it got; the client reads what it sent itself.
            let got = make(&between(ours, backend), chosen, 8080);
            let error = between(backend, ours).icmp(kinds.0, kinds.1, 0, &got);
            let wanted = between(vip, client).ttl(63).icmp(kinds.0, kinds.1, 0, &packet);
            let sent = world.send(DOWN, &on(&backend_link(), error));
            assert_eq!(sent[0].bytes, on(&to_client(), wanted), "{:#?}", world.steps);
            // The client refuses an answer; the backend reads its own.
            let answer = make(&between(backend, ours), 8080, chosen);
            let got = make(&between(vip, client), port, 4000);
            let error = between(client, vip).icmp(kinds.0, kinds.1, 0, &got);
            let wanted = between(ours, backend).ttl(63).icmp(kinds.0, kinds.1, 0, &answer);
            let sent = world.send(UP, &on(&client_link(), error));
            assert_eq!(sent[0].bytes, on(&to_backend(), wanted), "{:#?}", world.steps);
        }
    }
}

#[test]
fn a_backend_that_is_sent_to_itself_is_answered_through_us() {
    let mut world = World::new();
    let sent = world.send(DOWN, &on(&backend_link(), between("10.0.2.10", VIP).syn(4000, 80)));
    let chosen = sport(&sent[0].bytes);
    let out = between("10.0.2.1", "10.0.2.10").ttl(63).syn(chosen, 8080);
    assert_eq!((sent[0].interface, &sent[0].bytes), (DOWN, &on(&to_backend(), out)));
    let answer = between("10.0.2.10", "10.0.2.1").tcp(
        8080,
        chosen,
        |tcp| (tcp.syn, tcp.ack) = (true, true),
        b"",
    );
    let sent = world.send(DOWN, &on(&backend_link(), answer));
    let out = between(VIP, "10.0.2.10").ttl(63).tcp(
        80,
        4000,
        |tcp| (tcp.syn, tcp.ack) = (true, true),
        b"",
    );
    assert_eq!((sent[0].interface, &sent[0].bytes), (DOWN, &on(&to_backend(), out)));
}

#[test]
fn the_last_ports_are_found_and_then_flows_are_refused_and_counted() {
    let mut world = with_ports(2000..=2999);
    let mut seen = BTreeSet::new();
    for port in 1000..2000 {
        let sent = world
            .send(UP, &on(&client_link(), between("198.51.100.7", OUTSIDE).udp(port, 53, b"q")));
        assert!(seen.insert(sport(&sent[0].bytes)), "after {}", seen.len());
    }
    assert_eq!(seen, (2000..=2999).collect());
    let one_more = on(&client_link(), between("198.51.100.7", OUTSIDE).udp(2000, 53, b"q"));
    world.expect(
        UP,
        &one_more,
        DropReason::SnatExhausted.into(),
        &[],
        &["up0 rx_packets", "up0 snat_exhausted"],
    );
    // Another protocol, another backend's port: other tuples. A flow that is known goes on.
    for packet in [
        between("198.51.100.7", OUTSIDE).syn(2000, 80),
        between("198.51.100.7", OUTSIDE).udp(1500, 53, b"q"),
    ] {
        assert_eq!(world.send(UP, &on(&client_link(), packet)).len(), 1);
    }
    // Once flows are over their ports are free.
    world.now += 31 * SECOND;
    assert_eq!(world.send(UP, &one_more).len(), 1);
}

#[test]
fn a_connection_that_is_over_makes_room_the_oldest_first() {
    let mut world = with_ports(2000..=2003);
    let there = between("198.51.100.7", OUTSIDE);
    let reset = |tcp: &mut TcpHeader| (tcp.rst, tcp.ack) = (true, true);
    let mut chosen = Vec::new();
    for port in 4000..4004 {
        let sent = world.send(UP, &on(&client_link(), there.syn(port, 80)));
        chosen.push(sport(&sent[0].bytes));
    }
    let refused = on(&client_link(), there.syn(4004, 80));
    assert!(world.send(UP, &refused).is_empty());
    assert_eq!(world.verdicts(), [Verdict::Drop(DropReason::SnatExhausted)]);
    for port in [4002, 4001] {
        assert_eq!(world.send(UP, &on(&client_link(), there.tcp(port, 80, reset, b""))).len(), 1);
        world.now += SECOND;
    }
    for (port, taken) in [(4004, chosen[2]), (4005, chosen[1])] {
        let sent = world.send(UP, &on(&client_link(), there.syn(port, 80)));
        assert_eq!(sport(&sent[0].bytes), taken, "{:#?}", world.steps);
        let answer = between("10.0.2.10", "10.0.2.1").tcp(8080, taken, ack, b"x");
        let back = world.send(DOWN, &on(&backend_link(), answer));
        let out = between(OUTSIDE, "198.51.100.7").ttl(63).tcp(80, port, ack, b"x");
        assert_eq!(back[0].bytes, on(&to_client(), out));
    }
    assert!(world.send(UP, &on(&client_link(), there.syn(4006, 80))).is_empty());
}

#[test]
fn two_workers_never_give_one_port_to_two_flows() {
    let mut world = World::two_workers();
    world = masquerading(world);
    let mut seen = BTreeSet::new();
    for port in 1000..2000 {
        for worker in 0..2 {
            let client = ["198.51.100.7", "198.51.100.8"][worker];
            let packet = on(&client_link(), between(client, OUTSIDE).udp(port, 53, b"q"));
            let sent = world.send_all(worker, UP, &[packet]);
            assert!(seen.insert(sport(&sent[0].bytes)));
        }
    }
}

#[test]
fn whose_source_is_changed_hangs_on_the_frontend_and_the_nodes_row() {
    let mut world = World::new();
    let row = NodeSpec {
        pods: vec!["198.51.100.0/25".parse().unwrap()],
        sources: vec![(InterfaceId(DOWN), "10.0.2.200/24".parse().unwrap())],
        ..NodeSpec::default()
    };
    world.writer.set_node(&row).unwrap();
    let (pod, stranger, us) = ("198.51.100.7", "198.51.100.200", "10.0.1.1");
    let spec = |flags, set| {
        let mut all = frontends(OUTSIDE, flags);
        all.iter_mut().for_each(|it| it.set = set);
        let mut spec = service(OUTSIDE, &all, &[("10.0.2.10", 8080), ("10.0.2.10", 9090)]);
        spec.backends[1].in_local = true;
        spec
    };
    let local = SetChoice::Local;
    for (flags, set, source, masqueraded, anywhere) in [
        (0, SetChoice::Cluster, stranger, false, true),
        (Frontend::MASQUERADE, SetChoice::Cluster, pod, true, true),
        (Frontend::MASQUERADE_FOREIGN, SetChoice::Cluster, pod, false, true),
        (Frontend::MASQUERADE_FOREIGN, SetChoice::Cluster, stranger, true, true),
        (Frontend::SHORT_CIRCUIT, local, pod, false, true),
        (Frontend::SHORT_CIRCUIT, local, stranger, false, false),
        (Frontend::SHORT_CIRCUIT, local, us, true, true),
    ] {
        world.writer.set_service(OUTSIDE, &spec(flags, set)).unwrap();
        world.writer.publish().unwrap();
        let mut ports = BTreeSet::new();
        for port in 1000..1040 {
            let packet = on(&client_link(), between(source, OUTSIDE).udp(port, 53, b"q"));
            let sent = world.send(UP, &packet);
            let bytes = &sent[0].bytes;
            ports.insert(u16::from_be_bytes([bytes[36], bytes[37]]));
            let expected = if masqueraded { [10, 0, 2, 200] } else { addr(source).v4().unwrap() };
            assert_eq!(bytes[26..30], expected, "{flags} {source}");
        }
        assert_eq!(ports.contains(&8080), anywhere, "{flags} {source}");
        assert!(ports.contains(&9090));
        world.now += 100_000 * SECOND;
        world.learn();
    }
}

#[test]
fn without_an_address_of_the_family_nothing_leaves() {
    let mut world = world();
    world.forget_addresses();
    let packet = on(&client_link(), between("198.51.100.7", OUTSIDE).syn(4000, 80));
    world.expect(
        UP,
        &packet,
        DropReason::NoSnatAddress.into(),
        &[],
        &["up0 rx_packets", "up0 no_snat_address"],
    );
}
