//! Before anything is measured every frame goes through once, and every byte and counter is checked: a bench can't measure drops.

use super::bare;
use super::net::{self, Datagram};
use super::scenario::{Bench, Fate};
use super::world::Ledger;
use millrace_dataplane::snat::NODE_PORTS;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Packets between two looks at what was sent.
const CHUNK: usize = 4096;

impl Bench {
    /// Carries every frame once, and checks what became of it. Leaves the loops at their beginning.
    pub fn verify(&mut self) -> Result<(), String> {
        for worker in 0..self.loads.len() {
            let before = self.world.ledger();
            let load = &self.loads[worker];
            let (frames, fates) = (Arc::clone(&load.frames), load.fates.clone());
            self.world.workers[worker].queue(self.way.0).load(Arc::clone(&frames));
            // The engine keeps the order of what it doesn't drop.
            let mut due = (0..frames.len()).filter(|&at| fates.get(at) != Some(&Fate::Dropped));
            let mut sent = 0;
            for start in (0..frames.len()).step_by(CHUNK) {
                let count = CHUNK.min(frames.len() - start);
                let out = self.world.carry(worker, self.way, count);
                for at in 0..out.len() {
                    let index = due.next().ok_or("more was sent than was to be")?;
                    check(fates[index], &frames.get(index), &out.get(at))
                        .map_err(|why| format!("packet {index}, {:?}: {why}", fates[index]))?;
                }
                sent += out.len();
            }
            if due.next().is_some() {
                return Err(format!(
                    "{sent} of {} packets were sent: {:?}",
                    frames.len(),
                    self.world.ledger().booked
                ));
            }
            self.check_books(before, frames.len(), frames.len() - sent)?;
            self.forget();
        }
        Ok(())
    }

    /// What was booked since: so many received, so many of those dropped by a blackhole route, the rest sent, nothing else.
    pub fn check_books(
        &mut self,
        before: Ledger,
        received: usize,
        dropped: usize,
    ) -> Result<(), String> {
        let missing = self.world.missing_frames();
        if missing != 0 {
            return Err(format!("{missing} frames are in no pool"));
        }
        if self.world.workers.iter_mut().all(|runner| runner.state().is_none()) {
            return Ok(());
        }
        let Ledger { sums, mut booked } = self.world.ledger();
        for (name, value) in before.booked {
            *booked.entry(name).or_default() -= value;
        }
        booked.retain(|_, value| *value > 0);
        let all_booked = match dropped as u64 {
            0 => booked.is_empty(),
            dropped => booked.len() == 1 && booked.get("blackhole") == Some(&dropped),
        };
        let moved = (sums.rx - before.sums.rx, sums.tx - before.sums.tx, sums.imbalance());
        if all_booked && moved == (received as u64, (received - dropped) as u64, 0) {
            return Ok(());
        }
        Err(format!(
            "of {received} packets, {dropped} of them to be dropped, {} were received, {} sent, {} are in no account, and beside \
             those sent there are {booked:?}",
            moved.0, moved.1, moved.2
        ))
    }

    /// Removes the flows that the loops began, so that they are new the next time round.
    pub fn forget(&mut self) {
        let now = super::world::now(self.world.time);
        for (runner, load) in self.world.workers.iter_mut().zip(&self.loads) {
            let Some(state) = runner.state() else { continue };
            state.quiesce();
            for (count, tuple) in load.fresh.iter().enumerate() {
                let hash = state.seed.hash(tuple);
                if let Some(entry) = state.conntrack.table().find(tuple, hash, now) {
                    state.conntrack.remove(entry);
                }
                // Between bursts, as housekeeping does.
                if count % 256 == 0 {
                    state.quiesce();
                }
            }
            state.quiesce();
            state.idle();
        }
    }
}

/// Compares a frame that was sent with what it must be, made from scratch.
fn check(fate: Fate, came: &[u8], left: &[u8]) -> Result<(), String> {
    let read = |frame| Datagram::read(frame).ok_or("not a datagram of ours");
    let (it, out) = (read(came)?, read(left)?);
    let ttl = net::TTL - 1;
    let wanted = match fate {
        Fate::Swapped => bare::swapped(came),
        Fate::Routed(node) => {
            let macs = (net::OURS[1], net::node_mac(usize::from(node)));
            Datagram { macs, ttl, ..it }.frame(came.len())
        }
        Fate::ToBackend(service) | Fate::Masqueraded(service) => {
            let of = |k| net::backend(usize::from(service), k);
            let IpAddr::V4(address) = out.dst.ip() else { return Err("not IPv4".to_owned()) };
            if !(0..net::BACKENDS).any(|k| of(k) == out.dst) {
                return Err(format!("sent to {}, no backend of service {service}", out.dst));
            }
            let macs = (net::OURS[1], net::node_mac(net::node_of(address)));
            let src = match fate {
                Fate::Masqueraded(_) => masqueraded(out.src)?,
                _ => it.src,
            };
            Datagram { macs, ttl, src, dst: out.dst }.frame(came.len())
        }
        Fate::FromBackend(service) => {
            let macs = (net::OURS[0], net::CLIENT_ROUTER.1);
            Datagram { macs, ttl, src: net::vip(usize::from(service)), ..it }.frame(came.len())
        }
        Fate::Dropped => return Err("sent, and was to be dropped".to_owned()),
    };
    if left == wanted {
        return Ok(());
    }
    Err(format!("sent was\n  {}\nbut it should be\n  {}", hex(left), hex(&wanted)))
}

/// A source that a masqueraded packet may have.
fn masqueraded(src: SocketAddr) -> Result<SocketAddr, String> {
    let port = src.port();
    if src.ip() != IpAddr::from([10, 0, 2, 1]) || port < 1024 || NODE_PORTS.contains(&port) {
        return Err(format!("sent from {src}"));
    }
    Ok(src)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().take(80).map(|byte| format!("{byte:02x} ")).collect()
}
