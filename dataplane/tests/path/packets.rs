//! Packets as they are on the wire, built with etherparse and summed by a dumb loop: none of the engine's own code.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{
    EtherType, Ethernet2Header, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, SingleVlanHeader,
    TcpHeader, UdpHeader, VlanId,
};

/// Two stations, and the tags between.
#[derive(Clone, Debug)]
pub struct Link {
    pub src: [u8; 6],
    pub dst: [u8; 6],
    pub tags: Vec<u16>,
}

impl Link {
    pub fn new(src: [u8; 6], dst: [u8; 6]) -> Link {
        Link { src, dst, tags: Vec::new() }
    }

    pub fn tagged(mut self, tags: &[u16]) -> Link {
        self.tags = tags.to_vec();
        self
    }

    /// The header, ending in `ether_type`.
    pub fn bytes(&self, ether_type: u16) -> Vec<u8> {
        let mut bytes = Vec::new();
        let types: Vec<u16> = match self.tags.len() {
            0 => vec![ether_type],
            1 => vec![0x8100, ether_type],
            _ => vec![0x88a8, 0x8100, ether_type],
        };
        let header = Ethernet2Header {
            source: self.src,
            destination: self.dst,
            ether_type: EtherType(types[0]),
        };
        bytes.extend(header.to_bytes());
        for (tag, next) in self.tags.iter().zip(&types[1..]) {
            let vlan_id = VlanId::try_new(*tag).unwrap();
            bytes.extend(
                SingleVlanHeader { vlan_id, ether_type: EtherType(*next), ..Default::default() }
                    .to_bytes(),
            );
        }
        bytes
    }
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// RFC 1071, two bytes at a time.
pub fn sum(parts: &[&[u8]]) -> u16 {
    let all: Vec<u8> = parts.concat();
    let mut sum: u32 = 0;
    for pair in all.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        if sum > 0xffff {
            sum = (sum & 0xffff) + 1;
        }
    }
    sum as u16
}

/// The pseudo-header (RFC 9293 section 3.1, RFC 8200 section 8.1).
pub fn pseudo(src: IpAddr, dst: IpAddr, protocol: u8, len: usize) -> Vec<u8> {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            [&src.octets()[..], &dst.octets(), &[0, protocol], &(len as u16).to_be_bytes()].concat()
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            [&src.octets()[..], &dst.octets(), &(len as u32).to_be_bytes(), &[0, 0, 0, protocol]]
                .concat()
        }
        _ => panic!("two families"),
    }
}

/// CRC32c, bit by bit (RFC 9260 appendix A).
pub fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    !crc
}

/// An IP packet without its link header.
#[derive(Clone, Debug)]
pub struct Ip {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub ttl: u8,
    pub dont_fragment: bool,
    pub options: Vec<u8>,
    /// IPv6 extension headers: their number and bytes, in which the next-header field is filled in.
    pub extensions: Vec<(u8, Vec<u8>)>,
    /// Offset in bytes, and whether more follow (IPv4 only).
    pub fragment: Option<(u16, bool)>,
    pub tos: u8,
}

pub fn between(src: &str, dst: &str) -> Ip {
    Ip {
        src: ip(src),
        dst: ip(dst),
        ttl: 64,
        dont_fragment: true,
        options: vec![],
        extensions: vec![],
        fragment: None,
        tos: 0,
    }
}

impl Ip {
    pub fn ttl(mut self, ttl: u8) -> Ip {
        self.ttl = ttl;
        self
    }

    pub fn reversed(mut self) -> Ip {
        std::mem::swap(&mut self.src, &mut self.dst);
        self
    }

