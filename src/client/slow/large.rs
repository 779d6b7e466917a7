//! A request too large to share of which more is here than is gathered of any: it is passed on as it arrives, as long as it keeps coming, or
//! passed over where it is refused.
//!
//! Invariant: a connection is borrowed for bytes that are here or keep coming, and for no others.

use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::Arc;

use crate::budget::{UploadPace, UploadPlace};
use crate::client::large::GATHERED;
use crate::client::publish::Message;
use crate::client::raw::leaves_no_trace;
use crate::client::refusals::refusal;
use crate::client::story::{Awaited, Interrupted, Told};
use crate::client::{Client, Clients, Next, Wait};
use crate::command::{
    CommandId, Delays, Learned, PinReason, is_container, lookup, spec, transaction,
};
use crate::link::{Link, RoomWait};
use crate::resp::speak::error;
use crate::resp::{Bounds, Request, RequestViolation, Scan};
use crate::session::{Protocol, Route, malformed, subscriber_refusal};
use crate::telemetry::{Bound, Disconnect};
use crate::upstream::PinError;

/// Says how often that is gathered which is gathered of any request, of one that comes slowly, as Redis gathers all of it.
const GATHERED_SLOWLY: usize = 16;

/// Is a megabyte in a second: what comes less fast comes slowly.
const BYTES_A_MICROSECOND: u64 = 1;

/// Says what the start of a request tells of it.
enum LargeStart {
    /// It is answered with this whatever comes of it still.
    Refused(Vec<u8>),
    /// It leaves no trace, whatever its arguments turn out to be: its start may be sent.
    PassesOn,
    /// It has to be seen whole, and is too large for that.
    TooLarge,
}

/// Says why the rest of a request is not passed on for now.
enum Stopped {
    /// The connection takes no more before these bytes.
    Full(usize),
    /// The connection is lost.
    Lost,
    /// Its last bytes are here, and this is to be made known before they are sent.
    Announces(Message),
    /// It has been passed on whole.
    Ended,
    /// It turned out to be none.
    Violation(RequestViolation),
}

/// Keeps an upload among those that have to keep up, until it is dropped.
struct Upload {
    clients: Rc<Clients>,
    client: u64,
    /// Holds the right to a connection for it; `None` on one that its client holds anyway.
    _place: Option<UploadPlace>,
}

impl Upload {
    fn begin(client: &Client, place: Option<UploadPlace>) -> Self {
        let (clients, id) = (Rc::clone(&client.clients), client.record.id());
        let pace = UploadPace::new(clients.thread.clock.now_micros());
        clients.uploads.borrow_mut().insert(id, pace);
        Self {
            clients,
            client: id,
            _place: place,
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.clients.uploads.borrow_mut().remove(&self.client);
    }
}

impl Client {
    /// Tells a request of which so much is here. Nothing is outstanding. Where what is at hand is refused, it is so with `refusing`.
    pub(in crate::client) async fn large(&mut self, refusing: Option<Vec<u8>>) -> Told {
        let bounds = self.bounds();
        let command = self.input.get(self.scanner.name()).and_then(lookup);
        match self.look_at_start(&self.input) {
            LargeStart::Refused(reply) => {
                self.refuse(command, &reply);
                self.pass_over(&bounds).await
            }
            LargeStart::TooLarge => self.too_large().await,
            LargeStart::PassesOn => {
                while refusing.is_none() && !self.comes_fast() {
                    self.more().await?;
                    if self.is_at_hand(&bounds) {
                        return Ok(());
                    }
                }
                self.refusing = refusing;
                self.upload(command, &bounds).await
            }
        }
    }

    /// Tells whether a request that begins with `data` has to be seen whole before anything is done with it.
    pub(in crate::client) fn has_to_be_seen_whole(&self, data: &[u8]) -> bool {
        matches!(self.look_at_start(data), LargeStart::TooLarge)
    }

    fn look_at_start(&self, data: &[u8]) -> LargeStart {
        let is_raw = self.pin.as_ref().is_some_and(|pin| pin.link().is_raw());
        // No command has a name that is not here now.
        let name = data.get(self.scanner.name());
        let Some(name) = name.filter(|name| !name.is_empty() && !is_raw) else {
            return LargeStart::TooLarge;
        };
        let learned = self.learned();
        match self.refusal_of_large(name, data, learned.as_deref()) {
            Some(reply) => LargeStart::Refused(reply),
            None if self.passes_on(name, learned.as_deref()) => LargeStart::PassesOn,
            None => LargeStart::TooLarge,
        }
    }

