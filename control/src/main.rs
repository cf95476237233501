//! The control process: flags → options → run until a signal.

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use millrace_control::{
    apply,
    compile::node::NodeOptions,
    config::{Config, DEFAULT_SOCKET},
    engine_file,
    inbox::Event,
    reflect::kube::{self, Access},
    run::{Control, Options, Overrides, SourceOptions, once},
    serve::ServeOptions,
};
use millrace_tables::{Readers, SegmentConfig, Writer};
use signal_hook::{consts::TERM_SIGNALS, iterator::Signals};

/// Turns Kubernetes objects into the engine's tables and keeps them in step.
///
/// Reads Service, EndpointSlice and Node objects from the API server or from the files of a directory, follows every change,
/// and hands the result to the engine over its socket. It may be stopped, killed or upgraded at any time: packets go on as before.
/// Without --kubeconfig and --manifests it runs as a pod does: KUBERNETES_SERVICE_HOST and the service account's files.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 100)]
struct Flags {
    /// Directory of manifests: files named *.yaml, *.yml or *.json, several documents each. Not entered recursively.
    #[arg(long, value_name = "DIR", conflicts_with = "kubeconfig")]
    manifests: Option<PathBuf>,
    /// Reach the API server as the current context of this file says.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
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
    #[command(flatten)]
    serve: ServeOptions,
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
    // The client says of each request that fails that it failed, and not which; whoever asked says both.
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| "info,kube_client::client=off".into());
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

/// Flags come before the file, the file before a pod's surroundings.
fn source(
    manifests: Option<PathBuf>,
    kubeconfig: Option<PathBuf>,
    config: &Config,
) -> Result<SourceOptions, Failure> {
    let api = |access: Access| {
        access.check()?;
        Ok(SourceOptions::Api(kube::Options::new(access, None)))
    };
    match (manifests, kubeconfig) {
        (Some(dir), _) => return Ok(SourceOptions::Manifests(dir)),
        (None, Some(file)) => return api(Access::Kubeconfig(file)),
        (None, None) => {}
    }
    match (&config.manifests, &config.kubeconfig) {
        (Some(_), Some(_)) => Err("control.toml has both manifests and kubeconfig: leave one".into()),
        (Some(dir), None) => Ok(SourceOptions::Manifests(dir.clone())),
        (None, Some(file)) => api(Access::Kubeconfig(file.clone())),
        (None, None) if std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() => api(Access::InCluster),
        (None, None) => Err("no objects: give --manifests DIR or --kubeconfig FILE, here or in --config FILE, or run as a pod of the cluster".into()),
    }
}

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
    let source = source(flags.manifests, flags.kubeconfig, &config)?;
    // An engine takes generations 1 and 2 for those that it began with.
    let bytes = (flags.tables as usize) << 20;
    let segment = SegmentConfig { bytes, generation: 2, ..SegmentConfig::default() };
    if let (true, Some(output), Some(engine_config)) =
        (flags.once, &flags.output, &flags.engine_config)
    {
        let SourceOptions::Manifests(manifests) = source else {
            return Err("--once reads manifests: give --manifests DIR".into());
        };
        let interfaces = engine_file::interfaces(engine_config)?;
        let mut once = once(&manifests, &overrides.apply(config), interfaces)?;
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
    let mut serve = flags.serve;
    if let SourceOptions::Api(_) = source {
        serve.healthz_bind_address.get_or_insert(([0, 0, 0, 0], 10256).into());
        serve.metrics_bind_address.get_or_insert(([127, 0, 0, 1], 10249).into());
    }
    serve.control_socket.get_or_insert_with(|| engine.with_file_name("control.sock"));
    let config_file = flags.config;
    let options = Options { source, engine, config_file, overrides, segment, serve };
    let (control, outbox) = Control::start(options)?;
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
