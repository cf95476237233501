//! The short look at an entry: all that a packet of an established IPv4 flow needs, read from the entry's line in one go.
//!
//! Decides nothing that [`Table::find_at`], [`Conntrack::touch`](super::Conntrack::touch) and [`Table::translated`] would not:
//! where anything is out of the ordinary it finds nothing, and they are asked.
//!
//! Cost: one line, which [`Table::probe`] has asked for, some 50 instructions and no write.

use super::entry::{ACTIVITY, Activity, DECISION, Decision, Key, LIFE, Life, Phase};
use super::table::{Hint, Table};
use crate::flow::Tuple;
use crate::state::word::{Memory, Word};
use millrace_wire::tcp::Flags;

/// A flow to which one more packet changes nothing.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// Source and destination to leave with, as they lie in the header: source low.
    pub addrs: [u32; 2],
    /// Ports to leave with, as they lie in the header.
    pub ports: u32,
    /// Where packets of this direction leave.
    pub decision: Decision,
}

impl<M: Memory> Table<M> {
    /// The flow of a packet with `flags`, none if it isn't TCP, that `hint` names, if its entry is IPv4, in force, was used
    /// in this second and is not changed by the packet. `tick` is [`tick`](super::progress::tick) of now.
    #[inline(always)]
    pub fn known(&self, hint: Hint, tuple: &Tuple, flags: Flags, tick: u32) -> Option<Known> {
        let candidate = hint.named()?;
        M::Word::fence_acquire();
        let direction = crate::flow::Direction::from_bit(candidate.second);
        let place = self.place(candidate.row)?;
        let [addrs, ports] = Key::of(tuple).matches_narrow(&place, direction)?;
        let row = place.row;
        let activity = Activity(row[ACTIVITY].get());
        let steady = Life(row[LIFE].get()).phase() == Phase::Live
            // So it can't be too old either.
            && activity.tick() == tick
            && activity.progress().is_steady(direction, tuple.protocol, flags);
        steady.then(|| Known {
            addrs: [(addrs >> 32) as u32, addrs as u32],
            // Reversed, and in network order.
            ports: u32::from((ports as u16).to_be()) << 16
                | u32::from(((ports >> 16) as u16).to_be()),
            decision: Decision(row[DECISION[direction.index()]].get()),
        })
    }
}
