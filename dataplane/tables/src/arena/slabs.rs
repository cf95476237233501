//! Small blocks: slabs of 16 KiB, each cut into blocks of one size class.
//!
//! Classes are 16, 32 and 64 bytes, then multiples of 64 bytes with at most a fifth lost to rounding.
//! Blocks of 64 bytes and more start on a cache line; smaller ones never straddle two.

use std::collections::BTreeSet;

/// Class sizes in grains of 16 bytes.
pub(super) const CLASSES: [u16; 18] =
    [1, 2, 4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128];

/// Grains in a slab.
#[cfg(not(loom))]
pub(super) const SLAB_GRAINS: u32 = 1024;
/// Fewer under loom, where every word is modelled.
#[cfg(loom)]
pub(super) const SLAB_GRAINS: u32 = 128;

/// The class of a block of `grains`, if it is small enough to have one.
pub(super) fn class_of(grains: u32) -> Option<usize> {
    CLASSES.iter().position(|&size| u32::from(size) >= grains)
}

#[derive(Debug)]
struct Slab {
    start: u32,
    class: usize,
    used: u32,
    taken: [u64; 16],
}

impl Slab {
    fn capacity(&self) -> u32 {
        SLAB_GRAINS / u32::from(CLASSES[self.class])
    }

    fn take(&mut self) -> Option<u32> {
        let capacity = self.capacity();
        let (word, bits) =
            self.taken.iter_mut().enumerate().find(|(_, bits)| **bits != u64::MAX)?;
        let bit = bits.trailing_ones();
        let index = word as u32 * 64 + bit;
        if index >= capacity {
            return None;
        }
        *bits |= 1 << bit;
        self.used += 1;
        Some(self.start + index * u32::from(CLASSES[self.class]))
    }
}

/// What became of a freed block.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Freed {
    /// It was not one of ours, or not in use: nothing was done.
    Unknown,
    /// Back in its slab.
    Kept,
    /// It was the slab's last: the slab at this grain is free as a whole.
    Slab(u32),
}

/// All slabs.
#[derive(Debug, Default)]
pub(super) struct Slabs {
    slabs: Vec<Slab>,
    unused: Vec<u32>,
    /// By 1 KiB of the segment: index of the slab there + 1, or 0.
    owner: Vec<u32>,
    /// For each class the slabs that have room, lowest address first so that high ones empty.
    room: [BTreeSet<(u32, u32)>; CLASSES.len()],
}

impl Slabs {
    /// A block of `class`, if a slab of it has room.
    pub(super) fn take(&mut self, class: usize) -> Option<u32> {
        let &(start, id) = self.room[class].first()?;
        let slab = &mut self.slabs[id as usize];
        let block = slab.take();
        if slab.used == slab.capacity() {
            self.room[class].remove(&(start, id));
        }
        block
    }

    /// Adds the slab at grain `start` to `class`.
    pub(super) fn add(&mut self, class: usize, start: u32) {
        let slab = Slab { start, class, used: 0, taken: [0; 16] };
        let id = if let Some(id) = self.unused.pop() {
            self.slabs[id as usize] = slab;
            id
        } else {
            self.slabs.push(slab);
            self.slabs.len() as u32 - 1
        };
        let first = (start / 64) as usize;
        let blocks = (SLAB_GRAINS / 64) as usize;
        if self.owner.len() < first + blocks {
            self.owner.resize(first + blocks, 0);
        }
        self.owner[first..first + blocks].fill(id + 1);
        self.room[class].insert((start, id));
    }

    /// Takes back the block at grain `at` of `class`.
    pub(super) fn give(&mut self, class: usize, at: u32) -> Freed {
        let Some(id) = self.owner.get((at / 64) as usize).and_then(|&owner| owner.checked_sub(1))
        else {
            return Freed::Unknown;
        };
        let slab = &mut self.slabs[id as usize];
        let size = u32::from(CLASSES[slab.class]);
        let offset = at - slab.start;
        let index = offset / size;
        let (word, bit) = ((index / 64) as usize, 1u64 << (index % 64));
        if slab.class != class || !offset.is_multiple_of(size) || slab.taken[word] & bit == 0 {
            return Freed::Unknown;
        }
        slab.taken[word] &= !bit;
        slab.used -= 1;
        let (start, used) = (slab.start, slab.used);
        self.room[class].insert((start, id));
        if used > 0 {
            return Freed::Kept;
        }
        self.room[class].remove(&(start, id));
        self.unused.push(id);
        let first = (start / 64) as usize;
        self.owner[first..first + (SLAB_GRAINS / 64) as usize].fill(0);
        Freed::Slab(start)
    }
}

#[cfg(test)]
mod tests {
    use super::{CLASSES, Freed, SLAB_GRAINS, Slabs, class_of};

    #[test]
    fn a_full_slab_has_no_room_and_an_empty_one_goes_back() {
        for (class, &size) in CLASSES.iter().enumerate() {
            let mut slabs = Slabs::default();
            assert_eq!(slabs.take(class), None);
            slabs.add(class, 2048);
            let mut blocks: Vec<u32> = std::iter::from_fn(|| slabs.take(class)).collect();
            assert_eq!(blocks.len() as u32, SLAB_GRAINS / u32::from(size));
            assert!(blocks.iter().all(|&b| b >= 2048 && b + u32::from(size) <= 2048 + SLAB_GRAINS));
            blocks.sort_unstable();
            blocks.dedup();
            assert_eq!(blocks.len() as u32, SLAB_GRAINS / u32::from(size));
            let last = blocks.pop().unwrap();
            for block in blocks {
                assert_eq!(slabs.give(class, block), Freed::Kept);
                assert_eq!(slabs.give(class, block), Freed::Unknown);
            }
            assert_eq!(slabs.give(class, last), Freed::Slab(2048));
            assert_eq!(slabs.give(class, last), Freed::Unknown);
        }
    }

    #[test]
    fn rounding_loses_at_most_a_fifth_from_64_bytes_on() {
        for grains in 4..=128u32 {
            let size = u32::from(CLASSES[class_of(grains).unwrap()]);
            let lines = grains.next_multiple_of(4);
            assert!(size >= lines && (size - lines) * 5 <= size, "{grains} grains in {size}");
        }
        assert_eq!(class_of(129), None);
    }
}
