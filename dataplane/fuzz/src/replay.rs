//! The corpus and seeded mutations of it, for `cargo test`: the same inputs every run, no fuzzer needed.
//!
//! Included by the tests of other crates with `#[path]`, so it needs only the standard library.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

/// One input: its file's name, and its bytes.
pub type Input = (String, Vec<u8>);

/// The committed inputs of a target, sorted by name. Panics when there are none.
pub fn corpus(folder: &Path) -> Vec<Input> {
    let files =
        fs::read_dir(folder).unwrap_or_else(|error| panic!("corpus {}: {error}", folder.display()));
    let mut inputs: Vec<Input> = files
        .map(|file| {
            let path = file.expect("corpus entry").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            (name, fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
        })
        .collect();
    assert!(!inputs.is_empty(), "corpus {} is empty", folder.display());
    inputs.sort();
    inputs
}

/// Runs `check` on `count` mutations of the corpus. When it panics, the input is printed as hexadecimal.
pub fn mutations(corpus: &[Input], seed: u64, count: usize, mut check: impl FnMut(&[u8])) {
    let mut random = Random(seed);
    for number in 0..count {
        let (name, bytes) = &corpus[random.below(corpus.len())];
        let mut bytes = bytes.clone();
        for _ in 0..1 + random.below(6) {
            mutate(&mut bytes, corpus, &mut random);
        }
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| check(&bytes))) {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            eprintln!("mutation {number} of {name} (seed {seed}): {hex}");
            resume_unwind(panic);
        }
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 to `limit` - 1; 0 when there is nothing to choose.
    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

/// Values at which lengths, counts and checksums break.
const CORNERS: [u16; 12] = [0, 1, 2, 7, 8, 0x7f, 0xff, 0x100, 0x7fff, 0x8000, 0xfffe, 0xffff];

/// Longest input: a jumbo frame.
const MAX_LEN: usize = 9100;

fn mutate(bytes: &mut Vec<u8>, corpus: &[Input], random: &mut Random) {
    let at = random.below(bytes.len());
    let end = at + random.below(bytes.len() - at + 1);
    match random.below(9) {
        0 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << (random.next() % 8)),
        1 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte = random.next() as u8),
        2 => bytes
            .iter_mut()
            .skip(at)
            .take(1)
            .for_each(|byte| *byte = CORNERS[random.below(12)] as u8),
        3 => bytes
            .iter_mut()
            .skip(at)
            .zip(CORNERS[random.below(12)].to_be_bytes())
            .for_each(|(byte, new)| *byte = new),
        4 => bytes.truncate(at),
        5 => drop(bytes.drain(at..end)),
        6 => {
            let part = bytes[at..end].to_vec();
            bytes.splice(at..at, part);
        }
        7 => {
            let (_, other) = &corpus[random.below(corpus.len())];
            bytes.truncate(at);
            bytes.extend_from_slice(&other[at.min(other.len())..]);
        }
        _ => bytes.extend((0..random.below(40)).map(|_| random.next() as u8)),
    }
    bytes.truncate(MAX_LEN);
}
