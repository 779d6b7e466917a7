//! Which server a connection goes to, what that calls it, and since when.

use crate::failover::ServerNode;
use crate::texts::ServerVersion;

/// Tells where a connection goes to, as it was when it was opened.
#[derive(Debug, Clone)]
pub struct LinkOrigin {
    /// The server knows the connection by this name.
    pub name: String,
    /// The server knows it by this id.
    pub server_id: i64,
    /// The server has this address.
    pub node: ServerNode,
    /// This process of a server answers there; `None`: it has not said.
    pub run: Option<u64>,
    /// The server called itself a replica.
    pub is_replica: bool,
    /// The server is this one: by another connection it may be another by now.
    pub version: ServerVersion,
    /// Its connect began then: what it goes by is of that moment.
    pub begun_micros: u64,
    /// It was opened then.
    pub opened_micros: u64,
}
