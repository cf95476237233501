//! `millrace-perf`: measures the engine beside what it is compared with, in one run.

mod cluster;
mod peers;
mod rings;
mod publish;
mod veth;

use clap::{Parser, Subcommand};
use millrace_harness::commands::{execute, pin, until_stopped};
use millrace_harness::{folder, kernel, offer, running, services, spread, statistics, topology};
use std::process::ExitCode;

#[derive(Parser)]
#[command(version, about = "Measures Millrace beside what it is compared with")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The engine (VIP DNAT, 64-byte UDP, one worker) and a bare AF_XDP forwarder in turns, over veth in namespaces
    Veth(veth::Options),
    /// The engine's whole pipeline from RX ring to TX ring in memory: one packet's nanoseconds, cycles and instructions
    Core(rings::Options),
    /// Full loads and single changes from control to the workers, at full size, in one process
    Publish(publish::Options),
    /// Policies at full size: loading them, their memory, and a pod's new label from control to the workers
    Policies(publish::policies::Options),
    /// The control process itself on an API server of ours: start, changes, memory, at full size
    Cluster(cluster::Options),
    /// The engine and what others do (DPDK's testpmd, l3fwd, rte_fib) in turns in one run: ratios with their spread
    Peers(peers::Options),
    /// What of an interface and this machine blocks or slows AF_XDP, why, and the commands that change it and change it back
    Doctor(millrace_doctor::cli::Doctor),
    /// Make the doctor's changes as a transaction that is tried, reverted when it fails, and undone exactly
    Tune(millrace_doctor::cli::Tune),
    #[command(flatten)]
    #[allow(missing_docs)]
    Harness(millrace_harness::commands::Command),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Veth(options) => veth::run(&options),
        Command::Peers(options) => peers::run(&options),
        Command::Core(options) => rings::run(&options),
        Command::Publish(options) => publish::run(&options),
        Command::Policies(options) => publish::policies::run(&options),
        Command::Cluster(options) => cluster::run(&options),
        Command::Doctor(options) => return options.run(),
        Command::Tune(options) => return options.run(),
        Command::Harness(command) => return execute(command),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("millrace-perf: {error}");
            ExitCode::FAILURE
        }
    }
}
