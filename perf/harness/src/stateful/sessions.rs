//! The ladder: so many UDP sessions opened, then kept busy.
//!
//! pktgen sends and receives on one interface: its packets come back from a program at the far end that swaps their addresses, and
//! the signature in each says which one it was. Session s of a trial has address base + s / 32,768 and port 32,768 + s % 32,768.

use super::{Plan, Ramp, Step, Sustain, netns};
use crate::ends::Ends;
use crate::generator::{INTERRUPTED, Report, Trial};
use crate::programs;
use crate::scenario::Cpus;
use crate::services;
use crate::statistics::median;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Ports of an address.
pub const PORTS: u64 = 1 << 15;
/// The first client's address, in the network that devices route to the generator.
const CLIENTS: Ipv4Addr = Ipv4Addr::new(10, 200, 1, 0);
/// Passes of a ramp at most, each at half the rate of the one before.
const PASSES: u32 = 4;

/// Sessions through the ends.
pub struct Sessions<'a> {
    /// Between what.
    pub ends: &'a Ends,
    /// Where the generator runs.
    pub cpus: &'a Cpus,
    /// Bytes of a frame, with FCS.
    pub frame: u32,
    /// Destinations.
    pub services: u16,
    /// Whether those are services, or pods.
    pub to_services: bool,
    /// A folder for profiles.
    pub folder: &'a Path,
    /// Set by Ctrl-C.
    pub stop: &'a AtomicBool,
}

/// How much is sent.
#[derive(Clone, Copy, Debug)]
enum Length {
    Packets(u64),
    Seconds(f64),
}

impl Sessions<'_> {
    fn profile(&self, sessions: u64, rate: Option<f64>, length: Length) -> String {
        let port = &self.ends.generator.interface;
        let netns = netns(self.ends).map_or(String::new(), |name| format!("netns = \"{name}\"\n"));
        let rate = rate.map_or("max".into(), |rate| format!("{rate:.3}pps"));
        let length = match length {
            // A ramp is to send them all, however late.
            Length::Packets(count) => format!("count = \"{count}\"\nmax_lag = \"60s\""),
            Length::Seconds(seconds) => format!("duration = \"{seconds}s\""),
        };
        let last = u32::from(CLIENTS) + (sessions.div_ceil(PORTS) - 1) as u32;
        let src = format!("{CLIENTS}-{}", Ipv4Addr::from(last));
        let last_port = PORTS + sessions.min(PORTS) - 1;
        let first = if self.to_services { services::FIRST } else { services::FIRST_POD };
        let dst = Ipv4Addr::from(u32::from(first) + u32::from(self.services) - 1);
        format!(
            "name = \"{sessions} sessions\"\nrate = \"{rate}\"\n{length}\ndrain = \"300ms\"\n\
             [tx]\ninterface = \"{port}\"\n{netns}cpus = [{cpu}]\n\
             [rx]\ninterface = \"{port}\"\n{netns}\n\
             [[stream]]\nprotocol = \"udp\"\nsize = {size}\n\
             src = {{ range = \"{src}\", every = {PORTS} }}\nsrc_port = \"{PORTS}-{last_port}\"\n\
             dst = \"{first}-{dst}\"\ndst_port = \"{to}\"\nsrc_mac = \"{own}\"\ndst_mac = \"{device}\"\n",
            cpu = self.cpus.generator,
            size = self.frame,
            to = services::PORT,
            own = self.ends.generator.mac,
            device = self.ends.inside.mac,
        )
    }

    fn send(&self, sessions: u64, rate: Option<f64>, length: Length) -> Result<Trial, String> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(INTERRUPTED.into());
        }
        let file = self.folder.join("sessions.toml");
        fs::write(&file, self.profile(sessions, rate, length)).map_err(|e| e.to_string())?;
        let mut command = std::process::Command::new(programs::find("millrace-pktgen")?);
        command.args(["run", "--json", "--quiet", "--profile"]).arg(&file);
        let seconds = match length {
            Length::Seconds(seconds) => seconds,
            Length::Packets(count) => count as f64 / rate.unwrap_or(1e6),
        };
        let text = programs::generate(&mut command, seconds, self.stop);
        if self.stop.load(Ordering::Relaxed) {
            return Err(INTERRUPTED.into());
        }
        let report: Report = serde_json::from_str(&text?)
            .map_err(|e| format!("millrace-pktgen's report can't be read: {e}"))?;
        Ok(report.trial(rate, seconds))
    }

    /// Round trips a second under the highest load: median of three trials.
    pub fn most(&self, sessions: u64, seconds: f64) -> Result<f64, String> {
        let mut rates = Vec::new();
        for _ in 0..3 {
            let trial = self.send(sessions, None, Length::Seconds(seconds))?;
            rates.push(trial.outcome.received as f64 / trial.lasted);
        }
        Ok(median(&rates).unwrap_or(0.0))
    }

    /// Until some packet comes back: the device's tables may come later than its sockets.
    pub fn wait(&self) -> Result<(), String> {
        let began = Instant::now();
        loop {
            let trial = self.send(1, Some(1000.0), Length::Packets(20))?;
            if trial.outcome.received > 0 {
                return Ok(());
            }
            if began.elapsed().as_secs() > 20 {
                return Err("no packet comes back through the device".into());
            }
        }
    }

    /// One step. `tracked` asks the device.
    pub fn step(
        &self,
        plan: &Plan,
        sessions: u64,
        (alone, trial): (Option<f64>, f64),
        tracked: impl Fn() -> Result<Option<u64>, String>,
        mut tell: impl FnMut(&str),
    ) -> Result<Step, String> {
        let ramp = self.ramp(plan.ramp, sessions, &tracked, &mut tell)?;
        if !ramp.complete {
            return Ok(Step { sessions, ramp, sustain: None, failed: Some(unfinished(&ramp)) });
        }
        tell("sustain");
        let seconds = plan.sustain.as_secs_f64();
        let kept = self.send(sessions, Some(plan.rate), Length::Seconds(seconds))?;
        let most = self.most(sessions, trial)?;
        let sustain = Sustain {
            rate: plan.rate,
            seconds,
            sent: kept.outcome.sent,
            answered: kept.outcome.received,
            kept: !kept.outcome.limited,
            round_trip: kept.latency,
            most,
            alone,
            tracked: tracked()?,
        };
        Ok(Step { sessions, ramp, sustain: Some(sustain), failed: None })
    }

    fn ramp(
        &self,
        first: f64,
        sessions: u64,
        tracked: impl Fn() -> Result<Option<u64>, String>,
        mut tell: impl FnMut(&str),
    ) -> Result<Ramp, String> {
        let began = Instant::now();
        let mut ramp = Ramp::default();
        for pass in 1..=PASSES {
            let rate = first / f64::from(1 << (pass - 1));
            tell(&format!("ramp, pass {pass} at {}", crate::units::show_rate(rate)));
            let trial = self.send(sessions, Some(rate), Length::Packets(sessions))?;
            ramp.passes = pass;
            ramp.rate = rate;
            (ramp.sent, ramp.answered) = (trial.outcome.sent, trial.outcome.received);
            ramp.seconds = began.elapsed().as_secs_f64();
            ramp.tracked = tracked()?;
            ramp.complete = is_complete(&ramp, sessions);
            if ramp.complete {
                break;
            }
        }
        Ok(ramp)
    }
}

