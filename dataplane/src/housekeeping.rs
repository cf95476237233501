//! The engine's one thread beside the workers: the socket, heartbeats, sweeps and ageing. Never in a packet's way.

mod follow;

use std::os::fd::AsFd;
use std::sync::Arc;

use millrace_tables::session::Interface as Told;
use millrace_tables::{Epochs, InterfaceId, ReaderEpoch};
use millrace_wire::{Addr, Mac};
use rustix::event::Timespec;
use tracing::{error, info, warn};

use crate::clock::{self, MILLISECOND, Nanos, SECOND};
use crate::config::Config;
use crate::engine::EngineError;
use crate::engine::port::Port;
use crate::engine::state_settings;
use crate::flow::Tuple;
use crate::interface::Interfaces;
use crate::kernel::follow::Follower;
use crate::live::{Handle, Live};
use crate::pipeline::service::is_stale;
use crate::server::{Facts, Server};
use crate::shadow::Keeper;
use crate::state::conntrack::{Conntrack, SnatSet, SnatUse};
use crate::state::neighbor::Neighbors;
use crate::state::segment::Segment;
use crate::steer::Steering;

/// How long a turn waits for messages: an acknowledgement is late by this at most.
const TURN: Nanos = MILLISECOND;
/// The same while no generation is waited for.
const QUIET_TURN: Nanos = 20 * MILLISECOND;
/// How often the program's heartbeat is set; it goes stale after a second.
const BEAT: Nanos = 100 * MILLISECOND;
/// Conntrack entries that a turn looks at: a table of a million in about ten seconds.
const SWEEP: u32 = 2048;
/// Entries that a turn looks at after a change, for those whose backend is gone: a million in four turns, unless they take long.
const REVIEW: u32 = 1 << 18;
/// Entries between two looks at the clock, and how long a turn may look at entries.
const REVIEW_STEP: u32 = 1024;
const REVIEW_TIME: Nanos = 5 * MILLISECOND;
/// Seconds for which a flow has been idle whose entry is removed for that; one in use finds out by its next packet.
const REVIEW_IDLE: u32 = 1;
/// When those are looked at that were in use at the change.
const REVIEW_AGAIN: Nanos = 3 * SECOND;

/// A set of source ports that is so full, in percent, is spoken of before it is exhausted.
const SNAT_ALARM: u64 = 80;

/// What housekeeping keeps.
pub struct Housekeeping {
    server: Server,
    steering: Vec<Steering>,
    follow: follow::Follow,
    /// The kernel at the other end of the trunk, which needs no asking.
    peers: Vec<(InterfaceId, Addr, Mac)>,
    conntrack: Conntrack,
    neighbors: Neighbors,
    policies: Keeper,
    tables: Handle,
    epoch: ReaderEpoch,
    epochs: Epochs,
    /// Bursts of each worker at the last beat.
    bursts: Vec<Option<u64>>,
    /// Generation whose static neighbors are in force.
    synced: Option<u64>,
    /// Generation that the review is about, and how far it is: the next entry, and how many are left.
    reviewed: Option<u64>,
    review_at: u32,
    review_left: u32,
    /// When all entries are looked at once more.
    review_again: Option<Nanos>,
    /// Source ports in use, as far as they are counted; how many there are of each set; sets that were spoken of.
    snat: (u32, SnatUse),
    snat_ports: u32,
    /// How many there are of a set whose source is the engine's own on the trunk.
    trunk_ports: u32,
    snat_full: Vec<SnatSet>,
    /// Of these, how many have no row.
    missed: usize,
    beaten: Nanos,
    aged: Nanos,
}

