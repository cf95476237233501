//! Rings in plain memory: the test plays the kernel. No root, no interface.
//!
//! Decides nothing; [`pair`] makes a [`Socket`] as good as a bound one, and the [`Kernel`] at the other end of its
//! rings, which takes and gives when the test says so, and can also misbehave.

use std::{io, os::fd::OwnedFd, sync::Arc};

use crate::{
    bind::{Bound, Rings},
    completion::Completion,
    fill::Fill,
    if_xdp::TxMetadata,
    mmap::Region,
    ring::{Consumer, Entry, Layout, Producer},
    rx::Rx,
    socket::{RingSizes, Socket},
    tx::Tx,
    umem::Umem,
};

pub use crate::if_xdp::Descriptor;

/// The kernel's end of a socket's rings.
#[derive(Debug)]
pub struct Kernel {
    umem: Arc<Umem>,
    fill: Consumer<u64>,
    rx: Producer<Descriptor>,
    tx: Consumer<Descriptor>,
    completion: Producer<u64>,
    /// Addresses taken from the fill ring.
    empty: Vec<u64>,
    /// Addresses taken from the tx ring and not completed.
    sent: Vec<u64>,
}

/// A packet the socket has sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Its bytes, over all descriptors.
    pub bytes: Vec<u8>,
    /// How many there were.
    pub descriptors: usize,
    /// Start and offset of the checksum to complete, if the packet asks for it.
    pub checksum: Option<(u16, u16)>,
}

/// A socket over rings in plain memory, with multi-buffer, and who plays the kernel.
///
/// # Panics
/// If a size is no power of two, or the machine has no memory.
pub fn pair(umem: &Arc<Umem>, sizes: RingSizes) -> (Socket, Kernel) {
    let (fill, fill_end) = (ring::<u64>(sizes.fill), sizes.fill);
    let (completion, completion_end) = (ring::<u64>(sizes.completion), sizes.completion);
    let (rx, tx) = (ring::<Descriptor>(sizes.rx), ring::<Descriptor>(sizes.tx));
    let rings = Rings {
        fill: Fill(Producer::new(Arc::clone(&fill), &LAYOUT, fill_end).expect("a power of two")),
        completion: Completion(
            Consumer::new(Arc::clone(&completion), &LAYOUT, completion_end)
                .expect("a power of two"),
        ),
        rx: Rx::new(Consumer::new(Arc::clone(&rx), &LAYOUT, sizes.rx).expect("a power of two")),
        tx: Tx {
            ring: Producer::new(Arc::clone(&tx), &LAYOUT, sizes.tx).expect("a power of two"),
            multi_buffer: true,
            checksum: false,
        },
    };
    let kernel = Kernel {
        umem: Arc::clone(umem),
        fill: Consumer::new(fill, &LAYOUT, sizes.fill).expect("a power of two"),
        rx: Producer::new(rx, &LAYOUT, sizes.rx).expect("a power of two"),
        tx: Consumer::new(tx, &LAYOUT, sizes.tx).expect("a power of two"),
        completion: Producer::new(completion, &LAYOUT, sizes.completion).expect("a power of two"),
        empty: Vec::new(),
        sent: Vec::new(),
    };
    let bound = Bound { rings, fd: eventfd().expect("an eventfd"), zero_copy: false };
    (Socket::assemble(umem, bound, true, false, false), kernel)
}

/// Something to poll that is never ready.
fn eventfd() -> io::Result<OwnedFd> {
    Ok(rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)?)
}

/// Like the kernel's (`struct xdp_ring`): each index in a cache line of its own.
const LAYOUT: Layout = Layout { producer: 0, consumer: 64, flags: 128, entries: 192 };

fn ring<T: Entry>(size: u32) -> Arc<Region> {
    Arc::new(Region::plain(LAYOUT.bytes::<T>(size)).expect("memory for a ring"))
}

impl Kernel {
    /// Takes at most `count` entries of the fill ring, to receive into later; returns how many there were.
    pub fn take_fill(&mut self, count: usize) -> usize {
        let count = count.min(self.fill.peek() as usize);
        for _ in 0..count {
            self.empty.push(self.fill.read());
        }
        self.fill.release();
        count
    }

