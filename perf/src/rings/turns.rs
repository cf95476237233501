//! `--in-turns`: all scenarios side by side in one process, a run of each after the other, and what each takes as a multiple of the first.
//!
//! Two scenarios that are measured one after the other differ by what else the machine did meanwhile. Neighboring runs see nearly the same, so the
//! median of their ratios says more than the ratio of two medians, and its spread says how much.
//!
//! Where only the policies differ, one engine runs them all: the same frames, conntrack and worker, and other tables for each run. Two engines would differ
//! by where their memory happens to lie, by more than what is asked. Where the tables lie is the luck of a process too: they are built
//! anew several times, each time elsewhere, and each of these layouts gives one ratio, the median of its own.

use super::scenario::{self, FrameSize, Scale, Scenario};
use super::{Options, compact};
use crate::spread::Spread;
use millrace_dataplane::driver::looped::Time;
use serde::Serialize;

/// One scenario's runs.
#[derive(Serialize)]
pub struct Row {
    scenario: Scenario,
    frames: FrameSize,
    /// Nanoseconds a packet.
    ns: Spread,
    /// What this one took in neighboring runs, as a multiple of what the first scenario took; where only policies differ, of each layout
    /// of the tables the median of that.
    ratio: Spread,
}

/// What runs took: of each scenario nanoseconds a packet, and multiples of the first scenario's.
type Taken = Vec<(Vec<f64>, Vec<f64>)>;

/// Measures `scenarios` with one worker each, and prints it.
pub fn measure(options: &Options, scenarios: &[Scenario], cpus: &[usize]) -> Result<(), String> {
    let rows = rows(options, scenarios, &options.frames, cpus)?;
    if options.json {
        let text = serde_json::to_string_pretty(&rows).map_err(|error| error.to_string())?;
        println!("{text}");
        return Ok(());
    }
    print(options, &rows);
    Ok(())
}

/// Of `scenarios` those that differ in policies alone, if they are several: what more policies cost. The first has fewest.
pub fn of_policies(
    options: &Options,
    scenarios: &[Scenario],
    cpus: &[usize],
) -> Result<Vec<Row>, String> {
    let mut judged: Vec<_> = scenarios.iter().filter(|it| it.is_judged()).copied().collect();
    judged.sort_by_key(|scenario| scenario.policies());
    judged.dedup();
    match (judged.len(), options.frames.first()) {
        (2.., Some(first)) => rows(options, &judged, &[*first], cpus),
        _ => Ok(Vec::new()),
    }
}

fn rows(
    options: &Options,
    scenarios: &[Scenario],
    sizes: &[FrameSize],
    cpus: &[usize],
) -> Result<Vec<Row>, String> {
    let cpus = cpus.get(..1).ok_or("no CPU")?;
    let alike = scenarios.iter().all(|scenario| scenario.is_judged());
    let mut rows = Vec::new();
    for &frames in sizes {
        let taken = if alike {
            on_one_engine(options, scenarios, frames, cpus)?
        } else {
            side_by_side(options, scenarios, frames, cpus)?
        };
        for (scenario, (ns, ratios)) in scenarios.iter().zip(&taken) {
            rows.push(Row {
                scenario: *scenario,
                frames,
                ns: Spread::of(ns).ok_or("no runs")?,
                ratio: Spread::of(ratios).ok_or("no runs")?,
            });
        }
    }
    Ok(rows)
}

/// Prints what was measured.
pub fn print(options: &Options, rows: &[Row]) {
    let alike = rows.iter().all(|row| row.scenario.is_judged());
    let layouts = match options.layouts {
        layouts if alike => format!(" and layout of the tables, of {layouts} layouts"),
        _ => String::new(),
    };
    println!(
        "{} runs of each{layouts} in turns, one worker: minimum, median, maximum",
        options.runs
    );
    println!("{:<21} {:<5}   {:^23}   of the first", "scenario", "frame", "ns/packet");
    for Row { scenario, frames, ns, ratio } in rows {
        println!(
            "{:<21} {:<5}   {}   {:.2} {:.2} {:.2}",
            scenario.name(),
            frames.name(),
            compact(ns),
            ratio.min,
            ratio.median,
            ratio.max
        );
    }
}

/// An engine for each scenario.
fn side_by_side(
    options: &Options,
    scenarios: &[Scenario],
    frames: FrameSize,
    cpus: &[usize],
) -> Result<Taken, String> {
    let mut benches = Vec::with_capacity(scenarios.len());
    for scenario in scenarios {
        let failed = |why: &dyn std::fmt::Display| format!("{}: {why}", scenario.name());
        let mut bench = scenario::build(*scenario, frames, &Scale::REAL, 1, Time::Real)
            .map_err(|why| failed(&why))?;
        bench.verify().map_err(|why| failed(&why))?;
        benches.push(bench);
    }
    let times = take(benches.len(), options, |at| benches[at].nanoseconds(options.packets, cpus))?;
    let ratios: Vec<_> = times.iter().map(|each| multiples(each, &times)).collect();
    Ok(times.into_iter().zip(ratios).collect())
}

/// One engine for all of them, with tables in turns.
fn on_one_engine(
    options: &Options,
    scenarios: &[Scenario],
    frames: FrameSize,
    cpus: &[usize],
) -> Result<Taken, String> {
    let first = *scenarios.first().ok_or("no scenario")?;
    let failed =
        |scenario: Scenario, why: &dyn std::fmt::Display| format!("{}: {why}", scenario.name());
    let mut bench = scenario::build(first, frames, &Scale::REAL, 1, Time::Real)
        .map_err(|why| failed(first, &why))?;
    let mut taken: Taken = vec![Default::default(); scenarios.len()];
    let mut _before = Vec::new();
    for layout in 0..options.layouts {
        let tables: Result<Vec<_>, _> = scenarios
            .iter()
            .map(|it| it.tables(&Scale::REAL).map_err(|why| failed(*it, &why)))
            .collect();
        let tables = tables?;
        if layout == 0 {
            for (scenario, tables) in scenarios.iter().zip(&tables) {
                bench.world.use_tables(tables);
                bench.verify().map_err(|why| failed(*scenario, &why))?;
            }
        }
        let times = take(scenarios.len(), options, |at| {
            bench.world.use_tables(&tables[at]);
            bench.nanoseconds(options.packets, cpus)
        })?;
        for ((all, ratios), each) in taken.iter_mut().zip(&times) {
            let median = Spread::of(&multiples(each, &times)).ok_or("no runs")?.median;
            ratios.push(median);
            all.extend(each);
        }
        // They stay until the next ones are there, so that those lie elsewhere.
        _before = tables;
    }
    Ok(taken)
}

/// Of neighboring runs what these took as a multiple of the first scenario's.
fn multiples(these: &[f64], all: &[Vec<f64>]) -> Vec<f64> {
    let first = all.first().into_iter().flatten();
    these.iter().zip(first).map(|(it, first)| it / first).collect()
}

/// What each of so many took, in turns; every other time round the other way, as what comes first may profit or suffer.
fn take(
    count: usize,
    options: &Options,
    mut run: impl FnMut(usize) -> Result<f64, String>,
) -> Result<Vec<Vec<f64>>, String> {
    let mut times = vec![Vec::new(); count];
    for turn in 0..=options.runs as usize {
        let mut order: Vec<usize> = (0..count).collect();
        if turn % 2 == 1 {
            order.reverse();
        }
        for at in order {
            let took = run(at)?;
            // The first warms up.
            if turn > 0 {
                times[at].push(took);
            }
        }
    }
    Ok(times)
}
