//! What is compared with what in memory, and how: in turns on one core, ours then the peer, again and again.
//!
//! A figure is the ratio of two neighboring trials; a table's line has the minimum, median and maximum of these. DPDK's programs
//! get the 256 frames that `l2` and `route4` have, the FIBs the same routes and addresses. Where our scenario has more to do than the peer can, the line
//! says what the peer leaves out.

use super::dpdk::{self, Dpdk};
use super::{fib, files};
use crate::rings::scenario::{self, Bench, FrameSize, Scale, Scenario};
use crate::spread::Spread;
use millrace_dataplane::driver::looped::Time;
use millrace_tables::fib::Family;
use millrace_tables::synthetic::Route;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// One line of the table.
#[derive(Clone, Copy, Debug)]
pub struct Comparison {
    /// What it is called on the command line and in the table.
    pub name: &'static str,
    /// What is measured first of each pair.
    pub ours: Side,
    /// What it is divided by.
    pub peer: Side,
    /// What the peer leaves out.
    pub lacks: &'static str,
}

/// Something that has a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// A scenario of `millrace-perf core`.
    Core(Scenario),
    /// testpmd in a forwarding mode.
    Testpmd(&'static str),
    /// l3fwd with a lookup method.
    L3fwd(&'static str),
    /// Our FIB alone.
    Fib(Family),
    /// dpdk-test-fib.
    TestFib(Family),
}

impl std::fmt::Display for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Side::Core(scenario) => write!(f, "millrace {}", scenario.name()),
            Side::Testpmd(mode) => write!(f, "testpmd {mode}"),
            Side::L3fwd(lookup) => write!(f, "l3fwd {lookup}"),
            Side::Fib(family) => write!(f, "millrace FIB {family:?}"),
            Side::TestFib(Family::V4) => write!(f, "rte_fib DIR24_8"),
            Side::TestFib(Family::V6) => write!(f, "rte_fib trie"),
        }
    }
}

const L2: &str = "nothing: both copy a frame and swap its MACs";
const IO: &str = "touching the packet";
const CSUM: &str = "routes, TTL (it sums up checksums anew)";
const LPM: &str = "ARP, ND, ICMP errors, services, conntrack, policy, counters by reason";
const FULL: &str = "as above, and it has 2 routes, ours 1 M";
const NAT: &str = "NAT, conntrack, services, policy (it has 2 routes)";

/// All of them, in the order of the table.
pub const ALL: [Comparison; 12] = [
    line("l2", Side::Core(Scenario::L2), Side::Testpmd("macswap"), L2),
    line("l2-io", Side::Core(Scenario::L2), Side::Testpmd("io"), IO),
    line("route4-csum", Side::Core(Scenario::Route4), Side::Testpmd("csum"), CSUM),
    line("route4", Side::Core(Scenario::Route4), Side::L3fwd("lpm"), LPM),
    line("route4-fib", Side::Core(Scenario::Route4), Side::L3fwd("fib"), LPM),
    line("route4-full", Side::Core(Scenario::Route4Full), Side::L3fwd("lpm"), FULL),
    line("route6-full", Side::Core(Scenario::Route6Full), Side::Core(Scenario::Route4Full), ""),
    line("nat-established", Side::Core(Scenario::NatEstablished), Side::L3fwd("lpm"), NAT),
    line("nat-reply", Side::Core(Scenario::NatReply), Side::L3fwd("lpm"), NAT),
    line("nat-new", Side::Core(Scenario::NatNew), Side::L3fwd("lpm"), NAT),
    line("fib4", Side::Fib(Family::V4), Side::TestFib(Family::V4), ""),
    line("fib6", Side::Fib(Family::V6), Side::TestFib(Family::V6), ""),
];

const fn line(name: &'static str, ours: Side, peer: Side, lacks: &'static str) -> Comparison {
    Comparison { name, ours, peer, lacks }
}

/// Routes and addresses.
type World = Arc<(Vec<Route>, Vec<u128>)>;

/// How many routes the FIBs have.
const ROUTES: [(Family, usize); 2] = [(Family::V4, 1_000_000), (Family::V6, 200_000)];

/// The files that peers read, and how trials are made.
pub struct Field<'a> {
    dpdk: &'a Dpdk,
    folder: &'a Path,
    cpu: usize,
    seconds: f64,
    worlds: [Option<World>; 2],
}

/// What one line of the table came to.
#[derive(Debug, Serialize)]
pub struct Outcome {
    /// The comparison's name.
    pub name: &'static str,
    /// What was measured first.
    pub ours: String,
    /// What it was divided by.
    pub peer: String,
    /// Packets or lookups per microsecond.
    pub unit: &'static str,
    /// Ours.
    pub ours_rate: Spread,
    /// The peer's.
    pub peer_rate: Spread,
    /// Pair by pair.
    pub ratio: Spread,
    /// What the peer leaves out.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub peer_lacks: &'static str,
}

/// Makes one trial: a rate.
type Trial<'a> = Box<dyn FnMut() -> Result<f64, String> + 'a>;

impl<'a> Field<'a> {
    /// Writes what all peers read into `folder`.
    pub fn new(dpdk: &'a Dpdk, folder: &'a Path, cpu: usize, seconds: f64) -> Result<Self, String> {
        let bench = build(Scenario::Route4)?;
        let frames = &bench.loads.first().ok_or("no frames")?.frames;
        files::capture(&folder.join("frames.pcap"), (0..frames.len()).map(|n| frames.get(n)))?;
        // Our `route4` has 198.18.0.0/15.
        let v4 = ["198.18.0.0/16", "198.19.0.0/16"];
        let v6 = ["2001:200::/64", "2001:200:0:1::/64"];
        for (name, prefixes) in [("rules4", v4), ("rules6", v6)] {
            let prefixes: Vec<_> = prefixes.iter().filter_map(|net| net.parse().ok()).collect();
            files::rules(&folder.join(name), &prefixes)?;
        }
        Ok(Self { dpdk, folder, cpu, seconds, worlds: [None, None] })
    }

