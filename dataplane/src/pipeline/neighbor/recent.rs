//! The adjacencies that the worker has used in this millisecond: each neighbor is looked at once a millisecond, not once a packet.
//!
//! What this worker learns about neighbors ends it all at once ([`Recent::forget`]); what another worker learns counts when
//! the millisecond is over. By the scale of what a neighbor's state hangs on, whole seconds, that is at once.
//!
//! Cost: a slot of 40 bytes and three compares, instead of the neighbor's line, its state and the interface's row. 2.5 KiB.

use super::Adjacency;
use crate::clock::{MILLISECOND, Nanos};
use crate::state::conntrack::CachedHop;

/// Slots: a power of two.
const SLOTS: usize = 64;
/// How long a look is good for.
const FRESH: Nanos = MILLISECOND;

#[derive(Clone, Copy)]
struct Slot {
    /// The round that it was looked at in.
    round: u64,
    adjacency: Adjacency,
}

/// Adjacencies by hop.
pub(crate) struct Recent {
    /// Number of the millisecond, or of the part of it since somebody was learned.
    round: u64,
    /// When it began.
    since: Nanos,
    slots: [Slot; SLOTS],
}

impl Recent {
    pub(crate) fn new() -> Recent {
        let slots = [Slot { round: 0, adjacency: Adjacency::NOWHERE }; SLOTS];
        Recent { round: 1, since: 0, slots }
    }

    /// A burst begins.
    #[inline]
    pub(crate) fn begin(&mut self, now: Nanos) {
        // Also when the clock was set back, which only a test's can.
        if now.wrapping_sub(self.since) >= FRESH {
            self.since = now;
            self.forget();
        }
    }

    /// Number of the round: what was looked at in it is good until its end. From 1 on.
    #[inline]
    pub(crate) fn round(&self) -> u64 {
        self.round
    }

    /// A neighbor has changed.
    pub(crate) fn forget(&mut self) {
        self.round += 1;
    }

    #[inline]
    fn slot(hop: CachedHop) -> usize {
        hop.neighbor.to_bits() as usize % SLOTS
    }

    /// The adjacency of the hop, if it was looked at lately.
    #[inline]
    pub(crate) fn get(&self, hop: CachedHop) -> Option<Adjacency> {
        let Slot { round, adjacency } = self.slots.get(Recent::slot(hop))?;
        let same = *round == self.round
            && adjacency.neighbor == hop.neighbor
            && adjacency.interface == hop.interface;
        same.then_some(*adjacency)
    }

    /// Keeps it for the rest of the millisecond.
    #[inline]
    pub(crate) fn put(&mut self, hop: CachedHop, adjacency: Adjacency) {
        if let Some(slot) = self.slots.get_mut(Recent::slot(hop)) {
            *slot = Slot { round: self.round, adjacency };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::neighbor::NeighborId;
    use millrace_tables::InterfaceId;

    #[test]
    fn a_hop_is_known_for_a_millisecond_or_until_somebody_is_learned() {
        let mut recent = Recent::new();
        recent.begin(7 * FRESH);
        let hop =
            CachedHop { interface: InterfaceId(1), neighbor: NeighborId::from_bits(0x30_0007) };
        assert_eq!(recent.get(hop), None);
        let adjacency = Adjacency {
            interface: hop.interface,
            src: 1,
            dst: 2,
            mtu: 1500,
            neighbor: hop.neighbor,
        };
        recent.put(hop, adjacency);
        assert_eq!(recent.get(hop), Some(adjacency));
        let other = CachedHop { interface: InterfaceId(2), ..hop };
        assert_eq!(recent.get(other), None, "the same neighbor's slot, another interface");
        let other = CachedHop { neighbor: NeighborId::from_bits(0x31_0007), ..hop };
        assert_eq!(recent.get(other), None, "the slot's next neighbor");
        recent.forget();
        assert_eq!(recent.get(hop), None);
        recent.put(hop, adjacency);
        recent.begin(8 * FRESH - 1);
        assert_eq!(recent.get(hop), Some(adjacency));
        recent.begin(8 * FRESH);
        assert_eq!(recent.get(hop), None);
    }

    #[test]
    fn nothing_is_known_at_first() {
        let hop = CachedHop { interface: InterfaceId(0), neighbor: NeighborId::from_bits(0) };
        assert_eq!(Recent::new().get(hop), None);
    }
}
