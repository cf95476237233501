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
