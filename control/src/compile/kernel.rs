//! The world beside a kernel (`service-proxy`): its links, addresses, routes and neighbors as rows for the engine.
//!
//! The kernel owns the addresses and does the routing; the engine forwards as the kernel would where a packet leaves by an interface of the
//! engine, and hands it to the trunk where not. Pure. What is not a destination of its own (link-local addresses, groups) makes no row:
//! that is the kernel's alone.
//!
//! | the kernel has | row |
//! |---|---|
//! | an address (table local) | local: to the kernel |
//! | a broadcast address | blackhole |
//! | a route over engine interfaces | forward by them, with the kernel's weights |
//! | a route over other devices, by a gateway or to the one station there is; one that the kernel has to encapsulate | forward to the trunk, by way of the kernel's end |
//! | a network on another device | forward to the trunk, on-link: answers may not come back this way |
//! | a route over the trunk | none: it is the engine's |
//! | blackhole, unreachable, prohibit, throw | blackhole, unreachable |
//! | a neighbor on an engine interface | neighbor |
//! | a rule for a source (`from PREFIX`) | what leaves from there goes by way of the kernel |
//!
//! Cost: a walk over all of it for each change that bears on packets.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use millrace_tables::{
    InterfaceId, InterfaceKind, InterfaceSpec, NextHop, RouteSpec, node::MAX_SOURCES,
    route::MAX_MEMBERS, spec::MAX_ADDRESSES, trunk,
};
use millrace_wire::Addr;

use super::configured;
use crate::{
    config::{At, Config, Problem},
    desired::Node,
    kernel::{Action, Hop, Kernel, Link, Route, Rule, Table},
    store::Store,
    world::World,
};

/// An interface of the engine, and the kernel's index of it; of the trunk, that of the kernel's end.
#[derive(Clone, Debug, PartialEq)]
pub struct Attached {
    /// As the engine says.
    pub spec: InterfaceSpec,
    /// 0 when the kernel has none.
    pub index: u32,
}

/// Builds the world of this kernel around these interfaces. Answers what is wrong with it, and with the entries of `config`.
pub fn world(
    attached: &[Attached],
    kernel: &Kernel,
    config: &Config,
    store: &Store,
) -> (World, Vec<Problem>) {
    let node = config.node.as_deref().and_then(|name| store.node(name));
    let (around, mut problems) = Around::new(attached, kernel);
    let by_source = sources_with_routes(kernel);
    let followed =
        |rule: &Rule| rule.from.is_some_and(|from| by_source.iter().any(|it| it.contains(&from)));
    let others = kernel.rules.iter().filter(|rule| leads_elsewhere(rule) && !followed(rule));
    problems.extend(others.take(MOST_NAMED).map(not_followed));
    let mut world = World::default();
    for it in attached {
        let mut spec = it.spec.clone();
        if spec.kind != InterfaceKind::HOST {
            spec.addresses = around.addresses(it.index);
        }
        world.interfaces.insert(spec.id, spec);
    }
    world.routes = around.routes();
    let addresses = kernel.neighbors.iter();
    world.neighbors = addresses
        .filter_map(|((link, addr), mac)| Some(((*around.interfaces.get(link)?, *addr), *mac)))
        .collect();
    world.neighbors.extend(around.trunk_neighbors());
    problems.extend(configured::entries(&mut world, config));
    configured::service_ranges(&mut world, config, store);
    // Our own addresses last: no configuration may route them away.
    let local = around.local();
    world.routes.extend(local.iter().map(|net| (*net, RouteSpec::Local)));
    world.routes.extend(around.trunk_own().map(|addr| (configured::host(addr), RouteSpec::Vip)));
    let main: Vec<Addr> = node.into_iter().flat_map(Node::primary).collect();
    configured::view(&mut world, config, node, &around.answering(), &around.elsewhere(&main));
    world.row.by_source = by_source;
    // Whoever connects the pods (a CNI's portmap plugin) answers for their host ports.
    world.node.host_port_addresses.clear();
    // What this node's own processes and pods send to its node ports the kernel sends there.
    world.node.node_port_addresses.extend(around.trunk_own());
    (world, problems)
}

/// Rules that are named as not followed; some nodes have one for each pod.
const MOST_NAMED: usize = 8;

/// Whether it comes before the rule for the table main, whose default route leaves nothing over, and is for something else.
fn leads_elsewhere(rule: &Rule) -> bool {
    const MAIN: (u32, u32) = (32_766, 254);
    rule.priority < MAIN.0 && rule.table != MAIN.1
}

/// Sources for which the kernel has rules of their own. What the engine sends from there goes by way of the kernel, which so follows all rules;
/// everything else goes by the table main.
fn sources_with_routes(kernel: &Kernel) -> Vec<IpNet> {
    let with_routes = kernel.rules.iter().filter(|rule| leads_elsewhere(rule));
    let sources: Vec<IpNet> = with_routes.filter_map(|rule| rule.from).collect();
    let mut sources = IpNet::aggregate(&sources);
    sources.truncate(MAX_SOURCES);
    sources
}

