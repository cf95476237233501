//! Policies on the path: what is judged, at which end, with which addresses; what passes because of it; what a change ends (features F3 to F7, F10).

use millrace_dataplane::clock::SECOND;
use millrace_dataplane::verdict::{DropReason, Verdict};
use millrace_tables::{Endpoint, EndpointSpec};

use crate::packets::{Ip, between, on};
use crate::rules::*;
use crate::world::*;

const FAMILIES: [(&str, &str, &str); 2] = [(CLIENT, VIP, BACKEND), (CLIENT6, VIP6, BACKEND6)];

fn is_sent(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Transmit { .. })
}

impl World {
    /// From the client; what became of it.
    #[track_caller]
    fn up(&mut self, packet: Vec<u8>) -> Verdict {
        self.send(UP, &on(&client_link(), packet));
        self.verdicts()[0]
    }

    /// From the backend.
    #[track_caller]
    fn down(&mut self, packet: Vec<u8>) -> Verdict {
        self.send(DOWN, &on(&backend_link(), packet));
        self.verdicts()[0]
    }

    #[track_caller]
    fn passes(&mut self, interface: u16, packet: Vec<u8>) {
        let verdict = if interface == UP { self.up(packet) } else { self.down(packet) };
        assert!(is_sent(&verdict), "{verdict:?}: {:#?}", self.steps);
    }

    #[track_caller]
    fn denied(&mut self, interface: u16, packet: Vec<u8>) {
        let verdict = if interface == UP { self.up(packet) } else { self.down(packet) };
        assert_eq!(verdict, Verdict::Drop(DropReason::Policy), "{:#?}", self.steps);
    }
}

fn ack(ip: &Ip, sport: u16, dport: u16) -> Vec<u8> {
    ip.tcp(sport, dport, |tcp| tcp.ack = true, b"data")
}

fn syn_ack(ip: &Ip, sport: u16, dport: u16) -> Vec<u8> {
    let flags = |tcp: &mut etherparse::TcpHeader| (tcp.syn, tcp.ack) = (true, true);
    ip.tcp(sport, dport, flags, b"")
}

fn ping(ip: &Ip, id: u16) -> Vec<u8> {
    let kind = if ip.src.is_ipv4() { 8 } else { 128 };
    ip.icmp(kind, 0, u32::from(id) << 16 | 1, b"hello")
}

fn pong(ip: &Ip, id: u16) -> Vec<u8> {
    let kind = if ip.src.is_ipv4() { 0 } else { 129 };
    ip.icmp(kind, 0, u32::from(id) << 16 | 1, b"hello")
}

#[test]
fn nothing_is_judged_or_tracked_where_nobody_is_isolated() {
    let mut world = World::with_rules();
    for (client, _, backend) in FAMILIES {
        world.passes(UP, between(client, backend).syn(4000, 22));
        world.passes(DOWN, between(backend, client).udp(4000, 53, b"q"));
    }
    assert_eq!(world.tracked(), 0);
    assert_eq!(world.policy_counts(ALLOW), [0; 3]);
}

#[test]
fn ingress_rules_allow_what_they_name_and_its_answers() {
    for (client, _, backend) in FAMILIES {
        let mut world = World::with_rules();
        world.isolate(Some(WEB), None);
        let there = between(client, backend);
        let back = between(backend, client);
        world.denied(UP, there.syn(4000, 80));
        assert_eq!(world.tracked(), 0, "what is refused leaves no trace");
        world.passes(UP, there.syn(4000, 8080));
        world.passes(DOWN, syn_ack(&back, 8080, 4000));
        for _ in 0..3 {
            world.passes(UP, ack(&there, 4000, 8080));
            world.passes(DOWN, ack(&back, 8080, 4000));
        }
        assert_eq!(world.tracked(), 1);
        assert_eq!(world.policy_counts(ALLOW), [1, 0, 0]);
        assert_eq!(world.policy_counts(DENY_ALL), [0, 1, 0]);
        // What is not isolated is free, and so are the answers to it: a flow is tracked for either end's sake.
        world.passes(DOWN, back.syn(5000, 443));
        world.passes(UP, syn_ack(&there, 443, 5000));
        world.passes(DOWN, back.udp(5000, 53, b"question"));
        world.passes(UP, there.udp(53, 5000, b"answer"));
        assert_eq!(world.tracked(), 3);
    }
}

