//! From an API server to the workers: a start of the real control process, its memory, and how soon a change reaches packets.
//!
//! An API server of ours in this process (`control/apiserver`), the engine's own workers and housekeeping too (`publish/engine.rs`),
//! and `millrace-control --kubeconfig` as users run it. Objects carry managedFields as those of real clusters do. A change's time
//! runs from the server's storing the object to the beginning of the first burst that uses it in the worker that is last; the
//! part of it that begins when the watch event is put on the wire is what control's own metric can know of.

use crate::folder::Folder;
use crate::publish::engine::{self, Engine};
use crate::publish::objects::{self, Cluster};
use crate::publish::{Random, quantile, within};
use crate::running::Running;
use clap::Args;
use millrace_apiserver::{ApiServer, Streams};
use millrace_control::serve::ask::ask;
use millrace_dataplane::clock;
use serde::Serialize;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// How long anything may take before the measurement is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// What can be chosen.
#[derive(Args)]
pub struct Options {
    /// Services
    #[arg(long, default_value_t = 10_000)]
    services: u32,
    /// Endpoints of each
    #[arg(long, default_value_t = 10)]
    endpoints: u32,
    /// Starts of the control process
    #[arg(long, default_value_t = 3)]
    starts: usize,
    /// The API server refuses to stream lists: control asks for pages
    #[arg(long)]
    pages: bool,
    /// Changes of one endpoint
    #[arg(long, default_value_t = 2_000)]
    changes: u32,
    /// Microseconds between two packets to each worker
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pace: u64,
    /// CPUs of the workers
    #[arg(long, value_delimiter = ',', default_values_t = [0, 1])]
    cpus: Vec<usize>,
    /// The control process [default: millrace-control beside this program]
    #[arg(long)]
    control: Option<PathBuf>,
    /// Exit with an error unless a start takes at most 5 s, a change at most 5 ms (p99), and control 300 MiB
    #[arg(long)]
    check: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    services: u32,
    endpoints: u32,
    /// From the process's start to the last worker's first burst with everything.
    starts_ms: Vec<f64>,
    changes: u32,
    p50_us: f64,
    p99_us: f64,
    max_us: f64,
    /// As control's own metric has it, over the latest 1,024.
    metric_p50_us: f64,
    metric_p99_us: f64,
    /// Of those same changes, measured here from the event's being put on the wire.
    wire_p50_us: f64,
    wire_p99_us: f64,
    /// Resident, at its highest: of its own, and with the tables' segment that it shares with the engine.
    memory: Memory,
    packets: u64,
    lost: u64,
}

/// MiB.
#[derive(Clone, Copy, Default, Serialize)]
struct Memory {
    peak: f64,
    now: f64,
    own: f64,
    shared: f64,
}

