use super::{Family, Fib, Prefix, best, lookup, lookup_many, lookup4, lookup6, routes};
use crate::{
    arena::{Arena, Table},
    shm::{Seals, Segment},
    sync::Ordering,
    synthetic,
    words::Words,
};
use ipnet::IpNet;
use proptest::prelude::*;
use std::{collections::BTreeMap, sync::Arc};

fn arena(bytes: usize) -> Arena {
    Arena::new(Arc::new(Segment::create("fib-test", bytes, Seals::OneWriter).unwrap()), 4096)
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

/// Looks `bits` (left-aligned) up in every way there is, and expects one answer.
fn find(words: Words<'_>, root: u32, family: Family, bits: u128) -> u32 {
    let mut many = [u32::MAX; 3];
    let one = match family {
        Family::V4 => {
            let key = (bits >> 96) as u32;
            lookup_many(words, root, &[key; 3], &mut many);
            assert_eq!(lookup4(words, root, key), lookup(words, root, key));
            lookup(words, root, key)
        }
        Family::V6 => {
            lookup_many(words, root, &[bits; 3], &mut many);
            assert_eq!(
                lookup6(words, root, [(bits >> 64) as u64, bits as u64]),
                lookup(words, root, bits)
            );
            lookup(words, root, bits)
        }
    };
    assert_eq!(many, [one; 3]);
    one
}

fn best_of(words: Words<'_>, root: u32, family: Family, bits: u128) -> Option<(IpNet, u32)> {
    match family {
        Family::V4 => best(words, root, (bits >> 96) as u32),
        Family::V6 => best(words, root, bits),
    }
}

/// The dumb model: all routes, searched one by one.
type Model = BTreeMap<IpNet, u32>;

fn scan(model: &Model, bits: u128) -> Option<(IpNet, u32)> {
    let covers = |net: &IpNet| {
        let prefix = Prefix::of(net);
        (prefix.bits ^ bits).checked_shr(128 - u32::from(prefix.len)).unwrap_or(0) == 0
    };
    model
        .iter()
        .filter(|(net, _)| covers(net))
        .max_by_key(|(net, _)| net.prefix_len())
        .map(|(&net, &leaf)| (net, leaf))
}

/// Addresses where the answer could change: both ends of each prefix and their outer neighbors.
fn edges(model: &Model, family: Family) -> Vec<u128> {
    let step = 1 << (128 - u32::from(family.bits()));
    let mut edges = vec![0, !(step - 1)];
    for net in model.keys() {
        let Prefix { bits, len } = Prefix::of(net);
        let last = bits | u128::MAX.checked_shr(len.into()).unwrap_or(0) & !(step - 1);
        edges.extend([bits, bits.wrapping_sub(step), last, last.wrapping_add(step)]);
    }
    edges
}

fn check(words: Words<'_>, root: u32, family: Family, model: &Model) {
    for bits in edges(model, family) {
        let want = scan(model, bits);
        assert_eq!(find(words, root, family, bits), want.map_or(0, |(_, leaf)| leaf), "{bits:#x}");
        assert_eq!(best_of(words, root, family, bits), want, "{bits:#x}");
    }
    let listed: Model = routes(words, root, family).collect();
    assert_eq!(routes(words, root, family).count(), model.len());
    assert_eq!(&listed, model);
}

#[test]
fn nothing_is_found_in_an_empty_fib() {
    let arena = arena(1 << 20);
    let fib = Fib::new(Family::V4);
    let root = fib.root();
    assert_eq!((root, fib.is_empty()), (0, true));
    check(arena.words(), root, Family::V4, &Model::new());
    check(arena.words(), root, Family::V6, &Model::new());
}

#[test]
fn the_longest_prefix_wins_from_default_to_host_route() {
    for (family, nets) in [
        (
            Family::V4,
            &[
                "0.0.0.0/0",
                "10.0.0.0/8",
                "10.0.0.0/9",
                "10.1.0.0/18",
                "10.1.2.0/24",
                "10.1.2.3/32",
                "10.1.2.2/32",
                "10.1.2.0/30",
                "255.255.255.255/32",
                "0.0.0.0/1",
                "0.0.0.0/32",
            ][..],
        ),
        (
            Family::V6,
            &[
                "::/0",
                "2001:db8::/32",
                "2001:db8::/18",
                "2001:db8::/48",
                "2001:db8:0:8000::/49",
                "2001:db8::1/128",
                "2001:db8::/127",
                "ffff::/16",
                "::/128",
                "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128",
                "8000::/1",
            ],
        ),
    ] {
        let mut arena = arena(1 << 20);
        let mut fib = Fib::new(family);
        let mut model = Model::new();
        for (net, leaf) in nets.iter().map(|text| net(text).trunc()).zip(1..) {
            assert_eq!(fib.insert(&mut arena, &net, leaf).unwrap(), None);
            model.insert(net, leaf);
            let root = fib.root();
            check(arena.words(), root, family, &model);
        }
        for net in nets.iter().map(|text| net(text).trunc()) {
            assert_eq!(fib.remove(&mut arena, &net).unwrap(), model.remove(&net));
            assert_eq!(fib.remove(&mut arena, &net).unwrap(), None);
            let root = fib.root();
            check(arena.words(), root, family, &model);
        }
        assert_eq!(arena.usage().of(fib.table()), 0);
    }
}

#[test]
fn a_lonely_host_route_takes_the_direct_nodes_a_path_and_its_own() {
    let mut arena = arena(1 << 20);
    let mut fib = Fib::new(Family::V6);
    fib.insert(&mut arena, &net("2001:db8::1/128"), 7).unwrap();
    let root = fib.root();
    check(arena.words(), root, Family::V6, &Model::from([(net("2001:db8::1/128"), 7)]));
    let direct = 3 * Arena::bytes_of(2 + 512 + 32);
    assert_eq!(arena.usage().of(Table::Routes6) - direct, 32 + 32);
}

#[test]
fn a_change_writes_its_own_path_and_nothing_else() {
    let mut arena = arena(64 << 20);
    let mut fib = Fib::new(Family::V4);
    for route in synthetic::routes(Family::V4, 50_000, 5) {
        fib.insert(&mut arena, &route.net(Family::V4), route.leaf).unwrap();
    }
    arena.commit(1);
    let before = arena.written();
    fib.insert(&mut arena, &net("198.51.100.0/24"), 9).unwrap();
    let written = arena.written() - before;
    assert!(written <= 4368 + 1104 + 256, "{written} bytes for one route among 50,000");
}

#[test]
fn the_default_route_is_one_store_however_many_routes_there_are() {
    let mut arena = arena(64 << 20);
    let mut fib = Fib::new(Family::V6);
    for route in synthetic::routes(Family::V6, 20_000, 5) {
        fib.insert(&mut arena, &route.net(Family::V6), route.leaf).unwrap();
    }
    arena.commit(1);
    let before = arena.written();
    fib.insert(&mut arena, &net("::/0"), 9).unwrap();
    let root = fib.root();
    assert!(arena.written() - before <= 4400);
    assert_eq!(find(arena.words(), root, Family::V6, 1), 9);
}

#[test]
fn a_full_segment_refuses_a_change_whole_and_goes_on_later() {
    for family in [Family::V4, Family::V6] {
        let mut arena = arena(4096 + (160 << 10));
        let mut fib = Fib::new(family);
        // What a writer keeps back to be able to remove.
        let margin = arena.alloc(Table::Root, 4096).unwrap();
        let short = net(if family == Family::V4 { "10.0.0.0/8" } else { "2000::/5" });
        fib.insert(&mut arena, &short, 1).unwrap();
        arena.commit(1);
        let (mut model, mut refused) = (Model::from([(short, 1)]), 0);
        for (turn, route) in (2..).zip(synthetic::routes(family, 2000, 2)) {
            let (net, before) = (route.net(family), (fib.root(), arena.usage()));
            match fib.insert(&mut arena, &net, route.leaf) {
                Ok(_) => _ = model.insert(net, route.leaf),
                Err(_) => {
                    refused += 1;
                    assert_eq!((fib.root(), arena.usage()), before);
                }
            }
            // Some in one transaction, some in one each.
            if turn % 64 < 8 {
                arena.commit(turn);
                arena.reclaim(turn - 1);
            }
            // What is short meets everything below it.
            if turn % 100 == 0 && fib.insert(&mut arena, &short, turn as u32).is_ok() {
                model.insert(short, turn as u32);
            }
        }
        assert!(refused > 100, "{refused}");
        assert_eq!(fib.len(), model.len());
        check(arena.words(), fib.root(), family, &model);
        arena.free(Table::Root, margin, 4096);
        for (turn, net) in (3000..).zip(model.keys()) {
            arena.commit(turn);
            arena.reclaim(turn);
            fib.remove(&mut arena, net).unwrap();
        }
        arena.commit(6000);
        arena.reclaim(6000);
        assert_eq!((arena.usage().of(fib.table()), arena.usage().retired), (0, 0));
    }
}

/// Prefixes that meet: few addresses, all lengths.
fn prefix(family: Family) -> impl Strategy<Value = IpNet> {
    let ends = prop::sample::select(vec![
        0u128,
        1,
        2,
        0xff,
        0x8000,
        u128::MAX,
        1 << 96,
        3 << 109,
        5 << 91,
        1 << 110,
    ]);
    let bits = (ends.clone(), ends, any::<u8>(), 0u32..120)
        .prop_map(|(a, b, byte, shift)| a ^ b.rotate_left(64) ^ u128::from(byte) << shift);
    let len = prop_oneof![
        0..=family.bits(),
        prop::sample::select(vec![0, 1, 8, 9, 10, 18, 19, 24, 25, 30, 31, 32]),
        Just(family.bits()),
    ];
    (bits, len).prop_map(move |(bits, len)| Prefix { bits, len }.to_net(family))
}

#[derive(Clone, Debug)]
enum Op {
    Insert(IpNet, u32),
    Remove(usize),
    Commit,
    Publish,
}

fn op(family: Family) -> impl Strategy<Value = Op> {
    prop_oneof![
        5 => (prefix(family), 1u32..6).prop_map(|(net, leaf)| Op::Insert(net, leaf)),
        3 => any::<usize>().prop_map(Op::Remove),
        1 => Just(Op::Commit),
        1 => Just(Op::Publish),
    ]
}

/// Runs `ops` against the model; every published root is read again at the end, as a pinned reader would.
fn run(family: Family, ops: Vec<Op>) {
    let mut arena = arena(8 << 20);
    let mut fib = Fib::new(family);
    let mut model = Model::new();
    let mut published = Vec::new();
    for op in ops {
        match op {
            Op::Insert(net, leaf) => {
                assert_eq!(fib.get(arena.words(), &net), model.get(&net).copied());
                assert_eq!(fib.insert(&mut arena, &net, leaf).unwrap(), model.insert(net, leaf));
            }
            Op::Remove(index) => {
                let Some(&net) = model.keys().nth(index % model.len().max(1)) else { continue };
                assert_eq!(fib.remove(&mut arena, &net).unwrap(), model.remove(&net));
            }
            Op::Commit => {
                let root = fib.root();
                check(arena.words(), root, family, &model);
            }
            Op::Publish => {
                let root = fib.root();
                published.push((root, model.clone()));
                arena.commit(published.len() as u64);
            }
        }
        assert_eq!(fib.len(), model.len());
    }
    let root = fib.root();
    let last = published.len() as u64 + 1;
    arena.commit(last);
    for (root, model) in &published {
        check(arena.words(), *root, family, model);
    }
    arena.reclaim(last);
    check(arena.words(), root, family, &model);
    // The shape doesn't depend on history.
    let mut fresh = self::arena(8 << 20);
    let mut again = Fib::new(family);
    for (net, leaf) in model.iter().rev() {
        again.insert(&mut fresh, net, *leaf).unwrap();
    }
    assert_eq!(fresh.usage().of(fib.table()), arena.usage().of(fib.table()));
    for net in model.keys() {
        fib.remove(&mut arena, net).unwrap();
    }
    assert_eq!(fib.root(), 0);
    arena.commit(last + 1);
    arena.reclaim(last + 1);
    assert_eq!((arena.usage().of(fib.table()), arena.usage().retired), (0, 0), "blocks leak");
}

proptest! {
    #[test]
    fn any_changes_leave_what_a_linear_scan_finds_ipv4(ops in prop::collection::vec(op(Family::V4), 1..60)) {
        run(Family::V4, ops);
    }

    #[test]
    fn any_changes_leave_what_a_linear_scan_finds_ipv6(ops in prop::collection::vec(op(Family::V6), 1..60)) {
        run(Family::V6, ops);
    }

    #[test]
    fn corrupt_words_answer_something_and_end(
        nets in prop::collection::vec((prefix(Family::V4), prefix(Family::V6)), 1..30),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u64>()), 1..60),
        addrs in prop::collection::vec(any::<u128>(), 10),
    ) {
        let mut arena = arena(256 << 10);
        let mut fibs = [Fib::new(Family::V4), Fib::new(Family::V6)];
        for (v4, v6) in &nets {
            fibs[0].insert(&mut arena, v4, 3).unwrap();
            fibs[1].insert(&mut arena, v6, 3).unwrap();
        }
        let roots = fibs.each_ref().map(Fib::root);
        let segment = arena.segment().clone();
        let live: Vec<_> = segment.words().iter().filter(|word| word.load(Ordering::Relaxed) != 0).collect();
        for (index, bits) in &flips {
            // Half of the flips keep the word's upper bits, where an entry says that it is a block.
            let bits = if bits % 2 == 0 { *bits } else { bits & 0xff_0000_00ff };
            index.get(&live).fetch_xor(bits, Ordering::Relaxed);
        }
        for root in [roots[0], roots[1], flips[0].1 as u32, u32::MAX, u32::MAX << 30] {
            for &bits in addrs.iter().chain(&nets.iter().map(|net| Prefix::of(&net.1).bits).collect::<Vec<_>>()) {
                for family in [Family::V4, Family::V6] {
                    find(arena.words(), root, family, bits);
                    best_of(arena.words(), root, family, bits);
                }
            }
            // 126 routes in a block of 4 words is the densest there is.
            for family in [Family::V4, Family::V6] {
                prop_assert!(routes(arena.words(), root, family).count() <= segment.words().len() * 32);
            }
        }
    }
}

