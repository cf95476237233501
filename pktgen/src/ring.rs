//! AF_XDP sockets by xsk-rs, behind calls that are safe: the one module with unsafe code.
//!
//! A UMEM of its own for each socket, cut in two: the [`Sender`]'s frames and the [`Receiver`]'s. What makes the calls sound:
//!
//! - a descriptor is in one place at a time: in `free`, in `pending`, with the kernel, or (received) in `taken`
//!   while its bytes are lent to a closure; no other copy of it is used;
//! - each half takes from the kernel only addresses of its own half, and gives only such;
//! - a frame's bytes are touched only between taking its descriptor and giving it back.
//!
//! Cost: about 5 ns for each descriptor given or taken (a call through FFI), one system call for 32 frames in copy
//! mode (the kernel sends no more at once), none where the driver polls.

#![allow(unsafe_code)]

use crate::cli::ZeroCopy;
use std::io;
use std::num::NonZeroU32;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};
use xsk_rs::config::{
    BindFlags, FrameSize, Interface, LibxdpFlags, QueueSize, SocketConfig, UmemConfig,
};
use xsk_rs::socket::{RxQueue, Socket, TxQueue};
use xsk_rs::umem::frame::FrameDesc;
use xsk_rs::umem::{CompQueue, FillQueue, Umem};

/// The mark of frames that nobody counts.
pub const UNCOUNTED: u32 = u32::MAX;
/// Most frames taken from a ring at once.
pub const BURST: usize = 64;
/// How long a queue that is just being released is waited for.
const BUSY: Duration = Duration::from_secs(2);

/// How a socket is made.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Frames to send with: a power of two.
    pub tx_frames: u32,
    /// Frames to receive with: a power of two.
    pub rx_frames: u32,
    /// Bytes of a frame's chunk, 2048 or 4096; the kernel takes 256 of them.
    pub chunk: u32,
    /// The socket's mode.
    pub zero_copy: ZeroCopy,
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// Its memory.
    #[error(
        "interface {interface}: the socket's memory ({bytes} bytes): {why}; `ulimit -l` limits it without CAP_IPC_LOCK"
    )]
    Memory {
        /// The interface.
        interface: String,
        /// Its size.
        bytes: u64,
        /// The cause.
        why: String,
    },
    /// Its binding.
    #[error("interface {interface}, queue {queue}: {why}")]
    Bind {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
        /// The cause, and what to change.
        why: String,
    },
}

/// What the kernel counts for a socket (`XDP_STATISTICS`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Received and dropped: too long for a frame, or no room.
    pub rx_dropped: u64,
    /// Received and dropped: the receive ring was full.
    pub rx_ring_full: u64,
    /// The fill ring was empty.
    pub rx_fill_empty: u64,
    /// Descriptors that were refused.
    pub tx_invalid: u64,
}

/// An open socket.
pub struct Opened {
    /// Its sending half.
    pub sender: Sender,
    /// Its receiving half.
    pub receiver: Receiver,
    /// Whether it is in zero-copy mode.
    pub zero_copy: bool,
}

/// Binds a socket to a queue of an interface of the calling thread's network namespace.
pub fn open(interface: &str, queue: u32, options: &Options) -> Result<Opened, RingError> {
    let bind = |why: String| RingError::Bind { interface: interface.into(), queue, why };
    let modes: &[(BindFlags, bool)] = match options.zero_copy {
        ZeroCopy::Auto => &[(BindFlags::XDP_ZEROCOPY, true), (BindFlags::XDP_COPY, false)],
        ZeroCopy::Always => &[(BindFlags::XDP_ZEROCOPY, true)],
        ZeroCopy::Never => &[(BindFlags::XDP_COPY, false)],
    };
    let deadline = Instant::now() + BUSY;
    let mut last = None;
    for (flags, zero_copy) in modes {
        loop {
            match attempt(interface, queue, options, *flags) {
                Ok((sender, receiver)) => {
                    return Ok(Opened { sender, receiver, zero_copy: *zero_copy });
                }
                Err(Refused::Memory(why)) => {
                    let bytes =
                        u64::from(options.tx_frames + options.rx_frames) * u64::from(options.chunk);
                    return Err(RingError::Memory { interface: interface.into(), bytes, why });
                }
                // A socket that was closed a moment ago still has the queue.
                Err(Refused::Bind(Some(errno::EBUSY), _)) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(Refused::Bind(code, why)) => {
                    last = Some(explain(code, why));
                    break;
                }
            }
        }
    }
    Err(bind(last.unwrap_or_default()))
}

