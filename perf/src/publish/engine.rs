//! The engine's half, in this process: its socket and housekeeping, and its workers, over queues in memory.
//!
//! Everything is the engine's own code but the queue ([`Watched`]), which does two things more than a queue does: it brings
//! packets to services as long as it is told to, and it writes down when a burst begins that uses another generation than the one
//! before. That is what a packet would see.

use crate::offer;
use millrace_dataplane::clock::{self, Nanos};
use millrace_dataplane::config::Config;
use millrace_dataplane::counters::Ledger;
use millrace_dataplane::driver::{Burst, Queue, memory::MemoryQueue};
use millrace_dataplane::engine;
use millrace_dataplane::housekeeping::Housekeeping;
use millrace_dataplane::live::Live;
use millrace_dataplane::pipeline::Local;
use millrace_dataplane::state::State;
use millrace_dataplane::state::segment::{Segment, Settings};
use millrace_dataplane::worker::Worker;
use millrace_tables::{Epochs, InterfaceId};
use millrace_wire::Mac;
use millrace_xsk::program::FRAME;
use millrace_xsk::{Frame, Pool, TxOffload, Umem};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Names and addresses on both sides of the engine.
pub const CONTROL: &str = r#"
[[route]]
prefix = "10.0.0.0/8"
via = "198.18.1.2"
[[neighbor]]
interface = "pods"
address = "198.18.1.2"
mac = "02:00:00:00:01:02"
"#;
const UPLINK_MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
const CLIENT_MAC: Mac = Mac([2, 0, 0, 0, 0, 2]);
/// Flows that each worker carries, each to a service of its own.
const FLOWS: usize = 256;

/// What a worker's queue tells the measurement.
#[derive(Debug, Default)]
pub struct Witness {
    /// The generation of the last burst.
    generation: AtomicU64,
    /// When the first burst of that generation began.
    since: AtomicU64,
    /// Packets to bring at a time; 0 lets the worker sleep.
    offered: AtomicU64,
    /// Whether they wait for the timer.
    paced: AtomicBool,
}

impl Witness {
    /// When the first burst of `generation` or a later one began; `None` when there was none yet.
    pub fn reached(&self, generation: u64) -> Option<Nanos> {
        (self.generation.load(Ordering::Acquire) >= generation)
            .then(|| self.since.load(Ordering::Relaxed))
    }
}

/// An engine that runs until it is dropped.
pub struct Engine {
    witnesses: Vec<Arc<Witness>>,
    shared: Arc<Segment>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    timers: Vec<Arc<OwnedFd>>,
}

/// What is brought to each worker.
#[derive(Clone, Copy, Debug)]
pub enum Load {
    /// So many packets with every burst: the worker never sleeps.
    Flood(u64),
    /// A packet every so often: the worker sleeps between two if they are far apart.
    Pace(Duration),
    /// Nothing.
    None,
}