#[test]
fn egress_rules_bind_the_source_and_not_its_answers() {
    for (client, _, backend) in FAMILIES {
        let mut world = World::with_rules();
        world.isolate(None, Some(WEB));
        let there = between(client, backend);
        let back = between(backend, client);
        world.denied(DOWN, back.syn(4000, 443));
        world.denied(DOWN, back.udp(4000, 8080, b"a rule for TCP opens no UDP"));
        world.passes(DOWN, back.syn(4000, 8080));
        world.passes(UP, there.syn(4001, 22));
        world.passes(DOWN, syn_ack(&back, 22, 4001));
        world.passes(UP, there.udp(4001, 53, b"question"));
        world.passes(DOWN, back.udp(53, 4001, b"answer"));
        world.denied(DOWN, back.udp(53, 4002, b"an answer to nothing"));
        world.denied(DOWN, syn_ack(&back, 22, 4002));
    }
}

#[test]
fn both_ends_have_a_say() {
    let mut world = World::with_rules();
    world.isolate(Some(WEB), None);
    world.writer.set_cells(EGRESS, &[(BACKENDS, Some(NOTHING))]).unwrap();
    let spec = EndpointSpec { class: CLIENTS, egress: Some(EGRESS), ..EndpointSpec::default() };
    world.endpoint(CLIENT, spec.clone());
    world.writer.publish().unwrap();
    world.denied(UP, between(CLIENT, BACKEND).syn(4000, 8080));
    assert_eq!(world.policy_counts(ALLOW), [0; 3], "one end would have allowed it");
    world.writer.set_cells(EGRESS, &[(BACKENDS, Some(ANYTHING))]).unwrap();
    world.writer.publish().unwrap();
    world.denied(UP, between(CLIENT, BACKEND).syn(4000, 22));
    world.passes(UP, between(CLIENT, BACKEND).syn(4000, 8080));
    assert_eq!(world.policy_counts(ALLOW), [2, 0, 0], "once at each end");
}

#[test]
fn a_rule_opens_its_own_protocol_alone() {
    for (client, _, backend) in FAMILIES {
        let there = between(client, backend);
        let mut world = World::with_rules();
        world.isolate(Some(WEB), None);
        world.passes(UP, there.sctp(4000, 8080, &[1, 0, 0, 4]));
        world.denied(UP, there.udp(4000, 8080, b""));
        world.denied(UP, ping(&there, 7));
        world.denied(UP, there.packet(47, &[0; 8]));
        world.isolate(Some(DATAGRAMS), None);
        world.passes(UP, there.udp(4000, 8080, b""));
        world.denied(UP, there.syn(4001, 8080));
        world.denied(UP, there.sctp(4001, 8080, &[1, 0, 0, 4]));
        world.isolate(Some(ANYTHING), None);
        world.passes(UP, ping(&there, 7));
        world.passes(UP, there.packet(47, &[0; 8]));
    }
}

#[test]
fn a_service_is_judged_by_its_backend_and_the_clients_own_address() {
    for (client, vip, backend) in FAMILIES {
        let mut world = World::with_rules();
        world.isolate(Some(WEB), None);
        world.passes(UP, between(client, vip).syn(4000, 80));
        world.passes(DOWN, syn_ack(&between(backend, client), 8080, 4000));
        world.denied(UP, between(client, vip).udp(4000, 53, b"question"));
        assert_eq!(world.tracked(), 1);
        // Somebody else behind the client's router.
        let stranger = if client == CLIENT { "198.51.100.7" } else { "2001:db8:100::7" };
        world.denied(UP, between(stranger, vip).syn(4000, 80));
    }
}

