//! What respool itself answers of a transaction: the server queues something harmless in the place of each such command, and EXEC's
//! element there is respool's own.

use crate::command::{ClientSub, Local};
use crate::fences::{Fence, OwnPlace};

/// Names a command of a transaction whose element respool looks at, or puts in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnCommand {
    /// It is `CLIENT ...` or `PUBSUB NUMSUB`.
    Local(Local),
    /// It is `CLIENT KILL` or `CLIENT LIST` with words of which the server alone knows whether they are right: the server is asked for
    /// them in its place.
    Judged(ClientSub),
    /// It is `CLIENT GETREDIR` or `CLIENT TRACKINGINFO`, whose answers name a connection.
    Redirection,
    /// It is `CLIENT TRACKING` with `REDIRECT` to this client of respool's: the element is the server's own, and tells whether that holds.
    Redirected(u64),
    /// It is `SELECT`: the element is the server's own, and tells the database of those behind it.
    Select(u32),
}

/// Holds one of them, and where it stands among the commands that were queued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnElement {
    /// Is its place in EXEC's reply.
    pub at: OwnPlace,
    /// Names what it is.
    pub command: OwnCommand,
    /// Holds the request as the client sent it.
    pub request: Box<[u8]>,
}

/// Says what is known of the mark that is to stand right before the next of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum NextMark {
    /// None was asked for.
    #[default]
    None,
    /// The server has queued this mark.
    Queued(Fence),
    /// The server has refused to queue it, and will not run the transaction.
    Refused,
}

/// Holds those of one transaction.
#[derive(Debug, Default)]
pub struct OwnElements {
    /// Says what is known of the mark of the one that is asked for next.
    next_mark: NextMark,
    /// Counts the marks that the server has queued.
    marks: u32,
    /// Holds the one of which the server has not answered yet whether it queues it.
    asked: Option<OwnElement>,
    queued: Vec<OwnElement>,
    request_bytes: usize,
    searches: usize,
}

impl OwnCommand {
    /// Tells whether it looks at all clients of respool: with 3,000 of them that takes some 12 ms.
    pub fn searches(self) -> bool {
        matches!(
            self,
            Self::Local(Local::Client(ClientSub::List | ClientSub::Kill)) | Self::Judged(_)
        )
    }
}

impl OwnElements {
    /// Notes that the server is asked to queue something in the place of this request.
    pub(super) fn ask(&mut self, command: OwnCommand, request: &[u8]) {
        let mark = match std::mem::take(&mut self.next_mark) {
            NextMark::Queued(mark) => Some(mark),
            NextMark::None | NextMark::Refused => None,
        };
        self.request_bytes += request.len();
        self.searches += usize::from(command.searches());
        self.asked = Some(OwnElement {
            at: OwnPlace { place: 0, mark },
            command,
            request: request.into(),
        });
    }

    /// Notes that the server has answered whether it queues a mark.
    pub(super) fn marked(&mut self, mark: Fence, is_queued: bool) {
        self.marks += u32::from(is_queued);
        self.next_mark = match is_queued {
            true => NextMark::Queued(mark),
            false => NextMark::Refused,
        };
    }

    /// Returns what is known of the mark of the one that is asked for next.
    pub fn next_mark(&self) -> NextMark {
        self.next_mark
    }

    /// Returns how many marks the server has queued beside the commands of the client.
    pub fn marks(&self) -> u32 {
        self.marks
    }

    /// Notes that the server has answered; `command`: as which of the client's commands it has queued it. Returns what it has queued.
    pub(super) fn answered(&mut self, command: Option<u32>) -> Option<OwnCommand> {
        let (mut element, command) = (self.asked.take()?, command?);
        element.at.place = command + self.marks;
        let queued = element.command;
        self.queued.push(element);
        Some(queued)
    }

    /// Notes that SELECT of this database was queued as this one of the client's commands.
    pub(super) fn selected(&mut self, database: u32, command: u32) {
        let place = command + self.marks;
        self.queued.push(OwnElement {
            at: OwnPlace { place, mark: None },
            command: OwnCommand::Select(database),
            request: Box::default(),
        });
    }

    /// Returns those that were queued, by their places.
    pub fn queued(&self) -> &[OwnElement] {
        &self.queued
    }

    /// Returns how many bytes the requests measure that are kept of them.
    pub fn request_bytes(&self) -> usize {
        self.request_bytes
    }

    /// Returns how many of them look at all clients.
    pub fn searches(&self) -> usize {
        self.searches
    }

    /// Returns the memory that they take.
    pub fn held_bytes(&self) -> usize {
        self.queued.capacity() * size_of::<OwnElement>() + self.request_bytes()
    }
}

