//! Malformed policies, one kind each.
