//! The figures of a result: what is shown, compared and plotted, value by value and round by round.

use super::{Certificate, Limit, MARGIN, Round};
use crate::units::{show_per_second, show_rate, show_time};

/// A figure of a device at a frame size, round by round.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// The device's name.
    pub device: String,
    /// Bytes of a frame.
    pub frame: u32,
    /// What it is: `NDR`, `MRR`, `p99 at 50 % of PDR`.
    pub what: String,
    /// Whether more is better.
    pub more_is_better: bool,
    /// Packets a second, or nanoseconds.
    pub unit: Unit,
    /// One value a round that has one.
    pub values: Vec<f64>,
    /// The round of each, from 0.
    pub rounds: Vec<usize>,
    /// Whether any of them is not the device's.
    pub not_the_devices: bool,
}

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Packets a second.
    Rate,
    /// Connections a second.
    Connections,
    /// Nanoseconds.
    Time,
}

impl Unit {
    /// A value for people.
    pub fn show(self, value: f64) -> String {
        match self {
            Self::Rate => show_rate(value),
            Self::Connections => show_per_second(value),
            Self::Time => show_time(value),
        }
    }
}

impl Certificate {
    /// All figures that can be compared.
    pub fn figures(&self) -> Vec<Figure> {
        let mut figures: Vec<Figure> = Vec::new();
        for device in &self.devices {
            for point in &device.points {
                let mut add =
                    |number: usize, what: String, unit: Unit, value: f64, foreign: bool| {
                        let known = figures.iter_mut().find(|figure| {
                            figure.device == device.name
                                && figure.frame == point.frame
                                && figure.what == what
                        });
                        match known {
                            Some(figure) => {
                                figure.values.push(value);
                                figure.rounds.push(number);
                                figure.not_the_devices |= foreign;
                            }
                            None => figures.push(Figure {
                                device: device.name.clone(),
                                frame: point.frame,
                                what,
                                more_is_better: unit != Unit::Time,
                                unit,
                                values: vec![value],
                                rounds: vec![number],
                                not_the_devices: foreign,
                            }),
                        }
                    };
                // What arrives under overload is near the generator's own limit as well.
                let limit = self.calibration.iter().find(|c| c.frame == point.frame);
                let near = limit.map_or(f64::INFINITY, |c| c.limit * (1.0 - MARGIN));
                for (number, round) in point.rounds.iter().enumerate() {
                    round.figures(near, &mut |what, unit, value, foreign| {
                        add(number, what, unit, value, foreign);
                    });
                }
            }
        }
        figures
    }
}

impl Figure {
    /// Each of these values over the other's of the same round, where both have one: neighbors in time are compared.
    pub fn over(&self, base: &Self) -> Vec<f64> {
        let of = |round: &usize| {
            let at = base.rounds.iter().position(|other| other == round)?;
            base.values.get(at).copied().filter(|value| *value > 0.0)
        };
        let pairs = self.values.iter().zip(&self.rounds);
        pairs.filter_map(|(value, round)| Some(value / of(round)?)).collect()
    }
}

impl Round {
    fn figures(&self, near: f64, add: &mut impl FnMut(String, Unit, f64, bool)) {
        for judged in &self.bounds {
            if let Some(lower) = judged.bounds.lower {
                let foreign = !matches!(judged.limit, Limit::Device);
                add(judged.bounds.goal.name.clone(), Unit::Rate, lower, foreign);
            }
        }
        if let Some(mrr) = crate::statistics::median(&self.mrr) {
            add("MRR".into(), Unit::Rate, mrr, mrr >= near);
        }
        for at in &self.latency {
            if let Some(percentiles) = &at.percentiles {
                for (name, value) in [("p50", percentiles.p50_ns), ("p99", percentiles.p99_ns)] {
                    let what = format!("{name} at {:.0} % of {}", at.share * 100.0, at.of);
                    add(what, Unit::Time, value as f64, false);
                }
            }
        }
        if let Some(reconf) = &self.reconf {
            add("blocked time of a change".into(), Unit::Time, reconf.blocked_ns_per_change, false);
        }
        if let Some(stateful) = &self.stateful {
            stateful.figures(add);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::results::Calibration;
    use crate::results::Certificate;
    use crate::results::tests::certificate;

    #[test]
    fn values_are_paired_by_their_round_also_where_one_has_none() {
        let (mut slow, fast) = (certificate(&[1e6, 2e6, 4e6]), certificate(&[2e6, 4e6, 8e6]));
        slow.devices[0].points[0].rounds[0].bounds[0].bounds.lower = None;
        let (slow, fast) = (slow.figures().remove(0), fast.figures().remove(0));
        assert_eq!((slow.values.len(), slow.rounds.clone()), (2, vec![1, 2]));
        assert_eq!(fast.over(&slow), [2.0, 2.0]);
        assert_eq!(slow.over(&fast), [0.5, 0.5]);
    }

    #[test]
    fn figures_have_one_value_a_round() {
        let figures = certificate(&[1e6, 2e6, 3e6]).figures();
        assert_eq!(figures.len(), 1);
        assert_eq!((figures[0].what.as_str(), figures[0].values.len()), ("NDR", 3));
        assert!(!figures[0].not_the_devices);
        let mut overloaded = certificate(&[1e6]);
        overloaded.devices[0].points[0].rounds[0].mrr = vec![1.2e6, 1.3e6, 1.25e6];
        let mrr = |c: &Certificate| c.figures().into_iter().find(|f| f.what == "MRR").unwrap();
        assert!(!mrr(&overloaded).not_the_devices);
        for (limit, near) in [(2e6, false), (1.3e6, true)] {
            overloaded.calibration = vec![Calibration { frame: 64, limit, trials: vec![limit] }];
            assert_eq!(mrr(&overloaded).not_the_devices, near);
        }
    }
}
