//! MONITOR: the connection that is lent for it is its client's from then on.

use crate::client::story::{SlowRequest, Told};
use crate::client::{Client, Wait};
use crate::command::PinReason;
use crate::session::PinnedCommand;

impl Client {
    /// Tells MONITOR. Nothing is outstanding.
    pub(super) async fn monitor(&mut self, slow: &SlowRequest) -> Told {
        if let Some(link) = self.lent(slow, PinReason::Monitor).await? {
            self.use_pin(|pin| pin.queues_unsure = true);
            self.queue(
                &link,
                &slow.request(),
                slow.command(),
                PinnedCommand::Monitor,
            );
            // Its reply tells whether what follows on the connection are the commands of everybody.
            self.wait = Wait::Answers;
        }
        Ok(())
    }
}
