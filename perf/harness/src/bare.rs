//! The baseline: a layer-2 forwarder on the engine's rings, which swaps MAC addresses and does nothing else.
//!
//! Whatever the engine does more shows as the ratio of the two rates. With other [`Options`] it is what a sweep of settings runs.

use clap::Args;
use millrace_xsk::program::{Program, SocketMap};
use millrace_xsk::{
    BusyPoll, Frame, Interface, Mode, Pool, RingSizes, Socket, SocketConfig, TxOffload, Umem,
    UmemConfig,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Most packets taken off a ring at a time.
const MOST: usize = 256;

/// Empty turns before a worker sleeps, where it may.
const PATIENCE: u32 = 1000;

/// How it forwards. The defaults are the engine's, in copy mode.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Queues, each with a worker of its own
    #[arg(long, default_value_t = 1)]
    pub queues: u32,
    /// Entries of each of a socket's rings: a power of two
    #[arg(long, default_value_t = 2048)]
    pub ring: u32,
    /// Packets taken at a time, at most 256
    #[arg(long, default_value_t = 64)]
    pub burst: usize,
    /// The workers poll the driver themselves (SO_PREFER_BUSY_POLL)
    #[arg(long)]
    pub busy_poll: bool,
    /// Bind without XDP_USE_NEED_WAKEUP
    #[arg(long)]
    pub no_need_wakeup: bool,
    /// Sleep while nothing comes
    #[arg(long)]
    pub sleep: bool,
    /// Zero-copy where the driver has it
    #[arg(long)]
    pub zero_copy: bool,
    /// CPUs of further workers, in order (the first has --cpu)
    #[arg(long, value_delimiter = ',')]
    pub more_cpus: Vec<usize>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            queues: 1,
            ring: 2048,
            burst: 64,
            busy_poll: false,
            no_need_wakeup: false,
            sleep: false,
            zero_copy: false,
            more_cpus: Vec::new(),
        }
    }
}

/// Forwards from `from` to `to` until `stop`. Returns the frames sent.
pub fn forward(
    from: &str,
    to: &str,
    options: &Options,
    stop: &AtomicBool,
) -> Result<u64, millrace_xsk::Error> {
    let queues = options.queues.max(1);
    let maps = (SocketMap::new(queues)?, SocketMap::new(queues)?);
    let mut workers = Vec::new();
    for queue in 0..queues {
        workers.push(Worker::open(from, to, queue, options, &maps)?);
    }
    // Only now, so that no packet is redirected to a queue that has no socket yet.
    let attach = |map, name| Program::redirect(map)?.attach(&Interface::named(name)?);
    let _links = (attach(&maps.0, from)?, attach(&maps.1, to)?);
    let first = workers.remove(0);
    Ok(std::thread::scope(|scope| {
        let mut cpus = options.more_cpus.iter();
        let others: Vec<_> = workers
            .into_iter()
            .map(|worker| {
                let cpu = cpus.next().copied();
                scope.spawn(move || {
                    if let Some(id) = cpu {
                        core_affinity::set_for_current(core_affinity::CoreId { id });
                    }
                    worker.run(options, stop)
                })
            })
            .collect();
        let sent = first.run(options, stop);
        sent + others.into_iter().map(|other| other.join().unwrap_or(0)).sum::<u64>()
    }))
}

/// A queue of both interfaces.
struct Worker {
    umem: Arc<Umem>,
    pool: Pool,
    rx: Socket,
    tx: Socket,
}

impl Worker {
    fn open(
        from: &str,
        to: &str,
        queue: u32,
        options: &Options,
        maps: &(SocketMap, SocketMap),
    ) -> Result<Self, millrace_xsk::Error> {
        let config = UmemConfig::default();
        let frames = config.frames.max(options.ring.saturating_mul(4));
        let (umem, frames) = Umem::new(&UmemConfig { frames, ..config })?;
        let pool = Pool::new(&umem, frames);
        let open = |name: &str, map: &SocketMap| {
            let defaults = SocketConfig::new(Interface::named(name)?, queue);
            let ring = options.ring;
            let budget = options.burst.clamp(8, MOST) as u32;
            let config = SocketConfig {
                mode: if options.zero_copy { Mode::Auto } else { Mode::Copy },
                rings: RingSizes { fill: ring, completion: ring, rx: ring, tx: ring },
                need_wakeup: !options.no_need_wakeup,
                busy_poll: options.busy_poll.then_some(BusyPoll { microseconds: 20, budget }),
                tx_budget: defaults.tx_budget.min(ring),
                ..defaults
            };
            let socket = Socket::bind(&config, &umem)?;
            map.insert(queue, socket.as_fd())?;
            Ok::<_, millrace_xsk::Error>(socket)
        };
        let (rx, tx) = (open(from, &maps.0)?, open(to, &maps.1)?);
        Ok(Self { umem, pool, rx, tx })
    }

    fn run(self, options: &Options, stop: &AtomicBool) -> u64 {
        let Self { umem, mut pool, mut rx, mut tx } = self;
        let limit = options.burst.clamp(1, MOST);
        rx.refill(&mut pool);
        let mut sent = 0;
        let mut empty = 0;
        let mut burst = arrayvec::ArrayVec::<Frame, MOST>::new();
        while !stop.load(Ordering::Relaxed) {
            rx.receive_each(limit, |frame| burst.push(frame));
            if burst.is_empty() && options.sleep {
                empty += 1;
                if empty > PATIENCE {
                    let mut fds = [PollFd::new(&rx, PollFlags::IN)];
                    // An interrupted sleep is as good as a whole one.
                    let _ = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 5_000_000 }));
                }
            } else {
                empty = 0;
            }
            for mut frame in burst.drain(..) {
                swap_macs(umem.bytes_mut(&mut frame));
                match tx.transmit(frame, TxOffload::None) {
                    Ok(()) => sent += 1,
                    Err(frame) => pool.put(frame),
                }
            }
            tx.flush();
            tx.reap(&mut pool);
            rx.refill(&mut pool);
        }
        rx.close(&mut pool);
        tx.close(&mut pool);
        sent
    }
}

fn swap_macs(bytes: &mut [u8]) {
    if let Some((dst, rest)) = bytes.split_at_mut_checked(6)
        && let Some(src) = rest.get_mut(..6)
    {
        dst.swap_with_slice(src);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn macs_are_swapped_and_short_frames_left_alone() {
        let mut bytes = *b"aaaaaabbbbbbcc";
        super::swap_macs(&mut bytes);
        assert_eq!(&bytes, b"bbbbbbaaaaaacc");
        super::swap_macs(&mut [0; 7]);
    }
}
