//! The programs that measurements start, and what all commands have in common: a CPU, and an end by a signal.

use super::Command;
use crate::{bare, impair, kernel, offer, stateful, sweep};
use millrace_xsk::Interface;
use millrace_xsk::program::Program;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

impl Command {
    /// The programs that measurements start.
    pub(super) fn helper(self) -> Result<(), String> {
        match self {
            Self::Bare { from, to, cpu, options } => {
                pin(cpu);
                let sent = bare::forward(&from, &to, &options, &until_stopped());
                sent.map(drop).map_err(|e| e.to_string())
            }
            Self::Sweep(options) => sweep::run(&options, &until_stopped()),
            Self::Impair(options) => {
                let truth = impair::run(&options, &until_stopped(), |zero_copy| {
                    let mode = if zero_copy { "zero-copy" } else { "copy" };
                    let (from, to) = (&options.from, &options.to);
                    eprintln!("millrace-perf: forwarding from {from} to {to}, {mode} mode");
                })?;
                println!("{}", serde_json::to_string(&truth).map_err(|e| e.to_string())?);
                Ok(())
            }
            Self::Offer(load) => {
                pin(load.cpu);
                offer::send(&load, &until_stopped()).map_err(|e| e.to_string())
            }
            Self::Serve { ports, cpu } => {
                cpu.into_iter().for_each(pin);
                stateful::serve::run(&ports, &until_stopped())
            }
            Self::ForgetFlows => kernel::forget(),
            Self::Sink { interface, reflect, pass } => {
                sink(&interface, (reflect, pass)).map_err(|e| e.to_string())
            }
            _ => Ok(()),
        }
    }
}

fn sink(interface: &str, (reflect, pass): (bool, bool)) -> Result<(), millrace_xsk::Error> {
    let interface = Interface::named(interface)?;
    let program = match (reflect, pass) {
        (true, _) => Program::reflect()?,
        (false, true) => Program::pass_all()?,
        (false, false) => Program::drop_all()?,
    };
    let _link = program.attach(&interface)?;
    let stop = until_stopped();
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Pins this thread, or says that it can't.
pub fn pin(cpu: usize) {
    if !core_affinity::set_for_current(core_affinity::CoreId { id: cpu }) {
        eprintln!("millrace-perf: can't be pinned to CPU {cpu}; the figures will be noisier");
    }
}

/// Set by SIGINT, SIGTERM, and SIGHUP (a terminal that was closed) unless it is ignored, as under nohup.
pub fn until_stopped() -> Arc<AtomicBool> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let stop = Arc::new(AtomicBool::new(false));
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let hung_up = (!ignored_in(&status, SIGHUP)).then_some(SIGHUP);
    for signal in [SIGINT, SIGTERM].into_iter().chain(hung_up) {
        if let Err(error) = signal_hook::flag::register(signal, Arc::clone(&stop)) {
            eprintln!("millrace-perf: signal {signal}: {error}");
        }
    }
    stop
}

/// Whether a signal is ignored, of what `/proc/self/status` says.
fn ignored_in(status: &str, signal: i32) -> bool {
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::ignored_in;

    #[test]
    fn a_signal_that_nohup_ignores_stays_ignored() {
        let status = "Name:\tx\nSigBlk:\t0000000000000001\nSigIgn:\t0000000000000001\n";
        assert!(ignored_in(status, 1) && !ignored_in(status, 2));
        assert!(!ignored_in("", 1) && !ignored_in("SigIgn:\tx\n", 1));
    }
}
