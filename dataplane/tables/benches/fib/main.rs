//! The FIB at full size: 1 M IPv4 and 200 k IPv6 routes, random destinations inside random routes.
//!
//! `cargo bench -p millrace-tables --bench fib [-- ROUTES [RUNS]]`. Each time is the minimum, median and maximum of 101 runs,
//! which are short, so that another process on the core spoils some of them but not all. `dir24-8` is the structure to
//! beat, on the same routes and addresses (16-bit entries: 32 MiB and its second table).
//!
//! Instructions a lookup: run the bench's binary with `-- 1000000 4` under
//! `valgrind --tool=callgrind --toggle-collect='*lookup_many*'`, and divide by the lookups of 4 runs (4 × 16,384 a family).

mod dir24;

use millrace_tables::{
    arena::Arena,
    fib::{Family, Fib, Key, lookup, lookup_many},
    shm::{Seals, Segment},
    synthetic::{self, Random},
};
use std::{hint::black_box, sync::Arc, time::Instant};

/// Lookups in a run.
const LOOKUPS: usize = 16_384;
/// Changes in a run.
const CHANGES: usize = 200;
/// Addresses given to a bulk lookup: a burst of packets.
const BURST: usize = 64;

/// How much is measured.
#[derive(Clone, Copy)]
struct Size {
    /// IPv4 routes; a fifth of it in IPv6.
    routes: usize,
    /// Runs of each measurement; each looks up other addresses.
    runs: usize,
}

/// Prints what `run` takes for each of `count` things, in `unit`s of `scale` nanoseconds.
fn report(
    size: Size,
    what: &str,
    count: usize,
    unit: &str,
    scale: f64,
    mut run: impl FnMut(usize),
) {
    let mut times: Vec<f64> = (0..size.runs)
        .map(|turn| {
            let start = Instant::now();
            run(turn);
            start.elapsed().as_nanos() as f64 / count as f64 / scale
        })
        .collect();
    times.sort_by(f64::total_cmp);
    println!(
        "  {what:<34} {:8.2} {:8.2} {:8.2}  {unit}",
        times[0],
        times[size.runs / 2],
        times[size.runs - 1]
    );
}

fn bench<K: Key>(size: Size, key: impl Fn(u128) -> K) {
    let family = K::FAMILY;
    let count = if family == Family::V4 { size.routes } else { size.routes / 5 };
    let routes = synthetic::routes(family, count, 1);
    let arena_bytes = 1 << 30;
    let segment = Segment::create("fib-bench", arena_bytes, Seals::OneWriter).expect("segment");
    let mut arena = Arena::new(Arc::new(segment), 4096);
    let mut fib = Fib::new(family);

    let start = Instant::now();
    for route in &routes {
        fib.insert(&mut arena, &route.net(family), route.leaf).expect("room");
    }
    let root = fib.root();
    let loaded = start.elapsed();
    arena.commit(1);
    let bytes = arena.usage().of(fib.table()) as f64;
    println!("{family:?}: {} routes", routes.len());
    println!(
        "  loaded in {:.2} s, {:.2} M routes/s; {:.1} MB, {:.1} B a route",
        loaded.as_secs_f64(),
        routes.len() as f64 / loaded.as_secs_f64() / 1e6,
        bytes / 1e6,
        bytes / routes.len() as f64
    );
    println!("  {:<34} {:>8} {:>8} {:>8}", "", "min", "median", "max");

    let keys: Vec<K> =
        synthetic::destinations(&routes, LOOKUPS * size.runs, 2).into_iter().map(key).collect();
    let words = arena.words();
    report(size, "lookup, one at a time", LOOKUPS, "ns", 1.0, |turn| {
        for &key in &keys[turn * LOOKUPS..][..LOOKUPS] {
            black_box(lookup(words, root, key));
        }
    });
    let mut leaves = [0; BURST];
    report(size, "lookup_many, bursts of 64", LOOKUPS, "ns", 1.0, |turn| {
        for keys in keys[turn * LOOKUPS..][..LOOKUPS].chunks_exact(BURST) {
            lookup_many(words, root, keys, &mut leaves);
            black_box(&leaves);
        }
    });

    let mut generation = 1;
    let random = &mut Random(3);
    let mut publish = |fib: &Fib, arena: &mut Arena| {
        black_box(fib.root());
        generation += 1;
        arena.commit(generation);
        arena.reclaim(generation);
    };
    report(size, "remove and publish", CHANGES, "µs", 1000.0, |_| {
        for _ in 0..CHANGES {
            let net = routes[random.below(routes.len())].net(family);
            fib.remove(&mut arena, &net).expect("room");
            publish(&fib, &mut arena);
        }
    });
    report(size, "insert or replace, and publish", CHANGES, "µs", 1000.0, |_| {
        for _ in 0..CHANGES {
            let route = &routes[random.below(routes.len())];
            fib.insert(&mut arena, &route.net(family), 1 + route.leaf % 64).expect("room");
            publish(&fib, &mut arena);
        }
    });
}

fn baseline(size: Size) {
    let routes = synthetic::routes(Family::V4, size.routes, 1);
    let table = dir24::Dir24::build(&routes);
    println!("dir24-8: {} routes, {:.1} MB", routes.len(), table.bytes() as f64 / 1e6);
    let keys: Vec<u32> = synthetic::destinations(&routes, LOOKUPS * size.runs, 2)
        .iter()
        .map(|bits| (bits >> 96) as u32)
        .collect();
    report(size, "lookup, one at a time", LOOKUPS, "ns", 1.0, |turn| {
        for &key in &keys[turn * LOOKUPS..][..LOOKUPS] {
            black_box(table.lookup(key));
        }
    });
    let mut leaves = [0; BURST];
    report(size, "lookup_many, bursts of 64", LOOKUPS, "ns", 1.0, |turn| {
        for keys in keys[turn * LOOKUPS..][..LOOKUPS].chunks_exact(BURST) {
            table.lookup_many(keys, &mut leaves);
            black_box(&leaves);
        }
    });
}

fn main() {
    // cargo bench passes `--bench`.
    let mut numbers = std::env::args().filter_map(|arg| arg.parse().ok());
    let size = Size {
        routes: numbers.next().unwrap_or(1_000_000),
        runs: numbers.next().unwrap_or(101).max(1),
    };
    bench(size, |bits| (bits >> 96) as u32);
    bench(size, |bits| bits);
    baseline(size);
}
