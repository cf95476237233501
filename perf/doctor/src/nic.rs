//! Everything that matters about one interface and its machine, as plain data.
//!
//! None means that nothing is known: the driver does not say, the kernel is too old, or a privilege is missing. No check
//! makes a finding of what is not known.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// An interface and the machine that it is in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    /// What the kernel answers by netlink and ioctl.
    pub answers: Answers,
    /// What sysfs says of the interface.
    pub napi: Napi,
    /// What sysfs and procfs say of the device.
    pub device: Device,
    /// The machine.
    pub host: Host,
}

/// Answers by netlink and ioctl; in a capture, `answers.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Answers {
    /// The link.
    pub link: Link,
    /// The driver's name.
    pub driver: Option<String>,
    /// What it can do for XDP, by the names of the family `netdev`.
    pub xdp: Option<Abilities>,
    /// Channels.
    pub channels: Option<Channels>,
    /// Rings.
    pub rings: Option<Rings>,
    /// Features by the kernel's names.
    pub features: BTreeMap<String, Feature>,
    /// The driver's own flags.
    pub private_flags: BTreeMap<String, bool>,
    /// Interrupt coalescing.
    pub coalesce: Option<Coalesce>,
    /// Receive-side scaling.
    pub rss: Option<Rss>,
    /// Hashed fields by type of flow, as the letters of `ethtool -N`.
    pub hash_fields: BTreeMap<String, String>,
    /// Steering rules in the device.
    pub steering_rules: Option<u32>,
    /// What could not be asked, and why.
    pub gaps: Vec<String>,
}

/// A link, as rtnetlink tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// Its number.
    pub index: u32,
    /// Its MAC address.
    pub mac: String,
    /// Of a virtual link, what it is.
    pub kind: Option<String>,
    /// MTU.
    pub mtu: u32,
    /// The highest that the driver takes.
    pub max_mtu: Option<u32>,
    /// Administratively up.
    pub up: bool,
    /// Has a carrier.
    pub carrier: bool,
    /// How many want it promiscuous.
    pub promiscuity: u32,
    /// Receive queues it was made with.
    pub rx_queues: u32,
    /// Transmit queues it was made with.
    pub tx_queues: u32,
    /// What it is a member of.
    pub master: Option<Relative>,
    /// Links made on top of it.
    pub uppers: Vec<Relative>,
    /// Its XDP program.
    pub program: Option<Program>,
}

/// Another link.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relative {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: Option<String>,
}

/// An XDP program on a link.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// `native`, `generic`, `offloaded` or `several`.
    pub mode: String,
    /// Its number.
    pub id: u32,
    /// Its name, where we may ask.
    pub name: Option<String>,
}

/// What a driver can do for XDP.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Abilities {
    /// `basic`, `redirect`, `ndo-xmit`, `xsk-zerocopy`, `hw-offload`, `rx-sg`, `ndo-xmit-sg`.
    pub features: Vec<String>,
    /// Most chunks of one packet in zero-copy mode.
    pub zc_max_segs: Option<u32>,
}

/// Channel counts and their limits; 0 where a driver has none of the kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Channels {
    /// Limit of receive-only channels.
    pub rx_max: u32,
    /// Limit of transmit-only channels.
    pub tx_max: u32,
    /// Limit of combined channels.
    pub combined_max: u32,
    /// Receive-only channels.
    pub rx: u32,
    /// Transmit-only channels.
    pub tx: u32,
    /// Combined channels.
    pub combined: u32,
}

impl Channels {
    /// Queues that receive.
    pub fn receiving(&self) -> u32 {
        self.combined.saturating_add(self.rx)
    }

    /// The most that there can be.
    pub fn limit(&self) -> u32 {
        self.combined_max.max(self.rx_max)
    }
}

/// Ring sizes and their limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rings {
    /// Limit of the receive ring.
    pub rx_max: u32,
    /// Limit of the transmit ring.
    pub tx_max: u32,
    /// Entries of the receive ring.
    pub rx: u32,
    /// Entries of the transmit ring.
    pub tx: u32,
}

/// A feature (`ethtool -k`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Feature {
    /// In force.
    pub on: bool,
    /// Asked for.
    pub wanted: bool,
    /// Can't be changed.
    pub fixed: bool,
}

/// Interrupt coalescing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Coalesce {
    /// Microseconds that a receive interrupt is held back.
    pub rx_usecs: Option<u32>,
    /// Microseconds that a transmit interrupt is held back.
    pub tx_usecs: Option<u32>,
    /// The driver changes the former as traffic changes.
    pub adaptive_rx: Option<bool>,
    /// And the latter.
    pub adaptive_tx: Option<bool>,
}

/// Receive-side scaling.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rss {
    /// Which queue each entry names.
    pub table: Vec<u32>,
    /// The hash function.
    pub function: Option<String>,
    /// Whether both directions of a flow get the same hash.
    pub symmetric: Option<bool>,
}

