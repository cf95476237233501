//! A tables segment of any contents: every question that a reader can ask is answered, and no answer takes for ever.
//!
//! An input is a list of cache lines, each with its number in front (16 bits, little end first): what is not named is zero. That
//! is the form of a real segment without its holes, so the corpus are real segments, and mutations move, lose and change lines.

use millrace_tables::{
    ClassId, Endpoint, InterfaceId, Judgements, PolicyId, Route, ServiceId, Snapshot, SubjectId,
    Tables,
    layout::{ABI, HASH, MAGIC, header},
    shm::{Seals, Segment},
};
use millrace_wire::Addr;
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Bytes of the segment: what a writer with a few rows uses of its own.
pub const BYTES: usize = 512 << 10;
/// Seed of the hash tries in the corpus.
pub const SEED: u64 = 1;

const LINE: usize = 64;

/// Puts the input into a segment and asks everything. Answers how much was told.
pub fn check(data: &[u8]) -> usize {
    thread_local! {
        static SEGMENT: RefCell<Option<Arc<Segment>>> = const { RefCell::new(None) };
    }
    SEGMENT.with_borrow_mut(|kept| {
        let segment = kept.get_or_insert_with(|| {
            Arc::new(Segment::create("fuzz", BYTES, Seals::OneWriter).expect("a memfd"))
        });
        let touched = place(segment.words(), data);
        // As it is: refused, or opened and then answerable too.
        if let Ok(tables) = Tables::over(Arc::clone(segment)) {
            ask_all(tables.snapshot());
        }
        for (word, value) in [
            (header::MAGIC, MAGIC),
            (header::ABI, ABI),
            (header::LAYOUT, HASH),
            (header::BYTES, BYTES as u64),
        ] {
            segment.words()[word].store(value, Relaxed);
        }
        let tables = Tables::over(Arc::clone(segment)).expect("a good header");
        let told = ask_all(tables.snapshot());
        for line in touched.into_iter().chain([0]) {
            segment.words()[line * 8..][..8].iter().for_each(|word| word.store(0, Relaxed));
        }
        told
    })
}

/// Stores the input's lines; answers their numbers.
fn place(words: &[AtomicU64], data: &[u8]) -> Vec<usize> {
    let mut touched = Vec::new();
    for piece in data.chunks(2 + LINE) {
        let Some((number, bytes)) = piece.split_first_chunk::<2>() else { continue };
        let line = usize::from(u16::from_le_bytes(*number)) % (words.len() / 8);
        touched.push(line);
        for (index, word) in bytes.chunks(8).enumerate() {
            let mut value = [0; 8];
            value[..word.len()].copy_from_slice(word);
            words[line * 8 + index].store(u64::from_le_bytes(value), Relaxed);
        }
    }
    touched
}

/// The input that [`check`] makes these words of.
pub fn lines(words: &[AtomicU64]) -> Vec<u8> {
    let mut data = Vec::new();
    for (number, line) in words[..BYTES / 8].chunks(8).enumerate() {
        let values: Vec<u64> = line.iter().map(|word| word.load(Relaxed)).collect();
        if values.iter().any(|value| *value != 0) {
            data.extend_from_slice(&(number as u16).to_le_bytes());
            values.iter().for_each(|value| data.extend_from_slice(&value.to_le_bytes()));
        }
    }
    data
}

/// Addresses, ports and protocols that the corpus has something about, and some that it hasn't.
fn addresses() -> impl Iterator<Item = Addr> {
    let v4 = [0xac1e_0001u32, 0xac1e_0002, 0xac1e_0003, 0x0a00_0001, 0x0a05_0101, 0xc000_0211, 0]
        .map(|bits| Addr::from_v4(bits.to_be_bytes()));
    let v6 = [1u128, 2, 1 << 64].map(|low| Addr::from_bits(0x2001_0db8 << 96 | low));
    v4.into_iter().chain(v6)
}

fn ask_all(snapshot: Snapshot<'_>) -> usize {
    let mut told = 0;
    for (n, addr) in addresses().enumerate() {
        told += ask(snapshot, &addr, 80, n as u64);
        told += ask(snapshot, &addr, 81, !(n as u64));
    }
    for n in 0..4u16 {
        told += ask_service(snapshot, ServiceId(n.into()), u64::from(n) << 60);
        told += snapshot
            .guard(InterfaceId(n))
            .map_or(0, |guard| guard.addresses().count() + snapshot.guard_name(&guard).len());
        told += snapshot.interface(InterfaceId(n)).map_or(0, |row| row.addresses.len());
    }
    told + ask_lists(snapshot)
}

