//! What lasts: answers under a policy that would forbid them, established flows when policies change, services, shadow mode, counters, a killed control and
//! malformed policies. One network, one story after the other.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use millrace_tables::PolicyChanges;
use serde_json::{Value, json};

use super::worlds;
use crate::cases::{everyone, policy};
use crate::common::eventually;
use crate::common::netns::Namespace;
use crate::common::peers::probe::{self, Kind, Probe};
use crate::common::pods::{NODE, OUTSIDE, Pods, addresses};
use crate::model::Model;

/// Pods by number: x/a, x/b, x/c, y/a.
const A: usize = 0;
const B: usize = 1;
const C: usize = 2;
const Y: usize = 3;
const ALL: [(Kind, u16); 4] = [(Kind::Tcp, 80), (Kind::Udp, 80), (Kind::Sctp, 80), (Kind::Echo, 0)];
/// A client outside.
const CLIENT: [u8; 4] = [203, 0, 113, 7];
const OTHER_CLIENT: [u8; 4] = [203, 0, 113, 8];

/// Everyone, these policies, and one in shadow mode that would deny all that comes to x.
fn world(policies: &[Value]) -> Vec<Value> {
    let mut watch = policy("x/watch", json!({"podSelector": {}, "policyTypes": ["Ingress"]}));
    watch["metadata"]["annotations"] = json!({"millrace.dev/mode": "shadow"});
    let mut objects = everyone();
    objects.push(watch);
    objects.extend(policies.iter().cloned());
    objects
}

/// Flows of these kinds between two pods, in both families.
fn between(from: usize, to: usize, kinds: &[(Kind, u16)], expected: bool) -> Vec<Probe> {
    let pairs = addresses(from).into_iter().zip(addresses(to));
    let each = pairs.flat_map(|pair| kinds.iter().map(move |kind| (pair, *kind)));
    let probe = |((src, dst), (kind, port))| Probe { host: from, src, dst, kind, port, expected };
    each.map(probe).collect()
}

#[track_caller]
fn holds(pods: &Pods, what: &str, probes: &[Probe]) {
    let wrong = probe::mistaken(&pods.hosts(), probes);
    assert!(wrong.is_empty(), "{what}: {wrong:?}");
}

/// Everything between everyone, as the model says.
#[track_caller]
fn as_the_model_says(pods: &Pods, what: &str, objects: &[Value]) {
    let mut all: Vec<Value> = (0..2).map(crate::common::pods::node).collect();
    all.extend(objects.iter().cloned());
    let flows =
        [(Kind::Tcp, 80), (Kind::Tcp, 81), (Kind::Udp, 80), (Kind::Sctp, 80), (Kind::Echo, 0)];
    holds(pods, what, &worlds::questions(&Model::new(&all, "node-0"), &flows));
}

pub fn run(pods: &mut Pods) {
    let began = Instant::now();
    shadow(pods);
    answers_pass(pods);
    protocols_are_apart(pods);
    services(pods);
    strict_and_keep(pods);
    without_control(pods);
    malformed(pods);
    // The engine writes it every ten seconds.
    eventually("a line about shadow mode", Duration::from_secs(15), || {
        let log = pods.log("millrace-dataplane");
        log.lines().any(|line| line.contains("x/watch") && line.contains("shadow"))
    });
    pods.check_ledger();
    println!("all of it in {:.1?}", began.elapsed());
}

fn shadow(pods: &mut Pods) {
    let enforced = policy("y/closed", json!({"podSelector": {}, "policyTypes": ["Ingress"]}));
    pods.set(&world(&[enforced]));
    let mut probes = between(Y, A, &ALL, true);
    probes.extend(between(C, A, &ALL, true));
    probes.extend(between(A, Y, &ALL, false));
    holds(pods, "shadow mode denies nothing", &probes);
    // Each flow of the first two lines once, in two families; each packet of the others once or twice.
    let [allowed, denied, would] = pods.counts("NetworkPolicy x/watch");
    assert_eq!((allowed, denied, would), (0, 0, 16), "flows that would be denied");
    let [allowed, denied, would] = pods.counts("NetworkPolicy y/closed");
    assert!(allowed == 0 && (8..=16).contains(&denied) && would == 0, "{allowed} {denied} {would}");
}

