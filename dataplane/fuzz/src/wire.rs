//! `millrace-wire`: no bytes make a parser panic, read outside the slice, or contradict itself.

use millrace_wire::*;

/// Every parser on `data` itself, and the headers of `data` taken as an Ethernet frame. Panics when something doesn't hold.
///
/// Answers the protocol of the L4 header that the frame led to, if it led to one.
pub fn check(data: &[u8]) -> Option<Protocol> {
    every_parser(data);
    sums(data);
    frame(data)
}

/// `inner` is a part of `outer`.
fn inside(outer: &[u8], inner: &[u8]) {
    let (outer, inner) = (outer.as_ptr_range(), inner.as_ptr_range());
    assert!(outer.start <= inner.start && inner.end <= outer.end, "read outside the slice");
}

fn every_parser(data: &[u8]) {
    let _ = ethernet::Header::view(data).map(|(_, rest)| inside(data, rest));
    for ether_type in [EtherType::VLAN, EtherType::QINQ, EtherType::IPV4] {
        let _ = vlan::walk(ether_type, data).map(|tags| assert!(tags.len <= data.len()));
    }
    let _ = arp::Packet::parse(data).map(|packet| (packet.is_gratuitous(), packet.is_probe()));
    ipv4(data);
    ipv6(data);
    for first in [0, 43, 44, 51, 60].map(Protocol) {
        extensions(first, data);
    }
    for protocol in [Protocol::ICMP, Protocol::ICMPV6, Protocol::TCP, Protocol::UDP, Protocol::SCTP]
    {
        transport(protocol, data);
    }
    ipv4::Options::new(data).flatten().for_each(|(_, option)| inside(data, option));
    ndp::Options::new(data).for_each(|(_, option)| inside(data, option));
}

fn ipv4(data: &[u8]) -> Option<(Protocol, &[u8])> {
    let (header, options, payload) = ipv4::Header::parse(data).ok()?;
    inside(data, options);
    inside(data, payload);
    assert_eq!(20 + options.len() + payload.len(), header.total_len());
    assert_eq!(payload.len(), header.payload_len());
    let mut list = ipv4::Options::new(options);
    let mut bytes = 0;
    for option in list.by_ref() {
        bytes += option.map_or(0, |(_, data)| {
            inside(options, data);
            2 + data.len()
        });
    }
    assert!(bytes <= options.len());
    assert!(list.next().is_none());

    let mut hop = *header;
    let before = hop.checksum_ok(options);
    if hop.decrement_ttl() {
        assert_eq!(hop.checksum_ok(options), before);
    } else {
        assert_eq!(hop, *header);
    }
    hop.fill_checksum(options);
    assert!(hop.checksum_ok(options));
    let first = header.fragment_offset() == 0;
    first.then_some((header.protocol, payload))
}

fn ipv6(data: &[u8]) -> Option<(Protocol, &[u8])> {
    let (header, payload) = ipv6::Header::parse(data).ok()?;
    inside(data, payload);
    assert_eq!(40 + payload.len(), header.total_len());
    assert_eq!(header.version(), 6);
    extensions(header.next_header, payload)
}

fn extensions(first: Protocol, payload: &[u8]) -> Option<(Protocol, &[u8])> {
    let chain = ipv6_ext::walk(first, payload).ok()?;
    assert!(chain.offset <= payload.len());
    assert!(
        chain.fragment.is_none_or(
            |fragment| fragment.offset % 8 == 0 && fragment.is_atomic() <= !fragment.more
        )
    );
    // What is behind the chain was not needed to follow it, and not a byte less would do.
    assert_eq!(ipv6_ext::walk(first, &payload[..chain.offset]), Ok(chain));
    if chain.offset > 0 {
        assert_eq!(
            ipv6_ext::walk(first, &payload[..chain.offset - 1]),
            Err(ipv6_ext::ExtError::Truncated)
        );
    }
    let first = chain.fragment.is_none_or(|fragment| fragment.offset == 0);
    first.then(|| (chain.protocol, &payload[chain.offset..]))
}

