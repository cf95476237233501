//! Which backend a client of a service with affinity went to last: a table of clients, one for all workers.
//!
//! # Cost
//!
//! Looked at by flows that begin at a service with affinity, by no others: one bucket of four lines, of which mostly the first
//! is the client's. A flow that begins writes one line. Memory is a line a client; pages that were never used take none.
//!
//! # Protocol
//!
//! A place has a version, even when it can be read. Who writes makes it odd by compare-and-exchange, writes, and stores the next even one
//! (release); a reader that finds it odd, or changed when it is done, has found nothing. Nobody waits: a writer that meets another
//! gives up, and a client whose backend was not noted gets it by its address's hash, which is the same for every worker.
//!
//! # Bounds
//!
//! A full bucket gives up the client that was not seen for longest. So a flood of clients can make others be chosen anew, and
//! nothing worse.

use crate::clock::{MILLISECOND, Nanos};
use crate::flow::{Seed, Tuple};
use crate::state::word::{Memory, Region, Word};
use millrace_tables::ServiceId;
use millrace_wire::{Addr, Protocol};

/// Words of a place.
const PLACE: usize = 8;
/// Places of a bucket.
const BUCKET: usize = 4;

const VERSION: usize = 0;
const CLIENT: usize = 1;
/// Service in bits 0–31, the backend's port in 32–47, 48 set where anything is.
const WHAT: usize = 3;
const BACKEND: usize = 4;
/// When the client last began a flow, in milliseconds.
const SEEN: usize = 6;
const USED: u64 = 1 << 48;

/// Words of a table of so many clients, a power of two.
pub fn words_for(clients: u32) -> usize {
    clients.max(BUCKET as u32).next_power_of_two() as usize * PLACE
}

/// The table.
#[derive(Clone, Debug)]
pub struct Affinity<M: Memory = Region> {
    memory: M,
    seed: Seed,
}

/// A backend that a client went to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Its address.
    pub addr: Addr,
    /// Its port.
    pub port: u16,
    /// When the client last began a flow.
    pub seen: Nanos,
}

impl<M: Memory> Affinity<M> {
    /// Over memory of [`words_for`] words; `None` if it is of another size.
    pub fn new(memory: M, seed: Seed) -> Option<Self> {
        let words = memory.words().len();
        let fits = words >= BUCKET * PLACE && words.is_power_of_two();
        fits.then_some(Self { memory, seed })
    }

    /// After its last writers are gone, however they went: what was being written is nothing.
    pub fn adopt(&self) {
        for place in self.memory.words().chunks_exact(PLACE) {
            let version = place[VERSION].get();
            if version & 1 == 1 {
                place[WHAT].set(0);
                place[VERSION].set_release(version.wrapping_add(1));
            }
        }
    }

    fn bucket(&self, service: ServiceId, client: &Addr) -> &[M::Word] {
        let key = Tuple {
            src: *client,
            dst: *client,
            sport: service.0 as u16,
            dport: (service.0 >> 16) as u16,
            protocol: Protocol(0),
        };
        let words = self.memory.words();
        let buckets = words.len() / (BUCKET * PLACE);
        let at = (self.seed.hash(&key) as usize & (buckets.wrapping_sub(1))) * BUCKET * PLACE;
        words.get(at..at + BUCKET * PLACE).unwrap_or_default()
    }

    /// The backend that the client went to last.
    pub fn find(&self, service: ServiceId, client: &Addr) -> Option<Kept> {
        let mut places = self.bucket(service, client).chunks_exact(PLACE);
        places.find_map(|place| Self::read(place, service, client))
    }

    fn read(place: &[M::Word], service: ServiceId, client: &Addr) -> Option<Kept> {
        let [version, what] = [VERSION, WHAT].map(|at| place.get(at).map_or(0, Word::get));
        if what as u32 != service.0 || what & USED == 0 || version & 1 == 1 {
            return None;
        }
        M::Word::fence_acquire();
        let word = |at: usize| place.get(at).map_or(0, Word::get);
        let found = Addr::from_words([word(CLIENT), word(CLIENT + 1)]);
        let what = word(WHAT);
        let kept = Kept {
            addr: Addr::from_words([word(BACKEND), word(BACKEND + 1)]),
            port: (what >> 32) as u16,
            seen: word(SEEN).saturating_mul(MILLISECOND),
        };
        M::Word::fence_acquire();
        let whole = word(VERSION) == version && what as u32 == service.0 && what & USED != 0;
        (whole && found == *client).then_some(kept)
    }

