//! The ways of routes that lead to one gateway: leaf → hop, so that a routed packet need not read the group, nor look for the neighbor.
//!
//! Decides nothing: a slot holds for one generation of the tables, and the neighbor it names is checked at each use.
//!
//! Cost: a slot of 24 bytes, two compares. 6 KiB.

use millrace_tables::Destination;

use crate::state::conntrack::CachedHop;

/// Slots: a power of two.
const SLOTS: usize = 256;

#[derive(Clone, Copy)]
struct Slot {
    generation: u64,
    leaf: Destination,
    hop: CachedHop,
}

/// Hops by leaf.
pub(crate) struct Ways(Box<[Option<Slot>; SLOTS]>);

impl Ways {
    pub(crate) fn new() -> Ways {
        Ways(Box::new([None; SLOTS]))
    }

    /// The hop of all packets to this destination, if one was found under these tables.
    #[inline]
    pub(crate) fn get(&self, generation: u64, leaf: Destination) -> Option<CachedHop> {
        let slot = self.0.get(leaf.number() % SLOTS)?.as_ref()?;
        (slot.generation == generation && slot.leaf == leaf).then_some(slot.hop)
    }

    /// Keeps it in place of whoever has the slot.
    pub(crate) fn put(&mut self, generation: u64, leaf: Destination, hop: CachedHop) {
        if let Some(slot) = self.0.get_mut(leaf.number() % SLOTS) {
            *slot = Some(Slot { generation, leaf, hop });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::neighbor::NeighborId;
    use millrace_tables::{InterfaceId, NextHop, RouteSpec, SegmentConfig, Writer};
    use millrace_wire::Addr;

    #[test]
    fn a_way_holds_for_its_leaf_and_one_generation() {
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
        let hop = CachedHop { interface: InterfaceId(0), neighbor: NeighborId::from_bits(7) };
        let mut ways = Ways::new();
        assert_eq!(ways.get(0, leaf("10.0.0.1")), None);
        ways.put(5, leaf("10.0.0.1"), hop);
        assert_eq!(ways.get(5, leaf("10.9.9.9")), Some(hop));
        assert_eq!(ways.get(5, leaf("11.0.0.1")), None);
        assert_eq!(ways.get(6, leaf("10.0.0.1")), None);
    }
}
