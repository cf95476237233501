//! How it was measured, for who compares two results.

use super::Task;
use crate::scenario::Scenario;
use crate::units::show_rate;
use std::collections::BTreeMap;

/// Whatever has to be equal for two certificates' figures to be compared.
pub(super) fn of(scenario: &Scenario, task: Task) -> BTreeMap<String, String> {
    let (traffic, measure, cpus) = (&scenario.traffic, &scenario.measure, &scenario.cpus);
    let mut method = BTreeMap::new();
    let mut put = |key: &str, value: String| drop(method.insert(key.to_owned(), value));
    put("generator", traffic.generator.name().into());
    put("flows", traffic.flows.to_string());
    put("services", traffic.services.to_string());
    put("CPUs", format!("generator {}, device {}", cpus.generator, cpus.device));
    match task {
        Task::Measure => {
            put("search", "MLRsearch (RFC 9971)".into());
            put(
                "trials",
                format!(
                    "{} to {} s, {} s in all",
                    measure.initial_trial.as_secs_f64(),
                    measure.final_trial.as_secs_f64(),
                    measure.duration_sum.as_secs_f64()
                ),
            );
            put("width", format!("{} %", measure.width * 100.0));
            put("exceed ratio", format!("{} %", measure.exceed_ratio * 100.0));
            put("loss of PDR", format!("{} %", measure.pdr_loss * 100.0));
        }
        Task::Soak { rate, seconds, target } => {
            put("soak", format!("{} for {seconds} s, loss ratio {target:e}", show_rate(rate)));
        }
        Task::Stateful => {
            let plan = &scenario.stateful;
            put("trials", format!("{} s", measure.final_trial.as_secs_f64()));
            put("width", format!("{} %", measure.width * 100.0));
            put("connections that may fail", format!("{} %", measure.pdr_loss * 100.0));
            put(
                "connections open",
                format!("{}, {} ms each", plan.concurrent, plan.timeout.as_millis()),
            );
            put(
                "sessions",
                format!(
                    "ramp {}, sustained {} for {} s",
                    show_rate(plan.ramp),
                    show_rate(plan.rate),
                    plan.sustain.as_secs_f64()
                ),
            );
        }
        Task::Reconf { rate, changes, .. } => {
            let rate = rate.map_or("NDR".into(), show_rate);
            put("reconf", format!("{changes} changes at {rate}"));
        }
    }
    method
}
