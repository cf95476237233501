//! `millrace-harness`: the commands of `millrace-perf` that measure any device, in a program of their own that builds without the
//! engine and control.

use clap::Parser;
use millrace_harness::commands::{Command, execute};
use std::process::ExitCode;

#[derive(Parser)]
#[command(version, about = "Measures what forwards packets: search, impairment, soak, reports")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    execute(Arguments::parse().command)
}
