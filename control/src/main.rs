//! The control process: flags → options → run until a signal.

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use millrace_control::{
    apply,
    compile::node::NodeOptions,
    config::{Config, DEFAULT_SOCKET},
    engine_file,
    inbox::Event,
    run::{Control, Options, Overrides, once},
};
use millrace_tables::{Readers, SegmentConfig, Writer};
use signal_hook::{consts::TERM_SIGNALS, iterator::Signals};

/// Turns Kubernetes manifests into the engine's tables and keeps them in step.
///
/// Reads Service, EndpointSlice, Node, Namespace and Pod objects from the files of a directory, follows every change,
/// and hands the result to the engine over its socket. It may be stopped, killed or upgraded at any time: packets go on as before.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 100)]
struct Flags {
    /// Directory of manifests: files named *.yaml, *.yml or *.json, several documents each. Not entered recursively.
    #[arg(long, value_name = "DIR")]
    manifests: Option<PathBuf>,
    /// Control's configuration file: routes, neighbors, and any of the options here. Followed while running.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Socket of the engine [default: /run/millrace/engine.sock].
    #[arg(long, value_name = "PATH")]
    engine: Option<PathBuf>,
    /// Name of this node in Kubernetes: endpoints on it are local.
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    #[command(flatten)]
    cluster: NodeOptions,
    /// Address space of the tables, in MiB; memory is used as they grow.
    #[arg(long, value_name = "MIB", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(2..=8192))]
    tables: u32,
    /// How to log to standard error. RUST_LOG sets what (default: info).
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    log: Log,
    /// Compile once, write a tables image for an engine started with `--tables FILE`, and exit. Exit status 2 when anything was refused.
    #[arg(long, requires = "output", requires = "engine_config")]
    once: bool,
    /// The image file to write.
    #[arg(long, value_name = "FILE", requires = "once")]
    output: Option<PathBuf>,
    /// The engine's configuration file, for its interfaces.
    #[arg(long, value_name = "FILE", requires = "once")]
    engine_config: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Log {
    Text,
    Json,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    start_log(flags.log);
    match run(flags) {
        Ok(code) => code,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn start_log(format: Log) {
    let filter =
        tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false);
    match format {
        Log::Text => builder.with_ansi(false).init(),
        Log::Json => builder.json().init(),
    }
}

type Failure = Box<dyn std::error::Error>;

fn run(flags: Flags) -> Result<ExitCode, Failure> {
    let overrides = Overrides { node: flags.node, cluster: flags.cluster };
    let (config, config_problems) = match &flags.config {
        Some(path) => Config::read(path, &Config::default()),
        None => Default::default(),
    };
    // At start there is no last good version to go on with.
    if let Some(problem) = config_problems.iter().find(|problem| problem.is_about_the_file()) {
        return Err(problem.to_string().into());
    }
    let manifests = flags
        .manifests
        .or(config.manifests.clone())
        .ok_or("no manifests: give --manifests DIR, or manifests in --config FILE")?;
    let segment =
        SegmentConfig { bytes: (flags.tables as usize) << 20, ..SegmentConfig::default() };
    if let (true, Some(output), Some(engine_config)) =
        (flags.once, &flags.output, &flags.engine_config)
    {
        let interfaces = engine_file::interfaces(engine_config)?;
        let once = once(&manifests, &overrides.apply(config), interfaces)?;
        let problems =
            config_problems.iter().map(ToString::to_string).chain(once.problems.iter().cloned());
        let problems = problems.inspect(|problem| tracing::warn!("{problem}")).count();
        let mut writer = Writer::create(&segment)?;
        writer.set_readers(Readers::Nobody);
        let refused = apply(&mut writer, once.compiler.all());
        for row in &refused {
            tracing::error!("{}", row.error);
        }
        let generation = writer.publish()?;
        writer.write_image(output)?;
        tracing::info!(generation, services = once.services().len(), output = %output.display(), "written");
        return Ok(if refused.is_empty() && problems == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(2)
        });
    }
    let engine = flags.engine.or(config.engine).unwrap_or_else(|| DEFAULT_SOCKET.into());
    let (control, outbox) = Control::start(Options {
        manifests,
        engine,
        config_file: flags.config,
        overrides,
        segment,
    })?;
    let mut signals = Signals::new(TERM_SIGNALS)?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            tracing::info!(signal, "stopping: the engine goes on with what it has");
            outbox.send(Event::Stop);
        }
    })?;
    control.run()?;
    Ok(ExitCode::SUCCESS)
}
