//! The real binaries between real hosts: a router namespace with the engine, a client, three backends.
//!
//! Client 10.1.0.2 and backends 10.2.1.2, 10.2.2.2, 10.2.3.2 (IPv6: fd00:1::2, fd00:2:1::2, …) are hosts with
//! kernels of their own; the engine owns the first address of each network. The service's VIPs are
//! [`VIP4`] and [`VIP6`].

use super::eventually;
use super::netns::{End, Namespace, Process, veth};
use super::peers::udp;
use serde_json::Value;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The service's addresses.
pub const VIP4: &str = "10.100.0.10";
/// Its IPv6 address.
pub const VIP6: &str = "fd00:100::10";
/// Port of its transfer service at the VIP; backends have it on the port + 8000, as all its ports.
pub const TRANSFER: u16 = 80;
/// Port of its UDP echo.
pub const ECHO: u16 = 53;
/// Backends that there are; the service lists those it is told to.
pub const BACKENDS: usize = 3;

const WORKERS: u32 = 2;
static COUNT: AtomicU32 = AtomicU32::new(0);
/// One engine at a time: two would share the CPUs that each test counts on.
pub(super) static ALONE: Mutex<()> = Mutex::new(());

/// Namespaces, files and processes of one engine; all removed on drop.
pub struct Rig {
    // The processes go before the namespaces that they run in.
    control: Option<Process>,
    /// The engine.
    pub engine: Process,
    /// Where the engine runs.
    pub router: Namespace,
    /// A host.
    pub client: Namespace,
    /// Hosts that serve.
    pub backends: Vec<Namespace>,
    folder: PathBuf,
    _alone: MutexGuard<'static, ()>,
}

/// Why the binaries can't be run, when they aren't there.
pub fn missing_binaries() -> Option<String> {
    let missing = ["millrace-dataplane", "millrace-control", "millrace"].map(binary);
    let missing = missing.iter().find(|path| !path.exists())?;
    let why = format!(
        "{} is not there: `make build`, or name its folder in MILLRACE_BIN",
        missing.display()
    );
    assert!(
        std::env::var_os("MILLRACE_PRIVILEGED").is_none(),
        "MILLRACE_PRIVILEGED is set, but {why}"
    );
    Some(why)
}

/// A released binary: in `MILLRACE_BIN`, or in the target folder that this test was built in.
pub fn binary(name: &str) -> PathBuf {
    if let Some(folder) = std::env::var_os("MILLRACE_BIN") {
        return Path::new(&folder).join(name);
    }
    let test = std::env::current_exe().unwrap();
    test.ancestors().nth(3).unwrap().join("release").join(name)
}

impl Rig {
    /// Hosts, wires of `mtu` and a running engine without control.
    pub fn new(mtu: u32) -> Self {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let router = Namespace::new("router");
        let client = Namespace::new("client");
        let backends: Vec<_> =
            (1..=BACKENDS).map(|n| Namespace::new(&format!("backend-{n}"))).collect();
        wire(&router, "client0", &client, "10.1.0", "fd00:1", mtu);
        for (n, backend) in (1..).zip(&backends) {
            let (net4, net6) = (format!("10.2.{n}"), format!("fd00:2:{n}"));
            wire(&router, &format!("backend{n}"), backend, &net4, &net6, mtu);
        }
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder =
            std::env::temp_dir().join(format!("millrace-test-{}-{count}", std::process::id()));
        fs::create_dir_all(folder.join("manifests")).unwrap();
        fs::write(folder.join("router.toml"), engine_config(&folder)).unwrap();
        let engine = start(&router, "millrace-dataplane", &["--config", "router.toml"], &folder);
        let rig = Self { control: None, engine, router, client, backends, folder, _alone: alone };
        eventually("the engine's socket", Duration::from_secs(10), || rig.socket().exists());
        rig
    }

