//! The Internet checksum: over whole packets (RFC 1071), and mended after an edit (RFC 1624).
//!
//! Sums are ones' complement: 0x0000 and 0xFFFF are the same number. A sum over bytes that aren't all zero comes out as 0xFFFF, never as
//! 0x0000, so the checksum of a real packet, the complement, may be 0x0000 but never 0xFFFF. Every function here keeps to that,
//! so that mending and computing anew give the same bits; a checksum that was wrong before an edit stays wrong by as much.
//! UDP alone differs: 0x0000 means "no checksum", and a computed 0x0000 is sent as 0xFFFF.
//!
//! Words are added as they lie in memory and swapped once at the end (RFC 1071 §2 B), 32 bits at a time into 64-bit lanes, which LLVM turns into vector
//! adds: a 9,000-byte frame may have to be completed in software.

use crate::{Addr, Protocol};

/// A ones' complement sum under way, over bytes that may come in pieces of any length.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[must_use]
pub struct Sum {
    /// Sum of the words in memory order, not folded. Each addition leaves it below 2^40, so it can't overflow.
    words: u64,
    /// Whether an odd number of bytes went in, so that the next byte is the second of its word.
    odd: bool,
}

impl Sum {
    /// The sum of nothing.
    #[inline]
    pub const fn new() -> Self {
        Self { words: 0, odd: false }
    }

    /// The sum of `bytes`.
    #[inline]
    pub fn of(bytes: &[u8]) -> Self {
        Self::new().add_bytes(bytes)
    }

    /// Goes on with the bytes that follow, wherever the last piece ended.
    #[inline]
    pub fn add_bytes(self, bytes: &[u8]) -> Self {
        let words = sum_words(bytes);
        // A piece that begins at an odd position has all its bytes in the other half of their words (RFC 1071 §2 B).
        let words = if self.odd { u64::from(fold(words).swap_bytes()) } else { words };
        Self { words: reduce(self.words + words), odd: self.odd ^ (bytes.len() % 2 == 1) }
    }

    /// Goes on with one 16-bit word in host order. After an odd number of bytes it is taken as two bytes like any others.
    #[inline]
    pub fn add_word(self, word: u16) -> Self {
        self.add_bytes(&word.to_be_bytes())
    }

    /// The pseudo-header of TCP and UDP over IPv4 (RFC 9293 §3.1). `len` is bytes of L4 header and payload.
    #[inline]
    pub fn pseudo_v4(src: [u8; 4], dst: [u8; 4], protocol: Protocol, len: u16) -> Self {
        let words = u64::from(u32::from_ne_bytes(src))
            + u64::from(u32::from_ne_bytes(dst))
            + u64::from(u16::from(protocol.0).to_be())
            + u64::from(len.to_be());
        Self { words: reduce(words), odd: false }
    }

    /// The pseudo-header over IPv6 (RFC 8200 §8.1). `len` is bytes of L4 header and payload, without extension headers.
    #[inline]
    pub fn pseudo_v6(src: &[u8; 16], dst: &[u8; 16], protocol: Protocol, len: u32) -> Self {
        let words = sum_words(src)
            + sum_words(dst)
            + u64::from(u32::from(protocol.0).to_be())
            + u64::from(len.to_be());
        Self { words: reduce(words), odd: false }
    }

    /// The pseudo-header for either family: IPv4's when both addresses are IPv4.
    #[inline]
    pub fn pseudo(src: &Addr, dst: &Addr, protocol: Protocol, len: u32) -> Self {
        match (src.v4(), dst.v4()) {
            (Some(src), Some(dst)) => Self::pseudo_v4(src, dst, protocol, len as u16),
            _ => Self::pseudo_v6(&src.octets(), &dst.octets(), protocol, len),
        }
    }

    /// The 16-bit sum in host order, not complemented. Of a right packet with its checksum: 0xFFFF. Of a pseudo-header: what a
    /// partial checksum field holds (Linux `CHECKSUM_PARTIAL`).
    #[inline]
    pub const fn fold(self) -> u16 {
        u16::from_be(fold(self.words))
    }

    /// The checksum in host order: the sum complemented.
    #[inline]
    pub const fn finish(self) -> u16 {
        !self.fold()
    }

    /// The checksum for a UDP header: 0 is sent as 0xFFFF (RFC 768).
    #[inline]
    pub const fn finish_udp(self) -> u16 {
        nonzero(self.finish())
    }
}

/// What an edit does to the checksums over it: computed once, applied to any number of packets.
///
/// Edits add up: `Delta::of(a, b).and(Delta::of(c, d))`. All zero bits would be a lawful value too, "changes nothing".
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[must_use]
pub struct Delta(u16);

