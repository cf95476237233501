//! What to measure: a TOML file, or a command line's flags as if they were one.

use crate::search::Goal;
use crate::units;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use std::path::PathBuf;
use std::time::Duration;

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

/// A device and its name.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Named {
    /// As in the report; the kind's without it.
    pub name: Option<String>,
    /// The device.
    #[serde(flatten)]
    pub device: Device,
}

/// What carries the packets.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Device {
    /// The bare AF_XDP forwarder: swaps MACs, nothing else.
    Bare {},
    /// Linux forwarding.
    Linux {},
    /// Linux with the rules of kube-proxy's nftables mode.
    Nftables {},
    /// Linux with the rules of kube-proxy's iptables mode.
    Iptables {},
    /// The engine: on files of one's own, or with the traffic's services in router mode.
    Millrace {
        /// The engine's configuration.
        config: Option<PathBuf>,
        /// The control process's.
        control: Option<PathBuf>,
        /// Its manifests.
        manifests: Option<PathBuf>,
        /// Workers `adaptive` or `busy`.
        workers: Option<Workers>,
    },
    /// The impairing forwarder, whose truth is known.
    Impair {
        /// Share that is dropped.
        #[serde(default)]
        loss: f64,
        /// Share that is sent twice.
        #[serde(default)]
        duplicate: f64,
        /// Share that changes places with the next.
        #[serde(default)]
        reorder: f64,
        /// How long each waits.
        #[serde(default, deserialize_with = "time")]
        delay: Duration,
        /// By chance longer.
        #[serde(default, deserialize_with = "time")]
        jitter: Duration,
        /// Packets a second that it carries.
        #[serde(default, deserialize_with = "optional_rate")]
        capacity: Option<f64>,
        /// Packets that may wait.
        queue: Option<u32>,
        /// Another seed, other packets.
        #[serde(default = "one_seed")]
        seed: u64,
    },
    /// A command of the user's, run where the device's interfaces are; `{in}` and `{out}` stand for them, `{cpu}` for its CPU.
    Command {
        /// The program and its words.
        command: Vec<String>,
        /// A program that succeeds as soon as the device forwards; without it a second passes.
        ready: Option<Vec<String>>,
        /// How long that may take.
        #[serde(default = "ten_seconds", deserialize_with = "time")]
        ready_within: Duration,
        /// A program that makes change number `{n}`, for `reconf`.
        change: Option<Vec<String>>,
    },
}

/// How the engine's workers wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Workers {
    /// They sleep when idle.
    Adaptive,
    /// They spin.
    Busy,
}

impl Device {
    /// Its kind, as in files.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Bare {} => "bare",
            Self::Linux {} => "linux",
            Self::Nftables {} => "nftables",
            Self::Iptables {} => "iptables",
            Self::Millrace { .. } => "millrace",
            Self::Impair { .. } => "impair",
            Self::Command { .. } => "command",
        }
    }

    /// Whether packets go to services rather than to pods.
    pub fn has_services(&self) -> bool {
        matches!(self, Self::Nftables {} | Self::Iptables {} | Self::Millrace { .. })
    }
}

impl Named {
    /// From a word (`bare`) or fields (`kind = "impair", capacity = "20kpps"`).
    pub fn parse(text: &str) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct One {
            device: Named,
        }
        let inline = match text.contains('=') {
            true => format!("device = {{ {text} }}"),
            false => format!("device = {{ kind = \"{}\" }}", text.escape_default()),
        };
        let one: Result<One, _> = toml::from_str(&inline);
        one.map(|one| one.device).map_err(|e| format!("--device {text}: {}", e.message()))
    }

    /// As in the report.
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or_else(|| self.device.kind())
    }
}

/// The smallest frame and the largest.
const FRAMES: std::ops::RangeInclusive<u32> = 64..=9018;
/// The longest frame of pktgen: a chunk less its headroom.
const PKTGEN_MOST: u32 = 3840;

impl Scenario {
    /// From a file's text, checked.
    pub fn parse(text: &str) -> Result<Self, String> {
        let scenario: Self = toml::from_str(text).map_err(|e| e.to_string())?;
        scenario.check()?;
        Ok(scenario)
    }

