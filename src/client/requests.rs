//! What a client sent, cut into requests and passed on.
//!
//! Invariant: a request is passed on whole or not at all, except one too large to share, which has a connection of its own.

use std::borrow::Cow;
use std::sync::Arc;

use super::{Client, Next, Wait};
use crate::command::{CommandId, Delays, Learned, TransactionCommand};
use crate::exchange::{Offence, RequestKind, Show};
use crate::identity::{ClientFlag, NO_COMMAND};
use crate::resp::speak::encode_request;
use crate::resp::{Request, RequestViolation, Scan, split_inline};
use crate::session::{
    Block, Denial, Destination, LentUse, Loan, Measured, Mode, Route, Routed, Rules, block,
    destination, route,
};
use crate::telemetry::Disconnect;
use crate::texts::{counts_without_a_word, line_syntax, no_permission};

/// Room in a buffer, by the length of the request in it, up to which the buffer is handed on with the request.
const ROOM: usize = 4;

/// Requests that stand one behind the other and go to the same shared connection.
#[derive(Default)]
struct Run {
    /// Requests that the client may have without an answer.
    most: u32,
    start: usize,
    end: usize,
    count: u32,
    last: Option<CommandId>,
    /// Says what may delay them.
    delays: Delays,
}

impl Client {
    /// Passes on what `sent` holds. Returns how many bytes are done with. A request that has a story is taken out of `sent` where it is
    /// all there is, and copied where more is.
    pub(super) fn requests(&mut self, sent: &mut Cow<'_, [u8]>) -> usize {
        if let Some(link) = self.debugger() {
            return self.tell_debugger(&link, sent);
        }
        let (mut used, slow) = self.pass_on_requests(sent);
        if let Some((length, routed)) = slow {
            let request = match sent {
                Cow::Owned(input) if input.len() == length && input.capacity() <= ROOM * length => {
                    std::mem::take(input)
                }
                _ => sent[used..used + length].to_vec(),
            };
            self.begin_slow(request, *routed);
            used += length;
        }
        self.wait_if_over();
        if let Some(reply) = self.refusing.take() {
            self.end_if_lost(&reply);
        }
        used
    }

    /// Passes on what `data` holds, up to a request that has a story. Returns how many bytes are done with, and how long that request is
    /// which is behind them.
    #[inline]
    fn pass_on_requests(&mut self, data: &[u8]) -> (usize, Option<(usize, Box<Routed>)>) {
        let (mut at, mut slow) = (0, None);
        let mut run = Run {
            most: self.most_in_flight(),
            ..Run::default()
        };
        // Kept for the whole batch: neither can change while it is looked at.
        let learned = self.learned();
        let mut bounds = self.bounds();
        while self.goes_on() {
            if bounds.unauthenticated != self.restrictions.is_locked() {
                bounds = self.bounds();
            }
            match self.scanner.scan(&data[at..], &bounds) {
                Scan::Request { length } => {
                    match self.whole(data, at, length, &mut run, learned.as_deref()) {
                        Next::Used(used) => at += used,
                        Next::Slow(routed) => {
                            slow = Some((length, routed));
                            break;
                        }
                        _ => break,
                    }
                }
                Scan::Nothing { length } => {
                    self.send_run(data, &mut run);
                    self.take_wordless(b"");
                    at += length;
                }
                Scan::Inline { text, length } => {
                    self.send_run(data, &mut run);
                    let text = at + text.start..at + text.end;
                    match self.inline(&data[text], learned.as_deref()) {
                        Next::Used(_) => at += length,
                        _ => break,
                    }
                }
                Scan::Violation(violation) => {
                    self.send_run(data, &mut run);
                    self.violate(violation);
                    if self.ending.is_none() {
                        break;
                    }
                    at = data.len();
                }
                Scan::Incomplete => {
                    self.send_run(data, &mut run);
                    match self.gather(&data[at..]) {
                        Next::Used(used) => at += used,
                        _ => break,
                    }
                }
            }
        }
        self.send_run(data, &mut run);
        (at, slow)
    }

