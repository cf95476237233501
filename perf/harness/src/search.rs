//! The search for the highest loads that meet loss goals: MLRsearch (RFC 9971), with the defaults of CSIT's.
//!
//! Decides: which load to try next, and what the trials say about each goal. Needs nothing but a [`Dut`]: no clock, no I/O, so it is
//! proven on simulated devices whose loss is known (`search/tests.rs`).
//!
//! A goal is approached in phases, from wide bounds and short sums of trials to the final ones. In each phase a load is tried until
//! it is decided; all trials of all goals are kept and judged anew by each target, so that NDR and PDR share them. The cost of
//! a decided load in the final phase is 11 to 21 trials with the default goals: with 50 % of the trials allowed to exceed, one
//! hiccup of the machine costs a trial and not the bound.

mod trials;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use trials::{Class, Outcome, Target, Trials};

/// What to find a load for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Goal {
    /// As in the report: "NDR", "PDR".
    pub name: String,
    /// Greatest share of packets that may be lost in a trial.
    pub loss_ratio: f64,
    /// Share of the trials, by time, that may lose more.
    pub exceed_ratio: f64,
    /// How near the bounds have to come, relative to the upper one.
    pub width: f64,
    /// Seconds of a trial in the first phase.
    pub initial_trial: f64,
    /// Seconds of a trial in the last phase.
    pub final_trial: f64,
    /// Seconds of trials at each bound in the last phase.
    pub duration_sum: f64,
}

impl Goal {
    /// No loss at all.
    pub fn ndr() -> Self {
        Self {
            name: "NDR".into(),
            loss_ratio: 0.0,
            exceed_ratio: 0.5,
            width: 0.005,
            initial_trial: 1.0,
            final_trial: 1.0,
            duration_sum: 21.0,
        }
    }

    /// Half a percent of loss.
    pub fn pdr() -> Self {
        Self { name: "PDR".into(), loss_ratio: 0.005, ..Self::ndr() }
    }

    /// Fails naming what makes no sense.
    pub fn check(&self) -> Result<(), String> {
        let share = |value: f64, what: &str| match (0.0..1.0).contains(&value) {
            true => Ok(()),
            false => Err(format!("goal {}: {what} {value} is no share below 1", self.name)),
        };
        share(self.loss_ratio, "loss ratio")?;
        share(self.exceed_ratio, "exceed ratio")?;
        share(self.width, "width")?;
        if self.width < 1e-6 {
            return Err(format!("goal {}: width {} is too narrow", self.name, self.width));
        }
        let in_order = self.initial_trial > 0.0
            && self.initial_trial <= self.final_trial
            && self.final_trial <= self.duration_sum
            && self.duration_sum.is_finite();
        if !in_order {
            return Err(format!(
                "goal {}: trials of {} s, then {} s, {} s in all: each must be at least the one before",
                self.name, self.initial_trial, self.final_trial, self.duration_sum
            ));
        }
        Ok(())
    }

    /// The last phase's target.
    pub fn target(&self) -> Target {
        self.phase(PHASES - 1)
    }

    /// Each phase has half the width of the one before; seconds go from the initial trial to the sum in equal ratios.
    fn phase(&self, phase: u32) -> Target {
        let along = f64::from(phase) / f64::from(PHASES - 1);
        let between = |first: f64, last: f64| first * (last / first).powf(along);
        Target {
            loss_ratio: self.loss_ratio,
            exceed_ratio: self.exceed_ratio,
            trial: between(self.initial_trial, self.final_trial),
            sum: between(self.initial_trial, self.duration_sum),
            width: (self.width * f64::from(1 << (PHASES - 1 - phase))).min(0.5),
        }
    }
}

/// Phases of each goal.
const PHASES: u32 = 3;

/// Where the search may go.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// No load below this is tried.
    pub min: f64,
    /// No load above it: what the generator or the line can.
    pub max: f64,
    /// Seconds of trials in all; then the bounds are what they are.
    pub seconds: f64,
    /// Where to begin, if something is known: what the device forwards under overload. Right or wrong, it changes only how many
    /// trials it takes.
    pub start: Option<f64>,
}

/// A lower and an upper bound, as far as they are known.
type Pair = (Option<f64>, Option<f64>);

/// What is searched.
pub trait Dut {
    /// Why a trial could not be made.
    type Error;

    /// Offers `load` packets a second for `duration` seconds.
    fn trial(&mut self, load: f64, duration: f64) -> Result<Outcome, Self::Error>;
}

