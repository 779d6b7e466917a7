//! Fuzzes who is due what a server sends: a frame goes to whom it is due, or the connection ends.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| respool::checked::check_exchange(data));
