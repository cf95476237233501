use super::{Readers, SegmentConfig, Writer};
use crate::words::touched;
use crate::{
    BackendSpec, Error, FrontendKind, FrontendSpec, InterfaceId, NextHop, Route, RouteSpec,
    ServiceSpec, SetChoice, Table, Tables, WhenEmpty,
};
use millrace_wire::{Addr, Mac};

pub(crate) fn small() -> SegmentConfig {
    SegmentConfig { bytes: 16 << 20, seed: Some(7), ..SegmentConfig::default() }
}

fn v4(a: u8, b: u8, c: u8, d: u8) -> Addr {
    Addr::from_v4([a, b, c, d])
}

fn frontend(addr: Addr, port: u16) -> FrontendSpec {
    FrontendSpec {
        addr,
        port,
        protocol: 6,
        kind: FrontendKind::CLUSTER_IP,
        set: SetChoice::Cluster,
        flags: 0,
    }
}

fn backend(addr: Addr, port: u16) -> BackendSpec {
    BackendSpec {
        addr,
        port,
        name: format!("pod-{addr}"),
        weight: 1,
        local: false,
        terminating: false,
        in_cluster: true,
        in_local: false,
    }
}

fn web() -> ServiceSpec {
    ServiceSpec {
        name: "default/web:http".to_owned(),
        frontends: vec![frontend(v4(172, 30, 0, 41), 80)],
        backends: (1..=3).map(|i| backend(v4(10, 0, 0, i), 8080)).collect(),
        ..ServiceSpec::default()
    }
}

#[test]
fn what_is_staged_shows_only_after_publish() {
    let mut writer = Writer::create(&small()).unwrap();
    let tables = writer.tables();
    let vip = v4(172, 30, 0, 41);
    writer.set_service("default/web:http", &web()).unwrap();
    assert_eq!(tables.snapshot().frontend(&vip, 80, 6), None);
    assert_eq!(tables.snapshot().generation(), 1);
    assert_eq!(writer.publish().unwrap(), 2);
    let snapshot = tables.snapshot();
    let frontend = snapshot.frontend(&vip, 80, 6).unwrap();
    let service = snapshot.service(frontend.service).unwrap();
    assert_eq!((snapshot.generation(), service.cluster.count, service.local.count), (2, 3, 0));
    assert!(snapshot.is_vip(&vip) && !snapshot.is_vip(&v4(172, 30, 0, 42)));
    assert_eq!(snapshot.route(&vip), Some(Route::Vip));
    assert_eq!(snapshot.frontend(&vip, 81, 6), None);
    assert_eq!(snapshot.frontend(&vip, 80, 17), None);
    assert_eq!(snapshot.service_name(frontend.service), "default/web:http");
    let mut names: Vec<String> = snapshot.named_backends(&service).map(|(_, name)| name).collect();
    names.sort();
    assert_eq!(names, ["pod-10.0.0.1", "pod-10.0.0.2", "pod-10.0.0.3"]);
    assert_eq!(
        snapshot.backend_name(frontend.service, &v4(10, 0, 0, 2), 8080).as_deref(),
        Some("pod-10.0.0.2")
    );
    let picked = snapshot.pick(&service.cluster, 0x1234_5678_9abc_def0).unwrap();
    assert!(snapshot.backends(&service.cluster).any(|b| b == picked));
}

#[test]
fn publishing_nothing_keeps_the_generation() {
    let mut writer = Writer::create(&small()).unwrap();
    writer.set_service("default/web:http", &web()).unwrap();
    assert_eq!(writer.publish().unwrap(), 2);
    writer.set_service("default/web:http", &web()).unwrap();
    assert_eq!(writer.publish().unwrap(), 2);
    assert!(!writer.remove_service("default/other:http").unwrap());
    assert_eq!(writer.publish().unwrap(), 2);
}

#[test]
fn every_backend_is_picked_in_its_share_and_none_else() {
    let mut writer = Writer::create(&small()).unwrap();
    let mut spec = web();
    spec.backends[0].weight = 2;
    spec.backends[2].weight = 0;
    writer.set_service("default/web:http", &spec).unwrap();
    writer.publish().unwrap();
    let tables = writer.tables();
    let snapshot = tables.snapshot();
    let service = snapshot.services().next().unwrap();
    assert_eq!(service.cluster.count, 2);
    let mut picks = std::collections::HashMap::new();
    for i in 0..30_000u64 {
        let backend =
            snapshot.pick(&service.cluster, i.wrapping_mul(0x9e37_79b9_7f4a_7c15)).unwrap();
        *picks.entry(backend.addr).or_insert(0u32) += 1;
    }
    let share = |addr| f64::from(picks[&addr]) / 30_000.0;
    assert_eq!(picks.len(), 2);
    assert!((share(v4(10, 0, 0, 1)) - 2.0 / 3.0).abs() < 0.01, "{picks:?}");
}

