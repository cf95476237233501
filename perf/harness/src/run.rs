//! A scenario from its first namespace to its certificate.
//!
//! Rounds go around the devices, so that neighbors in time are what is compared: round 1 of each device, then round 2. A device is
//! set up anew in each, gets traffic until some of it arrives, then a warm-up that nobody counts, then is measured.

mod method;
mod soak;
mod stateful;

use crate::device::{Stage, Wants};
use crate::ends::Ends;
use crate::fingerprint::Fingerprint;
use crate::folder::Folder;
use crate::generator::{INTERRUPTED, Source, Stream};
use crate::progress::Progress;
use crate::results::{
    Calibration, Certificate, Device, Judged, LatencyAt, Point, Round, SCHEMA, Trial,
};
use crate::scenario::{Find, Generator, Named, Scenario, Topology};
use crate::search::{Dut, Error, Goal, Irregular, Limits, Outcome, search};
use crate::statistics::median;
use crate::units::show_rate;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What is asked of each device once it forwards.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Task {
    /// What the scenario's `measure` says.
    Measure,
    /// A long trial at a rate: packets a second, seconds, greatest loss ratio.
    Soak {
        /// Packets a second.
        rate: f64,
        /// Seconds.
        seconds: f64,
        /// The loss ratio that is asked about.
        target: f64,
    },
    /// Changes under load.
    Reconf {
        /// Packets a second; what the device carries without loss (NDR), if that is to be found first.
        rate: Option<f64>,
        /// How many.
        changes: u64,
        /// Most seconds for them.
        seconds: f64,
    },
    /// What the scenario's `stateful` says.
    Stateful,
}

/// Runs a scenario. On Ctrl-C (`stop`), and after a failure once something was finished, the certificate has what was finished,
/// says that it is not complete, and why.
pub fn run(
    scenario: &Scenario,
    task: Task,
    stop: &AtomicBool,
    progress: &mut Progress,
) -> Result<Certificate, String> {
    let began = Instant::now();
    let mut run = Run { scenario, task, stop, progress, warnings: Vec::new() };
    let mut certificate = Certificate {
        schema: SCHEMA.into(),
        scenario: scenario.name.clone(),
        started_unix: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
        seconds: 0.0,
        complete: false,
        fingerprint: Fingerprint::read(),
        method: method::of(scenario, task),
        calibration: Vec::new(),
        devices: Vec::new(),
        warnings: Vec::new(),
    };
    let version = env!("CARGO_PKG_VERSION").to_owned();
    certificate.fingerprint.versions.insert("millrace-perf".into(), version);
    for program in programs_of(scenario) {
        if let Some(version) = version_of(program) {
            certificate.fingerprint.versions.insert(program.into(), version);
        }
    }
    let done = run.all(&mut certificate);
    certificate.seconds = began.elapsed().as_secs_f64();
    certificate.warnings.append(&mut run.warnings);
    // What fails once we are told to end fails because of that.
    let stopped = stop.load(Ordering::Relaxed);
    let done = done.map_err(|why| if stopped { INTERRUPTED.to_owned() } else { why });
    match done {
        Ok(()) => certificate.complete = true,
        Err(why) if why == INTERRUPTED => {
            certificate.warnings.push("interrupted: what follows was not measured".into());
        }
        Err(why) if certificate.devices.is_empty() => return Err(why),
        Err(why) => certificate.warnings.push(format!("what follows was not measured: {why}")),
    }
    Ok(certificate)
}

struct Run<'a> {
    scenario: &'a Scenario,
    task: Task,
    stop: &'a AtomicBool,
    progress: &'a mut Progress,
    warnings: Vec<String>,
}

impl<'a> Run<'a> {
    fn all(&mut self, certificate: &mut Certificate) -> Result<(), String> {
        let frames = &self.scenario.traffic.frames;
        let alone = match self.task {
            Task::Stateful => Some(self.stateful_alone()?),
            _ => None,
        };
        for frame in frames.iter().filter(|_| alone.is_none()) {
            if let Some(calibration) = self.calibrate(*frame)? {
                certificate.calibration.push(calibration);
            }
        }
        for round in 1..=self.scenario.rounds {
            for frame in frames {
                for named in &self.scenario.devices {
                    let most = certificate.calibration.iter().find(|c| c.frame == *frame);
                    let most = most.map(|c| c.limit).or_else(|| self.known_limit());
                    let label = format!("{} {frame} B round {round}", named.name());
                    let (measured, path, ended) = match &alone {
                        Some(alone) => self.stateful(named, *frame, alone, &label)?,
                        None => self.round(named, *frame, most, &label)?,
                    };
                    let device = place_of(certificate, named);
                    device.path = path;
                    match device.points.iter_mut().find(|point| point.frame == *frame) {
                        Some(point) => point.rounds.push(measured),
                        None => {
                            device.points.push(Point { frame: *frame, rounds: vec![measured] });
                        }
                    }
                    ended?;
                }
            }
        }
        Ok(())
    }

