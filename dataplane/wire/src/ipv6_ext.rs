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
    /// Bytes from the start of the payload to what is behind the fragment header: the fragment's data.
    pub data: usize,
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
        // Fails when the last header's length went beyond the end.
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
                    data: chain.offset + size_of::<FragmentHeader>(),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::View;
    use proptest::prelude::*;
    use std::vec::Vec;

    /// Hop-by-hop (8 bytes), destination options (16), routing (24), an atomic fragment (8), AH (24), then UDP's ports.
    const PACKET: [u8; 84] = [
        0x3c, 0x00, 0x01, 0x04, 0x00, 0x00, 0x00, 0x00, 0x2b, 0x01, 0x01, 0x0c, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x2c, 0x02, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x20, 0x01, 0x0d, 0xb8, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x09, 0x33, 0x00, 0x00, 0x00, 0x01, 0x02, 0x03, 0x04, 0x11, 0x04, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, 0x02, 0x01, 0x01, 0x01, 0x01, 0x01, 0x01, 0x01,
        0x01, 0x01, 0x01, 0x01, 0x01, 0x00, 0x01, 0x00, 0x02,
    ];

    #[test]
    fn deconstruct() {
        let chain = Chain {
            protocol: Protocol::UDP,
            offset: 80,
            fragment: Some(Fragment { offset: 0, more: false, id: 0x0102_0304, data: 56 }),
            routing_segments_left: Some(0),
        };
        assert_eq!(walk(Protocol::HOP_BY_HOP, &PACKET), Ok(chain));
        assert!(chain.fragment.unwrap().is_atomic());
    }

    #[test]
    fn construct() {
        let mut bytes = [0xa5; 8];
        let (header, _) = FragmentHeader::view_mut(&mut bytes).unwrap();
        header.next_header = Protocol::AH;
        header.reserved = 0;
        header.offset_more = U16::ZERO;
        header.id = U32::new(0x0102_0304);
        assert_eq!(bytes, PACKET[48..56]);
    }

    #[test]
    fn refuse_truncated() {
        for len in 0..80 {
            assert_eq!(
                walk(Protocol::HOP_BY_HOP, &PACKET[..len]),
                Err(ExtError::Truncated),
                "{len} bytes"
            );
        }
        assert!(walk(Protocol::HOP_BY_HOP, &PACKET[..80]).is_ok());
    }

    #[test]
    fn no_extension_headers_need_no_bytes() {
        for protocol in [Protocol::TCP, Protocol::NONE, Protocol::ESP, Protocol(253)] {
            let chain = Chain { protocol, offset: 0, fragment: None, routing_segments_left: None };
            assert_eq!(walk(protocol, &[]), Ok(chain));
        }
    }

    #[test]
    fn a_later_fragment_ends_the_walk() {
        // What looks like a next header (destination options) is the middle of the fragmentable part.
        let bytes = [60, 0, 0x05, 0xa9, 0, 0, 0, 7, 0xff, 0xff];
        let chain = walk(Protocol::FRAGMENT, &bytes).unwrap();
        assert_eq!((chain.protocol, chain.offset), (Protocol::DEST_OPTS, 8));
        assert_eq!(chain.fragment, Some(Fragment { offset: 1448, more: true, id: 7, data: 8 }));
        assert!(!chain.fragment.unwrap().is_atomic());
    }

    #[test]
    fn a_first_fragment_is_walked_on() {
        let bytes = [60, 0, 0, 1, 0, 0, 0, 7, 6, 0, 0, 0, 0, 0, 0, 0];
        let chain = walk(Protocol::FRAGMENT, &bytes).unwrap();
        assert_eq!((chain.protocol, chain.offset), (Protocol::TCP, 16));
        assert_eq!(chain.fragment, Some(Fragment { offset: 0, more: true, id: 7, data: 8 }));
        assert_eq!(walk(Protocol::FRAGMENT, &bytes[..15]), Err(ExtError::Truncated));
    }

    #[test]
    fn the_reserved_bits_of_a_fragment_are_ignored() {
        let bytes = [6, 0xff, 0x00, 0x0e, 0, 0, 0, 0];
        let fragment = walk(Protocol::FRAGMENT, &bytes).unwrap().fragment;
        assert_eq!(fragment, Some(Fragment { offset: 8, more: false, id: 0, data: 8 }));
    }

    #[test]
    fn hop_by_hop_comes_first_or_not_at_all() {
        let bytes = [0, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(walk(Protocol::DEST_OPTS, &bytes), Err(ExtError::HopByHopNotFirst));
        assert_eq!(walk(Protocol::HOP_BY_HOP, &bytes), Err(ExtError::HopByHopNotFirst));
    }

    #[test]
    fn a_second_fragment_header_is_refused() {
        let bytes = [44, 0, 0, 1, 0, 0, 0, 7, 6, 0, 0, 1, 0, 0, 0, 8];
        assert_eq!(walk(Protocol::FRAGMENT, &bytes), Err(ExtError::RepeatedFragment));
    }

    #[test]
    fn eight_headers_pass_and_a_ninth_does_not() {
        let mut bytes = [0; 80];
        bytes.chunks_exact_mut(8).for_each(|header| header[0] = 60);
        bytes[56] = 6;
        let chain = walk(Protocol::DEST_OPTS, &bytes).unwrap();
        assert_eq!((chain.protocol, chain.offset), (Protocol::TCP, 64));
        bytes[56] = 60;
        bytes[64] = 6;
        assert_eq!(walk(Protocol::DEST_OPTS, &bytes), Err(ExtError::TooMany));
    }

    #[test]
    fn the_routing_header_with_most_segments_left_counts() {
        let bytes = [43, 0, 0, 3, 0, 0, 0, 0, 43, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 1, 0, 0, 0, 0];
        assert_eq!(walk(Protocol::ROUTING, &bytes).unwrap().routing_segments_left, Some(3));
        assert_eq!(walk(Protocol::ROUTING, &bytes[8..]).unwrap().routing_segments_left, Some(1));
    }

    /// The same, one header a call, with a list of what was seen.
    fn model(
        next: u8,
        bytes: &[u8],
        at: usize,
        mut seen: Vec<(u8, Vec<u8>)>,
    ) -> Result<Chain, ExtError> {
        let here = bytes.get(at..).unwrap_or_default();
        let done = |protocol: u8, at: usize, seen: &[(u8, Vec<u8>)]| Chain {
            protocol: Protocol(protocol),
            offset: at,
            fragment: seen.iter().find(|(kind, _)| *kind == 44).map(|(_, b)| Fragment {
                offset: u16::from_be_bytes([b[2], b[3]]) / 8 * 8,
                more: b[3] % 2 == 1,
                id: u32::from_be_bytes([b[4], b[5], b[6], b[7]]),
                data: 8 + seen
                    .iter()
                    .take_while(|(kind, _)| *kind != 44)
                    .map(|(kind, b)| match kind {
                        51 => (usize::from(b[1]) + 2) * 4,
                        _ => (usize::from(b[1]) + 1) * 8,
                    })
                    .sum::<usize>(),
            }),
            routing_segments_left: seen
                .iter()
                .filter(|(kind, _)| *kind == 43)
                .map(|(_, b)| b[3])
                .max(),
        };
        if ![0, 43, 44, 51, 60].contains(&next) {
            return Ok(done(next, at, &seen));
        }
        if seen.len() == 8 {
            return Err(ExtError::TooMany);
        }
        if next == 0 && !seen.is_empty() {
            return Err(ExtError::HopByHopNotFirst);
        }
        if here.len() < 8 {
            return Err(ExtError::Truncated);
        }
        let len = match next {
            44 if seen.iter().any(|(kind, _)| *kind == 44) => {
                return Err(ExtError::RepeatedFragment);
            }
            44 => 8,
            51 => 8 + 4 * usize::from(here[1]),
            _ => 8 + 8 * usize::from(here[1]),
        };
        if here.len() < len {
            return Err(ExtError::Truncated);
        }
        seen.push((next, here[..len].to_vec()));
        if next == 44 && (here[2] != 0 || here[3] >= 8) {
            return Ok(done(here[0], at + 8, &seen));
        }
        model(here[0], bytes, at + len, seen)
    }

    fn kind() -> impl Strategy<Value = u8> {
        prop_oneof![8 => prop::sample::select(&[43u8, 44, 51, 60, 60, 60][..]), 1 => Just(0), 1 => Just(6), 1 => any::<u8>()]
    }

    /// Headers with plausible lengths, first fragments among them, cut anywhere.
    fn chain() -> impl Strategy<Value = Vec<u8>> {
        let header = (kind(), 0..3u8, any::<[u8; 40]>(), any::<bool>()).prop_map(
            |(next, len, mut body, first)| {
                (body[0], body[1]) = (next, len);
                if first {
                    (body[2], body[3]) = (0, body[3] & 7);
                }
                (body, next, len)
            },
        );
        (kind(), prop::collection::vec(header, 0..12), 0..16usize).prop_map(
            |(first, headers, cut)| {
                let mut bytes = std::vec![first];
                let mut kind = first;
                for (body, next, len) in headers {
                    let size = match kind {
                        44 => 8,
                        51 => 8 + 4 * usize::from(len),
                        _ => 8 + 8 * usize::from(len),
                    };
                    bytes.extend_from_slice(&body[..size.min(body.len())]);
                    kind = next;
                }
                bytes.truncate((bytes.len() - cut.min(bytes.len() - 1)).max(1));
                bytes
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn agrees_with_the_model(bytes in chain()) {
            let found = walk(Protocol(bytes[0]), &bytes[1..]);
            prop_assert_eq!(found, model(bytes[0], &bytes[1..], 0, Vec::new()));
        }

        #[test]
        fn agrees_with_the_model_on_any_bytes(next in kind(), bytes: Vec<u8>) {
            let found = walk(Protocol(next), &bytes);
            prop_assert_eq!(found, model(next, &bytes, 0, Vec::new()));
            if let Ok(chain) = found {
                prop_assert!(chain.offset <= bytes.len());
            }
        }
    }
}
