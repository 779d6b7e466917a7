//! CLIENT, speaking of respool's own clients in Redis' own format.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::client_name;
use crate::client::searches::LINE_PRICE;
use crate::client::story::Awaited;
use crate::client::{Client, ClientMessage, Clients, ClientsMessage, KillNotice};
use crate::command::{COUNT, ClientSub, same_word, spec};
use crate::identity::{ClientFlag, ClientRecord, KillFilter, ListFilter, client_line};
use crate::resp::speak::{OK, bulk, error, integer};
use crate::resp::{Request, parse_integer};
use crate::session::{Protocol, ReplyMode, verbatim};
use crate::telemetry::Disconnect;
use crate::texts::{
    BAD_NAME, NO_SUCH_CLIENT, NO_SUCH_REASON, NOT_AN_INTEGER, SYNTAX_ERROR, ServerVersion,
    bad_attribute, import_source, senseless_subcommand, unknown_attribute, unknown_subcommand,
};

/// Bounds how long clients that are killed may take to be gone before CLIENT KILL is answered.
const KILLED_WITHIN: Duration = Duration::from_secs(1);

/// Answers CLIENT NO-TOUCH ON, rather than an OK behind which keys are touched.
const NO_TOUCH: &[u8] =
    b"-ERR respool: CLIENT NO-TOUCH is not possible, since clients share connections to the server\r\n";

/// The clients of respool, as one of them may ask about them and change them.
pub(in crate::client) struct OwnClients<'a> {
    pub(in crate::client) clients: &'a Clients,
    /// The client that asks.
    pub(in crate::client) record: &'a Arc<ClientRecord>,
    /// Is the protocol which that client speaks.
    pub(in crate::client) protocol: Protocol,
    /// Lists those that it has killed in the same transaction: they are gone, as far as it can see.
    pub(in crate::client) gone: &'a [u64],
}

/// Says what a CLIENT KILL comes to.
pub(in crate::client) struct Kill {
    /// Lists those that are to be closed beside the client itself.
    pub(in crate::client) others: Vec<u64>,
    /// Tells whether the client itself is to be closed, too.
    pub(in crate::client) itself: bool,
    /// Holds what the client is answered.
    pub(in crate::client) reply: Vec<u8>,
}

/// Returns what the server is asked before a CLIENT command is answered that has words of which it alone knows whether they are right.
pub(in crate::client) fn question_of(
    server: ServerVersion,
    sub: ClientSub,
    request: &Request<'_>,
) -> Option<Vec<u8>> {
    let filter = || -> Vec<&[u8]> { request.arguments().skip(2).collect() };
    match sub {
        ClientSub::Kill => KillFilter::question(server, &filter()),
        ClientSub::List => ListFilter::question(server, &filter()),
        _ => None,
    }
}

