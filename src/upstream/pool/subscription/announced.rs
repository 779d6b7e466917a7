//! Large messages of respool's own clients are told to every worker before the server is sent them.
//!
//! Invariant: when the last worker lets go of an [`Announcement`] the server has let go of those whom its message is too much
//! for, and would lose no connection of subscribers by it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::oneshot;

use super::Subscriptions;
use crate::fanout::TopicKind;
use crate::telemetry::Disconnect;
use crate::upstream::pool::Upstream;

/// Waits for the server to pass a mark.
pub(super) enum MarkedWait {
    /// A message waits that is not sent before.
    Message(#[expect(dead_code, reason = "it is let go of")] Arc<Announcement>),
    /// A client waits that is answered behind the messages before the mark.
    Client(#[expect(dead_code, reason = "its other end learns of its drop")] oneshot::Sender<()>),
}

/// Is a message that is about to be sent. Who waits for it to be dropped is told by the other end of `_done`.
#[derive(Debug)]
pub struct Announcement {
    /// It is of a channel, or a shard channel.
    pub kind: TopicKind,
    /// It is sent to this channel.
    pub channel: Box<[u8]>,
    /// It measures this much.
    pub bytes: usize,
    /// Nobody is let go of yet: this is set where the message would be too much for somebody.
    pub weighed: Option<Arc<AtomicBool>>,
    /// It is dropped with the message.
    pub _done: oneshot::Sender<()>,
}

impl Subscriptions {
    /// Takes in that a message is about to be sent: those whom it is too much for are closed, as the server would close them.
    fn announced(&self, announcement: Arc<Announcement>) {
        let limit = self.thread.settings().limits.pubsub_buffer;
        let Announcement {
            kind,
            channel,
            bytes,
            weighed,
            ..
        } = &*announcement;
        let overwhelmed = self
            .fanout
            .borrow()
            .overwhelmed(*kind, channel, *bytes, limit);
        if overwhelmed.is_empty() {
            return;
        }
        if let Some(weighed) = weighed {
            return weighed.store(true, Ordering::Release);
        }
        for client in overwhelmed {
            client.handle.close(Disconnect::PubsubBuffer);
            self.abandon_command(client.subscriber);
            let mut fanout = self.fanout.borrow_mut();
            fanout.take_out(client.subscriber, &client.topics);
        }
        if self.fanout.borrow_mut().mark() {
            let marked = MarkedWait::Message(announcement);
            self.marked.borrow_mut().push_back(marked);
        }
        self.turn();
    }

    /// Asks the server for a mark on the connection of messages. The receiver ends when those before it have been placed; `None`:
    /// there is no connection, and none are under way.
    pub fn mark_messages(&self) -> Option<oneshot::Receiver<()>> {
        if !self.fanout.borrow_mut().mark() {
            return None;
        }
        let (told, passed) = oneshot::channel();
        self.marked.borrow_mut().push_back(MarkedWait::Client(told));
        self.turn();
        Some(passed)
    }

    /// Lets go of what the server is ready for.
    pub(super) fn pass_marks(&self) {
        let passed = self.fanout.borrow_mut().take_marks();
        let mut marked = self.marked.borrow_mut();
        let passed = passed.min(marked.len());
        marked.drain(..passed);
    }

    /// Tells the other workers how many patterns there are.
    pub(super) fn tell_patterns(&self) {
        let has = self.fanout.borrow().patterns();
        let had = self.patterns.replace(has);
        if had != has {
            self.thread.process.weights.change_patterns(had, has);
        }
    }
}

impl Upstream {
    /// Takes in that a client of any worker is about to send a message.
    pub fn announced(&self, announcement: &Arc<Announcement>) {
        for some in self.both_subscriptions() {
            some.announced(Arc::clone(announcement));
        }
    }
}
