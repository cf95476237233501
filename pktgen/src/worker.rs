//! One thread, one queue: sends what is due, receives what has come, answers the neighbors, and sleeps when there is nothing to do.
//!
//! A turn of the loop: one clock read; the packets that are due, at most a burst, written and handed over with one system call (a further one for
//! each 32 in copy mode); completions taken back; received frames noted, at most 64. Nothing is shared with other workers but the windows of the
//! detector (one lock a burst) and two counters that are written once a turn.

use crate::counts::{Extra, Outcome, Partial, Row, Sent};
use crate::end::pin;
use crate::neighbor::{Answered, Responder, reflect};
use crate::receive::{Detector, Tally, lock};
use crate::ring::{Receiver, Sender, Statistics, UNCOUNTED};
use crate::source::Source;
use crate::{latency::Times, units::FCS};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// A sleep ends this much too early, and the rest is spun: timers are late by about half of it.
const EARLY: u64 = 150_000;
/// No sleep is longer than this.
const NAP: u64 = 1_000_000;
/// How long a receiver waits for packets at once.
const WAIT: Duration = Duration::from_millis(10);
/// Packets given up in one turn, before the clock is read again.
const SKIPS: usize = 4096;
const SECOND: u64 = 1_000_000_000;
/// How long the kernel may take to complete what was queued, before it is held to have lost it.
pub const COMPLETE: Duration = Duration::from_secs(2);

/// What is done with received frames.
pub enum Role {
    /// They are counted, and the neighbors answered.
    Count,
    /// Those of the run are noted.
    Detect(Box<Detector>),
    /// They are sent back.
    Reflect,
}

/// How a worker works.
#[derive(Clone, Debug)]
pub struct Settings {
    /// When the run starts.
    pub epoch: Instant,
    /// Most packets handed over at once.
    pub burst: usize,
    /// From what lateness a packet is given up.
    pub max_lag: u64,
    /// How long it spins without work before it sleeps.
    pub spin: u64,
    /// Streams of the run.
    pub streams: usize,
    /// CPU to run on.
    pub cpu: Option<usize>,
}

/// What everybody may see of a worker at any time.
#[derive(Debug, Default)]
pub struct Progress {
    /// Packets completed.
    pub completed: AtomicU64,
    /// Different packets received; without a detector, frames.
    pub received: AtomicU64,
    /// It has sent all, and the kernel has completed it, or hasn't in [`COMPLETE`].
    pub finished: AtomicBool,
}

/// A worker before it starts.
pub struct Worker<S> {
    /// Sends.
    pub sender: Sender,
    /// Receives.
    pub receiver: Receiver,
    /// What it sends; none, and it receives alone.
    pub source: Option<S>,
    /// What it does with received frames.
    pub role: Role,
    /// Who answers.
    pub responder: Arc<Responder>,
    /// How it works.
    pub settings: Settings,
    /// What others see.
    pub progress: Arc<Progress>,
    /// Set when sending is to end before the source does.
    pub halt: Arc<AtomicBool>,
    /// Where seconds go.
    pub seconds: mpsc::Sender<Partial>,
}

struct State {
    sent: Vec<Sent>,
    total: Sent,
    told: Sent,
    lag: Times,
    full: u64,
    last_sent: u64,
    extra: Extra,
    told_frames: (u64, u64),
    second: u64,
    /// When its source had no more.
    done_at: Option<Instant>,
}

impl State {
    fn queued(&mut self, row: Row) {
        let bytes = row.bytes + row.packets * FCS as u64;
        if let Some(sent) = self.sent.get_mut(row.stream as usize) {
            for sent in [sent, &mut self.total] {
                sent.asked += row.packets;
                sent.queued += row.packets;
                sent.bytes += bytes;
            }
        }
    }

    fn completed(&mut self, row: Row) {
        // Those of nobody are no stream's.
        if let Some(sent) = self.sent.get_mut(row.stream as usize) {
            sent.completed += row.packets;
            self.total.completed += row.packets;
        }
    }
}

