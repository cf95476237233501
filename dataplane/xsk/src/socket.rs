//! An AF_XDP socket: one queue of one interface, driven by one worker.
//!
//! Decides: when to enter the kernel (once a burst to send, in copy mode until the ring is empty; to receive only
//! when it asks) and keeps the account of the chunks the kernel has. Needs an XDP program that redirects to it, see
//! [`program`](crate::program). Leaves sleeping to the caller: poll [`Socket::as_fd`](AsFd::as_fd).

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    sync::{Arc, PoisonError},
    time::Duration,
};

use arrayvec::ArrayVec;

use crate::{
    bind::{self, Bound, Rings},
    custody::Custody,
    error::Error,
    frame::Frame,
    interface::Interface,
    pool::Pool,
    syscall,
    tx::TxOffload,
    umem::Umem,
};

/// How packets cross between driver and UMEM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Zero-copy where the driver has it, else copy; [`Socket::is_zero_copy`] tells.
    #[default]
    Auto,
    /// Copy, whatever the driver has.
    Copy,
    /// Zero-copy or an error.
    ZeroCopy,
}

/// Entries of the four rings, each a power of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingSizes {
    /// Empty chunks waiting in the kernel; also the most frames the receiving side ever holds.
    pub fill: u32,
    /// Sent chunks on their way back; the kernel sends nothing while it is full.
    pub completion: u32,
    /// Received descriptors.
    pub rx: u32,
    /// Descriptors to send.
    pub tx: u32,
}

impl Default for RingSizes {
    fn default() -> Self {
        RingSizes { fill: 2048, completion: 2048, rx: 2048, tx: 2048 }
    }
}

/// `SO_PREFER_BUSY_POLL` with its two settings: the worker drives the driver's NAPI itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BusyPoll {
    /// `SO_BUSY_POLL`, in microseconds, above 0.
    pub microseconds: u32,
    /// `SO_BUSY_POLL_BUDGET`: packets a call.
    pub budget: u32,
}

/// What a socket is to be; [`SocketConfig::new`] has the defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketConfig {
    /// The interface.
    pub interface: Interface,
    /// Its queue, from 0.
    pub queue: u32,
    /// Ring sizes.
    pub rings: RingSizes,
    /// Zero-copy or copy.
    pub mode: Mode,
    /// `XDP_USE_NEED_WAKEUP`: the kernel says when it must be entered.
    pub need_wakeup: bool,
    /// Busy-poll options; none are set without.
    pub busy_poll: Option<BusyPoll>,
    /// `XDP_USE_SG`: packets larger than a chunk come and go as several descriptors.
    pub multi_buffer: bool,
    /// Packets one kick may send in copy mode, where the kernel lets us choose; at least 32, at most the tx ring.
    pub tx_budget: u32,
    /// How long to try again while the queue is busy.
    pub bind_deadline: Duration,
}

impl SocketConfig {
    /// Need-wakeup and multi-buffer on, no busy polling, zero-copy tried first, 2 s for a busy queue.
    pub fn new(interface: Interface, queue: u32) -> SocketConfig {
        SocketConfig {
            interface,
            queue,
            rings: RingSizes::default(),
            mode: Mode::Auto,
            need_wakeup: true,
            busy_poll: None,
            multi_buffer: true,
            tx_budget: 64,
            bind_deadline: Duration::from_secs(2),
        }
    }
}

/// What became of packets outside the packet path: the kernel's counters (`struct xdp_statistics`) and the socket's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Dropped by the kernel for other reasons, such as a packet too large for a chunk.
    pub rx_dropped: u64,
    /// Dropped by the kernel because a fill entry was bad.
    pub rx_invalid_descriptors: u64,
    /// Tx descriptors the kernel refused.
    pub tx_invalid_descriptors: u64,
    /// Dropped by the kernel because the rx ring was full: the worker is too slow.
    pub rx_ring_full: u64,
    /// Times the kernel found the fill ring empty: too few frames, or the worker is too slow.
    pub rx_fill_ring_empty: u64,
    /// Times the kernel found the tx ring empty.
    pub tx_ring_empty: u64,
    /// Received packets and completions refused by this crate, because their descriptor made no sense.
    pub refused: u64,
    /// Calls to send.
    pub kicks: u64,
    /// Bursts that the kernel did not take whole; the rest waits for the next flush.
    pub stalls: u64,
    /// Calls to send that failed for good, as on an interface that is down.
    pub kick_errors: u64,
}

