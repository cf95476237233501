//! Questions and answers against each other and against etherparse.

use super::*;
use crate::verify::checksums_hold;
use etherparse::{PacketBuilder, SlicedPacket};
use proptest::prelude::*;

const OURS: Mac = Mac([2, 0, 0, 0, 0, 1]);
const THEIRS: Mac = Mac([2, 0, 0, 0, 0, 2]);

fn responder() -> Responder {
    let nets = ["10.0.0.1/24", "fd00::1/64"].map(|n| n.parse().unwrap());
    let prefixes = ["10.9.0.0/16".parse().unwrap()];
    Responder::new(OURS, &nets, &prefixes)
}

fn answer(frame: &[u8]) -> Option<(Vec<u8>, Answered)> {
    let mut out = vec![0xa5; 2000];
    let (len, what) = responder().answer(frame, &mut out)?;
    out.truncate(len);
    Some((out, what))
}

fn question(own: &str, target: &str) -> Vec<u8> {
    let mut out = vec![0xa5; 200];
    let len = ask(THEIRS, own.parse().unwrap(), target.parse().unwrap(), &mut out).unwrap();
    out.truncate(len);
    assert!(checksums_hold(&out));
    out
}

#[test]
fn questions_are_answered_and_answers_are_learned() {
    for (own, target, what) in [
        ("10.0.0.2", "10.0.0.1", Answered::Arp),
        ("10.0.0.2", "10.9.200.7", Answered::Arp),
        ("fd00::2", "fd00::1", Answered::Nd),
    ] {
        let question = question(own, target);
        let (said, kind) = answer(&question).unwrap();
        assert_eq!(kind, what);
        assert!(said.len() >= 60 && checksums_hold(&said));
        assert_eq!((&said[..6], &said[6..12]), (&THEIRS.0[..], &OURS.0[..]));
        assert_eq!(learn(&said), Some((target.parse().unwrap(), OURS)));
        // A question teaches nothing here, and its answer asks for none.
        assert_eq!(learn(&question), None);
        assert_eq!(answer(&said), None);
    }
    // Others' addresses are not answered for: neither the rest of the prefix nor foreign ones.
    for (own, target) in
        [("10.0.0.2", "10.0.0.3"), ("10.0.0.2", "10.10.0.1"), ("fd00::2", "fd00::3")]
    {
        assert_eq!(answer(&question(own, target)), None, "{target}");
    }
}

#[test]
fn tags_come_back_with_the_answer() {
    let plain = question("10.0.0.2", "10.0.0.1");
    let mut tagged = plain[..12].to_vec();
    tagged.extend([0x81, 0, 0, 100]);
    tagged.extend(&plain[12..]);
    let (said, _) = answer(&tagged).unwrap();
    assert_eq!(said[12..18], [0x81, 0, 0, 100, 8, 6]);
    assert_eq!(learn(&said), Some(("10.0.0.1".parse().unwrap(), OURS)));
}

#[test]
fn echo_requests_are_answered_with_their_payload() {
    let payload = b"0123456789";
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(THEIRS.0, OURS.0)
        .ipv4([10, 0, 0, 2], [10, 0, 0, 1], 9)
        .icmpv4_echo_request(7, 8)
        .write(&mut frame, payload)
        .unwrap();
    let (said, what) = answer(&frame).unwrap();
    assert_eq!(what, Answered::Echo);
    assert!(checksums_hold(&said));
    let packet = SlicedPacket::from_ethernet(&said).unwrap();
    let Some(etherparse::TransportSlice::Icmpv4(icmp)) = packet.transport else {
        panic!("no ICMP")
    };
    assert_eq!((icmp.type_u8(), icmp.bytes5to8()), (0, [0, 7, 0, 8]));
    assert_eq!(icmp.payload(), payload);
    // A broken one gets no answer.
    *frame.last_mut().unwrap() ^= 1;
    assert_eq!(answer(&frame), None);

    let mut frame = Vec::new();
    let (from, to) =
        ("fd00::2".parse::<Ipv6Addr>().unwrap(), "fd00::1".parse::<Ipv6Addr>().unwrap());
    PacketBuilder::ethernet2(THEIRS.0, OURS.0)
        .ipv6(from.octets(), to.octets(), 9)
        .icmpv6_echo_request(7, 8)
        .write(&mut frame, payload)
        .unwrap();
    let (said, what) = answer(&frame).unwrap();
    assert_eq!((what, said[54]), (Answered::Echo, 129));
    assert!(checksums_hold(&said));
    assert_eq!(&said[said.len() - 10..], payload);
}

#[test]
fn a_reflected_packet_has_everything_swapped_and_right_checksums() {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(THEIRS.0, OURS.0)
        .ipv4([10, 0, 0, 2], [10, 0, 0, 1], 9)
        .udp(1000, 2000)
        .write(&mut frame, b"0123456789")
        .unwrap();
    let mut out = vec![0; 100];
    let len = reflect(&frame, &mut out).unwrap();
    out.truncate(len);
    assert!(checksums_hold(&out));
    assert_eq!(out[26..38], [10, 0, 0, 1, 10, 0, 0, 2, 0x07, 0xd0, 0x03, 0xe8]);
    assert_eq!((&out[..6], &out[6..12]), (&THEIRS.0[..], &OURS.0[..]));
    assert_eq!(out[42..], frame[42..]);
    assert_eq!(reflect(&question("10.0.0.2", "10.0.0.1"), &mut [0; 200]), None);
    assert_eq!(reflect(&question("fd00::2", "fd00::1"), &mut [0; 200]), None);
}

proptest! {
    #[test]
    fn any_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..120), kind in prop::sample::select(vec![ARP, IPV4, IPV6])) {
        let mut frame = vec![2; 12];
        frame.extend(kind.to_be_bytes());
        frame.extend(bytes);
        answer(&frame);
        learn(&frame);
        reflect(&frame, &mut [0; 200]);
        reflect(&frame, &mut [0; 20]);
        responder().answer(&frame, &mut [0; 30]);
    }
}

proptest! {
    /// The set answers as looking at every range does, however they overlap.
    #[test]
    fn the_set_of_addresses_has_what_any_of_its_ranges_has(
        ranges in prop::collection::vec((any::<bool>(), 0_u8..60, 0_u8..60), 0..20),
        again in 0_usize..20,
    ) {
        let address = |v6: bool, n: u8| -> IpAddr {
            match v6 {
                true => Ipv6Addr::from(u128::from(n)).into(),
                false => Ipv4Addr::from(u32::from(n)).into(),
            }
        };
        let ranges: Vec<Range> = ranges
            .iter()
            .map(|(v6, first, last)| Range { first: address(*v6, *first), last: address(*v6, *last) })
            .collect();
        let mut set = Addresses::default();
        let (one, two) = ranges.split_at(again.min(ranges.len()));
        set.extend(one.iter().copied());
        set.extend(two.iter().copied());
        for v6 in [false, true] {
            for n in 0..64 {
                let asked = address(v6, n);
                let any = ranges.iter().any(|r| {
                    r.first.is_ipv4() == asked.is_ipv4() && r.first <= asked && asked <= r.last
                });
                prop_assert_eq!(set.contains(asked), any);
            }
        }
    }
}
