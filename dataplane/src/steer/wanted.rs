//! What is to come to the engine beside a kernel that owns the interfaces, by the tables in force: at the uplinks and from this node.
//!
//! Pure. Service addresses that lie in a range whose other addresses are dropped (a ServiceCIDR) are led by the range, others each by
//! itself. A dropped range in which some addresses lead elsewhere is none of those: routers of BGP have such for all their cluster, and drop only
//! what no longer route takes. A service address that is the node's own too (an external IP) is ours only where a frontend is.
//!
//! Cost: a walk over all frontends and routes. Housekeeping does it when the tables have changed, and not more than a tenth of the time.

use std::collections::BTreeSet;

use ipnet::IpNet;
use millrace_tables::{Endpoint, FrontendKind, InterfaceId, NextHop, Route, Snapshot};
use millrace_wire::{Addr, Protocol};

use super::PortSet;
use crate::boot;
use crate::interface::Interfaces;
use crate::kernel::follow;
use crate::kernel::pods::{self, Pods};
use crate::snat::Ports;

/// What comes to the engine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// At the uplinks: destinations that are ours whatever the packet. Service addresses, and what lies behind the trunk.
    pub prefixes: BTreeSet<IpNet>,
    /// At the uplinks: all addresses of the node's, of which [`Self::ports`] are ours. Whoever claims to send from one is the kernel's.
    pub addresses: BTreeSet<IpNet>,
    /// The trunk's own networks: what claims to come from there is the kernel's too.
    pub networks: BTreeSet<IpNet>,
    /// Node ports, and those of masqueraded flows.
    pub ports: PortSet,
    /// From this node.
    pub trunk: follow::Wanted,
}

/// By these tables. `snat` is what masqueraded flows get.
pub fn wanted(tables: &Snapshot<'_>, interfaces: &Interfaces, snat: &Ports) -> Wanted {
    let mut wanted = Wanted::default();
    let Some(trunk) = interfaces.trunk() else { return wanted };
    let has_peer = |v4| trunk.peer(v4).is_some();
    let (mut dropped, mut elsewhere) = (Vec::new(), BTreeSet::new());
    let mut links = BTreeSet::new();
    for (prefix, route) in tables.routes() {
        if matches!(route, Route::Forward(_) | Route::Local | Route::Unreachable) {
            elsewhere.insert(prefix);
        }
        match route {
            Route::Blackhole if (1..prefix.max_prefix_len()).contains(&prefix.prefix_len()) => {
                dropped.push(prefix);
            }
            Route::Forward(group) if prefix.prefix_len() > 0 && !is_link_local(&prefix) => {
                let hops = tables.next_hops(group);
                if hops.iter().any(|(hop, _)| hop.interface == trunk.id) {
                    wanted.prefixes.insert(prefix);
                }
                let is_on_link = |hop: &NextHop| hop.interface == trunk.id && hop.gateway.is_none();
                if hops.iter().all(|(hop, _)| is_on_link(hop)) && has_peer(prefix.addr().is_ipv4())
                {
                    links.insert(prefix);
                }
            }
            Route::Local
                if prefix.prefix_len() == prefix.max_prefix_len()
                    && has_peer(prefix.addr().is_ipv4()) =>
            {
                wanted.addresses.insert(prefix);
            }
            _ => {}
        }
    }
    if let Some(own) = interfaces.get(trunk.id) {
        wanted.networks.extend(own.addresses.iter().map(IpNet::trunc));
    }
    let ranges = Ranges::new(dropped, &elsewhere);
    // Nothing is on the way back to the engine's own addresses.
    let own: BTreeSet<Addr> = interfaces.get(trunk.id).map_or_else(BTreeSet::new, |it| {
        it.addresses.iter().map(|net| Addr::from(net.addr())).collect()
    });
    wanted.prefixes.retain(|prefix| {
        has_peer(prefix.addr().is_ipv4()) && !own.iter().any(|addr| prefix.contains(&addr.to_ip()))
    });
    let mut last = None;
    for row in tables.frontends() {
        // Of a family that the trunk has not the kernel keeps all.
        if own.contains(&row.addr) || !has_peer(row.addr.is_v4()) {
            continue;
        }
        if row.frontend.kind == FrontendKind::NODE_PORT {
            let own = (row.addr.to_ip(), row.protocol, row.port);
            wanted.trunk.node_ports.insert(own);
        }
        if tables.route(&row.addr) == Some(Route::Local) {
            wanted.ports.insert(Protocol(row.protocol), row.port);
        } else if last.replace(row.addr) != Some(row.addr) {
            let host = IpNet::from(row.addr.to_ip());
            wanted.trunk.services.insert(ranges.of(&host).unwrap_or(host));
        }
    }
    wanted.prefixes.extend(wanted.trunk.services.iter().copied());
    let node = tables.node().spec();
    for (_, net) in node.sources.iter().filter(|(id, _)| *id != trunk.id) {
        if !has_peer(net.addr().is_ipv4()) {
            continue;
        }
        wanted.addresses.insert(IpNet::from(net.addr()));
    }
    wanted.trunk.pods = (tables.generation() > boot::GENERATION).then(|| {
        let rows = || tables.policy_endpoints().filter(|(net, _)| has_peer(net.addr().is_ipv4()));
        if !tables.has_policies() {
            return Pods::default();
        }
        Pods {
            led: pods::ranges(rows(), |endpoint| tables.is_led(endpoint)),
            closed: pods::ranges(rows(), Endpoint::is_isolated),
            fenced: pods::ranges(rows(), Endpoint::is_fenced),
            links,
        }
    });
    wanted.trunk.sources = sources(&node.sources, trunk.id);
    if !wanted.addresses.is_empty() {
        for port in (0..snat.count()).map(|n| snat.nth(n)) {
            for protocol in [Protocol::TCP, Protocol::UDP, Protocol::SCTP] {
                wanted.ports.insert(protocol, port);
            }
        }
    }
    wanted
}