    /// Tells whether the next request is looked at now.
    #[inline]
    fn goes_on(&self) -> bool {
        matches!(self.wait, Wait::Nothing)
            && self.slow.is_none()
            && self.ending.is_none()
            && self.outlet.takes_requests()
    }

    /// A whole request at `at`: nearly always one more of the run.
    #[inline]
    fn whole(
        &mut self,
        data: &[u8],
        at: usize,
        length: usize,
        run: &mut Run,
        learned: Option<&Learned>,
    ) -> Next {
        let bytes = &data[at..at + length];
        let name = self.scanner.name();
        let request = Request::new(bytes);
        let routed = self.route(&bytes[name], &request, learned);
        let shares = routed.route == Route::Shared
            && self.is_sharing(length)
            && !self.is_weighty(routed.command, length);
        let delays = Delays::of(routed.command);
        debug_assert!(
            !shares
                || self.destination(&routed, &request, &self.mode()) == Destination::Shared(delays)
        );
        if run.count > 0 && delays.may_pause() && !run.delays.may_pause() && self.leaves_lane() {
            self.send_run(data, run);
        }
        if shares && (run.count > 0 || self.link_ready(&data[at..], delays).is_ok()) {
            if self.outlet.outstanding().saturating_add(run.count) >= run.most {
                self.send_run(data, run);
                self.wait_in_flight();
                return Next::Wait;
            }
            if run.count == 0 {
                run.start = at;
            }
            run.end = at + length;
            run.count += 1;
            run.last = routed.command;
            run.delays = run.delays.and(delays);
            return Next::Used(length);
        }
        self.send_run(data, run);
        if !matches!(self.wait, Wait::Nothing) {
            return Next::Wait;
        }
        self.request(&request, routed, &data[at..], learned)
    }

    pub(super) fn learned(&self) -> Option<Arc<Learned>> {
        self.clients
            .thread
            .process
            .server
            .load()
            .as_ref()
            .and_then(|server| server.learned.clone())
    }

    pub(super) fn route(
        &self,
        name: &[u8],
        request: &Request<'_>,
        learned: Option<&Learned>,
    ) -> Routed {
        self.by_rules(learned, |rules| route(name, request, rules))
    }

    /// Returns what the server would answer the client's user whose rules do not permit the command `name`.
    #[cold]
    fn not_permitted(&self, name: &str) -> Vec<u8> {
        let identity = self.record.identity();
        no_permission(
            self.clients.thread.server_version(),
            identity.shown_user(),
            name,
        )
    }

