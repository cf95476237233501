//! The rings around the line: all queues of one interface to the first queue of another.

use super::Options;
use super::line::{Leave, Line};
use super::truth::Truth;
use arrayvec::ArrayVec;
use millrace_xsk::program::{Link, Program, SocketMap};
use millrace_xsk::{
    Frame, Interface, Pool, RingSizes, Socket, SocketConfig, TxOffload, Umem, UmemConfig,
};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Packets taken off a ring at a time.
const BURST: usize = 64;
/// The kernel builds a packet a call in copy mode; an idle forwarder sleeps this long.
const NAP: Duration = Duration::from_micros(20);

/// One interface with its sockets.
struct Side {
    sockets: Vec<Socket>,
    _map: SocketMap,
    _link: Link,
}

impl Side {
    fn open(name: &str, umem: &Arc<Umem>, fill: u32) -> Result<Self, millrace_xsk::Error> {
        let interface = Interface::named(name)?;
        let queues = interface.queues().unwrap_or(1).max(1);
        let map = SocketMap::new(queues)?;
        let fill = (fill / queues).max(64);
        let fill = if fill.is_power_of_two() { fill } else { fill.next_power_of_two() / 2 };
        let mut sockets = Vec::new();
        for queue in 0..queues {
            let rings = RingSizes { fill, rx: fill, ..RingSizes::default() };
            let config = SocketConfig { rings, ..SocketConfig::new(interface.clone(), queue) };
            let socket = Socket::bind(&config, umem)?;
            map.insert(queue, socket.as_fd())?;
            sockets.push(socket);
        }
        let link = Program::redirect(&map)?.attach(&interface)?;
        Ok(Self { sockets, _map: map, _link: link })
    }

    fn dropped(&self) -> u64 {
        let of = |socket: &Socket| {
            socket
                .statistics()
                .map_or(0, |s| s.rx_dropped + s.rx_ring_full + s.rx_invalid_descriptors)
        };
        self.sockets.iter().map(of).sum()
    }
}

/// Forwards until `stop`, then sends what still waits and says what it did. `ready` is called when the sockets are there, and told
/// whether they are in zero-copy mode.
pub fn run(
    options: &Options,
    stop: &AtomicBool,
    ready: impl FnOnce(bool),
) -> Result<Truth, String> {
    let mut line: Line<Frame> = options.line()?;
    if let Some(cpu) = options.cpu
        && !core_affinity::set_for_current(core_affinity::CoreId { id: cpu })
    {
        return Err(format!("--cpu {cpu}: can't run there"));
    }
    let config = UmemConfig { frames: options.frames, chunk_size: 4096, ..UmemConfig::default() };
    let (umem, frames) = Umem::new(&config).map_err(|e| e.to_string())?;
    let mut pool = Pool::new(&umem, frames);
    let open = |name: &str| {
        Side::open(name, &umem, options.frames / 8).map_err(|e| format!("{name}: {e}"))
    };
    let mut sides = [open(&options.from)?, open(&options.to)?];
    for socket in sides.iter_mut().flat_map(|side| &mut side.sockets) {
        socket.refill(&mut pool);
    }
    ready(sides.iter().flat_map(|side| &side.sockets).all(Socket::is_zero_copy));
    let began = Instant::now();
    let mut burst = ArrayVec::<Frame, BURST>::new();
    while !stop.load(Ordering::Relaxed) {
        let [from, to] = &mut sides;
        let Some(out) = to.sockets.first_mut() else { break };
        let now = began.elapsed().as_nanos() as u64;
        let mut came = 0;
        for socket in &mut from.sockets {
            came += socket.receive(&mut burst);
            for frame in burst.drain(..) {
                take(&umem, &mut line, frame, now, out, &mut pool);
            }
        }
        line_out(&umem, &mut line, now, out, &mut pool);
        if options.both_ways {
            came += back(to, from, &mut pool);
        }
        for socket in sides.iter_mut().flat_map(|side| &mut side.sockets) {
            socket.flush();
            socket.reap(&mut pool);
            socket.refill(&mut pool);
        }
        if came == 0 && line.is_empty() {
            std::thread::sleep(NAP);
        }
    }
    let [from, to] = &mut sides;
    if let Some(out) = to.sockets.first_mut() {
        let mut left = Vec::new();
        line.flush(|frame, leave| left.push((frame, leave)));
        for (frame, leave) in left {
            send(&umem, &mut line, frame, leave, out, &mut pool);
        }
        let stuck = drain(out, &mut pool).min(line.truth.sent);
        (0..stuck).for_each(|_| line.failed(false));
    }
    line.truth.kernel_dropped = from.dropped();
    for socket in sides.into_iter().flat_map(|side| side.sockets) {
        socket.close(&mut pool);
    }
    Ok(line.truth)
}

/// A frame that came in.
fn take(
    umem: &Umem,
    line: &mut Line<Frame>,
    mut frame: Frame,
    now: u64,
    out: &mut Socket,
    pool: &mut Pool,
) {
    if !is_judged(umem.bytes_mut(&mut frame)) {
        match transmit(out, frame, pool) {
            Ok(()) => line.truth.passed += 1,
            Err(frame) => pool.put(frame),
        }
        return;
    }
    if let Some(dropped) = line.enter(frame, now) {
        pool.put(dropped);
    }
}

/// What is due.
fn line_out(umem: &Umem, line: &mut Line<Frame>, now: u64, out: &mut Socket, pool: &mut Pool) {
    let mut failed = ArrayVec::<bool, { 4 * BURST }>::new();
    line.leave(now, |frame, leave| {
        for copy in try_send(umem, frame, leave, out, pool) {
            let _ = failed.try_push(copy);
        }
    });
    failed.into_iter().for_each(|copy| line.failed(copy));
}

