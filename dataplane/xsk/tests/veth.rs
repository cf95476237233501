//! Real packets of real kernels over veth. Needs root; says SKIP and why without.

#[path = "veth/world.rs"]
mod world;

#[path = "veth/traffic.rs"]
mod traffic;

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use arrayvec::ArrayVec;
use millrace_xsk::{
    Error, Frame, Interface, Mode, PageSize, Pool, RingSizes, Socket, SocketConfig, TxOffload,
    Umem, UmemConfig,
    program::{Link, Program, SocketMap},
};
use world::{ADDRESS_A, ADDRESS_B, MAC_A, MAC_B, World, in_world};

/// Small rings, so that four sockets are served by few frames.
fn config(interface: &str, queue: u32) -> SocketConfig {
    SocketConfig {
        rings: RingSizes { fill: 256, completion: 256, rx: 256, tx: 256 },
        ..SocketConfig::new(Interface::named(interface).unwrap(), queue)
    }
}

fn umem(frames: u32) -> (Arc<Umem>, Pool) {
    let (umem, frames) = Umem::new(&UmemConfig { frames, ..UmemConfig::default() }).unwrap();
    let pool = Pool::new(&umem, frames);
    (umem, pool)
}

/// The sockets of both queues of an interface, with a program that redirects to them.
fn open(interface: &str, umem: &Arc<Umem>) -> (Vec<Socket>, Link) {
    let map = SocketMap::new(2).unwrap();
    let sockets: Vec<Socket> =
        (0..2).map(|queue| Socket::bind(&config(interface, queue), umem).unwrap()).collect();
    for (queue, socket) in sockets.iter().enumerate() {
        map.insert(queue as u32, socket).unwrap();
    }
    let link =
        Program::redirect(&map).unwrap().attach(&Interface::named(interface).unwrap()).unwrap();
    (sockets, link)
}

/// What a forwarder saw.
#[derive(Debug, Default)]
struct Seen {
    /// Packets by socket: a0 queue 0 and 1, b0 queue 0 and 1.
    packets: [usize; 4],
    most_segments: usize,
}

/// Moves packets between a0 and b0, queue by queue, while `traffic` runs in another thread; then checks that every
/// frame of the UMEM is accounted for, and back in the pool once the sockets are closed.
fn forward_during<T: Send>(world: &World, traffic: impl FnOnce(&World) -> T + Send) -> (T, Seen) {
    let (umem, mut pool) = umem(2048);
    let (mut sockets, _link_a) = open("a0", &umem);
    let (more, _link_b) = open("b0", &umem);
    sockets.extend(more);
    let done = AtomicBool::new(false);
    let mut seen = Seen::default();
    let result = std::thread::scope(|scope| {
        let run = || {
            let _end = SetOnDrop(&done);
            traffic(world)
        };
        let traffic = scope.spawn(run);
        while !done.load(Relaxed) {
            for from in 0..4 {
                forward(&umem, &mut sockets, from, &mut pool, &mut seen);
            }
            let in_kernel: u32 = sockets.iter().map(Socket::in_kernel).sum();
            assert_eq!(pool.len() + in_kernel as usize, 2048, "a frame is lost");
        }
        traffic.join()
    });
    for socket in sockets {
        assert_eq!(socket.statistics().unwrap().refused, 0);
        assert_eq!(socket.close(&mut pool), 0);
    }
    assert_eq!(pool.len(), 2048);
    (result.unwrap_or_else(|panic| std::panic::resume_unwind(panic)), seen)
}

struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

fn forward(umem: &Umem, sockets: &mut [Socket], from: usize, pool: &mut Pool, seen: &mut Seen) {
    let to = (from + 2) % 4;
    let mut burst = ArrayVec::<Frame, 64>::new();
    sockets[from].refill(pool);
    seen.packets[from] += sockets[from].receive(&mut burst);
    for frame in burst {
        seen.most_segments = seen.most_segments.max(frame.segments());
        let offload = partial_checksum(umem.bytes(&frame));
        if let Err(frame) = sockets[to].transmit(frame, offload) {
            pool.put(frame);
        }
    }
    sockets[to].flush();
    sockets[to].reap(pool);
}

