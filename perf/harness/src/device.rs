//! A device under test on its interfaces: set up, started, watched, and gone when dropped.

use crate::ends::{Ends, GENERATOR_MAC, SINK_MAC};
use crate::folder::Folder;
use crate::generator::wait_for_program;
use crate::running::Running;
use crate::scenario::{Device, Scenario, Workers};
use crate::services::Protocol;
use crate::{kernel, programs, services};
use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// What a device is set up for, beyond its scenario.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// Protocol of its services.
    pub protocol: Protocol,
    /// Flows that it must have room for, and the seconds that it keeps those of UDP; as it comes without.
    pub flows: Option<(u64, u32)>,
}

/// Interfaces with a device between them.
pub struct Stage<'a> {
    device: &'a Device,
    scenario: &'a Scenario,
    wants: Wants,
    // Programs end before their namespaces go.
    running: Vec<Running>,
    /// The interfaces.
    pub ends: Ends,
    /// Logs and configuration files.
    pub folder: Folder,
}

/// The mode that the impairing forwarder says it is in.
fn mode_in(log: &str) -> &'static str {
    match () {
        () if log.contains(", zero-copy mode") => "zero-copy",
        () if log.contains(", copy mode") => "copy",
        () => "unknown",
    }
}

/// The mode of an engine's interfaces, `mixed` where they differ.
fn modes_in(json: &str) -> Option<String> {
    let value: serde_json::Value = serde_json::from_str(json).ok()?;
    let modes = value.as_array()?.iter().filter_map(|interface| interface.get("mode")?.as_str());
    let mut modes: Vec<&str> = modes.filter(|mode| !mode.is_empty()).collect();
    modes.dedup();
    match modes[..] {
        [] => None,
        [mode] => Some(mode.into()),
        _ => Some("mixed".into()),
    }
}

impl<'a> Stage<'a> {
    /// Makes interfaces and starts the device.
    pub fn set_up(device: &'a Device, scenario: &'a Scenario, role: &str) -> Result<Self, String> {
        Self::set_up_for(device, scenario, role, Wants::default())
    }

    /// The same, for more than the scenario says.
    pub fn set_up_for(
        device: &'a Device,
        scenario: &'a Scenario,
        role: &str,
        wants: Wants,
    ) -> Result<Self, String> {
        let ends = Ends::set_up(&scenario.topology, role)?;
        let folder = Folder::create(role)?;
        let mut stage = Self { device, scenario, wants, running: Vec::new(), ends, folder };
        stage.start().map_err(|why| format!("{}: {why}", device.kind()))?;
        Ok(stage)
    }

    fn start(&mut self) -> Result<(), String> {
        let cpu = self.scenario.cpus.device.to_string();
        let (inside, outside) =
            (self.ends.inside.interface.clone(), self.ends.outside.interface.clone());
        match self.device {
            Device::Bare {} => {
                let mut bare = self.ends.inside.command(programs::own()?);
                bare.args(["bare", "--from", &inside, "--to", &outside, "--cpu", &cpu]);
                self.run("bare", &mut bare)?;
                self.wait_for_programs()?;
                self.ends.path.mode = "copy".into();
            }
            Device::Impair { loss, duplicate, reorder, delay, jitter, capacity, queue, seed } => {
                let mut impair = self.ends.inside.command(programs::own()?);
                impair.args(["impair", "--in", &inside, "--out", &outside, "--cpu", &cpu]);
                for (flag, value) in
                    [("--loss", loss), ("--duplicate", duplicate), ("--reorder", reorder)]
                {
                    impair.args([flag, &value.to_string()]);
                }
                for (flag, time) in [("--delay", delay), ("--jitter", jitter)] {
                    impair.args([flag, &format!("{}ns", time.as_nanos())]);
                }
                if let Some(rate) = capacity {
                    impair.args(["--capacity", &rate.to_string()]);
                }
                if let Some(queue) = queue {
                    impair.args(["--queue", &queue.to_string()]);
                }
                impair.args(["--seed", &seed.to_string()]);
                self.run("impair", &mut impair)?;
                self.wait_for_programs()?;
                let log = fs::read_to_string(self.folder.path().join("impair.log"));
                self.ends.path.mode = mode_in(&log.unwrap_or_default()).into();
            }
            Device::Linux {} | Device::Nftables {} | Device::Iptables {} => {
                self.set_up_linux()?;
                self.ends.path.mode = "kernel".into();
            }
            Device::Millrace { config, control, manifests, workers } => {
                let own = config.is_none();
                if own {
                    self.write_engine_files(*workers)?;
                }
                let file = |given: &Option<std::path::PathBuf>, name: &str| {
                    given.as_deref().map_or_else(|| self.file(name), |p| p.display().to_string())
                };
                let (config, control, manifests) = (
                    file(config, "router.toml"),
                    file(control, "control.toml"),
                    file(manifests, "manifests"),
                );
                let mut engine = self.ends.inside.command(programs::find("millrace-dataplane")?);
                self.run("engine", engine.args(["--config", &config]))?;
                let mut process = self.ends.inside.command(programs::find("millrace-control")?);
                process.args(["--config", &control, "--manifests", &manifests]);
                self.run("control", &mut process)?;
                self.wait_for_programs()?;
                self.ends.path.mode = self.engine_mode(own).unwrap_or("unknown".into());
            }
            Device::Command { command, ready, ready_within, .. } => {
                let mut words = command.iter().map(|word| self.fill(word, None));
                let program = words.next().ok_or("command = []: no program")?;
                let mut command = self.ends.inside.command(program);
                command.args(words);
                self.run("command", &mut command)?;
                match ready {
                    None => sleep(Duration::from_secs(1)),
                    Some(ready) => self.wait_until(ready, *ready_within)?,
                }
                self.check()?;
            }
        }
        Ok(())
    }

