//! The UMEM: one memfd cut into chunks, the memory every packet lives in.
//!
//! Decides: the layout of a chunk, and who may touch which bytes. Needs a token ([`Frame`]) for every access.
//! Leaves to [`socket`](crate::socket) the registration with the kernel: the same UMEM serves any number of sockets.
//!
//! A chunk, from its first byte (the numbers are those of the defaults):
//!
//! ```text
//! 0             headroom   headroom + 256                                          chunk_size
//! |-- headroom --|-- kernel's 256 --|------------------- packet -------------------|
//!                     ... [metadata] ^ start: moves back to prepend, forward to strip
//! ```
//!
//! The metadata is the [`TX_METADATA_LEN`] bytes right before `start`, wherever that is; with it, `start` never comes
//! nearer than that to the chunk's first byte.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    ptr::NonNull,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
};

use rustix::fs::{MemfdFlags, SealFlags};

use crate::{
    bind::Donor,
    error::Error,
    frame::{Frame, MAX_SEGMENTS},
    if_xdp::{TX_METADATA_LEN, TxMetadata, XDP_PACKET_HEADROOM},
    mmap::Region,
    pool::Pool,
};

/// Size of the pages the UMEM is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PageSize {
    /// 4 KiB.
    #[default]
    Small,
    /// 2 MiB, from the kernel's reserve (`vm.nr_hugepages`): fewer TLB misses.
    Huge,
}

/// What a UMEM is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UmemConfig {
    /// Number of chunks.
    pub frames: u32,
    /// Bytes of a chunk: 2048 or 4096.
    pub chunk_size: u32,
    /// Bytes kept free before a packet, beyond the kernel's 256: room to prepend headers.
    pub headroom: u32,
    /// Pages to use.
    pub pages: PageSize,
    /// Whether frames can ask for a checksum on transmission ([`TxOffload`](crate::TxOffload)); Linux 6.11.
    pub tx_metadata: bool,
}

impl Default for UmemConfig {
    fn default() -> Self {
        UmemConfig {
            frames: 8192,
            chunk_size: 4096,
            headroom: 0,
            pages: PageSize::Small,
            tx_metadata: true,
        }
    }
}

/// The following chunk of a chain: where the packet goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) chunk: u32,
    pub(crate) start: u16,
    pub(crate) len: u16,
}

/// The memory of all packets of a process (or of one NUMA node of it).
#[derive(Debug)]
pub struct Umem {
    /// Distinguishes the frames of this UMEM from those of any other of this process.
    id: u32,
    memory: Region,
    fd: OwnedFd,
    frames: u32,
    chunk_shift: u32,
    headroom: u32,
    metadata_len: u32,
    /// For each chunk of a chain the one after it, packed by [`pack`]. Read and written only by who owns the chain,
    /// so Relaxed is enough: a token that changes threads takes its ordering from what carried it.
    links: Box<[AtomicU64]>,
    /// Sockets whose kernel-side registration a new socket can share.
    pub(crate) donors: Mutex<Vec<Donor>>,
}

fn pack(segment: Segment) -> u64 {
    u64::from(segment.chunk) << 32 | u64::from(segment.start) << 16 | u64::from(segment.len)
}

fn unpack(link: u64) -> Segment {
    Segment { chunk: (link >> 32) as u32, start: (link >> 16) as u16, len: link as u16 }
}

/// Ids are never used twice, or a frame that outlived its UMEM would be taken for one of its successor's.
fn next_id() -> Result<u32, Error> {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    NEXT.fetch_update(Relaxed, Relaxed, |id| id.checked_add(1)).map_err(|_| {
        Error::UmemConfig("this process has made four thousand million of them".into())
    })
}

impl Umem {
    /// Makes the memory and the token of every chunk in it. Needs no privilege; `pages: Huge` needs reserved pages.
    ///
    /// # Errors
    /// [`Error::UmemConfig`] for sizes the kernel would refuse, [`Error::Memory`], [`Error::HugePages`].
    pub fn new(config: &UmemConfig) -> Result<(Arc<Umem>, Vec<Frame>), Error> {
        let bytes = check(config)?;
        let fd = make_memory(config.pages, bytes)?;
        let umem = Umem::map(fd, config, bytes)?;
        let frames = (0..umem.frames).map(|chunk| umem.fresh(chunk)).collect();
        Ok((Arc::new(umem), frames))
    }

    /// Maps a memfd of [`make_memory`], this process's or one that was handed over.
    fn map(fd: OwnedFd, config: &UmemConfig, bytes: usize) -> Result<Umem, Error> {
        let memory = Region::of(fd.as_fd(), 0, bytes)
            .map_err(|source| no_memory(config.pages, bytes, source))?;
        Ok(Umem {
            id: next_id()?,
            memory,
            fd,
            frames: config.frames,
            chunk_shift: config.chunk_size.trailing_zeros(),
            headroom: config.headroom,
            metadata_len: if config.tx_metadata { TX_METADATA_LEN } else { 0 },
            links: (0..config.frames).map(|_| AtomicU64::new(0)).collect(),
            donors: Mutex::new(Vec::new()),
        })
    }

