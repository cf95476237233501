//! The scenarios: what the engine knows, which flows it has seen, and the frames that come, in the order in which they come.

use super::net::{self, Datagram};
use super::policies;
use super::routes::{Random, Routes, shuffle};
use super::world::{self, Knowledge, World};
use clap::ValueEnum;
use ipnet::Ipv4Net;
use millrace_dataplane::driver::looped::{Frames, Time};
use millrace_dataplane::flow::Tuple;
use millrace_tables::fib::Family;
use millrace_tables::{InterfaceId, Tables};
use millrace_wire::Protocol;
use serde::Serialize;
use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scenario {
    /// The bare forwarder: the same rings, MACs swapped, no engine
    L2,
    /// Routed, 1 prefix, 256 flows
    #[value(name = "route4")]
    #[serde(rename = "route4")]
    Route4,
    /// Routed, 1 M IPv4 prefixes, random destinations
    #[value(name = "route4-full")]
    #[serde(rename = "route4-full")]
    Route4Full,
    /// Routed, 200 k IPv6 prefixes, random destinations
    #[value(name = "route6-full")]
    #[serde(rename = "route6-full")]
    Route6Full,
    /// To services, established: 10,000 services, 64 k flows in random order
    NatEstablished,
    /// The same with 1 M flows and 1 M routes
    NatEstablishedFull,
    /// From their backends back, 64 k flows
    NatReply,
    /// The same with 1 M flows and 1 M routes
    NatReplyFull,
    /// To services, every packet a flow never seen
    NatNew,
    /// To services that masquerade, established: 10,000 services, 64 k flows in random order
    Snat,
    /// Routed to isolated pods, every packet a flow never seen: 5,000 pods, 10,000 policies, two of each pod
    Policy,
    /// The same flows and pods under 1,000 policies of 5 pods each
    #[value(name = "policy-1000")]
    #[serde(rename = "policy-1000")]
    Policy1000,
    /// The same flows and pods under 10 policies of 500 pods each
    #[value(name = "policy-10")]
    #[serde(rename = "policy-10")]
    Policy10,
    /// As nat-established, to backends that 10,000 policies isolate
    PolicyEstablished,
    /// 70 % established, 20 % routed, 5 % new, 5 % dropped
    Mix,
}

impl Scenario {
    /// All of them.
    pub const ALL: &[Scenario] = Self::LIST;
    const LIST: &[Scenario] = &[
        Scenario::L2,
        Scenario::Route4,
        Scenario::Route4Full,
        Scenario::Route6Full,
        Scenario::NatEstablished,
        Scenario::NatEstablishedFull,
        Scenario::NatReply,
        Scenario::NatReplyFull,
        Scenario::NatNew,
        Scenario::Snat,
        Scenario::Policy,
        Scenario::Policy1000,
        Scenario::Policy10,
        Scenario::PolicyEstablished,
        Scenario::Mix,
    ];

    /// As on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Policies that it has.
    pub fn policies(self) -> usize {
        match self {
            Scenario::Policy | Scenario::PolicyEstablished => 10_000,
            Scenario::Policy1000 => 1_000,
            Scenario::Policy10 => 10,
            _ => 0,
        }
    }

    /// Whether it is about flows that policies judge: such scenarios differ in the policies alone.
    pub fn is_judged(self) -> bool {
        matches!(self, Scenario::Policy | Scenario::Policy1000 | Scenario::Policy10)
    }

    /// Tables of one that [`Scenario::is_judged`], in memory of their own.
    pub fn tables(self, scale: &Scale) -> Result<Arc<Tables>, Box<dyn Error>> {
        world::tables(&self.knowledge(scale))
    }

    fn knowledge(self, scale: &Scale) -> Knowledge {
        Knowledge {
            services: 0,
            routes: Routes::none(),
            conntrack: scale.conntrack,
            masquerade: false,
            policies: self.policies(),
        }
    }
}