    /// What the engine says of the sockets on the two interfaces; None where its socket is not known, or it says nothing.
    fn engine_mode(&self, own: bool) -> Option<String> {
        let socket = own.then(|| self.file("engine.sock"))?;
        let mut show = self.ends.inside.command(programs::find("millrace").ok()?);
        show.args(["--socket", &socket, "show", "interfaces", "--json"]);
        modes_in(&programs::finish(&mut show, None).ok()?)
    }

    /// Fails if a program of the device is no longer there.
    pub fn check(&mut self) -> Result<(), String> {
        self.running.iter_mut().try_for_each(Running::check)
    }

    /// Ends the device's programs and returns what the first of them said on its standard output (the truth of `impair`).
    pub fn finish(&mut self) -> Result<String, String> {
        self.running.clear();
        let out = self.folder.path().join("impair.out");
        if !out.exists() {
            return Ok(String::new());
        }
        fs::read_to_string(&out).map_err(|e| format!("{}: {e}", out.display()))
    }

    fn run(&mut self, name: &str, command: &mut std::process::Command) -> Result<(), String> {
        let file = |kind: &str| self.folder.path().join(format!("{name}.{kind}"));
        self.running.push(Running::start_with_output(command, file("out"), file("log"))?);
        Ok(())
    }

    fn wait_for_programs(&mut self) -> Result<(), String> {
        let running = &mut self.running;
        let mut check = || running.iter_mut().try_for_each(Running::check);
        wait_for_program(&self.ends.inside, &mut check)?;
        wait_for_program(&self.ends.outside, &mut check)
    }

    fn wait_until(&mut self, ready: &[String], within: Duration) -> Result<(), String> {
        let deadline = Instant::now() + within;
        loop {
            let mut words = ready.iter().map(|word| self.fill(word, None));
            let program = words.next().ok_or("ready = []: no program")?;
            let mut command = self.ends.inside.command(program);
            command.args(words);
            match programs::finish(&mut command, None) {
                Ok(_) => return Ok(()),
                Err(why) if Instant::now() > deadline => {
                    return Err(format!("not ready after {within:?}: {why}"));
                }
                Err(_) => {
                    self.check()?;
                    sleep(Duration::from_millis(100));
                }
            }
        }
    }

    /// A word of the user's with the places filled in.
    pub fn fill(&self, word: &str, n: Option<u64>) -> String {
        let word = word
            .replace("{in}", &self.ends.inside.interface)
            .replace("{out}", &self.ends.outside.interface)
            .replace("{cpu}", &self.scenario.cpus.device.to_string());
        n.map_or(word.clone(), |n| word.replace("{n}", &n.to_string()))
    }

