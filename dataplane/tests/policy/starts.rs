//! Pods start, one after the other, on addresses and interfaces that others had under other labels. Before the pod's object is in the tables nothing may pass from it or to it,
//! whoever's interface it was; behind it, what is allowed passes, and what is not never does (feature F2).
//!
//! Packets are sent all the time, from before the object is written, both ways: the pod's to a server that hears friends alone, and a client's to the pod, which
//! hears that client if it is a friend's. Each start has a number of its own in every packet, so that none can be taken for another's.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cases::{namespace, policy};
use crate::common::eventually;
use crate::common::netns::Namespace;
use crate::common::pods::{OUTSIDE, PODS, Pods, addresses};

/// The server's number; the others start.
const SERVER: usize = PODS - 1;
const PORT: u16 = 5353;
const CLIENTS: [&str; 2] = ["203.0.113.7", "2001:db8::1"];
/// Between two packets of a sender.
const PACE: Duration = Duration::from_micros(300);

/// What came with which start's number: how many, and when the first.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<BTreeMap<u32, (u64, Instant)>>>);

impl Heard {
    fn count(&self, start: u32) -> u64 {
        self.0.lock().unwrap().get(&start).map_or(0, |found| found.0)
    }

    fn first(&self, start: u32) -> Option<Instant> {
        self.0.lock().unwrap().get(&start).map(|found| found.1)
    }
}

/// Threads of the test, ended on drop.
struct Threads {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ended = thread.join();
        }
    }
}

impl Threads {
    fn listen(&mut self, host: &Namespace, addr: IpAddr, heard: &Heard) {
        let (stop, heard) = (Arc::clone(&self.stop), heard.clone());
        self.threads.push(host.spawn(move || {
            let socket = UdpSocket::bind((addr, PORT)).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            let mut start = [0; 4];
            while !stop.load(Ordering::Relaxed) {
                if let Ok((4, _)) = socket.recv_from(&mut start) {
                    let mut heard = heard.0.lock().unwrap();
                    let entry =
                        heard.entry(u32::from_be_bytes(start)).or_insert((0, Instant::now()));
                    entry.0 += 1;
                }
            }
        }));
    }

    /// Sends the number that `what` has in its low half, each from a port of its own, while it isn't 0. The upper half says from whom
    /// and to whom, in the lists: eight bits of family, eight of the pod.
    fn send(&mut self, host: &Namespace, what: &Arc<AtomicU64>, pairs: Vec<(IpAddr, IpAddr)>) {
        let (stop, what) = (Arc::clone(&self.stop), Arc::clone(what));
        self.threads.push(host.spawn(move || {
            let mut now = (0, None::<UdpSocket>);
            while !stop.load(Ordering::Relaxed) {
                let word = what.load(Ordering::Acquire);
                let (start, pair) = (word as u32, (word >> 32) as usize);
                if start == 0 {
                    now = (0, None);
                    std::thread::sleep(PACE);
                    continue;
                }
                if now.0 != start {
                    let (src, dst) = pairs[pair];
                    let socket = UdpSocket::bind((src, 0)).unwrap();
                    socket.connect((dst, PORT)).unwrap();
                    now = (start, Some(socket));
                }
                if let Some(socket) = &now.1 {
                    let _ = socket.send(&start.to_be_bytes());
                }
                std::thread::sleep(PACE);
            }
        }));
    }
}

fn pod(n: usize, role: &str) -> Value {
    let ips: Vec<Value> = addresses(n).iter().map(|ip| json!({"ip": ip})).collect();
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": "s", "name": format!("p{n}"), "labels": {"role": role}},
        "spec": {"nodeName": "node-0", "containers": [{"name": "c"}]},
        "status": {"phase": "Running", "podIPs": ips}})
}

fn percentile(sorted: &[Duration], of: usize) -> Duration {
    sorted[(sorted.len() * of / 100).min(sorted.len() - 1)]
}

