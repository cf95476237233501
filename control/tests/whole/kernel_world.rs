//! Worlds beside a kernel: however its network changes, the tables send each packet where the kernel would.
//!
//! The model is the kernel's own way to look: table by table, longest prefix first, lowest metric first, what is down passed over. The
//! tables are one FIB of rows that were merged, changed by differences and published.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use ipnet::{IpNet, Ipv4Net};
use millrace_control::{
    Compiler, Store, apply,
    compile::kernel::{Attached, world},
    config::Config,
    kernel::{Action, Change, Hop, Kernel, Link, Route, Table},
};
use millrace_tables::{
    InterfaceId, InterfaceKind, InterfaceSpec, Readers, Route as Row, SegmentConfig, Snapshot,
    Writer,
};
use millrace_wire::{Addr, Mac};
use proptest::prelude::*;

const UPLINKS: [u32; 2] = [2, 3];
const TRUNK: u32 = 4;
const BRIDGE: u32 = 5;
const TUNNEL: u32 = 6;
const DEVICES: [u32; 6] = [2, 3, TRUNK, BRIDGE, TUNNEL, 7];

fn mac(index: u32) -> Mac {
    Mac([2, 0, 0, 0, 0, index as u8])
}

fn engine() -> Vec<Attached> {
    let attached = |id, index, kind, addresses: &[&str]| Attached {
        spec: InterfaceSpec {
            id: InterfaceId(id),
            kind,
            mac: mac(index),
            mtu: 1500,
            name: format!("dev{index}"),
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        },
        index,
    };
    vec![
        attached(0, UPLINKS[0], InterfaceKind::UPLINK, &[]),
        attached(1, UPLINKS[1], InterfaceKind::UPLINK, &[]),
        attached(2, TRUNK, InterfaceKind::HOST, &["169.254.77.1/30"]),
    ]
}

/// What happens to devices, routes and neighbors. Device 7 is never there.
#[derive(Clone, Debug)]
enum Step {
    Link { index: u32, up: bool, running: bool },
    Add(Route),
    Remove(usize),
    Clear,
    Neighbor(u32, u8, Option<u8>),
}

fn device() -> impl Strategy<Value = u32> {
    prop::sample::select(&DEVICES[..])
}

fn prefix() -> impl Strategy<Value = IpNet> {
    // Few bits vary, so that prefixes lie in each other and addresses hit them.
    let lengths = prop::sample::select(&[0u8, 8, 14, 15, 16, 22, 24, 31, 32][..]);
    (lengths, 0u32..4, 0u32..4, 0u32..4).prop_map(|(length, a, b, c)| {
        let bits = 10 << 24 | a << 16 | b << 8 | c;
        IpNet::V4(Ipv4Net::new(bits.into(), length).unwrap().trunc())
    })
}

fn route() -> impl Strategy<Value = Route> {
    let hop = (device(), prop::option::of(0u8..3), 1u16..4, prop::bool::weighted(0.1)).prop_map(
        |(link, gateway, weight, dead)| Hop {
            link,
            gateway: gateway.map(|last| IpAddr::from([192, 0, 2, last + 1])),
            weight,
            dead,
            encapsulated: false,
        },
    );
    let action = prop_oneof![
        6 => prop::collection::vec(hop, 1..3).prop_map(Action::Forward),
        1 => Just(Action::Blackhole),
        1 => Just(Action::Unreachable),
    ];
    let main = (prefix(), 0u32..3, action).prop_map(|(prefix, metric, action)| Route {
        table: Table::Main,
        prefix,
        metric,
        preference: 0,
        action,
    });
    let local = (prefix(), any::<bool>()).prop_map(|(prefix, broadcast)| {
        let host = IpNet::from(prefix.addr());
        // Wide local routes are there (AnyIP), wide broadcasts are not.
        let (prefix, action) = match broadcast {
            true => (host, Action::Broadcast),
            false if prefix.prefix_len() < 15 => (host, Action::Local),
            false => (prefix, Action::Local),
        };
        Route { table: Table::Local, prefix, metric: 0, preference: 0, action }
    });
    prop_oneof![5 => main, 1 => local]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (device(), any::<bool>(), any::<bool>())
            .prop_map(|(index, up, running)| Step::Link { index, up, running: up && running }),
        8 => route().prop_map(Step::Add),
        3 => (0usize..64).prop_map(Step::Remove),
        1 => Just(Step::Clear),
        3 => (device(), 0u8..4, prop::option::of(0u8..4))
            .prop_map(|(index, last, mac)| Step::Neighbor(index, last, mac)),
    ]
}

