//! Whether packets reach the queues that have workers, evenly, on CPUs that are near.

use super::Look;
use crate::finding::Finding;
use crate::finding::Severity::{Blocks, Costs, Note};
use crate::setting::{Change, Setting, list};
use std::collections::{BTreeMap, BTreeSet};

pub fn workers_without_queues(look: &Look<'_>) -> Option<Finding> {
    let workers = look.wanted.workers?;
    let queues = look.nic.queues();
    if queues >= workers {
        return None;
    }
    let seen = format!("{queues} queues for {workers} workers");
    let why = "each worker binds the queue of its number on every interface: a number that is no channel is refused (EINVAL)";
    let source = "net/xdp/xsk_buff_pool.c xp_assign_dev; s2n-quic#2045, vpp-dataplane#477";
    let finding = Finding::new("channels", Blocks, seen, why, source);
    let link = &look.nic.answers.link;
    let Some(channels) = look.nic.answers.channels.filter(|channels| channels.limit() > 0) else {
        return Some(finding.advise(remake(look, workers)));
    };
    if channels.limit() < workers {
        let advice = match link.kind.as_deref() {
            Some("veth") => remake(look, workers),
            _ => {
                format!("no more than {} workers: the device has no more queues", channels.limit())
            }
        };
        return Some(finding.advise(advice));
    }
    Some(finding.fix(look.nic, true, counts(look, workers)))
}

fn remake(look: &Look<'_>, workers: u32) -> String {
    format!(
        "make it anew with enough queues: ip link add {} numrxqueues {workers} numtxqueues {workers} type veth …",
        look.nic.name()
    )
}

/// The changes that make so many queues.
fn counts(look: &Look<'_>, queues: u32) -> Vec<Change> {
    let combined = look.nic.answers.channels.is_some_and(|channels| channels.combined_max > 0);
    let kinds: &[&str] = if combined { &["combined"] } else { &["rx", "tx"] };
    kinds.iter().map(|kind| Change::new(Setting::Channels((*kind).into()), queues)).collect()
}

pub fn queues_without_workers(look: &Look<'_>) -> Option<Finding> {
    let workers = look.wanted.workers?;
    let queues = look.nic.queues();
    let used = |table: &Vec<u32>| !table.is_empty() && table.iter().all(|&queue| queue < workers);
    let confined = look.nic.answers.rss.as_ref().is_some_and(|rss| used(&rss.table));
    if queues <= workers || confined {
        return None;
    }
    let seen = format!("{queues} queues for {workers} workers");
    let why = format!(
        "packets that the device puts into queues {workers} to {} have no socket: the kernel gets them, the engine never",
        queues - 1
    );
    let source =
        "xdp-tutorial#186, #223, #313; dataplane/ebpf: XDP_PASS where the map has no socket";
    let finding = Finding::new("channels", Blocks, seen, why, source);
    Some(match look.nic.answers.channels.is_some() {
        true => finding.fix(look.nic, true, counts(look, workers)),
        false => finding.advise(remake(look, workers)),
    })
}

pub fn more_workers_than_cpus(look: &Look<'_>) -> Option<Finding> {
    let workers = look.wanted.workers?;
    let cpus = look.nic.host.cpus.len() as u32;
    if cpus == 0 || workers <= cpus {
        return None;
    }
    let seen = format!("{workers} workers, {cpus} CPUs");
    let why = "two workers on one CPU take turns by the scheduler, milliseconds each";
    Some(
        Finding::new("workers", Costs, seen, why, "one pinned worker a queue (README)")
            .advise(format!("{cpus} workers, or fewer")),
    )
}

/// More queues than any device has.
const MOST: u32 = 4096;

