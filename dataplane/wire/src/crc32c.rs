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
/// polynomial, in log2(n) steps. Lengths that differ count up to the shorter. A CRC that was wrong stays wrong by as much.
pub fn update(crc: u32, old: &[u8], new: &[u8], after: usize) -> u32 {
    let [t0, ..] = &TABLES;
    let difference = old.iter().zip(new).fold(0u32, |crc, (old, new)| {
        let [low, ..] = crc.to_le_bytes();
        crc >> 8 ^ look(t0, low ^ old ^ new)
    });
    crc ^ multiply(difference, power(after))
}

/// x^8n modulo the polynomial.
fn power(mut n: usize) -> u32 {
    // Bit 31 is x^0 in the reversed order; x^8 is 8 bits below it.
    let mut result = 1 << 31;
    let mut square = 1 << 23;
    while n != 0 {
        if n & 1 != 0 {
            result = multiply(result, square);
        }
        square = multiply(square, square);
        n >>= 1;
    }
    result
}

/// The product modulo the polynomial, bits reversed.
fn multiply(mut a: u32, b: u32) -> u32 {
    let mut product = 0;
    for bit in (0..32).rev() {
        product ^= a & (b >> bit & 1).wrapping_neg();
        a = (a >> 1) ^ (POLYNOMIAL & (a & 1).wrapping_neg());
    }
    product
}
