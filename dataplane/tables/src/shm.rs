//! Shared memory: sealed memfds mapped as `&[AtomicU64]`; and memory of this process alone ([`Scratch`]), which the kernel gives
//! huge pages more readily.
//!
//! The only module of this crate with `unsafe`. It decides one thing: that a [`Segment`] is a
//! mapping whose pages can't go away while it lives (the file is sealed against shrinking, so a
//! read can't fault with SIGBUS), whose length is a whole number of words, and which is touched
//! through atomics alone. What the words mean is left to the rest of the crate.

use crate::{error::Error, sync::AtomicU64};

/// Bytes in one word.
pub const WORD: usize = 8;

#[cfg(not(loom))]
pub use mapped::{Part, Scratch, Seals, Segment};

#[cfg(not(loom))]
mod mapped {
    #![allow(unsafe_code)]

    use super::{AtomicU64, Error, WORD};
    use rustix::{
        fs::{
            MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create,
        },
        mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap},
    };
    use std::{
        ffi::c_void,
        ops::Range,
        os::fd::{AsFd, BorrowedFd, OwnedFd},
        ptr::NonNull,
        sync::Arc,
    };

    /// Bytes of a huge page.
    const HUGE_PAGE: usize = 2 << 20;

    /// Who may still map a segment for writing once it is made.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Seals {
        /// Nobody but the maker, through the mapping it already has (the tables).
        OneWriter,
        /// Whoever holds the file (the state, which a successor engine takes over).
        Shared,
    }

    /// A mapping, seen as words; unmapped when it is dropped.
    #[derive(Debug)]
    struct Mapping {
        base: NonNull<AtomicU64>,
        words: usize,
    }

    // SAFETY: the mapping is only reachable as `&[AtomicU64]`, which may be shared and sent.
    unsafe impl Send for Mapping {}
    // SAFETY: as above; the fields are never changed after construction.
    unsafe impl Sync for Mapping {}

    impl Mapping {
        /// Of `bytes` at `base`, as `mmap` has just answered. The pages must stay there until `munmap`.
        fn new(base: *mut c_void, bytes: usize) -> Result<Self, Error> {
            let base = NonNull::new(base.cast::<AtomicU64>())
                .ok_or(Error::Size { bytes: 0, want: WORD as u64 })?;
            let mapping = Self { base, words: bytes / WORD };
            mapping.prefer_huge_pages();
            Ok(mapping)
        }

        #[inline]
        fn words(&self) -> &[AtomicU64] {
            // SAFETY: `base` is page-aligned and maps `words` words for as long as `self` lives; the pages can't go away (a file
            // is sealed against shrinking: made here or checked in `checked_len`; other memory is ours alone); every bit
            // pattern is a valid AtomicU64, and whoever else has the file mapped is outside this process or uses atomics.
            unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.words) }
        }

        /// Asks for 2 MiB pages if it has that many bytes. A wish: for a file the kernel follows it where
        /// `/sys/kernel/mm/transparent_hugepage/shmem_enabled` says `advise` (or more), for other memory where `…/enabled` says `madvise`
        /// (or more), as it nearly always does. A big table is then found without a walk of page tables at each lookup.
        fn prefer_huge_pages(&self) {
            let bytes = self.words * WORD;
            if bytes >= HUGE_PAGE {
                // A kernel without huge pages refuses it, and nothing is lost.
                // SAFETY: the range is our own mapping, and the advice changes no contents.
                let _ = unsafe {
                    madvise(self.base.as_ptr().cast::<c_void>(), bytes, Advice::LinuxHugepage)
                };
            }
        }
    }

    impl Drop for Mapping {
        fn drop(&mut self) {
            // SAFETY: the mapping made by `mmap`, not reachable any more: `words` borrows `self`.
            let unmapped =
                unsafe { munmap(self.base.as_ptr().cast::<c_void>(), self.words * WORD) };
            debug_assert!(unmapped.is_ok());
        }
    }

    /// A mapped memfd, seen as words.
    #[derive(Debug)]
    pub struct Segment {
        fd: OwnedFd,
        mapping: Mapping,
        writable: bool,
    }

    impl Segment {
        /// Makes a zeroed segment of `bytes` (rounded up to whole 4 KiB pages), mapped for writing.
        ///
        /// The file is sparse: a page costs memory from its first store on.
        pub fn create(name: &str, bytes: usize, seals: Seals) -> Result<Self, Error> {
            let bytes = bytes.max(1).next_multiple_of(4096);
            let system = |what| move |source| Error::System { what, source };
            let fd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
                .map_err(system("memfd_create"))?;
            ftruncate(&fd, bytes as u64).map_err(system("ftruncate of a new segment"))?;
            let segment = Self::map(fd, bytes, true)?;
            let mut flags = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
            if seals == Seals::OneWriter {
                flags |= SealFlags::FUTURE_WRITE;
            }
            fcntl_add_seals(&segment.fd, flags).map_err(system("sealing a new segment"))?;
            Ok(segment)
        }

        /// Maps a segment received from another process, for reading.
        ///
        /// Refused when the file isn't sealed against shrinking (its owner could kill us by
        /// truncating it), or is not a whole number of words.
        pub fn open(fd: OwnedFd) -> Result<Self, Error> {
            let bytes = Self::checked_len(&fd)?;
            Self::map(fd, bytes, false)
        }

        /// Maps a received segment for writing: a successor engine taking over the state.
        pub fn open_writable(fd: OwnedFd) -> Result<Self, Error> {
            let bytes = Self::checked_len(&fd)?;
            Self::map(fd, bytes, true)
        }

        fn checked_len(fd: &OwnedFd) -> Result<usize, Error> {
            let seals = fcntl_get_seals(fd).map_err(|source| Error::System {
                what: "reading the seals of a segment (is it a memfd?)",
                source,
            })?;
            if !seals.contains(SealFlags::SHRINK | SealFlags::SEAL) {
                return Err(Error::Unsealed { seals: seals.bits() });
            }
            let stat =
                fstat(fd).map_err(|source| Error::System { what: "fstat of a segment", source })?;
            let bytes = usize::try_from(stat.st_size).unwrap_or(0);
            if bytes == 0 || !bytes.is_multiple_of(WORD) {
                return Err(Error::Size { bytes: bytes as u64, want: WORD as u64 });
            }
            Ok(bytes)
        }

        fn map(fd: OwnedFd, bytes: usize, writable: bool) -> Result<Self, Error> {
            let protection =
                if writable { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
            // SAFETY: a new mapping at an address the kernel chooses aliases nothing of ours.
            let base =
                unsafe { mmap(std::ptr::null_mut(), bytes, protection, MapFlags::SHARED, &fd, 0) }
                    .map_err(|source| Error::System { what: "mmap of a segment", source })?;
            Ok(Self { fd, mapping: Mapping::new(base, bytes)?, writable })
        }

        /// The segment's words. Stores are for the holder of a writable mapping alone: see
        /// [`Segment::is_writable`]. Loads from a read-only mapping have to be `Relaxed` (what the
        /// standard library promises to be a plain load), followed by a fence where more is needed.
        #[inline]
        pub fn words(&self) -> &[AtomicU64] {
            self.mapping.words()
        }

        /// Whether stores into [`Segment::words`] are possible (they would fault otherwise).
        pub fn is_writable(&self) -> bool {
            self.writable
        }

        /// The file, to hand to another process.
        pub fn fd(&self) -> BorrowedFd<'_> {
            self.fd.as_fd()
        }
    }

    /// Zeroed words of this process alone, for what can be made anew from a segment. Pages cost memory from their first store on.
    #[derive(Debug)]
    pub struct Scratch(Mapping);

    impl Scratch {
        /// `words` words.
        pub fn new(words: usize) -> Result<Self, Error> {
            // Whole huge pages, so that the last one can be one.
            let bytes = (words.max(1) * WORD).next_multiple_of(HUGE_PAGE);
            let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
            // SAFETY: a new mapping at an address the kernel chooses aliases nothing of ours.
            let base = unsafe {
                mmap_anonymous(
                    std::ptr::null_mut(),
                    bytes,
                    ProtFlags::READ | ProtFlags::WRITE,
                    flags,
                )
            }
            .map_err(|source| Error::System { what: "mmap of private memory", source })?;
            Mapping::new(base, bytes).map(Self)
        }
    }

    /// Who keeps a part's words mapped.
    #[derive(Clone)]
    enum Keeper {
        Segment(Arc<Segment>),
        Scratch { _scratch: Arc<Scratch> },
    }

    /// A range of words, found without asking what they are part of. It keeps that mapped.
    #[derive(Clone)]
    pub struct Part {
        keeper: Keeper,
        first: NonNull<AtomicU64>,
        words: usize,
    }

    // SAFETY: as for `Mapping`: the words are only reachable as `&[AtomicU64]`.
    unsafe impl Send for Part {}
    // SAFETY: as above; no field is changed after construction.
    unsafe impl Sync for Part {}

    impl Part {
        /// The words `range` of `segment`; `None` when it has no such words.
        pub fn new(segment: &Arc<Segment>, range: Range<usize>) -> Option<Self> {
            let words = segment.words().get(range)?;
            Some(Self::of(words, Keeper::Segment(Arc::clone(segment))))
        }

        /// The first `count` words of `scratch`; `None` when it has not so many.
        pub fn of_scratch(scratch: &Arc<Scratch>, count: usize) -> Option<Self> {
            let words = scratch.0.words().get(..count)?;
            Some(Self::of(words, Keeper::Scratch { _scratch: Arc::clone(scratch) }))
        }

        /// `words` are the keeper's.
        fn of(words: &[AtomicU64], keeper: Keeper) -> Self {
            let first = NonNull::from(words).cast::<AtomicU64>();
            Self { keeper, first, words: words.len() }
        }

        /// The words.
        #[inline]
        pub fn words(&self) -> &[AtomicU64] {
            // SAFETY: these are words of the keeper's, taken from its slice in `of`; it stays mapped where it is for as long as
            // `self.keeper` holds it.
            unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.words) }
        }

        /// Whether stores into them are possible.
        pub fn is_writable(&self) -> bool {
            match &self.keeper {
                Keeper::Segment(segment) => segment.is_writable(),
                Keeper::Scratch { .. } => true,
            }
        }
    }

    /// Which of the 16 bytes of two words (lowest first, those of `low` before those of `high`) are `byte`: a bit for each.
    #[inline]
    pub fn equal_bytes(low: u64, high: u64, byte: u8) -> u16 {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{
                _mm_cmpeq_epi8, _mm_movemask_epi8, _mm_set_epi64x, _mm_set1_epi8,
            };
            // SAFETY: SSE2 is part of x86-64, and the operands are values in registers.
            #[allow(clippy::multiple_unsafe_ops_per_block)]
            unsafe {
                let bytes = _mm_set_epi64x(high as i64, low as i64);
                _mm_movemask_epi8(_mm_cmpeq_epi8(bytes, _mm_set1_epi8(byte as i8))) as u16
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            let bytes = (u128::from(high) << 64 | u128::from(low)).to_le_bytes();
            (0..16).filter(|&at| bytes[at] == byte).map(|at| 1 << at).sum()
        }
    }

    /// Starts loading the cache line of word `index`. There need not be such a word: nothing happens then that
    /// anyone could see.
    #[inline]
    pub fn prefetch(words: &[AtomicU64], index: usize) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let word = words.as_ptr().wrapping_add(index);
            // SAFETY: SSE is part of x86-64. A prefetch reads and writes nothing and never faults, whatever the address
            // (Intel SDM volume 2, PREFETCHh), and `wrapping_add` makes a pointer to anywhere.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(word.cast::<i8>()) };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (words, index);
    }
}

#[cfg(not(loom))]
pub use mapped::{equal_bytes, prefetch};

/// Under loom a segment is a boxed slice: loom's atomics can't live in mapped memory.
#[cfg(loom)]
#[derive(Debug)]
pub struct Segment(Box<[AtomicU64]>);

#[cfg(loom)]
impl Segment {
    /// `bytes` zeroed bytes.
    pub fn in_process(bytes: usize) -> Result<Self, Error> {
        Ok(Self((0..bytes / WORD).map(|_| AtomicU64::new(0)).collect()))
    }

    /// The segment's words.
    pub fn words(&self) -> &[AtomicU64] {
        &self.0
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
