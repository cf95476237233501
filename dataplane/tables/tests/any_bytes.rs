//! The fuzz target `tables` without a fuzzer: its corpus, and a fixed number of mutated inputs (see `dataplane/fuzz/README.md`).

#[path = "../../fuzz/src/replay.rs"]
mod replay;
#[path = "../../fuzz/src/tables.rs"]
mod tables;
#[path = "whole/specs.rs"]
mod specs;

use millrace_tables::{
    GuardSpec, InterfaceId, InterfaceKind, InterfaceSpec, NextHop, Readers, RouteSpec,
    SegmentConfig, ServiceSpec, SetChoice, Writer,
};
use millrace_wire::{Addr, Mac};
use specs::{Random, backend, frontend, service, v4};
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/tables")
}

fn writer() -> Writer {
    let config =
        SegmentConfig { bytes: 2 << 20, seed: Some(tables::SEED), ..SegmentConfig::default() };
    let mut writer = Writer::create(&config).unwrap();
    writer.set_readers(Readers::Nobody);
    writer
}

/// Small real segments, one for each thing that a segment can hold. Hash tables are sparse, so few lines are in use.
fn segments() -> Vec<(&'static str, Writer)> {
    let mut all = Vec::new();
    all.push(("empty", writer()));

    let mut one = writer();
    one.set_service("default/web:http", &service(1, 1)).unwrap();
    all.push(("one-backend", one));

    let mut none = writer();
    for n in 1..4 {
        none.set_service(&format!("default/s{n}"), &service(n, 0)).unwrap();
    }
    all.push(("no-backends", none));

    let mut both = writer();
    let v6 = |low: u32| Addr::from_bits(0x2001_0db8 << 96 | u128::from(low));
    let mut spec = ServiceSpec {
        name: "default/web:http".to_owned(),
        frontends: vec![frontend(v6(1), 80)],
        backends: (0..3)
            .map(|i| backend(v6(0x100 + i), 8080, format!("default/web-{i}")))
            .collect(),
        affinity_seconds: 10_800,
        ..ServiceSpec::default()
    };
    spec.frontends[0].set = SetChoice::Local;
    spec.backends[1].in_local = true;
    both.set_service("default/web:http/v6", &spec).unwrap();
    all.push(("two-sets-ipv6", both));

    let mut leaf = writer();
    for n in 0..12 {
        let at = frontend(v4(0xac1e_0001 + n % 3), 80 + n as u16);
        let spec = ServiceSpec { frontends: vec![at], ..service(1, 1) };
        leaf.set_service(&format!("default/s{n}"), &spec).unwrap();
    }
    all.push(("frontends-in-pairs", leaf));

    let mut routes = writer();
    let hop =
        |n: u32| NextHop { interface: InterfaceId(n as u16), gateway: Some(v4(0xc000_0201 + n)) };
    for (prefix, route) in [
        ("10.0.0.0/8", RouteSpec::Forward(vec![(hop(0), 1), (hop(1), 3)])),
        ("10.5.1.0/25", RouteSpec::Forward(vec![(hop(2), 1)])),
        ("0.0.0.0/0", RouteSpec::Blackhole),
        ("172.30.0.3/32", RouteSpec::Local),
    ] {
        routes.set_route(prefix.parse().unwrap(), &route).unwrap();
    }
    all.push(("routes-ipv4", routes));

    let mut routes = writer();
    for (prefix, route) in [
        (
            "2001:db8::/32",
            RouteSpec::Forward(vec![(NextHop { interface: InterfaceId(1), gateway: None }, 1)]),
        ),
        ("2001:db8::2/128", RouteSpec::Unreachable),
    ] {
        routes.set_route(prefix.parse().unwrap(), &route).unwrap();
    }
    all.push(("routes-ipv6", routes));

    let mut around = writer();
    for n in 0..3u16 {
        around
            .set_neighbor(InterfaceId(n), v4(0xc000_0211), Mac([2, 0, 0, 0, 0, n as u8]))
            .unwrap();
        around
            .set_interface(&InterfaceSpec {
                id: InterfaceId(n),
                kind: InterfaceKind::PORT,
                mac: Mac([2, 0, 0, 0, 1, n as u8]),
                mtu: 1500,
                name: format!("eth{n}"),
                addresses: vec![format!("192.0.{n}.1/24").parse().unwrap()],
            })
            .unwrap();
    }
    for (id, count) in [(1, 2), (3, 5)] {
        let addresses = (0..count).map(|n| v4(0x0a00_0001 + n)).collect();
        let mac = Mac([2, 0, 0, 0, 0, 9]);
        let spec = GuardSpec { name: "Pod default/web-0".into(), mac, addresses };
        around.set_guard(InterfaceId(id), &spec).unwrap();
    }
    all.push(("neighbors-and-interfaces", around));

    let mut policies = writer();
    specs::isolate(&mut policies, &[v4(0x0a00_0001), v6(1)], 0);
    all.push(("policies", policies));

    let mut ports = writer();
    specs::isolate(&mut ports, &[v4(0x0a00_0001)], 9);
    all.push(("policies-some-ports", ports));

    let mut large = writer();
    large.set_service("default/large:http", &service(1, 300)).unwrap();
    all.push(("large-service-some-lines", large));
    for (_, writer) in &mut all {
        writer.publish().unwrap();
    }
    all
}

