//! What tests on real interfaces have in common.
#![allow(dead_code)]

use millrace_harness::programs;
use std::process::{Child, Command};
use std::sync::{Mutex, MutexGuard, PoisonError};

static TURN: Mutex<()> = Mutex::new(());

pub const HARNESS: &str = env!("CARGO_BIN_EXE_millrace-harness");

/// This test's turn; None, with a message, where it can't run.
pub fn turn() -> Option<MutexGuard<'static, ()>> {
    let why = if !rustix::process::geteuid().is_root() {
        "not root".to_owned()
    } else if let Err(why) = programs::find("millrace-pktgen") {
        why
    } else {
        return Some(TURN.lock().unwrap_or_else(PoisonError::into_inner));
    };
    assert!(
        std::env::var_os("MILLRACE_PRIVILEGED").is_none(),
        "MILLRACE_PRIVILEGED is set, but: {why}"
    );
    eprintln!("skipped: {why}");
    None
}

/// Whether others keep this machine busy: more than one and a half running tasks a CPU in the last minute. A generator then keeps to no
/// rate, and says so; what needs one is not tested.
pub fn is_busy() -> bool {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap();
    let load: f64 = text.split(' ').next().unwrap().parse().unwrap();
    let cpus = std::thread::available_parallelism().unwrap().get() as f64;
    let busy = load > cpus * 1.5;
    if busy {
        eprintln!("skipped: the load is {load} on {cpus} CPUs");
    }
    busy
}

pub fn stop(child: &mut Child, signal: rustix::process::Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_child(child), signal).unwrap();
}

/// Namespaces of a process.
pub fn namespaces(of: u32) -> Vec<String> {
    let output = Command::new("ip").args(["netns", "list"]).output().unwrap();
    let prefix = format!("millrace-perf-{of}-");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().filter(|line| line.starts_with(&prefix)).map(str::to_owned).collect()
}
