//! What the operator wrote, checked into what it means.
//!
//! Two types: the file as written (`file`), and [`Settings`], which can only be built valid (`check`). All problems are
//! told at once ([`Problems`]). Invariant: a [`Settings`] that reached a caller has passed every check of this module.

mod access;
mod address;
mod admin;
mod auth;
mod certificate;
mod check;
mod conflicts;
mod file;
mod files;
mod keys;
mod load;
mod machine;
mod memory;
mod problem;
mod reload;
mod report;
mod secret;
mod tls;
mod typed_value;
mod value;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use access::Access;
pub use address::{Address, AdminAddress};
pub use admin::{Admin, health_address};
pub use auth::{
    Auth, AuthMode, AuthUser, Iam, Login, SecretCommand, SecretSource, secret_in_file, trimmed,
};
pub use certificate::{Certificate, UnixSeconds};
pub use conflicts::share_a_port;
pub use files::{is_plain_file, read_authorities, read_hosts};
pub use keys::{Key, keys};
pub use load::{fingerprint, load, parse};
pub use machine::Machine;
pub use memory::{CLIENT_BYTES, PROCESS_BYTES, TLS_CLIENT_BYTES, memory_for};
pub use problem::{Problem, Problems};
pub use reload::{MOST_GROUPS, succeed};
pub use report::report;
pub use secret::{PasswordDigest, Secret};
pub use tls::{Authorities, ListenerTls, Pair, UpstreamTls, Verification, provider};

/// Everything respool runs by. Built only by the checks of this module, so that every value in it is usable as it is.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Worker threads; at least 1, never more than `upstream.shared_connections`.
    pub workers: usize,
    /// What of it the operator wrote.
    pub written: Written,
    /// Name of this respool among others, part of the names of its connections at the server.
    pub instance: String,
    /// What happens between the signal to end and the drain.
    pub drain: Drain,
    /// How long a drain waits for clients to finish before it closes them.
    pub drain_timeout: Duration,
    /// How long a worker may stand still before `/livez` says so.
    pub stall_timeout: Duration,
    /// Where clients connect; at least one.
    pub listeners: Vec<Listener>,
    /// How clients show who they are.
    pub auth: Auth,
    /// The server and the pool of connections to it.
    pub upstream: Upstream,
    /// Bounds for each client and for the process.
    pub limits: Limits,
    /// Client groups. A group keeps its index as long as the process runs, whatever reloads add, remove or reorder.
    pub groups: Vec<Group>,
    /// Indices of the groups there are, in order of matching; the last is always `default`, which matches everyone. A
    /// group that is not among them was removed by a reload.
    pub order: Vec<usize>,
    /// The operator's HTTP endpoint.
    pub admin: Arc<Admin>,
    /// Users for whom places are kept at every cap.
    pub operators: Vec<String>,
    /// How respool logs.
    pub log: Log,
    /// When the configuration is read again.
    pub reload: Reload,
    /// What is no mistake and yet worth a word at the start.
    pub warnings: Vec<Problem>,
}

impl Settings {
    /// Reads a whole configuration from `text` as [`load`] would from a file in the current directory.
    ///
    /// # Errors
    /// All problems of the text, and of the text with this machine.
    pub fn from_toml(text: &str) -> Result<Self, Problems> {
        parse(text, std::path::Path::new("."), &Machine::here(), &|name| {
            std::env::var(name).ok()
        })
    }

    /// How many of the shared connections worker `index` has.
    pub fn shared_of_worker(&self, index: usize) -> usize {
        let (shared, workers) = (self.upstream.shared_connections, self.workers);
        shared / workers + usize::from(index < shared % workers)
    }

    /// File descriptors this process needs when everything it may hold is open.
    ///
    /// The sum of `limits.max_clients`, `limits.operator_places`, `limits.max_rejected`, `upstream.max_connections`, the
    /// listeners and [`Settings::spare_descriptors`].
    pub fn descriptors_needed(&self) -> usize {
        self.limits.max_clients
            + self.limits.operator_places
            + self.limits.max_rejected
            + self.upstream.max_connections
            + self.listeners.len()
            + self.spare_descriptors()
    }