    /// The memfd, sealed against any change of size. A process that maps it sees every packet.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Number of chunks.
    #[inline]
    pub fn frames(&self) -> u32 {
        self.frames
    }

    /// Bytes of a chunk.
    #[inline]
    pub fn chunk_size(&self) -> u32 {
        1 << self.chunk_shift
    }

    /// Bytes of the whole UMEM, rounded up to its pages.
    pub fn bytes_total(&self) -> usize {
        self.memory.len()
    }

    /// Where a fresh frame's packet starts in its chunk, the same as the kernel's for a received one.
    #[inline]
    pub fn default_start(&self) -> u16 {
        (self.headroom + XDP_PACKET_HEADROOM) as u16
    }

    /// Most bytes of a packet that a fresh frame holds, and that the kernel puts into one chunk.
    #[inline]
    pub fn frame_capacity(&self) -> usize {
        (self.chunk_size() - u32::from(self.default_start())) as usize
    }

    /// Whether frames of this UMEM can carry a checksum request.
    #[inline]
    pub fn has_tx_metadata(&self) -> bool {
        self.metadata_len != 0
    }

    pub(crate) fn headroom(&self) -> u32 {
        self.headroom
    }

    pub(crate) fn metadata_len(&self) -> u32 {
        self.metadata_len
    }

    pub(crate) fn base(&self) -> NonNull<u8> {
        self.memory.base()
    }

    /// The bytes of the packet in its first chunk: all of it unless [`Frame::segments`] is above 1.
    ///
    /// # Panics
    /// If the frame is of another UMEM: a bug of the program, which no packet can cause.
    #[inline]
    pub fn bytes<'a>(&'a self, frame: &'a Frame) -> &'a [u8] {
        self.own(frame);
        // SAFETY: `own` saw that the frame is of this UMEM, so its range lies inside one chunk of the mapping; the
        // token is the only one of that chunk and is borrowed for as long as the slice lives.
        unsafe {
            std::slice::from_raw_parts(self.at(frame.chunk, frame.start), usize::from(frame.len))
        }
    }

    /// The bytes of the packet in its first chunk, to change.
    ///
    /// # Panics
    /// If the frame is of another UMEM.
    #[inline]
    pub fn bytes_mut<'a>(&'a self, frame: &'a mut Frame) -> &'a mut [u8] {
        self.own(frame);
        // SAFETY: as in `bytes`, and the token is borrowed exclusively.
        unsafe {
            std::slice::from_raw_parts_mut(
                self.at(frame.chunk, frame.start),
                usize::from(frame.len),
            )
        }
    }

    /// Every chunk's bytes of the packet, in order.
    ///
    /// # Panics
    /// If the frame is of another UMEM.
    pub fn segments<'a>(&'a self, frame: &'a Frame) -> Segments<'a> {
        self.own(frame);
        let first = Segment { chunk: frame.chunk, start: frame.start, len: frame.len };
        Segments { umem: self, frame, next: first, left: frame.segments() }
    }

    /// Calls `each` with every chunk's bytes of the packet, in order.
    ///
    /// # Panics
    /// If the frame is of another UMEM.
    pub fn for_each_segment(&self, frame: &Frame, each: impl FnMut(&[u8])) {
        self.segments(frame).for_each(each);
    }

    /// Makes a one-chunk frame `len` bytes long; what it gains is whatever was in the chunk.
    ///
    /// False, and nothing changed, if the chunk is too small or the frame is a chain.
    #[inline]
    #[must_use]
    pub fn set_len(&self, frame: &mut Frame, len: usize) -> bool {
        self.own(frame);
        let fits = usize::from(frame.start) + len <= self.chunk_size() as usize && frame.tail == 0;
        if fits {
            frame.len = len as u16;
        }
        fits
    }

    /// Moves the packet's start by `by` bytes: forward strips, backward prepends (what was there before).
    ///
    /// False, and nothing changed, if the first chunk has not the bytes or the room.
    #[inline]
    #[must_use]
    pub fn move_start(&self, frame: &mut Frame, by: i32) -> bool {
        self.own(frame);
        let start = i64::from(frame.start) + i64::from(by);
        let len = i64::from(frame.len) - i64::from(by);
        let fits = start >= i64::from(self.metadata_len)
            && len >= 0
            && start <= i64::from(self.chunk_size());
        if fits {
            frame.start = start as u16;
            frame.len = len as u16;
        }
        fits
    }

