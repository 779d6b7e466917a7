//! CLIENT, speaking of respool's own clients in Redis' own format.

use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::local::{BAD_NAME, client_name};
use super::requests::Next;
use super::site::{Errand, Farewell};
use super::task::{Client, Done, Wait};
use crate::command::{COUNT, ClientSub, same_word, spec};
use crate::identity::{Card, Flag, KillFilter, ListFilter, client_line};
use crate::resp::speak::{OK, bulk, encode_request, error, integer};
use crate::resp::{Request, parse_integer};
use crate::session::ReplyMode;
use crate::telemetry::Disconnect;

/// How long clients that are killed may take to be gone before CLIENT KILL is answered.
const KILLED_WITHIN: Duration = Duration::from_secs(1);

const SYNTAX: &[u8] = b"-ERR syntax error\r\n";

impl Client {
    /// Answers one of the CLIENT subcommands that are respool's own.
    pub(super) fn client_command(&mut self, sub: ClientSub, request: &Request<'_>) {
        let words: Vec<&[u8]> = request.arguments().skip(2).collect();
        match (sub, words.as_slice()) {
            (ClientSub::Id, _) => self.answer(&integer(self.card.id() as i64)),
            (ClientSub::GetName, _) => self.get_name(),
            (ClientSub::SetName, [name]) => self.set_name(name),
            (ClientSub::SetInfo, [attribute, value]) => self.set_info(attribute, value),
            (ClientSub::Info, _) => {
                let text = self.line(&self.card) + "\n";
                let reply = self.session.verbatim(text.as_bytes());
                self.answer(&reply);
            }
            (ClientSub::List, filters) => self.list(filters),
            (ClientSub::Kill, filters) => self.kill(filters),
            (ClientSub::Reply, [mode]) => self.reply_mode(mode),
            (ClientSub::NoEvict, [on]) => self.switch(Flag::NoEvict, on),
            (ClientSub::NoTouch, [on]) => self.switch(Flag::NoTouch, on),
            (ClientSub::Unblock, [id]) => self.unblock(id, &[]),
            (ClientSub::Unblock, [id, mode]) => self.unblock(id, &[mode]),
            (ClientSub::Unblock, _) => {
                let name =
                    String::from_utf8_lossy(request.argument(1).unwrap_or_default()).into_owned();
                let text = "ERR unknown subcommand or wrong number of arguments for";
                self.answer(&error(&format!("{text} '{name}'. Try CLIENT HELP.")));
            }
            _ => {
                let name = request.argument(1).unwrap_or_default();
                let shown = String::from_utf8_lossy(&name[..name.len().min(128)]);
                self.answer(&error(&format!(
                    "ERR unknown subcommand '{shown}'. Try CLIENT HELP."
                )));
            }
        }
    }

    /// What concerns other clients, asked for nothing, has to be permitted by the server where the client is one of its
    /// users. `None`: it is.
    pub(super) fn unpermitted(&mut self, sub: ClientSub, request: &Request<'_>) -> Option<Next> {
        let probe: &[&str] = match sub {
            ClientSub::List => &["CLIENT", "LIST", "ID", "0"],
            ClientSub::Kill => &["CLIENT", "KILL", "ID", "0"],
            ClientSub::Unblock => &["CLIENT", "UNBLOCK", "0"],
            _ => return None,
        };
        self.session.state.user.as_ref()?;
        match self.permission.take().map(|permission| *permission) {
            Some(Ok(())) => None,
            Some(Err(reply)) => {
                self.answer(&reply);
                self.end_if_lost(&reply);
                Some(Next::Used(request.bytes().len()))
            }
            None => {
                let upstream = Rc::clone(&self.site.upstream);
                let (state, probe) = (self.session.state.clone(), encode_request(probe));
                self.wait = Wait::Task(Box::pin(async move {
                    Done::Permission(upstream.may_run(state, &probe).await)
                }));
                Some(Next::Wait)
            }
        }
    }

    fn get_name(&mut self) {
        let name = self.card.names().name.clone();
        let reply = if name.is_empty() {
            self.session.null().to_vec()
        } else {
            bulk(&name)
        };
        self.answer(&reply);
    }

    fn set_name(&mut self, name: &[u8]) {
        if let Err(why) = client_name(name) {
            return self.answer(&error(why));
        }
        self.card.names().name = name.into();
        self.note_kept(0);
        self.regroup(OK.to_vec());
    }

