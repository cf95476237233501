//! `bench`: what the generator's loop costs beside a bare one on the same sockets, in one run, round about.
//!
//! The bare loop takes free frames as they are, hands them over and takes them back; the generator's crafts each, reads the clock, looks for
//! received frames and counts. Socket, frames, burst, system calls and CPU are the same. With two queues or more, the generator's loop on all of
//! them is compared with that on one.
//!
//! A machine's pace drifts, so the loops take short turns, and what counts is the median of the ratios of neighboring turns, with its interval. Where
//! others work on the same CPUs, a turn's time is theirs too: then packets by the thread's own CPU time are the steadier figure, and both are said.

use crate::cli::{Bench, Load};
use crate::craft::Crafter;
use crate::end::{End, pin};
use crate::field::Share;
use crate::neighbor::Responder;
use crate::pacer::Pacer;
use crate::profile::{EndPlan, Plan, wrong};
use crate::run::{FEW_FRAMES, RunError, TX_FRAMES, check_mtu};
use crate::source::Streams;
use crate::template::Macs;
use crate::units::{FCS, Rate, Short};
use crate::worker::{Progress, Role, Settings, Worker};
use millrace_wire::Mac;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

/// A MAC address that nobody has: the peer's kernel drops the frames at once.
const NOBODY: Mac = Mac([2, 0, 0, 0, 0xff, 0xfe]);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Bare,
    Generator,
}

/// What was measured, as JSON too.
#[derive(Clone, Debug, serde::Serialize)]
struct Figures {
    /// Packets a second of the bare loop, on one queue, round by round.
    bare_pps: Vec<f64>,
    /// Those of the generator's loop.
    generator_pps: Vec<f64>,
    /// Generator to bare, pair by pair.
    ratio: Spread,
    /// The same of packets in a second of the thread's CPU time.
    cpu_ratio: Spread,
    /// Those of the generator's loop on all queues.
    all_queues_pps: Vec<f64>,
    /// All queues to one, pair by pair.
    queues_ratio: Option<Spread>,
    /// The same of packets in a second of CPU time of each thread: what two queues would be with a CPU for each.
    queues_cpu_ratio: Option<Spread>,
    queues: u32,
}

/// Median, the interval that it lies in with 95 % (of the values that could have been measured, whatever their distribution), least and greatest.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
struct Spread {
    median: f64,
    low: f64,
    high: f64,
    min: f64,
    max: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |i: usize| values.get(i).copied().unwrap_or(0.0);
        let last = values.len().saturating_sub(1);
        // How many of n values are below the true median is binomial: n / 2, give or take 1.96 times the root of n / 4.
        let n = values.len() as f64;
        let below = (n / 2.0 - 0.98 * n.sqrt()).max(0.0) as usize;
        Self {
            median: (at(last / 2) + at(last.div_ceil(2))) / 2.0,
            low: at(below),
            high: at(last - below.min(last)),
            min: at(0),
            max: at(last),
        }
    }

    fn of_pairs(above: &[f64], below: &[f64]) -> Self {
        // On a busy machine a turn may be over before its thread has run: that says nothing of either.
        let ran = above.iter().zip(below).filter(|(a, b)| **a > 0.0 && **b > 0.0);
        Self::of(ran.map(|(a, b)| a / b).collect())
    }
}

