//! Packet headers as zero-copy views, and the checksums over them.
//!
//! One file per protocol, all of one shape: a `#[repr(C)]` struct whose integers are in network byte order
//! ([`zerocopy::network_endian`]), read and written in place through [`View`]; where a header has a length of its own,
//! `parse` checks it against the bytes that are there. Numbers that come from the network are newtypes with constants
//! ([`Protocol`], [`EtherType`], `Flags`, …), never enums, so that no bytes can make an illegal value.
//!
//! The crate decides nothing about a packet: it says what the bytes are, or which [`Error`] they have. No function
//! panics, allocates, or reads past the slice it is given, whatever the bytes.
//!
//! | file | what |
//! |---|---|
//! | [`ethernet`], [`vlan`] | frame header, one or two tags |
//! | [`arp`] | ARP for IPv4 over Ethernet |
//! | [`ipv4`], [`ipv6`], [`ipv6_ext`] | network headers, options, the walk over extension headers |
//! | [`icmp`], [`icmpv6`], [`ndp`] | control messages, neighbor discovery |
//! | [`tcp`], [`udp`], [`sctp`] | transport headers |
//! | [`checksum`], [`mod@crc32c`] | Internet checksum (full and RFC 1624), CRC32c |
//! | [`Addr`], [`Mac`], [`Protocol`] | values that go through the whole program |

#![no_std]
#![forbid(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[cfg(test)]
extern crate std;

pub mod ethernet;
pub mod vlan;
pub mod arp;
pub mod ipv4;
pub mod ipv6;
pub mod ipv6_ext;
pub mod icmp;
pub mod icmpv6;
pub mod ndp;
pub mod tcp;
pub mod udp;
pub mod sctp;
pub mod checksum;
pub mod crc32c;

mod addr;
mod mac;
mod protocol;
mod view;

pub use addr::{Addr, Octets};
pub use checksum::{Delta, Sum};
pub use crc32c::Crc32c;
pub use ethernet::EtherType;
pub use mac::{Mac, ParseMacError};
pub use protocol::Protocol;
pub use view::{Error, View};
pub use zerocopy::network_endian::{U16, U32};
