//! Frames of any bytes through the engine's whole line.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    millrace_fuzz::forward::check(data);
});
