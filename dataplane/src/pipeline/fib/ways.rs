//! The ways of routes that lead to one gateway: leaf → adjacency, so that a routed packet need not read the group, nor look for the
//! neighbor.
//!
//! Decides nothing: a slot holds for one generation of the tables, and for as long as the neighbor need not be looked at again
//! ([`Recent`](crate::pipeline::neighbor::recent::Recent)).
//!
//! Cost: a slot of 56 bytes, three compares. 14 KiB.

use millrace_tables::Destination;

use crate::pipeline::neighbor::Adjacency;

/// Slots: a power of two.
const SLOTS: usize = 256;

#[derive(Clone, Copy)]
struct Slot {
    generation: u64,
    /// See [`Recent::round`](crate::pipeline::neighbor::recent::Recent::round); 0 is none.
    round: u64,
    leaf: Destination,
    adjacency: Adjacency,
}

/// Adjacencies by leaf.
pub(crate) struct Ways(Box<[Slot; SLOTS]>);

impl Ways {
    pub(crate) fn new() -> Ways {
        let (leaf, adjacency) = (Destination::NOTHING, Adjacency::NOWHERE);
        Ways(Box::new([Slot { generation: 0, round: 0, leaf, adjacency }; SLOTS]))
    }

    /// The adjacency of all packets to this destination, if it was found under these tables in this round.
    #[inline]
    pub(crate) fn get(&self, generation: u64, leaf: Destination, round: u64) -> Option<Adjacency> {
        let slot = self.0.get(leaf.number() % SLOTS)?;
        let same = slot.generation == generation && slot.leaf == leaf && slot.round == round;
        same.then_some(slot.adjacency)
    }

    /// Keeps it in place of whoever has the slot.
    pub(crate) fn put(
        &mut self,
        generation: u64,
        leaf: Destination,
        round: u64,
        adjacency: Adjacency,
    ) {
        if let Some(slot) = self.0.get_mut(leaf.number() % SLOTS) {
            *slot = Slot { generation, round, leaf, adjacency };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_tables::{InterfaceId, NextHop, RouteSpec, SegmentConfig, Writer};
    use millrace_wire::Addr;

    #[test]
    fn a_way_holds_for_its_leaf_and_one_generation_and_round() {
        let config = SegmentConfig { bytes: 16 << 20, ..SegmentConfig::default() };
        let mut writer = Writer::create(&config).unwrap();
        for (prefix, gateway) in [("10.0.0.0/8", "192.0.2.1"), ("11.0.0.0/8", "192.0.2.2")] {
            let gateway: Addr = gateway.parse().unwrap();
            let hop = NextHop { interface: InterfaceId(0), gateway: Some(gateway) };
            writer.set_route(prefix.parse().unwrap(), &RouteSpec::Forward(vec![(hop, 1)])).unwrap();
        }
        writer.publish().unwrap();
        let tables = writer.tables();
        let leaf = |addr: &str| tables.snapshot().destination(&addr.parse().unwrap());
        let adjacency = Adjacency { mtu: 1500, ..Adjacency::NOWHERE };
        let mut ways = Ways::new();
        assert_eq!(ways.get(0, leaf("10.0.0.1"), 1), None);
        ways.put(5, leaf("10.0.0.1"), 1, adjacency);
        assert_eq!(ways.get(5, leaf("10.9.9.9"), 1), Some(adjacency));
        assert_eq!(ways.get(5, leaf("11.0.0.1"), 1), None);
        assert_eq!(ways.get(6, leaf("10.0.0.1"), 1), None);
        assert_eq!(ways.get(5, leaf("10.0.0.1"), 2), None);
    }
}
