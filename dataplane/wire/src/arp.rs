//! ARP for IPv4 over Ethernet (RFC 826), the only kind there is here.
//!
//! [`Packet::parse`] refuses other hardware or protocol types; which requests to answer is the neighbor stop's.

use crate::{Error, EtherType, Mac, View};
use core::fmt;
use zerocopy::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// What an ARP packet asks or tells; any value is one.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(transparent)]
pub struct Op([u8; 2]);

impl Op {
    /// "Who has the target address?"
    pub const REQUEST: Self = Self::new(1);
    /// "The sender has it."
    pub const REPLY: Self = Self::new(2);

    /// From a number in host order.
    #[inline]
    pub const fn new(value: u16) -> Self {
        Self(value.to_be_bytes())
    }

    /// The number in host order.
    #[inline]
    pub const fn get(self) -> u16 {
        u16::from_be_bytes(self.0)
    }
}

impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::REQUEST => f.write_str("request"),
            Self::REPLY => f.write_str("reply"),
            other => write!(f, "op {}", other.get()),
        }
    }
}

/// The 28 bytes behind the Ethernet header.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Packet {
    /// 1: Ethernet.
    pub hardware_type: U16,
    /// [`EtherType::IPV4`].
    pub protocol_type: EtherType,
    /// 6.
    pub hardware_len: u8,
    /// 4.
    pub protocol_len: u8,
    /// Request or reply.
    pub op: Op,
    /// Sender's MAC.
    pub sender_mac: Mac,
    /// Sender's IPv4 address; zero in a probe (RFC 5227 §1.1).
    pub sender_addr: [u8; 4],
    /// Target's MAC; ignored in a request.
    pub target_mac: Mac,
    /// Target's IPv4 address.
    pub target_addr: [u8; 4],
}

const _: () = assert!(size_of::<Packet>() == 28);

impl Packet {
    /// A packet of Ethernet and IPv4.
    pub const fn new(op: Op, sender: (Mac, [u8; 4]), target: (Mac, [u8; 4])) -> Self {
        Self {
            hardware_type: U16::new(1),
            protocol_type: EtherType::IPV4,
            hardware_len: 6,
            protocol_len: 4,
            op,
            sender_mac: sender.0,
            sender_addr: sender.1,
            target_mac: target.0,
            target_addr: target.1,
        }
    }

    /// The packet at the start of `bytes` (padding may follow). [`Error::Field`] when it isn't Ethernet and IPv4.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<&Self, Error> {
        let (packet, _) = Self::view(bytes)?;
        let fixed = packet.hardware_type.get() == 1
            && packet.protocol_type == EtherType::IPV4
            && packet.hardware_len == 6
            && packet.protocol_len == 4;
        if fixed { Ok(packet) } else { Err(Error::Field) }
    }

    /// Whether the sender announces its own address (RFC 5227 §3: request or reply with both addresses equal).
    #[inline]
    pub fn is_gratuitous(&self) -> bool {
        self.sender_addr == self.target_addr
    }

    /// Whether the sender asks if the address is free before using it (RFC 5227 §1.1); nothing may be learned from it.
    #[inline]
    pub fn is_probe(&self) -> bool {
        self.op == Op::REQUEST && self.sender_addr == [0; 4]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENDER: (Mac, [u8; 4]) = (Mac([0x02, 0, 0, 0, 0, 0x02]), [192, 0, 2, 2]);
    const TARGET: (Mac, [u8; 4]) = (Mac([0x02, 0, 0, 0, 0, 0x01]), [192, 0, 2, 1]);

    /// A reply of Linux: 192.0.2.2 is at 02:00:00:00:00:02.
    const PACKET: [u8; 28] = [
        0x00, 0x01, 0x08, 0x00, 0x06, 0x04, 0x00, 0x02, 0x02, 0x00, 0x00, 0x00, 0x00, 0x02, 0xc0,
        0x00, 0x02, 0x02, 0x02, 0x00, 0x00, 0x00, 0x00, 0x01, 0xc0, 0x00, 0x02, 0x01,
    ];

    #[test]
    fn deconstruct() {
        let packet = Packet::parse(&PACKET).unwrap();
        assert_eq!(packet.hardware_type.get(), 1);
        assert_eq!(packet.protocol_type, EtherType::IPV4);
        assert_eq!((packet.hardware_len, packet.protocol_len), (6, 4));
        assert_eq!(packet.op, Op::REPLY);
        assert_eq!((packet.sender_mac, packet.sender_addr), SENDER);
        assert_eq!((packet.target_mac, packet.target_addr), TARGET);
    }

    #[test]
    fn construct() {
        let mut bytes = [0xa5; 28];
        let (packet, _) = Packet::view_mut(&mut bytes).unwrap();
        packet.hardware_type = U16::new(1);
        packet.protocol_type = EtherType::IPV4;
        packet.hardware_len = 6;
        packet.protocol_len = 4;
        packet.op = Op::new(2);
        (packet.sender_mac, packet.sender_addr) = SENDER;
        (packet.target_mac, packet.target_addr) = TARGET;
        assert_eq!(bytes, PACKET);
        assert_eq!(Packet::new(Op::REPLY, SENDER, TARGET).as_bytes(), PACKET);
    }

    #[test]
    fn refuse_truncated() {
        for len in 0..Packet::LEN {
            assert_eq!(Packet::parse(&PACKET[..len]), Err(Error::Truncated), "{len} bytes");
        }
    }

    #[test]
    fn refuse_other_types_and_sizes() {
        for at in 0..6 {
            let mut bytes = PACKET;
            bytes[at] ^= 1;
            assert_eq!(Packet::parse(&bytes), Err(Error::Field), "byte {at}");
        }
    }

    #[test]
    fn tell_announcements_from_probes() {
        let nobody = (Mac::ZERO, [0; 4]);
        let probe = Packet::new(Op::REQUEST, (SENDER.0, [0; 4]), (Mac::ZERO, SENDER.1));
        assert!(probe.is_probe() && !probe.is_gratuitous());
        for op in [Op::REQUEST, Op::REPLY] {
            let announcement = Packet::new(op, SENDER, (Mac::ZERO, SENDER.1));
            assert!(announcement.is_gratuitous() && !announcement.is_probe());
        }
        let reply = Packet::new(Op::REPLY, nobody, TARGET);
        assert!(!reply.is_probe() && !reply.is_gratuitous());
    }
}
