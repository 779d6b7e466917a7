//! Fuzzes where replies end among what a server sends.

#![no_main]
#![allow(
    dead_code,
    reason = "the targets share a module, and each uses one of it"
)]

#[path = "../targets/mod.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::fences::check(data));
