//! Objects with anything in any place: nothing panics, what is compiled the tables take, and good neighbors are served.

use millrace_control::{
    Compiler, Store, apply,
    compile::node::{self, NodeOptions},
    reflect::documents,
};
use millrace_tables::{Readers, SegmentConfig, Writer};
use proptest::{prelude::*, sample::select};
use serde_json::{Value, json};

const WORLD: &str = r#"
{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-a"}, "spec": {"podCIDRs": ["10.0.1.0/24"]}, "status": {"addresses": [{"type": "InternalIP", "address": "192.168.0.2"}]}}
{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "good"}, "spec": {"clusterIP": "172.30.0.1", "ports": [{"port": 80}]}}
{"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "good-1", "labels": {"kubernetes.io/service-name": "good"}},
 "addressType": "IPv4", "ports": [{"port": 8080}], "endpoints": [{"addresses": ["10.0.1.7"], "nodeName": "node-a"}]}
"#;

/// Objects whose fields are replaced; between them they have every field that is read.
fn victims() -> Vec<Value> {
    vec![
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "v", "namespace": "default", "creationTimestamp": "2026-01-01T00:00:00Z", "labels": {"a": "b"}},
            "spec": {"type": "LoadBalancer", "clusterIP": "172.30.0.9", "clusterIPs": ["172.30.0.9", "fd00:30::9"], "externalIPs": ["203.0.113.1"], "sessionAffinity": "ClientIP",
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 5}}, "internalTrafficPolicy": "Local", "externalTrafficPolicy": "Local", "loadBalancerSourceRanges": ["10.0.0.0/8"], "trafficDistribution": "PreferClose",
                "ports": [{"name": "a", "port": 80, "nodePort": 30000, "protocol": "TCP", "targetPort": "x"}, {"name": "b", "port": 81}]},
            "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.2", "ipMode": "VIP"}]}}}),
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "v-1", "labels": {"kubernetes.io/service-name": "v"}}, "addressType": "IPv4",
            "ports": [{"name": "a", "port": 8080, "protocol": "TCP"}], "endpoints": [{"addresses": ["10.0.2.1"], "nodeName": "node-a", "conditions": {"ready": true, "serving": true, "terminating": false},
                "targetRef": {"kind": "Pod", "namespace": "default", "name": "v-0"}, "hints": {"forZones": [{"name": "a"}], "forNodes": [{"name": "node-a"}]}}, {"addresses": ["10.0.2.2"]}]}),
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-b", "labels": {"topology.kubernetes.io/zone": "a"}}, "spec": {"podCIDR": "10.0.2.0/24", "podCIDRs": ["10.0.2.0/24"]},
            "status": {"addresses": [{"type": "InternalIP", "address": "192.168.0.3"}, {"type": "ExternalIP", "address": "198.51.100.3"}]}}),
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"nodeName": "node-a", "hostNetwork": false}, "status": {"phase": "Running", "podIP": "10.0.1.9", "podIPs": [{"ip": "10.0.1.9"}]}}),
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "q", "labels": {"app": "web"}}, "spec": {"nodeName": "node-a", "initContainers": [{"name": "i", "restartPolicy": "Always", "ports": [{"name": "a", "containerPort": 1}]}],
            "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 80, "protocol": "UDP"}]}]}, "status": {"podIP": "10.0.1.10"}}),
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "np", "annotations": {"millrace.dev/mode": "shadow"}}, "spec": {"policyTypes": ["Ingress", "Egress"],
            "podSelector": {"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "app", "operator": "In", "values": ["web"]}]},
            "ingress": [{"from": [{"podSelector": {}, "namespaceSelector": {"matchExpressions": [{"key": "a", "operator": "Exists", "values": []}]}}, {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}],
                "ports": [{"protocol": "TCP", "port": 80, "endPort": 90}, {"port": "http"}]}],
            "egress": [{"to": [{"ipBlock": {"cidr": "::/0"}}], "ports": []}, {}]}}),
        json!({"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy", "metadata": {"name": "cnp"}, "spec": {"tier": "Admin", "priority": 5,
            "subject": {"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "web"}}}},
            "ingress": [{"name": "a", "action": "Accept", "from": [{"namespaces": {}}], "protocols": [{"tcp": {"destinationPort": {"number": 80}}}, {"destinationNamedPort": "http"}]}],
            "egress": [{"action": "Deny", "to": [{"networks": ["10.0.0.0/8"]}, {"nodes": {"matchLabels": {"a": "b"}}}], "protocols": [{"udp": {"destinationPort": {"range": {"start": 1, "end": 5}}}}]}, {"action": "Pass", "to": [{"domainNames": ["a.b"]}]}]}}),
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["172.30.0.0/16", "fd00:30::/112"]}}),
        json!({"apiVersion": "v1", "kind": "List", "items": [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}}]}),
    ]
}