/// Measures and prints.
pub fn run(options: &Options) -> Result<(), String> {
    let folder = Folder::create("cluster")?;
    let cluster = Cluster { services: options.services, endpoints: options.endpoints };
    let server = ApiServer::start().map_err(|e| format!("API server: {e}"))?;
    server.apply(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"}}));
    if options.pages {
        server.set_streams(Streams::Refused);
    }
    cluster.values().for_each(|object| _ = server.apply(managed(object)));
    let kubeconfig = folder.path().join("kubeconfig");
    fs::write(&kubeconfig, server.kubeconfig()).map_err(|e| e.to_string())?;
    let config = folder.path().join("control.toml");
    fs::write(&config, engine::CONTROL).map_err(|e| e.to_string())?;
    let socket = folder.path().join("engine.sock");
    let vips = (0..options.services).map(objects::vip);
    let engine = Engine::start(&socket, &options.cpus, vips)?;
    engine.offer(engine::Load::Pace(Duration::from_micros(options.pace)))?;

    // Until the workers have begun with the tables that the engine starts with.
    std::thread::sleep(Duration::from_millis(200));

    let mut starts_ms = Vec::new();
    let mut control = None;
    for _ in 0..options.starts.max(1) {
        drop(control.take());
        let before = engine.generation();
        let began = clock::now();
        let mut process = start(options, folder.path(), &kubeconfig, &config, &socket)?;
        let reached = wait(&engine, before + 1, &mut process)?;
        starts_ms.push(reached.saturating_sub(began) as f64 / 1e6);
        let metrics = ask(&folder.path().join("control.sock"), "/metrics")?;
        for kind in ["Service", "EndpointSlice"] {
            let there = metric(&metrics, &format!("objects{{kind=\"{kind}\"}}"))?;
            if there as u32 != options.services {
                return Err(format!("control has {there} of {} {kind} objects", options.services));
            }
        }
        control = Some(process);
    }
    let mut control = control.ok_or("not started")?;

    // What the start began (conntrack's idle memory, a slow reader) is over.
    std::thread::sleep(Duration::from_secs(1));
    let before = engine.ledger();
    let (mut times, mut wire) = (Vec::new(), Vec::new());
    let mut random = Random(1);
    for number in 0..options.changes {
        let (service, place) = (random.below(options.services), random.below(options.endpoints));
        let object = managed(objects::changed(service, options.endpoints, place, number));
        let generation = engine.generation();
        let changed = clock::now();
        server.apply(object);
        let reached = wait(&engine, generation + 1, &mut control)?;
        times.push(reached.saturating_sub(changed) as f64 / 1e3);
        let since = Duration::from_nanos(clock::now().saturating_sub(reached));
        let sent = server.sent().ok_or("the API server has sent nothing")?;
        wire.push(sent.elapsed().saturating_sub(since).as_secs_f64() * 1e6);
        std::thread::sleep(Duration::from_micros(1500));
    }
    let memory = Memory::of(control.id())?;
    let metrics = ask(&folder.path().join("control.sock"), "/metrics")?;
    let recent =
        |share| metric(&metrics, &format!("propagation_recent_seconds{{quantile=\"{share}\"}}"));
    let (metric_p50_us, metric_p99_us) = (recent(0.5)? * 1e6, recent(0.99)? * 1e6);
    engine.offer(engine::Load::None)?;
    std::thread::sleep(Duration::from_millis(20));
    let after = engine.ledger();
    let mut latest: Vec<f64> = wire.iter().rev().take(1024).copied().collect();
    latest.sort_by(f64::total_cmp);
    times.sort_by(f64::total_cmp);
    let report = Report {
        services: options.services,
        endpoints: options.endpoints,
        starts_ms,
        changes: options.changes,
        p50_us: quantile(&times, 0.5),
        p99_us: quantile(&times, 0.99),
        max_us: quantile(&times, 1.0),
        metric_p50_us,
        metric_p99_us,
        wire_p50_us: quantile(&latest, 0.5),
        wire_p99_us: quantile(&latest, 0.99),
        memory,
        packets: after.tx - before.tx,
        lost: (after.rx - before.rx) - (after.tx - before.tx),
    };
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report).map_err(|e| e.to_string())?);
    } else {
        report.print();
    }
    if options.check { report.check() } else { Ok(()) }
}

fn start(
    options: &Options,
    folder: &Path,
    kubeconfig: &Path,
    config: &Path,
    socket: &Path,
) -> Result<Running, String> {
    let beside = std::env::current_exe().map(|own| own.with_file_name("millrace-control"));
    let program = match &options.control {
        Some(path) => path.clone(),
        None => beside.map_err(|e| e.to_string())?,
    };
    let mut command = Command::new(program);
    command.args(["--node", "node-1", "--healthz-bind-address", "127.0.0.1:0"]);
    command.args(["--metrics-bind-address", "127.0.0.1:0"]);
    for (flag, path) in [("--kubeconfig", kubeconfig), ("--config", config), ("--engine", socket)] {
        command.arg(flag).arg(path);
    }
    Running::start(command.env("RUST_LOG", "warn"), folder.join("control.log"))
}

