//! One trial: so many packets a second for so long from the generator's end, counted at the receiver's.
//!
//! `millrace-pktgen` numbers its packets and knows what it could not send; the XDP program is faster than any AF_XDP sender on a
//! veth and is counted by the interfaces. In both cases what the generator did not send is no loss, and a trial in which it
//! fell short by more than its tolerance is marked as saying nothing.

use crate::ends::Ends;
use crate::programs;
use crate::results::Percentiles;
use crate::running::Running;
use crate::scenario::{Cpus, Generator};
use crate::search::Outcome;
use crate::services;
use serde::Deserialize;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Of pktgen: packets due that it didn't send, or didn't take in.
const TOLERANCE: f64 = 0.005;
/// Of the XDP program, which counts by interfaces and whose start and end are not exact.
const XDP_TOLERANCE: f64 = 0.02;

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    /// Bytes of a frame, with FCS.
    pub frame: u32,
    /// Flows by source port.
    pub flows: u32,
    /// Destinations.
    pub services: u16,
    /// Whether those are services, or pods.
    pub to_services: bool,
}

/// What one trial showed.
#[derive(Clone, Debug, PartialEq)]
pub struct Trial {
    /// The counts that a search needs.
    pub outcome: Outcome,
    /// Seconds that it really sent for, as far as can be told: not less than they were.
    pub lasted: f64,
    /// Received more than once.
    pub duplicated: u64,
    /// Received out of order.
    pub reordered: u64,
    /// Latency, where the generator measures it.
    pub latency: Option<Percentiles>,
    /// By second, where the generator says.
    pub seconds: Vec<crate::soak::Interval>,
    /// Words of the generator.
    pub warnings: Vec<String>,
}

/// A generator on two interfaces.
#[derive(Debug)]
pub struct Source<'a> {
    /// Which.
    pub kind: Generator,
    /// Between what.
    pub ends: &'a Ends,
    /// What.
    pub stream: Stream,
    /// Where it runs.
    pub cpus: &'a Cpus,
    /// Folder for logs.
    pub logs: PathBuf,
    /// Set by Ctrl-C.
    pub stop: &'a AtomicBool,
}

