//! `replay`: a capture sent again, with its gaps, faster or slower.
//!
//! The frames go out byte for byte and carry no signature, so nothing is told of loss; when each went out is, against the capture's times.

use crate::cli::Replay;
use crate::craft::Slot;
use crate::end::End;
use crate::live::Live;
use crate::neighbor::Responder;
use crate::profile::{EndPlan, ProfileError, wrong};
use crate::report::{Counts, Ended, Mode, Other, Report, SCHEMA, Setup, Stream};
use crate::run::{FEW_FRAMES, RX_FRAMES, RunError, TX_FRAMES, token_and_time};
use crate::session::{Finished, Session, Signals};
use crate::source::{Source, Streams};
use crate::summary::{generator, rates};
use crate::units::FCS;
use crate::worker::{Progress, Role, Settings, Worker};
use pcap_file::pcap::PcapReader;
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::{Block, PcapNgReader};
use pcap_file::{DataLink, TsResolution};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Longest capture that is read: it is kept in memory.
const MOST_BYTES: usize = 1 << 30;
/// Shortest frame that Ethernet has, without FCS; shorter ones are padded.
const MIN_FRAME: usize = 60;
/// A packet that late is given up.
const MAX_LAG: Duration = Duration::from_millis(100);
const WORDS: [u32; 4] = [0xa1b2_c3d4, 0xd4c3_b2a1, 0xa1b2_3c4d, 0x4d3c_b2a1];

/// A capture's frames and when each is due.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capture {
    /// All bytes, one frame after another.
    bytes: Vec<u8>,
    /// Each frame: where it ends, and nanoseconds after the first.
    frames: Vec<(usize, u64)>,
    /// Frames whose capture had less than all their bytes.
    pub cut: usize,
}

impl Capture {
    /// Reads a pcap or pcapng file of Ethernet frames.
    pub fn read(path: &Path) -> Result<Self, ProfileError> {
        let fail = |why: String| wrong(path.display().to_string(), why);
        let mut file = BufReader::new(File::open(path).map_err(|e| fail(e.to_string()))?);
        let mut magic = [0; 4];
        file.read_exact(&mut magic).map_err(|_| fail("it is no capture: it is empty".into()))?;
        let file = magic.as_slice().chain(file);
        let capture = if WORDS.contains(&u32::from_be_bytes(magic)) {
            Self::read_pcap(file)
        } else {
            Self::read_pcapng(file)
        };
        let capture = capture.map_err(fail)?;
        if capture.frames.is_empty() {
            return Err(fail("there is no packet in it".into()));
        }
        Ok(capture)
    }

    fn read_pcap(file: impl Read) -> Result<Self, String> {
        let mut reader = PcapReader::new(file).map_err(|e| e.to_string())?;
        let link = reader.header().datalink;
        if link != DataLink::ETHERNET {
            return Err(format!("its packets are {link:?}, not Ethernet frames"));
        }
        let mut capture = Self::default();
        let mut first = None;
        let unit = match reader.header().ts_resolution {
            TsResolution::MicroSecond => 1000,
            TsResolution::NanoSecond => 1,
        };
        // Raw: the checked form refuses packets that were longer than what was kept of them, and a snap length of 0.
        while let Some(packet) = reader.next_raw_packet() {
            let packet = packet.map_err(|e| format!("packet {}: {e}", capture.frames.len()))?;
            let fraction = packet.ts_frac.checked_mul(unit).filter(|nanos| *nanos < 1_000_000_000);
            let fraction = fraction.ok_or_else(|| {
                format!(
                    "packet {}: its time has a second or more of fraction",
                    capture.frames.len()
                )
            })?;
            let at = Duration::new(packet.ts_sec.into(), fraction);
            let whole = packet.incl_len >= packet.orig_len;
            capture.push(&packet.data, at, &mut first, whole)?;
        }
        Ok(capture)
    }

    fn read_pcapng(file: impl Read) -> Result<Self, String> {
        let mut reader = PcapNgReader::new(file).map_err(|e| format!("it is no capture: {e}"))?;
        let mut capture = Self::default();
        let mut first = None;
        let mut interfaces = Vec::new();
        while let Some(block) = reader.next_block() {
            match block.map_err(|e| format!("packet {}: {e}", capture.frames.len()))? {
                Block::InterfaceDescription(interface) => {
                    interfaces.push((interface.linktype, Clock::of(&interface)?));
                }
                Block::SectionHeader(_) => interfaces.clear(),
                Block::EnhancedPacket(packet) => {
                    let interface = interfaces.get(packet.interface_id as usize);
                    let Some((DataLink::ETHERNET, clock)) = interface else {
                        return Err("it has packets that are no Ethernet frames".into());
                    };
                    let whole = packet.data.len() >= packet.original_len as usize;
                    // The reader takes ticks for nanoseconds, whatever the interface's ticks are.
                    let at = clock.time(packet.timestamp.as_nanos());
                    capture.push(&packet.data, at, &mut first, whole)?;
                }
                _ => {}
            }
        }
        Ok(capture)
    }

