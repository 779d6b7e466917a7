//! Sockets and the clock: streams to clients and to the server, with TLS or without, listening, dialling.

mod access_steps;
mod clock;
mod dial;
mod endpoint_file;
mod foreseen;
mod listen;
mod named;
mod occupant;
mod open;
mod peer;
mod queued;
mod reserve;
mod resolve;
mod rights;
mod socket_access;
mod socket_file;
mod stream;
mod turn;

pub use clock::Clock;
pub use dial::{DialError, dial};
pub use endpoint_file::EndpointFile;
pub use foreseen::{AccessHindrance, is_full, is_to_be_cleared, is_to_stay, ungiven};
pub use listen::{
    AcceptedClient, AcceptedSocket, BoundSocket, ClientAcceptor, NextAccepted, bind, bind_admin,
    raise_descriptor_limit, try_bind,
};
pub use occupant::remedy;
pub use open::{AcceptingEnd, ChangedAccess, ListenerOrder, OpenListener, OpenListeners};
pub use peer::PeerEnd;
pub use queued::queued_bytes;
pub use reserve::{keep_descriptors, refill_descriptors};
pub use resolve::{literal, look_up};
pub use socket_access::{folder_of, mode_trouble};
pub use stream::tls::{AcceptError, ClientTls, HandshakeFailed, TlsConnector, TlsStream};
pub use stream::{DEAD_AFTER, Stream};
pub use turn::let_others_go_first;

/// Says how many bytes are read from a socket at once. 64 KiB holds the replies of a whole turn at 2,000 clients, and a
/// larger value travels in pieces of this size that stay in the processor's cache.
pub const READ_SIZE: usize = 64 * 1024;
