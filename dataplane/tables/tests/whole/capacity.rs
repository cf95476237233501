//! Full size: 10,000 services with 10 endpoints each and one with 5,000; what they take, and what a change writes.

use crate::specs::{service, v4};
use millrace_tables::{Readers, Route, SegmentConfig, Table, Writer};

const SERVICES: u32 = 10_000;

#[test]
fn ten_thousand_services_fit_their_bytes_and_a_change_writes_little() {
    let mut writer =
        Writer::create(&SegmentConfig { bytes: 128 << 20, ..SegmentConfig::default() }).unwrap();
    writer.set_readers(Readers::Nobody);
    let empty = writer.usage();
    let key = |number: u32| format!("namespace-{}/service-{number}:http", number % 100);
    for number in 0..SERVICES {
        writer.set_service(&key(number), &service(number, 10)).unwrap();
    }
    writer.publish().unwrap();
    writer.reclaim();

    let usage = writer.usage();
    let each = |table: Table| (usage.of(table) - empty.of(table)) as f64 / f64::from(SERVICES);
    for table in Table::ALL {
        println!("{table:?}: {:.0} bytes a service", each(table));
    }
    let total = (usage.live() - empty.live()) / u64::from(SERVICES);
    println!("total: {total} bytes a service with 10 endpoints");
    assert!(total <= 2560, "{total} bytes a service");

    let tables = writer.tables();
    let snapshot = tables.snapshot();
    for number in (0..SERVICES).step_by(7) {
        let spec = service(number, 10);
        let vip = spec.frontends[0].addr;
        let frontend = snapshot.frontend(&vip, 80, 6).unwrap();
        let found = snapshot.service(frontend.service).unwrap();
        assert_eq!((found.id, found.cluster.count), (frontend.service, 10));
        assert_eq!(snapshot.route(&vip), Some(Route::Vip));
        let picked = snapshot.pick(&found.cluster, u64::from(number) << 40).unwrap();
        assert!(spec.backends.iter().any(|b| b.addr == picked.addr && b.port == picked.port));
        assert_eq!(snapshot.service_name(found.id), spec.name);
    }
    assert_eq!(snapshot.frontend(&v4(0xac1e_0000 + SERVICES), 80, 6), None);
    assert_eq!(snapshot.services().count(), SERVICES as usize);
    assert_eq!(snapshot.frontends().count(), SERVICES as usize);

    for number in [0, 4_999, 9_999] {
        let mut spec = service(number, 10);
        spec.backends[3].addr = v4(0x0aff_0000 + number);
        let before = writer.written();
        writer.set_service(&key(number), &spec).unwrap();
        writer.publish().unwrap();
        let written = writer.written() - before;
        println!("one endpoint of service {number}: {written} bytes written");
        assert!(written < 16 << 10, "{written} bytes written for one endpoint");
    }
    let after = writer.usage().live();
    assert_eq!(after, usage.live(), "a replaced endpoint takes no more than the one before");
}

#[test]
fn a_service_of_five_thousand_endpoints_is_served_by_all() {
    let mut writer =
        Writer::create(&SegmentConfig { bytes: 16 << 20, ..SegmentConfig::default() }).unwrap();
    writer.set_readers(Readers::Nobody);
    let spec = service(1, 5_000);
    writer.set_service("big", &spec).unwrap();
    writer.publish().unwrap();
    let tables = writer.tables();
    let snapshot = tables.snapshot();
    let found = snapshot.services().next().unwrap();
    assert_eq!(found.cluster.count, 5_000);
    let size = u64::from(found.cluster.table_size());
    let picked: std::collections::HashSet<_> = (0..4 * size)
        .map(|slot| {
            snapshot.pick(&found.cluster, slot.wrapping_mul(u64::MAX / (4 * size))).unwrap().addr
        })
        .collect();
    assert_eq!(picked.len(), 5_000);
    assert_eq!(snapshot.named_backends(&found).count(), 5_000);
    println!("{} bytes for a service of 5,000 endpoints", writer.usage().live());

    let mut fewer = spec.clone();
    let gone = fewer.backends.remove(77);
    let old: Vec<_> =
        (0..10_000u64).map(|i| snapshot.pick(&found.cluster, i << 50 | i).unwrap().addr).collect();
    writer.set_service("big", &fewer).unwrap();
    writer.publish().unwrap();
    let snapshot = tables.snapshot();
    let found = snapshot.services().next().unwrap();
    let moved = (0..10_000u64)
        .filter(|&i| {
            let now = snapshot.pick(&found.cluster, i << 50 | i).unwrap().addr;
            assert_ne!(now, gone.addr);
            now != old[i as usize]
        })
        .count();
    assert!(moved < 300, "{moved} of 10,000 flows moved");
}
