//! How a command travels, by design §4: the four ways, and the one that leads nowhere.

/// How a command travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Answered by respool, with Redis' own text.
    Local(Local),
    /// Forwarded on a shared connection: it leaves no trace there.
    Shared,
    /// As `Shared`, but alone, and with a fence behind it: it runs code of the client's, and the server may write its error as it
    /// is, line ends included.
    Fenced,
    /// Forwarded on a connection lent to the client, for this reason.
    Pinned(PinReason),
    /// One of `SUBSCRIBE`, `PSUBSCRIBE`, `SSUBSCRIBE` and their opposites.
    Subscribed,
    /// Never forwarded: it would turn the connection into a replication link, or cannot be told apart safely.
    Refused,
}

/// The commands that respool answers itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Local {
    /// `HELLO [version [AUTH user password] [SETNAME name]]`
    Hello,
    /// `AUTH [user] password`
    Auth,
    /// `SELECT database`
    Select,
    /// `QUIT`
    Quit,
    /// `RESET`
    Reset,
    /// `READONLY`: answered as a server without cluster support does.
    Readonly,
    /// `READWRITE`: as `READONLY`.
    Readwrite,
    /// `ASKING`: as `READONLY`.
    Asking,
    /// `PUBSUB NUMSUB [channels]`: the server's counts, of connections, made counts of clients.
    NumSub,
    /// `PUBSUB SHARDNUMSUB [channels]`: as `NUMSUB`.
    ShardNumSub,
    /// `CLIENT ...`: speaks of respool's own clients.
    Client(ClientSub),
}

/// The subcommands of `CLIENT` that respool answers itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientSub {
    /// `CLIENT SETNAME name`
    SetName,
    /// `CLIENT GETNAME`
    GetName,
    /// `CLIENT SETINFO attribute value`
    SetInfo,
    /// `CLIENT ID`
    Id,
    /// `CLIENT INFO`
    Info,
    /// `CLIENT LIST [filters]`
    List,
    /// `CLIENT KILL filters`
    Kill,
    /// `CLIENT REPLY ON|OFF|SKIP`
    Reply,
    /// `CLIENT NO-EVICT ON|OFF`
    NoEvict,
    /// `CLIENT NO-TOUCH ON|OFF`
    NoTouch,
    /// `CLIENT UNBLOCK id`
    Unblock,
    /// `CLIENT MAINT_NOTIFICATIONS ...`: answered as a server that does not know it.
    MaintNotifications,
    /// Anything else, answered as a server that does not know it (`ERR unknown subcommand '%.128s'. Try CLIENT HELP.`):
    /// `CAPA`, `IMPORT-SOURCE` and whatever newer servers add would mark a connection that is not this client's.
    Unsupported,
    /// CLIENT CAPA (Valkey 8.0).
    Capa,
    /// CLIENT IMPORT-SOURCE (Valkey 8.1).
    ImportSource,
}

/// Why a client needs a connection lent to it; the `reason` of `respool_pins_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PinReason {
    /// `WATCH`
    Watch,
    /// `MULTI` that has not arrived whole.
    Multi,
    /// A call that waits for an element.
    Blocking,
    /// `XREAD` and `XREADGROUP`, with `BLOCK` among their arguments only ([`super::asks_to_block`]); else they are
    /// shared.
    BlockingOption,
    /// `WAIT` and `WAITAOF`: they promise something about the writes of their own connection.
    Wait,
    /// `MONITOR`
    Monitor,
    /// `CLIENT TRACKING` and what belongs to it.
    Tracking,
    /// `CLIENT PAUSE` and `CLIENT UNPAUSE`.
    Pause,
    /// A request too large to share a connection.
    LargeRequest,
    /// One command that may disturb its own connection, or must not stand behind others.
    Admin,
    /// `SCRIPT DEBUG`: the next script of the connection is run by a debugger, whose session the connection ends with.
    ScriptDebug,
    /// `SCRIPT KILL`, `FUNCTION KILL` and `FUNCTION STATS`: they must not stand behind the script they are meant for.
    Script,
    /// The server's own `COMMAND` says so of a command that the table does not know; or, where the server takes no
    /// writes, nobody has told yet whether it is one.
    Learned,
    /// A script for a server that takes no writes: one that writes may have its connection closed by the server.
    ReplicaScript,
    /// `SUBSCRIBE` and its like.
    Subscription,
    /// The server may write line ends into the command's error: what follows such an error reaches nobody, since the connection is
    /// closed.
    RawError,
    /// Neither the table nor the server's own `COMMAND` knows it: it may be any command that was given another name.
    Unlisted,
    /// The worker's shared connections are held up by paused writes or an endless script, and the server answers on others.
    Stalled,
}

impl PinReason {
    /// Every reason, in the order of the enum.
    pub const ALL: [Self; 18] = [
        Self::Watch,
        Self::Multi,
        Self::Blocking,
        Self::BlockingOption,
        Self::Wait,
        Self::Monitor,
        Self::Tracking,
        Self::Pause,
        Self::LargeRequest,
        Self::Admin,
        Self::ScriptDebug,
        Self::Script,
        Self::Learned,
        Self::ReplicaScript,
        Self::Subscription,
        Self::RawError,
        Self::Unlisted,
        Self::Stalled,
    ];

    /// The value of the metric's label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Watch => "watch",
            Self::Multi => "multi",
            Self::Blocking => "blocking",
            Self::BlockingOption => "blocking_option",
            Self::Wait => "wait",
            Self::Monitor => "monitor",
            Self::Tracking => "tracking",
            Self::Pause => "pause",
            Self::LargeRequest => "large_request",
            Self::Admin => "admin",
            Self::ScriptDebug => "script_debug",
            Self::Script => "script",
            Self::Learned => "learned",
            Self::ReplicaScript => "replica_script",
            Self::Subscription => "subscription",
            Self::RawError => "raw_error",
            Self::Unlisted => "unlisted",
            Self::Stalled => "stalled",
        }
    }
}

/// Lists the five commands that open, close or guard a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransactionCommand {
    /// `MULTI`
    Multi,
    /// `EXEC`
    Exec,
    /// `DISCARD`
    Discard,
    /// `WATCH`
    Watch,
    /// `UNWATCH`
    Unwatch,
}
