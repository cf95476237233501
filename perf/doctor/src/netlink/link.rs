//! Links by rtnetlink: what an interface is, what is above it, and whose XDP program it has.

use super::{Refused, Socket, attributes, put, string, text_of, u32_of};
use crate::nic::{Link, Program, Relative};
use crate::sys;

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_PROMISCUITY: u16 = 30;
const IFLA_NUM_TX_QUEUES: u16 = 31;
const IFLA_NUM_RX_QUEUES: u16 = 32;
const IFLA_CARRIER: u16 = 33;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_XDP: u16 = 43;
const IFLA_MAX_MTU: u16 = 51;
const IFLA_INFO_KIND: u16 = 1;
const IFF_UP: u32 = 1;

/// A link and what it says of others, by their numbers.
#[derive(Clone, Debug, Default)]
struct Raw {
    link: Link,
    below: Option<u32>,
    master: Option<u32>,
    elsewhere: bool,
    program: Option<(u8, u32)>,
}

/// All links of this namespace, with relatives filled in.
pub fn all() -> Result<Vec<Link>, Refused> {
    let mut body = vec![0; 16];
    // The filter asks for nothing more, such as statistics of virtual functions.
    put(&mut body, 29, &0_u32.to_ne_bytes());
    let raw: Vec<Raw> =
        Socket::route()?.dump(RTM_GETLINK, &body)?.iter().filter_map(|body| parse(body)).collect();
    let relative = |link: &Link| Relative { name: link.name.clone(), kind: link.kind.clone() };
    let mut links = Vec::new();
    for one in &raw {
        let mut link = one.link.clone();
        let master = |other: &&Raw| Some(other.link.index) == one.master;
        link.master = raw.iter().find(master).map(|other| relative(&other.link));
        // A veth's other end says that it lies on this one; it is beside, not above.
        let above = |other: &&Raw| {
            other.below == Some(link.index)
                && !other.elsewhere
                && other.link.index != link.index
                && other.link.kind.as_deref() != Some("veth")
        };
        link.uppers = raw.iter().filter(above).map(|other| relative(&other.link)).collect();
        link.program = one.program.map(|(mode, id)| Program {
            mode: ["none", "native", "generic", "offloaded", "several"]
                .get(usize::from(mode))
                .copied()
                .unwrap_or("unknown")
                .into(),
            id,
            name: sys::program_name(id).ok().filter(|name| !name.is_empty()),
        });
        links.push(link);
    }
    Ok(links)
}

/// Sets the MTU.
pub fn set_mtu(interface: &str, mtu: u32) -> Result<(), Refused> {
    let mut body = vec![0; 16];
    put(&mut body, IFLA_IFNAME, &string(interface));
    put(&mut body, IFLA_MTU, &mtu.to_ne_bytes());
    Socket::route()?.ask(RTM_NEWLINK, &body).map(drop)
}

fn parse(body: &[u8]) -> Option<Raw> {
    let mut raw = Raw::default();
    raw.link.index = u32_of(body.get(4..)?)?;
    raw.link.up = u32_of(body.get(8..)?)? & IFF_UP != 0;
    for (kind, value) in attributes(body.get(16..)?) {
        let number = u32_of(value);
        match kind {
            IFLA_ADDRESS => {
                let bytes: Vec<_> = value.iter().map(|byte| format!("{byte:02x}")).collect();
                raw.link.mac = bytes.join(":");
            }
            IFLA_IFNAME => raw.link.name = text_of(value),
            IFLA_MTU => raw.link.mtu = number?,
            IFLA_MAX_MTU => raw.link.max_mtu = number.filter(|&mtu| mtu != 0),
            IFLA_LINK => raw.below = number,
            IFLA_LINK_NETNSID => raw.elsewhere = true,
            IFLA_MASTER => raw.master = number,
            IFLA_PROMISCUITY => raw.link.promiscuity = number?,
            IFLA_NUM_TX_QUEUES => raw.link.tx_queues = number?,
            IFLA_NUM_RX_QUEUES => raw.link.rx_queues = number?,
            IFLA_CARRIER => raw.link.carrier = value.first() == Some(&1),
            IFLA_LINKINFO => {
                let kind = attributes(value).find(|(kind, _)| *kind == IFLA_INFO_KIND);
                raw.link.kind = kind.map(|(_, value)| text_of(value));
            }
            IFLA_XDP => raw.program = program(value),
            _ => {}
        }
    }
    Some(raw)
}

/// Mode and number of the program; of several the one in native mode.
fn program(value: &[u8]) -> Option<(u8, u32)> {
    let find = |kind| attributes(value).find(|(other, _)| *other == kind).map(|(_, value)| value);
    let mode = *find(2)?.first()?;
    let id = find(4).or_else(|| find(5)).and_then(u32_of)?;
    (mode != 0).then_some((mode, id))
}
