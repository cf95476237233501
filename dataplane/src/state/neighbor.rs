//! Neighbors: which MAC an address on an interface has, one table for all workers.
//!
//! # Cost
//!
//! A neighbor is one cache line ([`row`](self)), its index 12.8 bytes. An established packet knows the
//! [`NeighborId`] and reads that line ([`Neighbors::use_at`]); others find it through the index, two lines more
//! ([`Neighbors::resolve`]). The line is written at most every 128 ms of use.
//!
//! # Rules
//!
//! RFC 4861 §7.3 and appendix C for both families (ARP has no better ones), with its constants. Nothing here
//! sends: whoever *uses* a neighbor is told that now is the time for a request, one worker once a
//! second, by a compare-and-exchange on the time of the last. So nobody need watch timers for it: a
//! worker that holds frames for a neighbor asks again each turn, and nobody asks for what nobody uses.
//! Housekeeping only ages what is forgotten ([`Neighbors::age`]).
//!
//! | event | no entry | incomplete, failed | complete |
//! |---|---|---|---|
//! | ARP reply to us | – | REACHABLE | REACHABLE, its MAC |
//! | ARP request to us, NS | STALE | STALE | another MAC: STALE, that MAC |
//! | gratuitous ARP | – | STALE | another MAC: STALE, that MAC |
//! | NA solicited, override | – | REACHABLE | REACHABLE, its MAC |
//! | NA solicited | – | REACHABLE | same MAC: REACHABLE; another: STALE if REACHABLE, MAC kept |
//! | NA override | – | STALE | another MAC: STALE, that MAC |
//! | NA neither | – | STALE | another MAC: STALE if REACHABLE, MAC kept |
//!
//! PERMANENT ones, set by control, change by nothing else.
//!
//! Which rows are made and evicted when is in `neighbor/places.rs`; what housekeeping does, and what is shown, in
//! `neighbor/upkeep.rs`.

mod places;
mod row;
mod upkeep;

#[cfg(test)]
mod property_tests;
#[cfg(test)]
mod tests;

pub use places::Occupancy;
pub use row::{NeighborId, NeighborState};
pub use upkeep::Neighbor;

use crate::clock::{MILLISECOND, Nanos, SECOND};
use crate::flow::Seed;
use crate::state::word::{Memory, Region, Word};
use millrace_tables::InterfaceId;
use millrace_wire::{Addr, Mac};
use places::Places;
use row::{ASKED, Asked, CONFIRMED, Link, Row, USED, address};

/// How long a confirmation holds (RFC 4861 §10, REACHABLE_TIME, without its jitter).
pub const REACHABLE: Nanos = 30 * SECOND;
/// Between two requests (RETRANS_TIMER).
pub const RETRANSMIT: Nanos = SECOND;
/// Between a stale neighbor's first use and the first probe (DELAY_FIRST_PROBE_TIME).
pub const DELAY: Nanos = 5 * SECOND;
/// Requests in a row before a neighbor has failed (MAX_MULTICAST_SOLICIT, MAX_UNICAST_SOLICIT).
pub const REQUESTS: u8 = 3;
/// Resolution of the time of the last use.
const USED_STEP: u64 = 128;

/// Smallest and largest number of neighbors.
pub const CAPACITY: std::ops::RangeInclusive<u32> = 16..=65_535;

/// Words that a table takes, part by part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Counts, lock and lists.
    pub head: usize,
    /// The index.
    pub index: usize,
    /// The neighbors.
    pub rows: usize,
}

impl Layout {
    /// Of a table of `capacity` neighbors.
    pub fn of(capacity: u32) -> Self {
        let (head, index, rows) = places::words_for(capacity);
        Self { head, index, rows }
    }
}

/// What a packet needs of its neighbor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// Where to send it.
    pub mac: Mac,
    /// The caller sends one unicast request to that MAC now.
    pub probe: bool,
}

/// Where a packet for a neighbor goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To this MAC.
    Complete {
        /// For the packets to come.
        id: NeighborId,
        /// The MAC.
        mac: Mac,
        /// The caller sends one unicast request now.
        probe: bool,
    },
    /// It waits, and the caller sends one broadcast (multicast) request now.
    Request {
        /// What it waits for.
        id: NeighborId,
    },
    /// It waits; the request is under way.
    Waiting {
        /// What it waits for.
        id: NeighborId,
    },
    /// It won't wait: nobody answered.
    Failed,
    /// It won't wait: the table has no room (or was busy for longer than a packet may wait).
    Full,
}

/// What tells us a neighbor's MAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learn {
    /// An ARP reply to us.
    Reply,
    /// Somebody asks us: ARP request, or neighbor solicitation with its link-layer address.
    Request,
    /// ARP that isn't for us, but about its sender.
    Gratuitous,
    /// A neighbor advertisement with a link-layer address.
    Advertisement {
        /// Its S flag.
        solicited: bool,
        /// Its O flag.
        overrides: bool,
    },
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learned {
    /// A new neighbor.
    Created,
    /// It was waited for: held frames can go.
    Completed,
    /// It has another MAC now.
    Updated,
    /// Nothing new.
    Unchanged,
    /// Not for us to know, or not to be believed.
    Ignored,
}

