//! CRC32c (Castagnoli), the checksum of SCTP (RFC 9260 appendix A, RFC 3720 appendix B.4), in software.
//!
//! Eight table look-ups for eight bytes ("slicing by 8"); the tables are computed when the crate is compiled. After NAT the CRC can be mended
//! without the payload: see [`update`].

/// The polynomial 0x1EDC6F41 with its bits reversed.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// Goes over one byte's eight bits.
const fn byte_step(mut crc: u32) -> u32 {
    let mut bit = 0;
    while bit < 8 {
        crc = (crc >> 1) ^ (POLYNOMIAL & (crc & 1).wrapping_neg());
        bit += 1;
    }
    crc
}

/// `TABLES[k][b]`: the effect of byte `b` with `k` zero bytes behind it. 8 KiB.
static TABLES: [[u32; 256]; 8] = tables();

#[expect(
    clippy::indexing_slicing,
    reason = "evaluated when compiled; an index out of bounds doesn't compile"
)]
const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte_step(byte as u32);
        let mut zeros = 0;
        while zeros < 8 {
            tables[zeros][byte] = crc;
            crc = byte_step(crc);
            zeros += 1;
        }
        byte += 1;
    }
    tables
}

#[inline]
#[expect(clippy::indexing_slicing, reason = "a byte always indexes a table of 256")]
fn look(table: &[u32; 256], byte: u8) -> u32 {
    table[usize::from(byte)]
}

/// A CRC under way, over bytes that may come in pieces of any length.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub struct Crc32c(u32);

impl Default for Crc32c {
    fn default() -> Self {
        Self::new()
    }
}

impl Crc32c {
    /// The CRC of nothing.
    #[inline]
    pub const fn new() -> Self {
        Self(!0)
    }

    /// Goes on with the bytes that follow.
    pub fn add_bytes(self, bytes: &[u8]) -> Self {
        Self(add(self.0, bytes))
    }

    /// The CRC; as a little-endian number it is what an SCTP header holds.
    #[inline]
    pub const fn finish(self) -> u32 {
        !self.0
    }
}

fn add(mut crc: u32, bytes: &[u8]) -> u32 {
    let [t0, t1, t2, t3, t4, t5, t6, t7] = &TABLES;
    let (steps, tail) = bytes.as_chunks::<8>();
    for &[a, b, c, d, e, f, g, h] in steps {
        let [a, b, c, d] = (crc ^ u32::from_le_bytes([a, b, c, d])).to_le_bytes();
        crc = look(t7, a)
            ^ look(t6, b)
            ^ look(t5, c)
            ^ look(t4, d)
            ^ look(t3, e)
            ^ look(t2, f)
            ^ look(t1, g)
            ^ look(t0, h);
    }
    for &byte in tail {
        let [low, ..] = crc.to_le_bytes();
        crc = crc >> 8 ^ look(t0, low ^ byte);
    }
    crc
}

/// The CRC32c of `bytes`.
#[inline]
pub fn crc32c(bytes: &[u8]) -> u32 {
    Crc32c::new().add_bytes(bytes).finish()
}

/// The CRC after `old` was replaced by `new`, of the same length, with `after` bytes behind it; the rest of the packet isn't needed.
///
/// A CRC is linear: the difference is that of `old ^ new` followed by zeros, and going over `n` zero bytes is a multiplication by x^8n modulo the
/// polynomial: one for each bit set in `n`, some 30 ns each. Computing anew is faster below about 250 bytes. Lengths that differ count up to the
/// shorter. A CRC that was wrong stays wrong by as much.
pub fn update(crc: u32, old: &[u8], new: &[u8], after: usize) -> u32 {
    let [t0, ..] = &TABLES;
    let mut difference = old.iter().zip(new).fold(0u32, |crc, (old, new)| {
        let [low, ..] = crc.to_le_bytes();
        crc >> 8 ^ look(t0, low ^ old ^ new)
    });
    let mut left = after;
    while let Some(power) = POWERS.get(left.trailing_zeros() as usize) {
        difference = multiply(difference, *power);
        left &= left - 1;
    }
    crc ^ difference
}

/// `POWERS[k]`: x^(8 * 2^k) modulo the polynomial, which goes over 2^k zero bytes. Bit 31 is x^0 in the reversed order.
static POWERS: [u32; usize::BITS as usize] = powers();

#[expect(
    clippy::indexing_slicing,
    reason = "evaluated when compiled; an index out of bounds doesn't compile"
)]
const fn powers() -> [u32; usize::BITS as usize] {
    let mut powers = [1 << 23; usize::BITS as usize];
    let mut bit = 1;
    while bit < powers.len() {
        powers[bit] = multiply(powers[bit - 1], powers[bit - 1]);
        bit += 1;
    }
    powers
}

/// The product modulo the polynomial, bits reversed.
const fn multiply(mut a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    while b != 0 {
        product ^= a & (b >> 31).wrapping_neg();
        a = (a >> 1) ^ (POLYNOMIAL & (a & 1).wrapping_neg());
        b <<= 1;
    }
    product
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    /// One bit at a time, as the polynomial says.
    fn model(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
                if crc & 1 == 0 { crc >> 1 } else { crc >> 1 ^ 0x82f6_3b78 }
            })
        })
    }

    #[test]
    fn known_vectors() {
        // RFC 3720 appendix B.4, and the check value of the CRC catalogue.
        let ascending: Vec<u8> = (0..32).collect();
        let descending: Vec<u8> = (0..32).rev().collect();
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(&ascending), 0x46dd_794e);
        assert_eq!(crc32c(&descending), 0x113f_db5c);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(b""), 0);
    }

    #[test]
    fn a_port_change_is_mended_without_the_payload() {
        let mut packet: Vec<u8> = (0..9000u32).map(|n| (n * 7) as u8).collect();
        let before = crc32c(&packet);
        let old = packet[..4].to_vec();
        packet[..4].copy_from_slice(&[0x12, 0x34, 0x56, 0x78]);
        assert_eq!(update(before, &old, &packet[..4], 8996), crc32c(&packet));
    }

    proptest! {
        #[test]
        fn agrees_with_the_model_in_any_pieces(bytes: Vec<u8>, cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..4)) {
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let crc = cuts.windows(2).fold(Crc32c::new(), |crc, cut| crc.add_bytes(&bytes[cut[0]..cut[1]]));
            prop_assert_eq!(crc.finish(), model(&bytes));
        }

        #[test]
        fn an_edit_gives_what_a_new_crc_gives(bytes in prop::collection::vec(any::<u8>(), 1..300), new: Vec<u8>, at: prop::sample::Index, error: u32) {
            let at = at.index(bytes.len());
            let len = new.len().min(bytes.len() - at);
            let mut edited = bytes.clone();
            edited[at..at + len].copy_from_slice(&new[..len]);
            let mended = update(model(&bytes) ^ error, &bytes[at..at + len], &new[..len], bytes.len() - at - len);
            prop_assert_eq!(mended, model(&edited) ^ error);
        }
    }
}
