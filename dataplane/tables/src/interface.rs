//! Interface rows in the segment (cold: the engine has its own list; this one is for `show` and `explain`).
//!
//! ```text
//! 0  words | mtu << 32      2  kind | name bytes << 8 | addresses << 32
//! 1  mac | id << 48         3… the name, then per address two words and the prefix length
//! ```

use crate::{
    arena::{Arena, Table},
    cold,
    error::Error,
    layout::{high, low, pack},
    row::{InterfaceId, InterfaceKind, InterfaceRow},
    spec::{InterfaceSpec, MAX_ADDRESSES},
    words::{Ref, Words},
};
use ipnet::IpNet;
use millrace_wire::{Addr, Mac};

const HEAD: usize = 3;
const ADDRESS_WORDS: usize = 3;

/// Words of the row of `spec`.
pub fn words_for(spec: &InterfaceSpec) -> usize {
    HEAD + spec.name.len().div_ceil(8) + spec.addresses.len() * ADDRESS_WORDS
}

/// Words of the row at `at`, as it says itself.
pub fn words_of(words: Words<'_>, at: Ref) -> usize {
    low(words.at(at, 0)).raw() as usize
}

/// Writes a checked row.
pub fn write(arena: &mut Arena, spec: &InterfaceSpec) -> Result<Ref, Error> {
    let words = words_for(spec);
    let at = arena.alloc(Table::Interfaces, words)?;
    let name = spec.name.len();
    arena.store(at, 0, pack(Ref::from_raw(u32::try_from(words).unwrap_or(u32::MAX)), spec.mtu));
    arena.store(at, 1, spec.mac.to_u64() | u64::from(spec.id.0) << 48);
    arena.store(
        at,
        2,
        u64::from(spec.kind.0) | (name as u64) << 8 | (spec.addresses.len() as u64) << 32,
    );
    cold::store_bytes(arena, at, HEAD, spec.name.as_bytes());
    let mut offset = HEAD + name.div_ceil(8);
    for net in &spec.addresses {
        let [upper, lower] = Addr::from(net.addr()).to_words();
        for word in [upper, lower, u64::from(net.prefix_len())] {
            arena.store(at, offset, word);
            offset += 1;
        }
    }
    Ok(at)
}

/// The row as it will be read.
pub fn row(spec: &InterfaceSpec) -> InterfaceRow {
    let InterfaceSpec { id, kind, mac, mtu, name, addresses } = spec.clone();
    InterfaceRow { id, kind, mac, mtu, name, addresses }
}

/// Reads the row at `at`; addresses that can't be are left out.
pub fn read(words: Words<'_>, at: Ref) -> InterfaceRow {
    let (mac, head) = (words.at(at, 1), words.at(at, 2));
    let name = usize::from((head >> 8) as u16);
    let addresses = usize::from((head >> 32) as u16).min(MAX_ADDRESSES);
    let base = HEAD + name.div_ceil(8);
    InterfaceRow {
        id: InterfaceId((mac >> 48) as u16),
        kind: InterfaceKind(head as u8),
        mac: Mac::from_u64(mac & 0xffff_ffff_ffff),
        mtu: high(words.at(at, 0)),
        name: String::from_utf8_lossy(&cold::load_bytes(words, at, HEAD, name)).into_owned(),
        addresses: (0..addresses)
            .filter_map(|index| {
                let [upper, lower, len] =
                    std::array::from_fn(|i| words.at(at, base + index * ADDRESS_WORDS + i));
                IpNet::new(Addr::from_words([upper, lower]).to_ip(), len as u8).ok()
            })
            .collect(),
    }
}
