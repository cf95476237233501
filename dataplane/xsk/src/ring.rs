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
