//! The same frames through etherparse, which knows nothing of this crate: both must read the same fields and sums.

#[path = "../../fuzz/src/replay.rs"]
mod replay;

use etherparse::{
    ArpHardwareId, ArpOperation, ArpPacket, EtherType as TheirType, IpFragOffset, IpHeaders,
    IpNumber, Ipv4Extensions, Ipv4Header, Ipv4Options, Ipv6Extensions, Ipv6FlowLabel, Ipv6Header,
    NetSlice, PacketBuilder, SlicedPacket, TcpHeader, TransportSlice, VlanId,
};
use millrace_wire::*;
use proptest::prelude::*;
use std::path::Path;

/// What is compared of a frame; addresses as bytes.
#[derive(Debug, PartialEq, Default)]
struct Facts {
    vlans: Vec<u16>,
    addresses: Option<(Vec<u8>, Vec<u8>)>,
    hops: Option<u8>,
    protocol: Option<u8>,
    fragment: bool,
    ports: Option<(u16, u16)>,
    flags: Option<u8>,
    payload: usize,
}

fn ours(frame: &[u8]) -> Option<Facts> {
    let mut facts = Facts::default();
    let (header, rest) = ethernet::Header::view(frame).ok()?;
    let tags = vlan::walk(header.ether_type, rest).ok()?;
    facts.vlans = [tags.outer, tags.inner].iter().flatten().map(vlan::Tag::vid).collect();
    let packet = &rest[tags.len..];
    let (protocol, segment) = match tags.ether_type {
        EtherType::IPV4 => {
            let (header, _, payload) = ipv4::Header::parse(packet).ok()?;
            facts.addresses = Some((header.src.into(), header.dst.into()));
            facts.hops = Some(header.ttl);
            facts.fragment = header.is_fragment();
            (header.protocol, payload)
        }
        EtherType::IPV6 => {
            let (header, payload) = ipv6::Header::parse(packet).ok()?;
            let chain = ipv6_ext::walk(header.next_header, payload).ok()?;
            facts.addresses = Some((header.src.0.into(), header.dst.0.into()));
            facts.hops = Some(header.hop_limit);
            facts.fragment = chain.fragment.is_some_and(|fragment| !fragment.is_atomic());
            (chain.protocol, &payload[chain.offset..])
        }
        _ => return Some(facts),
    };
    facts.protocol = Some(protocol.0);
    facts.payload = segment.len();
    if !facts.fragment {
        match protocol {
            Protocol::TCP => {
                let (header, _, payload) = tcp::Header::parse(segment).ok()?;
                facts.ports = Some((header.src_port.get(), header.dst_port.get()));
                facts.flags = Some(header.flags.0);
                facts.payload = payload.len();
            }
            Protocol::UDP => {
                let (header, payload) = udp::Header::parse(segment).ok()?;
                facts.ports = Some((header.src_port.get(), header.dst_port.get()));
                facts.payload = payload.len();
            }
            _ => {}
        }
    }
    Some(facts)
}

/// `None` also where they go by other rules: a third tag or one of type 0x9100 is gone over, an IPv6 payload length of 0 means "to the end", and AH over IPv4 is no payload.
fn theirs(frame: &[u8]) -> Option<Facts> {
    let sliced = SlicedPacket::from_ethernet(frame).ok()?;
    let other_rules = match &sliced.net {
        Some(NetSlice::Ipv4(ip)) => ip.header().protocol() == IpNumber::AUTHENTICATION_HEADER,
        Some(NetSlice::Ipv6(ip)) => ip.header().payload_length() == 0,
        _ => false,
    };
    let old_tag = [12, 16].iter().any(|at| frame.get(*at..*at + 2) == Some(&[0x91, 0x00]));
    if other_rules || old_tag || sliced.vlan_ids().len() > vlan::MAX_TAGS {
        return None;
    }
    let mut facts = Facts {
        vlans: sliced.vlan_ids().iter().map(|id| id.value()).collect(),
        ..Facts::default()
    };
    let ip = match &sliced.net {
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header();
            facts.addresses = Some((header.source().into(), header.destination().into()));
            facts.hops = Some(header.ttl());
            ip.payload()
        }
        Some(NetSlice::Ipv6(ip)) => {
            let header = ip.header();
            facts.addresses = Some((header.source().into(), header.destination().into()));
            facts.hops = Some(header.hop_limit());
            ip.payload()
        }
        _ => return Some(facts),
    };
    facts.protocol = Some(ip.ip_number.0);
    facts.fragment = ip.fragmented;
    facts.payload = ip.payload.len();
    match &sliced.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            let bits = [
                tcp.fin(),
                tcp.syn(),
                tcp.rst(),
                tcp.psh(),
                tcp.ack(),
                tcp.urg(),
                tcp.ece(),
                tcp.cwr(),
            ];
            facts.flags = Some(bits.iter().rev().fold(0, |flags, bit| flags << 1 | u8::from(*bit)));
            facts.ports = Some((tcp.source_port(), tcp.destination_port()));
            facts.payload = tcp.payload().len();
        }
        Some(TransportSlice::Udp(udp)) => {
            facts.ports = Some((udp.source_port(), udp.destination_port()));
            facts.payload = udp.payload().len();
        }
        _ => {}
    }
    Some(facts)
}

