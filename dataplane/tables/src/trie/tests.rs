use super::{Entry, Trie, find, hash, iter};
use crate::{
    arena::{Arena, Table},
    shm::{Seals, Segment},
    words::{Ref, Words, touched},
};
use proptest::prelude::*;
use std::{collections::HashMap, sync::Arc};

fn arena(bytes: usize) -> Arena {
    Arena::new(Arc::new(Segment::create("test", bytes, Seals::OneWriter).unwrap()), 4096)
}

fn check(arena: &Arena, trie: &Trie<2, 1>, seed: u64, model: &HashMap<[u64; 2], u64>, keys: u64) {
    let words = arena.words();
    for k in 0..keys {
        let key = [k, k ^ 5];
        let found: Option<[u64; 1]> = find(words, trie.root(), hash(seed, &key), &key);
        assert_eq!(found.map(|[v]| v), model.get(&key).copied());
    }
    let listed: Vec<_> = iter::<2, 1>(words, trie.root()).collect();
    assert_eq!(listed.len(), model.len());
    assert!(listed.iter().all(|entry| model.get(&entry.key) == Some(&entry.value[0])));
    assert_eq!(trie.len(), model.len());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn agrees_with_a_map_and_frees_all_it_took(
        seed in any::<u64>(),
        steps in prop::collection::vec((0u64..300, any::<u64>(), 0u8..8), 1..600),
    ) {
        let mut arena = arena(4 << 20);
        let mut trie = Trie::<2, 1>::new(Table::Neighbors, seed);
        let mut model = HashMap::new();
        let mut generation = 1;
        for (k, value, what) in steps {
            let key = [k, k ^ 5];
            match what {
                0..=4 => prop_assert_eq!(trie.insert(&mut arena, key, [value]).unwrap().map(|[v]| v), model.insert(key, value)),
                5 | 6 => prop_assert_eq!(trie.remove(&mut arena, &key).unwrap().map(|[v]| v), model.remove(&key)),
                _ => {
                    let before = (trie.root(), model.clone());
                    generation += 1;
                    arena.commit(generation);
                    for (k, v) in &before.1 {
                        let found: Option<[u64; 1]> = find(arena.words(), before.0, hash(seed, k), k);
                        prop_assert_eq!(found, Some([*v]));
                    }
                    arena.reclaim(generation);
                }
            }
        }
        check(&arena, &trie, seed, &model, 300);
        for key in model.keys() {
            trie.remove(&mut arena, key).unwrap();
        }
        arena.commit(generation + 1);
        arena.reclaim(generation + 1);
        prop_assert_eq!((arena.usage().live(), arena.usage().retired, trie.root()), (0, 0, 0));
    }
}

#[test]
fn an_old_root_shows_what_it_showed_until_it_is_reclaimed() {
    let mut arena = arena(4 << 20);
    let mut trie = Trie::<2, 1>::new(Table::Neighbors, 3);
    for k in 0..200 {
        trie.insert(&mut arena, [k, k], [k]).unwrap();
    }
    arena.commit(1);
    let old = trie.root();
    for k in 0..200 {
        trie.insert(&mut arena, [k, k], [k + 1000]).unwrap();
        trie.insert(&mut arena, [k + 500, k], [k]).unwrap();
    }
    arena.commit(2);
    let before: HashMap<[u64; 2], [u64; 1]> =
        iter::<2, 1>(arena.words(), old).map(|e| (e.key, e.value)).collect();
    assert_eq!(before.len(), 200);
    assert!((0..200).all(|k| before[&[k, k]] == [k]));
}

#[test]
fn a_change_copies_one_path() {
    let mut arena = arena(16 << 20);
    let mut trie = Trie::<3, 1>::new(Table::Frontends, 9);
    for k in 0..20_000 {
        trie.insert(&mut arena, [k, 0, 80], [k]).unwrap();
    }
    arena.commit(1);
    let mut total = 0;
    for k in 0..1000 {
        let before = arena.written();
        trie.insert(&mut arena, [k, 0, 80], [1]).unwrap();
        let written = arena.written() - before;
        assert!(written <= 2 * (256 + 8) + 1024, "{written}");
        total += written;
        arena.commit(k + 2);
        arena.reclaim(k + 2);
    }
    println!("{} bytes a change", total / 1000);
    assert!(total / 1000 < 2 * 256 + 512, "{}", total / 1000);
}

