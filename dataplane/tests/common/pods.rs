//! Pods, each alone behind an interface of a real engine, and the world outside behind another; real control between them.
//!
//! Pod `n` (from 0) is 10.0.0.(n + 1) and fd00::(n + 1) with the MAC 02:00:00:00:01:(n + 1), behind the interface `podN`, whose address is its gateway. Outside,
//! behind 192.168.0.2, are the other node's pods and clients: [`Pods::outside_addresses`]. The engine is node-0, 192.168.0.1. What is a pod, and
//! under which labels, is the objects' to say ([`Pods::set`]); all hosts serve all the time.

use super::eventually;
use super::netns::{End, Namespace, Process, veth};
use super::peers::{Server, probe};
use super::rig::{ALONE, binary, start};
use millrace_tables::session::{Role, Session};
use millrace_tables::shm::Segment;
use millrace_tables::{Epochs, Snapshot, Tables};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Pods that there can be.
pub const PODS: usize = 9;
/// The host outside, among [`Pods::hosts`].
pub const OUTSIDE: usize = PODS;
/// The node's own address.
pub const NODE: &str = "192.168.0.1";
const WORKERS: usize = 2;
/// Other pods' addresses outside, as many as here.
const OTHERS: usize = PODS;
static COUNT: AtomicU32 = AtomicU32::new(0);

/// Namespaces, files and processes; all removed on drop.
pub struct Pods {
    servers: Vec<Server>,
    control: Option<Process>,
    /// The engine.
    pub engine: Process,
    /// Where the engine runs.
    pub router: Namespace,
    pods: Vec<Namespace>,
    outside: Namespace,
    /// Configuration, manifests and logs.
    pub folder: PathBuf,
    watch: Option<Watch>,
    version: u32,
    _alone: MutexGuard<'static, ()>,
}

/// The engine's tables, and who uses which generation.
struct Watch {
    tables: Tables,
    epochs: Epochs,
    _session: Session,
}

/// The addresses of pod `n`.
pub fn addresses(n: usize) -> [IpAddr; 2] {
    [format!("10.0.0.{}", n + 1).parse().unwrap(), format!("fd00::{:x}", n + 1).parse().unwrap()]
}