pub fn rss_table(look: &Look<'_>) -> Option<Finding> {
    let table = &look.nic.answers.rss.as_ref()?.table;
    let workers = look.workers().min(look.nic.queues()).min(MOST);
    if table.is_empty() || workers < 2 {
        return None;
    }
    let mut entries = BTreeMap::<u32, usize>::new();
    for queue in table {
        *entries.entry(*queue).or_default() += 1;
    }
    let name = look.nic.name();
    let source = "ethtool netlink, RSS_GET";
    let unused = (0..workers).filter(|queue| !entries.contains_key(queue)).collect::<Vec<_>>();
    let most = *entries.values().max()?;
    let least = *entries.values().min()?;
    if unused.is_empty() && most <= least + least.div_ceil(4) {
        return None;
    }
    let seen = if unused.is_empty() {
        format!("the RSS table gives its queues {least} to {most} of {} entries", table.len())
    } else {
        format!("the RSS table names no queue of {}", list(&unused))
    };
    let why = "flows are spread by this table: a worker gets none, or the fullest decides how much all carry";
    Some(
        Finding::new("rss-table", Costs, seen, why, source)
            .advise(format!("ethtool -X {name} equal {workers}"))
            .back(format!("ethtool -X {name} default")),
    )
}

pub fn udp_hash(look: &Look<'_>) -> Option<Finding> {
    let without: Vec<_> = ["udp4", "udp6"]
        .into_iter()
        .filter(|flow| {
            look.nic
                .answers
                .hash_fields
                .get(*flow)
                .is_some_and(|fields| !(fields.contains('f') && fields.contains('n')))
        })
        .collect();
    if without.is_empty() || look.workers() < 2 {
        return None;
    }
    let seen = format!("{} is hashed without its ports", without.join(" and "));
    let why = "all UDP between two addresses comes to one queue: DNS and QUIC of one resolver or proxy, and every tunnel, keep one worker busy; with ports, fragments of a packet go by addresses alone, to another queue than the first";
    let changes =
        without.iter().map(|flow| Change::new(Setting::HashFields((*flow).into()), "sdfn"));
    Some(Finding::new("rss-udp", Costs, seen, why, "ethtool ioctl, ETHTOOL_GRXFH").fix(
        look.nic,
        true,
        changes.collect(),
    ))
}

pub fn symmetric_hash(look: &Look<'_>) -> Option<Finding> {
    let rss = look.nic.answers.rss.as_ref()?;
    if rss.symmetric != Some(false) || look.workers() < 2 {
        return None;
    }
    let name = look.nic.name();
    let seen = "the hash of a flow's two directions differs";
    let why = "an answer may come to another worker than its question; all workers share one conntrack table, so that works, at the price of a cache line that two CPUs write";
    Some(
        Finding::new(
            "rss-symmetric",
            Note,
            seen,
            why,
            "ethtool netlink, RSS input_xfrm (Linux 6.8)",
        )
        .advise(format!("ethtool -X {name} xfrm symmetric-xor"))
        .back(format!("ethtool -X {name} xfrm none")),
    )
}

pub fn steering_rules(look: &Look<'_>) -> Option<Finding> {
    let rules = look.nic.answers.steering_rules.filter(|&rules| rules > 0)?;
    let name = look.nic.name();
    let seen = format!("{rules} steering rules in the device (ntuple)");
    let why = "they send packets to queues, or drop them, before RSS: one that names a queue without a worker takes its packets from the engine";
    Some(
        Finding::new(
            "steering",
            Note,
            seen,
            why,
            "ethtool ioctl, ETHTOOL_GRXCLSRLCNT; firedancer#7218, #6308",
        )
        .advise(format!("ethtool -n {name}; ethtool -N {name} delete N")),
    )
}

/// Where a ring starts to be small: some 100 µs of 64-byte packets at 10 Gbit/s.
const SMALL: u32 = 1024;

pub fn rings(look: &Look<'_>) -> Option<Finding> {
    let rings = look.nic.answers.rings?;
    let mut changes = Vec::new();
    for (side, now, most) in [("rx", rings.rx, rings.rx_max), ("tx", rings.tx, rings.tx_max)] {
        let better = SMALL.min(most);
        if now > 0 && now < better {
            changes.push(Change::new(Setting::Ring(side.into()), better));
        }
    }
    if changes.is_empty() || look.is_virtual() {
        return None;
    }
    let seen = format!(
        "rx ring of {} and tx ring of {} entries (limits {} and {})",
        rings.rx, rings.tx, rings.rx_max, rings.tx_max
    );
    let why = "the device drops what comes while its ring is full: 512 entries are 34 µs of smallest packets at 10 Gbit/s, less than a worker may be away; much larger ones miss the cache (`sweep` measures)";
    Some(
        Finding::new(
            "rings",
            Costs,
            seen,
            why,
            "ethtool netlink, RINGS_GET; Intel's and NVIDIA's tuning guides",
        )
        .fix(look.nic, true, changes),
    )
}

