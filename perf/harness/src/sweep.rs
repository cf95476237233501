//! The sweep on real interfaces: the bare forwarder, or a command of the user's, with each cell's settings.
//!
//! Without interfaces it makes its own: for each number of queues three namespaces in a row, a generator, the forwarder and a
//! sink. With `--from` and `--to` those are used as they are in this namespace, the load comes from outside, and their settings
//! are changed as `tune` does it, journal and all.

mod bed;

use crate::folder::Folder;
use crate::running::Running;
use bed::Bed;
use clap::Args;
use millrace_doctor::power::{DOMAINS, Energy};
use millrace_doctor::sweep::{self, Advice, Cell, Matrix, Measured, Row, plot};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// What can be chosen.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Numbers of queues
    #[arg(long, value_delimiter = ',', default_value = "1")]
    queues: Vec<u32>,
    /// Sizes of each of a socket's rings
    #[arg(long, value_delimiter = ',', default_value = "512,2048,8192")]
    ring: Vec<u32>,
    /// Packets taken at a time
    #[arg(long, value_delimiter = ',', default_value = "16,64,128")]
    burst: Vec<u32>,
    /// Busy polling: off, on (napi_defer_hard_irqs 2, gro_flush_timeout 200000)
    #[arg(long, value_delimiter = ',', default_value = "off,on", value_parser = on_off)]
    busy_poll: Vec<bool>,
    /// XDP_USE_NEED_WAKEUP: off, on
    #[arg(long, value_delimiter = ',', default_value = "off,on", value_parser = on_off)]
    need_wakeup: Vec<bool>,
    /// Times that each cell is measured; below three there is no advice
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds counted in a trial
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Seconds before that, not counted
    #[arg(long, default_value_t = 0.5)]
    warm_up: f64,
    /// Packets a second offered in all (without: as many as the generator can; then CPU % says little)
    #[arg(long)]
    rate: Option<f64>,
    /// CPUs of the workers, in turn; without it 1 and those after it, 0 last
    #[arg(long, value_delimiter = ',')]
    cpus: Vec<usize>,
    /// Receive on this interface of this namespace, on which load must come
    #[arg(long, requires = "to")]
    from: Option<String>,
    /// Send on this one
    #[arg(long, requires = "from")]
    to: Option<String>,
    /// Run this by `sh -c` instead of the bare forwarder: {queues} {ring} {burst} {busy_poll} {need_wakeup} (0 or 1) {from} {to} {cpus}
    #[arg(long)]
    command: Option<String>,
    /// Seed of the order of cells
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write the plot
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Folder of the journals of changed settings
    #[arg(long, default_value = "/var/lib/millrace/tune")]
    state: PathBuf,
}

fn on_off(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("on or off".into()),
    }
}

#[derive(Serialize)]
struct Report<'a> {
    schema: &'static str,
    /// Its number is in the names of the namespaces.
    process: u32,
    about: BTreeMap<&'static str, String>,
    in_use: Cell,
    rows: &'a [Row],
    advice: &'a Advice,
}