/// Its MAC.
pub fn mac(n: usize) -> [u8; 6] {
    [2, 0, 0, 0, 1, n as u8 + 1]
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

impl Pods {
    /// Hosts, wires, a running engine, and control with these further lines of `control.toml` and no objects but the node's.
    pub fn new(more: &str) -> Self {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let router = Namespace::new("router");
        let pods: Vec<Namespace> = (0..PODS).map(|n| Namespace::new(&format!("pod-{n}"))).collect();
        let outside = Namespace::new("outside");
        for (n, pod) in pods.iter().enumerate() {
            connect(&router, &format!("pod{n}"), pod);
            let ([v4, v6], mac) = (addresses(n), text(mac(n)));
            pod.ip_batch(&format!(
                "link set eth0 address {mac}
addr add {v4}/32 dev eth0
addr add {v6}/128 dev eth0 nodad
route add default via 10.255.{n}.1 dev eth0 onlink
route add default via fd00:ff:{n}::1 dev eth0 onlink
"
            ));
        }
        connect(&router, "uplink", &outside);
        let mut lines = String::from(
            "addr add 192.168.0.2/24 dev eth0\naddr add fd00:fe::2/64 dev eth0 nodad\n\
             route add default via 192.168.0.1\nroute add default via fd00:fe::1\n",
        );
        for addr in
            Self::outside_addresses().iter().filter(|addr| addr.to_string() != "192.168.0.2")
        {
            let (length, nodad) = if addr.is_ipv4() { (32, "") } else { (128, "nodad") };
            writeln!(lines, "addr add {addr}/{length} dev lo {nodad}").unwrap();
        }
        outside.ip_batch(&lines);

        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder =
            std::env::temp_dir().join(format!("millrace-test-{}-pods-{count}", std::process::id()));
        fs::create_dir_all(folder.join("manifests")).unwrap();
        fs::write(folder.join("router.toml"), engine_config(&folder)).unwrap();
        let control = format!("engine = \"{}\"\n{}", folder.join("engine.sock").display(), more);
        fs::write(folder.join("control.toml"), control + ROUTES).unwrap();
        let engine = start(&router, "millrace-dataplane", &["--config", "router.toml"], &folder);
        let mut servers: Vec<Server> = pods
            .iter()
            .enumerate()
            .map(|(n, pod)| probe::serve(pod, addresses(n).into()))
            .collect();
        servers.push(probe::serve(&outside, Self::outside_addresses()));
        let mut it = Self {
            servers,
            control: None,
            engine,
            router,
            pods,
            outside,
            folder,
            watch: None,
            version: 0,
            _alone: alone,
        };
        let socket = it.folder.join("engine.sock");
        eventually("the engine's socket", Duration::from_secs(10), || socket.exists());
        it.set(&[]);
        it
    }

    /// `[[pod]]` entries that give each interface to its pod: `name` says which pod that is, and its addresses are fixed, or its object's.
    pub fn entries(name: impl Fn(usize) -> String, fixed: bool) -> String {
        let mut text_of = String::new();
        for n in 0..PODS {
            let [v4, v6] = addresses(n);
            write!(
                text_of,
                "[[pod]]\ninterface = \"pod{n}\"\npod = \"{}\"\nmac = \"{}\"\n",
                name(n),
                text(mac(n))
            )
            .unwrap();
            if fixed {
                writeln!(text_of, "addresses = [\"{v4}\", \"{v6}\"]").unwrap();
            }
        }
        text_of
    }

    /// All hosts: pods by number, and [`OUTSIDE`].
    pub fn hosts(&self) -> Vec<&Namespace> {
        self.pods.iter().chain([&self.outside]).collect()
    }

    /// Who is outside: the other node, its pods, and clients.
    pub fn outside_addresses() -> Vec<IpAddr> {
        let mut all: Vec<IpAddr> = ["192.168.0.2", "203.0.113.7", "203.0.113.8", "2001:db8::1"]
            .map(|addr| addr.parse().unwrap())
            .into();
        for n in 1..=OTHERS {
            all.push(format!("10.0.1.{n}").parse().unwrap());
            all.push(format!("fd00:1::{n:x}").parse().unwrap());
        }
        all
    }

    /// Makes the cluster's objects these, as one file, and waits until every worker uses them.
    pub fn set(&mut self, objects: &[Value]) {
        self.write(objects);
        self.wait();
    }

    /// [`Self::set`] without the wait. Answers the number of this version.
    pub fn write(&mut self, objects: &[Value]) -> u32 {
        self.version += 1;
        let mut documents: String =
            objects.iter().map(|object| format!("---\n{object}\n")).collect();
        if !objects.iter().any(|object| object["kind"] == "Node") {
            for n in 0..2 {
                writeln!(documents, "---\n{}", node(n)).unwrap();
            }
        }
        writeln!(documents, "---\n{}", sentinel(self.version)).unwrap();
        let new = self.folder.join("world.new");
        fs::write(&new, documents).unwrap();
        fs::rename(new, self.folder.join("manifests/world.yaml")).unwrap();
        if self.control.is_none() {
            self.start_control();
        }
        self.version
    }

    /// Waits until every worker uses what was written last.
    pub fn wait(&mut self) {
        let port = 1 + (self.version % 60_000) as u16;
        let vip = IpAddr::from([10, 96, 255, 254]).into();
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut looked = Instant::now();
        loop {
            // A control that has just begun brings tables of its own.
            if self.watch.is_none() || looked.elapsed() > Duration::from_millis(200) {
                self.watch = watch(&self.folder.join("engine.sock"));
                looked = Instant::now();
            }
            let is_there = |it: &Watch| it.tables.snapshot().frontend(&vip, port, 6).is_some();
            if self.watch.as_ref().is_some_and(is_there) {
                break;
            }
            assert!(Instant::now() < deadline, "version {port} is not in the tables");
            std::thread::sleep(Duration::from_millis(2));
        }
        self.wait_until("its objects in the tables", |tables| {
            tables.frontend(&vip, port, 6).is_some()
        });
    }

    /// Waits until the tables say so, and every worker uses them.
    pub fn wait_until(&self, what: &str, says: impl Fn(&Snapshot<'_>) -> bool) {
        let Some(Watch { tables, epochs, .. }) = &self.watch else {
            panic!("nobody waited for control")
        };
        let mut generation = None;
        eventually(what, Duration::from_secs(10), || {
            let snapshot = tables.snapshot();
            if generation.is_none() && says(&snapshot) {
                generation = Some(snapshot.generation());
            }
            let uses = |worker: usize| {
                let used = epochs.generation(worker);
                used.is_none_or(|used| generation.is_some_and(|wanted| used >= wanted))
            };
            generation.is_some() && (0..WORKERS).all(uses)
        });
    }

    /// Waits until every worker knows this address as a pod's, or as nobody's.
    pub fn wait_until_known(&self, addr: IpAddr, known: bool) {
        let addr = addr.into();
        self.wait_until("a pod in the tables, or its end", |tables| {
            tables.policy_endpoint(&addr).is_closed() != known
        });
    }

    /// Starts control, on what is in its folder.
    pub fn start_control(&mut self) {
        let arguments =
            ["--config", "control.toml", "--manifests", "manifests", "--node", "node-0"];
        self.watch = None;
        self.control = Some(start(&self.router, "millrace-control", &arguments, &self.folder));
    }

    /// `kill -9` of control.
    pub fn kill_control(&mut self) {
        self.control.take().unwrap().kill();
    }

    /// What control has logged.
    pub fn log(&self, program: &str) -> String {
        fs::read_to_string(self.folder.join(format!("{program}.log"))).unwrap_or_default()
    }

    /// What `millrace show WHAT --json` prints.
    pub fn show(&self, what: &str) -> Value {
        self.millrace(&["show", what, "--json"], "").remove(0)
    }

    /// Has the live tables explained: one answer for each flow.
    pub fn explain(&self, flows: &[Value]) -> Vec<Value> {
        let lines: String = flows.iter().map(|flow| format!("{flow}\n")).collect();
        self.millrace(&["explain", "--flows", "-"], &lines)
    }

    fn millrace(&self, arguments: &[&str], input: &str) -> Vec<Value> {
        let mut command = Command::new(binary("millrace"));
        command.arg("--socket").arg(self.folder.join("engine.sock")).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let output = std::thread::scope(|scope| {
            scope.spawn(move || stdin.write_all(input.as_bytes()));
            child.wait_with_output().unwrap()
        });
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "millrace {arguments:?}: {said}");
        let values = serde_json::Deserializer::from_slice(&output.stdout).into_iter();
        values.map(|value| value.unwrap()).collect()
    }

    /// A drop reason's count on an interface.
    pub fn drops(&self, interface: &str, reason: &str) -> u64 {
        let counters = self.show("counters");
        let rows = counters["interfaces"].as_array().unwrap();
        let row = rows.iter().find(|row| row["interface"] == interface).unwrap();
        row["drops"][reason].as_u64().unwrap_or(0)
    }

    /// What a policy has counted: allowed, denied, would have denied.
    pub fn counts(&self, policy: &str) -> [u64; 3] {
        let rows = self.show("policies");
        let row = rows.as_array().unwrap().iter().find(|row| row["policy"] == policy);
        let row = row.unwrap_or_else(|| panic!("{policy} is not among {rows}"));
        ["allowed", "denied", "would_deny"].map(|what| row[what].as_u64().unwrap())
    }

    /// Fails unless every packet is accounted for.
    pub fn check_ledger(&self) {
        eventually("a ledger that balances", Duration::from_secs(5), || {
            self.show("counters")["balanced"].as_bool().unwrap()
        });
    }
}

impl Drop for Pods {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for program in ["millrace-dataplane", "millrace-control"] {
                let log = self.log(program);
                let lines: Vec<&str> = log.lines().collect();
                let last = lines.len().saturating_sub(30);
                eprintln!("---- {program}, its last lines\n{}", lines[last..].join("\n"));
            }
        }
        self.servers.clear();
        let _left_behind = fs::remove_dir_all(&self.folder);
    }
}