/// How big the frames are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FrameSize {
    /// All of 64 bytes
    #[value(name = "64")]
    #[serde(rename = "64")]
    Small,
    /// Of twelve 7 of 64 bytes, 4 of 590, 1 of 1514
    Imix,
}

impl FrameSize {
    fn of(self, index: usize) -> usize {
        const IMIX: [usize; 12] = [64, 590, 64, 64, 590, 64, 1514, 64, 590, 64, 590, 64];
        match self {
            FrameSize::Small => 64,
            FrameSize::Imix => IMIX[index % IMIX.len()],
        }
    }

    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            FrameSize::Small => "64",
            FrameSize::Imix => "imix",
        }
    }
}

/// How much there is of everything.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Services.
    pub services: usize,
    /// Flows of a scenario, and of a `-full` one.
    pub flows: (usize, usize),
    /// Routes of the IPv4 and of the IPv6 Internet.
    pub routes: (usize, usize),
    /// Packets of a loop in which new flows come: as many as are new, and of the mix.
    pub fresh: usize,
    /// Conntrack entries.
    pub conntrack: u32,
}

impl Scale {
    /// What figures are given for.
    pub const REAL: Scale = Scale {
        services: 10_000,
        flows: (1 << 16, 1_000_000),
        routes: (1_000_000, 200_000),
        fresh: 1 << 18,
        conntrack: 1 << 20,
    };
    /// What an emulated processor gets through in seconds, by the same ways through the code.
    pub const COUNTED: Scale = Scale {
        services: 100,
        flows: (1024, 4096),
        routes: (10_000, 5_000),
        fresh: 8192,
        conntrack: 1 << 15,
    };
}

/// What must become of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// MACs swapped.
    Swapped,
    /// Routed to this node.
    Routed(u8),
    /// Translated to a backend of this service.
    ToBackend(u16),
    /// The same, from our address and one of its ports for that.
    Masqueraded(u16),
    /// Translated back to this service's address.
    FromBackend(u16),
    /// Dropped as a blackhole route says.
    Dropped,
}

/// What one worker gets.
#[derive(Default)]
pub struct Load {
    /// Its loop of frames.
    pub frames: Arc<Frames>,
    /// What must become of each.
    pub fates: Vec<Fate>,
    /// Flows that it begins; they are to be forgotten before the next time round.
    pub fresh: Vec<Tuple>,
}

/// A scenario ready to be run.
pub struct Bench {
    /// The engine.
    pub world: World,
    /// Where frames come in and go out.
    pub way: (InterfaceId, InterfaceId),
    /// Each worker's part.
    pub loads: Vec<Load>,
    /// What all loads are made of.
    coming: Vec<Coming>,
}

impl Bench {
    /// Makes the loops anew, of frames of another size.
    pub fn resize(&mut self, size: FrameSize) {
        let workers = self.world.workers.len();
        for (worker, load) in self.loads.iter_mut().enumerate() {
            let (mut frames, mut fates, mut fresh) = (Frames::default(), Vec::new(), Vec::new());
            for (index, it) in self.coming.iter().skip(worker).step_by(workers).enumerate() {
                frames.push(&it.datagram.frame(size.of(index)));
                fates.push(it.fate);
                if it.fresh {
                    fresh.push(tuple(&it.datagram));
                }
            }
            *load = Load { frames: Arc::new(frames), fates, fresh };
        }
    }
}

/// A frame to come, and what must become of it.
struct Coming {
    datagram: Datagram,
    fate: Fate,
    fresh: bool,
}

impl Coming {
    fn new(datagram: Datagram, fate: Fate) -> Coming {
        Coming { datagram, fate, fresh: false }
    }
}

