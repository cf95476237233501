//! What parse accepts, and the reason for what it doesn't (features B5, C4; RFC 791, RFC 8200, RFC 1812 section 5.2).

use millrace_dataplane::clock::SECOND;
use millrace_dataplane::trace::Step;
use millrace_dataplane::verdict::{DropReason, Verdict};
use millrace_tables::InterfaceId;
use millrace_xsk::TxOffload;

use crate::packets::{Link, between, on, sum};
use crate::world::*;

fn transmit() -> Verdict {
    Verdict::Transmit { interface: InterfaceId(DOWN), offload: TxOffload::None }
}

#[track_caller]
fn dropped(world: &mut World, what: &str, packet: &[u8], reason: DropReason) {
    assert_eq!(world.send(UP, packet), [], "{what}");
    assert_eq!(world.verdicts(), [Verdict::Drop(reason)], "{what}");
}

/// Changes bytes of an IPv4 header and makes its checksum right again.
fn edited(packet: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    packet[at..at + bytes.len()].copy_from_slice(bytes);
    packet[24..26].copy_from_slice(&[0, 0]);
    let len = usize::from(packet[14] & 15) * 4;
    let check = !sum(&[&packet[14..14 + len.min(packet.len() - 14)]]);
    packet[24..26].copy_from_slice(&check.to_be_bytes());
    packet
}

#[test]
fn every_cut_of_a_packet_is_truncated_or_whole() {
    let mut world = World::new();
    for packet in [
        on(&client_link(), between("10.0.1.2", "10.0.2.10").udp(1, 2, b"payload")),
        on(&client_link().tagged(&[1, 2]), between("2001:db8:1::2", "2001:db8:2::10").syn(1, 2)),
    ] {
        for len in 1..packet.len() {
            dropped(&mut world, &format!("{len} bytes"), &packet[..len], DropReason::Truncated);
        }
        assert_eq!(world.send(UP, &packet).len(), 1);
    }
}

#[test]
fn ipv4_headers_that_contradict_themselves() {
    let mut world = World::new();
    let good = on(&client_link(), between("10.0.1.2", "10.0.2.10").udp(1, 2, b"payload"));
    for (what, packet, reason) in [
        ("version 6", edited(&good, 14, &[0x65]), DropReason::BadVersion),
        ("header of 16 bytes", edited(&good, 14, &[0x44]), DropReason::BadHeader),
        ("header past the end of the packet", edited(&good, 14, &[0x4f]), DropReason::BadLength),
        ("total length below the header", edited(&good, 16, &[0, 19]), DropReason::BadLength),
        ("total length past the frame", edited(&good, 16, &[0, 200]), DropReason::Truncated),
    ] {
        dropped(&mut world, what, &packet, reason);
    }
    let mut packet = good;
    packet[24] ^= 1;
    dropped(&mut world, "checksum", &packet, DropReason::BadChecksum);
}

#[test]
fn martians() {
    let mut world = World::new();
    let good = on(&client_link(), between("10.0.1.2", "10.0.2.10").udp(1, 2, b"payload"));
    for src in
        [[0, 0, 0, 0], [0, 1, 2, 3], [127, 0, 0, 1], [224, 0, 0, 1], [239, 255, 255, 255], [255; 4]]
    {
        dropped(
            &mut world,
            &format!("from {src:?}"),
            &edited(&good, 26, &src),
            DropReason::Martian,
        );
    }
    for dst in [[0, 0, 0, 0], [127, 0, 0, 1], [224, 0, 0, 1], [255; 4]] {
        dropped(&mut world, &format!("to {dst:?}"), &edited(&good, 30, &dst), DropReason::Martian);
    }
    for (src, dst) in [
        ("::", "2001:db8:2::10"),
        ("::1", "2001:db8:2::10"),
        ("ff02::1", "2001:db8:2::10"),
        ("::ffff:10.0.1.2", "2001:db8:2::10"),
        ("2001:db8:1::2", "::"),
        ("2001:db8:1::2", "::1"),
        ("2001:db8:1::2", "::ffff:10.0.2.10"),
    ] {
        dropped(
            &mut world,
            &format!("{src} to {dst}"),
            &on(&client_link(), between(src, dst).udp(1, 2, b"")),
            DropReason::Martian,
        );
    }
}

#[test]
fn frames_of_other_stations_and_of_groups() {
    let mut world = World::new();
    let packet = between("10.0.1.2", "10.0.2.10").udp(1, 2, b"payload");
    dropped(
        &mut world,
        "to another",
        &on(&Link::new(CLIENT_MAC, DOWN_MAC), packet.clone()),
        DropReason::NotForUs,
    );
    dropped(
        &mut world,
        "from a group",
        &on(&Link::new([3, 0, 0, 0, 0, 1], UP_MAC), packet.clone()),
        DropReason::BadEthernet,
    );
    let mut three_tags = client_link().tagged(&[1, 2]).bytes(0x8100);
    three_tags.extend([0, 3, 8, 0]);
    three_tags.extend(&packet);
    dropped(&mut world, "three tags", &three_tags, DropReason::BadEthernet);
}

#[test]
fn options_are_carried_and_the_ports_behind_them_found() {
    let mut world = World::new();
    let mut ip = between("10.0.1.2", VIP);
    // Record route with room for two, a timestamp, router alert.
    for options in [
        &[7, 11, 4, 0, 0, 0, 0, 0, 0, 0, 0, 1][..],
        &[68, 8, 5, 0, 0, 0, 0, 0],
        &[148, 4, 0, 0],
        &[1; 40],
    ] {
        ip.options = options.to_vec();
        let mut out = ip.clone();
        out.dst = crate::packets::ip("10.0.2.10");
        let sent = world.send(UP, &on(&client_link(), ip.syn(4000, 80)));
        assert_eq!(sent[0].bytes, on(&to_backend(), out.ttl(63).syn(4000, 8080)));
    }
}

