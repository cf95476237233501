//! Has the kernel and the steering programs send here what the tables say is ours, in `service-proxy` mode.

use std::sync::Arc;

use millrace_tables::Snapshot;
use tracing::error;

use crate::clock::{self, Nanos};
use crate::interface::Interfaces;
use crate::kernel::follow::Follower;
use crate::snat::Ports;
use crate::steer::Steering;
use crate::steer::wanted::{Wanted, wanted};

/// Of the time at most one part in so many goes into finding out what is wanted.
const SHARE: Nanos = 10;
/// After a failure it is tried again this much later.
const AGAIN: Nanos = 1_000_000_000;

/// What was asked for last.
///
/// `wanted` is what all steering programs have; nothing after one of them has failed.
pub(super) struct Follow {
    interfaces: Arc<Interfaces>,
    snat_ports: Ports,
    follower: Option<Follower>,
    wanted: Option<Wanted>,
    /// Of which generation; and when the next may be looked at.
    generation: Option<u64>,
    next: Nanos,
    is_behind: bool,
    is_failing: bool,
}

impl Follow {
    pub(super) fn new(interfaces: &Arc<Interfaces>, snat_ports: Ports) -> Follow {
        Follow {
            interfaces: Arc::clone(interfaces),
            snat_ports,
            follower: None,
            wanted: None,
            generation: None,
            next: 0,
            is_behind: false,
            is_failing: false,
        }
    }

    pub(super) fn set(&mut self, follower: Option<Follower>) {
        self.follower = follower;
        self.generation = None;
        self.wanted = None;
    }

    /// Whether a generation waits for its turn.
    pub(super) fn is_behind(&self) -> bool {
        self.is_behind
    }

    /// Takes up a new generation.
    pub(super) fn take_up(&mut self, tables: &Snapshot<'_>, steering: &mut [Steering]) {
        let Some(follower) = &self.follower else { return };
        if self.generation == Some(tables.generation()) {
            return;
        }
        let began = clock::now();
        let is_early = began < self.next;
        // What failed waits without haste.
        self.is_behind = is_early && !self.is_failing;
        if is_early {
            return;
        }
        self.generation = Some(tables.generation());
        let wanted = wanted(tables, &self.interfaces, &self.snat_ports);
        if self.wanted.as_ref() != Some(&wanted) {
            // Steered packets find their tables; packets led into the trunk would as well.
            let mut failed = false;
            for steering in steering {
                let Wanted { prefixes, addresses, networks, ports, .. } = &wanted;
                let [prefixes, addresses, networks] =
                    [prefixes, addresses, networks].map(|it| it.iter().copied());
                let set = steering.set_ours(prefixes, addresses, networks, ports);
                if let Err(why) = set {
                    failed = true;
                    if !self.is_failing {
                        error!(%why, "not all service traffic comes to the engine; tried again every second");
                    }
                }
            }
            follower.want(wanted.trunk.clone());
            self.is_failing = failed;
            self.wanted = (!failed).then_some(wanted);
        }
        let now = clock::now();
        self.next = now + SHARE * now.saturating_sub(began);
        if self.wanted.is_none() {
            self.generation = None;
            self.next = self.next.max(now + AGAIN);
        }
    }
}
