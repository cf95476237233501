//! Bytes → [`Headers`]: where each header is, which flow the packet belongs to, and the rules that need nothing else.
//!
//! Needs the receiving interface (its MAC) and the hash seed. Drops what no router may carry: bad lengths, versions and
//! IPv4 checksums, martians, other stations' frames. Punts what is not IP or ARP and IPv4 to groups. Never reads past the
//! frame; never takes payload for ports: a later fragment has none. A faulty L4 header alone does not stop a packet,
//! since a router looks no further than IP; it is noted in [`Headers::fault`] for the stops that would translate or answer it.
//! Leaves to `neighbor` what ARP and ND packets mean, and IPv6 to groups.
//!
//! Cost: the first two cache lines of the frame, no memory beyond; one hash.

mod plain;

use millrace_wire::ipv6_ext::{self, ExtError};
use millrace_wire::{
    Addr, Error, EtherType, Protocol, View, arp, ethernet, icmp, icmpv6, ipv4, ipv6, tcp, udp, vlan,
};

use crate::exit::Exit;
use crate::flow::{Seed, Tuple};
use crate::interface::Interface;
use crate::packet::{Headers, Network, Packet, Part, Quote, Raw};
use crate::verdict::{DropReason, PuntReason};

/// Parses one frame that came in on `interface`, into `headers`, whatever they were of.
///
/// Written in place, field by field, and read by the second pass much later: a copy right behind the writing would stall on
/// each field that is narrower than the copy's loads.
#[inline(always)]
pub fn parse(
    packet: &Packet<'_, Raw>,
    interface: &Interface,
    seed: &Seed,
    headers: &mut Headers,
) -> Result<(), Exit> {
    let (bytes, total) = (packet.bytes(), packet.total_len());
    if plain::parse(bytes, total, interface, seed, headers).is_some() {
        return Ok(());
    }
    long(bytes, total, interface, seed, headers)
}

/// Parses any frame.
#[inline(never)]
fn long(
    bytes: &[u8],
    total: usize,
    interface: &Interface,
    seed: &Seed,
    headers: &mut Headers,
) -> Result<(), Exit> {
    *headers = Headers::BLANK;
    let (link, rest) = ethernet::Header::view(bytes).map_err(|_| DropReason::Truncated)?;
    if link.src.is_multicast() {
        return Err(DropReason::BadEthernet.into());
    }
    let to_group = link.dst.is_multicast();
    if !to_group && link.dst != interface.mac {
        return Err(DropReason::NotForUs.into());
    }
    let tags = vlan::walk(link.ether_type, rest).map_err(|_| DropReason::Truncated)?;
    let l3 = ethernet::Header::LEN + tags.len;
    let available = total.saturating_sub(l3);
    let bytes = bytes.get(l3..).ok_or(DropReason::Truncated)?;
    (headers.l3, headers.l4) = (l3 as u16, l3 as u16);
    headers.to_group = to_group;
    match tags.ether_type {
        EtherType::IPV4 if to_group => Err(group(link).into()),
        EtherType::IPV4 => v4(bytes, available, l3, seed, headers),
        EtherType::IPV6 => v6(bytes, available, l3, seed, headers),
        EtherType::ARP if bytes.len() < arp::Packet::LEN => Err(DropReason::Truncated.into()),
        EtherType::ARP => {
            headers.end = total as u32;
            Ok(())
        }
        tag if tag.is_tag() => Err(DropReason::BadEthernet.into()),
        _ => Err(PuntReason::EtherType.into()),
    }
}

fn group(link: &ethernet::Header) -> PuntReason {
    if link.dst.is_broadcast() { PuntReason::Broadcast } else { PuntReason::Multicast }
}

