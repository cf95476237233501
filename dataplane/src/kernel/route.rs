//! Rules and routes of ours in this node's kernel, all marked with our protocol number so that they can be found again.
//!
//! ```text
//! 76: from all fwmark MARK/MARK lookup 7701     answers of connections that began in the trunk
//! 77: not from all iif millrace0 lookup 7700    service addresses; what comes out of the trunk goes on by the kernel's own tables
//! ```

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use ipnet::IpNet;
use millrace_tables::trunk;

use super::link::{family, octets};
use super::netlink::{CREATE, Netlink, REPLACE, Request, attributes, explain};

const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWRULE: u16 = 32;
const RTM_DELRULE: u16 = 33;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PREFSRC: u16 = 7;
const RTA_TABLE: u16 = 15;
const RTN_UNICAST: u8 = 1;
const RTNH_F_ONLINK: u32 = 4;
const FRA_IIFNAME: u16 = 3;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_TABLE: u16 = 15;
const FRA_FWMASK: u16 = 16;
const FRA_PROTOCOL: u16 = 21;
const FR_ACT_TO_TBL: u8 = 1;
const FIB_RULE_INVERT: u32 = 2;
const ENOENT: i32 = 2;
const EEXIST: i32 = 17;
const ESRCH: i32 = 3;
const EAFNOSUPPORT: i32 = 97;

const INET: u8 = 2;
const INET6: u8 = 10;

/// Where routes of ours lead, for one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Way {
    /// The kernel's end of the trunk.
    pub(super) index: u32,
    /// The engine's address.
    pub(super) gateway: IpAddr,
}

/// `struct fib_rule_hdr`, and what says which of the two it is.
fn rule(kind: u16, family: u8, which: Rule<'_>) -> Request {
    let (flags, number) = match which {
        Rule::Answers { .. } => (0, trunk::PREFERENCE - 1),
        Rule::Services { .. } => (FIB_RULE_INVERT, trunk::PREFERENCE),
    };
    let mut fixed = vec![family, 0, 0, 0, 0, 0, 0, FR_ACT_TO_TBL];
    fixed.extend_from_slice(&flags.to_ne_bytes());
    let create = if kind == RTM_NEWRULE { CREATE } else { 0 };
    let request = Request::new(kind, create, &fixed)
        .with_u32(FRA_PRIORITY, number)
        .with(FRA_PROTOCOL, &[trunk::PROTOCOL]);
    match which {
        Rule::Answers { mark } => request
            .with_u32(FRA_TABLE, trunk::ANSWERS)
            .with_u32(FRA_FWMARK, mark)
            .with_u32(FRA_FWMASK, mark),
        Rule::Services { device } => {
            request.with_u32(FRA_TABLE, trunk::SERVICES).with_name(FRA_IIFNAME, device)
        }
    }
}

#[derive(Clone, Copy)]
enum Rule<'a> {
    Answers { mark: u32 },
    Services { device: &'a str },
}

fn both<'a>(mark: u32, device: &'a str) -> [Rule<'a>; 2] {
    [Rule::Answers { mark }, Rule::Services { device }]
}

/// Makes both rules of a family.
pub(super) fn add_rules(netlink: &Netlink, v4: bool, mark: u32, device: &str) -> io::Result<()> {
    let family = if v4 { INET } else { INET6 };
    for which in both(mark, device) {
        match netlink.ask(rule(RTM_NEWRULE, family, which)) {
            Err(error) if error.raw_os_error() == Some(EEXIST) => {}
            other => other.map_err(explain("making a routing rule"))?,
        }
    }
    Ok(())
}

/// Removes all rules of ours, whatever mark and device they name. How many there were.
pub(super) fn remove_rules(netlink: &Netlink) -> io::Result<usize> {
    let mut removed = 0;
    for family in [INET, INET6] {
        for (priority, table) in
            [(trunk::PREFERENCE - 1, trunk::ANSWERS), (trunk::PREFERENCE, trunk::SERVICES)]
        {
            let mut fixed = [0; 12];
            fixed[0] = family;
            fixed[7] = FR_ACT_TO_TBL;
            let request = || {
                Request::new(RTM_DELRULE, 0, &fixed)
                    .with_u32(FRA_PRIORITY, priority)
                    .with_u32(FRA_TABLE, table)
                    .with(FRA_PROTOCOL, &[trunk::PROTOCOL])
            };
            loop {
                match netlink.ask(request()) {
                    Ok(()) => removed += 1,
                    Err(error) if matches!(error.raw_os_error(), Some(ENOENT | EAFNOSUPPORT)) => {
                        break;
                    }
                    Err(error) => return Err(explain("removing a routing rule")(error)),
                }
            }
        }
    }
    Ok(removed)
}

