//! An interface as a device of smoltcp, shared by several hosts: each frame goes to the host whose address it names.
//!
//! Requests for the hosts' MAC addresses are answered here, for all of them. Each received frame is copied once: stateful flows are about
//! connections, not about packets a second.

use crate::neighbor::Responder;
use crate::ring::{Opened, Receiver, Sender, UNCOUNTED};
use crate::verify::{payload, word};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::IpAddr;
use std::time::Duration;

/// How long several queues are not looked at when there is nothing to do.
const MOMENT: Duration = Duration::from_micros(100);
/// Most frames that wait for a host.
const INBOX: usize = 4096;

/// The interface: sent on its first queue, received on all.
pub struct Link {
    senders: Vec<Sender>,
    receivers: Vec<Receiver>,
    responder: Responder,
    mtu: usize,
    hosts: HashMap<IpAddr, usize>,
    inboxes: Vec<VecDeque<Vec<u8>>>,
    scratch: Vec<u8>,
    /// Frames that came in.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Frames that came for nobody here.
    pub foreign: u64,
    /// Frames that found no room in the ring.
    pub unsent: u64,
    /// Requests that were answered.
    pub answered: u64,
}

impl Link {
    /// For `hosts`, told apart by their place.
    pub fn new(queues: Vec<Opened>, responder: Responder, mtu: usize, hosts: &[IpAddr]) -> Self {
        let (senders, receivers) = queues.into_iter().map(|q| (q.sender, q.receiver)).unzip();
        Self {
            senders,
            receivers,
            responder,
            mtu,
            hosts: hosts.iter().enumerate().map(|(i, a)| (*a, i)).collect(),
            inboxes: vec![VecDeque::new(); hosts.len()],
            scratch: vec![0; mtu + 64],
            frames: 0,
            bytes: 0,
            foreign: 0,
            unsent: 0,
            answered: 0,
        }
    }

    /// Takes in what has come; answers how many frames that were.
    pub fn take_in(&mut self) -> usize {
        let Self { senders, receivers, responder, hosts, inboxes, .. } = self;
        let (mut foreign, mut answered, mut bytes) = (0, 0, 0);
        let Some(sender) = senders.first_mut() else { return 0 };
        let mut each = |frame: &[u8]| {
            bytes += frame.len() as u64;
            let mut done = false;
            sender.write(UNCOUNTED, |out| match responder.answer(frame, out) {
                Some((len, _)) => {
                    done = true;
                    len
                }
                None => 0,
            });
            if done {
                answered += 1;
                return;
            }
            let host = target(frame).and_then(|address| hosts.get(&address));
            match host.and_then(|host| inboxes.get_mut(*host)) {
                Some(inbox) if inbox.len() < INBOX => inbox.push_back(frame.to_vec()),
                _ => foreign += 1,
            }
        };
        let count: usize = receivers.iter_mut().map(|r| r.receive(&mut each)).sum();
        self.frames += count as u64;
        self.bytes += bytes;
        self.foreign += foreign;
        self.answered += answered;
        count
    }

    /// Sends what was written.
    pub fn put_out(&mut self) -> io::Result<()> {
        if let Some(sender) = self.senders.first_mut() {
            sender.send()?;
            sender.reap(|_| {});
        }
        Ok(())
    }

    /// Waits for frames, where there is one queue to wait for; where there are more, a moment.
    pub fn wait(&mut self, limit: Duration) -> io::Result<()> {
        match &mut self.receivers[..] {
            [one] => drop(one.wait(limit)?),
            _ => std::thread::sleep(MOMENT),
        }
        Ok(())
    }

    /// The device as host `index` sees it.
    pub fn host(&mut self, index: usize) -> Host<'_> {
        Host { link: self, index }
    }
}

/// Whom a frame is for.
fn target(frame: &[u8]) -> Option<IpAddr> {
    let (kind, at) = payload(frame)?;
    match kind {
        0x0806 => {
            let target: [u8; 4] = frame.get(at + 24..at + 28)?.try_into().ok()?;
            Some(target.into())
        }
        0x0800 => {
            word(frame, at + 18)?;
            let target: [u8; 4] = frame.get(at + 16..at + 20)?.try_into().ok()?;
            Some(target.into())
        }
        0x86dd => {
            let target: [u8; 16] = frame.get(at + 24..at + 40)?.try_into().ok()?;
            Some(target.into())
        }
        _ => None,
    }
}

/// One host's view of a [`Link`].
pub struct Host<'a> {
    link: &'a mut Link,
    index: usize,
}

impl Device for Host<'_> {
    type RxToken<'b>
        = Frame
    where
        Self: 'b;
    type TxToken<'b>
        = Room<'b>
    where
        Self: 'b;

    fn receive(&mut self, _now: Instant) -> Option<(Frame, Room<'_>)> {
        let frame = self.link.inboxes.get_mut(self.index)?.pop_front()?;
        Some((Frame(frame), Room(self.link)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Room<'_>> {
        if self.link.senders.first().is_none_or(|s| s.room() == 0) {
            return None;
        }
        Some(Room(self.link))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.link.mtu + 14;
        // What a kernel sends over a veth has only the pseudo-header's checksum in it.
        capabilities.checksum.tcp = Checksum::Tx;
        capabilities.checksum.udp = Checksum::Tx;
        capabilities
    }
}

/// A received frame.
pub struct Frame(Vec<u8>);

impl RxToken for Frame {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, work: F) -> R {
        work(&self.0)
    }
}

/// Room for a frame to be sent.
pub struct Room<'a>(&'a mut Link);

impl TxToken for Room<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, work: F) -> R {
        let Link { senders, scratch, unsent, .. } = self.0;
        scratch.resize(len.max(scratch.len()), 0);
        let (frame, _) = scratch.split_at_mut(len);
        let result = work(frame);
        let written = senders.first_mut().is_some_and(|sender| {
            sender.write(UNCOUNTED, |out| match out.get_mut(..len) {
                Some(out) => {
                    out.copy_from_slice(frame);
                    len
                }
                None => 0,
            })
        });
        if !written {
            *unsent += 1;
        }
        result
    }
}