    fn known_limit(&self) -> Option<f64> {
        match &self.scenario.topology {
            Topology::Nics(nics) => nics.generator_limit,
            Topology::Veth { .. } => None,
        }
    }

    /// What the generator does without a device; None over NICs, which are not ours to join.
    fn calibrate(&mut self, frame: u32) -> Result<Option<Calibration>, String> {
        let Topology::Veth { queues, mtu } = self.scenario.topology else {
            if frame == self.scenario.traffic.frames.first().copied().unwrap_or(0)
                && self.known_limit().is_none()
            {
                self.warnings.push(
                    "what the generator alone does over these NICs is not known (topology.generator_limit): \
                     no rate is called the device's"
                        .into(),
                );
            }
            return Ok(None);
        };
        let ends = Ends::joined("cal", queues, mtu)?;
        let logs = Folder::create("cal")?;
        let source = self.source(&ends, &logs, frame, false);
        let mut trials = Vec::new();
        for _ in 0..3 {
            let trial =
                source.trial(None, self.scenario.measure.final_trial.as_secs_f64().min(1.0))?;
            trials.push(trial.outcome.received as f64 / trial.lasted);
        }
        let limit = median(&trials).ok_or("no trial")?;
        if limit <= 0.0 {
            return Err("the generator alone: nothing arrived".into());
        }
        self.progress.staying(&format!("generator alone, {frame} B: {}", show_rate(limit)));
        Ok(Some(Calibration { frame, limit, trials }))
    }