    pub fn packet(&self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => self.v4(src, dst, protocol, payload),
            (IpAddr::V6(src), IpAddr::V6(dst)) => self.v6(src, dst, protocol, payload),
            _ => panic!("two families"),
        }
    }

    fn v4(&self, src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let len = (self.options.len() + payload.len()) as u16;
        let mut header =
            Ipv4Header::new(len, self.ttl, IpNumber(protocol), src.octets(), dst.octets()).unwrap();
        header.options = self.options.as_slice().try_into().unwrap();
        header.total_len = 20 + len;
        header.dont_fragment = self.dont_fragment;
        header.dscp = (self.tos >> 2).try_into().unwrap();
        if let Some((offset, more)) = self.fragment {
            header.dont_fragment = false;
            header.identification = 0x1234;
            header.fragment_offset = (offset / 8).try_into().unwrap();
            header.more_fragments = more;
        }
        header.header_checksum = header.calc_header_checksum();
        [&header.to_bytes()[..], payload].concat()
    }

    fn v6(&self, src: Ipv6Addr, dst: Ipv6Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut body = Vec::new();
        for (at, (_, bytes)) in self.extensions.iter().enumerate() {
            let next = self.extensions.get(at + 1).map_or(protocol, |(number, _)| *number);
            body.push(next);
            body.extend_from_slice(&bytes[1..]);
        }
        body.extend_from_slice(payload);
        let header = Ipv6Header {
            traffic_class: self.tos,
            flow_label: Ipv6FlowLabel::ZERO,
            payload_length: body.len() as u16,
            next_header: IpNumber(self.extensions.first().map_or(protocol, |(number, _)| *number)),
            hop_limit: self.ttl,
            source: src.octets(),
            destination: dst.octets(),
        };
        [&header.to_bytes()[..], &body].concat()
    }

    pub fn udp(&self, sport: u16, dport: u16, payload: &[u8]) -> Vec<u8> {
        let mut header = UdpHeader {
            source_port: sport,
            destination_port: dport,
            length: 8 + payload.len() as u16,
            checksum: 0,
        };
        let sum =
            sum(&[&pseudo(self.src, self.dst, 17, 8 + payload.len()), &header.to_bytes(), payload]);
        header.checksum = if !sum == 0 { 0xffff } else { !sum };
        self.packet(17, &[&header.to_bytes()[..], payload].concat())
    }

    pub fn tcp(
        &self,
        sport: u16,
        dport: u16,
        edit: impl FnOnce(&mut TcpHeader),
        payload: &[u8],
    ) -> Vec<u8> {
        let mut header = TcpHeader::new(sport, dport, 1000, 512);
        edit(&mut header);
        let len = header.header_len() + payload.len();
        header.checksum = !sum(&[&pseudo(self.src, self.dst, 6, len), &header.to_bytes(), payload]);
        self.packet(6, &[&header.to_bytes()[..], payload].concat())
    }

    pub fn syn(&self, sport: u16, dport: u16) -> Vec<u8> {
        self.tcp(sport, dport, |header| header.syn = true, b"")
    }

    pub fn sctp(&self, sport: u16, dport: u16, chunks: &[u8]) -> Vec<u8> {
        let mut bytes =
            [&sport.to_be_bytes()[..], &dport.to_be_bytes(), &[1, 2, 3, 4], &[0; 4], chunks]
                .concat();
        let crc = crc32c(&bytes).to_le_bytes();
        bytes[8..12].copy_from_slice(&crc);
        self.packet(132, &bytes)
    }

    /// An ICMP or ICMPv6 message of eight bytes and a body.
    pub fn icmp(&self, kind: u8, code: u8, rest: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = [&[kind, code, 0, 0][..], &rest.to_be_bytes(), body].concat();
        let (protocol, head) = match self.src {
            IpAddr::V4(_) => (1, vec![]),
            IpAddr::V6(_) => (58, pseudo(self.src, self.dst, 58, bytes.len())),
        };
        let check = (!sum(&[&head, &bytes])).to_be_bytes();
        bytes[2..4].copy_from_slice(&check);
        self.packet(protocol, &bytes)
    }
}

/// Puts an IP packet on a link.
pub fn on(link: &Link, packet: Vec<u8>) -> Vec<u8> {
    let ether_type = if packet[0] >> 4 == 4 { 0x0800 } else { 0x86dd };
    [link.bytes(ether_type), packet].concat()
}

pub fn arp(link: &Link, op: u16, sender: ([u8; 6], &str), target: ([u8; 6], &str)) -> Vec<u8> {
    let v4 = |text: &str| text.parse::<Ipv4Addr>().unwrap().octets();
    let mut bytes = link.bytes(0x0806);
    bytes.extend([0, 1, 8, 0, 6, 4]);
    bytes.extend(op.to_be_bytes());
    bytes.extend(sender.0);
    bytes.extend(v4(sender.1));
    bytes.extend(target.0);
    bytes.extend(v4(target.1));
    bytes
}

/// A neighbor solicitation (135) or advertisement (136) with its option, if any: 1 is the source's, 2 the target's.
pub fn nd(
    src: &str,
    dst: &str,
    kind: u8,
    flags: u32,
    target: &str,
    option: Option<(u8, [u8; 6])>,
) -> Vec<u8> {
    let target: Ipv6Addr = target.parse().unwrap();
    let mut body = target.octets().to_vec();
    if let Some((kind, mac)) = option {
        body.extend([kind, 1]);
        body.extend(mac);
    }
    between(src, dst).ttl(255).icmp(kind, 0, flags, &body)
}

impl Ip {
    /// The way back, without the extension headers.
    pub fn reversed_plain(self) -> Ip {
        Ip { extensions: vec![], ..self.reversed() }
    }
}
