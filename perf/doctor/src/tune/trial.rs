//! What decides whether changes stay.

use std::fs::read_to_string;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// What one trial saw.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sample {
    /// The link had a carrier.
    pub carrier: bool,
    /// Errors of the interface while it was watched.
    pub errors: u64,
    /// The figure that a command printed; more is better.
    pub figure: Option<f64>,
}

/// Measures before and after, and compares.
pub trait Trial {
    /// One trial; an error is a failed one.
    fn measure(&mut self) -> Result<Sample, String>;
    /// Whether the second is no worse than the first.
    fn judge(&mut self, before: &Sample, after: &Sample) -> Result<(), String>;
}

/// Watches the link, and runs a command where one is given.
#[derive(Debug)]
pub struct LinkTrial {
    /// The interface.
    pub interface: String,
    /// How long errors are counted.
    pub watch: Duration,
    /// How long a link may take to come up again.
    pub patience: Duration,
    /// Run by `sh -c`; must end with 0, and its last line may be a figure, more being better.
    pub command: Option<String>,
    /// How long that may take.
    pub limit: Duration,
    /// Percent that the figure may fall.
    pub tolerance: f64,
    /// Set from outside to stop.
    pub stop: Arc<AtomicBool>,
}

impl LinkTrial {
    fn read(&self, file: &str) -> Option<String> {
        let path = format!("/sys/class/net/{}/{file}", self.interface);
        read_to_string(path).ok().map(|text| text.trim().into())
    }

    fn errors(&self) -> u64 {
        let count = |file| self.read(&format!("statistics/{file}"))?.parse::<u64>().ok();
        let files =
            ["rx_errors", "tx_errors", "rx_length_errors", "rx_crc_errors", "tx_aborted_errors"];
        files.into_iter().filter_map(count).sum()
    }

    fn pause(&self, time: Duration) -> Result<(), String> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.stopped()?;
            sleep(Duration::from_millis(20).min(time));
        }
        self.stopped()
    }

    fn stopped(&self) -> Result<(), String> {
        if self.stop.load(Ordering::Relaxed) { Err("stopped by a signal".into()) } else { Ok(()) }
    }

    fn run(&self, command: &str) -> Result<Option<f64>, String> {
        let mut child = Command::new("sh")
            .args(["-c", command])
            .env("INTERFACE", &self.interface)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(|error| format!("sh: {error}"))?;
        let mut out = child.stdout.take();
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            // At most a megabyte is kept; more is no figure.
            let _ = out.as_mut().map(|out| out.take(1 << 20).read_to_string(&mut text));
            text
        });
        let end = Instant::now() + self.limit;
        let outcome = loop {
            match child.try_wait() {
                Ok(Some(status)) if status.success() => break Ok(()),
                Ok(Some(status)) => break Err(format!("`{command}`: {status}")),
                Ok(None) if Instant::now() > end => {
                    break Err(format!("`{command}` took longer than {:?}", self.limit));
                }
                Ok(None) => {}
                Err(error) => break Err(error.to_string()),
            }
            if let Err(why) = self.stopped() {
                break Err(why);
            }
            sleep(Duration::from_millis(10));
        };
        // What the command left behind holds its output open, and would be waited for.
        let group = rustix::process::Pid::from_child(&child);
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        let _ = child.wait();
        let text = reader.join().unwrap_or_default();
        outcome?;
        Ok(text.lines().last().and_then(|line| line.trim().parse().ok()))
    }
}

impl Trial for LinkTrial {
    fn measure(&mut self) -> Result<Sample, String> {
        let has_carrier = || self.read("carrier").as_deref() == Some("1");
        let end = Instant::now() + self.patience;
        while !has_carrier()
            && self.read("operstate").as_deref() != Some("down")
            && Instant::now() < end
        {
            self.pause(Duration::from_millis(50))?;
        }
        let before = self.errors();
        let figure = match &self.command {
            Some(command) => self.run(command)?,
            None => None,
        };
        self.pause(self.watch)?;
        Ok(Sample { carrier: has_carrier(), errors: self.errors().saturating_sub(before), figure })
    }

    fn judge(&mut self, before: &Sample, after: &Sample) -> Result<(), String> {
        if before.carrier && !after.carrier {
            return Err("the link lost its carrier".into());
        }
        // A few errors may be of the change itself.
        if after.errors > before.errors * 2 + 10 {
            return Err(format!(
                "{} errors while it was watched, {} before the changes",
                after.errors, before.errors
            ));
        }
        match (before.figure, after.figure) {
            (Some(old), Some(new)) if new < old * (1.0 - self.tolerance / 100.0) => Err(format!(
                "the command's figure fell from {old} to {new}, more than {} %",
                self.tolerance
            )),
            (Some(old), None) => {
                Err(format!("the command printed {old} before, and no figure after"))
            }
            _ => Ok(()),
        }
    }
}
