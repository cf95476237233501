//! Fields that change from packet to packet: addresses, ports, sizes.
//!
//! | written | means |
//! |---|---|
//! | `"10.0.0.1"`, `80` | fixed |
//! | `"10.0.0.1-10.0.0.9"`, `"10.0.0.0/24"`, `{ range = "1024-2047", step = 4, every = 16 }` | range: from first to last and again |
//! | `"64,128,256"`, `{ sequence = [64, 128, 256], every = 2 }` | sequence: the values in this order and again |
//! | `"random 1024-65535"`, `{ random = "10.0.0.0/8" }` | random: uniform, from the seed |
//! | `"one of 53,80,443"`, `{ list = [53, 80, 443] }` | list: one of them by chance, from the seed |
//!
//! `every = n` keeps a value for n packets of the stream: with it one range can turn inside another. A
//! generator is one of several workers: worker w of W gives the values of the packets w, w + W, …
//!
//! Cost: a fixed field nothing, a range or sequence an addition and a comparison, a random one two
//! multiplications; no division, no allocation.

use crate::rng::Rng;

/// What a field says, as numbers; 128 bits hold an IPv6 address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spec {
    /// Always the same.
    Fixed(u128),
    /// `first`, `first + step`, … not above `last`, and again.
    Range {
        /// First value.
        first: u128,
        /// No value is above it.
        last: u128,
        /// From one value to the next; not 0.
        step: u128,
        /// Packets that each value is kept for; not 0.
        every: u64,
    },
    /// In this order, and again.
    Sequence {
        /// The values; at least one.
        values: Vec<u128>,
        /// Packets that each value is kept for; not 0.
        every: u64,
    },
    /// Any from `first` to `last`.
    Random {
        /// Least value.
        first: u128,
        /// Greatest value.
        last: u128,
    },
    /// Any of these.
    List(Vec<u128>),
}

impl Spec {
    /// The same value always, if it is so.
    pub fn fixed(&self) -> Option<u128> {
        match self {
            Self::Fixed(value) => Some(*value),
            _ => None,
        }
    }

    /// Least and greatest value.
    pub fn bounds(&self) -> (u128, u128) {
        match self {
            Self::Fixed(value) => (*value, *value),
            Self::Range { first, last, step, .. } => (*first, last - (last - first) % step),
            Self::Random { first, last } => (*first, *last),
            Self::Sequence { values, .. } | Self::List(values) => {
                let least = values.iter().min().copied().unwrap_or(0);
                (least, values.iter().max().copied().unwrap_or(0))
            }
        }
    }

    /// The values that there are, as ranges without gaps, in order.
    ///
    /// A stepped range of more than 64 Ki values is told as one from its least to its greatest.
    pub fn ranges(&self) -> Vec<(u128, u128)> {
        const MOST: u128 = 1 << 16;
        let (first, last) = self.bounds();
        let mut values: Vec<u128> = match self {
            Self::Range { step, .. } if *step > 1 && (last - first) / step < MOST => {
                (0..=(last - first) / step).map(|n| first + n * step).collect()
            }
            Self::Sequence { values, .. } | Self::List(values) => values.clone(),
            _ => return vec![(first, last)],
        };
        values.sort_unstable();
        let mut ranges: Vec<(u128, u128)> = Vec::new();
        for value in values {
            match ranges.last_mut() {
                Some((_, last)) if value - *last <= 1 => *last = value,
                _ => ranges.push((value, value)),
            }
        }
        ranges
    }

    /// Mean of the values.
    pub fn mean(&self) -> f64 {
        match self {
            Self::Sequence { values, .. } | Self::List(values) => {
                values.iter().map(|v| *v as f64).sum::<f64>() / values.len().max(1) as f64
            }
            _ => {
                let (least, greatest) = self.bounds();
                (least as f64 + greatest as f64) / 2.0
            }
        }
    }

    /// The same with each value through `change`, which keeps their order and distances.
    pub fn map(&self, change: impl Fn(u128) -> u128) -> Self {
        match self {
            Self::Fixed(value) => Self::Fixed(change(*value)),
            Self::Range { first, last, step, every } => Self::Range {
                first: change(*first),
                last: change(*last),
                step: *step,
                every: *every,
            },
            Self::Random { first, last } => {
                Self::Random { first: change(*first), last: change(*last) }
            }
            Self::Sequence { values, every } => Self::Sequence {
                values: values.iter().map(|v| change(*v)).collect(),
                every: *every,
            },
            Self::List(values) => Self::List(values.iter().map(|v| change(*v)).collect()),
        }
    }
}

/// A [`Spec`] at work in one worker.
#[derive(Clone, Debug)]
pub struct Field(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Fixed(u128),
    Range { first: u128, turn: Turn },
    Sequence { values: Box<[u128]>, turn: Turn },
    Random { first: u128, span: u128, rng: Rng },
    List { values: Box<[u128]>, rng: Rng },
}

