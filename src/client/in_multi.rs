//! Commands that respool answers itself, inside MULTI: something harmless is queued in the place of each, and they run, in that
//! place, when EXEC has.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use super::local::client_command::{OwnClients, question_of};
use super::questions::UNKNOWN_SUBCOMMAND;
use super::redirection::RedirectionNames;
use super::refusals::{NOT_IN_MULTI, TOO_MANY_OWN};
use super::subscribed::corrected;
use super::tracking::renamed;
use super::{Client, ClientMessage, Clients, ClientsMessage, KillNotice, Next, Wait};
use crate::command::{ClientSub, CommandId, Delays, Local, NamedCommand, PinReason, identify};
use crate::exchange::{Executing, RequestKind, Show};
use crate::fanout;
use crate::fences::{Executed, Fence};
use crate::identity::{ClientFlag, ClientRecord};
use crate::resp::Request;
use crate::resp::speak::{OK, encode_request};
use crate::session::{
    NextMark, OwnCommand, OwnElement, OwnElements, PinnedCommand, Protocol, ReplyMode, ShownInExec,
    StandInAnswer, judged, misused, stand_in_for,
};
use crate::telemetry::{Bound, Disconnect};
use crate::texts::{SYNTAX_ERROR, unknown_subcommand};

/// Most commands of one transaction that look at all clients: they run in one turn when EXEC does. 2,000 CLIENT LIST with 3,000
/// clients held a worker, and everybody on it, for 25 s.
const MOST_SEARCHES: usize = 16;

/// Answers a command behind one that may be answered by more than one frame, where the server does not tell where that ends.
const NO_MARK: &[u8] = b"-ERR respool: this command behind a script inside MULTI needs the permission to PING on this server\r\n";

/// Says what EXEC has changed of the client, which takes it up when EXEC has been answered.
#[derive(Debug)]
pub(super) struct ExecEffects {
    shown: Cell<ShownInExec>,
    is_renamed: Cell<bool>,
    /// To whom its invalidations go from then on.
    redirected: Cell<Option<u64>>,
}

/// Runs what a transaction has of respool's own.
struct OwnRunner {
    clients: Rc<Clients>,
    record: Arc<ClientRecord>,
    protocol: Protocol,
    /// Says where its invalidations may go.
    redirections: Box<[RedirectionNames]>,
    elements: Vec<OwnElement>,
    effects: Rc<ExecEffects>,
    /// Lists those that it has killed, who may not have gone yet.
    killed: RefCell<Vec<u64>>,
    /// Lists those that it has unblocked, who may not know yet.
    unblocked: RefCell<Vec<u64>>,
}

impl OwnRunner {
    /// Runs what has the place of this number, and tells what is put in for the server's `element` there. `None`: that element is not
    /// what the server says in such a place, and nobody is to see it.
    fn run(&self, number: usize, element: Vec<u8>) -> Option<Vec<u8>> {
        let own = self.elements.get(number)?;
        let request = Request::new(&own.request);
        let said = match own.command {
            OwnCommand::Local(Local::Client(sub)) => StandInAnswer::of(sub, &element),
            OwnCommand::Judged(_) => judged(&element),
            _ => StandInAnswer::Expected,
        };
        match said {
            StandInAnswer::Expected => {}
            StandInAnswer::Refusal => return Some(element),
            StandInAnswer::Strange => return None,
        }
        Some(match own.command {
            OwnCommand::Select(database) => {
                if element.starts_with(b"+") {
                    self.record.db.set(database);
                }
                element
            }
            OwnCommand::Redirection => renamed(element, &self.redirections),
            OwnCommand::Redirected(to) => {
                if element.starts_with(b"+") {
                    self.effects.redirected.set(Some(to));
                }
                element
            }
            OwnCommand::Local(Local::NumSub) => self.counted(element, fanout::TopicKind::Channel),
            OwnCommand::Local(Local::ShardNumSub) => {
                self.counted(element, fanout::TopicKind::Shard)
            }
            OwnCommand::Local(Local::Client(sub)) | OwnCommand::Judged(sub) => {
                self.client_command(sub, &request)
            }
            OwnCommand::Local(_) => element,
        })
    }

    fn counted(&self, element: Vec<u8>, kind: fanout::TopicKind) -> Vec<u8> {
        corrected(element, kind, &self.clients.thread.process.audiences)
    }

