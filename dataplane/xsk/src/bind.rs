//! Making the kernel objects of a socket: the only place that does.
//!
//! Decides: the order of calls, whether to share a registration of the UMEM or make one, zero-copy before copy, how
//! long to insist on a busy queue, and what each errno means. What it returns is file descriptors and mapped rings,
//! so that they can as well come from a process that held them. Source: `xsk_bind`, `xp_assign_dev`, `xdp_umem_reg`
//! in `net/xdp/`, Linux 6.18.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    completion::Completion,
    error::Error,
    fill::Fill,
    if_xdp::{Descriptor, XDP_MAX_TX_SKB_BUDGET},
    mmap::Region,
    ring::{Consumer, Entry, Layout, Producer},
    rx::Rx,
    socket::{Mode, SocketConfig},
    syscall,
    tx::Tx,
    umem::Umem,
};

/// A bound socket whose registration of the UMEM others can share. The kernel gives every sharer the sockets' mode
/// and flags, so only one with the same will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Donor {
    pub(crate) fd: RawFd,
    pub(crate) interface: u32,
    pub(crate) queue: u32,
    pub(crate) zero_copy: bool,
    pub(crate) need_wakeup: bool,
    pub(crate) multi_buffer: bool,
}

/// The four rings of a socket.
#[derive(Debug)]
pub(crate) struct Rings {
    pub(crate) fill: Fill,
    pub(crate) completion: Completion,
    pub(crate) rx: Rx,
    pub(crate) tx: Tx,
}

/// A bound socket.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) rings: Rings,
    pub(crate) fd: OwnedFd,
    pub(crate) zero_copy: bool,
}

/// The call that failed, and how.
#[derive(Debug)]
struct Failure {
    step: Step,
    source: io::Error,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Socket,
    Umem,
    Ring,
    BusyPoll,
    Bind,
}

impl Step {
    /// For `map_err`: this step failed.
    fn failed(self) -> impl Fn(io::Error) -> Failure {
        move |source| Failure { step: self, source }
    }
}

impl Failure {
    fn is(&self, errno: i32) -> bool {
        self.source.raw_os_error() == Some(errno)
    }
}

/// How long to wait between two tries for a busy queue. The kernel frees one some 30 ms after its socket closed.
const RETRY: Duration = Duration::from_millis(5);

/// Opens and binds a socket, trying again while the queue is busy until the deadline of the configuration.
pub(crate) fn bind(config: &SocketConfig, umem: &Arc<Umem>) -> Result<Bound, Error> {
    check(config)?;
    let begin = Instant::now();
    loop {
        match once(config, umem) {
            Ok(bound) => return Ok(bound),
            Err(failure) if failure.is(libc::EBUSY) && begin.elapsed() < config.bind_deadline => {
                std::thread::sleep(RETRY);
            }
            Err(failure) => return Err(explain(config, umem, failure, begin.elapsed())),
        }
    }
}

/// One try, in the mode of the configuration. The list of donors is locked for its length, so that none closes.
fn once(config: &SocketConfig, umem: &Arc<Umem>) -> Result<Bound, Failure> {
    let mut donors = umem.donors.lock().unwrap_or_else(PoisonError::into_inner);
    let bound = match config.mode {
        Mode::ZeroCopy => attempt(config, umem, &donors, true)?,
        Mode::Copy => attempt(config, umem, &donors, false)?,
        Mode::Auto => match attempt(config, umem, &donors, true) {
            Err(failure) if !failure.is(libc::EBUSY) => attempt(config, umem, &donors, false)?,
            result => result?,
        },
    };
    donors.push(Donor {
        fd: bound.fd.as_raw_fd(),
        interface: config.interface.index(),
        queue: config.queue,
        zero_copy: bound.zero_copy,
        need_wakeup: config.need_wakeup,
        multi_buffer: config.multi_buffer,
    });
    Ok(bound)
}

