//! What the fuzz targets check, one file per target.
//!
//! A check takes any bytes and panics when something doesn't hold. The crate that it is about runs it too, as an ordinary
//! test over the corpus and a fixed number of mutated inputs ([`replay`]); see README.md.

pub mod forward;
pub mod objects;
pub mod replay;
pub mod tables;
pub mod wire;
