//! The short way through `parse` that nearly every packet takes: whole IPv4 TCP and UDP to our MAC, no tags, no options, no fault.
//!
//! Decides nothing of its own: whatever is unusual it leaves alone, and the long way says what that is. What it finds is what
//! the long way would find (the tests compare the two on any bytes).
//!
//! Cost: the frame's first 54 bytes at fixed offsets after one length check, some 70 instructions instead of 250.

use millrace_wire::{EtherType, Protocol, View, ethernet, ipv4, tcp, udp};

use crate::flow::{Seed, Tuple};
use crate::interface::Interface;
use crate::packet::{Headers, Network, Part};
use crate::state::conntrack::Hint;

/// Ethernet, IPv4 without options, and the longer of the two L4 headers. No frame on a wire is shorter.
const PLAIN: usize = ethernet::Header::LEN + ipv4::Header::LEN + tcp::Header::LEN;

const L3: usize = ethernet::Header::LEN;
const L4: usize = L3 + ipv4::Header::LEN;

/// The first bytes of addresses that martians have (see [`super::check_v4`]), as bits: 0, 127, 224 to 239, 255.
const MARTIAN: [u64; 4] = [1, 1 << 63, 0, 0xffff << 32 | 1 << 63];

/// Whether the address may be a martian; of 255.0.0.0/8 only one is, which the long way knows.
#[inline]
fn may_be_martian([first, ..]: [u8; 4]) -> bool {
    let [a, b, c, d] = MARTIAN;
    let bits = match first >> 6 {
        0 => a,
        1 => b,
        2 => c,
        _ => d,
    };
    bits >> (first & 63) & 1 != 0
}

/// Fills `headers` if the frame of `total` bytes that begins with `bytes` is plain. `None` says nothing about it.
#[inline(always)]
pub(super) fn parse(
    bytes: &[u8],
    total: usize,
    interface: &Interface,
    seed: &Seed,
    headers: &mut Headers,
) -> Option<()> {
    let bytes = bytes.first_chunk::<PLAIN>()?;
    let (link, rest) = ethernet::Header::view(bytes).ok()?;
    let (ip, rest) = ipv4::Header::view(rest).ok()?;
    let (segment, _) = tcp::Header::view(rest).ok()?;
    let (datagram, _) = udp::Header::view(rest).ok()?;
    let end = L3 + ip.total_len();
    let len = ip.total_len().wrapping_sub(ipv4::Header::LEN);
    let sound = match ip.protocol {
        Protocol::TCP => (tcp::Header::LEN..=len).contains(&segment.header_len()),
        Protocol::UDP => (udp::Header::LEN..=len).contains(&usize::from(datagram.len.get())),
        _ => return None,
    };
    let plain = sound
        && link.ether_type == EtherType::IPV4
        && ip.version_ihl == 0x45
        && !ip.is_fragment()
        // Too short a total length makes `len` huge; then `end` lies before the L4 header.
        && (L4..=total).contains(&end)
        && interface.is_for(&link.dst)
        && !link.src.is_multicast()
        && !may_be_martian(ip.src)
        && !may_be_martian(ip.dst)
        && ip.checksum_ok_bare();
    if !plain {
        return None;
    }
    let tuple = Tuple {
        src: ip.src_addr(),
        dst: ip.dst_addr(),
        sport: segment.src_port.get(),
        dport: segment.dst_port.get(),
        protocol: ip.protocol,
    };
    let trackable = (tuple.sport | tuple.dport) != 0;
    *headers = Headers {
        hash: seed.hash(&tuple),
        tuple,
        hint: Hint::UNKNOWN,
        l3: L3 as u16,
        l4: L4 as u16,
        end: end as u32,
        network: Network::Ipv4,
        protocol: tuple.protocol,
        part: Part::Whole,
        quote: None,
        fault: None,
        tcp: if tuple.protocol == Protocol::TCP { segment.flags } else { tcp::Flags(0) },
        ttl: ip.ttl,
        dont_fragment: ip.dont_fragment(),
        to_group: false,
        trackable,
        routed_on: false,
        plain: trackable,
    };
    Some(())
}

