//! The machine: memory that may be locked, clocks, and what shares the CPUs.

use super::Look;
use crate::finding::Finding;
use crate::finding::Severity::{Blocks, Costs, Note};
use crate::setting::{Change, SHMEM_ENABLED, Setting, chosen, list};

/// `CAP_IPC_LOCK` and the others that the engine needs, by bit.
const IPC_LOCK: u32 = 14;
const NEEDED: [(&str, u32); 3] = [("CAP_NET_ADMIN", 12), ("CAP_NET_RAW", 13), ("CAP_BPF", 39)];
const SYS_ADMIN: u32 = 21;

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / (1 << 20) as f64)
}

pub fn memlock(look: &Look<'_>) -> Option<Finding> {
    let limit = look.nic.host.memlock??;
    let capabilities = look.nic.host.capabilities?;
    let needed = look.wanted.umem();
    if capabilities >> IPC_LOCK & 1 != 0 || needed <= limit {
        return None;
    }
    let seen = format!(
        "RLIMIT_MEMLOCK is {}, without CAP_IPC_LOCK; the UMEM of {} frames takes {}",
        mebibytes(limit),
        look.wanted.frames,
        mebibytes(needed)
    );
    let why = "registering the UMEM counts its pages against the limit: ENOBUFS (BPF maps count against the cgroup instead, since 5.11)";
    Some(
        Finding::new(
            "memlock",
            Blocks,
            seen,
            why,
            "net/xdp/xdp_umem.c xdp_umem_account_pages; xdp-tools#447",
        )
        .advise(format!(
            "grant CAP_IPC_LOCK, or allow {needed} bytes: `ulimit -l {}`, `LimitMEMLOCK={needed}`",
            needed.div_ceil(1024)
        )),
    )
}

pub fn capabilities(look: &Look<'_>) -> Option<Finding> {
    let has = look.nic.host.capabilities?;
    let missing: Vec<_> = NEEDED
        .iter()
        .filter(|(name, bit)| {
            has >> bit & 1 == 0 && !(*name == "CAP_BPF" && has >> SYS_ADMIN & 1 != 0)
        })
        .map(|(name, _)| *name)
        .collect();
    if missing.is_empty() {
        return None;
    }
    let seen = format!("this process lacks {}", missing.join(", "));
    let why = "the engine needs them to attach a program and open sockets; the doctor sees less without them";
    Some(Finding::new("capabilities", Note, seen, why, "capabilities(7)").advise("run as root"))
}

pub fn huge_pages(look: &Look<'_>) -> Option<Finding> {
    let (all, free) = look.nic.host.huge_pages?;
    let pages = look.wanted.umem().div_ceil(2 << 20);
    if free >= pages {
        return None;
    }
    let seen = format!("{free} of {all} huge pages are free; the UMEM would take {pages}");
    let why = "with 2 MiB pages the UMEM needs 512 times fewer entries of the TLB, and of the IOMMU in zero-copy mode; `pages = \"4k\"` does without";
    Some(
        Finding::new("huge-pages", Note, seen, why, "dataplane/xsk: PageSize")
            .advise(format!(
                "sysctl vm.nr_hugepages={}",
                all.saturating_sub(free).saturating_add(pages)
            ))
            .back(format!("sysctl vm.nr_hugepages={all}")),
    )
}

pub fn shared_huge_pages(look: &Look<'_>) -> Option<Finding> {
    let enabled = chosen(look.nic.host.shmem_enabled.as_deref()?);
    if !["never", "deny"].contains(&enabled.as_str()) {
        return None;
    }
    let seen = format!("transparent huge pages of shared memory: {enabled}");
    let why = "the tables are shared memory and ask for huge pages (madvise): a million routes and flows on 4 KiB pages miss the TLB with each packet, measured 177 ns against 106 a packet";
    Some(Finding::new("thp-shmem", Costs, seen, why, "perf/README.md, 2026-11-21").fix(
        look.nic,
        false,
        vec![Change::new(Setting::Machine(SHMEM_ENABLED.into()), "advise")],
    ))
}

