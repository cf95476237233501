//! `millrace`: the operator's command.

#![forbid(unsafe_code)]

mod explain;
mod live;
mod show;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Looks into a running Millrace engine, and explains what happens to packets.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The engine's socket
    #[arg(long, global = true, value_name = "FILE", default_value = millrace_dataplane::config::DEFAULT_SOCKET)]
    socket: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Print a table of the running engine
    Show(show::Options),
    /// Say what would happen to a packet, and why
    Explain(Box<explain::Options>),
}

fn main() -> ExitCode {
    let Arguments { socket, command } = Arguments::parse();
    let result = match command {
        Command::Show(options) => show::run(&options, &socket).map(|()| true),
        Command::Explain(options) => explain::run(&options, &socket),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("millrace: {why}");
            ExitCode::FAILURE
        }
    }
}