    fn client_command(&self, sub: ClientSub, request: &Request<'_>) -> Vec<u8> {
        let killed = self.killed.borrow().clone();
        let clients = OwnClients {
            clients: &self.clients,
            record: &self.record,
            protocol: self.protocol,
            gone: &killed,
        };
        let words: Vec<&[u8]> = request.arguments().skip(2).collect();
        let server = self.clients.thread.server_version();
        if let Some(reply) = misused(server, request, id_of(request)) {
            return reply;
        }
        match (sub, words.as_slice()) {
            (ClientSub::SetName, [name]) => match clients.set_name(name) {
                Err(reply) => reply,
                Ok(()) => {
                    self.effects.is_renamed.set(true);
                    OK.to_vec()
                }
            },
            (ClientSub::Reply, [mode]) => match ReplyMode::parse(mode) {
                None => SYNTAX_ERROR.to_vec(),
                Some(mode) => {
                    let mut shown = self.effects.shown.get();
                    shown.switch(mode);
                    self.effects.shown.set(shown);
                    match mode {
                        ReplyMode::On => OK.to_vec(),
                        ReplyMode::Off | ReplyMode::SkipNext => Vec::new(),
                    }
                }
            },
            (ClientSub::Kill, filters) => match clients.kill(filters) {
                Err(reply) => reply,
                Ok(kill) => {
                    let (tell, _) = tokio::sync::oneshot::channel();
                    if !kill.others.is_empty() {
                        self.killed.borrow_mut().extend(&kill.others);
                        let notice = Arc::new(KillNotice(tell));
                        let message = ClientsMessage::Kill(kill.others.into(), notice);
                        self.clients.tell_workers.tell_all(&message);
                    }
                    if kill.itself {
                        let mut shown = self.effects.shown.get();
                        shown.close();
                        self.effects.shown.set(shown);
                    }
                    kill.reply
                }
            },
            (ClientSub::Unblock, words @ [_, ..])
                if words.len() <= 2 || server.is_valkey_from((8, 1)) =>
            {
                self.unblock(clients.unblock(words))
            }
            _ => clients.answer(sub, request),
        }
    }

    /// Returns what is answered of a client that is to be unblocked, or of one that is not there.
    fn unblock(&self, asked: Result<(u64, bool), Vec<u8>>) -> Vec<u8> {
        match asked {
            Err(reply) => reply,
            Ok((id, _)) if self.unblocked.borrow().contains(&id) => crate::resp::speak::integer(0),
            Ok((id, with_error)) => {
                self.unblocked.borrow_mut().push(id);
                let (tell, _) = tokio::sync::oneshot::channel();
                let message = ClientMessage::Unblock(id, with_error, tell);
                self.clients.tell_worker_of(id, message);
                crate::resp::speak::integer(1)
            }
        }
    }
}

/// The request's place in the command table.
fn id_of(request: &Request<'_>) -> Option<CommandId> {
    match identify(request.argument(0)?, request.argument(1)) {
        NamedCommand::Known(id) => Some(id),
        _ => None,
    }
}

impl Client {
    /// Tells whether nobody can tell by counting where the next element of EXEC's reply will stand: a mark must be queued before one that
    /// is taken out.
    pub(super) fn needs_mark(&self) -> bool {
        self.pin.as_ref().is_some_and(|pin| pin.queues_unsure)
            || self.outlet.transaction().may_push()
    }

    /// Asks the server to queue a mark, and waits for its answer.
    fn queue_mark(&mut self) -> Next {
        let Some(link) = self.pin.as_ref().map(|pin| Rc::clone(pin.link())) else {
            return Next::Wait;
        };
        let mark = Fence::new(rand::random());
        let kind = (RequestKind::Pinned(PinnedCommand::Mark(mark)), Delays::NONE);
        link.send(&self.outlet, &mark.request(), 1, kind, Show::Hide);
        self.wait = Wait::Answers;
        Next::Wait
    }

    /// Returns what the server is asked to queue in the place of a command of respool's own (`None`: the same), and as what its element is
    /// looked at.
    ///
    /// # Errors
    /// A command that cannot be queued gets this.
    fn stand_in_of(
        &self,
        own: OwnCommand,
        request: &Request<'_>,
    ) -> Result<(OwnCommand, Option<Vec<u8>>), Vec<u8>> {
        let server = self.clients.thread.server_version();
        match own {
            OwnCommand::Local(Local::Client(sub)) => {
                if let Some(question) = question_of(server, sub, request) {
                    return Ok((OwnCommand::Judged(sub), Some(question)));
                }
                match stand_in_for(sub) {
                    Some(words) => Ok((own, Some(encode_request(words)))),
                    // Before 7.0 a subcommand is looked for when the command runs.
                    None if !server.is_from((7, 0)) => {
                        Ok((own, Some(encode_request(UNKNOWN_SUBCOMMAND))))
                    }
                    None => Err(unknown_subcommand(server, request)),
                }
            }
            OwnCommand::Local(Local::NumSub | Local::ShardNumSub)
            | OwnCommand::Redirection
            | OwnCommand::Redirected(_) => Ok((own, None)),
            OwnCommand::Local(_) | OwnCommand::Judged(_) | OwnCommand::Select(_) => {
                Err(NOT_IN_MULTI.to_vec())
            }
        }
    }