/// Why a goal has no pair of bounds of the width.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum Irregular {
    /// The highest load that could be tried meets the goal: the device's limit is above it.
    MaximumMeets,
    /// The generator could not send more than this: the device's limit is above it.
    GeneratorLimit,
    /// The lowest load fails.
    MinimumFails,
    /// Time ran out first.
    OutOfTime,
}

/// The answer for a goal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Bounds {
    /// What for.
    pub goal: Goal,
    /// The greatest load, below all that fail, that meets the goal.
    pub lower: Option<f64>,
    /// The smallest that fails it.
    pub upper: Option<f64>,
    /// Forwarding rate at the lower bound, at the goal's quantile of trials (RFC 9971).
    pub conditional_throughput: Option<f64>,
    /// (upper − lower) / upper.
    pub width: Option<f64>,
    /// Unset where both bounds are there, as near as the goal asks.
    pub irregular: Option<Irregular>,
}

/// What a search found.
#[derive(Clone, Debug)]
pub struct Found {
    /// By goal, in the order asked.
    pub bounds: Vec<Bounds>,
    /// Everything that was tried.
    pub trials: Trials,
    /// Seconds of trials.
    pub seconds: f64,
    /// Trials thrown away, since the generator did not keep to the load.
    pub limited: usize,
}

/// Why a search ended without an answer.
#[derive(Debug, PartialEq)]
pub enum Error<E> {
    /// A trial could not be made.
    Trial(E),
    /// Goals or limits that make no sense.
    Invalid(String),
}

/// Searches for all goals. `progress` hears of each trial: the goal's name, the load and its outcome.
pub fn search<D: Dut>(
    dut: &mut D,
    goals: &[Goal],
    limits: Limits,
    mut progress: impl FnMut(&str, f64, &Outcome),
) -> Result<Found, Error<D::Error>> {
    goals.iter().try_for_each(Goal::check).map_err(Error::Invalid)?;
    if !(limits.min > 0.0 && limits.min < limits.max && limits.max.is_finite()) {
        return Err(Error::Invalid(format!(
            "loads from {} to {}: the first must be above 0 and below the second",
            limits.min, limits.max
        )));
    }
    let mut search = Search {
        dut,
        progress: &mut progress,
        trials: Trials::default(),
        limits,
        generator: false,
        seconds: 0.0,
        limited: 0,
    };
    let mut hints = vec![(None, None); goals.len()];
    if let Some(goal) = goals.first() {
        let start = search.start(goal)?;
        hints.fill((Some(start), None));
    }
    for phase in 0..PHASES {
        for (goal, hint) in goals.iter().zip(&mut hints) {
            *hint = search.approach(&goal.name, &goal.phase(phase), *hint)?;
        }
    }
    let bounds = goals.iter().map(|goal| search.bounds(goal)).collect();
    Ok(Found { bounds, trials: search.trials, seconds: search.seconds, limited: search.limited })
}

struct Search<'a, D, P> {
    dut: &'a mut D,
    progress: &'a mut P,
    trials: Trials,
    limits: Limits,
    /// Whether the highest load is what the generator could at most.
    generator: bool,
    seconds: f64,
    limited: usize,
}

/// Trials in a row that the generator may fail at before the highest load is lowered.
const LIMITED_IN_A_ROW: usize = 5;

