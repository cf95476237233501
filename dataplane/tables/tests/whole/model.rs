//! Random histories against a dumb model: what a snapshot shows is what was set when it was published, for as long as it
//! is pinned; and what is given up comes back to the last byte.

use crate::specs::{backend, frontend, v4};
use ipnet::IpNet;
use millrace_tables::{
    Error, InterfaceId, InterfaceKind, InterfaceRow, InterfaceSpec, NeighborRow, NextHop,
    ReaderEpoch, Readers, Route, RouteSpec, SegmentConfig, ServiceSpec, SetChoice, Slots, Snapshot,
    Writer, epoch,
    shm::{Seals, Segment},
};
use millrace_wire::{Addr, Mac};
use proptest::prelude::*;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

#[derive(Clone, Debug)]
enum Step {
    SetService {
        key: u8,
        vips: Vec<(u8, bool)>,
        backends: Vec<u8>,
        local: u8,
        v6: bool,
    },
    RemoveService(u8),
    SetRoute {
        prefix: u8,
        hops: Vec<(u8, u16)>,
    },
    SetLocal(u8),
    RemoveRoute(u8),
    SetNeighbor(u8, u8),
    RemoveNeighbor(u8),
    SetInterface(u8, u8),
    RemoveInterface(u8),
    Publish,
    /// Reader `n` enters the newest generation.
    Enter(usize),
    Idle(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let hops = prop::collection::vec((0u8..4, 1u16..4), 1..4);
    let vips = prop::collection::vec((0u8..10, any::<bool>()), 0..4);
    let backends = prop::collection::vec(0u8..40, 0..25);
    prop_oneof![
        6 => (0u8..8, vips, backends, any::<u8>(), any::<bool>())
            .prop_map(|(key, vips, backends, local, v6)| Step::SetService { key, vips, backends, local, v6 }),
        2 => (0u8..8).prop_map(Step::RemoveService),
        3 => (0u8..24, hops).prop_map(|(prefix, hops)| Step::SetRoute { prefix, hops }),
        1 => (0u8..24).prop_map(Step::SetLocal),
        2 => (0u8..24).prop_map(Step::RemoveRoute),
        2 => (0u8..12, any::<u8>()).prop_map(|(n, mac)| Step::SetNeighbor(n, mac)),
        1 => (0u8..12).prop_map(Step::RemoveNeighbor),
        1 => (0u8..4, 0u8..6).prop_map(|(id, n)| Step::SetInterface(id, n)),
        1 => (0u8..4).prop_map(Step::RemoveInterface),
        5 => Just(Step::Publish),
        4 => (0usize..3).prop_map(Step::Enter),
        1 => (0usize..3).prop_map(Step::Idle),
    ]
}

/// What was set, in maps.
#[derive(Clone, Debug, Default)]
struct Model {
    services: BTreeMap<String, ServiceSpec>,
    routes: BTreeMap<IpNet, RouteSpec>,
    neighbors: BTreeMap<(u16, Addr), Mac>,
    interfaces: BTreeMap<u16, InterfaceSpec>,
}

fn prefix(n: u8) -> IpNet {
    let text = match n {
        // Host routes on addresses that services use too.
        0..6 => format!("172.30.0.{n}/32"),
        6..10 => format!("2001:db8:30::{n}/128"),
        10..14 => format!("10.0.{n}.0/24"),
        14..18 => format!("10.0.0.0/{n}"),
        18..20 => format!("2001:db8:{n}::/48"),
        20 => "0.0.0.0/0".to_owned(),
        21 => "::/0".to_owned(),
        _ => format!("172.30.0.0/{n}"),
    };
    text.parse::<IpNet>().unwrap().trunc()
}

fn vip(n: u8, v6: bool) -> Addr {
    if v6 { format!("2001:db8:30::{n}").parse().unwrap() } else { v4(0xac1e_0000 + u32::from(n)) }
}

fn spec(key: &str, vips: &[(u8, bool)], backends: &[u8], local: u8, v6: bool) -> ServiceSpec {
    let unique: BTreeMap<u8, bool> = vips.iter().copied().collect();
    let members: BTreeSet<u8> = backends.iter().copied().collect();
    let address = |i: u8| {
        if v6 {
            format!("fd00::{}", u16::from(i) + 1).parse().unwrap()
        } else {
            v4(0x0a09_0001 + u32::from(i))
        }
    };
    ServiceSpec {
        name: format!("name of {key} {}", local % 3),
        frontends: unique
            .into_iter()
            .map(|(n, local)| {
                let set = if local { SetChoice::Local } else { SetChoice::Cluster };
                millrace_tables::FrontendSpec { set, ..frontend(vip(n, v6), 80) }
            })
            .collect(),
        backends: members
            .into_iter()
            .map(|i| {
                let mut b = backend(address(i), 8080, format!("pod-{i}"));
                b.in_local = i % 8 < local % 8;
                b.local = b.in_local;
                b.in_cluster = i % 5 != 4;
                b.weight = u16::from(i % 4);
                b
            })
            .collect(),
        affinity_seconds: u32::from(local),
        ..ServiceSpec::default()
    }
}

fn interface(id: u8, n: u8) -> InterfaceSpec {
    InterfaceSpec {
        id: InterfaceId(id.into()),
        kind: InterfaceKind(n % 4),
        mac: Mac([2, 0, 0, 0, id, n]),
        mtu: 1500 + u32::from(n),
        name: format!("interface-{id}-{}", "x".repeat(n.into())),
        addresses: (0..n).map(|i| format!("192.0.{i}.1/24").parse().unwrap()).collect(),
    }
}

impl Model {
    /// Does the step in both; the writer has to agree about whether anything was there.
    fn apply(&mut self, writer: &mut Writer, step: &Step) -> Result<(), TestCaseError> {
        match step {
            Step::SetService { key, vips, backends, local, v6 } => {
                let key = format!("key-{key}");
                let spec = spec(&key, vips, backends, *local, *v6);
                let taken = self.services.iter().any(|(other, held)| {
                    *other != key
                        && held
                            .frontends
                            .iter()
                            .any(|f| spec.frontends.iter().any(|g| g.addr == f.addr))
                });
                match writer.set_service(&key, &spec) {
                    Ok(()) if !taken => _ = self.services.insert(key, spec),
                    Err(Error::FrontendTaken { .. }) if taken => {}
                    other => prop_assert!(false, "taken: {taken}, but {other:?}"),
                }
            }
            Step::RemoveService(key) => {
                let key = format!("key-{key}");
                prop_assert_eq!(
                    writer.remove_service(&key).unwrap(),
                    self.services.remove(&key).is_some()
                );
            }
            Step::SetRoute { prefix: n, hops } => {
                let prefix = prefix(*n);
                let gateway = |i: u8| {
                    if prefix.addr().is_ipv4() {
                        v4(0xc000_0201 + u32::from(i))
                    } else {
                        vip(i + 1, true)
                    }
                };
                let unique: BTreeMap<u8, u16> = hops.iter().copied().collect();
                let hops = unique
                    .into_iter()
                    .map(|(i, weight)| {
                        (
                            NextHop {
                                interface: InterfaceId(i.into()),
                                gateway: (i > 0).then(|| gateway(i)),
                            },
                            weight,
                        )
                    })
                    .collect();
                let spec = RouteSpec::Forward(hops);
                writer.set_route(prefix, &spec).unwrap();
                self.routes.insert(prefix, spec);
            }
            Step::SetLocal(n) => {
                writer.set_route(prefix(*n), &RouteSpec::Local).unwrap();
                self.routes.insert(prefix(*n), RouteSpec::Local);
            }
            Step::RemoveRoute(n) => {
                prop_assert_eq!(
                    writer.remove_route(&prefix(*n)).unwrap(),
                    self.routes.remove(&prefix(*n)).is_some()
                );
            }
            Step::SetNeighbor(n, mac) => {
                let (on, addr, mac) =
                    (u16::from(n % 3), v4(0xc000_0210 + u32::from(*n)), Mac([2, 0, 0, 0, 0, *mac]));
                writer.set_neighbor(InterfaceId(on), addr, mac).unwrap();
                self.neighbors.insert((on, addr), mac);
            }
            Step::RemoveNeighbor(n) => {
                let (on, addr) = (u16::from(n % 3), v4(0xc000_0210 + u32::from(*n)));
                let was = self.neighbors.remove(&(on, addr)).is_some();
                prop_assert_eq!(writer.remove_neighbor(InterfaceId(on), &addr).unwrap(), was);
            }
            Step::SetInterface(id, n) => {
                writer.set_interface(&interface(*id, *n)).unwrap();
                self.interfaces.insert((*id).into(), interface(*id, *n));
            }
            Step::RemoveInterface(id) => {
                let was = self.interfaces.remove(&u16::from(*id)).is_some();
                prop_assert_eq!(writer.remove_interface(InterfaceId((*id).into())).unwrap(), was);
            }
            Step::Publish | Step::Enter(_) | Step::Idle(_) => {}
        }
        Ok(())
    }

