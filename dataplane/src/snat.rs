//! Which source ports a masqueraded flow may get: [`Ports`] without [`HostPorts`], and how hard they are looked for: [`Budget`], [`Exhausted`].
//!
//! Decides nothing about flows; `pipeline::conntrack` picks. Cost: finding the `n`th port walks at most eight ranges.

mod host;

pub use host::HostPorts;

use std::ops::RangeInclusive;

use arrayvec::ArrayVec;

use crate::clock::{MILLISECOND, Nanos, SECOND};
use crate::flow::Tuple;

/// Node ports of a cluster whose API server was told nothing else (`--service-node-port-range`).
pub const NODE_PORTS: RangeInclusive<u16> = 30_000..=32_767;
/// What Linux gives to nobody who does not ask for it by name (`net.ipv4.ip_local_port_range` ends before).
pub const BESIDE_KERNEL: RangeInclusive<u16> = 61_000..=65_535;
/// What Linux calls unprivileged.
pub const UNPRIVILEGED: RangeInclusive<u16> = 1024..=65_535;
/// Most ranges.
const RANGES: usize = 8;

/// A set of ports, none twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// First and last of each, ascending and apart; (1, 0) where there is none.
    ranges: [(u16, u16); RANGES],
    count: u32,
}

impl Default for Ports {
    /// Unprivileged ports but the node ports: 61,744.
    fn default() -> Ports {
        let mut ranges = [(1, 0); RANGES];
        ranges[0] = (*UNPRIVILEGED.start(), *NODE_PORTS.start() - 1);
        ranges[1] = (*NODE_PORTS.end() + 1, *UNPRIVILEGED.end());
        Ports { ranges, count: 61_744 }
    }
}

impl Ports {
    /// The ports of `wanted` that are not in `except`. `None` if there are none, or more than eight ranges of them. Port 0 is none.
    pub fn new(wanted: &[RangeInclusive<u16>], except: &[RangeInclusive<u16>]) -> Option<Ports> {
        let within =
            |ranges: &[RangeInclusive<u16>], port| ranges.iter().any(|it| it.contains(&port));
        let mut found = ArrayVec::<(u16, u16), RANGES>::new();
        let mut count = 0;
        for port in (1..=u16::MAX).filter(|port| within(wanted, *port) && !within(except, *port)) {
            count += 1;
            match found.last_mut() {
                Some((_, last)) if *last + 1 == port => *last = port,
                _ => found.try_push((port, port)).ok()?,
            }
        }
        let mut ranges = [(1, 0); RANGES];
        for (place, range) in ranges.iter_mut().zip(found) {
            *place = range;
        }
        (count > 0).then_some(Ports { ranges, count })
    }

    /// How many there are.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// First and last of each range, ascending.
    pub fn ranges(&self) -> impl Iterator<Item = (u16, u16)> + '_ {
        self.ranges.iter().copied().filter(|(first, last)| first <= last)
    }

    /// The `n`th, ascending; counted round.
    pub fn nth(&self, n: u32) -> u16 {
        let mut left = n % self.count.max(1);
        for (first, last) in self.ranges {
            let size = (u32::from(last) + 1).saturating_sub(u32::from(first));
            if left < size {
                return first + left as u16;
            }
            left -= size;
        }
        // Not reached: the sizes add up to the count.
        u16::MAX
    }
}

/// Lookups that a worker may spend on finding the last free ports: when nearly all are taken every new flow would otherwise
/// search through them, and whoever can open flows could stop the worker.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    per_second: u64,
    left: u64,
    at: Nanos,
}

impl Budget {
    /// So many a second, and at once after a quiet second.
    pub fn new(per_second: u64) -> Budget {
        Budget { per_second, left: per_second, at: 0 }
    }

    /// Takes up to `want`; how many there were.
    pub fn take(&mut self, want: u64, now: Nanos) -> u64 {
        let passed = now.saturating_sub(self.at).min(SECOND);
        let more = u128::from(passed) * u128::from(self.per_second) / u128::from(SECOND);
        if more > 0 {
            self.left = self.left.saturating_add(more as u64).min(self.per_second);
            self.at = now;
        }
        let taken = want.min(self.left);
        self.left -= taken;
        taken
    }

