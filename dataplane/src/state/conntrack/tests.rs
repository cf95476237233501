//! What a flow finds, the table at its bounds, and from many threads.

use super::*;
use crate::clock::SECOND;
use crate::flow::Direction;
use crate::state::neighbor::NeighborId;
use crate::state::word::Region;
use millrace_tables::shm::{Seals, Segment, WORD};
use millrace_tables::{InterfaceId, ServiceId};
use millrace_wire::{Addr, Protocol};
use std::sync::Arc;

const UNBOUNDED: Limits = Limits { half_open: u32::MAX };

/// A table in memory of its own, with its words.
pub(super) fn memory(capacity: u32, handles: usize) -> (Arc<Segment>, Table) {
    let layout = Layout::of(capacity, handles);
    let words = layout.index + layout.rows + layout.sides + layout.pool;
    let segment = Segment::create("conntrack-test", words * WORD, Seals::Shared).unwrap();
    let segment = Arc::new(segment);
    let region = |start, len| Region::new(&segment, start..start + len).unwrap();
    let index = region(0, layout.index);
    let rows = region(layout.index, layout.rows);
    let sides = region(layout.index + layout.rows, layout.sides);
    let pool = region(layout.index + layout.rows + layout.sides, layout.pool);
    let table = Table::new(index, rows, sides, pool, capacity, handles).unwrap();
    (segment, table)
}

pub(super) fn table(capacity: u32, handles: usize) -> Table {
    let (_, table) = memory(capacity, handles);
    table.initialize();
    table
}

pub(super) fn handle(table: &Table, number: usize) -> Conntrack {
    Conntrack::new(table.clone(), number, Seed::FIXED, Timeouts::default(), UNBOUNDED)
}

pub(super) fn tuple(src: (u8, u16), dst: (u8, u16), protocol: Protocol) -> Tuple {
    let addr = |host| Addr::from_v4([10, 0, 0, host]);
    Tuple { src: addr(src.0), sport: src.1, dst: addr(dst.0), dport: dst.1, protocol }
}

/// Client `number` through the VIP of service `number` to a backend that `number` implies.
pub(super) fn flow(number: u32, protocol: Protocol) -> NewFlow {
    let client = Addr::from_v4((0x0b00_0000 + number).to_be_bytes());
    let original = Tuple { src: client, ..tuple((0, 40_000), (100, 80), protocol) };
    let reply =
        Tuple { dst: client, ..tuple((1 + (number % 50) as u8, 8080), (0, 40_000), protocol) };
    NewFlow { original, reply, service: Some(ServiceId(number)), tcp: None, masqueraded: false }
}

pub(super) fn find(table: &Table, tuple: &Tuple, now: Nanos) -> Option<Entry> {
    table.find(tuple, Seed::FIXED.hash(tuple), now).and_then(|hit| table.entry(hit))
}

#[test]
fn both_directions_find_one_entry() {
    let mut conntrack = handle(&table(1024, 1), 0);
    let new = flow(1, Protocol::TCP);
    let made = conntrack.create(&new, 0).unwrap();
    let original = find(conntrack.table(), &new.original, 0).unwrap();
    assert_eq!(original, made);
    assert_eq!(original.translated, new.reply.reversed());
    assert_eq!(original.service, Some(ServiceId(1)));
    let reply = find(conntrack.table(), &new.reply, 0).unwrap();
    assert_eq!((reply.id, reply.direction), (made.id, Direction::Reply));
    assert_eq!(reply.translated, new.original.reversed());
    assert_eq!(find(conntrack.table(), &new.reply.reversed(), 0), None);
}

#[test]
fn an_untranslated_flow_translates_to_itself() {
    let mut conntrack = handle(&table(1024, 1), 0);
    let original = tuple((1, 5), (2, 6), Protocol::UDP);
    let new = NewFlow {
        original,
        reply: original.reversed(),
        service: None,
        tcp: None,
        masqueraded: false,
    };
    let made = conntrack.create(&new, 0).unwrap();
    assert_eq!((made.translated, made.service), (original, None));
    let shown = conntrack.table().flows(0).next().unwrap();
    assert_eq!((shown.backend_endpoint(), shown.snat()), (None, None));
}

