//! VLAN tags, one or two (IEEE 802.1Q §9.6, 802.1ad).
//!
//! [`walk`] finds where L3 starts. What a tag means for an interface is left to the parse stop.

use crate::{Error, EtherType, View};
use zerocopy::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The 4 bytes behind an [`EtherType::VLAN`] or [`EtherType::QINQ`].
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Tag {
    /// Priority (3 bits), drop eligible (1), VLAN (12).
    pub tci: U16,
    /// What follows the tag.
    pub ether_type: EtherType,
}

const _: () = assert!(size_of::<Tag>() == 4);

impl Tag {
    /// A tag of priority 0.
    pub const fn new(vid: u16, ether_type: EtherType) -> Self {
        Self { tci: U16::new(vid & 0xfff), ether_type }
    }

    /// The VLAN, 0 to 4095; 0 is "priority only" and 4095 reserved.
    #[inline]
    pub const fn vid(&self) -> u16 {
        self.tci.get() & 0xfff
    }

    /// The priority code point, 0 to 7.
    #[inline]
    pub const fn priority(&self) -> u8 {
        (self.tci.get() >> 13) as u8
    }

    /// Whether the frame may be dropped first.
    #[inline]
    pub const fn drop_eligible(&self) -> bool {
        self.tci.get() & 0x1000 != 0
    }
}

/// The tags of a frame and what is behind them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tags {
    /// What follows the last tag. Is itself a tag's type when there are more than [`MAX_TAGS`].
    pub ether_type: EtherType,
    /// Bytes from the end of the Ethernet header to L3: 0, 4 or 8.
    pub len: usize,
    /// The outer tag.
    pub outer: Option<Tag>,
    /// The inner tag of two.
    pub inner: Option<Tag>,
}

/// Tags that [`walk`] goes over; a third is left as an unknown ether type.
pub const MAX_TAGS: usize = 2;

/// Goes over at most two tags. `ether_type` is that of the Ethernet header and `payload` what follows it.
#[inline]
pub fn walk(ether_type: EtherType, payload: &[u8]) -> Result<Tags, Error> {
    let mut tags = Tags { ether_type, len: 0, outer: None, inner: None };
    if !ether_type.is_tag() {
        return Ok(tags);
    }
    let (outer, rest) = Tag::view(payload)?;
    tags = Tags { ether_type: outer.ether_type, len: Tag::LEN, outer: Some(*outer), inner: None };
    if outer.ether_type.is_tag() {
        let (inner, _) = Tag::view(rest)?;
        tags =
            Tags { ether_type: inner.ether_type, len: 2 * Tag::LEN, inner: Some(*inner), ..tags };
    }
    Ok(tags)
}
