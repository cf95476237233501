//! What a run has to say: figures, how they came about, on which machine. `perf/schema/result.schema.json` describes it as JSON.
//!
//! Within `millrace-perf/1` fields are added, none is renamed or removed; readers ignore those they don't know.

mod figures;

use crate::fingerprint::Fingerprint;
use crate::search::Bounds;
use crate::units::{show_per_second, show_rate};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub use figures::{Figure, Unit};

/// The format's name and version.
pub const SCHEMA: &str = "millrace-perf/1";
/// The published JSON Schema of [`Certificate`].
pub const JSON_SCHEMA: &str = include_str!("../../schema/result.schema.json");

/// Everything a run found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Certificate {
    /// Always [`SCHEMA`].
    pub schema: String,
    /// The scenario's name.
    pub scenario: String,
    /// Seconds since 1970 when it began.
    pub started_unix: u64,
    /// Seconds it took.
    pub seconds: f64,
    /// Whether it came to its end.
    pub complete: bool,
    /// The machine.
    pub fingerprint: Fingerprint,
    /// How it was measured: whatever has to be equal for figures to be compared.
    pub method: BTreeMap<String, String>,
    /// What the generator does without a device, by frame size.
    pub calibration: Vec<Calibration>,
    /// The devices, in the scenario's order.
    pub devices: Vec<Device>,
    /// What makes figures doubtful, in words.
    pub warnings: Vec<String>,
}

/// The generator alone, its two ends joined.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Calibration {
    /// Bytes of a frame, with FCS.
    pub frame: u32,
    /// Packets a second that arrived when it sent as fast as it could: median of the trials.
    pub limit: f64,
    /// Each trial.
    pub trials: Vec<f64>,
}

/// One device under test.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Device {
    /// Its name in the scenario.
    pub name: String,
    /// Its kind: `bare`, `linux`, …
    pub kind: String,
    /// What its packets go through.
    pub path: Path,
    /// By frame size.
    pub points: Vec<Point>,
}

/// How packets come to a device and leave it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Path {
    /// `veth` or `nic`.
    pub link: String,
    /// Drivers of its two interfaces.
    pub drivers: String,
    /// `copy`, `zero-copy`, `mixed`, `kernel`, or `unknown`.
    pub mode: String,
    /// Queues of each interface.
    pub queues: u32,
    /// MTU of its interfaces.
    pub mtu: u32,
}

/// All rounds with one frame size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Point {
    /// Bytes of a frame, with FCS.
    pub frame: u32,
    /// Each round.
    pub rounds: Vec<Round>,
}

/// One round: everything measured on a device set up once.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Round {
    /// What the searches found.
    pub bounds: Vec<Judged>,
    /// Receive rates under the highest load: MRR.
    #[serde(default)]
    pub mrr: Vec<f64>,
    /// Latency at shares of a found rate.
    #[serde(default)]
    pub latency: Vec<LatencyAt>,
    /// Every trial of the searches.
    #[serde(default)]
    pub trials: Vec<Trial>,
    /// Soak test.
    #[serde(default)]
    pub soak: Option<crate::soak::Soak>,
    /// Changes under load.
    #[serde(default)]
    pub reconf: Option<crate::reconf::Reconf>,
    /// Connections a second, and sessions.
    #[serde(default)]
    pub stateful: Option<crate::stateful::Stateful>,
}

/// Bounds, and whose limit they are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Judged {
    /// What the search found.
    pub bounds: Bounds,
    /// Whose.
    pub limit: Limit,
}

/// Whose limit a figure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum Limit {
    /// The device's: the generator alone does at least 5 % more.
    Device,
    /// The generator's, or what it was asked for at most: the device does at least this.
    Generator,
    /// Nobody knows what the generator alone does here.
    Unverified,
    /// The search came to no end, or no rate was low enough.
    None,
}

