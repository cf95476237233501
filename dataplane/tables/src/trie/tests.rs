use super::{Trie, find, hash, iter};
use crate::{
    arena::{Arena, Table},
    shm::{Seals, Segment},
    words::{Ref, Words},
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
    let bytes = arena.usage().of(Table::Frontends);
    assert!(bytes < 20_000 * 72, "{} bytes an entry of 32", bytes / 20_000);
    for k in 0..100 {
        let before = arena.written();
        trie.insert(&mut arena, [k, 0, 80], [1]).unwrap();
        let written = arena.written() - before;
        assert!(written < 1536, "{written}");
        arena.commit(k + 2);
        arena.reclaim(k + 2);
    }
}

#[test]
fn many_keys_with_one_hash_are_refused_not_lost() {
    let mut arena = arena(4 << 20);
    let trie = Trie::<1, 1>::new(Table::Frontends, 9);
    let entries: Vec<_> = (0..8).map(|_| super::Entry { key: [4], value: [0] }).collect();
    assert!(matches!(trie.build(&mut arena, &entries, 0), Err(crate::Error::HashCollision)));
    assert!(trie.build(&mut arena, &entries[..7], 0).is_ok());
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