    fn push(
        &mut self,
        data: &[u8],
        at: Duration,
        first: &mut Option<Duration>,
        whole: bool,
    ) -> Result<(), String> {
        if data.len() < 14 || self.bytes.len() + data.len() > MOST_BYTES {
            return Err(match data.len() {
                0..14 => format!(
                    "packet {}: {} bytes are no Ethernet frame",
                    self.frames.len(),
                    data.len()
                ),
                _ => format!("it has more than {MOST_BYTES} bytes of packets"),
            });
        }
        self.bytes.extend_from_slice(data);
        // A frame that had no room for its padding in the capture gets it here.
        let padding = MIN_FRAME.saturating_sub(data.len());
        self.bytes.resize(self.bytes.len() + padding, 0);
        // What was captured before the first packet (several interfaces, clocks that step back) is due with it.
        let first = *first.get_or_insert(at);
        let before = self.frames.last().map_or(0, |(_, due)| *due);
        let after = at.saturating_sub(first).as_nanos();
        let due = u64::try_from(after).unwrap_or(u64::MAX).max(before);
        self.frames.push((self.bytes.len(), due));
        self.cut += usize::from(!whole);
        Ok(())
    }

    fn frame(&self, index: usize) -> &[u8] {
        let from = index.checked_sub(1).and_then(|i| self.frames.get(i)).map_or(0, |(end, _)| *end);
        let to = self.frames.get(index).map_or(from, |(end, _)| *end);
        self.bytes.get(from..to).unwrap_or_default()
    }

    /// The longest frame's bytes.
    pub fn longest(&self) -> usize {
        (0..self.frames.len()).map(|i| self.frame(i).len()).max().unwrap_or(0)
    }

    /// Packets in it.
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// From one repetition's first packet to the next's: the capture's length and its mean gap.
    fn period(&self) -> u64 {
        let last = self.frames.last().map_or(0, |(_, due)| *due);
        last.saturating_add(last / (self.frames.len() as u64 - 1).max(1))
    }
}

/// How an interface of a pcapng file tells time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Clock {
    /// Ticks in a second.
    ticks: u128,
    /// Seconds that are added.
    offset: i64,
}

impl Clock {
    /// From the interface's options: microseconds since 1970, unless they say otherwise.
    fn of(interface: &InterfaceDescriptionBlock<'_>) -> Result<Self, String> {
        let mut clock = Self { ticks: 1_000_000, offset: 0 };
        for option in &interface.options {
            match option {
                InterfaceDescriptionOption::IfTsResol(n) => {
                    let power = u32::from(n & 0x7f);
                    let base = if n & 0x80 == 0 { 10_u128 } else { 2 };
                    clock.ticks = base.checked_pow(power).ok_or_else(|| {
                        format!("an interface's if_tsresol is {base} to the power of -{power}")
                    })?;
                }
                // Written as unsigned by the reader; the format's is signed.
                InterfaceDescriptionOption::IfTsOffset(seconds) => {
                    clock.offset = *seconds as i64;
                }
                _ => {}
            }
        }
        Ok(clock)
    }

