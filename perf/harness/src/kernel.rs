//! What is asked of the kernel beside its network stack: how large conntrack may be, that it forgets, who used a CPU, who runs where.

use crate::folder::Folder;
use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, recv, sendto, socket};
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_setaffinity};
use std::fs;

/// Kernel-wide limits of conntrack, as they were when dropped.
#[derive(Debug)]
pub struct Limits {
    before: Vec<(&'static str, String)>,
    /// Has the journal, for who is killed.
    folder: Folder,
}

/// Entries that conntrack may have, and its buckets: room for the new flows of one trial.
const LIMITS: [(&str, u32); 2] = [
    ("/proc/sys/net/nf_conntrack_max", 1 << 21),
    ("/sys/module/nf_conntrack/parameters/hashsize", 1 << 20),
];

impl Limits {
    /// Raises them to what one trial of new flows needs.
    pub fn raise() -> Result<Self, String> {
        Self::raise_to(0)
    }

    /// Raises them to `entries` at least, with half as many buckets.
    pub fn raise_to(entries: u32) -> Result<Self, String> {
        let mut limits = Self { before: Vec::new(), folder: Folder::create("limits")? };
        for ((path, wanted), least) in LIMITS.into_iter().zip([entries, entries / 2]) {
            let wanted = wanted.max(least);
            let error = |e| {
                format!(
                    "{path}: {e} (conntrack in the kernel, and root outside of containers, are needed)"
                )
            };
            let before = fs::read_to_string(path).map_err(error)?;
            if before.trim().parse::<u32>().is_ok_and(|now| now < wanted) {
                limits.before.push((path, before.trim().to_owned()));
                limits.note()?;
                fs::write(path, wanted.to_string()).map_err(error)?;
            }
        }
        Ok(limits)
    }

    fn note(&self) -> Result<(), String> {
        let lines: Vec<String> =
            self.before.iter().map(|(path, before)| format!("echo {before} > {path}")).collect();
        let file = self.folder.path().join(crate::settings::JOURNAL);
        fs::write(&file, lines.join("\n")).map_err(|e| format!("{}: {e}", file.display()))
    }
}

impl Drop for Limits {
    fn drop(&mut self) {
        for (path, before) in &self.before {
            if let Err(error) = fs::write(path, before) {
                eprintln!("millrace-perf: {path} stays raised ({error}); it was {before}");
            }
        }
    }
}

/// Removes all conntrack entries of this namespace.
pub fn forget() -> Result<(), String> {
    let failed = |e: rustix::io::Errno| format!("removing conntrack entries: {e}");
    let socket =
        socket(AddressFamily::NETLINK, SocketType::RAW, Some(NETFILTER)).map_err(failed)?;
    sendto(&socket, &delete_all(), SendFlags::empty(), &SocketAddrNetlink::new(0, 0))
        .map_err(failed)?;
    let mut answer = [0; 1024];
    let (read, _) = recv(&socket, &mut answer, RecvFlags::empty()).map_err(failed)?;
    match error_of(answer.get(..read).unwrap_or_default()) {
        Some(0) => Ok(()),
        Some(errno) => Err(failed(rustix::io::Errno::from_raw_os_error(-errno))),
        None => Err("removing conntrack entries: an answer that is none".into()),
    }
}

/// `struct nlmsghdr` and `struct nfgenmsg` (`include/uapi/linux/netlink.h`, `nfnetlink.h`): delete, of no tuple in particular.
fn delete_all() -> Vec<u8> {
    const CTNETLINK: u16 = 1;
    const DELETE: u16 = 2;
    const REQUEST_AND_ACK: u16 = 1 | 4;
    let mut message = Vec::with_capacity(20);
    message.extend(20_u32.to_ne_bytes());
    message.extend((CTNETLINK << 8 | DELETE).to_ne_bytes());
    message.extend(REQUEST_AND_ACK.to_ne_bytes());
    // Sequence number and sender; any family, version 0, no resource.
    message.extend([0; 8]);
    message.extend([0; 4]);
    message
}

/// The code in a `struct nlmsgerr`: 0, or an errno below it.
fn error_of(answer: &[u8]) -> Option<i32> {
    const ERROR: u16 = 2;
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    let code = i32::from_ne_bytes(answer.get(16..20)?.try_into().ok()?);
    (kind == ERROR).then_some(code)
}

/// Ticks that a CPU was busy, and all that passed, since boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticks {
    /// Not idle.
    pub busy: u64,
    /// All.
    pub all: u64,
}

