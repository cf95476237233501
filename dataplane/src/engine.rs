//! Puts an engine together and runs it: memory, sockets, workers, steering, then housekeeping until a signal.
//!
//! All kernel objects of a running engine (UMEM, sockets, XDP links, the two memfds) are made here, in
//! [`port::open_queues`] and [`run`], so that a holder process can come to own them without the rest knowing. The order matters: the
//! fill rings are full before the program redirects the first packet, and the program goes before the sockets do.

pub mod port;

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use millrace_tables::{InterfaceId, InterfaceKind, Tables, session};
use millrace_xsk::{PageSize, UmemConfig};
use tracing::info;

use crate::boot;
use crate::config::{Checksums, Config, Driver, Pages};
use crate::housekeeping::Housekeeping;
use crate::interface::{Interface, Interfaces};
use crate::kernel::follow::Follower;
use crate::kernel::{self, Surroundings, Trunk};
use crate::live::Live;
use crate::netdev::Netdev;
use crate::pipeline::{Local, Settings};
use crate::state::State;
use crate::state::conntrack::Limits;
use crate::state::segment::{self, Segment, Settings as StateSettings, Sizes};
use crate::steer;
use crate::worker::Worker;
use port::Port;

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
    /// An interface has queues without a worker, beside a kernel.
    #[error(
        "interface {name} has {queues} receive queues for {workers} workers: what arrives on the others would go to the kernel, and flows through \
         Services break (mode = \"service-proxy\"): `ethtool -L {name} combined {workers}` (`rx {workers}` where the device counts them apart) brings \
         all to the engine, or list {queues} [workers] cpus"
    )]
    MoreQueues {
        /// The interface.
        name: String,
        /// Receive queues it has.
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
    /// The trunk to the kernel.
    #[error(transparent)]
    Trunk(#[from] kernel::TrunkError),
    /// Source ports that are not the engine's alone.
    #[error(transparent)]
    Ports(#[from] kernel::ports::Overlap),
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
    let mut ports = port::uplinks(config, workers)?;
    let mut trunk = match config.mode {
        session::Mode::Router => None,
        session::Mode::ServiceProxy => Some(make_trunk(config, &ports)?),
    };
    ports.extend(trunk.as_ref().map(Port::of_trunk));
    let interfaces = interfaces(config, |index, _| {
        let netdev = &ports[index].netdev;
        (netdev.mac, netdev.mtu, netdev.is_virtual)
    });
    let interfaces = match &trunk {
        Some(trunk) => with_trunk(&interfaces, trunk),
        None => interfaces,
    };
    let sizes = sizes(config, &interfaces);
    let shared = Segment::create(&sizes, secret())?;
    let state_settings = state_settings(config, &sizes);
    let live = Live::new(first_tables(config, &interfaces)?);
    let mut housekeeping = Housekeeping::new(config, &interfaces, &ports, &shared, &live)?;
    housekeeping.sync_neighbors();

    let (queues, pools) = port::open_queues(config, &ports)?;
    let mut steering = Vec::new();
    for (index, port) in ports.iter().enumerate() {
        let sockets: Vec<(u32, BorrowedFd<'_>)> = (0u32..)
            .zip(&queues)
            .map(|(queue, of_worker)| (queue, of_worker[index].as_fd()))
            .collect();
        steering.push(port.steer(&sockets, config.mode)?);
    }
    housekeeping.steer(steering);
    housekeeping.tell_modes((0..ports.len()).map(|port| port::mode(&queues, port)));

    let mut threads = Vec::new();
    for (index, (queues, pool)) in queues.into_iter().zip(pools).enumerate() {
        let mut local = Local::new(pool, Arc::clone(&interfaces), settings(config));
        local.host_ports = trunk.as_ref().map_or_else(Arc::default, Trunk::host_ports);
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
    let led = match &mut trunk {
        Some(trunk) => lead(trunk, &mut housekeeping),
        None => Ok(()),
    };
    info!(workers, interfaces = interfaces.len(), socket = %config.socket.display(), "forwarding");
    let result = led.and_then(|()| keep(&mut housekeeping, &threads, stop));
    stop.store(true, Ordering::Relaxed);
    housekeeping.unfollow();
    if let Some(trunk) = &mut trunk {
        trunk.withdraw();
        if result.is_ok() {
            trunk.open_pods();
        }
    }
    // First the program lets go, so that what comes from here on is the kernel's.
    housekeeping.steer(Vec::new());
    for (index, thread) in threads.into_iter().enumerate() {
        if thread.join().is_err() {
            return Err(EngineError::Worker(index));
        }
    }
    result
}

/// The trunk, as wide as the widest uplink.
fn make_trunk(config: &Config, uplinks: &[Port]) -> Result<Trunk, EngineError> {
    kernel::ports::check(&config.snat_ports)?;
    let mtu = uplinks.iter().map(|port| port.netdev.mtu).max().unwrap_or(1500);
    let queues = u32::try_from(config.cpus.len()).unwrap_or(u32::MAX);
    let surroundings = Surroundings {
        uplinks: config.interfaces.iter().map(|interface| interface.name.clone()).collect(),
        overflow: config.overflow_ports,
    };
    Ok(Trunk::make(&config.trunk, surroundings, queues, mtu)?)
}

/// The interfaces with the trunk as the last one.
fn with_trunk(interfaces: &Interfaces, trunk: &Trunk) -> Arc<Interfaces> {
    let Netdev { mac, mtu, is_virtual, .. } = trunk.netdev();
    let (name, addresses) = (trunk.settings().name.clone(), trunk.addresses());
    let id = InterfaceId(interfaces.len() as u16);
    let interface = Interface::new(id, &name, mac, mtu, InterfaceKind::HOST, addresses, is_virtual);
    let mut list: Vec<Interface> = interfaces.iter().cloned().collect();
    list.push(interface.with_peer(trunk.kernel_end().1));
    Arc::new(Interfaces::new(list).unwrap_or_default())
}

/// Has the kernel lead service traffic into the trunk.
fn lead(trunk: &mut Trunk, housekeeping: &mut Housekeeping) -> Result<(), EngineError> {
    trunk.lead()?;
    housekeeping.follow(Follower::start(trunk).map_err(EngineError::Io)?);
    Ok(())
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
        trunk_ports: config.trunk_ports,
        overflow_ports: config.overflow_ports,
        ..Settings::default()
    }
}