/// Where the chunks are that the pool has not. What the kernel moves meanwhile is seen before or after.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holdings {
    /// In the fill ring.
    pub fill: u32,
    /// In the rx ring.
    pub rx: u32,
    /// In the tx ring, written or submitted.
    pub tx: u32,
    /// In the completion ring.
    pub completion: u32,
    /// In the kernel and in none of the rings.
    pub in_flight: u32,
    /// In this socket: refused chunks before they go to the fill ring, and an unfinished large packet.
    pub held: u32,
}

impl Holdings {
    /// All of them.
    pub fn total(&self) -> u32 {
        self.fill + self.rx + self.tx + self.completion + self.in_flight + self.held
    }
}

/// One queue of one interface.
#[derive(Debug)]
pub struct Socket {
    umem: Arc<Umem>,
    rings: Rings,
    /// Chunks in the fill ring, in the kernel to receive into, or in the rx ring.
    receiving: Custody,
    /// Chunks in the tx ring, in the kernel being sent, or in the completion ring.
    sending: Custody,
    /// Chunks of refused packets, for the fill ring.
    spare: Vec<Frame>,
    fill_level: u32,
    wake: Wake,
    zero_copy: bool,
    counters: Counters,
    fd: Option<OwnedFd>,
}

/// When to enter the kernel.
#[derive(Clone, Copy, Debug)]
struct Wake {
    need_wakeup: bool,
    busy_poll: bool,
    /// False where a test plays the kernel: the rings are plain memory and the fd is none of AF_XDP.
    kernel: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counters {
    refused: u64,
    kicks: u64,
    stalls: u64,
    kick_errors: u64,
}

impl Socket {
    /// Opens a socket on the queue, registering the UMEM or sharing an earlier socket's registration.
    ///
    /// # Errors
    /// One of [`Error`] for each way this fails, saying what to change.
    pub fn bind(config: &SocketConfig, umem: &Arc<Umem>) -> Result<Socket, Error> {
        let bound = bind::bind(config, umem)?;
        Ok(Socket::assemble(umem, bound, config.need_wakeup, config.busy_poll.is_some(), true))
    }

    pub(crate) fn assemble(
        umem: &Arc<Umem>,
        bound: Bound,
        need_wakeup: bool,
        busy_poll: bool,
        kernel: bool,
    ) -> Self {
        let Bound { mut rings, fd, zero_copy } = bound;
        // In zero-copy mode a driver without the offload ignores the request and sends the bad checksum.
        rings.tx.checksum = umem.has_tx_metadata() && !zero_copy;
        Socket {
            fill_level: rings.fill.0.size(),
            rings,
            receiving: Custody::new(umem.frames()),
            sending: Custody::new(umem.frames()),
            spare: Vec::new(),
            wake: Wake { need_wakeup, busy_poll, kernel },
            zero_copy,
            counters: Counters::default(),
            fd: Some(fd),
            umem: Arc::clone(umem),
        }
    }

    /// The UMEM.
    #[inline]
    pub fn umem(&self) -> &Arc<Umem> {
        &self.umem
    }

    /// Whether packets cross without a copy.
    pub fn is_zero_copy(&self) -> bool {
        self.zero_copy
    }

    /// Whether [`TxOffload::Checksum`] works here. In zero-copy mode it depends on the driver, which is not asked: no.
    pub fn has_checksum_offload(&self) -> bool {
        self.rings.tx.checksum
    }

    /// Gives the kernel at most `frames` frames to receive into, at the next [`Socket::refill`]; the fill ring's size
    /// unless set. For many sockets on few frames.
    pub fn set_fill_level(&mut self, frames: u32) {
        self.fill_level = frames.min(self.rings.fill.0.size());
    }