#[test]
fn a_flow_to_itself_is_tracked() {
    let mut conntrack = handle(&table(1024, 1), 0);
    let original = tuple((1, 5), (1, 5), Protocol::UDP);
    let new = NewFlow { original, reply: original, service: None, tcp: None, masqueraded: false };
    let made = conntrack.create(&new, 0).unwrap();
    assert!(conntrack.remove(made.hit()));
    assert_eq!(find(conntrack.table(), &original, 0), None);
    assert!(conntrack.create(&new, 0).is_ok());
}

#[test]
fn status_tells_whether_answers_were_seen() {
    let mut conntrack = handle(&table(1024, 1), 0);
    let new = flow(1, Protocol::UDP);
    assert_eq!(conntrack.create(&new, 0).unwrap().status, Status::New);
    let reply = find(conntrack.table(), &new.reply, 0).unwrap();
    assert_eq!(conntrack.touch(reply.hit(), reply.translated.protocol, None, 0), Touch::Continues);
    let again = find(conntrack.table(), &new.original, 0).unwrap();
    assert_eq!(again.status, Status::Established);
}

#[test]
fn an_idle_flow_expires_and_a_used_one_does_not() {
    let mut conntrack = handle(&table(1024, 1), 0);
    let new = flow(1, Protocol::UDP);
    let made = conntrack.create(&new, 0).unwrap();
    assert_eq!(
        conntrack.touch(made.hit(), made.translated.protocol, None, 20 * SECOND),
        Touch::Continues
    );
    assert!(find(conntrack.table(), &new.original, 50 * SECOND).is_some());
    assert_eq!(conntrack.table().flows(50 * SECOND).count(), 1);
    assert_eq!(conntrack.sweep(1024, 50 * SECOND), 0);
    assert_eq!(find(conntrack.table(), &new.original, 50 * SECOND + TICK), None);
    assert_eq!(conntrack.table().flows(50 * SECOND + TICK).count(), 0);
    assert_eq!(conntrack.sweep(1024, 50 * SECOND + TICK), 1);
    let totals = conntrack.table().totals();
    assert_eq!((totals.live, totals.expired, totals.created), (0, 1, 1));
}

#[test]
fn an_expired_entry_makes_way_before_it_is_swept() {
    let mut conntrack = handle(&table(1024, 1), 0);
    let new = flow(1, Protocol::UDP);
    conntrack.create(&new, 0).unwrap();
    let entry = conntrack.create(&new, 31 * SECOND).unwrap();
    assert_eq!(find(conntrack.table(), &new.original, 31 * SECOND).unwrap().id, entry.id);
    assert_eq!(conntrack.table().totals().live, 1);
}

#[test]
fn a_syn_on_a_closed_connection_begins_a_new_one() {
    let mut conntrack = handle(&table(1024, 1), 0);
    let new = NewFlow { tcp: Some(Flags::SYN), ..flow(1, Protocol::TCP) };
    let entry = conntrack.create(&new, 0).unwrap();
    assert_eq!(
        conntrack.touch(entry.hit(), entry.translated.protocol, Some(Flags::SYN), 0),
        Touch::Continues
    );
    assert_eq!(
        conntrack.touch(entry.hit(), entry.translated.protocol, Some(Flags::RST), 0),
        Touch::Continues
    );
    assert_eq!(
        conntrack.touch(entry.hit(), entry.translated.protocol, Some(Flags::ACK), 0),
        Touch::Continues
    );
    assert_eq!(
        conntrack.touch(entry.hit(), entry.translated.protocol, Some(Flags::SYN), 0),
        Touch::Reopened
    );
    assert!(conntrack.remove(entry.hit()));
    assert!(!conntrack.remove(entry.hit()), "removed twice");
    assert!(conntrack.create(&new, 0).is_ok());
}

