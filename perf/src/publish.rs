//! From an object to the workers: what a full load takes, and how soon a change is in every worker's hands.
//!
//! Control's own steps (store, compile, apply, publish over the engine's socket) in this thread, the engine's own workers and
//! housekeeping in others, packets over queues in memory. A change's time runs from control's decision, when the judged object is
//! put into the store, to the beginning of the first burst that uses it in the worker that is last.

pub mod engine;
pub mod objects;
pub mod policies;

use clap::Args;
use engine::Engine;
use millrace_control::compile::interfaces;
use millrace_control::config::Config;
use millrace_control::desired::Row;
use millrace_control::publish::{Published, Publisher};
use millrace_control::{Compiler, Store, World};
use millrace_dataplane::clock;
use millrace_tables::{SegmentConfig, Table, Usage};
use objects::Cluster;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What can be chosen.
#[derive(Args)]
pub struct Options {
    /// Services
    #[arg(long, default_value_t = 10_000)]
    services: u32,
    /// Endpoints of each
    #[arg(long, default_value_t = 10)]
    endpoints: u32,
    /// Endpoints of one more service
    #[arg(long, default_value_t = 5_000)]
    large: u32,
    /// Full loads, each by a control process of its own
    #[arg(long, default_value_t = 5)]
    loads: usize,
    /// Changes of one endpoint in a service
    #[arg(long, default_value_t = 2_000)]
    changes: usize,
    /// Changes of one endpoint in the large service
    #[arg(long, default_value_t = 300)]
    large_changes: usize,
    /// Microseconds between two packets to each worker while changes are measured
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pace: u64,
    /// Bring so many packets with every burst instead: the workers take all the time of their CPUs, which control then has to
    /// do without
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=64))]
    flood: Option<u64>,
    /// CPUs of the workers
    #[arg(long, value_delimiter = ',', default_values_t = [0, 1])]
    cpus: Vec<usize>,
    /// Exit with an error unless a full load takes less than 1 s, a change at most 1 ms (p99) and 64 KiB, and a service of ten
    /// endpoints 2,560 bytes
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
    large: u32,
    workers: usize,
    /// As the workers were kept at work.
    load: String,
    /// Objects in JSON values to judged rows, once.
    judge_ms: f64,
    loads: Vec<Load>,
    memory: Memory,
    changes: Changes,
    large_load_ms: f64,
    large_bytes: u64,
    large_changes: Changes,
    /// Packets carried while changes were measured, and those that were not.
    packets: u64,
    lost: u64,
}

/// A full load, step by step.
#[derive(Serialize)]
struct Load {
    store_ms: f64,
    compile_ms: f64,
    publish_ms: f64,
    /// All of it, from the first row into the store to the published generation.
    total_ms: f64,
    written: u64,
}

/// Bytes of the segment, divided by what they are for.
#[derive(Serialize)]
struct Memory {
    per_service: f64,
    /// By table, in bytes a service.
    tables: Vec<(String, f64)>,
    per_endpoint: f64,
    per_frontend: f64,
}

/// Times in microseconds, bytes written.
#[derive(Serialize)]
struct Changes {
    count: usize,
    p50_us: f64,
    p99_us: f64,
    max_us: f64,
    /// Until control has compiled the change.
    compiled_p50_us: f64,
    /// Until control has published it and told the engine.
    published_p50_us: f64,
    published_p99_us: f64,
    written_p50: u64,
    written_max: u64,
}