fn link(index: u32) -> Link {
    Link {
        name: format!("dev{index}"),
        mac: (index != TUNNEL).then_some(mac(index)),
        mtu: 1500,
        up: true,
        running: true,
        loopback: false,
        shared: index != TUNNEL,
        kind: if index == BRIDGE { "bridge".into() } else { String::new() },
    }
}

fn change(kernel: &Kernel, step: &Step) -> Option<Change> {
    let routes = |edit: &dyn Fn(&mut Vec<Route>)| {
        let mut routes = (*kernel.routes).clone();
        edit(&mut routes);
        Some(Change::Routes(Arc::new(routes)))
    };
    match step {
        Step::Link { index, up, running } => {
            let mut links = (*kernel.links).clone();
            let link = links.get_mut(index)?;
            (link.up, link.running) = (*up, *running);
            Some(Change::Links(Arc::new(links)))
        }
        // One of each kind at a place, as in the kernel without `append`.
        Step::Add(route) => routes(&|routes| {
            routes.retain(|it| {
                (it.table, it.prefix, it.metric) != (route.table, route.prefix, route.metric)
            });
            routes.push(route.clone());
        }),
        Step::Remove(at) => routes(&|routes| {
            if !routes.is_empty() {
                routes.remove(at % routes.len());
            }
        }),
        Step::Clear => routes(&|routes| routes.retain(|it| it.table == Table::Local)),
        Step::Neighbor(index, last, last_of_mac) => {
            let addr = Addr::from(IpAddr::from([192, 0, 2, *last]));
            Some(Change::Neighbor(
                (*index, addr),
                last_of_mac.map(|last| mac(u32::from(last) + 100)),
            ))
        }
    }
}

/// What becomes of a packet.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Local,
    Engine,
    Blackhole,
    Unreachable,
    NoRoute,
    /// Interface and gateway, each once, with the sum of its weights.
    Ways(BTreeMap<(u16, Option<String>), u16>),
}

/// As the kernel looks.
fn model(kernel: &Kernel, addr: IpAddr) -> Fate {
    if addr == IpAddr::from([169, 254, 77, 1]) {
        return Fate::Engine;
    }
    let of = |table| {
        let mut found: Vec<&Route> = kernel
            .routes
            .iter()
            .filter(|route| route.table == table && route.prefix.contains(&addr))
            .collect();
        found.sort_by_key(|route| (std::cmp::Reverse(route.prefix.prefix_len()), route.metric));
        found
    };
    // A local route goes before a broadcast address that is the same.
    let local = of(Table::Local);
    if let Some(first) = local.first() {
        let same = local.iter().filter(|route| route.prefix == first.prefix);
        let is_local = same.map(|route| &route.action).any(|action| *action == Action::Local);
        return if is_local { Fate::Local } else { Fate::Blackhole };
    }
    let mut dead_end: Option<IpNet> = None;
    for route in of(Table::Main) {
        if dead_end.is_some_and(|prefix| prefix != route.prefix) {
            break;
        }
        let hops = match &route.action {
            Action::Blackhole => return Fate::Blackhole,
            Action::Unreachable => return Fate::Unreachable,
            Action::Forward(hops) => hops,
            other => panic!("{other:?} in main"),
        };
        // The engine's own way is no way for the engine.
        if hops.iter().all(|hop| hop.link == TRUNK) {
            continue;
        }
        let mut ways: BTreeMap<(u16, Option<String>), u16> = BTreeMap::new();
        for hop in hops.iter().filter(|hop| !hop.dead && hop.link != TRUNK) {
            if !kernel.links.get(&hop.link).is_some_and(|link| link.running) {
                continue;
            }
            let way = match UPLINKS.iter().position(|uplink| *uplink == hop.link) {
                Some(at) => (at as u16, hop.gateway.map(|via| via.to_string())),
                None if hop.link == BRIDGE && hop.gateway.is_none() => (2, None),
                None => (2, Some("169.254.77.2".into())),
            };
            *ways.entry(way).or_default() += hop.weight;
        }
        if !ways.is_empty() {
            return Fate::Ways(ways);
        }
        dead_end = Some(route.prefix);
    }
    if dead_end.is_some() { Fate::Unreachable } else { Fate::NoRoute }
}

