//! Publish, read and reclaim under every interleaving and every value a weak memory order allows (loom).
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p millrace-tables --test loom --release`
//!
//! The model runs the crate's own arena, `publish`, `ReaderEpoch` and `Epochs`. A generation is a root record of
//! two words (generation, place of a child) and a child of two words that repeat the generation. A reader that has pinned a
//! generation has to find exactly its words, whatever the writer publishes, frees and uses again meanwhile. The broken
//! variants show that the model would notice.
#![cfg(loom)]

use loom::thread;
use millrace_tables::{
    Arena, Ref, Table, Words,
    epoch::{self, HEADER_WORDS, ReaderEpoch, Slots, WAKING},
    shm::Segment,
    sync::Ordering,
};
use std::sync::Arc;

const HEADER: usize = 1024;

struct Writer {
    arena: Arena,
    root: Ref,
    child: Ref,
}

impl Writer {
    fn new() -> Self {
        let segment = Arc::new(Segment::in_process(HEADER + 2048).unwrap());
        let mut writer =
            Self { arena: Arena::new(segment, HEADER), root: Ref::NULL, child: Ref::NULL };
        writer.stage(1);
        epoch::publish(writer.arena.segment().words(), writer.root);
        writer
    }

    /// All of a publication but the store that makes it visible.
    fn stage(&mut self, generation: u64) {
        let root = self.arena.alloc(Table::Root, 2).unwrap();
        let child = self.arena.alloc(Table::Services, 2).unwrap();
        for offset in 0..2 {
            self.arena.store(child, offset, generation);
        }
        self.arena.store(root, 0, generation);
        self.arena.store(root, 1, u64::from(child.raw()));
        self.arena.free(Table::Root, self.root, 2);
        self.arena.free(Table::Services, self.child, 2);
        (self.root, self.child) = (root, child);
        self.arena.commit(generation);
    }
}

fn check(words: Words<'_>, root: Ref, generation: u64) {
    let child = Ref::from_raw(words.at(root, 1) as u32);
    for offset in 0..2 {
        assert_eq!(words.at(child, offset), generation, "a pinned generation changed");
    }
}

fn slots() -> Slots {
    let segment = Segment::in_process(epoch::bytes(1)).unwrap();
    Slots::create(Arc::new(segment), 1, 0).unwrap()
}

/// Runs the real writer against `read`, which gets the reader's slot and the tables' words.
fn against(
    publish: fn(&Writer),
    acknowledged: fn(&Slots) -> u64,
    read: fn(ReaderEpoch, &Slots, Words<'_>),
) {
    // Two publications, so that the second can use what the first set free; no bound on preemptions.
    loom::model(move || {
        let mut writer = Writer::new();
        let slots = slots();
        let (segment, theirs) = (Arc::clone(writer.arena.segment()), slots.clone());
        let reader = thread::spawn(move || {
            let epoch = theirs.reader(0).unwrap();
            read(epoch, &theirs, Words(segment.words()));
        });
        for generation in 2..=3 {
            writer.stage(generation);
            publish(&writer);
            writer.arena.reclaim(acknowledged(&slots).min(generation));
        }
        reader.join().unwrap();
    });
}

fn publish(writer: &Writer) {
    epoch::publish(writer.arena.segment().words(), writer.root);
}

fn oldest(slots: &Slots) -> u64 {
    slots.epochs().oldest()
}

#[test]
fn a_pinned_generation_stays_whole() {
    against(publish, oldest, |mut epoch, _, words| {
        let mut last = 0;
        for _ in 0..2 {
            let pin = epoch.pin(1, words);
            assert!(pin.generation >= last, "generations went back");
            last = pin.generation;
            check(words, pin.root, pin.generation);
        }
    });
}

#[test]
fn a_reader_that_sleeps_and_wakes_finds_a_whole_generation() {
    against(publish, oldest, |mut epoch, _, words| {
        for _ in 0..2 {
            let pin = epoch.pin(1, words);
            check(words, pin.root, pin.generation);
            epoch.idle();
        }
    });
}

#[test]
#[should_panic(expected = "a pinned generation changed")]
fn broken_reclaiming_without_asking_the_readers_is_noticed() {
    against(
        publish,
        |_| u64::MAX,
        |mut epoch, _, words| {
            let pin = epoch.pin(1, words);
            check(words, pin.root, pin.generation);
        },
    );
}

#[test]
#[should_panic(expected = "a pinned generation changed")]
fn broken_waking_without_the_fence_is_noticed() {
    against(publish, oldest, |_epoch, slots, words| {
        // As `ReaderEpoch::pin` does it for an idle reader, but for the fence.
        let slot = &slots.segment().words()[HEADER_WORDS];
        slot.store(WAKING, Ordering::Release);
        let root = epoch::newest(words);
        let generation = words.at(root, 0);
        slot.store(generation, Ordering::Release);
        check(words, root, generation);
    });
}

#[test]
#[should_panic(expected = "a pinned generation changed")]
fn broken_publishing_without_release_is_noticed() {
    let relaxed = |writer: &Writer| {
        let words = writer.arena.segment().words();
        words[millrace_tables::layout::header::ROOT]
            .store(u64::from(writer.root.raw()), Ordering::Relaxed);
    };
    against(relaxed, oldest, |mut epoch, _, words| {
        let pin = epoch.pin(1, words);
        check(words, pin.root, pin.generation);
    });
}
