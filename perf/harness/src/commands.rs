//! The commands of `millrace-perf` that need neither the engine's crates nor control's.

mod helpers;
mod output;

use crate::compare;
use crate::progress::Progress;
use crate::report;
use crate::results::JSON_SCHEMA;
use crate::run::{Task, run};
use crate::scenario::{Find, Generator, Named, Scenario, Topology, Traffic};
use crate::services::Protocol;
use crate::stateful::{self, Plan};
use crate::{bare, impair, offer, sweep, tidy, units};
use clap::{Args, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Duration;

pub use helpers::{pin, until_stopped};
pub use output::{Output, write};

/// What to do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Measure what a scenario file asks for: topology, devices, searches, latency
    Run(RunOptions),
    /// Search for the highest rate without loss (MLRsearch, RFC 9971)
    Ndr(RunOptions),
    /// Search for the highest rate with at most half a percent of loss
    Pdr(RunOptions),
    /// A long trial at one rate: what it proves of the loss ratio
    Soak(SoakOptions),
    /// Change the device's tables while traffic goes through: packets lost by rate is the time it was blocked
    Reconf(ReconfOptions),
    /// Connections a second, searched, and a ladder of sessions: opened, verified to be open, then kept busy
    Stateful(StatefulOptions),
    /// One HTML file with plots from results
    Report(report::Options),
    /// Whether B differs from A, figure by figure, and whether the two can be compared at all
    Compare(compare::Options),
    /// Print the JSON Schema of a result
    Schema,
    /// End the programs and remove the namespaces, folders and settings of runs that were killed
    Tidy,
    /// Forward between two interfaces of this namespace, losing, doubling, reordering and delaying by a seeded plan, until
    /// stopped; prints what was done as JSON
    Impair(impair::Options),
    /// Run the bare layer-2 forwarder between two interfaces of this namespace until it is stopped
    Bare {
        /// Interface to receive on
        #[arg(long)]
        from: String,
        /// Interface to send on
        #[arg(long)]
        to: String,
        /// CPU to run on
        #[arg(long)]
        cpu: usize,
        /// How it forwards
        #[command(flatten)]
        options: bare::Options,
    },
    /// Queues × ring size × burst × busy-poll × need-wakeup, each cell measured again and again: a plot, and advice where it is due
    Sweep(sweep::Options),
    /// Offer 64-byte UDP frames on an interface of this namespace until stopped
    Offer(offer::Load),
    /// Answer TCP connections and UDP datagrams with what they send, in this namespace until stopped
    Serve {
        /// Ports
        #[arg(long, value_delimiter = ',', required = true)]
        ports: Vec<u16>,
        /// CPU to run on
        #[arg(long)]
        cpu: Option<usize>,
    },
    /// Remove all conntrack entries of this namespace's kernel
    ForgetFlows,
    /// Drop whatever arrives at an interface of this namespace until stopped
    Sink {
        /// The interface
        #[arg(long)]
        interface: String,
        /// Send UDP back where it came from instead
        #[arg(long, conflicts_with = "pass")]
        reflect: bool,
        /// Let everything through to the kernel instead: a veth takes what its peer sends back by XDP only with a program
        #[arg(long)]
        pass: bool,
    },
}

/// What is measured, by a file or by flags; flags win.
#[derive(Args, Clone, Debug)]
pub struct RunOptions {
    /// Scenario file (perf/scenarios); without it a veth topology and the devices of --device
    pub scenario: Option<PathBuf>,
    /// Device: bare, linux, nftables, iptables, millrace, or fields: 'kind = "impair", capacity = "20kpps"'; with a file, only
    /// those of that name
    #[arg(long)]
    pub device: Vec<String>,
    /// What sends
    #[arg(long)]
    pub generator: Option<Generator>,
    /// Frame sizes in bytes, with FCS
    #[arg(long, value_delimiter = ',')]
    pub frames: Vec<u32>,
    /// Times that all devices are measured
    #[arg(long)]
    pub rounds: Option<usize>,
    /// Length of a trial
    #[arg(long, value_parser = units::duration)]
    pub trial: Option<Duration>,
    /// Trials at each bound, together
    #[arg(long, value_parser = units::duration)]
    pub sum: Option<Duration>,
    /// How near the bounds have to come, in percent
    #[arg(long, value_name = "PERCENT")]
    pub width: Option<f64>,
    /// The highest rate to try
    #[arg(long, value_parser = units::rate)]
    pub max: Option<f64>,
    /// Exit with an error if any rate that was found is not the device's own limit
    #[arg(long)]
    pub strict: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: Output,
}

/// Arguments of `soak`.
#[derive(Args, Clone, Debug)]
pub struct SoakOptions {
    /// Packets a second
    #[arg(long, value_parser = units::rate)]
    pub rate: f64,
    /// How long
    #[arg(long, default_value = "30m", value_parser = units::duration)]
    pub duration: Duration,
    /// The loss ratio that is asked about
    #[arg(long, default_value_t = 1e-7)]
    pub target: f64,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub run: RunOptions,
}

