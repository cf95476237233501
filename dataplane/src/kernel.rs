//! What the engine asks of this node's kernel in `service-proxy` mode: the trunk, and that service traffic comes through it.
//!
//! [`Trunk`] makes all of it and takes it away again when it is dropped; [`clean_up`] does the latter after an engine that could not.
//! What there is, and what a killed engine leaves of it:
//!
//! | what | where | after SIGKILL |
//! |---|---|---|
//! | the veth pair, its addresses, neighbors and sysctls | `kernel/link.rs` | goes with the process: its far end lives in a namespace of the process |
//! | routes to service addresses | `kernel/route.rs` | go with the device |
//! | two rules a family | `kernel/route.rs` | stay, and lead to empty tables |
//! | the table `inet millrace` | `kernel/nft.rs` | stays: node ports of this node are not answered to its own pods and processes |
//! | the tables `inet millrace-pods`, `ip` and `ip6 millrace-own` | `kernel/pods.rs` | stay, also over the next start: isolated pods are reached by their node alone, and reach it alone |
//!
//! Rules and tables have one name for all engines, so there is one engine a network namespace at a time ([`LOCK`]).
//! No global sysctl is written and no address, route or neighbor of others touched. Needs CAP_NET_ADMIN all along, CAP_SYS_ADMIN to make
//! the namespace, and nftables' program `nft`.

pub mod follow;
mod link;
mod netlink;
mod nft;
pub mod pods;
pub mod ports;
mod route;
mod sockets;

use std::io;
use std::net::IpAddr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use millrace_tables::trunk;
use millrace_wire::{Addr, Mac};
use tracing::{info, warn};

use crate::netdev::Netdev;
use crate::snat::{HostPorts, Ports};
pub use link::Namespace;
use link::Pair;
use netlink::{Netlink, explain};
use route::Way;

/// Name of the engine's end, in a namespace where nobody else is.
pub const INSIDE: &str = "engine";
/// The kernel's MAC on the trunk, the engine's, and the one from which the engine hands on what it does not open.
const KERNEL_MAC: Mac = Mac([0x02, 0x4d, 0x52, 0, 0, 2]);
const ENGINE_MAC: Mac = Mac([0x02, 0x4d, 0x52, 0, 0, 1]);
/// See [`KERNEL_MAC`].
pub const HANDED_ON_MAC: Mac = Mac([0x02, 0x4d, 0x52, 0, 0, 3]);
/// The MAC from which it gives what the kernel is only to send on.
pub const ONWARD_MAC: Mac = Mac([0x02, 0x4d, 0x52, 0, 0, 4]);
/// The abstract socket that says of a network namespace that an engine leads its traffic: such names are one space a namespace, and go with
/// whoever has them open.
const LOCK: &str = "millrace-trunk";
/// A killed predecessor's device is gone this long after it.
const PREDECESSOR: Duration = Duration::from_secs(5);

/// `[trunk]` of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The kernel's end.
    pub name: String,
    /// The engine's addresses on it, at most one a family, each with room for one peer.
    pub addresses: Vec<IpNet>,
    /// The bit by which answers are known, in connections' and packets' marks.
    pub mark: u32,
    /// Whether isolated pods stay closed after a normal end, as they do after any other.
    pub closed_after_exit: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        let addresses = ["169.254.77.1/30", "fd4d:696c:6c72::1/126"];
        Settings {
            name: "millrace0".into(),
            addresses: addresses.iter().filter_map(|text| text.parse().ok()).collect(),
            mark: 0x1000,
            closed_after_exit: false,
        }
    }
}

impl Settings {
    /// The engine's addresses.
    pub fn own(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.addresses.iter().map(IpNet::addr)
    }
}

/// What the rules beside the trunk depend on.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// The engine's other interfaces.
    pub uplinks: Vec<String>,
    /// Source ports of flows that the kernel masquerades for the engine.
    pub overflow: Option<Ports>,
}

/// The trunk could not be made or led into.
#[derive(Debug, thiserror::Error)]
#[error("the trunk {name}: {source}")]
pub struct TrunkError {
    name: String,
    source: io::Error,
}

