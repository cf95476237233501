//! An engine in memory: tables, shared state and workers over loops of frames, the workers being those that the daemon runs.

use super::bare::Forwarder;
use super::routes::Routes;
use super::{net, policies};
use millrace_dataplane::clock::{self, Nanos};
use millrace_dataplane::config::Idle;
use millrace_dataplane::counters::Ledger as Sums;
use millrace_dataplane::counters::{COUNTERS, Kind, describe};
use millrace_dataplane::driver::looped::{Frames, LoopQueue, Time};
use millrace_dataplane::interface::{Interface, Interfaces};
use millrace_dataplane::live::Live;
use millrace_dataplane::pipeline::{Local, Settings};
use millrace_dataplane::state::State;
use millrace_dataplane::state::segment::{Segment, Settings as StateSettings, Sizes};
use millrace_dataplane::worker::Worker;
use millrace_tables::{
    BackendSpec, Frontend, FrontendKind, FrontendSpec, InterfaceId, InterfaceKind, NextHop,
    Readers, RouteSpec, SegmentConfig, ServiceSpec, SetChoice, Tables, Writer,
};
use millrace_wire::{Mac, Protocol};
use millrace_xsk::{Pool, Umem, UmemConfig};
use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Frames of each worker: half of the engine's default, which two workers share.
const FRAMES: u32 = 4096;

/// What the engine is to know.
#[derive(Debug)]
pub struct Knowledge {
    /// Services, of four backends each.
    pub services: usize,
    /// Routes beside those to clients, nodes and backends.
    pub routes: Routes,
    /// Room for flows.
    pub conntrack: u32,
    /// Whether the services masquerade.
    pub masquerade: bool,
    /// Policies, over 5,000 pods; 0: none at all.
    pub policies: usize,
}

/// One worker: the engine's, or the bare forwarder that it is compared with.
pub enum Runner {
    /// The daemon's worker.
    Engine(Box<Worker<LoopQueue>>),
    /// MACs swapped, nothing else.
    Bare(Box<Forwarder>),
}

impl Runner {
    /// Its queue on an interface.
    pub fn queue(&mut self, interface: InterfaceId) -> &mut LoopQueue {
        let at = usize::from(interface.0);
        match self {
            Runner::Engine(worker) => &mut worker.queues[at],
            Runner::Bare(forwarder) => &mut forwarder.queues[at],
        }
    }

    /// Carries all that its queues have on offer. Returns the number of packets.
    pub fn carry(&mut self, time: &mut Time) -> usize {
        match self {
            Runner::Engine(worker) => worker.carry(time),
            Runner::Bare(forwarder) => forwarder.carry(),
        }
    }

    /// The state of the engine's worker.
    pub fn state(&mut self) -> Option<&mut State> {
        match self {
            Runner::Engine(worker) => Some(&mut worker.state),
            Runner::Bare(_) => None,
        }
    }

    fn free_frames(&self) -> usize {
        match self {
            Runner::Engine(worker) => worker.state.local.pool.len(),
            Runner::Bare(forwarder) => forwarder.pool.len(),
        }
    }
}

/// What became of all packets so far.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// The engine's ledger.
    pub sums: Sums,
    /// What packets were booked as that weren't sent on, by the counter's name.
    pub booked: BTreeMap<&'static str, u64>,
}

/// Workers with their queues, ready to run.
pub struct World {
    /// The workers; all share conntrack, neighbors and tables.
    pub workers: Vec<Runner>,
    /// What time it is for them.
    pub time: Time,
    /// Where the engine's workers have their tables from.
    live: Option<Arc<Live>>,
}

impl World {
    /// So many bare forwarders.
    pub fn bare(workers: usize, time: Time) -> Result<World, Box<dyn Error>> {
        let (umem, mut pool) = memory(workers)?;
        let forwarder = |_| {
            let queues = [(); 2].map(|()| LoopQueue::new(Arc::clone(&umem)));
            Runner::Bare(Box::new(Forwarder { pool: pool.split(FRAMES as usize), queues }))
        };
        Ok(World { workers: (0..workers).map(forwarder).collect(), time, live: None })
    }