/// An IPv4 packet at the start of `bytes`, which is at `l3` in the frame.
#[inline]
fn v4(
    bytes: &[u8],
    available: usize,
    l3: usize,
    seed: &Seed,
    headers: &mut Headers,
) -> Result<(), Exit> {
    let (ip, rest) = ipv4::Header::view(bytes).map_err(|_| DropReason::Truncated)?;
    ip.validate(available).map_err(reason)?;
    let options = rest.get(..ip.header_len() - ipv4::Header::LEN).ok_or(DropReason::Truncated)?;
    if !ip.checksum_ok(options) {
        return Err(DropReason::BadChecksum.into());
    }
    check_options(options)?;
    check_v4(ip.src, ip.dst)?;
    let part = match (ip.fragment_offset(), ip.more_fragments()) {
        (0, false) => Part::Whole,
        (0, true) => Part::First,
        _ => Part::Later,
    };
    headers.tuple.src = ip.src_addr();
    headers.tuple.dst = ip.dst_addr();
    headers.tuple.protocol = ip.protocol;
    headers.l4 = (l3 + ip.header_len()) as u16;
    headers.end = (l3 + ip.total_len()) as u32;
    headers.network = Network::Ipv4;
    headers.protocol = ip.protocol;
    headers.part = part;
    headers.ttl = ip.ttl;
    headers.dont_fragment = ip.dont_fragment();
    let payload = rest.get(options.len()..).unwrap_or_default();
    transport(headers, payload);
    finish(headers, seed);
    Ok(())
}

/// An IPv6 packet at the start of `bytes`, which is at `l3` in the frame.
#[inline]
fn v6(
    bytes: &[u8],
    available: usize,
    l3: usize,
    seed: &Seed,
    headers: &mut Headers,
) -> Result<(), Exit> {
    let (ip, rest) = ipv6::Header::view(bytes).map_err(|_| DropReason::Truncated)?;
    ip.validate(available).map_err(reason)?;
    let (src, dst) = (ip.src_addr(), ip.dst_addr());
    check_v6(&src, &dst)?;
    let payload = rest.get(..rest.len().min(ip.payload_len())).unwrap_or_default();
    let chain = ipv6_ext::walk(ip.next_header, payload).map_err(|error| match error {
        ExtError::Truncated => DropReason::Truncated,
        ExtError::TooMany => DropReason::ExtensionHeaders,
        ExtError::HopByHopNotFirst | ExtError::RepeatedFragment => DropReason::BadHeader,
    })?;
    let part = match chain.fragment {
        Some(fragment) if fragment.offset != 0 => Part::Later,
        Some(fragment) if fragment.more => Part::First,
        _ => Part::Whole,
    };
    headers.tuple.src = src;
    headers.tuple.dst = dst;
    headers.tuple.protocol = chain.protocol;
    headers.l4 = (l3 + ipv6::Header::LEN + chain.offset) as u16;
    headers.end = (l3 + ip.total_len()) as u32;
    headers.network = Network::Ipv6;
    headers.protocol = chain.protocol;
    headers.part = part;
    headers.ttl = ip.hop_limit;
    headers.dont_fragment = true;
    headers.routed_on = chain.routing_segments_left.is_some_and(|left| left != 0);
    transport(headers, payload.get(chain.offset..).unwrap_or_default());
    finish(headers, seed);
    Ok(())
}

/// What follows from the tuple.
fn finish(headers: &mut Headers, seed: &Seed) {
    let Tuple { sport, dport, protocol, .. } = headers.tuple;
    headers.hash = seed.hash(&headers.tuple);
    let has_name = headers.trackable || protocol.has_ports() && (sport | dport) != 0;
    headers.trackable = has_name && headers.part == Part::Whole;
}

fn reason(error: Error) -> DropReason {
    match error {
        Error::Truncated => DropReason::Truncated,
        Error::Version => DropReason::BadVersion,
        Error::Length => DropReason::BadLength,
        Error::HeaderLength | Error::Option | Error::Field => DropReason::BadHeader,
    }
}

/// Options must be well-formed, and the sender may not choose the way (RFC 7126 sections 4.3 and 4.4).
#[inline]
fn check_options(options: &[u8]) -> Result<(), DropReason> {
    for option in ipv4::Options::new(options) {
        match option {
            Err(_) => return Err(DropReason::BadHeader),
            Ok((kind, _)) if kind.is_source_route() => return Err(DropReason::SourceRoute),
            Ok(_) => {}
        }
    }
    Ok(())
}