/// Numbers of errors, as Linux has them on all architectures that AF_XDP runs on.
mod errno {
    pub const EPERM: i32 = 1;
    pub const EBUSY: i32 = 16;
    pub const ENODEV: i32 = 19;
    pub const EINVAL: i32 = 22;
    pub const EOPNOTSUPP: i32 = 95;
}

fn explain(code: Option<i32>, why: String) -> String {
    use errno::{EBUSY, EINVAL, ENODEV, EOPNOTSUPP, EPERM};
    let hint = match code {
        Some(EPERM) => "AF_XDP needs CAP_NET_RAW: run as root or grant it",
        Some(EBUSY) => "another socket has this queue",
        Some(ENODEV) => "there is no such interface in this network namespace",
        Some(EINVAL) => {
            "there is no such queue (`ethtool -l`; a veth has as many as it was made with)"
        }
        Some(EOPNOTSUPP) => "its driver has no zero-copy mode; leave --zero-copy away",
        _ => return why,
    };
    format!("{hint} ({why})")
}

enum Refused {
    Memory(String),
    Bind(Option<i32>, String),
}

fn attempt(
    interface: &str,
    queue: u32,
    options: &Options,
    mode: BindFlags,
) -> Result<(Sender, Receiver), Refused> {
    let memory = |e: &dyn std::fmt::Display| Refused::Memory(e.to_string());
    let size = |n: u32| QueueSize::new(n).map_err(|e| memory(&e));
    let config = UmemConfig::builder()
        .frame_size(FrameSize::new(options.chunk).map_err(|e| memory(&e))?)
        .fill_queue_size(size(options.rx_frames)?)
        .comp_queue_size(size(options.tx_frames)?)
        .build()
        .map_err(|e| memory(&e))?;
    let frames = NonZeroU32::new(options.tx_frames + options.rx_frames)
        .ok_or_else(|| memory(&"no frames"))?;
    let (umem, mut descriptors) = Umem::new(config, frames, false).map_err(|e| {
        let cause = std::error::Error::source(&e).map(ToString::to_string);
        memory(&cause.unwrap_or_else(|| e.to_string()))
    })?;
    let config = SocketConfig::builder()
        .rx_queue_size(size(options.rx_frames)?)
        .tx_queue_size(size(options.tx_frames)?)
        .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
        .bind_flags(mode | BindFlags::XDP_USE_NEED_WAKEUP)
        .build();
    let name: Interface = interface
        .parse()
        .map_err(|_| Refused::Bind(None, "no interface has such a name".into()))?;
    // SAFETY: the UMEM is this socket's alone, so nothing else is bound with it; no program is loaded.
    let socket = unsafe { Socket::new(config, &umem, &name, queue) };
    let (tx, rx, rings) = socket.map_err(|e| {
        let cause = std::error::Error::source(&e).and_then(|e| e.downcast_ref::<io::Error>());
        let code = cause.and_then(io::Error::raw_os_error);
        Refused::Bind(code, cause.map_or_else(|| e.to_string(), ToString::to_string))
    })?;
    let (fill, completion) =
        rings.ok_or_else(|| Refused::Bind(None, "the kernel gave no fill ring".into()))?;
    let received = descriptors.split_off(options.tx_frames as usize);
    let chunk = options.chunk as usize;
    let border = options.tx_frames as usize * chunk;
    let sender = Sender {
        umem: umem.clone(),
        ring: tx,
        completion,
        held: vec![Held { mark: UNCOUNTED, len: 0 }; options.tx_frames as usize],
        pending: Vec::with_capacity(options.tx_frames as usize),
        free: descriptors,
        scratch: [FrameDesc::default(); BURST],
        shift: options.chunk.trailing_zeros(),
        size: options.tx_frames,
        kicks: 0,
    };
    let mut receiver = Receiver {
        umem,
        ring: rx,
        fill,
        taken: [FrameDesc::default(); BURST],
        spare: received,
        from: border,
        to: border + options.rx_frames as usize * chunk,
        chunk,
    };
    receiver.refill();
    Ok((sender, receiver))
}

