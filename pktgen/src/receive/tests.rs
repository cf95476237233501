//! Injected truth: frames lost, copied, delayed and changed on purpose are found exactly.

use super::*;
use crate::cli::Load;
use crate::craft::Crafter;
use crate::field::Share;
use crate::profile::Plan;
use crate::rng::Rng;
use crate::template::Macs;
use millrace_wire::Mac;
use proptest::prelude::*;

const TOKEN: u16 = 99;
const TEXT: &str = "[[stream]]\nsrc = \"10.0.0.1-10.0.0.9\"\ndst = \"10.0.1.1\"\n\
    [[stream]]\nsrc = \"fd00::1\"\ndst = \"fd00::2\"\nsize = \"100-200\"\nprotocol = \"tcp\"\nweight = 2";

fn frames(n: usize) -> Vec<Vec<u8>> {
    let plan = Plan::build(Plan::parse(TEXT).unwrap(), &Load::default()).unwrap();
    let macs = [Macs { src: Mac::ZERO, dst: Mac::ZERO }; 2];
    let mut crafter = Crafter::new(&plan, &macs, Share::ALL, TOKEN).unwrap();
    (0..n)
        .map(|i| {
            let mut frame = vec![0; 300];
            let slot = crafter.slot();
            let len = crafter.craft(slot, i as u64 * 1000, 0, &mut frame);
            frame.truncate(len);
            frame
        })
        .collect()
}

fn detector() -> Detector {
    Detector::new(TOKEN, 2, 1, true, windows(2))
}

fn note(detector: &mut Detector, frame: &[u8], now: u64) -> bool {
    let windows = detector.windows();
    detector.note(frame, now, &mut lock(&windows))
}

proptest! {
    #[test]
    fn injected_truth_is_found_exactly(seed: u64, loss in 0u64..30, copies in 0u64..30, changes in 0u64..30, late in 0u64..30) {
        let mut rng = Rng::new(seed, 0);
        let mut events = Vec::new();
        let (mut lost, mut copied, mut changed) = (0, 0, 0);
        for (i, frame) in frames(600).into_iter().enumerate() {
            if rng.below(100) < loss {
                lost += 1;
                continue;
            }
            let at = i as u64 * 10 + if rng.below(100) < late { rng.below(300) } else { 0 };
            if rng.below(100) < changes {
                changed += 1;
                let mut frame = frame;
                // Anything that a checksum covers: of IPv6's header not all.
                let from = if frame[12] == 0x86 { 54 } else { 14 };
                let byte = from + rng.below((frame.len() - from) as u64) as usize;
                frame[byte] ^= 1 + rng.below(255) as u8;
                events.push((at, usize::MAX, frame));
                continue;
            }
            if rng.below(100) < copies {
                copied += 1;
                events.push((at + rng.below(50), i, frame.clone()));
            }
            events.push((at, i, frame));
        }
        events.sort_by_key(|(at, ..)| *at);
        // The truth of order: after the first copy of a packet with a higher number of the same stream.
        let (mut highest, mut reordered, mut seen) = ([0; 2], 0, std::collections::HashSet::new());
        let mut detector = detector();
        let mut foreign = 0;
        for (at, i, frame) in &events {
            if !note(&mut detector, frame, *at) {
                foreign += 1;
            }
            if *i != usize::MAX && seen.insert(*i) {
                // Streams take turns by the pattern 1, 0, 1: its number says which.
                let stream = usize::from(i % 3 != 1);
                if *i < highest[stream] { reordered += 1 } else { highest[stream] = *i }
            }
        }
        let mut total = detector.tally(0);
        total.add(&detector.tally(1));
        // A change of a length field can hide the signature's place only where there is padding, and there is none.
        prop_assert_eq!(total.corrupted + detector.broken + foreign, changed);
        prop_assert!(foreign == 0 || changed > 0);
        prop_assert_eq!(total.duplicated, copied);
        prop_assert_eq!(total.received, 600 - lost - changed);
        prop_assert_eq!(total.reordered, reordered);
        prop_assert_eq!(total.too_old, 0);
    }
}

#[test]
fn latency_is_from_when_it_was_due() {
    let mut detector = detector();
    for (i, frame) in frames(100).iter().enumerate() {
        // Packet i is due after i µs; all come together, as after a stall.
        assert!(note(&mut detector, frame, 100_000));
        assert_eq!(detector.all.latency.percentiles().unwrap().count, i as u64 + 1);
    }
    let p = detector.all.latency.percentiles().unwrap();
    assert!(p.max_ns.abs_diff(100_000) < 100 && p.min_ns.abs_diff(1_000) < 100, "{p:?}");
    assert!(p.p50_ns.abs_diff(50_000) < 1_100, "the stall shows in all that had to wait: {p:?}");
    assert_eq!(detector.all.jitter.percentiles().unwrap().count, 98);
}

#[test]
fn a_padded_or_rewritten_frame_is_found_and_a_foreign_one_is_not() {
    let mut detector = detector();
    let frame = &frames(1)[0];
    let mut padded = frame.clone();
    padded.extend([0; 7]);
    assert!(note(&mut detector, &padded, 0));
    let all = frames(2);
    let mut translated = all[1].clone();
    // NAT: another destination, its checksums mended.
    translated[..12].fill(7);
    assert!(note(&mut detector, &translated, 5000));
    assert!(!note(&mut detector, &[0; 60], 0));
    assert!(!note(&mut detector, &[], 0));
    assert_eq!(detector.tally(0).received + detector.tally(1).received, 2);
}

#[test]
fn a_corrupted_copy_beside_a_good_one_hides_no_loss() {
    let all = frames(40);
    let mut detector = detector();
    let mut changed = 0;
    for (i, frame) in all.iter().enumerate() {
        // Its source port, which the checksum covers and the signature doesn't.
        let mut broken = frame.clone();
        broken[if frame[12] == 0x86 { 54 } else { 34 }] ^= 1;
        match i {
            // Lost.
            5 | 6 => {}
            // The corrupted copy comes first, and after it the good one.
            8..=10 => {
                note(&mut detector, &broken, 0);
                note(&mut detector, frame, 0);
                changed += 1;
            }
            20..=22 => {
                note(&mut detector, frame, 0);
                note(&mut detector, &broken, 0);
            }
            _ => {
                note(&mut detector, frame, 0);
            }
        }
    }
    let mut total = detector.tally(0);
    total.add(&detector.tally(1));
    assert_eq!((total.corrupted, total.duplicated), (changed, 6), "{}", detector.broken);
    assert_eq!(40 - total.received - total.corrupted, 2);
}