/// Measures and prints.
pub fn run(options: &Options) -> Result<(), String> {
    let cluster = Cluster { services: options.services, endpoints: options.endpoints };
    let socket = Socket::new();
    let engine = Engine::start(&socket.0, &options.cpus, (0..options.services).map(objects::vip))?;
    let began = Instant::now();
    let rows = cluster.values().map(objects::judge).collect::<Result<Vec<_>, _>>()?;
    let judge_ms = milliseconds(began);

    let mut control = Control::new(&socket.0);
    let empty = control.connect()?;
    let mut loads = Vec::new();
    for round in 0..options.loads.max(1) {
        if round > 0 {
            control = Control::new(&socket.0);
            control.connect()?;
        }
        loads.push(control.load(&rows)?);
        if !options.json {
            eprintln!("load {}: {:.0} ms", round + 1, loads[round].total_ms);
        }
    }
    let memory = Memory::of(&empty, &control.usage()?, options);

    engine.offer(match options.flood {
        Some(packets) => engine::Load::Flood(packets),
        None => engine::Load::Pace(Duration::from_micros(options.pace)),
    })?;
    let before = engine.ledger();
    std::thread::sleep(Duration::from_millis(300));
    let mut random = Random(1);
    let mut change = |number: usize| {
        let service = random.below(options.services);
        let place = random.below(options.endpoints);
        objects::judge(objects::changed(service, options.endpoints, place, number as u32))
    };
    let changes = control.measure(&engine, options.changes, &mut change)?;

    let usage = control.usage()?;
    let large = objects::large(options.services, options.large)
        .map(objects::judge)
        .collect::<Result<Vec<_>, _>>()?;
    let began = Instant::now();
    large.into_iter().for_each(|row| _ = control.store.set(row));
    let generation = control.publish()?.1.generation;
    let large_load_ms = milliseconds(began);
    control.settle(generation)?;
    let large_bytes = control.usage()?.live() - usage.live();
    let mut random = Random(2);
    let mut change = |number: usize| {
        let place = random.below(options.large);
        let (part, place) = (place / 1000, place % 1000);
        objects::judge(objects::changed_large(
            options.services,
            options.large,
            part,
            place,
            number as u32,
        ))
    };
    let large_changes = control.measure(&engine, options.large_changes, &mut change)?;
    engine.offer(engine::Load::None)?;
    std::thread::sleep(Duration::from_millis(20));
    let after = engine.ledger();
    if after.imbalance() != 0 {
        return Err(format!("the ledger doesn't balance: {after:?}"));
    }
    let report = Report {
        services: options.services,
        endpoints: options.endpoints,
        large: options.large,
        workers: options.cpus.len(),
        load: match options.flood {
            Some(packets) => format!("{packets} packets with every burst"),
            None => format!("a packet every {} µs", options.pace),
        },
        judge_ms,
        loads,
        memory,
        changes,
        large_load_ms,
        large_bytes,
        large_changes,
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

/// Control without its files: what `run::Control` does with them.
struct Control {
    store: Store,
    compiler: Compiler,
    publisher: Publisher,
    world: Arc<World>,
}

impl Control {
    fn new(socket: &Path) -> Self {
        let segment = SegmentConfig { bytes: 256 << 20, ..SegmentConfig::default() };
        Self {
            store: Store::new(),
            compiler: Compiler::new(),
            publisher: Publisher::new(socket, segment),
            world: Arc::default(),
        }
    }

    /// Connects and answers what an empty segment takes.
    fn connect(&mut self) -> Result<Usage, String> {
        let engine = self.publisher.connect().map_err(|e| e.to_string())?;
        let interfaces = engine.interfaces.into_iter().map(|it| it.spec).collect();
        let (config, problems) =
            Config::parse(Path::new("perf"), engine::CONTROL, &Config::default());
        let (world, more) = interfaces::world(interfaces, &config, &self.store);
        if let Some(problem) = problems.iter().chain(&more).next() {
            return Err(problem.to_string());
        }
        self.world = Arc::new(world);
        self.usage()
    }

    fn usage(&self) -> Result<Usage, String> {
        self.publisher.usage().ok_or_else(|| "not connected".to_owned())
    }

    /// Everything at once, as after a start.
    fn load(&mut self, rows: &[Row]) -> Result<Load, String> {
        let rows = rows.to_vec();
        let began = Instant::now();
        rows.into_iter().for_each(|row| _ = self.store.set(row));
        let store_ms = milliseconds(began);
        let step = Instant::now();
        self.compiler.update(&mut self.store, &self.world);
        let all = self.compiler.all();
        let compile_ms = milliseconds(step);
        let step = Instant::now();
        let published = published(self.publisher.publish(all))?;
        let publish_ms = milliseconds(step);
        let total_ms = milliseconds(began);
        self.settle(published.generation)?;
        Ok(Load { store_ms, compile_ms, publish_ms, total_ms, written: published.written })
    }

    /// What has changed in the store.
    fn publish(&mut self) -> Result<(clock::Nanos, Published), String> {
        let changes = self.compiler.update(&mut self.store, &self.world);
        let compiled = clock::now();
        Ok((compiled, published(self.publisher.publish(changes))?))
    }

    /// Waits as control does, asleep, until the engine says that every worker uses `generation` (those that sleep use none).
    fn settle(&mut self, generation: u64) -> Result<(), String> {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.publisher.acknowledged() < generation {
            if Instant::now() > deadline {
                return Err("the engine did not take up the tables in 10 s".into());
            }
            let socket = self.publisher.socket().ok_or("the engine is gone")?;
            let mut fds = [PollFd::from_borrowed_fd(socket, PollFlags::IN)];
            let limit = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
            if poll(&mut fds, Some(&limit)).is_ok_and(|ready| ready > 0) {
                self.publisher.receive().map_err(|e| e.to_string())?;
            }
        }
        self.publisher.reclaim();
        Ok(())
    }

    fn measure(
        &mut self,
        engine: &Engine,
        count: usize,
        change: &mut dyn FnMut(usize) -> Result<Row, String>,
    ) -> Result<Changes, String> {
        let (mut times, mut compiled_after, mut published_after, mut written) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for number in 0..count {
            let row = change(number)?;
            let decided = clock::now();
            self.store.set(row);
            let (compiled, published) = self.publish()?;
            compiled_after.push((compiled - decided) as f64 / 1e3);
            published_after.push((clock::now() - decided) as f64 / 1e3);
            self.settle(published.generation)?;
            // A worker that slept when the others had it takes it up with its next packet.
            let deadline = Instant::now() + Duration::from_secs(10);
            let reached = loop {
                match engine.reached(published.generation) {
                    Some(reached) => break reached,
                    None if Instant::now() > deadline => {
                        return Err("a worker has no packets".into());
                    }
                    None => std::thread::sleep(Duration::from_micros(50)),
                }
            };
            times.push(reached.saturating_sub(decided) as f64 / 1e3);
            written.push(published.written);
            std::thread::sleep(Duration::from_micros(500));
        }
        times.sort_by(f64::total_cmp);
        compiled_after.sort_by(f64::total_cmp);
        published_after.sort_by(f64::total_cmp);
        written.sort_unstable();
        Ok(Changes {
            count,
            p50_us: quantile(&times, 0.5),
            p99_us: quantile(&times, 0.99),
            max_us: quantile(&times, 1.0),
            compiled_p50_us: quantile(&compiled_after, 0.5),
            published_p50_us: quantile(&published_after, 0.5),
            published_p99_us: quantile(&published_after, 0.99),
            written_p50: quantile(&written, 0.5),
            written_max: quantile(&written, 1.0),
        })
    }
}

fn published(
    outcome: Option<Result<Published, millrace_control::publish::PublishError>>,
) -> Result<Published, String> {
    let published = outcome.ok_or("not connected")?.map_err(|e| e.to_string())?;
    match published.refused.first() {
        Some(row) => Err(row.error.to_string()),
        None => Ok(published),
    }
}

/// The smallest value that at least `share` of the sorted values don't exceed.
pub fn quantile<T: Copy + Default>(sorted: &[T], share: f64) -> T {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

/// Whether each figure is at most its bound; which ones are not.
pub fn within(figures: &[(&str, f64, f64)]) -> Result<(), String> {
    let missed: Vec<String> = figures
        .iter()
        .filter(|(_, value, bound)| value > bound)
        .map(|(what, value, bound)| format!("{value:.0} {what}, at most {bound:.0}"))
        .collect();
    if missed.is_empty() { Ok(()) } else { Err(missed.join("; ")) }
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

impl Memory {
    fn of(empty: &Usage, full: &Usage, options: &Options) -> Self {
        let services = f64::from(options.services);
        let each = |table: Table| (full.of(table) - empty.of(table)) as f64 / services;
        Self {
            per_service: (full.live() - empty.live()) as f64 / services,
            tables: Table::ALL
                .into_iter()
                .map(|table| (format!("{table:?}"), each(table)))
                .filter(|(_, bytes)| *bytes > 0.0)
                .collect(),
            per_endpoint: (each(Table::Backends) + each(Table::Names))
                / f64::from(options.endpoints.max(1)),
            per_frontend: each(Table::Frontends) + each(Table::Routes4) + each(Table::Routes6),
        }
    }
}

impl Report {
    fn print(&self) {
        let Self { services, endpoints, large, workers, load, .. } = self;
        println!(
            "{services} services of {endpoints} endpoints, one of {large}; {workers} workers, {load}"
        );
        let mut totals: Vec<f64> = self.loads.iter().map(|load| load.total_ms).collect();
        totals.sort_by(f64::total_cmp);
        println!(
            "full load     {:8.0} ms  ({:.0} to {:.0}, {} loads; JSON to judged rows before it: {:.0} ms)",
            quantile(&totals, 0.5),
            quantile(&totals, 0.0),
            quantile(&totals, 1.0),
            totals.len(),
            self.judge_ms,
        );
        if let Some(load) = self.loads.last() {
            println!(
                "  the last    {:8.0} ms store, {:.0} compile, {:.0} publish; {:.1} MB written",
                load.store_ms,
                load.compile_ms,
                load.publish_ms,
                load.written as f64 / 1e6
            );
        }
        println!(
            "memory        {:8.0} B a service with {endpoints} endpoints",
            self.memory.per_service
        );
        for (table, bytes) in &self.memory.tables {
            println!("  {table:12}{bytes:8.0} B");
        }
        println!(
            "  an endpoint {:8.0} B, a frontend {:.0} B",
            self.memory.per_endpoint, self.memory.per_frontend
        );
        self.changes.print("one endpoint of a small service");
        println!(
            "large service {:8.0} ms to load, {} bytes ({} an endpoint)",
            self.large_load_ms,
            self.large_bytes,
            self.large_bytes / u64::from(self.large.max(1))
        );
        self.large_changes.print("one endpoint of the large service");
        println!("packets       {:8} carried while changing, {} not", self.packets, self.lost);
    }

    fn check(&self) -> Result<(), String> {
        let slowest = self.loads.iter().map(|load| load.total_ms).fold(0.0, f64::max);
        within(&[
            ("ms of the slowest full load", slowest, 1000.0),
            ("µs of a change (p99)", self.changes.p99_us, 1000.0),
            ("bytes written for a change", self.changes.written_max as f64, 65536.0),
            ("bytes a service", self.memory.per_service, 2560.0),
            ("packets not carried", self.lost as f64, 0.0),
        ])
    }
}

impl Changes {
    fn print(&self, what: &str) {
        println!("change        {:8} times: {what}", self.count);
        println!(
            "  to the last worker's first burst: p50 {:.0} µs, p99 {:.0} µs, max {:.0} µs",
            self.p50_us, self.p99_us, self.max_us
        );
        println!(
            "  of it control's: compiled p50 {:.0} µs, published p50 {:.0} µs, p99 {:.0} µs; written {} B (p50), {} B (max)",
            self.compiled_p50_us,
            self.published_p50_us,
            self.published_p99_us,
            self.written_p50,
            self.written_max
        );
    }
}

/// A socket's path that is gone with its owner.
struct Socket(PathBuf);

impl Socket {
    fn new() -> Self {
        Self(std::env::temp_dir().join(format!("millrace-perf-{}.sock", std::process::id())))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// SplitMix64: the same changes in every run.
pub struct Random(pub u64);

impl Random {
    /// A number below `bound`.
    pub fn below(&mut self, bound: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % u64::from(bound.max(1))) as u32
    }
}
