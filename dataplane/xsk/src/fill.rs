//! The fill ring: empty chunks on their way to the kernel, to receive into.
//!
//! Decides nothing but the form: an entry is the address of a chunk. Leaves to [`rx`](crate::rx) what comes back.

use crate::{custody::Custody, pool::Pool, ring::Producer, umem::Umem};

/// Our end of a fill ring.
#[derive(Debug)]
pub struct Fill(pub(crate) Producer<u64>);

impl Fill {
    /// Gives frames of the pool to the kernel until it has `level` of them, the ring is full or the pool is empty.
    #[inline]
    pub(crate) fn top_up(
        &mut self,
        umem: &Umem,
        custody: &mut Custody,
        pool: &mut Pool,
        level: u32,
    ) {
        let wanted = level.saturating_sub(custody.count());
        if wanted == 0 {
            return;
        }
        for _ in 0..wanted.min(self.0.reserve(wanted)) {
            let Some(frame) = pool.get() else { break };
            custody.give(frame.chunk);
            self.0.write(umem.address(frame.chunk, 0));
            frame.into_custody();
        }
        self.0.submit();
    }
}
