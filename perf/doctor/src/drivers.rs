//! What is known of drivers that they do not say themselves: since which kernel they can do what, and their limits.
//!
//! From the drivers' sources in Linux (up to 6.18) and what their users reported; versions are of the mainline kernel, a
//! vendor's own driver may differ. Where the kernel answers (`xdp-features`, Linux 6.3), its answer wins. MTUs are
//! those of x86-64 with 4 KiB pages: a page less 256 bytes of headroom, 320 of the kernel's own, and the frame's header.

/// A kernel's version.
pub type Version = (u32, u32);

/// One driver.
#[derive(Clone, Copy, Debug)]
pub struct Driver {
    /// As `ethtool -i` names it.
    pub name: &'static str,
    /// First kernel with native XDP; None is never.
    pub native: Option<Version>,
    /// First kernel with zero-copy AF_XDP.
    pub zero_copy: Option<Version>,
    /// First kernel where an XDP program takes packets of several buffers.
    pub frags: Option<Version>,
    /// Largest MTU where packets must lie in one buffer; None where it is not known.
    pub mtu: Option<u32>,
    /// Features that make it refuse an XDP program.
    pub refuses: &'static [&'static str],
    /// What it wants of its queues before it takes an XDP program.
    pub queues: Queues,
}

/// What a driver needs beside the queues that receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queues {
    /// Nothing, or it makes them itself.
    Enough,
    /// As many again to send with: at most half of the limit may be in use, or it refuses.
    Half,
    /// One for each CPU to send with; else it sends under a lock.
    PerCpu,
    /// No more CPUs than this in the machine without a lock, twice as many at all (before Linux 5.16 no more than this).
    Cpus(u32),
    /// Combined channels only.
    Combined,
}

const fn driver(
    name: &'static str,
    native: Option<Version>,
    zero_copy: Option<Version>,
    frags: Option<Version>,
    mtu: Option<u32>,
) -> Driver {
    Driver { name, native, zero_copy, frags, mtu, refuses: &[], queues: Queues::Enough }
}

const LRO: &[&str] = &["rx-lro"];
const LRO_AND_GRO_HW: &[&str] = &["rx-lro", "rx-gro-hw"];

/// All that are known.
pub const DRIVERS: &[Driver] = &[
    Driver {
        refuses: LRO_AND_GRO_HW,
        ..driver("mlx5_core", Some((4, 9)), Some((5, 3)), Some((5, 18)), Some(3498))
    },
    driver("mlx4_en", Some((4, 8)), None, None, Some(3498)),
    driver("ice", Some((5, 5)), Some((5, 5)), Some((6, 3)), Some(3046)),
    driver("i40e", Some((4, 13)), Some((4, 20)), Some((6, 4)), Some(3046)),
    Driver {
        refuses: LRO,
        queues: Queues::Cpus(64),
        ..driver("ixgbe", Some((4, 12)), Some((4, 20)), None, Some(3050))
    },
    driver("igb", Some((5, 10)), Some((6, 14)), None, Some(3046)),
    driver("igc", Some((5, 13)), Some((5, 14)), None, Some(1500)),
    Driver { queues: Queues::Half, ..driver("ena", Some((5, 6)), None, None, Some(3498)) },
    Driver {
        refuses: &["rx-gro-hw"],
        queues: Queues::PerCpu,
        ..driver("virtio_net", Some((4, 10)), Some((6, 13)), Some((6, 3)), Some(3506))
    },
    Driver {
        refuses: LRO,
        queues: Queues::Half,
        ..driver("gve", Some((6, 4)), Some((6, 4)), None, Some(2032))
    },
    Driver {
        queues: Queues::Combined,
        ..driver("bnxt_en", Some((4, 11)), None, Some((5, 19)), Some(3502))
    },
    driver("veth", Some((4, 19)), None, Some((5, 18)), Some(3506)),
    Driver { refuses: LRO, ..driver("hv_netvsc", Some((5, 6)), None, None, None) },
    driver("vmxnet3", Some((6, 6)), None, None, None),
    driver("nfp", Some((4, 10)), Some((5, 18)), None, None),
    driver("sfc", Some((5, 5)), None, None, None),
    driver("r8169", None, None, None, None),
    driver("e1000", None, None, None, None),
    driver("e1000e", None, None, None, None),
    driver("tg3", None, None, None, None),
    driver("macvlan", None, None, None, None),
    driver("ipvlan", None, None, None, None),
    driver("vlan", None, None, None, None),
    driver("bridge", None, None, None, None),
    driver("vxlan", None, None, None, None),
];

/// By name; `802.1Q VLAN Support` is what ethtool calls a VLAN.
pub fn known(name: &str) -> Option<&'static Driver> {
    let name = if name.starts_with("802.1Q") { "vlan" } else { name };
    DRIVERS.iter().find(|driver| driver.name == name)
}
