//! Devices under test, as files and command lines name them.

use super::{one_seed, optional_rate, ten_seconds, time};
use serde::Deserialize;
use std::path::PathBuf;
use std::time::Duration;

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
    /// A command of the user's, run where the device's interfaces are; `{in}` and `{out}` stand for them,
    /// `{tx_mac}` and `{rx_mac}` for its neighbors' MACs, `{cpu}` for its CPU.
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

#[cfg(test)]
mod tests {
    use super::*;

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
