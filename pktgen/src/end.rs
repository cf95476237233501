//! One end of a run: an interface in its namespace, opened, steered, and its neighbors found.

use crate::cli::Port;
use crate::neighbor::{self, Responder};
use crate::netdev::{Netdev, NetdevError};
use crate::netns::{self, NetnsError};
use crate::profile::EndPlan;
use crate::report;
use crate::ring::{self, Opened, Options, RingError, UNCOUNTED};
use crate::steer::{SteerError, Steering};
use millrace_wire::Mac;
use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// Longest frame that a chunk of 2,048 bytes holds: the kernel takes 256 of it.
const SMALL: u32 = 2048 - 256;
/// Bytes before a packet that its MTU doesn't count: Ethernet and two tags.
pub const LINK: u32 = 14 + 8;
/// Frames to answer with.
const FEW: u32 = 256;
/// How often a neighbor is asked.
const AGAIN: Duration = Duration::from_millis(100);

/// Queues that are opened where nobody says how many, at most.
const MOST_QUEUES: u32 = 8;

/// An open end.
pub struct End {
    /// Its interface.
    pub device: Netdev,
    /// Interface and queues as they were asked for.
    pub port: Port,
    /// One socket for each queue; empty once the workers have them.
    pub queues: Vec<Opened>,
    /// Its MAC address: the interface's, or another that was asked for.
    pub mac: Mac,
    /// Whether its sockets are in zero-copy mode.
    pub zero_copy: bool,
    /// Queues that send, of the sending end; of the other all that receive.
    pub used: u32,
    unused: u32,
    netns: Option<String>,
    cpus: Vec<usize>,
    line_rate: Option<f64>,
    _steering: Steering,
}

