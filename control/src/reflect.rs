//! Sources of objects. Each brings rows into the [`crate::Store`] and takes no decision about what they mean.

pub mod documents;
pub mod files;
pub mod kube;
pub mod watch;