    /// The engine's socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("engine.sock")
    }

    /// Writes the service and its endpoints, starts control, and waits until both VIPs answer.
    pub fn start_control(&mut self, endpoints: &[usize]) {
        let engine = format!("engine = \"{}\"\n", self.socket().display());
        fs::write(self.folder.join("control.toml"), engine).unwrap();
        fs::write(self.folder.join("manifests/service.yaml"), service()).unwrap();
        self.set_endpoints(endpoints);
        let arguments = ["--config", "control.toml", "--manifests", "manifests"];
        self.control = Some(start(&self.router, "millrace-control", &arguments, &self.folder));
    }

    /// Replaces the service's endpoints: a rename, so that control never sees half a file.
    pub fn set_endpoints(&self, endpoints: &[usize]) {
        let new = self.folder.join("endpoints.new");
        fs::write(&new, slices(endpoints)).unwrap();
        fs::rename(new, self.folder.join("manifests/endpoints.yaml")).unwrap();
    }

    /// `kill -9` of control.
    pub fn kill_control(&mut self) {
        self.control.take().unwrap().kill();
    }

    /// Waits until the echo behind each VIP answers the client.
    pub fn wait_for(&self, vips: &[&str]) {
        for vip in vips {
            eventually("an answer through the VIP", Duration::from_secs(10), || {
                self.client.run(|| udp::ask(at(vip, ECHO), "ready?")).is_ok()
            });
        }
    }

    /// What `millrace show WHAT --json` prints.
    pub fn show(&self, what: &str) -> Value {
        let mut command = Command::new(binary("millrace"));
        command.arg("--socket").arg(self.socket()).args(["show", what, "--json"]);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "show {what}: {said}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Fails unless every packet is accounted for, in the kernel's hands too.
    ///
    /// Workers still count while they are read: an imbalance has to be there twice to be one.
    pub fn check_ledger(&self) {
        eventually("a ledger that balances", Duration::from_secs(5), || {
            self.show("counters")["balanced"].as_bool().unwrap()
        });
    }

    /// Fails unless each worker carried packets.
    pub fn check_both_workers(&self) {
        let counters = self.show("counters");
        let received: Vec<_> = counters["workers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|w| w["rx"].as_u64().unwrap())
            .collect();
        assert!(
            received.len() == WORKERS as usize && received.iter().all(|rx| *rx > 0),
            "{received:?}"
        );
    }

    /// Nanoseconds that the engine's threads have run so far.
    pub fn engine_cpu(&self) -> u64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.engine.0.id())).unwrap();
        let ran = |task: fs::DirEntry| {
            // proc(5): time on the CPU in nanoseconds, time waiting for it, timeslices.
            let text = fs::read_to_string(task.path().join("schedstat")).unwrap();
            text.split(' ').next().unwrap().parse::<u64>().unwrap()
        };
        tasks.map(|task| ran(task.unwrap())).sum()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for log in ["millrace-dataplane.log", "millrace-control.log"] {
                let text = fs::read_to_string(self.folder.join(log)).unwrap_or_default();
                eprintln!("---- {log}\n{text}");
            }
            let mut show = Command::new(binary("millrace"));
            let shown = show.arg("--socket").arg(self.socket()).args(["show", "counters"]).output();
            eprintln!(
                "---- show counters\n{}",
                shown.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default()
            );
            for host in self.backends.iter().chain([&self.client]) {
                let udp = host
                    .run(|| fs::read_to_string("/proc/thread-self/net/snmp").unwrap_or_default());
                let udp: Vec<_> = udp.lines().filter(|line| line.starts_with("Udp:")).collect();
                eprintln!(
                    "---- {}\n{}\n{}",
                    host.name(),
                    udp.join("\n"),
                    host.ip("-s link show eth0")
                );
            }
            eprintln!("---- router\n{}", self.router.ip("-s link"));
        }
        let _left_behind = fs::remove_dir_all(&self.folder);
    }
}