#[test]
fn a_packet_of_an_established_flow_writes_nothing_within_one_tick() {
    let mut conntrack = handle(&table(1024, 1), 0);
    let new = NewFlow { tcp: Some(Flags::ACK), ..flow(1, Protocol::TCP) };
    let entry = conntrack.create(&new, 0).unwrap();
    let reply = find(conntrack.table(), &new.reply, 0).unwrap();
    let words = |conntrack: &Conntrack| -> Vec<u64> {
        reserve::row(conntrack.table.rows.words(), entry.id.row)
            .unwrap()
            .iter()
            .map(Word::get)
            .collect()
    };
    let _ = conntrack.touch(reply.hit(), reply.translated.protocol, Some(Flags::ACK), TICK);
    let before = words(&conntrack);
    for entry in [entry, reply] {
        let _ =
            conntrack.touch(entry.hit(), entry.translated.protocol, Some(Flags::ACK), 2 * TICK - 1);
    }
    assert_eq!(words(&conntrack), before);
    let _ = conntrack.touch(entry.hit(), entry.translated.protocol, Some(Flags::ACK), 2 * TICK);
    assert_ne!(words(&conntrack), before);
}

#[test]
fn a_decision_is_kept_per_direction_and_generation() {
    let mut conntrack = handle(&table(1024, 1), 0);
    let new = flow(1, Protocol::UDP);
    let entry = conntrack.create(&new, 0).unwrap();
    assert_eq!(entry.decision.hop(0), None);
    let hop = CachedHop { interface: InterfaceId(4), neighbor: NeighborId::from_bits(0xabc_def0) };
    conntrack.confirm(entry.hit(), 9, hop);
    let there = find(conntrack.table(), &new.original, 0).unwrap().decision;
    let back = find(conntrack.table(), &new.reply, 0).unwrap().decision;
    assert_eq!((there.hop(9), there.hop(10), back.hop(9)), (Some(hop), None, None));
}

#[test]
fn a_decision_word_holds_its_largest_values() {
    let hop =
        CachedHop { interface: InterfaceId(4094), neighbor: NeighborId::from_bits(0x0fff_ffff) };
    assert_eq!(Decision::new(u64::MAX, hop).hop(u64::MAX), Some(hop));
    assert_eq!(Decision::new(0, hop).hop(0), Some(hop));
    let beyond = CachedHop { interface: InterfaceId(4095), ..hop };
    assert_eq!(Decision::new(1, beyond), Decision::NONE);
}

#[test]
fn a_full_table_refuses_and_recovers() {
    let mut conntrack = handle(&table(1024, 1), 0);
    let entries: Vec<_> = (0..1024)
        .map(|number| conntrack.create(&flow(number, Protocol::UDP), 0).unwrap())
        .collect();
    assert_eq!(conntrack.create(&flow(5000, Protocol::UDP), 0), Err(CreateError::Full));
    assert_eq!(conntrack.table().totals().full, 1);
    for (number, _) in entries.iter().enumerate() {
        let new = flow(number as u32, Protocol::UDP);
        assert!(find(conntrack.table(), &new.original, 0).is_some(), "established flows stay");
    }
    assert!(conntrack.remove(entries[3].hit()));
    conntrack.quiesce();
    conntrack.quiesce();
    assert!(conntrack.create(&flow(5000, Protocol::UDP), 0).is_ok());
}

#[test]
fn memory_is_not_reused_while_another_worker_is_in_its_burst() {
    let table = table(1024, 2);
    let mut writer = handle(&table, 0);
    let mut reader = handle(&table, 1);
    let entries: Vec<_> =
        (0..1024).map(|number| writer.create(&flow(number, Protocol::UDP), 0).unwrap()).collect();
    assert!(writer.remove(entries[0].hit()));
    for _ in 0..10 {
        writer.quiesce();
    }
    assert_eq!(writer.create(&flow(5000, Protocol::UDP), 0), Err(CreateError::Full));
    reader.quiesce();
    writer.quiesce();
    assert!(writer.create(&flow(5000, Protocol::UDP), 0).is_ok());
    // Asleep, it isn't waited for.
    reader.idle();
    assert!(writer.remove(entries[1].hit()));
    writer.quiesce();
    writer.quiesce();
    assert!(writer.create(&flow(5001, Protocol::UDP), 0).is_ok());
}

