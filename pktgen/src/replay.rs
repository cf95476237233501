//! `replay`: a capture sent again, with its gaps, faster or slower.
//!
//! The frames go out byte for byte and carry no signature, so nothing is told of loss; when each went out is, against the capture's times.

use crate::capture::Capture;
use crate::cli::{Port, Replay};
use crate::craft::Slot;
use crate::end::{End, EndError, LINK};
use crate::live::Live;
use crate::neighbor::Responder;
use crate::profile::{EndPlan, MAX_SIZE, wrong};
use crate::report::{Counts, Ended, Mode, Other, Report, SCHEMA, Setup, Stream};
use crate::run::{FEW_FRAMES, RESOLVE, RX_FRAMES, RunError, TX_FRAMES, make_known, token_and_time};
use crate::session::{Finished, Session, Signals};
use crate::source::{Source, Streams};
use crate::summary::{generator, rates};
use crate::units::FCS;
use crate::worker::{Progress, Role, Settings, Worker};
use ipnet::IpNet;
use millrace_wire::Mac;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// A packet that late is given up.
const MAX_LAG: Duration = Duration::from_millis(100);

/// A capture at work.
pub struct Player {
    capture: Capture,
    speed: f64,
    left: u32,
    index: usize,
    base: u64,
}

impl Player {
    /// Plays `capture` `repeat` times, `speed` times as fast; infinitely fast leaves no gaps.
    pub fn new(capture: Capture, speed: f64, repeat: u32) -> Self {
        Self { capture, speed, left: repeat, index: 0, base: 0 }
    }
}

impl Source for Player {
    #[inline]
    fn due(&mut self, now: u64) -> Option<u64> {
        let due = self.capture.due(self.index).filter(|_| self.left > 0)?;
        if self.speed.is_infinite() {
            return Some(now);
        }
        Some((self.base.saturating_add(due) as f64 / self.speed) as u64)
    }

    #[inline]
    fn slot(&self) -> Slot {
        Slot { stream: 0, len: self.capture.frame(self.index).len() as u16 }
    }

    #[inline]
    fn craft(&mut self, _stamp: u64, _held: usize, out: &mut [u8]) -> usize {
        let frame = self.capture.frame(self.index);
        let len = frame.len();
        if let Some(out) = out.get_mut(..len) {
            out.copy_from_slice(frame);
        }
        self.skip();
        len
    }

    fn skip(&mut self) {
        self.index += 1;
        if self.index == self.capture.len() {
            self.index = 0;
            self.left -= 1;
            self.base = self.base.saturating_add(self.capture.period());
        }
    }

    fn is_paced(&self) -> bool {
        self.speed.is_finite()
    }
}

