//! What was done to the packets, exactly: what a generator's counts are checked against.

use serde::{Deserialize, Serialize};

/// Counts of one direction. `received = lost + over_capacity + no_room + sent - duplicated + waiting`, with `waiting` 0 at the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Truth {
    /// Packets taken off the rings: each has a number, from 0, that the plan goes by.
    pub received: u64,
    /// Dropped by the plan.
    pub lost: u64,
    /// Dropped since the queue before the capacity was full.
    pub over_capacity: u64,
    /// Dropped since this forwarder had no frame left to hold it: its fault, not the plan's.
    pub no_room: u64,
    /// Sent a second time.
    pub duplicated: u64,
    /// Sent after a packet that had come later.
    pub reordered: u64,
    /// Put on the wire, second copies included.
    pub sent: u64,
    /// Forwarded without a look at the plan: neither IPv4, IPv6 nor tagged, or neighbor and multicast listener messages of IPv6. Not among the others.
    pub passed: u64,
    /// Dropped by the kernel before they reached this forwarder (ring full, too large): not among the others.
    pub kernel_dropped: u64,
}

impl Truth {
    /// Whether every packet received is accounted for.
    pub fn balances(&self) -> bool {
        self.received + self.duplicated == self.lost + self.over_capacity + self.no_room + self.sent
    }
}