/// Returns what the server is asked to queue for a CLIENT command: the same one, so that it decides whether the user may send it, with
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

/// Says what the server has said in the place of a CLIENT command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StandInAnswer {
    /// It is what the server says to what stands in for the command: the command runs.
    Expected,
    /// It is an error of another kind: the user may not send the command any more, say. That is the answer, and the command does not run.
    Refusal,
    /// It is something that is said to another command.
    Strange,
}

impl StandInAnswer {
    /// Tells what `element` is, which has come in the place of a CLIENT command.
    pub fn of(sub: ClientSub, element: &[u8]) -> Self {
        // Those that take no argument say what they always say; to all others the argument is wrong.
        let expected: &[&[u8]] = match sub {
            ClientSub::GetName => &[b"$", b"_"],
            ClientSub::Id => &[b":"],
            // What it does not know it passes over.
            ClientSub::Capa => &[b"+OK", b"-ERR "],
            ClientSub::Info => &[b"$", b"="],
            _ => &[b"-ERR "],
        };
        if expected.iter().any(|start| element.starts_with(start)) {
            Self::Expected
        } else if element.starts_with(b"-") {
            Self::Refusal
        } else {
            Self::Strange
        }
    }
}

/// Tells what the server has said in the place of a CLIENT KILL or LIST whose words it was to judge, and which concerned nobody.
pub fn judged(element: &[u8]) -> StandInAnswer {
    let nobody: [&[u8]; 3] = [b":0", b"$", b"="];
    if element.starts_with(b"-") {
        StandInAnswer::Refusal
    } else if nobody.iter().any(|start| element.starts_with(start)) {
        StandInAnswer::Expected
    } else {
        StandInAnswer::Strange
    }
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
        let places: Vec<u32> = own
            .queued()
            .iter()
            .map(|element| element.at.place)
            .collect();
        assert_eq!(places, [0, 4]);
    }

    #[test]
    fn a_mark_is_of_the_one_behind_it_and_takes_a_place() {
        let mut own = OwnElements::default();
        let mark = Fence::new(7);
        own.marked(mark, true);
        assert_eq!(own.next_mark(), NextMark::Queued(mark));
        own.ask(OwnCommand::Redirection, b"a");
        assert_eq!(own.next_mark(), NextMark::None);
        own.answered(Some(1));
        own.selected(3, 2);
        own.ask(OwnCommand::Redirection, b"b");
        own.answered(Some(3));
        own.marked(Fence::new(8), false);
        assert_eq!((own.next_mark(), own.marks()), (NextMark::Refused, 1));
        let places: Vec<_> = own
            .queued()
            .iter()
            .map(|own| (own.at.place, own.at.mark))
            .collect();
        assert_eq!(places, [(2, Some(mark)), (3, None), (4, None)]);
    }

    #[test]
    fn what_the_server_judges_is_wrong_or_concerns_nobody() {
        for (element, is) in [
            (":0\r\n", StandInAnswer::Expected),
            ("$0\r\n\r\n", StandInAnswer::Expected),
            ("=4\r\ntxt:\r\n", StandInAnswer::Expected),
            ("-ERR No such user 'x'\r\n", StandInAnswer::Refusal),
            ("-NOPERM no\r\n", StandInAnswer::Refusal),
            (":1\r\n", StandInAnswer::Strange),
            ("+OK\r\n", StandInAnswer::Strange),
        ] {
            assert_eq!(judged(element.as_bytes()), is, "{element}");
        }
    }

    #[test]
    fn only_what_is_said_to_a_stand_in_makes_its_command_run() {
        use StandInAnswer::{Expected, Refusal, Strange};
        for (sub, element, is) in [
            (ClientSub::GetName, "$-1\r\n", Expected),
            (ClientSub::GetName, "_\r\n", Expected),
            (ClientSub::GetName, "-NOPERM no\r\n", Refusal),
            (ClientSub::GetName, "+inj\r\n", Strange),
            (ClientSub::Id, ":7\r\n", Expected),
            (ClientSub::Info, "=8\r\ntxt:id=1\r\n", Expected),
            (ClientSub::Kill, "-ERR syntax error\r\n", Expected),
            (ClientSub::Kill, "-NOPERM no\r\n", Refusal),
            (ClientSub::Kill, "+OK\r\n", Strange),
            (ClientSub::Reply, "*0\r\n", Strange),
            (ClientSub::Capa, "+OK\r\n", Expected),
            (
                ClientSub::Unsupported,
                "-ERR Unknown subcommand or wrong number of arguments for '-'. Try CLIENT HELP.\r\n",
                Expected,
            ),
        ] {
            assert_eq!(StandInAnswer::of(sub, element.as_bytes()), is, "{element}");
        }
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
