//! A program beside this one.

use crate::programs::mark;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a program has to end by itself.
const PATIENCE: Duration = Duration::from_secs(3);

/// A program that is told to end when dropped, with all that it started, and is ended if it does not.
#[derive(Debug)]
pub struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts it; what it prints as errors goes to `log`.
    pub fn start(command: &mut Command, log: PathBuf) -> Result<Self, String> {
        let file = fs::File::create(&log).map_err(|e| format!("{}: {e}", log.display()))?;
        let child = mark(command).stdout(Stdio::null()).stderr(file).process_group(0).spawn();
        Ok(Self { child: child.map_err(|e| format!("{:?}: {e}", command.get_program()))?, log })
    }

    /// Starts it; what it prints goes to `out`, errors to `log`.
    pub fn start_with_output(
        command: &mut Command,
        out: PathBuf,
        log: PathBuf,
    ) -> Result<Self, String> {
        let create =
            |path: &PathBuf| fs::File::create(path).map_err(|e| format!("{}: {e}", path.display()));
        let (out, errors) = (create(&out)?, create(&log)?);
        let child = mark(command).stdout(out).stderr(errors).process_group(0).spawn();
        Ok(Self { child: child.map_err(|e| format!("{:?}: {e}", command.get_program()))?, log })
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Fails with what it printed if it has ended.
    pub fn check(&mut self) -> Result<(), String> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => {
                let text = fs::read_to_string(&self.log).unwrap_or_default();
                Err(format!("a program of the trial ended early ({status}): {text}"))
            }
            Err(error) => Err(error.to_string()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        use rustix::process::{Pid, Signal, kill_process_group};
        // Once waited for, its number may be another's.
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        let group = Pid::from_child(&self.child);
        let _ = kill_process_group(group, Signal::TERM);
        let deadline = Instant::now() + PATIENCE;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = kill_process_group(group, Signal::KILL);
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folder::Folder;

    #[test]
    fn a_program_that_ignores_the_signal_is_ended_with_what_it_started() {
        let folder = Folder::create("running").unwrap();
        let file = |name: &str| folder.path().join(name);
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' TERM; sleep 60 & echo $! > \"$0\"; while :; do wait; done"]);
        command.arg(file("pid"));
        let running = Running::start(&mut command, file("log")).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        let started = loop {
            let text = fs::read_to_string(file("pid")).unwrap_or_default();
            if text.ends_with('\n') {
                break text.trim().to_owned();
            }
            assert!(Instant::now() < deadline, "it did not start");
            std::thread::sleep(Duration::from_millis(5));
        };
        let began = Instant::now();
        drop(running);
        assert!(began.elapsed() >= PATIENCE && began.elapsed() < Duration::from_secs(30));
        // Gone, or dead and not yet waited for by whoever inherits it.
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let state = fs::read_to_string(format!("/proc/{started}/stat")).unwrap_or_default();
            if state.is_empty() || state.contains(") Z ") {
                break;
            }
            assert!(Instant::now() < deadline, "{state}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
