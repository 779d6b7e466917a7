//! What the end-to-end tests stand on: a real `redis-server`, the respool binary and a client that speaks bytes.
//!
//! ```text
//! let redis = Redis::start(&[]);                         // private, free port, nothing persisted; ends on drop
//! let respool = Respool::start(&redis);                  // 10 upstream connections, 4 of them shared
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
//!
//! needs!("FUNCTION FLUSH");                              // leaves the test out where the server has none; see `at_hand`
//!
//! let pki = Pki::new();                                  // an authority; its certificates are files
//! let pair = pki.issue("redis", &["127.0.0.1"]);
//! let redis = Redis::start_tls(&pki, &pair, &[]);        // redis.tls_addr() beside the plain redis.addr()
//! let respool = Respool::before(&redis.tls_addr())
//!     .upstream(&format!("tls = {{ enabled = true, ca_file = \"{}\" }}", pki.ca_file().display()))
//!     .listener(&format!("tls = {{ {} }}", pair.toml())) // the TCP listener speaks TLS
//!     .start();
//! let mut client = respool.tls_client(&pki.client(None));
//! // RESPOOL_TLS=server, RESPOOL_TLS=both: the whole suite with TLS, see `pki::Everywhere`
//! eventually(|| respool.metric("respool_server_up") == 1.0, "the server is seen again");
//! ```
//!
//! - **No hangs**: every read, write and wait gives up after [`PATIENCE`] with a panic that says what was awaited.
//! - **No signals**: a process that is stopped and goes on, or frozen with its machine, takes nothing for the end of a
//!   connection; see [`uninterrupted`].
//! - **No sleeps**: wait for a condition with [`eventually`]; it is the only place that sleeps.
//! - **Nothing left behind**: processes end on drop, by their own id; logs are printed when a test panics.
//! - **Threads**: `Redis` and `Respool` are `Sync` (use `std::thread::scope`); a `Client` belongs to one thread.

mod at_hand;
mod client;
mod kernel;
mod pipe;
mod pki;
mod ports;
mod redis;
mod respool;
mod scripted;
mod tests;
mod value;

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub(crate) use at_hand::{AT_HAND, NEEDS_TLS, is_left_out, leave_out, needs};
pub(crate) use client::{Client, encode};
pub(crate) use kernel::{SocketWatch, has_stopped, is_open_at, sockets_at, worked};
pub(crate) use pipe::Pipe;
pub(crate) use pki::{Pair, Pki};
pub(crate) use ports::{free_port, free_port_where};
pub(crate) use redis::{ConnectionWatch, Redis};
pub(crate) use respool::{Respool, Settings};
pub(crate) use scripted::{Act, Scripted};
pub(crate) use value::{Unparsed, Value, show};

/// How long anything may take before the test fails: generous, so that only a hang reaches it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

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

/// Keeps the server from answering anybody for some seconds; the client that asked for it, through respool, is returned:
/// its command is surely sent and not answered.
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

/// Keeps the server from answering anybody until [`Redis::resume`]; a client is returned whose command, through respool, waits for that.
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
