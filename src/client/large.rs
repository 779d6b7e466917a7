//! A request too large to share: gathered where it arrives, so that no connection waits for its client, and sent on a
//! connection of its own once it is whole. A very large one is passed on as it arrives, as long as it keeps coming.
//!
//! Invariant: a connection is borrowed for bytes that are here or keep coming, and for no others.

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use super::publish::Message;
use super::raw::leaves_no_trace;
use super::refusals::refusal;
use super::story::Awaited;
use super::{Client, Next, Wait};
use crate::budget::{UploadPace, UploadPlace};
use crate::command::{Delays, Learned, PinReason, is_container, lookup, spec};
use crate::link::{Link, RoomWait};
use crate::resp::speak::error;
use crate::resp::{Bounds, Request, Scan};
use crate::session::{Route, malformed, subscriber_refusal};
use crate::telemetry::{Bound, Disconnect};
use crate::transport::READ_SIZE;
use crate::upstream::PinError;

/// How often `max_shared_request` is gathered of a request before it may be passed on as it arrives: a megabyte. One that
/// respool must see whole to answer or to route may measure as much.
const GATHERED: usize = 16;

/// How often that is gathered of one that comes slowly, as Redis gathers all of it.
const GATHERED_SLOWLY: usize = 16;

/// What comes less fast than a byte in a microsecond, a megabyte in a second, comes slowly.
const BYTES_A_MICROSECOND: u64 = 1;

/// Fewer missing bytes than this are read with what comes behind them.
const SMALLEST_READ: usize = READ_SIZE / 4;

/// A request that is passed on as it arrives, or is about to be.
#[derive(Debug)]
pub(super) struct Upload {
    /// How it keeps up.
    pub(super) pace: UploadPace,
    /// The message that it publishes, where that may be too much for somebody.
    message: Option<Message>,
    /// The right to a connection for it; `None` on one that its client holds anyway.
    _place: Option<UploadPlace>,
}

impl Client {
    /// Bytes that are gathered of any large request.
    fn gathered_bytes(&self) -> usize {
        GATHERED * self.clients.thread.settings().upstream.max_shared_request
    }

    /// Whether a request of which `here` bytes are here may be passed on before it is whole: its rest is likely to come as
    /// fast as a connection must be used for which others may wait.
    fn may_stream(&self, here: usize) -> bool {
        let most = self.gathered_bytes();
        if here < most {
            return false;
        }
        // A connection, or the place of an upload, has been borrowed for it.
        let has_place = || {
            self.clients
                .uploads
                .borrow()
                .contains_key(&self.record.id())
        };
        if self.pin_use.is_fresh || has_place() || here >= GATHERED_SLOWLY * most {
            return true;
        }
        let now = self.clients.thread.clock.now_micros();
        let begun = match self.entry.begun_micros.get() {
            0 => now,
            begun => begun,
        };
        now.saturating_sub(begun) * BYTES_A_MICROSECOND <= here as u64
    }

    /// Reads more of a large request to where it is gathered. `None`: it is read as everything else.
    pub(super) fn read_on(&mut self) -> Option<io::Result<usize>> {
        if self.input.len() < READ_SIZE / 2 || !self.scanner.is_inside() {
            return None;
        }
        let missing = self.scanner.extent().saturating_sub(self.input.len());
        if missing < SMALLEST_READ {
            return None;
        }
        if self.input.capacity() - self.input.len() < SMALLEST_READ {
            // No more than four times what has come, whatever was announced.
            let room = missing.min(3 * self.input.len().max(READ_SIZE));
            self.make_room(room);
        }
        let room = self.input.capacity() - self.input.len();
        let read = self.stream.try_read_to(&mut self.input)?;
        if let Ok(read) = read {
            self.is_drained = read < room;
        }
        Some(read)
    }

    fn make_room(&mut self, room: usize) {
        match self.clients.spares.take(self.input.len() + room) {
            Some(mut spare) => {
                spare.extend_from_slice(&self.input);
                self.clients
                    .spares
                    .keep(std::mem::replace(&mut self.input, spare));
            }
            None => {
                // On the account before it is had. Moved by hand: where an allocator makes the old one longer it takes new
                // pages from the kernel, while those of others that have gone lie about for a moment.
                let capacity = self.input.len() + room;
                let ahead = self.ahead_held_bytes();
                self.outlet
                    .hold_input(self.input.capacity() + capacity + ahead);
                if !self.outlet.is_closed() {
                    let mut larger = Vec::with_capacity(capacity);
                    larger.extend_from_slice(&self.input);
                    self.input = larger;
                    self.outlet.hold_input(self.input.capacity() + ahead);
                }
            }
        }
    }

    /// From now on it has to keep up, on whichever connection.
    fn begin_upload(&self, message: Option<Message>) {
        let pace = UploadPace::new(self.clients.thread.clock.now_micros());
        let mut uploads = self.clients.uploads.borrow_mut();
        let upload = uploads.entry(self.record.id()).or_insert(Upload {
            pace,
            message: None,
            _place: None,
        });
        (upload.pace, upload.message) = (pace, message);
    }

