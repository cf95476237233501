//! What a forwarder stands between: namespaces of its own, or interfaces of this one.

use crate::running::Running;
use crate::topology::{End, Namespace, join};
use millrace_doctor::setting::{Change, Setting};
use millrace_doctor::sweep::Cell;
use millrace_doctor::tune::journal::FileStore;
use millrace_doctor::tune::live::Live;
use millrace_doctor::tune::trial::{Sample, Trial};
use millrace_doctor::tune::{self, Applied};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const GEN_MAC: &str = "02:00:00:00:01:02";
const IN_MAC: &str = "02:00:00:00:01:01";
const OUT_MAC: &str = "02:00:00:00:02:01";
const SINK_MAC: &str = "02:00:00:00:02:02";

/// With busy polling, and without: `Documentation/networking/af_xdp.rst`.
const DEFERRED: [(&str, u64); 2] = [("napi_defer_hard_irqs", 2), ("gro_flush_timeout", 200_000)];

/// Interfaces to receive and to send on.
pub enum Bed {
    /// Namespaces in a row.
    Veth(Box<Row>),
    /// Interfaces of this namespace.
    Named(Named),
}

/// Generator, forwarder and sink.
pub struct Row {
    queues: u32,
    _sink_program: Running,
    generator: Namespace,
    forwarder: Namespace,
    sink: Namespace,
}

/// Interfaces that exist, and where their journals are.
pub struct Named {
    from: String,
    to: String,
    state: PathBuf,
}

impl Bed {
    /// Makes the namespaces.
    pub fn veth(queues: u32, folder: &Path) -> Result<Self, String> {
        let generator = Namespace::create(&format!("sweep{queues}-gen"))?;
        let forwarder = Namespace::create(&format!("sweep{queues}-dut"))?;
        let sink = Namespace::create(&format!("sweep{queues}-sink"))?;
        let end = |namespace, name, mac| End { namespace, name, mac };
        join(end(&generator, "gen0", GEN_MAC), end(&forwarder, "in0", IN_MAC), queues)?;
        join(end(&forwarder, "out0", OUT_MAC), end(&sink, "sink0", SINK_MAC), queues)?;
        let mut program = sink.command(&super::program()?);
        let program = program.args(["sink", "--interface", "sink0"]);
        let sink_program = Running::start(program, super::log(folder, &format!("sink{queues}")))?;
        Ok(Self::Veth(Box::new(Row {
            queues,
            _sink_program: sink_program,
            generator,
            forwarder,
            sink,
        })))
    }

    /// Takes interfaces as they are.
    pub fn named(from: &str, to: &str, state: &Path) -> Self {
        Self::Named(Named { from: from.into(), to: to.into(), state: state.into() })
    }

    /// Those of somebody else, whose load comes from outside.
    pub fn is_named(&self) -> bool {
        matches!(self, Self::Named(_))
    }

    /// Where packets come in, and where they go out.
    pub fn interfaces(&self) -> (&str, &str) {
        match self {
            Self::Veth(_) => ("in0", "out0"),
            Self::Named(named) => (&named.from, &named.to),
        }
    }

    /// A command that will run beside them.
    pub fn command(&self, program: &str) -> Command {
        match self {
            Self::Veth(row) => row.forwarder.command(program),
            Self::Named(_) => {
                let mut command = Command::new(program);
                command.stdin(Stdio::null());
                command
            }
        }
    }

    /// Gives the interfaces this cell's settings.
    pub fn set(&mut self, cell: &Cell) -> Result<(), String> {
        match self {
            Self::Veth(row) => row.set(cell),
            Self::Named(named) => [&named.from, &named.to]
                .into_iter()
                .try_for_each(|interface| named.set(interface, cell)),
        }
    }

