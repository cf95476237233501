//! Strings in the segment: names of services and backends, read by people only.
//!
//! One block per service: `words | count << 32`, then each string as a 16-bit length (native end) and its bytes, packed.
//! The first is the service's key, the second its name, the others its backends' names in record order.

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

fn block_words<'a>(strings: impl Iterator<Item = &'a str>) -> (usize, u32) {
    let (mut bytes, mut count) = (0, 0);
    for string in strings {
        bytes += 2 + string.len();
        count += 1;
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
    for string in strings {
        pending.extend_from_slice(&u16::try_from(string.len()).unwrap_or(u16::MAX).to_ne_bytes());
        pending.extend_from_slice(string.as_bytes());
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
}

/// Reads the block at `at`.
pub fn read(words: Words<'_>, at: Ref) -> Strings<'_> {
    let count = if at.is_null() { 0 } else { high(words.at(at, 0)) };
    Strings { words, at, left: count, byte: 8, end: words_of(words, at) * 8 }
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
        let len =
            usize::from(u16::from_ne_bytes([self.byte_at(self.byte), self.byte_at(self.byte + 1)]));
        let start = self.byte + 2;
        if start + len > self.end {
            self.left = 0;
            return None;
        }
        self.byte = start + len;
        let bytes: Vec<u8> = (start..start + len).map(|index| self.byte_at(index)).collect();
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }
}
