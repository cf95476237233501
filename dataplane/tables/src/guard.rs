//! Guards: who may send from an interface. A pod's names its own MAC and addresses; what comes with others is forged.
//!
//! ```text
//! row    0: mac (48) | addresses (8, at 48) | 1 << 63   1: names | block << 32   2…7: three addresses of two words
//! block  where there are more than three: all addresses
//! ```
//! Cost: two loads once a burst, and per packet a comparison for each address. Memory: 64 bytes a guard, 16 for each address beyond three, and its name.

use crate::{
    arena::{Arena, Table},
    error::Error,
    layout::{high, low, pack},
    row::InterfaceId,
    rows,
    spec::MAX_NAME,
    words::{Ref, Words},
};
use millrace_wire::{Addr, Mac};

/// Most addresses of a guard.
pub const MAX_ADDRESSES: usize = 64;
/// Words of a row.
pub(crate) const WORDS: usize = 8;
/// Addresses that a row has room for.
const INLINE: usize = (WORDS - 2) / 2;
const USED: u64 = 1 << 63;

/// Who may send from an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardSpec {
    /// Whose it is, as `explain` says it: `Pod default/web-0`.
    pub name: String,
    /// The MAC that frames have to come from.
    pub mac: Mac,
    /// The addresses that packets have to come from.
    pub addresses: Vec<Addr>,
}

impl GuardSpec {
    pub(crate) fn check(&self, interface: InterfaceId) -> Result<(), Error> {
        let refuse = |why: String| {
            let row = format!("guard of interface {} ({})", interface.0, self.name);
            Err(Error::Row { row, why })
        };
        if self.name.is_empty() || self.name.len() > MAX_NAME {
            return refuse(format!("its name has to have 1 to {MAX_NAME} bytes"));
        }
        if !self.mac.is_unicast() {
            return refuse(format!("{} is no station's MAC", self.mac));
        }
        if self.addresses.len() > MAX_ADDRESSES {
            return refuse(format!("{} addresses; at most {MAX_ADDRESSES}", self.addresses.len()));
        }
        Ok(())
    }
}

/// Words of the block for so many addresses, if there is one.
fn block_words(count: usize) -> usize {
    if count > INLINE { count * 2 } else { 0 }
}

/// Bytes that [`write`] allocates at most, names aside.
pub(crate) fn worst(spec: &GuardSpec) -> u64 {
    Arena::bytes_of(block_words(spec.addresses.len()))
}

/// Writes what the row leads to, and answers the row.
pub(crate) fn write(
    arena: &mut Arena,
    spec: &GuardSpec,
    names: Ref,
) -> Result<[u64; WORDS], Error> {
    let count = spec.addresses.len();
    let words = spec.addresses.iter().flat_map(|addr| addr.to_words());
    let mut row = [0; WORDS];
    row[0] = spec.mac.to_u64() | (count as u64) << 48 | USED;
    let mut block = Ref::NULL;
    if block_words(count) > 0 {
        block = arena.alloc(Table::Interfaces, block_words(count))?;
        words.enumerate().for_each(|(offset, word)| arena.store(block, offset, word));
    } else {
        row[2..].iter_mut().zip(words).for_each(|(place, word)| *place = word);
    }
    row[1] = pack(names, block.raw());
    Ok(row)
}

/// Frees what a row leads to, but for its names.
pub(crate) fn free(arena: &mut Arena, row: &[u64; WORDS]) {
    let words = block_words((row[0] >> 48) as usize & 0x7f);
    arena.free(Table::Interfaces, Ref::from_raw(high(row[1])), words);
}

/// A guard, for reading.
#[derive(Clone, Copy, Debug)]
pub struct Guard<'a> {
    words: Words<'a>,
    /// The MAC that frames have to come from.
    pub mac: Mac,
    addresses: Ref,
    count: usize,
    pub(crate) names: Ref,
}

impl<'a> Guard<'a> {
    /// That of an interface.
    #[inline]
    pub(crate) fn find(words: Words<'a>, root: u64, interface: InterfaceId) -> Option<Self> {
        let row = rows::find::<WORDS>(words, root, interface.0.into())?;
        let [head, places] = [words.at(row, 0), words.at(row, 1)];
        if head & USED == 0 {
            return None;
        }
        let count = ((head >> 48) as usize & 0x7f).min(MAX_ADDRESSES);
        // Two words, of the row: a grain.
        let inline = Ref::from_raw(row.raw().wrapping_add(1));
        let addresses = if count > INLINE { Ref::from_raw(high(places)) } else { inline };
        let mac = Mac::from_u64(head & 0xffff_ffff_ffff);
        Some(Self { words, mac, addresses, count, names: low(places) })
    }

    /// The addresses that packets have to come from.
    #[inline]
    pub fn addresses(&self) -> impl Iterator<Item = Addr> + use<'a> {
        let Self { words, addresses, count, .. } = *self;
        (0..count).map(move |index| {
            Addr::from_words([words.at(addresses, index * 2), words.at(addresses, index * 2 + 1)])
        })
    }

    /// Whether packets may come from `addr`.
    #[inline]
    pub fn has(&self, addr: &Addr) -> bool {
        self.addresses().any(|own| own == *addr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::writer::{Readers, SegmentConfig, Writer};

    fn spec(count: usize) -> GuardSpec {
        let addr = |n: usize| match n % 2 {
            0 => Addr::from_v4([10, 0, 1, n as u8]),
            _ => Addr::from_bits(0xfd00 << 112 | n as u128),
        };
        GuardSpec {
            name: format!("Pod default/web-{count}"),
            mac: Mac([2, 0, 0, 0, 0, count as u8]),
            addresses: (0..count).map(addr).collect(),
        }
    }

    #[test]
    fn a_guard_knows_its_mac_and_addresses_and_leaves_nothing_behind() {
        let config = SegmentConfig { bytes: 4 << 20, ..SegmentConfig::default() };
        let mut writer = Writer::create(&config).unwrap();
        writer.set_readers(Readers::Nobody);
        let empty = writer.usage();
        for _ in 0..2 {
            for count in [0, 1, 2, 3, 4, 64] {
                let id = InterfaceId(count as u16 * 3);
                let spec = spec(count);
                writer.set_guard(id, &spec).unwrap();
                writer.publish().unwrap();
                let tables = writer.tables();
                let snapshot = tables.snapshot();
                let guard = snapshot.guard(id).unwrap();
                assert_eq!(guard.mac, spec.mac);
                assert_eq!(guard.addresses().collect::<Vec<_>>(), spec.addresses);
                assert_eq!(snapshot.guard_name(&guard), spec.name);
                assert!(spec.addresses.iter().all(|addr| guard.has(addr)));
                assert!(!guard.has(&Addr::from_v4([10, 0, 2, 1])));
                assert!(snapshot.guard(InterfaceId(1)).is_none());
            }
        }
        for count in [0u16, 1, 2, 3, 4, 64] {
            assert!(writer.remove_guard(InterfaceId(count * 3)).unwrap());
            assert!(!writer.remove_guard(InterfaceId(count * 3)).unwrap());
        }
        writer.publish().unwrap();
        writer.reclaim();
        assert_eq!(writer.usage(), empty);
        assert!(writer.set_guard(InterfaceId(0), &spec(65)).is_err());
        let group = GuardSpec { mac: Mac([1, 0, 0, 0, 0, 0]), ..spec(1) };
        assert!(writer.set_guard(InterfaceId(0), &group).is_err());
    }
}