#[test]
fn what_one_handle_frees_another_uses() {
    let table = table(1024, 2);
    let mut maker = handle(&table, 0);
    let mut sweeper = handle(&table, 1);
    for round in 0..5 {
        let now = round * 100 * SECOND;
        let made =
            (0..1024).filter(|&n| maker.create(&flow(n, Protocol::UDP), now).is_ok()).count();
        // Up to a batch (16 here) may wait in the other handle's reserve.
        assert!(made >= 1024 - 2 * 16, "round {round}: {made}");
        assert_eq!(sweeper.sweep(2048, now + 31 * SECOND) as usize, made);
        for _ in 0..3 {
            maker.quiesce();
            sweeper.quiesce();
        }
    }
    assert_eq!(table.totals().live, 0);
}

#[test]
fn unfinished_handshakes_are_bounded_apart() {
    let table = table(4096, 1);
    let limits = Limits { half_open: 100 };
    let mut conntrack = Conntrack::new(table, 0, Seed::FIXED, Timeouts::default(), limits);
    let syn = |number| NewFlow { tcp: Some(Flags::SYN), ..flow(number, Protocol::TCP) };
    let first = conntrack.create(&syn(0), 0).unwrap();
    for number in 1..100 {
        conntrack.create(&syn(number), 0).unwrap();
    }
    assert_eq!(conntrack.create(&syn(100), 0), Err(CreateError::HalfOpenFull));
    assert!(conntrack.create(&flow(101, Protocol::UDP), 0).is_ok(), "others have room");
    let picked_up = NewFlow { tcp: Some(Flags::ACK), ..flow(102, Protocol::TCP) };
    assert!(conntrack.create(&picked_up, 0).is_ok());
    // One handshake is finished, one is removed, the rest time out: there is room again each time.
    let reply = find(conntrack.table(), &syn(0).reply, 0).unwrap();
    let _ = conntrack.touch(
        reply.hit(),
        reply.translated.protocol,
        Some(Flags(Flags::SYN.0 | Flags::ACK.0)),
        0,
    );
    assert_eq!(conntrack.table().totals().half_open, 100);
    let _ = conntrack.touch(first.hit(), first.translated.protocol, Some(Flags::ACK), 0);
    assert_eq!(conntrack.table().totals().half_open, 99);
    assert!(conntrack.create(&syn(100), 0).is_ok());
    let second = find(conntrack.table(), &syn(1).original, 0).unwrap();
    assert!(conntrack.remove(second.hit()));
    assert!(conntrack.create(&syn(103), 0).is_ok());
    assert_eq!(conntrack.create(&syn(104), 0), Err(CreateError::HalfOpenFull));
    conntrack.sweep(4096, 31 * SECOND);
    assert_eq!(conntrack.table().totals().half_open, 0);
}

#[test]
fn a_table_fills_to_the_last_entry() {
    // Five keys a bucket: no insert may meet two full ones.
    let mut conntrack = handle(&table(1 << 16, 1), 0);
    for number in 0..1 << 16 {
        conntrack.create(&flow(number, Protocol::UDP), 0).unwrap();
    }
    assert_eq!(conntrack.table().totals().live, 1 << 16);
}

#[test]
fn memory_per_entry_is_what_the_cost_model_says() {
    let layout = Layout::of(1 << 20, 3);
    assert_eq!(layout.rows * WORD, 64 << 20);
    assert_eq!(layout.sides * WORD, 48 << 20);
    assert_eq!(layout.index * WORD, 16 << 20);
    assert_eq!(layout.pool * WORD, 192 + 3 * 64);
}

#[test]
fn addresses_of_any_family_are_kept_whole() {
    let table = table(1024, 1);
    let mut conntrack = handle(&table, 0);
    let v6 = |text: &str| text.parse::<Addr>().unwrap();
    let addrs = [v6("2001:db8::1"), v6("2001:db8:1::2"), v6("2001:db8:2::3"), v6("2001:db8::4")];
    let v4 = tuple((1, 5), (2, 6), Protocol::TCP);
    let original = Tuple { src: addrs[0], dst: addrs[1], ..v4 };
    let reply = Tuple { src: addrs[2], dst: addrs[3], ..v4.reversed() };
    let only_v6 = NewFlow { original, reply, service: None, tcp: None, masqueraded: false };
    let mixed = NewFlow { original: Tuple { sport: 9, ..v4 }, reply, ..only_v6 };
    let mixed = NewFlow { reply: Tuple { dport: 9, ..mixed.reply }, ..mixed };
    for new in [only_v6, mixed] {
        let made = conntrack.create(&new, 0).unwrap();
        assert_eq!(made.translated, new.reply.reversed());
        let back = find(&table, &new.reply, 0).unwrap();
        assert_eq!((back.id, back.translated), (made.id, new.original.reversed()));
        assert_eq!(find(&table, &new.original, 0).unwrap().id, made.id);
    }
    // The last four bytes alone are not an address.
    let lookalike = Tuple { src: Addr::from_v4([0, 0, 0, 1]), ..original };
    assert_eq!(find(&table, &lookalike, 0), None);
    let shown: Vec<_> = table.flows(0).map(|flow| (flow.original, flow.reply)).collect();
    assert_eq!(shown, [(only_v6.original, only_v6.reply), (mixed.original, mixed.reply)]);
}

