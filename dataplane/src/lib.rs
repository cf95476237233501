//! The engine: pinned workers carry every packet down one straight line, `pipeline.rs`.
//!
//! Read it in this order: [`packet`] and [`verdict`] say what goes in and what comes out, [`pipeline`] is the path with
//! one file per stop, [`reply`] makes the packets that we originate, [`flow`] names flows and [`state`] is what the
//! workers remember. [`driver`] is how frames come and go. Around them: [`worker`] runs one thread, [`engine`] assembles
//! everything from [`config`], [`server`] answers control, [`housekeeping`] ages what is old.

#![forbid(unsafe_code)]

pub mod clock;
pub mod config;

pub mod packet;
pub mod verdict;
pub mod exit;
pub mod pipeline;
pub mod reply;
pub mod trace;

pub mod flow;
pub mod snat;
pub mod state;
pub mod counters;
pub mod interface;

pub mod driver;
pub mod netdev;
pub mod kernel;
pub mod steer;

pub mod live;
pub mod boot;
pub mod worker;
pub mod housekeeping;
pub mod server;
pub mod shadow;
pub mod engine;
pub mod replay;
