//! Whether times say anything, and the gate on them: relative to `l2` of the same process, and only where both are steady.
//!
//! A machine that others use makes the same work take 10 % more in one run than in the next; a gate on such times fails by chance, so the
//! gate of CI is the one on instructions (`budget.rs`). Where runs vary by less than [`STEADY`], the ratio to `l2`, which
//! carries the same frames on the same rings without an engine, can be held against that of an earlier run.

use super::Row;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Variation (deviation over mean) of runs from which on they are inconclusive.
pub const STEADY: f64 = 0.03;
/// The scenario that all are taken relative to.
pub const BASE: &str = "l2";

/// Whether runs of this variation say something.
pub fn is_steady(cv: Option<f64>) -> bool {
    cv.is_some_and(|cv| cv < STEADY)
}

/// What is needed of an earlier report, and of this one.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Known {
    scenario: String,
    frames: String,
    workers: usize,
    ns: Middle,
    #[serde(default)]
    cv: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
struct Middle {
    median: f64,
}

#[derive(Debug, Deserialize)]
struct File {
    cpu: String,
    results: Vec<Known>,
}

/// What became of a scenario's time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Within what is allowed.
    Held,
    /// It takes more.
    Rose,
    /// One of the four series of runs is not steady, or missing.
    Inconclusive,
}

/// One line of the gate.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    /// `route4, 64, 1 worker`.
    pub what: String,
    /// Its time as a multiple of `l2`'s, before and now.
    pub ratios: Option<(f64, f64)>,
    /// The answer.
    pub verdict: Verdict,
}

impl Known {
    /// Of a row.
    pub fn of(row: &Row) -> Self {
        Self {
            scenario: row.scenario.name(),
            frames: row.frames.name().to_owned(),
            workers: row.workers,
            ns: Middle { median: row.figures.ns.median },
            cv: row.figures.cv,
        }
    }

    fn is_like(&self, other: &Known, scenario: &str) -> bool {
        self.scenario == scenario && self.frames == other.frames && self.workers == other.workers
    }
}

/// The ratio of `row` to `l2` among its `all`, if both are steady.
fn relative(row: &Known, all: &[Known]) -> Option<f64> {
    let base = all.iter().find(|other| other.is_like(row, BASE))?;
    let steady = is_steady(row.cv) && is_steady(base.cv) && base.ns.median > 0.0;
    steady.then(|| row.ns.median / base.ns.median)
}

/// Each of `now` beside the same of `before`.
pub fn compare(before: &[Known], now: &[Known], allowed: f64) -> Vec<Line> {
    let rows = now.iter().filter(|row| row.scenario != BASE);
    let lines = rows.map(|row| {
        let earlier = before.iter().find(|other| other.is_like(row, &row.scenario));
        let ratios = earlier.and_then(|earlier| relative(earlier, before)).zip(relative(row, now));
        let verdict = match ratios {
            None => Verdict::Inconclusive,
            Some((before, now)) if now > before * (1.0 + allowed) => Verdict::Rose,
            Some(_) => Verdict::Held,
        };
        let workers = if row.workers == 1 { "worker" } else { "workers" };
        let what = format!("{}, {}, {} {workers}", row.scenario, row.frames, row.workers);
        Line { what, ratios, verdict }
    });
    lines.collect()
}

/// The gate: prints each line, and fails where a conclusive ratio rose by more than `allowed` (a share).
pub fn gate(path: &Path, cpu: &str, rows: &[Row], allowed: f64) -> Result<(), String> {
    let text = std::fs::read_to_string(path).map_err(|why| format!("{}: {why}", path.display()))?;
    let file: File = serde_json::from_str(&text)
        .map_err(|why| format!("{}: {why} (core --json writes one)", path.display()))?;
    if file.cpu != cpu {
        return Err(format!(
            "{}: it is of {}, this is {cpu}: times of unlike machines are not compared",
            path.display(),
            file.cpu
        ));
    }
    let now: Vec<Known> = rows.iter().map(Known::of).collect();
    let lines = compare(&file.results, &now, allowed);
    for line in &lines {
        let ratios = line.ratios.map_or("–".to_owned(), |(before, now)| {
            format!(
                "{before:.2} of {BASE} before, {now:.2} now ({:+.1} %)",
                (now / before - 1.0) * 100.0
            )
        });
        let verdict = match line.verdict {
            Verdict::Held => "held",
            Verdict::Rose => "ROSE",
            Verdict::Inconclusive => "inconclusive",
        };
        eprintln!("{:<40} {ratios:<45} {verdict}", line.what);
    }
    let rose: Vec<&str> = lines
        .iter()
        .filter(|line| line.verdict == Verdict::Rose)
        .map(|line| line.what.as_str())
        .collect();
    match rose.is_empty() {
        true => Ok(()),
        false => Err(format!(
            "more than {:.0} % over {}: {}",
            allowed * 100.0,
            path.display(),
            rose.join("; ")
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(scenario: &str, ns: f64, cv: f64) -> Known {
        let (scenario, frames) = (scenario.to_owned(), "64".to_owned());
        Known { scenario, frames, workers: 1, ns: Middle { median: ns }, cv: Some(cv) }
    }

    fn verdict(before: [(f64, f64); 2], now: [(f64, f64); 2]) -> Verdict {
        let rows = |[base, row]: [(f64, f64); 2]| {
            [known(BASE, base.0, base.1), known("route4", row.0, row.1)]
        };
        let lines = compare(&rows(before), &rows(now), 0.2);
        assert_eq!(lines.len(), 1);
        lines[0].verdict
    }

    #[test]
    fn a_slower_machine_is_no_rise_and_a_slower_engine_is() {
        let before = [(10.0, 0.01), (40.0, 0.01)];
        assert_eq!(verdict(before, [(15.0, 0.01), (60.0, 0.01)]), Verdict::Held);
        assert_eq!(verdict(before, [(10.0, 0.01), (47.0, 0.01)]), Verdict::Held);
        assert_eq!(verdict(before, [(10.0, 0.01), (49.0, 0.01)]), Verdict::Rose);
    }

    #[test]
    fn runs_that_vary_decide_nothing_wherever_they_are() {
        let (steady, loud) = ([(10.0, 0.01), (40.0, 0.01)], 0.03);
        let rose = [(10.0, 0.01), (80.0, 0.01)];
        assert_eq!(verdict(steady, rose), Verdict::Rose);
        assert_eq!(verdict(steady, [(10.0, loud), rose[1]]), Verdict::Inconclusive);
        assert_eq!(verdict(steady, [rose[0], (80.0, loud)]), Verdict::Inconclusive);
        assert_eq!(verdict([(10.0, loud), steady[1]], rose), Verdict::Inconclusive);
        let missing = compare(&[known(BASE, 10.0, 0.0)], &[known("route4", 80.0, 0.0)], 0.2);
        assert_eq!(missing[0].verdict, Verdict::Inconclusive);
    }

    #[test]
    fn an_earlier_report_without_variations_is_read_and_decides_nothing() {
        let text = r#"{"cpu": "c", "kernel": "k", "results": [{"scenario": "l2", "frames": "64", "workers": 1,
            "runs": 11, "packets": 1, "ns": {"min": 1, "median": 10.5, "max": 12}}]}"#;
        let file: File = serde_json::from_str(text).unwrap();
        assert_eq!((file.results[0].ns.median, file.results[0].cv), (10.5, None));
        assert!(!is_steady(file.results[0].cv));
    }
}
