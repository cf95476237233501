//! A soak: a long trial in parts, so that what was counted is kept when one of them fails.

use super::{Run, repeated};
use crate::generator::Source;
use crate::search::Outcome;
use crate::soak::Interval;
use crate::units::show_rate;

impl Run<'_> {
    /// The outer error is that nothing was measured, the inner one that it ended before its time.
    pub(super) fn soak(
        &mut self,
        source: &Source<'_>,
        rate: f64,
        seconds: f64,
        target: f64,
        label: &str,
    ) -> Result<(crate::soak::Soak, Result<(), String>), String> {
        let progress = &mut *self.progress;
        let warnings = &mut self.warnings;
        let (intervals, done, ended) = in_parts(seconds, |part, so_far: &[Interval]| {
            let done: f64 = so_far.len() as f64 * PART;
            let lost: u64 = so_far.iter().map(|i| i.lost).sum();
            let left = seconds - done;
            progress.passing(&format!("{label}: soak, {left:.0} s left, {lost} lost"));
            let (trial, short) = repeated(|| source.trial(Some(rate), part));
            if short > 0 {
                warnings.push(format!(
                    "{label}: {short} parts of the soak thrown away after {done:.0} s, since the generator did not keep to {}",
                    show_rate(rate)
                ));
            }
            let kept = || format!("{label}: the generator can't keep to {}", show_rate(rate));
            trial?.ok_or_else(kept)
        });
        match ended {
            Err(why) if intervals.is_empty() => Err(why),
            ended => Ok((crate::soak::Soak::of(rate, done, &intervals, target), ended)),
        }
    }
}

/// Seconds of a part of a soak, so that Ctrl-C and a generator that falls short cost one of them only.
const PART: f64 = 10.0;

/// Trials of [`PART`] seconds until `seconds` are full, or one fails: what was counted until then, for how long, and why it ended.
fn in_parts(
    seconds: f64,
    mut trial: impl FnMut(f64, &[Interval]) -> Result<crate::generator::Trial, String>,
) -> (Vec<Interval>, f64, Result<(), String>) {
    let mut intervals = Vec::new();
    let mut done = 0.0;
    while seconds - done > 0.05 {
        let part = PART.min(seconds - done);
        match trial(part, &intervals) {
            Ok(trial) => {
                let Outcome { sent, received, .. } = trial.outcome;
                intervals.push(Interval { sent, lost: sent.saturating_sub(received) });
                done += part;
            }
            Err(why) => return (intervals, done, Err(why)),
        }
    }
    (intervals, done, Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generator::INTERRUPTED;
    use crate::run::tests::trial;

    #[test]
    fn what_a_soak_had_before_it_was_cut_short_is_kept() {
        let mut parts = Vec::new();
        let (intervals, done, ended) = in_parts(35.0, |part, so_far| {
            parts.push((part, so_far.len()));
            Ok(trial(false))
        });
        assert_eq!(parts, [(10.0, 0), (10.0, 1), (10.0, 2), (5.0, 3)]);
        assert_eq!((intervals.len(), done, ended), (4, 35.0, Ok(())));
        let (intervals, done, ended) = in_parts(35.0, |_, so_far| match so_far.len() {
            2 => Err(INTERRUPTED.into()),
            _ => Ok(trial(false)),
        });
        assert_eq!((intervals.len(), done, ended), (2, 20.0, Err(INTERRUPTED.into())));
        assert_eq!(intervals[1], Interval { sent: 10, lost: 0 });
    }
}