/// Whether `data` begins with a good header of this protocol.
fn transport(protocol: Protocol, data: &[u8]) -> bool {
    match protocol {
        Protocol::TCP => tcp::Header::parse(data).is_ok_and(|(header, options, payload)| {
            inside(data, options);
            inside(data, payload);
            assert_eq!(header.header_len() + payload.len(), data.len());
            assert_eq!(20 + options.len(), header.header_len());
            true
        }),
        Protocol::UDP => udp::Header::parse(data).is_ok_and(|(header, payload)| {
            inside(data, payload);
            assert_eq!(8 + payload.len(), usize::from(header.len.get()));
            true
        }),
        Protocol::SCTP => sctp::Header::parse(data).is_ok_and(|(header, chunks)| {
            let first = chunks.first();
            let mut bytes = 0;
            for (number, chunk) in chunks.enumerate() {
                if let Ok((chunk, part)) = chunk {
                    inside(data, part);
                    assert!(number > 0 || first == Some(chunk.kind));
                    bytes += 4 + part.len();
                }
            }
            assert!(12 + bytes <= data.len());
            let _ = header.crc();
            true
        }),
        Protocol::ICMP => icmp::Header::view(data).is_ok_and(|(_, quoted)| {
            let _ = ipv4::Header::view(quoted);
            true
        }),
        Protocol::ICMPV6 => icmpv6::Header::view(data).is_ok_and(|(_, quoted)| {
            let _ = ipv6::Header::view(quoted);
            discovery(data);
            true
        }),
        _ => true,
    }
}

fn discovery(message: &[u8]) {
    let found = [
        ndp::NeighborSolicitation::parse(message).map(|(_, options)| (24, options)),
        ndp::NeighborAdvertisement::parse(message).map(|(_, options)| (24, options)),
        ndp::RouterSolicitation::parse(message).map(|(_, options)| (8, options)),
        ndp::RouterAdvertisement::parse(message).map(|(_, options)| (16, options)),
    ];
    for (len, options) in found.into_iter().flatten() {
        // Checked options fill the rest of the message.
        let bytes: usize = options.clone().map(|(_, data)| 2 + data.len()).sum();
        assert_eq!(len + bytes, message.len());
        let _ = options.link_layer(ndp::OptionKind::SOURCE_LINK_LAYER);
    }
}

fn frame(data: &[u8]) -> Option<Protocol> {
    let (header, payload) = ethernet::Header::view(data).ok()?;
    let tags = vlan::walk(header.ether_type, payload).ok()?;
    let packet = &payload[tags.len..];
    let (protocol, segment) = match tags.ether_type {
        EtherType::IPV4 => ipv4(packet)?,
        EtherType::IPV6 => ipv6(packet)?,
        _ => return None,
    };
    transport(protocol, segment).then_some(protocol)
}

/// The first four bytes say where to cut and what to write; the rest is summed.
fn sums(data: &[u8]) {
    let Some((&[cut, at, new @ ..], body)) = data.split_first_chunk::<4>() else { return };
    let cut = usize::from(cut).min(body.len());
    let whole = Sum::of(body);
    assert_eq!(Sum::of(&body[..cut]).add_bytes(&body[cut..]).fold(), whole.fold());
    assert_eq!(
        Crc32c::new().add_bytes(&body[..cut]).add_bytes(&body[cut..]).finish(),
        crc32c::crc32c(body)
    );

    let at = usize::from(at) * 2;
    let Some(old) = body.get(at..at + 2) else { return };
    let mut edited = body.to_vec();
    edited[at..at + 2].copy_from_slice(&new);
    let mended = crc32c::update(crc32c::crc32c(body), old, &new, body.len() - at - 2);
    assert_eq!(mended, crc32c::crc32c(&edited));
    if whole.fold() != 0 && edited.iter().any(|byte| *byte != 0) {
        let after = Sum::of(&edited);
        assert_eq!(checksum::update(whole.finish(), old, &new), after.finish());
        assert_eq!(checksum::update_udp(whole.finish_udp(), old, &new), after.finish_udp());
        assert_eq!(checksum::update_udp(0, old, &new), 0);
    }
}