    /// Bytes by which the start can move back.
    #[inline]
    pub fn room_before(&self, frame: &Frame) -> usize {
        (u32::from(frame.start) - self.metadata_len.min(u32::from(frame.start))) as usize
    }

    /// Cuts the packet to its first `len` bytes; chunks that hold none of them any more go to the pool.
    ///
    /// False, and nothing changed, if the packet is shorter.
    #[must_use]
    pub fn truncate(&self, frame: &mut Frame, len: usize, pool: &mut Pool) -> bool {
        self.own(frame);
        if len > frame.total_len() {
            return false;
        }
        if frame.tail == 0 || len <= frame.len() {
            frame.len = len as u16;
            self.cut(frame, 0, 0, pool);
            return true;
        }
        let mut extra = 0;
        let mut left = len - frame.len();
        let mut at = frame.chunk;
        while left > 0 {
            let mut link = self.link(at);
            link.len = usize::from(link.len).min(left) as u16;
            left -= usize::from(link.len);
            self.set_link(at, link);
            at = link.chunk;
            extra += 1;
        }
        self.cut(frame, extra, (len - frame.len()) as u32, pool);
        true
    }

    /// Keeps `extra` chunks after the first, holding `rest` bytes; gives the others to the pool.
    fn cut(&self, frame: &mut Frame, extra: usize, rest: u32, pool: &mut Pool) {
        let chunks = frame.segments() - 1;
        let mut at = frame.chunk;
        for index in 0..chunks {
            let link = self.link(at);
            if index >= extra {
                pool.put(self.fresh(link.chunk));
            }
            at = link.chunk;
        }
        frame.tail = rest << 8 | extra as u32;
    }

    /// A new frame (a chain, if need be) with a copy of `packet`. None if the pool has not the chunks, or the packet
    /// is longer than [`MAX_SEGMENTS`] of them hold.
    pub fn store(&self, packet: &[u8], pool: &mut Pool) -> Option<Frame> {
        let needed = packet.len().div_ceil(self.frame_capacity()).max(1);
        if needed > MAX_SEGMENTS || needed > pool.len() {
            return None;
        }
        let (first, rest) = packet.split_at(packet.len().min(self.frame_capacity()));
        let mut chain = Chain::of(self.filled(first, pool)?);
        for part in rest.chunks(self.frame_capacity()) {
            let next = self.filled(part, pool)?;
            let _ = chain.append(self, next);
        }
        Some(chain.into_frame())
    }

    fn filled(&self, part: &[u8], pool: &mut Pool) -> Option<Frame> {
        let mut frame = pool.get()?;
        frame.len = part.len() as u16;
        self.bytes_mut(&mut frame).copy_from_slice(part);
        Some(frame)
    }

    /// Asks the processor to fetch the packet's first cache line; costs one instruction and no wait.
    #[inline]
    pub fn prefetch(&self, frame: &Frame) {
        self.own(frame);
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let pointer = self.at(frame.chunk, frame.start).cast_const().cast();
            // SAFETY: a prefetch touches no memory as far as the language is concerned.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(pointer) };
        }
    }

    /// Panics unless the frame is of this UMEM. With that its chunk and range are in bounds: only this file and the
    /// rings make frames, and check when they do.
    #[inline]
    fn own(&self, frame: &Frame) {
        assert!(self.id == frame.umem, "frame of another UMEM");
    }

    /// Address of a byte of a chunk. Callers pass a chunk below `frames`.
    #[inline]
    fn at(&self, chunk: u32, start: u16) -> *mut u8 {
        let offset = ((chunk as usize) << self.chunk_shift) + usize::from(start);
        // SAFETY: `chunk < frames` and `start <= chunk_size`, so the offset is inside the mapping or one past it.
        unsafe { self.memory.base().as_ptr().add(offset) }
    }

    /// The token of a chunk, empty. The caller must know that no other token of it exists.
    #[inline]
    pub(crate) fn fresh(&self, chunk: u32) -> Frame {
        Frame { umem: self.id, chunk, start: self.default_start(), len: 0, tail: 0 }
    }

    /// The token for a range of a chunk, of which the caller knows that no other token exists; None out of bounds.
    #[inline]
    pub(crate) fn frame_at(&self, chunk: u32, start: u32, len: u32) -> Option<Frame> {
        let fits = chunk < self.frames
            && u64::from(start) + u64::from(len) <= u64::from(self.chunk_size());
        fits.then_some(Frame {
            umem: self.id,
            chunk,
            start: start as u16,
            len: len as u16,
            tail: 0,
        })
    }

    #[inline]
    pub(crate) fn is_ours(&self, frame: &Frame) -> bool {
        self.id == frame.umem
    }

    /// Chunk and offset of an address in the UMEM; the chunk may be out of bounds.
    #[inline]
    pub(crate) fn split(&self, addr: u64) -> (u64, u32) {
        (addr >> self.chunk_shift, addr as u32 & (self.chunk_size() - 1))
    }

    /// Address in the UMEM of a byte of a chunk.
    #[inline]
    pub(crate) fn address(&self, chunk: u32, start: u16) -> u64 {
        (u64::from(chunk) << self.chunk_shift) + u64::from(start)
    }

    #[inline]
    pub(crate) fn link(&self, chunk: u32) -> Segment {
        unpack(self.links[chunk as usize].load(Relaxed))
    }

    #[inline]
    pub(crate) fn set_link(&self, chunk: u32, segment: Segment) {
        self.links[chunk as usize].store(pack(segment), Relaxed);
    }

    /// Writes a checksum request right before the packet. False if there is no room or no metadata in this UMEM.
    #[inline]
    pub(crate) fn write_metadata(&self, frame: &mut Frame, metadata: TxMetadata) -> bool {
        self.own(frame);
        if self.metadata_len == 0 || u32::from(frame.start) < self.metadata_len {
            return false;
        }
        let place = self.at(frame.chunk, frame.start - TX_METADATA_LEN as u16).cast::<TxMetadata>();
        // SAFETY: the bytes before `start` are of the same chunk, whose token is borrowed exclusively; the write may
        // be unaligned, and the type is plain integers.
        unsafe { place.write_unaligned(metadata) };
        true
    }
}

