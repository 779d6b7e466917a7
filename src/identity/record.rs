//! The figures of one client, written by the worker that owns it and read by anybody.
//!
//! Invariant: each figure has a single writer, the client's worker, so that a plain relaxed load and store is an
//! update: no locked instruction on the path of a command. Readers see figures that are each true but not of one
//! instant.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Identity, PeerAddress};

/// Stands for the last command of a client that has sent none yet; `CLIENT LIST` shows `NULL`.
pub const NO_COMMAND: u32 = u32::MAX;

/// Holds a 64-bit figure that has one writer.
#[derive(Debug, Default)]
pub struct Figure64(AtomicU64);

impl Figure64 {
    /// Returns the figure as last written.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Writes it; only the client's worker may.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Adds to it; only the client's worker may.
    pub fn add(&self, more: u64) {
        self.set(self.get().wrapping_add(more));
    }
}

/// Holds a 32-bit figure that has one writer.
#[derive(Debug, Default)]
pub struct Figure32(AtomicU32);

impl Figure32 {
    /// Returns the figure as last written.
    pub fn get(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// Writes it; only the client's worker may.
    pub fn set(&self, value: u32) {
        self.0.store(value, Ordering::Relaxed);
    }
}

/// Names a condition that a client can be in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum ClientFlag {
    /// It waits in a blocking command.
    Blocked = 1 << 0,
    /// It is between MULTI and EXEC.
    Multi = 1 << 1,
    /// It holds a pinned connection, for whatever reason.
    Pinned = 1 << 2,
    /// It has at least one subscription.
    Pubsub = 1 << 3,
    /// It has sent MONITOR.
    Monitor = 1 << 4,
    /// It has switched CLIENT TRACKING on.
    Tracking = 1 << 5,
    /// It has switched CLIENT NO-EVICT on.
    NoEvict = 1 << 6,
    /// It watches keys; whether one has changed is known to the server alone.
    Watching = 1 << 8,
    /// It was refused by admission and is held to be told so.
    Rejected = 1 << 9,
    /// It is being closed by CLIENT KILL.
    Killed = 1 << 10,
    /// It has requests that are not yet answered.
    InFlight = 1 << 11,
    /// Its CLIENT TRACKING is of prefixes (BCAST).
    Broadcast = 1 << 12,
    /// It has yet to say who it is, and counts in no group.
    Arriving = 1 << 13,
    /// It is served in a place kept for operators, and counts in no group.
    Operator = 1 << 14,
    /// It has sent READONLY to a server that takes it outside of a cluster.
    ReadsReplica = 1 << 15,
    /// It has said by CLIENT CAPA that it would follow a redirection.
    Redirects = 1 << 16,
    /// It redirects what it tracks to a client for which something came when it had left.
    BrokenRedirection = 1 << 17,
}

/// Says what a client calls itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientNames {
    /// Was given by CLIENT SETNAME or HELLO SETNAME; empty: none.
    pub name: Box<[u8]>,
    /// Was given by AUTH or HELLO AUTH; empty: the user `default`.
    pub user: Box<[u8]>,
    /// Was given by CLIENT SETINFO LIB-NAME.
    pub lib_name: Box<[u8]>,
    /// Was given by CLIENT SETINFO LIB-VER.
    pub lib_ver: Box<[u8]>,
}

impl ClientNames {
    /// Counts the memory that they take; the name and the user may also be what their group counts by.
    pub fn held_bytes(&self) -> usize {
        2 * (self.name.len() + self.user.len()) + self.lib_name.len() + self.lib_ver.len()
    }
}

/// Says what is known of a client when it connects.
#[derive(Debug, Clone)]
pub struct ClientArrival {
    /// Says who it is.
    pub identity: Identity,
    /// Is respool's end of the connection.
    pub laddr: PeerAddress,
    /// The number of its socket in the process, or -1.
    pub fd: i32,
    /// The index of the worker that has it.
    pub worker: usize,
    /// Holds the index of its group.
    pub group: u32,
    /// The present, in milliseconds of the caller's clock.
    pub now_ms: u64,
}

