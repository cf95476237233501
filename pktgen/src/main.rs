//! The command `millrace-pktgen`.

use clap::Parser;
use millrace_pktgen::cli::{self, Cli, Command, Show};
use millrace_pktgen::live::{check_output, present};
use millrace_pktgen::profile::{Plan, raw::RawProfile, wrong};
use millrace_pktgen::report::{Ended, JSON_SCHEMA, Mode, Report};
use millrace_pktgen::run::{self, RunError};
use millrace_pktgen::session::Signals;
use millrace_pktgen::{bench, check, listen, replay, stateful};
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match dispatch(&cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("millrace-pktgen: {error}");
            ExitCode::from(error.status())
        }
    }
}

fn dispatch(command: &Command) -> Result<(), RunError> {
    let show = match command {
        Command::Run(arguments) => Some(&arguments.show),
        Command::Replay(arguments) => Some(&arguments.show),
        Command::Sink(a) | Command::Reflect(a) | Command::Respond(a) => Some(&a.show),
        Command::Tcp(arguments) | Command::Udp(arguments) => Some(&arguments.show),
        Command::Bench(_) | Command::Check(_) | Command::Schema => None,
    };
    show.map_or(Ok(()), check_output)?;
    match command {
        Command::Run(arguments) => run_streams(arguments),
        Command::Sink(arguments) => listen_as(arguments, Mode::Sink),
        Command::Reflect(arguments) => listen_as(arguments, Mode::Reflect),
        Command::Respond(arguments) => listen_as(arguments, Mode::Respond),
        Command::Check(arguments) => {
            let plan = Plan::build(read(&arguments.profile)?, &cli::Load::default())?;
            Ok(write!(std::io::stdout(), "{}", check::run(&plan, arguments)?)?)
        }
        Command::Schema => Ok(write!(std::io::stdout(), "{JSON_SCHEMA}")?),
        Command::Replay(arguments) => {
            let report = replay::run(arguments, &Signals::catch()?)?;
            tell(&report, &arguments.show)
        }
        Command::Tcp(arguments) => converse(arguments, Mode::Tcp),
        Command::Udp(arguments) => converse(arguments, Mode::Udp),
        Command::Bench(arguments) => bench::run(arguments),
    }
}

/// Shows the report; one of a run that failed is told, and its failure too.
fn tell(report: &Report, show: &Show) -> Result<(), RunError> {
    present(report, show)?;
    match report.ended {
        Ended::Failed => Err(std::io::Error::other("the run failed: its warnings say why").into()),
        _ => Ok(()),
    }
}

fn read(path: &Path) -> Result<RawProfile, RunError> {
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|e| wrong(path.display().to_string(), e))?;
    Ok(Plan::parse(&text).map_err(|e| wrong(format!("{}: {}", path.display(), e.key), e.why))?)
}

fn listen_as(arguments: &cli::Listen, mode: Mode) -> Result<(), RunError> {
    let signals = Signals::catch()?;
    let report = listen::run(arguments, mode, &signals)?;
    tell(&report, &arguments.show)
}

fn converse(arguments: &cli::Tcp, mode: Mode) -> Result<(), RunError> {
    let report = stateful::run(arguments, mode, &Signals::catch()?)?;
    tell(&report, &arguments.show)
}

fn run_streams(arguments: &cli::Run) -> Result<(), RunError> {
    let mut raw = match &arguments.profile {
        Some(path) => read(path)?,
        None => RawProfile::default(),
    };
    raw.overlay(&arguments.ends, &arguments.stream);
    let plan = Plan::build(raw, &arguments.load)?;
    let signals = Signals::catch()?;
    let report = run::run(&plan, &arguments.show, &signals)?;
    tell(&report, &arguments.show)
}