    /// Gives the kernel frames to receive into, from the pool.
    #[inline]
    pub fn refill(&mut self, pool: &mut Pool) {
        while let Some(frame) = self.spare.pop() {
            pool.put(frame);
        }
        self.rings.fill.top_up(&self.umem, &mut self.receiving, pool, self.fill_level);
    }

    /// Appends received packets to the burst until it is full or there are no more; returns how many.
    #[inline]
    pub fn receive<const N: usize>(&mut self, burst: &mut ArrayVec<Frame, N>) -> usize {
        let limit = burst.remaining_capacity();
        self.receive_each(limit, |frame| burst.push(frame))
    }

    /// Hands at most `limit` received packets to `accept`; returns how many.
    #[inline]
    pub fn receive_each(&mut self, limit: usize, accept: impl FnMut(Frame)) -> usize {
        let Socket { rings, umem, receiving, spare, .. } = self;
        let (packets, refused) =
            rings.rx.receive(umem, receiving, limit, accept, |frame| spare.push(frame));
        self.counters.refused += refused;
        if packets == 0 && (self.wake.busy_poll || self.rings.fill.0.needs_wakeup()) {
            self.kick_rx();
        }
        packets
    }

    /// Puts a packet into the tx ring, to go with the next [`Socket::flush`].
    ///
    /// # Errors
    /// Gives the frame back if the ring has no room, or if the packet can not be sent here: it is empty, a chain on a
    /// socket without multi-buffer, nearer to its chunk's start than the metadata is long, of another UMEM, or asks
    /// for a checksum outside its first chunk or where [`Socket::has_checksum_offload`] is false.
    #[inline]
    pub fn transmit(&mut self, frame: Frame, offload: TxOffload) -> Result<(), Frame> {
        self.rings.tx.push(&self.umem, &mut self.sending, frame, offload)
    }

    /// Submits what was put into the tx ring and, if the kernel must be told, tells it: once a burst; in copy mode,
    /// where a call sends a limited number, until the ring is empty or the kernel takes no more.
    #[inline]
    pub fn flush(&mut self) {
        let submitted = self.rings.tx.ring.submit();
        // With nothing sent and not reaped, the ring is empty and its shared line need not be touched.
        if (submitted || self.sending.count() > 0)
            && (!self.wake.need_wakeup || self.rings.tx.ring.needs_wakeup())
        {
            self.kick_tx();
        }
    }

    /// Puts the chunks of sent packets into the pool.
    #[inline]
    pub fn reap(&mut self, pool: &mut Pool) {
        if self.sending.count() > 0 {
            self.counters.refused +=
                self.rings.completion.reap(&self.umem, &mut self.sending, pool);
        }
    }

    /// Sends what is in the tx ring. A call empties it, takes some (EAGAIN: its budget is used up), takes none
    /// because something downstream is full (EAGAIN, ENOBUFS), or loses one packet downstream (EBUSY). In the last two
    /// cases the rest stays for the next flush, which leaves the receiver the time to catch up: going on would lose
    /// packet after packet at one system call each. In zero-copy mode a call only wakes the driver.
    fn kick_tx(&mut self) {
        let mut before = self.rings.tx.ring.pending();
        while before > 0 {
            self.counters.kicks += 1;
            let result = match &self.fd {
                Some(fd) if self.wake.kernel => syscall::kick_tx(fd.as_fd()),
                _ => return,
            };
            let after = self.rings.tx.ring.pending();
            if after == 0 || self.zero_copy {
                return;
            }
            match result.map_err(|error| error.raw_os_error().unwrap_or(0)) {
                Ok(()) | Err(libc::EAGAIN | libc::ENOBUFS | libc::EINTR) if after < before => {
                    before = after
                }
                Ok(()) | Err(libc::EAGAIN | libc::ENOBUFS | libc::EINTR | libc::EBUSY) => {
                    self.counters.stalls += 1;
                    return;
                }
                Err(_) => {
                    self.counters.kick_errors += 1;
                    return;
                }
            }
        }
    }

    /// Wakes the driver to look at the fill ring, or lets it poll. Its errors (an interface that is down) show in
    /// nothing being received.
    fn kick_rx(&mut self) {
        if let (true, Some(fd)) = (self.wake.kernel, &self.fd) {
            let _ = syscall::kick_rx(fd.as_fd());
        }
    }

