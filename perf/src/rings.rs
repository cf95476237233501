//! `millrace-perf core`: the engine's whole pipeline from RX ring to TX ring, in memory, without a network or privileges.

mod bare;
mod budget;
mod conclusive;
mod instructions;
mod measure;
mod net;
mod policies;
mod routes;
pub mod scenario;
#[cfg(test)]
mod tests;
mod turns;
mod verify;
mod world;

use budget::{ALLOWED, Budget, Compared};
use clap::Args;
use conclusive::Earlier;
use measure::Figures;
use millrace_dataplane::driver::looped::Time;
use millrace_harness::fingerprint::Fingerprint;
use scenario::{FrameSize, Scale, Scenario};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// What to measure, and how often.
#[derive(Args)]
pub struct Options {
    /// Scenarios to run; all without it
    #[arg(long = "scenario", value_name = "S", value_enum)]
    scenarios: Vec<Scenario>,
    /// Frame sizes
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["64", "imix"])]
    frames: Vec<FrameSize>,
    /// Numbers of workers
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2])]
    workers: Vec<usize>,
    /// CPUs for the workers; without it the last ones
    #[arg(long, value_delimiter = ',')]
    cpus: Vec<usize>,
    /// Runs of each, after one for warming up
    #[arg(long, default_value_t = 11, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Packets of a run, rounded to whole loops of frames
    #[arg(long, default_value_t = 1 << 20)]
    packets: usize,
    /// Count instructions per packet under callgrind instead of timing (64-byte frames, one worker, smaller tables)
    #[arg(long)]
    instructions: bool,
    /// Compare the counts with this budget; fail where one is more than 3 % over it
    #[arg(long, value_name = "FILE", requires = "instructions")]
    gate: Option<PathBuf>,
    /// Write the counts into the budget instead
    #[arg(long, requires = "gate")]
    bless: bool,
    /// Hold the times against those of an earlier run (--json), each relative to l2 of its own run; only where all of these vary by
    /// less than 3 %; l2 is run in any case
    #[arg(long, value_name = "FILE", conflicts_with_all = ["instructions", "in_turns"])]
    against: Option<PathBuf>,
    /// By how many percent a time may rise over the earlier one: processes differ by 15 % of their own doing
    #[arg(long, value_name = "PERCENT", default_value = "20", value_parser = conclusive::percent)]
    allow: f64,
    /// Keep callgrind's files in this folder, for callgrind_annotate
    #[arg(long, value_name = "FOLDER", requires = "instructions")]
    keep: Option<PathBuf>,
    /// Runs of all scenarios in turns, one worker each, with ratios of neighboring runs to the first scenario
    #[arg(long, conflicts_with_all = ["instructions", "workers"])]
    in_turns: bool,
    /// In turns, of scenarios that differ in policies alone: build their tables anew so many times, as where they lie is luck
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    layouts: u32,
    /// Print figures for programs
    #[arg(long)]
    json: bool,
    /// Run one scenario for the callgrind that this runs under
    #[arg(long, hide = true)]
    inside_callgrind: bool,
}

/// One line of the result.
#[derive(Serialize)]
struct Row {
    scenario: Scenario,
    frames: FrameSize,
    workers: usize,
    runs: u32,
    #[serde(flatten)]
    figures: Figures,
    /// Whether its runs vary little enough to say something.
    conclusive: bool,
}

/// What was measured, and on what.
#[derive(Serialize)]
struct Report<'a> {
    cpu: String,
    kernel: String,
    fingerprint: &'a Fingerprint,
    results: &'a [Row],
    /// Of scenarios that differ in policies alone, what each takes as a multiple of the one with fewest, on one engine in turns.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    policies: Vec<turns::Row>,
}

/// Runs the scenarios one after the other.
pub fn run(options: &Options) -> Result<(), String> {
    match options.scenarios[..] {
        [scenario] if options.inside_callgrind => instructions::inside(scenario),
        _ if options.instructions => count(options),
        _ if options.in_turns => {
            turns::measure(options, &chosen(options, Scenario::ALL), &cpus(options)?)
        }
        _ => measure(options),
    }
}

/// The scenarios asked for, or all of these.
fn chosen(options: &Options, all: &[Scenario]) -> Vec<Scenario> {
    let chosen = if options.scenarios.is_empty() { all } else { &options.scenarios };
    chosen.to_vec()
}

fn count(options: &Options) -> Result<(), String> {
    let scenarios = chosen(options, instructions::SCENARIOS);
    if scenarios.is_empty() {
        return Ok(());
    }
    let counted = instructions::count(&scenarios, options.keep.as_deref())?;
    let counted: Vec<(Scenario, f64)> = scenarios.into_iter().zip(counted).collect();
    let budget = match &options.gate {
        Some(path) if path.exists() || !options.bless => Budget::read(path)?,
        _ => Budget::default(),
    };
    let rows = budget.compare(&counted);
    if options.json {
        let text = serde_json::to_string_pretty(&rows).map_err(|error| error.to_string())?;
        println!("{text}");
    } else {
        println!(
            "{:<21} {:>20} {:>10} {:>8}",
            "scenario", "instructions/packet", "budget", "change"
        );
        for row in &rows {
            let budget = row.budget.map_or_else(|| "-".to_owned(), |it| format!("{it:.1}"));
            let rise = row.rise().map_or_else(|| "-".to_owned(), |it| format!("{it:+.1} %"));
            println!("{:<21} {:>20.1} {budget:>10} {rise:>8}", row.scenario, row.instructions);
        }
    }
    match &options.gate {
        Some(path) if options.bless => std::fs::write(path, budget.with(&counted).text())
            .map_err(|why| format!("{}: {why}", path.display())),
        Some(path) => gate(path, &budget, &rows),
        None => Ok(()),
    }
}

