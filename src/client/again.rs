//! What a connection lost before any byte of it was sent is sent again, on another.

use super::Client;
use crate::command::Delays;

impl Client {
    /// Sends again what came back unsent, on whatever connection serves the session's state now.
    pub(super) fn send_again(&mut self) {
        if self
            .link
            .as_ref()
            .is_some_and(|link| !self.clients.upstream.serves(link, &self.session.state))
        {
            self.link = None;
        }
        if self.link.is_none() {
            let upstream = &self.clients.upstream;
            self.link = upstream.shared_for(&self.session.state, Delays::PAUSE);
        }
        let Some(link) = self.link.clone() else {
            let commands = self.outlet.unsent_count();
            let upstream = &self.clients.upstream;
            let wait = upstream.wait_shared(&self.session.state, commands);
            return self.then(async move |client: &mut Self| {
                match client.served_by(wait, None).await? {
                    Ok(link) => client.link = link,
                    Err(reply) => {
                        client.outlet.fail_unsent(&client.unsent_reply(&reply));
                        client.end_if_lost(&reply);
                    }
                }
                Ok(())
            });
        };
        let mut sent = 0;
        for unsent in self.outlet.take_unsent() {
            sent += unsent.count;
            link.send_again(&self.outlet, unsent);
        }
        // Counted when all are sent: counting may change the connection's state behind them.
        self.clients.upstream.served(&link, sent);
    }
}
