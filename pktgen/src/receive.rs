//! What a received packet of the run tells: which one it is, whether it came before, in order and whole, and how long it took.
//!
//! Cost of a packet: the signature (18 bytes), its checksums if they are checked (a pass over its bytes), a bit in a window, and four
//! histograms. Where several queues receive, the windows are shared, locked once for a burst; order is judged in each queue by itself, as queues
//! are told apart by flow.

use crate::detect::{Seen, Window};
use crate::latency::Times;
use crate::signature::{Found, Signature};
use crate::units::FCS;
use crate::verify;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of all windows together, about.
const WINDOWS: usize = 64 << 20;
/// Greatest window: a second at a million packets.
const WINDOW: usize = 1 << 20;

/// The windows of all substreams.
pub type Windows = Arc<Mutex<Vec<Window>>>;

/// Windows for so many substreams.
pub fn windows(substreams: usize) -> Windows {
    let size = (WINDOWS * 8 / substreams.max(1)).clamp(1 << 12, WINDOW);
    // Rounded down, so that many streams don't take twice the memory.
    let size = if size.is_power_of_two() { size } else { size.next_power_of_two() / 2 };
    Arc::new(Mutex::new(vec![Window::new(size); substreams]))
}

/// What was counted of one substream, or of a second.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Different packets.
    pub received: u64,
    /// Further copies.
    pub duplicated: u64,
    /// After a later one.
    pub reordered: u64,
    /// With a wrong checksum or signature.
    pub corrupted: u64,
    /// Bytes with FCS.
    pub bytes: u64,
    /// So late that copies can't be told.
    pub too_old: u64,
}

impl Tally {
    /// Adds another's counts.
    pub fn add(&mut self, other: &Self) {
        self.received += other.received;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.corrupted += other.corrupted;
        self.bytes += other.bytes;
        self.too_old += other.too_old;
    }
}

/// A substream at one queue.
#[derive(Clone, Debug, Default)]
struct Sub {
    tally: Tally,
    /// One above the highest number here.
    top: u64,
    /// Latency of the packet before.
    last: Option<u64>,
}

/// Latency and jitter of a stream.
#[derive(Clone, Debug)]
pub struct Delays {
    /// Latency.
    pub latency: Times,
    /// Jitter.
    pub jitter: Times,
}

impl Delays {
    fn new(digits: u8) -> Self {
        Self { latency: Times::new(digits), jitter: Times::new(digits) }
    }

    /// Adds another's.
    pub fn add(&mut self, other: &Self) {
        self.latency.add(&other.latency);
        self.jitter.add(&other.jitter);
    }
}

/// What one queue has received.
pub struct Detector {
    token: u16,
    workers: usize,
    verify: bool,
    windows: Windows,
    subs: Vec<Sub>,
    /// Of each stream; empty when there are too many.
    streams: Vec<Delays>,
    /// Of all.
    pub all: Delays,
    /// Of this second.
    pub second: Times,
    /// Counts of this second.
    pub second_tally: Tally,
    /// Broken signatures: nobody knows whose.
    pub broken: u64,
    received: u64,
}

/// More streams than this have no latency of their own.
const MOST_DELAYS: usize = 512;

impl Detector {
    /// For the packets of `streams` streams that `workers` workers send with `token`.
    pub fn new(token: u16, streams: usize, workers: usize, verify: bool, windows: Windows) -> Self {
        let delays = match streams {
            0..=16 => vec![Delays::new(3); streams],
            17..=MOST_DELAYS => vec![Delays::new(2); streams],
            _ => Vec::new(),
        };
        Self {
            token,
            workers,
            verify,
            windows,
            subs: vec![Sub::default(); streams * workers],
            streams: delays,
            all: Delays::new(3),
            second: Times::new(3),
            second_tally: Tally::default(),
            broken: 0,
            received: 0,
        }
    }

    /// The windows, to be locked for a burst.
    pub fn windows(&self) -> Windows {
        Arc::clone(&self.windows)
    }

    /// Notes a frame that came at `now`; false if it is not of this run.
    #[inline]
    pub fn note(&mut self, frame: &[u8], now: u64, windows: &mut [Window]) -> bool {
        let signature = match find(frame, self.token) {
            Found::Ours(signature) => signature,
            Found::Broken => {
                self.broken += 1;
                self.second_tally.corrupted += 1;
                return true;
            }
            Found::Other => return false,
        };
        let index = usize::from(signature.substream);
        let (Some(sub), Some(window)) = (self.subs.get_mut(index), windows.get_mut(index)) else {
            return false;
        };
        let holds = !self.verify || verify::checksums_hold(frame);
        let number = window.whole(signature.sequence);
        let seen = window.note(number);
        // A corrupted packet has its number too: beside a good copy it is one packet, not two, which would hide that another is lost.
        if !holds && seen != Seen::Again {
            sub.tally.corrupted += 1;
            self.second_tally.corrupted += 1;
            return true;
        }
        match seen {
            Seen::Again => {
                sub.tally.duplicated += 1;
                self.second_tally.duplicated += 1;
                return true;
            }
            Seen::TooOld => sub.tally.too_old += 1,
            Seen::New => {}
        }
        let bytes = (frame.len() + FCS) as u64;
        sub.tally.received += 1;
        self.received += 1;
        sub.tally.bytes += bytes;
        self.second_tally.received += 1;
        self.second_tally.bytes += bytes;
        if number < sub.top {
            sub.tally.reordered += 1;
            self.second_tally.reordered += 1;
        } else {
            sub.top = number + 1;
        }

        // The stamp has 48 bits, and so has the difference.
        let latency = now.wrapping_sub(signature.due_ns) & 0xffff_ffff_ffff;
        // A packet that was stamped a moment after the clock was read here: none at all.
        let latency = if latency >= 1 << 47 { 0 } else { latency };
        let jitter = sub.last.replace(latency).map(|last| last.abs_diff(latency));
        self.all.latency.note(latency);
        self.second.note(latency);
        if let Some(jitter) = jitter {
            self.all.jitter.note(jitter);
        }
        if let Some(delays) = self.streams.get_mut(index / self.workers) {
            delays.latency.note(latency);
            if let Some(jitter) = jitter {
                delays.jitter.note(jitter);
            }
        }
        true
    }

    /// Different packets of all streams.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// What was counted of stream `index`.
    pub fn tally(&self, index: usize) -> Tally {
        let mut tally = Tally::default();
        let subs = self.subs.iter().skip(index * self.workers).take(self.workers);
        subs.for_each(|sub| tally.add(&sub.tally));
        tally
    }

    /// Latency and jitter of stream `index`.
    pub fn delays(&self, index: usize) -> Option<&Delays> {
        self.streams.get(index)
    }
}

/// Locks windows; a worker that panicked has left them usable.
pub fn lock(windows: &Windows) -> std::sync::MutexGuard<'_, Vec<Window>> {
    windows.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The signature at the frame's end, or at its packet's where the frame was padded on the way.
#[inline]
fn find(frame: &[u8], token: u16) -> Found {
    let found = Signature::find(frame, token);
    if found != Found::Other {
        return found;
    }
    let end = || {
        let (kind, at) = verify::payload(frame)?;
        let len = match kind {
            0x0800 => usize::from(verify::word(frame, at + 2)?),
            0x86dd => 40 + usize::from(verify::word(frame, at + 4)?),
            _ => return None,
        };
        frame.get(..at + len)
    };
    match end() {
        Some(packet) if packet.len() < frame.len() => Signature::find(packet, token),
        _ => Found::Other,
    }
}

#[cfg(test)]
mod tests;
