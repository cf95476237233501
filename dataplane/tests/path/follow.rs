//! Flows and clients follow the endpoints: UDP flows of a backend that is gone begin anew (feature E2), clients with affinity keep theirs (D13), and
//! flows from outside of the source ranges don't begin (D6).

use std::collections::BTreeSet;

use millrace_dataplane::clock::{MILLISECOND, SECOND};
use millrace_dataplane::pipeline::service::is_stale;
use millrace_dataplane::trace::Step;
use millrace_dataplane::verdict::{DropReason, ReplyKind, Verdict};
use millrace_tables::{Frontend, FrontendSpec, InterfaceId, NextHop, RouteSpec, ServiceSpec};

use crate::packets::{between, on};
use crate::world::*;

const OTHER: &str = "172.30.0.70";
const CLIENT: &str = "198.51.100.7";

fn spec(backends: &[(&str, u16)]) -> ServiceSpec {
    service("default/dns:dns", &[frontend(OTHER, 53, 17), frontend(OTHER, 80, 6)], backends)
}

fn set(world: &mut World, spec: &ServiceSpec) {
    world.writer.set_service("default/dns", spec).unwrap();
    world.writer.publish().unwrap();
}

/// Backends 10.0.2.11 to .13 are behind the one.
fn world(backends: &[(&str, u16)]) -> World {
    let mut world = World::new();
    for last in 11..14 {
        let hop = NextHop { interface: InterfaceId(DOWN), gateway: Some(addr("10.0.2.10")) };
        let prefix = format!("10.0.2.{last}/32").parse().unwrap();
        world.writer.set_route(prefix, &RouteSpec::Forward(vec![(hop, 1)])).unwrap();
    }
    set(&mut world, &spec(backends));
    world
}

/// Destination address and port of what left.
fn destination(world: &mut World, packet: Vec<u8>) -> (u8, u16) {
    let sent = world.send(UP, &on(&client_link(), packet));
    assert_eq!(sent.len(), 1, "{:#?}", world.steps);
    let bytes = &sent[0].bytes;
    (bytes[33], u16::from_be_bytes([bytes[36], bytes[37]]))
}

#[test]
fn a_udp_flow_leaves_a_backend_that_is_gone_after_a_moment_and_tcp_stays() {
    let mut world = world(&[("10.0.2.10", 8053)]);
    let udp = || between(CLIENT, OTHER).udp(4000, 53, b"q");
    let tcp = || between(CLIENT, OTHER).tcp(4000, 80, |tcp| tcp.ack = true, b"x");
    assert_eq!(destination(&mut world, udp()), (10, 8053));
    assert_eq!(destination(&mut world, tcp()), (10, 8053));
    let mut before = (10, 8053);
    for (backends, expected) in [
        (&[("10.0.2.10", 8053), ("10.0.2.11", 8053)][..], (10, 8053)),
        (&[("10.0.2.12", 8053)], (12, 8053)),
        (&[("10.0.2.12", 9053)], (12, 9053)),
    ] {
        set(&mut world, &spec(backends));
        for _ in 0..2 {
            assert_eq!(destination(&mut world, udp()), before, "answers may be under way");
            world.now += 49 * MILLISECOND;
        }
        before = expected;
        for _ in 0..3 {
            assert_eq!(destination(&mut world, udp()), expected);
            assert_eq!(destination(&mut world, tcp()), (10, 8053));
        }
    }
    // To zero and back: no entry is made meanwhile.
    set(&mut world, &spec(&[]));
    assert_eq!(destination(&mut world, udp()), (12, 9053));
    world.now += 50 * MILLISECOND;
    world.send(UP, &on(&client_link(), udp()));
    assert_eq!(world.verdicts(), [Verdict::Reply(ReplyKind::PortUnreachable)]);
    set(&mut world, &spec(&[("10.0.2.13", 8053)]));
    assert_eq!(destination(&mut world, udp()), (13, 8053));
}

