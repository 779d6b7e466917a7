//! What respool itself answers of a transaction: the server queues something harmless in the place of each such command, and EXEC's
//! element there is respool's own.

use crate::command::{ClientSub, Local};

/// A command of a transaction whose element respool looks at, or puts in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnCommand {
    /// `CLIENT ...` and `PUBSUB NUMSUB`.
    Local(Local),
    /// `CLIENT GETREDIR` and `CLIENT TRACKINGINFO`, whose answers name a connection.
    Redirection,
    /// `SELECT`: the element is the server's own, and tells the database of those behind it.
    Select(u32),
}

/// One of them, and where it stands among the commands that were queued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnElement {
    /// Its place in EXEC's reply.
    pub place: u32,
    /// What it is.
    pub command: OwnCommand,
    /// The request as the client sent it.
    pub request: Box<[u8]>,
}

/// Those of one transaction.
#[derive(Debug, Default)]
pub struct OwnElements {
    /// The server has not answered yet whether it queues this one.
    asked: Option<OwnElement>,
    queued: Vec<OwnElement>,
}

impl OwnElements {
    /// The server is asked to queue something in the place of this request.
    pub(super) fn ask(&mut self, command: OwnCommand, request: &[u8]) {
        self.asked = Some(OwnElement {
            place: 0,
            command,
            request: request.into(),
        });
    }

    /// It has answered; `place`: where it has queued it.
    pub(super) fn answered(&mut self, place: Option<u32>) {
        let asked = self.asked.take();
        if let (Some(element), Some(place)) = (asked, place) {
            self.queued.push(OwnElement { place, ..element });
        }
    }

    /// SELECT of this database was queued.
    pub(super) fn selected(&mut self, database: u32, place: u32) {
        self.queued.push(OwnElement {
            place,
            command: OwnCommand::Select(database),
            request: Box::default(),
        });
    }

    /// Those that were queued, by their places.
    pub fn queued(&self) -> &[OwnElement] {
        &self.queued
    }

    /// What the requests measure that are kept of them.
    pub fn request_bytes(&self) -> usize {
        self.queued
            .iter()
            .map(|element| element.request.len())
            .sum()
    }

    /// Memory that they take.
    pub fn held_bytes(&self) -> usize {
        self.queued.capacity() * size_of::<OwnElement>() + self.request_bytes()
    }
}

/// What the server is asked to queue for a CLIENT command: the same one, so that it decides whether the user may send it, with
/// arguments that change nothing and tell nothing.
pub fn stand_in_for(sub: ClientSub) -> Option<&'static [&'static str]> {
    Some(match sub {
        ClientSub::SetName => &["CLIENT", "SETNAME", " "],
        ClientSub::GetName => &["CLIENT", "GETNAME"],
        ClientSub::SetInfo => &["CLIENT", "SETINFO", "-", "-"],
        ClientSub::Id => &["CLIENT", "ID"],
        ClientSub::Info => &["CLIENT", "INFO"],
        ClientSub::List => &["CLIENT", "LIST", "ID", "x"],
        // Not 0: to Redis 6.2 that means everybody.
        ClientSub::Kill => &["CLIENT", "KILL", "ID", "x"],
        ClientSub::Reply => &["CLIENT", "REPLY", "-"],
        ClientSub::NoEvict => &["CLIENT", "NO-EVICT", "-"],
        ClientSub::NoTouch => &["CLIENT", "NO-TOUCH", "-"],
        ClientSub::Unblock => &["CLIENT", "UNBLOCK", "x"],
        ClientSub::Capa => &["CLIENT", "CAPA", "-"],
        ClientSub::ImportSource => &["CLIENT", "IMPORT-SOURCE", "-"],
        ClientSub::MaintNotifications | ClientSub::Unsupported => return None,
    })
}

/// Whether the server has refused an element at EXEC because the user may not send it any more: then nothing is put in for it.
pub fn is_refused_late(element: &[u8]) -> bool {
    element.starts_with(b"-NOPERM")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{COUNT, Way, spec};

    #[test]
    fn only_what_was_queued_has_a_place() {
        let mut own = OwnElements::default();
        own.ask(OwnCommand::Redirection, b"a");
        own.answered(None);
        own.selected(3, 0);
        own.ask(OwnCommand::Redirection, b"b");
        own.answered(Some(4));
        own.answered(Some(5));
        let places: Vec<u32> = own.queued().iter().map(|element| element.place).collect();
        assert_eq!(places, [0, 4]);
    }

    #[test]
    fn every_subcommand_that_respool_answers_is_asked_about_by_its_own_name() {
        for id in 0..COUNT {
            let spec = spec(id as u16);
            let Way::Local(Local::Client(sub)) = spec.way else {
                continue;
            };
            let Some(question) = stand_in_for(sub) else {
                continue;
            };
            let asked = format!("{}|{}", question[0], question[1]).to_lowercase();
            assert_eq!(asked, spec.name);
            // Or the server would look at their number, and not at the permission.
            let count = question.len() as i64;
            let arity = i64::from(spec.arity);
            assert!(count == arity || (arity < 0 && count >= -arity), "{asked}");
        }
    }
}