impl Housekeeping {
    /// Listens on the socket and is ready to turn.
    pub fn new(
        config: &Config,
        interfaces: &Arc<Interfaces>,
        ports: &[Port<'_>],
        shared: &Segment,
        live: &Arc<Live>,
    ) -> Result<Self, EngineError> {
        let workers = config.cpus.len();
        let mut slots =
            (workers..shared.slots().count()).filter_map(|slot| shared.slots().reader(slot));
        let epoch = slots.next().ok_or(EngineError::Slots)?;
        let told = interfaces.iter().map(|interface| Told {
            id: interface.id.0,
            name: interface.name.clone(),
            mac: interface.mac,
            mtu: interface.mtu,
            addresses: interface.addresses.clone(),
            kind: interface.kind.name().to_owned(),
            index: ports.get(usize::from(interface.id.0)).map_or(0, Port::told_index),
            mode: String::new(),
        });
        let facts = Facts {
            interfaces: told.collect(),
            mode: config.mode,
            workers: u16::try_from(workers).unwrap_or(u16::MAX),
            state: shared.fd().as_fd().try_clone_to_owned().map_err(EngineError::Io)?,
            epochs: shared.slots().epochs(),
        };
        let settings = state_settings(config, &shared.view().sizes());
        let mut conntrack = shared.conntrack(workers, &settings)?;
        conntrack.idle();
        Ok(Self {
            server: Server::listen(&config.socket, facts, Arc::clone(live), slots.collect())?,
            steering: Vec::new(),
            follow: follow::Follow::new(interfaces, config.snat_ports),
            peers: interfaces.kernel_neighbors(),
            conntrack,
            neighbors: shared.neighbors(&settings)?,
            policies: Keeper::new(shared.view().policies()?),
            tables: live.handle(),
            epoch,
            epochs: shared.slots().epochs(),
            bursts: vec![None; workers],
            synced: None,
            snat: (0, SnatUse::new()),
            snat_ports: config.snat_ports.count(),
            trunk_ports: config.trunk_ports.count(),
            snat_full: Vec::new(),
            reviewed: None,
            review_at: 0,
            review_left: 0,
            review_again: None,
            missed: 0,
            beaten: 0,
            aged: 0,
        })
    }

    /// Keeps these programs beating; those kept before are detached.
    pub fn steer(&mut self, steering: Vec<Steering>) {
        self.steering = steering;
        self.beaten = 0;
    }

    /// From now on those who ask are told how packets come from each interface, in the order of their numbers.
    pub fn tell_modes<'m>(&mut self, modes: impl Iterator<Item = &'m str>) {
        self.server.tell_modes(modes);
    }

    /// From now on the kernel is told what is to come here.
    pub fn follow(&mut self, follower: Follower) {
        self.follow.set(Some(follower));
    }

    /// The kernel is told nothing more.
    pub fn unfollow(&mut self) {
        self.follow.set(None);
    }

    /// Serves the socket for a moment, and does what is due.
    pub fn turn(&mut self) {
        let busy = self.server.awaits_workers() || self.review_left > 0 || self.follow.is_behind();
        let wait = if busy { TURN } else { QUIET_TURN };
        self.server.turn(Timespec { tv_sec: 0, tv_nsec: wait as i64 });
        self.server.acknowledge();
        self.sync_neighbors();
        self.follow.take_up(&self.epoch.enter(self.tables.tables()), &mut self.steering);
        let now = clock::now();
        self.policies.turn(&self.epoch.enter(self.tables.tables()), now);
        self.epoch.idle();
        self.conntrack.sweep(SWEEP, now);
        self.review();
        self.count_snat();
        self.conntrack.idle();
        if now.saturating_sub(self.beaten) >= BEAT {
            self.beaten = now;
            self.beat();
        }
        if now.saturating_sub(self.aged) >= SECOND {
            self.aged = now;
            self.neighbors.age(now);
        }
    }

    /// Puts the static neighbors of a new generation in force.
    pub fn sync_neighbors(&mut self) {
        let tables = self.epoch.enter(self.tables.tables());
        if self.synced != Some(tables.generation()) {
            let wanted = tables.static_neighbors().map(|row| (row.interface, row.addr, row.mac));
            let wanted = wanted.chain(self.peers.iter().copied());
            let missed = self.neighbors.sync_static(wanted, clock::now());
            // A row can be busy for a moment; what is missed for lack of room is tried again as well, quietly.
            if missed == 0 {
                self.synced = Some(tables.generation());
            } else if self.missed != missed {
                warn!(
                    missed,
                    "static neighbors have no row yet; if this stays, raise [neighbors] entries"
                );
            }
            self.missed = missed;
        }
        self.epoch.idle();
    }

