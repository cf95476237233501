//! The index of a table: from a hash to the few rows that may hold its key.
//!
//! Buckets of one cache line hold eight slots; each key has two buckets, and a new key goes to the
//! emptier one. With five keys a bucket on average (which the table sizes keep to) some million inserts
//! meet no pair of full buckets. A slot is one word: 32 bits of the hash as a tag, one bit for which
//! of a row's two keys this is, and the row's number plus one; zero is an empty slot. So a lookup
//! reads two lines and compares 16 tags; a key that isn't there is mistaken for one that may be in
//! 1 of 2²⁸ lookups, and the row itself says no then.
//!
//! Readers never wait and never retry. Whoever publishes a key has written the row before
//! ([`Index::publish`] releases); a reader calls `fence_acquire` before it reads a candidate's row.
//! What it means that a row is there, and that a key is there only once, is left to the table.

use super::word::Word;
use std::sync::atomic::AtomicU64;

/// Average keys per bucket when a table is full.
pub const KEYS_PER_BUCKET: usize = 5;

/// Largest row number plus one: 31 bits of the slot.
pub const MAX_ROWS: usize = (1 << 31) - 1;

/// A view of an index's words.
#[derive(Clone, Copy)]
pub struct Index<'a, W> {
    words: &'a [W],
}

/// What a tag match found: a row that may hold the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The row.
    pub row: u32,
    /// Which of its keys.
    pub second: bool,
}

/// How many words the index of `keys` keys takes: a whole number of cache lines, at least two.
pub fn words_for(keys: usize) -> usize {
    keys.div_ceil(KEYS_PER_BUCKET).max(2) * AtomicU64::SLOTS
}

#[inline]
fn slot(hash: u64, row: u32, second: bool) -> u64 {
    tag(hash) << 32 | u64::from(second) << 31 | u64::from(row + 1)
}

/// 32 bits of the hash that don't choose the bucket (the product's high half depends on all bits).
#[inline]
fn tag(hash: u64) -> u64 {
    hash.wrapping_mul(0x9fb2_1c65_1e98_df25) >> 32
}

#[inline]
fn candidate(slot: u64) -> Option<Candidate> {
    let row = (slot as u32 & 0x7fff_ffff).checked_sub(1)?;
    Some(Candidate { row, second: slot & 1 << 31 != 0 })
}

/// The two buckets, of `count`, of a hash: two different ones.
#[inline]
pub fn buckets(count: usize, hash: u64) -> [usize; 2] {
    let count = count as u64;
    let first = ((hash >> 32) * count) >> 32;
    let second = ((hash & 0xffff_ffff) * count) >> 32;
    let second = if second != first {
        second
    } else if first + 1 < count {
        first + 1
    } else {
        0
    };
    [first as usize, second as usize]
}

/// First words of the two buckets of `hash` in an index of these words.
#[inline]
pub fn places<W: Word>(words: &[W], hash: u64) -> [usize; 2] {
    buckets(words.len() / W::SLOTS, hash).map(|bucket| bucket * W::SLOTS)
}

impl<'a, W: Word> Index<'a, W> {
    /// An index over `words`, as many as [`words_for`] says.
    #[inline]
    pub fn new(words: &'a [W]) -> Self {
        Self { words }
    }

    #[inline]
    fn bucket(&self, place: usize) -> &'a [W] {
        self.words.get(place..place + W::SLOTS).unwrap_or_default()
    }

    /// The rows that may hold the key, in the order of their slots.
    #[inline]
    pub fn candidates(&self, hash: u64) -> impl Iterator<Item = Candidate> + use<'a, W> {
        let tag = tag(hash);
        let [first, second] = places(self.words, hash);
        let (first, second) = (self.bucket(first), self.bucket(second));
        first.iter().chain(second).filter_map(move |word| {
            let value = word.get();
            if value >> 32 == tag { candidate(value) } else { None }
        })
    }

    /// Makes a row findable by a key. `false`: both buckets are full.
    pub fn publish(&self, hash: u64, row: u32, second: bool) -> bool {
        let value = slot(hash, row, second);
        let [a, b] = places(self.words, hash).map(|place| self.bucket(place));
        let used = |bucket: &[W]| bucket.iter().filter(|word| word.get() != 0).count();
        let order = if used(b) < used(a) { [b, a] } else { [a, b] };
        order.iter().any(|bucket| {
            bucket.iter().any(|word| word.get() == 0 && word.exchange(0, value).is_ok())
        })
    }

    /// Takes back what [`Index::publish`] did; the caller is the only one who may for this row.
    pub fn withdraw(&self, hash: u64, row: u32, second: bool) {
        let value = slot(hash, row, second);
        for bucket in places(self.words, hash).map(|place| self.bucket(place)) {
            for word in bucket {
                if word.get() == value {
                    word.set_release(0);
                    return;
                }
            }
        }
    }

    /// Forgets all keys; for who rebuilds the index while nobody reads.
    pub fn clear(&self) {
        for word in self.words {
            if word.get() != 0 {
                word.set(0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(keys: usize) -> Vec<AtomicU64> {
        (0..words_for(keys)).map(|_| AtomicU64::new(0)).collect()
    }

    fn rows(index: &Index<'_, AtomicU64>, hash: u64) -> Vec<(u32, bool)> {
        index.candidates(hash).map(|found| (found.row, found.second)).collect()
    }

    /// Any 64 bits, by number (splitmix64's increment is enough for a test).
    fn hash(number: u64) -> u64 {
        number
            .wrapping_add(1)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(29)
            .wrapping_mul(0xbf58_476d_1ce4_e5b9)
    }

    #[test]
    fn what_was_published_is_found_until_it_is_withdrawn() {
        let words = words(100);
        let index = Index::new(&words);
        for row in 0..100 {
            assert!(index.publish(hash(row.into()), row, row % 2 == 1));
        }
        for row in 0..100 {
            assert_eq!(rows(&index, hash(row.into())), [(row, row % 2 == 1)]);
        }
        index.withdraw(hash(7), 7, false);
        assert_eq!(rows(&index, hash(7)), [(7, true)], "the other key stays");
        index.withdraw(hash(7), 7, true);
        assert_eq!(rows(&index, hash(7)), []);
        index.clear();
        assert!((0..100).all(|row| rows(&index, hash(row)).is_empty()));
    }

    #[test]
    fn two_full_buckets_refuse_and_forget_nobody() {
        let words = words(10);
        let index = Index::new(&words);
        for row in 0..16 {
            assert!(index.publish(hash(3), row, false));
        }
        assert!(!index.publish(hash(3), 16, false));
        let mut found = rows(&index, hash(3));
        found.sort();
        assert_eq!(found, (0..16).map(|row| (row, false)).collect::<Vec<_>>());
    }

    #[test]
    fn a_hash_has_two_different_buckets_within_the_index() {
        for keys in [1, 10, 11, 1000] {
            let words = words(keys);
            for number in 0..1000 {
                let [a, b] = places(&words, hash(number));
                assert!(a != b && a % 8 == 0 && b % 8 == 0 && a.max(b) + 8 <= words.len());
            }
            for extreme in [0, u64::MAX, u64::MAX << 32, u64::MAX >> 32] {
                let [a, b] = places(&words, extreme);
                assert!(a != b && a.max(b) + 8 <= words.len());
            }
        }
    }

    #[test]
    fn the_largest_row_number_fits() {
        let words = words(10);
        let index = Index::new(&words);
        let row = (MAX_ROWS - 1) as u32;
        assert!(index.publish(5, row, true));
        assert_eq!(rows(&index, 5), [(row, true)]);
    }
}
