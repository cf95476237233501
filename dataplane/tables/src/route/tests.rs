use super::{
    Destination, Family, Group, MAX_MEMBERS, NextHop, Route, RouteRoots, RouteSpec, Routes, arrive,
    begin, best, destination, near, nearer, next_hop, next_hops, route, routes,
};
use crate::{
    arena::{Arena, Table},
    error::Error,
    maglev::mix,
    row::InterfaceId,
    shm::{Seals, Segment},
    sync::Ordering,
};
use ipnet::IpNet;
use millrace_wire::Addr;
use proptest::prelude::*;
use std::{collections::HashMap, sync::Arc};

fn arena() -> Arena {
    Arena::new(Arc::new(Segment::create("route-test", 8 << 20, Seals::OneWriter).unwrap()), 4096)
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn addr(text: &str) -> Addr {
    text.parse().unwrap()
}

fn hop(interface: u16, gateway: &str) -> NextHop {
    let gateway = (!gateway.is_empty()).then(|| addr(gateway));
    NextHop { interface: InterfaceId(interface), gateway }
}

/// Members of weight 1, by the last byte of their gateways.
fn hops(bytes: impl IntoIterator<Item = u8>) -> Vec<(NextHop, u16)> {
    bytes
        .into_iter()
        .map(|byte| {
            (
                NextHop {
                    interface: InterfaceId(1),
                    gateway: Some(Addr::from_v4([10, 0, 0, byte])),
                },
                1,
            )
        })
        .collect()
}

fn forward(
    routes: &mut Routes,
    arena: &mut Arena,
    prefix: &str,
    hops: Vec<(NextHop, u16)>,
) -> Group {
    routes.set(arena, net(prefix), &RouteSpec::Forward(hops)).unwrap();
    let roots = routes.roots();
    match route(arena.words(), &roots, &net(prefix).addr().into()) {
        Some(Route::Forward(group)) => group,
        other => panic!("{other:?}"),
    }
}

/// The next hops of 10,000 flows.
fn spread(arena: &Arena, table: &Routes, group: Group) -> Vec<NextHop> {
    let groups = table.roots().groups;
    (0..10_000).map(|flow| next_hop(arena.words(), groups, group, mix(flow)).unwrap()).collect()
}

fn shares(flows: &[NextHop]) -> HashMap<NextHop, usize> {
    let mut shares = HashMap::new();
    for hop in flows {
        *shares.entry(*hop).or_insert(0) += 1;
    }
    shares
}

#[test]
fn every_kind_of_route_reads_back() {
    let mut arena = arena();
    let mut table = Routes::new();
    let via = vec![(hop(3, "192.0.2.1"), 1)];
    let glean = vec![(hop(4, ""), 1)];
    let set = [
        ("0.0.0.0/0", RouteSpec::Forward(via.clone())),
        ("10.0.0.0/8", RouteSpec::Blackhole),
        ("10.1.0.0/16", RouteSpec::Unreachable),
        ("10.1.1.1/32", RouteSpec::Local),
        ("10.1.1.2/32", RouteSpec::Vip),
        ("2001:db8::/64", RouteSpec::Forward(glean.clone())),
    ];
    for (prefix, spec) in &set {
        table.set(&mut arena, net(prefix), spec).unwrap();
    }
    let roots = table.roots();
    let words = arena.words();
    for (to, prefix, want) in [
        ("10.2.0.0", "10.0.0.0/8", Route::Blackhole),
        ("10.1.2.0", "10.1.0.0/16", Route::Unreachable),
        ("10.1.1.1", "10.1.1.1/32", Route::Local),
        ("10.1.1.2", "10.1.1.2/32", Route::Vip),
    ] {
        assert_eq!(route(words, &roots, &addr(to)), Some(want));
        assert_eq!(best(words, &roots, &addr(to)), Some((net(prefix), want)));
    }
    for (to, hops) in [("8.8.8.8", &via), ("2001:db8::9", &glean)] {
        let Some(Route::Forward(group)) = route(words, &roots, &addr(to)) else { panic!("{to}") };
        assert_eq!(&next_hops(words, roots.groups, group), hops);
        assert_eq!(next_hop(words, roots.groups, group, 77), Some(hops[0].0));
    }
    assert_eq!(route(words, &roots, &addr("2001:db9::")), None);
    let mut listed: Vec<IpNet> = routes(words, &roots).map(|(prefix, _)| prefix).collect();
    listed.sort();
    assert_eq!(listed, set.map(|(prefix, _)| net(prefix)));
    assert_eq!((table.len(Family::V4), table.len(Family::V6)), (5, 1));
}

#[test]
fn refused_routes_name_the_prefix_and_change_nothing() {
    let mut arena = arena();
    let mut table = Routes::new();
    let many = (0..=MAX_MEMBERS as u32)
        .map(|i| (NextHop { interface: InterfaceId(i as u16), gateway: None }, 1))
        .collect();
    for (prefix, hops, why) in [
        ("10.0.0.1/8", hops([1]), "want 10.0.0.0/8"),
        ("2001:db8::1/64", vec![(hop(1, ""), 1)], "want 2001:db8::/64"),
        ("::ffff:10.0.0.0/104", vec![(hop(1, ""), 1)], "stand for IPv4"),
        ("10.0.0.0/8", vec![], "no next hops"),
        ("10.0.0.0/8", many, "256 next hops"),
        ("10.0.0.0/8", vec![(hop(7, "10.0.0.1"), 0)], "interface 7 has weight 0"),
        ("10.0.0.0/8", vec![(hop(1, "fe80::1"), 1)], "fe80::1 is of the other"),
        ("2001:db8::/64", vec![(hop(1, "10.0.0.1"), 1)], "10.0.0.1 is of the other"),
        ("10.0.0.0/8", vec![(hop(1, "224.0.0.1"), 1)], "224.0.0.1 can't be"),
        ("10.0.0.0/8", vec![(hop(1, "0.0.0.0"), 1)], "0.0.0.0 can't be"),
        ("10.0.0.0/8", vec![(hop(1, "127.0.0.1"), 1)], "127.0.0.1 can't be"),
        ("10.0.0.0/8", vec![(hop(1, "255.255.255.255"), 1)], "255.255.255.255 can't be"),
    ] {
        let error = table.set(&mut arena, net(prefix), &RouteSpec::Forward(hops)).unwrap_err();
        let message = error.to_string();
        assert!(
            message.starts_with(&format!("route {prefix}: ")) && message.contains(why),
            "{message}"
        );
    }
    assert_eq!(table.roots(), RouteRoots::default());
    assert!(table.is_empty());
    assert_eq!(arena.usage().live(), 0);
}

#[test]
fn a_route_is_replaced_and_removed_with_its_group() {
    let mut arena = arena();
    let mut table = Routes::new();
    let prefix = net("10.0.0.0/8");
    forward(&mut table, &mut arena, "10.0.0.0/8", hops([1, 2]));
    table.set(&mut arena, prefix, &RouteSpec::Blackhole).unwrap();
    assert_eq!(arena.usage().of(Table::Groups), 0);
    assert!(table.remove(&mut arena, &prefix).unwrap());
    assert!(!table.remove(&mut arena, &prefix).unwrap());
    assert!(!table.remove(&mut arena, &net("10.0.0.1/8")).unwrap());
    assert_eq!(table.roots(), RouteRoots::default());
    assert_eq!(arena.usage().live(), 0);
}

#[test]
fn equal_groups_are_one_until_their_last_route_goes() {
    let mut arena = arena();
    let mut table = Routes::new();
    let first = forward(&mut table, &mut arena, "10.0.0.0/8", hops([1, 2]));
    let bytes = arena.usage().of(Table::Groups);
    assert_eq!(forward(&mut table, &mut arena, "10.0.0.0/8", hops([1, 2])), first);
    for third in 0..50 {
        let prefix = format!("172.16.{third}.0/24");
        assert_eq!(forward(&mut table, &mut arena, &prefix, hops([2, 1])), first);
    }
    assert_eq!(arena.usage().of(Table::Groups), bytes);
    table.remove(&mut arena, &net("10.0.0.0/8")).unwrap();
    for third in 0..50 {
        assert_eq!(arena.usage().of(Table::Groups), bytes);
        table.remove(&mut arena, &net(&format!("172.16.{third}.0/24"))).unwrap();
    }
    assert_eq!(arena.usage().of(Table::Groups), 0);
}

#[test]
fn flows_spread_within_five_percent() {
    let mut arena = arena();
    let mut table = Routes::new();
    for count in [2u8, 3, 4] {
        let group = forward(&mut table, &mut arena, "10.0.0.0/8", hops(1..=count));
        let shares = shares(&spread(&arena, &table, group));
        let even = 10_000.0 / f64::from(count);
        assert_eq!(shares.len(), usize::from(count));
        for (hop, flows) in shares {
            assert!((flows as f64 / even - 1.0).abs() < 0.05, "{hop:?} of {count}: {flows}");
        }
    }
}

#[test]
fn flows_spread_by_weight() {
    let mut arena = arena();
    let mut table = Routes::new();
    let mut weighted = hops(1..=3);
    (weighted[0].1, weighted[1].1, weighted[2].1) = (1, 2, 5);
    let group = forward(&mut table, &mut arena, "10.0.0.0/8", weighted.clone());
    let shares = shares(&spread(&arena, &table, group));
    for (hop, weight) in weighted {
        let share = 1250.0 * f64::from(weight);
        assert!((shares[&hop] as f64 / share - 1.0).abs() < 0.08, "{weight}: {}", shares[&hop]);
    }
}

#[test]
fn a_next_hop_listed_twice_counts_twice() {
    let mut arena = arena();
    let mut table = Routes::new();
    let group = forward(&mut table, &mut arena, "10.0.0.0/8", hops([1, 2, 1]));
    let mut want = hops([1, 2]);
    want[0].1 = 2;
    assert_eq!(next_hops(arena.words(), table.roots().groups, group), want);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_member_that_goes_moves_only_its_own_flows(
        weights in prop::collection::vec(1u16..5, 2..12),
        gone: prop::sample::Index,
    ) {
        let mut arena = arena();
        let mut table = Routes::new();
        let mut members = hops(1..=weights.len() as u8);
        for (member, weight) in members.iter_mut().zip(&weights) {
            member.1 = *weight;
        }
        let group = forward(&mut table, &mut arena, "10.0.0.0/8", members.clone());
        let with = spread(&arena, &table, group);
        let (left, _) = members.remove(gone.index(members.len()));
        let group = forward(&mut table, &mut arena, "10.0.0.0/8", members);
        // Read the other way round: a member that comes takes flows for itself alone.
        for (with, without) in with.iter().zip(spread(&arena, &table, group)) {
            prop_assert!(*with == without || *with == left);
            prop_assert!(without != left);
        }
    }

    #[test]
    fn the_order_and_the_past_of_a_group_do_not_matter(
        mut order in Just((1u8..9).collect::<Vec<_>>()).prop_shuffle(),
        others in 1u8..9,
    ) {
        let mut arena = arena();
        let mut table = Routes::new();
        let group = forward(&mut table, &mut arena, "10.0.0.0/8", hops(1..9));
        let flows = spread(&arena, &table, group);
        forward(&mut table, &mut arena, "10.0.0.0/8", hops(1..=others));
        let group = forward(&mut table, &mut arena, "10.0.0.0/8", hops(order.drain(..)));
        prop_assert_eq!(flows, spread(&arena, &table, group));
    }

    #[test]
    fn any_words_give_a_next_hop_or_none(
        words in prop::collection::vec(any::<u64>(), 64),
        at: u32,
        hashes in prop::collection::vec(any::<u64>(), 20),
    ) {
        let arena = arena();
        for (place, word) in arena.segment().words().iter().zip(&words) {
            place.store(*word, Ordering::Relaxed);
        }
        for raw in [at, at % 40, 0] {
            let (group, groups) = (Group(raw), u64::from(at) << 32 | u64::from(raw % 64));
            for &hash in &hashes {
                next_hop(arena.words(), groups, group, hash);
                next_hop(arena.words(), hash, group, hash);
            }
            prop_assert!(next_hops(arena.words(), groups, group).len() <= MAX_MEMBERS);
            let roots = RouteRoots { v4: raw, v6: at, groups };
            let words = arena.words();
            for addr in
                [Addr::from_words([hashes[0], hashes[1]]), Addr::from_v4([1, 2, 3, 4])]
            {
                let come = near(words, &addr, begin(words, &roots, &addr));
                nearer(words, &addr, come);
                let by_steps = arrive(words, &roots, &addr, come);
                prop_assert_eq!(by_steps, destination(words, &roots, &addr));
                route(words, &roots, &addr);
            }
        }
    }
}

#[test]
fn a_full_segment_refuses_a_route_and_names_the_way_out() {
    let segment = Segment::create("route-test", 128 << 10, Seals::OneWriter).unwrap();
    let mut arena = Arena::new(Arc::new(segment), 4096);
    let mut table = Routes::new();
    let mut set = 0;
    let error = loop {
        let third = set as u8;
        let prefix = net(&format!("10.{}.{third}.0/24", set / 256));
        match table.set(&mut arena, prefix, &RouteSpec::Forward(hops([third, third ^ 1, 200]))) {
            Ok(()) => set += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Full { .. }), "{error}");
    assert_eq!(table.len(Family::V4), set);
    for index in 0..set {
        let prefix = net(&format!("10.{}.{}.0/24", index / 256, index as u8));
        assert!(table.remove(&mut arena, &prefix).unwrap());
    }
    assert_eq!(arena.usage().live(), 0);
}

#[test]
fn leaves_and_routes_are_the_same() {
    for route in [
        Route::Blackhole,
        Route::Unreachable,
        Route::Local,
        Route::Vip,
        Route::Forward(Group(0)),
        Route::Forward(Group(70_000)),
    ] {
        assert_eq!(Route::of_leaf(route.leaf()), Some(route));
    }
    assert_eq!([0, 1, 5 << 1, 7 << 1].map(Route::of_leaf), [None; 4]);
    assert!(Destination(Route::Vip.leaf()).has_frontends());
    assert!(!Destination(Route::Forward(Group(3)).leaf()).has_frontends());
}

#[test]
fn groups_take_the_lowest_free_number_and_many_are_found_again() {
    let segment = Segment::create("route-test", 64 << 20, Seals::OneWriter).unwrap();
    let mut arena = Arena::new(Arc::new(segment), 4096);
    let mut table = Routes::new();
    let via = |n: u32| NextHop {
        interface: InterfaceId(n as u16),
        gateway: Some(Addr::from_v4((n + (11 << 24)).to_be_bytes())),
    };
    let prefix = |n: u32| net(&format!("10.{}.{}.{}/32", n >> 16, n >> 8 & 255, n & 255));
    let count = 70_000;
    for n in 0..count {
        table.set(&mut arena, prefix(n), &RouteSpec::Forward(vec![(via(n), 1)])).unwrap();
    }
    let ask = |arena: &Arena, table: &Routes, n: u32| {
        let roots = table.roots();
        let Some(Route::Forward(group)) = route(arena.words(), &roots, &prefix(n).addr().into())
        else {
            return None;
        };
        Some((group, next_hop(arena.words(), roots.groups, group, 5)))
    };
    for n in (0..count).step_by(11) {
        assert_eq!(ask(&arena, &table, n), Some((Group(n), Some(via(n)))));
    }
    for n in [69_999, 5, 4096] {
        table.remove(&mut arena, &prefix(n)).unwrap();
        assert_eq!(ask(&arena, &table, n), None);
    }
    for (n, number) in [(80_000, 5), (80_001, 4096), (80_002, 69_999), (80_003, 70_000)] {
        table.set(&mut arena, prefix(n), &RouteSpec::Forward(vec![(via(n), 1)])).unwrap();
        assert_eq!(ask(&arena, &table, n), Some((Group(number), Some(via(n)))));
    }
}
