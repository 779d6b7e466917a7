//! CLIENT CACHING ends with the next command of its client, whoever answers that.

use std::rc::Rc;

use super::{Client, Next};
use crate::command::{CommandId, Learned, PinReason, spec};
use crate::link::Link;
use crate::resp::Request;
use crate::session::Routed;

/// Tells whether the server lets CLIENT CACHING outlive this command: all of CLIENT, of which it is one itself.
fn leaves_caching(command: Option<CommandId>) -> bool {
    command.is_some_and(|id| spec(id).name.split('|').next() == Some("client"))
}

impl Client {
    /// One request that does not simply join a run. `rest` starts with it.
    pub(super) fn request(
        &mut self,
        request: &Request<'_>,
        routed: Routed,
        rest: &[u8],
        learned: Option<&Learned>,
    ) -> Next {
        let announcing = self.announcing();
        let command = routed.command;
        let next = self.request_alone(request, &routed, rest, learned);
        if next == Next::Lend(PinReason::Stalled) {
            // It is not for this request alone: what is at hand behind it goes there as well.
            self.then(async |client: &mut Self| {
                client.borrow(PinReason::Stalled).await?;
                client.use_input();
                Ok(())
            });
            return Next::Wait;
        }
        if self.takes_a_story(&next, &routed) {
            return Next::Slow(Box::new(routed));
        }
        if matches!(next, Next::Used(1..)) {
            self.caching_ends(announcing, command);
        }
        next
    }

    /// A command has been sent, or answered, and CLIENT CACHING on this connection before it.
    pub(super) fn caching_ends(&self, announcing: Option<Rc<Link>>, command: Option<CommandId>) {
        if let Some(link) = announcing {
            self.end_caching(&link, command);
        }
    }

    /// The connection on which CLIENT CACHING was sent last.
    pub(super) fn announcing(&self) -> Option<Rc<Link>> {
        let link = self.pin.as_ref()?.link();
        link.is_announcing().then(|| Rc::clone(link))
    }

    /// The command behind CLIENT CACHING has been sent, or answered.
    fn end_caching(&self, link: &Link, command: Option<CommandId>) {
        if leaves_caching(command) {
            link.set_announcing();
        } else if link.is_announcing() && !self.in_multi() {
            link.end_announcing();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::lookup;

    #[test]
    fn only_client_leaves_it() {
        assert!(leaves_caching(lookup(b"client")));
        for name in ["get", "select", "hello", "readonly", "subscribe", "auth"] {
            assert!(lookup(name.as_bytes()).is_some(), "{name}");
            assert!(!leaves_caching(lookup(name.as_bytes())), "{name}");
        }
        assert!(!leaves_caching(None));
    }
}
