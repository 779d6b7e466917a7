//! WATCH, MULTI, EXEC and CLIENT TRACKING of one client on its pinned connection, as the server's answers tell it.

use super::own_elements::{OwnCommand, OwnElements};
use crate::command::TransactionCommand;
use crate::fences::{Fence, ends_transaction};

/// Names what a request on a lent connection is to the client's transaction and to what the connection carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PinnedCommand {
    /// It is one of the five commands of a transaction.
    Transaction(TransactionCommand),
    /// It is SELECT inside MULTI.
    Select {
        /// Is the number of the database.
        database: u32,
        /// Is true where all before it are answered by one frame each, so that its place in EXEC's reply is known.
        has_place: bool,
    },
    /// It is CLIENT TRACKING: on, or off.
    Tracking(Option<Tracking>),
    /// It is a subscription command inside MULTI.
    Subscribe,
    /// It is MONITOR: if the server takes it, the commands of everybody follow.
    Monitor,
    /// It is SCRIPT DEBUG: on, or off.
    Debug(bool),
    /// It is a script that the server runs under its debugger.
    Debugged,
    /// It is what stands inside MULTI for a command that respool answers itself.
    Own,
    /// It is a mark right before that, which is no command of the client's.
    Mark(Fence),
    /// It is any other command inside MULTI.
    Queue,
}

impl PinnedCommand {
    /// Ends a transaction and runs it.
    pub const EXEC: Self = Self::Transaction(TransactionCommand::Exec);
}

/// Says what a connection carries beside replies, until it is reset or closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamKind {
    /// It carries messages of channels: a transaction subscribed.
    Messages,
    /// It carries the commands of everybody: MONITOR.
    Commands,
    /// It carries what a debugger says, until the server closes the connection.
    Debugger,
}

/// Says how CLIENT TRACKING is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tracking {
    /// Is true of BCAST: it is of all keys with certain prefixes, rather than of those that were read.
    pub broadcasts: bool,
    /// Names, by respool's number, the client to which REDIRECT sends the invalidations.
    pub redirect: Option<u64>,
}

/// Bounds the SELECTs that are remembered of one transaction; one with more keeps its connection to itself.
const MAX_SELECTS: usize = 64;

/// Holds what a server has queued behind a MULTI.
#[derive(Debug, Default)]
struct QueuedCommands {
    /// Counts all that are queued.
    count: u32,
    /// Is set once the server has refused a command: EXEC runs nothing.
    is_spoilt: bool,
    /// Lists the databases that they select, in order, as many as are remembered.
    databases: Vec<u32>,
    /// Is set once they select more.
    selects_more: bool,
    /// Is set once one of them switches tracking.
    has_tracking: bool,
    /// Is set once one of them subscribes.
    has_messages: bool,
    /// Holds what respool itself answers of them, or looks at; boxed, since hardly any transaction has such a command.
    own: Option<Box<OwnElements>>,
}

/// Holds what a client is in the middle of on the connection lent to it, as the server's answers tell it.
#[derive(Debug, Default)]
pub struct Transaction {
    /// Holds what stands behind the MULTI that was answered, until EXEC or DISCARD is.
    queue: Option<QueuedCommands>,
    /// Is true while keys are watched.
    pub watching: bool,
    /// Is true once nobody can tell any more which database the connection is in: more were selected than are remembered, or the server
    /// did not say. Then none is remembered.
    unknown_database: bool,
    /// Lists the databases that EXECs may have selected since the server was asked; the last that exists is the one the connection is in.
    selected: Vec<u32>,
    /// Says what CLIENT TRACKING is on for; `None`: it is off.
    pub tracking: Option<Tracking>,
    /// Is true while an EXEC may have switched it: only the server knows.
    pub tracking_unsure: bool,
    /// Is true once tracking may have been switched on since the connection was lent.
    pub has_tracked: bool,
    /// Is true while SCRIPT DEBUG is on: the next EVAL begins a session of the debugger.
    pub debugging: bool,
    /// Says what follows on the connection beside replies.
    pub stream: Option<StreamKind>,
}