    /// Removes idle UDP flows whose backend is gone. Each change has all entries looked at once more from wherever the review is, so
    /// that it gets round however often the tables change; and once again later, for those that were in use.
    fn review(&mut self) {
        let began = clock::now();
        let tables = self.epoch.enter(self.tables.tables());
        let used = self.conntrack.table().used();
        if self.reviewed != Some(tables.generation()) {
            self.reviewed = Some(tables.generation());
            self.review_left = used;
            self.review_again = Some(began + REVIEW_AGAIN);
        }
        if self.review_left == 0 && self.review_again.is_some_and(|due| began >= due) {
            self.review_left = used;
            self.review_again = None;
        }
        let mut budget = self.review_left.min(REVIEW);
        while budget > 0 && clock::now().saturating_sub(began) < REVIEW_TIME {
            if self.review_at >= used {
                self.review_at = 0;
            }
            let end = used.min(self.review_at + budget.min(REVIEW_STEP));
            let stale = |service, original: &Tuple, translated: &Tuple| {
                is_stale(&tables, service, original, translated)
            };
            self.conntrack.review(self.review_at..end, (began, REVIEW_IDLE), stale);
            let seen = end - self.review_at;
            self.review_at = end;
            self.review_left = self.review_left.saturating_sub(seen);
            budget = budget.saturating_sub(seen.max(1));
        }
        self.epoch.idle();
    }

    /// Counts source ports in use, a part of the table a turn, and says once which sets come near their end.
    fn count_snat(&mut self) {
        let (from, used) = &mut self.snat;
        if let Some(next) = self.conntrack.table().count_snat(*from, SWEEP, used) {
            *from = next;
            return;
        }
        let of = |set: &SnatSet| match self.peers.iter().any(|(_, addr, _)| *addr == set.source) {
            true => self.trunk_ports,
            false => self.snat_ports,
        };
        let full =
            |set: &SnatSet, ports: u32| u64::from(ports) * 100 >= u64::from(of(set)) * SNAT_ALARM;
        let all = std::mem::take(&mut self.snat).1;
        let now: Vec<(SnatSet, u32)> =
            all.into_iter().filter(|(set, ports)| full(set, *ports)).collect();
        for (set, ports) in now.iter().filter(|(set, _)| !self.snat_full.contains(set)) {
            warn!(
                source = %set.source, backend = %set.backend, port = set.port, protocol = set.protocol, used = ports,
                of = of(set),
                "source ports for masqueraded flows run out: another address, more backends, or externalTrafficPolicy: Local"
            );
        }
        self.snat_full = now.into_iter().map(|(set, _)| set).collect();
    }

    /// Tells the programs that the workers are alive: each has turned since the last beat, or sleeps.
    fn beat(&mut self) {
        for (worker, before) in self.bursts.iter_mut().enumerate() {
            let bursts = self.epochs.bursts(worker);
            let sleeps = self.epochs.generation(worker).is_none();
            let stuck = !sleeps && bursts == *before;
            *before = bursts;
            if stuck {
                error!(worker, "does not turn: no heartbeat, so that its packets go to the kernel");
                return;
            }
        }
        for steering in &mut self.steering {
            if let Err(why) = steering.beat() {
                error!(%why, "no heartbeat");
            }
        }
    }
}

impl Drop for Housekeeping {
    fn drop(&mut self) {
        for steering in &self.steering {
            if let Ok(of) = steering.statistics() {
                info!(
                    redirected = of.redirected,
                    passed = of.passed,
                    stale = of.stale,
                    "steering ends"
                );
            }
        }
    }
}
