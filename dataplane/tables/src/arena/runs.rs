//! Free runs of blocks (1 KiB each): best fit, neighbors joined again when freed.
//!
//! Lives in the writer's own memory; readers never see it.

use std::collections::{BTreeMap, BTreeSet};

/// Which blocks of the segment are free, as maximal runs.
#[derive(Debug, Default)]
pub(super) struct Runs {
    by_start: BTreeMap<u32, u32>,
    by_len: BTreeSet<(u32, u32)>,
}

impl Runs {
    pub(super) fn new(start: u32, end: u32) -> Self {
        let mut runs = Self::default();
        if start < end {
            runs.insert(start, end - start);
        }
        runs
    }

    fn insert(&mut self, start: u32, len: u32) {
        self.by_start.insert(start, len);
        self.by_len.insert((len, start));
    }

    fn remove(&mut self, start: u32, len: u32) {
        self.by_start.remove(&start);
        self.by_len.remove(&(len, start));
    }

    /// Blocks in the largest free run.
    pub(super) fn largest(&self) -> u32 {
        self.by_len.last().map_or(0, |&(len, _)| len)
    }

    /// Takes `len` blocks out of the smallest run that has them (the lowest of those).
    pub(super) fn take(&mut self, len: u32) -> Option<u32> {
        let &(found, start) = self.by_len.range((len, 0)..).next()?;
        self.remove(start, found);
        if found > len {
            self.insert(start + len, found - len);
        }
        Some(start)
    }

    /// Gives `len` blocks at `start` back, joined with the free neighbors.
    pub(super) fn give(&mut self, mut start: u32, mut len: u32) {
        if let Some((&before, &before_len)) = self.by_start.range(..start).next_back()
            && before + before_len == start
        {
            self.remove(before, before_len);
            start = before;
            len += before_len;
        }
        if let Some(&after_len) = self.by_start.get(&(start + len)) {
            self.remove(start + len, after_len);
            len += after_len;
        }
        self.insert(start, len);
    }
}

#[cfg(test)]
mod tests {
    use super::Runs;

    #[test]
    fn freed_neighbors_join_into_one_run() {
        let mut runs = Runs::new(1, 101);
        let pieces: Vec<u32> = (0..10).map(|_| runs.take(10).unwrap()).collect();
        assert_eq!(runs.take(1), None);
        for start in [pieces[3], pieces[1], pieces[2]] {
            runs.give(start, 10);
        }
        assert_eq!(runs.largest(), 30);
        for start in [0, 4, 5, 6, 7, 8, 9].map(|i| pieces[i]) {
            runs.give(start, 10);
        }
        assert_eq!((runs.largest(), runs.by_start.len()), (100, 1));
    }

    #[test]
    fn the_smallest_run_that_fits_is_used() {
        let mut runs = Runs::new(0, 100);
        let all: Vec<u32> = (0..10).map(|_| runs.take(10).unwrap()).collect();
        runs.give(all[0], 10);
        runs.give(all[1], 10);
        runs.give(all[5], 10);
        assert_eq!(runs.take(7), Some(50));
        assert_eq!(runs.take(11), Some(0));
    }
}
