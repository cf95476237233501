//! Whether B differs from A: figure by figure, and only where the two can be compared.
//!
//! Refused, naming the difference, are results of machines, links, modes or methods that are not alike, and figures that are not
//! the device's own limit. A figure differs if the Mann-Whitney test on the rounds says so (two-sided, 5 %) and the bootstrap interval
//! of the ratio of medians (95 %) leaves out 1; it is the same if that interval lies within the margin around 1; else nothing
//! is decided. Each round is one sample: trials within a round are not independent of each other.

use crate::fingerprint::{Difference, map_differences};
use crate::results::{Certificate, Figure, Unit};
use crate::statistics::{mann_whitney, median, ratio_interval, variation};
use clap::Args;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Chance of calling noise a difference.
const LEVEL: f64 = 0.05;

/// Arguments of `compare`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Result before (millrace-perf run --output)
    pub a: PathBuf,
    /// Result after
    pub b: PathBuf,
    /// Differences up to this are called none, in percent
    #[arg(long, default_value_t = 3.0, value_name = "PERCENT")]
    pub margin: f64,
    /// Compare even what can't be compared; the differences are shown all the same
    #[arg(long)]
    pub force: bool,
    /// Exit with an error if any figure is worse
    #[arg(long)]
    pub fail_on_worse: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Two results beside each other.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// Whether nothing stands against it.
    pub comparable: bool,
    /// In what machines and methods differ.
    pub differences: Vec<Difference>,
    /// What both have; none where they aren't comparable.
    pub figures: Vec<Compared>,
    /// Figures that only one has.
    pub unmatched: Vec<String>,
}

/// One figure in both.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Compared {
    /// The device.
    pub device: String,
    /// Bytes of a frame.
    pub frame: u32,
    /// Which figure.
    pub what: String,
    /// Values before.
    pub a: Vec<f64>,
    /// Values after.
    pub b: Vec<f64>,
    /// median(b) / median(a).
    pub ratio: Option<f64>,
    /// Its 95 % interval.
    pub interval: Option<(f64, f64)>,
    /// Of the Mann-Whitney test.
    pub p: Option<f64>,
    /// Standard deviation over mean, before and after.
    pub variation: (Option<f64>, Option<f64>),
    /// The answer.
    pub verdict: Verdict,
    /// Why it is that, where it is none.
    pub why: Option<String>,
    #[serde(skip)]
    pub(crate) unit: Option<Unit>,
}

/// What B is to A.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Better, beyond chance.
    Better,
    /// Worse, beyond chance.
    Worse,
    /// Within the margin, as far as can be told.
    Same,
    /// Too few rounds or too much noise.
    Inconclusive,
    /// Not figures of the device.
    Refused,
}

/// Compares. `margin` is a share.
pub fn compare(a: &Certificate, b: &Certificate, margin: f64, force: bool) -> Comparison {
    let differences = differences(a, b);
    let comparable = !differences.iter().any(|difference| difference.blocks);
    let (before, after) = (a.figures(), b.figures());
    let same =
        |x: &Figure, y: &Figure| (&x.device, x.frame, &x.what) == (&y.device, y.frame, &y.what);
    let missing = |here: &[Figure], there: &[Figure], which: &str| {
        here.iter()
            .filter(|x| !there.iter().any(|y| same(x, y)))
            .map(|x| format!("{} of {} at {} bytes: only in {which}", x.what, x.device, x.frame))
            .collect::<Vec<_>>()
    };
    let unmatched = [missing(&before, &after, "A"), missing(&after, &before, "B")].concat();
    let figures = before
        .iter()
        .filter(|_| comparable || force)
        .filter_map(|x| after.iter().find(|y| same(x, y)).map(|y| one(x, y, margin)))
        .collect();
    Comparison { comparable, differences, figures, unmatched }
}