#[test]
fn a_masqueraded_flow_is_judged_by_the_address_it_came_with() {
    let mut world = World::with_rules();
    let mut frontend = frontend("172.30.0.50", 80, 6);
    frontend.flags = millrace_tables::Frontend::MASQUERADE;
    let outside = service("default/out:http", &[frontend], &[(BACKEND, 8080)]);
    world.writer.set_service("default/out", &outside).unwrap();
    world.isolate(Some(WEB), None);
    world.passes(UP, between(CLIENT, "172.30.0.50").syn(4000, 80));
    world.denied(UP, between("198.51.100.7", "172.30.0.50").syn(4000, 80));
    // Also when it is judged again.
    world.passes(UP, ack(&between(CLIENT, "172.30.0.50"), 4000, 80));
    world.isolate(Some(NOTHING), None);
    world.denied(UP, ack(&between(CLIENT, "172.30.0.50"), 4000, 80));
}

#[test]
fn who_pings_may_be_answered_and_not_pinged() {
    for (client, _, backend) in FAMILIES {
        let mut world = World::with_rules();
        world.isolate(Some(NOTHING), None);
        let there = between(client, backend);
        let back = between(backend, client);
        for id in [0x3288, 1] {
            world.passes(DOWN, ping(&back, id));
            world.passes(UP, pong(&there, id));
            world.denied(UP, ping(&there, id));
            world.denied(UP, pong(&there, id + 1));
        }
    }
}

#[test]
fn errors_about_a_flow_pass_and_others_do_not() {
    for (client, _, backend) in FAMILIES {
        let v4 = client == CLIENT;
        let (router, near) =
            if v4 { ("10.0.1.77", "10.0.2.77") } else { ("2001:db8:1::77", "2001:db8:2::77") };
        let unreachable = if v4 { 3 } else { 1 };
        let mut world = World::with_rules();
        world.isolate(Some(NOTHING), Some(NOTHING));
        let stray = between(backend, client).syn(4000, 443);
        world.denied(UP, between(router, backend).icmp(unreachable, 1, 0, &stray));
        world.isolate(Some(NOTHING), None);
        for sent in [
            between(backend, client).syn(4000, 443),
            between(backend, client).udp(4000, 53, b"question"),
            ping(&between(backend, client), 7),
        ] {
            world.passes(DOWN, sent.clone());
            world.passes(UP, between(router, backend).icmp(unreachable, 1, 0, &sent));
            let mut other = sent.clone();
            let at = if v4 { 20 } else { 40 }
                + if sent[if v4 { 9 } else { 6 }] % 57 == 1 { 5 } else { 1 };
            other[at] ^= 0x55;
            world.denied(UP, between(router, backend).icmp(unreachable, 1, 0, &other));
        }
        // The other way: about what came in.
        world.isolate(Some(WEB), Some(NOTHING));
        let sent = between(client, backend).syn(4000, 8080);
        world.passes(UP, sent.clone());
        world.passes(DOWN, between(near, client).icmp(unreachable, 1, 0, &sent));
    }
}

#[test]
fn the_node_and_the_pod_itself_always_pass() {
    let mut world = World::with_rules();
    world.isolate(Some(NOTHING), Some(NOTHING));
    let node = EndpointSpec { class: CLIENTS, flags: Endpoint::NODE, ..EndpointSpec::default() };
    world.endpoint(CLIENT, node);
    world.writer.publish().unwrap();
    // Somebody else with its address is not the node.
    world.send(UP, &on(&client_link(), between(CLIENT, BACKEND).syn(4000, 8080)));
    assert_eq!(world.verdicts(), [DropReason::Martian.into()]);
    world.make_trunk_of(UP);
    world.passes(UP, between(CLIENT, BACKEND).syn(4000, 8080));
    world.passes(DOWN, between(BACKEND, CLIENT).syn(4000, 10250));
    world.passes(UP, ping(&between(CLIENT, BACKEND), 1));
    world.passes(DOWN, between(BACKEND, BACKEND).udp(4000, 53, b"myself"));
    assert_eq!(world.tracked(), 0);
    world.denied(UP, between("198.51.100.7", BACKEND).syn(4000, 8080));
}