#[test]
fn a_hint_is_only_a_hint() {
    let table = table(1024, 1);
    let mut conntrack = handle(&table, 0);
    let [a, b] = [flow(1, Protocol::UDP), flow(2, Protocol::UDP)];
    let hash = |new: &NewFlow| Seed::FIXED.hash(&new.original);
    let early = table.probe(hash(&a), false);
    assert_eq!(table.find_at(early, &a.original, hash(&a), 0), None);
    let made = conntrack.create(&a, 0).unwrap();
    let other = conntrack.create(&b, 0).unwrap();
    let right = table.probe(hash(&a), false);
    let wrong = table.probe(hash(&b), false);
    for hint in [right, wrong, Hint::UNKNOWN] {
        assert_eq!(table.find_at(hint, &a.original, hash(&a), 0), Some(made.hit()));
    }
    assert!(conntrack.remove(made.hit()));
    assert_eq!(table.find_at(right, &a.original, hash(&a), 0), None);
    assert_eq!(table.find_at(right, &b.original, hash(&b), 0), Some(other.hit()));
}

#[test]
fn flows_show_what_was_tracked() {
    let mut conntrack = handle(&table(1024, 1), 0);
    let vip = tuple((1, 40_000), (100, 80), Protocol::TCP);
    let reply = tuple((7, 8080), (200, 50_000), Protocol::TCP);
    let new =
        NewFlow { original: vip, reply, service: None, tcp: Some(Flags::SYN), masqueraded: false };
    let entry = conntrack.create(&new, 10 * SECOND).unwrap();
    let _ = conntrack.touch(entry.hit(), entry.translated.protocol, Some(Flags::SYN), 15 * SECOND);
    let shown: Vec<_> = conntrack.table().flows(20 * SECOND).collect();
    let expected = Flow {
        original: vip,
        reply,
        service: None,
        masqueraded: false,
        tcp: Some(TcpState::SynSent),
        replied: false,
        age: 10 * SECOND,
        idle: 5 * SECOND,
        expires: 25 * SECOND,
    };
    assert_eq!(shown, [expected]);
    assert_eq!(expected.backend_endpoint(), Some((Addr::from_v4([10, 0, 0, 7]), 8080)));
    assert_eq!(expected.snat(), Some((Addr::from_v4([10, 0, 0, 200]), 50_000)));
}

#[test]
fn a_successor_takes_over_what_was_in_force() {
    let table = table(1024, 2);
    let mut dying = handle(&table, 0);
    let mut other = handle(&table, 1);
    for number in 0..600 {
        dying.create(&flow(number, Protocol::UDP), 0).unwrap();
    }
    let removed = other.create(&flow(700, Protocol::UDP), 0).unwrap();
    assert!(other.remove(removed.hit()));
    // Killed in the middle of an insert: written and findable, not in force.
    let half = flow(800, Protocol::UDP);
    let victim = dying.create(&half, 0).unwrap();
    let row = reserve::row(table.rows.words(), victim.id.row).unwrap();
    row[LIFE].set(Life(row[LIFE].get()).to(Phase::Pending).0);
    std::mem::forget((dying, other));

    assert_eq!(table.adopt(&Seed::FIXED), 600);
    let mut successor = handle(&table, 0);
    for number in 0..600 {
        let new = flow(number, Protocol::UDP);
        let entry = find(&table, &new.original, 0).unwrap();
        assert_eq!(entry.service, new.service);
        assert_eq!(find(&table, &new.reply, 0).unwrap().id, entry.id);
    }
    assert_eq!(find(&table, &half.original, 0), None);
    assert_eq!(table.totals().live, 600);
    for number in 1000..1000 + 424 {
        successor.create(&flow(number, Protocol::UDP), 0).unwrap();
    }
    assert_eq!(successor.create(&flow(2000, Protocol::UDP), 0), Err(CreateError::Full));
}