fn watch(socket: &std::path::Path) -> Option<Watch> {
    let session = Session::connect(socket).ok()?;
    let greeting = session.greet(Role::Observer).ok()?;
    let tables = Tables::open(greeting.tables?).ok()?;
    let epochs = Epochs::open(Arc::new(Segment::open(greeting.state).ok()?)).ok()?;
    Some(Watch { tables, epochs, _session: session })
}

fn connect(router: &Namespace, device: &str, host: &Namespace) {
    let (near, far) = (End { namespace: router, device }, End { namespace: host, device: "eth0" });
    veth(&near, &far, WORKERS as u32, 1500);
    // The router's kernel is not to speak on the engine's wires.
    router.sysctl(&format!("net/ipv6/conf/{device}/disable_ipv6"), "1");
    // Ports of probes lie above what is served.
    host.sysctl("net/ipv4/ip_local_port_range", "10000 60999");
}

const ROUTES: &str = "
[[route]]
prefix = \"0.0.0.0/0\"
via = \"192.168.0.2\"
[[route]]
prefix = \"::/0\"
via = \"fd00:fe::2\"
";

/// A Node with its range of pods' addresses.
pub fn node(n: usize) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": format!("node-{n}")},
        "spec": {"podCIDRs": [format!("10.0.{n}.0/24"), format!("fd00:{n}::/64")]},
        "status": {"addresses": [{"type": "InternalIP", "address": format!("192.168.0.{}", n + 1)}]}})
}

/// A Service of nobody's, whose port says which version of the objects is in force.
fn sentinel(version: u32) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "sentinel", "name": "version"},
        "spec": {"clusterIP": "10.96.255.254", "clusterIPs": ["10.96.255.254"],
            "ports": [{"name": "v", "port": 1 + version % 60_000, "protocol": "TCP"}]}})
}

fn engine_config(folder: &std::path::Path) -> String {
    let cpus: Vec<_> =
        core_affinity::get_core_ids().unwrap().iter().map(|cpu| cpu.id).take(WORKERS).collect();
    let socket = folder.join("engine.sock");
    let mut text = format!(
        "mode = \"router\"\nsocket = \"{}\"\n[workers]\ncpus = {cpus:?}\nmode = \"adaptive\"\n\
         [umem]\nframes = 16384\nchunk = 2048\n[conntrack]\nentries = 65536\n[limits]\nicmp_errors_per_second = 100000\n\
         [[interface]]\nname = \"uplink\"\naddresses = [\"{NODE}/24\", \"fd00:fe::1/64\"]\n",
        socket.display()
    );
    for n in 0..PODS {
        let addresses = format!("[\"10.255.{n}.1/30\", \"fd00:ff:{n}::1/64\"]");
        write!(text, "[[interface]]\nname = \"pod{n}\"\naddresses = {addresses}\n").unwrap();
    }
    text
}
