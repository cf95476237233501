use super::{Numbering, RECORDS};
use crate::spec::BackendSpec;
use millrace_wire::Addr;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

fn backend(place: u16, name: u8) -> BackendSpec {
    BackendSpec {
        addr: Addr::from_v4((0x0a00_0000 + u32::from(place)).to_be_bytes()),
        port: 80,
        name: name.to_string(),
        weight: 1,
        local: false,
        terminating: false,
        in_cluster: true,
        in_local: false,
    }
}

fn specs(places: &BTreeMap<u16, u8>) -> Vec<BackendSpec> {
    places.iter().map(|(&place, &name)| backend(place, name)).collect()
}

proptest! {
    /// A history of sets: whoever stays keeps its number, and pieces that no change touches aren't said to be changed.
    #[test]
    fn numbers_stay_and_are_reused(
        sets in prop::collection::vec(prop::collection::btree_map(0u16..400, 0u8..2, 0..400), 1..8),
    ) {
        let mut old = specs(&sets[0]);
        let mut numbering = Numbering::first(old.len());
        for set in &sets[1..] {
            let new = specs(set);
            let (was, is): (Vec<_>, Vec<_>) = (old.iter().collect(), new.iter().collect());
            let after = Numbering::after(&was, &numbering.numbers, numbering.total, &is);
            let unique: BTreeSet<u16> = after.numbers.iter().copied().collect();
            prop_assert_eq!(unique.len(), new.len());
            prop_assert_eq!(after.total, unique.last().map_or(0, |last| last + 1));
            if after.changed.is_some() {
                let by_number = |specs: &[BackendSpec], numbers: &[u16]| -> BTreeMap<u16, BackendSpec> {
                    numbers.iter().copied().zip(specs.iter().cloned()).collect()
                };
                let (before, now) = (by_number(&old, &numbering.numbers), by_number(&new, &after.numbers));
                for (number, spec) in &before {
                    let kept = new.iter().any(|new| new.addr == spec.addr);
                    prop_assert!(!kept || now[number].addr == spec.addr, "{number} moved");
                }
                for piece in 0..usize::from(after.total).div_ceil(RECORDS) {
                    let of = |specs: &BTreeMap<u16, BackendSpec>| -> Vec<(u16, BackendSpec)> {
                        let (first, end) = (piece * RECORDS, (piece + 1) * RECORDS);
                        specs.range(first as u16..end as u16).map(|(n, s)| (*n, s.clone())).collect()
                    };
                    prop_assert_eq!(after.is_changed(piece), of(&before) != of(&now), "piece {}", piece);
                }
            } else {
                prop_assert!(new.len() < usize::from(numbering.total) / 2);
            }
            (old, numbering) = (new, after);
        }
    }
}
