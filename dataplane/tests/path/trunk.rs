//! Beside a kernel: `down0` is the trunk, pods are behind it, and the node's address is on `up0` (features D18, B6, E3, E8).

use millrace_dataplane::kernel::{HANDED_ON_MAC, ONWARD_MAC};
use millrace_dataplane::pipeline::Settings;
use millrace_dataplane::snat::Ports;
use millrace_dataplane::verdict::{DropReason, PuntReason, Verdict};
use millrace_tables::{Frontend, InterfaceId, NextHop, NodeSpec, RouteSpec};
use millrace_wire::{Mac, Protocol};

use crate::packets::{Ip, Link, between, on};
use crate::world::*;

const KERNEL_MAC: [u8; 6] = [2, 0x4d, 0x52, 0, 0, 2];
/// Two pods on one bridge, one that is routed, one of another node, and a host outside of the cluster.
pub const POD: &str = "10.0.2.10";
pub const NEIGHBOR: &str = "10.0.2.11";
pub const ROUTED: &str = "10.0.3.10";
pub const REMOTE: &str = "10.0.4.10";
pub const OUTSIDE: &str = "10.0.1.2";
/// On the uplink's link; nobody has heard of it.
const UNKNOWN: &str = "10.0.1.99";
/// A service of one backend.
pub const WEB: &str = "172.30.0.90";
pub const NODE: &str = "10.0.1.1";
pub const TRUNK: &str = "169.254.77.1";
const PEER: &str = "169.254.77.2";

pub fn from_kernel() -> Link {
    Link::new(KERNEL_MAC, DOWN_MAC)
}

pub fn to_kernel() -> Link {
    Link::new(DOWN_MAC, KERNEL_MAC)
}

pub fn onward() -> Link {
    Link::new(ONWARD_MAC.0, KERNEL_MAC)
}

/// With a service at [`WEB`] of one backend.
pub fn world(backend: &str, partial: bool) -> World {
    furnished(World::beside_a_kernel(KERNEL_MAC, partial), backend)
}

fn furnished(mut world: World, backend: &str) -> World {
    let peer = [
        (InterfaceId(DOWN), addr(PEER), Mac(KERNEL_MAC)),
        (InterfaceId(DOWN), addr(TRUNK), ONWARD_MAC),
        (InterfaceId(UP), addr(OUTSIDE), Mac(CLIENT_MAC)),
    ];
    for worker in world.workers.iter_mut().chain(&mut world.twins) {
        assert_eq!(worker.state.neighbors.sync_static(peer.into_iter(), world.now), 0);
    }
    let by = |interface: u16, gateway: Option<&str>| {
        let hop = NextHop { interface: InterfaceId(interface), gateway: gateway.map(addr) };
        RouteSpec::Forward(vec![(hop, 1)])
    };
    for (prefix, route) in [
        ("10.0.3.0/24", by(DOWN, Some(PEER))),
        ("10.0.4.0/24", by(UP, Some(OUTSIDE))),
        ("10.0.1.1/32", RouteSpec::Local),
        ("10.0.1.3/32", RouteSpec::Local),
        ("169.254.77.1/32", RouteSpec::Vip),
    ] {
        world.writer.set_route(prefix.parse().unwrap(), &route).unwrap();
    }
    let node = NodeSpec {
        pods: ["10.0.2.0/24", "10.0.3.0/24", "10.0.4.0/24"].map(|it| it.parse().unwrap()).into(),
        sources: vec![(InterfaceId(UP), "10.0.1.1/24".parse().unwrap())],
        ..NodeSpec::default()
    };
    world.writer.set_node(&node).unwrap();
    let web = service("trunk", &[frontend(WEB, 53, 17)], &[(backend, 5353)]);
    world.writer.set_service("trunk", &web).unwrap();
    world.writer.publish().unwrap();
    world
}

pub fn ask(ip: &Ip, sport: u16, dport: u16) -> Vec<u8> {
    ip.udp(sport, dport, b"question")
}

fn sport(frame: &[u8]) -> u16 {
    u16::from_be_bytes([frame[34], frame[35]])
}

