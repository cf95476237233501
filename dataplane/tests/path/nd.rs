//! Neighbor discovery (feature A5; RFC 4861 sections 7.1 and 7.2, RFC 4862 section 5.4).

use millrace_dataplane::verdict::{DropReason, PuntReason, ReplyKind, Verdict};
use millrace_tables::InterfaceId;

use crate::packets::{Ip, Link, between, nd, on};
use crate::world::*;

const STRANGER: [u8; 6] = [2, 0, 0, 0, 1, 99];
const ROUTER: u32 = 1 << 31;
const SOLICITED: u32 = 1 << 30;
const OVERRIDE: u32 = 1 << 29;
const OURS: &str = "2001:db8:1::1";
const OUR_GROUP: &str = "ff02::1:ff00:1";
const OUR_LINK_LOCAL: &str = "fe80::ff:fe00:10";

fn group_link() -> Link {
    Link::new(STRANGER, [0x33, 0x33, 0xff, 0, 0, 1])
}

fn knows(world: &World, who: &str) -> bool {
    world.workers[0].state.neighbors.find(InterfaceId(UP), &addr(who)).is_some()
}

#[test]
fn a_solicitation_for_an_owned_address_is_answered_with_our_mac() {
    let mut world = World::new();
    for (from, target, group) in [
        ("2001:db8:1::99", OURS, OUR_GROUP),
        ("fe80::99", OUR_LINK_LOCAL, "ff02::1:ff00:10"),
        ("2001:db8:1::98", VIP6, "ff02::1:ff00:41"),
    ] {
        let request = on(&group_link(), nd(from, group, 135, 0, target, Some((1, STRANGER))));
        let flags = ROUTER | SOLICITED | OVERRIDE;
        let answer = on(
            &Link::new(UP_MAC, STRANGER),
            nd(target, from, 136, flags, target, Some((2, UP_MAC))),
        );
        let moved = ["up0 rx_packets", "up0 neighbor-advertisement", "up0 out_packets"];
        world.expect(
            UP,
            &request,
            ReplyKind::NeighborAdvertisement.into(),
            &[(UP, answer)],
            &moved,
        );
        assert!(knows(&world, from), "{from} asked, so it is known");
    }
}

#[test]
fn a_unicast_solicitation_without_option_is_answered_to_its_sender() {
    let mut world = World::new();
    let request = on(&Link::new(STRANGER, UP_MAC), nd("2001:db8:1::99", OURS, 135, 0, OURS, None));
    let answer =
        nd(OURS, "2001:db8:1::99", 136, ROUTER | SOLICITED | OVERRIDE, OURS, Some((2, UP_MAC)));
    let sent = world.send(UP, &request);
    assert_eq!(sent[0].bytes, on(&Link::new(UP_MAC, STRANGER), answer));
    assert!(!knows(&world, "2001:db8:1::99"));
}

#[test]
fn duplicate_address_detection_for_our_address_is_answered_to_all_nodes() {
    let mut world = World::new();
    let probe = on(&group_link(), nd("::", OUR_GROUP, 135, 0, OURS, None));
    let answer = on(
        &Link::new(UP_MAC, [0x33, 0x33, 0, 0, 0, 1]),
        nd(OURS, "ff02::1", 136, ROUTER | OVERRIDE, OURS, Some((2, UP_MAC))),
    );
    let moved = ["up0 rx_packets", "up0 neighbor-advertisement", "up0 out_packets"];
    world.expect(UP, &probe, ReplyKind::NeighborAdvertisement.into(), &[(UP, answer)], &moved);
}

#[test]
fn solicitations_for_others_are_not_answered() {
    let mut world = World::new();
    for target in ["2001:db8:1::77", "2001:db8:2::1", "fe80::1"] {
        let request =
            on(&group_link(), nd("2001:db8:1::99", OUR_GROUP, 135, 0, target, Some((1, STRANGER))));
        world.expect(
            UP,
            &request,
            PuntReason::NotOwned.into(),
            &[],
            &["up0 rx_packets", "up0 not_owned"],
        );
    }
    assert!(!knows(&world, "2001:db8:1::99"));
}