impl Delta {
    /// Changes nothing.
    pub const NONE: Self = Self(0xffff);

    /// The edit that replaces `old` by `new`, at an even distance from the checksum's first byte.
    ///
    /// The two may differ in length when what follows moves by an even number of bytes; a last odd byte counts as if a zero followed.
    #[inline]
    pub fn of(old: &[u8], new: &[u8]) -> Self {
        // RFC 1624 eqn. 3: ~m + m'. ~fold(old) is fold(old) subtracted.
        Self(fold_be(u32::from(!Sum::of(old).fold()) + u32::from(Sum::of(new).fold())))
    }

    /// The edit that replaces one 16-bit word, both in host order.
    #[inline]
    pub const fn of_word(old: u16, new: u16) -> Self {
        Self(fold_be(!old as u32 + new as u32))
    }

    /// The edit that replaces these 32-bit words, read as they lie in memory.
    #[inline]
    pub fn of_words<const N: usize>(old: [u32; N], new: [u32; N]) -> Self {
        let sum = old.iter().map(|word| u64::from(!word)).chain(new.iter().map(|&w| u64::from(w)));
        Self(u16::from_be(fold(sum.sum())))
    }

    /// The edit that replaces eight bytes, read as they lie in memory: two IPv4 addresses.
    #[inline]
    pub const fn of_eight(old: u64, new: u64) -> Self {
        let (sum, carry) = (!old).overflowing_add(new);
        // The carry out of a sum of two leaves room for itself.
        Self(u16::from_be(fold(sum + carry as u64)))
    }

    /// The edit that replaces four bytes, read as they lie in memory: two ports.
    #[inline]
    pub const fn of_four(old: u32, new: u32) -> Self {
        Self(u16::from_be(fold(!old as u64 + new as u64)))
    }

    /// Both edits.
    #[inline]
    pub const fn and(self, other: Self) -> Self {
        Self(fold_be(self.0 as u32 + other.0 as u32))
    }

    /// The checksum after the edit; `check` is the field before it, both in host order. Never 0xFFFF.
    #[inline]
    pub const fn apply(self, check: u16) -> u16 {
        !self.apply_sum(!check)
    }

    /// [`Self::apply`] for UDP: 0 ("no checksum") stays 0, and a result of 0 becomes 0xFFFF.
    #[inline]
    pub const fn apply_udp(self, check: u16) -> u16 {
        if check == 0 { 0 } else { nonzero(self.apply(check)) }
    }

    /// The sum after the edit, for a field that holds a sum and no checksum: a partial checksum whose pseudo-header was edited. Never 0.
    #[inline]
    pub const fn apply_sum(self, sum: u16) -> u16 {
        // Zero comes out only of two zeros; as a sum over a packet it is 0xFFFF.
        nonzero(fold_be(sum as u32 + self.0 as u32))
    }

    /// As a number, for tables in shared memory.
    #[inline]
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// Undoes [`Self::bits`]; any number is an edit.
    #[inline]
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits)
    }
}

/// The checksum (host order) after `old` was replaced by `new` at an even distance from its first byte (RFC 1624 eqn. 3). Never 0xFFFF.
#[inline]
pub fn update(old_check: u16, old: &[u8], new: &[u8]) -> u16 {
    Delta::of(old, new).apply(old_check)
}

/// [`update`] for UDP: 0 ("no checksum") stays 0, and a result of 0 becomes 0xFFFF.
#[inline]
pub fn update_udp(old_check: u16, old: &[u8], new: &[u8]) -> u16 {
    Delta::of(old, new).apply_udp(old_check)
}

const fn nonzero(value: u16) -> u16 {
    if value == 0 { 0xffff } else { value }
}

/// Bytes of one step: eight 32-bit words.
const STEP: usize = 32;

/// The sum of the 16-bit words of `bytes` as they lie in memory, not folded: less than 2^31 times the length.
#[inline]
fn sum_words(bytes: &[u8]) -> u64 {
    let (steps, tail) = bytes.as_chunks::<STEP>();
    let mut lanes = [0u64; STEP / 4];
    for step in steps {
        let (words, _) = step.as_chunks::<4>();
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane += u64::from(u32::from_ne_bytes(*word));
        }
    }
    let (words, tail) = tail.as_chunks::<4>();
    let mut sum: u64 = lanes.iter().sum();
    for word in words {
        sum += u64::from(u32::from_ne_bytes(*word));
    }
    // A missing last byte counts as zero.
    let mut last = [0; 4];
    last.iter_mut().zip(tail).for_each(|(to, from)| *to = *from);
    sum + u64::from(u32::from_ne_bytes(last))
}

