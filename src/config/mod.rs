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
    Auth, AuthMode, AuthUser, Iam, SecretCommand, SecretSource, ServerLogin, secret_in_file,
    trimmed,
};
pub use certificate::{Certificate, UnixSeconds};
pub use conflicts::share_a_port;
pub use files::{is_plain_file, read_authorities, read_hosts};
pub use keys::{SettingKey, keys};
pub use load::{fingerprint, load, parse};
pub use machine::Machine;
pub use memory::{CLIENT_BYTES, PROCESS_BYTES, TLS_CLIENT_BYTES, memory_for};
pub use problem::{Problem, Problems};
pub use reload::{MOST_GROUPS, succeed};
pub use report::report;
pub use secret::{PasswordDigest, Secret};
pub use tls::{Authorities, ListenerTls, Pair, UpstreamTls, Verification, provider};

/// Is everything that respool runs by. It is built only by the checks of this module, so that every value in it is usable as it is.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Counts the worker threads; at least 1, never more than `upstream.shared_connections`.
    pub workers: usize,
    /// Tells what of it the operator wrote.
    pub written: Written,
    /// Names this respool among others; it is part of the names of its connections at the server.
    pub instance: String,
    /// Says what happens between the signal to end and the drain.
    pub drain: Drain,
    /// A drain waits so long for clients to finish before it closes them.
    pub drain_timeout: Duration,
    /// A worker may stand still for so long before `/livez` says so.
    pub stall_timeout: Duration,
    /// Clients connect there; there is at least one.
    pub listeners: Vec<Listener>,
    /// Says how clients show who they are.
    pub auth: Auth,
    /// Describes the server and the pool of connections to it.
    pub upstream: UpstreamSettings,
    /// Bounds what each client and the process may take.
    pub limits: Limits,
    /// Lists the client groups. A group keeps its index as long as the process runs, whatever reloads add, remove or reorder.
    pub groups: Vec<Group>,
    /// Lists the indices of the groups there are, in order of matching; the last is always `default`, which matches everyone. A group that
    /// is not among them was removed by a reload.
    pub order: Vec<usize>,
    /// Describes the operator's HTTP endpoint.
    pub admin: Arc<Admin>,
    /// Places are kept for these users at every cap.
    pub operators: Vec<String>,
    /// Says how respool logs.
    pub log: Log,
    /// Says when the configuration is read again.
    pub reload: Reload,
    /// Holds what is no mistake and yet worth a word at the start.
    pub warnings: Vec<Problem>,
}

impl Settings {
    /// Reads a whole configuration from `text` as [`mod@load`] would from a file in the current directory.
    ///
    /// # Errors
    /// All problems are told: of the text, and of the text with this machine.
    pub fn from_toml(text: &str) -> Result<Self, Problems> {
        parse(text, std::path::Path::new("."), &Machine::here(), &|name| {
            std::env::var(name).ok()
        })
    }

    /// Returns how many of the shared connections worker `index` has.
    pub fn shared_of_worker(&self, index: usize) -> usize {
        let (shared, workers) = (self.upstream.shared_connections, self.workers);
        shared / workers + usize::from(index < shared % workers)
    }

    /// Counts the file descriptors this process needs when everything it may hold is open.
    ///
    /// It is the sum of `limits.max_clients`, `limits.operator_places`, `limits.max_rejected`, `upstream.max_connections`, the listeners
    /// and [`Settings::spare_descriptors`].
    pub fn descriptors_needed(&self) -> usize {
        self.limits.max_clients
            + self.limits.operator_places
            + self.limits.max_rejected
            + self.upstream.max_connections
            + self.listeners.len()
            + self.spare_descriptors()
    }

    /// Counts the file descriptors for everything but clients, server and listeners: standard streams, the admin endpoint with its
    /// connections, name resolution, the one held back against EMFILE (64 together), and epoll, wake-up and signals of each worker (4).
    pub fn spare_descriptors(&self) -> usize {
        64 + 4 * self.workers
    }
}

/// Says what happens between the signal to end and the drain: respool serves on, and says to probes that it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Drain {
    /// It serves on for so long at least.
    pub delay: Duration,
    /// It serves on while there are clients, where this is true.
    pub until_empty: bool,
    /// It serves on no longer than this.
    pub deadline: Duration,
}

/// Describes one listening socket.
#[derive(Debug, Clone)]
pub struct Listener {
    /// Says where it listens.
    pub address: Address,
    /// The address as the operator wrote it; groups match listeners by it.
    pub name: String,
    /// Bounds the kernel's queue of connections not yet accepted.
    pub backlog: u32,
    /// Holds the TLS of the listener, if its clients speak it.
    pub tls: Option<ListenerTls>,
    /// Says who may connect, where it is a unix socket.
    pub access: Access,
    /// Is true where its clients are operators.
    pub admin: bool,
}