/// The socket address of `ip` and `port`.
pub fn at(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse::<IpAddr>().unwrap(), port)
}

/// Backend `n`'s addresses, from 1.
pub fn backend(n: usize) -> [String; 2] {
    [format!("10.2.{n}.2"), format!("fd00:2:{n}::2")]
}

/// The port at the backends of a port at the VIP.
pub fn target(port: u16) -> u16 {
    port + 8000
}

fn wire(router: &Namespace, device: &str, host: &Namespace, net4: &str, net6: &str, mtu: u32) {
    let (near, far) = (End { namespace: router, device }, End { namespace: host, device: "eth0" });
    veth(&near, &far, WORKERS, mtu);
    // The router's kernel is not to speak on the engine's wires.
    router.sysctl(&format!("net/ipv6/conf/{device}/disable_ipv6"), "1");
    host.address("eth0", &format!("{net4}.2/24"));
    host.address("eth0", &format!("{net6}::2/64"));
    host.ip(&format!("route add default via {net4}.1"));
    host.ip(&format!("-6 route add default via {net6}::1"));
}

/// Starts a released binary in a namespace and in `folder`, where its log is.
pub fn start(namespace: &Namespace, program: &str, arguments: &[&str], folder: &Path) -> Process {
    let log = File::options()
        .create(true)
        .append(true)
        .open(folder.join(format!("{program}.log")))
        .unwrap();
    let mut command = namespace.command(binary(program));
    command.args(arguments).current_dir(folder).stdin(Stdio::null());
    command.stdout(log.try_clone().unwrap()).stderr(log);
    Process(command.spawn().unwrap())
}

fn engine_config(folder: &Path) -> String {
    let cpus: Vec<_> =
        core_affinity::get_core_ids().unwrap().iter().map(|cpu| cpu.id).take(2).collect();
    let socket = folder.join("engine.sock");
    let mut text = format!("mode = \"router\"\nsocket = \"{}\"\n", socket.display());
    write!(text, "[workers]\ncpus = {cpus:?}\nmode = \"adaptive\"\n").unwrap();
    let mut interface = |name: &str, net4: &str, net6: &str| {
        let addresses = format!("[\"{net4}.1/24\", \"{net6}::1/64\"]");
        write!(text, "[[interface]]\nname = \"{name}\"\naddresses = {addresses}\n").unwrap();
    };
    interface("client0", "10.1.0", "fd00:1");
    for n in 1..=BACKENDS {
        interface(&format!("backend{n}"), &format!("10.2.{n}"), &format!("fd00:2:{n}"));
    }
    text
}

fn service() -> String {
    let port = |name, protocol, port| {
        format!(
            "  - {{name: {name}, port: {port}, targetPort: {}, protocol: {protocol}}}\n",
            target(port)
        )
    };
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: web, namespace: default}}
spec:
  clusterIP: {VIP4}
  clusterIPs: [{VIP4}, '{VIP6}']
  ipFamilies: [IPv4, IPv6]
  ipFamilyPolicy: RequireDualStack
  ports:
{}{}",
        port("transfer", "TCP", TRANSFER),
        port("echo", "UDP", ECHO)
    )
}

fn slices(endpoints: &[usize]) -> String {
    let mut text = String::new();
    for (index, family) in ["IPv4", "IPv6"].iter().enumerate() {
        let addresses =
            endpoints.iter().map(|n| format!("{{addresses: ['{}']}}", backend(*n)[index]));
        let endpoints = addresses.collect::<Vec<_>>().join(", ");
        write!(
            text,
            "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: web-{index}, namespace: default, labels: {{kubernetes.io/service-name: web}}}}
addressType: {family}
ports:
- {{name: transfer, port: {}, protocol: TCP}}
- {{name: echo, port: {}, protocol: UDP}}
endpoints: [{endpoints}]
",
            target(TRANSFER),
            target(ECHO)
        )
        .unwrap();
    }
    text
}
