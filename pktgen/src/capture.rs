//! A capture: the frames of a pcap or pcapng file, and when each is due.
//!
//! What can't be sent as it was is refused with its packet's number; what was captured in part, or a file that ends in the middle of a packet, is taken
//! as far as it goes, and the report says so.

use crate::profile::{ProfileError, wrong};
use millrace_wire::Mac;
use pcap_file::pcap::PcapReader;
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::{Block, PcapNgReader};
use pcap_file::{DataLink, PcapError, TsResolution};
use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::path::Path;
use std::time::Duration;

/// Longest capture that is read: it is kept in memory.
const MOST_BYTES: usize = 1 << 30;
/// Shortest frame that Ethernet has, without FCS; shorter ones are padded.
const MIN_FRAME: usize = 60;
/// What pcap files begin with, in microseconds and nanoseconds and either byte order; and pcapng files.
const WORDS: [u32; 4] = [0xa1b2_c3d4, 0xd4c3_b2a1, 0xa1b2_3c4d, 0x4d3c_b2a1];
const SECTION: u32 = 0x0a0d_0d0a;

/// A capture's frames and when each is due.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capture {
    /// All bytes, one frame after another.
    bytes: Vec<u8>,
    /// Each frame: where it ends, and nanoseconds after the first.
    frames: Vec<(usize, u64)>,
    /// Frames whose capture had less than all their bytes.
    pub cut: usize,
    /// Packets that a pcapng file has without a time, which are left out.
    pub timeless: usize,
    /// The file ends in the middle of a packet.
    pub unfinished: bool,
}

impl Capture {
    /// Reads a pcap or pcapng file of Ethernet frames.
    pub fn read(path: &Path) -> Result<Self, ProfileError> {
        let fail = |why: String| wrong(path.display().to_string(), why);
        let mut file = BufReader::new(File::open(path).map_err(|e| fail(e.to_string()))?);
        let mut magic = [0; 4];
        file.read_exact(&mut magic).map_err(|e| match e.kind() {
            ErrorKind::UnexpectedEof => fail("it is no capture: it is empty".into()),
            _ => fail(e.to_string()),
        })?;
        let file = magic.as_slice().chain(file);
        let capture = match u32::from_be_bytes(magic) {
            word if WORDS.contains(&word) => Self::read_pcap(file),
            SECTION => Self::read_pcapng(file),
            word if word >> 16 == 0x1f8b || word == 0x28b5_2ffd => {
                Err("it is compressed: unpack it first".into())
            }
            word => {
                Err(format!("it is no capture: pcap and pcapng files don't begin with {word:08x}"))
            }
        };
        let capture = capture.map_err(fail)?;
        if capture.frames.is_empty() {
            return Err(fail("there is no packet in it".into()));
        }
        Ok(capture)
    }

    pub(crate) fn read_pcap(file: impl Read) -> Result<Self, String> {
        let mut reader = PcapReader::new(file).map_err(said)?;
        check_link(reader.header().datalink)?;
        let mut capture = Self::default();
        let mut first = None;
        let unit = match reader.header().ts_resolution {
            TsResolution::MicroSecond => 1000,
            TsResolution::NanoSecond => 1,
        };
        // Raw: the checked form refuses packets that were longer than what was kept of them, and a snap length of 0.
        while let Some(packet) = reader.next_raw_packet() {
            let Some(packet) = capture.unless_unfinished(packet)? else { break };
            let fraction = packet.ts_frac.checked_mul(unit).filter(|nanos| *nanos < 1_000_000_000);
            let fraction = fraction.ok_or_else(|| {
                format!("{}: its time has a second or more of fraction", capture.next())
            })?;
            let at = Duration::new(packet.ts_sec.into(), fraction);
            let whole = packet.incl_len >= packet.orig_len;
            capture.push(&packet.data, at, &mut first, whole)?;
        }
        Ok(capture)
    }

