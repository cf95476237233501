//! What trials at each load have shown, and what they say about a target: RFC 9971's load classification.

/// The counts of one trial.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// Seconds that traffic was sent.
    pub duration: f64,
    /// Packets that really left the generator.
    pub sent: u64,
    /// Those of them that arrived, each counted once.
    pub received: u64,
    /// Whether the generator sent noticeably less than it was asked to: such a trial says nothing about the load.
    pub limited: bool,
}

impl Outcome {
    /// The share of what was sent that did not arrive.
    pub fn loss_ratio(&self) -> f64 {
        match self.sent {
            // Nothing sent, nothing known: the worst.
            0 => 1.0,
            sent => sent.saturating_sub(self.received) as f64 / sent as f64,
        }
    }
}

/// What a load has to meet in one phase of the search.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Target {
    /// Trials that lose at most this share are low-loss trials.
    pub loss_ratio: f64,
    /// The share of trials, by time, that may lose more.
    pub exceed_ratio: f64,
    /// Seconds of a trial that counts in full.
    pub trial: f64,
    /// Seconds of such trials after which a load is decided in any case.
    pub sum: f64,
    /// How near the bounds have to come: (upper − lower) / upper.
    pub width: f64,
}

/// What is known of a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Meets the target, whatever further trials show.
    Lower,
    /// Fails it, whatever they show.
    Upper,
    /// More trials decide.
    Undecided,
}

/// Seconds of low-loss and high-loss trials.
#[derive(Clone, Copy, Debug, Default)]
struct Seconds {
    low: f64,
    high: f64,
}

impl Target {
    fn is_full(&self, trial: &Outcome) -> bool {
        // A trial of the length that was asked for, give or take what a clock does.
        trial.duration >= self.trial * 0.999
    }

    /// RFC 9971, appendix "Load Classification Code": short trials count only where they lost more than their share.
    pub fn classify(&self, trials: &[Outcome]) -> Class {
        let (mut full, mut short) = (Seconds::default(), Seconds::default());
        for trial in trials {
            let seconds = if self.is_full(trial) { &mut full } else { &mut short };
            match trial.loss_ratio() <= self.loss_ratio {
                true => seconds.low += trial.duration,
                false => seconds.high += trial.duration,
            }
        }
        let balancing = short.low * self.exceed_ratio / (1.0 - self.exceed_ratio);
        let effective_high = full.high + (short.high - balancing).max(0.0);
        let whole = (full.low + effective_high).max(self.sum);
        let quantile = whole * self.exceed_ratio;
        let pessimistic = whole - full.low <= quantile;
        let optimistic = effective_high <= quantile;
        match (pessimistic, optimistic) {
            (true, true) => Class::Lower,
            (false, false) => Class::Upper,
            _ => Class::Undecided,
        }
    }

    /// RFC 9971, appendix "Conditional Throughput Code": the load less the loss of the trial at the quantile that the exceed ratio
    /// names, trials not made counting as the worst.
    pub fn conditional_throughput(&self, load: f64, trials: &[Outcome]) -> f64 {
        let mut full: Vec<(f64, f64)> = trials
            .iter()
            .filter(|trial| self.is_full(trial))
            .map(|trial| (trial.loss_ratio(), trial.duration))
            .collect();
        full.sort_by(|a, b| a.0.total_cmp(&b.0));
        let made: f64 = full.iter().map(|(_, duration)| duration).sum();
        let mut remaining = made.max(self.sum) * (1.0 - self.exceed_ratio);
        let mut loss = None;
        for (ratio, duration) in full {
            if loss.is_some() && remaining <= 0.0 {
                break;
            }
            loss = Some(ratio);
            remaining -= duration;
        }
        if remaining > 0.0 {
            loss = Some(1.0);
        }
        load * (1.0 - loss.unwrap_or(1.0))
    }
}

/// All trials of a search, by load.
#[derive(Clone, Debug, Default)]
pub struct Trials {
    /// Ascending by load.
    loads: Vec<(f64, Vec<Outcome>)>,
}

impl Trials {
    /// Adds one.
    pub fn add(&mut self, load: f64, outcome: Outcome) {
        match self.loads.binary_search_by(|(at, _)| at.total_cmp(&load)) {
            Ok(found) => {
                if let Some((_, trials)) = self.loads.get_mut(found) {
                    trials.push(outcome);
                }
            }
            Err(place) => self.loads.insert(place, (load, vec![outcome])),
        }
    }

