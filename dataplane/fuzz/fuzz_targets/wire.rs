//! Every parser of `millrace-wire` on any bytes.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    millrace_fuzz::wire::check(data);
});