#[test]
fn a_udp_flow_stays_when_its_backend_comes_back_at_once() {
    let mut world = world(&[("10.0.2.10", 8053)]);
    let udp = || between(CLIENT, OTHER).udp(4000, 53, b"q");
    destination(&mut world, udp());
    for _ in 0..10 {
        set(&mut world, &spec(&[("10.0.2.11", 8053)]));
        assert_eq!(destination(&mut world, udp()), (10, 8053));
        world.now += 30 * MILLISECOND;
        set(&mut world, &spec(&[("10.0.2.10", 8053), ("10.0.2.11", 8053)]));
        assert_eq!(destination(&mut world, udp()), (10, 8053));
        world.now += 30 * MILLISECOND;
    }
}

#[test]
fn an_endpoint_in_no_set_keeps_its_flows_and_gets_no_new_ones() {
    let mut world = world(&[("10.0.2.10", 8053)]);
    let udp = |port| between(CLIENT, OTHER).udp(port, 53, b"q");
    assert_eq!(destination(&mut world, udp(4000)), (10, 8053));
    let mut leaving = spec(&[("10.0.2.10", 8053), ("10.0.2.11", 8053)]);
    leaving.backends[0].in_cluster = false;
    leaving.backends[0].terminating = true;
    set(&mut world, &leaving);
    assert_eq!(destination(&mut world, udp(4000)), (10, 8053));
    for port in 4001..4020 {
        assert_eq!(destination(&mut world, udp(port)), (11, 8053));
    }
}

#[test]
fn late_answers_of_a_backend_that_is_gone_still_come_from_the_service() {
    let mut world = world(&[("10.0.2.10", 8053)]);
    destination(&mut world, between(CLIENT, OTHER).udp(4000, 53, b"q"));
    set(&mut world, &spec(&[("10.0.2.11", 8053)]));
    let answer = on(&backend_link(), between("10.0.2.10", CLIENT).udp(8053, 4000, b"a"));
    let sent = world.send(DOWN, &answer);
    let out = between(OTHER, CLIENT).ttl(63).udp(53, 4000, b"a");
    assert_eq!(sent[0].bytes, on(&to_client(), out));
}

#[test]
fn housekeeping_finds_the_flows_of_gone_backends_and_no_others() {
    for count in [2, 300] {
        // Beyond 256 backends a service is kept in another form.
        let many: Vec<String> =
            (0..count).map(|n| format!("10.0.{}.{}", 2 + n / 200, 10 + n % 200)).collect();
        let backends: Vec<(&str, u16)> = many.iter().map(|it| (it.as_str(), 8053)).collect();
        let mut world = world(&[("10.0.2.10", 8053)]);
        for port in 4000..4010 {
            destination(&mut world, between(CLIENT, OTHER).udp(port, 53, b"q"));
        }
        destination(&mut world, between(CLIENT, OTHER).tcp(4000, 80, |tcp| tcp.ack = true, b"x"));
        set(&mut world, &spec(&backends));
        let review_after = |world: &mut World, seconds: u64, idle| {
            let now = world.now + seconds * SECOND;
            let tables = world.writer.tables();
            let snapshot = tables.snapshot();
            let conntrack = &mut world.workers[0].state.conntrack;
            conntrack.review(0..u32::MAX, (now, idle), |service, original, translated| {
                is_stale(&snapshot, service, original, translated)
            })
        };
        let review = |world: &mut World| review_after(world, 0, 0);
        assert_eq!(review(&mut world), 0, "its backend is there");
        let without: Vec<(&str, u16)> = backends[1..].to_vec();
        set(&mut world, &spec(&without));
        assert_eq!(review_after(&mut world, 1, 1), 0, "answers may be under way");
        assert_eq!(review_after(&mut world, 2, 1), 10);
        assert_eq!(review(&mut world), 0);
    }
}

#[test]
fn a_flow_of_the_last_service_does_not_outlive_it() {
    let mut world = world(&[("10.0.2.10", 8053)]);
    destination(&mut world, between(CLIENT, OTHER).udp(4000, 53, b"q"));
    let keys: Vec<String> = world.writer.service_keys().map(str::to_owned).collect();
    keys.iter().for_each(|key| assert!(world.writer.remove_service(key).unwrap()));
    world.writer.publish().unwrap();
    let tables = world.writer.tables();
    let now = world.now;
    let gone = world.workers[0].state.conntrack.review(
        0..u32::MAX,
        (now, 0),
        |service, original, translated| is_stale(&tables.snapshot(), service, original, translated),
    );
    assert_eq!(gone, 1);
}

