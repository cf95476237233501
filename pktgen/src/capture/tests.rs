//! Captures of all sorts, whole and broken.

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
    let packet = RawPcapPacket { ts_sec: 0, ts_frac: 1_000_000, incl_len: 60, orig_len: 60, data };
    writer.write_raw_packet(&packet).unwrap();
    let error = Capture::read_pcap(&writer.into_writer()[..]).unwrap_err();
    assert!(error.contains("packet 1"), "{error}");
}

#[test]
fn what_is_no_capture_is_said_so() {
    for (bytes, needle) in [
        (&b"hello, world, this is text"[..], "no capture"),
        (&b"x"[..], "empty"),
        (&b"\x1f\x8b\x08\x00 and so on"[..], "unpack it"),
        (&capture(&[])[..17], "in the middle of its header"),
        (&0x0a0d_0d0a_u32.to_be_bytes()[..], "in the middle of its header"),
        (&capture(&[])[..], "no packet"),
        (&capture(&[(1, 100)])[..90], "packet 1"),
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

#[test]
fn a_file_that_ends_in_the_middle_of_a_packet_is_taken_as_far_as_it_goes() {
    let whole = capture(&[(1, 100), (5, 200), (9, 300)]);
    for less in [1, 299, 300, 315] {
        let capture = Capture::read_pcap(&whole[..whole.len() - less]).unwrap();
        assert_eq!((dues(&capture), capture.unfinished), (vec![0, 4000], true), "{less}");
        assert!(capture.warnings()[0].contains("in the middle of packet 3"));
    }
    let capture = Capture::read_pcap(&whole[..whole.len() - 316]).unwrap();
    assert_eq!((capture.len(), capture.unfinished, capture.warnings().len()), (2, false, 0));
    let file = ng(&[], &[1_000_000, 1_000_007]);
    let capture = Capture::read_pcapng(&file[..file.len() - 5]).unwrap();
    assert_eq!((dues(&capture), capture.unfinished), (vec![0], true));
}

#[test]
fn packets_without_a_time_are_left_out_and_counted() {
    let mut file = ng(&[], &[1_000_000]);
    // A simple packet block (type 3): its length, then the bytes.
    let mut block = vec![3, 0, 0, 0, 76, 0, 0, 0, 60, 0, 0, 0];
    block.extend([7; 60]);
    block.extend([76, 0, 0, 0]);
    file.extend(block);
    let capture = Capture::read_pcapng(&file[..]).unwrap();
    assert_eq!((capture.len(), capture.timeless), (1, 1));
    assert!(capture.warnings()[0].contains("no time"));
}

#[test]
fn frames_get_other_addresses_where_they_are_given() {
    let mut whole = Capture::read_pcap(&capture(&[(1, 100), (5, 60)])[..]).unwrap();
    whole.address(None, Some(Mac([1, 2, 3, 4, 5, 6])));
    whole.address(Some(Mac([9; 6])), None);
    for (index, byte) in [(0, 100), (1, 60)] {
        let frame = whole.frame(index);
        assert_eq!(frame[..6], [1, 2, 3, 4, 5, 6]);
        assert_eq!(frame[6..12], [9; 6]);
        assert!(frame[12..].iter().all(|b| *b == byte));
    }
    assert_eq!(whole.longer_than(99), Some((1, 100)));
    assert_eq!(whole.longer_than(100), None);
}
