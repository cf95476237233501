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

/// `SO_NETNS_COOKIE` (include/uapi/asm-generic/socket.h).
const SO_NETNS_COOKIE: libc::c_int = 71;

/// A bound socket whose registration of the UMEM others can share. The kernel gives every sharer the sockets' mode
/// and flags, so only one with the same will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Donor {
    pub(crate) fd: RawFd,
    pub(crate) namespace: u64,
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
    let mut zero_copy = match config.mode {
        Mode::Auto => None,
        Mode::Copy => Some(false),
        Mode::ZeroCopy => Some(true),
    };
    loop {
        match once(config, umem, &mut zero_copy) {
            Ok(bound) => return Ok(bound),
            Err(failure) if failure.is(libc::EBUSY) && begin.elapsed() < config.bind_deadline => {
                std::thread::sleep(RETRY);
            }
            Err(failure) => return Err(explain(config, umem, failure, begin.elapsed())),
        }
    }
}

/// One try. `zero_copy` is what is known of the driver, None before it was asked. The list of donors is locked
/// meanwhile, so that none closes.
fn once(
    config: &SocketConfig,
    umem: &Arc<Umem>,
    zero_copy: &mut Option<bool>,
) -> Result<Bound, Failure> {
    let mut donors = umem.donors.lock().unwrap_or_else(PoisonError::into_inner);
    if zero_copy.is_none() {
        *zero_copy = Some(has_zero_copy(config, umem, &donors)?);
    }
    let bound = match attempt(config, umem, &donors, *zero_copy == Some(true), Extent::Whole) {
        Err(failure)
            if config.mode == Mode::Auto
                && *zero_copy == Some(true)
                && !failure.is(libc::EBUSY) =>
        {
            *zero_copy = Some(false);
            attempt(config, umem, &donors, false, Extent::Whole)?
        }
        result => result?,
    };
    donors.push(Donor {
        fd: bound.fd.as_raw_fd(),
        namespace: namespace(bound.fd.as_fd()),
        interface: config.interface.index(),
        queue: config.queue,
        zero_copy: bound.zero_copy,
        need_wakeup: config.need_wakeup,
        multi_buffer: config.multi_buffer,
    });
    Ok(bound)
}

/// Asks the driver for zero-copy with one page of the UMEM: registering all of a large one pins it page by page,
/// which takes tens of milliseconds, for every veth in vain. Where the driver has zero-copy, the queue is busy for a
/// moment afterwards. An earlier zero-copy socket makes the question needless: sharing with it costs nothing to try.
fn has_zero_copy(config: &SocketConfig, umem: &Umem, donors: &[Donor]) -> Result<bool, Failure> {
    if donor(config, donors, true).is_some() {
        return Ok(true);
    }
    match attempt(config, umem, donors, true, Extent::Page) {
        Ok(_) => Ok(true),
        Err(failure) if failure.is(libc::EBUSY) => Err(failure),
        Err(_) => Ok(false),
    }
}

/// How much of the UMEM to register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    Whole,
    Page,
}

fn donor<'a>(config: &SocketConfig, donors: &'a [Donor], zero_copy: bool) -> Option<&'a Donor> {
    donors.iter().find(|donor| {
        donor.zero_copy == zero_copy
            && donor.need_wakeup == config.need_wakeup
            && donor.multi_buffer == config.multi_buffer
    })
}

fn attempt(
    config: &SocketConfig,
    umem: &Umem,
    donors: &[Donor],
    zero_copy: bool,
    extent: Extent,
) -> Result<Bound, Failure> {
    let fd = syscall::socket().map_err(Step::Socket.failed())?;
    let here = namespace(fd.as_fd());
    let same_queue = |donor: &Donor| {
        (donor.namespace, donor.interface, donor.queue)
            == (here, config.interface.index(), config.queue)
    };
    if donors.iter().any(same_queue) {
        // The kernel would take it for a second socket on the same rings, and answer EINVAL.
        return Err(Failure {
            step: Step::Bind,
            source: io::Error::from_raw_os_error(libc::EBUSY),
        });
    }
    let donor = donor(config, donors, zero_copy);
    if donor.is_none() {
        register(fd.as_fd(), umem, extent).map_err(Step::Umem.failed())?;
    }
    let rings = map_rings(fd.as_fd(), config).map_err(Step::Ring.failed())?;
    busy_poll(fd.as_fd(), config).map_err(Step::BusyPoll.failed())?;
    syscall::bind(fd.as_fd(), &address(config, donor, zero_copy)).map_err(Step::Bind.failed())?;
    let options: libc::xdp_options =
        syscall::get_option(fd.as_fd(), libc::SOL_XDP, libc::XDP_OPTIONS)
            .map_err(Step::Bind.failed())?;
    Ok(Bound { rings, fd, zero_copy: options.flags & libc::XDP_OPTIONS_ZEROCOPY != 0 })
}