    /// A packet arrives: it is copied into chunks of the fill ring as the kernel does, and its descriptors published.
    /// False, and the packet dropped, if there are not enough chunks or the rx ring is full.
    pub fn deliver(&mut self, packet: &[u8]) -> bool {
        let capacity = self.umem.frame_capacity();
        let needed = packet.len().div_ceil(capacity).max(1);
        self.take_fill(needed.saturating_sub(self.empty.len()));
        if self.empty.len() < needed || (self.rx.reserve(needed as u32) as usize) < needed {
            return false;
        }
        let mut parts = packet.chunks(capacity).peekable();
        while let Some((part, chunk)) = parts.next().zip(self.empty.pop()) {
            let addr = chunk + u64::from(self.umem.default_start());
            self.copy_in(addr, part);
            let options = if parts.peek().is_some() { libc::XDP_PKT_CONTD } else { 0 };
            self.rx.write(Descriptor { addr, len: part.len() as u32, options });
        }
        self.rx.submit()
    }

    /// Publishes any rx descriptor, as a kernel gone mad would. False if the ring is full.
    pub fn deliver_descriptor(&mut self, descriptor: Descriptor) -> bool {
        self.rx.reserve(1) > 0 && {
            self.rx.write(descriptor);
            self.rx.submit()
        }
    }

    /// Address of a chunk taken from the fill ring, for [`Kernel::deliver_descriptor`].
    pub fn pop_empty(&mut self) -> Option<u64> {
        self.empty.pop()
    }

    /// Takes at most `count` descriptors of the tx ring, which should be whole packets; their chunks wait for
    /// [`Kernel::complete`].
    pub fn take_sent(&mut self, count: usize) -> Vec<Sent> {
        let mut packets = Vec::new();
        let mut open: Option<Sent> = None;
        for _ in 0..count.min(self.tx.peek() as usize) {
            let descriptor = self.tx.read();
            self.sent.push(descriptor.addr);
            let mut packet = open.take().unwrap_or_else(|| Sent {
                bytes: Vec::new(),
                descriptors: 0,
                checksum: self.checksum(descriptor),
            });
            self.copy_out(descriptor, &mut packet.bytes);
            packet.descriptors += 1;
            if descriptor.options & libc::XDP_PKT_CONTD != 0 {
                open = Some(packet);
            } else {
                packets.push(packet);
            }
        }
        self.tx.release();
        packets.extend(open);
        packets
    }

    /// Gives back at most `count` chunks of what was sent; returns how many.
    pub fn complete(&mut self, count: usize) -> usize {
        let count = count.min(self.sent.len()).min(self.completion.reserve(count as u32) as usize);
        for addr in self.sent.drain(..count) {
            self.completion.write(addr);
        }
        self.completion.submit();
        count
    }

    /// Publishes any completion, as a kernel gone mad would. False if the ring is full.
    pub fn complete_address(&mut self, addr: u64) -> bool {
        self.completion.reserve(1) > 0 && {
            self.completion.write(addr);
            self.completion.submit()
        }
    }

    /// Asks to be woken, or not, to send (the tx ring's flag).
    pub fn ask_wakeup(&self, needed: bool) {
        self.tx.set_needs_wakeup(needed);
    }

    fn copy_in(&self, addr: u64, bytes: &[u8]) {
        let at = self.range(addr, bytes.len());
        // SAFETY: `range` is inside the UMEM, and the chunk is in the kernel's hands, which are ours: no token of it
        // exists.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), at, bytes.len()) };
    }

    fn copy_out(&self, descriptor: Descriptor, into: &mut Vec<u8>) {
        let at = self.range(descriptor.addr, descriptor.len as usize);
        // SAFETY: as in `copy_in`.
        into.extend_from_slice(unsafe { std::slice::from_raw_parts(at, descriptor.len as usize) });
    }

    fn checksum(&self, descriptor: Descriptor) -> Option<(u16, u16)> {
        if descriptor.options & libc::XDP_TX_METADATA == 0 {
            return None;
        }
        let len = size_of::<TxMetadata>();
        let at = self.range(descriptor.addr - len as u64, len).cast::<TxMetadata>();
        // SAFETY: as in `copy_in`; plain integers, perhaps unaligned.
        let metadata = unsafe { at.read_unaligned() };
        (metadata.flags == u64::from(libc::XDP_TXMD_FLAGS_CHECKSUM))
            .then_some((metadata.csum_start, metadata.csum_offset))
    }

    /// Address of a range that must lie in one chunk.
    fn range(&self, addr: u64, len: usize) -> *mut u8 {
        let (chunk, start) = self.umem.split(addr);
        assert!(chunk < u64::from(self.umem.frames()), "address {addr:#x} outside the UMEM");
        assert!(
            start as usize + len <= self.umem.chunk_size() as usize,
            "{len} bytes at {addr:#x} leave their chunk"
        );
        // SAFETY: in bounds, as just seen.
        unsafe { self.umem.base().as_ptr().add(addr as usize) }
    }
}