    fn source<'b>(&self, ends: &'b Ends, logs: &Folder, frame: u32, to_services: bool) -> Source<'b>
    where
        'a: 'b,
    {
        let scenario = self.scenario;
        let traffic = &scenario.traffic;
        Source {
            kind: traffic.generator,
            ends,
            stream: Stream { frame, flows: traffic.flows, services: traffic.services, to_services },
            cpus: &scenario.cpus,
            logs: logs.path().to_owned(),
            stop: self.stop,
        }
    }

    /// One device, one frame size, once. What was measured counts also where it ended before its time, with an error of its own.
    fn round(
        &mut self,
        named: &Named,
        frame: u32,
        most: Option<f64>,
        label: &str,
    ) -> Result<(Round, crate::results::Path, Result<(), String>), String> {
        self.progress.passing(&format!("{label}: setting up"));
        let mut stage = Stage::set_up(&named.device, self.scenario, Wants::default(), self.stop)?;
        let services = named.device.has_services();
        let path = stage.ends.path.clone();
        let measure = &self.scenario.measure;
        let max = measure.max.or(most).unwrap_or(10e6).max(measure.min * 2.0);
        let mut round = Round::default();
        {
            let source = self.source(&stage.ends, &stage.folder, frame, services);
            self.wait_for_packets(&source, label)?;
            let gentle = (max * 0.5).max(measure.min);
            source.trial(Some(gentle), measure.warm_up.as_secs_f64())?;
        }
        stage.check()?;
        match self.task {
            Task::Measure => {
                self.measure(&mut stage, frame, services, (max, most), label, &mut round)?
            }
            Task::Soak { rate, seconds, target } => {
                let source = self.source(&stage.ends, &stage.folder, frame, services);
                let (soak, ended) = self.soak(&source, rate, seconds, target, label)?;
                round.soak = Some(soak);
                if ended.is_err() {
                    return Ok((round, path, ended));
                }
            }
            Task::Reconf { rate, changes, seconds } => {
                let rate = match rate {
                    Some(rate) => rate,
                    None => {
                        let goals = [measure.goal()];
                        self.search(
                            &stage,
                            frame,
                            services,
                            (max, most),
                            &goals,
                            label,
                            &mut round,
                        )?;
                        let found = round.bounds.last().and_then(|judged| judged.bounds.lower);
                        found.ok_or("no rate without loss was found to make changes at (--rate)")?
                    }
                };
                let source = self.source(&stage.ends, &stage.folder, frame, services);
                self.progress.passing(&format!("{label}: changes under load"));
                let reconf = crate::changes::measure(
                    &stage,
                    &source,
                    &named.device,
                    rate,
                    changes,
                    seconds,
                )?;
                round.reconf = Some(reconf);
            }
            // It has rounds of its own.
            Task::Stateful => {}
        }
        stage.check()?;
        Ok((round, path, Ok(())))
    }

    /// Until the device forwards: its tables may come later than its sockets.
    fn wait_for_packets(&self, source: &Source<'_>, label: &str) -> Result<(), String> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let trial = source.trial(Some(self.scenario.measure.min.max(1_000.0)), 0.2)?;
            if trial.outcome.received > 0 {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("{label}: no packet comes through the device"));
            }
        }
    }

    fn measure(
        &mut self,
        stage: &mut Stage<'_>,
        frame: u32,
        services: bool,
        (max, most): (f64, Option<f64>),
        label: &str,
        round: &mut Round,
    ) -> Result<(), String> {
        let measure = &self.scenario.measure;
        let goals = measure.goals();
        if measure.find.contains(&Find::Mrr) {
            for n in 1..=measure.mrr_trials {
                self.progress.passing(&format!("{label}: MRR trial {n}"));
                let source = self.source(&stage.ends, &stage.folder, frame, services);
                let trial = source.trial(None, measure.final_trial.as_secs_f64())?;
                round.mrr.push(trial.outcome.received as f64 / trial.lasted);
            }
            let median = median(&round.mrr).unwrap_or(0.0);
            self.progress.staying(&format!("{label}: MRR {}", show_rate(median)));
        }
        if !goals.is_empty() {
            self.search(stage, frame, services, (max, most), &goals, label, round)?;
        }
        self.latency(stage, frame, services, label, round)
    }

    /// The search, with all its trials in the round.
    #[allow(clippy::too_many_arguments)]
    fn search(
        &mut self,
        stage: &Stage<'_>,
        frame: u32,
        services: bool,
        (max, most): (f64, Option<f64>),
        goals: &[Goal],
        label: &str,
        round: &mut Round,
    ) -> Result<(), String> {
        let measure = &self.scenario.measure;
        {
            let source = self.source(&stage.ends, &stage.folder, frame, services);
            // As fast as it can: what it can send with this device, and what the device forwards then. On a veth the receiving side of a
            // device runs on the sender's CPU, so that this is less than without one.
            self.progress.passing(&format!("{label}: overload"));
            let length = measure.initial_trial.as_secs_f64();
            let trial = source.trial(None, length)?;
            let overload = trial.outcome;
            let second = |packets: u64| packets as f64 / trial.lasted;
            let can = second(overload.sent).max(measure.min * 2.0);
            let limits = Limits {
                min: measure.min,
                max: max.min(can),
                seconds: measure.at_most.as_secs_f64(),
                start: Some(second(overload.received).max(measure.min)),
            };
            let progress = &mut *self.progress;
            let found =
                search(&mut Bench { source: &source }, goals, limits, |goal, load, outcome| {
                    let loss = outcome.loss_ratio() * 100.0;
                    let limited = if outcome.limited { ", generator fell short" } else { "" };
                    let load = show_rate(load);
                    progress
                        .passing(&format!("{label}: {goal}, {load}: {loss:.3} % lost{limited}"));
                });
            let found = found.map_err(|error| match error {
                Error::Trial(why) | Error::Invalid(why) => why,
            })?;
            if found.limited > 0 {
                self.warnings.push(format!(
                    "{label}: {} trials thrown away, since the generator did not keep to the rate",
                    found.limited
                ));
            }
            for (load, trials) in found.trials.all() {
                round.trials.extend(trials.iter().map(|t| Trial {
                    load: *load,
                    duration: t.duration,
                    sent: t.sent,
                    received: t.received,
                }));
            }
            for mut bounds in found.bounds {
                // The highest rate is the generator's, unless it was asked to stay below.
                if bounds.irregular == Some(Irregular::MaximumMeets) && can < max {
                    bounds.irregular = Some(Irregular::GeneratorLimit);
                }
                let judged = Judged::of(bounds, most);
                self.progress.staying(&format!("{label}: {}", judged.in_words()));
                round.bounds.push(judged);
            }
        }
        Ok(())
    }

    /// At shares of the last goal's bound that is there.
    fn latency(
        &mut self,
        stage: &Stage<'_>,
        frame: u32,
        services: bool,
        label: &str,
        round: &mut Round,
    ) -> Result<(), String> {
        let measure = &self.scenario.measure;
        let found = round.bounds.iter().rev().find_map(|judged| {
            judged.bounds.lower.map(|lower| (judged.bounds.goal.name.clone(), lower))
        });
        let Some((of, rate)) = found.filter(|_| !measure.latency.is_empty()) else { return Ok(()) };
        if self.scenario.traffic.generator == Generator::Xdp
            && crate::programs::find("millrace-pktgen").is_err()
        {
            self.warnings.push(format!("{label}: no latency without millrace-pktgen"));
            return Ok(());
        }
        let source = self.source(&stage.ends, &stage.folder, frame, services);
        let source = Source { kind: Generator::Pktgen, ..source };
        for share in &measure.latency {
            self.progress.passing(&format!("{label}: latency at {:.0} % of {of}", share * 100.0));
            let rate = rate * share;
            let trial = source.trial(Some(rate), measure.latency_trial.as_secs_f64())?;
            let percentiles = trial.latency.filter(|_| !trial.outcome.limited);
            round.latency.push(LatencyAt {
                of: of.clone(),
                share: *share,
                rate,
                loss_ratio: trial.outcome.loss_ratio(),
                percentiles,
            });
        }
        Ok(())
    }
}