/// A place that goes round by steps: packet `index` is (index / every) mod len steps from the start.
#[derive(Clone, Debug)]
struct Turn {
    /// Where it is, and where it begins again.
    at: u64,
    end: u64,
    step: u64,
    /// How much further each packet is, and what is left over of its stride.
    hop: u64,
    rest: u64,
    /// What is left over makes one more step when there are `every` of it.
    every: u64,
    held: u64,
}

impl Turn {
    fn new(len: u128, step: u128, every: u64, share: Share) -> Self {
        // Nobody comes to the end of 2^64, and a longer step than that is not made.
        let end = u64::try_from(len.saturating_mul(step)).unwrap_or(u64::MAX);
        let step = u64::try_from(step).unwrap_or(end);
        let steps = |n: u64| (u128::from(n) * u128::from(step) % u128::from(end)) as u64;
        Self {
            at: steps(share.worker / every),
            end,
            step: steps(1),
            hop: steps(share.workers / every),
            rest: share.workers % every,
            every,
            held: share.worker % every,
        }
    }

    #[inline(always)]
    fn next(&mut self) -> u64 {
        let now = self.at;
        self.go(self.hop);
        if self.rest > 0 {
            self.held += self.rest;
            if self.held >= self.every {
                self.held -= self.every;
                self.go(self.step);
            }
        }
        now
    }

    /// `by` is less than `end`.
    #[inline(always)]
    fn go(&mut self, by: u64) {
        let left = self.end - self.at;
        self.at = if by < left { self.at + by } else { by - left };
    }
}

/// Which of the packets a generator makes: `worker` of `workers`.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// From 0.
    pub worker: u64,
    /// At least 1.
    pub workers: u64,
}

impl Share {
    /// All of them.
    pub const ALL: Self = Self { worker: 0, workers: 1 };
}

impl Field {
    /// Starts `spec` at its first packet; `salt` tells fields with the same seed apart.
    pub fn new(spec: &Spec, share: Share, seed: u64, salt: u64) -> Self {
        let rng = || Rng::new(seed, salt.wrapping_mul(256) + share.worker);
        Self(match spec {
            Spec::Fixed(value) => Kind::Fixed(*value),
            Spec::Range { first, last, step, every } => {
                let len = ((last - first) / step).saturating_add(1);
                Kind::Range { first: *first, turn: Turn::new(len, *step, *every, share) }
            }
            Spec::Sequence { values, every } => Kind::Sequence {
                values: values.as_slice().into(),
                turn: Turn::new(values.len().max(1) as u128, 1, *every, share),
            },
            Spec::Random { first, last } => {
                Kind::Random { first: *first, span: (last - first).saturating_add(1), rng: rng() }
            }
            Spec::List(values) => Kind::List { values: values.as_slice().into(), rng: rng() },
        })
    }

    /// The value of the next packet.
    #[inline(always)]
    pub fn draw(&mut self) -> u128 {
        match &mut self.0 {
            Kind::Fixed(value) => *value,
            Kind::Range { first, turn } => *first + u128::from(turn.next()),
            other => other.choose(),
        }
    }
}

impl Kind {
    /// The next of those that need more than an addition.
    fn choose(&mut self) -> u128 {
        match self {
            Self::Fixed(value) => *value,
            Self::Range { first, turn } => *first + u128::from(turn.next()),
            Self::Sequence { values, turn } => {
                values.get(turn.next() as usize).copied().unwrap_or(0)
            }
            Self::Random { first, span, rng } => match u64::try_from(*span) {
                Ok(span) => *first + u128::from(rng.below(span)),
                Err(_) => {
                    let high = u128::from(rng.next()) << 64;
                    *first + (high | u128::from(rng.next())) % *span
                }
            },
            Self::List { values, rng } => {
                let at = rng.below(values.len() as u64) as usize;
                values.get(at).copied().unwrap_or(0)
            }
        }
    }
}

