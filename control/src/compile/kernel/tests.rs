//! Worlds as `ip` would print them, and the rows that come of them.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use millrace_wire::Mac;

use super::*;
use crate::kernel::Address;

const UPLINK: u32 = 2;
const SECOND: u32 = 3;
const BRIDGE: u32 = 4;
const TRUNK: u32 = 5;
const VETH: u32 = 6;
const VXLAN: u32 = 7;
const TUNNEL: u32 = 8;

fn mac(last: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, last])
}

fn link(name: &str, kind: &str, last: u8) -> Link {
    Link {
        name: name.into(),
        mac: (last != 0).then_some(mac(last)),
        mtu: 1500,
        up: true,
        running: true,
        loopback: name == "lo",
        shared: last != 0,
        kind: kind.into(),
    }
}

fn attached(id: u16, name: &str, kind: InterfaceKind, index: u32, addresses: &[&str]) -> Attached {
    let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
    let mac = if kind == InterfaceKind::HOST { mac(99) } else { mac(index as u8) };
    let spec =
        InterfaceSpec { id: InterfaceId(id), kind, mac, mtu: 1500, name: name.into(), addresses };
    Attached { spec, index }
}

fn engine() -> Vec<Attached> {
    vec![
        attached(0, "eth0", InterfaceKind::UPLINK, UPLINK, &[]),
        attached(1, "eth1", InterfaceKind::UPLINK, SECOND, &[]),
        attached(2, "millrace0", InterfaceKind::HOST, TRUNK, &["169.254.77.1/30", "fd4d::1/126"]),
    ]
}

fn index(name: &str) -> u32 {
    ["lo", "eth0", "eth1", "cni0", "millrace0", "cali1", "flannel.1", "tunl0"]
        .iter()
        .position(|it| *it == name)
        .map_or(0, |at| at as u32 + 1)
}

/// A kernel with devices; what it says is a line each, as `ip` would say it.
fn kernel(lines: &str) -> Kernel {
    let links = [
        (1, link("lo", "", 0)),
        (UPLINK, link("eth0", "", 2)),
        (SECOND, link("eth1", "", 3)),
        (BRIDGE, link("cni0", "bridge", 4)),
        (TRUNK, link("millrace0", "veth", 5)),
        (VETH, link("cali1", "veth", 6)),
        (VXLAN, link("flannel.1", "vxlan", 7)),
        (TUNNEL, link("tunl0", "ipip", 0)),
    ];
    let mut links = BTreeMap::from(links);
    let (mut addresses, mut routes) = (Vec::new(), Vec::new());
    let mut neighbors = BTreeMap::new();
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let after = |key: &str| {
            let at = words.iter().position(|word| *word == key)?;
            words.get(at + 1).copied()
        };
        let dev = index(after("dev").unwrap_or_default());
        match words[0] {
            "down" => {
                let link = links.get_mut(&index(words[1])).unwrap();
                (link.up, link.running) = (words.get(2) == Some(&"carrier"), false);
            }
            "addr" => {
                let net: IpNet = words[1].parse().unwrap();
                addresses.push(Address {
                    link: dev,
                    net,
                    usable: !words.contains(&"tentative"),
                    lesser: words.contains(&"secondary"),
                });
                routes.push(Route {
                    table: Table::Local,
                    prefix: configured::host(Addr::from(net.addr())),
                    metric: 0,
                    preference: 0,
                    action: Action::Local,
                });
            }
            "neigh" => {
                let addr: IpAddr = words[1].parse().unwrap();
                neighbors
                    .insert((dev, Addr::from(addr)), after("lladdr").unwrap().parse().unwrap());
            }
            kind => {
                let prefix = if kind == "default" { "0.0.0.0/0" } else { words[0] };
                let (prefix, kind) = match prefix.parse::<IpNet>() {
                    Ok(prefix) => (prefix, "unicast"),
                    Err(_) => (words[1].parse().unwrap(), kind),
                };
                let hop = |words: &[&str]| {
                    let after = |key: &str| {
                        let at = words.iter().position(|word| *word == key)?;
                        words.get(at + 1).copied()
                    };
                    Hop {
                        link: index(after("dev").unwrap_or_default()),
                        gateway: after("via").map(|via| via.parse().unwrap()),
                        weight: after("weight").map_or(1, |weight| weight.parse().unwrap()),
                        dead: words.contains(&"dead"),
                        encapsulated: words.contains(&"encap"),
                    }
                };
                let parts: Vec<&[&str]> = words.split(|word| *word == "nexthop").collect();
                let hops = match parts.as_slice() {
                    [only] => vec![hop(only)],
                    [_, several @ ..] => several.iter().map(|part| hop(part)).collect(),
                    [] => unreachable!(),
                };
                let action = match kind {
                    "unicast" => Action::Forward(hops),
                    "local" => Action::Local,
                    "broadcast" => Action::Broadcast,
                    "blackhole" => Action::Blackhole,
                    "unreachable" => Action::Unreachable,
                    other => panic!("{other}"),
                };
                let table = match kind {
                    "local" | "broadcast" => Table::Local,
                    _ => Table::Main,
                };
                let metric = after("metric").map_or(0, |metric| metric.parse().unwrap());
                let preference = after("pref").map_or(0, |pref| pref.parse().unwrap());
                routes.push(Route { table, prefix, metric, preference, action });
            }
        }
    }
    Kernel {
        links: Arc::new(links),
        addresses: Arc::new(addresses),
        routes: Arc::new(routes),
        rules: Arc::default(),
        neighbors,
    }
}

