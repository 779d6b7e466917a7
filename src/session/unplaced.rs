//! A transaction, or a watch, that the server has not been told of: it was busy with a script when the client began it, and let
//! respool have no connection for it.
//!
//! A server in which a script does not end takes WATCH and MULTI, refuses what follows, and aborts at EXEC. The client is
//! answered so here, in the server's words, until the transaction stands at the server after all or is over.
//!
//! Invariant: no command runs that was written for such a transaction, unless the server has it and aborts or runs the whole.

use super::route::Route;
use crate::command::{Local, TransactionCommand};
use crate::resp::speak::OK;
use crate::texts::{
    NOTHING_TO_DISCARD, QUEUED, ServerVersion, exec_aborted, nesting_spoils, no_nesting,
};

/// Says how far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// WATCH was answered, and nobody watches.
    Watching,
    /// MULTI was answered, and nothing since that would make EXEC fail.
    Open,
    /// MULTI was answered, and something refused since: EXEC aborts.
    Spoilt,
    /// MULTI is at the server.
    Sent,
    /// It comes to nothing: what its client takes for watched is not, or the server does not open it.
    Lost,
}

/// Holds a transaction, or a watch, that the server has not been told of.
#[derive(Debug)]
pub struct UnplacedTransaction {
    /// Holds what the server said last.
    refusal: Vec<u8>,
    stage: Stage,
}

/// Says what a client gets for a command of a transaction that a busy server refuses outside of MULTI.
pub enum Begun {
    /// It gets this reply, and nothing begins.
    Reply(Vec<u8>),
    /// It gets `+OK`, and this begins.
    Ok(UnplacedTransaction),
}

/// Says what a request gets while there is such a transaction.
#[derive(Debug, PartialEq, Eq)]
pub enum Unplaced {
    /// It gets what it would get without.
    Elsewhere,
    /// It gets this reply.
    Reply(Vec<u8>),
    /// It gets this reply, and the transaction is over.
    Over(Vec<u8>),
}

impl UnplacedTransaction {
    /// Returns what `verb` gets, outside of MULTI, that a busy server refuses with `refusal`, which it would not have done on a connection
    /// in the client's state.
    pub fn begin(verb: TransactionCommand, refusal: &[u8]) -> Begun {
        let stage = match verb {
            TransactionCommand::Multi => Stage::Open,
            TransactionCommand::Watch => Stage::Watching,
            TransactionCommand::Exec => return Begun::Reply(exec_aborted(refusal)),
            TransactionCommand::Discard => return Begun::Reply(NOTHING_TO_DISCARD.to_vec()),
            TransactionCommand::Unwatch => return Begun::Reply(OK.to_vec()),
        };
        let refusal = refusal.to_vec();
        Begun::Ok(Self { refusal, stage })
    }

    /// Tells whether MULTI was answered.
    pub fn is_open(&self) -> bool {
        self.stage != Stage::Watching
    }

    /// Tells whether the server may be told of it as soon as it lends a connection.
    pub fn may_be_placed(&self) -> bool {
        matches!(self.stage, Stage::Open | Stage::Spoilt)
    }

    /// Notes that MULTI is being sent. True: what makes EXEC fail must follow it.
    pub fn send(&mut self) -> bool {
        std::mem::replace(&mut self.stage, Stage::Sent) == Stage::Spoilt
    }

    /// Tells whether MULTI was sent, and is to be asked about.
    pub fn is_sent(&self) -> bool {
        self.stage == Stage::Sent
    }

    /// Notes that the server has not opened it.
    pub fn lose(&mut self) {
        self.stage = Stage::Lost;
    }

    /// Notes that the server refuses something with this.
    pub fn hear(&mut self, refusal: &[u8]) {
        self.refusal = refusal.to_vec();
    }

    /// Returns what every command in it is refused with.
    pub fn refuse(&mut self) -> Vec<u8> {
        if self.stage == Stage::Open {
            self.stage = Stage::Spoilt;
        }
        self.refusal.clone()
    }

    /// Returns what a request gets that goes to `route`, or has too few or too many words (`wrong`).
    pub fn answer(
        &mut self,
        route: &Route,
        wrong: Option<Vec<u8>>,
        server: ServerVersion,
    ) -> Unplaced {
        if !self.is_open() {
            return self.answer_outside(route, wrong.is_some());
        }
        if let Some(wrong) = wrong {
            self.refuse();
            return match route {
                Route::Transaction(TransactionCommand::Exec) => {
                    Unplaced::Over(exec_aborted(&wrong))
                }
                _ => Unplaced::Reply(wrong),
            };
        }
        match route {
            Route::Alien | Route::Local(Local::Quit) => Unplaced::Elsewhere,
            Route::Transaction(TransactionCommand::Exec) => {
                Unplaced::Over(exec_aborted(&self.refusal))
            }
            Route::Transaction(TransactionCommand::Discard) => Unplaced::Over(OK.to_vec()),
            Route::Transaction(verb @ (TransactionCommand::Multi | TransactionCommand::Watch)) => {
                if nesting_spoils(server) {
                    self.refuse();
                }
                Unplaced::Reply(match verb {
                    TransactionCommand::Watch => no_nesting(server, "watch"),
                    _ => no_nesting(server, "multi"),
                })
            }
            Route::Transaction(TransactionCommand::Unwatch) => {
                // EXEC would have to answer it.
                self.refuse();
                Unplaced::Reply(QUEUED.to_vec())
            }
            Route::Refused(reply) => {
                self.refuse();
                Unplaced::Reply(reply.clone())
            }
            _ => Unplaced::Reply(self.refuse()),
        }
    }

