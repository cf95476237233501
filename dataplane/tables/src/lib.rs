//! The tables segment: what control writes and the engine's workers read.

pub mod arena;
pub mod error;
pub mod shm;
pub mod sync;
pub mod words;

pub use arena::{Arena, Table, Usage};
pub use error::Error;
pub use words::{Ref, Words};
