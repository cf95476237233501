//! Checksums (features B4, C7): mended, never made up; partial ones completed or handed on.

use millrace_dataplane::verdict::Verdict;
use millrace_xsk::{Pool, TxOffload};
use proptest::prelude::*;

use crate::packets::{Ip, between, crc32c, on, pseudo, sum};
use crate::world::*;

/// The same packet as a kernel hands it to a veth: the checksum field holds the pseudo-header's sum only.
fn partial(ip: &Ip, packet: &[u8], protocol: u8) -> Vec<u8> {
    let mut packet = packet.to_vec();
    let l4 = if ip.src.is_ipv4() { 20 } else { 40 };
    let at = l4
        + match protocol {
            6 => 16,
            17 => 6,
            _ => 8,
        };
    let len = packet.len() - l4;
    match protocol {
        132 => packet[at..at + 4].fill(0),
        _ => packet[at..at + 2]
            .copy_from_slice(&sum(&[&pseudo(ip.src, ip.dst, protocol, len)]).to_be_bytes()),
    }
    packet
}

type Maker = fn(&Ip, u16, u16, &[u8]) -> Vec<u8>;
const PROTOCOLS: [(u8, u16, Maker); 3] = [
    (6, 80, |ip, sport, dport, data| ip.tcp(sport, dport, |tcp| tcp.syn = true, data)),
    (17, 53, |ip, sport, dport, data| ip.udp(sport, dport, data)),
    (132, 9, |ip, sport, dport, data| ip.sctp(sport, dport, data)),
];

const FAMILIES: [(&str, &str, &str); 2] =
    [("10.0.1.2", VIP, "10.0.2.10"), ("2001:db8:1::2", VIP6, "2001:db8:2::10")];

#[test]
fn partial_checksums_are_completed_when_the_queue_cannot() {
    for (client, vip, backend) in FAMILIES {
        for (protocol, port, make) in PROTOCOLS {
            for size in [0, 1, 2, 7, 1200] {
                let mut world = World::virtual_interfaces();
                let data = vec![0xa7; size];
                for (dst, dport, end, end_port) in
                    [(vip, port, backend, 8080), (backend, 7, backend, 7)]
                {
                    let there = between(client, dst);
                    let packet = partial(&there, &make(&there, 4000, dport, &data), protocol);
                    let out = on(
                        &to_backend(),
                        make(&between(client, end).ttl(63), 4000, end_port, &data),
                    );
                    let sent = world.send(UP, &on(&client_link(), packet));
                    assert_eq!(sent[0].bytes, out, "protocol {protocol} to {dst}, {size} bytes");
                    assert_eq!(sent[0].offload, TxOffload::None);
                }
            }
        }
    }
}

#[test]
fn partial_checksums_are_handed_on_when_the_queue_can() {
    for (client, vip, backend) in FAMILIES {
        for (protocol, port, offset) in [(6u8, 80, 16), (17, 53, 6)] {
            let mut world = World::virtual_interfaces();
            world.offload_checksums();
            let make = PROTOCOLS[usize::from(protocol == 17)].2;
            let (there, out) = (between(client, vip), between(client, backend).ttl(63));
            let packet = partial(&there, &make(&there, 4000, port, b"data"), protocol);
            let expected = partial(&out, &make(&out, 4000, 8080, b"data"), protocol);
            // Padding would be summed by the kernel, so it goes.
            let sent =
                world.send(UP, &[on(&client_link().tagged(&[5]), packet), vec![1; 6]].concat());
            assert_eq!(sent[0].bytes, on(&to_backend().tagged(&[5]), expected));
            let start = 18 + if out.src.is_ipv4() { 20 } else { 40 };
            assert_eq!(sent[0].offload, TxOffload::Checksum { start, offset });
        }
        // The kernel knows no CRC32c.
        let mut world = World::virtual_interfaces();
        world.offload_checksums();
        let (there, out) = (between(client, vip), between(client, backend).ttl(63));
        let packet = partial(&there, &there.sctp(4000, 9, b"chunk"), 132);
        let sent = world.send(UP, &on(&client_link(), packet));
        assert_eq!(
            (&sent[0].bytes, sent[0].offload),
            (&on(&to_backend(), out.sctp(4000, 8080, b"chunk")), TxOffload::None)
        );
    }
}

#[test]
fn a_partial_checksum_over_several_chunks_is_completed() {
    let mut world = World::virtual_interfaces();
    world.set_mtu(9000);
    let data: Vec<u8> = (0..8001).map(|n| (n * 7) as u8).collect();
    for (client, vip, backend) in FAMILIES {
        let there = between(client, vip);
        let packet = partial(&there, &there.tcp(4000, 80, |tcp| tcp.syn = true, &data), 6);
        let sent = world.send(UP, &on(&client_link(), packet));
        assert_eq!(sent.len(), 1, "{:?}", world.verdicts());
        assert_eq!(
            sent[0].bytes,
            on(
                &to_backend(),
                between(client, backend).ttl(63).tcp(4000, 8080, |tcp| tcp.syn = true, &data)
            )
        );
    }
}