impl Ticks {
    /// The share that a CPU was busy since `before`.
    pub fn busy_since(self, before: Ticks) -> f64 {
        let all = self.all.saturating_sub(before.all).max(1);
        self.busy.saturating_sub(before.busy) as f64 / all as f64
    }
}

/// What `/proc/stat` says of a CPU.
pub fn ticks(cpu: usize) -> Result<Ticks, String> {
    let text = fs::read_to_string("/proc/stat").map_err(|e| format!("/proc/stat: {e}"))?;
    ticks_in(&text, cpu).ok_or_else(|| format!("/proc/stat: no CPU {cpu}"))
}

fn ticks_in(stat: &str, cpu: usize) -> Option<Ticks> {
    let name = format!("cpu{cpu} ");
    let line = stat.lines().find_map(|line| line.strip_prefix(&name))?;
    // user, nice, system, idle, iowait, irq, softirq, steal; the guest's are in user.
    let fields: Vec<u64> = line.split_whitespace().take(8).filter_map(|f| f.parse().ok()).collect();
    let all = fields.iter().sum();
    let idle = fields.get(3)? + fields.get(4)?;
    Some(Ticks { busy: all - idle, all })
}

/// Pins the kernel threads that poll an interface (threaded NAPI) of any namespace. Returns how many there were.
pub fn pin_pollers(interface: &str, cpu: usize) -> Result<usize, String> {
    let mut set = CpuSet::new();
    set.set(cpu);
    let mut pinned = 0;
    for entry in fs::read_dir("/proc").map_err(|e| format!("/proc: {e}"))?.flatten() {
        let id = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let Some(id) = id.and_then(Pid::from_raw) else { continue };
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if name.starts_with(&format!("napi/{interface}-")) {
            sched_setaffinity(Some(id), &set)
                .map_err(|e| format!("pinning {}: {e}", name.trim()))?;
            pinned += 1;
        }
    }
    Ok(pinned)
}

/// A CPU as a mask that sysfs takes: words of 32 bits, the highest first.
pub fn mask(cpu: usize) -> String {
    let mut text = format!("{:x}", 1_u32 << (cpu % 32));
    for _ in 0..cpu / 32 {
        text += ",00000000";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_is_all_but_idle_and_waiting() {
        let stat = "cpu  10 0 10 100 0 0 0 0 0 0
cpu0 1 2 3 100 20 4 5 6 0 0
cpu1 11 2 3 150 20 4 5 6 0 0
cpu10 0 0 0 0 0 0 0 0 0 0
";
        let (zero, one) = (ticks_in(stat, 0).unwrap(), ticks_in(stat, 1).unwrap());
        assert_eq!(zero, Ticks { busy: 21, all: 141 });
        assert_eq!(one.busy_since(zero), 10.0 / 60.0);
        assert_eq!(ticks_in(stat, 2), None);
    }

    #[test]
    fn masks_of_many_cpus_have_commas() {
        assert_eq!(mask(1), "2");
        assert_eq!(mask(33), "2,00000000");
    }

    #[test]
    fn a_deletion_has_the_length_it_says_and_answers_are_read() {
        assert_eq!(delete_all().len(), 20);
        let mut answer = vec![0; 36];
        answer[4] = 2;
        assert_eq!(error_of(&answer), Some(0));
        answer[16..20].copy_from_slice(&(-1_i32).to_ne_bytes());
        assert_eq!(error_of(&answer), Some(-1));
        assert_eq!(error_of(&answer[..10]), None);
    }
}