fn wait(engine: &Engine, generation: u64, control: &mut Running) -> Result<clock::Nanos, String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(reached) = engine.reached(generation) {
            return Ok(reached);
        }
        if Instant::now() > deadline {
            return Err(format!(
                "generation {generation} did not come in {} s",
                PATIENCE.as_secs()
            ));
        }
        control.check()?;
        std::thread::sleep(Duration::from_micros(100));
    }
}

/// With what the API server adds to every object.
fn managed(mut object: Value) -> Value {
    let fields = json!({"f:metadata": {"f:generateName": {}, "f:labels": {".": {}, "f:endpointslice.kubernetes.io/managed-by": {}, "f:kubernetes.io/service-name": {}},
        "f:ownerReferences": {".": {}, "k:{\"uid\":\"5c9c0b0e-3c6b-4c5e-9a52-2f6d6f0b7a11\"}": {}}}, "f:addressType": {}, "f:endpoints": {}, "f:ports": {}});
    let metadata = &mut object["metadata"];
    metadata["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
    metadata["generation"] = json!(1);
    metadata["managedFields"] = json!([{"apiVersion": "discovery.k8s.io/v1", "fieldsType": "FieldsV1", "fieldsV1": fields,
        "manager": "kube-controller-manager", "operation": "Update", "time": "2026-01-01T00:00:00Z"}]);
    object
}

fn metric(text: &str, name: &str) -> Result<f64, String> {
    let name = format!("millrace_control_{name} ");
    let value = text.lines().find_map(|line| line.strip_prefix(&name)?.parse().ok());
    value.ok_or_else(|| format!("control has no metric {name}"))
}

impl Memory {
    fn of(process: u32) -> Result<Memory, String> {
        let path = format!("/proc/{process}/status");
        let text = fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
        let mib = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let kib: Option<f64> =
                line.and_then(|line| line.split_whitespace().next()?.parse().ok());
            kib.map(|kib| kib / 1024.0).ok_or_else(|| format!("{path} has no {name}"))
        };
        Ok(Memory {
            peak: mib("VmHWM")?,
            now: mib("VmRSS")?,
            own: mib("RssAnon")?,
            shared: mib("RssShmem")?,
        })
    }
}

impl Report {
    fn print(&self) {
        let mut starts = self.starts_ms.clone();
        starts.sort_by(f64::total_cmp);
        println!(
            "{} services of {} endpoints, listed from an API server",
            self.services, self.endpoints
        );
        println!(
            "start to serving {:7.0} ms  ({:.0} to {:.0}, {} starts)",
            quantile(&starts, 0.5),
            quantile(&starts, 0.0),
            quantile(&starts, 1.0),
            starts.len()
        );
        println!(
            "a change         {:7.0} µs p50, {:.0} p99, {:.0} max, of {}: from the API server's storing it to the last worker's first burst",
            self.p50_us, self.p99_us, self.max_us, self.changes
        );
        println!(
            "control's metric {:7.0} µs p50, {:.0} p99; the same changes here, from the event's being on the wire: {:.0} and {:.0}",
            self.metric_p50_us, self.metric_p99_us, self.wire_p50_us, self.wire_p99_us
        );
        let Memory { peak, now, own, shared } = self.memory;
        println!(
            "control's memory {peak:7.0} MiB at its highest, {now:.0} now: {own:.0} its own, {shared:.0} of the tables it shares with the engine"
        );
        println!("packets          {:7} carried while changing, {} not", self.packets, self.lost);
    }

    fn check(&self) -> Result<(), String> {
        let slowest = self.starts_ms.iter().copied().fold(0.0, f64::max);
        within(&[
            ("ms of the slowest start", slowest, 5000.0),
            ("µs of a change (p99)", self.p99_us, 5000.0),
            ("MiB of control's memory", self.memory.peak, 300.0),
            ("packets not carried", self.lost as f64, 0.0),
        ])
    }
}
