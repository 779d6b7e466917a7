//! SELECT: the server decides whether there is such a database, and whether the client may go there.

use std::rc::Rc;

use crate::client::Client;
use crate::client::refusals::refusal;
use crate::client::story::{Awaited, Told};
use crate::command::Delays;
use crate::resp::speak::{OK, encode_request};
use crate::resp::{Request, parse_integer};
use crate::session::{Change, State};
use crate::texts::{NO_SUCH_DATABASE, NOT_AN_INT, NOT_AN_INTEGER};

impl Client {
    pub(in crate::client) fn in_database(&mut self, database: u32) {
        self.session.state.database = database;
        self.record.db.set(database);
    }

    pub(super) fn select(&mut self, request: &Request<'_>) {
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
            let Some(told) = self.change_pin(&target, Change::Select).await? else {
                return Ok(());
            };
            if told.is_ok() {
                // Whatever an EXEC before it has selected.
                self.outlet.transaction().took_select();
            }
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
}