#[test]
fn on_a_wire_nothing_is_taken_for_partial() {
    let mut world = World::new();
    let there = between("10.0.1.2", VIP);
    let packet = partial(&there, &there.syn(4000, 80), 6);
    let sent = world.send(UP, &on(&client_link(), packet.clone()));
    let wrong_by = |packet: &[u8], ip: &Ip| {
        sum(&[&pseudo(ip.src, ip.dst, 6, packet.len() - 20), &packet[20..]])
    };
    let out = between("10.0.1.2", "10.0.2.10");
    assert_eq!(
        wrong_by(&sent[0].bytes[14..], &out),
        wrong_by(&packet, &there),
        "as wrong as it was"
    );
}

#[test]
fn udp_without_checksum_stays_without() {
    for mut world in [World::new(), World::virtual_interfaces()] {
        let without = |ip: Ip, dport| {
            let mut packet = ip.udp(4000, dport, b"x");
            packet[26..28].fill(0);
            packet
        };
        let sent = world.send(UP, &on(&client_link(), without(between("10.0.1.2", VIP), 53)));
        assert_eq!(
            sent[0].bytes,
            on(&to_backend(), without(between("10.0.1.2", "10.0.2.10").ttl(63), 8080))
        );
    }
}

/// What is left over of a checksum: 0xffff for a right one.
fn residue(packet: &[u8]) -> u16 {
    let (src, dst, protocol, l4): (std::net::IpAddr, std::net::IpAddr, u8, usize) =
        if packet[0] >> 4 == 4 {
            let addr = |at: usize| <[u8; 4]>::try_from(&packet[at..at + 4]).unwrap().into();
            (addr(12), addr(16), packet[9], 20)
        } else {
            let addr = |at: usize| <[u8; 16]>::try_from(&packet[at..at + 16]).unwrap().into();
            (addr(8), addr(24), packet[6], 40)
        };
    if protocol == 132 {
        let mut bytes = packet[l4..].to_vec();
        let field = u32::from_le_bytes(bytes[8..12].try_into().unwrap());
        bytes[8..12].fill(0);
        return if crc32c(&bytes) == field { 0xffff } else { 0 };
    }
    sum(&[&pseudo(src, dst, protocol, packet.len() - l4), &packet[l4..]])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// Out through a service and back: the client sees the tuple that it used, all checksums are what a full
    /// computation gives, and wrong ones are exactly as wrong.
    #[test]
    fn out_and_back_gives_the_original_tuple_and_right_checksums(
        family in 0usize..2,
        kind in 0usize..3,
        sport in 1u16..,
        data in proptest::collection::vec(any::<u8>(), 0..300),
        damage in any::<bool>(),
        ttl in 2u8..,
    ) {
        let (client, vip, backend) = FAMILIES[family];
        let (_, port, make) = PROTOCOLS[kind];
        let mut world = World::new();
        let mut packet = make(&between(client, vip).ttl(ttl), sport, port, &data);
        if damage && kind != 2 && !data.is_empty() {
            *packet.last_mut().unwrap() ^= 0x55;
        }
        let sent = world.send(UP, &on(&client_link(), packet.clone()));
        let out = &sent[0].bytes[14..];
        prop_assert_eq!(residue(out), residue(&packet));
        let expected = make(&between(client, backend).ttl(ttl - 1), sport, 8080, &data);
        if residue(&packet) == 0xffff {
            prop_assert_eq!(out, &expected[..]);
        }
        let answer = make(&between(backend, client).ttl(ttl), 8080, sport, &data);
        let sent = world.send(DOWN, &on(&backend_link(), answer));
        prop_assert_eq!(&sent[0].bytes[14..], &make(&between(vip, client).ttl(ttl - 1), port, sport, &data)[..]);
    }

    /// Every value that a UDP checksum can take, the two zeros included.
    #[test]
    fn each_value_of_a_checksum_is_mended_right(value in prop_oneof![Just(0u16), Just(0xffff), Just(1), Just(0xfffe), any::<u16>()]) {
        let mut world = World::new();
        // The datagram's data is chosen so that the sum comes out as `value`.
        let there = between("10.0.1.2", VIP);
        let bare = there.udp(4000, 53, &[0, 0]);
        let field = u16::from_be_bytes([bare[26], bare[27]]);
        let wanted = !value;
        let data = sum(&[&wanted.to_be_bytes(), &field.to_be_bytes()]);
        let packet = there.udp(4000, 53, &data.to_be_bytes());
        let sent = world.send(UP, &on(&client_link(), packet));
        let out = between("10.0.1.2", "10.0.2.10").ttl(63).udp(4000, 8080, &data.to_be_bytes());
        prop_assert_eq!(&sent[0].bytes, &on(&to_backend(), out));
        let back = world.send(DOWN, &on(&backend_link(), between("10.0.2.10", "10.0.1.2").udp(8080, 4000, &data.to_be_bytes())));
        prop_assert_eq!(&back[0].bytes, &on(&to_client(), between(VIP, "10.0.1.2").ttl(63).udp(53, 4000, &data.to_be_bytes())));
    }
}

#[test]
fn a_pool_without_frames_loses_nothing() {
    let mut world = World::new();
    let all = world.workers[0].state.local.pool.len();
    let taken: Pool = world.workers[0].state.local.pool.split(all - 1);
    world.lend(all - 1);
    let sent =
        world.send(UP, &on(&client_link(), between("10.0.1.2", "10.0.2.200").udp(1, 2, b"")));
    assert!(sent.is_empty(), "no frame to ask with");
    assert!(matches!(world.verdicts()[..], [Verdict::Hold { .. }]));
    drop(taken);
}
