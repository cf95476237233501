//! Loss, duplicates and reordering, from the sequence numbers of one substream.
//!
//! What has come is a window of bits behind the highest number so far. Memory: one bit a packet of the window; time: a few shifts a packet,
//! and 64 packets for each word that the window moves on.

/// What has come of one substream.
#[derive(Clone, Debug)]
pub struct Window {
    bits: Box<[u64]>,
    /// One above the highest number that came.
    top: u64,
}

/// What a packet is to its substream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The first of its number.
    New,
    /// A further copy.
    Again,
    /// So late that it can't be told whether it is a copy.
    TooOld,
}

impl Window {
    /// A window over `packets`, a power of two of 64 or more.
    pub fn new(packets: usize) -> Self {
        Self { bits: vec![0; packets.next_power_of_two().max(64) / 64].into(), top: 0 }
    }

    /// A sequence number of which only the low 32 bits are known: the one nearest to the highest so far.
    #[inline]
    pub fn whole(&self, low: u32) -> u64 {
        let near = self.top as u32;
        let ahead = low.wrapping_sub(near) as i32;
        // Before the first wrap there is nothing below 0.
        self.top.checked_add_signed(i64::from(ahead)).unwrap_or_else(|| u64::from(low))
    }

    /// Notes packet `number`.
    #[inline]
    pub fn note(&mut self, number: u64) -> Seen {
        let size = self.bits.len() as u64 * 64;
        if number >= self.top {
            self.advance(number + 1, size);
        } else if self.top - number > size {
            return Seen::TooOld;
        }
        let at = number % size;
        let mask = 1 << (at % 64);
        let Some(word) = self.bits.get_mut((at / 64) as usize) else { return Seen::TooOld };
        if *word & mask != 0 {
            return Seen::Again;
        }
        *word |= mask;
        Seen::New
    }

    #[inline]
    fn advance(&mut self, top: u64, size: u64) {
        if top - self.top >= size {
            self.bits.fill(0);
        } else {
            // What was a window ago is no longer: forget it, a word at a time where that is possible.
            let mut number = self.top;
            while number < top {
                let at = number % size;
                let last = (top - number).min(64 - at % 64);
                let mask = if last == 64 { u64::MAX } else { ((1 << last) - 1) << (at % 64) };
                if let Some(word) = self.bits.get_mut((at / 64) as usize) {
                    *word &= !mask;
                }
                number += last;
            }
        }
        self.top = top;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use proptest::prelude::*;
    use std::collections::HashSet;

    #[test]
    fn numbers_go_on_beyond_32_bits() {
        let mut window = Window::new(64);
        for number in [0, 1, 0x7fff_ffff, 0xffff_fff0, 0xffff_ffff, 0x1_0000_0000, 0x1_0000_0005] {
            assert_eq!(window.whole(number as u32), number);
            assert_eq!(window.note(number), Seen::New);
        }
        assert_eq!(window.whole(0xffff_ffff), 0xffff_ffff);
        assert_eq!(window.note(0xffff_ffff), Seen::Again);
        // The first packet may be a late one.
        assert_eq!(Window::new(64).whole(u32::MAX), u64::from(u32::MAX));
    }

    /// A sequence with truth injected: dropped, copied and delayed packets.
    fn impaired(n: u64, seed: u64, loss: u64, copies: u64, late: u64) -> (Vec<u64>, u64, u64) {
        let mut rng = Rng::new(seed, 0);
        let (mut sent, mut lost, mut duplicated) = (Vec::new(), 0, 0);
        for number in 0..n {
            if rng.below(100) < loss {
                lost += 1;
                continue;
            }
            let delay = if rng.below(100) < late { rng.below(30) } else { 0 };
            sent.push((number + delay, number));
            if rng.below(100) < copies {
                duplicated += 1;
                sent.push((number + rng.below(40), number));
            }
        }
        sent.sort_by_key(|(at, _)| *at);
        (sent.into_iter().map(|(_, number)| number).collect(), lost, duplicated)
    }

    proptest! {
        #[test]
        fn injected_loss_and_duplicates_are_counted_exactly(
            seed: u64, loss in 0u64..50, copies in 0u64..50, late in 0u64..50
        ) {
            let (arrived, lost, duplicated) = impaired(2000, seed, loss, copies, late);
            let mut window = Window::new(128);
            let mut model = HashSet::new();
            let (mut new, mut again) = (0, 0);
            for number in arrived {
                let whole = window.whole(number as u32);
                prop_assert_eq!(whole, number);
                match window.note(whole) {
                    Seen::New => {
                        prop_assert!(model.insert(number));
                        new += 1;
                    }
                    Seen::Again => {
                        prop_assert!(model.contains(&number));
                        again += 1;
                    }
                    Seen::TooOld => prop_assert!(false, "{} is in the window", number),
                }
            }
            prop_assert_eq!((2000 - new, again), (lost, duplicated));
        }

        #[test]
        fn jumps_forget_what_is_behind_the_window(steps in prop::collection::vec(1u64..300, 1..40)) {
            let mut window = Window::new(128);
            let mut number = 0;
            let mut came = HashSet::new();
            for step in steps {
                prop_assert_eq!(window.note(number), Seen::New);
                came.insert(number);
                for back in 1..=130.min(number) {
                    let seen = window.clone().note(number - back);
                    let expected = match () {
                        () if back >= 128 => Seen::TooOld,
                        () if came.contains(&(number - back)) => Seen::Again,
                        () => Seen::New,
                    };
                    prop_assert_eq!(seen, expected, "{} behind {}", back, number);
                }
                number += step;
            }
        }
    }
}
