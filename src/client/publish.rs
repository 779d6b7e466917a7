//! PUBLISH of a message that is too much for some of those who would get it.
//!
//! The server closes the connection of a subscriber to whom one command brings more than it may hold for it. All
//! subscribers of a worker share one, so they are let go of before the message is sent. That is done to others, so it is done
//! only for a message that is really going to be sent: the request is here to its end, has as many words as it must, and the
//! server lets the client's user publish to the channel. What a transaction has queued is looked at when its EXEC comes,
//! unless that may come to nothing. Where nobody can tell beforehand nobody is closed: `fanout::suspicion` sees to the rest.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::oneshot;

use super::story::{Awaited, SlowRequest, Told};
use super::{Client, ClientsMessage, TellWorkers};
use crate::command::{CommandId, spec};
use crate::fanout::TopicKind;
use crate::thread::Thread;
use crate::upstream::Announcement;

/// Words of a request that publishes.
const WORDS: usize = 3;

/// The longest channel whose name is remembered until its message may be sent: clients subscribe to no longer ones in earnest.
const LONGEST_CHANNEL: usize = 4096;

/// Bounds the messages of one transaction that are remembered.
const MOST_QUEUED: usize = 64;

/// A message on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    kind: TopicKind,
    channel: Box<[u8]>,
    bytes: usize,
}

/// Messages that a transaction has queued.
#[derive(Debug, Clone, Default)]
pub(super) struct QueuedMessages(Vec<Message>);

impl QueuedMessages {
    /// The largest of each channel is remembered.
    fn remember(&mut self, message: Message) {
        let same = |one: &&mut Message| one.kind == message.kind && one.channel == message.channel;
        if let Some(known) = self.0.iter_mut().find(same) {
            known.bytes = known.bytes.max(message.bytes);
        } else if self.0.len() < MOST_QUEUED {
            self.0.push(message);
        }
    }

    /// Memory that they take.
    pub(super) fn held_bytes(&self) -> usize {
        let each = |message: &Message| size_of::<Message>() + message.channel.len();
        self.0.iter().map(each).sum()
    }
}

/// Returns what a command of this name publishes to.
fn publishes_to(command: Option<CommandId>) -> Option<TopicKind> {
    match spec(command?).name {
        "publish" => Some(TopicKind::Channel),
        "spublish" => Some(TopicKind::Shard),
        _ => None,
    }
}

/// Reaches all workers with what is to be known of messages.
struct Workers {
    tell_workers: TellWorkers,
    thread: Rc<Thread>,
    limit: Duration,
}

impl Workers {
    /// Tells whether a message is too much for anybody.
    async fn weigh(&self, message: &Message) -> bool {
        let is_heavy = Arc::new(AtomicBool::new(false));
        self.tell(message, Some(Arc::clone(&is_heavy))).await;
        is_heavy.load(Ordering::Acquire)
    }

    /// Has everybody let go of whom a message is too much for.
    async fn make_ready(&self, message: &Message) {
        self.tell(message, None).await;
    }

    async fn tell(&self, message: &Message, weighed: Option<Arc<AtomicBool>>) {
        let (_done, told) = oneshot::channel();
        let announcement = Announcement {
            kind: message.kind,
            channel: message.channel.clone(),
            bytes: message.bytes,
            weighed,
            _done,
        };
        let message = ClientsMessage::Announce(Arc::new(announcement));
        self.tell_workers.tell_all(&message);
        // Those who are told hold the rest of it: the wait ends when the last of them is done with it.
        drop(message);
        // A server that does not answer meanwhile may have lost the connection in question anyhow.
        let _ = self.thread.within(self.limit, told).await;
    }
}

impl Client {
    /// Tells whether a request of `length` bytes may have to be announced before it is sent.
    #[inline]
    pub(super) fn is_weighty(&self, command: Option<CommandId>, length: usize) -> bool {
        self.clients.thread.process.weights.may_overwhelm(length) && publishes_to(command).is_some()
    }

    /// The message of a request that is too much for somebody, perhaps, and has the words it must have; `length` is what all of it
    /// measures, and `words` how many it has.
    pub(super) fn weighty_message(
        &self,
        command: Option<CommandId>,
        channel: Option<&[u8]>,
        (words, length): (usize, usize),
    ) -> Option<Message> {
        if !self.is_weighty(command, length) || words != WORDS {
            return None;
        }
        let channel = channel.filter(|channel| channel.len() <= LONGEST_CHANNEL)?;
        Some(Message {
            kind: publishes_to(command)?,
            channel: channel.into(),
            bytes: length,
        })
    }

    /// Tells a request that may publish what is too much for somebody, who are made ready for it first. Nothing is outstanding.
    pub(super) async fn publish(&mut self, slow: &SlowRequest) -> Told {
        let request = slow.request();
        let size = (request.count(), slow.length());
        let message = self.weighty_message(slow.command(), request.argument(1), size);
        if let Some(message) = message.and_then(|message| self.queue_message(message)) {
            self.make_ready_for(message).await?;
        }
        self.send_plain(slow).await
    }

    /// Remembers a message that an open transaction queues until its EXEC. `Some`: none is open.
    pub(super) fn queue_message(&mut self, message: Message) -> Option<Message> {
        let Some(pin) = &mut self.pin else {
            return Some(message);
        };
        if !self.outlet.transaction().is_open() {
            return Some(message);
        }
        pin.messages.get_or_insert_default().remember(message);
        self.note_kept(0);
        None
    }

    /// Makes everybody ready for a message that is about to be sent, if the server lets it be published.
    pub(super) async fn make_ready_for(&mut self, message: Message) -> Told {
        let workers = self.workers();
        let (upstream, group) = (Rc::clone(&self.clients.upstream), self.group());
        let state = self.session.state.clone();
        let making = async move {
            let (kind, channel) = (message.kind, &message.channel);
            if workers.weigh(&message).await
                && upstream.may_publish(group, state, kind, channel).await
            {
                workers.make_ready(&message).await;
            }
        };
        self.meanwhile(making, Awaited::Loan).await
    }

    /// Makes everybody ready for what an EXEC is about to publish. Nothing is outstanding: it is known whether all of it was queued.
    pub(super) async fn make_ready_for_queued(&mut self) -> Told {
        let queued = self.pin.as_mut().and_then(|pin| pin.messages.take());
        let Some(queued) = queued else {
            return Ok(());
        };
        if self.outlet.transaction().is_certain() {
            let workers = self.workers();
            let making = async move {
                for message in &queued.0 {
                    workers.make_ready(message).await;
                }
            };
            self.meanwhile(making, Awaited::Server).await?;
        }
        self.note_kept(0);
        Ok(())
    }

    fn workers(&self) -> Workers {
        let thread = Rc::clone(&self.clients.thread);
        Workers {
            tell_workers: Arc::clone(&self.clients.tell_workers),
            limit: thread.settings().upstream.queue.timeout,
            thread,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_message_of_each_channel_is_remembered_and_no_more_than_so_many() {
        let message = |channel: String, bytes| Message {
            kind: TopicKind::Channel,
            channel: channel.into_bytes().into(),
            bytes,
        };
        let mut queued = QueuedMessages::default();
        for bytes in [2, 3, 1] {
            queued.remember(message("one".to_owned(), bytes));
        }
        assert_eq!(queued.0, [message("one".to_owned(), 3)]);
        (0..2 * MOST_QUEUED).for_each(|at| queued.remember(message(at.to_string(), 1)));
        assert_eq!(queued.0.len(), MOST_QUEUED);
        queued.remember(message("one".to_owned(), 4));
        assert_eq!(queued.0[0].bytes, 4);
    }
}
