//! Translates a packet's own addresses and ports, and mends the checksums over them.

use millrace_wire::{Delta, Protocol, U16, crc32c, icmp, icmpv6, ipv4, ipv6, sctp, tcp, udp};

use crate::exit::Exit;
use crate::flow::Tuple;
use crate::packet::{Headers, Network, Part, view_mut};

/// The edit of a translation, as the checksums see it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Edit {
    /// Of the two addresses.
    pub addresses: Delta,
    /// Of the two ports.
    pub ports: Delta,
}

impl Edit {
    /// From one tuple to the other, both of one family.
    #[inline(always)]
    pub(super) fn between(network: Network, old: &Tuple, new: &Tuple) -> Edit {
        let ports = Delta::of_word(old.sport, new.sport).and(Delta::of_word(old.dport, new.dport));
        let addresses = match network {
            Network::Ipv4 => {
                let words = |tuple: &Tuple| [tuple.src.to_v4_bits(), tuple.dst.to_v4_bits()];
                Delta::of_words(words(old), words(new))
            }
            Network::Ipv6 | Network::Arp => Delta::of_words(v6_words(old), v6_words(new)),
        };
        Edit { addresses, ports }
    }

    /// Both.
    pub(super) fn all(&self) -> Delta {
        self.addresses.and(self.ports)
    }
}

/// Both addresses as they lie in an IPv6 header.
#[inline]
fn v6_words(tuple: &Tuple) -> [u32; 8] {
    let halves = |word: u64| [word as u32, (word >> 32) as u32];
    let ([a, b], [c, d]) = (tuple.src.to_words(), tuple.dst.to_words());
    let [[a, b], [c, d], [e, f], [g, h]] = [a, b, c, d].map(halves);
    [a, b, c, d, e, f, g, h]
}

/// Gives the packet the tuple `new`. `partial`: its TCP or UDP checksum holds the pseudo-header sum only.
#[inline(always)]
pub(super) fn translate(
    bytes: &mut [u8],
    headers: &Headers,
    new: &Tuple,
    partial: bool,
) -> Result<(), Exit> {
    let old = &headers.tuple;
    let edit = Edit::between(headers.network, old, new);
    // Of a later fragment what stands there is payload.
    if headers.part != Part::Later {
        transport(bytes, headers, new, &edit, partial)?;
    }
    match headers.network {
        Network::Ipv4 => {
            let ip = view_mut::<ipv4::Header>(bytes, headers.l3)?;
            ip.src = new.src.to_v4_bits().to_ne_bytes();
            ip.dst = new.dst.to_v4_bits().to_ne_bytes();
            ip.checksum = U16::new(edit.addresses.apply(ip.checksum.get()));
        }
        Network::Ipv6 | Network::Arp => {
            let ip = view_mut::<ipv6::Header>(bytes, headers.l3)?;
            (ip.src, ip.dst) = (new.src.into(), new.dst.into());
        }
    }
    Ok(())
}

/// Ports and checksum of TCP, UDP or SCTP, the identifier of an echo message.
#[inline(always)]
fn transport(
    bytes: &mut [u8],
    headers: &Headers,
    new: &Tuple,
    edit: &Edit,
    partial: bool,
) -> Result<(), Exit> {
    let new_ports = [U16::new(new.sport), U16::new(new.dport)];
    match headers.protocol {
        Protocol::TCP => {
            let segment = view_mut::<tcp::Header>(bytes, headers.l4)?;
            let check = segment.checksum.get();
            // The ports are behind the pseudo-header: a partial sum does not count them.
            let check =
                if partial { edit.addresses.apply_sum(check) } else { edit.all().apply(check) };
            segment.checksum = U16::new(check);
            [segment.src_port, segment.dst_port] = new_ports;
        }
        Protocol::UDP => {
            let datagram = view_mut::<udp::Header>(bytes, headers.l4)?;
            let check = datagram.checksum.get();
            let check =
                if partial { edit.addresses.apply_sum(check) } else { edit.all().apply_udp(check) };
            datagram.checksum = U16::new(check);
            [datagram.src_port, datagram.dst_port] = new_ports;
        }
        Protocol::SCTP => {
            // The CRC covers the ports but no addresses (RFC 9260 section 6.8). A partial one is computed whole, later.
            let packet = view_mut::<sctp::Header>(bytes, headers.l4)?;
            let (old, new) = (ports(&headers.tuple), ports(new));
            if old != new && !partial {
                let after = (headers.l4_len() as usize).saturating_sub(old.len());
                packet.checksum.set(crc32c::update(packet.checksum.get(), &old, &new, after));
            }
            [packet.src_port, packet.dst_port] = new_ports;
        }
        Protocol::ICMP => {
            let message = view_mut::<icmp::Header>(bytes, headers.l4)?;
            message.checksum = U16::new(edit.ports.apply(message.checksum.get()));
            message.set_echo_id(echo_id(new));
        }
        Protocol::ICMPV6 => {
            // Its checksum counts the addresses (RFC 4443 section 2.3).
            let message = view_mut::<icmpv6::Header>(bytes, headers.l4)?;
            message.checksum = U16::new(edit.all().apply(message.checksum.get()));
            message.set_echo_id(echo_id(new));
        }
        _ => {}
    }
    Ok(())
}

/// The identifier in a tuple of echo messages: in place of one port, the other is 0.
pub(super) fn echo_id(tuple: &Tuple) -> u16 {
    tuple.sport | tuple.dport
}

/// The first four bytes of an L4 header.
pub(super) fn ports(tuple: &Tuple) -> [u8; 4] {
    let ([a, b], [c, d]) = (tuple.sport.to_be_bytes(), tuple.dport.to_be_bytes());
    [a, b, c, d]
}