fn published(snapshot: Snapshot<'_>, addr: IpAddr) -> Fate {
    match snapshot.route(&Addr::from(addr)) {
        None => Fate::NoRoute,
        Some(Row::Local) => Fate::Local,
        Some(Row::Vip) => Fate::Engine,
        Some(Row::Blackhole) => Fate::Blackhole,
        Some(Row::Unreachable) => Fate::Unreachable,
        Some(Row::Forward(group)) => {
            let mut ways = BTreeMap::new();
            for (hop, weight) in snapshot.next_hops(group) {
                let way = (hop.interface.0, hop.gateway.map(|via| via.to_string()));
                *ways.entry(way).or_default() += weight;
            }
            Fate::Ways(ways)
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_tables_do_as_the_kernel_does(steps in prop::collection::vec(step(), 1..40)) {
        let config = SegmentConfig { bytes: 16 << 20, ..SegmentConfig::default() };
        let mut writer = Writer::create(&config).unwrap();
        writer.set_readers(Readers::Nobody);
        let (mut store, mut compiler) = (Store::new(), Compiler::new());
        let mut kernel = Kernel::default();
        let links = DEVICES.iter().filter(|index| **index != 7).map(|index| (*index, link(*index)));
        kernel.take(Change::Links(Arc::new(links.collect())));
        let mut probes: Vec<IpAddr> = vec![[203, 0, 113, 1].into(), [169, 254, 77, 1].into()];
        let few = 0u32..4;
        for bits in few.clone().flat_map(|a| few.clone().flat_map(move |b| (0u32..5).map(move |c| a << 16 | b << 8 | c))) {
            probes.push(IpAddr::from((10 << 24 | bits).to_be_bytes()));
        }
        for step in &steps {
            let Some(change) = change(&kernel, step) else { continue };
            kernel.take(change);
            let (world, problems) = world(&engine(), &kernel, &Config::default(), &store);
            prop_assert!(problems.is_empty());
            let refused = apply(&mut writer, compiler.update(&mut store, &Arc::new(world)));
            prop_assert!(refused.is_empty(), "{}", refused[0].error);
            writer.publish().unwrap();
            let tables = writer.tables();
            let snapshot = tables.snapshot();
            for addr in &probes {
                prop_assert_eq!(published(snapshot, *addr), model(&kernel, *addr), "{} after {:?}", addr, step);
            }
            let mut wanted: Vec<_> = kernel
                .neighbors
                .iter()
                .filter_map(|((link, addr), mac)| {
                    let at = UPLINKS.iter().position(|uplink| uplink == link)?;
                    Some((at as u16, addr.to_string(), *mac))
                })
                .collect();
            wanted.push((2, "169.254.77.2".into(), mac(TRUNK)));
            let mut there: Vec<_> = snapshot
                .static_neighbors()
                .map(|row| (row.interface.0, row.addr.to_string(), row.mac))
                .collect();
            wanted.sort();
            there.sort();
            prop_assert_eq!(there, wanted);
        }
    }
}