pub fn governor(look: &Look<'_>) -> Option<Finding> {
    let slow: Vec<_> = look
        .nic
        .host
        .governors
        .iter()
        .filter(|(name, _)| *name != "performance")
        .map(|(name, count)| format!("{name} on {count} CPUs"))
        .collect();
    if slow.is_empty() {
        return None;
    }
    let seen = format!("frequency governor: {}", slow.join(", "));
    let why = "a CPU that slept between bursts starts slow: latency grows, and rates differ from run to run";
    let first = look.nic.host.governors.keys().find(|name| *name != "performance")?;
    Some(
        Finding::new("governor", Costs, seen, why, "Documentation/admin-guide/pm/cpufreq.rst")
            .advise("cpupower frequency-set -g performance")
            .back(format!("cpupower frequency-set -g {first}")),
    )
}

pub fn turbo(look: &Look<'_>) -> Option<Finding> {
    if look.nic.host.turbo != Some(true) {
        return None;
    }
    let seen = "turbo frequencies are allowed";
    let why = "the clock depends on how many cores work and how warm they are: good for use, bad for comparing two measurements";
    Some(Finding::new("turbo", Note, seen, why, "Documentation/admin-guide/pm/intel_pstate.rst").advise("for measurements: echo 1 > /sys/devices/system/cpu/intel_pstate/no_turbo (AMD, acpi-cpufreq: echo 0 > /sys/devices/system/cpu/cpufreq/boost)"))
}

pub fn mitigations(look: &Look<'_>) -> Option<Finding> {
    let dear: Vec<_> = look
        .nic
        .host
        .vulnerabilities
        .iter()
        .filter(|(_, text)| is_paid_per_call(text))
        .map(|(name, _)| name.as_str())
        .collect();
    if dear.is_empty() {
        return None;
    }
    let seen = format!("mitigations that cost per call: {}", dear.join(", "));
    let why = "each kick and each of the kernel's indirect calls pays for them, tens of nanoseconds; in copy mode several a packet. Whether to go without is a matter of who else runs on the machine";
    Some(Finding::new("mitigations", Note, seen, why, "Documentation/admin-guide/hw-vuln").advise("only on a machine that runs nobody else's code: mitigations=off on the kernel's command line"))
}

/// Whether a mitigation is paid with each system call or each indirect call of the kernel.
fn is_paid_per_call(text: &str) -> bool {
    const DEAR: [&str; 6] =
        ["Retpoline", "PTI", "IBRS", "untrained return thunk", "Safe RET", "Clear CPU buffers"];
    // Enhanced IBRS is switched on once, at the start.
    let text = ["Enhanced / Automatic IBRS", "Enhanced IBRS", "eIBRS"]
        .iter()
        .fold(text.to_owned(), |text, words| text.replace(words, ""));
    text.starts_with("Mitigation") && DEAR.iter().any(|word| text.contains(word))
}

pub fn smt(look: &Look<'_>) -> Option<Finding> {
    if look.nic.host.smt != Some(true) {
        return None;
    }
    let seen = "two threads a core are in use (SMT)";
    let why = "a worker whose sibling is busy has some 60 % of a core: give each worker a core, with its sibling idle or taking its interrupts";
    Some(Finding::new("smt", Note, seen, why, "FD.io CSIT methodology").advise("cat /sys/devices/system/cpu/cpu*/topology/thread_siblings_list, and choose [workers] cpus by it"))
}

