//! `run`: the ends opened, the neighbors found, the workers started, the report written.

use crate::cli::Show;
use crate::craft::{CraftError, Crafter};
use crate::end::{End, EndError};
use crate::field::{Share, Spec};
use crate::layout::Layout;
use crate::live::Live;
use crate::neighbor::{Range, Responder};
use crate::pacer::Pacer;
use crate::profile::{EndPlan, Family, Length, Plan, ProfileError, value, wrong};
use crate::receive::{Detector, windows};
use crate::report::{Mode, Report};
use crate::session::{Session, Signals};
use crate::source::Streams;
use crate::summary::{self, Facts};
use crate::template::Macs;
use crate::worker::{Progress, Role, Settings, Worker};
use ipnet::IpNet;
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long neighbors are asked for.
pub const RESOLVE: Duration = Duration::from_secs(3);
/// Most addresses that the receiving end makes itself known with.
const KNOWN: usize = 1024;
/// Frames of each sending queue.
pub const TX_FRAMES: u32 = 2048;
/// Frames of each receiving queue: some milliseconds at a million packets a second.
pub const RX_FRAMES: u32 = 8192;
/// Frames for what comes beside.
pub const FEW_FRAMES: u32 = 256;

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum RunError {
    #[error(transparent)]
    Profile(#[from] ProfileError),
    #[error(transparent)]
    End(#[from] EndError),
    #[error(transparent)]
    Craft(#[from] CraftError),
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl RunError {
    /// The process's exit status: 2 for what was asked wrongly, 1 for what failed.
    pub fn status(&self) -> u8 {
        match self {
            Self::Profile(_)
            | Self::Craft(_)
            | Self::End(EndError::Unnamed(_) | EndError::Cpu { .. }) => 2,
            _ => 1,
        }
    }
}

/// A token that other runs don't have, and milliseconds since 1970.
pub fn token_and_time() -> (u16, u64) {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut rng = crate::rng::Rng::new(since.as_nanos() as u64, std::process::id().into());
    (rng.next() as u16, since.as_millis() as u64)
}

/// Runs a plan to its end.
pub fn run(plan: &Plan, show: &Show, signals: &Signals) -> Result<Report, RunError> {
    let one = plan.rx.port == plan.tx.port && plan.rx.netns == plan.tx.netns;
    let receives = plan.rx.port.is_some();
    let tx_plan = if one { merged(&plan.tx, &plan.rx) } else { plan.tx.clone() };
    let beside = if one { RX_FRAMES } else { FEW_FRAMES };
    let mut tx = End::open(&tx_plan, "tx", TX_FRAMES, beside)?;
    let mut rx = if receives && !one {
        Some(End::open(&plan.rx, "rx", FEW_FRAMES, RX_FRAMES)?)
    } else {
        None
    };
    check_mtu(plan, &tx)?;

    let tx_responder = Arc::new(responder(&tx_plan, &tx, plan, true, one));
    let rx_responder = rx.as_ref().map(|rx| Arc::new(responder(&plan.rx, rx, plan, false, true)));
    let macs = macs(plan, &tx_plan, &mut tx, &tx_responder)?;
    if let (Some(rx), Some(responder)) = (&mut rx, &rx_responder) {
        make_known(&plan.rx, rx, responder)?;
    }

    let (token, started_unix_ms) = token_and_time();
    let queues = tx.used as usize;
    let line = tx.line_rate();
    let detectors = windows(plan.streams.len() * queues);
    let detector = || {
        let windows = detectors.clone();
        let detector = Detector::new(token, plan.streams.len(), queues, plan.verify, windows);
        Role::Detect(Box::new(detector))
    };
    let mut session = Session::new();
    let settings = |end: &End, index: usize| Settings {
        epoch: session.epoch,
        burst: plan.burst,
        max_lag: plan.max_lag.as_nanos() as u64,
        spin: plan.spin.as_nanos() as u64,
        streams: plan.streams.len(),
        cpu: end.cpu(index),
    };
    let streams = |index: usize| -> Result<Streams, RunError> {
        let share = Share { worker: index as u64, workers: queues as u64 };
        let crafter = Crafter::new(plan, &macs, share, token)?;
        let pacer = Pacer::new(plan.rate, plan.ramp, line, index, queues).ok_or_else(|| {
            wrong("rate", "the interface doesn't say its line rate: give tx.line_rate")
        })?;
        let (left, until) = match plan.length {
            Length::Packets(n) => (Some(part(n, index, queues)), None),
            Length::Time(time) => (None, Some(time.as_nanos() as u64)),
        };
        Ok(Streams::new(crafter, pacer, left, until))
    };
    let mut workers = Vec::new();
    for (index, queue) in std::mem::take(&mut tx.queues).into_iter().enumerate() {
        // The queues that don't send receive what the neighbors say.
        let source = if index < queues { Some(streams(index)?) } else { None };
        let worker = Worker {
            sender: queue.sender,
            receiver: queue.receiver,
            source,
            role: if one && receives { detector() } else { Role::Count },
            responder: tx_responder.clone(),
            settings: settings(&tx, index),
            progress: Arc::new(Progress::default()),
            halt: session.halt.clone(),
            seconds: session.seconds(),
        };
        workers.push((format!("tx-{index}"), worker));
    }
    if let (Some(rx), Some(responder)) = (&mut rx, &rx_responder) {
        for (index, queue) in std::mem::take(&mut rx.queues).into_iter().enumerate() {
            let worker = Worker {
                sender: queue.sender,
                receiver: queue.receiver,
                source: None,
                role: detector(),
                responder: responder.clone(),
                settings: settings(rx, index),
                progress: Arc::new(Progress::default()),
                halt: session.halt.clone(),
                seconds: session.seconds(),
            };
            workers.push((format!("rx-{index}"), worker));
        }
    }
    for (name, worker) in workers {
        session.start(name, worker)?;
    }
    let title =
        format!("{} at {}", if plan.name.is_empty() { "run" } else { &plan.name }, plan.rate);
    let mut live = Live::new(show, title, receives);
    let signed = plan.streams.iter().all(|s| s.signature);
    let drain = if receives { plan.drain } else { Duration::ZERO };
    let finished = session.send(signals, &mut live, drain, receives && signed);
    let rx_end = match (&rx, one && receives) {
        (Some(rx), _) => Some(rx.describe()),
        (None, true) => Some(tx.describe()),
        (None, false) => None,
    };
    let facts = Facts {
        mode: Mode::Run,
        plan,
        token,
        started_unix_ms,
        tx: tx.describe(),
        rx: rx_end,
        line,
    };
    let mut report = summary::report(&facts, &finished);
    report.warnings.extend(finished.errors());
    report
        .warnings
        .extend([tx.warning(), rx.as_ref().and_then(End::warning)].into_iter().flatten());
    Ok(report)
}

/// Worker `index`'s part of `n` packets.
pub fn part(n: u64, index: usize, workers: usize) -> u64 {
    let (index, workers) = (index as u64, workers as u64);
    n / workers + u64::from(index < n % workers)
}

/// One interface as both ends: it has the addresses of both.
fn merged(tx: &EndPlan, rx: &EndPlan) -> EndPlan {
    let mut plan = tx.clone();
    plan.addresses.extend(&rx.addresses);
    plan.answer_for.extend(&rx.answer_for);
    plan
}

/// Refuses packets that are longer than the interface's MTU.
pub fn check_mtu(plan: &Plan, end: &End) -> Result<(), EndError> {
    for stream in &plan.streams {
        let layout = Layout::of(stream);
        let header = 14 + 4 * stream.vlans.len();
        let packet = layout.frame_len(stream.size.bounds().1 as usize) - header;
        if packet > end.device.mtu as usize {
            return Err(EndError::Mtu {
                interface: end.port.interface.clone(),
                mtu: end.device.mtu,
                packet,
            });
        }
    }
    Ok(())
}

/// Who answers for an end: its addresses and prefixes, the streams' sources where they are sent, their destinations where they are received.
fn responder(
    plan: &EndPlan,
    end: &End,
    all: &Plan,
    sources: bool,
    destinations: bool,
) -> Responder {
    let mut responder = Responder::new(end.mac, &plan.addresses, &plan.answer_for);
    let mut streams = Vec::new();
    for stream in &all.streams {
        let mut add = |family: Family, spec: &Spec| {
            let ranges = spec.ranges().into_iter();
            streams.extend(ranges.map(|(first, last)| Range {
                first: value::address(family, first),
                last: value::address(family, last),
            }));
        };
        if let Some(vxlan) = &stream.vxlan {
            if sources {
                streams.push(Range { first: vxlan.src, last: vxlan.src });
            }
            if destinations && !sources {
                streams.push(Range { first: vxlan.dst, last: vxlan.dst });
            }
            continue;
        }
        if sources {
            add(stream.family, &stream.src);
        }
        // One interface that is both ends doesn't take its router's addresses for its own.
        if destinations && !sources {
            add(stream.family, &stream.dst);
        }
    }
    responder.addresses.extend(streams);
    responder
}

/// Addresses of each stream's frames; the neighbors are asked for those that aren't given.
fn macs(
    plan: &Plan,
    end: &EndPlan,
    open: &mut End,
    responder: &Responder,
) -> Result<Vec<Macs>, RunError> {
    let mut hops = Vec::new();
    for (index, stream) in plan.streams.iter().enumerate() {
        if stream.dst_mac.is_some() {
            hops.push(None);
            continue;
        }
        let hop = next_hop(end, stream.outer_family(), stream.outer_dst());
        let key = format!("stream[{index}].dst_mac");
        let hop = hop.ok_or_else(|| {
            wrong(key, "it can't be resolved: give it, or tx.gateway, or one fixed destination")
        })?;
        let own = own_address(end, hop, stream);
        let own = own.ok_or_else(|| {
            wrong("tx.addresses", format!("one is needed to ask for {hop}'s MAC address"))
        })?;
        hops.push(Some((own, hop)));
    }
    let questions: BTreeSet<_> = hops.iter().flatten().copied().collect();
    let questions: Vec<_> = questions.into_iter().collect();
    let known = open.resolve(&questions, responder, RESOLVE)?;
    let mac_of = |hop: &Option<(IpAddr, IpAddr)>| {
        match hop {
        None => Ok(Default::default()),
        Some((_, target)) => known.get(target).copied().ok_or_else(|| {
            EndError::Unresolved(format!(
                "interface {}: nobody answers for {target}: give stream.dst_mac, or another gateway",
                open.port.interface
            ))
        }),
    }
    };
    let macs = plan.streams.iter().zip(&hops).map(|(stream, hop)| {
        let dst = match stream.dst_mac {
            Some(mac) => mac,
            None => mac_of(hop)?,
        };
        Ok(Macs { src: stream.src_mac.unwrap_or(open.mac), dst })
    });
    macs.collect()
}

fn next_hop(end: &EndPlan, family: Family, dst: Option<IpAddr>) -> Option<IpAddr> {
    let gateway = match family {
        Family::V4 => end.gateway.map(IpAddr::from),
        Family::V6 => end.gateway6.map(IpAddr::from),
    };
    match (dst, gateway) {
        (Some(dst), Some(_)) if end.addresses.iter().any(|net| net.contains(&dst)) => Some(dst),
        (dst, gateway) => gateway.or(dst),
    }
}

/// The address that asks for `hop`: one of its network, or any of the family, or the stream's own source.
fn own_address(end: &EndPlan, hop: IpAddr, stream: &crate::profile::StreamPlan) -> Option<IpAddr> {
    let family = |net: &&IpNet| net.addr().is_ipv4() == hop.is_ipv4();
    let near = end.addresses.iter().filter(family).find(|net| net.contains(&hop));
    let any = near.or_else(|| end.addresses.iter().find(family));
    any.map(IpNet::addr).or_else(|| match &stream.vxlan {
        Some(vxlan) => Some(vxlan.src),
        None => stream.src.fixed().map(|src| value::address(stream.family, src)),
    })
}

/// Lets the receiving end's router learn its addresses, so that the first packets needn't wait for that: a question for the router teaches it who asks.
pub fn make_known(plan: &EndPlan, end: &mut End, responder: &Responder) -> Result<(), EndError> {
    let questions: Vec<_> = plan
        .addresses
        .iter()
        .filter_map(|net| {
            let gateway = match net {
                IpNet::V4(_) => plan.gateway.map(IpAddr::from),
                IpNet::V6(_) => plan.gateway6.map(IpAddr::from),
            };
            Some((net.addr(), gateway?))
        })
        .take(KNOWN)
        .collect();
    let known: HashMap<_, _> = end.resolve(&questions, responder, RESOLVE)?;
    match questions.iter().find(|(_, gateway)| !known.contains_key(gateway)) {
        Some((_, gateway)) => Err(EndError::Unresolved(format!(
            "interface {}: nobody answers for rx.gateway {gateway}",
            end.port.interface
        ))),
        None => Ok(()),
    }
}