    /// A command of respool's own inside MULTI: the server is asked to queue something in its place. Nothing is outstanding.
    pub(super) fn queue_own(
        &mut self,
        own: OwnCommand,
        request: &Request<'_>,
        command: Option<CommandId>,
    ) -> Next {
        let (own, stand_in) = match self.stand_in_of(own, request) {
            Ok(stand_in) => stand_in,
            Err(reply) => return self.spoil_transaction(request, command, &reply),
        };
        let link = match self.pin_with_room(PinReason::Multi) {
            Ok(link) => link,
            Err(next) => return next,
        };
        if self.pin.as_ref().is_some_and(|pin| pin.queues_messages)
            || self.record.has(ClientFlag::Monitor)
        {
            // Nobody could tell its place among what comes beside replies.
            return self.spoil_transaction(request, command, NOT_IN_MULTI);
        }
        if !self.may_queue_own(own, request.bytes().len()) {
            self.clients.thread.counters.bound(Bound::InFlight).add(1);
            return self.spoil_transaction(request, command, TOO_MANY_OWN);
        }
        if self.needs_mark() {
            let next_mark = self.outlet.transaction().own().map(OwnElements::next_mark);
            match next_mark.unwrap_or_default() {
                NextMark::None => return self.queue_mark(),
                NextMark::Refused => return self.spoil_transaction(request, command, NO_MARK),
                NextMark::Queued(_) => self.use_pin(|pin| pin.queues_unsure = false),
            }
        }
        self.count(1, command);
        self.use_pin(|pin| pin.queues_own = true);
        self.outlet.transaction().ask_own(own, request.bytes());
        self.note_kept(0);
        let show = self.show();
        let bytes = stand_in.as_deref().unwrap_or(request.bytes());
        let kind = (RequestKind::Pinned(PinnedCommand::Own), Delays::NONE);
        link.send(&self.outlet, bytes, 1, kind, show);
        Next::Used(request.bytes().len())
    }

    /// Tells whether what is kept of such commands of one transaction stays within what a client may have under way.
    fn may_queue_own(&self, command: OwnCommand, more_bytes: usize) -> bool {
        let most_bytes = self.clients.thread.settings().upstream.max_shared_request;
        let transaction = self.outlet.transaction();
        let Some(own) = transaction.own() else {
            return more_bytes <= most_bytes;
        };
        own.queued().len() < self.in_flight_limit() as usize
            && own.request_bytes() + more_bytes <= most_bytes
            && (!command.searches() || own.searches() < MOST_SEARCHES)
    }

    /// Tells whether a CLIENT KILL that is queued ends this client, as far as can be told before it runs.
    pub(super) fn is_killed_before(&self, id: u64) -> bool {
        let transaction = self.outlet.transaction();
        let queued = transaction.own().map_or(&[][..], OwnElements::queued);
        let kills = queued.iter().filter(|element| {
            matches!(
                element.command,
                OwnCommand::Local(Local::Client(ClientSub::Kill))
                    | OwnCommand::Judged(ClientSub::Kill)
            )
        });
        let clients = self.own_clients();
        kills.into_iter().any(|element| {
            let request = Request::new(&element.request);
            let filters: Vec<&[u8]> = request.arguments().skip(2).collect();
            clients.would_kill(id, &filters)
        })
    }

    /// EXEC of a transaction with commands of respool's own. `None`: none of them was queued.
    pub(super) fn exec_with_own(&mut self) -> Option<Show> {
        let (commands, marks, elements) = {
            let transaction = self.outlet.transaction();
            let own = transaction.own()?;
            (transaction.commands(), own.marks(), own.queued().to_vec())
        };
        self.entry.use_redirections(None);
        let effects = Rc::new(ExecEffects {
            shown: Cell::new(ShownInExec::new(self.session.reply)),
            is_renamed: Cell::new(false),
            redirected: Cell::new(None),
        });
        let places = elements.iter().map(|element| element.at).collect();
        let runner = OwnRunner {
            clients: Rc::clone(&self.clients),
            record: Arc::clone(self.record.record()),
            protocol: self.session.state.protocol,
            redirections: self.entry.redirection_names(),
            elements,
            effects: Rc::clone(&effects),
            killed: RefCell::default(),
            unblocked: RefCell::default(),
        };
        let shown = Rc::clone(&effects);
        let executing = Executing::new(
            Executed::new(commands, marks, places),
            Box::new(move |number, element| runner.run(number, element)),
            Box::new(move || shown.shown.get().is_shown()),
        );
        self.use_pin(|pin| pin.exec_effects = Some(effects));
        self.wait = Wait::Answers;
        Some(Show::Executed(Rc::new(executing)))
    }

    /// EXEC has been answered: the client takes up what it has changed.
    pub(super) fn take_up_exec(&mut self) {
        let Some(effects) = self.pin.as_mut().and_then(|pin| pin.exec_effects.take()) else {
            return;
        };
        if let Some(to) = effects.redirected.get() {
            self.exec_redirected(to);
        }
        let shown = effects.shown.get();
        self.session.reply = shown.mode();
        if shown.is_closing() {
            self.ending = Some(Disconnect::Killed);
        } else if effects.is_renamed.get() {
            self.note_kept(0);
            self.regroup(Vec::new());
        }
    }
}
