//! Where every frame is, at all times: free + fill + rx + held + tx + completion is the number of frames, whatever
//! the program and the kernel do in whatever order, and packets come and go whole and in order. The test plays the
//! kernel, a sane and a mad one.

use std::{collections::VecDeque, sync::Arc};

use millrace_xsk::{
    Frame, Pool, RingSizes, Socket, TxOffload, Umem, UmemConfig,
    testing::{Descriptor, Kernel, Sent, pair},
};
use proptest::prelude::*;

const FRAMES: u32 = 48;
/// `XDP_PKT_CONTD`.
const MORE: u32 = 1;
/// A bit that no address in the UMEM has.
const OUTSIDE: u64 = (FRAMES as u64 * 2048).next_power_of_two();

#[derive(Clone, Debug)]
enum Step {
    Refill,
    Deliver(usize),
    Receive(usize),
    Transmit(usize, bool),
    Release(usize),
    Flush,
    TakeSent(usize),
    Complete(usize),
    Reap,
    /// An rx descriptor outside the UMEM.
    DeliverForeign(u64, u32, u32),
    /// An rx descriptor whose chunk is the kernel's, with a range that leaves it.
    DeliverTooLong(u32),
    CompleteForeign(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Refill),
        6 => prop_oneof![0..100_usize, 0..9000_usize].prop_map(Step::Deliver),
        4 => (0..5_usize).prop_map(Step::Receive),
        6 => (any::<usize>(), any::<bool>()).prop_map(|(which, checksum)| Step::Transmit(which, checksum)),
        2 => any::<usize>().prop_map(Step::Release),
        3 => Just(Step::Flush),
        3 => (0..20_usize).prop_map(Step::TakeSent),
        3 => (0..20_usize).prop_map(Step::Complete),
        3 => Just(Step::Reap),
        1 => (any::<u64>(), any::<u32>(), 0..2_u32).prop_map(|(addr, len, more)| Step::DeliverForeign(addr, len, more)),
        1 => (0..2_u32).prop_map(Step::DeliverTooLong),
        1 => any::<u64>().prop_map(Step::CompleteForeign),
    ]
}

struct World {
    umem: Arc<Umem>,
    pool: Pool,
    socket: Socket,
    kernel: Kernel,
    held: Vec<Frame>,
    /// Packets in the rx ring; None is one that must be refused.
    arrived: VecDeque<Option<Vec<u8>>>,
    /// Packets written to the tx ring, and how many of them are submitted.
    sending: VecDeque<Sent>,
    submitted: usize,
    /// Entries of the completion ring, good and bad.
    completed: usize,
    completed_badly: usize,
    /// A mad packet has begun in the rx ring, and all up to its end is part of it.
    mad: bool,
    serial: u8,
}

impl World {
    fn new() -> World {
        let config = UmemConfig { frames: FRAMES, chunk_size: 2048, ..UmemConfig::default() };
        let (umem, frames) = Umem::new(&config).unwrap();
        let pool = Pool::new(&umem, frames);
        let (socket, kernel) = pair(&umem, RingSizes { fill: 16, completion: 16, rx: 16, tx: 16 });
        World {
            umem,
            pool,
            socket,
            kernel,
            held: Vec::new(),
            arrived: VecDeque::new(),
            sending: VecDeque::new(),
            submitted: 0,
            completed: 0,
            completed_badly: 0,
            mad: false,
            serial: 0,
        }
    }

    fn bytes(&self, frame: &Frame) -> Vec<u8> {
        self.umem.segments(frame).flatten().copied().collect()
    }

