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
//! The metadata is the 24 bytes (`struct xsk_tx_metadata`) right before `start`, wherever that is; with it, `start` never comes
//! nearer than that to the chunk's first byte.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    ptr::NonNull,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
};

use crate::{
    bind::Donor,
    error::Error,
    frame::Frame,
    if_xdp::{TX_METADATA_LEN, TxMetadata, XDP_PACKET_HEADROOM},
    mmap::{Region, make_memory, no_memory},
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

/// The memory of all packets of a process (or of one NUMA node of it).
pub struct Umem {
    /// Distinguishes the frames of this UMEM from those of any other of this process.
    id: u32,
    memory: Region,
    fd: OwnedFd,
    frames: u32,
    chunk_shift: u32,
    headroom: u32,
    metadata_len: u32,
    /// For each chunk of a chain the one after it, packed by [`chain`](crate::chain). Read and written only by who owns the chain,
    /// so Relaxed is enough: a token that changes threads takes its ordering from what carried it.
    pub(crate) links: Box<[AtomicU64]>,
    /// Sockets whose kernel-side registration a new socket can share.
    pub(crate) donors: Mutex<Vec<Donor>>,
}

impl std::fmt::Debug for Umem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Umem {} of {} x {} bytes", self.id, self.frames, self.chunk_size())
    }
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

    /// Asks the processor to fetch the packet's first cache line; costs one instruction and no wait.
    #[inline]
    pub fn prefetch(&self, frame: &Frame) {
        self.own(frame);
        crate::prefetch::at(self.at(frame.chunk, frame.start));
    }

    /// Panics unless the frame is of this UMEM. With that its chunk and range are in bounds: only this file and the
    /// rings make frames, and check when they do.
    #[inline]
    pub(crate) fn own(&self, frame: &Frame) {
        assert!(self.id == frame.umem, "frame of another UMEM");
    }

    /// Address of a byte of a chunk: inside the mapping, or one past it, if `chunk < frames` and
    /// `start <= chunk_size`, as in every frame.
    #[inline]
    pub(crate) fn at(&self, chunk: u32, start: u16) -> *mut u8 {
        let offset = ((chunk as usize) << self.chunk_shift) + usize::from(start);
        self.memory.base().as_ptr().wrapping_add(offset)
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
        // Not `then_some`, which would make the frame first.
        fits.then(|| Frame { umem: self.id, chunk, start: start as u16, len: len as u16, tail: 0 })
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pool::Pool;

    fn small(tx_metadata: bool) -> (Arc<Umem>, Pool) {
        let config = UmemConfig {
            frames: 8,
            chunk_size: 2048,
            headroom: 64,
            tx_metadata,
            ..UmemConfig::default()
        };
        let (umem, frames) = Umem::new(&config).unwrap();
        let pool = Pool::new(&umem, frames);
        (umem, pool)
    }

    #[test]
    fn a_fresh_frame_is_empty_and_starts_where_the_kernel_puts_packets() {
        let (umem, mut pool) = small(true);
        let frame = pool.get().unwrap();
        assert_eq!((frame.len(), frame.total_len(), frame.segments()), (0, 0, 1));
        assert_eq!(umem.room_before(&frame), 64 + 256 - 24);
        assert_eq!(umem.frame_capacity(), 2048 - 64 - 256);
        pool.put(frame);
    }

    #[test]
    fn no_two_frames_share_a_byte() {
        let (umem, mut pool) = small(false);
        let mut frames: Vec<Frame> = std::iter::from_fn(|| pool.get()).collect();
        for (index, frame) in frames.iter_mut().enumerate() {
            assert!(umem.move_start(frame, -320));
            assert!(umem.set_len(frame, 2048));
            umem.bytes_mut(frame).fill(index as u8);
        }
        for (index, frame) in frames.iter().enumerate() {
            assert!(umem.bytes(frame).iter().all(|byte| *byte == index as u8));
        }
        pool.extend(frames);
    }

    #[test]
    #[should_panic(expected = "frame of another UMEM")]
    fn a_frame_of_another_umem_is_refused() {
        let (umem, _pool) = small(false);
        let (_other, mut other_pool) = small(false);
        let frame = other_pool.get().unwrap();
        umem.bytes(&frame);
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "lost: put it into a Pool")]
    fn a_dropped_frame_is_noticed() {
        let (_umem, mut pool) = small(false);
        drop(pool.get());
    }

    #[test]
    fn configurations_the_kernel_would_refuse_are_refused_with_what_to_change() {
        let good = UmemConfig::default();
        for (config, expected) in [
            (UmemConfig { frames: 0, ..good.clone() }, "UMEM: 0 frames; it needs at least one"),
            (
                UmemConfig { chunk_size: 1500, ..good.clone() },
                "UMEM: chunk size 1500; the kernel takes 2048 or 4096",
            ),
            (
                UmemConfig { headroom: 4000, ..good.clone() },
                "UMEM: headroom 4000 leaves no room for a packet; at most 3752",
            ),
        ] {
            assert_eq!(Umem::new(&config).unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn missing_memory_says_how_much_and_what_to_do() {
        let bytes = 1 << 30;
        let source = || std::io::Error::from_raw_os_error(libc::ENOMEM);
        let huge = no_memory(PageSize::Huge, bytes, source()).to_string();
        assert!(
            huge.contains("UMEM of 512 huge pages") && huge.contains("sysctl vm.nr_hugepages=512"),
            "{huge}"
        );
        let small = no_memory(PageSize::Small, bytes, source()).to_string();
        assert!(
            small.contains("UMEM of 1073741824 bytes") && small.contains("use fewer frames"),
            "{small}"
        );
    }

    #[test]
    fn the_memfd_can_not_change_its_size() {
        let (umem, _pool) = small(false);
        for size in [0, 1 << 20] {
            assert_eq!(rustix::fs::ftruncate(umem.fd(), size), Err(rustix::io::Errno::PERM));
        }
    }

    proptest! {
        /// The model is a byte string with room before and after it.
        #[test]
        fn start_and_length_move_inside_the_chunk_only(
            metadata: bool,
            moves in prop::collection::vec((any::<bool>(), -2500_i32..2500), 1..20),
        ) {
            let (umem, mut pool) = small(metadata);
            let mut frame = pool.get().unwrap();
            let (mut start, mut len) = (320, 0);
            let least = if metadata { 24 } else { 0 };
            for (is_move, by) in moves {
                if is_move {
                    let fits = start + by >= least && len >= by;
                    prop_assert_eq!(umem.move_start(&mut frame, by), fits);
                    if fits {
                        start += by;
                        len -= by;
                    }
                } else {
                    let fits = by >= 0 && start + by <= 2048;
                    prop_assert_eq!(umem.set_len(&mut frame, by as u32 as usize), fits);
                    if fits {
                        len = by;
                    }
                }
                prop_assert_eq!(umem.bytes(&frame).len(), len as usize);
                prop_assert_eq!(umem.room_before(&frame), (start - least) as usize);
                umem.bytes_mut(&mut frame).fill(1);
            }
            pool.put(frame);
        }
    }
}
