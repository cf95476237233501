//! What the device or the kernel does to packets before a program sees them.

use super::Look;
use crate::finding::Finding;
use crate::finding::Severity::{Blocks, Costs, Note};
use crate::setting::{Change, Setting};

fn off(name: &str) -> Vec<Change> {
    vec![Change::new(Setting::Feature(name.into()), "off")]
}

pub fn vlan_strip(look: &Look<'_>) -> Option<Finding> {
    let name = "rx-vlan-hw-parse";
    let feature = look.nic.answers.features.get(name).filter(|feature| feature.on)?;
    if look.is_virtual() && feature.fixed {
        return None;
    }
    let tagged = look
        .nic
        .answers
        .link
        .uppers
        .iter()
        .filter(|upper| upper.kind.as_deref() == Some("vlan"))
        .count();
    let seen = match tagged {
        0 => "the device takes VLAN tags off received frames".to_owned(),
        _ => format!(
            "the device takes VLAN tags off received frames, and {tagged} VLANs are on the interface"
        ),
    };
    let why = "the tag goes into the descriptor, where an XDP program does not see it: a tagged frame looks untagged and is taken for one of the interface's own network";
    let severity = if tagged > 0 { Blocks } else { Costs };
    let finding = Finding::new(
        "vlan-strip",
        severity,
        seen,
        why,
        "p4c-xdp#38 (i40e strips before XDP); cilium#24768",
    );
    Some(if feature.fixed {
        finding.advise("it can't be changed: let no tagged frame come here (the switch's port)")
    } else {
        finding.fix(look.nic, true, off(name))
    })
}

pub fn lro(look: &Look<'_>) -> Option<Finding> {
    if !look.nic.has("rx-lro") || look.refusing().contains(&"rx-lro") {
        return None;
    }
    let seen = "LRO is on";
    let why = "the device merges packets, which must not be forwarded so: they are larger than the MTU and their ends are lost";
    Some(
        Finding::new(
            "lro",
            Costs,
            seen,
            why,
            "Documentation/networking/segmentation-offloads.rst; ixgbe's README",
        )
        .fix(look.nic, true, off("rx-lro")),
    )
}

pub fn gro_hw(look: &Look<'_>) -> Option<Finding> {
    if !look.nic.has("rx-gro-hw") || look.refusing().contains(&"rx-gro-hw") {
        return None;
    }
    let seen = "GRO in the device is on";
    let why = "packets that the device merged are larger than a chunk and come in several buffers, or not at all";
    Some(Finding::new("gro-hw", Costs, seen, why, "NETIF_F_GRO_HW").fix(
        look.nic,
        true,
        off("rx-gro-hw"),
    ))
}

pub fn gro_list(look: &Look<'_>) -> Option<Finding> {
    if !look.nic.has("rx-gro-list") {
        return None;
    }
    let seen = "rx-gro-list is on";
    let why = "what the kernel keeps is chained for local forwarding; a program in generic mode sees chains as one packet";
    Some(Finding::new("gro-list", Note, seen, why, "NETIF_F_GRO_FRAGLIST").fix(
        look.nic,
        false,
        off("rx-gro-list"),
    ))
}

pub fn veth_gro(look: &Look<'_>) -> Option<Finding> {
    if look.nic.driver() != "veth"
        || !look.nic.has("rx-gro")
        || look.nic.answers.link.program.is_some()
    {
        return None;
    }
    let seen = "GRO is on without an XDP program";
    let why = "a veth with GRO polls as one with a program does: what the kernel keeps comes by NAPI, later and on the receiving CPU";
    Some(Finding::new("veth-gro", Note, seen, why, "drivers/net/veth.c veth_set_features").fix(
        look.nic,
        false,
        off("rx-gro"),
    ))
}

pub fn promiscuous(look: &Look<'_>) -> Option<Finding> {
    let count = look.nic.answers.link.promiscuity;
    if count == 0 {
        return None;
    }
    let name = look.nic.name();
    let seen = format!("promiscuous, for {count} users");
    let why = "frames for other stations come too and cost as much as one's own; a capture, a bridge or a macvlan asks for it";
    Some(
        Finding::new("promiscuous", Note, seen, why, "rtnetlink, IFLA_PROMISCUITY")
            .advise(format!("ip link set {name} promisc off (or stop the capture)"))
            .back(format!("ip link set {name} promisc on")),
    )
}