fn send(
    umem: &Umem,
    line: &mut Line<Frame>,
    frame: Frame,
    leave: Leave,
    out: &mut Socket,
    pool: &mut Pool,
) {
    try_send(umem, frame, leave, out, pool).into_iter().for_each(|copy| line.failed(copy));
}

/// Sends a frame, and a copy of it where asked. Returns what could not be: false the frame, true its copy.
fn try_send(
    umem: &Umem,
    frame: Frame,
    leave: Leave,
    out: &mut Socket,
    pool: &mut Pool,
) -> ArrayVec<bool, 2> {
    let mut failed = ArrayVec::new();
    let copy = match leave {
        Leave::Once => None,
        Leave::Twice => {
            let bytes: Vec<u8> = umem.segments(&frame).flatten().copied().collect();
            let copy = umem.store(&bytes, pool);
            if copy.is_none() {
                failed.push(true);
            }
            copy
        }
    };
    if let Err(frame) = transmit(out, frame, pool) {
        pool.put(frame);
        failed.push(false);
    }
    if let Some(copy) = copy
        && let Err(copy) = transmit(out, copy, pool)
    {
        pool.put(copy);
        failed.push(true);
    }
    failed
}

/// Puts a frame on the ring, making room first if need be: a full ring is no reason for a loss that nobody planned.
fn transmit(out: &mut Socket, frame: Frame, pool: &mut Pool) -> Result<(), Frame> {
    let mut frame = frame;
    for _ in 0..1000 {
        match out.transmit(frame, TxOffload::None) {
            Ok(()) => return Ok(()),
            Err(back) => frame = back,
        }
        out.flush();
        out.reap(pool);
    }
    Err(frame)
}

/// Waits until all that is on the ring has left. Returns how many the kernel did not take within a second.
fn drain(out: &mut Socket, pool: &mut Pool) -> u64 {
    let deadline = Instant::now() + Duration::from_secs(1);
    loop {
        out.flush();
        out.reap(pool);
        let holdings = out.holdings();
        if holdings.tx + holdings.completion + holdings.in_flight == 0 || Instant::now() > deadline
        {
            return u64::from(holdings.tx);
        }
        std::thread::sleep(NAP);
    }
}

/// The other direction, untouched.
fn back(from: &mut Side, to: &mut Side, pool: &mut Pool) -> usize {
    let Some(out) = to.sockets.first_mut() else { return 0 };
    let mut burst = ArrayVec::<Frame, BURST>::new();
    let mut came = 0;
    for socket in &mut from.sockets {
        came += socket.receive(&mut burst);
        for frame in burst.drain(..) {
            if let Err(frame) = transmit(out, frame, pool) {
                pool.put(frame);
            }
        }
    }
    came
}

/// Whether the plan applies: IPv4, IPv6 and tagged frames, without what the kernels say to each other over IPv6.
fn is_judged(frame: &[u8]) -> bool {
    matches!(frame.get(12..14), Some([0x08, 0x00] | [0x86, 0xdd] | [0x81, 0x00] | [0x88, 0xa8]))
        && !is_kernels_own(frame)
}

/// Neighbor discovery, router messages and multicast listener messages: they come when they like, as ARP does.
fn is_kernels_own(frame: &[u8]) -> bool {
    const HOP_BY_HOP: u8 = 0;
    const ICMPV6: u8 = 58;
    let mut at = 12;
    while at < 20 && matches!(frame.get(at..at + 2), Some([0x81, 0x00] | [0x88, 0xa8])) {
        at += 4;
    }
    if frame.get(at..at + 2) != Some(&[0x86, 0xdd]) {
        return false;
    }
    // The next header, and the first byte after the IPv6 header: ICMPv6's type, or the header after the options.
    match (frame.get(at + 8), frame.get(at + 42)) {
        (Some(&ICMPV6), Some(kind)) => matches!(kind, 130..=137 | 143),
        (Some(&HOP_BY_HOP), Some(next)) => *next == ICMPV6,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::is_judged;

    #[test]
    fn the_plan_is_for_ip_and_not_for_arp() {
        let mut frame = [0_u8; 60];
        for (kind, judged) in [(0x0800, true), (0x86dd, true), (0x8100, true), (0x0806, false)] {
            frame[12..14].copy_from_slice(&u16::to_be_bytes(kind));
            assert_eq!(is_judged(&frame), judged);
        }
        assert!(!is_judged(&frame[..13]));
    }

    #[test]
    fn what_kernels_say_to_each_other_over_ipv6_is_not_judged() {
        let frame = |tags: usize, next: u8, first: u8| {
            let mut frame = vec![0_u8; 12];
            (0..tags).for_each(|_| frame.extend([0x81, 0x00, 0, 5]));
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 24, next, 255]);
            frame.extend([0; 32]);
            frame.extend([first, 0, 0, 0]);
            frame
        };
        for tags in 0..=2 {
            for kind in [130, 133, 134, 135, 136, 137, 143] {
                assert!(!is_judged(&frame(tags, 58, kind)), "{kind} behind {tags} tags");
            }
            // Echo, errors, UDP, options before UDP.
            for (next, first) in [(58, 128), (58, 129), (58, 1), (58, 138), (17, 135), (0, 17)] {
                assert!(is_judged(&frame(tags, next, first)), "{next} {first}");
            }
            assert!(!is_judged(&frame(tags, 0, 58)));
        }
        // Cut short before its type, it is a packet like any other.
        assert!(is_judged(&frame(0, 58, 135)[..54]));
    }
}
