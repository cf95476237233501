//! Every packet valid by etherparse's own parsing and checksums, and the bytes of each mode pinned.

use super::*;
use crate::cli::Load;
use crate::profile::Plan;
use crate::signature::Found;
use etherparse::{Ipv4Slice, Ipv6Slice, NetSlice, SlicedPacket, TransportSlice};
use millrace_wire::Mac;
use proptest::prelude::*;

const TOKEN: u16 = 0x55aa;
const MACS: Macs = Macs { src: Mac([2, 0, 0, 0, 0, 1]), dst: Mac([2, 0, 0, 0, 0, 2]) };

fn plan(text: &str) -> Plan {
    Plan::build(Plan::parse(text).unwrap(), &Load::default())
        .unwrap_or_else(|e| panic!("{e}\n{text}"))
}

fn frames(text: &str, n: usize) -> Vec<Vec<u8>> {
    let plan = plan(text);
    let macs = vec![MACS; plan.streams.len()];
    let mut crafter = Crafter::new(&plan, &macs, Share::ALL, TOKEN).unwrap();
    // The same packets into frames that hold those before them: for each stream its own, as long as the last one.
    let mut again = crafter.clone();
    let mut held = vec![(vec![0xa5; 4096], 0); plan.streams.len()];
    (0..n)
        .map(|i| {
            // What is not written shows.
            let mut frame = vec![0xa5; 4096];
            let slot = crafter.slot();
            let len = crafter.craft(slot, i as u64 * 1000, 0, &mut frame);
            assert_eq!(len, usize::from(slot.len));
            frame.truncate(len);
            let slot = again.slot();
            let (used, before) = &mut held[slot.stream as usize];
            *before = again.craft(slot, i as u64 * 1000, *before, used);
            assert_eq!(hex(&used[..*before]), hex(&frame));
            frame
        })
        .collect()
}

fn hex(frame: &[u8]) -> String {
    frame.iter().map(|b| format!("{b:02x}")).collect()
}

/// Panics unless etherparse finds nothing wrong with any header or checksum.
fn valid(frame: &[u8]) {
    let packet =
        SlicedPacket::from_ethernet(frame).unwrap_or_else(|e| panic!("{e}: {}", hex(frame)));
    let pseudo = |protocol: u8, l4: &[u8]| match packet.net.as_ref().unwrap() {
        NetSlice::Ipv4(ip) => oracle::v4(ip, protocol, l4),
        NetSlice::Ipv6(ip) => oracle::v6(ip, protocol, l4),
        _ => panic!("not IP: {}", hex(frame)),
    };
    if let Some(NetSlice::Ipv4(ip)) = &packet.net {
        let header = ip.header().to_header();
        assert_eq!(header.calc_header_checksum(), header.header_checksum, "{}", hex(frame));
    }
    match packet.transport.as_ref() {
        Some(TransportSlice::Udp(udp)) => {
            assert_eq!(usize::from(udp.length()), udp.slice().len());
            let is_v4 = matches!(packet.net, Some(NetSlice::Ipv4(_)));
            if udp.destination_port() == 4789 {
                assert_eq!(&udp.payload()[..4], [8, 0, 0, 0], "VXLAN flags");
                assert!(!is_v4 || udp.checksum() == 0);
                valid(&udp.payload()[8..]);
            }
            if udp.checksum() == 0 {
                assert!(is_v4 && udp.destination_port() == 4789, "UDP without a checksum");
            } else {
                assert_eq!(pseudo(17, udp.slice()), 0xffff, "UDP: {}", hex(frame));
            }
        }
        Some(TransportSlice::Tcp(tcp)) => assert_eq!(pseudo(6, tcp.slice()), 0xffff, "TCP"),
        Some(TransportSlice::Icmpv4(icmp)) => assert_eq!(oracle::sum(icmp.slice()), 0xffff, "ICMP"),
        Some(TransportSlice::Icmpv6(icmp)) => {
            assert_eq!(pseudo(58, icmp.slice()), 0xffff, "ICMPv6")
        }
        Some(other) => panic!("nobody sends {other:?}"),
        None => {
            let payload = packet.net.as_ref().unwrap().ip_payload_ref().unwrap();
            assert_eq!(payload.ip_number.0, 132, "{}", hex(frame));
            oracle::sctp(payload.payload);
        }
    }
}

/// Checksums as the RFCs define them, as simply as can be.
mod oracle {
    use super::{Ipv4Slice, Ipv6Slice};

