//! What a machine is, as far as figures depend on it, and whether two of them can be compared.
//!
//! Read from procfs and sysfs under a root that tests choose. What can't be read is "unknown", which equals nothing but
//! itself: two machines that hide the same thing are not told apart by it.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// A machine, a kernel and their settings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Fingerprint {
    /// `uname -r` and `-v`.
    pub kernel: String,
    /// `uname -m`.
    pub architecture: String,
    /// Boot parameters that matter: isolation, mitigations, idle states.
    pub boot: Vec<String>,
    /// The processor.
    pub cpu: Cpu,
    /// What the kernel does about each of the processor's faults.
    pub mitigations: BTreeMap<String, String>,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Huge pages reserved, by size.
    pub huge_pages: BTreeMap<String, String>,
    /// Transparent huge pages: for anonymous memory and for shared memory.
    pub transparent_huge_pages: BTreeMap<String, String>,
    /// What the kernel tells time by.
    pub clock: String,
    /// Sysctls that a packet's way depends on.
    pub settings: BTreeMap<String, String>,
    /// Versions of the programs that took part. Never a reason not to compare: often they are what is compared.
    pub versions: BTreeMap<String, String>,
}

/// The processor.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Cpu {
    /// As it calls itself.
    pub model: String,
    /// How many this system has online.
    pub count: usize,
    /// Revision of its microcode.
    pub microcode: String,
    /// Frequency governors, of all CPUs.
    pub governor: String,
    /// Whether two threads share a core.
    pub smt: String,
    /// Whether it may go above its nominal frequency: `on`, `off`.
    #[serde(default = "unknown")]
    pub turbo: String,
    /// NUMA nodes.
    pub nodes: String,
    /// Whether this is a guest.
    pub virtual_machine: bool,
}

/// In one thing two fingerprints differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// In what.
    pub what: String,
    /// The first.
    pub a: String,
    /// The second.
    pub b: String,
    /// Whether figures of the two can't be compared because of it.
    pub blocks: bool,
}

/// Boot parameters that are kept.
const BOOT: [&str; 12] = [
    "isolcpus",
    "nohz",
    "nohz_full",
    "rcu_nocbs",
    "mitigations",
    "idle",
    "processor.max_cstate",
    "intel_idle.max_cstate",
    "amd_pstate",
    "hugepages",
    "default_hugepagesz",
    "iommu",
];

/// Sysctls that are kept.
const SETTINGS: [&str; 6] = [
    "net/core/bpf_jit_enable",
    "net/core/bpf_jit_harden",
    "net/core/netdev_budget",
    "net/core/netdev_max_backlog",
    "net/core/dev_weight",
    "kernel/sched_rt_runtime_us",
];

impl Fingerprint {
    /// Of this machine.
    pub fn read() -> Self {
        Self::under(Path::new("/"))
    }

