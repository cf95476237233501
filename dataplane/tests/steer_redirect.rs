//! With sockets and a heartbeat: what is ours reaches the sockets and nothing else does.
//!
//! A veth pair joins `router`, whose queues are bound, and `peer`, an ordinary host. The router's kernel keeps an
//! address and sockets of its own: a frame that was passed would be delivered there.

mod common;

use common::netns::{End, Namespace, veth};
use common::{eventually, peers::udp};
use millrace_dataplane::steer::{Mode, Options, Steering};
use millrace_wire::Mac;
use millrace_xsk::{Interface, Pool, Socket, SocketConfig, TxOffload, Umem, UmemConfig};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, eth, recv, socket_with};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

const QUEUES: u32 = 2;
const SECOND: Duration = Duration::from_secs(1);
/// Long enough for a frame to arrive that should not.
const QUIET: Duration = Duration::from_millis(100);

/// All queues of one device, as an engine binds them.
struct Sockets {
    umem: Arc<Umem>,
    pools: Vec<Pool>,
    sockets: Vec<Socket>,
}

impl Sockets {
    fn bind(namespace: &Namespace, device: &str) -> Self {
        namespace.run(|| {
            let (umem, frames) =
                Umem::new(&UmemConfig { frames: 512, ..UmemConfig::default() }).unwrap();
            let mut all = Pool::new(&umem, frames);
            let mut pools = Vec::new();
            let mut sockets = Vec::new();
            for queue in 0..QUEUES {
                let config = SocketConfig::new(Interface::named(device).unwrap(), queue);
                let mut pool = all.split(256);
                let mut socket = Socket::bind(&config, &umem).unwrap();
                socket.set_fill_level(128);
                socket.refill(&mut pool);
                pools.push(pool);
                sockets.push(socket);
            }
            Self { umem, pools, sockets }
        })
    }

    /// Every packet that has come: its queue and whole bytes.
    fn take(&mut self) -> Vec<(usize, Vec<u8>)> {
        let mut packets = Vec::new();
        for (queue, (socket, pool)) in self.sockets.iter_mut().zip(&mut self.pools).enumerate() {
            let mut frames = Vec::new();
            socket.receive_each(64, |frame| frames.push(frame));
            for frame in frames {
                let mut bytes = Vec::new();
                self.umem.for_each_segment(&frame, |segment| bytes.extend(segment));
                packets.push((queue, bytes));
                pool.put(frame);
            }
            socket.refill(pool);
        }
        packets
    }

    fn send(&mut self, bytes: &[u8]) {
        let frame = self.umem.store(bytes, &mut self.pools[0]).unwrap();
        assert!(self.sockets[0].transmit(frame, TxOffload::None).is_ok());
        self.sockets[0].flush();
    }
}

struct World {
    router: Namespace,
    peer: Namespace,
    sockets: Sockets,
    steering: Steering,
}

impl World {
    fn new(mtu: u32, stale_after: Duration) -> Self {
        let (router, peer) = (Namespace::new("router"), Namespace::new("peer"));
        let end = |namespace| End { namespace, device: "wire" };
        veth(&end(&router), &end(&peer), QUEUES, mtu);
        router.address("wire", "10.9.0.1/24");
        peer.address("wire", "10.9.0.2/24");
        let shown = router.ip("-o link show dev wire");
        let index = shown.split(':').next().unwrap().parse().unwrap();
        let mac = shown.split_once("link/ether ").unwrap().1.split(' ').next().unwrap();
        // The engine isn't there to answer ARP.
        peer.ip(&format!("neigh replace 10.9.0.1 lladdr {mac} dev wire nud permanent"));
        let mac: Mac = mac.parse().unwrap();
        let options = Options { mode: Mode::Router, mac, queues: QUEUES, stale_after };
        let sockets = Sockets::bind(&router, "wire");
        let pairs: Vec<_> = (0..).zip(sockets.sockets.iter().map(AsFd::as_fd)).collect();
        let mut steering =
            router.run(|| Steering::attach("wire", index, &pairs, &options)).unwrap();
        steering.beat().unwrap();
        Self { router, peer, sockets, steering }
    }

    /// A socket of the router's kernel.
    fn kernel(&self, address: impl Into<SocketAddr>) -> UdpSocket {
        let address = address.into();
        self.router.run(|| {
            let socket = UdpSocket::bind(address).unwrap();
            socket.set_read_timeout(Some(SECOND)).unwrap();
            socket
        })
    }
}

fn is_udp(packet: &[u8], payload: &[u8]) -> bool {
    packet.get(12..14) == Some(&[8, 0][..]) && packet.ends_with(payload)
}

#[test]
fn unicast_reaches_the_sockets_of_both_queues_and_not_the_kernel() {
    require_root!();
    let mut world = World::new(1500, Duration::from_secs(60));
    let kernel = world.kernel(([0, 0, 0, 0], 4000));
    kernel.set_read_timeout(Some(QUIET)).unwrap();
    world.peer.run(|| {
        for flow in 0..64u8 {
            let socket = UdpSocket::bind("10.9.0.2:0").unwrap();
            socket.send_to(&[b'f', b'l', b'o', b'w', flow], "10.9.0.1:4000").unwrap();
        }
    });
    let mut seen = Vec::new();
    eventually("64 datagrams at the sockets", SECOND, || {
        seen.extend(
            world
                .sockets
                .take()
                .into_iter()
                .filter(|(_, bytes)| is_udp(&bytes[..bytes.len() - 1], b"flow")),
        );
        seen.len() == 64
    });
    let first = seen.iter().filter(|(queue, _)| *queue == 0).count();
    assert!((1..64).contains(&first), "all on one queue: {first} on the first");
    assert!(kernel.recv(&mut [0; 64]).is_err(), "the kernel saw a redirected datagram");
    assert!(world.steering.statistics().unwrap().redirected >= 64);
}