#[test]
fn blocks_that_lead_to_themselves_end() {
    let arena = arena(64 << 10);
    let words = arena.segment().words();
    // Word 0 of every place is a bitmap of 64 runs, and a path of any length; every entry is a block.
    for entry in [0xc000_0100_u32, 0x8000_0100, 0xffff_ffff, 0x8000_0001] {
        for word in words {
            word.store(u64::from(entry) << 32 | u64::from(entry), Ordering::Relaxed);
        }
        assert_eq!(lookup(arena.words(), entry, 5u32), 0);
        assert_eq!(lookup(arena.words(), entry, 5u128), 0);
        assert!(routes(arena.words(), entry, Family::V6).count() <= words.len() * 32);
    }
}

#[test]
fn a_walk_over_corrupt_blocks_yields_no_more_than_the_root_counts() {
    let mut arena = arena(1 << 20);
    let mut fib = Fib::new(Family::V6);
    for third in 0..64u128 {
        fib.insert(
            &mut arena,
            &Prefix { bits: 0x2001 << 112 | third << 104, len: 24 }.to_net(Family::V6),
            1,
        )
        .unwrap();
    }
    let root = fib.root();
    // Every entry of the root leads to the one chunk, and each of its entries to the root's first bytes.
    let chunk = (0..1024).map(|slot| super::wide(arena.words(), root, slot)).find(|&e| e != 0);
    for word in 0..512 {
        let pair = u64::from(chunk.unwrap()) << 32 | u64::from(chunk.unwrap());
        let at = super::target(root).word() + super::wide_word(2 * word);
        arena.segment().words()[at].store(pair, Ordering::Relaxed);
    }
    assert_eq!(routes(arena.words(), root, Family::V6).count(), 64);
}

mod full;
