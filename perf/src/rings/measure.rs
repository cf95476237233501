//! The runs: whole rounds of the loops, timed from the first packet to the last, after one for warming up.

use super::scenario::{Bench, Fate};
use super::world::{Ledger, Runner};
use crate::spread::Spread;
use crate::statistics::variation;
use millrace_dataplane::driver::looped::Time;
use millrace_xsk::tsc;
use serde::Serialize;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Instant;

/// What one run took.
#[derive(Clone, Copy, Debug)]
struct Span {
    packets: usize,
    nanoseconds: f64,
    ticks: Option<f64>,
}

impl Span {
    fn mpps(&self) -> f64 {
        self.packets as f64 * 1e3 / self.nanoseconds
    }
}

/// What all runs of a scenario took.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// Packets of a run, of all workers.
    pub packets: usize,
    /// Nanoseconds that a worker spends on a packet.
    pub ns: Spread,
    /// How much that varied from run to run: deviation over mean.
    pub cv: Option<f64>,
    /// The same in cycles of the time stamp counter.
    pub cycles: Option<Spread>,
    /// Millions of packets a second of all workers together.
    pub mpps: Spread,
    /// That rate as a multiple of what the first of several workers carries alone, of the same frames, in runs right before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scaling: Option<Spread>,
}

impl Bench {
    /// `runs` runs of about `packets` packets each, whole rounds in any case. Worker n runs on the nth of `cpus`.
    pub fn measure(
        &mut self,
        runs: usize,
        packets: usize,
        cpus: &[usize],
    ) -> Result<Figures, String> {
        self.load();
        let workers = self.loads.len();
        let (mut spans, mut ratios) = (Vec::with_capacity(runs), Vec::new());
        for run in 0..=runs {
            let alone = match workers {
                1 => None,
                _ => Some(self.run(1, packets / workers, cpus)?),
            };
            let span = self.run(workers, packets, cpus)?;
            // The first warms up.
            if run > 0 {
                ratios.extend(alone.map(|alone| span.mpps() / alone.mpps()));
                spans.push(span);
            }
        }
        let spread = |of: &dyn Fn(&Span) -> f64| {
            Spread::of(&spans.iter().map(of).collect::<Vec<_>>()).ok_or("no runs")
        };
        let each = |span: &Span| workers as f64 / span.packets as f64;
        let ns: Vec<f64> = spans.iter().map(|span| span.nanoseconds * each(span)).collect();
        let timed = spans.iter().all(|span| span.ticks.is_some());
        Ok(Figures {
            packets: spans.first().map_or(0, |span| span.packets),
            ns: Spread::of(&ns).ok_or("no runs")?,
            cv: variation(&ns),
            cycles: timed
                .then(|| spread(&|span| span.ticks.unwrap_or(0.0) * each(span)))
                .transpose()?,
            mpps: spread(&Span::mpps)?,
            scaling: Spread::of(&ratios),
        })
    }

    /// Nanoseconds that one run of about `packets` packets takes a packet, of a bench of one worker.
    pub fn nanoseconds(&mut self, packets: usize, cpus: &[usize]) -> Result<f64, String> {
        self.load();
        let span = self.run(1, packets, cpus)?;
        Ok(span.nanoseconds / span.packets as f64)
    }

    /// Puts the loops of frames before the workers.
    fn load(&mut self) {
        for (runner, load) in self.world.workers.iter_mut().zip(&self.loads) {
            runner.queue(self.way.0).load(Arc::clone(&load.frames));
        }
    }

    /// One run of the first `active` workers.
    fn run(&mut self, active: usize, packets: usize, cpus: &[usize]) -> Result<Span, String> {
        let (before, offered, dropped) = self.offer(active, packets);
        let running = self.world.workers.get_mut(..active).ok_or("too few workers")?;
        let span = timed(running, self.world.time, cpus)?;
        if span.packets != offered {
            return Err(format!("{} of {offered} packets were received", span.packets));
        }
        self.check_books(before, offered, dropped)?;
        self.forget();
        Ok(span)
    }

    /// Offers whole rounds of about `packets` packets in all; one round where flows begin. Returns the ledger before, and how many
    /// packets that are, and are to be dropped.
    fn offer(&mut self, active: usize, packets: usize) -> (Ledger, usize, usize) {
        let before = self.world.ledger();
        let loads = || self.loads.iter().take(active);
        let round = loads().map(|load| load.frames.len()).sum::<usize>().max(1);
        let once = loads().any(|load| !load.fresh.is_empty());
        let rounds = if once { 1 } else { (packets / round).max(1) };
        let (mut offered, mut dropped) = (0, 0);
        for (runner, load) in self.world.workers.iter_mut().zip(loads()) {
            let to_drop = load.fates.iter().filter(|fate| **fate == Fate::Dropped).count();
            runner.queue(self.way.0).offer(rounds * load.frames.len());
            offered += rounds * load.frames.len();
            dropped += rounds * to_drop;
        }
        (before, offered, dropped)
    }
}

/// Carries about `packets` packets through the one worker of a bench, inside [`counted_round`]. Returns how many they were.
pub fn count(bench: &mut Bench, packets: usize) -> Result<usize, String> {
    for (runner, load) in bench.world.workers.iter_mut().zip(&bench.loads) {
        runner.queue(bench.way.0).load(Arc::clone(&load.frames));
    }
    let (before, offered, dropped) = bench.offer(1, packets);
    let runner = bench.world.workers.first_mut().ok_or("no workers")?;
    let received = counted_round(runner, &mut bench.world.time);
    if received != offered {
        return Err(format!("{received} of {offered} packets were received"));
    }
    bench.check_books(before, offered, dropped)?;
    Ok(received)
}

/// What callgrind collects, by this name.
#[inline(never)]
fn counted_round(runner: &mut Runner, time: &mut Time) -> usize {
    runner.carry(time)
}

/// All workers at once, each on its CPU, from a common start to the end of the last.
fn timed(workers: &mut [Runner], time: Time, cpus: &[usize]) -> Result<Span, String> {
    let start = Barrier::new(workers.len());
    let run = |runner: &mut Runner, cpu: Option<usize>| {
        // The CPU is one that this process may run on, so nothing is lost where it can't be pinned: the spread shows it.
        if let Some(id) = cpu {
            core_affinity::set_for_current(core_affinity::CoreId { id });
        }
        let mut time = time;
        start.wait();
        let began = (Instant::now(), tsc::ticks());
        let packets = runner.carry(&mut time);
        (packets, began, (tsc::ticks(), Instant::now()))
    };
    let done: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = workers
            .iter_mut()
            .enumerate()
            .map(|(index, runner)| {
                let cpu = cpus.get(index).copied();
                let run = &run;
                scope.spawn(move || run(runner, cpu))
            })
            .collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
    });
    if done.len() != workers.len() {
        return Err("a worker ended by itself".to_owned());
    }
    let first = done.iter().map(|done| done.1.0).min().ok_or("no workers")?;
    let last = done.iter().map(|done| done.2.1).max().ok_or("no workers")?;
    // One counter for all CPUs, which the kernel checks before it offers it to user space.
    let ticks = done.iter().filter_map(|done| done.1.1).min();
    let ticks = ticks.zip(done.iter().filter_map(|done| done.2.0).max());
    Ok(Span {
        packets: done.iter().map(|done| done.0).sum(),
        nanoseconds: (last - first).as_nanos() as f64,
        ticks: ticks.map(|(first, last)| last.saturating_sub(first) as f64),
    })
}
