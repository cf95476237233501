//! The API server as a source: our own server on loopback, faults on its side, and what is compiled here in the end.
//!
//! Whatever went wrong on the way, once nothing goes wrong any more the tables are those of the objects the server has.

mod restarts;

use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use millrace_apiserver::{ApiServer, Faults, Streams};
use millrace_control::{
    Compiler, Kind, Store, World,
    inbox::{Event, Inbox, inbox},
    reflect::kube::{self, Access, Health, Intake, Taken},
    world::NodeView,
};
use serde_json::{Value, json};

use crate::common::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);

/// The main thread of control, without an engine.
struct Follower {
    inbox: Inbox,
    intake: Intake,
    health: Arc<Health>,
    store: Store,
    compiler: Compiler,
    world: Arc<World>,
    said: Vec<String>,
    _dir: TempDir,
}

impl Follower {
    fn start(server: &ApiServer, change: impl FnOnce(&mut kube::Options)) -> Follower {
        let dir = TempDir::new();
        let path = dir.path().join("kubeconfig");
        fs::write(&path, server.kubeconfig()).unwrap();
        let mut options = kube::Options::new(Access::Kubeconfig(path), Some("node-0".into()));
        options.first_wait = Duration::from_millis(10);
        options.longest_wait = Duration::from_millis(100);
        options.list_silence = Duration::from_millis(500);
        options.page = 3;
        change(&mut options);
        let (inbox, outbox) = inbox().unwrap();
        let (intake, health) = kube::start(options, outbox).unwrap();
        let (store, compiler) = (Store::new(), Compiler::new());
        let world = world();
        Follower { inbox, intake, health, store, compiler, world, said: Vec::new(), _dir: dir }
    }

    /// Takes what has come, waiting for it at most so long.
    fn turn(&mut self, limit: Duration) {
        for event in self.inbox.wait(None, limit).unwrap().0 {
            let Event::Objects(batch) = event else { continue };
            let Taken { new, mended, .. } = self.intake.take(batch, &mut self.store);
            self.said.extend(new.iter().map(ToString::to_string));
            self.said.extend(mended.iter().map(|refusal| format!("mended: {refusal}")));
        }
        if self.intake.is_complete() {
            self.compiler.update(&mut self.store, &self.world);
        }
    }

    fn wait(&mut self, what: &str, done: impl Fn(&Follower) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(
                Instant::now() < deadline,
                "waited for {what}: {:#?}",
                self.compiler.services()
            );
            self.turn(Duration::from_millis(20));
        }
    }

    /// Waits until what is compiled here is what the server's objects give.
    fn converge(&mut self, server: &ApiServer) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.turn(Duration::from_millis(20));
            let model = compiled(server);
            if self.intake.is_complete() && *self.compiler.services() == *model.services() {
                return;
            }
            if Instant::now() >= deadline {
                let (here, there) = (self.compiler.services(), model.services());
                let keys: std::collections::BTreeSet<&String> =
                    here.keys().chain(there.keys()).collect();
                let differ: Vec<_> =
                    keys.into_iter().filter(|key| here.get(*key) != there.get(*key)).collect();
                panic!("{differ:?} differ, {:?}; said: {:#?}", self.health, self.said);
            }
        }
    }

    fn backends(&self, key: &str) -> Vec<String> {
        let spec = self.compiler.services().get(key);
        let used = spec.iter().flat_map(|spec| &spec.backends);
        let backends = used.filter(|backend| backend.in_cluster || backend.in_local);
        backends.map(|backend| format!("{}:{}", backend.addr, backend.port)).collect()
    }
}

fn world() -> Arc<World> {
    let node_port_addresses = vec![std::net::IpAddr::from([192, 168, 0, 2]).into()];
    World {
        node: NodeView { name: "node-0".into(), node_port_addresses, ..NodeView::default() },
        ..World::default()
    }
    .into()
}

