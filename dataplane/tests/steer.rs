//! The steering program on a real interface: what attaches, what refuses, what the kernel still gets.
//!
//! A veth pair joins two namespaces: `router`, where the program is attached, and `peer`, an ordinary host.
//! The verdict on each kind of frame is in `src/steer/program_tests.rs`.

mod common;

use common::eventually;
use common::netns::{End, Namespace, veth};
use common::peers::udp;
use millrace_dataplane::steer::maps::Maps;
use millrace_dataplane::steer::{Error, Mode, Options, Steering};
use millrace_wire::Mac;
use std::net::SocketAddr;
use std::time::Duration;

const QUEUES: u32 = 2;

/// Two namespaces and the pair between them.
struct Pair {
    router: Namespace,
    peer: Namespace,
}

impl Pair {
    /// `router` has 10.9.0.1 and `peer` 10.9.0.2, on devices named `wire`.
    fn new(mtu: u32) -> Self {
        let (router, peer) = (Namespace::new("router"), Namespace::new("peer"));
        veth(
            &End { namespace: &router, device: "wire" },
            &End { namespace: &peer, device: "wire" },
            QUEUES,
            mtu,
        );
        router.address("wire", "10.9.0.1/24");
        peer.address("wire", "10.9.0.2/24");
        Self { router, peer }
    }

    fn attach(&self) -> Result<Steering, Error> {
        let options = options(&self.router, "wire");
        let index = index(&self.router, "wire");
        self.router.run(|| Steering::attach("wire", index, &[], &options))
    }
}

fn options(namespace: &Namespace, device: &str) -> Options {
    let shown = namespace.ip(&format!("-o link show dev {device}"));
    let mac = shown.split_once("link/").unwrap().1.split_whitespace().nth(1).unwrap();
    let mac: Mac = mac.parse().unwrap();
    Options { mode: Mode::Router, mac, queues: QUEUES, stale_after: Duration::from_secs(2) }
}

fn index(namespace: &Namespace, device: &str) -> u32 {
    let shown = namespace.ip(&format!("-o link show dev {device}"));
    shown.split(':').next().unwrap().parse().unwrap()
}

fn has_program(namespace: &Namespace) -> bool {
    namespace.ip("link show dev wire").contains("prog/xdp")
}

#[test]
fn dropping_the_steering_detaches_the_program() {
    require_root!();
    let pair = Pair::new(1500);
    assert!(!has_program(&pair.router));
    let steering = pair.attach().unwrap();
    let shown = pair.router.ip("link show dev wire");
    assert!(
        has_program(&pair.router) && !shown.contains("xdpgeneric"),
        "not in native mode: {shown}"
    );
    drop(steering);
    // Not at once: a child that another test is forking has the descriptor too, until it executes `ip`.
    eventually("no program on the interface", Duration::from_secs(2), || {
        !has_program(&pair.router)
    });
}

#[test]
fn without_a_heartbeat_or_a_socket_the_kernel_serves_everything() {
    require_root!();
    let pair = Pair::new(1500);
    let echo = SocketAddr::from(([10, 9, 0, 1], 7));
    let _server = udp::serve_echo(&pair.router, echo, "kernel");
    let mut steering = pair.attach().unwrap();

    let answer = pair.peer.run(|| udp::ask(echo, "never beaten")).unwrap();
    assert_eq!(answer, "kernel never beaten");
    let stale = steering.statistics().unwrap();
    assert!(stale.stale >= 2 && stale.unbound == 0, "ARP and UDP were ours: {stale:?}");

    steering.beat().unwrap();
    let answer = pair.peer.run(|| udp::ask(echo, "no socket")).unwrap();
    assert_eq!(answer, "kernel no socket");
    let unbound = steering.statistics().unwrap();
    assert!(unbound.unbound >= 1 && unbound.redirected == 0, "{unbound:?}");
}

#[test]
fn an_mtu_of_9000_is_attached_to_and_passes_jumbo_frames() {
    require_root!();
    let pair = Pair::new(9000);
    let echo = SocketAddr::from(([10, 9, 0, 1], 7));
    let _server = udp::serve_echo(&pair.router, echo, "jumbo");
    let steering = pair.attach().unwrap();
    // `serve_echo` answers the first 2 KiB; the request fills a frame of several buffers.
    let question = "x".repeat(8900);
    let answer = pair.peer.run(|| udp::ask(echo, &question)).unwrap();
    assert!(answer.starts_with("jumbo xxx"), "{answer}");
    assert!(steering.statistics().unwrap().stale >= 1);
}

#[test]
fn a_second_program_is_refused_with_the_first_one_s_name() {
    require_root!();
    let pair = Pair::new(1500);
    let _first = pair.attach().unwrap();
    let error = pair.attach().unwrap_err();
    assert!(matches!(error, Error::Occupied { .. }), "{error}");
    let message = error.to_string();
    assert!(
        message.contains("interface wire") && message.contains("\"millrace_steer\" (id "),
        "{message}"
    );
}

#[test]
fn a_driver_without_native_xdp_is_refused_and_nothing_is_left_attached() {
    require_root!();
    let pair = Pair::new(1500);
    let error = pair
        .router
        .run(|| Steering::attach("lo", 1, &[], &options(&pair.router, "wire")).unwrap_err());
    assert!(matches!(error, Error::NoNativeXdp { .. }), "{error}");
    assert!(!pair.router.ip("link show dev lo").contains("xdp"));
}

#[test]
fn an_interface_that_is_gone_is_named() {
    require_root!();
    let pair = Pair::new(1500);
    let error = pair
        .router
        .run(|| Steering::attach("gone0", 999, &[], &options(&pair.router, "wire")).unwrap_err());
    assert!(
        matches!(error, Error::Missing { .. }) && error.to_string().contains("gone0"),
        "{error}"
    );
}

#[test]
fn a_peer_with_more_transmit_queues_than_we_have_queues_is_refused() {
    require_root!();
    let (router, peer) = (Namespace::new("router"), Namespace::new("peer"));
    router.ip(&format!(
        "link add wire numrxqueues 1 numtxqueues 1 type veth peer name wire netns {} numrxqueues 4 numtxqueues 4",
        peer.name()
    ));
    for namespace in [&router, &peer] {
        namespace.ip("link set wire up");
    }
    let error = router.run(|| {
        Steering::attach("wire", index(&router, "wire"), &[], &options(&router, "wire"))
            .unwrap_err()
    });
    assert!(matches!(error, Error::TooFewQueues { .. }), "{error}");
}

#[test]
fn an_engine_that_adopts_the_maps_keeps_the_holder_s_program_alive() {
    require_root!();
    let pair = Pair::new(1500);
    let echo = SocketAddr::from(([10, 9, 0, 1], 7));
    let _server = udp::serve_echo(&pair.router, echo, "kernel");
    let holder = pair.attach().unwrap();
    let mut engine = Maps::adopt(holder.handles().unwrap()).unwrap();
    engine.beat().unwrap();
    pair.peer.run(|| udp::ask(echo, "beaten by the engine")).unwrap();
    let seen = engine.statistics().unwrap();
    assert!(seen.unbound >= 2 && seen.stale == 0, "{seen:?}");
    drop(engine);
    assert!(has_program(&pair.router));
}