/// In what machines, methods and the devices' links differ.
pub fn differences(a: &Certificate, b: &Certificate) -> Vec<Difference> {
    let mut found = a.fingerprint.differences(&b.fingerprint);
    found.extend(map_differences("method:", &a.method, &b.method, true));
    for device in &a.devices {
        let Some(other) = b.devices.iter().find(|other| other.name == device.name) else {
            continue;
        };
        let (x, y) = (&device.path, &other.path);
        for (what, a, b) in [
            ("kind", device.kind.clone(), other.kind.clone()),
            ("link", x.link.clone(), y.link.clone()),
            ("driver", x.drivers.clone(), y.drivers.clone()),
            ("mode", x.mode.clone(), y.mode.clone()),
            ("queues", x.queues.to_string(), y.queues.to_string()),
            ("MTU", x.mtu.to_string(), y.mtu.to_string()),
        ] {
            if a != b {
                found.push(Difference {
                    what: format!("{} of {}", what, device.name),
                    a,
                    b,
                    blocks: true,
                });
            }
        }
    }
    for (certificate, name) in [(a, "A"), (b, "B")] {
        if !certificate.complete {
            let text = |complete| if complete { "complete" } else { "cut short" }.to_owned();
            found.push(Difference {
                what: format!("{name} was cut short"),
                a: text(a.complete),
                b: text(b.complete),
                blocks: false,
            });
        }
    }
    found
}

fn one(a: &Figure, b: &Figure, margin: f64) -> Compared {
    let ratio = median(&a.values)
        .zip(median(&b.values))
        .filter(|(before, _)| *before > 0.0)
        .map(|(before, after)| after / before);
    let interval = ratio_interval(&a.values, &b.values);
    let p = mann_whitney(&a.values, &b.values);
    let (verdict, why) = judge(a, b, margin, ratio, interval, p);
    Compared {
        device: a.device.clone(),
        frame: a.frame,
        what: a.what.clone(),
        a: a.values.clone(),
        b: b.values.clone(),
        ratio,
        interval,
        p,
        variation: (variation(&a.values), variation(&b.values)),
        verdict,
        why,
        unit: Some(a.unit),
    }
}

fn judge(
    a: &Figure,
    b: &Figure,
    margin: f64,
    ratio: Option<f64>,
    interval: Option<(f64, f64)>,
    p: Option<f64>,
) -> (Verdict, Option<String>) {
    if a.not_the_devices || b.not_the_devices {
        let which = if a.not_the_devices { "A" } else { "B" };
        return (
            Verdict::Refused,
            Some(format!("{which} has values that are not the device's limit")),
        );
    }
    let enough = a.values.len() > 1 && b.values.len() > 1;
    if enough && median(&a.values) == Some(0.0) {
        return from_zero(a, b, p);
    }
    let (Some(ratio), Some((low, high)), Some(p)) = (ratio, interval, p) else {
        let why = match enough {
            true => "the first is 0 in some rounds: no interval of the ratio",
            false => "needs at least two rounds in each",
        };
        return (Verdict::Inconclusive, Some(why.into()));
    };
    if p < LEVEL && (low > 1.0 || high < 1.0) {
        let better = (ratio > 1.0) == a.more_is_better;
        // What is certain and small is still within what the user calls none.
        if (ratio - 1.0).abs() <= margin && low >= 1.0 - margin && high <= 1.0 + margin {
            return (Verdict::Same, Some("a difference beyond chance, within the margin".into()));
        }
        return (if better { Verdict::Better } else { Verdict::Worse }, None);
    }
    if low >= 1.0 - margin && high <= 1.0 + margin {
        return (Verdict::Same, None);
    }
    let why = match least_p(a.values.len(), b.values.len()) >= LEVEL {
        true => "too few rounds: 4 in each at least".to_owned(),
        false => format!("too much noise: the ratio is between {low:.3} and {high:.3}"),
    };
    (Verdict::Inconclusive, Some(why))
}

/// There is no ratio to zero, and no margin: only whether chance explains the change.
fn from_zero(a: &Figure, b: &Figure, p: Option<f64>) -> (Verdict, Option<String>) {
    if a.values.iter().chain(&b.values).all(|value| *value == 0.0) {
        return (Verdict::Same, None);
    }
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let more = mean(&b.values) > mean(&a.values);
    match p.is_some_and(|p| p < LEVEL) {
        true if more == a.more_is_better => (Verdict::Better, None),
        true => (Verdict::Worse, None),
        false => (Verdict::Inconclusive, Some("the first is 0: no ratio".into())),
    }
}

/// Of samples of which one lies wholly above the other: 2 / C(n + m, n).
fn least_p(n: usize, m: usize) -> f64 {
    let ways = (1..=n).fold(1.0, |ways, k| ways * (m + k) as f64 / k as f64);
    2.0 / ways
}