/// The trunk, and what leads into it.
pub struct Trunk {
    settings: Settings,
    surroundings: Surroundings,
    /// Ports that processes have.
    host_ports: Arc<HostPorts>,
    netlink: Netlink,
    inside: Namespace,
    index: u32,
    inside_index: u32,
    mtu: u32,
    queues: u32,
    is_led: bool,
    /// Held as long as anything of ours may be there: rules and tables have one name for all engines.
    _lock: UnixDatagram,
}

impl Trunk {
    /// Makes the trunk, and nothing that leads into it. What an engine that was killed has left is taken away before.
    pub fn make(
        settings: &Settings,
        surroundings: Surroundings,
        queues: u32,
        mtu: u32,
    ) -> Result<Trunk, TrunkError> {
        let name = settings.name.clone();
        let made = Trunk::try_make(settings, surroundings, queues, mtu);
        made.map_err(|source| TrunkError { name, source })
    }

    fn try_make(
        settings: &Settings,
        surroundings: Surroundings,
        queues: u32,
        mtu: u32,
    ) -> io::Result<Trunk> {
        let lock = lock(PREDECESSOR)?;
        let netlink = Netlink::open()?;
        let name = settings.name.as_str();
        wait_for_predecessor(name)?;
        // Nobody's now.
        let left = withdraw(&netlink)?;
        if left > 0 {
            warn!(left, "rules that an engine had left were taken away");
        }
        let inside = Namespace::new()?;
        let pair = Pair {
            name,
            mac: KERNEL_MAC,
            inside: &inside,
            inside_name: INSIDE,
            inside_mac: ENGINE_MAC,
            queues,
            mtu,
        };
        pair.make(&netlink)?;
        let inside_index = inside.run(|| {
            link::sysctl("ipv6", INSIDE, "disable_ipv6", "1")?;
            let index = link::index_of(INSIDE)?;
            link::set_up(&Netlink::open()?, index)?;
            Ok::<_, io::Error>(index)
        })??;
        let index = link::index_of(name)?;
        for (family, key, value) in [
            // Answers of services come in by it, from addresses that other devices lead to, and from this node's own.
            ("ipv4", "rp_filter", "2"),
            ("ipv4", "accept_local", "1"),
            ("ipv4", "forwarding", "1"),
            ("ipv4", "send_redirects", "0"),
            ("ipv6", "forwarding", "1"),
            ("ipv6", "accept_ra", "0"),
            ("ipv6", "addr_gen_mode", "1"),
            ("ipv6", "accept_dad", "0"),
        ] {
            link::sysctl(family, name, key, value)?;
        }
        link::set_up(&netlink, index)?;
        let trunk = Trunk {
            settings: settings.clone(),
            surroundings,
            host_ports: Arc::default(),
            netlink,
            inside,
            index,
            inside_index,
            mtu,
            queues,
            is_led: false,
            _lock: lock,
        };
        if trunk.ways().next().is_none() {
            return Err(io::Error::other(
                "[trunk] addresses has none of a family that this kernel has (IPv6 is off): give it one of IPv4",
            ));
        }
        for net in &settings.addresses {
            if let (IpNet::V4(_), Some(peer)) = (net, trunk::peer(net)) {
                // Reverse path filtering, where it is on, wants a device with an address.
                let own = IpNet::from(IpAddr::from(peer));
                link::add_address(&trunk.netlink, index, &own)?;
            }
        }
        if let Err(error) = sockets::read(&trunk.host_ports) {
            warn!(%error, "ports of this node's processes are not known: none of [snat] ports should be theirs");
        }
        for way in trunk.ways() {
            link::add_neighbor(&trunk.netlink, index, &way.gateway, &ENGINE_MAC)?;
        }
        Ok(trunk)
    }

    /// Leads answers of marked connections, and node ports as the engine comes to know them, into the trunk. Service
    /// addresses are [`follow`]'s.
    pub fn lead(&mut self) -> Result<(), TrunkError> {
        self.is_led = true;
        self.try_lead().map_err(|source| TrunkError { name: self.settings.name.clone(), source })
    }

