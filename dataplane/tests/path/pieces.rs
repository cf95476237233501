//! Packets without DF that are too big for their way out leave in fragments (feature C2; RFC 791 section 3.2).
//!
//! The oracle is the packet as it would leave whole: what left is put together by a dumb loop and compared with it.

use millrace_dataplane::clock::SECOND;
use millrace_dataplane::verdict::Verdict;
use millrace_tables::InterfaceId;
use millrace_xsk::TxOffload;

use crate::packets::{Ip, Link, between, on, pseudo, sum};
use crate::world::*;

const CLIENT: &str = "10.0.1.2";
const BACKEND: &str = "10.0.2.10";
/// Of `down0`.
const MTU: usize = 1400;

/// May be cut.
fn loose(src: &str, dst: &str) -> Ip {
    let mut ip = between(src, dst);
    ip.dont_fragment = false;
    ip
}

fn data(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at % 251) as u8).collect()
}

/// What fragments say together.
#[derive(Debug, PartialEq, Eq)]
struct Joined {
    /// The first fragment's header without lengths, flags, offset and checksum.
    header: Vec<u8>,
    begins: usize,
    more: bool,
    payload: Vec<u8>,
}

/// Puts fragments together, which are as they should be: in order, as full as may be, their checksums right.
#[track_caller]
fn join(link: &Link, frames: &[Vec<u8>], mtu: usize) -> Joined {
    let mut joined = Joined { header: Vec::new(), begins: 0, more: true, payload: Vec::new() };
    for (at, frame) in frames.iter().enumerate() {
        let (l2, ip) = frame.split_at(14);
        assert_eq!(*l2, on(link, vec![0x45; 20])[..14], "the link header of fragment {at}");
        let header = usize::from(ip[0] & 15) * 4;
        let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
        assert_eq!((ip[0] >> 4, total), (4, ip.len()));
        assert!(total <= mtu, "fragment {at} has {total} bytes");
        assert_eq!(sum(&[&ip[..header]]), 0xffff, "the header checksum of fragment {at}");
        let word = u16::from_be_bytes([ip[6], ip[7]]);
        assert_eq!(word & 0xc000, 0, "neither reserved nor DF");
        let offset = usize::from(word & 0x1fff) * 8;
        if at == 0 {
            joined.begins = offset;
            joined.header = [&ip[..2], &ip[4..6], &ip[8..10], &ip[12..header]].concat();
        }
        assert_eq!(offset, joined.begins + joined.payload.len(), "no gap before fragment {at}");
        assert_eq!([&ip[1..2], &ip[4..6], &ip[8..10], &ip[12..20]].concat(), {
            let all = &joined.header;
            [&all[1..4], &all[4..14]].concat()
        });
        joined.more = word & 0x2000 != 0;
        if at + 1 < frames.len() {
            assert!(joined.more, "fragment {at} is not the last");
            assert!((total - header).is_multiple_of(8) && total + 8 > mtu, "{total} bytes in {at}");
        }
        joined.payload.extend_from_slice(&ip[header..]);
    }
    joined
}

/// Sends the packet twice, as a new flow and as a known one, and asserts that what leaves is `wanted`, in pieces.
#[track_caller]
fn expect(world: &mut World, packet: &[u8], wanted: &[u8]) -> Vec<Vec<u8>> {
    let wanted = join(&to_backend(), &[on(&to_backend(), wanted.to_vec())], usize::MAX);
    let mut last = Vec::new();
    for _ in 0..2 {
        let before = world.counters();
        let sent = world.send(UP, &on(&client_link(), packet.to_vec()));
        let transmit = Verdict::Transmit { interface: InterfaceId(DOWN), offload: TxOffload::None };
        assert_eq!(world.verdicts(), [transmit]);
        assert!(sent.len() > 1 && sent.iter().all(|it| it.interface == DOWN), "{sent:?}");
        let moved = |name: &str| world.counters()[name] - before.get(name).copied().unwrap_or(0);
        let steps = ["up0 rx_packets", "up0 tx_packets", "down0 out_packets"].map(moved);
        assert_eq!(steps, [1, 1, sent.len() as u64], "one packet, so many frames");
        last = sent.into_iter().map(|it| it.bytes).collect();
        assert_eq!(join(&to_backend(), &last, MTU), wanted);
    }
    last
}

