//! Decides what becomes of a request to subscribe that the server refuses.
//!
//! Invariant: whoever waits for the server's confirmation gets the server's error; what somebody is subscribed to already is lost
//! only where the user may not have it, and else asked for again.

use std::collections::HashSet;
use std::rc::Rc;

use super::topic::TopicPhase;
use super::{PendingRequest, RequestPurpose, TopicFanout};
use crate::memory::ShrinkingTable;
use crate::texts::is_no_permission;

impl<T: Clone> TopicFanout<T> {
    /// Does what the server's refusal of a request to subscribe asks for. A user that may not (`NOPERM`) will not be let
    /// later either. Any other reason is none of the topics' (a script runs, the command is renamed): clients that wait are
    /// told so, as directly, and what is established is asked for again until the reason has passed, whoever the request was
    /// made for.
    pub(super) fn refused_for(&mut self, asked: &mut PendingRequest<T>, error: &[u8]) {
        if !is_no_permission(error) {
            let established = self.take_established(asked);
            self.put_off_established(asked, established, error);
        }
        if !asked.topics.is_empty() {
            self.refuse(asked, error);
        }
    }

    /// Takes those out of a request's topics that somebody is subscribed to.
    fn take_established(&self, asked: &mut PendingRequest<T>) -> Vec<Rc<[u8]>> {
        let topics = &self.topics[asked.kind as usize];
        let is_established = |name: &mut Rc<[u8]>| {
            topics
                .get(name)
                .is_some_and(|topic| !topic.subscribers.is_empty())
        };
        asked.topics.extract_if(.., is_established).collect()
    }

    /// Asks again later for what somebody is subscribed to. Who waits to be subscribed to it as well is told the error.
    fn put_off_established(
        &mut self,
        asked: &PendingRequest<T>,
        names: Vec<Rc<[u8]>>,
        error: &[u8],
    ) {
        if names.is_empty() {
            return;
        }
        let kind = asked.kind;
        let established: HashSet<&Rc<[u8]>> = names.iter().collect();
        self.fail(
            |command| {
                let mut topics = command.topics.iter();
                command.kind == kind && topics.any(|name| established.contains(name))
            },
            error,
        );
        self.put_off(kind, names);
    }

    /// Finds who is to be told that a request was refused. Which of its topics is to blame is known if it had only one. Of
    /// several, the client whose command it was gets the error; what others need of them is asked for again, one by one.
    fn refuse(&mut self, asked: &PendingRequest<T>, error: &[u8]) {
        let kind = asked.kind;
        if let [name] = &asked.topics[..] {
            self.fail(
                |command| command.kind == kind && command.topics.contains(name),
                error,
            );
            let refused = self.topics[kind as usize].remove(name);
            self.topics[kind as usize].give_back();
            if self.holds_on {
                self.put_off
                    .push((kind, RequestPurpose::Unsubscribe, vec![Rc::clone(name)]));
            }
            // Subscribed to before a loss, and refused when asked for again.
            for (subscriber, handle) in refused.into_iter().flat_map(|topic| topic.subscribers) {
                self.forget(subscriber, kind, name);
                self.unrenewed.push(handle);
            }
            return;
        }
        let number = asked.number;
        if let Some(by) = asked.by
            && self
                .commands
                .get(&by)
                .is_some_and(|command| command.until >= number)
        {
            self.fail_one(by, error);
        }
        for name in &asked.topics {
            let next = self.next_number;
            let Some(topic) = self.topics[kind as usize].get_mut(name) else {
                continue;
            };
            if topic.phase != TopicPhase::Asked(number) {
                continue;
            }
            if topic.awaited == 0 && topic.subscribers.is_empty() {
                self.topics[kind as usize].remove(name);
                self.topics[kind as usize].give_back();
                if self.holds_on {
                    self.put_off
                        .push((kind, RequestPurpose::Unsubscribe, vec![Rc::clone(name)]));
                }
            } else {
                topic.phase = TopicPhase::Asked(next);
                self.ask(kind, RequestPurpose::Subscribe, vec![Rc::clone(name)], None);
            }
        }
        for subscriber in self.waiting.remove(&number).unwrap_or_default() {
            self.wait_anew(subscriber);
        }
    }
}