/// Rules that ask for something else than the source are named.
fn not_followed(rule: &Rule) -> Problem {
    let family = if rule.v4 { "" } else { "-6 " };
    let from = rule.from.map_or("all".to_owned(), |from| from.to_string());
    let more = if rule.conditional { " …" } else { "" };
    let what = if rule.table == 0 { String::new() } else { format!(" lookup {}", rule.table) };
    let at = At::new(format!("ip {family}rule {}: from {from}{more}{what}", rule.priority));
    Problem::misfit(
        at,
        "",
        "is not followed: packets that leave by an interface of the engine take the routes of table main",
    )
}

/// The kernel as seen from the engine's interfaces.
struct Around<'a> {
    kernel: &'a Kernel,
    /// Engine interfaces by the kernel's index, without the trunk.
    interfaces: BTreeMap<u32, InterfaceId>,
    trunk: Option<&'a Attached>,
}

impl<'a> Around<'a> {
    fn new(attached: &'a [Attached], kernel: &'a Kernel) -> (Around<'a>, Vec<Problem>) {
        let mut around = Around { kernel, interfaces: BTreeMap::new(), trunk: None };
        let mut problems = Vec::new();
        for it in attached {
            let is_trunk = it.spec.kind == InterfaceKind::HOST;
            let known = kernel.links.get(&it.index).filter(|link| {
                // The trunk's other end has a name and a MAC of its own.
                is_trunk || (link.name == it.spec.name && link.mac == Some(it.spec.mac))
            });
            if known.is_none() {
                let at = At::new(format!("interface {}", it.spec.name));
                let why = "the kernel has no such device, or another MAC on it: does control run in the engine's network namespace?";
                problems.push(Problem::misfit(at, "", why.to_owned()));
            } else if is_trunk {
                around.trunk = Some(it);
            } else {
                around.interfaces.insert(it.index, it.spec.id);
            }
        }
        (around, problems)
    }

