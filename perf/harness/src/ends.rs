//! The interfaces of a measurement: the generator's two and the device's two, in namespaces made for them or as named.
//!
//! ```text
//! generator ── gen0 │ in0  device  out0 │ sink0 ── receiver
//! 10.0.1.2, clients 10.200.0.0/16         10.0.2.2, pods 10.64.0.0/10
//! ```

use crate::results::Path;
use crate::scenario;
use crate::topology::{End, Namespace, join};
use std::process::Command;

const GENERATOR_MAC: &str = "02:00:00:00:01:02";
const IN_MAC: &str = "02:00:00:00:01:01";
const OUT_MAC: &str = "02:00:00:00:02:01";
const SINK_MAC: &str = "02:00:00:00:02:02";

/// An interface and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its network namespace; None is that of this process.
    pub netns: Option<String>,
    /// Its name.
    pub interface: String,
    /// Its MAC.
    pub mac: String,
}

impl Place {
    /// A command that runs where the interface is.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = match &self.netns {
            None => Command::new(program),
            Some(name) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", name]).arg(program);
                command
            }
        };
        command.stdin(std::process::Stdio::null());
        command
    }

    /// A file of the interface in sysfs.
    pub fn file(&self, name: &str) -> Result<String, String> {
        let path = format!("/sys/class/net/{}/{name}", self.interface);
        crate::programs::finish(self.command("cat").arg(&path), None).map(|s| s.trim().to_owned())
    }

    /// Some of its counters, read together.
    pub fn counters<const N: usize>(&self, names: [&str; N]) -> Result<[u64; N], String> {
        let path = |name| format!("/sys/class/net/{}/statistics/{name}", self.interface);
        let text = crate::programs::finish(self.command("cat").args(names.map(path)), None)?;
        let mut values = text.lines().map(|line| line.trim().parse::<u64>());
        let mut counters = [0; N];
        for (counter, name) in counters.iter_mut().zip(names) {
            let value = values.next().and_then(Result::ok);
            *counter = value.ok_or_else(|| format!("{}: not a number", path(name)))?;
        }
        Ok(counters)
    }

    /// The driver, as ethtool names it.
    pub fn driver(&self) -> String {
        let output =
            crate::programs::finish(self.command("ethtool").args(["-i", &self.interface]), None);
        let text = output.unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("driver:"));
        line.map_or_else(|| "unknown".into(), |driver| driver.trim().to_owned())
    }
}

/// All four.
#[derive(Debug)]
pub struct Ends {
    /// Where packets are sent.
    pub generator: Place,
    /// Where they come in at the device.
    pub inside: Place,
    /// Where they leave it.
    pub outside: Place,
    /// Where they are received.
    pub sink: Place,
    /// How they hang together.
    pub path: Path,
    /// Removed when dropped.
    namespaces: Vec<Namespace>,
}

impl Ends {
    /// As a scenario has them. Namespaces bear `role` in their names.
    pub fn set_up(topology: &scenario::Topology, role: &str) -> Result<Self, String> {
        match topology {
            scenario::Topology::Veth { queues, mtu } => Self::veth(role, *queues, *mtu),
            scenario::Topology::Nics(nics) => Self::nics(nics),
        }
    }

    fn veth(role: &str, queues: u32, mtu: u32) -> Result<Self, String> {
        let [a, b, c] =
            ["gen", "dut", "sink"].map(|end| Namespace::create(&format!("{role}-{end}")));
        let (a, b, c) = (a?, b?, c?);
        let end = |namespace, name, mac| End { namespace, name, mac };
        join(end(&a, "gen0", GENERATOR_MAC), end(&b, "in0", IN_MAC), queues)?;
        join(end(&b, "out0", OUT_MAC), end(&c, "sink0", SINK_MAC), queues)?;
        for (namespace, name) in [(&a, "gen0"), (&b, "in0"), (&b, "out0"), (&c, "sink0")] {
            namespace.ip(&format!("link set {name} mtu {mtu}"))?;
        }
        Ok(Self {
            generator: place(&a, "gen0", GENERATOR_MAC),
            inside: place(&b, "in0", IN_MAC),
            outside: place(&b, "out0", OUT_MAC),
            sink: place(&c, "sink0", SINK_MAC),
            path: veth_path(queues, mtu),
            namespaces: vec![a, b, c],
        })
    }

    /// The generator's two ends joined, without a device: what it can do itself.
    pub fn joined(role: &str, queues: u32, mtu: u32) -> Result<Self, String> {
        let (a, c) = (
            Namespace::create(&format!("{role}-gen"))?,
            Namespace::create(&format!("{role}-sink"))?,
        );
        let end = |namespace, name, mac| End { namespace, name, mac };
        join(end(&a, "gen0", GENERATOR_MAC), end(&c, "sink0", SINK_MAC), queues)?;
        for (namespace, name) in [(&a, "gen0"), (&c, "sink0")] {
            namespace.ip(&format!("link set {name} mtu {mtu}"))?;
        }
        let (generator, sink) = (place(&a, "gen0", GENERATOR_MAC), place(&c, "sink0", SINK_MAC));
        Ok(Self {
            inside: sink.clone(),
            outside: generator.clone(),
            generator,
            sink,
            path: veth_path(queues, mtu),
            namespaces: vec![a, c],
        })
    }

    /// Whether they were made for this, and go with it.
    pub fn are_made(&self) -> bool {
        !self.namespaces.is_empty()
    }

    /// Of these places, for tests without interfaces.
    #[cfg(test)]
    pub(crate) fn of(generator: Place, inside: Place, outside: Place, sink: Place) -> Self {
        let path = veth_path(1, 1500);
        Self { generator, inside, outside, sink, path, namespaces: Vec::new() }
    }

    fn nics(nics: &scenario::Nics) -> Result<Self, String> {
        let find = |interface: &str, netns: &Option<String>| {
            let place =
                Place { netns: netns.clone(), interface: interface.to_owned(), mac: String::new() };
            let mac = place.file("address").map_err(|e| format!("interface {interface}: {e}"))?;
            Ok::<_, String>(Place { mac, ..place })
        };
        let generator = find(&nics.tx, &nics.netns_tx)?;
        let inside = find(&nics.device_in, &nics.netns_device)?;
        let outside = find(&nics.device_out, &nics.netns_device)?;
        let sink = find(&nics.rx, &nics.netns_rx)?;
        let (first, second) = (inside.driver(), outside.driver());
        let drivers = if first == second { first } else { format!("{first} and {second}") };
        let link = if drivers == "veth" { "veth" } else { "nic" };
        let path = Path {
            link: link.into(),
            drivers,
            mode: "unknown".into(),
            queues: nics.queues,
            mtu: inside.file("mtu")?.parse().unwrap_or(0),
        };
        Ok(Self { generator, inside, outside, sink, path, namespaces: Vec::new() })
    }
}

fn place(namespace: &Namespace, interface: &str, mac: &str) -> Place {
    Place {
        netns: Some(namespace.name().to_owned()),
        interface: interface.to_owned(),
        mac: mac.to_owned(),
    }
}

fn veth_path(queues: u32, mtu: u32) -> Path {
    Path { link: "veth".into(), drivers: "veth".into(), mode: "unknown".into(), queues, mtu }
}