/// The flow of `client` to [`WEB`], which comes out of the kernel: it leaves by `out` as `source`, and the answer comes back.
#[track_caller]
fn goes(client: &str, backend: &str, out: (u16, Link, Link), source: &str) {
    let mut world = world(backend, false);
    let (interface, to, from) = out;
    let sent = world.send(DOWN, &on(&from_kernel(), ask(&between(client, WEB), 4000, 53)));
    assert_eq!(sent.len(), 1, "{:#?}", world.steps);
    let chosen = sport(&sent[0].bytes);
    // By chance it could be the same port; the seed of a test's engine is fixed.
    assert_eq!(chosen != 4000, source != client || client == NODE, "who is masqueraded");
    let leaves = on(&to, ask(&between(source, backend).ttl(63), chosen, 5353));
    assert_eq!((sent[0].interface, &sent[0].bytes), (interface, &leaves));
    let answer = on(&from, ask(&between(backend, source), 5353, chosen));
    let back = world.send(interface, &answer);
    assert_eq!(back.len(), 1, "{:#?}", world.steps);
    let expected = on(&to_kernel(), ask(&between(WEB, client).ttl(63), 53, 4000));
    assert_eq!((back[0].interface, &back[0].bytes), (DOWN, &expected));
}

fn by_trunk() -> (u16, Link, Link) {
    (DOWN, to_kernel(), from_kernel())
}

fn by_uplink() -> (u16, Link, Link) {
    (UP, to_client(), client_link())
}

#[test]
fn a_pod_keeps_its_address_wherever_answers_find_back() {
    goes(POD, REMOTE, by_uplink(), POD);
    goes(POD, ROUTED, by_trunk(), POD);
    goes(ROUTED, POD, by_trunk(), ROUTED);
}

#[test]
fn two_on_one_link_and_one_with_itself_speak_through_the_trunk_s_address() {
    goes(POD, NEIGHBOR, by_trunk(), TRUNK);
    goes(POD, POD, by_trunk(), TRUNK);
}

#[test]
fn the_node_s_own_processes_get_a_source_that_comes_back_here() {
    goes(NODE, REMOTE, by_uplink(), NODE);
    goes(NODE, POD, by_trunk(), TRUNK);
    goes(NODE, ROUTED, by_trunk(), TRUNK);
}

#[test]
fn a_pod_s_flow_out_of_the_cluster_is_the_kernel_s_to_masquerade() {
    goes(POD, OUTSIDE, by_trunk(), POD);
}

#[test]
fn a_neighbor_that_is_not_known_is_the_kernel_s_to_find() {
    let mut world = world(UNKNOWN, false);
    // From outside, so that nothing else sends it by the trunk.
    // It is only to send on what the engine has translated: the first packet and the next, whose way is remembered.
    let leaves = on(&onward(), ask(&between(OUTSIDE, UNKNOWN).ttl(63), 4000, 5353));
    for _ in 0..2 {
        let asked = world.send(UP, &on(&client_link(), ask(&between(OUTSIDE, WEB), 4000, 53)));
        assert_eq!(asked.len(), 1, "nobody is asked: {:#?}", world.steps);
        assert_eq!((asked[0].interface, &asked[0].bytes), (DOWN, &leaves));
    }
}

#[test]
fn what_is_the_kernel_s_goes_to_it_as_it_came() {
    for partial in [false, true] {
        let mut world = world(POD, partial);
        let packet = ask(&between(OUTSIDE, NODE), 4000, 61_000);
        let sent = world.send(UP, &on(&client_link(), packet.clone()));
        assert_eq!(world.verdicts(), [Verdict::Punt(PuntReason::Local)]);
        let expected = on(&Link::new(HANDED_ON_MAC.0, KERNEL_MAC), packet.clone());
        assert_eq!((sent.len(), sent[0].interface, &sent[0].bytes), (1, DOWN, &expected));
        // What it sent itself it does not get back.
        let sent = world.send(DOWN, &on(&from_kernel(), packet));
        assert_eq!(world.verdicts(), [Verdict::Punt(PuntReason::Local)]);
        assert!(sent.is_empty());
    }
}