    fn set_up_linux(&self) -> Result<(), String> {
        let (inside, outside) = (&self.ends.inside.interface, &self.ends.outside.interface);
        let (generator, sink) = (&self.ends.generator.mac, &self.ends.sink.mac);
        for words in [
            format!("addr add 10.0.1.1/24 dev {inside}"),
            format!("addr add 10.0.2.1/24 dev {outside}"),
            format!("neigh add 10.0.1.2 lladdr {generator} dev {inside} nud permanent"),
            format!("neigh add 10.0.2.2 lladdr {sink} dev {outside} nud permanent"),
            format!("route add 10.200.0.0/16 via 10.0.1.2 dev {inside}"),
            format!("route add {} via 10.0.2.2 dev {outside}", services::PODS),
        ] {
            let mut ip = self.ends.inside.command("ip");
            programs::finish(ip.args(words.split(' ')), None)?;
        }
        self.shell(
            "echo 1 > /proc/sys/net/ipv4/ip_forward; \
             for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 > $f; done",
        )?;
        if self.ends.path.link == "veth" {
            // A veth takes redirected frames only with NAPI, which it has with GRO or an XDP program; there is nothing to merge here.
            for place in [&self.ends.inside, &self.ends.outside] {
                let words = ["-K", &place.interface, "gro", "on"];
                programs::finish(place.command("ethtool").args(words), None)?;
            }
            // Linux handles packets on the device's CPU, as the engine does; the generator's CPU hands them over.
            let mask = kernel::mask(self.scenario.cpus.device);
            for queue in 0..self.ends.path.queues {
                self.shell(&format!(
                    "echo {mask} > /sys/class/net/{inside}/queues/rx-{queue}/rps_cpus"
                ))?;
            }
        }
        let count = usize::from(self.scenario.traffic.services);
        match self.device {
            Device::Nftables {} => {
                for script in services::nftables(count) {
                    let script = self.wants.protocol.written(&script);
                    let mut nft = self.ends.inside.command("nft");
                    programs::finish(nft.args(["-f", "-"]), Some(&script))?;
                }
            }
            Device::Iptables {} => {
                let mut restore = self.ends.inside.command("iptables-legacy-restore");
                let rules = self.wants.protocol.written(&services::iptables(count));
                programs::finish(&mut restore, Some(&rules))?;
            }
            _ => {}
        }
        match self.wants.flows {
            Some((_, seconds)) if self.tracks() => self.shell(&format!(
                "for f in udp_timeout udp_timeout_stream; do \
                 echo {seconds} > /proc/sys/net/netfilter/nf_conntrack_$f; done"
            )),
            _ => Ok(()),
        }
    }

    /// Whether it is Linux with connection tracking.
    fn tracks(&self) -> bool {
        matches!(self.device, Device::Nftables {} | Device::Iptables {})
    }

    /// Flows that the device says it tracks; None where it can't be asked.
    pub fn tracked(&self) -> Result<Option<u64>, String> {
        let number = |text: &str| text.trim().parse().map_err(|_| format!("{text}: no number"));
        match self.device {
            _ if self.tracks() => {
                let mut cat = self.ends.inside.command("cat");
                cat.arg("/proc/sys/net/netfilter/nf_conntrack_count");
                number(&programs::finish(&mut cat, None)?).map(Some)
            }
            Device::Millrace { config: None, .. } => {
                let mut show = self.ends.inside.command(programs::find("millrace")?);
                let socket = self.file("engine.sock");
                show.args(["--socket", &socket, "show", "conntrack", "--totals", "--json"]);
                let text = programs::finish(&mut show, None)?;
                let value: serde_json::Value =
                    serde_json::from_str(&text).map_err(|e| format!("millrace show: {e}"))?;
                Ok(value.pointer("/totals/live").and_then(serde_json::Value::as_u64))
            }
            _ => Ok(None),
        }
    }

    /// Makes the receiver's end send back what comes out of the device.
    pub fn reflect(&mut self) -> Result<(), String> {
        let (sink, outside) =
            (self.ends.sink.interface.clone(), self.ends.outside.interface.clone());
        self.run_at_sink("reflect", &["sink", "--interface", &sink, "--reflect"])?;
        wait_for_program(&self.ends.sink, || Ok(()))?;
        let linux = matches!(self.device, Device::Linux {}) || self.tracks();
        if linux && self.ends.path.link == "veth" {
            // Frames that a veth's peer sends back by XDP wait in its ring for good, unless it has a program of its own.
            let mut pass = self.ends.inside.command(programs::own()?);
            self.run("pass", pass.args(["sink", "--interface", &outside, "--pass"]))?;
            wait_for_program(&self.ends.outside, || Ok(()))?;
        }
        Ok(())
    }

