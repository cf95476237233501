//! Which neighbors packets may be sent to without asking the kernel first.
//!
//! The kernel believes a neighbor's MAC for half a minute, then it is stale: good enough to send to, to be confirmed while it is used.
//! What the engine sends the kernel does not see, so that it would be stale for ever, and a neighbor that has changed its MAC in
//! silence would be lost for ever. So a stale neighbor is taken back after [`GRACE`]: the next packet to it goes by way of the kernel, which
//! sends it on to the MAC that it has (DELAY), and asks within five seconds whether that is still so (PROBE). The neighbor is back as soon
//! as the kernel uses it, which it does not say (DELAY comes without a message): while one is taken back the kernel is asked. In the end
//! a neighbor's new MAC is found as soon as by the kernel alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use millrace_wire::{Addr, Mac};

use super::decode::Standing;
use crate::kernel::Change;

/// How long a stale neighbor is sent to without a look at it.
pub(super) const GRACE: Duration = Duration::from_secs(5);

type Key = (u32, Addr);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Row {
    mac: Mac,
    /// When it became so.
    stale: Option<Instant>,
    /// Taken back.
    withdrawn: bool,
}

/// All neighbors that have a MAC.
#[derive(Debug, Default)]
pub(super) struct Neighbors {
    rows: BTreeMap<Key, Row>,
    /// When stale ones are to be taken back.
    expiries: BTreeSet<(Instant, Key)>,
    /// How many are taken back.
    withdrawn: usize,
    /// Those that have changed since the last word.
    touched: BTreeMap<Key, Option<Mac>>,
}

impl Neighbors {
    /// The kernel has said how a neighbor stands.
    pub(super) fn heard(&mut self, key: Key, standing: Standing, now: Instant) {
        let old = self.rows.get(&key).copied();
        let new = match standing {
            Standing::Known(mac) => Some(Row { mac, stale: None, withdrawn: false }),
            // The same word again does not begin the time anew.
            Standing::Stale(mac) => match old.filter(|old| old.mac == mac) {
                Some(old) => Some(Row { stale: old.stale.or(Some(now)), ..old }),
                None => Some(Row { mac, stale: Some(now), withdrawn: false }),
            },
            Standing::Unknown => None,
        };
        self.set(key, new);
    }

    /// These are all that there are.
    pub(super) fn replace(&mut self, all: Vec<(Key, Standing)>, now: Instant) {
        let there: BTreeSet<Key> = all.iter().map(|(key, _)| *key).collect();
        let gone: Vec<Key> = self.rows.keys().filter(|key| !there.contains(key)).copied().collect();
        for key in gone {
            self.set(key, None);
        }
        for (key, standing) in all {
            self.heard(key, standing, now);
        }
    }

