//! A matrix of settings, measured cell by cell in random order and again, and what may be concluded from it.
//!
//! Decides: the order, and when a difference is one. Who calls it brings the measurement of a cell, so that the same judgment
//! is tested on made-up devices and used on real ones.

pub mod plot;

use serde::{Deserialize, Serialize};
use std::fmt;

/// One combination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Cell {
    /// Queues, each with a worker.
    pub queues: u32,
    /// Entries of each of a socket's rings.
    pub ring: u32,
    /// Packets taken at a time.
    pub burst: u32,
    /// `SO_PREFER_BUSY_POLL`, with the interface's interrupts deferred.
    pub busy_poll: bool,
    /// `XDP_USE_NEED_WAKEUP`.
    pub need_wakeup: bool,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on = |on| if on { "on" } else { "off" };
        let Self { queues, ring, burst, busy_poll, need_wakeup } = *self;
        write!(
            f,
            "queues {queues}, ring {ring}, burst {burst}, busy-poll {}, need-wakeup {}",
            on(busy_poll),
            on(need_wakeup)
        )
    }
}

impl Cell {
    /// A text with its placeholders filled in: `{queues}`, `{ring}`, `{burst}`, `{busy_poll}` and `{need_wakeup}` (0 or 1).
    pub fn fill(&self, text: &str) -> String {
        text.replace("{queues}", &self.queues.to_string())
            .replace("{ring}", &self.ring.to_string())
            .replace("{burst}", &self.burst.to_string())
            .replace("{busy_poll}", if self.busy_poll { "1" } else { "0" })
            .replace("{need_wakeup}", if self.need_wakeup { "1" } else { "0" })
    }
}

/// The values of each setting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Matrix {
    /// Queues.
    pub queues: Vec<u32>,
    /// Ring sizes.
    pub rings: Vec<u32>,
    /// Bursts.
    pub bursts: Vec<u32>,
    /// Busy polling.
    pub busy_poll: Vec<bool>,
    /// Need-wakeup.
    pub need_wakeup: Vec<bool>,
}

impl Matrix {
    /// All combinations, each once.
    pub fn cells(&self) -> Vec<Cell> {
        let mut cells = Vec::new();
        for &queues in &self.queues {
            for &ring in &self.rings {
                for &burst in &self.bursts {
                    for &busy_poll in &self.busy_poll {
                        for &need_wakeup in &self.need_wakeup {
                            cells.push(Cell { queues, ring, burst, busy_poll, need_wakeup });
                        }
                    }
                }
            }
        }
        cells.sort_unstable();
        cells.dedup();
        cells
    }
}

/// What one trial of a cell gave.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// Packets a second that arrived.
    pub pps: f64,
    /// Percent of one CPU that the forwarder took.
    pub cpu: f64,
    /// What the processors drew meanwhile, all of the machine; none where they don't count it.
    pub watts: Option<f64>,
}

/// Lowest, middle and highest of some values.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Range {
    /// The lowest.
    pub min: f64,
    /// The middle one.
    pub median: f64,
    /// The highest.
    pub max: f64,
}

impl Range {
    /// Of at least one value.
    pub fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<_> = values.collect();
        sorted.sort_by(f64::total_cmp);
        let upper = *sorted.get(sorted.len() / 2)?;
        let lower = *sorted.get((sorted.len() - 1) / 2)?;
        Some(Self { min: *sorted.first()?, median: (lower + upper) / 2.0, max: *sorted.last()? })
    }
}

/// A cell's trials.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// The cell.
    pub cell: Cell,
    /// Every counted trial, in the order they were made.
    pub trials: Vec<Measured>,
    /// Packets a second; none where no trial succeeded.
    pub pps: Option<Range>,
    /// Percent of one CPU.
    pub cpu: Option<Range>,
    /// Watts, where they are counted.
    pub watts: Option<Range>,
    /// Why the last trial that failed did.
    pub failed: Option<String>,
}