    /// Fails naming the field that makes no sense.
    pub fn check(&self) -> Result<(), String> {
        if self.devices.is_empty() {
            return Err("no [[device]]: nothing to measure".into());
        }
        let mut names: Vec<&str> = self.devices.iter().map(Named::name).collect();
        names.sort_unstable();
        if let Some([name, _]) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!("two devices are named {name:?}: give them names of their own"));
        }
        if self.rounds == 0 || self.rounds > 1000 {
            return Err(format!("rounds = {}: from 1 to 1000", self.rounds));
        }
        let traffic = &self.traffic;
        let mtu = match &self.topology {
            Topology::Veth { mtu, .. } => *mtu,
            Topology::Nics(_) => 9000,
        };
        if traffic.frames.is_empty() {
            return Err("traffic.frames is empty".into());
        }
        for frame in &traffic.frames {
            if !FRAMES.contains(frame) || *frame > mtu + 18 {
                return Err(format!(
                    "traffic.frames has {frame}: from 64 to {} bytes with FCS",
                    (mtu + 18).min(*FRAMES.end())
                ));
            }
            if traffic.generator == Generator::Xdp && *frame != 64 {
                return Err(format!(
                    "traffic.frames has {frame}: generator \"xdp\" sends 64 bytes"
                ));
            }
        }
        if traffic.generator == Generator::Pktgen
            && let Some(frame) = traffic.frames.iter().find(|frame| **frame > PKTGEN_MOST)
        {
            return Err(format!(
                "traffic.frames has {frame}: generator \"pktgen\" sends {PKTGEN_MOST} bytes at most"
            ));
        }
        if !traffic.flows.is_power_of_two() || traffic.flows > 16_384 {
            return Err(format!("traffic.flows = {}: a power of two up to 16384", traffic.flows));
        }
        if traffic.services == 0 || traffic.services > 10_000 {
            return Err(format!("traffic.services = {}: from 1 to 10000", traffic.services));
        }
        let measure = &self.measure;
        for share in &measure.latency {
            if !(*share > 0.0 && *share <= 1.0) {
                return Err(format!("measure.latency has {share}: shares above 0, up to 1"));
            }
        }
        if measure.max.is_some_and(|max| max <= measure.min) {
            return Err("measure.max is not above measure.min".into());
        }
        for (seconds, what) in
            [(measure.warm_up, "warm_up"), (measure.latency_trial, "latency_trial")]
        {
            if seconds.is_zero() || seconds > Duration::from_secs(3600) {
                return Err(format!("measure.{what}: above 0, up to an hour"));
            }
        }
        if measure.mrr_trials == 0 {
            return Err("measure.mrr_trials is 0".into());
        }
        self.stateful.check()?;
        measure.goals().iter().chain([&measure.goal()]).try_for_each(Goal::check)
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

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        let bare = "[[device]]\nkind = \"bare\"\n";
        for (text, word) in [
            ("".into(), "device"),
            ("[[device]]\nkind = \"router\"\n".into(), "router"),
            (format!("{bare}{bare}"), "two devices"),
            ("[[device]]\nkind = \"impair\"\ndelay = \"soon\"\n".into(), "soon"),
            ("[[device]]\nkind = \"bare\"\ncolor = 1\n".into(), "color"),
            (format!("rounds = 0\n{bare}"), "rounds"),
            (format!("[traffic]\nframes = [1600]\n{bare}"), "1600"),
            (
                format!(
                    "[topology]\nkind = \"veth\"\nmtu = 9000\n[traffic]\nframes = [3841]\n{bare}"
                ),
                "3840",
            ),
            (format!("[traffic]\nflows = 100\n{bare}"), "flows"),
            (format!("[traffic]\ngenerator = \"xdp\"\nframes = [128]\n{bare}"), "xdp"),
            (format!("[measure]\nlatency = [1.5]\n{bare}"), "1.5"),
            (format!("[measure]\nmax = \"fast\"\n{bare}"), "fast"),
            (format!("[measure]\nwidth = 0\n{bare}"), "width"),
            (format!("[measure]\nduration_sum = \"0.5s\"\n{bare}"), "in all"),
            (format!("[topology]\nkind = \"nics\"\ntx = \"a\"\n{bare}"), "device_in"),
        ] {
            let error = Scenario::parse(&format!("name = \"a\"\n{text}")).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn devices_come_from_words_and_fields() {
        assert_eq!(Named::parse("bare").unwrap().device, Device::Bare {});
        let impair =
            Named::parse("kind = \"impair\", capacity = \"20kpps\", name = \"slow\"").unwrap();
        assert_eq!(impair.name(), "slow");
        assert!(matches!(impair.device, Device::Impair { capacity: Some(20_000.0), .. }));
        assert!(Named::parse("router").unwrap_err().contains("--device router"));
    }
}