impl Source<'_> {
    /// `rate` packets a second, or as many as it can, for so many seconds.
    pub fn trial(&self, rate: Option<f64>, seconds: f64) -> Result<Trial, String> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(INTERRUPTED.into());
        }
        let trial = match self.kind {
            Generator::Pktgen => self.pktgen(rate, seconds),
            Generator::Xdp => self.xdp(rate, seconds),
        };
        // On Ctrl-C the generator ends early: what it says then is not the reason.
        match self.stop.load(Ordering::Relaxed) {
            true => Err(INTERRUPTED.into()),
            false => trial,
        }
    }

    fn target(&self) -> (std::net::Ipv4Addr, u16) {
        match self.stream.to_services {
            true => (services::FIRST, services::PORT),
            false => (services::FIRST_POD, services::PORT),
        }
    }

    fn pktgen(&self, rate: Option<f64>, seconds: f64) -> Result<Trial, String> {
        let (tx, rx) = (&self.ends.generator, &self.ends.sink);
        let queues = self.ends.path.queues;
        let mut command = std::process::Command::new(programs::find("millrace-pktgen")?);
        command.args(["run", "--json", "--quiet", "--protocol", "udp", "--drain", "200ms"]);
        for (place, end) in [(tx, "tx"), (rx, "rx")] {
            command.args([format!("--{end}"), format!("{}:{queues}", place.interface)]);
            if let Some(netns) = &place.netns {
                command.args([format!("--netns-{end}"), netns.clone()]);
            }
        }
        let rate_text = rate.map_or("max".into(), |rate| format!("{rate:.3}pps"));
        command.args(["--rate", &rate_text, "--duration", &format!("{seconds}s")]);
        let (first, port) = self.target();
        let last = std::net::Ipv4Addr::from(u32::from(first) + u32::from(self.stream.services) - 1);
        let ports = format!("32768-{}", 32768 + self.stream.flows - 1);
        command.args(["--src", "10.200.1.2", "--src-port", &ports]);
        command.args(["--dst", &format!("{first}-{last}"), "--dst-port", &port.to_string()]);
        command.args(["--size", &self.stream.frame.to_string()]);
        command.args(["--dst-mac", &self.ends.inside.mac, "--src-mac", &tx.mac]);
        let on = |cpu: usize, queues: u32| spread(cpu, queues, cpus_here());
        command.args(["--cpus-tx", &on(self.cpus.generator, queues)]);
        if let Some(cpu) = self.cpus.receiver {
            command.args(["--cpus-rx", &on(cpu, queues)]);
        }
        let text = programs::generate(&mut command, seconds, self.stop)?;
        let report: Report = serde_json::from_str(&text)
            .map_err(|e| format!("millrace-pktgen's report can't be read: {e}"))?;
        Ok(report.trial(rate, seconds))
    }

    fn xdp(&self, rate: Option<f64>, seconds: f64) -> Result<Trial, String> {
        let (tx, rx) = (&self.ends.generator, &self.ends.sink);
        let own = programs::own()?;
        let sink = Running::start(
            rx.command(&own).args(["sink", "--interface", &rx.interface]),
            self.logs.join("sink.log"),
        )?;
        wait_for_program(rx, || Ok(()))?;
        let (first, port) = self.target();
        let mut offer = tx.command(&own);
        offer.args(["offer", "--interface", &tx.interface, "--src-mac", &tx.mac]);
        offer.args(["--dst-mac", &self.ends.inside.mac, "--src", "10.200.1.2:32768"]);
        offer.args(["--dst", &format!("{first}:{port}")]);
        offer.args(["--services", &self.stream.services.to_string()]);
        offer.args(["--flows", &self.stream.flows.to_string()]);
        offer.args(["--cpu", &self.cpus.generator.to_string()]);
        if let Some(rate) = rate {
            offer.args(["--rate", &rate.to_string()]);
        }
        // A packet that the peer has no room for is dropped and counted by the sender: sent all the same.
        let sent =
            || tx.counters(["tx_packets", "tx_dropped"]).map(|[sent, refused]| sent + refused);
        let received = || rx.counters(["rx_packets"]).map(|[received]| received);
        let before = (sent()?, received()?);
        let mut running = Running::start(&mut offer, self.logs.join("offer.log"))?;
        let spawned = Instant::now();
        // Of a rate that was reached no more is claimed than that: the time from the last look that saw nothing.
        let mut quiet = spawned;
        loop {
            let now = Instant::now();
            if sent()? != before.0 {
                break;
            }
            quiet = now;
            running.check()?;
            if spawned.elapsed() > Duration::from_secs(10) {
                return Err("the generator sent nothing in 10 s".into());
            }
        }
        let began = Instant::now();
        while began.elapsed().as_secs_f64() < seconds && !self.stop.load(Ordering::Relaxed) {
            sleep(Duration::from_secs_f64(
                (seconds - began.elapsed().as_secs_f64()).clamp(0.0, 0.1),
            ));
        }
        running.check()?;
        drop(running);
        let (lasted, at_most) = (began.elapsed().as_secs_f64(), quiet.elapsed().as_secs_f64());
        let mut after = (sent()?, received()?);
        // What is under way.
        for _ in 0..20 {
            sleep(Duration::from_millis(20));
            let now = received()?;
            if now == after.1 {
                break;
            }
            after.1 = now;
        }
        drop(sink);
        let (sent, received) = (after.0 - before.0, (after.1 - before.1).min(after.0 - before.0));
        let limited =
            rate.is_some_and(|rate| (sent as f64) < rate * lasted * (1.0 - XDP_TOLERANCE));
        Ok(Trial {
            outcome: Outcome { duration: seconds, sent, received, limited },
            lasted: at_most,
            duplicated: 0,
            reordered: 0,
            latency: None,
            seconds: vec![crate::soak::Interval { sent, lost: sent - received }],
            warnings: Vec::new(),
        })
    }
}

/// Each queue on a CPU of its own, from `cpu` on, as far as there are some.
fn spread(cpu: usize, queues: u32, cpus: usize) -> String {
    let next = |queue: usize| if cpu + queue < cpus { cpu + queue } else { cpu };
    (0..queues as usize).map(|queue| next(queue).to_string()).collect::<Vec<_>>().join(",")
}

fn cpus_here() -> usize {
    // This process may be kept to some of them; where it sends is the scenario's to say.
    core_affinity::get_core_ids().and_then(|ids| ids.iter().map(|id| id.id + 1).max()).unwrap_or(1)
}

/// What a trial that Ctrl-C ended says.
pub const INTERRUPTED: &str = "interrupted";

