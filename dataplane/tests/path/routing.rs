//! Forwarding (features A6, A7, B2, B3; RFC 1812, RFC 4291, RFC 4443).

use millrace_dataplane::pipeline::Settings;
use millrace_dataplane::verdict::{DropReason, PuntReason, ReplyKind, Verdict};
use millrace_tables::{InterfaceId, NextHop, RouteSpec};
use millrace_xsk::TxOffload;

use crate::packets::{Ip, Link, between, on};
use crate::world::*;

fn transmit(interface: u16) -> Verdict {
    Verdict::Transmit { interface: InterfaceId(interface), offload: TxOffload::None }
}

/// Our ICMP errors to the client.
fn error_to_client(v6: bool) -> Ip {
    let mut ip = if v6 {
        between("2001:db8:1::1", "2001:db8:1::2")
    } else {
        between("10.0.1.1", "10.0.1.2")
    };
    ip.tos = if v6 { 0 } else { 0xc0 };
    ip
}

const UP_TO_DOWN: [&str; 3] = ["up0 rx_packets", "up0 tx_packets", "down0 out_packets"];

#[test]
fn a_packet_is_forwarded_with_its_ttl_one_less() {
    let mut world = World::new();
    for (src, dst) in [("10.0.1.2", "10.0.2.10"), ("2001:db8:1::2", "2001:db8:2::10")] {
        let ip = between(src, dst);
        let packet = on(&client_link(), ip.udp(1000, 2000, b"payload"));
        let out = on(&to_backend(), ip.ttl(63).udp(1000, 2000, b"payload"));
        world.expect(UP, &packet, transmit(DOWN), &[(DOWN, out)], &UP_TO_DOWN);
    }
}

#[test]
fn a_route_through_a_gateway_may_lead_out_of_the_same_interface() {
    let mut world = World::new();
    let ip = between("10.0.1.7", "198.51.100.9");
    let packet = on(&Link::new([2, 0, 0, 0, 1, 7], UP_MAC), ip.clone().syn(1, 2));
    let out = on(&to_client(), ip.ttl(63).syn(1, 2));
    world.expect(
        UP,
        &packet,
        transmit(UP),
        &[(UP, out)],
        &["up0 rx_packets", "up0 tx_packets", "up0 out_packets"],
    );
}

#[test]
fn tags_and_padding_stay() {
    let mut world = World::new();
    let ip = between("10.0.1.2", "10.0.2.10");
    for tags in [&[][..], &[7], &[7, 300]] {
        let padding = [0xaa; 9];
        let packet =
            [on(&client_link().tagged(tags), ip.udp(1, 2, b"x")), padding.to_vec()].concat();
        let out =
            [on(&to_backend().tagged(tags), ip.clone().ttl(63).udp(1, 2, b"x")), padding.to_vec()]
                .concat();
        world.expect(UP, &packet, transmit(DOWN), &[(DOWN, out)], &UP_TO_DOWN);
    }
}

#[test]
fn a_ttl_that_runs_out_is_answered_with_the_whole_packet_quoted() {
    let mut world = World::new();
    for ttl in [0, 1] {
        for (src, dst, v6) in
            [("10.0.1.2", "10.0.2.10", false), ("2001:db8:1::2", "2001:db8:2::10", true)]
        {
            let packet = between(src, dst).ttl(ttl).udp(33434, 33435, b"traceroute");
            let (kind, code) = if v6 { (3, 0) } else { (11, 0) };
            let answer = on(&to_client(), error_to_client(v6).icmp(kind, code, 0, &packet));
            let moved = ["up0 rx_packets", "up0 icmp-time-exceeded", "up0 out_packets"];
            world.expect(
                UP,
                &on(&client_link(), packet),
                ReplyKind::TimeExceeded.into(),
                &[(UP, answer)],
                &moved,
            );
        }
    }
}

#[test]
fn quotes_are_as_long_as_the_rfcs_allow() {
    let mut world = World::new();
    let packet = between("10.0.1.2", "10.0.2.10").ttl(1).udp(1, 2, &[7; 1300]);
    let sent = world.send(UP, &on(&client_link(), packet.clone()));
    assert_eq!(
        sent[0].bytes,
        on(&to_client(), error_to_client(false).icmp(11, 0, 0, &packet[..576 - 28]))
    );
    let packet = between("2001:db8:1::2", "2001:db8:2::10").ttl(1).udp(1, 2, &[7; 1350]);
    let sent = world.send(UP, &on(&client_link(), packet.clone()));
    assert_eq!(
        sent[0].bytes,
        on(&to_client(), error_to_client(true).icmp(3, 0, 0, &packet[..1280 - 48]))
    );
}