#[test]
fn a_forwarded_or_damaged_message_is_dropped() {
    let mut world = World::new();
    let good =
        on(&group_link(), nd("2001:db8:1::99", OUR_GROUP, 135, 0, OURS, Some((1, STRANGER))));
    let with = |at: usize, value: u8| {
        let mut packet = good.clone();
        packet[at] = value;
        packet
    };
    let built = |src: &str, dst: &str, kind: u8, code: u8, flags: u32, body: &[u8]| {
        let ip: Ip = between(src, dst).ttl(255);
        on(&group_link(), ip.icmp(kind, code, flags, body))
    };
    let target: std::net::Ipv6Addr = OURS.parse().unwrap();
    let target = target.octets();
    let option = |bytes: &[u8]| [&target[..], bytes].concat();
    let group_target = "ff02::5".parse::<std::net::Ipv6Addr>().unwrap().octets();
    for (what, packet, reason) in [
        ("hop limit 254", with(21, 254), DropReason::NdHopLimit),
        ("checksum", with(57, good[57] ^ 1), DropReason::BadChecksum),
        ("code 1", built("2001:db8:1::99", OUR_GROUP, 135, 1, 0, &target), DropReason::MalformedNd),
        (
            "option of length 0",
            built("2001:db8:1::99", OUR_GROUP, 135, 0, 0, &option(&[1, 0, 2, 0, 0, 0, 1, 99])),
            DropReason::MalformedNd,
        ),
        (
            "option past the end",
            built("2001:db8:1::99", OUR_GROUP, 135, 0, 0, &option(&[1, 2, 2, 0, 0, 0, 1, 99])),
            DropReason::MalformedNd,
        ),
        (
            "group as MAC",
            built("2001:db8:1::99", OUR_GROUP, 135, 0, 0, &option(&[1, 1, 3, 0, 0, 0, 1, 99])),
            DropReason::MalformedNd,
        ),
        (
            "cut target",
            built("2001:db8:1::99", OUR_GROUP, 135, 0, 0, &target[..15]),
            DropReason::MalformedNd,
        ),
        (
            "group as target",
            built("2001:db8:1::99", OUR_GROUP, 135, 0, 0, &group_target),
            DropReason::MalformedNd,
        ),
        (
            "probe with option",
            built("::", OUR_GROUP, 135, 0, 0, &option(&[1, 1, 2, 0, 0, 0, 1, 99])),
            DropReason::MalformedNd,
        ),
        (
            "probe to another group",
            built("::", "ff02::1", 135, 0, 0, &target),
            DropReason::MalformedNd,
        ),
        (
            "solicited advertisement to a group",
            built("2001:db8:1::99", "ff02::1", 136, 0, SOLICITED, &target),
            DropReason::MalformedNd,
        ),
        (
            "our address as source",
            built(OURS, OUR_GROUP, 135, 0, 0, &target),
            DropReason::AddressConflict,
        ),
        (
            "our address advertised",
            built(
                "2001:db8:1::99",
                "ff02::1",
                136,
                0,
                OVERRIDE,
                &option(&[2, 1, 2, 0, 0, 0, 1, 99]),
            ),
            DropReason::AddressConflict,
        ),
    ] {
        assert_eq!(world.send(UP, &packet), [], "{what}");
        assert_eq!(world.verdicts(), [Verdict::Drop(reason)], "{what}");
    }
    assert!(!knows(&world, "2001:db8:1::99"));
}

#[test]
fn an_unsolicited_advertisement_moves_a_known_neighbor_and_creates_none() {
    let mut world = World::new();
    let new_mac = [2, 0, 0, 0, 1, 0xaa];
    let all = Link::new(new_mac, [0x33, 0x33, 0, 0, 0, 1]);
    for who in ["2001:db8:1::2", "2001:db8:1::99"] {
        let advertisement = on(&all, nd(who, "ff02::1", 136, OVERRIDE, who, Some((2, new_mac))));
        world.expect(
            UP,
            &advertisement,
            PuntReason::Consumed.into(),
            &[],
            &["up0 rx_packets", "up0 consumed"],
        );
    }
    assert!(!knows(&world, "2001:db8:1::99"));
    let packet = between("2001:db8:2::10", "2001:db8:1::2");
    let sent = world.send(DOWN, &on(&backend_link(), packet.udp(7, 8, b"x")));
    assert_eq!(sent[0].bytes, on(&Link::new(UP_MAC, new_mac), packet.ttl(63).udp(7, 8, b"x")));
}

#[test]
fn router_discovery_and_groups_are_the_kernels() {
    let mut world = World::new();
    for (kind, body) in [(133, vec![]), (134, vec![0; 8])] {
        let packet = on(
            &Link::new(STRANGER, [0x33, 0x33, 0, 0, 0, 2]),
            between("fe80::99", "ff02::2").ttl(255).icmp(kind, 0, 0, &body),
        );
        world.expect(
            UP,
            &packet,
            PuntReason::Control.into(),
            &[],
            &["up0 rx_packets", "up0 control"],
        );
    }
    let report = on(
        &Link::new(STRANGER, [0x33, 0x33, 0, 0, 0, 0x16]),
        between("fe80::99", "ff02::16").ttl(1).icmp(143, 0, 0, &[]),
    );
    world.expect(
        UP,
        &report,
        PuntReason::Multicast.into(),
        &[],
        &["up0 rx_packets", "up0 multicast"],
    );
}

#[test]
fn a_solicitation_on_its_way_to_another_node_is_routed() {
    let mut world = World::new();
    // RFC 4861 lets it be: its hop limit tells the receiver that it is not from its link.
    let packet = nd("2001:db8:1::2", "2001:db8:2::10", 135, 0, "2001:db8:2::10", None);
    let mut routed = packet.clone();
    routed[7] = 254;
    let sent = world.send(UP, &on(&client_link(), packet));
    assert_eq!(sent[0].bytes, on(&to_backend(), routed));
}