/// Replays a capture; a receiver only counts.
pub fn run(arguments: &Replay, signals: &Signals) -> Result<Report, RunError> {
    let name = arguments.capture.display().to_string();
    let mut capture = Capture::read(&arguments.capture)?;
    let ends = &arguments.ends;
    let (tx_plan, rx_plan) = (ends.sending(), ends.receiving());
    if tx_plan.port.as_ref().is_some_and(|p| p.queues.is_some_and(|n| n != 1)) {
        let why = "a capture is replayed on one queue, which keeps its order";
        return Err(wrong("--tx", why).into());
    }
    let same = |a: &Port, b: &Port| a.interface == b.interface && tx_plan.netns == rx_plan.netns;
    if tx_plan.port.as_ref().zip(rx_plan.port.as_ref()).is_some_and(|(a, b)| same(a, b)) {
        let why = "what comes in on the sending interface is not counted: give another one";
        return Err(wrong("--rx", why).into());
    }
    let mut tx = End::open(&tx_plan, "tx", TX_FRAMES, FEW_FRAMES)?;
    let mtu = tx.device.mtu as usize;
    let room = (mtu + LINK as usize).min(usize::from(MAX_SIZE));
    if let Some((number, len)) = capture.longer_than(room) {
        let why = format!(
            "packet {number}: {len} bytes don't fit {}, whose MTU is {mtu}; what is longer than any MTU was captured with offloads on (`ethtool -K … gro off gso off tso off`)",
            tx.port.interface
        );
        return Err(wrong(name, why).into());
    }
    let tx_responder = Arc::new(Responder::new(tx.mac, &tx_plan.addresses, &[]));
    let next = gateway(&tx_plan, &mut tx, &tx_responder)?;
    capture.address(arguments.src_mac, arguments.dst_mac.or(next));
    let mut rx = match rx_plan.port {
        Some(_) => {
            let mut end = End::open(&rx_plan, "rx", FEW_FRAMES, RX_FRAMES)?;
            let responder = Arc::new(Responder::new(end.mac, &rx_plan.addresses, &[]));
            make_known(&rx_plan, &mut end, &responder)?;
            Some((responder, end))
        }
        None => None,
    };
    let (_, started_unix_ms) = token_and_time();
    let mean_size = capture.bytes() as f64 / capture.len() as f64 + FCS as f64;
    let missing = capture.warnings();
    let mut player = Some(Player::new(capture, arguments.speed, arguments.repeat));
    let mut session = Session::new();
    let settings = |end: &End, index, streams| Settings {
        epoch: session.epoch,
        burst: 32,
        max_lag: MAX_LAG.as_nanos() as u64,
        spin: 20_000,
        streams,
        cpu: end.cpu(index),
    };
    let mut senders = Vec::new();
    for (index, queue) in std::mem::take(&mut tx.queues).into_iter().enumerate() {
        senders.push(Worker {
            sender: queue.sender,
            receiver: queue.receiver,
            // The first queue's.
            source: player.take(),
            role: Role::Count,
            responder: tx_responder.clone(),
            settings: settings(&tx, index, 1),
            progress: Arc::new(Progress::default()),
            halt: session.halt.clone(),
            seconds: session.seconds(),
        });
    }
    let mut receivers = Vec::new();
    if let Some((responder, end)) = &mut rx {
        for (index, queue) in std::mem::take(&mut end.queues).into_iter().enumerate() {
            receivers.push(Worker::<Streams> {
                sender: queue.sender,
                receiver: queue.receiver,
                source: None,
                role: Role::Count,
                responder: responder.clone(),
                settings: settings(end, index, 0),
                progress: Arc::new(Progress::default()),
                halt: session.halt.clone(),
                seconds: session.seconds(),
            });
        }
    }
    let senders_count = senders.len();
    for (index, worker) in senders.into_iter().enumerate() {
        session.start(format!("tx-{index}"), worker)?;
    }
    for (index, worker) in receivers.into_iter().enumerate() {
        session.start(format!("rx-{index}"), worker)?;
    }
    let mut live = Live::new(&arguments.show, name.clone(), rx.is_some());
    let drain = if rx.is_some() { Duration::from_millis(200) } else { Duration::ZERO };
    let finished = session.send(signals, &mut live, drain, false);
    let rx = rx.map(|(_, end)| end.describe());
    let setup = Setup {
        tx: Some(tx.describe()),
        rx,
        rate: match arguments.speed {
            speed if speed.is_finite() => format!("{speed}x"),
            _ => "max".into(),
        },
        rate_pps: None,
        mean_size,
    };
    let mut report = report(setup, name, senders_count, started_unix_ms, &finished);
    report.warnings.extend(missing);
    Ok(report)
}

/// The MAC address of the sending end's router, if it has one.
fn gateway(plan: &EndPlan, end: &mut End, responder: &Responder) -> Result<Option<Mac>, RunError> {
    let routers = [plan.gateway.map(IpAddr::from), plan.gateway6.map(IpAddr::from)];
    let Some(router) = routers.into_iter().flatten().next() else { return Ok(None) };
    let own = plan.addresses.iter().map(IpNet::addr).find(|a| a.is_ipv4() == router.is_ipv4());
    let own = own.ok_or_else(|| {
        wrong("--tx-address", format!("one is needed to ask for {router}'s MAC address"))
    })?;
    let known = end.resolve(&[(own, router)], responder, RESOLVE)?;
    let mac = known.get(&router).copied().ok_or_else(|| {
        EndError::Unresolved(format!(
            "interface {}: nobody answers for --gateway {router}",
            end.port.interface
        ))
    })?;
    Ok(Some(mac))
}