    /// Those made at a load.
    pub fn at(&self, load: f64) -> &[Outcome] {
        let found = self.loads.binary_search_by(|(at, _)| at.total_cmp(&load));
        found.ok().and_then(|index| self.loads.get(index)).map_or(&[], |(_, trials)| trials)
    }

    /// All, ascending by load.
    pub fn all(&self) -> &[(f64, Vec<Outcome>)] {
        &self.loads
    }

    /// The relevant bounds: the smallest load that fails, and the greatest below it that meets the target.
    pub fn bounds(&self, target: &Target) -> (Option<f64>, Option<f64>) {
        let class = |class| {
            move |(load, trials): &(f64, Vec<Outcome>)| {
                (target.classify(trials) == class).then_some(*load)
            }
        };
        let upper = self.loads.iter().find_map(class(Class::Upper));
        let below = |(load, _): &&(f64, Vec<Outcome>)| upper.is_none_or(|upper| *load < upper);
        let lower = self.loads.iter().rev().filter(below).find_map(class(Class::Lower));
        (lower, upper)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: Target =
        Target { loss_ratio: 0.0, exceed_ratio: 0.5, trial: 1.0, sum: 21.0, width: 0.005 };

    fn trial(duration: f64, lost: u64) -> Outcome {
        Outcome { duration, sent: 1000, received: 1000 - lost, limited: false }
    }

    #[test]
    fn a_load_is_decided_as_soon_as_no_further_trial_can_change_it() {
        assert_eq!(TARGET.classify(&[trial(1.0, 0); 10]), Class::Undecided);
        assert_eq!(TARGET.classify(&[trial(1.0, 0); 11]), Class::Lower);
        assert_eq!(TARGET.classify(&[trial(1.0, 1); 10]), Class::Undecided);
        assert_eq!(TARGET.classify(&[trial(1.0, 1); 11]), Class::Upper);
        let mut mixed = vec![trial(1.0, 1); 10];
        mixed.extend([trial(1.0, 0); 10]);
        assert_eq!(TARGET.classify(&mixed), Class::Undecided);
        assert_eq!(TARGET.classify(&[mixed.clone(), vec![trial(1.0, 0)]].concat()), Class::Lower);
        assert_eq!(TARGET.classify(&[mixed, vec![trial(1.0, 1)]].concat()), Class::Upper);
    }

    #[test]
    fn short_trials_count_only_by_their_excess_of_loss() {
        assert_eq!(TARGET.classify(&[trial(0.5, 0); 100]), Class::Undecided);
        assert_eq!(TARGET.classify(&[trial(0.5, 1); 21]), Class::Undecided);
        assert_eq!(TARGET.classify(&[trial(0.5, 1); 22]), Class::Upper);
        let balanced = [vec![trial(0.5, 1); 22], vec![trial(0.5, 0); 22]].concat();
        assert_eq!(TARGET.classify(&balanced), Class::Undecided);
    }

    #[test]
    fn conditional_throughput_is_of_the_trial_at_the_quantile() {
        let trials: Vec<_> = (0..21).map(|n| trial(1.0, n)).collect();
        // 10.5 s of the best trials: the eleventh.
        let expected = 100.0 * (1.0 - 10.0 / 1000.0);
        assert_eq!(TARGET.conditional_throughput(100.0, &trials), expected);
        assert_eq!(TARGET.conditional_throughput(100.0, &trials[..11]), expected);
        // Trials that were not made count as total loss.
        assert_eq!(TARGET.conditional_throughput(100.0, &trials[..10]), 0.0);
        assert_eq!(TARGET.conditional_throughput(100.0, &[]), 0.0);
    }

    #[test]
    fn a_good_load_above_a_bad_one_is_no_bound() {
        let mut trials = Trials::default();
        for _ in 0..11 {
            trials.add(10.0, trial(1.0, 0));
            trials.add(20.0, trial(1.0, 5));
            trials.add(30.0, trial(1.0, 0));
        }
        assert_eq!(trials.bounds(&TARGET), (Some(10.0), Some(20.0)));
        assert_eq!(trials.at(20.0).len(), 11);
        assert!(trials.at(21.0).is_empty());
    }

    #[test]
    fn nothing_sent_is_total_loss_and_duplicates_are_no_gain() {
        let outcome = Outcome { duration: 1.0, sent: 0, received: 0, limited: false };
        assert_eq!(outcome.loss_ratio(), 1.0);
        assert_eq!(Outcome { sent: 5, received: 7, ..outcome }.loss_ratio(), 0.0);
    }
}
