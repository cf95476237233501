//! Fills a [`Nic`] from a source of files and the kernel's answers.

use crate::files::Files;
use crate::netlink::ethtool::{Ethtool, FLOWS};
use crate::netlink::{Refused, link, netdev};
use crate::nic::{Abilities, Answers, Device, Host, Interrupt, Link, Napi, Nic};
use crate::setting::parse_list;
use crate::sys;
use std::collections::BTreeMap;
use std::path::Path;

/// Why nothing could be observed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such interface.
    #[error("interface {name}: there is none in this network namespace (there are: {others})")]
    NoInterface {
        /// The name asked for.
        name: String,
        /// Those that exist.
        others: String,
    },
    /// The list of links can't be had.
    #[error("asking the kernel for its interfaces: {0}")]
    Links(Refused),
    /// A capture that can't be read.
    #[error("capture {path}: {why}")]
    Capture {
        /// Where it is.
        path: String,
        /// What is wrong.
        why: String,
    },
}

/// The interface as it is on this machine.
pub fn live(interface: &str, files: &Files) -> Result<Nic, Error> {
    let answers = ask(interface)?;
    Ok(from(answers, files))
}

/// A capture's text, if it is no longer than one can be: a machine with a thousand CPUs and queues has less than a MiB.
fn text_of(path: &Path) -> std::io::Result<String> {
    use std::io::Read;
    const MOST: u64 = 64 << 20;
    let mut text = String::new();
    if std::fs::File::open(path)?.take(MOST + 1).read_to_string(&mut text)? as u64 > MOST {
        return Err(std::io::Error::other(format!("it is longer than {MOST} bytes")));
    }
    Ok(text)
}

/// The interface of a capture: a folder with `sys`, `proc` and `answers.json`, or an archive of them.
pub fn captured(path: &Path) -> Result<Nic, Error> {
    let fail = |why: String| Error::Capture { path: path.display().to_string(), why };
    let files = if path.is_dir() {
        Files::under(path)
    } else {
        let text = text_of(path).map_err(|error| fail(error.to_string()))?;
        Files::of(crate::archive::Archive::parse(&text))
    };
    let text = files.text("answers.json").ok_or_else(|| fail("it has no answers.json".into()))?;
    let answers: Answers =
        serde_json::from_str(&text).map_err(|error| fail(format!("answers.json: {error}")))?;
    if !is_name(&answers.link.name) {
        return Err(fail("answers.json: link.name is no interface's name".into()));
    }
    Ok(from(answers, &files))
}

/// All links of this namespace.
pub fn links() -> Result<Vec<Link>, Error> {
    link::all().map_err(Error::Links)
}

/// A name the kernel would take; others could lead out of `/sys/class/net`.
pub fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() < 16
        && ![".", ".."].contains(&name)
        && !name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control())
}

/// Answers and files together.
pub fn from(answers: Answers, files: &Files) -> Nic {
    let name = answers.link.name.clone();
    let napi = napi(&name, files);
    let device = device(&name, files);
    let mut nic = Nic { answers, napi, device, host: host(files) };
    if nic.answers.driver.is_none() {
        nic.answers.driver = files.link(&format!("sys/class/net/{name}/device/driver"));
    }
    nic
}

fn ask(interface: &str) -> Result<Answers, Error> {
    let links = links()?;
    let Some(link) = links.iter().find(|link| link.name == interface) else {
        let others: Vec<_> = links.iter().map(|link| link.name.as_str()).collect();
        return Err(Error::NoInterface { name: interface.into(), others: others.join(", ") });
    };
    let mut answers = Answers { link: link.clone(), ..Answers::default() };
    let mut gaps = Vec::new();
    answers.driver = sys::driver(interface).ok().filter(|name| !name.is_empty());
    answers.xdp = note(&mut gaps, "XDP abilities (netdev)", netdev::abilities(link.index))
        .map(|(features, zc_max_segs)| Abilities { features, zc_max_segs });
    match Ethtool::of(interface) {
        Ok(mut ethtool) => {
            answers.channels = note(&mut gaps, "channels", ethtool.channels());
            answers.rings = note(&mut gaps, "rings", ethtool.rings());
            answers.features = note(&mut gaps, "features", ethtool.features()).unwrap_or_default();
            answers.private_flags =
                note(&mut gaps, "private flags", ethtool.private_flags()).unwrap_or_default();
            answers.coalesce = note(&mut gaps, "coalescing", ethtool.coalesce());
            answers.rss = note(&mut gaps, "RSS", ethtool.rss());
            for (flow, _) in FLOWS {
                // Drivers that have no choice answer with nothing.
                if let Some(fields) =
                    ethtool.hash_fields(flow).ok().filter(|fields| !fields.is_empty())
                {
                    answers.hash_fields.insert(flow.into(), fields);
                }
            }
        }
        Err(refused) => gaps.push(format!("ethtool: {refused}")),
    }
    answers.steering_rules = sys::steering_rules(interface).ok();
    answers.gaps = gaps;
    Ok(answers)
}