impl QueuedCommands {
    /// Takes the server's answer to a command behind MULTI.
    fn answered(&mut self, command: PinnedCommand, is_ok: bool, head: &[u8]) {
        let is_exec = command == PinnedCommand::EXEC;
        let is_last = is_exec || command == PinnedCommand::Transaction(TransactionCommand::Discard);
        if is_ok && !is_last && !matches!(command, PinnedCommand::Mark(_)) {
            self.count = self.count.saturating_add(1);
        }
        // Redis 6.2 forgives some of them; whoever asks is told then that it is not certain.
        self.is_spoilt |= head.first() == Some(&b'-') && !is_exec;
        let place = self.count.wrapping_sub(1);
        match command {
            PinnedCommand::Tracking(_) => self.has_tracking |= is_ok,
            PinnedCommand::Subscribe => self.has_messages |= is_ok,
            PinnedCommand::Mark(mark) => self.own.get_or_insert_default().marked(mark, is_ok),
            PinnedCommand::Own => {
                let queued = is_ok.then_some(place);
                let queued = self.own.as_mut().and_then(|own| own.answered(queued));
                self.has_tracking |= matches!(queued, Some(OwnCommand::Redirected(_)));
            }
            PinnedCommand::Select {
                database,
                has_place,
            } if is_ok && self.databases.len() < MAX_SELECTS => {
                if has_place {
                    self.own.get_or_insert_default().selected(database, place);
                }
                self.databases.push(database);
            }
            PinnedCommand::Select { .. } => self.selects_more |= is_ok,
            _ => {}
        }
    }
}

impl Transaction {
    /// Tells whether MULTI was answered, and neither EXEC nor DISCARD since.
    #[inline]
    pub fn is_open(&self) -> bool {
        self.queue.is_some()
    }

    /// Returns how many commands the server has queued since MULTI.
    pub fn commands(&self) -> u32 {
        self.queue.as_ref().map_or(0, |queue| queue.count)
    }

    /// Takes the server's answer to `command`; `head` starts with the reply's first line.
    pub fn answered(&mut self, command: PinnedCommand, head: &[u8]) {
        let is_ok = head.first() == Some(&b'+');
        if let Some(queue) = &mut self.queue {
            queue.answered(command, is_ok, head);
        }
        let is_run = is_ok && self.queue.is_none();
        match command {
            PinnedCommand::Transaction(command) => self.control_answered(command, is_ok, head),
            PinnedCommand::Tracking(tracking) if is_run => {
                self.tracking = tracking;
                self.has_tracked |= tracking.is_some();
            }
            PinnedCommand::Monitor if is_run => self.stream = Some(StreamKind::Commands),
            PinnedCommand::Debug(on) if is_run => self.debugging = on,
            // Whatever else goes wrong is said by the debugger.
            PinnedCommand::Debugged if head.first() != Some(&b'-') => {
                self.stream = Some(StreamKind::Debugger)
            }
            _ => {}
        }
    }

    /// Takes the answer to one of the five commands of a transaction.
    fn control_answered(&mut self, command: TransactionCommand, is_ok: bool, head: &[u8]) {
        match command {
            TransactionCommand::Multi if is_ok => self.queue = Some(QueuedCommands::default()),
            TransactionCommand::Watch if is_ok => self.watching = true,
            // Inside MULTI it is only queued, and EXEC unwatches anyway.
            TransactionCommand::Unwatch if is_ok && self.queue.is_none() => self.watching = false,
            TransactionCommand::Discard if is_ok => (self.queue, self.watching) = (None, false),
            // What EXEC itself has not said ends none: it is renamed, say.
            TransactionCommand::Exec if ends_transaction(head) == Some(true) => {
                // Outside of one only the error is new.
                let Some(queue) = self.queue.take() else {
                    return;
                };
                self.watching = false;
                if head.starts_with(b"*") && !head.starts_with(b"*-1") {
                    self.note_selected(queue.databases, queue.selects_more);
                    self.tracking_unsure |= queue.has_tracking;
                    self.has_tracked |= queue.has_tracking;
                    if queue.has_messages {
                        self.stream = Some(StreamKind::Messages);
                    }
                }
            }
            _ => {}
        }
    }

    /// Notes what an EXEC may have selected, behind what those before it may have: the server has not been asked about that yet.
    fn note_selected(&mut self, databases: Vec<u32>, and_more: bool) {
        if and_more || self.selected.len() + databases.len() > MAX_SELECTS {
            self.lose_database();
        } else if !self.unknown_database {
            self.selected.extend(databases);
        }
    }

    /// Takes in that nobody can tell which database the connection is in: it stays this client's until a SELECT is acknowledged.
    pub fn lose_database(&mut self) {
        self.unknown_database = true;
        self.selected = Vec::new();
    }

    /// Takes in that the server has acknowledged a SELECT behind everything else.
    pub fn took_select(&mut self) {
        self.unknown_database = false;
        self.selected = Vec::new();
    }

    /// Returns which database the connection may be in by the last EXECs: the one that was selected last, of those that were not asked about.
    pub fn take_selected(&mut self) -> Option<u32> {
        self.selected.pop()
    }