#[test]
fn the_local_set_is_its_own_when_a_frontend_uses_it() {
    let mut writer = Writer::create(&small()).unwrap();
    let mut spec = web();
    spec.backends[1].local = true;
    spec.backends[1].in_local = true;
    spec.when_local_empty = WhenEmpty::Drop;
    spec.frontends.push(FrontendSpec {
        set: SetChoice::Local,
        kind: FrontendKind::LOAD_BALANCER,
        ..frontend(v4(192, 0, 2, 1), 80)
    });
    writer.set_service("k", &spec).unwrap();
    writer.publish().unwrap();
    let tables = writer.tables();
    let snapshot = tables.snapshot();
    let front = snapshot.frontend(&v4(192, 0, 2, 1), 80, 6).unwrap();
    let service = snapshot.service(front.service).unwrap();
    let set = service.set(front.set);
    assert_eq!(
        (set.count, set.when_empty, service.cluster.when_empty),
        (1, WhenEmpty::Drop, WhenEmpty::Reject)
    );
    let locals: Vec<Addr> = snapshot.backends(set).map(|b| b.addr).collect();
    assert_eq!(locals, [v4(10, 0, 0, 2)]);
    assert_eq!(snapshot.pick(set, 99).map(|b| b.addr), Some(v4(10, 0, 0, 2)));
    assert_eq!(snapshot.backends(&service.cluster).count(), 3);
}

#[test]
fn a_service_without_backends_says_so() {
    let mut writer = Writer::create(&small()).unwrap();
    writer.set_service("k", &ServiceSpec { backends: Vec::new(), ..web() }).unwrap();
    writer.publish().unwrap();
    let tables = writer.tables();
    let snapshot = tables.snapshot();
    let service = snapshot.services().next().unwrap();
    assert!(service.cluster.is_empty());
    assert_eq!(snapshot.pick(&service.cluster, 5), None);
    assert_eq!(service.cluster.when_empty, WhenEmpty::Reject);
}

#[test]
fn a_refused_service_changes_nothing() {
    let mut writer = Writer::create(&small()).unwrap();
    writer.set_service("a", &web()).unwrap();
    writer.publish().unwrap();
    let before = writer.usage();
    let refused = |writer: &mut Writer, key: &str, spec: ServiceSpec, why: &str| {
        let error = writer.set_service(key, &spec).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
        assert!(!writer.is_dirty());
    };
    refused(&mut writer, "b", web(), "belongs to service a");
    let two = |spec: &mut ServiceSpec| spec.frontends.push(spec.frontends[0]);
    let mut spec = web();
    two(&mut spec);
    refused(&mut writer, "a", spec, "listed twice");
    let mut spec = web();
    spec.backends.push(spec.backends[0].clone());
    refused(&mut writer, "a", spec, "listed twice");
    let mut spec = web();
    spec.backends.push(backend("2001:db8::1".parse().unwrap(), 80));
    refused(&mut writer, "a", spec, "another address family");
    let mut spec = web();
    spec.frontends.push(frontend("2001:db8::1".parse().unwrap(), 80));
    refused(&mut writer, "a", spec, "two address families");
    let mut spec = web();
    spec.backends[0].port = 0;
    refused(&mut writer, "a", spec, "has no port");
    let mut spec = web();
    spec.frontends[0].protocol = 0;
    refused(&mut writer, "a", spec, "port and protocol");
    let mut spec = web();
    spec.frontends[0].addr = v4(224, 0, 0, 1);
    refused(&mut writer, "a", spec, "can answer on");
    refused(&mut writer, "", web(), "1 to 1024 bytes");
    assert_eq!(writer.usage(), before);
}

#[test]
fn a_host_route_of_its_own_wins_over_the_vip_and_the_vip_comes_back() {
    let mut writer = Writer::create(&small()).unwrap();
    let vip = v4(172, 30, 0, 41);
    let prefix = "172.30.0.41/32".parse().unwrap();
    let tables = writer.tables();
    let route = |writer: &mut Writer| {
        writer.publish().unwrap();
        tables.snapshot().route(&vip)
    };
    writer.set_route(prefix, &RouteSpec::Local).unwrap();
    writer.set_service("a", &web()).unwrap();
    assert_eq!(route(&mut writer), Some(Route::Local));
    assert!(writer.remove_route(&prefix).unwrap());
    assert_eq!(route(&mut writer), Some(Route::Vip));
    assert!(!writer.remove_route(&prefix).unwrap());
    assert_eq!(route(&mut writer), Some(Route::Vip));
    writer.set_route(prefix, &RouteSpec::Local).unwrap();
    assert_eq!(route(&mut writer), Some(Route::Local));
    writer.remove_service("a").unwrap();
    assert_eq!(route(&mut writer), Some(Route::Local));
    assert!(writer.remove_route(&prefix).unwrap());
    assert_eq!(route(&mut writer), None);
}