/// Measures and prints.
pub fn run(arguments: &Bench) -> Result<(), RunError> {
    if arguments.rounds == 0 || arguments.round.is_zero() {
        let key = if arguments.rounds == 0 { "--rounds" } else { "--round" };
        return Err(wrong(key, "it has to be more than nothing").into());
    }
    let text = format!(
        "[[stream]]\nsrc = \"198.18.0.1-198.18.0.254\"\ndst = \"198.19.0.1\"\nsrc_port = \"1024-65535\"\nsize = {}\n",
        arguments.size
    );
    let load = Load { rate: Some(Rate::Max), ..Load::default() };
    let plan = Plan::build(Plan::parse(&text)?, &load).map_err(|e| wrong("--size", e.why))?;
    let end = EndPlan {
        port: Some(arguments.tx.clone()),
        netns: arguments.netns_tx.clone(),
        cpus: arguments.cpus_tx.clone(),
        ..EndPlan::default()
    };
    let mut end = End::open(&end, "tx", TX_FRAMES, FEW_FRAMES)?;
    check_mtu(&plan, &end)?;
    let macs = [Macs { src: end.mac, dst: NOBODY }];
    let queues = end.used as usize;
    // Rounds end with the channel's receiver unread: the seconds are nobody's business here.
    let (seconds, _unread) = mpsc::channel();
    let mut workers = Vec::new();
    let sending: Vec<_> = end.queues.drain(..queues).collect();
    for (index, queue) in sending.into_iter().enumerate() {
        workers.push(Worker::<Streams> {
            sender: queue.sender,
            receiver: queue.receiver,
            source: None,
            role: Role::Count,
            responder: Arc::new(Responder::new(end.mac, &[], &[])),
            settings: Settings {
                epoch: Instant::now(),
                burst: plan.burst,
                max_lag: 0,
                spin: 0,
                streams: 1,
                cpu: end.cpu(index),
            },
            progress: Arc::new(Progress::default()),
            halt: Arc::default(),
            seconds: seconds.clone(),
        });
    }
    let streams = |index: usize| -> Result<Streams, RunError> {
        let share = Share { worker: index as u64, workers: queues as u64 };
        let crafter = Crafter::new(&plan, &macs, share, 0)?;
        let pacer = Pacer::new(Rate::Max, None, None, 0, 1);
        let pacer = pacer.ok_or_else(|| io::Error::other("no schedule"))?;
        Ok(Streams::new(crafter, pacer, None, None))
    };
    let len = usize::from(arguments.size).saturating_sub(FCS);
    let round = |kind: Kind, workers: &mut [Worker<Streams>]| -> Result<Pace, RunError> {
        for (index, worker) in workers.iter_mut().enumerate() {
            if kind == Kind::Generator {
                worker.source = Some(streams(index)?);
            }
            worker.settings.epoch = Instant::now();
            worker.progress = Arc::default();
        }
        Ok(measure(kind, workers, arguments.round, plan.burst, len)?)
    };
    // Frames have something to be sent as they are, and all is warm.
    round(Kind::Generator, &mut workers)?;
    round(Kind::Bare, &mut workers)?;
    let mut figures = Figures {
        bare_pps: Vec::new(),
        generator_pps: Vec::new(),
        ratio: Spread::of(Vec::new()),
        cpu_ratio: Spread::of(Vec::new()),
        all_queues_pps: Vec::new(),
        queues_ratio: None,
        queues_cpu_ratio: None,
        queues: queues as u32,
    };
    let mut cpu = (Vec::new(), Vec::new());
    let mut all_cpu = Vec::new();
    for number in 0..arguments.rounds {
        let one = workers.get_mut(..1).unwrap_or_default();
        // Who is first takes turns too.
        let (bare, generator) = if number % 2 == 0 {
            let bare = round(Kind::Bare, one)?;
            (bare, round(Kind::Generator, one)?)
        } else {
            let generator = round(Kind::Generator, one)?;
            (round(Kind::Bare, one)?, generator)
        };
        figures.bare_pps.push(bare.pps);
        figures.generator_pps.push(generator.pps);
        cpu.0.push(generator.per_cpu_second);
        cpu.1.push(bare.per_cpu_second);
        if queues > 1 {
            let all = round(Kind::Generator, &mut workers)?;
            figures.all_queues_pps.push(all.pps);
            all_cpu.push(all.per_cpu_second);
        }
    }
    figures.cpu_ratio = Spread::of_pairs(&cpu.0, &cpu.1);
    figures.ratio = Spread::of_pairs(&figures.generator_pps, &figures.bare_pps);
    if queues > 1 {
        figures.queues_ratio =
            Some(Spread::of_pairs(&figures.all_queues_pps, &figures.generator_pps));
        figures.queues_cpu_ratio = Some(Spread::of_pairs(&all_cpu, &cpu.0));
    }
    present(arguments, &figures)
}