#[test]
fn a_pod_is_judged_on_its_way_to_itself_by_a_service_and_by_rules_for_that_alone() {
    for (_, vip, backend) in FAMILIES {
        let mut world = World::with_rules();
        let mut spec = EndpointSpec {
            class: BACKENDS,
            ingress: Some(INGRESS),
            egress: Some(EGRESS),
            flags: Endpoint::LOCAL,
            ..EndpointSpec::default()
        };
        for (port, itself, passes) in [
            (4000, [None, None], true),
            (4001, [Some(WEB), None], true),
            (4002, [Some(WEB), Some(NOTHING)], false),
            (4003, [Some(DATAGRAMS), Some(WEB)], false),
            (4004, [Some(WEB), Some(ANYTHING)], true),
        ] {
            spec.itself = itself;
            world.endpoint(backend, spec.clone());
            world.writer.publish().unwrap();
            let [there, own] = [vip, backend].map(|to| between(backend, to));
            if passes {
                world.passes(DOWN, there.syn(port, 80));
                world.passes(DOWN, ack(&there, port, 80));
            } else {
                world.denied(DOWN, there.syn(port, 80));
                // What passed before is judged again.
                world.denied(DOWN, ack(&there, 4001, 80));
            }
            world.passes(DOWN, own.syn(port, 8080));
        }
    }
}

#[test]
fn a_pod_that_nothing_is_known_of_is_reached_by_the_node_alone() {
    let mut world = World::with_rules();
    let closed = EndpointSpec { flags: Endpoint::CLOSED, ..EndpointSpec::default() };
    world.writer.set_policy_endpoint("10.0.2.0/24".parse().unwrap(), &closed).unwrap();
    world.endpoint("10.0.2.1", EndpointSpec { flags: Endpoint::NODE, ..EndpointSpec::default() });
    world.writer.publish().unwrap();
    world.passes(UP, between(CLIENT, BACKEND).syn(4000, 8080));
    world.denied(UP, between(CLIENT, "10.0.2.11").syn(4000, 8080));
    world.denied(DOWN, between("10.0.2.11", CLIENT).syn(4000, 8080));
    let to_node = world.down(between("10.0.2.11", "10.0.2.1").udp(1, 2, b""));
    assert!(matches!(to_node, Verdict::Reply(_)), "{to_node:?}");
}

#[test]
fn a_change_ends_what_is_forbidden_now_whichever_way_the_next_packet_goes() {
    for (client, vip, backend) in FAMILIES {
        for back_first in [false, true] {
            let mut world = World::with_rules();
            world.isolate(Some(ANYTHING), None);
            let (direct, service) = (between(client, backend), between(client, vip));
            let back = between(backend, client);
            world.passes(UP, direct.syn(4000, 8080));
            world.passes(DOWN, syn_ack(&back, 8080, 4000));
            world.passes(UP, ack(&direct, 4000, 8080));
            world.passes(UP, service.syn(4001, 80));
            world.passes(DOWN, syn_ack(&back, 8080, 4001));
            world.passes(UP, direct.udp(4000, 8080, b"question"));
            world.isolate(Some(NOTHING), None);
            for _ in 0..2 {
                if back_first {
                    world.denied(DOWN, ack(&back, 8080, 4000));
                    world.denied(DOWN, ack(&back, 8080, 4001));
                }
                world.denied(UP, ack(&direct, 4000, 8080));
                world.denied(UP, ack(&service, 4001, 80));
                world.denied(DOWN, ack(&back, 8080, 4000));
                world.denied(UP, direct.udp(4000, 8080, b"question"));
            }
            // Nor does it come back with a new beginning.
            world.denied(UP, direct.syn(4000, 8080));
            world.denied(UP, ack(&direct, 4000, 8080));
            // What the pod opens is another thing.
            world.passes(DOWN, back.syn(8080, 4000));
            world.passes(UP, syn_ack(&direct, 4000, 8080));
            world.isolate(Some(WEB), None);
            world.passes(UP, ack(&service, 4001, 80));
        }
    }
}

#[test]
fn a_change_leaves_alone_what_goes_on_where_that_is_wanted() {
    let mut world = World::with_rules();
    world.keep_flows();
    world.isolate(Some(ANYTHING), None);
    let there = between(CLIENT, BACKEND);
    let back = between(BACKEND, CLIENT);
    world.passes(UP, there.syn(4000, 8080));
    world.passes(DOWN, syn_ack(&back, 8080, 4000));
    world.isolate(Some(NOTHING), None);
    world.passes(UP, ack(&there, 4000, 8080));
    world.passes(DOWN, ack(&back, 8080, 4000));
    world.denied(UP, there.syn(4001, 8080));
}