/// What a packet to `addr` asks, and the command about it. Answers how much was told.
pub fn ask(snapshot: Snapshot<'_>, addr: &Addr, port: u16, random: u64) -> usize {
    let frontend = snapshot.frontend(addr, port, 6);
    let mut told = usize::from(frontend.is_some()) + usize::from(snapshot.is_vip(addr));
    let id = frontend.map_or(ServiceId(random as u32 % 64), |frontend| frontend.service);
    told += ask_service(snapshot, id, random.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let near = snapshot.route_near(addr, snapshot.route_begin(addr));
    snapshot.route_nearer(addr, near);
    assert_eq!(snapshot.route_arrive(addr, near), snapshot.destination(addr));
    if let Some(Route::Forward(group)) = snapshot.route(addr) {
        told += usize::from(snapshot.next_hop(group, random).is_some());
        told += snapshot.next_hops(group).len();
    }
    told += usize::from(snapshot.best_route(addr).is_some());
    told += usize::from(snapshot.static_neighbor(InterfaceId(random as u16 % 3), addr).is_some());
    told + ask_policies(snapshot, addr, port, random)
}

fn ask_policies(snapshot: Snapshot<'_>, addr: &Addr, port: u16, random: u64) -> usize {
    let endpoint = snapshot.policy_endpoint(addr);
    let mut told = usize::from(endpoint.is_isolated()) + usize::from(endpoint.is_node());
    told += usize::from(snapshot.endpoint_name(&endpoint).is_some());
    let chosen = SubjectId(random as u32 % 4);
    for subject in [endpoint.ingress(), endpoint.egress(), Some(chosen)].into_iter().flatten() {
        for class in [endpoint.class, ClassId((random >> 32) as u32 % 100)] {
            for protocol in [6, 17, 132, random as u8] {
                let decision = snapshot.judge(subject, class, protocol, port);
                told += usize::from(decision.is_allowed()) + usize::from(!decision.is_missing());
                told += bounded("deciders", snapshot.deciders(&decision, false));
                told += bounded("shadow deciders", snapshot.deciders(&decision, true));
            }
        }
    }
    let peer = Addr::from_v4((random as u32).to_be_bytes());
    let mut all = Judgements::with_room(2);
    for ends in [[*addr, peer], [peer, *addr]] {
        all.ask(ends, 6, port);
    }
    snapshot.judge_all(&mut all, |_| told += 1);
    for (number, [src, dst]) in [[*addr, peer], [peer, *addr]].into_iter().enumerate() {
        let judged = all.get(number).expect("asked");
        let [source, destination] = [src, dst].map(|addr| snapshot.policy_endpoint(&addr));
        assert_eq!(judged.endpoints, [source, destination]);
        let says = |subject: Option<SubjectId>, peer: &Endpoint| {
            subject.map(|subject| snapshot.judge(subject, peer.class, 6, port))
        };
        let want = [says(source.egress(), &destination), says(destination.ingress(), &source)];
        assert_eq!(judged.decisions, want);
    }
    told + usize::from(snapshot.policy(PolicyId(random as u32 % 4)).is_some())
}

fn ask_service(snapshot: Snapshot<'_>, id: ServiceId, random: u64) -> usize {
    let Some(service) = snapshot.service(id) else { return 0 };
    let mut told = 0;
    for set in [&service.cluster, &service.local] {
        told += usize::from(snapshot.pick(set, random).is_some());
        told += bounded("backends", snapshot.backends(set));
    }
    told += bounded("names", snapshot.named_backends(&service));
    told += snapshot.service_name(id).len() + snapshot.service_key(id).len();
    told + usize::from(snapshot.backend_name(id, &Addr::from_v4([10, 0, 0, 1]), 8080).is_some())
}

/// Every row of every table.
pub fn ask_lists(snapshot: Snapshot<'_>) -> usize {
    bounded("frontends", snapshot.frontends())
        + bounded("services", snapshot.services())
        + bounded("routes", snapshot.routes())
        + bounded("neighbors", snapshot.static_neighbors())
        + bounded("interfaces", snapshot.interfaces())
        + bounded("policies", snapshot.policies())
        + bounded("policy endpoints", snapshot.policy_endpoints())
}

/// More than any iteration over a segment of a few MiB may give.
const LIMIT: usize = 16 << 20;

fn bounded(what: &str, items: impl Iterator) -> usize {
    let count = items.take(LIMIT + 1).count();
    assert!(count <= LIMIT, "{what} does not end");
    count
}