    fn try_lead(&self) -> io::Result<()> {
        nft::run(&nft::table(&self.settings, &self.surroundings))?;
        // One of another release may have the same names for other things.
        let pods = pods::table(&self.settings);
        nft::run(&pods).or_else(|_| nft::run(&(pods::gone() + &pods)))?;
        let own = pods::own_tables(&self.settings);
        let made = nft::run(&own).or_else(|_| nft::run(&(pods::own_gone() + &own)));
        if let Err(error) = made {
            warn!(%error, "pods can't be kept from this node itself, as a ClusterNetworkPolicy may want it: that needs nft_dup_ipv4 and nft_dup_ipv6 of the kernel");
        }
        for way in self.ways() {
            lead_in(&self.netlink, &self.settings, &way)?;
        }
        if std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").is_ok_and(|on| on.trim() == "0")
        {
            warn!(
                "net.ipv4.ip_forward is 0: this node's kernel passes nothing between pods and the trunk"
            );
        }
        Ok(())
    }

    /// Ways into the trunk: one for each family that the kernel has.
    fn ways(&self) -> impl Iterator<Item = Way> + '_ {
        let index = self.index;
        // Not built in, or switched off (net.ipv6.conf.default.disable_ipv6).
        let switch = format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", self.settings.name);
        let has_v6 = std::fs::read_to_string(switch).is_ok_and(|off| off.trim() == "0");
        let usable = self.settings.own().filter(move |addr| addr.is_ipv4() || has_v6);
        usable.map(move |gateway| Way { index, gateway })
    }

    /// Isolated pods are as open as others: at a normal end, if nothing else was asked for.
    pub fn open_pods(&self) {
        if !self.settings.closed_after_exit
            && let Err(error) = nft::run(&(pods::gone() + &pods::own_gone()))
        {
            warn!(%error, "isolated pods stay closed: millrace-dataplane --cleanup opens them");
        }
    }

    /// Leads nothing into the trunk any more. Isolated pods are closed from now on.
    pub fn withdraw(&mut self) {
        if std::mem::take(&mut self.is_led)
            && let Err(error) = withdraw(&self.netlink)
        {
            warn!(%error, "not all rules could be taken away: millrace-dataplane --cleanup does so");
        }
    }

    /// The namespace of the engine's end.
    pub fn inside(&self) -> &Namespace {
        &self.inside
    }

    /// The engine's end as a device.
    pub fn netdev(&self) -> Netdev {
        Netdev {
            index: self.inside_index,
            mac: ENGINE_MAC,
            mtu: self.mtu,
            rx_queues: self.queues,
            tx_queues: self.queues,
            is_virtual: true,
        }
    }

    /// The kernel's end: index and MAC.
    pub fn kernel_end(&self) -> (u32, Mac) {
        (self.index, KERNEL_MAC)
    }

    /// Ports that processes of this node have, as the trunk's follower learns them.
    pub fn host_ports(&self) -> Arc<HostPorts> {
        Arc::clone(&self.host_ports)
    }

    /// Its settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The engine's addresses on it, of the families that the kernel has.
    pub fn addresses(&self) -> Vec<IpNet> {
        let ways: Vec<Way> = self.ways().collect();
        let led = |net: &&IpNet| ways.iter().any(|way| way.gateway == net.addr());
        self.settings.addresses.iter().filter(led).copied().collect()
    }

    /// The kernel's addresses on it.
    pub fn peers(&self) -> impl Iterator<Item = Addr> + '_ {
        self.settings.addresses.iter().filter_map(trunk::peer)
    }
}

impl Drop for Trunk {
    fn drop(&mut self) {
        // First nothing more is led here, then the device goes.
        self.withdraw();
        if let Err(error) = link::remove(&self.netlink, &self.settings.name) {
            warn!(%error, "the trunk stays until this process ends");
        }
    }
}

/// What leads a family's answers, and what is for the engine itself, into the trunk; what of it is there already stays.
fn lead_in(netlink: &Netlink, settings: &Settings, way: &Way) -> io::Result<()> {
    let v4 = way.gateway.is_ipv4();
    route::add(netlink, trunk::ANSWERS, &everything(v4), way, None)?;
    // The way back to the engine's own address.
    route::add(netlink, trunk::SERVICES, &IpNet::from(way.gateway), way, None)?;
    route::add_rules(netlink, v4, settings.mark, &settings.name)
}