#[test]
fn who_claims_to_be_this_node_is_not_handed_on() {
    let mut world = world(POD, false);
    for source in [NODE, "10.0.1.3", TRUNK, PEER] {
        for to in [NODE, "10.0.1.3"] {
            let packet = ask(&between(source, to), 4000, 22);
            assert!(world.send(UP, &on(&client_link(), packet)).is_empty(), "{source} to {to}");
            let martian = Verdict::Drop(DropReason::Martian);
            assert_eq!(world.verdicts(), [martian], "{source} to {to}");
        }
    }
    // An error says so by its outer source; the kernel's own are its own.
    let quoted = ask(&between(NODE, OUTSIDE), 22, 4000);
    let error = between(NODE, NODE).icmp(3, 3, 0, &quoted);
    assert!(world.send(UP, &on(&client_link(), error)).is_empty());
    assert_eq!(world.verdicts(), [Verdict::Drop(DropReason::Martian)]);
    let beside = world.send(UP, &on(&client_link(), ask(&between(UNKNOWN, NODE), 4000, 22)));
    assert_eq!((beside.len(), beside[0].interface), (1, DOWN));
}

#[test]
fn answers_of_flows_to_node_ports_go_by_the_trunk_whatever_their_destination() {
    let mut world = world(POD, false);
    let web = service("ports", &[frontend(TRUNK, 30_053, 17)], &[(ROUTED, 5353)]);
    world.writer.set_service("ports", &web).unwrap();
    world.writer.publish().unwrap();
    // The kernel has translated the destination; the client is outside.
    let asked = world.send(DOWN, &on(&from_kernel(), ask(&between(OUTSIDE, TRUNK), 4000, 30_053)));
    assert_eq!(asked[0].interface, DOWN);
    let answer = on(&from_kernel(), ask(&between(ROUTED, OUTSIDE), 5353, 4000));
    let back = world.send(DOWN, &answer);
    let expected = on(&to_kernel(), ask(&between(TRUNK, OUTSIDE).ttl(63), 30_053, 4000));
    assert_eq!((back[0].interface, &back[0].bytes), (DOWN, &expected));
}

/// As [`world`], with these sources that have routes of their own, and node ports: 30,053 with what [`WEB`] has, 30,054 masqueraded to
/// [`REMOTE`].
fn with_rules(by_source: &[&str]) -> World {
    with_node_ports(world(ROUTED, false), by_source)
}

fn with_node_ports(mut world: World, by_source: &[&str]) -> World {
    let mut node = world.writer.tables().snapshot().node().spec();
    node.by_source = by_source.iter().map(|it| it.parse().unwrap()).collect();
    world.writer.set_node(&node).unwrap();
    let kept = service("kept", &[frontend(NODE, 30_053, 17)], &[(ROUTED, 5353)]);
    world.writer.set_service("kept", &kept).unwrap();
    let mut hidden = frontend(NODE, 30_054, 17);
    hidden.flags = Frontend::MASQUERADE;
    let hidden = service("hidden", &[hidden], &[(REMOTE, 5353)]);
    world.writer.set_service("hidden", &hidden).unwrap();
    world.writer.publish().unwrap();
    world
}

#[test]
fn an_answer_goes_the_way_that_the_kernel_has_for_its_source() {
    for (by_source, interface, link) in
        [(&[][..], UP, to_client()), (&["10.0.1.1/32"], DOWN, onward())]
    {
        let mut world = with_rules(by_source);
        let asked = world.send(UP, &on(&client_link(), ask(&between(OUTSIDE, NODE), 4000, 30_053)));
        let leaves = on(&to_kernel(), ask(&between(OUTSIDE, ROUTED).ttl(63), 4000, 5353));
        assert_eq!((asked[0].interface, &asked[0].bytes), (DOWN, &leaves));
        let answer = on(&from_kernel(), ask(&between(ROUTED, OUTSIDE), 5353, 4000));
        let expected = on(&link, ask(&between(NODE, OUTSIDE).ttl(63), 30_053, 4000));
        for _ in 0..2 {
            let back = world.send(DOWN, &answer);
            assert_eq!((back[0].interface, &back[0].bytes), (interface, &expected));
        }
    }
}

