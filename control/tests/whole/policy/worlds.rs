//! Random worlds, asked about everything: the compiled tables say what the model says, and by whom.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use millrace_control::{Compiler, Store, World, apply, compile::node};
use millrace_tables::{Readers, SegmentConfig, Snapshot, Writer};
use serde_json::Value;

use super::{
    judge,
    model::{Model, Said},
    random::{self, Odds, Random},
};

/// The node whose pods are looked after.
const NODE: &str = "node-0";

/// What is asked of each pair of addresses.
const FLOWS: [(&str, u64); 17] = [
    ("ICMP", 0),
    ("TCP", 53),
    ("TCP", 80),
    ("TCP", 443),
    ("TCP", 8080),
    ("TCP", 1),
    ("TCP", 79),
    ("TCP", 65535),
    ("UDP", 53),
    ("UDP", 80),
    ("UDP", 443),
    ("UDP", 444),
    ("UDP", 8081),
    ("SCTP", 53),
    ("SCTP", 80),
    ("SCTP", 443),
    ("SCTP", 9999),
];

pub(super) fn writer() -> Writer {
    let config = SegmentConfig { bytes: 16 << 20, seed: Some(7), ..SegmentConfig::default() };
    let mut writer = Writer::create(&config).unwrap();
    writer.set_readers(Readers::Nobody);
    writer
}

/// Control, short of the socket.
pub(super) struct Control {
    pub store: Store,
    pub compiler: Compiler,
    pub writer: Writer,
    world: Arc<World>,
}

impl Control {
    pub fn new() -> Control {
        let (store, compiler) = (Store::new(), Compiler::new());
        Control { store, compiler, writer: writer(), world: Arc::default() }
    }

    pub fn publish(&mut self) {
        let world = node::world(&self.store, NODE, &Default::default(), Some(&self.world)).unwrap();
        self.world = Arc::new(world);
        let changes = self.compiler.update(&mut self.store, &self.world);
        let refused = apply(&mut self.writer, changes);
        assert!(refused.is_empty(), "{refused:?}");
        self.writer.publish().unwrap();
    }

    pub fn set(&mut self, object: &Value) {
        self.store.apply_json(object.clone());
    }
}

/// All addresses that a world has, and some that nobody has.
fn addresses(objects: &[Value]) -> Vec<IpAddr> {
    let mut all: Vec<IpAddr> = [
        "203.0.113.7",
        "203.0.113.8",
        "10.0.0.250",
        "10.0.1.250",
        "fd00:0::fa",
        "2001:db8::1",
        "192.168.0.1",
        "192.168.0.2",
    ]
    .iter()
    .map(|ip| ip.parse().unwrap())
    .collect();
    for object in objects.iter().filter(|object| object["kind"] == "Pod") {
        let ips = object["status"]["podIPs"].as_array().unwrap();
        all.extend(ips.iter().map(|ip| ip["ip"].as_str().unwrap().parse::<IpAddr>().unwrap()));
    }
    all.sort_unstable();
    all.dedup();
    all
}

pub(super) fn protocol(name: &str, ip: IpAddr) -> u8 {
    match name {
        "TCP" => 6,
        "UDP" => 17,
        "SCTP" => 132,
        _ if ip.is_ipv4() => 1,
        _ => 58,
    }
}

/// Asks everything. Answers how many verdicts there were, and how many of them denied.
fn compare(snapshot: Snapshot<'_>, objects: &[Value], seed: u64) -> (u64, u64) {
    compare_all(snapshot, objects, &Model::new(objects, NODE), &FLOWS, seed)
}

/// The same with other flows.
pub(super) fn compare_all(
    snapshot: Snapshot<'_>,
    objects: &[Value],
    model: &Model,
    flows: &[(&str, u64)],
    seed: u64,
) -> (u64, u64) {
    let (mut asked, mut denied) = (0, 0);
    let all = addresses(objects);
    for from in &all {
        for to in all.iter().filter(|to| to.is_ipv4() == from.is_ipv4()) {
            let expected = model.judge(*from, *to, flows);
            for ((name, port), (allowed, egress, ingress)) in flows.iter().zip(expected) {
                let number = protocol(name, *from);
                let found = judge(snapshot, (*from).into(), (*to).into(), number, *port as u16);
                asked += 1;
                denied += u64::from(!allowed);
                let names = |decision: Option<millrace_tables::Decision>| {
                    decision.map(|decision| Said {
                        allow: decision.is_allowed(),
                        by: snapshot
                            .deciders(&decision, false)
                            .map(|id| snapshot.policy(id).unwrap().name)
                            .collect(),
                        rule: decision.rule().map(usize::from),
                    })
                };
                let found = (found.0, names(found.1), names(found.2));
                assert_eq!(
                    found,
                    (allowed, egress, ingress),
                    "seed {seed}: {name} {from} -> {to}:{port} of\n{}",
                    shown(objects)
                );
            }
        }
    }
    (asked, denied)
}

fn shown(objects: &[Value]) -> String {
    objects.iter().map(|object| format!("{object}\n")).collect()
}

