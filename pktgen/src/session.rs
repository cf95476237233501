//! The workers of a run at work: started together, watched once in a while, stopped together.

use crate::counts::{Outcome, Partial, Sent};
use crate::latency::Times;
use crate::live::Live;
use crate::receive::Tally;
use crate::report::{Ended, Second};
use crate::source::Source;
use crate::worker::{COMPLETE, Progress, Role, Worker};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// From starting the threads to the first packet.
pub const LEAD: Duration = Duration::from_millis(30);
/// How often the run is looked at.
const LOOK: Duration = Duration::from_millis(5);
/// A second is shown this long after its end, when all workers have told of it.
const SETTLE: Duration = Duration::from_millis(60);
/// How long duplicates are waited for when everything else has come.
const LINGER: Duration = Duration::from_millis(30);

/// Signals, as flags.
#[derive(Clone, Debug)]
pub struct Signals {
    interrupted: Arc<AtomicBool>,
}

impl Signals {
    /// From now on SIGINT and SIGTERM end the run with its report; the second one ends the process.
    pub fn catch() -> io::Result<Self> {
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register_conditional_shutdown(signal, 130, interrupted.clone())?;
            signal_hook::flag::register(signal, interrupted.clone())?;
        }
        Ok(Self { interrupted })
    }

    /// Whether one has come.
    pub fn interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }
}

/// What belongs to a run beside its workers.
pub struct Session {
    /// When it starts.
    pub epoch: Instant,
    /// Set when sending is to end.
    pub halt: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    seconds: (mpsc::Sender<Partial>, mpsc::Receiver<Partial>),
    watched: Vec<Watched>,
    names: Vec<String>,
    threads: Vec<JoinHandle<Outcome>>,
    series: BTreeMap<u64, Merged>,
    shown: u64,
    done: Vec<Second>,
}

/// A worker as it is seen from outside.
struct Watched {
    sends: bool,
    /// It tells the run's packets from others; what the rest receive says nothing of loss.
    detects: bool,
    progress: Arc<Progress>,
}

#[derive(Default)]
struct Merged {
    sent: Sent,
    tally: Tally,
    times: Option<Times>,
}

/// What a session ends with.
pub struct Finished {
    /// Of each worker, in the order they were started.
    pub outcomes: Vec<Outcome>,
    /// Their names: what they do, and their queue.
    names: Vec<String>,
    /// The seconds.
    pub seconds: Vec<Second>,
    /// Why it ended.
    pub ended: Ended,
    /// How long it ran, with the wait for what was under way.
    pub lasted: Duration,
}

impl Finished {
    /// What went wrong, for the warnings.
    pub fn errors(&self) -> impl Iterator<Item = String> {
        let errors = self.outcomes.iter().zip(&self.names);
        let errors = errors.filter_map(|(o, name)| Some((name, o.error.as_ref()?)));
        errors.map(|(name, e)| {
            format!("worker {name} ended early: {e}; what it still had to do is missing")
        })
    }
}

/// When a session that receives ends.
#[derive(Clone, Copy, Debug)]
pub struct Until {
    /// After this time.
    pub time: Option<Duration>,
    /// After so many frames.
    pub frames: Option<u64>,
}

impl Session {
    /// One that starts in a moment.
    pub fn new() -> Self {
        Self {
            epoch: Instant::now() + LEAD,
            halt: Arc::default(),
            stop: Arc::default(),
            seconds: mpsc::channel(),
            watched: Vec::new(),
            names: Vec::new(),
            threads: Vec::new(),
            series: BTreeMap::new(),
            shown: 0,
            done: Vec::new(),
        }
    }

    /// Where a worker's seconds go.
    pub fn seconds(&self) -> mpsc::Sender<Partial> {
        self.seconds.0.clone()
    }

