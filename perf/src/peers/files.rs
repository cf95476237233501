//! The files that DPDK's programs read: captures of frames, routes, addresses to look up.

use ipnet::IpNet;
use millrace_tables::fib::Family;
use millrace_tables::synthetic::{self, Route};
use pcap_file::pcap::{PcapPacket, PcapWriter};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Duration;

fn create(path: &Path) -> Result<BufWriter<File>, String> {
    File::create(path).map(BufWriter::new).map_err(|e| format!("{}: {e}", path.display()))
}

/// A capture for `net_pcap`: each frame once, in order.
pub fn capture(path: &Path, frames: impl Iterator<Item = Vec<u8>>) -> Result<(), String> {
    let error = |e: pcap_file::PcapError| format!("{}: {e}", path.display());
    let mut writer = PcapWriter::new(create(path)?).map_err(error)?;
    for frame in frames {
        let packet = PcapPacket::new(Duration::ZERO, frame.len() as u32, &frame);
        writer.write_packet(&packet).map_err(error)?;
    }
    writer.into_writer().flush().map_err(|e| format!("{}: {e}", path.display()))
}

/// Routes for l3fwd's lpm and fib: all lead out of its port 0.
pub fn rules(path: &Path, prefixes: &[IpNet]) -> Result<(), String> {
    let lines = prefixes.iter().map(|prefix| match prefix {
        IpNet::V4(net) => format!("R{net} 0"),
        // It takes no `::`.
        IpNet::V6(net) => format!("R{}/{} 0", full(net.network()), net.prefix_len()),
    });
    write_lines(path, lines)
}

/// Routes for dpdk-test-fib, the leaf being the next hop.
pub fn routes(path: &Path, family: Family, routes: &[Route]) -> Result<(), String> {
    write_lines(path, routes.iter().map(|route| format!("{} {}", route.net(family), route.leaf)))
}

/// Addresses for dpdk-test-fib to look up: a multiple of 64, as it looks up so many at once and reads past the end otherwise.
///
/// Of an IPv4 address it keeps the octets as they come (`inet_pton`) and looks them up as a number of the machine, so that on a
/// little-endian machine they are turned around: they are written so that it looks up the right ones.
pub fn addresses(path: &Path, family: Family, keys: &[u128]) -> Result<(), String> {
    let whole = keys.len() / 64 * 64;
    let lines = keys.iter().take(whole).map(|&bits| match family {
        Family::V4 => std::net::Ipv4Addr::from(((bits >> 96) as u32).to_ne_bytes()).to_string(),
        Family::V6 => std::net::Ipv6Addr::from_bits(bits).to_string(),
    });
    write_lines(path, lines)
}

/// Second-level tables that DPDK's `trie` or `DIR24_8` asks for at most. It reserves, for each route, one for each 8 bits that the
/// route is longer than 24 bits and than the route around it, even where routes share them.
pub fn groups(routes: &[Route]) -> usize {
    let levels = |route: &Route| usize::from(route.len.saturating_sub(24).div_ceil(8));
    routes.iter().map(levels).sum::<usize>().max(256)
}

fn full(address: std::net::Ipv6Addr) -> String {
    address.segments().map(|part| format!("{part:04x}")).join(":")
}

fn write_lines(path: &Path, lines: impl Iterator<Item = String>) -> Result<(), String> {
    let mut file = create(path)?;
    let all = || -> std::io::Result<()> {
        for line in lines {
            writeln!(file, "{line}")?;
        }
        file.flush()
    };
    all().map_err(|e| format!("{}: {e}", path.display()))
}

/// The routes and addresses that both sides look up: the same in every run. Twice as many addresses as routes: 20 ms and more.
pub fn internet(family: Family, count: usize) -> (Vec<Route>, Vec<u128>) {
    let routes = synthetic::routes(family, count, 1);
    let keys = synthetic::destinations(&routes, 2_000_000, 2);
    (routes, keys)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pcap_file::pcap::PcapReader;

    fn text(name: &str, write: impl FnOnce(&Path) -> Result<(), String>) -> Vec<u8> {
        let path =
            std::env::temp_dir().join(format!("millrace-perf-{}-{name}", std::process::id()));
        write(&path).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        bytes
    }

    #[test]
    fn a_capture_has_the_frames_in_order() {
        let frames = [vec![1; 64], vec![2; 60]];
        let bytes = text("capture", |path| capture(path, frames.iter().cloned()));
        let mut reader = PcapReader::new(bytes.as_slice()).unwrap();
        for frame in &frames {
            assert_eq!(&reader.next_packet().unwrap().unwrap().data[..], frame);
        }
        assert!(reader.next_packet().is_none());
    }

    #[test]
    fn rules_are_written_as_l3fwd_reads_them() {
        let prefixes = ["198.18.0.0/24".parse().unwrap(), "2001:200::/64".parse().unwrap()];
        let bytes = text("rules", |path| rules(path, &prefixes));
        let expected = "R198.18.0.0/24 0\nR2001:0200:0000:0000:0000:0000:0000:0000/64 0\n";
        assert_eq!(String::from_utf8(bytes).unwrap(), expected);
    }

    #[test]
    fn routes_and_addresses_are_written_as_test_fib_reads_them() {
        let list = [
            Route { bits: 0x0a01_0000 << 96, len: 16, leaf: 7 },
            Route { bits: 0x0a01_0200 << 96, len: 26, leaf: 64 },
        ];
        let bytes = text("routes", |path| routes(path, Family::V4, &list));
        assert_eq!(String::from_utf8(bytes).unwrap(), "10.1.0.0/16 7\n10.1.2.0/26 64\n");
        let keys = vec![0x0102_0304_u128 << 96; 70];
        let bytes = text("addresses", |path| addresses(path, Family::V4, &keys));
        let lines = String::from_utf8(bytes).unwrap();
        let turned = if cfg!(target_endian = "little") { "4.3.2.1" } else { "1.2.3.4" };
        assert_eq!(lines.lines().collect::<Vec<_>>(), [turned; 64]);
        let bytes = text("addresses6", |path| addresses(path, Family::V6, &[1 << 127; 64]));
        assert!(bytes.starts_with(b"8000::\n"));
    }

    #[test]
    fn groups_are_counted_for_what_is_longer_than_24_bits() {
        let of = |len| vec![Route { bits: 0, len, leaf: 1 }; 1000];
        assert_eq!(groups(&of(24)), 256);
        assert_eq!(groups(&of(25)), 1000);
        assert_eq!(groups(&[of(32), of(48)].concat()), 4000);
    }
}