    /// The time since 1970 at `ticks`, of which there are 64 bits.
    fn time(self, ticks: u128) -> Duration {
        const SECOND: u128 = 1_000_000_000;
        let seconds = ticks / self.ticks;
        // Whole seconds apart, so that the product fits; what is left is below a second, whose finest parts don't matter.
        let rest = ticks % self.ticks;
        let nanos = (rest.saturating_mul(SECOND) / self.ticks).min(SECOND - 1) as u32;
        let seconds = (seconds as i128 + i128::from(self.offset)).max(0);
        Duration::new(u64::try_from(seconds).unwrap_or(u64::MAX), nanos)
    }
}

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
        let (_, due) = self.capture.frames.get(self.index).filter(|_| self.left > 0)?;
        if self.speed.is_infinite() {
            return Some(now);
        }
        Some((self.base.saturating_add(*due) as f64 / self.speed) as u64)
    }

    #[inline]
    fn slot(&self) -> Slot {
        Slot { stream: 0, len: self.capture.frame(self.index).len() as u16 }
    }

    #[inline]
    fn craft(&mut self, _stamp: u64, out: &mut [u8]) -> usize {
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
        if self.index == self.capture.frames.len() {
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
    let capture = Capture::read(&arguments.capture)?;
    let ends = &arguments.ends;
    let tx_plan = EndPlan {
        port: ends.tx.clone(),
        netns: ends.netns_tx.clone(),
        addresses: ends.tx_address.clone(),
        cpus: ends.cpus_tx.clone(),
        zero_copy: ends.zero_copy.unwrap_or_default(),
        ..EndPlan::default()
    };
    if tx_plan.port.as_ref().is_some_and(|p| p.queues.is_some_and(|n| n != 1)) {
        return Err(
            wrong("--tx", "a capture is replayed on one queue, which keeps its order").into()
        );
    }
    let mut tx = End::open(&tx_plan, "tx", TX_FRAMES, FEW_FRAMES)?;
    let room = tx.device.mtu as usize + 22;
    if capture.longest() > room.min(usize::from(crate::profile::MAX_SIZE)) {
        let key = arguments.capture.display().to_string();
        let why =
            format!("a frame of {} bytes doesn't fit {}", capture.longest(), tx.port.interface);
        return Err(wrong(key, why).into());
    }
    let mut rx = match &ends.rx {
        Some(port) => {
            let plan = EndPlan {
                port: Some(port.clone()),
                netns: ends.netns_rx.clone(),
                addresses: ends.rx_address.clone(),
                cpus: ends.cpus_rx.clone(),
                zero_copy: ends.zero_copy.unwrap_or_default(),
                ..EndPlan::default()
            };
            let end = End::open(&plan, "rx", FEW_FRAMES, RX_FRAMES)?;
            Some((Responder::new(end.mac, &plan.addresses, &[]), end))
        }
        None => None,
    };
    let (_, started_unix_ms) = token_and_time();
    let facts = (capture.len(), capture.cut, capture.bytes.len());
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
            source: (index == 0)
                .then(|| Player::new(capture.clone(), arguments.speed, arguments.repeat)),
            role: Role::Count,
            responder: Arc::new(Responder::new(tx.mac, &tx_plan.addresses, &[])),
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
                responder: Arc::new(responder.clone()),
                settings: settings(end, index, 0),
                progress: Arc::new(Progress::default()),
                halt: session.halt.clone(),
                seconds: session.seconds(),
            });
        }
    }
    drop(capture);
    let senders_count = senders.len();
    for (index, worker) in senders.into_iter().enumerate() {
        session.start(format!("tx-{index}"), worker)?;
    }
    for (index, worker) in receivers.into_iter().enumerate() {
        session.start(format!("rx-{index}"), worker)?;
    }
    let name = arguments.capture.display().to_string();
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
        mean_size: facts.2 as f64 / facts.0 as f64 + FCS as f64,
    };
    Ok(report(setup, name, (facts.1, senders_count), started_unix_ms, &finished))
}

