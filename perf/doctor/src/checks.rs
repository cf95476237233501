//! What is looked at, one function each: [`CHECKS`] is the list.
//!
//! A check is a pure function of what was observed and what is wanted. It finds nothing where it knows too little.

mod attach;
mod host;
mod latency;
mod offloads;
mod queues;

use crate::drivers::{Driver, known};
use crate::finding::{Finding, Severity};
use crate::nic::Nic;
use serde::{Deserialize, Serialize};

/// What the interface is to be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Wanted {
    /// Workers, each with a queue of its own; without, one for each queue.
    pub workers: Option<u32>,
    /// Frames of the UMEM.
    pub frames: u64,
    /// Bytes of a frame's chunk.
    pub chunk: u32,
    /// The workers poll the driver themselves (`SO_PREFER_BUSY_POLL`).
    pub busy_poll: bool,
}

impl Default for Wanted {
    /// The engine's defaults.
    fn default() -> Self {
        Self { workers: None, frames: 8192, chunk: 4096, busy_poll: false }
    }
}

impl Wanted {
    /// Bytes of the UMEM.
    pub fn umem(&self) -> u64 {
        self.frames.saturating_mul(self.chunk.into())
    }
}

/// What a check looks at.
#[derive(Clone, Copy, Debug)]
pub struct Look<'a> {
    /// The interface.
    pub nic: &'a Nic,
    /// What is wanted of it.
    pub wanted: &'a Wanted,
    /// What is known of its driver.
    pub driver: Option<&'static Driver>,
}

impl Look<'_> {
    /// True where the kernel is at least this; false where its version is not known.
    fn kernel(&self, version: (u32, u32)) -> bool {
        self.nic.host.version() >= version
    }

    /// Whether the driver has native XDP: as it says, else as is known of it.
    fn native(&self) -> Option<bool> {
        let basic = self.nic.can("basic");
        basic.or_else(|| Some(self.driver?.native.is_some_and(|since| self.kernel(since))))
    }

    /// Whether it has zero-copy.
    fn zero_copy(&self) -> Option<bool> {
        let can = self.nic.can("xsk-zerocopy");
        can.or_else(|| Some(self.driver?.zero_copy.is_some_and(|since| self.kernel(since))))
    }

    /// Whether a packet may lie in several buffers.
    fn frags(&self) -> Option<bool> {
        let can = self.nic.can("rx-sg");
        can.or_else(|| Some(self.driver?.frags.is_some_and(|since| self.kernel(since))))
    }

    /// Features in force that make the driver refuse a program.
    fn refusing(&self) -> Vec<&'static str> {
        let Some(driver) = self.driver else { return Vec::new() };
        let feature = |name: &str| self.nic.answers.features.get(name).copied().unwrap_or_default();
        // Where the host lets virtio_net turn them off, it does so itself when a program comes.
        let refuses =
            |name: &&&str| feature(name).on && (driver.name != "virtio_net" || feature(name).fixed);
        driver.refuses.iter().filter(refuses).copied().collect()
    }

    /// Workers that will be, as far as is known.
    fn workers(&self) -> u32 {
        self.wanted.workers.unwrap_or_else(|| self.nic.queues())
    }

    /// A virtual link has no device whose rings, interrupts or slot matter.
    fn is_virtual(&self) -> bool {
        self.nic.answers.link.kind.is_some()
    }
}

/// One check.
pub type Check = fn(&Look<'_>) -> Option<Finding>;

/// All checks, in the order in which an operator would go through them.
pub const CHECKS: &[Check] = &[
    attach::kernel,
    attach::link_down,
    attach::native,
    attach::zero_copy,
    attach::foreign_program,
    attach::refusing_features,
    attach::mtu,
    attach::zero_copy_segments,
    attach::transmit_queues,
    attach::virtual_functions,
    attach::master,
    attach::uppers,
    attach::mlx5_queue_numbers,
    attach::driver_notes,
    queues::workers_without_queues,
    queues::queues_without_workers,
    queues::more_workers_than_cpus,
    queues::rss_table,
    queues::udp_hash,
    queues::symmetric_hash,
    queues::steering_rules,
    queues::rings,
    queues::interrupt_spread,
    queues::interrupt_node,
    queues::software_steering,
    offloads::vlan_strip,
    offloads::lro,
    offloads::gro_hw,
    offloads::gro_list,
    offloads::veth_gro,
    offloads::promiscuous,
    latency::adaptive,
    latency::busy_poll,
    latency::deferred_without_busy_poll,
    latency::threaded,
    host::memlock,
    host::capabilities,
    host::huge_pages,
    host::shared_huge_pages,
    host::governor,
    host::turbo,
    host::mitigations,
    host::smt,
    host::isolation,
    host::jit,
    host::pcie,
    host::iommu,
];

/// Everything found, the worst first, otherwise in the order of the checks.
pub fn run(nic: &Nic, wanted: &Wanted) -> Vec<Finding> {
    let look = Look { nic, wanted, driver: known(nic.driver()) };
    let mut findings: Vec<_> = CHECKS.iter().filter_map(|check| check(&look)).collect();
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    findings
}

/// The exit status that says how bad it is: 0, 1 or 2.
pub fn status(findings: &[Finding]) -> u8 {
    match findings.iter().map(|finding| finding.severity).max() {
        None | Some(Severity::Note) => 0,
        Some(Severity::Costs) => 1,
        Some(Severity::Blocks) => 2,
    }
}