    fn run(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Refill => self.socket.refill(&mut self.pool),
            Step::Deliver(len) => {
                self.serial = self.serial.wrapping_add(1);
                let packet: Vec<u8> =
                    (0..len).map(|index| self.serial ^ (index / 7) as u8).collect();
                if self.kernel.deliver(&packet) {
                    self.arrive((!self.mad).then_some(packet));
                }
            }
            Step::Receive(limit) => self.receive(limit)?,
            Step::Transmit(which, checksum) => self.transmit(which, checksum)?,
            Step::Release(which) => {
                if !self.held.is_empty() {
                    let frame = self.held.swap_remove(which % self.held.len());
                    self.pool.put(frame);
                }
            }
            Step::Flush => {
                self.socket.flush();
                self.submitted = self.sending.len();
            }
            Step::TakeSent(count) => self.take_sent(count)?,
            Step::Complete(count) => self.completed += self.kernel.complete(count),
            Step::Reap => self.reap()?,
            Step::DeliverForeign(random, len, options) => {
                let bad = Descriptor { addr: random | OUTSIDE, len, options };
                if self.kernel.deliver_descriptor(bad) {
                    self.mad = options == MORE;
                    if !self.mad {
                        self.arrive(None);
                    }
                }
            }
            Step::DeliverTooLong(options) => {
                self.kernel.take_fill(1);
                if let Some(chunk) = self.kernel.pop_empty() {
                    let bad = Descriptor { addr: chunk + 256, len: 2048 - 255, options };
                    // Without room in the ring the chunk stays in the mad kernel for good.
                    if self.kernel.deliver_descriptor(bad) {
                        self.mad = options == MORE;
                        if !self.mad {
                            self.arrive(None);
                        }
                    }
                }
            }
            Step::CompleteForeign(random) => {
                self.completed_badly += usize::from(self.kernel.complete_address(random | OUTSIDE));
            }
        }
        self.check()
    }

    /// A packet is in the rx ring whole; if a mad one had begun, it is the end of that.
    fn arrive(&mut self, packet: Option<Vec<u8>>) {
        self.arrived.push_back(packet);
        self.mad = false;
    }

    fn receive(&mut self, limit: usize) -> Result<(), TestCaseError> {
        let held = self.held.len();
        let before = self.socket.statistics().unwrap().refused;
        let received = self.socket.receive_each(limit, |frame| self.held.push(frame));
        prop_assert!(received <= limit && received == self.held.len() - held);
        let mut refused = self.socket.statistics().unwrap().refused - before;
        for frame in &self.held[held..] {
            while let Some(None) = self.arrived.front() {
                prop_assert!(refused > 0, "a bad packet was not counted");
                refused -= 1;
                self.arrived.pop_front();
            }
            let bytes = self.bytes(frame);
            prop_assert_eq!(Some(Some(bytes)), self.arrived.pop_front());
        }
        while refused > 0 {
            prop_assert_eq!(self.arrived.pop_front(), Some(None), "a good packet was refused");
            refused -= 1;
        }
        Ok(())
    }

    fn reap(&mut self) -> Result<(), TestCaseError> {
        let (before, free) = (self.socket.statistics().unwrap().refused, self.pool.len());
        self.socket.reap(&mut self.pool);
        let refused = (self.socket.statistics().unwrap().refused - before) as usize;
        let gained = self.pool.len() - free;
        // With nothing sent the ring is not looked at, and bad entries stay.
        if (gained, refused) != (0, 0) || self.completed > 0 {
            prop_assert_eq!((gained, refused), (self.completed, self.completed_badly));
            (self.completed, self.completed_badly) = (0, 0);
        }
        Ok(())
    }

    fn transmit(&mut self, which: usize, checksum: bool) -> Result<(), TestCaseError> {
        if self.held.is_empty() {
            return Ok(());
        }
        let frame = self.held.swap_remove(which % self.held.len());
        let offload =
            if checksum { TxOffload::Checksum { start: 14, offset: 6 } } else { TxOffload::None };
        let sent = Sent {
            bytes: self.bytes(&frame),
            descriptors: frame.segments(),
            checksum: checksum.then_some((14, 6)),
        };
        let legal = !frame.is_empty() && (!checksum || frame.len() >= 22);
        let room = 16 - self.socket.holdings().tx as usize >= frame.segments();
        match self.socket.transmit(frame, offload) {
            Ok(()) => {
                prop_assert!(legal && room);
                self.sending.push_back(sent);
            }
            Err(frame) => {
                prop_assert!(!legal || !room);
                prop_assert_eq!(self.bytes(&frame), sent.bytes, "a refused packet was changed");
                self.held.push(frame);
            }
        }
        Ok(())
    }

    fn take_sent(&mut self, most: usize) -> Result<(), TestCaseError> {
        // Whole packets only.
        let mut descriptors = 0;
        let whole = self.sending.iter().take(self.submitted).take_while(|sent| {
            descriptors += sent.descriptors;
            descriptors <= most
        });
        let count = whole.count();
        let descriptors = self.sending.iter().take(count).map(|sent| sent.descriptors).sum();
        self.submitted -= count;
        for sent in self.kernel.take_sent(descriptors) {
            prop_assert_eq!(Some(sent), self.sending.pop_front());
        }
        Ok(())
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let held: usize = self.held.iter().map(Frame::segments).sum();
        let holdings = self.socket.holdings();
        prop_assert_eq!(holdings.total(), self.socket.in_kernel());
        prop_assert_eq!(
            self.pool.len() + held + holdings.total() as usize,
            FRAMES as usize,
            "{:?}",
            holdings
        );
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_frame_is_lost_or_made_whatever_happens_in_whatever_order(steps in prop::collection::vec(step(), 0..200)) {
        let mut world = World::new();
        let outcome = steps.into_iter().try_for_each(|step| world.run(step));
        let World { mut pool, socket, held, .. } = world;
        pool.extend(held);
        let lost = socket.close(&mut pool);
        outcome?;
        prop_assert_eq!((lost, pool.len()), (0, FRAMES as usize), "a closed socket kept frames");
    }
}