impl Client {
    pub(in crate::client) fn own_clients(&self) -> OwnClients<'_> {
        OwnClients {
            clients: &self.clients,
            record: self.record.record(),
            protocol: self.session.state.protocol,
            gone: &[],
        }
    }

    /// Answers one of the CLIENT subcommands that are respool's own, when the server has judged its words where it alone can.
    pub(in crate::client) fn client_command(&mut self, sub: ClientSub, request: &Request<'_>) {
        let server = self.clients.thread.server_version();
        let question = question_of(server, sub, request);
        let Some(question) = question.filter(|_| !self.clients.upstream.is_away()) else {
            return self.judged_client_command(sub, request);
        };
        let upstream = Rc::clone(&self.clients.upstream);
        let request: Box<[u8]> = request.bytes().into();
        self.note_kept(request.len() + question.len());
        let asking = upstream.answer_to(self.asker(), question);
        self.then(async move |client: &mut Self| {
            let told = client.meanwhile(asking, Awaited::Server).await?;
            client.note_kept(0);
            match told.ok().filter(|reply| reply.starts_with(b"-")) {
                Some(wrong) => client.answer(&wrong),
                // Or the server could not be asked.
                None => client.judged_client_command(sub, &Request::new(&request)),
            }
            client.outlet.flush();
            Ok(())
        });
    }

    fn judged_client_command(&mut self, sub: ClientSub, request: &Request<'_>) {
        let words: Vec<&[u8]> = request.arguments().skip(2).collect();
        let server = self.clients.thread.server_version();
        match (sub, words.as_slice()) {
            (ClientSub::SetName, [name]) => self.set_name(name),
            (ClientSub::Kill, filters) => self.kill(filters),
            (ClientSub::Reply, [mode]) => self.reply_mode(mode),
            (ClientSub::Unblock, words @ ([_] | [_, _])) => self.unblock(words),
            // Valkey looks no further.
            (ClientSub::Unblock, words @ [_, ..]) if server.is_valkey_from((8, 1)) => {
                self.unblock(words);
            }
            _ => {
                // In its own line the request is still there, as at the server.
                let query = &self.record.query_bytes;
                let before = query.get();
                query.set(before.max(request.bytes().len() as u64));
                let reply = self.own_clients().answer(sub, request);
                self.record.query_bytes.set(before);
                self.note_kept(0);
                self.answer(&reply);
            }
        }
        self.pause_for_searches();
    }

    /// Keeps what a client says of its library to a server that has no CLIENT SETINFO: respool's own lists show it.
    pub(in crate::client) fn note_library(&mut self, request: &Request<'_>) {
        self.own_clients().answer(ClientSub::SetInfo, request);
        self.note_kept(0);
    }

    fn set_name(&mut self, name: &[u8]) {
        match self.own_clients().set_name(name) {
            Err(reply) => self.answer(&reply),
            Ok(()) => {
                self.note_kept(0);
                self.regroup(OK.to_vec());
            }
        }
    }

    fn kill(&mut self, filters: &[&[u8]]) {
        let kill = match self.own_clients().kill(filters) {
            Ok(kill) => kill,
            Err(reply) => return self.answer(&reply),
        };
        let (tell, gone) = tokio::sync::oneshot::channel();
        let waits = !kill.others.is_empty() && !kill.itself;
        if !kill.others.is_empty() {
            let notice = Arc::new(KillNotice(tell));
            let message = ClientsMessage::Kill(kill.others.into(), notice);
            self.clients.tell_workers.tell_all(&message);
        }
        let reply = kill.reply;
        if waits {
            self.then(async move |client: &mut Self| {
                // Answered by nobody: the other end is dropped when they are gone. One that hangs is not waited for.
                let gone = tokio::time::timeout(KILLED_WITHIN, gone);
                let _ = client.meanwhile(gone, Awaited::Server).await?;
                client.reply(&reply);
                Ok(())
            });
        } else {
            self.answer(&reply);
        }
        if kill.itself {
            self.ending = Some(Disconnect::Killed);
        }
    }

    fn reply_mode(&mut self, mode: &[u8]) {
        match ReplyMode::parse(mode) {
            Some(ReplyMode::On) => {
                self.session.reply = ReplyMode::On;
                self.answer(OK);
            }
            Some(ReplyMode::SkipNext) if self.session.reply == ReplyMode::Off => {}
            Some(mode) => self.session.reply = mode,
            None => self.answer(SYNTAX_ERROR),
        }
    }

    fn unblock(&mut self, words: &[&[u8]]) {
        let (id, with_error) = match self.own_clients().unblock(words) {
            Ok(asked) => asked,
            Err(reply) => return self.answer(&reply),
        };
        let (tell, told) = tokio::sync::oneshot::channel();
        let message = ClientMessage::Unblock(id, with_error, tell);
        self.clients.tell_worker_of(id, message);
        self.then(async move |client: &mut Self| {
            // Nobody answers when it was not blocked any more.
            let told = client.meanwhile(told, Awaited::Server).await?;
            client.reply(&integer(i64::from(told.unwrap_or(false))));
            Ok(())
        });
    }
}