    /// Takes back those that have been stale for too long.
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some((at, key)) = self.expiries.first().copied().filter(|(at, _)| *at <= now) {
            self.expiries.remove(&(at, key));
            let row = self.rows.get(&key).copied();
            self.set(key, row.map(|row| Row { withdrawn: true, ..row }));
        }
    }

    /// Whether the kernel has to be asked if it uses one again.
    pub(super) fn any_withdrawn(&self) -> bool {
        self.withdrawn > 0
    }

    /// When there is the next to take back.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.expiries.first().map(|(at, _)| *at)
    }

    /// What has changed since the last call.
    pub(super) fn take_changes(&mut self) -> impl Iterator<Item = Change> + use<> {
        let touched = std::mem::take(&mut self.touched);
        touched.into_iter().map(|(key, mac)| Change::Neighbor(key, mac))
    }

    /// All that can be sent to.
    pub(super) fn all(&self) -> impl Iterator<Item = Change> + '_ {
        let usable = self.rows.iter().filter(|(_, row)| !row.withdrawn);
        usable.map(|(key, row)| Change::Neighbor(*key, Some(row.mac)))
    }

    fn set(&mut self, key: Key, new: Option<Row>) {
        let mac = |row: Option<Row>| row.filter(|row| !row.withdrawn).map(|row| row.mac);
        let expiry = |row: &Row| (!row.withdrawn).then(|| row.stale.map(|at| (at + GRACE, key)))?;
        let old = self.rows.get(&key).copied();
        let count = |row: Option<Row>| usize::from(row.is_some_and(|row| row.withdrawn));
        self.withdrawn = self.withdrawn + count(new) - count(old);
        if let Some(entry) = old.as_ref().and_then(expiry) {
            self.expiries.remove(&entry);
        }
        self.expiries.extend(new.as_ref().and_then(expiry));
        match new {
            Some(row) => _ = self.rows.insert(key, row),
            None => _ = self.rows.remove(&key),
        }
        if mac(old) != mac(new) {
            self.touched.insert(key, mac(new));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    const SECOND: Duration = Duration::from_secs(1);

    fn key(last: u8) -> Key {
        (2, Addr::from(IpAddr::from([192, 0, 2, last])))
    }

    fn changes(neighbors: &mut Neighbors) -> Vec<(u8, Option<u8>)> {
        let each = |change| match change {
            Change::Neighbor((_, addr), mac) => {
                (addr.octets().last().copied().unwrap(), mac.map(|mac: Mac| mac.0[5]))
            }
            other => panic!("{other:?}"),
        };
        neighbors.take_changes().map(each).collect()
    }

    fn mac(last: u8) -> Mac {
        Mac([2, 0, 0, 0, 0, last])
    }

    #[test]
    fn a_new_mac_replaces_at_once_and_failure_removes() {
        let (mut neighbors, now) = (Neighbors::default(), Instant::now());
        neighbors.heard(key(1), Standing::Known(mac(1)), now);
        assert_eq!(changes(&mut neighbors), [(1, Some(1))]);
        neighbors.heard(key(1), Standing::Known(mac(1)), now);
        assert_eq!(changes(&mut neighbors), []);
        neighbors.heard(key(1), Standing::Stale(mac(7)), now);
        assert_eq!(changes(&mut neighbors), [(1, Some(7))]);
        neighbors.heard(key(1), Standing::Unknown, now);
        assert_eq!(changes(&mut neighbors), [(1, None)]);
        assert_eq!(neighbors.next_expiry(), None);
    }

    #[test]
    fn a_stale_one_is_taken_back_until_the_kernel_speaks_of_it() {
        let (mut neighbors, now) = (Neighbors::default(), Instant::now());
        neighbors.heard(key(1), Standing::Stale(mac(1)), now);
        // Repeated, as a look at everything does.
        neighbors.replace(vec![(key(1), Standing::Stale(mac(1)))], now + SECOND);
        neighbors.expire(now + GRACE - SECOND);
        assert_eq!(changes(&mut neighbors), [(1, Some(1))]);
        assert_eq!(neighbors.next_expiry(), Some(now + GRACE));
        neighbors.expire(now + GRACE);
        assert_eq!((changes(&mut neighbors), neighbors.all().count()), (vec![(1, None)], 0));
        assert!(neighbors.any_withdrawn());
        neighbors.replace(vec![(key(1), Standing::Stale(mac(1)))], now + GRACE * 9);
        neighbors.expire(now + GRACE * 20);
        assert_eq!((changes(&mut neighbors), neighbors.next_expiry()), (vec![], None));
        neighbors.heard(key(1), Standing::Known(mac(1)), now + GRACE * 21);
        assert_eq!((changes(&mut neighbors), neighbors.all().count()), (vec![(1, Some(1))], 1));
        assert!(!neighbors.any_withdrawn());
    }

    #[test]
    fn confirmed_in_time_it_stays() {
        let (mut neighbors, now) = (Neighbors::default(), Instant::now());
        neighbors.heard(key(1), Standing::Stale(mac(1)), now);
        neighbors.heard(key(1), Standing::Known(mac(1)), now + SECOND);
        assert_eq!(neighbors.next_expiry(), None);
        neighbors.expire(now + GRACE * 2);
        assert_eq!(changes(&mut neighbors), [(1, Some(1))]);
        // Stale again: the time begins anew.
        neighbors.heard(key(1), Standing::Stale(mac(1)), now + GRACE * 3);
        assert_eq!(neighbors.next_expiry(), Some(now + GRACE * 4));
    }

    #[test]
    fn what_a_look_does_not_find_is_gone() {
        let (mut neighbors, now) = (Neighbors::default(), Instant::now());
        for last in 1..4 {
            neighbors.heard(key(last), Standing::Known(mac(last)), now);
        }
        changes(&mut neighbors);
        neighbors.replace(
            vec![
                (key(2), Standing::Known(mac(2))),
                (key(3), Standing::Unknown),
                (key(4), Standing::Stale(mac(4))),
            ],
            now,
        );
        assert_eq!(changes(&mut neighbors), [(1, None), (3, None), (4, Some(4))]);
    }
}