    /// Starts the load: one sender for each queue, for a veth takes the queue by the sender's CPU.
    pub fn offer(&self, rate: Option<f64>, folder: &Path) -> Result<Vec<Running>, String> {
        let Self::Veth(row) = self else { return Ok(Vec::new()) };
        let offer = |queue: u32| {
            let mut offer = row.generator.command(&super::program()?);
            offer.args(["offer", "--interface", "gen0", "--src-mac", GEN_MAC, "--dst-mac", IN_MAC]);
            offer.args(["--src", "10.0.1.2:10240", "--dst", "192.0.2.10:53", "--flows", "256"]);
            offer.args(["--cpu", &queue.to_string()]);
            if let Some(rate) = rate {
                offer.args(["--rate", &(rate / f64::from(row.queues)).to_string()]);
            }
            Running::start(&mut offer, super::log(folder, &format!("offer{queue}")))
        };
        (0..row.queues).map(offer).collect()
    }

    /// Packets that arrived behind the forwarder.
    pub fn arrived(&self) -> Result<u64, String> {
        match self {
            Self::Veth(row) => row.sink.counter("sink0", "rx_packets"),
            Self::Named(named) => {
                let path = format!("/sys/class/net/{}/statistics/tx_packets", named.to);
                let text = std::fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
                text.trim().parse().map_err(|_| format!("{path}: not a number"))
            }
        }
    }
}

impl Row {
    fn set(&self, cell: &Cell) -> Result<(), String> {
        let mut lines = String::new();
        for interface in ["in0", "out0"] {
            for (file, on) in DEFERRED {
                let value = if cell.busy_poll { on } else { 0 };
                lines += &format!("echo {value} > /sys/class/net/{interface}/{file} || exit 1; ");
            }
        }
        let output = self.forwarder.command("sh").args(["-c", &lines]).output();
        let output = output.map_err(|e| e.to_string())?;
        let why = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() { Ok(()) } else { Err(format!("busy-poll settings: {why}")) }
    }
}

impl Named {
    fn open(&self, interface: &str) -> Result<(Live, FileStore), String> {
        Ok((Live::of(interface)?, FileStore::open(&self.state, &format!("sweep-{interface}"))?))
    }

    /// Undoes the cell before, and makes the changes of this one.
    fn set(&self, interface: &str, cell: &Cell) -> Result<(), String> {
        let (mut live, mut store) = self.open(interface)?;
        tune::undo(&mut live, &mut store, false).map_err(|e| e.to_string())?;
        let kinds = ["combined", "rx", "tx"].map(|kind| Setting::Channels(kind.into()));
        let now = tune::Backend::snapshot(&mut live)?;
        let combined = now.contains_key(&kinds[0]);
        let kinds = kinds.into_iter().filter(|kind| {
            now.contains_key(kind) && (!combined || *kind == Setting::Channels("combined".into()))
        });
        let mut plan: Vec<_> = kinds.map(|kind| Change::new(kind, cell.queues)).collect();
        for (file, on) in DEFERRED {
            let value = if cell.busy_poll { on } else { 0 };
            plan.push(Change::new(Setting::Interface(file.into()), value));
        }
        match tune::apply(&mut live, &mut store, &mut Always, &plan).map_err(|e| e.to_string())? {
            Applied::Reverted { why, .. } => Err(format!("{interface}: {why}")),
            Applied::Nothing | Applied::Kept(_) => Ok(()),
        }
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        for interface in [&self.from, &self.to] {
            let undone = self.open(interface).and_then(|(mut live, mut store)| {
                tune::undo(&mut live, &mut store, false).map_err(|e| e.to_string())
            });
            if let Err(error) = undone {
                eprintln!("millrace-perf: {interface}: {error}");
            }
        }
    }
}

/// The measurement is the trial.
struct Always;

impl Trial for Always {
    fn measure(&mut self) -> Result<Sample, String> {
        Ok(Sample::default())
    }

    fn judge(&mut self, _: &Sample, _: &Sample) -> Result<(), String> {
        Ok(())
    }
}