#[test]
fn a_routed_packet_is_cut_where_its_sender_allows_it() {
    for size in [1373, 1374, 1472, 2000, 2753, 2754, 4000] {
        let mut world = World::new();
        let (ip, data) = (loose(CLIENT, BACKEND), data(size));
        let out = ip.clone().ttl(63).udp(1, 2, &data);
        let sent = expect(&mut world, &ip.udp(1, 2, &data), &out);
        assert_eq!(sent.len(), (size + 8).div_ceil(1376), "{size} bytes");
    }
}

#[test]
fn it_is_translated_before_it_is_cut() {
    let mut world = World::new();
    let data = data(2000);
    let packet = loose(CLIENT, VIP).udp(4000, 53, &data);
    let out = loose(CLIENT, BACKEND).ttl(63).udp(4000, 8080, &data);
    expect(&mut world, &packet, &out);
}

#[test]
fn a_checksum_that_was_left_to_us_is_made_over_the_whole() {
    for (dst, port, out_port) in [(BACKEND, 7, 7), (VIP, 53, 8080)] {
        for can_offload in [false, true] {
            let mut world = World::virtual_interfaces();
            if can_offload {
                world.offload_checksums();
            }
            let data = data(2000);
            let ip = loose(CLIENT, dst);
            let mut packet = ip.udp(4000, port, &data);
            let only = sum(&[&pseudo(ip.src, ip.dst, 17, 2008)]);
            packet[26..28].copy_from_slice(&only.to_be_bytes());
            let out = loose(CLIENT, BACKEND).ttl(63).udp(4000, out_port, &data);
            expect(&mut world, &packet, &out);
        }
    }
}

#[test]
fn a_fragment_is_cut_further() {
    for more in [true, false] {
        let mut world = World::new();
        let mut ip = loose(CLIENT, BACKEND);
        ip.fragment = Some((1480, more));
        let data = data(1480);
        let wanted =
            join(&to_backend(), &[on(&to_backend(), ip.clone().ttl(63).packet(17, &data))], 2000);
        assert_eq!((wanted.begins, wanted.more), (1480, more));
        let mut sent = world.send(UP, &on(&client_link(), ip.packet(17, &data)));
        // It waits for the first of its packet, and goes without it.
        sent.extend(world.tick(SECOND / 5));
        let sent: Vec<_> = sent.into_iter().map(|it| it.bytes).collect();
        assert_eq!(sent.len(), 2);
        assert_eq!(join(&to_backend(), &sent, MTU), wanted);
    }
}

#[test]
fn later_fragments_have_the_options_that_say_so() {
    let mut world = World::new();
    let mut ip = loose(CLIENT, BACKEND);
    // Record route (not copied), no-operation, router alert (copied).
    let route = [7, 7, 4, 0, 0, 0, 0];
    let alert = [148, 4, 0, 0];
    ip.options = [&route[..], &[1], &alert].concat();
    let data = data(3000);
    let out = ip.clone().ttl(63).packet(99, &data);
    let sent = expect(&mut world, &ip.packet(99, &data), &out);
    assert_eq!(sent[0][14] & 15, 8);
    assert_eq!(sent[0][34..46], ip.options[..]);
    for later in &sent[1..] {
        assert_eq!(later[14] & 15, 6);
        assert_eq!(later[34..38], alert);
    }
}

#[test]
fn without_frames_nothing_leaves() {
    let mut world = World::new();
    let mut taken = Vec::new();
    // One for the packet, one for a piece.
    while world.workers[0].state.local.pool.len() > 2 {
        taken.push(world.workers[0].state.local.pool.get().unwrap());
    }
    world.lend(taken.len());
    let packet = on(&client_link(), loose(CLIENT, BACKEND).udp(1, 2, &data(1450)));
    assert_eq!(world.send(UP, &packet), []);
    assert_eq!(world.counters()["up0 no_room"], 1, "and the frames are all there: see `send`");
    for frame in taken {
        world.workers[0].state.local.pool.put(frame);
    }
}

#[test]
fn a_way_that_takes_nothing_is_none() {
    let mut world = World::new();
    world.set_mtu(24);
    let packet = on(&client_link(), loose(CLIENT, BACKEND).udp(1, 2, b"some bytes"));
    assert_eq!(world.send(UP, &packet), []);
    // And one with more pieces than anybody would want.
    world.set_mtu(28);
    let packet = on(&client_link(), loose(CLIENT, BACKEND).udp(1, 2, &data(1000)));
    assert_eq!(world.send(UP, &packet), []);
    assert_eq!(world.counters()["up0 fragment_needed"], 2);
}
