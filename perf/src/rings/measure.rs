//! The runs: whole rounds of the loops, timed from the first packet to the last, after one for warming up.

use super::scenario::{Bench, Fate};
use super::world::Runner;
use crate::spread::Spread;
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

/// What all runs of a scenario took.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// Packets of a run, of all workers.
    pub packets: usize,
    /// Nanoseconds that a worker spends on a packet.
    pub ns: Spread,
    /// The same in cycles of the time stamp counter.
    pub cycles: Option<Spread>,
    /// Millions of packets a second of all workers together.
    pub mpps: Spread,
}

impl Bench {
    /// `runs` runs of about `packets` packets each, whole rounds in any case. Worker n runs on the nth of `cpus`.
    pub fn measure(
        &mut self,
        runs: usize,
        packets: usize,
        cpus: &[usize],
    ) -> Result<Figures, String> {
        for (runner, load) in self.world.workers.iter_mut().zip(&self.loads) {
            runner.queue(self.way.0).load(Arc::clone(&load.frames));
        }
        let mut spans = Vec::with_capacity(runs);
        for run in 0..=runs {
            let span = self.run(packets, cpus)?;
            // The first warms up.
            if run > 0 {
                spans.push(span);
            }
        }
        let workers = self.loads.len() as f64;
        let spread = |of: &dyn Fn(&Span) -> f64| {
            Spread::of(&spans.iter().map(of).collect::<Vec<_>>()).ok_or("no runs")
        };
        let each = |span: &Span| workers / span.packets as f64;
        let timed = spans.iter().all(|span| span.ticks.is_some());
        Ok(Figures {
            packets: spans.first().map_or(0, |span| span.packets),
            ns: spread(&|span| span.nanoseconds * each(span))?,
            cycles: timed
                .then(|| spread(&|span| span.ticks.unwrap_or(0.0) * each(span)))
                .transpose()?,
            mpps: spread(&|span| span.packets as f64 * 1e3 / span.nanoseconds)?,
        })
    }

    fn run(&mut self, packets: usize, cpus: &[usize]) -> Result<Span, String> {
        let before = self.world.ledger();
        let (mut received, mut dropped) = (0, 0);
        let rounds = self.loads.iter().map(|load| load.frames.len()).sum::<usize>().max(1);
        let rounds = if self.loads.iter().any(|load| !load.fresh.is_empty()) {
            1
        } else {
            (packets / rounds).max(1)
        };
        for (runner, load) in self.world.workers.iter_mut().zip(&self.loads) {
            let to_drop = load.fates.iter().filter(|fate| **fate == Fate::Dropped).count();
            runner.queue(self.way.0).offer(rounds * load.frames.len());
            received += rounds * load.frames.len();
            dropped += rounds * to_drop;
        }
        let span = timed(&mut self.world.workers, self.world.time, cpus)?;
        if span.packets != received {
            return Err(format!("{} of {received} packets were received", span.packets));
        }
        self.check_books(before, received, dropped)?;
        self.forget();
        Ok(span)
    }
}

/// All workers at once, each on its CPU, from a common start to the end of the last.
fn timed(workers: &mut [Runner], time: Time, cpus: &[usize]) -> Result<Span, String> {
    let start = Barrier::new(workers.len());
    let run = |runner: &mut Runner, cpu: Option<usize>| {
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
