//! CLIENT TRACKING: a connection lent for as long as it is on, and another one for each client to which its invalidations are
//! redirected, or may be by what is queued.
//!
//! The server knows connections, clients know each other by respool's numbers. `REDIRECT id` therefore names, at the server,
//! a connection that is lent for nothing else: what the server sends there is passed on to client `id`, wherever it is.

use std::rc::Rc;
use std::sync::Arc;

use super::redirection::{Redirection, RedirectionNames};
use super::refusals::{NOT_IN_MULTI, TOO_MANY_OWN, UNREACHABLE, refusal};
use super::story::{Awaited, SlowRequest, Told};
use super::{Client, Next, Wait};
use crate::command::{CommandId, Delays, PinReason};
use crate::exchange::RequestKind;
use crate::failover::ServerNode;
use crate::identity::ClientFlag;
use crate::link::Link;
use crate::resp::speak::{encode_request, push_header};
use crate::resp::{Request, parse_integer};
use crate::session::{OwnCommand, PinnedCommand, Protocol, State, Tracking, TrackingRequest};
use crate::telemetry::Bound;

/// Begins the field in which TRACKINGINFO tells the connection to which is redirected.
const REDIRECT_FIELD: &[u8] = b"$8\r\nredirect\r\n";

/// Begins the field in which it tells what holds, and that a redirection leads nowhere.
const FLAGS_FIELD: &[u8] = b"$5\r\nflags\r\n";
const BROKEN_FLAG: &[u8] = b"$15\r\nbroken_redirect\r\n";

/// Most clients to which one transaction may redirect: a connection is lent to stand for each.
const MOST_STAND_INS: usize = 4;

impl Client {
    /// CLIENT TRACKING, CACHING, GETREDIR or TRACKINGINFO, where that names no connection.
    pub(super) fn tracking(&mut self, request: &Request<'_>, command: Option<CommandId>) -> Next {
        let link = match self.pin_with_room(PinReason::Tracking) {
            Ok(link) => link,
            Err(next) => return next,
        };
        let asked = TrackingRequest::by(request);
        if let TrackingRequest::Switch(on, _) = asked {
            self.switch_tracking(&link, request.bytes(), command, on);
            return Next::Used(request.bytes().len());
        }
        self.count(1, command);
        let (show, kind) = (self.show(), self.queued_kind());
        let kind = (kind, Delays::NONE);
        link.send(&self.outlet, request.bytes(), 1, kind, show);
        if asked == TrackingRequest::Caching {
            link.set_announcing();
        }
        Next::Used(request.bytes().len())
    }

    /// The story of a request that names a connection. Nothing is outstanding.
    pub(super) async fn names_stand_in(&mut self, slow: &SlowRequest) -> Told {
        match TrackingRequest::by(&slow.request()) {
            TrackingRequest::Switch(on, targets) => self.redirect(slow, on, &targets).await,
            TrackingRequest::Redirection | TrackingRequest::Caching => {
                self.ask_redirection(slow).await
            }
        }
    }

    fn switch_tracking(
        &mut self,
        link: &Rc<Link>,
        bytes: &[u8],
        command: Option<CommandId>,
        on: Option<Tracking>,
    ) {
        self.use_pin(|pin| pin.leaves_traces = true);
        if on.is_some_and(|on| !on.broadcasts) {
            link.set_may_remember_keys(true);
        }
        self.count(1, command);
        let show = self.show();
        let kind = (
            RequestKind::Pinned(PinnedCommand::Tracking(on)),
            Delays::NONE,
        );
        link.send(&self.outlet, bytes, 1, kind, show);
    }

    pub(super) fn redirects(&self) -> bool {
        let tracking = self.outlet.transaction().tracking;
        let is_redirected = tracking.is_some_and(|tracking| tracking.redirect.is_some());
        // Or it is queued.
        is_redirected || !self.entry.redirections.borrow().is_empty()
    }