fn sizes() -> RingSizes {
    RingSizes { fill: 16, completion: 16, rx: 16, tx: 16 }
}

fn made() -> (Arc<Umem>, Pool, Socket, Kernel) {
    let World { umem, pool, socket, kernel, .. } = World::new();
    (umem, pool, socket, kernel)
}

#[test]
fn the_kernel_naming_a_chunk_twice_makes_one_frame() {
    let (_umem, mut pool, mut socket, mut kernel) = made();
    socket.refill(&mut pool);
    kernel.take_fill(1);
    let addr = kernel.pop_empty().unwrap();
    for _ in 0..2 {
        assert!(kernel.deliver_descriptor(Descriptor { addr, len: 60, options: 0 }));
    }
    let mut frames = Vec::new();
    assert_eq!(socket.receive_each(64, |frame| frames.push(frame)), 1);
    assert_eq!(socket.statistics().unwrap().refused, 1);
    pool.extend(frames);
}

#[test]
fn the_kernel_completing_a_chunk_twice_makes_one_frame() {
    let (umem, mut pool, mut socket, mut kernel) = made();
    for _ in 0..2 {
        socket.transmit(umem.store(&[1; 60], &mut pool).unwrap(), TxOffload::None).unwrap();
    }
    socket.flush();
    let sent = u64::from(FRAMES - 1) * 2048;
    assert!(kernel.complete_address(sent) && kernel.complete_address(sent));
    socket.reap(&mut pool);
    assert_eq!((pool.len(), socket.statistics().unwrap().refused), (FRAMES as usize - 1, 1));
}

#[test]
fn a_large_packet_may_arrive_over_several_calls() {
    let (umem, mut pool, mut socket, mut kernel) = made();
    socket.refill(&mut pool);
    kernel.take_fill(2);
    let (first, second) = (kernel.pop_empty().unwrap(), kernel.pop_empty().unwrap());
    let mut frames = Vec::new();
    assert!(kernel.deliver_descriptor(Descriptor { addr: first + 300, len: 100, options: MORE }));
    assert_eq!(socket.receive_each(64, |frame| frames.push(frame)), 0);
    assert_eq!(socket.holdings().held, 1);
    assert!(kernel.deliver_descriptor(Descriptor { addr: second, len: 50, options: 0 }));
    assert_eq!(socket.receive_each(64, |frame| frames.push(frame)), 1);
    assert_eq!(
        (frames[0].total_len(), frames[0].segments(), umem.bytes(&frames[0]).len()),
        (150, 2, 100)
    );
    pool.extend(frames);
}

