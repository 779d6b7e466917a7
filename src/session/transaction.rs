//! WATCH, MULTI, EXEC and CLIENT TRACKING of one client on its pinned connection, as the server's answers tell it.

use super::own_elements::{OwnCommand, OwnElements};
use crate::fences::{Fence, ends_transaction};

/// A command that changes the transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// MULTI.
    Multi,
    /// EXEC.
    Exec,
    /// DISCARD.
    Discard,
    /// WATCH.
    Watch,
    /// UNWATCH.
    Unwatch,
    /// SELECT inside MULTI.
    Select {
        /// The database.
        database: u32,
        /// Whether all before it are answered by one frame each, so that its place in EXEC's reply is known.
        has_place: bool,
    },
    /// CLIENT TRACKING: on, or off.
    Tracking(Option<Tracking>),
    /// A subscription command inside MULTI.
    Subscribe,
    /// MONITOR.
    Monitor,
    /// SCRIPT DEBUG: on, or off.
    Debug(bool),
    /// A script that the server runs under its debugger.
    Debugged,
    /// What stands inside MULTI for a command that respool answers itself.
    Own,
    /// A mark right before that, which is no command of the client's.
    Mark(Fence),
    /// Any other command inside MULTI.
    Queue,
}

/// What a connection carries beside replies, until it is reset or closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Messages of channels: a transaction subscribed.
    Messages,
    /// Commands of everybody: MONITOR.
    Commands,
    /// What a debugger says, until the server closes the connection.
    Debugger,
}

/// CLIENT TRACKING that is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tracking {
    /// BCAST: of all keys with certain prefixes, rather than of those that were read.
    pub broadcasts: bool,
    /// REDIRECT: the client, by respool's number, that gets the invalidations.
    pub redirect: Option<u64>,
}

/// Most SELECTs remembered of one transaction; one with more keeps its connection to itself.
const MAX_SELECTS: usize = 64;

/// The transaction state of one connection.
#[derive(Debug, Default)]
pub struct Transaction {
    /// MULTI was answered, EXEC or DISCARD was not.
    pub open: bool,
    /// Commands queued since MULTI.
    pub commands: u32,
    /// The server has refused a command since MULTI: EXEC runs nothing.
    spoilt: bool,
    /// Keys are watched.
    pub watching: bool,
    /// Databases selected by queued commands, in order.
    queued: Vec<u32>,
    /// More were than are remembered: nobody can tell any more which database the connection is in.
    unknown_database: bool,
    /// Databases the last EXEC may have selected; the last that exists is the one the connection is in.
    pub selected: Vec<u32>,
    /// CLIENT TRACKING, where it is on.
    pub tracking: Option<Tracking>,
    /// An EXEC may have switched it: only the server knows.
    pub tracking_unsure: bool,
    /// SCRIPT DEBUG is on: the next EVAL begins a session of the debugger.
    pub debugging: bool,
    queued_tracking: bool,
    queued_messages: bool,
    /// What respool itself answers of it, or looks at; boxed, since hardly any transaction has such a command.
    own: Option<Box<OwnElements>>,
    /// What follows on the connection beside replies.
    pub stream: Option<Stream>,
}

impl Transaction {
    /// The server answered `verb`; `head` starts with the reply's first line.
    pub fn answered(&mut self, verb: Verb, head: &[u8]) {
        let is_ok = head.first() == Some(&b'+');
        if is_ok && self.open && !matches!(verb, Verb::Exec | Verb::Discard | Verb::Mark(_)) {
            self.commands = self.commands.saturating_add(1);
        }
        // Redis 6.2 forgives some of them; whoever asks is told then that it is not certain.
        self.spoilt |= self.open && head.first() == Some(&b'-') && verb != Verb::Exec;
        match verb {
            Verb::Multi if is_ok => (self.open, self.commands, self.spoilt) = (true, 0, false),
            Verb::Watch if is_ok => self.watching = true,
            // Inside MULTI it is only queued, and EXEC unwatches anyway.
            Verb::Unwatch if is_ok && !self.open => self.watching = false,
            Verb::Discard if is_ok => self.end(),
            // Outside of one only the error is new. What EXEC itself has not said ends none: it is renamed, say.
            Verb::Exec if self.open && ends_transaction(head) == Some(true) => {
                let queued = std::mem::take(&mut self.queued);
                if head.starts_with(b"*") && !head.starts_with(b"*-1") {
                    self.selected = queued;
                    self.tracking_unsure |= self.queued_tracking;
                    if self.queued_messages {
                        self.stream = Some(Stream::Messages);
                    }
                }
                self.end();
            }
            Verb::Tracking(_) if is_ok && self.open => self.queued_tracking = true,
            Verb::Tracking(tracking) if is_ok => self.tracking = tracking,
            Verb::Monitor if is_ok && !self.open => self.stream = Some(Stream::Commands),
            Verb::Debug(on) if is_ok && !self.open => self.debugging = on,
            // Whatever else goes wrong is said by the debugger.
            Verb::Debugged if head.first() != Some(&b'-') => self.stream = Some(Stream::Debugger),
            Verb::Subscribe if is_ok && self.open => self.queued_messages = true,
            Verb::Mark(mark) => {
                let is_queued = is_ok && self.open;
                self.own.get_or_insert_default().marked(mark, is_queued);
            }
            Verb::Own => {
                let command = self.commands.wrapping_sub(1);
                let queued = (is_ok && self.open).then_some(command);
                let queued = self.own.as_mut().and_then(|own| own.answered(queued));
                self.queued_tracking |= matches!(queued, Some(OwnCommand::Redirected(_)));
            }
            Verb::Select {
                database,
                has_place,
            } if is_ok && self.open => {
                if self.queued.len() < MAX_SELECTS {
                    if has_place {
                        let command = self.commands.wrapping_sub(1);
                        self.own.get_or_insert_default().selected(database, command);
                    }
                    self.queued.push(database);
                } else {
                    self.unknown_database = true;
                }
            }
            _ => {}
        }
    }