    /// CLIENT TRACKING with REDIRECT, its ids replaced by such as the server knows.
    async fn redirect(
        &mut self,
        slow: &SlowRequest,
        on: Option<Tracking>,
        targets: &[usize],
    ) -> Told {
        let (request, command) = (slow.request(), slow.command());
        if self.lent(slow, PinReason::Tracking).await?.is_none() {
            return Ok(());
        }
        let is_open = self.outlet.transaction().is_open();
        let known = self.known_targets(&request, targets, is_open);
        let target = match known.as_slice() {
            [(_, id)] if on.is_some() && targets.len() == 1 => *id,
            _ => None,
        };
        let Some((link, exists)) = self.id_to_name(slow, target).await? else {
            return Ok(());
        };
        let mut words: Vec<Vec<u8>> = request.arguments().map(<[u8]>::to_vec).collect();
        for (at, id) in known {
            // No connection has the number 0: the server itself says that there is none.
            words[at] = id.map_or(0, |_| exists).to_string().into_bytes();
        }
        let words = encode_request(&words);
        if let Some(id) = target.filter(|_| is_open) {
            link.set_may_remember_keys(true);
            let own = OwnCommand::Redirected(id);
            let queue = |client: &mut Self, _: &Request<'_>| {
                client.queue_own(own, &Request::new(&words), command)
            };
            return self.until_done(slow, queue).await;
        }
        let on = on.map(|on| Tracking {
            redirect: target,
            ..on
        });
        if target.is_some() {
            self.entry.use_redirections(target);
        }
        self.switch_tracking(&link, &words, command, on);
        // One at a time: what is redirected where is settled by the answer.
        self.wait = Wait::Answers;
        Ok(())
    }

    /// Returns the connection lent to the client, and the id that its server is to be told: that of a connection which stands for client
    /// `target`, or of any where nothing is redirected in the end. `None`: the request is answered with an error.
    async fn id_to_name(
        &mut self,
        slow: &SlowRequest,
        target: Option<u64>,
    ) -> Told<Option<(Rc<Link>, i64)>> {
        let (command, is_open) = (slow.command(), self.outlet.transaction().is_open());
        let Some(id) = target else {
            let link = self.lent(slow, PinReason::Tracking).await?;
            return Ok(link.map(|link| {
                let any = link.server_id();
                (link, any)
            }));
        };
        if is_open && self.has_too_many_besides(id) {
            self.clients.thread.counters.bound(Bound::InFlight).add(1);
            self.spoil(command, TOO_MANY_OWN);
            return Ok(None);
        }
        let (server_id, node) = match self.stand_in(id).await? {
            Ok(standing) => standing,
            // No connection was lent to stand for the client: an error there fails the transaction.
            Err(reply) if is_open => {
                self.spoil(command, &reply);
                return Ok(None);
            }
            Err(reply) => {
                self.refuse_with(slow, reply);
                return Ok(None);
            }
        };
        let Some(link) = self.lent(slow, PinReason::Tracking).await? else {
            return Ok(None);
        };
        if node == link.origin().node {
            return Ok(Some((link, server_id)));
        }
        // The one server does not know the connections of the other, but others by the same ids.
        if is_open {
            self.spoil(command, NOT_IN_MULTI);
        } else {
            self.entry.keep_redirections(|other| other.to != id);
            self.refuse_with(slow, UNREACHABLE.to_vec());
        }
        Ok(None)
    }

    /// Returns which clients the words at these places name, as far as they are there.
    fn known_targets(
        &self,
        request: &Request<'_>,
        targets: &[usize],
        is_open: bool,
    ) -> Vec<(usize, Option<u64>)> {
        let is_there = |id: u64| {
            self.clients.registry.find(id).is_some() && !(is_open && self.is_killed_before(id))
        };
        let find = |number: i64| u64::try_from(number).ok().filter(|&id| is_there(id));
        let targets = targets.iter();
        targets
            .filter_map(|&at| Some((at, find(parse_integer(request.argument(at)?)?))))
            .collect()
    }

    /// Tells whether connections stand for as many other clients as one transaction may redirect to.
    fn has_too_many_besides(&self, id: u64) -> bool {
        let all = self.entry.redirections.borrow();
        all.len() >= MOST_STAND_INS && all.iter().all(|redirection| redirection.to != id)
    }

    /// The id of a connection that stands for client `id`, and the server to which it is one; one is lent where there is none. Else what
    /// the client gets.
    async fn stand_in(&mut self, id: u64) -> Told<Result<(i64, ServerNode), Vec<u8>>> {
        loop {
            if let Some(standing) = self.standing_for(id) {
                return Ok(Ok(standing));
            }
            let state = State {
                // The server sends invalidations as pushes then, whoever else is subscribed to what.
                protocol: Protocol::Resp3,
                ..self.session.state.clone()
            };
            let upstream = Rc::clone(&self.clients.upstream);
            let borrowing = upstream.pin(self.group(), state, Rc::clone(&self.outlet));
            let pin = match self.meanwhile(borrowing, Awaited::Loan).await? {
                Ok(pin) => pin,
                Err(error) => return Ok(Err(refusal(error))),
            };
            let counters = self.clients.thread.counters.group(self.group());
            counters.pin(PinReason::Tracking as usize).add(1);
            let owner = (Rc::clone(&self.outlet), Arc::clone(self.record.record()));
            let redirection = Redirection::new(&self.clients, owner, pin, id);
            self.entry.add_redirection(redirection);
        }
    }

    fn standing_for(&self, id: u64) -> Option<(i64, ServerNode)> {
        let all = self.entry.redirections.borrow();
        let mut its = all.iter().filter(|redirection| redirection.to == id);
        its.find_map(|one| Some((one.server_id, one.node()?)))
    }

    /// An EXEC has redirected invalidations to this client: what the server is asked next tells whether that holds still.
    pub(super) fn exec_redirected(&self, to: u64) {
        self.outlet.transaction().tracking = Some(Tracking {
            broadcasts: false,
            redirect: Some(to),
        });
    }

    /// Asks the server for what holds the id of a connection, and tells the client's number instead.
    async fn ask_redirection(&mut self, slow: &SlowRequest) -> Told {
        let (request, command) = (slow.request(), slow.command());
        let Some(link) = self.lent(slow, PinReason::Tracking).await? else {
            return Ok(());
        };
        if self.outlet.transaction().is_open() {
            return self
                .until_done(slow, |client, request| {
                    client.queue_own(OwnCommand::Redirection, request, command)
                })
                .await;
        }
        self.count(1, command);
        let told = link.ask(request.bytes());
        // Lost with the connection, and the client with it.
        let reply = self.meanwhile(told, Awaited::Server).await?;
        let reply = renamed(reply.unwrap_or_default(), &self.entry.redirection_names());
        self.reply(&reply);
        Ok(())
    }

    /// An EXEC may have switched tracking: asks the server whether it is on.
    pub(super) async fn settle_tracking(&mut self, link: &Rc<Link>) -> Told {
        let request = encode_request(&["CLIENT", "TRACKINGINFO"]);
        let told = link.ask(&request);
        let reply = self.meanwhile(told, Awaited::Server).await?;
        self.tracking_settled(&reply.unwrap_or_default());
        Ok(())
    }

    /// The server's answer to that. One that says nothing (ACL) leaves the connection with the client.
    fn tracking_settled(&mut self, reply: &[u8]) {
        let at = memchr::memmem::find(reply, REDIRECT_FIELD);
        // The flags stand before it, and prefixes, which may read like flags, behind it.
        let flags = &reply[..at.unwrap_or(reply.len())];
        let has = |text: &[u8]| memchr::memmem::find(flags, text).is_some();
        let to = at.and_then(|at| told_id(&reply[at + REDIRECT_FIELD.len()..]));
        let mut transaction = self.outlet.transaction();
        let known = transaction.tracking.and_then(|tracking| tracking.redirect);
        let all = self.entry.redirections.borrow();
        let told = all
            .iter()
            .find(|redirection| Some(redirection.server_id) == to);
        transaction.tracking_unsure = false;
        transaction.tracking = (!has(b"$3\r\noff\r\n")).then(|| Tracking {
            broadcasts: has(b"$5\r\nbcast\r\n"),
            // As long as it does not say otherwise something may be sent there.
            redirect: match at {
                None => known,
                Some(_) => told.map(|redirection| redirection.to),
            },
        });
    }

    /// Takes what the server has acknowledged for what is so. Nothing is outstanding.
    pub(super) fn note_tracking(&self) {
        let (tracking, is_settled) = {
            let transaction = self.outlet.transaction();
            let is_settled = !transaction.is_open() && !transaction.tracking_unsure;
            (transaction.tracking, is_settled)
        };
        let redirect = tracking.and_then(|tracking| tracking.redirect);
        self.flag(ClientFlag::Tracking, tracking.is_some());
        self.flag(
            ClientFlag::Broadcast,
            tracking.is_some_and(|tracking| tracking.broadcasts),
        );
        self.record.redirect.set(redirect.unwrap_or(0));
        let all = self.entry.redirections.borrow();
        let current = all
            .iter()
            .rfind(|redirection| Some(redirection.to) == redirect)
            .cloned();
        let is_broken = current
            .as_ref()
            .is_some_and(|current| current.names().is_broken);
        self.flag(ClientFlag::BrokenRedirection, is_broken);
        let Some(pin) = self.pin.as_ref().filter(|_| !all.is_empty()) else {
            return;
        };
        let count = all.len();
        drop(all);
        if current.is_some() || is_settled {
            let names = current
                .as_ref()
                .map(|current| (current.server_id, current.to));
            pin.link().stand_for(names);
        }
        // The others may be for what is queued, or was.
        if is_settled && count > usize::from(current.is_some()) {
            let is_current = |one: &Redirection| {
                current
                    .as_ref()
                    .is_some_and(|current| std::ptr::eq(one, &raw const **current))
            };
            // Acknowledged: the server sends them nothing any more.
            for redirection in self.entry.keep_redirections(is_current) {
                redirection.finish();
            }
        }
    }
}