    /// Starts a worker's thread.
    pub fn start<S: Source + 'static>(
        &mut self,
        name: String,
        mut worker: Worker<S>,
    ) -> io::Result<()> {
        self.watched.push(Watched {
            sends: worker.source.is_some(),
            detects: matches!(worker.role, Role::Detect(_)),
            progress: worker.progress.clone(),
        });
        let stop = self.stop.clone();
        self.names.push(name.clone());
        let thread = std::thread::Builder::new().name(name).spawn(move || worker.run(&stop))?;
        self.threads.push(thread);
        Ok(())
    }

    /// Until all is sent and received, or `drain` after the last packet; `expect` says whether what is completed has to be received.
    pub fn send(
        mut self,
        signals: &Signals,
        live: &mut Live,
        drain: Duration,
        expect: bool,
    ) -> Finished {
        let mut ended = Ended::Duration;
        let mut sent_at = None::<Instant>;
        let mut complete_at = None::<Instant>;
        let mut halted_at = None::<Instant>;
        loop {
            self.look(live);
            if signals.interrupted() && halted_at.is_none() {
                ended = Ended::Interrupted;
                self.halt.store(true, Ordering::Relaxed);
                halted_at = Some(Instant::now());
            }
            if self.threads.iter().any(JoinHandle::is_finished) {
                break;
            }
            let senders = self.watched.iter().filter(|w| w.sends);
            let finished = senders.clone().all(|w| w.progress.finished.load(Ordering::Acquire));
            if finished || halted_at.is_some_and(|at| at.elapsed() > COMPLETE) {
                let at = *sent_at.get_or_insert_with(Instant::now);
                let completed: u64 =
                    senders.map(|w| w.progress.completed.load(Ordering::Relaxed)).sum();
                let detectors = self.watched.iter().filter(|w| w.detects);
                let received: u64 =
                    detectors.map(|w| w.progress.received.load(Ordering::Relaxed)).sum();
                if expect && received >= completed {
                    complete_at.get_or_insert_with(Instant::now);
                }
                if at.elapsed() >= drain || complete_at.is_some_and(|at| at.elapsed() >= LINGER) {
                    break;
                }
            }
        }
        self.end(ended, live)
    }

    /// Until `until`, or a signal.
    pub fn listen(mut self, signals: &Signals, live: &mut Live, until: Until) -> Finished {
        let ended = loop {
            self.look(live);
            if signals.interrupted() {
                break Ended::Interrupted;
            }
            if until.time.is_some_and(|time| self.epoch.elapsed() >= time) {
                break Ended::Duration;
            }
            let received: u64 =
                self.watched.iter().map(|w| w.progress.received.load(Ordering::Relaxed)).sum();
            if until.frames.is_some_and(|frames| received >= frames) {
                break Ended::Count;
            }
            if self.threads.iter().any(JoinHandle::is_finished) {
                break Ended::Failed;
            }
        };
        self.end(ended, live)
    }

    fn end(mut self, ended: Ended, live: &mut Live) -> Finished {
        let lasted = self.epoch.elapsed();
        self.stop.store(true, Ordering::Relaxed);
        let mut outcomes = Vec::new();
        for thread in std::mem::take(&mut self.threads) {
            let outcome = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            outcomes.push(outcome);
        }
        // What was counted until then is told too.
        let failed = outcomes.iter().any(|o| o.error.is_some());
        let ended = if failed { Ended::Failed } else { ended };
        self.collect();
        self.show(u64::MAX, lasted.as_secs_f64(), live);
        live.end();
        // What the last moments brought no news of is no second.
        while self.done.len() > 1
            && self.done.last().is_some_and(|s| s.asked + s.received + s.duplicated == 0)
        {
            self.done.pop();
        }
        let names = std::mem::take(&mut self.names);
        Finished { outcomes, names, seconds: self.done, ended, lasted }
    }

    fn look(&mut self, live: &mut Live) {
        std::thread::sleep(LOOK);
        self.collect();
        let settled = self.epoch.elapsed().saturating_sub(SETTLE).as_secs();
        self.show(settled, settled as f64, live);
    }

    fn collect(&mut self) {
        for partial in self.seconds.1.try_iter() {
            let merged = self.series.entry(partial.second).or_default();
            merged.sent.add(&partial.sent);
            merged.tally.add(&partial.tally);
            match (&mut merged.times, partial.times) {
                (Some(times), Some(more)) => times.add(&more),
                (times @ None, Some(more)) => *times = Some(more),
                _ => {}
            }
        }
    }

    /// Makes seconds of all before `until`.
    fn show(&mut self, until: u64, now: f64, live: &mut Live) {
        while let Some(entry) = self.series.first_entry() {
            let number = *entry.key();
            if number >= until {
                break;
            }
            let merged = entry.remove();
            let at_s = ((number + 1) as f64).min(now);
            let times = merged.times.as_ref().and_then(Times::percentiles).unwrap_or_default();
            let second = Second {
                at_s,
                length_s: (at_s - number as f64).clamp(0.0, 1.0),
                asked: merged.sent.asked,
                queued: merged.sent.queued,
                completed: merged.sent.completed,
                received: merged.tally.received,
                duplicated: merged.tally.duplicated,
                reordered: merged.tally.reordered,
                corrupted: merged.tally.corrupted,
                queued_bytes: merged.sent.bytes,
                received_bytes: merged.tally.bytes,
                p50_ns: times.p50_ns,
                p99_ns: times.p99_ns,
                max_ns: times.max_ns,
            };
            if number < self.shown {
                // News of a second that was shown already: the sums have to stay right.
                if let Some(last) = self.done.last_mut() {
                    merge(last, &second);
                }
                continue;
            }
            self.shown = number + 1;
            live.second(&second);
            self.done.push(second);
        }
    }
}