fn build(lines: &str) -> World {
    let (world, problems) = world(&engine(), &kernel(lines), &Config::default(), &Store::new());
    assert!(problems.is_empty(), "{}", problems[0]);
    world
}

/// The row as `interface via gateway weight`, or its kind.
fn row(world: &World, prefix: &str) -> String {
    let Some(spec) = world.routes.get(&prefix.parse().unwrap()) else { return "none".into() };
    match spec {
        RouteSpec::Forward(hops) => {
            let hops = hops.iter().map(|(hop, weight)| {
                let via = hop.gateway.map_or(String::new(), |via| format!(" via {via}"));
                format!("{}{via} weight {weight}", world.interfaces[&hop.interface].name)
            });
            hops.collect::<Vec<_>>().join(", ")
        }
        other => format!("{other:?}").to_lowercase(),
    }
}

const TO_KERNEL: &str = "millrace0 via 169.254.77.2 weight 1";

#[test]
fn routes_over_engine_interfaces_are_taken_as_they_are() {
    let world = build(
        "addr 192.0.2.2/24 dev eth0
         192.0.2.0/24 dev eth0
         default via 192.0.2.1 dev eth0
         10.8.0.0/16 nexthop via 192.0.2.9 dev eth0 weight 2 nexthop via 198.51.100.9 dev eth1 weight 200
         2001:db8::/64 dev eth0
         ::/0 via fe80::1 dev eth0",
    );
    assert_eq!(row(&world, "192.0.2.0/24"), "eth0 weight 1");
    assert_eq!(row(&world, "0.0.0.0/0"), "eth0 via 192.0.2.1 weight 1");
    assert_eq!(
        row(&world, "10.8.0.0/16"),
        "eth0 via 192.0.2.9 weight 2, eth1 via 198.51.100.9 weight 200"
    );
    assert_eq!(row(&world, "2001:db8::/64"), "eth0 weight 1");
    assert_eq!(row(&world, "::/0"), "eth0 via fe80::1 weight 1");
    assert_eq!(row(&world, "192.0.2.2/32"), "local");
}

#[test]
fn what_other_devices_reach_goes_to_the_trunk() {
    let world = build(
        "10.1.0.0/24 dev cni0
         10.2.0.5/32 dev cali1
         10.2.0.6/32 dev cni0
         10.3.0.0/24 via 10.3.0.0 dev flannel.1
         10.4.0.0/24 via 192.0.2.7 dev tunl0
         10.5.0.0/24 dev tunl0
         10.6.0.0/24 via 10.1.0.9 dev cni0
         10.7.0.0/24 via 192.0.2.9 dev eth0 encap mpls
         10.8.0.0/24 via fe80::9 dev eth0
         ::ffff:0.0.0.0/96 dev eth0
         fd00:1::/64 dev cni0
         fd00:2::/64 via fd00:1::9 dev cni0",
    );
    // Stations of one network can answer each other past this node.
    for on_link in ["10.1.0.0/24", "10.2.0.6/32", "fd00:1::/64"] {
        assert_eq!(row(&world, on_link), "millrace0 weight 1", "{on_link}");
    }
    for routed in [
        "10.2.0.5/32",
        "10.3.0.0/24",
        "10.4.0.0/24",
        "10.5.0.0/24",
        "10.6.0.0/24",
        "10.7.0.0/24",
        "10.8.0.0/24",
    ] {
        assert_eq!(row(&world, routed), TO_KERNEL, "{routed}");
    }
    assert_eq!(row(&world, "::ffff:0.0.0.0/96"), "none");
    assert_eq!(row(&world, "fd00:2::/64"), "millrace0 via fd4d::2 weight 1");
}

