//! The subcommands' options and what they do; `millrace-perf` and `millrace-doctor` only call this.

use crate::checks::{self, Wanted};
use crate::files::Files;
use crate::nic::Nic;
use crate::observe;
use crate::report::{self, Report, Style};
use clap::Args;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

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
