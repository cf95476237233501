//! Inserts, lookups, removals and reuse of one small table under loom, which tries all interleavings and
//! all values that relaxed loads may give (with at most [`PREEMPTIONS`] preemptions).
//!
//! Keys hash with the fixed seed, so a model's tuples can be chosen to meet in one bucket.

use super::*;
use crate::flow::Direction;
use crate::state::index;
use crate::state::word::model::Cells;
use loom::thread;
use millrace_wire::{Addr, Protocol};

const PREEMPTIONS: usize = 3;

fn model(body: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS);
    builder.max_branches = 20_000;
    builder.check(body);
}

fn table(capacity: u32, handles: usize) -> Table<Cells> {
    let layout = Layout::of(capacity, handles);
    let [index, rows, sides, pool] =
        [layout.index, layout.rows, layout.sides, layout.pool].map(Cells::new);
    let table = Table::new(index, rows, sides, pool, capacity, handles).unwrap();
    table.initialize();
    table
}

fn handle(table: &Table<Cells>, number: usize) -> Conntrack<Cells> {
    let limits = Limits { half_open: 1000 };
    Conntrack::new(table.clone(), number, Seed::FIXED, Timeouts::default(), limits)
}

/// Flow `number`'s first tuple.
fn original(number: u16) -> Tuple {
    Tuple {
        src: Addr::from_v4([10, 0, 0, 1]),
        dst: Addr::from_v4([10, 9, 9, 9]),
        sport: number,
        dport: 80,
        protocol: Protocol::UDP,
    }
}

/// A flow to `backend`.
fn flow(number: u16, backend: u8) -> NewFlow {
    let mut reply = original(number).reversed();
    reply.src = Addr::from_v4([10, 0, 1, backend]);
    let service = Some(ServiceId(backend.into()));
    NewFlow { original: original(number), reply, service, tcp: None, masqueraded: false }
}

/// The backend of an entry, by its service's number.
fn backend(entry: &Entry) -> u8 {
    entry.service.and_then(|ServiceId(id)| u8::try_from(id).ok()).unwrap()
}

fn find(table: &Table<Cells>, tuple: &Tuple) -> Option<Entry> {
    table.find(tuple, Seed::FIXED.hash(tuple), 0).and_then(|hit| table.entry(hit))
}

/// What a lookup may give at any time: the entry that was asked for, whole, or none.
fn check(table: &Table<Cells>, number: u16) -> Option<Entry> {
    let found = find(table, &original(number))?;
    assert_eq!(found.direction, Direction::Original);
    assert_eq!(found.translated, flow(number, backend(&found)).reply.reversed(), "torn entry");
    Some(found)
}

/// Two workers insert the same tuple with different backends: one entry, and both know it.
#[test]
fn two_inserts_of_one_tuple_end_with_one_entry() {
    model(|| {
        let table = table(16, 2);
        let other = {
            let mut conntrack = handle(&table, 1);
            thread::spawn(move || (conntrack.create(&flow(7, 2), 0), conntrack))
        };
        let mut conntrack = handle(&table, 0);
        let mine = conntrack.create(&flow(7, 1), 0);
        let (theirs, _other) = other.join().unwrap();
        let found = check(&table, 7).expect("one of them made it");
        match (mine, theirs) {
            (Ok(entry), Err(CreateError::Exists(same)))
            | (Err(CreateError::Exists(same)), Ok(entry)) => {
                assert_eq!((entry.id, same.id), (found.id, found.id));
            }
            outcome => panic!("{outcome:?}"),
        }
        assert_eq!(table.totals().live, 1);
        assert_eq!(table.flows(0).count(), 1);
    });
}

