//! Bodies of rtnetlink messages → rows of [`crate::kernel`].
//!
//! Reads the attributes that matter here and passes over all others, so that a kernel that says more is understood as well. `None`
//! where a body is no row for us: another family, another table, a cached route, a message cut short. Numbers are those of
//! `linux/rtnetlink.h`, `if_link.h`, `if_addr.h`, `neighbour.h` and `fib_rules.h`.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use millrace_tables::trunk;
use millrace_wire::{Addr, Mac};

use super::message::{aligned, attributes, u8_at, u16_at, u32_at};
use crate::kernel::{Action, Address, Hop, Link, Route, Rule, Table};

const AF_UNSPEC: u8 = 0;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// A device and its index.
pub(super) fn link(body: &[u8]) -> Option<(u32, Link)> {
    const UP: u32 = 1;
    const LOOPBACK: u32 = 8;
    const POINT_TO_POINT: u32 = 0x10;
    const NO_ARP: u32 = 0x80;
    const LOWER_UP: u32 = 0x1_0000;
    // Others are a bridge's words about its ports.
    if u8_at(body, 0)? != AF_UNSPEC {
        return None;
    }
    let (index, flags) = (u32_at(body, 4)?, u32_at(body, 8)?);
    let mut link = Link {
        up: flags & UP != 0,
        running: flags & (UP | LOWER_UP) == UP | LOWER_UP,
        loopback: flags & LOOPBACK != 0,
        shared: flags & (POINT_TO_POINT | NO_ARP) == 0,
        ..Link::default()
    };
    for (kind, value) in attributes(body.get(16..)?) {
        match kind {
            1 => link.mac = mac(value),
            3 => link.name = text(value),
            4 => link.mtu = u32_at(value, 0).unwrap_or(0),
            18 => {
                for (_, value) in attributes(value).filter(|(kind, _)| *kind == 1) {
                    link.kind = text(value);
                }
            }
            _ => {}
        }
    }
    Some((index, link))
}

/// An address of a device.
pub(super) fn address(body: &[u8]) -> Option<Address> {
    const SECONDARY: u32 = 0x01;
    const OPTIMISTIC: u32 = 0x04;
    const DAD_FAILED: u32 = 0x08;
    const DEPRECATED: u32 = 0x20;
    const TENTATIVE: u32 = 0x40;
    let family = u8_at(body, 0)?;
    let (mut local, mut other, mut flags) = (None, None, u32::from(u8_at(body, 2)?));
    for (kind, value) in attributes(body.get(8..)?) {
        match kind {
            1 => other = ip(family, value),
            2 => local = ip(family, value),
            8 => flags = u32_at(value, 0).unwrap_or(flags),
            _ => {}
        }
    }
    // Where both are there the other one is the far end's.
    let addr = local.or(other)?;
    let tested = flags & TENTATIVE == 0 || flags & OPTIMISTIC != 0;
    Some(Address {
        link: u32_at(body, 4)?,
        net: IpNet::new(addr, u8_at(body, 1)?).ok()?,
        usable: tested && flags & DAD_FAILED == 0,
        lesser: flags & (SECONDARY | DEPRECATED) != 0,
    })
}

/// A route of the tables main and local.
pub(super) fn route(body: &[u8]) -> Option<Route> {
    const CLONED: u32 = 0x200;
    let [family, length, source_length, tos, table, protocol, _, kind] = *body.first_chunk()?;
    let flags = u32_at(body, 8)?;
    let unspecified = match family {
        AF_INET => IpAddr::from([0; 4]),
        AF_INET6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    // A route for some sources, or some types of service, is not for all packets to these destinations. The engine's own lead to it.
    if flags & CLONED != 0 || tos != 0 || source_length != 0 || protocol == trunk::PROTOCOL {
        return None;
    }
    let (mut table, mut to, mut metric, mut preference) = (u32::from(table), unspecified, 0, 0);
    let mut single = Hop { weight: 1, dead: is_dead(flags as u8), ..NOWHERE };
    let mut several = None;
    for (attribute, value) in attributes(body.get(12..)?) {
        match attribute {
            1 => to = ip(family, value)?,
            // From a device only.
            3 => return None,
            6 => metric = u32_at(value, 0)?,
            9 => several = Some(hops(family, value)),
            15 => table = u32_at(value, 0)?,
            20 => preference = [0, 1, 0, -1][usize::from(u8_at(value, 0)? & 3)],
            _ => way(family, attribute, value, &mut single),
        }
    }
    let table = match table {
        254 => Table::Main,
        255 => Table::Local,
        _ => return None,
    };
    let action = match kind {
        1 => Action::Forward(several.unwrap_or_else(|| vec![single])),
        2 => Action::Local,
        3 => Action::Broadcast,
        6 => Action::Blackhole,
        7..=9 => Action::Unreachable,
        _ => return None,
    };
    let prefix = IpNet::new(to, length).ok()?.trunc();
    Some(Route { table, prefix, metric, preference, action })
}

const NOWHERE: Hop = Hop { link: 0, gateway: None, weight: 1, dead: false, encapsulated: false };

/// Dead, or its device without a carrier.
fn is_dead(flags: u8) -> bool {
    flags & (1 | 16) != 0
}

fn way(family: u8, attribute: u16, value: &[u8], hop: &mut Hop) {
    match attribute {
        4 => hop.link = u32_at(value, 0).unwrap_or(0),
        5 => hop.gateway = ip(family, value).filter(|addr| !addr.is_unspecified()),
        // A gateway of the other family, which comes before it.
        18 => {
            let family = u16_at(value, 0).and_then(|family| u8::try_from(family).ok());
            hop.gateway = family.zip(value.get(2..)).and_then(|(family, value)| ip(family, value));
        }
        21 => hop.encapsulated |= u16_at(value, 0) != Some(0),
        _ => {}
    }
}

fn hops(family: u8, bytes: &[u8]) -> Vec<Hop> {
    let mut rest = bytes;
    let next = || {
        let length = usize::from(u16_at(rest, 0)?);
        let more = rest.get(8..length)?;
        let mut hop = Hop {
            link: u32_at(rest, 4)?,
            weight: u16::from(u8_at(rest, 3)?) + 1,
            dead: is_dead(u8_at(rest, 2)?),
            ..NOWHERE
        };
        for (attribute, value) in attributes(more) {
            way(family, attribute, value, &mut hop);
        }
        rest = rest.get(aligned(length)..).unwrap_or_default();
        Some(hop)
    };
    std::iter::from_fn(next).collect()
}

/// What is said of a neighbor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Its MAC is good.
    Known(Mac),
    /// It was good when the kernel last used it.
    Stale(Mac),
    /// There is none.
    Unknown,
}

