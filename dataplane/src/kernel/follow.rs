//! A thread that keeps the kernel's routes to service addresses, and the sets of node ports and of isolated pods, as the tables want them.
//!
//! Housekeeping says what is wanted and goes on; system calls and `nft` cost it nothing. What others have taken away (the kernel removes routes whose
//! source address goes; `nft flush ruleset` and network managers take more) is put back within [`LOOK`].

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use millrace_tables::trunk;
use tracing::{debug, warn};

use super::netlink::Netlink;
use super::pods::{self, Pods};
use super::route::Way;
use super::{Settings, Surroundings, Trunk, everything, lead_in, nft, route, sockets};

use crate::snat::HostPorts;

/// How often the kernel's routes are compared with what they should be.
const LOOK: Duration = Duration::from_secs(2);
/// After a failure.
const AGAIN: Duration = Duration::from_secs(1);

/// What is to lead into the trunk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Service addresses, and ranges of them.
    pub services: BTreeSet<IpNet>,
    /// The address of each family that host processes speak to them from.
    pub sources: Vec<IpAddr>,
    /// Address of this node's own, protocol number and port.
    pub node_ports: BTreeSet<(IpAddr, u8, u16)>,
    /// Pods whose packets come here. `None`: not known yet, so that those of a predecessor stay.
    pub pods: Option<Pods>,
}

#[derive(Default)]
struct Desk {
    wanted: Wanted,
    news: bool,
    stop: bool,
}

