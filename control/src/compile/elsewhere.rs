//! Load balancer and external addresses beside a kernel: ports of theirs that no Service here has may be served elsewhere.
//!
//! kube-proxy rejects what comes to a wrong port of a cluster IP, and leaves what comes to one of these addresses to the routes that
//! there are (`cluster-ips-check`, `pkg/proxy/nftables/proxier.go`): the load balancer itself may have it, another cluster, or whoever
//! an external IP belongs to. So such an address gets a host route of its own, the one that it would have if no Service named it. In a router,
//! which has no kernel beside it, the address is ours.
//!
//! Cost: a change of a Service costs its frontends, a change of routes all such addresses, each one lookup by length.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use millrace_tables::{FrontendKind, InterfaceKind, RouteSpec, ServiceSpec};
use millrace_wire::Addr;

use super::Change;
use crate::world::World;

/// The addresses and their routes.
#[derive(Debug, Default)]
pub(super) struct Elsewhere {
    /// Frontends on each address: cluster IPs, and load balancer and external addresses.
    counts: BTreeMap<Addr, Counts>,
    changed: BTreeSet<Addr>,
    /// As they were set.
    routes: BTreeMap<IpNet, RouteSpec>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    cluster: u32,
    others: u32,
}

impl Elsewhere {
    /// A Service's frontends were these, and are those.
    pub(super) fn note(&mut self, old: Option<&ServiceSpec>, new: Option<&ServiceSpec>) {
        for (spec, step) in [(old, -1), (new, 1)] {
            for frontend in spec.into_iter().flat_map(|spec| &spec.frontends) {
                let is_cluster_ip = match frontend.kind {
                    FrontendKind::CLUSTER_IP => true,
                    FrontendKind::LOAD_BALANCER | FrontendKind::EXTERNAL_IP => false,
                    _ => continue,
                };
                let counts = self.counts.entry(frontend.addr).or_default();
                let count = if is_cluster_ip { &mut counts.cluster } else { &mut counts.others };
                *count = count.saturating_add_signed(step);
                self.changed.insert(frontend.addr);
            }
        }
        for frontend in old.into_iter().flat_map(|spec| &spec.frontends) {
            if self.counts.get(&frontend.addr) == Some(&Counts::default()) {
                self.counts.remove(&frontend.addr);
            }
        }
    }

    /// The routes to set or remove. To be staged after those of `world`; `anew` when these, or its interfaces, have changed.
    pub(super) fn update(&mut self, world: &World, anew: bool) -> Vec<Change> {
        let changed = std::mem::take(&mut self.changed);
        let beside_kernel =
            world.interfaces.values().any(|interface| interface.kind == InterfaceKind::HOST);
        let looked_at: BTreeSet<Addr> = match anew {
            true => {
                let had = self.routes.keys().map(|prefix| Addr::from(prefix.addr()));
                self.counts.keys().copied().chain(had).chain(changed).collect()
            }
            false => changed,
        };
        let mut changes = Vec::new();
        for addr in looked_at {
            let prefix = IpNet::from(IpAddr::from(addr));
            if world.routes.contains_key(&prefix) {
                // An address of the node itself, or of a pod: that route is in force.
                self.routes.remove(&prefix);
                continue;
            }
            let counts = self.counts.get(&addr).copied().unwrap_or_default();
            let is_one = beside_kernel && counts.others > 0 && counts.cluster == 0;
            let wanted = if is_one { covering(world, &prefix).cloned() } else { None };
            if self.routes.get(&prefix) == wanted.as_ref() {
                continue;
            }
            match &wanted {
                Some(route) => _ = self.routes.insert(prefix, route.clone()),
                None => _ = self.routes.remove(&prefix),
            }
            changes.push(Change::Route(prefix, wanted));
        }
        changes
    }

    /// All of them.
    pub(super) fn all(&self) -> impl Iterator<Item = Change> + '_ {
        self.routes.iter().map(|(prefix, route)| Change::Route(*prefix, Some(route.clone())))
    }
}

/// The longest other prefix that the address is in.
fn covering<'a>(world: &'a World, host: &IpNet) -> Option<&'a RouteSpec> {
    (0..host.prefix_len())
        .rev()
        .filter_map(|length| IpNet::new(host.addr(), length).ok())
        .find_map(|net| world.routes.get(&net.trunc()))
}
