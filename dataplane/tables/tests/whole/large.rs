//! A service whose backends come and go by the hundred: whatever its history, it serves as one that is made at once.

use crate::specs::{Random, backend, frontend, v4};
use millrace_tables::{
    BackendSpec, Readers, SegmentConfig, ServiceSpec, SetChoice, Snapshot, Writer,
};
use std::collections::BTreeMap;

const KEY: &str = "default/large:http";

fn writer() -> Writer {
    let config = SegmentConfig { bytes: 32 << 20, seed: Some(5), ..SegmentConfig::default() };
    let mut writer = Writer::create(&config).unwrap();
    writer.set_readers(Readers::Nobody);
    writer
}

/// Everything that packets and people see of the service.
fn seen(snapshot: Snapshot<'_>) -> (Vec<String>, Vec<Vec<Option<String>>>) {
    let service = snapshot.services().next().unwrap();
    let mut backends: Vec<String> = snapshot
        .named_backends(&service)
        .map(|(backend, name)| format!("{backend:?} {name}"))
        .collect();
    backends.sort();
    let picks = [&service.cluster, &service.local].map(|set| {
        // A set that no frontend uses isn't made.
        let members = snapshot.backends(set).count();
        assert!(set.is_empty() || members == usize::from(set.count));
        (0..4_000u64)
            .map(|n| {
                let hash = n.wrapping_mul(0x0010_6268_a7c5_5a3f);
                snapshot.pick(set, hash).map(|b| format!("{} {}", b.addr, b.port))
            })
            .collect()
    });
    (backends, picks.to_vec())
}

fn spec(backends: &BTreeMap<u32, BackendSpec>, local: bool) -> ServiceSpec {
    let set = if local { SetChoice::Local } else { SetChoice::Cluster };
    ServiceSpec {
        name: KEY.to_owned(),
        frontends: vec![millrace_tables::FrontendSpec { set, ..frontend(v4(0xac1e_0001), 80) }],
        backends: backends.values().cloned().collect(),
        ..ServiceSpec::default()
    }
}

#[test]
fn a_history_of_changes_ends_where_a_fresh_start_does() {
    let mut writer = writer();
    let empty = writer.usage();
    let mut random = Random(11);
    let mut backends: BTreeMap<u32, BackendSpec> = BTreeMap::new();
    let mut sizes = BTreeMap::new();
    for round in 0..120 {
        // Around the border between the two forms, and well above it.
        let aim = [230, 256, 258, 900][random.below(4)];
        let steps = if round % 3 == 0 { aim } else { 1 + random.below(20) };
        for _ in 0..steps {
            let place = random.below(2 * aim) as u32;
            match random.below(5) {
                0 if backends.len() > aim => _ = backends.remove(&place),
                1 => {
                    if let Some(backend) = backends.get_mut(&place) {
                        backend.weight = random.below(4) as u16;
                        backend.in_local = random.below(2) == 0;
                        backend.in_cluster = random.below(8) > 0;
                    }
                }
                _ if backends.len() < aim => {
                    let name = format!("default/large-{place:x}-{}", random.below(9));
                    let new = backend(v4(0x0a00_0000 + place), 8080, name);
                    backends.insert(place, BackendSpec { in_local: true, ..new });
                }
                _ => _ = backends.pop_first(),
            }
        }
        let spec = spec(&backends, round % 7 < 3);
        writer.set_service(KEY, &spec).unwrap();
        if random.below(3) > 0 {
            writer.publish().unwrap();
        }
        *sizes.entry(backends.len() > 256).or_insert(0) += 1;
        if round % 4 == 0 {
            writer.publish().unwrap();
            let mut fresh = self::writer();
            fresh.set_service(KEY, &spec).unwrap();
            fresh.publish().unwrap();
            assert_eq!(seen(writer.tables().snapshot()), seen(fresh.tables().snapshot()));
            writer.reclaim();
            assert_eq!(writer.usage().retired, 0);
        }
    }
    assert!(sizes[&true] > 20 && sizes[&false] > 20, "{sizes:?}");
    writer.remove_service(KEY).unwrap();
    writer.publish().unwrap();
    writer.reclaim();
    assert_eq!(writer.usage(), empty, "all that was taken is given back");
}

#[test]
fn one_endpoint_of_five_thousand_costs_what_it_changes() {
    let mut writer = writer();
    let all = (0..5_000).map(|place| {
        (place, backend(v4(0x0a00_0000 + place), 8080, format!("default/large-{place:x}")))
    });
    let mut backends: BTreeMap<u32, BackendSpec> = all.collect();
    writer.set_service(KEY, &spec(&backends, false)).unwrap();
    writer.publish().unwrap();
    let full = writer.usage().live();
    for (round, place) in [0u32, 2_500, 4_999, 17].into_iter().enumerate() {
        // A pod is replaced by one with another address.
        backends.remove(&place);
        let new = v4(0x0b00_0000 + place);
        backends.insert(10_000 + place, backend(new, 8080, format!("default/new-{place:x}")));
        let before = writer.written();
        writer.set_service(KEY, &spec(&backends, false)).unwrap();
        writer.publish().unwrap();
        let written = writer.written() - before;
        println!("change {round}: {written} bytes written");
        assert!(written < 32 << 10, "{written} bytes written for one endpoint of 5,000");
        // One that is draining stays where it is.
        let draining = backends.get_mut(&(round as u32 + 40)).unwrap();
        draining.terminating = true;
        let before = writer.written();
        writer.set_service(KEY, &spec(&backends, false)).unwrap();
        writer.publish().unwrap();
        let written = writer.written() - before;
        assert!(written < 8 << 10, "{written} bytes written for a flag");
    }
    writer.reclaim();
    assert!(writer.usage().live() < full + 2_048, "no more than before");
}