    fn answer_outside(&mut self, route: &Route, is_wrong: bool) -> Unplaced {
        match route {
            _ if is_wrong => Unplaced::Elsewhere,
            Route::Transaction(TransactionCommand::Multi) => {
                // It would run as if nobody had touched what is watched.
                self.stage = Stage::Lost;
                Unplaced::Reply(OK.to_vec())
            }
            Route::Transaction(TransactionCommand::Watch) => Unplaced::Reply(OK.to_vec()),
            Route::Transaction(TransactionCommand::Unwatch) => Unplaced::Over(OK.to_vec()),
            _ => Unplaced::Elsewhere,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSAL: &[u8] = b"-BUSY Redis is busy.\r\n";
    const ABORTED: &[u8] = b"-EXECABORT Transaction discarded because of: BUSY Redis is busy.\r\n";

    fn begun(verb: TransactionCommand) -> UnplacedTransaction {
        match UnplacedTransaction::begin(verb, REFUSAL) {
            Begun::Ok(begun) => begun,
            Begun::Reply(reply) => panic!("{}", reply.escape_ascii()),
        }
    }

    fn tell(unplaced: &mut UnplacedTransaction, route: &Route) -> Unplaced {
        unplaced.answer(route, None, ServerVersion::UNKNOWN)
    }

    #[test]
    fn everything_is_refused_up_to_exec() {
        let mut unplaced = begun(TransactionCommand::Multi);
        assert!(unplaced.may_be_placed());
        let refused = Unplaced::Reply(REFUSAL.to_vec());
        assert_eq!(tell(&mut unplaced, &Route::Shared), refused);
        let nested = tell(
            &mut unplaced,
            &Route::Transaction(TransactionCommand::Multi),
        );
        let expected = b"-ERR MULTI calls can not be nested\r\n".to_vec();
        assert_eq!(nested, Unplaced::Reply(expected));
        let wrong = b"-ERR wrong number of arguments\r\n".to_vec();
        let told = unplaced.answer(&Route::Shared, Some(wrong.clone()), ServerVersion::UNKNOWN);
        assert_eq!(told, Unplaced::Reply(wrong));
        let end = tell(&mut unplaced, &Route::Transaction(TransactionCommand::Exec));
        assert_eq!(end, Unplaced::Over(ABORTED.to_vec()));
    }

    #[test]
    fn one_that_is_placed_aborts_only_when_something_was_refused() {
        let mut clean = begun(TransactionCommand::Multi);
        tell(&mut clean, &Route::Transaction(TransactionCommand::Multi));
        assert!(!clean.send(), "Redis forgives a nested MULTI");
        assert!(clean.is_sent() && !clean.may_be_placed());
        let mut spoilt = begun(TransactionCommand::Multi);
        spoilt.answer(
            &Route::Transaction(TransactionCommand::Multi),
            None,
            ServerVersion::valkey(9, 1, 2),
        );
        assert!(spoilt.send(), "Valkey does not");
        spoilt.lose();
        assert!(!spoilt.may_be_placed() && spoilt.is_open());
    }

    #[test]
    fn what_nobody_watched_comes_to_nothing() {
        let mut unplaced = begun(TransactionCommand::Watch);
        assert_eq!(tell(&mut unplaced, &Route::Shared), Unplaced::Elsewhere);
        let ok = Unplaced::Reply(OK.to_vec());
        assert_eq!(
            tell(
                &mut unplaced,
                &Route::Transaction(TransactionCommand::Watch)
            ),
            ok
        );
        assert_eq!(
            tell(
                &mut unplaced,
                &Route::Transaction(TransactionCommand::Multi)
            ),
            ok
        );
        assert!(unplaced.is_open() && !unplaced.may_be_placed());
        let end = tell(&mut unplaced, &Route::Transaction(TransactionCommand::Exec));
        assert_eq!(end, Unplaced::Over(ABORTED.to_vec()));
        let mut unplaced = begun(TransactionCommand::Watch);
        let end = tell(
            &mut unplaced,
            &Route::Transaction(TransactionCommand::Unwatch),
        );
        assert_eq!(end, Unplaced::Over(OK.to_vec()));
    }

    #[test]
    fn outside_of_multi_a_busy_server_still_answers_some() {
        for (verb, expected) in [
            (TransactionCommand::Exec, ABORTED),
            (
                TransactionCommand::Discard,
                b"-ERR DISCARD without MULTI\r\n",
            ),
            (TransactionCommand::Unwatch, OK),
        ] {
            match UnplacedTransaction::begin(verb, REFUSAL) {
                Begun::Reply(reply) => assert_eq!(reply, expected),
                Begun::Ok(_) => panic!("{verb:?} begins nothing"),
            }
        }
    }
}
