//! What the operator wrote, checked into what it means.
//!
//! Two types: the file as written (`file`), and [`Settings`], which can only be built valid (`check`). All problems are
//! told at once ([`ConfigProblems`]). Invariant: a [`Settings`] that reached a caller has passed every check of this module.

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

pub use access::AccessSettings;
pub use address::{Address, AdminAddress};
pub use admin::{AdminSettings, health_address};
use auth::AuthSettings;
pub use auth::{
    AuthMode, AuthUser, IamLogin, SecretCommand, SecretSource, ServerLogin, secret_in_file, trimmed,
};
pub use certificate::{CertificateFacts, UnixSeconds};
pub use conflicts::share_a_port;
pub use files::{read_authorities, read_hosts};
pub use keys::{SettingKey, keys};
pub use load::{fingerprint, load, parse};
pub use machine::MachineResources;
pub use memory::{CLIENT_BYTES, PROCESS_BYTES, TLS_CLIENT_BYTES, memory_for};
pub use problem::{ConfigProblem, ConfigProblems};
pub use reload::succeed;
pub use report::report;
pub use secret::{PasswordDigest, Secret};
pub use tls::{ListenerTls, ServerVerification, TrustedAuthorities, UpstreamTls, provider};

/// Is everything that respool runs by. It is built only by the checks of this module, so that every value in it is usable as it is.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Counts the worker threads; at least 1, never more than `upstream.shared_connections`.
    pub workers: usize,
    /// Tells what of it the operator wrote.
    pub written: WrittenDefaults,
    /// Names this respool among others; it is part of the names of its connections at the server.
    pub instance: String,
    /// Says what happens between the signal to end and the drain.
    pub drain: DrainSettings,
    /// A drain waits this long for clients to finish before it closes them.
    pub drain_timeout: Duration,
    /// A worker may stand still for this long before `/livez` says so.
    pub stall_timeout: Duration,
    /// Clients connect there; there is at least one.
    pub listeners: Vec<ListenerSettings>,
    /// Says how clients show who they are.
    pub auth: AuthSettings,
    /// Describes the server and the pool of connections to it.
    pub upstream: UpstreamSettings,
    /// Bounds what each client and the process may take.
    pub limits: Limits,
    /// Lists the client groups. A group keeps its index as long as the process runs, whatever reloads add, remove or reorder.
    pub groups: Vec<ClientGroup>,
    /// Lists the indices of the groups there are, in order of matching; the last is always `default`, which matches everyone. A group that
    /// is not among them was removed by a reload.
    pub order: Vec<usize>,
    /// Describes the operator's HTTP endpoint.
    pub admin: Arc<AdminSettings>,
    /// Places are kept for these users at every cap.
    pub operators: Vec<String>,
    /// Says how respool logs.
    pub log: LogSettings,
    /// Says when the configuration is read again.
    pub reload: ReloadSettings,
    /// Holds what is no mistake and yet worth a word at the start.
    pub warnings: Vec<ConfigProblem>,
}

impl Settings {
    /// Reads a whole configuration from `text` as [`mod@load`] would from a file in the current directory.
    ///
    /// # Errors
    /// All problems are told: of the text, and of the text with this machine.
    pub fn from_toml(text: &str) -> Result<Self, ConfigProblems> {
        parse(
            text,
            std::path::Path::new("."),
            &MachineResources::here(),
            &|name| std::env::var(name).ok(),
        )
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
    fn spare_descriptors(&self) -> usize {
        64 + 4 * self.workers
    }
}

/// Says what happens between the signal to end and the drain: respool serves on, and says to probes that it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DrainSettings {
    /// It serves on for this long at least.
    pub delay: Duration,
    /// It serves on while there are clients, where this is true.
    pub until_empty: bool,
    /// It serves on no longer than this.
    pub deadline: Duration,
}

/// Describes one listening socket.
#[derive(Debug, Clone)]
pub struct ListenerSettings {
    /// Says where it listens.
    pub address: Address,
    /// The address as the operator wrote it; groups match listeners by it.
    pub name: String,
    /// Bounds the kernel's queue of connections not yet accepted.
    pub backlog: u32,
    /// Holds the TLS of the listener, if its clients speak it.
    pub tls: Option<ListenerTls>,
    /// Says who may connect, where it is a unix socket.
    pub access: AccessSettings,
    /// Is true where its clients are operators.
    pub admin: bool,
}