#[test]
fn two_services_share_an_address_until_the_last_goes() {
    let mut writer = Writer::create(&small()).unwrap();
    let vip = v4(172, 30, 0, 41);
    let mut other = web();
    other.frontends[0].port = 443;
    writer.set_service("a", &web()).unwrap();
    writer.set_service("b", &other).unwrap();
    let tables = writer.tables();
    for (key, left) in [("a", true), ("b", false)] {
        writer.remove_service(key).unwrap();
        writer.publish().unwrap();
        assert_eq!(tables.snapshot().is_vip(&vip), left);
        assert_eq!(tables.snapshot().route(&vip), left.then_some(Route::Vip));
    }
    assert_eq!(tables.snapshot().frontends().count(), 0);
    assert_eq!(tables.snapshot().services().count(), 0);
}

#[test]
fn a_frontend_moves_from_one_service_to_another_in_one_generation() {
    let mut writer = Writer::create(&small()).unwrap();
    writer.set_service("a", &web()).unwrap();
    writer.publish().unwrap();
    writer.set_service("a", &ServiceSpec { frontends: Vec::new(), ..web() }).unwrap();
    writer.set_service("b", &ServiceSpec { name: "b".to_owned(), ..web() }).unwrap();
    writer.publish().unwrap();
    let tables = writer.tables();
    let snapshot = tables.snapshot();
    let frontend = snapshot.frontend(&v4(172, 30, 0, 41), 80, 6).unwrap();
    assert_eq!(snapshot.service_name(frontend.service), "b");
    assert_eq!(snapshot.route(&v4(172, 30, 0, 41)), Some(Route::Vip));
}

#[test]
fn everything_removed_leaves_nothing_but_the_root_record() {
    let mut writer = Writer::create(&small()).unwrap();
    writer.set_readers(Readers::Nobody);
    let hop = NextHop { interface: InterfaceId(0), gateway: Some(v4(192, 0, 2, 1)) };
    for i in 0..50u8 {
        let mut spec = web();
        spec.frontends[0].addr = v4(172, 30, 1, i);
        writer.set_service(&format!("s{i}"), &spec).unwrap();
        writer.set_neighbor(InterfaceId(1), v4(10, 1, 0, i + 1), Mac([2, 0, 0, 0, 0, i])).unwrap();
        writer
            .set_route(
                format!("10.{i}.0.0/16").parse().unwrap(),
                &RouteSpec::Forward(vec![(hop, 1)]),
            )
            .unwrap();
        writer.publish().unwrap();
    }
    for i in 0..50u8 {
        assert!(writer.remove_service(&format!("s{i}")).unwrap());
        assert!(writer.remove_neighbor(InterfaceId(1), &v4(10, 1, 0, i + 1)).unwrap());
        assert!(writer.remove_route(&format!("10.{i}.0.0/16").parse().unwrap()).unwrap());
        writer.publish().unwrap();
    }
    writer.reclaim();
    let usage = writer.usage();
    assert_eq!((usage.of(Table::Root), usage.retired), (128, 0), "{usage:?}");
    let left: Vec<u64> =
        [Table::Services, Table::Frontends, Table::Backends, Table::Names, Table::Neighbors]
            .map(|table| usage.of(table))
            .to_vec();
    assert_eq!(left, [0; 5], "{usage:?}");
}

#[test]
fn a_successor_keeps_service_numbers_and_goes_on_counting_generations() {
    let mut first = Writer::create(&small()).unwrap();
    for i in 0..20u8 {
        let mut spec = web();
        spec.frontends[0].addr = v4(172, 30, 1, i);
        first.set_service(&format!("s{i}"), &spec).unwrap();
    }
    first.remove_service("s3").unwrap();
    first.publish().unwrap();
    let mut second = Writer::succeed(&small(), first.tables().snapshot()).unwrap();
    assert!(second.generation() > first.generation());
    for i in (0..20u8).rev() {
        let mut spec = web();
        spec.frontends[0].addr = v4(172, 30, 1, i);
        second.set_service(&format!("s{i}"), &spec).unwrap();
    }
    for i in (0..20).filter(|&i| i != 3) {
        let key = format!("s{i}");
        assert_eq!(first.service_id(&key), second.service_id(&key));
    }
    let mut ids: Vec<_> = (0..20).map(|i| second.service_id(&format!("s{i}"))).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 20);
}

