//! The short way through `parse` that nearly every packet takes: whole TCP and UDP to our MAC, no tags, no options, no
//! extension headers, no fault.
//!
//! Decides nothing of its own: whatever is unusual it leaves alone, and the long way says what that is. What it finds is what
//! the long way would find (the tests compare the two on any bytes).
//!
//! Cost: the frame's first 54 bytes at fixed offsets after one length check, some 70 instructions instead of 250.

use millrace_wire::{EtherType, Protocol, View, ethernet, ipv4, ipv6, tcp, udp};

use crate::flow::{Seed, Tuple};
use crate::interface::Interface;
use crate::packet::{Headers, Network, Part};
use crate::state::conntrack::Hint;

/// Ethernet, IPv4 without options, and the longer of the two L4 headers. No frame on a wire is shorter.
const PLAIN: usize = ethernet::Header::LEN + ipv4::Header::LEN + tcp::Header::LEN;

const L3: usize = ethernet::Header::LEN;
const L4: usize = L3 + ipv4::Header::LEN;
/// Ethernet, IPv6, and the shorter of the two L4 headers.
const PLAIN6: usize = ethernet::Header::LEN + ipv6::Header::LEN + udp::Header::LEN;
const L4_OF_6: usize = L3 + ipv6::Header::LEN;

/// Whether the address may be a martian (see [`super::check_v4`]): one of 0.0.0.0/8, 127.0.0.0/8 or 224.0.0.0/3. Of these some are none,
/// which the long way knows.
#[inline]
fn may_be_martian([first, ..]: [u8; 4]) -> bool {
    first.wrapping_sub(1) >= 223 || first == 127
}

/// Whether the address is what nearly all are: of 2000::/3 or fc00::/7. So it is no group, not link-local, none of those that stand for
/// something else.
#[inline]
fn is_common([first, ..]: &[u8; 16]) -> bool {
    first >> 5 == 1 || first >> 1 == 0xfc >> 1
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
    let (link, _) = ethernet::Header::view(bytes).ok()?;
    if !interface.is_for(&link.dst) || link.src.is_multicast() {
        return None;
    }
    match link.ether_type {
        EtherType::IPV4 => v4(bytes, total, seed, headers),
        EtherType::IPV6 => v6(bytes, total, seed, headers),
        _ => None,
    }
}

#[inline(always)]
fn v4(bytes: &[u8], total: usize, seed: &Seed, headers: &mut Headers) -> Option<()> {
    let bytes = bytes.first_chunk::<PLAIN>()?;
    let (ip, rest) = ipv4::Header::view(&bytes[L3..]).ok()?;
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
        && ip.version_ihl == 0x45
        && !ip.is_fragment()
        // Too short a total length makes `len` huge; then `end` lies before the L4 header.
        && (L4..=total).contains(&end)
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
    let tcp = if tuple.protocol == Protocol::TCP { segment.flags } else { tcp::Flags(0) };
    let part = Found { tuple, tcp, end, ttl: ip.ttl, dont_fragment: ip.dont_fragment() };
    fill(headers, &part, Network::Ipv4, L4, seed);
    Some(())
}

#[inline(always)]
fn v6(bytes: &[u8], total: usize, seed: &Seed, headers: &mut Headers) -> Option<()> {
    let (bytes, rest) = bytes.split_first_chunk::<PLAIN6>()?;
    let (ip, l4) = ipv6::Header::view(&bytes[L3..]).ok()?;
    let (datagram, _) = udp::Header::view(l4).ok()?;
    let (end, len) = (L3 + ip.total_len(), ip.payload_len());
    let mut tcp = tcp::Flags(0);
    let sound = match ip.next_header {
        // What of the TCP header lies behind the UDP header's place.
        Protocol::TCP => {
            let [_, _, _, _, offset, flags, ..] = *rest.first_chunk::<12>()?;
            tcp = tcp::Flags(flags);
            (tcp::Header::LEN..=len).contains(&(usize::from(offset >> 4) * 4))
        }
        Protocol::UDP => {
            (udp::Header::LEN..=len).contains(&usize::from(datagram.len.get()))
                && datagram.has_checksum()
        }
        _ => return None,
    };
    let plain = sound
        && ip.version() == 6
        && (L4_OF_6..=total).contains(&end)
        && is_common(&ip.src.0)
        && is_common(&ip.dst.0);
    if !plain {
        return None;
    }
    let tuple = Tuple {
        src: ip.src_addr(),
        dst: ip.dst_addr(),
        sport: datagram.src_port.get(),
        dport: datagram.dst_port.get(),
        protocol: ip.next_header,
    };
    let found = Found { tuple, tcp, end, ttl: ip.hop_limit, dont_fragment: true };
    fill(headers, &found, Network::Ipv6, L4_OF_6, seed);
    Some(())
}

