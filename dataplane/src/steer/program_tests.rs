//! The verdict on every kind of frame, from the program as the kernel runs it (`BPF_PROG_TEST_RUN`).

use super::*;
use crate::steer::{Mode, PortSet};
use millrace_wire::{Mac, Protocol};
use std::time::Duration;

const OURS: [u8; 6] = [2, 0, 0, 0, 0, 1];
const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 2];
const BROADCAST: [u8; 6] = [0xff; 6];
const MDNS: [u8; 6] = [1, 0, 0x5e, 0, 0, 0xfb];
const LLDP: [u8; 6] = [1, 0x80, 0xc2, 0, 0, 0x0e];
const SOLICITED: [u8; 6] = [0x33, 0x33, 0xff, 0, 0, 1];
const ALL_NODES: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];

/// Loads the program as an engine that beats, without sockets: what is ours is `Unbound`.
fn program(mode: Mode) -> Option<Program> {
    if !rustix::process::geteuid().is_root() {
        assert!(
            std::env::var_os("MILLRACE_PRIVILEGED").is_none(),
            "MILLRACE_PRIVILEGED is set, but this is not root"
        );
        eprintln!(
            "SKIP {}: loading an XDP program needs root",
            std::thread::current().name().unwrap_or("test")
        );
        return None;
    }
    let options = Options { mode, mac: Mac(OURS), queues: 1, stale_after: Duration::from_secs(60) };
    let mut program = Program::load("test", &options).unwrap();
    program.maps().beat().unwrap();
    Some(program)
}

fn frame(to: [u8; 6], ether_type: u16, payload: &[u8]) -> Vec<u8> {
    [&to, &OTHER, &ether_type.to_be_bytes()[..], payload].concat()
}

fn tagged(to: [u8; 6], tags: &[u16], ether_type: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = [to, OTHER].concat();
    for tag in tags {
        bytes.extend(tag.to_be_bytes());
        bytes.extend([0, 7]);
    }
    bytes.extend(ether_type.to_be_bytes());
    [&bytes, payload].concat()
}

fn ipv4(destination: [u8; 4]) -> Vec<u8> {
    let mut bytes = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 9];
    bytes.extend(destination);
    bytes.extend([0; 8]);
    bytes
}

fn ipv6(destination: [u8; 16], next_header: u8, hop_limit: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x60, 0, 0, 0, 0, payload.len() as u8, next_header, hop_limit];
    bytes.extend([0xfe; 16]);
    bytes.extend(destination);
    bytes.extend(payload);
    bytes
}

fn neighbor_message(kind: u8, target: [u8; 16]) -> Vec<u8> {
    let mut bytes = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    bytes.extend(target);
    bytes
}

fn arp(operation: u16, target: [u8; 4]) -> Vec<u8> {
    let mut bytes = vec![0, 1, 8, 0, 6, 4];
    bytes.extend(operation.to_be_bytes());
    bytes.extend([0; 16]);
    bytes.extend(target);
    bytes
}

fn v6(last: u8) -> [u8; 16] {
    [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]
}

fn check(program: &mut Program, cases: &[(&str, Vec<u8>, bool)]) {
    for (what, frame, ours) in cases {
        let expected = if *ours { Decision::Unbound } else { Decision::Passed };
        assert_eq!(program.decide(frame).unwrap(), expected, "{what}");
    }
}

