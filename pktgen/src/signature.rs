//! The signature: which packet this is, and when it was due. The last 18 bytes of a packet, wherever its headers
//! went meanwhile.
//!
//! | bytes | what |
//! |---|---|
//! | 0–1 | magic |
//! | 2–3 | token of the run, so that a late packet of another run is not taken for one of this |
//! | 4–5 | substream: stream × workers + worker |
//! | 6–9 | sequence number in the substream, its low 32 bits |
//! | 10–15 | nanoseconds from the run's start to when it was due, low 48 bits (78 hours) |
//! | 16–17 | complement: the nine words together make 0xffff |
//!
//! Because its words make 0xffff, which is nought to an Internet checksum, a checksum doesn't depend on it, also where it begins at an
//! odd byte (RFC 1071 §2 B): the checksum of a stream's packets is that of its headers. NAT, new VLAN tags, encapsulation and
//! decapsulation leave it alone, as it is found from the end.

use crate::template::fold;

/// Its length in bytes.
pub const LEN: usize = 18;

const MAGIC: u16 = 0x4d9a;

/// What a signature says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature {
    /// Stream × workers + worker.
    pub substream: u16,
    /// Low 32 bits of the sequence number.
    pub sequence: u32,
    /// Low 48 bits of when it was due.
    pub due_ns: u64,
}

/// What the end of a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// A signature of this run.
    Ours(Signature),
    /// A signature of this run of which something was changed on the way.
    Broken,
    /// None.
    Other,
}

impl Signature {
    /// Its bytes.
    #[inline]
    pub fn bytes(self, token: u16) -> [u8; LEN] {
        let due = self.due_ns & 0xffff_ffff_ffff;
        let named = u64::from(MAGIC) << 48
            | u64::from(token) << 32
            | u64::from(self.substream) << 16
            | u64::from(self.sequence >> 16);
        let low = self.sequence as u16;
        // Sums of 32 bits fold to that of their halves.
        let halves = |n: u64| (n >> 32) + (n & 0xffff_ffff);
        let sum = halves(named) + halves(due) + u64::from(low);
        let mut bytes = [0; LEN];
        bytes[0..8].copy_from_slice(&named.to_be_bytes());
        bytes[8..10].copy_from_slice(&low.to_be_bytes());
        // Six bytes of time and, in the two above them, the complement.
        let tail = due << 16 | u64::from(!fold(sum));
        bytes[10..18].copy_from_slice(&tail.to_be_bytes());
        bytes
    }

    /// Reads the last [`LEN`] bytes of `packet`.
    ///
    /// Broken is what differs in one place, a byte or more of it, from a signature of the run.
    #[inline]
    pub fn find(packet: &[u8], token: u16) -> Found {
        let Some(bytes) = packet.last_chunk::<LEN>() else { return Found::Other };
        let word = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let whole = fold(words(bytes).into()) == 0xffff;
        let named = word(0) == MAGIC && word(2) == token;
        if named && whole {
            return Found::Ours(Self {
                substream: word(4),
                sequence: u32::from(word(6)) << 16 | u32::from(word(8)),
                due_ns: u64::from(word(10)) << 32 | u64::from(word(12)) << 16 | u64::from(word(14)),
            });
        }
        if named {
            return Found::Broken;
        }
        // The name itself may be what was changed: then the sum is right with the right name.
        let head = u32::from(word(0)) + u32::from(word(2));
        let right = words(bytes) - head + u32::from(MAGIC) + u32::from(token);
        let near = word(0) == MAGIC || word(2) == token;
        if near && !whole && fold(right.into()) == 0xffff { Found::Broken } else { Found::Other }
    }
}

#[inline]
fn words(bytes: &[u8; LEN]) -> u32 {
    bytes.chunks_exact(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_wire::Sum;
    use proptest::prelude::*;

    #[test]
    fn the_bytes_are_pinned() {
        let signature = Signature { substream: 3, sequence: 0x0102_0304, due_ns: 0x0a0b_0c0d_0e0f };
        let bytes = signature.bytes(0x55aa);
        assert_eq!(bytes[..16], [0x4d, 0x9a, 0x55, 0xaa, 0, 3, 1, 2, 3, 4, 10, 11, 12, 13, 14, 15]);
        assert_eq!(bytes[16..], [0x34, 0x8b]);
    }

    proptest! {
        #[test]
        fn it_is_found_and_leaves_every_checksum_alone(
            substream: u16, sequence: u32, due in 0u64..1 << 48, token: u16, before in prop::collection::vec(any::<u8>(), 0..64)
        ) {
            let signature = Signature { substream, sequence, due_ns: due };
            let bytes = signature.bytes(token);
            let mut packet = before.clone();
            packet.extend(bytes);
            prop_assert_eq!(Signature::find(&packet, token), Found::Ours(signature));
            // At an odd place too: as if there were zeros.
            let mut zeros = before.clone();
            zeros.extend([0; LEN]);
            let with = Sum::of(&packet).fold();
            let without = Sum::of(&zeros).fold();
            prop_assert!(with == without || (with == 0xffff && without == 0));
        }

        #[test]
        fn a_changed_byte_never_passes_for_another_packet(
            substream: u16, sequence: u32, due in 0u64..1 << 48, token: u16, at in 0..LEN, by in 1u8..
        ) {
            let signature = Signature { substream, sequence, due_ns: due };
            let mut bytes = signature.bytes(token);
            bytes[at] ^= by;
            prop_assert_eq!(Signature::find(&bytes, token), Found::Broken);
        }

        #[test]
        fn another_runs_packets_and_noise_are_not_ours(noise in prop::collection::vec(any::<u8>(), 0..40), token: u16, other: u16) {
            prop_assert!(!matches!(Signature::find(&noise, token), Found::Ours(_)));
            prop_assume!(token != other);
            let bytes = Signature { substream: 0, sequence: 0, due_ns: 0 }.bytes(other);
            prop_assert_eq!(Signature::find(&bytes, token), Found::Other);
        }
    }
}