    /// Of the machine whose files lie under `root`.
    pub fn under(root: &Path) -> Self {
        let line = |path: &str| first_line(&root.join(path));
        let cpuinfo = fs::read_to_string(root.join("proc/cpuinfo")).unwrap_or_default();
        let field = |name: &str| {
            let found = cpuinfo.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                (key.trim() == name).then(|| value.trim().to_owned())
            });
            found.unwrap_or_else(unknown)
        };
        let flags = field("flags");
        let cpu = Cpu {
            model: match field("model name") {
                model if model == "unknown" => field("CPU part"),
                model => model,
            },
            count: cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
            microcode: field("microcode"),
            governor: governors(&root.join("sys/devices/system/cpu")),
            smt: line("sys/devices/system/cpu/smt/control"),
            turbo: turbo(&root.join("sys/devices/system/cpu")),
            nodes: line("sys/devices/system/node/online"),
            virtual_machine: flags.split(' ').any(|flag| flag == "hypervisor"),
        };
        let boot = line("proc/cmdline");
        let boot = boot.split_whitespace().filter(|word| {
            let key = word.split('=').next().unwrap_or_default();
            BOOT.contains(&key)
        });
        Self {
            kernel: format!(
                "{} {}",
                line("proc/sys/kernel/osrelease"),
                line("proc/sys/kernel/version")
            ),
            architecture: std::env::consts::ARCH.into(),
            boot: boot.map(str::to_owned).collect(),
            cpu,
            mitigations: files(&root.join("sys/devices/system/cpu/vulnerabilities")),
            memory_mib: memory(&root.join("proc/meminfo")),
            huge_pages: huge_pages(&root.join("sys/kernel/mm/hugepages")),
            transparent_huge_pages: [("anonymous", "enabled"), ("shared", "shmem_enabled")]
                .into_iter()
                .map(|(name, file)| {
                    let text = line(&format!("sys/kernel/mm/transparent_hugepage/{file}"));
                    (name.to_owned(), chosen(&text))
                })
                .collect(),
            clock: line("sys/devices/system/clocksource/clocksource0/current_clocksource"),
            settings: SETTINGS
                .iter()
                .map(|name| ((*name).to_owned(), line(&format!("proc/sys/{name}"))))
                .collect(),
            versions: BTreeMap::new(),
        }
    }

    /// In what the two differ.
    pub fn differences(&self, other: &Self) -> Vec<Difference> {
        let mut found = Vec::new();
        let mut text = |what: &str, a: &str, b: &str, blocks: bool| {
            if a != b {
                let (what, a, b) = (what.to_owned(), a.to_owned(), b.to_owned());
                found.push(Difference { what, a, b, blocks });
            }
        };
        text("kernel", &self.kernel, &other.kernel, true);
        text("architecture", &self.architecture, &other.architecture, true);
        text("boot parameters", &self.boot.join(" "), &other.boot.join(" "), true);
        let (a, b) = (&self.cpu, &other.cpu);
        text("CPU model", &a.model, &b.model, true);
        text("number of CPUs", &a.count.to_string(), &b.count.to_string(), true);
        text("microcode", &a.microcode, &b.microcode, true);
        text("governor", &a.governor, &b.governor, true);
        text("SMT", &a.smt, &b.smt, true);
        text("turbo", &a.turbo, &b.turbo, true);
        text("NUMA nodes", &a.nodes, &b.nodes, true);
        text(
            "virtual machine",
            &a.virtual_machine.to_string(),
            &b.virtual_machine.to_string(),
            true,
        );
        // The kernel keeps some for itself, and how much differs from boot to boot.
        let (least, most) =
            (self.memory_mib.min(other.memory_mib), self.memory_mib.max(other.memory_mib));
        if (least as f64) < 0.97 * most as f64 {
            let mib = |mib: u64| format!("{mib} MiB");
            text("memory", &mib(self.memory_mib), &mib(other.memory_mib), true);
        }
        text("clock source", &self.clock, &other.clock, true);
        for (name, a, b, blocks) in [
            ("mitigation", &self.mitigations, &other.mitigations, true),
            ("huge pages", &self.huge_pages, &other.huge_pages, true),
            (
                "transparent huge pages",
                &self.transparent_huge_pages,
                &other.transparent_huge_pages,
                true,
            ),
            ("setting", &self.settings, &other.settings, true),
            ("version", &self.versions, &other.versions, false),
        ] {
            found.extend(map_differences(name, a, b, blocks));
        }
        found
    }
}

/// In what two tables of words differ; what only one has is "none" in the other.
pub fn map_differences(
    name: &str,
    a: &BTreeMap<String, String>,
    b: &BTreeMap<String, String>,
    blocks: bool,
) -> Vec<Difference> {
    let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    let of = |map: &BTreeMap<String, String>, key| map.get(key).cloned().unwrap_or("none".into());
    keys.into_iter()
        .map(|key| (key, of(a, key), of(b, key)))
        .filter(|(_, a, b)| a != b)
        .map(|(key, a, b)| Difference { what: format!("{name} {key}"), a, b, blocks })
        .collect()
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {:?} and {:?}", self.what, self.a, self.b)
    }
}

fn unknown() -> String {
    "unknown".into()
}

fn first_line(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    match text.lines().next().map(str::trim) {
        Some(line) if !line.is_empty() => line.to_owned(),
        _ => unknown(),
    }
}

/// `always [madvise] never` → `madvise`.
fn chosen(text: &str) -> String {
    let inside = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    inside.map_or_else(unknown, |(word, _)| word.to_owned())
}

/// The governors of all CPUs: one word where they agree.
fn governors(folder: &Path) -> String {
    let mut all = std::collections::BTreeSet::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let number = name.strip_prefix("cpu").unwrap_or_default();
        if !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) {
            let file = entry.path().join("cpufreq/scaling_governor");
            if file.exists() {
                all.insert(first_line(&file));
            }
        }
    }
    match all.is_empty() {
        // A guest's host decides.
        true => "none".into(),
        false => all.into_iter().collect::<Vec<_>>().join(", "),
    }
}

/// Intel's driver says what is off, all others what is on.
fn turbo(folder: &Path) -> String {
    let no_turbo = first_line(&folder.join("intel_pstate/no_turbo"));
    let boost = first_line(&folder.join("cpufreq/boost"));
    match (no_turbo.as_str(), boost.as_str()) {
        ("0", _) | ("unknown", "1") => "on".into(),
        ("1", _) | ("unknown", "0") => "off".into(),
        _ => unknown(),
    }
}

/// A folder's files with their first lines.
fn files(folder: &Path) -> BTreeMap<String, String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), first_line(&entry.path())))
        .collect()
}