/// Describes the server and the pool of connections to it.
#[derive(Debug, Clone)]
pub struct UpstreamSettings {
    /// The server's address.
    pub address: Address,
    /// Says what the server at that address is for.
    pub role: Role,
    /// Names are looked up in this file, of the form of `/etc/hosts`, before the system is asked.
    pub hosts_file: Option<PathBuf>,
    /// The server's name is resolved so often while connections are up; zero: only to connect.
    pub resolve_interval: Duration,
    /// What is lent out may take so long to finish on a server that has moved or was demoted.
    pub move_timeout: Duration,
    /// The hard total of sockets to the server.
    pub max_connections: usize,
    /// So many of these carry multiplexed traffic; at least 1 and fewer than `max_connections`.
    pub shared_connections: usize,
    /// Bounds one connect with its handshake; that of TLS has a bound of its own.
    pub connect_timeout: Duration,
    /// When the server has sent nothing for this long while replies are due, and nothing explains it, the connection is
    /// replaced.
    pub reply_timeout: Duration,
    /// A connection is replaced after this time when something explains that nothing comes: a command that takes long, a pause of writes.
    pub busy_timeout: Duration,
    /// Sets TCP keepalive on connections to the server; zero: off.
    pub keepalive: Duration,
    /// A connection on which nothing has happened for this long is asked whether it is still there; zero: never.
    pub ping_interval: Duration,
    /// The server is asked for its health so often; zero: never.
    pub health_interval: Duration,
    /// Says how attempts to connect back off.
    pub reconnect: Reconnect,
    /// So many attempts to connect are made a second, in the whole process; a second's worth may be made at once.
    pub max_connects_per_second: u32,
    /// No attempt to connect may succeed for so long until new commands are answered at once as not sent; zero: never.
    pub circuit_after: Duration,
    /// Bounds the unsent commands held while the server is away.
    pub queue: Queue,
    /// A client waits so long for a connection to pin.
    pub borrow_timeout: Duration,
    /// When more bytes are appended to a connection and not yet taken by the kernel, clients are not read.
    pub max_write_buffer: usize,
    /// A request longer than this many bytes travels on a pinned connection, streamed, never gathered.
    pub max_shared_request: usize,
    /// Says what becomes of subscribers when messages may have been lost with the connection to the server.
    pub on_subscription_loss: OnSubscriptionLoss,
    /// Holds the TLS of the server, if it speaks it.
    pub tls: Option<UpstreamTls>,
    /// Says who respool is to the server; `None`: it is whoever has not authenticated.
    pub login: Option<ServerLogin>,
    /// A connection whose login expires is authenticated anew at a random time between this and 11/6 of it.
    pub reauthenticate_after: Duration,
}

/// Says what the server is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Role {
    /// It is one that takes writes.
    #[default]
    Primary,
    /// It is a reader endpoint: writes are refused before they reach it.
    Replica,
}

/// Says what becomes of subscribers when messages may have been lost with the connection to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnSubscriptionLoss {
    /// They stay connected and are subscribed again.
    Resubscribe,
    /// They are closed, so that a library that reads anew what it may have missed when it connects again does so.
    Close,
}

/// Backs off exponentially, with full jitter.
#[derive(Debug, Clone, Copy)]
pub struct Reconnect {
    /// The upper edge of the first delay.
    pub initial: Duration,
    /// The upper edge of every later delay.
    pub max: Duration,
}

/// Bounds what waits while the server is away.
#[derive(Debug, Clone, Copy)]
pub struct Queue {
    /// A command waits so long before it is answered with an error.
    pub timeout: Duration,
    /// So many commands wait at once in the whole process.
    pub max_commands: usize,
}

/// Bounds what each client and the process may take.
#[derive(Debug, Clone)]
pub struct Limits {
    /// So many clients are admitted in all groups together.
    pub max_clients: usize,
    /// The whole process may take so much memory; past it the clients that hold most of it are closed.
    pub max_memory: usize,
    /// Unread replies of one client may take so much memory; past it its requests wait.
    pub max_client_buffer: usize,
    /// A client that leaves more than that unread is closed when it has taken nothing for this long.
    pub reply_stall_timeout: Duration,
    /// One subscriber may leave so many bytes of messages unread; past it the client is disconnected. It is also the longest message.
    pub pubsub_buffer: usize,
    /// One client may be subscribed to so many channels, patterns and shard channels.
    pub max_client_subscriptions: usize,
    /// One client may have so many requests sent and not answered; past it its socket is not read.
    pub max_client_in_flight: usize,
    /// So many bytes of one client's requests are read ahead while it waits or is blocked.
    pub max_client_read_ahead: usize,
    /// One client may send so many bytes behind a call that waits at the server; past it the client is closed, as the server closes it past
    /// its own `client-query-buffer-limit`.
    pub max_client_query_buffer: usize,
    /// One request may have so many bytes, all arguments together.
    pub max_request: usize,
    /// A client silent for this long is closed; zero: never. It spares blocked and subscribed clients.
    pub idle_timeout: Duration,
    /// A client whose first request has begun and not ended after this long is closed, and so is one that must authenticate
    /// and has not; zero: never.
    pub handshake_timeout: Duration,
    /// A client that has sent its last byte may wait so long for what is not to be had now.
    pub half_closed_grace: Duration,
    /// A client is closed that sends nothing more of a large request for this long; zero: never.
    pub request_stall_timeout: Duration,
    /// An upload on a lent connection may fall so far behind while others wait for one.
    pub upload_patience: Duration,
    /// Sets TCP keepalive on connections of clients; zero: off.
    pub keepalive: Duration,
    /// Is true where rejection texts name group, count and cap.
    pub explain_rejections: bool,
    /// A rejected socket is held and answered for so long.
    pub reject_hold: Duration,
    /// So many rejected sockets are held at once; past that the text is written at accept and the socket closed.
    pub max_rejected: usize,
    /// So many clients may have yet to say who they are; past that a newcomer is placed by what is known of it.
    pub max_arriving: usize,
    /// A client may take so long to say who it is; zero: it is placed when it connects.
    pub arriving_timeout: Duration,
    /// So many clients of operators are served past every cap.
    pub operator_places: usize,
    /// Is true where a reload that lowers a cap closes those who are past it; otherwise they stay until they leave.
    pub enforce_on_reload: bool,
}

