//! What respool answers itself because it concerns the session: SELECT, RESET, QUIT, and where HELLO and AUTH lead.

use std::future::poll_fn;
use std::rc::Rc;

use super::pinned::{NOT_IN_MULTI, refusal};
use super::rejection::tell_rejection;
use super::requests::{Next, UNREACHABLE, unserved};
use super::serve::Awaited;
use super::slow::{NOT_WHILE_DEBUGGING, Told};
use super::task::{Client, Wait};
use crate::admission::AdmissionRefusal;
use crate::auth::PermissionResult;
use crate::command::{ClientSub, CommandId, Delays, Local, PinReason};
use crate::fanout::TopicKind;
use crate::identity::ClientFlag;
use crate::link::Link;
use crate::resp::speak::{OK, encode_request};
use crate::resp::{Request, parse_integer};
use crate::session::{Change, OwnCommand, ReplyMode, Session, State, malformed, misused};
use crate::telemetry::Disconnect;
use crate::texts::{
    BAD_NAME, NO_SUCH_DATABASE, NOT_AN_INT, NOT_AN_INTEGER, RESET, asking, is_unknown_command,
    readonly, readwrite, takes_readonly, unknown_command,
};
use crate::upstream::{SharedWait, WaitError};

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
        match local {
            Local::NumSub => return self.count_subscribers(TopicKind::Channel, request, command),
            Local::ShardNumSub => {
                return self.count_subscribers(TopicKind::Shard, request, command);
            }
            _ => {}
        }
        match self.permission_of(local) {
            Some(permission) => self.answer_permitted(local, request, command, permission),
            None => self.ask_first(local, request, command),
        }
        used
    }

    /// Has the server asked whether it permits what respool answers itself, and answers then.
    fn ask_first(&mut self, local: Local, request: &Request<'_>, command: Option<CommandId>) {
        let request: Box<[u8]> = request.bytes().into();
        self.note_kept(request.len());
        self.then(async move |client: &mut Self| {
            let permission = client.asked_permission_of(local).await?;
            client.settled().await?;
            client.note_kept(0);
            client.answer_permitted(local, &Request::new(&request), command, permission);
            client.outlet.flush();
            Ok(())
        });
    }

    /// Answers a request of respool's own, as far as the server permits it.
    fn answer_permitted(
        &mut self,
        local: Local,
        request: &Request<'_>,
        command: Option<CommandId>,
        permission: PermissionResult,
    ) {
        let server = self.clients.thread.server_version();
        if let Err(reply) = permission {
            let reply = match matches!(local, Local::Client(_)) && is_unknown_command(&reply) {
                // It names the words that it was sent.
                true => unknown_command(server, request),
                false => reply,
            };
            self.answer(&reply);
            if matches!(local, Local::Client(_)) {
                self.end_if_lost(&reply);
            }
            return;
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
            Local::Reset if self.has_many_topics() => self.then(async |client: &mut Self| {
                client.leave_topics().await?;
                client.reset();
                Ok(())
            }),
            Local::Reset => self.reset(),
            Local::Readonly => {
                self.flag(ClientFlag::ReadsReplica, takes_readonly(server));
                self.answer(readonly(server));
            }
            Local::Readwrite => {
                self.flag(ClientFlag::ReadsReplica, false);
                self.answer(readwrite(server));
            }
            Local::Asking => self.answer(asking()),
            Local::Client(sub) => {
                // Its own line shows the command at hand.
                self.note_command(command);
                match misused(server, request, command) {
                    Some(reply) => self.answer(&reply),
                    None => self.client_command(sub, request),
                }
            }
            Local::NumSub | Local::ShardNumSub => {}
        }
    }

    /// A client that wants another database, user or protocol, of which the server could not be asked, is closed behind
    /// the error: some libraries pass over it, and what comes next would run where, or as whom, it was not meant to.
    pub(super) fn end_if_not_asked(&mut self, reply: &[u8]) {
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
        self.record.db.set(database);
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
        } else if self.pin.is_none() && self.clients.upstream.knows_database(&target) {
            self.in_database(database);
            self.answer(OK);
        } else {
            self.then(async move |client: &mut Self| client.select_anew(target).await);
        }
    }

    /// Has the server decide whether there is such a database, and the client may go there.
    async fn select_anew(&mut self, target: State) -> Told {
        let database = target.database;
        let told = if self.pin.is_some() {
            let Some(told) = self.change_pin(&target, Change::InPlace).await? else {
                return Ok(());
            };
            told
        } else if target.user.is_some() {
            self.asked_to_select(target).await?
        } else {
            self.selected_on_shared(target).await?
        };
        match told {
            Ok(()) => {
                self.in_database(database);
                self.answer(OK);
            }
            Err(reply) => {
                self.answer(&reply);
                self.end_if_lost(&reply);
                self.end_if_not_asked(&reply);
            }
        }
        Ok(())
    }

    /// Has the server decide whether the client's user may SELECT: a connection is taken to its database by respool's own
    /// user, who may.
    async fn asked_to_select(&mut self, target: State) -> Told<Result<(), Vec<u8>>> {
        self.link = None;
        let upstream = Rc::clone(&self.clients.upstream);
        let (group, probe) = (
            self.group(),
            encode_request(&["SELECT", &target.database.to_string()]),
        );
        let asking = upstream.may_run((target, group), &probe);
        let told = self.meanwhile(asking, Awaited::Server).await?;
        Ok(told.unwrap_or_else(|error| Err(refusal(error))))
    }

    /// Waits for a shared connection in this database or, where none of those there may be is answered on, for one that is lent for it.
    async fn selected_on_shared(&mut self, target: State) -> Told<Result<(), Vec<u8>>> {
        self.link = None;
        let upstream = Rc::clone(&self.clients.upstream);
        let wait = upstream.wait_shared(&target, 1);
        let told = self.served_by(wait, Some(Delays::NONE)).await?;
        if !matches!(told, Ok(None)) || !upstream.lends_instead(&target, Delays::NONE) {
            return Ok(told.map(|link| self.link = link));
        }
        let leading = upstream.leads_to(self.group(), target);
        let told = self.meanwhile(leading, Awaited::Server).await?;
        Ok(told.map_err(refusal))
    }

    /// Waits for a shared connection; `lent` is what may delay the request that can be sent on a lent one as well.
    ///
    /// # Errors
    /// Within it, what the client gets where there is none.
    pub(super) async fn served_by(
        &mut self,
        wait: Result<SharedWait, WaitError>,
        lent: Option<Delays>,
    ) -> Told<Result<Option<Rc<Link>>, Vec<u8>>> {
        let wait = match wait {
            Ok(wait) => wait,
            Err(error) => return Ok(Err(unserved(error))),
        };
        if let Some(delays) = lent {
            wait.may_be_lent(delays);
        }
        let served = self
            .meanwhile(poll_fn(|cx| wait.poll(cx)), Awaited::Server)
            .await?;
        Ok(served.map_err(unserved))
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
        self.record.resp.set(2);
        {
            let mut names = self.record.names();
            names.name = Box::default();
            names.user = Box::default();
        }
        self.note_kept(0);
        for flag in [
            ClientFlag::Pinned,
            ClientFlag::Multi,
            ClientFlag::Watching,
            ClientFlag::Tracking,
            ClientFlag::Broadcast,
            ClientFlag::BrokenRedirection,
            ClientFlag::Monitor,
            ClientFlag::Pubsub,
            ClientFlag::ReadsReplica,
        ] {
            self.flag(flag, false);
        }
        self.regroup(RESET.to_vec());
    }

    /// Moves the client's place to the group its name and user belong to now, and answers `reply`; or the rejection.
    pub(super) fn regroup(&mut self, reply: Vec<u8>) {
        let identity = self.record.identity();
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
        let identity = self.record.identity();
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
        self.permit.reseat(&self.record.identity());
        self.become_guest();
        let limits = &self.clients.thread.settings().limits;
        self.outlet.set_limit_bytes(limits.max_client_buffer);
        self.moved();
    }

    pub(super) fn moved(&mut self) {
        self.note_arriving();
        let group = self.group();
        self.record.group.set(group as u32);
        self.entry
            .idle_timeout
            .set(self.clients.idle_timeout(group));
        self.log_admission();
    }

    /// The client has no place any more: every command from here on gets the error, with `is_answered` the one at hand too.
    pub(super) fn reject(&mut self, refusal: AdmissionRefusal, is_answered: bool) {
        tell_rejection(&self.clients.admission, &refusal, &self.record.identity());
        self.flag(ClientFlag::Rejected, true);
        if is_answered {
            let explain = self.clients.thread.settings().limits.explain_rejections;
            self.reply(&refusal.client_text(explain));
        }
        self.rejected = Some(Box::new(refusal));
        self.ending = Some(Disconnect::Rejected);
    }
}
