//! What is due on a connection that a pause of the server, or a script, may hold up.

use super::Link;

impl Link {
    /// Tells whether something is due on it that a pause of writes holds back.
    #[inline]
    pub fn owes_write(&self) -> bool {
        self.exchange.borrow().owes_write()
    }

    /// Tells since when the write that it owes next has not been answered, if it is stalled by one.
    pub fn held_since(&self) -> Option<u64> {
        let since = {
            let exchange = self.exchange.borrow();
            let may_be_held = exchange.next_delays().may_pause();
            exchange.silent_since().filter(|_| may_be_held)
        };
        since.filter(|_| self.is_stalled())
    }

    /// Tells since when what it owes next has not been answered, if it is stalled by what the server may work on: a script may be read-only.
    pub fn worked_on_since(&self) -> Option<u64> {
        let since = {
            let exchange = self.exchange.borrow();
            let may_work = exchange.next_delays().may_work();
            exchange.silent_since().filter(|_| may_work)
        };
        since.filter(|_| self.is_stalled())
    }

    /// Tells whether it owes something that may be the script which keeps the server busy: the server has said so since then, and has begun no
    /// other since. `None`: it does not say so.
    pub fn may_owe_script(&self, busy_since: Option<u64>) -> bool {
        self.exchange.borrow().owes_work(busy_since)
    }

    /// Tells whether it is stalled as it would be by a pause, and by nothing else: a command that the server works on for long is more
    /// likely to be worked on, and what is sent behind it then waits where others are told BUSY.
    pub fn may_be_paused(&self) -> bool {
        let may_work = self.exchange.borrow().next_delays().may_work();
        self.held_since().is_some() && !may_work
    }
}
