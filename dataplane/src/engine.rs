//! Puts an engine together and runs it: memory, sockets, workers, steering, then housekeeping until a signal.
//!
//! All kernel objects of a running engine (UMEM, sockets, XDP links, the two memfds) are made here, in
//! [`open_queues`] and [`run`], so that a holder process can come to own them without the rest knowing. The order matters: the
//! fill rings are full before the program redirects the first packet, and the program goes before the sockets do.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use millrace_tables::{InterfaceId, InterfaceKind, Tables};
use millrace_xsk::{BusyPoll, Mode, PageSize, Pool, Socket, SocketConfig, Umem, UmemConfig};
use tracing::{info, warn};

use crate::boot;
use crate::config::{Checksums, Config, Driver, Pages, ZeroCopy};
use crate::driver::xsk::XskQueue;
use crate::housekeeping::Housekeeping;
use crate::interface::{Interface, Interfaces};
use crate::live::Live;
use crate::netdev::Netdev;
use crate::pipeline::{Local, Settings};
use crate::state::State;
use crate::state::conntrack::Limits;
use crate::state::segment::{self, Segment, Settings as StateSettings, Sizes};
use crate::steer::{self, Steering};
use crate::worker::Worker;

/// Why an engine can't start. Each message names the entry and what to change.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A device can't be used.
    #[error(transparent)]
    Netdev(#[from] crate::netdev::NetdevError),
    /// An interface has too few queues.
    #[error(
        "interface {name} has {queues} queues, and each of {workers} workers needs its own: make it with `numrxqueues {workers} \
         numtxqueues {workers}` (veth), raise it with `ethtool -L {name} combined {workers}` (NIC), or list fewer [workers] cpus"
    )]
    Queues {
        /// The interface.
        name: String,
        /// Queues it has.
        queues: u32,
        /// Workers configured.
        workers: usize,
    },
    /// Too few frames to give every queue some.
    #[error(
        "[umem] frames: {frames} is too few for {workers} workers on {interfaces} interfaces; at least {least}"
    )]
    Frames {
        /// Configured.
        frames: u32,
        /// Workers configured.
        workers: usize,
        /// Interfaces configured.
        interfaces: usize,
        /// What is needed.
        least: u32,
    },
    /// AF_XDP.
    #[error(transparent)]
    Xsk(#[from] millrace_xsk::Error),
    /// The XDP program.
    #[error(transparent)]
    Steer(#[from] steer::Error),
    /// The tables.
    #[error("tables: {0}")]
    Tables(#[from] millrace_tables::Error),
    /// The state segment.
    #[error(transparent)]
    State(#[from] segment::Error),
    /// The socket.
    #[error(transparent)]
    Session(#[from] millrace_tables::session::SessionError),
    /// A capture.
    #[error(transparent)]
    Pcap(#[from] crate::driver::pcap::PcapError),
    /// The state segment has fewer slots than it was made with.
    #[error("the state segment has no slot for a worker")]
    Slots,
    /// A thread, a signal handler or a file descriptor.
    #[error("the kernel refused: {0}")]
    Io(std::io::Error),
    /// No tables came.
    #[error(
        "{socket}: control brought no tables within 30 s: start millrace-control with this as its `engine`, run on an image \
         (--tables), or leave `socket` out to route between the interfaces' own networks alone"
    )]
    NoControl {
        /// Where control was waited for.
        socket: std::path::PathBuf,
    },
    /// A worker ended by itself.
    #[error("worker {0} ended by itself; the log has the reason")]
    Worker(usize),
}

/// Runs an engine on network devices until `stop`.
pub fn run(config: &Config, stop: &Arc<AtomicBool>) -> Result<(), EngineError> {
    let workers = config.cpus.len();
    let netdevs = netdevs(config, workers)?;
    let interfaces = interfaces(config, |index, _| {
        let netdev = &netdevs[index];
        (netdev.mac, netdev.mtu, netdev.is_virtual)
    });
    let sizes = sizes(config, &interfaces);
    let shared = Segment::create(&sizes, secret())?;
    let state_settings = state_settings(config, &sizes);
    let live = Live::new(first_tables(config, &interfaces)?);
    let mut housekeeping = Housekeeping::new(config, &interfaces, &netdevs, &shared, &live)?;
    housekeeping.sync_neighbors();

    let (queues, pools) = open_queues(config, workers)?;
    let mut steering = Vec::new();
    for (index, (interface, netdev)) in config.interfaces.iter().zip(&netdevs).enumerate() {
        let sockets: Vec<(u32, BorrowedFd<'_>)> = (0u32..)
            .zip(&queues)
            .map(|(queue, of_worker)| (queue, of_worker[index].as_fd()))
            .collect();
        let options = steer::Options {
            mode: steer::Mode::Router,
            mac: netdev.mac,
            queues: netdev.rx_queues,
            stale_after: Duration::from_secs(1),
        };
        steering.push(Steering::attach(&interface.name, netdev.index, &sockets, &options)?);
    }
    housekeeping.steer(steering);

    let mut threads = Vec::new();
    for (index, (queues, pool)) in queues.into_iter().zip(pools).enumerate() {
        let local = Local::new(pool, Arc::clone(&interfaces), settings(config));
        let worker = Worker {
            index,
            cpu: config.cpus.get(index).copied(),
            queues,
            tables: live.handle(),
            epoch: shared.slots().reader(index).ok_or(EngineError::Slots)?,
            state: State::new(&shared, index, &state_settings, local)?,
            idle: config.idle,
            stop: Arc::clone(stop),
        };
        let thread =
            thread::Builder::new().name(format!("worker-{index}")).spawn(move || worker.run());
        threads.push(thread.map_err(EngineError::Io)?);
    }
    info!(workers, interfaces = interfaces.len(), socket = %config.socket.display(), "forwarding");
    let result = keep(&mut housekeeping, &threads, stop);
    stop.store(true, Ordering::Relaxed);
    // First the program lets go, so that what comes from here on is the kernel's.
    housekeeping.steer(Vec::new());
    for (index, thread) in threads.into_iter().enumerate() {
        if thread.join().is_err() {
            return Err(EngineError::Worker(index));
        }
    }
    result
}

fn keep(
    housekeeping: &mut Housekeeping,
    threads: &[JoinHandle<()>],
    stop: &AtomicBool,
) -> Result<(), EngineError> {
    while !stop.load(Ordering::Relaxed) {
        housekeeping.turn();
        if let Some(index) = threads.iter().position(JoinHandle::is_finished)
            && !stop.load(Ordering::Relaxed)
        {
            return Err(EngineError::Worker(index));
        }
    }
    Ok(())
}

/// The tables to begin with: an image, or our own addresses and networks.
pub fn first_tables(config: &Config, interfaces: &Interfaces) -> Result<Arc<Tables>, EngineError> {
    match &config.tables {
        Some(path) => Ok(Arc::new(Tables::open_image(path)?)),
        None => Ok(boot::tables(interfaces)?),
    }
}

/// The key of the hash tables: secret, so that nobody can choose packets that collide.
fn secret() -> [u64; 2] {
    use std::hash::{BuildHasher, RandomState};
    [0, 1].map(|word: u64| RandomState::new().hash_one(word))
}

/// The interfaces as the pipeline sees them; `device` gives MAC, MTU and whether checksums can be partial.
pub fn interfaces(
    config: &Config,
    device: impl Fn(usize, &Driver) -> (millrace_wire::Mac, u32, bool),
) -> Arc<Interfaces> {
    let list = config.interfaces.iter().enumerate().map(|(index, interface)| {
        let (mac, mtu, is_virtual) = device(index, &interface.driver);
        let partial = match interface.checksums {
            Checksums::Auto => is_virtual,
            Checksums::Partial => true,
            Checksums::Complete => false,
        };
        let id = InterfaceId(index as u16);
        Interface::new(
            id,
            &interface.name,
            mac,
            mtu,
            InterfaceKind::UPLINK,
            interface.addresses.clone(),
            partial,
        )
    });
    // Ids are places by construction.
    Arc::new(Interfaces::new(list.collect()).unwrap_or_default())
}

/// What the state segment is made for.
pub fn sizes(config: &Config, interfaces: &Interfaces) -> Sizes {
    Sizes {
        workers: config.cpus.len(),
        interfaces: interfaces.len(),
        conntrack_entries: config.conntrack_entries,
        neighbor_entries: config.neighbor_entries,
    }
}

/// How the state behaves.
pub fn state_settings(config: &Config, sizes: &Sizes) -> StateSettings {
    StateSettings {
        timeouts: config.conntrack_timeouts,
        limits: Limits { half_open: config.conntrack_half_open },
        ..StateSettings::of(sizes)
    }
}

/// What the UMEM is to be.
pub fn umem(config: &Config) -> UmemConfig {
    UmemConfig {
        frames: config.frames,
        chunk_size: config.chunk,
        pages: match config.pages {
            Pages::Small => PageSize::Small,
            Pages::Huge => PageSize::Huge,
        },
        ..UmemConfig::default()
    }
}

/// The pipeline's settings.
pub fn settings(config: &Config) -> Settings {
    Settings {
        errors_per_second: config.icmp_errors_per_second,
        snat_ports: config.snat_ports,
        ..Settings::default()
    }
}

fn netdevs(config: &Config, workers: usize) -> Result<Vec<Netdev>, EngineError> {
    let mut netdevs = Vec::new();
    for interface in &config.interfaces {
        let netdev = Netdev::read(&interface.name)?;
        let queues = netdev.rx_queues.min(netdev.tx_queues);
        if (queues as usize) < workers {
            return Err(EngineError::Queues { name: interface.name.clone(), queues, workers });
        }
        if netdev.rx_queues as usize > workers {
            warn!(
                interface = interface.name,
                queues = netdev.rx_queues,
                workers,
                "more queues than workers: packets on the others go to the kernel; `ethtool -L {} combined {workers}` \
                 brings all to the engine",
                interface.name
            );
        }
        netdevs.push(netdev);
    }
    Ok(netdevs)
}

/// One UMEM, and for each worker its queue on each interface and the frames that are left.
fn open_queues(
    config: &Config,
    workers: usize,
) -> Result<(Vec<Vec<XskQueue>>, Vec<Pool>), EngineError> {
    let interfaces = config.interfaces.len();
    let per_worker = config.frames / workers as u32;
    // Half of its frames may wait in fill rings; the other half is for what is under way.
    let fill = (per_worker / (2 * interfaces as u32)).min(2048);
    if fill < 16 {
        let least = 32 * (workers * interfaces) as u32;
        return Err(EngineError::Frames { frames: config.frames, workers, interfaces, least });
    }
    let (umem, frames) = Umem::new(&umem(config))?;
    let mut all = Pool::new(&umem, frames);
    let (mut queues, mut pools) = (Vec::new(), Vec::new());
    for worker in 0..workers {
        let mut pool = if worker + 1 == workers {
            all.split(all.len())
        } else {
            all.split(per_worker as usize)
        };
        let mut of_worker = Vec::new();
        for interface in &config.interfaces {
            let socket = bind(config, interface, worker as u32, &umem)?;
            of_worker.push(XskQueue::new(socket, fill, &mut pool));
        }
        queues.push(of_worker);
        pools.push(pool);
    }
    Ok((queues, pools))
}

fn bind(
    config: &Config,
    interface: &crate::config::Interface,
    queue: u32,
    umem: &Arc<Umem>,
) -> Result<Socket, EngineError> {
    let mode = match interface.driver {
        Driver::Xsk { zero_copy: ZeroCopy::Always } => Mode::ZeroCopy,
        Driver::Xsk { zero_copy: ZeroCopy::Never } => Mode::Copy,
        _ => Mode::Auto,
    };
    let device = millrace_xsk::Interface::named(&interface.name)?;
    let busy_poll = config.busy_poll_us.map(|microseconds| BusyPoll { microseconds, budget: 64 });
    let socket =
        Socket::bind(&SocketConfig { mode, busy_poll, ..SocketConfig::new(device, queue) }, umem)?;
    let how = if socket.is_zero_copy() { "zero-copy" } else { "copy" };
    info!(interface = interface.name, queue, mode = how, "queue opened");
    Ok(socket)
}
