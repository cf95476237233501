//! UDP: an echo that says who answered, and a load of numbered datagrams that counts what came back.

use super::Server;
use crate::common::netns::Namespace;
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Room for a second of load, so that a loss is the path's and not a full socket's.
const RECEIVE_BUFFER: usize = 8 << 20;
const TICK: Duration = Duration::from_millis(20);

/// Answers each datagram with `name`, a space and the datagram, until dropped.
pub fn serve_echo(namespace: &Namespace, address: SocketAddr, name: &'static str) -> Server {
    let socket = namespace.run(|| open(address)).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let until = Arc::clone(&stop);
    let thread = namespace.spawn(move || {
        let mut datagram = [0; 2048];
        while !until.load(Ordering::Relaxed) {
            let Ok((length, from)) = socket.recv_from(&mut datagram) else { continue };
            let answer = [name.as_bytes(), b" ", &datagram[..length]].concat();
            if let Err(why) = socket.send_to(&answer, from) {
                eprintln!("echo {name} at {address}: {why}");
            }
        }
    });
    Server::new(stop, thread)
}

/// Asks `address` once; answers what came back within a second.
pub fn ask(address: SocketAddr, question: &str) -> io::Result<String> {
    let socket = open(unspecified(address))?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    socket.connect(address)?;
    socket.send(question.as_bytes())?;
    let mut answer = [0; 2048];
    let length = socket.recv(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
}

/// What a load saw.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Datagrams sent.
    pub sent: u64,
    /// Numbers that never came back.
    pub lost: u64,
    /// Numbers that came back more than once.
    pub doubled: u64,
    /// Answers by the name of who answered.
    pub by_name: BTreeMap<String, u64>,
}

impl Outcome {
    fn add(&mut self, other: Self) {
        self.sent += other.sent;
        self.lost += other.lost;
        self.doubled += other.doubled;
        for (name, count) in other.by_name {
            *self.by_name.entry(name).or_default() += count;
        }
    }
}

/// Flows that run until [`finish`](Self::finish).
pub struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    flows: Vec<JoinHandle<Outcome>>,
}

impl Load {
    /// Starts `flows` flows to `address`, each of `rate` datagrams a second from its own port.
    ///
    /// With `renew` a flow takes a new source port after so many datagrams: new flows all the time.
    pub fn start(
        namespace: &Namespace,
        address: SocketAddr,
        flows: usize,
        rate: u32,
        renew: Option<u64>,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicU64::new(0));
        let start = |_| {
            let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
            namespace.spawn(move || flow(address, rate, renew, &stop, &sent))
        };
        let flows = (0..flows).map(start).collect();
        Self { stop, sent, flows }
    }

    /// Datagrams sent so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Stops sending, waits for the last answers and counts.
    pub fn finish(self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        let mut outcome = Outcome::default();
        for flow in self.flows {
            outcome.add(flow.join().unwrap());
        }
        outcome
    }
}

fn flow(
    address: SocketAddr,
    rate: u32,
    renew: Option<u64>,
    stop: &AtomicBool,
    total: &AtomicU64,
) -> Outcome {
    let mut outcome = Outcome::default();
    let interval = Duration::from_secs(1) / rate;
    let mut due = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let socket = open(unspecified(address)).unwrap();
        socket.connect(address).unwrap();
        let listener = Listener::start(socket.try_clone().unwrap());
        let mut number = 0;
        while !stop.load(Ordering::Relaxed) && renew.is_none_or(|limit| number < limit) {
            // A refusal (ICMP) of an earlier datagram is reported here once: that one counts as lost.
            if socket.send(&u64::to_be_bytes(number)).is_err() {
                socket.send(&u64::to_be_bytes(number)).unwrap();
            }
            number += 1;
            total.fetch_add(1, Ordering::Relaxed);
            due += interval;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        outcome.add(listener.finish(number));
    }
    outcome
}

/// Collects a flow's answers beside its sender.
struct Listener {
    ended: Arc<AtomicU64>,
    thread: JoinHandle<(BTreeSet<u64>, Outcome)>,
}

impl Listener {
    fn start(socket: UdpSocket) -> Self {
        let ended = Arc::new(AtomicU64::new(u64::MAX));
        let expected = Arc::clone(&ended);
        let thread = std::thread::spawn(move || {
            let mut outcome = Outcome::default();
            let mut seen = BTreeSet::new();
            let mut quiet = Instant::now();
            let mut answer = [0; 2048];
            loop {
                match socket.recv(&mut answer) {
                    Ok(length) => {
                        quiet = Instant::now();
                        let split = length.saturating_sub(9);
                        let name = String::from_utf8_lossy(&answer[..split]).into_owned();
                        *outcome.by_name.entry(name).or_default() += 1;
                        let number =
                            u64::from_be_bytes(answer[split + 1..split + 9].try_into().unwrap());
                        if !seen.insert(number) {
                            outcome.doubled += 1;
                        }
                    }
                    Err(_)
                        if quiet.elapsed() > TICK * 100
                            && expected.load(Ordering::Relaxed) != u64::MAX =>
                    {
                        break;
                    }
                    Err(_) => {}
                }
                if seen.len() as u64 >= expected.load(Ordering::Relaxed) {
                    break;
                }
            }
            (seen, outcome)
        });
        Self { ended, thread }
    }

    fn finish(self, sent: u64) -> Outcome {
        self.ended.store(sent, Ordering::Relaxed);
        let (seen, mut outcome) = self.thread.join().unwrap();
        outcome.sent = sent;
        outcome.lost = sent - seen.len() as u64;
        outcome
    }
}

fn open(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(address)?;
    socket.set_read_timeout(Some(TICK))?;
    set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER)?;
    Ok(socket)
}

fn unspecified(like: SocketAddr) -> SocketAddr {
    if like.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() }
}
