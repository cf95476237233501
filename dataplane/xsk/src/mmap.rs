//! Memory: the memfd of a UMEM, and mappings that are unmapped when their last owner goes.
//!
//! Decides: that every mapping is shared, readable and writable, and faulted in at once. Needs an fd or nothing.
//! Rings must be unmapped for their socket to go: the mapping holds the socket open, and with it the queue.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
    ptr::NonNull,
};

use rustix::fs::{MemfdFlags, SealFlags};

use crate::{error::Error, umem::PageSize};

/// A shared mapping of `len` bytes, page-aligned.
#[derive(Debug)]
pub(crate) struct Region {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: a Region is an address and a length; what may be read or written there, and by whom, is decided by the
// types that hold it (frames in the UMEM, cursors in a ring).
unsafe impl Send for Region {}
// SAFETY: as above; Region itself only gives out raw pointers.
unsafe impl Sync for Region {}

impl Region {
    /// Maps `len` bytes of `fd` from `offset`.
    pub(crate) fn of(fd: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<Region> {
        Region::map(fd.as_raw_fd(), libc::MAP_SHARED | libc::MAP_POPULATE, offset, len)
    }

    /// Maps `len` bytes of zeroed memory that no kernel object stands behind.
    pub(crate) fn plain(len: usize) -> io::Result<Region> {
        Region::map(-1, libc::MAP_SHARED | libc::MAP_ANONYMOUS, 0, len)
    }

    fn map(fd: i32, flags: i32, offset: u64, len: usize) -> io::Result<Region> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: no address is asked for, so no existing mapping is replaced.
        let base = unsafe {
            libc::mmap(std::ptr::null_mut(), len, protection, flags, fd, offset as libc::off_t)
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base =
            NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mmap returned address 0"))?;
        Ok(Region { base, len })
    }

    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: exactly the range that `map` got; whoever held pointers into it held this Region too.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// A memfd of `bytes`, which nobody can make smaller (a reader would be killed) or larger.
pub(crate) fn make_memory(pages: PageSize, bytes: usize) -> Result<OwnedFd, Error> {
    let mut flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    if pages == PageSize::Huge {
        flags |= MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
    }
    let make = || {
        let fd = rustix::fs::memfd_create(c"millrace-umem", flags)?;
        rustix::fs::ftruncate(&fd, bytes as u64)?;
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok(fd)
    };
    make().map_err(|source: rustix::io::Errno| no_memory(pages, bytes, source.into()))
}

/// Why there is no memory, by the pages it should be of.
pub(crate) fn no_memory(pages: PageSize, bytes: usize, source: io::Error) -> Error {
    match pages {
        PageSize::Small => Error::Memory { bytes, source },
        PageSize::Huge => Error::HugePages { pages: bytes >> 21, source },
    }
}