    /// An engine of so many workers that knows all this.
    pub fn new(workers: usize, time: Time, knowledge: &Knowledge) -> Result<World, Box<dyn Error>> {
        let interfaces = Arc::new(interfaces()?);
        let sizes = Sizes {
            workers,
            interfaces: interfaces.len(),
            conntrack_entries: knowledge.conntrack,
            neighbor_entries: 4096,
        };
        // Fixed seeds: the same places in all tables in every run.
        let segment = Segment::create(&sizes, [7, 9])?;
        let settings = StateSettings::of(&sizes);
        let tables = tables(knowledge)?;
        let missed = segment.neighbors(&settings)?.sync_static(
            tables.snapshot().static_neighbors().map(|row| (row.interface, row.addr, row.mac)),
            now(time),
        );
        if missed > 0 {
            return Err(format!("{missed} neighbors found no room").into());
        }
        let live = Live::new(Arc::clone(&tables));
        let (umem, mut pool) = memory(workers)?;
        let worker = |index: usize| -> Result<_, Box<dyn Error>> {
            let frames = pool.split(FRAMES as usize);
            let local = Local::new(frames, Arc::clone(&interfaces), Settings::default());
            let mut worker = Worker {
                index,
                cpu: None,
                queues: interfaces.iter().map(|_| LoopQueue::new(Arc::clone(&umem))).collect(),
                tables: live.handle(),
                epoch: segment.slots().reader(index).ok_or("no slot for a worker")?,
                state: State::new(&segment, index, &settings, local)?,
                idle: Idle::Busy,
                stop: Arc::new(AtomicBool::new(false)),
            };
            worker.state.idle();
            Ok(Runner::Engine(Box::new(worker)))
        };
        let workers = (0..workers).map(worker).collect::<Result<_, _>>()?;
        Ok(World { workers, time, live: Some(live) })
    }

    /// Gives the workers other tables, as a control process does that comes anew. Neighbors stay those that the first had.
    pub fn use_tables(&self, tables: &Arc<Tables>) {
        if let Some(live) = &self.live {
            live.replace(Arc::clone(tables));
        }
    }

    /// Carries what the worker's queue on `from` has on offer, at most `count` packets more. Returns what was sent out of `out`.
    pub fn carry(
        &mut self,
        worker: usize,
        (from, out): (InterfaceId, InterfaceId),
        count: usize,
    ) -> Frames {
        let runner = &mut self.workers[worker];
        runner.queue(from).offer(count);
        runner.queue(out).keep(true);
        runner.carry(&mut self.time);
        let kept = runner.queue(out).take_kept();
        runner.queue(out).keep(false);
        kept
    }

    /// The ledger of all workers and interfaces.
    pub fn ledger(&mut self) -> Ledger {
        let mut all = Ledger::default();
        for state in self.workers.iter_mut().filter_map(Runner::state) {
            for interface in [net::UP, net::DOWN] {
                let block = state.counters.interface(interface);
                all.sums = all.sums.and(Sums::read(|place| block.get(place)));
                for (row, value) in
                    (0..COUNTERS).filter_map(|place| Some((describe(place)?, block.get(place))))
                {
                    if value > 0 && row.kind != Kind::Counter {
                        *all.booked.entry(row.name).or_default() += value;
                    }
                }
            }
        }
        all
    }

    /// Frames that are in no pool.
    pub fn missing_frames(&self) -> usize {
        self.workers.iter().map(|runner| FRAMES as usize - runner.free_frames()).sum()
    }
}

fn memory(workers: usize) -> Result<(Arc<Umem>, Pool), Box<dyn Error>> {
    let frames = FRAMES * workers as u32;
    let (umem, frames) = Umem::new(&UmemConfig { frames, ..UmemConfig::default() })?;
    let pool = Pool::new(&umem, frames);
    Ok((umem, pool))
}

/// The time to begin with.
pub fn now(time: Time) -> Nanos {
    match time {
        Time::Real => clock::now(),
        Time::Made { now, .. } => now,
    }
}

