//! What time makes due for the clients of a worker: who is silent too long, does not authenticate, or does not end what it
//! has begun.

use std::rc::Rc;

use super::redirection::RedirectionLook;
use super::{Client, ClientEntry, Clients};
use crate::config::{AuthMode, Settings};
use crate::identity::ClientFlag;
use crate::telemetry::Disconnect;

/// Holds what one look at all clients goes by.
struct Inspection<'a> {
    clients: &'a Clients,
    settings: &'a Settings,
    demands_authentication: bool,
}

impl Clients {
    /// Tells whether the server, or the configuration, serves nobody who has not authenticated.
    pub(super) fn demands_authentication(&self) -> bool {
        match self.thread.settings().auth.mode {
            AuthMode::None => false,
            AuthMode::Optional => self.thread.was_nobody(),
            AuthMode::Proxy => true,
            // Until the server was reached for the first time it is asked with each command.
            AuthMode::Passthrough => {
                let server = self.thread.process.server.load();
                server
                    .as_ref()
                    .is_some_and(|server| server.refuses_unauthenticated)
            }
        }
    }

    /// Does what time has made due.
    pub fn tick(self: &Rc<Self>) {
        self.release_attempts();
        self.watch_users();
        self.thread.is_nobody();
        let settings = self.thread.settings();
        let look = Inspection {
            clients: self,
            settings: &settings,
            demands_authentication: self.demands_authentication(),
        };
        let mut redirections = RedirectionLook::default();
        for entry in self.entries.borrow().values() {
            if entry.outlet.is_closed() {
                continue;
            }
            redirections.check(entry, self);
            if look.arrives_for_long(entry) {
                entry.must_reassign.set(true);
                entry.outlet.wake();
            }
            if let Some(reason) = look.overdue(entry) {
                entry.outlet.close(reason);
            }
        }
        redirections.end(self);
        self.end_stalled_uploads();
        self.spares.shrink();
        self.check_unread();
    }

    /// While somebody waits for a lease, or for the place of an upload, ends uploads on lent connections that do not go on: no
    /// more than there are waiting, those that are furthest behind.
    fn end_stalled_uploads(&self) {
        let mut uploads = self.uploads.borrow_mut();
        if uploads.is_empty() {
            return;
        }
        let now = self.thread.clock.now_micros();
        let entries = self.entries.borrow();
        let patience = self.thread.settings().limits.upload_patience.as_micros() as u64;
        let mut stalled = Vec::new();
        for (id, pace) in uploads.iter_mut() {
            let Some(entry) = entries.get(id) else {
                continue;
            };
            // One that is not read waits for the server.
            let behind = pace.look(now, entry.is_waiting.get());
            if behind >= patience {
                stalled.push((behind, entry));
            }
        }
        let wanted = self.thread.process.budget.uploads_in_the_way();
        stalled.sort_by_key(|(behind, _)| std::cmp::Reverse(*behind));
        for (_, entry) in stalled.into_iter().take(wanted) {
            entry.outlet.close(Disconnect::UploadStalled);
        }
    }
}

impl Client {
    /// More of a request has come that has begun and not ended, or it is done with: `used` bytes are.
    #[cold]
    pub(super) fn note_begun(&self, is_inside: bool, used: usize) {
        let (entry, clock) = (&self.entry, &self.clients.thread.clock);
        if !is_inside {
            entry.begun_micros.set(0);
            entry.is_upload.set(false);
            return;
        }
        // Whoever sends, or is read, is not silent.
        self.record.last_active_ms.set(clock.now_ms());
        let is_another = used > 0 && !self.is_amid_request();
        if is_another || entry.begun_micros.get() == 0 {
            entry.begun_micros.set(clock.now_micros().max(1));
            entry.is_upload.set(self.is_large(self.input.len()));
        }
    }

    /// The client has read more of what is held for it.
    #[cold]
    pub(super) fn note_reading(&self) {
        self.record
            .last_active_ms
            .set(self.clients.thread.clock.now_ms());
        if self.has_finished() {
            self.note_progress_of_finished();
        }
    }
}

impl Inspection<'_> {
    /// Tells whether the client has taken as long as it may to say who it is.
    fn arrives_for_long(&self, entry: &ClientEntry) -> bool {
        let since = entry.record.created_ms() * 1000;
        let limit = self.settings.limits.arriving_timeout;
        let is_past = || limit.is_zero() || self.clients.thread.has_run_for(since, limit);
        entry.record.has(ClientFlag::Arriving) && is_past()
    }

    /// Returns why the client is to be closed, if it is.
    fn overdue(&self, entry: &ClientEntry) -> Option<Disconnect> {
        let (clock, limits) = (&self.clients.thread.clock, &self.settings.limits);
        let finished = entry.finished_micros.get();
        if finished != 0 {
            if entry.is_waiting.get() {
                // Its task decides whether what it waits for is worth waiting for.
                entry.outlet.wake();
            }
            if clock.is_past(finished, limits.half_closed_grace) && self.is_full(entry) {
                return Some(Disconnect::HalfClosed);
            }
        }
        let begun = entry.begun_micros.get();
        let active = entry.record.last_active_ms.get() * 1000;
        if !entry.is_waiting.get() {
            if let Some(since) = self.handshake_since(entry, begun)
                && clock.is_past(since, limits.handshake_timeout)
            {
                return Some(Disconnect::HandshakeTimeout);
            }
            let is_upload = begun != 0 && entry.is_upload.get();
            if is_upload && clock.is_past(active, limits.request_stall_timeout) {
                return Some(Disconnect::RequestStalled);
            }
        }
        let may_be_silent = entry.may_be_silent.get() || !entry.is_idle();
        let is_silent = !may_be_silent && clock.is_past(active, entry.idle_timeout.get());
        is_silent.then_some(Disconnect::IdleTimeout)
    }

    /// Returns since when the client has been in its handshake: it must authenticate and has not, or its first request has begun and not
    /// ended. An upload has a bound of its own, for it may take its time as long as it goes on.
    fn handshake_since(&self, entry: &ClientEntry, begun: u64) -> Option<u64> {
        let unknown = entry.unknown_micros.get();
        if self.demands_authentication && unknown != 0 {
            return Some(unknown);
        }
        let is_first = begun != 0 && entry.record.commands.get() == 0;
        (is_first && !entry.is_upload.get()).then_some(begun)
    }

    /// Asked of those only that have sent their last byte and wait.
    fn is_full(&self, entry: &ClientEntry) -> bool {
        self.clients.admission.is_full(&entry.record.identity())
    }
}
