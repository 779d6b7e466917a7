//! What respool answers itself because it concerns the session: SELECT, RESET, QUIT, and where HELLO and AUTH lead.

pub(super) mod attempts;
pub(super) mod changing_user;
pub(super) mod client_command;
mod login;
pub(super) mod permitted;
mod reset;
mod select;

use crate::auth::PermissionResult;
use crate::client::refusals::{NOT_IN_MULTI, NOT_WHILE_DEBUGGING, UNREACHABLE};
use crate::client::{Client, Next, Wait};
use crate::command::{ClientSub, CommandId, Local, PinReason};
use crate::fanout::TopicKind;
use crate::identity::ClientFlag;
use crate::resp::Request;
use crate::resp::speak::OK;
use crate::session::{OwnCommand, malformed, misused};
use crate::telemetry::Disconnect;
use crate::texts::{
    BAD_NAME, asking, is_unknown_command, readonly, readwrite, takes_readonly, unknown_command,
};

const LONG_NAME: &str = "ERR respool: a client name may measure 1 KiB";

/// Most bytes of what a client calls itself. Redis has no bound of its own.
const MOST_NAMED: usize = 1024;

/// Checks that Redis takes `name` for a client name (`validateClientName`), and that respool keeps it.
///
/// # Errors
/// The client gets this otherwise.
pub(in crate::client) fn client_name(name: &[u8]) -> Result<(), &'static str> {
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
    pub(in crate::client) fn local(
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
        let is_open = self.pin.is_some() && self.outlet.transaction().is_open();
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
                    // A server that takes them outside of a cluster, as Valkey does, keeps them for its connection.
                    self.use_pin(|pin| pin.leaves_traces = true);
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
    pub(in crate::client) fn end_if_not_asked(&mut self, reply: &[u8]) {
        if reply == UNREACHABLE {
            self.ending = Some(Disconnect::UpstreamLost);
        }
    }

    pub(in crate::client) fn reply(&mut self, reply: &[u8]) {
        self.answer(reply);
        self.outlet.flush();
    }
}