#[test]
fn the_lowest_metric_wins_and_what_is_down_does_not_count() {
    let routes = "default via 192.0.2.1 dev eth0 metric 100
         default via 198.51.100.1 dev eth1 metric 200
         10.8.0.0/16 nexthop via 192.0.2.9 dev eth0 weight 2 nexthop via 198.51.100.9 dev eth1
         10.9.0.0/16 via 192.0.2.9 dev eth0
         ::/0 via fe80::1 dev eth0 metric 100
         ::/0 via fe80::2 dev eth1 metric 100 pref 1";
    let world = build(routes);
    assert_eq!(row(&world, "0.0.0.0/0"), "eth0 via 192.0.2.1 weight 1");
    assert_eq!(row(&world, "::/0"), "eth1 via fe80::2 weight 1");
    for down in ["down eth0", "down eth0 carrier"] {
        let world = build(&format!("{routes}\n{down}"));
        assert_eq!(row(&world, "0.0.0.0/0"), "eth1 via 198.51.100.1 weight 1");
        assert_eq!(row(&world, "10.8.0.0/16"), "eth1 via 198.51.100.9 weight 1");
        // Not by the default route: the kernel would not send it there either.
        assert_eq!(row(&world, "10.9.0.0/16"), "unreachable");
    }
    let world = build("10.9.0.0/16 via 192.0.2.9 dev eth0 dead\n10.9.0.0/16 dev eth1 metric 5");
    assert_eq!(row(&world, "10.9.0.0/16"), "eth1 weight 1");
}

#[test]
fn other_types_of_routes_are_kept() {
    let world = build(
        "blackhole 10.1.0.0/16
         unreachable 10.2.0.0/16
         unreachable 10.3.0.0/16 metric 9
         10.3.0.0/16 via 192.0.2.1 dev eth0 metric 8
         local 10.4.0.0/16
         10.4.1.0/24 via 192.0.2.1 dev eth0
         broadcast 192.0.2.255/32
         local 127.0.0.0/8
         local ::1/128
         fe80::/64 dev eth0
         ff00::/8 dev eth0
         224.0.0.0/4 dev eth0",
    );
    assert_eq!(row(&world, "10.1.0.0/16"), "blackhole");
    assert_eq!(row(&world, "10.2.0.0/16"), "unreachable");
    assert_eq!(row(&world, "10.3.0.0/16"), "eth0 via 192.0.2.1 weight 1");
    assert_eq!(
        (row(&world, "10.4.0.0/16"), row(&world, "10.4.1.0/24")),
        ("local".into(), "none".into())
    );
    assert_eq!(row(&world, "192.0.2.255/32"), "blackhole");
    for none in ["127.0.0.0/8", "::1/128", "fe80::/64", "ff00::/8", "224.0.0.0/4"] {
        assert_eq!(row(&world, none), "none", "{none}");
    }
}

#[test]
fn what_leads_into_the_trunk_is_not_sent_back_into_it() {
    let world = build(
        "addr 169.254.77.2/30 dev millrace0
         169.254.77.0/30 dev millrace0
         172.30.0.0/16 via 169.254.77.1 dev millrace0
         10.1.0.0/16 nexthop via 169.254.77.1 dev millrace0 nexthop via 192.0.2.9 dev eth0",
    );
    assert_eq!(
        (row(&world, "169.254.77.0/30"), row(&world, "172.30.0.0/16")),
        ("none".into(), "none".into())
    );
    assert_eq!(row(&world, "10.1.0.0/16"), "eth0 via 192.0.2.9 weight 1");
    assert_eq!(
        (row(&world, "169.254.77.2/32"), row(&world, "169.254.77.1/32")),
        ("local".into(), "vip".into())
    );
    assert_eq!(row(&world, "fd4d::1/128"), "vip");
}

