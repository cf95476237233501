//! What is addressed to us: echo, resets, unreachables (RFC 1122 section 3.2.2, RFC 4443, RFC 9293 section 3.10.7.1).

use millrace_dataplane::verdict::{DropReason, PuntReason, ReplyKind, Verdict};

use crate::packets::{Ip, between, on};
use crate::world::*;

const ECHO: [&str; 3] = ["up0 rx_packets", "up0 icmp-echo-reply", "up0 out_packets"];

#[test]
fn echo_requests_to_our_addresses_and_to_services_are_answered() {
    let mut world = World::new();
    for (src, dst) in [
        ("10.0.1.2", "10.0.1.1"),
        ("10.0.1.2", "10.0.2.1"),
        ("10.0.1.2", VIP),
        ("2001:db8:1::2", "2001:db8:1::1"),
        ("2001:db8:1::2", VIP6),
        ("fe80::2", "fe80::ff:fe00:10"),
    ] {
        let ip = between(src, dst).ttl(1);
        let (request, reply) = if ip.src.is_ipv4() { (8, 0) } else { (128, 129) };
        for size in [0, 1, 56, 1400] {
            let body = vec![0x5a; size];
            let answer =
                on(&to_client(), ip.clone().reversed().ttl(64).icmp(reply, 0, 0x0001_0002, &body));
            world.expect(
                UP,
                &on(&client_link(), ip.icmp(request, 0, 0x0001_0002, &body)),
                ReplyKind::Echo.into(),
                &[(UP, answer)],
                &ECHO,
            );
        }
    }
}

#[test]
fn an_echo_request_longer_than_a_chunk_is_answered_whole() {
    let mut world = World::new();
    let ip = between("10.0.1.2", "10.0.1.1");
    let body: Vec<u8> = (0..9001).map(|n| n as u8).collect();
    let sent = world.send(UP, &on(&client_link(), ip.icmp(8, 0, 7, &body)));
    assert_eq!(sent[0].bytes, on(&to_client(), ip.reversed().icmp(0, 0, 7, &body)));
}

#[test]
fn options_of_an_echo_request_are_not_sent_back() {
    let mut world = World::new();
    let mut ip = between("10.0.1.2", "10.0.1.1");
    ip.options = vec![7, 7, 4, 0, 0, 0, 0, 0];
    let mut out = ip.clone().reversed();
    out.options = vec![1; 8];
    let sent = world.send(UP, &on(&client_link(), ip.icmp(8, 0, 7, b"ping")));
    assert_eq!(sent[0].bytes, on(&to_client(), out.icmp(0, 0, 7, b"ping")));
}

#[test]
fn a_damaged_echo_request_and_a_fragment_are_not_answered() {
    let mut world = World::new();
    let mut packet = on(&client_link(), between("10.0.1.2", "10.0.1.1").icmp(8, 0, 7, b"ping"));
    *packet.last_mut().unwrap() ^= 1;
    world.expect(
        UP,
        &packet,
        DropReason::BadChecksum.into(),
        &[],
        &["up0 rx_packets", "up0 bad_checksum"],
    );
    let mut ip = between("10.0.1.2", "10.0.1.1");
    ip.fragment = Some((0, true));
    let packet = on(&client_link(), ip.icmp(8, 0, 7, b"12345678"));
    world.expect(
        UP,
        &packet,
        DropReason::FragmentUnsupported.into(),
        &[],
        &["up0 rx_packets", "up0 fragment_unsupported"],
    );
}

fn reset(ip: &Ip, sequence: u32, acknowledgment: Option<u32>) -> Vec<u8> {
    let reset = ip.clone().reversed().ttl(64).tcp(
        80,
        4000,
        |tcp| {
            tcp.rst = true;
            tcp.window_size = 0;
            tcp.sequence_number = sequence;
            tcp.ack = acknowledgment.is_some();
            tcp.acknowledgment_number = acknowledgment.unwrap_or(0);
        },
        b"",
    );
    on(&to_client(), reset)
}

#[test]
fn tcp_to_us_is_reset_by_the_book() {
    let mut world = World::new();
    let moved = ["up0 rx_packets", "up0 tcp-reset", "up0 out_packets"];
    for (src, dst) in [("10.0.1.2", "10.0.1.1"), ("2001:db8:1::2", "2001:db8:2::1")] {
        let ip = between(src, dst);
        // Without ACK: <SEQ=0><ACK=SEG.SEQ+SEG.LEN><CTL=RST,ACK>; SYN and FIN count one each.
        let syn = on(&client_link(), ip.syn(4000, 80));
        world.expect(
            UP,
            &syn,
            ReplyKind::TcpReset.into(),
            &[(UP, reset(&ip, 0, Some(1001)))],
            &moved,
        );
        let data = ip.tcp(4000, 80, |tcp| (tcp.syn, tcp.fin) = (true, true), b"hello");
        world.expect(
            UP,
            &on(&client_link(), data),
            ReplyKind::TcpReset.into(),
            &[(UP, reset(&ip, 0, Some(1007)))],
            &moved,
        );
        let wraps = ip.tcp(4000, 80, |tcp| (tcp.syn, tcp.sequence_number) = (true, u32::MAX), b"");
        world.expect(
            UP,
            &on(&client_link(), wraps),
            ReplyKind::TcpReset.into(),
            &[(UP, reset(&ip, 0, Some(0)))],
            &moved,
        );
        // With ACK: <SEQ=SEG.ACK><CTL=RST>.
        let ack =
            ip.tcp(4000, 80, |tcp| (tcp.ack, tcp.acknowledgment_number) = (true, 77), b"hello");
        world.expect(
            UP,
            &on(&client_link(), ack),
            ReplyKind::TcpReset.into(),
            &[(UP, reset(&ip, 77, None))],
            &moved,
        );
        // A reset is not answered.
        let rst = ip.tcp(4000, 80, |tcp| tcp.rst = true, b"");
        world.expect(
            UP,
            &on(&client_link(), rst),
            DropReason::NotListening.into(),
            &[],
            &["up0 rx_packets", "up0 not_listening"],
        );
    }
}

