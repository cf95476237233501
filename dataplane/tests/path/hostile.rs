//! Bytes from anybody: every frame ends in one verdict, the books balance, nothing panics, and what leaves is sound.

use millrace_dataplane::verdict::Verdict;
use proptest::prelude::*;

use crate::packets::{Ip, Link, arp, between, nd, on, sum};
use crate::world::*;

/// Frames that are right, of every kind that the pipeline looks into: the seeds of the damage.
fn seeds() -> Vec<(u16, Vec<u8>)> {
    let up = |packet: Vec<u8>| (UP, on(&client_link(), packet));
    let down = |packet: Vec<u8>| (DOWN, on(&backend_link(), packet));
    let mut fragment = between("10.0.1.2", "10.0.2.10");
    fragment.fragment = Some((0, true));
    let mut options = between("10.0.1.2", VIP);
    options.options = vec![7, 11, 4, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let mut chain = between("2001:db8:1::2", VIP6);
    chain.extensions = vec![
        (0, vec![0, 0, 5, 2, 0, 0, 1, 0]),
        (60, vec![0, 0, 1, 4, 0, 0, 0, 0]),
        (44, vec![0, 0, 0, 0, 1, 2, 3, 4]),
    ];
    let tagged = (UP, on(&client_link().tagged(&[7, 8]), between("10.0.1.2", VIP).syn(4000, 80)));
    let quoted = between("10.0.1.2", "10.0.2.10").udp(4000, 8080, b"question");
    let quoted6 = between("2001:db8:1::2", "2001:db8:2::10").syn(4000, 8080);
    let everyone = Link::new(CLIENT_MAC, [0xff; 6]);
    let group = Link::new(CLIENT_MAC, [0x33, 0x33, 0xff, 0, 0, 1]);
    vec![
        up(between("10.0.1.2", VIP).syn(4000, 80)),
        up(between("10.0.1.2", VIP).udp(4000, 53, b"question")),
        up(between("10.0.1.2", VIP).sctp(4000, 9, &[1, 0, 0, 8, 1, 2, 3, 4])),
        up(between("10.0.1.2", VIP).syn(4000, 81)),
        up(between("2001:db8:1::2", VIP6).syn(4000, 80)),
        up(between("2001:db8:1::2", VIP6).udp(4000, 81, b"x")),
        down(between("10.0.2.10", "10.0.1.2").udp(8080, 4000, b"answer")),
        down(between("10.0.2.10", "10.0.1.2").icmp(3, 3, 0, &quoted)),
        down(between("2001:db8:2::10", "2001:db8:1::2").icmp(1, 4, 0, &quoted6)),
        up(between("10.0.1.2", "10.0.1.1").icmp(8, 0, 7, b"ping")),
        up(between("2001:db8:1::2", "2001:db8:1::1").icmp(128, 0, 7, b"ping")),
        up(between("10.0.1.2", "10.0.1.1").syn(1, 2)),
        up(between("2001:db8:1::2", "2001:db8:1::1").packet(250, b"what")),
        up(between("10.0.1.2", "10.0.2.10").ttl(1).udp(1, 2, b"")),
        up(fragment.udp(1, 2, &[0; 64])),
        up(options.syn(4000, 80)),
        up(chain.syn(4000, 80)),
        tagged,
        (UP, arp(&everyone, 1, (CLIENT_MAC, "10.0.1.2"), ([0; 6], "10.0.1.1"))),
        (
            UP,
            on(
                &group,
                nd(
                    "2001:db8:1::2",
                    "ff02::1:ff00:1",
                    135,
                    0,
                    "2001:db8:1::1",
                    Some((1, CLIENT_MAC)),
                ),
            ),
        ),
        (
            UP,
            on(
                &client_link(),
                nd(
                    "2001:db8:1::2",
                    "2001:db8:1::1",
                    136,
                    3 << 29,
                    "2001:db8:1::2",
                    Some((2, CLIENT_MAC)),
                ),
            ),
        ),
    ]
}

/// What may be done to a frame on its way.
#[derive(Clone, Debug)]
enum Damage {
    Set(usize, u8),
    Flip(usize, u8),
    Cut(usize),
    Grow(Vec<u8>),
    Repeat(usize, usize),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        3 => (any::<usize>(), any::<u8>()).prop_map(|(at, value)| Damage::Set(at, value)),
        3 => (any::<usize>(), 0u8..8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        1 => any::<usize>().prop_map(Damage::Cut),
        1 => proptest::collection::vec(any::<u8>(), 1..80).prop_map(Damage::Grow),
        1 => (any::<usize>(), any::<usize>()).prop_map(|(from, len)| Damage::Repeat(from, len)),
    ]
}

fn apply(frame: &mut Vec<u8>, damage: &Damage) {
    let len = frame.len();
    match damage {
        Damage::Set(at, value) => frame[at % len] = *value,
        Damage::Flip(at, bit) => frame[at % len] ^= 1 << bit,
        Damage::Cut(to) => frame.truncate(1 + to % len),
        Damage::Grow(tail) => frame.extend(tail),
        Damage::Repeat(from, count) => {
            let from = from % len;
            let part = frame[from..(from + count % 64).min(len)].to_vec();
            frame.splice(from..from, part);
        }
    }
}

/// So that damage is looked at behind the first check: the IPv4 checksum is made right again.
fn mend(frame: &mut [u8]) {
    let mut at = 12;
    while frame.get(at..at + 2).is_some_and(|t| t == [0x81, 0] || t == [0x88, 0xa8]) {
        at += 4;
    }
    if frame.get(at..at + 2) != Some(&[8, 0]) {
        return;
    }
    let l3 = at + 2;
    let Some(first) = frame.get(l3) else { return };
    let len = usize::from(first & 15) * 4;
    if len < 20 || frame.len() < l3 + len {
        return;
    }
    frame[l3 + 10..l3 + 12].fill(0);
    let check = (!sum(&[&frame[l3..l3 + len]])).to_be_bytes();
    frame[l3 + 10..l3 + 12].copy_from_slice(&check);
}

/// What leaves must be what a strict reader takes: lengths that fit, IPv4 checksums that are right, our MAC as source.
fn check_sent(sent: &[Sent]) {
    for it in sent {
        let ours = if it.interface == UP { UP_MAC } else { DOWN_MAC };
        assert_eq!(it.bytes[6..12], ours);
        let packet = etherparse::LaxSlicedPacket::from_ethernet(&it.bytes).unwrap();
        if let Some(etherparse::LaxNetSlice::Ipv4(v4)) = &packet.net {
            assert_eq!(sum(&[v4.header().slice()]), 0xffff, "{:02x?}", it.bytes);
            assert!(v4.header().ttl() > 0);
        }
    }
}

fn run(world: &mut World, frames: &[(u16, Vec<u8>)]) {
    for (interface, bytes) in frames {
        if bytes.is_empty() {
            continue;
        }
        // The books are checked inside.
        let sent = world.send(*interface, bytes);
        assert_eq!(world.verdicts().len(), 1, "{bytes:02x?}");
        check_sent(&sent);
        if let [Verdict::Drop(_) | Verdict::Punt(_)] = world.verdicts()[..] {
            assert!(sent.is_empty(), "{:?} and yet {sent:02x?}", world.verdicts());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_get_a_verdict(
        frames in proptest::collection::vec((0u16..2, proptest::collection::vec(any::<u8>(), 1..200), any::<bool>()), 1..60)
    ) {
        let mut world = World::new();
        let frames: Vec<_> = frames.into_iter().map(|(interface, mut bytes, ours)| {
            // Half of them come as far as the parser of L3.
            if ours && bytes.len() > 14 {
                let mac = if interface == UP { UP_MAC } else { DOWN_MAC };
                bytes[..6].copy_from_slice(&mac);
                bytes[6] &= 0xfe;
                let ether_type = [[8u8, 0], [0x86, 0xdd], [8, 6], [0x81, 0]][usize::from(bytes[12]) % 4];
                bytes[12..14].copy_from_slice(&ether_type);
            }
            (interface, bytes)
        }).collect();
        run(&mut world, &frames);
    }

    #[test]
    fn damaged_packets_get_a_verdict(
        script in proptest::collection::vec((any::<prop::sample::Index>(), proptest::collection::vec(damage(), 0..4), any::<bool>()), 1..60),
        virtual_interfaces in any::<bool>(),
    ) {
        let mut world = if virtual_interfaces { World::virtual_interfaces() } else { World::new() };
        let seeds = seeds();
        let frames: Vec<_> = script.iter().map(|(which, damages, mended)| {
            let (interface, mut bytes) = which.get(&seeds).clone();
            damages.iter().for_each(|damage| apply(&mut bytes, damage));
            if *mended {
                mend(&mut bytes);
            }
            (interface, bytes)
        }).collect();
        run(&mut world, &frames);
    }

    /// Bursts mix packets of all kinds; what one does must not touch its neighbors in the burst.
    #[test]
    fn a_burst_does_what_its_packets_would_do_alone(order in proptest::collection::vec(0usize..12, 1..64)) {
        let packets: Vec<Vec<u8>> = (0..12u16).map(|n| {
            let ip: Ip = between("10.0.1.2", if n % 3 == 0 { VIP } else { "10.0.2.10" }).ttl(if n % 4 == 0 { 1 } else { 64 });
            on(&client_link(), ip.udp(5000 + n, 53, &n.to_be_bytes()))
        }).collect();
        let script: Vec<Vec<u8>> = order.iter().map(|at| packets[*at].clone()).collect();
        let (mut alone, mut together) = (World::new(), World::new());
        let mut expected: Vec<Sent> = Vec::new();
        for packet in &script {
            expected.extend(alone.send(UP, packet));
        }
        let got = together.send_all(0, UP, &script);
        let by_interface = |sent: &[Sent], interface| sent.iter().filter(|it| it.interface == interface).cloned().collect::<Vec<_>>();
        for interface in [UP, DOWN] {
            prop_assert_eq!(by_interface(&got, interface), by_interface(&expected, interface));
        }
        prop_assert_eq!(alone.counters(), together.counters());
    }
}

#[test]
fn every_flipped_bit_of_every_kind_of_packet_gets_a_verdict() {
    let mut world = World::new();
    for (interface, seed) in seeds() {
        for at in 0..seed.len() {
            for bit in 0..8 {
                let mut bytes = seed.clone();
                bytes[at] ^= 1 << bit;
                run(&mut world, &[(interface, bytes)]);
            }
        }
        world.now += 1_000_000_000;
        world.tick(4_000_000_000);
    }
}