pub fn interrupt_spread(look: &Look<'_>) -> Option<Finding> {
    let interrupts = look.nic.device.queue_interrupts();
    let queues = look.workers() as usize;
    let used: Vec<_> = interrupts
        .into_iter()
        .take(queues)
        .filter(|(_, interrupt)| !interrupt.cpus.is_empty())
        .collect();
    let cpus = look.nic.host.cpus.len();
    let mut by_cpu = BTreeMap::<&[u32], Vec<u32>>::new();
    for (number, interrupt) in &used {
        by_cpu.entry(&interrupt.cpus).or_default().push(*number);
    }
    let shared = by_cpu.values().map(Vec::len).max()?;
    if used.len() < 2 || cpus < 2 || shared <= used.len().div_ceil(cpus) {
        return None;
    }
    let near = near(look);
    let changes = used
        .iter()
        .zip(near.iter().cycle())
        .map(|((number, _), cpu)| Change::new(Setting::Interrupt(*number), cpu));
    let seen = format!("{shared} of {} queues' interrupts arrive at the same CPUs", used.len());
    let why = "the kernel's part of receiving runs where the interrupt arrives: one CPU does it for several queues while others wait";
    let finding =
        Finding::new("irq-affinity", Costs, seen, why, "/proc/irq/*/effective_affinity_list").fix(
            look.nic,
            true,
            changes.collect(),
        );
    Some(if look.nic.host.irqbalance {
        finding
            .advise("irqbalance will move them again: systemctl stop irqbalance, or ban them there")
    } else {
        finding
    })
}

/// CPUs of the device's node, or all.
fn near<'a>(look: &Look<'a>) -> &'a [u32] {
    let host = &look.nic.host;
    let of_node = look.nic.device.node.and_then(|node| host.nodes.get(&node));
    of_node.filter(|cpus| !cpus.is_empty()).unwrap_or(&host.cpus)
}

pub fn interrupt_node(look: &Look<'_>) -> Option<Finding> {
    let node = look.nic.device.node?;
    let host = &look.nic.host;
    if host.nodes.len() < 2 {
        return None;
    }
    let near: BTreeSet<_> = host.nodes.get(&node)?.iter().collect();
    let interrupts = look.nic.device.queue_interrupts();
    let queues = interrupts.get(..(look.workers() as usize).min(interrupts.len()))?;
    let far: Vec<_> = queues
        .iter()
        .filter(|(_, interrupt)| {
            !interrupt.cpus.is_empty() && !interrupt.cpus.iter().any(|cpu| near.contains(cpu))
        })
        .collect();
    if far.is_empty() {
        return None;
    }
    let changes = far
        .iter()
        .zip(near.iter().cycle())
        .map(|((number, _), cpu)| Change::new(Setting::Interrupt(*number), cpu));
    let seen = format!(
        "the device is at NUMA node {node}, and {} of {} queues' interrupts arrive at CPUs of another",
        far.len(),
        queues.len()
    );
    let why = "each packet and descriptor crosses between the nodes: a cache miss is half as long again, and more; workers and UMEM belong to the device's node too";
    Some(Finding::new("irq-numa", Costs, seen, why, "/sys/class/net/*/device/numa_node").fix(
        look.nic,
        true,
        changes.collect(),
    ))
}

pub fn software_steering(look: &Look<'_>) -> Option<Finding> {
    let on: Vec<_> = look
        .nic
        .napi
        .rps_cpus
        .iter()
        .filter(|(_, mask)| {
            mask.chars().any(|c| c.is_ascii_digit() && c != '0' || c.is_ascii_alphabetic())
        })
        .collect();
    if on.is_empty() {
        return None;
    }
    let changes = on.iter().map(|(queue, _)| {
        Change::new(Setting::Interface(format!("queues/rx-{queue}/rps_cpus")), 0)
    });
    let seen = format!("RPS hands packets of {} queues to other CPUs", on.len());
    let why = "it concerns what the kernel keeps; native XDP runs before it, so a worker's packets are not moved, and an interrupt of another CPU may preempt a worker";
    Some(Finding::new("rps", Note, seen, why, "Documentation/networking/scaling.rst").fix(
        look.nic,
        false,
        changes.collect(),
    ))
}