fn attempt(
    config: &SocketConfig,
    umem: &Umem,
    donors: &[Donor],
    zero_copy: bool,
) -> Result<Bound, Failure> {
    let same_queue =
        |donor: &&Donor| donor.interface == config.interface.index() && donor.queue == config.queue;
    if donors.iter().any(|donor| same_queue(&donor)) {
        // The kernel would take it for a second socket on the same rings, and answer EINVAL.
        return Err(Failure {
            step: Step::Bind,
            source: io::Error::from_raw_os_error(libc::EBUSY),
        });
    }
    let donor = donors.iter().find(|donor| {
        donor.zero_copy == zero_copy
            && donor.need_wakeup == config.need_wakeup
            && donor.multi_buffer == config.multi_buffer
    });
    let fd = syscall::socket().map_err(Step::Socket.failed())?;
    if donor.is_none() {
        register(fd.as_fd(), umem).map_err(Step::Umem.failed())?;
    }
    let rings = map_rings(fd.as_fd(), config).map_err(Step::Ring.failed())?;
    busy_poll(fd.as_fd(), config).map_err(Step::BusyPoll.failed())?;
    syscall::bind(fd.as_fd(), &address(config, donor, zero_copy)).map_err(Step::Bind.failed())?;
    let options: libc::xdp_options =
        syscall::get_option(fd.as_fd(), libc::SOL_XDP, libc::XDP_OPTIONS)
            .map_err(Step::Bind.failed())?;
    Ok(Bound { rings, fd, zero_copy: options.flags & libc::XDP_OPTIONS_ZEROCOPY != 0 })
}

/// Registers the UMEM: the kernel pins its pages.
fn register(fd: BorrowedFd<'_>, umem: &Umem) -> io::Result<()> {
    let registration = libc::xdp_umem_reg {
        addr: umem.base().as_ptr() as u64,
        len: u64::from(umem.frames()) * u64::from(umem.chunk_size()),
        chunk_size: umem.chunk_size(),
        headroom: umem.headroom(),
        flags: if umem.has_tx_metadata() { libc::XDP_UMEM_TX_METADATA_LEN } else { 0 },
        tx_metadata_len: umem.metadata_len(),
    };
    syscall::set_option(fd, libc::SOL_XDP, libc::XDP_UMEM_REG, &registration)
}

/// Makes the four rings and maps them. Before the bind, for older kernels map nothing afterwards.
fn map_rings(fd: BorrowedFd<'_>, config: &SocketConfig) -> io::Result<Rings> {
    let sizes = &config.rings;
    for (option, size) in [
        (libc::XDP_UMEM_FILL_RING, sizes.fill),
        (libc::XDP_UMEM_COMPLETION_RING, sizes.completion),
        (libc::XDP_RX_RING, sizes.rx),
        (libc::XDP_TX_RING, sizes.tx),
    ] {
        syscall::set_option(fd, libc::SOL_XDP, option, &size)?;
    }
    let offsets: libc::xdp_mmap_offsets =
        syscall::get_option(fd, libc::SOL_XDP, libc::XDP_MMAP_OFFSETS)?;
    // Kernels before 6.17 have no such option and send 32 packets a call; `flush` calls until the ring is empty.
    let _ = syscall::set_option(fd, libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, &config.tx_budget);
    let (fill, size) = map::<u64>(fd, libc::XDP_UMEM_PGOFF_FILL_RING, &offsets.fr, sizes.fill)?;
    let fill = Fill(Producer::new(fill, &size, sizes.fill).ok_or_else(misplaced)?);
    let (region, layout) =
        map::<u64>(fd, libc::XDP_UMEM_PGOFF_COMPLETION_RING, &offsets.cr, sizes.completion)?;
    let completion =
        Completion(Consumer::new(region, &layout, sizes.completion).ok_or_else(misplaced)?);
    let (region, layout) =
        map::<Descriptor>(fd, libc::XDP_PGOFF_RX_RING as u64, &offsets.rx, sizes.rx)?;
    let rx = Rx::new(Consumer::new(region, &layout, sizes.rx).ok_or_else(misplaced)?);
    let (region, layout) =
        map::<Descriptor>(fd, libc::XDP_PGOFF_TX_RING as u64, &offsets.tx, sizes.tx)?;
    let ring = Producer::new(region, &layout, sizes.tx).ok_or_else(misplaced)?;
    Ok(Rings { fill, completion, rx, tx: Tx { ring, multi_buffer: config.multi_buffer } })
}

fn map<T: Entry>(
    fd: BorrowedFd<'_>,
    page: u64,
    offsets: &libc::xdp_ring_offset,
    size: u32,
) -> io::Result<(Arc<Region>, Layout)> {
    let layout = Layout {
        producer: offsets.producer,
        consumer: offsets.consumer,
        flags: offsets.flags,
        entries: offsets.desc,
    };
    let region = Region::of(fd, page, layout.bytes::<T>(size))?;
    Ok((Arc::new(region), layout))
}

fn misplaced() -> io::Error {
    io::Error::other("the kernel's ring offsets make no sense")
}

/// Sets the busy-poll options (`Documentation/networking/af_xdp.rst`, `napi.rst`); needs CAP_NET_ADMIN.
fn busy_poll(fd: BorrowedFd<'_>, config: &SocketConfig) -> io::Result<()> {
    let Some(busy_poll) = &config.busy_poll else { return Ok(()) };
    syscall::set_option(fd, libc::SOL_SOCKET, libc::SO_PREFER_BUSY_POLL, &1)?;
    syscall::set_option(fd, libc::SOL_SOCKET, libc::SO_BUSY_POLL, &busy_poll.microseconds)?;
    syscall::set_option(fd, libc::SOL_SOCKET, libc::SO_BUSY_POLL_BUDGET, &busy_poll.budget)
}

