//! Probes: thousands of flows begun at once between many addresses, each either answered or not.
//!
//! TCP connects and UDP asks by the kernel's own sockets, echo requests are answered by the kernel, and SCTP is an INIT by a raw socket with a valid
//! CRC32c, answered with INIT ACK (no kernel that tests run on needs to have SCTP). Every probe has a source port, or an echo identifier, of its own.
//!
//! That something is denied is seen by nothing coming: so all that should be answered has to be, first (lost packets are
//! sent again for some seconds), and what else was sent at the same time gets a second packet and a moment more.

use super::Server;
use crate::common::netns::Namespace;
use millrace_wire::{Sum, sctp};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, Protocol, RawProtocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind,
    connect, recvfrom, sendto, socket_with, sockopt,
};
use std::collections::HashMap;
use std::fmt;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};
use zerocopy::IntoBytes;

/// Ports that every host serves.
pub const TCP_PORTS: [u16; 9] = [1, 53, 79, 80, 81, 443, 8080, 8081, 65535];
/// Those of UDP.
pub const UDP_PORTS: [u16; 6] = [53, 80, 81, 443, 444, 8081];
/// Probes sent before the sender takes a breath: the devices between have short queues.
const SENT_AT_ONCE: usize = 32;
const BREATH: Duration = Duration::from_millis(1);
/// How long what should be answered may take. TCP sends a lost SYN again after one second, and two more.
const PATIENCE: Duration = Duration::from_secs(7);
/// What was not answered is sent again so often.
const AGAIN: Duration = Duration::from_millis(250);
/// What is to be seen of what should not be answered comes within this.
const MOMENT: Duration = Duration::from_millis(80);

/// What a probe is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Tcp,
    Udp,
    Sctp,
    Echo,
}

impl Kind {
    /// As manifests and `explain` call it.
    pub fn name(self, addr: IpAddr) -> &'static str {
        match self {
            Kind::Tcp => "TCP",
            Kind::Udp => "UDP",
            Kind::Sctp => "SCTP",
            Kind::Echo if addr.is_ipv4() => "ICMP",
            Kind::Echo => "ICMPv6",
        }
    }
}

/// One flow to begin.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// The namespace that sends, by number.
    pub host: usize,
    pub src: IpAddr,
    pub dst: IpAddr,
    pub kind: Kind,
    /// Not of echo requests.
    pub port: u16,
    /// Whether an answer is to come.
    pub expected: bool,
}

impl fmt::Debug for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Probe { src, dst, kind, port, .. } = self;
        write!(f, "{} {src} -> {dst} port {port}", kind.name(*src))
    }
}

