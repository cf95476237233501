//! Where things are in a tables segment: the header, the root record, and what makes two builds agree.
//!
//! ```text
//! header, 4 KiB                      root record, 128 bytes, one per generation
//!   word 0  magic "MILLRACE"           word 0  generation
//!        1  ABI version                     1  services   index tree: ref | height << 32
//!        2  layout hash                     2  frontends  hash trie: slot
//!        3  bytes of the segment            3  routes 4   FIB root
//!        4  seed of the hash tries          4  routes 6   FIB root
//!        8  root: Ref of the newest         5  policy     Ref of their record | in force << 32
//!           root record                     6  neighbors  hash trie: slot
//!                                           7  groups     rows: ref | numbers << 32
//!                                           8  interfaces index tree: ref | height << 32
//!                                           9  node       Ref of its row | masquerades << 32
//!                                           10 guards     rows: ref | numbers << 32
//!                                           11… 0, for later
//! ```
//! All integers are native-endian words: a segment never leaves its machine except as an image file,
//! whose magic then reads reversed and is refused.

#[cfg(not(loom))]
use crate::words::Ref;

/// First word of a tables segment: "MILLRACE".
pub const MAGIC: u64 = u64::from_be_bytes(*b"MILLRACE");

/// Version of the contract between control and engine; raised when the meaning of a field changes.
pub const ABI: u64 = 1;

/// Bytes of the header.
pub const HEADER_BYTES: usize = 4096;

/// Header words.
pub mod header {
    /// [`super::MAGIC`].
    pub const MAGIC: usize = 0;
    /// [`super::ABI`].
    pub const ABI: usize = 1;
    /// [`super::HASH`].
    pub const LAYOUT: usize = 2;
    /// Bytes of the segment.
    pub const BYTES: usize = 3;
    /// Seed of the hash tries.
    pub const SEED: usize = 4;
    /// The root reference, alone on its cache line: the one word a publication changes.
    pub const ROOT: usize = 8;
}

/// Words of a root record.
pub const ROOT_WORDS: usize = 16;

/// Words of a root record, by what they lead to.
pub mod root {
    /// The generation.
    pub const GENERATION: usize = 0;
    /// Services by id.
    pub const SERVICES: usize = 1;
    /// Frontends, and the addresses that have any.
    pub const FRONTENDS: usize = 2;
    /// IPv4 routes.
    pub const ROUTES4: usize = 3;
    /// IPv6 routes.
    pub const ROUTES6: usize = 4;
    /// The policies' record, and whether they are in force.
    pub const POLICY: usize = 5;
    /// Static neighbors.
    pub const NEIGHBORS: usize = 6;
    /// Groups of next hops by number.
    pub const GROUPS: usize = 7;
    /// Interfaces by id (cold: not on the line of the others).
    pub const INTERFACES: usize = 8;
    /// The node's own row (cold as well).
    pub const NODE: usize = 9;
    /// Guards by interface.
    pub const GUARDS: usize = 10;
}

/// What a layout hash stands for: every field of every record, in order. Change it with them.
pub const DESCRIPTION: &str = "\
    header magic abi layout bytes seed @8root; ref u32 grains of 16; \
    root generation services frontends routes4 routes6 policy neighbors groups interfaces node guards; \
    guard mac48|addresses8|used1 names32|block32 addresses2x3, block addresses2; \
    index node 64xu32, root ref32|height32; \
    trie slot ref29|tag3, node 64xu32, leaf 2^(tag-1) places in pairs by hash at 6 level + 13 choice, taken 1<<63, hash fold2; \
    frontend addr2 port16|protocol8 | service32|kind8|set8|flags8; vip addr2 0 | frontends; \
    service id32|affinity32 flags16|backends32<<16 cluster2 local2 records32|names32 ranges32|count32 spare; range first2 last2; \
    set count16|empty8|form8|slots32 table32, maglev 4|8|16 bits, \
      form 1: directory of u32 of 32 slots, directory of records32|names32 of 32 records; \
    backend addr2 port16|flags16|id32 weight16; \
    interface words32|mtu32 mac48|id16 kind8|name16@8|addresses16@32 name addresses3; \
    neighbor addr2 interface16 | mac48; \
    node ranges16|sources16|words32 leaving16|staying16 addr2 len8|interface16; root node ref32|masquerades1; \
    names words32|count32, strings shared8 len16 bytes; ";

#[cfg(not(loom))]
/// Hash of everything that both sides have to agree on, the layout of the FIB, the groups and the policies included.
pub const HASH: u64 = fnv(
    layout_hash(DESCRIPTION) ^ layout_hash(crate::policy::DESCRIPTION),
    crate::route::DESCRIPTION.as_bytes(),
);

const FNV_START: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a, in const: a fingerprint, not a defence.
pub const fn fnv(mut hash: u64, bytes: &[u8]) -> u64 {
    let mut at = 0;
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        at += 1;
    }
    hash
}

/// A fingerprint of a layout description, for a segment of another kind.
pub const fn layout_hash(description: &str) -> u64 {
    fnv(FNV_START, description.as_bytes())
}

#[cfg(not(loom))]
/// A reference in the low half of a word, something else in the high half.
pub(crate) const fn pack(low: Ref, high: u32) -> u64 {
    low.raw() as u64 | (high as u64) << 32
}

#[cfg(not(loom))]
/// The reference in the low half of a word.
#[inline]
pub(crate) const fn low(word: u64) -> Ref {
    Ref::from_raw(word as u32)
}

#[cfg(not(loom))]
/// The high half of a word.
#[inline]
pub(crate) const fn high(word: u64) -> u32 {
    (word >> 32) as u32
}

const _: () = assert!(ROOT_WORDS * 8 == 128);
