//! The engine's whole path against a bare forwarder on the same rings, over veth, in turns.
//!
//! Three namespaces in a row: a generator on one CPU offers more 64-byte UDP frames than either can
//! carry, the device under test runs on the other CPU, and a sink drops in XDP. What is counted is what
//! arrives at the sink. Absolute rates on a shared machine are noise; the ratio of two neighboring trials is the figure.

use crate::folder::Folder;
use crate::running::Running;
use crate::spread::Spread;
use crate::topology::{End, Namespace, join};
use clap::Args;
use serde::Serialize;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// What can be chosen.
#[derive(Args)]
pub struct Options {
    /// Pairs of trials
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds counted in each trial
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Flows offered: a power of two, at most 256
    #[arg(long, default_value_t = 256)]
    flows: u16,
    /// CPU of the generator
    #[arg(long, default_value_t = 0)]
    generator_cpu: usize,
    /// CPU of the device under test
    #[arg(long, default_value_t = 1)]
    cpu: usize,
    /// Exit with an error if the median ratio is below this
    #[arg(long)]
    at_least: Option<f64>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    flows: u16,
    seconds: f64,
    bare_mpps: Spread,
    engine_mpps: Spread,
    ratio: Spread,
    /// What the bare forwarder carried of what was offered: near 1, the generator is the limit and the ratio says little.
    bare_carried: Spread,
    mode: &'static str,
}

const GEN_MAC: &str = "02:00:00:00:01:02";
const IN_MAC: &str = "02:00:00:00:01:01";
const OUT_MAC: &str = "02:00:00:00:02:01";
const SINK_MAC: &str = "02:00:00:00:02:02";

/// Runs the trials and prints the table.
pub fn run(options: &Options) -> Result<(), String> {
    let bench = Bench::set_up(options)?;
    let (mut bare, mut engine, mut ratio, mut carried) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 1..=options.rounds.max(1) {
        let a = bench.trial(Dut::Bare)?;
        let b = bench.trial(Dut::Engine)?;
        if !options.json {
            eprintln!("round {round}: bare {a}, engine {b}, ratio {:.3}", b.mpps / a.mpps);
        }
        bare.push(a.mpps);
        engine.push(b.mpps);
        ratio.push(b.mpps / a.mpps);
        carried.push(a.mpps / a.offered);
    }
    let spread = |values: &[f64]| Spread::of(values).ok_or("no trial");
    let report = Report {
        flows: options.flows,
        seconds: options.seconds,
        bare_mpps: spread(&bare)?,
        engine_mpps: spread(&engine)?,
        ratio: spread(&ratio)?,
        bare_carried: spread(&carried)?,
        mode: "AF_XDP copy mode on veth",
    };
    if options.json {
        println!("{}", serde_json::to_string(&report).map_err(|e| e.to_string())?);
    } else {
        println!("64-byte UDP, {} flows, one worker, {}", report.flows, report.mode);
        println!("{:<34} {:>7} {:>7} {:>7}", "", "min", "median", "max");
        println!("{:<34} {}  Mpps", "bare AF_XDP layer-2 forwarder", report.bare_mpps);
        println!("{:<34} {}  Mpps", "engine, VIP DNAT, full pipeline", report.engine_mpps);
        println!("{:<34} {}", "ratio, pair by pair", report.ratio);
        println!("{:<34} {}", "carried of what was offered, bare", report.bare_carried);
    }
    if report.bare_carried.median > 0.95 {
        return Err(
            "the generator is the limit: it offers hardly more than the bare forwarder carries"
                .into(),
        );
    }
    match options.at_least {
        Some(least) if report.ratio.median < least => {
            Err(format!("the median ratio {:.3} is below {least}", report.ratio.median))
        }
        _ => Ok(()),
    }
}

/// Packets per microsecond.
#[derive(Clone, Copy)]
struct Rate {
    /// That arrived.
    mpps: f64,
    /// That were sent towards the device under test.
    offered: f64,
}

impl std::fmt::Display for Rate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.3} of {:.3} Mpps", self.mpps, self.offered)
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Dut {
    Bare,
    Engine,
}

/// Namespaces, the sink and the files of the engine; all gone when dropped.
struct Bench<'a> {
    options: &'a Options,
    generator: Namespace,
    dut: Namespace,
    sink: Namespace,
    _sink_program: Running,
    folder: Folder,
    programs: PathBuf,
}

impl<'a> Bench<'a> {
    fn set_up(options: &'a Options) -> Result<Self, String> {
        let programs = std::env::current_exe().map_err(|e| e.to_string())?;
        let programs = programs.parent().map(Path::to_owned).unwrap_or_default();
        let generator = Namespace::create("gen")?;
        let dut = Namespace::create("dut")?;
        let sink = Namespace::create("sink")?;
        let end = |namespace, name, mac| End { namespace, name, mac };
        join(end(&generator, "gen0", GEN_MAC), end(&dut, "in0", IN_MAC), 1)?;
        join(end(&dut, "out0", OUT_MAC), end(&sink, "sink0", SINK_MAC), 1)?;
        let folder = Folder::create("veth")?;
        fs::create_dir_all(folder.path().join("manifests")).map_err(|e| e.to_string())?;
        write_files(folder.path(), options.cpu).map_err(|e| e.to_string())?;
        let mut program = sink.command(&path(&programs, "millrace-perf"));
        let _sink_program = Running::start(
            program.args(["sink", "--interface", "sink0"]),
            folder.path().join("sink.log"),
        )?;
        Ok(Self { options, generator, dut, sink, _sink_program, folder, programs })
    }

