//! Our FIB's bulk lookup on the routes and addresses that dpdk-test-fib gets, timed as that one does.

use millrace_tables::arena::Arena;
use millrace_tables::fib::{Family, Fib, Key, lookup_many};
use millrace_tables::shm::{Seals, Segment};
use millrace_tables::synthetic::Route;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Addresses looked up at once, each such burst timed by itself: as dpdk-test-fib does (its `BURST_SZ`), so that both pay for the
/// clock (ours some 25 ns a burst) and neither overlaps two bursts.
const BURST: usize = 64;

/// Builds the table anew and looks all addresses up once, on this thread. Returns lookups per microsecond.
pub fn rate(family: Family, routes: &[Route], keys: &[u128]) -> Result<f64, String> {
    let segment =
        Segment::create("perf-fib", 1 << 30, Seals::OneWriter).map_err(|e| e.to_string())?;
    let mut arena = Arena::new(Arc::new(segment), 4096);
    let mut fib = Fib::new(family);
    for route in routes {
        fib.insert(&mut arena, &route.net(family), route.leaf).map_err(|e| e.to_string())?;
    }
    let root = fib.root();
    match family {
        Family::V4 => {
            let keys: Vec<u32> = keys.iter().map(|bits| (bits >> 96) as u32).collect();
            timed(&arena, root, &keys)
        }
        Family::V6 => timed(&arena, root, keys),
    }
}

fn timed<K: Key>(arena: &Arena, root: u32, keys: &[K]) -> Result<f64, String> {
    let mut leaves = [0; BURST];
    let (mut time, mut lost) = (Duration::ZERO, 0);
    let bursts = keys.chunks_exact(BURST);
    let lookups = bursts.len() * BURST;
    for burst in bursts {
        let start = Instant::now();
        lookup_many(arena.words(), root, burst, &mut leaves);
        time += start.elapsed();
        // All addresses are inside routes, and every route has a leaf.
        lost += black_box(&leaves).iter().filter(|leaf| **leaf == 0).count();
    }
    if lost > 0 {
        return Err(format!("{lost} of {lookups} addresses found no route"));
    }
    Ok(lookups as f64 / time.as_secs_f64() / 1e6)
}

/// [`rate`] on its own thread, pinned to a CPU.
pub fn rate_on(cpu: usize, family: Family, world: &(Vec<Route>, Vec<u128>)) -> Result<f64, String> {
    std::thread::scope(|scope| {
        let run = || {
            crate::pin(cpu);
            rate(family, &world.0, &world.1)
        };
        scope.spawn(run).join().map_err(|_| "the FIB's thread ended badly".to_owned())?
    })
}

#[cfg(test)]
mod tests {
    use super::super::files;
    use super::*;

    #[test]
    fn lookups_of_both_families_are_counted() {
        for family in [Family::V4, Family::V6] {
            let (routes, keys) = files::internet(family, 1000);
            assert!(rate(family, &routes, &keys[..6400]).unwrap() > 0.0);
        }
    }
}