#[test]
fn udp_and_other_protocols_to_us_are_unreachable() {
    let mut world = World::new();
    for (src, dst) in [("10.0.1.2", "10.0.1.1"), ("2001:db8:1::2", "2001:db8:1::1")] {
        let ip = between(src, dst);
        let v6 = ip.src.is_ipv6();
        let mut error = ip.clone().reversed();
        error.tos = if v6 { 0 } else { 0xc0 };
        let udp = ip.udp(4000, 53, b"query");
        let (kind, code) = if v6 { (1, 4) } else { (3, 3) };
        let answer = on(&to_client(), error.icmp(kind, code, 0, &udp));
        let moved = ["up0 rx_packets", "up0 icmp-port-unreachable", "up0 out_packets"];
        world.expect(
            UP,
            &on(&client_link(), udp),
            ReplyKind::PortUnreachable.into(),
            &[(UP, answer)],
            &moved,
        );
        for protocol in [47, 132] {
            let packet = ip.packet(protocol, &[0; 16]);
            // ICMPv6 points at the next-header field, byte 6.
            let (kind, code, rest) = if v6 { (4, 1, 6) } else { (3, 2, 0) };
            let answer = on(&to_client(), error.icmp(kind, code, rest, &packet));
            let moved = ["up0 rx_packets", "up0 icmp-protocol-unreachable", "up0 out_packets"];
            world.expect(
                UP,
                &on(&client_link(), packet),
                ReplyKind::ProtocolUnreachable.into(),
                &[(UP, answer)],
                &moved,
            );
        }
    }
    let mut chain = between("2001:db8:1::2", "2001:db8:1::1");
    chain.extensions = vec![(0, vec![0, 0, 1, 4, 0, 0, 0, 0]), (60, vec![0, 0, 1, 4, 0, 0, 0, 0])];
    let packet = chain.packet(250, &[1, 2, 3]);
    let sent = world.send(UP, &on(&client_link(), packet.clone()));
    let error = between("2001:db8:1::1", "2001:db8:1::2").icmp(4, 1, 48, &packet);
    assert_eq!(sent[0].bytes, on(&to_client(), error), "points into the last extension header");
}

#[test]
fn a_routing_header_is_not_obeyed() {
    let mut world = World::new();
    let mut ip = between("2001:db8:1::2", "2001:db8:1::1");
    let mut header = vec![0; 24];
    (header[1], header[3]) = (2, 1);
    ip.extensions = vec![(60, vec![0, 0, 1, 4, 0, 0, 0, 0]), (43, header)];
    let packet = ip.udp(1, 2, b"");
    let answer = on(&to_client(), ip.clone().reversed_plain().icmp(4, 0, 50, &packet));
    let moved = ["up0 rx_packets", "up0 icmp-parameter-problem", "up0 out_packets"];
    world.expect(
        UP,
        &on(&client_link(), packet),
        ReplyKind::RoutingHeader.into(),
        &[(UP, answer)],
        &moved,
    );
}

#[test]
fn the_rest_is_nobodys_business() {
    let mut world = World::new();
    let punt = ["up0 rx_packets", "up0 local"];
    for packet in [
        between("10.0.1.2", "10.0.1.1").icmp(0, 0, 7, b"echo reply"),
        between("10.0.1.2", "10.0.1.1").icmp(13, 0, 7, &[0; 12]),
        between("10.0.1.2", "10.0.1.1").icmp(
            3,
            3,
            0,
            &between("10.0.1.1", "10.0.1.2").udp(1, 2, b""),
        ),
        between("2001:db8:1::2", "2001:db8:1::1").icmp(129, 0, 7, b"echo reply"),
    ] {
        world.expect(UP, &on(&client_link(), packet), PuntReason::Local.into(), &[], &punt);
    }
    let none = on(&client_link(), between("2001:db8:1::2", "2001:db8:1::1").packet(59, b""));
    world.expect(
        UP,
        &none,
        DropReason::NotListening.into(),
        &[],
        &["up0 rx_packets", "up0 not_listening"],
    );
}

#[test]
fn nobody_speaks_to_us_from_our_own_address() {
    let mut world = World::new();
    for (src, dst) in [("10.0.1.1", "10.0.1.1"), ("10.0.2.1", "10.0.1.1"), (VIP, VIP)] {
        world.send(UP, &on(&client_link(), between(src, dst).icmp(8, 0, 1, b"")));
        assert_eq!(world.verdicts(), [Verdict::Drop(DropReason::Martian)]);
    }
}
