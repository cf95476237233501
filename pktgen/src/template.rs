//! A stream's packet as bytes, made once by etherparse, and where in it the fields lie that change.
//!
//! All that never changes in a checksum is summed here, once, addresses and ports that are the same in every packet too. What changes is
//! nought in the template: the other addresses and ports, lengths, checksums, numbers. `craft` puts these in, and sums only them.

use crate::layout::{Layout, Part, SCTP};
use crate::profile::{Family, Fill, StreamPlan, Transport, VxlanPlan};
use crate::rng::Rng;
use etherparse::err::packet::BuildWriteError;
use etherparse::{
    EtherType, IpDscp, IpHeaders, IpNumber, Ipv4Header, Ipv6Header, PacketBuilder,
    PacketBuilderStep, SingleVlanHeader, TcpHeader, VlanHeader, VlanId, VlanPcp,
};
use millrace_wire::Mac;
use std::net::IpAddr;

/// A stream's frame, as long as its longest.
#[derive(Clone, Debug)]
pub struct Template {
    /// Where things are in it.
    pub layout: Layout,
    /// Its bytes; what changes is nought.
    pub bytes: Vec<u8>,
    /// Sum of the IP header's words.
    pub ip_sum: u64,
    /// Sum of the L4 header's words and of the pseudo-header's protocol number and addresses.
    pub l4_sum: u64,
    /// Sum of the outer IP header's words, its addresses included.
    pub outer_sum: u64,
    /// Where the L4 checksum is, if it is a sum.
    pub check: Option<usize>,
    /// How often the L4 packet's length is in that sum: in the pseudo-header, and in UDP's.
    pub lengths: u64,
    /// A checksum needs a pass over the packet.
    pub is_slow: bool,
    /// Folded sum of the payload's first n bytes; empty when all are zeros.
    payload_sums: Vec<u16>,
}

/// The frame's own addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Macs {
    /// Source.
    pub src: Mac,
    /// Destination.
    pub dst: Mac,
}

impl Template {
    /// Builds a stream's frame.
    pub fn build(plan: &StreamPlan, macs: Macs, seed: u64) -> Result<Self, BuildWriteError> {
        let layout = Layout::of(plan);
        let longest = layout.frame_len(plan.size.bounds().1 as usize);
        let payload = payload(&plan.fill, longest.saturating_sub(layout.payload), seed);
        let bytes = match &plan.vxlan {
            None => packet(plan, macs, &plan.vlans, &payload)?,
            Some(vxlan) => {
                let inner = Macs { src: vxlan.inner_src_mac, dst: vxlan.inner_dst_mac };
                let inner = packet(plan, inner, &[], &payload)?;
                encapsulate(plan, vxlan, macs, &inner)?
            }
        };
        let payload_sums = if plan.fill == Fill::Zeros { Vec::new() } else { running(&payload) };
        let (check, lengths) = match layout.transport {
            Transport::Udp => (Some(layout.l4 + 6), 2),
            Transport::Tcp => (Some(layout.l4 + 16), 1),
            Transport::Icmp => (Some(layout.l4 + 2), u64::from(layout.has_pseudo_header())),
            Transport::Sctp => (None, 0),
        };
        let outer_sum = layout.outer.is_some_and(|outer| outer.family == Family::V6);
        let mut template = Self {
            layout,
            bytes,
            ip_sum: 0,
            l4_sum: 0,
            outer_sum: 0,
            check,
            lengths,
            is_slow: check.is_none() || outer_sum,
            payload_sums,
        };
        template.clear();
        Ok(template)
    }

    /// Stores what a part of every packet is, and sums it.
    pub fn fix(&mut self, part: Part, value: u128) {
        let Some(place) = self.layout.place(part) else { return };
        let sum = place.store(value, &mut self.bytes);
        let (in_ip, in_l4) = self.layout.summed(part);
        self.ip_sum += if in_ip { sum } else { 0 };
        self.l4_sum += if in_l4 { sum } else { 0 };
    }

    /// Stores the lengths of a packet that is as long as `out`, and what depends on nothing else.
    #[inline(never)]
    pub fn measure(&self, out: &mut [u8]) {
        let Layout { outer, family, ip, transport, l4, .. } = self.layout;
        let len = out.len();
        let l4_len = (len - l4) as u16;
        match family {
            Family::V4 => put16(out, ip + 2, (len - ip) as u16),
            Family::V6 => put16(out, ip + 4, l4_len),
        }
        match transport {
            Transport::Udp => put16(out, l4 + 4, l4_len),
            Transport::Sctp => put16(out, l4 + 14, l4_len - 12),
            Transport::Tcp | Transport::Icmp => {}
        }
        let Some(outer) = outer else { return };
        let udp_len = (len - outer.udp) as u16;
        put16(out, outer.udp + 4, udp_len);
        match outer.family {
            Family::V4 => {
                let total = (len - outer.ip) as u16;
                put16(out, outer.ip + 2, total);
                put16(out, outer.ip + 10, !fold(self.outer_sum + u64::from(total)));
            }
            Family::V6 => put16(out, outer.ip + 4, udp_len),
        }
    }

