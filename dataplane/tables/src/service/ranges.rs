//! Source ranges of a service in the segment: intervals of addresses, sorted and apart.
//!
//! ```text
//! for each interval 4 words: first address, last address
//! ```
//! Cost: a search by halves for a flow that begins at a frontend which asks for it: four lines of 100 ranges.

use crate::{
    arena::{Arena, Table},
    error::Error,
    words::{Ref, Words},
};
use ipnet::IpNet;
use millrace_wire::Addr;
use std::net::IpAddr;

/// Words of an interval.
const WORDS: usize = 4;

/// Where a service's ranges are, and how many intervals they make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Ranges {
    pub(crate) at: Ref,
    pub(crate) count: u32,
}

/// First and last address of a range.
fn ends(net: &IpNet) -> (Addr, Addr) {
    let (first, last) = match net {
        IpNet::V4(net) => (IpAddr::V4(net.network()), IpAddr::V4(net.broadcast())),
        IpNet::V6(net) => (IpAddr::V6(net.network()), IpAddr::V6(net.broadcast())),
    };
    (first.into(), last.into())
}

/// The intervals that the ranges cover.
fn intervals(ranges: &[IpNet]) -> Vec<(Addr, Addr)> {
    let mut all: Vec<(Addr, Addr)> = ranges.iter().map(ends).collect();
    all.sort_unstable();
    let mut apart: Vec<(Addr, Addr)> = Vec::with_capacity(all.len());
    for (first, last) in all {
        match apart.last_mut() {
            Some((_, before)) if first <= *before => *before = last.max(*before),
            _ => apart.push((first, last)),
        }
    }
    apart
}

/// Bytes that [`write`] may allocate.
pub fn bytes_of(ranges: &[IpNet]) -> u64 {
    if ranges.is_empty() { 0 } else { Arena::bytes_of(ranges.len() * WORDS) }
}

/// Writes them.
pub fn write(arena: &mut Arena, ranges: &[IpNet]) -> Result<Ranges, Error> {
    let intervals = intervals(ranges);
    if intervals.is_empty() {
        return Ok(Ranges::default());
    }
    let at = arena.alloc(Table::Services, intervals.len() * WORDS)?;
    for (index, (first, last)) in intervals.iter().enumerate() {
        let words = [first.to_words(), last.to_words()];
        for (offset, word) in words.into_iter().flatten().enumerate() {
            arena.store(at, index * WORDS + offset, word);
        }
    }
    Ok(Ranges { at, count: u32::try_from(intervals.len()).unwrap_or(u32::MAX) })
}

/// Drops them.
pub fn free(arena: &mut Arena, ranges: Ranges) {
    arena.free(Table::Services, ranges.at, ranges.count as usize * WORDS);
}

/// Whether one has `addr`.
pub fn contain(words: Words<'_>, ranges: Ranges, addr: &Addr) -> bool {
    let end = |index: u32, offset: usize| {
        let at = (index as usize).wrapping_mul(WORDS) + offset;
        Addr::from_words([words.at(ranges.at, at), words.at(ranges.at, at + 1)])
    };
    // The first interval that begins behind `addr`.
    let (mut low, mut high) = (0, ranges.count);
    while low < high {
        let middle = low + (high - low) / 2;
        if end(middle, 0) <= *addr { low = middle + 1 } else { high = middle }
    }
    low > 0 && end(low - 1, 2) >= *addr
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::writer::{Readers, SegmentConfig, Writer};
    use crate::{ServiceSpec, Table};
    use proptest::prelude::*;

    fn addr(text: &str) -> Addr {
        text.parse::<IpAddr>().unwrap().into()
    }

    fn writer() -> Writer {
        let config = SegmentConfig { bytes: 4 << 20, ..SegmentConfig::default() };
        let mut writer = Writer::create(&config).unwrap();
        writer.set_readers(Readers::Nobody);
        writer
    }

    fn admits(writer: &Writer, addr: &Addr) -> bool {
        let tables = writer.tables();
        let service = tables.snapshot().services().next().unwrap();
        tables.snapshot().is_in_ranges(&service, addr)
    }

    #[test]
    fn ranges_come_and_go_with_their_service() {
        let mut writer = writer();
        let before = writer.usage().of(Table::Services);
        let with = |ranges: &[&str]| ServiceSpec {
            source_ranges: ranges.iter().map(|text| text.parse().unwrap()).collect(),
            ..ServiceSpec::default()
        };
        let half = ["10.0.0.0/8", "192.168.0.0/24", "192.168.0.128/25", "fd00::/64"];
        writer.set_service("a", &with(&half)).unwrap();
        writer.publish().unwrap();
        for (text, is) in [
            ("10.255.255.255", true),
            ("11.0.0.0", false),
            ("192.168.0.255", true),
            ("192.168.1.0", false),
            ("9.255.255.255", false),
            ("fd00::ffff", true),
            ("fd00:0:0:1::", false),
        ] {
            assert_eq!(admits(&writer, &addr(text)), is, "{text}");
        }
        writer.set_service("a", &with(&[])).unwrap();
        writer.publish().unwrap();
        assert!(!admits(&writer, &addr("10.0.0.1")));
        for _ in 0..50 {
            writer.set_service("a", &with(&half)).unwrap();
            writer.publish().unwrap();
            writer.remove_service("a").unwrap();
            writer.publish().unwrap();
        }
        writer.reclaim();
        assert_eq!(writer.usage().of(Table::Services), before);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn an_address_is_in_the_ranges_if_it_is_in_one(
            ranges in prop::collection::vec((any::<u32>(), 4u8..=32), 0..40),
            asked in prop::collection::vec(any::<u32>(), 0..40),
        ) {
            let ranges: Vec<ipnet::IpNet> = ranges
                .into_iter()
                // Crowded, so that some meet.
                .map(|(bits, len)| ipnet::Ipv4Net::new((bits & 0x0fff_ffff).into(), len).unwrap().trunc().into())
                .collect();
            let mut writer = writer();
            let spec = ServiceSpec { source_ranges: ranges.clone(), ..ServiceSpec::default() };
            writer.set_service("a", &spec).unwrap();
            writer.publish().unwrap();
            let edges = ranges.iter().flat_map(|net| [net.network(), net.broadcast()]);
            let asked = asked.into_iter().map(|bits| IpAddr::from((bits & 0x0fff_ffff).to_be_bytes()));
            for ip in edges.chain(asked) {
                let wanted = ranges.iter().any(|net| net.contains(&ip));
                prop_assert_eq!(admits(&writer, &ip.into()), wanted, "{}", ip);
            }
        }
    }
}
