//! An idle connection is handed over to another worker as a parcel, and unpacked there.
//!
//! Invariant: only a connection that owes nothing, is owed nothing and lies between two frames is passed on.

use std::rc::Rc;

use super::Upstream;
use crate::budget::IdleDemand;
use crate::server::ServerId;
use crate::session::{Credentials, State};
use crate::upstream::closing::ServerEnd;
use crate::upstream::link::Link;
use crate::upstream::passing::LinkParcel;
use crate::upstream::socket::ServerSocket;
use crate::upstream::thread::Thread;

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
            name: link.name.clone(),
            server_id: link.server_id,
            user,
            protocol: state.protocol,
            database: state.database,
            renewal: link.renewal.times(),
        })
    }

    /// Makes it a connection of this thread. `None`: the thread cannot wait for its socket.
    fn unpack(self, thread: &Rc<Thread>) -> Option<Rc<Link>> {
        let stream = self.stream.rehome().ok()?;
        let (node, begun) = (self.origin.node.clone(), self.origin.begun_micros);
        let mut socket = ServerSocket::new(thread, stream, self.permit, node, begun);
        socket.set_server_id(self.server_id, self.origin.run);
        let state = State {
            user: self.user.map(Rc::new),
            protocol: self.protocol,
            database: self.database,
        };
        let name = (self.name, self.server_id);
        let link = Link::new(Rc::clone(thread), socket, state, name, self.origin);
        link.renewal.set_times(self.renewal);
        Some(link)
    }
}

impl Upstream {
    /// Tells whether what is wanted is on its way already.
    pub(super) fn is_on_its_way(&self, wanted: IdleDemand) -> bool {
        let IdleDemand::Connection { worker, waiters } = wanted else {
            return false;
        };
        let under_way = self.thread.process.passing.under_way(worker);
        under_way.is_some_and(|under_way| under_way >= waiters)
    }

    /// Gives an idle connection to the worker where it is wanted. Returns false where it is not, or cannot go.
    pub(super) fn pass_on(&self, link: &Rc<Link>, wanted: IdleDemand) -> bool {
        let IdleDemand::Connection { worker, .. } = wanted else {
            return false;
        };
        let is_taken = self.thread.process.passing.under_way(worker).is_some();
        let goes = is_taken && link.is_between_frames();
        if goes {
            link.pass_to(worker);
        }
        goes
    }

    /// Takes what other workers send until this one ends.
    pub(super) async fn keep_receiving(self: Rc<Self>) {
        let passing = &self.thread.process.passing;
        if !passing.open(self.thread.index) {
            return;
        }
        while let Some(arrived) = passing.arrived(self.thread.index).await {
            for parcel in arrived {
                if let Some(link) = parcel.unpack(&self.thread) {
                    self.keep_driving(&link);
                    self.keep_idle(link);
                }
            }
        }
    }

    /// Takes no more of other workers; what is there is closed.
    pub(super) fn stop_receiving(&self) {
        let left = self.thread.process.passing.close(self.thread.index);
        let links = left
            .into_iter()
            .filter_map(|parcel| parcel.unpack(&self.thread));
        links.for_each(drop);
    }
}

impl Link {
    /// Sends the socket of a connection that has ended for that to another worker, or closes it when that one has ended.
    pub(in crate::upstream) fn hand_over(&self, socket: Rc<ServerSocket>, worker: usize) {
        // Nobody else holds it once it has left the connection; if somebody did, it would just be closed.
        let Some(parcel) = Rc::into_inner(socket).and_then(|socket| LinkParcel::of(socket, self))
        else {
            return;
        };
        if let Some(parcel) = self.thread.process.passing.send(worker, parcel) {
            let end = ServerEnd {
                node: parcel.origin.node,
                begun_micros: parcel.origin.begun_micros,
                id: ServerId::of(parcel.server_id, parcel.origin.run),
            };
            let now = self.thread.clock.now_micros();
            let closings = &self.thread.closings;
            closings.add(parcel.stream, parcel.permit, end, now);
        }
    }
}
