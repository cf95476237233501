//! What isn't done for a packet: permanent neighbors, ageing, and showing the table.

use super::row::{
    ASKED, Asked, CONFIRMED, LINK, Link, NEXT, NeighborId, NeighborState, USED, address,
};
use super::{Neighbors, REACHABLE, REQUESTS, RETRANSMIT};
use crate::clock::{MILLISECOND, Nanos, SECOND};
use crate::state::word::{Memory, Word};
use millrace_tables::InterfaceId;
use millrace_wire::{Addr, Mac};

/// A complete neighbor that nobody used for so long is forgotten.
pub const UNUSED: Nanos = 600 * SECOND;
/// A failed one that nobody asked for for so long is forgotten.
pub const FAILED: Nanos = 60 * SECOND;
/// A neighbor as it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbor {
    /// Where it is.
    pub interface: InterfaceId,
    /// Its address.
    pub addr: Addr,
    /// Its MAC, when one is known.
    pub mac: Option<Mac>,
    /// What is known of it.
    pub state: NeighborState,
    /// Since its last use.
    pub unused: Nanos,
    /// Since it was confirmed, or made.
    pub confirmed: Nanos,
}

impl<M: Memory> Neighbors<M> {
    /// Makes `wanted` the permanent neighbors, all of them: others that were are forgotten. Housekeeping calls it,
    /// one thread at a time. Returns how many got no row; call again for those.
    pub fn sync_static(
        &self,
        wanted: impl Iterator<Item = (InterfaceId, Addr, Mac)>,
        now: Nanos,
    ) -> usize {
        let round = self.next_round();
        let mut missed = 0;
        for (interface, addr, mac) in wanted {
            let id = match self.find(interface, &addr) {
                Some(id) => Some(id),
                None => {
                    let made =
                        self.places.make(interface, &addr, (NeighborState::Permanent, mac), now);
                    made.map(|made| made.unwrap_or_else(|id| id))
                }
            };
            missed += usize::from(!id.is_some_and(|id| self.make_permanent(id, mac, round)));
        }
        for slot in 0..self.places.used() {
            let Some(row) = self.places.row(slot) else { break };
            let link = Link(row[LINK].get());
            if link.state() == NeighborState::Permanent && row[NEXT].get() != round {
                missed += usize::from(!self.places.remove(slot, link));
            }
        }
        missed
    }

    /// A number that no permanent row has.
    fn next_round(&self) -> u64 {
        let rows = (0..self.places.used()).filter_map(|slot| self.places.row(slot));
        rows.filter(|row| Link(row[LINK].get()).state() == NeighborState::Permanent)
            .map(|row| row[NEXT].get())
            .max()
            .map_or(1, |round| round.wrapping_add(1))
    }

    fn make_permanent(&self, id: NeighborId, mac: Mac, round: u64) -> bool {
        let Some((row, mut link)) = self.places.at(id) else { return false };
        let permanent = Link::new(NeighborState::Permanent, mac, id.version);
        loop {
            match self.places.change(row, link, permanent) {
                Ok(()) => {
                    row[NEXT].set(round);
                    return true;
                }
                Err(found) if found.version() == id.version => link = found,
                Err(_) => return false,
            }
        }
    }

    /// Ages what nobody uses; housekeeping calls it about once a second. A cache line a row.
    pub fn age(&self, now: Nanos) {
        for slot in 0..self.places.used() {
            let Some(row) = self.places.row(slot) else { break };
            let link = Link(row[LINK].get());
            let unused = now.saturating_sub(row[USED].get().saturating_mul(MILLISECOND));
            let asked = Asked(row[ASKED].get());
            match link.state() {
                NeighborState::Reachable
                    if now.saturating_sub(row[CONFIRMED].get()) >= REACHABLE =>
                {
                    // Or it was confirmed in this moment.
                    let _ = self.places.change(row, link, link.with(NeighborState::Stale));
                }
                NeighborState::Incomplete
                    if asked.is_due(now, u64::from(REQUESTS + 1) * RETRANSMIT) =>
                {
                    let _ = self.places.change(row, link, link.with(NeighborState::Failed));
                }
                NeighborState::Reachable
                | NeighborState::Stale
                | NeighborState::Delay
                | NeighborState::Probe
                    if unused >= UNUSED =>
                {
                    self.places.remove(slot, link);
                }
                NeighborState::Failed if asked.is_due(now, FAILED) => {
                    self.places.remove(slot, link);
                }
                _ => {}
            }
        }
    }

    /// All neighbors, in the order of their memory. On a read-only mapping of a running engine's table, one
    /// that changes hands while it is read is left out; any bytes are survived.
    pub fn neighbors(&self, now: Nanos) -> impl Iterator<Item = Neighbor> + '_ {
        (0..self.places.used()).filter_map(move |slot| {
            let row = self.places.row(slot)?;
            let link = Link(row[LINK].get());
            M::Word::fence_acquire();
            let (interface, addr) = address(row);
            let used = row[USED].get().saturating_mul(MILLISECOND);
            let confirmed = row[CONFIRMED].get();
            M::Word::fence_acquire();
            let version = Link(row[LINK].get()).version();
            (link.state() != NeighborState::Free && version == link.version()).then(|| Neighbor {
                interface,
                addr,
                mac: link.state().is_complete().then(|| link.mac()),
                state: link.state(),
                unused: now.saturating_sub(used),
                confirmed: now.saturating_sub(confirmed),
            })
        })
    }
}
