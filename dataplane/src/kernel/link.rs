//! The trunk's two ends: one in the kernel's network namespace, the other in a namespace that the engine alone has.
//!
//! That namespace has no name: it goes with the process, however that ends, and takes both ends of the veth pair with it, and with them the
//! addresses and routes of the kernel's end. What the kernel sends while no engine is there so meets no device
//! instead of one that gives it back.

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::path::Path;

use ipnet::IpNet;
use millrace_wire::Mac;
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketType};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use super::netlink::{CREATE, Netlink, REPLACE, Request, attributes, explain};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWNEIGH: u16 = 28;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_NUM_TX_QUEUES: u16 = 31;
const IFLA_NUM_RX_QUEUES: u16 = 32;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NUD_PERMANENT: u16 = 0x80;
const RT_SCOPE_LINK: u8 = 253;
const IFF_UP: u32 = 1;

/// `AF_INET` or `AF_INET6`.
pub(super) fn family(addr: &IpAddr) -> u8 {
    let family = if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    family.as_raw() as u8
}

/// An address as the wire has it.
pub(super) fn octets(addr: &IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(addr) => addr.octets().to_vec(),
        IpAddr::V6(addr) => addr.octets().to_vec(),
    }
}

/// A network namespace, which goes when nobody has it open.
#[derive(Debug)]
pub struct Namespace(File);

impl Namespace {
    /// Makes one.
    pub(super) fn new() -> io::Result<Namespace> {
        let made = std::thread::scope(|scope| {
            let make = || {
                // Descriptors and folders stay shared: the one thing that can go wrong with it does not happen.
                #[expect(
                    deprecated,
                    reason = "its successor is unsafe for flags that are not used here"
                )]
                rustix::thread::unshare(UnshareFlags::NEWNET)?;
                File::open("/proc/thread-self/ns/net")
            };
            scope.spawn(make).join()
        });
        let file = made.map_err(|_| io::Error::other("its thread ended"))?;
        file.map(Namespace).map_err(explain("making a network namespace (CAP_SYS_ADMIN)"))
    }

    /// Runs `work` in it.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                move_into_link_name_space(
                    std::os::fd::AsFd::as_fd(&self.0),
                    Some(LinkNameSpaceType::Network),
                )?;
                Ok(work())
            });
            thread.join().unwrap_or_else(|_| Err(io::Error::other("its thread ended")))
        })
    }
}

/// The index of a device of this thread's namespace.
pub(super) fn index_of(name: &str) -> io::Result<u32> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    Ok(name_to_index(&socket, name)?)
}

/// `struct ifinfomsg`.
fn ifinfomsg(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
    bytes[12..16].copy_from_slice(&change.to_ne_bytes());
    bytes
}

/// A veth pair to be made.
pub(super) struct Pair<'a> {
    /// The kernel's end.
    pub(super) name: &'a str,
    pub(super) mac: Mac,
    /// The engine's end, in its namespace.
    pub(super) inside: &'a Namespace,
    pub(super) inside_name: &'a str,
    pub(super) inside_mac: Mac,
    pub(super) queues: u32,
    pub(super) mtu: u32,
}

impl Pair<'_> {
    /// Makes it, switched off.
    pub(super) fn make(&self, netlink: &Netlink) -> io::Result<()> {
        let common = |request: Request, name: &str, mac: &Mac| {
            request
                .with_name(IFLA_IFNAME, name)
                .with(IFLA_ADDRESS, &mac.0)
                .with_u32(IFLA_MTU, self.mtu)
                .with_u32(IFLA_NUM_TX_QUEUES, self.queues)
                .with_u32(IFLA_NUM_RX_QUEUES, self.queues)
        };
        let nothing = ifinfomsg(0, 0, 0);
        let request = common(Request::new(RTM_NEWLINK, CREATE, &nothing), self.name, &self.mac);
        let request = request.with_nest(IFLA_LINKINFO, &[], |info| {
            info.with(IFLA_INFO_KIND, b"veth").with_nest(IFLA_INFO_DATA, &[], |data| {
                data.with_nest(VETH_INFO_PEER, &nothing, |peer| {
                    common(peer, self.inside_name, &self.inside_mac)
                        .with_u32(IFLA_NET_NS_FD, self.inside.0.as_raw_fd().unsigned_abs())
                })
            })
        });
        netlink.ask(request).map_err(explain(format_args!("making the veth pair {}", self.name)))
    }
}

