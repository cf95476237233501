//! Services: translated both ways, one table for all workers (features D1–D3; E6, E11).

use etherparse::TcpHeader;
use millrace_dataplane::clock::SECOND;
use millrace_dataplane::trace::Step;
use millrace_dataplane::verdict::{DropReason, ReplyKind, Verdict};
use millrace_tables::InterfaceId;
use millrace_xsk::TxOffload;

use crate::packets::{Ip, between, on};
use crate::world::*;

const CLIENTS: [(&str, &str, &str); 2] =
    [("10.0.1.2", VIP, "10.0.2.10"), ("2001:db8:1::2", VIP6, "2001:db8:2::10")];

fn transmit(interface: u16) -> Verdict {
    Verdict::Transmit { interface: InterfaceId(interface), offload: TxOffload::None }
}

fn ack(header: &mut TcpHeader) {
    header.ack = true;
    header.acknowledgment_number = 5000;
}

/// One packet of each protocol: protocol's frontend port, backend port, and how to make it.
type Maker = fn(&Ip, u16, u16) -> Vec<u8>;
const PROTOCOLS: [(u16, Maker); 3] = [
    (80, |ip, sport, dport| ip.syn(sport, dport)),
    (53, |ip, sport, dport| ip.udp(sport, dport, b"question")),
    (9, |ip, sport, dport| ip.sctp(sport, dport, &[1, 0, 0, 8, 1, 2, 3, 4])),
];

#[test]
fn a_flow_to_a_service_goes_to_its_backend_and_back() {
    for (client, vip, backend) in CLIENTS {
        for (port, make) in PROTOCOLS {
            let mut world = World::new();
            let there = (between(client, vip), between(client, backend).ttl(63));
            let back = (between(backend, client), between(vip, client).ttl(63));
            for _ in 0..3 {
                let packet = on(&client_link(), make(&there.0, 4000, port));
                let out = on(&to_backend(), make(&there.1, 4000, 8080));
                world.expect(
                    UP,
                    &packet,
                    transmit(DOWN),
                    &[(DOWN, out)],
                    &["up0 rx_packets", "up0 tx_packets", "down0 out_packets"],
                );
                let packet = on(&backend_link(), make(&back.0, 8080, 4000));
                let out = on(&to_client(), make(&back.1, port, 4000));
                world.expect(
                    DOWN,
                    &packet,
                    transmit(UP),
                    &[(UP, out)],
                    &["down0 rx_packets", "down0 tx_packets", "up0 out_packets"],
                );
            }
        }
    }
}

#[test]
fn a_known_flow_takes_the_shortcut_and_a_new_generation_takes_the_line_once() {
    let mut world = World::new();
    let packet = on(&client_link(), between("10.0.1.2", VIP).syn(4000, 80));
    let line = |world: &World| world.steps.iter().any(|step| matches!(step, Step::Route { .. }));
    world.send(UP, &packet);
    assert!(line(&world), "a new flow");
    world.send(UP, &packet);
    assert!(!line(&world), "a known one");
    world
        .writer
        .set_route("100.64.0.0/16".parse().unwrap(), &millrace_tables::RouteSpec::Blackhole)
        .unwrap();
    world.writer.publish().unwrap();
    world.send(UP, &packet);
    assert!(line(&world), "the tables changed");
    world.send(UP, &packet);
    assert!(!line(&world), "decided anew");
}

#[test]
fn a_flow_keeps_its_backend_when_the_endpoints_change() {
    let mut world = World::new();
    let packet = on(&client_link(), between("10.0.1.2", VIP).syn(4000, 80));
    let out = on(&to_backend(), between("10.0.1.2", "10.0.2.10").ttl(63).syn(4000, 8080));
    assert_eq!(world.send(UP, &packet)[0].bytes, out);
    let frontends = [frontend(VIP, 80, 6)];
    world
        .writer
        .set_service(
            "default/web",
            &service("default/web:http", &frontends, &[("10.0.2.11", 8080)]),
        )
        .unwrap();
    world.writer.publish().unwrap();
    let data = between("10.0.1.2", VIP).tcp(4000, 80, ack, b"go on");
    let out = between("10.0.1.2", "10.0.2.10").ttl(63).tcp(4000, 8080, ack, b"go on");
    assert_eq!(world.send(UP, &on(&client_link(), data))[0].bytes, on(&to_backend(), out));
    world.send(UP, &on(&client_link(), between("10.0.1.2", VIP).syn(4001, 80)));
    assert_eq!(
        world.verdicts(),
        [Verdict::Hold { interface: InterfaceId(DOWN), neighbor: addr("10.0.2.11") }],
        "a new flow"
    );
}