/// Whether an XDP program is on the interface.
pub fn has_program(place: &crate::ends::Place) -> Result<bool, String> {
    let mut show = place.command("ip");
    let shown = programs::finish(show.args(["link", "show", &place.interface]), None)?;
    Ok(shown.contains("prog/xdp"))
}

/// Waits until an XDP program is on the interface, and then a little for the one who put it there.
pub fn wait_for_program(
    place: &crate::ends::Place,
    mut check: impl FnMut() -> Result<(), String>,
) -> Result<(), String> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if has_program(place)? {
            sleep(Duration::from_millis(50));
            return Ok(());
        }
        check()?;
        if Instant::now() > deadline {
            return Err(format!("no XDP program on {} after 10 s", place.interface));
        }
        sleep(Duration::from_millis(10));
    }
}

/// The part of pktgen's report (`millrace-pktgen/1`) that is needed.
#[derive(Debug, Deserialize)]
pub(crate) struct Report {
    total: Counts,
    latency: Option<Percentiles>,
    generator: Own,
    #[serde(default)]
    seconds: Vec<Second>,
    #[serde(default)]
    warnings: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Counts {
    asked: u64,
    completed: u64,
    unsent: u64,
    received: u64,
    duplicated: u64,
    reordered: u64,
}

#[derive(Debug, Deserialize)]
struct Own {
    rx_dropped: u64,
}

#[derive(Debug, Deserialize)]
struct Second {
    completed: u64,
    received: u64,
}

impl Report {
    /// As a trial at `rate`.
    pub(crate) fn trial(self, rate: Option<f64>, seconds: f64) -> Trial {
        let total = &self.total;
        // What its own sockets had no room for has come through the device.
        let received = (total.received + self.generator.rx_dropped).min(total.completed);
        let share = |part: u64, whole: u64| part as f64 / (whole as f64).max(1.0);
        let short = share(total.unsent, total.asked) > TOLERANCE && rate.is_some();
        let blind = share(self.generator.rx_dropped, total.completed) > TOLERANCE;
        let intervals = self.seconds.iter().map(|second| crate::soak::Interval {
            sent: second.completed,
            // What is under way at a second's end comes in the next: one may have more than it sent.
            lost: second.completed.saturating_sub(second.received),
        });
        Trial {
            outcome: Outcome {
                duration: seconds,
                sent: total.completed,
                received,
                limited: short || (blind && rate.is_some()),
            },
            lasted: seconds,
            duplicated: total.duplicated,
            reordered: total.reordered,
            latency: self.latency,
            seconds: intervals.collect(),
            warnings: self.warnings,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(asked: u64, unsent: u64, received: u64, rx_dropped: u64) -> Report {
        let completed = asked - unsent;
        let text = format!(
            r#"{{"schema": "millrace-pktgen/1", "total": {{"asked": {asked}, "queued": {completed},
            "completed": {completed}, "unsent": {unsent}, "received": {received}, "lost": 0,
            "duplicated": 3, "reordered": 4}}, "generator": {{"rx_dropped": {rx_dropped}}},
            "latency": null, "seconds": [{{"completed": 10, "received": 9}}, {{"completed": 1, "received": 2}}]}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn queues_have_cpus_of_their_own_as_far_as_there_are_some() {
        assert_eq!(spread(2, 1, 4), "2");
        assert_eq!(spread(0, 4, 4), "0,1,2,3");
        assert_eq!(spread(2, 3, 4), "2,3,2");
    }

    #[test]
    fn what_was_not_sent_or_not_taken_in_is_not_the_device_s_loss() {
        let trial = report(1000, 4, 990, 2).trial(Some(1000.0), 1.0);
        assert_eq!((trial.outcome.sent, trial.outcome.received), (996, 992));
        assert!(!trial.outcome.limited);
        assert_eq!((trial.duplicated, trial.reordered), (3, 4));
        assert_eq!(trial.seconds.iter().map(|i| i.lost).collect::<Vec<_>>(), [1, 0]);
        assert!(report(1000, 6, 994, 0).trial(Some(1000.0), 1.0).outcome.limited);
        assert!(report(1000, 0, 990, 10).trial(Some(1000.0), 1.0).outcome.limited);
        // As fast as it can: nothing was promised.
        assert!(!report(1000, 600, 400, 0).trial(None, 1.0).outcome.limited);
    }
}
