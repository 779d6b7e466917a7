//! The harness on which the tests, the benchmark and the demo stand: a real `redis-server`, the respool binary and a client that
//! speaks bytes.
//!
//! It starts everything itself, on free ports and in private folders, and ends it: nothing has to run before. Four programs
//! include it by its path: `tests/e2e`, `tests/fuzzing`, `benches/proxy.rs` and `examples/demo.rs`.
//!
//! ```text
//! cargo test --test e2e waits::                          # one module of the tests
//! cargo test --test e2e a_waiter_that_leaves             # those whose name holds this
//! REDIS_SERVER=/opt/valkey-9.1/valkey-server cargo test --test e2e waits::
//! ```
//!
//! | variable | says |
//! | --- | --- |
//! | `REDIS_SERVER` | which server is started: a path or a name; `redis-server` of the path without it |
//! | `RESPOOL_BIN` | which respool is started; the one that cargo has built beside the test without it |
//! | `RESPOOL_TLS` | with `server` respool speaks TLS to its server, with `both` its clients do too: see [`pki`] |
//! | `RESPOOL_LEFT_OUT` | a file that gets a line for each test that is left out: see [`tested_server`] |
//!
//! ```text
//! let redis = Redis::start(&[]);                         // private, free port, nothing persisted; ends on drop
//! let respool = Respool::start(&redis);                  // everything by default
//! let respool = Respool::with(&redis)                    // or with settings, each given as lines of TOML:
//!     .upstream("max_connections = 5\nshared_connections = 2")
//!     .limits("max_clients = 100")
//!     .top("drain_timeout = \"2s\"")
//!     .section("[[group]]\nname = \"leaky\"\nmatch = { client_name = \"leak-*\" }\nmax_connections = 20")
//!     .unix_listener()
//!     .start();
//!
//! let mut client = respool.client();                     // through respool; redis.client() goes directly
//! assert_eq!(client.cmd(&["SET", "k", "v"]), Value::ok());
//! client.send(b"*1\r\n$4\r\nPING\r\n");                  // raw bytes
//! assert_eq!(client.reply(), Value::simple("PONG"));     // RESP2 and RESP3
//! client.send(encode_lines(&["MULTI", "GET k", "EXEC"]));
//! assert_eq!(client.try_cmd(&["QUIT"]), Some(Value::ok()));
//! assert_eq!(client.try_reply(), None);                  // None: the connection ended
//!
//! let busy = keep_busy(&redis, &respool, "60");          // a client whose command is sent and not answered
//! let held = hold_up(&redis, &respool);                  // the same for as long as the test likes: until redis.resume()
//! let watch = redis.watch_connections();                 // watch.most(): the most connections the server held
//! redis.kill_hard();                                     // kill -9; pause() and resume() only stop it for a while
//! redis.restart();                                       // the same port
//!
//! let replica = Redis::start_replica(&redis, &[]);       // follows it, and takes no writes
//! let server = ScriptedServer::start(|words| ...);       // answers what no real server answers on demand
//! let pipe = NetworkPipe::to(redis.addr());              // a network that can be cut, or swallow what it is given
//! let (code, text) = run_respool(&["check", "--config", "respool.toml"]);
//!
//! needs!("FUNCTION FLUSH");                              // leaves the test out where the server has none; see `tested_server`
//!
//! let pki = Pki::new();                                  // an authority; its certificates are files
//! let pair = pki.issue("redis", &["127.0.0.1"]);
//! let redis = Redis::start_tls(&pki, &pair, &[]);        // redis.tls_addr() beside the plain redis.addr()
//! let respool = Respool::before(&redis.tls_addr())
//!     .upstream(&format!("tls = {{ enabled = true, ca_file = \"{}\" }}", pki.ca_file().display()))
//!     .listener(&format!("tls = {{ {} }}", pair.toml())) // the TCP listener speaks TLS
//!     .start();
//! let mut client = respool.tls_client(&pki.client(None));
//! eventually(|| respool.metric("respool_server_up") == 1.0, "the server is seen again");
//! ```
//!
//! - **No hangs**: every read, write and wait gives up after [`PATIENCE`] with a panic that says what was awaited.
//! - **No signals**: a process that is stopped and goes on, or frozen with its machine, takes nothing for the end of a
//!   connection; see [`uninterrupted`].
//! - **No sleeps**: wait for a condition with [`eventually`]; it is the only place that sleeps.
//! - **Nothing left behind**: processes end on drop, by their own id; logs are printed when a test panics.
//! - **Threads**: `Redis` and `Respool` are `Sync` (use `std::thread::scope`); a `Client` belongs to one thread.

