//! The budget: instructions per packet that each scenario may take, in one file, and the comparison that CI fails by.

use super::scenario::Scenario;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::process::Command;

/// How far a count may rise over its budget, in per cent.
pub const ALLOWED: f64 = 3.0;

/// The file.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// The compiler that made the build: another one's figures may differ by its own doing.
    pub rustc: String,
    /// Instructions per packet by scenario.
    pub instructions: BTreeMap<String, f64>,
}

/// A scenario's count beside its budget.
#[derive(Debug, PartialEq, Serialize)]
pub struct Compared {
    /// Which.
    pub scenario: String,
    /// Instructions per packet.
    pub instructions: f64,
    /// What they may be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<f64>,
}

impl Compared {
    /// By how many per cent the count is over its budget, to a tenth, as the budget itself is rounded.
    pub fn rise(&self) -> Option<f64> {
        // Adding 0 makes a negative zero a positive one.
        self.budget.map(|budget| ((self.instructions / budget - 1.0) * 1000.0).round() / 10.0 + 0.0)
    }

    /// Whether that is more than is allowed.
    pub fn is_over(&self) -> bool {
        self.rise().is_some_and(|rise| rise > ALLOWED)
    }
}

impl Budget {
    /// Reads the file.
    pub fn read(path: &Path) -> Result<Budget, String> {
        let text = std::fs::read_to_string(path)
            .map_err(|why| format!("{}: {why}; --bless writes it", path.display()))?;
        toml::from_str(&text).map_err(|why| format!("{}: {why}", path.display()))
    }

    /// The counts beside what they may be.
    pub fn compare(&self, counted: &[(Scenario, f64)]) -> Vec<Compared> {
        let row = |(scenario, instructions): &(Scenario, f64)| {
            let scenario = scenario.name();
            let budget = self.instructions.get(&scenario).copied();
            Compared { scenario, instructions: *instructions, budget }
        };
        counted.iter().map(row).collect()
    }

    /// This budget with the counts in place of what it had for those scenarios.
    #[must_use]
    pub fn with(mut self, counted: &[(Scenario, f64)]) -> Budget {
        self.rustc = rustc();
        let rounded = |it: f64| (it * 10.0).round() / 10.0;
        self.instructions
            .extend(counted.iter().map(|(scenario, it)| (scenario.name(), rounded(*it))));
        self
    }

    /// The file's text.
    pub fn text(&self) -> String {
        let mut text = format!(
            "# Instructions per packet, from RX ring to TX ring: 64-byte frames, one worker, counted by callgrind.\n\
             # A rise over {ALLOWED} % fails CI. Where one is meant, or a fall is to be kept:\n\
             #     cargo run --release -p millrace-perf -- core --instructions --gate perf/budget.toml --bless\n\
             rustc = \"{}\"\n\n[instructions]\n",
            self.rustc
        );
        for (scenario, instructions) in &self.instructions {
            let _ = writeln!(text, "{scenario} = {instructions:.1}");
        }
        text
    }
}

/// What the compiler at hand calls itself; empty where there is none.
pub fn rustc() -> String {
    let program = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let out = Command::new(program).arg("--version").output();
    let text = out.map(|out| String::from_utf8_lossy(&out.stdout).into_owned()).unwrap_or_default();
    text.trim().replace('"', "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(route4: f64) -> [(Scenario, f64); 2] {
        [(Scenario::Route4, route4), (Scenario::NatNew, 1500.04)]
    }

    #[test]
    fn a_rise_over_the_allowed_fails_and_a_fall_does_not() {
        let budget = Budget::default().with(&counted(200.0));
        let over = |route4: f64| budget.compare(&counted(route4))[0].is_over();
        assert!(!over(200.0) && !over(206.0) && !over(100.0) && over(206.2));
        assert!((budget.compare(&counted(210.0))[0].rise().unwrap() - 5.0).abs() < 1e-9);
    }

    #[test]
    fn a_scenario_without_a_budget_is_told_and_does_not_fail() {
        let row = &Budget::default().compare(&counted(1.0))[0];
        assert_eq!((row.budget, row.is_over()), (None, false));
    }

    #[test]
    fn what_is_written_is_read_again() {
        let budget = Budget::default().with(&counted(200.0));
        assert_eq!(toml::from_str::<Budget>(&budget.text()).unwrap(), budget);
        assert_eq!(budget.instructions["nat-new"], 1500.0);
    }
}