#[test]
fn a_full_segment_refuses_and_still_removes() {
    let mut writer = Writer::create(&SegmentConfig { bytes: super::MIN_BYTES, ..small() }).unwrap();
    writer.set_readers(Readers::Nobody);
    let mut made = 0u16;
    let error = loop {
        let mut spec = web();
        let [high, low] = made.to_be_bytes();
        spec.frontends[0].addr = v4(172, 30, high, low);
        match writer.set_service(&format!("s{made}"), &spec) {
            Ok(()) => made += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Full { .. }), "{error}");
    assert!(made > 50, "{made}");
    writer.publish().unwrap();
    assert_eq!(writer.tables().snapshot().services().count(), usize::from(made));
    for i in 0..made {
        assert!(writer.remove_service(&format!("s{i}")).unwrap());
        writer.publish().unwrap();
    }
    assert_eq!(writer.usage().of(Table::Backends), 0);
    writer.set_service("again", &web()).unwrap();
}

#[test]
fn an_image_shows_what_the_segment_showed() {
    let mut writer = Writer::create(&small()).unwrap();
    writer.set_service("a", &web()).unwrap();
    writer.publish().unwrap();
    let path = std::env::temp_dir().join(format!("millrace-image-{}", std::process::id()));
    writer.write_image(&path).unwrap();
    writer.remove_service("a").unwrap();
    writer.publish().unwrap();
    let image = Tables::open_image(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let snapshot = image.snapshot();
    assert_eq!(snapshot.generation(), 2);
    assert_eq!(snapshot.services().count(), 1);
    assert_eq!(snapshot.route(&v4(172, 30, 0, 41)), Some(Route::Vip));
    assert!(Tables::open_image(std::path::Path::new("/dev/null")).is_err());
}

/// The cost model of a new flow, in cache lines: README.md, §Costs.
#[test]
fn a_new_flow_to_one_of_ten_thousand_services_touches_the_lines_that_are_said() {
    let mut writer = Writer::create(&SegmentConfig { bytes: 64 << 20, ..small() }).unwrap();
    writer.set_readers(Readers::Nobody);
    let vip = |number: u32| Addr::from_v4((0xac10_0000 + number).to_be_bytes());
    for number in 0..10_000 {
        let spec = ServiceSpec {
            frontends: vec![frontend(vip(number), 80)],
            backends: (0..2).map(|i| backend(v4(10, 0, 0, i), 8080)).collect(),
            ..ServiceSpec::default()
        };
        writer.set_service(&format!("service-{number}"), &spec).unwrap();
    }
    let large = ServiceSpec {
        frontends: vec![frontend(vip(10_000), 80)],
        backends: (0..=255)
            .flat_map(|i| [v4(10, 0, 1, i), v4(10, 0, 2, i)])
            .map(|addr| backend(addr, 8080))
            .collect(),
        ..ServiceSpec::default()
    };
    writer.set_service("large", &large).unwrap();
    writer.publish().unwrap();
    let tables = writer.tables();
    let snapshot = tables.snapshot();
    let mut deeper = 0;
    let mut above = std::collections::BTreeSet::<usize>::new();
    for number in 0..=10_000 {
        let (found, lines) = touched::by(|| snapshot.frontend(&vip(number), 80, 6).unwrap());
        // The root record, a slot in each of two nodes, and one line with the entry; the few leaves that are full are one deeper.
        assert!((4..=5).contains(&lines.len()), "service {number}: {lines:?}");
        deeper += usize::from(lines.len() == 5);
        above.extend(&lines[..lines.len() - 1]);
        let (_, missed) = touched::by(|| snapshot.frontend(&vip(number), 81, 6));
        assert!(missed.len() <= 5, "port 81 of service {number}: {missed:?}");
        let (service, lines) = touched::by(|| snapshot.service(found.service).unwrap());
        // The root record, three nodes of the index, the row.
        assert_eq!(lines.len(), 5, "service {number}: {lines:?}");
        let hash = u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let (backend, lines) = touched::by(|| snapshot.pick(&service.cluster, hash));
        assert!(backend.is_some());
        // The table and the record; of a large service a directory before each.
        assert_eq!(lines.len(), if number == 10_000 { 4 } else { 2 }, "service {number}");
    }
    // What isn't the entry's own line stays in the first caches: 65 nodes of four lines, and the root record.
    assert!(above.len() <= 70 * 4 + 1, "{} lines above the entries", above.len());
    assert!(deeper <= 50, "{deeper} of 10,000");
}