/// The command.
pub fn run(options: &Options) -> Result<ExitCode, String> {
    if !(0.0..100.0).contains(&options.margin) {
        return Err(format!("--margin {}: from 0 to below 100", options.margin));
    }
    let (a, b) = (read(&options.a)?, read(&options.b)?);
    let comparison = compare(&a, &b, options.margin / 100.0, options.force);
    match options.json {
        true => {
            println!("{}", serde_json::to_string_pretty(&comparison).map_err(|e| e.to_string())?)
        }
        false => print!("{}", comparison.table()),
    }
    if !comparison.comparable && !options.force {
        let reasons: Vec<String> =
            comparison.differences.iter().filter(|d| d.blocks).map(ToString::to_string).collect();
        return Err(format!(
            "not comparable (--force does it all the same): {}",
            reasons.join("; ")
        ));
    }
    let worse = comparison.figures.iter().filter(|f| f.verdict == Verdict::Worse).count();
    match options.fail_on_worse && worse > 0 {
        true => Err(format!("{worse} figures are worse")),
        false => Ok(ExitCode::SUCCESS),
    }
}

/// A result file.
pub fn read(path: &Path) -> Result<Certificate, String> {
    let text = crate::programs::text_of(path, 1 << 28)?;
    Certificate::parse(&text).map_err(|e| format!("{}: {e}", path.display()))
}

