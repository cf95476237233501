//! Connections a second: pktgen's `tcp` and `udp` modes against a server of the receiver's kernel.
//!
//! In a trial at a rate, what counts as lost is a connection that was due and not begun (all places were still taken), that was reset,
//! or that was not over in time; a retransmitted SYN takes longer than that. So the device that is too slow shows, and so does a
//! generator that is: its own limit is known from the same without a device.

use super::{Connections, Plan, netns};
use crate::ends::{Ends, Place};
use crate::generator::INTERRUPTED;
use crate::programs;
use crate::results::{Judged, Percentiles, Trial};
use crate::scenario::{Cpus, Measure};
use crate::search::{Dut, Error, Goal, Limits, Outcome, search};
use crate::services::{self, Protocol};
use crate::settings::Settings;
use crate::statistics::median;
use serde::Deserialize;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Addresses of the clients, in the network that the generator shares with the device.
const CLIENTS: u8 = 8;
/// Bytes of a request, and of its answer.
const BYTES: &str = "64";

/// Clients on the generator's end.
pub struct Clients<'a> {
    /// Between what.
    pub ends: &'a Ends,
    /// Where they run.
    pub cpus: &'a Cpus,
    /// Their protocol.
    pub protocol: Protocol,
    /// Whom they ask.
    pub server: SocketAddr,
    /// What is asked for.
    pub plan: &'a Plan,
    /// Set by Ctrl-C.
    pub stop: &'a AtomicBool,
}

/// The part of pktgen's report that is needed.
#[derive(Debug, Deserialize)]
struct Report {
    elapsed_s: f64,
    other: Counts,
}

#[derive(Debug, Deserialize)]
struct Counts {
    opened: u64,
    finished: u64,
    setup_time: Option<Percentiles>,
}

/// One trial.
#[derive(Debug)]
struct Tried {
    due: u64,
    finished: u64,
    per_second: f64,
    setup_time: Option<Percentiles>,
}

impl Report {
    fn tried(self, rate: Option<f64>, seconds: f64) -> Tried {
        let due = rate.map_or(0, |rate| (rate * seconds) as u64).max(self.other.opened);
        Tried {
            due,
            finished: self.other.finished,
            per_second: self.other.finished as f64 / self.elapsed_s.max(seconds),
            setup_time: self.other.setup_time,
        }
    }
}

impl Clients<'_> {
    fn trial(&self, rate: Option<f64>, seconds: f64) -> Result<Tried, String> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(INTERRUPTED.into());
        }
        let mut command = std::process::Command::new(programs::find("millrace-pktgen")?);
        command.args([self.protocol.name(), "--json", "--quiet"]);
        command.args(["--tx", &self.ends.generator.interface]);
        if let Some(netns) = netns(self.ends) {
            command.args(["--netns-tx", netns]);
        }
        for host in 0..CLIENTS {
            // The first is the one that the device knows as its neighbor; the others it asks for.
            let host = if host == 0 { 2 } else { 99 + host };
            command.args(["--address", &format!("10.0.1.{host}/24")]);
        }
        command.args(["--gateway", "10.0.1.1", "--server", &self.server.to_string()]);
        command.args(["--request", BYTES, "--response", BYTES]);
        command.args(["--concurrent", &self.plan.concurrent.to_string()]);
        command.args(["--timeout", &format!("{}ms", self.plan.timeout.as_millis())]);
        command.args(["--duration", &format!("{seconds}s")]);
        command.args(["--cpu", &self.cpus.generator.to_string()]);
        if let Some(rate) = rate {
            command.args(["--per-second", &format!("{rate:.3}")]);
        }
        let text = programs::generate(&mut command, seconds, self.stop);
        if self.stop.load(Ordering::Relaxed) {
            return Err(INTERRUPTED.into());
        }
        let report: Report = serde_json::from_str(&text?)
            .map_err(|e| format!("millrace-pktgen's report can't be read: {e}"))?;
        Ok(report.tried(rate, seconds))
    }

    /// Until some connection comes to its end: the device's tables, and its neighbors, may come later than its sockets.
    pub fn wait(&self) -> Result<(), String> {
        let began = Instant::now();
        loop {
            if self.trial(Some(100.0), 0.2)?.finished > 0 {
                return Ok(());
            }
            if began.elapsed().as_secs() > 20 {
                let (name, server) = (self.protocol.name(), self.server);
                return Err(format!("no {name} connection to {server} comes to its end"));
            }
        }
    }

    /// One connection after the other in all places: connections a second, median of three trials.
    pub fn closed_loop(&self, seconds: f64) -> Result<f64, String> {
        let mut rates = Vec::new();
        for _ in 0..3 {
            rates.push(self.trial(None, seconds)?.per_second);
        }
        let rate = median(&rates).unwrap_or(0.0);
        match rate > 0.0 {
            true => Ok(rate),
            false => Err(format!(
                "no {} connection to {} came to its end",
                self.protocol.name(),
                self.server
            )),
        }
    }

    /// The search, and the time to be established at half of what it found; `alone` is what is known of generator and server
    /// without a device.
    pub fn measure(
        &self,
        measure: &Measure,
        alone: Option<f64>,
        mut tell: impl FnMut(f64, f64),
    ) -> Result<Connections, String> {
        let closed_loop = self.closed_loop(measure.initial_trial.as_secs_f64().min(1.0))?;
        let goal = goal(measure, self.protocol);
        let limits = Limits {
            min: (closed_loop / 50.0).max(1.0),
            // In an open loop as many wait at once as have to: it may be more than one after the other.
            max: (closed_loop * 3.0).max(100.0).min(measure.max.unwrap_or(f64::INFINITY)),
            seconds: measure.at_most.as_secs_f64(),
            start: Some(closed_loop),
        };
        let found = search(&mut Searched(self), &[goal], limits, |_, load, outcome| {
            tell(load, outcome.loss_ratio());
        });
        let found = found.map_err(|error| match error {
            Error::Trial(why) | Error::Invalid(why) => why,
        })?;
        let trials = found.trials.all().iter().flat_map(|(load, trials)| {
            trials.iter().map(|t| Trial {
                load: *load,
                duration: t.duration,
                sent: t.sent,
                received: t.received,
            })
        });
        let trials = trials.collect();
        let bounds = found.bounds.into_iter().next().ok_or("a search without bounds")?;
        let bounds = Judged::of(bounds, alone);
        let setup_time = match bounds.bounds.lower {
            Some(rate) => {
                self.trial(Some(rate / 2.0), measure.final_trial.as_secs_f64())?.setup_time
            }
            None => None,
        };
        let protocol = self.protocol;
        Ok(Connections { protocol, bounds, alone, closed_loop, setup_time, trials })
    }
}

