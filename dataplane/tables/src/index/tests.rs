use super::{Index, find, iter};
use crate::{
    arena::{Arena, Table},
    layout::pack,
    shm::{Seals, Segment},
    words::{Ref, Words},
};
use proptest::prelude::*;
use std::{collections::BTreeMap, sync::Arc};

fn arena() -> Arena {
    Arena::new(Arc::new(Segment::create("test", 4 << 20, Seals::OneWriter).unwrap()), 4096)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn agrees_with_a_map_and_frees_all_it_took(
        steps in prop::collection::vec((prop_oneof![0u32..100, 0u32..10_000, any::<u32>()], 0u32..5, any::<bool>()), 1..200),
    ) {
        let mut arena = arena();
        let mut index = Index::new(Table::Services);
        let mut model = BTreeMap::new();
        for (generation, (number, place, commit)) in steps.into_iter().enumerate() {
            let old = index.set(&mut arena, number, Ref::from_raw(place)).unwrap();
            let expected = if place == 0 { model.remove(&number) } else { model.insert(number, place) };
            prop_assert_eq!(old.raw(), expected.unwrap_or(0));
            if commit {
                arena.commit(generation as u64);
                arena.reclaim(generation as u64);
            }
        }
        let words = arena.words();
        let listed: Vec<(u32, u32)> = iter(words, index.root()).map(|(number, place)| (number, place.raw())).collect();
        prop_assert_eq!(&listed, &model.iter().map(|(n, p)| (*n, *p)).collect::<Vec<_>>());
        prop_assert_eq!(index.len(), model.len());
        for number in model.keys().flat_map(|n| [*n, n.wrapping_add(1), n ^ 64]) {
            prop_assert_eq!(find(words, index.root(), number).raw(), model.get(&number).copied().unwrap_or(0));
        }
        for number in model.keys() {
            index.set(&mut arena, *number, Ref::NULL).unwrap();
        }
        arena.commit(1000);
        arena.reclaim(1000);
        prop_assert_eq!((arena.usage().live(), arena.usage().retired), (0, 0));
        prop_assert!(index.is_empty());
    }
}

#[test]
fn iteration_over_a_node_that_is_its_own_child_ends() {
    let segment = Segment::create("test", 1 << 16, Seals::OneWriter).unwrap();
    let at = Ref::from_raw(64);
    for offset in 0..32 {
        segment.words()[at.word() + offset]
            .store(64 | 64 << 32, std::sync::atomic::Ordering::Relaxed);
    }
    assert!(iter(Words(segment.words()), pack(at, u32::MAX)).count() <= 4 * segment.words().len());
    assert_eq!(find(Words(segment.words()), pack(at, 9), 5), at);
}

#[test]
fn a_full_segment_refuses_a_change_and_the_tree_holds_what_it_held() {
    let segment = Segment::create("test", 4096 + (64 << 10), Seals::OneWriter).unwrap();
    let mut arena = Arena::new(Arc::new(segment), 4096);
    let mut index = Index::new(Table::Services);
    let margin = arena.alloc(Table::Root, 2048).unwrap();
    let (mut model, mut refused) = (BTreeMap::new(), 0);
    for turn in 1..400u32 {
        // Numbers that share some nodes and not others.
        let number = turn.wrapping_mul(0x9e37_79b9) >> (turn % 16);
        match index.set(&mut arena, number, Ref::from_raw(turn)) {
            Ok(_) => _ = model.insert(number, turn),
            Err(_) => refused += 1,
        }
        let listed: BTreeMap<u32, u32> =
            iter(arena.words(), index.root()).map(|(number, at)| (number, at.raw())).collect();
        assert_eq!((&listed, index.len()), (&model, model.len()), "after turn {turn}");
        if turn % 3 == 0 {
            arena.commit(turn.into());
            // Two generations late: what a reader may see is not used again.
            arena.reclaim(u64::from(turn).saturating_sub(2));
        }
    }
    assert!(refused > 100 && model.len() > 20, "{refused} refused, {} set", model.len());
    arena.free(Table::Root, margin, 2048);
    for (generation, number) in (1000..).zip(model.keys()) {
        arena.commit(generation);
        arena.reclaim(generation);
        index.set(&mut arena, *number, Ref::NULL).unwrap();
    }
    arena.commit(9000);
    arena.reclaim(9000);
    assert_eq!((arena.usage().live(), arena.usage().retired), (0, 0));
}