    /// Tells whether the server has to be asked which of the selected databases the connection is in.
    pub fn has_selects(&self) -> bool {
        !self.selected.is_empty()
    }

    /// Tells whether the connection holds nothing of this client's.
    #[inline]
    pub fn is_clear(&self) -> bool {
        self.queue.is_none()
            && !self.watching
            && !self.unknown_database
            && self.selected.is_empty()
            && self.tracking.is_none()
            && !self.tracking_unsure
            && !self.debugging
            && self.stream.is_none()
    }

    /// Tells whether an EXEC would run what was queued, as far as can be told before it is sent: nothing was refused, and no key is
    /// watched that somebody may have changed.
    pub fn is_certain(&self) -> bool {
        !self.watching && self.queue.as_ref().is_some_and(|queue| !queue.is_spoilt)
    }

    /// Tells whether the database of the connection is not what the session takes it for.
    pub fn is_database_unknown(&self) -> bool {
        self.unknown_database || !self.selected.is_empty()
    }

    /// Notes that the server is asked to queue something in the place of this request, as [`PinnedCommand::Own`].
    pub fn ask_own(&mut self, command: OwnCommand, request: &[u8]) {
        if let Some(queue) = &mut self.queue {
            queue.own.get_or_insert_default().ask(command, request);
        }
    }

    /// Tells whether invalidations may come among the elements of EXEC's reply, as Redis 6.2 sends them to RESP3 clients.
    pub fn may_push(&self) -> bool {
        let queues_tracking = || self.queue.as_ref().is_some_and(|queue| queue.has_tracking);
        self.tracking.is_some() || self.tracking_unsure || queues_tracking()
    }

    /// Returns what respool itself answers of it, or looks at.
    pub fn own(&self) -> Option<&OwnElements> {
        self.queue.as_ref()?.own.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MULTI: PinnedCommand = PinnedCommand::Transaction(TransactionCommand::Multi);
    const EXEC: PinnedCommand = PinnedCommand::EXEC;
    const DISCARD: PinnedCommand = PinnedCommand::Transaction(TransactionCommand::Discard);
    const WATCH: PinnedCommand = PinnedCommand::Transaction(TransactionCommand::Watch);
    const UNWATCH: PinnedCommand = PinnedCommand::Transaction(TransactionCommand::Unwatch);

    #[test]
    fn answers_drive_the_state() {
        let mut tx = Transaction::default();
        tx.answered(WATCH, b"+OK\r\n");
        assert!(tx.watching && !tx.is_clear());
        tx.answered(MULTI, b"+OK\r\n");
        tx.answered(MULTI, b"-ERR MULTI calls can not be nested\r\n");
        assert!(tx.is_open());
        tx.answered(UNWATCH, b"+QUEUED\r\n");
        assert!(tx.watching);
        tx.answered(EXEC, b"*-1\r\n");
        assert!(tx.is_clear());
        tx.answered(WATCH, b"-ERR wrong number of arguments\r\n");
        assert!(tx.is_clear());
        tx.answered(WATCH, b"+OK\r\n");
        tx.answered(EXEC, b"-ERR EXEC without MULTI\r\n");
        assert!(tx.watching, "EXEC outside of MULTI leaves the watch");
        tx.answered(UNWATCH, b"+OK\r\n");
        assert!(tx.is_clear());
    }

    #[test]
    fn what_one_exec_has_selected_is_not_forgotten_with_the_next() {
        let select = |database| PinnedCommand::Select {
            database,
            has_place: false,
        };
        let mut tx = Transaction::default();
        for database in [Some(3), None, Some(9), None] {
            tx.answered(MULTI, b"+OK\r\n");
            if let Some(database) = database {
                tx.answered(select(database), b"+QUEUED\r\n");
            }
            tx.answered(EXEC, b"*1\r\n");
        }
        assert_eq!(tx.selected, [3, 9]);
        assert!(!tx.is_clear() && !tx.unknown_database);
        for _ in 0..MAX_SELECTS {
            tx.answered(MULTI, b"+OK\r\n");
            tx.answered(select(1), b"+QUEUED\r\n");
            tx.answered(EXEC, b"*1\r\n");
        }
        // More are not remembered, and its connection is nobody else's.
        assert!(tx.selected.len() <= MAX_SELECTS && tx.unknown_database);
    }

    #[test]
    fn tracking_is_on_from_its_answer_to_the_next() {
        let mut tx = Transaction::default();
        let on = Some(Tracking {
            broadcasts: true,
            redirect: Some(7),
        });
        tx.answered(PinnedCommand::Tracking(None), b"+OK\r\n");
        tx.answered(PinnedCommand::Tracking(on), b"-ERR syntax error\r\n");
        assert!(tx.is_clear() && !tx.has_tracked);
        tx.answered(PinnedCommand::Tracking(on), b"+OK\r\n");
        assert!(tx.tracking == on && !tx.is_clear());
        tx.answered(PinnedCommand::Tracking(None), b"-ERR syntax error\r\n");
        assert_eq!(tx.tracking, on);
        tx.answered(PinnedCommand::Tracking(None), b"+OK\r\n");
        assert!(tx.is_clear() && tx.has_tracked);
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
            tx.answered(MULTI, b"+OK\r\n");
            tx.answered(PinnedCommand::Tracking(None), b"+QUEUED\r\n");
            tx.answered(PinnedCommand::Subscribe, b"+QUEUED\r\n");
            assert!(!tx.tracking_unsure && tx.stream.is_none());
            assert_eq!(tx.commands(), 2);
            tx.answered(EXEC, reply);
            let stream = unsure.then_some(StreamKind::Messages);
            assert_eq!((tx.tracking_unsure, tx.stream), (unsure, stream));
            assert_eq!(tx.has_tracked, unsure);
            assert_eq!(tx.is_clear(), !unsure);
        }
    }

