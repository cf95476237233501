//! The index of a table: from a hash to the few rows that may hold its key.
//!
//! Buckets are one cache line. A key belongs into its first bucket; when that is full it goes to its second one, and on to
//! the buckets behind that. Every full bucket that a key was turned away from counts it, so a reader stops at the first bucket
//! that counts none: nearly always the first.
//!
//! ```text
//! bucket (64 bytes)   words 0, 1: a tag byte for each of 12 slots (0: empty), then how many keys were turned away (32 bits)
//!                     words 2–7:  for each slot 32 bits: row (24), which of the row's two keys (1), more of the tag (7)
//! ```
//!
//! Cost of a lookup, hit or miss: one line; its 12 tags are compared at once (one vector), and a row is
//! named for nothing in one lookup of 4,000, whose key then says no. Full to the last row, with
//! [`KEYS_PER_BUCKET`] keys a bucket on average, 6 % of the buckets have turned a key away. Memory: 8 bytes a key.
//!
//! Readers never wait and never retry. Whoever publishes a key has written the row before
//! ([`Index::publish`] releases); a reader calls `fence_acquire` before it reads a candidate's row. A slot belongs to who put
//! its tag in, until he takes it out again, so the rest of the slot is added and subtracted without a loop. A reader that comes
//! between the two steps sees a wrong row, which then says no, as it would if the reader had come a moment earlier or later.
//! What it means that a row is there, and that a key is there only once, is left to the table.

use super::word::Word;
use millrace_tables::shm;
use std::sync::atomic::AtomicU64;

/// Average keys per bucket when a table is full.
pub const KEYS_PER_BUCKET: usize = 8;

/// Most rows: 24 bits of the slot.
pub const MAX_ROWS: usize = 1 << ROW_BITS;

const ROW_BITS: u32 = 24;
/// Slots whose tags share a word.
const TAGS_PER_WORD: usize = 8;
/// Slots whose rows share a word.
const ROWS_PER_WORD: usize = 2;
/// Buckets that are tried for a key.
const PROBES: usize = 6;
/// One key turned away: the upper half of the last tag word counts them.
const TURNED_AWAY: u64 = 1 << 32;

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
    keys.div_ceil(KEYS_PER_BUCKET).max(2) * bucket_words::<AtomicU64>()
}

/// Words of a bucket.
const fn bucket_words<W: Word>() -> usize {
    W::TAG_WORDS + W::ROW_WORDS
}

/// Slots of a bucket.
const fn slots<W: Word>() -> usize {
    W::ROW_WORDS * ROWS_PER_WORD
}

const _: () = assert!(bucket_words::<AtomicU64>() * 8 == 64);
const _: () = assert!(slots::<AtomicU64>() == 12);

/// Bits of the hash that don't choose the bucket (a product's high half depends on all bits): 8, never 0, for the tag byte,
/// and 7 for beside the row.
#[inline]
fn tags(hash: u64) -> (u8, u32) {
    let bits = (hash.wrapping_mul(0x9fb2_1c65_1e98_df25) >> 49) as u32;
    ((bits as u8).max(1), bits >> 8)
}

#[inline]
fn slot(more: u32, row: u32, second: bool) -> u32 {
    row & (MAX_ROWS as u32 - 1) | u32::from(second) << ROW_BITS | more << (ROW_BITS + 1)
}

#[inline]
fn candidate(slot: u32) -> Candidate {
    Candidate { row: slot & (MAX_ROWS as u32 - 1), second: slot >> ROW_BITS & 1 != 0 }
}

/// Which slots of a bucket have this tag, as bits; and the word that counts the keys turned away.
#[inline]
fn slots_with<W: Word>(tags: &[W], tag: u8) -> (u32, u64) {
    let low = tags.first().map_or(0, Word::get);
    let high = if W::TAG_WORDS > 1 { tags.get(1).map_or(0, Word::get) } else { 0 };
    let last = if W::TAG_WORDS > 1 { high } else { low };
    let found = shm::equal_bytes(low, high, tag);
    (u32::from(found) & ((1 << slots::<W>()) - 1), last)
}

/// Number `probe` of the buckets, of `count`, of a hash: the first, the second, and those behind it.
#[inline]
pub(super) fn bucket(count: usize, hash: u64, probe: usize) -> usize {
    let scaled = |half: u64| ((half * count as u64) >> 32) as usize;
    match probe.checked_sub(1) {
        None => scaled(hash >> 32),
        Some(further) => (scaled(hash & 0xffff_ffff) + further) % count.max(1),
    }
}

/// First word of the first bucket of `hash` in an index of these words.
#[inline]
pub fn place<W: Word>(words: &[W], hash: u64) -> usize {
    bucket(words.len() / bucket_words::<W>(), hash, 0) * bucket_words::<W>()
}

impl<'a, W: Word> Index<'a, W> {
    /// An index over `words`, as many as [`words_for`] says.
    #[inline]
    pub fn new(words: &'a [W]) -> Self {
        Self { words }
    }