/// The thread; it ends when this is dropped.
pub struct Follower {
    desk: Arc<(Mutex<Desk>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Follower {
    /// Starts it, with nothing wanted.
    pub fn start(trunk: &Trunk) -> io::Result<Follower> {
        let desk = Arc::new((Mutex::new(Desk::default()), Condvar::new()));
        let mut work = Work {
            netlink: Netlink::open()?,
            ways: trunk.ways().collect(),
            kept: trunk.settings.own().map(IpNet::from).collect(),
            node_ports: BTreeSet::new(),
            pods: None,
            has_own: pods::has_own(&trunk.settings),
            settings: trunk.settings.clone(),
            surroundings: trunk.surroundings.clone(),
            host_ports: trunk.host_ports(),
            looked: Instant::now(),
        };
        let thread = std::thread::Builder::new().name("kernel".into());
        let of_thread = Arc::clone(&desk);
        let thread = thread.spawn(move || work.run(&of_thread))?;
        Ok(Follower { desk, thread: Some(thread) })
    }

    /// Says what is wanted from now on.
    pub fn want(&self, wanted: Wanted) {
        let (desk, bell) = &*self.desk;
        let mut desk = desk.lock().unwrap_or_else(PoisonError::into_inner);
        if desk.wanted != wanted {
            desk.wanted = wanted;
            desk.news = true;
            bell.notify_one();
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let (desk, bell) = &*self.desk;
        desk.lock().unwrap_or_else(PoisonError::into_inner).stop = true;
        bell.notify_one();
        if let Some(thread) = self.thread.take() {
            // One that panicked has said so.
            let _ = thread.join();
        }
    }
}

struct Work {
    netlink: Netlink,
    ways: Vec<Way>,
    /// Routes of the same table that are not ours to remove: to the engine's own addresses.
    kept: BTreeSet<IpNet>,
    /// As they were given to nft.
    node_ports: BTreeSet<(IpAddr, u8, u16)>,
    /// As they were given to nft; at first what a killed predecessor has left.
    pods: Option<Pods>,
    /// Whether fenced pods can be kept from the node itself.
    has_own: bool,
    settings: Settings,
    surroundings: Surroundings,
    host_ports: Arc<HostPorts>,
    /// When rules and the nftables table were last seen to be there.
    looked: Instant,
}

impl Work {
    fn run(&mut self, (desk, bell): &(Mutex<Desk>, Condvar)) {
        let mut wait = LOOK;
        let mut failing = false;
        loop {
            let wanted = {
                let desk = desk.lock().unwrap_or_else(PoisonError::into_inner);
                let waited = bell.wait_timeout_while(desk, wait, |it| !it.news && !it.stop);
                let (mut desk, _) = waited.unwrap_or_else(PoisonError::into_inner);
                if desk.stop {
                    return;
                }
                desk.news = false;
                desk.wanted.clone()
            };
            wait = match self.apply(&wanted) {
                Ok(()) => {
                    failing = false;
                    LOOK
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        warn!(%error, "not all service traffic of this node comes to the engine; tried again every second");
                    }
                    AGAIN
                }
            };
        }
    }

    /// What does not depend on the tables: rules, the routes of answers and to the engine itself, the nftables table.
    fn repair(&mut self) -> io::Result<()> {
        let mut result = Ok(());
        let services = route::list(&self.netlink, trunk::SERVICES)?;
        let answers = route::list(&self.netlink, trunk::ANSWERS)?;
        for way in &self.ways {
            let v4 = way.gateway.is_ipv4();
            let is_whole = services.contains_key(&IpNet::from(way.gateway))
                && answers.contains_key(&everything(v4));
            result = result.and(if is_whole {
                route::add_rules(&self.netlink, v4, self.settings.mark, &self.settings.name)
            } else {
                lead_in(&self.netlink, &self.settings, way)
            });
        }
        if !nft::is_there() {
            // Its sets will be empty, and so to be filled.
            self.node_ports.clear();
            let made = nft::run(&nft::table(&self.settings, &self.surroundings));
            if made.is_ok() {
                warn!("somebody took the nftables table inet millrace away; it is there again");
            }
            result = result.and(made);
        }
        if !nft::lists(pods::TABLE) {
            self.pods = None;
            let made = nft::run(&pods::table(&self.settings));
            if made.is_ok() {
                warn!(
                    "somebody took the nftables table inet millrace-pods away; it is there again"
                );
            }
            result = result.and(made);
        }
        if self.has_own && !pods::has_own(&self.settings) {
            self.pods = None;
            result = result.and(nft::run(&pods::own_tables(&self.settings)));
        }
        result
    }

    /// Where the kernel has no tables about the node itself, that was said at the start.
    fn set(&self, pods: &Pods) -> io::Result<()> {
        let own = if self.has_own { pods::own_sets(&self.settings, pods) } else { String::new() };
        nft::run(&(pods::sets(pods) + &own))
    }

    fn apply(&mut self, wanted: &Wanted) -> io::Result<()> {
        let mut result = Ok(());
        if self.looked.elapsed() >= LOOK {
            // Where they can't be listed that was said at the start.
            let _ = sockets::read(&self.host_ports);
            result = self.repair();
            if result.is_ok() {
                self.looked = Instant::now();
            }
        }
        let there = route::list(&self.netlink, trunk::SERVICES)?;
        // Sources that the kernel has refused now: asked for once, not for each prefix.
        let mut refused = BTreeSet::new();
        for prefix in &wanted.services {
            let v4 = prefix.addr().is_ipv4();
            let Some(way) = self.ways.iter().find(|way| way.gateway.is_ipv4() == v4) else {
                continue;
            };
            let source = wanted.sources.iter().find(|addr| addr.is_ipv4() == v4).copied();
            let source = source.filter(|source| !refused.contains(source));
            if there.get(prefix) == Some(&source) {
                continue;
            }
            debug!(%prefix, ?source, "routed into the trunk");
            let added = route::add(&self.netlink, trunk::SERVICES, prefix, way, source);
            // An address that the kernel has no more is no source; without one it chooses itself.
            let added = match (added, source) {
                (Err(error), Some(source)) if error.kind() == io::ErrorKind::InvalidInput => {
                    refused.insert(source);
                    match there.get(prefix) {
                        Some(None) => Ok(()),
                        _ => route::add(&self.netlink, trunk::SERVICES, prefix, way, None),
                    }
                }
                (added, _) => added,
            };
            result = result.and(added);
        }
        for prefix in
            there.keys().filter(|it| !wanted.services.contains(it) && !self.kept.contains(it))
        {
            result = result.and(route::remove(&self.netlink, trunk::SERVICES, prefix));
        }
        if self.node_ports != wanted.node_ports {
            let set = nft::run(&nft::node_ports(wanted.node_ports.iter()));
            if set.is_ok() {
                self.node_ports.clone_from(&wanted.node_ports);
            }
            result = result.and(set);
        }
        if wanted.pods.is_some() && self.pods != wanted.pods {
            let set = wanted.pods.as_ref().map_or(Ok(()), |pods| self.set(pods));
            if set.is_ok() {
                self.pods.clone_from(&wanted.pods);
            }
            result = result.and(set);
        }
        result
    }
}
