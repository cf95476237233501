//! What can be refused, each message naming the thing and what to do about it.

use thiserror::Error;

/// An error of the tables, their segment or the session between control and engine.
#[derive(Debug, Error)]
pub enum Error {
    /// A system call failed.
    #[error("{what} failed: {source}")]
    System {
        /// Which call, on what.
        what: &'static str,
        /// The errno.
        source: rustix::io::Errno,
    },
    /// The file isn't sealed as it has to be.
    #[error(
        "segment is not sealed against shrinking (seals {seals:#x}): refusing to map it, its owner could truncate it under us"
    )]
    Unsealed {
        /// The seals it has (`F_SEAL_*`).
        seals: u32,
    },
    /// The file's size is impossible.
    #[error("segment of {bytes} bytes: want a multiple of {want} and room for the header")]
    Size {
        /// Bytes it has.
        bytes: u64,
        /// Unit wanted.
        want: u64,
    },
    /// The segment is full.
    #[error(
        "tables segment is full: {wanted} more bytes wanted, {free} of {bytes} free in one piece; raise the segment size"
    )]
    Full {
        /// Bytes asked for.
        wanted: u64,
        /// Bytes in the largest free run.
        free: u64,
        /// Bytes of the segment.
        bytes: u64,
    },
}
