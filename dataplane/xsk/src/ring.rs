//! One ring shared with the kernel: two indices, a flags word and a power of two of entries.
//!
//! Decides: the memory order. A producer writes entries, then publishes its index with one Release store per burst;
//! a consumer reads the other's index with one Acquire load per burst, then the entries. Each side keeps copies of
//! both indices in its own memory and touches the shared line of the other side only when the copy says there is
//! nothing left. Source: `net/xdp/xsk_queue.h`, whose diagram has the same four barriers.
//!
//! The other side is not trusted for memory safety: entries are found by masking, and an index that is further away
//! than the ring is long counts as a full ring.

use std::{
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use crate::{if_xdp::Descriptor, mmap::Region};

/// An entry of a ring: any bytes are a legal value.
///
/// # Safety
/// The implementor promises the above, and that the type has no padding.
pub(crate) unsafe trait Entry: Copy + Default {}

// SAFETY: an integer.
unsafe impl Entry for u64 {}
// SAFETY: three integers without padding, asserted beside the type.
unsafe impl Entry for Descriptor {}

/// Where in its mapping a ring keeps its parts, in bytes (`struct xdp_ring_offset`).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub(crate) producer: u64,
    pub(crate) consumer: u64,
    pub(crate) flags: u64,
    pub(crate) entries: u64,
}

impl Layout {
    /// Bytes to map for a ring of `size` entries.
    pub(crate) fn bytes<T: Entry>(&self, size: u32) -> usize {
        self.entries as usize + size as usize * size_of::<T>()
    }
}

/// Both ends of a ring, seen from one of them.
#[derive(Debug)]
struct Shared<T> {
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    entries: NonNull<T>,
    mask: u32,
    /// Keeps the pointers above valid.
    _region: Arc<Region>,
}

// SAFETY: the pointers lead into `_region`, which moves with them; the words are atomics, and the entries are touched
// only by the one Producer or Consumer that owns this.
unsafe impl<T: Entry> Send for Shared<T> {}

impl<T: Entry> Shared<T> {
    /// None if a part lies outside the region, is misaligned, or `size` is no power of two.
    fn new(region: Arc<Region>, layout: &Layout, size: u32) -> Option<Shared<T>> {
        let word = |offset: u64| {
            let fits = offset.checked_add(4)? <= region.len() as u64 && offset.is_multiple_of(4);
            // SAFETY: the offset is inside the region, as just seen.
            fits.then(|| unsafe { region.base().add(offset as usize) }.cast::<AtomicU32>())
        };
        let end = (size as u64).checked_mul(size_of::<T>() as u64)?.checked_add(layout.entries)?;
        let aligned = layout.entries.is_multiple_of(align_of::<T>() as u64);
        if !size.is_power_of_two() || end > region.len() as u64 || !aligned {
            return None;
        }
        Some(Shared {
            producer: word(layout.producer)?,
            consumer: word(layout.consumer)?,
            flags: word(layout.flags)?,
            // SAFETY: `end`, beyond it, is inside the region.
            entries: unsafe { region.base().add(layout.entries as usize) }.cast(),
            mask: size - 1,
            _region: region,
        })
    }

    #[inline]
    fn producer(&self) -> &AtomicU32 {
        // SAFETY: checked in `new` and kept by `_region`; both sides only use it as an atomic.
        unsafe { self.producer.as_ref() }
    }

    #[inline]
    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as for `producer`.
        unsafe { self.consumer.as_ref() }
    }

    #[inline]
    fn flags(&self) -> &AtomicU32 {
        // SAFETY: as for `producer`.
        unsafe { self.flags.as_ref() }
    }

    #[inline]
    fn entry(&self, index: u32) -> *mut T {
        // SAFETY: the mask keeps the index inside the entries.
        unsafe { self.entries.as_ptr().add((index & self.mask) as usize) }
    }

    #[inline]
    fn size(&self) -> u32 {
        self.mask + 1
    }

    #[inline]
    fn needs_wakeup(&self) -> bool {
        self.flags().load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }
}

/// The end that writes entries: fill and tx rings on our side.
#[derive(Debug)]
pub(crate) struct Producer<T> {
    shared: Shared<T>,
    /// Next entry to write; ahead of the published index by what is not submitted.
    next: u32,
    /// The published index.
    published: u32,
    /// The consumer's index when last read.
    consumed: u32,
}

impl<T: Entry> Producer<T> {
    /// Goes on where the ring's indices stand, so a ring in use can be taken over.
    pub(crate) fn new(region: Arc<Region>, layout: &Layout, size: u32) -> Option<Producer<T>> {
        let shared = Shared::new(region, layout, size)?;
        let next = shared.producer().load(Ordering::Acquire);
        let consumed = shared.consumer().load(Ordering::Acquire);
        Some(Producer { shared, next, published: next, consumed })
    }

