//! The completion ring: chunks the kernel has sent from, on their way back.
//!
//! Decides: that only a chunk we had given to the tx ring becomes a frame again.

use crate::{custody::Custody, pool::Pool, ring::Consumer, umem::Umem};

/// Our end of a completion ring.
#[derive(Debug)]
pub struct Completion(pub(crate) Consumer<u64>);

impl Completion {
    /// Puts every sent chunk into the pool; returns how many entries were refused.
    #[inline]
    pub(crate) fn reap(&mut self, umem: &Umem, custody: &mut Custody, pool: &mut Pool) -> u64 {
        let mut refused = 0;
        for _ in 0..self.0.peek() {
            let (chunk, _) = umem.split(self.0.read());
            if custody.take(chunk) {
                pool.put(umem.fresh(chunk as u32));
            } else {
                refused += 1;
            }
        }
        self.0.release();
        refused
    }
}
