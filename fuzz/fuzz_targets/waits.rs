//! Fuzzes blocked clients: every element goes to one who waits for it.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| respool::checked::check_waits(data));
