//! `millrace-perf peers`: ours and what others do, in turns in one run, as ratios with their spread.
//!
//! Needs Debian's or Ubuntu's packages of DPDK, which `--fetch` unpacks into a cache folder, and a C compiler. Nothing is installed.

mod apt;
mod compare;
mod dpdk;
mod fib;
mod files;
mod l3fwd;

use clap::Args;
use compare::{ALL, Comparison, Field, Outcome};
use dpdk::Dpdk;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

/// What can be chosen.
#[derive(Args)]
pub struct Options {
    /// Lines of the table to run (see --list); all without it
    lines: Vec<String>,
    /// Say what would be run, and end
    #[arg(long)]
    list: bool,
    /// Download and unpack DPDK's packages if they are not in the cache, or newer ones if apt has them
    #[arg(long)]
    fetch: bool,
    /// Where DPDK is unpacked [default: the user's cache folder]
    #[arg(long, value_name = "FOLDER")]
    cache: Option<PathBuf>,
    /// Pairs of trials
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds counted in each trial
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// CPU that all run on; without it the last
    #[arg(long)]
    cpu: Option<usize>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs what was asked for and prints the table.
pub fn run(options: &Options) -> Result<(), String> {
    let comparisons = chosen(&options.lines)?;
    if options.list {
        list(&comparisons);
        return Ok(());
    }
    let cache = options.cache.clone().unwrap_or_else(dpdk::default_cache);
    let dpdk = Dpdk::prepare(&cache, options.fetch)?;
    let stop = crate::until_stopped();
    let folder = crate::folder::Folder::create("peers")?;
    let cpu = options.cpu.unwrap_or_else(last_cpu);
    let mut field = Field::new(&dpdk, folder.path(), cpu, options.seconds)?;
    let mut outcomes = Vec::new();
    for comparison in &comparisons {
        eprintln!("{}: {} beside {}", comparison.name, comparison.ours, comparison.peer);
        let said = |round, ours: f64, peer: f64| {
            eprintln!("  round {round}: {ours:.2}, {peer:.2}, ratio {:.3}", ours / peer);
        };
        let go_on = || match stop.load(Ordering::Relaxed) {
            true => Err("interrupted".to_owned()),
            false => Ok(()),
        };
        let outcome = field
            .compare(comparison, options.rounds, said, go_on)
            .map_err(|e| format!("{}: {e}", comparison.name))?;
        outcomes.push(outcome);
    }
    if options.json {
        let text = serde_json::to_string_pretty(&outcomes).map_err(|e| e.to_string())?;
        println!("{text}");
    } else {
        table(&dpdk.version, options, cpu, &outcomes);
    }
    Ok(())
}

fn chosen(names: &[String]) -> Result<Vec<Comparison>, String> {
    if names.is_empty() {
        return Ok(ALL.to_vec());
    }
    let find = |name: &String| {
        ALL.iter().find(|line| line.name == name).copied().ok_or_else(|| {
            format!("{name}: no such line; there are {}", ALL.map(|line| line.name).join(", "))
        })
    };
    names.iter().map(find).collect()
}

fn list(comparisons: &[Comparison]) {
    for line in comparisons {
        let (ours, peer) = (line.ours.to_string(), line.peer.to_string());
        println!("{:<16} {ours:<26} beside {peer}", line.name);
    }
}

fn table(version: &str, options: &Options, cpu: usize, outcomes: &[Outcome]) {
    println!(
        "DPDK {version} (Debian's packages), net_pcap; 64-byte frames; CPU {cpu}; {} pairs of {} s",
        options.rounds.max(1),
        options.seconds
    );
    println!(
        "{:<16} {:<24} {:>8}   {:<18} {:>8}   {:>7} {:>7} {:>7}   without",
        "", "ours", "median", "peer", "median", "min", "ratio", "max"
    );
    for it in outcomes {
        println!(
            "{:<16} {:<24} {:>8.2}   {:<18} {:>8.2}   {}   {}",
            it.name,
            it.ours.trim_start_matches("millrace "),
            it.ours_rate.median,
            it.peer,
            it.peer_rate.median,
            it.ratio,
            it.peer_lacks
        );
    }
    println!(
        "Rates in Mpps, of FIBs in M lookups/s; a ratio is ours over the peer's in neighboring trials; `without`: what the peer leaves out."
    );
}

fn last_cpu() -> usize {
    core_affinity::get_core_ids().and_then(|ids| Some(ids.last()?.id)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_chosen_by_name_and_unknown_ones_named() {
        assert_eq!(chosen(&[]).unwrap().len(), ALL.len());
        assert_eq!(chosen(&["fib4".into()]).unwrap()[0].name, "fib4");
        assert!(chosen(&["fib5".into()]).unwrap_err().contains("fib5"));
    }
}