/// Four threads create, use, remove and sweep the same few flows. Each entry found is whole, and at the end
/// no tuple has two entries and the totals add up.
#[test]
fn threads_never_see_a_torn_or_doubled_entry() {
    const THREADS: usize = 4;
    let table = table(1024, THREADS);
    let whole = |entry: &Entry, asked: &NewFlow| {
        // The service tells which thread made it, and so what it must translate to.
        let ServiceId(backend) = entry.service.unwrap();
        let reply = with_backend(asked, backend).reply;
        assert_eq!(entry.translated, reply.reversed(), "torn");
    };
    std::thread::scope(|scope| {
        for number in 0..THREADS {
            let table = &table;
            scope.spawn(move || {
                let mut conntrack = handle(table, number);
                let mut state = number as u64 + 1;
                for turn in 0u64..60_000 {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let asked = flow((state >> 33) as u32 % 24, Protocol::UDP);
                    match find(table, &asked.original, turn) {
                        Some(entry) => {
                            whole(&entry, &asked);
                            let _ =
                                conntrack.touch(entry.hit(), entry.translated.protocol, None, turn);
                            if state >> 61 == 0 {
                                conntrack.remove(entry.hit());
                            }
                        }
                        None => {
                            match conntrack.create(&with_backend(&asked, number as u32), turn) {
                                Ok(entry) | Err(CreateError::Exists(entry)) => {
                                    whole(&entry, &asked)
                                }
                                // A thread that isn't running holds back all that others took out.
                                Err(CreateError::Full) => {
                                    conntrack.quiesce();
                                    std::thread::yield_now();
                                }
                                Err(error) => panic!("{error:?}"),
                            }
                        }
                    }
                    if turn % 16 == 0 {
                        conntrack.quiesce();
                    }
                    if turn % 1000 == 0 {
                        conntrack.sweep(64, turn);
                    }
                }
            });
        }
    });
    let mut tuples: Vec<_> = table.flows(0).flat_map(|flow| [flow.original, flow.reply]).collect();
    let count = tuples.len();
    tuples.sort();
    tuples.dedup();
    assert_eq!(tuples.len(), count, "a tuple has two entries");
    assert_eq!(table.totals().live as usize * 2, count);
    assert!(table.totals().created > 100);
}

/// The flow as thread `backend` would make it.
fn with_backend(asked: &NewFlow, backend: u32) -> NewFlow {
    let mut new = *asked;
    new.service = Some(ServiceId(backend));
    new.reply.src = Addr::from_v4([10, 1, 0, backend as u8]);
    new
}

#[test]
fn source_ports_in_use_are_counted_by_set_in_pieces_or_at_once() {
    let mut conntrack = handle(&table(1024, 1), 0);
    for n in 0..30 {
        let original = tuple((1, 1000 + n), (100, 80), Protocol::TCP);
        let reply = tuple((if n < 20 { 7 } else { 8 }, 8080), (200, 2000 + n), Protocol::TCP);
        let masqueraded = n % 10 != 0;
        let new = NewFlow { original, reply, service: None, tcp: None, masqueraded };
        let entry = conntrack.create(&new, 0).unwrap();
        if n == 1 {
            conntrack.remove(entry.hit());
        }
    }
    let sets = conntrack.table().fullest_snat(9);
    let seen: Vec<(u8, u32)> =
        sets.iter().map(|(set, ports)| (set.backend.v4().unwrap()[3], *ports)).collect();
    assert_eq!(seen, [(7, 17), (8, 9)]);
    assert_eq!(conntrack.table().fullest_snat(1).len(), 1);
    let (mut used, mut from) = (SnatUse::new(), Some(0));
    while let Some(at) = from {
        from = conntrack.table().count_snat(at, 7, &mut used);
    }
    assert_eq!(used.into_values().collect::<Vec<_>>(), [17, 9]);
}
