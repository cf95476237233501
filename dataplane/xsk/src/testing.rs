//! Rings in plain memory: the test plays the kernel.
