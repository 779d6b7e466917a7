//! Fuzzes requests against the verdict of a real server, whose unix socket `RESPOOL_FUZZ_SERVER` names.

#![no_main]
#![allow(
    dead_code,
    reason = "the targets share a module, and each uses one of it"
)]

#[path = "../targets/mod.rs"]
mod targets;

use std::path::Path;
use std::sync::OnceLock;

use targets::server::Server;

static SERVER: OnceLock<Server> = OnceLock::new();

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let server = SERVER.get_or_init(|| {
        let socket = std::env::var("RESPOOL_FUZZ_SERVER");
        Server::at(Path::new(
            &socket.expect("scripts/fuzz starts a server and names it"),
        ))
    });
    targets::request::check(server, data);
});
