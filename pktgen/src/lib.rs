//! A packet generator and receiver on AF_XDP that says what it did.
//!
//! It stands on xsk-rs and a steering program of its own and shares no ring code with the engine, so that it is a
//! witness of it. The unsafe calls of xsk-rs are in one module, `ring`.

#![warn(missing_docs)]

pub mod cli;
pub mod report;
pub mod units;
