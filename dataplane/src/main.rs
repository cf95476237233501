//! `millrace-dataplane`: reads its configuration, runs the engine, ends on a signal.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::{Parser, ValueEnum};
use millrace_dataplane::config::Config;
use millrace_dataplane::{engine, kernel, replay};
use millrace_tables::session::Session;
use tracing::error;
use tracing_subscriber::EnvFilter;

/// The Millrace engine: moves packets between interfaces by the tables that millrace-control publishes.
///
/// Needs root, or CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF and CAP_IPC_LOCK, and in service-proxy mode CAP_SYS_ADMIN; with driver = "pcap" it needs
/// nothing.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The engine's configuration (TOML; the README lists all keys)
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Run on this tables image, made by `millrace-control --once --output FILE`, until control publishes others
    #[arg(long, value_name = "FILE")]
    tables: Option<PathBuf>,
    /// Check the configuration and exit
    #[arg(long)]
    check: bool,
    /// Take away what a service-proxy engine with this configuration has left in the kernel after a crash, and exit
    #[arg(long)]
    cleanup: bool,
    /// How to write the log; RUST_LOG sets what is in it
    #[arg(long, value_enum, default_value = "text")]
    log: Log,
}

#[derive(Clone, Copy, ValueEnum)]
enum Log {
    Text,
    Json,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match arguments.log {
        Log::Text => log.init(),
        Log::Json => log.json().init(),
    }
    let mut config = match Config::read(&arguments.config) {
        Ok(config) => config,
        Err(why) => {
            error!("{}: {why}", arguments.config.display());
            return ExitCode::from(2);
        }
    };
    config.tables = arguments.tables.or(config.tables);
    if arguments.check {
        return ExitCode::SUCCESS;
    }
    if arguments.cleanup {
        return clean_up(&config);
    }
    let result = if config.is_pcap() { replay::run(&config).map(drop) } else { run(&config) };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            error!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn clean_up(config: &Config) -> ExitCode {
    if Session::connect(&config.socket).is_ok() {
        error!(
            "{}: an engine runs there, whose trunk is in use: stop it first",
            config.socket.display()
        );
        return ExitCode::FAILURE;
    }
    match kernel::clean_up(&config.trunk) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            error!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn run(config: &Config) -> Result<(), engine::EngineError> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).map_err(engine::EngineError::Io)?;
    }
    engine::run(config, &stop)
}
