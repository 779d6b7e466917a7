//! What a client holds beside its replies, and what it is in the middle of: shown on its record, put on the account.

use std::borrow::Cow;
use std::io;
use std::task::{Context, Poll};

use super::story::Awaited;
use super::{Client, Wait};
use crate::config::{CLIENT_BYTES, TLS_CLIENT_BYTES};
use crate::telemetry::Disconnect;
use crate::transport::{READ_SIZE, Stream, let_others_go_first};

/// Counts what a client on `stream` takes whatever it does.
pub(super) fn standing_bytes(stream: &Stream) -> usize {
    match stream.tls() {
        Some(_) => TLS_CLIENT_BYTES,
        None => CLIENT_BYTES,
    }
}

impl Client {
    /// Shows on the client's record what it is doing, now that `used` more bytes of its requests are done with.
    pub(super) fn note_state(&self, used: usize) {
        self.hold_requests();
        let slow = self.slow.as_ref().map_or(0, |slow| slow.length());
        let here = self.input.len() + self.ahead_bytes() + slow;
        self.record.query_bytes.set(here as u64);
        let unread = self.outlet.held_replies_bytes() as u64;
        self.record.output_bytes.set(unread);
        let is_inside = !self.has_used_all();
        if is_inside || self.entry.begun_micros.get() != 0 {
            self.note_begun(is_inside, used);
        }
    }

    /// Puts on the account what is here of its requests. One whose story is told counts with what that takes.
    pub(super) fn hold_requests(&self) {
        let slow = self.slow.as_ref().map_or(0, |slow| slow.held_bytes());
        self.outlet
            .hold_input(self.input.capacity() + self.ahead_held_bytes() + slow);
    }

    /// Notes what TLS holds of a record that has not ended: it is the start of a request, and may stall no longer than one.
    #[inline]
    pub(super) fn note_record(&self) {
        if self.stream.tls().is_some() {
            self.note_unfinished();
        }
    }

    fn note_unfinished(&self) {
        self.outlet.hold_stream(&self.stream);
        let unfinished = self.stream.tls().map_or(0, |tls| tls.unfinished_bytes());
        let here = (self.input.len() + self.ahead_bytes() + unfinished) as u64;
        if self.record.query_bytes.get() == here {
            return;
        }
        self.record.query_bytes.set(here);
        let between = self.has_used_all();
        if unfinished > 0 && between {
            self.note_begun(true, 0);
            // The first of all has the time of a handshake.
            let is_first = self.record.commands.get() == 0;
            self.entry.is_upload.set(!is_first);
        } else if between && self.entry.begun_micros.get() != 0 {
            self.note_begun(false, 0);
        }
    }

    /// Puts on the account what is kept for the client elsewhere: what it calls itself, who it has shown to be, the names of
    /// what it is subscribed to, its blocked call, what it has shown and nobody has looked at yet, the channels that its transaction
    /// publishes to, and `asked` bytes of a request that a task holds.
    pub(super) fn note_kept(&self, asked: usize) {
        let topics = self.subscriptions().held_bytes(self.record.id());
        let names = self.record.names().held_bytes() + topics;
        let user = self.session.state.user.as_ref();
        let user = user.map_or(0, |user| user.held_bytes());
        let awaited = match &self.wait {
            Wait::Story(Awaited::Line(blocked)) => blocked.held_bytes(),
            _ => 0,
        };
        let messages = self.pin.as_ref().and_then(|pin| pin.messages.as_ref());
        let messages = messages.map_or(0, |messages| messages.held_bytes());
        let own = self
            .outlet
            .transaction()
            .own()
            .map_or(0, |own| own.held_bytes());
        self.outlet
            .hold_kept(names + user + awaited + messages + own + asked);
    }

    /// Tells whether it is not read in this turn: those who were told to go let go of their memory first.
    #[inline]
    pub(super) fn makes_way(&self, cx: &Context<'_>) -> bool {
        let makes_way = self.clients.thread.account.awaits_room();
        if makes_way {
            let mut cx = Context::from_waker(cx.waker());
            let _: Poll<()> = let_others_go_first(&mut cx);
        }
        makes_way
    }

    /// Tells whether more is read of a client that leaves too much unread: as much again as it may leave, and no byte more, for which all
    /// of it would have to be moved.
    pub(super) fn may_send_ahead(&self) -> bool {
        self.input.is_empty() || self.input.len() + READ_SIZE <= self.outlet.limit_bytes()
    }

    /// Waits until a client that is about to be closed has sent something more; no longer than there is room for it.
    pub(super) fn poll_last_words(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.outlet.register(cx);
        match self.outlet.end() {
            Some(Disconnect::Memory) => Poll::Ready(Err(io::ErrorKind::OutOfMemory.into())),
            _ => self.stream.poll_read_ready(cx),
        }
    }

    /// Goes on with what was read. Returns how much of it is done with; `None`: nothing is looked at now.
    #[inline]
    pub(super) fn use_read(&mut self, read: &[u8]) -> Option<usize> {
        if matches!(self.wait, Wait::Nothing) && self.input.is_empty() {
            // Nearly always: requests are used where they were read, and nothing is kept.
            let used = self.requests(&mut Cow::Borrowed(read));
            self.keep_rest(&read[used..]);
            return Some(used);
        }
        self.input.extend_from_slice(read);
        None
    }

    /// Writes what came of that, and shows what is left.
    #[inline]
    pub(super) fn settle_read(&mut self, used: Option<usize>) {
        if used.is_some() {
            self.outlet.flush();
        }
        self.note_state(used.unwrap_or(0));
    }

    /// Keeps the start of a request: most likely a large one, if much of it is here, which is gathered in a spare buffer.
    #[inline]
    pub(super) fn keep_rest(&mut self, rest: &[u8]) {
        if rest.len() >= READ_SIZE / 2
            && self.input.capacity() == 0
            && let Some(spare) = self.clients.spares.take(rest.len())
        {
            self.input = spare;
        }
        self.input.extend_from_slice(rest);
    }

    /// Lets go of requests that nobody will look at any more.
    pub(super) fn drop_input(&mut self) {
        self.slow = None;
        self.input = Vec::new();
        self.sent_ahead = None;
        self.outlet.hold_input(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn future_bytes<F>(_: impl FnOnce(Box<Client>) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn an_idle_client_is_small() {
        // One more byte, and the allocator gives each 768.
        assert!(size_of::<Client>() <= 640, "{}", size_of::<Client>());
        let task = future_bytes(Client::run);
        assert!(task <= 64, "{task}");
    }
}