#[test]
fn a_route_that_changes_takes_known_flows_along() {
    let mut world = World::new();
    let packet = on(&client_link(), between("10.0.1.2", VIP).syn(4000, 80));
    assert_eq!(world.send(UP, &packet)[0].interface, DOWN);
    let hop =
        millrace_tables::NextHop { interface: InterfaceId(UP), gateway: Some(addr("10.0.1.2")) };
    world
        .writer
        .set_route(
            "10.0.2.10/32".parse().unwrap(),
            &millrace_tables::RouteSpec::Forward(vec![(hop, 1)]),
        )
        .unwrap();
    world.writer.publish().unwrap();
    assert_eq!(
        world.send(UP, &packet)[0].bytes,
        on(&to_client(), between("10.0.1.2", "10.0.2.10").ttl(63).syn(4000, 8080))
    );
}

#[test]
fn the_two_directions_may_be_on_two_workers() {
    for (client, vip, backend) in CLIENTS {
        let mut world = World::two_workers();
        for port in 4000..4050 {
            let there =
                world.send_all(0, UP, &[on(&client_link(), between(client, vip).syn(port, 80))]);
            assert_eq!(
                there[0].bytes,
                on(&to_backend(), between(client, backend).ttl(63).syn(port, 8080))
            );
            let answer = |header: &mut TcpHeader| (header.syn, header.ack) = (true, true);
            let back = world.send_all(
                1,
                DOWN,
                &[on(&backend_link(), between(backend, client).tcp(8080, port, answer, b""))],
            );
            assert_eq!(
                back[0].bytes,
                on(&to_client(), between(vip, client).ttl(63).tcp(80, port, answer, b""))
            );
            let there = world.send_all(
                1,
                UP,
                &[on(&client_link(), between(client, vip).tcp(port, 80, ack, b"GET"))],
            );
            assert_eq!(
                there[0].bytes,
                on(&to_backend(), between(client, backend).ttl(63).tcp(port, 8080, ack, b"GET"))
            );
        }
    }
}

#[test]
fn flows_whose_answers_would_look_alike_get_other_source_ports() {
    let mut world = World::new();
    // Two services, one backend: the same client port to both.
    let other = "172.30.0.42";
    world
        .writer
        .set_service(
            "default/other",
            &service("default/other:http", &[frontend(other, 80, 6)], &[("10.0.2.10", 8080)]),
        )
        .unwrap();
    world.writer.publish().unwrap();
    world.send(UP, &on(&client_link(), between("10.0.1.2", VIP).syn(4000, 80)));
    let sent = world.send(UP, &on(&client_link(), between("10.0.1.2", other).syn(4000, 80)));
    let sport = u16::from_be_bytes([sent[0].bytes[34], sent[0].bytes[35]]);
    assert!(sport >= 1024 && sport != 4000, "{sport}");
    assert_eq!(
        sent[0].bytes,
        on(&to_backend(), between("10.0.1.2", "10.0.2.10").ttl(63).syn(sport, 8080))
    );
    // Each answer finds its own way back.
    for (dport, vip) in [(4000, VIP), (sport, other)] {
        let back = world.send(
            DOWN,
            &on(&backend_link(), between("10.0.2.10", "10.0.1.2").tcp(8080, dport, ack, b"x")),
        );
        assert_eq!(
            back[0].bytes,
            on(&to_client(), between(vip, "10.0.1.2").ttl(63).tcp(80, 4000, ack, b"x"))
        );
    }
}

