//! PUBLISH of a message that is too much for some of those who would get it.
//!
//! The server closes the connection of a subscriber to whom one command brings more than it may hold for it. All
//! subscribers of a worker share one, so they are let go of before the message is sent.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::requests::Next;
use super::site::Errand;
use super::task::{Client, Done, Wait};
use crate::command::{CommandId, spec};
use crate::fanout::Kind;
use crate::upstream::Announcement;

/// What a command of this name publishes to.
fn publishes_to(command: Option<CommandId>) -> Option<Kind> {
    match spec(command?).name {
        "publish" => Some(Kind::Channel),
        "spublish" => Some(Kind::Shard),
        _ => None,
    }
}

impl Client {
    /// Whether a request of `length` bytes may have to be announced before it is sent.
    #[inline]
    pub(super) fn is_weighty(&self, command: Option<CommandId>, length: usize) -> bool {
        self.site.thread.process.weights.may_overwhelm(length) && publishes_to(command).is_some()
    }

    /// Tells every worker of the message that a request of `length` bytes publishes, once. `None`: it can be sent.
    pub(super) fn announce(
        &mut self,
        command: Option<CommandId>,
        channel: Option<&[u8]>,
        length: usize,
    ) -> Option<Next> {
        if !self.is_weighty(command, length) || std::mem::take(&mut self.is_announced) {
            return None;
        }
        let (kind, channel) = (publishes_to(command)?, channel?);
        let (_done, told) = oneshot::channel();
        let announcement = Announcement {
            kind,
            channel: channel.into(),
            bytes: length,
            _done,
        };
        (self.site.errands)(Errand::Announce(Arc::new(announcement)));
        let thread = std::rc::Rc::clone(&self.site.thread);
        let limit = thread.settings().upstream.queue.timeout;
        self.wait = Wait::Task(Box::pin(async move {
            // A server that does not answer meanwhile may have lost the connection in question anyhow.
            let _ = thread.within(limit, told).await;
            Done::Announced
        }));
        Some(Next::Wait)
    }
}
