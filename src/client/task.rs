//! One client's life: a loop that writes what is due, goes on with what was waited for, reads, and hands the requests on.
//!
//! Invariant: a client has its place in its group for exactly as long as its socket is open.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::kept::standing_bytes;
use super::rejected::hold;
use super::rejection::tell_of;
use super::story::Awaited;
use super::{Client, ClientEntry, Clients, Wait};
use crate::admission::ClientPermit;
use crate::identity::{ClientArrival, ClientFlag, Identity, PeerAddress, RegisteredClient};
use crate::resp::RequestScanner;
use crate::session::{ReplyMode, Restrictions, Session};
use crate::telemetry::{Bound, Disconnect};
use crate::transport::Stream;

/// A client that has been admitted and not yet begun.
pub struct Arrived {
    /// Is the client's socket.
    pub stream: Stream,
    /// Is its place in its group.
    pub permit: ClientPermit,
    /// Says who the client is.
    pub identity: Identity,
    /// Names the address to which it connected.
    pub laddr: PeerAddress,
    /// Says when it connected, in the worker's microseconds.
    pub arrived_micros: u64,
}

impl Clients {
    /// Enters a client of the group with this index among this worker's, and makes its way out.
    fn enter(
        &self,
        stream: &Rc<Stream>,
        record: &RegisteredClient,
        group: usize,
        arrived_micros: u64,
    ) -> Rc<ClientEntry> {
        self.thread.account.enter(standing_bytes(stream));
        let entry = Rc::new(ClientEntry::new(
            self.outlet(stream, record.record()),
            Arc::clone(record.record()),
            arrived_micros,
            self.guest(),
            self.idle_timeout(group),
        ));
        let mut entries = self.entries.borrow_mut();
        entries.insert(record.id(), Rc::clone(&entry));
        entry
    }
}

impl Client {
    /// Takes a client in.
    pub fn new(clients: Rc<Clients>, arrived: Arrived) -> Box<Self> {
        let Arrived {
            stream,
            permit,
            identity,
            laddr,
            arrived_micros,
        } = arrived;
        let stream = Rc::new(stream);
        let group = permit.group().index();
        let record = clients.registry.register(ClientArrival {
            identity,
            laddr,
            fd: stream.descriptor(),
            worker: clients.thread.index,
            group: group as u32,
            now_ms: clients.thread.clock.now_ms(),
        });
        let entry = clients.enter(&stream, &record, group, arrived_micros);
        entry.must_reassign.set(permit.is_stale());
        let mut client = Box::new(Self {
            session: Session::new(clients.guest()),
            clients,
            stream,
            outlet: Rc::clone(&entry.outlet),
            entry,
            record,
            permit,
            scanner: RequestScanner::default(),
            slow: None,
            input: Vec::new(),
            sent_ahead: None,
            link: None,
            pin: None,
            wait: Wait::Nothing,
            has_written: false,
            refusing: None,
            unplaced: None,
            is_drained: true,
            ending: None,
            rejected: None,
            restrictions: Restrictions::default(),
            is_at_end: false,
            end_watch: None,
            has_left: false,
            seen_bytes_out: 0,
            gone: None,
        });
        client.log_admission();
        client.note_known();
        client.note_arriving();
        client
    }

    /// Serves the client until it leaves.
    pub async fn run(mut self: Box<Self>) {
        let reason = self.serve().await;
        if reason == Disconnect::ProtocolError || self.rejected.is_some() {
            // Boxed: an idle client does not carry it.
            return Box::pin(self.leave_told(reason)).await;
        }
        self.empty_socket(reason);
        self.leave(reason);
    }

    /// Has the client read why it is closed, or holds its socket where it was rejected.
    async fn leave_told(mut self: Box<Self>, reason: Disconnect) {
        if reason == Disconnect::ProtocolError {
            self.drop_input();
            self.linger().await;
        }
        let Some(refusal) = self.rejected.take() else {
            self.empty_socket(reason);
            return self.leave(reason);
        };
        // Its place is gone; the socket is held and told so.
        let mut sent = (std::mem::take(&mut self.input), self.sent_ahead.take());
        if let Some(slow) = self.slow.take() {
            sent.0.splice(..0, slow.bytes);
        }
        let stream = Rc::clone(&self.stream);
        let explain = self.clients.thread.settings().limits.explain_rejections;
        // Not a word to a client that wants none.
        let text = match self.session.reply {
            ReplyMode::Off => Vec::new(),
            _ => refusal.client_text(explain),
        };
        let clients = Rc::clone(&self.clients);
        self.leave(reason);
        if let Some(permit) = clients.admission.hold(Instant::now()) {
            hold(Rc::clone(&clients.thread), stream, text, sent, permit).await;
        } else {
            clients.thread.counters.bound(Bound::Rejected).add(1);
        }
    }

    pub(super) fn group(&self) -> usize {
        self.permit.group().index()
    }

    /// Logs what its admission crossed: a warning threshold, or a cap that is only observed.
    pub(super) fn log_admission(&mut self) {
        let lines = [self.permit.warning.take(), self.permit.observed.take()];
        for line in lines.into_iter().flatten() {
            tell_of(&self.record.identity(), &line);
        }
    }

    pub(super) fn is_blocked(&self) -> bool {
        matches!(self.wait, Wait::Story(Awaited::Line(_)))
            || self.pin.as_ref().is_some_and(|pin| pin.link().is_blocked())
    }

    pub(super) fn flag(&self, flag: ClientFlag, on: bool) {
        if on {
            self.record.raise(flag);
        } else {
            self.record.lower(flag);
        }
    }

    /// Notes that the client has read more, where it had not read everything.
    #[inline]
    pub(super) fn look_at_bytes_out(&mut self) {
        let written = self.outlet.bytes_out();
        if written != std::mem::replace(&mut self.seen_bytes_out, written)
            && self.outlet.has_unwritten()
        {
            self.note_reading();
        }
    }

    fn leave(mut self: Box<Self>, reason: Disconnect) {
        self.has_left = true;
        self.clients
            .thread
            .counters
            .group(self.group())
            .disconnect(reason)
            .add(1);
        self.clients.closed(&self.record, reason);
    }

    pub(super) fn now(&self) -> Instant {
        Instant::now()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if !self.has_left && !self.clients.upstream.is_stopping() {
            // Only a panic, or the end of the worker itself, drops a client that has not left.
            self.clients
                .thread
                .counters
                .group(self.group())
                .disconnect(Disconnect::Panic)
                .add(1);
        }
        self.subscriptions().leave(self.record.id());
        // In this order: its turn in line, the connections lent to it, its socket, its place.
        self.wait = Wait::Nothing;
        self.clients
            .thread
            .account
            .leave(standing_bytes(&self.stream));
        self.entry.leave_redirections();
        self.pin.take();
        self.outlet.leave(Disconnect::Closed);
        self.clients.entries.borrow_mut().remove(&self.record.id());
        self.entry.pinned.borrow_mut().take();
        self.entry.blocked.borrow_mut().take();
        self.gone = self.entry.evicting.borrow_mut().take();
    }
}
