//! The search on devices whose loss is known.

use super::*;
use crate::random::Random;
use proptest::prelude::*;

/// A device by its loss: load, duration and chance → share lost.
struct Simulated<F> {
    loss: F,
    random: Random,
    /// What the generator can at most.
    generator: f64,
    trials: usize,
}

impl<F: FnMut(f64, f64, &mut Random) -> f64> Simulated<F> {
    fn new(seed: u64, loss: F) -> Self {
        Self { loss, random: Random::new(seed), generator: f64::INFINITY, trials: 0 }
    }
}

impl<F: FnMut(f64, f64, &mut Random) -> f64> Dut for Simulated<F> {
    type Error = String;

    fn trial(&mut self, load: f64, duration: f64) -> Result<Outcome, String> {
        self.trials += 1;
        let sent = (load.min(self.generator) * duration).round() as u64;
        let lost = (sent as f64 * (self.loss)(load, duration, &mut self.random)).round() as u64;
        let limited = load > self.generator * 1.005;
        Ok(Outcome { duration, sent, received: sent - lost.min(sent), limited })
    }
}

/// All above the capacity is lost.
fn over(capacity: f64, load: f64) -> f64 {
    (1.0 - capacity / load).max(0.0)
}

const LIMITS: Limits = Limits { min: 1e3, max: 10e6, seconds: 1200.0, start: None };

fn both() -> Vec<Goal> {
    vec![Goal::ndr(), Goal::pdr()]
}

fn find<F: FnMut(f64, f64, &mut Random) -> f64>(dut: &mut Simulated<F>, goals: &[Goal]) -> Found {
    search(dut, goals, LIMITS, |_, _, _| {}).unwrap()
}

