//! Beside a kernel that leads all packets of isolated pods here: what the engine lets pass goes back, and the kernel tracks it once (feature F1, F8).
//!
//! [`BACKEND`] is the isolated pod, on the link behind the trunk. What comes out of the kernel untracked goes back to be tracked, and what was tracked there
//! already comes from the MAC of what it is only to send on.

use millrace_dataplane::verdict::{DropReason, Verdict};
use millrace_tables::{Endpoint, EndpointSpec, NodeSpec};

use crate::packets::{Link, between, on};
use crate::rules::*;
use crate::trunk::{
    NEIGHBOR, NODE, OUTSIDE, REMOTE, ROUTED, WEB as SERVICE, ask, from_kernel, onward, to_kernel,
};
use crate::world::*;

/// Isolated in both directions, so that it may ask `OUTSIDE` and nobody may ask it.
fn world(backend: &str) -> World {
    let mut world = crate::trunk::world(backend, false).given_rules();
    world.isolate(Some(NOTHING), Some(ANYTHING));
    world
}

/// What the kernel has led here goes back to it.
#[track_caller]
fn returns(world: &mut World, (from, to): (&str, &str), ports: (u16, u16), link: Link) {
    let sent = world.send(DOWN, &on(&from_kernel(), ask(&between(from, to), ports.0, ports.1)));
    assert_eq!(sent.len(), 1, "{:#?}", world.steps);
    let expected = on(&link, ask(&between(from, to).ttl(63), ports.0, ports.1));
    assert_eq!((sent[0].interface, &sent[0].bytes), (DOWN, &expected));
}

/// What comes by the uplink goes to the pod.
#[track_caller]
fn arrives(world: &mut World, from: &str, ports: (u16, u16), link: Link) {
    let sent = world.send(UP, &on(&client_link(), ask(&between(from, BACKEND), ports.0, ports.1)));
    assert_eq!(sent.len(), 1, "{:#?}", world.steps);
    let expected = on(&link, ask(&between(from, BACKEND).ttl(63), ports.0, ports.1));
    assert_eq!((sent[0].interface, &sent[0].bytes), (DOWN, &expected));
}

#[track_caller]
fn denied(world: &mut World, interface: u16, (from, to): (&str, &str), ports: (u16, u16)) {
    let link = if interface == UP { client_link() } else { from_kernel() };
    assert_eq!(
        world.send(interface, &on(&link, ask(&between(from, to), ports.0, ports.1))),
        vec![]
    );
    assert_eq!(world.verdicts(), [DropReason::Policy.into()]);
}

#[test]
fn what_a_pod_sends_out_of_the_cluster_is_judged_and_given_back() {
    for known in [true, false] {
        let mut world = world(BACKEND);
        if !known {
            // Which addresses are pods' nobody says.
            world.writer.set_node(&NodeSpec::default()).unwrap();
            world.writer.publish().unwrap();
        }
        for _ in 0..3 {
            returns(&mut world, (BACKEND, OUTSIDE), (4000, 53), to_kernel());
            // The kernel has taken its own translation off the answer, and led it here.
            returns(&mut world, (OUTSIDE, BACKEND), (53, 4000), onward());
        }
        // One that nobody has translated comes by the uplink, and the kernel has not seen it.
        let mut world = self::world(BACKEND);
        returns(&mut world, (BACKEND, OUTSIDE), (4000, 53), to_kernel());
        arrives(&mut world, OUTSIDE, (53, 4000), to_kernel());
        denied(&mut world, UP, (OUTSIDE, BACKEND), (54, 4000));
        denied(&mut world, DOWN, (OUTSIDE, BACKEND), (54, 4000));
        world.isolate(Some(NOTHING), Some(WEB));
        denied(&mut world, DOWN, (BACKEND, OUTSIDE), (4000, 53));
        denied(&mut world, DOWN, (OUTSIDE, BACKEND), (53, 4000));
    }
}

