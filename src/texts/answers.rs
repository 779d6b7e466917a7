//! What a server answers to commands of its connection alone.

use super::ServerVersion;
use crate::resp::speak::OK;

/// A command of clusters, on a server that is none.
const NO_CLUSTER: &[u8] = b"-ERR This instance has cluster support disabled\r\n";

/// A number that is none.
pub const NOT_AN_INTEGER: &[u8] = b"-ERR value is not an integer or out of range\r\n";

/// A number that does not fit into 32 bits.
pub const NOT_AN_INT: &[u8] =
    b"-ERR value is out of range, value must between -2147483648 and 2147483647\r\n";

/// What a Redis from 7.0 to 7.1 tells who is blocked in XREADGROUP when the stream is no stream any more.
pub const STREAM_GONE: &[u8] = b"-UNBLOCKED the stream key no longer exists\r\n";

/// What a Redis up to 7.1 tells who is blocked in XREADGROUP when the stream is there and the group is not.
pub const GROUP_GONE: &[u8] =
    b"-NOGROUP the consumer group this client was blocked on no longer exists\r\n";

/// Whether READONLY is taken outside of a cluster: Valkey's replicas go by it where a client follows redirections.
pub fn takes_readonly(server: ServerVersion) -> bool {
    server.is_valkey_from((8, 0))
}

/// READONLY.
pub fn readonly(server: ServerVersion) -> &'static [u8] {
    if takes_readonly(server) {
        OK
    } else {
        NO_CLUSTER
    }
}

/// READWRITE. Redis 6.2 takes it anywhere.
pub fn readwrite(server: ServerVersion) -> &'static [u8] {
    if takes_readonly(server) || !server.is_from((7, 0)) {
        OK
    } else {
        NO_CLUSTER
    }
}

/// ASKING.
pub fn asking() -> &'static [u8] {
    NO_CLUSTER
}

/// CLIENT IMPORT-SOURCE, which means something only to a server that imports data. Respool's connections are not for that.
pub fn import_source(is_off: bool) -> &'static [u8] {
    if is_off {
        OK
    } else {
        b"-ERR Server is not in import mode\r\n"
    }
}
