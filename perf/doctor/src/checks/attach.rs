//! Whether an XDP program and sockets get onto the interface at all, and in which mode.

use super::Look;
use crate::drivers::Queues;
use crate::finding::Finding;
use crate::finding::Severity::{Blocks, Costs, Note};
use crate::setting::{Change, Setting};

pub fn kernel(look: &Look<'_>) -> Option<Finding> {
    let release = &look.nic.host.kernel;
    let seen = format!("Linux {release}");
    let source = "kernel commits; Documentation/networking/af_xdp.rst";
    if release.is_empty() {
        return None;
    }
    let (severity, why) = if !look.kernel((5, 9)) {
        (Blocks, "programs are attached by bpf_link, which came with 5.9 and goes with its process")
    } else if !look.kernel((5, 11)) {
        (
            Costs,
            "busy polling of sockets (SO_PREFER_BUSY_POLL) came with 5.11; before it BPF maps count against RLIMIT_MEMLOCK too",
        )
    } else if !look.kernel((6, 6)) {
        (
            Costs,
            "packets larger than a chunk (XDP_USE_SG) came with 6.6, and drivers tell what they can since 6.3; here it is taken from a table",
        )
    } else if !look.kernel((6, 11)) {
        (
            Note,
            "the kernel completes checksums by TX metadata in copy mode since 6.11; before it the engine does",
        )
    } else {
        return None;
    };
    Some(Finding::new("kernel", severity, seen, why, source).advise("a newer kernel"))
}

pub fn link_down(look: &Look<'_>) -> Option<Finding> {
    let link = &look.nic.answers.link;
    let name = look.nic.name();
    if !link.up {
        let seen = "the interface is down";
        let why = "a socket can't be bound to it (ENETDOWN)";
        let finding = Finding::new("link", Blocks, seen, why, "net/xdp/xsk.c, xsk_bind");
        return Some(
            finding
                .advise(format!("ip link set {name} up"))
                .back(format!("ip link set {name} down")),
        );
    }
    (!link.carrier).then(|| {
        let seen = "the interface has no carrier";
        Finding::new("link", Costs, seen, "no packet comes or goes", "rtnetlink, IFLA_CARRIER")
            .advise("look at the cable, the peer and `ethtool` for the speeds of both")
    })
}

pub fn native(look: &Look<'_>) -> Option<Finding> {
    let driver = look.nic.driver();
    let says = if look.nic.answers.xdp.is_some() { "it says so" } else { "from a table" };
    if look.native()? {
        let redirect = look.nic.can("redirect").unwrap_or(true);
        return (!redirect).then(|| {
            let seen = format!("{driver} has native XDP without redirect ({says})");
            let why = "packets reach a socket by redirect alone";
            Finding::new("xdp-native", Blocks, seen, why, "netdev netlink, xdp-features")
                .advise("another interface")
        });
    }
    let since = look.driver.and_then(|driver| driver.native).filter(|since| !look.kernel(*since));
    let seen = format!("{driver} has no native XDP in this kernel ({says})");
    let why = "generic mode sees packets after the kernel has made skbs of them, keeps TSO on at the peer and drops what is larger than a page; the engine does not use it";
    let advice = match since {
        Some((major, minor)) => format!("Linux {major}.{minor} or later, where this driver has it"),
        None => "another interface".into(),
    };
    Some(
        Finding::new(
            "xdp-native",
            Blocks,
            seen,
            why,
            "netdev netlink, xdp-features; the driver's ndo_bpf",
        )
        .advise(advice),
    )
}

pub fn zero_copy(look: &Look<'_>) -> Option<Finding> {
    if look.zero_copy()? || look.native() == Some(false) {
        return None;
    }
    let driver = look.nic.driver();
    let seen = format!("{driver} has no zero-copy mode in this kernel");
    let why = "each packet is copied into and out of the UMEM, and sent by a system call for at most 32 of them";
    let source = "netdev netlink, xdp-features; net/xdp/xsk_buff_pool.c";
    let since = look.driver.and_then(|driver| driver.zero_copy);
    if look.is_virtual() || since.is_none() {
        // No setting and no kernel known changes it.
        return Some(Finding::new("zero-copy", Note, seen, why, source));
    }
    let (major, minor) = since?;
    Some(
        Finding::new("zero-copy", Costs, seen, why, source)
            .advise(format!("Linux {major}.{minor} or later, where this driver has it")),
    )
}