    /// File descriptors for everything but clients, server and listeners: standard streams, the admin endpoint with
    /// its connections, name resolution, the one held back against EMFILE (64 together), and epoll, wake-up and
    /// signals of each worker (4).
    pub fn spare_descriptors(&self) -> usize {
        64 + 4 * self.workers
    }
}

/// What happens between the signal to end and the drain: respool serves on, and says to probes that it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Drain {
    /// So long at least.
    pub delay: Duration,
    /// And then as long as there are clients.
    pub until_empty: bool,
    /// But not longer.
    pub deadline: Duration,
}

/// One listening socket.
#[derive(Debug, Clone)]
pub struct Listener {
    /// Where it listens.
    pub address: Address,
    /// The address as the operator wrote it; groups match listeners by it.
    pub name: String,
    /// Length of the kernel's queue of connections not yet accepted.
    pub backlog: u32,
    /// TLS, if its clients speak it.
    pub tls: Option<ListenerTls>,
    /// Who may connect, where it is a unix socket.
    pub access: Access,
    /// Whether its clients are operators.
    pub admin: bool,
}

/// The server and the pool of connections to it.
#[derive(Debug, Clone)]
pub struct Upstream {
    /// The server's address.
    pub address: Address,
    /// What the server at that address is for.
    pub role: Role,
    /// Names looked up in a file of the form of `/etc/hosts` before the system is asked.
    pub hosts_file: Option<PathBuf>,
    /// How often the server's name is resolved while connections are up; zero: only to connect.
    pub resolve_interval: Duration,
    /// How long what is lent out may take to finish on a server that has moved or was demoted.
    pub move_timeout: Duration,
    /// The hard total of sockets to the server.
    pub max_connections: usize,
    /// Of these carry multiplexed traffic; at least 1 and fewer than `max_connections`.
    pub shared_connections: usize,
    /// Bound of one connect with its handshake; that of TLS has one of its own.
    pub connect_timeout: Duration,
    /// When the server has sent nothing for this long while replies are due, and nothing explains it, the connection is
    /// replaced.
    pub reply_timeout: Duration,
    /// The same, when something explains it: a command that takes long, a pause of writes.
    pub busy_timeout: Duration,
    /// TCP keepalive on connections to the server; zero: off.
    pub keepalive: Duration,
    /// A connection on which nothing has happened for this long is asked whether it is still there; zero: never.
    pub ping_interval: Duration,
    /// How often the server is asked for its health; zero: never.
    pub health_interval: Duration,
    /// Back-off between attempts to connect.
    pub reconnect: Reconnect,
    /// Attempts to connect a second, in the whole process; a second's worth may be made at once.
    pub max_connects_per_second: u32,
    /// How long no attempt to connect may succeed until new commands are answered at once as not sent; zero: never.
    pub circuit_after: Duration,
    /// Unsent commands held while the server is away.
    pub queue: Queue,
    /// Longest wait for a connection to pin.
    pub borrow_timeout: Duration,
    /// Bytes appended to a connection and not yet taken by the kernel, past which clients are not read.
    pub max_write_buffer: usize,
    /// A request longer than this many bytes travels on a pinned connection, streamed, never gathered.
    pub max_shared_request: usize,
    /// What becomes of subscribers when messages may have been lost with the connection to the server.
    pub on_subscription_loss: OnSubscriptionLoss,
    /// TLS, if the server speaks it.
    pub tls: Option<UpstreamTls>,
    /// Who respool is to the server; `None`: whoever has not authenticated is.
    pub login: Option<Login>,
    /// A connection whose login expires is authenticated anew at a random time between this and 11/6 of it.
    pub reauthenticate_after: Duration,
}

/// What the server is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Role {
    /// It takes writes.
    #[default]
    Primary,
    /// It is a reader endpoint: writes are refused before they reach it.
    Replica,
}

