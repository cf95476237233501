//! Trials on a device under test: topology, load, search for its rates, and what may be said about them.
//!
//! Decides: what a figure is, and when a figure is none (the generator's limit, machines that can't be compared, too much noise).
//! Needs: root for anything with interfaces; nothing for the search, reports and comparisons.
//! Knows neither the engine nor its control process: devices are programs that it starts.

pub mod random;
pub mod spread;
pub mod folder;
pub mod running;
pub mod topology;
pub mod kernel;
pub mod services;
pub mod bare;
pub mod sweep;
pub mod offer;
pub mod programs;
pub mod results;
pub mod soak;
pub mod reconf;
pub mod scenario;
pub mod stateful;
pub mod ends;
pub mod settings;
pub mod tidy;
pub mod generator;
pub mod device;
pub mod progress;
pub mod changes;
pub mod run;
pub mod compare;
pub mod report;
pub mod table;
pub mod commands;
pub mod search;
pub mod units;
pub mod statistics;
pub mod fingerprint;
pub mod impair;