    /// Runs a comparison's trials in turns.
    pub fn compare(
        &mut self,
        comparison: &Comparison,
        rounds: usize,
        mut said: impl FnMut(usize, f64, f64),
        stop: impl Fn() -> Result<(), String>,
    ) -> Result<Outcome, String> {
        let mut trials = [self.trial(comparison.ours)?, self.trial(comparison.peer)?];
        let mut rates = [Vec::new(), Vec::new()];
        for round in 1..=rounds.max(1) {
            for (trial, rates) in trials.iter_mut().zip(&mut rates) {
                stop()?;
                rates.push(trial()?);
            }
            if let (Some(ours), Some(peer)) = (rates[0].last(), rates[1].last()) {
                said(round, *ours, *peer);
            }
        }
        let ratios: Vec<f64> = rates[0].iter().zip(&rates[1]).map(|(a, b)| a / b).collect();
        let spread = |values: &[f64]| Spread::of(values).ok_or("no trial");
        let lookups = matches!(comparison.ours, Side::Fib(_));
        Ok(Outcome {
            name: comparison.name,
            ours: comparison.ours.to_string(),
            peer: comparison.peer.to_string(),
            unit: if lookups { "M lookups/s" } else { "Mpps" },
            ours_rate: spread(&rates[0])?,
            peer_rate: spread(&rates[1])?,
            ratio: spread(&ratios)?,
            peer_lacks: comparison.lacks,
        })
    }

    fn trial(&mut self, side: Side) -> Result<Trial<'a>, String> {
        let (dpdk, cpu, seconds, folder) = (self.dpdk, self.cpu, self.seconds, self.folder);
        let (capture, log) = (folder.join("frames.pcap"), folder.join("log"));
        Ok(match side {
            Side::Core(scenario) => {
                let mut bench = build(scenario)?;
                bench.verify().map_err(|e| format!("{}: {e}", scenario.name()))?;
                // As many packets as the time has room for, found once.
                let first = bench.measure(1, 1 << 20, &[cpu])?.mpps.median;
                let packets = (first * seconds * 1e6) as usize;
                Box::new(move || Ok(bench.measure(1, packets, &[cpu])?.mpps.median))
            }
            Side::Testpmd(mode) => Box::new(move || {
                // It starts in a second, and looks every second whether a second has passed since it last said its rate: it says
                // so every two. The first time is warm-up.
                let time = Duration::from_secs_f64(4.0 + 2.0 * (seconds / 2.0).ceil());
                let output =
                    dpdk::run_for(&mut dpdk.testpmd(mode, &capture, cpu), &log, Some(time))?;
                read(dpdk::testpmd_rate(&output), "testpmd", &output)
            }),
            Side::L3fwd(lookup) => Box::new(move || {
                let rules = (folder.join("rules4"), folder.join("rules6"));
                let mut command = dpdk.l3fwd(lookup, &capture, (&rules.0, &rules.1), cpu);
                let time = Duration::from_secs_f64(seconds + 1.5);
                let output = dpdk::run_for(&mut command, &log, Some(time))?;
                read(dpdk::l3fwd_rate(&output), "l3fwd", &output)
            }),
            Side::Fib(family) => {
                let world = self.world(family)?;
                Box::new(move || fib::rate_on(cpu, family, &world))
            }
            Side::TestFib(family) => {
                let world = self.world(family)?;
                let groups = files::groups(&world.0);
                let files = files_of(folder, family);
                Box::new(move || {
                    let v6 = family == Family::V6;
                    let mut command = dpdk.test_fib(&files[0], &files[1], v6, groups, cpu);
                    let output = dpdk::run_for(&mut command, &log, None)?;
                    read(dpdk::test_fib_rate(&output), "dpdk-test-fib", &output)
                })
            }
        })
    }

    /// The routes and addresses of a family, made and written on first use.
    fn world(&mut self, family: Family) -> Result<World, String> {
        let index = usize::from(family == Family::V6);
        if let Some(world) = &self.worlds[index] {
            return Ok(Arc::clone(world));
        }
        let world = Arc::new(files::internet(family, ROUTES[index].1));
        let [routes, addresses] = files_of(self.folder, family);
        files::routes(&routes, family, &world.0)?;
        files::addresses(&addresses, family, &world.1)?;
        self.worlds[index] = Some(Arc::clone(&world));
        Ok(world)
    }
}

fn files_of(folder: &Path, family: Family) -> [PathBuf; 2] {
    ["routes", "addresses"].map(|name| folder.join(format!("{name}-{family:?}")))
}

fn build(scenario: Scenario) -> Result<Bench, String> {
    scenario::build(scenario, FrameSize::Small, &Scale::REAL, 1, Time::Real)
        .map_err(|e| format!("{}: {e}", scenario.name()))
}

fn read(rate: Option<f64>, program: &str, output: &str) -> Result<f64, String> {
    rate.filter(|rate| *rate > 0.0).ok_or_else(|| {
        let tail: Vec<&str> = output.lines().rev().take(10).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        format!("{program} said no rate; its last lines: {}", tail.join("\n"))
    })
}
