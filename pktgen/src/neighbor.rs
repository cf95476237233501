//! The neighbors' talk: answers to ARP requests, neighbor solicitations and echo requests for the addresses of one end, and the
//! questions with which it finds its router.
//!
//! The addresses are not the kernel's: it never sees these frames.

use crate::verify::{payload, word};
use ipnet::IpNet;
use millrace_wire::{Mac, Protocol, Sum};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const ARP: u16 = 0x0806;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const ECHO_REQUEST: u8 = 8;
const ECHO_REQUEST6: u8 = 128;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// Shortest frame without FCS.
const MIN_FRAME: usize = 60;

/// What was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    /// An ARP request.
    Arp,
    /// A neighbor solicitation.
    Nd,
    /// An echo request.
    Echo,
}

/// Addresses from first to last, as numbers of one IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First.
    pub first: IpAddr,
    /// Last.
    pub last: IpAddr,
}

/// A set of addresses as ranges that are in order and don't meet. Cost model: to ask for one is a binary search among them; to add
/// ranges sorts them all, before a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses(Vec<Range>);

impl Addresses {
    /// Adds ranges; one whose ends are of different IP versions, or the wrong way round, has no addresses.
    pub fn extend(&mut self, ranges: impl IntoIterator<Item = Range>) {
        let valid = |r: &Range| r.first.is_ipv4() == r.last.is_ipv4() && r.first <= r.last;
        self.0.extend(ranges.into_iter().filter(valid));
        self.0.sort_unstable_by_key(|r| r.first);
        self.0.dedup_by(|next, kept| {
            // IPv4 comes before IPv6: what begins within another is of its version.
            let within = next.first <= kept.last;
            if within {
                kept.last = kept.last.max(next.last);
            }
            within
        });
    }

    /// Whether it has `address`.
    pub fn contains(&self, address: IpAddr) -> bool {
        let after = self.0.partition_point(|r| r.first <= address);
        let before = after.checked_sub(1).and_then(|at| self.0.get(at));
        before.is_some_and(|r| address <= r.last)
    }
}

/// What answers for one end.
#[derive(Clone, Debug, Default)]
pub struct Responder {
    /// The end's MAC address.
    pub mac: Mac,
    /// Addresses that are its own.
    pub addresses: Addresses,
}

impl Responder {
    /// For addresses (each alone, whatever its prefix length) and whole prefixes.
    pub fn new(mac: Mac, addresses: &[IpNet], prefixes: &[IpNet]) -> Self {
        let own = addresses.iter().map(|net| Range { first: net.addr(), last: net.addr() });
        let whole =
            prefixes.iter().map(|net| Range { first: net.network(), last: net.broadcast() });
        let mut set = Addresses::default();
        set.extend(own.chain(whole));
        Self { mac, addresses: set }
    }

    /// Whether `address` is one of its own.
    pub fn owns(&self, address: IpAddr) -> bool {
        self.addresses.contains(address)
    }

    /// Writes the answer to `frame` into `out`, if it asks for one; answers its length and what it was.
    pub fn answer(&self, frame: &[u8], out: &mut [u8]) -> Option<(usize, Answered)> {
        let (kind, at) = payload(frame)?;
        match kind {
            ARP => self.answer_arp(frame, at, out),
            IPV4 => self.answer_echo4(frame, at, out),
            IPV6 => self.answer_icmpv6(frame, at, out),
            _ => None,
        }
    }

    /// The frame header of an answer: the sender's MAC and tags, our MAC.
    fn head(&self, frame: &[u8], at: usize, out: &mut [u8]) -> Option<()> {
        out.get_mut(..at)?.copy_from_slice(frame.get(..at)?);
        out.get_mut(..6)?.copy_from_slice(frame.get(6..12)?);
        out.get_mut(6..12)?.copy_from_slice(&self.mac.0);
        Some(())
    }

