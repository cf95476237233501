//! Sources: of objects, which become rows of the [`crate::Store`], and of the kernel's network. None takes a decision about what they mean.

pub mod documents;
pub mod files;
pub mod kube;
pub mod netlink;
pub mod watch;
