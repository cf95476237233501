//! The atomics of this crate: the standard ones, or loom's when the protocol is model-checked
//! (`RUSTFLAGS="--cfg loom"`). Everything that touches shared words takes them from here.

#[cfg(loom)]
pub use loom::sync::atomic::{AtomicU64, Ordering, fence};
#[cfg(not(loom))]
pub use std::sync::atomic::{AtomicU64, Ordering, fence};