#[test]
fn arp_reaches_the_sockets_and_the_kernel_does_not_answer() {
    require_root!();
    let mut world = World::new(1500, Duration::from_secs(60));
    world.peer.ip("neigh del 10.9.0.1 dev wire");
    world.peer.run(|| UdpSocket::bind("10.9.0.2:0").unwrap().send_to(b"x", "10.9.0.1:9").unwrap());
    let mut requests = 0;
    eventually("an ARP request", SECOND, || {
        requests += world
            .sockets
            .take()
            .iter()
            .filter(|(_, bytes)| bytes.get(12..14) == Some(&[8, 6][..]))
            .count();
        requests > 0
    });
    std::thread::sleep(QUIET);
    let neighbor = world.peer.ip("neigh show 10.9.0.1 dev wire");
    assert!(!neighbor.contains("lladdr"), "the router's kernel answered: {neighbor}");
}

#[test]
fn dhcp_mdns_and_lldp_reach_the_kernel_while_sockets_are_bound() {
    require_root!();
    let mut world = World::new(1500, Duration::from_secs(60));
    let dhcp = world.kernel(([0, 0, 0, 0], 67));
    let mdns = world.kernel(([0, 0, 0, 0], 5353));
    let group = Ipv4Addr::new(224, 0, 0, 251);
    mdns.join_multicast_v4(&group, &Ipv4Addr::new(10, 9, 0, 1)).unwrap();
    // Sees every frame that the kernel got.
    let witness: OwnedFd = world.router.run(|| {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        socket_with(AddressFamily::PACKET, SocketType::RAW, flags, Some(eth::ALL)).unwrap()
    });
    world.peer.run(|| {
        let socket = UdpSocket::bind("10.9.0.2:0").unwrap();
        socket.set_broadcast(true).unwrap();
        socket.send_to(b"discover", "255.255.255.255:67").unwrap();
        socket.send_to(b"query", (group, 5353)).unwrap();
    });
    let lldp =
        [&[1, 0x80, 0xc2, 0, 0, 0x0e, 2, 0, 0, 0, 0, 2, 0x88, 0xcc][..], &[2, 7, 4], &[0; 43]]
            .concat();
    Sockets::bind(&world.peer, "wire").send(&lldp);

    let mut bytes = [0; 2048];
    assert_eq!(dhcp.recv(&mut bytes).unwrap(), b"discover".len());
    assert_eq!(mdns.recv(&mut bytes).unwrap(), b"query".len());
    eventually(
        "the LLDP frame at the kernel",
        SECOND,
        || matches!(recv(&witness, &mut bytes[..], RecvFlags::empty()), Ok((n, _)) if bytes[..n] == lldp[..]),
    );
    let redirected = world.sockets.take();
    assert!(
        redirected.iter().all(|(_, bytes)| bytes[0] & 1 == 0),
        "group frames at the sockets: {redirected:?}"
    );
}

#[test]
fn a_stale_heartbeat_gives_the_kernel_what_was_ours_and_a_beat_takes_it_back() {
    require_root!();
    let stale_after = Duration::from_millis(400);
    let mut world = World::new(1500, stale_after);
    let echo = SocketAddr::from(([10, 9, 0, 1], 4000));
    let _kernel = udp::serve_echo(&world.router, echo, "kernel");
    std::thread::sleep(stale_after * 2);
    assert_eq!(world.peer.run(|| udp::ask(echo, "anyone?")).unwrap(), "kernel anyone?");
    world.sockets.take();

    world.steering.beat().unwrap();
    world.peer.run(|| UdpSocket::bind("10.9.0.2:0").unwrap().send_to(b"back", echo).unwrap());
    eventually("the datagram at a socket", SECOND, || {
        world.sockets.take().iter().any(|(_, bytes)| is_udp(bytes, b"back"))
    });
}

#[test]
fn closed_sockets_and_a_dropped_steering_leave_everything_to_the_kernel() {
    require_root!();
    let mut world = World::new(1500, Duration::from_secs(60));
    let echo = SocketAddr::from(([10, 9, 0, 1], 4000));
    let _kernel = udp::serve_echo(&world.router, echo, "kernel");
    // Asked again: a child that another test is forking holds the descriptors until it executes `ip`.
    let answers = |peer: &Namespace, question: &str| {
        eventually("the kernel's answer", SECOND * 5, || {
            let answer = peer.run(|| udp::ask(echo, question));
            answer.is_ok_and(|answer| answer == format!("kernel {question}"))
        });
    };
    world.sockets.sockets.clear();
    answers(&world.peer, "closed");
    assert!(world.steering.statistics().unwrap().unbound >= 1);
    drop(world.steering);
    answers(&world.peer, "dropped");
}

#[test]
fn a_jumbo_datagram_reaches_the_socket_whole() {
    require_root!();
    let mut world = World::new(9000, Duration::from_secs(60));
    let payload: Vec<u8> = (0..8900u32).map(|n| (n % 251) as u8).collect();
    world
        .peer
        .run(|| UdpSocket::bind("10.9.0.2:0").unwrap().send_to(&payload, "10.9.0.1:4000").unwrap());
    eventually("the datagram at a socket", SECOND, || {
        let packets = world.sockets.take();
        packets
            .iter()
            .any(|(_, bytes)| bytes.len() == 14 + 20 + 8 + payload.len() && is_udp(bytes, &payload))
    });
}
