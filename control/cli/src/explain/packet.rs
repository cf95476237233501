//! The bytes of an asked flow's packet: Ethernet, IP and a transport header, all checksums right.

use std::net::IpAddr;

use millrace_wire::checksum::Sum;
use millrace_wire::crc32c::Crc32c;
use millrace_wire::{Addr, Mac, Protocol};

use super::flow::Flags;

/// What a packet says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Source address.
    pub src: IpAddr,
    /// Source port; of an echo request, the identifier.
    pub sport: u16,
    /// Destination address, of the same family.
    pub dst: IpAddr,
    /// Destination port; of an echo reply, the identifier.
    pub dport: u16,
    /// Protocol.
    pub protocol: Protocol,
    /// TCP flags.
    pub flags: Flags,
    /// An echo reply instead of a request.
    pub answer: bool,
}

impl Packet {
    /// The frame, from `from` to `to`.
    pub fn frame(&self, from: Mac, to: Mac) -> Vec<u8> {
        let l4 = self.transport();
        let mut frame = Vec::with_capacity(64 + l4.len());
        frame.extend(to.0);
        frame.extend(from.0);
        // Payloads here are tens of bytes, so no length is cut.
        let length = l4.len() as u16;
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                frame.extend([0x08, 0x00]);
                let mut ip = [0; 20];
                ip[..2].copy_from_slice(&[0x45, 0]);
                ip[2..4].copy_from_slice(&(length + 20).to_be_bytes());
                ip[6..10].copy_from_slice(&[0x40, 0, 64, self.protocol.0]);
                ip[12..16].copy_from_slice(&src.octets());
                ip[16..20].copy_from_slice(&dst.octets());
                let check = Sum::of(&ip).finish();
                ip[10..12].copy_from_slice(&check.to_be_bytes());
                frame.extend(ip);
            }
            (src, dst) => {
                frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                frame.extend(length.to_be_bytes());
                frame.extend([self.protocol.0, 64]);
                frame.extend(Addr::from(src).octets());
                frame.extend(Addr::from(dst).octets());
            }
        }
        frame.extend(l4);
        frame
    }

    fn transport(&self) -> Vec<u8> {
        let ports = [self.sport.to_be_bytes(), self.dport.to_be_bytes()].concat();
        match self.protocol {
            Protocol::TCP => {
                let rest = [0, 0, 0, 1, 0, 0, 0, 1, 0x50, self.flags.0, 0x20, 0, 0, 0, 0, 0];
                self.summed([&ports[..], &rest].concat(), 16)
            }
            Protocol::UDP => self.summed([&ports[..], &[0, 16, 0, 0], b"explain\n"].concat(), 6),
            Protocol::SCTP => {
                // An INIT chunk: verification tag 0, and 20 bytes of parameters (RFC 9260 section 3.3.2).
                let chunk = [&[1, 0, 0, 20][..], &[0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]]
                    .concat();
                let mut bytes = [&ports[..], &[0; 8], &chunk].concat();
                let crc = Crc32c::new().add_bytes(&bytes).finish();
                bytes[8..12].copy_from_slice(&crc.to_le_bytes());
                bytes
            }
            Protocol::ICMP => {
                let mut bytes = self.echo(8, 0);
                let check = Sum::of(&bytes).finish();
                bytes[2..4].copy_from_slice(&check.to_be_bytes());
                bytes
            }
            _ => self.summed(self.echo(128, 129), 2),
        }
    }

    fn echo(&self, request: u8, reply: u8) -> Vec<u8> {
        let kind = if self.answer { reply } else { request };
        // The identifier is the port of who asks.
        let id = if self.answer { self.dport } else { self.sport };
        [&[kind, 0, 0, 0][..], &id.to_be_bytes(), &[0, 1], b"explain\n"].concat()
    }

    fn summed(&self, mut bytes: Vec<u8>, at: usize) -> Vec<u8> {
        let (src, dst) = (Addr::from(self.src), Addr::from(self.dst));
        let sum = Sum::pseudo(&src, &dst, self.protocol, bytes.len() as u32).add_bytes(&bytes);
        bytes[at..at + 2].copy_from_slice(&sum.finish_udp().to_be_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(src: &str, dst: &str, protocol: Protocol) -> Packet {
        let (src, dst) = (src.parse().unwrap(), dst.parse().unwrap());
        Packet { src, sport: 4000, dst, dport: 80, protocol, flags: Flags::SYN, answer: false }
    }

    #[test]
    fn every_protocol_has_right_checksums_in_both_families() {
        for protocol in [Protocol::TCP, Protocol::UDP, Protocol::SCTP, Protocol::ICMP] {
            let frame = packet("10.0.0.1", "10.0.0.2", protocol).frame(Mac::ZERO, Mac::ZERO);
            assert_eq!(Sum::of(&frame[14..34]).finish(), 0);
            assert_eq!(usize::from(u16::from_be_bytes([frame[16], frame[17]])), frame.len() - 14);
            check(&frame[34..], "10.0.0.1", "10.0.0.2", protocol);
        }
        for protocol in [Protocol::TCP, Protocol::UDP, Protocol::SCTP, Protocol::ICMPV6] {
            let frame = packet("fd00::1", "fd00::2", protocol).frame(Mac::ZERO, Mac::ZERO);
            assert_eq!(usize::from(u16::from_be_bytes([frame[18], frame[19]])), frame.len() - 54);
            check(&frame[54..], "fd00::1", "fd00::2", protocol);
        }
    }

    fn check(l4: &[u8], src: &str, dst: &str, protocol: Protocol) {
        let (src, dst): (IpAddr, IpAddr) = (src.parse().unwrap(), dst.parse().unwrap());
        match protocol {
            Protocol::SCTP => {
                let field = [l4[8], l4[9], l4[10], l4[11]];
                let mut zeroed = l4.to_vec();
                zeroed[8..12].fill(0);
                assert_eq!(Crc32c::new().add_bytes(&zeroed).finish(), u32::from_le_bytes(field));
            }
            Protocol::ICMP => assert_eq!(Sum::of(l4).finish(), 0),
            _ => {
                let sum = Sum::pseudo(&src.into(), &dst.into(), protocol, l4.len() as u32);
                assert_eq!(sum.add_bytes(l4).finish(), 0, "{protocol:?}");
            }
        }
    }
}
