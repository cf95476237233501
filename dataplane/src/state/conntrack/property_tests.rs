//! The table against a dumb model, and over any bytes.

use super::tests::{find, flow, handle, memory, table, tuple};
use super::*;
use crate::clock::SECOND;
use crate::flow::Direction;
use millrace_wire::Protocol;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Op {
    Create { original: usize, reply: usize },
    Touch { tuple: usize },
    Remove { tuple: usize },
    Advance { ticks: u64 },
    Sweep { budget: u32 },
    Quiesce,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..TUPLES, 0..TUPLES).prop_map(|(original, reply)| Op::Create { original, reply }),
        3 => (0..TUPLES).prop_map(|tuple| Op::Touch { tuple }),
        2 => (0..TUPLES).prop_map(|tuple| Op::Remove { tuple }),
        2 => (0u64..25).prop_map(|ticks| Op::Advance { ticks }),
        1 => (0u32..40).prop_map(|budget| Op::Sweep { budget }),
        2 => Just(Op::Quiesce),
    ]
}

/// So few that originals, replies and other flows' tuples meet all the time.
const TUPLES: usize = 12;

fn universe(number: usize) -> Tuple {
    tuple((number as u8 % 4, 1), (number as u8 / 4, 2), Protocol::UDP)
}

/// A flow in the model.
#[derive(Clone, Debug)]
struct Modelled {
    original: Tuple,
    reply: Tuple,
    last: u64,
    replied: bool,
}

impl Modelled {
    fn is_live(&self, now: u64) -> bool {
        now - self.last <= if self.replied { 120 } else { 30 }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Any sequence of operations from two handles answers as a list searched from end to end.
    #[test]
    fn it_answers_as_a_list_would(ops in prop::collection::vec((0usize..2, op()), 1..120)) {
        let table = table(1024, 2);
        let mut handles = [handle(&table, 0), handle(&table, 1)];
        let mut model: Vec<Modelled> = Vec::new();
        let mut now = 0u64;
        for (who, op) in ops {
            let time = now * TICK;
            model.retain(|flow| flow.is_live(now));
            let position = |tuple: &Tuple, model: &[Modelled]| {
                model.iter().position(|flow| flow.original == *tuple || flow.reply == *tuple)
            };
            match op {
                Op::Create { original, reply } => {
                    let (original, reply) = (universe(original), universe(reply));
                    let new = NewFlow { original, reply, service: None, tcp: None, masqueraded: false };
                    let outcome = handles[who].create(&new, time);
                    if let Some(at) = position(&original, &model) {
                        let Err(CreateError::Exists(entry)) = outcome else {
                            panic!("{outcome:?}, but {:?} is there", model[at]);
                        };
                        let other = if entry.direction == Direction::Original { model[at].reply } else { model[at].original };
                        prop_assert_eq!(entry.translated, other.reversed());
                    } else if position(&reply, &model).is_some() {
                        prop_assert_eq!(outcome, Err(CreateError::ReplyTaken));
                    } else {
                        prop_assert!(outcome.is_ok(), "{:?}", outcome);
                        model.push(Modelled { original, reply, last: now, replied: false });
                    }
                }
                Op::Touch { tuple } => {
                    let found = find(&table, &universe(tuple), time);
                    let at = position(&universe(tuple), &model);
                    prop_assert_eq!(found.is_some(), at.is_some());
                    if let (Some(entry), Some(at)) = (found, at) {
                        prop_assert_eq!(handles[who].touch(entry.hit(), entry.translated.protocol, None, time), Touch::Continues);
                        model[at].last = now;
                        model[at].replied |= entry.direction == Direction::Reply;
                        let expected = if model[at].original == model[at].reply {
                            entry.direction
                        } else if model[at].original == universe(tuple) {
                            Direction::Original
                        } else {
                            Direction::Reply
                        };
                        prop_assert_eq!(entry.direction, expected);
                    }
                }
                Op::Remove { tuple } => {
                    let at = position(&universe(tuple), &model);
                    if let Some(entry) = find(&table, &universe(tuple), time) {
                        prop_assert!(handles[who].remove(entry.hit()));
                        model.remove(at.unwrap());
                    } else {
                        prop_assert_eq!(at, None);
                    }
                }
                Op::Advance { ticks } => now += ticks,
                Op::Sweep { budget } => {
                    handles[who].sweep(budget, time);
                }
                Op::Quiesce => handles[who].quiesce(),
            }
        }
        model.retain(|flow| flow.is_live(now));
        let mut shown: Vec<_> = table.flows(now * TICK).map(|flow| (flow.original, flow.reply)).collect();
        let mut expected: Vec<_> = model.iter().map(|flow| (flow.original, flow.reply)).collect();
        shown.sort();
        expected.sort();
        prop_assert_eq!(shown, expected);
    }

    /// Whatever is in the memory, looking at it ends, without a panic.
    #[test]
    fn garbage_is_survived(words in prop::collection::vec(any::<u64>(), 64), seed in any::<u64>()) {
        let (segment, table) = memory(1024, 2);
        let mut state = seed | 1;
        for (index, word) in segment.words().iter().enumerate() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let value = if state >> 62 == 0 { words[index % 64] } else { state };
            word.set(value);
        }
        let count = table.flows(SECOND).count();
        prop_assert!(count <= 1024);
        table.totals();
        for number in 0..200 {
            let new = flow(number, Protocol::TCP);
            let hash = Seed::FIXED.hash(&new.original);
            let hint = table.probe(hash, number % 2 == 0);
            table.find_at(hint, &new.original, hash, SECOND);
            if let Some(entry) = find(&table, &new.original, SECOND) {
                prop_assert!(entry.id.row < 1024);
            }
        }
    }
}
