//! A device under test on its interfaces: set up, started, watched, and gone when dropped.

mod engine;
mod linux;

use crate::ends::Ends;
use crate::folder::Folder;
use crate::generator::{INTERRUPTED, wait_for_program};
use crate::programs;
use crate::running::Running;
use crate::scenario::{Device, Scenario};
use crate::services::Protocol;
use crate::settings::Settings;
use crate::stateful::connections;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
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
    stop: &'a AtomicBool,
    // Programs end before their namespaces go.
    running: Vec<Running>,
    // Goes back while the interfaces, and the folder with its journal, are there.
    settings: Settings,
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

impl<'a> Stage<'a> {
    /// Makes interfaces and starts the device, unless `stop` is set meanwhile.
    pub fn set_up(
        device: &'a Device,
        scenario: &'a Scenario,
        wants: Wants,
        stop: &'a AtomicBool,
    ) -> Result<Self, String> {
        let role = device.kind();
        let ends = Ends::set_up(&scenario.topology, role)?;
        let folder = Folder::create(role)?;
        let settings = match ends.are_made() {
            true => Settings::default(),
            false => Settings::kept(folder.path()),
        };
        let mut stage =
            Self { device, scenario, wants, stop, running: Vec::new(), settings, ends, folder };
        let started = stage.start();
        match stop.load(Ordering::Relaxed) {
            true => Err(INTERRUPTED.into()),
            false => started.map_err(|why| format!("{role}: {why}")).map(|()| stage),
        }
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
            let stopped = || self.stop.load(Ordering::Relaxed);
            let over = || Instant::now() > deadline || stopped();
            match programs::finish_until(&mut command, None, over) {
                Err(_) if stopped() => return Err(INTERRUPTED.into()),
                Ok(_) if Instant::now() < deadline => return Ok(()),
                Ok(_) => return Err(format!("not ready after {within:?}")),
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
            .replace("{tx_mac}", &self.ends.generator.mac)
            .replace("{rx_mac}", &self.ends.sink.mac)
            .replace("{cpu}", &self.scenario.cpus.device.to_string());
        n.map_or(word.clone(), |n| word.replace("{n}", &n.to_string()))
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
        let sink = self.ends.sink.interface.clone();
        self.run_at_sink("reflect", &["sink", "--interface", &sink, "--reflect"])?;
        wait_for_program(&self.ends.sink, || Ok(()))?;
        self.pass_what_comes_back()
    }

    /// Makes the receiver's end a host behind the device, whose kernel answers for all pods.
    pub fn settle(&mut self) -> Result<(), String> {
        let router = ("10.0.2.1", self.ends.outside.mac.as_str());
        connections::settle(&mut self.settings, &self.ends.sink, "10.0.2.2/24", Some(router))
    }

    /// Starts a program at the receiver's end, which goes with the device.
    pub fn run_at_sink(&mut self, name: &str, words: &[&str]) -> Result<(), String> {
        let mut command = self.ends.sink.command(programs::own()?);
        self.run(name, command.args(words))
    }

    fn file(&self, name: &str) -> String {
        Path::display(&self.folder.path().join(name)).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::mode_in;

    #[test]
    fn the_mode_is_what_the_forwarder_says() {
        assert_eq!(mode_in("millrace-perf: forwarding from a to b, copy mode\n"), "copy");
        assert_eq!(mode_in("millrace-perf: forwarding from a to b, zero-copy mode\n"), "zero-copy");
        assert_eq!(mode_in(""), "unknown");
    }
}