/// The network namespace that a socket is of: an index means a device only there. 0 on kernels that don't say (before 5.14).
fn namespace(fd: BorrowedFd<'_>) -> u64 {
    syscall::get_option(fd, libc::SOL_SOCKET, SO_NETNS_COOKIE).unwrap_or(0)
}

/// Registers the UMEM: the kernel pins its pages.
fn register(fd: BorrowedFd<'_>, umem: &Umem, extent: Extent) -> io::Result<()> {
    let whole = u64::from(umem.frames()) * u64::from(umem.chunk_size());
    let registration = libc::xdp_umem_reg {
        addr: umem.base().as_ptr() as u64,
        len: if extent == Extent::Page { whole.min(4096) } else { whole },
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
    Ok(Rings {
        fill,
        completion,
        rx,
        tx: Tx { ring, multi_buffer: config.multi_buffer, checksum: false },
    })
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
    if !(32..=sizes.tx).contains(&config.tx_budget) {
        return refuse(format!(
            "tx budget {}; it is from 32 to the tx ring's {}",
            config.tx_budget, sizes.tx
        ));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{interface::Interface, pool::Pool, umem::UmemConfig};

    fn message(step: Step, errno: i32, change: impl FnOnce(&mut SocketConfig)) -> String {
        let (umem, frames) = Umem::new(&UmemConfig { frames: 2, ..UmemConfig::default() }).unwrap();
        let _pool = Pool::new(&umem, frames);
        let mut config = SocketConfig {
            multi_buffer: false,
            ..SocketConfig::new(Interface::named("lo").unwrap(), 3)
        };
        change(&mut config);
        let failure = Failure { step, source: io::Error::from_raw_os_error(errno) };
        explain(&config, &umem, failure, Duration::from_millis(2500)).to_string()
    }

    #[test]
    fn every_errno_has_a_message_of_its_own_that_says_what_to_change() {
        let same = |_: &mut SocketConfig| {};
        let zero_copy = |config: &mut SocketConfig| config.mode = Mode::ZeroCopy;
        let multi_buffer = |config: &mut SocketConfig| config.multi_buffer = true;
        for (said, expected) in [
            (
                message(Step::Socket, libc::EPERM, same),
                "opening an AF_XDP socket: permission denied; run as root or grant CAP_NET_RAW",
            ),
            (
                message(Step::Socket, libc::EAFNOSUPPORT, same),
                "the kernel has no AF_XDP sockets; it must be built with CONFIG_XDP_SOCKETS",
            ),
            (
                message(Step::BusyPoll, libc::EPERM, same),
                "setting busy-poll options: permission denied; run as root or grant CAP_NET_ADMIN",
            ),
            (
                message(Step::Umem, libc::ENOBUFS, same),
                "UMEM of 8192 bytes exceeds the locked-memory limit of this process (RLIMIT_MEMLOCK); raise it",
            ),
            (message(Step::Umem, libc::ENOMEM, same), "UMEM of 8192 bytes: no memory for it"),
            (
                message(Step::Umem, libc::EINVAL, same),
                "UMEM with TX metadata: the kernel refused it (EINVAL)",
            ),
            (
                message(Step::Bind, libc::EBUSY, same),
                "lo queue 3 is in use by another AF_XDP socket, and still was after 2.5 s; stop",
            ),
            (
                message(Step::Bind, libc::EOPNOTSUPP, zero_copy),
                "lo: its driver has no zero-copy mode for AF_XDP (veth never has); use copy mode",
            ),
            (
                message(Step::Bind, libc::EINVAL, multi_buffer),
                "lo: multi-buffer (XDP_USE_SG) is refused; it needs Linux 6.6",
            ),
            (
                message(Step::Bind, libc::EINVAL, same),
                "binding an AF_XDP socket to lo queue 3: Invalid argument",
            ),
            (message(Step::Bind, libc::ENETDOWN, same), "lo is down; `ip link set lo up`"),
            (message(Step::Bind, libc::ENODEV, same), "interface lo: there is none"),
            (
                message(Step::Ring, libc::ENOMEM, same),
                "making and mapping the rings for lo queue 3: Cannot allocate memory",
            ),
        ] {
            assert!(said.starts_with(expected), "said: {said}\nexpected: {expected}");
        }
    }

    #[test]
    fn sizes_the_kernel_would_refuse_are_refused_with_what_to_change() {
        let (umem, frames) = Umem::new(&UmemConfig { frames: 2, ..UmemConfig::default() }).unwrap();
        let _pool = Pool::new(&umem, frames);
        let mut config = SocketConfig::new(Interface::named("lo").unwrap(), 0);
        config.rings.rx = 1000;
        let error = bind(&config, &umem).unwrap_err().to_string();
        assert_eq!(
            error,
            "socket on lo queue 0: rx ring of 1000 entries; it takes a power of two from 32 to 1048576"
        );
        config.rings.rx = 1024;
        config.tx_budget = 4096;
        let error = bind(&config, &umem).unwrap_err().to_string();
        assert_eq!(
            error,
            "socket on lo queue 0: tx budget 4096; it is from 32 to the tx ring's 2048"
        );
    }
}
