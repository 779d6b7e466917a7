//! Idle connections that go from one worker to another, as they are: no connect, nothing for the server to notice.
//!
//! A connection is a worker's own, so what travels is its socket, its permit and what is known of it, put together again on the
//! other thread.
//!
//! Invariant: only a connection that owes nothing, is owed nothing and lies between two frames is passed on.

use std::rc::Rc;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::closing::ServerEnd;
use super::link::{Link, Origin};
use super::pool::Upstream;
use super::renewal::Renewal;
use super::socket::ServerSocket;
use super::thread::Thread;
use super::unseen_ends::ServerId;
use crate::budget::{SocketPermit, Wanted};
use crate::session::{Credentials, Protocol, State};
use crate::transport::Stream;

/// A connection between two workers.
pub(super) struct Parcel {
    stream: Stream,
    permit: SocketPermit,
    origin: Origin,
    name: String,
    server_id: i64,
    /// Its state, of which a thread shares the credentials.
    user: Option<Credentials>,
    protocol: Protocol,
    database: u32,
    /// When respool's login on it has to be renewed; see [`Renewal::times`].
    renewal: (u64, u64),
}

/// One for each worker.
#[derive(Default)]
struct Inbox {
    /// `None`: the worker takes no more.
    parcels: Mutex<Option<Vec<Parcel>>>,
    arrived: Notify,
}

impl Inbox {
    fn parcels(&self) -> MutexGuard<'_, Option<Vec<Parcel>>> {
        self.parcels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The ways between the workers of the process.
pub struct Passing {
    inboxes: Vec<Inbox>,
}

impl Passing {
    /// The ways between so many workers.
    pub fn new(workers: usize) -> Self {
        Self {
            inboxes: (0..workers).map(|_| Inbox::default()).collect(),
        }
    }

    /// How many are on their way to worker `worker`. `None`: it takes none any more.
    fn under_way(&self, worker: usize) -> Option<usize> {
        let inbox = self.inboxes.get(worker)?;
        inbox.parcels().as_ref().map(Vec::len)
    }

    /// Gives it back when the worker takes none any more.
    fn send(&self, worker: usize, parcel: Parcel) -> Option<Parcel> {
        let inbox = &self.inboxes[worker];
        match &mut *inbox.parcels() {
            None => return Some(parcel),
            Some(parcels) => parcels.push(parcel),
        }
        inbox.arrived.notify_one();
        None
    }
}

impl Parcel {
    fn of(socket: ServerSocket, link: &Link) -> Option<Self> {
        let worn = link.worn();
        let user = worn.user.as_ref().map(|user| Credentials {
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
            protocol: worn.protocol,
            database: worn.database,
            renewal: link.renewal.times(),
        })
    }

    /// A connection of this thread. `None`: the thread cannot wait for its socket.
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

impl Renewal {
    /// For [`Renewal::set_times`] on another thread, whose clock started at the same time.
    fn times(&self) -> (u64, u64) {
        (self.after_micros.get(), self.due_micros.get())
    }

    fn set_times(&self, (after, due): (u64, u64)) {
        self.after_micros.set(after);
        self.due_micros.set(due);
    }
}

impl Upstream {
    /// Whether what is wanted is on its way already.
    pub(super) fn is_on_its_way(&self, wanted: Wanted) -> bool {
        let Wanted::Connection { worker, waiters } = wanted else {
            return false;
        };
        let under_way = self.thread.process.passing.under_way(worker);
        under_way.is_some_and(|under_way| under_way >= waiters)
    }

    /// Gives an idle connection to the worker where it is wanted; false: it is not, or cannot go.
    pub(super) fn pass_on(&self, link: &Rc<Link>, wanted: Wanted) -> bool {
        let Wanted::Connection { worker, .. } = wanted else {
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
        let process = &self.thread.process;
        let Some(inbox) = process.passing.inboxes.get(self.thread.index) else {
            return;
        };
        inbox.parcels().get_or_insert_default();
        loop {
            inbox.arrived.notified().await;
            let arrived = inbox.parcels().as_mut().map(std::mem::take);
            let Some(arrived) = arrived else { return };
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
        let inbox = self.thread.process.passing.inboxes.get(self.thread.index);
        let left = inbox.and_then(|inbox| inbox.parcels().take());
        let links = left
            .into_iter()
            .flatten()
            .filter_map(|parcel| parcel.unpack(&self.thread));
        links.for_each(drop);
    }
}

impl Link {
    /// Sends the socket of a connection that has ended for that to another worker, or closes it when that one has ended.
    pub(super) fn hand_over(&self, socket: Rc<ServerSocket>, worker: usize) {
        // Nobody else holds it once it has left the connection; if somebody did, it would just be closed.
        let Some(parcel) = Rc::into_inner(socket).and_then(|socket| Parcel::of(socket, self))
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
