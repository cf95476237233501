//! Looking up many addresses at once: each level's cache misses overlap.
//!
//! One pass for each level over up to [`BATCH`] addresses: a pass reads what the one before fetched, and fetches for the next.
//! An address that has got its leaf takes part in the remaining passes without effect: cheaper than to guess which those are, or to
//! sort them out. What is rare in bulk (paths, IPv6 beyond 48 bits) is looked up one by one from where it was met.
//!
//! Cost: see the table in `fib.rs`. The loops have no calls; their bounds checks are those of `Words`, without which corrupt words could
//! lead out of the segment.

use super::{
    FULL_ENTRIES, Family, HALF, Key, MAX_LEAF, NARROW_BITS, NODE, PATH, default, descend, half,
    half_of, target, wide, wide_word,
};
use crate::words::Words;

/// Most addresses under way at once: enough to hide a miss to memory, few enough for the first-level cache and its translations.
const BATCH: usize = 64;

/// [`super::lookup`] for many: `leaves[i]` becomes the leaf of `keys[i]`.
///
/// Works on as many as the shorter slice has.
pub fn lookup_many<K: Key>(words: Words<'_>, root: u32, keys: &[K], leaves: &mut [u32]) {
    if root & NODE == 0 {
        leaves.iter_mut().zip(keys).for_each(|(leaf, _)| *leaf = root);
        return;
    }
    let default = default(words, root);
    let (mut inverse, mut entries) = ([0; BATCH], [0; BATCH]);
    let batch = match K::FAMILY {
        Family::V4 => BATCH,
        Family::V6 => BATCH / 2,
    };
    for (keys, leaves) in keys.chunks(batch).zip(leaves.chunks_mut(batch)) {
        let count = keys.len().min(leaves.len()).min(BATCH);
        let entries = &mut entries[..count];
        // The depths are numbers, so that the loops shift by numbers.
        match K::FAMILY {
            Family::V4 => {
                direct4(words, root, keys, entries);
                if halves(words, keys, entries) {
                    finish(words, keys, entries, 18);
                }
            }
            Family::V6 => {
                let inverse = &mut inverse[..count];
                direct6(words, root, keys, inverse, entries);
                narrow::<K, 30>(words, keys, inverse, entries);
                narrow::<K, 36>(words, keys, inverse, entries);
                narrow::<K, 42>(words, keys, inverse, entries);
                finish(words, keys, entries, 48);
            }
        }
        for (leaf, &entry) in leaves.iter_mut().zip(&*entries) {
            *leaf = if entry == 0 { default } else { entry };
        }
    }
}

/// IPv4's direct levels: `entries` become the last one's, and what they lead to is fetched.
#[inline]
fn direct4<K: Key>(words: Words<'_>, root: u32, keys: &[K], entries: &mut [u32]) {
    for (entry, key) in entries.iter_mut().zip(keys) {
        *entry = wide(words, root, key.top(9));
        words.prefetch(target(*entry), wide_word(key.after(9).top(9)));
    }
    for (entry, key) in entries.iter_mut().zip(keys) {
        if *entry & NODE != 0 {
            *entry = wide(words, *entry, key.after(9).top(9));
            words.prefetch(target(*entry), 0);
        }
    }
}

/// The level below, where nearly all of IPv4's ways end. Returns whether any goes on.
#[inline]
fn halves<K: Key>(words: Words<'_>, keys: &[K], entries: &mut [u32]) -> bool {
    let mut any = 0;
    for (entry, key) in entries.iter_mut().zip(keys) {
        if *entry & (NODE | PATH | HALF) == NODE | HALF {
            *entry = half(words, *entry, key.after(18).top(NARROW_BITS));
        }
        any |= *entry;
    }
    any & NODE != 0
}

/// IPv6's direct levels, the first three in one pass: they are near.
#[inline]
fn direct6<K: Key>(
    words: Words<'_>,
    root: u32,
    keys: &[K],
    inverse: &mut [u64],
    entries: &mut [u32],
) {
    for ((entry, inverse), key) in entries.iter_mut().zip(inverse.iter_mut()).zip(keys) {
        let bits = key.first();
        *inverse = !bits;
        let mut now = wide(words, root, (bits >> 56) as usize);
        if now & NODE != 0 {
            now = wide(words, now, (bits << 8 >> 56) as usize);
            if now & NODE != 0 {
                now = wide(words, now, (bits << 16 >> 56) as usize);
            }
        }
        words.prefetch(target(now), wide_word((bits << 24 >> 58) as usize));
        *entry = now;
    }
    for (entry, inverse) in entries.iter_mut().zip(inverse) {
        if *entry & NODE != 0 {
            *entry = wide(words, *entry, (!*inverse << 24 >> 58) as usize);
            words.prefetch(target(*entry), 0);
        }
    }
}

/// The level after `DEPTH` bits.
#[inline]
fn narrow<K: Key, const DEPTH: u32>(
    words: Words<'_>,
    keys: &[K],
    inverse: &[u64],
    entries: &mut [u32],
) {
    let any = any_of(entries);
    if any & NODE == 0 {
        return;
    }
    if any & (PATH | HALF) != 0 {
        for (entry, key) in entries.iter_mut().zip(keys) {
            if *entry >= NODE | HALF {
                *entry = finish_one(words, *key, *entry, DEPTH);
            }
        }
    }
    for (entry, inverse) in entries.iter_mut().zip(inverse) {
        let now = *entry;
        let at = target(now);
        let bitmap = words.at(at, 0);
        let run = (bitmap << (inverse >> (64 - NARROW_BITS - DEPTH) & 63)).count_ones() as usize;
        let below = half_of(words.at(at, FULL_ENTRIES / 2 + run / 2), run);
        *entry = if now & NODE == 0 { now } else { below };
        words.prefetch(target(*entry), 0);
    }
}

/// The bits that any entry has.
#[inline]
fn any_of(entries: &[u32]) -> u32 {
    entries.iter().fold(0, |any, entry| any | entry)
}

/// The rest of all ways after `depth` bits.
#[inline]
fn finish<K: Key>(words: Words<'_>, keys: &[K], entries: &mut [u32], depth: u32) {
    if any_of(entries) & NODE == 0 {
        return;
    }
    for (entry, key) in entries.iter_mut().zip(keys) {
        if *entry & NODE != 0 {
            *entry = finish_one(words, *key, *entry, depth);
        }
    }
}

/// The rest of one address's way, from the entry that it has come to after `depth` bits.
#[cold]
#[inline(never)]
fn finish_one<K: Key>(words: Words<'_>, key: K, entry: u32, depth: u32) -> u32 {
    let passed = (depth - K::FAMILY.wide_bits()) / NARROW_BITS;
    let leaf = descend(words, entry, key.after(depth), K::NARROW_LEVELS - passed as usize);
    // A way longer than the address: the words are corrupt.
    if leaf > MAX_LEAF { 0 } else { leaf }
}
