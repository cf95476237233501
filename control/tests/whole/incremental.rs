//! Whatever the history, the tables that grew by increments say the same as tables made from the final objects at once.

use std::collections::BTreeSet;

use millrace_control::{Compiler, Store, World, apply, world::NodeView};
use millrace_tables::{Readers, SegmentConfig, Snapshot, Writer};
use proptest::{prelude::*, sample::select};
use serde_json::{Value, json};

/// One event of a source.
#[derive(Clone, Debug)]
enum Event {
    Service(ServiceShape),
    Slice(SliceShape),
    DeleteService(u8),
    DeleteSlice(u8),
    NodeAddresses(Vec<u8>),
    /// What has come so far is compiled and published as one generation.
    Publish,
}

#[derive(Clone, Debug)]
struct ServiceShape {
    name: u8,
    cluster_ip: u8,
    external_ips: Vec<u8>,
    ports: Vec<(u8, u16, u16)>,
    local: (bool, bool),
    dual: bool,
}

#[derive(Clone, Debug)]
struct SliceShape {
    name: u8,
    service: u8,
    v4: bool,
    port: (u8, u16),
    endpoints: Vec<(u8, u8, bool, bool)>,
}

/// Few names and addresses, so that histories meet the same ones again: moves, takeovers and conflicts are the point.
fn event() -> impl Strategy<Value = Event> {
    let service = (
        0..4u8,
        1..6u8,
        prop::collection::vec(1..6u8, 0..3),
        prop::collection::vec((0..3u8, 80..83u16, select(vec![0u16, 30080, 30081])), 0..3),
        any::<(bool, bool)>(),
        any::<bool>(),
    )
        .prop_map(|(name, cluster_ip, external_ips, ports, local, dual)| {
            Event::Service(ServiceShape { name, cluster_ip, external_ips, ports, local, dual })
        });
    let slice = (
        0..6u8,
        0..4u8,
        any::<bool>(),
        (0..3u8, 8080..8082u16),
        prop::collection::vec((1..9u8, 0..3u8, any::<bool>(), any::<bool>()), 0..6),
    )
        .prop_map(|(name, service, v4, port, endpoints)| {
            Event::Slice(SliceShape { name, service, v4, port, endpoints })
        });
    prop_oneof![
        4 => service,
        5 => slice,
        1 => (0..4u8).prop_map(Event::DeleteService),
        2 => (0..6u8).prop_map(Event::DeleteSlice),
        1 => prop::collection::vec(1..4u8, 0..3).prop_map(Event::NodeAddresses),
        4 => Just(Event::Publish),
    ]
}

fn service_object(shape: &ServiceShape) -> Value {
    let policy = |local| if local { "Local" } else { "Cluster" };
    let mut cluster_ips = vec![format!("172.30.0.{}", shape.cluster_ip)];
    if shape.dual {
        cluster_ips.push(format!("fd00:30::{}", shape.cluster_ip));
    }
    // External addresses are other services' cluster addresses too: claims have to be settled.
    let external: Vec<String> =
        shape.external_ips.iter().map(|last| format!("172.30.0.{last}")).collect();
    let ports: Vec<Value> = shape.ports.iter().map(|(name, port, node_port)| json!({"name": format!("p{name}"), "port": port, "nodePort": node_port})).collect();
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("s{}", shape.name)}, "spec": {
        "clusterIPs": cluster_ips, "externalIPs": external, "ports": ports,
        "internalTrafficPolicy": policy(shape.local.0), "externalTrafficPolicy": policy(shape.local.1)}})
}

fn slice_object(shape: &SliceShape) -> Value {
    let endpoints: Vec<Value> = shape
        .endpoints
        .iter()
        .map(|(last, node, ready, terminating)| {
            let addr = if shape.v4 { format!("10.0.0.{last}") } else { format!("fd00::{last}") };
            json!({"addresses": [addr], "nodeName": format!("node-{node}"), "conditions": {"ready": ready, "serving": true, "terminating": terminating}})
        })
        .collect();
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": format!("e{}", shape.name), "labels": {"kubernetes.io/service-name": format!("s{}", shape.service)}},
        "addressType": if shape.v4 { "IPv4" } else { "IPv6" }, "ports": [{"name": format!("p{}", shape.port.0), "port": shape.port.1}], "endpoints": endpoints})
}

