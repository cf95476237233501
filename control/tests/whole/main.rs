//! Control as a whole: texts in, tables out; files; histories; the process.

mod access;
mod apiserver;
mod common;
mod control;
mod engine;
mod files;
mod hostile;
mod incremental;
mod kernel_world;
mod process;
mod policy;
mod scenarios;
mod topology;
