//! A program beside this one.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// A program that is told to end, and waited for, when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts it; what it prints as errors goes to `log`.
    pub fn start(command: &mut Command, log: PathBuf) -> Result<Self, String> {
        let file = fs::File::create(&log).map_err(|e| format!("{}: {e}", log.display()))?;
        let child = command.stdout(Stdio::null()).stderr(file).spawn();
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
        let child = command.stdout(create(&out)?).stderr(create(&log)?).spawn();
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
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }
}