impl Comparison {
    fn table(&self) -> String {
        use std::fmt::Write;
        let mut text = String::new();
        for difference in &self.differences {
            let weight = if difference.blocks { "differs" } else { "differs (no matter)" };
            let _ = writeln!(text, "{weight}: {difference}");
        }
        for line in &self.unmatched {
            let _ = writeln!(text, "{line}");
        }
        for figure in &self.figures {
            let show = |value| figure.unit.unwrap_or(Unit::Rate).show(value);
            let value = |values: &[f64]| median(values).map_or("none".into(), show);
            let _ = write!(
                text,
                "{:<18} {:>5} B  {:<22} {:>11} {:>11}  ",
                figure.device,
                figure.frame,
                figure.what,
                value(&figure.a),
                value(&figure.b)
            );
            if let (Some(ratio), Some((low, high)), Some(p)) =
                (figure.ratio, figure.interval, figure.p)
            {
                let _ = write!(text, "{ratio:.3} ({low:.3} to {high:.3}, p {p:.3})  ");
            }
            let verdict = match figure.verdict {
                Verdict::Better => "better",
                Verdict::Worse => "WORSE",
                Verdict::Same => "same",
                Verdict::Inconclusive => "inconclusive",
                Verdict::Refused => "refused",
            };
            let why = figure.why.as_deref().map_or(String::new(), |why| format!(": {why}"));
            let _ = writeln!(text, "{verdict}{why}");
        }
        if !self.figures.is_empty() {
            let _ = writeln!(
                text,
                "B over A with its 95 % bootstrap interval; p of the Mann-Whitney test, two-sided; each round is a sample"
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use crate::results::tests::certificate;

    fn noisy(seed: u64, mean: f64, sigma: f64, rounds: usize) -> Certificate {
        let mut random = Random::new(seed);
        let values: Vec<f64> =
            (0..rounds).map(|_| mean * (1.0 + sigma * random.normal())).collect();
        certificate(&values)
    }

    fn verdict(a: &Certificate, b: &Certificate) -> Verdict {
        let comparison = compare(a, b, 0.03, false);
        assert!(comparison.comparable, "{:?}", comparison.differences);
        comparison.figures[0].verdict
    }

    #[test]
    fn a_change_of_a_tenth_is_seen_through_two_percent_of_noise() {
        for seed in 0..20 {
            let before = noisy(seed, 1e6, 0.02, 8);
            assert_eq!(verdict(&before, &noisy(seed + 100, 1.1e6, 0.02, 8)), Verdict::Better);
            assert_eq!(verdict(&before, &noisy(seed + 100, 0.9e6, 0.02, 8)), Verdict::Worse);
        }
    }

    #[test]
    fn a_change_from_zero_is_judged_without_a_ratio() {
        let judged = |a: &[f64], b: &[f64]| {
            let comparison = compare(&certificate(a), &certificate(b), 0.03, false);
            (comparison.figures[0].verdict, comparison.figures[0].why.clone().unwrap_or_default())
        };
        assert_eq!(judged(&[0.0; 5], &[0.0; 5]).0, Verdict::Same);
        assert_eq!(judged(&[0.0; 5], &[5.0, 6.0, 7.0, 8.0, 9.0]).0, Verdict::Better);
        assert_eq!(judged(&[5.0, 6.0, 7.0, 8.0, 9.0], &[0.0; 5]).0, Verdict::Worse);
        let (verdict, why) = judged(&[0.0, 0.0, 0.0], &[0.0, 0.0, 5.0]);
        assert_eq!(verdict, Verdict::Inconclusive);
        assert!(why.contains("the first is 0"), "{why}");
        assert!(judged(&[0.0], &[5.0]).1.contains("two rounds"));
    }

    #[test]
    fn no_change_is_seldom_called_one() {
        let mut called = 0;
        for seed in 0..30 {
            let verdict = verdict(&noisy(seed, 1e6, 0.02, 8), &noisy(seed + 1000, 1e6, 0.02, 8));
            called += usize::from(!matches!(verdict, Verdict::Same | Verdict::Inconclusive));
        }
        assert!(called <= 4, "{called} of 30");
    }

    #[test]
    fn too_few_rounds_and_too_much_noise_decide_nothing_and_say_so() {
        let few = compare(&noisy(1, 1e6, 0.01, 3), &noisy(2, 1.5e6, 0.01, 3), 0.03, false);
        assert_eq!(few.figures[0].verdict, Verdict::Inconclusive);
        assert!(few.figures[0].why.as_ref().unwrap().contains("too few rounds"));
        let one = compare(&noisy(1, 1e6, 0.01, 1), &noisy(2, 1e6, 0.01, 1), 0.03, false);
        assert!(one.figures[0].why.as_ref().unwrap().contains("two rounds"));
        let loud = compare(&noisy(1, 1e6, 0.3, 8), &noisy(21, 1e6, 0.3, 8), 0.03, false);
        assert_eq!(loud.figures[0].verdict, Verdict::Inconclusive);
        assert!(loud.figures[0].why.as_ref().unwrap().contains("too much noise"));
    }

    #[test]
    fn a_quiet_pair_is_the_same() {
        assert_eq!(verdict(&noisy(1, 1e6, 0.002, 8), &noisy(2, 1e6, 0.002, 8)), Verdict::Same);
    }

    #[test]
    fn unlike_machines_links_modes_and_methods_are_refused_by_name() {
        let a = noisy(1, 1e6, 0.01, 8);
        type Change = fn(&mut Certificate);
        let cases: [(&str, Change); 5] = [
            ("kernel", |c| c.fingerprint.kernel = "5.10".into()),
            ("governor", |c| c.fingerprint.cpu.governor = "powersave".into()),
            ("mode of bare", |c| c.devices[0].path.mode = "zero-copy".into()),
            ("link of bare", |c| c.devices[0].path.link = "nic".into()),
            ("method: trials", |c| drop(c.method.insert("trials".into(), "short".into()))),
        ];
        for (what, change) in cases {
            let mut b = noisy(2, 1.5e6, 0.01, 8);
            change(&mut b);
            let refused = compare(&a, &b, 0.03, false);
            assert!(!refused.comparable && refused.figures.is_empty());
            let named: Vec<&str> = refused.differences.iter().map(|d| d.what.as_str()).collect();
            assert_eq!(named, [what]);
            let forced = compare(&a, &b, 0.03, true);
            assert!(!forced.comparable);
            assert_eq!(forced.figures[0].verdict, Verdict::Better);
        }
    }

    #[test]
    fn the_generator_s_limit_is_not_compared() {
        let a = noisy(1, 1e6, 0.01, 8);
        let mut b = noisy(2, 1.5e6, 0.01, 8);
        b.devices[0].points[0].rounds[3].bounds[0].limit = crate::results::Limit::Generator;
        let comparison = compare(&a, &b, 0.03, false);
        assert_eq!(comparison.figures[0].verdict, Verdict::Refused);
        assert!(comparison.figures[0].why.as_ref().unwrap().starts_with('B'));
    }

    #[test]
    fn what_only_one_has_is_said() {
        let a = noisy(1, 1e6, 0.01, 8);
        let mut b = a.clone();
        b.devices[0].name = "other".into();
        let comparison = compare(&a, &b, 0.03, false);
        assert_eq!(comparison.unmatched.len(), 2);
        assert!(comparison.unmatched[0].contains("NDR of bare at 64 bytes: only in A"));
    }
}