/// The group of this name takes whom no other takes.
const DEFAULT_GROUP: &str = "default";

/// A client group.
#[derive(Debug, Clone)]
pub struct Group {
    /// Names the group; it is a label of the metrics.
    pub name: String,
    /// Says who belongs to it.
    pub matches: Match,
    /// Says what its cap counts.
    pub per: Per,
    /// The hard cap; `None`: only `limits.max_clients` holds.
    pub max_connections: Option<usize>,
    /// From this count on a warning is logged and shown.
    pub warn_connections: Option<usize>,
    /// So many new connections may come a second.
    pub max_connects_per_second: Option<u32>,
    /// The group may hold so many of the connections that can be pinned at once.
    pub max_pinned: Option<usize>,
    /// A client of the group silent for this long is closed; zero: never.
    pub idle_timeout: Duration,
    /// Says what happens to a newcomer at the cap.
    pub at_limit: AtLimit,
    /// Nobody is evicted for so long for one like a client that was evicted; zero: not at all.
    pub evict_pause: Duration,
    /// So many clients may be evicted a second.
    pub max_evictions_per_second: u32,
    /// Says whether the cap is enforced.
    pub mode: Mode,
    /// These commands are refused: lower-case names, `name|subcommand`, or `@category`.
    pub deny_commands: Vec<String>,
}

/// Says who belongs to a group: all that is given must match. An empty match takes everyone.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Match {
    /// The peer address is inside one of these networks; clients of unix sockets are in none.
    pub address: Vec<ipnet::IpNet>,
    /// The listener's configured address matches this glob.
    pub listener: Option<Glob>,
    /// The name given by CLIENT SETNAME or HELLO SETNAME matches this glob.
    pub client_name: Option<Glob>,
    /// The user of AUTH or HELLO AUTH matches this glob.
    pub user: Option<Glob>,
    /// The common name of the client's verified certificate matches this glob; clients without one do not match.
    pub certificate_name: Option<Glob>,
}

impl Match {
    /// Tells whether it takes everyone.
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
    /// Says why it is not a glob, on one line, without the text itself.
    pub fn new(text: &str) -> Result<Self, String> {
        const LONGEST: usize = 256;
        if text.len() > LONGEST {
            return Err(format!("longer than {LONGEST} bytes"));
        }
        let glob = globset::Glob::new(text)
            .map_err(|error| error.kind().to_string().replace('\n', " "))?;
        Ok(Self(glob.compile_matcher()))
    }

    /// Returns the text it was compiled from.
    pub fn text(&self) -> &str {
        self.0.glob().glob()
    }

    /// Tells whether the whole of `name` matches.
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

/// Says what a group's cap counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Per {
    /// It counts the whole group.
    Group,
    /// It counts each peer IP address.
    Address {
        /// Only so many bits of an IPv6 address count: whoever has one has the network it is in.
        ipv6_prefix: u8,
    },
    /// It counts each client name.
    ClientName,
    /// It counts each user.
    User,
}

/// Says what happens to a newcomer at the cap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtLimit {
    /// The newcomer is rejected.
    Reject,
    /// The group's own longest-idle, state-free client is closed and the newcomer admitted.
    EvictIdle,
}

/// Says whether a cap is enforced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The cap is enforced.
    Enforce,
    /// What would have been rejected is counted and logged.
    Observe,
}

/// Tells what the operator wrote of what otherwise follows from the machine or from other settings: in a reload it does not follow them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Is true where `workers` is written.
    pub workers: bool,
    /// Is true where `instance` is written.
    pub instance: bool,
}

/// Says when the configuration is read again, beside SIGHUP and `POST /reload`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reload {
    /// Is true where it is read again when the content of the file, or of a file it names, has changed.
    pub watch: bool,
    /// The content is looked at so often.
    pub interval: Duration,
}

/// Says how respool logs.
#[derive(Debug, Clone)]
pub struct Log {
    /// The least severe level written.
    pub level: String,
    /// Says in which form lines are written.
    pub format: LogFormat,
    /// So many bytes of lines wait for whoever reads them; past it lines are dropped.
    pub buffer: usize,
}

/// Says in which form log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// They are text for people.
    Text,
    /// Each line is one JSON object.
    Json,
}