fn anything() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        select(vec![
            "",
            " ",
            "None",
            "0",
            "10.0.0.1",
            "::ffff:10.0.0.1",
            "010.0.0.1",
            "0.0.0.0/0",
            "::/0",
            "fe80::1%1",
            "Local",
            "VIP",
            "TCP",
            "IPv6",
            "FQDN",
            "List",
            "Pod",
            "node-a",
            "a/b",
            "\u{0}",
            "default"
        ])
        .prop_map(str::to_owned),
        ".{0,20}",
        Just("x".repeat(5000)),
    ];
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        select(vec![-1i64, 0, 1, 65535, 65536, i64::from(i32::MAX), i64::from(i32::MIN)])
            .prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text.prop_map(Value::from),
        Just(json!([])),
        Just(json!([null])),
        Just(json!({})),
        Just(json!(["10.0.0.1", "10.0.0.1"])),
    ]
}

/// Every place of a value, as a JSON pointer.
fn places(value: &Value, at: &str, out: &mut Vec<String>) {
    out.push(at.to_owned());
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| {
            places(value, &format!("{at}/{}", key.replace('/', "~1")), out)
        }),
        Value::Array(list) => list
            .iter()
            .enumerate()
            .for_each(|(key, value)| places(value, &format!("{at}/{key}"), out)),
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_value_in_any_place_leaves_the_others_in_force(
        faults in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), anything()), 1..6),
    ) {
        let mut store = Store::new();
        for document in documents::parse(WORLD) {
            prop_assert!(store.apply_json(document.value.unwrap()).is_empty());
        }
        for (victim, place, fault) in faults {
            let victims = victims();
            let mut object = victims[victim.index(victims.len())].clone();
            let mut all = Vec::new();
            places(&object, "", &mut all);
            if let Some(field) = object.pointer_mut(&all[place.index(all.len())]) {
                *field = fault;
            }
            for refusal in store.apply_json(object) {
                prop_assert!(!refusal.why.is_empty() && refusal.to_string().len() < 20_000);
            }
        }
        // The node itself may have been broken on purpose; an unknown one is an error, not a crash.
        let Ok(world) = node::world(&store, "node-a", &NodeOptions::default(), None) else { return Ok(()) };
        let mut compiler = Compiler::new();
        let changes = compiler.update(&mut store, &world.clone().into());
        let mut writer = Writer::create(&SegmentConfig { bytes: 8 << 20, ..SegmentConfig::default() }).unwrap();
        writer.set_readers(Readers::Nobody);
        let refused = apply(&mut writer, changes);
        prop_assert!(refused.is_empty(), "{refused:?}");
        writer.publish().unwrap();
        let tables = writer.tables();
        let good = tables.snapshot().frontend(&std::net::IpAddr::from([172, 30, 0, 1]).into(), 80, 6).expect("the good service");
        let service = tables.snapshot().service(good.service).unwrap();
        prop_assert_eq!(tables.snapshot().backends(&service.cluster).count(), 1);
    }

    #[test]
    fn any_text_is_documents_or_faults(text in "(---|\\.\\.\\.|[-\\[\\]{}:,&*!|>'\"%@`# \n\t]|[a-z]{1,3}|\\PC){0,60}") {
        for document in documents::parse(&text) {
            if let Ok(value) = document.value {
                Store::new().apply_json(value);
            }
        }
    }
}

#[test]
fn lists_beyond_all_measure_are_cut_and_said_once() {
    let mut store = Store::new();
    let address = |at: u32| std::net::Ipv4Addr::from(0xcb00_0000 + at).to_string();
    let addresses: Vec<String> = (1..20_001).map(address).collect();
    let ports: Vec<Value> =
        (1..20_001).map(|at| json!({"name": format!("p{at}"), "port": at})).collect();
    let ingress: Vec<Value> = (1..20_001).map(|at| json!({"ip": address(at)})).collect();
    let said: Vec<String> = store
        .apply_json(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "huge"},
            "spec": {"type": "LoadBalancer", "clusterIP": "172.30.0.7", "externalIPs": addresses, "ports": ports},
            "status": {"loadBalancer": {"ingress": ingress}}}))
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        said,
        [
            "Service default/huge: spec.externalIPs: has 20000 items, the first 1000 are used",
            "Service default/huge: status.loadBalancer.ingress: has 20000 items, the first 1000 are used",
            "Service default/huge: spec.ports: has 20000 items, the first 1000 are used",
        ]
    );
    let endpoints: Vec<Value> = (1..20_102).map(|at| json!({"addresses": [address(at)]})).collect();
    let said = store.apply_json(
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "huge-1", "labels": {"kubernetes.io/service-name": "huge"}},
        "ports": [{"name": "p1", "port": 80}], "endpoints": endpoints}),
    );
    assert_eq!(said.len(), 1);
    assert_eq!(said[0].why, "has 20101 items, the first 20000 are used");
}
