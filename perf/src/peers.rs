//! `millrace-perf peers`: ours and what others do, in turns in one run, as ratios with their spread.
//!
//! In memory beside DPDK: needs Debian's or Ubuntu's packages of it, which `--fetch` unpacks into a cache folder, and a C compiler; nothing is
//! installed. With `--veth` beside Linux: needs root, nft and iptables.

mod apt;
mod compare;
mod dpdk;
mod fib;
mod files;
mod l3fwd;

mod stage;
mod veth;

use clap::Args;
use compare::{ALL, Comparison, Field, Outcome};
use dpdk::Dpdk;
use stage::Receive;
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
    /// Beside Linux on veth, as root, instead of beside DPDK in memory
    #[arg(long, conflicts_with_all = ["lines", "fetch", "cache"])]
    veth: bool,
    /// Numbers of services on veth
    #[arg(long, value_delimiter = ',', default_values_t = [10, 1000, 10_000], requires = "veth")]
    services: Vec<u16>,
    /// Devices on veth; all without it. Ratios are ours over theirs, so there are none without millrace
    #[arg(long = "device", value_enum, value_delimiter = ',', requires = "veth")]
    devices: Vec<stage::Device>,
    /// No search for the highest rate without loss on veth, and no look at the CPU at a fixed rate: most of the time goes there
    #[arg(long, requires = "veth")]
    no_ndr: bool,
    /// Flows of established traffic on veth: a power of two up to 65536
    #[arg(long, default_value_t = 16_384, requires = "veth")]
    flows: u32,
    /// Which CPU makes packets of what comes to Linux on veth
    #[arg(long, value_enum, default_value_t = Receive::Generator, requires = "veth")]
    linux_receive: Receive,
    /// CPU of the generator on veth
    #[arg(long, default_value_t = 0, requires = "veth")]
    generator_cpu: usize,
    /// Download and unpack DPDK's packages if they are not in the cache, or newer ones if apt has them
    #[arg(long)]
    fetch: bool,
    /// Where DPDK is unpacked [default: the user's cache folder]
    #[arg(long, value_name = "FOLDER")]
    cache: Option<PathBuf>,
    /// Pairs of trials; on veth rounds through all devices
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds counted in each trial
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// CPU that all run on (on veth the device under test); without it the last
    #[arg(long)]
    cpu: Option<usize>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs what was asked for and prints the table.
pub fn run(options: &Options) -> Result<(), String> {
    if options.list {
        return list(options);
    }
    let stop = crate::until_stopped();
    let go_on = || match stop.load(Ordering::Relaxed) {
        true => Err("interrupted".to_owned()),
        false => Ok(()),
    };
    if options.veth { run_on_veth(options, go_on) } else { run_in_memory(options, go_on) }
}

fn run_in_memory(options: &Options, go_on: impl Fn() -> Result<(), String>) -> Result<(), String> {
    let comparisons = chosen(&options.lines)?;
    let cache = options.cache.clone().unwrap_or_else(dpdk::default_cache);
    let dpdk = Dpdk::prepare(&cache, options.fetch)?;
    let folder = crate::folder::Folder::create("peers")?;
    let cpu = options.cpu.unwrap_or_else(last_cpu);
    let mut field = Field::new(&dpdk, folder.path(), cpu, options.seconds)?;
    let mut outcomes = Vec::new();
    for comparison in &comparisons {
        eprintln!("{}: {} beside {}", comparison.name, comparison.ours, comparison.peer);
        let said = |round, ours: f64, peer: f64| {
            eprintln!("  round {round}: {ours:.2}, {peer:.2}, ratio {:.3}", ours / peer);
        };
        let outcome = field
            .compare(comparison, options.rounds, said, &go_on)
            .map_err(|e| format!("{}: {e}", comparison.name))?;
        outcomes.push(outcome);
    }
    if options.json {
        return json(&outcomes);
    }
    table(&dpdk.version, options, cpu, &outcomes);
    Ok(())
}

fn run_on_veth(options: &Options, go_on: impl Fn() -> Result<(), String>) -> Result<(), String> {
    let asked = veth_options(options);
    if asked.cpu == asked.generator_cpu {
        return Err(format!(
            "the generator and the device under test are both on CPU {}: say --cpu or --generator-cpu",
            asked.cpu
        ));
    }
    let rows = veth::run(&asked, &go_on)?;
    match options.json {
        true => json(&rows)?,
        false => veth::table(&asked, &rows),
    }
    match rows.iter().any(|line| matches!(line, veth::Line::Refused(_))) {
        true => Err("not all was measured".into()),
        false => Ok(()),
    }
}

fn veth_options(options: &Options) -> veth::Options {
    veth::Options {
        services: options.services.clone(),
        devices: devices(options),
        ndr: !options.no_ndr,
        flows: options.flows,
        rounds: options.rounds,
        seconds: options.seconds,
        cpu: options.cpu.unwrap_or_else(last_cpu),
        generator_cpu: options.generator_cpu,
        receive: options.linux_receive,
    }
}

/// Those asked for, in the order of a round.
fn devices(options: &Options) -> Vec<stage::Device> {
    let asked =
        |device: &stage::Device| options.devices.is_empty() || options.devices.contains(device);
    stage::Device::ALL.into_iter().filter(asked).collect()
}

fn json(value: &impl serde::Serialize) -> Result<(), String> {
    let text = serde_json::to_string_pretty(value).map_err(|e| e.to_string())?;
    println!("{text}");
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

fn list(options: &Options) -> Result<(), String> {
    if options.veth {
        for services in &options.services {
            for device in devices(options) {
                println!("{services:>6} services: {}", device.name());
            }
        }
        return Ok(());
    }
    for line in chosen(&options.lines)? {
        let (ours, peer) = (line.ours.to_string(), line.peer.to_string());
        println!("{:<16} {ours:<26} beside {peer}", line.name);
    }
    Ok(())
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
