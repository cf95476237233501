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

/// Whether the plan applies: IPv4, IPv6 and tagged frames.
fn is_judged(frame: &[u8]) -> bool {
    matches!(frame.get(12..14), Some([0x08, 0x00] | [0x86, 0xdd] | [0x81, 0x00] | [0x88, 0xa8]))
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
}