/// The server's answer to GETREDIR or TRACKINGINFO with the client's number in the place of the connection's that stands for it.
pub(super) fn renamed(mut reply: Vec<u8>, known: &[RedirectionNames]) -> Vec<u8> {
    let field = memchr::memmem::find(&reply, REDIRECT_FIELD);
    let at = field.map_or(0, |at| at + REDIRECT_FIELD.len());
    let told = told_id(&reply[at..]);
    if let Some(names) = known.iter().find(|names| Some(names.server_id) == told) {
        let rest = reply.split_off(at);
        let end = memchr::memchr(b'\n', &rest).map_or(rest.len(), |end| end + 1);
        push_header(&mut reply, b':', names.to as i64);
        reply.extend_from_slice(&rest[end..]);
        if let Some(field) = field.filter(|_| names.is_broken) {
            flag_as_broken(&mut reply, field);
        }
    }
    reply
}

/// Adds the flag to TRACKINGINFO that the redirection leads nowhere, the last of those that end at `end`, unless it has it.
fn flag_as_broken(reply: &mut Vec<u8>, end: usize) {
    let flags = reply[..end].windows(FLAGS_FIELD.len());
    let Some(at) = flags.into_iter().position(|bytes| bytes == FLAGS_FIELD) else {
        return;
    };
    let count_at = at + FLAGS_FIELD.len();
    let line = memchr::memchr(b'\r', &reply[count_at..end]).map(|length| count_at + length);
    let count = line.and_then(|line| parse_integer(&reply[count_at + 1..line]));
    let (Some(line), Some(count)) = (line, count) else {
        return;
    };
    if reply[..end].ends_with(BROKEN_FLAG) {
        return;
    }
    reply.splice(end..end, BROKEN_FLAG.iter().copied());
    let kind = reply[count_at];
    let mut header = Vec::new();
    push_header(&mut header, kind, count + 1);
    reply.splice(count_at..line + 2, header);
}

