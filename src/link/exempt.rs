//! Lent connections that the server's own `timeout` must not end: nothing is sent on them, while directly the server would spare their
//! client, or would have heard from it.

use std::time::Duration;

use super::Link;
use crate::exchange::OwnReply;
use crate::resp::speak::encode_request;

/// Such a connection may be silent for so long. The server counts whole seconds, and its shortest `timeout` is one: what is silent for
/// less than a second it never ends.
const SILENT_FOR: Duration = Duration::from_millis(500);

impl Link {
    /// Says something to the server where nothing else is said on a connection that is to stay open: `HELLO`, which changes nothing and
    /// which no user's rules forbid (seen of Redis 6.2, 7.0 and 8.2, Valkey 8.1 and 9.1).
    pub fn keep_from_timeout(&self) {
        let now_ms = self.thread.clock.now_ms();
        let is_exempt = self.role.borrow().is_exempt(now_ms, SILENT_FOR);
        if is_exempt && self.takes_own_amid() && self.is_idle_for(SILENT_FOR) {
            self.send_own(&encode_request(&["HELLO"]), OwnReply::KeepAlive);
        }
    }

    /// Tells whether a request of respool's own would change nothing for the client it is lent to: it would neither be queued, nor use up
    /// what the client's next command needs.
    fn takes_own_amid(&self) -> bool {
        let role = self.role.borrow();
        let is_open = role
            .client()
            .is_some_and(|client| client.transaction().is_open());
        !is_open && !self.is_announcing() && !self.exchange.borrow().shows_commands()
    }
}
