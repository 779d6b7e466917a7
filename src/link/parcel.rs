//! A connection as a parcel on its way to another worker: packed here, and unpacked on that worker's thread.

use std::rc::Rc;

use super::Link;
use super::socket::ServerSocket;
use crate::server::ServerId;
use crate::session::{Credentials, State};
use crate::thread::{LinkParcel, ServerEnd, Thread};

impl LinkParcel {
    /// Packs a connection. `None`: its socket has been taken apart.
    fn of(socket: ServerSocket, link: &Link) -> Option<Self> {
        let state = link.state();
        let user = state.user.as_ref().map(|user| Credentials {
            username: user.username.clone(),
            password: user.password.clone(),
        });
        let (stream, permit) = socket.into_parts()?;
        Some(Self {
            stream,
            permit,
            origin: link.origin().clone(),
            user,
            protocol: state.protocol,
            database: state.database,
            renewal: link.renewal.times(),
        })
    }

    /// Makes it a connection of this thread. `None`: the thread cannot wait for its socket.
    pub fn unpack(self, thread: &Rc<Thread>) -> Option<Rc<Link>> {
        let stream = self.stream.rehome().ok()?;
        let (node, begun) = (self.origin.node.clone(), self.origin.begun_micros);
        let mut socket = ServerSocket::new(thread, stream, self.permit, node, begun);
        socket.set_server_id(self.origin.server_id, self.origin.run);
        let state = State {
            user: self.user.map(Rc::new),
            protocol: self.protocol,
            database: self.database,
        };
        let link = Link::new(Rc::clone(thread), socket, state, self.origin);
        link.renewal.set_times(self.renewal);
        Some(link)
    }
}

impl Link {
    /// Sends the socket of a connection that has ended for that to another worker, or closes it when that one has ended.
    pub(super) fn hand_over(&self, socket: Rc<ServerSocket>, worker: usize) {
        // Nobody else holds it once it has left the connection; if somebody did, it would just be closed.
        let Some(parcel) = Rc::into_inner(socket).and_then(|socket| LinkParcel::of(socket, self))
        else {
            return;
        };
        if let Some(parcel) = self.thread.process.passing.send(worker, parcel) {
            let end = ServerEnd {
                node: parcel.origin.node,
                begun_micros: parcel.origin.begun_micros,
                id: ServerId::of(parcel.origin.server_id, parcel.origin.run),
            };
            let now = self.thread.clock.now_micros();
            let closings = &self.thread.closings;
            closings.add(parcel.stream, parcel.permit, end, now);
        }
    }
}