#[test]
fn a_router_takes_what_is_addressed_to_it_and_leaves_the_rest_to_the_kernel() {
    let Some(mut program) = program(Mode::Router) else { return };
    let ip = ipv4([192, 0, 2, 1]);
    let ns = ipv6(v6(1), 58, 255, &neighbor_message(135, v6(1)));
    let na = ipv6(v6(1), 58, 255, &neighbor_message(136, v6(1)));
    let udp6 = ipv6(v6(1), 17, 64, &[0; 8]);
    check(
        &mut program,
        &[
            ("IPv4 to our MAC", frame(OURS, 0x0800, &ip), true),
            ("IPv6 to our MAC", frame(OURS, 0x86dd, &udp6), true),
            ("IPv4 to another MAC", frame(OTHER, 0x0800, &ip), false),
            ("IPv6 to another MAC", frame(OTHER, 0x86dd, &udp6), false),
            ("DHCP: IPv4 broadcast", frame(BROADCAST, 0x0800, &ip), false),
            ("mDNS: IPv4 multicast", frame(MDNS, 0x0800, &ip), false),
            ("mDNS: IPv6 multicast", frame([0x33, 0x33, 0, 0, 0, 0xfb], 0x86dd, &udp6), false),
            ("LLDP", frame(LLDP, 0x88cc, &[2, 7, 4]), false),
            ("an EtherType we don't know, to our MAC", frame(OURS, 0x88b5, &[0; 46]), false),
            ("an 802.3 length in place of a type", frame(OURS, 46, &[0; 46]), false),
            ("ARP request, broadcast", frame(BROADCAST, 0x0806, &arp(1, [192, 0, 2, 1])), true),
            ("ARP reply to us", frame(OURS, 0x0806, &arp(2, [192, 0, 2, 1])), true),
            ("ARP reply to another MAC", frame(OTHER, 0x0806, &arp(2, [192, 0, 2, 1])), false),
            ("neighbor solicitation, multicast", frame(SOLICITED, 0x86dd, &ns), true),
            ("neighbor advertisement, multicast", frame(ALL_NODES, 0x86dd, &na), true),
            ("neighbor solicitation to another MAC", frame(OTHER, 0x86dd, &ns), false),
            (
                "a forged solicitation: it has passed a router",
                frame(SOLICITED, 0x86dd, &ipv6(v6(1), 58, 254, &neighbor_message(135, v6(1)))),
                false,
            ),
            (
                "router advertisement: the kernel's business",
                frame(ALL_NODES, 0x86dd, &ipv6(v6(1), 58, 255, &neighbor_message(134, v6(1)))),
                false,
            ),
        ],
    );
}

#[test]
fn one_and_two_vlan_tags_are_looked_through_and_three_are_not() {
    let Some(mut program) = program(Mode::Router) else { return };
    let ip = ipv4([192, 0, 2, 1]);
    check(
        &mut program,
        &[
            ("802.1Q", tagged(OURS, &[0x8100], 0x0800, &ip), true),
            ("802.1ad and 802.1Q", tagged(OURS, &[0x88a8, 0x8100], 0x0800, &ip), true),
            ("three tags", tagged(OURS, &[0x88a8, 0x8100, 0x8100], 0x0800, &ip), false),
            ("tagged ARP", tagged(BROADCAST, &[0x8100], 0x0806, &arp(1, [192, 0, 2, 1])), true),
            ("tagged broadcast", tagged(BROADCAST, &[0x8100], 0x0800, &ip), false),
        ],
    );
}

#[test]
fn a_frame_cut_anywhere_in_its_headers_goes_to_the_kernel() {
    let Some(mut program) = program(Mode::Router) else { return };
    let solicitation = ipv6(v6(1), 58, 255, &neighbor_message(135, v6(1)));
    let cases = [
        ("IPv4", frame(OURS, 0x0800, &ipv4([192, 0, 2, 1])), 14 + 20),
        ("IPv6", frame(OURS, 0x86dd, &ipv6(v6(1), 17, 64, &[0; 8])), 14 + 40),
        ("ARP", frame(BROADCAST, 0x0806, &arp(1, [192, 0, 2, 1])), 14 + 28),
        ("two tags", tagged(OURS, &[0x88a8, 0x8100], 0x0800, &ipv4([192, 0, 2, 1])), 14 + 8 + 20),
        ("solicitation", frame(SOLICITED, 0x86dd, &solicitation), 14 + 40 + 24),
    ];
    for (what, frame, whole) in cases {
        for length in 14..=frame.len() {
            let expected = if length < whole { Decision::Passed } else { Decision::Unbound };
            assert_eq!(
                program.decide(&frame[..length]).unwrap(),
                expected,
                "{what}, {length} bytes"
            );
        }
    }
}