    fn answer_arp(&self, frame: &[u8], at: usize, out: &mut [u8]) -> Option<(usize, Answered)> {
        let arp: &[u8; 28] = frame.get(at..at + 28)?.try_into().ok()?;
        let target: [u8; 4] = arp[24..28].try_into().ok()?;
        // Ethernet and IPv4, a request (RFC 826); not one's own announcement.
        if arp[..8] != [0, 1, 8, 0, 6, 4, 0, 1]
            || !self.owns(target.into())
            || arp[14..18] == target
        {
            return None;
        }
        self.head(frame, at, out)?;
        let answer = out.get_mut(at..at + 28)?;
        answer[..8].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 2]);
        answer[8..14].copy_from_slice(&self.mac.0);
        answer[14..18].copy_from_slice(&target);
        answer[18..28].copy_from_slice(&arp[8..18]);
        Some((pad(out, at + 28)?, Answered::Arp))
    }

    fn answer_echo4(&self, frame: &[u8], at: usize, out: &mut [u8]) -> Option<(usize, Answered)> {
        let packet = frame.get(at..)?;
        let header = usize::from(packet.first()? & 0xf) * 4;
        let total = usize::from(word(packet, 2)?);
        let icmp = packet.get(header..total)?;
        let target: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
        let fragment = word(packet, 6)? & 0x3fff != 0;
        if header < 20
            || packet.get(9) != Some(&Protocol::ICMP.0)
            || fragment
            || icmp.get(..2) != Some(&[ECHO_REQUEST, 0])
            || icmp.len() < 8
            || !self.owns(target.into())
            || Sum::of(icmp).fold() != 0xffff
        {
            return None;
        }
        self.head(frame, at, out)?;
        let end = at + 20 + icmp.len();
        let answer = out.get_mut(at..end)?;
        let (ip, body) = answer.split_at_mut(20);
        // Options stay behind.
        ip.copy_from_slice(&[
            0x45,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            64,
            Protocol::ICMP.0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
        ]);
        ip[2..4].copy_from_slice(&((20 + icmp.len()) as u16).to_be_bytes());
        ip[12..16].copy_from_slice(&target);
        ip[16..20].copy_from_slice(packet.get(12..16)?);
        let check = Sum::of(ip).finish();
        ip[10..12].copy_from_slice(&check.to_be_bytes());
        body.copy_from_slice(icmp);
        body[0..4].fill(0);
        let check = Sum::of(body).finish();
        body[2..4].copy_from_slice(&check.to_be_bytes());
        Some((pad(out, end)?, Answered::Echo))
    }

    fn answer_icmpv6(&self, frame: &[u8], at: usize, out: &mut [u8]) -> Option<(usize, Answered)> {
        let packet = frame.get(at..)?;
        let len = usize::from(word(packet, 4)?);
        let icmp = packet.get(40..40 + len)?;
        let src: [u8; 16] = packet.get(8..24)?.try_into().ok()?;
        let dst: [u8; 16] = packet.get(24..40)?.try_into().ok()?;
        let sum = Sum::pseudo_v6(&src, &dst, Protocol::ICMPV6, len as u32).add_bytes(icmp);
        if packet.get(6) != Some(&Protocol::ICMPV6.0) || sum.fold() != 0xffff {
            return None;
        }
        match icmp.get(..2)? {
            // RFC 4861 §7.1.1: the hop limit tells that it comes from the link.
            [SOLICITATION, 0] if packet.get(7) == Some(&255) => {
                let target: [u8; 16] = icmp.get(8..24)?.try_into().ok()?;
                if !self.owns(target.into()) {
                    return None;
                }
                // RFC 4861 §7.2.4: to all nodes where the sender has no address yet; solicited, override.
                let asked = src != [0; 16];
                let to = if asked { src } else { ALL_NODES };
                let mut body = [0; 32];
                body[0] = ADVERTISEMENT;
                body[4] = if asked { 0x60 } else { 0x20 };
                body[8..24].copy_from_slice(&target);
                body[24..26].copy_from_slice(&[2, 1]);
                body[26..32].copy_from_slice(&self.mac.0);
                self.head(frame, at, out)?;
                Some((icmpv6(out, at, target, to, 255, &mut body)?, Answered::Nd))
            }
            [ECHO_REQUEST6, 0] if self.owns(dst.into()) => {
                self.head(frame, at, out)?;
                let body = out.get_mut(at + 40..at + 40 + len)?;
                body.copy_from_slice(icmp);
                *body.first_mut()? = ECHO_REQUEST6 + 1;
                let mut body = body.to_vec();
                Some((icmpv6(out, at, dst, src, 64, &mut body)?, Answered::Echo))
            }
            _ => None,
        }
    }
}

const ALL_NODES: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// Writes an ICMPv6 packet at `at`; answers where the frame ends. The checksum goes into `body`.
fn icmpv6(
    out: &mut [u8],
    at: usize,
    src: [u8; 16],
    dst: [u8; 16],
    hops: u8,
    body: &mut [u8],
) -> Option<usize> {
    let header = out.get_mut(at..at + 40)?;
    header[..4].copy_from_slice(&[0x60, 0, 0, 0]);
    header[4..6].copy_from_slice(&(body.len() as u16).to_be_bytes());
    header[6..8].copy_from_slice(&[Protocol::ICMPV6.0, hops]);
    header[8..24].copy_from_slice(&src);
    header[24..40].copy_from_slice(&dst);
    body.get_mut(2..4)?.fill(0);
    let sum = Sum::pseudo_v6(&src, &dst, Protocol::ICMPV6, body.len() as u32).add_bytes(body);
    body.get_mut(2..4)?.copy_from_slice(&sum.finish().to_be_bytes());
    out.get_mut(at + 40..at + 40 + body.len())?.copy_from_slice(body);
    pad(out, at + 40 + body.len())
}

fn pad(out: &mut [u8], end: usize) -> Option<usize> {
    if end < MIN_FRAME {
        out.get_mut(end..MIN_FRAME)?.fill(0);
    }
    Some(end.max(MIN_FRAME))
}