    /// Entries that can be written now: at least `wanted` if the consumer has made room for so many.
    #[inline]
    pub(crate) fn reserve(&mut self, wanted: u32) -> u32 {
        let free = self.shared.size().saturating_sub(self.next.wrapping_sub(self.consumed));
        if free >= wanted {
            return free;
        }
        self.consumed = self.shared.consumer().load(Ordering::Acquire);
        self.shared.size().saturating_sub(self.next.wrapping_sub(self.consumed))
    }

    /// Writes the next entry. The caller has reserved it.
    #[inline]
    pub(crate) fn write(&mut self, entry: T) {
        // SAFETY: the entry is in bounds; between the consumer's index and our published one plus the size, it is
        // ours alone until `submit`.
        unsafe { self.shared.entry(self.next).write(entry) };
        self.next = self.next.wrapping_add(1);
    }

    /// Publishes what was written; true if there was anything.
    #[inline]
    pub(crate) fn submit(&mut self) -> bool {
        if self.next == self.published {
            return false;
        }
        self.shared.producer().store(self.next, Ordering::Release);
        self.published = self.next;
        true
    }

    /// Entries published and not consumed yet, read now.
    #[inline]
    pub(crate) fn pending(&mut self) -> u32 {
        self.consumed = self.shared.consumer().load(Ordering::Acquire);
        self.published.wrapping_sub(self.consumed)
    }

    /// Entries written and not consumed as of now, without changing anything.
    pub(crate) fn occupied(&self) -> u32 {
        self.next.wrapping_sub(self.shared.consumer().load(Ordering::Acquire))
    }

    /// Whether the consumer asks to be woken.
    #[inline]
    pub(crate) fn needs_wakeup(&self) -> bool {
        self.shared.needs_wakeup()
    }

    #[inline]
    pub(crate) fn size(&self) -> u32 {
        self.shared.size()
    }
}

/// The end that reads entries: rx and completion rings on our side.
#[derive(Debug)]
pub(crate) struct Consumer<T> {
    shared: Shared<T>,
    /// Next entry to read; ahead of the published index by what is not released.
    next: u32,
    /// The published index.
    published: u32,
    /// The producer's index when last read.
    produced: u32,
}

impl<T: Entry> Consumer<T> {
    /// Goes on where the ring's indices stand, so a ring in use can be taken over.
    pub(crate) fn new(region: Arc<Region>, layout: &Layout, size: u32) -> Option<Consumer<T>> {
        let shared = Shared::new(region, layout, size)?;
        let next = shared.consumer().load(Ordering::Acquire);
        let produced = shared.producer().load(Ordering::Acquire);
        Some(Consumer { shared, next, published: next, produced })
    }

    /// Entries that can be read now, at most the ring's size whatever the other index says.
    #[inline]
    pub(crate) fn peek(&mut self) -> u32 {
        if self.produced == self.next {
            self.produced = self.shared.producer().load(Ordering::Acquire);
        }
        self.produced.wrapping_sub(self.next).min(self.shared.size())
    }

    /// Reads the next entry. The caller has peeked it.
    #[inline]
    pub(crate) fn read(&mut self) -> T {
        // SAFETY: the entry is in bounds, any bytes in it are a legal value, and the producer leaves it alone until
        // `release`.
        let entry = unsafe { self.shared.entry(self.next).read() };
        self.next = self.next.wrapping_add(1);
        entry
    }

    /// Gives back to the producer what was read.
    #[inline]
    pub(crate) fn release(&mut self) {
        if self.next != self.published {
            self.shared.consumer().store(self.next, Ordering::Release);
            self.published = self.next;
        }
    }

    /// Sets or clears the flag; as the kernel does at its end of a fill or tx ring.
    pub(crate) fn set_needs_wakeup(&self, needed: bool) {
        let flags = if needed { libc::XDP_RING_NEED_WAKEUP } else { 0 };
        self.shared.flags().store(flags, Ordering::Relaxed);
    }