#[test]
fn a_service_proxy_takes_only_its_prefixes() {
    let Some(mut program) = program(Mode::ServiceProxy) else { return };
    let local = ["172.30.0.0/16", "192.0.2.7/32", "2001:db8::7/128"].map(|p| p.parse().unwrap());
    program.maps().set_local(local).unwrap();
    let solicit = |last| ipv6(v6(1), 58, 255, &neighbor_message(135, v6(last)));
    let advertise = ipv6(v6(1), 58, 255, &neighbor_message(136, v6(7)));
    check(
        &mut program,
        &[
            ("in a prefix", frame(OURS, 0x0800, &ipv4([172, 30, 255, 1])), true),
            ("beside the prefix", frame(OURS, 0x0800, &ipv4([172, 31, 0, 1])), false),
            ("the host", frame(OURS, 0x0800, &ipv4([192, 0, 2, 7])), true),
            ("beside the host", frame(OURS, 0x0800, &ipv4([192, 0, 2, 6])), false),
            ("to another MAC", frame(OTHER, 0x0800, &ipv4([192, 0, 2, 7])), false),
            ("the IPv6 host", frame(OURS, 0x86dd, &ipv6(v6(7), 17, 64, &[0; 8])), true),
            ("beside the IPv6 host", frame(OURS, 0x86dd, &ipv6(v6(6), 17, 64, &[0; 8])), false),
            (
                "ARP request: whoever announces service addresses answers",
                frame(BROADCAST, 0x0806, &arp(1, [192, 0, 2, 7])),
                false,
            ),
            (
                "ARP request for the kernel's",
                frame(BROADCAST, 0x0806, &arp(1, [192, 0, 2, 6])),
                false,
            ),
            ("ARP reply: the kernel resolves", frame(OURS, 0x0806, &arp(2, [192, 0, 2, 7])), false),
            ("solicitation: the same", frame(SOLICITED, 0x86dd, &solicit(7)), false),
            ("solicitation for the kernel's", frame(SOLICITED, 0x86dd, &solicit(6)), false),
            ("advertisement: the kernel resolves", frame(ALL_NODES, 0x86dd, &advertise), false),
            (
                "is a service address still there, asks one that knew it",
                frame(OURS, 0x86dd, &ipv6(v6(7), 58, 255, &neighbor_message(135, v6(7)))),
                false,
            ),
            (
                "an advertisement to it",
                frame(OURS, 0x86dd, &ipv6(v6(7), 58, 255, &neighbor_message(136, v6(1)))),
                false,
            ),
            (
                "what only looks like one: it has passed a router",
                frame(OURS, 0x86dd, &ipv6(v6(7), 58, 254, &neighbor_message(135, v6(7)))),
                true,
            ),
            (
                "in a VLAN: the kernel has a device for it",
                tagged(OURS, &[0x8100], 0x0800, &ipv4([192, 0, 2, 7])),
                false,
            ),
            (
                "in two",
                tagged(OURS, &[0x88a8, 0x8100], 0x86dd, &ipv6(v6(7), 17, 64, &[0; 8])),
                false,
            ),
        ],
    );
}