/// F3: a server that may send nothing of its own answers, and its ICMP errors about what it was sent pass.
fn answers_pass(pods: &mut Pods) {
    let selector = |pod: &str| json!({"matchLabels": {"pod": pod}});
    let mute = policy("x/mute", json!({"podSelector": selector("b"), "policyTypes": ["Egress"]}));
    // And nobody may begin anything with the client.
    let deaf = policy("x/deaf", json!({"podSelector": selector("a"), "policyTypes": ["Ingress"]}));
    pods.set(&world(&[mute, deaf]));
    let mut probes = between(A, B, &ALL, true);
    probes.extend(between(B, A, &ALL, false));
    probes.extend(between(B, C, &ALL, false));
    probes.extend(between(C, A, &ALL, false));
    probes.extend(between(C, B, &ALL, true));
    holds(pods, "answers of a pod that may send nothing", &probes);
    for (src, dst) in addresses(A).into_iter().zip(addresses(B)) {
        let refused = pods.hosts()[A].run(|| is_refused(src, dst));
        assert!(refused, "{dst}'s port unreachable does not reach {src}");
    }
    let mut probes = Vec::new();
    for (pod, expected) in [(A, false), (B, true)] {
        for (kind, port) in ALL {
            let (src, dst) = (CLIENT.into(), addresses(pod)[0]);
            probes.push(Probe { host: OUTSIDE, src, dst, kind, port, expected });
        }
    }
    // F6: the node itself is reached whatever policies say.
    for pod in [A, B] {
        let (src, dst) = (addresses(pod)[0], NODE.parse().unwrap());
        probes.push(Probe { host: pod, src, dst, kind: Kind::Echo, port: 0, expected: true });
    }
    holds(pods, "clients outside, and the node", &probes);
}

/// Whether a datagram to a port that nobody has is answered with an ICMP error.
fn is_refused(src: IpAddr, dst: IpAddr) -> bool {
    let socket = UdpSocket::bind((src, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    socket.connect((dst, 9)).unwrap();
    (0..6).any(|_| {
        let _ = socket.send(b"?");
        let heard = socket.recv(&mut [0; 8]);
        heard.is_err_and(|why| why.kind() == std::io::ErrorKind::ConnectionRefused)
    })
}

/// F7: a rule of one protocol opens no other.
fn protocols_are_apart(pods: &mut Pods) {
    for (protocol, open) in [("SCTP", Kind::Sctp), ("UDP", Kind::Udp), ("TCP", Kind::Tcp)] {
        let name = format!("x/{}-alone", protocol.to_lowercase());
        let ingress = json!([{"ports": [{"protocol": protocol, "port": 80}]}]);
        let spec = json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": ingress});
        pods.set(&world(&[policy(&name, spec)]));
        let mut probes = Vec::new();
        for flow in ALL {
            probes.extend(between(Y, A, &[flow], flow.0 == open));
        }
        holds(pods, protocol, &probes);
        // Counted by policy: three kinds were denied, one allowed, in two families.
        let [allowed, denied, _] = pods.counts(&format!("NetworkPolicy {name}"));
        assert!(allowed == 2 && (6..=12).contains(&denied), "{allowed} allowed, {denied} denied");
    }
}

fn service(name: &str, number: u8, backend: usize, more: Value) -> [Value; 3] {
    let slice = |family: usize| {
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"namespace": "x", "name": format!("{name}-{family}"), "labels": {"kubernetes.io/service-name": name}},
            "addressType": if family == 0 { "IPv4" } else { "IPv6" },
            "ports": [{"name": "t", "port": 80, "protocol": "TCP"}, {"name": "u", "port": 53, "protocol": "UDP"}],
            "endpoints": [{"addresses": [addresses(backend)[family]], "nodeName": "node-0", "conditions": {"ready": true}}]})
    };
    let mut spec = json!({"type": "ClusterIP", "clusterIP": format!("10.96.0.{number}"),
        "clusterIPs": [format!("10.96.0.{number}"), format!("fd00:96::{number:x}")],
        "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack",
        "ports": [{"name": "t", "port": 8000, "targetPort": 80, "protocol": "TCP"},
            {"name": "u", "port": 5300, "targetPort": 53, "protocol": "UDP"}]});
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    let object = json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "x", "name": name}, "spec": spec});
    [object, slice(0), slice(1)]
}

