//! Whether times say anything, and the gate on them: relative to `l2` of the same process, and only where both are steady.
//!
//! A machine that others use makes the same work take 10 % more in one run than in the next; a gate on such times fails by chance, so the
//! gate of CI is the one on instructions (`budget.rs`). Where runs vary by less than [`STEADY`], the ratio to `l2`, which
//! carries the same frames on the same rings without an engine, can be held against that of an earlier run.

use super::Row;
use millrace_harness::fingerprint::Fingerprint;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

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

/// An earlier report.
#[derive(Clone, Debug, Deserialize)]
pub struct Earlier {
    cpu: String,
    kernel: String,
    /// Reports of old have none.
    #[serde(default)]
    fingerprint: Option<Fingerprint>,
    results: Vec<Known>,
    #[serde(skip)]
    path: PathBuf,
}

/// What became of a scenario's time.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Within what is allowed.
    Held,
    /// It takes more.
    Rose,
    /// It takes less, by more than what is allowed: who blesses a new file gains.
    Fell,
    /// For this reason nothing is known.
    Inconclusive(String),
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
fn relative(row: &Known, all: &[Known], when: &str) -> Result<f64, String> {
    let base = all.iter().find(|other| other.is_like(row, BASE));
    let base = base.ok_or_else(|| format!("{BASE} was not measured {when}"))?;
    for it in [row, base] {
        if !(it.ns.median > 0.0 && it.ns.median.is_finite()) {
            return Err(format!("{} {when} took {} ns", it.scenario, it.ns.median));
        }
        let cv =
            it.cv.ok_or_else(|| format!("{when} nobody knew how much {} varied", it.scenario))?;
        if !is_steady(Some(cv)) {
            return Err(format!("{} varied by {:.1} % {when}", it.scenario, cv * 100.0));
        }
    }
    Ok(row.ns.median / base.ns.median)
}

/// Each of `now` beside the same of `before`.
pub fn compare(before: &[Known], now: &[Known], allowed: f64) -> Vec<Line> {
    let rows = now.iter().filter(|row| row.scenario != BASE);
    let lines = rows.map(|row| {
        let earlier = before.iter().find(|other| other.is_like(row, &row.scenario));
        let ratios = earlier
            .ok_or_else(|| "it was not measured then".to_owned())
            .and_then(|earlier| relative(earlier, before, "then"))
            .and_then(|before| Ok((before, relative(row, now, "now")?)));
        let verdict = match &ratios {
            Err(why) => Verdict::Inconclusive(why.clone()),
            Ok((before, now)) if *now > before * (1.0 + allowed) => Verdict::Rose,
            Ok((before, now)) if *now * (1.0 + allowed) < *before => Verdict::Fell,
            Ok(_) => Verdict::Held,
        };
        let workers = if row.workers == 1 { "worker" } else { "workers" };
        let what = format!("{}, {}, {} {workers}", row.scenario, row.frames, row.workers);
        Line { what, ratios: ratios.ok(), verdict }
    });
    lines.collect()
}

/// A share from percent, as an argument: nothing that every rise would be within.
pub fn percent(text: &str) -> Result<f64, String> {
    let percent: f64 = text.parse().map_err(|_| format!("{text}: no number"))?;
    match (0.0..=1000.0).contains(&percent) {
        true => Ok(percent),
        false => Err(format!("{text}: from 0 to 1000 percent")),
    }
}

impl Earlier {
    /// Of a file, if it is of this machine: times of unlike ones are not compared.
    pub fn read(path: &Path, fingerprint: &Fingerprint) -> Result<Self, String> {
        let failed = |why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
        let text = std::fs::read_to_string(path).map_err(|why| failed(&why))?;
        let earlier: Self = serde_json::from_str(&text)
            .map_err(|why| failed(&format!("{why} (core --json writes one)")))?;
        let unlike = earlier.unlike(fingerprint);
        match unlike.is_empty() {
            true => Ok(Self { path: path.to_owned(), ..earlier }),
            false => Err(failed(&format!(
                "it is of another machine, or of this one in another state, and times of such are not compared: {}",
                unlike.join("; ")
            ))),
        }
    }