    /// Starts a program at the receiver's end, which goes with the device.
    pub fn run_at_sink(&mut self, name: &str, words: &[&str]) -> Result<(), String> {
        let mut command = self.ends.sink.command(programs::own()?);
        self.run(name, command.args(words))
    }

    fn write_engine_files(&self, workers: Option<Workers>) -> Result<(), String> {
        let write = |name: &str, text: String| {
            let file = self.folder.path().join(name);
            fs::write(&file, text).map_err(|e| format!("{}: {e}", file.display()))
        };
        let mode = match workers {
            Some(Workers::Busy) => "busy",
            _ => "adaptive",
        };
        let (inside, outside) = (&self.ends.inside.interface, &self.ends.outside.interface);
        let socket = self.file("engine.sock");
        let conntrack = self.wants.flows.map_or(String::new(), |(entries, seconds)| {
            // Some more than asked for, within what the engine takes.
            let entries = (entries + entries / 4).clamp(1 << 20, 1 << 24);
            format!(
                "[conntrack]\nentries = {entries}\ntimeouts = {{ udp = {seconds}, udp_stream = {seconds} }}"
            )
        });
        let cpus: Vec<String> = (0..self.ends.path.queues)
            .map(|n| (self.scenario.cpus.device + n as usize).to_string())
            .collect();
        write(
            "router.toml",
            format!(
                r#"mode = "router"
socket = "{socket}"
[workers]
cpus = [{}]
mode = "{mode}"
{conntrack}
[[interface]]
name = "{inside}"
addresses = ["10.0.1.1/24"]
[[interface]]
name = "{outside}"
addresses = ["10.0.2.1/24"]
"#,
                cpus.join(", ")
            ),
        )?;
        let (generator, sink) = match self.ends.path.link.as_str() {
            "veth" => (GENERATOR_MAC, SINK_MAC),
            _ => (self.ends.generator.mac.as_str(), self.ends.sink.mac.as_str()),
        };
        write(
            "control.toml",
            format!(
                r#"engine = "{socket}"
[[route]]
prefix = "10.200.0.0/16"
via = "10.0.1.2"
[[route]]
prefix = "{}"
via = "10.0.2.2"
[[neighbor]]
interface = "{outside}"
address = "10.0.2.2"
mac = "{sink}"
[[neighbor]]
interface = "{inside}"
address = "10.0.1.2"
mac = "{generator}"
"#,
                services::PODS
            ),
        )?;
        fs::create_dir_all(self.folder.path().join("manifests")).map_err(|e| e.to_string())?;
        let count = usize::from(self.scenario.traffic.services);
        let manifests = self.wants.protocol.written(&services::manifests(count));
        write("manifests/services.yaml", manifests)
    }

    fn shell(&self, script: &str) -> Result<(), String> {
        programs::finish(self.ends.inside.command("sh").args(["-c", script]), None).map(drop)
    }

    fn file(&self, name: &str) -> String {
        Path::display(&self.folder.path().join(name)).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::{mode_in, modes_in};

    #[test]
    fn the_mode_of_the_engine_is_that_of_all_its_interfaces() {
        let of = |modes: &[&str]| {
            let list = modes.iter().map(|mode| format!("{{\"mode\": \"{mode}\"}}"));
            modes_in(&format!("[{}]", list.collect::<Vec<_>>().join(","))).unwrap_or_default()
        };
        assert_eq!(of(&["copy", "copy"]), "copy");
        assert_eq!(of(&["zero-copy", "copy"]), "mixed");
        assert_eq!(of(&["zero-copy", ""]), "zero-copy");
        assert_eq!((of(&[]), modes_in("no json")), (String::new(), None));
    }

    #[test]
    fn the_mode_is_what_the_forwarder_says() {
        assert_eq!(mode_in("millrace-perf: forwarding from a to b, copy mode\n"), "copy");
        assert_eq!(mode_in("millrace-perf: forwarding from a to b, zero-copy mode\n"), "zero-copy");
        assert_eq!(mode_in(""), "unknown");
    }
}