/// Every TCP and UDP packet of a local kernel comes over veth with only its pseudo-header sum.
fn partial_checksum(packet: &[u8]) -> TxOffload {
    match (packet.get(12..14), packet.get(23)) {
        (Some([8, 0]), Some(6)) => TxOffload::Checksum { start: 34, offset: 16 },
        (Some([8, 0]), Some(17)) => TxOffload::Checksum { start: 34, offset: 6 },
        _ => TxOffload::None,
    }
}

#[test]
fn two_interfaces_with_two_queues_each_share_a_umem_and_carry_udp_both_ways() {
    in_world(1500, |world| {
        let ((), seen) = forward_during(world, |world| {
            let b = world.b.udp(ADDRESS_B, 7000);
            for port in 8000..8064 {
                let a = world.a.udp(ADDRESS_A, port);
                let mut buffer = [0; 64];
                a.send_to(&port.to_be_bytes(), (ADDRESS_B, 7000)).unwrap();
                let (len, sender) = b.recv_from(&mut buffer).expect("datagram from a to b");
                assert_eq!((&buffer[..len], sender.port()), (&port.to_be_bytes()[..], port));
                b.send_to(b"back", sender).unwrap();
                let len = a.recv(&mut buffer).expect("datagram from b to a");
                assert_eq!(&buffer[..len], b"back");
            }
        });
        assert!(
            seen.packets[0] > 0 && seen.packets[1] > 0,
            "one queue of a0 saw nothing: {seen:?}"
        );
        assert!(seen.packets[2] + seen.packets[3] >= 64, "{seen:?}");
        assert_eq!(seen.most_segments, 1);
    });
}

/// Sends `bytes` by TCP from `a` to `b`, returns what came back as its length and whether it was the same.
fn tcp_transfer(world: &World, bytes: &[u8]) -> Vec<u8> {
    let listener = world.b.inside(|| TcpListener::bind((ADDRESS_B, 7001)).unwrap());
    let limit = Some(Duration::from_secs(20));
    std::thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(limit).unwrap();
            let mut received = Vec::new();
            stream.read_to_end(&mut received).expect("the stream in time");
            received
        });
        let address = (ADDRESS_B, 7001).into();
        let connect = || TcpStream::connect_timeout(&address, Duration::from_secs(5));
        let mut stream = world.a.inside(connect).expect("TCP connection through the forwarder");
        stream.set_write_timeout(limit).unwrap();
        stream.write_all(bytes).expect("the stream taken in time");
        drop(stream);
        receiver.join().unwrap()
    })
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|index| (index * 31 + index / 251) as u8).collect()
}

#[test]
fn tcp_with_checksums_completed_by_tx_metadata_arrives_intact() {
    in_world(1500, |world| {
        let sent = pattern(2_000_000);
        let (received, _) = forward_during(world, |world| tcp_transfer(world, &sent));
        assert!(received == sent, "{} bytes arrived of {}, or others", received.len(), sent.len());
    });
}

#[test]
fn jumbo_frames_come_and_go_as_several_descriptors_intact() {
    in_world(9000, |world| {
        let sent = pattern(8900);
        let ((), seen) = forward_during(world, |world| {
            let (a, b) = (world.a.udp(ADDRESS_A, 8000), world.b.udp(ADDRESS_B, 7000));
            let mut buffer = vec![0; 16384];
            for (from, to, address) in [(&a, &b, (ADDRESS_B, 7000)), (&b, &a, (ADDRESS_A, 8000))] {
                from.send_to(&sent, address).unwrap();
                let len = to.recv(&mut buffer).expect("jumbo datagram");
                assert!(buffer[..len] == sent, "{len} bytes arrived, not those sent");
            }
        });
        assert_eq!(seen.most_segments, 3, "8942 bytes in chunks of 3840");
        let sent = pattern(2_000_000);
        let (received, _) = forward_during(world, |world| tcp_transfer(world, &sent));
        assert!(received == sent, "{} bytes arrived of {}, or others", received.len(), sent.len());
    });
}