pub fn foreign_program(look: &Look<'_>) -> Option<Finding> {
    let program = look.nic.answers.link.program.as_ref()?;
    let name = program.name.as_deref().unwrap_or("without a name");
    let seen =
        format!("XDP program {name} (id {}) is attached in {} mode", program.id, program.mode);
    let source = "rtnetlink, IFLA_XDP; xdp-tools#359";
    let interface = look.nic.name();
    if name.starts_with("millrace") {
        return Some(Finding::new(
            "xdp-program",
            Note,
            seen,
            "it is Millrace's: an engine runs here",
            source,
        ));
    }
    let why = "an interface has one program in native mode: attaching another is refused (EBUSY), and replacing this one would take it from its owner";
    Some(
        Finding::new("xdp-program", Blocks, seen, why, source)
            .advise(format!("bpftool link show; bpftool prog show id {}: who has it? then stop that, or `ip link set {interface} xdp off`", program.id)),
    )
}

pub fn refusing_features(look: &Look<'_>) -> Option<Finding> {
    let names = look.refusing();
    let fixed =
        |name: &&str| look.nic.answers.features.get(*name).is_some_and(|feature| feature.fixed);
    if names.is_empty() {
        return None;
    }
    let driver = look.nic.driver();
    let seen = format!("{} is on", names.join(" and "));
    let why = format!("{driver} refuses an XDP program while packets are merged in the device");
    let source = "mlx5 en_main.c mlx5e_xdp_allowed; ixgbe_xdp_setup; gve verify_xdp_configuration; virtnet_xdp_set";
    let finding = Finding::new("merging", Blocks, seen, why, source);
    if names.iter().any(fixed) {
        return Some(finding.advise(
            "it can't be changed from inside: the host (or the firmware) must not offer it",
        ));
    }
    let changes = names.iter().map(|name| Change::new(Setting::Feature((*name).into()), "off"));
    Some(finding.fix(look.nic, true, changes.collect()))
}

pub fn mtu(look: &Look<'_>) -> Option<Finding> {
    let mtu = look.nic.answers.link.mtu;
    let limit = look.driver?.mtu?;
    if mtu <= limit || look.native() == Some(false) {
        return None;
    }
    let driver = look.nic.driver();
    if look.frags()? && look.kernel((6, 6)) {
        // The driver takes it in pieces; the engine's program says that it can, too.
        return None;
    }
    let seen =
        format!("MTU {mtu}, and {driver} takes packets of one buffer only, so at most {limit}");
    let why = "a packet must fit in one page beside its headroom: attaching the program is refused (ERANGE or EINVAL)";
    let source = "the driver's limit for XDP: a 4 KiB page less 256 headroom, 320 skb_shared_info and the header; ENA 3498, bnxt 3502, i40e and ice 3046";
    Some(Finding::new("mtu", Blocks, seen, why, source).fix(
        look.nic,
        true,
        vec![Change::new(Setting::Mtu, limit)],
    ))
}

pub fn zero_copy_segments(look: &Look<'_>) -> Option<Finding> {
    if mtu(look).is_some() {
        return None;
    }
    let segments = look.nic.answers.xdp.as_ref()?.zc_max_segs?;
    let mtu = look.nic.answers.link.mtu;
    // 256 bytes of headroom, and the Ethernet header with two tags.
    let room = look.wanted.chunk.saturating_sub(256 + 22);
    let needed = mtu.div_ceil(room.max(1));
    if look.zero_copy() != Some(true) || needed <= segments {
        return None;
    }
    let seen = format!(
        "MTU {mtu} takes {needed} chunks of {} bytes, and the driver does {segments} in zero-copy mode",
        look.wanted.chunk
    );
    let why = "larger packets are dropped in zero-copy mode, or the bind with XDP_USE_SG is refused and copy mode is left";
    Some(
        Finding::new(
            "zero-copy-segments",
            Costs,
            seen,
            why,
            "netdev netlink, xdp-zc-max-segs; net/xdp/xsk_buff_pool.c xp_assign_dev",
        )
        .fix(
            look.nic,
            false,
            vec![Change::new(Setting::Mtu, room.saturating_mul(segments))],
        ),
    )
}