/// Begins all flows. Answers which of them were answered otherwise than expected.
pub fn mistaken(hosts: &[&Namespace], probes: &[Probe]) -> Vec<Probe> {
    let mut by_host: HashMap<usize, Vec<Probe>> = HashMap::new();
    for probe in probes {
        by_host.entry(probe.host).or_default().push(*probe);
    }
    let meet = Barrier::new(by_host.len());
    std::thread::scope(|scope| {
        let threads: Vec<_> = by_host
            .into_iter()
            .map(|(host, probes)| {
                let (meet, host) = (&meet, hosts[host]);
                scope.spawn(move || host.run(|| Round::new(probes).run(meet)))
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}

/// The probes of one host.
struct Round {
    probes: Vec<Probe>,
    answered: Vec<bool>,
    tcp: HashMap<usize, OwnedFd>,
    udp: HashMap<IpAddr, UdpSocket>,
    /// By address and protocol number.
    raw: HashMap<(IpAddr, u8), OwnedFd>,
    /// Source port or echo identifier of the first of them; the others count up.
    first: u16,
}

static NEXT: AtomicU16 = AtomicU16::new(20_000);

impl Round {
    fn new(probes: Vec<Probe>) -> Round {
        // Fresh ones in every round: a flow that is known from the last one is another question.
        let first = NEXT.fetch_add(probes.len() as u16, Ordering::Relaxed);
        let answered = vec![false; probes.len()];
        let (tcp, udp, raw) = Default::default();
        Round { probes, answered, tcp, udp, raw, first }
    }

    fn run(mut self, meet: &Barrier) -> Vec<Probe> {
        self.send_all();
        let (deadline, mut again) = (Instant::now() + PATIENCE, Instant::now() + AGAIN);
        while self.waits() && Instant::now() < deadline {
            self.collect(Duration::from_millis(20));
            if Instant::now() >= again {
                self.send_all();
                again = Instant::now() + AGAIN;
            }
        }
        meet.wait();
        self.send_all();
        let end = Instant::now() + MOMENT;
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            self.collect(left);
        }
        // Nobody leaves while others still send: a closed socket would answer.
        meet.wait();
        let of = self.probes.iter().zip(&self.answered);
        of.filter(|(probe, answered)| probe.expected != **answered)
            .map(|(probe, _)| *probe)
            .collect()
    }

    fn waits(&self) -> bool {
        self.probes.iter().zip(&self.answered).any(|(probe, answered)| probe.expected && !answered)
    }

    /// Sends what was not answered; the kernel cares for its own SYNs.
    fn send_all(&mut self) {
        let mut sent = 0;
        for at in 0..self.probes.len() {
            if self.answered[at] || !self.send(at) {
                continue;
            }
            sent += 1;
            if sent % SENT_AT_ONCE == 0 {
                self.collect(Duration::ZERO);
                std::thread::sleep(BREATH);
            }
        }
    }

    fn port(&self, at: usize) -> u16 {
        // Not below what servers have.
        10_000 + self.first.wrapping_add(at as u16) % 50_000
    }

    fn send(&mut self, at: usize) -> bool {
        let Probe { src, dst, kind, port, .. } = self.probes[at];
        let own = self.port(at);
        match kind {
            Kind::Tcp => {
                if self.tcp.contains_key(&at) {
                    return false;
                }
                let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
                let fd = socket_with(family(&src), SocketType::STREAM, flags, None).unwrap();
                sockopt::set_socket_linger(&fd, Some(Duration::ZERO)).unwrap();
                bind(&fd, &SocketAddr::new(src, 0)).unwrap();
                match connect(&fd, &SocketAddr::new(dst, port)) {
                    Ok(()) => self.answered[at] = true,
                    Err(Errno::INPROGRESS) => {}
                    // An ICMP error: an answer of a kind that is counted as none.
                    Err(_) => return false,
                }
                self.tcp.insert(at, fd);
            }
            Kind::Udp => {
                let socket = self.udp.entry(src).or_insert_with(|| open(src, 0));
                // Errors of earlier datagrams are told here.
                let _ = socket.send_to(&(at as u32).to_be_bytes(), (dst, port));
            }
            Kind::Sctp => {
                let init = sctp_packet(own, port, 0, sctp::ChunkType::INIT, at as u32 + 1);
                let _ =
                    sendto(self.raw(src, 132), &init, SendFlags::empty(), &SocketAddr::new(dst, 0));
            }
            Kind::Echo => {
                let echo = echo_request(src.is_ipv4(), own, at as u32);
                let number = if src.is_ipv4() { 1 } else { 58 };
                let _ = sendto(
                    self.raw(src, number),
                    &echo,
                    SendFlags::empty(),
                    &SocketAddr::new(dst, 0),
                );
            }
        }
        true
    }

    fn raw(&mut self, src: IpAddr, protocol: u8) -> &OwnedFd {
        self.raw.entry((src, protocol)).or_insert_with(|| raw(src, protocol))
    }

    /// Takes what comes within this time; returns when something came.
    fn collect(&mut self, limit: Duration) {
        let open: Vec<usize> = self.tcp.keys().copied().filter(|at| !self.answered[*at]).collect();
        let mut fds: Vec<PollFd<'_>> =
            open.iter().map(|at| PollFd::new(&self.tcp[at], PollFlags::OUT)).collect();
        fds.extend(self.udp.values().map(|socket| PollFd::new(socket, PollFlags::IN)));
        fds.extend(self.raw.values().map(|socket| PollFd::new(socket, PollFlags::IN)));
        if wait(&mut fds, limit) == 0 {
            return;
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        for (at, _) in open.iter().zip(&ready).filter(|(_, ready)| **ready) {
            // A reset behind a connection that stood is no refusal; none is opened here.
            self.answered[*at] = sockopt::socket_error(&self.tcp[at]).unwrap().is_ok();
        }
        let mut buffer = [0; 512];
        for (src, socket) in &self.udp {
            loop {
                match socket.recv_from(&mut buffer) {
                    Ok((4, from)) => {
                        let at = u32::from_be_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]);
                        let probe = self.probes.get(at as usize);
                        let is = |probe: &&Probe| {
                            probe.src == *src && from == SocketAddr::new(probe.dst, probe.port)
                        };
                        if probe.filter(is).is_some() {
                            self.answered[at as usize] = true;
                        }
                    }
                    Ok(_) => {}
                    Err(why) if why.kind() == ErrorKind::WouldBlock => break,
                    Err(_) => {}
                }
            }
        }
        for ((src, protocol), socket) in &self.raw {
            while let Some((from, packet)) = receive(socket, *src, &mut buffer) {
                let at = match protocol {
                    132 => answered_init(packet, from, &self.probes),
                    _ => answered_echo(packet),
                };
                let own = |at: &usize| {
                    let probe = self.probes.get(*at);
                    probe.is_some_and(|probe| probe.src == *src && probe.dst == from)
                };
                let Some(at) = at.filter(own) else { continue };
                let identifier = if *protocol == 132 { 2 } else { 4 };
                let named = u16::from_be_bytes([packet[identifier], packet[identifier + 1]]);
                if named == self.port(at) {
                    self.answered[at] = true;
                }
            }
        }
    }
}

fn family(addr: &IpAddr) -> AddressFamily {
    if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 }
}

fn wait(fds: &mut [PollFd<'_>], limit: Duration) -> usize {
    let limit = Timespec::try_from(limit).unwrap();
    match poll(fds, Some(&limit)) {
        Ok(ready) => ready,
        Err(Errno::INTR) => 0,
        Err(why) => panic!("poll: {why}"),
    }
}

fn open(addr: IpAddr, port: u16) -> UdpSocket {
    let socket =
        UdpSocket::bind((addr, port)).unwrap_or_else(|e| panic!("{addr} port {port}: {e}"));
    socket.set_nonblocking(true).unwrap();
    sockopt::set_socket_recv_buffer_size_force(&socket, 4 << 20).unwrap();
    socket
}

/// A raw socket that sends from, and receives for, this address.
pub fn raw(addr: IpAddr, protocol: u8) -> OwnedFd {
    let number = RawProtocol::new(protocol.into()).unwrap();
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let protocol = Some(Protocol::from_raw(number));
    let fd = socket_with(family(&addr), SocketType::RAW, flags, protocol).unwrap();
    bind(&fd, &SocketAddr::new(addr, 0)).unwrap();
    sockopt::set_socket_recv_buffer_size_force(&fd, 4 << 20).unwrap();
    fd
}

/// Who sent, and what is behind the IP header.
fn receive(fd: impl AsFd, own: IpAddr, buffer: &mut [u8]) -> Option<(IpAddr, &[u8])> {
    let (length, from) = loop {
        match recvfrom(&fd, &mut *buffer, RecvFlags::empty()) {
            Ok((length, _, from)) => break (length, from?),
            Err(Errno::INTR) => {}
            Err(_) => return None,
        }
    };
    let from = SocketAddr::try_from(from).ok()?.ip();
    // Raw IPv4 sockets give the header too.
    let start = if own.is_ipv4() { usize::from(buffer[0] & 15) * 4 } else { 0 };
    let packet = buffer.get(start..length)?;
    // What is too short to be looked at is nothing of ours.
    if packet.len() < 8 { Some((from, &[0; 16])) } else { Some((from, packet)) }
}

/// An SCTP packet of one chunk: INIT, INIT ACK.
fn sctp_packet(src: u16, dst: u16, tag: u32, kind: sctp::ChunkType, initiate: u32) -> Vec<u8> {
    let mut header = sctp::Header::new(src, dst, tag);
    // Initiate tag, receiver window, streams out and in, initial TSN.
    let mut chunk = vec![kind.0, 0, 0, 20];
    chunk.extend(initiate.to_be_bytes());
    chunk.extend([0, 1, 0, 0, 0, 1, 0, 1]);
    chunk.extend(initiate.to_be_bytes());
    header.checksum = header.crc().add_bytes(&chunk).finish().into();
    [header.as_bytes(), &chunk].concat()
}

/// The probe whose INIT this acknowledges: by the tag that it named.
fn answered_init(packet: &[u8], from: IpAddr, probes: &[Probe]) -> Option<usize> {
    let (header, mut chunks) = sctp::Header::parse(packet).ok()?;
    let (chunk, _) = chunks.next()?.ok()?;
    let at = (header.verification_tag.get() as usize).checked_sub(1)?;
    let probe = probes.get(at)?;
    let is = chunk.kind == sctp::ChunkType::INIT_ACK
        && probe.dst == from
        && header.src_port.get() == probe.port;
    is.then_some(at)
}

fn echo_request(v4: bool, identifier: u16, at: u32) -> Vec<u8> {
    let mut bytes = vec![if v4 { 8 } else { 128 }, 0, 0, 0];
    bytes.extend(identifier.to_be_bytes());
    bytes.extend([0, 1]);
    bytes.extend(at.to_be_bytes());
    if v4 {
        // Of ICMPv6 the kernel writes it.
        let sum = Sum::of(&bytes).finish();
        bytes[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    bytes
}

fn answered_echo(packet: &[u8]) -> Option<usize> {
    let number = packet.get(8..12)?.try_into().ok()?;
    matches!(packet[0], 0 | 129).then_some(u32::from_be_bytes(number) as usize)
}

/// Serves all ports on these addresses until dropped: connections are accepted, datagrams sent back, INITs acknowledged.
pub fn serve(namespace: &Namespace, addresses: Vec<IpAddr>) -> Server {
    let stop = Arc::new(AtomicBool::new(false));
    let until = Arc::clone(&stop);
    let ready = Arc::new(Barrier::new(2));
    let here = Arc::clone(&ready);
    let thread = namespace.spawn(move || {
        let hosts = Served::new(&addresses);
        here.wait();
        hosts.run(&until);
    });
    ready.wait();
    Server::new(stop, thread)
}

struct Served {
    streams: Vec<TcpListener>,
    datagrams: Vec<UdpSocket>,
    raw: Vec<(IpAddr, OwnedFd)>,
}

static TAGS: AtomicU32 = AtomicU32::new(1);

impl Served {
    fn new(addresses: &[IpAddr]) -> Served {
        let all = IpAddr::from([0; 16]);
        let listen = |port| {
            let listener = TcpListener::bind((all, port)).unwrap();
            listener.set_nonblocking(true).unwrap();
            listener
        };
        let each = addresses.iter().flat_map(|addr| UDP_PORTS.map(|port| (*addr, port)));
        Served {
            streams: TCP_PORTS.map(listen).into(),
            datagrams: each.map(|(addr, port)| open(addr, port)).collect(),
            raw: addresses.iter().map(|addr| (*addr, raw(*addr, 132))).collect(),
        }
    }

    fn run(&self, until: &AtomicBool) {
        let mut buffer = [0; 2048];
        while !until.load(Ordering::Relaxed) {
            let streams = self.streams.iter().map(|it| PollFd::new(it, PollFlags::IN));
            let datagrams = self.datagrams.iter().map(|it| PollFd::new(it, PollFlags::IN));
            let raw = self.raw.iter().map(|(_, it)| PollFd::new(it, PollFlags::IN));
            let mut fds: Vec<PollFd<'_>> = streams.chain(datagrams).chain(raw).collect();
            if wait(&mut fds, Duration::from_millis(50)) == 0 {
                continue;
            }
            for listener in &self.streams {
                // Closed at once: the other end has what it wanted to know.
                while listener.accept().is_ok() {}
            }
            for socket in &self.datagrams {
                while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(&buffer[..length], from);
                }
            }
            for (own, socket) in &self.raw {
                while let Some((from, packet)) = receive(socket, *own, &mut buffer) {
                    let Ok((header, mut chunks)) = sctp::Header::parse(packet) else { continue };
                    let Some(Ok((chunk, data))) = chunks.next() else { continue };
                    if chunk.kind != sctp::ChunkType::INIT || data.len() < 4 {
                        continue;
                    }
                    let tag = u32::from_be_bytes([data[0], data[1], data[2], data[3]]);
                    let (src, dst) = (header.dst_port.get(), header.src_port.get());
                    let own = TAGS.fetch_add(1, Ordering::Relaxed);
                    let answer = sctp_packet(src, dst, tag, sctp::ChunkType::INIT_ACK, own);
                    let _ = sendto(socket, &answer, SendFlags::empty(), &SocketAddr::new(from, 0));
                }
            }
        }
    }
}