/// Puts a scenario together.
pub fn build(
    scenario: Scenario,
    size: FrameSize,
    scale: &Scale,
    workers: usize,
    time: Time,
) -> Result<Bench, Box<dyn Error>> {
    let full = matches!(scenario, Scenario::NatEstablishedFull | Scenario::NatReplyFull);
    let flows = if full { scale.flows.1 } else { scale.flows.0 };
    let random = &mut Random(3);
    let mut knowledge = scenario.knowledge(scale);
    let mut way = (net::UP, net::DOWN);
    let (world, mut coming) = match scenario {
        Scenario::L2 => {
            let coming =
                (0..256).map(|index| Coming::new(routed(index, one(index)), Fate::Swapped));
            (World::bare(workers, time)?, coming.collect())
        }
        Scenario::Route4 => {
            knowledge.routes = Routes::one(ONE);
            let coming = (0..256)
                .map(|index| Coming::new(routed(index, one(index)), Fate::Routed(0)))
                .collect();
            (World::new(workers, time, &knowledge)?, coming)
        }
        Scenario::Route4Full | Scenario::Route6Full => {
            let (family, count) = match scenario {
                Scenario::Route6Full => (Family::V6, scale.routes.1),
                _ => (Family::V4, scale.routes.0),
            };
            knowledge.routes = Routes::internet(count, family);
            let destinations = knowledge.routes.destinations(scale.routes.0);
            let coming = destinations
                .into_iter()
                .enumerate()
                .map(|(index, (to, node))| Coming::new(routed(index, to), Fate::Routed(node as u8)))
                .collect();
            (World::new(workers, time, &knowledge)?, coming)
        }
        Scenario::NatNew => {
            knowledge.services = scale.services;
            let coming =
                (0..scale.fresh).map(|index| fresh(index, random.below(scale.services))).collect();
            (World::new(workers, time, &knowledge)?, coming)
        }
        Scenario::Policy | Scenario::Policy1000 | Scenario::Policy10 => {
            let coming = (0..scale.fresh).map(|index| judged(index, random));
            (World::new(workers, time, &knowledge)?, coming.collect())
        }
        _ => {
            knowledge.services = match scenario {
                // Those whose backends are isolated.
                Scenario::PolicyEstablished => scale.services.min(policies::PODS / net::BACKENDS),
                _ => scale.services,
            };
            knowledge.masquerade = scenario == Scenario::Snat;
            if full {
                knowledge.routes = Routes::internet(scale.routes.0, Family::V4);
            }
            let mut world = World::new(workers, time, &knowledge)?;
            let services: Vec<usize> =
                (0..flows).map(|_| random.below(knowledge.services)).collect();
            let replies = establish(&mut world, &services)?;
            let coming = match scenario {
                Scenario::NatReply | Scenario::NatReplyFull => {
                    way = (net::DOWN, net::UP);
                    let reply =
                        |(reply, service)| Coming::new(reply, Fate::FromBackend(service as u16));
                    replies.into_iter().zip(services).map(reply).collect()
                }
                Scenario::Mix => mix(scale, &services, random),
                Scenario::Snat => {
                    let masqueraded = |(index, &service): (usize, &usize)| {
                        let fate = Fate::Masqueraded(service as u16);
                        Coming { fate, ..to_service(index, service) }
                    };
                    services.iter().enumerate().map(masqueraded).collect()
                }
                _ => {
                    services.iter().enumerate().map(|(index, &it)| to_service(index, it)).collect()
                }
            };
            (world, coming)
        }
    };
    shuffle(&mut coming, random);
    let loads = (0..workers).map(|_| Load::default()).collect();
    let mut bench = Bench { world, way, loads, coming };
    bench.resize(size);
    Ok(bench)
}

/// The one prefix of `route4`.
const ONE: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(198, 18, 0, 0), 15);

fn one(index: usize) -> IpAddr {
    IpAddr::from(Ipv4Addr::from(u32::from(ONE.addr()) + 1 + index as u32))
}

/// From the clients' router to us.
fn inbound(src: SocketAddr, dst: SocketAddr) -> Datagram {
    Datagram { macs: (net::CLIENT_ROUTER.1, net::OURS[0]), src, dst, ttl: net::TTL }
}