#[test]
fn real_frames_read_the_same() {
    let corpus = replay::corpus(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/wire"));
    let real: Vec<_> = corpus.iter().filter(|(name, _)| !name.starts_with("hostile-")).collect();
    assert!(real.len() > 30);
    for (name, frame) in real {
        let facts = ours(frame);
        assert!(facts.is_some(), "{name}");
        assert_eq!(facts, theirs(frame), "{name}");
    }
}

#[test]
fn mutated_frames_read_the_same_where_both_take_them() {
    let corpus = replay::corpus(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/wire"));
    let mut both = 0;
    replay::mutations(&corpus, 0x6574_6865, 200_000, |frame| {
        if let (Some(ours), Some(theirs)) = (ours(frame), theirs(frame)) {
            // Behind a fragment header with an offset they go on as if headers followed; that is the middle of the packet.
            let v6 = theirs.addresses.as_ref().is_some_and(|(src, _)| src.len() == 16);
            if v6 && theirs.fragment {
                return;
            }
            assert_eq!(ours, theirs);
            both += 1;
        }
    });
    assert!(both > 50_000, "{both}");
}

fn ipv4_header() -> impl Strategy<Value = Ipv4Header> {
    let words = prop::collection::vec(Just(1u8), 0..10).prop_map(|words| words.repeat(4));
    (any::<([u8; 4], [u8; 4])>(), any::<(u8, u16)>(), words).prop_map(
        |((source, destination), (ttl, id), options)| Ipv4Header {
            time_to_live: ttl,
            identification: id,
            source,
            destination,
            fragment_offset: IpFragOffset::ZERO,
            options: Ipv4Options::try_from(&options[..]).unwrap(),
            ..Default::default()
        },
    )
}

fn ip() -> impl Strategy<Value = IpHeaders> {
    let v6 = any::<([u8; 16], [u8; 16], u8, u8, u32)>().prop_map(
        |(source, destination, hop_limit, traffic_class, label)| Ipv6Header {
            source,
            destination,
            hop_limit,
            traffic_class,
            flow_label: Ipv6FlowLabel::try_new(label >> 12).unwrap(),
            ..Default::default()
        },
    );
    prop_oneof![
        ipv4_header().prop_map(|header| IpHeaders::Ipv4(header, Ipv4Extensions::default())),
        v6.prop_map(|header| IpHeaders::Ipv6(header, Ipv6Extensions::default())),
    ]
}

/// Header and L4 of a packet, the sum of its pseudo-header, and whether the IPv4 checksum is right.
fn network(ip: &IpHeaders, packet: &[u8]) -> (Protocol, Vec<u8>, Sum) {
    match ip {
        IpHeaders::Ipv4(theirs, _) => {
            let (header, options, payload) = ipv4::Header::parse(packet).unwrap();
            assert_eq!((header.src, header.dst), (theirs.source, theirs.destination));
            assert_eq!((header.ttl, header.id.get()), (theirs.time_to_live, theirs.identification));
            assert_eq!(options, theirs.options.as_slice());
            assert!(header.checksum_ok(options));
            (header.protocol, payload.to_vec(), header.pseudo(payload.len() as u16))
        }
        IpHeaders::Ipv6(theirs, _) => {
            let (header, payload) = ipv6::Header::parse(packet).unwrap();
            assert_eq!((header.src.0, header.dst.0), (theirs.source, theirs.destination));
            assert_eq!(
                (header.hop_limit, header.traffic_class()),
                (theirs.hop_limit, theirs.traffic_class)
            );
            assert_eq!(header.flow_label(), theirs.flow_label.value());
            (
                header.next_header,
                payload.to_vec(),
                header.pseudo(header.next_header, payload.len() as u32),
            )
        }
    }
}

proptest! {
    #[test]
    fn tcp_frames_of_theirs_are_read_and_summed_the_same(ip in ip(), ports: (u16, u16), numbers: (u32, u32), window: u16, flags: [bool; 8], payload: Vec<u8>) {
        let [fin, syn, rst, psh, ack, urg, ece, cwr] = flags;
        let header = TcpHeader {
            acknowledgment_number: numbers.1,
            fin, syn, rst, psh, ack, urg, ece, cwr,
            ..TcpHeader::new(ports.0, ports.1, numbers.0, window)
        };
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2; 6], [4; 6]).ip(ip.clone()).tcp_header(header).write(&mut frame, &payload).unwrap();
        let (protocol, segment, pseudo) = network(&ip, &frame[14..]);
        prop_assert_eq!(protocol, Protocol::TCP);
        let (ours, options, rest) = tcp::Header::parse(&segment).unwrap();
        let bits = flags.iter().rev().fold(0, |bits, flag| bits << 1 | u8::from(*flag));
        let expected = tcp::Header { checksum: ours.checksum, ..tcp::Header::new(ports.0, ports.1, numbers.0, numbers.1, tcp::Flags(bits), window) };
        prop_assert_eq!(*ours, expected);
        prop_assert_eq!((options, rest), (&[][..], &payload[..]));
        prop_assert_eq!(pseudo.add_bytes(&segment).fold(), 0xffff);
        let mut zeroed = segment.clone();
        zeroed[16..18].fill(0);
        prop_assert_eq!(pseudo.add_bytes(&zeroed).finish(), ours.checksum.get());
    }

    #[test]
    fn udp_frames_of_theirs_are_read_and_summed_the_same(ip in ip(), ports: (u16, u16), payload: Vec<u8>, vlans in prop::option::of((0..4096u16, 0..4096u16))) {
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]);
        match vlans {
            None => builder.ip(ip.clone()).udp(ports.0, ports.1).write(&mut frame, &payload).unwrap(),
            Some((outer, inner)) => {
                let [outer, inner] = [outer, inner].map(|id| VlanId::try_new(id).unwrap());
                builder.double_vlan(outer, inner).ip(ip.clone()).udp(ports.0, ports.1).write(&mut frame, &payload).unwrap();
            }
        }
        let (ethernet, rest) = ethernet::Header::view(&frame).unwrap();
        prop_assert_eq!((ethernet.src, ethernet.dst), (Mac([2; 6]), Mac([4; 6])));
        let tags = vlan::walk(ethernet.ether_type, rest).unwrap();
        prop_assert_eq!(tags.outer.zip(tags.inner).map(|(outer, inner)| (outer.vid(), inner.vid())), vlans);
        let (protocol, segment, pseudo) = network(&ip, &rest[tags.len..]);
        prop_assert_eq!(protocol, Protocol::UDP);
        let (ours, rest) = udp::Header::parse(&segment).unwrap();
        prop_assert_eq!((ours.src_port.get(), ours.dst_port.get()), ports);
        prop_assert_eq!(rest, &payload[..]);
        let mut zeroed = segment.clone();
        zeroed[6..8].fill(0);
        prop_assert_eq!(pseudo.add_bytes(&zeroed).finish_udp(), ours.checksum.get());
    }

    #[test]
    fn echoes_of_theirs_are_read_and_summed_the_same(ip in ip(), id: u16, sequence: u16, payload: Vec<u8>) {
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ip(ip.clone());
        match ip {
            IpHeaders::Ipv4(..) => builder.icmpv4_echo_request(id, sequence).write(&mut frame, &payload).unwrap(),
            IpHeaders::Ipv6(..) => builder.icmpv6_echo_reply(id, sequence).write(&mut frame, &payload).unwrap(),
        }
        let (protocol, message, pseudo) = network(&ip, &frame[14..]);
        let (found, sum) = if protocol == Protocol::ICMP {
            let (header, _) = icmp::Header::view(&message).unwrap();
            prop_assert_eq!(header.kind, icmp::Type::ECHO_REQUEST);
            ((header.echo_id(), header.echo_sequence()), Sum::of(&message))
        } else {
            let (header, _) = icmpv6::Header::view(&message).unwrap();
            prop_assert_eq!(header.kind, icmpv6::Type::ECHO_REPLY);
            ((header.echo_id(), header.echo_sequence()), pseudo.add_bytes(&message))
        };
        prop_assert_eq!(found, (id, sequence));
        prop_assert_eq!(sum.fold(), 0xffff);
    }

    #[test]
    fn arp_packets_of_theirs_are_read_the_same(op: u16, macs: ([u8; 6], [u8; 6]), addrs: ([u8; 4], [u8; 4])) {
        let theirs = ArpPacket::new(
            ArpHardwareId::ETHERNET, TheirType::IPV4, ArpOperation(op), &macs.0, &addrs.0, &macs.1, &addrs.1,
        ).unwrap();
        let bytes = theirs.to_bytes();
        let ours = arp::Packet::new(arp::Op::new(op), (Mac(macs.0), addrs.0), (Mac(macs.1), addrs.1));
        prop_assert_eq!(arp::Packet::parse(&bytes), Ok(&ours));
    }

    #[test]
    fn ipv4_headers_of_ours_are_theirs(src: [u8; 4], dst: [u8; 4], protocol: u8, ttl: u8, payload in 0..65_515u16) {
        let mut bytes = [0; 20];
        ipv4::Header::new(src, dst, Protocol(protocol), ttl, payload).put(&mut bytes).unwrap();
        let (theirs, _) = Ipv4Header::from_slice(&bytes).unwrap();
        prop_assert_eq!((theirs.source, theirs.destination, theirs.protocol), (src, dst, IpNumber(protocol)));
        prop_assert_eq!((theirs.time_to_live, theirs.payload_len()), (ttl, Ok(payload)));
        prop_assert_eq!(theirs.calc_header_checksum(), theirs.header_checksum);
    }
}
