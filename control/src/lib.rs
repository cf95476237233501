//! Kubernetes objects and files to tables, in one direction:
//!
//! ```text
//! reflect/   files or the API server bring objects; nothing is decided here
//!   ↓ object.rs      JSON → known kinds, or a refusal that names the object and the field
//!   ↓ desired.rs     object → row: the usable part, and what is refused of the rest
//! store.rs   every row in force, by identity; says what a change touches
//!   ↓ compile/       rows + world → what the tables should hold (pure)
//!   ↓ apply.rs       the difference, staged into the tables' writer
//! publish.rs one generation for all of it, handed to the engine, acknowledged by its workers
//!   ↓ receipts.rs    which version of an object is in which generation, and since when in every worker's hands
//! serve.rs   health, metrics and receipts, over HTTP
//! ```
//!
//! Nothing reads back. `millrace explain` uses the same path without the last step.

#![forbid(unsafe_code)]

pub mod object;
pub mod desired;
pub mod store;
pub mod reflect;
pub mod kernel;
pub mod world;
pub mod compile;
pub mod apply;
pub mod config;
pub mod engine_file;
pub mod inbox;
pub mod publish;
pub mod receipts;
pub mod serve;
pub mod run;

pub use apply::apply;
pub use compile::{Change, Compiler};
pub use object::{Key, Kind, Refusal};
pub use store::Store;
pub use world::World;
