//! Reading shared words: the reader's only way into a segment.
//!
//! Every load is atomic, relaxed and bounds-checked; an index past the end reads 0, and 0 is
//! "nothing" in every structure of this crate. So any bytes whatever can be read: corrupt memory
//! can give a wrong answer, never undefined behaviour.

use crate::sync::{AtomicU64, Ordering};

/// Words (of 8 bytes) in one grain, the unit references count in: 16 bytes.
pub const GRAIN_WORDS: usize = 2;

/// A place in a segment, counted in grains of 16 bytes from its start (so 64 GiB can be named).
///
/// 0, the header, stands for "nothing".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct Ref(u32);

impl Ref {
    /// No place.
    pub const NULL: Self = Self(0);

    /// From the 32 bits kept in a word.
    #[inline]
    pub const fn from_raw(raw: u32) -> Self {
        Self(raw)
    }

    /// The 32 bits to keep in a word.
    #[inline]
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// Whether it names nothing.
    #[inline]
    pub const fn is_null(self) -> bool {
        self.0 == 0
    }

    /// Index of its first word.
    #[inline]
    pub const fn word(self) -> usize {
        self.0 as usize * GRAIN_WORDS
    }
}

/// What is past the end. Cold, so that a load is a comparison that is never taken, and the load.
#[cold]
const fn absent() -> u64 {
    0
}

/// A reader's view of a segment.
#[derive(Clone, Copy, Debug)]
pub struct Words<'a>(pub &'a [AtomicU64]);

impl<'a> Words<'a> {
    /// The word at `index` (0 when there is none).
    #[inline]
    pub fn load(self, index: usize) -> u64 {
        #[cfg(all(test, not(loom)))]
        touched::note(index);
        match self.0.get(index) {
            Some(word) => word.load(Ordering::Relaxed),
            None => absent(),
        }
    }

    /// Word `offset` of the block at `at`.
    #[inline]
    pub fn at(self, at: Ref, offset: usize) -> u64 {
        self.load(at.word().wrapping_add(offset))
    }

    /// The `N` words from word `offset` of the block at `at` on, found at once; `None` when they are not all there. The arena uses no
    /// block so near the end that what a block could have would not be.
    #[cfg(not(loom))]
    #[inline]
    pub fn window<const N: usize>(self, at: Ref, offset: usize) -> Option<&'a [AtomicU64; N]> {
        let first = at.word().wrapping_add(offset);
        self.0.get(first..first.wrapping_add(N))?.try_into().ok()
    }

    /// The `index`th u32 (little end first) of the block at `at`.
    #[inline]
    pub fn u32_at(self, at: Ref, index: usize) -> u32 {
        (self.at(at, index / 2) >> (index % 2 * 32)) as u32
    }

    /// The `index`th u16 (little end first) of the block at `at`.
    #[inline]
    pub fn u16_at(self, at: Ref, index: usize) -> u16 {
        (self.at(at, index / 4) >> (index % 4 * 16)) as u16
    }

    /// The `index`th byte (little end first) of the block at `at`.
    #[inline]
    pub fn u8_at(self, at: Ref, index: usize) -> u8 {
        (self.at(at, index / 8) >> (index % 8 * 8)) as u8
    }

    /// Starts loading the cache line of word `offset` of the block at `at`, wherever that is.
    #[inline]
    pub fn prefetch(self, at: Ref, offset: usize) {
        #[cfg(all(test, not(loom)))]
        touched::fetch(at.word().wrapping_add(offset));
        #[cfg(not(loom))]
        crate::shm::prefetch(self.0, at.word().wrapping_add(offset));
        #[cfg(loom)]
        let _ = (at, offset);
    }
}

/// Which cache lines a reader touches, for tests that hold a lookup to its cost model.
#[cfg(all(test, not(loom)))]
pub(crate) mod touched {
    use std::cell::RefCell;

    type Lines = RefCell<Option<Vec<usize>>>;

    thread_local! {
        static LINES: Lines = const { RefCell::new(None) };
        static FETCHED: Lines = const { RefCell::new(None) };
    }

    pub(super) fn note(word: usize) {
        LINES.with_borrow_mut(|lines| add(lines, word));
    }

    pub(super) fn fetch(word: usize) {
        FETCHED.with_borrow_mut(|lines| add(lines, word));
    }

    fn add(lines: &mut Option<Vec<usize>>, word: usize) {
        if let Some(lines) = lines
            && !lines.contains(&(word / 8))
        {
            lines.push(word / 8);
        }
    }

    /// The lines that `ask` prefetches.
    pub(crate) fn ahead(ask: impl FnOnce()) -> Vec<usize> {
        FETCHED.set(Some(Vec::new()));
        ask();
        FETCHED.take().unwrap_or_default()
    }

    /// What `look` answers, and the lines that it touched, in the order of the first touch.
    pub(crate) fn by<T>(look: impl FnOnce() -> T) -> (T, Vec<usize>) {
        LINES.set(Some(Vec::new()));
        let answer = look();
        (answer, LINES.take().unwrap_or_default())
    }
}