/// Why an end can't be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum EndError {
    #[error(transparent)]
    Netns(#[from] NetnsError),
    #[error(transparent)]
    Netdev(#[from] NetdevError),
    #[error(transparent)]
    Ring(#[from] RingError),
    #[error(transparent)]
    Steer(#[from] SteerError),
    #[error("interface {0}: {1}")]
    Io(String, std::io::Error),
    #[error("no interface is named: give --{0} or {0}.interface")]
    Unnamed(&'static str),
    #[error(
        "interface {interface}: its MTU is {mtu}, the longest packet would have {packet} bytes"
    )]
    Mtu { interface: String, mtu: u32, packet: usize },
    #[error("{0}")]
    Unresolved(String),
    #[error("{side}.cpus: there is no CPU {cpu} that this process may use (`lscpu`)")]
    Cpu { side: &'static str, cpu: usize },
}

/// Whether a thread can be pinned to a CPU: tried with one that ends at once.
fn can_use(cpu: usize) -> bool {
    std::thread::spawn(move || pin(cpu)).join().unwrap_or(false)
}

/// Pins the calling thread to a CPU; false where it can't be.
pub fn pin(cpu: usize) -> bool {
    // A set of CPUs has 1,024 of them (sched_setaffinity(2)), and another number none.
    cpu < 1024 && core_affinity::set_for_current(core_affinity::CoreId { id: cpu })
}

/// The queues that were asked for. A sending end has all receive queues besides: nobody knows on which one its neighbors' answers come in.
fn open_queues(
    port: &Port,
    side: &str,
    device: &Netdev,
    options: &Options,
) -> Result<Vec<Opened>, RingError> {
    let asked = port.queues.unwrap_or(1);
    let most = match port.queues {
        Some(_) if side != "tx" => asked,
        _ => device.rx_queues.saturating_sub(port.first).min(MOST_QUEUES).max(asked),
    };
    let mut queues = Vec::new();
    for number in 0..most {
        let options = if number < asked || side != "tx" {
            *options
        } else {
            Options { tx_frames: FEW, ..*options }
        };
        match ring::open(&port.interface, port.first + number, &options) {
            Ok(queue) => queues.push(queue),
            // A NIC has fewer channels than it could have.
            Err(_) if number >= asked => break,
            Err(error) => return Err(error),
        }
    }
    Ok(queues)
}

impl End {
    /// Opens `plan`'s interface with so many frames to send and receive for each queue.
    pub fn open(
        plan: &EndPlan,
        side: &'static str,
        tx_frames: u32,
        rx_frames: u32,
    ) -> Result<Self, EndError> {
        let port = plan.port.clone().ok_or(EndError::Unnamed(side))?;
        if let Some(cpu) = plan.cpus.iter().copied().find(|cpu| !can_use(*cpu)) {
            return Err(EndError::Cpu { side, cpu });
        }
        let opened = netns::within(plan.netns.as_deref(), || {
            let device = Netdev::read(&port.interface)?;
            let chunk = if device.mtu + LINK > SMALL { 4096 } else { 2048 };
            let options = Options { tx_frames, rx_frames, chunk, zero_copy: plan.zero_copy };
            let queues = open_queues(&port, side, &device, &options)?;
            let numbers = port.first..;
            let sockets: Vec<_> = numbers
                .zip(&queues)
                .map(|(number, queue)| (number, queue.receiver.socket() as &dyn AsRawFd))
                .collect();
            let steering = Steering::attach(&port.interface, device.index, &sockets)?;
            Ok::<_, EndError>((device, queues, steering))
        });
        let (device, queues, steering) = opened??;
        let unused = device.rx_queues.saturating_sub(port.first + queues.len() as u32);
        let used = match (port.queues, side) {
            (Some(n), _) => n,
            (None, "tx") => 1,
            (None, _) => queues.len() as u32,
        };
        Ok(Self {
            used,
            unused,
            mac: plan.mac.unwrap_or(device.mac),
            zero_copy: queues.iter().all(|q| q.zero_copy),
            line_rate: plan.line_rate.or(device.speed.map(|mbits| f64::from(mbits) * 1e6)),
            netns: plan.netns.clone(),
            cpus: plan.cpus.clone(),
            device,
            port,
            queues,
            _steering: steering,
        })
    }

    /// Bits a second, if known.
    pub fn line_rate(&self) -> Option<f64> {
        self.line_rate
    }

    /// The CPU of queue `index`'s thread.
    pub fn cpu(&self, index: usize) -> Option<usize> {
        self.cpus.get(index).copied()
    }

    /// What is wrong with the choice of queues, if anything.
    pub fn warning(&self) -> Option<String> {
        (self.unused > 0).then(|| {
            format!(
                "interface {} may have {} more receive queues: what comes in there goes to the kernel",
                self.port.interface, self.unused
            )
        })
    }

    /// What the report says of it.
    pub fn describe(&self) -> report::End {
        let queues = self.used;
        let kind = if self.device.kind.is_empty() { "device" } else { &self.device.kind };
        report::End {
            interface: self.port.interface.clone(),
            netns: self.netns.clone(),
            queues,
            cpus: self.cpus.iter().take(queues as usize).map(|c| *c as u32).collect(),
            zero_copy: self.zero_copy,
            driver: kind.into(),
            mac: self.mac.to_string(),
            line_rate: self.line_rate,
        }
    }

    /// Asks for the MAC addresses of neighbors (pairs of who asks and who is asked for) until all have answered or time is up.
    ///
    /// Others' questions are answered meanwhile, and each neighbor learns who asks.
    pub fn resolve(
        &mut self,
        questions: &[(IpAddr, IpAddr)],
        responder: &Responder,
        limit: Duration,
    ) -> Result<HashMap<IpAddr, Mac>, EndError> {
        let failed = |e| EndError::Io(self.port.interface.clone(), e);
        let mut known = HashMap::new();
        let mut first = true;
        let started = Instant::now();
        let mut asked = None::<Instant>;
        while started.elapsed() < limit {
            let open = questions.iter().filter(|(_, target)| first || !known.contains_key(target));
            let open: Vec<_> = open.collect();
            if open.is_empty() {
                break;
            }
            if asked.is_none_or(|at| at.elapsed() > AGAIN) {
                if let Some(queue) = self.queues.first_mut() {
                    for (own, target) in open {
                        queue.sender.write(UNCOUNTED, |out| {
                            neighbor::ask(responder.mac, *own, *target, out).unwrap_or(0)
                        });
                        if queue.sender.room() < 32 {
                            queue.sender.send().map_err(failed)?;
                            queue.sender.reap(|_| {});
                        }
                    }
                    queue.sender.send().map_err(failed)?;
                }
                asked = Some(Instant::now());
                first = false;
            }
            for queue in &mut self.queues {
                let (sender, receiver) = (&mut queue.sender, &mut queue.receiver);
                receiver.receive(|frame| {
                    if let Some((address, mac)) = neighbor::learn(frame) {
                        known.insert(address, mac);
                    } else {
                        sender.write(UNCOUNTED, |out| {
                            responder.answer(frame, out).map_or(0, |(len, _)| len)
                        });
                    }
                });
                sender.send().map_err(failed)?;
                sender.reap(|_| {});
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(known)
    }
}
