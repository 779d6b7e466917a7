//! Fuzzes subscriptions: who gets messages is who was told so.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| respool::checked::check_fanout(data));
