//! A round of `stateful`: each protocol's connections, then each step of the ladder, each on a device set up anew, so that none has
//! the flows of the one before.

use super::Run;
use crate::device::{Stage, Wants};
use crate::ends::Ends;
use crate::folder::Folder;
use crate::kernel;
use crate::results::{Path, Round};
use crate::scenario::{Device, Named, Topology};
use crate::services::{self, Protocol};
use crate::settings::Settings;
use crate::stateful::connections::{self, Clients};
use crate::stateful::sessions::Sessions;
use crate::stateful::{Stateful, is_two_way, show_sessions};
use crate::units::{show_per_second, show_rate};
use std::collections::BTreeMap;

/// Flows that a device has room for while connections are counted, and seconds that it keeps those of UDP: enough for what a fast
/// generator opens in that time.
const CONNECTIONS: (u64, u32) = (1 << 22, 10);
/// Seconds that the sessions of the ladder are kept without a packet: longer than a pass takes.
const KEPT: u32 = 600;

/// What generator and server do without a device.
#[derive(Debug, Default)]
pub(super) struct Alone {
    connections: BTreeMap<&'static str, f64>,
    round_trips: BTreeMap<u32, f64>,
}

impl<'a> Run<'a> {
    /// Without a device, on ends that are joined.
    pub(super) fn stateful_alone(&mut self) -> Result<Alone, String> {
        let mut alone = Alone::default();
        if let Some(named) = self.scenario.devices.iter().find(|d| !is_two_way(d.device.kind())) {
            let name = named.name();
            return Err(format!("{name}: it forwards one way only, and connections need both"));
        }
        let scenario = self.scenario;
        let plan = &scenario.stateful;
        let (queues, mtu) = match &scenario.topology {
            Topology::Veth { queues, mtu } => (*queues, *mtu),
            Topology::Nics(_) => {
                if !plan.protocols.is_empty() && !scenario.topology.has_a_host_behind() {
                    return Err("connections need a server behind the device, a host of its own: put topology.rx into a \
                                namespace (topology.netns_rx) that the others are not in, or ask for sessions only \
                                (--no-connections)"
                        .into());
                }
                self.warnings.push(
                    "what generator and server do without a device is not known over interfaces that were there: \
                     no figure is called the device's"
                        .into(),
                );
                return Ok(alone);
            }
        };
        let seconds = scenario.measure.final_trial.as_secs_f64().min(1.0);
        for protocol in &plan.protocols {
            let ends = Ends::joined("cal", queues, mtu)?;
            let logs = Folder::create("cal")?;
            connections::settle(&mut Settings::default(), &ends.sink, "10.0.1.1/24", None)?;
            let mut server = ends.sink.command(crate::programs::own()?);
            server.args(serve_words(&self.scenario.cpus).iter());
            let _server = started(&mut server, &logs)?;
            let clients = Clients {
                ends: &ends,
                cpus: &scenario.cpus,
                protocol: *protocol,
                server: ([10, 0, 1, 1], services::PORT).into(),
                plan,
                stop: self.stop,
            };
            self.progress.passing(&format!("generator and server alone, {}", protocol.name()));
            let found = clients.measure(&scenario.measure, None, |_, _| {})?;
            let rate = found.bounds.bounds.lower.unwrap_or(found.closed_loop);
            self.progress.staying(&format!(
                "generator and server alone, {}: {}",
                protocol.name(),
                show_per_second(rate)
            ));
            alone.connections.insert(protocol.name(), rate);
        }
        if plan.sessions.is_empty() {
            return Ok(alone);
        }
        for frame in &scenario.traffic.frames {
            let ends = Ends::joined("cal", queues, mtu)?;
            let logs = Folder::create("cal")?;
            let mut sink = ends.sink.command(crate::programs::own()?);
            sink.args(["sink", "--interface", &ends.sink.interface, "--reflect"]);
            let _sink = started(&mut sink, &logs)?;
            crate::generator::wait_for_program(&ends.sink, || Ok(()))?;
            let sessions = self.sessions(&ends, logs.path(), *frame, false);
            let rate = sessions.most(1 << 16, seconds)?;
            self.progress
                .staying(&format!("round trips without a device, {frame} B: {}", show_rate(rate)));
            alone.round_trips.insert(*frame, rate);
        }
        Ok(alone)
    }

