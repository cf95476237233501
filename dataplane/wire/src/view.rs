//! How a header is laid over bytes, and what can be wrong with the bytes.
//!
//! Needs nothing but the slice. Whether the values make sense is left to each protocol's `parse`.

use core::fmt;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// What is wrong with a packet's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Error {
    /// The bytes end before the header, its options or the length it announces.
    Truncated,
    /// The version nibble is not that of the protocol.
    Version,
    /// The header's own length is below its minimum.
    HeaderLength,
    /// The length of the whole is less than its header.
    Length,
    /// An option or chunk has a length that can't be.
    Option,
    /// A field that the protocol fixes has another value (ARP sizes, ND code or target).
    Field,
}

impl Error {
    /// A sentence part for logs: "truncated", "bad version", …
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::Version => "bad version",
            Self::HeaderLength => "header length below the minimum",
            Self::Length => "length below that of the header",
            Self::Option => "bad option length",
            Self::Field => "illegal value in a fixed field",
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl core::error::Error for Error {}

/// A fixed-size header that can be laid over the start of a slice, at any alignment.
///
/// Implemented by every header of this crate (and any other type with the same zerocopy traits).
pub trait View: FromBytes + IntoBytes + KnownLayout + Immutable + Unaligned + Sized {
    /// Bytes of the fixed part.
    const LEN: usize = size_of::<Self>();

    /// The header at the start of `bytes`, and the bytes after it. [`Error::Truncated`] when there are fewer than [`Self::LEN`].
    #[inline]
    fn view(bytes: &[u8]) -> Result<(&Self, &[u8]), Error> {
        Self::ref_from_prefix(bytes).map_err(|_| Error::Truncated)
    }

    /// [`Self::view`], to write to.
    #[inline]
    fn view_mut(bytes: &mut [u8]) -> Result<(&mut Self, &mut [u8]), Error> {
        Self::mut_from_prefix(bytes).map_err(|_| Error::Truncated)
    }

    /// Copies the header to the start of `bytes` and returns the bytes after it.
    #[inline]
    fn put<'a>(&self, bytes: &'a mut [u8]) -> Result<&'a mut [u8], Error> {
        let (head, rest) = bytes.split_at_mut_checked(Self::LEN).ok_or(Error::Truncated)?;
        head.copy_from_slice(self.as_bytes());
        Ok(rest)
    }
}

impl<T: FromBytes + IntoBytes + KnownLayout + Immutable + Unaligned> View for T {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Mac, ethernet};

    #[test]
    fn view_needs_the_whole_header() {
        for len in 0..ethernet::Header::LEN {
            let mut bytes = [0; ethernet::Header::LEN];
            assert_eq!(ethernet::Header::view(&bytes[..len]).map(|_| ()), Err(Error::Truncated));
            assert_eq!(
                ethernet::Header::view_mut(&mut bytes[..len]).map(|_| ()),
                Err(Error::Truncated)
            );
        }
    }

    #[test]
    fn put_writes_the_header_and_leaves_the_rest() {
        let mut bytes = [0xa5; 8];
        assert_eq!(Mac([1, 2, 3, 4, 5, 6]).put(&mut bytes), Ok(&mut [0xa5; 2][..]));
        assert_eq!(bytes, [1, 2, 3, 4, 5, 6, 0xa5, 0xa5]);
        assert_eq!(Mac::ZERO.put(&mut bytes[..5]), Err(Error::Truncated));
    }
}
