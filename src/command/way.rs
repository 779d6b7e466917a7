//! How a command travels: the ways that docs/architecture.md tells, and the one that leads nowhere.

/// Tells how a command travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// It is answered by respool, with Redis' own text.
    Local(Local),
    /// It is forwarded on a shared connection, where it leaves no trace.
    Shared,
    /// It is forwarded as `Shared`, but alone, and with a fence behind it: it runs code of the client's, and the server
    /// may write its error as it is, line ends included.
    Fenced,
    /// It is forwarded on a connection lent to the client, for this reason.
    Pinned(PinReason),
    /// It is one of `SUBSCRIBE`, `PSUBSCRIBE`, `SSUBSCRIBE` and their opposites.
    Subscribed,
    /// It is never forwarded: it would turn the connection into a replication link, or cannot be told apart safely.
    Refused,
}

/// Lists the commands that respool answers itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Local {
    Hello,
    Auth,
    Select,
    Quit,
    Reset,
    /// It is answered as a server without cluster support does.
    Readonly,
    /// It is answered as `READONLY` is.
    Readwrite,
    /// It is answered as `READONLY` is.
    Asking,
    /// `PUBSUB NUMSUB` is answered by the server with counts of connections, which are made counts of clients.
    NumSub,
    /// `PUBSUB SHARDNUMSUB` is answered as `NUMSUB` is.
    ShardNumSub,
    /// It speaks of respool's own clients.
    Client(ClientSub),
}

/// Lists the subcommands of `CLIENT` that respool answers itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClientSub {
    SetName,
    GetName,
    SetInfo,
    Id,
    Info,
    List,
    Kill,
    Reply,
    NoEvict,
    NoTouch,
    Unblock,
    /// It is answered as a server does that does not know it.
    MaintNotifications,
    /// Anything else is answered as a server does that does not know it (`ERR unknown subcommand '%.128s'. Try CLIENT
    /// HELP.`): whatever newer servers add would mark a connection that is not this client's.
    Unsupported,
    /// It came with Valkey 8.0.
    Capa,
    /// It came with Valkey 8.1.
    ImportSource,
}

/// Tells why a client needs a connection lent to it; it is the `reason` of `respool_pins_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PinReason {
    Watch,
    /// A `MULTI` has not arrived whole.
    Multi,
    /// A call waits for an element.
    Blocking,
    /// `XREAD` and `XREADGROUP` may wait, with `BLOCK` among their arguments only ([`super::asks_to_block`]); else they
    /// are shared.
    BlockingOption,
    /// `WAIT` and `WAITAOF` promise something about the writes of their own connection.
    Wait,
    Monitor,
    /// `CLIENT TRACKING` was sent, or what belongs to it.
    Tracking,
    /// `CLIENT PAUSE` or `CLIENT UNPAUSE` was sent.
    Pause,
    /// The request is too large to share a connection.
    LargeRequest,
    /// The command may disturb its own connection, or must not stand behind others.
    Admin,
    /// After `SCRIPT DEBUG` the next script of the connection is run by a debugger, whose session the connection ends
    /// with.
    ScriptDebug,
    /// `SCRIPT KILL`, `FUNCTION KILL` and `FUNCTION STATS` must not stand behind the script they are meant for.
    Script,
    /// The server's own `COMMAND` says so of a command that the table does not know; or, where the server takes no
    /// writes, nobody has told yet whether it is one.
    Learned,
    /// A script is for a server that takes no writes: one that writes may have its connection closed by the server.
    ReplicaScript,
    /// `SUBSCRIBE` or its like was sent.
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
    /// Lists every reason, in the order of the enum: its place there is where it is counted.
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

    /// Tells whether a command that is lent a connection for this reason may be answered late, since it waits for others.
    pub const fn may_block(self) -> bool {
        matches!(
            self,
            Self::Blocking | Self::BlockingOption | Self::Wait | Self::Learned | Self::Unlisted
        )
    }

    /// Tells whether a command that is lent a connection for this reason is answered by one frame, as the table knows it, also inside
    /// `MULTI`.
    pub const fn is_one_frame(self) -> bool {
        matches!(
            self,
            Self::Watch
                | Self::Multi
                | Self::Blocking
                | Self::BlockingOption
                | Self::Wait
                | Self::Tracking
                | Self::Pause
                | Self::LargeRequest
        )
    }

    /// Returns the value of the metric's label.
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
    Multi,
    Exec,
    Discard,
    Watch,
    Unwatch,
}