/// Longest input that the fuzzer is run with.
const LONGEST: usize = 9_100;

/// The input of a segment. Where it is too long, lines are left out that few answers need, such as most of a Maglev table.
fn input(writer: &Writer) -> Vec<u8> {
    let tables = writer.tables();
    let mut kept = tables::lines(tables.snapshot().words());
    let told = tables::check(&kept);
    for size in [256, 64, 16, 4, 1] {
        let mut at = 0;
        while at < kept.len() && kept.len() > LONGEST {
            let end = (at + size * 66).min(kept.len());
            let without = [&kept[..at], &kept[end..]].concat();
            if 2 * tables::check(&without) > told { kept = without } else { at = end }
        }
    }
    kept
}

/// Rewrites the corpus after a change of the layout: `cargo test -p millrace-tables --test any_bytes -- --ignored write_the_corpus`.
#[test]
#[ignore = "writes files: after a change of the layout"]
fn write_the_corpus() {
    std::fs::create_dir_all(folder()).unwrap();
    for (name, writer) in segments() {
        std::fs::write(folder().join(name), input(&writer)).unwrap();
    }
}

#[test]
fn the_corpus_is_of_this_layout_and_has_something_to_tell() {
    for (name, writer) in segments() {
        let bytes = std::fs::read(folder().join(name)).unwrap();
        assert_eq!(bytes, input(&writer), "{name}: see write_the_corpus");
        let told = tables::check(&bytes);
        assert_eq!(told > 2, name != "empty", "{name} tells {told}");
    }
}

#[test]
fn mutated_segments_are_answered_for() {
    let corpus = replay::corpus(&folder());
    let mut told = 0;
    replay::mutations(&corpus, 0x7461_626c, 8_000, |bytes| told += tables::check(bytes));
    assert!(told > 8_000, "{told}");
}

/// Words, not bytes, and of the kinds that break structures: references to other places, counts, single bits.
#[test]
fn segments_with_foreign_words_are_answered_for() {
    let mut random = Random(0x7365_676d);
    let corpus = replay::corpus(&folder());
    for _ in 0..4_000 {
        let (_, mut bytes) = corpus[random.below(corpus.len())].clone();
        let lines = bytes.len() / 66;
        for _ in 0..1 << random.below(5) {
            let at = |random: &mut Random| random.below(lines) * 66 + 2 + random.below(8) * 8;
            let (from, to) = (at(&mut random), at(&mut random));
            let mut word: [u8; 8] = bytes[from..from + 8].try_into().unwrap();
            match random.below(4) {
                0 => word = random.next().to_le_bytes(),
                1 => word[random.below(8)] ^= 1 << random.below(8),
                2 => word = (random.next() >> random.below(64)).to_le_bytes(),
                _ => {}
            }
            bytes[to..to + 8].copy_from_slice(&word);
        }
        tables::check(&bytes);
    }
}

#[test]
fn random_lines_are_answered_for() {
    let mut random = Random(0x6c69_6e65);
    for _ in 0..1_000 {
        let bytes: Vec<u8> = (0..66 * 20).map(|_| random.next() as u8).collect();
        tables::check(&bytes);
    }
}
