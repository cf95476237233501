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

/// What was asked for last.
pub(super) struct Follow {
    interfaces: Arc<Interfaces>,
    snat_ports: Ports,
    follower: Option<Follower>,
    wanted: Wanted,
    /// Of which generation; and when the next may be looked at.
    generation: Option<u64>,
    next: Nanos,
    is_behind: bool,
}

impl Follow {
    pub(super) fn new(interfaces: &Arc<Interfaces>, snat_ports: Ports) -> Follow {
        Follow {
            interfaces: Arc::clone(interfaces),
            snat_ports,
            follower: None,
            wanted: Wanted::default(),
            generation: None,
            next: 0,
            is_behind: false,
        }
    }

    pub(super) fn set(&mut self, follower: Option<Follower>) {
        self.follower = follower;
        self.generation = None;
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
        self.is_behind = began < self.next;
        if self.is_behind {
            return;
        }
        self.generation = Some(tables.generation());
        let wanted = wanted(tables, &self.interfaces, &self.snat_ports);
        if wanted != self.wanted {
            // Steered packets find their tables; packets led into the trunk would as well.
            for steering in steering {
                let Wanted { prefixes, addresses, networks, ports, .. } = &wanted;
                let [prefixes, addresses, networks] =
                    [prefixes, addresses, networks].map(|it| it.iter().copied());
                let set = steering.set_ours(prefixes, addresses, networks, ports);
                if let Err(why) = set {
                    error!(%why, "not all service traffic comes to the engine");
                    self.generation = None;
                }
            }
            follower.want(wanted.trunk.clone());
            self.wanted = wanted;
        }
        let now = clock::now();
        self.next = now + SHARE * now.saturating_sub(began);
    }
}