/// Measures all, prints, and writes the plot.
pub fn run(options: &Options, stop: &AtomicBool) -> Result<(), String> {
    let matrix = Matrix {
        queues: options.queues.clone(),
        rings: options.ring.clone(),
        bursts: options.burst.clone(),
        busy_poll: options.busy_poll.clone(),
        need_wakeup: options.need_wakeup.clone(),
    };
    check(options, &matrix)?;
    let folder = Folder::create("sweep")?;
    let mut bench = Bench { options, folder, beds: BTreeMap::new() };
    let rows = sweep::run(&matrix, options.rounds.max(1), options.seed, |cell, (number, total)| {
        if stop.load(Ordering::Relaxed) {
            return Err("stopped".into());
        }
        let measured = bench.trial(cell);
        if !options.json {
            let outcome = match &measured {
                Ok(m) => format!("{:.3} Mpps, {:.0} % of a CPU", m.pps / 1e6, m.cpu),
                Err(why) => why.clone(),
            };
            eprintln!("{number}/{total} {cell}: {outcome}");
        }
        measured
    });
    drop(bench);
    let in_use = in_use(&matrix).ok_or("there is no cell")?;
    let advice = sweep::advise(&rows, &in_use);
    let about = about(options);
    if let Some(path) = &options.html {
        let facts: Vec<_> =
            about.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        fs::write(path, plot::html(&rows, &advice, &in_use, &facts))
            .map_err(|e| format!("{}: {e}", path.display()))?;
    }
    if options.json {
        let schema = "millrace-sweep/1";
        let report = Report {
            schema,
            process: std::process::id(),
            about,
            in_use,
            rows: &rows,
            advice: &advice,
        };
        println!("{}", serde_json::to_string_pretty(&report).map_err(|e| e.to_string())?);
    } else {
        print(&rows, &advice);
    }
    let failed = rows.iter().filter(|row| row.trials.is_empty()).count();
    if failed == rows.len() { Err("no trial of any cell succeeded".into()) } else { Ok(()) }
}

/// What would be an error of each cell is one of the command.
fn check(options: &Options, matrix: &Matrix) -> Result<(), String> {
    let cells = matrix.cells().len();
    let seconds = (options.seconds + options.warm_up + 0.7) * (cells * options.rounds) as f64;
    if !(0.05..=600.0).contains(&options.seconds) || !(0.0..=60.0).contains(&options.warm_up) {
        return Err("--seconds is from 0.05 to 600, --warm-up at most 60".into());
    }
    if let Some(ring) =
        options.ring.iter().find(|ring| !ring.is_power_of_two() || !(32..=65536).contains(*ring))
    {
        return Err(format!("--ring {ring}: a power of two from 32 to 65536"));
    }
    if let Some(burst) = options.burst.iter().find(|burst| !(1..=256).contains(*burst)) {
        return Err(format!("--burst {burst}: from 1 to 256"));
    }
    if let Some(queues) = options.queues.iter().find(|queues| !(1..=64).contains(*queues)) {
        return Err(format!("--queues {queues}: from 1 to 64"));
    }
    let cpus = cpus_here();
    if options.from.is_none()
        && let Some(queues) = options.queues.iter().find(|queues| **queues as usize > cpus)
    {
        return Err(format!(
            "--queues {queues}: this machine has {cpus} CPUs, and a veth takes the queue by the sender's CPU: the others would stay \
             empty (--from and --to name NICs)"
        ));
    }
    if !options.json {
        eprintln!(
            "{cells} cells, {} rounds: some {:.0} minutes",
            options.rounds,
            (seconds / 60.0).ceil()
        );
    }
    Ok(())
}

/// The engine's defaults, or the cell nearest to them that is measured.
fn in_use(matrix: &Matrix) -> Option<Cell> {
    let distance = |cell: &Cell| {
        let far = |value: u32, default: u32| value.abs_diff(default);
        (cell.busy_poll, !cell.need_wakeup, far(cell.ring, 2048), far(cell.burst, 64), cell.queues)
    };
    matrix.cells().into_iter().min_by_key(distance)
}

fn about(options: &Options) -> BTreeMap<&'static str, String> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let cpu = read("/proc/cpuinfo");
    let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let load = match options.rate {
        Some(rate) => format!("{rate} packets a second"),
        None => "as many as the generator could".into(),
    };
    BTreeMap::from([
        ("kernel", read("/proc/sys/kernel/osrelease")),
        ("CPU", cpu.trim_start_matches(['\t', ' ', ':']).to_owned()),
        ("CPUs", std::thread::available_parallelism().map_or(0, usize::from).to_string()),
        (
            "trials",
            format!(
                "{} of {} s after {} s, random order",
                options.rounds, options.seconds, options.warm_up
            ),
        ),
        (
            "power",
            match Energy::read(Path::new(DOMAINS)) {
                Ok(_) => "of all the machine's processor packages (RAPL)".into(),
                Err(why) => why,
            },
        ),
        ("forwarder", options.command.clone().unwrap_or_else(|| "millrace-perf bare".into())),
        (
            "interfaces",
            match (&options.from, &options.to) {
                (Some(from), Some(to)) => format!("{from} to {to}, load from outside"),
                _ => format!("veth in namespaces, copy mode, 64-byte UDP, {load}"),
            },
        ),
    ])
}

