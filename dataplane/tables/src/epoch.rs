//! Epochs: how the writer knows which generations are still read.
//!
//! The engine's state segment starts with one line per reader (worker, housekeeping thread, observer): the generation
//! it reads, or [`IDLE`]. Readers write their own line, the writer of the tables reads all.
//!
//! ```text
//! word 0 magic "MILLSTAT"   1 ABI   2 layout hash of the state segment   3 number of slots   4..7 the engine's
//! word 8 + 8·i   slot i: 0 generation in use (IDLE: none, WAKING: not known yet)   1 bursts   2..7 the engine's
//! ```
//!
//! # The protocol, and why it is right
//!
//! *Publish* (writer): write the new root record and all it leads to, then store the root reference with Release.
//! What generation `r` no longer needs was *retired at r*; it is reachable from roots older than `r` only.
//! *Reclaim* (writer): `fence(SeqCst)`, read all slots (Acquire); what was retired at `r` may be used again when
//! every slot is idle or holds a generation ≥ `r`.
//!
//! *Enter* (reader, once a burst):
//! - Active reader, slot = g: load the root (then an Acquire fence), read its generation `n ≥ g`, store `n` (Release). No full
//!   fence: until the store is seen the writer sees `g`, which holds back more, not less, than `n`. The
//!   Release makes the reader's loads under `g` happen before a writer's stores into the blocks that `n` sets free: a load
//!   that happens before a store can't see it.
//! - Idle reader: store WAKING (0, which holds back everything), `fence(SeqCst)`, then as above. The two fences are
//!   ordered one way or the other. Writer's first: then the reader's root load sees the root published before that
//!   fence, or a newer one; nothing reachable from it is freed by that pass, which frees only what was retired
//!   at that root's generation or before. Reader's first: the writer sees WAKING (or what came after), and frees nothing
//!   that the reader can reach. Without the fence a processor may do the load before the store is
//!   visible (x86 too: store, then load of another place), and neither sees the other.
//! - Same root as at the last enter: nothing changed, nothing is stored. The record can't have been freed and
//!   used for a newer one meanwhile: this reader's slot holds it back.
//!
//! No reader waits for anyone: a dead or slow writer costs it nothing. A dead reader holds back memory until the engine (or its
//! successor) marks its slot idle; it can't corrupt anything.
//!
//! Cost of an enter: one load when nothing changed; two loads and one store after a publication; one full fence after idling.

use crate::{
    error::Error,
    layout::header,
    shm::{Segment, WORD},
    sync::{AtomicU64, Ordering, fence},
    words::{Ref, Words},
};
use std::sync::Arc;

/// A slot whose reader uses no tables.
pub const IDLE: u64 = u64::MAX;
/// A slot whose reader is about to: holds back everything.
pub const WAKING: u64 = 0;

/// First word of a state segment: "MILLSTAT".
pub const MAGIC: u64 = u64::from_be_bytes(*b"MILLSTAT");
/// Version of the slots' layout; the rest of the state segment has its own hash.
pub const ABI: u64 = 1;
/// Words of the header in front of the slots.
pub const HEADER_WORDS: usize = 8;
/// Words of a slot: one cache line.
pub const SLOT_WORDS: usize = 8;
/// Most slots a segment may have.
pub const MAX_SLOTS: usize = 1024;

const GENERATION: usize = 0;
const BURSTS: usize = 1;

/// Bytes at the start of a state segment with `slots` slots; what follows is the engine's.
pub const fn bytes(slots: usize) -> usize {
    (HEADER_WORDS + slots * SLOT_WORDS) * WORD
}

/// Makes `root` the newest generation's. Everything it leads to was stored before.
pub fn publish(words: &[AtomicU64], root: Ref) {
    if let Some(word) = words.get(header::ROOT) {
        word.store(u64::from(root.raw()), Ordering::Release);
    }
}

/// The newest root, with everything stored before it was published visible.
///
/// A relaxed load and a fence rather than an acquire load: in a read-only mapping only relaxed
/// loads are promised to be plain loads.
#[inline]
pub fn newest(words: Words<'_>) -> Ref {
    let root = Ref::from_raw(words.load(header::ROOT) as u32);
    fence(Ordering::Acquire);
    root
}

/// The slots, as their owner, the engine, holds them.
#[derive(Clone, Debug)]
pub struct Slots {
    segment: Arc<Segment>,
    count: usize,
}

