//! The subcommands' options and what they do; `millrace-perf` and `millrace-doctor` only call this.

use crate::checks::{self, Wanted};
use crate::files::Files;
use crate::nic::Nic;
use crate::observe;
use crate::report::{self, Report, Style};
use crate::tune::journal::FileStore;
use crate::tune::live::Live;
use crate::tune::trial::LinkTrial;
use crate::tune::{self, Applied, Undone};
use clap::Args;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// The exit status of what could not be done at all.
pub const FAILED: u8 = 3;

/// What the interface is to be used for.
#[derive(Args, Clone, Debug)]
pub struct Use {
    /// Workers, each with a queue of its own (without: one for each queue that there is)
    #[arg(long)]
    pub workers: Option<u32>,
    /// Frames of the UMEM, of all workers together
    #[arg(long, default_value_t = 8192)]
    pub frames: u64,
    /// Bytes of a frame's chunk: 2048 or 4096
    #[arg(long, default_value_t = 4096)]
    pub chunk: u32,
    /// The workers poll the driver themselves (SO_PREFER_BUSY_POLL, `busy_poll_us`)
    #[arg(long)]
    pub busy_poll: bool,
}

impl From<&Use> for Wanted {
    fn from(wanted: &Use) -> Self {
        Self {
            workers: wanted.workers,
            frames: wanted.frames,
            chunk: wanted.chunk,
            busy_poll: wanted.busy_poll,
        }
    }
}

/// Options of `doctor`.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Exit status: 0 nothing found but notes, 1 something costs, 2 something blocks, 3 it could not be looked at."
)]
pub struct Doctor {
    /// Interface of this namespace; without one, all are listed
    interface: Option<String>,
    #[command(flatten)]
    wanted: Use,
    /// Look at a capture instead: a folder with sys, proc and answers.json, or a file that --capture wrote
    #[arg(long, value_name = "PATH", conflicts_with = "interface")]
    from: Option<PathBuf>,
    /// Write all that is looked at to a file, for a report of a fault (it holds MAC addresses and names of interfaces)
    #[arg(long, value_name = "FILE", requires = "interface")]
    capture: Option<PathBuf>,
    /// Print JSON (millrace-doctor/1)
    #[arg(long)]
    json: bool,
}

impl Doctor {
    /// Looks, prints, and answers the exit status.
    pub fn run(&self) -> ExitCode {
        match self.look() {
            Ok(status) => ExitCode::from(status),
            Err(error) => {
                eprintln!("doctor: {error}");
                ExitCode::from(FAILED)
            }
        }
    }

    fn look(&self) -> Result<u8, String> {
        let nic = match (&self.from, &self.interface) {
            (Some(path), _) => observe::captured(path).map_err(|error| error.to_string())?,
            (None, Some(interface)) => self.live(interface)?,
            (None, None) => return self.list(),
        };
        let wanted = Wanted::from(&self.wanted);
        let findings = checks::run(&nic, &wanted);
        let report = Report::new(&nic, &wanted, &findings);
        let text = if self.json { json(&report)? } else { report::table(&nic, &findings, style()) };
        print(&text)?;
        Ok(report.status)
    }

    fn live(&self, interface: &str) -> Result<Nic, String> {
        let files = Files::under("/");
        let nic = observe::live(interface, &files).map_err(|error| error.to_string())?;
        if let Some(path) = &self.capture {
            let mut capture = files.seen();
            capture.comment =
                format!("Captured by millrace doctor on Linux {}.\n", nic.host.kernel);
            let answers = serde_json::to_string_pretty(&nic.answers).map_err(|e| e.to_string())?;
            capture.sections.insert("answers.json".into(), answers);
            std::fs::write(path, capture.to_string())
                .map_err(|error| format!("{}: {error}", path.display()))?;
        }
        Ok(nic)
    }

    fn list(&self) -> Result<u8, String> {
        let mut rows = Vec::new();
        for link in observe::links().map_err(|error| error.to_string())? {
            let nic = observe::live(&link.name, &Files::under("/")).map_err(|e| e.to_string())?;
            rows.push((link, nic.driver().to_owned(), nic.queues()));
        }
        let text = if self.json {
            json(&rows.iter().map(|(link, driver, queues)| {
                serde_json::json!({ "link": link, "driver": driver, "queues": queues })
            }).collect::<Vec<_>>())?
        } else {
            report::interfaces(&rows, style())
        };
        print(&text)?;
        Ok(0)
    }
}

