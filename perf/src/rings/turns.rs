//! `--in-turns`: all scenarios side by side in one process, a run of each after the other, and what each takes as a multiple of the first.
//!
//! Two scenarios that are measured one after the other differ by what else the machine did meanwhile. Neighboring runs see nearly the same, so the
//! median of their ratios says more than the ratio of two medians, and its spread says how much.

use super::scenario::{self, Bench, FrameSize, Scale, Scenario};
use super::{Options, compact};
use crate::spread::Spread;
use millrace_dataplane::driver::looped::Time;
use serde::Serialize;

/// One scenario's runs.
#[derive(Serialize)]
struct Row {
    scenario: Scenario,
    frames: FrameSize,
    /// Nanoseconds a packet.
    ns: Spread,
    /// Of neighboring runs what this one took, as a multiple of what the first scenario took.
    ratio: Spread,
}

/// Measures `scenarios` with one worker each.
pub fn measure(options: &Options, scenarios: &[Scenario], cpus: &[usize]) -> Result<(), String> {
    let cpus = cpus.get(..1).ok_or("no CPU")?;
    let mut rows = Vec::new();
    for &frames in &options.frames {
        let mut benches = Vec::with_capacity(scenarios.len());
        for scenario in scenarios {
            let failed = |why: &dyn std::fmt::Display| format!("{}: {why}", scenario.name());
            let mut bench = scenario::build(*scenario, frames, &Scale::REAL, 1, Time::Real)
                .map_err(|why| failed(&why))?;
            bench.verify().map_err(|why| failed(&why))?;
            benches.push(bench);
        }
        let times = take(&mut benches, options, cpus)?;
        for (scenario, each) in scenarios.iter().zip(&times) {
            let ratios: Vec<f64> = each
                .iter()
                .zip(times.first().ok_or("no scenario")?)
                .map(|(it, first)| it / first)
                .collect();
            rows.push(Row {
                scenario: *scenario,
                frames,
                ns: Spread::of(each).ok_or("no runs")?,
                ratio: Spread::of(&ratios).ok_or("no runs")?,
            });
        }
    }
    if options.json {
        let text = serde_json::to_string_pretty(&rows).map_err(|error| error.to_string())?;
        println!("{text}");
        return Ok(());
    }
    println!("{} runs of each in turns, one worker: minimum, median, maximum", options.runs);
    println!("{:<21} {:<5}   {:^23}   of the first", "scenario", "frame", "ns/packet");
    for Row { scenario, frames, ns, ratio } in &rows {
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
    Ok(())
}

/// Nanoseconds a packet of each bench's runs, in turns; every other time round the other way, as what comes first may profit or suffer.
fn take(benches: &mut [Bench], options: &Options, cpus: &[usize]) -> Result<Vec<Vec<f64>>, String> {
    let mut times = vec![Vec::new(); benches.len()];
    for run in 0..=options.runs as usize {
        let mut order: Vec<usize> = (0..benches.len()).collect();
        if run % 2 == 1 {
            order.reverse();
        }
        for at in order {
            let took = benches[at].nanoseconds(options.packets, cpus)?;
            // The first warms up.
            if run > 0 {
                times[at].push(took);
            }
        }
    }
    Ok(times)
}