pub fn run(starts: u32) {
    // Every second interface has its addresses from its pod's object alone; on the others its policies decide.
    let entries: Vec<String> =
        [true, false].map(|fixed| Pods::entries(|n| format!("s/p{n}"), fixed)).into();
    let split = |text: &str| -> Vec<String> {
        text.split("[[pod]]").skip(1).map(|entry| format!("[[pod]]{entry}")).collect()
    };
    let (fixed, of_object) = (split(&entries[0]), split(&entries[1]));
    let mixed: String = (0..PODS)
        .map(|n| if n % 2 == 0 { fixed[n].as_str() } else { of_object[n].as_str() })
        .collect();
    let mut pods = Pods::new(&mixed);
    let friends = json!([{"podSelector": {"matchLabels": {"role": "friend"}}}]);
    let blocks: Vec<Value> = CLIENTS
        .iter()
        .zip([32, 128])
        .map(|(client, length)| json!({"ipBlock": {"cidr": format!("{client}/{length}")}}))
        .collect();
    pods.set(&[
        namespace("s", &[]),
        pod(SERVER, "server"),
        policy("s/all", json!({"podSelector": {}, "policyTypes": ["Ingress"]})),
        policy("s/server", json!({"podSelector": {"matchLabels": {"role": "server"}}, "ingress": [{"from": friends}]})),
        policy("s/friends", json!({"podSelector": {"matchLabels": {"role": "friend"}}, "ingress": [{"from": blocks}]})),
    ]);

    let stop = Arc::new(AtomicBool::new(false));
    let mut threads = Threads { stop, threads: Vec::new() };
    let (at_server, at_pods) = (Heard::default(), Heard::default());
    let hosts = pods.hosts();
    for addr in addresses(SERVER) {
        threads.listen(hosts[SERVER], addr, &at_server);
    }
    let mut from_pods = Vec::new();
    for (n, host) in hosts.iter().enumerate().take(SERVER) {
        for addr in addresses(n) {
            threads.listen(host, addr, &at_pods);
        }
        let what = Arc::new(AtomicU64::new(0));
        threads.send(host, &what, addresses(n).into_iter().zip(addresses(SERVER)).collect());
        from_pods.push(what);
    }
    let from_client = Arc::new(AtomicU64::new(0));
    let clients = CLIENTS.map(|client| client.parse::<IpAddr>().unwrap());
    let pairs = (0..SERVER).flat_map(|n| clients.into_iter().zip(addresses(n))).collect();
    threads.send(hosts[OUTSIDE], &from_client, pairs);
    drop(hosts);

    let began = Instant::now();
    let (mut out, mut into, mut connects) = (Vec::new(), Vec::new(), Vec::new());
    let mut sent_before = 0;
    for start in 1..=starts {
        let n = start as usize % SERVER;
        // The same place has the other role the next time, and the other family in every second round.
        let round = start as usize / SERVER;
        let (friend, family) = ((round + n).is_multiple_of(2), round / 2 % 2);
        let place = format!("start {start} of p{n}, IPv{}", [4, 6][family]);
        from_pods[n].store(u64::from(start) | (family as u64) << 32, Ordering::Release);
        from_client.store(u64::from(start) | ((n * 2 + family) as u64) << 32, Ordering::Release);
        let drops = || {
            ["spoofed", "policy"]
                .map(|reason| pods.drops(&format!("pod{n}"), reason))
                .iter()
                .sum::<u64>()
        };
        // A picture of the counters now and then: it takes longer than a start.
        if start % 50 == 1 {
            let before = drops();
            eventually(
                "dropped packets of a pod without an object",
                Duration::from_secs(5),
                || drops() > before,
            );
            sent_before += drops() - before;
        } else {
            std::thread::sleep(Duration::from_millis(4));
        }
        let heard = || (at_server.count(start), at_pods.count(start));
        assert_eq!(heard(), (0, 0), "{place}: before its object");

        let file = pods.folder.join(format!("manifests/pod-{n}.json"));
        let new = pods.folder.join("pod.new");
        std::fs::write(&new, pod(n, if friend { "friend" } else { "foe" }).to_string()).unwrap();
        let written = Instant::now();
        std::fs::rename(&new, &file).unwrap();
        if friend {
            eventually(&format!("{place}: a packet each way"), Duration::from_secs(5), || {
                let (server, pod) = heard();
                server > 0 && pod > 0
            });
            let since =
                |heard: &Heard| heard.first(start).unwrap().saturating_duration_since(written);
            out.push(since(&at_server));
            into.push(since(&at_pods));
            // Nothing that is allowed is refused from now on: the first connection stands at once.
            let (src, dst) = (addresses(n)[family], SocketAddr::new(addresses(SERVER)[family], 80));
            let host = pods.hosts()[n];
            let connected = host.run(|| {
                let began = Instant::now();
                let stream = TcpStream::connect_timeout(&dst, Duration::from_secs(3)).ok();
                stream.filter(|stream| stream.local_addr().unwrap().ip() == src)?;
                Some(began.elapsed())
            });
            connects.push(connected.unwrap_or_else(|| panic!("{place}: the first connection")));
        } else {
            pods.wait_until_known(addresses(n)[family], true);
            std::thread::sleep(Duration::from_millis(4));
            assert_eq!(heard(), (0, 0), "{place}: a foe");
        }
        // It ends, while its packets and those to it go on.
        std::fs::remove_file(&file).unwrap();
        pods.wait_until_known(addresses(n)[family], false);
        // What was on its way is heard when its listeners get a CPU; then there is silence, though the senders go on.
        let mut last = heard();
        eventually(&format!("{place}: silence behind its end"), Duration::from_secs(3), || {
            std::thread::sleep(Duration::from_millis(15));
            let now = heard();
            std::mem::replace(&mut last, now) == now
        });
        from_pods[n].store(0, Ordering::Release);
        from_client.store(0, Ordering::Release);
    }
    let took = began.elapsed();
    drop(threads);
    pods.check_ledger();
    for (what, times) in
        [("from the pod", &mut out), ("to the pod", &mut into), ("first connection", &mut connects)]
    {
        times.sort();
        println!(
            "{what}: {} starts, p50 {:.1?}, p99 {:.1?}, max {:.1?}",
            times.len(),
            percentile(times, 50),
            percentile(times, 99),
            times.last().unwrap()
        );
    }
    println!(
        "{starts} starts in {took:.1?}; {sent_before} packets dropped before an object, where it was looked"
    );
    // TCP sends a lost SYN again after a second: none was.
    assert!(connects.last().unwrap() < &Duration::from_millis(900), "{:?}", connects.last());
}