    /// Returns what a request is refused with whatever comes of it still: what its group may not use (which `route` tells as a refusal), a
    /// write where there are none, anything of a subscriber in RESP2; and too few or too many words, where the server is not asked. How many
    /// it has stands at its start.
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

    /// Tells whether a command of this name leaves no trace, whatever its arguments turn out to be.
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
                // The reply to a subscriber is made of it.
                let becomes_reply =
                    spec(id).name == "ping" && self.subscribed() == Some(Protocol::Resp2);
                leaves_no_trace(spec(id).way)
                    && !becomes_reply
                    // A script under the debugger is gathered: the start of its answer is awaited.
                    && !self.is_debugging()
                    && !is_container(id)
                    && transaction(id).is_none()
                    && !deny.is_some_and(|deny| deny.denies(id))
            }
        }
    }

    /// Closes a client whose request has to be seen whole and measures more than is gathered of it.
    async fn too_large(&mut self) -> Told {
        self.in_its_place().await?;
        self.clients.thread.counters.bound(Bound::Request).add(1);
        let most = self.gathered_bytes();
        self.end_for_protocol(&error(format!(
            "ERR respool: a request of this command may measure {most} bytes, {GATHERED} times upstream.max_shared_request"
        )));
        Ok(())
    }

    /// Tells whether the rest of a request is likely to come as fast as a connection must be used for which others may wait.
    fn comes_fast(&self) -> bool {
        let here = self.input.len();
        let now = self.clients.thread.clock.now_micros();
        let begun = match self.entry.begun_micros.get() {
            0 => now,
            begun => begun,
        };
        here >= GATHERED_SLOWLY * self.gathered_bytes()
            || now.saturating_sub(begun) * BYTES_A_MICROSECOND <= here as u64
    }

    /// Waits until more of the request is here.
    async fn more(&mut self) -> Told {
        let here = self.input.len();
        self.rest(|_, data| match data.len() > here {
            true => ControlFlow::Break(0),
            false => ControlFlow::Continue(0),
        })
        .await
    }

    /// Tells whether the request is here whole, or turns out to be none: it is dealt with as any other then.
    fn is_at_hand(&mut self, bounds: &Bounds) -> bool {
        let mut scanner = self.scanner.clone();
        let is_incomplete = scanner.scan(&self.input, bounds) == Scan::Incomplete;
        if is_incomplete {
            self.scanner = scanner;
        }
        !is_incomplete
    }

    /// Borrows a connection for the request, sends its start, and passes on the rest as it arrives.
    async fn upload(&mut self, command: Option<CommandId>, bounds: &Bounds) -> Told {
        while let Some(next) = self.large_amid_unplaced() {
            match next {
                Next::Lend(reason) => self.borrow(reason).await?,
                _ => self.settled().await?,
            }
        }
        let place = match self.pin {
            _ if self.refusing.is_some() => None,
            // On a connection that it holds anyway it takes nothing from anybody.
            Some(_) => None,
            None => self.upload_place().await?,
        };
        let Some(link) = self.borrowed(PinReason::LargeRequest).await? else {
            let reply = self.refusing.take().unwrap_or_default();
            self.count(1, command);
            self.answer(&reply);
            return self.pass_over(bounds).await;
        };
        if self.is_at_hand(bounds) {
            self.use_input();
            return Ok(());
        }
        let request = Request::new(&self.input);
        let size = (request.count(), self.scanner.extent());
        let message = self.weighty_message(command, request.argument(1), size);
        let _upload = Upload::begin(self, place);
        self.send_start(&link, command);
        self.pass_on(&link, message, bounds).await
    }

    /// Waits for the right to an upload. `None`: it did not come in time, and the request is refused.
    async fn upload_place(&mut self) -> Told<Option<UploadPlace>> {
        let thread = Rc::clone(&self.clients.thread);
        let budget = Arc::clone(&thread.process.budget);
        let mut place = budget.try_upload();
        if place.is_none() {
            let limit = thread.settings().upstream.borrow_timeout;
            let waiting = thread.within(limit, budget.upload());
            place = self.meanwhile(waiting, Awaited::Turn).await?.flatten();
        }
        if place.is_none() {
            thread.counters.bound(Bound::BorrowTimeout).add(1);
            self.refusing = Some(refusal(PinError::Timeout));
        }
        Ok(place)
    }

    /// Sends what is here of the request.
    fn send_start(&mut self, link: &Rc<Link>, command: Option<CommandId>) {
        self.count(1, command);
        let show = self.show();
        let kind = (self.queued_kind(), Delays::of(command));
        let input = std::mem::take(&mut self.input);
        let settled = self.let_go(input.len());
        link.send_through(&self.outlet, &input[..settled], kind, show);
        self.doubt_large(link, command);
        link.set_partial(true);
        self.keep(input, settled);
    }

    /// Passes on the rest of a request as it arrives. Until the message that it publishes is made known its last bytes are not sent.
    async fn pass_on(
        &mut self,
        link: &Rc<Link>,
        mut message: Option<Message>,
        bounds: &Bounds,
    ) -> Told {
        loop {
            let mut stopped = Stopped::Lost;
            let rest = self.rest(|client, data| {
                match client.pass_on_part(link, data, &mut message, bounds) {
                    (used, None) => ControlFlow::Continue(used),
                    (used, Some(why)) => {
                        stopped = why;
                        ControlFlow::Break(used)
                    }
                }
            });
            match rest.await {
                // Cut off: the server never sees its end.
                Err(Interrupted::InVain) => return Err(Interrupted::Ended(Disconnect::Closed)),
                rest => rest?,
            }
            match stopped {
                Stopped::Ended => return Ok(()),
                Stopped::Full(bytes) => {
                    self.wait = Wait::Room(RoomWait::new(link, bytes));
                    self.waited_for().await?;
                }
                Stopped::Announces(message) => self.make_ready_for(message).await?,
                Stopped::Lost => {
                    self.outlet.close(Disconnect::UpstreamLost);
                    return Ok(());
                }
                Stopped::Violation(violation) => {
                    // Its reply is this.
                    self.outlet.fail_unsent(&violation.reply());
                    self.outlet.close(Disconnect::ProtocolError);
                    return Ok(());
                }
            }
        }
    }

    /// Passes on what is here of the rest. Returns how many bytes are done with, and why no more are.
    fn pass_on_part(
        &mut self,
        link: &Rc<Link>,
        data: &[u8],
        message: &mut Option<Message>,
        bounds: &Bounds,
    ) -> (usize, Option<Stopped>) {
        if !link.is_alive() {
            return (0, Some(Stopped::Lost));
        }
        if !link.has_room(&self.outlet) {
            return (0, Some(Stopped::Full(data.len())));
        }
        if message.is_some()
            && matches!(
                self.scanner.clone().scan(data, bounds),
                Scan::Request { .. }
            )
            && let Some(message) = message
                .take()
                .and_then(|message| self.queue_message(message))
        {
            return (0, Some(Stopped::Announces(message)));
        }
        let (used, stopped) = match self.scanner.scan(data, bounds) {
            Scan::Request { length } => {
                link.set_partial(false);
                (length, Some(Stopped::Ended))
            }
            Scan::Violation(violation) => return (0, Some(Stopped::Violation(violation))),
            _ => (self.let_go(data.len()), None),
        };
        if used > 0 {
            link.send_more(&data[..used]);
            if let Some(pace) = self.clients.uploads.borrow_mut().get_mut(&self.record.id()) {
                pace.moved(used);
            }
        }
        (used, stopped)
    }

    /// Passes over a request that has been answered, as it arrives.
    async fn pass_over(&mut self, bounds: &Bounds) -> Told {
        let mut found = Scan::Incomplete;
        self.rest(|client, data| {
            found = client.scanner.scan(data, bounds);
            match found {
                Scan::Incomplete => ControlFlow::Continue(client.let_go(data.len())),
                Scan::Request { length } => ControlFlow::Break(length),
                _ => ControlFlow::Break(0),
            }
        })
        .await?;
        if let Scan::Violation(violation) = found {
            self.in_its_place().await?;
            self.violate(violation);
        }
        Ok(())
    }

    /// Waits until what is answered here has its place behind what the server has still to answer.
    async fn in_its_place(&mut self) -> Told {
        while self.waits_for_place() {
            self.waited_for().await?;
        }
        Ok(())
    }

    fn let_go(&mut self, available: usize) -> usize {
        let settled = self.scanner.settled(available);
        self.scanner.forget(settled);
        settled
    }
}
