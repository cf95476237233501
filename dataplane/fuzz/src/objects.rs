//! Objects of any text: what is wrong is refused by name, what is compiled the tables take, every question about policies has an answer,
//! and nothing is left when the policies are gone.

use millrace_control::compile::node;
use millrace_control::reflect::documents;
use millrace_control::{Compiler, Store, apply};
use millrace_tables::{Readers, SegmentConfig, Writer};
use millrace_wire::Addr;

/// Two pods of the node whose tables are made, one of another.
const WORLD: &str = r#"
{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-a"}, "spec": {"podCIDRs": ["10.0.1.0/24"]}, "status": {"addresses": [{"type": "InternalIP", "address": "192.168.0.2"}]}}
{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": "default", "labels": {"app": "web"}}, "spec": {"nodeName": "node-a", "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 80}]}]}, "status": {"podIP": "10.0.1.2"}}
{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "db", "namespace": "default", "labels": {"app": "db"}}, "spec": {"nodeName": "node-a", "containers": []}, "status": {"podIP": "10.0.1.3"}}
{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "far", "namespace": "shop", "labels": {"app": "db"}}, "spec": {"nodeName": "node-b", "containers": []}, "status": {"podIP": "10.0.2.4"}}
"#;

/// Reads the input as documents, in YAML or JSON, over that world. Answers how many decisions were looked at.
pub fn check(data: &[u8]) -> usize {
    let text = String::from_utf8_lossy(data);
    let mut store = Store::new();
    for document in documents::parse(WORLD) {
        let value = document.value.expect("the world is well-formed");
        assert!(store.apply_json(value).is_empty(), "nothing of the world is refused");
    }
    for document in documents::parse(&text) {
        let Ok(value) = document.value else { continue };
        for refusal in store.apply_json(value) {
            assert!(!refusal.why.is_empty(), "{refusal}");
        }
    }
    let Ok(world) = node::world(&store, "node-a", &Default::default(), None) else { return 0 };
    let world = world.into();
    let mut compiler = Compiler::new();
    let config = SegmentConfig { bytes: 4 << 20, seed: Some(1), ..SegmentConfig::default() };
    let mut writer = Writer::create(&config).expect("a memfd");
    writer.set_readers(Readers::Nobody);
    // Without room for all rows some are refused; what is there still answers.
    let whole = apply(&mut writer, compiler.update(&mut store, &world)).is_empty();
    writer.publish().expect("a publication");
    let mut asked = 0;
    {
        let tables = writer.tables();
        let snapshot = tables.snapshot();
        let addresses = ["10.0.1.2", "10.0.1.3", "10.0.2.4", "192.168.0.3", "203.0.113.9"];
        let addresses =
            addresses.map(|text| Addr::from(text.parse::<std::net::IpAddr>().expect("plain")));
        for (from, to) in
            addresses.iter().flat_map(|from| addresses.iter().map(move |to| (from, to)))
        {
            let (source, target) = (snapshot.policy_endpoint(from), snapshot.policy_endpoint(to));
            for (protocol, port) in [(1, 0), (6, 80), (6, 65535), (17, 53), (132, 1)] {
                let egress =
                    source.egress().map(|it| snapshot.judge(it, target.class, protocol, port));
                let ingress =
                    target.ingress().map(|it| snapshot.judge(it, source.class, protocol, port));
                for decision in [egress, ingress].into_iter().flatten() {
                    assert!(!whole || !decision.is_missing(), "every question has an answer");
                    asked += snapshot.deciders(&decision, false).count();
                }
            }
        }
    }
    let policies: Vec<_> = store.rows().map(|row| row.key.clone()).collect();
    for key in policies {
        if key.kind.is_policy() {
            store.delete(&key);
        }
    }
    let _ = apply(&mut writer, compiler.update(&mut store, &world));
    assert_eq!(
        compiler.policy_counts(),
        [1, 0, 0, 0, 0, 0],
        "policies that are gone leave nothing"
    );
    asked
}