fn routed(index: usize, to: IpAddr) -> Datagram {
    let from = if to.is_ipv4() { net::client(index) } else { net::client6(index) };
    inbound(from, SocketAddr::new(to, 4000))
}

fn to_service(index: usize, service: usize) -> Coming {
    let datagram = inbound(net::client(index), net::vip(service));
    Coming::new(datagram, Fate::ToBackend(service as u16))
}

fn fresh(index: usize, service: usize) -> Coming {
    Coming { fresh: true, ..to_service(index, service) }
}

fn judged(index: usize, random: &mut Random) -> Coming {
    let (client, pod) = policies::flow(index, random);
    let fate = Fate::Routed(policies::node(pod) as u8);
    Coming { fresh: true, ..Coming::new(inbound(client, pod), fate) }
}

fn tuple(datagram: &Datagram) -> Tuple {
    Tuple {
        src: datagram.src.ip().into(),
        dst: datagram.dst.ip().into(),
        sport: datagram.src.port(),
        dport: datagram.dst.port(),
        protocol: Protocol::UDP,
    }
}

/// Flow after flow goes to its service, and an answer comes back. Returns the answers.
fn establish(world: &mut World, services: &[usize]) -> Result<Vec<Datagram>, Box<dyn Error>> {
    /// Flows at a time.
    const CHUNK: usize = 4096;
    let mut replies = Vec::with_capacity(services.len());
    for (chunk, services) in services.chunks(CHUNK).enumerate() {
        let mut frames = Frames::default();
        for (index, &service) in services.iter().enumerate() {
            frames.push(&to_service(chunk * CHUNK + index, service).datagram.frame(64));
        }
        let count = frames.len();
        world.workers[0].queue(net::UP).load(Arc::new(frames));
        let sent = world.carry(0, (net::UP, net::DOWN), count);
        let answers: Vec<Datagram> =
            (0..sent.len()).filter_map(|at| answer(&sent.get(at))).collect();
        let mut frames = Frames::default();
        answers.iter().for_each(|answer| frames.push(&answer.frame(64)));
        world.workers[0].queue(net::DOWN).load(Arc::new(frames));
        let back = world.carry(0, (net::DOWN, net::UP), answers.len()).len();
        if (answers.len(), back) != (count, count) {
            return Err(format!(
                "of {count} new flows {} packets reached a backend and {back} answers came back: {:?}",
                answers.len(),
                world.ledger().booked
            )
            .into());
        }
        replies.extend(answers);
    }
    Ok(replies)
}

/// What a backend answers to a frame that the engine sent it.
fn answer(frame: &[u8]) -> Option<Datagram> {
    let Datagram { macs: (ours, node), src, dst, .. } = Datagram::read(frame)?;
    Some(Datagram { macs: (node, ours), src: dst, dst: src, ttl: net::TTL })
}

fn mix(scale: &Scale, services: &[usize], random: &mut Random) -> Vec<Coming> {
    let part = |percent: usize| scale.fresh * percent / 100;
    let mut coming = Vec::with_capacity(scale.fresh);
    for _ in 0..part(70) {
        let flow = random.below(services.len());
        coming.push(to_service(flow, services[flow]));
    }
    for index in 0..part(20) {
        let node = random.below(net::NODES);
        let pod = net::pods(node).hosts().nth(1 + random.below(1000)).unwrap_or(one(index));
        coming.push(Coming::new(routed(index, pod), Fate::Routed(node as u8)));
    }
    for index in 0..part(5) {
        coming.push(fresh(services.len() + index, random.below(scale.services)));
    }
    for index in 0..part(5) {
        let nobody = IpAddr::from([203, 0, 113, (index % 256) as u8]);
        coming.push(Coming::new(routed(index, nobody), Fate::Dropped));
    }
    coming
}