/// Describes the server and the pool of connections to it.
#[derive(Debug, Clone)]
pub struct UpstreamSettings {
    /// Says where the server is.
    pub address: Address,
    /// Says what the server at that address is for.
    pub role: ServerRole,
    /// Names are looked up in this file, of the form of `/etc/hosts`, before the system is asked.
    pub hosts_file: Option<PathBuf>,
    /// The server's name is resolved this often while connections are up; zero: only to connect.
    pub resolve_interval: Duration,
    /// A lent connection has this time to finish on a server that has moved or was demoted.
    pub move_timeout: Duration,
    /// Bounds the sockets to the server, of all kinds together.
    pub max_connections: usize,
    /// This number of these carry multiplexed traffic; it is at least 1 and less than `max_connections`.
    pub shared_connections: usize,
    /// Bounds one connect with its handshake; that of TLS has a bound of its own.
    pub connect_timeout: Duration,
    /// A connection is replaced when the server has sent nothing for this long while replies are due, and nothing explains it.
    pub reply_timeout: Duration,
    /// A connection is replaced after this time when something explains that nothing comes: a command that takes long, a pause of writes.
    pub busy_timeout: Duration,
    /// Sets TCP keepalive on connections to the server; zero: off.
    pub keepalive: Duration,
    /// A connection on which nothing has happened for this long is asked whether it is still there; zero: never.
    pub ping_interval: Duration,
    /// The server is asked for its health this often; zero: never.
    pub health_interval: Duration,
    /// Says how attempts to connect back off.
    pub reconnect: ReconnectDelays,
    /// Bounds the attempts to connect in a second, in the whole process; a second's worth may be made at once.
    pub max_connects_per_second: u32,
    /// New commands are answered at once as not sent when no attempt to connect has succeeded for this long; zero: never.
    pub circuit_after: Duration,
    /// Bounds the unsent commands held while the server is away.
    pub queue: QueueBounds,
    /// A client waits this long for a connection to pin.
    pub borrow_timeout: Duration,
    /// Clients are not read while more bytes than this are appended to a connection and not yet taken by the kernel.
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
pub enum ServerRole {
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
pub struct ReconnectDelays {
    /// Bounds the first delay from above.
    pub initial: Duration,
    /// Bounds every later delay from above.
    pub max: Duration,
}

/// Bounds what waits while the server is away.
#[derive(Debug, Clone, Copy)]
pub struct QueueBounds {
    /// A command that has waited this long is answered with an error.
    pub timeout: Duration,
    /// Bounds the commands that wait at once in the whole process.
    pub max_commands: usize,
}

/// Bounds what each client and the process may take.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bounds the clients that are admitted, in all groups together.
    pub max_clients: usize,
    /// Bounds the memory of the whole process; past it the clients that hold most of it are closed.
    pub max_memory: usize,
    /// Bounds the memory that unread replies of one client take; past it its requests wait.
    pub max_client_buffer: usize,
    /// A client that leaves more than that unread is closed when it has taken nothing for this long.
    pub reply_stall_timeout: Duration,
    /// Bounds the bytes of messages that one subscriber leaves unread; past it the client is disconnected. It is also the longest
    /// message.
    pub pubsub_buffer: usize,
    /// Bounds the channels, patterns and shard channels that one client is subscribed to.
    pub max_client_subscriptions: usize,
    /// Bounds the requests of one client that are sent and not answered; past it its socket is not read.
    pub max_client_in_flight: usize,
    /// Bounds the bytes of one client's requests that are read ahead while it waits or is blocked.
    pub max_client_read_ahead: usize,
    /// Bounds the bytes that one client sends behind a call that waits at the server; past it the client is closed, as the server
    /// closes it past its own `client-query-buffer-limit`.
    pub max_client_query_buffer: usize,
    /// Bounds the bytes of one request, all arguments together.
    pub max_request: usize,
    /// A client silent for this long is closed; zero: never. It spares blocked and subscribed clients.
    pub idle_timeout: Duration,
    /// A client whose first request has begun and not ended after this long is closed, and so is one that must authenticate
    /// and has not; zero: never.
    pub handshake_timeout: Duration,
    /// A client that has sent its last byte may wait this long for what is not to be had now.
    pub half_closed_grace: Duration,
    /// A client is closed that sends nothing more of a large request for this long; zero: never.
    pub request_stall_timeout: Duration,
    /// An upload on a lent connection may fall behind by this time while others wait for one.
    pub upload_patience: Duration,
    /// Sets TCP keepalive on connections of clients; zero: off.
    pub keepalive: Duration,
    /// Is true where rejection texts name group, count and cap.
    pub explain_rejections: bool,
    /// A rejected socket is held and answered for this long.
    pub reject_hold: Duration,
    /// Bounds the rejected sockets that are held at once; past it the text is written at accept and the socket closed.
    pub max_rejected: usize,
    /// Bounds the clients that have yet to say who they are; past it a newcomer is placed by what is known of it.
    pub max_arriving: usize,
    /// A client has this long to say who it is; zero: it is placed when it connects.
    pub arriving_timeout: Duration,
    /// Bounds the clients of operators that are served past every cap.
    pub operator_places: usize,
    /// Is true where a reload that lowers a cap closes those who are past it; otherwise they stay until they leave.
    pub enforce_on_reload: bool,
}

/// The group of this name takes whom no other takes.
const DEFAULT_GROUP: &str = "default";

/// Describes a client group: who belongs to it, its caps, and what its clients may do.
#[derive(Debug, Clone)]
pub struct ClientGroup {
    /// Names the group; it is a label of the metrics.
    pub name: String,
    /// Says who belongs to it.
    pub matches: GroupMatch,
    /// Says what its cap counts.
    pub per: CapScope,
    /// Caps the connections of the group, or of each of those its cap counts; `None`: only `limits.max_clients` holds.
    pub max_connections: Option<usize>,
    /// A warning is logged and shown from this count on.
    pub warn_connections: Option<usize>,
    /// Bounds the new connections in a second.
    pub max_connects_per_second: Option<u32>,
    /// Bounds the connections that the group holds at once of those that can be pinned.
    pub max_pinned: Option<usize>,
    /// A client of the group silent for this long is closed; zero: never.
    pub idle_timeout: Duration,
    /// Says what happens to a newcomer at the cap.
    pub at_limit: AtLimit,
    /// One like a client that was evicted has nobody evicted for this long; zero: it is not kept waiting.
    pub evict_pause: Duration,
    /// Bounds the clients that are evicted in a second.
    pub max_evictions_per_second: u32,
    /// Says whether the cap is enforced.
    pub mode: CapMode,
    /// These commands are refused: lower-case names, `name|subcommand`, or `@category`.
    pub deny_commands: Vec<String>,
}

/// Says who belongs to a group: all that is given must match. An empty match takes everyone.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GroupMatch {
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

impl GroupMatch {
    /// Tells whether it takes everyone.
    pub fn is_empty(&self) -> bool {
        self.address.is_empty()
            && self.listener.is_none()
            && self.client_name.is_none()
            && self.user.is_none()
            && self.certificate_name.is_none()
    }
}

/// Holds a glob with its source text. `*` and `?` match every byte, `/` and newline included.
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
pub enum CapScope {
    /// It counts the whole group.
    Group,
    /// It counts each peer IP address.
    Address {
        /// Only this many bits of an IPv6 address count: whoever has one has the network it is in.
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
pub enum CapMode {
    /// The cap is enforced.
    Enforce,
    /// A newcomer that the cap would reject is counted, logged and let in.
    Observe,
}

/// Tells what the operator wrote of what otherwise follows from the machine or from other settings: in a reload it does not follow them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrittenDefaults {
    /// Is true where `workers` is written.
    pub workers: bool,
    /// Is true where `instance` is written.
    pub instance: bool,
}

/// Says when the configuration is read again, beside SIGHUP and `POST /reload`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReloadSettings {
    /// Is true where it is read again when the content of the file, or of a file it names, has changed.
    pub watch: bool,
    /// The content is looked at this often.
    pub interval: Duration,
}

/// Says how respool logs.
#[derive(Debug, Clone)]
pub struct LogSettings {
    /// Names the least severe level that is written.
    pub level: String,
    /// Says in which form lines are written.
    pub format: LogFormat,
    /// Bounds the bytes of lines that wait for whoever reads them; past it lines are dropped.
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