/// What becomes of subscribers when messages may have been lost with the connection to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnSubscriptionLoss {
    /// They stay connected and are subscribed again.
    Resubscribe,
    /// They are closed, so that a library that reads anew what it may have missed when it connects again does so.
    Close,
}

/// Exponential back-off with full jitter.
#[derive(Debug, Clone, Copy)]
pub struct Reconnect {
    /// Upper edge of the first delay.
    pub initial: Duration,
    /// Upper edge of every later delay.
    pub max: Duration,
}

/// Bounds of what waits while the server is away.
#[derive(Debug, Clone, Copy)]
pub struct Queue {
    /// How long a command waits before it is answered with an error.
    pub timeout: Duration,
    /// How many commands wait at once in the whole process.
    pub max_commands: usize,
}

/// Bounds for each client and for the process.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Admitted clients in all groups together.
    pub max_clients: usize,
    /// Memory of the whole process; past it the clients that hold most of it are closed.
    pub max_memory: usize,
    /// Memory that unread replies of one client may take; past it its requests wait.
    pub max_client_buffer: usize,
    /// A client that leaves more than that unread is closed when it has taken nothing for this long.
    pub reply_stall_timeout: Duration,
    /// Unread bytes of one subscriber's messages; past it the client is disconnected. Also the longest message.
    pub pubsub_buffer: usize,
    /// Channels, patterns and shard channels one client may be subscribed to.
    pub max_client_subscriptions: usize,
    /// Requests of one client sent and not answered; past it its socket is not read.
    pub max_client_in_flight: usize,
    /// Bytes of one client's requests read ahead while it waits or is blocked.
    pub max_client_read_ahead: usize,
    /// Bytes that one client may send behind a call that waits at the server; past it the client is closed, as the server closes it past
    /// its own `client-query-buffer-limit`.
    pub max_client_query_buffer: usize,
    /// Bytes of one request, all arguments together.
    pub max_request: usize,
    /// A client silent for this long is closed; zero: never. Spares blocked and subscribed clients.
    pub idle_timeout: Duration,
    /// A client whose first request has begun and not ended after this long is closed, and so is one that must authenticate
    /// and has not; zero: never.
    pub handshake_timeout: Duration,
    /// How long a client that has sent its last byte may wait for what is not to be had now.
    pub half_closed_grace: Duration,
    /// A client is closed that sends nothing more of a large request for this long; zero: never.
    pub request_stall_timeout: Duration,
    /// How far an upload on a lent connection may fall behind while others wait for one.
    pub upload_patience: Duration,
    /// TCP keepalive on connections of clients; zero: off.
    pub keepalive: Duration,
    /// Rejection texts name group, count and cap.
    pub explain_rejections: bool,
    /// How long a rejected socket is held and answered.
    pub reject_hold: Duration,
    /// Rejected sockets held at once; past that the text is written at accept and the socket closed.
    pub max_rejected: usize,
    /// Clients that have yet to say who they are; past that a newcomer is placed by what is known of it.
    pub max_arriving: usize,
    /// How long a client may take to say who it is; zero: it is placed when it connects.
    pub arriving_timeout: Duration,
    /// Clients of operators that are served past every cap.
    pub operator_places: usize,
    /// Whether a reload that lowers a cap closes those who are past it; otherwise they stay until they leave.
    pub enforce_on_reload: bool,
}

/// The group of this name takes whom no other takes.
const DEFAULT_GROUP: &str = "default";

/// A client group.
#[derive(Debug, Clone)]
pub struct Group {
    /// Its name; label of the metrics.
    pub name: String,
    /// Who belongs to it.
    pub matches: Match,
    /// What its cap counts.
    pub per: Per,
    /// The hard cap; `None`: only `limits.max_clients` holds.
    pub max_connections: Option<usize>,
    /// From this count on a warning is logged and shown.
    pub warn_connections: Option<usize>,
    /// New connections a second.
    pub max_connects_per_second: Option<u32>,
    /// Of the upstream connections that can be pinned, how many the group may hold at once.
    pub max_pinned: Option<usize>,
    /// A client of the group silent for this long is closed; zero: never.
    pub idle_timeout: Duration,
    /// What happens to a newcomer at the cap.
    pub at_limit: AtLimit,
    /// For how long nobody is evicted for one like a client that was evicted; zero: not at all.
    pub evict_pause: Duration,
    /// Evictions a second.
    pub max_evictions_per_second: u32,
    /// Whether the cap is enforced.
    pub mode: Mode,
    /// Commands refused: lower-case names, `name|subcommand`, or `@category`.
    pub deny_commands: Vec<String>,
}