#[test]
fn who_claims_to_be_this_node_is_the_kernel_s_to_refuse() {
    let Some(mut program) = program(Mode::ServiceProxy) else { return };
    let net = |text: &str| text.parse::<ipnet::IpNet>().unwrap();
    let nodes = ["192.0.2.9/32", "2001:db8::9/128"].map(net);
    let trunk = ["169.254.77.1/30", "fd4d:696c:6c72::1/126"].map(net);
    let pods = ["172.30.0.0/16", "2001:db8::7/128"].map(net);
    let mut set = PortSet::default();
    set.insert(Protocol::UDP, 30053);
    program.maps().set_ours(pods, nodes, trunk, &set).unwrap();
    let from4 = |source: [u8; 4], to: [u8; 4]| {
        let mut ip = ipv4(to);
        ip[12..16].copy_from_slice(&source);
        ip[22..24].copy_from_slice(&30053u16.to_be_bytes());
        frame(OURS, 0x0800, &ip)
    };
    let from6 = |source: [u8; 16], to: [u8; 16]| {
        let mut ip = ipv6(to, 17, 64, &ports(40000, 30053)[..8]);
        ip[8..24].copy_from_slice(&source);
        frame(OURS, 0x86dd, &ip)
    };
    let trunk6 = |last| [0xfd, 0x4d, 0x69, 0x6c, 0x6c, 0x72, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
    for (to, to6) in [([172, 30, 0, 1], v6(7)), ([192, 0, 2, 9], v6(9))] {
        check(
            &mut program,
            &[
                ("from a client", from4([192, 0, 2, 8], to), true),
                ("from a pod, one of another node", from4([172, 30, 9, 9], to), true),
                ("from this node", from4([192, 0, 2, 9], to), false),
                ("from the engine", from4([169, 254, 77, 1], to), false),
                ("from the kernel's end", from4([169, 254, 77, 2], to), false),
                ("from beside the trunk", from4([169, 254, 77, 4], to), true),
                ("IPv6, from a client", from6(v6(8), to6), true),
                ("IPv6, from this node", from6(v6(9), to6), false),
                ("IPv6, from the engine", from6(trunk6(1), to6), false),
                ("IPv6, from the kernel's end", from6(trunk6(2), to6), false),
                ("IPv6, from beside the trunk", from6(trunk6(4), to6), true),
            ],
        );
    }
    check(
        &mut program,
        &[
            ("to the trunk", from4([192, 0, 2, 8], [169, 254, 77, 1]), false),
            ("IPv6, to the trunk", from6(v6(8), trunk6(1)), false),
        ],
    );
}

/// An IPv4 packet to 192.0.2.9 with a payload; `fragment` is the field of flags and offset.
fn to_node(protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x45, 0, 0, 20 + payload.len() as u8, 0, 7];
    bytes.extend(fragment.to_be_bytes());
    bytes.extend([64, protocol, 0, 0, 10, 0, 0, 9, 192, 0, 2, 9]);
    bytes.extend(payload);
    frame(OURS, 0x0800, &bytes)
}

fn ports(source: u16, destination: u16) -> Vec<u8> {
    [&source.to_be_bytes()[..], &destination.to_be_bytes(), &[0; 16]].concat()
}