/// Weights as a pattern in which each index comes as often as its weight, as evenly spread as can be.
///
/// Smooth weighted round robin: the same at every start. `weights` must not all be 0.
pub fn interleave(weights: &[u32]) -> Vec<u32> {
    let divisor = weights.iter().copied().filter(|w| *w > 0).fold(0, gcd).max(1);
    let total: u64 = weights.iter().map(|w| u64::from(*w / divisor)).sum();
    // Each occurrence k of index i belongs at (k + 1/2) / weight; in order of these, first index first.
    let mut order = std::collections::BinaryHeap::new();
    let key = |weight: u32, k: u32| {
        let place = (2 * u128::from(k) + 1) << 64;
        std::cmp::Reverse(place / (2 * u128::from(weight)))
    };
    for (index, weight) in weights.iter().enumerate() {
        if *weight > 0 {
            order.push((key(*weight / divisor, 0), std::cmp::Reverse(index as u32), 0));
        }
    }
    let mut pattern = Vec::with_capacity(total as usize);
    while let Some((_, std::cmp::Reverse(index), k)) = order.pop() {
        pattern.push(index);
        let weight = weights.get(index as usize).map_or(1, |w| *w / divisor);
        if k + 1 < weight {
            order.push((key(weight, k + 1), std::cmp::Reverse(index), k + 1));
        }
    }
    pattern
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn take(spec: &Spec, share: Share, n: usize) -> Vec<u128> {
        let mut field = Field::new(spec, share, 1, 0);
        (0..n).map(|_| field.draw()).collect()
    }

    #[test]
    fn each_form_gives_its_values() {
        let range = |step, every| Spec::Range { first: 10, last: 14, step, every };
        assert_eq!(take(&Spec::Fixed(7), Share::ALL, 3), [7, 7, 7]);
        assert_eq!(take(&range(1, 1), Share::ALL, 7), [10, 11, 12, 13, 14, 10, 11]);
        assert_eq!(take(&range(3, 1), Share::ALL, 4), [10, 13, 10, 13]);
        assert_eq!(take(&range(2, 2), Share::ALL, 7), [10, 10, 12, 12, 14, 14, 10]);
        let sequence = Spec::Sequence { values: vec![5, 3, 9], every: 1 };
        assert_eq!(take(&sequence, Share::ALL, 5), [5, 3, 9, 5, 3]);
        // Pinned: the same seed gives the same packets in every version.
        let random = Spec::Random { first: 1024, last: 65535 };
        assert_eq!(take(&random, Share::ALL, 4), [24776, 61895, 3943, 51178]);
        let list = take(&Spec::List(vec![53, 80, 443]), Share::ALL, 300);
        assert!([53, 80, 443].iter().all(|v| list.iter().filter(|x| *x == v).count() > 60));
    }

    #[test]
    fn ranges_hold_the_values_and_no_others() {
        let range = |step| Spec::Range { first: 10, last: 15, step, every: 1 };
        assert_eq!(range(1).ranges(), [(10, 15)]);
        assert_eq!(range(2).ranges(), [(10, 10), (12, 12), (14, 14)]);
        assert_eq!(Spec::List(vec![9, 3, 4, 9]).ranges(), [(3, 4), (9, 9)]);
        let sequence = Spec::Sequence { values: vec![5, u128::MAX, 0], every: 2 };
        assert_eq!(sequence.ranges(), [(0, 0), (5, 5), (u128::MAX, u128::MAX)]);
        assert_eq!(Spec::Random { first: 1, last: 9 }.ranges(), [(1, 9)]);
        let wide = Spec::Range { first: 0, last: u128::MAX, step: 2, every: 1 };
        assert_eq!(wide.ranges(), [(0, u128::MAX - 1)]);
    }

    #[test]
    fn the_widest_ranges_do_not_overflow() {
        let all = Spec::Random { first: 0, last: u128::MAX };
        assert_ne!(take(&all, Share::ALL, 2)[0], take(&all, Share::ALL, 2)[1]);
        let all = Spec::Range { first: 0, last: u128::MAX, step: 1, every: 1 };
        assert_eq!(take(&all, Share::ALL, 2), [0, 1]);
        let end = Spec::Range { first: u128::MAX - 2, last: u128::MAX, step: 2, every: 1 };
        assert_eq!(take(&end, Share::ALL, 3), [u128::MAX - 2, u128::MAX, u128::MAX - 2]);
    }

    #[test]
    fn weights_are_spread_evenly() {
        assert_eq!(interleave(&[1, 1]), [0, 1]);
        assert_eq!(interleave(&[10, 10, 20]), [2, 0, 1, 2]);
        assert_eq!(interleave(&[3, 0, 1]), [0, 0, 2, 0]);
        let imix = interleave(&[7, 4, 1]);
        assert_eq!([0, 1, 2].map(|i| imix.iter().filter(|x| **x == i).count()), [7, 4, 1]);
    }

    proptest! {
        #[test]
        fn workers_together_give_what_one_gives(
            first in 0u128..100, len in 1u128..20, step in 1u128..5, every in 1u64..5, workers in 1u64..5
        ) {
            let spec = Spec::Range { first, last: first + len, step, every };
            let alone = take(&spec, Share::ALL, 60);
            for worker in 0..workers {
                let share = Share { worker, workers };
                let mine: Vec<_> =
                    alone.iter().copied().skip(worker as usize).step_by(workers as usize).collect();
                prop_assert_eq!(take(&spec, share, mine.len()), mine);
            }
        }

        #[test]
        fn values_are_within_the_bounds(a in any::<u128>(), b in any::<u128>(), seed: u64) {
            let (first, last) = (a.min(b), a.max(b));
            let mut field = Field::new(&Spec::Random { first, last }, Share::ALL, seed, 0);
            for _ in 0..10 {
                prop_assert!((first..=last).contains(&field.draw()));
            }
        }

        #[test]
        fn every_weight_is_kept(weights in prop::collection::vec(0u32..40, 1..9)) {
            prop_assume!(weights.iter().any(|w| *w > 0));
            let divisor = weights.iter().copied().filter(|w| *w > 0).fold(0, gcd);
            let pattern = interleave(&weights);
            for (i, weight) in weights.iter().enumerate() {
                let seen = pattern.iter().filter(|x| **x == i as u32).count();
                prop_assert_eq!(seen, (*weight / divisor) as usize);
            }
        }
    }
}