#[test]
fn a_service_without_endpoints_refuses_or_keeps_silent() {
    for (client, vip, _) in CLIENTS {
        let mut world = World::new();
        let there = between(client, vip);
        let reset = there.clone().reversed().tcp(
            81,
            4000,
            |tcp| {
                (
                    tcp.rst,
                    tcp.ack,
                    tcp.sequence_number,
                    tcp.acknowledgment_number,
                    tcp.window_size,
                ) = (true, true, 0, 1001, 0);
            },
            b"",
        );
        let moved = ["up0 rx_packets", "up0 tcp-reset", "up0 out_packets"];
        world.expect(
            UP,
            &on(&client_link(), there.syn(4000, 81)),
            ReplyKind::TcpReset.into(),
            &[(UP, on(&to_client(), reset))],
            &moved,
        );
        let mut error = there.clone().reversed();
        error.tos = if error.src.is_ipv4() { 0xc0 } else { 0 };
        let (kind, code) = if error.src.is_ipv4() { (3, 3) } else { (1, 4) };
        for packet in [there.udp(4000, 81, b"x"), there.sctp(4000, 81, &[1, 0, 0, 4])] {
            let answer = on(&to_client(), error.icmp(kind, code, 0, &packet));
            let moved = ["up0 rx_packets", "up0 icmp-port-unreachable", "up0 out_packets"];
            world.expect(
                UP,
                &on(&client_link(), packet),
                ReplyKind::PortUnreachable.into(),
                &[(UP, answer)],
                &moved,
            );
        }
        let rst = on(&client_link(), there.tcp(4000, 81, |tcp| tcp.rst = true, b""));
        world.expect(
            UP,
            &rst,
            DropReason::NoBackend.into(),
            &[],
            &["up0 rx_packets", "up0 no_backend"],
        );
    }
    let mut world = World::new();
    let silent = on(&client_link(), between("10.0.1.2", VIP).syn(4000, 82));
    world.expect(
        UP,
        &silent,
        DropReason::NoLocalBackend.into(),
        &[],
        &["up0 rx_packets", "up0 no_local_backend"],
    );
}

#[test]
fn a_port_that_is_no_frontend_is_refused() {
    let mut world = World::new();
    for (packet, kind, name) in [
        (between("10.0.1.2", VIP).syn(4000, 443), ReplyKind::TcpReset, "up0 tcp-reset"),
        (
            between("10.0.1.2", VIP).udp(4000, 80, b""),
            ReplyKind::PortUnreachable,
            "up0 icmp-port-unreachable",
        ),
        (
            between("10.0.1.2", VIP).sctp(4000, 80, b""),
            ReplyKind::PortUnreachable,
            "up0 icmp-port-unreachable",
        ),
        (
            between("10.0.1.2", VIP).packet(47, b"gre?"),
            ReplyKind::ProtocolUnreachable,
            "up0 icmp-protocol-unreachable",
        ),
    ] {
        let before = world.counters().get(name).copied().unwrap_or(0);
        assert_eq!(world.send(UP, &on(&client_link(), packet)).len(), 1);
        assert_eq!(world.verdicts(), [Verdict::Reply(kind)]);
        assert_eq!(world.counters()[name], before + 1);
    }
}

#[test]
fn segments_that_cannot_begin_a_connection_are_dropped() {
    let mut world = World::new();
    let moved = ["up0 rx_packets", "up0 conntrack_invalid"];
    for edit in [
        (|tcp| tcp.rst = true) as fn(&mut TcpHeader),
        |tcp| (tcp.fin, tcp.ack) = (true, true),
        |tcp| (tcp.syn, tcp.ack) = (true, true),
        |tcp| (tcp.syn, tcp.fin) = (true, true),
        |_| {},
    ] {
        let packet = on(&client_link(), between("10.0.1.2", VIP).tcp(4000, 80, edit, b""));
        world.expect(UP, &packet, DropReason::ConntrackInvalid.into(), &[], &moved);
    }
    let sent =
        world.send(UP, &on(&client_link(), between("10.0.1.2", VIP).tcp(4000, 80, ack, b"x")));
    assert_eq!(sent[0].interface, DOWN, "the middle of a connection that began before us goes on");
}

#[test]
fn what_cannot_be_translated_is_dropped_and_not_guessed() {
    let mut world = World::new();
    let vip = between("10.0.1.2", VIP);
    for (what, protocol, payload, reason) in [
        ("two bytes of TCP", 6, vec![0x0f, 0xa0], DropReason::Truncated),
        ("TCP ports alone", 6, vec![0x0f, 0xa0, 0, 80], DropReason::Truncated),
        (
            "a TCP data offset of 4",
            6,
            [&[0x0f, 0xa0, 0, 80][..], &[0; 8], &[0x40, 2], &[0; 6]].concat(),
            DropReason::BadLength,
        ),
        (
            "a TCP data offset past the end",
            6,
            [&[0x0f, 0xa0, 0, 80][..], &[0; 8], &[0xf0, 2], &[0; 6]].concat(),
            DropReason::BadLength,
        ),
        ("a UDP length of 7", 17, vec![0x0f, 0xa0, 0, 53, 0, 7, 0, 0], DropReason::BadLength),
        (
            "a UDP length past the end",
            17,
            vec![0x0f, 0xa0, 0, 53, 0, 9, 0, 0],
            DropReason::BadLength,
        ),
        ("half an SCTP header", 132, vec![0x0f, 0xa0, 0, 9, 0, 0], DropReason::Truncated),
    ] {
        assert_eq!(
            world.send(UP, &on(&client_link(), vip.packet(protocol, &payload))),
            [],
            "{what}"
        );
        assert_eq!(world.verdicts(), [Verdict::Drop(reason)], "{what}");
    }
    let mut unsummed = on(&client_link(), between("2001:db8:1::2", VIP6).udp(4000, 53, b"x"));
    unsummed[14 + 40 + 6..14 + 40 + 8].copy_from_slice(&[0, 0]);
    world.expect(
        UP,
        &unsummed,
        DropReason::BadChecksum.into(),
        &[],
        &["up0 rx_packets", "up0 bad_checksum"],
    );
}