/// As PDR's, by connections.
fn goal(measure: &Measure, protocol: Protocol) -> Goal {
    let name = format!("{} ({})", crate::results::CONNECTIONS, protocol.name());
    let loss_ratio = measure.pdr_loss;
    Goal { name, loss_ratio, ..measure.goal() }
}

struct Searched<'a, 'b>(&'a Clients<'b>);

impl Dut for Searched<'_, '_> {
    type Error = String;

    fn trial(&mut self, load: f64, duration: f64) -> Result<Outcome, String> {
        let tried = self.0.trial(Some(load), duration)?;
        let received = tried.finished.min(tried.due);
        Ok(Outcome { duration, sent: tried.due, received, limited: false })
    }
}

/// Makes the receiver's end a host with all the pods' addresses, whose kernel answers for them; `router` is the device's side of it.
pub fn settle(
    settings: &mut Settings,
    sink: &Place,
    address: &str,
    router: Option<(&str, &str)>,
) -> Result<(), String> {
    let interface = &sink.interface;
    settings.add(sink, "addr", &format!("{address} dev {interface}"))?;
    settings.add(sink, "route", &format!("local {} dev lo", services::PODS))?;
    // Whole checksums and segments: what reads them on the way has no driver to make them.
    let offloads = ["tx-checksumming", "tcp-segmentation-offload", "generic-segmentation-offload"];
    settings.offloads(sink, &offloads, false)?;
    for (name, value) in [
        ("core/somaxconn", "65535"),
        ("ipv4/tcp_max_syn_backlog", "65535"),
        ("ipv4/conf/all/rp_filter", "0"),
        (&format!("ipv4/conf/{interface}/rp_filter"), "0"),
    ] {
        settings.write(sink, &format!("/proc/sys/net/{name}"), value)?;
    }
    let Some((router, mac)) = router else { return Ok(()) };
    settings.add(sink, "neigh", &format!("{router} lladdr {mac} dev {interface} nud permanent"))?;
    for clients in ["10.0.1.0/24", "10.200.0.0/16"] {
        settings.add(sink, "route", &format!("{clients} via {router} dev {interface}"))?;
    }
    Ok(())
}

/// The first service, or the first pod where there are none.
pub fn server(to_services: bool) -> SocketAddr {
    let address: Ipv4Addr = if to_services { services::FIRST } else { services::FIRST_POD };
    SocketAddr::new(address.into(), services::PORT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_due_and_not_begun_has_failed() {
        let report = |opened, finished, elapsed_s| Report {
            elapsed_s,
            other: Counts { opened, finished, setup_time: None },
        };
        let tried = report(900, 890, 1.2).tried(Some(1000.0), 1.0);
        assert_eq!((tried.due, tried.finished), (1000, 890));
        // pktgen begins the first at once: one more than the rate says.
        assert_eq!(report(1001, 1001, 1.0).tried(Some(1000.0), 1.0).due, 1001);
        // Without a rate all that were begun were due, and the wait for the last ones counts as time.
        let tried = report(600, 600, 1.2).tried(None, 1.0);
        assert_eq!((tried.due, tried.per_second), (600, 500.0));
    }
}