/// `struct rtmsg`.
fn rtmsg(family: u8, length: u8, flags: u32) -> Vec<u8> {
    let mut fixed = vec![family, length, 0, 0, 0, trunk::PROTOCOL, 0, RTN_UNICAST];
    fixed.extend_from_slice(&flags.to_ne_bytes());
    fixed
}

/// Leads a prefix into the trunk. `source` is what host processes speak from that have not bound an address.
pub(super) fn add(
    netlink: &Netlink,
    table: u32,
    prefix: &IpNet,
    way: &Way,
    source: Option<IpAddr>,
) -> io::Result<()> {
    let fixed = rtmsg(family(&prefix.addr()), prefix.prefix_len(), RTNH_F_ONLINK);
    let mut request = Request::new(RTM_NEWROUTE, REPLACE, &fixed)
        .with(RTA_DST, &octets(&prefix.addr()))
        .with_u32(RTA_TABLE, table)
        .with_u32(RTA_OIF, way.index)
        .with(RTA_GATEWAY, &octets(&way.gateway));
    if let Some(source) = source {
        request = request.with(RTA_PREFSRC, &octets(&source));
    }
    netlink.ask(request).map_err(explain(format_args!("routing {prefix} into the trunk")))
}

/// Takes a route of ours away, if it is there.
pub(super) fn remove(netlink: &Netlink, table: u32, prefix: &IpNet) -> io::Result<()> {
    let fixed = rtmsg(family(&prefix.addr()), prefix.prefix_len(), 0);
    let request = Request::new(RTM_DELROUTE, 0, &fixed)
        .with(RTA_DST, &octets(&prefix.addr()))
        .with_u32(RTA_TABLE, table);
    match netlink.ask(request) {
        Err(error) if matches!(error.raw_os_error(), Some(ESRCH | ENOENT)) => Ok(()),
        other => other.map_err(explain(format_args!("taking the route to {prefix} away"))),
    }
}

/// Routes of ours in a table, each with its source.
pub(super) fn list(netlink: &Netlink, table: u32) -> io::Result<BTreeMap<IpNet, Option<IpAddr>>> {
    let mut found = BTreeMap::new();
    for family in [INET, INET6] {
        let request = Request::new(RTM_GETROUTE, 0, &rtmsg(family, 0, 0));
        let of_family = netlink.dump(request, |found: &mut BTreeMap<_, _>, answer| {
            if answer.kind == RTM_NEWROUTE {
                found.extend(read(answer.body, family, table));
            }
        })?;
        found.extend(of_family);
    }
    Ok(found)
}

fn read(body: &[u8], family: u8, wanted: u32) -> Option<(IpNet, Option<IpAddr>)> {
    const RTMSG: usize = 12;
    if *body.first()? != family || *body.get(5)? != trunk::PROTOCOL {
        return None;
    }
    let address = |bytes: &[u8]| -> Option<IpAddr> {
        Some(match family {
            INET => IpAddr::from(*bytes.first_chunk::<4>()?),
            _ => IpAddr::from(*bytes.first_chunk::<16>()?),
        })
    };
    let unspecified = if family == INET { address(&[0; 4]) } else { address(&[0; 16]) };
    let (mut prefix, mut source, mut table) = (unspecified, None, 0);
    for (kind, value) in attributes(body.get(RTMSG..)?) {
        match kind {
            RTA_DST => prefix = address(value),
            RTA_PREFSRC => source = address(value),
            RTA_TABLE => table = u32::from_ne_bytes(*value.first_chunk()?),
            _ => {}
        }
    }
    (table == wanted).then_some((IpNet::new(prefix?, *body.get(1)?).ok()?, source))
}

/// Removes all routes of ours in both tables. How many there were.
pub(super) fn remove_all(netlink: &Netlink) -> io::Result<usize> {
    let mut removed = 0;
    for table in [trunk::SERVICES, trunk::ANSWERS] {
        for prefix in list(netlink, table)?.keys() {
            remove(netlink, table, prefix)?;
            removed += 1;
        }
    }
    Ok(removed)
}
