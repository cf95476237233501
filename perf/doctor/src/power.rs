//! What the machine's processors draw, where they count it: RAPL's package domains under `/sys/class/powercap`.
//!
//! All of the machine, not one process: a figure is worth something only beside another one, with nothing else running.

use std::path::Path;
use std::time::Instant;

/// Where the kernel has them.
pub const DOMAINS: &str = "/sys/class/powercap";

/// One package's counter.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Domain {
    name: String,
    /// Microjoules since some moment.
    energy: u64,
    /// Where that begins again.
    range: u64,
}

/// The counters at a moment.
#[derive(Clone, Debug)]
pub struct Energy {
    domains: Vec<Domain>,
    at: Instant,
}

impl Energy {
    /// Reads those of all packages in `folder` ([`DOMAINS`]), or says why there are none.
    pub fn read(folder: &Path) -> Result<Self, String> {
        let none = |why: &str| format!("not measurable here: {why} ({})", folder.display());
        let entries = std::fs::read_dir(folder).map_err(|_| {
            none("the kernel shows no powercap domains, as in most virtual machines")
        })?;
        let mut domains = Vec::new();
        for entry in entries.flatten() {
            let read = |file: &str| std::fs::read_to_string(entry.path().join(file));
            let name = read("name").unwrap_or_default().trim().to_owned();
            if !name.starts_with("package") {
                continue;
            }
            let number = |file: &str| -> Result<u64, String> {
                let text = read(file).map_err(|e| none(&format!("{name}/{file}: {e}")))?;
                text.trim().parse().map_err(|_| none(&format!("{name}/{file} is no number")))
            };
            let (energy, range) = (number("energy_uj")?, number("max_energy_range_uj")?);
            domains.push(Domain { name, energy, range });
        }
        if domains.is_empty() {
            return Err(none("no package counts its energy (RAPL)"));
        }
        domains.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Self { domains, at: Instant::now() })
    }

    /// Watts since `before`; None where the packages are others.
    pub fn watts_since(&self, before: &Self) -> Option<f64> {
        let seconds = self.at.saturating_duration_since(before.at).as_secs_f64();
        let joules = joules(&before.domains, &self.domains)?;
        (seconds > 0.0).then(|| joules / seconds)
    }
}

fn joules(before: &[Domain], after: &[Domain]) -> Option<f64> {
    if before.len() != after.len() {
        return None;
    }
    let mut sum = 0;
    for (before, after) in before.iter().zip(after) {
        if before.name != after.name {
            return None;
        }
        // It goes round once at most: some minutes at full power.
        sum += match after.energy.checked_sub(before.energy) {
            Some(rise) => rise,
            None => after.range.checked_sub(before.energy)? + after.energy,
        };
    }
    Some(sum as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn domain(name: &str, energy: u64) -> Domain {
        Domain { name: name.into(), energy, range: 1_000_000_000 }
    }

    #[test]
    fn energy_of_all_packages_is_summed_across_a_counter_that_goes_round() {
        let before = [domain("package-0", 999_000_000), domain("package-1", 5_000_000)];
        let after = [domain("package-0", 4_000_000), domain("package-1", 15_000_000)];
        assert_eq!(joules(&before, &after), Some(15.0));
        assert_eq!(joules(&before, &after[..1]), None);
        assert_eq!(joules(&before, &[domain("package-0", 0), domain("psys", 0)]), None);
    }

    #[test]
    fn packages_are_read_from_a_folder_as_the_kernel_has_it_and_its_absence_is_said() {
        let folder = std::env::temp_dir().join(format!("millrace-power-{}", std::process::id()));
        let put = |domain: &str, name: &str, energy: &str| {
            let path = folder.join(domain);
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("name"), format!("{name}\n")).unwrap();
            fs::write(path.join("energy_uj"), format!("{energy}\n")).unwrap();
            fs::write(path.join("max_energy_range_uj"), "262143328850\n").unwrap();
        };
        assert!(Energy::read(&folder).unwrap_err().contains("not measurable here"));
        put("intel-rapl:0:0", "core", "1");
        assert!(Energy::read(&folder).unwrap_err().contains("no package"));
        put("intel-rapl:0", "package-0", "1000000");
        let before = Energy::read(&folder).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        put("intel-rapl:0", "package-0", "3000000");
        let after = Energy::read(&folder).unwrap();
        let seconds = (after.at - before.at).as_secs_f64();
        assert_eq!(after.watts_since(&before), Some(2.0 / seconds));
        put("intel-rapl:0", "package-0", "much");
        let error = Energy::read(&folder).unwrap_err();
        assert!(error.contains("no number"), "{error}");
        fs::remove_dir_all(&folder).unwrap();
    }
}
