//! What the server answers to the steps of a change of the connection's state.

use super::Link;
use crate::session::{Effect, State};
use crate::texts::is_busy;

impl Link {
    /// Tells whether it is in `target` but for its database, which a busy server does not change: a login is not about that, and the next
    /// command is told that the server is busy.
    pub fn is_logged_in(&self, target: &State) -> bool {
        let state = self.state();
        state.user == target.user && state.protocol == target.protocol
    }

    /// Takes in what the server has answered to a step.
    pub(super) fn stepped(&self, effect: &Effect, reply: Vec<u8>) {
        if !effect.is_answered_by(&reply) {
            // Whatever this answers, it is not the change: nothing on this connection can be told any more.
            return self.close("the server answered a change of state with something else");
        }
        let refused = reply.first() == Some(&b'-');
        // What the connection holds is not known any more; or, while a script runs, it stays without its name.
        let is_lost = match effect {
            Effect::Reset | Effect::User(None) => refused,
            Effect::Named => is_busy(&reply),
            _ => false,
        };
        if is_lost {
            self.close("the server refused to reset the connection");
        }
        if !refused {
            if matches!(effect, Effect::User(None)) {
                let now = self.thread.clock.now_micros();
                match self.thread.process.login().expires() {
                    // It may have been opened by a secret that does not.
                    true => {
                        let after = self.thread.settings().upstream.reauthenticate_after;
                        self.renewal.begin(after, now);
                    }
                    false => self.renewal.renewed(now),
                }
            }
            effect.apply(&mut self.state.borrow_mut());
        }
        let done = self.exchange.borrow_mut().stepped(effect, reply);
        if let Some((done, result)) = done {
            done(result);
        }
    }
}