/// RFC 1812 section 5.3.7, as Linux reads it (`ip_route_input_slow`): class E is carried.
#[inline]
fn check_v4(src: [u8; 4], dst: [u8; 4]) -> Result<(), DropReason> {
    const GROUP: std::ops::Range<u8> = 224..240;
    let [s, ..] = src;
    let [d, ..] = dst;
    let bad_src = matches!(s, 0 | 127) || GROUP.contains(&s) || src == [255; 4];
    // A group or broadcast address in a unicast frame: RFC 1122 section 3.3.6.
    let bad_dst = matches!(d, 0 | 127) || GROUP.contains(&d) || dst == [255; 4];
    if bad_src || bad_dst { Err(DropReason::Martian) } else { Ok(()) }
}

/// RFC 4291 sections 2.5.2, 2.5.3, 2.7; IPv4-mapped addresses would be taken for IPv4 ones by [`Addr`] (RFC 4291 section
/// 2.5.5.2: they are not for the wire). The unspecified source is for DAD alone, which sends to a group (RFC 4862 section 5.4.2).
#[inline]
fn check_v6(src: &Addr, dst: &Addr) -> Result<(), DropReason> {
    let bad_src = src.is_v4() || src.is_multicast() || src.is_loopback();
    let bad_dst = dst.is_v4() || dst.is_unspecified() || dst.is_loopback();
    let unspecified = src.is_unspecified() && !dst.is_multicast();
    if bad_src || bad_dst || unspecified { Err(DropReason::Martian) } else { Ok(()) }
}

/// Ports, TCP flags and quote of the packet whose L4 header is at the start of `payload`; padding may follow it.
#[inline]
fn transport(headers: &mut Headers, payload: &[u8]) {
    let len = headers.l4_len() as usize;
    let payload = payload.get(..payload.len().min(len)).unwrap_or_default();
    match headers.protocol {
        _ if headers.part == Part::Later => {}
        Protocol::TCP | Protocol::UDP | Protocol::SCTP => {
            let Some((sport, dport)) = ports(payload) else {
                headers.fault = Some(DropReason::Truncated);
                return;
            };
            (headers.tuple.sport, headers.tuple.dport) = (sport, dport);
            headers.fault = match headers.protocol {
                Protocol::TCP => tcp_fault(headers, payload, len),
                Protocol::UDP => udp_fault(headers, payload, len),
                _ if payload.len() < millrace_wire::sctp::Header::LEN => {
                    Some(DropReason::Truncated)
                }
                _ => None,
            };
        }
        Protocol::ICMP if headers.network == Network::Ipv4 => match icmp::Header::view(payload) {
            Ok((icmp, quoted)) if icmp.kind.is_error() => quote(headers, quoted),
            Ok((icmp, _)) => match icmp.kind {
                icmp::Type::ECHO_REQUEST => echo(headers, (icmp.echo_id(), 0)),
                icmp::Type::ECHO_REPLY => echo(headers, (0, icmp.echo_id())),
                _ => {}
            },
            Err(_) => headers.fault = Some(DropReason::Truncated),
        },
        Protocol::ICMPV6 if headers.network == Network::Ipv6 => match icmpv6::Header::view(payload)
        {
            Ok((icmp, quoted)) if icmp.kind.is_error() => quote(headers, quoted),
            Ok((icmp, _)) => match icmp.kind {
                icmpv6::Type::ECHO_REQUEST => echo(headers, (icmp.echo_id(), 0)),
                icmpv6::Type::ECHO_REPLY => echo(headers, (0, icmp.echo_id())),
                _ => {}
            },
            Err(_) => headers.fault = Some(DropReason::Truncated),
        },
        _ => {}
    }
}

/// Requests with one identifier are a flow: it stands for the port of who asks.
#[inline]
fn echo(headers: &mut Headers, ports: (u16, u16)) {
    (headers.tuple.sport, headers.tuple.dport) = ports;
    headers.trackable = true;
}

/// The same of an echo message that an error quotes.
fn quoted_echo(protocol: Protocol, payload: &[u8]) -> Option<(u16, u16)> {
    let (asks, id) = match protocol {
        Protocol::ICMP => {
            let (icmp, _) = icmp::Header::view(payload).ok()?;
            let asks = icmp.kind == icmp::Type::ECHO_REQUEST;
            (asks || icmp.kind == icmp::Type::ECHO_REPLY).then(|| (asks, icmp.echo_id()))
        }
        _ => {
            let (icmp, _) = icmpv6::Header::view(payload).ok()?;
            let asks = icmp.kind == icmpv6::Type::ECHO_REQUEST;
            (asks || icmp.kind == icmpv6::Type::ECHO_REPLY).then(|| (asks, icmp.echo_id()))
        }
    }?;
    Some(if asks { (id, 0) } else { (0, id) })
}