#[test]
fn source_routes_and_malformed_options_are_refused() {
    let mut world = World::new();
    let mut ip = between("10.0.1.2", "10.0.2.10");
    for (options, reason) in [
        (&[131, 7, 4, 10, 0, 2, 9, 0][..], DropReason::SourceRoute),
        (&[137, 7, 4, 10, 0, 2, 9, 0], DropReason::SourceRoute),
        (&[7, 0, 0, 0], DropReason::BadHeader),
        (&[7, 1, 0, 0], DropReason::BadHeader),
        (&[7, 5, 0, 0], DropReason::BadHeader),
        (&[1, 1, 1, 68], DropReason::BadHeader),
    ] {
        ip.options = options.to_vec();
        dropped(
            &mut world,
            &format!("{options:?}"),
            &on(&client_link(), ip.udp(1, 2, b"")),
            reason,
        );
    }
    ip.options = vec![0, 131, 0, 0];
    assert_eq!(
        world.send(UP, &on(&client_link(), ip.udp(1, 2, b""))).len(),
        1,
        "what follows the end of the list is not read"
    );
}

#[test]
fn extension_headers_are_walked_to_the_ports() {
    let mut world = World::new();
    let eight = vec![(60u8, vec![0, 0, 1, 4, 0, 0, 0, 0]); 8];
    for extensions in [
        vec![(0, vec![0, 0, 5, 2, 0, 0, 1, 0])],
        vec![(0, vec![0, 0, 1, 4, 0, 0, 0, 0]), (60, [&[0, 1][..], &[1, 12], &[0; 12]].concat())],
        vec![(43, vec![0, 2, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])],
        vec![(44, vec![0, 0, 0, 0, 1, 2, 3, 4])],
        eight.clone(),
    ] {
        let mut ip = between("2001:db8:1::2", VIP6);
        ip.extensions = extensions;
        let mut out = ip.clone();
        out.dst = crate::packets::ip("2001:db8:2::10");
        let sent = world.send(UP, &on(&client_link(), ip.syn(4000, 80)));
        assert_eq!(sent.len(), 1, "{:?} {:#?}", ip.extensions, world.steps);
        assert_eq!(sent[0].bytes, on(&to_backend(), out.ttl(63).syn(4000, 8080)));
    }
    let mut ip = between("2001:db8:1::2", "2001:db8:2::10");
    ip.extensions = [eight, vec![(60, vec![0, 0, 1, 4, 0, 0, 0, 0])]].concat();
    dropped(&mut world, "nine", &on(&client_link(), ip.syn(1, 2)), DropReason::ExtensionHeaders);
    ip.extensions = vec![(60, vec![0, 0, 1, 4, 0, 0, 0, 0]), (0, vec![0, 0, 1, 4, 0, 0, 0, 0])];
    dropped(
        &mut world,
        "hop-by-hop second",
        &on(&client_link(), ip.syn(1, 2)),
        DropReason::BadHeader,
    );
    ip.extensions = vec![(60, vec![0, 200, 1, 4, 0, 0, 0, 0])];
    dropped(
        &mut world,
        "longer than the packet",
        &on(&client_link(), ip.syn(1, 2)),
        DropReason::Truncated,
    );
}

#[test]
fn payload_of_a_later_fragment_is_never_taken_for_ports() {
    let mut world = World::new();
    let mut v4 = between("10.0.1.2", "10.0.2.10");
    v4.fragment = Some((64, false));
    // A payload that would read as source port 4000 and destination port 80.
    let looks_like_ports = [0x0f, 0xa0, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0];
    let mut v6 = between("2001:db8:1::2", "2001:db8:2::10");
    v6.extensions = vec![(44, vec![0, 0, 0, 64, 1, 2, 3, 4])];
    for ip in [v4, v6] {
        let out = on(&to_backend(), ip.clone().ttl(63).packet(6, &looks_like_ports));
        assert!(world.send(UP, &on(&client_link(), ip.packet(6, &looks_like_ports))).is_empty());
        // Its first fragment doesn't come.
        let sent = world.tick(SECOND / 10);
        assert_eq!(sent.iter().map(|it| &it.bytes).collect::<Vec<_>>(), [&out]);
        assert_eq!(world.verdicts(), [transmit()]);
        assert!(
            !world.steps.iter().any(|step| matches!(step, Step::Frontend { .. } | Step::Untracked)),
            "no flow was looked up"
        );
    }
}

#[test]
fn a_router_carries_what_only_a_host_would_refuse() {
    let mut world = World::new();
    let ip = between("10.0.1.2", "10.0.2.10");
    for (what, protocol, payload) in [
        ("three bytes of TCP", 6, vec![1, 2, 3]),
        ("a TCP header without ports", 6, vec![]),
        ("a TCP data offset of 0", 6, vec![0; 20]),
        ("a UDP length past the end", 17, vec![0, 1, 0, 2, 1, 0, 0, 0]),
        ("an unknown protocol", 250, vec![9; 7]),
        ("an ICMP error that quotes nothing", 1, vec![3, 3, 0xfc, 0xfc, 0, 0, 0, 0]),
        ("half an ICMP header", 1, vec![8, 0]),
        ("ESP", 50, vec![1; 24]),
    ] {
        let sent = world.send(UP, &on(&client_link(), ip.packet(protocol, &payload)));
        assert_eq!(sent.len(), 1, "{what}");
        assert_eq!(
            sent[0].bytes,
            on(&to_backend(), ip.clone().ttl(63).packet(protocol, &payload)),
            "{what}"
        );
    }
}
