//! WATCH, MULTI and EXEC of one client on its pinned connection, as the server's answers tell it.

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
    /// SELECT of this database inside MULTI.
    Select(u32),
}

/// Most SELECTs remembered of one transaction; one with more keeps its connection to itself.
const MAX_SELECTS: usize = 64;

/// The transaction state of one connection.
#[derive(Debug, Default)]
pub struct Transaction {
    /// MULTI was answered, EXEC or DISCARD was not.
    pub open: bool,
    /// Keys are watched.
    pub watching: bool,
    /// Databases selected by queued commands, in order.
    queued: Vec<u32>,
    /// More were than are remembered: nobody can tell any more which database the connection is in.
    unknown_database: bool,
    /// Databases the last EXEC may have selected; the last that exists is the one the connection is in.
    pub selected: Vec<u32>,
}

impl Transaction {
    /// The server answered `verb`; `head` starts with the reply's first line.
    pub fn answered(&mut self, verb: Verb, head: &[u8]) {
        let is_ok = head.first() == Some(&b'+');
        match verb {
            Verb::Multi if is_ok => self.open = true,
            Verb::Watch if is_ok => self.watching = true,
            // Inside MULTI it is only queued, and EXEC unwatches anyway.
            Verb::Unwatch if is_ok && !self.open => self.watching = false,
            Verb::Discard if is_ok => self.end(),
            // Whatever EXEC answers ends the transaction, except outside of one, where only the error is new.
            Verb::Exec if self.open => {
                let queued = std::mem::take(&mut self.queued);
                if head.starts_with(b"*") && !head.starts_with(b"*-1") {
                    self.selected = queued;
                }
                self.end();
            }
            Verb::Select(database) if is_ok && self.open => {
                if self.queued.len() < MAX_SELECTS {
                    self.queued.push(database);
                } else {
                    self.unknown_database = true;
                }
            }
            _ => {}
        }
    }

    /// Whether the connection holds nothing of this client's.
    pub fn is_clear(&self) -> bool {
        !self.open && !self.watching && !self.unknown_database && self.selected.is_empty()
    }

    fn end(&mut self) {
        self.open = false;
        self.watching = false;
        self.queued.clear();
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
        for (reply, selected) in [
            (&b"*2\r\n"[..], vec![3, 9]),
            (b"*-1\r\n", vec![]),
            (b"_\r\n", vec![]),
            (b"-EXECABORT\r\n", vec![]),
        ] {
            let mut tx = Transaction::default();
            tx.answered(Verb::Multi, b"+OK\r\n");
            tx.answered(Verb::Select(3), b"+QUEUED\r\n");
            tx.answered(Verb::Select(9), b"+QUEUED\r\n");
            tx.answered(Verb::Exec, reply);
            assert_eq!(tx.selected, selected);
        }
    }
}