#[test]
fn what_is_masqueraded_goes_the_way_that_its_source_is_of() {
    let mut world = with_rules(&["10.0.1.0/24"]);
    let ask_hidden = on(&client_link(), ask(&between(OUTSIDE, NODE), 4000, 30_054));
    for generation in 0..2 {
        let asked = world.send(UP, &ask_hidden);
        let leaves =
            on(&to_client(), ask(&between(NODE, REMOTE).ttl(63), sport(&asked[0].bytes), 5353));
        assert_eq!((asked[0].interface, &asked[0].bytes), (UP, &leaves), "{generation}");
        // Decided anew after a change.
        let web = service("trunk", &[frontend(WEB, 53, 17)], &[(REMOTE, 5353)]);
        world.writer.set_service("trunk", &web).unwrap();
        world.writer.publish().unwrap();
    }
    // Its answer leaves with the node's address again.
    let chosen = sport(&world.send(UP, &ask_hidden)[0].bytes);
    let answer = on(&client_link(), ask(&between(REMOTE, NODE), 5353, chosen));
    let back = world.send(UP, &answer);
    let expected = on(&onward(), ask(&between(NODE, OUTSIDE).ttl(63), 30_054, 4000));
    assert_eq!((back[0].interface, &back[0].bytes), (DOWN, &expected));
}

#[test]
fn so_does_what_is_only_routed() {
    for (by_source, interface, link) in
        [(&["10.0.9.0/24"][..], UP, to_client()), (&["10.0.1.2/32"], DOWN, onward())]
    {
        let mut world = with_rules(by_source);
        let packet = on(&client_link(), ask(&between(OUTSIDE, REMOTE), 4000, 53));
        let expected = on(&link, ask(&between(OUTSIDE, REMOTE).ttl(63), 4000, 53));
        for _ in 0..3 {
            let sent = world.send(UP, &packet);
            assert_eq!((sent[0].interface, &sent[0].bytes), (interface, &expected));
        }
    }
}

#[test]
fn what_finds_no_port_on_the_node_s_address_goes_by_way_of_the_kernel() {
    let ports = |range| Ports::new(&[range], &[]);
    let settings = Settings {
        snat_ports: ports(61_000..=61_003).unwrap(),
        overflow_ports: ports(40_000..=40_009),
        ..Settings::default()
    };
    let world = World::beside_a_kernel_with(KERNEL_MAC, false, settings);
    let mut world = with_node_ports(furnished(world, ROUTED), &[]);
    // One of the four is a process's.
    for worker in world.workers.iter_mut().chain(&mut world.twins) {
        worker.state.local.host_ports.set(Protocol::UDP, [61_002]);
        worker.state.local.host_ports.set(Protocol::TCP, [61_000, 61_001]);
    }
    let mut chosen = Vec::new();
    for client in 4000..4013 {
        let request = on(&client_link(), ask(&between(OUTSIDE, NODE), client, 30_054));
        for _ in 0..2 {
            let sent = world.send(UP, &request);
            assert_eq!(sent.len(), 1, "{client}: {:#?}", world.steps);
            let port = sport(&sent[0].bytes);
            let by_uplink = client < 4003;
            let (interface, link, source, back) = match by_uplink {
                true => (UP, to_client(), NODE, client_link()),
                false => (DOWN, to_kernel(), TRUNK, from_kernel()),
            };
            let leaves = on(&link, ask(&between(source, REMOTE).ttl(63), port, 5353));
            assert_eq!((sent[0].interface, &sent[0].bytes), (interface, &leaves), "{client}");
            chosen.push(port);
            let answer = on(&back, ask(&between(REMOTE, source), 5353, port));
            let answered = world.send(interface, &answer);
            let expected = on(&to_client(), ask(&between(NODE, OUTSIDE).ttl(63), 30_054, client));
            assert_eq!((answered[0].interface, &answered[0].bytes), (UP, &expected), "{client}");
        }
    }
    chosen.sort_unstable();
    chosen.dedup();
    let wanted: Vec<u16> = (40_000..=40_009).chain([61_000, 61_001, 61_003]).collect();
    assert_eq!(chosen, wanted);
    // Then there is none at all.
    let one_more = on(&client_link(), ask(&between(OUTSIDE, NODE), 4013, 30_054));
    assert!(world.send(UP, &one_more).is_empty());
    assert_eq!(world.verdicts(), [Verdict::Drop(DropReason::SnatExhausted)]);
}