#[test]
fn an_engine_that_knows_of_no_service_yet_forgets_nothing() {
    let mut world = world(&[("10.0.2.10", 8053)]);
    destination(&mut world, between(CLIENT, OTHER).udp(4000, 53, b"q"));
    let empty =
        millrace_tables::Writer::create(&millrace_tables::SegmentConfig::default()).unwrap();
    let tables = empty.tables();
    let now = world.now;
    let conntrack = &mut world.workers[0].state.conntrack;
    let none = conntrack.review(0..u32::MAX, (now, 0), |service, original, translated| {
        is_stale(&tables.snapshot(), service, original, translated)
    });
    assert_eq!(none, 0);
}

#[test]
fn a_client_with_affinity_keeps_its_backend_while_that_is_there() {
    let four = [("10.0.2.10", 8053), ("10.0.2.11", 8053), ("10.0.2.12", 8053), ("10.0.2.13", 8053)];
    let with_affinity = |backends: &[(&str, u16)]| {
        let mut spec = ServiceSpec { affinity_seconds: 60, ..spec(backends) };
        spec.frontends.iter_mut().for_each(|it| it.flags = Frontend::AFFINITY);
        spec
    };
    let mut world = world(&four);
    set(&mut world, &with_affinity(&four[..2]));
    let clients: Vec<String> = (1..100).map(|n| format!("198.51.100.{n}")).collect();
    let mut port = 1000;
    let mut all = |world: &mut World| -> Vec<u8> {
        port += 1;
        let to = |client: &String| destination(world, between(client, OTHER).udp(port, 53, b"q")).0;
        clients.iter().map(to).collect()
    };
    let before = all(&mut world);
    assert_eq!(before.iter().collect::<BTreeSet<_>>().len(), 2);
    set(&mut world, &with_affinity(&four));
    for _ in 0..3 {
        world.now += 59 * SECOND;
        world.learn();
        assert_eq!(all(&mut world), before, "each flow begins the time anew");
    }
    // One goes: its clients move and stay where they are; the others' don't move.
    set(&mut world, &with_affinity(&four[1..]));
    let after = all(&mut world);
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(*before == 10, before != after);
    }
    assert_eq!(all(&mut world), after);
    world.now += 61 * SECOND;
    world.learn();
    let over = all(&mut world);
    assert_ne!(over, after, "placed anew");
    assert_eq!(over.iter().collect::<BTreeSet<_>>().len(), 3);
}

#[test]
fn flows_from_outside_of_the_source_ranges_do_not_begin() {
    let mut world = World::new();
    let closed = FrontendSpec { flags: Frontend::SOURCE_RANGES, ..frontend(OTHER, 80, 6) };
    let open = frontend(OTHER, 81, 6);
    let mut spec = service("default/lb:http", &[closed, open], &[("10.0.2.10", 8080)]);
    spec.source_ranges = vec!["198.51.100.0/25".parse().unwrap()];
    world.writer.set_service("default/lb", &spec).unwrap();
    world.writer.publish().unwrap();
    let syn = |client, port| on(&client_link(), between(client, OTHER).syn(4000, port));
    assert_eq!(world.send(UP, &syn("198.51.100.127", 80)).len(), 1);
    assert_eq!(world.send(UP, &syn("198.51.100.128", 81)).len(), 1);
    world.expect(
        UP,
        &syn("198.51.100.128", 80),
        DropReason::SourceRange.into(),
        &[],
        &["up0 rx_packets", "up0 source_range"],
    );
    // A flow that goes on is not asked again.
    spec.source_ranges = vec!["192.0.2.0/24".parse().unwrap()];
    world.writer.set_service("default/lb", &spec).unwrap();
    world.writer.publish().unwrap();
    assert_eq!(world.send(UP, &syn("198.51.100.127", 80)).len(), 1);
    assert!(world.steps.iter().any(|step| matches!(step, Step::Tracked { .. })));
    assert!(matches!(
        world.verdicts()[..],
        [Verdict::Transmit { interface: InterfaceId(DOWN), .. }]
    ));
}