/// F5: behind a cluster IP the pods are judged, on the pod's port; behind a node port with the local policy the client's own address.
fn services(pods: &mut Pods) {
    let node_port = json!({"type": "NodePort", "externalTrafficPolicy": "Local",
        "ports": [{"name": "t", "port": 8000, "targetPort": 80, "protocol": "TCP", "nodePort": 30080},
            {"name": "u", "port": 5300, "targetPort": 53, "protocol": "UDP", "nodePort": 30053}]});
    let to_b = json!({"podSelector": {"matchLabels": {"pod": "b"}}, "policyTypes": ["Ingress"], "ingress": [
        {"from": [{"podSelector": {"matchLabels": {"pod": "a"}}}, {"ipBlock": {"cidr": "203.0.113.7/32"}}],
            "ports": [{"port": 80}, {"port": 53, "protocol": "UDP"}]}]});
    let from_a = json!({"podSelector": {"matchLabels": {"pod": "a"}}, "policyTypes": ["Egress"], "egress": [
        {"to": [{"podSelector": {"matchLabels": {"pod": "b"}}}]}]});
    let mut objects = world(&[policy("x/to-b", to_b), policy("x/from-a", from_a)]);
    objects.extend(service("b", 10, B, node_port));
    objects.extend(service("c", 11, C, json!({})));
    pods.set(&objects);
    let kinds = [(Kind::Tcp, 8000), (Kind::Udp, 5300)];
    let mut probes = Vec::new();
    // x/a may go to x/b alone, x/b hears x/a alone; x/c hears everyone else.
    for (from, service, expected) in [
        (A, 10, true),
        (C, 10, false),
        (Y, 10, false),
        (A, 11, false),
        (B, 11, true),
        (Y, 11, true),
    ] {
        let vips: [IpAddr; 2] = [
            format!("10.96.0.{service}").parse().unwrap(),
            format!("fd00:96::{service:x}").parse().unwrap(),
        ];
        for (src, dst) in addresses(from).into_iter().zip(vips) {
            for (kind, port) in kinds {
                probes.push(Probe { host: from, src, dst, kind, port, expected });
            }
        }
    }
    for (client, expected) in [(CLIENT, true), (OTHER_CLIENT, false)] {
        for (kind, port) in [(Kind::Tcp, 30080), (Kind::Udp, 30053)] {
            let dst = NODE.parse().unwrap();
            probes.push(Probe { host: OUTSIDE, src: client.into(), dst, kind, port, expected });
        }
    }
    holds(pods, "services", &probes);
}

/// A connection on which something is said every few milliseconds, and when an answer came last.
struct Talk {
    begun: Instant,
    /// Nanoseconds from then.
    last: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Talk {
    fn start(from: &Namespace, src: IpAddr, to: SocketAddr) -> Talk {
        let (last, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let begun = Instant::now();
        let (heard, until) = (Arc::clone(&last), Arc::clone(&stop));
        let thread = from.spawn(move || {
            let mut stream = TcpStream::connect(to).unwrap();
            assert_eq!(stream.local_addr().unwrap().ip(), src);
            stream.set_nodelay(true).unwrap();
            stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            let mut buffer = [0; 4096];
            while !until.load(Ordering::Relaxed) {
                let _ = stream.write(b"?");
                if stream.read(&mut buffer).is_ok_and(|length| length > 0) {
                    heard.store(begun.elapsed().as_nanos() as u64, Ordering::Relaxed);
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        let talk = Talk { begun, last, stop, thread: Some(thread) };
        eventually("an answer", Duration::from_secs(5), || talk.last.load(Ordering::Relaxed) > 0);
        talk
    }

    /// How long ago the last answer came.
    fn silent_for(&self) -> Duration {
        let last = Duration::from_nanos(self.last.load(Ordering::Relaxed));
        self.begun.elapsed().saturating_sub(last)
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ended = self.thread.take().unwrap().join();
    }
}

/// Answers what it is sent, on one port, until the namespace's test is over.
fn echo(namespace: &Namespace, port: u16) {
    let listener = namespace.run(|| TcpListener::bind(("::", port)).unwrap());
    // Ends with the test's process: a listener is not interrupted.
    let _detached = namespace.spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(length @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..length]).is_err() {
                        break;
                    }
                }
            });
        }
    });
}