fn report(
    setup: Setup,
    name: String,
    senders: usize,
    started_unix_ms: u64,
    finished: &Finished,
) -> Report {
    let outcomes = &finished.outcomes;
    let sent = outcomes.first().and_then(|o| o.sent.first()).copied().unwrap_or_default();
    let mut other = Other::default();
    for o in outcomes.iter().skip(senders) {
        other.frames += o.extra.frames;
        other.bytes += o.extra.bytes;
    }
    let total = Counts {
        asked: sent.asked,
        queued: sent.queued,
        completed: sent.completed,
        unsent: sent.asked - sent.queued,
        received: other.frames,
        queued_bytes: sent.bytes,
        received_bytes: other.bytes,
        ..Counts::default()
    };
    let elapsed_s = outcomes.iter().map(|o| o.last_sent).max().unwrap_or(0) as f64 / 1e9;
    let generator = generator(outcomes, &total);
    let mut warnings: Vec<_> = finished.errors().collect();
    if total.unsent > 0 {
        warnings.push(format!(
            "the generator could not send {} of {} packets in time",
            total.unsent, total.asked
        ));
    }
    Report {
        schema: SCHEMA.into(),
        version: env!("CARGO_PKG_VERSION").into(),
        mode: Mode::Replay,
        profile: name.clone(),
        seed: 0,
        started_unix_ms,
        ended: match finished.ended {
            Ended::Duration => Ended::Count,
            ended => ended,
        },
        elapsed_s,
        rates: rates(&total, elapsed_s),
        setup,
        total,
        latency: None,
        jitter: None,
        generator,
        streams: vec![Stream {
            name,
            signature: false,
            counts: total,
            latency: None,
            jitter: None,
        }],
        seconds: finished.seconds.clone(),
        other: None,
        warnings,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pcap_file::pcap::{PcapPacket, PcapWriter};

    fn capture(packets: &[(u64, usize)]) -> Vec<u8> {
        let mut writer = PcapWriter::new(Vec::new()).unwrap();
        for (micros, len) in packets {
            let data = vec![*len as u8; *len];
            let packet = PcapPacket::new(Duration::from_micros(*micros), *len as u32, &data);
            writer.write_packet(&packet).unwrap();
        }
        writer.into_writer()
    }

    fn play(bytes: &[u8], speed: f64, repeat: u32) -> Vec<(u64, usize)> {
        let capture = Capture::read_pcap(bytes).unwrap();
        let mut player = Player::new(capture, speed, repeat);
        let mut out = vec![0; 2000];
        let mut played = Vec::new();
        while let Some(due) = player.due(7) {
            let slot = player.slot();
            let len = player.craft(0, 0, &mut out);
            assert_eq!(len, usize::from(slot.len));
            played.push((due, len));
        }
        played
    }

    #[test]
    fn gaps_are_kept_and_scaled() {
        let bytes = capture(&[(5_000_000, 100), (5_000_010, 60), (5_001_010, 200)]);
        assert_eq!(play(&bytes, 1.0, 1), [(0, 100), (10_000, 60), (1_010_000, 200)]);
        assert_eq!(play(&bytes, 2.0, 1), [(0, 100), (5_000, 60), (505_000, 200)]);
        assert_eq!(play(&bytes, f64::INFINITY, 1), [(7, 100), (7, 60), (7, 200)]);
        // The next repetition comes a mean gap after the last packet.
        assert_eq!(
            play(&bytes, 1.0, 2)[3..],
            [(1_515_000, 100), (1_525_000, 60), (2_525_000, 200)]
        );
    }

    #[test]
    fn short_frames_are_padded_and_time_never_goes_back() {
        let bytes = capture(&[(10, 42), (5, 60), (20, 60)]);
        assert_eq!(play(&bytes, 1.0, 1), [(0, 60), (0, 60), (10_000, 60)]);
    }
}
