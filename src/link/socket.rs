//! A socket to the server and its permit, which live and end together.
//!
//! Invariant: a permit is given back only when the server has closed its side of the socket or says that it has, or the kernel
//! knows that the connection is gone, whatever becomes of whoever wanted the socket.

use std::ops::Deref;
use std::rc::Rc;

use crate::budget::{SocketKind, SocketPermit};
use crate::failover::ServerNode;
use crate::server::ServerId;
use crate::thread::{ServerEnd, Thread};
use crate::transport::{HandshakeFailed, Stream, TlsConnector};

/// Is a socket to the server, from the moment it is connected. Its drop closes it, and [`ClosingSockets`](crate::thread::ClosingSockets) waits for the server to
/// close it too.
pub struct ServerSocket {
    /// `None` only while it is taken apart.
    parts: Option<(Stream, SocketPermit)>,
    end: ServerEnd,
    thread: Rc<Thread>,
}

impl ServerSocket {
    /// Takes over a socket that has been connected to `node` by this permit; its connect began at `begun_micros`.
    pub fn new(
        thread: &Rc<Thread>,
        stream: Stream,
        permit: SocketPermit,
        node: ServerNode,
        begun_micros: u64,
    ) -> Self {
        Self {
            parts: Some((stream, permit)),
            end: ServerEnd {
                node,
                begun_micros,
                id: None,
            },
            thread: Rc::clone(thread),
        }
    }

    /// Returns the address it goes to.
    pub fn node(&self) -> &ServerNode {
        &self.end.node
    }

    /// Notes that the server has this number for it, in this run.
    pub fn set_server_id(&mut self, number: i64, run: Option<u64>) {
        self.end.id = ServerId::of(number, run);
    }

    /// Returns what it is for.
    pub fn kind(&self) -> SocketKind {
        self.parts().1.kind()
    }

    /// Makes TLS of the connection.
    ///
    /// # Errors
    /// [`HandshakeFailed`] says why not.
    pub async fn secure(&mut self, connector: &TlsConnector) -> Result<(), HandshakeFailed> {
        if let Some((stream, permit)) = self.parts.take() {
            match connector.begin(stream) {
                Ok(stream) => self.parts = Some((stream, permit)),
                Err((failed, stream)) => {
                    self.parts = Some((stream, permit));
                    return Err(failed);
                }
            }
        }
        connector.shake_hands(self).await
    }

    /// Takes it apart into the socket and its permit, for whoever keeps them together from here on.
    pub fn into_parts(mut self) -> Option<(Stream, SocketPermit)> {
        self.parts.take()
    }

    fn parts(&self) -> &(Stream, SocketPermit) {
        self.parts
            .as_ref()
            .expect("a socket has its parts until it is dropped")
    }
}

impl Deref for ServerSocket {
    type Target = Stream;

    fn deref(&self) -> &Stream {
        &self.parts().0
    }
}

impl Drop for ServerSocket {
    fn drop(&mut self) {
        if let Some((stream, permit)) = self.parts.take() {
            let now = self.thread.clock.refresh();
            let closings = &self.thread.closings;
            closings.add(stream, permit, self.end.clone(), now);
        }
    }
}