#[cfg(test)]
mod tests {
    use super::super::long;
    use super::*;
    use millrace_tables::{InterfaceId, InterfaceKind};
    use millrace_wire::Mac;
    use proptest::prelude::*;

    fn interface() -> Interface {
        let mac = Mac([2, 0, 0, 0, 0, 1]);
        Interface::new(InterfaceId(0), "a", mac, 1500, InterfaceKind::default(), vec![], false)
    }

    /// UDP or TCP, 20 bytes of L4 and payload, padded to 70 bytes.
    fn frame(protocol: Protocol) -> Vec<u8> {
        let mut frame = vec![0; 70];
        frame[..14].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0]);
        frame[14..34].copy_from_slice(&[
            0x45, 0, 0, 44, 7, 7, 0x40, 0, 64, protocol.0, 0, 0, 10, 0, 0, 1, 192, 0, 2, 1,
        ]);
        frame[34..38].copy_from_slice(&[0x12, 0x34, 0, 80]);
        match protocol {
            Protocol::TCP => frame[46..48].copy_from_slice(&[0x50, 0x12]),
            _ => frame[38..40].copy_from_slice(&[0, 24]),
        }
        mend(&mut frame);
        frame
    }

    /// The IPv4 checksum anew, so that a change behind it is looked at.
    fn mend(frame: &mut [u8]) {
        let (ip, _) = ipv4::Header::view_mut(&mut frame[14..]).unwrap();
        ip.fill_checksum(&[]);
    }

    /// What both ways say; the short one may say nothing.
    fn both(frame: &[u8]) -> (Option<Headers>, Result<Headers, crate::exit::Exit>) {
        let [mut short, mut whole] = [Headers::BLANK; 2];
        let interface = interface();
        let found = parse(frame, frame.len(), &interface, &Seed::FIXED, &mut short);
        let result = long(frame, frame.len(), &interface, &Seed::FIXED, &mut whole);
        short.plain = false;
        (found.map(|()| short), result.map(|()| whole))
    }

    #[test]
    fn every_martian_takes_the_long_way() {
        for first in 0..=255 {
            let martian = super::super::check_v4([first, 255, 255, 255], [10, 0, 0, 1]).is_err();
            assert_eq!(may_be_martian([first, 255, 255, 255]), martian, "{first}");
        }
    }

    #[test]
    fn plain_packets_take_the_short_way() {
        for protocol in [Protocol::TCP, Protocol::UDP] {
            let (short, whole) = both(&frame(protocol));
            let short = short.expect("plain");
            assert_eq!(format!("{short:?}"), format!("{:?}", whole.unwrap()));
            assert_eq!((short.tuple.sport, short.tuple.dport, short.end), (0x1234, 80, 58));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

        /// Whatever bytes change and wherever the frame ends: where the short way says something, the long way says the same.
        #[test]
        fn the_short_way_says_what_the_long_one_says(
            tcp: bool,
            changes in prop::collection::vec((0usize..60, prop_oneof![any::<u8>(), Just(0), Just(0x45), Just(20), Just(255)]), 0..4),
            len in prop_oneof![3 => Just(70usize), 1 => 0usize..70],
            mended: bool,
        ) {
            let mut frame = frame(if tcp { Protocol::TCP } else { Protocol::UDP });
            for (at, byte) in changes {
                frame[at] = byte;
            }
            if mended {
                mend(&mut frame);
            }
            frame.truncate(len);
            let (short, whole) = both(&frame);
            if let Some(short) = short {
                prop_assert!(whole.is_ok(), "{whole:?}");
                prop_assert_eq!(format!("{short:?}"), format!("{:?}", whole.unwrap()));
            }
        }
    }
}