#[test]
fn neighbors_of_engine_interfaces_and_of_the_trunk_are_rows() {
    let world = build(
        "neigh 192.0.2.1 dev eth0 lladdr 02:00:00:00:00:77
         neigh fe80::1 dev eth1 lladdr 02:00:00:00:00:78
         neigh 10.1.0.9 dev cni0 lladdr 02:00:00:00:00:79",
    );
    let rows: Vec<String> = world
        .neighbors
        .iter()
        .map(|((id, addr), mac)| format!("{} {addr} {mac}", world.interfaces[id].name))
        .collect();
    assert_eq!(
        rows,
        [
            "eth0 192.0.2.1 02:00:00:00:00:77",
            "eth1 fe80::1 02:00:00:00:00:78",
            "millrace0 169.254.77.2 02:00:00:00:00:05",
            "millrace0 fd4d::2 02:00:00:00:00:05",
        ]
    );
}

#[test]
fn node_ports_answer_on_the_kernels_addresses_and_flows_leave_with_them() {
    let lines = "addr 192.0.2.2/24 dev eth0
         addr 192.0.2.7/24 dev eth0 secondary
         addr 192.0.2.3/24 dev eth0
         addr 10.1.0.1/24 dev cni0
         addr 203.0.113.1/32 dev lo
         addr 127.0.0.1/8 dev lo
         addr 169.254.77.2/30 dev millrace0
         addr fe80::2/64 dev eth0
         addr 2001:db8::2/64 dev eth0
         addr 2001:db8::3/64 dev eth0 tentative
         addr 198.51.100.2/24 dev eth1";
    let world = build(lines);
    let texts = |addrs: &[Addr]| addrs.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(
        texts(&world.node.node_port_addresses),
        [
            "192.0.2.2",
            "192.0.2.7",
            "192.0.2.3",
            "10.1.0.1",
            "203.0.113.1",
            "2001:db8::2",
            "198.51.100.2",
            "169.254.77.1",
            "fd4d::1"
        ]
    );
    let sources: Vec<String> = world
        .row
        .sources
        .iter()
        .map(|(id, net)| {
            format!("{} {net}", world.interfaces.get(id).map_or("-", |spec| &spec.name))
        })
        .collect();
    assert_eq!(
        sources,
        [
            "eth0 192.0.2.2/24",
            "eth0 192.0.2.3/24",
            "eth0 2001:db8::2/64",
            "eth0 192.0.2.7/24",
            "eth1 198.51.100.2/24",
            "- 203.0.113.1/32",
            "millrace0 169.254.77.1/30",
            "millrace0 fd4d::1/126",
        ]
    );
    let down = build(&format!("{lines}\ndown eth1"));
    assert!(!texts(&down.node.node_port_addresses).contains(&"198.51.100.2".into()));
}

#[test]
fn an_interface_that_the_kernel_does_not_have_is_named() {
    let mut engine = engine();
    engine[1].index = 77;
    engine[0].spec.mac = mac(55);
    let kernel = kernel("default via 192.0.2.1 dev eth0\n10.0.0.0/8 dev cni0");
    let (world, problems) = world(&engine, &kernel, &Config::default(), &Store::new());
    let text: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert!(
        text.len() == 2 && text[0].contains("interface eth0") && text[1].contains("interface eth1"),
        "{text:?}"
    );
    // Its routes are the kernel's then.
    assert_eq!(row(&world, "0.0.0.0/0"), TO_KERNEL);
}

#[test]
fn rules_for_sources_are_the_kernel_s_and_others_are_named() {
    let rule = |priority, from: Option<&str>, conditional| Rule {
        priority,
        from: from.map(|from| from.parse().unwrap()),
        table: 7,
        conditional,
        v4: true,
    };
    let mut of_main = rule(90, Some("198.51.100.9/32"), false);
    of_main.table = 254;
    let rules = Arc::new(vec![
        of_main,
        rule(100, Some("198.51.100.2/32"), false),
        rule(110, Some("198.51.100.3/32"), true),
        rule(120, Some("2001:db8:7::/64"), false),
        rule(200, None, true),
        rule(32_770, Some("198.51.100.77/32"), false),
    ]);
    let kernel = Kernel { rules, ..kernel("") };
    let (world, problems) = world(&engine(), &kernel, &Config::default(), &Store::new());
    let sources: Vec<String> = world.row.by_source.iter().map(ToString::to_string).collect();
    assert_eq!(sources, ["198.51.100.2/31", "2001:db8:7::/64"]);
    let text: Vec<String> = problems.iter().map(ToString::to_string).collect();
    let why = "is not followed: packets that leave by an interface of the engine take the routes of table main";
    assert_eq!(text, [format!("ip rule 200: from all … lookup 7: {why}"),]);
}