fn huge_pages(folder: &Path) -> BTreeMap<String, String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            (
                name.trim_start_matches("hugepages-").to_owned(),
                first_line(&entry.path().join("nr_hugepages")),
            )
        })
        .collect()
}

fn memory(meminfo: &Path) -> u64 {
    let text = fs::read_to_string(meminfo).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folder::Folder;

    fn machine(role: &str) -> Folder {
        let folder = Folder::create(role).unwrap();
        for (path, text) in [
            (
                "proc/cpuinfo",
                "processor\t: 0\nmodel name\t: EPYC\nmicrocode\t: 0x1\nflags\t: fpu hypervisor\nprocessor\t: 1\n",
            ),
            ("proc/meminfo", "MemTotal:       16000000 kB\n"),
            ("proc/cmdline", "root=/dev/sda isolcpus=1 quiet mitigations=off\n"),
            ("proc/sys/kernel/osrelease", "6.18.0\n"),
            ("proc/sys/kernel/version", "#1 SMP\n"),
            ("proc/sys/net/core/bpf_jit_enable", "1\n"),
            ("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "performance\n"),
            ("sys/devices/system/cpu/cpu1/cpufreq/scaling_governor", "performance\n"),
            ("sys/devices/system/cpu/vulnerabilities/spectre_v2", "Mitigation: Retpolines\n"),
            ("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"),
            ("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "64\n"),
        ] {
            write(&folder, path, text);
        }
        folder
    }

    fn write(folder: &Folder, path: &str, text: &str) {
        let file = folder.path().join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }

    #[test]
    fn a_machine_is_read_from_its_files() {
        let folder = machine("fingerprint-read");
        let print = Fingerprint::under(folder.path());
        assert_eq!(print.kernel, "6.18.0 #1 SMP");
        assert_eq!(print.cpu.model, "EPYC");
        assert_eq!((print.cpu.count, print.cpu.virtual_machine), (2, true));
        assert_eq!(print.cpu.governor, "performance");
        assert_eq!(print.boot, ["isolcpus=1", "mitigations=off"]);
        assert_eq!(print.memory_mib, 15_625);
        assert_eq!(print.transparent_huge_pages["anonymous"], "madvise");
        assert_eq!(print.transparent_huge_pages["shared"], "unknown");
        assert_eq!(print.huge_pages["2048kB"], "64");
        assert_eq!(print.mitigations["spectre_v2"], "Mitigation: Retpolines");
        assert_eq!(print.settings["net/core/bpf_jit_enable"], "1");
        assert_eq!(print.clock, "unknown");
    }

    #[test]
    fn each_thing_that_differs_is_named_with_both_values() {
        let folder = machine("fingerprint-differ");
        let before = Fingerprint::under(folder.path());
        assert_eq!(before.differences(&before), []);
        for (path, text, what) in [
            ("proc/sys/kernel/osrelease", "6.19.0\n", "kernel"),
            ("sys/devices/system/cpu/cpu1/cpufreq/scaling_governor", "powersave\n", "governor"),
            (
                "sys/devices/system/cpu/vulnerabilities/spectre_v2",
                "Vulnerable\n",
                "mitigation spectre_v2",
            ),
            ("sys/devices/system/cpu/vulnerabilities/new", "Vulnerable\n", "mitigation new"),
            ("proc/meminfo", "MemTotal:       15000000 kB\n", "memory"),
            ("sys/devices/system/cpu/intel_pstate/no_turbo", "1\n", "turbo"),
            ("sys/devices/system/cpu/cpufreq/boost", "1\n", "turbo"),
            ("proc/cmdline", "quiet\n", "boot parameters"),
            (
                "sys/kernel/mm/transparent_hugepage/enabled",
                "[always] madvise never\n",
                "transparent huge pages anonymous",
            ),
        ] {
            let folder = machine("fingerprint-differ-one");
            write(&folder, path, text);
            let after = Fingerprint::under(folder.path());
            let differences = before.differences(&after);
            assert_eq!(differences.len(), 1, "{differences:?}");
            assert_eq!(differences[0].what, what);
            assert!(differences[0].blocks && differences[0].a != differences[0].b);
        }
    }

    #[test]
    fn versions_differ_without_blocking() {
        let folder = machine("fingerprint-versions");
        let a = Fingerprint::under(folder.path());
        let mut b = a.clone();
        b.versions.insert("millrace-dataplane".into(), "0.2.0".into());
        let differences = a.differences(&b);
        assert_eq!(differences.len(), 1);
        assert!(!differences[0].blocks);
    }

    #[test]
    fn this_machine_has_a_kernel_a_processor_and_memory() {
        let print = Fingerprint::read();
        assert_ne!(print.kernel, "unknown unknown");
        assert!(print.cpu.count > 0 && print.memory_mib > 0, "{print:?}");
    }
}