/// How the kernel polls the interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Napi {
    /// Empty polls before interrupts are on again.
    pub napi_defer_hard_irqs: Option<u32>,
    /// Nanoseconds until the next such poll.
    pub gro_flush_timeout: Option<u64>,
    /// Polls run in threads.
    pub threaded: Option<u32>,
    /// CPUs that packets of each receive queue are handed to by software.
    pub rps_cpus: BTreeMap<u32, String>,
}

/// The device behind the interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Its NUMA node.
    pub node: Option<u32>,
    /// Interrupts by number.
    pub interrupts: BTreeMap<u32, Interrupt>,
    /// PCIe speed now and at best, in GT/s as the kernel writes it.
    pub pcie_speed: Option<(String, String)>,
    /// PCIe lanes now and at best.
    pub pcie_width: Option<(u32, u32)>,
    /// Virtual functions in use.
    pub virtual_functions: Option<u32>,
    /// Megabits a second.
    pub speed: Option<u32>,
    /// The kind of its IOMMU domain.
    pub iommu: Option<String>,
}

/// An interrupt of the device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interrupt {
    /// Its name in `/proc/interrupts`.
    pub name: String,
    /// Where it arrives.
    pub cpus: Vec<u32>,
    /// Where it may arrive, as it was set: what an undo restores. Empty where that can't be read.
    #[serde(default)]
    pub allowed: Vec<u32>,
}

impl Device {
    /// Interrupts that are those of queues, in order: not those for events, control or sending alone.
    pub fn queue_interrupts(&self) -> Vec<(u32, &Interrupt)> {
        const OTHERS: [&str; 9] =
            ["async", "mgmnt", "config", "control", "output", "misc", "ctrl", "other", "xdp_tx"];
        let of_queue = |name: &str| {
            let name = name.to_lowercase();
            !name.is_empty() && !OTHERS.iter().any(|word| name.contains(word))
        };
        let all = self.interrupts.iter().map(|(number, interrupt)| (*number, interrupt));
        all.filter(|(_, interrupt)| of_queue(&interrupt.name)).collect()
    }
}

/// The machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// The kernel's release.
    pub kernel: String,
    /// CPUs that are online.
    pub cpus: Vec<u32>,
    /// CPUs kept free of the scheduler (`isolcpus=`).
    pub isolated: Vec<u32>,
    /// CPUs without a tick (`nohz_full=`).
    pub nohz_full: Vec<u32>,
    /// CPUs of each NUMA node.
    pub nodes: BTreeMap<u32, Vec<u32>>,
    /// Two threads a core are in use.
    pub smt: Option<bool>,
    /// Frequency governors and on how many CPUs.
    pub governors: BTreeMap<String, u32>,
    /// Turbo frequencies are allowed.
    pub turbo: Option<bool>,
    /// Mitigations by vulnerability.
    pub vulnerabilities: BTreeMap<String, String>,
    /// 2 MiB pages: all and free.
    pub huge_pages: Option<(u64, u64)>,
    /// Transparent huge pages of shared memory, as the kernel writes it.
    pub shmem_enabled: Option<String>,
    /// Bytes that a process may lock; None in Some is without limit.
    pub memlock: Option<Option<u64>>,
    /// Effective capabilities of this process.
    pub capabilities: Option<u64>,
    /// The BPF compiler is on.
    pub bpf_jit: Option<u32>,
    /// irqbalance runs as a service.
    pub irqbalance: bool,
}

impl Host {
    /// Major and minor version of the kernel; (0, 0) where it says none.
    pub fn version(&self) -> (u32, u32) {
        let mut parts = self.kernel.split(|c: char| !c.is_ascii_digit());
        let mut next = || parts.next().and_then(|part| part.parse().ok()).unwrap_or(0);
        (next(), next())
    }
}

impl Nic {
    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.answers.link.name
    }

    /// The driver's name, or what kind of link it is.
    pub fn driver(&self) -> &str {
        let kind = self.answers.link.kind.as_deref();
        self.answers.driver.as_deref().or(kind).unwrap_or("unknown")
    }

    /// Whether a feature is in force.
    pub fn has(&self, feature: &str) -> bool {
        self.answers.features.get(feature).is_some_and(|feature| feature.on)
    }

    /// Whether the driver says that it can do something for XDP; None where it says nothing.
    pub fn can(&self, ability: &str) -> Option<bool> {
        let abilities = self.answers.xdp.as_ref()?;
        Some(abilities.features.iter().any(|name| name == ability))
    }

    /// Queues that receive.
    pub fn queues(&self) -> u32 {
        let channels = self.answers.channels.map(|channels| channels.receiving());
        channels.filter(|&queues| queues > 0).unwrap_or(self.answers.link.rx_queues)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernels_version_is_its_first_two_numbers() {
        let version = |kernel: &str| Host { kernel: kernel.into(), ..Host::default() }.version();
        assert_eq!(version("6.18.44-fc-v669"), (6, 18));
        assert_eq!(version("5.4-rc1"), (5, 4));
        assert_eq!(version("x"), (0, 0));
    }
}