/// Options of `tune`.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Exit status: 0 done, 1 reverted since the trial or a change failed, 3 it could not be done.\nA run that was killed is undone by --undo, and by the next --apply before it begins."
)]
pub struct Tune {
    /// Interface of this namespace
    interface: String,
    #[command(flatten)]
    wanted: Use,
    #[command(flatten)]
    what: What,
    /// Change these findings only (also those that are not changed unasked)
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    only: Vec<String>,
    /// Leave these findings alone
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    except: Vec<String>,
    /// Trial, run by `sh -c` before and after (INTERFACE is set): must end with 0; a figure as its last line must not fall
    #[arg(long, value_name = "COMMAND")]
    trial: Option<String>,
    /// Seconds that the trial's command may take
    #[arg(long, default_value_t = 60.0)]
    trial_limit: f64,
    /// Percent that its figure may fall
    #[arg(long, default_value_t = 5.0)]
    tolerance: f64,
    /// Seconds that the link is watched for errors, before and after
    #[arg(long, default_value_t = 2.0)]
    watch: f64,
    /// Folder of the journals
    #[arg(long, default_value = "/var/lib/millrace/tune")]
    state: PathBuf,
    /// With --undo: also restore what others have changed since
    #[arg(long, requires = "undo")]
    force: bool,
}

/// What `tune` is to do.
#[derive(Args, Clone, Debug)]
#[group(required = true, multiple = false)]
pub struct What {
    /// Print the changes and their undoing, and change nothing
    #[arg(long)]
    plan: bool,
    /// Make the changes, try, keep or revert
    #[arg(long)]
    apply: bool,
    /// Restore what was before
    #[arg(long)]
    undo: bool,
}

impl Tune {
    /// Does it and answers the exit status.
    pub fn run(&self) -> ExitCode {
        match self.tune() {
            Ok(status) => ExitCode::from(status),
            Err(error) => {
                eprintln!("tune: {error}");
                ExitCode::from(FAILED)
            }
        }
    }

    fn tune(&self) -> Result<u8, String> {
        if self.what.undo {
            return self.undo();
        }
        let nic = observe::live(&self.interface, &Files::under("/")).map_err(|e| e.to_string())?;
        let findings = checks::run(&nic, &Wanted::from(&self.wanted));
        let chosen = tune::choose(&findings, &self.only, &self.except)?;
        for finding in &chosen {
            println!("{}: {}", finding.id, finding.seen);
            finding.change.iter().for_each(|command| println!("  {command}"));
        }
        let plan: Vec<_> = chosen.iter().flat_map(|finding| finding.changes.clone()).collect();
        if self.what.plan {
            return Ok(0);
        }
        let stop = stopper()?;
        let mut trial = LinkTrial {
            interface: self.interface.clone(),
            watch: seconds(self.watch)?,
            patience: seconds(10.0)?,
            command: self.trial.clone(),
            limit: seconds(self.trial_limit)?,
            tolerance: self.tolerance,
            stop,
        };
        let (mut live, mut store) = self.open()?;
        match tune::apply(&mut live, &mut store, &mut trial, &plan).map_err(|e| e.to_string())? {
            Applied::Nothing => println!("nothing to change"),
            Applied::Kept(count) => {
                println!("{count} changes are in force; journal: {}", store.path().display());
            }
            Applied::Reverted { why, undone } => {
                eprintln!("tune: reverted: {why}");
                told(&undone);
                return Ok(1);
            }
        }
        Ok(0)
    }

    fn undo(&self) -> Result<u8, String> {
        let (mut live, mut store) = self.open()?;
        let undone = tune::undo(&mut live, &mut store, self.force).map_err(|e| e.to_string())?;
        told(&undone);
        Ok(0)
    }

    /// The journal's name has the namespace in it: another may have an interface of this name.
    fn open(&self) -> Result<(Live, FileStore), String> {
        let live = Live::of(&self.interface)?;
        let namespace = std::fs::read_link("/proc/self/ns/net").unwrap_or_default();
        let number: String =
            namespace.to_string_lossy().chars().filter(char::is_ascii_digit).collect();
        let store = FileStore::open(&self.state, &format!("{}@{number}", self.interface))?;
        Ok((live, store))
    }
}

fn told(undone: &Undone) {
    if undone.forgotten {
        println!(
            "the settings went with the interface or the machine's last start; the journal is closed"
        );
    }
    println!("{} settings restored", undone.restored);
    undone.left.iter().for_each(|left| println!("left: {left}"));
}

fn seconds(seconds: f64) -> Result<Duration, String> {
    Duration::try_from_secs_f64(seconds).map_err(|error| format!("{seconds} seconds: {error}"))
}

/// Set by the signals that would end this process: changes are reverted first.
fn stopper() -> Result<Arc<AtomicBool>, String> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .map_err(|error| format!("signal {signal}: {error}"))?;
    }
    Ok(stop)
}

/// Pretty JSON with a newline.
fn json(value: &impl serde::Serialize) -> Result<String, String> {
    Ok(serde_json::to_string_pretty(value).map_err(|error| error.to_string())? + "\n")
}

/// Colors on a terminal alone, and its width where the shell tells it.
fn style() -> Style {
    let color = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let width = std::env::var("COLUMNS").ok().and_then(|width| width.parse().ok());
    Style { color, width: width.unwrap_or(110) }
}

/// A reader that leaves early (`| head`) is no fault.
fn print(text: &str) -> Result<(), String> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.to_string()),
        _ => Ok(()),
    }
}