fn report(
    setup: Setup,
    name: String,
    (cut, senders): (usize, usize),
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
    if cut > 0 {
        warnings.push(format!("{cut} frames were captured in part, and sent so"));
    }
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
    use pcap_file::pcap::{PcapHeader, PcapPacket, PcapWriter, RawPcapPacket};

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
            let len = player.craft(0, &mut out);
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

    /// A pcapng file whose one interface has these options, with packets at these ticks.
    fn ng(options: &[u8], ticks: &[u64]) -> Vec<u8> {
        fn block(out: &mut Vec<u8>, kind: u32, body: &[u8]) {
            let len = (body.len() + 12) as u32;
            out.extend(kind.to_le_bytes());
            out.extend(len.to_le_bytes());
            out.extend(body);
            out.extend(len.to_le_bytes());
        }
        let mut out = Vec::new();
        let mut section = 0x1a2b_3c4d_u32.to_le_bytes().to_vec();
        section.extend([1, 0, 0, 0]);
        section.extend([0xff; 8]);
        block(&mut out, 0x0a0d_0d0a, &section);
        block(&mut out, 1, &[&[1, 0, 0, 0, 0, 0, 0, 0], options].concat());
        for at in ticks {
            let mut packet = 0_u32.to_le_bytes().to_vec();
            packet.extend(((at >> 32) as u32).to_le_bytes());
            packet.extend((*at as u32).to_le_bytes());
            packet.extend(60_u32.to_le_bytes());
            packet.extend(60_u32.to_le_bytes());
            packet.extend([7; 60]);
            block(&mut out, 6, &packet);
        }
        out
    }

    fn dues(capture: &Capture) -> Vec<u64> {
        capture.frames.iter().map(|(_, due)| *due).collect()
    }

    #[test]
    fn pcapng_ticks_are_what_the_interface_says() {
        let resolution = |n: u8| [9, 0, 1, 0, n, 0, 0, 0, 0, 0, 0, 0];
        let start = 1_700_000_000;
        for (options, ticks, expected) in [
            (&[][..], [start * 1_000_000, start * 1_000_000 + 1500], 1_500_000),
            (&resolution(6)[..], [start * 1_000_000, start * 1_000_000 + 1500], 1_500_000),
            (&resolution(9)[..], [start * 1_000_000_000, start * 1_000_000_000 + 1500], 1500),
            (&resolution(0)[..], [start, start + 2], 2_000_000_000),
            (&resolution(0x80 | 10)[..], [start * 1024, start * 1024 + 512], 500_000_000),
        ] {
            let capture = Capture::read_pcapng(&ng(options, &ticks)[..]).unwrap();
            assert_eq!(dues(&capture), [0, expected], "{options:?}");
        }
        let error = Capture::read_pcapng(&ng(&resolution(127), &[1])[..]).unwrap_err();
        assert!(error.contains("if_tsresol"), "{error}");
    }

    #[test]
    fn each_interface_of_a_pcapng_has_its_own_clock() {
        // The second interface is described after the first, and counts nanoseconds; its packet names it.
        let start = 1_700_000_000;
        let mut both = ng(&[], &[start * 1_000_000]);
        let nanoseconds = [9, 0, 1, 0, 9, 0, 0, 0, 0, 0, 0, 0];
        let other = ng(&nanoseconds, &[start * 1_000_000_000 + 2500]);
        // Past the other's section header; its packet block begins 8 bytes before its interface's number.
        let rest = other.get(28..).unwrap();
        let packet = rest.len() - (12 + 20 + 60);
        let mut rest = rest.to_vec();
        rest[packet + 8..packet + 12].copy_from_slice(&1_u32.to_le_bytes());
        both.extend(rest);
        assert_eq!(dues(&Capture::read_pcapng(&both[..]).unwrap()), [0, 2500]);
        // The same ticks by the first interface's clock would be a thousand times as many.
        both.extend(ng(&[], &[start * 1_000_000 + 7]).get(28 + 20..).unwrap());
        assert_eq!(dues(&Capture::read_pcapng(&both[..]).unwrap()), [0, 2500, 7000]);
    }

    #[test]
    fn an_interface_s_clock_is_moved_by_its_offset() {
        let clock = Clock { ticks: 1000, offset: -5 };
        assert_eq!(clock.time(7_250), Duration::from_millis(2_250));
        assert_eq!(clock.time(1_000), Duration::ZERO);
        assert_eq!(Clock { ticks: 1 << 127, offset: 1 }.time(5), Duration::from_secs(1));
        let last = Clock { ticks: 1, offset: i64::MAX }.time(u64::MAX.into());
        assert_eq!(last, Duration::from_secs(u64::MAX));
    }

    #[test]
    fn packets_that_were_kept_in_part_are_played_so() {
        for snaplen in [0, 96] {
            let header = PcapHeader { snaplen, ..PcapHeader::default() };
            let mut writer = PcapWriter::with_header(Vec::new(), header).unwrap();
            for (ts_frac, orig_len) in [(0, 1500), (250, 96)] {
                let data = vec![1; 96].into();
                let packet = RawPcapPacket { ts_sec: 9, ts_frac, incl_len: 96, orig_len, data };
                writer.write_raw_packet(&packet).unwrap();
            }
            let capture = Capture::read_pcap(&writer.into_writer()[..]).unwrap();
            assert_eq!((dues(&capture), capture.cut), (vec![0, 250_000], 1));
        }
        let mut writer = PcapWriter::new(Vec::new()).unwrap();
        let data = vec![1; 60].into();
        let packet =
            RawPcapPacket { ts_sec: 0, ts_frac: 1_000_000, incl_len: 60, orig_len: 60, data };
        writer.write_raw_packet(&packet).unwrap();
        let error = Capture::read_pcap(&writer.into_writer()[..]).unwrap_err();
        assert!(error.contains("packet 0"), "{error}");
    }

    #[test]
    fn what_is_no_capture_is_said_so() {
        for (bytes, needle) in [
            (&b"hello, world, this is text"[..], "no capture"),
            (&b"x"[..], "empty"),
            (&capture(&[])[..], "no packet"),
            (&capture(&[(1, 100)])[..90], "packet 0"),
            (&capture(&[(1, 13)])[..], "no Ethernet frame"),
        ] {
            let path =
                std::env::temp_dir().join(format!("millrace-replay-{}.pcap", std::process::id()));
            std::fs::write(&path, bytes).unwrap();
            let error = Capture::read(&path).unwrap_err().to_string();
            std::fs::remove_file(&path).unwrap();
            assert!(error.contains(needle), "{error}");
        }
    }
}