#[test]
fn a_ttl_that_runs_out_leaves_no_flow_behind_and_quotes_what_was_sent() {
    let mut world = World::new();
    let packet = between("10.0.1.2", VIP).ttl(1).syn(4000, 80);
    let mut error = between("10.0.1.1", "10.0.1.2");
    error.tos = 0xc0;
    for _ in 0..2 {
        let sent = world.send(UP, &on(&client_link(), packet.clone()));
        assert_eq!(sent[0].bytes, on(&to_client(), error.icmp(11, 0, 0, &packet)));
        assert!(world.steps.contains(&Step::Untracked), "{:#?}", world.steps);
    }
    // Of a known flow as well.
    world.send(UP, &on(&client_link(), between("10.0.1.2", VIP).syn(4000, 80)));
    let sent = world.send(UP, &on(&client_link(), packet.clone()));
    assert_eq!(sent[0].bytes, on(&to_client(), error.icmp(11, 0, 0, &packet)));
}

#[test]
fn a_held_packet_of_a_new_flow_goes_out_translated() {
    let mut world = World::unresolved(1, false, millrace_dataplane::pipeline::Settings::default());
    let packet = on(&client_link(), between("10.0.1.2", VIP).syn(4000, 80));
    world.send_all(0, UP, &[packet.clone(), packet]);
    world.learn();
    let sent = world.tick(SECOND / 1000);
    let out = on(&to_backend(), between("10.0.1.2", "10.0.2.10").ttl(63).syn(4000, 8080));
    assert_eq!(sent.iter().filter(|it| it.bytes == out).count(), 2);
}

#[test]
fn a_closed_connection_can_be_opened_again() {
    let mut world = World::new();
    let there = between("10.0.1.2", VIP);
    let back = between("10.0.2.10", "10.0.1.2");
    let syn_ack = |tcp: &mut TcpHeader| (tcp.syn, tcp.ack) = (true, true);
    let fin = |tcp: &mut TcpHeader| (tcp.fin, tcp.ack) = (true, true);
    for _ in 0..3 {
        for (interface, packet) in [
            (UP, on(&client_link(), there.syn(4000, 80))),
            (DOWN, on(&backend_link(), back.tcp(8080, 4000, syn_ack, b""))),
            (UP, on(&client_link(), there.tcp(4000, 80, ack, b""))),
            (UP, on(&client_link(), there.tcp(4000, 80, fin, b""))),
            (DOWN, on(&backend_link(), back.tcp(8080, 4000, fin, b""))),
            (UP, on(&client_link(), there.tcp(4000, 80, ack, b""))),
        ] {
            assert_eq!(world.send(interface, &packet).len(), 1);
            assert!(
                matches!(world.verdicts()[..], [Verdict::Transmit { .. }]),
                "{:?}",
                world.verdicts()
            );
        }
        world.now += SECOND;
    }
}

#[test]
fn a_flow_that_expired_begins_anew_with_the_endpoints_of_today() {
    for (port, make) in PROTOCOLS {
        let mut world = World::new();
        let packet = on(&client_link(), make(&between("10.0.1.2", VIP), 4000, port));
        assert_eq!(world.send(UP, &packet).len(), 1);
        let all = [frontend(VIP, 80, 6), frontend(VIP, 53, 17), frontend(VIP, 9, 132)];
        let moved = service("default/web:http", &all, &[("10.0.2.10", 9090)]);
        world.writer.set_service("default/web", &moved).unwrap();
        world.writer.publish().unwrap();
        world.now += 7 * 24 * 3600 * SECOND;
        world.learn();
        let sent = world.send(UP, &packet);
        let out = make(&between("10.0.1.2", "10.0.2.10").ttl(63), 4000, 9090);
        assert_eq!(sent[0].bytes, on(&to_backend(), out), "{:#?}", world.steps);
    }
}
