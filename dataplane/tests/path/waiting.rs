//! Packets whose next hop is unknown (feature A1; RFC 1122 section 2.3.2).

use millrace_dataplane::clock::{MILLISECOND, SECOND};
use millrace_dataplane::pipeline::Settings;
use millrace_dataplane::verdict::{DropReason, Verdict};
use millrace_tables::InterfaceId;

use crate::packets::{Link, arp, between, nd, on};
use crate::world::*;

const NOBODY: [u8; 6] = [0; 6];

fn packet(n: usize) -> Vec<u8> {
    on(&client_link(), between("10.0.1.2", "10.0.2.10").udp(1000, 2000, &[n as u8; 4]))
}

fn forwarded(n: usize) -> Vec<u8> {
    on(&to_backend(), between("10.0.1.2", "10.0.2.10").ttl(63).udp(1000, 2000, &[n as u8; 4]))
}

fn request() -> Vec<u8> {
    arp(&Link::new(DOWN_MAC, [0xff; 6]), 1, (DOWN_MAC, "10.0.2.1"), (NOBODY, "10.0.2.10"))
}

fn answer() -> Vec<u8> {
    arp(&backend_link(), 2, (BACKEND_MAC, "10.0.2.10"), (DOWN_MAC, "10.0.2.1"))
}

#[test]
fn one_request_a_second_and_the_first_packets_go_out_after_the_answer() {
    let mut world = World::unresolved(1, false, Settings::default());
    let packets: Vec<_> = (0..100).map(packet).collect();
    let sent = world.send_all(0, UP, &packets);
    assert_eq!(
        sent.iter().map(|it| (it.interface, it.bytes.clone())).collect::<Vec<_>>(),
        [(DOWN, request())]
    );
    let counters = world.counters();
    assert_eq!(counters["up0 held_packets"], 64);
    assert_eq!(counters["up0 arp_incomplete"], 36);
    assert_eq!(counters["down0 originated_packets"], 1);
    for _ in 0..9 {
        assert_eq!(world.tick(100 * MILLISECOND), [], "no second request within the second");
    }
    let again = world.tick(100 * MILLISECOND);
    assert_eq!(again.iter().map(|it| &it.bytes).collect::<Vec<_>>(), [&request()]);

    assert_eq!(world.send(DOWN, &answer()), []);
    let released = world.tick(MILLISECOND);
    assert_eq!(
        released.iter().map(|it| it.bytes.clone()).collect::<Vec<_>>(),
        (0..64).map(forwarded).collect::<Vec<_>>(),
        "in order"
    );
    let counters = world.counters();
    assert_eq!(counters.get("up0 held_packets"), None);
    assert_eq!(counters["up0 tx_packets"], 64);
    assert_eq!(world.send(UP, &packet(1))[0].bytes, forwarded(1));
}

#[test]
fn a_neighbor_that_never_answers_costs_three_requests_and_one_error() {
    let mut world = World::unresolved(1, false, Settings::default());
    let mut requests = world.send_all(0, UP, &[packet(0), packet(1)]).len();
    let mut errors = Vec::new();
    for _ in 0..50 {
        for sent in world.tick(100 * MILLISECOND) {
            match sent.interface {
                DOWN => requests += 1,
                _ => errors.push(sent.bytes),
            }
        }
    }
    assert_eq!(requests, 3);
    let quote = between("10.0.1.2", "10.0.2.10").udp(1000, 2000, &[0; 4]);
    let mut error = between("10.0.1.1", "10.0.1.2");
    error.tos = 0xc0;
    assert_eq!(
        errors,
        [on(&to_client(), error.icmp(3, 1, 0, &quote))],
        "host unreachable, for the first packet"
    );
    let counters = world.counters();
    assert_eq!(counters["up0 icmp-host-unreachable"], 1);
    assert_eq!(counters["up0 arp_incomplete"], 1);
    assert_eq!(counters.get("up0 held_packets"), None);
}