    /// Decides something by what this client's requests are held against.
    #[inline]
    fn by_rules<T>(&self, learned: Option<&Learned>, decide: impl FnOnce(&Rules<'_>) -> T) -> T {
        let thread = &self.clients.thread;
        let denied = self.clients.denied(self.group());
        let refusal = |name: &str| self.not_permitted(name);
        decide(&Rules {
            deny: denied.as_deref().map(|commands| Denial {
                commands,
                refusal: &refusal,
            }),
            learned,
            role: thread.role(),
            server: thread.packed_version(),
            restrictions: self.restrictions(),
        })
    }

    /// Tells whether a shared request of `length` bytes may join a run: nothing about this client is special now.
    #[inline]
    fn is_sharing(&self, length: usize) -> bool {
        self.pin.is_none()
            && !self.record.has(ClientFlag::Pubsub)
            && self.refusing.is_none()
            && self.unplaced.is_none()
            && self.session.reply == crate::session::ReplyMode::On
            && length <= self.clients.thread.settings().upstream.max_shared_request
    }

    fn send_run(&mut self, data: &[u8], run: &mut Run) {
        if run.count == 0 {
            return;
        }
        if let Some(link) = self.link.clone() {
            link.send(
                &self.outlet,
                &data[run.start..run.end],
                run.count,
                (RequestKind::Plain, run.delays),
                Show::Pass,
            );
            self.clients.upstream.served(&link, run.count);
            self.has_written |= run.delays.may_pause();
            self.count(run.count, run.last);
        }
        *run = Run {
            most: run.most,
            ..Run::default()
        };
    }

    /// Counts requests that are on their way or answered.
    pub(super) fn count(&mut self, count: u32, last: Option<CommandId>) {
        self.record.commands.add(u64::from(count));
        self.note_command(last);
        self.clients
            .thread
            .counters
            .group(self.group())
            .commands
            .add(u64::from(count));
    }

    /// Shows what the client has sent last, and when.
    #[inline]
    pub(super) fn note_command(&self, command: Option<CommandId>) {
        self.record
            .last_active_ms
            .set(self.clients.thread.clock.now_ms());
        self.record
            .last_command
            .set(command.map_or(NO_COMMAND, u32::from));
    }

    /// One request by itself. `rest` starts with it.
    pub(super) fn request_alone(
        &mut self,
        request: &Request<'_>,
        routed: &Routed,
        rest: &[u8],
        learned: Option<&Learned>,
    ) -> Next {
        let (length, command) = (request.bytes().len(), routed.command);
        let destination = match self.placed_destination(routed, request) {
            Ok(destination) => destination,
            Err(next) => return next,
        };
        match destination {
            Destination::Stream => return self.amid_messages(request, routed.clone()),
            Destination::Unsettled => return self.take_place(),
            Destination::Story(_) => return Next::Slow(Box::new(routed.clone())),
            Destination::Refused(_) if self.pin.is_some() && self.outlet.outstanding() > 0 => {
                // Only then is it known whether a transaction is open, which the refusal would spoil.
                self.wait = Wait::Answers;
                return Next::Wait;
            }
            Destination::Behind | Destination::Unplaced => {
                self.wait = Wait::Answers;
                return Next::Wait;
            }
            Destination::Alien => self.ending = Some(Disconnect::ProtocolError),
            Destination::Refused(reply) => self.refuse(command, reply),
            Destination::NotOfSubscriber(reply) => {
                self.count(1, command);
                self.answer(&reply);
            }
            Destination::UnservedTransaction(verb) => {
                return self.refuse_verb(verb, request, command, rest, learned);
            }
            Destination::Unserved => return self.refuse_one(command, length, 1),
            Destination::Local(local) => match self.local(local, request, command) {
                Next::Used(1..) => self.count(1, command),
                // Or refused meanwhile: looked at again, and answered.
                next => return next,
            },
            Destination::Shared(delays) => {
                let kind = (RequestKind::Plain, delays);
                return self.on_shared(request.bytes(), 1, command, kind);
            }
            Destination::Fenced => {
                let kind = (RequestKind::Fenced, Delays::of(command));
                return self.on_shared(request.bytes(), 1, command, kind);
            }
            Destination::Begin(verb) => {
                return self.whole_or_slow(verb, routed, rest, learned);
            }
            Destination::Transaction(verb) => return self.verb(verb, request, command),
            Destination::Tracking => return self.tracking(request, command),
            Destination::Lent(reason) => return self.on_pin(reason, request, command),
            Destination::LentInDoubt(reason) => {
                return self.on_pin_in_doubt(reason, request, command);
            }
        }
        Next::Used(length)
    }

    /// Decides what is done with a request by itself. One of a transaction of which the busy server has not been told is looked at there
    /// first.
    ///
    /// # Errors
    /// Returns how the request goes on where nothing more is to be done with it.
    #[inline]
    fn placed_destination<'a>(
        &mut self,
        routed: &'a Routed,
        request: &Request<'_>,
    ) -> Result<Destination<'a>, Next> {
        let mode = self.mode();
        let destination = self.destination(routed, request, &mode);
        if destination != Destination::Unplaced {
            return Ok(destination);
        }
        if let Some(next) = self.amid_unplaced(request, routed) {
            return Err(next);
        }
        let mode = Mode {
            is_unplaced: false,
            ..self.mode()
        };
        Ok(self.destination(routed, request, &mode))
    }

    /// Tells what the client is in the middle of.
    pub(super) fn mode(&self) -> Mode {
        let loan = match &self.pin {
            None => Loan::Nothing,
            Some(pin) if pin.link().is_raw() => Loan::Stream,
            Some(pin) => Loan::Connection(LentUse {
                debugs: self.is_debugging(),
                is_stand_in_due: pin.stands_in && self.outlet.outstanding() > 0,
                prepares_exec: pin.prepares_exec(),
                redirects: self.redirects(),
            }),
        };
        Mode {
            loan,
            subscribed: self.subscribed(),
            is_unplaced: self.unplaced.is_some(),
            is_unserved: self.refusing.is_some(),
        }
    }

    /// Decides what is done with a request of a client in this mode.
    pub(super) fn destination<'a>(
        &self,
        routed: &'a Routed,
        request: &Request<'_>,
        mode: &Mode,
    ) -> Destination<'a> {
        let thread = &self.clients.thread;
        let length = request.bytes().len();
        let measured = Measured {
            is_large: length > thread.settings().upstream.max_shared_request,
            is_weighty: self.is_weighty(routed.command, length),
            is_distrusted: thread.distrusts(&self.session.state, Offence::Surplus),
        };
        destination(routed, request, mode, measured, thread.server_version())
    }

    /// Answers a request with an error, which spoils an open transaction. What was sent before has been answered.
    pub(super) fn refuse(&mut self, command: Option<CommandId>, reply: &[u8]) {
        if self.pin.is_some() && self.outlet.transaction().is_open() {
            return self.spoil(command, reply);
        }
        self.count(1, command);
        self.answer(reply);
    }

    pub(super) fn refuse_one(
        &mut self,
        command: Option<CommandId>,
        length: usize,
        count: u32,
    ) -> Next {
        let reply = self.refusing.clone().unwrap_or_default();
        self.count(count, command);
        self.answer(&reply);
        Next::Used(length)
    }

    /// Answers a command of transactions that the server cannot take.
    fn refuse_verb(
        &mut self,
        verb: TransactionCommand,
        request: &Request<'_>,
        command: Option<CommandId>,
        rest: &[u8],
        learned: Option<&Learned>,
    ) -> Next {
        let length = request.bytes().len();
        if self.is_answered_busy(verb, request, command) {
            return Next::Used(length);
        }
        let begins = matches!(verb, TransactionCommand::Multi | TransactionCommand::Watch);
        if begins && rest.len() > length {
            self.refuse_transaction(command, rest, learned);
            return Next::Used(length);
        }
        self.refuse_one(command, length, 1)
    }

    /// Refuses a MULTI or a WATCH with more behind it. Unless the whole transaction is here, and refused with it, the client
    /// is closed: what is still to come would run outside of the transaction it was written for.
    pub(super) fn refuse_transaction(
        &mut self,
        command: Option<CommandId>,
        rest: &[u8],
        learned: Option<&Learned>,
    ) {
        let most = self.clients.thread.settings().upstream.max_shared_request;
        let whole = self.by_rules(learned, |rules| {
            matches!(block(rest, most, u32::MAX, rules), Block::Whole { .. })
        });
        let reply = self.refusing.clone().unwrap_or_default();
        self.count(1, command);
        self.answer(&reply);
        if !whole {
            self.ending = Some(Disconnect::UpstreamLost);
        }
    }

    /// A MULTI or a WATCH outside of a transaction.
    fn whole_or_slow(
        &mut self,
        verb: TransactionCommand,
        routed: &Routed,
        rest: &[u8],
        learned: Option<&Learned>,
    ) -> Next {
        if verb == TransactionCommand::Multi {
            let most_bytes = self.clients.thread.settings().upstream.max_shared_request;
            let most = self
                .in_flight_limit()
                .saturating_sub(self.outlet.outstanding());
            let shares =
                self.session.reply != crate::session::ReplyMode::SkipNext && self.blocks_end();
            match self.by_rules(learned, |rules| block(rest, most_bytes, most, rules)) {
                Block::Whole {
                    length,
                    count,
                    delays,
                } if shares && !self.clients.thread.process.weights.may_overwhelm(length) => {
                    let kind = (RequestKind::Block, delays);
                    return self.on_shared(&rest[..length], count, routed.command, kind);
                }
                // What follows may be in the socket already.
                Block::Partial if !self.is_drained => return Next::More,
                _ => {}
            }
        }
        if self.outlet.outstanding() > 0 {
            // By then the rest of it may have come.
            self.wait = Wait::Answers;
            return Next::Wait;
        }
        Next::Slow(Box::new(routed.clone()))
    }

    /// Sends requests that leave no trace on a shared connection.
    pub(super) fn on_shared(
        &mut self,
        bytes: &[u8],
        count: u32,
        command: Option<CommandId>,
        (kind, delays): (RequestKind, Delays),
    ) -> Next {
        if !self.has_share_for(count) {
            return Next::Wait;
        }
        if let Err(next) = self.link_ready(bytes, delays) {
            return next;
        }
        let Some(link) = self.link.clone() else {
            return Next::Wait;
        };
        let show = self.show();
        link.send(&self.outlet, bytes, count, (kind, delays), show);
        self.clients.upstream.served(&link, count);
        self.has_written |= delays.may_pause();
        self.count(count, command);
        Next::Used(bytes.len())
    }

    /// Returns what the client sees of the reply to the request at hand, and goes on to the next.
    pub(super) fn show(&mut self) -> Show {
        if self.session.take_visible() {
            Show::Pass
        } else {
            Show::Hide
        }
    }

    /// Places a reply of respool's own to the request at hand.
    pub(super) fn answer(&mut self, reply: &[u8]) {
        if self.session.take_visible() {
            let reply = self.unsent_reply(reply);
            self.outlet.own_reply(&reply);
        }
    }

    /// An inline request travels as the same request in its usual form.
    fn inline(&mut self, text: &[u8], learned: Option<&Learned>) -> Next {
        let syntax = line_syntax(self.clients.thread.server_version());
        let Ok(words) = split_inline(text, syntax) else {
            self.violate(RequestViolation::UnbalancedQuotes);
            return match self.ending {
                Some(_) => Next::Used(0),
                None => Next::Wait,
            };
        };
        let Some(name) = words.first() else {
            self.take_wordless(text);
            return Next::Used(0);
        };
        let bytes = encode_request(&words);
        let request = Request::new(&bytes);
        loop {
            let routed = self.route(name, &request, learned);
            match self.request(&request, routed, &bytes, learned) {
                // Not done with, but something has changed.
                Next::Used(0) => {}
                Next::Slow(routed) => {
                    self.begin_slow(bytes, *routed);
                    return Next::Used(0);
                }
                // A MULTI typed by hand is never the start of a block that has arrived whole.
                Next::More => self.is_drained = true,
                next => return next,
            }
        }
    }

    /// Takes a request without a word. Where the server counts it, CLIENT REPLY SKIP and CLIENT CACHING spoke of it.
    fn take_wordless(&mut self, line: &[u8]) {
        if counts_without_a_word(self.clients.thread.server_version(), line) {
            self.session.take_visible();
            self.caching_ends(self.announcing(), None);
        }
    }

    pub(super) fn violate(&mut self, violation: RequestViolation) {
        self.end_for_protocol(&violation.reply());
    }

    /// Ends the client behind `reply`, which says what is wrong with what it has sent; not yet where the server has still to answer
    /// what stands before that.
    pub(super) fn end_for_protocol(&mut self, reply: &[u8]) {
        if self.waits_for_place() {
            return;
        }
        // Like Redis, not a word to a client that wants none, or none next.
        if self.session.take_visible() {
            self.outlet.own_reply(reply);
        }
        self.ending = Some(Disconnect::ProtocolError);
    }
}
