//! What an operator who tunes NIC queues for AF_XDP needs, without the engine and without control.
//!
//! The way of a question: [`files`] and [`netlink`] are where answers come from (a live machine, or a capture of
//! one); [`observe`] reads all of them once into one value, a [`nic::Nic`]; [`checks`] are functions of that value and
//! of what is wanted of it, each of which may make [findings](finding); [`report`] prints them. [`tune`] puts the changes of
//! findings into effect as a transaction that can be undone, also after a crash. [`sweep`] plans and judges measurements of
//! settings; who runs it brings the measurement.

pub mod power;
pub mod archive;
pub mod files;
mod sys;
pub mod netlink;
pub mod nic;
pub mod observe;
pub mod drivers;
pub mod setting;
pub mod finding;
pub mod checks;
pub mod report;
pub mod tune;
pub mod sweep;
pub mod cli;