    /// The words of the bucket that `hash` has at `probe`: tags, rows.
    #[inline]
    fn bucket(&self, hash: u64, probe: usize) -> (&'a [W], &'a [W]) {
        let size = bucket_words::<W>();
        let start = bucket(self.words.len() / size, hash, probe) * size;
        let words = self.words.get(start..start + size).unwrap_or_default();
        words.split_at_checked(W::TAG_WORDS).unwrap_or_default()
    }

    /// The slots of a bucket that may be the key's, and whether there are more buckets to look at.
    #[inline]
    fn look(tags: &[W], tag: u8) -> (u32, bool) {
        let (found, last) = slots_with(tags, tag);
        (found, last >= TURNED_AWAY)
    }

    /// The row that most probably holds the key, for who wants to fetch it ahead: what the first bucket has; and whether there
    /// is more to look at.
    #[inline(always)]
    pub fn first_candidate(&self, hash: u64) -> (Option<Candidate>, bool) {
        let (tag, more) = tags(hash);
        let (tags, rows) = self.bucket(hash, 0);
        let (found, further) = Self::look(tags, tag);
        (if found == 0 { None } else { matching(rows, found, more, Some) }, further)
    }

    /// How many keys there are with the tag of `hash`; `None` when some may lie beyond the first bucket. Rows are not looked at.
    #[inline]
    pub fn alike(&self, hash: u64) -> Option<u32> {
        let (tag, _) = tags(hash);
        let (found, further) = Self::look(self.bucket(hash, 0).0, tag);
        (!further).then(|| found.count_ones())
    }

    /// Shows `check` the rows that may hold the key until it takes one.
    #[inline]
    pub fn find<T>(&self, hash: u64, mut check: impl FnMut(Candidate) -> Option<T>) -> Option<T> {
        let (tag, more) = tags(hash);
        for probe in 0..PROBES {
            let (tags, rows) = self.bucket(hash, probe);
            let (found, further) = Self::look(tags, tag);
            let taken = if found == 0 { None } else { matching(rows, found, more, &mut check) };
            if taken.is_some() || !further {
                return taken;
            }
        }
        None
    }

    /// Makes a row findable by a key. `false`: all its buckets are full.
    pub fn publish(&self, hash: u64, row: u32, second: bool) -> bool {
        let (tag, more) = tags(hash);
        let slot = slot(more, row, second);
        for probe in 0..PROBES {
            let (tags, rows) = self.bucket(hash, probe);
            if claim(tags, rows, tag, slot) {
                return true;
            }
            // Before the key is there: whoever has to see it has to look further.
            self.turn_away(hash, probe, TURNED_AWAY);
        }
        for probe in 0..PROBES {
            self.turn_away(hash, probe, TURNED_AWAY.wrapping_neg());
        }
        false
    }

    fn turn_away(&self, hash: u64, probe: usize, by: u64) {
        if let Some(word) = self.bucket(hash, probe).0.last() {
            word.bump(by);
        }
    }