#[test]
fn what_was_opened_before_it_was_forbidden_is_not_opened_again_from_its_middle() {
    let mut world = World::with_rules();
    let there = between(CLIENT, BACKEND);
    let back = between(BACKEND, CLIENT);
    // Nobody is isolated, so nothing is remembered.
    world.passes(UP, there.syn(40_000, 8080));
    world.passes(DOWN, syn_ack(&back, 8080, 40_000));
    world.passes(DOWN, back.syn(40_001, 443));
    assert_eq!(world.tracked(), 0);
    world.isolate(Some(NOTHING), None);
    world.denied(DOWN, ack(&back, 8080, 40_000));
    world.denied(UP, ack(&there, 40_000, 8080));
    assert_eq!(world.tracked(), 0);
    // But what the pod has opened itself goes on with its next packet.
    world.denied(UP, ack(&there, 443, 40_001));
    world.passes(DOWN, ack(&back, 40_001, 443));
    world.passes(UP, ack(&there, 443, 40_001));
    // What may be opened is picked up from either side, and then known.
    world.isolate(Some(WEB), None);
    world.passes(DOWN, ack(&back, 8080, 40_002));
    assert_eq!(world.tracked(), 1);
    world.passes(UP, ack(&there, 40_002, 8080));
    assert_eq!(world.tracked(), 2);
}

#[test]
fn who_began_a_flow_of_a_pod_is_known_when_policies_come() {
    for (client, _, backend) in FAMILIES {
        for (keep, back_first) in [(false, false), (false, true), (true, false), (true, true)] {
            let mut world = World::with_rules();
            if keep {
                world.keep_flows();
            }
            world.isolate_with(Endpoint::LOCAL, None, None);
            let (there, back) = (between(client, backend), between(backend, client));
            // Begun by the client, at ports of which the lower is its own, and by the backend.
            world.passes(UP, there.syn(4000, 8080));
            world.passes(DOWN, syn_ack(&back, 8080, 4000));
            world.passes(UP, ack(&there, 4000, 8080));
            world.passes(UP, there.udp(4000, 8080, b"question"));
            world.passes(UP, ping(&there, 7));
            world.passes(DOWN, back.syn(4001, 8080));
            world.passes(UP, syn_ack(&there, 8080, 4001));
            world.passes(DOWN, back.udp(4001, 8080, b"question"));
            world.passes(DOWN, ping(&back, 8));
            assert_eq!(world.tracked(), 6);
            assert_eq!(world.policy_counts(ALLOW), [0; 3], "nobody was judged");
            world.isolate_with(Endpoint::LOCAL, Some(NOTHING), None);
            let begun = |world: &mut World| {
                for (interface, packet) in [
                    (DOWN, ack(&back, 4001, 8080)),
                    (UP, ack(&there, 8080, 4001)),
                    (UP, there.udp(8080, 4001, b"answer")),
                    (UP, pong(&there, 8)),
                ] {
                    world.passes(interface, packet);
                }
            };
            if back_first {
                begun(&mut world);
            }
            for (interface, packet) in [
                (DOWN, ack(&back, 8080, 4000)),
                (UP, ack(&there, 4000, 8080)),
                (DOWN, back.udp(8080, 4000, b"answer")),
                (UP, there.udp(4000, 8080, b"question")),
                (DOWN, pong(&back, 7)),
            ] {
                if keep { world.passes(interface, packet) } else { world.denied(interface, packet) }
            }
            begun(&mut world);
            world.denied(UP, there.syn(4002, 8080));
        }
    }
}

#[test]
fn a_flow_of_a_pod_that_nothing_isolates_needs_no_room() {
    let mut world = World::with_rules();
    world.twins.clear();
    world.isolate_with(Endpoint::LOCAL, None, None);
    for port in 0..5_000u16 {
        world.passes(UP, between(CLIENT, BACKEND).udp(10_000 + port, 53, b""));
    }
    assert!(world.tracked() > 3_000, "{}", world.tracked());
    world.passes(UP, between(CLIENT, BACKEND).packet(47, &[0; 8]));
}

