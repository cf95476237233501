//! Strings in the segment: names of services and backends, read by people only.
//!
//! One block per service: `words | count << 32`, then the strings, packed: a byte that says how many bytes are those of the string
//! before, the number of others in 16 bits (native end), and these. The first string is the service's key, the second its name, the
//! others its backends' names in record order. Pods of one service have names that differ in their last characters: 10 names of
//! 40 characters take 160 bytes instead of 420.
//!
//! Cost: strings are read one after the other, a byte at a time; nothing on a packet's way does.

use crate::{
    arena::{Arena, Table},
    error::Error,
    layout::{high, low, pack},
    words::{Ref, Words},
};

/// Words of a block of strings, given by its own first word (bounded by the segment).
pub fn words_of(words: Words<'_>, at: Ref) -> usize {
    (low(words.at(at, 0)).raw() as usize).min(words.0.len())
}

/// Bytes in front of each string's own.
const HEAD: usize = 3;

/// How many bytes `string` shares with the one before, as far as a byte can say.
fn shared(before: &str, string: &str) -> usize {
    let both = before.bytes().zip(string.bytes()).take(usize::from(u8::MAX));
    both.take_while(|(a, b)| a == b).count()
}

fn block_words<'a>(strings: impl Iterator<Item = &'a str>) -> (usize, u32) {
    let (mut bytes, mut count, mut before) = (0, 0, "");
    for string in strings {
        bytes += HEAD + string.len() - shared(before, string);
        count += 1;
        before = string;
    }
    (1 + bytes.div_ceil(8), count)
}

/// Bytes that [`write`] will allocate.
pub fn bytes_of<'a>(strings: impl Iterator<Item = &'a str>) -> u64 {
    Arena::bytes_of(block_words(strings).0)
}

/// Writes strings of less than 64 KiB each.
pub fn write<'a>(
    arena: &mut Arena,
    strings: impl Iterator<Item = &'a str> + Clone,
) -> Result<Ref, Error> {
    let (words, count) = block_words(strings.clone());
    let at = arena.alloc(Table::Names, words)?;
    let len = u32::try_from(words).unwrap_or(u32::MAX);
    arena.store(at, 0, pack(Ref::from_raw(len), count));
    let mut pending = Vec::with_capacity(words * 8);
    let mut before = "";
    for string in strings {
        let shared = shared(before, string);
        let own = &string.as_bytes()[shared..];
        pending.push(u8::try_from(shared).unwrap_or(0));
        pending.extend_from_slice(&u16::try_from(own.len()).unwrap_or(u16::MAX).to_ne_bytes());
        pending.extend_from_slice(own);
        before = string;
    }
    store_bytes(arena, at, 1, &pending);
    Ok(at)
}

/// Stores bytes from word `offset` of a block on, the last word filled up with zeros.
pub fn store_bytes(arena: &mut Arena, at: Ref, offset: usize, bytes: &[u8]) {
    for (index, chunk) in bytes.chunks(8).enumerate() {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        arena.store(at, offset + index, u64::from_ne_bytes(word));
    }
}

/// `len` bytes from word `offset` of a block on.
pub fn load_bytes(words: Words<'_>, at: Ref, offset: usize, len: usize) -> Vec<u8> {
    (0..len.div_ceil(8))
        .flat_map(|index| words.at(at, offset + index).to_ne_bytes())
        .take(len)
        .collect()
}

/// The strings of a block, at most as many as it can hold.
#[derive(Clone, Debug)]
pub struct Strings<'a> {
    words: Words<'a>,
    at: Ref,
    left: u32,
    byte: usize,
    end: usize,
    before: Vec<u8>,
}

/// Reads the block at `at`.
pub fn read(words: Words<'_>, at: Ref) -> Strings<'_> {
    let left = if at.is_null() { 0 } else { high(words.at(at, 0)) };
    Strings { words, at, left, byte: 8, end: words_of(words, at) * 8, before: Vec::new() }
}

impl Strings<'_> {
    fn byte_at(&self, index: usize) -> u8 {
        self.words.at(self.at, index / 8).to_ne_bytes()[index % 8]
    }
}

impl Iterator for Strings<'_> {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        self.left = self.left.checked_sub(1)?;
        let [shared, low, high] = std::array::from_fn(|i| self.byte_at(self.byte + i));
        let start = self.byte + HEAD;
        let end = start + usize::from(u16::from_ne_bytes([low, high]));
        if end > self.end {
            self.left = 0;
            return None;
        }
        self.byte = end;
        self.before.truncate(shared.into());
        for index in start..end {
            self.before.push(self.byte_at(index));
        }
        Some(String::from_utf8_lossy(&self.before).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::{bytes_of, read, write};
    use crate::{
        arena::Arena,
        shm::{Seals, Segment},
    };
    use proptest::prelude::*;
    use std::sync::Arc;

    proptest! {
        #[test]
        fn what_was_written_is_read(
            strings in prop::collection::vec("(web-){0,80}[a-cü]{0,4}", 0..20),
        ) {
            let segment = Segment::create("test", 1 << 20, Seals::OneWriter).unwrap();
            let mut arena = Arena::new(Arc::new(segment), 4096);
            let written = || strings.iter().map(String::as_str);
            let before = arena.usage().live();
            let at = write(&mut arena, written()).unwrap();
            prop_assert_eq!(arena.usage().live() - before, bytes_of(written()));
            prop_assert_eq!(read(arena.words(), at).collect::<Vec<_>>(), strings);
        }
    }
}