/// The answer; a refusal that is not just "the driver has no such thing" becomes a gap.
fn note<T>(gaps: &mut Vec<String>, what: &str, answer: Result<T, Refused>) -> Option<T> {
    match answer {
        Ok(answer) => Some(answer),
        Err(refused) => {
            if !refused.is_missing() {
                gaps.push(format!("{what}: {refused}"));
            }
            None
        }
    }
}

fn napi(name: &str, files: &Files) -> Napi {
    let of = |file: &str| format!("sys/class/net/{name}/{file}");
    let queues = files.list(&of("queues"));
    let receiving = queues.iter().filter_map(|queue| queue.strip_prefix("rx-")?.parse().ok());
    Napi {
        napi_defer_hard_irqs: files.number(&of("napi_defer_hard_irqs")),
        gro_flush_timeout: files.number(&of("gro_flush_timeout")),
        threaded: files.number(&of("threaded")),
        rps_cpus: receiving
            .filter_map(|queue: u32| {
                Some((queue, files.text(&of(&format!("queues/rx-{queue}/rps_cpus")))?))
            })
            .collect(),
    }
}

fn device(name: &str, files: &Files) -> Device {
    let of = |file: &str| format!("sys/class/net/{name}/{file}");
    let mut numbers = Vec::new();
    // A virtio device has its interrupts at the PCI device above it.
    for folder in ["device/msi_irqs", "device/../msi_irqs"] {
        let folder = of(folder);
        for number in files.list(&folder) {
            files.text(&format!("{folder}/{number}"));
            numbers.extend(number.parse::<u32>());
        }
        if !numbers.is_empty() {
            break;
        }
    }
    let names = if numbers.is_empty() { BTreeMap::new() } else { interrupt_names(files) };
    let interrupts = numbers.into_iter().map(|number| {
        let of = |file: &str| files.text(&format!("proc/irq/{number}/{file}"));
        let allowed = of("smp_affinity_list").unwrap_or_default();
        let list = of("effective_affinity_list").unwrap_or_else(|| allowed.clone());
        let name = names.get(&number).cloned().unwrap_or_default();
        (number, Interrupt { name, cpus: parse_list(&list), allowed: parse_list(&allowed) })
    });
    Device {
        interrupts: interrupts.collect(),
        node: files
            .number::<i64>(&of("device/numa_node"))
            .or_else(|| files.number(&of("device/../numa_node")))
            .and_then(|node| u32::try_from(node).ok()),
        pcie_speed: files
            .text(&of("device/current_link_speed"))
            .zip(files.text(&of("device/max_link_speed"))),
        pcie_width: files
            .number(&of("device/current_link_width"))
            .zip(files.number(&of("device/max_link_width"))),
        virtual_functions: files.number(&of("device/sriov_numvfs")),
        speed: files
            .number::<i64>(&of("speed"))
            .and_then(|speed| u32::try_from(speed).ok())
            .filter(|&speed| speed > 0),
        iommu: files.text(&of("device/iommu_group/type")),
    }
}

/// The words after the counts of each line of `/proc/interrupts`.
fn interrupt_names(files: &Files) -> BTreeMap<u32, String> {
    let text = files.text("proc/interrupts").unwrap_or_default();
    let cpus = text.lines().next().unwrap_or_default().split_whitespace().count();
    text.lines()
        .filter_map(|line| {
            let (number, rest) = line.trim().split_once(':')?;
            let words: Vec<_> = rest.split_whitespace().skip(cpus).collect();
            // Controller, kind and name; a device's own name may have spaces, which drivers avoid.
            Some((number.parse().ok()?, (*words.last()?).to_owned()))
        })
        .collect()
}

