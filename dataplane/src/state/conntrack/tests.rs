//! The table against a `HashMap`, and from many threads.