    fn sessions<'b>(
        &self,
        ends: &'b Ends,
        folder: &'b std::path::Path,
        frame: u32,
        to_services: bool,
    ) -> Sessions<'b>
    where
        'a: 'b,
    {
        let services = self.scenario.traffic.services;
        let (cpus, stop) = (&self.scenario.cpus, self.stop);
        Sessions { ends, cpus, frame, services, to_services, folder, stop }
    }

    /// One device, one frame size, once. What was measured counts also where it ended before its time.
    pub(super) fn stateful(
        &mut self,
        named: &Named,
        frame: u32,
        alone: &Alone,
        label: &str,
    ) -> Result<(Round, Path, Result<(), String>), String> {
        let mut found = Stateful::default();
        let mut path = Path::default();
        let ended = self.both(named, frame, alone, label, &mut found, &mut path);
        if found == Stateful::default() {
            ended?;
            return Err("nothing was asked for: no protocols and no sessions".into());
        }
        Ok((Round { stateful: Some(found), ..Round::default() }, path, ended))
    }

    fn both(
        &mut self,
        named: &Named,
        frame: u32,
        alone: &Alone,
        label: &str,
        found: &mut Stateful,
        path: &mut Path,
    ) -> Result<(), String> {
        let scenario = self.scenario;
        let plan = &scenario.stateful;
        let measure = &scenario.measure;
        for protocol in &plan.protocols {
            let name = protocol.name();
            self.progress.passing(&format!("{label}: {name}, setting up"));
            let (mut stage, _limits) = self.set_up(named, *protocol, CONNECTIONS)?;
            *path = stage.ends.path.clone();
            stage.settle()?;
            let words = serve_words(&scenario.cpus);
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            stage.run_at_sink("serve", &words)?;
            stage.check()?;
            let clients = Clients {
                ends: &stage.ends,
                cpus: &scenario.cpus,
                protocol: *protocol,
                server: connections::server(named.device.has_services()),
                plan,
                stop: self.stop,
            };
            clients.wait()?;
            let limit = alone.connections.get(name).copied();
            let progress = &mut *self.progress;
            let connections = clients.measure(measure, limit, |load, loss| {
                let load = show_per_second(load);
                progress.passing(&format!("{label}: {name}, {load}: {:.2} % failed", loss * 100.0));
            })?;
            let words = connections.bounds.in_words();
            found.connections.push(connections);
            self.progress.staying(&format!("{label}: {words}"));
            stage.check()?;
        }
        for sessions in &plan.sessions {
            let step = format!("{label}: {} sessions", show_sessions(*sessions));
            self.progress.passing(&format!("{step}: setting up"));
            let (mut stage, _limits) = self.set_up(named, Protocol::Udp, (*sessions, KEPT))?;
            *path = stage.ends.path.clone();
            stage.reflect()?;
            let through =
                self.sessions(&stage.ends, stage.folder.path(), frame, named.device.has_services());
            through.wait()?;
            let alone = alone.round_trips.get(&frame).copied();
            let seconds = measure.final_trial.as_secs_f64();
            let progress = &mut *self.progress;
            let measured = through.step(
                plan,
                *sessions,
                (alone, seconds),
                || stage.tracked(),
                |phase| progress.passing(&format!("{step}: {phase}")),
            )?;
            match (&measured.sustain, &measured.failed) {
                (Some(sustain), _) => self.progress.staying(&format!(
                    "{step}: open after {} pass{}, {} round trips a second at most",
                    measured.ramp.passes,
                    if measured.ramp.passes == 1 { "" } else { "es" },
                    show_rate(sustain.most)
                )),
                (None, why) => {
                    let why = why.clone().unwrap_or_default();
                    self.progress.staying(&format!("{step}: {why}"));
                }
            }
            found.ladder.push(measured);
            stage.check()?;
        }
        Ok(())
    }

    fn set_up(
        &self,
        named: &'a Named,
        protocol: Protocol,
        (flows, seconds): (u64, u32),
    ) -> Result<(Stage<'a>, Option<kernel::Limits>), String> {
        let device = &named.device;
        let limits = match device {
            Device::Nftables {} | Device::Iptables {} => Some(kernel::Limits::raise_to(
                u32::try_from(flows + flows / 4).unwrap_or(u32::MAX),
            )?),
            _ => None,
        };
        let wants = Wants { protocol, flows: Some((flows, seconds)) };
        Ok((Stage::set_up(device, self.scenario, wants, self.stop)?, limits))
    }
}

fn serve_words(cpus: &crate::scenario::Cpus) -> Vec<String> {
    // Beside the generator where it has no CPU of its own: the device keeps its CPU for itself.
    let cpu = cpus.receiver.unwrap_or(cpus.generator);
    let ports = format!("{},{}", services::PORT, services::TARGET);
    ["serve", "--ports", &ports, "--cpu", &cpu.to_string()].map(str::to_owned).to_vec()
}

fn started(
    command: &mut std::process::Command,
    logs: &Folder,
) -> Result<crate::running::Running, String> {
    let mut running = crate::running::Running::start(command, logs.path().join("alone.log"))?;
    std::thread::sleep(std::time::Duration::from_millis(200));
    running.check()?;
    Ok(running)
}
