//! The fuzzer's way to `fuzz::record`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::record::hold(data));
