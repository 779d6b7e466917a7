//! SCRIPT DEBUG on a connection lent to a client: what it leaves there, which RESET does not undo, and the debugger that the
//! connection may turn into.

use super::Link;
use crate::resp::speak::encode_request;

impl Link {
    /// Says whether SCRIPT DEBUG may be on: nobody else is to have the connection until it is off.
    pub fn set_may_debug(&self, may_debug: bool) {
        self.traces.set_may_debug(may_debug);
    }

    /// Tells whether SCRIPT DEBUG may be on.
    pub fn may_debug(&self) -> bool {
        self.traces.may_debug()
    }

    /// Switches SCRIPT DEBUG off, as the client's user, who may. Whether it is off is known only by the answer. A connection that is
    /// closed with it on may take a server along: Valkey 9.1 goes on to debug whoever it gives the same memory to.
    pub async fn debugs_no_more(&self) -> bool {
        let request = encode_request(&["SCRIPT", "DEBUG", "NO"]);
        let is_off = self
            .ask(&request)
            .await
            .is_ok_and(|reply| reply.starts_with(b"+OK"));
        if is_off {
            self.set_may_debug(false);
        }
        is_off
    }

    /// Tells whether it carries the session of a debugger: what its client sends is no request, and what comes is no reply.
    pub fn is_debugging(&self) -> bool {
        self.exchange.borrow().is_debugging()
    }
}
