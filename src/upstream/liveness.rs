//! Whether a connection to the server is still there: replies that do not come, and a PING where none are due.

use std::time::Duration;

use super::link::Link;
use super::traffic::{Due, OwnReply};
use crate::resp::speak::encode_request;
use crate::telemetry::{Bound, LossCause};

impl Link {
    /// Closes the connection when replies have been due for `limit` without a byte of them coming. A blocking call may
    /// take its time.
    pub fn check_progress(&self, limit: Duration) {
        let inner = self.inner.borrow();
        let (waits, cause) = match inner.due.front() {
            None => return,
            Some(due) if due.is_blocking() => return,
            Some(due) => {
                // What respool asks by itself it asks of connections that are idle.
                let cause = match due {
                    Due::Own { .. } => LossCause::HalfOpen,
                    Due::Client { .. } => LossCause::Timeout,
                };
                (!self.is_raw() && !self.is_partial(), cause)
            }
        };
        if waits && self.thread.clock.is_past(inner.progress_micros, limit) {
            self.thread.counters.bound(Bound::ReplyTimeout).add(1);
            if let Some(Due::Own {
                reply: OwnReply::Pong(_),
                ..
            }) = inner.due.front()
            {
                self.thread.counters.unanswered_pings.add(1);
                return self.lose(cause, "no answer to PING within upstream.reply_timeout");
            }
            self.lose(cause, "no reply within upstream.reply_timeout");
        }
    }

    /// Asks the server whether it is still there, when nothing has come or gone for `interval` and nothing is due. Its
    /// answer is awaited as any reply is.
    pub fn ping_if_idle(&self, interval: Duration) {
        let is_idle = {
            let inner = self.inner.borrow();
            inner.due.is_empty()
                && inner.written == inner.out.len()
                && self.thread.clock.is_past(inner.progress_micros, interval)
        };
        if is_idle && self.is_alive() && !self.is_raw() && !self.is_partial() {
            let asked = self.thread.clock.refresh();
            self.send_own(&encode_request(&["PING"]), OwnReply::Pong(asked));
        }
    }
}