/// The node's address of each family that its own processes speak to services from: the first that is not the trunk's.
fn sources(all: &[(InterfaceId, IpNet)], trunk: InterfaceId) -> Vec<std::net::IpAddr> {
    let of = |v4: bool| {
        let mut found =
            all.iter().filter(move |(id, net)| *id != trunk && net.addr().is_ipv4() == v4);
        found.next().map(|(_, net)| net.addr())
    };
    [true, false].into_iter().filter_map(of).collect()
}

/// Ranges of service addresses. Finding one's range costs a search for each length that there is.
struct Ranges {
    all: BTreeSet<IpNet>,
    /// Longest first.
    lengths: Vec<u8>,
}

impl Ranges {
    /// Those of the dropped prefixes in which nothing leads elsewhere: one search each.
    fn new(dropped: Vec<IpNet>, elsewhere: &BTreeSet<IpNet>) -> Ranges {
        // By address, then length: what lies within a prefix follows it at once, as all prefixes are cut to their length.
        let holds_other = |range: &IpNet| {
            elsewhere.range(*range..).next().is_some_and(|first| range.contains(first))
        };
        let all: BTreeSet<IpNet> = dropped.into_iter().filter(|it| !holds_other(it)).collect();
        let lengths: BTreeSet<u8> = all.iter().map(IpNet::prefix_len).collect();
        Ranges { all, lengths: lengths.into_iter().rev().collect() }
    }

    /// The longest that the host lies in.
    fn of(&self, host: &IpNet) -> Option<IpNet> {
        self.lengths.iter().find_map(|length| {
            let range = IpNet::new(host.addr(), *length).ok()?.trunc();
            self.all.contains(&range).then_some(range)
        })
    }
}

