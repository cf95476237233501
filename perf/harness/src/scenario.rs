//! What to measure: a TOML file, or a command line's flags as if they were one.

mod check;
mod device;

use crate::search::Goal;
use crate::units;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use std::time::Duration;

pub use device::{Device, Named, Workers};

/// A scenario.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// As in the report.
    pub name: String,
    /// Times that all devices are measured, one after the other.
    #[serde(default = "one")]
    pub rounds: usize,
    /// Interfaces.
    #[serde(default)]
    pub topology: Topology,
    /// Who runs where.
    #[serde(default)]
    pub cpus: Cpus,
    /// What is sent.
    #[serde(default)]
    pub traffic: Traffic,
    /// What is measured.
    #[serde(default)]
    pub measure: Measure,
    /// What `stateful` measures.
    #[serde(default)]
    pub stateful: crate::stateful::Plan,
    /// On which devices.
    #[serde(rename = "device")]
    pub devices: Vec<Named>,
}

/// Interfaces of the measurement.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Topology {
    /// Namespaces and veth pairs, made and removed.
    Veth {
        /// Queues of each interface.
        #[serde(default = "one_queue")]
        queues: u32,
        /// Their MTU.
        #[serde(default = "ethernet")]
        mtu: u32,
    },
    /// Interfaces that are there, wired generator to device to receiver.
    Nics(Nics),
}

/// Named interfaces.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nics {
    /// The generator sends on.
    pub tx: String,
    /// The device receives on.
    pub device_in: String,
    /// The device sends on.
    pub device_out: String,
    /// The receiver.
    pub rx: String,
    /// Namespace of `tx`.
    pub netns_tx: Option<String>,
    /// Namespace of `rx`.
    pub netns_rx: Option<String>,
    /// Namespace of the device's two.
    pub netns_device: Option<String>,
    /// Queues of each that are used.
    #[serde(default = "one_queue")]
    pub queues: u32,
    /// What the generator alone does over these NICs, if somebody has measured it: packets a second.
    #[serde(default, deserialize_with = "optional_rate")]
    pub generator_limit: Option<f64>,
}

impl Default for Topology {
    fn default() -> Self {
        Self::Veth { queues: 1, mtu: 1500 }
    }
}

/// CPUs.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cpus {
    /// The generator's.
    pub generator: usize,
    /// The device's.
    pub device: usize,
    /// The receiver's; not pinned without it.
    pub receiver: Option<usize>,
}

impl Default for Cpus {
    fn default() -> Self {
        Self { generator: 0, device: 1, receiver: None }
    }
}

/// What sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Generator {
    /// `millrace-pktgen`: counts by sequence numbers, latency
    #[default]
    Pktgen,
    /// An XDP program that the kernel runs: 4 to 5 Mpps a core, counted by the interfaces, 64-byte frames
    Xdp,
}

impl Generator {
    /// As in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pktgen => "pktgen",
            Self::Xdp => "xdp",
        }
    }
}

/// What is sent.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Traffic {
    /// By what.
    pub generator: Generator,
    /// Frame sizes in bytes, with FCS.
    pub frames: Vec<u32>,
    /// Flows, told apart by the source port.
    pub flows: u32,
    /// Services (or destinations) they go to.
    pub services: u16,
}

impl Default for Traffic {
    fn default() -> Self {
        Self { generator: Generator::default(), frames: vec![64], flows: 256, services: 1 }
    }
}

/// What to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Find {
    /// The rate without loss.
    Ndr,
    /// The rate with half a percent of loss.
    Pdr,
    /// What arrives under the highest load.
    Mrr,
}