#[test]
fn no_route_and_unreachable_routes_are_answered_and_black_holes_are_not() {
    let mut world = World::new();
    for (src, dst, v6) in [
        ("10.0.1.2", "8.8.8.8", false),
        ("10.0.1.2", "192.0.2.1", false),
        ("2001:db8:1::2", "2001:db8:ffff::1", true),
        ("2001:db8:1::2", "2001:db8:dead::1", true),
    ] {
        let packet = between(src, dst).udp(1, 2, b"x");
        let kind = if v6 { 1 } else { 3 };
        let answer = on(&to_client(), error_to_client(v6).icmp(kind, 0, 0, &packet));
        let moved = ["up0 rx_packets", "up0 icmp-net-unreachable", "up0 out_packets"];
        world.expect(
            UP,
            &on(&client_link(), packet),
            ReplyKind::NetUnreachable.into(),
            &[(UP, answer)],
            &moved,
        );
    }
    let packet = on(&client_link(), between("10.0.1.2", "203.0.113.1").udp(1, 2, b"x"));
    world.expect(
        UP,
        &packet,
        DropReason::Blackhole.into(),
        &[],
        &["up0 rx_packets", "up0 blackhole"],
    );
}

#[test]
fn what_does_not_fit_and_may_not_be_cut_is_answered_with_the_mtu() {
    let mut world = World::new();
    for (src, dst, v6) in
        [("10.0.1.2", "10.0.2.10", false), ("2001:db8:1::2", "2001:db8:2::10", true)]
    {
        let headers = if v6 { 48 } else { 28 };
        let fits = between(src, dst).udp(1, 2, &vec![0; 1400 - headers]);
        assert_eq!(world.send(UP, &on(&client_link(), fits))[0].interface, DOWN);
        let packet = between(src, dst).udp(1, 2, &vec![0; 1401 - headers]);
        let (kind, code, quoted) = if v6 { (2, 0, 1232) } else { (3, 4, 548) };
        let answer =
            on(&to_client(), error_to_client(v6).icmp(kind, code, 1400, &packet[..quoted]));
        let moved = ["up0 rx_packets", "up0 icmp-too-big", "up0 out_packets"];
        world.expect(
            UP,
            &on(&client_link(), packet),
            ReplyKind::TooBig.into(),
            &[(UP, answer)],
            &moved,
        );
    }
}

#[test]
fn errors_are_never_answered_with_errors() {
    let mut world = World::new();
    let quoted = between("10.0.2.10", "10.0.1.2").udp(9, 9, b"");
    let quoted6 = between("2001:db8:2::10", "2001:db8:1::2").udp(9, 9, b"");
    for packet in [
        between("10.0.1.2", "10.0.2.10").ttl(1).icmp(3, 3, 0, &quoted),
        between("10.0.1.2", "10.0.2.10").ttl(1).icmp(11, 0, 0, &quoted),
        between("10.0.1.2", "10.0.2.10").ttl(1).icmp(5, 0, 0, &quoted),
        between("10.0.1.2", "10.0.2.10").ttl(1).icmp(200, 0, 0, &[]),
        between("2001:db8:1::2", "2001:db8:2::10").ttl(1).icmp(1, 4, 0, &quoted6),
        between("2001:db8:1::2", "2001:db8:2::10").ttl(1).icmp(100, 0, 0, &[]),
    ] {
        world.expect(
            UP,
            &on(&client_link(), packet),
            DropReason::TtlExceeded.into(),
            &[],
            &["up0 rx_packets", "up0 ttl_exceeded"],
        );
    }
    // An echo request is no error.
    let ping = between("10.0.1.2", "10.0.2.10").ttl(1).icmp(8, 0, 1, b"x");
    world.send(UP, &on(&client_link(), ping));
    assert_eq!(world.verdicts(), [ReplyKind::TimeExceeded.into()]);
}

#[test]
fn a_later_fragment_is_not_complained_about_and_the_first_is() {
    let mut world = World::new();
    let mut ip = between("10.0.1.2", "10.0.2.10").ttl(1);
    ip.fragment = Some((0, true));
    world.send(UP, &on(&client_link(), ip.packet(17, &[0; 64])));
    assert_eq!(world.verdicts(), [ReplyKind::TimeExceeded.into()]);
    ip.fragment = Some((64, true));
    let packet = on(&client_link(), ip.packet(17, &[0; 64]));
    world.expect(
        UP,
        &packet,
        DropReason::TtlExceeded.into(),
        &[],
        &["up0 rx_packets", "up0 ttl_exceeded"],
    );
}