impl Engine {
    /// Starts `cpus.len()` workers and the socket at `socket`. Packets will go to `vips`.
    pub fn start(
        socket: &Path,
        cpus: &[usize],
        vips: impl Iterator<Item = Ipv4Addr> + Clone,
    ) -> Result<Self, String> {
        let text = format!(
            "mode = \"router\"\nsocket = {socket:?}\n[workers]\ncpus = {cpus:?}\n[umem]\nframes = {}\n\
             [[interface]]\nname = \"clients\"\naddresses = [\"198.18.0.1/24\"]\n\
             [[interface]]\nname = \"pods\"\naddresses = [\"198.18.1.1/24\"]\n",
            1024 * cpus.len()
        );
        let said = |error: &dyn std::fmt::Display| error.to_string();
        let config = Config::parse(&text).map_err(|e| said(&e))?;
        let interfaces = engine::interfaces(&config, |index, _| {
            (Mac([2, 0, 0, 0, index as u8, 1]), 1500, false)
        });
        let sizes = engine::sizes(&config, &interfaces);
        let settings = Settings::of(&sizes);
        let shared = Arc::new(Segment::create(&sizes, [1, 2]).map_err(|e| said(&e))?);
        let live = Live::new(engine::first_tables(&config, &interfaces).map_err(|e| said(&e))?);
        let mut housekeeping =
            Housekeeping::new(&config, &interfaces, &[], &shared, &live).map_err(|e| said(&e))?;
        let (umem, frames) = Umem::new(&engine::umem(&config)).map_err(|e| said(&e))?;
        let mut frames = Pool::new(&umem, frames);

        let stop = Arc::new(AtomicBool::new(false));
        let mut engine = Self {
            witnesses: Vec::new(),
            shared,
            stop: Arc::clone(&stop),
            threads: Vec::new(),
            timers: Vec::new(),
        };
        for (index, cpu) in cpus.iter().enumerate() {
            let witness = Arc::new(Witness::default());
            let timer = timerfd_create(
                TimerfdClockId::Monotonic,
                TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK,
            );
            let timer = Arc::new(timer.map_err(|e| said(&e))?);
            let queue = |flows: Vec<[u8; FRAME]>| Watched {
                memory: MemoryQueue::new(Arc::clone(&umem), 1024),
                epochs: engine.shared.slots().epochs(),
                worker: index,
                witness: Arc::clone(&witness),
                timer: Arc::clone(&timer),
                flows,
                next: 0,
            };
            let flows = vips.clone().cycle().skip(index * FLOWS).take(FLOWS).map(frame).collect();
            let local =
                Local::new(frames.split(1024), Arc::clone(&interfaces), engine::settings(&config));
            let worker = Worker {
                index,
                cpu: Some(*cpu),
                queues: vec![queue(flows), queue(Vec::new())],
                tables: live.handle(),
                epoch: engine.shared.slots().reader(index).ok_or("no slot for a worker")?,
                state: State::new(&engine.shared, index, &settings, local).map_err(|e| said(&e))?,
                idle: config.idle,
                stop: Arc::clone(&stop),
            };
            engine.witnesses.push(witness);
            engine.timers.push(timer);
            engine.threads.push(std::thread::spawn(move || worker.run()));
        }
        engine.threads.push(std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                housekeeping.turn();
            }
        }));
        Ok(engine)
    }

    /// Brings packets to each worker from now on.
    pub fn offer(&self, load: Load) -> Result<(), String> {
        let (packets, interval) = match load {
            Load::Flood(packets) => (packets, 0),
            Load::Pace(interval) => (1, interval.as_nanos() as i64),
            Load::None => (0, 0),
        };
        let every = Timespec { tv_sec: 0, tv_nsec: interval };
        let setting = Itimerspec { it_interval: every, it_value: every };
        for (witness, timer) in self.witnesses.iter().zip(&self.timers) {
            witness.paced.store(interval > 0, Ordering::Relaxed);
            witness.offered.store(packets, Ordering::Relaxed);
            timerfd_settime(timer, TimerfdTimerFlags::empty(), &setting)
                .map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    /// When the last of the workers began its first burst with `generation`; `None` when one hasn't yet.
    pub fn reached(&self, generation: u64) -> Option<Nanos> {
        let times = self.witnesses.iter().map(|witness| witness.reached(generation));
        times.collect::<Option<Vec<_>>>()?.into_iter().max()
    }

    /// The newest generation that any worker has used.
    pub fn generation(&self) -> u64 {
        let newest = |witness: &Arc<Witness>| witness.generation.load(Ordering::Acquire);
        self.witnesses.iter().map(newest).max().unwrap_or(0)
    }

    /// What became of the packets so far, of all workers.
    pub fn ledger(&self) -> Ledger {
        let of = |worker| {
            Ledger::read(|place| self.shared.view().counter(worker, InterfaceId(0), place))
        };
        (0..self.witnesses.len()).map(of).fold(Ledger::default(), Ledger::and)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                eprintln!("millrace-perf: a thread of the engine panicked");
            }
        }
    }
}

fn frame(vip: Ipv4Addr) -> [u8; FRAME] {
    let client = SocketAddrV4::new(Ipv4Addr::new(198, 18, 0, 2), 0x4000);
    offer::frame((CLIENT_MAC, UPLINK_MAC), client, SocketAddrV4::new(vip, 80))
}

/// A queue in memory that brings packets, and notes when the generation changes.
struct Watched {
    memory: MemoryQueue,
    epochs: Epochs,
    worker: usize,
    witness: Arc<Witness>,
    timer: Arc<OwnedFd>,
    flows: Vec<[u8; FRAME]>,
    next: usize,
}

impl Queue for Watched {
    fn receive(&mut self, pool: &mut Pool, burst: &mut Burst) {
        if self.flows.is_empty() {
            return;
        }
        // The worker has entered a generation for this burst; its own slot says which.
        if let Some(generation) = self.epochs.generation(self.worker)
            && generation != self.witness.generation.load(Ordering::Relaxed)
        {
            self.witness.since.store(clock::now(), Ordering::Relaxed);
            self.witness.generation.store(generation, Ordering::Release);
        }
        let mut count = self.witness.offered.load(Ordering::Relaxed);
        if self.witness.paced.load(Ordering::Relaxed) {
            let mut expired = [0; 8];
            // Nothing to read: it isn't time yet.
            let read = rustix::io::read(&self.timer, &mut expired);
            count *= read.map_or(0, |_| u64::from_ne_bytes(expired).min(64));
        }
        for _ in 0..count {
            if !self.memory.offer(pool, &self.flows[self.next % self.flows.len()]) {
                break;
            }
            self.next += 1;
        }
        self.memory.receive(pool, burst);
    }

    fn transmit(&mut self, frame: Frame, offload: TxOffload) -> Result<(), Frame> {
        self.memory.transmit(frame, offload)
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        (!self.flows.is_empty()).then(|| self.timer.as_fd())
    }

    fn flush(&mut self, pool: &mut Pool) {
        while let Some((frame, _)) = self.memory.take_frame() {
            pool.put(frame);
        }
    }
}