pub fn transmit_queues(look: &Look<'_>) -> Option<Finding> {
    let channels = look.nic.answers.channels?;
    let cpus = look.nic.host.cpus.len() as u32;
    let driver = look.nic.driver();
    let combined = |count: u32| vec![Change::new(Setting::Channels("combined".into()), count)];
    match look.driver?.queues {
        Queues::Half
            if channels.receiving().saturating_mul(2) > channels.limit()
                && channels.limit() > 1 =>
        {
            let (used, limit) = (channels.receiving(), channels.limit());
            let seen = format!("{used} of {limit} channels are in use");
            let why = format!(
                "{driver} takes as many queues again to send with: it refuses an XDP program when more than half are in use"
            );
            let finding = Finding::new(
                "spare-queues",
                Blocks,
                seen,
                why,
                "ena_xdp.c ena_xdp_allowed; gve_main.c verify_xdp_configuration",
            );
            let half = limit / 2;
            Some(if channels.combined > 0 {
                finding.fix(look.nic, true, combined(half))
            } else {
                let both =
                    ["rx", "tx"].map(|kind| Change::new(Setting::Channels(kind.into()), half));
                finding.fix(look.nic, true, both.to_vec())
            })
        }
        Queues::PerCpu if channels.combined.saturating_add(cpus) > channels.combined_max => {
            let seen = format!(
                "{} queue pairs in use of {}, on {cpus} CPUs",
                channels.combined, channels.combined_max
            );
            let why = format!(
                "{driver} wants a queue for each CPU to send with beside those in use; without, packets of XDP_TX and redirect go out under a lock (before Linux 5.13 the program is refused)"
            );
            Some(
                Finding::new(
                    "spare-queues",
                    Costs,
                    seen,
                    why,
                    "virtio_net.c virtnet_xdp_set; xdp-tutorial#277",
                )
                .advise(format!(
                    "the host must give it {} (QEMU: queues=…,vectors=…)",
                    channels.combined.max(1).saturating_add(cpus)
                )),
            )
        }
        Queues::Cpus(most) if cpus > most => {
            // Since commit 4fe815850bdc (5.16) CPUs may share queues.
            let severity = if cpus > most * 2 || !look.kernel((5, 16)) { Blocks } else { Costs };
            let seen = format!("{cpus} CPUs, and {driver} has {most} queues for XDP");
            let why = "above, CPUs share a queue under a lock, and kernels before 6.4 may panic when they send (look for the fix in the vendor's); above twice as many, and before 5.16 always, it refuses the program (ENOMEM)";
            Some(
                Finding::new(
                    "spare-queues",
                    severity,
                    seen,
                    why,
                    "ixgbe_main.c ixgbe_xdp_setup, IXGBE_MAX_XDP_QS; commit 4fe815850bdc, and the panic with more than 64 CPUs reported to netdev on 2023-01-28",
                )
                .advise(format!("boot with nr_cpus={most}, or use another NIC")),
            )
        }
        Queues::Combined if channels.combined == 0 && channels.rx > 0 => {
            let seen = format!("{} rx and {} tx channels, none combined", channels.rx, channels.tx);
            let why = format!("{driver} takes an XDP program only on combined channels");
            Some(Finding::new("spare-queues", Blocks, seen, why, "bnxt_xdp.c bnxt_xdp_set").advise(
                format!("ethtool -L {} rx 0 tx 0 combined {}", look.nic.name(), channels.rx),
            ))
        }
        _ => None,
    }
}

pub fn virtual_functions(look: &Look<'_>) -> Option<Finding> {
    let functions = look.nic.device.virtual_functions.filter(|&count| count > 0)?;
    let seen = format!("{functions} virtual functions are in use");
    let name = look.nic.name();
    if look.nic.driver() != "ixgbe" {
        return None;
    }
    let why = "ixgbe refuses an XDP program while it has virtual functions (EINVAL; later kernels lift that)";
    Some(
        Finding::new(
            "virtual-functions",
            Blocks,
            seen,
            why,
            "ixgbe_main.c ixgbe_xdp_setup, IXGBE_FLAG_SRIOV_ENABLED",
        )
        .advise(format!("echo 0 > /sys/class/net/{name}/device/sriov_numvfs"))
        .back(format!("echo {functions} > /sys/class/net/{name}/device/sriov_numvfs")),
    )
}