/// A neighbor, by device and address.
pub(super) fn neighbor(body: &[u8]) -> Option<((u32, Addr), Standing)> {
    const REACHABLE: u16 = 0x02;
    const STALE: u16 = 0x04;
    const DELAY: u16 = 0x08;
    const PROBE: u16 = 0x10;
    const NO_ARP: u16 = 0x40;
    const PERMANENT: u16 = 0x80;
    const PROXY: u8 = 0x08;
    let family = u8_at(body, 0)?;
    if u8_at(body, 10)? & PROXY != 0 {
        return None;
    }
    let (mut addr, mut link_layer) = (None, None);
    for (kind, value) in attributes(body.get(12..)?) {
        match kind {
            1 => addr = ip(family, value),
            2 => link_layer = mac(value),
            _ => {}
        }
    }
    let (addr, state) = (Addr::from(addr?), u16_at(body, 8)?);
    let usable = link_layer.filter(|mac| mac.is_unicast());
    let standing = match usable {
        Some(mac) if state & (REACHABLE | DELAY | PROBE | NO_ARP | PERMANENT) != 0 => {
            Standing::Known(mac)
        }
        Some(mac) if state & STALE != 0 => Standing::Stale(mac),
        _ => Standing::Unknown,
    };
    (!addr.is_multicast()).then_some(((u32_at(body, 4)?, addr), standing))
}

/// A rule beside the three that every kernel has.
pub(super) fn rule(body: &[u8]) -> Option<Rule> {
    const TO_TABLE: u8 = 1;
    const INVERT: u32 = 2;
    let [family, to_length, from_length, tos, table, _, _, action] = *body.first_chunk()?;
    if ![AF_INET, AF_INET6].contains(&family) {
        return None;
    }
    let mut rule = Rule {
        priority: 0,
        from: None,
        table: table.into(),
        conditional: to_length != 0 || tos != 0 || u32_at(body, 8)? & INVERT != 0,
        v4: family == AF_INET,
    };
    for (kind, value) in attributes(body.get(12..)?) {
        match kind {
            2 => rule.from = IpNet::new(ip(family, value)?, from_length).ok(),
            6 => rule.priority = u32_at(value, 0)?,
            15 => rule.table = u32_at(value, 0)?,
            21 if u8_at(value, 0) == Some(trunk::PROTOCOL) => return None,
            // Devices, marks, tunnels, VRFs, users, protocols and ports.
            3 | 10 | 12 | 16..=19 | 20 | 22..=24 => {
                // A VRF's rule and an empty one say so with zeros.
                rule.conditional |= value.iter().any(|byte| *byte != 0);
            }
            _ => {}
        }
    }
    if action != TO_TABLE {
        rule.table = 0;
    }
    if u32_at(body, 8)? & INVERT != 0 {
        // All but those.
        rule.from = None;
    }
    let usual = [(0, 255), (32_766, 254), (32_767, 253)].contains(&(rule.priority, rule.table));
    (!usual || rule.conditional || rule.from.is_some()).then_some(rule)
}

fn ip(family: u8, value: &[u8]) -> Option<IpAddr> {
    match family {
        AF_INET => <[u8; 4]>::try_from(value).ok().map(IpAddr::from),
        AF_INET6 => <[u8; 16]>::try_from(value).ok().map(IpAddr::from),
        _ => None,
    }
}

fn mac(value: &[u8]) -> Option<Mac> {
    value.try_into().ok().map(Mac)
}

fn text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

#[cfg(test)]
mod tests;