fn present(arguments: &Bench, figures: &Figures) -> Result<(), RunError> {
    let mut out = io::stdout().lock();
    if arguments.json {
        writeln!(out, "{}", serde_json::to_string_pretty(figures).map_err(io::Error::from)?)?;
        return Ok(());
    }
    let median = |values: &[f64]| Short(Spread::of(values.to_vec()).median);
    let ratio = |s: &Spread| {
        let Spread { median, low, high, min, max } = s;
        format!("{median:.3} (95 %: {low:.3} to {high:.3}; all: {min:.3} to {max:.3})")
    };
    writeln!(out, "bare       {:.3}pps", median(&figures.bare_pps))?;
    writeln!(out, "generator  {:.3}pps", median(&figures.generator_pps))?;
    writeln!(
        out,
        "generator / bare, median of {} pairs: {}",
        figures.bare_pps.len(),
        ratio(&figures.ratio)
    )?;
    writeln!(out, "the same in CPU time: {}", ratio(&figures.cpu_ratio))?;
    if let (Some(pace), Some(cpu)) = (&figures.queues_ratio, &figures.queues_cpu_ratio) {
        writeln!(out, "{} queues   {:.3}pps", figures.queues, median(&figures.all_queues_pps))?;
        writeln!(out, "{} queues / 1: {}", figures.queues, ratio(pace))?;
        writeln!(out, "the same in CPU time: {}", ratio(cpu))?;
    }
    Ok(())
}

/// Packets that the kernel completed, by two clocks.
#[derive(Clone, Copy, Debug, Default)]
struct Pace {
    pps: f64,
    per_cpu_second: f64,
}

/// Of all workers together.
fn measure(
    kind: Kind,
    workers: &mut [Worker<Streams>],
    length: Duration,
    burst: usize,
    len: usize,
) -> io::Result<Pace> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let threads: Vec<_> = workers
            .iter_mut()
            .map(|worker| {
                let stop = &stop;
                scope.spawn(move || {
                    let began = cpu_time();
                    let (sent, took) = match kind {
                        Kind::Generator => generate(worker, stop)?,
                        Kind::Bare => bare(worker, stop, burst, len)?,
                    };
                    let per = |time: Duration| sent as f64 / time.as_secs_f64().max(1e-9);
                    Ok(Pace { pps: per(took), per_cpu_second: per(cpu_time() - began) })
                })
            })
            .collect();
        std::thread::sleep(length);
        stop.store(true, Ordering::Relaxed);
        let mut total = Pace::default();
        for thread in threads {
            let pace: io::Result<Pace> =
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            let pace = pace?;
            total.pps += pace.pps;
            total.per_cpu_second += pace.per_cpu_second;
        }
        Ok(total)
    })
}

/// CPU time of the calling thread.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.max(0) as u64, time.tv_nsec as u32)
}

/// Packets completed, and in what time.
fn generate(worker: &mut Worker<Streams>, stop: &AtomicBool) -> io::Result<(u64, Duration)> {
    let outcome = worker.run(stop);
    if let Some(error) = outcome.error {
        return Err(error);
    }
    Ok((outcome.sent.first().map_or(0, |s| s.completed), outcome.worked))
}

fn bare(
    worker: &mut Worker<Streams>,
    stop: &AtomicBool,
    burst: usize,
    len: usize,
) -> io::Result<(u64, Duration)> {
    // Tried when the end was opened.
    let _pinned = worker.settings.cpu.is_none_or(pin);
    let sender = &mut worker.sender;
    let started = Instant::now();
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        sender.take_as_is(burst, len);
        sender.send()?;
        sent += sender.reap(|_| {}) as u64;
    }
    Ok((sent, started.elapsed()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_of_pairs() {
        let spread = Spread::of_pairs(&[9.0, 10.0, 8.0], &[10.0, 10.0, 10.0]);
        assert_eq!((spread.median, spread.min, spread.max), (0.9, 0.8, 1.0));
        assert_eq!((spread.low, spread.high), (0.8, 1.0));
        assert_eq!(Spread::of_pairs(&[9.0, 0.0, 1.0], &[10.0, 1.0, 0.0]).max, 0.9);
        assert_eq!(Spread::of(vec![1.0, 2.0]).median, 1.5);
        assert_eq!(Spread::of(Vec::new()).median, 0.0);
    }

    #[test]
    fn the_interval_of_the_median_narrows_with_the_root_of_the_count() {
        // 0 to 99 in any order: the 41st and the 60th of them (exactly: 96.5 %).
        let spread = Spread::of((0..100).map(|i| f64::from(i * 37 % 100)).collect());
        assert_eq!((spread.low, spread.median, spread.high), (40.0, 49.5, 59.0));
        let spread = Spread::of((0..10_000).map(f64::from).collect());
        assert_eq!((spread.low, spread.high), (4902.0, 5097.0));
    }
}
