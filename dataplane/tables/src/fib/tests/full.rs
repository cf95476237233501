//! Tables of the Internet's size, beside prefix-trie, and what a lookup touches of them.

use super::arena;
use crate::{
    fib::{Begun, Fib, Key, Near, arrive, begin, lookup, lookup_many, near, nearer},
    synthetic,
    words::touched,
};
use ipnet::Ipv6Net;
use prefix_trie::PrefixMap;

/// Compares `lookups`, single and in bulk, in `count` BGP-like prefixes with prefix-trie, before and after a tenth of the routes change; at
/// `most` bytes a route.
fn against_prefix_trie<K: Key>(count: usize, lookups: usize, most: f64, to_key: fn(u128) -> K) {
    let family = K::FAMILY;
    let table = synthetic::routes(family, count, 42);
    let mut arena = arena(1 << 30);
    let mut fib = Fib::new(family);
    // Its keys are left-aligned like ours, so one type serves both families.
    let key = |bits: u128, len| Ipv6Net::new_assert(bits.into(), len);
    let mut oracle = PrefixMap::<Ipv6Net, u32>::new();
    for route in &table {
        assert_eq!(
            fib.insert(&mut arena, &route.net(family), route.leaf).unwrap(),
            oracle.insert(key(route.bits, route.len), route.leaf)
        );
    }
    let ends = u128::MAX << (128 - u32::from(family.bits()));
    for round in 0..2 {
        let root = fib.root();
        arena.commit(round);
        arena.reclaim(round);
        let random = &mut synthetic::Random(round);
        let mut addresses = synthetic::destinations(&table, lookups / 2, round);
        // A quarter of the addresses anywhere: mostly unrouted, or caught by short prefixes.
        for bits in addresses.iter_mut().step_by(4) {
            *bits ^= u128::from(random.next_u64()) << random.below(100);
        }
        let mut leaves = [0; 100];
        for addresses in addresses.chunks(leaves.len()) {
            let keys: Vec<K> = addresses.iter().map(|bits| to_key(bits & ends)).collect();
            lookup_many(arena.words(), root, &keys, &mut leaves);
            for ((bits, key_of), many) in addresses.iter().zip(keys).zip(leaves) {
                let best = oracle.get_lpm(&key(bits & ends, family.bits()));
                let want = best.map_or(0, |(_, &leaf)| leaf);
                let one = lookup(arena.words(), root, key_of);
                assert_eq!((one, many), (want, want), "{bits:#x} in round {round}");
            }
        }
        for route in table.iter().skip(round as usize).step_by(10) {
            let (net, key) = (route.net(family), key(route.bits, route.len));
            if route.leaf % 2 == 0 {
                assert_eq!(fib.remove(&mut arena, &net).unwrap(), oracle.remove(&key));
            } else {
                let leaf = route.leaf + 100;
                assert_eq!(fib.insert(&mut arena, &net, leaf).unwrap(), oracle.insert(key, leaf));
            }
        }
    }
    let usage = arena.usage().of(fib.table());
    let per_route = usage as f64 / table.len() as f64;
    assert!(per_route <= most, "{per_route:.1} bytes a route");
}

/// Bytes that a route may take at full size, all blocks with their rounding.
const MOST4: f64 = 8.0;
const MOST6: f64 = 24.0;

/// What `count` routes cost.
#[derive(Debug)]
struct Cost {
    /// Of all lookups, the share that touches no line that the steps from [`begin`] on don't fetch, but for the levels near.
    fetched: f64,
    /// Lines that a lookup touches, all levels counted.
    lines: f64,
    /// Bytes of a route.
    bytes: f64,
}

fn cost<K: Key>(count: usize, to_key: fn(u128) -> K) -> Cost {
    let family = K::FAMILY;
    let table = synthetic::routes(family, count, 7);
    let mut arena = arena(1 << 30);
    let mut fib = Fib::new(family);
    for route in &table {
        fib.insert(&mut arena, &route.net(family), route.leaf).unwrap();
    }
    let (words, root) = (arena.words(), fib.root());
    let keys: Vec<K> = synthetic::destinations(&table, 10_000, 3).into_iter().map(to_key).collect();
    let (mut whole, mut lines) = (0, 0);
    for &key in &keys {
        let mut known = Vec::new();
        let (mut begun, mut come) = (Begun::default(), Near::default());
        for step in 0..3 {
            // What a step reads, the steps before fetched, or the direct levels above have it; and a big node's entry is not on
            // the line of its bitmap, which alone was fetched.
            let (fetched, read) = touched::by(|| {
                touched::ahead(|| match step {
                    0 => begun = begin(words, root, key),
                    1 => come = near(words, key, begun),
                    _ => nearer(words, key, come),
                })
            });
            let unfetched = read.iter().filter(|line| !known.contains(*line)).count();
            let above = family.wide_levels() - 1 + usize::from(step == 2);
            assert!(unfetched <= above, "step {step} reads {unfetched} lines unfetched");
            assert!(fetched.len() <= 1, "step {step} fetches {fetched:?}");
            known.extend(fetched);
        }
        let (leaf, touched) = touched::by(|| lookup(words, root, key));
        assert!(leaf > 0 && leaf == arrive(words, root, key, come));
        let unfetched = touched.iter().filter(|line| !known.contains(*line)).count();
        whole += usize::from(unfetched < family.wide_levels());
        lines += touched.len();
    }
    let of = |count: usize| count as f64 / keys.len() as f64;
    let bytes = arena.usage().of(fib.table()) as f64 / table.len() as f64;
    Cost { fetched: of(whole), lines: of(lines), bytes }
}

#[test]
fn full_tables_cost_what_the_cost_model_says() {
    let cost4 = cost(1_000_000, |bits| (bits >> 96) as u32);
    assert!(cost4.fetched > 0.99 && cost4.lines < 3.05 && cost4.bytes <= MOST4, "{cost4:?}");
    let cost6 = cost(200_000, |bits| bits);
    assert!(cost6.fetched > 0.35 && cost6.lines < 5.5 && cost6.bytes <= MOST6, "{cost6:?}");
    println!("IPv4 {cost4:?}\nIPv6 {cost6:?}");
}

#[test]
fn a_million_lookups_agree_with_prefix_trie() {
    against_prefix_trie(100_000, 500_000, 20.0, |bits| (bits >> 96) as u32);
    against_prefix_trie(100_000, 500_000, 30.0, |bits| bits);
}

#[test]
#[ignore = "10 s: cargo test -p millrace-tables -- --ignored prefix_trie"]
fn ten_million_lookups_on_full_tables_agree_with_prefix_trie() {
    against_prefix_trie(1_000_000, 10_000_000, MOST4, |bits| (bits >> 96) as u32);
    against_prefix_trie(200_000, 10_000_000, MOST6, |bits| bits);
}