/// Writes the question for the MAC address of `target`, asked by `own`; answers its length.
pub fn ask(mac: Mac, own: IpAddr, target: IpAddr, out: &mut [u8]) -> Option<usize> {
    match (own, target) {
        (IpAddr::V4(own), IpAddr::V4(target)) => {
            out.get_mut(..14)?
                .copy_from_slice(&[255, 255, 255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 8, 6]);
            out.get_mut(6..12)?.copy_from_slice(&mac.0);
            let arp = out.get_mut(14..42)?;
            arp[..8].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
            arp[8..14].copy_from_slice(&mac.0);
            arp[14..18].copy_from_slice(&own.octets());
            arp[18..24].fill(0);
            arp[24..28].copy_from_slice(&target.octets());
            pad(out, 42)
        }
        (IpAddr::V6(own), IpAddr::V6(target)) => {
            let low = target.octets();
            // RFC 4291 §2.7.1, RFC 2464 §7.
            let group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, low[13], low[14], low[15]];
            let head = out.get_mut(..14)?;
            head[..6].copy_from_slice(&[0x33, 0x33, 0xff, low[13], low[14], low[15]]);
            head[6..12].copy_from_slice(&mac.0);
            head[12..14].copy_from_slice(&IPV6.to_be_bytes());
            let mut body = [0; 32];
            body[0] = SOLICITATION;
            body[8..24].copy_from_slice(&target.octets());
            body[24..26].copy_from_slice(&[1, 1]);
            body[26..32].copy_from_slice(&mac.0);
            icmpv6(out, 14, own.octets(), group, 255, &mut body)
        }
        _ => None,
    }
}

/// What an answer to [`ask`] says: whose MAC address is which.
pub fn learn(frame: &[u8]) -> Option<(IpAddr, Mac)> {
    let (kind, at) = payload(frame)?;
    match kind {
        ARP => {
            let arp: &[u8; 28] = frame.get(at..at + 28)?.try_into().ok()?;
            if arp[..8] != [0, 1, 8, 0, 6, 4, 0, 2] {
                return None;
            }
            let address: [u8; 4] = arp[14..18].try_into().ok()?;
            Some((Ipv4Addr::from(address).into(), Mac(arp[8..14].try_into().ok()?)))
        }
        IPV6 => {
            let packet = frame.get(at..)?;
            let icmp = packet.get(40..40 + usize::from(word(packet, 4)?))?;
            let src: [u8; 16] = packet.get(8..24)?.try_into().ok()?;
            let dst: [u8; 16] = packet.get(24..40)?.try_into().ok()?;
            let sum =
                Sum::pseudo_v6(&src, &dst, Protocol::ICMPV6, icmp.len() as u32).add_bytes(icmp);
            if packet.get(6..8) != Some(&[Protocol::ICMPV6.0, 255])
                || icmp.get(..2) != Some(&[ADVERTISEMENT, 0])
                || sum.fold() != 0xffff
            {
                return None;
            }
            let address: [u8; 16] = icmp.get(8..24)?.try_into().ok()?;
            // The target's link-layer address is the option of type 2.
            let mut options = icmp.get(24..)?;
            while let [kind, len, ..] = options {
                let whole = usize::from(*len) * 8;
                if *kind == 2 && whole >= 8 {
                    let mac = Mac(options.get(2..8)?.try_into().ok()?);
                    return Some((Ipv6Addr::from(address).into(), mac));
                }
                options = options.get(whole.max(8)..)?;
            }
            None
        }
        _ => None,
    }
}

/// Sends a frame back where it came from: MAC and IP addresses and ports swapped; answers its length.
///
/// ARP and neighbor discovery are not for this: `None`, as for what is no IP packet.
pub fn reflect(frame: &[u8], out: &mut [u8]) -> Option<usize> {
    let (kind, at) = payload(frame)?;
    // What is for a group has nobody to come back to.
    if frame.first()? & 1 == 1 {
        return None;
    }
    let out = out.get_mut(..frame.len())?;
    out.copy_from_slice(frame);
    out.get_mut(..6)?.copy_from_slice(frame.get(6..12)?);
    out.get_mut(6..12)?.copy_from_slice(frame.get(..6)?);
    let (protocol, l4, addresses, size) = match kind {
        IPV4 => {
            let header = usize::from(frame.get(at)? & 0xf) * 4;
            let first = word(frame, at + 6)? & 0x1fff == 0;
            (if first { *frame.get(at + 9)? } else { 0 }, at + header, at + 12, 4)
        }
        IPV6 => (*frame.get(at + 6)?, at + 40, at + 8, 16),
        _ => return None,
    };
    out.get_mut(addresses..addresses + 2 * size)?.rotate_left(size);
    if kind == IPV6 && protocol == Protocol::ICMPV6.0 && matches!(frame.get(l4), Some(133..=137)) {
        return None;
    }
    // Swapped words leave a sum as it is; a CRC doesn't stay, so SCTP keeps its ports.
    if protocol == Protocol::UDP.0 || protocol == Protocol::TCP.0 {
        out.get_mut(l4..l4 + 4)?.rotate_left(2);
    }
    Some(frame.len())
}

#[cfg(test)]
mod tests;