fn world(addresses: &[u8]) -> World {
    let addresses: BTreeSet<u8> = addresses.iter().copied().collect();
    let node_port_addresses = addresses
        .into_iter()
        .map(|last| std::net::IpAddr::from([192, 168, 0, last]).into())
        .collect();
    World {
        node: NodeView { name: "node-0".into(), node_port_addresses, ..NodeView::default() },
        ..World::default()
    }
}

fn writer() -> Writer {
    let mut writer = Writer::create(&SegmentConfig {
        bytes: 8 << 20,
        seed: Some(7),
        ..SegmentConfig::default()
    })
    .unwrap();
    writer.set_readers(Readers::Nobody);
    writer
}

/// Everything packets can see, by name rather than by number.
fn seen(snapshot: Snapshot<'_>) -> BTreeSet<String> {
    let frontends = snapshot.frontends().map(|row| {
        let service = snapshot.service(row.frontend.service).expect("service of a frontend");
        let set = service.set(row.frontend.set);
        let backends: BTreeSet<String> = snapshot
            .backends(set)
            .map(|backend| format!("{}:{}/{}", backend.addr, backend.port, backend.flags))
            .collect();
        // The same flows have to go to the same backends: Maglev tables are part of what is compared.
        let picks: Vec<_> = (0..8u64)
            .map(|at| {
                snapshot
                    .pick(set, at.wrapping_mul(0x9e37_79b9_7f4a_7c15))
                    .map(|backend| (backend.addr, backend.port))
            })
            .collect();
        format!(
            "{:?} {} {backends:?} {picks:?} {:?}",
            (row.addr, row.port, row.protocol, row.frontend.kind, row.frontend.set),
            snapshot.service_key(service.id),
            set.when_empty
        )
    });
    let services = snapshot.services().map(|service| snapshot.service_key(service.id));
    frontends.chain(services).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn increments_and_the_whole_say_the_same(history in prop::collection::vec(event(), 1..60)) {
        let (mut store, mut compiler, mut writer) = (Store::new(), Compiler::new(), writer());
        let mut addresses = Vec::new();
        for event in history.iter().chain([&Event::Publish]) {
            match event {
                Event::Service(shape) => _ = store.apply_json(service_object(shape)),
                Event::Slice(shape) => _ = store.apply_json(slice_object(shape)),
                Event::DeleteService(name) => _ = store.delete_named("Service", "default", &format!("s{name}")),
                Event::DeleteSlice(name) => _ = store.delete_named("EndpointSlice", "default", &format!("e{name}")),
                Event::NodeAddresses(new) => addresses.clone_from(new),
                Event::Publish => {
                    let changes = compiler.update(&mut store, &world(&addresses).into());
                    let refused = apply(&mut writer, changes);
                    prop_assert!(refused.is_empty(), "{refused:?}");
                    writer.publish().unwrap();
                }
            }
        }
        // Full: a new compiler and a new writer, from the final store alone.
        let mut again = Store::new();
        store.rows().cloned().for_each(|row| _ = again.set(row));
        let mut full = Compiler::new();
        full.update(&mut again, &world(&addresses).into());
        prop_assert_eq!(full.services(), compiler.services());
        let mut fresh = self::writer();
        let refused = apply(&mut fresh, full.all());
        prop_assert!(refused.is_empty(), "{:?}", refused);
        fresh.publish().unwrap();
        prop_assert_eq!(seen(writer.tables().snapshot()), seen(fresh.tables().snapshot()));
    }

    #[test]
    fn a_second_look_at_the_same_objects_changes_nothing(history in prop::collection::vec(event(), 1..30)) {
        let (mut store, mut compiler) = (Store::new(), Compiler::new());
        let objects: Vec<Value> = history.iter().filter_map(|event| match event {
            Event::Service(shape) => Some(service_object(shape)),
            Event::Slice(shape) => Some(slice_object(shape)),
            _ => None,
        }).collect();
        objects.iter().for_each(|object| _ = store.apply_json(object.clone()));
        compiler.update(&mut store, &world(&[1]).into());
        let rows: Vec<_> = store.rows().cloned().collect();
        rows.into_iter().for_each(|row| _ = store.set(row));
        prop_assert!(compiler.update(&mut store, &world(&[1]).into()).is_empty());
    }
}