    /// Gives back what was not needed.
    pub fn give(&mut self, back: u64) {
        self.left = self.left.saturating_add(back).min(self.per_second);
    }
}

/// Sets of source ports that a search has just found full, so that the flows behind it need not search through them as well. A
/// port that becomes free meanwhile can still be hit by chance.
#[derive(Clone, Debug, Default)]
pub struct Exhausted {
    /// Reply tuples without the port that is looked for, and until when they count.
    sets: [Option<(Tuple, Nanos)>; 8],
    next: usize,
}

impl Exhausted {
    /// How long a set is taken to be full.
    pub const MEMORY: Nanos = 100 * MILLISECOND;

    /// Whether the set that this reply tuple's port would be of was full a moment ago.
    pub fn knows(&self, reply: &Tuple, now: Nanos) -> bool {
        let wanted = Tuple { dport: 0, ..*reply };
        self.sets.iter().flatten().any(|(set, until)| *set == wanted && now < *until)
    }

    /// Notes that it is full, in place of the set that was noted eight times ago.
    pub fn note(&mut self, reply: &Tuple, now: Nanos) {
        let place = self.next % self.sets.len();
        if let Some(place) = self.sets.get_mut(place) {
            *place = Some((Tuple { dport: 0, ..*reply }, now.saturating_add(Self::MEMORY)));
        }
        self.next = place + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_of_the_set_comes_once_and_no_other() {
        let ports = Ports::new(&[2000..=2009, 1024..=1030, 2005..=2020], &[2003..=2004]).unwrap();
        let all: Vec<u16> = (0..ports.count()).map(|n| ports.nth(n)).collect();
        let wanted: Vec<u16> = (1024..=1030).chain(2000..=2002).chain(2005..=2020).collect();
        assert_eq!(all, wanted);
        assert_eq!(ports.nth(ports.count()), 1024, "round");
    }

    #[test]
    fn node_ports_are_never_among_the_default() {
        let ports = Ports::default();
        assert_eq!(ports.count(), 61_744);
        assert_eq!(Some(ports), Ports::new(&[UNPRIVILEGED], &[NODE_PORTS]));
        assert!(
            (0..ports.count()).all(|n| !NODE_PORTS.contains(&ports.nth(n)) && ports.nth(n) >= 1024)
        );
    }

    #[test]
    fn a_set_without_ports_is_none() {
        assert_eq!(Ports::new(&[30_000..=30_010], &[NODE_PORTS]), None);
        assert_eq!(Ports::new(&[0..=0], &[]), None);
        let many: Vec<_> = (0..9).map(|n| n * 100 + 1..=n * 100 + 1).collect();
        assert_eq!(Ports::new(&many, &[]), None);
    }

    #[test]
    fn a_budget_is_spent_and_comes_back_with_time() {
        let mut budget = Budget::new(1000);
        assert_eq!(budget.take(600, SECOND), 600);
        assert_eq!(budget.take(600, SECOND), 400);
        assert_eq!(budget.take(600, SECOND), 0);
        assert_eq!(budget.take(600, SECOND + SECOND / 10), 100);
        budget.give(50);
        assert_eq!(budget.take(600, SECOND + SECOND / 10), 50);
        assert_eq!(budget.take(u64::MAX, 100 * SECOND), 1000);
    }

    #[test]
    fn a_set_that_is_full_is_remembered_for_a_moment_whatever_the_port() {
        let set = |backend: u8, dport| Tuple {
            src: std::net::IpAddr::from([10, 0, 0, backend]).into(),
            dst: std::net::IpAddr::from([192, 0, 2, 1]).into(),
            sport: 80,
            dport,
            protocol: millrace_wire::Protocol::TCP,
        };
        let mut full = Exhausted::default();
        full.note(&set(1, 4000), SECOND);
        assert!(full.knows(&set(1, 5000), SECOND));
        assert!(!full.knows(&set(2, 4000), SECOND), "another backend");
        assert!(!full.knows(&set(1, 4000), SECOND + Exhausted::MEMORY));
        (2..=9).for_each(|backend| full.note(&set(backend, 1), SECOND));
        assert!(full.knows(&set(9, 1), SECOND) && !full.knows(&set(1, 1), SECOND), "eight at most");
    }
}
