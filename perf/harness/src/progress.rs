//! What is going on, on standard error: one line that is written over on a terminal, plain lines now and then else.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Lines that say where a run is.
#[derive(Debug)]
pub struct Progress {
    quiet: bool,
    terminal: bool,
    began: Instant,
    last: Option<Instant>,
    open: bool,
}

/// Without a terminal a passing line is printed this often at most.
const SELDOM: Duration = Duration::from_secs(10);

impl Progress {
    /// `quiet`: nothing but what stays.
    pub fn new(quiet: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self { quiet, terminal, began: Instant::now(), last: None, open: false }
    }

    /// Where it is now; the next line takes its place.
    pub fn passing(&mut self, text: &str) {
        if self.quiet {
            return;
        }
        if self.terminal {
            eprint!("\r\x1b[K{} {text}", self.clock());
            let _ = std::io::stderr().flush();
            self.open = true;
        } else if self.last.is_none_or(|last| last.elapsed() > SELDOM) {
            eprintln!("{} {text}", self.clock());
            self.last = Some(Instant::now());
        }
    }

    /// What stays.
    pub fn staying(&mut self, text: &str) {
        self.end();
        if !self.quiet {
            eprintln!("{} {text}", self.clock());
        }
    }

    /// Ends the passing line.
    pub fn end(&mut self) {
        if self.open {
            eprint!("\r\x1b[K");
            self.open = false;
        }
    }

    fn clock(&self) -> String {
        let seconds = self.began.elapsed().as_secs();
        format!("[{:02}:{:02}]", seconds / 60, seconds % 60)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}