fn print(rows: &[Row], advice: &Advice) {
    println!("{:<66} {:>7} {:>7} {:>7} {:>6} {:>6}", "Mpps", "min", "median", "max", "CPU %", "W");
    for row in rows {
        match (row.pps, row.cpu) {
            (Some(pps), Some(cpu)) => println!(
                "{:<66} {:>7.3} {:>7.3} {:>7.3} {:>6.0} {:>6}{}",
                row.cell.to_string(),
                pps.min / 1e6,
                pps.median / 1e6,
                pps.max / 1e6,
                cpu.median,
                row.watts.map_or("–".into(), |watts| format!("{:.1}", watts.median)),
                row.failed.as_ref().map(|why| format!("  {why}")).unwrap_or_default()
            ),
            _ => println!("{:<66} {}", row.cell.to_string(), row.failed.as_deref().unwrap_or("")),
        }
    }
    if let Err(why) = Energy::read(Path::new(DOMAINS)) {
        println!("W: {why}");
    }
    println!("{advice}");
}

/// Beds by their number of queues, made when they are needed.
struct Bench<'a> {
    options: &'a Options,
    folder: Folder,
    beds: BTreeMap<u32, Bed>,
}

impl Bench<'_> {
    fn trial(&mut self, cell: &Cell) -> Result<Measured, String> {
        if !self.beds.contains_key(&cell.queues) {
            let bed = match (&self.options.from, &self.options.to) {
                (Some(from), Some(to)) => Bed::named(from, to, &self.options.state),
                _ => Bed::veth(cell.queues, self.folder.path())?,
            };
            self.beds.insert(cell.queues, bed);
        }
        let log = self.log("forwarder");
        let bed = self.beds.get_mut(&cell.queues).ok_or("no bed")?;
        bed.set(cell)?;
        let mut forwarder = Running::start(&mut command(self.options, bed, cell)?, log)?;
        sleep(Duration::from_millis(300));
        let _offers = bed.offer(self.options.rate, self.folder.path())?;
        sleep(Duration::from_secs_f64(self.options.warm_up));
        forwarder.check().map_err(explained)?;
        let count = || Ok::<_, String>((bed.arrived()?, cpu_time(forwarder.id())?, Instant::now()));
        let energy = || Energy::read(Path::new(DOMAINS)).ok();
        let (before, drawn) = (count()?, energy());
        sleep(Duration::from_secs_f64(self.options.seconds));
        let (after, drawn_after) = (count()?, energy());
        forwarder.check()?;
        let seconds = (after.2 - before.2).as_secs_f64();
        if after.0 == before.0 {
            return Err("nothing arrived".into());
        }
        let pps = after.0.saturating_sub(before.0) as f64 / seconds;
        let watts = drawn.zip(drawn_after).and_then(|(before, after)| after.watts_since(&before));
        Ok(Measured { pps, cpu: (after.1 - before.1) / seconds * 100.0, watts })
    }

    fn log(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.log"))
    }
}