/// A pass in which each session's packet was sent and came back. Where the device can be asked, it must have them all, and one in a
/// thousand packets may be lost: the session is there since an earlier pass.
fn is_complete(ramp: &Ramp, sessions: u64) -> bool {
    let (least, has_all) = match ramp.tracked {
        None => (sessions, true),
        Some(tracked) => (sessions - sessions / 1000, tracked >= sessions),
    };
    ramp.sent >= least && ramp.answered >= least && has_all
}

fn unfinished(ramp: &Ramp) -> String {
    let tracked = ramp.tracked.map_or(String::new(), |n| format!("; the device tracks {n}"));
    format!(
        "the ramp was not complete after {} passes: in the last one {} packets were sent and {} came back{tracked}",
        ramp.passes, ramp.sent, ramp.answered
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ramp_is_complete_only_if_all_came_back_and_are_tracked() {
        let ramp = |sent, answered, tracked| Ramp { sent, answered, tracked, ..Ramp::default() };
        assert!(is_complete(&ramp(100, 100, None), 100));
        assert!(is_complete(&ramp(100, 100, Some(101)), 100));
        assert!(!is_complete(&ramp(100, 99, None), 100));
        // The generator gave some up: they were never opened.
        assert!(!is_complete(&ramp(99, 99, None), 100));
        // All came back, and the device has forgotten one already.
        assert!(!is_complete(&ramp(100, 100, Some(99)), 100));
        // The device has all, and one packet of this pass was lost.
        assert!(is_complete(&ramp(1000, 999, Some(1000)), 1000));
        assert!(!is_complete(&ramp(1000, 998, Some(1000)), 1000));
        assert!(!is_complete(&ramp(1000, 999, None), 1000));
        assert!(unfinished(&ramp(100, 100, Some(99))).contains("tracks 99"));
    }

    #[test]
    fn sessions_differ_by_address_and_port() {
        let place = |interface: &str| crate::ends::Place {
            netns: Some("n".into()),
            interface: interface.into(),
            mac: "02:00:00:00:00:01".into(),
        };
        let ends = Ends::of(place("gen0"), place("in0"), place("out0"), place("sink0"));
        let sessions = Sessions {
            ends: &ends,
            cpus: &Cpus::default(),
            frame: 64,
            services: 10,
            to_services: true,
            folder: Path::new("/"),
            stop: &AtomicBool::new(false),
        };
        let profile = |n| sessions.profile(n, Some(1e5), Length::Packets(n));
        let small = profile(100);
        assert!(
            small.contains("src_port = \"32768-32867\"") && small.contains("10.200.1.0-10.200.1.0")
        );
        let large = profile(1 << 20);
        assert!(
            large.contains("src_port = \"32768-65535\"")
                && large.contains("10.200.1.0-10.200.1.31")
        );
        assert!(
            large.contains("count = \"1048576\"")
                && large.contains("dst = \"172.20.0.0-172.20.0.9\"")
        );
        let most = profile(1 << 24);
        assert!(most.contains("10.200.1.0-10.200.2.255"), "{most}");
    }
}