/// Measures every cell once a round, each round in another order, after one trial that does not count. A cell that fails is
/// not tried again. `measure` gets the cell, and which trial of how many this is.
pub fn run(
    matrix: &Matrix,
    rounds: usize,
    seed: u64,
    mut measure: impl FnMut(&Cell, (usize, usize)) -> Result<Measured, String>,
) -> Vec<Row> {
    let cells = matrix.cells();
    let total = cells.len() * rounds;
    let row =
        |cell| Row { cell, trials: Vec::new(), pps: None, cpu: None, watts: None, failed: None };
    let mut rows: Vec<_> = cells.into_iter().map(row).collect();
    if let Some(first) = rows.first() {
        // Warms up what all share; its outcome says nothing, and if it fails, the counted one says so.
        let _ = measure(&first.cell, (0, total));
    }
    let mut random = seed | 1;
    let mut number = 0;
    for _ in 0..rounds {
        for index in shuffled(rows.len(), &mut random) {
            number += 1;
            let Some(row) = rows.get_mut(index) else { continue };
            if row.failed.is_some() {
                continue;
            }
            match measure(&row.cell, (number, total)) {
                Ok(measured) => row.trials.push(measured),
                Err(why) => row.failed = Some(why),
            }
        }
    }
    for row in &mut rows {
        row.pps = Range::of(row.trials.iter().map(|trial| trial.pps));
        row.cpu = Range::of(row.trials.iter().map(|trial| trial.cpu));
        row.watts = Range::of(row.trials.iter().filter_map(|trial| trial.watts));
    }
    rows
}

/// Fisher and Yates by xorshift64.
fn shuffled(count: usize, random: &mut u64) -> Vec<usize> {
    let mut order: Vec<_> = (0..count).collect();
    for last in (1..count).rev() {
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        order.swap(last, (*random % (last as u64 + 1)) as usize);
    }
    order
}

/// What may be said.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Advice {
    /// Take this one.
    Take {
        /// The cell.
        cell: Cell,
        /// Its median over that of the cell in use.
        ratio: f64,
        /// Those that are not told apart from it.
        as_good: Vec<Cell>,
    },
    /// Nothing is better than what is in use, beyond the spread.
    Keep {
        /// Why.
        because: String,
    },
}