    /// CLIENT SETINFO (Redis 7.2).
    fn set_info(&mut self, attribute: &[u8], value: &[u8]) {
        let which = [&b"lib-name"[..], b"lib-ver"]
            .into_iter()
            .find(|known| same_word(attribute, known));
        let Some(which) = which else {
            let shown = String::from_utf8_lossy(attribute).into_owned();
            return self.answer(&error(&format!("ERR Unrecognized option '{shown}'")));
        };
        if let Err(why) = client_name(value) {
            let which = String::from_utf8_lossy(which);
            return self.answer(&error(&match why {
                BAD_NAME => {
                    format!("ERR {which} cannot contain spaces, newlines or special characters.")
                }
                too_long => too_long.to_owned(),
            }));
        }
        {
            let mut names = self.card.names();
            let place = if which == b"lib-name" {
                &mut names.lib_name
            } else {
                &mut names.lib_ver
            };
            *place = value.into();
        }
        self.note_kept(0);
        self.answer(OK);
    }

    fn line(&self, card: &Card) -> String {
        let name = |id: u32| match u16::try_from(id) {
            Ok(id) if usize::from(id) < COUNT => spec(id).name,
            _ => "NULL",
        };
        client_line(card, self.site.thread.clock.now_ms(), name)
    }

    fn list(&mut self, filters: &[&[u8]]) {
        match ListFilter::parse(filters) {
            Err(text) => self.answer(&error(&text)),
            Ok(filter) => {
                let mut text = String::new();
                for card in filter.choose(&self.site.registry) {
                    text.push_str(&self.line(&card));
                    text.push('\n');
                }
                let reply = self.session.verbatim(text.as_bytes());
                self.answer(&reply);
            }
        }
    }

    fn kill(&mut self, filters: &[&[u8]]) {
        let filter = match KillFilter::parse(filters) {
            Ok(filter) => filter,
            Err(text) => return self.answer(&error(&text)),
        };
        let (own, now_ms) = (self.card.id(), self.site.thread.clock.now_ms());
        let cards = self.site.registry.list().into_iter();
        let mut ids: Vec<u64> = cards
            .filter(|card| filter.selects(card, own, now_ms))
            .map(|card| card.id())
            .collect();
        let killed = ids.len() as i64;
        let kills_itself = ids.contains(&own);
        ids.retain(|&id| id != own);
        let reply = match (filter.is_old_form(), killed) {
            (true, 0) => error("ERR No such client"),
            (true, _) => OK.to_vec(),
            (false, killed) => integer(killed),
        };
        let (tell, gone) = tokio::sync::oneshot::channel();
        if !ids.is_empty() {
            (self.site.errands)(Errand::Kill(ids.into(), Arc::new(Farewell(tell))));
        }
        if killed == 0 || kills_itself {
            self.answer(&reply);
        } else {
            self.wait = Wait::Task(Box::pin(async move {
                // Answered by nobody: the other end is dropped when they are gone. One that hangs is not waited for.
                let _ = tokio::time::timeout(KILLED_WITHIN, gone).await;
                Done::Reply(reply)
            }));
        }
        if kills_itself {
            self.ending = Some(Disconnect::Killed);
        }
    }

    fn reply_mode(&mut self, mode: &[u8]) {
        if same_word(mode, b"on") {
            self.session.reply = ReplyMode::On;
            self.answer(OK);
        } else if same_word(mode, b"off") {
            self.session.reply = ReplyMode::Off;
        } else if same_word(mode, b"skip") {
            if self.session.reply != ReplyMode::Off {
                self.session.reply = ReplyMode::SkipNext;
            }
        } else {
            self.answer(SYNTAX);
        }
    }

    fn switch(&mut self, flag: Flag, on: &[u8]) {
        if same_word(on, b"on") {
            self.flag(flag, true);
        } else if same_word(on, b"off") {
            self.flag(flag, false);
        } else {
            return self.answer(SYNTAX);
        }
        self.answer(OK);
    }

    fn unblock(&mut self, id: &[u8], mode: &[&[u8]]) {
        let with_error = match mode {
            [] => false,
            [mode] if same_word(mode, b"timeout") => false,
            [mode] if same_word(mode, b"error") => true,
            _ => {
                return self.answer(&error(
                    "ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR",
                ));
            }
        };
        let Some(id) = parse_integer(id) else {
            return self.answer(b"-ERR value is not an integer or out of range\r\n");
        };
        let blocked = u64::try_from(id)
            .ok()
            .and_then(|id| self.site.registry.find(id));
        let Some(card) = blocked.filter(|card| card.has(Flag::Blocked)) else {
            return self.answer(&integer(0));
        };
        let (tell, told) = tokio::sync::oneshot::channel();
        (self.site.errands)(Errand::Unblock(
            card.id(),
            with_error,
            Arc::new(Mutex::new(Some(tell))),
        ));
        self.wait = Wait::Task(Box::pin(async move {
            // Nobody answers when it was not blocked any more.
            Done::Reply(integer(i64::from(told.await.unwrap_or(false))))
        }));
    }
}