impl<S: Source> Worker<S> {
    /// Works until `stop`, or until the kernel has an error.
    pub fn run(&mut self, stop: &AtomicBool) -> Outcome {
        let pinned = self.settings.cpu.is_none_or(pin);
        let mut state = State {
            sent: vec![Sent::default(); self.settings.streams],
            total: Sent::default(),
            told: Sent::default(),
            lag: Times::new(3),
            full: 0,
            last_sent: 0,
            extra: Extra::default(),
            told_frames: (0, 0),
            second: 0,
            done_at: None,
        };
        let began = Instant::now();
        let ended = self.work(&mut state, stop);
        let worked = began.elapsed();
        let second = state.second;
        self.tell(&mut state, second + 1);
        self.publish(&state);
        let (statistics, asked) = match self.receiver.statistics() {
            Ok(statistics) => (statistics, None),
            Err(error) => (Statistics::default(), Some(error)),
        };
        Outcome {
            sent: state.sent,
            lag: state.lag,
            full: state.full,
            kicks: self.sender.kicks(),
            in_flight: self.sender.in_flight(),
            extra: state.extra,
            statistics,
            detector: match std::mem::replace(&mut self.role, Role::Count) {
                Role::Detect(detector) => Some(detector),
                _ => None,
            },
            last_sent: state.last_sent,
            worked,
            pinned,
            error: ended.err().or(asked),
        }
    }

    fn work(&mut self, state: &mut State, stop: &AtomicBool) -> io::Result<()> {
        let epoch = self.settings.epoch;
        let mut idle_since = None;
        while !stop.load(Ordering::Relaxed) {
            let instant = Instant::now();
            let Some(since) = instant.checked_duration_since(epoch) else {
                self.take_in(state, 0)?;
                std::thread::sleep(Duration::from_micros(100).min(epoch - instant));
                continue;
            };
            let now = since.as_nanos() as u64;
            let sent = self.put_out(state, now)?;
            let received = self.take_in(state, now)?;
            if now / SECOND != state.second {
                self.tell(state, now / SECOND);
            }
            self.publish(state);
            if sent + received > 0 {
                idle_since = None;
                continue;
            }
            let idle = now - *idle_since.get_or_insert(now);
            self.rest(now, idle)?;
        }
        Ok(())
    }

    /// Sends what is due; answers how many packets that were, those given up included.
    #[inline]
    fn put_out(&mut self, state: &mut State, now: u64) -> io::Result<usize> {
        let Some(source) = &mut self.source else { return self.finish(state) };
        let paced = source.is_paced();
        let (mut count, mut skips, mut starved) = (0, 0, false);
        let mut over = self.halt.load(Ordering::Relaxed);
        let mut row = Row::default();
        while count < self.settings.burst && !over {
            let Some(due) = source.due(now) else {
                over = true;
                break;
            };
            if due > now {
                break;
            }
            let slot = source.slot();
            let lag = now - due;
            if lag > self.settings.max_lag && paced {
                source.skip();
                if let Some(sent) = state.sent.get_mut(slot.stream as usize) {
                    sent.asked += 1;
                }
                state.total.asked += 1;
                skips += 1;
                if skips == SKIPS {
                    break;
                }
                continue;
            }
            if !self.sender.rewrite(slot.stream, |out, held| source.craft(due, held, out)) {
                state.full += 1;
                starved = true;
                break;
            }
            if paced {
                state.lag.note(lag);
            }
            if row.stream != slot.stream {
                state.queued(std::mem::replace(&mut row, Row::of(slot.stream)));
            }
            row.packets += 1;
            row.bytes += u64::from(slot.len);
            count += 1;
        }
        state.queued(row);
        // With no free frame the kernel has them all, and may have to be asked again: after an outage nobody else does.
        if count > 0 || starved {
            self.sender.send()?;
        }
        if count > 0 {
            state.last_sent = now;
        }
        self.reap(state);
        if over {
            self.source = None;
        }
        Ok(count + skips)
    }

    fn reap(&mut self, state: &mut State) -> usize {
        let mut row = Row::default();
        let count = self.sender.reap(|mark| {
            if row.stream != mark {
                state.completed(std::mem::replace(&mut row, Row::of(mark)));
            }
            row.packets += 1;
        });
        state.completed(row);
        count
    }

