//! What respool answers itself because it concerns the session: SELECT, RESET, QUIT, and where HELLO and AUTH lead.

use std::rc::Rc;

use super::debugging::NOT_WHILE_DEBUGGING;
use super::pinned::{NOT_IN_MULTI, refusal};
use super::rejection::tell_rejection;
use super::requests::{Next, UNREACHABLE};
use super::task::{Client, Done, Purpose, Wait};
use crate::admission::Refusal;
use crate::command::{ClientSub, CommandId, Delays, Local, PinReason};
use crate::fanout::TopicKind;
use crate::identity::Flag;
use crate::resp::speak::{OK, encode_request};
use crate::resp::{Request, parse_integer};
use crate::schedule::LoginPlace;
use crate::session::{Change, OwnCommand, ReplyMode, Session, State, malformed, misused};
use crate::telemetry::Disconnect;
use crate::texts::{
    BAD_NAME, NO_SUCH_DATABASE, NOT_AN_INT, NOT_AN_INTEGER, RESET, asking, readonly, readwrite,
    takes_readonly,
};
use crate::upstream::WaitError;

const LONG_NAME: &str = "ERR respool: a client name may measure 1 KiB";

/// Most bytes of what a client calls itself. Redis has no bound of its own.
const MOST_NAMED: usize = 1024;

/// Whether Redis takes `name` for a client name (`validateClientName`), and respool keeps it.
///
/// # Errors
/// What the client gets otherwise.
pub(super) fn client_name(name: &[u8]) -> Result<(), &'static str> {
    if !name.iter().all(|byte| (b'!'..=b'~').contains(byte)) {
        return Err(BAD_NAME);
    }
    if name.len() > MOST_NAMED {
        return Err(LONG_NAME);
    }
    Ok(())
}

impl Client {
    /// Answers a request of respool's own. [`Next::Used`]: done with, though the answer may come when what is waited for
    /// has come.
    pub(super) fn local(
        &mut self,
        local: Local,
        request: &Request<'_>,
        command: Option<CommandId>,
    ) -> Next {
        let used = Next::Used(request.bytes().len());
        let changes_state = !matches!(local, Local::Client(sub) if sub != ClientSub::SetName);
        let is_raw = self.pin.as_ref().is_some_and(|pin| pin.link().is_raw());
        if (changes_state || self.pin.is_some()) && self.outlet.outstanding() > 0 && !is_raw {
            // What was sent before runs in the state that was; and only then is it known whether a transaction is open.
            self.wait = Wait::Answers;
            return Next::Wait;
        }
        let is_open = self.pin.is_some() && self.outlet.transaction().open;
        let server = self.clients.thread.server_version();
        if let Some(reply) = malformed(server, request, command) {
            if local == Local::Client(ClientSub::SetInfo) {
                self.note_library(request);
            }
            if is_open {
                return self.spoil_transaction(request, command, &reply);
            }
            self.answer(&reply);
            return used;
        }
        if is_open {
            match local {
                Local::Quit | Local::Reset => {}
                Local::Select => return self.queued_select(request, command),
                Local::Readonly | Local::Readwrite | Local::Asking => {
                    return self.on_pin(PinReason::Multi, request, command);
                }
                Local::NumSub | Local::ShardNumSub | Local::Client(_) => {
                    return self.queue_own(OwnCommand::Local(local), request, command);
                }
                Local::Hello | Local::Auth => {
                    return self.spoil_transaction(request, command, NOT_IN_MULTI);
                }
            }
        }
        if let Some(next) = self.refused_while_busy(local, request.bytes().len()) {
            return next;
        }
        match local {
            Local::Hello => self.hello(request),
            Local::Auth => self.auth(request),
            Local::Select => self.select(request),
            Local::Quit => {
                self.answer(OK);
                self.ending = Some(Disconnect::Quit);
            }
            Local::Reset if self.is_debugging() => self.answer(NOT_WHILE_DEBUGGING),
            Local::Reset => match self.leave_many_topics() {
                Some(next) => return next,
                None => self.reset(),
            },
            Local::Readonly => {
                self.flag(Flag::ReadsReplica, takes_readonly(server));
                self.answer(readonly(server));
            }
            Local::Readwrite => {
                self.flag(Flag::ReadsReplica, false);
                self.answer(readwrite(server));
            }
            Local::Asking => self.answer(asking()),
            Local::NumSub => return self.count_subscribers(TopicKind::Channel, request, command),
            Local::ShardNumSub => {
                return self.count_subscribers(TopicKind::Shard, request, command);
            }
            Local::Client(sub) => {
                if let Some(next) = self.unpermitted(sub, request) {
                    return next;
                }
                // Its own line shows the command at hand.
                self.note_command(command);
                match misused(server, request, command) {
                    Some(reply) => self.answer(&reply),
                    None => self.client_command(sub, request),
                }
            }
        }
        used
    }

