//! The tables segment in use, and how a new one reaches the workers.
//!
//! Within a segment control publishes a generation by one store, and nothing here takes part. A new
//! *segment* comes only with a new control process: housekeeping puts it here, and each worker takes
//! it up at its next burst. Until then the worker's own handle keeps the old mapping alive.
//!
//! Cost: one relaxed load a burst; the lock is taken by a worker only when the segment has changed.

use millrace_tables::Tables;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
// A lock is right here: it is taken once per worker and control restart, never per packet.
#[allow(clippy::disallowed_types)]
use std::sync::{Mutex, PoisonError};

/// The current segment, shared by the workers and housekeeping.
#[derive(Debug)]
#[allow(clippy::disallowed_types)]
pub struct Live {
    version: AtomicU64,
    current: Mutex<Arc<Tables>>,
}

#[allow(clippy::disallowed_types)]
impl Live {
    /// Starts with the engine's own tables.
    pub fn new(tables: Arc<Tables>) -> Arc<Self> {
        Arc::new(Self { version: AtomicU64::new(0), current: Mutex::new(tables) })
    }

    /// Puts a new segment in force.
    pub fn replace(&self, tables: Arc<Tables>) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = tables;
        // Release is not needed for the pointer (the lock orders it); a worker that sees the new
        // version finds at least this segment under the lock.
        self.version.fetch_add(1, Ordering::Release);
    }

    /// The segment in force.
    pub fn current(&self) -> Arc<Tables> {
        Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A worker's handle.
    pub fn handle(self: &Arc<Self>) -> Handle {
        let version = self.version.load(Ordering::Acquire);
        Handle { version, tables: self.current(), live: Arc::clone(self) }
    }
}

/// A worker's own reference to the segment it uses.
#[derive(Debug)]
pub struct Handle {
    live: Arc<Live>,
    version: u64,
    tables: Arc<Tables>,
}

impl Handle {
    /// The segment for the next burst.
    #[inline]
    pub fn tables(&mut self) -> &Tables {
        let version = self.live.version.load(Ordering::Acquire);
        if version != self.version {
            self.version = version;
            self.tables = self.live.current();
        }
        &self.tables
    }
}