/// Source and destination port, where all three protocols have them.
#[inline]
fn ports(payload: &[u8]) -> Option<(u16, u16)> {
    let &[a, b, c, d, ..] = payload else { return None };
    Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
}

/// RFC 9293 section 3.1: the data offset names 20 bytes or more, all of them there.
#[inline]
fn tcp_fault(headers: &mut Headers, payload: &[u8], len: usize) -> Option<DropReason> {
    let Ok((segment, _)) = tcp::Header::view(payload) else { return Some(DropReason::Truncated) };
    headers.tcp = segment.flags;
    let header_len = segment.header_len();
    (header_len < tcp::Header::LEN || (header_len > len && headers.part == Part::Whole))
        .then_some(DropReason::BadLength)
}

/// RFC 768: the length counts the header; RFC 8200 section 8.1: over IPv6 a checksum is required.
#[inline]
fn udp_fault(headers: &Headers, payload: &[u8], len: usize) -> Option<DropReason> {
    let Ok((datagram, _)) = udp::Header::view(payload) else { return Some(DropReason::Truncated) };
    let datagram_len = usize::from(datagram.len.get());
    if datagram_len < udp::Header::LEN || (datagram_len > len && headers.part == Part::Whole) {
        Some(DropReason::BadLength)
    } else if headers.network == Network::Ipv6 && !datagram.has_checksum() {
        Some(DropReason::BadChecksum)
    } else {
        None
    }
}

/// An ICMP error's packet belongs to the flow that the quoted packet was of, and travels against it. Errors about later
/// fragments, or that quote too little for ports, belong to none.
fn quote(headers: &mut Headers, quoted: &[u8]) {
    let Some((inner, offset, at)) = quoted_tuple(headers.network, quoted) else { return };
    // It must be sent to where the quoted packet came from; anything else is forged (nf_conntrack_inet_error).
    if inner.src != headers.tuple.dst {
        headers.fault = Some(DropReason::ConntrackInvalid);
    }
    let l3 = headers.l4 + icmp::Header::LEN as u16;
    headers.quote = Some(Quote { l3, l4: l3 + at, protocol: offset });
    headers.tuple = inner.reversed();
    headers.trackable = !inner.protocol.has_ports();
}

/// The quoted packet's tuple, its protocol, and where its L4 header is behind its IP header.
fn quoted_tuple(network: Network, quoted: &[u8]) -> Option<(Tuple, Protocol, u16)> {
    let (src, dst, protocol, at) = match network {
        Network::Ipv4 => {
            let (ip, _) = ipv4::Header::view(quoted).ok()?;
            let sound = ip.version() == 4
                && ip.header_len() >= ipv4::Header::LEN
                && ip.fragment_offset() == 0;
            sound.then(|| (ip.src_addr(), ip.dst_addr(), ip.protocol, ip.header_len()))?
        }
        Network::Ipv6 | Network::Arp => {
            let (ip, rest) = ipv6::Header::view(quoted).ok()?;
            let chain = ipv6_ext::walk(ip.next_header, rest).ok()?;
            let sound =
                ip.version() == 6 && chain.fragment.is_none_or(|fragment| fragment.offset == 0);
            sound.then_some((
                ip.src_addr(),
                ip.dst_addr(),
                chain.protocol,
                ipv6::Header::LEN + chain.offset,
            ))?
        }
    };
    let payload = quoted.get(at..)?;
    let (sport, dport) = match (protocol, network) {
        (protocol, _) if protocol.has_ports() => ports(payload)?,
        (Protocol::ICMP, Network::Ipv4) | (Protocol::ICMPV6, Network::Ipv6) => {
            quoted_echo(protocol, payload)?
        }
        _ => return None,
    };
    Some((Tuple { src, dst, sport, dport, protocol }, protocol, at as u16))
}