/// Compares all with the cell in use. One is better only if its worst trial beat the other's best: with three trials of
/// each that happens by chance once in twenty pairs, with five once in 252, and there are as many pairs as cells.
pub fn advise(rows: &[Row], in_use: &Cell) -> Advice {
    let keep = |because: &str| Advice::Keep { because: because.into() };
    let complete = |row: &&Row| row.failed.is_none() && row.trials.len() >= 3;
    let Some(base) = rows.iter().filter(complete).find(|row| row.cell == *in_use) else {
        return keep("the settings in use were not measured three times: nothing to compare with");
    };
    let Some(reference) = base.pps else { return keep("the settings in use carried nothing") };
    let better = |row: &&Row| row.pps.is_some_and(|pps| pps.min > reference.max);
    let median = |row: &Row| row.pps.map_or(0.0, |pps| pps.median);
    let best =
        rows.iter().filter(complete).filter(better).max_by(|a, b| median(a).total_cmp(&median(b)));
    let Some(best) = best else {
        return keep("no cell's worst trial beat the best trial of the settings in use");
    };
    let worst = best.pps.map_or(0.0, |pps| pps.min);
    let alike = |row: &&Row| row.pps.is_some_and(|pps| pps.max >= worst);
    let alike: Vec<_> = rows.iter().filter(complete).filter(better).filter(alike).collect();
    // Of those that are not told apart the one that takes least of the CPU, if that is told apart.
    let limit = best.cpu.map_or(0.0, |cpu| cpu.min);
    let cheaper = |row: &&&Row| row.cpu.is_some_and(|cpu| cpu.max < limit);
    let cost = |row: &Row| row.cpu.map_or(f64::MAX, |cpu| cpu.median);
    let chosen = alike.iter().filter(cheaper).min_by(|a, b| cost(a).total_cmp(&cost(b)));
    let chosen = chosen.copied().unwrap_or(best);
    let others = alike.iter().map(|row| row.cell).filter(|cell| *cell != chosen.cell);
    let ratio = median(chosen) / reference.median;
    Advice::Take { cell: chosen.cell, ratio, as_good: others.collect() }
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keep { because } => write!(f, "keep what is in use: {because}"),
            Self::Take { cell, ratio, as_good } => {
                write!(f, "take {cell}: {ratio:.2} of what is in use")?;
                if !as_good.is_empty() {
                    write!(f, "; {} others are not told apart from it", as_good.len())?;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix() -> Matrix {
        Matrix {
            queues: vec![1],
            rings: vec![512, 2048],
            bursts: vec![16, 64, 64],
            busy_poll: vec![false],
            need_wakeup: vec![false, true],
        }
    }

    const IN_USE: Cell =
        Cell { queues: 1, ring: 2048, burst: 64, busy_poll: false, need_wakeup: true };

    /// A device whose rate is known, with noise of so many percent either way.
    fn measured(noise: f64, rate: impl Fn(&Cell) -> f64) -> Vec<Row> {
        let mut random = 7_u64;
        run(&matrix(), 5, 1, |cell, _| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let share = (random >> 33) as f64 / (1_u64 << 31) as f64 * 2.0 - 1.0;
            Ok(Measured {
                pps: rate(cell) * (1.0 + share * noise / 100.0),
                cpu: 100.0,
                watts: None,
            })
        })
    }

    #[test]
    fn a_difference_within_the_noise_is_none() {
        let rows = measured(10.0, |cell| if cell.ring == 512 { 1.05e6 } else { 1e6 });
        assert!(
            matches!(advise(&rows, &IN_USE), Advice::Keep { .. }),
            "{:?}",
            advise(&rows, &IN_USE)
        );
    }

    #[test]
    fn a_difference_beyond_the_noise_is_found_with_its_equals() {
        let rows =
            measured(2.0, |cell| if cell.ring == 512 && cell.burst == 16 { 1.5e6 } else { 1e6 });
        let Advice::Take { cell, ratio, as_good } = advise(&rows, &IN_USE) else { panic!() };
        assert_eq!((cell.ring, cell.burst), (512, 16));
        assert!((1.4..1.6).contains(&ratio), "{ratio}");
        // Need-wakeup makes no difference on this device.
        assert_eq!(as_good.len(), 1);
    }

    #[test]
    fn of_equals_the_one_that_takes_less_of_the_cpu_is_taken() {
        let rows = run(&matrix(), 3, 9, |cell, _| {
            let fast = cell.ring == 512 && cell.burst == 16;
            let cpu = if cell.need_wakeup { 40.0 } else { 90.0 };
            Ok(Measured { pps: if fast { 2e6 } else { 1e6 }, cpu, watts: Some(2.0 * cpu) })
        });
        let Advice::Take { cell, .. } = advise(&rows, &IN_USE) else { panic!() };
        assert!(cell.need_wakeup);
        let row = rows.iter().find(|row| row.cell == cell).unwrap();
        assert_eq!(row.watts.map(|watts| watts.median), Some(80.0));
    }

    #[test]
    fn every_cell_is_measured_once_a_round_in_changing_order_after_one_that_does_not_count() {
        let mut seen = Vec::new();
        let rows = run(&matrix(), 3, 42, |cell, (number, total)| {
            seen.push((number, *cell));
            assert_eq!(total, 24);
            Ok(Measured { pps: 1.0, cpu: 1.0, watts: None })
        });
        assert_eq!((rows.len(), seen.len()), (8, 25));
        assert!(rows.iter().all(|row| row.trials.len() == 3));
        let round =
            |n: usize| seen[1 + n * 8..1 + n * 8 + 8].iter().map(|x| x.1).collect::<Vec<_>>();
        assert_ne!(round(0), round(1));
        let mut sorted = round(2);
        sorted.sort_unstable();
        assert_eq!(sorted, matrix().cells());
    }

    #[test]
    fn a_cell_that_fails_is_named_and_no_advice_rests_on_it() {
        let rows = run(&matrix(), 3, 1, |cell, _| {
            if cell.ring == 512 {
                Err("refused".into())
            } else {
                Ok(Measured { pps: 1e6, cpu: 9.0, watts: None })
            }
        });
        assert_eq!(rows.iter().filter(|row| row.failed.as_deref() == Some("refused")).count(), 4);
        assert!(matches!(advise(&rows, &IN_USE), Advice::Keep { .. }));
    }

    #[test]
    fn placeholders_are_filled() {
        let text = IN_USE
            .fill("fwd -q {queues} -r {ring} -b {burst} -p {busy_poll} -w {need_wakeup} {other}");
        assert_eq!(text, "fwd -q 1 -r 2048 -b 64 -p 0 -w 1 {other}");
    }
}