    /// The counters of the kernel and of this socket. A system call: not for the packet path.
    ///
    /// # Errors
    /// What the kernel answers; never seen on a bound socket.
    pub fn statistics(&self) -> io::Result<Statistics> {
        let Counters { refused, kicks, stalls, kick_errors } = self.counters;
        let own = Statistics { refused, kicks, stalls, kick_errors, ..Statistics::default() };
        if !self.wake.kernel {
            return Ok(own);
        }
        let kernel: libc::xdp_statistics =
            syscall::get_option(self.as_fd(), libc::SOL_XDP, libc::XDP_STATISTICS)?;
        Ok(Statistics {
            rx_dropped: kernel.rx_dropped,
            rx_invalid_descriptors: kernel.rx_invalid_descs,
            tx_invalid_descriptors: kernel.tx_invalid_descs,
            rx_ring_full: kernel.rx_ring_full,
            rx_fill_ring_empty: kernel.rx_fill_ring_empty_descs,
            tx_ring_empty: kernel.tx_ring_empty_descs,
            ..own
        })
    }

    /// Chunks this socket and its part of the kernel have, exactly: with the pools' and those in the program's hands
    /// they make up [`Umem::frames`].
    pub fn in_kernel(&self) -> u32 {
        self.receiving.count() + self.sending.count() + self.held()
    }

    /// The same by place.
    pub fn holdings(&self) -> Holdings {
        let fill = self.rings.fill.0.occupied().min(self.receiving.count());
        let rx = self.rings.rx.occupied().min(self.receiving.count() - fill);
        let tx = self.rings.tx.ring.occupied().min(self.sending.count());
        let completion = self.rings.completion.0.occupied().min(self.sending.count() - tx);
        let in_flight = self.receiving.count() + self.sending.count() - fill - rx - tx - completion;
        Holdings { fill, rx, tx, completion, in_flight, held: self.held() }
    }

    fn held(&self) -> u32 {
        self.rings.rx.held() + self.spare.iter().map(|frame| frame.segments() as u32).sum::<u32>()
    }

    /// Closes the socket and puts every chunk it or the kernel had into the pool.
    ///
    /// In zero-copy mode the driver may write into chunks for some time after the close, so those stay out: the
    /// number of chunks lost to the UMEM is returned, 0 in copy mode.
    pub fn close(mut self, pool: &mut Pool) -> u32 {
        let (zero_copy, umem) = (self.zero_copy, Arc::clone(&self.umem));
        let mut receiving = std::mem::replace(&mut self.receiving, Custody::new(0));
        let mut sending = std::mem::replace(&mut self.sending, Custody::new(0));
        pool.extend(std::mem::take(&mut self.spare));
        if let Some(frame) = self.rings.rx.take_open() {
            pool.put(frame);
        }
        drop(self);
        if zero_copy {
            return receiving.count() + sending.count();
        }
        pool.extend(receiving.drain().chain(sending.drain()).map(|chunk| umem.fresh(chunk)));
        0
    }
}

/// A socket moves to its worker's thread; the UMEM is everybody's.
const _: () = {
    const fn is_send<T: Send>() {}
    const fn is_shared<T: Send + Sync>() {}
    is_send::<Socket>();
    is_send::<Pool>();
    is_shared::<Umem>();
    is_shared::<Frame>();
};

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_ref().expect("only drop takes the fd").as_fd()
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl Drop for Socket {
    /// Ends in an order that frees the queue: no longer a donor, then closed, then (by the fields' drop) unmapped.
    fn drop(&mut self) {
        if let Some(fd) = self.fd.take() {
            let raw = fd.as_raw_fd();
            let mut donors = self.umem.donors.lock().unwrap_or_else(PoisonError::into_inner);
            donors.retain(|donor| donor.fd != raw);
            drop(fd);
        }
        self.spare.drain(..).for_each(Frame::into_custody);
        if let Some(frame) = self.rings.rx.take_open() {
            frame.into_custody();
        }
    }
}
