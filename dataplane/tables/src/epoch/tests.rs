use super::{Epochs, IDLE, Slots, WAKING, bytes};
use crate::{
    Error, Readers, Writer,
    shm::{Seals, Segment},
    spec::ServiceSpec,
    writer::SegmentConfig,
};
use std::sync::{Arc, atomic::Ordering::Relaxed};

fn writer() -> Writer {
    Writer::create(&SegmentConfig { bytes: 4 << 20, ..SegmentConfig::default() }).unwrap()
}

fn slots(count: usize) -> Slots {
    let segment = Segment::create("state", bytes(count), Seals::Shared).unwrap();
    Slots::create(Arc::new(segment), count, 77).unwrap()
}

fn change(writer: &mut Writer, number: u32) -> u64 {
    let spec = ServiceSpec { name: format!("n{number}"), ..ServiceSpec::default() };
    writer.set_service("k", &spec).unwrap();
    writer.publish().unwrap()
}

#[test]
fn what_a_reader_pinned_is_kept_until_it_moves_on() {
    let (mut writer, slots) = (writer(), slots(3));
    writer.set_readers(Readers::Epochs(slots.epochs()));
    let tables = writer.tables();
    let (mut first, mut second) = (slots.reader(0).unwrap(), slots.reader(1).unwrap());
    change(&mut writer, 1);
    let old = first.enter(&tables);
    let name = |snapshot: crate::Snapshot<'_>| {
        snapshot.services().next().map(|s| snapshot.service_name(s.id))
    };
    assert_eq!(old.generation(), 2);
    for number in 2..20 {
        change(&mut writer, number);
        assert_eq!(second.enter(&tables).generation(), u64::from(number) + 1);
        assert_eq!(name(old), Some("n1".to_owned()));
        assert_eq!(writer.acknowledged(), 2);
    }
    assert!(writer.usage().retired > 0);
    assert_eq!(first.enter(&tables).generation(), 20);
    writer.reclaim();
    assert_eq!((writer.acknowledged(), writer.usage().retired), (20, 0));
    first.idle();
    second.idle();
    assert_eq!(slots.epochs().oldest(), IDLE);
    change(&mut writer, 20);
    assert_eq!(writer.acknowledged(), 21);
}

#[test]
fn without_known_readers_nothing_is_freed() {
    let mut writer = writer();
    for number in 1..10 {
        change(&mut writer, number);
    }
    writer.reclaim();
    assert_eq!(writer.acknowledged(), 0);
    assert!(writer.usage().retired > 0);
    writer.set_readers(Readers::Nobody);
    writer.reclaim();
    assert_eq!(writer.usage().retired, 0);
}

#[test]
fn a_reader_that_is_waking_holds_back_everything() {
    let (mut writer, slots) = (writer(), slots(1));
    writer.set_readers(Readers::Epochs(slots.epochs()));
    slots.segment().words()[super::HEADER_WORDS].store(WAKING, Relaxed);
    change(&mut writer, 1);
    change(&mut writer, 2);
    assert_eq!(writer.acknowledged(), 0);
    assert!(writer.usage().retired > 0);
}

#[test]
fn a_second_segment_is_entered_even_if_its_root_is_at_the_same_place() {
    let slots = slots(1);
    let mut reader = slots.reader(0).unwrap();
    let mut first = writer();
    change(&mut first, 1);
    let old = reader.enter(&first.tables()).generation();
    let mut second = Writer::create(&SegmentConfig {
        bytes: 4 << 20,
        generation: 100,
        ..SegmentConfig::default()
    })
    .unwrap();
    change(&mut second, 1);
    assert_eq!((old, reader.enter(&second.tables()).generation()), (2, 101));
    assert_eq!(slots.epochs().generation(0), Some(101));
}

#[test]
fn a_dropped_reader_is_idle_and_bursts_are_counted() {
    let slots = slots(2);
    let writer = writer();
    let mut reader = slots.reader(1).unwrap();
    reader.enter(&writer.tables());
    for _ in 0..3 {
        reader.count_burst();
    }
    let epochs = slots.epochs();
    assert_eq!(
        (epochs.generation(1), epochs.bursts(1), epochs.generation(0)),
        (Some(1), Some(3), None)
    );
    drop(reader);
    assert_eq!((epochs.generation(1), epochs.bursts(2)), (None, None));
    assert!(slots.reader(2).is_none());
}

#[test]
fn only_a_state_segment_has_epochs() {
    let slots = slots(4);
    let open = |segment: &Arc<Segment>| Epochs::open(Arc::clone(segment));
    let epochs = open(slots.segment()).unwrap();
    assert_eq!((epochs.count(), epochs.layout()), (4, 77));
    let words = slots.segment().words();
    words[3].store(u64::MAX, Relaxed);
    assert!(matches!(open(slots.segment()), Err(Error::Size { .. })));
    words[1].store(9, Relaxed);
    assert!(
        open(slots.segment()).unwrap_err().to_string().contains("ABI version 9, this build has 1")
    );
    words[0].store(1, Relaxed);
    assert!(matches!(open(slots.segment()), Err(Error::Magic { .. })));
    let small = Segment::create("state", 4096, Seals::Shared).unwrap();
    assert!(Slots::create(Arc::new(small), 1024, 0).is_err());
}
