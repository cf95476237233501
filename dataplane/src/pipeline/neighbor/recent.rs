//! The adjacencies that the burst under way has used: each neighbor is looked at once a burst, not once a packet.
//!
//! Time stands still in a burst, so a neighbor that may be used may be used again; what a packet of the burst teaches
//! about neighbors ends it all ([`Recent::forget`]). What another worker learns meanwhile counts from the next burst on.
//!
//! Cost: a slot of 48 bytes and two compares, instead of the neighbor's line, its state and the interface's row. 768 bytes.

use super::Adjacency;
use crate::state::conntrack::CachedHop;

/// Slots: a power of two.
const SLOTS: usize = 16;

#[derive(Clone, Copy)]
struct Slot {
    /// The burst that used it.
    burst: u64,
    adjacency: Adjacency,
}

/// Adjacencies by hop.
pub(crate) struct Recent {
    /// Number of the burst under way, or of the part of it since somebody was learned.
    burst: u64,
    slots: [Slot; SLOTS],
}

impl Recent {
    pub(crate) fn new() -> Recent {
        Recent { burst: 1, slots: [Slot { burst: 0, adjacency: Adjacency::NOWHERE }; SLOTS] }
    }

    /// A new burst begins, or a neighbor has changed.
    #[inline]
    pub(crate) fn forget(&mut self) {
        self.burst += 1;
    }

    #[inline]
    fn slot(hop: CachedHop) -> usize {
        hop.neighbor.to_bits() as usize % SLOTS
    }

    /// The adjacency of the hop, if this burst has used it.
    #[inline]
    pub(crate) fn get(&self, hop: CachedHop) -> Option<Adjacency> {
        let Slot { burst, adjacency } = self.slots.get(Recent::slot(hop))?;
        let same = *burst == self.burst
            && adjacency.neighbor == hop.neighbor
            && adjacency.interface == hop.interface;
        same.then_some(*adjacency)
    }

    /// Keeps it for the rest of the burst.
    #[inline]
    pub(crate) fn put(&mut self, hop: CachedHop, adjacency: Adjacency) {
        if let Some(slot) = self.slots.get_mut(Recent::slot(hop)) {
            *slot = Slot { burst: self.burst, adjacency };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::neighbor::NeighborId;
    use millrace_tables::InterfaceId;

    #[test]
    fn a_hop_is_known_until_the_burst_ends() {
        let mut recent = Recent::new();
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
    }

    #[test]
    fn nothing_is_known_at_first() {
        let hop = CachedHop { interface: InterfaceId(0), neighbor: NeighborId::from_bits(0) };
        assert_eq!(Recent::new().get(hop), None);
    }
}
