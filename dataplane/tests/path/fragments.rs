//! Fragments of service traffic: any order, both directions, masqueraded too; bounded, and never a way around the ports (features C3, C4).
//!
//! The oracle is the datagram built whole, translated, and cut at the same places.

use millrace_dataplane::clock::SECOND;
use millrace_dataplane::verdict::{DropReason, Verdict};
use millrace_tables::{Frontend, FrontendSpec};

use crate::packets::{Ip, between, on};
use crate::world::*;

const OUTSIDE: &str = "172.30.0.50";
const CLIENT: &str = "198.51.100.7";
const FAMILIES: [(&str, &str, &str); 2] =
    [("10.0.1.2", VIP, "10.0.2.10"), ("2001:db8:1::2", VIP6, "2001:db8:2::10")];
const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

/// What stands behind the IP header.
fn l4(packet: &[u8]) -> Vec<u8> {
    packet[if packet[0] >> 4 == 4 { 20 } else { 40 }..].to_vec()
}

/// The part `from..to` of a datagram whose IP payload is `whole`.
fn piece(ip: &Ip, whole: &[u8], from: usize, to: usize) -> Vec<u8> {
    let mut ip = ip.clone();
    let to = to.min(whole.len());
    let more = to < whole.len();
    if ip.src.is_ipv4() {
        ip.fragment = Some((from as u16, more));
    } else {
        let field = (from as u16 | u16::from(more)).to_be_bytes();
        ip.extensions = vec![(44, vec![0, 0, field[0], field[1], 0, 0, 0x12, 0x34])];
    }
    ip.packet(17, &whole[from..to])
}

/// A datagram in three parts.
fn cut(ip: &Ip, sport: u16, dport: u16) -> [Vec<u8>; 3] {
    let payload: Vec<u8> = (0..200u8).collect();
    let mut whole = ip.clone();
    whole.fragment = None;
    let whole = l4(&whole.udp(sport, dport, &payload));
    [(0, 64), (64, 136), (136, 999)].map(|(from, to)| piece(ip, &whole, from, to))
}

/// Sends parts in an order; everything that left, on any interface, sorted.
fn send(world: &mut World, interface: u16, frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut left = Vec::new();
    for frame in frames {
        left.extend(world.send(interface, frame));
        left.extend(world.tick(0));
    }
    let mut left: Vec<Vec<u8>> = left.into_iter().map(|it| it.bytes).collect();
    left.sort();
    left
}

fn sorted(link: &crate::packets::Link, parts: [Vec<u8>; 3]) -> Vec<Vec<u8>> {
    let mut parts: Vec<Vec<u8>> = parts.into_iter().map(|part| on(link, part)).collect();
    parts.sort();
    parts
}

#[test]
fn three_fragments_in_any_order_are_translated_alike_there_and_back() {
    for (client, vip, backend) in FAMILIES {
        for order in ORDERS {
            let mut world = World::new();
            let there = cut(&between(client, vip), 4000, 53);
            let frames = order.map(|at| on(&client_link(), there[at].clone()));
            let out = cut(&between(client, backend).ttl(63), 4000, 8080);
            assert_eq!(send(&mut world, UP, &frames), sorted(&to_backend(), out), "{order:?}");
            let back = cut(&between(backend, client), 8080, 4000);
            let frames = order.map(|at| on(&backend_link(), back[at].clone()));
            let out = cut(&between(vip, client).ttl(63), 53, 4000);
            assert_eq!(send(&mut world, DOWN, &frames), sorted(&to_client(), out), "{order:?}");
            assert_eq!(world.workers[0].state.local.held(), 0);
        }
    }
}

/// [`cut`] with destination options between the fragment header and UDP.
fn cut_behind_options(ip: &Ip, sport: u16, dport: u16) -> [Vec<u8>; 3] {
    let payload: Vec<u8> = (0..200u8).collect();
    let options = [17, 0, 1, 4, 0, 0, 0, 0];
    let whole = [&options[..], &l4(&ip.udp(sport, dport, &payload))].concat();
    [(0, 64), (64, 136), (136, 999)].map(|(from, to)| {
        let mut packet = piece(ip, &whole, from, to);
        // The fragment header's next header.
        packet[40] = 60;
        packet
    })
}