/// Arguments of `reconf`.
#[derive(Args, Clone, Debug)]
pub struct ReconfOptions {
    /// Packets a second; without it what the device carries without loss, which is searched first (NDR)
    #[arg(long, value_parser = units::rate)]
    pub rate: Option<f64>,
    /// Changes
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub changes: u64,
    /// Length of each of the two trials, without changes and with them
    #[arg(long, default_value = "60s", value_parser = units::duration)]
    pub duration: Duration,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub run: RunOptions,
}

/// Arguments of `stateful`.
#[derive(Args, Clone, Debug)]
pub struct StatefulOptions {
    /// Protocols whose connections a second are searched
    #[arg(long, value_delimiter = ',', value_enum)]
    pub protocols: Vec<Protocol>,
    /// Steps of the ladder: 64k,256k,1m (k is 1024)
    #[arg(long, value_delimiter = ',', value_parser = stateful::sessions)]
    pub sessions: Vec<u64>,
    /// No search of connections a second
    #[arg(long, conflicts_with = "protocols")]
    pub no_connections: bool,
    /// No ladder of sessions
    #[arg(long, conflicts_with = "sessions")]
    pub no_sessions: bool,
    /// Packets a second that open sessions
    #[arg(long, value_parser = units::rate)]
    pub ramp: Option<f64>,
    /// Packets a second of the sustain phase
    #[arg(long, value_parser = units::rate)]
    pub rate: Option<f64>,
    /// Length of the sustain phase
    #[arg(long, value_parser = units::duration)]
    pub sustain: Option<Duration>,
    /// Most connections open at once
    #[arg(long)]
    pub concurrent: Option<usize>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub run: RunOptions,
}

impl StatefulOptions {
    fn apply(&self, plan: &mut Plan) {
        if !self.protocols.is_empty() || self.no_connections {
            plan.protocols.clone_from(&self.protocols);
        }
        if !self.sessions.is_empty() || self.no_sessions {
            plan.sessions.clone_from(&self.sessions);
        }
        plan.ramp = self.ramp.unwrap_or(plan.ramp);
        plan.rate = self.rate.unwrap_or(plan.rate);
        plan.sustain = self.sustain.unwrap_or(plan.sustain);
        plan.concurrent = self.concurrent.unwrap_or(plan.concurrent);
    }
}

/// The shortest soak, and the shortest trial with changes.
const SHORTEST: Duration = Duration::from_secs(1);

/// Does it. The exit status is 130 after Ctrl-C, 1 after a failure.
pub fn execute(command: Command) -> ExitCode {
    let done = match command {
        Command::Soak(SoakOptions { duration, .. })
        | Command::Reconf(ReconfOptions { duration, .. })
            if duration < SHORTEST =>
        {
            Err(format!("--duration {duration:?}: a second or more"))
        }
        Command::Run(options) => options.run(None, Task::Measure),
        Command::Ndr(options) => options.run(Some(Find::Ndr), Task::Measure),
        Command::Pdr(options) => options.run(Some(Find::Pdr), Task::Measure),
        Command::Soak(soak) => {
            let (rate, seconds, target) = (soak.rate, soak.duration.as_secs_f64(), soak.target);
            soak.run.run(None, Task::Soak { rate, seconds, target })
        }
        Command::Reconf(reconf) => {
            let (rate, changes) = (reconf.rate, reconf.changes);
            let seconds = reconf.duration.as_secs_f64();
            reconf.run.run(None, Task::Reconf { rate, changes, seconds })
        }
        Command::Stateful(options) => {
            options.run.run_with(None, Task::Stateful, |plan| options.apply(plan))
        }
        Command::Report(options) => report::write(&options).map(|()| ExitCode::SUCCESS),
        Command::Compare(options) => compare::run(&options),
        Command::Schema => {
            print!("{JSON_SCHEMA}");
            Ok(ExitCode::SUCCESS)
        }
        Command::Tidy => tidy().map(|()| ExitCode::SUCCESS),
        other => other.helper().map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|error| {
        eprintln!("millrace-perf: {error}");
        match error == crate::generator::INTERRUPTED {
            true => ExitCode::from(130),
            false => ExitCode::FAILURE,
        }
    })
}

fn tidy() -> Result<(), String> {
    let left = tidy::find();
    left.remove()?;
    let (namespaces, folders) = (left.namespaces.len(), left.folders.len());
    println!("{namespaces} namespaces and {folders} folders of runs that were killed are gone");
    Ok(())
}

impl RunOptions {
    fn run(&self, find: Option<Find>, task: Task) -> Result<ExitCode, String> {
        self.run_with(find, task, |_| {})
    }