fn around(bounds: &Bounds, truth: f64) {
    assert_eq!(bounds.irregular, None, "{bounds:?}");
    let (lower, upper) = (bounds.lower.unwrap(), bounds.upper.unwrap());
    // Half a packet lost in a trial, of a second at least, is none.
    let (most, least) = (truth * 1.00001 + 1.0, truth * 0.99999 - 1.0);
    assert!(lower <= most && least <= upper, "{lower} {truth} {upper}");
    assert!((upper - lower) / upper <= bounds.goal.width, "{lower} {upper}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A device with a capacity: the bounds enclose it, and for PDR the load of which half a percent is above it.
    #[test]
    fn a_step_is_enclosed_within_the_width(capacity in 2e3_f64..9.9e6) {
        let mut dut = Simulated::new(1, |load, _, _: &mut Random| over(capacity, load));
        let found = find(&mut dut, &both());
        around(&found.bounds[0], capacity);
        around(&found.bounds[1], capacity / 0.995);
        prop_assert!(dut.trials < 150, "{} trials", dut.trials);
    }

    /// Wherever it begins, it ends around the truth.
    #[test]
    fn a_wrong_start_only_takes_longer(capacity in 2e3_f64..9.9e6, start in 0.0_f64..20e6) {
        let mut dut = Simulated::new(1, |load, _, _: &mut Random| over(capacity, load));
        let limits = Limits { start: Some(start), ..LIMITS };
        let found = search(&mut dut, &both(), limits, |_, _, _| {}).unwrap();
        around(&found.bounds[0], capacity);
        around(&found.bounds[1], capacity / 0.995);
    }

    /// Loss that grows with the load from nothing: NDR where it begins, PDR where it reaches half a percent.
    #[test]
    fn a_slope_is_enclosed_within_the_width(begin in 1e5_f64..4e6, slope in 0.02_f64..2.0) {
        let loss = |load: f64| ((load / begin - 1.0) * slope).clamp(0.0, 1.0);
        let mut dut = Simulated::new(1, |load, _, _: &mut Random| loss(load));
        let found = find(&mut dut, &both());
        // A loss below one packet a trial is none.
        let visible = begin * (1.0 + 0.5 / begin / slope);
        around(&found.bounds[0], visible);
        around(&found.bounds[1], begin * (1.0 + 0.005 / slope));
    }

    /// One trial in ten has a hiccup that has nothing to do with the load: the bounds are those of the device without.
    #[test]
    fn hiccups_in_a_tenth_of_the_trials_do_not_move_the_bounds(
        capacity in 1e5_f64..5e6,
        seed in any::<u64>(),
    ) {
        let mut dut = Simulated::new(seed, |load, _, random: &mut Random| {
            if random.share() < 0.1 { 0.05 } else { over(capacity, load) }
        });
        let found = find(&mut dut, &both());
        around(&found.bounds[0], capacity);
        around(&found.bounds[1], capacity / 0.995);
    }

    /// With a window of bad loads below the capacity the answer is the first load that fails, and it is reproducible.
    #[test]
    fn a_load_that_fails_below_ones_that_pass_bounds_the_answer(
        bad in 0.3_f64..0.8,
        seed in any::<u64>(),
    ) {
        let capacity = 1e6;
        let window = bad * capacity..(bad + 0.15) * capacity;
        let mut dut = Simulated::new(seed, |load, _, _: &mut Random| {
            if window.contains(&load) { 0.01 } else { over(capacity, load) }
        });
        let found = find(&mut dut, &[Goal::ndr()]);
        let bounds = &found.bounds[0];
        prop_assert_eq!(bounds.irregular, None);
        // Either edge is an answer that its trials justify: no failing load is known below the upper bound.
        let (lower, upper) = (bounds.lower.unwrap(), bounds.upper.unwrap());
        let at = |edge: f64| lower <= edge && edge <= upper * 1.00001;
        prop_assert!(at(capacity) || at(window.start), "{} {}", lower, upper);
        let target = bounds.goal.target();
        for (load, trials) in found.trials.all() {
            prop_assert!(*load >= upper || target.classify(trials) != Class::Upper);
        }
    }

    /// Whatever the device does, the search ends in time, and its bounds are what their trials say.
    #[test]
    fn chaos_ends_in_time_and_the_bounds_hold(seed in any::<u64>(), seconds in 30_f64..400.0) {
        let mut dut = Simulated::new(seed, |_, _, random: &mut Random| {
            let loss = random.share();
            if loss < 0.5 { 0.0 } else { loss }
        });
        let limits = Limits { seconds, ..LIMITS };
        let found = search(&mut dut, &both(), limits, |_, _, _| {}).unwrap();
        prop_assert!(found.seconds <= seconds + 1.0);
        for bounds in &found.bounds {
            let target = bounds.goal.target();
            let class = |load| target.classify(found.trials.at(load));
            if let Some(lower) = bounds.lower {
                prop_assert_eq!(class(lower), Class::Lower);
            }
            if let Some(upper) = bounds.upper {
                prop_assert_eq!(class(upper), Class::Upper);
                prop_assert!(bounds.lower.is_none_or(|lower| lower < upper));
            }
        }
    }
}

/// A device whose capacity differs by 1 % (one sigma) from trial to trial: ten searches agree within 1 %.
#[test]
fn on_a_noisy_device_searches_repeat_within_a_percent() {
    let capacity = 1.3e6;
    let mut found = vec![Vec::new(); 2];
    for seed in 0..40 {
        let mut dut = Simulated::new(seed, |load, _, random: &mut Random| {
            over(capacity * (1.0 + 0.01 * random.normal()), load)
        });
        for (bounds, all) in find(&mut dut, &both()).bounds.iter().zip(&mut found) {
            assert_eq!(bounds.irregular, None);
            all.push(bounds.lower.unwrap());
        }
    }
    for (lowers, truth) in found.iter_mut().zip([capacity, capacity / 0.995]) {
        let mean = lowers.iter().sum::<f64>() / lowers.len() as f64;
        let variance = lowers.iter().map(|l| (l - mean).powi(2)).sum::<f64>() / lowers.len() as f64;
        let spread = variance.sqrt() / mean;
        println!("mean {:.4} of the truth, one sigma {:.4}", mean / truth, spread);
        assert!(spread <= 0.01, "{spread}");
        assert!((mean / truth - 1.0).abs() <= 0.01, "{mean} {truth}");
    }
}

#[test]
fn a_device_without_a_limit_is_said_to_be_above_the_maximum() {
    let mut dut = Simulated::new(1, |_, _, _: &mut Random| 0.0);
    let found = find(&mut dut, &both());
    for bounds in &found.bounds {
        assert_eq!(bounds.irregular, Some(Irregular::MaximumMeets));
        assert_eq!((bounds.lower, bounds.upper), (Some(LIMITS.max), None));
        assert_eq!(bounds.conditional_throughput, Some(LIMITS.max));
    }
}

#[test]
fn a_device_that_always_loses_is_said_to_fail_at_the_minimum() {
    let mut dut = Simulated::new(1, |_, _, _: &mut Random| 0.3);
    let found = find(&mut dut, &both());
    for bounds in &found.bounds {
        assert_eq!(bounds.irregular, Some(Irregular::MinimumFails));
        assert_eq!((bounds.lower, bounds.upper), (None, Some(LIMITS.min)));
    }
}

#[test]
fn what_the_generator_could_not_send_is_never_the_device_s_loss() {
    let mut dut = Simulated::new(1, |load, _, _: &mut Random| over(3e6, load));
    dut.generator = 2e6;
    let found = find(&mut dut, &both());
    for bounds in &found.bounds {
        assert_eq!(bounds.irregular, Some(Irregular::GeneratorLimit), "{bounds:?}");
        let lower = bounds.lower.unwrap();
        assert!((1.9e6..=2.02e6).contains(&lower), "{lower}");
        assert_eq!(bounds.upper, None);
    }
    assert!(found.limited >= LIMITED_IN_A_ROW);
}

/// A generator that keeps to no rate at all, as on a machine that others keep busy: no answer, and no endless search for one.
#[test]
fn a_generator_that_can_t_keep_to_any_rate_ends_the_search() {
    let mut dut = Simulated::new(1, |_, _, _: &mut Random| 0.0);
    dut.generator = LIMITS.min / 2.0;
    let found = find(&mut dut, &both());
    for bounds in &found.bounds {
        assert_eq!(bounds.irregular, Some(Irregular::GeneratorLimit));
        assert_eq!((bounds.lower, bounds.upper), (None, None));
    }
    assert!(found.seconds < 20.0, "{}", found.seconds);
}

#[test]
fn a_device_below_the_generator_s_limit_is_found_all_the_same() {
    let mut dut = Simulated::new(1, |load, _, _: &mut Random| over(1.2e6, load));
    dut.generator = 2e6;
    let found = find(&mut dut, &both());
    around(&found.bounds[0], 1.2e6);
}

#[test]
fn a_trial_that_can_t_be_made_ends_the_search_with_its_reason() {
    struct Broken;
    impl Dut for Broken {
        type Error = &'static str;
        fn trial(&mut self, _: f64, _: f64) -> Result<Outcome, &'static str> {
            Err("gone")
        }
    }
    let error = search(&mut Broken, &both(), LIMITS, |_, _, _| {}).unwrap_err();
    assert_eq!(error, Error::Trial("gone"));
}

#[test]
fn goals_and_limits_that_make_no_sense_are_refused_by_name() {
    let mut dut = Simulated::new(1, |_, _, _: &mut Random| 0.0);
    let goal = Goal { duration_sum: 0.5, ..Goal::ndr() };
    let refused = |goal: Goal, limits| {
        search(&mut Simulated::new(1, |_, _, _: &mut Random| 0.0), &[goal], limits, |_, _, _| {})
    };
    for (goal, word) in [
        (goal, "0.5 s in all"),
        (Goal { width: 0.0, ..Goal::ndr() }, "width"),
        (Goal { loss_ratio: f64::NAN, ..Goal::ndr() }, "loss ratio"),
        (Goal { exceed_ratio: 1.0, ..Goal::ndr() }, "exceed ratio"),
        (Goal { final_trial: f64::NAN, ..Goal::ndr() }, "each must be"),
    ] {
        match refused(goal, LIMITS) {
            Err(Error::Invalid(why)) => assert!(why.contains(word), "{why}"),
            other => panic!("{other:?}"),
        }
    }
    let limits = Limits { min: 5.0, max: 1.0, ..LIMITS };
    assert!(matches!(search(&mut dut, &both(), limits, |_, _, _| {}), Err(Error::Invalid(_))));
}