    /// What was waited for is acknowledged, or refused with this reply.
    pub(super) fn acknowledged(&mut self, purpose: Purpose, result: Result<(), Vec<u8>>) {
        match (purpose, result) {
            (Purpose::Traffic | Purpose::Again, Ok(())) => {}
            (Purpose::Traffic, Err(reply)) => self.refusing = Some(reply),
            (Purpose::Again, Err(reply)) => {
                self.outlet.fail_unsent(&self.unsent_reply(&reply));
                self.end_if_lost(&reply);
            }
            (Purpose::Select(database), Ok(())) => {
                self.in_database(database);
                self.answer(OK);
            }
            (Purpose::Hello(login), Ok(())) => self.greet_on_pin(*login),
            (Purpose::Login(login), Ok(())) => self.logged_in(*login),
            (Purpose::Select(_), Err(reply)) => {
                self.answer(&reply);
                self.end_if_lost(&reply);
                self.end_if_not_asked(&reply);
            }
            (Purpose::Login(login) | Purpose::Hello(login), Err(reply)) => {
                self.login_refused(&login, &reply);
                self.end_if_not_asked(&reply);
            }
        }
        self.outlet.flush();
    }

    /// A client that wants another database, user or protocol, of which the server could not be asked, is closed behind
    /// the error: some libraries pass over it, and what comes next would run where, or as whom, it was not meant to.
    fn end_if_not_asked(&mut self, reply: &[u8]) {
        if reply == UNREACHABLE {
            self.ending = Some(Disconnect::UpstreamLost);
        }
    }

    pub(super) fn reply(&mut self, reply: &[u8]) {
        self.answer(reply);
        self.outlet.flush();
    }

    pub(super) fn in_database(&mut self, database: u32) {
        self.session.state.database = database;
        self.card.db.set(database);
    }

    fn select(&mut self, request: &Request<'_>) {
        let Some(number) = request.argument(1).and_then(parse_integer) else {
            return self.answer(NOT_AN_INTEGER);
        };
        if i32::try_from(number).is_err() {
            return self.answer(NOT_AN_INT);
        }
        let Ok(database) = u32::try_from(number) else {
            return self.answer(NO_SUCH_DATABASE);
        };
        let target = State {
            database,
            ..self.session.state.clone()
        };
        let is_known = self.pin.is_none() || !self.outlet.transaction().is_database_unknown();
        if database == self.session.state.database && is_known {
            self.answer(OK);
        } else if self.pin.is_some() {
            self.dress_pin(target, Change::InPlace, Purpose::Select(database));
        } else if self.clients.upstream.knows_database(&target) {
            self.in_database(database);
            self.answer(OK);
        } else if target.user.is_some() {
            self.ask_to_select(target);
        } else {
            self.ask_shared(&target, None, Purpose::Select(database));
        }
    }

    /// Has the server decide whether the client's user may SELECT: a connection is taken to its database by respool's own
    /// user, who may.
    fn ask_to_select(&mut self, target: State) {
        self.link = None;
        let upstream = Rc::clone(&self.clients.upstream);
        let (database, group) = (target.database, self.group());
        let probe = encode_request(&["SELECT", &database.to_string()]);
        self.wait = Wait::Task(Box::pin(async move {
            let told = upstream.may_run((target, group), &probe).await;
            let told = told.unwrap_or_else(|error| Err(refusal(error)));
            Done::Dressed(Some(told), Purpose::Select(database))
        }));
    }

    /// Waits for a shared connection on which the server has acknowledged `target`; anew, for one who logs in.
    pub(super) fn ask_shared(
        &mut self,
        target: &State,
        login: Option<LoginPlace>,
        purpose: Purpose,
    ) {
        self.link = None;
        let upstream = &self.clients.upstream;
        let wait = match login {
            Some(place) => upstream.log_in(target, place),
            None => upstream.wait_shared(target, 1),
        };
        match wait {
            Ok(wait) => {
                if matches!(purpose, Purpose::Select(_)) {
                    wait.may_be_lent(Delays::NONE);
                }
                self.wait = Wait::Shared(wait, purpose);
            }
            Err(WaitError::Unreachable) => self.acknowledged(purpose, Err(UNREACHABLE.to_vec())),
            Err(WaitError::Refused(reply)) => self.acknowledged(purpose, Err(reply)),
        }
    }

