//! What the server is still to be asked for, or to answer, that nobody wants any more: there is a bound to it, since what was asked for a
//! client stays asked when the client has gone.

use super::topic::TopicPhase;
use super::{COPIES, PendingRequest, RequestPurpose, TOPIC_BYTES, TopicFanout, TopicKind};

/// The server is asked for nothing new while what it has not answered, and nobody wants, takes so much memory: some ten thousand channels.
const MOST_UNWANTED_BYTES: usize = 4 * 1024 * 1024;

impl<T> PendingRequest<T> {
    fn is_unwanted(&self) -> bool {
        match self.what {
            RequestPurpose::Subscribe => self.is_abandoned,
            RequestPurpose::Unsubscribe => self.parting.is_none(),
            RequestPurpose::Ping | RequestPurpose::Login | RequestPurpose::Mark => false,
        }
    }

    /// Returns the memory that it takes until the server has answered it.
    fn held_bytes(&self) -> usize {
        let names: usize = self.topics.iter().map(|name| name.len()).sum();
        let entry = match self.what {
            RequestPurpose::Subscribe => TOPIC_BYTES,
            // They are in no table any more.
            _ => 2 * size_of::<std::rc::Rc<[u8]>>(),
        };
        size_of::<Self>() + COPIES * names + entry * self.topics.len()
    }

    /// Counts it in `unwanted`, or not any more, by who wants it now.
    pub(super) fn recount(&mut self, unwanted: &mut usize) {
        *unwanted = unwanted.saturating_sub(self.unwanted_bytes);
        self.unwanted_bytes = match self.is_unwanted() {
            true => self.held_bytes(),
            false => 0,
        };
        *unwanted += self.unwanted_bytes;
    }
}

impl<T: Clone> TopicFanout<T> {
    /// Tells whether the server may be asked for something new. Otherwise it may when it has answered.
    pub fn may_ask(&self) -> bool {
        self.unwanted_bytes <= MOST_UNWANTED_BYTES
    }

    /// Returns the memory of what the server has not answered and nobody wants.
    pub fn unwanted_bytes(&self) -> usize {
        self.unwanted_bytes
    }

    /// Tells whether the server has confirmed a topic already: nothing is asked for it.
    pub fn is_confirmed(&self, kind: TopicKind, name: &[u8]) -> bool {
        let topic = self.topics[kind as usize].get(name);
        topic.is_some_and(|topic| topic.phase == TopicPhase::Active)
    }

    pub(super) fn note_asked(&mut self, mut request: PendingRequest<T>) {
        request.recount(&mut self.unwanted_bytes);
        self.asked.push_back(request);
    }

    /// Takes out the request that the server answers.
    pub(super) fn take_answered(&mut self) -> Option<PendingRequest<T>> {
        let answered = self.asked.pop_front()?;
        self.unwanted_bytes = self.unwanted_bytes.saturating_sub(answered.unwanted_bytes);
        Some(answered)
    }

    /// Takes out all requests: the server answers none of them.
    pub(super) fn take_asked(&mut self) -> impl Iterator<Item = PendingRequest<T>> + use<T> {
        self.unwanted_bytes = 0;
        std::mem::take(&mut self.asked).into_iter()
    }
}
