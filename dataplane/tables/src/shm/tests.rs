use super::{Seals, Segment, prefetch};
use crate::{Error, Tables, Writer, layout, writer::SegmentConfig};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use std::{
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, atomic::Ordering::Relaxed},
};

fn memfd(bytes: u64, seals: SealFlags) -> OwnedFd {
    let fd = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&fd, bytes).unwrap();
    fcntl_add_seals(&fd, seals).unwrap();
    fd
}

const FIXED: SealFlags = SealFlags::SHRINK.union(SealFlags::SEAL);

#[test]
fn a_reader_sees_what_the_writer_stores() {
    let writer = Segment::create("test", 10_000, Seals::OneWriter).unwrap();
    assert_eq!(writer.words().len(), 12_288 / 8);
    let reader = Segment::open(writer.fd().try_clone_to_owned().unwrap()).unwrap();
    writer.words()[1535].store(9, Relaxed);
    assert_eq!(reader.words()[1535].load(Relaxed), 9);
    prefetch(reader.words(), 1535);
    prefetch(reader.words(), usize::MAX);
}

#[test]
fn nobody_else_may_write_the_tables_or_shrink_anything() {
    let tables = Segment::create("test", 4096, Seals::OneWriter).unwrap();
    let again = tables.fd().try_clone_to_owned().unwrap();
    assert!(matches!(Segment::open_writable(again), Err(Error::System { .. })));
    assert!(ftruncate(tables.fd(), 0).is_err());
    assert!(ftruncate(tables.fd(), 8192).is_err());
    let state = Segment::create("test", 4096, Seals::Shared).unwrap();
    assert!(ftruncate(state.fd(), 0).is_err());
    let successor = Segment::open_writable(state.fd().try_clone_to_owned().unwrap()).unwrap();
    successor.words()[0].store(1, Relaxed);
    assert_eq!(state.words()[0].load(Relaxed), 1);
}

#[test]
fn what_could_vanish_or_is_no_memory_file_is_not_mapped() {
    let unsealed = memfd(4096, SealFlags::empty());
    assert!(matches!(Segment::open(unsealed), Err(Error::Unsealed { .. })));
    let unsealable = memfd(4096, SealFlags::GROW | SealFlags::SEAL);
    assert!(matches!(Segment::open(unsealable), Err(Error::Unsealed { .. })));
    assert!(matches!(Segment::open(memfd(0, FIXED)), Err(Error::Size { .. })));
    assert!(matches!(Segment::open(memfd(4095, FIXED)), Err(Error::Size { .. })));
    let file = OwnedFd::from(std::fs::File::open("/proc/self/exe").unwrap());
    assert!(matches!(Segment::open(file), Err(Error::System { .. })));
}

#[test]
fn tables_of_another_making_are_refused_with_both_versions() {
    let make =
        || Writer::create(&SegmentConfig { bytes: 2 << 20, ..SegmentConfig::default() }).unwrap();
    let writer = make();
    assert!(Tables::open(writer.fd().as_fd().try_clone_to_owned().unwrap()).is_ok());
    assert!(matches!(Tables::open(memfd(8, FIXED)), Err(Error::Magic { .. })));
    for (word, part) in [
        (layout::header::MAGIC, "not a tables segment"),
        (layout::header::ABI, "ABI version 12345, this build has 1"),
        (layout::header::LAYOUT, "layout 0x0000000000003039, this build has 0x"),
        (layout::header::BYTES, "segment of 2097152 bytes"),
    ] {
        let writer = make();
        let segment = Arc::clone(writer.tables().segment());
        segment.words()[word].store(12345, Relaxed);
        let error = Tables::over(segment).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}