    /// All is sent: what the kernel still has.
    fn finish(&mut self, state: &mut State) -> io::Result<usize> {
        let done_at = *state.done_at.get_or_insert_with(Instant::now);
        if self.sender.in_flight() == 0 || done_at.elapsed() > COMPLETE {
            self.progress.finished.store(true, Ordering::Release);
        }
        if self.sender.in_flight() == 0 {
            return Ok(0);
        }
        self.sender.kick()?;
        Ok(self.reap(state))
    }

    /// Notes and answers what has come; answers how many frames that were.
    #[inline]
    fn take_in(&mut self, state: &mut State, before: u64) -> io::Result<usize> {
        let Self { sender, receiver, role, responder, settings, .. } = self;
        let extra = &mut state.extra;
        let epoch = settings.epoch;
        // The clock is read when there is something, and once for all of it.
        let mut clock = None;
        let windows = match role {
            Role::Detect(detector) => Some(detector.windows()),
            _ => None,
        };
        let mut windows = windows.as_ref().map(lock);
        let mut answers = 0;
        let count = receiver.receive(|frame| {
            extra.frames += 1;
            extra.bytes += (frame.len() + FCS) as u64;
            if let (Role::Detect(detector), Some(windows)) = (&mut *role, &mut windows) {
                let now = *clock.get_or_insert_with(|| {
                    let since = Instant::now().saturating_duration_since(epoch).as_nanos() as u64;
                    since.max(before)
                });
                if detector.note(frame, now, windows) {
                    return;
                }
            }
            let mut answered = None;
            let mut reflected = false;
            let room = sender.write(UNCOUNTED, |out| {
                if let Some((len, what)) = responder.answer(frame, out) {
                    answered = Some(what);
                    return len;
                }
                if matches!(role, Role::Reflect)
                    && let Some(len) = reflect(frame, out)
                {
                    reflected = true;
                    return len;
                }
                0
            });
            answers += usize::from(answered.is_some() || reflected);
            match answered {
                Some(Answered::Arp) => extra.arp += 1,
                Some(Answered::Nd) => extra.nd += 1,
                Some(Answered::Echo) => extra.echo += 1,
                None if reflected => extra.reflected += 1,
                None if !room => extra.unanswered += 1,
                None => extra.foreign += 1,
            }
        });
        drop(windows);
        if answers > 0 {
            sender.send()?;
        }
        if count > 0 {
            self.reap(state);
        }
        Ok(count)
    }

    /// Tells what happened up to the start of second `next`.
    #[cold]
    fn tell(&mut self, state: &mut State, next: u64) {
        let mut partial = Partial {
            second: state.second,
            sent: state.total.since(&state.told),
            tally: Tally::default(),
            times: None,
        };
        if let Role::Detect(detector) = &mut self.role {
            partial.tally = std::mem::take(&mut detector.second_tally);
            if !detector.second.is_empty() {
                partial.times = Some(detector.second.clone());
                detector.second.clear();
            }
        } else if !matches!(self.role, Role::Detect(_)) && state.sent.is_empty() {
            partial.tally.received = state.extra.frames - state.told_frames.0;
            partial.tally.bytes = state.extra.bytes - state.told_frames.1;
            state.told_frames = (state.extra.frames, state.extra.bytes);
        }
        state.told = state.total;
        state.second = next;
        // Nobody listens any more: the run is over.
        let _over = self.seconds.send(partial);
    }

    #[inline]
    fn publish(&self, state: &State) {
        let received = match &self.role {
            Role::Detect(detector) => detector.received(),
            _ => state.extra.frames,
        };
        self.progress.completed.store(state.total.completed, Ordering::Relaxed);
        self.progress.received.store(received, Ordering::Relaxed);
    }

    /// There was nothing to do: until the next packet is due, or something comes.
    #[inline]
    fn rest(&mut self, now: u64, idle: u64) -> io::Result<()> {
        if let Some(source) = &mut self.source {
            let due = source.due(now).unwrap_or(now);
            let left = due.saturating_sub(now);
            if left > EARLY + EARLY / 4 {
                std::thread::sleep(Duration::from_nanos((left - EARLY).min(NAP)));
            } else {
                std::hint::spin_loop();
            }
        } else if idle < self.settings.spin || self.sender.in_flight() > 0 {
            std::hint::spin_loop();
        } else {
            self.receiver.wait(WAIT)?;
        }
        Ok(())
    }
}