/// Shows one client, as the others may see it.
#[derive(Debug)]
pub struct ClientRecord {
    id: u64,
    peer: PeerAddress,
    laddr: PeerAddress,
    listener: Arc<str>,
    certificate: Box<str>,
    fd: i32,
    worker: u32,
    created_ms: u64,
    /// Tells when its last request arrived, in milliseconds of the caller's clock.
    pub last_active_ms: Figure64,
    /// Counts the commands received.
    pub commands: Figure64,
    /// Counts the bytes received from it.
    pub bytes_in: Figure64,
    /// Counts the bytes sent to it.
    pub bytes_out: Figure64,
    /// Counts the bytes received and not yet forwarded.
    pub query_bytes: Figure64,
    /// Counts the bytes of replies it has not yet taken.
    pub output_bytes: Figure64,
    /// Holds the number of the selected database.
    pub db: Figure32,
    /// Holds the protocol version: 2 or 3.
    pub resp: Figure32,
    /// Holds the index of its group.
    pub group: Figure32,
    /// Holds the index of its last command in the command table, or [`NO_COMMAND`].
    pub last_command: Figure32,
    /// Counts the commands queued since MULTI; it means something only with [`ClientFlag::Multi`].
    pub multi: Figure32,
    /// Counts the channels subscribed to.
    pub channels: Figure32,
    /// Counts the patterns subscribed to.
    pub patterns: Figure32,
    /// Counts the shard channels subscribed to.
    pub shard_channels: Figure32,
    /// The client to which its invalidations are redirected, 0: none; it means something only with [`ClientFlag::Tracking`].
    pub redirect: Figure64,
    flags: Figure32,
    names: Mutex<ClientNames>,
}

impl ClientRecord {
    pub(super) fn new(id: u64, arrival: super::ClientArrival) -> Self {
        let record = Self {
            id,
            peer: arrival.identity.peer,
            laddr: arrival.laddr,
            listener: arrival.identity.listener,
            certificate: arrival.identity.certificate,
            fd: arrival.fd,
            worker: arrival.worker as u32,
            created_ms: arrival.now_ms,
            last_active_ms: Figure64::default(),
            commands: Figure64::default(),
            bytes_in: Figure64::default(),
            bytes_out: Figure64::default(),
            query_bytes: Figure64::default(),
            output_bytes: Figure64::default(),
            db: Figure32::default(),
            resp: Figure32::default(),
            group: Figure32::default(),
            last_command: Figure32::default(),
            multi: Figure32::default(),
            channels: Figure32::default(),
            patterns: Figure32::default(),
            shard_channels: Figure32::default(),
            redirect: Figure64::default(),
            flags: Figure32::default(),
            names: Mutex::new(ClientNames {
                name: arrival.identity.name,
                user: arrival.identity.user,
                ..ClientNames::default()
            }),
        };
        record.last_active_ms.set(arrival.now_ms);
        record.resp.set(2);
        record.group.set(arrival.group);
        record.last_command.set(NO_COMMAND);
        record
    }

    /// Returns the number of the client, unique in the process.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Returns the client's end of the connection.
    pub fn peer(&self) -> &PeerAddress {
        &self.peer
    }

    /// Returns respool's end of the connection.
    pub fn laddr(&self) -> &PeerAddress {
        &self.laddr
    }

    /// Returns the number of its socket in the process, -1 when there is none.
    pub fn fd(&self) -> i32 {
        self.fd
    }

    /// Returns the index of the worker that has it: what is for the client goes to that thread alone.
    pub fn worker(&self) -> usize {
        self.worker as usize
    }

    /// Tells when it connected, in milliseconds of the caller's clock.
    pub fn created_ms(&self) -> u64 {
        self.created_ms
    }

    /// Tells how long it has sent nothing, in milliseconds.
    pub fn idle_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.last_active_ms.get())
    }

    /// Tells whether closing it costs it more than its connection: a transaction, a subscription, what is under way.
    pub fn is_busy(&self) -> bool {
        let busy = [
            ClientFlag::Blocked,
            ClientFlag::Multi,
            ClientFlag::Pinned,
            ClientFlag::Pubsub,
            ClientFlag::Monitor,
            ClientFlag::Tracking,
            ClientFlag::InFlight,
        ];
        busy.into_iter().any(|flag| self.has(flag))
    }

    /// Tells whether it holds a place in its group: who was refused, who is arriving and who is an operator holds none.
    pub fn counts_in_group(&self) -> bool {
        let elsewhere = [
            ClientFlag::Rejected,
            ClientFlag::Arriving,
            ClientFlag::Operator,
        ];
        !elsewhere.into_iter().any(|flag| self.has(flag))
    }

    /// Tells whether it is in the condition `flag`.
    pub fn has(&self, flag: ClientFlag) -> bool {
        self.flags.get() & flag as u32 != 0
    }

    /// Puts it into the condition `flag`; only the client's worker may.
    pub fn raise(&self, flag: ClientFlag) {
        self.flags.set(self.flags.get() | flag as u32);
    }

    /// Takes it out of the condition `flag`; only the client's worker may.
    pub fn lower(&self, flag: ClientFlag) {
        self.flags.set(self.flags.get() & !(flag as u32));
    }

    /// Returns what it calls itself. It is held for a moment only: the client's worker waits meanwhile.
    pub fn names(&self) -> MutexGuard<'_, ClientNames> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns who it is, for a new decision of admission.
    pub fn identity(&self) -> Identity {
        let names = self.names();
        Identity {
            peer: self.peer.clone(),
            listener: Arc::clone(&self.listener),
            name: names.name.clone(),
            user: names.user.clone(),
            certificate: self.certificate.clone(),
        }
    }
}