/// The table. Clones are handles on the same memory; all of them may be used at once.
#[derive(Clone, Debug)]
pub struct Neighbors<M: Memory = Region> {
    places: Places<M>,
}

impl<M: Memory> Neighbors<M> {
    /// A table over memory laid out by [`Layout::of`], all zero at first; `None` if it doesn't fit that.
    /// `incomplete`: most neighbors that may be waited for at once.
    pub fn new(
        head: M,
        index: M,
        rows: M,
        capacity: u32,
        incomplete: u32,
        seed: Seed,
    ) -> Option<Self> {
        let layout = Layout::of(capacity);
        let fits = (head.words().len(), index.words().len(), rows.words().len())
            == (layout.head, layout.index, layout.rows)
            && CAPACITY.contains(&capacity);
        let places = Places { head, index, rows, capacity, incomplete: incomplete.max(1), seed };
        fits.then_some(Self { places })
    }

    /// Takes over a table whose users are all gone.
    pub fn adopt(&self) {
        self.places.adopt();
    }

    /// The neighbor, in whatever state.
    #[inline]
    pub fn find(&self, interface: InterfaceId, addr: &Addr) -> Option<NeighborId> {
        self.places.find(interface, addr)
    }

    /// The neighbor's MAC, if it is still there and complete; not a use.
    #[inline]
    pub fn mac(&self, id: NeighborId) -> Option<Mac> {
        let (_, link) = self.places.at(id)?;
        link.state().is_complete().then(|| link.mac())
    }

    /// The neighbor's address, if it is still there.
    pub fn addr(&self, id: NeighborId) -> Option<Addr> {
        let (row, _) = self.places.at(id)?;
        M::Word::fence_acquire();
        let (_, addr) = address(row);
        M::Word::fence_acquire();
        self.places.at(id).map(|_| addr)
    }

    /// A packet goes to the neighbor: its MAC, and whether to ask if it is still there. `None`: it isn't there, or
    /// not complete; resolve it.
    #[inline]
    pub fn use_at(&self, id: NeighborId, now: Nanos) -> Option<Used> {
        let (row, link) = self.places.at(id)?;
        mark_used(row, now);
        match link.state() {
            NeighborState::Permanent => Some(Used { mac: link.mac(), probe: false }),
            NeighborState::Reachable if now.saturating_sub(row[CONFIRMED].get()) < REACHABLE => {
                Some(Used { mac: link.mac(), probe: false })
            }
            NeighborState::Reachable
            | NeighborState::Stale
            | NeighborState::Delay
            | NeighborState::Probe => self.use_unconfirmed(row, link, now),
            NeighborState::Free | NeighborState::Incomplete | NeighborState::Failed => None,
        }
    }

    /// Use of a neighbor that wasn't confirmed lately: (REACHABLE →) STALE → DELAY → PROBE → FAILED.
    #[cold]
    fn use_unconfirmed(&self, row: &Row<M::Word>, link: Link, now: Nanos) -> Option<Used> {
        let quiet = Some(Used { mac: link.mac(), probe: false });
        let asked = Asked(row[ASKED].get());
        match link.state() {
            NeighborState::Delay => {
                if asked == Asked::NEVER {
                    // Whoever began the delay hasn't said when yet, or an answer crossed it: begin it now.
                    let _ = row[ASKED].exchange(asked.0, Asked::again(0, now).0);
                    return quiet;
                }
                // More than none: left by an earlier round, its beginner is about to overwrite it.
                if asked.times() > 0 || !asked.is_due(now, DELAY) {
                    return quiet;
                }
                // Another worker may have done so.
                let _ = self.places.change(row, link, link.with(NeighborState::Probe));
            }
            NeighborState::Probe => {
                if asked.times() > 0 && !asked.is_due(now, RETRANSMIT) {
                    return quiet;
                }
                if asked.times() >= REQUESTS {
                    let _ = self.places.change(row, link, link.with(NeighborState::Failed));
                    return None;
                }
            }
            _ => {
                if self.places.change(row, link, link.with(NeighborState::Delay)).is_ok() {
                    row[ASKED].set(Asked::again(0, now).0);
                }
                return quiet;
            }
        }
        let again = Asked::again(asked.times() + 1, now);
        let probe = row[ASKED].exchange(asked.0, again.0).is_ok();
        Some(Used { mac: link.mac(), probe })
    }

