//! Every question to a tables segment of any contents.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    millrace_fuzz::tables::check(data);
});