/// One trial of a search.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Trial {
    /// Packets a second asked for.
    pub load: f64,
    /// Seconds.
    pub duration: f64,
    /// Packets sent.
    pub sent: u64,
    /// Packets received.
    pub received: u64,
}

/// Latency at a share of a rate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct LatencyAt {
    /// Of which goal's lower bound.
    pub of: String,
    /// The share.
    pub share: f64,
    /// Packets a second.
    pub rate: f64,
    /// Share of packets lost meanwhile.
    pub loss_ratio: f64,
    /// The distribution; none where the generator couldn't keep to the rate, or nothing came.
    pub percentiles: Option<Percentiles>,
}

/// A distribution of times in nanoseconds, as the generator reports it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Percentiles {
    /// Values in it.
    pub count: u64,
    /// Smallest.
    pub min_ns: u64,
    /// Mean.
    pub mean_ns: f64,
    /// Median.
    pub p50_ns: u64,
    /// 90 of 100 are not above it.
    pub p90_ns: u64,
    /// 99 of 100.
    pub p99_ns: u64,
    /// 999 of 1,000.
    pub p99_9_ns: u64,
    /// 9,999 of 10,000.
    pub p99_99_ns: u64,
    /// Greatest.
    pub max_ns: u64,
}

/// What the names of goals begin with that count connections.
pub const CONNECTIONS: &str = "CPS";

/// How near to the generator's own limit a figure says nothing of the device.
pub const MARGIN: f64 = 0.05;

impl Judged {
    /// Judges bounds by what the generator alone does.
    pub fn of(bounds: Bounds, generator: Option<f64>) -> Self {
        use crate::search::Irregular;
        let limit = match (bounds.irregular, bounds.lower) {
            (Some(Irregular::GeneratorLimit | Irregular::MaximumMeets), Some(_)) => {
                Limit::Generator
            }
            (Some(Irregular::GeneratorLimit | Irregular::MaximumMeets), None) => Limit::None,
            (Some(Irregular::MinimumFails | Irregular::OutOfTime), _) | (None, None) => Limit::None,
            (None, Some(lower)) => match generator {
                None => Limit::Unverified,
                Some(most) if lower >= most * (1.0 - MARGIN) => Limit::Generator,
                Some(_) => Limit::Device,
            },
        };
        Self { bounds, limit }
    }
}

impl Certificate {
    /// From its JSON, if it is one of this format.
    pub fn parse(text: &str) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Head {
            schema: String,
        }
        let head: Head = serde_json::from_str(text).map_err(|e| format!("no result: {e}"))?;
        if head.schema != SCHEMA {
            return Err(format!("its format is {:?}; this program reads {SCHEMA:?}", head.schema));
        }
        serde_json::from_str(text).map_err(|e| e.to_string())
    }
}

