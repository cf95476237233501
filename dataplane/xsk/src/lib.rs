//! AF_XDP for Millrace: one UMEM in a memfd, owned frames, the four rings, sockets.
//!
//! Decides: who owns a chunk at any moment, and how descriptors cross to the kernel and back.
//! Needs: a kernel with AF_XDP, and root or CAP_NET_RAW for sockets. [`Umem`], [`Frame`], [`Pool`] and
//! [`testing`] need neither.
//! Leaves to the caller: what a packet means, which XDP program redirects it here, and when to sleep.
//!
//! Read in the kernel's order (`Documentation/networking/af_xdp.rst`): [`umem`], [`frame`], [`ring`], the four
//! rings [`fill`], [`rx`], [`tx`], [`completion`], then [`socket`]. The folder's README has the pictures.

#![allow(unsafe_code)]
#![deny(unsafe_op_in_unsafe_fn)]

pub mod error;
mod if_xdp;
mod syscall;
mod mmap;
mod prefetch;
pub mod umem;
pub mod frame;
pub mod chain;
pub mod pool;
mod custody;
pub mod ring;
pub mod fill;
pub mod completion;
pub mod rx;
pub mod tx;
pub mod interface;
mod bind;
pub mod socket;
pub mod program;
pub mod testing;
pub mod tsc;

pub use error::Error;
pub use frame::Frame;
pub use interface::Interface;
pub use pool::Pool;
pub use prefetch::prefetch;
pub use socket::{BusyPoll, Holdings, Mode, RingSizes, Socket, SocketConfig, Statistics};
pub use tx::TxOffload;
pub use umem::{PageSize, Umem, UmemConfig};