/// What a frame holds that was written once: the mark of its packet, and how many bytes it had.
#[derive(Clone, Copy)]
struct Held {
    mark: u32,
    len: u32,
}

/// The half that sends.
pub struct Sender {
    umem: Umem,
    ring: TxQueue,
    completion: CompQueue,
    /// Frames that nobody has.
    free: Vec<FrameDesc>,
    /// Frames that are written and not yet in the ring.
    pending: Vec<FrameDesc>,
    scratch: [FrameDesc; BURST],
    /// For each chunk, what was written into it last.
    held: Vec<Held>,
    /// A chunk's bytes are 2 to this power.
    shift: u32,
    size: u32,
    kicks: u64,
}

impl Sender {
    /// Writes a frame to be sent: `craft` gets all of its room and answers how much it used, 0 to send nothing.
    ///
    /// False when no frame is free. `mark` comes back with the completion.
    #[inline]
    pub fn write(&mut self, mark: u32, craft: impl FnOnce(&mut [u8]) -> usize) -> bool {
        self.rewrite(mark, |out, _| craft(out))
    }

    /// As [`Sender::write`]; `craft` is told too how long the packet of the same mark is that the frame still holds, or 0. The kernel only reads frames.
    #[inline(always)]
    pub fn rewrite(&mut self, mark: u32, craft: impl FnOnce(&mut [u8], usize) -> usize) -> bool {
        let Some(mut descriptor) = self.free.pop() else { return false };
        let held = self.held.get_mut(descriptor.addr() >> self.shift);
        let before = held.as_ref().map_or(0, |h| if h.mark == mark { h.len as usize } else { 0 });
        // SAFETY: the descriptor was free, so nobody else has the frame; it is of this UMEM.
        let mut data = unsafe { self.umem.data_mut(&mut descriptor) };
        data.cursor().set_pos(usize::MAX);
        let room = data.contents_mut();
        let used = craft(room, before).min(room.len());
        data.cursor().set_pos(used);
        if let Some(held) = held {
            *held = Held { mark, len: used as u32 };
        }
        if used == 0 {
            self.free.push(descriptor);
        } else {
            self.pending.push(descriptor);
        }
        true
    }

    /// Takes up to `burst` free frames as they are, with `len` bytes of whatever is in them: the bare loop that the generator's is compared with.
    #[inline]
    pub fn take_as_is(&mut self, burst: usize, len: usize) {
        for _ in 0..burst {
            let Some(mut descriptor) = self.free.pop() else { return };
            // SAFETY: the descriptor was free, so nobody else has the frame; it is of this UMEM.
            unsafe { self.umem.data_mut(&mut descriptor) }.cursor().set_pos(len);
            self.pending.push(descriptor);
        }
    }

    /// Frames that could be written now.
    #[inline]
    pub fn room(&self) -> usize {
        self.free.len()
    }

    /// Frames that the kernel has.
    #[inline]
    pub fn in_flight(&self) -> usize {
        self.held.len() - self.free.len() - self.pending.len()
    }

    /// Hands over what was written, and asks the kernel until it has taken all; answers how many were handed over.
    #[inline]
    pub fn send(&mut self) -> io::Result<usize> {
        // SAFETY: pending frames are of this UMEM and with nobody else, and are forgotten below.
        let given = unsafe { self.ring.produce(&self.pending) };
        if given == self.pending.len() {
            self.pending.clear();
        } else {
            self.pending.drain(..given);
        }
        self.kick()?;
        Ok(given)
    }

