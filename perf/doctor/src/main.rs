//! `millrace-doctor`: the doctor by itself, for machines where no engine is built.

use clap::{Parser, Subcommand};
use millrace_doctor::cli;
use std::process::ExitCode;

#[derive(Parser)]
#[command(version, about = "Looks at NIC queues and the machine for AF_XDP")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// What of this interface and machine blocks or slows AF_XDP, why, and the commands that change it and change it back
    Doctor(cli::Doctor),
    /// Make the doctor's changes as a transaction that is tried, reverted when it fails, and undone exactly
    Tune(cli::Tune),
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Doctor(options) => options.run(),
        Command::Tune(options) => options.run(),
    }
}
