//! The real binary on captures: files in, files out, no privilege, the same bytes in every run.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use etherparse::{EtherType, Ethernet2Header, PacketBuilder};
use pcap_file::pcap::{PcapPacket, PcapReader, PcapWriter};

const ROUTER: [u8; 6] = [2, 0, 0, 0, 0, 1];
const CLIENT: [u8; 6] = [2, 0xaa, 0, 0, 0, 2];

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("millrace-captures-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        let folder = Self(path);
        fs::write(
            folder.0.join("router.toml"),
            "mode = \"router\"\n\
             [[interface]]\nname = \"left\"\naddresses = [\"10.0.1.1/24\"]\ndriver = \"pcap\"\nread = \"in.pcap\"\nwrite = \"left.pcap\"\n\
             [[interface]]\nname = \"right\"\naddresses = [\"10.0.2.1/24\"]\ndriver = \"pcap\"\nwrite = \"right.pcap\"\n",
        )
        .unwrap();
        folder
    }

    fn capture(&self, frames: &[Vec<u8>]) {
        let mut writer = PcapWriter::new(File::create(self.0.join("in.pcap")).unwrap()).unwrap();
        for (n, frame) in frames.iter().enumerate() {
            let at = Duration::from_millis(5_000 + 10 * n as u64);
            writer.write_packet(&PcapPacket::new(at, frame.len() as u32, frame)).unwrap();
        }
    }

    fn run(&self) -> Output {
        Command::new(env!("CARGO_BIN_EXE_millrace-dataplane"))
            .args(["--config", "router.toml"])
            .current_dir(&self.0)
            .output()
            .unwrap()
    }

    fn written(&self, name: &str) -> Vec<(Duration, Vec<u8>)> {
        let mut reader = PcapReader::new(File::open(self.0.join(name)).unwrap()).unwrap();
        let mut packets = Vec::new();
        while let Some(packet) = reader.next_packet() {
            let packet = packet.unwrap();
            packets.push((packet.timestamp, packet.data.into_owned()));
        }
        packets
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        fs::read(self.0.join(name)).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn arp_request(target: [u8; 4]) -> Vec<u8> {
    let ethernet =
        Ethernet2Header { source: CLIENT, destination: [0xff; 6], ether_type: EtherType::ARP };
    let mut frame = ethernet.to_bytes().to_vec();
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(CLIENT);
    frame.extend([10, 0, 1, 2]);
    frame.extend([0; 6]);
    frame.extend(target);
    frame
}

fn udp(destination: [u8; 4], ttl: u8) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder =
        PacketBuilder::ethernet2(CLIENT, ROUTER).ipv4([10, 0, 1, 2], destination, ttl).udp(4000, 9);
    builder.write(&mut frame, b"captured").unwrap();
    frame
}

#[test]
fn answers_go_to_the_file_of_their_interface_at_the_time_of_their_question() {
    let folder = Folder::new("answers");
    folder.capture(&[
        arp_request([10, 0, 1, 1]),
        udp([10, 0, 2, 7], 1),
        udp([10, 0, 2, 7], 64),
        arp_request([10, 0, 1, 9]),
    ]);
    let output = folder.run();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let left = folder.written("left.pcap");
    assert_eq!(left.len(), 2, "an ARP reply and a time exceeded");
    assert_eq!(left[0].0, Duration::from_millis(5_000));
    assert_eq!((&left[0].1[0..6], &left[0].1[6..12]), (&CLIENT[..], &ROUTER[..]));
    assert_eq!(
        (&left[0].1[12..14], left[0].1[21], &left[0].1[28..32]),
        (&[8, 6][..], 2, &[10, 0, 1, 1][..])
    );
    assert_eq!(left[1].0, Duration::from_millis(5_010));
    assert_eq!((left[1].1[23], left[1].1[34], left[1].1[35]), (1, 11, 0));
    // The packet that may pass waits for its next hop, and the file ends before an answer comes.
    let right = folder.written("right.pcap");
    assert_eq!(right.len(), 1, "an ARP request");
    assert_eq!((&right[0].1[0..6], &right[0].1[38..42]), (&[0xff; 6][..], &[10, 0, 2, 7][..]));
}

#[test]
fn the_same_files_give_the_same_bytes() {
    let folder = Folder::new("same");
    let frames: Vec<_> = (0..200).map(|n| udp([10, 0, 2, n], 1 + n % 3)).collect();
    folder.capture(&frames);
    assert!(folder.run().status.success());
    let first = (folder.bytes("left.pcap"), folder.bytes("right.pcap"));
    assert!(folder.run().status.success());
    assert_eq!(first, (folder.bytes("left.pcap"), folder.bytes("right.pcap")));
}

#[test]
fn a_capture_that_breaks_off_is_carried_so_far_and_named() {
    let folder = Folder::new("broken");
    folder.capture(&[arp_request([10, 0, 1, 1]), arp_request([10, 0, 1, 1])]);
    let bytes = folder.bytes("in.pcap");
    fs::write(folder.0.join("in.pcap"), &bytes[..bytes.len() - 10]).unwrap();
    let output = folder.run();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("in.pcap") && !said.contains("panicked"), "{said}");
    assert_eq!(folder.written("left.pcap").len(), 1);
}

#[test]
fn a_file_that_is_no_capture_is_refused_by_name() {
    let folder = Folder::new("refused");
    fs::write(folder.0.join("in.pcap"), b"not a capture at all, but long enough to look like one")
        .unwrap();
    let output = folder.run();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("in.pcap") && !said.contains("panicked"), "{said}");
    assert!(Path::new(&folder.0.join("router.toml")).exists());
}