    /// Asks the kernel to send what is in the ring: 32 frames a call in copy mode, so as often as that takes.
    #[inline]
    pub fn kick(&mut self) -> io::Result<()> {
        let mut left = self.size - self.ring.nb_free_exact();
        while left > 0 && self.ring.needs_wakeup() {
            self.kicks += 1;
            self.ring.wakeup()?;
            let now = self.size - self.ring.nb_free_exact();
            if now >= left {
                // The device takes no more for now.
                break;
            }
            left = now;
        }
        Ok(())
    }

    /// Takes back what the kernel has completed; `each` gets the marks.
    #[inline]
    pub fn reap(&mut self, mut each: impl FnMut(u32)) -> usize {
        let mut total = 0;
        loop {
            // SAFETY: what is overwritten in `scratch` was copied to `free` before; completed frames are ours again.
            let count = unsafe { self.completion.consume(&mut self.scratch) };
            for descriptor in &self.scratch[..count] {
                if let Some(held) = self.held.get(descriptor.addr() >> self.shift) {
                    each(held.mark);
                    self.free.push(*descriptor);
                }
            }
            total += count;
            if count < BURST {
                return total;
            }
        }
    }

    /// Calls of the kernel so far.
    pub fn kicks(&self) -> u64 {
        self.kicks
    }
}

/// The half that receives.
pub struct Receiver {
    umem: Umem,
    ring: RxQueue,
    fill: FillQueue,
    taken: [FrameDesc; BURST],
    /// Frames that have to go to the fill ring.
    spare: Vec<FrameDesc>,
    from: usize,
    to: usize,
    chunk: usize,
}

impl Receiver {
    /// Lends the bytes of up to [`BURST`] received frames to `each`, one after another; answers how many.
    #[inline]
    pub fn receive(&mut self, mut each: impl FnMut(&[u8])) -> usize {
        // SAFETY: what is overwritten in `taken` went to `spare` before; received frames are ours until they go to the fill ring.
        let count = unsafe { self.ring.consume(&mut self.taken) };
        for descriptor in &self.taken[..count] {
            let (addr, len) = (descriptor.addr(), descriptor.lengths().data());
            // The kernel keeps packets within a chunk of ours; what says otherwise is not looked at.
            if addr < self.from || addr + len > self.to || addr % self.chunk + len > self.chunk {
                continue;
            }
            // SAFETY: the frame is of this UMEM, within its bounds, and nobody's but ours.
            let data = unsafe { self.umem.data(descriptor) };
            each(data.contents());
            self.spare.push(*descriptor);
        }
        if count > 0 {
            self.refill();
        }
        count
    }

    fn refill(&mut self) {
        // SAFETY: spare frames are of this UMEM's receiving half, with nobody, and are forgotten below.
        let given = unsafe { self.fill.produce(&self.spare) };
        if given == self.spare.len() {
            self.spare.clear();
        } else {
            self.spare.drain(..given);
        }
        if given > 0 && self.fill.needs_wakeup() {
            // A driver that sleeps is woken by poll; what it says is asked for again with the next frames.
            let _asked = self.ring.poll(0);
        }
    }

    /// Waits until there is something to receive, a millisecond or more.
    pub fn wait(&mut self, limit: Duration) -> io::Result<bool> {
        let millis = limit.as_millis().clamp(1, 1000) as i32;
        self.ring.poll(millis)
    }

    /// What the kernel counted.
    pub fn statistics(&self) -> io::Result<Statistics> {
        let s = self.ring.fd().xdp_statistics()?;
        Ok(Statistics {
            rx_dropped: s.rx_dropped(),
            rx_ring_full: s.rx_ring_full(),
            rx_fill_empty: s.rx_fill_ring_empty_descs(),
            tx_invalid: s.tx_invalid_descs(),
        })
    }

    /// The socket, for an XSKMAP.
    pub fn socket(&self) -> &impl AsRawFd {
        self.ring.fd()
    }
}
