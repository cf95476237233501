//! IPv6 extension headers (RFC 8200 §4): from the fixed header to L4.
//!
//! [`walk`] finds the upper-layer protocol and where it begins, and notes fragments and routing headers on the way.
//! It reads each header's first eight bytes at most, and at most [`MAX_HEADERS`] headers, so that a hostile chain costs
//! a bounded time. Options inside are not read. What to do with the findings is left to the parse stop.

use crate::Protocol;
use core::fmt;
use zerocopy::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Extension headers in one packet that are still followed.
pub const MAX_HEADERS: usize = 8;

/// Why a chain of extension headers can't be followed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ExtError {
    /// The payload ends inside an extension header. In a first fragment RFC 7112 §5 forbids it.
    Truncated,
    /// More than [`MAX_HEADERS`].
    TooMany,
    /// Hop-by-hop options that are not the first header (RFC 8200 §4.1).
    HopByHopNotFirst,
    /// A second fragment header.
    RepeatedFragment,
}

impl fmt::Display for ExtError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Truncated => "extension header truncated",
            Self::TooMany => "more than 8 extension headers",
            Self::HopByHopNotFirst => "hop-by-hop options not directly behind the IPv6 header",
            Self::RepeatedFragment => "more than one fragment header",
        })
    }
}

impl core::error::Error for ExtError {}

/// The 8 bytes of a fragment header (RFC 8200 §4.5).
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct FragmentHeader {
    /// First header of the fragmentable part.
    pub next_header: Protocol,
    /// Zero.
    pub reserved: u8,
    /// Offset in 8-byte units (13 bits), reserved (2), more fragments (1).
    pub offset_more: U16,
    /// Identifies the packet that the fragment belongs to.
    pub id: U32,
}

const _: () = assert!(size_of::<FragmentHeader>() == 8);

/// What a fragment header says.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Fragment {
    /// Where in the fragmentable part this fragment belongs, in bytes.
    pub offset: u16,
    /// Whether fragments with higher offsets follow.
    pub more: bool,
    /// Identifies the packet together with its addresses.
    pub id: u32,
}

impl Fragment {
    /// Whether the whole packet is in this one "fragment" (RFC 6946).
    #[inline]
    pub const fn is_atomic(&self) -> bool {
        self.offset == 0 && !self.more
    }
}

/// What [`walk`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Chain {
    /// The first header that isn't walked: L4, [`Protocol::ESP`], [`Protocol::NONE`] or unknown. In a fragment whose offset isn't 0,
    /// what the fragmentable part of the whole packet begins with.
    pub protocol: Protocol,
    /// Bytes from the start of the payload to that header (or to the fragment's data). At most the payload's length.
    pub offset: usize,
    /// From the fragment header, if there was one.
    pub fragment: Option<Fragment>,
    /// Segments left in the routing header, if there was one; the most, if there were several. Not 0: the destination address isn't the final one.
    pub routing_segments_left: Option<u8>,
}

/// Follows the extension headers of a packet. `next_header` is from the fixed header, `payload` what follows it.
#[inline]
pub fn walk(next_header: Protocol, payload: &[u8]) -> Result<Chain, ExtError> {
    let mut chain =
        Chain { protocol: next_header, offset: 0, fragment: None, routing_segments_left: None };
    for count in 0..=MAX_HEADERS {
        let rest = payload.get(chain.offset..).ok_or(ExtError::Truncated)?;
        match chain.protocol {
            Protocol::HOP_BY_HOP
            | Protocol::ROUTING
            | Protocol::FRAGMENT
            | Protocol::DEST_OPTS
            | Protocol::AH
                if count == MAX_HEADERS =>
            {
                return Err(ExtError::TooMany);
            }
            Protocol::HOP_BY_HOP if count != 0 => return Err(ExtError::HopByHopNotFirst),
            Protocol::FRAGMENT => {
                let (header, _) =
                    FragmentHeader::ref_from_prefix(rest).map_err(|_| ExtError::Truncated)?;
                if chain.fragment.is_some() {
                    return Err(ExtError::RepeatedFragment);
                }
                let offset_more = header.offset_more.get();
                let fragment = Fragment {
                    offset: offset_more & !7,
                    more: offset_more & 1 != 0,
                    id: header.id.get(),
                };
                chain.fragment = Some(fragment);
                chain.protocol = header.next_header;
                chain.offset += size_of::<FragmentHeader>();
                if fragment.offset != 0 {
                    break;
                }
            }
            Protocol::HOP_BY_HOP | Protocol::ROUTING | Protocol::DEST_OPTS | Protocol::AH => {
                let &[next, len, _, segments_left, ..] = rest else {
                    return Err(ExtError::Truncated);
                };
                // Length in 8-byte units without the first 8 bytes; in AH in 4-byte units without the first 8 (RFC 4302 §2.2).
                let bytes = if chain.protocol == Protocol::AH {
                    (usize::from(len) + 2) * 4
                } else {
                    (usize::from(len) + 1) * 8
                };
                if rest.len() < bytes {
                    return Err(ExtError::Truncated);
                }
                if chain.protocol == Protocol::ROUTING {
                    chain.routing_segments_left =
                        chain.routing_segments_left.max(Some(segments_left));
                }
                chain.protocol = Protocol(next);
                chain.offset += bytes;
            }
            _ => break,
        }
    }
    Ok(chain)
}