/// How it is measured.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Measure {
    /// What.
    pub find: Vec<Find>,
    /// Latency at these shares of the found PDR, or of what else was found.
    pub latency: Vec<f64>,
    /// Traffic before anything counts.
    #[serde(deserialize_with = "time")]
    pub warm_up: Duration,
    /// Length of a latency trial.
    #[serde(deserialize_with = "time")]
    pub latency_trial: Duration,
    /// Trials of the first phase.
    #[serde(deserialize_with = "time")]
    pub initial_trial: Duration,
    /// Trials of the last phase.
    #[serde(deserialize_with = "time")]
    pub final_trial: Duration,
    /// Trials at each bound in the last phase, together.
    #[serde(deserialize_with = "time")]
    pub duration_sum: Duration,
    /// How near the bounds have to come.
    pub width: f64,
    /// Share of trials that may lose more.
    pub exceed_ratio: f64,
    /// Greatest loss of PDR.
    pub pdr_loss: f64,
    /// Trials of MRR.
    pub mrr_trials: usize,
    /// The lowest load.
    #[serde(deserialize_with = "rate")]
    pub min: f64,
    /// The highest; without it what the generator can.
    #[serde(deserialize_with = "optional_rate")]
    pub max: Option<f64>,
    /// Most time of trials in a search.
    #[serde(deserialize_with = "time")]
    pub at_most: Duration,
}

impl Default for Measure {
    fn default() -> Self {
        Self {
            find: vec![Find::Ndr, Find::Pdr],
            latency: vec![0.1, 0.5, 0.9],
            warm_up: Duration::from_secs(1),
            latency_trial: Duration::from_secs(5),
            initial_trial: Duration::from_secs(1),
            final_trial: Duration::from_secs(1),
            duration_sum: Duration::from_secs(21),
            width: 0.005,
            exceed_ratio: 0.5,
            pdr_loss: 0.005,
            mrr_trials: 10,
            min: 1_000.0,
            max: None,
            at_most: Duration::from_secs(1200),
        }
    }
}

impl Measure {
    /// No loss, with this trial length, sum and width.
    pub fn goal(&self) -> Goal {
        Goal {
            exceed_ratio: self.exceed_ratio,
            width: self.width,
            initial_trial: self.initial_trial.as_secs_f64(),
            final_trial: self.final_trial.as_secs_f64(),
            duration_sum: self.duration_sum.as_secs_f64(),
            ..Goal::ndr()
        }
    }

    /// The goals of the search.
    pub fn goals(&self) -> Vec<Goal> {
        let of = |find: &Find| match find {
            Find::Ndr => Some(self.goal()),
            Find::Pdr => {
                Some(Goal { name: Goal::pdr().name, loss_ratio: self.pdr_loss, ..self.goal() })
            }
            Find::Mrr => None,
        };
        self.find.iter().filter_map(of).collect()
    }
}

impl Scenario {
    /// From a file's text, checked.
    pub fn parse(text: &str) -> Result<Self, String> {
        let scenario: Self = toml::from_str(text).map_err(|e| e.to_string())?;
        scenario.check()?;
        Ok(scenario)
    }
}

fn one() -> usize {
    1
}

fn one_queue() -> u32 {
    1
}

fn one_seed() -> u64 {
    1
}

fn ethernet() -> u32 {
    1500
}

fn ten_seconds() -> Duration {
    Duration::from_secs(10)
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Quantity {
    Number(f64),
    Text(String),
}

pub(crate) fn rate<'de, D: Deserializer<'de>>(input: D) -> Result<f64, D::Error> {
    let text = match Quantity::deserialize(input)? {
        Quantity::Number(number) => number.to_string(),
        Quantity::Text(text) => text,
    };
    units::rate(&text).map_err(D::Error::custom)
}

fn optional_rate<'de, D: Deserializer<'de>>(input: D) -> Result<Option<f64>, D::Error> {
    rate(input).map(Some)
}

pub(crate) fn time<'de, D: Deserializer<'de>>(input: D) -> Result<Duration, D::Error> {
    let text = match Quantity::deserialize(input)? {
        Quantity::Number(number) => number.to_string(),
        Quantity::Text(text) => text,
    };
    units::duration(&text).map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_file_is_a_scenario_with_csit_s_defaults() {
        let text = "name = \"a\"\n[[device]]\nkind = \"bare\"\n";
        let scenario = Scenario::parse(text).unwrap();
        assert_eq!(scenario.topology, Topology::Veth { queues: 1, mtu: 1500 });
        assert_eq!(scenario.measure.goals(), [Goal::ndr(), Goal::pdr()]);
        assert_eq!(scenario.devices[0].name(), "bare");
    }

    #[test]
    fn all_shipped_scenarios_are_read() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../scenarios");
        let mut count = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            Scenario::parse(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            count += 1;
        }
        assert!(count >= 4, "{count}");
    }
}
