//! The command on real interfaces: veth pairs between namespaces, real kernels' stacks at the other end.
//!
//! Rates are low enough for a busy machine; what is asserted are counts, never times, but for the median of a replay's gaps.

#[path = "../../../dataplane/tests/common/netns.rs"]
#[allow(dead_code, reason = "a part of it is used here")]
mod netns;
mod schema;

mod command;
mod endings;
mod replay;
mod stateful;
mod streams;

use netns::{End, Namespace, veth};
use serde_json::Value;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

const PKTGEN: &str = env!("CARGO_BIN_EXE_millrace-pktgen");

/// Whether privileged tests run here; with `MILLRACE_PRIVILEGED=1` a missing privilege fails.
fn privileged() -> bool {
    let why = if !rustix::process::geteuid().is_root() {
        "it is not root"
    } else if let Err(why) = netns::ip(&["netns", "list"]) {
        return privileged_or_skip(&why);
    } else {
        return true;
    };
    privileged_or_skip(why)
}

fn privileged_or_skip(why: &str) -> bool {
    assert!(
        std::env::var_os("MILLRACE_PRIVILEGED").is_none(),
        "MILLRACE_PRIVILEGED is set, but {why}"
    );
    eprintln!("SKIP {}: {why}", std::thread::current().name().unwrap_or("test"));
    false
}

/// Tests that count may run beside each other; one that times something runs alone.
static CPUS: RwLock<()> = RwLock::new(());

fn beside() -> RwLockReadGuard<'static, ()> {
    CPUS.read().unwrap_or_else(PoisonError::into_inner)
}

fn alone() -> RwLockWriteGuard<'static, ()> {
    CPUS.write().unwrap_or_else(PoisonError::into_inner)
}

/// Two namespaces and a wire of two queues.
struct Wire {
    left: Namespace,
    right: Namespace,
}

impl Wire {
    fn new() -> Self {
        let (left, right) = (Namespace::new("left"), Namespace::new("right"));
        let (a, b) =
            (End { namespace: &left, device: "l0" }, End { namespace: &right, device: "r0" });
        veth(&a, &b, 2, 1600);
        Self { left, right }
    }

    /// The right end with a kernel that has addresses.
    fn with_kernel() -> Self {
        let wire = Self::new();
        wire.right.address("r0", "10.0.0.2/24");
        wire.right.address("r0", "fd00::2/64");
        wire
    }

    fn ends(&self) -> Vec<String> {
        ["--tx", "l0", "--netns-tx", self.left.name()].map(str::to_owned).to_vec()
    }

    fn both(&self) -> Vec<String> {
        let mut ends = self.ends();
        ends.extend(["--rx", "r0", "--netns-rx", self.right.name()].map(str::to_owned));
        ends
    }
}

fn start(arguments: &[String]) -> Child {
    let mut command = Command::new(PKTGEN);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

fn finish(child: Child) -> Value {
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    schema::check(&report);
    report
}

/// Runs the command with `--json` and answers its report, which its schema allows.
fn report(command: &str, ends: &[String], rest: &str) -> Value {
    let mut arguments = vec![command.to_owned()];
    arguments.extend_from_slice(ends);
    arguments.extend(rest.split_whitespace().map(str::to_owned));
    arguments.extend(["--json".to_owned(), "--quiet".to_owned()]);
    finish(start(&arguments))
}

fn number(report: &Value, path: &str) -> u64 {
    report.pointer(path).and_then(Value::as_u64).unwrap_or_else(|| panic!("{path}: {report:#}"))
}

/// A file that goes with its test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str, bytes: impl AsRef<[u8]>) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let file = format!("millrace-pktgen-test-{}-{count}-{name}", std::process::id());
        let path = std::env::temp_dir().join(file);
        std::fs::write(&path, bytes).unwrap();
        Self(path)
    }

    fn text(&self) -> String {
        self.0.display().to_string()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _gone = std::fs::remove_file(&self.0);
    }
}

/// A counter of a namespace's kernel, as `Udp` `InCsumErrors`.
fn snmp(namespace: &Namespace, protocol: &str, name: &str) -> u64 {
    // The thread's own namespace, not the process's.
    let text = namespace.run(|| std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap());
    let mut lines = text.lines().filter(|l| l.split(':').next() == Some(protocol));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let at = names.split_whitespace().position(|n| n == name).unwrap();
    values.split_whitespace().nth(at).unwrap().parse().unwrap()
}

fn snmp6(namespace: &Namespace, name: &str) -> u64 {
    let text = namespace.run(|| std::fs::read_to_string("/proc/thread-self/net/snmp6").unwrap());
    let line = text.lines().find(|l| l.split_whitespace().next() == Some(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn assert_all_arrived(report: &Value) {
    let total = |name: &str| number(report, &format!("/total/{name}"));
    assert_eq!(total("completed"), total("queued"), "{report:#}");
    let late = total("unsent") + number(report, "/generator/rx_dropped");
    assert_eq!(total("queued") + total("unsent"), total("asked"));
    assert_eq!(total("lost"), number(report, "/generator/rx_dropped"), "{report:#}");
    assert_eq!([total("duplicated"), total("reordered"), total("corrupted")], [0; 3], "{report:#}");
    assert_eq!(total("received") + total("lost"), total("completed"));
    if late > 0 {
        assert!(
            !report["warnings"].as_array().unwrap().is_empty(),
            "nothing is said of {late} packets"
        );
    }
    assert!(total("received") > 0);
    let seconds = report["seconds"].as_array().unwrap();
    let sum = |name: &str| seconds.iter().map(|s| s[name].as_u64().unwrap()).sum::<u64>();
    for name in ["asked", "queued", "completed", "received"] {
        assert_eq!(sum(name), total(name), "{name}: {report:#}");
    }
}

fn signal(child: &Child) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
}