#[test]
fn a_packet_of_too_many_chunks_is_refused_and_its_chunks_are_used_again() {
    let config = UmemConfig { frames: 64, chunk_size: 2048, ..UmemConfig::default() };
    let (umem, frames) = Umem::new(&config).unwrap();
    let mut pool = Pool::new(&umem, frames);
    let (mut socket, mut kernel) = pair(&umem, RingSizes { fill: 32, rx: 32, ..sizes() });
    socket.refill(&mut pool);
    kernel.take_fill(20);
    for left in (0..20).rev() {
        let addr = kernel.pop_empty().unwrap();
        let options = if left > 0 { MORE } else { 0 };
        assert!(kernel.deliver_descriptor(Descriptor { addr, len: 10, options }));
    }
    assert_eq!(socket.receive_each(64, |_| unreachable!("nothing good came")), 0);
    assert_eq!((socket.statistics().unwrap().refused, socket.holdings().held), (1, 20));
    socket.refill(&mut pool);
    assert_eq!((socket.holdings().held, socket.holdings().fill), (0, 32));
}

#[test]
fn the_kernel_is_told_once_a_burst_and_only_when_it_asks() {
    let (umem, mut pool, mut socket, mut kernel) = made();
    let kicks = |socket: &Socket| socket.statistics().unwrap().kicks;
    let mut send = |socket: &mut Socket| {
        for _ in 0..3 {
            socket.transmit(umem.store(&[1; 60], &mut pool).unwrap(), TxOffload::None).unwrap();
        }
        socket.flush();
    };
    send(&mut socket);
    assert_eq!(kicks(&socket), 0, "not asked");
    kernel.ask_wakeup(true);
    send(&mut socket);
    assert_eq!(kicks(&socket), 1);
    assert_eq!(kernel.take_sent(16).len(), 6);
    socket.flush();
    assert_eq!(kicks(&socket), 1, "nothing to send");
}

#[test]
fn packets_that_the_kernel_would_keep_for_good_are_given_back() {
    let (umem, mut pool, mut socket, _kernel) = made();
    let (_other, frames) = Umem::new(&UmemConfig { frames: 1, ..UmemConfig::default() }).unwrap();
    let mut other_pool = Pool::new(&_other, frames);
    let foreign = _other.store(&[1; 60], &mut other_pool).unwrap();
    let empty = pool.get().unwrap();
    let short = umem.store(&[1; 21], &mut pool).unwrap();
    other_pool.put(socket.transmit(foreign, TxOffload::None).unwrap_err());
    pool.put(socket.transmit(empty, TxOffload::None).unwrap_err());
    pool.put(socket.transmit(short, TxOffload::Checksum { start: 14, offset: 6 }).unwrap_err());
    assert_eq!(socket.holdings().total(), 0);
}

#[test]
fn without_metadata_in_the_umem_a_checksum_request_is_given_back() {
    let (umem, frames) =
        Umem::new(&UmemConfig { frames: 4, tx_metadata: false, ..UmemConfig::default() }).unwrap();
    let mut pool = Pool::new(&umem, frames);
    let (mut socket, _kernel) = pair(&umem, sizes());
    assert!(!socket.has_checksum_offload());
    let frame = umem.store(&[1; 60], &mut pool).unwrap();
    pool.put(socket.transmit(frame, TxOffload::Checksum { start: 14, offset: 6 }).unwrap_err());
}

#[test]
fn few_frames_are_shared_by_setting_the_fill_level() {
    let (_umem, mut pool, mut socket, _kernel) = made();
    socket.set_fill_level(5);
    socket.refill(&mut pool);
    assert_eq!((socket.holdings().fill, pool.len()), (5, 43));
}