mod client;
mod kernel;
mod metrics;
mod network_pipe;
mod peak_watch;
mod pki;
mod ports;
mod process;
mod redis;
mod request;
mod respool;
mod respool_settings;
mod scripted_server;
mod tested_server;
mod value;

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tempfile::TempDir;

pub(crate) use client::Client;
pub(crate) use kernel::{
    has_stopped, is_open_at, processor_time, sockets_at, watch_sockets, watch_sockets_beyond,
};
pub(crate) use metrics::find_metric;
pub(crate) use network_pipe::NetworkPipe;
pub(crate) use peak_watch::PeakWatch;
pub(crate) use pki::{CertificatePair, Pki};
pub(crate) use ports::{free_port, free_port_where};
pub(crate) use process::{ChildProcess, respool_program, run_respool, run_to_end};
pub(crate) use redis::Redis;
pub(crate) use request::{encode, encode_all, encode_line, encode_lines, words};
pub(crate) use respool::Respool;
pub(crate) use respool_settings::RespoolSettings;
pub(crate) use scripted_server::{ScriptedAct, ScriptedServer};
pub(crate) use tested_server::{
    NEEDS_TLS, TESTED_SERVER, TestedServer, is_left_out, leave_out, needs, what_is_missing,
};
pub(crate) use value::{Unparsed, Value, show};

/// Anything may take so long before the test fails: generous, so that only a hang reaches it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Is what Redis tells a client too many, and respool a client over its cap, byte for byte.
pub(crate) const REJECTION: &[u8] = b"-ERR max number of clients reached\r\n";

/// Waits until `condition` holds, at most [`PATIENCE`]; then panics, naming `what`.
#[track_caller]
pub(crate) fn eventually(mut condition: impl FnMut() -> bool, what: &str) {
    eventually_some(|| condition().then_some(()), what);
}

/// Waits until `look` finds something and returns it, at most [`PATIENCE`]; then panics, naming `what`.
#[track_caller]
pub(crate) fn eventually_some<T>(mut look: impl FnMut() -> Option<T>, what: &str) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(
            start.elapsed() < PATIENCE,
            "not within {PATIENCE:?}: {what}"
        );
        #[expect(
            clippy::disallowed_methods,
            reason = "the pause between two looks at a condition; no test sleeps for anything else"
        )]
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Keeps the server from answering anybody for some seconds, and returns the client that asked for it, through respool: its
/// command is surely sent and not answered.
#[track_caller]
pub(crate) fn keep_busy(redis: &Redis, respool: &Respool, seconds: &str) -> Client {
    let mut client = respool.client();
    client.send(encode(&["DEBUG", "SLEEP", seconds]));
    until_silent(redis, Duration::from_millis(300));
    client
}

/// Waits until the server answers nobody for so long.
#[track_caller]
pub(crate) fn until_silent(redis: &Redis, silence: Duration) {
    eventually(
        || {
            let mut probe = redis.client();
            probe.send(encode(&["PING"]));
            probe.reply_within(silence).is_none()
        },
        "the server answers nobody",
    );
}

/// Keeps the server from answering anybody until [`Redis::resume`], and returns a client whose command, through respool, waits for
/// that.
#[track_caller]
pub(crate) fn hold_up(redis: &Redis, respool: &Respool) -> Client {
    // Of such a command it is no wonder that it takes long, and it needs no connection that has to be opened.
    let command = ["EVAL", "return redis.status_reply('OK')", "0"];
    let mut client = respool.client();
    assert_eq!(client.cmd(&command), Value::ok());
    let asked = || respool.metric("respool_client_commands_total");
    let before = asked();
    redis.pause();
    client.send(encode(&command));
    eventually(|| asked() > before, "the command is under way");
    client
}

/// Does again what was broken off by a signal, which no test waits for.
///
/// The kernel goes on with a read by itself after most signals, but not where a socket has a limit of time and the process was stopped
/// meanwhile (signal(7), "Interruption of system calls and library functions by stop signals"), or frozen with its machine.
pub(crate) fn uninterrupted<T>(mut act: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match act() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// Locks although another thread may have panicked with it: what the harness holds stays usable.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Raises a flag when it is dropped, so that threads that look at it end with a test that fails.
pub(crate) struct RaiseOnDrop<'a>(pub(crate) &'a AtomicBool);

impl Drop for RaiseOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Makes a folder of the caller's own, which goes with what it returns.
fn private_folder(prefix: &str) -> TempDir {
    let folder = tempfile::Builder::new().prefix(prefix).tempdir();
    folder.expect("a temporary directory")
}
