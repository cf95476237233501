//! Namespaces and veth pairs that a measurement makes for itself, and removes.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// Runs `ip` with these words; the error carries what it said.
pub fn ip(words: &str) -> Result<String, String> {
    let output = Command::new("ip")
        .args(words.split_whitespace())
        .stdin(Stdio::null())
        // Ctrl-C on the terminal is not its: half of a namespace would be left behind.
        .process_group(0)
        .output()
        .map_err(|e| format!("ip: {e} (install iproute2)"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("ip {words}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

/// A network namespace, removed with all its devices when dropped.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes one whose name no other run has.
    pub fn create(role: &str) -> Result<Self, String> {
        let name = format!("millrace-perf-{}-{role}", std::process::id());
        ip(&format!("netns add {name}"))?;
        let namespace = Self { name };
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip` inside.
    pub fn ip(&self, words: &str) -> Result<String, String> {
        ip(&format!("-n {} {words}", self.name))
    }

    /// A command that will run inside.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]).stdin(Stdio::null());
        command
    }

    /// One of an interface's counters, from sysfs.
    pub fn counter(&self, interface: &str, counter: &str) -> Result<u64, String> {
        let path = format!("/sys/class/net/{interface}/statistics/{counter}");
        let output = self.command("cat").arg(&path).output().map_err(|e| e.to_string())?;
        String::from_utf8_lossy(&output.stdout)
            .trim()
            .parse()
            .map_err(|_| format!("{path}: not a number"))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Nobody is left to tell; what can't be removed stays visible in `ip netns`.
        let _ = ip(&format!("netns del {}", self.name));
    }
}

/// One end of a veth pair.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    /// Where it lives.
    pub namespace: &'a Namespace,
    /// The interface's name.
    pub name: &'a str,
    /// Its MAC address.
    pub mac: &'a str,
}

/// Joins two namespaces by a veth pair with so many queues at each end, both up.
pub fn join(a: End<'_>, b: End<'_>, queues: u32) -> Result<(), String> {
    ip(&format!(
        "link add {} netns {} address {} numtxqueues {queues} numrxqueues {queues} type veth \
         peer name {} netns {} address {} numtxqueues {queues} numrxqueues {queues}",
        a.name, a.namespace.name, a.mac, b.name, b.namespace.name, b.mac
    ))?;
    for end in [a, b] {
        end.namespace.ip(&format!("link set {} addrgenmode none", end.name))?;
        end.namespace.ip(&format!("link set {} up", end.name))?;
    }
    Ok(())
}
