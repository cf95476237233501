//! Reading the ledger of workers that don't stop for it.
//!
//! A worker's counters are many words, read one after the other while it writes them. Two readings in a row that
//! agree are a picture of one moment (the counters only grow); but that moment may be in the middle of a burst, when
//! packets are received and not yet decided on. So the ledger is read until it is a picture that balances, at most
//! [`ATTEMPTS`] times; what never balances is returned as it is, for the caller to say so.

use millrace_dataplane::counters::{COUNTERS, Ledger};
use millrace_dataplane::state::segment::View;
use millrace_tables::InterfaceId;
use std::thread;
use std::time::Duration;

/// Pairs of readings of a worker, before it is taken as it is.
const ATTEMPTS: usize = 500;
/// Between them: longer than a burst, and the whole takes less than a second.
const PAUSE: Duration = Duration::from_micros(200);

/// The counters of one worker, all of one moment if `settled`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reading {
    /// The blocks of its interfaces, in order.
    words: Vec<u64>,
    /// Whether the worker left them alone while they were read.
    pub settled: bool,
}

impl Reading {
    /// The counter at `place` for an interface; 0 if there is none.
    pub fn counter(&self, interface: InterfaceId, place: usize) -> u64 {
        self.block(interface).get(place).copied().unwrap_or(0)
    }

    /// The ledger of one interface.
    pub fn ledger(&self, interface: InterfaceId) -> Ledger {
        ledger_of(self.block(interface))
    }

    /// The ledger of the worker.
    pub fn total(&self) -> Ledger {
        self.words.chunks(COUNTERS).map(ledger_of).fold(Ledger::default(), Ledger::and)
    }

    /// Whether everything received is accounted for, on each interface.
    pub fn is_balanced(&self) -> bool {
        is_balanced(&self.words)
    }

    fn block(&self, interface: InterfaceId) -> &[u64] {
        self.words.chunks(COUNTERS).nth(usize::from(interface.0)).unwrap_or(&[])
    }
}

fn ledger_of(block: &[u64]) -> Ledger {
    Ledger::read(|place| block.get(place).copied().unwrap_or(0))
}

fn is_balanced(words: &[u64]) -> bool {
    words.chunks(COUNTERS).all(|block| ledger_of(block).imbalance() == 0)
}

/// One reading for each worker.
pub(super) fn read(state: &View) -> Vec<Reading> {
    let sizes = state.sizes();
    let once = |worker: usize| {
        let interfaces =
            (0..sizes.interfaces).filter_map(|id| u16::try_from(id).ok()).map(InterfaceId);
        interfaces
            .flat_map(|id| (0..COUNTERS).map(move |place| state.counter(worker, id, place)))
            .collect()
    };
    (0..sizes.workers).map(|worker| settle(|| once(worker), || thread::sleep(PAUSE))).collect()
}

/// Reads until two readings agree and balance. Else the best it met: balanced before unbalanced, settled before not.
fn settle(mut read: impl FnMut() -> Vec<u64>, mut pause: impl FnMut()) -> Reading {
    let mut pair = || {
        let (first, words) = (read(), read());
        let settled = first == words;
        (is_balanced(&words), Reading { words, settled })
    };
    let mut best = pair();
    for _ in 1..ATTEMPTS {
        if best.0 && best.1.settled {
            break;
        }
        pause();
        let next = pair();
        // Of equals the later one.
        if (next.0, next.1.settled) >= (best.0, best.1.settled) {
            best = next;
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_dataplane::counters::{Counter, Place};

    /// A block in which `rx` packets came in and `tx` went on.
    fn block(rx: u64, tx: u64) -> Vec<u64> {
        let mut words = vec![0; COUNTERS];
        words[Counter::Rx.place()] = rx;
        words[Counter::Tx.place()] = tx;
        words
    }

    /// Settles on what `reading(n)` gives the n-th time, and counts the readings.
    fn settle_on(reading: impl Fn(usize) -> Vec<u64>) -> (Reading, usize) {
        let mut count = 0;
        let settled = settle(
            || {
                count += 1;
                reading(count - 1)
            },
            || {},
        );
        (settled, count)
    }

    #[test]
    fn a_worker_at_rest_is_read_once() {
        let (reading, count) = settle_on(|_| block(7, 7));
        assert_eq!(
            (reading.settled, reading.is_balanced(), reading.total().rx, count),
            (true, true, 7, 2)
        );
    }

    #[test]
    fn a_worker_in_the_middle_of_a_burst_is_read_again_after_it() {
        let (reading, count) = settle_on(|n| if n < 10 { block(64, 3) } else { block(64, 64) });
        assert_eq!((reading.settled, reading.is_balanced(), count), (true, true, 12));
    }

    #[test]
    fn a_balanced_reading_of_a_busy_worker_is_preferred_and_not_called_settled() {
        let (reading, count) = settle_on(|n| block(n as u64, if n == 101 { 101 } else { 0 }));
        assert_eq!(
            (reading.settled, reading.is_balanced(), reading.total().rx),
            (false, true, 101)
        );
        assert_eq!(count, 2 * ATTEMPTS);
    }

    #[test]
    fn what_never_balances_is_returned_unbalanced() {
        let (reading, count) = settle_on(|_| block(10, 9));
        assert_eq!((reading.settled, reading.is_balanced(), count), (true, false, 2 * ATTEMPTS));
        assert_eq!(reading.total().imbalance(), 1);
    }

    #[test]
    fn two_interfaces_that_are_wrong_by_the_same_number_do_not_make_it_right() {
        let (reading, _) = settle_on(|_| [block(10, 9), block(9, 10)].concat());
        assert_eq!(reading.total().imbalance(), 0);
        assert!(!reading.is_balanced());
        assert_eq!(reading.ledger(InterfaceId(1)).imbalance(), -1);
        assert_eq!(reading.counter(InterfaceId(1), Counter::Tx.place()), 10);
        assert_eq!(reading.counter(InterfaceId(2), 0), 0);
    }
}