/// An Ethernet, IPv4 and UDP packet from a to b with the pseudo-header sum alone where the checksum goes.
fn udp_packet_with_pseudo_sum(payload: &[u8]) -> Vec<u8> {
    let udp_len = 8 + payload.len() as u16;
    let mut packet = [&MAC_B[..], &MAC_A, &[8, 0]].concat();
    let mut ip =
        [&[0x45, 0][..], &(20 + udp_len).to_be_bytes(), &[0, 1, 0, 0, 64, 17, 0, 0]].concat();
    ip.extend(ADDRESS_A.octets().into_iter().chain(ADDRESS_B.octets()));
    let check = !sum(&ip);
    ip[10..12].copy_from_slice(&check.to_be_bytes());
    let pseudo = [&ip[12..20], &[0, 17], &udp_len.to_be_bytes()].concat();
    packet.extend(ip);
    packet.extend([8000_u16, 7000, udp_len, sum(&pseudo)].map(u16::to_be_bytes).concat());
    packet.extend(payload);
    packet
}

/// The ones' complement sum of RFC 1071, not complemented.
fn sum(bytes: &[u8]) -> u16 {
    let words =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let total: u32 = words.sum();
    let folded = (total & 0xffff) + (total >> 16);
    ((folded & 0xffff) + (folded >> 16)) as u16
}

#[test]
fn a_kernel_receiver_takes_udp_with_only_the_pseudo_sum_if_metadata_asks_for_the_rest() {
    in_world(9000, |world| {
        let (umem, mut pool) = umem(512);
        let mut socket = Socket::bind(&config("b0", 0), &umem).unwrap();
        let receiver = world.b.udp(ADDRESS_B, 7000);
        let mut buffer = vec![0; 16384];
        let offload = TxOffload::Checksum { start: 34, offset: 6 };
        assert!(socket.has_checksum_offload());
        for len in [0, 1, 300, 1400, 8000] {
            // The first has a wrong checksum, so that only the second may arrive.
            let wrong = umem.store(&udp_packet_with_pseudo_sum(&vec![1; len]), &mut pool).unwrap();
            let right =
                umem.store(&udp_packet_with_pseudo_sum(&vec![2; len + 1]), &mut pool).unwrap();
            socket.transmit(wrong, TxOffload::None).unwrap();
            socket.transmit(right, offload).unwrap();
            socket.flush();
            let received = receiver.recv(&mut buffer).expect("the packet with metadata");
            assert_eq!(&buffer[..received], vec![2; len + 1]);
            socket.reap(&mut pool);
        }
        assert_eq!(socket.statistics().unwrap().tx_invalid_descriptors, 0);
        socket.close(&mut pool);
        assert_eq!(pool.len(), 512);
    });
}

#[test]
fn a_burst_larger_than_one_send_call_takes_leaves_whole() {
    in_world(1500, |world| {
        let (umem, mut pool) = umem(512);
        let mut socket =
            Socket::bind(&SocketConfig { tx_budget: 32, ..config("b0", 0) }, &umem).unwrap();
        let receiver = world.b.udp(ADDRESS_B, 7000);
        for index in 0..128 {
            let frame = umem.store(&udp_packet_with_pseudo_sum(&[index]), &mut pool).unwrap();
            socket.transmit(frame, TxOffload::Checksum { start: 34, offset: 6 }).unwrap();
        }
        // Nothing on the way holds fewer than 128, so the one flush must send all.
        socket.flush();
        assert_eq!(socket.holdings().tx, 0);
        let mut received = Vec::<u8>::new();
        while received.len() < 128 {
            let mut buffer = [0; 64];
            let len = receiver.recv(&mut buffer).expect("all of the burst");
            received.extend(&buffer[..len]);
        }
        assert_eq!(received, (0..128).collect::<Vec<u8>>());
        assert!(socket.statistics().unwrap().kicks >= 4);
        socket.close(&mut pool);
    });
}

#[test]
fn a_queue_beyond_the_channels_is_refused_with_their_number() {
    in_world(1500, |_| {
        let (umem, _pool) = umem(64);
        let error = Socket::bind(&config("a0", 2), &umem).unwrap_err();
        assert!(error.to_string().starts_with("a0 has no queue 2: it has 2 (0 to 1)"), "{error}");
    });
}

#[test]
fn a_taken_queue_is_tried_again_until_the_deadline() {
    in_world(1500, |_| {
        let (umem, _pool) = umem(64);
        let _first = Socket::bind(&config("a0", 0), &umem).unwrap();
        let (other, _other_pool) = self::umem(64);
        for umem in [umem, other] {
            let begin = Instant::now();
            let bind_deadline = Duration::from_millis(100);
            let error = Socket::bind(&SocketConfig { bind_deadline, ..config("a0", 0) }, &umem)
                .unwrap_err();
            assert!(matches!(error, Error::Busy { .. }), "{error}");
            assert!(begin.elapsed() >= bind_deadline);
        }
    });
}

