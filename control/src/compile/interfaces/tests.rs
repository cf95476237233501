use std::path::Path;

use super::*;
use millrace_wire::Mac;

fn interface(id: u16, name: &str, addresses: &[&str]) -> InterfaceSpec {
    let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
    InterfaceSpec {
        id: InterfaceId(id),
        kind: InterfaceKind::UPLINK,
        mac: Mac([2, 0, 0, 0, 0, 1]),
        mtu: 1500,
        name: name.into(),
        addresses,
    }
}

fn build(config: &str) -> (World, Vec<String>) {
    let (config, problems) = Config::parse(Path::new("c"), config, &Config::default());
    assert!(problems.is_empty(), "{}", problems[0]);
    let interfaces = vec![
        interface(0, "eth0", &["192.0.2.1/24", "2001:db8::1/64", "fe80::1/64"]),
        interface(1, "eth1", &["198.51.100.1/31", "192.0.2.2/24"]),
    ];
    let (world, problems) = world(interfaces, &config, &Store::new());
    (world, problems.iter().map(ToString::to_string).collect())
}

fn hops(world: &World, prefix: &str) -> Vec<(u16, Option<String>, u16)> {
    match world.routes.get(&prefix.parse().unwrap()) {
        Some(RouteSpec::Forward(hops)) => hops
            .iter()
            .map(|(hop, weight)| (hop.interface.0, hop.gateway.map(|via| via.to_string()), *weight))
            .collect(),
        other => panic!("{prefix}: {other:?}"),
    }
}

#[test]
fn each_address_gives_a_connected_route_and_an_address_of_ours() {
    let (world, problems) = build("");
    assert!(problems.is_empty());
    assert_eq!(hops(&world, "192.0.2.0/24"), [(0, None, 1)]);
    assert_eq!(hops(&world, "198.51.100.0/31"), [(1, None, 1)]);
    assert_eq!(hops(&world, "2001:db8::/64"), [(0, None, 1)]);
    for own in ["192.0.2.1/32", "192.0.2.2/32", "198.51.100.1/32", "2001:db8::1/128", "fe80::1/128"]
    {
        assert_eq!(world.routes.get(&own.parse().unwrap()), Some(&RouteSpec::Local), "{own}");
    }
    let node_ports: Vec<String> =
        world.node.node_port_addresses.iter().map(ToString::to_string).collect();
    assert_eq!(
        node_ports,
        ["192.0.2.1", "2001:db8::1", "198.51.100.1", "192.0.2.2"],
        "not link-local ones"
    );
}

#[test]
fn next_hops_find_their_interface_by_network_or_by_name() {
    let (world, problems) = build(
        "[[route]]\nprefix = '0.0.0.0/0'\nvia = '198.51.100.0'\n[[route]]\nprefix = '10.0.0.0/8'\nvia = '203.0.113.1'\ndev = 'eth1'\n\
         [[route]]\nprefix = '::/0'\ndev = 'eth0'\n[[route]]\nprefix = '11.0.0.0/8'\nnext_hop = [{via = '192.0.2.9', weight = 2}, {via = '198.51.100.0'}]\n",
    );
    assert!(problems.is_empty(), "{problems:?}");
    assert_eq!(hops(&world, "0.0.0.0/0"), [(1, Some("198.51.100.0".into()), 1)]);
    assert_eq!(hops(&world, "10.0.0.0/8"), [(1, Some("203.0.113.1".into()), 1)]);
    assert_eq!(hops(&world, "::/0"), [(0, None, 1)]);
    assert_eq!(
        hops(&world, "11.0.0.0/8"),
        [(0, Some("192.0.2.9".into()), 2), (1, Some("198.51.100.0".into()), 1)]
    );
}

#[test]
fn entries_that_fit_no_interface_are_named_and_the_rest_is_in_force() {
    let (world, problems) = build(
        "[[route]]\nprefix = '10.0.0.0/8'\nvia = '203.0.113.1'\n[[route]]\nprefix = '11.0.0.0/8'\ndev = 'eth9'\n[[route]]\nprefix = '12.0.0.0/8'\nvia = '192.0.2.1'\n\
         [[route]]\nprefix = '13.0.0.0/8'\ntype = 'blackhole'\n[[neighbor]]\ninterface = 'eth9'\naddress = '192.0.2.9'\nmac = '02:00:00:00:00:09'\n",
    );
    assert_eq!(
        problems,
        [
            "c: [[route]] 1: via: 203.0.113.1 is in the network of no interface: add dev, or mend the address",
            "c: [[route]] 2: dev: the engine has no interface \"eth9\"; it has eth0, eth1",
            "c: [[route]] 3: via: 192.0.2.1 is an address of ours",
            "c: [[neighbor]] 1: interface: the engine has no interface \"eth9\"; it has eth0, eth1",
        ]
    );
    assert_eq!(world.routes.get(&"13.0.0.0/8".parse().unwrap()), Some(&RouteSpec::Blackhole));
    assert!(
        !world.routes.contains_key(&"10.0.0.0/8".parse().unwrap()) && world.neighbors.is_empty()
    );
}

#[test]
fn no_configuration_routes_our_own_addresses_away() {
    let (world, _) = build(
        "service_cidr = ['192.0.2.0/24', '172.30.0.0/16']\n[[route]]\nprefix = '192.0.2.1/32'\ntype = 'blackhole'\n",
    );
    assert_eq!(world.routes.get(&"192.0.2.1/32".parse().unwrap()), Some(&RouteSpec::Local));
    assert_eq!(hops(&world, "192.0.2.0/24"), [(0, None, 1)]);
    assert_eq!(world.routes.get(&"172.30.0.0/16".parse().unwrap()), Some(&RouteSpec::Blackhole));
}