    fn run_with(
        &self,
        find: Option<Find>,
        task: Task,
        change: impl FnOnce(&mut Plan),
    ) -> Result<ExitCode, String> {
        let mut scenario = self.scenario(find)?;
        change(&mut scenario.stateful);
        scenario.check()?;
        self.output.check()?;
        let left = tidy::find();
        if !left.is_empty() && !self.output.quiet {
            let owners: Vec<String> = left.owners().iter().map(u32::to_string).collect();
            eprintln!(
                "millrace-perf: runs that were killed (process {}) have left programs or settings behind, which may disturb \
                 this one: millrace-perf tidy",
                owners.join(", ")
            );
        }
        let stop = until_stopped();
        let mut progress = Progress::new(self.output.quiet);
        let certificate = run(&scenario, task, &stop, &mut progress)?;
        drop(progress);
        self.output.put(&certificate)?;
        if !certificate.complete {
            if stop.load(Ordering::Relaxed) {
                return Ok(ExitCode::from(130));
            }
            let why = certificate.warnings.last().cloned();
            return Err(why.unwrap_or_else(|| "not all was measured".into()));
        }
        let foreign = certificate.figures().into_iter().find(|figure| figure.not_the_devices);
        if let Some(figure) = foreign.filter(|_| self.strict) {
            return Err(format!(
                "{} of {} at {} bytes is not known to be the device's limit",
                figure.what, figure.device, figure.frame
            ));
        }
        Ok(ExitCode::SUCCESS)
    }

    /// The scenario that file and flags make together.
    fn scenario(&self, find: Option<Find>) -> Result<Scenario, String> {
        let mut scenario = match &self.scenario {
            Some(path) => {
                let text = crate::programs::text_of(path, 1 << 20)?;
                let mut scenario =
                    Scenario::parse(&text).map_err(|e| format!("{}: {e}", path.display()))?;
                if !self.device.is_empty() {
                    scenario.devices.retain(|d| self.device.iter().any(|name| name == d.name()));
                    if scenario.devices.is_empty() {
                        let names = self.device.join(", ");
                        return Err(format!("{}: no device is named {names}", path.display()));
                    }
                }
                scenario
            }
            None if self.device.is_empty() => {
                return Err("name a scenario file or a --device".into());
            }
            None => {
                let devices: Result<Vec<Named>, String> =
                    self.device.iter().map(|text| Named::parse(text)).collect();
                Scenario {
                    name: self.device.join(", "),
                    rounds: 1,
                    topology: Topology::default(),
                    cpus: Default::default(),
                    traffic: Traffic::default(),
                    measure: Default::default(),
                    stateful: Default::default(),
                    devices: devices?,
                }
            }
        };
        if let Some(find) = find {
            scenario.measure.find = vec![find];
        }
        if let Some(generator) = self.generator {
            scenario.traffic.generator = generator;
        }
        if !self.frames.is_empty() {
            scenario.traffic.frames.clone_from(&self.frames);
        }
        scenario.rounds = self.rounds.unwrap_or(scenario.rounds);
        let measure = &mut scenario.measure;
        if let Some(trial) = self.trial {
            measure.initial_trial = trial;
            measure.final_trial = trial;
            measure.duration_sum = measure.duration_sum.max(trial);
        }
        measure.duration_sum = self.sum.unwrap_or(measure.duration_sum);
        measure.width = self.width.map_or(measure.width, |percent| percent / 100.0);
        measure.max = self.max.or(measure.max);
        scenario.check()?;
        Ok(scenario)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser, Debug)]
    struct Line {
        #[command(subcommand)]
        command: Command,
    }

    fn line(words: &str) -> Result<Command, String> {
        let words = std::iter::once("millrace-perf").chain(words.split_whitespace());
        Line::try_parse_from(words).map(|line| line.command).map_err(|e| e.to_string())
    }

    #[test]
    fn what_makes_no_sense_is_refused_before_anything_is_set_up() {
        for (words, why) in [
            ("reconf --rate 1kpps --changes 0 --device linux", "--changes"),
            ("reconf --rate 0 --device linux", "0"),
            ("reconf --rate 1kpps --duration soon --device linux", "soon"),
            ("soak --rate 1kpps --duration -1s --device linux", "-1"),
            ("stateful --sessions many --device linux", "many"),
            ("stateful --sessions 64k --no-sessions --device linux", "--no-sessions"),
            ("sink --interface x --reflect --pass", "--pass"),
        ] {
            let error = line(words).unwrap_err();
            assert!(error.contains(why), "{words}: {error}");
        }
        for words in [
            "soak --rate 1kpps --duration 0 --device linux",
            "reconf --rate 1kpps --duration 100ms --device linux",
        ] {
            assert_eq!(execute(line(words).unwrap()), ExitCode::FAILURE, "{words}");
        }
    }

    #[test]
    fn flags_of_stateful_win_over_the_scenario() {
        let Ok(Command::Stateful(options)) =
            line("stateful --sessions 64k,1m --no-connections --rate 5kpps --device linux")
        else {
            panic!()
        };
        let mut plan = Plan::default();
        options.apply(&mut plan);
        assert_eq!(
            (plan.sessions, plan.protocols.len(), plan.rate),
            (vec![1 << 16, 1 << 20], 0, 5e3)
        );
        assert_eq!(plan.ramp, Plan::default().ramp);
    }
}