/// A sharer may give no flags; it gets its donor's.
fn address(config: &SocketConfig, donor: Option<&Donor>, zero_copy: bool) -> libc::sockaddr_xdp {
    let flags = match donor {
        Some(_) => libc::XDP_SHARED_UMEM,
        None => {
            let mode = if zero_copy { libc::XDP_ZEROCOPY } else { libc::XDP_COPY };
            let wakeup = if config.need_wakeup { libc::XDP_USE_NEED_WAKEUP } else { 0 };
            let multi_buffer = if config.multi_buffer { libc::XDP_USE_SG } else { 0 };
            mode | wakeup | multi_buffer
        }
    };
    libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        sxdp_flags: flags,
        sxdp_ifindex: config.interface.index(),
        sxdp_queue_id: config.queue,
        sxdp_shared_umem_fd: donor.map_or(0, |donor| donor.fd as u32),
    }
}

/// What the kernel would refuse with a bare EINVAL.
fn check(config: &SocketConfig) -> Result<(), Error> {
    let refuse = |what: String| {
        Err(Error::SocketConfig {
            interface: config.interface.name().into(),
            queue: config.queue,
            what,
        })
    };
    let sizes = &config.rings;
    for (name, size) in
        [("fill", sizes.fill), ("completion", sizes.completion), ("rx", sizes.rx), ("tx", sizes.tx)]
    {
        if !size.is_power_of_two() || !(32..=1 << 20).contains(&size) {
            return refuse(format!(
                "{name} ring of {size} entries; it takes a power of two from 32 to 1048576"
            ));
        }
    }
    Ok(())
}

/// The message for a failed call.
fn explain(config: &SocketConfig, umem: &Umem, failure: Failure, waited: Duration) -> Error {
    let interface = config.interface.name().to_owned();
    let queue = config.queue;
    let Failure { step, source } = failure;
    match (step, source.raw_os_error().unwrap_or(0)) {
        (Step::Socket, libc::EAFNOSUPPORT) => Error::NoAfXdp,
        (Step::Socket, libc::EPERM | libc::EACCES) => {
            Error::Permission { what: "opening an AF_XDP socket", capability: "CAP_NET_RAW" }
        }
        (Step::BusyPoll, libc::EPERM | libc::EACCES) => {
            Error::Permission { what: "setting busy-poll options", capability: "CAP_NET_ADMIN" }
        }
        (Step::Umem, libc::ENOBUFS) => Error::LockedMemory { bytes: umem.bytes_total() },
        (Step::Umem, libc::ENOMEM) => Error::Memory { bytes: umem.bytes_total(), source },
        (Step::Umem, libc::EINVAL) if umem.has_tx_metadata() => Error::TxMetadata,
        (Step::Bind, libc::EBUSY) => Error::Busy { interface, queue, waited },
        (Step::Bind, libc::ENODEV | libc::ENXIO) => Error::NoInterface { name: interface },
        (Step::Bind, libc::ENETDOWN) => Error::Down { interface },
        (Step::Bind, libc::EPERM | libc::EACCES) => {
            Error::Permission { what: "binding an AF_XDP socket", capability: "CAP_NET_RAW" }
        }
        (Step::Bind, libc::EOPNOTSUPP) if config.mode == Mode::ZeroCopy => {
            Error::NoZeroCopy { interface }
        }
        (Step::Bind, libc::EINVAL | libc::EOPNOTSUPP) => match config.interface.queues() {
            Some(channels) if queue >= channels => Error::NoQueue { interface, queue, channels },
            _ if config.multi_buffer => {
                // The MTU excludes the Ethernet header.
                Error::NoMultiBuffer { interface, mtu: umem.frame_capacity() as u32 - 14 }
            }
            _ => {
                Error::os(format!("binding an AF_XDP socket to {interface} queue {queue}"), source)
            }
        },
        _ => Error::os(format!("{} for {interface} queue {queue}", step.name()), source),
    }
}

impl Step {
    fn name(self) -> &'static str {
        match self {
            Step::Socket => "opening an AF_XDP socket",
            Step::Umem => "registering the UMEM (XDP_UMEM_REG)",
            Step::Ring => "making and mapping the rings",
            Step::BusyPoll => "setting busy-poll options",
            Step::Bind => "binding an AF_XDP socket",
        }
    }
}