#[test]
fn node_ports_answer_where_the_configuration_says() {
    let addresses = |config| {
        build(config).0.node.node_port_addresses.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    // Of a family that no range is of: all.
    assert_eq!(
        addresses("nodeport_addresses = ['198.51.100.0/24']"),
        ["2001:db8::1", "198.51.100.1"]
    );
    assert_eq!(addresses("nodeport_addresses = ['198.51.100.0/24', 'fd00::/8']"), ["198.51.100.1"]);
    assert_eq!(addresses("nodeport_addresses = ['primary']"), ["192.0.2.1", "2001:db8::1"]);
    assert_eq!(
        addresses("nodeport_addresses = ['primary', '198.51.100.0/24']"),
        ["192.0.2.1", "2001:db8::1", "198.51.100.1"]
    );
}

fn world_of(config: &str, objects: &[serde_json::Value]) -> (World, Vec<String>) {
    let (config, problems) = Config::parse(Path::new("c"), config, &Config::default());
    assert!(problems.is_empty(), "{}", problems[0]);
    let mut store = Store::new();
    for object in objects {
        assert!(store.apply_json(object.clone()).is_empty());
    }
    let interfaces = vec![
        interface(0, "eth0", &["192.0.2.1/24"]),
        interface(1, "pod0", &["10.255.0.1/30"]),
        interface(2, "pod1", &["10.255.1.1/30"]),
    ];
    let (world, problems) = world(interfaces, &config, &store);
    (world, problems.iter().map(ToString::to_string).collect())
}

fn pod(node: &str, addresses: &[&str]) -> serde_json::Value {
    let ips: Vec<_> = addresses.iter().map(|ip| serde_json::json!({"ip": ip})).collect();
    serde_json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "default", "name": "web"},
        "spec": {"nodeName": node, "containers": [{"name": "c"}]}, "status": {"podIPs": ips}})
}

const ENTRY: &str = "[[pod]]\ninterface = 'pod0'\npod = 'default/web'\nmac = '02:00:00:00:00:0a'\n";

fn guard(world: &World, id: u16) -> (&str, String, Vec<String>) {
    let guard = &world.guards[&InterfaceId(id)];
    let addresses = guard.addresses.iter().map(ToString::to_string).collect();
    (&guard.name, guard.mac.to_string(), addresses)
}

#[test]
fn a_pods_interface_has_its_pods_addresses_and_nobody_elses() {
    let (world, problems) = world_of(ENTRY, &[pod("node-a", &["10.1.0.5", "fd00::5"])]);
    assert_eq!(problems, [""; 0]);
    let mac = "02:00:00:00:00:0a";
    let addresses = vec!["10.1.0.5".to_owned(), "fd00::5".to_owned()];
    assert_eq!(guard(&world, 1), ("Pod default/web", mac.to_owned(), addresses));
    assert_eq!(world.guards.len(), 1, "the others carry anything");
    assert_eq!(hops(&world, "10.1.0.5/32"), [(1, None, 1)]);
    assert_eq!(hops(&world, "fd00::5/128"), [(1, None, 1)]);
    let neighbors: Vec<String> =
        world.neighbors.iter().map(|((id, addr), mac)| format!("{} {addr} {mac}", id.0)).collect();
    assert_eq!(neighbors, [format!("1 10.1.0.5 {mac}"), format!("1 fd00::5 {mac}")]);
    let node_ports: Vec<String> =
        world.node.node_port_addresses.iter().map(ToString::to_string).collect();
    assert_eq!(node_ports, ["192.0.2.1", "10.255.1.1"], "its gateway is no address of the node's");
}

#[test]
fn before_its_pod_is_known_nothing_passes_a_pods_interface() {
    let closed = ("Pod default/web", "02:00:00:00:00:0a".to_owned(), Vec::new());
    assert_eq!(guard(&world_of(ENTRY, &[]).0, 1), closed);
    assert_eq!(guard(&world_of(ENTRY, &[pod("node-a", &[])]).0, 1), closed);
    // A pod of that name elsewhere is behind none of our interfaces.
    let named = format!("node = 'node-b'\n{ENTRY}");
    let (world, _) = world_of(&named, &[pod("node-a", &["10.1.0.5"])]);
    assert_eq!(guard(&world, 1), closed);
    assert!(!world.routes.contains_key(&"10.1.0.5/32".parse().unwrap()));
    // Whoever connects it may know its addresses before its object says them.
    let (world, _) = world_of(&format!("{ENTRY}addresses = ['10.1.0.6']"), &[]);
    assert_eq!(guard(&world, 1).2, ["10.1.0.6"]);
    assert_eq!(hops(&world, "10.1.0.6/32"), [(1, None, 1)]);
}

#[test]
fn a_pod_is_refused_our_addresses_and_interfaces_that_are_none() {
    let (world, problems) = world_of(
        &format!("{ENTRY}[[pod]]\ninterface = 'pod9'\npod = 'a/b'\nmac = '02:00:00:00:00:0b'"),
        &[pod("node-a", &["192.0.2.1", "10.1.0.5"])],
    );
    assert_eq!(
        problems,
        [
            "c: [[pod]] 1: addresses: 192.0.2.1 is an address of ours: the pod is refused it",
            "c: [[pod]] 2: interface: the engine has no interface \"pod9\"; it has eth0, pod0, pod1",
        ]
    );
    assert_eq!(guard(&world, 1).2, ["10.1.0.5"]);
    assert_eq!(world.routes.get(&"192.0.2.1/32".parse().unwrap()), Some(&RouteSpec::Local));
}