    /// Sum of the payload's first `len` bytes.
    #[inline]
    pub fn payload_sum(&self, len: usize) -> u64 {
        self.payload_sums.get(len).copied().unwrap_or(0).into()
    }

    /// Makes nought of what changes, and sums the rest.
    fn clear(&mut self) {
        let Layout { outer, family, ip, transport, l4, payload, .. } = self.layout;
        if let Some(outer) = outer {
            match outer.family {
                Family::V4 => self.zero(outer.ip + 2..outer.ip + 4, outer.ip + 10..outer.ip + 12),
                Family::V6 => self.zero(outer.ip + 4..outer.ip + 6, 0..0),
            }
            // Ports: the source. Length and checksum.
            self.zero(outer.udp..outer.udp + 2, outer.udp + 4..outer.udp + 8);
            self.outer_sum = words(&self.bytes[outer.ip..outer.udp]).into();
        }
        match family {
            Family::V4 => {
                self.zero(ip + 2..ip + 4, ip + 10..ip + 20);
                self.ip_sum = words(&self.bytes[ip..l4]).into();
            }
            Family::V6 => self.zero(ip + 4..ip + 6, ip + 8..ip + 40),
        }
        match transport {
            Transport::Udp => self.zero(l4..l4 + 8, 0..0),
            Transport::Tcp => self.zero(l4..l4 + 4, l4 + 16..l4 + 18),
            Transport::Icmp => self.zero(l4 + 2..l4 + 8, 0..0),
            // Ports; checksum; the chunk's length and number.
            Transport::Sctp => {
                self.zero(l4..l4 + 4, l4 + 8..l4 + 12);
                self.zero(l4 + 14..l4 + 20, 0..0);
            }
        }
        let pseudo = match self.layout.has_pseudo_header() {
            true => u64::from(protocol(transport, family).0),
            false => 0,
        };
        self.l4_sum = u64::from(words(&self.bytes[l4..payload])) + pseudo;
    }

    fn zero(&mut self, a: std::ops::Range<usize>, b: std::ops::Range<usize>) {
        self.bytes[a].fill(0);
        self.bytes[b].fill(0);
    }
}

/// The IP protocol number of a transport.
pub fn protocol(transport: Transport, family: Family) -> IpNumber {
    match (transport, family) {
        (Transport::Udp, _) => IpNumber::UDP,
        (Transport::Tcp, _) => IpNumber::TCP,
        (Transport::Sctp, _) => IpNumber::SCTP,
        (Transport::Icmp, Family::V4) => IpNumber::ICMP,
        (Transport::Icmp, Family::V6) => IpNumber::IPV6_ICMP,
    }
}

/// Sum of 16-bit words; a last odd byte is the high half of one.
#[inline]
pub fn words(bytes: &[u8]) -> u32 {
    let pairs = bytes.chunks_exact(2);
    let rest = pairs.remainder().first().map_or(0, |b| u32::from(*b) << 8);
    pairs.map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum::<u32>() + rest
}

/// A sum of words as one; sums of 32 bits at a time fold to the same.
#[inline]
pub fn fold(sum: u64) -> u16 {
    let (sum, over) = (sum as u32).overflowing_add((sum >> 32) as u32);
    let sum = sum + u32::from(over);
    // The halves are added in the upper half, and their carry comes from the lower one.
    (sum.wrapping_add(sum.rotate_left(16)) >> 16) as u16
}

