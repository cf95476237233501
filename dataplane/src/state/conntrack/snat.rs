//! How full the sets of source ports are that masqueraded flows draw from: one set for each protocol, source address and backend.
//!
//! Counted by who wants to know, by looking through the table: flows pay nothing for it.

use std::collections::BTreeMap;

use super::entry::{KIND, LIFE, Life, Phase, masqueraded, tuple};
use super::table::Table;
use crate::flow::Direction;
use crate::state::word::{Memory, Word};
use millrace_wire::{Addr, Protocol};

/// One set of source ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SnatSet {
    /// IP protocol number.
    pub protocol: u8,
    /// Our address.
    pub source: Addr,
    /// The backend's address.
    pub backend: Addr,
    /// The backend's port.
    pub port: u16,
}

/// Ports in use, by set.
pub type SnatUse = BTreeMap<SnatSet, u32>;

impl<M: Memory> Table<M> {
    /// Adds the masqueraded flows among the entries from `from` on, `budget` of them, to `used`. Where to go on; `None` at the end.
    pub fn count_snat(&self, from: u32, budget: u32, used: &mut SnatUse) -> Option<u32> {
        let end = self.used();
        let to = end.min(from.saturating_add(budget));
        for id in from..to {
            let Some(place) = self.place(id) else { break };
            let live = Life(place.row[LIFE].get()).phase() == Phase::Live;
            if live && masqueraded(place.row[KIND].get()) {
                let reply = tuple(&place, Direction::Reply);
                let Protocol(protocol) = reply.protocol;
                let set =
                    SnatSet { protocol, source: reply.dst, backend: reply.src, port: reply.sport };
                *used.entry(set).or_default() += 1;
            }
        }
        (to < end).then_some(to)
    }

    /// The fullest sets, the fullest first.
    pub fn fullest_snat(&self, most: usize) -> Vec<(SnatSet, u32)> {
        let mut used = SnatUse::new();
        self.count_snat(0, u32::MAX, &mut used);
        let mut sets: Vec<(SnatSet, u32)> = used.into_iter().collect();
        sets.sort_by_key(|(set, ports)| (std::cmp::Reverse(*ports), *set));
        sets.truncate(most);
        sets
    }
}