/// What differs among plain packets.
struct Found {
    tuple: Tuple,
    tcp: tcp::Flags,
    end: usize,
    ttl: u8,
    dont_fragment: bool,
}

#[inline(always)]
fn fill(headers: &mut Headers, found: &Found, network: Network, l4: usize, seed: &Seed) {
    let Found { tuple, tcp, end, ttl, dont_fragment } = *found;
    let trackable = (tuple.sport | tuple.dport) != 0;
    *headers = Headers {
        hash: seed.hash(&tuple),
        tuple,
        end: end as u32,
        protocol: tuple.protocol,
        tcp,
        ttl,
        dont_fragment,
        trackable,
        plain: trackable,
        l3: L3 as u16,
        l4: l4 as u16,
        network,
        part: Part::Whole,
        hint: Hint::UNKNOWN,
        destination: None,
        search: None,
        judged: None,
        fault: None,
        to_group: false,
        routed_on: false,
        quote: None,
    };
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

    /// The same over IPv6: 20 bytes of L4 and payload, padded to 90 bytes.
    fn frame6(protocol: Protocol) -> Vec<u8> {
        let mut frame = vec![0; 90];
        frame[..14].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x86, 0xdd]);
        frame[14..22].copy_from_slice(&[0x60, 0, 0, 0, 0, 20, protocol.0, 64]);
        frame[22..24].copy_from_slice(&[0x20, 1]);
        frame[38..40].copy_from_slice(&[0xfd, 2]);
        frame[54..58].copy_from_slice(&[0x12, 0x34, 0, 80]);
        match protocol {
            Protocol::TCP => frame[66..68].copy_from_slice(&[0x50, 0x12]),
            _ => frame[58..62].copy_from_slice(&[0, 20, 1, 1]),
        }
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

    /// As `check_v6` sees them, and those that other stops ask about.
    #[test]
    fn every_unusual_ipv6_address_takes_the_long_way() {
        for text in ["::", "::1", "::ffff:10.0.0.1", "fe80::1", "ff02::1", "ff0e::1", "64:ff9b::1"]
        {
            let addr: std::net::Ipv6Addr = text.parse().unwrap();
            assert!(!is_common(&addr.octets()), "{text}");
        }
    }

    #[test]
    fn every_martian_takes_the_long_way() {
        for first in 0..=255 {
            let martian = super::super::check_v4([first, 255, 255, 255], [10, 0, 0, 1]).is_err();
            assert!(may_be_martian([first, 255, 255, 255]) || !martian, "{first}");
        }
    }

    #[test]
    fn plain_packets_take_the_short_way() {
        for protocol in [Protocol::TCP, Protocol::UDP] {
            for (frame, end) in [(frame(protocol), 58), (frame6(protocol), 74)] {
                let (short, whole) = both(&frame);
                let short = short.expect("plain");
                assert_eq!(format!("{short:?}"), format!("{:?}", whole.unwrap()));
                assert_eq!((short.tuple.sport, short.tuple.dport, short.end), (0x1234, 80, end));
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

        /// Whatever bytes change and wherever the frame ends: where the short way says something, the long way says the same.
        #[test]
        fn the_short_way_says_what_the_long_one_says(
            tcp: bool,
            v6: bool,
            changes in prop::collection::vec((0usize..70, prop_oneof![any::<u8>(), Just(0), Just(0x45), Just(20), Just(255)]), 0..4),
            len in prop_oneof![3 => Just(90usize), 1 => 0usize..90],
            mended: bool,
        ) {
            let protocol = if tcp { Protocol::TCP } else { Protocol::UDP };
            let mut frame = if v6 { frame6(protocol) } else { frame(protocol) };
            for (at, byte) in changes {
                if let Some(place) = frame.get_mut(at) {
                    *place = byte;
                }
            }
            if mended && !v6 {
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
