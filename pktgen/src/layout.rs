//! Where things are in a stream's frames: headers, and the parts of them that may change from packet to packet.

use crate::profile::{Family, StreamPlan, Transport};
use crate::signature;
use crate::units::FCS;

/// Least bytes of a frame without FCS.
const MIN_FRAME: usize = 60;
const ETHERNET: usize = 14;
const VXLAN: usize = 8;
const UDP: usize = 8;
/// Common header, and a DATA chunk's.
pub(crate) const SCTP: usize = 12 + 16;

/// Where things are in a stream's frames, in bytes from their start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Around the packet, if anything: its IP header and UDP header.
    pub outer: Option<Outer>,
    /// The packet's IP version.
    pub family: Family,
    /// Its IP header.
    pub ip: usize,
    /// What it carries.
    pub transport: Transport,
    /// Its L4 header.
    pub l4: usize,
    /// Its payload.
    pub payload: usize,
    /// Whether the last bytes are a signature.
    pub signature: bool,
}

/// The headers of an encapsulation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outer {
    /// IP version.
    pub family: Family,
    /// IP header.
    pub ip: usize,
    /// UDP header.
    pub udp: usize,
}

impl Layout {
    /// That of a stream.
    pub fn of(plan: &StreamPlan) -> Self {
        let ip_len = |family| if family == Family::V4 { 20 } else { 40 };
        let mut ip = ETHERNET + 4 * plan.vlans.len();
        let outer = plan.vxlan.as_ref().map(|vxlan| {
            let family = if vxlan.dst.is_ipv4() { Family::V4 } else { Family::V6 };
            Outer { family, ip, udp: ip + ip_len(family) }
        });
        if let Some(outer) = outer {
            ip = outer.udp + UDP + VXLAN + ETHERNET;
        }
        let l4 = ip + ip_len(plan.family);
        let payload = l4
            + match plan.transport {
                Transport::Udp | Transport::Icmp => 8,
                Transport::Tcp => 20,
                Transport::Sctp => SCTP,
            };
        Self {
            outer,
            family: plan.family,
            ip,
            transport: plan.transport,
            l4,
            payload,
            signature: plan.signature,
        }
    }

    /// Bytes without FCS that the headers and the signature (or SCTP's least data) take, and Ethernet asks for.
    pub fn min_frame(&self) -> usize {
        let least = match (self.signature, self.transport) {
            (true, _) => signature::LEN,
            // A DATA chunk without data is none (RFC 9260 §3.3.1), and lengths are multiples of 4.
            (false, Transport::Sctp) => 4,
            (false, _) => 0,
        };
        (self.payload + least).max(MIN_FRAME)
    }

    /// Bytes without FCS of a frame that is asked for with `size`, FCS included.
    ///
    /// It is `size` − 4; but packets of SCTP have a length in multiples of 4 (RFC 9260 §3.2), which they are rounded up to.
    #[inline]
    pub fn frame_len(&self, size: usize) -> usize {
        let len = size.saturating_sub(FCS);
        if self.transport == Transport::Sctp {
            return self.l4 + (len.saturating_sub(self.l4)).next_multiple_of(4);
        }
        len
    }

    /// Whether the L4 checksum is of the addresses too: not that of ICMP over IPv4 (RFC 792), nor SCTP's.
    #[inline]
    pub fn has_pseudo_header(&self) -> bool {
        match self.transport {
            Transport::Udp | Transport::Tcp => true,
            Transport::Icmp => self.family == Family::V6,
            Transport::Sctp => false,
        }
    }

    /// Where a part is, if the packets have it.
    pub fn place(&self, part: Part) -> Option<Place> {
        let address = |v4, v6| match self.family {
            Family::V4 => Place::Four(self.ip + v4),
            Family::V6 => Place::Sixteen(self.ip + v6),
        };
        let is_echo = self.transport == Transport::Icmp;
        match part {
            Part::Src => Some(address(12, 8)),
            Part::Dst => Some(address(16, 24)),
            Part::SrcPort => Some(Place::Two(self.l4 + if is_echo { 4 } else { 0 })),
            Part::DstPort => (!is_echo).then_some(Place::Two(self.l4 + 2)),
            Part::OuterPort => self.outer.map(|outer| Place::Two(outer.udp)),
            Part::Number => is_echo.then_some(Place::Two(self.l4 + 6)),
        }
    }

    /// Whether the checksum of the IP header is of a part, and that of the L4 header.
    pub fn summed(&self, part: Part) -> (bool, bool) {
        match part {
            Part::Src | Part::Dst => (self.family == Family::V4, self.has_pseudo_header()),
            Part::SrcPort | Part::DstPort | Part::Number => (false, true),
            Part::OuterPort => (false, false),
        }
    }
}

/// What may change from packet to packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The source address.
    Src,
    /// The destination address.
    Dst,
    /// The source port; of echo requests the identifier.
    SrcPort,
    /// The destination port.
    DstPort,
    /// The source port of an encapsulation.
    OuterPort,
    /// The number of an echo request.
    Number,
}

/// Where a part lies: its first byte, and how many it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A port.
    Two(usize),
    /// An IPv4 address.
    Four(usize),
    /// An IPv6 address.
    Sixteen(usize),
}

impl Place {
    /// Stores a value, and answers its sum.
    #[inline]
    pub fn store(self, value: u128, out: &mut [u8]) -> u64 {
        match self {
            Self::Two(at) => {
                out[at..at + 2].copy_from_slice(&(value as u16).to_be_bytes());
                u64::from(value as u16)
            }
            Self::Four(at) => {
                out[at..at + 4].copy_from_slice(&(value as u32).to_be_bytes());
                u64::from(value as u32)
            }
            Self::Sixteen(at) => {
                out[at..at + 16].copy_from_slice(&value.to_be_bytes());
                let quarter = |shift: u32| u64::from((value >> shift) as u32);
                quarter(0) + quarter(32) + quarter(64) + quarter(96)
            }
        }
    }
}