/// The bare forwarder or the user's command, with this cell's settings.
fn command(options: &Options, bed: &Bed, cell: &Cell) -> Result<Command, String> {
    let (from, to) = bed.interfaces();
    let here = cpus_here();
    let default: Vec<usize> = (1..here).chain([0]).collect();
    let chosen = if options.cpus.is_empty() { &default } else { &options.cpus };
    let cpus: Vec<_> =
        chosen.iter().cycle().take(cell.queues as usize).map(ToString::to_string).collect();
    if let Some(text) = &options.command {
        let text = cell
            .fill(text)
            .replace("{from}", from)
            .replace("{to}", to)
            .replace("{cpus}", &cpus.join(","));
        let mut command = bed.command("sh");
        command.args(["-c", &format!("exec {text}")]);
        return Ok(command);
    }
    let mut command = bed.command(&program()?);
    command.args(["bare", "--from", from, "--to", to, "--sleep"]);
    command.args(["--queues", &cell.queues.to_string(), "--ring", &cell.ring.to_string()]);
    command.args(["--burst", &cell.burst.to_string()]);
    if let Some((first, more)) = cpus.split_first() {
        command.args(["--cpu", first]);
        if !more.is_empty() {
            command.args(["--more-cpus", &more.join(",")]);
        }
    }
    for (flag, on) in [
        ("--busy-poll", cell.busy_poll),
        ("--no-need-wakeup", !cell.need_wakeup),
        ("--zero-copy", bed.is_named()),
    ] {
        if on {
            command.arg(flag);
        }
    }
    Ok(command)
}

/// With what a user can do about it, where the kernel's word says little.
fn explained(why: String) -> String {
    match why.contains("No space left on device") {
        true => format!(
            "{} (a veth takes an XDP program only with at least as many receive queues as its peer has to send: ethtool -L PEER tx N)",
            why.trim()
        ),
        false => why,
    }
}

fn cpus_here() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn program() -> Result<String, String> {
    let program = std::env::current_exe().map_err(|e| e.to_string())?;
    Ok(program.to_string_lossy().into_owned())
}

/// Ticks a second in `/proc`, on every architecture that the engine runs on.
const USER_HZ: f64 = 100.0;

/// Seconds that a process, with all its threads, has taken of CPUs: user and system time of `/proc/PID/stat`.
fn cpu_time(process: u32) -> Result<f64, String> {
    let path = format!("/proc/{process}/stat");
    let text = fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
    // The name before may hold anything, spaces and brackets too; the times are the 12th and 13th words after it.
    let rest = text.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
    let ticks: Vec<f64> =
        rest.split_whitespace().skip(11).take(2).filter_map(|word| word.parse().ok()).collect();
    match ticks.as_slice() {
        [user, system] => Ok((user + system) / USER_HZ),
        _ => Err(format!("{path}: no times")),
    }
}

/// Where the namespaces' logs are.
fn log(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.log"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_takes_time() {
        let before = cpu_time(std::process::id()).unwrap();
        let end = Instant::now() + Duration::from_millis(60);
        while Instant::now() < end {
            std::hint::spin_loop();
        }
        assert!(cpu_time(std::process::id()).unwrap() > before);
        assert!(cpu_time(u32::MAX).is_err());
    }

    #[test]
    fn the_engines_defaults_are_in_use() {
        let matrix = Matrix {
            queues: vec![2, 1],
            rings: vec![512, 4096],
            bursts: vec![16, 64],
            busy_poll: vec![true, false],
            need_wakeup: vec![false, true],
        };
        let cell = in_use(&matrix).unwrap();
        assert_eq!(cell.to_string(), "queues 1, ring 512, burst 64, busy-poll off, need-wakeup on");
    }

    #[test]
    fn what_no_socket_takes_is_refused_before_anything_is_made() {
        use clap::Parser;
        #[derive(Parser)]
        struct Line {
            #[command(flatten)]
            options: Options,
        }
        let refused = |line: &str| {
            let words = std::iter::once("sweep").chain(line.split_whitespace());
            let options = Line::try_parse_from(words).map_err(|e| e.to_string())?.options;
            run(&options, &AtomicBool::new(false))
        };
        for (line, why) in [
            ("--ring 1000", "power of two"),
            ("--burst 257", "from 1 to 256"),
            ("--queues 0", "from 1 to 64"),
            ("--queues 64", "CPUs"),
            ("--seconds 0", "--seconds"),
            ("--busy-poll maybe", "on or off"),
            ("--from eth0", "--to"),
        ] {
            let error = refused(line).unwrap_err();
            assert!(error.contains(why), "{line}: {error}");
        }
    }
}
