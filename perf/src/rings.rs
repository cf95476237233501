//! `millrace-perf core`: the engine's whole pipeline from RX ring to TX ring, in memory, without a network or privileges.

mod bare;
mod measure;
mod net;
mod routes;
mod scenario;
mod verify;
mod world;

use clap::Args;
use measure::Figures;
use millrace_dataplane::driver::looped::Time;
use scenario::{FrameSize, Scale, Scenario};
use serde::Serialize;

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
    #[arg(long, default_value_t = 11)]
    runs: usize,
    /// Packets of a run, rounded to whole loops of frames
    #[arg(long, default_value_t = 1 << 20)]
    packets: usize,
    /// Print figures for programs
    #[arg(long)]
    json: bool,
}

/// One line of the result.
#[derive(Serialize)]
struct Row {
    scenario: Scenario,
    frames: FrameSize,
    workers: usize,
    runs: usize,
    #[serde(flatten)]
    figures: Figures,
    /// Packets a second of all workers, as a multiple of one worker's in the same invocation.
    #[serde(skip_serializing_if = "Option::is_none")]
    scaling: Option<f64>,
}

/// Runs the scenarios one after the other.
pub fn run(options: &Options) -> Result<(), String> {
    let scenarios =
        if options.scenarios.is_empty() { Scenario::ALL } else { &options.scenarios[..] };
    let cpus = cpus(&options.cpus);
    let mut rows: Vec<Row> = Vec::new();
    if !options.json {
        println!(
            "{:<21} {:<5} {:>7}   {:^23}   {:^23}   {:^23}",
            "scenario", "frame", "workers", "ns/packet", "TSC cycles/packet", "Mpps"
        );
        let spread = format!("{:>7} {:>7} {:>7}", "min", "median", "max");
        println!("{:<35}   {spread}   {spread}   {spread}", "");
    }
    for &scenario in scenarios {
        if let Some(why) = scenario.missing() {
            eprintln!("{:<21} {why}", scenario.name());
            continue;
        }
        for &frames in &options.frames {
            for &workers in &options.workers {
                let failed = |why: &dyn std::fmt::Display| format!("{}: {why}", scenario.name());
                let mut bench =
                    scenario::build(scenario, frames, &Scale::REAL, workers, Time::Real)
                        .map_err(|why| failed(&why))?;
                bench.verify().map_err(|why| failed(&why))?;
                let figures = bench
                    .measure(options.runs, options.packets, &cpus)
                    .map_err(|why| failed(&why))?;
                let one = rows
                    .iter()
                    .find(|row| (row.scenario, row.frames, row.workers) == (scenario, frames, 1));
                let scaling = one
                    .filter(|_| workers > 1)
                    .map(|one| figures.mpps.median / one.figures.mpps.median);
                let row = Row { scenario, frames, workers, runs: options.runs, figures, scaling };
                if !options.json {
                    print(&row);
                }
                rows.push(row);
            }
        }
    }
    if options.json {
        let text = serde_json::to_string_pretty(&rows).map_err(|error| error.to_string())?;
        println!("{text}");
    }
    Ok(())
}

fn print(row: &Row) {
    let cycles = row.figures.cycles.map_or_else(|| " ".repeat(23), |it| compact(&it));
    let scaling = row.scaling.map_or_else(String::new, |it| format!("   {it:.2} × one worker"));
    println!(
        "{:<21} {:<5} {:>7}   {}   {cycles}   {}{scaling}",
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
fn cpus(wanted: &[usize]) -> Vec<usize> {
    if !wanted.is_empty() {
        return wanted.to_vec();
    }
    let ids = core_affinity::get_core_ids().unwrap_or_default();
    ids.into_iter().rev().map(|id| id.id).collect()
}