pub fn isolation(look: &Look<'_>) -> Option<Finding> {
    let host = &look.nic.host;
    if host.cpus.len() < 4 || !host.isolated.is_empty() {
        return None;
    }
    let seen = match host.nohz_full.is_empty() {
        true => "no CPU is isolated from the scheduler".to_owned(),
        false => format!(
            "no CPU is isolated from the scheduler; CPUs {} have no tick",
            list(&host.nohz_full)
        ),
    };
    let why = "other tasks and the tick run on the workers' CPUs: each takes microseconds, in which a ring of 512 may overflow at 10 Gbit/s";
    Some(Finding::new("isolation", Note, seen, why, "Documentation/admin-guide/kernel-parameters.txt").advise("isolcpus=… nohz_full=… rcu_nocbs=… for the workers' CPUs, on the kernel's command line"))
}

pub fn jit(look: &Look<'_>) -> Option<Finding> {
    if look.nic.host.bpf_jit != Some(0) {
        return None;
    }
    let seen = "the BPF compiler is off (net.core.bpf_jit_enable = 0)";
    let why = "the XDP program is interpreted for each packet, some ten times slower";
    Some(
        Finding::new("bpf-jit", Costs, seen, why, "Documentation/admin-guide/sysctl/net.rst")
            .advise("sysctl net.core.bpf_jit_enable=1")
            .back("sysctl net.core.bpf_jit_enable=0"),
    )
}

/// Gigatransfers a second of `8.0 GT/s PCIe`.
fn transfers(text: &str) -> Option<f64> {
    text.split_whitespace().next()?.parse().ok()
}

pub fn pcie(look: &Look<'_>) -> Option<Finding> {
    let device = &look.nic.device;
    let (speed, best_speed) = device.pcie_speed.as_ref()?;
    let (width, best_width) = device.pcie_width?;
    let (now, best) =
        (transfers(speed)? * f64::from(width), transfers(best_speed)? * f64::from(best_width));
    // A narrower slot that still carries the link's speed, both directions apart, costs nothing.
    let gigabits = f64::from(device.speed.unwrap_or(0)) / 1000.0;
    if now >= best || (gigabits > 0.0 && now * 0.75 > gigabits) {
        return None;
    }
    let seen = format!("PCIe {speed} × {width}; the device could {best_speed} × {best_width}");
    let why = "the slot (or its neighbors) limits packets and descriptors before the wire does";
    Some(
        Finding::new("pcie", Costs, seen, why, "/sys/class/net/*/device/current_link_speed")
            .advise("another slot; look at `lspci -vv` for LnkSta"),
    )
}

pub fn iommu(look: &Look<'_>) -> Option<Finding> {
    let kind = look.nic.device.iommu.as_deref()?;
    if !kind.starts_with("DMA") || look.zero_copy() != Some(true) {
        return None;
    }
    let seen = format!("the device's DMA is translated (IOMMU domain {kind})");
    let why = "in zero-copy mode each chunk is mapped once, so it costs TLB misses of the IOMMU alone; in copy mode each page is mapped and unmapped, which costs much more";
    Some(
        Finding::new(
            "iommu",
            Note,
            seen,
            why,
            "Documentation/admin-guide/kernel-parameters.txt, iommu.passthrough",
        )
        .advise("iommu=pt on the kernel's command line"),
    )
}

#[cfg(test)]
mod tests {
    use super::is_paid_per_call;

    #[test]
    fn what_is_switched_on_once_is_no_cost_per_call() {
        for (text, paid) in [
            (
                "Mitigation: Enhanced / Automatic IBRS; IBPB: conditional; PBRSB-eIBRS: SW sequence",
                false,
            ),
            ("Mitigation: Enhanced / Automatic IBRS + Retpolines; IBPB: conditional", true),
            ("Mitigation: IBRS; IBPB: conditional", true),
            ("Mitigation: Retpolines; STIBP: disabled; PBRSB-eIBRS: Not affected", true),
            ("Mitigation: usercopy/swapgs barriers and __user pointer sanitization", false),
            ("Vulnerable: Clear CPU buffers attempted, no microcode", false),
        ] {
            assert_eq!(is_paid_per_call(text), paid, "{text}");
        }
    }
}