    /// Takes back what [`Index::publish`] did; the caller is the only one who may for this row.
    pub fn withdraw(&self, hash: u64, row: u32, second: bool) {
        let (tag, more) = tags(hash);
        let slot = slot(more, row, second);
        for probe in 0..PROBES {
            let (tags, rows) = self.bucket(hash, probe);
            if release(tags, rows, tag, slot) {
                for earlier in 0..probe {
                    self.turn_away(hash, earlier, TURNED_AWAY.wrapping_neg());
                }
                return;
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

/// Shows `check` the candidates among the slots in `found` (see [`Index::look`]) whose second tag is `more`.
#[inline]
fn matching<W: Word, T>(
    rows: &[W],
    mut found: u32,
    more: u32,
    mut check: impl FnMut(Candidate) -> Option<T>,
) -> Option<T> {
    while found != 0 {
        let at = found.trailing_zeros() as usize;
        found &= found - 1;
        let slot = (rows.get(at / ROWS_PER_WORD)?.get() >> (at % ROWS_PER_WORD * 32)) as u32;
        if slot >> (ROW_BITS + 1) == more {
            let taken = check(candidate(slot));
            if taken.is_some() {
                return taken;
            }
        }
    }
    None
}

/// Takes an empty slot of a bucket.
fn claim<W: Word>(tags: &[W], rows: &[W], tag: u8, slot: u32) -> bool {
    loop {
        let (empty, _) = slots_with(tags, 0);
        if empty == 0 {
            return false;
        }
        let at = empty.trailing_zeros() as usize;
        let shift = at % TAGS_PER_WORD * 8;
        let (Some(word), Some(pair)) = (tags.get(at / TAGS_PER_WORD), rows.get(at / ROWS_PER_WORD))
        else {
            return false;
        };
        let old = word.get();
        // Whoever takes another slot of the word meanwhile makes us look again; of 12 slots all are taken sooner or later.
        if old >> shift & 0xff == 0 && word.exchange(old, old | u64::from(tag) << shift).is_ok() {
            pair.bump(u64::from(slot) << (at % ROWS_PER_WORD * 32));
            return true;
        }
    }
}

/// Empties the slot of a bucket that is exactly this one; `false` when none is.
fn release<W: Word>(tags: &[W], rows: &[W], tag: u8, slot: u32) -> bool {
    for (at, pair) in rows.iter().enumerate() {
        for half in 0..ROWS_PER_WORD {
            let shift = half * 32;
            if (pair.get() >> shift) as u32 != slot {
                continue;
            }
            let at = at * ROWS_PER_WORD + half;
            let (Some(word), shift_of_tag) = (tags.get(at / TAGS_PER_WORD), at % TAGS_PER_WORD * 8)
            else {
                continue;
            };
            if word.get() >> shift_of_tag & 0xff != u64::from(tag) {
                continue;
            }
            // The tag goes last: with it the slot is another's.
            pair.bump((u64::from(slot) << shift).wrapping_neg());
            word.bump((u64::from(tag) << shift_of_tag).wrapping_neg());
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(keys: usize) -> Vec<AtomicU64> {
        (0..words_for(keys)).map(|_| AtomicU64::new(0)).collect()
    }

    fn rows(index: &Index<'_, AtomicU64>, hash: u64) -> Vec<(u32, bool)> {
        let mut rows = Vec::new();
        index.find(hash, |found| -> Option<()> {
            rows.push((found.row, found.second));
            None
        });
        rows
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
    fn full_buckets_refuse_and_forget_nobody() {
        let words = words(100);
        let index = Index::new(&words);
        let most = (0..).take_while(|&row| index.publish(hash(3), row, false)).count() as u32;
        assert!(most == 12 * PROBES as u32 || most == 12 * (PROBES as u32 - 1), "{most}");
        let mut found = rows(&index, hash(3));
        found.sort();
        found.dedup();
        assert_eq!(found, (0..most).map(|row| (row, false)).collect::<Vec<_>>());
        (0..most).for_each(|row| index.withdraw(hash(3), row, false));
        assert!(words.iter().all(|word| word.get() == 0), "a count of keys turned away is left");
    }

    #[test]
    fn buckets_lie_within_the_index() {
        for keys in [1, 10, 11, 1000] {
            let words = words(keys);
            let extremes = [0, u64::MAX, u64::MAX << 32, u64::MAX >> 32];
            for hash in (0..1000).map(hash).chain(extremes) {
                for probe in 0..PROBES {
                    assert!(bucket(words.len() / 8, hash, probe) * 8 + 8 <= words.len());
                }
                assert_eq!(place(&words, hash) % 8, 0);
            }
        }
    }

    /// A table of a million rows is filled to the last one, and a lookup hardly ever needs a second line.
    #[test]
    fn a_full_index_refuses_nobody_and_needs_one_line() {
        let keys = 1 << 21;
        let words = words(keys);
        let index = Index::new(&words);
        for key in 0..keys {
            assert!(index.publish(hash(key as u64), key as u32 / 2, key % 2 == 1), "key {key}");
        }
        let lines: usize = (0..keys as u64)
            .map(|key| {
                let found = |probe| {
                    let tags = index.bucket(hash(key), probe);
                    let (tag, more) = super::tags(hash(key));
                    let is_it = |found: Candidate| (u64::from(found.row) == key / 2).then_some(());
                    matching(tags.1, Index::look(tags.0, tag).0, more, is_it).is_some()
                };
                1 + (0..PROBES).take_while(|&probe| !found(probe)).count()
            })
            .sum();
        let average = lines as f64 / keys as f64;
        assert!(average < 1.15, "{average} lines a lookup");
        let wrong: usize =
            (0..keys as u64).map(|key| rows(&index, hash(key + keys as u64)).len()).sum();
        assert!(wrong < keys / 2000, "{wrong} rows named for nothing");
    }

    #[test]
    fn keys_of_one_tag_are_counted_until_a_bucket_is_full() {
        let words = words(100);
        let index = Index::new(&words);
        assert_eq!(index.alike(hash(7)), Some(0));
        for row in 0..12 {
            assert!(index.publish(hash(7), row, false));
            assert_eq!(index.alike(hash(7)), Some(row + 1));
        }
        assert!(index.publish(hash(7), 12, false));
        assert_eq!(index.alike(hash(7)), None, "one went elsewhere");
        index.withdraw(hash(7), 12, false);
        index.withdraw(hash(7), 3, false);
        assert_eq!(index.alike(hash(7)), Some(11));
    }

    #[test]
    fn the_largest_row_number_fits() {
        let words = words(10);
        let index = Index::new(&words);
        let row = (MAX_ROWS - 1) as u32;
        assert!(index.publish(hash(5), row, true));
        assert_eq!(rows(&index, hash(5)), [(row, true)]);
    }
}