fn interfaces() -> Result<Interfaces, Box<dyn Error>> {
    let [up, down] = net::OURS;
    let made = |id, name, mac: Mac, addresses: [&str; 2]| -> Result<Interface, Box<dyn Error>> {
        let addresses = addresses.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
        Ok(Interface::new(id, name, mac, 1500, InterfaceKind::UPLINK, addresses, false))
    };
    let list = vec![
        made(net::UP, "up0", up, ["10.0.1.1/24", "2001:db8:1::1/64"])?,
        made(net::DOWN, "down0", down, ["10.0.2.1/24", "2001:db8:2::1/64"])?,
    ];
    Interfaces::new(list).map_err(|id| format!("interface {} out of place", id.0).into())
}

/// Tables that say all this, in memory of their own.
pub fn tables(knowledge: &Knowledge) -> Result<Arc<Tables>, Box<dyn Error>> {
    let mut writer = Writer::create(&SegmentConfig { seed: Some(11), ..SegmentConfig::default() })?;
    // Nobody reads before all is published.
    writer.set_readers(Readers::Nobody);
    let (router, mac) = net::CLIENT_ROUTER;
    writer.set_neighbor(net::UP, router.into(), mac)?;
    for node in 0..net::NODES {
        for v6 in [false, true] {
            writer.set_neighbor(net::DOWN, net::node_addr(node, v6), net::node_mac(node))?;
        }
        writer.set_route(net::pods(node), &forward(net::to_node(node, false)))?;
    }
    let on = |interface| forward(NextHop { interface, gateway: None });
    let clients = forward(NextHop { interface: net::UP, gateway: Some(router.into()) });
    for (prefix, route) in [
        ("10.0.1.0/24", on(net::UP)),
        ("10.0.2.0/24", on(net::DOWN)),
        ("2001:db8:1::/64", on(net::UP)),
        ("2001:db8:2::/64", on(net::DOWN)),
        ("10.0.1.1/32", RouteSpec::Local),
        ("10.0.2.1/32", RouteSpec::Local),
        ("2001:db8:1::1/128", RouteSpec::Local),
        ("2001:db8:2::1/128", RouteSpec::Local),
        ("100.64.0.0/10", clients),
        ("203.0.113.0/24", RouteSpec::Blackhole),
    ] {
        writer.set_route(prefix.parse()?, &route)?;
    }
    for (prefix, node) in knowledge.routes.iter() {
        let v6 = matches!(prefix, ipnet::IpNet::V6(_));
        writer.set_route(prefix, &forward(net::to_node(node, v6)))?;
    }
    for service in 0..knowledge.services {
        let name = format!("default/service-{service}:http");
        let flags = if knowledge.masquerade { Frontend::MASQUERADE } else { 0 };
        writer.set_service(&name, &spec(service, &name, flags))?;
    }
    policies::set(&mut writer, knowledge.policies)?;
    writer.publish()?;
    writer.set_readers(Readers::Unknown);
    Ok(writer.tables())
}

fn forward(hop: NextHop) -> RouteSpec {
    RouteSpec::Forward(vec![(hop, 1)])
}

fn spec(service: usize, name: &str, flags: u8) -> ServiceSpec {
    let vip = net::vip(service);
    let frontend = FrontendSpec {
        addr: vip.ip().into(),
        port: vip.port(),
        protocol: Protocol::UDP.0,
        kind: FrontendKind::CLUSTER_IP,
        set: SetChoice::Cluster,
        flags,
    };
    let backend = |k| {
        let at = net::backend(service, k);
        BackendSpec {
            addr: at.ip().into(),
            port: at.port(),
            name: format!("pod-{service}-{k}"),
            weight: 1,
            local: false,
            terminating: false,
            in_cluster: true,
            in_local: false,
        }
    };
    ServiceSpec {
        name: name.to_owned(),
        frontends: vec![frontend],
        backends: (0..net::BACKENDS).map(backend).collect(),
        ..ServiceSpec::default()
    }
}
