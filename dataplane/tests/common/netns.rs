//! Network namespaces that go when their test goes, and veth pairs between them.

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{Builder, JoinHandle};

/// Names are `millrace-test-<pid>-<count>-<label>`: unique, and telling whose a leftover is.
const PREFIX: &str = "millrace-test-";

static COUNT: AtomicU32 = AtomicU32::new(0);
static SWEEP: Once = Once::new();

/// A network namespace with its own kernel stack; removed on drop.
pub struct Namespace {
    name: String,
    file: File,
}

/// One end of a veth pair.
pub struct End<'a> {
    /// Where it lives.
    pub namespace: &'a Namespace,
    /// The device's name there.
    pub device: &'a str,
}

impl Namespace {
    /// Makes a namespace with its loopback up; `label` is a part of its name.
    pub fn new(label: &str) -> Self {
        SWEEP.call_once(sweep);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{count}-{label}", std::process::id());
        ip(&["netns", "add", &name]).unwrap();
        let file = File::open(Path::new("/run/netns").join(&name)).unwrap();
        let namespace = Self { name, file };
        namespace.ip("link set lo up");
        namespace
    }

    /// Its name, for `ip netns exec`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs an `ip` command in it, split at spaces; answers what it printed.
    pub fn ip(&self, command: &str) -> String {
        let mut words = vec!["-n", &self.name];
        words.extend(command.split_whitespace());
        ip(&words).unwrap()
    }

    /// Runs many `ip` commands in it, one a line.
    pub fn ip_batch(&self, commands: &str) {
        let mut command = Command::new("ip");
        command.args(["-n", &self.name, "-batch", "-"]).stdin(Stdio::piped());
        let mut child = command.stdout(Stdio::null()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(commands.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "ip -n {} -batch of\n{commands}", self.name);
    }

    /// Gives `device` an address, usable at once (IPv6 without duplicate address detection).
    pub fn address(&self, device: &str, address: &str) {
        let nodad = if address.contains(':') { "nodad" } else { "" };
        self.ip(&format!("addr add {address} dev {device} {nodad}"));
    }

    /// Writes a sysctl, named by its path under /proc/sys.
    pub fn sysctl(&self, path: &str, value: &str) {
        let file = Path::new("/proc/sys").join(path);
        // The files show the namespace of the thread that opens them.
        self.run(|| {
            std::fs::write(&file, value).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
        });
    }

    /// Runs `work` in a thread inside the namespace and answers its result.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                enter(&self.file);
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Starts a thread inside the namespace.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let file = self.file.try_clone().unwrap();
        let thread = Builder::new().name(self.name.clone());
        thread
            .spawn(move || {
                enter(&file);
                work()
            })
            .unwrap()
    }

    /// A command that will run in the namespace, with /sys of its own.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Threads or sockets that still live in it keep it alive, nameless, until they end.
        if let Err(why) = ip(&["netns", "del", &self.name]) {
            eprintln!("{why}");
        }
    }
}

/// Joins two ends with a veth pair of `queues` queues and brings both up.
pub fn veth(a: &End<'_>, b: &End<'_>, queues: u32, mtu: u32) {
    let queues = format!("numrxqueues {queues} numtxqueues {queues}");
    a.namespace.ip(&format!(
        "link add {} mtu {mtu} {queues} type veth peer name {} mtu {mtu} netns {} {queues}",
        a.device, b.device, b.namespace.name
    ));
    for end in [a, b] {
        end.namespace.sysctl(&format!("net/ipv6/conf/{}/accept_dad", end.device), "0");
        end.namespace.ip(&format!("link set {} up", end.device));
    }
}

/// A child process that is killed when its test ends.
pub struct Process(pub Child);

impl Process {
    /// SIGKILL, as `kill -9` sends it, and waits for the end.
    pub fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _already_gone = self.0.kill();
        let _already_reaped = self.0.wait();
    }
}

/// Runs `ip`; the error is its own words.
pub fn ip(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new("ip").args(arguments).stdin(Stdio::null()).output();
    let output = output.map_err(|why| format!("ip: {why}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
}

fn enter(namespace: &File) {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
}

/// Removes what test processes that were killed left behind; those that live are not touched.
fn sweep() {
    let Ok(entries) = std::fs::read_dir("/run/netns") else { return };
    for name in entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
        let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        let Some(pid) = pid.and_then(|pid| pid.parse::<u32>().ok()) else { continue };
        if Path::new("/proc").join(pid.to_string()).exists() {
            continue;
        }
        // Another test process may be sweeping it at the same moment: what is gone is fine.
        for pid in ip(&["netns", "pids", &name]).unwrap_or_default().split_whitespace() {
            let _gone = Command::new("kill").args(["-9", pid]).status();
        }
        let _gone = ip(&["netns", "del", &name]);
    }
}