/// A trial that the generator kept to its rate in, the first of up to three, and how many were thrown away before.
pub(crate) fn repeated(
    mut trial: impl FnMut() -> Result<crate::generator::Trial, String>,
) -> (Result<Option<crate::generator::Trial>, String>, u32) {
    for short in 0..3 {
        match trial() {
            Ok(trial) if trial.outcome.limited => {}
            Ok(trial) => return (Ok(Some(trial)), short),
            Err(why) => return (Err(why), short),
        }
    }
    (Ok(None), 3)
}

/// The search's view of a source.
struct Bench<'a, 'b> {
    source: &'a Source<'b>,
}

impl Dut for Bench<'_, '_> {
    type Error = String;

    fn trial(&mut self, load: f64, duration: f64) -> Result<Outcome, String> {
        self.source.trial(Some(load), duration).map(|trial| trial.outcome)
    }
}

fn place_of<'c>(certificate: &'c mut Certificate, named: &Named) -> &'c mut Device {
    let found = certificate.devices.iter().position(|device| device.name == named.name());
    let index = found.unwrap_or_else(|| {
        certificate.devices.push(Device {
            name: named.name().into(),
            kind: named.device.kind().into(),
            path: crate::results::Path::default(),
            points: Vec::new(),
        });
        certificate.devices.len() - 1
    });
    &mut certificate.devices[index]
}

/// Other programs that take part.
fn programs_of(scenario: &Scenario) -> Vec<&'static str> {
    let mut programs = vec!["millrace-pktgen"];
    for named in &scenario.devices {
        programs.extend_from_slice(match named.device.kind() {
            "millrace" => &["millrace-dataplane", "millrace-control"],
            "nftables" => &["nft"],
            "iptables" => &["iptables-legacy"],
            _ => &[],
        });
    }
    programs
}

/// What a program says of itself, on one line.
fn version_of(program: &str) -> Option<String> {
    let path = crate::programs::find(program).ok()?;
    let mut command = std::process::Command::new(path);
    let text = crate::programs::finish(command.arg("--version"), None).ok()?;
    let line = text.lines().next()?.trim();
    let rest = line.strip_prefix(program).filter(|rest| rest.starts_with(' '));
    Some(rest.unwrap_or(line).trim().to_owned())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::generator::Trial;

    pub(super) fn trial(limited: bool) -> Trial {
        let outcome = Outcome { duration: 1.0, sent: 10, received: 10, limited };
        let (latency, seconds, warnings) = (None, Vec::new(), Vec::new());
        Trial { outcome, lasted: 1.0, duplicated: 0, reordered: 0, latency, seconds, warnings }
    }

    #[test]
    fn a_part_that_fell_short_is_repeated_a_few_times() {
        let after = |short: u32| {
            let mut calls = 0;
            let (found, thrown) = repeated(|| {
                calls += 1;
                Ok(trial(calls <= short))
            });
            (found.unwrap().is_some(), thrown, calls)
        };
        assert_eq!(after(0), (true, 0, 1));
        assert_eq!(after(2), (true, 2, 3));
        assert_eq!(after(3), (false, 3, 3));
        let (failed, thrown) = repeated(|| Err(INTERRUPTED.into()));
        assert_eq!((failed.err().as_deref(), thrown), (Some(INTERRUPTED), 0));
    }
}