    /// One trial: the rate at the sink.
    fn trial(&self, dut: Dut) -> Result<Rate, String> {
        let mut running = match dut {
            Dut::Bare => vec![self.start_bare()?],
            Dut::Engine => self.start_engine()?,
        };
        sleep(Duration::from_millis(300));
        let mut offer = self.generator.command(&path(&self.programs, "millrace-perf"));
        offer.args(["offer", "--interface", "gen0", "--src-mac", GEN_MAC, "--dst-mac", IN_MAC]);
        offer.args(["--src", "10.0.1.2:10240", "--dst", "192.0.2.10:53"]);
        offer.args(["--flows", &self.options.flows.to_string()]);
        offer.args(["--cpu", &self.options.generator_cpu.to_string()]);
        running.push(Running::start(&mut offer, self.log("offer"))?);
        // Warm-up, not counted: flows are made and caches filled.
        sleep(Duration::from_secs(1));
        let count = || -> Result<_, String> {
            let arrived = self.sink.counter("sink0", "rx_packets")?;
            Ok((arrived, self.generator.counter("gen0", "tx_packets")?, Instant::now()))
        };
        let before = count()?;
        sleep(Duration::from_secs_f64(self.options.seconds));
        let after = count()?;
        let microseconds = (after.2 - before.2).as_secs_f64() * 1e6;
        for program in &mut running {
            program.check()?;
        }
        if after.0 == before.0 {
            return Err("nothing arrived at the sink".into());
        }
        Ok(Rate {
            mpps: (after.0 - before.0) as f64 / microseconds,
            offered: (after.1 - before.1) as f64 / microseconds,
        })
    }

    fn start_bare(&self) -> Result<Running, String> {
        let mut bare = self.dut.command(&path(&self.programs, "millrace-perf"));
        bare.args([
            "bare",
            "--from",
            "in0",
            "--to",
            "out0",
            "--cpu",
            &self.options.cpu.to_string(),
        ]);
        Running::start(&mut bare, self.log("bare"))
    }

    fn log(&self, program: &str) -> PathBuf {
        self.folder.path().join(format!("{program}.log"))
    }

    fn start_engine(&self) -> Result<Vec<Running>, String> {
        let file = |name: &str| path(self.folder.path(), name);
        let mut engine = self.dut.command(&path(&self.programs, "millrace-dataplane"));
        let engine =
            Running::start(engine.args(["--config", &file("router.toml")]), self.log("engine"))?;
        let mut control = self.dut.command(&path(&self.programs, "millrace-control"));
        control.args(["--config", &file("control.toml"), "--manifests", &file("manifests")]);
        let mut running = vec![Running::start(&mut control, self.log("control"))?, engine];
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let mut show = self.dut.command(&path(&self.programs, "millrace"));
            let output = show
                .args(["--socket", &file("engine.sock"), "show", "services", "--json"])
                .output();
            if output.is_ok_and(|o| String::from_utf8_lossy(&o.stdout).contains("192.0.2.10")) {
                return Ok(running);
            }
            for program in &mut running {
                program.check()?;
            }
            if Instant::now() > deadline {
                return Err("the engine did not serve the VIP within 10 s".into());
            }
            sleep(Duration::from_millis(50));
        }
    }
}

fn path(folder: &Path, name: &str) -> String {
    folder.join(name).to_string_lossy().into_owned()
}

fn write_files(folder: &Path, cpu: usize) -> std::io::Result<()> {
    let socket = path(folder, "engine.sock");
    fs::write(
        folder.join("router.toml"),
        format!(
            r#"mode = "router"
socket = "{socket}"
[workers]
cpus = [{cpu}]
mode = "busy"
[conntrack]
entries = 65536
[[interface]]
name = "in0"
addresses = ["10.0.1.1/24"]
[[interface]]
name = "out0"
addresses = ["10.0.2.1/24"]
"#
        ),
    )?;
    fs::write(
        folder.join("control.toml"),
        format!(
            r#"engine = "{socket}"
[[neighbor]]
interface = "out0"
address = "10.0.2.2"
mac = "{SINK_MAC}"
[[neighbor]]
interface = "in0"
address = "10.0.1.2"
mac = "{GEN_MAC}"
"#
        ),
    )?;
    fs::write(
        folder.join("manifests/dns.yaml"),
        r#"apiVersion: v1
kind: Service
metadata: {name: dns, namespace: default}
spec:
  clusterIP: 192.0.2.10
  clusterIPs: [192.0.2.10]
  ipFamilies: [IPv4]
  ports: [{name: dns, port: 53, protocol: UDP, targetPort: 5353}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: dns-1, namespace: default, labels: {kubernetes.io/service-name: dns}}
addressType: IPv4
ports: [{name: dns, port: 5353, protocol: UDP}]
endpoints: [{addresses: [10.0.2.2], conditions: {ready: true}}]
"#,
    )
}
