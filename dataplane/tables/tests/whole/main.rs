//! The tables as a whole: against a model, under a hostile writer, and at full size.

mod capacity;
mod hostile;
mod large;
mod model;
mod policies;
mod specs;

/// What the fuzz target asks.
#[allow(dead_code)]
#[path = "../../../fuzz/src/tables.rs"]
mod questions;
