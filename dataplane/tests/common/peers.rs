//! Clients and servers in namespaces, on their kernels' own stacks.

pub mod probe;
pub mod tcp;
pub mod udp;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// A server's thread: asked to stop and joined on drop.
pub struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn new(stop: Arc<AtomicBool>, thread: JoinHandle<()>) -> Self {
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("a server panicked");
        }
    }
}