    /// All routes, the VIPs' included.
    fn all_routes(&self) -> BTreeMap<IpNet, RouteSpec> {
        let vips = self
            .services
            .values()
            .flat_map(|s| &s.frontends)
            .map(|f| (IpNet::from(f.addr.to_ip()), RouteSpec::Vip));
        vips.chain(self.routes.clone()).collect()
    }

    fn check(&self, snapshot: Snapshot<'_>) -> Result<(), TestCaseError> {
        prop_assert_eq!(snapshot.services().count(), self.services.len());
        let fronts: usize = self.services.values().map(|s| s.frontends.len()).sum();
        prop_assert_eq!(snapshot.frontends().count(), fronts);
        for service in snapshot.services() {
            let spec = self.services.get(&snapshot.service_key(service.id));
            let Some(spec) = spec else {
                return Err(TestCaseError::fail("a service that was never set"));
            };
            prop_assert_eq!(&snapshot.service_name(service.id), &spec.name);
            prop_assert_eq!(service.affinity_seconds, spec.affinity_seconds);
            for front in &spec.frontends {
                let found = snapshot.frontend(&front.addr, front.port, front.protocol);
                prop_assert_eq!(found.map(|f| (f.service, f.set)), Some((service.id, front.set)));
                prop_assert!(snapshot.is_vip(&front.addr));
            }
            let listed: BTreeSet<(Addr, String)> =
                snapshot.named_backends(&service).map(|(b, name)| (b.addr, name)).collect();
            prop_assert_eq!(
                listed,
                spec.backends.iter().map(|b| (b.addr, b.name.clone())).collect()
            );
            for (set, member) in [
                (&service.cluster, (|b| b.in_cluster) as fn(&millrace_tables::BackendSpec) -> bool),
                (&service.local, |b| b.in_local),
            ] {
                let used = !set_is_local(set, &service) || spec.uses_local();
                let expected: BTreeSet<Addr> = spec
                    .backends
                    .iter()
                    .filter(|b| used && b.weight > 0 && member(b))
                    .map(|b| b.addr)
                    .collect();
                if used {
                    prop_assert_eq!(
                        snapshot.backends(set).map(|b| b.addr).collect::<BTreeSet<_>>(),
                        expected.clone()
                    );
                }
                prop_assert_eq!(usize::from(set.count), expected.len());
                for hash in [0, 1 << 63, u64::MAX, 0x0123_4567_89ab_cdef] {
                    let picked = snapshot.pick(set, hash).map(|b| b.addr);
                    prop_assert_eq!(picked.is_some(), !expected.is_empty());
                    prop_assert!(picked.is_none_or(|addr| expected.contains(&addr)));
                }
            }
        }
        for n in 0..10 {
            for v6 in [false, true] {
                let used =
                    self.services.values().flat_map(|s| &s.frontends).any(|f| f.addr == vip(n, v6));
                prop_assert_eq!(snapshot.is_vip(&vip(n, v6)), used);
            }
        }
        self.check_routes(snapshot)?;
        let neighbors: BTreeMap<(u16, Addr), Mac> = snapshot
            .static_neighbors()
            .map(|NeighborRow { interface, addr, mac }| ((interface.0, addr), mac))
            .collect();
        prop_assert_eq!(&neighbors, &self.neighbors);
        for ((on, addr), mac) in &self.neighbors {
            prop_assert_eq!(snapshot.static_neighbor(InterfaceId(*on), addr), Some(*mac));
        }
        let rows: Vec<InterfaceRow> = snapshot.interfaces().collect();
        prop_assert_eq!(rows.len(), self.interfaces.len());
        for (row, spec) in rows.iter().zip(self.interfaces.values()) {
            prop_assert_eq!(
                (row.id, row.mac, row.mtu, row.kind),
                (spec.id, spec.mac, spec.mtu, spec.kind)
            );
            prop_assert_eq!((&row.name, &row.addresses), (&spec.name, &spec.addresses));
        }
        Ok(())
    }