#[test]
fn of_a_node_s_own_address_only_listed_ports_are_taken() {
    let Some(mut program) = program(Mode::ServiceProxy) else { return };
    let mut set = PortSet::default();
    set.insert(Protocol::TCP, 30080);
    set.insert(Protocol::UDP, 61000);
    set.insert(Protocol::SCTP, 65535);
    set.insert(Protocol::ICMP, 8);
    let nodes: [ipnet::IpNet; 2] = ["192.0.2.9/32", "2001:db8::9/128"].map(|p| p.parse().unwrap());
    let whole: ipnet::IpNet = "192.0.2.0/24".parse().unwrap();
    program.maps().set_ours([whole], nodes, [], &set).unwrap();
    let quote = |kind: u8, protocol: u8, source: u16| {
        let mut bytes = vec![kind, 0, 0, 0, 0, 0, 0, 0, 0x45, 0, 0, 48, 0, 0, 0, 0, 64, protocol];
        bytes.extend([0, 0, 192, 0, 2, 9, 10, 0, 0, 9]);
        bytes.extend(&ports(source, 80)[..8]);
        bytes
    };
    let node6 = |next, payload: &[u8]| frame(OURS, 0x86dd, &ipv6(v6(9), next, 64, payload));
    let mut options = to_node(6, 0, &[&[1; 4][..], &ports(40000, 30080)].concat());
    options[14] = 0x46;
    check(
        &mut program,
        &[
            ("beside the node", frame(OURS, 0x0800, &ipv4([192, 0, 2, 8])), true),
            ("a node port", to_node(6, 0, &ports(40000, 30080)), true),
            ("behind IPv4 options", options, true),
            ("ssh", to_node(6, 0, &ports(40000, 22)), false),
            ("the same port of another protocol", to_node(17, 0, &ports(40000, 30080)), false),
            ("an answer to a masqueraded flow", to_node(17, 0, &ports(53, 61000)), true),
            ("SCTP", to_node(132, 0, &ports(9, 65535)), true),
            ("cut before its ports", to_node(6, 0, &[1, 2, 3]), false),
            ("a first fragment", to_node(17, 0x2000, &ports(40000, 22)), true),
            ("a later fragment", to_node(17, 100, &[0; 8]), true),
            ("a fragment of something else", to_node(47, 100, &[0; 8]), false),
            ("ping", to_node(1, 0, &[8, 0, 0, 0, 0, 1, 0, 1]), false),
            ("too big, of a flow of ours", to_node(1, 0, &quote(3, 17, 61000)), true),
            ("too big, of the kernel's", to_node(1, 0, &quote(3, 17, 61001)), false),
            ("of what has no ports", to_node(1, 0, &quote(3, 1, 61000)), false),
            ("no error", to_node(1, 0, &quote(0, 17, 61000)), false),
            ("IPv6 node port", node6(6, &ports(40000, 30080)), true),
            ("IPv6 ssh", node6(6, &ports(40000, 22)), false),
            ("IPv6 fragment", node6(44, &[17, 0, 0, 1, 0, 0, 0, 7]), true),
            (
                "IPv6 error",
                node6(
                    58,
                    &[&[2, 0, 0, 0, 0, 0, 5, 0][..], &ipv6(v6(1), 17, 64, &ports(61000, 53))]
                        .concat(),
                ),
                true,
            ),
            ("neighbor solicitation to it", node6(58, &neighbor_message(135, v6(9))), false),
        ],
    );
    let mut less = PortSet::default();
    less.insert(Protocol::SCTP, 65535);
    let mut adopted = Maps::adopt(program.maps().handles().unwrap()).unwrap();
    adopted.set_ours([], nodes, [], &less).unwrap();
    check(
        &mut program,
        &[
            ("a node port that is gone", to_node(6, 0, &ports(40000, 30080)), false),
            ("one that stayed", to_node(132, 0, &ports(9, 65535)), true),
            ("a prefix that is gone", frame(OURS, 0x0800, &ipv4([192, 0, 2, 8])), false),
        ],
    );
}

#[test]
fn prefixes_are_replaced_and_found_again_by_who_adopts_the_maps() {
    let Some(mut program) = program(Mode::ServiceProxy) else { return };
    let (kept, gone) =
        (frame(OURS, 0x0800, &ipv4([10, 0, 0, 1])), frame(OURS, 0x0800, &ipv4([10, 0, 0, 2])));
    program.maps().set_local(["10.0.0.1/32", "10.0.0.2/32"].map(|p| p.parse().unwrap())).unwrap();
    check(&mut program, &[("first", kept.clone(), true), ("second", gone.clone(), true)]);

    let mut adopted = Maps::adopt(program.maps().handles().unwrap()).unwrap();
    adopted.set_local(["10.0.0.1/32".parse().unwrap()]).unwrap();
    check(&mut program, &[("kept", kept, true), ("gone", gone, false)]);
}

#[test]
fn without_a_beat_and_with_an_old_one_nothing_is_redirected() {
    let Some(_) = program(Mode::Router) else { return };
    let stale_after = Duration::from_millis(500);
    let options = Options { mode: Mode::Router, mac: Mac(OURS), queues: 1, stale_after };
    let mut program = Program::load("test", &options).unwrap();
    let ours = frame(OURS, 0x0800, &ipv4([192, 0, 2, 1]));
    assert_eq!(program.decide(&ours).unwrap(), Decision::Stale, "never beaten");
    program.maps().beat().unwrap();
    assert_eq!(program.decide(&ours).unwrap(), Decision::Unbound, "just beaten");
    std::thread::sleep(stale_after * 2);
    assert_eq!(program.decide(&ours).unwrap(), Decision::Stale, "beaten too long ago");
    assert_eq!(
        program.decide(&frame(LLDP, 0x88cc, &[0; 46])).unwrap(),
        Decision::Passed,
        "not ours at any time"
    );
}
