//! ARP: who is answered, who is learned, and what is not believed (features A2, A3; RFC 826, RFC 5227).

use millrace_dataplane::verdict::{DropReason, PuntReason, ReplyKind, Verdict};

use crate::packets::{Link, arp, between, on};
use crate::world::*;

const EVERYONE: [u8; 6] = [0xff; 6];
const NOBODY: [u8; 6] = [0; 6];
const STRANGER: [u8; 6] = [2, 0, 0, 0, 1, 99];

fn from(mac: [u8; 6]) -> Link {
    Link::new(mac, EVERYONE)
}

#[test]
fn a_request_for_an_owned_address_is_answered_to_the_asker_alone() {
    let mut world = World::new();
    let request = arp(&from(STRANGER), 1, (STRANGER, "10.0.1.99"), (NOBODY, "10.0.1.1"));
    let reply = arp(&Link::new(UP_MAC, STRANGER), 2, (UP_MAC, "10.0.1.1"), (STRANGER, "10.0.1.99"));
    world.expect(
        UP,
        &request,
        ReplyKind::Arp.into(),
        &[(UP, reply)],
        &["up0 rx_packets", "up0 arp-reply", "up0 out_packets"],
    );
}

#[test]
fn a_request_for_a_service_address_is_answered_on_any_interface() {
    let mut world = World::new();
    for (interface, ours, theirs, name) in
        [(UP, UP_MAC, "10.0.1.99", "up0"), (DOWN, DOWN_MAC, "10.0.2.99", "down0")]
    {
        let request = arp(&from(STRANGER), 1, (STRANGER, theirs), (NOBODY, VIP));
        let reply = arp(&Link::new(ours, STRANGER), 2, (ours, VIP), (STRANGER, theirs));
        let moved = [
            format!("{name} rx_packets"),
            format!("{name} arp-reply"),
            format!("{name} out_packets"),
        ];
        let moved: Vec<&str> = moved.iter().map(String::as_str).collect();
        world.expect(interface, &request, ReplyKind::Arp.into(), &[(interface, reply)], &moved);
    }
}

#[test]
fn a_request_for_anybody_else_is_not_answered() {
    let mut world = World::new();
    // A free address of the network, the other interface's address, and a backend's.
    for target in ["10.0.1.7", "10.0.2.1", "10.0.2.10"] {
        let request = arp(&from(STRANGER), 1, (STRANGER, "10.0.1.99"), (NOBODY, target));
        world.expect(
            UP,
            &request,
            PuntReason::NotOwned.into(),
            &[],
            &["up0 rx_packets", "up0 not_owned"],
        );
    }
}

#[test]
fn a_tagged_request_is_answered_with_its_tags() {
    let mut world = World::new();
    for tags in [&[7][..], &[7, 300]] {
        let request =
            arp(&from(STRANGER).tagged(tags), 1, (STRANGER, "10.0.1.99"), (NOBODY, "10.0.1.1"));
        let reply = arp(
            &Link::new(UP_MAC, STRANGER).tagged(tags),
            2,
            (UP_MAC, "10.0.1.1"),
            (STRANGER, "10.0.1.99"),
        );
        world.expect(
            UP,
            &request,
            ReplyKind::Arp.into(),
            &[(UP, reply)],
            &["up0 rx_packets", "up0 arp-reply", "up0 out_packets"],
        );
    }
}

#[test]
fn a_probe_for_our_address_is_answered_and_teaches_nothing() {
    let mut world = World::new();
    let probe = arp(&from(STRANGER), 1, (STRANGER, "0.0.0.0"), (NOBODY, "10.0.1.1"));
    let reply = arp(&Link::new(UP_MAC, STRANGER), 2, (UP_MAC, "10.0.1.1"), (STRANGER, "0.0.0.0"));
    world.expect(
        UP,
        &probe,
        ReplyKind::Arp.into(),
        &[(UP, reply)],
        &["up0 rx_packets", "up0 arp-reply", "up0 out_packets"],
    );
    assert_eq!(
        world.workers[0].state.neighbors.find(millrace_tables::InterfaceId(UP), &addr("0.0.0.0")),
        None
    );
}

