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

#[cfg(test)]
mod tests {
    use super::*;

    /// Service tag 200 of priority 1, drop eligible, and customer tag 100 of priority 5, before IPv4.
    const PACKET: [u8; 10] = [0x30, 0xc8, 0x81, 0x00, 0xa0, 0x64, 0x08, 0x00, 0x45, 0x00];

    #[test]
    fn deconstruct() {
        let (tag, rest) = Tag::view(&PACKET).unwrap();
        assert_eq!((tag.vid(), tag.priority(), tag.drop_eligible()), (200, 1, true));
        assert_eq!(tag.ether_type, EtherType::VLAN);
        let (tag, rest) = Tag::view(rest).unwrap();
        assert_eq!((tag.vid(), tag.priority(), tag.drop_eligible()), (100, 5, false));
        assert_eq!(tag.ether_type, EtherType::IPV4);
        assert_eq!(rest, [0x45, 0x00]);
    }

    #[test]
    fn construct() {
        let mut bytes = [0xa5; 10];
        let (outer, rest) = Tag::view_mut(&mut bytes).unwrap();
        outer.tci = U16::new(1 << 13 | 1 << 12 | 200);
        outer.ether_type = EtherType::VLAN;
        let rest =
            Tag { tci: U16::new(5 << 13 | 100), ether_type: EtherType::IPV4 }.put(rest).unwrap();
        rest.copy_from_slice(&[0x45, 0x00]);
        assert_eq!(bytes, PACKET);
        assert_eq!(Tag::new(0xffff, EtherType::IPV6).as_bytes(), [0x0f, 0xff, 0x86, 0xdd]);
    }

    #[test]
    fn refuse_truncated() {
        for len in 0..8 {
            assert_eq!(walk(EtherType::QINQ, &PACKET[..len]), Err(Error::Truncated), "{len} bytes");
        }
        assert!(walk(EtherType::QINQ, &PACKET[..8]).is_ok());
    }

    #[test]
    fn walk_finds_none_one_or_two() {
        let [outer, inner] = [Tag::view(&PACKET).unwrap().0, Tag::view(&PACKET[4..]).unwrap().0];
        let none = Tags { ether_type: EtherType::ARP, len: 0, outer: None, inner: None };
        assert_eq!(walk(EtherType::ARP, &[]), Ok(none));
        let one = Tags { ether_type: EtherType::IPV4, len: 4, outer: Some(*inner), inner: None };
        assert_eq!(walk(EtherType::VLAN, &PACKET[4..]), Ok(one));
        let two =
            Tags { ether_type: EtherType::IPV4, len: 8, outer: Some(*outer), inner: Some(*inner) };
        assert_eq!(walk(EtherType::QINQ, &PACKET), Ok(two));
    }

    #[test]
    fn walk_leaves_a_third_tag() {
        let three = [0, 1, 0x81, 0x00, 0, 2, 0x81, 0x00, 0, 3, 0x08, 0x00];
        let tags = walk(EtherType::VLAN, &three).unwrap();
        assert_eq!((tags.ether_type, tags.len), (EtherType::VLAN, 8));
    }
}
