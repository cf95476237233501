//! A reader of memory that anything may happen to: no panic, no endless loop.

use crate::{
    questions,
    specs::{Random, backend, frontend, isolate, v4},
};
use millrace_tables::{
    InterfaceId, InterfaceKind, InterfaceSpec, NextHop, RouteSpec, SegmentConfig, ServiceSpec,
    Snapshot, Tables, Writer,
};
use millrace_wire::{Addr, Mac};
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

fn filled() -> Writer {
    let mut writer = Writer::create(&SegmentConfig {
        bytes: 2 << 20,
        seed: Some(1),
        ..SegmentConfig::default()
    })
    .unwrap();
    for number in 0..40 {
        let mut spec =
            ServiceSpec { name: format!("default/s{number}:http"), ..ServiceSpec::default() };
        spec.frontends.push(frontend(v4(0xac1e_0000 + number / 2), 80 + number as u16));
        let count = if number == 7 { 300 } else { number % 20 };
        spec.backends =
            (0..count).map(|i| backend(v4(0x0a00_0000 + i), 8080, format!("pod-{i}"))).collect();
        writer.set_service(&spec.name.clone(), &spec).unwrap();
    }
    let hop =
        |n: u32| NextHop { interface: InterfaceId(n as u16), gateway: Some(v4(0xc000_0201 + n)) };
    for n in 0..60u32 {
        let hops = (0..=n % 3).map(|i| (hop(i), 1 + n as u16)).collect();
        writer
            .set_route(
                format!("10.{n}.0.0/{}", 16 + n % 17).parse().unwrap(),
                &RouteSpec::Forward(hops),
            )
            .unwrap();
    }
    writer
        .set_route(
            "2001:db8::/32".parse().unwrap(),
            &RouteSpec::Forward(vec![(NextHop { interface: InterfaceId(1), gateway: None }, 1)]),
        )
        .unwrap();
    writer.set_route("2001:db8:1::/64".parse().unwrap(), &RouteSpec::Unreachable).unwrap();
    writer.set_route("0.0.0.0/0".parse().unwrap(), &RouteSpec::Blackhole).unwrap();
    for n in 0..30 {
        writer
            .set_neighbor(
                InterfaceId(n % 3),
                v4(0xc000_0210 + u32::from(n)),
                Mac([2, 0, 0, 0, 0, n as u8]),
            )
            .unwrap();
    }
    for n in 0..4 {
        writer
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
    let pods: Vec<Addr> = (0..20).map(|n| v4(0x0a00_0000 + n)).collect();
    isolate(&mut writer, &pods, 20);
    isolate(&mut writer, &[v4(0xac1e_0001), Addr::from_bits(0x2001_0db8 << 96 | 1)], 300);
    writer.publish().unwrap();
    writer
}

/// Everything a reader can ask, of addresses that are there and others. Returns how much it was told.
fn ask(snapshot: Snapshot<'_>, random: &mut Random, cold: bool) -> usize {
    let mut told = 0;
    for n in 0..40u32 {
        let addr = match n % 4 {
            0 => v4(0xac1e_0000 + n / 2),
            1 => v4(0x0a00_0000 | (random.next() as u32 >> 8)),
            2 => Addr::from_bits(0x2001_0db8 << 96 | u128::from(random.next())),
            _ => v4(0xc000_0210 + n),
        };
        told += questions::ask(snapshot, &addr, 80 + n as u16, random.next());
    }
    if cold {
        told += questions::ask_lists(snapshot);
    }
    told
}

/// Stores into a word what a corrupting or malicious writer might.
fn damage(words: &[AtomicU64], used: usize, random: &mut Random) {
    let index = match random.below(8) {
        0 => random.below(16),
        1 => random.below(words.len()),
        _ => random.below(used),
    };
    let value = match random.below(5) {
        0 => random.next(),
        1 => words[index].load(Relaxed) ^ 1 << random.below(64),
        2 => words[random.below(used)].load(Relaxed),
        3 => u64::MAX >> random.below(64),
        // References to small offsets, such as nodes that lead back up.
        _ => (random.next() % used as u64 / 2) | (random.next() % used as u64 / 2) << 32,
    };
    words[index].store(value, Relaxed);
}

/// Words up to the last that isn't zero.
fn used(words: &[AtomicU64]) -> usize {
    words.iter().rposition(|word| word.load(Relaxed) != 0).map_or(1, |last| last + 1)
}

#[test]
fn an_honest_segment_tells_what_was_set() {
    let writer = filled();
    let tables = writer.tables();
    let told = ask(tables.snapshot(), &mut Random(1), true);
    assert!(told > 200, "the questions of this test have answers: {told}");
}

#[test]
fn any_few_words_changed_leave_every_question_answerable() {
    let writer = filled();
    let tables = writer.tables();
    let words = tables.snapshot().words();
    let used = used(words);
    let honest: Vec<u64> = words.iter().map(|word| word.load(Relaxed)).collect();
    let mut random = Random(0x6d69_6c6c);
    for round in 0..400 {
        for _ in 0..1 << random.below(9) {
            damage(words, used, &mut random);
        }
        ask(tables.snapshot(), &mut random, round % 4 == 0);
        // Opening checks the header and no more: refused or not, it has to come back.
        let _ = Tables::over(Arc::clone(tables.segment()));
        for (word, value) in words.iter().zip(&honest) {
            word.store(*value, Relaxed);
        }
    }
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

#[test]
fn words_that_change_under_a_reader_leave_every_question_answerable() {
    let writer = filled();
    let tables = writer.tables();
    let used = used(tables.snapshot().words());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let words = tables.snapshot().words();
            let honest: Vec<u64> = words.iter().map(|word| word.load(Relaxed)).collect();
            let mut random = Random(42);
            while !stop.load(Relaxed) {
                for _ in 0..1000 {
                    damage(words, used, &mut random);
                    std::hint::spin_loop();
                }
                for (word, value) in words.iter().zip(&honest).take(used) {
                    word.store(*value, Relaxed);
                }
                std::thread::yield_now();
            }
        });
        // The other thread ends also when this one fails.
        let stopper = Stop(&stop);
        let mut random = Random(43);
        for round in 0..300 {
            ask(tables.snapshot(), &mut random, round % 4 == 0);
        }
        drop(stopper);
        writer.join().unwrap();
    });
}