    /// Takes out the message that an upload publishes whose last bytes are in `data`. Until it is told of, they are not sent.
    fn take_message_of_last(&self, data: &[u8], bounds: &Bounds) -> Option<Message> {
        let mut uploads = self.clients.uploads.borrow_mut();
        let message = &mut uploads.get_mut(&self.record.id())?.message;
        message.as_ref()?;
        let found = self.scanner.clone().scan(data, bounds);
        message.take_if(|_| matches!(found, Scan::Request { .. }))
    }

    fn end_upload(&mut self) {
        self.streaming = None;
        self.clients.uploads.borrow_mut().remove(&self.record.id());
    }

    /// Whether a request that has not arrived whole is too large to be waited for.
    pub(super) fn is_large(&self, here: usize) -> bool {
        let most = self.clients.thread.settings().upstream.max_shared_request;
        self.scanner.is_inside() && (self.scanner.extent() > most || here > most)
    }

    /// The start of a request too large to share: it is gathered, or passed on as it arrives.
    pub(super) fn large(&mut self, data: &[u8], learned: Option<&Learned>) -> Next {
        if self.restrictions.is_locked() {
            // Bounded, and refused when it is whole.
            return Next::More;
        }
        if self.restrictions.is_arriving() {
            return self.take_place();
        }
        self.entry.is_upload.set(true);
        let gathered = self.scanner.extent().max(data.len()) > self.gathered_bytes();
        if self.pin.as_ref().is_some_and(|pin| pin.link().is_raw()) {
            return if gathered {
                self.too_large()
            } else {
                Next::More
            };
        }
        let name = self.scanner.name();
        let known = data.get(name).filter(|name| !name.is_empty());
        let Some(name) = known else {
            // No command has a name that long.
            return if gathered {
                self.too_large()
            } else {
                Next::More
            };
        };
        let refusal = self.refusal_of_large(name, data, learned);
        if refusal.is_none() && !self.passes_on(name, learned) {
            return if gathered {
                self.too_large()
            } else {
                Next::More
            };
        }
        // A refusal is not forgotten because the wait for it took long.
        if self.refusing.is_none() && refusal.is_none() && !self.may_stream(data.len()) {
            return Next::More;
        }
        if self.outlet.outstanding() > 0 {
            self.wait = Wait::Answers;
            return Next::Wait;
        }
        let command = lookup(name);
        if let Some(reply) = refusal {
            self.refuse(command, &reply);
            self.streaming = Some(false);
            return Next::Used(self.let_go(data.len()));
        }
        if let Some(next) = self.large_amid_unplaced() {
            return next;
        }
        if self.refusing.is_some() {
            let reply = self.refusing.take().unwrap_or_default();
            self.clients.uploads.borrow_mut().remove(&self.record.id());
            self.count(1, command);
            self.answer(&reply);
            self.streaming = Some(false);
            return Next::Used(self.let_go(data.len()));
        }
        if !self.has_upload_place() {
            return Next::Wait;
        }
        let Some(link) = self.pinned_link(PinReason::LargeRequest) else {
            return if self.refusing.is_some() {
                Next::Used(0)
            } else {
                Next::Wait
            };
        };
        self.count(1, command);
        let show = self.show();
        let settled = self.scanner.settled(data.len());
        let kind = (self.queued_kind(), Delays::of(command));
        link.send_through(&self.outlet, &data[..settled], kind, show);
        self.doubt_large(&link, command);
        link.set_partial(true);
        self.streaming = Some(true);
        let request = Request::new(data);
        let size = (request.count(), self.scanner.extent());
        self.begin_upload(self.weighty_message(command, request.argument(1), size));
        Next::Used(self.let_go(data.len()))
    }

    /// What a request is refused with whatever comes of it still: what its group may not use (which `route` tells as a refusal), a write where there are none, anything
    /// of a subscriber in RESP2; and too few or too many words, where the server is not asked. How many it has stands at its start.
    fn refusal_of_large(
        &self,
        name: &[u8],
        data: &[u8],
        learned: Option<&Learned>,
    ) -> Option<Vec<u8>> {
        let request = Request::new(data);
        let has_second = request.argument(1).is_some() || request.count() == 1;
        if !has_second && lookup(name).is_none_or(is_container) {
            // Its second word, which may name a subcommand, is not here.
            return None;
        }
        let server = self.clients.thread.server_version();
        let routed = self.route(name, &request, learned);
        if self.is_listening()
            && let Some(reply) = subscriber_refusal(server, &request, &routed)
        {
            return Some(reply);
        }
        match routed.route {
            Route::Refused(reply) => Some(reply),
            // What that makes of a transaction the server says.
            Route::Transaction(_) if self.pin.is_some() => None,
            _ if routed.command.is_none() || self.passes_on(name, learned) => None,
            _ => malformed(server, &request, routed.command),
        }
    }