impl Slots {
    /// Writes the header and marks all slots idle, in a segment whose other readers don't exist yet
    /// (or which is being taken over: then all its former readers are gone).
    pub fn create(segment: Arc<Segment>, count: usize, layout: u64) -> Result<Self, Error> {
        let words = segment.words();
        if count > MAX_SLOTS || words.len() < HEADER_WORDS + count * SLOT_WORDS {
            return Err(Error::Size {
                bytes: (words.len() * WORD) as u64,
                want: bytes(count) as u64,
            });
        }
        for slot in 0..count {
            let base = HEADER_WORDS + slot * SLOT_WORDS;
            words[base + GENERATION].store(IDLE, Ordering::Relaxed);
            words[base + BURSTS].store(0, Ordering::Relaxed);
        }
        for (index, value) in [(1, ABI), (2, layout), (3, count as u64), (0, MAGIC)] {
            words[index].store(value, Ordering::Release);
        }
        Ok(Self { segment, count })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The state segment they are in.
    pub fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// The handle of reader `slot`. Each slot is for one reader; two handles on one would lift each other's pins.
    pub fn reader(&self, slot: usize) -> Option<ReaderEpoch> {
        (slot < self.count).then(|| ReaderEpoch {
            segment: Arc::clone(&self.segment),
            base: HEADER_WORDS + slot * SLOT_WORDS,
            pinned: None,
        })
    }

    /// The same slots, as control sees them.
    pub fn epochs(&self) -> Epochs {
        Epochs { segment: Arc::clone(&self.segment), count: self.count }
    }
}

/// What a reader pinned: valid until it enters again or goes idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin {
    /// Which tables segment, by [`crate::Tables::id`].
    pub tables: u64,
    /// The root record.
    pub root: Ref,
    /// Its generation.
    pub generation: u64,
}

/// One reader's own slot.
#[derive(Debug)]
pub struct ReaderEpoch {
    segment: Arc<Segment>,
    base: usize,
    pinned: Option<Pin>,
}

impl ReaderEpoch {
    #[inline]
    fn word(&self, offset: usize) -> Option<&AtomicU64> {
        self.segment.words().get(self.base + offset)
    }

    #[inline]
    fn set(&self, generation: u64) {
        if let Some(word) = self.word(GENERATION) {
            word.store(generation, Ordering::Release);
        }
    }

    /// Pins the newest generation of the tables segment `tables` (its number in this process) in `words`.
    /// What was pinned before is free to go.
    #[inline]
    pub fn pin(&mut self, tables: u64, words: Words<'_>) -> Pin {
        if self.pinned.is_none() {
            self.set(WAKING);
            fence(Ordering::SeqCst);
        }
        let root = newest(words);
        if let Some(pin) = self.pinned
            && pin.root == root
            && pin.tables == tables
        {
            return pin;
        }
        let generation = words.at(root, crate::layout::root::GENERATION);
        // A corrupt record must not look idle.
        self.set(generation.min(IDLE - 1));
        let pin = Pin { tables, root, generation };
        self.pinned = Some(pin);
        pin
    }

    /// Pins nothing any more: for a reader about to sleep.
    pub fn idle(&mut self) {
        if self.pinned.take().is_some() {
            self.set(IDLE);
        }
    }

    /// What is pinned.
    pub fn pinned(&self) -> Option<Pin> {
        self.pinned
    }

    /// Counts a burst (one writer, so a load and a store).
    #[inline]
    pub fn count_burst(&self) {
        if let Some(word) = self.word(BURSTS) {
            word.store(word.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        }
    }
}

impl Drop for ReaderEpoch {
    fn drop(&mut self) {
        self.idle();
    }
}

/// The slots, as the writer of the tables reads them.
#[derive(Clone, Debug)]
pub struct Epochs {
    segment: Arc<Segment>,
    count: usize,
}

impl Epochs {
    /// The slots at the start of a state segment; refused when it isn't one.
    pub fn open(segment: Arc<Segment>) -> Result<Self, Error> {
        let words = Words(segment.words());
        if words.load(0) != MAGIC {
            return Err(Error::Magic { what: "state", found: words.load(0), want: MAGIC });
        }
        fence(Ordering::Acquire);
        if words.load(1) != ABI {
            return Err(Error::Abi { what: "state", found: words.load(1), want: ABI });
        }
        let count = usize::try_from(words.load(3)).unwrap_or(usize::MAX);
        let have = segment.words().len();
        if count > MAX_SLOTS || have < HEADER_WORDS + count * SLOT_WORDS {
            return Err(Error::Size {
                bytes: (have * WORD) as u64,
                want: bytes(count.min(MAX_SLOTS)) as u64,
            });
        }
        Ok(Self { segment, count })
    }

    /// How many slots there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The layout hash that the engine gave its state segment.
    pub fn layout(&self) -> u64 {
        Words(self.segment.words()).load(2)
    }

    /// The oldest generation that is read, or [`IDLE`] when nobody reads. What was retired at it or before is free.
    pub fn oldest(&self) -> u64 {
        fence(Ordering::SeqCst);
        let words = Words(self.segment.words());
        let oldest = (0..self.count)
            .map(|slot| words.load(HEADER_WORDS + slot * SLOT_WORDS + GENERATION))
            .min()
            .unwrap_or(IDLE);
        // The relaxed loads above, made acquiring: the readers' last loads happen before our next stores.
        fence(Ordering::Acquire);
        oldest
    }

    /// The generation in use at `slot`; `None` when idle.
    pub fn generation(&self, slot: usize) -> Option<u64> {
        let value = self.slot(slot, GENERATION)?;
        (value != IDLE).then_some(value)
    }

    /// Bursts counted at `slot`.
    pub fn bursts(&self, slot: usize) -> Option<u64> {
        self.slot(slot, BURSTS)
    }

    fn slot(&self, slot: usize, offset: usize) -> Option<u64> {
        (slot < self.count)
            .then(|| Words(self.segment.words()).load(HEADER_WORDS + slot * SLOT_WORDS + offset))
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