#[test]
fn extension_headers_behind_the_fragment_header_are_in_the_first_alone() {
    let (client, vip, backend) = FAMILIES[1];
    for order in ORDERS {
        let mut world = World::new();
        let there = cut_behind_options(&between(client, vip), 4000, 53);
        let frames = order.map(|at| on(&client_link(), there[at].clone()));
        let out = cut_behind_options(&between(client, backend).ttl(63), 4000, 8080);
        assert_eq!(send(&mut world, UP, &frames), sorted(&to_backend(), out), "{order:?}");
        let back = cut_behind_options(&between(backend, client), 8080, 4000);
        let frames = order.map(|at| on(&backend_link(), back[at].clone()));
        let out = cut_behind_options(&between(vip, client).ttl(63), 53, 4000);
        assert_eq!(send(&mut world, DOWN, &frames), sorted(&to_client(), out), "{order:?}");
        assert_eq!(world.workers[0].state.local.held(), 0);
    }
}

#[test]
fn fragments_of_a_masqueraded_flow_all_get_its_address() {
    for order in ORDERS {
        let mut world = World::new();
        let frontend = FrontendSpec { flags: Frontend::MASQUERADE, ..frontend(OUTSIDE, 53, 17) };
        let spec = service("default/dns:dns", &[frontend], &[("10.0.2.10", 8080)]);
        world.writer.set_service("default/dns", &spec).unwrap();
        world.writer.publish().unwrap();
        let there = cut(&between(CLIENT, OUTSIDE), 4000, 53);
        let left = send(&mut world, UP, &order.map(|at| on(&client_link(), there[at].clone())));
        let first = left.iter().find(|it| it[20..22] == [0x20, 0]).unwrap();
        let port = u16::from_be_bytes([first[34], first[35]]);
        let out = cut(&between("10.0.2.1", "10.0.2.10").ttl(63), port, 8080);
        assert_eq!(left, sorted(&to_backend(), out));
        let back = cut(&between("10.0.2.10", "10.0.2.1"), 8080, port);
        let left = send(&mut world, DOWN, &order.map(|at| on(&backend_link(), back[at].clone())));
        let out = cut(&between(OUTSIDE, CLIENT).ttl(63), 53, 4000);
        assert_eq!(left, sorted(&to_client(), out));
    }
}

#[test]
fn routed_fragments_pass_in_any_order() {
    for order in ORDERS {
        let mut world = World::new();
        let there = cut(&between("10.0.1.2", "10.0.2.10"), 4000, 53);
        let left = send(&mut world, UP, &order.map(|at| on(&client_link(), there[at].clone())));
        let out = cut(&between("10.0.1.2", "10.0.2.10").ttl(63), 4000, 53);
        assert_eq!(left, sorted(&to_backend(), out));
    }
}

#[test]
fn fragments_whose_first_never_comes_are_given_up_and_counted() {
    let mut world = World::new();
    let [_, second, third] = cut(&between("10.0.1.2", VIP), 4000, 53);
    assert!(
        send(&mut world, UP, &[on(&client_link(), second), on(&client_link(), third)]).is_empty()
    );
    assert_eq!(world.workers[0].state.local.held(), 2);
    assert_eq!(world.counters()["up0 held_packets"], 2);
    assert!(world.tick(SECOND).is_empty());
    let counters = world.counters();
    assert_eq!((counters.get("up0 held_packets"), counters["up0 fragment_timeout"]), (None, 2));
}

#[test]
fn a_flood_of_fragments_takes_no_more_than_its_frames() {
    let mut world = World::new();
    for n in 0..100u8 {
        let client = format!("198.51.100.{n}");
        let [_, second, _] = cut(&between(&client, VIP), 4000, 53);
        world.send(UP, &on(&client_link(), second));
    }
    assert_eq!(world.workers[0].state.local.held(), 64);
    assert_eq!(world.counters()["up0 fragment_full"], 36);
    // Of one packet fewer wait.
    let mut world = World::new();
    let whole = vec![7; 400];
    for at in 1..30 {
        let part = piece(&between("10.0.1.2", VIP), &whole, at * 8, at * 8 + 8);
        world.send(UP, &on(&client_link(), part));
    }
    assert_eq!(world.workers[0].state.local.held(), 16);
    assert_eq!(world.counters()["up0 fragment_full"], 13);
    // Whole packets and fragments in order go on meanwhile.
    let there = cut(&between("10.0.1.77", VIP), 4000, 53).map(|part| on(&client_link(), part));
    assert_eq!(send(&mut world, UP, &there).len(), 3);
}