#[test]
fn what_begins_outside_and_came_by_the_kernel_finds_back_through_it() {
    let mut world = world(BACKEND);
    world.isolate(Some(ANYTHING), Some(NOTHING));
    // By a host port, or a tunnel.
    returns(&mut world, (OUTSIDE, BACKEND), (4000, 53), onward());
    returns(&mut world, (BACKEND, OUTSIDE), (53, 4000), to_kernel());
    arrives(&mut world, OUTSIDE, (4001, 53), to_kernel());
    returns(&mut world, (BACKEND, OUTSIDE), (53, 4001), to_kernel());
    denied(&mut world, DOWN, (BACKEND, OUTSIDE), (54, 4001));
}

#[test]
fn pods_of_other_nodes_are_reached_without_the_kernel_and_answers_are_not_tracked() {
    let mut world = world(BACKEND);
    let spec = EndpointSpec { class: CLIENTS, ..EndpointSpec::default() };
    world.endpoint(REMOTE, spec.clone());
    world.endpoint(ROUTED, spec);
    world.writer.publish().unwrap();
    let sent = world.send(DOWN, &on(&from_kernel(), ask(&between(BACKEND, REMOTE), 4000, 53)));
    assert_eq!((sent.len(), sent[0].interface), (1, UP), "{:#?}", world.steps);
    arrives(&mut world, REMOTE, (53, 4000), onward());
    // One that the kernel routes (of this node, or behind a tunnel).
    returns(&mut world, (BACKEND, ROUTED), (4000, 53), to_kernel());
    returns(&mut world, (ROUTED, BACKEND), (53, 4000), onward());
    // Isolated both: untracked on both sides.
    let isolated =
        EndpointSpec { class: CLIENTS, ingress: Some(EGRESS), ..EndpointSpec::default() };
    world.endpoint(ROUTED, isolated);
    world
        .writer
        .set_cells(EGRESS, &[(CLIENTS, Some(ANYTHING)), (BACKENDS, Some(ANYTHING))])
        .unwrap();
    world.writer.publish().unwrap();
    returns(&mut world, (BACKEND, ROUTED), (4001, 53), onward());
    returns(&mut world, (ROUTED, BACKEND), (53, 4001), onward());
}

#[test]
fn services_answers_go_to_the_pod_that_asked_tracked() {
    // The kernel tracks what a pod sends to a service.
    let mut world = world(ROUTED);
    let spec = EndpointSpec { class: CLIENTS, ..EndpointSpec::default() };
    world.endpoint(ROUTED, spec);
    world.writer.publish().unwrap();
    let asked = world.send(DOWN, &on(&from_kernel(), ask(&between(BACKEND, SERVICE), 4000, 53)));
    let leaves = on(&to_kernel(), ask(&between(BACKEND, ROUTED).ttl(63), 4000, 5353));
    assert_eq!((asked[0].interface, &asked[0].bytes), (DOWN, &leaves));
    let back = world.send(DOWN, &on(&from_kernel(), ask(&between(ROUTED, BACKEND), 5353, 4000)));
    let expected = on(&to_kernel(), ask(&between(SERVICE, BACKEND).ttl(63), 53, 4000));
    assert_eq!((back[0].interface, &back[0].bytes), (DOWN, &expected));
    // As a backend its answers come here untracked: so does what they answer leave.
    let mut world = self::world(BACKEND);
    world.isolate(Some(ANYTHING), Some(NOTHING));
    let asked = world.send(UP, &on(&client_link(), ask(&between(OUTSIDE, SERVICE), 4000, 53)));
    let leaves = on(&onward(), ask(&between(OUTSIDE, BACKEND).ttl(63), 4000, 5353));
    assert_eq!((asked[0].interface, &asked[0].bytes), (DOWN, &leaves));
    let back = world.send(DOWN, &on(&from_kernel(), ask(&between(BACKEND, OUTSIDE), 5353, 4000)));
    let expected = on(&to_client(), ask(&between(SERVICE, OUTSIDE).ttl(63), 53, 4000));
    assert_eq!((back[0].interface, &back[0].bytes), (UP, &expected));
    // From its neighbor on the link the kernel masquerades it, and has to track it.
    let neighbor = EndpointSpec { class: CLIENTS, ..EndpointSpec::default() };
    world.endpoint(NEIGHBOR, neighbor);
    world.writer.publish().unwrap();
    let asked = world.send(DOWN, &on(&from_kernel(), ask(&between(NEIGHBOR, SERVICE), 4000, 53)));
    assert_eq!((asked[0].interface, &asked[0].bytes[..12]), (DOWN, &to_kernel().bytes(0)[..12]));
    assert_eq!(&asked[0].bytes[26..30], &[169, 254, 77, 1]);
}

