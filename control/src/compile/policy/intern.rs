//! Small numbers for values: equal ones share a number for as long as anybody holds it.
//!
//! Numbers are dense, because the tables' rows are found by them: the lowest free one is given. What nobody holds any more keeps its number
//! until [`Interned::sweep`], so that what is let go and taken up again within one change costs nothing.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    hash::Hash,
    sync::Arc,
};

/// Values with numbers, and something kept with each.
#[derive(Debug)]
pub(super) struct Interned<K, V> {
    numbers: HashMap<Arc<K>, u32>,
    rows: Vec<Option<Held<K, V>>>,
    free: BinaryHeap<Reverse<u32>>,
    /// Numbers that may have nobody left.
    dying: Vec<u32>,
}

#[derive(Debug)]
struct Held<K, V> {
    key: Arc<K>,
    holders: u32,
    value: V,
}

impl<K, V> Default for Interned<K, V> {
    fn default() -> Self {
        Interned {
            numbers: HashMap::new(),
            rows: Vec::new(),
            free: BinaryHeap::new(),
            dying: Vec::new(),
        }
    }
}

impl<K: Eq + Hash, V: Default> Interned<K, V> {
    /// Takes hold of a value. True when it is new.
    pub(super) fn hold(&mut self, key: K) -> (u32, bool) {
        if let Some(number) = self.numbers.get(&key) {
            if let Some(Some(row)) = self.rows.get_mut(*number as usize) {
                row.holders += 1;
            }
            return (*number, false);
        }
        let number = match self.free.pop() {
            Some(Reverse(number)) => number,
            None => {
                self.rows.push(None);
                self.rows.len() as u32 - 1
            }
        };
        let key = Arc::new(key);
        self.numbers.insert(Arc::clone(&key), number);
        self.rows[number as usize] = Some(Held { key, holders: 1, value: V::default() });
        (number, true)
    }

    /// One more holder.
    pub(super) fn hold_again(&mut self, number: u32) {
        if let Some(Some(row)) = self.rows.get_mut(number as usize) {
            row.holders += 1;
        }
    }

    /// Lets go.
    pub(super) fn release(&mut self, number: u32) {
        if let Some(Some(row)) = self.rows.get_mut(number as usize) {
            row.holders -= 1;
            if row.holders == 0 {
                self.dying.push(number);
            }
        }
    }

    /// Takes out what nobody holds.
    pub(super) fn sweep(&mut self) -> Vec<(u32, Arc<K>, V)> {
        let mut swept = Vec::new();
        for number in std::mem::take(&mut self.dying) {
            let Some(slot) = self.rows.get_mut(number as usize) else { continue };
            let Some(row) = slot.take_if(|row| row.holders == 0) else { continue };
            self.numbers.remove(&row.key);
            self.free.push(Reverse(number));
            swept.push((number, row.key, row.value));
        }
        swept
    }

    pub(super) fn is_held(&self, number: u32) -> bool {
        self.row(number).is_some_and(|row| row.holders > 0)
    }

    pub(super) fn key(&self, number: u32) -> Option<&Arc<K>> {
        self.row(number).map(|row| &row.key)
    }

    pub(super) fn value(&self, number: u32) -> Option<&V> {
        self.row(number).map(|row| &row.value)
    }

    pub(super) fn value_mut(&mut self, number: u32) -> Option<&mut V> {
        self.rows.get_mut(number as usize)?.as_mut().map(|row| &mut row.value)
    }

    pub(super) fn number(&self, key: &K) -> Option<u32> {
        self.numbers.get(key).copied()
    }

    /// All that are held, by number.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Arc<K>, &V)> {
        self.rows.iter().enumerate().filter_map(|(number, row)| {
            row.as_ref().map(|row| (number as u32, &row.key, &row.value))
        })
    }

    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }

    fn row(&self, number: u32) -> Option<&Held<K, V>> {
        self.rows.get(number as usize)?.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_share_a_number_until_the_last_lets_go_and_a_sweep() {
        let mut interned: Interned<&str, ()> = Interned::default();
        assert_eq!((interned.hold("a"), interned.hold("b")), ((0, true), (1, true)));
        assert_eq!(interned.hold("a"), (0, false));
        interned.release(0);
        assert!(interned.sweep().is_empty() && interned.is_held(0));
        interned.release(0);
        assert!(!interned.is_held(0));
        assert_eq!(interned.hold("a"), (0, false), "taken up again before the sweep");
        assert!(interned.sweep().is_empty());
        interned.release(0);
        assert_eq!(interned.sweep().len(), 1);
        assert_eq!(interned.hold("c"), (0, true), "the lowest free number");
        assert_eq!(interned.len(), 2);
    }
}
