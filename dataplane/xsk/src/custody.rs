//! Which chunks a socket has given to the kernel and not got back.
//!
//! Decides: whether a descriptor from the kernel may become a token. One bit a chunk, per socket and direction, so
//! that two workers never write one cache line; 8 KiB for 65,536 chunks stay in the first-level cache. With it a
//! chunk that the kernel names twice, or that it never got, is refused in release builds too, and a closed socket
//! knows what to give back.

/// A set of chunks.
pub(crate) struct Custody {
    bits: Box<[u64]>,
    count: u32,
}

impl std::fmt::Debug for Custody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} chunks", self.count)
    }
}

impl Custody {
    pub(crate) fn new(chunks: u32) -> Custody {
        Custody { bits: vec![0; chunks.div_ceil(64) as usize].into_boxed_slice(), count: 0 }
    }

    /// The kernel gets the chunk.
    #[inline]
    pub(crate) fn give(&mut self, chunk: u32) {
        let word = &mut self.bits[(chunk / 64) as usize];
        let bit = 1 << (chunk % 64);
        debug_assert!(*word & bit == 0, "chunk {chunk} given to the kernel twice");
        *word |= bit;
        self.count += 1;
    }

    /// The kernel gives the chunk back; false if it had not got it, or no such chunk exists.
    #[inline]
    #[must_use]
    pub(crate) fn take(&mut self, chunk: u64) -> bool {
        let Some(word) = self.bits.get_mut((chunk / 64) as usize) else { return false };
        let bit = 1 << (chunk % 64);
        let had = *word & bit != 0;
        *word &= !bit;
        self.count -= u32::from(had);
        had
    }

    /// How many chunks the kernel has.
    #[inline]
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// Takes everything back: for a socket that is closed.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = u32> {
        self.count = 0;
        self.bits.iter_mut().enumerate().flat_map(|(index, word)| {
            let bits = std::mem::take(word);
            (0..64).filter(move |bit| bits >> bit & 1 != 0).map(move |bit| index as u32 * 64 + bit)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_chunk_comes_back_once_and_only_if_given(
            steps in prop::collection::vec((any::<bool>(), 0..200_u64), 0..200),
        ) {
            let mut custody = Custody::new(130);
            let mut model = BTreeSet::new();
            for (give, chunk) in steps {
                if give && chunk < 130 {
                    if model.insert(chunk) {
                        custody.give(chunk as u32);
                    }
                } else {
                    prop_assert_eq!(custody.take(chunk), model.remove(&chunk));
                }
                prop_assert_eq!(custody.count() as usize, model.len());
            }
            let rest: Vec<u64> = custody.drain().map(u64::from).collect();
            prop_assert_eq!(rest, model.into_iter().collect::<Vec<_>>());
            prop_assert_eq!(custody.count(), 0);
        }
    }

    #[test]
    fn an_address_beyond_any_chunk_is_refused() {
        assert!(!Custody::new(64).take(u64::MAX));
    }
}
