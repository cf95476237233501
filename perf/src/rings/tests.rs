//! Every scenario, small: it is verified and measured, and what is wrong is noticed.

use super::measure;
use super::scenario::{Bench, Fate, FrameSize, Scale, Scenario, build};
use millrace_dataplane::clock::SECOND;
use millrace_dataplane::driver::looped::Time;
use std::sync::Arc;

const SMALL: Scale =
    Scale { services: 20, flows: (300, 500), routes: (500, 300), fresh: 400, conntrack: 1 << 11 };

fn small(scenario: Scenario, size: FrameSize, workers: usize) -> Bench {
    let time = Time::Made { now: 1000 * SECOND, step: 10_000 };
    build(scenario, size, &SMALL, workers, time).unwrap()
}

#[test]
fn each_is_verified_twice_and_measured() {
    for &scenario in Scenario::ALL {
        for (size, workers) in [(FrameSize::Small, 1), (FrameSize::Imix, 2)] {
            let mut bench = small(scenario, size, workers);
            // Twice: what one round leaves behind must not change the next.
            bench.verify().unwrap_or_else(|why| panic!("{scenario:?}: {why}"));
            bench.verify().unwrap_or_else(|why| panic!("{scenario:?}, again: {why}"));
            let figures = bench.measure(3, 1000, &[]).unwrap();
            assert!(figures.packets >= 256 && figures.ns.min > 0.0, "{scenario:?}: {figures:?}");
            bench.resize(FrameSize::Imix);
            bench.verify().unwrap_or_else(|why| panic!("{scenario:?}, resized: {why}"));
        }
    }
}

#[test]
fn what_is_counted_is_whole_rounds() {
    let mut bench = small(Scenario::NatEstablished, FrameSize::Small, 1);
    bench.verify().unwrap();
    assert_eq!(measure::count(&mut bench, 1000), Ok(900));
    let mut bench = small(Scenario::NatNew, FrameSize::Small, 1);
    bench.verify().unwrap();
    assert_eq!(measure::count(&mut bench, 1000), Ok(400));
}

/// Verifies a scenario of which one frame is to meet another fate than it will.
fn refused(scenario: Scenario, wrong: Fate) -> String {
    let mut bench = small(scenario, FrameSize::Small, 1);
    bench.loads[0].fates[7] = wrong;
    bench.verify().unwrap_err()
}

#[test]
fn a_frame_that_meets_another_fate_is_noticed() {
    let other_node = refused(Scenario::Route4, Fate::Routed(1));
    assert!(other_node.contains("packet 7") && other_node.contains("should be"), "{other_node}");
    let other_service = refused(Scenario::NatEstablished, Fate::ToBackend(999));
    assert!(other_service.contains("no backend of service 999"), "{other_service}");
    let other_answer = refused(Scenario::NatReply, Fate::FromBackend(999));
    assert!(other_answer.contains("should be"), "{other_answer}");
}

#[test]
fn a_drop_that_is_not_meant_is_noticed() {
    let mut bench = small(Scenario::Mix, FrameSize::Small, 1);
    let fates = &mut bench.loads[0].fates;
    let dropped = fates.iter().rposition(|fate| *fate == Fate::Dropped).unwrap();
    fates[dropped] = Fate::Routed(0);
    assert!(bench.verify().is_err());
}

#[test]
fn a_drop_while_measuring_is_noticed() {
    let mut bench = small(Scenario::Route4, FrameSize::Small, 1);
    bench.verify().unwrap();
    // Another loop than was verified: its frames have nowhere to go.
    let lost = small(Scenario::Mix, FrameSize::Small, 1);
    bench.loads[0].frames = Arc::clone(&lost.loads[0].frames);
    let why = bench.measure(1, 1000, &[]).unwrap_err();
    assert!(why.contains("to be dropped"), "{why}");
}

#[test]
fn flows_that_were_begun_are_forgotten() {
    let mut bench = small(Scenario::NatNew, FrameSize::Small, 2);
    bench.verify().unwrap();
    bench.measure(2, 1, &[]).unwrap();
    let live = |bench: &mut Bench| {
        let state = bench.world.workers[0].state().unwrap();
        state.conntrack.table().totals().live
    };
    assert_eq!(live(&mut bench), 0);
    let mut bench = small(Scenario::Mix, FrameSize::Small, 1);
    bench.verify().unwrap();
    assert_eq!(live(&mut bench), 300);
}
