//! Looking up many addresses at once: each level's cache misses overlap.
//!
//! One pass for each level over up to [`BATCH`] addresses: a pass reads what the one before fetched, and fetches for the next.
//! An address that has got its leaf takes part in the remaining passes without effect: cheaper than to guess which those are, or to
//! sort them out. What is rare in bulk (paths, IPv6 beyond 48 bits) is looked up one by one from where it was met.
//!
//! Cost: see the table in `fib.rs`. With tables that fit the caches it is the instructions that count, so: the root is found once, a
//! narrow node's words are found at once ([`Words::window`]), and passes go by fours.

use super::{
    FULL_ENTRIES, Family, HALF, HALF_ENTRIES, Key, MAX_LEAF, NARROW_BITS, NODE, PATH, WIDE_ENTRIES,
    default, descend, half_of, lookup, target, wide, wide_word,
};
use crate::{
    sync::{AtomicU64, Ordering},
    words::Words,
};

/// Most addresses under way at once: enough to hide a miss to memory, few enough for the first-level cache and its translations.
const BATCH: usize = 64;
/// Addresses a pass takes at a time.
const FOUR: usize = 4;

/// Words of the entries of IPv4's root, and of IPv6's.
const ROOT4: usize = 512;
const ROOT6: usize = 512;
/// Bits of IPv6 before the last level that is looked up in bulk.
const LAST6: u32 = 42;
/// Words that a half node's entries and bitmap lie in.
const HALF_WORDS: usize = 1 + (1 << NARROW_BITS) / 4 + 1;
/// … and a full node's.
const FULL_WORDS: usize = 1 + (1 << NARROW_BITS) / 2 + 1;

/// [`super::lookup`] for many: `leaves[i]` becomes the leaf of `keys[i]`.
///
/// Works on as many as the shorter slice has.
pub fn lookup_many<K: Key>(words: Words<'_>, root: u32, keys: &[K], leaves: &mut [u32]) {
    let count = keys.len().min(leaves.len());
    let (keys, leaves) = (&keys[..count], &mut leaves[..count]);
    let (fours, rest) = keys.as_chunks::<FOUR>();
    let (leaf_fours, leaf_rest) = leaves.as_chunks_mut::<FOUR>();
    let batch = match K::FAMILY {
        Family::V4 => BATCH,
        Family::V6 => BATCH / 2,
    };
    let default = default(words, root);
    for (keys, leaves) in fours.chunks(batch / FOUR).zip(leaf_fours.chunks_mut(batch / FOUR)) {
        let done = match K::FAMILY {
            Family::V4 => batch4(words, root, keys, leaves),
            Family::V6 => batch6(words, root, keys, leaves),
        };
        if done.is_none() {
            leaves.as_flattened_mut().fill(if root & NODE == 0 { root } else { 0 });
        }
        for leaf in leaves.as_flattened_mut() {
            *leaf = if *leaf == 0 { default } else { *leaf };
        }
    }
    for (leaf, key) in leaf_rest.iter_mut().zip(rest) {
        *leaf = lookup(words, root, *key);
    }
}

/// The words of the root's entries.
#[inline]
fn root_of<const N: usize>(words: Words<'_>, root: u32) -> Option<&[AtomicU64; N]> {
    if root & NODE == 0 { None } else { words.window(target(root), WIDE_ENTRIES / 2) }
}

/// `None`: there is no root.
#[inline]
fn batch4<K: Key>(
    words: Words<'_>,
    root: u32,
    keys: &[[K; FOUR]],
    entries: &mut [[u32; FOUR]],
) -> Option<()> {
    let root = root_of::<ROOT4>(words, root)?;
    // The direct levels: entries become the last one's, and what they lead to is fetched.
    for (entries, keys) in entries.iter_mut().zip(keys) {
        for (entry, key) in entries.iter_mut().zip(keys) {
            let slot = key.slot(0);
            *entry = half_of(root[slot / 2].load(Ordering::Relaxed), slot);
            words.prefetch(target(*entry), wide_word(key.slot(1)));
        }
    }
    for (entries, keys) in entries.iter_mut().zip(keys) {
        for (entry, key) in entries.iter_mut().zip(keys) {
            if *entry & NODE != 0 {
                *entry = wide(words, *entry, key.slot(1));
                words.prefetch(target(*entry), 0);
            }
        }
    }
    // The level below, where nearly all of IPv4's ways end: in half nodes, whose entries are those from NODE | HALF to NODE | PATH.
    let mut any = 0;
    for (entries, keys) in entries.iter_mut().zip(keys) {
        for (entry, key) in entries.iter_mut().zip(keys) {
            if entry.wrapping_sub(NODE | HALF) < PATH - HALF {
                *entry = half(words, *entry, key.top(24) as u64);
            } else {
                any |= *entry;
            }
        }
    }
    if any & NODE != 0 {
        finish(words, keys, entries, 18);
    }
    Some(())
}