    fn read_pcapng(file: impl Read) -> Result<Self, String> {
        let mut reader = PcapNgReader::new(file).map_err(said)?;
        let mut capture = Self::default();
        let mut first = None;
        let mut interfaces = Vec::new();
        while let Some(block) = reader.next_block() {
            let Some(block) = capture.unless_unfinished(block)? else { break };
            match block {
                Block::InterfaceDescription(interface) => {
                    interfaces.push((interface.linktype, Clock::of(&interface)?));
                }
                Block::SectionHeader(_) => interfaces.clear(),
                Block::EnhancedPacket(packet) => {
                    let interface = interfaces.get(packet.interface_id as usize);
                    let (link, clock) = interface.ok_or_else(|| {
                        format!("{}: no such interface is described", capture.next())
                    })?;
                    check_link(*link)?;
                    let whole = packet.data.len() >= packet.original_len as usize;
                    // The reader takes ticks for nanoseconds, whatever the interface's ticks are.
                    let at = clock.time(packet.timestamp.as_nanos());
                    capture.push(&packet.data, at, &mut first, whole)?;
                }
                Block::SimplePacket(_) | Block::Packet(_) => capture.timeless += 1,
                _ => {}
            }
        }
        Ok(capture)
    }

    /// What was read, or `None` where the file ends too soon: a capture that was still being written is sent as far as it goes.
    fn unless_unfinished<T>(&mut self, read: Result<T, PcapError>) -> Result<Option<T>, String> {
        match read {
            Ok(read) => Ok(Some(read)),
            Err(PcapError::IoError(e)) if e.kind() == ErrorKind::UnexpectedEof => {
                self.unfinished = true;
                if self.frames.is_empty() {
                    return Err("the file ends in the middle of packet 1".into());
                }
                Ok(None)
            }
            Err(e) => Err(format!("{}: {}", self.next(), said(e))),
        }
    }

    /// The name of the packet that is read now.
    fn next(&self) -> String {
        format!("packet {}", self.frames.len() + 1)
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
                0..14 => format!("{}: {} bytes are no Ethernet frame", self.next(), data.len()),
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

    /// The bytes of frame `index`; none after the last.
    #[inline]
    pub fn frame(&self, index: usize) -> &[u8] {
        let from = index.checked_sub(1).and_then(|i| self.frames.get(i)).map_or(0, |(end, _)| *end);
        let to = self.frames.get(index).map_or(from, |(end, _)| *end);
        self.bytes.get(from..to).unwrap_or_default()
    }

    /// When frame `index` is due: nanoseconds after the first.
    #[inline]
    pub fn due(&self, index: usize) -> Option<u64> {
        self.frames.get(index).map(|(_, due)| *due)
    }

    /// Gives all frames these addresses, where there are some.
    pub fn address(&mut self, src: Option<Mac>, dst: Option<Mac>) {
        let mut from = 0;
        for (end, _) in &self.frames {
            // Each has 60 bytes or more.
            if let Some(header) = self.bytes.get_mut(from..from + 12) {
                let (to, by) = header.split_at_mut(6);
                dst.iter().for_each(|mac| to.copy_from_slice(&mac.0));
                src.iter().for_each(|mac| by.copy_from_slice(&mac.0));
            }
            from = *end;
        }
    }

    /// The first frame of more than `most` bytes: its number, from 1, and its length.
    pub fn longer_than(&self, most: usize) -> Option<(usize, usize)> {
        let lens = (0..self.frames.len()).map(|i| (i + 1, self.frame(i).len()));
        lens.into_iter().find(|(_, len)| *len > most)
    }

    /// Bytes of all frames.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// What is missing in it, in words.
    pub fn warnings(&self) -> Vec<String> {
        let (cut, timeless, frames) = (self.cut, self.timeless, self.frames.len());
        let said = [
            (cut > 0).then(|| format!("{cut} frames were captured in part, and sent so")),
            (timeless > 0).then(|| format!("{timeless} packets have no time and were left out")),
            self.unfinished.then(|| {
                format!(
                    "the file ends in the middle of packet {}: those before it were sent",
                    frames + 1
                )
            }),
        ];
        said.into_iter().flatten().collect()
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
    pub fn period(&self) -> u64 {
        let last = self.frames.last().map_or(0, |(_, due)| *due);
        last.saturating_add(last / (self.frames.len() as u64 - 1).max(1))
    }
}

/// An error as it is told: the reader's own of reading doesn't say what it was.
fn said(error: PcapError) -> String {
    match error {
        PcapError::IoError(e) if e.kind() == ErrorKind::UnexpectedEof => {
            "the file ends in the middle of its header".into()
        }
        PcapError::IoError(e) => e.to_string(),
        other => other.to_string(),
    }
}

fn check_link(link: DataLink) -> Result<(), String> {
    match link {
        DataLink::ETHERNET => Ok(()),
        // What `tcpdump -i any` writes, most of the time.
        other => Err(format!(
            "its packets are {other:?}, not Ethernet frames: capture on an Ethernet interface, not on `any`"
        )),
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

#[cfg(test)]
mod tests;