#[test]
fn an_entry_takes_no_more_than_is_said_at_any_size() {
    let mut arena = arena(256 << 20);
    let mut trie = Trie::<3, 1>::new(Table::Frontends, 9);
    let (mut count, mut worst) = (0, (0.0f64, 0));
    while count < 150_000 {
        trie.insert(&mut arena, [count, 0, 80], [count]).unwrap();
        count += 1;
        if count > 1000 && (count.is_power_of_two() || count % 5_000 == 0) {
            let each = arena.usage().of(Table::Frontends) as f64 / count as f64;
            worst = if each > worst.0 { (each, count) } else { worst };
        }
    }
    println!("{worst:?}");
    assert!(worst.0 <= 68.0, "{worst:?}");
}

#[test]
fn a_lookup_touches_one_line_of_entries_and_a_slot_a_level() {
    let mut arena = arena(64 << 20);
    let mut trie = Trie::<3, 1>::new(Table::Frontends, 9);
    for (count, levels) in [(10, 1), (2_000, 2), (20_000, 2), (100_000, 3)] {
        for k in trie.len() as u64..count {
            trie.insert(&mut arena, [k, 0, 80], [k]).unwrap();
        }
        let (mut lookups, mut deeper) = (0, 0);
        for k in (0..count).step_by(1 + count as usize / 20_000) {
            // One that is there, and one that isn't.
            for (key, value) in [([k, 0, 80], Some([k])), ([k, 0, 81], None)] {
                let look = || find::<3, 1>(arena.words(), trie.root(), hash(9, &key), &key);
                let (found, lines) = touched::by(look);
                assert_eq!(found, value);
                assert!(lines.len() <= levels + 2, "{count} entries: {lines:?}");
                lookups += 1;
                deeper += usize::from(lines.len() > levels + 1);
            }
        }
        println!("{count} entries: {deeper} of {lookups} lookups took a slot more than {levels}");
        assert!(deeper * 1000 < lookups, "{deeper} of {lookups}");
    }
}

#[test]
fn many_keys_with_one_hash_are_refused_not_lost() {
    let mut arena = arena(4 << 20);
    let trie = Trie::<1, 1>::new(Table::Frontends, 9);
    let entries: Vec<_> = (0..3).map(|_| (77, Entry { key: [4], value: [0] })).collect();
    assert!(matches!(trie.build(&mut arena, &entries, 0), Err(crate::Error::HashCollision)));
    assert!(trie.build(&mut arena, &entries[..2], 0).is_ok());
}

#[test]
fn keys_that_differ_in_the_last_bits_of_the_hash_alone_are_told_apart() {
    let mut arena = arena(4 << 20);
    let trie = Trie::<1, 1>::new(Table::Frontends, 9);
    let entries: Vec<_> = (0..16u64).map(|k| (k << 60, Entry { key: [k], value: [k] })).collect();
    let slot = trie.build(&mut arena, &entries, 0).unwrap();
    for k in 0..16 {
        assert_eq!(find(arena.words(), u64::from(slot.0), k << 60, &[k]), Some([k]));
    }
    assert_eq!(iter::<1, 1>(arena.words(), u64::from(slot.0)).count(), 16);
}

#[test]
fn iteration_over_a_node_that_is_its_own_child_ends() {
    let segment = Segment::create("test", 1 << 16, Seals::OneWriter).unwrap();
    let words = Words(segment.words());
    let at = 64u32;
    for offset in 0..32 {
        segment.words()[Ref::from_raw(at).word() + offset]
            .store(u64::from(at) | u64::from(at) << 32, std::sync::atomic::Ordering::Relaxed);
    }
    assert_eq!(iter::<3, 1>(words, u64::from(at)).count(), 0);
    assert_eq!(find::<3, 1>(words, u64::from(at), 123, &[1, 2, 3]), None);
}
