//! ICMP errors about translated flows (feature C1): both directions, both families, quotes of any length.
//!
//! The oracle is the packet built anew: the error that the receiver would have got had there been no translation.

use millrace_dataplane::verdict::{DropReason, PuntReason, Verdict};
use millrace_tables::InterfaceId;
use millrace_xsk::TxOffload;

use crate::packets::{Ip, between, on};
use crate::world::*;

struct Family {
    client: &'static str,
    vip: &'static str,
    backend: &'static str,
    /// A router behind the backend's interface, and one before the client.
    near_backend: &'static str,
    near_client: &'static str,
    /// (type, code, rest) of port unreachable, time exceeded, too big.
    errors: [(u8, u8, u32); 3],
}

const FAMILIES: [Family; 2] = [
    Family {
        client: "10.0.1.2",
        vip: VIP,
        backend: "10.0.2.10",
        near_backend: "10.0.2.77",
        near_client: "10.0.1.77",
        errors: [(3, 3, 0), (11, 0, 0), (3, 4, 1450)],
    },
    Family {
        client: "2001:db8:1::2",
        vip: VIP6,
        backend: "2001:db8:2::10",
        near_backend: "2001:db8:2::77",
        near_client: "2001:db8:1::77",
        errors: [(1, 4, 0), (3, 0, 0), (2, 0, 1450)],
    },
];

type Maker = fn(&Ip, u16, u16) -> Vec<u8>;
const PROTOCOLS: [(u16, Maker); 3] = [
    (80, |ip, sport, dport| {
        ip.tcp(sport, dport, |tcp| tcp.syn = true, b"some data that is quoted")
    }),
    (53, |ip, sport, dport| ip.udp(sport, dport, b"question")),
    (9, |ip, sport, dport| ip.sctp(sport, dport, &[1, 0, 0, 8, 1, 2, 3, 4])),
];

/// Where senders may cut a quoted packet: anywhere behind its ports, but for the middle of its checksum field (what is left of
/// that can't be right).
fn cuts(packet: &[u8]) -> Vec<usize> {
    let (head, protocol) = if packet[0] >> 4 == 4 { (20, packet[9]) } else { (40, packet[6]) };
    let field = match protocol {
        6 => 16..18,
        17 => 6..8,
        _ => 8..12,
    };
    (head + 4..=packet.len())
        .filter(|len| !(field.start < len - head && len - head < field.end))
        .collect()
}