/// Fails where a count is over its budget.
fn gate(path: &Path, budget: &Budget, rows: &[Compared]) -> Result<(), String> {
    let over: Vec<String> = rows
        .iter()
        .filter(|row| row.is_over())
        .map(|row| {
            let (name, now, rise) = (&row.scenario, row.instructions, row.rise().unwrap_or(0.0));
            let budget = row.budget.unwrap_or(0.0);
            format!("{name} takes {now:.1} instructions a packet, its budget is {budget:.1} ({rise:+.1} %)")
        })
        .collect();
    if over.is_empty() {
        return Ok(());
    }
    let rustc = budget::rustc();
    let other = if rustc == budget.rustc {
        String::new()
    } else {
        format!("; the budget is of {}, this build of {rustc}", budget.rustc)
    };
    Err(format!(
        "more than {ALLOWED} % over {}: {}{other}. Where that is meant, --bless it",
        path.display(),
        over.join("; ")
    ))
}

fn measure(options: &Options) -> Result<(), String> {
    let mut scenarios = chosen(options, Scenario::ALL);
    let cpus = cpus(options)?;
    let fingerprint = Fingerprint::read();
    let kernel = fingerprint.kernel.split(' ').next().unwrap_or_default().to_owned();
    let cpu = fingerprint.cpu.model.clone();
    // Better before it is measured than after.
    let earlier = options.against.as_deref().map(|path| Earlier::read(path, &fingerprint));
    let earlier = earlier.transpose()?;
    if earlier.is_some() && !scenarios.contains(&Scenario::L2) {
        scenarios.insert(0, Scenario::L2);
    }
    let mut rows: Vec<Row> = Vec::new();
    if !options.json {
        println!("{cpu}, Linux {kernel}, {} runs of each\n", options.runs);
        println!(
            "{:<21} {:<5} {:>7}   {:^23}   {:>6}   {:^23}   {:^23}",
            "scenario", "frame", "workers", "ns/packet", "CV", "TSC cycles/packet", "Mpps"
        );
        let spread = format!("{:>7} {:>7} {:>7}", "min", "median", "max");
        println!("{:<35}   {spread}   {:>6}   {spread}   {spread}", "", "");
    }
    for scenario in scenarios {
        for &workers in &options.workers {
            let failed = |why: &dyn std::fmt::Display| format!("{}: {why}", scenario.name());
            let mut sizes = options.frames.iter().copied();
            let Some(first) = sizes.next() else { continue };
            let mut bench = scenario::build(scenario, first, &Scale::REAL, workers, Time::Real)
                .map_err(|why| failed(&why))?;
            for frames in std::iter::once(first).chain(sizes) {
                if frames != first {
                    bench.resize(frames);
                }
                bench.verify().map_err(|why| failed(&why))?;
                let figures = bench
                    .measure(options.runs as usize, options.packets, &cpus)
                    .map_err(|why| failed(&why))?;
                let conclusive = conclusive::is_steady(figures.cv);
                let row =
                    Row { scenario, frames, workers, runs: options.runs, figures, conclusive };
                if !options.json {
                    print(&row);
                }
                rows.push(row);
            }
        }
    }
    let policies = turns::of_policies(options, &chosen(options, Scenario::ALL), &cpus)?;
    if options.json {
        let report = Report { cpu, kernel, fingerprint: &fingerprint, results: &rows, policies };
        let text = serde_json::to_string_pretty(&report).map_err(|error| error.to_string())?;
        println!("{text}");
    } else {
        let loud = rows.iter().filter(|row| !row.conclusive).count();
        println!("\n{loud} of {} are inconclusive: their runs vary by 3 % or more", rows.len());
        if !policies.is_empty() {
            println!("\nWhere only the policies differ, on one engine:");
            turns::print(options, &policies);
        }
    }
    earlier.map_or(Ok(()), |earlier| earlier.gate(&rows, options.allow / 100.0))
}

fn print(row: &Row) {
    let cycles = row.figures.cycles.map_or_else(|| " ".repeat(23), |it| compact(&it));
    let scaling = row.figures.scaling.map_or_else(String::new, |it| {
        format!("   × {:.2} ({:.2} to {:.2}) of one alone", it.median, it.min, it.max)
    });
    let cv = row.figures.cv.map_or("   –".into(), |cv| format!("{:>4.1}", cv * 100.0));
    let verdict = if row.conclusive { "" } else { "  inconclusive" };
    println!(
        "{:<21} {:<5} {:>7}   {}   {cv} %   {cycles}   {}{scaling}{verdict}",
        row.scenario.name(),
        row.frames.name(),
        row.workers,
        compact(&row.figures.ns),
        compact(&row.figures.mpps),
    );
}

fn compact(it: &crate::spread::Spread) -> String {
    format!("{:>7.1} {:>7.1} {:>7.1}", it.min, it.median, it.max)
}

/// The CPUs asked for, or all from the last on: the first often has the machine's interrupts.
fn cpus(options: &Options) -> Result<Vec<usize>, String> {
    let ids = core_affinity::get_core_ids().unwrap_or_default();
    let there: Vec<usize> = ids.into_iter().rev().map(|id| id.id).collect();
    if let Some(cpu) = options.cpus.iter().find(|cpu| !there.contains(cpu)) {
        return Err(format!("--cpus: this process may not run on CPU {cpu}"));
    }
    let cpus = if options.cpus.is_empty() { there } else { options.cpus.clone() };
    match options.workers.iter().max() {
        Some(&most) if most > cpus.len() => {
            Err(format!("--workers {most}: each needs a CPU of its own, and there are {cpus:?}"))
        }
        _ if options.workers.contains(&0) => Err("--workers 0: at least one".to_owned()),
        _ => Ok(cpus),
    }
}