#[test]
fn what_contradicts_the_first_fragment_is_dropped_with_the_rest_of_its_packet() {
    let ip = between("10.0.1.2", VIP);
    let whole = l4(&ip.udp(4000, 53, &[1; 200]));
    let other = l4(&ip.udp(4000, 80, &[1; 200]));
    let part = |bytes: &[u8], from, to| on(&client_link(), piece(&ip, bytes, from, to));
    for (what, second) in [
        ("overlaps the first", part(&whole, 56, 136)),
        ("overlaps the ports", part(&whole, 8, 136)),
        ("a first with other ports", part(&other, 0, 64)),
        ("a first of another length", part(&whole, 0, 72)),
    ] {
        let mut world = World::new();
        assert_eq!(world.send(UP, &part(&whole, 0, 64)).len(), 1);
        for (at, frame) in
            [second, part(&whole, 64, 136), part(&whole, 136, 999)].iter().enumerate()
        {
            assert!(world.send(UP, frame).is_empty(), "{what}: {at}");
            assert_eq!(
                world.verdicts(),
                [Verdict::Drop(DropReason::FragmentInvalid)],
                "{what}: {at}"
            );
        }
    }
    // The same again is only a duplicate.
    let mut world = World::new();
    for _ in 0..2 {
        for (from, to) in [(0, 64), (64, 136), (136, 999)] {
            assert_eq!(world.send(UP, &part(&whole, from, to)).len(), 1);
        }
    }
    // Cut in the middle of a unit, past the end of an IP packet, or so small that the ports are not in it.
    let mut world = World::new();
    let mut far = ip.clone();
    far.fragment = Some((65_528, false));
    let far = on(&client_link(), far.packet(17, &[0; 64]));
    for frame in [part(&whole, 64, 130), far] {
        assert!(world.send(UP, &frame).is_empty());
        assert_eq!(world.verdicts(), [Verdict::Drop(DropReason::FragmentInvalid)]);
    }
    let mut tiny = ip.clone();
    tiny.fragment = Some((0, true));
    assert!(
        world
            .send(UP, &on(&client_link(), tiny.packet(6, &[0x0f, 0xa0, 0, 80, 0, 0, 0, 0])))
            .is_empty()
    );
    assert_eq!(world.verdicts(), [Verdict::Drop(DropReason::Truncated)]);
    let rest = on(&client_link(), {
        let mut ip = ip.clone();
        ip.fragment = Some((8, false));
        ip.packet(6, &[0; 24])
    });
    assert!(world.send(UP, &rest).is_empty());
    assert_eq!(world.verdicts(), [Verdict::Drop(DropReason::FragmentInvalid)]);
}

#[test]
fn fragments_that_cannot_be_translated_never_leave() {
    let mut world = World::new();
    let mut ip = between("10.0.1.2", VIP);
    for (offset, more) in [(0, true), (64, false)] {
        ip.fragment = Some((offset, more));
        // The CRC in the first covers all of them.
        let frame = on(&client_link(), ip.sctp(4000, 9, &[0; 52]));
        assert!(world.send(UP, &frame).is_empty());
        assert_eq!(world.verdicts(), [Verdict::Drop(DropReason::FragmentUnsupported)]);
    }
    // What follows a first fragment that was refused.
    let there = cut(&between("10.0.1.2", VIP), 4000, 81).map(|part| on(&client_link(), part));
    world.send(UP, &there[0]);
    assert!(world.send(UP, &there[1]).is_empty());
    assert_eq!(world.verdicts(), [Verdict::Drop(DropReason::FragmentUnsupported)]);
}