impl OwnClients<'_> {
    /// Answers a subcommand that does no more than that, or only changes how the client is shown.
    pub(in crate::client) fn answer(&self, sub: ClientSub, request: &Request<'_>) -> Vec<u8> {
        let words: Vec<&[u8]> = request.arguments().skip(2).collect();
        let server = self.clients.thread.server_version();
        match (sub, words.as_slice()) {
            (ClientSub::Id, _) => integer(self.record.id() as i64),
            (ClientSub::GetName, _) => self.get_name(),
            (ClientSub::SetInfo, [attribute, value]) => self.set_info(attribute, value),
            (ClientSub::Info, _) => {
                let mut text = self.line(self.record);
                text.push(b'\n');
                verbatim(self.protocol, &text)
            }
            (ClientSub::List, filters) => self.list(filters),
            (ClientSub::NoEvict, [on]) => self.switch(ClientFlag::NoEvict, on),
            (ClientSub::NoTouch, [on]) => self.no_touch(on, request),
            (ClientSub::Capa, capabilities) => self.capabilities(capabilities),
            (ClientSub::ImportSource, [on]) => import_source(same_word(on, b"off")).to_vec(),
            (ClientSub::Unblock, _) => senseless_subcommand(server, request),
            _ => unknown_subcommand(server, request),
        }
    }

    fn get_name(&self) -> Vec<u8> {
        let name = self.record.names().name.clone();
        if name.is_empty() {
            self.protocol.null().to_vec()
        } else {
            bulk(&name)
        }
    }

    /// Names the client, whose group is not looked at.
    ///
    /// # Errors
    /// What it gets otherwise.
    pub(in crate::client) fn set_name(&self, name: &[u8]) -> Result<(), Vec<u8>> {
        client_name(name).map_err(error)?;
        self.record.names().name = name.into();
        Ok(())
    }

    /// CLIENT CAPA: what is not known is no error.
    fn capabilities(&self, capabilities: &[&[u8]]) -> Vec<u8> {
        let redirect = |word: &&[u8]| same_word(word, b"redirect");
        if capabilities.iter().any(redirect) {
            self.record.raise(ClientFlag::Redirects);
        }
        OK.to_vec()
    }

    /// CLIENT SETINFO (Redis 7.2).
    fn set_info(&self, attribute: &[u8], value: &[u8]) -> Vec<u8> {
        let is_name = same_word(attribute, b"lib-name");
        if !is_name && !same_word(attribute, b"lib-ver") {
            return unknown_attribute(attribute);
        }
        if let Err(why) = client_name(value) {
            return match why {
                BAD_NAME => bad_attribute(attribute),
                too_long => error(too_long),
            };
        }
        let mut names = self.record.names();
        let place = if is_name {
            &mut names.lib_name
        } else {
            &mut names.lib_ver
        };
        *place = value.into();
        OK.to_vec()
    }

    fn line(&self, record: &ClientRecord) -> Vec<u8> {
        // Before 7.0 subcommands have no names of their own.
        let is_full = self.clients.thread.server_version().is_from((7, 0));
        let name = |id: u32| match u16::try_from(id) {
            Ok(id) if usize::from(id) < COUNT => match spec(id).name.split_once('|') {
                Some((container, _)) if !is_full => container,
                _ => spec(id).name,
            },
            _ => "NULL",
        };
        let thread = &self.clients.thread;
        client_line(record, thread.clock.now_ms(), thread.server_version(), name)
    }

    fn list(&self, filters: &[&[u8]]) -> Vec<u8> {
        let (own, now_ms) = (self.record.id(), self.clients.thread.clock.now_ms());
        match ListFilter::parse(self.clients.thread.server_version(), filters) {
            Err(text) => error(text),
            Ok(filter) => {
                let mut text = Vec::new();
                let chosen = filter.choose(&self.clients.registry, own, now_ms);
                let price = filter.price(&self.clients.registry);
                self.clients.searched(price + LINE_PRICE * chosen.len());
                let chosen = chosen.into_iter();
                for record in chosen.filter(|record| !self.gone.contains(&record.id())) {
                    text.extend(self.line(&record));
                    text.push(b'\n');
                }
                verbatim(self.protocol, &text)
            }
        }
    }

    /// Returns whom a CLIENT KILL closes.
    ///
    /// # Errors
    /// A client whose filters nobody understands gets this.
    pub(in crate::client) fn kill(&self, filters: &[&[u8]]) -> Result<Kill, Vec<u8>> {
        let server = self.clients.thread.server_version();
        let filter = KillFilter::parse(server, filters).map_err(error)?;
        let (own, now_ms) = (self.record.id(), self.clients.thread.clock.now_ms());
        let chosen = filter.choose(&self.clients.registry, own, now_ms);
        self.clients.searched(filter.price(&self.clients.registry));
        let mut others: Vec<u64> = chosen
            .iter()
            .map(|record| record.id())
            .filter(|id| !self.gone.contains(id))
            .collect();
        let killed = others.len() as i64;
        let itself = others.contains(&own);
        others.retain(|&id| id != own);
        let reply = match (filter.is_old_form(), killed) {
            (true, 0) => error(NO_SUCH_CLIENT),
            (true, _) => OK.to_vec(),
            (false, killed) => integer(killed),
        };
        Ok(Kill {
            others,
            itself,
            reply,
        })
    }

    /// Tells whether CLIENT KILL with these filters ends this other client, which takes no look at all of them.
    pub(in crate::client) fn would_kill(&self, id: u64, filters: &[&[u8]]) -> bool {
        let filter = KillFilter::parse(self.clients.thread.server_version(), filters);
        let (own, now_ms) = (self.record.id(), self.clients.thread.clock.now_ms());
        let record = self.clients.registry.find(id).filter(|_| id != own);
        record
            .zip(filter.ok())
            .is_some_and(|(record, filter)| filter.selects(&record, own, now_ms))
    }

    /// CLIENT NO-TOUCH (Redis 7.2): the connections to the server are everybody's, and touch keys for everybody.
    fn no_touch(&self, on: &[u8], request: &Request<'_>) -> Vec<u8> {
        let server = self.clients.thread.server_version();
        if !server.is_from((7, 2)) {
            return unknown_subcommand(server, request);
        }
        if same_word(on, b"on") {
            return NO_TOUCH.to_vec();
        }
        match same_word(on, b"off") {
            true => OK.to_vec(),
            false => SYNTAX_ERROR.to_vec(),
        }
    }

    fn switch(&self, flag: ClientFlag, on: &[u8]) -> Vec<u8> {
        if same_word(on, b"on") {
            self.record.raise(flag);
        } else if same_word(on, b"off") {
            self.record.lower(flag);
        } else {
            return SYNTAX_ERROR.to_vec();
        }
        OK.to_vec()
    }

    /// The client that is to be unblocked, and whether with an error.
    ///
    /// # Errors
    /// What is answered where there is none.
    pub(in crate::client) fn unblock(&self, words: &[&[u8]]) -> Result<(u64, bool), Vec<u8>> {
        let with_error = match words.get(1) {
            None => false,
            Some(mode) if same_word(mode, b"timeout") => false,
            Some(mode) if same_word(mode, b"error") => true,
            Some(_) => {
                return Err(error(NO_SUCH_REASON));
            }
        };
        let Some(id) = words.first().copied().and_then(parse_integer) else {
            return Err(NOT_AN_INTEGER.to_vec());
        };
        let blocked = u64::try_from(id)
            .ok()
            .filter(|id| !self.gone.contains(id))
            .and_then(|id| self.clients.registry.find(id));
        match blocked.filter(|record| record.has(ClientFlag::Blocked)) {
            Some(record) => Ok((record.id(), with_error)),
            None => Err(integer(0)),
        }
    }
}
