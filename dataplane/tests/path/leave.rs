//! Pods that leave the cluster get an address of this node, ping included; its answers and errors find back (feature E10).

use millrace_dataplane::verdict::DropReason;
use millrace_tables::NodeSpec;

use crate::packets::{Ip, between, on};
use crate::world::*;

/// Client, our address towards the outside, the outside; an answer's and an error's type and code.
type Family = (&'static str, &'static str, &'static str, [u8; 2], (u8, u8));
const FAMILIES: [Family; 2] = [
    ("198.51.100.7", "10.0.2.1", "10.0.2.10", [8, 0], (11, 0)),
    ("2001:db8:100::7", "2001:db8:2::1", "2001:db8:2::10", [128, 129], (3, 0)),
];

fn world() -> World {
    let mut world = World::new();
    let ranges = |texts: [&str; 2]| texts.map(|text| text.parse().unwrap()).to_vec();
    let row = NodeSpec {
        leaving: ranges(["198.51.100.0/24", "2001:db8:100::/64"]),
        staying: ranges(["10.0.2.99/32", "2001:db8:2::99/128"]),
        ..NodeSpec::default()
    };
    world.writer.set_node(&row).unwrap();
    world.writer.publish().unwrap();
    world
}

/// The two bytes at `at` behind the IP header of a frame without tags and options.
fn word(frame: &[u8], at: usize) -> u16 {
    let at = at + if frame[12..14] == [8, 0] { 34 } else { 54 };
    u16::from_be_bytes([frame[at], frame[at + 1]])
}

fn echo(ip: &Ip, kind: u8, id: u16, sequence: u16) -> Vec<u8> {
    ip.icmp(kind, 0, u32::from(id) << 16 | u32::from(sequence), b"0123456789")
}

#[test]
fn two_that_ping_with_one_identifier_get_their_own_answers() {
    for (client, ours, outside, [request, reply], _) in FAMILIES {
        let mut world = world();
        let other = client.replace('7', "8");
        let clients = [client, other.as_str()];
        let chosen = clients.map(|client| {
            let ask = |sequence| {
                on(&client_link(), echo(&between(client, outside), request, 77, sequence))
            };
            let chosen = word(&world.send(UP, &ask(1))[0].bytes, 4);
            let out = echo(&between(ours, outside).ttl(63), request, chosen, 2);
            assert_eq!(world.send(UP, &ask(2))[0].bytes, on(&to_backend(), out));
            chosen
        });
        assert_ne!(chosen[0], chosen[1]);
        for (client, id) in clients.into_iter().zip(chosen) {
            let answer = echo(&between(outside, ours), reply, id, 2);
            let back = world.send(DOWN, &on(&backend_link(), answer));
            let wanted = echo(&between(outside, client).ttl(63), reply, 77, 2);
            assert_eq!(back[0].bytes, on(&to_client(), wanted), "{:#?}", world.steps);
        }
    }
}

#[test]
fn an_error_about_a_ping_shows_the_pod_what_it_sent() {
    for (client, ours, outside, [request, _], (kind, code)) in FAMILIES {
        let mut world = world();
        let sent = echo(&between(client, outside), request, 77, 1);
        let chosen = word(&world.send(UP, &on(&client_link(), sent.clone()))[0].bytes, 4);
        let got = echo(&between(ours, outside), request, chosen, 1);
        let error = between(outside, ours).icmp(kind, code, 0, &got);
        let wanted = between(outside, client).ttl(63).icmp(kind, code, 0, &sent);
        let back = world.send(DOWN, &on(&backend_link(), error));
        assert_eq!(back[0].bytes, on(&to_client(), wanted), "{:#?}", world.steps);
    }
}

#[test]
fn connections_and_datagrams_leave_with_our_address_and_come_back() {
    type Maker = fn(&Ip, u16, u16) -> Vec<u8>;
    let makers: [Maker; 3] = [
        |ip, sport, dport| ip.syn(sport, dport),
        |ip, sport, dport| ip.udp(sport, dport, b"question"),
        |ip, sport, dport| ip.sctp(sport, dport, &[1, 0, 0, 8, 1, 2, 3, 4]),
    ];
    for (client, ours, outside, ..) in FAMILIES {
        for make in makers {
            let mut world = world();
            let packet = on(&client_link(), make(&between(client, outside), 4000, 443));
            let chosen = word(&world.send(UP, &packet)[0].bytes, 0);
            let out = make(&between(ours, outside).ttl(63), chosen, 443);
            assert_eq!(world.send(UP, &packet)[0].bytes, on(&to_backend(), out));
            let answer = on(&backend_link(), make(&between(outside, ours), 443, chosen));
            let wanted = make(&between(outside, client).ttl(63), 443, 4000);
            assert_eq!(world.send(DOWN, &answer)[0].bytes, on(&to_client(), wanted));
        }
    }
}

#[test]
fn who_stays_keeps_its_address() {
    let mut world = world();
    for (src, dst) in [("198.51.100.7", "10.0.2.99"), ("203.0.113.9", "10.0.2.10")] {
        world.learn();
        let sent = world.send(UP, &on(&client_link(), between(src, dst).udp(4000, 53, b"q")));
        let left = sent.iter().map(|it| &it.bytes).find(|bytes| bytes[12..14] == [8, 0]);
        // The neighbor 10.0.2.99 is not known: that packet waits.
        assert!(left.is_none_or(|bytes| bytes[26..30] == addr(src).v4().unwrap()), "{src}");
    }
}

#[test]
fn what_cannot_be_translated_does_not_leave() {
    let mut world = world();
    let there = between("198.51.100.7", "10.0.2.10");
    let mut first = there.clone();
    first.fragment = Some((0, true));
    for (packet, reason) in [
        (there.tcp(4000, 443, |tcp| tcp.rst = true, b""), DropReason::ConntrackInvalid),
        (there.packet(47, &[0; 40]), DropReason::ConntrackInvalid),
        (first.packet(1, &echo(&there, 8, 77, 1)[20..36]), DropReason::FragmentUnsupported),
    ] {
        let name = format!("up0 {}", reason.name());
        world.expect(
            UP,
            &on(&client_link(), packet),
            reason.into(),
            &[],
            &["up0 rx_packets", &name],
        );
    }
}

#[test]
fn what_begins_outside_is_answered_with_the_pods_own_address() {
    for (client, _, outside, [request, reply], _) in FAMILIES {
        let mut world = world();
        let (there, back) = (between(outside, client), between(client, outside));
        let flag = |syn: bool, ack: bool| {
            move |tcp: &mut etherparse::TcpHeader| (tcp.syn, tcp.ack) = (syn, ack)
        };
        let exchanges = [
            (
                there.syn(4000, 443),
                back.tcp(443, 4000, flag(true, true), b""),
                back.clone().ttl(63).tcp(443, 4000, flag(true, true), b""),
            ),
            (
                there.udp(4000, 53, b"q"),
                back.udp(53, 4000, b"a"),
                back.clone().ttl(63).udp(53, 4000, b"a"),
            ),
            (
                echo(&there, request, 9, 1),
                echo(&back, reply, 9, 1),
                echo(&back.clone().ttl(63), reply, 9, 1),
            ),
        ];
        for (asks, answers, wanted) in exchanges {
            assert_eq!(world.send(DOWN, &on(&backend_link(), asks)).len(), 1);
            let left = world.send(UP, &on(&client_link(), answers));
            assert_eq!(left[0].bytes, on(&to_backend(), wanted), "{:#?}", world.steps);
        }
        // An answer to nothing does not leave.
        let stray = on(&client_link(), echo(&back, reply, 10, 1));
        assert!(world.send(UP, &stray).is_empty());
        assert_eq!(world.verdicts(), [DropReason::ConntrackInvalid.into()]);
    }
}