impl Judged {
    /// One line for people.
    pub fn in_words(&self) -> String {
        use crate::search::Irregular;
        let (bounds, name) = (&self.bounds, &self.bounds.goal.name);
        let show = if name.starts_with(CONNECTIONS) { show_per_second } else { show_rate };
        let Some(lower) = bounds.lower.map(show) else {
            return match bounds.irregular {
                Some(Irregular::MinimumFails) => format!("{name}: even the lowest rate loses more"),
                Some(Irregular::GeneratorLimit) => {
                    format!(
                        "{name}: not found, the generator kept to no rate: is the machine busy?"
                    )
                }
                _ => format!("{name}: not found in time"),
            };
        };
        let upper = bounds.upper.map_or_else(|| "no upper bound".into(), show);
        match (self.limit, bounds.irregular) {
            (_, Some(Irregular::OutOfTime)) => {
                format!("{name}: above {lower}, below {upper}; time ran out")
            }
            (Limit::Device, _) => format!("{name}: {lower} ({upper} fails)"),
            (Limit::Generator, Some(Irregular::MaximumMeets)) => {
                format!("{name}: at least {lower}, the highest rate that was allowed")
            }
            (Limit::Generator, _) => {
                format!(
                    "{name}: at least {lower}; the generator's own limit is too near to say more"
                )
            }
            (Limit::Unverified, _) => {
                format!("{name}: {lower} ({upper} fails); not known to be the device's limit")
            }
            (Limit::None, _) => format!("{name}: {lower} ({upper} fails), not final"),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::search::{Goal, Irregular};

    fn bounds(lower: f64) -> Bounds {
        Bounds {
            goal: Goal::ndr(),
            lower: Some(lower),
            upper: Some(lower * 1.004),
            conditional_throughput: Some(lower),
            width: Some(0.004),
            irregular: None,
        }
    }

    /// Of one device with these NDRs.
    pub(crate) fn certificate(ndrs: &[f64]) -> Certificate {
        let round = |ndr: &f64| Round {
            bounds: vec![Judged::of(bounds(*ndr), Some(1e9))],
            ..Round::default()
        };
        Certificate {
            schema: SCHEMA.into(),
            scenario: "test".into(),
            started_unix: 0,
            seconds: 1.0,
            complete: true,
            fingerprint: Fingerprint::default(),
            method: BTreeMap::from([("trials".into(), "1 s".into())]),
            calibration: Vec::new(),
            devices: vec![Device {
                name: "bare".into(),
                kind: "bare".into(),
                path: Path {
                    link: "veth".into(),
                    drivers: "veth".into(),
                    mode: "copy".into(),
                    queues: 1,
                    mtu: 1500,
                },
                points: vec![Point { frame: 64, rounds: ndrs.iter().map(round).collect() }],
            }],
            warnings: Vec::new(),
        }
    }

    #[test]
    fn near_the_generator_s_limit_nothing_is_called_the_device_s() {
        let limit = |lower, generator| Judged::of(bounds(lower), generator).limit;
        assert_eq!(limit(0.94e6, Some(1e6)), Limit::Device);
        assert_eq!(limit(0.95e6, Some(1e6)), Limit::Generator);
        assert_eq!(limit(1.2e6, Some(1e6)), Limit::Generator);
        assert_eq!(limit(1.0, None), Limit::Unverified);
        let irregular = |irregular| {
            Judged::of(Bounds { irregular: Some(irregular), ..bounds(1.0) }, Some(1e6)).limit
        };
        assert_eq!(irregular(Irregular::MaximumMeets), Limit::Generator);
        assert_eq!(irregular(Irregular::GeneratorLimit), Limit::Generator);
        assert_eq!(irregular(Irregular::OutOfTime), Limit::None);
        assert!(
            Judged::of(bounds(0.99e6), Some(1e6)).in_words().starts_with("NDR: at least 990 kpps")
        );
    }

    #[test]
    fn a_result_is_read_back_and_another_format_refused_by_name() {
        let before = certificate(&[1e6, 2e6]);
        let text = serde_json::to_string(&before).unwrap();
        assert_eq!(Certificate::parse(&text), Ok(before.clone()));
        let newer = text.replace("millrace-perf/1", "millrace-perf/9");
        assert!(Certificate::parse(&newer).unwrap_err().contains("millrace-perf/9"));
        assert!(Certificate::parse("[]").unwrap_err().contains("no result"));
        // Fields that this version doesn't know are no matter.
        let extra = text.replacen('{', "{\"new\": 1, ", 1);
        assert_eq!(Certificate::parse(&extra), Ok(before));
    }

    #[test]
    fn the_published_schema_is_that_of_the_types() {
        let ours =
            serde_json::to_string_pretty(&schemars::schema_for!(Certificate)).unwrap() + "\n";
        if std::env::var_os("MILLRACE_WRITE_SCHEMA").is_some() {
            let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../schema/result.schema.json");
            std::fs::write(file, &ours).unwrap();
        }
        assert!(ours == JSON_SCHEMA, "run the test again with MILLRACE_WRITE_SCHEMA=1");
    }
}