/// F4.
fn strict_and_keep(pods: &mut Pods) {
    echo(pods.hosts()[B], 7000);
    let from = |allowed: &str| {
        let ingress = json!([{"from": [{"podSelector": {"matchLabels": {"pod": allowed}}}]}]);
        let spec = json!({"podSelector": {"matchLabels": {"pod": "b"}}, "policyTypes": ["Ingress"], "ingress": ingress});
        world(&[policy("x/b", spec)])
    };
    let file = pods.folder.join("control.toml");
    let strict = std::fs::read_to_string(&file).unwrap();
    for family in 0..2 {
        pods.set(&from("a"));
        let (src, dst) = (addresses(A)[family], SocketAddr::new(addresses(B)[family], 7000));
        let talk = Talk::start(pods.hosts()[A], src, dst);
        let began = Instant::now();
        pods.set(&from("c"));
        eventually("silence", Duration::from_secs(1), || {
            talk.silent_for() > Duration::from_millis(200)
        });
        let heard = began.elapsed().saturating_sub(talk.silent_for());
        std::thread::sleep(Duration::from_millis(300));
        assert!(talk.silent_for() > Duration::from_millis(400), "it came back");
        println!("strict: a forbidden connection ended {heard:.1?} after the policy was written");
        // Allowed again, the same connection goes on: TCP sends again by itself.
        pods.set(&from("a"));
        eventually("the connection again", Duration::from_secs(5), || {
            talk.silent_for() < Duration::from_millis(100)
        });
    }
    // `keep`, while control runs.
    std::fs::write(&file, format!("policy_changes = \"keep\"\n{strict}")).unwrap();
    pods.set(&from("a"));
    pods.wait_until("keep", |tables| tables.policy_changes() == PolicyChanges::Keep);
    let talk =
        Talk::start(pods.hosts()[A], addresses(A)[0], SocketAddr::new(addresses(B)[0], 7000));
    pods.set(&from("c"));
    std::thread::sleep(Duration::from_millis(600));
    assert!(talk.silent_for() < Duration::from_millis(300), "keep: {:?}", talk.silent_for());
    let mut probes = between(A, B, &ALL, false);
    probes.extend(between(C, B, &ALL, true));
    holds(pods, "keep is about what is established", &probes);
    // Back to strict: now it ends.
    std::fs::write(&file, &strict).unwrap();
    eventually("the kept connection's end", Duration::from_secs(5), || {
        talk.silent_for() > Duration::from_millis(300)
    });
}

/// F10: verdicts stay as they were, for new flows too, and while a successor takes over.
fn without_control(pods: &mut Pods) {
    let spec = json!({"podSelector": {}, "policyTypes": ["Ingress"],
        "ingress": [{"from": [{"podSelector": {}}], "ports": [{"port": 80}]}]});
    let objects = world(&[policy("x/own", spec)]);
    pods.set(&objects);
    as_the_model_says(pods, "with control", &objects);
    pods.kill_control();
    as_the_model_says(pods, "control killed", &objects);
    pods.start_control();
    as_the_model_says(pods, "control coming back", &objects);
    pods.set(&objects);
    as_the_model_says(pods, "control back", &objects);
}

/// Of a malformed policy the bad item matches nothing, and is named; its good items and the other policies work.
fn malformed(pods: &mut Pods) {
    let block = |cidr: &str| json!({"ipBlock": {"cidr": cidr}});
    let bad = json!({"podSelector": {"matchLabels": {"pod": "a"}}, "policyTypes": ["Ingress"],
        "ingress": [{"from": [block("203.0.113.0/33"), block("203.0.113.7/32")]}]});
    let good = json!({"podSelector": {"matchLabels": {"pod": "b"}}, "policyTypes": ["Ingress"],
        "ingress": [{"from": [block("203.0.113.8/32")]}]});
    let objects = world(&[policy("x/bad", bad), policy("x/good", good)]);
    pods.set(&objects);
    as_the_model_says(pods, "a malformed policy", &objects);
    let log = pods.log("millrace-control");
    let named = |line: &str| {
        line.contains("x/bad") && line.contains("spec.ingress[0].from[0].ipBlock.cidr")
    };
    assert!(log.lines().any(named), "no line names the object and the field");
    assert!(!log.contains("x/good: "), "a good policy is reported");
}