/// From the objects, without any of what is tested here.
fn compiled(server: &ApiServer) -> Compiler {
    let (mut store, mut compiler) = (Store::new(), Compiler::new());
    for kind in ["Service", "EndpointSlice", "Node"] {
        for object in server.objects(kind) {
            if object["metadata"]["name"] == "node-0" || kind != "Node" {
                store.apply_json(object);
            }
        }
    }
    compiler.update(&mut store, &world());
    compiler
}

fn service(name: &str, last: u64) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
        "spec": {"clusterIP": format!("172.30.0.{}", 1 + last % 250), "ports": [{"port": 80 + last % 3}]}})
}

fn slice(name: &str, service: &str, endpoints: &[u64]) -> Value {
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|last| json!({"addresses": [format!("10.0.0.{}", 1 + last % 250)], "nodeName": format!("node-{}", last % 3),
            "hints": {"forZones": [{"name": if last % 2 == 0 { "a" } else { "b" }}]}}))
        .collect();
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "ports": [{"port": 8080}],
        "metadata": {"name": name, "namespace": "default", "labels": {"kubernetes.io/service-name": service}}, "endpoints": endpoints})
}

fn node(zone: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-0", "labels": {"topology.kubernetes.io/zone": zone}}})
}

/// SplitMix64: the same history for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// One change of the model. Few names, so that histories meet the same ones again.
fn change(server: &ApiServer, random: &mut Random) {
    let number = random.below(6);
    match random.below(20) {
        0..=4 => _ = server.apply(service(&format!("s{number}"), random.below(1000))),
        5 => server.delete("Service", "default", &format!("s{number}")),
        6..=12 => {
            let endpoints: Vec<u64> = (0..random.below(5)).map(|_| random.below(20)).collect();
            let name = format!("e{}", random.below(12));
            server.apply(slice(&name, &format!("s{number}"), &endpoints));
        }
        13..=14 => server.delete("EndpointSlice", "default", &format!("e{}", random.below(12))),
        // Out of the label selector's sight, and back with the next change.
        15 => {
            let mut foreign = service(&format!("s{number}"), 7);
            foreign["metadata"]["labels"] =
                json!({"service.kubernetes.io/service-proxy-name": "other"});
            server.apply(foreign);
        }
        16 => _ = server.apply(node(["a", "b", ""][random.below(3) as usize])),
        17 => {
            let mut bad = service(&format!("s{number}"), 9);
            bad["spec"]["ports"] = json!([{"port": 0}, {"name": "ok", "port": 81}]);
            server.apply(bad);
        }
        // Another node's business.
        _ => {
            _ = server
                .apply(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-9"}}))
        }
    }
}

fn history(seed: u64, faults: Faults, streams: Streams, relist: Duration) {
    let server = ApiServer::start().unwrap();
    server.set_streams(streams);
    server.set_bookmarks(Duration::from_millis(30));
    let mut random = Random(seed);
    (0..20).for_each(|_| change(&server, &mut random));
    server.set_faults(faults);
    let mut follower = Follower::start(&server, |options| options.relist = relist);
    for _ in 0..40 {
        (0..random.below(12)).for_each(|_| change(&server, &mut random));
        match random.below(15) {
            0 => server.compact(),
            1 => server.end_watches(),
            2 => {
                server.set_up(false);
                (0..5).for_each(|_| change(&server, &mut random));
                follower.turn(Duration::from_millis(30));
                server.set_up(true);
            }
            _ => {}
        }
        follower.turn(Duration::from_millis(random.below(20)));
    }
    server.set_faults(Faults::default());
    // The last word on everything may have been what a fault swallowed: only what comes later shows it, as in a real cluster.
    (0..3).for_each(|_| change(&server, &mut random));
    follower.converge(&server);
    assert_eq!(follower.health.kinds().count(), 10);
}

const ALL: Faults =
    Faults { twice: 80, late: 80, lost: 15, silent: 0, cut: 15, gone: 8, failed: 150, garbage: 20 };

#[test]
fn histories_with_all_faults_end_with_what_the_server_has() {
    let hour = Duration::from_secs(3600);
    for seed in 0..8 {
        history(seed, ALL, Streams::Yes, hour);
        history(100 + seed, ALL, Streams::Refused, hour);
    }
    history(200, ALL, Streams::Unknown, hour);
    history(300, Faults::default(), Streams::Yes, hour);
}

#[test]
fn changes_that_nobody_ever_mentions_are_found_by_listing_again() {
    let faults = Faults { silent: 300, ..Faults::default() };
    history(1, faults, Streams::Yes, Duration::from_millis(700));
    history(2, faults, Streams::Refused, Duration::from_millis(700));
}

#[test]
fn an_outage_takes_nothing_away_and_a_list_afterwards_changes_only_what_differs() {
    let server = ApiServer::start().unwrap();
    server.apply(node("a"));
    server.apply(service("web", 1));
    server.apply(slice("web-1", "web", &[0, 2]));
    server.apply(service("gone", 2));
    let mut follower = Follower::start(&server, |_| {});
    follower.wait("the first list", |follower| follower.compiler.services().len() == 2);
    let before = follower.compiler.services().clone();
    server.set_up(false);
    server.delete("Service", "default", "gone");
    server.apply(service("new", 3));
    server.compact();
    let until = Instant::now() + Duration::from_millis(500);
    while Instant::now() < until {
        follower.turn(Duration::from_millis(20));
        assert_eq!(*follower.compiler.services(), before, "what is in force stays");
    }
    server.set_up(true);
    follower.converge(&server);
    let after = follower.compiler.services();
    assert!(Arc::ptr_eq(&before["default/web"], &after["default/web"]), "it was not touched");
    assert!(after.contains_key("default/new") && !after.contains_key("default/gone"));
}

#[test]
fn nothing_is_complete_before_every_kind_has_been_listed() {
    let server = ApiServer::start().unwrap();
    server.apply(service("web", 1));
    server.set_up(false);
    let mut follower = Follower::start(&server, |_| {});
    (0..10).for_each(|_| follower.turn(Duration::from_millis(20)));
    assert!(!follower.intake.is_complete() && follower.compiler.services().is_empty());
    server.set_up(true);
    follower.wait("the first list", |follower| follower.intake.is_complete());
    assert_eq!(follower.compiler.services().len(), 1);
}

#[test]
fn ranges_of_service_addresses_are_waited_for_and_gone_without_where_the_server_has_none() {
    let server = ApiServer::start().unwrap();
    server.apply(json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": ["172.30.0.0/16"]}}));
    server.apply(service("web", 1));
    for streams in [Streams::Yes, Streams::Refused] {
        server.set_streams(streams);
        // It has them, and can't say so just now.
        server.set_answer("ServiceCIDR", Some(503));
        let mut follower = Follower::start(&server, |_| {});
        follower.wait("the Service", |follower| follower.store.count(Kind::Service) == 1);
        (0..10).for_each(|_| follower.turn(Duration::from_millis(20)));
        assert!(!follower.intake.is_complete(), "published without the ranges");
        server.set_answer("ServiceCIDR", None);
        follower.wait("the ranges", |follower| follower.intake.is_complete());
        assert_eq!(follower.store.service_ranges().count(), 1);
        // Out of sight for a while: what is known stays.
        server.set_answer("ServiceCIDR", Some(403));
        server.end_watches();
        (0..20).for_each(|_| follower.turn(Duration::from_millis(20)));
        assert_eq!(follower.store.service_ranges().count(), 1);
        for code in [403, 404] {
            server.set_answer("ServiceCIDR", Some(code));
            let mut follower = Follower::start(&server, |_| {});
            follower.wait("the rest", |follower| follower.intake.is_complete());
            assert_eq!(follower.store.service_ranges().count(), 0);
        }
    }
}

#[test]
fn a_malformed_object_refuses_itself_alone_and_becomes_an_event_once() {
    let server = ApiServer::start().unwrap();
    server.apply(node("a"));
    server.apply(service("good", 1));
    let mut bad = service("bad", 2);
    bad["spec"]["ports"] = json!("all");
    server.apply(bad.clone());
    let mut half = service("half", 3);
    half["spec"]["externalIPs"] = json!(["203.0.113.010"]);
    server.apply(half);
    for streams in [Streams::Yes, Streams::Refused] {
        server.set_streams(streams);
        let mut follower = Follower::start(&server, |_| {});
        follower.wait("all that is good", |follower| follower.compiler.services().len() == 2);
        let said = follower.said.join("\n");
        assert!(said.contains("Service default/bad: spec.ports: "), "{said}");
        assert!(said.contains("Service default/half: spec.externalIPs[0]: "), "{said}");
        server.apply(service("bad", 2));
        follower.wait("the mended one", |follower| follower.compiler.services().len() == 3);
        assert!(follower.said.iter().any(|said| said.starts_with("mended: Service default/bad")));
        // Malformed once more: the good version stays.
        server.apply(bad.clone());
        let many = follower.said.len();
        follower.wait("the refusal", |follower| follower.said.len() > many);
        assert_eq!(follower.compiler.services().len(), 3);
        follower.wait("the Events", |_| server.objects("Event").len() == 2);
    }
    let events = server.objects("Event");
    assert_eq!(events.len(), 2, "{events:#?}");
    let about: Vec<&str> =
        events.iter().filter_map(|event| event["involvedObject"]["name"].as_str()).collect();
    assert_eq!(about, ["bad", "half"]);
    let message = events[1]["message"].as_str().unwrap();
    assert!(message.starts_with("spec.externalIPs[0]: "), "{message}");
}

#[test]
fn a_streamed_list_and_lists_by_pages_bring_the_same() {
    let server = ApiServer::start().unwrap();
    server.apply(node("a"));
    for number in 0..25 {
        server.apply(service(&format!("s{number}"), number));
        server.apply(slice(&format!("e{number}"), &format!("s{number}"), &[number, number + 1]));
    }
    let mut services = Vec::new();
    for streams in [Streams::Yes, Streams::Refused, Streams::Unknown] {
        server.set_streams(streams);
        let mut follower = Follower::start(&server, |_| {});
        follower.converge(&server);
        assert!(
            follower.backends("default/s3").len() == 1,
            "hints: {:?}",
            follower.backends("default/s3")
        );
        services.push(follower.compiler.services().clone());
    }
    assert!(services.windows(2).all(|pair| pair[0] == pair[1]));
    let counts = server.counts();
    use std::sync::atomic::Ordering::Relaxed;
    assert!(counts.streamed.load(Relaxed) >= 3 && counts.pages.load(Relaxed) >= 2 * 2 * 9);
}

/// Words that came too late, as counted.
fn stale(follower: &Follower) -> u64 {
    let counts = follower.health.kinds().map(|(_, health)| &health.stale);
    counts.map(|count| count.load(std::sync::atomic::Ordering::Relaxed)).sum()
}

#[test]
fn what_comes_late_does_not_undo_what_came_since_nor_raise_the_dead() {
    let server = ApiServer::start().unwrap();
    server.set_bookmarks(Duration::from_millis(200));
    server.apply(node("a"));
    server.apply(service("web", 1));
    let mut follower = Follower::start(&server, |_| {});
    follower.wait("the first list", |follower| follower.compiler.services().len() == 1);
    // Each pair of changes comes the other way round.
    server.set_faults(Faults { late: 1000, ..Faults::default() });
    for round in 0..10 {
        let before = stale(&follower);
        server.apply(service("web", 10 + round));
        server.apply(service("web", 100 + round));
        follower.wait("what comes late", |follower| stale(follower) > before);
        follower.converge(&server);
    }
    // Each change comes once more, mostly some time after it was overtaken by the deletion.
    server.set_faults(Faults { twice: 1000, ..Faults::default() });
    let before = stale(&follower);
    for round in 0..30 {
        let name = format!("s{round}");
        server.apply(service(&name, round));
        server.delete("Service", "default", &name);
    }
    follower.wait("what comes twice", |follower| stale(follower) > before + 5);
    follower.turn(Duration::from_millis(300));
    follower.converge(&server);
}