/// The integer this starts with.
fn told_id(reply: &[u8]) -> Option<i64> {
    let end = memchr::memchr(b'\r', reply)?;
    parse_integer(reply[..end].strip_prefix(b":")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leads_nowhere_is_flagged_once() {
        let names = |is_broken| {
            let other = RedirectionNames {
                server_id: 10,
                to: 4,
                is_broken: true,
            };
            let names = RedirectionNames {
                server_id: 12,
                to: 3,
                is_broken,
            };
            [other, names]
        };
        let told = |flags: &str, id: u64| {
            format!(
                "%3\r\n$5\r\nflags\r\n{flags}$8\r\nredirect\r\n:{id}\r\n$8\r\nprefixes\r\n*0\r\n"
            )
            .into_bytes()
        };
        let (on, broken) = (
            "~1\r\n$2\r\non\r\n",
            "~2\r\n$2\r\non\r\n$15\r\nbroken_redirect\r\n",
        );
        assert_eq!(renamed(told(on, 12), &names(false)), told(on, 3));
        assert_eq!(renamed(told(on, 12), &names(true)), told(broken, 3));
        assert_eq!(renamed(told(broken, 12), &names(true)), told(broken, 3));
        assert_eq!(renamed(told(on, 11), &names(true)), told(on, 11));
        assert_eq!(renamed(b":12\r\n".to_vec(), &names(true)), b":3\r\n");
    }
}
