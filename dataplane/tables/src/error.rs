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
    /// A route was refused.
    #[error("route {prefix}: {why}")]
    Route {
        /// Its prefix.
        prefix: ipnet::IpNet,
        /// What was wrong.
        why: String,
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
    /// A segment can't be made like this.
    #[error("{why}")]
    Config {
        /// What is wrong.
        why: String,
    },
    /// A row was refused; the rest is as it was.
    #[error("{row}: {why}")]
    Row {
        /// Which row.
        row: String,
        /// What is wrong with it.
        why: String,
    },
    /// A frontend belongs to another service.
    #[error(
        "service {service}: frontend {addr} port {port} protocol {protocol} belongs to service {owner} already"
    )]
    FrontendTaken {
        /// Who wants it.
        service: String,
        /// Its address.
        addr: millrace_wire::Addr,
        /// Its port.
        port: u16,
        /// Its IP protocol number.
        protocol: u8,
        /// Who has it.
        owner: String,
    },
    /// Eight keys with the same 60 bits of seeded hash.
    #[error(
        "more keys with one hash than a table can hold: start the writer again, with another seed"
    )]
    HashCollision,
    /// Not a segment of ours.
    #[error("not a {what} segment: it starts with {found:#018x}, not {want:#018x}")]
    Magic {
        /// Which segment.
        what: &'static str,
        /// What it starts with.
        found: u64,
        /// What it should start with.
        want: u64,
    },
    /// Made by a build with another contract.
    #[error(
        "{what} segment has ABI version {found}, this build has {want}: run control and engine of one release"
    )]
    Abi {
        /// Which segment.
        what: &'static str,
        /// Its version.
        found: u64,
        /// Ours.
        want: u64,
    },
    /// Made by a build with other records.
    #[error(
        "{what} segment has layout {found:#018x}, this build has {want:#018x}: run control and engine of one release"
    )]
    Layout {
        /// Which segment.
        what: &'static str,
        /// Its layout hash.
        found: u64,
        /// Ours.
        want: u64,
    },
    /// An image file can't be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
}