    /// Whether it may use a connection for its upload; if not, that is waited for.
    fn has_upload_place(&mut self) -> bool {
        let is_there = self
            .clients
            .uploads
            .borrow()
            .contains_key(&self.record.id());
        // On a connection that it holds anyway it takes nothing from anybody.
        if is_there || self.pin.is_some() {
            return true;
        }
        let thread = Rc::clone(&self.clients.thread);
        let budget = Arc::clone(&thread.process.budget);
        if let Some(place) = budget.try_upload() {
            self.upload_place(Some(place));
            return true;
        }
        self.then(async move |client: &mut Self| {
            let limit = thread.settings().upstream.borrow_timeout;
            let place = thread.within(limit, budget.upload());
            let place = client.meanwhile(place, Awaited::Turn).await?;
            client.upload_place(place.flatten());
            Ok(())
        });
        false
    }

    /// The right to an upload has come, or not in time.
    fn upload_place(&mut self, place: Option<UploadPlace>) {
        let Some(place) = place else {
            self.clients
                .thread
                .counters
                .bound(Bound::BorrowTimeout)
                .add(1);
            self.refusing = Some(refusal(PinError::Timeout));
            return;
        };
        let pace = UploadPace::new(self.clients.thread.clock.now_micros());
        let upload = Upload {
            pace,
            message: None,
            _place: Some(place),
        };
        self.clients
            .uploads
            .borrow_mut()
            .insert(self.record.id(), upload);
    }

    /// Whether a command of this name leaves no trace, whatever its arguments turn out to be: its start may be sent.
    fn passes_on(&self, name: &[u8], learned: Option<&Learned>) -> bool {
        let denied = self.clients.denied(self.group());
        let deny = denied.as_deref();
        match lookup(name) {
            None => {
                !deny.is_some_and(|deny| deny.denies_unknown(name, None, learned))
                    && !name.contains(&0)
                    && learned.is_none_or(|learned| leaves_no_trace(learned.way(name)))
            }
            Some(id) => {
                leaves_no_trace(spec(id).way)
                    // A script under the debugger is gathered: the start of its answer is awaited.
                    && !self.is_debugging()
                    && !is_container(id)
                    && crate::command::transaction(id).is_none()
                    && !deny.is_some_and(|deny| deny.denies(id))
            }
        }
    }

    /// A request that has to be seen whole measures more than is gathered of it.
    fn too_large(&mut self) -> Next {
        if self.waits_for_place() {
            return Next::Wait;
        }
        self.clients.thread.counters.bound(Bound::Request).add(1);
        let most = self.gathered_bytes();
        self.end_for_protocol(&error(&format!(
            "ERR respool: a request of this command may measure {most} bytes, {GATHERED} times upstream.max_shared_request"
        )));
        Next::Wait
    }

    fn let_go(&mut self, available: usize) -> usize {
        let settled = self.scanner.settled(available);
        self.scanner.forget(settled);
        settled
    }

    /// More of a request that is passed on, or skipped, as it arrives.
    pub(super) fn stream_on(&mut self, data: &[u8], bounds: &Bounds) -> Next {
        let passes_on = self.streaming == Some(true);
        let link: Option<Rc<Link>> = self
            .pin
            .as_ref()
            .map(|pin| Rc::clone(pin.link()))
            .filter(|_| passes_on);
        if link.as_ref().is_some_and(|link| !link.is_alive()) {
            self.outlet.close(Disconnect::UpstreamLost);
            return Next::Wait;
        }
        if let Some(link) = &link
            && !link.has_room(&self.outlet)
        {
            self.wait = Wait::Room(RoomWait::new(link, data.len()));
            return Next::Wait;
        }
        if passes_on
            && let Some(message) = self.take_message_of_last(data, bounds)
            && let Some(message) = self.queue_message(message)
        {
            self.then(async move |client: &mut Self| client.make_ready_for(message).await);
            return Next::Wait;
        }
        let found = self.scanner.scan(data, bounds);
        let used = match found {
            Scan::Request { length } => {
                self.end_upload();
                if let Some(link) = &link {
                    link.set_partial(false);
                }
                length
            }
            Scan::Incomplete => match self.let_go(data.len()) {
                0 => return Next::More,
                settled => settled,
            },
            Scan::Violation(violation) => {
                // The server never sees the end of the request, so it never runs; its reply is this.
                self.end_upload();
                if passes_on {
                    self.outlet.fail_unsent(&violation.reply());
                    self.outlet.close(Disconnect::ProtocolError);
                } else {
                    self.violate(violation);
                }
                return Next::Wait;
            }
            Scan::Nothing { .. } | Scan::Inline { .. } => return Next::More,
        };
        if let Some(link) = link {
            link.send_more(&data[..used]);
            if let Some(upload) = self.clients.uploads.borrow_mut().get_mut(&self.record.id()) {
                upload.pace.moved(used);
            }
        }
        Next::Used(used)
    }
}