#[test]
fn a_scan_holds_no_more_than_its_share() {
    let mut world = World::unresolved(1, false, Settings::default());
    for n in 0..200u8 {
        let ip = between("10.0.1.2", &format!("10.0.2.{}", 20 + n));
        world.send_all(0, UP, &vec![on(&client_link(), ip.udp(1, 2, b"")); 10]);
        assert_eq!(world.verdicts().len(), 10);
    }
    assert_eq!(world.workers[0].state.local.held(), FRAMES as usize / 4, "a quarter of all frames");
    world.tick(4 * SECOND);
    assert_eq!(world.workers[0].state.local.held(), 0);
}

#[test]
fn the_request_carries_the_tags_of_the_packet_that_waits() {
    let mut world = World::unresolved(1, false, Settings::default());
    let sent = world.send(
        UP,
        &on(&client_link().tagged(&[42]), between("10.0.1.2", "10.0.2.10").udp(1, 2, b"")),
    );
    let tagged = arp(
        &Link::new(DOWN_MAC, [0xff; 6]).tagged(&[42]),
        1,
        (DOWN_MAC, "10.0.2.1"),
        (NOBODY, "10.0.2.10"),
    );
    assert_eq!(sent[0].bytes, tagged);
}

#[test]
fn an_ipv6_neighbor_is_solicited_at_its_group() {
    let mut world = World::unresolved(1, false, Settings::default());
    let waiting = between("2001:db8:1::2", "2001:db8:2::10");
    let sent = world.send(UP, &on(&client_link(), waiting.clone().udp(1, 2, b"hello")));
    let solicitation =
        nd("2001:db8:2::1", "ff02::1:ff00:10", 135, 0, "2001:db8:2::10", Some((1, DOWN_MAC)));
    assert_eq!(
        sent[0].bytes,
        on(&Link::new(DOWN_MAC, [0x33, 0x33, 0xff, 0, 0, 0x10]), solicitation)
    );
    assert_eq!(
        world.verdicts(),
        [Verdict::Hold { interface: InterfaceId(DOWN), neighbor: addr("2001:db8:2::10") }]
    );
    let flags = 1 << 30 | 1 << 29;
    let answer =
        nd("2001:db8:2::10", "2001:db8:2::1", 136, flags, "2001:db8:2::10", Some((2, BACKEND_MAC)));
    world.send(DOWN, &on(&backend_link(), answer));
    let released = world.tick(MILLISECOND);
    assert_eq!(released[0].bytes, on(&to_backend(), waiting.ttl(63).udp(1, 2, b"hello")));
}

#[test]
fn the_broadcast_address_of_a_network_is_nobodys() {
    let mut world = World::new();
    // Nor is it complained about when the TTL runs out.
    for ttl in [64, 1] {
        let ip = between("10.0.1.2", "10.0.2.255").ttl(ttl);
        world.expect(
            UP,
            &on(&client_link(), ip.udp(1, 2, b"")),
            DropReason::DirectedBroadcast.into(),
            &[],
            &["up0 rx_packets", "up0 directed_broadcast"],
        );
    }
}

#[test]
fn a_neighbor_not_heard_of_for_long_is_asked_alone_while_traffic_goes_on() {
    let mut world = World::new();
    assert_eq!(world.send(UP, &packet(0)).len(), 1);
    world.now += 120 * SECOND;
    // The neighbor may prove itself by speaking first (RFC 4861 section 7.3.3: DELAY, five seconds).
    assert_eq!(
        world.send(UP, &packet(0)).iter().map(|it| it.bytes.clone()).collect::<Vec<_>>(),
        [forwarded(0)]
    );
    world.now += 5 * SECOND;
    let sent = world.send(UP, &packet(1));
    let probe = arp(&to_backend(), 1, (DOWN_MAC, "10.0.2.1"), (NOBODY, "10.0.2.10"));
    let bytes: Vec<_> = sent.iter().map(|it| it.bytes.clone()).collect();
    assert!(bytes.contains(&forwarded(1)), "traffic goes on");
    assert!(bytes.contains(&probe), "and the neighbor is asked alone: {bytes:?}");
}