    #[test]
    fn monitor_is_on_when_the_server_says_so_and_never_by_exec() {
        let mut tx = Transaction::default();
        tx.answered(PinnedCommand::Monitor, b"-NOPERM this user\r\n");
        assert!(tx.is_clear());
        tx.answered(MULTI, b"+OK\r\n");
        tx.answered(PinnedCommand::Monitor, b"+QUEUED\r\n");
        tx.answered(EXEC, b"*1\r\n");
        assert!(tx.is_clear());
        tx.answered(PinnedCommand::Monitor, b"+OK\r\n");
        assert_eq!(tx.stream, Some(StreamKind::Commands));
    }

    #[test]
    fn a_debugger_speaks_when_a_script_is_not_refused() {
        let mut tx = Transaction::default();
        tx.answered(
            PinnedCommand::Debug(true),
            b"-ERR Use SCRIPT DEBUG YES/SYNC/NO\r\n",
        );
        assert!(tx.is_clear());
        tx.answered(PinnedCommand::Debug(true), b"+OK\r\n");
        assert!(tx.debugging && !tx.is_clear());
        tx.answered(PinnedCommand::Debugged, b"-NOPERM no\r\n");
        assert!(tx.stream.is_none() && tx.debugging);
        tx.answered(PinnedCommand::Debug(false), b"+OK\r\n");
        assert!(tx.is_clear());
        tx.answered(PinnedCommand::Debug(true), b"+OK\r\n");
        tx.answered(PinnedCommand::Debugged, b"*2\r\n");
        assert_eq!(tx.stream, Some(StreamKind::Debugger));
    }

    #[test]
    fn an_exec_is_certain_while_nothing_was_refused_or_is_watched() {
        let mut tx = Transaction::default();
        assert!(!tx.is_certain());
        tx.answered(MULTI, b"+OK\r\n");
        tx.answered(PinnedCommand::Queue, b"+QUEUED\r\n");
        assert!(tx.is_certain());
        tx.answered(PinnedCommand::Queue, b"-NOPERM no\r\n");
        tx.answered(PinnedCommand::Queue, b"+QUEUED\r\n");
        assert!(!tx.is_certain());
        tx.answered(EXEC, b"-EXECABORT no\r\n");
        tx.answered(WATCH, b"+OK\r\n");
        tx.answered(MULTI, b"+OK\r\n");
        tx.answered(PinnedCommand::Queue, b"+QUEUED\r\n");
        assert!(!tx.is_certain(), "it may have been changed");
        tx.answered(DISCARD, b"+OK\r\n");
        tx.answered(MULTI, b"+OK\r\n");
        assert!(tx.is_certain());
    }

    #[test]
    fn a_discard_that_failed_leaves_the_transaction_open() {
        let mut tx = Transaction::default();
        tx.answered(MULTI, b"+OK\r\n");
        tx.answered(
            DISCARD,
            b"-ERR wrong number of arguments for 'discard' command\r\n",
        );
        assert!(tx.is_open());
        tx.answered(DISCARD, b"+OK\r\n");
        assert!(tx.is_clear());
    }

    #[test]
    fn queued_selects_count_only_when_exec_ran() {
        let select = |database| PinnedCommand::Select {
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
            tx.answered(MULTI, b"+OK\r\n");
            tx.answered(select(3), b"+QUEUED\r\n");
            tx.answered(select(9), b"+QUEUED\r\n");
            tx.answered(EXEC, reply);
            assert_eq!(tx.selected, selected);
        }
    }
}