/// The same when the two put the tuple into different slots of its bucket, so that neither's
/// compare-and-exchange tells it of the other: the fences have to.
#[test]
fn two_inserts_into_different_slots_end_with_one_entry() {
    // A flow in the first slot of the tuple's bucket, which the other thread removes.
    let bucket = |tuple: &Tuple| index::bucket(32 / 2, Seed::FIXED.hash(tuple), 0);
    let leaving = (100..)
        .map(|number| flow(number, 3))
        .find(|other| {
            bucket(&other.original) == bucket(&original(7))
                && bucket(&other.reply) != bucket(&original(7))
        })
        .unwrap();
    model(move || {
        let table = table(16, 2);
        assert_eq!(table.index.words().len(), 32);
        let mut conntrack = handle(&table, 0);
        let leaving = conntrack.create(&leaving, 0).unwrap();
        let other = {
            let mut conntrack = handle(&table, 1);
            thread::spawn(move || {
                assert!(conntrack.remove(leaving.hit()));
                (conntrack.create(&flow(7, 2), 0), conntrack)
            })
        };
        let mine = conntrack.create(&flow(7, 1), 0);
        let (theirs, _other) = other.join().unwrap();
        let made = [mine, theirs].iter().filter(|outcome| outcome.is_ok()).count();
        let of_tuple = table.flows(0).filter(|flow| flow.original == original(7)).count();
        assert_eq!((made, of_tuple), (1, 1), "{mine:?} {theirs:?}");
        assert!(check(&table, 7).is_some());
    });
}

/// Two flows want the same reply tuple (the same backend seen through the same SNAT port): one gets it.
#[test]
fn two_flows_never_share_a_reply_tuple() {
    model(|| {
        let table = table(16, 2);
        let claim = |number: u16| NewFlow { reply: flow(1, 1).reply, ..flow(number, 1) };
        let other = {
            let mut conntrack = handle(&table, 1);
            let new = claim(2);
            thread::spawn(move || (conntrack.create(&new, 0), conntrack))
        };
        let mut conntrack = handle(&table, 0);
        let mine = conntrack.create(&claim(1), 0);
        let (theirs, _other) = other.join().unwrap();
        let outcomes = [mine.is_ok(), theirs.is_ok()];
        assert!(outcomes == [true, false] || outcomes == [false, true], "{mine:?} {theirs:?}");
        for outcome in [mine, theirs] {
            assert!(matches!(outcome, Ok(_) | Err(CreateError::ReplyTaken)), "{outcome:?}");
        }
        assert_eq!(table.flows(0).count(), 1);
    });
}

/// A reader in a burst, while another thread removes the entry and fills its memory with another flow.
#[test]
fn an_entry_stays_whole_until_the_readers_burst_ends() {
    model(|| reuse_under_a_reader(false));
}

/// The same with a reader that wakes up meanwhile.
#[test]
fn an_entry_stays_whole_for_a_reader_that_wakes() {
    model(|| reuse_under_a_reader(true));
}

fn reuse_under_a_reader(asleep: bool) {
    let table = table(1, 2);
    let mut writer = handle(&table, 1);
    let first = writer.create(&flow(1, 1), 0).unwrap();
    let reader = {
        let table = table.clone();
        let mut conntrack = handle(&table, 0);
        if asleep {
            conntrack.idle();
        }
        thread::spawn(move || {
            if asleep {
                conntrack.quiesce();
            }
            if let Some(found) = check(&table, 1) {
                assert_eq!(backend(&found), 1);
                // Still in the burst: what the packet found may be written through.
                let _ = conntrack.touch(found.hit(), found.translated.protocol, None, 0);
            }
            conntrack.quiesce();
            check(&table, 1);
            check(&table, 2);
            conntrack.idle();
        })
    };
    assert!(writer.remove(first.hit()));
    writer.quiesce();
    writer.quiesce();
    let second = writer.create(&flow(2, 2), 0);
    reader.join().unwrap();
    match second {
        Ok(_) => assert_eq!(backend(&check(&table, 2).unwrap()), 2),
        Err(error) => assert_eq!(error, CreateError::Full, "the reader still held it back"),
    }
    assert_eq!(check(&table, 1), None);
}

/// Two threads remove one entry: one of them does.
#[test]
fn an_entry_is_removed_once() {
    model(|| {
        let table = table(16, 2);
        let mut conntrack = handle(&table, 0);
        let entry = conntrack.create(&flow(1, 1), 0).unwrap();
        let other = {
            let mut conntrack = handle(&table, 1);
            thread::spawn(move || (conntrack.remove(entry.hit()), conntrack))
        };
        let mine = conntrack.remove(entry.hit());
        let (theirs, _other) = other.join().unwrap();
        assert!(mine != theirs, "{mine} {theirs}");
        assert_eq!(table.totals().live, 0);
        assert_eq!(check(&table, 1), None);
    });
}