/// Stores a 16-bit word.
#[inline]
pub fn put16(out: &mut [u8], at: usize, value: u16) {
    out[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

fn running(payload: &[u8]) -> Vec<u16> {
    let mut sums = Vec::with_capacity(payload.len() + 1);
    let mut sum = 0u32;
    sums.push(0);
    for (at, byte) in payload.iter().enumerate() {
        sum += u32::from(*byte) << if at % 2 == 0 { 8 } else { 0 };
        sum = fold(sum.into()).into();
        sums.push(sum as u16);
    }
    sums
}

fn payload(fill: &Fill, len: usize, seed: u64) -> Vec<u8> {
    match fill {
        Fill::Zeros => vec![0; len],
        Fill::Bytes(bytes) => bytes.iter().copied().cycle().take(len).collect(),
        Fill::Random => {
            let mut rng = Rng::new(seed, 0x7061_796c);
            (0..len).map(|_| rng.next() as u8).collect()
        }
    }
}

/// Ethernet, tags, IP and L4 headers and `payload`; addresses and ports are nought.
fn packet(
    plan: &StreamPlan,
    macs: Macs,
    vlans: &[crate::profile::Vlan],
    payload: &[u8],
) -> Result<Vec<u8>, BuildWriteError> {
    let (src, dst) = match plan.family {
        Family::V4 => (IpAddr::from([0; 4]), IpAddr::from([0; 4])),
        Family::V6 => (IpAddr::from([0; 16]), IpAddr::from([0; 16])),
    };
    let step = ip_step(plan, macs, vlans, src, dst);
    let mut out = Vec::new();
    match (plan.transport, plan.family) {
        (Transport::Udp, _) => step.udp(0, 0).write(&mut out, payload)?,
        (Transport::Tcp, _) => {
            let mut header = TcpHeader::new(0, 0, 1, 65535);
            let flags = plan.flags;
            let bit = |n: u8| flags & (1 << n) != 0;
            (header.fin, header.syn, header.rst, header.psh) = (bit(0), bit(1), bit(2), bit(3));
            (header.ack, header.urg, header.ece, header.cwr) = (bit(4), bit(5), bit(6), bit(7));
            step.tcp_header(header).write(&mut out, payload)?;
        }
        (Transport::Icmp, Family::V4) => step.icmpv4_echo_request(0, 0).write(&mut out, payload)?,
        (Transport::Icmp, Family::V6) => step.icmpv6_echo_request(0, 0).write(&mut out, payload)?,
        (Transport::Sctp, _) => {
            let mut body = vec![0; SCTP];
            // Verification tag 1; one DATA chunk that is a whole message (RFC 9260 §3.3.1).
            body[7] = 1;
            body[13] = 0b11;
            body.extend_from_slice(payload);
            step.write(&mut out, IpNumber::SCTP, &body)?;
        }
    }
    Ok(out)
}

fn encapsulate(
    plan: &StreamPlan,
    vxlan: &VxlanPlan,
    macs: Macs,
    inner: &[u8],
) -> Result<Vec<u8>, BuildWriteError> {
    // RFC 7348 §5: the I flag, and the VNI in the upper three bytes of the second word.
    let mut body = vec![0x08, 0, 0, 0];
    body.extend_from_slice(&(vxlan.vni << 8).to_be_bytes());
    body.extend_from_slice(inner);
    let mut out = Vec::new();
    let step = ip_step(plan, macs, &plan.vlans, vxlan.src, vxlan.dst);
    step.udp(0, vxlan.dst_port).write(&mut out, &body)?;
    Ok(out)
}

fn ip_step(
    plan: &StreamPlan,
    macs: Macs,
    vlans: &[crate::profile::Vlan],
    src: IpAddr,
    dst: IpAddr,
) -> PacketBuilderStep<IpHeaders> {
    let ip = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let header = Ipv4Header {
                // Checked with the profile: 6 bits.
                dscp: IpDscp::try_new(plan.dscp).unwrap_or_default(),
                time_to_live: plan.ttl,
                source: src.octets(),
                destination: dst.octets(),
                dont_fragment: true,
                ..Ipv4Header::default()
            };
            IpHeaders::Ipv4(header, Default::default())
        }
        (src, dst) => {
            let octets = |a: IpAddr| match a {
                IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                IpAddr::V6(v6) => v6.octets(),
            };
            let header = Ipv6Header {
                traffic_class: plan.dscp << 2,
                hop_limit: plan.ttl,
                source: octets(src),
                destination: octets(dst),
                ..Ipv6Header::default()
            };
            IpHeaders::Ipv6(header, Default::default())
        }
    };
    let ethernet = PacketBuilder::ethernet2(macs.src.0, macs.dst.0);
    let tag = |vlan: &crate::profile::Vlan, ether_type| SingleVlanHeader {
        // Checked with the profile: 3 and 12 bits.
        pcp: VlanPcp::try_new(vlan.pcp).unwrap_or_default(),
        drop_eligible_indicator: false,
        vlan_id: VlanId::try_new(vlan.id).unwrap_or_default(),
        ether_type,
    };
    match vlans {
        [] => ethernet.ip(ip),
        [one] => ethernet.vlan(VlanHeader::Single(tag(one, EtherType(0)))).ip(ip),
        [outer, inner, ..] => {
            let header = etherparse::DoubleVlanHeader {
                outer: tag(outer, EtherType::VLAN_TAGGED_FRAME),
                inner: tag(inner, EtherType(0)),
            };
            ethernet.vlan(VlanHeader::Double(header)).ip(ip)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_folded_sum_is_that_of_the_words(words in prop::collection::vec(any::<u32>(), 0..20)) {
            let mut slow: u64 = words.iter().map(|w| u64::from(w >> 16) + u64::from(w & 0xffff)).sum();
            while slow > 0xffff {
                slow = (slow >> 16) + (slow & 0xffff);
            }
            prop_assert_eq!(u64::from(fold(words.iter().map(|w| u64::from(*w)).sum())), slow);
        }
    }

    #[test]
    fn nothing_is_nought_and_all_ones_are_not() {
        let sums = [0, 0xffff, 0x1_0000, 0x1_fffe, 0xffff_ffff, 0x1_0000_0000, 0xffff_ffff_0000];
        assert_eq!(sums.map(fold), [0, 0xffff, 1, 0xffff, 0xffff, 1, 0xffff]);
    }
}
