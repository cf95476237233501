//! A bare layer-2 forwarder: take a burst, swap the MAC addresses, send it. The baseline that the engine is measured
//! against: the same rings, need-wakeup, bursts of 64, one kick a burst, and nothing else.
//!
//! `forwarder --interface A[:queue] [--out B[:queue]] [--dst-mac 02:00:00:00:00:02] [--cpu N] [--seconds S]`
//!
//! Without `--out` packets leave where they came in; with it, both interfaces forward to each other. `--dst-mac` sets
//! the destination of what leaves by `--out` (else it is the packet's source, as swapping has it). Prints what it
//! forwarded and what the kernel counted.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use arrayvec::ArrayVec;
use millrace_xsk::{
    Frame, Interface, Pool, Socket, SocketConfig, TxOffload, Umem, UmemConfig,
    program::{Link, Program, SocketMap},
};

type Failure = Box<dyn std::error::Error>;

struct Arguments {
    interface: String,
    out: Option<String>,
    dst_mac: Option<[u8; 6]>,
    cpu: Option<usize>,
    seconds: u64,
}

fn main() -> ExitCode {
    match arguments().and_then(|arguments| run(&arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("forwarder: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    if let Some(cpu) = arguments.cpu {
        let mut set = rustix::thread::CpuSet::new();
        set.set(cpu);
        rustix::thread::sched_setaffinity(None, &set)?;
    }
    let (umem, frames) = Umem::new(&UmemConfig { frames: 16384, ..UmemConfig::default() })?;
    let mut pool = Pool::new(&umem, frames);
    let (mut a, _link_a) = open(&arguments.interface, &umem)?;
    let mut b = match &arguments.out {
        Some(out) => Some(open(out, &umem)?),
        None => None,
    };
    eprintln!("forwarding in {} mode", if a.is_zero_copy() { "zero-copy" } else { "copy" });

    let begin = Instant::now();
    let length = Duration::from_secs(arguments.seconds);
    let (mut received, mut sent, mut turns) = (0, 0, 0_u32);
    // The clock costs as much as a packet, so it is read every 1,024 turns.
    while !turns.is_multiple_of(1024) || begin.elapsed() < length {
        turns = turns.wrapping_add(1);
        match &mut b {
            None => forward(&mut a, None, &mut pool, None, &mut received, &mut sent),
            Some((b, _)) => {
                forward(&mut a, Some(b), &mut pool, arguments.dst_mac, &mut received, &mut sent);
                forward(b, Some(&mut a), &mut pool, None, &mut received, &mut sent);
            }
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    println!(
        "received {received} sent {sent} in {seconds:.3} s: {:.0} packets/s",
        sent as f64 / seconds
    );
    println!("{}: {:?}", arguments.interface, a.statistics()?);
    if let (Some((b, _)), Some(name)) = (&b, &arguments.out) {
        println!("{name}: {:?}", b.statistics()?);
    }
    Ok(())
}

/// One turn: a burst from `from` to `to`, or back to where it came from.
#[inline(always)]
fn forward(
    from: &mut Socket,
    to: Option<&mut Socket>,
    pool: &mut Pool,
    dst_mac: Option<[u8; 6]>,
    received: &mut u64,
    sent: &mut u64,
) {
    let mut burst = ArrayVec::<Frame, 64>::new();
    from.refill(pool);
    *received += from.receive(&mut burst) as u64;
    let to = to.unwrap_or(from);
    for mut frame in burst {
        if let Some(header) = to.umem().bytes_mut(&mut frame).first_chunk_mut::<12>() {
            let (dst, src) = header.split_at_mut(6);
            dst.swap_with_slice(src);
            if let Some(mac) = dst_mac {
                dst.copy_from_slice(&mac);
            }
        }
        match to.transmit(frame, TxOffload::None) {
            Ok(()) => *sent += 1,
            // A full ring: keeping the packet would only add to the delay of those behind it.
            Err(frame) => pool.put(frame),
        }
    }
    to.flush();
    to.reap(pool);
}

/// A socket on `name[:queue]` with a program that redirects to it, and some frames to receive into.
fn open(name: &str, umem: &std::sync::Arc<Umem>) -> Result<(Socket, Link), Failure> {
    let (name, queue) = match name.split_once(':') {
        Some((name, queue)) => (name, queue.parse()?),
        None => (name, 0),
    };
    let interface = Interface::named(name)?;
    let socket = Socket::bind(&SocketConfig::new(interface.clone(), queue), umem)?;
    let map = SocketMap::new(queue + 1)?;
    map.insert(queue, &socket)?;
    let link = Program::redirect(&map)?.attach(&interface)?;
    Ok((socket, link))
}

fn arguments() -> Result<Arguments, Failure> {
    let mut parsed =
        Arguments { interface: String::new(), out: None, dst_mac: None, cpu: None, seconds: 10 };
    let mut given = std::env::args().skip(1);
    while let Some(option) = given.next() {
        let value = given.next().ok_or_else(|| format!("{option} needs a value"))?;
        match option.as_str() {
            "--interface" => parsed.interface = value,
            "--out" => parsed.out = Some(value),
            "--dst-mac" => parsed.dst_mac = Some(mac(&value)?),
            "--cpu" => parsed.cpu = Some(value.parse()?),
            "--seconds" => parsed.seconds = value.parse()?,
            _ => return Err(format!(
                "unknown option {option}; there are --interface, --out, --dst-mac, --cpu, --seconds"
            )
            .into()),
        }
    }
    if parsed.interface.is_empty() {
        return Err("--interface is missing".into());
    }
    Ok(parsed)
}

fn mac(text: &str) -> Result<[u8; 6], Failure> {
    let bytes: Vec<u8> =
        text.split(':').map(|part| u8::from_str_radix(part, 16)).collect::<Result<_, _>>()?;
    bytes.try_into().map_err(|_| {
        format!("{text} is no MAC address; write six hexadecimal bytes with colons").into()
    })
}