#[test]
fn what_a_pod_sends_to_its_node_is_judged_by_rules_that_are_about_that() {
    let mut world = World::with_rules();
    let node = EndpointSpec { class: CLIENTS, flags: Endpoint::NODE, ..EndpointSpec::default() };
    world.endpoint(CLIENT, node);
    world.make_trunk_of(UP);
    let (probe, back) = (between(CLIENT, BACKEND), between(BACKEND, CLIENT));
    // Isolated, but not from the node.
    world.isolate_with(Endpoint::LOCAL, Some(NOTHING), Some(NOTHING));
    world.passes(DOWN, back.syn(4000, 10250));
    world.passes(UP, syn_ack(&probe, 10250, 4000));
    let begun = |world: &mut World| {
        world.passes(UP, probe.syn(4001, 8080));
        world.passes(DOWN, syn_ack(&back, 8080, 4001));
        world.passes(UP, ack(&probe, 4001, 8080));
        world.passes(UP, ping(&probe, 7));
        world.passes(DOWN, pong(&back, 7));
    };
    begun(&mut world);
    let fenced = Endpoint::LOCAL | Endpoint::FENCED;
    world.isolate_with(fenced, Some(NOTHING), Some(NOTHING));
    world.denied(DOWN, ack(&back, 4000, 10250));
    world.denied(DOWN, back.syn(4002, 10250));
    world.denied(DOWN, ping(&back, 9));
    begun(&mut world);
    world.isolate_with(fenced, Some(NOTHING), Some(WEB));
    world.denied(DOWN, back.syn(4003, 10250));
    world.passes(DOWN, back.syn(4003, 8080));
    world.passes(UP, syn_ack(&probe, 8080, 4003));
}

#[test]
fn what_is_for_the_engine_s_own_address_is_judged_before_it_is_answered() {
    let mut world = World::with_rules();
    let node = EndpointSpec { class: CLIENTS, flags: Endpoint::NODE, ..EndpointSpec::default() };
    world.endpoint("10.0.2.1", node);
    world.isolate_with(Endpoint::LOCAL | Endpoint::FENCED, None, Some(NOTHING));
    world.denied(DOWN, ping(&between(BACKEND, "10.0.2.1"), 7));
    world.denied(DOWN, between(BACKEND, "10.0.2.1").udp(4000, 53, b""));
    assert_eq!(world.tracked(), 0);
    world.isolate_with(Endpoint::LOCAL | Endpoint::FENCED, None, Some(ANYTHING));
    for _ in 0..2 {
        let answer = world.down(ping(&between(BACKEND, "10.0.2.1"), 7));
        assert!(matches!(answer, Verdict::Reply(_)), "{answer:?}");
    }
    assert_eq!((world.tracked(), world.policy_counts(ALLOW)[0]), (1, 1));
}

#[test]
fn an_echo_of_identifier_0_is_asked_by_one_end_alone() {
    for (client, _, backend) in FAMILIES {
        let mut world = World::with_rules();
        world.isolate(Some(NOTHING), None);
        let (there, back) = (between(client, backend), between(backend, client));
        world.denied(UP, pong(&there, 0));
        world.denied(UP, ping(&there, 0));
        // An answer that nobody has asked for may be sent, and opens nothing.
        world.passes(DOWN, pong(&back, 0));
        assert_eq!(world.tracked(), 0);
        world.denied(UP, ping(&there, 0));
        world.passes(DOWN, ping(&back, 0));
        world.passes(UP, pong(&there, 0));
        world.denied(UP, ping(&there, 0));
        world.passes(UP, pong(&there, 0));
        world.passes(DOWN, ping(&back, 0));
        assert_eq!(world.tracked(), 1);
    }
}