/// Switches a device on.
pub(super) fn set_up(netlink: &Netlink, index: u32) -> io::Result<()> {
    netlink.ask(Request::new(RTM_NEWLINK, 0, &ifinfomsg(index, IFF_UP, IFF_UP)))
}

/// Removes a device, if it is there.
pub(super) fn remove(netlink: &Netlink, name: &str) -> io::Result<bool> {
    match netlink
        .ask(Request::new(RTM_DELLINK, 0, &ifinfomsg(0, 0, 0)).with_name(IFLA_IFNAME, name))
    {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(19) => Ok(false),
        Err(error) => Err(explain(format_args!("removing {name}"))(error)),
    }
}

/// Whether there is a veth of that name.
pub(super) fn is_veth(netlink: &Netlink, name: &str) -> io::Result<bool> {
    netlink.dump(Request::new(RTM_GETLINK, 0, &ifinfomsg(0, 0, 0)), |found: &mut bool, answer| {
        let all = || attributes(answer.body.get(16..).unwrap_or_default());
        let of = |wanted: u16| all().find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
        let is_kind = |value| {
            attributes(value)
                .any(|(kind, value)| kind == IFLA_INFO_KIND && value.starts_with(b"veth"))
        };
        let is_named =
            of(IFLA_IFNAME).is_some_and(|it| it.strip_suffix(&[0]) == Some(name.as_bytes()));
        *found |= is_named && of(IFLA_LINKINFO).is_some_and(is_kind);
    })
}

/// Gives a device an address of the link's scope, which is no source for packets that go further.
pub(super) fn add_address(netlink: &Netlink, index: u32, net: &IpNet) -> io::Result<()> {
    let addr = octets(&net.addr());
    // `struct ifaddrmsg`.
    let mut fixed = vec![family(&net.addr()), net.prefix_len(), 0, RT_SCOPE_LINK];
    fixed.extend_from_slice(&index.to_ne_bytes());
    let request = Request::new(RTM_NEWADDR, REPLACE, &fixed);
    let request = request.with(IFA_LOCAL, &addr).with(IFA_ADDRESS, &addr);
    netlink.ask(request).map_err(explain(format_args!("giving it the address {net}")))
}

/// Says which MAC a neighbor has, for good.
pub(super) fn add_neighbor(
    netlink: &Netlink,
    index: u32,
    addr: &IpAddr,
    mac: &Mac,
) -> io::Result<()> {
    // `struct ndmsg`.
    let mut fixed = [0; 12];
    fixed[0] = family(addr);
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    fixed[8..10].copy_from_slice(&NUD_PERMANENT.to_ne_bytes());
    let request = Request::new(RTM_NEWNEIGH, REPLACE, &fixed);
    let request = request.with(NDA_DST, &octets(addr)).with(NDA_LLADDR, &mac.0);
    netlink.ask(request).map_err(explain(format_args!("naming it the neighbor {addr}")))
}

/// Writes a sysctl of a device. One that the kernel does not have (no IPv6) has nothing to be set.
pub(super) fn sysctl(family: &str, device: &str, name: &str, value: &str) -> io::Result<()> {
    let path = Path::new("/proc/sys/net").join(family).join("conf").join(device).join(name);
    match std::fs::write(&path, value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(explain(format_args!("writing {value} to {}", path.display()))),
    }
}