fn world(seed: u64) -> Vec<Value> {
    let mut random = Random::new(seed);
    let random = &mut random;
    // Most worlds have few malformed parts, some have many, some none.
    let odds = Odds(random.one(&[0, 3, 3, 12]));
    let mut objects = vec![random::node(0, random), random::node(1, random)];
    for _ in 0..random.below(4) {
        objects.push(random::namespace(random));
    }
    for number in 0..4 + random.below(9) {
        objects.push(random::pod(number, random));
    }
    for number in 0..random.below(8) {
        objects.push(random::network_policy(&format!("np{number}"), random, odds));
    }
    for number in 0..random.below(4) {
        objects.push(random::cluster_policy(&format!("cnp{number}"), random, odds));
    }
    random::last_of_each_name(objects)
}

fn compare_worlds(seeds: std::ops::Range<u64>) -> (u64, u64) {
    let (mut asked, mut denied) = (0, 0);
    for seed in seeds {
        let objects = world(seed);
        let mut control = Control::new();
        objects.iter().for_each(|object| control.set(object));
        control.publish();
        let (more, no) = compare(control.writer.tables().snapshot(), &objects, seed);
        (asked, denied) = (asked + more, denied + no);
    }
    (asked, denied)
}

#[test]
fn random_worlds_are_judged_as_the_model_judges_them() {
    let (asked, denied) = compare_worlds(1..150);
    println!("{asked} verdicts, {denied} denials");
    assert!(asked > 300_000, "{asked}");
    assert!(denied > asked / 20 && denied < asked * 19 / 20, "{denied} of {asked}");
}

/// The same at length: `cargo test --release -p millrace-control -- --ignored ten_million`.
#[test]
#[ignore = "a minute of work"]
fn random_worlds_are_judged_as_the_model_judges_them_ten_million_times() {
    let (asked, denied) = compare_worlds(1_000..4_000);
    println!("{asked} verdicts, {denied} denials");
    assert!(asked > 10_000_000, "{asked}");
}

/// Whatever the history: what grew by increments answers as the model does for the objects that are there in the end, and holds
/// no more than what is made from them at once.
#[test]
fn random_histories_end_as_if_all_had_been_read_at_once() {
    let mut asked = 0;
    for seed in 1..80 {
        let mut random = Random::new(seed ^ 0x5eed);
        let mut control = Control::new();
        let mut objects: BTreeMap<(String, String, String), Value> = BTreeMap::new();
        let base = [random::node(0, &mut random), random::node(1, &mut random)];
        let put = |control: &mut Control, objects: &mut BTreeMap<_, _>, object: Value| {
            control.set(&object);
            objects.insert(random::name(&object), object);
        };
        base.into_iter().for_each(|object| put(&mut control, &mut objects, object));
        control.publish();
        for step in 0..60 + random.below(40) {
            let random = &mut random;
            let odds = Odds(4);
            match random.below(12) {
                0..=3 => {
                    let object = random::pod(random.below(10), random);
                    put(&mut control, &mut objects, object);
                }
                4 | 5 => {
                    let object =
                        random::network_policy(&format!("np{}", random.below(5)), random, odds);
                    put(&mut control, &mut objects, object);
                }
                6 => {
                    let object =
                        random::cluster_policy(&format!("cnp{}", random.below(3)), random, odds);
                    put(&mut control, &mut objects, object);
                }
                7 => put(&mut control, &mut objects, random::namespace(random)),
                8 => put(&mut control, &mut objects, random::node(random.below(2), random)),
                9 | 10 => {
                    let keys: Vec<_> =
                        objects.keys().filter(|key| key.0 != "Node").cloned().collect();
                    if !keys.is_empty() {
                        let (kind, namespace, name) = random.one(&keys);
                        assert!(control.store.delete_named(&kind, &namespace, &name));
                        objects.remove(&(kind, namespace, name));
                    }
                }
                _ => control.publish(),
            }
            if step % 20 == 19 {
                control.publish();
                let now: Vec<Value> = objects.values().cloned().collect();
                asked += compare(control.writer.tables().snapshot(), &now, seed).0;
            }
        }
        control.publish();
        let now: Vec<Value> = objects.values().cloned().collect();
        asked += compare(control.writer.tables().snapshot(), &now, seed).0;
        let mut fresh = Control::new();
        now.iter().for_each(|object| fresh.set(object));
        fresh.publish();
        let [classes, subjects, _, _, peers, _] = control.compiler.policy_counts();
        let [fresh_classes, fresh_subjects, _, _, fresh_peers, _] = fresh.compiler.policy_counts();
        assert_eq!(
            (classes, subjects, peers),
            (fresh_classes, fresh_subjects, fresh_peers),
            "seed {seed}"
        );
        // A writer that begins now gets the same.
        let mut again = writer();
        assert!(apply(&mut again, control.compiler.all()).is_empty());
        again.publish().unwrap();
        asked += compare(again.tables().snapshot(), &now, seed).0;
        // And nothing is left of what is gone.
        let keys: Vec<_> = objects.keys().filter(|key| key.0 != "Node").cloned().collect();
        for (kind, namespace, name) in keys {
            control.store.delete_named(&kind, &namespace, &name);
        }
        control.publish();
        assert_eq!(control.compiler.policy_counts(), [1, 0, 0, 0, 0, 0], "seed {seed}");
        assert_eq!(control.writer.tables().snapshot().policy_endpoints().count(), 0);
    }
    println!("{asked} verdicts");
}