#[test]
fn a_queue_can_be_bound_again_after_its_socket_is_dropped() {
    in_world(1500, |_| {
        let (umem, mut pool) = umem(512);
        for _ in 0..3 {
            let mut socket = Socket::bind(&config("a0", 0), &umem).unwrap();
            socket.refill(&mut pool);
            assert_eq!((pool.len(), socket.holdings().fill), (256, 256));
            assert_eq!(socket.close(&mut pool), 0);
            assert_eq!(pool.len(), 512);
        }
    });
}

#[test]
fn the_first_socket_may_go_while_others_share_its_registration() {
    in_world(1500, |_| {
        let (umem, _pool) = umem(64);
        let first = Socket::bind(&config("a0", 0), &umem).unwrap();
        let second = Socket::bind(&config("a0", 1), &umem).unwrap();
        drop(first);
        let third = Socket::bind(&config("b0", 0), &umem).unwrap();
        drop((second, third));
        Socket::bind(&config("b0", 1), &umem).unwrap();
    });
}

#[test]
fn zero_copy_is_tried_and_copy_reported_or_its_lack_explained() {
    in_world(1500, |_| {
        let (umem, _pool) = umem(64);
        assert!(!Socket::bind(&config("a0", 0), &umem).unwrap().is_zero_copy());
        let error = Socket::bind(&SocketConfig { mode: Mode::ZeroCopy, ..config("b0", 0) }, &umem)
            .unwrap_err();
        assert!(error.to_string().starts_with("b0: its driver has no zero-copy mode"), "{error}");
    });
}

#[test]
fn busy_poll_options_are_accepted() {
    in_world(1500, |_| {
        let (umem, _pool) = umem(64);
        let busy_poll = Some(millrace_xsk::BusyPoll { microseconds: 20, budget: 64 });
        let mut socket =
            Socket::bind(&SocketConfig { busy_poll, ..config("a0", 0) }, &umem).unwrap();
        assert_eq!(socket.receive(&mut ArrayVec::<Frame, 64>::new()), 0);
    });
}

#[test]
fn an_empty_fill_ring_shows_in_the_statistics() {
    in_world(1500, |world| {
        let (umem, mut pool) = umem(64);
        let (mut sockets, _link) = open("a0", &umem);
        let a = world.a.udp(ADDRESS_A, 8000);
        for _ in 0..8 {
            a.send_to(b"nowhere to go", (ADDRESS_B, 7000)).unwrap();
        }
        let statistics = |sockets: &[Socket]| -> u64 {
            sockets.iter().map(|socket| socket.statistics().unwrap().rx_fill_ring_empty).sum()
        };
        let begin = Instant::now();
        while statistics(&sockets) < 8 {
            assert!(
                begin.elapsed() < Duration::from_secs(5),
                "{} of 8 counted",
                statistics(&sockets)
            );
        }
        for socket in &mut sockets {
            assert_eq!(socket.receive_each(64, |frame| pool.put(frame)), 0);
        }
    });
}

#[test]
fn a_second_program_is_refused_with_the_reason() {
    in_world(1500, |_| {
        let interface = Interface::named("a0").unwrap();
        let _link = Program::pass_all().unwrap().attach(&interface).unwrap();
        let error = Program::drop_all().unwrap().attach(&interface).unwrap_err();
        assert!(error.to_string().starts_with("a0 already has an XDP program"), "{error}");
    });
}

#[test]
fn huge_pages_work_where_there_are_any() {
    in_world(1500, |_| {
        let config = UmemConfig { frames: 512, pages: PageSize::Huge, ..UmemConfig::default() };
        let (umem, frames) = match Umem::new(&config) {
            Ok(made) => made,
            Err(error) => {
                assert!(error.to_string().contains("sysctl vm.nr_hugepages=1"), "{error}");
                println!("SKIP: {error}");
                return;
            }
        };
        let mut pool = Pool::new(&umem, frames);
        let mut socket = Socket::bind(&self::config("a0", 0), &umem).unwrap();
        socket.refill(&mut pool);
        assert_eq!(socket.holdings().fill, 256);
        socket.close(&mut pool);
    });
}