fn is_link_local(prefix: &IpNet) -> bool {
    matches!(prefix, IpNet::V6(net) if net.addr().is_unicast_link_local())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interface::Interface;
    use millrace_tables::{
        BackendSpec, EndpointSpec, FrontendSpec, InterfaceKind, NodeSpec, PolicyChanges, RouteSpec,
        SegmentConfig, ServiceSpec, SetChoice, SubjectId, Writer,
    };
    use millrace_wire::Mac;

    const UPLINK: InterfaceId = InterfaceId(0);
    const TRUNK: InterfaceId = InterfaceId(1);

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn interfaces(trunk: &[&str]) -> Interfaces {
        let one = |id: InterfaceId, kind, addresses: &[&str]| {
            let addresses = addresses.iter().map(|text| net(text)).collect();
            Interface::new(id, "x", Mac([2, 0, 0, 0, 0, 1]), 1500, kind, addresses, false)
        };
        let mut list = vec![one(UPLINK, InterfaceKind::UPLINK, &[])];
        if !trunk.is_empty() {
            list.push(one(TRUNK, InterfaceKind::HOST, trunk));
        }
        Interfaces::new(list).unwrap()
    }

    fn writer() -> Writer {
        let mut writer =
            Writer::create(&SegmentConfig { bytes: 16 << 20, ..SegmentConfig::default() }).unwrap();
        let by = |interface, gateway: Option<&str>| {
            let gateway = gateway.map(|text| text.parse().unwrap());
            RouteSpec::Forward(vec![(NextHop { interface, gateway }, 1)])
        };
        for (prefix, route) in [
            ("0.0.0.0/0", by(UPLINK, Some("192.0.2.254"))),
            ("::/0", by(TRUNK, Some("fd4d:696c:6c72::2"))),
            ("192.0.2.0/24", by(UPLINK, None)),
            ("192.0.2.255/32", RouteSpec::Blackhole),
            ("192.0.2.1/32", RouteSpec::Local),
            ("10.41.1.1/32", RouteSpec::Local),
            ("127.0.0.0/8", RouteSpec::Local),
            ("10.41.1.0/24", by(TRUNK, None)),
            ("10.41.2.0/24", by(UPLINK, Some("192.0.2.2"))),
            ("10.43.0.0/16", RouteSpec::Blackhole),
            // Mirrored from a node that announces its cluster by BGP: it holds pods, and a service address.
            ("198.51.0.0/16", RouteSpec::Blackhole),
            ("198.51.200.0/24", by(UPLINK, Some("192.0.2.2"))),
            ("2001:db8:41::/64", by(TRUNK, None)),
            ("169.254.77.0/30", by(TRUNK, None)),
            ("169.254.77.1/32", RouteSpec::Vip),
        ] {
            writer.set_route(net(prefix), &route).unwrap();
        }
        let frontend = |addr: &str, port, protocol, kind| FrontendSpec {
            addr: addr.parse().unwrap(),
            port,
            protocol,
            kind,
            set: SetChoice::Cluster,
            flags: 0,
        };
        let frontends = vec![
            frontend("10.43.0.10", 80, 6, FrontendKind::CLUSTER_IP),
            frontend("198.51.100.7", 80, 6, FrontendKind::LOAD_BALANCER),
            frontend("192.0.2.1", 30_080, 6, FrontendKind::NODE_PORT),
            frontend("192.0.2.1", 80, 132, FrontendKind::EXTERNAL_IP),
            frontend("169.254.77.1", 30_080, 6, FrontendKind::NODE_PORT),
        ];
        let backend = BackendSpec {
            addr: "10.41.2.2".parse().unwrap(),
            port: 8080,
            name: "pod".into(),
            weight: 1,
            local: false,
            terminating: false,
            in_cluster: true,
            in_local: false,
        };
        let spec = ServiceSpec { frontends, backends: vec![backend], ..ServiceSpec::default() };
        writer.set_service("web", &spec).unwrap();
        let frontends = vec![frontend("2001:db8:43::a", 80, 6, FrontendKind::CLUSTER_IP)];
        let spec = ServiceSpec { frontends, ..ServiceSpec::default() };
        writer.set_service("web over IPv6", &spec).unwrap();
        let sources = vec![(UPLINK, net("192.0.2.1/24")), (TRUNK, net("169.254.77.1/30"))];
        writer.set_node(&NodeSpec { sources, ..NodeSpec::default() }).unwrap();
        writer.publish().unwrap();
        writer
    }

    #[test]
    fn isolated_and_unknown_pods_are_led_here_and_closed_elsewhere() {
        let mut writer = writer();
        let isolated = |subject| EndpointSpec { ingress: subject, ..EndpointSpec::default() };
        let local = EndpointSpec { flags: Endpoint::LOCAL, ..EndpointSpec::default() };
        for (pod, spec) in [
            ("10.41.1.11/32", isolated(Some(SubjectId(0)))),
            ("10.41.1.12/32", local),
            ("2001:db8:41::11/128", isolated(Some(SubjectId(0)))),
            // A block that a rule names is nobody's.
            ("10.0.0.0/8", EndpointSpec::default()),
        ] {
            writer.set_policy_endpoint(net(pod), &spec).unwrap();
        }
        let led = |writer: &mut Writer, trunk: &[&str]| {
            writer.publish().unwrap();
            let tables = writer.tables();
            let wanted = wanted(&tables.snapshot(), &interfaces(trunk), &Ports::default()).trunk;
            let Pods { led, closed, fenced, links } = wanted.pods.unwrap();
            assert_eq!(fenced, BTreeSet::new());
            assert!(links.contains(&net("10.41.1.0/24")) && links.len() <= 3, "{links:?}");
            [led, closed].map(|ranges| {
                let texts = ranges.into_iter().map(|(from, to)| format!("{from}-{to}"));
                texts.collect::<Vec<String>>().join(" ")
            })
        };
        let (v4, both) = (["169.254.77.1/30"], ["169.254.77.1/30", "fd4d:696c:6c72::1/126"]);
        let one = "10.41.1.11-10.41.1.11";
        let two = format!("{one} 2001:db8:41::11-2001:db8:41::11");
        assert_eq!(led(&mut writer, &both), [two.clone(), two]);
        assert_eq!(led(&mut writer, &v4), [one, one]);
        // All of a range that has no pod is closed, and the rest of it is not.
        let closed = EndpointSpec { flags: Endpoint::CLOSED, ..EndpointSpec::default() };
        writer.set_policy_endpoint(net("10.41.1.8/29"), &closed).unwrap();
        let all = "10.41.1.8-10.41.1.10 10.41.1.11-10.41.1.11 10.41.1.13-10.41.1.15";
        assert_eq!(led(&mut writer, &v4), [all, all]);
        // Where flows are left alone, they have to be known.
        writer.set_policy_changes(PolicyChanges::Keep);
        let [led, closed] = led(&mut writer, &v4);
        assert!(led.contains("10.41.1.12-10.41.1.12"), "{led}");
        assert_eq!(closed, all);
    }

    #[test]
    fn before_the_first_tables_nothing_is_said_of_pods() {
        let interfaces = interfaces(&["169.254.77.1/30"]);
        let tables = boot::tables(&interfaces).unwrap();
        let wanted = wanted(&tables.snapshot(), &interfaces, &Ports::default());
        assert_eq!(wanted.trunk.pods, None);
    }

    #[test]
    fn service_addresses_pods_and_ports_come_to_the_engine_and_nothing_else() {
        let snat = Ports::new(&[61_000..=61_001], &[]).unwrap();
        let tables = writer().tables();
        let wanted = wanted(&tables.snapshot(), &interfaces(&["169.254.77.1/30"]), &snat);
        let set = |texts: &[&str]| texts.iter().map(|text| net(text)).collect::<BTreeSet<IpNet>>();
        assert_eq!(wanted.trunk.services, set(&["10.43.0.0/16", "198.51.100.7/32"]));
        assert_eq!(wanted.prefixes, set(&["10.41.1.0/24", "10.43.0.0/16", "198.51.100.7/32"]));
        assert_eq!(wanted.addresses, set(&["192.0.2.1/32", "10.41.1.1/32"]));
        assert_eq!(wanted.networks, set(&["169.254.77.0/30"]));
        let node: std::net::IpAddr = "192.0.2.1".parse().unwrap();
        assert_eq!(wanted.trunk.node_ports, BTreeSet::from([(node, 6, 30_080)]));
        assert_eq!(wanted.trunk.sources, [node]);
        let mut ports = PortSet::default();
        ports.insert(Protocol::TCP, 30_080);
        ports.insert(Protocol::SCTP, 80);
        for protocol in [Protocol::TCP, Protocol::UDP, Protocol::SCTP] {
            ports.insert(protocol, 61_000);
            ports.insert(protocol, 61_001);
        }
        assert_eq!(wanted.ports, ports);
    }

    #[test]
    fn a_trunk_without_a_family_gets_nothing_of_it() {
        let tables = writer().tables();
        let of = |trunk: &[&str]| {
            wanted(&tables.snapshot(), &interfaces(trunk), &Ports::default()).prefixes
        };
        let v6 = ["2001:db8:41::/64", "2001:db8:43::a/128"].map(net);
        let both = of(&["169.254.77.1/30", "fd4d:696c:6c72::1/126"]);
        assert!(v6.iter().all(|it| both.contains(it)), "{both:?}");
        assert!(of(&["169.254.77.1/30"]).iter().all(|it| it.addr().is_ipv4()));
        let of_v6 =
            wanted(&tables.snapshot(), &interfaces(&["fd4d:696c:6c72::1/126"]), &Ports::default());
        assert_eq!(of_v6.addresses, BTreeSet::new());
        assert_eq!(of(&["fd4d:696c:6c72::1/126"]), BTreeSet::from(v6));
    }

    #[test]
    fn a_dropped_prefix_is_a_service_range_only_if_nothing_in_it_leads_elsewhere() {
        let dropped = ["10.0.0.0/8", "10.43.0.0/16", "172.16.0.0/12", "fd43::/108", "fd00::/8"];
        let elsewhere = ["0.0.0.0/0", "10.42.1.0/24", "172.31.255.255/32", "fd44::/64"];
        let elsewhere = elsewhere.map(net).into_iter().collect();
        let ranges = Ranges::new(dropped.map(net).to_vec(), &elsewhere);
        let range_of = |host: &str| ranges.of(&net(host)).map(|range| range.to_string());
        assert_eq!(range_of("10.43.0.1/32").as_deref(), Some("10.43.0.0/16"));
        assert_eq!(range_of("10.1.0.1/32"), None);
        assert_eq!(range_of("172.16.0.1/32"), None);
        assert_eq!(range_of("fd43::1/128").as_deref(), Some("fd43::/108"));
        assert_eq!(range_of("fd01::1/128"), None);
    }

    #[test]
    fn a_router_asks_for_nothing() {
        let tables = writer().tables();
        let wanted = wanted(&tables.snapshot(), &interfaces(&[]), &Ports::default());
        assert_eq!(wanted, Wanted::default());
    }
}