/// Who belongs to a group: all that is given must match. An empty match takes everyone.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Match {
    /// Peer address inside one of these networks; clients of unix sockets are in none.
    pub address: Vec<ipnet::IpNet>,
    /// The listener, by glob over its configured address.
    pub listener: Option<Glob>,
    /// The name given by CLIENT SETNAME or HELLO SETNAME, by glob.
    pub client_name: Option<Glob>,
    /// The user of AUTH or HELLO AUTH, by glob.
    pub user: Option<Glob>,
    /// The common name of the client's verified certificate, by glob; clients without one do not match.
    pub certificate_name: Option<Glob>,
}

impl Match {
    /// Whether it takes everyone.
    pub fn is_empty(&self) -> bool {
        self.address.is_empty()
            && self.listener.is_none()
            && self.client_name.is_none()
            && self.user.is_none()
            && self.certificate_name.is_none()
    }
}

/// A glob with its source text. `*` and `?` match every byte, `/` and newline included.
#[derive(Clone)]
pub struct Glob(pub globset::GlobMatcher);

impl Glob {
    /// Compiles `text`, at most 256 bytes.
    ///
    /// # Errors
    /// Why it is not a glob, on one line, without the text itself.
    pub fn new(text: &str) -> Result<Self, String> {
        const LONGEST: usize = 256;
        if text.len() > LONGEST {
            return Err(format!("longer than {LONGEST} bytes"));
        }
        let glob = globset::Glob::new(text)
            .map_err(|error| error.kind().to_string().replace('\n', " "))?;
        Ok(Self(glob.compile_matcher()))
    }

    /// The text it was compiled from.
    pub fn text(&self) -> &str {
        self.0.glob().glob()
    }

    /// Whether the whole of `name` matches.
    pub fn matches(&self, name: &[u8]) -> bool {
        use std::os::unix::ffi::OsStrExt;
        self.0.is_match(std::ffi::OsStr::from_bytes(name))
    }
}

impl PartialEq for Glob {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}

impl std::fmt::Debug for Glob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Glob({:?})", self.text())
    }
}

/// What a group's cap counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Per {
    /// The whole group.
    Group,
    /// Each peer IP address.
    Address {
        /// Of an IPv6 address only so many bits: whoever has one has the network it is in.
        ipv6_prefix: u8,
    },
    /// Each client name.
    ClientName,
    /// Each user.
    User,
}

/// What happens to a newcomer at the cap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtLimit {
    /// The newcomer is rejected.
    Reject,
    /// The group's own longest-idle, state-free client is closed and the newcomer admitted.
    EvictIdle,
}

/// Whether a cap is enforced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It is.
    Enforce,
    /// What would have been rejected is counted and logged.
    Observe,
}

/// What the operator wrote of what otherwise follows from the machine or from other settings: in a reload it does not follow
/// them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// `workers`.
    pub workers: bool,
    /// `instance`.
    pub instance: bool,
}

/// When the configuration is read again, beside SIGHUP and `POST /reload`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reload {
    /// Whether it is when the content of the file, or of a file it names, has changed.
    pub watch: bool,
    /// How often the content is looked at.
    pub interval: Duration,
}

/// How respool logs.
#[derive(Debug, Clone)]
pub struct Log {
    /// Least severe level written.
    pub level: String,
    /// Text or JSON lines.
    pub format: LogFormat,
    /// Bytes of lines that wait for whoever reads them; past it lines are dropped.
    pub buffer: usize,
}

/// Form of the log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}