    /// Where a packet for `addr` goes, and who asks for it.
    pub fn resolve(&self, interface: InterfaceId, addr: &Addr, now: Nanos) -> Answer {
        let id = match self.find(interface, addr) {
            Some(id) => id,
            None => {
                let incomplete = (NeighborState::Incomplete, Mac::ZERO);
                match self.places.make(interface, addr, incomplete, now) {
                    Some(Ok(id)) => return Answer::Request { id },
                    Some(Err(id)) => id,
                    None => return Answer::Full,
                }
            }
        };
        if let Some(Used { mac, probe }) = self.use_at(id, now) {
            return Answer::Complete { id, mac, probe };
        }
        let Some((row, link)) = self.places.at(id) else { return Answer::Full };
        let asked = Asked(row[ASKED].get());
        let due = asked.is_due(now, RETRANSMIT);
        match link.state() {
            NeighborState::Incomplete if !due => Answer::Waiting { id },
            NeighborState::Incomplete if asked.times() >= REQUESTS => {
                let _ = self.places.change(row, link, link.with(NeighborState::Failed));
                Answer::Failed
            }
            NeighborState::Incomplete => {
                let again = Asked::again(asked.times() + 1, now);
                match row[ASKED].exchange(asked.0, again.0) {
                    Ok(_) => Answer::Request { id },
                    Err(_) => Answer::Waiting { id },
                }
            }
            // The next packet after a failure starts anew, as Linux does; still once a second.
            NeighborState::Failed if due => {
                if row[ASKED].exchange(asked.0, Asked::again(1, now).0).is_err() {
                    return Answer::Waiting { id };
                }
                row[CONFIRMED].set(now);
                let incomplete = Link::new(NeighborState::Incomplete, Mac::ZERO, link.version());
                match self.places.change(row, link, incomplete) {
                    Ok(()) => Answer::Request { id },
                    Err(_) => Answer::Waiting { id },
                }
            }
            NeighborState::Failed => Answer::Failed,
            // Completed in this moment by another worker: the next try finds it so.
            _ => Answer::Waiting { id },
        }
    }

    /// Takes in what a packet says about its sender.
    pub fn learn(
        &self,
        interface: InterfaceId,
        addr: &Addr,
        mac: Mac,
        how: Learn,
        now: Nanos,
    ) -> Learned {
        if !mac.is_unicast() || addr.is_multicast() || addr.is_unspecified() {
            return Learned::Ignored;
        }
        let id = match (self.find(interface, addr), how) {
            (Some(id), _) => id,
            (None, Learn::Request) => {
                match self.places.make(interface, addr, (NeighborState::Stale, mac), now) {
                    Some(Ok(_)) => return Learned::Created,
                    Some(Err(id)) => id,
                    None => return Learned::Ignored,
                }
            }
            (None, _) => return Learned::Ignored,
        };
        let Some((row, mut link)) = self.places.at(id) else { return Learned::Ignored };
        loop {
            let Some((state, mac)) = transition(link, mac, how) else { return Learned::Ignored };
            let new = Link::new(state, mac, id.version);
            let confirms = state == NeighborState::Reachable && how.confirms();
            if confirms {
                row[CONFIRMED].set(now);
            }
            match self.places.change(row, link, new) {
                Ok(()) => {
                    if new != link || confirms {
                        row[ASKED].set(Asked::NEVER.0);
                    }
                    return if !link.state().is_complete() {
                        Learned::Completed
                    } else if new.mac() != link.mac() {
                        Learned::Updated
                    } else {
                        Learned::Unchanged
                    };
                }
                Err(found) if found.version() == id.version => link = found,
                Err(_) => return Learned::Ignored,
            }
        }
    }

    /// A neighbor advertisement without a link-layer address: it is still where it was, if it was asked.
    pub fn confirm(
        &self,
        interface: InterfaceId,
        addr: &Addr,
        solicited: bool,
        now: Nanos,
    ) -> Learned {
        match self.find(interface, addr).and_then(|id| self.mac(id)) {
            Some(mac) if solicited => {
                let how = Learn::Advertisement { solicited: true, overrides: false };
                self.learn(interface, addr, mac, how, now)
            }
            Some(_) => Learned::Unchanged,
            None => Learned::Ignored,
        }
    }

    /// How full the table is.
    pub fn occupancy(&self) -> Occupancy {
        self.places.occupancy()
    }
}

impl Learn {
    /// Whether it answers a question of ours.
    fn confirms(self) -> bool {
        matches!(self, Self::Reply | Self::Advertisement { solicited: true, .. })
    }
}

/// What the table at the top of the file says. `None`: the entry doesn't learn.
fn transition(link: Link, mac: Mac, how: Learn) -> Option<(NeighborState, Mac)> {
    use NeighborState::{Failed, Free, Incomplete, Permanent, Reachable, Stale};
    let heard = if how.confirms() { Reachable } else { Stale };
    let overrides = !matches!(how, Learn::Advertisement { overrides: false, .. });
    match link.state() {
        Free | Permanent => None,
        Incomplete | Failed => Some((heard, mac)),
        _ if mac == link.mac() && how.confirms() => Some((Reachable, mac)),
        state if mac == link.mac() => Some((state, mac)),
        _ if overrides => Some((heard, mac)),
        Reachable => Some((Stale, link.mac())),
        state => Some((state, link.mac())),
    }
}

#[inline]
fn mark_used<W: Word>(row: &Row<W>, now: Nanos) {
    let now = now / MILLISECOND;
    if now.saturating_sub(row[USED].get()) >= USED_STEP {
        row[USED].set(now);
    }
}
