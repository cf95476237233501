//! A packet generator and receiver on AF_XDP that says what it did.
//!
//! It stands on xsk-rs and a steering program of its own and shares no ring code with the engine, so that it is a
//! witness of it. The unsafe calls of xsk-rs are in one module, `ring`.

#![warn(missing_docs)]

pub mod bench;
pub mod capture;
pub mod check;
pub mod cli;
pub mod counts;
pub mod craft;
pub mod detect;
pub mod end;
pub mod field;
pub mod latency;
pub mod layout;
pub mod link;
pub mod listen;
pub mod live;
pub mod neighbor;
pub mod netdev;
pub mod netns;
pub mod pacer;
pub mod profile;
pub mod receive;
pub mod replay;
pub mod report;
pub mod ring;
pub mod rng;
pub mod run;
pub mod session;
pub mod signature;
pub mod source;
pub mod stateful;
pub mod steer;
pub mod summary;
pub mod template;
pub mod units;
pub mod verify;
pub mod worker;