    /// Notes where the client goes now. Not noted when another worker writes to the very place.
    pub fn keep(&self, service: ServiceId, client: &Addr, addr: &Addr, port: u16, now: Nanos) {
        let bucket = self.bucket(service, client);
        let own = bucket.chunks_exact(PLACE).find(|it| Self::read(it, service, client).is_some());
        let age = |place: &&[M::Word]| match place.get(WHAT).map_or(0, Word::get) {
            0 => 0,
            _ => place.get(SEEN).map_or(0, Word::get).saturating_add(1),
        };
        let Some(place) = own.or_else(|| bucket.chunks_exact(PLACE).min_by_key(age)) else {
            return;
        };
        let [version, c0, c1, what, b0, b1, seen, ..] = place else { return };
        let before = version.get();
        if before & 1 == 1 || version.exchange(before, before.wrapping_add(1)).is_err() {
            return;
        }
        // The odd version is seen before what is written now.
        M::Word::fence_full();
        let (client, backend) = (client.to_words(), addr.to_words());
        what.set(u64::from(service.0) | u64::from(port) << 32 | USED);
        for (word, value) in
            [c0, c1, b0, b1].into_iter().zip([client, backend].into_iter().flatten())
        {
            word.set(value);
        }
        seen.set(now / MILLISECOND);
        version.set_release(before.wrapping_add(2));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SECOND;
    use millrace_tables::shm::{Seals, Segment};
    use std::collections::HashMap;
    use std::sync::Arc;

    fn table(clients: u32) -> Affinity {
        let bytes = (words_for(clients) * 8).next_multiple_of(4096);
        let memory = Arc::new(Segment::create("affinity", bytes, Seals::Shared).unwrap());
        Affinity::new(Region::new(&memory, 0..words_for(clients)).unwrap(), Seed::FIXED).unwrap()
    }

    fn addr(n: u32) -> Addr {
        Addr::from_v4((0x0a00_0000 + n).to_be_bytes())
    }

    #[test]
    fn a_client_is_found_by_service_and_address() {
        let table = table(64);
        assert_eq!(table.find(ServiceId(1), &addr(1)), None);
        table.keep(ServiceId(1), &addr(1), &addr(100), 8080, 5 * SECOND);
        let kept = Kept { addr: addr(100), port: 8080, seen: 5 * SECOND };
        assert_eq!(table.find(ServiceId(1), &addr(1)), Some(kept));
        assert_eq!(table.find(ServiceId(2), &addr(1)), None);
        assert_eq!(table.find(ServiceId(1), &addr(2)), None);
        table.keep(ServiceId(1), &addr(1), &addr(101), 9090, 6 * SECOND);
        let kept = Kept { addr: addr(101), port: 9090, seen: 6 * SECOND };
        assert_eq!(table.find(ServiceId(1), &addr(1)), Some(kept));
        let v6: Addr = std::net::Ipv6Addr::LOCALHOST.into();
        table.keep(ServiceId(u32::MAX), &v6, &v6, 1, 0);
        assert_eq!(table.find(ServiceId(u32::MAX), &v6).map(|it| it.addr), Some(v6));
    }

    #[test]
    fn a_full_table_gives_up_who_was_not_seen_for_longest() {
        let table = table(4);
        for n in 0..4 {
            table.keep(ServiceId(0), &addr(n), &addr(100 + n), 80, u64::from(n + 1) * SECOND);
        }
        table.keep(ServiceId(0), &addr(0), &addr(100), 80, 10 * SECOND);
        table.keep(ServiceId(0), &addr(9), &addr(109), 80, 11 * SECOND);
        let there = |n| table.find(ServiceId(0), &addr(n)).is_some();
        assert_eq!([0, 1, 2, 3, 9].map(there), [true, false, true, true, true]);
    }

    #[test]
    fn a_place_that_was_being_written_is_nothing_until_it_is_taken_over() {
        let table = table(4);
        table.keep(ServiceId(0), &addr(1), &addr(100), 80, SECOND);
        let place =
            table.memory.words().chunks_exact(PLACE).find(|it| it[WHAT].get() != 0).unwrap();
        place[VERSION].set(place[VERSION].get() + 1);
        assert_eq!(table.find(ServiceId(0), &addr(1)), None);
        table.adopt();
        assert_eq!(table.find(ServiceId(0), &addr(1)), None);
        table.keep(ServiceId(0), &addr(1), &addr(100), 80, SECOND);
        assert!(table.find(ServiceId(0), &addr(1)).is_some());
    }

    #[test]
    fn threads_that_write_at_once_never_show_a_mixture() {
        let table = table(16);
        std::thread::scope(|scope| {
            for thread in 0..4u32 {
                let table = &table;
                scope.spawn(move || {
                    for round in 0..20_000u32 {
                        let client = (round + thread) % 48;
                        // The backend tells whose it is.
                        let port = 1 + (client as u16);
                        table.keep(ServiceId(client), &addr(client), &addr(client), port, 0);
                        if let Some(kept) = table.find(ServiceId(client), &addr(client)) {
                            assert_eq!((kept.addr, kept.port), (addr(client), port));
                        }
                    }
                });
            }
        });
    }

    #[test]
    fn it_keeps_what_a_map_keeps_while_there_is_room() {
        let table = table(1 << 14);
        let mut model = HashMap::new();
        for round in 0..2000u32 {
            let (service, client) = (ServiceId(round % 7), addr(round * 7919 % 60));
            let (backend, now) = (addr(round), u64::from(round) * SECOND);
            table.keep(service, &client, &backend, 80, now);
            model.insert((service, client), (backend, now));
        }
        for ((service, client), (backend, seen)) in model {
            assert_eq!(table.find(service, &client), Some(Kept { addr: backend, port: 80, seen }));
        }
    }
}
