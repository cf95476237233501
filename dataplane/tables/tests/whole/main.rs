//! The tables as a whole: against a model, under a hostile writer, and at full size.

mod capacity;
mod hostile;
mod model;
mod specs;