#[test]
fn an_error_about_what_the_client_sent_shows_it_what_it_sent() {
    for family in FAMILIES {
        for (port, make) in PROTOCOLS {
            let mut world = World::new();
            let Family { client, vip, backend, near_backend, .. } = family;
            world.send(UP, &on(&client_link(), make(&between(client, vip), 4000, port)));
            // The quoted TTL is what was left where the error was made.
            let (seen, sent) = (
                make(&between(client, backend).ttl(3), 4000, 8080),
                make(&between(client, vip).ttl(3), 4000, port),
            );
            for (kind, code, rest) in family.errors {
                for len in cuts(&seen) {
                    for from in [backend, near_backend] {
                        let error = between(from, client).icmp(kind, code, rest, &seen[..len]);
                        let out = between(vip, client).ttl(63).icmp(kind, code, rest, &sent[..len]);
                        let got = world.send(DOWN, &on(&backend_link(), error));
                        assert_eq!(got.len(), 1, "{:?}", world.verdicts());
                        assert_eq!(
                            got[0].bytes,
                            on(&to_client(), out),
                            "type {kind} from {from}, {len} bytes quoted"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn an_error_about_what_the_backend_answered_reaches_the_backend() {
    for family in FAMILIES {
        for (port, make) in PROTOCOLS {
            let mut world = World::new();
            let Family { client, vip, backend, near_client, .. } = family;
            world.send(UP, &on(&client_link(), make(&between(client, vip), 4000, port)));
            let (seen, sent) = (
                make(&between(vip, client).ttl(3), port, 4000),
                make(&between(backend, client).ttl(3), 8080, 4000),
            );
            for (kind, code, rest) in family.errors {
                for len in cuts(&seen) {
                    for from in [client, near_client] {
                        let error = between(from, vip).icmp(kind, code, rest, &seen[..len]);
                        let out =
                            between(from, backend).ttl(63).icmp(kind, code, rest, &sent[..len]);
                        let got = world.send(UP, &on(&client_link(), error));
                        assert_eq!(got.len(), 1, "{:?}", world.verdicts());
                        assert_eq!(
                            got[0].bytes,
                            on(&to_backend(), out),
                            "type {kind} from {from}, {len} bytes quoted"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn tags_options_and_padding_around_an_error_stay() {
    let mut world = World::new();
    world.send(UP, &on(&client_link(), between("10.0.1.2", VIP).udp(4000, 53, b"question")));
    let mut error = between("10.0.2.10", "10.0.1.2");
    error.options = vec![148, 4, 0, 0];
    let mut seen = between("10.0.1.2", "10.0.2.10");
    seen.options = vec![7, 7, 4, 0, 0, 0, 0, 0];
    let mut sent = seen.clone();
    sent.dst = crate::packets::ip(VIP);
    let packet =
        on(&backend_link().tagged(&[9]), error.icmp(3, 3, 0, &seen.udp(4000, 8080, b"question")));
    let mut out = error.ttl(63);
    out.src = crate::packets::ip(VIP);
    let out = on(&to_client().tagged(&[9]), out.icmp(3, 3, 0, &sent.udp(4000, 53, b"question")));
    let got = world.send(DOWN, &[packet, vec![0xee; 11]].concat());
    assert_eq!(got[0].bytes, [out, vec![0xee; 11]].concat());
}

#[test]
fn a_wrong_checksum_of_an_error_stays_as_wrong() {
    let mut world = World::new();
    world.send(UP, &on(&client_link(), between("10.0.1.2", VIP).udp(4000, 53, b"question")));
    let seen = between("10.0.1.2", "10.0.2.10").udp(4000, 8080, b"question");
    let mut packet = on(&backend_link(), between("10.0.2.10", "10.0.1.2").icmp(3, 3, 0, &seen));
    *packet.last_mut().unwrap() ^= 1;
    let sent = between("10.0.1.2", VIP).udp(4000, 53, b"question");
    let mut out = on(&to_client(), between(VIP, "10.0.1.2").ttl(63).icmp(3, 3, 0, &sent));
    *out.last_mut().unwrap() ^= 1;
    assert_eq!(world.send(DOWN, &packet)[0].bytes, out);
}

#[test]
fn a_quoted_datagram_without_checksum_keeps_none() {
    let mut world = World::new();
    world.send(UP, &on(&client_link(), between("10.0.1.2", VIP).udp(4000, 53, b"question")));
    let without = |ip: Ip, sport, dport| {
        let mut packet = ip.udp(sport, dport, b"question");
        packet[26..28].copy_from_slice(&[0, 0]);
        packet
    };
    let seen = without(between("10.0.1.2", "10.0.2.10"), 4000, 8080);
    let sent = without(between("10.0.1.2", VIP), 4000, 53);
    let got = world
        .send(DOWN, &on(&backend_link(), between("10.0.2.10", "10.0.1.2").icmp(3, 3, 0, &seen)));
    assert_eq!(
        got[0].bytes,
        on(&to_client(), between(VIP, "10.0.1.2").ttl(63).icmp(3, 3, 0, &sent))
    );
}

#[test]
fn errors_about_flows_that_are_not_translated_are_routed_as_they_are() {
    let mut world = World::new();
    let quoted = between("10.0.1.2", "10.0.2.10").udp(5000, 7, b"x");
    let error = between("10.0.2.10", "10.0.1.2");
    let got = world.send(DOWN, &on(&backend_link(), error.icmp(3, 3, 0, &quoted)));
    assert_eq!(got[0].bytes, on(&to_client(), error.ttl(63).icmp(3, 3, 0, &quoted)));
    // About a later fragment, or quoting too little to tell.
    let mut fragment = between("10.0.1.2", "10.0.2.10");
    fragment.fragment = Some((64, false));
    for quoted in [
        fragment.packet(17, &[0x0f, 0xa0, 0x1f, 0x90, 0, 0, 0, 0]),
        quoted[..22].to_vec(),
        vec![0x45; 8],
        vec![0xff; 60],
    ] {
        let error = between("10.0.2.10", "10.0.1.2");
        let got = world.send(DOWN, &on(&backend_link(), error.icmp(3, 3, 0, &quoted)));
        assert_eq!(got[0].bytes, on(&to_client(), error.ttl(63).icmp(3, 3, 0, &quoted)));
    }
}

#[test]
fn an_error_sent_to_somebody_else_than_the_quoted_sender_is_forged() {
    let mut world = World::new();
    world.send(UP, &on(&client_link(), between("10.0.1.2", VIP).udp(4000, 53, b"question")));
    let seen = between("10.0.1.2", "10.0.2.10").udp(4000, 8080, b"question");
    let forged = on(&backend_link(), between("10.0.2.10", "10.0.1.99").icmp(3, 3, 0, &seen));
    world.expect(
        DOWN,
        &forged,
        DropReason::ConntrackInvalid.into(),
        &[],
        &["down0 rx_packets", "down0 conntrack_invalid"],
    );
}

#[test]
fn an_error_to_a_service_about_no_known_flow_ends_here() {
    let mut world = World::new();
    let stray = on(
        &client_link(),
        between("10.0.1.2", VIP).icmp(3, 3, 0, &between(VIP, "10.0.1.2").udp(53, 9, b"")),
    );
    world.expect(
        UP,
        &stray,
        DropReason::ConntrackInvalid.into(),
        &[],
        &["up0 rx_packets", "up0 conntrack_invalid"],
    );
    let ours = on(
        &client_link(),
        between("10.0.1.2", "10.0.1.1").icmp(
            3,
            3,
            0,
            &between("10.0.1.1", "10.0.1.2").udp(53, 9, b""),
        ),
    );
    world.expect(UP, &ours, PuntReason::Local.into(), &[], &["up0 rx_packets", "up0 local"]);
}

#[test]
fn an_error_does_not_keep_a_flow_alive_or_create_one() {
    let mut world = World::new();
    world.send(UP, &on(&client_link(), between("10.0.1.2", VIP).udp(4000, 53, b"question")));
    let seen = between("10.0.1.2", "10.0.2.10").udp(4000, 8080, b"question");
    let error = on(&backend_link(), between("10.0.2.10", "10.0.1.2").icmp(3, 3, 0, &seen));
    for _ in 0..40 {
        world.now += 10 * millrace_dataplane::clock::SECOND;
        world.learn();
        world.send(DOWN, &error);
    }
    let verdict = Verdict::Transmit { interface: InterfaceId(UP), offload: TxOffload::None };
    assert_eq!(world.verdicts(), [verdict], "routed, now that the flow is forgotten");
    let got = world.send(DOWN, &error);
    assert_eq!(got[0].bytes[26..30], [10, 0, 2, 10], "untranslated");
}