    /// Whether the connection holds nothing of this client's.
    #[inline]
    pub fn is_clear(&self) -> bool {
        !self.open
            && !self.watching
            && !self.unknown_database
            && self.selected.is_empty()
            && self.tracking.is_none()
            && !self.tracking_unsure
            && !self.debugging
            && self.stream.is_none()
    }

    /// Whether an EXEC would run what was queued, as far as can be told before it is sent: nothing was refused, and no key is
    /// watched that somebody may have changed.
    pub fn is_certain(&self) -> bool {
        self.open && !self.spoilt && !self.watching
    }

    /// Whether the database of the connection is not what the session takes it for.
    pub fn is_database_unknown(&self) -> bool {
        self.unknown_database || !self.selected.is_empty()
    }

    /// The server is asked to queue something in the place of this request, as [`Verb::Own`].
    pub fn ask_own(&mut self, command: OwnCommand, request: &[u8]) {
        self.own.get_or_insert_default().ask(command, request);
    }

    /// Whether invalidations may come among the elements of EXEC's reply, as Redis 6.2 sends them to RESP3 clients.
    pub fn may_push(&self) -> bool {
        self.tracking.is_some() || self.tracking_unsure || self.queued_tracking
    }

    /// What respool itself answers of it, or looks at.
    pub fn own(&self) -> Option<&OwnElements> {
        self.own.as_deref()
    }