#[test]
fn errors_are_limited_and_the_rest_dropped_for_its_reason() {
    let settings = Settings { errors_per_second: 5, ..Settings::default() };
    let mut world = World::unresolved(1, false, settings);
    world.learn();
    let packet = on(&client_link(), between("10.0.1.2", "10.0.2.10").ttl(1).udp(1, 2, b""));
    let sent = world.send_all(0, UP, &vec![packet; 20]);
    assert_eq!(sent.len(), 5);
    let counters = world.counters();
    assert_eq!((counters["up0 icmp-time-exceeded"], counters["up0 ttl_exceeded"]), (5, 15));
}

#[test]
fn groups_and_other_protocols_are_the_kernels() {
    let mut world = World::new();
    let dhcp = on(
        &Link::new(CLIENT_MAC, [0xff; 6]),
        between("10.0.1.2", "255.255.255.255").udp(68, 67, b""),
    );
    world.expect(
        UP,
        &dhcp,
        PuntReason::Broadcast.into(),
        &[],
        &["up0 rx_packets", "up0 broadcast"],
    );
    let mdns = on(
        &Link::new(CLIENT_MAC, [1, 0, 0x5e, 0, 0, 0xfb]),
        between("10.0.1.2", "224.0.0.251").udp(5353, 5353, b""),
    );
    world.expect(
        UP,
        &mdns,
        PuntReason::Multicast.into(),
        &[],
        &["up0 rx_packets", "up0 multicast"],
    );
    let lldp =
        [Link::new(CLIENT_MAC, [1, 0x80, 0xc2, 0, 0, 0x0e]).bytes(0x88cc), vec![0; 46]].concat();
    world.expect(
        UP,
        &lldp,
        PuntReason::EtherType.into(),
        &[],
        &["up0 rx_packets", "up0 ether_type"],
    );
}

#[test]
fn link_local_addresses_do_not_leave_their_link() {
    let mut world = World::new();
    let packet = on(&client_link(), between("2001:db8:1::2", "fe80::1234").udp(1, 2, b""));
    world.expect(
        UP,
        &packet,
        DropReason::BeyondScope.into(),
        &[],
        &["up0 rx_packets", "up0 beyond_scope"],
    );
    let packet = between("fe80::2", "2001:db8:2::10").udp(1, 2, b"");
    let answer = on(&to_client(), between("fe80::ff:fe00:10", "fe80::2").icmp(1, 2, 0, &packet));
    let moved = ["up0 rx_packets", "up0 icmp-beyond-scope", "up0 out_packets"];
    world.expect(
        UP,
        &on(&client_link(), packet),
        ReplyKind::BeyondScope.into(),
        &[(UP, answer)],
        &moved,
    );
}

#[test]
fn equal_ways_share_the_flows_and_each_flow_keeps_its_own() {
    let mut world = World::new();
    let hop = |interface, gateway: &str| {
        (NextHop { interface: InterfaceId(interface), gateway: Some(addr(gateway)) }, 1)
    };
    let group = RouteSpec::Forward(vec![hop(UP, "10.0.1.2"), hop(DOWN, "10.0.2.10")]);
    world.writer.set_route("100.64.0.0/16".parse().unwrap(), &group).unwrap();
    world.writer.publish().unwrap();
    let mut out = [0; 2];
    for port in 0..200 {
        let ip = between("10.0.1.2", "100.64.9.9");
        let packet = on(&client_link(), ip.udp(1000 + port, 2000, b""));
        let first = world.send(UP, &packet)[0].interface;
        assert_eq!(world.send(UP, &packet)[0].interface, first);
        out[usize::from(first)] += 1;
    }
    assert!(out.iter().all(|flows| (60..140).contains(flows)), "{out:?}");
}

#[test]
fn all_fragments_of_a_packet_take_one_way() {
    let mut world = World::new();
    let hop = |interface, gateway: &str| {
        (NextHop { interface: InterfaceId(interface), gateway: Some(addr(gateway)) }, 1)
    };
    let group = RouteSpec::Forward(vec![hop(UP, "10.0.1.2"), hop(DOWN, "10.0.2.10")]);
    world.writer.set_route("100.64.0.0/16".parse().unwrap(), &group).unwrap();
    world.writer.publish().unwrap();
    for host in 0..50 {
        let mut ip = between("10.0.1.2", &format!("100.64.0.{host}"));
        let mut ways = Vec::new();
        for (offset, more, payload) in
            [(0, true, [host; 64]), (64, true, [0xff; 64]), (128, false, [3; 64])]
        {
            ip.fragment = Some((offset, more));
            ways.push(world.send(UP, &on(&client_link(), ip.packet(17, &payload)))[0].interface);
        }
        assert!(ways.iter().all(|way| *way == ways[0]), "host {host}: {ways:?}");
    }
}