    fn unlike(&self, now: &Fingerprint) -> Vec<String> {
        match &self.fingerprint {
            Some(before) => {
                let found = before.differences(now).into_iter().filter(|it| it.blocks);
                found.map(|it| format!("{}: {}, now {}", it.what, it.a, it.b)).collect()
            }
            None => {
                // Which is all that such a report says of it.
                let kernel = now.kernel.split(' ').next().unwrap_or_default();
                let pairs = [
                    ("CPU", self.cpu.as_str(), now.cpu.model.as_str()),
                    ("kernel", self.kernel.as_str(), kernel),
                ];
                let unlike = pairs.iter().filter(|(_, before, now)| before != now);
                unlike.map(|(what, before, now)| format!("{what}: {before}, now {now}")).collect()
            }
        }
    }

    /// The gate: prints each line, and fails where a conclusive ratio rose by more than `allowed` (a share).
    pub fn gate(&self, rows: &[Row], allowed: f64) -> Result<(), String> {
        let now: Vec<Known> = rows.iter().map(Known::of).collect();
        self.judge(&compare(&self.results, &now, allowed), allowed)
    }

    fn judge(&self, lines: &[Line], allowed: f64) -> Result<(), String> {
        for line in lines {
            let ratios = line.ratios.map_or_else(String::new, |(before, now)| {
                let rise = (now / before - 1.0) * 100.0;
                format!("{before:.2} of {BASE} then, {now:.2} now ({rise:+.1} %)")
            });
            let verdict = match &line.verdict {
                Verdict::Held => "no difference",
                Verdict::Rose => "SLOWER",
                Verdict::Fell => "faster",
                Verdict::Inconclusive(why) => &format!("inconclusive: {why}"),
            };
            eprintln!("{:<38} {ratios:<45} {verdict}", line.what);
        }
        let path = self.path.display();
        let decided = lines.iter().filter(|line| line.ratios.is_some()).count();
        let allowed = allowed * 100.0;
        eprintln!(
            "{decided} of {} were decided, against {path}: slower is what takes {allowed:.0} % more",
            lines.len()
        );
        let rose = lines.iter().filter(|line| line.verdict == Verdict::Rose);
        let rose: Vec<&str> = rose.map(|line| line.what.as_str()).collect();
        match rose.is_empty() {
            true => Ok(()),
            false => Err(format!(
                "slower by more than {allowed:.0} % than in {path}: {}",
                rose.join("; ")
            )),
        }
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
        lines[0].verdict.clone()
    }

    fn is_inconclusive(verdict: &Verdict, word: &str) -> bool {
        matches!(verdict, Verdict::Inconclusive(why) if why.contains(word))
    }

    #[test]
    fn a_slower_machine_is_no_rise_and_a_slower_engine_is() {
        let before = [(10.0, 0.01), (40.0, 0.01)];
        assert_eq!(verdict(before, [(15.0, 0.01), (60.0, 0.01)]), Verdict::Held);
        assert_eq!(verdict(before, [(10.0, 0.01), (47.0, 0.01)]), Verdict::Held);
        assert_eq!(verdict(before, [(10.0, 0.01), (49.0, 0.01)]), Verdict::Rose);
        assert_eq!(verdict(before, [(10.0, 0.01), (32.0, 0.01)]), Verdict::Fell);
    }

    #[test]
    fn runs_that_vary_decide_nothing_wherever_they_are() {
        let (steady, loud) = ([(10.0, 0.01), (40.0, 0.01)], 0.03);
        let rose = [(10.0, 0.01), (80.0, 0.01)];
        assert_eq!(verdict(steady, rose), Verdict::Rose);
        for (before, now, why) in [
            (steady, [(10.0, loud), rose[1]], "l2 varied by 3.0 % now"),
            (steady, [rose[0], (80.0, loud)], "route4 varied by 3.0 % now"),
            ([(10.0, loud), steady[1]], rose, "l2 varied by 3.0 % then"),
            (steady, [(f64::NAN, 0.01), rose[1]], "NaN ns"),
            ([steady[0], (0.0, 0.01)], rose, "route4 then took 0 ns"),
        ] {
            let verdict = verdict(before, now);
            assert!(is_inconclusive(&verdict, why), "{verdict:?}");
        }
        let missing = compare(&[known(BASE, 10.0, 0.0)], &[known("route4", 80.0, 0.0)], 0.2);
        assert!(is_inconclusive(&missing[0].verdict, "not measured then"));
        let alone = compare(&[known("route4", 8.0, 0.0)], &[known("route4", 8.0, 0.0)], 0.2);
        assert!(is_inconclusive(&alone[0].verdict, "l2 was not measured then"));
    }

