//! A worker's free frames.
//!
//! Decides: last in, first out, so that the next packet lands in memory that is still in the cache. Needs no lock: a
//! pool is one worker's.

use std::sync::Arc;

use crate::{frame::Frame, umem::Umem};

/// A stack of empty frames of one UMEM. Dropping it ends its frames with no complaint: the process is done with them.
#[derive(Debug)]
pub struct Pool {
    umem: Arc<Umem>,
    free: Vec<Frame>,
}

impl Pool {
    /// A pool of these frames. Room for all of the UMEM's is set aside now, so that no `put` allocates.
    ///
    /// # Panics
    /// If a frame is of another UMEM.
    pub fn new(umem: &Arc<Umem>, frames: Vec<Frame>) -> Pool {
        let mut pool =
            Pool { umem: Arc::clone(umem), free: Vec::with_capacity(umem.frames() as usize) };
        pool.extend(frames);
        pool
    }

    /// The UMEM whose frames these are.
    #[inline]
    pub fn umem(&self) -> &Arc<Umem> {
        &self.umem
    }

    /// An empty one-chunk frame, its start at [`Umem::default_start`].
    #[inline]
    pub fn get(&mut self) -> Option<Frame> {
        self.free.pop()
    }

    /// Takes a frame back, every chunk of it.
    ///
    /// # Panics
    /// If the frame is of another UMEM: a bug of the program, which no packet can cause.
    #[inline]
    pub fn put(&mut self, frame: Frame) {
        assert!(self.umem.is_ours(&frame), "frame of another UMEM");
        if frame.segments() > 1 {
            return self.put_chain(frame);
        }
        let fresh = self.umem.fresh(frame.chunk);
        frame.into_custody();
        self.free.push(fresh);
    }

    #[cold]
    fn put_chain(&mut self, frame: Frame) {
        let mut chunk = frame.chunk;
        let further = frame.segments() - 1;
        frame.into_custody();
        for _ in 0..further {
            let next = self.umem.link(chunk).chunk;
            self.free.push(self.umem.fresh(chunk));
            chunk = next;
        }
        self.free.push(self.umem.fresh(chunk));
    }

    /// A pool of `count` frames of this one, or of all if it has fewer: how frames are dealt to workers.
    #[must_use]
    pub fn split(&mut self, count: usize) -> Pool {
        let keep = self.free.len() - count.min(self.free.len());
        let dealt = self.free.split_off(keep);
        Pool::new(&self.umem, dealt)
    }

    /// Free frames.
    #[inline]
    pub fn len(&self) -> usize {
        self.free.len()
    }

    /// Whether there is none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.free.is_empty()
    }
}

impl Extend<Frame> for Pool {
    fn extend<T: IntoIterator<Item = Frame>>(&mut self, frames: T) {
        for frame in frames {
            self.put(frame);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.free.drain(..).for_each(Frame::into_custody);
    }
}
