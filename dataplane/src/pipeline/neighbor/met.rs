//! The neighbors that this worker sent to lately, so that it need not search the table for each routed packet.
//!
//! Decides nothing: what is kept is only the neighbor's id, which the table checks at each use (`Neighbors::use_at`). A slot
//! whose neighbor has gone is found out there, and filled anew.
//!
//! Cost: one line of 24 bytes' use, a multiplication and three compares, instead of a search of some 200 instructions. 6 KiB.

use millrace_tables::InterfaceId;
use millrace_wire::Addr;

use crate::state::neighbor::NeighborId;

/// Slots: a power of two. Routers have few neighbors, nodes as many as pods.
const SLOTS: usize = 256;

#[derive(Clone, Copy)]
struct Slot {
    words: [u64; 2],
    interface: InterfaceId,
    neighbor: NeighborId,
}

/// Neighbors by interface and address.
pub(crate) struct Met(Box<[Slot; SLOTS]>);

impl Met {
    pub(crate) fn new() -> Met {
        // No neighbor has the address `::`.
        let neighbor = NeighborId::from_bits(0);
        Met(Box::new([Slot { words: [0; 2], interface: InterfaceId(0), neighbor }; SLOTS]))
    }

    #[inline]
    fn slot(interface: InterfaceId, [high, low]: [u64; 2]) -> usize {
        let mixed = (high.rotate_left(17) ^ low ^ u64::from(interface.0))
            .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 56) as usize % SLOTS
    }

    /// The neighbor's id, if it was met lately.
    #[inline]
    pub(crate) fn get(&self, interface: InterfaceId, addr: &Addr) -> Option<NeighborId> {
        let words = addr.to_words();
        let slot = self.0.get(Met::slot(interface, words))?;
        (slot.words == words && slot.interface == interface).then_some(slot.neighbor)
    }

    /// Remembers it, in place of whoever has the slot.
    pub(crate) fn put(&mut self, interface: InterfaceId, addr: &Addr, neighbor: NeighborId) {
        let words = addr.to_words();
        if let Some(slot) = self.0.get_mut(Met::slot(interface, words)) {
            *slot = Slot { words, interface, neighbor };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_is_found_on_its_interface_alone() {
        let mut met = Met::new();
        let addr: Addr = "10.0.0.1".parse().unwrap();
        let id = NeighborId::from_bits(0x123_4567);
        assert_eq!(met.get(InterfaceId(1), &addr), None);
        met.put(InterfaceId(1), &addr, id);
        assert_eq!(met.get(InterfaceId(1), &addr), Some(id));
        assert_eq!(met.get(InterfaceId(0), &addr), None);
        assert_eq!(met.get(InterfaceId(1), &"10.0.0.2".parse().unwrap()), None);
    }
}