impl<D: Dut, P: FnMut(&str, f64, &Outcome)> Search<'_, D, P> {
    fn is_out_of_time(&self) -> bool {
        self.seconds >= self.limits.seconds
    }

    /// One trial that says something about its load; None if the generator can't send that much, or time is out.
    fn trial(
        &mut self,
        name: &str,
        load: f64,
        duration: f64,
    ) -> Result<Option<Outcome>, Error<D::Error>> {
        let mut most: f64 = 0.0;
        for _ in 0..LIMITED_IN_A_ROW {
            if self.is_out_of_time() {
                return Ok(None);
            }
            let outcome = self.dut.trial(load, duration).map_err(Error::Trial)?;
            self.seconds += duration;
            (self.progress)(name, load, &outcome);
            if !outcome.limited {
                self.trials.add(load, outcome);
                return Ok(Some(outcome));
            }
            self.limited += 1;
            most = most.max(outcome.sent as f64 / outcome.duration.max(1e-9));
        }
        // A step down in any case, so that this ends.
        self.limits.max = most.min(load * 0.99).max(self.limits.min);
        self.generator = true;
        Ok(None)
    }

    /// Where to begin: what the device forwards when offered the most, and when offered that.
    fn start(&mut self, goal: &Goal) -> Result<f64, Error<D::Error>> {
        let mut load = self.limits.max;
        if let Some(start) = self.limits.start.filter(|start| start.is_finite()) {
            return Ok(start.clamp(self.limits.min, self.limits.max));
        }
        for _ in 0..2 {
            let Some(outcome) = self.trial(&goal.name, load, goal.initial_trial)? else {
                load = self.limits.max;
                continue;
            };
            let forwarded = load * (1.0 - outcome.loss_ratio());
            load = forwarded.clamp(self.limits.min, self.limits.max);
        }
        Ok(load)
    }

    /// Tries loads until the bounds for this target are near enough. `hint`: where they were in the phase before. Returns
    /// where they are now.
    fn approach(
        &mut self,
        name: &str,
        target: &Target,
        hint: Pair,
    ) -> Result<Pair, Error<D::Error>> {
        // How far to go beyond a bound that has none on the other side.
        let mut stride = target.width;
        loop {
            let (lower, upper) = self.trials.bounds(target);
            if self.generator && self.limits.max <= self.limits.min {
                return Ok((lower, upper));
            }
            let upper = upper.filter(|upper| *upper <= self.limits.max);
            let next = match (lower, upper) {
                (Some(lower), Some(upper)) if (upper - lower) / upper <= target.width => None,
                (Some(lower), Some(upper)) => Some((lower * upper).sqrt()),
                (Some(lower), None) if lower >= self.limits.max => None,
                (Some(lower), None) => {
                    let known = hint.1.filter(|hint| *hint > lower);
                    Some(known.map_or_else(
                        || {
                            stride *= 2.0;
                            lower * (1.0 + stride)
                        },
                        |hint| toward(lower, hint, target.width),
                    ))
                }
                (None, Some(upper)) if upper <= self.limits.min => None,
                (None, Some(upper)) => {
                    let known = hint.0.filter(|hint| *hint < upper);
                    Some(known.map_or_else(
                        || {
                            stride *= 2.0;
                            upper * (1.0 - stride).max(0.1)
                        },
                        |hint| toward(upper, hint, target.width),
                    ))
                }
                (None, None) => match hint {
                    (Some(lower), Some(upper)) => Some((lower * upper).sqrt()),
                    (Some(one), None) | (None, Some(one)) => Some(one),
                    (None, None) => Some(self.limits.max),
                },
            };
            let Some(next) = next else { return Ok((lower, upper)) };
            let next = next.clamp(self.limits.min, self.limits.max);
            if !self.decide(name, target, next)? && self.is_out_of_time() {
                return Ok(self.trials.bounds(target));
            }
        }
    }

    /// Tries a load until it is decided. False if it can't be.
    fn decide(&mut self, name: &str, target: &Target, load: f64) -> Result<bool, Error<D::Error>> {
        while target.classify(self.trials.at(load)) == Class::Undecided {
            if self.trial(name, load, target.trial)?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn bounds(&self, goal: &Goal) -> Bounds {
        let target = goal.target();
        let (lower, upper) = self.trials.bounds(&target);
        let width = lower.zip(upper).map(|(lower, upper)| (upper - lower) / upper);
        let near = width.is_some_and(|width| width <= goal.width * (1.0 + 1e-9));
        let irregular = if near {
            None
        } else if self.generator && self.limits.max <= self.limits.min {
            Some(Irregular::GeneratorLimit)
        } else if lower.is_some_and(|lower| lower >= self.limits.max) {
            Some(match self.generator {
                true => Irregular::GeneratorLimit,
                false => Irregular::MaximumMeets,
            })
        } else if upper.is_some_and(|upper| upper <= self.limits.min) {
            Some(Irregular::MinimumFails)
        } else {
            Some(Irregular::OutOfTime)
        };
        let conditional = |lower| target.conditional_throughput(lower, self.trials.at(lower));
        Bounds {
            goal: goal.clone(),
            lower,
            upper,
            conditional_throughput: lower.map(conditional),
            width,
            irregular,
        }
    }
}

/// From a bound to where the other one was: at once if that is near enough, else half the way.
fn toward(from: f64, hint: f64, width: f64) -> f64 {
    match (from - hint).abs() / from.max(hint) <= width {
        true => hint,
        false => (from * hint).sqrt(),
    }
}