    pub fn sum(bytes: &[u8]) -> u16 {
        let mut sum = 0u64;
        for pair in bytes.chunks(2) {
            sum += u64::from(pair[0]) * 256 + u64::from(*pair.get(1).unwrap_or(&0));
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    pub fn v4(ip: &Ipv4Slice<'_>, protocol: u8, l4: &[u8]) -> u16 {
        let mut bytes = [ip.header().source(), ip.header().destination()].concat();
        bytes.extend([0, protocol]);
        bytes.extend((l4.len() as u16).to_be_bytes());
        bytes.extend(l4);
        sum(&bytes)
    }

    pub fn v6(ip: &Ipv6Slice<'_>, protocol: u8, l4: &[u8]) -> u16 {
        let mut bytes = [ip.header().source(), ip.header().destination()].concat();
        bytes.extend((l4.len() as u32).to_be_bytes());
        bytes.extend([0, 0, 0, protocol]);
        bytes.extend(l4);
        sum(&bytes)
    }

    /// RFC 9260 appendix A, bit by bit.
    pub fn sctp(packet: &[u8]) {
        assert_eq!(packet.len() % 4, 0);
        let mut crc = u32::MAX;
        for (at, byte) in packet.iter().enumerate() {
            crc ^= u32::from(if (8..12).contains(&at) { 0 } else { *byte });
            for _ in 0..8 {
                crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
            }
        }
        assert_eq!(packet[8..12], (!crc).to_le_bytes(), "SCTP");
        assert_eq!((packet[12], packet[13]), (0, 3), "a DATA chunk");
        assert_eq!(usize::from(u16::from_be_bytes([packet[14], packet[15]])), packet.len() - 12);
    }
}

const STREAM: &str = "[[stream]]\nsrc = \"10.0.0.1\"\ndst = \"10.0.1.1\"\n";

fn pick(frames: &[Vec<u8>], at: std::ops::Range<usize>) -> Vec<String> {
    frames.iter().map(|f| hex(&f[at.clone()])).collect()
}

#[test]
fn a_single_stream_is_byte_exact() {
    let golden = concat!(
        "020000000002",
        "020000000001",
        "0800",
        "4500002e",
        "00004000",
        "401125be",
        "0a000001",
        "0a000101",
        "04000009",
        "001ae6af",
        "4d9a",
        "55aa",
        "0000",
        "00000000",
        "000000000000",
        "5cbb",
    );
    let frames = frames(STREAM, 2);
    assert_eq!(hex(&frames[0]), golden);
    // Only the signature differs: number 1, due after 1,000 ns.
    assert_eq!(frames[1][..48], frames[0][..48]);
    assert_eq!(hex(&frames[1][48..]), "00000001".to_owned() + "0000000003e8" + "58d2");
    frames.iter().for_each(|f| valid(f));
}

#[test]
fn range_sequence_random_and_list_give_their_headers() {
    let text = format!(
        "{STREAM}src_port = \"1000-1002\"\ndst_port = [53, 80]\nsize = {{ sequence = [64, 100], every = 2 }}\nttl = 9"
    );
    let range = frames(&text, 5);
    assert_eq!(pick(&range, 34..38), ["03e80035", "03e90050", "03ea0035", "03e80050", "03e90035"]);
    assert_eq!(range.iter().map(Vec::len).collect::<Vec<_>>(), [60, 60, 96, 96, 60]);
    assert!(range.iter().all(|f| f[22] == 9));
    let text = "seed = 7\n[[stream]]\nsrc = \"random 10.0.0.0/8\"\ndst = \"one of 10.0.1.1,10.0.1.2\"\nsrc_port = \"random 1024-65535\"";
    // Pinned: a seed means the same packets in every version.
    assert_eq!(pick(&frames(text, 3), 26..36), RANDOM);
    assert_ne!(pick(&frames(&text.replace("seed = 7", "seed = 8"), 3), 26..36), RANDOM);
}

const RANDOM: [&str; 3] = ["0ab8b4c20a00010171d2", "0aa653050a000101881a", "0a8ca3cb0a000102868f"];

#[test]
fn imix_is_seven_four_one() {
    let sizes: Vec<_> =
        frames(&format!("{STREAM}size = \"imix\""), 24).iter().map(|f| f.len() + 4).collect();
    let count = |size| sizes.iter().filter(|s| **s == size).count();
    assert_eq!([count(64), count(594), count(1518)], [14, 8, 2]);
    assert_eq!(sizes[..12], sizes[12..]);
    assert_eq!(sizes[..12], [64, 594, 64, 64, 594, 64, 1518, 594, 64, 64, 594, 64]);
}

#[test]
fn streams_share_by_weight_and_number_their_own_packets() {
    let text = format!("{STREAM}weight = 2\n{STREAM}weight = 1\nsrc_port = 7");
    let frames = frames(&text, 6);
    let marks: Vec<_> = frames
        .iter()
        .map(|f| match Signature::find(f, TOKEN) {
            Found::Ours(s) => (s.substream, s.sequence),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(marks, [(0, 0), (1, 0), (0, 1), (0, 2), (1, 1), (0, 3)]);
}

#[test]
fn tags_and_other_protocols_are_byte_exact() {
    let tagged =
        frames(&format!("{STREAM}size = 80\nvlan = [100, {{ id = 200, priority = 3 }}]"), 1);
    assert_eq!(hex(&tagged[0][12..22]), "88a80064810060c80800");
    let tcp = frames(
        &format!("{STREAM}protocol = \"tcp\"\nsize = 80\nflags = \"syn,ack\"\ndscp = 46"),
        1,
    );
    assert_eq!(hex(&tcp[0][14..16]), "45b8");
    assert_eq!(hex(&tcp[0][34..50]), "04000009000000010000000050".to_owned() + "12ffff");
    let icmp = frames(&format!("{STREAM}protocol = \"icmp\""), 2);
    assert_eq!(hex(&icmp[1][34..36]), "0800");
    assert_eq!(hex(&icmp[1][38..42]), "04000001");
    let vxlan = frames(
        &format!(
            "{STREAM}size = 128\n[stream.vxlan]\nvni = 0x123456\nsrc = \"192.0.2.1\"\ndst = \"192.0.2.2\""
        ),
        1,
    );
    assert_eq!(hex(&vxlan[0][34..50]), "c00012b5005a0000".to_owned() + "0800000012345600");
    assert_eq!(vxlan[0].len(), 124);
    for frame in [&tagged, &tcp, &icmp, &vxlan].into_iter().flatten() {
        valid(frame);
    }
}

fn any_stream() -> impl Strategy<Value = String> {
    let transport = prop::sample::select(vec!["udp", "tcp", "sctp", "icmp"]);
    let payload = prop::sample::select(vec!["zeros", "random", "hex:ff", "hex:010203"]);
    let vxlan = prop::sample::select(vec![
        "",
        "[stream.vxlan]\nvni = 7\nsrc = \"192.0.2.1\"\ndst = \"192.0.2.2\"\nsrc_port = \"49152-65535\"",
        "[stream.vxlan]\nvni = 7\nsrc = \"2001:db8::1\"\ndst = \"2001:db8::2\"\nsrc_port = \"random 1-65535\"",
    ]);
    let vlan = prop::sample::select(vec!["", "vlan = 5", "vlan = [5, 4094]"]);
    let sizes = prop::sample::select(vec![
        "\"206-400\"",
        "\"random 206-3840\"",
        "207",
        "\"206,1518,3839\"",
    ]);
    (transport, any::<bool>(), payload, vxlan, vlan, sizes, any::<bool>(), any::<u64>()).prop_map(
        |(transport, v6, payload, vxlan, vlan, sizes, signature, seed)| {
            let (src, dst) = if v6 {
                ("random ::/0", "random fd00::/8")
            } else {
                ("random 0.0.0.0/0", "10.0.0.250-10.0.1.9")
            };
            // ::ffff:0:0/96 is in ::/0, and no matter to a checksum.
            format!(
                "seed = {}\n[[stream]]\nprotocol = \"{transport}\"\nsrc = \"{src}\"\ndst = \"{dst}\"\nsrc_port = \"random 0-65535\"\n\
                 dst_port = \"1-3000\"\nsize = {sizes}\n{vlan}\npayload = \"{payload}\"\nsignature = {signature}\n{vxlan}\n",
                seed >> 1
            )
        },
    )
}

proptest! {
    #[test]
    fn every_packet_is_valid(text in any_stream()) {
        for frame in frames(&text, 40) {
            valid(&frame);
            let found = matches!(Signature::find(&frame, TOKEN), Found::Ours(_));
            prop_assert_eq!(found, text.contains("signature = true"));
        }
    }

    #[test]
    fn sizes_are_those_that_were_asked_for(size in 84u16..=3840, v6: bool) {
        let (src, dst) = if v6 { ("fd00::1", "fd00::2") } else { ("10.0.0.1", "10.0.0.2") };
        let text = format!("[[stream]]\nsrc = \"{src}\"\ndst = \"{dst}\"\nsize = {size}");
        prop_assert_eq!(frames(&text, 1)[0].len() + 4, usize::from(size));
    }
}
