//! What policies cost in memory.
