//! Instructions per packet: this program runs itself under callgrind, once per scenario, and divides.
//!
//! Callgrind emulates the processor, so the count is the same in every run and on every machine that has the same build; it knows
//! nothing of caches. What is collected is [`super::measure::counted_round`] alone, after a verified round for warming up,
//! with a clock that is made up. Sizes are [`Scale::COUNTED`]: the same ways through the code, in seconds.

use super::measure;
use super::scenario::{self, FrameSize, Scale, Scenario};
use millrace_dataplane::clock::SECOND;
use millrace_dataplane::driver::looped::Time;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Packets that are counted, at least.
const PACKETS: usize = 1 << 14;
/// The function that callgrind collects; its path, as crate and version are part of what stands around it.
const COUNTED: &str = "*measure*counted_round*";

/// What is counted without `--scenario`: the rest takes the same ways with other sizes.
pub const SCENARIOS: &[Scenario] = &[
    Scenario::L2,
    Scenario::Route4,
    Scenario::Route4Full,
    Scenario::Route6Full,
    Scenario::NatEstablished,
    Scenario::NatReply,
    Scenario::NatNew,
    Scenario::Snat,
    Scenario::Policy,
    Scenario::Policy1000,
    Scenario::Policy10,
    Scenario::PolicyEstablished,
    Scenario::Mix,
];

/// Under callgrind: one scenario, one worker. Prints how many packets were counted.
pub fn inside(scenario: Scenario) -> Result<(), String> {
    let time = Time::Made { now: 1000 * SECOND, step: 10_000 };
    let mut bench = scenario::build(scenario, FrameSize::Small, &Scale::COUNTED, 1, time)
        .map_err(|why| why.to_string())?;
    bench.verify()?;
    println!("{}", measure::count(&mut bench, PACKETS)?);
    Ok(())
}

/// Instructions per packet of each scenario, in order. With `keep`, callgrind's files stay there.
pub fn count(scenarios: &[Scenario], keep: Option<&Path>) -> Result<Vec<f64>, String> {
    let folder = match keep {
        Some(folder) => folder.to_owned(),
        None => std::env::temp_dir().join(format!("millrace-perf-{}", std::process::id())),
    };
    std::fs::create_dir_all(&folder).map_err(|why| format!("{}: {why}", folder.display()))?;
    // They don't disturb each other: one for each CPU.
    let next = AtomicUsize::new(0);
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    let mut counted: Vec<(usize, Result<f64, String>)> = thread::scope(|scope| {
        let threads: Vec<_> = (0..cpus.min(scenarios.len()))
            .map(|_| {
                scope.spawn(|| {
                    let mut counted = Vec::new();
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        let Some(&scenario) = scenarios.get(index) else { break };
                        counted.push((index, outside(scenario, &folder)));
                    }
                    counted
                })
            })
            .collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).flatten().collect()
    });
    counted.sort_by_key(|(index, _)| *index);
    if keep.is_none() {
        // What is left is a few files in the folder for temporary ones.
        let _ = std::fs::remove_dir_all(&folder);
    }
    counted.into_iter().map(|(_, instructions)| instructions).collect()
}

/// Runs one scenario under callgrind.
fn outside(scenario: Scenario, folder: &Path) -> Result<f64, String> {
    let name = scenario.name();
    let program = std::env::current_exe().map_err(|why| why.to_string())?;
    let file: PathBuf = folder.join(format!("callgrind.{name}"));
    let out = Command::new("valgrind")
        .args(["--tool=callgrind", "--collect-atstart=no", "--quiet"])
        .arg(format!("--toggle-collect={COUNTED}"))
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(program)
        .args(["core", "--inside-callgrind", "--scenario", &name])
        .stdin(Stdio::null())
        .output()
        .map_err(|why| format!("valgrind: {why}; deploy/install-deps.sh count installs it"))?;
    let failed = |why: &str| {
        let said = String::from_utf8_lossy(&out.stderr);
        format!("{name} under callgrind: {why}: {}", said.trim())
    };
    if !out.status.success() {
        return Err(failed(&out.status.to_string()));
    }
    let packets: f64 = String::from_utf8_lossy(&out.stdout)
        .trim()
        .parse()
        .map_err(|_| failed("it printed no number of packets"))?;
    let text = std::fs::read_to_string(&file)
        .map_err(|why| failed(&format!("{}: {why}", file.display())))?;
    match total(&text) {
        Some(total) if total > 0 => Ok(total as f64 / packets),
        _ => Err(failed(&format!("{} counts nothing: is {COUNTED} still there?", file.display()))),
    }
}

/// The sum at the end of callgrind's file.
fn total(text: &str) -> Option<u64> {
    let line = text.lines().rev().find_map(|line| line.strip_prefix("totals:"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_total_is_read_where_callgrind_writes_it() {
        let text = "version: 1\nevents: Ir\nsummary: 12\n\nfn=(1) x\n3 4\n\ntotals: 4711\n";
        assert_eq!(super::total(text), Some(4711));
        assert_eq!(super::total("events: Ir\n"), None);
    }
}
