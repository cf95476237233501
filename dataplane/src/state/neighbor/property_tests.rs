//! The table against a dumb model, and over any bytes.

use super::tests::{ETH, host, mac, memory, na, table};
use super::*;
use proptest::prelude::*;

/// A neighbor in the model: as little as the rules need.
#[derive(Clone, Copy, Debug)]
struct Modelled {
    mac: Option<u32>,
    /// Since when it is reachable, and for how long nothing has contradicted that.
    confirmed: Option<u64>,
    /// Since when its use is watched.
    delay: Option<u64>,
    asked: u32,
    last_asked: u64,
}

const UNKNOWN: Modelled =
    Modelled { mac: None, confirmed: None, delay: None, asked: 0, last_asked: 0 };

#[derive(Clone, Debug)]
enum Op {
    Use(u32),
    Learn(u32, u32, Learn),
    Advance(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let how = prop_oneof![
        Just(Learn::Reply),
        Just(Learn::Request),
        Just(Learn::Gratuitous),
        (any::<bool>(), any::<bool>()).prop_map(|(solicited, overrides)| na(solicited, overrides)),
    ];
    prop_oneof![
        4 => (0u32..4).prop_map(Op::Use),
        2 => (0u32..4, 1u32..3, how).prop_map(|(host, mac, how)| Op::Learn(host, mac, how)),
        3 => prop_oneof![Just(500u64), Just(1000), Just(29_000), Just(30_000)].prop_map(Op::Advance),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    /// With room for all, packets are answered as a map of hosts would answer them.
    #[test]
    fn it_answers_as_a_map_would(ops in prop::collection::vec(op(), 1..80)) {
        let neighbors = table(64, 64);
        let mut model = std::collections::HashMap::<u32, Modelled>::new();
        let mut now = 1000u64;
        for op in ops {
            let time = now * MILLISECOND;
            match op {
                Op::Advance(ms) => now += ms,
                Op::Learn(number, says, how) => {
                    neighbors.learn(ETH, &host(number), mac(says), how, time);
                    if how == Learn::Request {
                        model.entry(number).or_insert(UNKNOWN);
                    }
                    let Some(row) = model.get_mut(&number) else { continue };
                    let overrides = !matches!(how, Learn::Advertisement { overrides: false, .. });
                    let differs = row.mac.is_some_and(|known| known != says);
                    if row.mac.is_none() || overrides && differs {
                        let confirmed = how.confirms().then_some(now);
                        *row = Modelled { mac: Some(says), confirmed, ..UNKNOWN };
                    } else if !differs && how.confirms() {
                        *row = Modelled { mac: row.mac, confirmed: Some(now), ..UNKNOWN };
                    } else if differs && row.confirmed.is_some() {
                        *row = Modelled { mac: row.mac, ..UNKNOWN };
                    }
                }
                Op::Use(number) => {
                    let answer = neighbors.resolve(ETH, &host(number), time);
                    let row = model.entry(number).or_insert(UNKNOWN);
                    if let Some(known) = row.mac {
                        let quiet = row.confirmed.is_some_and(|at| now - at < 30_000);
                        let mut probe = false;
                        if !quiet {
                            row.confirmed = None;
                            let began = *row.delay.get_or_insert(now);
                            let due = if row.asked == 0 { now - began >= 5000 } else { now - row.last_asked >= 1000 };
                            if due && row.asked < 3 {
                                *row = Modelled { asked: row.asked + 1, last_asked: now, ..*row };
                                probe = true;
                            } else if due {
                                // The third probe went unanswered: asked for as if it had never been there.
                                *row = Modelled { asked: 1, last_asked: now, ..UNKNOWN };
                                prop_assert!(matches!(answer, Answer::Request { .. }), "{answer:?}");
                                continue;
                            }
                        }
                        let same = matches!(answer, Answer::Complete { mac: found, probe: asks, .. } if found == mac(known) && asks == probe);
                        prop_assert!(same, "{answer:?} {row:?}");
                        continue;
                    }
                    let due = row.asked == 0 || now - row.last_asked >= 1000;
                    match row.asked {
                        3 if due => {
                            prop_assert_eq!(answer, Answer::Failed);
                            row.asked = 4;
                        }
                        asked if due => {
                            prop_assert!(matches!(answer, Answer::Request { .. }), "{answer:?} {row:?}");
                            row.asked = asked % 4 + 1;
                            row.last_asked = now;
                        }
                        _ => prop_assert!(matches!(answer, Answer::Waiting { .. }), "{answer:?} {row:?}"),
                    }
                }
            }
        }
    }

    /// Whatever is in the memory, looking at it ends, without a panic.
    #[test]
    fn garbage_is_survived(seed in any::<u64>()) {
        let (segment, neighbors) = memory(64, 16);
        let mut state = seed;
        for word in segment.words() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            word.set(state);
        }
        prop_assert!(neighbors.neighbors(SECOND).count() <= 64);
        neighbors.occupancy();
        for number in 0..100 {
            if let Some(id) = neighbors.find(ETH, &host(number)) {
                neighbors.use_at(id, SECOND);
            }
            neighbors.resolve(ETH, &host(number), SECOND);
            neighbors.learn(ETH, &host(number), mac(number), Learn::Request, SECOND);
        }
        neighbors.age(SECOND);
        neighbors.adopt();
    }
}
