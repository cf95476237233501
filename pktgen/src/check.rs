//! `check`: what a profile would send, without sending it.

use crate::cli::Check;
use crate::craft::Crafter;
use crate::field::Share;
use crate::profile::{Length, Plan};
use crate::run::RunError;
use crate::template::Macs;
use crate::units::FCS;
use millrace_wire::Mac;
use pcap_file::TsResolution;
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapWriter};
use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::time::Duration;

/// The token of packets that are only looked at.
const TOKEN: u16 = 0;

/// What the profile is, in words; writes its first packets to a capture where that is asked for.
pub fn run(plan: &Plan, arguments: &Check) -> Result<String, RunError> {
    // Addresses that would be resolved: documentation's own (RFC 7042 §2.1.1).
    let unknown = Macs { src: Mac([0, 0, 0x5e, 0, 0x53, 1]), dst: Mac([0, 0, 0x5e, 0, 0x53, 2]) };
    let macs: Vec<_> = plan
        .streams
        .iter()
        .map(|s| Macs {
            src: s.src_mac.unwrap_or(unknown.src),
            dst: s.dst_mac.unwrap_or(unknown.dst),
        })
        .collect();
    let mut crafter = Crafter::new(plan, &macs, Share::ALL, TOKEN)?;
    let mut capture = None;
    if let Some(path) = &arguments.pcap {
        let file = File::create(path)
            .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
        // A microsecond is many packets at high rates.
        let header =
            PcapHeader { ts_resolution: TsResolution::NanoSecond, ..PcapHeader::default() };
        capture = Some(PcapWriter::with_header(file, header).map_err(other)?);
    }
    let gap = plan.rate.gap_ns(plan.mean_size(), None).unwrap_or(0.0);
    let mut text = String::new();
    let length = match plan.length {
        Length::Time(time) => format!("{time:?}"),
        Length::Packets(n) => format!("{n} packets"),
    };
    let _infallible = writeln!(
        text,
        "{}: {} streams at {} for {length}, mean frame {:.1} bytes",
        if plan.name.is_empty() { "profile" } else { &plan.name },
        plan.streams.len(),
        plan.rate,
        plan.mean_size()
    );
    let mut buffer = vec![0; 4096];
    for n in 0..arguments.count {
        let slot = crafter.slot();
        let due = (gap * n as f64) as u64;
        let len = crafter.craft(slot, due, 0, &mut buffer);
        let frame = buffer.get(..len).unwrap_or_default();
        if n < 10 {
            let name = plan.streams.get(slot.stream as usize).map_or("", |s| &s.name);
            let hex: String = frame.iter().take(64).map(|b| format!("{b:02x}")).collect();
            let more = if len > 64 { "…" } else { "" };
            let _infallible = writeln!(text, "{n:>3} {name} {} bytes: {hex}{more}", len + FCS);
        }
        if let Some(capture) = &mut capture {
            let packet = PcapPacket::new(Duration::from_nanos(due), len as u32, frame);
            capture.write_packet(&packet).map_err(other)?;
        }
    }
    Ok(text)
}

fn other(error: pcap_file::PcapError) -> io::Error {
    io::Error::other(error.to_string())
}