fn host(files: &Files) -> Host {
    let cpus = |file: &str| {
        parse_list(&files.text(&format!("sys/devices/system/cpu/{file}")).unwrap_or_default())
    };
    let online = cpus("online");
    let mut governors = BTreeMap::new();
    for cpu in &online {
        let file = format!("sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor");
        if let Some(governor) = files.text(&file) {
            *governors.entry(governor).or_insert(0) += 1;
        }
    }
    let nodes = files.list("sys/devices/system/node");
    let numbers = nodes.iter().filter_map(|node| node.strip_prefix("node")?.parse::<u32>().ok());
    let nodes = numbers.filter_map(|node| {
        let list = files.text(&format!("sys/devices/system/node/node{node}/cpulist"))?;
        Some((node, parse_list(&list)))
    });
    let folder = "sys/devices/system/cpu/vulnerabilities";
    let vulnerabilities = files.list(folder);
    let vulnerabilities = vulnerabilities
        .iter()
        .filter_map(|name| Some((name.clone(), files.text(&format!("{folder}/{name}"))?)));
    let huge =
        |file: &str| files.number(&format!("sys/kernel/mm/hugepages/hugepages-2048kB/{file}"));
    let no_turbo = files.number::<u32>("sys/devices/system/cpu/intel_pstate/no_turbo");
    let boost = files.number::<u32>("sys/devices/system/cpu/cpufreq/boost");
    Host {
        kernel: files.text("proc/sys/kernel/osrelease").unwrap_or_default(),
        isolated: cpus("isolated"),
        nohz_full: cpus("nohz_full"),
        nodes: nodes.collect(),
        smt: files.number::<u32>("sys/devices/system/cpu/smt/active").map(|active| active != 0),
        governors,
        turbo: no_turbo.map(|no| no == 0).or(boost.map(|yes| yes != 0)),
        vulnerabilities: vulnerabilities.collect(),
        huge_pages: huge("nr_hugepages").zip(huge("free_hugepages")),
        shmem_enabled: files.text(crate::setting::SHMEM_ENABLED),
        memlock: memlock(files),
        capabilities: files.text("proc/self/status").and_then(|status| {
            let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
            u64::from_str_radix(line.trim(), 16).ok()
        }),
        bpf_jit: files.number("proc/sys/net/core/bpf_jit_enable"),
        irqbalance: files
            .text("sys/fs/cgroup/system.slice/irqbalance.service/cgroup.procs")
            .is_some_and(|pids| !pids.is_empty()),
        cpus: online,
    }
}

/// The soft limit: the third column of the line.
fn memlock(files: &Files) -> Option<Option<u64>> {
    let text = files.text("proc/self/limits")?;
    let line = text.lines().find_map(|line| line.strip_prefix("Max locked memory"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(None),
        bytes => Some(Some(bytes.parse().ok()?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::Archive;

    #[test]
    fn names_that_lead_elsewhere_are_none() {
        assert!(is_name("eth0.100") && is_name("ens1f0np0"));
        for name in ["", ".", "..", "a/b", "a b", "x:1", "sixteen-is-a-lot"] {
            assert!(!is_name(name), "{name}");
        }
    }

    #[test]
    fn interrupts_have_the_last_word_as_their_name() {
        let text = "            CPU0       CPU1\n  45:        100        0  PCI-MSIX-0000:01:00.0  0-edge  eth0-TxRx-0\nNMI: 1 2 Non-maskable";
        let files = Files::of(Archive::parse(&format!("-- proc/interrupts --\n{text}\n")));
        assert_eq!(interrupt_names(&files)[&45], "eth0-TxRx-0");
        assert_eq!(interrupt_names(&files).len(), 1);
    }

    #[test]
    fn limits_say_how_much_may_be_locked() {
        let limit = |value: &str| {
            let line =
                format!("-- proc/self/limits --\nMax locked memory         {value}  x bytes\n");
            memlock(&Files::of(Archive::parse(&line)))
        };
        assert_eq!(limit("8388608"), Some(Some(8_388_608)));
        assert_eq!(limit("unlimited"), Some(None));
        assert_eq!(limit("?"), None);
    }
}