    fn check_routes(&self, snapshot: Snapshot<'_>) -> Result<(), TestCaseError> {
        let routes = self.all_routes();
        let shown: BTreeSet<IpNet> = snapshot.routes().map(|(prefix, _)| prefix).collect();
        prop_assert_eq!(shown, routes.keys().copied().collect());
        let near = routes.keys().flat_map(|prefix| [prefix.network(), prefix.broadcast()]);
        for ip in near.chain(["9.9.9.9".parse().unwrap(), "2001:db8:ffff::1".parse().unwrap()]) {
            let best = routes
                .iter()
                .filter(|(prefix, _)| prefix.contains(&ip))
                .max_by_key(|(prefix, _)| prefix.prefix_len());
            let found = snapshot.route(&Addr::from(ip));
            let destination = snapshot.destination(&Addr::from(ip));
            prop_assert_eq!(destination.route(), found);
            let fronts = self.services.values().flat_map(|s| &s.frontends);
            let has_frontends = fronts.into_iter().any(|f| f.addr == Addr::from(ip));
            prop_assert_eq!(destination.has_frontends(), has_frontends, "{}", ip);
            match (best.map(|(_, spec)| spec), found) {
                (None, None)
                | (Some(RouteSpec::Vip), Some(Route::Vip))
                | (Some(RouteSpec::Local), Some(Route::Local)) => {}
                (Some(RouteSpec::Forward(hops)), Some(Route::Forward(group))) => {
                    let mut shown = snapshot.next_hops(group);
                    shown.sort();
                    let mut hops = hops.clone();
                    hops.sort();
                    prop_assert_eq!(&shown, &hops);
                    let chosen = snapshot.next_hop(group, 0xdead_beef_0123_4567);
                    prop_assert!(chosen.is_some_and(|hop| hops.iter().any(|(h, _)| *h == hop)));
                }
                (want, got) => prop_assert!(false, "{ip}: {got:?}, not {want:?}"),
            }
        }
        Ok(())
    }
}

fn set_is_local(set: &millrace_tables::BackendSet, service: &millrace_tables::Service) -> bool {
    std::ptr::eq(set, &raw const service.local)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn every_pinned_generation_shows_what_was_published(steps in prop::collection::vec(step(), 1..120)) {
        let config = SegmentConfig { bytes: 32 << 20, ..SegmentConfig::default() };
        let mut writer = Writer::create(&config).unwrap();
        let state = Segment::create("state", epoch::bytes(3), Seals::Shared).unwrap();
        let slots = Slots::create(Arc::new(state), 3, 0).unwrap();
        writer.set_readers(Readers::Epochs(slots.epochs()));
        let empty = writer.usage();
        let tables = writer.tables();
        let mut readers: Vec<(ReaderEpoch, Option<(Snapshot<'_>, Model)>)> =
            (0..3).map(|slot| (slots.reader(slot).unwrap(), None)).collect();
        let (mut staged, mut published) = (Model::default(), Model::default());
        for step in &steps {
            staged.apply(&mut writer, step)?;
            match step {
                Step::Publish => {
                    writer.publish().unwrap();
                    published = staged.clone();
                    for (snapshot, model) in readers.iter().filter_map(|(_, pinned)| pinned.as_ref()) {
                        model.check(*snapshot)?;
                    }
                }
                Step::Enter(reader) => {
                    let (epoch, pinned) = &mut readers[*reader];
                    let snapshot = epoch.enter(&tables);
                    published.check(snapshot)?;
                    *pinned = Some((snapshot, published.clone()));
                }
                Step::Idle(reader) => {
                    let (epoch, pinned) = &mut readers[*reader];
                    epoch.idle();
                    *pinned = None;
                }
                _ => {}
            }
        }
        for (snapshot, model) in readers.iter().filter_map(|(_, pinned)| pinned.as_ref()) {
            model.check(*snapshot)?;
        }

        for (epoch, _) in &mut readers {
            epoch.idle();
        }
        writer.publish().unwrap();
        writer.reclaim();
        prop_assert_eq!(writer.usage().retired, 0);
        staged.check(tables.snapshot())?;
        for step in (0..24).flat_map(|n| {
            [Step::RemoveService(n), Step::RemoveRoute(n), Step::RemoveNeighbor(n), Step::RemoveInterface(n)]
        }) {
            staged.apply(&mut writer, &step)?;
        }
        writer.publish().unwrap();
        writer.reclaim();
        prop_assert_eq!(writer.usage(), empty);
    }
}