    fn end(&mut self) {
        self.open = false;
        self.spoilt = false;
        self.own = None;
        self.watching = false;
        self.queued.clear();
        self.queued_tracking = false;
        self.queued_messages = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_drive_the_state() {
        let mut tx = Transaction::default();
        tx.answered(Verb::Watch, b"+OK\r\n");
        assert!(tx.watching && !tx.is_clear());
        tx.answered(Verb::Multi, b"+OK\r\n");
        tx.answered(Verb::Multi, b"-ERR MULTI calls can not be nested\r\n");
        assert!(tx.open);
        tx.answered(Verb::Unwatch, b"+QUEUED\r\n");
        assert!(tx.watching);
        tx.answered(Verb::Exec, b"*-1\r\n");
        assert!(tx.is_clear());
        tx.answered(Verb::Watch, b"-ERR wrong number of arguments\r\n");
        assert!(tx.is_clear());
        tx.answered(Verb::Watch, b"+OK\r\n");
        tx.answered(Verb::Exec, b"-ERR EXEC without MULTI\r\n");
        assert!(tx.watching, "EXEC outside of MULTI leaves the watch");
        tx.answered(Verb::Unwatch, b"+OK\r\n");
        assert!(tx.is_clear());
    }

    #[test]
    fn tracking_is_on_from_its_answer_to_the_next() {
        let mut tx = Transaction::default();
        let on = Some(Tracking {
            broadcasts: true,
            redirect: Some(7),
        });
        tx.answered(Verb::Tracking(on), b"-ERR syntax error\r\n");
        assert!(tx.is_clear());
        tx.answered(Verb::Tracking(on), b"+OK\r\n");
        assert!(tx.tracking == on && !tx.is_clear());
        tx.answered(Verb::Tracking(None), b"-ERR syntax error\r\n");
        assert_eq!(tx.tracking, on);
        tx.answered(Verb::Tracking(None), b"+OK\r\n");
        assert!(tx.is_clear());
    }

    #[test]
    fn what_exec_switched_is_known_to_the_server_alone() {
        for (reply, unsure) in [
            (&b"*1\r\n"[..], true),
            (b"*-1\r\n", false),
            (b"_\r\n", false),
            (b"-EXECABORT no\r\n", false),
        ] {
            let mut tx = Transaction::default();
            tx.answered(Verb::Multi, b"+OK\r\n");
            tx.answered(Verb::Tracking(None), b"+QUEUED\r\n");
            tx.answered(Verb::Subscribe, b"+QUEUED\r\n");
            assert!(!tx.tracking_unsure && tx.stream.is_none());
            assert_eq!(tx.commands, 2);
            tx.answered(Verb::Exec, reply);
            let stream = unsure.then_some(Stream::Messages);
            assert_eq!((tx.tracking_unsure, tx.stream), (unsure, stream));
            assert_eq!(tx.is_clear(), !unsure);
        }
    }

    #[test]
    fn monitor_is_on_when_the_server_says_so_and_never_by_exec() {
        let mut tx = Transaction::default();
        tx.answered(Verb::Monitor, b"-NOPERM this user\r\n");
        assert!(tx.is_clear());
        tx.answered(Verb::Multi, b"+OK\r\n");
        tx.answered(Verb::Monitor, b"+QUEUED\r\n");
        tx.answered(Verb::Exec, b"*1\r\n");
        assert!(tx.is_clear());
        tx.answered(Verb::Monitor, b"+OK\r\n");
        assert_eq!(tx.stream, Some(Stream::Commands));
    }

    #[test]
    fn a_debugger_speaks_when_a_script_is_not_refused() {
        let mut tx = Transaction::default();
        tx.answered(Verb::Debug(true), b"-ERR Use SCRIPT DEBUG YES/SYNC/NO\r\n");
        assert!(tx.is_clear());
        tx.answered(Verb::Debug(true), b"+OK\r\n");
        assert!(tx.debugging && !tx.is_clear());
        tx.answered(Verb::Debugged, b"-NOPERM no\r\n");
        assert!(tx.stream.is_none() && tx.debugging);
        tx.answered(Verb::Debug(false), b"+OK\r\n");
        assert!(tx.is_clear());
        tx.answered(Verb::Debug(true), b"+OK\r\n");
        tx.answered(Verb::Debugged, b"*2\r\n");
        assert_eq!(tx.stream, Some(Stream::Debugger));
    }

    #[test]
    fn an_exec_is_certain_while_nothing_was_refused_or_is_watched() {
        let mut tx = Transaction::default();
        assert!(!tx.is_certain());
        tx.answered(Verb::Multi, b"+OK\r\n");
        tx.answered(Verb::Queue, b"+QUEUED\r\n");
        assert!(tx.is_certain());
        tx.answered(Verb::Queue, b"-NOPERM no\r\n");
        tx.answered(Verb::Queue, b"+QUEUED\r\n");
        assert!(!tx.is_certain());
        tx.answered(Verb::Exec, b"-EXECABORT no\r\n");
        tx.answered(Verb::Watch, b"+OK\r\n");
        tx.answered(Verb::Multi, b"+OK\r\n");
        tx.answered(Verb::Queue, b"+QUEUED\r\n");
        assert!(!tx.is_certain(), "it may have been changed");
        tx.answered(Verb::Discard, b"+OK\r\n");
        tx.answered(Verb::Multi, b"+OK\r\n");
        assert!(tx.is_certain());
    }

    #[test]
    fn a_discard_that_failed_leaves_the_transaction_open() {
        let mut tx = Transaction::default();
        tx.answered(Verb::Multi, b"+OK\r\n");
        tx.answered(
            Verb::Discard,
            b"-ERR wrong number of arguments for 'discard' command\r\n",
        );
        assert!(tx.open);
        tx.answered(Verb::Discard, b"+OK\r\n");
        assert!(tx.is_clear());
    }

    #[test]
    fn queued_selects_count_only_when_exec_ran() {
        let select = |database| Verb::Select {
            database,
            has_place: true,
        };
        for (reply, selected) in [
            (&b"*2\r\n"[..], vec![3, 9]),
            (b"*-1\r\n", vec![]),
            (b"_\r\n", vec![]),
            (b"-EXECABORT no\r\n", vec![]),
        ] {
            let mut tx = Transaction::default();
            tx.answered(Verb::Multi, b"+OK\r\n");
            tx.answered(select(3), b"+QUEUED\r\n");
            tx.answered(select(9), b"+QUEUED\r\n");
            tx.answered(Verb::Exec, reply);
            assert_eq!(tx.selected, selected);
        }
    }
}
