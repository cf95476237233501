//! The table against a dumb model, row by row of the rules, and from many threads.