#[test]
fn who_claims_our_address_is_a_conflict_and_is_not_answered() {
    let mut world = World::new();
    for (sender, target) in [("10.0.1.1", "10.0.1.1"), ("10.0.1.1", "10.0.1.2"), (VIP, VIP)] {
        for op in [1, 2] {
            let claim = arp(&from(STRANGER), op, (STRANGER, sender), (NOBODY, target));
            world.expect(
                UP,
                &claim,
                DropReason::AddressConflict.into(),
                &[],
                &["up0 rx_packets", "up0 address_conflict"],
            );
        }
    }
}

#[test]
fn gratuitous_arp_changes_the_mac_of_a_known_neighbor_at_once() {
    let mut world = World::new();
    let new_mac = [2, 0, 0, 0, 2, 0xaa];
    for op in [1, 2] {
        let announcement = arp(&from(new_mac), op, (new_mac, "10.0.2.10"), (NOBODY, "10.0.2.10"));
        world.expect(
            DOWN,
            &announcement,
            PuntReason::Consumed.into(),
            &[],
            &["down0 rx_packets", "down0 consumed"],
        );
        let packet = between("10.0.1.2", "10.0.2.10");
        let sent = world.send(UP, &on(&client_link(), packet.udp(1000, 2000, b"x")));
        assert_eq!(
            sent[0].bytes,
            on(&Link::new(DOWN_MAC, new_mac), packet.ttl(63).udp(1000, 2000, b"x"))
        );
    }
}

#[test]
fn gratuitous_arp_and_unasked_replies_create_nobody() {
    let mut world = World::new();
    for (op, link, target) in [
        (1, from(STRANGER), "10.0.1.99"),
        (2, from(STRANGER), "10.0.1.99"),
        (2, Link::new(STRANGER, UP_MAC), "10.0.1.1"),
    ] {
        let claim = arp(&link, op, (STRANGER, "10.0.1.99"), (UP_MAC, target));
        world.expect(
            UP,
            &claim,
            PuntReason::Consumed.into(),
            &[],
            &["up0 rx_packets", "up0 consumed"],
        );
    }
    assert_eq!(
        world.workers[0].state.neighbors.find(millrace_tables::InterfaceId(UP), &addr("10.0.1.99")),
        None
    );
}

#[test]
fn senders_from_another_network_are_answered_but_not_learned() {
    let mut world = World::new();
    let request = arp(&from(STRANGER), 1, (STRANGER, "192.168.77.5"), (NOBODY, "10.0.1.1"));
    assert_eq!(world.send(UP, &request).len(), 1);
    assert_eq!(
        world.workers[0]
            .state
            .neighbors
            .find(millrace_tables::InterfaceId(UP), &addr("192.168.77.5")),
        None
    );
}

#[test]
fn malformed_arp_is_dropped() {
    let mut world = World::new();
    let good = arp(&from(STRANGER), 1, (STRANGER, "10.0.1.99"), (NOBODY, "10.0.1.1"));
    let with = |at: usize, bytes: &[u8]| {
        let mut packet = good.clone();
        packet[at..at + bytes.len()].copy_from_slice(bytes);
        packet
    };
    for (what, packet, reason) in [
        ("hardware type", with(14, &[0, 6]), DropReason::MalformedArp),
        ("protocol type", with(16, &[0x86, 0xdd]), DropReason::MalformedArp),
        ("hardware length", with(18, &[8]), DropReason::MalformedArp),
        ("protocol length", with(19, &[16]), DropReason::MalformedArp),
        ("op 3", with(20, &[0, 3]), DropReason::MalformedArp),
        ("group as sender", with(22, &[1]), DropReason::MalformedArp),
        ("nobody as sender", with(22, &NOBODY), DropReason::MalformedArp),
        ("multicast sender", with(28, &[224, 0, 0, 1]), DropReason::Martian),
        ("loopback sender", with(28, &[127, 0, 0, 1]), DropReason::Martian),
        ("broadcast sender", with(28, &[10, 0, 1, 255]), DropReason::Martian),
        ("cut short", good[..good.len() - 1].to_vec(), DropReason::Truncated),
    ] {
        assert_eq!(world.send(UP, &packet), [], "{what}");
        assert_eq!(world.verdicts(), [Verdict::Drop(reason)], "{what}");
    }
}