    fn link(&self, index: u32) -> Option<&'a Link> {
        self.kernel.links.get(&index)
    }

    /// Addresses of a device, those first that are chosen first.
    fn addresses(&self, index: u32) -> Vec<IpNet> {
        let of = |lesser: bool| {
            let all = self.kernel.addresses.iter();
            all.filter(move |it| it.link == index && it.usable && it.lesser == lesser)
        };
        of(false).chain(of(true)).map(|it| it.net).take(MAX_ADDRESSES).collect()
    }

    /// The engine's own addresses on the trunk.
    fn trunk_own(&self) -> impl Iterator<Item = Addr> + use<'a> {
        let nets = self.trunk.into_iter().flat_map(|trunk| &trunk.spec.addresses);
        nets.map(|net| Addr::from(net.addr()))
    }

    /// The kernel's address at its end of the trunk.
    fn trunk_peer(&self, v4: bool) -> Option<Addr> {
        let mut nets = self.trunk?.spec.addresses.iter();
        nets.find(|net| net.addr().is_ipv4() == v4).and_then(trunk::peer)
    }

    fn trunk_neighbors(&self) -> Vec<((InterfaceId, Addr), millrace_wire::Mac)> {
        let Some(trunk) = self.trunk else { return Vec::new() };
        let Some(mac) = self.link(trunk.index).and_then(|link| link.mac) else { return Vec::new() };
        let peers = [true, false].into_iter().filter_map(|v4| self.trunk_peer(v4));
        peers.map(|peer| ((trunk.spec.id, peer), mac)).collect()
    }

    /// What the kernel takes for its own.
    fn local(&self) -> BTreeSet<IpNet> {
        let own = self.table(Table::Local).filter(|route| route.action == Action::Local);
        own.map(|route| route.prefix).collect()
    }

    /// Addresses that node ports may answer on.
    fn answering(&self) -> Vec<Addr> {
        let trunk = self.trunk.map(|trunk| trunk.index);
        let usable = self.kernel.addresses.iter().filter(|it| {
            let up = self.link(it.link).is_some_and(|link| link.up);
            it.usable && up && Some(it.link) != trunk
        });
        usable.map(|it| Addr::from(it.net.addr())).filter(|addr| !addr.is_loopback()).collect()
    }

    /// The node's `main` addresses that are on none of the engine's interfaces, and those of the loopback device: uplinks without a number
    /// of their own speak with them.
    fn elsewhere(&self, main: &[Addr]) -> Vec<IpNet> {
        let mut found: Vec<IpNet> = Vec::new();
        for is_main in [true, false] {
            let nets = self.kernel.addresses.iter().filter(|it| {
                let addr = Addr::from(it.net.addr());
                let loopback = self.link(it.link).is_some_and(|link| link.loopback);
                let chosen = if is_main { main.contains(&addr) } else { loopback };
                chosen && it.usable && !addr.is_loopback() && !addr.is_link_local()
            });
            let ours = nets.filter(|it| !self.interfaces.contains_key(&it.link));
            found.extend(ours.map(|it| it.net));
        }
        found.dedup();
        found
    }

    fn table(&self, table: Table) -> impl Iterator<Item = &'a Route> + use<'a> {
        let routes = self.kernel.routes.iter();
        routes.filter(move |route| route.table == table && is_ours(&route.prefix))
    }

    fn routes(&self) -> BTreeMap<IpNet, RouteSpec> {
        // The table local is asked first, whatever stands in the other.
        let wide: Vec<IpNet> = self
            .local()
            .into_iter()
            .filter(|net| net.prefix_len() < net.max_prefix_len())
            .collect();
        let mut ways: Vec<&Route> = self
            .table(Table::Main)
            .filter(|route| !wide.iter().any(|net| net.contains(&route.prefix)))
            .collect();
        // Stable: among equals the kernel's order, which is nearly this one, so that sorting costs little and a map of the sorted less.
        ways.sort_by_key(|route| (route.prefix, route.metric, -route.preference));
        let mut rows = Vec::with_capacity(ways.len());
        for routes in ways.chunk_by(|a, b| a.prefix == b.prefix) {
            let mut spec = None;
            for route in routes {
                match self.spec(route) {
                    Way::Ours(row) => {
                        spec = Some(row);
                        break;
                    }
                    // The next of the same prefix takes over. Without one nothing leads there: what is less specific goes elsewhere.
                    Way::Down => spec = Some(RouteSpec::Unreachable),
                    Way::Engine => {}
                }
            }
            rows.extend(routes.first().map(|route| route.prefix).zip(spec));
        }
        let broadcast = self.table(Table::Local).filter(|route| route.action == Action::Broadcast);
        // The last of a prefix stands.
        rows.extend(broadcast.map(|route| (route.prefix, RouteSpec::Blackhole)));
        rows.into_iter().collect()
    }

    fn spec(&self, route: &Route) -> Way {
        let hops = match &route.action {
            Action::Forward(hops) => hops,
            Action::Blackhole => return Way::Ours(RouteSpec::Blackhole),
            Action::Unreachable => return Way::Ours(RouteSpec::Unreachable),
            Action::Local => return Way::Ours(RouteSpec::Local),
            Action::Broadcast => return Way::Ours(RouteSpec::Blackhole),
        };
        let trunk = self.trunk.map(|trunk| trunk.index);
        if hops.iter().all(|hop| Some(hop.link) == trunk) {
            return Way::Engine;
        }
        let mut ways: Vec<(NextHop, u16)> = Vec::new();
        let alive = hops.iter().filter(|hop| {
            !hop.dead
                && Some(hop.link) != trunk
                && self.link(hop.link).is_some_and(|link| link.running)
        });
        for hop in alive {
            let Some(next) = self.next_hop(hop, &route.prefix) else { continue };
            match ways.iter_mut().find(|(known, _)| *known == next) {
                Some((_, weight)) => *weight = weight.saturating_add(hop.weight),
                None => ways.push((next, hop.weight)),
            }
        }
        ways.truncate(MAX_MEMBERS);
        if ways.is_empty() { Way::Down } else { Way::Ours(RouteSpec::Forward(ways)) }
    }

    /// By an interface of the engine, or by the trunk; nowhere where there is no trunk.
    fn next_hop(&self, hop: &Hop, prefix: &IpNet) -> Option<NextHop> {
        let v4 = prefix.addr().is_ipv4();
        match self.interfaces.get(&hop.link) {
            Some(id) if !hop.encapsulated && hop.gateway.is_none_or(|via| via.is_ipv4() == v4) => {
                Some(NextHop { interface: *id, gateway: hop.gateway.map(Addr::from) })
            }
            _ => {
                let interface = self.trunk?.spec.id;
                let on_link = self.is_on_link(hop, prefix);
                let gateway = if on_link { None } else { self.trunk_peer(v4) };
                Some(NextHop { interface, gateway })
            }
        }
    }

    /// Whether stations there can reach each other without this node, so that an answer to a neighbor of theirs would not pass
    /// it. A host route to a veth is a pod at its end, alone.
    fn is_on_link(&self, hop: &Hop, prefix: &IpNet) -> bool {
        let link = self.link(hop.link);
        let alone = prefix.prefix_len() == prefix.max_prefix_len()
            && link.is_some_and(|link| link.kind == "veth");
        hop.gateway.is_none()
            && !hop.encapsulated
            && !alone
            && link.is_some_and(|link| link.shared && link.mac.is_some())
    }
}

enum Way {
    /// A row.
    Ours(RouteSpec),
    /// None of its devices works.
    Down,
    /// It leads to the engine.
    Engine,
}

/// Whether packets to these destinations are anything to the engine: not those that never leave a link or the node.
fn is_ours(prefix: &IpNet) -> bool {
    let addr = Addr::from(prefix.addr());
    let link_local = addr.is_link_local() && !addr.is_v4();
    let mapped = matches!(prefix, IpNet::V6(net) if net.addr().to_ipv4_mapped().is_some());
    let unspecified = addr.is_unspecified() && prefix.prefix_len() == prefix.max_prefix_len();
    !(link_local || mapped || addr.is_multicast() || addr.is_loopback() || unspecified)
}

#[cfg(test)]
mod tests;