    /// Whether a change of database that had no shared connection goes on on one that is lent for it: none of those there may be is
    /// answered on.
    pub(super) fn selects_elsewhere(&mut self, purpose: &Purpose) -> bool {
        let Purpose::Select(database) = *purpose else {
            return false;
        };
        let target = State {
            database,
            ..self.session.state.clone()
        };
        let upstream = Rc::clone(&self.clients.upstream);
        if !upstream.lends_instead(&target, Delays::NONE) {
            return false;
        }
        let group = self.group();
        self.wait = Wait::Task(Box::pin(async move {
            let told = upstream.leads_to(group, target).await.map_err(refusal);
            Done::Dressed(Some(told), Purpose::Select(database))
        }));
        true
    }

    pub(super) fn reset(&mut self) {
        if self.outlet.has_open_frame() {
            // Half a message is out; nothing can follow it on this connection.
            return self.outlet.close(Disconnect::Closed);
        }
        // Whatever the connection lent to it holds is scrubbed with it.
        self.entry.leave_redirections();
        self.pin.take();
        self.entry.pinned.borrow_mut().take();
        self.entry.may_be_silent.set(false);
        *self.outlet.transaction() = Default::default();
        self.link = None;
        let skips = self.session.reply == ReplyMode::SkipNext;
        self.permission = None;
        self.session = Session::new(self.clients.guest());
        self.restrictions.set_locked(self.must_authenticate());
        self.note_known();
        if skips {
            // As in Redis it undoes OFF for its own reply, but not a SKIP.
            self.session.reply = ReplyMode::SkipNext;
        }
        self.unsubscribe_all();
        self.outlet.speak(self.session.state.protocol);
        self.in_database(0);
        self.card.resp.set(2);
        {
            let mut names = self.card.names();
            names.name = Box::default();
            names.user = Box::default();
        }
        self.note_kept(0);
        for flag in [
            Flag::Pinned,
            Flag::Multi,
            Flag::Watching,
            Flag::Tracking,
            Flag::Broadcast,
            Flag::BrokenRedirection,
            Flag::Monitor,
            Flag::Pubsub,
            Flag::ReadsReplica,
        ] {
            self.flag(flag, false);
        }
        self.regroup(RESET.to_vec());
    }

    /// Moves the client's place to the group its name and user belong to now, and answers `reply`; or the rejection.
    pub(super) fn regroup(&mut self, reply: Vec<u8>) {
        let identity = self.card.identity();
        match self.permit.regroup(&identity, self.now()) {
            Ok(moved) => {
                if moved.is_some() {
                    self.moved();
                }
                // Inside EXEC it has been answered.
                if !reply.is_empty() {
                    self.answer(&reply);
                }
            }
            Err(refusal) if refusal.evict => self.await_room(refusal, Some(reply)),
            Err(refusal) => self.reject(refusal, true),
        }
    }

    /// Room was made for the client in the group that had none.
    pub(super) fn regroup_anew(&mut self, reply: Option<Vec<u8>>) {
        let identity = self.card.identity();
        let placed = match self.permit.has_place() {
            true => self.permit.settle(&identity, self.now()),
            false => {
                let admitted = self.clients.admission.admit(&identity, self.now());
                admitted.map(|permit| self.permit = permit)
            }
        };
        match placed {
            Ok(()) => {
                self.moved();
                if let Some(reply) = reply.filter(|reply| !reply.is_empty()) {
                    self.reply(&reply);
                }
            }
            Err(refusal) => self.reject(refusal, reply.is_some()),
        }
    }

    /// Goes where a reload puts it, whatever the caps say, and by what holds there.
    #[cold]
    pub(super) fn reseat(&mut self) {
        if self.arrives_for_long() {
            self.settle_late();
        }
        self.permit.reseat(&self.card.identity());
        self.become_guest();
        let limits = &self.clients.thread.settings().limits;
        self.outlet.set_limit_bytes(limits.max_client_buffer);
        self.moved();
    }

    pub(super) fn moved(&mut self) {
        self.note_arriving();
        let group = self.group();
        self.card.group.set(group as u32);
        self.entry
            .idle_timeout
            .set(self.clients.idle_timeout(group));
        self.log_admission();
    }

    /// The client has no place any more: every command from here on gets the error, with `is_answered` the one at hand too.
    pub(super) fn reject(&mut self, refusal: Refusal, is_answered: bool) {
        tell_rejection(&self.clients.admission, &refusal, &self.card.identity());
        self.flag(Flag::Rejected, true);
        if is_answered {
            let explain = self.clients.thread.settings().limits.explain_rejections;
            self.reply(&refusal.client_text(explain));
        }
        self.rejected = Some(Box::new(refusal));
        self.ending = Some(Disconnect::Rejected);
    }
}