    fn recorded(name: &str) -> Earlier {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
        let text = std::fs::read_to_string(&path).unwrap();
        let like = serde_json::from_str::<Earlier>(&text).unwrap().fingerprint.unwrap();
        Earlier::read(&path, &like).unwrap()
    }

    /// Two real runs of one build on one machine, and the first with a route that takes half as long again.
    #[test]
    fn what_was_recorded_is_no_different_from_itself_and_a_slower_build_is_slower() {
        let (first, again) = (recorded("core-1.json"), recorded("core-2.json"));
        let mut slow = first.clone();
        slow.results
            .iter_mut()
            .filter(|row| row.scenario != BASE)
            .for_each(|row| row.ns.median *= 1.5);
        let verdicts = |before: &Earlier, now: &Earlier| -> Vec<Verdict> {
            compare(&before.results, &now.results, 0.2)
                .into_iter()
                .map(|line| line.verdict)
                .collect()
        };
        assert_eq!(verdicts(&first, &first), [Verdict::Held]);
        assert_eq!(verdicts(&first, &again), [Verdict::Held]);
        assert_eq!(verdicts(&slow, &first), [Verdict::Fell]);
        let lines = compare(&first.results, &slow.results, 0.2);
        assert!(lines.iter().any(|line| line.verdict == Verdict::Rose), "{lines:?}");
        let error = first.judge(&lines, 0.2).unwrap_err();
        assert!(error.contains("route4, 64, 1 worker") && error.contains("core-1.json"), "{error}");
        assert_eq!(first.judge(&compare(&first.results, &again.results, 0.2), 0.2), Ok(()));
    }

    #[test]
    fn times_of_another_machine_or_in_another_state_are_refused_by_name() {
        let mut other = Fingerprint::read();
        let (cpu, kernel) = (other.cpu.model.clone(), other.kernel.clone());
        let (results, path) = (Vec::new(), PathBuf::new());
        let earlier = Earlier { cpu, kernel, fingerprint: Some(other.clone()), results, path };
        assert!(earlier.unlike(&other).is_empty());
        other.kernel = "5.10".into();
        other.cpu.governor = "powersave".into();
        let unlike = earlier.unlike(&other).join("; ");
        assert!(unlike.contains("kernel") && unlike.contains("powersave"), "{unlike}");
        // A report of old says two things of its machine.
        let short = earlier.kernel.split(' ').next().unwrap().to_owned();
        let old = Earlier { fingerprint: None, kernel: short, ..earlier };
        assert!(old.unlike(&Fingerprint::read()).is_empty());
        assert!(old.unlike(&other)[0].contains("5.10"));
        let text = r#"{"cpu": "c", "kernel": "k", "results": [{"scenario": "l2", "frames": "64", "workers": 1,
            "runs": 11, "packets": 1, "ns": {"min": 1, "median": 10.5, "max": 12}}]}"#;
        let file: Earlier = serde_json::from_str(text).unwrap();
        assert_eq!((file.results[0].ns.median, file.results[0].cv), (10.5, None));
        assert!(!is_steady(file.results[0].cv));
        for nonsense in ["", "[]", "{}", "{\"results\": 3}"] {
            let folder = crate::folder::Folder::create("against").unwrap();
            let path = folder.path().join("r.json");
            std::fs::write(&path, nonsense).unwrap();
            let error = Earlier::read(&path, &Fingerprint::default()).unwrap_err();
            assert!(error.contains("r.json") && error.contains("core --json"), "{error}");
        }
    }

    #[test]
    fn what_would_allow_everything_is_no_percentage() {
        assert_eq!(percent("20"), Ok(20.0));
        for text in ["NaN", "inf", "-1", "much", "1001"] {
            assert!(percent(text).unwrap_err().contains(text));
        }
    }
}