/// The prefix of all addresses of a family.
fn everything(v4: bool) -> IpNet {
    if v4 { IpNet::V4(ipnet::Ipv4Net::default()) } else { IpNet::V6(ipnet::Ipv6Net::default()) }
}

/// Makes this engine the one of its network namespace. One that was killed lets go when its last thread has ended.
fn lock(patience: Duration) -> io::Result<UnixDatagram> {
    let name = SocketAddr::from_abstract_name(LOCK)?;
    let began = Instant::now();
    loop {
        match UnixDatagram::bind_addr(&name) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            other => return other.map_err(explain(format_args!("binding the socket @{LOCK}"))),
        }
        if began.elapsed() > patience {
            let who = holder().map_or_else(String::new, |pid| format!("process {pid}, "));
            return Err(io::Error::other(format!(
                "another engine runs in this network namespace ({who}which has the socket @{LOCK}); stop it first"
            )));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The process that has the socket [`LOCK`] of this network namespace, if it can be seen from here.
fn holder() -> Option<u32> {
    let all = std::fs::read_to_string("/proc/thread-self/net/unix").ok()?;
    let name = format!("@{LOCK}");
    let row = all.lines().find(|row| row.split_whitespace().nth(7) == Some(&name))?;
    let wanted = format!("socket:[{}]", row.split_whitespace().nth(6)?);
    let mut pids = std::fs::read_dir("/proc")
        .ok()?
        .filter_map(|it| it.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.find(|pid| {
        let open = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let mut links = open.filter_map(|it| std::fs::read_link(it.path()).ok());
        links.any(|link| link.as_os_str() == wanted.as_str())
    })
}

/// Takes away routes, rules and the nftables table, but not that of isolated pods. How many routes and rules there were.
fn withdraw(netlink: &Netlink) -> io::Result<usize> {
    let removed = route::remove_rules(netlink)? + route::remove_all(netlink)?;
    nft::run(&nft::gone())?;
    Ok(removed)
}

/// A killed engine's device goes a moment after it; that of a living one stays.
fn wait_for_predecessor(name: &str) -> io::Result<()> {
    let began = Instant::now();
    while link::index_of(name).is_ok() {
        if began.elapsed() > PREDECESSOR {
            return Err(io::Error::other(
                "there is such a device: does another engine run here? If not, `millrace-dataplane --cleanup` removes it",
            ));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Takes away all that an engine with these settings has left. Says what there was. Refused while an engine runs.
pub fn clean_up(settings: &Settings) -> Result<(), TrunkError> {
    let failed = |source| TrunkError { name: settings.name.clone(), source };
    // One that was killed a moment ago has its last thread end first.
    let _lock = lock(PREDECESSOR / 5).map_err(failed)?;
    let netlink = Netlink::open().map_err(failed)?;
    let table = nft::is_there() || nft::lists(pods::TABLE) || pods::has_own(settings);
    let rules = withdraw(&netlink).map_err(failed)?;
    nft::run(&(pods::gone() + &pods::own_gone())).map_err(failed)?;
    let device = match link::is_veth(&netlink, &settings.name) {
        Ok(true) => link::remove(&netlink, &settings.name),
        Ok(false) => Ok(false),
        Err(error) => Err(explain("looking for it")(error)),
    };
    let device = device.map_err(failed)?;
    info!(rules, table, device, "nothing of the engine is left");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_namespace_has_one_engine_at_a_time() {
        // Needs no privilege; nobody but an engine holds the name, and none runs where tests do.
        let first = lock(Duration::from_secs(5)).unwrap();
        let refused = lock(Duration::ZERO).unwrap_err().to_string();
        assert!(refused.contains("another engine runs"), "{refused}");
        assert!(refused.contains(&format!("process {}, ", std::process::id())), "{refused}");
        drop(first);
        drop(lock(Duration::from_secs(5)).unwrap());
    }
}