    /// Entries produced and not released as of now, without changing anything.
    pub(crate) fn occupied(&self) -> u32 {
        self.shared
            .producer()
            .load(Ordering::Acquire)
            .wrapping_sub(self.published)
            .min(self.shared.size())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    const LAYOUT: Layout = Layout { producer: 0, consumer: 64, flags: 128, entries: 192 };

    /// Both ends of a ring whose indices begin at `first`.
    fn ring(size: u32, first: u32) -> (Producer<u64>, Consumer<u64>) {
        let region = Arc::new(Region::plain(LAYOUT.bytes::<u64>(size)).unwrap());
        let shared = Shared::<u64>::new(Arc::clone(&region), &LAYOUT, size).unwrap();
        shared.producer().store(first, Ordering::Relaxed);
        shared.consumer().store(first, Ordering::Relaxed);
        let producer = Producer::new(Arc::clone(&region), &LAYOUT, size).unwrap();
        (producer, Consumer::new(region, &LAYOUT, size).unwrap())
    }

    proptest! {
        /// The model is a queue of what was submitted, and what is not submitted or released yet.
        #[test]
        fn behaves_like_a_bounded_queue_also_where_the_indices_wrap(
            first in prop::sample::select(vec![0, u32::MAX - 3, u32::MAX - 40]),
            steps in prop::collection::vec((0..4_u8, 0..12_u32), 0..200),
        ) {
            let (mut producer, mut consumer) = ring(8, first);
            let (mut staged, mut queue, mut unreleased, mut next) = (0, VecDeque::new(), 0, 0_u64);
            for (step, count) in steps {
                match step {
                    0 => {
                        let room = 8 - staged - queue.len() - unreleased;
                        let reserved = producer.reserve(count);
                        prop_assert!(reserved as usize <= room);
                        prop_assert!(reserved >= count || reserved as usize == room);
                        for _ in 0..count.min(reserved) {
                            producer.write(next);
                            next += 1;
                            staged += 1;
                        }
                    }
                    1 => {
                        prop_assert_eq!(producer.submit(), staged > 0);
                        queue.extend(next - staged as u64..next);
                        staged = 0;
                    }
                    2 => {
                        let seen = consumer.peek();
                        prop_assert!(seen as usize <= queue.len());
                        prop_assert!(seen > 0 || queue.is_empty());
                        for _ in 0..count.min(seen) {
                            prop_assert_eq!(Some(consumer.read()), queue.pop_front());
                            unreleased += 1;
                        }
                    }
                    _ => {
                        consumer.release();
                        unreleased = 0;
                    }
                }
                prop_assert_eq!(producer.occupied() as usize, staged + queue.len() + unreleased);
            }
        }
    }

    #[test]
    fn every_entry_crosses_to_another_thread_once_and_in_order() {
        const ENTRIES: u64 = 200_000;
        let (mut producer, mut consumer) = ring(64, u32::MAX - 100);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut next = 0;
                while next < ENTRIES {
                    for _ in 0..producer.reserve(16).min(16) {
                        producer.write(next);
                        next += 1;
                    }
                    producer.submit();
                    std::thread::yield_now();
                }
            });
            let mut expected = 0;
            while expected < ENTRIES {
                for _ in 0..consumer.peek() {
                    assert_eq!(consumer.read(), expected);
                    expected += 1;
                }
                consumer.release();
                std::thread::yield_now();
            }
        });
    }

    #[test]
    fn an_index_further_away_than_the_ring_is_long_counts_as_full() {
        let (mut producer, mut consumer) = ring(8, 0);
        producer.shared.producer().store(1000, Ordering::Relaxed);
        assert_eq!(consumer.peek(), 8);
        (0..8).for_each(|_| assert_eq!(consumer.read(), 0));
        producer.shared.consumer().store(5000, Ordering::Relaxed);
        producer.next = 9000;
        assert_eq!(producer.reserve(1), 0);
    }

    #[test]
    fn a_ring_in_use_is_taken_over_where_it_stands() {
        let (mut producer, mut consumer) = ring(8, 0);
        producer.write(1);
        producer.write(2);
        producer.submit();
        assert_eq!((consumer.peek(), consumer.read()), (2, 1));
        consumer.release();
        let region = Arc::clone(&consumer.shared._region);
        drop((producer, consumer));
        let mut consumer = Consumer::<u64>::new(Arc::clone(&region), &LAYOUT, 8).unwrap();
        let mut producer = Producer::<u64>::new(region, &LAYOUT, 8).unwrap();
        assert_eq!(producer.reserve(8), 7);
        producer.write(3);
        producer.submit();
        assert_eq!((consumer.peek(), consumer.read()), (1, 2));
        assert_eq!((consumer.peek(), consumer.read()), (1, 3));
    }

    #[test]
    fn a_layout_that_leaves_the_mapping_is_refused() {
        let region = Arc::new(Region::plain(4096).unwrap());
        for layout in [
            Layout { producer: 4094, ..LAYOUT },
            Layout { flags: u64::MAX, ..LAYOUT },
            Layout { consumer: 65, ..LAYOUT },
            Layout { entries: 4096, ..LAYOUT },
            Layout { entries: 196, ..LAYOUT },
        ] {
            assert!(Shared::<u64>::new(Arc::clone(&region), &layout, 8).is_none(), "{layout:?}");
        }
        assert!(Shared::<u64>::new(Arc::clone(&region), &LAYOUT, 7).is_none());
    }
}