#[test]
fn a_flow_that_there_is_no_room_to_remember_is_dropped() {
    let mut world = World::with_rules();
    world.twins.clear();
    world.isolate(Some(ANYTHING), None);
    let mut full = 0;
    for port in 0..5_000u16 {
        let packet = between(CLIENT, BACKEND).udp(10_000 + port, 53, b"");
        match world.up(packet) {
            Verdict::Drop(DropReason::ConntrackFull) => full += 1,
            verdict => assert!(is_sent(&verdict), "{verdict:?}"),
        }
    }
    assert!(full > 800, "{full} flows found the table full");
    assert_eq!(world.up(between(CLIENT, "10.0.2.11").syn(1, 2)), world.verdicts()[0]);
    // Those who need no memory go on.
    assert_ne!(world.verdicts()[0], Verdict::Drop(DropReason::ConntrackFull));
}

/// A UDP datagram in two parts; `ids` of both.
fn halves(src: &str, dst: &str, sport: u16, dport: u16) -> [Vec<u8>; 2] {
    let ip = between(src, dst);
    let whole = ip.udp(sport, dport, &[7; 120])[20..].to_vec();
    [(0usize, 64usize), (64, 128)].map(|(from, to)| {
        let mut ip = ip.clone();
        ip.fragment = Some((from as u16, to < whole.len()));
        ip.packet(17, &whole[from..to])
    })
}

#[test]
fn fragments_are_judged_by_the_ports_of_the_first() {
    let mut world = World::with_rules();
    world.isolate(Some(DATAGRAMS), None);
    let [first, later] = halves(CLIENT, BACKEND, 4000, 8080);
    world.passes(UP, first);
    world.passes(UP, later);
    let [first, later] = halves("10.0.1.3", BACKEND, 4000, 8080);
    world.denied(UP, first);
    world.denied(UP, later);
    // Answers are of the flow.
    let [first, later] = halves(BACKEND, CLIENT, 8080, 4000);
    world.passes(DOWN, first);
    world.passes(DOWN, later);
}

#[test]
fn a_fragment_without_its_first_does_not_get_in() {
    let mut world = World::with_rules();
    world.isolate(Some(DATAGRAMS), None);
    let [first, later] = halves(CLIENT, BACKEND, 4000, 8080);
    world.send(UP, &on(&client_link(), later.clone()));
    assert!(matches!(world.verdicts()[0], Verdict::Hold { .. }));
    world.tick(2 * SECOND);
    assert_eq!(world.verdicts(), [Verdict::Drop(DropReason::FragmentTimeout)]);
    // Nor does one that would write over the ports of the first.
    world.passes(UP, first.clone());
    let mut over = between(CLIENT, BACKEND);
    over.fragment = Some((8, true));
    world.send(UP, &on(&client_link(), over.packet(17, &[9; 64])));
    assert_eq!(world.verdicts(), [Verdict::Drop(DropReason::FragmentInvalid)]);
}

#[test]
fn what_would_be_denied_is_counted_and_passes() {
    let mut world = World::with_rules();
    world.isolate(Some(WATCHED), None);
    for port in 0..3 {
        world.passes(UP, between(CLIENT, BACKEND).syn(4000 + port, 8080));
        world.passes(UP, ack(&between(CLIENT, BACKEND), 4000 + port, 8080));
    }
    assert_eq!(world.policy_counts(SHADOW), [0, 0, 3]);
    assert_eq!(world.policy_counts(ALLOW), [3, 0, 0]);
}

#[test]
fn a_flow_that_waits_for_its_neighbor_is_counted_once() {
    let mut world = World::with_rules();
    world.isolate(None, None);
    let spec = EndpointSpec { ingress: Some(INGRESS), ..EndpointSpec::default() };
    world.writer.set_cells(INGRESS, &[(CLIENTS, Some(ANYTHING))]).unwrap();
    world.endpoint("10.0.2.12", spec);
    world.writer.publish().unwrap();
    world.up(between(CLIENT, "10.0.2.12").syn(4000, 8080));
    assert_eq!(world.policy_counts(ALLOW), [0; 3]);
    let answer =
        crate::packets::arp(&backend_link(), 2, (BACKEND_MAC, "10.0.2.12"), (DOWN_MAC, "10.0.2.1"));
    world.send(DOWN, &answer);
    assert_eq!(world.tick(0).len(), 1);
    assert_eq!(world.policy_counts(ALLOW), [1, 0, 0]);
}