#[test]
fn neighbors_on_a_bridge_are_judged_where_it_shows_what_it_switches() {
    let mut world = world(BACKEND);
    world.endpoint(NEIGHBOR, EndpointSpec { class: CLIENTS, ..EndpointSpec::default() });
    world.isolate(Some(WEB), Some(ANYTHING));
    returns(&mut world, (BACKEND, NEIGHBOR), (4000, 53), to_kernel());
    returns(&mut world, (NEIGHBOR, BACKEND), (53, 4000), onward());
    denied(&mut world, DOWN, (NEIGHBOR, BACKEND), (54, 4000));
}

#[test]
fn a_pod_that_nothing_is_known_of_reaches_nobody_outside() {
    let mut world = world(BACKEND);
    let closed = EndpointSpec { flags: Endpoint::CLOSED, ..EndpointSpec::default() };
    world.writer.set_policy_endpoint("10.0.2.0/24".parse().unwrap(), &closed).unwrap();
    world.writer.publish().unwrap();
    denied(&mut world, DOWN, (NEIGHBOR, OUTSIDE), (4000, 53));
    denied(&mut world, DOWN, (NEIGHBOR, "198.51.100.9"), (4000, 53));
    denied(&mut world, DOWN, (OUTSIDE, NEIGHBOR), (4000, 53));
    returns(&mut world, (BACKEND, OUTSIDE), (4000, 53), to_kernel());
}

#[test]
fn what_a_fenced_pod_sends_to_its_node_is_judged_and_given_back() {
    let mut world = world(BACKEND);
    let node = EndpointSpec { class: CLIENTS, flags: Endpoint::NODE, ..EndpointSpec::default() };
    world.endpoint(NODE, node);
    world.isolate_with(Endpoint::LOCAL | Endpoint::FENCED, Some(NOTHING), Some(ANYTHING));
    for _ in 0..2 {
        returns(&mut world, (BACKEND, NODE), (4000, 53), to_kernel());
        returns(&mut world, (NODE, BACKEND), (53, 4000), onward());
    }
    // What the node begins needs no leave.
    returns(&mut world, (NODE, BACKEND), (4001, 53), onward());
    world.isolate_with(Endpoint::LOCAL | Endpoint::FENCED, Some(NOTHING), Some(WEB));
    denied(&mut world, DOWN, (BACKEND, NODE), (4000, 53));
}

#[test]
fn where_the_engine_has_no_route_the_kernel_may_have_one() {
    let mut world = world(BACKEND);
    let spec = EndpointSpec { class: CLIENTS, ..EndpointSpec::default() };
    world.endpoint("192.88.99.9", spec);
    world.writer.publish().unwrap();
    returns(&mut world, (BACKEND, "192.88.99.9"), (4000, 53), to_kernel());
    returns(&mut world, ("192.88.99.9", BACKEND), (53, 4000), onward());
    // Not for others: for them the engine answers.
    world.send(DOWN, &on(&from_kernel(), ask(&between(ROUTED, "192.88.99.9"), 4000, 53)));
    assert!(matches!(world.verdicts()[..], [Verdict::Reply(_)]), "{:#?}", world.verdicts());
}

#[test]
fn where_changes_leave_flows_alone_all_pods_are_led_here() {
    let mut world = world(BACKEND);
    world.isolate_with(Endpoint::LOCAL, None, None);
    world.keep_flows();
    returns(&mut world, (BACKEND, OUTSIDE), (4000, 53), to_kernel());
    returns(&mut world, (OUTSIDE, BACKEND), (53, 4000), onward());
    world.isolate_with(Endpoint::LOCAL, Some(NOTHING), Some(NOTHING));
    returns(&mut world, (BACKEND, OUTSIDE), (4000, 53), to_kernel());
    returns(&mut world, (OUTSIDE, BACKEND), (53, 4000), onward());
    denied(&mut world, DOWN, (BACKEND, OUTSIDE), (4001, 53));
}