/// The entry of a half node for the slot in the lowest bits of `slot`.
#[inline]
fn half(words: Words<'_>, entry: u32, slot: u64) -> u32 {
    let Some(node) = words.window::<HALF_WORDS>(target(entry), 0) else { return absent() };
    let run = node[0].load(Ordering::Relaxed).wrapping_shr(slot as u32).count_ones();
    let word = node[HALF_ENTRIES / 4 + run as usize / 4].load(Ordering::Relaxed);
    u32::from(word.wrapping_shr(run * 16) as u16)
}

/// The entry of a node that isn't there. Cold, so that the way around it costs nothing.
#[cold]
const fn absent() -> u32 {
    0
}

/// `None`: there is no root.
#[inline]
fn batch6<K: Key>(
    words: Words<'_>,
    root: u32,
    keys: &[[K; FOUR]],
    entries: &mut [[u32; FOUR]],
) -> Option<()> {
    let root = root_of::<ROOT6>(words, root)?;
    // The direct levels, the first two in one pass: they are near.
    for (entries, keys) in entries.iter_mut().zip(keys) {
        for (entry, key) in entries.iter_mut().zip(keys) {
            let bits = key.first();
            let slot = (bits >> 54) as usize;
            let mut now = half_of(root[slot / 2].load(Ordering::Relaxed), slot);
            if now & NODE != 0 {
                now = wide(words, now, (bits << 10 >> 54) as usize);
            }
            words.prefetch(target(now), wide_word((bits << 20 >> 54) as usize));
            *entry = now;
        }
    }
    for (entries, keys) in entries.iter_mut().zip(keys) {
        for (entry, key) in entries.iter_mut().zip(keys) {
            if *entry & NODE != 0 {
                *entry = wide(words, *entry, (key.first() << 20 >> 54) as usize);
                words.prefetch(target(*entry), 0);
            }
        }
    }
    // The depths are numbers, so that the loops shift by numbers.
    narrow::<K, 30>(words, keys, entries);
    narrow::<K, 36>(words, keys, entries);
    narrow::<K, LAST6>(words, keys, entries);
    finish(words, keys, entries, LAST6 + NARROW_BITS);
    Some(())
}

/// The level after `DEPTH` bits.
#[inline]
fn narrow<K: Key, const DEPTH: u32>(
    words: Words<'_>,
    keys: &[[K; FOUR]],
    entries: &mut [[u32; FOUR]],
) {
    let any = any_of(entries);
    if any & NODE == 0 {
        return;
    }
    if any & (PATH | HALF) != 0 {
        for (entry, key) in entries.as_flattened_mut().iter_mut().zip(keys.as_flattened()) {
            if *entry >= NODE | HALF {
                *entry = finish_one(words, *key, *entry, DEPTH);
            }
        }
    }
    for (entries, keys) in entries.iter_mut().zip(keys) {
        for (entry, key) in entries.iter_mut().zip(keys) {
            let below = full(words, *entry, key.first() >> (64 - NARROW_BITS - DEPTH));
            *entry = if *entry & NODE == 0 { *entry } else { below };
            if DEPTH < LAST6 {
                words.prefetch(target(*entry), 0);
            }
        }
    }
}

/// The entry of a full node for the slot in the lowest bits of `slot`.
#[inline]
fn full(words: Words<'_>, entry: u32, slot: u64) -> u32 {
    let Some(node) = words.window::<FULL_WORDS>(target(entry), 0) else { return absent() };
    let run = node[0].load(Ordering::Relaxed).wrapping_shr(slot as u32).count_ones();
    let word = node[FULL_ENTRIES / 2 + run as usize / 2].load(Ordering::Relaxed);
    word.wrapping_shr(run * 32) as u32
}

/// The bits that any entry has.
#[inline]
fn any_of(entries: &[[u32; FOUR]]) -> u32 {
    entries.as_flattened().iter().fold(0, |any, entry| any | entry)
}

/// The rest of all ways after `depth` bits.
#[inline]
fn finish<K: Key>(words: Words<'_>, keys: &[[K; FOUR]], entries: &mut [[u32; FOUR]], depth: u32) {
    if any_of(entries) & NODE == 0 {
        return;
    }
    for (entry, key) in entries.as_flattened_mut().iter_mut().zip(keys.as_flattened()) {
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
