//! The atoms that shared structures are built of.
//!
//! [`Word`] is what the protocols need of an atomic 64-bit word; `AtomicU64` is one, and so is loom's
//! (the model tests run the very code of the engine). [`Memory`] is a range of words that somebody
//! owns; [`Region`] is the one the engine uses, a part of the state segment.
//!
//! All loads are relaxed, because a read-only mapping (control, `millrace`) may be loaded in no other
//! way; where order matters the code says [`Word::fence_acquire`] after the load. On x86-64 relaxed
//! loads and both acquire fences and release stores are plain moves.

use millrace_tables::shm::{self, Part, Scratch, Segment};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

/// An atomic 64-bit word.
pub trait Word: Send + Sync + 'static {
    /// Words of tags in a bucket of an index: with those of rows a cache line, less where a model has to stay small.
    const TAG_WORDS: usize = 2;
    /// Words of rows in a bucket of an index, two slots each.
    const ROW_WORDS: usize = 6;

    /// Relaxed load.
    fn get(&self) -> u64;
    /// Relaxed store.
    fn set(&self, value: u64);
    /// Store that publishes what was stored before it.
    fn set_release(&self, value: u64);
    /// Stores `new` if the word is `current`, and says what it was; orders both ways.
    fn exchange(&self, current: u64, new: u64) -> Result<u64, u64>;
    /// Stores `new` and says what the word was; orders both ways.
    fn replace(&self, new: u64) -> u64;
    /// Adds and says what the word was; orders both ways.
    fn bump(&self, by: u64) -> u64;
    /// What was published before the stores that earlier loads saw, later loads see.
    fn fence_acquire();
    /// Earlier stores are visible before later loads are made.
    fn fence_full();
}

impl Word for AtomicU64 {
    #[inline]
    fn get(&self) -> u64 {
        AtomicU64::load(self, Ordering::Relaxed)
    }
    #[inline]
    fn set(&self, value: u64) {
        AtomicU64::store(self, value, Ordering::Relaxed);
    }
    #[inline]
    fn set_release(&self, value: u64) {
        AtomicU64::store(self, value, Ordering::Release);
    }
    #[inline]
    fn exchange(&self, current: u64, new: u64) -> Result<u64, u64> {
        AtomicU64::compare_exchange(self, current, new, Ordering::AcqRel, Ordering::Acquire)
    }
    #[inline]
    fn replace(&self, new: u64) -> u64 {
        AtomicU64::swap(self, new, Ordering::AcqRel)
    }
    #[inline]
    fn bump(&self, by: u64) -> u64 {
        AtomicU64::fetch_add(self, by, Ordering::AcqRel)
    }
    #[inline]
    fn fence_acquire() {
        fence(Ordering::Acquire);
    }
    #[inline]
    fn fence_full() {
        fence(Ordering::SeqCst);
    }
}

/// Words that somebody owns.
pub trait Memory: Clone + Send + Sync {
    /// What they are made of.
    type Word: Word;
    /// The words.
    fn words(&self) -> &[Self::Word];
    /// Starts loading the cache line of word `index`; nothing if there is none.
    fn prefetch(&self, index: usize);
}

/// A range of the state segment, or of memory of this process, which stays mapped as long as one of its regions is held.
#[derive(Clone)]
pub struct Region(Part);

impl Region {
    /// The words `range` of `segment`; `None` when it has no such words.
    pub fn new(segment: &Arc<Segment>, range: Range<usize>) -> Option<Self> {
        Part::new(segment, range).map(Self)
    }

    /// `words` zeroed words of this process alone.
    pub fn private(words: usize) -> Result<Self, millrace_tables::Error> {
        let scratch = Arc::new(Scratch::new(words)?);
        let want = (words * shm::WORD) as u64;
        let part = Part::of_scratch(&scratch, words);
        part.map(Self).ok_or(millrace_tables::Error::Size { bytes: 0, want })
    }

    /// Whether stores into it are possible.
    pub fn is_writable(&self) -> bool {
        self.0.is_writable()
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Region of {} words", self.0.words().len())
    }
}

impl Memory for Region {
    type Word = AtomicU64;

    #[inline]
    fn words(&self) -> &[AtomicU64] {
        self.0.words()
    }

    #[inline]
    fn prefetch(&self, index: usize) {
        shm::prefetch(self.0.words(), index);
    }
}

/// Loom's words, for the model tests.
#[cfg(test)]
pub(crate) mod model {
    use super::{Memory, Word};
    use loom::sync::Arc;
    use loom::sync::atomic::{AtomicU64, Ordering, fence};

    impl Word for AtomicU64 {
        const TAG_WORDS: usize = 1;
        const ROW_WORDS: usize = 1;

        fn get(&self) -> u64 {
            AtomicU64::load(self, Ordering::Relaxed)
        }
        fn set(&self, value: u64) {
            AtomicU64::store(self, value, Ordering::Relaxed);
        }
        fn set_release(&self, value: u64) {
            AtomicU64::store(self, value, Ordering::Release);
        }
        fn exchange(&self, current: u64, new: u64) -> Result<u64, u64> {
            AtomicU64::compare_exchange(self, current, new, Ordering::AcqRel, Ordering::Acquire)
        }
        fn replace(&self, new: u64) -> u64 {
            AtomicU64::swap(self, new, Ordering::AcqRel)
        }
        fn bump(&self, by: u64) -> u64 {
            AtomicU64::fetch_add(self, by, Ordering::AcqRel)
        }
        fn fence_acquire() {
            fence(Ordering::Acquire);
        }
        fn fence_full() {
            fence(Ordering::SeqCst);
        }
    }

    /// Words of one model execution.
    #[derive(Clone)]
    pub(crate) struct Cells(Arc<Vec<AtomicU64>>);

    impl Cells {
        pub(crate) fn new(words: usize) -> Self {
            Self(Arc::new((0..words).map(|_| AtomicU64::new(0)).collect()))
        }
    }

    impl Memory for Cells {
        type Word = AtomicU64;
        fn words(&self) -> &[AtomicU64] {
            &self.0
        }
        fn prefetch(&self, _index: usize) {}
    }
}
