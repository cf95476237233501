//! `millrace-perf`: measures the engine beside what it is compared with, in one run.

mod cluster;
mod peers;
mod rings;
mod publish;
mod veth;

use clap::{Parser, Subcommand};
use millrace_harness::{bare, folder, impair, kernel, offer, running, services, spread, topology};
use millrace_xsk::program::Program;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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
    /// Run the bare layer-2 forwarder between two interfaces of this namespace until it is stopped
    Bare {
        /// Interface to receive on
        #[arg(long)]
        from: String,
        /// Interface to send on
        #[arg(long)]
        to: String,
        /// CPU to run on
        #[arg(long)]
        cpu: usize,
    },
    /// Offer 64-byte UDP frames on an interface of this namespace until stopped
    Offer(offer::Load),
    /// Forward between two interfaces of this namespace, losing, doubling, reordering and delaying by a seeded plan, until
    /// stopped; prints what was done as JSON
    Impair(impair::Options),
    /// Remove all conntrack entries of this namespace's kernel
    ForgetFlows,
    /// Drop whatever arrives at an interface of this namespace until stopped
    Sink {
        /// The interface
        #[arg(long)]
        interface: String,
        /// Send UDP back where it came from instead
        #[arg(long)]
        reflect: bool,
    },
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
        Command::Bare { from, to, cpu } => {
            pin(cpu);
            bare::forward(&from, &to, &until_stopped()).map(drop).map_err(|e| e.to_string())
        }
        Command::Offer(load) => {
            pin(load.cpu);
            offer::send(&load, &until_stopped()).map_err(|e| e.to_string())
        }
        Command::Impair(options) => impair_until_stopped(&options),
        Command::ForgetFlows => kernel::forget(),
        Command::Sink { interface, reflect } => {
            sink(&interface, reflect).map_err(|e| e.to_string())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("millrace-perf: {error}");
            ExitCode::FAILURE
        }
    }
}

fn impair_until_stopped(options: &impair::Options) -> Result<(), String> {
    let truth = impair::run(options, &until_stopped(), || {
        eprintln!("millrace-perf: forwarding from {} to {}", options.from, options.to);
    })?;
    println!("{}", serde_json::to_string(&truth).map_err(|e| e.to_string())?);
    Ok(())
}

fn sink(interface: &str, reflect: bool) -> Result<(), millrace_xsk::Error> {
    let interface = millrace_xsk::Interface::named(interface)?;
    let program = if reflect { Program::reflect()? } else { Program::drop_all()? };
    let _link = program.attach(&interface)?;
    let stop = until_stopped();
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    Ok(())
}

fn pin(cpu: usize) {
    if !core_affinity::set_for_current(core_affinity::CoreId { id: cpu }) {
        eprintln!("millrace-perf: can't be pinned to CPU {cpu}; the figures will be noisier");
    }
}

/// Set by SIGINT and SIGTERM.
fn until_stopped() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        if let Err(error) = signal_hook::flag::register(signal, Arc::clone(&stop)) {
            eprintln!("millrace-perf: signal {signal}: {error}");
        }
    }
    stop
}