impl Default for Session {
    fn default() -> Self {
        Self::new()
    }
}

fn merge(into: &mut Second, more: &Second) {
    into.asked += more.asked;
    into.queued += more.queued;
    into.completed += more.completed;
    into.received += more.received;
    into.duplicated += more.duplicated;
    into.reordered += more.reordered;
    into.corrupted += more.corrupted;
    into.queued_bytes += more.queued_bytes;
    into.received_bytes += more.received_bytes;
    into.max_ns = into.max_ns.max(more.max_ns);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Show;
    use crate::counts::Extra;

    /// A session with workers that only wait to be stopped, and what is seen of them: whether they send, whether they detect.
    fn session(workers: &[(bool, bool)]) -> (Session, Vec<Arc<Progress>>) {
        let mut session = Session::new();
        let mut seen = Vec::new();
        for &(sends, detects) in workers {
            let progress = Arc::new(Progress::default());
            session.watched.push(Watched { sends, detects, progress: progress.clone() });
            seen.push(progress);
            let stop = session.stop.clone();
            session.names.push(format!("w-{}", session.names.len()));
            session.threads.push(std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(1));
                }
                outcome(None)
            }));
        }
        (session, seen)
    }

    fn outcome(error: Option<io::Error>) -> Outcome {
        Outcome {
            sent: Vec::new(),
            lag: Times::new(3),
            full: 0,
            kicks: 0,
            in_flight: 0,
            extra: Extra::default(),
            statistics: Default::default(),
            detector: None,
            last_sent: 0,
            worked: Duration::ZERO,
            pinned: true,
            error,
        }
    }

    fn live() -> Live {
        Live::new(&Show { quiet: true, ..Show::default() }, String::new(), true)
    }

    fn signals(interrupted: bool) -> Signals {
        Signals { interrupted: Arc::new(AtomicBool::new(interrupted)) }
    }

    const DRAIN: Duration = Duration::from_millis(400);

    #[test]
    fn packets_under_way_are_waited_for_whatever_else_comes_in() {
        let (session, seen) = session(&[(true, false), (false, true)]);
        seen[0].completed.store(100, Ordering::Relaxed);
        // More than that has come in at the sending end, which is others' talk.
        seen[0].received.store(1000, Ordering::Relaxed);
        seen[1].received.store(40, Ordering::Relaxed);
        seen[0].finished.store(true, Ordering::Release);
        let began = Instant::now();
        let finished = session.send(&signals(false), &mut live(), DRAIN, true);
        assert!(began.elapsed() >= DRAIN, "{:?}", began.elapsed());
        assert_eq!(finished.ended, Ended::Duration);
    }

    #[test]
    fn when_all_has_come_the_drain_is_cut_short() {
        let (session, seen) = session(&[(true, false), (false, true)]);
        seen[0].completed.store(100, Ordering::Relaxed);
        seen[1].received.store(100, Ordering::Relaxed);
        seen[0].finished.store(true, Ordering::Release);
        let began = Instant::now();
        session.send(&signals(false), &mut live(), Duration::from_secs(60), true);
        assert!(began.elapsed() >= LINGER && began.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn a_signal_ends_a_run_whose_packets_the_kernel_never_completes() {
        let (session, _seen) = session(&[(true, false), (false, true)]);
        let began = Instant::now();
        let finished = session.send(&signals(true), &mut live(), DRAIN, true);
        assert_eq!(finished.ended, Ended::Interrupted);
        let took = began.elapsed();
        assert!(took >= COMPLETE && took < COMPLETE + Duration::from_secs(10), "{took:?}");
    }

    #[test]
    fn a_worker_that_ends_by_itself_ends_the_run_with_its_cause() {
        let (mut session, seen) = session(&[(true, false), (false, true)]);
        session.watched.push(Watched { sends: true, detects: false, progress: seen[0].clone() });
        session.names.push("tx-1".into());
        session
            .threads
            .push(std::thread::spawn(|| outcome(Some(io::Error::other("the network is down")))));
        let finished = session.send(&signals(false), &mut live(), Duration::from_secs(60), true);
        assert_eq!(finished.ended, Ended::Failed);
        let errors: Vec<String> = finished.errors().collect();
        assert!(
            errors.len() == 1 && errors[0].contains("worker tx-1 ended early: the network is down"),
            "{errors:?}"
        );
    }
}