/// A packet being put together from chunks.
#[derive(Debug)]
pub(crate) struct Chain {
    head: Frame,
    last: u32,
}

impl Chain {
    #[inline]
    pub(crate) fn of(head: Frame) -> Chain {
        let last = head.chunk;
        Chain { head, last }
    }

    /// Adds a one-chunk frame at the end; gives it back if the chain is as long as a packet may be.
    #[inline]
    pub(crate) fn append(&mut self, umem: &Umem, next: Frame) -> Result<(), Frame> {
        if self.head.segments() >= MAX_SEGMENTS {
            return Err(next);
        }
        umem.set_link(self.last, Segment { chunk: next.chunk, start: next.start, len: next.len });
        self.last = next.chunk;
        self.head.tail += u32::from(next.len) << 8 | 1;
        next.into_custody();
        Ok(())
    }

    pub(crate) fn segments(&self) -> u32 {
        self.head.segments() as u32
    }

    #[inline]
    pub(crate) fn into_frame(self) -> Frame {
        self.head
    }
}

/// The chunks of one packet; see [`Umem::segments`].
#[derive(Debug)]
pub struct Segments<'a> {
    umem: &'a Umem,
    frame: &'a Frame,
    next: Segment,
    left: usize,
}

impl<'a> Iterator for Segments<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        self.left = self.left.checked_sub(1)?;
        let Segment { chunk, start, len } = self.next;
        if self.left > 0 {
            self.next = self.umem.link(chunk);
        }
        debug_assert!(self.umem.is_ours(self.frame));
        // SAFETY: the segment is the frame's first or was linked by `Chain::append` from a frame of this UMEM, so it
        // is in bounds; the chain's only token is borrowed for 'a.
        Some(unsafe { std::slice::from_raw_parts(self.umem.at(chunk, start), usize::from(len)) })
    }
}

/// The UMEM's size in bytes, or what is wrong with the configuration.
fn check(config: &UmemConfig) -> Result<usize, Error> {
    let refuse = |what: String| Err(Error::UmemConfig(what));
    if config.frames == 0 {
        return refuse("0 frames; it needs at least one".into());
    }
    if ![2048, 4096].contains(&config.chunk_size) {
        return refuse(format!("chunk size {}; the kernel takes 2048 or 4096", config.chunk_size));
    }
    // A packet of 64 bytes behind the metadata is the least that is of use.
    let most = config.chunk_size - XDP_PACKET_HEADROOM - TX_METADATA_LEN - 64;
    if config.headroom > most {
        return refuse(format!(
            "headroom {} leaves no room for a packet; at most {most}",
            config.headroom
        ));
    }
    let page = match config.pages {
        PageSize::Small => 4096,
        PageSize::Huge => 2 << 20,
    };
    let bytes = u64::from(config.frames) * u64::from(config.chunk_size);
    Ok(bytes.next_multiple_of(page) as usize)
}

/// A memfd of `bytes`, which nobody can make smaller (a reader would be killed) or larger.
fn make_memory(pages: PageSize, bytes: usize) -> Result<OwnedFd, Error> {
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

fn no_memory(pages: PageSize, bytes: usize, source: io::Error) -> Error {
    match pages {
        PageSize::Small => Error::Memory { bytes, source },
        PageSize::Huge => Error::HugePages { pages: bytes >> 21, source },
    }
}
