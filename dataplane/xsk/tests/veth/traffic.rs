//! The programs that offer load and answer it, on real veths.

use super::*;
use millrace_xsk::program::{FRAME, Offer};
use std::collections::BTreeSet;

/// UDP over IPv4 with checksums, balanced.
fn offered_frame() -> [u8; FRAME] {
    let mut frame = [0; FRAME];
    frame[..6].copy_from_slice(&MAC_B);
    frame[6..12].copy_from_slice(&MAC_A);
    frame[12..24].copy_from_slice(&[8, 0, 0x45, 0, 0, 46, 0, 0, 0x40, 0, 64, 17]);
    frame[26..30].copy_from_slice(&[10, 1, 255, 254]);
    frame[30..34].copy_from_slice(&[10, 2, 0, 255]);
    frame[34..40].copy_from_slice(&[0xab, 0xcd, 0, 53, 0, 26]);
    Offer::balance(&mut frame);
    let check = !sum(&frame[14..34]);
    frame[24..26].copy_from_slice(&check.to_be_bytes());
    let check = !sum(&pseudo(&frame));
    frame[40..42].copy_from_slice(&check.to_be_bytes());
    frame
}

/// What the UDP checksum is over.
fn pseudo(frame: &[u8]) -> Vec<u8> {
    let mut bytes = frame[26..34].to_vec();
    bytes.extend([0, 17, 0, 26]);
    bytes.extend(&frame[34..FRAME]);
    bytes
}

/// Offers `count` frames at a1 and returns what came to a0.
fn offered(world: &World, offer: &Offer, count: u32) -> Vec<Vec<u8>> {
    let (umem, mut pool) = umem(2048);
    let (mut sockets, _link) = open("a0", &umem);
    sockets.iter_mut().for_each(|socket| {
        socket.refill(&mut pool);
    });
    world.a.inside(|| {
        let program = Program::offer(&Interface::named("a1").unwrap(), offer).unwrap();
        program.run_live(&offer.frame, count).unwrap();
    });
    let mut came = Vec::new();
    let mut burst = ArrayVec::<Frame, 64>::new();
    let begin = Instant::now();
    // All are in the rings by now, but for a peer that polls in a thread.
    while begin.elapsed() < Duration::from_millis(50) {
        for socket in &mut sockets {
            socket.receive(&mut burst);
            for frame in burst.drain(..) {
                came.push(umem.bytes(&frame).to_vec());
                pool.put(frame);
            }
        }
    }
    for socket in sockets {
        socket.close(&mut pool);
    }
    came
}

#[test]
fn offered_flows_differ_in_what_they_are_told_to_and_their_checksums_hold() {
    in_world(1500, |world| {
        let frame = offered_frame();
        let offer = Offer { frame, services: 3, flows: 7, rate: None };
        let came = offered(world, &offer, 200);
        assert_eq!(came.len(), 200);
        let mut flows = BTreeSet::new();
        for frame in &came {
            assert_eq!((sum(&frame[14..34]), sum(&pseudo(frame))), (0xffff, 0xffff), "{frame:x?}");
            let word = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
            assert_eq!(frame[26..30], [10, 1, 255, 254]);
            let flow = word(34) ^ 0xabcd;
            assert_eq!(word(32), 255 + flow % 3);
            flows.insert(flow);
        }
        assert!(flows.into_iter().eq(0..8));

        let all = offered(world, &Offer { services: 1, flows: u32::MAX, ..offer }, 200);
        let tuples = all.iter().map(|frame| frame[26..38].to_vec());
        assert!(tuples.collect::<BTreeSet<_>>().len() > 190);
        for frame in &all {
            assert_eq!((sum(&frame[14..34]), sum(&pseudo(frame))), (0xffff, 0xffff), "{frame:x?}");
        }
    });
}

#[test]
fn a_paced_offer_drops_what_comes_before_its_time() {
    in_world(1500, |world| {
        // One in 8 ms; a thousand take less than one.
        let offer = Offer { frame: offered_frame(), services: 1, flows: 7, rate: Some(120.0) };
        let came = offered(world, &offer, 1000).len();
        assert!((1..100).contains(&came), "{came}");
    });
}

#[test]
fn a_reflector_sends_udp_back_and_nothing_else() {
    in_world(1500, |world| {
        let (umem, mut pool) = umem(2048);
        let (mut sockets, _link) = open("b0", &umem);
        sockets.iter_mut().for_each(|socket| {
            socket.refill(&mut pool);
        });
        let reflect = Program::reflect().unwrap();
        let _there = world.b.inside(|| reflect.attach(&Interface::named("b1").unwrap()).unwrap());
        let sent = offered_frame();
        let mut not_ip = sent;
        not_ip[12] = 0x86;
        for bytes in [not_ip, sent] {
            let mut frame = pool.get().unwrap();
            assert!(umem.set_len(&mut frame, FRAME));
            umem.bytes_mut(&mut frame).copy_from_slice(&bytes);
            assert!(sockets[0].transmit(frame, TxOffload::None).is_ok());
        }
        sockets[0].flush();
        let mut burst = ArrayVec::<Frame, 64>::new();
        let begin = Instant::now();
        while burst.is_empty() && begin.elapsed() < Duration::from_secs(5) {
            sockets.iter_mut().for_each(|socket| {
                socket.receive(&mut burst);
            });
        }
        assert_eq!(burst.len(), 1);
        for frame in burst {
            let came = umem.bytes(&frame);
            assert_eq!((&came[..6], &came[6..12]), (&sent[6..12], &sent[..6]));
            assert_eq!((&came[26..30], &came[30..34]), (&sent[30..34], &sent[26..30]));
            assert_eq!((&came[34..36], &came[36..38]), (&sent[36..38], &sent[34..36]));
            assert_eq!(came[38..], sent[38..]);
            pool.put(frame);
        }
        for mut socket in sockets {
            socket.reap(&mut pool);
            socket.close(&mut pool);
        }
    });
}