pub fn master(look: &Look<'_>) -> Option<Finding> {
    let master = look.nic.answers.link.master.as_ref()?;
    let kind = master.kind.as_deref().unwrap_or("another interface");
    let name = look.nic.name();
    let seen = format!("the interface belongs to {} ({kind})", master.name);
    let (severity, why) = match kind {
        "bond" | "team" => (
            Blocks,
            "what a socket takes here never reaches the bond, which then believes the link dead or sends answers elsewhere; a bond takes a program itself in some modes (native XDP of bonding, Linux 5.15) and never in zero-copy",
        ),
        "bridge" | "openvswitch" => {
            (Costs, "what a socket takes here never reaches the bridge and its ports")
        }
        _ => (Note, "what a socket takes here does not reach it"),
    };
    Some(
        Finding::new(
            "master",
            severity,
            seen,
            why,
            "cilium#12662, firedancer#7138; drivers/net/bonding bond_xdp_set",
        )
        .advise(format!("ip link set {name} nomaster"))
        .back(format!("ip link set {name} master {}", master.name)),
    )
}

pub fn uppers(look: &Look<'_>) -> Option<Finding> {
    let uppers = &look.nic.answers.link.uppers;
    let names: Vec<_> = uppers
        .iter()
        .map(|upper| format!("{} ({})", upper.name, upper.kind.as_deref().unwrap_or("?")))
        .collect();
    if names.is_empty() {
        return None;
    }
    let seen = format!("{} on top of the interface", names.join(", "));
    let why = "they see only what the XDP program passes to the kernel: packets that it takes for the engine are gone for them, with or without a tag";
    Some(Finding::new(
        "uppers",
        Note,
        seen,
        why,
        "cilium#24768; net/core/dev.c: XDP runs before rx_handlers and VLANs",
    ))
}

pub fn mlx5_queue_numbers(look: &Look<'_>) -> Option<Finding> {
    if look.nic.driver() != "mlx5_core"
        || look.nic.host.version() >= (6, 1)
        || look.zero_copy() != Some(true)
    {
        return None;
    }
    let queues = look.nic.queues();
    let seen = format!("mlx5 on Linux {}, {queues} channels", look.nic.host.kernel);
    let why = format!(
        "before 6.1 its zero-copy queues are a second set, numbered {queues} to {}: a zero-copy socket on queue 0 is refused (EINVAL), and packets must be steered to the second set",
        queues.saturating_mul(2).saturating_sub(1)
    );
    Some(
        Finding::new("mlx5-queues", Costs, seen, why, "commit 3db4c85cde7a (queue indices starting from 0 for XSK queues), Linux 6.1; xdp-tutorial#232; VPP's documentation")
            .advise("Linux 6.1 or later, or copy mode (`zero_copy = \"never\"`)"),
    )
}

/// What users of a driver met in zero-copy mode and no setting shows.
const REPORTED: [(&str, &str, &str); 5] = [
    (
        "ixgbe",
        "in zero-copy mode some kernels sent what was queued only when the socket was closed: look whether the peer receives",
        "xdp-tutorial#471, #127",
    ),
    (
        "i40e",
        "in zero-copy mode some kernels bound and then refused to send, or stopped receiving: look at both counters under load",
        "firedancer#4266, PF_RING#702",
    ),
    (
        "ice",
        "its number of channels can't be changed while an RDMA driver holds the device (EBUSY, since Linux 6.3: unload irdma, or turn RDMA off with devlink); zero-copy stalled in some kernels when the fill ring ran empty without need-wakeup",
        "ice_ethtool.c ice_set_channels; intel/ethernet-linux-ice#45; firedancer#273",
    ),
    (
        "ena",
        "kernels before 5.16 drop what is larger than 3498 bytes without a counter of its own",
        "commit 505b1a88d311; onload#337",
    ),
    (
        "mlx5_core",
        "on a virtual function some kernels lost packets in XDP mode: look at the counters of the physical one too",
        "cilium#40259",
    ),
];

pub fn driver_notes(look: &Look<'_>) -> Option<Finding> {
    let driver = look.nic.driver();
    let (_, why, source) = REPORTED.iter().find(|(name, ..)| *name == driver)?;
    let seen = format!("{driver}: reported by its users");
    Some(Finding::new("driver", Note, seen, *why, source))
}