/// A smaller number with the same 16-bit sum: less than 2^33.
#[inline]
const fn reduce(words: u64) -> u64 {
    (words >> 32) + (words & 0xffff_ffff)
}

/// The 16-bit sum; 0 only of 0.
#[inline]
const fn fold(words: u64) -> u16 {
    let sum = reduce(reduce(words)) as u32;
    let sum = (sum >> 16) + (sum & 0xffff);
    ((sum >> 16) + sum) as u16
}

/// [`fold`] of the sum of two words.
#[inline]
const fn fold_be(sum: u32) -> u16 {
    ((sum >> 16) + sum) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    /// The loop of RFC 1071 §4.1: big-endian words, carry folded at the end.
    fn model(bytes: &[u8]) -> u16 {
        let mut sum: u64 = bytes
            .chunks(2)
            .map(|word| u64::from(word[0]) << 8 | word.get(1).map_or(0, |b| u64::from(*b)))
            .sum();
        while sum > 0xffff {
            sum = (sum >> 16) + (sum & 0xffff);
        }
        sum as u16
    }

    /// Bytes among which the corner values are common.
    fn bytes(len: impl Into<prop::collection::SizeRange>) -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop_oneof![Just(0x00), Just(0xff), any::<u8>()], len)
    }

    #[test]
    fn the_example_of_rfc_1071() {
        let sum = Sum::of(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!((sum.fold(), sum.finish()), (0xddf2, 0x220d));
    }

    #[test]
    fn the_example_of_rfc_1624() {
        // Section 4: the checksum 0xDD2F, a word 0x5555 that becomes 0x3285: eqn. 3 gives 0x0000, where RFC 1141 gave 0xFFFF.
        assert_eq!(update(0xdd2f, &[0x55, 0x55], &[0x32, 0x85]), 0x0000);
        assert_eq!(Delta::of_word(0x5555, 0x3285).apply(0xdd2f), 0x0000);
    }

    #[test]
    fn no_edit_changes_nothing_for_any_checksum() {
        for check in 0..0xffff {
            assert_eq!(Delta::NONE.apply(check), check);
            assert_eq!(Delta::from_bits(0).apply(check), check);
            for word in [0x0000, 0x0001, 0x7fff, 0x8000, 0xfffe, 0xffff] {
                assert_eq!(Delta::of_word(word, word).apply(check), check, "{word:#x}");
            }
        }
    }

    #[test]
    fn a_checksum_of_ones_counts_as_the_zero_it_equals() {
        for bits in 0..=u16::MAX {
            let delta = Delta::from_bits(bits);
            assert_eq!(delta.apply(0xffff), delta.apply(0x0000), "{bits:#x}");
        }
    }

    #[test]
    fn every_checksum_survives_every_corner_edit_and_back() {
        let corners = [0x0000u16, 0x0001, 0x00ff, 0x7fff, 0x8000, 0xff00, 0xfffe, 0xffff];
        for check in 0..0xffff {
            for old in corners {
                for new in corners {
                    let there = Delta::of_word(old, new).apply(check);
                    assert_ne!(there, 0xffff, "{check:#x} {old:#x} {new:#x}");
                    assert_eq!(
                        Delta::of_word(new, old).apply(there),
                        check,
                        "{check:#x} {old:#x} {new:#x}"
                    );
                }
            }
        }
    }

    #[test]
    fn udp_keeps_none_and_never_sends_zero() {
        assert_eq!(update_udp(0, &[0x12, 0x34], &[0x56, 0x78]), 0);
        // As in RFC 1624's example the checksum comes out as 0.
        assert_eq!(update_udp(0xdd2f, &[0x55, 0x55], &[0x32, 0x85]), 0xffff);
        assert_eq!(update_udp(0xffff, &[0x32, 0x85], &[0x55, 0x55]), 0xdd2f);
        assert_eq!(Delta::NONE.apply_udp(0xffff), 0xffff);
        assert_eq!(Sum::of(&[0xff, 0xff]).finish_udp(), 0xffff);
        assert_eq!(Sum::of(&[0xff, 0xfe]).finish_udp(), 0x0001);
    }

    #[test]
    fn a_sum_over_a_jumbo_frame_of_ones_does_not_overflow() {
        let mut sum = Sum::new();
        for _ in 0..100_000 {
            sum = sum.add_bytes(&[0xff; 8999]);
        }
        assert_eq!(sum.fold(), 0xffff);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn edits_of_words_are_edits_of_their_bytes(old: [u32; 3], new: [u32; 3], check: u16) {
            let [old_bytes, new_bytes] = [old, new].map(|words| words.map(u32::to_ne_bytes));
            let bytewise = Delta::of(old_bytes.as_flattened(), new_bytes.as_flattened());
            prop_assert_eq!(Delta::of_words(old, new).apply(check), bytewise.apply(check));
        }

        #[test]
        fn agrees_with_the_model_in_any_pieces(bytes in bytes(0..300), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..5)) {
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let sum = cuts.windows(2).fold(Sum::new(), |sum, cut| sum.add_bytes(&bytes[cut[0]..cut[1]]));
            prop_assert_eq!(sum.fold(), model(&bytes));
        }

        #[test]
        fn words_count_like_their_bytes(bytes in bytes(0..40), word: u16) {
            let with: Vec<u8> = bytes.iter().copied().chain(word.to_be_bytes()).collect();
            prop_assert_eq!(Sum::of(&bytes).add_word(word).fold(), model(&with));
        }

        #[test]
        fn pseudo_headers_count_like_their_bytes(src: [u8; 16], dst: [u8; 16], protocol: u8, len: u16) {
            let zero = [0; 3];
            let v6 = [&src[..], &dst, &u32::from(len).to_be_bytes(), &zero, &[protocol]].concat();
            prop_assert_eq!(Sum::pseudo_v6(&src, &dst, Protocol(protocol), len.into()).fold(), model(&v6));
            let v6 = (Addr::from_v6(src), Addr::from_v6(dst));
            prop_assert_eq!(Sum::pseudo(&v6.0, &v6.1, Protocol(protocol), len.into()), Sum::pseudo_v6(&src, &dst, Protocol(protocol), len.into()));
            let (src, dst) = ([src[0], src[1], src[2], src[3]], [dst[0], dst[1], dst[2], dst[3]]);
            let v4 = [&src[..], &dst, &[0, protocol], &len.to_be_bytes()].concat();
            prop_assert_eq!(Sum::pseudo_v4(src, dst, Protocol(protocol), len).fold(), model(&v4));
            let v4 = (Addr::from_v4(src), Addr::from_v4(dst));
            prop_assert_eq!(Sum::pseudo(&v4.0, &v4.1, Protocol(protocol), len.into()), Sum::pseudo_v4(src, dst, Protocol(protocol), len));
        }

        /// The rewrite of a packet: any edits at even places give the bits that a new computation gives.
        #[test]
        fn edits_give_what_a_new_sum_gives(packet in bytes(2..120), edits in prop::collection::vec((any::<prop::sample::Index>(), bytes(1..20)), 1..4)) {
            prop_assume!(model(&packet) != 0);
            let before = !model(&packet);
            let mut edited = packet.clone();
            let (mut check, mut udp, mut delta) = (before, nonzero(before), Delta::NONE);
            for (at, new) in edits {
                let at = at.index(edited.len()) & !1;
                // Of odd length only at the packet's end, where a zero does follow.
                let len = match new.len().min(edited.len() - at) { len if at + len == edited.len() => len, len => len & !1 };
                let (old, new) = (edited[at..at + len].to_vec(), &new[..len]);
                check = update(check, &old, new);
                udp = update_udp(udp, &old, new);
                delta = delta.and(Delta::of(&old, new));
                edited[at..at + len].copy_from_slice(new);
            }
            // Of a packet of zeros alone the sum is 0, which no real packet's is; the checksum is the other zero then.
            let after = if model(&edited) == 0 { 0 } else { !model(&edited) };
            prop_assert_eq!(check, after);
            prop_assert_eq!(udp, nonzero(after));
            prop_assert_eq!(delta.apply(before), after);
            prop_assert_eq!(delta.apply_udp(nonzero(before)), nonzero(after));
            prop_assert_eq!(delta.apply_udp(0), 0);
            prop_assert_eq!(Delta::from_bits(delta.bits()), delta);
        }

        /// A partial checksum holds the pseudo-header's sum; edited addresses give the sum of the new pseudo-header.
        #[test]
        fn edits_of_a_partial_checksum_give_the_new_pseudo_sum(src: [u8; 4], old: [u8; 4], new: [u8; 4], len: u16) {
            let [before, after] = [old, new].map(|dst| Sum::pseudo_v4(src, dst, Protocol::TCP, len).fold());
            prop_assert_eq!(Delta::of(&old, &new).apply_sum(before), after);
        }

        #[test]
        fn a_wrong_checksum_stays_wrong(packet in bytes(4..60), new: [u8; 2], wrong in 1..0xffffu16) {
            prop_assume!(packet[2..].iter().any(|byte| *byte != 0));
            let mut edited = packet.clone();
            edited[..2].copy_from_slice(&new);
            let check = update(!model(&packet) ^ wrong, &packet[..2], &new);
            prop_assert_ne!(check, !model(&edited));
        }
    }
}
